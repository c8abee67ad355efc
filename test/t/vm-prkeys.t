#!/bin/sh
# See LICENSE file for copyright and license details.
#
# A reservation_key beside prhelper; see ../vm/case/prkeys.sh.
exec "$(dirname "$0")/../vm/with-multipath" prkeys \
	"$(dirname "$0")/../../doc/moving.md=/moving.md"
