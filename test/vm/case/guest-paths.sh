#!/bin/sh
# See LICENSE file for copyright and license details.
#
# A real guest writes and reserves on a map of four paths while these fail and
# return at random and the helper is killed and started again a hundred times.
# There is no multipathd: we fail a broken path and reinstate it as it would.
# Since no other host ever reserves, no write of the guest may be refused.
# vm: -m 2048

# shellcheck source=test/vm/lib-guest.sh
. /lib-guest.sh

kills_wanted=100

# All that happens, in one order: the helper's trace, the guest's console, us
log=/tmp/log
guest_console=$log
: >$log
tail -f $log >&2 &
tail=$!

note() {
	echo "$(ms) $*" >>$log
}

# random N: from 0 to N - 1, in $random. Each loop has its own series.
seed=1
random() {
	seed=$(((seed * 1103515245 + 12345) & 0x7fffffff))
	random=$(((seed >> 12) % $1))
}

# rest MIN MAX: sleep so many milliseconds
rest() {
	random $(($2 - $1))
	usleep $((($1 + random) * 1000))
}

### What happens meanwhile, in two loops of their own, until /tmp/calm is there

# may_pause NAME: has a pause been asked for? Tell that we are in it.
may_pause() {
	if [ -e /tmp/pause ]; then
		: >"/tmp/paused.$1"
	else
		rm -f "/tmp/paused.$1"
		false
	fi
}

# The helper's trace comes through here, and after one line of six the helper
# is killed: so mostly while it does something. A tick now and then makes that
# possible when it does nothing, too.
mkfifo /run/trace
exec 7<>/run/trace
kills() {
	seed=4711 n=0
	helper_starts
	while [ ! -e /tmp/calm ]; do
		read -r line <&7
		[ "$line" = tick ] || echo "$line" >>$log
		random 6
		if may_pause kills || [ $random -gt 0 ]; then
			continue
		fi
		n=$((n + 1))
		note "kill $n"
		kill -9 "$helper_pid"
		wait "$helper_pid" 2>/dev/null
		helper_starts
		echo $n >/tmp/kills
	done
	: >/tmp/ended.kills
}

helper_starts() {
	start_helper -T path_step -T path_done 2>&7 ||
		note 'the helper does not start'
	echo "$helper_pid" >/tmp/helper
}

# Of the Nth path, whose disk is $d, /tmp/is.N says up, down, or the time at
# which it is to be reinstated; /tmp/how.N says what is wrong with it.

path_fails() {
	random 4
	case $random in
	0) how=transport ;;
	1) how=dm ;;
	*) how=offline ;;
	esac
	note "path $1 ($d) fails: $how"
	case $how in
	offline) offline "$d" ;;
	transport) transport offline "$d" ;;
	esac
	# Whose task it is notices that now or later
	random 2
	if [ $how = dm ] || [ $random = 0 ]; then
		fail mp "$d"
	fi
	echo down >"/tmp/is.$1"
	echo $how >"/tmp/how.$1"
	echo "$how" >>/tmp/failures
}

path_returns() {
	fail mp "$d"
	case $(cat "/tmp/how.$1") in
	offline) running "$d" ;;
	transport) transport online "$d" ;;
	esac
	random 2000
	note "path $1 ($d) returns, for multipathd in $((1000 + random)) ms"
	echo $(($(ms) + 1000 + random)) >"/tmp/is.$1"
	rm -f "/tmp/late.$1"
}

# registered N: writes through the path would not be refused
registered() {
	drain "$w"
	case $(raw_in "$w" 3 8192) in
	00\ -\ ????????00000000*) return 0 ;;	# nobody is
	'00 -'*) full "$w" | grep -q "^$1 " ;;
	*) false ;;
	esac
}

# path_is_due N TIME: reinstate it when its time has come. By then the helper
# has registered it, or is late: how often that is depends on the machine.
path_is_due() {
	if [ "$(ms)" -lt "$2" ]; then
		return
	elif registered "$1"; then
		note "path $1 ($d) is reinstated, $(($(ms) - $2)) ms late"
		reinstate mp "$d"
		echo up >"/tmp/is.$1"
	elif [ ! -e "/tmp/late.$1" ]; then
		note "path $1 ($d) is not registered yet"
		: >"/tmp/late.$1"
		echo "$1" >>/tmp/late
	fi
}

paths() {
	seed=815
	while [ ! -e /tmp/calm ]; do
		rest 100 400
		echo tick >&7
		up=0
		for i in 1 2 3 4; do
			d=$(path_of $i) state=$(cat /tmp/is.$i)
			case $state in
			up) up=$((up + 1)) ;;
			down) [ ! -e /tmp/pause ] || path_returns $i ;;
			*) path_is_due $i "$state" ;;
			esac
		done
		if [ -e /tmp/pause ]; then
			[ $up -lt 4 ] || may_pause paths
			continue
		fi
		rm -f /tmp/paused.paths
		random 4
		i=$((random + 1))
		d=$(path_of $i)
		case $(cat /tmp/is.$i) in
		down) path_returns $i ;;
		up) [ $up -eq 1 ] || path_fails $i ;;
		esac
	done
	: >/tmp/ended.paths
}

path_of() {
	eval "echo \$p$1"
}

both() {
	[ -e "/tmp/$1.kills" ] && [ -e "/tmp/$1.paths" ]
}

### The guest, which writes all the time

# It leaves in /counts: how many writes were refused, and failed otherwise
# shellcheck disable=SC2016 # it is for the guest's shell
writer='c=0 e=0;
	echo 0 0 >/counts;
	while [ ! -e /stop ]; do
		if ! dd if=/dev/zero of=/dev/sda bs=4k count=256 oflag=direct \
			2>/err;
		then
			read -r l </err;
			echo "guest: $l" >/dev/console;
			case $l in
			*"Invalid exchange"*) c=$((c + 1));;
			*) e=$((e + 1));;
			esac;
			echo "$c $e" >/counts;
		fi;
	done;
	echo >/stopped'

writer_starts() {
	guest "{ $(echo "$writer" | tr '\\\n\t' '   '); } >/dev/null 2>&1 &"
}

# written: print how many writes were done, refused, and failed otherwise
# shellcheck disable=SC2016 # so is this
written() {
	guest 'until read -r c e </counts && [ "$e" ]; do :; done; '$(
		)'read -r _ _ _ _ n _ </sys/block/sda/stat; echo $n $c $e'
}

another_than() {
	[ "$(written)" != "$1" ]
}

# try ACTION TYPE KEY ACTION-KEY: a PERSISTENT RESERVE OUT of the guest; not
# by sg_persist, which takes seconds to load in a machine within a machine.
# What is under way when the helper dies fails; a conflict is only ever told
# by the device.
try() {
	got=$(guest prc - /dev/sda "$(out_cdb "$@")")
	note "guest: action $1, type $2, keys $3, $4: $got"
	echo "$got" >>/tmp/answers
	[ "$got" = '00 - -' ]
}

conflicts=0
conflict() {
	note 'guest: CONFLICT that is none'
	conflicts=$((conflicts + 1))
}

# has KEY: change the guest's key $key to it (0: none). Who has no answer
# cannot know which of them he has, but it is one of them.
has() {
	n=0
	until try 0 0 "$key" "$1"; do
		[ "$got" != '18 - -' ] || [ $n -gt 0 ] || conflict
		try 0 0 "$1" "$1" && break
		n=$((n + 1))
		[ $n -lt 30 ] || return
	done
	key=$1
}

# does ACTION: RESERVE or RELEASE, which can be repeated
does() {
	n=0
	until try "$1" "$type" "$key" 0; do
		[ "$got" != '18 - -' ] || conflict
		n=$((n + 1))
		[ $n -lt 30 ] || return
	done
}

### What must be so

quietly_holds() {
	[ "$(holder "$w")" = "$1" ]
}

# is_held [NAME]: the reservation is the guest's, or there is none
is_held() {
	if [ $# -eq 0 ]; then
		want=
	elif [ "$type" -ge 7 ]; then
		want="0 $1"
	else
		want="$key $1"
	fi
	within 60 quietly_holds "$want"
	is "$(holder "$w")" "$want" "$kind: ... holder: ${want:-none}"
}

none_failed() {
	! dmsetup status mp | grep -q ' [0-9]*:[0-9]* F ' &&
		! grep -q '^mark .* 1$' $socket.state/* 2>/dev/null
}

all_have() {
	[ "$(keys "$w" | xargs -n 1 | sort | uniq -c | xargs)" = "4 $1" ] &&
		none_failed
}

# rests NAME: all paths return and the helper lives on for a while
rests() {
	: >/tmp/pause
	within 120 both paused || note 'no pause'
	within 60 all_have "$key" || note 'not settled'
	copies_are "4 $key"
	ok "$kind: ... and no path is failed" none_failed
	is_held "$1"
	is "$(may write_to "$w")" no "$kind: ... another host cannot write"
	ok "$kind: ... the guest writes on" \
		within 60 another_than "$(written)"
	rm /tmp/pause
}

### The disk, and what is told when it goes wrong

lun a
p1=$(path a 1)
p2=$(path a 2)
p3=$(path a 3)
p4=$(path a 4)
w=$(path a)	# the other host and the witness
witness=$w
multipath mp "$p1" "$p2" "$p3" "$p4"
x=/dev/mapper/mp
chmod 666 $x
key=0

# QEMU may not run as root
umask 0
: >/tmp/pause
: >/tmp/failures
: >/tmp/late
: >/tmp/answers
echo 0 >/tmp/kills
for i in 1 2 3 4; do
	echo up >/tmp/is.$i
done
kills &
paths &
ok 'the helper starts and serves' within 60 both paused
ok 'a guest arrives' arrive
kind='a refused write'
drain "$w"
raw_out "$w" 6 0 0 b
raw_out "$w" 1 5 b 0
is "$(guest "dd if=/dev/zero of=/dev/sda oflag=direct bs=4k count=1 2>&1" |
	grep -c 'Invalid exchange')" 1 "$kind: the guest would tell"
ok "$kind: the other host leaves" raw_out "$w" 3 0 b 0
writer_starts
rm /tmp/pause
began=$(ms)

rounds=0
while [ "$(cat /tmp/kills)" -lt $kills_wanted ]; do
	rounds=$((rounds + 1))
	type=$((5 + (rounds - 1) % 4))
	case $type in
	5) name='Write Exclusive, registrants only' ;;
	6) name='Exclusive Access, registrants only' ;;
	7) name='Write Exclusive, all registrants' ;;
	8) name='Exclusive Access, all registrants' ;;
	esac
	kind="round $rounds, type $type"
	ok "$kind: REGISTER" has a
	ok "$kind: RESERVE" does 1
	is_held "$name"
	is "$(may write_to "$w")" no "$kind: another host cannot write"
	ok "$kind: another key" has c
	is_held "$name"
	rests "$name"
	ok "$kind: RESERVE again" does 1
	ok "$kind: another key" has d
	is "$(may write_to "$w")" no "$kind: another host cannot write"
	is_held "$name"
	ok "$kind: RELEASE" does 2
	is_held
	ok "$kind: unregister" has 0
	is "$(written | cut -d ' ' -f 2)" 0 \
		"$kind: no write of the guest was refused"
	diag "$(cat /tmp/kills) kills, $(wc -l </tmp/failures) failures," \
		"$(wc -l </tmp/answers) commands in $(($(ms) - began)) ms"
done
took=$(($(ms) - began))

kind='at last'
ok "$kind: REGISTER" has a
ok "$kind: RESERVE" does 1
rests "$name"
guest 'echo >/stop; until [ -e /stopped ]; do :; done'
ok "$kind: RELEASE" does 2
ok "$kind: unregister" has 0
: >/tmp/pause
ok "$kind: all paths return" within 120 both paused
: >/tmp/calm
echo tick >&7
within 20 both ended
keys_are ''
is_held
ok "$kind: no path is failed" within 60 none_failed
no_state() {
	[ "$(ls $socket.state)" = '' ]
}
ok "$kind: the helper remembers nothing" within 60 no_state
counts=$(written)
is "$(echo "$counts" | cut -d ' ' -f 2)" 0 \
	"$kind: no write of the guest was refused"
is $conflicts 0 "$kind: the guest was told of no conflict that is none"
is "$(grep -c 'does not start' $log)" 0 "$kind: each helper started"

diag "$rounds rounds in $((took / 1000)) s: $(cat /tmp/kills) kills," \
	"failures of a path: $(sort /tmp/failures | uniq -c | xargs)"
diag "the guest's writes (done, refused, failed): $counts"
diag "its $(wc -l </tmp/answers) commands that change something, by answer:"
diag "$(sort /tmp/answers | uniq -c)"
diag "not registered when multipathd would reinstate it:" \
	"$(wc -l </tmp/late) times"
kill "$qemu" "$(cat /tmp/helper)"
wait "$qemu"
answer >&2
kill $tail
done_testing
