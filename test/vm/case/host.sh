# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# The helper as a host has it: in the background with messages to syslog,
# as an unprivileged user, traced, and small.

# shellcheck source=test/vm/lib.sh
. /lib.sh

lun a
d=$(path a)

### in the background: messages go to syslog

syslogd -O /tmp/messages
prhelper -d -v -k $socket -f /run/pr.pid
is $? 0 '-d: started'
ok '-d: serves when the command returns' serving
is "$(pr_out "$d" 0 0 0 abc)" '00 -' '-d: REGISTER on a real disk'
logged() {
	grep -q "prhelper\[.*uid 0 ${d##*/}: REGISTER (00h).*0xabc.*$(
		)status 00h" /tmp/messages
}
ok '-v: the registration is in the log: who, where, what' within 5 logged
kill "$(cat /run/pr.pid)"
ok '-d: ends' within 10 test ! -e /run/pr.pid

### as nobody: the right capabilities, and enough of them

start_helper -u nobody
p=$helper_pid
is "$({ status "$p" Uid; status "$p" Gid; } | tr '\t' ' ' | sort -u)" \
	'65534 65534 65534 65534' '-u nobody: ids'
# bits 17, 21 and 2: device-mapper is present here
is "$(status "$p" CapEff)" 0000000000220004 \
	'-u nobody: CAP_SYS_RAWIO, CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH'
is "$(status "$p" CapBnd)" 0000000000000000 \
	'-u nobody: empty bounding set'
is "$(pr_out "$d" 1 5 abc 0)" '00 -' '-u nobody: RESERVE on a real disk'
like "$(holder "$d")" 'abc *' '-u nobody: and it took effect'
stop_helper
is $? 0 '-u nobody: exit status 0 although the socket is not its to remove'

### the trace tells what was done and why

start_helper -T '*,file=/tmp/trace'
pr_out "$d" 3 0 abc 0 >/dev/null
pr_out /dev/null 3 0 abc 0 >/dev/null
stop_helper
for p in client_accept client_handoff request sg_io sg_done reply \
	client_close request_refused; do
	ok "trace: $p" grep -q " $p " /tmp/trace
done
ok 'trace: the outcome of SG_IO' grep -q \
	'sg_done .*errno=0 host=00 driver=00 status=00 .*status=00' /tmp/trace

### small

start_helper
rss() {
	status "$helper_pid" VmRSS | tr -dc 0-9
}
before=$(rss)
prc -q -n 1000 $socket "$d" "$(in_cdb 0 8192)" >/dev/null
diag "resident: $before KB idle, $(rss) KB after 1000 requests"
ok 'at most 300 KB resident after 1000 requests' test "$(rss)" -le 300
stop_helper

done_testing
