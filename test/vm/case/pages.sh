#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Each command of doc/moving.md and doc/troubleshooting.md, in that order, on a
# host with the distribution's multipathd and qemu-pr-helper, while a guest has
# a key: the move, the look around, and the way back.
# vm: -m 2048 -r host

# shellcheck source=test/vm/lib.sh
. /lib.sh

# section PAGE TITLE: print its commands
section() {
	awk -v title="$2" '
		/^---/ { on = last == title }
		on && /^\t# / { print substr($0, 4) }
		{ last = $0 }' "/$1.md"
}

# follow PAGE TITLE: do what it says; what that prints goes to /tmp/said
followed=0
follow() {
	: >/tmp/said
	section "$@" >/tmp/commands
	while read -r command <&3; do
		case $command in
		'qemu-pr-helper -d' | 'prhelper -d'*) stopped ;;
		esac
		ok "$1: $command" printed sh -c "$command"
		followed=$((followed + 1))
	done 3</tmp/commands
	cat /tmp/said >&2
}

printed() {
	"$@" >>/tmp/said 3>&-
}

# stopped: there is no helper
stopped() {
	f=/var/run/qemu-pr-helper.pid
	[ ! -e $f ] || kill "$(cat $f)" 2>/dev/null
	within 20 test ! -S /var/run/qemu-pr-helper.sock
	rm -f $f
}

lun a
p1=$(path a)
for _ in 1 2 3; do
	path a >/dev/null
done
witness=$(path a)
mkdir -p /etc/multipath
conf=/etc/multipath.conf
cat >$conf <<-END
	defaults {
		find_multipaths off
		reservation_key file
	}
	blacklist {
		devnode "^${witness#/dev/}\$"
		devnode "^(vd|nvme|loop|ram)"
	}
	multipaths {
		multipath {
			wwid $(wwid_of "$p1")
			alias mp
		}
	}
END
multipathd -d -v 2 >/tmp/multipathd.log 2>&1 &
multipathd_pid=$!
ok 'multipathd makes the map' within 60 uses 4
multipathd setprkey map mp key 0xa >&2

socket=/var/run/qemu-pr-helper.sock
qemu-pr-helper -d
within 20 serving
kind='with qemu-pr-helper'
put '00 -' 'REGISTER AND IGNORE' 6 0 0 a
diag "$kind: $(copies)"

follow moving 'Take the keys from multipathd'
is "$(xargs </tmp/said | cut -d ' ' -f 1-4)" "name uuid mp $(sed -n \
	's/.*wwid //p' $conf)" 'the map, and no more'
is "$(sed -n 3p /tmp/said)" 0xa 'the key that was left'
sed -i '/reservation_key/d' $conf
multipathd reconfigure >&2
is "$(grep -c 0x /etc/multipath/prkeys)" 0 'it is gone'

follow moving 'Exchange the helpers'
within 20 serving
kind='with prhelper'
put '00 -' RESERVE 1 5 a 0
copies_become '4 a'
put '18 -' 'RESERVE with another key' 1 5 b 0
sed -n 's/^\t# //p' /moving.md | grep 'sg_persist -n -i -k' >/tmp/list
is "$(sh /tmp/list | grep -c '^    0xa$')" 4 'the list has it once for each'

follow troubleshooting 'First look'
like "$(cat /tmp/said)" "*RESERVE (01h)*type: Write Exclusive*Relative $(
	)port*8:16 A*/device/state:running*" \
	'the log, the reservation, the nexus, the paths'
follow troubleshooting 'What the host sees'

sed -i 's/^defaults {/&\n reservation_key file/' $conf
follow moving 'Go back'
within 20 serving
kind='with qemu-pr-helper again'
prin '00 - *a*a*a*a' 'READ KEYS' $mp 0
# No RESERVE again: Debian's sends it to any path, and the holder is one
prin '00 - *0a*' 'READ RESERVATION' $mp 1
holder_is "a $we_ro"

n=0
for page in moving troubleshooting; do
	n=$((n + $(grep -c '^	# ' /$page.md)))
done
is "$n" "$followed" 'no command was left out'

stopped
kill "$multipathd_pid"
done_testing
