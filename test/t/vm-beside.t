#!/bin/sh
# See LICENSE file for copyright and license details.
# The host's own tools on a guest's nexuses; see ../vm/case/beside.sh.
exec "$(dirname "$0")/../vm/boot" beside
