#!/bin/sh
# See LICENSE file for copyright and license details.
#
# A guest under QEMU in the test machine; see ../vm/case/guest.sh. To boot it
# there would take minutes, emulated in emulation. So it boots here, and is
# moved to the machine as QEMU migrates guests: its state goes through a file.
# QEMU with its libraries is big, so it goes in for this case only.
set -eu

vm=$(cd "$(dirname "$0")/../vm" && pwd)
image=$("$vm/image")
tmp=$(mktemp -d)
qemu_pid=
trap '[ -z "$qemu_pid" ] || kill "$qemu_pid" 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# The guest's root: modules, programs, and a shell that takes orders from its
# second serial line
mkdir "$tmp/root"
cd "$tmp/root"
mkdir dev proc sys
cpio -id --quiet 'modules/*' <"$image/base.cpio"
"$vm/take" . "$(command -v busybox)=/bin/busybox" \
	"$(command -v sg_persist)=/bin/sg_persist"
for a in sh mount insmod stty dd; do
	ln -s busybox bin/$a
done
for m in crct10dif_common crct10dif_generic crc-t10dif scsi_common scsi_mod \
		crc64 crc64-rocksoft t10-pi sd_mod virtio_ring virtio \
		virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci \
		virtio_scsi; do
	echo "insmod /modules/*-$m.ko"
done >load
cat >init <<'END'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
. /load
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1
echo =0
while read -r order; do
	echo "guest: $order" >/dev/console
	(eval "$order") 2>&1
	echo "=$?"
done
END
chmod 755 init
find . | cpio -o -H newc -R 0:0 --quiet >"$tmp/initrd"
cd "$tmp"

# What must be the same on both sides
cp "$image/vmlinuz" .
cat >qemu-args <<'END'
-accel tcg -cpu qemu64 -m 128 -nodefaults -no-user-config -display none
-nic none -kernel vmlinuz -initrd initrd -device virtio-scsi-pci
END
mkfifo monitor
# shellcheck disable=SC2046 # they are several
qemu-system-x86_64 $(cat qemu-args) \
	-append 'console=ttyS0 panic=-1 quiet nowatchdog' \
	-serial file:console -serial file:orders \
	-monitor stdio <monitor >/dev/null &
qemu_pid=$!
exec 3>monitor
n=0
until grep -q =0 orders 2>/dev/null; do
	n=$((n + 1))
	if [ $n -gt 120 ] || ! kill -0 "$qemu_pid"; then
		cat console >&2
		echo 'Bail out! the guest does not boot'
		exit 1
	fi
	sleep 1
done
echo 'migrate "exec:cat >state"' >&3
echo quit >&3
wait "$qemu_pid"
cat console >&2
qemu_pid=

set -- "$(command -v qemu-system-x86_64)"
for f in qemu-args vmlinuz initrd state; do
	set -- "$@" "$tmp/$f=/guest/$f"
done
# What QEMU loads while it runs, where it looks for it
for f in bios-256k.bin kvmvapic.bin linuxboot_dma.bin; do
	for dir in $(qemu-system-x86_64 -L help); do
		[ ! -e "$dir/$f" ] || { set -- "$@" "$dir/$f"; break; }
	done
done
for f in /usr/lib/*/qemu/accel-tcg-x86_64.so; do
	[ ! -e "$f" ] || set -- "$@" "$f"
done
"$vm/boot" guest "$@"
