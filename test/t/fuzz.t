#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The fuzz targets: each runs its seeds and so many inputs that are made from
# them, the same each time; with PRHELPER_LONG ten times as many. What must be
# true of each outcome is in test/fuzz/NAME.c.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export ASAN_OPTIONS=quarantine_size_mb=16

# enough NAME RUNS: it has run so many, and found nothing
enough() {
	[ "$status" -eq 0 ] || return
	n=$(sed -n 's/^stat::number_of_executed_units: *//p' "$tmp/$1.out")
	[ "${n:-0}" -ge "$2" ]
}

# fuzz NAME RUNS WHAT: what is wrong, and the input that shows it
fuzz() {
	runs=$2${PRHELPER_LONG:+0}
	ok "$1: builds" make -s -C test "$tmp/$1" FUZZOUT="$tmp"
	mkdir "$tmp/$1.new"
	"$tmp/$1" -seed=1 -runs="$runs" -max_len=8192 -timeout=60 \
		-print_final_stats=1 -artifact_prefix="$tmp/$1-" \
		"$tmp/$1.new" "test/fuzz/seeds/$1" \
		>"$tmp/$1.out" 2>&1 && status=0 || status=$?
	ok "$1: $3, $runs inputs" enough "$1" "$runs"
	[ "$status" -eq 0 ] ||
		grep -E '^(not so|SUMMARY|==.*ERROR|.*runtime error|Base64)' \
			"$tmp/$1.out" | sed 's/^/# /'
}

fuzz proto 200000 'segments, descriptors and ends'
fuzz dm 1000000 "device-mapper's lines"
fuzz state 400000 'state files'
fuzz mpath 40000 'parameter lists, and what devices return'
fuzz options 100000 'options and activation'
done_testing
