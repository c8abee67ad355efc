#!/bin/sh
# See LICENSE file for copyright and license details.
#
# What `make release` makes: the same bytes for whoever makes it, what is in
# it, that the sources build without a network, and that the binaries for other
# processors work, under emulation: the program, and for two of them a whole
# machine. All six processors with `sh test/run all`, which wants their
# compilers; else the one that has its compiler anyway.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
top=$(pwd)
doc=$top/doc
tmp=$(mktemp -d)
pid=
trap 'kill $pid 2>/dev/null || :; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$tmp"

arches=x86_64
if [ -n "${PRHELPER_LONG:-}" ]; then
	sh test/setup release
	arches='x86_64 aarch64 armhf i386 ppc64le s390x'
fi
make -s -C test prc wire >&2
version=$(sed -n 's/^VERSION = //p' config.mk)
name=prhelper-$version

# emulator ARCH: print the command that runs its programs; a kernel for x86_64
# may do that for i386
emulator() {
	case $1 in
	armhf) echo qemu-arm ;;
	i386)
		"$tmp/got/$name-i386/prhelper" -V >/dev/null 2>&1 ||
			echo qemu-i386 ;;
	*) echo "qemu-$1" ;;
	esac
}

# machine ARCH: print what readelf calls it
machine() {
	case $1 in
	x86_64) echo 'Advanced Micro Devices X86-64' ;;
	aarch64) echo AArch64 ;;
	armhf) echo ARM ;;
	i386) echo 'Intel 80386' ;;
	ppc64le) echo PowerPC64 ;;
	s390x) echo 'IBM S/390' ;;
	esac
}

# bill ARCH: print each file that is in its bill of materials, and its sum
bill() {
	sed -n 's,^FileName: \./,,p; s/^FileChecksum: SHA1: //p' \
		"got/$name-$1/prhelper.spdx" | paste -d ' ' - - | sort
}

# sums ARCH: the same, of what it was made of
sums() {
	for f in "one/$name.tar.gz" "$top"/libdm/lvm2_*.tar.xz \
			"$(one/.cross/"$1"/cc -print-libgcc-file-name)" \
			one/.cross/"$1"/deb/*.deb "got/$name-$1/prhelper"; do
		echo "${f##*/} $(sha1sum <"$f" | cut -c 1-40)"
	done
}

### The same bytes

# shellcheck disable=SC2086 # several words
ok 'a release is made' quietly sh contrib/release/build "$tmp/one" \
	"$version" $arches
# Elsewhere, by somebody else, with another umask and clock
mkdir "$tmp/nobody"
make -s tree TREE="$tmp/nobody/tree"
mkdir "$tmp/nobody/tree/libdm"
cp libdm/lvm2_*.tar.xz "$tmp/nobody/tree/libdm"
chown -R nobody "$tmp/nobody"
# shellcheck disable=SC2086 # several words
ok 'and once more, by somebody else and elsewhere' quietly \
	setpriv --reuid nobody --clear-groups env HOME="$tmp/nobody" \
	TMPDIR="$tmp/nobody" TZ=Asia/Tokyo sh -c 'umask 077; exec sh "$@"' sh \
	"$tmp/nobody/tree/contrib/release/build" "$tmp/nobody/out" \
	"$version" $arches
is "$(cat "$tmp/nobody/out/SHA256SUMS")" "$(cat "$tmp/one/SHA256SUMS")" \
	'byte for byte the same'

### What is in it

cd "$tmp"
mkdir got
for arch in $arches; do
	tar -x -C got -f "one/$name-$arch.tar.gz"
	is "$(cd "got/$name-$arch" && echo * LICENSES/*)" "CHANGES LICENSE $(
		)LICENSES Makefile README.md RELINK config.mk contrib doc $(
		)prhelper prhelper.8 prhelper.spdx LICENSES/libdevmapper $(
		)LICENSES/libgcc LICENSES/musl" "$arch: what is in it"
	readelf -hlW "got/$name-$arch/prhelper" >elf
	is "$(sed -n 's/^ *Machine: *//p' elf)" "$(machine "$arch")" \
		"$arch: its processor"
	is "$(grep -c INTERP elf || :)" 0 "$arch: it is static"
	is "$(bill "$arch")" "$(sums "$arch" | sort)" \
		"$arch: the bill of materials has all of it"
done

# size ARCHITECTURE: what a machine of this kind gets of the image, in bytes
size() {
	rm -rf image
	skopeo copy -q --override-arch "$1" "oci-archive:one/$name.oci.tar" \
		dir:image >/dev/null
	is "$(skopeo inspect -f '{{ .Architecture }}' dir:image)" "$1" \
		"image: for $1"
	n=$(cat image/* | wc -c)
	ok "image: $n bytes, at most 250,000" test "$n" -le 250000
}

size amd64
case $arches in
*aarch64*) size arm64 ;;
esac

### Where there is no network: doc/airgapped.md

# as_told HEADING: run what the page has below it
as_told() {
	page airgapped "$1" >commands
	(cd one && DESTDIR="$tmp/dest" unshare -n sh -e "$tmp/commands")
}

installed() {
	(cd dest/usr/local && find . ! -type d | sed 's,^\./,,' | sort | xargs)
}

ok 'checksums' quietly as_told 'Check what has arrived'
cp "one/$name-x86_64.tar.gz" damaged
echo >>"one/$name-x86_64.tar.gz"
like "$(as_told 'Check what has arrived' 2>&1)" "*x86_64.tar.gz: FAILED*" \
	'a damaged archive is found'
mv damaged "one/$name-x86_64.tar.gz"
ok 'the binary is installed' quietly as_told 'Install the binary'
is "$(installed)" "bin/prhelper bin/qemu-pr-helper $(
	)lib/systemd/system/prhelper.service $(
	)lib/systemd/system/prhelper.socket share/man/man8/prhelper.8 $(
	)share/man/man8/qemu-pr-helper.8" 'with manual and units'
ok 'it is that one' cmp "$tmp/dest/usr/local/bin/prhelper" \
	"got/$name-x86_64/prhelper"
rm -rf "$tmp/dest"
ok 'the sources are built and installed' quietly as_told \
	'Build from the sources'
ok 'and give what is released' cmp "$tmp/dest/usr/local/bin/prhelper" \
	"got/$name-x86_64/prhelper"
tar -x -f "one/$name.tar.gz"
is "$(grep -rl "$(printf '\177ELF')" "$name" || :)" '' \
	'nothing is in their archive that was made of them'

### Other processors

up() {
	"$helper" -k "$tmp/sock" 2>said &
	pid=$!
	within 60 answers
}

answers() {
	[ "$("$top/test/prc" sock /dev/null 5e 2>/dev/null)" = '02 5/20/00 -' ]
}

# unit NAME SOURCE...: a unit test, compiled for it. Not batch, which wants a
# libc that is not linked in.
unit() {
	unit=$1
	shift
	(cd "$top" && "$cc" -std=c11 -D_GNU_SOURCE -DVERSION='"test"' -static \
		-pthread -isystem "$libdm/include" -o "$tmp/unit" \
		"test/unit/$unit.c" "$@" "$libdm/libdevmapper.a") &&
		$emulator "$tmp/unit" >out 2>&1 && ! grep '^not ok' out
}

for arch in $arches; do
	[ "$arch" != x86_64 ] || continue
	emulator=$(emulator "$arch")
	cc=$tmp/one/.cross/$arch/cc libdm=$tmp/one/.cross/$arch/libdm
	helper=$tmp/helper
	printf '#!/bin/sh\nexec %s %s "$@"\n' "$emulator" \
		"$tmp/got/$name-$arch/prhelper" >helper
	chmod +x helper
	is "$(./helper -V)" "prhelper $version" "$arch: it runs"
	ok "$arch: it serves" up
	./helper in keys --socket="$tmp/sock" /dev/null 2>said || :
	is "$(cat said)" "$(
		)prhelper: /dev/null: READ KEYS: sense 5h/20h/00h" \
		"$arch: and is its own client"
	kill "$pid"
	wait "$pid" && status=0 || status=$?
	pid=
	is "$status" 0 "$arch: and ends"
	# The emulator needs descriptors and memory of its own, and loses
	# descriptors that came where there was no room for them.
	"$top/test/wire" "$tmp/helper" >wire 2>&1 || :
	is "$(sed -n 's/^not ok [0-9]* - //p' wire | grep -v "$(
		)^descriptor: \(none or\|on any\)\|: few descriptors\|$(
		)^no descriptors left\|^clients that never read$(
		)\|^no memory for threads")" '' \
		"$arch: clients of all kinds, $(grep -c '^ok' wire) of them"
	below='trace.c util.c clock.c'
	# shellcheck disable=SC2086 # several words
	{
		ok "$arch: unit dmparse" unit dmparse dm.c path.c $below
		ok "$arch: unit dmread" unit dmread dm.c $below
		ok "$arch: unit paths" unit paths path.c
		ok "$arch: unit luns" unit luns state.c $below
		ok "$arch: unit statefile" unit statefile state.c $below
		ok "$arch: unit outcome" unit outcome sg.c path.c proto.c $below
	}
	ok "$arch: the simulator builds" quietly "$cc" -std=c11 -O2 -static \
		-D_GNU_SOURCE -DVERSION='"sim"' -o sim "$top"/test/sim/*.c \
		"$top/mpath.c" "$top/proto.c" "$top/util.c"
	# shellcheck disable=SC2086 # none, or one word
	ok "$arch: simulated paths" quietly $emulator ./sim -c -n 300 -s 1
	# On a real target, in a machine of its own kind
	[ "$arch" = aarch64 ] || [ "$arch" = s390x ] || continue
	mkdir -p bin
	cp "got/$name-$arch/prhelper" bin
	ok "$arch: prc" quietly "$cc" -std=c11 -D_DEFAULT_SOURCE -static \
		-pthread -o bin/prc "$top/test/prc.c" "$top/test/client.c"
	for case in mpath return state; do
		ok "$arch: a machine of its own: $case" quietly env \
			ARCH="$arch" BIN="$tmp/bin" "$top/test/vm/boot" "$case"
	done
done
done_testing
