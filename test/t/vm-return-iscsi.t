#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Sessions that are lost and return, over iSCSI in the test machine. There a
# session is recovered by open-iscsi's daemon.
boot=$(dirname "$0")/../vm/boot
exec "$boot" return-iscsi \
	/sbin/iscsid=/bin/iscsid /sbin/iscsiadm=/bin/iscsiadm
