#!/bin/sh
# See LICENSE file for copyright and license details.
# wire.t: bad and good clients against a running helper; see ../wire.c.
#
#	sh wire.t [WORD]	only the cases with WORD in their name
#
# PRHELPER names the program if it is not the one of this tree.

here=$(cd "$(dirname "$0")/.." && pwd)
prhelper=${PRHELPER:-$here/../prhelper}
make -s -C "$here" >&2 || { echo 'Bail out! make'; exit 1; }
dir=$(mktemp -d) || { echo 'Bail out! mktemp'; exit 1; }
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cd "$dir" || exit 1
"$here/wire" "$prhelper" "$@"
status=$?
if [ $status -ne 0 ] && [ -s log ]; then
	echo '# what the helpers said at last:'
	tail -n 10 log | sed 's/^/# /'
fi
exit $status
