#!/bin/sh
# See LICENSE file for copyright and license details.
# The helper as a host has it: daemon, user, trace, memory.
exec "$(dirname "$0")/../vm/boot" host
