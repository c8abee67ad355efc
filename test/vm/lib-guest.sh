# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# A guest under QEMU in the test machine, for cases that are booted with guest
# (what is in /guest comes from there); they source it as /lib-guest.sh, which
# brings lib.sh. It can be told to run commands on a disk.

# shellcheck source=test/vm/lib.sh
. /lib.sh

# The guest waits for orders on its second serial line
mkfifo /run/guest.in /run/guest.out
exec 8<>/run/guest.in 9<>/run/guest.out

# arrive: QEMU starts with the state of a guest that was booted elsewhere,
# which then finds the disk $x as /dev/sda. Its console is added to the file
# $guest_console, or is ours.
# shellcheck disable=SC2154 # $x is the case's
arrive() {
	cd /guest || return
	# shellcheck disable=SC2046 # they are several
	/usr/bin/qemu-system-x86_64 $(cat qemu-args) -runas nobody \
		-chardev file,id=console,append=on,$(
			)path="${guest_console:-/dev/console}" \
		-serial chardev:console -serial pipe:/run/guest \
		$(page qemu 'A disk' | sed "s,/run/prhelper/sock,$socket,
			s,/dev/sdb,$x,; /virtio-scsi-pci/d") \
		-incoming 'exec:cat state' >&2 &
	qemu=$!
	cd /tmp || return
	mourn $qemu &
	greet
}

# mourn PID: when that guest is no more, who waits for it gets an answer, too
mourn() {
	while kill -0 "$1" 2>/dev/null; do
		sleep 1
	done
	echo '=125' >&9
} >&2

# greet: a guest with that state listens, and looks for its disks
greet() {
	# The state overwrites a byte that arrives before it
	echo >&8
	rm -f /tmp/hello
	order echo hello
	until grep -q hello /tmp/hello 2>/dev/null; do
		answer >/tmp/hello || return
	done
	scan && guest 'test -b /dev/sda'
}

# scan: the guest looks for disks that are new
scan() {
	guest 'echo - - - >/sys/class/scsi_host/host0/scan'
}

# answer: print what the guest says up to an exit status, return that
answer() {
	while read -r line <&9; do
		case $line in
		=*) return "${line#=}" ;;
		esac
		printf '%s\n' "$line"
	done
}

order() {
	echo "$*" >&8
}

# guest COMMAND...: let it run there
guest() {
	order "$@"
	answer
}

# guest_out ARGUMENT...: a PERSISTENT RESERVE OUT of the guest
guest_out() {
	guest sg_persist -n -o "$@" /dev/sda >&2
}

# guest_in ARGUMENT...: ... and IN
guest_in() {
	guest sg_persist -n -i "$@" /dev/sda
}
