#!/bin/sh
# See LICENSE file for copyright and license details.
#
# A helper that is killed, in the test machine.
exec "$(dirname "$0")/../vm/boot" killed
