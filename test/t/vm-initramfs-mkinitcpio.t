#!/bin/sh
# See LICENSE file for copyright and license details.
# prhelper before there is a root file system: an image of mkinitcpio, where
# there is one; no package of Debian has it.
if ! command -v mkinitcpio >/dev/null; then
	echo '1..0 # SKIP no mkinitcpio'
	exit
fi
exec "$(dirname "$0")/../vm/initramfs" mkinitcpio
