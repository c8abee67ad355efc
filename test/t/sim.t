#!/bin/sh
# See LICENSE file for copyright and license details.
#
# mpath.c on simulated targets: many schedules, some of them under the
# sanitizers, and each seed again that once found something.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# build NAME FLAGS: a simulator of its own, so that no other run is disturbed
build() {
	make -s -B -C test sim/sim SIMOUT="$tmp/$1" SIMFLAGS="-Werror $2"
}

# schedules NAME OPTIONS SEED: its last words
schedules() {
	# shellcheck disable=SC2086
	"$tmp/$1" -w $2 -s "$3" 2>&1 | grep -v '^prhelper: ' | tail -n 5
}

ok 'it builds' build sim ''
ok 'it builds with sanitizers' build checked \
	'-O1 -fsanitize=address,undefined -fno-sanitize-recover=all'
is "$(schedules sim '-j 2 -n 100000' 1)" '100000 schedules' '100,000 schedules'
is "$(schedules checked '-j 2 -n 4000' 100001)" '4000 schedules' \
	'4,000 schedules under the sanitizers'
while read -r seed what; do
	is "$(schedules checked '-n 1' "$seed")" '1 schedules' "$seed: $what"
done <test/sim/seeds
echo '1 0 1 0 0 2 1 1 1' >"$tmp/list"
ok 'a list of decisions is a schedule, too' "$tmp/sim" -r "$tmp/list"
"$tmp/sim" -f 1 >"$tmp/one"
"$tmp/sim" -f 1 >"$tmp/two"
ok 'a comparison is the same each time' cmp "$tmp/one" "$tmp/two"
done_testing
