#!/bin/sh
# test_headers.sh: each public header compiles alone, as strict C11 and as C++17
#
# With every compiler there is of gcc, clang, g++ and clang++. Exit status: 0, 1, or
# 77 when there is none.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
strict="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -I$root/include"
failures=0 compiled=0

# compile COMPILER LANGUAGE STANDARD HEADER: the header twice, so that its guard is tried too
compile() {
	# shellcheck disable=SC2086 # a list of options
	printf '#include <%s>\n#include <%s>\ntypedef int not_empty;\n' "$4" "$4" | "$1" $strict -x "$2" "-std=$3" - &&
		compiled=$((compiled + 1)) && return
	failures=$((failures + 1))
	echo "FAILED: $4 with $1 as $3"
}

for header in $(cd "$root/include" && find . -name '*.h' | sed 's,^\./,,' | sort); do
	for compiler in gcc clang; do
		! command -v $compiler >/dev/null || compile $compiler c c11 "$header"
	done
	for compiler in g++ clang++; do
		! command -v $compiler >/dev/null || compile $compiler c++ c++17 "$header"
	done
done

echo "$compiled compiled, $failures failed"
[ $failures -eq 0 ] || exit 1
[ $compiled -gt 0 ] || exit 77
