#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The units as they are installed, in a machine with systemd; see
# ../vm/case/systemd.sh. What is done there, and here, is doc/systemd.md.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
doc=doc

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

page systemd Install >"$tmp/install"
MAKEFLAGS=-s DESTDIR=$tmp/root sh -e "$tmp/install" >&2
test/vm/boot systemd doc/systemd.md=/doc/systemd.md doc/qemu.md=/doc/qemu.md \
	"$tmp/root=/"
