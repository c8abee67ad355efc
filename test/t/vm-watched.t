#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Cases of the test machine with a helper that watches itself: glibc's, with
# AddressSanitizer and UndefinedBehaviorSanitizer. PRHELPER_LONG: more of them.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

mkdir "$tmp/watched"
cp ./*.c ./*.h Makefile config.mk "$tmp/watched"
ok 'it builds' make -s -C "$tmp/watched" LDFLAGS= LIBS=-ldevmapper \
	CC='gcc -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all'

# Not there: what is about memory and threads, which watching takes
for case in mpath ${PRHELPER_LONG:+target state fence killed return beside \
	iscsi mpath-iscsi}; do
	HELPER=watched test/vm/boot "$case" \
		"$tmp/watched/prhelper=/bin/watched" >"$tmp/$case.tap" || :
	grep '^not ok' -A 4 "$tmp/$case.tap" | sed 's/^/# /'
	is "$(grep -c '^not ok' "$tmp/$case.tap")" 0 "$case: as it should be"
	ok "$case: to its end" grep -q '^# case ended: 0' "$tmp/$case.tap"
	is "$(grep -aE 'ERROR: .*Sanitizer|runtime error' \
		"test/log/$case.console")" '' "$case: nothing to report"
done
done_testing
