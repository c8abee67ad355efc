#!/bin/sh
# See LICENSE file for copyright and license details.
#
# A real guest: QEMU runs in the test machine and hands a disk of LIO to it
# as scsi-block; its reservations go through prhelper. Another nexus to the
# same disk plays another host, and is the witness. The same story happens
# twice: with a plain disk, and with a map of four paths.
# vm: -m 2048

# shellcheck source=test/vm/lib-guest.sh
. /lib-guest.sh

# other_out ARGUMENT...: a PERSISTENT RESERVE OUT of the other host
other_out() {
	drain "$y"
	sg_persist -n -o "$@" "$y" >&2
}

helper_dies() {
	kill -9 "$helper_pid"
	wait "$helper_pid" 2>/dev/null
}

helper_returns() {
	start_helper -v 2>>/tmp/messages
	chmod 666 $socket
}

# story: what a cluster does with the disk $x of the guest, which has $paths
# paths, and the disk $y of the other host
story() {
	### Without the helper there is nothing to reserve with

	ok "$kind: the helper starts and serves" helper_returns
	chmod 666 "$x"
	ok "$kind: a guest arrives" arrive
	is "$(status "$qemu" CapEff)" 0000000000000000 \
		"$kind: its QEMU has no capability"
	like "$(su -s /bin/sh nobody -c \
		"sg_turs $x && sg_persist -n -k $x" 2>&1)" \
		'*(Read keys): Operation not permitted*' \
		"$kind: ... and so the kernel refuses READ KEYS"

	page qemu 'In the guest' >/tmp/page
	while read -r told <&7; do
		ok "$kind: $told" guest "$told >/dev/null"
	done 7</tmp/page

	### What a cluster does

	like "$(guest_in -k)" '*NO registered*' "$kind: READ KEYS: none"
	ok "$kind: REGISTER" guest_out -G -S a
	copies_are "$paths a"
	ok "$kind: the other host registers" other_out -G -S b
	like "$(guest_in -k)" '*0xa?*0xb*' "$kind: READ KEYS: both"
	ok "$kind: RESERVE" guest_out -R -K a -T 5
	holder_is 'a Write Exclusive, registrants only'
	like "$(guest_in -r)" '*Key=0xa?*Write Exclusive, registrants only*' \
		"$kind: READ RESERVATION"
	ok "$kind: RELEASE" guest_out -L -K a -T 5
	holder_is ''

	ok "$kind: the other host reserves" other_out -R -K b -T 5
	guest_out -R -K a -T 5
	is $? 24 "$kind: RESERVE: conflict"
	holder_is 'b Write Exclusive, registrants only'

	helper_dies
	ok "$kind: the helper is killed and started again" helper_returns
	ok "$kind: PREEMPT with the new helper" guest_out -P -K a -S b -T 5
	copies_are "$paths a"
	holder_is 'a Write Exclusive, registrants only'
	ok "$kind: the guest can write" guest dd if=/dev/zero \
		of=/dev/sda oflag=direct bs=4k count=1 '2>/dev/null'
	write_to "$y"
	is $? 1 "$kind: the other host cannot"
	like "$(guest_in -s)" "*Key=0xa?*Reservation holder*$(
		)Write Exclusive, registrants only*500140500000000[1-4]*" \
		"$kind: READ FULL STATUS"

	# QEMU tries again every second, for about 4 seconds
	helper_dies
	rm -f /tmp/connects
	strace -f -qq -e trace=connect -o /tmp/connects -p "$qemu" &
	strace_pid=$!
	usleep 500000
	order sg_persist -n -i -r /dev/sda
	ok "$kind: the helper is killed, the guest misses it" \
		within 60 grep -q $socket /tmp/connects
	ok "$kind: it is started again" helper_returns
	answer >/tmp/answer
	is $? 0 "$kind: READ RESERVATION has waited for it"
	kill $strace_pid
	cat /tmp/connects >&2

	ok "$kind: RELEASE" guest_out -L -K a -T 5
	holder_is ''
	ok "$kind: the other host registers again" other_out -G -S b
	ok "$kind: CLEAR" guest_out -C -K a
	keys_are ''

	is "$(grep -c " pid $qemu uid .* ${log_name}: " /tmp/messages)" 10 \
		"$kind: all that the guest changed went through the helper"
	kill "$qemu"
	wait "$qemu"
	# Who waits for it is told
	answer >&2
	stop_helper
}

kind='a disk' paths=1
lun a
x=$(path a 1)
log_name=${x#/dev/}
y=$(path a)
witness=$y
story

kind='a map' paths=4
lun b
multipath mp "$(path b 1)" "$(path b 2)" "$(path b 3)" "$(path b 4)"
x=/dev/mapper/mp
log_name=dm-0
y=$(path b)
witness=$y
story

cat /tmp/messages >&2
done_testing
