#!/bin/sh
# See LICENSE file for copyright and license details.
#
# What a reservation_key that is left in multipath.conf does beside prhelper:
# multipathd registers a key that the guest has given up, or takes the guest's
# from a path that returns. And what doc/moving.md tells to do about it works.
# The file moving.md is what ../../t/vm-prkeys.t brings, with multipathd.

# shellcheck source=test/vm/lib.sh
. /lib.sh

lun a
for i in 1 2 3 4; do
	eval "p$i=\$(path a $i)"
done
o=$(path a)
w=$(path a)
# shellcheck disable=SC2034,SC2154 # for lib.sh; set above
witness=$w ours="$p1 $p2 $p3 $p4"

mkdir -p /etc/multipath
[ -d /run/systemd/system ] || for d in $ours; do
	known "$d"
done
cat >/etc/multipath.conf <<-END
	defaults {
		find_multipaths off
		uid_attribute ""
		polling_interval 1
		max_polling_interval 1
		missing_uev_wait_timeout 1
		reservation_key file
	}
	blacklist {
		devnode "^(${o#/dev/}|${w#/dev/})\$"
		devnode "^(vd|nvme|loop|ram)"
	}
	multipaths {
		multipath {
			wwid $(wwid_of "$w")
			alias mp
		}
	}
END
multipathd -d -v 3 >/tmp/multipathd.log 2>&1 &
multipathd_pid=$!
version=$(command multipath -h 2>&1 |
	sed -n 's/^multipath-tools v\([0-9.]*\).*/\1/p')
diag "multipath-tools $version"

ok 'multipathd makes the map' within 60 uses 4
[ -e /dev/mapper/mp ] || dmsetup mknodes
ok 'the helper starts and serves' serve

# again: the path leaves multipathd's map, and comes again
again() {
	daemon del path "${p1#/dev/}"
	within 20 uses 3
	daemon add path "${p1#/dev/}"
	within 20 uses 4
}

# die: the path dies, and returns
die() {
	offline "$p1"
	within 30 uses 3
	running "$p1"
	within 30 uses 4
}

# anew: the guest has key a, and multipathd has looked at it
anew() {
	for d in $o $ours; do
		drain "$d"
		raw_out "$d" 6 0 0 e || :
	done
	raw_out "$o" 3 0 e 0 || :
	pr_out $mp 6 0 0 a >/dev/null
	drain "$o"
	daemon reconfigure
	within 30 uses 4
	within 20 multipathd show maps >&2
	again
	copies_are '4 a'
}

# moved: the guest goes to another host, as live migration does it
moved() {
	is "$(prc $socket $mp ff)" '00 - -' "$kind: CLEANUP"
	raw_out "$o" 6 0 0 a
	copies_are '1 a'
	again
	usleep 2000000
}

# changed: the guest has another key when a path returns
changed() {
	put '00 -' 'another key' 0 0 a c
	put '00 -' RESERVE 1 5 c 0
	die
	usleep 2000000
}

# What each version does to this guest with the key in its file
case $version in
0.[0-9].*) moved='2 a' changed='4 c' ;;
*) moved='5 a' changed='3 c' ;;
esac

### The key is left there, as QEMU's helper and mpathpersist leave it

ok 'a key is left in prkeys' daemon setprkey map mp key 0xa
kind='with a key: the guest moves'
anew
moved
copies_are "$moved"
kind='with a key: the guest changes it'
anew
changed
copies_are "$changed"

### What the page says is to be done about it

# page COMMAND: it is there
page() {
	ok "moving.md: $1" grep -qxF "	# $1" /moving.md
}
page 'multipathd show maps format "%n %w"'
# shellcheck disable=SC2034 # for eval
name=$(multipathd show maps format "%n %w" | awk 'NR == 2 { print $1 }')
is "$name" mp 'moving.md: names of maps'
for command in 'getprkey map mp' 'unsetprkey map mp' 'unsetprstatus map mp'; do
	page "multipathd $command"
done
is "$(multipathd getprkey map mp)" 0xa 'moving.md: it shows the key'
daemon unsetprkey map mp
daemon unsetprstatus map mp
is "$(multipathd getprkey map mp)" none 'moving.md: there is none any more'
is "$(grep -c 0x /etc/multipath/prkeys)" 0 'moving.md: nor in the file'

kind='without: the guest moves'
anew
moved
copies_are '1 a'
kind='without: the guest changes its key'
anew
changed
copies_are '4 c'
holder_is "c $we_ro"

kill "$multipathd_pid"
stop_helper
done_testing
