# shellcheck shell=sh disable=SC2034,SC2154 # from lib.sh, for cases
# See LICENSE file for copyright and license details.
#
# What the cases about fence agents are written with; they source it as
# /lib-agents.sh after /lib.sh. Three hosts with a map each, guests on two of
# them, and the distribution's agents on all.

### Hosts a, b and c have two paths each to the disk "shared"; their plain
### disks are another one. PREEMPT AND ABORT wants a real network.

modprobe iscsi_tcp 2>/dev/null || :
ip link set lo up
lun shared
lun plain
n=0
login() {
	n=$((n + 1))
	iscsi_export "$2" 127.0.0.$n
	eval "$3=\$(iscsi_login \$1 \$2 127.0.0.\$n)"
}
for host in a b c; do
	login $host shared ${host}1
	login $host shared ${host}2
	login $host plain ${host}0
done
login w shared witness
login w plain plain_witness
multipath a "$a1" "$a2"
multipath b "$b1" "$b2"
multipath c "$c1" "$c2"
disk_a=$a0 disk_b=$b0 disk_c=$c0

# A map as the guest that it belongs to sees it: as a disk. fence_scsi would
# go for its paths, and a guest has none.
guest_disk() {
	minor=$(dmsetup info -c --noheadings -o minor "$1")
	mknod "/dev/guest-$1" b \
		"$(dmsetup info -c --noheadings -o major "$1")" "$minor"
}
guest_disk a
guest_disk b

# serve HOST: a helper for the guests of that host
serve() {
	socket=/run/$1.sock
	start_helper -v -T path_step -T path_done 2>>"/tmp/$1.log" >&2
	eval "pid_$1=\$helper_pid"
}
ok 'a helper for guest a' serve a
ok 'a helper for guest b' serve b

# log_of HOST PATTERN: the helper has said so
log_of() {
	grep -q "$2" "/tmp/$1.log"
}

### sg_persist as it is in the guest: QEMU hands its commands to the helper

cat >/usr/local/bin/guest_persist <<'END'
#!/bin/sh
# The helper's socket is $PR_SOCKET. Options as fence_scsi and people use them.
. /lib.sh
in= action= key=0 action_key=0 type=0 flags=0 device=
while [ $# -gt 0 ]; do
	case $1 in
	-V) exec sg_persist -V ;;
	-n | -y) ;;
	-i) in=y ;;
	-o) in= ;;
	-k | -G) action=0 ;;
	-r) action=1 ;;
	-R) action=1 ;;
	-L) action=2 ;;
	-C) action=3 ;;
	-P) action=4 ;;
	-A) action=5 ;;
	-I) action=6 ;;
	-Z) flags=1 ;;
	-K) key=$2; shift ;;
	-S) action_key=$2; shift ;;
	-T) type=$2; shift ;;
	-d) device=$2; shift ;;
	*) device=$1 ;;
	esac
	shift
done
if [ "$in" ]; then
	cdb=$(in_cdb "$action" 8192)
else
	cdb=$(out_cdb "$action" "$type" "$key" "$action_key" "$flags")
fi
answer=$(prc "$PR_SOCKET" "$device" "$cdb")
echo "$* $cdb: $answer" >&2
case $answer in
'00 -'*) ;;
'18 -'*) echo 'persistent reserve: Reservation conflict' >&2; exit 24 ;;
'02 2/'*) exit 2 ;;
'02 5/'*) exit 5 ;;
'02 6/'*) exit 6 ;;
'02 b/'*) exit 11 ;;
*) exit 99 ;;
esac
[ "$in" ] || exit 0
data=${answer##* }
generation=$(printf %x 0x"$(echo "$data" | cut -c 1-8)")
length=$((0x$(echo "$data" | cut -c 9-16)))
data=$(echo "$data" | cut -c 17-)
case $action,$length in
0,0)
	echo "  PR generation=0x$generation, there are NO registered$(
		) reservation keys" ;;
0,8)
	echo "  PR generation=0x$generation, 1 registered reservation$(
		) key follows:" ;;
0,*)
	echo "  PR generation=0x$generation, $((length / 8)) registered$(
		) reservation keys follow:" ;;
1,0)
	echo "  PR generation=0x$generation, there is NO reservation held" ;;
*)
	echo "  PR generation=0x$generation, Reservation follows:"
	printf '    Key=0x%x\n' "0x$(echo "$data" | cut -c 1-16)"
	echo '    scope: LU_SCOPE,  type: Write Exclusive, registrants only' ;;
esac
[ "$action" -ne 0 ] || echo "$data" | fold -w 16 |
	while read -r key || [ "$key" ]; do
		[ -z "$key" ] || printf '    0x%x\n' "0x$key"
	done
END
chmod 755 /usr/local/bin/guest_persist

# through HOST ARGUMENT...: that one
through() {
	host=$1
	shift
	PR_SOCKET=/run/$host.sock /usr/local/bin/guest_persist "$@"
}

# same_view HOST DISK: READ KEYS and READ RESERVATION through the helper show
# what sg_persist shows
same_view() {
	drain "$2"
	for what in -k -r; do
		through "$1" -n -i $what -d "/dev/guest-$1" 2>>/tmp/debug
	done >/tmp/through
	for what in -k -r; do
		sg_persist -n -i $what -d "$2"
	done >/tmp/direct
	is "$(cat /tmp/through)" "$(cat /tmp/direct)" \
		"$kind: ... a guest and sg_persist see the same"
}

### fence_scsi; each node has a directory that it believes to be /var/run

# agent NAME COMMAND...: as that node; prints the result and what it says
agent() {
	node=$1
	shift
	mkdir -p "/tmp/node/$node"
	rm -rf /run/cluster*
	cp -a "/tmp/node/$node/." /run
	says=$("$@" 2>"/tmp/node.err")
	result=$?
	rm -rf "/tmp/node/$node"
	mkdir -p "/tmp/node/$node"
	for f in /run/cluster*; do
		[ ! -e "$f" ] || mv "$f" "/tmp/node/$node"
	done
	{
		echo "# $node: $*: $result: $says"
		cat /tmp/node.err
	} >&2
	echo "$result $says"
}

# in_guest HOST ARGUMENT..., on_disk HOST ARGUMENT...: fence_scsi in a guest,
# on a plain disk
in_guest() {
	host=$1
	shift
	PR_SOCKET=/run/$host.sock agent "guest-$host" fence_scsi \
		--sg_persist-path=/usr/local/bin/guest_persist \
		-d "/dev/guest-$host" "$@"
}

on_disk() {
	host=$1
	shift
	eval "d=\$disk_$host"
	agent "disk-$host" fence_scsi -d "$d" "$@"
}

# on_map HOST ARGUMENT...: and on a host that has the map
on_map() {
	host=$1
	shift
	agent "host-$host" fence_scsi -d "/dev/mapper/$host" "$@"
}

# each_key DISK: what is registered, each key once, and the reservation
each_key() {
	keys "$1" | tr ' ' '\n' | sort -u | xargs
	holder "$1"
}

# both WANT HOST ARGUMENT...: guests and plain disks come to the same
both() {
	want=$1
	shift
	got=$(in_guest "$@")
	like "$got" "$want" "$kind: guest $*"
	is "$(on_disk "$@"); $(each_key "$plain_witness")" \
		"$got; $(each_key "$witness")" "$kind: ... as on plain disks"
}

wrote() {
	for d; do
		may write_to "$d"
	done | xargs
}

# noticed HOST KEY: the guest with this key is out, its helper knows it and
# does not register it again when paths return
noticed() {
	through "$1" -n -o -R -T 5 -K "$2" -d "/dev/guest-$1" 2>>/tmp/debug
	is $? 24 "$kind: the guest's RESERVE: a conflict"
	ok "$kind: the helper knows" log_of "$1" "key 0x$2 is not registered"
	before=$(copies)
	eval "paths=\"\$${1}1 \$${1}2\""
	for d in $paths; do
		offline "$d"
		write_to "/dev/guest-$1" || :
		running "$d"
		reinstate "$1" "$d"
	done
	copies_stay "$before"
}

# known_again HOST: what its helper has said is forgotten
known_again() {
	: >"/tmp/$1.log"
}
