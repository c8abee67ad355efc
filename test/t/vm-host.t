#!/bin/sh
# See LICENSE file for copyright and license details.
# The helper as a host has it: daemon, user, trace, confinement, memory.
cd "$(dirname "$0")/.." || exit
make -s confined >&2 || exit
exec vm/boot host "$PWD/confined=/bin/confined" \
	"$PWD/confined.sh=/confined.sh"
