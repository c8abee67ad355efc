#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Many clients and requests at once, in the test machine; see
# ../vm/case/siege.sh.
set -eu

test=$(cd "$(dirname "$0")/.." && pwd)
make -s -C "$test" siege
exec "$test/vm/boot" siege "$test/siege=/bin/siege"
