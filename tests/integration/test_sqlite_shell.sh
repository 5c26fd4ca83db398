#!/bin/sh
# test_sqlite_shell.sh: the loadable extension in the stock sqlite3
#
#   sh test_sqlite_shell.sh PAGESTORE_SQLITE.SO SCRIPT.SQL…
set -u

[ $# -ge 2 ] || { echo "usage: test_sqlite_shell.sh PAGESTORE_SQLITE.SO SCRIPT.SQL…" >&2; exit 2; }
command -v sqlite3 >/dev/null || { echo "skipped: there is no sqlite3" >&2; exit 77; }
extension=$1
shift
dir=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-sqlite.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
checks=0 failures=0
store=dir:$dir/store%3Fsync=off # as in URIs

# sql DATABASE: run standard input on a database of the store; PARAMETERS are added to its URI
sql() {
	sqlite3 -batch -cmd ".load $extension" -cmd ".open 'file:$1?vfs=pagestore&store=$store${2:-}'" 2>&1
}

# same WHAT EXPECTED ACTUAL
same() {
	checks=$((checks + 1))
	[ "$2" = "$3" ] && return
	failures=$((failures + 1))
	printf 'FAILED: %s: expected\n%s\nnot\n%s\n' "$1" "$2" "$3"
}

# Errors name the line of the input, which is not the same in both.
normal() {
	sed -e 's/^[A-Z][a-z]* error near line [0-9]*: /error: /' -e 's/^Runtime error/error/'
}

# --- what SQLite can do ---------------------------------------------------------

# script KIND SCRIPT: with the names of other databases of that KIND (native, or ours)
script() {
	case $1 in
	native) sed -e "s|@OTHER@|$dir/native-other|" -e "s|@PLAIN@|$dir/native-plain|" -e "s|@COPY@|$dir/native-copy|" \
		-e "s|@NATIVE@|$dir/native-vacuumed|" -e "s|@SELF@|$dir/native|" "$2" ;;
	ours) sed -e "s|@OTHER@|file:other?store=$store|" -e "s|@PLAIN@|file:$dir/plain?vfs=unix|" \
		-e "s|@COPY@|file:copy?store=$store|" -e "s|@NATIVE@|file:$dir/vacuumed?vfs=unix|" \
		-e "s|@SELF@|file:app?store=$store|" "$2" ;;
	esac
}

# as_native SCRIPT PRAGMAS: the same answers, and the same database afterwards
as_native() {
	checks=$((checks + 1))
	{ echo "pragma synchronous = off; $2"; script native "$1"; } | sqlite3 -batch "$dir/native" 2>&1 | normal >"$dir/expected"
	{ echo "pragma synchronous = off; $2"; script ours "$1"; } | sql app | normal >"$dir/actual"
	if ! diff "$dir/expected" "$dir/actual" >"$dir/diff"; then
		failures=$((failures + 1))
		echo "FAILED: ${1##*/} answers differently from a native database with $2"
		head -n 40 "$dir/diff"
	fi
	same "results of ${1##*/}" yes "$([ "$(wc -l <"$dir/actual")" -gt 100 ] && echo yes)"
	same "the same data with $2" "$(sqlite3 "$dir/native" .dump | grep -v sqlite_stat | cksum)" \
		"$(echo .dump | sql app | grep -v sqlite_stat | cksum)"
	rm -rf "$dir"/*
}

for script in "$@"; do
	as_native "$script" ""
	as_native "$script" "pragma page_size = 512; pragma auto_vacuum = full; pragma cache_size = 10;"
	as_native "$script" "pragma page_size = 1024; pragma encoding = 'UTF-16le'; pragma auto_vacuum = incremental;"
	as_native "$script" "pragma page_size = 2048; pragma encoding = 'UTF-16be'; pragma cache_size = 3;"
	as_native "$script" "pragma page_size = 8192; pragma temp_store = memory; pragma secure_delete = off;"
	as_native "$script" "pragma page_size = 16384; pragma auto_vacuum = incremental; pragma mmap_size = 0;"
	as_native "$script" "pragma page_size = 32768; pragma journal_mode = memory; pragma cache_size = 10;"
	as_native "$script" "pragma page_size = 65536; pragma auto_vacuum = full; pragma journal_mode = delete;"
done

# --- files, journals, page sizes ------------------------------------------------------

same "files beside the store" "" "$(find "$dir" -name '*-journal' -o -name '*-wal' -o -name '*-shm' -o -name '*-mj*')"
for size in 512 1024 2048 4096 8192 16384 32768 65536; do
	same "page size $size" "$size
1000|500500
ok" "$(echo "pragma page_size = $size; create table t(a); insert into t select value from generate_series(1, 1000);
		pragma page_size; select count(*), sum(a) from t; pragma integrity_check;" | sql "size$size")"
	same "page size $size, read again" "1000|500500" "$(echo "select count(*), sum(a) from t;" | sql "size$size")"
done

# --- the backup API, both ways -----------------------------------------------------------

printf 'create table b(x); insert into b values (1), (2), (3);\n.backup %s/backup\n' "$dir" | sql from
same "backup out" "3|6" "$(sqlite3 "$dir/backup" 'select count(*), sum(x) from b')"
sqlite3 "$dir/wal" "pragma journal_mode=wal; create table w(x); insert into w values (7)" >/dev/null
printf '.restore %s/backup\nselect sum(x) from b;\n' "$dir" | sql into >"$dir/out"
same "backup in" "6" "$(cat "$dir/out")"
same "backup in, read again" "6
ok" "$(echo 'select sum(x) from b; pragma integrity_check;' | sql into)"
printf '.restore %s/wal\nselect * from w;\n' "$dir" | sql fromwal >"$dir/out"
same "backup of a WAL database" "7" "$(echo 'select * from w;' | sql fromwal)"

# --- the shell's own ways to copy ---------------------------------------------------------

echo "create table d(a, b); insert into d select value, 'x' || value from generate_series(1, 2000); create index di on d(b);" |
	sql dumped
echo .dump | sql dumped >"$dir/dump"
sql read <"$dir/dump"
same "dumped and read" "$(echo .sha3sum | sql dumped)" "$(echo .sha3sum | sql read)"
printf '.clone %s/clone\n' "$dir" | sql dumped >/dev/null
same "cloned" "$(echo .sha3sum | sql dumped)" "$(sqlite3 "$dir/clone" .sha3sum)"

# --- what is refused ---------------------------------------------------------------------

same "WAL" yes "$(echo 'pragma journal_mode = wal;' | sql from | grep -q 'journal_mode=WAL is not possible' && echo yes)"
same "journal_mode OFF" yes "$(echo 'pragma journal_mode = off;' | sql from | grep -q 'OFF is not possible' && echo yes)"
same "EXCLUSIVE" yes "$(echo 'pragma locking_mode = exclusive;' | sql from | grep -q 'EXCLUSIVE is not possible' && echo yes)"
for mode in delete truncate persist memory; do
	same "journal_mode $mode" "$mode
ok" "$(echo "pragma journal_mode = $mode; begin; delete from b; rollback; pragma integrity_check;" | sql from)"
done
same "no store" yes "$(sqlite3 -batch -cmd ".load $extension" -cmd ".open 'file:x?vfs=pagestore'" -cmd .exit 2>&1 |
	grep -q 'unable to open' && echo yes)"
same "the store from the environment" 3 "$(PAGESTORE_URL="dir:$dir/store" sqlite3 -batch -cmd ".load $extension" \
	-cmd ".open 'file:from?vfs=pagestore'" -cmd 'select count(*) from b' -cmd .exit 2>&1)"

# --- time travel ------------------------------------------------------------------------------

revision=$(echo 'pragma pagestore_revision;' | sql from)
echo 'pragma pagestore_snapshot = before; delete from b; insert into b values (9);' | sql from >/dev/null
same "now" 9 "$(echo 'select group_concat(x) from b;' | sql from)"
same "at a revision" 1,2,3 "$(echo 'select group_concat(x) from b;' | sql from "&at=$revision")"
same "at a snapshot" 1,2,3 "$(echo 'select group_concat(x) from b;' | sql from '&at=@before')"
same "at a time" 9 "$(echo 'select group_concat(x) from b;' | sql from '&at=2199-01-01T00:00:00Z')"
same "the past is read only" yes "$(echo 'delete from b;' | sql from "&at=$revision" | grep -q readonly && echo yes)"
same "no such time" yes "$(echo 'select 1 from b;' | sql from '&at=1999-01-01T00:00:00Z' | grep -q rror && echo yes)"
same "no such snapshot" yes "$(echo 'select 1 from b;' | sql from '&at=@none' | grep -q rror && echo yes)"
same "a bad at" yes "$(echo 'select 1 from b;' | sql from '&at=yesterday' | grep -q 'unable to open' && echo yes)"
same "snapshots" before "$(echo 'pragma pagestore_snapshots;' | sql from | cut -d ' ' -f 1)"
same "log" yes "$(echo 'pragma pagestore_log;' | sql from | grep -q ' pages$' && echo yes)"
same "stat" yes "$(echo 'pragma pagestore_stat;' | sql from | grep -q '^commits ' && echo yes)"
same "drop" "before" "$(echo 'pragma pagestore_snapshot_drop = before; pragma pagestore_snapshots;' | sql from)"

# --- the extension ---------------------------------------------------------------------------------

if command -v nm >/dev/null; then
	same "exported symbols" sqlite3_pagestoresqlite_init "$(nm -D --defined-only "$extension" | awk '{ print $3 }')"
fi
same "it stays after the connection that loaded it" 9 "$(sqlite3 -batch -cmd ".load $extension" -cmd '.open :memory:' \
	-cmd ".open 'file:from?vfs=pagestore&store=$store'" -cmd 'select x from b' -cmd .exit 2>&1)"

echo "$checks checks, $failures failed"
[ $failures -eq 0 ]
