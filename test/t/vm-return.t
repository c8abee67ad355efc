#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Paths that return, and a helper that is killed, in the test machine.
exec "$(dirname "$0")/../vm/boot" return
