#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The Debian package installed and removed beside QEMU's own, as doc/debian.md
# tells; see ../vm/case/debian.sh.
set -eu
cd "$(dirname "$0")/../.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

make -s deb RELEASE="$tmp" >"$tmp/log" 2>&1 || {
	cat "$tmp/log" >&2
	exit 1
}
mv "$tmp"/debian/*.deb "$tmp/prhelper.deb"

get() {
	(cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root download \
		qemu-system-common >&2)
}
get || { test/vm/update && get; }
mv "$tmp"/qemu-system-common_*.deb "$tmp/qemu.deb"

# unpacked FROM NAME; packed NAME SED-SCRIPT: for its control file
unpacked() {
	dpkg-deb -R "$tmp/$1.deb" "$tmp/$2"
}

packed() {
	sed -i "$2" "$tmp/$1/DEBIAN/control"
	rm -f "$tmp/$1/DEBIAN/md5sums"
	dpkg-deb -Zgzip -z1 --root-owner-group -b "$tmp/$1" \
		"$tmp/$1.deb" >&2
}

# A later one of QEMU's
unpacked qemu later
echo later >>"$tmp/later/usr/bin/qemu-pr-helper"
packed later 's/^Version:.*/&+later/'

# One of another name that has the file, too, as Proxmox VE has it
mkdir -p "$tmp/other/usr/bin" "$tmp/other/DEBIAN"
cp "$tmp/later/DEBIAN/control" "$tmp/other/DEBIAN"
echo other >"$tmp/other/usr/bin/qemu-pr-helper"
packed other '/^\(Depends\|Breaks\|Replaces\|Source\):/d
	s/^Package:.*/Package: other\nConflicts: qemu-system-common/'

# Ours, but it fails in the midst of the preinst
unpacked prhelper fails
sed -i '/^#DEBHELPER#/d; $a exit 1' "$tmp/fails/DEBIAN/preinst"
packed fails 's/^Version:.*/&+fails/'

set -- doc/debian.md=/doc/debian.md doc/proxmox.md=/doc/proxmox.md
for f in prhelper qemu later other fails; do
	set -- "$@" "$tmp/$f.deb=/deb/$f.deb"
done
test/vm/boot debian "$@"
