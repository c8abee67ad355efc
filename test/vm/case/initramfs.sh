# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# prhelper in an initramfs, made as doc/initramfs.md says: it serves before
# there is a root file system. Where one is mounted later this case is called
# again, in the real system, whose prhelper goes on.
# vm: -m 2048

# shellcheck source=test/vm/lib.sh
. /lib.sh

socket=/run/qemu-pr-helper.sock
was=/run/case

# root_is: print the type of the root file system
root_is() {
	awk '$2 == "/" { type = $3 } END { print type }' /proc/mounts
}

# helpers: print how many run
helpers() {
	pidof prhelper | wc -w
}

# start: once more what started it, as the image's tool does; print what it says
start() {
	if [ -e /scripts/init-premount/prhelper ]; then
		/scripts/init-premount/prhelper
	elif [ -e /lib/dracut-lib.sh ]; then
		sh -c '. /lib/dracut-lib.sh
			. /lib/dracut/hooks/pre-udev/91-prhelper.sh'
	else
		sh -c '. /hooks/prhelper; run_hook'
	fi 2>&1
}

if [ ! -e $was ]; then
	### Nobody but the image has started anything

	is "$(root_is) $(grep -c '^/dev/' /proc/mounts)" 'rootfs 0' \
		'no root file system is mounted, nor any other of a disk'
	is "$(helpers)" 1 'a helper runs'
	ok '... and serves' serving
	if grep -q root= /proc/cmdline; then
		like "$(start)" \
			'prhelper: pid file */qemu-pr-helper.pid: * is alive' \
			'if it cannot start, a line says why'
		mount --bind /dev/null /proc/cmdline
		is "$(start)" '' 'nothing starts it without rd.prhelper=1'
		umount /proc/cmdline
		is "$(helpers)" 1 '... the first one still runs'
	fi

	kind='a plain disk'
	lun plain
	plain=$(path plain)
	rival=$(path plain)
	witness=$(path plain)
	prout '00 -' REGISTER "$plain" 0 0 0 a
	prout '00 -' RESERVE "$plain" 1 5 a 0
	copies_are '1 a'
	holder_is "a $we_ro"
	is "$(may write_to "$rival")" no "$kind: another host may not write"
	prin '00 - *000000000000000a*' 'READ KEYS by its sg node' \
		"$(sg_of "$plain")" 0

	kind='a map'
	four_paths
	put '00 -' REGISTER 0 0 0 a
	put '00 -' RESERVE 1 5 a 0
	copies_are '4 a'
	holder_is "a $we_ro"

	kind='a rescue shell'
	page initramfs 'In the rescue shell' |
		sed "s,/dev/sda,$plain,; s,mpatha,mp," >/tmp/rescue
	sh -ex /tmp/rescue >/tmp/out
	is $? 0 "$kind: its commands"
	cat /tmp/out >&2
	like "$(tr -s ' ' </tmp/out)" "*mp holder 0xa type 5*mp desired 0xa$(
		)*mp health fine*${plain##*/} key 0xa on 1 nexus*" \
		"$kind: ... they tell of map and disk"
	is "$(keys "$plain")" '' "$kind: ... and the disk is cleared"
	copies_are '4 a'

	kind='a path is away'
	offline "$p2"
	put '00 -' 'REGISTER another key' 0 0 a c
	copies_are '3 c'

	grep -q root= /proc/cmdline || { done_testing; exit; }
	echo "tests=$tests p2=$p2 w=$w witness=$w" >$was
	exit
fi

### The real system

# shellcheck source=/dev/null
. $was
kind='the real system'
is "$(root_is)" ext4 "$kind has its own root file system"
is "$(helpers)" 0 'the helper of the initramfs has ended'
ok "... and its socket is gone" test ! -e $socket
copies_are '3 c'
ok "$kind: its own helper" systemctl start prhelper.socket
running "$p2"
prin '00 - *' 'READ RESERVATION' $mp 1
is "$(helpers)" 1 "$kind: it runs"
kind='the path comes back'
copies_become '4 c'
whole
holder_is "c $we_ro"
kind='the real system'
put '00 -' CLEAR 3 0 c 0
copies_are ''
done_testing
