#!/bin/sh
# See LICENSE file for copyright and license details.
#
# fence_mpath as the distribution has it, with its multipathd and the key that
# it wants in multipath.conf, on a host beside guests on the same logical unit:
# on one of another host, and on its own, over the same map.
# vm: -m 2048 -r host

# shellcheck source=test/vm/lib.sh
. /lib.sh
# shellcheck source=test/vm/lib-agents.sh
. /lib-agents.sh

### multipathd has the map of host a

socket=/run/a.sock
# shellcheck disable=SC2154 # set in lib-agents.sh
kill "$pid_a"
within 20 test ! -e $socket
# shellcheck disable=SC2154 # set in lib-agents.sh
rm -f /dev/guest-a
dmsetup remove --retry a
cat >/etc/multipath.conf <<-END
	defaults {
		find_multipaths off
		reservation_key 0xd000
		polling_interval 1
		max_polling_interval 1
	}
	blacklist {
		devnode "^(vd|nvme|loop|ram)"
		devnode "^($(for d in $b1 $b2 $c1 $c2 $disk_a $disk_b $disk_c \
			$witness $plain_witness; do
				echo "${d#/dev/}"
			done | paste -sd '|'))\$"
	}
	multipaths {
		multipath {
			wwid $(wwid_of "$a1")
			alias a
		}
	}
END
multipathd -d -v 2 >/tmp/multipathd.log 2>&1 &
multipathd_pid=$!
ok 'multipathd makes the map' within 60 uses 2 a
guest_disk a

# mpath ARGUMENT...: fence_mpath on host a
mpath() {
	agent mpath-a fence_mpath -d /dev/mapper/a "$@"
}

kind='fence_mpath, and a guest elsewhere'
like "$(mpath -o on -n d000)" '0 *Powered ON' "$kind: on"
copies_are '2 d000'
holder_is "d000 $we_ro"
like "$(in_guest b -o on -k b000)" '0 *Powered ON' "$kind: the guest: on"
copies_are '2 b000, 2 d000'
same_view b "$a1"
is "$(mpathpersist -i -k /dev/mapper/a | sed -n 's/^ *0x//p' | xargs)" \
	"$(keys "$witness")" "$kind: mpathpersist sees the same keys"
known_again b
like "$(mpath -o off -n b000)" '0 *Powered OFF' "$kind: off, of the guest"
copies_are '2 d000'
noticed b b000
like "$(in_guest b -o on -k b000)" '0 *Powered ON' "$kind: the guest: on again"
like "$(in_guest b -o off -k d000)" '0 *Powered OFF' \
	"$kind: the guest fences the host"
copies_are '2 b000'
offline "$a1"
running "$a1"
copies_stay '2 b000'

kind="fence_mpath, on its guest's map"
ok "$kind: a helper" serve a
like "$(in_guest a -o on -k a000)" '0 *Powered ON' "$kind: the guest: on"
copies_are '2 a000, 2 b000'
like "$(mpath -o on -n d000)" '1 *' "$kind: on: refused, the guest has it"
copies_stay '2 a000, 2 b000'
like "$(in_guest a -o off -k b000)" '0 *Powered OFF' "$kind: the guest: off"
copies_are '2 a000'

kill "$multipathd_pid"
for host in a b; do
	eval "kill \$pid_$host"
done
done_testing
