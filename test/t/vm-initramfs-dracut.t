#!/bin/sh
# See LICENSE file for copyright and license details.
# prhelper before there is a root file system: an image of dracut, with systemd.
exec "$(dirname "$0")/../vm/initramfs" dracut
