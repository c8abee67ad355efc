#!/bin/sh
# See LICENSE file for copyright and license details.
# What a request costs in the test machine; see ../vm/case/cost.sh.
exec "$(dirname "$0")/../vm/boot" cost
