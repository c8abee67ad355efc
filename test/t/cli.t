#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The command line, as a person, libvirt or a service manager uses it: each
# option, each wrong use, the socket, the pid file, signals, privileges.
# Wants root. PRHELPER names the program if it is not the one of this tree.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=test/tap.sh
. test/tap.sh
top=$(pwd)
prhelper=${PRHELPER:-$top/prhelper}
prc=$top/test/prc
aid=$top/test/aid
make -s -C test prc aid >&2 || exit 1

tmp=$(mktemp -d)
chmod 755 "$tmp"
cd "$tmp" || exit 1
sock=$tmp/sock
pidfile=$tmp/pid
pid=
others=		# what else was started and lives until the end

cleanup() {
	# shellcheck disable=SC2086 # several words
	kill -9 $pid $others 2>/dev/null
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

### helpers

skip() {
	tests=$((tests + 1))
	echo "ok $tests - $1 # SKIP $2"
}

# answers SOCKET [SECONDS]: as for a descriptor that is no disk
answers() {
	[ "$(timeout "${2:-20}" "$prc" "$1" /dev/null 5e 2>/dev/null)" = \
		'02 5/20/00 -' ]
}

# up SOCKET [ARGUMENT...]: start a helper on the socket; served or failed
up() {
	where=$1
	shift
	"$prhelper" -k "$where" "$@" >out 2>err &
	pid=$!
	# Not long: it may be somebody else's socket until it is replaced.
	within 20 answers "$where" 2
}

# ends [SIGNAL]: the helper ends with status 0 and has said nothing
ends() {
	kill -s "${1:-TERM}" "$pid"
	wait "$pid"
	status=$?
	pid=
	[ $status -eq 0 ] && [ ! -s err ] && return
	diag "status $status" "$(cat err)"
	return 1
}

# down: end the helper, whatever it has said
down() {
	kill "$pid"
	wait "$pid"
	pid=
}

# serves DESCRIPTION [ARGUMENT...]: a helper with these serves, and ends well
serves() {
	what=$1
	shift
	ok "$what" up "$sock" "$@"
	ok "$what: clean end" ends
}

# like_refusal STATUS PATTERN DESCRIPTION: status 1, and in rerr one line that
# begins with our name and fits the pattern; nothing on stdout, in rout
like_refusal() {
	like "$1 $(wc -l <rerr) $(wc -c <rout) $(cat rerr)" \
		"1 1 0 prhelper: $2" "$3"
}

# refuses DESCRIPTION PATTERN COMMAND...
refuses() {
	what=$1
	pattern=$2
	shift 2
	timeout 20 "$@" >rout 2>rerr
	like_refusal $? "$pattern" "$what"
}

# prints DESCRIPTION PATTERN COMMAND...: status 0, text on stdout only
prints() {
	what=$1
	pattern=$2
	shift 2
	timeout 20 "$@" >out 2>err
	like "$? $(wc -c <err) $(cat out)" "0 0 $pattern" "$what"
}

# gone PATH...: none of them is there
gone() {
	for f in "$@"; do
		[ ! -e "$f" ] && [ ! -L "$f" ] || return 1
	done
}

# field NAME: a line of the helper's /proc/PID/status, single spaces
field() {
	sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status" | tr -s '\t ' ' '
}

dead() {
	! kill -0 "$1" 2>/dev/null
}

one_dead() {
	dead "$1" || dead "$2"
}

# zombie PID
zombie() {
	grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"
}

# hold N: so many clients stay connected to the helper
hold() {
	rm -f ready
	"$aid" hold "$sock" "$1" >ready &
	holder=$!
	within 20 grep -qs ready ready
}

zombie_child() {
	[ -s child ] && zombie "$(cat child)"
}

# a name of N bytes
name() {
	printf "%0$1d" 0
}

### text

prints '-h' '*-k*' "$prhelper" -h
for o in daemon quiet verbose pidfile socket trace user group help version; do
	grep -q -e "--$o" out || diag "--$o is not explained"
done >missing
is "$(cat missing)" '' '-h names every long option'
prints '--help' '*-k*' "$prhelper" --help
prints '-V' '*prhelper*[0-9].[0-9]*' "$prhelper" -V
prints '--version' '*prhelper*[0-9].[0-9]*' "$prhelper" --version

### options

serves 'long options with =' --pidfile="$pidfile" --verbose --quiet
ok 'long options with a space' up "$sock" --pidfile "$pidfile"
is "$(cat "$pidfile")" "$pid" '-f: the pid file has our pid'
ok 'no complaint at the end' ends
ok 'socket and pid file are gone' gone "$sock" "$pidfile"
serves 'abbreviated options' --pid="$pidfile" --qui --verb
serves 'options in one word' -vvvqf"$pidfile"
serves 'the last one counts' -f /nonexistent/pid -f "$pidfile"

refuses 'an operand' '*surplus*' "$prhelper" -k "$sock" surplus
refuses 'an operand after --' '*surplus*' "$prhelper" -k "$sock" -- surplus
refuses 'an unknown option' '*-x*unknown*' "$prhelper" -x
refuses 'an unknown option among others' '*-x*unknown*' \
	"$prhelper" -qxv -k "$sock"
refuses 'an unknown long option' '*--bogus*unknown*' "$prhelper" --bogus
refuses 'an ambiguous long option' '*--ver:*' "$prhelper" --ver
refuses 'an option without its argument' '*-k*argument*' "$prhelper" -k
refuses 'a long option without its argument' '*argument*' \
	"$prhelper" --socket
refuses 'an argument where none is taken' '*--daemon=yes*argument*' \
	"$prhelper" --daemon=yes

### the socket's path

refuses 'a relative path' '*sock*absolute*' "$prhelper" -k sock
refuses 'no path' '*absolute*' "$prhelper" -k ''
refuses 'a path that is a directory' "*$tmp*" "$prhelper" -k "$tmp"
refuses 'a path that ends in a slash' "*$sock/*" "$prhelper" -k "$sock/"
refuses 'a directory that is missing' '*/nonexistent*No such file*' \
	"$prhelper" -k /nonexistent/sock
refuses 'a directory that is a file' '*/dev/null*Not a directory*' \
	"$prhelper" -k /dev/null/sock
long=$tmp/$(name $((106 - ${#tmp})))
ok "a path of ${#long} bytes" up "$long"
ok 'a long path: clean end' ends
refuses 'a path of 108 bytes' "*${long}1*107*" "$prhelper" -k "${long}1"
refuses 'a path of 1000 bytes' '*107*' "$prhelper" -k "/$(name 999)"

echo precious >file
ln -s file link
for f in file link; do
	refuses "a path that is a $f" "*$tmp/$f*" "$prhelper" -k "$tmp/$f"
	is "$(cat $f)" precious "the $f is untouched"
done

ok 'a helper serves' up "$sock"
first=$pid
is "$(find "$tmp" -name '*sock*' ! -name '*.state' -o -name '.prh*')" \
	"$sock" 'one name in its directory'
refuses 'a socket in use' "*$sock*in use*" "$prhelper" -k "$sock"
ok 'the first helper still serves' answers "$sock"
kill -9 "$first"
wait "$first" 2>/dev/null
ok 'a killed helper leaves its socket' test -S "$sock"
ok 'which the next one replaces' up "$sock"
ok 'clean end' ends

prlimit --nofile=64 "$prhelper" -k "$sock" 2>err &
pid=$!
within 10 answers "$sock"
ok 'its table is full' hold 24
refuses 'in use with a full table' "*$sock*in use*" "$prhelper" -k "$sock"
kill "$holder"
wait "$holder" 2>/dev/null
ok 'served when the table has room again' within 20 answers "$sock"
ok 'clean end' ends

# Two find a dead one's socket, and the slower of them is stopped between
# the finding and the replacing.
two_at_once() {
	up "$sock"
	kill -9 "$pid"
	wait "$pid" 2>/dev/null
	strace -D -qq -o /dev/null -e trace=/^unlink \
		-e inject=/^unlink:delay_enter=1000000:when=1 \
		"$prhelper" -k "$sock" 2>err &
	slow=$!
	sleep 0.5
	"$prhelper" -k "$sock" 2>>err &
	pid=$!
	ok 'two at once on a stale socket: one of them gives up' \
		within 10 one_dead $slow $pid
	ok 'the other one serves' answers "$sock" 5
	like "$(wc -l <err) $(cat err)" "1 prhelper: *$sock*" \
		'with one line of error'
	dead $pid || kill $pid
	dead $slow || kill $slow
	wait $pid $slow
	pid=
	rm -f "$sock"
}

if strace -D -qq -o /dev/null true; then
	two_at_once
else
	skip 'two at once on a stale socket' 'no right to trace'
fi

"$aid" undead "$sock" >/dev/null &
undead=$!
others="$others $undead"
within 10 zombie "$undead"
ok 'a socket of a process that cannot die is replaced' up "$sock"
ok 'clean end' ends
echo "$undead" >"$pidfile"
ok 'and so is its pid file' up "$sock" -f "$pidfile"
is "$(cat "$pidfile")" "$pid" 'with the new pid'
ok 'clean end' ends

for mask in 077 022 007; do
	umask $mask
	up "$sock"
	is "$(stat -c %a "$sock")" "$(printf %o $((0777 & ~mask)))" \
		"umask $mask decides the mode of the socket"
	umask 022
	[ $mask = 077 ] || down
	[ $mask != 077 ] || {
		chown 1:1 "$sock"
		chmod 640 "$sock"
		answers "$sock"
		is "$(stat -c '%u %g %a' "$sock")" '1 1 640' \
			'owner and mode are left alone afterwards'
		down
	}
done

### the pid file

serves 'no pid file unless asked for'
is "$(find "$tmp" -name '*pid*')" '' 'none was made'
for was in '' garbage 0 -1 99999999999999999999; do
	printf '%s' "$was" >"$pidfile"
	up "$sock" -f "$pidfile"
	is "$(cat "$pidfile")" "$pid" "a pid file with '$was' is replaced"
	down
done
up "$sock" -f "$pidfile"
kill -9 "$pid"
wait "$pid" 2>/dev/null
ok 'the pid file of a dead process' up "$sock" -f "$pidfile"
is "$(cat "$pidfile")" "$pid" 'is replaced'
down
# It ends when its parent is no shell any more, which would wait for it.
sh -c 'until grep -q sleep /proc/$$/comm; do sleep 0.05; done &
	echo $! >child; exec sleep 1000' &
others="$others $!"
ok 'a zombie' within 10 zombie_child
cp child "$pidfile"
ok 'the pid file of a zombie' up "$sock" -f "$pidfile"
is "$(cat "$pidfile")" "$pid" 'is replaced'
down
echo $$ >"$pidfile"
refuses 'the pid file of a live process' "*$pidfile*$$*" \
	"$prhelper" -k "$sock" -f "$pidfile"
is "$(cat "$pidfile")" $$ 'is untouched'
ok 'no socket is left' gone "$sock"
rm "$pidfile"
refuses 'a pid file that cannot be written' '*/nonexistent/pid*No such*' \
	"$prhelper" -k "$sock" -f /nonexistent/pid
refuses 'a pid file that is a directory' "*$tmp*directory*" \
	"$prhelper" -k "$sock" -f "$tmp"
refuses 'a wrong socket with a pid file' '*/nonexistent*' \
	"$prhelper" -k /nonexistent/sock -f "$pidfile"
ok 'leaves no pid file' gone "$pidfile"

### trace

prints '-T help' '*reply*' "$prhelper" -T help
cp out points
is "$(grep -vxc '[a-z_]*' points)" 0 'prints one name in a line'
prints '--trace=help' '*reply*' "$prhelper" --trace=help
refuses 'an unknown trace point' '*bogus*' "$prhelper" -k "$sock" -T bogus
refuses 'a glob that fits nothing' '*bog\**' "$prhelper" -k "$sock" -T 'bog*'
refuses 'an unknown trace option' '*bogus=1*' \
	"$prhelper" -k "$sock" -T bogus=1
refuses 'a missing events file' '*/nonexistent*No such file*' \
	"$prhelper" -k "$sock" -T events=/nonexistent
refuses 'an events file that is a directory' "*$tmp*" \
	"$prhelper" -k "$sock" -T events="$tmp"
printf 'reply\nbogus\n' >events
refuses 'an unknown name in an events file' '*bogus*' \
	"$prhelper" -k "$sock" -T events=events
refuses 'a trace file that cannot be written' '*/nonexistent/t*No such*' \
	"$prhelper" -k "$sock" -T 'reply,file=/nonexistent/t'

# traced: the names of the trace points in the file trace
traced() {
	while read -r p; do
		grep -qw "$p" trace && printf '%s ' "$p"
	done <points
}

printf '# client_close\n\nclient_acc*\n  # reply\nreque?t\n' >events
up "$sock" -T events=events,file=trace
down
is "$(traced)" 'client_accept request ' 'events= takes names, globs, comments'
rm trace
up "$sock" -T reply -T enable=client_accept --trace=file=trace
down
is "$(traced)" 'client_accept reply ' '-T more than once'
ok '-T without a file' up "$sock" -T reply
is "$(grep -c '^prhelper: .*reply' err)" "$(wc -l <err)" \
	'prints to stderr, nothing else'
ok 'something was printed' test -s err
down

### status, in, out: what can be said without a disk

for w in in out; do
	prints "$w -h" 'usage: prhelper status*-K, --param-rk=KEY*' \
		"$prhelper" "$w" -h
	refuses "$w: no action" "$w: wants one action*" "$prhelper" "$w"
done
refuses 'in: no device' 'in: wants one action*' "$prhelper" in -k
refuses 'out: no device' 'out: wants one action*' "$prhelper" out -C
refuses 'in: a wrong action' 'action bogus: unknown*' \
	"$prhelper" in bogus /dev/null
refuses 'in: an action of out' 'action clear: unknown*' \
	"$prhelper" in clear /dev/null
refuses 'in: two devices' 'in: wants one action and one device*' \
	"$prhelper" in keys /dev/null /dev/null
refuses 'in: two actions' 'option -r: *' "$prhelper" in -k -r /dev/null
refuses 'in: an option of out' 'option -G: *' "$prhelper" in -G /dev/null
refuses 'in: an unknown option' 'option --bogus: *' \
	"$prhelper" in keys --bogus /dev/null
refuses 'in: too long' '-l 2001: must be hexadecimal, at most 2000' \
	"$prhelper" in keys -l 2001 /dev/null
refuses 'out: no number' '-S 12x: must be hexadecimal*' \
	"$prhelper" out register -S 12x /dev/null
refuses 'out: a negative one' '-K -1: must be hexadecimal*' \
	"$prhelper" out register -K -1 /dev/null
refuses 'out: 65 bits' '-S 10000000000000000: must be *' \
	"$prhelper" out register -S 10000000000000000 /dev/null
refuses 'out: no argument' 'option --param-rk: needs an argument' \
	"$prhelper" out register /dev/null -K
refuses 'out: no such device' './none: No such file or directory' \
	"$prhelper" out clear ./none
refuses 'in: no such helper' 'socket ./none: No such file or directory' \
	"$prhelper" in keys --socket=./none /dev/null
ln -s "$prhelper" qemu-pr-helper
refuses 'as qemu-pr-helper: a daemon only' 'operand status: *' \
	"$tmp/qemu-pr-helper" status

# ctl WANT ARGUMENT...: this exit status, and one line on stderr
ctl() {
	want=$1
	shift
	timeout 20 "$prhelper" "$@" >rout 2>rerr
	is "$? $(wc -l <rerr)" "$want 1" "$1: exit status $want"
}

ctl 2 in keys /dev/null
is "$(cat rerr)" 'prhelper: /dev/null: READ KEYS: sense 5h/20h/00h' \
	'the sense is told'
ctl 2 out register -S 1 /dev/zero
ctl 2 status --bogus
ctl 2 status ./none
ctl 2 status /dev/null
like "$(tr -s ' ' <rout | xargs)" \
	'/dev/null lun unknown /dev/null health failed: *' 'status of no disk'
ctl 2 status -K
"$prhelper" in -h >/dev/full 2>rerr
like "$? $(cat rerr)" '1 prhelper: standard output: No space left*' \
	'a full disk'
ok 'a helper serves' up "$sock"
ctl 2 in keys "--socket=$sock" /dev/null
is "$(cat rerr)" 'prhelper: /dev/null: READ KEYS: sense 5h/20h/00h' \
	'through it: the same'
down

### state, which is for multipath maps

made=
[ ! -c /dev/mapper/control ] || made='directory 700 root'

# state_of SOCKET: what the directory beside it is
state_of() {
	stat -c '%F %a %U' "$1.state" 2>/dev/null
}

rm -rf "$sock.state"
up "$sock"
is "$(state_of "$sock")" "$made" 'a state directory, with device-mapper only'
down
if [ "$made" ]; then
	is "$(state_of "$sock")" "$made" 'it is still there at the end'
	serves 'and taken over'
	chmod 770 "$sock.state"
	ok 'writable for others: served' up "$sock"
	like "$(wc -l <err) $(cat err)" "1 prhelper: *$sock.state*" \
		'one line names it'
	down
	rm -rf "$sock.state"
	ln -s "$tmp" "$sock.state"
	ok 'a symbolic link: served' up "$sock"
	like "$(wc -l <err) $(cat err)" "1 prhelper: *$sock.state*" \
		'one line names it'
	down
	rm "$sock.state"
else
	skip 'a state directory' 'no device-mapper'
fi

### socket activation

# activated FDS [ARGUMENT...]: as started by a service manager
activated() {
	LISTEN_FDS=$1
	export LISTEN_FDS
	shift
	# shellcheck disable=SC2016 # for the inner shell
	exec sh -c 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"' sh \
		"$prhelper" "$@"
}

# refuses_activated DESCRIPTION PATTERN FDS [ARGUMENT...]
refuses_activated() {
	what=$1
	pattern=$2
	shift 2
	(activated "$@" >rout 2>rerr) &
	pid=$!
	within 10 dead $pid || kill -9 $pid
	wait $pid
	like_refusal $? "$pattern" "$what"
	pid=
}

refuses_activated 'LISTEN_FDS=2' '*LISTEN_FDS*2*' 2 3</dev/null
refuses_activated 'LISTEN_FDS=x' '*LISTEN_FDS*x*' x 3</dev/null
refuses_activated 'descriptor 3 is a file' '*3*' 1 3</dev/null
refuses_activated 'descriptor 3 is closed' '*3*' 1 3<&-
for kind in stream dgram seqpacket inet; do
	refuses "descriptor 3 is a socket: $kind" '*3*' \
		"$aid" fd3 $kind "$prhelper"
done
refuses '-k with activation' "*$sock*activation*" \
	"$aid" fd3 listen "$prhelper" -k "$sock"
export LISTEN_FDS=2 LISTEN_PID=1
serves 'LISTEN_PID of another process'
LISTEN_PID=
serves 'LISTEN_PID without a number'
unset LISTEN_FDS LISTEN_PID

# by_systemd SOCKET
by_systemd() {
	systemd-socket-activate -l "$1" "$prhelper" >out 2>log &
	pid=$!
	ok 'systemd-socket-activate: served' within 10 answers "$1"
	ok 'it is the helper' \
		test "$(cat /proc/$pid/comm)" = "${prhelper##*/}"
	ok 'served again' answers "$1"
	: >err
	ok 'clean end' ends
	ok 'the socket file is not removed' test -S "$1"
	is "$(state_of "$1")" "$made" 'the state directory is beside it'
	rm -rf "$1" "$1.state"
}

by_systemd "$sock"

### READY=1

for address in "$tmp/notify" "@$tmp/notify"; do
	rm -f msg
	"$aid" notify "$address" >msg &
	waiter=$!
	within 10 grep -qs bound msg
	NOTIFY_SOCKET=$address "$prhelper" -k "$sock" 2>err &
	pid=$!
	ok "NOTIFY_SOCKET ${address%"$tmp"*}path" wait $waiter
	is "$(tail -n 1 msg)" 'READY=1' 'gets READY=1'
	ok 'served at once then' answers "$sock"
	ok 'clean end' ends
done
NOTIFY_SOCKET=/nonexistent/notify
export NOTIFY_SOCKET
ok 'nobody at NOTIFY_SOCKET: served all the same' up "$sock"
unset NOTIFY_SOCKET
down

### -d

# daemon [ARGUMENT...]: its pid; what it prints would be in it, too
daemon() {
	timeout 20 "$prhelper" -d -k "$sock" "$@" 9>>file 2>&1
}

out=$(daemon -f pid)
status=$?
ok '-d: served as soon as it returns' answers "$sock"
is "$status $out" '0 ' '-d: status 0, nothing printed'
pid=$(cat "$pidfile")
is "$(sed 's/.*) //' "/proc/$pid/stat" | cut -d ' ' -f 4-5)" "$pid 0" \
	'a session of its own, no terminal'
is "$(readlink "/proc/$pid/cwd")" / 'its directory is /'
is "$(cd "/proc/$pid/fd" && readlink 0 1 2 | sort -u)" /dev/null \
	'0 to 2 are /dev/null'
is "$(readlink "/proc/$pid/fd/9")" "$tmp/file" \
	'another descriptor is still open'
refuses '-d on a socket in use' "*$sock*in use*" \
	"$prhelper" -d -k "$sock" -f "$tmp/pid2"
ok 'no pid file is left' gone "$tmp/pid2"
refuses '-d with the pid file of a live process' "*$pidfile*$pid*" \
	"$prhelper" -d -k "$tmp/sock2" -f "$pidfile"
ok 'the first one still serves' answers "$sock"
kill "$pid"
ok 'it ends' within 10 dead "$pid"
ok 'socket and pid file (named by a relative path) are gone' \
	gone "$sock" "$pidfile"
pid=
refuses '-d, directory missing' '*/nonexistent*' \
	"$prhelper" -d -k /nonexistent/sock -f "$pidfile"
refuses '-d, unknown user' '*bogus*' \
	"$prhelper" -d -k "$sock" -f "$pidfile" -u bogus
ok 'no pid file is left' gone "$pidfile"

defaults=/var/run/qemu-pr-helper
if [ -e $defaults.sock ] || [ -e $defaults.pid ]; then
	skip 'default paths' 'in use on this machine'
else
	timeout 20 "$prhelper" -d 2>err
	ok 'default socket' answers $defaults.sock
	pid=$(cat $defaults.pid)
	ok 'default pid file' kill -0 "$pid"
	kill "$pid"
	ok 'it ends' within 10 dead "$pid"
	ok 'both are gone' gone $defaults.sock $defaults.pid
	by_systemd $defaults.sock
fi

### the end

for sig in TERM INT HUP; do
	up "$sock" -f "$pidfile"
	hold 1
	others="$others $holder"
	ok "SIG$sig: status 0, also with a client" ends $sig
	ok 'socket and pid file are gone' gone "$sock" "$pidfile"
done

### descriptors

"$prhelper" -v -k "$sock" <&- >&- 2>&- &
pid=$!
ok '0 to 2 closed: served' within 10 answers "$sock"
is "$(cd /proc/$pid/fd && readlink 0 1 2 | sort -u)" /dev/null \
	'0 to 2 are /dev/null'
: >err
ok 'clean end' ends

mkfifo fifo
"$prhelper" -v -T '*' -k "$sock" 2>fifo &
pid=$!
exec 8<fifo
exec 8<&-
within 10 answers "$sock"
is "$(timeout 20 "$prc" -qn 100 "$sock" /dev/null 5f)" '02 5/20/00 -' \
	'nobody reads stderr any more: served'
ok 'clean end' ends

"$prhelper" -v -k "$sock" 2>fifo &
pid=$!
exec 8<fifo
within 10 answers "$sock"
is "$(timeout 20 "$prc" -qn 3000 "$sock" /dev/null 5f)" '02 5/20/00 -' \
	'stderr is full and nobody reads: served'
ok 'clean end' ends
exec 8<&-

"$prhelper" -k "$sock" 2>err 9>>file &
pid=$!
within 10 answers "$sock"
is "$(readlink "/proc/$pid/fd/9")" "$tmp/file" \
	'an inherited descriptor stays open'
ok 'clean end' ends

prlimit --nofile=32: "$prhelper" -k "$sock" 2>err &
pid=$!
within 10 answers "$sock"
is "$(awk '/^Max open files/ { print $4 }' "/proc/$pid/limits")" \
	"$(prlimit --nofile --noheadings -o HARD | tr -d ' ')" \
	'the limit of descriptors is raised'
ok 'clean end' ends

# limited N WANT: what is answered if there may be N threads
limited() {
	prlimit --nproc="$1" "$prhelper" -k "$sock" -u 12345 -g 12345 2>err &
	pid=$!
	within 10 test -S "$sock"
	is "$(timeout 20 "$prc" -qn 2 "$sock" /dev/null 5e)" "$2" \
		"$1 threads can be had: $2"
	ok 'clean end' ends
	rm -f "$sock"
}

if [ -c /dev/mapper/control ]; then
	skip 'no thread can be had' 'the limit is not for CAP_SYS_ADMIN'
else
	# The main thread, one that refuses, and a worker or none.
	limited 2 '08 - -'
	limited 3 '02 5/20/00 -'
fi

ok '-v' up "$sock" -v
: >err
"$prc" "$sock" /dev/null 5e 5f0100000000000018:"$(name 48)" >/dev/null
like "$(wc -l <err) $(cat err)" '1 prhelper: *uid 0*02*' \
	'-v: one line for an OUT, none for an IN'
down
ok '-q' up "$sock" -q
"$prc" "$sock" /dev/null 5f0100000000000018:"$(name 48)" >/dev/null
ok '-q: nothing is printed' ends

### privileges

rawio=131072
admin=2097152
dac_read_search=4
[ -c /dev/mapper/control ] || admin=0 dac_read_search=0

# privileges: of all threads, each different set once
privileges() {
	for t in "/proc/$pid/task"/*/status; do
		grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs):' "$t" |
			tr -s '\t\n ' ' '
		echo
	done | sort -u
}

# want UID GID GROUPS CAPABILITIES
want() {
	caps=$(printf %016x "$4")
	none=$(printf %016x 0)
	echo "Uid: $1 $1 $1 $1 Gid: $2 $2 $2 $2 Groups:${3:+ $3}" \
		"CapInh: $none CapPrm: $caps CapEff: $caps CapBnd: $none" \
		"CapAmb: $none NoNewPrivs: 1 "
}

# drops DESCRIPTION UID GID [ARGUMENT...]: for a start with other groups
drops() {
	what=$1
	ids="$2 $3"
	shift 3
	setpriv --groups 4,24 "$prhelper" -k "$sock" "$@" 2>err &
	pid=$!
	ok "$what: served" within 10 answers "$sock"
	groups=
	caps=$((rawio | admin | dac_read_search))
	case $* in
	'')
		groups='4 24' caps=$((rawio | admin)) ;;
	-g*)
		caps=$((rawio | admin)) ;;
	esac
	# shellcheck disable=SC2086 # two words
	is "$(privileges)" "$(want $ids "$groups" $caps)" "$what: privileges"
	ok "$what: clean end, no complaint" ends
	rm -rf "$sock" "$sock.state"
}

nogroup=$(id -g nobody)
daemon=$(awk -F : '$1 == "daemon" { print $3 }' /etc/group)
drops 'no -u' 0 0
drops '-u nobody' 65534 "$nogroup" -u nobody
drops '-u 65534 -g 65534' 65534 65534 -u 65534 -g 65534
drops '-u nobody -g daemon' 65534 "$daemon" -u nobody -g daemon
drops '--user=12345 --group=54321' 12345 54321 --user=12345 --group=54321
drops '-g daemon' 0 "$daemon" -g daemon
refuses 'an unknown user' '*bogus*' "$prhelper" -k "$sock" -u bogus
refuses 'an unknown group' '*bogus*' "$prhelper" -k "$sock" -g bogus
refuses 'a user that is no number' '*12x*' "$prhelper" -k "$sock" -u 12x
mkdir -m 777 open
refuses 'somebody without the right to send commands' '*CAP_SYS_RAWIO*' \
	setpriv --reuid 65534 --regid 65534 --clear-groups \
	"$prhelper" -k "$tmp/open/sock"
is "$(ls -A open)" "${made:+sock.state}" 'leaves no socket behind'

done_testing
