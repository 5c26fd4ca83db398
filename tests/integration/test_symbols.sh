#!/bin/sh
# test_symbols.sh: the archive defines no global symbol that does not begin with pgs_
#
#   sh test_symbols.sh LIBPAGESTORE.A
set -u

[ $# -eq 1 ] || { echo "usage: test_symbols.sh LIBPAGESTORE.A" >&2; exit 2; }
command -v nm >/dev/null || { echo "skipped: there is no nm" >&2; exit 77; }

symbols=$(nm -g --defined-only "$1" | awk 'NF == 3 { print $3 }') || exit 1
ours=$(echo "$symbols" | grep -c '^pgs_')
others=$(echo "$symbols" | grep -v '^pgs_')
if [ -n "$others" ]; then
	printf 'FAILED: these do not begin with pgs_:\n%s\n' "$others"
	exit 1
fi
# An archive that was not read at all has no wrong symbols either.
[ "$ours" -gt 50 ] || { echo "FAILED: only $ours symbols"; exit 1; }
echo "$ours symbols, all of them pgs_"
