#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Everything that one host with a multipath disk does: each command over the
# map of four paths, other maps, paths that are dead or hold a stale key, and
# another host whose nexuses are not in the map. The device is LIO through
# tcm_loop; who looks at the result knows nothing of the helper.

# shellcheck source=test/vm/lib.sh
. /lib.sh

### A logical unit, our four paths to it, another host's nexus, a witness

without_alua
four_paths

mkfifo /run/messages
tee /tmp/messages </run/messages >&2 &
ok 'the helper starts and serves' \
	start_helper -v -T path_step -T path_done -T dm_map 2>/run/messages

# get WANT WHAT ACTION [LENGTH]: the guest's command to the map
get() {
	want=$1 what=$2
	shift 2
	prin "$want" "$what" $mp "$@"
}

# raw WANT WHAT CDB: the same with any command
raw() {
	is "$(prc $socket $mp "$3")" "$1" "$kind: $2"
}

# mend: each path works again, also for device-mapper
mend() {
	for d in $ours; do
		case $(cat "/sys/block/${d##*/}/device/state") in
		offline) running "$d"; reinstate mp "$d" ;;
		esac
	done
}

# fresh [KEY]: nothing is reserved, the other host has key b, the guest has
# the key
fresh() {
	mend
	pr_out $mp 6 0 0 a >/dev/null
	pr_out $mp 3 0 a 0 >/dev/null
	for d in $ours; do
		drain "$d"
	done
	other 6 0 0 b
	[ -z "${1:-}" ] || pr_out $mp 6 0 0 "$1" >/dev/null
}

# attentions: print what unit attentions wait on the guest's paths. It is the
# other way round than drain: they are not expected.
attentions() {
	for d in $ours; do
		raw_in "$d" 0 8 | sed -n "s,^02 ,${d##*/} ,p"
	done
}

none_wait() {
	is "$(attentions)" '' "$kind: ... no unit attention waits for the guest"
}

### Who asks gets what the device says

kind=IN
get '00 - ????????00000000' 'READ KEYS: nobody' 0
get '00 - ????????00000000' 'READ RESERVATION: none' 1
get '00 - ????????00000000' 'READ FULL STATUS: nobody' 3
is "$(pr_in $mp 2)" "$(raw_in "$o" 2)" "$kind: REPORT CAPABILITIES"

kind=unregistered
put '18 -' 'REGISTER with a key before there is one' 0 0 f a
put '02 2/08/00' 'RESERVE: as the device says it' 1 5 a 0
put '02 2/08/00' 'CLEAR: as the device says it' 3 0 a 0
put '18 -' 'PREEMPT' 4 5 a b
put '00 -' 'REGISTER no key' 0 0 0 0
copies_are ''

kind=REGISTER
put '00 -' 'a key' 0 0 0 a
copies_are '4 a'
get "00 - ????????00000020$(printf '%016x' 10 10 10 10)" \
	'READ KEYS: a copy for each path, and no more than that' 0 8192
put '18 -' 'as if it were new' 0 0 0 c
put '18 -' 'with a wrong key' 0 0 f c
put '18 -' 'no key, with a wrong key' 0 0 f 0
copies_are '4 a'
put '00 -' 'another key' 0 0 a c
copies_are '4 c'
put '00 -' 'REGISTER AND IGNORE EXISTING KEY' 6 0 f a
ok "$kind: the other host registers" other 0 0 0 b
copies_are '4 a, 1 b'
none_wait

kind=IN
is "$(pr_in $mp 3 8192)" "$(raw_in "$o" 3 8192)" \
	"$kind: READ FULL STATUS: five nexuses"
like "$(pr_in $mp 3 8192)" '00 - ????????000000f0*' '... are in it'
for len in 0 4 7 8 9 24 40; do
	for action in 0 1 2 3; do
		is "$(pr_in $mp $action $len)" "$(raw_in "$o" $action $len)" \
			"$kind: action $action, $len bytes: as the device"
	done
done
get '02 5/24/00 -' 'an action that there is not' 4

### RESERVE, RELEASE: one path holds what all paths have

kind=RESERVE
put '18 -' 'with a wrong key' 1 5 f 0
put '02 5/24/00' 'with an unknown type' 1 2 a 0
holder_is ''
put '00 -' RESERVE 1 5 a 0
holder_is "a $we_ro"
for i in 1 2 3 4 5; do
	put '00 -' 'once more by its holder' 1 5 a 0
done
get '00 - ????????00000010000000000000000a0000000000050000' \
	'READ RESERVATION' 1
put '18 -' 'another type' 1 6 a 0
is "$(raw_out "$o" 1 5 b 0; echo $?)" 1 \
	"$kind: the other host's is refused"
copies_are '4 a, 1 b'
holder_is "a $we_ro"

kind=RELEASE
put '18 -' 'with a wrong key' 2 5 f 0
put '18 -' 'with a wrong type' 2 6 a 0
holder_is "a $we_ro"
put '00 -' RELEASE 2 5 a 0
holder_is ''
none_wait
put '00 -' 'of nothing' 2 5 a 0
ok "$kind: the other host reserves" other 1 5 b 0
put '00 -' 'by who does not hold it' 2 5 a 0
put '18 -' 'RESERVE against the other host' 1 5 a 0
holder_is "b $we_ro"
ok "$kind: the other host releases" other 2 5 b 0

while IFS=/ read -r type name; do
	kind="type $type"
	for d in $ours; do
		drain "$d"
	done
	put '00 -' RESERVE 1 "$type" a 0
	key=a
	[ "$type" -lt 7 ] || key=0
	holder_is "$key $name"
	put '00 -' 'RESERVE again' 1 "$type" a 0
	if [ "$type" -ge 5 ]; then
		is "$(may write_to $mp 8), $(may write_to "$o"), $(
			)$(may write_to "$w")" 'yes, yes, no' \
			"$kind: all our paths and who is registered may write"
	fi
	put '00 -' RELEASE 2 "$type" a 0
	holder_is ''
	none_wait
done <<-END
	1/Write Exclusive
	3/Exclusive Access
	5/Write Exclusive, registrants only
	6/Exclusive Access, registrants only
	7/Write Exclusive, all registrants
	8/Exclusive Access, all registrants
END
copies_are '4 a, 1 b'
is "$(may write_to $mp 8), $(may write_to "$w")" 'yes, yes' \
	'free after the last RELEASE'

### Unregister

kind=unregister
put '00 -' RESERVE 1 6 a 0
put '00 -' 'while holding' 0 0 a 0
copies_are '1 b'
holder_is ''
none_wait
put '00 -' 'REGISTER again' 0 0 0 a
copies_are '4 a, 1 b'
put '00 -' 'RESERVE for all registrants' 1 7 a 0
put '00 -' 'all of us leave, another registrant stays' 0 0 a 0
copies_are '1 b'
holder_is '0 Write Exclusive, all registrants'
put '00 -' 'REGISTER AND IGNORE' 6 0 0 a
put '00 -' 'REGISTER AND IGNORE, no key' 6 0 0 0
copies_are '1 b'

### CLEAR

fresh a
kind=CLEAR
put '00 -' RESERVE 1 5 a 0
put '18 -' 'with a wrong key' 3 0 f 0
copies_are '4 a, 1 b'
put '00 -' CLEAR 3 0 a 0
copies_are ''
holder_is ''
none_wait
like "$(raw_in "$o" 0)" '02 6/2a/03 -' "$kind: the other host is told so"
put '02 2/08/00' 'RESERVE: not registered any more' 1 5 a 0

### PREEMPT

fresh a
kind=PREEMPT
ok "$kind: the other host holds the reservation" other 1 5 b 0
put '18 -' 'with a wrong key' 4 5 f b
put '18 -' 'of a key that is not there' 4 5 a f
copies_are '4 a, 1 b'
holder_is "b $we_ro"
put '00 -' "of the other host" 4 5 a b
copies_are '4 a'
holder_is "a $we_ro"
none_wait
like "$(raw_in "$o" 0)" '02 6/2a/05 -' "$kind: the other host is told so"
is "$(may write_to $mp 8), $(may write_to "$o")" 'yes, no' \
	"$kind: we may write, the other host may not"
ok "$kind: the other host registers again" other 0 0 0 b
put '00 -' 'of who holds nothing' 4 5 a b
copies_are '4 a'
holder_is "a $we_ro"
ok "$kind: the other host registers again" other 0 0 0 b
put '00 -' 'of ourselves (QEMU migrates)' 4 6 a a
copies_are '4 a, 1 b'
holder_is 'a Exclusive Access, registrants only'
none_wait
ok "$kind: all our paths may write then" write_to $mp 8
put '00 -' 'RELEASE then' 2 6 a 0
holder_is ''
copies_are '4 a, 1 b'

fresh a
kind='PREEMPT, all registrants'
put '00 -' RESERVE 1 7 a 0
put '00 -' 'of all others (key 0)' 4 7 a 0
copies_are '4 a'
holder_is '0 Write Exclusive, all registrants'
is "$(may write_to $mp 8), $(may write_to "$o")" 'yes, no' \
	"$kind: we may write, the other host may not"
none_wait

fresh a
kind='preempted'
put '00 -' RESERVE 1 5 a 0
ok "$kind: by the other host" other 4 5 b a
copies_are '1 b'
put '18 -' 'RESERVE' 1 5 a 0
put '18 -' 'REGISTER with the old key' 0 0 a c
is "$(may write_to $mp 8)" no "$kind: no path may write"
copies_are '1 b'
holder_is "b $we_ro"
put '00 -' 'REGISTER again' 0 0 0 a
copies_are '4 a, 1 b'
ok "$kind: all our paths may write then" write_to $mp 8

### What survives a power loss

fresh
aptpl=/etc/target/pr/aptpl_a

# file WANT: how many nexuses with key a (LIO writes 10) are in it
file() {
	is "$(grep -ac '^sa_res_key=10$' $aptpl 2>/dev/null)" "$1" \
		"$kind: ... in the target's file: $1"
}

kind=APTPL
put '00 -' REGISTER 0 0 0 a 1
file 4
put '00 -' 'the same key with REGISTER AND IGNORE' 6 0 0 a 1
file 4
put '00 -' RESERVE 1 5 a 0
put '00 -' 'RESERVE again' 1 5 a 0
file 4
put '00 -' 'PREEMPT of ourselves' 4 5 a a
file 4
put '00 -' RELEASE 2 5 a 0
file 4
copies_are '4 a, 1 b'
put '00 -' 'unregister' 0 0 a 0 1
copies_are '1 b'

kind=ALL_TG_PT
put '00 -' REGISTER 0 0 0 a 4
copies_are '4 a, 1 b'
put '00 -' 'another key' 0 0 a c 4
copies_are '1 b, 4 c'
put '00 -' 'RESERVE' 1 5 c 0
put '00 -' 'unregister' 0 0 c 0 4
copies_are '1 b'
drain "$p1"
ok "$kind: another program has registered a path with it" \
	raw_out "$p1" 0 0 0 f 4
put '00 -' 'REGISTER AND IGNORE over that' 6 0 0 a
copies_are '4 a, 1 b'
put '00 -' 'unregister' 0 0 a 0
copies_are '1 b'

### What is not for a map, and what is wrong

kind=refused
# with_ids N: print REGISTER with SPEC_I_PT and N TransportIDs
with_ids() {
	printf '5f000000000000%04x00:%016x%016x0000000008000000%08x' \
		$((28 + 24 * $1)) 0 12 $((24 * $1))
	i=0
	while [ $i -lt "$1" ]; do
		printf '060000005001405%09x%024d' $((i + 16)) 0
		i=$((i + 1))
	done
}
put '02 5/26/00' 'SPEC_I_PT without a TransportID' 0 0 0 a 8
for n in 1 32 33 40 300; do
	raw '02 5/26/00 -' "SPEC_I_PT with $n TransportIDs" "$(with_ids $n)"
done
raw '02 5/24/00 -' 'REGISTER AND MOVE' \
	"5f070000000000003000:$(printf '%016x%016x%08x%08x%048d' 10 11 2 24 0)"
put '02 5/24/00' 'REPLACE LOST RESERVATION' 8 5 a 0
put '02 5/24/00' 'an action that there is not' 31 0 a 0
put '00 -' 'REGISTER' 0 0 0 a
drain "$o"
raw '02 5/24/00 -' 'REGISTER AND MOVE when registered' \
	"5f070000000000003000:$(printf '%016x%016x%08x%08x%048d' 10 11 2 24 0)"
for action in 0 1 2 3 4 6; do
	for len in 0 1 8 23 25 48; do
		cdb=$(printf '5f%02x05000000%06x00:%0*d' $action $len \
			$((2 * len)) 0)
		[ $len -gt 0 ] || cdb=${cdb%%:*}
		raw "$(prc - "$o" "$cdb")" \
			"action $action, $len bytes: as the device" "$cdb"
	done
done
copies_are '4 a, 1 b'

kind=read-only
is "$(prc -o ro $socket $mp "$(in_cdb 0 8)" "$(out_cdb 6 0 0 c)" ff |
	cut -c 1-10)" "$(raw_in "$o" 0 8 | cut -c 1-10)
02 5/20/00
02 5/20/00" "$kind: IN works, OUT and CLEANUP do not"
copies_are '4 a, 1 b'

### CLEANUP: QEMU has left for another host, which has the guest's key now

fresh a
kind=CLEANUP
other 6 0 b a
put '00 -' RESERVE 1 5 a 0
ok "$kind: the guest reserves on its new host" other 4 5 a a
# which has removed our registrations
copies_are '1 a'
put '00 -' 'REGISTER AND IGNORE here' 6 0 0 a
copies_are '5 a'
raw '00 - -' CLEANUP ff
copies_are '1 a'
holder_is "a $we_ro"
raw '00 - -' 'once more' ff
raw '00 - -' 'and once more' ff
copies_are '1 a'
other 3 0 a 0
put '00 -' 'the guest comes back: REGISTER' 0 0 0 a
copies_are '4 a'

### Paths that are dead while a command comes

fresh
kind='a path is dead'
offline "$p1"
get '00 - ????????00000008000000000000000b' 'READ KEYS' 0
get '00 - ????????00000000' 'READ RESERVATION' 1
put '00 -' REGISTER 0 0 0 a
copies_are '3 a, 1 b'
put '00 -' RESERVE 1 5 a 0
holder_is "a $we_ro"
put '00 -' 'PREEMPT of the other host' 4 5 a b
copies_are '3 a'
put '00 -' RELEASE 2 5 a 0
holder_is ''
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '3 c'
put '00 -' 'unregister' 0 0 c 0
copies_are ''
put '00 -' 'REGISTER AND IGNORE' 6 0 0 a
copies_are '3 a'
mend
put '00 -' 'it is alive: REGISTER AND IGNORE' 6 0 0 a
copies_are '4 a'
offline "$p2"
offline "$p3"
put '00 -' 'two are dead: CLEAR' 3 0 a 0
copies_are ''
mend

# hold: the guest reserves; the path that holds the reservation dies
hold() {
	fresh a
	put '00 -' RESERVE 1 "$1" a 0
	dead=$(holding)
	ok "$kind: it is ${dead##*/}" test -b "$dead"
	offline "$dead"
}

kind='the holding path is dead'
hold 5
put '00 -' 'RESERVE again' 1 5 a 0
holder_is "a $we_ro"
put '18 -' 'RESERVE of another type' 1 6 a 0
put '02 5/26/04' 'RELEASE of another type' 2 6 a 0
holder_is "a $we_ro"
put '00 -' RELEASE 2 5 a 0
holder_is ''
copies_are '3 a, 1 b'
put '00 -' 'RESERVE then' 1 6 a 0
holder_is 'a Exclusive Access, registrants only'
hold 5
put '00 -' unregister 0 0 a 0
holder_is ''
copies_are '1 b'
hold 5
put '00 -' 'PREEMPT of the other host' 4 5 a b
holder_is "a $we_ro"
copies_are '4 a'
hold 6
put '00 -' 'PREEMPT of ourselves' 4 5 a a
holder_is "a $we_ro"
copies_are '3 a, 1 b'
hold 5
put '00 -' CLEAR 3 0 a 0
copies_are ''
hold 7
put '00 -' 'RELEASE for all registrants' 2 7 a 0
holder_is ''
copies_are '4 a, 1 b'

kind='all paths are dead'
fresh a
for d in $ours; do
	offline "$d"
done
get '02 b/08/00 -' 'READ KEYS' 0
for action in 0 1 2 3 4 6; do
	put '02 b/08/00' "action $action" $action 5 a 0
done
raw '02 b/08/00 -' CLEANUP ff
copies_are '4 a, 1 b'
# It waits 20 s for a path while the other tests go on
lun q
q1=$(path q)
features='1 queue_if_no_path' multipath mq "$q1"
offline "$q1"
{
	pr_in /dev/mapper/mq 0
	pr_out /dev/mapper/mq 0 0 0 a
} >/tmp/queue &
queue_pid=$!

### Paths that are different from the others

fresh
kind='a failed path'
fail mp "$p1"
fail mp "$p3"
put '00 -' 'REGISTER' 0 0 0 a
copies_are '4 a, 1 b'
reinstate mp "$p1"
reinstate mp "$p3"
ok "$kind: all paths may write" write_to $mp 8

kind='a stale key'
for d in $ours; do
	drain "$d"
	raw_out "$d" 6 0 0 dead
	is "$(keys "$w" | tr ' ' '\n' | grep -cx dead)" 1 \
		"$kind: ${d##*/} has it"
	put '00 -' 'RESERVE' 1 5 a 0
	holder_is "a $we_ro"
	put '00 -' 'RELEASE' 2 5 a 0
	holder_is ''
	put '00 -' 'REGISTER AND IGNORE' 6 0 0 a
	copies_are '4 a, 1 b'
done
drain "$p4"
raw_out "$p4" 6 0 0 dead
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '1 b, 4 c'
drain "$p2"
raw_out "$p2" 6 0 0 0
put '00 -' 'a path has lost it: REGISTER another key' 0 0 c a
copies_are '4 a, 1 b'

kind=attentions
for d in $ours; do
	drain "$d"
done
other 6 0 0 b
other 3 0 b 0
is "$(attentions | wc -l)" 4 "$kind: another host makes them"
other 0 0 0 b
other 3 0 b 0
get '00 - ????????00000000' 'IN gets through' 0
other 0 0 0 b
put '00 -' 'REGISTER gets through' 0 0 0 a
copies_are '4 a, 1 b'

### Many guests' commands at once

kind=crowd
want=$(pr_in $mp 0)
pids=
for i in 0 1 2 3 4 5 6 7 8 9; do
	prc -n 20 $socket $mp "$(in_cdb 0 255)" >"/tmp/crowd.$i" &
	pids="$pids $!"
done
# shellcheck disable=SC2086 # several words
wait $pids
is "$(cat /tmp/crowd.? | sort | uniq -c | sed 's/^ *//')" "200 $want" \
	"$kind: 10 clients, 20 READ KEYS each"
pids=
for i in 0 1 2 3; do
	prc -n 5 $socket $mp "$(out_cdb 6 0 0 a)" "$(out_cdb 1 5 a 0)" \
		"$(out_cdb 2 5 a 0)" >"/tmp/crowd.$i" &
	pids="$pids $!"
done
# shellcheck disable=SC2086 # several words
wait $pids
is "$(cat /tmp/crowd.[0-3] | sort | uniq -c | sed 's/^ *//')" '60 00 - -' \
	"$kind: 4 clients register, reserve and release"
copies_are '4 a, 1 b'
holder_is ''

### Other maps

size=$(blockdev --getsz $mp)
dmsetup create whole --table "0 $size linear $mp 0"
dmsetup mknodes
dmsetup create deep --table "0 $size linear /dev/mapper/whole 0"
dmsetup create part --table "0 2048 linear $mp 2048"
dmsetup create short --table "0 $((size - 8)) linear $mp 0"
dmsetup create two --table "0 2048 linear $mp 0
2048 $((size - 2048)) linear $mp 2048"
dmsetup create error --table "0 $size error"
dmsetup mknodes
kind='linear'
for name in whole deep; do
	d=/dev/mapper/$name
	prin "$(pr_in $mp 0)" "$name: READ KEYS" $d 0
	prout '00 -' "$name: REGISTER" $d 0 0 a c
	copies_are '1 b, 4 c'
	prout '00 -' "$name: REGISTER" $d 0 0 c a
	copies_are '4 a, 1 b'
done
for name in part short two error; do
	prin '02 5/20/00 -' "$name: READ KEYS is refused" /dev/mapper/$name 0
	prout '02 5/20/00' "$name: REGISTER is refused" \
		/dev/mapper/$name 0 0 a c
done
copies_are '4 a, 1 b'

wait $queue_pid
kind='no path, I/O is queued'
is "$(cat /tmp/queue)" '08 - -
08 -' "$kind: BUSY"
running "$q1"
reinstate mq "$q1"
prout '00 -' 'the path returns: REGISTER' /dev/mapper/mq 0 0 0 a
witness=$(path q)
copies_are '1 a'
kind='one path'
m=/dev/mapper/mq
prout '00 -' RESERVE $m 1 5 a 0
holder_is "a $we_ro"
prout '00 -' 'PREEMPT of ourselves' $m 4 6 a a
copies_are '1 a'
holder_is 'a Exclusive Access, registrants only'
prout '00 -' RELEASE $m 2 6 a 0
prout '00 -' 'REGISTER another key' $m 0 0 a c
copies_are '1 c'
is "$(prc $socket $m ff)" '00 - -' "$kind: CLEANUP"
copies_are ''

kind='two groups'
lun g
g1=$(path g)
g2=$(path g)
g3=$(path g)
witness=$(path g)
multipath mg "$g1" - "$g2" "$g3"
m=/dev/mapper/mg
prout '00 -' REGISTER $m 0 0 0 a
copies_are '3 a'
prout '00 -' RESERVE $m 1 5 a 0
holder_is "a $we_ro"
ok "$kind: the map may write" write_to $m
dmsetup message mg 0 'switch_group 2'
ok "$kind: with the other group, too" write_to $m
prout '00 -' 'RESERVE again' $m 1 5 a 0
prout '00 -' RELEASE $m 2 5 a 0
holder_is ''

kind=suspended
dmsetup suspend mg
prout '00 -' 'REGISTER another key' $m 0 0 a c
copies_are '3 c'
dmsetup resume mg
prout '00 -' 'REGISTER another key' $m 0 0 c a

kind='paths to different disks'
lun d	# a name whose letters are digits: LIO makes the NAA of these
r1=$(path d)
multipath mx "$g1" "$r1"
prin '00 - *' 'READ KEYS is not: one of them answers' /dev/mapper/mx 0
prout '02 b/08/00' 'REGISTER is refused' /dev/mapper/mx 6 0 0 f
copies_are '3 a'

kind=log
ok "$kind: a line for an OUT to a map" grep -q \
	'dm-[0-9]*: REGISTER (00h).*0xa.*status 00h' /tmp/messages
is "$(grep -c 'type 1 lets in one path only' /tmp/messages)" 1 \
	"$kind: once, that type 1 lets in one path only"

stop_helper
is $? 0 'SIGTERM ends it with exit status 0'
done_testing
