#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The unit tests, under AddressSanitizer and UndefinedBehaviorSanitizer; what
# has threads also under ThreadSanitizer; what libc takes part in, also with
# the libc of the static binary. Each is a program of its own that
# brings the rooms below the one it tests.
set -eu
cd "$(dirname "$0")/../.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
n=0

# unit WATCH NAME SOURCES: build test/unit/NAME.c with these, run it, and
# number its results after those of the others.
unit() {
	watch=$1 name=$2
	shift 2
	if [ "$watch" = musl ]; then
		set -- -idirafter /usr/include \
			-idirafter "/usr/include/$(gcc -print-multiarch)" "$@"
		cc=musl-gcc
	else
		set -- "-fsanitize=$watch" -fno-sanitize-recover=all "$@"
		cc=gcc
	fi
	$cc -std=c11 -g -D_GNU_SOURCE -DVERSION='"test"' -Wall -Wextra \
		-Werror -pthread -o "$tmp/$name" "test/unit/$name.c" "$@"
	"$tmp/$name" >"$tmp/out" 2>&1 && status=0 || status=$?
	count=$(grep -Ec '^(not )?ok ' "$tmp/out") || :
	awk -v n=$n -v name="$name" '
		/^(not )?ok / { sub(/ok [0-9]+ -/, "ok " ++n " - " name ":") }
		/^1\.\./ { next }
		/^(not )?ok / { print; next }
		{ print "# " $0 }' "$tmp/out"
	n=$((n + count + 1))
	grep -q "^1\.\.$count\$" "$tmp/out" && [ "$status" -eq 0 ] ||
		printf 'not '
	echo "ok $n - $name: all of it, watched by $watch"
}

below='trace.c util.c clock.c'
memory=address,undefined

# shellcheck disable=SC2086 # several words
{
	unit $memory outcome sg.c path.c proto.c $below
	unit $memory dmparse dm.c path.c $below -ldevmapper
	unit $memory paths path.c
	unit musl statefile state.c $below
	for watch in $memory thread; do
		unit $watch dmread dm.c $below
		unit $watch luns state.c $below
		unit $watch statefile state.c $below
		unit $watch batch sg.c proto.c $below
	done
}
echo "1..$n"
