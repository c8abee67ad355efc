#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Start prhelper, if the kernel's command line says so.

if getargbool 0 rd.prhelper; then
	modprobe -qab sg sd_mod dm_mod dm_multipath
	prhelper -d
fi
