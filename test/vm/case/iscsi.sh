#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Disks with a real network under them: PREEMPT AND ABORT, which deadlocks
# the kernel's target over tcm_loop, and disks that hang: what that means for
# other disks, for SIGKILL with an immediate restart, and for SIGTERM.

# shellcheck source=test/vm/lib.sh
. /lib.sh

# Hosts h1 and h2 share the disk a. b, c and d are there to hang.
for l in a b c d; do
	lun $l
done
iscsi_export a 127.0.0.1
iscsi_export a 127.0.0.2
iscsi_export b 127.0.0.3
iscsi_export c 127.0.0.4
iscsi_export d 127.0.0.5
x=$(iscsi_login h1 a 127.0.0.1)
y=$(iscsi_login h2 a 127.0.0.2)
b=$(iscsi_login h1 b 127.0.0.3)
c=$(iscsi_login h1 c 127.0.0.4)
d=$(iscsi_login h1 d 127.0.0.5)

### PREEMPT AND ABORT

ok 'the helper starts and serves' start_helper -f /run/pr.pid
is "$(pr_out "$x" 0 0 0 a)" '00 -' 'REGISTER of h1'
is "$(pr_out "$y" 0 0 0 b)" '00 -' 'REGISTER of h2'
is "$(pr_out "$x" 1 5 a 0)" '00 -' 'h1 reserves'
is "$(pr_out "$y" 5 5 f a)" '18 -' 'PREEMPT AND ABORT with a wrong key'
is "$(pr_out "$y" 5 5 b f)" '18 -' '... of a key that is not there'
is "$(keys "$y")" 'a b' '... nothing has changed'
is "$(pr_out "$y" 5 5 b a)" '00 -' 'PREEMPT AND ABORT'
is "$(keys "$y"), $(holder "$y")" 'b, b Write Exclusive, registrants only' \
	'the disk is with h2 alone'
is "$(pr_in "$x" 0)" '02 6/2a/05 -' 'h1 is told so'
is "$(pr_out "$x" 1 5 a 0)" '18 -' 'h1 is out'
is "$(pr_in "$x" 0 | cut -c 1-2,14-)" '0000000008000000000000000b' \
	'h1 can still look'

### A disk that hangs beside a healthy one

hang b 127.0.0.3 20
prc $socket "$b" "$(in_cdb 0 255)" >/tmp/in &
in_pid=$!
prc $socket "$b" "$(out_cdb 0 0 0 a)" >/tmp/out &
out_pid=$!
ok 'a thread waits for the disk' within 10 hanging "$helper_pid"
want=$(pr_in "$x" 0)
is "$(prc -n 100 $socket "$x" "$(in_cdb 0 255)" | sort | uniq -c |
	sed 's/^ *//')" "100 $want" '100 commands on a healthy disk'
ok 'meanwhile the IN hangs' kill -0 $in_pid
ok 'and the OUT hangs' kill -0 $out_pid
is "$(cat /tmp/in /tmp/out)" '' 'neither has an answer'
wait $in_pid $out_pid
is "$(cat /tmp/in)" '02 b/08/00 -' 'the IN ends with an error'
is "$(cat /tmp/out)" '02 b/08/00 -' 'the OUT ends with an error'

### SIGKILL while a disk hangs

hang c 127.0.0.4 20
prc $socket "$c" "$(in_cdb 0 255)" >/tmp/in &
in_pid=$!
ok 'a disk hangs again' within 10 hanging "$helper_pid"
old=$helper_pid
kill -KILL "$old"
start=$(ms)
ok 'killed and started at once on the same paths' \
	start_helper -f /run/pr.pid
took=$(($(ms) - start))
ok "it serves within 3 s ($took ms)" test $took -le 3000
is "$(pr_in "$x" 0)" "$want" 'a healthy disk is served'
ok 'the killed one is still there' hanging "$old"
ok 'and its client waits' kill -0 $in_pid
wait $in_pid
is "$(cat /tmp/in)" closed 'until the kernel lets go: closed, no answer'
within 10 test ! -e "/proc/$old/task"
is "$(pr_in "$x" 0)" "$want" 'its end does not harm the new one'
is "$(cat /run/pr.pid)" "$helper_pid" 'whose pid file is in place'

### SIGTERM while a disk hangs

hang d 127.0.0.5 30
prc $socket "$d" "$(out_cdb 0 0 0 a)" >/tmp/out &
out_pid=$!
ok 'a third disk hangs' within 10 hanging "$helper_pid"
old=$helper_pid
start=$(ms)
kill -TERM "$old"
wait $out_pid
took=$(($(ms) - start))
is "$(cat /tmp/out)" '02 b/00/06 -' 'what hangs is answered at last'
ok 'the helper ends' within 10 ended "$old"
total=$(($(ms) - start))
ok "the answer came within 8 s ($took ms)" test $took -le 8000
ok "the end came within 8 s ($total ms)" test $total -le 8000
ok 'only a hanging thread is left' hanging "$old"
start=$(ms)
ok 'the next helper starts at once' start_helper -f /run/pr.pid
took=$(($(ms) - start))
ok "it serves within 3 s ($took ms)" test $took -le 3000
wait "$old"
is "$?" 0 'the exit status is 0 when the kernel lets go'
stop_helper
is "$?" 0 'SIGTERM with nothing outstanding: exit status 0'
ok 'and the socket is gone' test ! -e $socket

done_testing
