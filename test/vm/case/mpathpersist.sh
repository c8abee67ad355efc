#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The distribution's mpathpersist, with multipathd, and prhelper get the same
# commands, each on a map of four paths of a logical unit of its own with the
# same history. After each command the result, the keys and the reservation
# at the target must be the same, but for the differences that are listed
# first. What is in the machine comes from ../../t/vm-mpathpersist.t.

# shellcheck source=test/vm/lib.sh
. /lib.sh

### What differs on purpose. No other command may differ, and these must: so
### this list stays true.

# intended NAME REASON: why mpathpersist's result is not good enough
intended() {
	{
		printf '%s\t' "$1"
		echo "$2" | xargs
	} >>/tmp/intended
}

intended conflict '
	A wrong key, or none, is RESERVATION CONFLICT by SPC-4: exit
	status 24. mpathpersist says ABORTED COMMAND (11), or that the
	arguments are wrong (1) and sends nothing.'
intended release-unregistered '
	LIO answers NOT READY (2) where the standard has RESERVATION CONFLICT.
	mpathpersist says GOOD to a RELEASE that no path took.'
intended release-type '
	RELEASE of another type must be refused by SPC-4. mpathpersist
	takes the reservation away, and with it the key of the other host, since
	it sends CLEAR and registers again.'
intended release-foreign '
	Another host holds the reservation. RELEASE by a registrant that does
	not hold it is GOOD and changes nothing. mpathpersist takes it away, in
	the same way.'
intended preempt-self '
	PREEMPT of the own key is for the one nexus that the guest sees, so all
	of its paths stay registered. mpathpersist leaves one.'
intended preempted '
	Who was preempted may register again (REGISTER with key 0). mpathpersist
	compares with the key in its file and sends nothing.'

### The disks; multipathd makes the maps

# our N, their N: the path; y is the nexus of another host, which multipathd
# must not know
ports='1 2 3 4 y'
for side in ours theirs; do
	lun $side
	i=0
	for port in $ports; do
		i=$((i + 1))
		mkdir -p /run/$side
		ln -s "$(path $side "$i")" "/run/$side/$port"
	done
	multipaths="$multipaths
	multipath {
		wwid $(wwid_of "$(readlink "/run/$side/y")")
		alias $side
	}"
done
mkdir -p /etc/multipath
for d in /run/ours/[1-4] /run/theirs/[1-4]; do
	known "$(readlink "$d")"
done
cat >/etc/multipath.conf <<-END
	defaults {
		find_multipaths off
		uid_attribute ""
		reservation_key file
	}
	blacklist {
		devnode "^$(basename "$(readlink /run/ours/y)")\$"
		devnode "^$(basename "$(readlink /run/theirs/y)")\$"
		devnode "^(vda|nvme|loop|ram)"
	}
	multipaths {
	$multipaths
	}
END
multipathd -d -v 2 >&2 &
multipathd_pid=$!
within 30 sh -c 'dmsetup status theirs && dmsetup status ours' >&2
dmsetup mknodes
ok 'prhelper serves' start_helper -v

### Commands for both. What was asked and answered goes to /tmp/asked and
### /tmp/ours, /tmp/theirs: there each command is one line.

group=
differs=-	# name of the difference that this command shows

# Sent more than once, a command gets through to a nexus with attentions
in_keys=$(in_cdb 0 8192)
fetch="$in_keys $in_keys $in_keys"

# at SIDE: what is at the target: keys, in any order, and the reservation
at() {
	# shellcheck disable=SC2086 # they are three
	prc - "/run/$1/y" $fetch "$(in_cdb 1 255)" |
		sed -n 's/^00 - .\{16\}//p' | tail -n 2 >/tmp/at
	echo "[$(head -n 1 /tmp/at | fold -w 16 | sed 's/^0*//' | sort |
		xargs)][$(sed -n '2s/^\(.\{16\}\).\{10\}\(..\).*/\1 type \2/p' \
			/tmp/at | sed 's/^0*//')]"
}

# look: what became of it
look() {
	printf '%s\t%s\t%s\n' "$group" "$differs" "$1" >>/tmp/asked
	echo "$2 $(at ours)" >>/tmp/ours
	echo "$3 $(at theirs)" >>/tmp/theirs
}

# result ANSWER: the exit status that mpathpersist would have with it
result() {
	case $1 in
	'00 -'*) echo 0 ;;
	'18 -'*) echo 24 ;;
	'02 2/'*) echo 2 ;;
	'02 5/'*) echo 5 ;;
	'02 6/'*) echo 6 ;;
	'02 b/'*) echo 11 ;;
	*) echo "$1" ;;
	esac
}

# put ACTION TYPE KEY ACTION-KEY [OPTION...]: an OUT for both
put() {
	case $1 in
	0) set -- "$@" --register ;;
	1) set -- "$@" --reserve ;;
	2) set -- "$@" --release ;;
	3) set -- "$@" --clear ;;
	4) set -- "$@" --preempt ;;
	6) set -- "$@" --register-ignore ;;
	esac
	cdb=$(out_cdb "$1" "$2" "$3" "$4")
	key=$3 action_key=$4 type=$2 what="$1 $2 $3 $4"
	shift 4
	ours=$(result "$(prc $socket /dev/mapper/ours "$cdb")")
	mpathpersist --out --param-rk="$key" --param-sark="$action_key" \
		--prout-type="$type" "$@" /dev/mapper/theirs >&2
	look "$what" "$ours" $?
}

# get ACTION OPTION: an IN for both; the payload must be the same, as text
get() {
	ours=$(prc $socket /dev/mapper/ours "$(in_cdb "$1" 8192)")
	theirs=$(mpathpersist --in "$2" /dev/mapper/theirs)
	look "IN $1" "$(result "$ours")" $?
	printf '%s\n%s\n' "$ours" "$theirs" >&2
}

# other ACTION TYPE KEY ACTION-KEY: what another host does to both
other() {
	for side in ours theirs; do
		# shellcheck disable=SC2086 # they are three
		prc - /run/$side/y $fetch "$(out_cdb "$@")" >/dev/null
	done
}

# on NAME COMMAND...: do something to the same path of both
on() {
	name=$1
	shift
	for side in ours theirs; do
		"$@" "$(readlink "/run/$side/$name")"
	done
}

# start GROUP [KEY]: nothing is registered but the other host's key b, and ours
register_e=$(out_cdb 6 0 0 e)
clear_e=$(out_cdb 3 0 e 0)
start() {
	group=$1
	differs=-
	for side in ours theirs; do
		prc - /run/$side/y "$register_e" "$register_e" "$clear_e" \
			"$(out_cdb 6 0 0 b)" >/dev/null
		for port in 1 2 3 4; do
			# shellcheck disable=SC2086 # they are three
			prc - "/run/$side/$port" $fetch >/dev/null
		done
	done
	[ -z "${2:-}" ] || put 6 0 0 "$2"
}

# unlike NAME COMMAND...: what the command shows is an intended difference
unlike() {
	differs=$1
	shift
	"$@"
	differs=-
}

start 'nobody is registered'
get 0 -k
get 1 -r
get 2 -c
get 3 -s
unlike conflict put 0 0 f a
put 1 5 a 0
put 3 0 a 0
unlike conflict put 4 5 a b
unlike release-unregistered put 2 5 a 0

start REGISTER
put 0 0 0 a
unlike conflict put 0 0 0 c
unlike conflict put 0 0 f c
put 0 0 a c
get 0 -k
put 6 0 0 a
get 3 -s
put 0 0 a 0
put 6 0 0 0

start RESERVE a
unlike conflict put 1 5 f 0
put 1 2 a 0
put 1 5 a 0
put 1 5 a 0
unlike conflict put 1 6 a 0
get 1 -r
unlike conflict put 2 5 f 0
put 2 5 a 0
put 2 5 a 0
other 1 5 b 0
unlike release-foreign put 2 5 a 0
start 'RESERVE, another host holds it' a
other 1 5 b 0
unlike conflict put 1 5 a 0

start 'other types' a
for type in 1 6 7; do
	put 1 "$type" a 0
	put 2 "$type" a 0
done
put 1 6 a 0
unlike release-type put 2 5 a 0

start unregister a
put 1 6 a 0
put 0 0 a 0
put 0 0 0 a
put 1 7 a 0
put 0 0 a 0

start CLEAR a
put 1 5 a 0
unlike conflict put 3 0 f 0
put 3 0 a 0
put 1 5 a 0

start PREEMPT a
other 1 5 b 0
unlike conflict put 4 5 f b
unlike conflict put 4 5 a f
put 4 5 a b
other 6 0 0 b
put 4 5 a b
start 'PREEMPT of oneself' a
put 1 5 a 0
unlike preempt-self put 4 6 a a
start 'PREEMPT for all registrants' a
put 1 7 a 0
unlike preempt-self put 4 7 a 0
start 'preempted' a
put 1 5 a 0
other 4 5 b a
unlike conflict put 1 5 a 0
unlike conflict put 0 0 a c
unlike preempted put 0 0 0 a

start 'a dead path'
on 1 offline
put 6 0 0 a
put 1 5 a 0
put 2 5 a 0
put 3 0 a 0
on 1 running

start 'a stale key' a
for side in ours theirs; do
	raw_out /run/$side/2 6 0 0 dead
done
put 1 5 a 0
put 2 5 a 0
put 6 0 0 a

### The result

paste /tmp/asked /tmp/ours /tmp/theirs | awk -F '\t' '
	BEGIN {
		while ((getline line <"/tmp/intended") > 0) {
			split(line, f, "\t")
			names[++m] = f[1]
			why[f[1]] = f[2]
		}
	}
	{
		if (!n[$1]++)
			groups[++g] = $1
		if (($2 == "-") != ($4 == $5))
			bad[$1] = bad[$1] "|" $3 "|  ours: " $4 "|theirs: " $5
		if ($2 != "-" && !seen[$2]++)
			first[$2] = $3 ": \"" $4 "\", mpathpersist \"" $5 "\""
	}
	END {
		for (i = 1; i <= g; i++)
			printf "%s\t%d\t%s\n", groups[i], n[groups[i]],
				substr(bad[groups[i]], 2)
		for (i = 1; i <= m; i++)
			printf "%s: %s: %s\n", names[i], first[names[i]],
				why[names[i]] >"/tmp/differences"
	}' >/tmp/compared
while IFS="$(printf '\t')" read -r name n bad; do
	is "$(echo "$bad" | tr '|' '\n')" '' "$name: $n commands"
done </tmp/compared
diag 'ACTION TYPE KEY ACTION-KEY: exit status [keys] [reservation]'
diag "$(cat /tmp/differences)"
is "$(grep -c '^[^:]*: :' /tmp/differences)" 0 \
	'each intended difference was seen'

### How long it takes, beside one SG_IO on one path

# each COMMAND N: print the microseconds that each of N commands took
each() {
	ms_start=$(ms)
	for _ in $(seq "$2"); do
		$1 >/dev/null 2>&1
	done
	echo $((($(ms) - ms_start) * 1000 / $2))
}

# several SOCKET DEVICE CDB: the same for 500 commands in one program
several() {
	ms_start=$(ms)
	prc -q -n 500 "$1" "$2" "$3" >/dev/null
	echo $((($(ms) - ms_start) * 2))
}

# against WHAT CDB OPTION...: the contestants in turn; the best of three
against() {
	what=$1 cdb=$2
	shift 2
	for _ in 1 2 3; do
		several - "$(readlink /run/ours/1)" "$cdb" >>/tmp/raw
		several $socket "$(readlink /run/ours/1)" "$cdb" >>/tmp/plain
		several $socket /dev/mapper/ours "$cdb" >>/tmp/map
		each "mpathpersist $* /dev/mapper/theirs" 3 >>/tmp/peer
	done
	for f in raw plain map peer; do
		sort -n /tmp/$f | head -n 1
		rm /tmp/$f
	done | xargs | while read -r raw plain map peer; do
		diag "$what: SG_IO $raw us; helper, one disk x$(
			)$(ratio "$plain" "$raw"); helper, 4 paths x$(
			)$(ratio "$map" "$raw"); mpathpersist x$(
			)$(ratio "$peer" "$raw")"
	done
}

ratio() {
	echo "$(($1 * 10 / $2))" | sed 's/.$/.&/'
}

start time a
stop_helper
start_helper
against 'READ KEYS' "$(in_cdb 0 255)" --in -k
against 'REGISTER' "$(out_cdb 0 0 a a)" \
	--out --register --param-rk=a --param-sark=a

kill "$multipathd_pid"
stop_helper
done_testing
