#!/bin/sh
# See LICENSE file for copyright and license details.
#
# prhelper under sysvinit, runit and s6, or where ROOT is openrc, under that;
# see ../vm/case/init.sh. What is done there, and here, is doc/init.md.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
doc=doc

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

set -- doc/init.md=/doc/init.md /sbin/iscsistart=/bin/iscsistart
for init in OpenRC runit s6 sysvinit; do
	page init "$init" Install >"$tmp/install"
	MAKEFLAGS=-s DESTDIR=$tmp/$init sh -e "$tmp/install" >&2
	set -- "$@" "$tmp/$init/etc=/installed/$init/etc"
done
test/vm/boot init "$@" "$tmp/s6/usr/local/bin/prhelper=$(
	)/usr/local/bin/prhelper"
