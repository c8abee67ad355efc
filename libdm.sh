#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Make a static libdevmapper for musl in the directory named first:
# libdm.sh DIR VERSION SHA256. The source is lvm2's, from the source packages
# of this machine's own distribution; the upstream archive in it must have
# the given checksum. What is there already is neither fetched nor made again.
# For another processor: CC, HOST as configure calls it, HEADERS of the kernel.
set -eu

dir=$1 version=$2 sha256=$3
upstream=${version%-*}
tar=lvm2_$upstream.orig.tar.xz
recipe=$(cksum <"$0" | cut -d ' ' -f 1)
cc=${CC:-musl-gcc} host=${HOST:-} headers=${HEADERS:-/usr/include}
unset CC	# lvm2's make would take it
stamp=$dir/$version-$sha256-$recipe

if [ -e "$stamp" ]; then
	exit 0
fi

say() {
	echo "libdm: $*" >&2
}

# apt's own configuration with deb-src for deb, in lists of our own: nothing
# of the system's is touched.
fetch() {
	mkdir -p "$tmp/parts" "$tmp/lists/partial"
	for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ -e "$f" ] || continue
		sed -n 's/^deb\([[:space:]]\)/deb-src\1/p' "$f" \
			>"$tmp/parts/$(basename "$f" .list).list"
	done
	for f in /etc/apt/sources.list.d/*.sources; do
		[ -e "$f" ] || continue
		sed 's/^Types:.*/Types: deb-src/' "$f" \
			>"$tmp/parts/$(basename "$f")"
	done
	cat >"$tmp/apt.conf" <<-END
		Dir::Etc::sourcelist "/dev/null";
		Dir::Etc::sourceparts "$tmp/parts";
		Dir::State::lists "$tmp/lists";
		APT::Sandbox::User "root";
	END
	export APT_CONFIG="$tmp/apt.conf"
	# A list that a mirror is just changing need not be the one we want.
	apt-get -qq update || say "going on with the lists that could be read"
	(cd "$tmp" && apt-get -qq --download-only source "lvm2=$version")
}

command -v "$cc" >/dev/null || {
	say "$cc is missing: install the package musl-tools"
	exit 1
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

if [ ! -e "$dir/$tar" ]; then
	say "fetching the source of lvm2 $version"
	fetch
	mv "$tmp/$tar" "$dir/$tar.part"
	mv "$dir/$tar.part" "$dir/$tar"
fi
if ! echo "$sha256  $dir/$tar" | sha256sum -c --quiet - >/dev/null 2>&1; then
	rm -f "$dir/$tar"
	say "$tar: wrong checksum, removed"
	exit 1
fi

# musl-gcc finds no kernel headers by itself.
rm -rf "$dir/include"
mkdir "$dir/include"
for d in linux asm-generic mtd; do
	ln -s "$headers/$d" "$dir/include/$d"
done
ln -s "$headers/$("$cc" -print-multiarch)/asm" "$dir/include/asm"

# The headers are part of CC since one rule of lvm2's build drops CFLAGS.
say "building libdevmapper (half a minute); log in $dir/build.log"
tar -xf "$dir/$tar" -C "$tmp"
(
	cd "$tmp/LVM2.$upstream"
	# Not into the executable: 16 KB of messages, which dm.c would drop,
	# and two names in arrays of 4 KB each.
	sed -i '/define LOG_MESG/,/dm_log_with_errno(/c\
#define LOG_MESG(l, f, ln, e, x...) ((void) 0)' libdm/misc/dm-logging.h
	sed -i 's/^\(static char _[a-z]*_dir\)\[PATH_MAX\]/\1[64]/' \
		libdm/libdm-common.c
	# Nor 16 KB of scanf() for a line of /proc/devices and the kernel's
	# version; the others of these two files are never reached.
	sed -i -e '/parts = sscanf(/,/;/c\
	parts = (_kernel_major = strtoul(_uts.release, NULL, 10)) ? 3 : 0;' \
		-e '/if (sscanf(line/c\
		line[strcspn(line, "\\n")] = 0;\
		num = strtoul(line, NULL, 10);\
		if (strrchr(line, 32)) {' \
		-e 's/!strcmp(name, nm)/!strcmp(name, strrchr(line, 32) + 1)/' \
		libdm/ioctl/libdm-iface.c
	sed -i '/^#include "libdm-common.h"/a\
#define sscanf(...) 0\
#define fscanf(...) 0' libdm/libdm-common.c
	# It cannot run programs that it makes for another processor.
	export ac_cv_func_malloc_0_nonnull=yes ac_cv_func_realloc_0_nonnull=yes
	# shellcheck disable=SC2086 # none, or one word
	./configure CC="$cc -isystem $dir/include" ${host:+--host=$host} \
		CFLAGS="-fPIC -g0 -fno-asynchronous-unwind-tables \
			-ffunction-sections -fdata-sections" \
		--with-optimisation=-Os \
		--enable-static_link --disable-selinux --disable-udev_sync \
		--disable-readline --disable-blkid_wiping --disable-nls \
		--with-thin=none --with-cache=none --with-vdo=none \
		--with-writecache=none --with-integrity=none
	make libdm.device-mapper
) >"$dir/build.log" 2>&1 || {
	say "failed; the last lines of the log:"
	tail -n 5 "$dir/build.log" >&2
	exit 1
}
cp "$tmp/LVM2.$upstream/libdm/ioctl/libdevmapper.a" "$dir/"
cp "$tmp/LVM2.$upstream/libdm/libdevmapper.h" "$dir/include/"
: >"$stamp"
