#!/bin/sh
# See LICENSE file for copyright and license details.
#
# PREEMPT AND ABORT and silent paths of a multipath map, over iSCSI in the
# test machine.
exec "$(dirname "$0")/../vm/boot" mpath-iscsi
