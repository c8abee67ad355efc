#!/bin/sh
# See LICENSE file for copyright and license details.
#
# What a request to a disk and to a map costs in system calls, and what the
# helper has resident afterwards: each as it was when this was written. Who
# makes it worse should know why. ../../t/cost.t is about the rest.

# shellcheck source=test/vm/lib.sh
. /lib.sh

lun a
a=$(path a)
lun b
b1=$(path b) b2=$(path b) b3=$(path b) b4=$(path b)
multipath mb "$b1" "$b2" "$b3" "$b4"
mb=/dev/mapper/mb

ok 'the helper starts' start_helper
keys=$(in_cdb 0 8192)
is "$(calls "$a" "$keys")" \
	'1 close 1 fstat 1 ioctl 1 recvmsg 1 sendmsg' 'READ KEYS of a disk'
# The map; the path's state, name and node
is "$(calls $mb "$keys")" "$(
	)3 close 2 fstat 2 ioctl 2 openat 1 read 1 readlink 1 recvmsg $(
	)1 sendmsg" 'READ KEYS of a map of four paths'
pr_out "$a" 6 0 0 a >&2
is "$(calls "$a" "$(out_cdb 6 0 0 a)")" "$(
	)1 close 1 fcntl 1 fstat 1 ioctl 2 recvmsg 1 sendmsg" \
	'REGISTER AND IGNORE on a disk'
pr_out $mb 6 0 0 a >&2
is "$(calls $mb "$(out_cdb 6 0 0 a)")" "$(
	)33 close 3 fcntl 9 fstat 2 getpid 9 ioctl 32 openat 23 read $(
	)7 readlink 2 recvmsg 2 renameat 1 sendmsg 2 write" \
	'REGISTER AND IGNORE on a map of four paths'
kb=$(status "$helper_pid" VmRSS)
kb=${kb% kB}
ok "$kb KB resident after all of them, at most 300" test "$kb" -le 300
ok 'the helper ends' stop_helper
done_testing
