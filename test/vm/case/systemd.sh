# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# prhelper as a service of systemd, with udev: the commands of doc/systemd.md,
# in its order. It takes the place of QEMU's own helper, starts when somebody
# connects, is restarted and killed under load, and goes away again.
# vm: -m 2048 -r host

# shellcheck source=test/vm/lib.sh
. /lib.sh

socket=/run/qemu-pr-helper.sock
rounds=10
! long || rounds=100

# as_told HEADING: run what the page has below it
as_told() {
	page systemd "$1" | sh -e >&2
}

# unit PROPERTY: of the service
unit() {
	systemctl show -P "$1" prhelper.service
}

active() {
	systemctl is-active "$1"
}

### The units

verified=$(systemd-analyze verify --man=no \
	prhelper.service prhelper.socket 2>&1)
is $? 0 'systemd-analyze verify: succeeds'
is "$verified" '' 'systemd-analyze verify: has nothing to say'

### Disks: two plain ones, and a map

udevadm control --ping
lun plain
lun busy
plain=$(path plain)
busy=$(path busy)
four_paths
udevadm settle
ok 'udev knows the map' test -e /run/udev/data/b"$(dmsetup info -c \
	--noheadings -o major,minor mp)"

### Instead of QEMU's own helper, as the distribution may have it

old=/usr/lib/systemd/system/qemu-pr-helper
printf '[Service]\nExecStart=/usr/bin/qemu-pr-helper\n' >$old.service
printf '[Socket]\nListenStream=%s\nSocketMode=0600\n%s' $socket \
	'[Install]
WantedBy=sockets.target
' >$old.socket
systemctl daemon-reload
systemctl enable --now qemu-pr-helper.socket
kind='a plain disk'
prin '00 - *' "QEMU's own helper serves" "$plain" 0
is "$(active qemu-pr-helper.service)" active '... as the service of that name'
ok 'it is disabled' as_told 'Instead of qemu-pr-helper'

### On demand

ok 'the socket is enabled and started' as_told Enable
is "$(active qemu-pr-helper.socket; active prhelper.socket)" 'active
active' 'the socket is active, also under the old name'
is "$(active prhelper.service)" inactive 'the service is not'
is "$(stat -c '%a %U:%G' $socket)" '660 root:kvm' 'the group kvm may connect'

# qemu OPTION...: start it as a member of kvm, and ask it for its helper
qemu() {
	printf '%s' '{"execute":"qmp_capabilities"}' \
		'{"execute":"query-pr-managers"}' '{"execute":"quit"}' |
		setpriv --reuid nobody --regid kvm --clear-groups \
		qemu-system-x86_64 -accel tcg -S -nodefaults -display none \
		-qmp stdio "$@" 2>&1
}

# options HEADING: print those that doc/qemu.md has there
options() {
	page qemu "$1" | sed "
		s,/run/prhelper/sock,$socket,
		s,/dev/sdb,$plain,
		s,/dev/sg1,$(sg_of "$busy"),"
}
chgrp kvm "$plain" "$(sg_of "$busy")"
chmod 660 "$(sg_of "$busy")"
# shellcheck disable=SC2046 # they are several
like "$(qemu $(options 'A disk') $(options 'An sg node'))" \
	'*"connected": true*"id": "pr0"*' 'QEMU connects, of the group kvm'
is "$(active prhelper.service)" active '... and the service is active'
systemctl stop prhelper.service
prin '00 - *' 'a command is answered' "$plain" 0
is "$(active prhelper.service; active qemu-pr-helper.service)" 'active
active' 'the service is active, also under the old name'

exposure=$(systemd-analyze security --no-pager prhelper.service |
	sed -n 's/.*exposure level.*: \([0-9.]*\) .*/\1/p')
diag "$(systemctl --version | head -n 1): exposure $exposure"
ok 'systemd-analyze security: at most 2.0' \
	awk "BEGIN { exit !(\"$exposure\" != \"\" && $exposure <= 2) }"
pid=$(unit MainPID)
is "$(status "$pid" CapEff) $(status "$pid" CapBnd)" \
	'0000000000220000 0000000000220000' \
	'CAP_SYS_RAWIO and CAP_SYS_ADMIN, and no more can be had'

### Who may connect

# connects GROUP: can a user of this group?
connects() {
	chgrp "$1" "$plain"
	setpriv --reuid nobody --regid "$1" --clear-groups \
		prc $socket "$plain" "$(in_cdb 0 8)" >&2
}
is "$(may connects kvm) $(may connects disk)" 'yes no' \
	'a member of kvm is served, one of disk is not'
ok 'another group is configured' as_told 'Who may connect'
is "$(may connects kvm) $(may connects disk)" 'no yes' \
	'a member of disk is served, one of kvm is not'

### A disk, and a map whose paths it opens itself

witness=$plain
prout '00 -' REGISTER "$plain" 0 0 0 a
prout '00 -' RESERVE "$plain" 1 5 a 0
copies_are '1 a'
holder_is "a $we_ro"
witness=$w
kind='a map'
put '00 -' REGISTER 0 0 0 a
put '00 -' RESERVE 1 5 a 0
copies_are '4 a'
holder_is "a $we_ro"
# files: print how many there are of what it knows
files() {
	find $socket.state -type f ! -name '.*' | wc -l
}

is "$(stat -c '%a %U' $socket.state; files)" '700 root
1' "$kind: it is written down"
offline "$p2"
put '00 -' 'REGISTER another key, a path is away' 0 0 a c
copies_are '3 c'
returned "$p2" '4 c'

offline "$p3"
put '00 -' 'REGISTER another key, a path is away' 0 0 c d
ok "$kind: the service is stopped" systemctl stop prhelper.service
is "$(active prhelper.service) $(files)" 'inactive 1' \
	"$kind: what it knew is still there"
running "$p3"
prin '00 - *' 'a command starts it again' $mp 1
copies_become '4 d'
whole
put '00 -' CLEAR 3 0 d 0

like "$(as_told 'See it work' 2>&1)" "*prhelper*uid 0 ${plain##*/}: $(
	)REGISTER (00h)*key*0xa*status 00h*" 'the journal has it all'
is "$(journalctl -o cat -u prhelper.service |
	grep -iE 'not (used|limited)|permitted|denied|refused|fail|state')" '' \
	'and nothing bad'

### Under load

# What each path was asked and said, for who wants to know what went wrong
mkdir -p /etc/systemd/system/prhelper.service.d
cat >/etc/systemd/system/prhelper.service.d/trace.conf <<-'END'
	[Service]
	LogRateLimitIntervalSec=0
	ExecStart=
	ExecStart=/usr/local/bin/prhelper -v -T path_* -T request
END
systemctl daemon-reload
systemctl restart prhelper.service

# What guests do over and over; in the end the key a holds
changes="$(out_cdb 6 0 0 a) $(out_cdb 1 5 a 0) $(out_cdb 6 0 0 c)
	$(out_cdb 1 5 c 0) $(out_cdb 2 5 c 0) $(out_cdb 6 0 0 a)
	$(out_cdb 1 5 a 0)"
looks="$(in_cdb 0 8192) $(in_cdb 1 8192)"
clients='1 2 3 4'

# client N DEVICE COMMAND...: the Nth guest, from now on
client() {
	n=$1
	shift
	prc -r -n 100000000 $socket "$@" >"/tmp/client.$n" &
	eval "client_$n=$!"
}

load() {
	# shellcheck disable=SC2086 # each is a word
	{
		client 1 "$plain" $looks
		client 2 "$busy" $changes
		client 3 $mp $looks
		client 4 $mp $changes
	}
	went_on
}

# went_on: each client was answered once more, or has lost a command
went_on() {
	for n in $clients; do
		size=$(stat -c %s "/tmp/client.$n")
		within 60 grew "/tmp/client.$n" "$size" || return
	done
}

grew() {
	[ "$(stat -c %s "$1")" -gt "$2" ]
}

# no_load: they end their rounds; what they were told is told
no_load() {
	for n in $clients; do
		eval "kill \$client_$n; wait \$client_$n"
		cut -d ' ' -f 1,2 "/tmp/client.$n" | sort | uniq -c |
			sed "s/^ */client $n: /" >"/tmp/told.$n"
		diag "$kind: $(cat "/tmp/told.$n")"
	done
	! wrong | grep -qv ' lost$' ||
		journalctl --no-hostname -o short-precise -b \
			-u prhelper.service | grep -C 200 'status=0[28]' >&2
}

# wrong: print what was told beside GOOD
wrong() {
	cat /tmp/told.? | grep -v ': [1-9][0-9]* 00 -$'
}

# again COMMAND...: that often, and always the clients go on
again() {
	i=0
	while [ $i -lt "$rounds" ]; do
		"$@" || { echo "$i: $*"; return; }
		went_on || { echo "$i: a client waits"; return; }
		i=$((i + 1))
	done
}

# as_the_guests_left_it: no command of theirs comes after their last
as_the_guests_left_it() {
	for witness in "$busy" "$w"; do
		copies_become "$([ "$witness" = "$w" ] && echo 4 || echo 1) a"
		holder_is "a $we_ro"
	done
	whole
}

kind="$rounds restarts"
load
start=$(ms)
is "$(again systemctl restart prhelper.service)" '' "$kind: done"
diag "$kind: $(($(ms) - start)) ms"
no_load
is "$(wrong)" '' "$kind: no command fails"
as_the_guests_left_it

# hard_kill: until its successor is there
hard_kill() {
	pid=$(unit MainPID)
	systemctl kill -s KILL prhelper.service
	within 60 another
}

another() {
	new=$(unit MainPID)
	[ "$new" != 0 ] && [ "$new" != "$pid" ]
}

kind="$rounds times SIGKILL"
load
start=$(ms)
is "$(again hard_kill)" '' "$kind: done"
diag "$kind: $(($(ms) - start)) ms"
no_load
lost=0
for n in $clients; do
	mine=$(grep -cx lost "/tmp/client.$n")
	ok "$kind: client $n: only a command in flight fails" \
		test "$mine" -le "$rounds"
	lost=$((lost + mine))
done
ok "$kind: there were some" test $lost -gt 0
is "$(wrong | grep -v ' lost$')" '' "$kind: no other command fails"
as_the_guests_left_it
is "$(unit NRestarts)" "$rounds" "$kind: systemd has started it each time"

### Killed while a path is away that returns before any command comes

kind='killed, a path is away'
offline "$p1"
put '00 -' 'REGISTER another key' 0 0 a d
hard_kill
returned "$p1" '4 d'
put '00 -' CLEAR 3 0 d 0

### A disk that hangs: a thread of the old one cannot be killed

systemctl stop iscsid.socket 2>/dev/null
kind='a disk hangs'
lun h
iscsi_export h 127.0.0.2
h=$(iscsi_login me h 127.0.0.2)
prin '00 - *' 'READ KEYS' "$h" 0
hang h 127.0.0.2 75
pid=$(unit MainPID)
prc $socket "$h" "$(in_cdb 0 8)" >/tmp/hung &
ok "$kind: a command waits for it" within 30 hanging "$pid"
load
start=$(ms)
ok "$kind: the service is restarted" as_told 'After an update'
diag "$kind: $(($(ms) - start)) ms"
ok "$kind: a thread of the old one still hangs" hanging "$pid"
ok "$kind: the guests go on" went_on
no_load
is "$(wrong)" '' "$kind: no command fails"

# alone: nothing of a predecessor is left, threads that hung among it
alone() {
	[ "$(cat "/sys/fs/cgroup$(unit ControlGroup)/cgroup.procs")" = \
		"$(unit MainPID)" ]
}

ok "$kind: it is back, and so are threads" within 200 alone
rm -r /etc/systemd/system/prhelper.service.d

### The end

ok 'it is disabled' sh -e -c "$(page systemd 'Going back' | sed '$d')"
is "$(active prhelper.service; active prhelper.socket)" 'inactive
inactive' 'nothing of it is active'
ok 'the socket is gone' test ! -e $socket
ok "QEMU's own helper is enabled" \
	sh -e -c "$(page systemd 'Going back' | sed -n '$p')"
prin '00 - *' "QEMU's own helper serves again" "$plain" 0
is "$(ps -o args= "$(systemctl show -P MainPID qemu-pr-helper.service)")" \
	/usr/bin/qemu-pr-helper '... and it is that one'

done_testing
