#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Every command on a real SCSI target, in the test machine.
exec "$(dirname "$0")/../vm/boot" target
