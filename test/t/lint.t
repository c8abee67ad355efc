#!/bin/sh
# See LICENSE file for copyright and license details.
#
# The sources as the tools see them: one test for each tool.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/tap.sh
. test/tap.sh

version='-DVERSION="x"'
flags="-std=c11 -D_GNU_SOURCE"
warn="-pedantic -Wall -Wextra -Wshadow -Wmissing-prototypes -Wconversion
	-Wno-sign-conversion"
scripts=$(find . -name .git -prune -o -type f -print | while read -r f; do
	case $(head -c 9 "$f" | tr -d '\0') in '#!/bin/sh'*) echo "$f" ;; esac
done)

# none COMMAND...: prints nothing and succeeds
none() {
	out=$("$@" 2>&1) && [ -z "$out" ] && return
	echo "$out" | head -n 30 | sed 's/^/# /'
	return 1
}

analyze() {
	for f in *.c; do
		# shellcheck disable=SC2086 # several words
		gcc $flags "$version" $warn -O2 -fanalyzer -c -o /dev/null "$f"
	done
}

tidy() {
	for f in *.c; do
		# shellcheck disable=SC2086 # several words
		clang-tidy --quiet "$f" -- $flags "$version" 2>/dev/null
	done
}

formatted() {
	clang-format --dry-run -Werror ./*.c ./*.h
}

# Lines wider than 80 columns; tables may have their own form, not width.
wide() {
	for f in *.[ch] test/*.[ch] test/*/*.[ch] prhelper.8 $scripts \
			test/tap.sh test/confined.sh test/vm/*.sh \
			test/vm/case/*.sh; do
		expand "$f" | grep -nE '^.{81}' | sed "s,^,$f: ,"
	done
}

ok 'gcc -fanalyzer' none analyze
ok 'clang-tidy' none tidy
# shellcheck disable=SC2086 # several words
ok 'cppcheck' none cppcheck -q --error-exitcode=1 --inconclusive \
	--enable=warning,style,performance,portability \
	--suppress=variableScope --suppress=missingIncludeSystem --std=c11 \
	-D_GNU_SOURCE "$version" ./*.c
ok 'clang-format' none formatted
ok '80 columns' none wide
# shellcheck disable=SC2086 # several words
ok 'shellcheck' none shellcheck -x -e SC2119 $scripts test/tap.sh \
	test/confined.sh test/vm/*.sh test/vm/case/*.sh
ok 'shellcheck, what bash reads' none shellcheck -s bash \
	contrib/dracut/*/module-setup.sh contrib/mkinitcpio/install/prhelper
ok 'shellcheck, what ash reads' none shellcheck -s dash \
	contrib/mkinitcpio/hooks/prhelper
ok 'mandoc' none mandoc -Tlint -W warning prhelper.8
done_testing
