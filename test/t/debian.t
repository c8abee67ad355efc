#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The Debian package: made by nobody in particular and without a network, the
# same bytes each time, and what lintian says of it.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$tmp"

# nobody COMMAND...: in the directory that is his, without a network
nobody() {
	(cd "$tmp/nobody" && unshare -n setpriv --reuid nobody --regid nogroup \
		--clear-groups env HOME="$tmp/nobody" TMPDIR="$tmp/nobody" "$@")
}

### Made

mkdir "$tmp/nobody" "$tmp/nobody/again"
make -s tree TREE="$tmp/nobody/tree"
cp -R libdm "$tmp/nobody/tree"
chown -R nobody:nogroup "$tmp/nobody"
: >"$tmp/start"
ok 'make deb' quietly nobody make -s -C tree deb RELEASE=../out
is "$(find "$tmp/nobody/tree" -newercm "$tmp/start")" '' \
	'nothing in the tree was touched'
out=$tmp/nobody/out/debian
version=$(dpkg-parsechangelog -l contrib/debian/debian/changelog -S Version)
is "${version%%[~-]*}" "$(sed -n 's/^VERSION = //p' config.mk)" \
	'its version is the one in config.mk'
v=prhelper_$version
deb=${v}_amd64.deb
is "$(cd "$out" && echo *)" "$v.debian.tar.xz $v.dsc $(
	)${v}_amd64.buildinfo ${v}_amd64.changes $deb $(
	)${v%-*}.orig.tar.gz" 'source and binary'
dpkg-deb -R "$out/$deb" "$tmp/root"
strip -o "$tmp/stripped" prhelper
ok 'its binary is the one that is released' \
	cmp "$tmp/stripped" "$tmp/root/usr/bin/prhelper"
is "$(zgrep -l usr/local "$tmp"/root/usr/share/man/man8/* \
	"$tmp"/root/lib/systemd/system/* || :)" '' \
	'manual and units know where it is'
is "$(dpkg-deb -f "$out/$deb" Static-Built-Using)" \
	"musl (= $(dpkg-query -W -f '${source:Version}' musl-dev))" \
	'the C library that is linked in'
# shellcheck disable=SC2016 # sh of nobody expands it
ok 'made again of its sources, with another clock and umask' quietly \
	nobody TZ=Asia/Tokyo sh -euc 'umask 077; cd again
		dpkg-source -x ../out/debian/*.dsc made
		cd made && dpkg-buildpackage -us -uc -b'
ok 'the same bytes' cmp "$out/$deb" "$tmp/nobody/again/$deb"

### Judged

judge() {
	nobody lintian --display-info --pedantic --show-overrides \
		"out/debian/${v}_amd64.changes" >"$tmp/judged" 2>&1
}
ok 'lintian' judge
sed 's/^/# /' "$tmp/judged"
like "$(cat "$tmp/judged")" '*O: prhelper: unknown-field *' \
	'it has looked, and has seen what is overridden'
is "$(grep '^[EWI]:' "$tmp/judged" || :)" '' 'it has nothing to say'
done_testing
