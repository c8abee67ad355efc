#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The distribution's multipathd and prhelper on the same map; see
# ../vm/case/multipathd.sh.
set -eu

vm=$(cd "$(dirname "$0")/../vm" && pwd)
root=$("$vm/unpack" multipath-tools)
# What pthread_cancel() loads
set -- "$(gcc -print-file-name=libgcc_s.so.1)=/lib/libgcc_s.so.1"
for f in "$root"/sbin/m* "$root"/usr/sbin/m*; do
	[ ! -e "$f" ] || set -- "$@" "$f=/bin/${f##*/}"
done
for f in "$root"/lib/*.so.? "$root"/usr/lib/*.so.? "$root"/usr/lib/*/*.so.? \
		"$root"/lib/multipath/*.so "$root"/usr/lib/multipath/*.so; do
	[ ! -e "$f" ] || set -- "$@" "$f=${f#"$root"}"
done
"$vm/boot" multipathd "$@"
