# shellcheck shell=sh
# See LICENSE file for copyright and license details.
#
# What every test in sh is written with, on the host and in the test machine.

tests=0

# ok DESCRIPTION COMMAND...: the command succeeds
ok() {
	desc=$1
	shift
	tests=$((tests + 1))
	if "$@"; then
		echo "ok $tests - $desc"
	else
		echo "not ok $tests - $desc"
		echo "# failed: $*"
	fi
}

# is GOT WANT DESCRIPTION: both are the same
is() {
	tests=$((tests + 1))
	if [ "$1" = "$2" ]; then
		echo "ok $tests - $3"
	else
		echo "not ok $tests - $3"
		printf '%s\n' "$1" | sed 's/^/#  got: /'
		printf '%s\n' "$2" | sed 's/^/# want: /'
	fi
}

# like GOT PATTERN DESCRIPTION: the shell pattern fits all of it
like() {
	tests=$((tests + 1))
	# shellcheck disable=SC2254 # it is a pattern
	case $1 in
	$2)
		echo "ok $tests - $3" ;;
	*)
		echo "not ok $tests - $3"
		printf '%s\n' "$1" | sed 's/^/#     got: /'
		printf '%s\n' "$2" | sed 's/^/# pattern: /' ;;
	esac
}

diag() {
	printf '%s\n' "$*" | sed 's/^/# /'
}

# quietly COMMAND...: what it prints goes to $tmp/out, and is shown if it fails
# shellcheck disable=SC2154 # it is the caller's
quietly() {
	"$@" >"$tmp/out" 2>&1 || {
		tail -n 20 "$tmp/out" | sed 's/^/# /'
		return 1
	}
}

# page NAME HEADING [PART]: print the commands below "## HEADING" in
# doc/NAME.md, or only those below its "### PART"
page() {
	sed -n "/^## $2/,/^## /p" "${doc:-/doc}/$1.md" |
		sed -n "${3:+/^### $3/,/^###* /}s/^	//p"
}

done_testing() {
	echo "1..$tests"
}

# within SECONDS COMMAND...: wait until the command succeeds, or fail
within() {
	end=$(($(date +%s) + $1))
	shift
	until "$@"; do
		[ "$(date +%s)" -lt "$end" ] || return 1
		usleep 50000 2>/dev/null || sleep 0.05
	done
}
