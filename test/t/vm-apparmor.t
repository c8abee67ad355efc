#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The AppArmor profile as it is installed; see ../vm/case/apparmor.sh. What is
# done there, and here, is doc/confinement.md.
set -eu
cd "$(dirname "$0")/../.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

sed -n '/^## Install/,/^## /s/^	//p' doc/confinement.md >"$tmp/install"
DESTDIR=$tmp/root MAKEFLAGS=-s sh -e "$tmp/install" >&2
MAKEFLAGS=-s make install-systemd DESTDIR="$tmp/root" >&2
set -- doc/confinement.md=/doc/confinement.md doc/systemd.md=/doc/systemd.md \
	"$(command -v busybox)=/bin/busybox" \
	"$tmp/root/etc/apparmor.d/prhelper=/etc/apparmor.d/prhelper"
for f in bin/prhelper bin/qemu-pr-helper lib/systemd/system/prhelper.service \
		lib/systemd/system/prhelper.socket; do
	set -- "$@" "$tmp/root/usr/local/$f=/usr/local/$f"
done
test/vm/boot apparmor "$@"
