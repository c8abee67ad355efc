#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Two hosts that fence each other as Pacemaker's agents do, each with a map
# and a helper of its own, in the test machine.
exec "$(dirname "$0")/../vm/boot" fence
