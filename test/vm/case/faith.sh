#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The simulator's target is to be like the real one. Its transcripts are in
# /seeds; each is played on a new logical unit of LIO with four paths and two
# nexuses of other hosts. A difference is a fault of the simulator, or one of
# prhelper that only a real target shows.
# vm: -m 1536 -t 400

# shellcheck source=test/vm/lib.sh
. /lib.sh

without_alua

# seed N: play it; prints what is different
seed() {
	lun "s$1"
	set -- "$1" "$(path "s$1" 1)" "$(path "s$1" 2)" "$(path "s$1" 3)" \
		"$(path "s$1" 4)" "$(path "s$1" 5)" "$(path "s$1" 6)"
	multipath "s$1" "$2" "$3" "$4" "$5"
	play $socket "mp=/dev/mapper/s$1" "p1=$2" "p2=$3" "p3=$4" "p4=$5" \
		"o1=$6" "o2=$7" <"/seeds/$1" || [ $? -eq 1 ]
}

ok 'the helper starts and serves' start_helper
start=$(ms)
for f in /seeds/*; do
	n=${f#/seeds/}
	is "$(seed "$n" 2>&1)" '' "seed $n: $(wc -l <"$f") steps"
done
diag "$(cat /seeds/* | wc -l) steps in $(($(ms) - start)) ms"
is "$(cat /seeds/* | grep -vc '^down\|^up\| => [01].')" 0 'no answer is missing'
stop_helper
done_testing
