#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The newest qemu-pr-helper and prhelper side by side; see ../vm/case/peer.sh.
ROOT=newest exec "$(dirname "$0")/../vm/newest" boot peer
