#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Is the simulated target like the real one? What the simulator says of many
# seeds is played in the test machine; see ../vm/case/faith.sh. SEEDS: which.
set -eu

test=$(cd "$(dirname "$0")/.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
make -s -C "$test" sim/sim play
set -- "$test/play=/bin/play"
for seed in ${SEEDS:-$(seq 40)}; do
	"$test/sim/sim" -f "$seed" >"$tmp/$seed"
	set -- "$@" "$tmp/$seed=/seeds/$seed"
done
"$test/vm/boot" faith "$@"
