#!/bin/sh
# See LICENSE file for copyright and license details.
#
# A qemu-pr-helper, the distribution's or the newest, and prhelper get the
# same commands, each on logical units of its own with the same history: the
# same initiator ports, the same set-up, the same order. SCSI status, valid
# sense data and payload must be the same to the last byte, but for the
# differences that are listed first. PREEMPT AND ABORT is not here: it hangs
# this target. Few commands go through sg nodes: there qemu-pr-helper gives a
# disk only 1 ms.

# shellcheck source=test/vm/lib.sh
. /lib.sh

### What differs on purpose. No other command may have another answer, and
### these commands must: so this list stays true.

# intended NAME ANSWER REASON: what prhelper answers, why qemu-pr-helper's
# answer is not good enough
intended() {
	{
		printf '%s\t%s\t' "$1" "$2"
		echo "$3" | xargs
	} >>/tmp/intended
}

intended no-disk '02 5/20/00 -' '
	No SCSI disk, or one that is open only by name (O_PATH): qemu-pr-helper
	sends the command, and makes sense data of the errno, mostly ABORTED
	COMMAND. This asks the guest to try again what can never work.'
intended partition '02 5/20/00 -' '
	Reservations are of whole disks: who got one partition must not lock out
	the users of the others.'
intended cleanup '00 - -' '
	Opcode FFh is newer than QEMU 11.1, which closes the connection.'
intended offline '02 b/08/00 -' '
	The disk is offline: we say that it cannot be reached (LOGICAL UNIT
	COMMUNICATION FAILURE), not that a process was terminated.'
intended transport '02 b/08/00 -' '
	The transport failed: the same. Nobody knows that the nexus is lost, as
	qemu-pr-helper has it; its registration may well be there.'

### One side of the comparison is ours, the other is theirs

peer=/run/peer.sock
mkdir -p /run/ours /run/theirs	# the same names, for one helper each

start_peer() {
	qemu-pr-helper -k $peer >&2 &
	peer_pid=$!
	within 20 test -S $peer
}

# disk NAME LUN N: a nexus of both LUNs with the Nth initiator. NAME and
# NAME-sg are its nodes. READ FULL STATUS shows initiators: so they are the
# same.
disk() {
	for side in ours theirs; do
		d=$(path "$2-$side" "$3")
		ln -s "$d" "/run/$side/$1"
		ln -s "$(sg_of "$d")" "/run/$side/$1-sg"
	done
}

# node NAME FILE: the same for both
node() {
	ln -s "$2" "/run/ours/$1"
	ln -s "$2" "/run/theirs/$1"
}

# on NAME COMMAND...: do something to both disks, not through a helper
on() {
	name=$1
	shift
	for side in ours theirs; do
		"$@" "$(readlink -f "/run/$side/$name")"
	done
}

### Commands for both. What was asked and answered goes to /tmp/asked and
### /tmp/ours, /tmp/theirs: there each command is one line.

group=
how=rw		# how prc opens the node
differs=-	# name of the difference that this command shows

note() {
	printf '%s\t%s\t%s\n' "$group" "$differs" "$1" >>/tmp/asked
}

# both NAME COMMAND
both() {
	note "$1 ($how) $2"
	prc -s -o $how $socket "/run/ours/$1" "$2" >>/tmp/ours ||
		[ $? -lt 3 ] || echo 'no answer' >>/tmp/ours
	prc -s -o $how $peer "/run/theirs/$1" "$2" >>/tmp/theirs ||
		[ $? -lt 3 ] || echo 'no answer' >>/tmp/theirs
	kill -0 "$peer_pid" 2>/dev/null || start_peer
}

# get NAME ACTION [LENGTH]
get() {
	both "$1" "$(in_cdb "$2" "${3:-8192}")"
}

# put NAME ACTION TYPE KEY ACTION-KEY [FLAGS]
put() {
	n=$1
	shift
	both "$n" "$(out_cdb "$@")"
}

# list NAME ACTION TYPE BYTES: a parameter list of any kind
list() {
	both "$1" "$(printf '5f%02x%02x0000%08x00:%s' "$2" "$3" \
		$((${#4} / 2)) "$4")"
}

# look: what became of it, to the last byte
look() {
	for action in 0 1 3; do
		get x $action
	done
}

# held NAME COMMAND...: who has the disk open sends the first of them before
# it goes offline, the others after that
held() {
	n=$1
	shift
	prc -s $socket "/run/ours/$n" </run/to-ours >>/tmp/ours &
	ours_pid=$!
	prc -s $peer "/run/theirs/$n" </run/to-theirs >>/tmp/theirs &
	theirs_pid=$!
	exec 5>/run/to-ours 6>/run/to-theirs
	differs=-
	for command; do
		note "$n (open) $command"
		echo "$command" >&5
		echo "$command" >&6
		within 60 answered
		[ $differs != - ] || on "${n%-sg}" offline
		differs=offline
	done
	exec 5>&- 6>&-
	wait $ours_pid $theirs_pid
	differs=-
	on "${n%-sg}" running
}

answered() {
	n_asked=$(wc -l </tmp/asked)
	[ "$(wc -l </tmp/ours)" -eq "$n_asked" ] &&
		[ "$(wc -l </tmp/theirs)" -eq "$n_asked" ]
}

# compare: for each group print its name, how many commands it had and those
# whose answers are not as they should be. /tmp/differences gets the intended
# differences as they were seen.
compare() {
	paste /tmp/asked /tmp/ours /tmp/theirs | awk -F '\t' '
	function hex(s) {
		return 16 * index(digits, substr(s, 1, 1)) + \
			index(digits, substr(s, 2, 1))
	}
	# Status, payload, and the sense data as far as they are valid: the
	# response code and the additional length tell
	function answer(s,	f) {
		if (split(s, f, " ") != 4)
			return s
		if (f[4] !~ /^[7f][0-3]/)
			return f[1] " " f[3]
		return f[1] " " f[3] " " \
			substr(f[4], 1, 2 * (8 + hex(substr(f[4], 15, 2))))
	}
	# What people read
	function brief(s,	f) {
		return split(s, f, " ") != 4 ? s : f[1] " " f[2] " " f[3]
	}
	BEGIN {
		digits = "123456789abcdef"
		while ((getline line <"/tmp/intended") > 0) {
			split(line, f, "\t")
			names[++m] = f[1]
			want[f[1]] = f[2]
			why[f[1]] = f[3]
		}
	}
	{
		if (!n[$1]++)
			groups[++g] = $1
		same = answer($4) == answer($5)
		if ($2 == "-" ? !same : same || brief($4) != want[$2])
			bad[$1] = bad[$1] "|" $3 "|  ours: " answer($4) \
				"|theirs: " answer($5)
		if ($2 != "-" && !seen[$2, brief($5)]++)
			list[$2] = list[$2] ", " brief($5)
	}
	END {
		for (i = 1; i <= g; i++)
			printf "%s\t%d\t%s\n", groups[i], n[groups[i]],
				substr(bad[groups[i]], 2)
		for (i = 1; i <= m; i++)
			printf "%s: \"%s\", qemu-pr-helper \"%s\": %s\n",
				names[i], want[names[i]],
				substr(list[names[i]], 3),
				why[names[i]] >"/tmp/differences"
	}'
}

### The disks

diag "$(qemu-pr-helper --version | head -n 1)"
without_udev
lun a-ours
lun a-theirs
disk x a 1
disk y a 2
disk z a 3
# Above 2^32 blocks LIO has sense data in descriptor format
lun big-ours $((3 << 20))
lun big-theirs $((3 << 20))
disk big big 4
ok 'prhelper serves' start_helper
ok 'qemu-pr-helper serves' start_peer
mkfifo /run/to-ours /run/to-theirs

y_id=060000005001405000000002$(printf %024d 0)
z_id=060000005001405000000003$(printf %024d 0)
self_id=060000005001405000000001$(printf %024d 0)
other_id=060000005001405000000099$(printf %024d 0)
iscsi_id=0500001469716e2e323030302d30312e6578616d706c6500
none=0000000000000000 a=000000000000000a b=000000000000000b
sizes='0 4 8 24 255 256 8192'

### Everything that asks, at first of a disk that nobody has used

group='IN, fresh disk'
for size in $sizes; do
	for action in 0 1 2 3; do
		get x $action "$size"
	done
done
for action in 4 5 15 31; do
	get x $action 255
	get x $action 0
done
for action in 0 1 2 3; do
	get x-sg $action 255
done

group='REGISTER'
put x 0 0 f a	# no key yet
put x 1 5 a 0	# not registered
put x 2 5 a 0
put x 3 0 a 0
put x 4 5 a b
put x 7 0 a b
put x 0 0 0 0
put x 0 0 0 a
put x 0 0 0 a
put x 0 0 f c
put x 0 0 a c
put x 6 0 f a
put x 6 0 a a
put y 0 5 0 fedcba9876543210
put y 6 31 ffffffffffffffff b
look
put x 0 0 a 0
look
put x 6 0 0 0
put x 6 0 0 a
look

group='IN, used disk'
put x 1 5 a 0
on z sg_persist -n -q -o -G -S 0xcccc >&2
for size in $sizes; do
	for action in 0 1 2 3; do
		get y $action "$size"
	done
done
for action in 0 1 2 3; do
	for size in 0 4 9 255; do
		get z-sg $action "$size"
	done
done

group='reserved bits of the CDB'
both x 5ee0ffffffffffff0000
both x 5ee0ffffffffff00ff00
both x 5e000000000000002004
both x 5e0000000000000020ffffffffffffff
both x 5e8100000000000020ff
both x "5fe600ffff0000001804ffffffffffff:$none${a}0000000000000000"
look

group='each type'
put x 2 5 a 0
for type in 1 3 5 6 7 8 0 2 4 9 15 21 245; do
	put x 1 $type a 0
	get y 1
	put x 1 $type a 0
	put x 1 $type f 0
	put x 1 6 a 0
	put y 1 $type b 0
	put y 1 1 b 0
	put y 2 $type b 0
	put x 2 $type f 0
	put x 2 4 a 0
	get x-sg 3
	put x 2 $type a 0
	get z 1
	get y 0
done

group='PREEMPT'
for type in 1 3 5 6 7 8; do
	put x 6 0 0 a
	put x 6 0 0 a
	put y 6 0 0 b
	put y 6 0 0 b
	put x 1 $type a 0
	put y 4 $type f a
	put y 4 $type b f
	put y 4 2 b a
	put y 4 $type b 0
	look
	put x 6 0 0 a
	put x 6 0 0 a
	put y 4 $type b a
	look
	get x 0
	put x 1 $type a 0
	put y 4 5 b b
	look
	put y 2 5 b 0
	put y 3 0 b 0
	look
	on z drain
done

group='CLEAR'
put x 6 0 0 a
put x 6 0 0 a
put y 6 0 0 b
on z sg_persist -n -q -o -I -S 0xcccc >&2
put x 1 8 a 0
put y 3 0 f 0
put z 3 0 0 0
put y 3 0 b 0
put x 3 0 a 0
put x 3 0 a 0
put z 1 1 cccc 0
look

group='two nexuses in turn'
put x 6 0 0 a
put y 6 0 0 a
for type in 5 7; do
	put x 1 $type a 0
	put y 1 $type a 0
	put y 2 $type a 0
	get x 1
	put x 2 $type a 0
	put y-sg 1 $type a 0
	get y-sg 1
	put x 0 0 a 0
	get y 3
	put y 0 0 a 0
	get x 3
	put x 6 0 0 a
	put x 6 0 0 a
	put y 6 0 0 a
	put y 6 0 0 a
	look
done

group='flags of the parameter list'
for flags in 1 4 5 2 16 240; do
	put x 6 0 0 a $flags
	look
	put x 0 0 a b $flags
	put x 1 5 b 0 $flags
	put x 2 5 b 0 $flags
	put x 0 0 b 0 $flags
done
look

group='length of the parameter list'
for action in 0 1 2 3 4 6 7 8 31; do
	both x "$(printf '5f%02x0500000000000000' $action)"
	list x $action 5 00
	list x $action 5 $none
	list x $action 5 $none${a}00000000000000
	list x $action 5 $none${a}000000000000000000
	list x $action 5 $none${a}00000000000000000000000000000000
	list x $action 5 "$(printf '%016384d' 0)"
done
look

group='SPEC_I_PT'
put x 0 0 0 a 8
list x 0 0 $none${a}000000000800000000000000
list x 0 0 "$none${a}000000000800000000000018"
list x 0 0 "$none${a}000000000800000000000018$y_id"
look
list x 0 0 "$a${b}000000000800000000000018$z_id"
list x 0 0 "$none${a}000000000800000000000018$z_id"
look
put x 3 0 a 0
on y drain
on z drain
list x 0 0 "$none${a}000000000900000000000030$y_id$z_id"
look
put x 3 0 a 0
on y drain
on z drain
list x 0 0 "$none${a}000000000c00000000000018$y_id"
look
put x 3 0 a 0
on y drain
on z drain
list x 0 0 "$none${a}000000000800000000000018$self_id"
list x 0 0 "$none${a}000000000800000000000018$other_id"
list x 0 0 "$none${a}000000000800000000000030$y_id$other_id"
list x 0 0 "$none${a}000000000800000000000018$iscsi_id"
list x 0 0 "$none${a}000000000800000000000017$y_id"
list x 0 0 "$none${a}000000000800000000000019$y_id"
list x 0 0 "$none${a}000000000800000000000018${y_id}00"
list x 0 0 "$none${a}0000000008000000ffffffff$y_id"
list x 0 0 "$none${a}000000000800000000000018ff${y_id#06}"
list x 6 0 "$none${a}000000000800000000000018$y_id"
list x 1 5 "$none${a}000000000800000000000018$y_id"
four=$y_id$z_id$y_id$z_id
many=$four$four$four$four$four$four$four$four$four$four
list x 0 0 "$none${a}0000000008000000000003c0$many"
look
on y drain
on z drain

# Here byte 17 has the flags, 18 and 19 the target port, and the length of
# the TransportID is where SPEC_I_PT has its flags
group='REGISTER AND MOVE'
put x 6 0 0 a
put x 6 0 0 a
list x 7 0 "$a${b}0000000200000018$y_id"
put x 1 5 a 0
list x 7 0 "$b${b}0000000200000018$y_id"
list x 7 0 "$a${none}0000000200000018$y_id"
list x 7 0 "$a${b}0000000900000018$y_id"
list x 7 0 "$a${b}0000000100000018$self_id"
list x 7 0 "$a${b}0000000200000018$z_id"
list x 7 0 "$a${b}0000000200000018$other_id"
list x 7 0 "$a${b}0000000200000018$iscsi_id"
list x 7 0 "$a${b}0000000200000017$y_id"
list x 7 0 "$a${b}0000000200000000"
list x 7 0 "$a${b}0000000200000018"
list y 7 0 "$b${b}0000000200000018$y_id"
look
list x 7 0 "$a${b}0000000200000018$y_id"
look
list y 7 5 "$b${a}0002000100000018$self_id"
look
list x 7 0 "$a${b}0003000300000018$z_id"
look
put z 3 0 b 0
look

group='sense in descriptor format'
put big 1 5 a 0
put big 0 0 f a
put big 0 0 0 a
put big 1 2 a 0
get big 9
get big 0 4
get big 3
put big 7 0 a a
put big-sg 31 0 a 0
list big 0 0 0000
put big 3 0 a 0

group='sg node'
put x-sg 6 0 0 a
put y-sg 6 0 0 b
put x-sg 1 6 a 0
get y-sg 1
get x-sg 3
put y-sg 1 6 b 0
put y-sg 4 6 b a
get x-sg 0
put x-sg 6 0 0 a
put x-sg 3 0 f 0
put x-sg 3 0 a 0
get y-sg 0
get y-sg 0
get x-sg 17

group='read-only descriptor'
how=ro
get x 0
get x-sg 3
for action in 0 1 2 3 4 6 7 31; do
	put x $action 5 0 a
done
put x-sg 6 0 0 a
both x 5f000000000000000000
how=rw
look

### What is no SCSI disk

group='no SCSI disk'
node null /dev/null
echo something >/tmp/file
node file /tmp/file
dd if=/dev/zero of=/tmp/disk bs=64k count=1 2>/dev/null
losetup /dev/loop7 /tmp/disk
node loop /dev/loop7
differs=no-disk
for n in null file loop; do
	get $n 0
	put $n 6 0 0 a
done
node dir /tmp
how=ro
get dir 0
get null 0
how=path
get x 0
how=rw
differs=-
look

for side in ours theirs; do
	d=$(readlink -f /run/$side/x)
	partition "$d"
	ln -s "${d}1" /run/$side/part
done
# REGISTER AND IGNORE EXISTING KEY with key 0 of who has none changes nothing,
# so the two disks stay the same although one command reached only one
group='partition'
differs=partition
get part 0
put part 6 0 0 0
differs=-
look

### Protocol

group='what breaks the protocol'
get x 0 8193
get x 0 65535
both x 00
both x 12000000ff00
both x 600000000000
differs=cleanup
both x ff
differs=-
look

### Disks that fail

group='offline'
put x 6 0 0 a
for n in x x-sg; do
	held $n "$(in_cdb 0 255)" "$(in_cdb 0 255)" "$(out_cdb 6 0 0 b)"
	look
done

group='failed transport'
on x transport offline
differs=transport
for n in x x-sg; do
	get $n 0
	put $n 6 0 0 c
done
differs=-
on x transport online
on x drain
look

### The result

compare >/tmp/compared
while IFS="$(printf '\t')" read -r name n bad; do
	is "$(echo "$bad" | tr '|' '\n')" '' "$name: $n commands"
done </tmp/compared
diag "$(cat /tmp/differences)"

# Errors alone would also be the same
for status in 00 02 18; do
	n=$(grep -c "^$status" /tmp/ours)
	ok "$n answers with status ${status}h" test "$n" -ge 100
done
n=$(wc -l </tmp/intended)
ok "$n intended differences, at most 8" test "$n" -le 8
is "$(grep -c ' ""' /tmp/differences)" 0 'each of them was seen'
is "$(wc -l </tmp/ours) $(wc -l </tmp/theirs)" \
	"$(wc -l </tmp/asked) $(wc -l </tmp/asked)" 'every command has answers'
diag "$(wc -l </tmp/asked) commands compared, $(grep -vc "$(
	printf '\t-\t')" /tmp/asked) of them differ, for $n reasons"
ok 'qemu-pr-helper is still alive' kill -0 "$peer_pid"
ok 'prhelper is still alive' kill -0 "$helper_pid"
stop_helper
kill "$peer_pid"
done_testing
