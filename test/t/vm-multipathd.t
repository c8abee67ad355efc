#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The distribution's multipathd and prhelper on the same map; see
# ../vm/case/multipathd.sh.
exec "$(dirname "$0")/../vm/with-multipath" multipathd
