#!/bin/sh
# See LICENSE file for copyright and license details.
# prhelper before there is a root file system: an image of initramfs-tools.
exec "$(dirname "$0")/../vm/initramfs" initramfs-tools
