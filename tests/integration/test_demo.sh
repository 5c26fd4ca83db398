#!/bin/sh
# test_demo.sh: examples/demo.sh ends well, with its own example and with a file
#
#   sh test_demo.sh BUILD-DIRECTORY
set -u

[ $# -eq 1 ] || { echo "usage: test_demo.sh BUILD-DIRECTORY" >&2; exit 2; }
for tool in sqlite3 cmake ninja pkg-config; do # else it would install them
	command -v $tool >/dev/null || { echo "skipped: there is no $tool" >&2; exit 77; }
done
[ -f /usr/share/unicode/UnicodeData.txt ] || { echo "skipped: there is no /usr/share/unicode" >&2; exit 77; }
demo=$(dirname "$0")/../../examples/demo.sh
work=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-demo.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
export PAGESTORE_DEMO_BUILD="$1" PAGESTORE_DEMO_DIR="$work/demo"
unset PAGESTORE_DEMO_URL

# run WHAT ARGUMENT…: it ends well, and the table came back
run() {
	what=$1
	shift
	sh "$demo" "$@" >"$work/out" 2>&1 && grep -q '^4479 potions in' "$work/out" && return
	tail -n 30 "$work/out"
	echo "FAILED: $what"
	exit 1
}

run "the built-in example"
run "the same again, with a file, in the same store" "$0"
grep -q 'Dropping what the last run left' "$work/out" || { echo "FAILED: nothing was left by the first run"; exit 1; }
