#!/bin/sh
# See LICENSE file for copyright and license details.
# prhelper before there is a root file system: an image of dracut, whose own
# scripts are its init.
exec "$(dirname "$0")/../vm/initramfs" dracut plain \
	"echo 'omit_dracutmodules+=\" kernel-modules dm systemd \"' \
	>/etc/dracut.conf.d/plain.conf"
