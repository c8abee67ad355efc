#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The distribution's multipathd makes and minds the map that prhelper serves.
# It knows nothing of reservations, since no reservation_key is configured. It
# loads new tables, fails, reinstates, removes and adds paths, while a guest's
# commands go on: each is answered as without all that, and in the end each
# path has the key and is in use. What is in the machine comes from
# ../../t/vm-multipathd.t.

# shellcheck source=test/vm/lib.sh
. /lib.sh

### The disks; multipathd makes the map

lun a
for i in 1 2 3 4; do
	mkdir -p /run/path
	ln -s "$(path a "$i")" "/run/path/$i"
done
witness=$(path a)	# never registered

# disk N: the disk that is our Nth path
disk() {
	readlink "/run/path/$1"
}

mkdir -p /etc/multipath
for i in 1 2 3 4; do
	known "$(disk $i)"
done
cat >/etc/multipath.conf <<-END
	defaults {
		find_multipaths off
		uid_attribute ""
		polling_interval 1
		max_polling_interval 1
		missing_uev_wait_timeout 1
	}
	overrides {
		path_grouping_policy multibus
		path_selector "round-robin 0"
		rr_min_io_rq 1
		no_path_retry 10
	}
	blacklist {
		devnode "^${witness#/dev/}\$"
		devnode "^(vda|nvme|loop|ram)"
	}
	multipaths {
		multipath {
			wwid $(wwid_of "$witness")
			alias mp
		}
	}
END
multipathd -d -v 2 >&2 &
multipathd_pid=$!
mp=/dev/mapper/mp

ok 'multipathd makes the map' within 60 uses 4
dmsetup mknodes

ok 'the helper starts and serves' start_helper \
	-T 'path_*' -T 'dm_map,file=/tmp/trace'

# copies KEY: so many nexuses have it
in_keys=$(in_cdb 0 8192)
copies() {
	prc - "$witness" "$in_keys" | sed 's/^00 - .\{16\}//' | fold -w 16 |
		grep -cx "$(printf '%016x' "0x$1")"
}

registered() {
	[ "$(copies a)" -eq "$1" ]
}

### The guest: a client and its writes, in the background

# It registers key a, and changes it to c and back. A line is what it must be
# answered, and the command; or a write.
cat >/run/commands <<-END
	00 $(out_cdb 6 0 0 a)
	00 $(out_cdb 1 5 a 0)
	write
	00 $(out_cdb 0 0 a c)
	write
	00 $(out_cdb 1 5 c 0)
	18 $(out_cdb 0 0 a c)
	00 $in_keys
	00 $(out_cdb 4 5 c c)
	write
	00 $(out_cdb 2 5 c 0)
	00 $(out_cdb 0 0 c 0)
	18 $(out_cdb 0 0 c a)
	00 $(out_cdb 0 0 0 a)
	00 $(out_cdb 1 5 a 0)
	write
	00 $(out_cdb 3 0 a 0)
	00 $(out_cdb 0 0 0 a)
	00 $(out_cdb 1 5 a 0)
	write
END

# guest: go on until /run/go is gone. What is wrong goes to /tmp/wrong, how
# often something was done to /tmp/done.
guest() {
	mkfifo /run/in /run/out
	exec 4<>/run/in 6<>/run/out
	prc $socket $mp </run/in >/run/out &
	prc_pid=$!
	commands=0 writes=0 refused=0 longest=0
	while [ -e /run/go ]; do
		while read -r want cdb; do
			if [ "$want" = write ]; then
				writes=$((writes + 1))
				write_once || refused=$((refused + 1))
				continue
			fi
			t=$(ms)
			echo "$cdb" >&4
			read -r got <&6
			t=$(($(ms) - t))
			[ $t -le $longest ] || longest=$t
			commands=$((commands + 1))
			case $got in
			"$want -"*) ;;
			*)
				wrong "$cdb: $got" ;;
			esac
		done </run/commands
	done
	kill $prc_pid
	rm /run/in /run/out
	echo "$commands commands, the longest $longest ms; $(
		)$refused of $writes writes refused" >/tmp/done
}

# wrong WHAT: keep it, and what the helper did before the first one
wrong() {
	[ -s /tmp/wrong ] || {
		dmsetup status mp
		tail -n 150 /tmp/trace
	} >/tmp/evidence
	echo "$1" >>/tmp/wrong
}

# write_once: on each path, if it can be. It is a conflict, or another error.
write_once() {
	dd if=/dev/zero of=$mp oflag=direct bs=4096 count=4 2>/tmp/dd && return
	grep -q 'nvalid exchange\|rror 52' /tmp/dd || {
		wrong "write: $(grep dd: /tmp/dd)"
		return
	}
	false
}

# all_well: all paths are in use and have the key
all_well() {
	uses 4 && registered 4
}

in_daemon() {
	multipathd show maps format '%n %N' 2>/dev/null | grep -qx 'mp *4 *'
}

# writes_all: 40 writes through the map, on each path in turn
writes_all() {
	write_to $mp 40
}

# during WHAT COMMAND...: do that while the guest goes on
during() {
	kind=$1
	shift
	: >/run/go
	: >/tmp/wrong
	guest &
	guest_pid=$!
	usleep 300000
	is "$("$@" 2>&1)" '' "$kind: done"
	rm /run/go
	wait $guest_pid
	is "$(cat /tmp/wrong)" '' "$kind: each command has the right answer"
	[ ! -s /tmp/wrong ] || {
		cat /tmp/evidence
		echo end of evidence
	} >&2
	start=$(ms)
	ok "$kind: in the end all paths are in use and have the key" \
		within 60 all_well
	diag "$kind: $(cat /tmp/done); all is well after $(($(ms) - start)) ms"
	uses 4 || dmsetup status mp | sed 's/^/# /'
	ok "$kind: multipathd has the map with all paths" within 20 in_daemon
	ok "$kind: all paths may write" writes_all
	holder_is 'a Write Exclusive, registrants only'
}

kind='at rest'
is "$(pr_out $mp 6 0 0 a)" '00 -' "$kind: REGISTER AND IGNORE"
ok "$kind: four paths have the key" registered 4

### New tables

reload_all() {
	for _ in 1 2 3; do
		daemon reconfigure || echo 'reconfigure failed'
		daemon reload map mp || echo 'reload failed'
		daemon resize map mp || echo 'resize failed'
		dmsetup table mp | dmsetup load mp
		dmsetup suspend mp
		usleep 200000
		dmsetup resume mp
		dmsetup table mp | dmsetup load mp
		dmsetup resume --noflush mp
		daemon suspend map mp || echo 'suspend failed'
		usleep 200000
		daemon resume map mp || echo 'resume failed'
	done
}
during 'new tables' reload_all

### multipathd fails and reinstates paths

fail_all() {
	for _ in 1 2; do
		for i in 1 2 3 4; do
			daemon fail path "$(basename "$(disk $i)")" ||
				echo "fail $i failed"
			usleep 200000
			daemon reinstate path "$(basename "$(disk $i)")" ||
				echo "reinstate $i failed"
		done
	done
}
during 'fail and reinstate' fail_all

### Paths break and are mended; multipathd finds out by itself

# breaks BREAK MEND: each path in turn, two at a time. The paths that are
# away miss commands, since device-mapper hears of it late.
breaks() {
	for i in 1 2 3 4; do
		$1 "$(disk $i)"
		$1 "$(disk $((i % 4 + 1)))"
		within 20 uses 2 || echo "$i: not noticed"
		usleep 300000
		$2 "$(disk $i)"
		$2 "$(disk $((i % 4 + 1)))"
		within 60 uses 4 || echo "$i: not reinstated"
	done
}
during 'offline' breaks offline running
during 'transport' breaks 'transport offline' 'transport online'

### Paths leave the map, and come

leave() {
	for i in 1 2 3 4; do
		daemon del path "$(basename "$(disk $i)")" ||
			echo "del $i failed"
		within 20 uses 3 || echo "$i: still in the map"
		usleep 300000
		daemon add path "$(basename "$(disk $i)")" ||
			echo "add $i failed"
		within 20 uses 4 || echo "$i: not in the map"
	done
}
during 'leave and come' leave

# The SCSI device itself goes, and a new one comes for the same nexus
replace() {
	for i in 1 2; do
		d=$(disk $i)
		hctl=$(basename "$(readlink -f "/sys/block/${d##*/}/device")")
		daemon del path "${d##*/}" || echo "del $i failed"
		within 20 uses 3 || echo "$i: still in the map"
		echo 1 >"/sys/block/${d##*/}/device/delete"
		usleep 300000
		echo '- - -' >"/sys/class/scsi_host/host${hctl%%:*}/scan"
		new=/sys/class/scsi_device/$hctl/device/block
		within 20 test -d "$new" || echo "$i: no disk"
		d=/dev/$(ls "$new")
		known "$d"
		ln -sfn "$d" "/run/path/$i"
		daemon add path "${d##*/}" || echo "add $i failed"
		within 20 uses 4 || echo "$i: not in the map"
	done
}
during 'other disks' replace

### How long until a path that missed the key has it, and who was refused
### meanwhile: multipathd reinstates it first

kind='a path returns'
late=
for i in 1 2 3 4; do
	d=$(disk $i)
	pr_out $mp 0 0 a 0 >/dev/null
	offline "$d"
	within 20 uses 3
	pr_out $mp 0 0 0 a >/dev/null
	pr_out $mp 1 5 a 0 >/dev/null
	: >/tmp/writes
	: >/tmp/wrong
	(
		n=0 refused=0
		while [ -e /tmp/writes ]; do
			write_once || refused=$((refused + 1))
			n=$((n + 1))
		done
		echo "$refused of $n writes of 4 blocks refused" >/tmp/done
	) &
	writer=$!
	start=$(ms) in_use=
	running "$d"
	while [ $(($(ms) - start)) -lt 60000 ]; do
		[ -n "$in_use" ] || ! uses 4 || in_use=$(($(ms) - start))
		! registered 4 || break
	done
	has=$(($(ms) - start))
	[ -n "$in_use" ] || {
		within 60 uses 4
		in_use=$(($(ms) - start))
	}
	registered 4 || late="$late $i"
	usleep 500000
	rm /tmp/writes
	wait $writer
	diag "$kind: in use after $in_use ms, registered after $has ms; $(
		)$(cat /tmp/done)"
done
is "$late" '' "$kind: it gets the key"
is "$(cat /tmp/wrong)" '' "$kind: no other error of a write"
ok "$kind: all is well then" within 60 all_well
ok "$kind: all paths may write" writes_all

kill "$multipathd_pid"
stop_helper
done_testing
