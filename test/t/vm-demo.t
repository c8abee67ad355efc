#!/bin/sh
# See LICENSE file for copyright and license details.
# What test/demo shows is true.
exec "$(dirname "$0")/../vm/boot" demo
