# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# What test/demo shows a person: a disk with four paths that another host
# shares, reservations made through the helper's socket and what they do, also
# while paths die and return and the helper is killed. Each claim is also a
# test.

# shellcheck source=test/vm/lib.sh
. /lib.sh

step() {
	diag ""
	diag "$@"
}

# The command and its answer, as a person reads them
show() {
	diag "    $1 -> $2"
}

meaning() {
	case $1 in
	'00 -') echo GOOD ;;
	'18 -') echo 'RESERVATION CONFLICT' ;;
	*) echo "status and sense $1" ;;
	esac
}

# guest WHAT WANT ACTION TYPE KEY ACTION-KEY: through the helper, as QEMU
guest() {
	got=$(pr_out /dev/mapper/mp "$3" "$4" "$5" "$6")
	show "guest: $1" "$(meaning "$got")"
	is "$got" "$2" "$1"
}

# other ARGUMENT...: a command of B, who has no helper
other() {
	drain "$b"
	sg_persist -n -o "$@" "$b" >&2
}

# table [DISK]: what the target has, as B, or this path, reads it with READ
# FULL STATUS
table() {
	full "${1:-$b}" >/tmp/full
	row='A:'
	for i in 1 2 3 4 5; do
		[ $i -lt 5 ] || row="$row    B:"
		eval "d=\$p$i"
		k=$(sed -n "s/^$i //p" /tmp/full | sed 's/ holder/*/')
		row="$row  ${d##*/} ${k:--}"
	done
	diag "    $row"
}

# registered WHAT WANT: the keys of sda, ... in this order, - for none
registered() {
	is "$(for i in 1 2 3 4 5; do
		sed -n "s/^$i \([^ ]*\).*/\1/p" /tmp/full | grep . || echo -
	done | xargs)" "$2" "$1"
}

# count KEY: how many nexuses have it
count() {
	grep -c "^[0-9]* $1" /tmp/full
}

# has N KEY, lacks N KEY: the Nth nexus; has_all KEY: each of A's
has() {
	full "$b" | grep -q "^$1 $2"
}

lacks() {
	! has "$@"
}

has_all() {
	[ "$(full "$b" | grep -c "^[1-4] $1")" = 4 ]
}

# disk_of MAJOR:MINOR: its name
disk_of() {
	for d in $p1 $p2 $p3 $p4; do
		[ "$(dev_of "$d")" != "$1" ] || echo "${d##*/}"
	done
}

# holding: the path that holds the reservation
holding() {
	eval "echo \$p$(full "$b" | sed -n 's/ .* holder//p')"
}

# reservation WHAT WANT: key and type, at the target
reservation() {
	held=$(holder "$b")
	diag "    reservation: ${held:-none}"
	is "$held" "$2" "$1"
}

# paths_used WHAT DISKS: those that device-mapper sends reads and writes to
used() {
	dmsetup status mp | grep -o '[0-9]*:[0-9]* A' | while read -r dev _; do
		echo "/dev/$(disk_of "$dev")"
	done | xargs
}

uses() {
	[ "$(used)" = "$1" ]
}

paths_used() {
	within 20 uses "$2"
	diag "    device-mapper uses $(used)"
	is "$(used)" "$2" "$1"
}

# remembered: what is in the helper's state file
remembered() {
	cat $socket.state/* | while read -r word dev rest; do
		case $word in
		key) diag "      key $dev" ;;
		holder) diag "      holder $(disk_of "$dev")" ;;
		mark) diag "      path $(disk_of "$dev") $rest" ;;
		esac
	done
}

# underneath: what the helper has asked which path since the last time, and
# what that answered; not what it only read, nor what never arrived
underneath() {
	sed -n '/ path_done /{
		/ READ \| TEST \|: away\|: unit att/d
		s/.* path=//; s/ /|/; s/ type=.* key=/|/; s/ new=/|/
		s/: \([^;]*\);.*/|\1/; p
	}' /tmp/trace | while IFS='|' read -r dev what key new answer; do
		case $what in
		REGISTER) what="$what $new" ;;
		PREEMPT) what="$what $new as $key" ;;
		esac
		[ "$what" != "REGISTER $key" ] || what="has it $key?"
		diag "      $(disk_of "$dev")  $what  $answer"
	done
	: >/tmp/trace
}

type='Write Exclusive, registrants only'

refused() {
	! write_to "$1"
}

lun shared
p1=$(path shared)
p2=$(path shared)
p3=$(path shared)
p4=$(path shared)
p5=$(path shared)
b=$p5
multipath mp "$p1" "$p2" "$p3" "$p4"

step "A disk that two hosts share, a logical unit of the kernel's SCSI" \
	"target. Host A has four paths to it, ${p1##*/} to ${p4##*/}, and" \
	"device-mapper makes them one disk, /dev/mapper/mp. B has ${p5##*/}." \
	"For the target these are five nexuses that have nothing in common."
ok 'A can write' write_to /dev/mapper/mp 8
ok 'B can write' write_to "$b"

step "On A runs the helper: prhelper -k $socket. What it keeps of root:"
start_helper -T path_done,file=/tmp/trace
diag "    CapEff $(status "$helper_pid" CapEff)"
diag "    (bit 17: CAP_SYS_RAWIO; bit 21: CAP_SYS_ADMIN, for device-mapper)"
ok 'the helper serves its socket' serving

step "A guest's QEMU sends the helper a command and a descriptor of" \
	"/dev/mapper/mp. One command becomes one for each path." \
	"What the target has then, as B sees it:"
guest 'REGISTER, key aaaa' '00 -' 0 0 0 aaaa
other -G -S bbbb
table
registered 'each path has the key' 'aaaa aaaa aaaa aaaa bbbb'

step "It reserves: only those who are registered may write. One path holds" \
	"the reservation (*); who writes on the others does not notice."
guest 'RESERVE, Write Exclusive - Registrants Only' '00 -' 1 5 aaaa 0
guest 'RESERVE again, as cluster nodes do' '00 -' 1 5 aaaa 0
table
registered 'nothing else has changed' 'aaaa aaaa aaaa aaaa bbbb'
ok 'A can write on each path' write_to /dev/mapper/mp 8
ok 'B can write, it is registered' write_to "$b"

step "B does not answer, so the guest fences it:"
guest 'PREEMPT bbbb' '00 -' 4 5 aaaa bbbb
table
registered 'B has no key any more' 'aaaa aaaa aaaa aaaa -'
ok 'A can write on each path' write_to /dev/mapper/mp 8
drain "$b"
ok "B's write is refused" refused "$b"

step "B comes back and thinks the same of A:"
other -G -S bbbb
other -P -T 5 -K bbbb -S aaaa
table
registered 'A has no key any more, on no path' '- - - - bbbb'
ok 'B can write' write_to "$b"
ok "A's write is refused" refused /dev/mapper/mp
guest 'RESERVE with the key that was preempted' '18 -' 1 5 aaaa 0

step "The path ${p2##*/} breaks, and just then the guest registers again." \
	"The paths that work get the key. A write through the one without" \
	"would be refused, so the helper tells device-mapper not to use it."
offline "$p2"
guest 'REGISTER, key cccc' '00 -' 0 0 0 cccc
table
registered 'the broken path is left out' 'cccc - cccc cccc bbbb'
paths_used 'device-mapper does without it' "$p1 $p3 $p4"

step "${p2##*/} is mended. No command comes from the guest; the helper sees" \
	"it. What it does, and what ${p2##*/} then reads:"
: >/tmp/trace
running "$p2"
ok 'the path is registered by itself' within 20 has 2 cccc
underneath
table "$p2"
registered 'each path has the key' 'cccc cccc cccc cccc bbbb'
drain "$p2"
ok "${p2##*/} itself takes cccc for its key" raw_out "$p2" 0 0 cccc cccc
paths_used 'device-mapper uses it again' "$p1 $p2 $p3 $p4"

step "The guest takes the disk back from B:"
guest 'PREEMPT bbbb' '00 -' 4 5 cccc bbbb
table
reservation 'the guest holds the reservation' "cccc $type"

dead=$(holding)
step "Now ${dead##*/} breaks, the path that holds it (*). A RELEASE through" \
	"another one is GOOD for the target, and changes nothing:"
offline "$dead"
for d in $p1 $p2 $p3 $p4; do
	[ "$d" = "$dead" ] || other_path=$d
done
drain "$other_path"
ok "${other_path##*/}: RELEASE, without the helper" \
	raw_out "$other_path" 2 5 cccc 0
reservation 'it is still there' "cccc $type"
: >/tmp/trace
guest 'RELEASE' '00 -' 2 5 cccc 0
diag "What the helper did: when no path could release it, it preempted" \
	"the guest's own key through one that works. That held the" \
	"reservation then; the others were registered again."
underneath
table
reservation 'it is gone' ''
is "$(count cccc)" 3 'and each path that works still has the key'

step "${dead##*/} is mended. It has lost its key, and gets it again:"
running "$dead"
ok 'the path is registered by itself' within 20 has_all cccc
table
registered 'each path has the key' 'cccc cccc cccc cccc -'

step "The guest reserves. ${p3##*/} breaks and misses a new key. Then the" \
	"helper is killed. What it knew is in $socket.state:"
guest 'RESERVE' '00 -' 1 5 cccc 0
offline "$p3"
guest 'REGISTER, key dddd instead of cccc' '00 -' 0 0 cccc dddd
kill -9 "$helper_pid"
wait "$helper_pid" 2>/dev/null
remembered
diag "    (set: to be registered there; 1: device-mapper must not use it)"
running "$p3"
table
ok "${p3##*/} works again, but nobody registers it" lacks 3 dddd

step "The administrator asks who has what: prhelper status"
prhelper status --state=$socket.state >/tmp/status
is $? 1 'it is degraded'
diag "$(sed 's/^/    /' /tmp/status)"
ok 'a path lacks the key' grep -q "${p3##*/} .* key no, mark set" /tmp/status

step "Another helper is started. No command comes from the guest:"
: >/tmp/trace
start_helper -T path_done,file=/tmp/trace
ok 'the path is registered by itself' within 20 has_all dddd
table
registered 'each path has the new key' 'dddd dddd dddd dddd -'
reservation 'the reservation stands' "dddd $type"
ok 'A can write on each path' write_to /dev/mapper/mp 8
ok "B's write is refused" refused "$b"
guest 'RELEASE' '00 -' 2 5 dddd 0
reservation 'the new helper knew how to release it' ''

step "An administrator takes all reservations and keys away:" \
	"prhelper out clear -K dddd /dev/mapper/mp"
prhelper out clear -K dddd --state=$socket.state /dev/mapper/mp >/tmp/clear
is $? 0 'CLEAR'
diag "$(sed 's/^/    /' /tmp/clear)"
table
registered 'no key is registered any more' '- - - - -'
drain "$b"
ok 'A can write on each path' write_to /dev/mapper/mp 8
ok 'B can write' write_to "$b"
stop_helper

done_testing
