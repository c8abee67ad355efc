#!/bin/sh
# See LICENSE file for copyright and license details.
# What the pages in doc tell people to do; see ../vm/case/pages.sh.
cd "$(dirname "$0")/../.." || exit
exec test/vm/boot pages doc/moving.md=/moving.md \
	doc/troubleshooting.md=/troubleshooting.md
