# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# The Debian package beside the distribution's QEMU: installed, upgraded and
# removed as doc/debian.md tells, while a guest has a reservation. QEMU's own
# helper steps aside, whatever becomes of its package, and comes back.
# vm: -m 2048 -r host

# shellcheck source=test/vm/lib.sh
. /lib.sh

# as_told HEADING COMMAND: do that command as the page has it there
as_told() {
	page debian "$1" | grep "^$2 " |
		sed 's,prhelper_.*,/deb/prhelper.deb,' >/tmp/commands
	[ -s /tmp/commands ] && sh -e /tmp/commands >/tmp/said
	result=$?
	cat /tmp/said >&2
	return $result
}

install() {
	as_told Install 'dpkg -i'
}

since() {
	read -r up _ </proc/uptime
	diag "$up s: $*"
}

helper=/usr/bin/qemu-pr-helper
manual=/usr/share/man/man8/qemu-pr-helper
socket=/run/qemu-pr-helper.sock

# sums [.distrib]: of QEMU's helper and manual, under this name
sums() {
	sha256sum <$helper"${1:-}"
	sha256sum <$manual"${1:-}".8.gz
}

# names: print whose both names are
names() {
	prhelper -V | cut -d ' ' -f 1
	qemu-pr-helper -V | head -n 1 | cut -d ' ' -f 1
}

# listing: all that a package may have left
listing() {
	find /etc /usr /var/lib/systemd /run/qemu* -path /etc/target -prune \
		-o -print | sort
	systemctl list-unit-files --no-pager
	dpkg-divert --list
}

# units: print what the socket and the service are
units() {
	systemctl is-enabled prhelper.socket
	systemctl is-active prhelper.socket prhelper.service
}

both='prhelper
prhelper'

# aside: QEMU's helper, of these sums, is under another name, and ours here
aside() {
	is "$(names)" "$both" "$kind: it is ours, under both names"
	is "$(sums .distrib)" "$1" "$kind: QEMU's is there, under another"
}

### Before: QEMU's package with its manual, which this machine was made without

kind='before'
rm -f /bin/prhelper /etc/dpkg/dpkg.cfg.d/*
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/fast
dpkg -i --force-confold /deb/qemu.deb >&2
sums=$(sums)
like "$(qemu-pr-helper -V)" 'qemu-pr-helper *Written by*' "$kind: QEMU's helper"
four_paths
lun plain
plain=$(path plain)
udevadm settle

# helper_by_hand: QEMU's serves, at its own socket
helper_by_hand() {
	$helper -d
	within 20 serving
	prin '00 - *' "QEMU's helper answers" "$plain" 0
	is "$(cat /proc/"$(cat /run/qemu-pr-helper.pid)"/comm)" \
		qemu-pr-helper "$kind: it is that one"
}
helper_by_hand
ok "$kind: it is ended" as_told Install kill
within 20 test ! -e $socket
listing >/tmp/before
since "$kind"

### A first installation that fails

kind='a preinst that fails'
dpkg -i /deb/fails.deb >&2
is $? 1 "$kind: it is not installed"
is "$(sums)" "$sums" "$kind: QEMU's helper is where it was"
is "$(dpkg-divert --list prhelper; ls $helper.distrib 2>/dev/null)" '' \
	"$kind: nothing is diverted"

### Installed

kind='installed'
ok "$kind: done" install
aside "$sums"
ok "$kind: the page lists what is diverted" as_told Install dpkg-divert
is "$(sort /tmp/said)" "$(
	)diversion of $helper to $helper.distrib by prhelper
diversion of $manual.8.gz to $manual.distrib.8.gz by prhelper" \
	"$kind: what is diverted"
is "$(readlink -f $manual.8.gz)" "${manual%/*}/prhelper.8.gz" \
	"$kind: the manual is ours"
is "$(units)" 'enabled
active
inactive' "$kind: the socket is enabled and active, the service not yet"
is "$(stat -c '%a %U:%G' $socket)" '660 root:kvm' \
	"$kind: the group kvm may connect"
put '00 -' REGISTER 0 0 0 a
put '00 -' RESERVE 1 5 a 0
copies_are '4 a'
holder_is "a $we_ro"
is "$(units | tail -n 1)" active "$kind: the service is active"
pid=$(systemctl show -P MainPID prhelper.service)
is "$(readlink "/proc/$pid/exe")" /usr/bin/prhelper "$kind: ... and ours"
since "$kind"

# What libvirt would start, and may
kind='libvirt'
libvirt=$(find /usr/lib -name libvirt_driver_qemu.so)
ok "$kind: starts a helper of that name" grep -q $helper "$libvirt"
apparmor_parser -r /etc/apparmor.d/usr.sbin.libvirtd
cp /usr/bin/prhelper /usr/local/bin/other

# allowed PROGRAM: has it AppArmor's leave to start it?
allowed() {
	may aa-exec -p libvirtd -- sh -c "$1 -V && :" 2>/dev/null | tail -n 1
}
is "$(allowed $helper) $(allowed /usr/local/bin/other)" 'yes no' \
	"$kind: may start this one, but not any"
rm /usr/local/bin/other
since "$kind"

### The disk of doc/proxmox.md, beside a controller as it is there

qm() {
	[ "$1 $3" = 'set --args' ] && args=$4
}
kind="Proxmox VE's arguments"
eval "$(page proxmox 'A disk' | sed 's/mpatha/mp/')"
# shellcheck disable=SC2086 # several words
set -- ${args-}
like "$(printf '%s' '{"execute":"qmp_capabilities"}' \
		'{"execute":"query-pr-managers"}{"execute":"query-block"}' \
		'{"execute":"quit"}' |
	qemu-system-x86_64 -accel tcg -S -nodefaults -display none -qmp stdio \
		-device virtio-scsi-pci,id=scsihw0,bus=pci.0,addr=0x5 \
		-blockdev driver=null-co,node-name=drive-scsi0 \
		-device scsi-hd,bus=scsihw0.0,drive=drive-scsi0,id=scsi0 \
		"$@" 2>&1)" '*"connected": true*"id": "pr0"*/dev/mapper/mp*' \
	"$kind: QEMU takes them and connects"
since "$kind"

### What may become of QEMU's package

kind='a later one'
dpkg -i /deb/later.deb >&2
later=$(sums .distrib)
ok "$kind: it is another" test "$later" != "$sums"
aside "$later"
kind='one of another name'
dpkg --force-depends --remove qemu-system-common >&2
is "$(names; ls $helper.distrib 2>/dev/null)" "$both" \
	"$kind: ours without QEMU's"
dpkg -i /deb/other.deb >&2
is "$(names; cat $helper.distrib)" "$both
other" "$kind: ... with another's"
dpkg --purge other >&2
kind='the first one again'
dpkg -i /deb/qemu.deb >&2
aside "$sums"
since "$kind"

### Upgraded, while a guest sends commands and a path is away

kind='upgraded'
offline "$p2"
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '3 c'
prc -r -n 100000000 $socket "$plain" "$(in_cdb 0 255)" >/tmp/client &
client=$!
answered() {
	[ "$(wc -l </tmp/client)" -gt "$1" ]
}
ok "$kind: a guest sends" within 60 answered 1
pid=$(systemctl show -P MainPID prhelper.service)
inode=$(stat -c %i $socket)
ok "$kind: done" install
is "$(stat -c %i $socket)" "$inode" "$kind: the socket was always there"
ok "$kind: the guest is served" within 60 answered "$(wc -l </tmp/client)"
ok "$kind: by another process" \
	test "$(systemctl show -P MainPID prhelper.service)" != "$pid"
is "$(grep -v '^00 - ' /tmp/client | sort -u)" '' "$kind: no command fails"
aside "$sums"
returned "$p2" '4 c'
holder_is "c $we_ro"

kind='an upgrade that fails'
n=$(wc -l </tmp/client)
dpkg -i /deb/fails.deb >&2
is $? 1 "$kind: it is not installed"
is "$(dpkg-query -W -f '${db:Status-Status} ${Version}' prhelper)" \
	"installed $(dpkg-deb -f /deb/prhelper.deb Version)" \
	"$kind: what was there is"
aside "$sums"
ok "$kind: the guest is served" within 60 answered "$n"
kill $client
wait $client
is "$(grep -v '^00 - ' /tmp/client | sort -u)" '' "$kind: no command fails"
since "$kind"

### Removed

kind='removed'
ok "$kind: done" as_told Remove 'dpkg --remove'
is "$(systemctl is-active prhelper.socket prhelper.service)" 'inactive
inactive' "$kind: nothing of it is active"
is "$(ls -d $socket* $helper.distrib 2>/dev/null)" '' \
	"$kind: no socket, no state, no other name"
is "$(sums)" "$sums" "$kind: QEMU's helper is there, byte for byte"
is "$(dpkg-divert --list prhelper)" '' "$kind: nothing is diverted"
copies_are '4 c'
holder_is "c $we_ro"

kind='installed again'
ok "$kind: done" install
aside "$sums"
put '18 -' 'RESERVE with another key' 1 5 b 0
put '00 -' 'REGISTER another key' 0 0 c d
copies_are '4 d'
holder_is "d $we_ro"

kind='purged'
ok "$kind: done" as_told Remove 'dpkg --purge'
is "$(sums)" "$sums" "$kind: QEMU's helper is there, byte for byte"
listing | diff /tmp/before - >/tmp/left
is "$(cat /tmp/left)" '' "$kind: nothing is left"
copies_are '4 d'
kind='after'
helper_by_hand
since "$kind"
done_testing
