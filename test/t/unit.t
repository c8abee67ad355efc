#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The unit tests, under AddressSanitizer and UndefinedBehaviorSanitizer.
set -eu
cd "$(dirname "$0")/../.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

gcc -std=c11 -g -D_GNU_SOURCE -DVERSION='"test"' -Wall -Wextra -Werror \
	-fsanitize=address,undefined -fno-sanitize-recover=all \
	-o "$tmp/outcome" test/unit/outcome.c sg.c proto.c trace.c util.c
exec 2>&1
"$tmp/outcome"
