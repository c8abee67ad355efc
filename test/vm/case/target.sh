#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Everything that one host with a plain SCSI disk does: each command with
# right and wrong keys, two nexuses that fight, each kind of descriptor, a
# disk that goes offline. The device is LIO through tcm_loop; a nexus of its
# own and sg_persist look at what really happened.

# shellcheck source=test/vm/lib.sh
. /lib.sh

lun a
x=$(path a)
y=$(path a)
w=$(path a)	# never registered
witness=$w
ok 'the helper starts and serves' start_helper

# Two hosts, a and b, fight for the disk from the first to the last command.
fight() {
	kind=$1 me=$2 peer=$3

	prin '00 - ????????00000000' 'READ KEYS: nobody' "$me" 0
	prin '00 - ????????00000000' 'READ RESERVATION: none' "$me" 1
	prin '00 - ????????00000000' 'READ FULL STATUS: nobody' "$me" 3
	prin '00 - 00081d??ea010000' 'REPORT CAPABILITIES' "$me" 2

	prout '18 -' 'REGISTER with a key before there is one' "$me" 0 0 f a
	# LIO has its own idea of what this is; it is passed on
	prout '02 2/08/00' 'RESERVE unregistered' "$me" 1 5 a 0
	prout '02 2/08/00' 'CLEAR unregistered' "$me" 3 0 a 0
	prout '18 -' 'PREEMPT unregistered' "$me" 4 5 a b
	keys_are ''
	prout '00 -' 'REGISTER' "$me" 0 0 0 a
	keys_are 'a'
	prout '18 -' 'REGISTER again as if it were new' "$me" 0 0 0 c
	prout '18 -' 'REGISTER with a wrong key' "$me" 0 0 f c
	keys_are 'a'
	prout '00 -' 'REGISTER another key' "$me" 0 0 a c
	keys_are 'c'
	prout '00 -' 'REGISTER AND IGNORE EXISTING KEY' "$me" 6 0 f a
	keys_are 'a'
	prout '00 -' 'REGISTER of the other nexus, with 64 bits' \
		"$peer" 0 0 0 fedcba9876543210
	prin '00 - ????????00000010000000000000000afedcba9876543210' \
		'READ KEYS: both' "$me" 0
	keys_are 'a fedcba9876543210'
	prout '00 -' 'REGISTER AND IGNORE again' "$peer" 6 0 0 b

	prout '18 -' 'RESERVE with a wrong key' "$me" 1 5 f 0
	prout '02 5/24/00' 'RESERVE with an unknown type' "$me" 1 2 a 0
	holder_is ''
	prout '00 -' 'RESERVE' "$me" 1 5 a 0
	prout '00 -' 'RESERVE once more' "$me" 1 5 a 0
	prin '00 - ????????00000010000000000000000a0000000000050000' \
		'READ RESERVATION' "$peer" 1
	prin "$full" 'READ FULL STATUS' "$peer" 3
	holder_is 'a Write Exclusive, registrants only'
	prout '18 -' 'RESERVE another type' "$me" 1 6 a 0
	prout '18 -' 'RESERVE by the other nexus' "$peer" 1 5 b 0
	prout '00 -' 'RELEASE by who does not hold it' "$peer" 2 5 b 0
	prout '18 -' 'RELEASE with a wrong key' "$me" 2 5 f 0
	prout '18 -' 'RELEASE with a wrong type' "$me" 2 6 a 0
	holder_is 'a Write Exclusive, registrants only'

	prout '18 -' 'PREEMPT with a wrong key' "$peer" 4 5 f a
	prout '18 -' 'PREEMPT of a key that is not there' "$peer" 4 5 b f
	keys_are 'a b'
	prout '00 -' 'PREEMPT' "$peer" 4 5 b a
	keys_are 'b'
	holder_is 'b Write Exclusive, registrants only'
	prin '02 6/2a/05 -' 'who was preempted is told so' "$me" 0
	prout '18 -' 'and is out' "$me" 1 5 a 0
	prout '00 -' 'PREEMPT of oneself (migration)' "$peer" 4 6 b b
	holder_is 'b Exclusive Access, registrants only'

	prout '00 -' 'REGISTER AND IGNORE to come back' "$me" 6 0 0 a
	prout '18 -' 'CLEAR with a wrong key' "$me" 3 0 f 0
	keys_are 'b a'
	prout '00 -' 'CLEAR by any registrant' "$me" 3 0 a 0
	keys_are ''
	holder_is ''
	prin '02 6/2a/03 -' 'the other one is told so' "$peer" 0

	prout '00 -' 'REGISTER' "$me" 0 0 0 a
	prout '00 -' 'RESERVE' "$me" 1 1 a 0
	prout '00 -' 'REGISTER with key 0' "$me" 0 0 a 0
	keys_are ''
	holder_is ''
}

# types KIND DEVICE: each type of reservation of x, as y sees it, which is
# registered, and w, which is not. By type: y may write, w may read.
types() {
	kind=$1 me=$2
	while IFS=/ read -r type name by_y by_w; do
		prout '00 -' "RESERVE type $type" "$me" 1 "$type" a 0
		key=a
		[ "$type" -lt 7 ] || key=0
		holder_is "$key $name"
		x_may=$(may write_to "$x") y_may=$(may write_to "$y")
		w_may=$(may read_from "$w")
		is "x $x_may, y $y_may, w $w_may" \
			"x yes, y $by_y, w $by_w" \
			"$kind: type $type lets in who it should"
		is "$(may write_to "$w")" no "$kind: ... and nobody else"
		prout '00 -' "RELEASE type $type" "$me" 2 "$type" a 0
		holder_is ''
		drain "$y"
	done <<-END
		1/Write Exclusive/no/yes
		3/Exclusive Access/no/no
		5/Write Exclusive, registrants only/yes/yes
		6/Exclusive Access, registrants only/yes/no
		7/Write Exclusive, all registrants/yes/yes
		8/Exclusive Access, all registrants/yes/no
	END
	is "$(may write_to "$w")" yes "$kind: free after the last RELEASE"
}

# Parameter lists that are longer than 24 bytes name other nexuses.
transport_ids() {
	kind=TransportID y_id=06000000$y_sas$(printf %024d 0)
	len=00000034 a=000000000000000a b=000000000000000b zero=00000000
	is "$(prc $socket "$x" \
		"5f00000000${len}00:$zero$zero$a${zero}08000000$(
		)00000018$y_id")" '00 - -' \
		"$kind: REGISTER with a TransportID (SPEC_I_PT)"
	keys_are 'a a'
	prout '00 -' 'RESERVE' "$x" 1 5 a 0
	len=00000030
	is "$(prc $socket "$x" \
		"5f07050000${len}00:$a${b}0000000200000018$y_id")" \
		'00 - -' "$kind: REGISTER AND MOVE"
	keys_are 'a b'
	holder_is 'b Write Exclusive, registrants only'
	drain "$y"
	prout '00 -' 'CLEAR by who got it' "$y" 3 0 b 0
	drain "$x"
	keys_are ''
}

# What is asked for is what is given, never more.
lengths() {
	kind=$1 me=$2
	prout '00 -' 'REGISTER' "$me" 0 0 0 a
	for action in 0 1 2 3; do
		# LIO wants room for a header
		prin '02 5/24/00 -' "IN $action, 0 bytes" "$me" $action 0
		prin '02 5/24/00 -' "IN $action, 4 bytes" "$me" $action 4
		all=$(pr_in "$me" $action 8192)
		head=$(echo "$all" | cut -c 1-21)
		# LIO counts only what it has room for
		[ $action -ne 3 ] || head=${head%????????}00000000
		prin "$head" "IN $action, 8 bytes: the header" "$me" $action 8
		prin "$all" "IN $action, 255 bytes: all there is" "$me" $action
	done
	prin '00 - ????????00000008000000000000000a' 'IN 0, 8192 bytes' \
		"$me" 0 8192
	prin '02 5/24/00 -' 'unknown IN' "$me" 4
	prin '02 5/24/00 -' 'last unknown IN' "$me" 31
	prout '02 5/24/00' 'unknown OUT' "$me" 8 0 a 0
	prout '02 5/24/00' 'last unknown OUT' "$me" 31 0 a 0
	keys_are 'a'
	prout '00 -' 'REGISTER with key 0' "$me" 0 0 a 0
}

# Many guests at once on one disk: everybody gets his own answer.
crowd() {
	kind=crowd
	for i in 1 2 3 4 5 6 7 8; do
		prc -n 50 $socket "$x" "$(in_cdb 0 255)" \
			"$(in_cdb 2 255)" >/tmp/crowd.$i &
		crowd_pids="$crowd_pids $!"
	done
	# shellcheck disable=SC2086 # several words
	wait $crowd_pids
	is "$(cat /tmp/crowd.? | sort | uniq -c | sed 's/^ *//')" \
		"$(printf '400 %s\n' "$(pr_in "$x" 2)" "$(pr_in "$x" 0)" |
		sort)" "$kind: 8 clients, 100 commands each"
}

a_first='000000000000000a00000000010500000000000100000018'
b_next='000000000000000b00000000000000000000000200000018'
x_sas=5001405000000001 y_sas=5001405000000002
full="00 - ????????00000060${a_first}06000000$x_sas*${b_next}06000000$y_sas*"

sx=$(sg_of "$x") sy=$(sg_of "$y")
fight sd "$x" "$y"
drain "$x"
drain "$y"
fight sg "$sx" "$sy"
kind=set-up
prout '00 -' 'REGISTER of x' "$x" 6 0 0 a
prout '00 -' 'REGISTER of y' "$y" 6 0 0 b
types sg "$sx"
types sd "$x"
prout '00 -' 'CLEAR' "$x" 3 0 a 0
drain "$y"
transport_ids
lengths sd "$x"
lengths sg "$sx"
crowd

### What the registration leaves behind where it must survive a power loss

kind=APTPL
prout '00 -' 'REGISTER with APTPL' "$x" 0 0 0 a 1
ok 'the target has written it down' \
	grep -qa sa_res_key=10 /etc/target/pr/aptpl_a
prout '00 -' 'REGISTER with key 0' "$x" 0 0 a 0 1

### Descriptors

# both WANT-IN WANT-OUT WHAT HOW DEVICE: an IN, an OUT and the IN again in one
# connection; the last one shows that it lives on
both() {
	got=$(prc -o "$4" $socket "$5" "$(in_cdb 0 8)" \
		"$(out_cdb 6 0 0 e)" "$(in_cdb 0 8)" | cut -c 1-10)
	is "$got" "$(printf '%s\n' "$1" "$2" "$1")" "$3"
}

no='02 5/20/00'
both '00 - 00000' "$no" 'sd, read-only: IN works, OUT does not' ro "$x"
both '00 - 00000' "$no" 'sg, read-only: IN works, OUT does not' ro "$sx"
is "$(keys "$w")" '' '... and nothing was registered'

ok 'there is a partition' partition "$x"
both "$no" "$no" 'partition' rw "${x}1"

loop=$(losetup -f)
losetup "$loop" "$x"
both "$no" "$no" 'loop device' rw "$loop"
losetup -d "$loop"

dmsetup create lin --table "0 2048 linear $x 0"
dmsetup mknodes lin
both "$no" "$no" 'dm-linear' rw /dev/mapper/lin
dmsetup remove lin

both "$no" "$no" 'virtio disk' rw /dev/vda
both "$no" "$no" 'NVMe disk' rw /dev/nvme0n1
echo something >/tmp/file
both "$no" "$no" 'regular file' rw /tmp/file
both "$no" "$no" 'directory' ro /tmp
both "$no" "$no" '/dev/null' rw /dev/null
both "$no" "$no" 'SCSI disk, O_PATH' path "$x"
is "$(cat /tmp/file)" something 'the file is as it was'
is "$(keys "$w")" '' 'none of them registered anything'

### CLEANUP: a plain disk has nothing to forget

kind=CLEANUP
prout '00 -' 'REGISTER' "$x" 0 0 0 a
is "$(prc $socket "$x" ff)" '00 - -' 'CLEANUP: sd, writable'
is "$(prc $socket "$sx" ff)" '00 - -' 'CLEANUP: sg, writable'
is "$(prc -o ro $socket "$x" ff)" '02 5/20/00 -' 'CLEANUP: sd, read-only'
keys_are a

### A disk that goes offline under a guest, which keeps it open

answered() {
	[ "$(wc -l </tmp/answers)" -eq "$1" ]
}

mkfifo /tmp/guest
for d in "$x" "$sx"; do
	: >/tmp/answers
	prc $socket "$d" </tmp/guest >/tmp/answers &
	exec 3>/tmp/guest
	in_cdb 0 255 >&3
	echo >&3
	ok "$d answers" within 20 answered 1
	offline "$x"
	{
		in_cdb 0 255
		echo
		out_cdb 6 0 0 e
		echo
	} >&3
	within 60 answered 3
	is "$(sed -n '2,3p' /tmp/answers)" "$(printf '%s\n' \
		'02 b/08/00 -' '02 b/08/00 -')" \
		"$d offline: an error with sense for IN and OUT"
	running "$x"
	out_cdb 6 0 0 c >&3
	exec 3>&-
	wait $!
	is "$(sed -n '4p' /tmp/answers)" '00 - -' \
		"$d online again: it works"
	keys_are c
done

# The transport fails, and the kernel has not noticed: the command comes back
# with SCSI status 0 and a host status, which is no GOOD.
transport offline "$x"
for d in "$x" "$sx"; do
	is "$(pr_in "$d" 0) $(pr_out "$d" 0 0 c 0)" \
		'02 b/08/00 - 02 b/08/00' "$d: a failed transport is no GOOD"
done
transport online "$x"
kind=transport
drain "$x"
keys_are c
prout '00 -' 'REGISTER with key 0' "$x" 0 0 c 0

### The helper itself

p=$helper_pid
is "$(status "$p" NoNewPrivs) $(status "$p" CapBnd)" '1 0000000000000000' \
	'nothing can be gained any more'
# CAP_SYS_RAWIO, and CAP_SYS_ADMIN for device-mapper
is "$(status "$p" CapEff) $(status "$p" CapPrm)" \
	'0000000000220000 0000000000220000' \
	'root keeps two capabilities'
stop_helper
is "$?" 0 'SIGTERM ends it with exit status 0'
ok 'and its socket is gone' test ! -e $socket

ok 'as somebody else' start_helper -u nobody
p=$helper_pid
like "$(status "$p" Uid | tr '\t' ' ') $(status "$p" Groups)" \
	'65534 65534 65534 65534 ' 'it is nobody, in no other group'
kind='-u nobody'
prout '00 -' 'REGISTER' "$x" 0 0 0 a
keys_are a
prout '00 -' 'REGISTER with key 0' "$x" 0 0 a 0
stop_helper
rm -f $socket

ok 'as a reporter' start_helper -v 2>/tmp/messages
kind=-v
prout '00 -' 'REGISTER' "$x" 0 0 0 a
prout '18 -' 'RESERVE with a wrong key' "$x" 1 5 f 0
like "$(tail -n 2 /tmp/messages)" \
	"*pid * uid 0 *sda*REGISTER*0xa*00h*RESERVE*type 5*0xf*18h*" \
	'one line for each OUT'
stop_helper

done_testing
