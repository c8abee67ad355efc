#!/bin/sh
# See LICENSE file for copyright and license details.
#
# prhelper status, in and out, beside the distribution's multipath-tools; see
# ../vm/case/ctl.sh.
exec "$(dirname "$0")/../vm/with-multipath" ctl
