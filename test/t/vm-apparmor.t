#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The AppArmor profile as it is installed; see ../vm/case/apparmor.sh. What is
# done there, and here, is doc/confinement.md.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
doc=doc

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

page confinement Install >"$tmp/install"
MAKEFLAGS=-s DESTDIR=$tmp/root sh -e "$tmp/install" >&2
make -s install-systemd DESTDIR="$tmp/root" >&2
test/vm/boot apparmor doc/confinement.md=/doc/confinement.md \
	doc/systemd.md=/doc/systemd.md "$(command -v busybox)=/bin/busybox" \
	"$tmp/root=/"
