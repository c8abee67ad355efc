#!/bin/sh
# See LICENSE file for copyright and license details.
#
# Bad and good clients against a running helper: test/wire.c.
# wire.t [WORD]: only the cases with WORD in their name. PRHELPER names the
# program if it is not the one of this tree.
set -u
cd "$(dirname "$0")/../.." || exit 1
top=$(pwd)
make -s -C test wire >&2 || exit 1

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
cd "$tmp" || exit 1
"$top/test/wire" "${PRHELPER:-$top/prhelper}" "$@"
status=$?
if [ $status -ne 0 ] && [ -s log ]; then
	echo '# what the helpers said at last:'
	tail -n 10 log | sed 's/^/# /'
fi
if grep 'system call .* was refused' log | sort | uniq -c | sed 's/^/# /' |
		grep .; then
	echo '# confine.c refuses what is needed'
	status=1
fi
exit $status
