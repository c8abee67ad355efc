#!/bin/sh
# See LICENSE file for copyright and license details.
# prhelper under OpenRC; see vm-init.t.
ROOT=openrc exec sh "$(dirname "$0")/vm-init.t"
