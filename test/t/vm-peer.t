#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The distribution's qemu-pr-helper and prhelper side by side; see
# ../vm/case/peer.sh.

exec "$(dirname "$0")/../vm/boot" peer
