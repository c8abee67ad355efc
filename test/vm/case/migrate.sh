# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# A guest is migrated live by the newest QEMU, with what it has registered and
# reserved. Two hosts, h1 and h2, have a QEMU, a helper, and paths of their
# own to two logical units: to one of them two, which are a map, to the other
# one a single path. See doc/migration.md; what QEMU 11.1 sends:
# the destination READ RESERVATION, REGISTER and PREEMPT of the guest's own
# key; the source nothing, unless the migration fails: then the same. It does
# not move reservations of all registrants: they become Write Exclusive.
# vm: -m 2048 -r newest

# shellcheck source=test/vm/lib-guest.sh
. /lib-guest.sh

qemu=/usr/bin/qemu-system-x86_64
if ! $qemu -device scsi-block,help | grep -q migrate-pr; then
	echo "1..0 # SKIP $($qemu --version | head -n 1) has no migrate-pr"
	exit
fi
diag "$($qemu --version | head -n 1)"

# host NAME PATH PATH DISK
host() {
	mkdir -m 777 "/run/$1"
	mkfifo "/run/$1/qmp.in" "/run/$1/qmp.out"
	multipath "$1" "$2" "$3"
	ln -s "/dev/mapper/$1" "/run/$1/map"
	ln -s "$4" "/run/$1/disk"
	chmod 666 "/dev/mapper/$1" "$4"
	helper_on "$1"
}

# helper_on HOST, helper_dies_on HOST
helper_on() {
	socket=/run/$1/sock
	start_helper -v -T request 2>>"/run/$1/log"
	chmod 666 "$socket"
	echo "$helper_pid" >"/run/$1/helper"
}

helper_dies_on() {
	helper_pid=$(cat "/run/$1/helper")
	killed
}

# disk_out ARGUMENT...: a PERSISTENT RESERVE OUT to the guest's other disk
disk_out() {
	guest sg_persist -n -o "$@" /dev/sdb >&2
}

# vm HOST [ARGUMENT]...: QEMU starts there with the guest's two disks. The
# guest's serial lines are where it is.
late=off	# when to open the single disk for writing: see below
vm() {
	at=/run/$1
	shift
	cd /guest || return
	# shellcheck disable=SC2046 # they are several
	$qemu $(cat qemu-args) -run-with user=nobody \
		-chardev file,id=console,append=on,path=/dev/console \
		-serial chardev:console -serial pipe:/run/guest \
		-qmp "pipe:$at/qmp" \
		-object "pr-manager-helper,id=pr0,path=$at/sock" \
		-drive "if=none,id=d0,file=$at/map,format=raw,cache=none,$(
			)auto-read-only=off,file.pr-manager=pr0" \
		-device scsi-block,drive=d0,scsi-id=0,migrate-pr=on \
		-drive "if=none,id=d1,file=$at/disk,format=raw,cache=none,$(
			)auto-read-only=$late,file.pr-manager=pr0" \
		-device scsi-block,drive=d1,scsi-id=1,migrate-pr=on \
		"$@" >&2 &
	echo $! >"$at/qemu"
	cd /tmp || return
	qmp "${at#/run/}" qmp_capabilities >&2
}

# qmp HOST COMMAND [ARGUMENTS]: print what its QEMU returns
qmp() {
	! gone "$1" || return
	printf '{"execute": "%s", "arguments": {%s}}\n' "$2" "${3:-}" \
		>"/run/$1/qmp.in"
	timeout 60 sed -u -n '/"return"\|"error"/{p;q;}' <>"/run/$1/qmp.out"
}

# says HOST COMMAND: the status in its answer
says() {
	qmp "$1" "$2" | sed -n 's/.*"status": "\([^"]*\)".*/\1/p'
}

# waits HOST: its QEMU is ready to take the guest over
waits() {
	vm "$1" -incoming tcp:127.0.0.1:4444
}

# send HOST: the guest leaves it
send() {
	qmp "$1" migrate '"uri": "tcp:127.0.0.1:4444"' >&2
}

ended() {
	case $(says "$1" query-migrate) in
	completed | failed | cancelled) ;;
	*) false ;;
	esac
}

# outcome HOST: how it ended
outcome() {
	within 120 ended "$1"
	says "$1" query-migrate
}

runs() {
	[ "$(says "$1" query-status)" = running ]
}

# gone HOST: its QEMU is, of itself
gone() {
	! kill -0 "$(cat "/run/$1/qemu")" 2>/dev/null
}

# move FROM TO
move() {
	ok "$kind: QEMU starts at the destination" waits "$2"
	start=$(ms)
	send "$1"
	is "$(outcome "$1")" completed "$kind: the guest migrates"
	diag "in $(($(ms) - start)) ms"
	ok "$kind: it runs at the destination" within 60 runs "$2"
	qmp "$1" quit >&2
	within 60 gone "$1"
}

# nexuses WITNESS: print target port and key of all that are registered, and
# how many hold the reservation
nexuses() {
	full "$1" | awk '
		{ printf "%s %s, ", $1, $2 }
		/holder/ { n++ }
		END { print "holders: " n + 0 }'
}

# at_target MAP DISK: they are as they should be
at_target() {
	is "$(nexuses "$w")" "$1" "$kind: ... the map, at the target"
	is "$(nexuses "$v")" "$2" "$kind: ... the disk, at the target"
}

# goes_on PATH...: the guest's disks are as they were, as it sees it. No write
# was refused, and none of these paths can write.
goes_on() {
	like "$(guest_in -k)" '*0xa*' "$kind: READ KEYS in the guest"
	like "$(guest_in -r)" "$held_a" "$kind: READ RESERVATION in the guest"
	like "$(guest sg_persist -n -r /dev/sdb)" "$held_c" \
		"$kind: ... of the disk"
	ok "$kind: the guest has written all the time" \
		guest 'test -s /good && : >/good'
	is "$(guest cat /bad)" '' "$kind: ... and no write was refused"
	for d; do
		write_to "$d"
		is $? 1 "$kind: other paths cannot write"
	done
}

# breaks HOST PATH, back HOST PATH: a path does not work, it works again. Each
# time the map is told, as multipathd would do.
breaks() {
	offline "$2"
	fail "$1" "$2"
}

back() {
	running "$2"
	reinstate "$1" "$2"
}

# gets_nothing HOST PATH: it breaks and returns, and is registered no more
gets_nothing() {
	breaks "$1" "$2"
	back "$1" "$2"
	copies_stay '2 a'
}

# knows_nothing HOST: its helper remembers no key
knows_nothing() {
	! grep -qs '^key [^0]' "/run/$1/sock.state"/*
}

lun a
p1=$(path a 1)
p2=$(path a 1)
p3=$(path a 2)
p4=$(path a 2)
w=$(path a 3)
lun c
c1=$(path c 1)
c2=$(path c 2)
v=$(path c 3)
witness=$w
host h1 "$p1" "$p2" "$c1"
host h2 "$p3" "$p4" "$c2"

### The guest on h1

kind=h1
start=$(ms)
vm h1 -incoming 'exec:cat /guest/state'
ok "$kind: the guest arrives" greet
diag "in $(($(ms) - start)) ms"
guest ": >/bad; while sleep 0.3; do dd if=/dev/zero of=/dev/sda bs=4k $(
	)count=1 oflag=direct && echo >>/good || echo >>/bad; done $(
	)>/dev/null 2>&1 &"
ok "$kind: the map: REGISTER" guest_out -G -S a
ok "$kind: the map: RESERVE" guest_out -R -K a -T 5
ok "$kind: the disk: REGISTER" disk_out -G -S c
ok "$kind: the disk: RESERVE" disk_out -R -K c -T 1
held_a="*Key=0xa?*type: $we_ro*" held_c='*Key=0xc?*type: Write Exclusive'
at_target '1 a, 2 a, holders: 1' '1 c, holders: 1'
goes_on "$p3" "$c2"
is "$(may knows_nothing h1) $(may knows_nothing h2)" 'no yes' \
	"$kind: its helper knows the key, that of h2 does not"

### To h2, while both hosts have a path that is broken

kind='to h2'
breaks h1 "$p2"
breaks h2 "$p4"
move h1 h2
at_target '3 a, holders: 1' '2 c, holders: 1'
goes_on "$p1" "$c1"
back h2 "$p4"
copies_become '2 a'
back h1 "$p2"
gets_nothing h1 "$p1"
at_target '3 a, 4 a, holders: 1' '2 c, holders: 1'
p5=$(path a 1)
reload h1 "$p1" "$p2" "$p5"
copies_stay '2 a'
ok "$kind: a new path on h1 makes its helper forget the guest" \
	within 30 knows_nothing h1
reload h1 "$p1" "$p2"
goes_on "$p1" "$p2" "$p5" "$c1"

### Back to h1. The helper of h2 is killed before it has seen anything.

kind='back to h1'
move h2 h1
helper_dies_on h2
ok "$kind: the helper of h2 is killed and started again" helper_on h2
at_target '1 a, 2 a, holders: 1' '1 c, holders: 1'
ok "$kind: its successor forgets the guest" within 30 knows_nothing h2
gets_nothing h2 "$p3"
gets_nothing h2 "$p4"
at_target '1 a, 2 a, holders: 1' '1 c, holders: 1'
goes_on "$p3" "$p4" "$c2"

### Cancelled; the disk has a registration only

kind=cancelled
ok "$kind: the disk: RELEASE" disk_out -L -K c -T 1
held_c='*NO reservation held*'
ok "$kind: QEMU starts at the destination" waits h2
qmp h1 migrate-set-parameters '"max-bandwidth": 10000' >&2
send h1
qmp h1 migrate_cancel >&2
is "$(outcome h1)" cancelled "$kind: it is"
within 60 gone h2 || kill "$(cat /run/h2/qemu)"
qmp h1 migrate-set-parameters '"max-bandwidth": 1000000000' >&2
ok "$kind: the guest runs" runs h1
at_target '1 a, 2 a, holders: 1' '1 c, holders: 0'
goes_on "$p3" "$p4"

### Failed: h2 has taken over the map when it finds that it cannot have the
### disk, which it has not opened for writing. The source takes the map back.

kind=failed
: >/run/h2/log
late=on
ok "$kind: QEMU starts at the destination" waits h2
late=off
qmp h1 migrate-set-capabilities "\"capabilities\": [{$(
	)\"capability\": \"return-path\", \"state\": true}]" >&2
send h1
is "$(outcome h1)" failed "$kind: it does"
within 60 gone h2
is "$(grep -c 'dm-1: PREEMPT .*status 00h' /run/h2/log)" 1 \
	"$kind: ... when h2 had the map"
ok "$kind: the guest runs at the source" runs h1
at_target '1 a, 2 a, holders: 1' '1 c, holders: 0'
gets_nothing h2 "$p3"
goes_on "$p3" "$p4"

### Once more, with no reservation at all. A QEMU that is newer than 11.1
### sends CLEANUP in the end.

kind='again to h2'
ok "$kind: the map: RELEASE" guest_out -L -K a -T 5
held_a='*NO reservation held*'
move h1 h2
is "$(may knows_nothing h1)" no "$kind: the helper of h1 was told nothing"
is "$(prc /run/h1/sock /run/h1/map ff)" '00 - -' "$kind: CLEANUP on h1"
ok "$kind: ... its helper has forgotten the guest" knows_nothing h1
at_target '3 a, 4 a, holders: 0' '2 c, holders: 0'
gets_nothing h1 "$p1"
at_target '3 a, 4 a, holders: 0' '2 c, holders: 0'
goes_on

qmp h2 quit >&2
cat /run/h1/log /run/h2/log >&2
done_testing
