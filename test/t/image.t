#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The container image, as skopeo, which is not what makes it, reads it: the
# right one for each machine, small, labelled, and the same bytes each time.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

max=$((250 * 1000))	# bytes that the image of one machine may have
version=$(make -s -f - version <<'END'
include config.mk
version:
	@echo ${VERSION}
END
)

# image NAME ARGUMENT...: make it
image() {
	name=$1
	shift
	make -s image IMAGE="$tmp/$name" "$@"
}

# get ARCHIVE ARCHITECTURE: what a machine of this kind gets of it
get() {
	rm -rf "$tmp/got"
	skopeo copy -q --override-arch "$2" "oci-archive:$1" "dir:$tmp/got" \
		>/dev/null
}

# of FILTER: print this of what was got
of() {
	skopeo inspect -f "{{ $1 }}" "dir:$tmp/got"
}

file_of_layer() {
	echo "$tmp/got/$(of 'index .Layers 0' | sed 's/^sha256://')"
}

label() {
	of "index .Labels \"org.opencontainers.image.$1\""
}

image one
ok 'made for this machine' get "$tmp/one" "$(dpkg --print-architecture)"
listing=$(tar -tvf "$(file_of_layer)" 2>/dev/null)
is "$(echo "$listing" | grep -v '/$' | sed 's/ .*:[0-9]* / /' |
	LC_ALL=C sort)" \
	'-rwxr-xr-x usr/bin/prhelper
lrwxrwxrwx entrypoint.sh -> usr/bin/prhelper
lrwxrwxrwx usr/bin/qemu-pr-helper -> prhelper' 'one file, three names'
is "$(echo "$listing" | awk '{ print $2 }' | sort -u)" 0/0 \
	'all of it belongs to root'
size=$(cat "$tmp"/got/* | wc -c)
ok "$size bytes, at most $max" test "$size" -le $max
is "$(label title) $(label version) $(label licenses)" \
	"prhelper $version ISC AND MIT AND LGPL-2.1-only" 'labels'

unpack() {
	tar -C "$tmp/run" -xf "$(file_of_layer)" 2>/dev/null # it begins with /
}

mkdir -p "$tmp/run/dev"
mknod -m 666 "$tmp/run/dev/null" c 1 3
unpack
for name in usr/bin/prhelper usr/bin/qemu-pr-helper entrypoint.sh; do
	like "$(chroot "$tmp/run" "/$name" -V 2>&1)" "*$version*" \
		"/$name runs alone"
done

# Whoever makes it, and when
(
	umask 077
	TZ=Asia/Tokyo
	export TZ
	cp prhelper "$tmp/prhelper"
	touch -d 2001-01-01 "$tmp/prhelper"
	image two IMAGE_BINS="$tmp/prhelper"
)
ok 'made twice: the same bytes' cmp "$tmp/one" "$tmp/two"
SOURCE_DATE_EPOCH=1800000000 image dated
get "$tmp/dated" "$(dpkg --print-architecture)"
is "$(label created)" 2027-01-15T08:00:00Z 'SOURCE_DATE_EPOCH dates it'

# Only the header of these says what they are for; that is what is looked at.
for machine in 62 183; do
	cp prhelper "$tmp/$machine"
	printf '%b' "\\0$(printf %o $machine)" |
		dd of="$tmp/$machine" bs=1 seek=18 conv=notrunc 2>/dev/null
done
image index IMAGE_BINS="$tmp/62 $tmp/183" STRIP=true
for arch in amd64 arm64; do
	get "$tmp/index" $arch
	is "$(of .Architecture)" $arch "an index: $arch gets its own"
	unpack
	machine=62
	[ $arch = amd64 ] || machine=183
	ok "an index: ... binary, too" \
		cmp "$tmp/run/usr/bin/prhelper" "$tmp/$machine"
done
printf '\7' | dd of="$tmp/62" bs=1 seek=18 conv=notrunc 2>/dev/null
image x IMAGE_BINS="$tmp/62" STRIP=true 2>"$tmp/err" || :
like "$(cat "$tmp/err")" '*neither x86_64 nor aarch64*' \
	'no image for a machine that has no name'
ok '... and no file' test ! -e "$tmp/x"
done_testing
