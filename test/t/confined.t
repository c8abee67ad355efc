#!/bin/sh
# See LICENSE file for copyright and license details.
#
# What a helper that serves may still do (confine.c): seen from outside, and
# tried from inside by a helper with one object more (test/confined.c), each
# with the libc of the static binary and with the system's.
# test/vm/case/host.sh does the same where there are disks and maps.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=test/tap.sh
. test/tap.sh
# shellcheck source=test/confined.sh
. test/confined.sh
top=$(pwd)
prc=$top/test/prc
make -s -C test prc confined >&2 || exit 1

tmp=$(mktemp -d)
pid=
trap 'kill -9 $pid 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$tmp/glibc/test" "$tmp/run" "$tmp/cwd"
cp ./*.c ./*.h Makefile config.mk "$tmp/glibc"
cp test/Makefile test/confined.c "$tmp/glibc/test"
make -s -C "$tmp/glibc" CC=gcc LDFLAGS= LIBS=-ldevmapper >&2 || exit 1
make -s -C "$tmp/glibc/test" CC=gcc LDFLAGS= DM=-ldevmapper confined >&2 ||
	exit 1
cd "$tmp/cwd" || exit 1
sock=$tmp/run/sock
err=$tmp/err

answers() {
	[ "$(timeout 5 "$prc" "$sock" /dev/null 5e 2>/dev/null)" = \
		'02 5/20/00 -' ]
}

# up COMMAND...: start it, wait until it serves
up() {
	"$@" -v -k "$sock" 2>"$err" &
	pid=$!
	within 20 answers
}

# down: it ends well
down() {
	kill "$pid"
	wait "$pid"
	status=$?
	pid=
	return $status
}

# each FIELD: print it, of all threads, each different value once
each() {
	sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/task"/*/status | sort -u
}

# at_once: a worker that is never done is refused a call, and it is said
at_once() {
	"$prc" -qn 100000000 "$sock" /dev/null 5e1f20 &
	client=$!
	within 20 grep -q 'system call 59 ' "$err"
	status=$?
	kill $client
	wait $client 2>/dev/null
	return $status
}

### What this kernel has

ok 'it serves' up "$top/prhelper"
down
case $(uname -m) in x86_64) ;; *) unlimited=calls ;; esac
! grep -q 'files are not limited' "$err" || unlimited="$unlimited files"
diag "not limited here: ${unlimited:-nothing}"

for libc in musl glibc; do
	dir=$top
	[ $libc = musl ] || dir=$tmp/$libc

	kind="$libc, from outside"
	ok "$kind: it serves" up "$dir/prhelper"
	is "$(each NoNewPrivs)" 1 "$kind: no_new_privs"
	[ "$unlimited" ] || is "$(each Seccomp)" 2 "$kind: seccomp"
	ok "$kind: ... of more than one thread" \
		test "$(find "/proc/$pid/task" -maxdepth 1 | wc -l)" -gt 2
	like "$(grep core "/proc/$pid/limits")" '*size  * 0  * 0  *' \
		"$kind: no core"
	setpriv --bounding-set -sys_ptrace readlink "/proc/$pid/fd/2" \
		>/dev/null 2>&1
	ok "$kind: not dumpable: shut to root, too" test $? -ne 0
	ok "$kind: clean end" down
	is "$(grep -v stopping "$err")" '' "$kind: nothing is said"

	kind="$libc, from inside"
	bait
	# A signal mask is inherited; a blocked SIGSYS would kill.
	ok "$kind: it serves" up env --block-signal=SYS "$dir/test/confined"
	[ "$unlimited" ] || ok "$kind: it is said at once" at_once
	attempts "$prc" "$sock" /dev/null
	kill -s SYS "$pid"
	ok "$kind: a SIGSYS that was sent is no harm" answers
	ok "$kind: clean end" down
	[ "$unlimited" ] ||
		is "$(said "$err")" "$all_said" "$kind: each is said once"
done

kind='glibc, the wire tests'
# GROWTH: it needs more memory than the static one, as the watched ones do
GROWTH=4096 PRHELPER=$tmp/glibc/prhelper "$top/test/t/wire.t" \
	>"$tmp/wire" 2>&1
is $? 0 "$kind: all of them"
grep -v '^ok' "$tmp/wire" | sed 's/^/# /'

### A kernel, or a container, that lets us do none of it

# forbidden WHAT ERRNO CALL...: those fail; one line says so
forbidden() {
	what=$1 with=$2
	shift 2
	kind="$* $with"
	calls=$(echo "$*" | tr ' ' ,)
	ok "$kind: it serves" up strace -D -qq -f -o /dev/null \
		-e "trace=$calls" -e "inject=$calls:error=$with" "$top/prhelper"
	ok "$kind: clean end" down
	like "$(wc -l <"$err") $(cat "$err")" \
		"2 prhelper: $what are not limited: *: *stopping" \
		"$kind: one line says so"
}

if [ "$unlimited" ]; then
	:
elif strace -D -qq -o /dev/null true; then
	forbidden 'system calls' EPERM seccomp
	forbidden files ENOSYS landlock_create_ruleset
	forbidden files EOPNOTSUPP landlock_create_ruleset
	forbidden files EPERM landlock_restrict_self
else
	diag 'no right to trace: a kernel without seccomp is not played'
fi
done_testing
