#!/bin/sh
# See LICENSE file for copyright and license details.
#
# PREEMPT AND ABORT and hanging disks, over iSCSI in the test machine.
exec "$(dirname "$0")/../vm/boot" iscsi
