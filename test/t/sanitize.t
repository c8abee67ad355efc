#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The wire tests again, with helpers that watch themselves: one built with
# AddressSanitizer and UndefinedBehaviorSanitizer, one with ThreadSanitizer.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# watched NAME FLAGS: build in a directory of its own, run, count reports
watched() {
	mkdir "$tmp/$1"
	cp ./*.c ./*.h Makefile config.mk "$tmp/$1"
	ok "$1: builds" make -s -C "$tmp/$1" CC="gcc -g -O1 $2" LDFLAGS= \
		LIBS=-ldevmapper
	# What the watchers remember is no growth of the helper's.
	GROWTH=100000 PRHELPER=$tmp/$1/prhelper test/t/wire.t \
		>"$tmp/$1/tap" 2>&1 ||
		grep -v '^ok' "$tmp/$1/tap" | sed 's/^/# /'
	is "$(grep -c '^not ok' "$tmp/$1/tap")" 0 "$1: wire tests pass"
	ok "$1: all of them" grep -q '^1\.\.' "$tmp/$1/tap"
	is "$(find "$tmp/$1" -name 'report.*' -exec head -n 20 {} +)" '' \
		"$1: nothing to report"
}

export ASAN_OPTIONS="log_path=$tmp/address/report" \
	UBSAN_OPTIONS="log_path=$tmp/address/report" \
	TSAN_OPTIONS="log_path=$tmp/thread/report"
watched address '-fsanitize=address,undefined'
watched thread -fsanitize=thread
done_testing
