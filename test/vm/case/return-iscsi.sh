#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Paths over a network whose sessions are really lost, recovered by iscsid,
# and returned: a command may hang meanwhile, and be executed late.

# shellcheck source=test/vm/lib.sh
. /lib.sh

### Host h1 has two paths to the disk, which are a map; h2 shares it

mkdir -p /etc/iscsi /run/lock/iscsi
echo "InitiatorName=$iqn:h0" >/etc/iscsi/initiatorname.iscsi
# A session is lost after 2 s without an answer; its paths fail 2 s later
cat >/etc/iscsi/iscsid.conf <<-END
	node.startup = manual
	node.session.timeo.replacement_timeout = 2
	node.conn[0].timeo.login_timeout = 3
	node.conn[0].timeo.noop_out_interval = 1
	node.conn[0].timeo.noop_out_timeout = 1
END
iscsid -f >&2 &

# login HOST ADDRESS: be that host, print its disk
login() {
	iscsiadm -m iface -I "$1" -o new >&2 || :
	iscsiadm -m iface -I "$1" -o update -n iface.initiatorname \
		-v "$iqn:$1" >&2
	iscsiadm -m node -T "$iqn:a-$2" -p "$2:3260" -I "$1" -o new >&2
	within 20 iscsiadm -m node -T "$iqn:a-$2" -p "$2:3260" -I "$1" \
		--login >&2
	d=$(within 20 disk_in "$(session a "$2")")
	drain "$d"
	echo "$d"
}

lun a
for i in 1 2 3; do
	iscsi_export a 127.0.1.$i
done
p1=$(login h1 127.0.1.1)
p2=$(login h1 127.0.1.2)
o=$(login h2 127.0.1.3)
witness=$o
ours="$p1 $p2"
multipath mp "$p1" "$p2"

trace=/tmp/trace
ok 'the helper starts and serves' start_helper -v -T "path_*,file=$trace"

# address DISK: print where its target is
address() {
	case $1 in
	"$p1") echo 127.0.1.1 ;;
	*) echo 127.0.1.2 ;;
	esac
}

# in_state STATE DISK
in_state() {
	[ "$(cat "/sys/block/${2##*/}/device/state")" = "$1" ]
}

# found_out DISK, failed_session DISK: wait until the kernel has, and blocks
# it; until it waits no more for the session
found_out() {
	within 60 not_running "$1" || diag "${1##*/} is still running"
}

not_running() {
	! in_state running "$1"
}

failed_session() {
	within 60 in_state transport-offline "$1" ||
		diag "${1##*/}: $(cat "/sys/block/${1##*/}/device/state")"
}

# lose DISK: what is on its way stays there, and the kernel finds out
lose() {
	silence "$(address "$1")"
	found_out "$1"
}

# back DISK: the session is recovered
back() {
	unsilence "$(address "$1")"
	within 60 in_state running "$1" ||
		diag "${1##*/}: $(cat "/sys/block/${1##*/}/device/state")"
	start=$(ms)
}

# so_after WANT: the keys become so; measured since back
so_after() {
	within 30 copies_match "$1" || :
	diag "$kind: so $(($(ms) - start)) ms after the path is running"
	copies_are "$1"
	whole
}

# reserve: the guest does; $holder is the path that holds it, $other another
reserve() {
	put '00 -' RESERVE 1 5 a 0
	holder=$p1 sibling=$p2
	case $(grep 'RESERVE type=5 .*: good' $trace | tail -n 1) in
	*"path=$(dev_of "$p2") "*) holder=$p2 sibling=$p1 ;;
	esac
	diag "$kind: ${holder##*/} holds it, ${sibling##*/} does not"
}

kind='REGISTER while a path is silent'
fresh a
put '00 -' unregister 0 0 a 0
silence "$(address "$p2")"
put '00 -' REGISTER 0 0 0 a
copies_are '1 a, 1 b'
unsilence "$(address "$p2")"
start=$(ms)
so_after '2 a, 1 b'

kind='REGISTER, then the session is lost'
put '00 -' unregister 0 0 a 0
silence "$(address "$p2")"
put '00 -' REGISTER 0 0 0 a
failed_session "$p2"
copies_are '1 a, 1 b'
back "$p2"
so_after '2 a, 1 b'
ok "$kind: each path may write" write_to $mp 4

kind='REGISTER while a session is lost'
put '00 -' unregister 0 0 a 0
lose "$p1"
put '00 -' REGISTER 0 0 0 a
copies_are '1 a, 1 b'
back "$p1"
so_after '2 a, 1 b'

kind='another key while a session is lost'
reserve
lose "$sibling"
failed_session "$sibling"
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '1 b, 1 c'
holder_is "c $we_ro"
back "$sibling"
so_after '1 b, 2 c'

kind="another key while the holder's session is lost"
fresh a
reserve
lose "$holder"
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '1 b, 1 c'
holder_is "c $we_ro"
back "$holder"
so_after '1 b, 2 c'
holder_is "c $we_ro"

kind="RELEASE while the holder's session is lost"
fresh a
reserve
lose "$holder"
put '00 -' RELEASE 2 5 a 0
holder_is ''
back "$holder"
so_after '2 a, 1 b'

# What was sent to the silent path is executed after a newer key went through
# the other one
for when in soon 'when the session is recovered'; do
	kind="a key comes late, $when"
	fresh a
	silence "$(address "$p2")"
	put '00 -' 'REGISTER another key' 6 0 0 c
	put '00 -' 'and another one' 0 0 c d
	if [ "$when" = soon ]; then
		unsilence "$(address "$p2")"
		start=$(ms)
	else
		failed_session "$p2"
		back "$p2"
	fi
	so_after '1 b, 2 d'
	copies_stay '1 b, 2 d'
done

kind='preempted while a session is lost'
fresh a
lose "$p2"
put '00 -' 'REGISTER another key' 0 0 a c
ok "$kind: by h2" other 4 5 b c
copies_are '1 b'
back "$p2"
copies_stay '1 b'
whole

for when in soon 'when the session is recovered'; do
	kind="preempted, and the key comes late, $when"
	fresh a
	put '00 -' unregister 0 0 a 0
	silence "$(address "$p2")"
	put '00 -' REGISTER 0 0 0 a
	ok "$kind: by h2" other 4 5 b a
	copies_are '1 b'
	if [ "$when" = soon ]; then
		unsilence "$(address "$p2")"
	else
		failed_session "$p2"
		back "$p2"
	fi
	sleep 3
	copies_become '1 b'
	copies_stay '1 b'
	whole
done

kind='killed while a command hangs'
fresh a
silence "$(address "$p2")"
put '00 -' 'REGISTER another key' 0 0 a c
ok "$kind: it does" hanging "$helper_pid"
old=$helper_pid
kill -KILL "$old"
ok "$kind: the next one serves" start_helper -v -T "path_*,file=$trace.2"
put '00 -' 'and another one' 0 0 c d
copies_are '1 b, 1 d'
failed_session "$p2"
back "$p2"
so_after '1 b, 2 d'
wait "$old" || :

fresh a
silence "$(address "$p2")"
put '00 -' 'REGISTER AND IGNORE another key' 6 0 0 c
old=$helper_pid
kill -KILL "$old"
ok "$kind: h2 preempts" other 4 5 b c
ok "$kind: the next one serves" start_helper -v -T "path_*,file=$trace.3"
unsilence "$(address "$p2")"
sleep 3
wait "$old" || :
copies_become '1 b'
copies_stay '1 b'
whole

cat $trace* >&2
stop_helper
is $? 0 'exit status 0'
done_testing
