# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# The helper as a host has it: in the background with messages to syslog,
# as an unprivileged user, in a /dev with few nodes, traced, taken over, and
# small.

# shellcheck source=test/vm/lib.sh
. /lib.sh
# shellcheck source=test/confined.sh
. /confined.sh

lun a
d=$(path a)

### in the background: messages go to syslog

syslogd -O /tmp/messages
prhelper -d -v -k $socket -f /run/pr.pid
is $? 0 '-d: started'
ok '-d: serves when the command returns' serving
is "$(pr_out "$d" 0 0 0 abc)" '00 -' '-d: REGISTER on a real disk'
logged() {
	grep -q "prhelper\[.*uid 0 ${d##*/}: REGISTER (00h).*0xabc.*$(
		)status 00h" /tmp/messages
}
ok '-v: the registration is in the log: who, where, what' within 5 logged
kill "$(cat /run/pr.pid)"
ok '-d: ends' within 10 test ! -e /run/pr.pid

### so they do when nobody reads stderr any more, as with libvirt

mkfifo /tmp/stderr
prhelper -v -k $socket 2>/tmp/stderr &
helper_pid=$!
: </tmp/stderr
within 20 serving
is "$(pr_out "$d" 6 0 0 abc)" '00 -' 'nobody reads stderr any more: serves'
resorted() {
	grep -q "prhelper\[$helper_pid\]: .*${d##*/}: REGISTER AND IGNORE" \
		/tmp/messages
}
ok '... and what was done is in the log' within 5 resorted
stop_helper

### as nobody: the right capabilities, and enough of them

start_helper -u nobody
p=$helper_pid
is "$({ status "$p" Uid; status "$p" Gid; } | tr '\t' ' ' | sort -u)" \
	'65534 65534 65534 65534' '-u nobody: ids'
# bits 17, 21 and 2: device-mapper is present here
is "$(status "$p" CapEff)" 0000000000220004 \
	'-u nobody: CAP_SYS_RAWIO, CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH'
is "$(status "$p" CapBnd)" 0000000000000000 \
	'-u nobody: empty bounding set'
is "$(pr_out "$d" 1 5 abc 0)" '00 -' '-u nobody: RESERVE on a real disk'
like "$(holder "$d")" 'abc *' '-u nobody: and it took effect'
stop_helper
is $? 0 '-u nobody: exit status 0 although the socket is not its to remove'

### a multipath map, whose paths only root may open

lun b
p1=$(path b)
p2=$(path b)
p3=$(path b)
witness=$(path b)
lun other
stranger=$(path other)
chmod 600 "$p1" "$p2" "$p3"
multipath mp "$p1" "$p2" "$p3"
mp=/dev/mapper/mp

kind='-u nobody'
start_helper -u nobody
prout '00 -' 'REGISTER on a map' $mp 0 0 0 a
copies_are '3 a'
prout '00 -' 'RESERVE on a map' $mp 1 5 a 0
prout '00 -' 'CLEAR on a map' $mp 3 0 a 0
copies_are ''
stop_helper
rm -f $socket

### without /proc

cat >/bin/without-proc <<'END'
#!/bin/sh
exec unshare -m sh -c 'mount -t tmpfs none /proc && exec prhelper "$@"' - "$@"
END
chmod 755 /bin/without-proc
kind='no /proc'
helper=without-proc start_helper 2>/tmp/warnings
is "$(cat /tmp/warnings)" "prhelper: multipath maps are refused: $(
	)/proc/devices: No such file or directory" "$kind: it says so"
prin '00 - *' 'READ KEYS of a disk' "$d" 0
prin '02 5/20/00 *' 'READ KEYS of a map' $mp 0
stop_helper

### a /dev of its own without udev, as libvirt makes one for QEMU

private=/run/dev
cat >/bin/in-private <<'END'
#!/bin/sh
exec unshare -m sh -c 'mount --bind /run/dev /dev && exec prhelper "$@"' - "$@"
END
chmod 755 /bin/in-private
mkdir $private

# node NAME DEVICE: make the same node there under this name
node() {
	type=b
	[ -b "$2" ] || type=c
	mknod -m 600 "$private/$1" $type "$(printf %d "0x$(stat -c %t "$2")")" \
		"$(printf %d "0x$(stat -c %T "$2")")"
}

# serve_in_private NAME...: start the helper where /dev has only these
serve_in_private() {
	mount -t tmpfs dev $private
	mkdir $private/mapper
	for name in null "$@"; do
		node "$name" "/dev/$name"
	done
	helper=in-private start_helper 2>/tmp/warnings
	helper=prhelper
}

end_private() {
	stop_helper
	umount $private
	cat /tmp/warnings >&2
}

all="${p1##*/} ${p2##*/} ${p3##*/}"
kind='a private /dev'
# shellcheck disable=SC2086 # they are three
serve_in_private mapper/control mapper/mp $all
prout '00 -' REGISTER $mp 0 0 0 a
copies_are '3 a'
prout '00 -' RESERVE $mp 1 5 a 0
prout '00 -' CLEAR $mp 3 0 a 0
end_private
is "$(cat /tmp/warnings)" '' "$kind: nothing is missed"

kind='a path has no node'
serve_in_private mapper/control mapper/mp "${p1##*/}" "${p3##*/}"
prout '00 -' REGISTER $mp 0 0 0 a
copies_are '2 a'
prout '00 -' RESERVE $mp 1 5 a 0
prout '00 -' RELEASE $mp 2 5 a 0
prin '00 - *' 'READ KEYS' $mp 0
prout '00 -' CLEAR $mp 3 0 a 0
copies_are ''
end_private
is "$(grep -c "/dev/${p2##*/}" /tmp/warnings) $(wc -l </tmp/warnings)" \
	'1 1' "$kind: one warning, which names it"

kind="a path's node is another disk"
serve_in_private mapper/control mapper/mp "${p1##*/}" "${p3##*/}"
node "${p2##*/}" "$stranger"
prout '00 -' REGISTER $mp 0 0 0 a
copies_are '2 a'
is "$(keys "$stranger")" '' "$kind: it got nothing"
prout '00 -' CLEAR $mp 3 0 a 0
end_private

kind='no device-mapper in /dev'
# shellcheck disable=SC2086 # they are three
serve_in_private mapper/mp $all
prin '02 5/20/00 -' 'a map is refused' $mp 0
prout '02 5/20/00' 'a map is refused' $mp 0 0 0 a
prout '00 -' 'a plain disk is served' "$d" 6 0 0 a
end_private

### the trace tells what was done and why

start_helper -T '*,file=/tmp/trace'
pr_out "$d" 3 0 abc 0 >/dev/null
pr_out /dev/null 3 0 abc 0 >/dev/null
pr_out $mp 0 0 f a >/dev/null
pr_out $mp 0 0 0 a >/dev/null
offline "$p1"
pr_out $mp 6 0 0 c >/dev/null
running "$p1"
stop_helper
for p in client_accept client_handoff request sg_io sg_done reply \
	client_close request_refused dm_map path_done path_step; do
	ok "trace: $p" grep -q " $p " /tmp/trace
done
ok 'trace: the outcome of SG_IO' grep -q \
	'sg_done .*errno=0 host=00 driver=00 status=00 .*status=00' /tmp/trace
for p in "$p1" "$p2" "$p3"; do
	ok "trace: what ${p##*/} answered" grep -q \
		"path_done path=$(dev_of "$p") REGISTER .*: good" /tmp/trace
done

### a worker that was taken over: it can still send what it should, no more

kind='the helper'
start_helper
for t in "/proc/$helper_pid/task"/*; do
	status "${t##*/}" Seccomp
	status "${t##*/}" NoNewPrivs
done | xargs >/tmp/limited
like "$(cat /tmp/limited)" '2 1 2 1 2 1*' "$kind: each thread is limited"
is "$(tr -d '21 \n' </tmp/limited)" '' "$kind: ... without an exception"
stop_helper

mkdir /tmp/cwd
cd /tmp/cwd || exit
bait
rm -f $socket
helper=confined start_helper -v 2>/tmp/refused
for kind in 'taken over' 'taken over, once more'; do
	attempts prc $socket "$d"
	is "$(prc $socket "$d" 5e1f02)" '00 - -' "$kind: rescan of a disk"
done
kind='taken over'
prout '00 -' 'REGISTER on a disk' "$d" 6 0 0 a
prout '00 -' 'CLEAR on a disk' "$d" 3 0 a 0
prout '00 -' 'REGISTER on a map' $mp 6 0 0 a
offline "$p1"
prout '00 -' 'REGISTER another key, a path is away' $mp 0 0 a c
is "$(grep -c 'key c' $socket.state/*)" 1 "$kind: it is written down"
running "$p1"
copies_become '3 c'
prout '00 -' 'CLEAR on a map' $mp 3 0 c 0
stop_helper
is "$(said /tmp/refused)" "$all_said" "$kind: each is said once"
is "$(grep -c 'not limited' /tmp/refused)" 0 "$kind: this kernel has it all"
ok "$kind: the socket is gone" test ! -e $socket
ok "$kind: the state directory is gone" test ! -e $socket.state
cd /tmp || exit

# As libvirt has it: it is root that keeps the state there, but one that may
# not go there any more.
kind='in a directory of somebody else'
rightful=$socket
socket=/tmp/theirs/sock
mkdir -m 700 /tmp/theirs
chown nobody /tmp/theirs
start_helper
prout '00 -' 'REGISTER on a map' $mp 6 0 0 a
is "$(grep -c 'key a' $socket.state/*)" 1 "$kind: it is written down"
prout '00 -' 'CLEAR on a map' $mp 3 0 a 0
stop_helper
socket=$rightful

### small

start_helper
rss() {
	sed -n 's/^Rss:[^0-9]*\([0-9]*\) kB/\1/p' \
		"/proc/$helper_pid/smaps_rollup"
}
before=$(rss)
prc -q -n 1000 $socket "$d" "$(in_cdb 0 8192)" >/tmp/answers 2>&1
is $? 0 '1000 requests: all answered'
after=$(rss)
diag "resident: $before KB idle, $after KB after 1000 requests"
sed 's/^/# /' /tmp/answers
ok 'at most 300 KB resident after 1000 requests' test "$after" -le 300
prc -q -n 100 $socket $mp "$(in_cdb 0 8192)" "$(out_cdb 6 0 0 a)" >/dev/null
diag "resident: $(rss) KB after 200 requests on a map"
stop_helper
is $? 0 'its end: exit status 0'
is "$(grep refused /tmp/messages)" '' 'in syslog: no call was refused'

done_testing
