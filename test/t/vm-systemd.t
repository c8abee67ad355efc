#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The units as they are installed, in a machine with systemd; see
# ../vm/case/systemd.sh. What is done there, and here, is doc/systemd.md.
set -eu
cd "$(dirname "$0")/../.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

sed -n '/^## Install/,/^## /s/^	//p' doc/systemd.md >"$tmp/install"
MAKEFLAGS=-s DESTDIR=$tmp/root sh -e "$tmp/install" >&2
set -- doc/systemd.md=/doc/systemd.md doc/qemu.md=/doc/qemu.md
for f in bin/prhelper bin/qemu-pr-helper lib/systemd/system/prhelper.service \
		lib/systemd/system/prhelper.socket; do
	set -- "$@" "$tmp/root/usr/local/$f=/usr/local/$f"
done
test/vm/boot systemd "$@"
