#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Paths that die and return, leave the map and come into it, while the guest
# changes something, another host does, or the helper is killed. What a
# returned path gets, it gets without a command of the guest.

# shellcheck source=test/vm/lib.sh
. /lib.sh

without_alua
four_paths
ok 'the helper starts and serves' serve

# hold TYPE: the guest reserves; the path that holds the reservation dies
hold() {
	fresh a
	put '00 -' RESERVE 1 "$1" a 0
	dead=$(holding)
	offline "$dead"
}

# writer N: write through each path in turn until the file is gone
writer() {
	while [ -e /run/writing ]; do
		if dd if=/dev/zero of=$mp oflag=direct bs=4096 count=8 \
				2>"/tmp/dd.$1"; then
			echo >>"/tmp/written.$1"
		else
			cat "/tmp/dd.$1"
		fi
	done >"/tmp/refused.$1"
}

writers_start() {
	echo >/run/writing
	rm -f /tmp/written.?
	writer 1 &
	writer1=$!
	writer 2 &
	writer2=$!
}

# writers_end: print what was refused
writers_end() {
	rm /run/writing
	wait $writer1 $writer2
	cat /tmp/refused.? >&2
	sed -n '/dd: /p' /tmp/refused.?
}

### The guest's command comes while a path is dead

kind='a path is dead'
fresh a
pr_out $mp 6 0 0 0 >/dev/null
offline "$p2"
put '00 -' REGISTER 0 0 0 a
copies_are '3 a, 1 b'
is "$(failed mp)" "$(dev_of "$p2")" "$kind: ... the map does not use it"
returned "$p2" '4 a, 1 b'
ok "$kind: each path may write" write_to $mp 8

fresh a
put '00 -' RESERVE 1 5 a 0
dead=$p1
[ "$(holding)" != "$p1" ] || dead=$p2
offline "$dead"
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '1 b, 3 c'
holder_is "c $we_ro"
returned "$dead" '1 b, 4 c'
holder_is "c $we_ro"
put '00 -' RELEASE 2 5 c 0
holder_is ''

fresh a
offline "$p3"
put '00 -' 'REGISTER AND IGNORE another key' 6 0 0 c
copies_are '1 b, 3 c'
returned "$p3" '1 b, 4 c'
offline "$p3"
offline "$p4"
put '00 -' 'two are: REGISTER another key' 0 0 c d
copies_are '1 b, 2 d'
running "$p3"
returned "$p4" '1 b, 4 d'

fresh a
offline "$p4"
put '00 -' unregister 0 0 a 0
copies_are '1 a, 1 b'
returned "$p4" '1 b'

# It missed nothing
fresh a
offline "$p2"
put '00 -' RESERVE 1 5 a 0
put '00 -' RELEASE 2 5 a 0
returned "$p2" '4 a, 1 b'

kind='the holding path is dead'
hold 5
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '1 b, 3 c'
holder_is "c $we_ro"
returned "$dead" '1 b, 4 c'
holder_is "c $we_ro"
put '00 -' RELEASE 2 5 c 0
holder_is ''
hold 5
put '00 -' 'RESERVE again' 1 5 a 0
holder_is "a $we_ro"
copies_are '4 a, 1 b'
returned "$dead" '4 a, 1 b'
holder_is "a $we_ro"
put '00 -' RELEASE 2 5 a 0
holder_is ''
hold 6
put '00 -' RELEASE 2 6 a 0
holder_is ''
copies_are '3 a, 1 b'
returned "$dead" '4 a, 1 b'
hold 5
put '00 -' unregister 0 0 a 0
holder_is ''
copies_are '1 b'
running "$dead"
copies_stay '1 b'
whole
hold 5
put '00 -' 'PREEMPT of ourselves' 4 6 a a
holder_is 'a Exclusive Access, registrants only'
returned "$dead" '4 a, 1 b'

### The guest writes meanwhile

# release_writing US: release, with the holding path dead, so many microseconds
# after it began
release_writing() {
	hold 5
	writers_start
	usleep "$1"
	put '00 -' RELEASE 2 5 a 0
	usleep 300000
	is "$(writers_end)" '' "$kind: no write was refused"
	diag "$kind: $(cat /tmp/written.? | wc -l) times 8 writes"
	holder_is ''
	# Where a write met the dead path the kernel has failed it, not we
	running "$dead"
	copies_become '4 a, 1 b'
	reinstate mp "$dead"
}

kind='RELEASE while the guest writes'
# The kernel has found out that the path is dead; or finds out meanwhile
release_writing 300000
release_writing 300000
for i in 0 10000; do
	release_writing "$i"
done

kind='the guest writes while a path returns'
fresh a
put '00 -' RESERVE 1 5 a 0
dead=$p1
[ "$(holding)" != "$p1" ] || dead=$p2
offline "$dead"
put '00 -' 'REGISTER another key' 0 0 a c
writers_start
running "$dead"
copies_become '1 b, 4 c'
whole
usleep 300000
is "$(writers_end)" '' "$kind: no write was refused"
diag "$kind: $(cat /tmp/written.? | wc -l) times 8 writes"

# multipathd may be quicker than we are. What is refused then is only told.
offline "$dead"
writers_start
usleep 200000
put '00 -' 'REGISTER another key' 0 0 c d
running "$dead"
reinstate mp "$dead"
copies_become '1 b, 4 d'
usleep 300000
refused=$(writers_end | wc -l)
diag "reinstated at once by another: $refused writes refused," \
	"$(cat /tmp/written.? | wc -l) times 8 done"
whole

### Another host does something while a path is away

kind='preempted while a path is away'
fresh a
pr_out $mp 6 0 0 0 >/dev/null
offline "$p2"
put '00 -' REGISTER 0 0 0 a
other 4 5 b a
copies_are '1 b'
running "$p2"
copies_stay '1 b'
whole
put '02 2/08/00' 'RESERVE: as the device says it' 1 5 a 0
put '00 -' 'REGISTER again' 0 0 0 a
copies_are '4 a, 1 b'

fresh a
put '00 -' RESERVE 1 5 a 0
offline "$p2"
put '00 -' 'REGISTER another key' 0 0 a c
ok "$kind: the other host preempts" other 4 5 b c
copies_are '1 b'
holder_is "b $we_ro"
running "$p2"
copies_stay '1 b'
whole
is "$(may write_to $mp 8)" no "$kind: no path may write"
holder_is "b $we_ro"

kind='cleared while a path is away'
fresh a
pr_out $mp 6 0 0 0 >/dev/null
offline "$p3"
put '00 -' REGISTER 0 0 0 a
ok "$kind: by the other host" other 3 0 b 0
copies_are ''
running "$p3"
copies_stay ''
whole

kind='preempted while all paths are away'
fresh a
offline "$p3"
put '00 -' 'REGISTER another key' 0 0 a c
for d in $ours; do
	offline "$d"
done
ok "$kind: by the other host" other 4 5 b c
for d in $ours; do
	running "$d"
done
copies_stay '1 b'
whole

kind='all paths are away'
fresh a
offline "$p3"
put '00 -' 'REGISTER another key' 0 0 a c
for d in $ours; do
	offline "$d"
done
put '02 b/08/00' 'RESERVE' 1 5 c 0
# The one that missed it is the first to return
running "$p3"
copies_become '1 b, 4 c'
for d in $ours; do
	running "$d"
done
copies_stay '1 b, 4 c'
whole

### Only what we failed do we reinstate

kind='failed by another'
fresh a
fail mp "$p1"
fail mp "$p2"
offline "$p2"
offline "$p3"
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '1 b, 2 c'
is "$(failed mp)" "$(dev_of "$p1") $(dev_of "$p2") $(dev_of "$p3")" \
	"$kind: three are"
running "$p2"
running "$p3"
copies_become '1 b, 4 c'
copies_stay '1 b, 4 c'
is "$(failed mp)" "$(dev_of "$p1") $(dev_of "$p2")" \
	"$kind: they still are, the one that we failed is not"
reinstate mp "$p1"
reinstate mp "$p2"

### The table of the map changes

kind='a path comes into the map'
fresh a
n1=$(path a)
start=$(ms)
reload mp "$p1" "$p2" "$p3" "$p4" "$n1"
copies_become '5 a, 1 b'
diag "$kind: so after $(($(ms) - start)) ms"
put '00 -' RESERVE 1 5 a 0
ok "$kind: each path may write" write_to $mp 10
put '00 -' RELEASE 2 5 a 0
put '00 -' 'REGISTER another key' 0 0 a c
copies_are '1 b, 5 c'

kind='a path left the map'
reload mp "$p1" "$p2" "$p3" "$p4"
put '00 -' 'REGISTER another key' 0 0 c d
reload mp "$p1" "$p2" "$p3" "$p4" "$n1"
copies_become '1 b, 5 d'
whole

# Another target port behind the same number: nobody else will tell
kind='a path is another nexus'
reload mp "$p1" "$p2" "$p3" "$p4"
raw_out "$n1" 6 0 0 0
fresh a
number=$(dev_of "$p4")

# replace DISK: its nexus goes, one with the same number comes: p4
replace() {
	reload mp "$p1" "$p2" "$p3"
	echo 1 >"/sys/block/${1##*/}/device/delete"
	p4=$(path a)
	is "$(dev_of "$p4")" "$number" "$kind: its number is the same"
	ours="$p1 $p2 $p3 $p4"
	# shellcheck disable=SC2086 # they are four
	reload mp $ours
}

replace "$p4"
# The target still knows the old one
copies_become '5 a, 1 b'
put '00 -' RESERVE 1 5 a 0
ok "$kind: each path may write" write_to $mp 8

kind='a path became another nexus while no helper was'
fresh a
copies_are '4 a, 1 b'
killed
replace "$p4"
ok "$kind: the next one serves" serve
copies_become '5 a, 1 b'
put '00 -' RESERVE 1 5 a 0
ok "$kind: each path may write" write_to $mp 8

# What the kernel asked it while it was not registered was refused
kind='a path without a size'
put '00 -' RELEASE 2 5 a 0
put '00 -' 'RESERVE exclusively' 1 6 a 0
n2=$(path a)
is "$(cat "/sys/block/${n2##*/}/size")" 0 "$kind: it has none"
reload mp "$p1" "$p2" "$p3" "$p4" "$n2"
copies_become '6 a, 1 b'
sized() {
	[ "$(cat "/sys/block/${n2##*/}/size")" -gt 0 ]
}
ok "$kind: it has one when it has the key" within 20 sized
ok "$kind: each path may write" write_to $mp 10
put '00 -' RELEASE 2 6 a 0

kind='another group holds'
fresh a
reload mp "$p3" "$p4" - "$p1" "$p2"
ok "$kind: the first group is in use" write_to $mp
put '00 -' RESERVE 1 5 a 0
is "$(full "$w" | grep -c ' holder')" 1 "$kind: a path of it"
reload mp "$p1" "$p2" - "$p3" "$p4"
ok "$kind: now it is the second one" write_to $mp
writers_start
put '00 -' 'PREEMPT of ourselves' 4 6 a a
usleep 300000
is "$(writers_end)" '' "$kind: no write was refused"
ok "$kind: a write after it" write_to $mp
like "$(dmsetup status mp)" '* 2 1 A 0 2 0 * E 0 2 0 *' \
	"$kind: the first group is in use again"
put '00 -' RELEASE 2 6 a 0
# shellcheck disable=SC2086 # they are four
reload mp $ours

# rescan DISK: the host gives it up and finds it again; print the new one
rescan() {
	hctl=$(readlink -f "/sys/block/${1##*/}/device")
	hctl=${hctl##*/}
	echo 1 >"/sys/block/${1##*/}/device/delete"
	within 20 test ! -e "/sys/class/scsi_device/$hctl"
	echo '- - -' >"/sys/class/scsi_host/host${hctl%%:*}/scan"
	disk=/sys/class/scsi_device/$hctl/device/block
	within 20 test -d "$disk"
	d=/dev/$(ls "$disk")
	drain "$d"
	echo "$d"
}

kind='a path is another device'
fresh a
old=$p3
p3=$(rescan "$p3")
ok "$kind: its number is another one" test "$p3" != "$old"
put '00 -' 'REGISTER another key' 0 0 a c
ours="$p1 $p2 $p3 $p4"
# shellcheck disable=SC2086 # they are four
reload mp $ours
copies_become '1 b, 4 c'
whole

kind='the end'
is "$(failed mp)" '' "$kind: no path is left failed"
stop_helper
is $? 0 "$kind: exit status 0"
is "$(find $socket.state -name '~*')" '' "$kind: no half-written file is left"
done_testing
