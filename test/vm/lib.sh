# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# What cases are written with; they source it as /lib.sh inside the machine.
# SCSI disks of LIO, the kernel's target; a helper, and commands through it;
# a second opinion by sg_persist. Results are written with tap.sh.

# shellcheck source=test/tap.sh
. /tap.sh

# long: is everything wanted, however long it takes?
long() {
	grep -qw long /proc/cmdline
}

### Disks: LIO, with tcm_loop for a host adapter that needs no wire

target=/sys/kernel/config/target
store=$target/core/fileio_0

# lun NAME [MB]: make a logical unit, a file in memory with a serial number
lun() {
	mkdir -p "$store/$1"
	echo "fd_dev_name=/tmp/$1.img,fd_dev_size=$((${2:-16} << 20))" \
		>"$store/$1/control"
	echo "$1" >"$store/$1/wwn/vpd_unit_serial"
	echo 1 >"$store/$1/enable"
}

# path NAME [N]: make one more I_T nexus to the logical unit, print its disk.
# The initiator port is a new one, or the Nth, which has other targets too.
path() {
	mkdir -p $target/loopback
	n=$(find $target/loopback -name 'naa.*' -maxdepth 1 | wc -l)
	tpg=$target/loopback/naa.$(printf '6001405%09x' $((n + 1)))/tpgt_1
	mkdir -p "$tpg"
	printf 'naa.5001405%09x' "${2:-$((n + 1))}" >"$tpg/nexus"
	mkdir -p "$tpg/lun/lun_0"
	ln -s "$store/$1" "$tpg/lun/lun_0/$1"
	disk=/sys/class/scsi_device/$(cat "$tpg/address"):0/device/block
	within 20 test -d "$disk"
	d=/dev/$(ls "$disk")
	drain "$d"
	echo "$d"
}

# sg_of DISK: print its sg node
sg_of() {
	echo "/dev/$(ls "/sys/block/${1##*/}/device/scsi_generic")"
}

# without_alua: when a path comes up, the kernel's ALUA handler asks some path
# of the logical unit, some time later, and swallows a unit attention there.
# For who looks at those; before the first disk is made.
without_alua() {
	rmmod scsi_dh_alua
}

# without_udev: it looks at each disk that somebody had open for writing, and
# would swallow one, too
without_udev() {
	! command -v udevadm >/dev/null || systemctl stop 'systemd-udevd*'
}

# dev_of DISK: print its number, as device-mapper and traces have it
dev_of() {
	cat "/sys/block/${1##*/}/dev"
}

# offline DISK, running DISK: break the path to it, and mend it
offline() {
	echo offline >"/sys/block/${1##*/}/device/state"
}

running() {
	echo running >"/sys/block/${1##*/}/device/state"
}

# transport offline|online DISK: the same, but the kernel does not notice
transport() {
	hctl=$(readlink -f "/sys/block/${2##*/}/device")
	hctl=${hctl##*/}
	address=$(grep -lx "${hctl%:*}" $target/loopback/*/tpgt_1/address)
	echo "$1" >"${address%/*}/transport_status"
}

# partition DISK: make one of 1 MB at sector 2048, as sfdisk would write it
partition() {
	printf '\0\0\0\0\203\0\0\0\0\10\0\0\0\10\0\0' |
		dd of="$1" bs=1 seek=446 conv=notrunc 2>/dev/null
	printf '\125\252' | dd of="$1" bs=1 seek=510 conv=notrunc 2>/dev/null
	blockdev --rereadpt "$1"
	within 10 test -b "${1}1"
}

# drain DISK: fetch what unit attentions wait for this nexus. A PERSISTENT
# RESERVE OUT would return one without effect.
drain() {
	sg_turs -n 5 "$1" >/dev/null 2>&1 || :
}

# may COMMAND...: print yes or no
may() {
	if "$@"; then
		echo yes
	else
		echo no
	fi
}

# write_to DISK [BLOCKS], read_from DISK: can it be done? Past the page cache.
write_to() {
	dd if=/dev/zero of="$1" oflag=direct bs=4096 count="${2:-1}" \
		2>/dev/null
}

read_from() {
	dd if="$1" of=/dev/null iflag=direct bs=4096 count=1 2>/dev/null
}

### Maps: dm-multipath, whose paths such disks are

# map_table DISK...: print the table of a map. Each "-" between disks begins
# another path group. $features: such as "1 queue_if_no_path". It takes the
# paths of a group in turn, for one command each.
map_table() (
	size=$(blockdev --getsz "$1")
	groups=0 all='' group='' n=0
	for d in "$@" -; do
		if [ "$d" = - ]; then
			all="$all round-robin 0 $n 1$group"
			groups=$((groups + 1)) group='' n=0
		else
			group="$group $d 1" n=$((n + 1))
		fi
	done
	echo "0 $size multipath ${features:-0} 0 $groups 1$all"
)

# multipath NAME DISK...: make the map /dev/mapper/NAME
multipath() (
	map=$1
	shift
	dmsetup create "$map" --table "$(map_table "$@")"
	dmsetup mknodes "$map"
)

# reload NAME DISK...: from now on it has these paths
reload() (
	map=$1
	shift
	dmsetup load "$map" --table "$(map_table "$@")"
	dmsetup resume "$map"
)

# failed MAP: print the numbers of the paths that it does not use
failed() {
	dmsetup status "$1" | tr ' ' '\n' |
		sed -n '/^[0-9]*:[0-9]*$/{h;n;/^F$/{x;p;};}' | xargs
}

# fail MAP DISK, reinstate MAP DISK: device-mapper shall use it no more, again
fail() {
	dmsetup message "$1" 0 "fail_path $2"
}

reinstate() {
	dmsetup message "$1" 0 "reinstate_path $2"
}

# uses N [MAP]: device-mapper uses so many paths of it
uses() {
	[ "$(dmsetup status "${2:-mp}" 2>/dev/null |
		grep -o '[0-9]*:[0-9]* A ' | wc -l)" -eq "$1" ]
}

### The distribution's multipathd, where a case has it

# wwid_of DISK: print its name for the logical unit
wwid_of() {
	sed 's/naa\./3/' "/sys/block/${1##*/}/device/wwid"
}

# known DISK: as udev leaves it; multipathd waits for who is not in its database
known() {
	mkdir -p /run/udev/data
	echo I:1 >"/run/udev/data/b$(dev_of "$1")"
}

# multipathd_makes NAME DISK...: start it; it makes this map of these disks,
# with its keys in a file, and has nothing to do with others
multipathd_makes() {
	map_name=$1 map_unit=$(wwid_of "$2")
	shift
	mkdir -p /etc/multipath
	for map_disk in "$@"; do
		known "$map_disk"
	done
	cat >/etc/multipath.conf <<-END
		defaults {
			find_multipaths off
			uid_attribute ""
			reservation_key file
		}
		blacklist {
			wwid ".*"
		}
		blacklist_exceptions {
			wwid "$map_unit"
		}
		multipaths {
			multipath {
				wwid $map_unit
				alias $map_name
			}
		}
	END
	multipathd -d -v 1 >&2 &
	# shellcheck disable=SC2034 # for cases
	multipathd_pid=$!
	ok 'multipathd makes the map' within 60 uses $# "$map_name"
	dmsetup mknodes
}

# daemon COMMAND...: an order for it; it may be busy at that moment, which is
# for the console only
daemon() {
	within 20 ordered "$@"
}

ordered() {
	daemon_says=$(multipathd "$@" 2>&1)
	case $daemon_says in
	ok | ok\ *) ;;
	*)
		echo "multipathd $*: $daemon_says" >/dev/console
		false ;;
	esac
}

### iSCSI: the same over a network, with real initiators and targets

iqn=iqn.2000-01.example

# iscsi_export NAME ADDRESS: make it LUN 0 of a target of its own there
iscsi_export() {
	tpg=$target/iscsi/$iqn:$1-$2/tpgt_1
	mkdir -p "$tpg/np/$2:3260" "$tpg/lun/lun_0"
	ln -s "$store/$1" "$tpg/lun/lun_0/$1"
	echo 0 >"$tpg/attrib/authentication"
	echo 1 >"$tpg/attrib/generate_node_acls"
	echo 1 >"$tpg/attrib/cache_dynamic_acls"
	echo 0 >"$tpg/attrib/demo_mode_write_protect"
	echo 1 >"$tpg/enable"
}

# iscsi_login HOST NAME ADDRESS: be that host, print its disk
iscsi_login() {
	iscsistart -i "$iqn:$1" -t "$iqn:$2-$3" -g 1 -a "$3" -p 3260 >&2
	d=$(within 20 disk_in "$(session "$2" "$3")")
	drain "$d"
	echo "$d"
}

# disk_in SESSION: print its disk's node, if it is there yet
disk_in() {
	set -- "$1"/device/target*/*/block/*
	[ -e "$1" ] && [ -b "/dev/${1##*/}" ] && echo "/dev/${1##*/}"
}

# session NAME ADDRESS: print its directory in sysfs
session() {
	for s in /sys/class/iscsi_session/*; do
		[ "$(cat "$s/targetname")" != "$iqn:$1-$2" ] || echo "$s"
	done
}

# hang NAME ADDRESS SECONDS: the target goes away. Each command from now on
# waits so long for its return, then fails in the transport.
hang() {
	echo "$3" >"$(session "$1" "$2")/recovery_tmo"
	echo 0 >"$target/iscsi/$iqn:$1-$2/tpgt_1/enable"
}

# silence ADDRESS, unsilence ADDRESS: what the host sends there is lost, and
# arrives after all when it ends. Meanwhile the kernel takes all for well.
silence() {
	ip route add blackhole "$1/32" table local
}

unsilence() {
	ip route del blackhole "$1/32" table local
}

### The helper

socket=/run/pr.sock

# start_helper [ARGUMENT]...: start it, wait until it serves
start_helper() {
	"/bin/${helper:-prhelper}" -k $socket "$@" >&2 &
	helper_pid=$!
	within 20 serving
}

# A request with a descriptor that is no disk goes the whole way to the
# device and back, so an answer, whatever it is, shows that it serves. A
# helper that was killed while a disk hangs still accepts: do not wait for it.
serving() {
	timeout 1 prc $socket /dev/null "$(in_cdb 0 8)" >/dev/null 2>&1
}

# calls DEVICE COMMAND: the system calls of each of fifty requests. What only
# waits is left out: how often depends on who is faster; and the clock, that
# needs no call on a real machine; and the memory that musl's malloc() gives
# back until it has seen a hundred times that it is wanted again; and the
# thread that looks after paths, which is the one that waits for two seconds.
calls() {
	strace -f -qq -o /tmp/trace -p "$helper_pid" &
	strace_pid=$!
	within 20 grep -q . /proc/"$strace_pid"/stat
	within 20 test "$(status "$helper_pid" TracerPid)" != 0
	prc -qn 50 $socket "$1" "$2" >&2
	kill "$strace_pid"
	wait "$strace_pid"
	looks=$(sed -n 's/ *poll(.*, 1, 2000).*//p' /tmp/trace | head -n 1)
	sed -n "/resumed/d; /^${looks:-none} /d
		s/^[0-9]* *\([a-z0-9_]*\)(.*/\1/p" /tmp/trace | sort | uniq -c |
		awk '$2 !~ /^(futex|poll|clock_gettime|mmap|munmap)$/ &&
			$1 >= 25 { print int($1 / 50 + 0.5), $2 }' | xargs
}

# status PID NAME: print that line of the process's status
status() {
	sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"
}

stop_helper() {
	kill "$helper_pid"
	wait "$helper_pid"
}

# ms: print the time in milliseconds
ms() {
	read -r up _ </proc/uptime
	echo "${up%.*}${up#*.}0"
}

# state PID: print its state as the kernel has it; X when there is none
state() {
	sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" \
		2>/dev/null || echo X
}

# hanging PID: a thread of it waits for a disk
hanging() {
	grep -q '^State:[[:space:]]*D' "/proc/$1"/task/*/status 2>/dev/null
}

# ended PID: nothing of it runs any more, at most a thread hangs
ended() {
	case $(state "$1") in Z | X) ;; *) false ;; esac
}

### Commands through the helper. Actions are decimal, keys hexadecimal.

kind=	# begins each description

# in_cdb ACTION LENGTH: print the CDB of a PERSISTENT RESERVE IN
in_cdb() {
	printf '5e%02x0000000000%04x00' "$1" "$2"
}

# out_cdb ACTION TYPE KEY ACTION-KEY [FLAGS]: print CDB and parameter list
out_cdb() {
	printf '5f%02x%02x0000%08x00:%016x%016x00000000%02x000000' \
		"$1" "$2" 24 "0x$3" "0x$4" "${5:-0}"
}

# pr_in DEVICE ACTION [LENGTH]: print status, sense, payload
pr_in() {
	prc $socket "$1" "$(in_cdb "$2" "${3:-255}")"
}

# pr_out DEVICE ACTION TYPE KEY ACTION-KEY [FLAGS]: print status, sense
pr_out() {
	pr_dev=$1
	shift
	prc $socket "$pr_dev" "$(out_cdb "$@")" | cut -d ' ' -f 1,2
}

# prout WANT WHAT DEVICE ACTION TYPE KEY ACTION-KEY [FLAGS]
prout() {
	want=$1 what=$2
	shift 2
	is "$(pr_out "$@")" "$want" "$kind: $what"
}

# prin WANT WHAT DEVICE ACTION [LENGTH]; WANT is a pattern
prin() {
	want=$1 what=$2
	shift 2
	like "$(pr_in "$@")" "$want" "$kind: $what"
}

### The same from another host, which has no helper: straight to the device

# raw_in DEVICE ACTION [LENGTH]: print status, sense, payload
raw_in() {
	prc - "$1" "$(in_cdb "$2" "${3:-255}")"
}

# raw_out DEVICE ACTION TYPE KEY ACTION-KEY [FLAGS]: succeeds if it did
raw_out() {
	pr_dev=$1
	shift
	[ "$(prc - "$pr_dev" "$(out_cdb "$@")")" = '00 - -' ]
}

### A witness that knows nothing of the helper

# keys DISK: print the registered keys, in the order of the device
keys() {
	drain "$1"
	sg_persist -n -k "$1" | sed -n 's/^    0x//p' | xargs
}

# holder DISK: print key and type of the reservation, or nothing
holder() {
	drain "$1"
	sg_persist -n -r "$1" |
		sed -n 's/.*Key *= *0x//p; s/.*type: //p' | xargs
}

# full DISK: print target port, key and "holder" of each nexus that is
# registered; for SAS only, whose TransportIDs all have the same length
full() {
	drain "$1"
	raw_in "$1" 3 8192 | sed 's/^00 - .\{16\}//' | fold -w 96 | sed -n \
		's/^\(.\{16\}\).\{9\}\(.\).\{13\}\(.\).*/\3 \1 \2/p' | awk '{
			sub(/^0*/, "", $2)
			print $1, $2 ($3 % 2 ? " holder" : "")
		}' | sort
}

# keys_are WANT, holder_is WANT: at the target, as the disk $witness sees it.
# $kind, if there is one, begins the description.
witness=
keys_are() {
	is "$(keys "$witness")" "$1" \
		"${kind:+$kind: }... keys at the target: ${1:-none}"
}

holder_is() {
	is "$(holder "$witness")" "$1" \
		"${kind:+$kind: }... holder: ${1:-none}"
}

# copies: print of how many nexuses each key is, as "4 a, 1 b"
copies() {
	keys "$witness" | awk '
		{ for (i = 1; i <= NF; i++) n[$i]++ }
		END { for (k in n) print n[k], k }' |
		sort -k 2 | sed '$!s/$/,/' | xargs
}

copies_are() {
	is "$(copies)" "$1" "${kind:+$kind: }... keys at the target: ${1:-none}"
}

# copies_become WANT: without a command of the guest, sooner or later
copies_become() {
	within 30 copies_match "$1" || :
	copies_are "$1"
}

copies_match() {
	[ "$(copies)" = "$1" ]
}

# copies_stay WANT: they are it, and still are when a returned path would have
# been seen to several times
copies_stay() {
	end=$(($(date +%s) + 3))
	while copies_match "$1" && [ "$(date +%s)" -lt $end ]; do
		:
	done
	is "$(copies)" "$1" \
		"${kind:+$kind: }... keys at the target stay: ${1:-none}"
}

### For cases about one map of four paths

mp=/dev/mapper/mp
# shellcheck disable=SC2034 # for cases
we_ro='Write Exclusive, registrants only'

# four_paths: a logical unit, our four paths to it, which are the map: two
# initiator ports, each with two target ports; another host's nexus; and a
# witness who never registers
four_paths() {
	lun a
	p1=$(path a 1)
	p2=$(path a 2)
	p3=$(path a 1)
	p4=$(path a 2)
	o=$(path a)
	w=$(path a)
	witness=$w
	ours="$p1 $p2 $p3 $p4"
	multipath mp "$p1" "$p2" "$p3" "$p4"
}

serve() {
	start_helper -v -T path_step -T path_done
}

# killed: the helper is, with no chance to say good-bye
killed() {
	kill -KILL "$helper_pid"
	wait "$helper_pid" || :
} 2>/dev/null

# put WANT WHAT ACTION TYPE KEY ACTION-KEY [FLAGS]: the guest's command
put() {
	want=$1 what=$2
	shift 2
	prout "$want" "$what" $mp "$@"
}

# other ACTION TYPE KEY ACTION-KEY: a command of the other host
other() {
	drain "$o"
	raw_out "$o" "$@"
}

# fresh KEY: nothing is reserved, the other host has key b, the guest this one
fresh() {
	for d in $ours; do
		running "$d"
	done
	for d in $(failed mp); do
		reinstate mp "$d"
	done
	pr_out $mp 6 0 0 a >/dev/null
	pr_out $mp 3 0 a 0 >/dev/null
	for d in $ours; do
		drain "$d"
	done
	other 6 0 0 b
	pr_out $mp 6 0 0 "$1" >/dev/null
}

# holding: print the disk that is the path which holds the reservation
holding() {
	# Its target port has the number of the path, but for a later p4
	port=$(full "$w" | sed -n 's/ .* holder//p' | head -n 1)
	eval "echo \${p$port:-$p4}"
}

# returned DISK WANT: the path works again; soon the keys are so, and the map
# has it back
returned() {
	start=$(ms)
	running "$1"
	within 30 copies_match "$2" || :
	t=$(($(ms) - start))
	copies_are "$2"
	diag "$kind: so after $t ms"
	whole
}

# whole: the map uses all its paths
whole() {
	within 30 test_whole || :
	is "$(failed mp)" '' "$kind: ... the map uses each path"
}

test_whole() {
	[ -z "$(failed mp)" ]
}
