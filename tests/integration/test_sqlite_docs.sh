#!/bin/sh
# test_sqlite_docs.sh: the programs in docs/sqlite.md work, against an installation
#
#   sh test_sqlite_docs.sh BUILD-DIRECTORY
#
# C by find_package() and by pkg-config; Python if there is one that can load extensions.
set -u

[ $# -eq 1 ] || { echo "usage: test_sqlite_docs.sh BUILD-DIRECTORY" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-docs.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
log=$work/log

fail() {
	tail -n 20 "$log"
	echo "FAILED: $*"
	exit 1
}

# block LANGUAGE: the block of that language that says it is a program, on a store of this test's
block() {
	awk -v open="\`\`\`$1" '/^<!-- a program/ { program = NR }
		$0 == open && program == NR - 1 { inside = 1; next } /^```/ { inside = 0 } inside' "$root/docs/sqlite.md" |
		sed -e "s|dir:/data|dir:$work/data|" -e "s|\./pagestore_sqlite|$extension|"
}

# balances EXPECTED WHAT
balances() {
	said=$(sqlite3 -batch -cmd ".load $extension" -cmd ".open 'file:bank?vfs=pagestore&store=dir:$work/data'" \
		:memory: 'SELECT group_concat(balance) FROM account' 2>>"$log")
	[ "$said" = "$1" ] || fail "$2: the balances are '$said', not $1"
	echo "passed: $2"
}

command -v sqlite3 >/dev/null || { echo "skipped: there is no sqlite3" >&2; exit 77; }
cmake --install "$1" --prefix "$work/first" >"$log" 2>&1 || fail "cmake --install"
mv "$work/first" "$work/moved"
extension=$(find "$work/moved" -name pagestore_sqlite.so)
block c >"$work/main.c"
[ -s "$work/main.c" ] || fail "there is no program in C"

cat >"$work/CMakeLists.txt" <<'TEXT'
cmake_minimum_required(VERSION 3.21)
project(consumer LANGUAGES C)
find_package(pagestore 0.1 REQUIRED COMPONENTS sqlite)
add_executable(consumer main.c)
target_link_libraries(consumer pagestore::sqlite)
TEXT
cmake -S "$work" -B "$work/build" -G Ninja "-DCMAKE_PREFIX_PATH=$work/moved" >>"$log" 2>&1 || fail "cannot be configured"
cmake --build "$work/build" >>"$log" 2>&1 || fail "cannot be built"
"$work/build/consumer" >>"$log" 2>&1 || fail "the program in C fails"
balances 90,110 "C, find_package"

PKG_CONFIG_PATH=$(dirname "$(find "$work/moved" -name pagestore-sqlite.pc)")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046 # lists of options
cc $(pkg-config --static --cflags pagestore-sqlite) "$work/main.c" -o "$work/by-pkg-config" \
	$(pkg-config --static --libs pagestore-sqlite) >>"$log" 2>&1 || fail "pkg-config: cannot be built"
"$work/by-pkg-config" >>"$log" 2>&1 || fail "the program in C, built with pkg-config, fails"
balances 80,120 "C, pkg-config"

for python in python3 /usr/bin/python3 none; do
	"$python" -c 'import sqlite3, sys
sys.exit(not hasattr(sqlite3.Connection, "enable_load_extension") or sys.version_info < (3, 11))' 2>/dev/null && break
done
if [ "$python" = none ]; then
	echo "skipped: there is no Python that can load extensions" >&2
	exit 77
fi
block python >"$work/program.py"
"$python" "$work/program.py" >"$work/said" 2>>"$log" || fail "the program in Python fails"
[ "$(cat "$work/said")" = '[(1, 80), (2, 120)] [(1, 70), (2, 130)]' ] || fail "the program in Python says $(cat "$work/said")"
balances 70,130 Python
