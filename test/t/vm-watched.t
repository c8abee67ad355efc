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

# build DIR LIBS
build() {
	make -s -C "$tmp/watched" LDFLAGS= LIBS="$2" BIN="$1" \
		CC='gcc -g -O1 -fsanitize=address,undefined '\
'-fno-sanitize-recover=all'
}

# Who looks for leaks stops all threads first, and one that hangs does not
echo 'int __lsan_is_turned_off(void); int __lsan_is_turned_off(void)'\
	'{ return 1; }' >"$tmp/watched/off.c"
gcc -c -o "$tmp/watched/off.o" "$tmp/watched/off.c"
ok 'it builds' build prhelper -ldevmapper
ok 'it builds, without a look for leaks' build no-leaks '-ldevmapper off.o'

# Not there: what is about memory and threads, which watching takes
for case in mpath ${PRHELPER_LONG:+target state fence killed return beside \
	iscsi mpath-iscsi}; do
	helper=prhelper
	case $case in *iscsi) helper=no-leaks ;; esac
	HELPER=watched test/vm/boot "$case" \
		"$tmp/watched/$helper=/bin/watched" >"$tmp/$case.tap" || :
	grep '^not ok' -A 4 "$tmp/$case.tap" | sed 's/^/# /'
	is "$(grep -c '^not ok' "$tmp/$case.tap")" 0 "$case: as it should be"
	ok "$case: to its end" grep -q '^# case ended: 0' "$tmp/$case.tap"
	is "$(grep -aE 'ERROR: .*Sanitizer|runtime error' \
		"test/log/$case-watched.console")" '' "$case: nothing to report"
done
done_testing
