#!/bin/sh
# See LICENSE file for copyright and license details.
#
# prhelper in the image that doc/initramfs.md makes by hand. What the page calls
# the appliance is the case; there is no root file system later.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
doc=doc

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

cp prhelper "$tmp"
page initramfs 'An image of' >"$tmp/page"
(cd "$tmp" && sh -e page) >&2

cat >"$tmp/appliance" <<'END'
#!/bin/sh
busybox --install -s /bin
mkdir -p /tmp
mount -t configfs config /sys/kernel/config
exec </dev/null >/dev/console 2>&1
stty -F /dev/ttyS1 raw -echo
{
	sh /case.sh
	echo "# case ended: $?"
} >/dev/ttyS1
poweroff -f
END
chmod 755 "$tmp/appliance"

# This kernel has nearly everything as modules
(cd "$tmp" && cpio -id --quiet 'modules/*') <"$(test/vm/image)/base.cpio"
set -- "$tmp/appliance=/bin/appliance" doc/initramfs.md=/doc/initramfs.md
# LIO looks for these directories when its modules are loaded
for d in /var/target/pr /etc/target/pr; do
	set -- "$@" "/dev/null=$d/.here"
done
for p in sg_persist sg_turs /sbin/dmsetup; do
	set -- "$@" "$(command -v "$p")=/bin/${p##*/}"
done
INITRD=$tmp/image.cpio test/vm/boot initramfs "$tmp/modules=/modules" "$@"
