#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The host's own tools on the very nexuses that prhelper serves a guest on:
# what one did the other sees; and what they took from the guest, by removing
# or replacing its key, stays taken, and what they put in its place stays.

# shellcheck source=test/vm/lib.sh
. /lib.sh

four_paths
log=/tmp/log
serve_logged() {
	serve 2>>$log
}
ok 'the helper starts and serves' serve_logged

# tool OPTION... DISK: sg_persist changes something
tool() {
	sg_persist -n -o "$@" >&2
}

# on_all OPTION...: on each path of the map, as fence_scsi does
on_all() {
	for d in $ours; do
		drain "$d"
		tool "$@" "$d"
	done
}

# bounce: each path dies, and returns
bounce() {
	for d in $ours; do
		offline "$d"
		write_to $mp || :
		running "$d"
		reinstate mp "$d"
	done
}

# said PATTERN, in the log, since it was emptied
said() {
	grep -q "$1" $log
}

# anew: nobody has anything but the guest, with key a, and the other host
anew() {
	kind=$1
	fresh a
	: >$log
	copies_are '4 a, 1 b'
}

### Each sees what the other one did

anew 'one LUN, one truth'
prout '00 -' RESERVE $mp 1 5 a 0
like "$(sg_persist -n -i -r "$p3" | xargs)" '*Key=0xa scope*only' \
	"$kind: sg_persist sees the guest's reservation"
is "$(sg_persist -n -i -k "$p2" | sed 1d | xargs)" '0xb 0xa 0xa 0xa 0xa' \
	"$kind: ... and its keys"
is "$(pr_in $mp 0 8192)" "$(raw_in "$p4" 0 8192)" \
	"$kind: READ KEYS through the helper is what the disk says"
is "$(pr_in $mp 1)" "$(raw_in "$p4" 1)" "$kind: so is READ RESERVATION"
is "$(pr_in $mp 3 8192)" "$(raw_in "$p4" 3 8192)" \
	"$kind: so is READ FULL STATUS"
prout '00 -' RELEASE $mp 2 5 a 0
ok "$kind: sg_persist reserves for the guest, on one path" \
	tool -R -T 5 -K a "$p3"
holder_is "a $we_ro"
prout '00 -' 'RESERVE again' $mp 1 5 a 0
prout '00 -' 'RELEASE: of what sg_persist has reserved' $mp 2 5 a 0
holder_is ''

### A tool takes the nexuses: REGISTER AND IGNORE EXISTING KEY on each path

# replaced WHAT: so it is, whatever happens
replaced() {
	copies_stay '1 b, 4 c'
	holder_is "c $we_ro"
	bounce
	copies_stay '1 b, 4 c'
	holder_is "c $we_ro"
}

anew 'the key is replaced'
put '00 -' RESERVE 1 5 a 0
on_all -I -S c
copies_are '1 b, 4 c'
prin '00 - *c*c*c*c*' 'READ KEYS tells the guest' $mp 0
put '18 -' RESERVE 1 5 a 0
ok "$kind: the helper has noticed" said 'key 0xa is not registered any more'
replaced
put '18 -' RELEASE 2 5 a 0
put '18 -' 'PREEMPT of the new key' 4 5 a c
put '18 -' REGISTER 0 0 a d
put '18 -' 'REGISTER, since the nexus is taken' 0 0 0 a
replaced
killed
ok "$kind: a successor starts" serve_logged
replaced
put '18 -' RESERVE 1 5 a 0
replaced
put '00 -' 'REGISTER AND IGNORE takes it back' 6 0 0 a
copies_are '4 a, 1 b'
holder_is "a $we_ro"
put '00 -' RELEASE 2 5 a 0

anew 'replaced, and nobody asks: a path is new'
put '00 -' RESERVE 1 5 a 0
on_all -I -S c
reload mp "$p1" "$p2" "$p3"
usleep 1000000
reload mp "$p1" "$p2" "$p3" "$p4"
replaced

anew 'replaced while no helper runs'
put '00 -' RESERVE 1 5 a 0
killed
on_all -I -S c
ok "$kind: a successor starts" serve_logged
replaced
put '18 -' RESERVE 1 5 a 0
replaced

anew 'replaced while a path is dead'
put '00 -' RESERVE 1 5 a 0
offline "$p1"
put '00 -' 'another key' 0 0 a d
for d in $p2 $p3 $p4; do
	tool -I -S c "$d"
done
put '18 -' RESERVE 1 5 d 0
running "$p1"
reinstate mp "$p1"
copies_become '1 b, 3 c'
copies_stay '1 b, 3 c'

### A tool removes the key, or all keys

# removed: the key does not come back, but when the guest registers
removed() {
	put '02 2/08/00' 'RESERVE, as LIO refuses it' 1 5 a 0
	ok "$kind: the helper has noticed" \
		said 'key 0xa is not registered any more'
	bounce
	copies_stay "$1"
	put '00 -' 'REGISTER of the guest' 0 0 0 a
	copies_become "4 a${1:+, $1}"
	put '00 -' RESERVE 1 5 a 0
}

anew 'the key is removed on each path'
on_all -G -K a
removed '1 b'
anew 'a path is new when the key is removed'
on_all -G -K a
reload mp "$p1" "$p2" "$p3"
usleep 1000000
reload mp "$p1" "$p2" "$p3" "$p4"
copies_stay '1 b'
anew 'the key is preempted from a nexus of our own'
tool -I -S c "$p1"
tool -P -T 5 -K c -S a "$p1"
copies_are '1 b, 1 c'
put '02 2/08/00' RESERVE 1 5 a 0
ok "$kind: the helper has noticed" said 'key 0xa is not registered any more'
bounce
copies_stay '1 b, 1 c'
anew 'all keys are cleared'
tool -C -K a "$p2"
put '02 2/08/00' RESERVE 1 5 a 0
bounce
copies_stay ''
put '00 -' 'REGISTER of the guest' 0 0 0 a
copies_become '4 a'

### On one path only: the guest still has its key, so the path gets it again

anew 'one path loses the key'
put '00 -' RESERVE 1 5 a 0
tool -G -K a "$p3"
for _ in 1 2 3 4; do
	put '00 -' RESERVE 1 5 a 0
done
put '00 -' RELEASE 2 5 a 0
put '00 -' 'REGISTER AND IGNORE' 6 0 0 a
copies_become '4 a, 1 b'

stop_helper
done_testing
