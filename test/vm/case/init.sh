# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# prhelper as a service of other inits, by the commands of doc/init.md, each
# under its own supervisor: it is enabled in single-user mode and comes up by
# itself on the way to runlevel 2; serves; is restarted, killed, stopped, and
# goes away again. The root "openrc" has OpenRC, "init" the others.
# vm: -r init

# shellcheck source=test/vm/lib.sh
. /lib.sh

socket=/run/qemu-pr-helper.sock

# told PART [N]: run what the page has there, or its Nth line; make was done
told() {
	page init "$kind" "$1" | sed -n "/^make/!{${2:-1,$}p;}" | sh -e >&2
}

# What is called so and no script
pid_of() {
	pidof prhelper
}

# another: there is a successor to $pid, which serves
another() {
	new=$(pid_of) && [ "$new" != "$pid" ] && serving
}

gone() {
	! pid_of >&2
}

# state_is PATTERN WHAT: what the supervisor says, with its exit status
state_is() {
	like "$(page init "$kind" 'See it work' | head -n 1 | sh 2>&1
		echo "status $?")" "$1" "$kind: $2: so says the supervisor"
}

# connects GROUP: can a user of this group?
connects() {
	setpriv --reuid nobody --regid "$1" --clear-groups \
		prc $socket "$plain" "$(in_cdb 0 8)" >&2
}

# install INIT: what make has installed for it, and nothing else
install() {
	rm -rf /etc/init.d/prhelper /etc/conf.d/prhelper /etc/sv/prhelper \
		/etc/s6/sv/prhelper
	cp -R "/installed/$1/etc" /
	: >/run/modprobe
}

# is_served: by a helper that the supervisor has just started
is_served() {
	ok "$kind: it comes up" within 120 serving
	state_is "$running" 'it runs'
	like "$(cat /run/modprobe)" '*dm_mod sd_mod*' \
		"$kind: the modules were asked for"
	pid=$(pid_of)
	is "$(stat -c %U "/proc/$pid") $(status "$pid" CapEff)" \
		'root 0000000000220000' \
		"$kind: root, with CAP_SYS_RAWIO and CAP_SYS_ADMIN"
	is "$(cat "/proc/$pid/oom_score_adj")" -900 \
		"$kind: not the first that is killed for its memory"
	is "$(stat -c '%a %U:%G' $socket)" '770 root:kvm' \
		"$kind: the socket is for the group kvm"
	is "$(may connects kvm) $(may connects disk)" 'yes no' \
		"$kind: a member of kvm is served, one of disk is not"

	witness=$plain
	prout '00 -' 'a disk: REGISTER' "$plain" 0 0 0 a
	prout '00 -' 'a disk: RESERVE' "$plain" 1 5 a 0
	copies_are '1 a'
	holder_is "a $we_ro"
	witness=$w
	put '00 -' 'a map: REGISTER' 0 0 0 a
	put '00 -' 'a map: RESERVE' 1 5 a 0
	copies_are '4 a'
	holder_is "a $we_ro"
}

# goes_on HOW COMMAND...: its successor knows what it knew, and a path that
# returns has the new key before any command of the guest
goes_on() {
	how=$1
	shift
	offline "$p2"
	put '00 -' "$how: the guest changes its key, a path is away" 0 0 a c
	copies_are '3 c'
	pid=$(pid_of)
	ok "$kind: $how" "$@"
	ok "$kind: $how: another one serves" within 60 another
	returned "$p2" '4 c'
	holder_is "c $we_ro"
	put '00 -' "$how: the key is as before" 0 0 c a
	copies_are '4 a'
}

hard_kill() {
	kill -KILL "$pid"
}

# is_over: it was stopped
is_over() {
	ok "$kind: no process is left" within 20 gone
	ok "$kind: no socket is left" test ! -e $socket
}

# other_group: the page's command; the next helper has it
other_group() {
	pid=$(pid_of)
	ok "$kind: another group is configured" told 'Who may connect'
	ok "$kind: another one serves" within 60 another
	is "$(may connects kvm) $(may connects disk)" 'no yes' \
		"$kind: a member of disk is served, one of kvm is not"
}

killed_and_back() {
	goes_on killed hard_kill
}

# disk_hangs SECONDS WANT: a command waits so long for a disk while it is
# restarted. WANT: does the old one still hang when the new one is there?
disk_hangs() {
	hung=h$((${hung#h} + 1))
	address=127.0.1.${hung#h}
	lun $hung
	iscsi_export $hung "$address"
	disk=$(iscsi_login me $hung "$address")
	hang $hung "$address" "$1"
	pid=$(pid_of)
	prc $socket "$disk" "$(in_cdb 0 8)" >/dev/null 2>&1 &
	ok "$kind: a command waits for a disk" within 30 hanging "$pid"
	told 'After an update' || diag "$kind: restart: status $?"
	ok "$kind: another one serves" within 120 another
	is "$(may hanging "$pid")" "$2" \
		"$kind: ... while a thread of the old one hangs: $2"
}
hung=h0

# life [KILLED]: what is the same for each of them
life() {
	is_served
	goes_on restarted told 'After an update'
	"${1:-killed_and_back}"
	export LEFTOVER=yes
	other_group
	unset LEFTOVER
	# But for what OpenRC says there
	is "$(tr '\0' '\n' <"/proc/$new/environ" | sed 's/=.*//' | grep -vE \
		'^((EINFO|RC)_.*|SVCNAME|TERM|LANG|PWD|HOME|USER|PATH)$')" \
		'' "$kind: nothing is left of who called"
	like "$(page init "$kind" 'See it work' | sed 1d | sh)" \
		'*prhelper*uid 0 dm-0: REGISTER (00h)*key 0xa*status 00h*' \
		"$kind: the log has it all"
	pr_out "$plain" 3 0 a 0 >/dev/null
	pr_out $mp 3 0 a 0 >/dev/null
}

stops_and_starts() {
	ok "$kind: it is stopped" told 'Stop and start' 1
	is_over
	state_is "$stopped" 'it does not run'
	ok "$kind: it is started" told 'Stop and start' 2
	ok "$kind: it serves" within 60 serving
}

goes_away() {
	ok "$kind: it goes away" told 'Going back'
	is_over
}

# As udev's package does
groupadd kvm
lun plain
plain=$(path plain)
chmod 666 "$plain"
four_paths
rm /sbin/modprobe
printf '#!/bin/sh\necho "$*" >>/run/modprobe\n' >/sbin/modprobe
chmod 755 /sbin/modprobe

if [ -x /sbin/openrc ]; then
	kind=OpenRC running='*started*status 0' stopped='*stopped*status 3'
	install OpenRC
	told Enable 1
	telinit 2
	life
	disk_hangs 75 yes
	stops_and_starts
	goes_away
	is "$(rc-update show | grep prhelper)" '' "$kind: ... for ever"
	done_testing
	exit
fi

kind=sysvinit running='*is running*status 0' stopped='*not running*status 3'
install sysvinit
told Enable 1
telinit 2

# It stays dead. Its number in the pid file may be another's by now.
killed_and_started() {
	pid=$(pid_of)
	hard_kill
	ok "$kind: killed: nobody starts it" within 20 gone
	state_is '*not running*status 1' 'killed'
	echo $$ >/run/prhelper.pid
	ok "$kind: it is started" told Enable 2
	ok "$kind: it serves" within 60 serving
	pid=$(pid_of)
	ok "$kind: started once more" told Enable 2
	is "$(pid_of)" "$pid" "$kind: ... it is still the same"
	goes_on 'killed and started' revive
}

revive() {
	hard_kill
	within 20 gone && told Enable 2
}

life killed_and_started
disk_hangs 75 yes
stops_and_starts
goes_away
is "$(find /etc/rc?.d -name '*prhelper')" '' "$kind: ... for ever"

kind='sysvinit with respawn'
install sysvinit
ok "$kind: it is enabled" told Enable
life
disk_hangs 15 no
goes_away

kind=runit running='run: *status 0' stopped='down: *status 0'
install runit
ok "$kind: it is enabled" told Enable
life
disk_hangs 15 no
stops_and_starts
goes_away

kind=s6 running='up *status 0' stopped='down *status 0'
install s6
ok "$kind: it is enabled" told Enable
life
disk_hangs 15 no
stops_and_starts
goes_away
done_testing
