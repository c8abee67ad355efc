#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The simulator's target is to be like the real one. Its transcripts are in
# /seeds; each is played on a new logical unit of LIO with four paths and two
# nexuses of other hosts. A difference is a fault of the simulator, or one of
# prhelper that only a real target shows.
# vm: -m 1536

# shellcheck source=test/vm/lib.sh
. /lib.sh

without_alua

# seed N LUN: play it on this new one; prints what is different
seed() {
	n=$1 l=$2
	lun "$l"
	set -- "$(path "$l" 1)" "$(path "$l" 2)" "$(path "$l" 3)" \
		"$(path "$l" 4)" "$(path "$l" 5)" "$(path "$l" 6)"
	multipath "$l" "$1" "$2" "$3" "$4"
	play $socket "mp=/dev/mapper/$l" "p1=$1" "p2=$2" "p3=$3" "p4=$4" \
		"o1=$5" "o2=$6" <"/seeds/$n" || [ $? -eq 1 ]
}

ok 'the helper starts and serves' start_helper
start=$(ms)
for f in /seeds/*; do
	n=${f#/seeds/}
	# Where the machine stood still for half a second, another path was
	# tried: that is right, but the simulator cannot know. So once more.
	for try in a b c d; do
		got=$(seed "$n" "s$n$try" 2>&1)
		[ -n "$got" ] || break
		diag "seed $n, try $try: $got"
	done
	is "$got" '' "seed $n: $(wc -l <"$f") steps"
done
diag "$(cat /seeds/* | wc -l) steps in $(($(ms) - start)) ms"
is "$(cat /seeds/* | grep -vc '^down\|^up\| => [01].')" 0 'no answer is missing'
stop_helper
done_testing
