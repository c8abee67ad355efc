#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The helper is killed, idle and at work, and the next one takes up what it
# left: paths that return then, keys that another host preempted meanwhile.

# shellcheck source=test/vm/lib.sh
. /lib.sh

without_alua
four_paths
ok 'the helper starts and serves' serve

### The helper is killed when idle

kind='killed when idle'
fresh a
offline "$p2"
put '00 -' 'REGISTER another key' 0 0 a c
killed
ok "$kind: the next one serves" serve
returned "$p2" '1 b, 4 c'
offline "$p2"
put '00 -' 'REGISTER another key' 0 0 c d
killed
running "$p2"
ok "$kind: the next one serves" serve
copies_become '1 b, 4 d'
whole
offline "$p2"
put '00 -' unregister 0 0 d 0
copies_are '1 b, 1 d'
killed
ok "$kind: the next one serves" serve
returned "$p2" '1 b'
pr_out $mp 6 0 0 a >/dev/null
put '00 -' RESERVE 1 5 a 0
dead=$(holding)
offline "$dead"
killed
ok "$kind: the next one serves" serve
put '00 -' 'the holding path is dead: RESERVE again' 1 5 a 0
put '00 -' RELEASE 2 5 a 0
holder_is ''
copies_are '3 a, 1 b'
returned "$dead" '4 a, 1 b'

kind='preempted while the helper is dead'
offline "$p3"
put '00 -' 'REGISTER another key' 0 0 a c
killed
ok "$kind: by the other host" other 4 5 b c
copies_are '1 b'
ok "$kind: the next one serves" serve
running "$p3"
copies_stay '1 b'
whole
put '00 -' 'REGISTER again' 0 0 0 a
copies_are '4 a, 1 b'
# None of the paths missed anything
offline "$p3"
killed
ok "$kind: by the other host" other 4 5 b a
running "$p3"
ok "$kind: the next one serves" serve
copies_stay '1 b'
put '02 2/08/00' 'RESERVE: as the device says it' 1 5 a 0
copies_stay '1 b'

# What the guest does again and again, with a reservation from the second to
# the fifth, and its key before that and after each
work="$(out_cdb 0 0 a c) $(out_cdb 1 5 c 0) $(out_cdb 0 0 c d)
	$(out_cdb 4 5 d d) $(out_cdb 2 5 d 0) $(out_cdb 6 0 0 a)
	$(out_cdb 0 0 a 0) $(out_cdb 0 0 0 a)"
work_keys='a c c d d d a 0 a'

# settled: all paths have the same key, or none, and the map uses all
settled() {
	case $(copies) in
	'1 b' | '4 a, 1 b' | '1 b, 4 c' | '1 b, 4 d') test_whole ;;
	*) false ;;
	esac
}

# kill_at_work [DISK]: at a random moment. The path is dead then, and returns
# only when there is a new helper.
kill_at_work() {
	fresh a
	[ -z "${1:-}" ] || offline "$1"
	# shellcheck disable=SC2086 # each is a command
	prc -n 60 $socket $mp $work >/tmp/answers &
	work_pid=$!
	usleep $((($(od -An -N2 -tu2 /dev/urandom) % 700 + 20) * 1000))
	killed
	wait $work_pid
	n=$(grep -c '^00' /tmp/answers)
	bad=$(grep -v '^00 - -$\|^closed' /tmp/answers)
	serve
	[ -z "${1:-}" ] || running "$1"
	within 30 settled || :
	got=$(copies)
	key=$(echo "$got" | sed 's/1 b//; s/4//; s/[, ]//g')
	held=$(holder "$w")
	i=$((n % 8 + 1))
	both=$(echo "$work_keys" | cut -d ' ' -f $i,$((i + 1)))
	what="$n answers, then killed: $got${held:+, $held}, not used: $(
		)$(failed mp)"
	case " $both " in
	*" ${key:-0} "*) good=yes ;;
	*) good=no ;;
	esac
	case $held in
	'' | "$key $we_ro") ;;
	*) good=no ;;
	esac
	is "$good $bad$(failed mp)" 'yes ' "$kind: $what"
	[ -z "$held" ] ||
		put '00 -' 'the guest can release' 2 5 "$key" 0
}

kind='killed at work'
for d in $ours $ours; do
	kill_at_work
done
kind='killed at work, a path is away'
for d in $ours $ours $ours; do
	kill_at_work "$d"
done

kind='the end'
stop_helper
is $? 0 "$kind: exit status 0"
is "$(failed mp)" '' "$kind: no path is left failed"
is "$(find $socket.state -name '~*')" '' "$kind: no half-written file is left"
done_testing
