#!/bin/sh
# test_tutorial.sh: the C blocks of docs/tutorial.md are a program that prints what it says
#
#   sh test_tutorial.sh LIBPAGESTORE.A LIBRARY…
#
# LIBRARY is what the archive needs, by pkg-config's name.
#
# Numbers may differ: the output is compared without them.
set -u

[ $# -gt 1 ] || { echo "usage: test_tutorial.sh LIBPAGESTORE.A LIBRARY..." >&2; exit 2; }
archive=$1
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-tutorial.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT

# block LANGUAGE: the lines of all blocks of that language
block() {
	awk -v open="\`\`\`$1" '$0 == open { inside = 1; next } /^```/ { inside = 0 } inside' "$root/docs/tutorial.md"
}

# What differs when nothing is wrong: the numbers.
shape() {
	sed 's/[0-9][0-9]*/N/g' "$1"
}

block c >"$work/shop.c"
block text >"$work/said"
# shellcheck disable=SC2046 # a list of libraries
cc -std=c11 -Wall -Wextra -Werror "-I$root/include" "$work/shop.c" -o "$work/shop" "$archive" \
	$(pkg-config --libs "$@") -pthread || { echo "FAILED: it does not compile"; exit 1; }
"$work/shop" >"$work/printed" || { echo "FAILED: it does not run"; cat "$work/printed"; exit 1; }
shape "$work/said" >"$work/said-shape"
shape "$work/printed" >"$work/printed-shape"
cmp -s "$work/said-shape" "$work/printed-shape" && { echo "passed"; exit 0; }
echo "FAILED: it prints something else than the text says:"
diff "$work/said" "$work/printed"
exit 1
