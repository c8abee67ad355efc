#!/bin/sh
# See LICENSE file for copyright and license details.
# Live migration by the newest QEMU; see ../vm/case/migrate.sh.
exec "$(dirname "$0")/../vm/newest" guest migrate
