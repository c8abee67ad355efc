#!/bin/sh
# See LICENSE file for copyright and license details.
# A guest with a disk and with a map; see ../vm/case/guest.sh.
exec "$(dirname "$0")/../vm/guest" guest
