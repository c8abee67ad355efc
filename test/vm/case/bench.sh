#!/bin/sh
# See LICENSE file for copyright and license details.
#
# What a helper costs in the emulated machine, where there are disks and maps:
# prhelper, the distribution's with libmultipath and multipathd, and the floor
# (../../bench/floor.c), in turn in each round. A figure is a line
#
#	# figure NAME CONTESTANT MEDIAN [P99]
#
# in nanoseconds, which ../../bench/report takes. What is in the machine comes
# from ../../bench/run.
# vm: -m 2048

# shellcheck source=test/vm/lib.sh
. /lib.sh

rounds=${BENCH_ROUNDS:-7}

figure() {
	diag "figure $*"
}

# measure NAME CONTESTANT [OPTION...] SOCKET FILE CDB...
measure() {
	name=$1 contestant=$2
	shift 2
	figures=$(bench trips "$@") || figures=failed
	figure "$name" "$contestant" "$figures"
}

### The disks; multipathd makes the map of four, which both helpers serve

lun a
a=$(path a)
lun b
for i in 1 2 3 4; do
	eval "b$i=\$(path b $i)"
done
# shellcheck disable=SC2154 # set by eval
multipathd_makes mb "$b1" "$b2" "$b3" "$b4"

# Maps of n paths for prhelper alone
for n in 1 2 4 8 16 32; do
	lun "n$n"
	paths=
	for i in $(seq "$n"); do
		paths="$paths $(path "n$n" "$i")"
	done
	# shellcheck disable=SC2086 # each is a word
	multipath "m$n" $paths
	eval "raw$n=${paths##* }"
done

# One whose fourth path goes silent: commands are lost and nobody says so
lun h
for i in 1 2 3 4; do
	iscsi_export h "127.0.1.$i"
	eval "h$i=\$(iscsi_login h h 127.0.1.$i)"
done
# shellcheck disable=SC2154 # set by eval
multipath mh "$h1" "$h2" "$h3" "$h4"

### The contestants

floor=/run/floor.sock peer=/run/peer.sock
floor $floor >&2 &
qemu-pr-helper -k $peer >&2 &
ok 'prhelper serves' start_helper
ok 'the others do' within 20 test -S $peer -a -S $floor

keys=$(in_cdb 0 8192)
for s in $socket $peer; do
	like "$(prc "$s" /dev/mapper/mb "$keys")" '00 - *' "$s: keys of the map"
done
# A guest that changes its key to and fro
swap="$(out_cdb 6 0 0 a) $(out_cdb 6 0 0 c)"
register=$(out_cdb 6 0 0 a)

for round in $(seq "$rounds"); do
	for who in floor:$floor prhelper:$socket qemu-pr-helper:$peer; do
		measure disk-keys "${who%:*}" -n 300 "${who#*:}" "$a" "$keys"
		measure disk-pause "${who%:*}" -n 20 -p 100 "${who#*:}" "$a" \
			"$keys"
	done
	measure map-keys raw -n 100 - "$b1" "$keys"
	measure map-keys prhelper -n 100 $socket /dev/mapper/mb "$keys"
	measure map-keys qemu-pr-helper -n 5 $peer /dev/mapper/mb "$keys"
	for n in 1 2 4 8 16 32; do
		eval "raw=\$raw$n"
		# shellcheck disable=SC2086,SC2154 # two words; set by eval
		measure "register-$n" raw -n 40 - "$raw" $swap
		# shellcheck disable=SC2086 # two words
		measure "register-$n" prhelper -n 10 $socket "/dev/mapper/m$n" \
			$swap
	done
	# Whoever runs mpathpersist waits for all of it
	figure tool-keys mpathpersist \
		"$(bench run -n 2 mpathpersist -i -k /dev/mapper/mb)"
	figure tool-register mpathpersist "$(bench run -n 2 mpathpersist -o \
		--register-ignore --param-sark=a /dev/mapper/mb)"
	measure tool-keys prhelper -n 20 $socket /dev/mapper/mb "$keys"
	measure tool-register prhelper -n 10 $socket /dev/mapper/mb \
		"$register"
	# Nothing is remembered of a path that works: each silence is news
	measure hung all -p 1 -n 5 $socket /dev/mapper/mh "$register"
	silence 127.0.1.4
	measure hung one -p 1 -n 1 $socket /dev/mapper/mh "$register"
	unsilence 127.0.1.4
	ok "round $round: the silent path is back" within 60 uses 4 mh
done

### System calls of a request

# By one that has no other map to look after
stop_helper
rm -rf $socket.state
start_helper
for what in "disk $a" 'map /dev/mapper/mb'; do
	diag "calls ${what% *} READ KEYS: $(calls "${what#* }" "$keys")"
	diag "calls ${what% *} REGISTER AND IGNORE: $(
		calls "${what#* }" "$register")"
done
stop_helper
done_testing
