# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# The distribution's libvirt and QEMU, AppArmor and all, with a guest that has
# a disk and a map with managed reservations, and a disk with a helper that is
# somebody else's. It begins with the helper that the distribution has; then
# prhelper takes over, as doc/libvirt.md tells the administrator. What libvirt
# makes for a helper is looked at from outside.
# vm: -m 2048 -r host

# shellcheck source=test/vm/lib-guest.sh
. /lib-guest.sh

since() {
	read -r up _ </proc/uptime
	diag "$up s: $*"
}

# page NAME: print what the page shows below <!-- NAME -->
page() {
	awk -v mark="<!-- $1 -->" '
		$0 == mark { on = 1; next }
		on && /^\t/ { sub(/^\t/, ""); print; some = 1; next }
		some { exit }' /page.md
}

# follow NAME: do it
follow() {
	page "$1" >/tmp/commands
	cat /tmp/commands >&2
	[ -s /tmp/commands ] && sh -e /tmp/commands >&2
	result=$?
	since "$1"
	return $result
}

# disk NAME SOURCE TARGET: print a disk's XML as the page has it under NAME
disk() {
	page "$1" | sed "s,dev='/dev/[a-z].*',dev='$2',; s,'sda','$3',"
}

# traces: print what there is of guests and helpers: files, cgroups, processes
traces() {
	{
		find /run/libvirt /var/lib/libvirt
		find /run/systemd/machines -mindepth 1
		find /sys/fs/cgroup -name '*qemu*'
		pgrep -a 'prhelper|pr-helper|qemu'
	} 2>/dev/null | sort
}

# the_helper: print the pid of the guest's
the_helper() {
	cat "/run/libvirt/qemu/$id-g-pr-helper0.pid"
}

# program PID: print what runs there
program() {
	readlink "/proc/$1/exe"
}

# exe_is PROGRAM: it is the guest's helper's
exe_is() {
	[ "$(program "$(the_helper 2>/dev/null)" 2>/dev/null)" = "$1" ]
}

# in_guest WANT WHAT ARGUMENT...: it runs sg_persist, which returns that
in_guest() {
	want=$1 what=$2
	shift 2
	guest sg_persist -n "$@" >&2
	is $? "$want" "$kind: the guest: $what"
}

# guest_disk LUN: print its name for the disk, which libvirt gave this number
guest_disk() {
	set -- "$(guest "echo /sys/class/scsi_device/0:0:0:$1/device/block/*")"
	echo "/dev/${1##*/}"
}

# again COMMAND...: QEMU waits for a helper about four seconds, in which a
# loaded machine may not have started one: ABORTED COMMAND (11) is repeated.
again() {
	for _ in 1 2 3 4 5 6 7 8 9; do
		guest "$@" >&2
		result=$?
		[ $result = 11 ] || break
		diag 'the guest: ABORTED COMMAND'
	done
	return "$result"
}

### Disks

lun a
a=$(path a 1)
witness_a=$(path a)
lun b
p1=$(path b 1)
p2=$(path b 2)
p3=$(path b 1)
witness_b=$(path b)
multipath mpatha "$p1" "$p2" "$p3"
lun c
c=$(path c 1)
witness_c=$(path c)
lun d
d=$(path d 1)
witness_d=$(path d)
udevadm settle
since 'disks are there'

### Before: libvirt as it comes, and a guest

systemctl start apparmor
is "$(cat /sys/module/apparmor/parameters/enabled)" Y 'AppArmor is enabled'
mkdir -p /usr/local/bin
cp /bin/prhelper /usr/local/bin
cp /etc/libvirt/qemu.conf /tmp/qemu.conf
systemctl start libvirtd
virsh version >&2
ok 'the page: a helper of our own' follow socket
own=$(cat /run/prhelper/pid)
ok 'the page: AppArmor and its socket' follow socket-apparmor
traces >/tmp/before

# As virsh save would have written it, but QEMU's state comes from elsewhere:
# a header, the XML with zeros up to 16384, the state.
cat >/tmp/g.xml <<END
<domain type='qemu'>
  <name>g</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>/guest/vmlinuz</kernel>
    <initrd>/guest/initrd</initrd>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model>qemu64</model></cpu>
  <devices>
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    $(disk managed "$a" sda)
    $(disk managed /dev/mapper/mpatha sdb)
    $(disk unmanaged "$c" sdc)
    <serial type='file'><source path='/run/guest.console'/></serial>
    <serial type='pipe'><source path='/run/guest'/></serial>
  </devices>
</domain>
END
{
	printf 'LibvirtQemudSave\2\0\0\0\0\100\0\0\1\0\0\0'
	head -c 64 /dev/zero
	cat /tmp/g.xml
	head -c $((16384 - $(wc -c </tmp/g.xml))) /dev/zero
	cat /guest/state
} >/var/lib/libvirt/qemu/save/g
since 'libvirt is there'

start_guest() {
	virsh restore /var/lib/libvirt/qemu/save/g >&2
}
kind='before'
ok "$kind: the guest starts" start_guest
rm /var/lib/libvirt/qemu/save/g
since 'it has started'
id=$(virsh domid g)
qemu=$(cat /run/libvirt/qemu/g.pid)
mourn "$qemu" &
ok "$kind: it can be told what to do" greet
cat /run/guest.console >&2
sda=$(guest_disk 0)
sdb=$(guest_disk 1)
sdc=$(guest_disk 2)
since "it listens; $sda $sdb $sdc"
socket=/var/lib/libvirt/qemu/domain-$id-g/pr-helper0.sock

witness=$witness_a
in_guest 0 'REGISTER' -o -G -S a "$sda"
in_guest 0 'RESERVE' -o -R -K a -T 5 "$sda"
holder_is "a $we_ro"
is "$(program "$(the_helper)")" /usr/bin/qemu-pr-helper \
	"$kind: that was the distribution's helper"
ps axf -o pid,user,label,cgroup:60,args >&2

### The take-over, with the guest running

kind='AppArmor'
old=$(the_helper)
ok 'the page: take it' follow take
is "$(the_helper)" "$old" 'the running helper is left alone'
kill -KILL "$old"
guest sg_persist -n -i -k "$sda" >&2
is $? 11 "$kind: prhelper may not be started: no helper, the guest sees it"
told() {
	journalctl -u libvirtd | tr -s '\n ' ' ' | grep -q "$(
		)$(page apparmor-error | tr -s '\n ' ' ')"
}
ok "$kind: libvirt says so as the page does" told
journalctl -u libvirtd >&2
ok 'the page: AppArmor' follow apparmor
ok "$kind: libvirt starts it now" within 60 exe_is /usr/local/bin/prhelper

kind='taken over'
in_guest 0 'READ RESERVATION' -i -r "$sda"
holder_is "a $we_ro"
in_guest 0 'RELEASE' -o -L -K a -T 5 "$sda"
holder_is ''

### What libvirt makes for it

kind='as libvirt starts it'
h=$(the_helper)
page see >/tmp/commands
like "$(sh -e /tmp/commands)" "*
$h /usr/local/bin/prhelper -k $socket" "$kind: its arguments, as the page shows"
is "$(readlink "/proc/$h/ns/mnt")" "$(readlink "/proc/$qemu/ns/mnt")" \
	"$kind: it is in QEMU's mount namespace"
is "$(cd "/proc/$h/root/dev" && ls -d sd* mapper/*)" \
	"$(cd /dev && ls -d "${a#/dev/}" "${c#/dev/}" "${p1#/dev/}" \
	"${p2#/dev/}" "${p3#/dev/}" mapper/control mapper/mpatha)" \
	"$kind: /dev has the guest's disks, their paths, the control node"
like "$(cat "/proc/$h/cgroup")" '*/machine-qemu*g.scope/*' \
	"$kind: it is in the machine's cgroup"
is "$(cat "/proc/$h/attr/current")" unconfined "$kind: no AppArmor profile"
inode=$(stat -c %i "/run/libvirt/qemu/$id-g-pr-helper0.pid")
like "$(cat /proc/locks)" "*WRITE $h *:$inode 0 0*" \
	"$kind: it keeps the lock of its pid file"
pipe=$(readlink "/proc/$h/fd/2")
is "$(find /proc/[0-9]*/fd -printf '%l\n' 2>/dev/null | grep -cxF "$pipe")" 1 \
	"$kind: nobody reads what it prints"
is "$(stat -c %U "$socket")" libvirt-qemu \
	"$kind: its socket is QEMU's, by libvirt"
ls -l "/proc/$h/fd" >&2

### The map, and the helper that is not libvirt's

kind='a map'
witness=$witness_b
offline "$p2"
in_guest 0 'REGISTER' -o -G -S b "$sdb"
in_guest 0 'RESERVE' -o -R -K b -T 5 "$sdb"
copies_are '2 b'
holder_is "b $we_ro"
ls -lR "${socket%/*}" >&2

kind='unmanaged'
witness=$witness_c
in_guest 0 'REGISTER' -o -G -S c "$sdc"
in_guest 0 'RESERVE' -o -R -K c -T 5 "$sdc"
holder_is "c $we_ro"
in_guest 0 'CLEAR' -o -C -K c "$sdc"
keys_are ''

### Killed

kind='killed'
virsh qemu-monitor-event g --loop --timeout 600 >/tmp/events 2>&1 &
listener=$!
within 30 test -e "/proc/$listener/fd/3"
kill -KILL "$h"
ok "$kind: the guest: READ KEYS waits for the next one" \
	again sg_persist -n -i -k "$sda"
h2=$(the_helper)
is "$(program "$h2") $(test "$h2" -ne "$h"; echo $?)" \
	'/usr/local/bin/prhelper 0' "$kind: it is a new one"
event() {
	tail -n 3 /tmp/events >&2
	grep -q 'PR_MANAGER_STATUS_CHANGED.*"connected":false' /tmp/events
}
ok "$kind: libvirt had the event from QEMU" within 30 event
kill $listener
# It was not asked for the map: it remembers
witness=$witness_b
running "$p2"
copies_become '3 b'
holder_is "b $we_ro"

### A path that is new is not in the guest's /dev, or not in its cgroup

kind='a new path'
h=$h2
p4=$(path b 2)
udevadm settle
warned() {
	journalctl -o cat "_PID=$h" | grep -q "^path.*cgroup.*$1: $2"
}
reload mpatha "$p1" "$p2" "$p3" "$p4"
ok "$kind: without a node: a warning" \
	within 60 warned "$p4" 'No such file'
in_guest 0 'a new key' -o -I -S b2 "$sdb"
copies_are '3 b2'
p5=$(path b 2)
udevadm settle
nsenter -t "$h" -m mknod "$p5" b "$((0x$(stat -c %t "$p5")))" \
	"$((0x$(stat -c %T "$p5")))"
reload mpatha "$p1" "$p2" "$p3" "$p5"
ok "$kind: refused by the cgroup: a warning" \
	within 60 warned "$p5" 'Operation not permitted'
in_guest 0 'a new key' -o -I -S b3 "$sdb"
copies_are '3 b3'
in_guest 0 'CLEAR' -o -C -K b3 "$sdb"
copies_are ''
in_guest 0 'REGISTER' -o -G -S b "$sdb"
copies_are '3 b'
is "$(journalctl -o cat "_PID=$h" | grep -c ^path)" 2 \
	"$kind: one warning for each"
page log >/tmp/commands
like "$(sh -e /tmp/commands)" "*prhelper?$h?: path*$p4: *path*$p5: *" \
	"$kind: they are where the page says, since nobody reads stderr"
is "$(the_helper)" "$h" "$kind: the helper lives on"
nsenter -t "$h" -m rm "$p5"

### Disks come and go

plug() {
	virsh attach-device g "/tmp/$1.xml" >&2
}

unplug() {
	virsh detach-device g "/tmp/$1.xml" >&2
}

kind='hot-plug'
disk managed "$d" sdd >/tmp/d.xml
disk managed "$a" sda >/tmp/a.xml
disk managed /dev/mapper/mpatha sdb >/tmp/b.xml
ok "$kind: a disk is plugged in" plug d
guest_has() {
	scan && guest test -e "/sys/class/scsi_device/0:0:0:$1/device/block"
}
ok "$kind: the guest has it" within 60 guest_has 3
sdd=$(guest_disk 3)
witness=$witness_d
in_guest 0 'REGISTER' -o -G -S d "$sdd"
keys_are d
in_guest 0 'unregisters' -o -G -K d -S 0 "$sdd"
keys_are ''
ok "$kind: it is unplugged" unplug d
is "$(the_helper)" "$h" "$kind: the same helper serves the rest"

kind='the last one is unplugged'
unplug a
unplug b
ok "$kind: the helper ends" test ! -e "/proc/$h"
ok "$kind: ... and its pid file goes" \
	test ! -e "/run/libvirt/qemu/$id-g-pr-helper0.pid"
ls -lR "${socket%/*}" >&2
mv /usr/local/bin/prhelper /tmp
cat >/usr/local/bin/prhelper <<'END'
#!/bin/sh
exec /tmp/prhelper "$@" -g nonesuch
END
chmod 755 /usr/local/bin/prhelper
virsh attach-device g /tmp/b.xml >/tmp/error 2>&1
like "$(cat /tmp/error)" '*pr helper died*: prhelper: *nonesuch*' \
	"$kind: one that does not start: its message is libvirt's"
mv /tmp/prhelper /usr/local/bin
ok "$kind: one is plugged in again" plug b
h=$(the_helper)
is "$(program "$h")" /usr/local/bin/prhelper "$kind: a helper is started"
# What it knew is still there, and libvirt has let it have the new path
kind='plugged in again'
witness=$witness_b
copies_become '4 b'
ok "$kind: the guest has it" within 60 guest_has 1
sdb=$(guest_disk 1)
in_guest 0 'READ KEYS' -i -k "$sdb"

### The end

kind='shutdown'
order /bin/busybox poweroff -f
shut_off() {
	! virsh domid g >/dev/null 2>&1
}
traces_as_before() {
	traces | cmp -s - /tmp/before
}
ok "$kind: the guest powers off" within 120 shut_off
within 30 traces_as_before || :
traces >/tmp/after
is "$(diff /tmp/before /tmp/after)" '' \
	"$kind: no process, pid file, socket, state or cgroup is left"
copies_are '4 b'

ok 'the page: back' follow back
is "$(diff /etc/libvirt/qemu.conf /tmp/qemu.conf)" '' \
	'back: qemu.conf is what it was'
kill "$own"
ok 'the helper of our own ends' within 30 test ! -e /run/prhelper/sock
since 'the end'
done_testing
