#!/bin/sh
# See LICENSE file for copyright and license details.
# A guest while paths come and go; see ../vm/case/guest-paths.sh.
exec "$(dirname "$0")/../vm/guest" guest-paths
