#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The directory for the state, good and bad, in the test machine.
exec "$(dirname "$0")/../vm/boot" state
