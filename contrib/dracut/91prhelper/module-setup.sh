#!/bin/bash
# See LICENSE file for copyright and license details.
#
# dracut: put prhelper into the image; see doc/initramfs.md.

check() {
	require_binaries /usr/local/bin/prhelper
}

# Not only those that this machine needs just now
installkernel() {
	hostonly='' instmods sg sd_mod dm_mod dm_multipath
}

# shellcheck disable=SC2154 # dracut has set them
install() {
	inst /usr/local/bin/prhelper /usr/bin/prhelper
	ln -sf prhelper "$initdir/usr/bin/qemu-pr-helper"
	inst_hook pre-udev 91 "$moddir/prhelper.sh"
	inst_hook cleanup 91 "$moddir/prhelper-end.sh"
}
