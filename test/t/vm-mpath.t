#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Every command over a multipath map, in the test machine.
exec "$(dirname "$0")/../vm/boot" mpath
