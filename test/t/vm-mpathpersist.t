#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The distribution's mpathpersist and prhelper side by side; see
# ../vm/case/mpathpersist.sh.
exec "$(dirname "$0")/../vm/with-multipath" mpathpersist
