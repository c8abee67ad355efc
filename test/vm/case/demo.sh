# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# What test/demo shows a person: a disk with four paths that another host
# shares, reservations made through the helper's socket and what they do.
# Each claim is also a test.

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

# table: what the target has, as B reads it with READ FULL STATUS
table() {
	full "$b" >/tmp/full
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
start_helper
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
	"The paths that work get the key:"
offline "$p2"
guest 'REGISTER, key cccc' '00 -' 0 0 0 cccc
table
registered 'the broken path is left out' 'cccc - cccc cccc bbbb'

step "The path is mended. What the guest registers now goes to all paths:"
running "$p2"
guest 'REGISTER AND IGNORE EXISTING KEY, key cccc' '00 -' 6 0 0 cccc
table
registered 'each path has the key' 'cccc cccc cccc cccc bbbb'

step "An administrator takes all reservations and keys away:"
guest CLEAR '00 -' 3 0 cccc 0
table
registered 'no key is registered any more' '- - - - -'
drain "$b"
ok 'A can write on each path' write_to /dev/mapper/mp 8
ok 'B can write' write_to "$b"
stop_helper

done_testing
