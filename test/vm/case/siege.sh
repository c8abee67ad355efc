#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Many at once: fifty clients of a disk that hangs, beside a guest that goes on;
# then requests without end on a plain disk and on a map whose paths come and
# go, each answer checked from a nexus of its own (../../siege.c). What the
# helper needs for it, it gives back.
# vm: -m 2048 -t 2400

# shellcheck source=test/vm/lib.sh
. /lib.sh

requests=8000
! long || requests=1000000

without_alua
lun b
lun c
plain=$(path b)
plain_witness=$(path b)
four_paths
iscsi_export c 127.0.0.3
hung=$(iscsi_login us c 127.0.0.3)
ok 'the helper starts' start_helper

# needs: print threads, descriptors and kB that the helper has
needs() {
	echo "$(status "$helper_pid" Threads)" \
		"$(find "/proc/$helper_pid/fd" ! -type d | wc -l)" \
		"$(status "$helper_pid" VmRSS | sed 's/ kB//')"
}

# few_threads: all but those who wait for the next one have left
few_threads() {
	[ "$(status "$helper_pid" Threads)" -le "$threads" ]
}

# as_before MAX: in the end it needs what it did, and MAX kB more at most
as_before() {
	within 30 few_threads || :
	# shellcheck disable=SC2046 # three words
	set -- "$1" $(needs)
	is "$2 $3" "$threads $descriptors" \
		"$kind: threads and descriptors as before"
	ok "$kind: memory as before" test "$4" -le $((memory + $1))
	diag "$kind: $memory kB resident before, $4 kB after"
}

# One command of each kind before it is measured
siege $socket 500 1 "$plain" "$plain_witness" $mp "$w" >&2
sleep 12
# shellcheck disable=SC2046 # three words
set -- $(needs)
threads=$1 descriptors=$2 memory=$3

### A disk that hangs

kind='50 clients of a disk that hangs'
hang c 127.0.0.3 15
for n in $(seq 50); do
	prc $socket "$hung" "$(in_cdb 0 8)" >"/tmp/hung.$n" &
	pids="${pids:-} $!"
	[ "$n" != 10 ] || impatient=$pids
done

fifty_hang() {
	[ "$(grep -l '^State:[[:space:]]*[DS]' \
		"/proc/$helper_pid"/task/*/status | wc -l)" -ge 50 ]
}

ok "$kind: a thread for each" within 10 fifty_hang
# shellcheck disable=SC2086 # each is a word
kill $impatient
for n in $(seq 20); do
	prin '00 - *' "another guest goes on: $n" "$plain" 0
done
start=$(ms)
prin '00 - *' 'and another' $mp 0
diag "$kind: the last one took $(($(ms) - start)) ms"
# shellcheck disable=SC2086 # each is a word
wait $pids
is "$(cat /tmp/hung.* | cut -d ' ' -f 1,2 | sort | uniq -c |
	sed 's/^ *//')" '40 02 b/08/00' "$kind: those who wait are told"
kind="$kind, afterwards"
as_before 64

### A client that was taken over

kind='a client that was taken over'
stop_helper
rm -f /tmp/said
start_helper 2>/tmp/said
ok "$kind: another host is registered on another disk" \
	raw_out "$plain_witness" 6 0 0 b
before=$(raw_in "$plain_witness" 0)
for action in 0 1 2 3 4 5 6 7 8 9 31; do
	for keys in '0 a' 'a b' 'a 0' 'b b' '0 b' 'b 0'; do
		# shellcheck disable=SC2086 # two words
		pr_out $mp "$action" 5 $keys >&2
	done
done
is "$(raw_in "$plain_witness" 0)" "$before" \
	"$kind: what it does to a map is not done to other disks"
raw_out "$plain_witness" 3 0 b 0 >&2
# Two that work together: one takes away the key of the other, again and again
start=$(ms)
for _ in $(seq 120); do
	pr_out $mp 6 0 0 a
	pr_out "$w" 6 0 0 c
	pr_out "$w" 4 5 c a
	pr_out $mp 0 0 a a
done >/tmp/told
is "$(sort /tmp/told | uniq -c | xargs)" '360 00 - 120 18 -' \
	"$kind: two of them, who fight for a key"
# Thirty in each minute that has begun, and the line that says so
warnings=$(wc -l </tmp/said)
ok "$kind: $warnings lines of warnings, so that no disk is filled" \
	test "$warnings" -le $((31 * (($(ms) - start) / 60000 + 2)))
ok "$kind: ... which say so" grep -q 'more are not shown' /tmp/said
pr_out $mp 6 0 0 a >&2
is "$(find $socket.state -type f ! -name '.*' | wc -l)" 1 \
	"$kind: one file for the map"
ok "$kind: ... which is small" test "$(du -k $socket.state | cut -f 1)" -le 16
pr_out "$w" 3 0 c 0 >&2
stop_helper
start_helper

### Requests without end

kind="$requests requests"

# flap: paths of the map come and go, one stays always
flap() {
	seed=1
	while [ ! -e /tmp/calm ]; do
		seed=$(((seed * 1103515245 + 12345) & 0x7fffffff))
		eval "d=\$p$(((seed >> 12) % 4 + 1))"
		offline "$d"
		usleep $((100000 + (seed >> 8) % 900000))
		running "$d"
		usleep 50000
		for f in $(failed mp); do
			reinstate mp "$f"
		done
		usleep $(((seed >> 10) % 500000))
		echo flap >>/tmp/flaps
	done
}

flap &
flaps=$!
start=$(ms)
told=$(siege $socket $requests 7 "$plain" "$plain_witness" $mp "$w")
is $? 0 "$kind: no wrong answer"
diag "$kind: $(echo "$told" | tail -n 1) in $(($(ms) - start)) ms"
[ "$(echo "$told" | wc -l)" = 1 ] || diag "$told"
: >/tmp/calm
wait $flaps
diag "$kind: $(wc -l </tmp/flaps) times a path went and returned"
ok "$kind: paths did" test -s /tmp/flaps
as_before 128
stop_helper
is $? 0 'exit status 0'
done_testing
