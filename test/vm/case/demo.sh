# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# What test/demo shows a person: a shared disk, two hosts, a reservation made
# through the helper's socket and what it does. Each claim is also a test.

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
	got=$(pr_out "$a" "$3" "$4" "$5" "$6")
	show "guest on A: $1" "$(meaning "$got")"
	is "$got" "$2" "$1"
}

refused() {
	! write_to "$1"
}

lun shared
a=$(path shared)
b=$(path shared)

step "A disk that two hosts share: A sees it as $a, B as $b." \
	"Each has an I_T nexus of its own to one logical unit of the" \
	"kernel's SCSI target."
ok 'A can write' write_to "$a"
ok 'B can write' write_to "$b"

step "On A runs the helper: prhelper -k $socket. What it keeps of root:"
start_helper
diag "    CapEff $(status "$helper_pid" CapEff)"
diag "    (bit 17: CAP_SYS_RAWIO; bit 21: CAP_SYS_ADMIN, for device-mapper)"
ok 'the helper serves its socket' serving

step "A guest's QEMU sends the helper a command and a descriptor of $a."
guest 'REGISTER, key aaaa' '00 -' 0 0 0 aaaa
guest 'RESERVE, Write Exclusive - Registrants Only' '00 -' 1 5 aaaa 0
diag "What B finds out with sg_persist, which knows nothing of the helper:"
diag "    keys: $(keys "$b")"
diag "    holder: $(holder "$b")"
like "$(holder "$b")" 'aaaa *' 'B sees who holds the reservation'

step "B is not registered, so the disk is closed to it:"
ok 'A can write' write_to "$a"
ok "B's write is refused" refused "$b"

step "B thinks that A is dead and fences it: it registers and preempts."
sg_persist -n -o -G -S bbbb "$b" >&2
sg_persist -n -o -P -T 5 -K bbbb -S aaaa "$b" >&2
diag "    keys: $(keys "$b")"
diag "    holder: $(holder "$b")"
ok 'B can write' write_to "$b"
drain "$a"
ok "A's write is refused" refused "$a"
guest 'RESERVE with the key that was preempted' '18 -' 1 5 aaaa 0

step "An administrator lets A in again and takes all reservations away:"
guest 'REGISTER, key aaaa' '00 -' 0 0 0 aaaa
guest CLEAR '00 -' 3 0 aaaa 0
drain "$b"
ok 'A can write' write_to "$a"
ok 'B can write' write_to "$b"
is "$(keys "$b")" '' 'no key is registered any more'
stop_helper

done_testing
