#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Multipath with a real network under it: PREEMPT AND ABORT, which deadlocks
# the kernel's target over tcm_loop, and paths that fall silent while the
# kernel takes them for well: who waits for them, and for how long. Times are
# generous, since the machine is emulated: silence for ever is the other case.

# shellcheck source=test/vm/lib.sh
. /lib.sh

# Host h1 has two paths to each logical unit, which are a map; h2 shares them.
# A target's address is 127.0.NUMBER.PATH.
n=0
for l in a b c; do
	n=$((n + 1))
	lun $l
	for i in 1 2 3; do
		iscsi_export $l 127.0.$n.$i
	done
	p1=$(iscsi_login h1 $l 127.0.$n.1)
	p2=$(iscsi_login h1 $l 127.0.$n.2)
	eval "$l=\$(iscsi_login h2 $l 127.0.$n.3)"
	multipath m$l "$p1" "$p2"
	eval "${l}1=\$p1 ${l}2=\$p2"
done
# What a session has failed to do for so long fails
for s in /sys/class/iscsi_session/*; do
	echo 5 >"$s/recovery_tmo"
done
ma=/dev/mapper/ma mb=/dev/mapper/mb mc=/dev/mapper/mc

ok 'the helper starts and serves' start_helper -v -T '*,file=/tmp/trace'

### PREEMPT AND ABORT

kind='PREEMPT AND ABORT'
# shellcheck disable=SC2154 # set by eval
witness=$a
prout '00 -' 'h1 registers' $ma 0 0 0 a
ok "$kind: h2 registers" raw_out "$a" 0 0 0 b
ok "$kind: h2 reserves" raw_out "$a" 1 5 b 0
prout '18 -' 'with a wrong key' $ma 5 5 f b
prout '18 -' 'of a key that is not there' $ma 5 5 a f
copies_are '2 a, 1 b'
prout '00 -' 'of h2' $ma 5 5 a b
copies_are '2 a'
holder_is 'a Write Exclusive, registrants only'
is "$(may write_to $ma 4), $(may write_to "$a")" 'yes, no' \
	"$kind: h1 may write on all paths, h2 may not"
drain "$a"
ok "$kind: h2 registers again" raw_out "$a" 0 0 0 b
prout '00 -' 'of h1 itself' $ma 5 6 a a
copies_are '2 a, 1 b'
holder_is 'a Exclusive Access, registrants only'
ok "$kind: h1 may write on all paths" write_to $ma 4
prout '00 -' 'RELEASE' $ma 2 6 a 0
drain "$a"
ok "$kind: h2 preempts h1" raw_out "$a" 5 5 b a
copies_are '1 b'
prout '00 -' 'h1 is back: REGISTER' $ma 0 0 0 a

### A path falls silent


# quick WHAT FROM: it took less than 3 s, not 10 s or for ever
quick() {
	t=$(($(ms) - $2))
	ok "$1: below 3 s ($t ms)" test $t -lt 3000
}

kind='a silent path'
# shellcheck disable=SC2154 # set by eval
witness=$b
silence 127.0.2.2
start=$(ms)
prout '00 -' REGISTER $mb 0 0 0 a
quick 'REGISTER with one path silent' "$start"
copies_are '1 a'
# shellcheck disable=SC2154 # set by eval
ok "$kind: the trace names it" \
	grep -q "path_done path=$(dev_of "$b2") REGISTER .*: lost" /tmp/trace
start=$(ms)
prout '00 -' RESERVE $mb 1 5 a 0
prin '00 - ????????00000010000000000000000a*' 'READ RESERVATION' $mb 1
prout '00 -' RELEASE $mb 2 5 a 0
prout '00 -' 'REGISTER another key' $mb 0 0 a c
quick 'four commands without that path' "$start"
copies_are '1 c'
# What was abandoned arrives at the target only now, the old key; then the
# path gets the new one, without a command of the guest
unsilence 127.0.2.2
ok "$kind: it gets the key at last" within 60 copies_match '2 c'
copies_stay '2 c'
prout '00 -' 'REGISTER AND IGNORE' $mb 6 0 0 c
copies_are '2 c'

kind='the first path is silent'
silence 127.0.2.1
start=$(ms)
prin '00 - ????????00000010000000000000000c000000000000000c' \
	'READ KEYS' $mb 0
quick 'READ KEYS' "$start"

### All paths of a disk are silent, and another disk works

kind='all paths are silent'
silence 127.0.2.2
prc $socket $mb "$(in_cdb 0 255)" >/tmp/in &
in_pid=$!
prc $socket $mb "$(out_cdb 0 0 c d)" >/tmp/out &
out_pid=$!
ok "$kind: a thread waits for the disk" within 10 hanging "$helper_pid"
start=$(ms)
is "$(prc -n 25 $socket $ma "$(in_cdb 0 255)" "$(in_cdb 1 255)" \
	"$(out_cdb 6 0 0 a)" "$(in_cdb 0 255)" | cut -c 1-4 | sort |
	uniq -c | xargs)" '100 00 -' "$kind: 100 commands on another disk"
diag "100 commands in $(($(ms) - start)) ms"
ok "$kind: meanwhile the OUT waits" kill -0 $out_pid
is "$(cat /tmp/out)" '' "$kind: it has no answer"
wait $in_pid $out_pid
like "$(cat /tmp/in)" '0[28] *' "$kind: the IN ends with an error"
like "$(cat /tmp/out)" '0[28] *' "$kind: the OUT ends with an error"
is "$(prc $socket $ma "$(in_cdb 0 255)" | cut -c 1-4)" '00 -' \
	"$kind: the other disk is served"

### The target goes away, and the kernel knows: it blocks the path

kind='a blocked path'
# shellcheck disable=SC2154 # set by eval
witness=$c
hang c 127.0.3.1 15
blocked() {
	[ "$(cat "/sys/block/${1##*/}/device/state")" = blocked ]
}
# Only who has sent something notices
# shellcheck disable=SC2154 # set by eval
read_from "$c1" &
read_pid=$!
ok "$kind: it is one" within 20 blocked "$c1"
start=$(ms)
prout '00 -' REGISTER $mc 0 0 0 a
prout '00 -' RESERVE $mc 1 5 a 0
prin '00 - ????????00000008000000000000000a' 'READ KEYS' $mc 0
quick 'three commands with one path blocked' "$start"
copies_are '1 a'
wait $read_pid

### SIGTERM with commands that were abandoned

silence 127.0.1.2
prout '00 -' 'REGISTER AND IGNORE with a silent path' $ma 6 0 0 a
old=$helper_pid
ok 'an abandoned command hangs' hanging "$old"
kill -TERM "$old"
ok 'SIGTERM: the helper ends' within 15 ended "$old"
ok 'the next one starts and serves' start_helper -v
kind='the next one'
prin '00 - *' 'READ KEYS' $ma 0
unsilence 127.0.1.2
unsilence 127.0.2.1
unsilence 127.0.2.2
wait "$old"
is $? 0 'SIGTERM: exit status 0'
stop_helper

done_testing
