#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Two hosts that fence each other, as the agents fence_scsi and fence_mpath of
# a Pacemaker cluster do on the guest's disk. Each host has a helper and a map
# of three paths to the same logical unit, whose maps share no path. Who was
# fenced stays so: on each of his paths, whatever he did at that moment, and
# whichever of his paths were away and return. The same happens over tcm_loop
# with PREEMPT, and over iSCSI with PREEMPT AND ABORT, which over tcm_loop
# deadlocks the kernel's target.

# shellcheck source=test/vm/lib.sh
. /lib.sh

### Two hosts

# PREEMPTs that meet on two processors deadlock the kernel's target: each waits,
# holding a lock or not, for the other to let go of the registration that it
# removes. So all that is sent over tcm_loop is sent, and executed, on one, and
# iSCSI's target runs on one. Helpers change places whenever they wait.
printf '#!/bin/sh\nexec taskset 1 "/bin/%s" "$@"\n' \
	"${helper:-prhelper}" >/bin/pinned
chmod +x /bin/pinned
helper=pinned
mkdir -p $target/iscsi
echo 0 >$target/iscsi/cpus_allowed_list

# as HOST: whose commands, map and paths are meant from now on
as() {
	me=$1
	socket=/run/$me.sock
	map=/dev/mapper/$lun-$me
	paths=
	eval "paths=\$paths_$me"
}

# helper_of HOST: it starts and serves
helper_of() {
	as "$1"
	start_helper -v -T "path_*,file=/tmp/trace.$me" &&
		eval "pid_$me=\$helper_pid"
}

helper_dies() {
	eval "kill -9 \"\$pid_$1\"; wait \"\$pid_$1\" 2>/dev/null"
}

# away DISK...: the path to each breaks. back DISK...: it is mended, and what
# multipathd would say is said, at once.
away() {
	for d in "$@"; do
		offline "$d"
	done
}

back() {
	for d in "$@"; do
		running "$d"
		reinstate "${map#/dev/mapper/}" "$d"
	done
}

### What is at the target, seen by who is never registered

in_keys=$(in_cdb 0 8192)
in_holder=$(in_cdb 1 255)

# at: print how many nexuses have which key, and who holds the reservation of
# which type: "3 a 3 b, a 05"
at() {
	prc - "$witness" "$in_keys" "$in_holder" | awk '
		function key(s) { sub(/^0+/, "", s); return s }
		!sub(/^00 - /, "") {
			line = "error: " $0
		}
		{
			$0 = substr($0, 17)
		}
		NR == 1 {
			for (i = 1; i < length($0); i += 16)
				n[key(substr($0, i, 16))]++
		}
		NR == 2 && length($0) > 0 {
			holder = ", " key(substr($0, 1, 16)) \
				" " substr($0, 27, 2)
		}
		END {
			split("a b c d", keys, " ")
			for (i = 1; i <= 4; i++)
				if (n[keys[i]])
					line = line " " n[keys[i]] " " keys[i]
			sub(/^ /, "", line)
			print line holder
		}'
}

is_so() {
	[ "$(at)" = "$1" ]
}

at_is() {
	is "$(at)" "$1" "$kind: ... at the target: $1"
}

# seen KEY SECONDS: print each new state with that key in that time
seen() {
	seen_end=$(($(ms) + $2 * 1000)) before=
	while [ "$(ms)" -lt $seen_end ]; do
		now=$(at)
		case ${now%%,*} in
		*"$1"*) [ "$now" = "$before" ] || echo "$now" ;;
		esac
		before=$now
	done
}

# writes HOST: print how many of its paths and its map may write, and how many
# may not
writes() {
	as "$1"
	yes=0 no=0
	for d in $paths $map; do
		if write_to "$d" 3; then
			yes=$((yes + 1))
		else
			no=$((no + 1))
		fi
	done
	echo "$yes yes, $no no"
}

# works HOST, fenced HOST
works() {
	is "$(writes "$1")" '4 yes, 0 no' "$kind: $1 may write on all its paths"
}

fenced() {
	is "$(writes "$1")" '0 yes, 4 no' "$kind: $1 may write on no path"
}

### The agents

# listed KEY: a registration has it, as READ KEYS of this host has it
listed() {
	case $(prc "$socket" "$map" "$in_keys") in
	"00 - "*"$(printf '%016x' "0x$1")"*) ;;
	*) false ;;
	esac
}

# reserved [KEY]: somebody, or this key, holds the reservation
reserved() {
	case $(prc "$socket" "$map" "$in_holder") in
	"00 - "????????00000010"${1:+$(printf '%016x' "0x$1")}"*) ;;
	*) false ;;
	esac
}

# turs: fetch unit attentions. The agents ask the disk before each command.
turs() {
	prc - "$map" 000000000000 000000000000 >/dev/null
}

# unfence HOST: fence_scsi's action "on". A key that is there already may be of
# a nexus that is no more; its PREEMPT of the own key is to remove that.
unfence() {
	as "$1"
	turs
	was=$(may listed "$me")
	[ "$(pr_out "$map" 6 0 0 "$me")" = '00 -' ] || return
	if [ "$was" = yes ]; then
		turs
		[ "$(pr_out "$map" 4 5 "$me" "$me")" = '00 -' ] || return
		reserved "$me" ||
			[ "$(pr_out "$map" 6 0 0 "$me")" = '00 -' ] || return
	fi
	reserve_if_none
}

reserve_if_none() {
	turs
	listed "$me" && { reserved ||
		[ "$(pr_out "$map" 1 5 "$me" 0)" = '00 -' ]; }
}

# unfence_mpath HOST: fence_mpath's, which has only REGISTER, and does not look
# at the result
unfence_mpath() {
	as "$1"
	pr_out "$map" 0 0 0 "$me" >&2
	reserve_if_none
}

# fence HOST VICTIM: the action "off" of both
fence() {
	as "$1"
	turs
	! listed "$2" || pr_out "$map" "$preempt" 5 "$me" "$2" >&2
	! listed "$2" && reserved
}

# all_good CDB...: the host sends them, all are GOOD
all_good() {
	! prc "$socket" "$map" "$@" | grep -qv '^00 -'
}

# join HOST: a quick unfence, for loops
join() {
	as "$1"
	all_good "$(out_cdb 6 0 0 "$1")"
}

# afresh: all paths work, nobody was registered; now both are, and a holds
afresh() {
	for host in a b; do
		as $host
		for d in $paths; do
			! grep -q offline "/sys/block/${d##*/}/device/state" ||
				back "$d"
		done
		all_good "$(out_cdb 6 0 0 d)" "$(out_cdb 3 0 d 0)" || return
	done
	join a && all_good "$(out_cdb 1 5 a 0)" && join b &&
		is_so '3 a 3 b, a 05'
}

### Two commands at the same moment

# meet N SOCKET DISK: there is a client on descriptor N for orders to that, and
# N + 2 for answers
meet() {
	rm -f "/run/in.$1" "/run/out.$1"
	mkfifo "/run/in.$1" "/run/out.$1"
	eval "exec $1<>/run/in.$1 $(($1 + 2))<>/run/out.$1"
	taskset 1 prc "$2" "$3" <"/run/in.$1" >"/run/out.$1" &
	eval "client_$1=$!"
}

# part: no clients any more
part() {
	# shellcheck disable=SC2154 # set by eval
	kill "$client_4" "$client_5"
	# shellcheck disable=SC2154 # set by eval
	wait "$client_4" "$client_5" 2>/dev/null
	exec 4>&- 5>&- 6>&- 7>&-
}

# both COMMAND COMMAND: one for each; who is first changes each time. Answers
# are in $one and $two.
turn=0
both() {
	turn=$((1 - turn))
	if [ $turn = 1 ]; then
		echo "$1" >&4
		echo "$2" >&5
	else
		echo "$2" >&5
		echo "$1" >&4
	fi
	read -r one <&6
	read -r two <&7
	one=${one% -} two=${two% -}
}

# evidence: what the helpers did, to the console
evidence() {
	tail -n 60 /tmp/trace.a /tmp/trace.b >&2
}

# each_fences: PREEMPTs of the other's key meet. The outcomes go to
# /tmp/outcomes.
each_fences() {
	both "$(out_cdb "$preempt" 5 a b)" "$(out_cdb "$preempt" 5 b a)"
	outcome="$one, $two: $(at)"
	echo "$outcome" >>/tmp/outcomes
}

outcomes() {
	sort /tmp/outcomes | uniq -c | sed 's/^ */  /' >/tmp/count
	diag "$kind: $1"
	diag "$(cat /tmp/count)"
	rm /tmp/outcomes
}

### The story

agents() {
	kind="$name: agents"
	ok "$kind: unfence a" unfence a
	at_is '3 a, a 05'
	ok "$kind: unfence b" unfence b
	at_is '3 a 3 b, a 05'
	works a
	works b
	ok "$kind: b fences a, the holder" fence b a
	at_is '3 b, b 05'
	fenced a
	works b
	as a
	prout '18 -' 'a cannot fence b now' "$map" "$preempt" 5 a b
	prout '18 -' 'nor reserve' "$map" 1 5 a 0
	at_is '3 b, b 05'
	ok "$kind: unfence a" unfence a
	at_is '3 a 3 b, b 05'
	works a
	ok "$kind: b fences a, who holds nothing" fence b a
	at_is '3 b, b 05'
	fenced a
	works b
	ok "$kind: unfence a, by fence_mpath" unfence_mpath a
	ok "$kind: a fences b, the holder" fence a b
	at_is '3 a, a 05'
	fenced b
	works a
	ok "$kind: unfence b, by fence_mpath" unfence_mpath b
	at_is '3 a 3 b, a 05'
}

# Agents also unfence who is not fenced
unfenced_again() {
	kind="$name: agents"
	for host in a b; do
		ok "$kind: unfence $host, who is not fenced" unfence $host
		ok "$kind: ... by fence_mpath" unfence_mpath $host
		at_is '3 a 3 b, a 05'
		works $host
	done
}

# What the victim was about to write
victim_writes() {
	kind="$name: victim writes"
	printf '%4096s' '' | tr ' ' a >/tmp/block.a
	printf '%4096s' '' | tr ' ' b >/tmp/block.b
	bad=
	for _ in 1 2; do
		afresh || bad="$bad unfence"
		as b
		{
			echo begun >/tmp/writes
			while [ -e /tmp/writes ]; do
				dd if=/tmp/block.b of="$map" oflag=direct \
					bs=4096 seek=8 conv=notrunc 2>/dev/null
			done
		} &
		writer=$!
		within 10 test -e /tmp/writes
		usleep 100000
		as a
		[ "$(pr_out "$map" "$preempt" 5 a b)" = '00 -' ] ||
			bad="$bad fence"
		dd if=/tmp/block.a of="$map" oflag=direct bs=4096 seek=8 \
			conv=notrunc 2>/dev/null || bad="$bad write"
		usleep 200000
		rm /tmp/writes
		wait $writer
		dd if="$map" iflag=direct bs=4096 skip=8 count=1 2>/dev/null |
			cmp -s - /tmp/block.a || bad="$bad overwritten"
	done
	is "$bad" '' "$kind: no write of b comes after GOOD, twice"
}

# Both fence each other at the same moment
race() {
	kind="$name: race"
	afresh
	as a
	meet 4 "$socket" "$map"
	as b
	meet 5 "$socket" "$map"
	: >/tmp/bad
	i=0
	while [ $i -lt "$races" ]; do
		i=$((i + 1))
		each_fences
		case $outcome in
		'00 -, 18 -: 3 a, a 05') winner=a loser=b ;;
		'18 -, 00 -: 3 b, b 05') winner=b loser=a ;;
		*)
			echo "$outcome" >>/tmp/bad
			evidence
			afresh
			continue ;;
		esac
		[ "$(writes "$winner"); $(writes "$loser")" = \
			'4 yes, 0 no; 0 yes, 4 no' ] ||
			echo "writes of winner, loser: $(
				writes "$winner"), $(
				writes "$loser")" >>/tmp/bad
		is_so "${outcome#*: }" || echo "then: $(at)" >>/tmp/bad
		join "$loser" || echo "join: $loser" >>/tmp/bad
		case $(at) in
		'3 a 3 b, '*) ;;
		*) echo "joined: $(at)" >>/tmp/bad; afresh ;;
		esac
	done
	part
	is "$(cat /tmp/bad)" '' "$kind: one survives, $races times"
	outcomes 'answers to a and b: then at the target'
}

# The victim's key changes at that moment
key_change() {
	kind="$name: race with a key change"
	afresh
	as a
	meet 4 "$socket" "$map"
	as b
	meet 5 "$socket" "$map"
	: >/tmp/bad
	i=0
	while [ $i -lt "$races" ]; do
		i=$((i + 1))
		both "$(out_cdb "$preempt" 5 a b)" "$(out_cdb 0 0 b c)"
		outcome="$one, $two: $(at)"
		echo "$outcome" >>/tmp/outcomes
		case $outcome in
		# The fence came first, or in the midst; or last: no such key
		'00 -, '??' -: 3 a, a 05') loser=b ;;
		'18 -, 00 -: 3 a 3 c, a 05') loser= ;;
		*)
			loser=
			echo "$outcome" >>/tmp/bad
			[ -e /tmp/shown ] || evidence
			: >/tmp/shown ;;
		esac
		usleep 100000
		is_so "${outcome#*: }" ||
			echo "$outcome, then: $(at)" >>/tmp/bad
		[ -z "$loser" ] || [ "$(writes b)" = '0 yes, 4 no' ] ||
			echo "writes of b: $(writes b)" >>/tmp/bad
		join b
		is_so '3 a 3 b, a 05' || {
			echo "joined: $(at)" >>/tmp/bad
			afresh
		}
	done
	part
	is "$(sort /tmp/bad | uniq -c)" '' \
		"$kind: all of it is gone, or all there, $races times"
	outcomes 'answers to a and b: then at the target'
}

# missed DISK: b's path there has missed the key and waits for it
missed() {
	afresh
	as b
	all_good "$(out_cdb 0 0 b 0)"
	away "$1"
	join b
	is_so '3 a 2 b, a 05'
}

# Paths of the victim are away, and return
paths_away() {
	as b
	# shellcheck disable=SC2086 # several words
	set -- $paths
	kind="$name: a path is away"
	ok "$kind: begin" afresh
	as b
	away "$1"
	ok "$kind: a fences b" fence a b
	as b
	back "$1"
	is "$(seen b 2)" '' "$kind: it returns, the key does not"
	at_is '3 a, a 05'
	fenced b
	works a
	ok "$kind: unfence b" unfence b
	at_is '3 a 3 b, a 05'
	works b

	# It had the key, and has it no more, which is the same key
	kind="$name: a path is away until b is unfenced"
	ok "$kind: begin" afresh
	as b
	away "$1"
	ok "$kind: a fences b" fence a b
	ok "$kind: unfence b" unfence b
	at_is '3 a 2 b, a 05'
	as b
	back "$1"
	ok "$kind: it returns, and gets the key" within 30 is_so '3 a 3 b, a 05'
	works b

	kind="$name: a path that waits for the key"
	ok "$kind: begin" missed "$1"
	ok "$kind: a fences b" fence a b
	as b
	back "$1"
	is "$(seen b 2)" '' "$kind: it returns, the key does not"
	at_is '3 a, a 05'
	fenced b
	works a
	ok "$kind: unfence b" unfence b
	at_is '3 a 3 b, a 05'
	works b

	kind="$name: ... all the others are away, too"
	ok "$kind: begin" missed "$1"
	away "$2" "$3"
	ok "$kind: a fences b" fence a b
	as b
	back "$1"
	is "$(seen b 2)" '' "$kind: it returns first, the key does not"
	back "$2" "$3"
	is "$(seen b 1)" '' "$kind: the others return, the key does not"
	at_is '3 a, a 05'
	fenced b
	ok "$kind: unfence b" unfence b
	at_is '3 a 3 b, a 05'
	works b

	kind="$name: ... the victim's helper is killed"
	ok "$kind: begin" missed "$1"
	away "$2" "$3"
	helper_dies b
	ok "$kind: a fences b" fence a b
	ok "$kind: another helper starts" helper_of b
	back "$1"
	is "$(seen b 2)" '' "$kind: a path returns, the key does not"
	helper_dies b
	back "$2"
	ok "$kind: and one more" helper_of b
	back "$3"
	is "$(seen b 2)" '' "$kind: all return, the key does not"
	at_is '3 a, a 05'
	fenced b
	works a
	ok "$kind: unfence b" unfence b
	at_is '3 a 3 b, a 05'
	works b

	kind="$name: ... and when b was unfenced meanwhile"
	ok "$kind: begin" missed "$1"
	ok "$kind: a fences b" fence a b
	ok "$kind: unfence b" unfence b
	at_is '3 a 2 b, a 05'
	as b
	back "$1"
	ok "$kind: the path returns, and gets the key" \
		within 30 is_so '3 a 3 b, a 05'
	works b
}

# A path returns at the very moment of the fence
path_returns() {
	kind="$name: a path returns meanwhile"
	as a
	rm -f /run/in /run/out
	mkfifo /run/in /run/out
	exec 4<>/run/in 6<>/run/out
	prc "$socket" "$map" </run/in >/run/out &
	client_pid=$!
	as b
	d1=${paths%% *}
	got_it=" path=$(dev_of "$d1") REGISTER type=0 key=0 new=b: good"
	: >/tmp/bad
	i=0
	while [ $i -lt "$returns" ]; do
		i=$((i + 1))
		missed "$d1" || echo "begin: $(at)" >>/tmp/bad
		n=$(grep -c "$got_it" /tmp/trace.b)
		as b
		back "$d1" &
		back_pid=$!
		usleep $((i * 3 % 10 * 8000))
		out_cdb "$preempt" 5 a b >&4
		echo >&4
		read -r answer <&6
		[ "$answer" = '00 - -' ] || echo "fence: $answer" >>/tmp/bad
		wait $back_pid
		within 10 is_so '3 a, a 05'
		usleep 600000
		is_so '3 a, a 05' || echo "then: $(at)" >>/tmp/bad
		[ "$(writes a); $(writes b)" = \
			'4 yes, 0 no; 0 yes, 4 no' ] ||
			echo "writes: $(writes a); $(writes b)" >>/tmp/bad
		if [ "$(grep -c "$got_it" /tmp/trace.b)" -gt "$n" ]; then
			echo 'the path was registered before, or for a moment'
		else
			echo 'the path was not registered'
		fi >>/tmp/outcomes
	done
	kill $client_pid
	wait $client_pid 2>/dev/null
	exec 4>&- 6>&-
	is "$(cat /tmp/bad)" '' "$kind: the key is gone then, $returns times"
	outcomes 'how often'
	ok "$kind: unfence b" unfence b
	at_is '3 a 3 b, a 05'
	works b
}

### Over tcm_loop

without_alua
lun=l name=tcm_loop preempt=4 races=24 returns=6
lun l
for host in a b; do
	eval "paths_$host='$(path l) $(path l) $(path l)'"
	as $host
	# shellcheck disable=SC2086 # several words
	multipath "l-$host" $paths
done
witness=$(path l)
for host in a b; do
	ok "the helper of $host starts and serves" helper_of $host
done
agents
unfenced_again
victim_writes
race
key_change
paths_away
path_returns

# What the target does without a helper, with one nexus for each
kind='raw race'
# shellcheck disable=SC2154 # set by eval
a=${paths_a%% *} b=${paths_b%% *}
for host in a b; do
	as $host
	pr_out "$map" 0 0 "$host" 0 >/dev/null
done
raw_begin() {
	for d in "$a" "$b"; do
		drain "$d"
	done
	raw_out "$a" 6 0 0 a
	raw_out "$b" 6 0 0 b
	for d in "$a" "$b"; do
		drain "$d"
	done
	raw_out "$a" 1 5 a 0
}
meet 4 - "$a"
meet 5 - "$b"
i=0
while [ $i -lt $races ]; do
	i=$((i + 1))
	raw_begin
	each_fences
done
part
outcomes 'without a helper: answers to a and b: then at the target'

### Over iSCSI

lun=i name=iSCSI preempt=5 races=10 returns=4
lun i
for i in 1 2 3 4 5 6 7; do
	iscsi_export i 127.0.1.$i
done
paths_a="$(iscsi_login h1 i 127.0.1.1) $(iscsi_login h1 i 127.0.1.2) $(
	)$(iscsi_login h1 i 127.0.1.3)"
paths_b="$(iscsi_login h2 i 127.0.1.4) $(iscsi_login h2 i 127.0.1.5) $(
	)$(iscsi_login h2 i 127.0.1.6)"
witness=$(iscsi_login h3 i 127.0.1.7)
for host in a b; do
	as $host
	# shellcheck disable=SC2086 # several words
	multipath "i-$host" $paths
done
agents
victim_writes
race
path_returns

# shellcheck disable=SC2154 # set by eval
kill "$pid_a" "$pid_b"
# shellcheck disable=SC2154 # set by eval
wait "$pid_a" "$pid_b"
is $? 0 'SIGTERM ends them with exit status 0'
done_testing
