# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# The AppArmor profile, with the commands of doc/confinement.md: all that
# prhelper does is done under it, as a service, by hand and below the profile
# of libvirtd, and the kernel has nothing to refuse. Then what it shall refuse.
# vm: -m 2048 -r host

# shellcheck source=test/vm/lib.sh
. /lib.sh

# as_told HEADING: run what the page has below it
as_told() {
	page confinement "$1" >/tmp/commands
	[ -s /tmp/commands ] && sh -e /tmp/commands
}

# refusals: print those since the last time: what, and of which file
refusals() {
	dmesg -c | sed -n '/apparmor="DENIED".*profile="prhelper"/ {
		s/.*operation="\([^"]*\)"/\1/
		s/^\([a-z_]*\).* name="\([^"]*\)".*/\1 \2/
		s/^\([a-z_]*\) .*="prhelper".*/\1/
		p
	}' | sort -u
}

none_refused() {
	is "$(refusals)" '' "$kind: AppArmor has refused nothing"
}

label() {
	cat "/proc/$1/attr/current"
}

# below PROFILE COMMAND...: run it there
below() {
	profile=$1
	shift
	timeout 60 aa-exec -p "$profile" -- "$@"
}

# aside COMMAND...: what it prints is for the console
aside() {
	"$@" >&2
}

# fails COMMAND...: a helper that shall not start; what it says is in /tmp/said
fails() {
	timeout 20 "$@" >/tmp/said 2>&1 || :
}

# No line of the kernel's is to be missed
echo 0 >/proc/sys/kernel/printk_ratelimit
systemctl start apparmor
lun plain
plain=$(path plain)
sg=$(sg_of "$plain")
four_paths
udevadm settle
without_udev

### The page, and the service

ok 'the page: load' as_told Load
page systemd Enable | sh -e >&2
socket=/run/qemu-pr-helper.sock
kind='as a service'
prin '00 - *' 'READ KEYS of a disk' "$plain" 0
pid=$(systemctl show -P MainPID prhelper.service)
is "$(label "$pid")" 'prhelper (enforce)' "$kind: it is confined"
like "$(as_told 'See it work')" "*$pid prhelper (enforce) */usr/local/bin/*" \
	"$kind: ... as the page shows"
witness=$plain
prout '00 -' REGISTER "$plain" 0 0 0 a
prout '00 -' 'RESERVE on an sg node' "$sg" 1 5 a 0
holder_is "a $we_ro"
prin '00 - *0a*' 'READ KEYS of an sg node' "$sg" 0
prout '00 -' 'CLEAR on an sg node' "$sg" 3 0 a 0

witness=$w
put '00 -' 'REGISTER on a map' 0 0 0 a
put '00 -' RESERVE 1 5 a 0
offline "$p2"
put '00 -' 'REGISTER another key, a path is away' 0 0 a c
returned "$p2" '4 c'
offline "$p3"
put '00 -' 'REGISTER another key, a path is away' 0 0 c d
ok "$kind: restart" systemctl restart prhelper.service
running "$p3"
copies_become '4 d'
whole
dmsetup create above --table "0 $(blockdev --getsz $mp) linear $mp 0"
dmsetup mknodes above
prin '00 - *0d*' 'READ KEYS of a volume that is all of the map' \
	/dev/mapper/above 0
# As it does with a path that returns without a size
ok "$kind: the kernel may be told to look at a disk again" \
	below prhelper busybox dd of="/sys/block/${plain##*/}/device/rescan" \
	</dev/null
none_refused

### The command, which is the same binary

kind='the command'
like "$(prhelper status)" '*desired *0xd*health *fine*' "$kind: status"
is "$(prhelper status "$plain" "$sg" | grep -c 'health *fine')" 2 \
	"$kind: status of a disk and an sg node"
ok "$kind: out, on a map" prhelper out register -K d -S e $mp
copies_are '4 e'
ok "$kind: out, on a disk" prhelper out register-ignore -S e "$plain"
like "$(prhelper in keys /dev/disk/by-id/scsi-SLIO*plain)" '*0xe on 1 *' \
	"$kind: in, by another name"
like "$(prhelper in keys --socket=$socket $mp)" '*0xe on 4 *' \
	"$kind: in, through the helper"
ok "$kind: out clear" aside prhelper out clear -K e $mp
systemctl stop prhelper.socket prhelper.service
none_refused

### By hand

kind='by hand'
dir=/run/prhelper
socket=$dir/sock
mkdir $dir
by_hand() {
	prhelper -d -v -u nobody -k $socket -f $dir/pid \
		-T '*,file=/tmp/trace'
}

ok "$kind: -d -u -f -T" by_hand
pid=$(cat $dir/pid)
is "$(label "$pid")" 'prhelper (enforce)' "$kind: it is confined"
put '00 -' REGISTER 0 0 0 a
copies_are '4 a'
ok "$kind: the trace" grep -q path_done /tmp/trace
ok "$kind: a command, beside it" prhelper out register -K a -S b \
	--state=$socket.state $mp
fails prhelper -k $socket
like "$(cat /tmp/said)" '*living helper, pid*' "$kind: its socket is taken"
echo $$ >/run/prhelper.pid
fails prhelper -k /run/prhelper.sock -f /run/prhelper.pid
like "$(cat /tmp/said)" '*is alive' "$kind: a pid file of another process"
fails unshare -m sh -c 'mount -t tmpfs none /proc
	exec prhelper -k /run/prhelper.sock -f /run/prhelper.pid'
like "$(cat /tmp/said)" '*is alive' "$kind: ... and without /proc"
offline "$p1"
put '00 -' 'REGISTER another key, a path is away' 0 0 b c
kill -KILL "$pid"
within 20 ended "$pid"
running "$p1"
ok "$kind: killed, and started again" by_hand
copies_become '4 c'
put '00 -' CLEAR 3 0 c 0
pid=$(cat $dir/pid)
kill "$pid"
ok "$kind: it ends" within 20 ended "$pid"
logged() {
	journalctl -t prhelper | grep -q 'key 0xb .*key 0xc: status 00h'
}
ok "$kind: what it did is in the log" within 20 logged
none_refused

### Below the profile of libvirtd, in a guest's directory

kind='with libvirt'
dir=/var/lib/libvirt/qemu/domain-1-g
mkdir $dir
chmod 700 $dir
chown libvirt-qemu $dir
echo secret >$dir/master-key.aes
mkdir -p /run/libvirt/qemu
pidfile=/run/libvirt/qemu/1-g-pr-helper0.pid
socket=$dir/pr-helper0.sock
below libvirtd /bin/sh -c "exec 9>$pidfile; flock 9; echo \$\$ >&9
	exec /usr/bin/prhelper -k $socket" >&2 &
within 20 serving
pid=$(cat $pidfile)
is "$(label "$pid")" 'prhelper (enforce)' "$kind: it is confined"
like "$(cat /proc/locks)" "*FLOCK*:$(stat -c %i $pidfile) 0 EOF*" \
	"$kind: it keeps the lock of its pid file"
put '00 -' REGISTER 0 0 0 a
is "$(grep -c 'key a' $socket.state/*)" 1 "$kind: it is written down"
put '00 -' CLEAR 3 0 a 0
below libvirtd /bin/sh -c "kill -TERM $pid"
ok "$kind: libvirtd may not end it" test $? -ne 0
ok "$kind: the page" as_told 'With libvirt'
is "$(below libvirtd /bin/sh -c "readlink /proc/$pid/exe")" /usr/bin/prhelper \
	"$kind: libvirtd sees what it is"
below libvirtd /bin/sh -c "kill -TERM $pid"
ok "$kind: libvirtd ends it" within 20 ended "$pid"
none_refused

### What guests send that have a profile, as libvirt's have

cat >/tmp/guest <<-'END'
	abi <abi/3.0>,
	profile guest {
		capability,
		file,
		network,
		signal,
		unix,
	}
END
apparmor_parser -r /tmp/guest
socket=/run/pr-helper.sock
start_helper

# sends DEVICE [OPTION]...: print what it is told
sends() {
	device=$1
	shift
	below guest /bin/prc "$@" $socket "$device" "$(in_cdb 0 255)"
}

kind='a guest'
for device in "$plain" "$sg" $mp; do
	like "$(sends "$device")" '00 - *' "$kind: $device is served"
	like "$(sends "$device" -o ro)" '00 - *' "$kind: ... read-only, too"
done
none_refused
# shellcheck disable=SC2046 # two words
mknod -m 600 /dev/guest-disk b $(stat -c '0x%t 0x%T' "$plain")
for device in /etc/shadow /dev/vda /dev/guest-disk; do
	is "$(sends $device)" '08 - -' "$kind: $device: BUSY, and no hang"
	is "$(refusals)" "file_receive $device" "$kind: ... by AppArmor"
done
like "$(as_told 'What was refused')" \
	'*"file_receive"*name="/dev/guest-disk"*' "$kind: ... as the page shows"
like "$(sends "$plain")" '00 - *' "$kind: a disk is still served"
is "$(prc $socket /etc/shadow "$(in_cdb 0 255)")" '02 5/20/00 -' \
	'a guest without a profile: it is the helper that refuses'
ok 'the page: other disks and files' as_told 'Other disks and files'
like "$(sends /dev/guest-disk)" '00 - *' "$kind: /dev/guest-disk is served"
is "$(label "$helper_pid")" 'prhelper (enforce)' "$kind: the helper lives on"
stop_helper

### Sockets of another name

kind='other names'
mkdir /srv/reservations
socket=/srv/reservations/guest1
fails prhelper -k $socket
like "$(cat /tmp/said)" '*/srv/reservations/*: Permission denied' \
	"$kind: refused"
ok 'the page: other sockets' as_told 'Other sockets'
refusals >&2
start_helper -T '*,file=/srv/reservations/log'
put '00 -' REGISTER 0 0 0 a
is "$(grep -c 'key a' $socket.state/*)" 1 "$kind: it is written down"
put '00 -' CLEAR 3 0 a 0
stop_helper
is "$(ls -A /srv/reservations)" log "$kind: it has ended"
none_refused

### What it shall not do, by a program that does not confine itself

kind='not allowed'
echo >/tmp/victim
busybox httpd -p 127.0.0.1:8080 -h /tmp
cat >/tmp/attempts <<END
open /etc/shadow: cat /etc/shadow
open $dir/master-key.aes: cat $dir/master-key.aes
open /dev/vda: dd if=/dev/vda of=/dev/null count=1
mknod /etc/new: touch /etc/new
open /proc/sys/kernel/panic: sysctl -w kernel.panic=0
exec /usr/bin/true: env /bin/true
create: wget -O /dev/null http://127.0.0.1:8080/victim
mount /mnt/: mount -t tmpfs none /mnt
capable: chroot / /bin/true
signal: kill -CONT $$
unlink /tmp/victim: rm /tmp/victim
END
while read -r line; do
	# shellcheck disable=SC2086 # several words
	below prhelper busybox ${line#*: } </dev/null >&2
	ok "$kind: ${line#*: }" test $? -ne 0
	is "$(refusals)" "${line%%: *}" "$kind: ... by AppArmor"
done </tmp/attempts
while read -r line; do
	# shellcheck disable=SC2086 # several words
	ok "without the profile it works: ${line#*: }" \
		aside busybox ${line#*: } </dev/null
done </tmp/attempts

### Complain, and the way back

socket=/run/pr-helper.sock
ok 'the page: see what would be refused' as_told 'See what would be refused'
start_helper
kind='complain'
is "$(sends /etc/shadow)" '02 5/20/00 -' "$kind: the helper refuses"
like "$(dmesg -c)" '*apparmor="ALLOWED" operation="file_receive"*' \
	"$kind: AppArmor tells"
ok 'the page: going back' as_told 'Going back'
is "$(label "$helper_pid")" unconfined 'the helper is not confined any more'
stop_helper
is "$(find /etc/apparmor.d | grep -c prhelper)" 0 'nothing is left'

done_testing
