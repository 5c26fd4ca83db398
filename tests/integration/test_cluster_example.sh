#!/bin/sh
# test_cluster_example.sh: examples/cluster.sh tells its story, and leaves nothing behind
#
#   sh test_cluster_example.sh DIR       pagestore and teller are in DIR
#
# Exit status: 0, 1, or 77 when there is no etcd, no node or no s3rver (with CI=true: 1).
# shellcheck disable=SC2016 # check() evaluates its second argument
set -u

[ $# -eq 1 ] || { echo "usage: test_cluster_example.sh DIR" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
PAGESTORE_BIN=$1
s3rver=${PAGESTORE_S3RVER:-${XDG_CACHE_HOME:-$HOME/.cache}/pagestore/s3rver}
export PAGESTORE_BIN
if ! command -v etcd >/dev/null || ! command -v node >/dev/null || [ ! -f "$s3rver/node_modules/s3rver/package.json" ]; then
	echo "SKIPPED: there is no etcd, no node, or no s3rver in $s3rver" >&2
	[ "${CI:-}" != true ] || exit 1
	exit 77
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-test.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
export TMPDIR="$work"
failures=0

check() {
	eval "$2" && return
	failures=$((failures + 1))
	echo "FAILED: $1"
	sed 's/^/    /' "$work/out" "$work/err"
}

# Processes that have the script's directory among their arguments; grep's own are spelled otherwise.
left_over() {
	grep -lz "$work/pagestore-cluste[r]" /proc/[0-9]*/cmdline 2>/dev/null | wc -l
}

sh "$root/examples/cluster.sh" 9 >"$work/out" 2>"$work/err"
status=$?
check "it succeeds (got $status)" '[ $status -eq 0 ]'
check "it kills the leader" 'grep -q "kill -9 of etcd" "$work/out" && grep -q "is started again" "$work/out"'
check "it counts the commits" 'grep -q "transfers were confirmed; the database has .* commits" "$work/out"'
check "it moves contents into the bucket" 'grep -q "^moved out of the KV  100 contents" "$work/out"'
check "it finds no damage" 'grep -q "no damage" "$work/out"'
check "it shows what was asked" 'grep -q "^  etcd  txn  *[0-9]" "$work/out" && grep -q "^  s3 " "$work/out"'
check "it reads pages from the cache file" 'awk "/^  s3 *get/ { n++; first = n == 1 ? \$3 : first; last = n == 2 ? \$3 : last } END { exit !(n >= 2 && first > 1 && last == 1) }" "$work/out"'
check "it leaves no process" '[ "$(left_over)" -eq 0 ]'
check "it leaves no file" '[ "$(echo "$work"/*)" = "$work/err $work/out" ]'

# Interrupted as from a terminal: the signal goes to everything in the foreground. A shell without job control has
# background commands ignore SIGINT, so TERM takes its place.
setsid sh "$root/examples/cluster.sh" 60 >"$work/out" 2>"$work/err" &
script=$!
waits=0
until grep -q 'accounts with' "$work/out" || [ $waits -ge 300 ]; do
	waits=$((waits + 1))
	sleep 0.1
done
sleep 1
check "it runs" '[ "$(left_over)" -ge 4 ]'
kill -TERM -$script
wait $script
status=$?
check "interrupted, it says so (got $status)" '[ $status -eq 143 ]'
check "interrupted, it leaves no process" '[ "$(left_over)" -eq 0 ]'
check "interrupted, it leaves no file" '[ "$(echo "$work"/*)" = "$work/err $work/out" ]'

sh "$root/examples/cluster.sh" soon >"$work/out" 2>"$work/err"
check "seconds are a number" '[ $? -eq 1 ] && grep -q "how many seconds" "$work/err"'
echo "$failures failed"
[ $failures -eq 0 ]
