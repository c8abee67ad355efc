#!/bin/sh
# See LICENSE file for copyright and license details.
#
# fence_scsi as the distribution has it drives two helpers, as it does in two
# guests, and sg_persist on plain disks, and both come to the same. Then it runs
# on hosts, beside a helper that serves a guest on the same logical unit: over
# other nexuses, and over the guest's own map, where whoever registers last has
# the nexus and the helper does not fight.
# vm: -m 2048 -t 2400 -r host

# shellcheck source=test/vm/lib.sh
. /lib.sh
# shellcheck source=test/vm/lib-agents.sh
. /lib-agents.sh

### In guests

kind='in guests'
both '0 *Powered ON' a -o on -k a000
copies_are '2 a000'
both '0 *Powered ON' b -o on -k b000
copies_are '2 a000, 2 b000'
holder_is "a000 $we_ro"
like "$(in_guest b -o monitor)" '0 *' "$kind: monitor"
same_view a "$a1"
same_view b "$witness"
is "$(wrote "$a1" "$a2" "$b1" "$b2" "$witness")" 'yes yes yes yes no' \
	"$kind: who may write"

kind='a fences b'
both '0 *Powered OFF' a -o off -k b000
copies_are '2 a000'
is "$(wrote "$a1" "$a2" "$b1" "$b2" /dev/guest-b)" 'yes yes no no no' \
	"$kind: who may write"
for d in $b1 $b2; do
	offline "$d"
	sleep 1
	running "$d"
	reinstate b "$d"
done
copies_stay '2 a000'
like "$(in_guest b -o status -k b000)" '2 *OFF' "$kind: b: status"
both '1 *' b -o off -k a000
copies_are '2 a000'
same_view b "$a1"

kind='b comes again'
both '0 *Powered ON' b -o on -k b000
copies_are '2 a000, 2 b000'
is "$(wrote "$b1" "$b2")" 'yes yes' "$kind: b may write"

kind='b fences a, which holds the reservation'
both '0 *Powered OFF' b -o off -k a000
copies_are '2 b000'
holder_is "b000 $we_ro"
is "$(wrote "$a1" "$a2" "$b1" "$b2")" 'no no yes yes' "$kind: who may write"

kind='a comes again, with APTPL and a dead path'
offline "$a1"
like "$(in_guest a -o on -a -k a000)" '0 *Powered ON' "$kind: on"
copies_are '1 a000, 2 b000'
running "$a1"
copies_become '2 a000, 2 b000'

### Hosts run it beside a helper, over nexuses of their own

kind='a host with a map of its own'
like "$(on_map c -o on -k c000)" '0 *Powered ON' "$kind: on"
copies_are '2 a000, 2 b000, 2 c000'
same_view a "$c1"
like "$(on_map c -o off -k a000)" '0 *Powered OFF' "$kind: off, of the guest"
copies_are '2 b000, 2 c000'
is "$(wrote "$a1" "$a2" /dev/guest-a)" 'no no no' "$kind: the guest is fenced"
noticed a a000
like "$(in_guest a -o on -k a000)" '0 *Powered ON' "$kind: the guest: on"
copies_are '2 a000, 2 b000, 2 c000'
like "$(in_guest a -o off -k c000)" '0 *Powered OFF' \
	"$kind: the guest fences the host"
copies_are '2 a000, 2 b000'

kind='a host with a plain disk'
guest_plain() {
	PR_SOCKET=/run/a.sock agent guest-plain fence_scsi -d "$disk_a" \
		--sg_persist-path=/usr/local/bin/guest_persist "$@"
}
is "$(each_key "$plain_witness" | xargs)" "b000 b000 $we_ro" \
	"$kind: where b has fenced a"
like "$(guest_plain -o on -k a000)" '0 *Powered ON' "$kind: the guest: on"
like "$(on_disk b -o off -k a000)" '0 *Powered OFF' "$kind: off, of the guest"
is "$(each_key "$plain_witness" | xargs)" "b000 b000 $we_ro" \
	"$kind: the guest's key is gone"
like "$(guest_plain -o status -k a000)" '2 *OFF' "$kind: the guest: status"

### ... and over those of its own guest. There is one registration on each
### nexus: who comes last has it.

kind="a host on its guest's map"
known_again a
like "$(on_map a -o on -k c000)" '0 *Powered ON' "$kind: on"
copies_are '2 b000, 2 c000'
same_view a "$b1"
noticed a a000
like "$(in_guest a -o status -k a000)" '2 *OFF' "$kind: the guest: status"
like "$(on_map a -o off -k b000)" '0 *Powered OFF' "$kind: off, of a guest"
copies_are '2 c000'
noticed b b000
like "$(in_guest a -o on -k a000)" '0 *Powered ON' "$kind: the guest: on"
copies_are '2 a000'
like "$(on_map a -o status -k c000)" '2 *OFF' "$kind: the host is out"

for host in a b; do
	eval "kill \$pid_$host"
done
done_testing
