#!/bin/sh
# See LICENSE file for copyright and license details.
#
# What a request costs where no clock is needed to tell: system calls,
# instructions and memory, each against what it was when this was written.
# Who makes one of them worse should know why, and writes the new figure here.
# The size of the binary is in build.t, what disks and maps cost in
# ../vm/case/cost.sh.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
prc=test/prc
make -s -C test prc >&2

calls=4			# recvmsg, fstat, close, sendmsg
instructions=2000	# 1,910 with a margin of 5%
resident=240		# KB; 200, but how much of a file is mapped varies
anonymous=60		# KB of it that are no file; 56 with one worker

tmp=$(mktemp -d)
pid=
trap 'kill $pid 2>/dev/null || :; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
sock=$tmp/sock

up() {
	"$@" -k "$sock" 2>"$tmp/said" &
	pid=$!
	within 60 test -S "$sock"
}

# Whoever watches a helper may be its parent
down() {
	pkill -P "$pid" || kill "$pid"
	wait "$pid" || :
	pid=
}

ask() {
	[ "$("$prc" -qn "$1" "$sock" /dev/null 5e)" = '02 5/20/00 -' ]
}

# trace N: the lines of a trace of a helper that gets N requests
trace() {
	up strace -f -qq -o "$tmp/trace" ./prhelper
	ask "$1"
	down
	grep -vc resumed "$tmp/trace"
}

# watch N: instructions in user space for N requests
watch() {
	up valgrind --tool=callgrind --callgrind-out-file=/dev/null \
		"$tmp/prhelper"
	ask "$1"
	down
	sed -n 's/.*Collected : //p' "$tmp/said"
}

# each COMMAND: what one request more adds, by the difference of 1,000
each() {
	few=$($1 100)
	echo $((($($1 1100) - few + 500) / 1000))
}

is "$(each trace)" $calls 'system calls for each request'

# valgrind does not know the system calls that limit the others
echo 'void __wrap_confine(void); void __wrap_confine(void) { }' >"$tmp/off.c"
musl-gcc -c -o "$tmp/off.o" "$tmp/off.c"
make -s BIN="$tmp/prhelper" LIBS="$tmp/off.o -Wl,--wrap=confine $(
	)libdm/libdevmapper.a"
n=$(each watch)
ok "$n instructions for each request, at most $instructions" \
	test "$n" -le $instructions -a "$n" -gt 500

up ./prhelper
value() {
	sed -n "s/^$1:[[:space:]]*\([0-9]*\) kB/\1/p" "/proc/$pid/status"
}
ask 1
n=$(value VmRSS)
ok "$n KB resident, at most $resident" test "$n" -le $resident
n=$(value RssAnon)
ok "$n KB of that anonymous, at most $anonymous" test "$n" -le $anonymous
down
done_testing
