#!/bin/sh
# See LICENSE file for copyright and license details.
#
# prhelper status, in and out: on a disk, its sg node and a map, by themselves
# and through a helper. sg_persist, mpathpersist and a helper see what they
# did, and they see what those did. What is in the machine comes from
# ../../t/vm-ctl.t.

# shellcheck source=test/vm/lib.sh
. /lib.sh

# ctl WANT WHAT ARGUMENT...: exit status; what it says is in /tmp/out, /tmp/err
ctl() {
	want=$1 what=$2
	shift 2
	prhelper "$@" >/tmp/out 2>/tmp/err
	is $? "$want" "$kind: $what"
	sed "s/^/	/" /tmp/out /tmp/err >&2
}

# says LINE: its words, among those that the last one printed
says() {
	tr -s ' ' </tmp/out | sed 's/ $//' >/tmp/words
	ok "$kind: ... it says: $1" grep -qx "$1" /tmp/words
}

# complains LINE: the only one on stderr
complains() {
	is "$(cat /tmp/err)" "prhelper: $1" "$kind: ... it complains"
}

lun a
a=$(path a)
o=$(path a)
witness=$o
d=${a##*/}

kind='a disk'
ctl 0 'a look at a new one' status "$a"
says "$d lun $(cat "/sys/block/$d/device/wwid")"
says "$d holder none"
says "$d health fine"
ctl 0 'REGISTER' out register -S a "$a"
keys_are a
ctl 24 'REGISTER with a wrong key' out -G -K b -S c "$a"
complains "$a: REGISTER: status 18h (reservation conflict)"
ctl 0 'REGISTER AND IGNORE' out -I --param-sark=c "$a"
keys_are c
ctl 0 'RESERVE' out reserve -K c -T 5 "$a"
holder_is "c $we_ro"
ctl 0 'READ RESERVATION' in reservation "$a"
says "$d holder 0xc type 5 write exclusive, registrants only"
ctl 24 'RELEASE of another type' out release -K c -T 6 "$a"
ctl 0 'RELEASE' out -L -K c -T 5 "$a"
holder_is ''
ctl 0 'RESERVE of what all hold' out reserve -K c -T 7 "$a"
ok "$kind: another host is registered" raw_out "$o" 0 0 0 b
ctl 0 'READ KEYS' in keys "$a"
says "$d key 0xc on 1 nexus"
says "$d key 0xb on 1 nexus"
ctl 0 'READ FULL STATUS' in -s "$a"
ok "$kind: ... with port and initiator" grep -q \
	'0xc  *port [0-9]* holder protocol 6 [0-9a-f]' /tmp/out
ctl 0 'REPORT CAPABILITIES' in capabilities "$a"
says "$d type 5 write exclusive, registrants only"
says "$d can aptpl-capable"
ctl 0 'a short allocation length' in -k -l c "$a"
says "$d more 12 bytes"
drain "$a"
ctl 0 'PREEMPT' out preempt -K c -S b -T 7 "$a"
says "$d removing 0xb"
keys_are c
ctl 24 'PREEMPT of nobody' out preempt -K c -S c0ffee -T 7 "$a"
says "$d removing nothing"
ctl 0 'CLEAR' out clear -K c "$a"
says "$d removing 0xc"
says "$d removing the reservation of"
keys_are ''
ctl 2 'REPLACE LOST RESERVATION, which LIO does not know' out -z -S c -T 5 "$a"
like "$(cat /tmp/err)" 'prhelper: * REPLACE LOST *: sense 5h/2?h/00h' \
	"$kind: ... it complains"
ctl 0 'APTPL and ALL_TG_PT' out register -S c -Y -Z "$a"
keys_are c
ctl 0 'they are needed again' out register -K c -Y -Z "$a"
keys_are ''

kind='an sg node'
ctl 0 'REGISTER' out register -S a "$(sg_of "$a")"
ctl 0 'READ KEYS' in keys "$(sg_of "$a")"
says "$(sg_of "$a") key 0xa on 1 nexus"
ctl 0 'its health' status "$(sg_of "$a")"
ctl 0 'unregistration' out register -K a "$(sg_of "$a")"
keys_are ''

# Which deadlocks the kernel's target over tcm_loop
kind=iSCSI
lun c
iscsi_export c 127.0.0.1
iscsi_export c 127.0.0.2
x=$(iscsi_login h1 c 127.0.0.1)
y=$(iscsi_login h2 c 127.0.0.2)
ok "$kind: another host reserves" raw_out "$y" 0 0 0 b
ok "$kind: ... so that nobody else may write" raw_out "$y" 1 5 b 0
ctl 0 'REGISTER' out register -S a "$x"
ctl 0 'PREEMPT AND ABORT' out preempt-abort -K a -S b -T 5 "$x"
says "${x##*/} removing 0xb"
says "${x##*/} holder 0xb type 5 write exclusive, registrants only"
is "$(keys "$x"), $(holder "$x")" "a, a $we_ro" "$kind: ... it is ours"
ctl 0 'READ FULL STATUS' in full-status "$x"
ok "$kind: ... with the initiator's name" grep -q " $iqn:h1" /tmp/out

kind='beside sg_persist'
ok 'sg_persist registers' sg_persist -n -o -G -S e "$a"
ctl 0 'the key is there' in keys "$a"
says "$d key 0xe on 1 nexus"
ctl 0 'RESERVE with it' out reserve -K e -T 3 "$a"
ok 'sg_persist releases it' sg_persist -n -o -L -K e -T 3 "$a"
ctl 0 'nobody holds it' in -r "$a"
says "$d holder none"
ok 'sg_persist clears' sg_persist -n -o -C -K e "$a"
ctl 0 'nobody is registered' in -k "$a"
ok "$kind: ... it lists none" test "$(grep -c key /tmp/out)" -eq 0

kind='what is no disk'
ctl 2 'no device' in keys /dev/null
complains '/dev/null: READ KEYS: sense 5h/20h/00h'
ctl 2 'its health' status /dev/null
ok "$kind: ... it has failed" grep -q 'health  *failed' /tmp/out
ctl 1 'nothing' out clear -K 1 /dev/nothing
complains '/dev/nothing: No such file or directory'
ctl 2 'the health of nothing' status /dev/nothing
ctl 2 'a partition' in keys /dev/vda
dmsetup create lin --table "0 2048 linear $a 0"
dmsetup mknodes lin
ctl 2 'a map of another kind' in keys /dev/mapper/lin
complains '/dev/mapper/lin: READ KEYS: sense 5h/20h/00h'

### A map, which a helper looks after

lun b
for i in 1 2 3 4; do
	eval "b$i=\$(path b $i)"
done
other=$(path b)
witness=$(path b)
# shellcheck disable=SC2154 # set by eval
multipathd_makes mb "$b1" "$b2" "$b3" "$b4"
mb=/dev/mapper/mb
dir=/run/pr.sock.state
state=--state=$dir

kind='a map without a helper'
ctl 0 'nobody knows it' status $state $mb
says 'mb desired none'
ok "$kind: ... who only looks leaves nothing" test ! -e $dir
ctl 0 'REGISTER' out register -S a $state $mb
copies_are '4 a'
ctl 0 'RESERVE' out reserve -K a -T 5 $state $mb
ctl 0 'its health' status $state $mb
says 'mb key 0xa on 4 nexuses'
says 'mb holder 0xa type 5 write exclusive, registrants only'
says 'mb desired 0xa'
says 'mb health fine'
is "$(grep -c 'path .* running active, key yes, mark clean, next: nothing' \
	/tmp/out)" 4 "$kind: ... four good paths"
is "$(grep -c 'key a' $dir/*)" 1 "$kind: it is written down"

kind='a helper that comes later'
ok "$kind: it serves" start_helper
offline "$b2"
within 20 uses 3 mb
ctl 1 'a path is gone' status $state
says 'mb health degraded: a path cannot be used'
ctl 0 'another key, meanwhile' out register -K a -S c $state $mb
copies_are '3 c'
ctl 1 'the path has missed it' status $state
ok "$kind: ... it says so, and what will be done" grep -q \
	"path  *${b2##*/} .* offline .*, key no, mark set.*, next: register" \
	/tmp/out
running "$b2"
copies_become '4 c'
within 20 uses 4 mb
within 20 prhelper status $state >&2
ctl 0 'all is well again' status $state
prout '00 -' 'the guest goes on with this key' $mb 1 5 c 0

kind='through the helper'
strace -f -qq -e trace=ioctl -o /tmp/trace \
	prhelper out preempt -K c -S c -T 6 --socket=$socket $mb >/tmp/out
is $? 0 "$kind: PREEMPT of the own key"
says 'mb removing the reservation of'
is "$(grep -c SG_IO /tmp/trace)" 0 \
	"$kind: ... who asks sends nothing to a device"
copies_are '4 c'
ctl 0 'READ RESERVATION' in reservation --socket=$socket $mb
says 'mb holder 0xc type 6 exclusive access, registrants only'
ctl 2 'what the helper refuses' in keys --socket=$socket /dev/null
ctl 1 'no helper' in keys --socket=/run/nobody $mb
complains 'socket /run/nobody: No such file or directory'

kind='beside mpathpersist'
mpath() {
	mpathpersist "$@" $mb >/tmp/mpath 2>&1
}
ctl 0 'CLEAR' out clear -K c $state $mb
says 'mb removing 0xc'
copies_are ''
ok 'mpathpersist registers' mpath -o -I -S d
ctl 0 'four registrations' in keys $mb
says 'mb key 0xd on 4 nexuses'
ctl 0 'RESERVE with its key' out reserve -K d -T 5 $state $mb
ok 'mpathpersist sees it' mpath -i -r
ok "$kind: ... with key and type" grep -q 'Key = 0xd' /tmp/mpath
ok 'mpathpersist releases it' mpath -o -L -K d -T 5
ctl 0 'it is gone' in reservation $mb
says 'mb holder none'
ctl 0 'unregistration' out -G -K d $state $mb
copies_are ''
ctl 0 'the helper has nothing to look after' status $state
is "$(cat /tmp/out)" '' "$kind: ... nothing is listed"
kill "$multipathd_pid"

kind='fenced by another host'
ctl 0 'REGISTER' out register -S a $state $mb
ctl 0 'RESERVE' out reserve -K a -T 5 $state $mb
ok "$kind: it registers" raw_out "$other" 0 0 0 b
ok "$kind: it preempts" raw_out "$other" 4 5 b a
ctl 1 'who holds it' status $mb $state
says 'mb holder 0xb type 5 write exclusive, registrants only'
says 'mb key 0xb on 1 nexus'
says 'mb health degraded: a path lacks the key'
ok "$kind: ... each path lacks it" test \
	"$(grep -c 'path .* key no,' /tmp/out)" -eq 4
copies_are '1 b'

stop_helper
is $? 0 'the helper ends'
done_testing
