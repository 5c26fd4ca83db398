#!/bin/sh
# test_cli.sh: the command-line tool, from outside
#
#   sh test_cli.sh PAGESTORE
#
# Each check says what it checks; the first few lines of what went wrong follow a
# failed one. Exit status: 0 when all passed, 77 when it cannot run here.
# shellcheck disable=SC2016 # check() evaluates its second argument
set -u

[ $# -eq 1 ] || { echo "usage: test_cli.sh PAGESTORE" >&2; exit 2; }
case $1 in
/*) tool=$1 ;;
*) tool=$PWD/$1 ;;
esac
command -v sqlite3 >/dev/null || { echo "skipped: there is no sqlite3" >&2; exit 77; }

work=$(mktemp -d "${TMPDIR:-/tmp}/pagestore-cli.XXXXXX") || exit 1
trap 'chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work" || exit 1
unset PAGESTORE_URL
export LC_ALL=C TZ=UTC TERM=dumb
url="dir:$work/store?sync=off"
passed=0 failures=0

# --- checking ------------------------------------------------------------

pass() {
	passed=$((passed + 1))
}

not_ok() {
	failures=$((failures + 1))
	printf 'FAILED: %s\n' "$1"
	head -n 5 out err 2>/dev/null | sed 's/^/    /'
}

check() {
	if eval "$2"; then pass; else not_ok "$1"; fi
}

# Run the tool on the store: its exit status in $status, its output in the files out and err.
call() {
	"$tool" -s "$url" "$@" >out 2>err
	status=$?
}

ok() {
	call "$@"
	check "pagestore $* succeeds (got $status)" '[ $status -eq 0 ]'
	check "pagestore $* says nothing on stderr" '[ ! -s err ]'
}

# fails STATUS TEXT ARGUMENTS…: with that exit status, TEXT in the message, nothing on stdout
fails() {
	wanted=$1 text=$2
	shift 2
	call "$@"
	check "pagestore $* exits with $wanted (got $status)" '[ $status -eq $wanted ]'
	check "pagestore $* says \"$text\"" 'grep -qF -e "$text" err'
	check "pagestore $* prints nothing on stdout" '[ ! -s out ]'
}

# A fact of the JSON in `out`: fact '$.revision'
fact() {
	sqlite3 :memory: "SELECT json_extract(CAST(readfile('out') AS TEXT), '$1')"
}

is_json() {
	check "$1 prints valid JSON" \
		'[ "$(sqlite3 :memory: "SELECT json_valid(CAST(readfile('"'out'"') AS TEXT))")" = 1 ]'
}

# random SIZE [SEED]: that many bytes, the same each time
random() {
	awk -v size="$1" -v seed="${2:-1}" 'BEGIN { srand(seed); for (i = 0; i < size; i++) printf "%c", 33 + int(rand() * 90) }'
}

# --- the tests -----------------------------------------------------------

test_help() {
	"$tool" --version >out 2>err
	check "--version prints a version" 'grep -q "^pagestore [0-9]" out'
	for arguments in --help -h help; do
		"$tool" $arguments >out 2>err
		check "$arguments exits with 0" '[ $? -eq 0 ]'
		for command in create list drop import export log diff stat verify maintain levels; do
			check "$arguments names $command" 'grep -q "^  $command " out'
			"$tool" help $command >command_out 2>err
			check "help $command shows its usage" 'grep -q "^usage: pagestore .* $command" command_out'
		done
	done
	for command in create list drop; do
		"$tool" help snapshot $command >out 2>err
		check "help snapshot $command shows its usage" 'grep -q "^usage: pagestore .* snapshot $command DB" out'
		"$tool" snapshot $command --help >command_out 2>err
		check "snapshot $command --help shows the same" 'cmp out command_out >err 2>&1'
	done
	for arguments in 'help snapshot' 'snapshot --help'; do
		# shellcheck disable=SC2086 # words
		"$tool" $arguments >out 2>err
		check "$arguments shows all of them" '[ $? -eq 0 ] && [ "$(grep -c "^usage: pagestore .* snapshot" out)" = 3 ]'
	done
	"$tool" import --help >out 2>err
	check "import --help shows its options" 'grep -q -e --page-size out && grep -q -e --note out'
}

test_usage_errors() {
	"$tool" >out 2>err
	check "no command exits with 2" '[ $? -eq 2 ] && [ ! -s out ] && grep -q usage err'
	"$tool" list >out 2>err
	check "no URL exits with 2" '[ $? -eq 2 ] && grep -q PAGESTORE_URL err && grep -q "dir:" err'
	"$tool" -s '' list >out 2>err
	check "an empty URL exits with 2" '[ $? -eq 2 ] && grep -q PAGESTORE_URL err'
	fails 2 'unknown command' frobnicate
	fails 2 'unknown command' help frobnicate
	fails 2 'unknown option "--frob"' list --frob
	fails 2 'unknown option "-x"' list -x
	fails 2 'needs a value' import db f --note
	fails 2 'takes no value' list --json=yes
	fails 2 'takes no option --note' list --note x
	fails 2 'takes no option --at' import db f --at 3
	fails 2 'one operand too many' list db
	fails 2 'one operand too many' create db other
	fails 2 'one operand too many' diff db 1 2 3
	fails 2 'needs 1 operand' create
	fails 2 'needs 2 operands' import db
	fails 2 'needs 3 operands' diff db 1
	fails 2 'is not a page size' create db --page-size 1000
	fails 2 'is not a page size' create db --page-size 256
	fails 2 'is not a page size' create db --page-size 131072
	fails 2 'is not a page size' import db f --page-size 4k
	fails 2 'is not a page size' create db --page-size -1
	fails 2 'is not a revision' export db f --at 0
	fails 2 'is not a revision' export db f --at five
	fails 2 'is not a revision' export db f --at 99999999999999999999
	fails 2 'is not a revision' diff db 1 x
	fails 2 'is not a time' export db f --time yesterday
	fails 2 'needs 1 operand' levels
	fails 2 'one operand too many' maintain db other
	fails 2 'is not a retention' maintain --retention 0
	fails 2 'is not a retention' maintain db --retention soon
	fails 2 'takes no option --all' levels db --all
	fails 2 'is not a time' export db f --time 2026-02-30
	fails 2 'is not a time' export db f --time 2026-01-31T25:00
	fails 2 'not both' export db f --at 3 --time 2026-01-31
	fails 2 'not both' export db f --at 3 --snapshot x
	fails 2 'not both' snapshot create db x --at 3 --time 2026-01-31
	fails 2 'needs to be told what to do' snapshot
	fails 2 'unknown command "make" of snapshot' snapshot make db
	fails 2 'unknown command "make" of snapshot' help snapshot make
	fails 2 'snapshot create needs 2 operands' snapshot create db
	fails 2 'snapshot list needs 1 operand' snapshot list
	fails 2 'snapshot drop needs 2 operands' snapshot drop db
	fails 2 'one operand too many' snapshot list db x
	fails 2 'takes no option --at' snapshot drop db x --at 3
	fails 2 'is not a revision' snapshot create db x --at zero
	fails 2 'is not a time' snapshot create db x --time yesterday
	fails 2 'snapshot'"'"'s name' snapshot create db ''
	fails 2 'snapshot'"'"'s name' snapshot drop db "$(random 256)"
	fails 2 'snapshot'"'"'s name' export db f --snapshot ''
	fails 2 'snapshot'"'"'s name' diff db 1 @
	fails 2 'no room' export db - --json
	fails 2 'from 1 on' log db -n 0
	fails 2 'from 1 on' log db -n many
	fails 2 'database'"'"'s name' create ''
	fails 2 'database'"'"'s name' create "$(random 256)"
	fails 2 'the note has' import db f --note "$(random 4097)"
	check "usage errors make no store" '[ ! -e store ]'
}

# What a command asked of the backends, on stderr: the facts stay as they are, also of one that fails.
test_stats_option() {
	call create counted --stats
	check "--stats shows changes and reads" \
		'[ $status -eq 0 ] && grep -q "^  local   txn " err && grep -q "^  local   read " err'
	check "--stats has a header" 'grep -q "^  backend .*requests .*failed .*p99" err'
	check "--stats leaves stdout alone" '[ "$(wc -l <out)" -eq 1 ] && grep -q "^created" out'
	call list --json --stats
	check "--stats goes with --json" '[ $status -eq 0 ] && grep -q "^  local   read " err'
	is_json 'list --stats'
	call create counted --stats
	check "--stats of a failure" '[ $status -eq 1 ] && grep -q counted err && grep -q "^  local   read " err'
	ok drop counted
	"$tool" -s "dir:$work/nowhere" list --stats >out 2>err
	check "--stats without a store" '[ $? -eq 1 ] && ! grep -q "p99" err'
}

test_missing_store() {
	fails 1 'store' list
	check "the message names the store" 'grep -qF "$work/store" err'
	fails 1 'store' log db
	fails 1 'store' drop db
	check "looking makes no store" '[ ! -e store ]'
	"$tool" -s "$url&cache=$work/pages" list >out 2>err
	check "a cache in the URL is not taken for what is missing" '[ $? -eq 1 ] && grep -q "make a new store" err'
	"$tool" -s "dir:$work/no/such/store" create db >out 2>err
	check "a store in no directory fails" '[ $? -eq 1 ] && grep -q "no/such" err'
	"$tool" -s "nonsense:" create db >out 2>err
	check "a URL of no backend fails" '[ $? -eq 1 ] && grep -q "dir:" err'
	"$tool" -s "etcd://127.0.0.1:1/shop" create db >out 2>err
	check "an etcd without blobs fails" '[ $? -eq 1 ] && grep -qE "blob=s3://BUCKET|built without" err'
}

test_databases() {
	ok create first
	check "create says what it made" 'grep -q "4096" out && grep -q first out'
	ok create second --page-size 512 --json
	is_json create
	check "create --json has the page size" '[ "$(fact "\$.page_size_bytes")" = 512 ]'
	ok --page-size=65536 create third
	fails 1 'first' create first
	check "a name that is taken: the hint says drop" 'grep -q drop err'
	ok create 'a name with spaces'
	ok create -- --json
	ok create 'größe ☃'
	ok create "$(printf 'tab\there')"
	ok create "$(printf 'not\377utf8')"
	ok list
	cat >wanted <<'LIST'
--json
a name with spaces
first
größe ☃
not\xffutf8
second
tab\x09here
third
LIST
	check "list prints the names in order, escaped" 'diff wanted out >err'
	ok list --json
	is_json list
	check "list --json has them" '[ "$(fact "\$.databases[3]")" = "größe ☃" ] && [ "$(fact "\$.databases[7]")" = third ]'
	ok drop first
	ok drop second --json
	is_json drop
	ok list
	check "dropped databases are gone" '! grep -q -e first -e second out'
	fails 1 first drop first
	check "an unknown database: the hint says list" 'grep -q "pagestore list" err'
	fails 1 first stat first
	fails 1 first log first
	fails 1 first verify first
	fails 1 first diff first 1 2
	fails 1 first export first f
	ok create first --page-size 1024
	ok stat first --json
	check "a name can be used again" '[ "$(fact "\$.page_size_bytes")" = 1024 ]'
	ok log first
	check "log of an empty database says so" 'grep -q "no commits" out'
	ok export first empty
	check "an empty database exports as an empty file" '[ -e empty ] && [ ! -s empty ]'
}

# import FILE into $db, keeping a copy by revision
keep() {
	ok import "$db" "$1" --json
	is_json import
	revision=$(fact '$.revision')
	cp "$1" "kept.$db.$revision"
	check "$1 is a new revision" '[ "$(fact "\$.changed")" = 1 ]'
	size=$(wc -c <"$1")
	check "the size of $1 is reported" '[ "$(fact "\$.file_bytes")" -eq $size ]'
}

# Every kept version comes back as it was.
compare_kept() {
	for kept in kept."$db".*; do
		ok export "$db" exported --at "${kept##*.}"
		check "$kept comes back byte for byte" 'cmp "$kept" exported >err 2>&1'
	done
}

test_sizes() {
	for size in 0 1 511 512 513 4095 4096 4097 65536 300001; do
		db=size$size
		random $size >file
		keep file
		ok export $db exported
		check "$size bytes come back" 'cmp file exported >err 2>&1'
	done
	db=odd
	for size in 10000 4097 4096 4095 1 0 1 8192 8191 100000 3; do
		random $size $size >file
		keep file
	done
	compare_kept
	for page_size in 512 65536; do
		db=pages$page_size
		random 200000 >file
		ok import $db file --page-size $page_size --json
		check "--page-size $page_size is used" '[ "$(fact "\$.page_size_bytes")" = $page_size ]'
		cp file "kept.$db.$(fact '$.revision')"
		random 100 >>file
		keep file
		random 1000 2 >file
		keep file
		compare_kept
	done
	head -c 20000 /dev/zero >zeros
	ok import zeros zeros
	ok export zeros exported
	check "zeros come back" 'cmp zeros exported >err 2>&1'
}

test_import() {
	random 50000 >file
	ok import imp file --note 'the first'
	check "import makes the database and says what it cost" 'grep -q "13 of 13 pages" out && grep -q "in the KV" out'
	ok import imp file
	check "the same again: unchanged" 'grep -q unchanged out'
	ok import imp file --json
	is_json import
	check "the same again, as JSON" '[ "$(fact "\$.changed")" = 0 ] && [ "$(fact "\$.pages_written")" = 0 ]'
	printf 'X' | dd of=file bs=1 seek=20000 conv=notrunc 2>/dev/null
	ok import imp file --json
	check "one byte changes one page" '[ "$(fact "\$.pages_written")" = 1 ]'
	check "which costs far less than the page" '[ "$(fact "\$.kv_bytes")" -lt 1500 ] && [ "$(fact "\$.blob_bytes")" = 0 ]'
	ok import imp file --page-size 4096
	fails 1 '--page-size says 8192' import imp file --page-size 8192
	fails 1 'No such file' import imp no-such-file
	fails 1 'no-such-file' import new no-such-file
	fails 1 'is a directory' import imp .
	"$tool" -s "$url" import piped - <file >out 2>err
	check "import from stdin, a file" '[ $? -eq 0 ]'
	# shellcheck disable=SC2002 # a pipe is what is tested
	cat file | "$tool" -s "$url" import piped - >out 2>err
	check "import from stdin, a pipe" '[ $? -eq 0 ] && grep -q unchanged out'
	"$tool" -s "$url" export piped - >exported 2>err
	check "export to stdout" '[ $? -eq 0 ] && cmp file exported'
	(read -r _; "$tool" -s "$url" import rest -) <<'LINES' >out 2>err
the first line
the rest
LINES
	ok export rest exported
	check "stdin is read from where it stands" '[ "$(cat exported)" = "the rest" ]'
	mkfifo fifo
	cat file >fifo &
	ok import piped fifo
	check "import from a named pipe" 'grep -q unchanged out'
	ok list
	check "failed imports leave no database" '! grep -qx new out'
	if [ "$(id -u)" -ne 0 ]; then
		chmod 0 file
		fails 1 'Permission denied' import imp file
		chmod 600 file
	fi
}

test_sqlite() {
	for page_size in 512 1024 4096 65536; do
		rm -f s.db
		db=sqlite$page_size
		sqlite3 s.db "PRAGMA page_size=$page_size; CREATE TABLE t(a INTEGER PRIMARY KEY, b);
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) INSERT INTO t SELECT i, hex(i) FROM n"
		keep s.db
		check "the header's page size $page_size is used" '[ "$(fact "\$.page_size_bytes")" = $page_size ]'
		sqlite3 s.db "UPDATE t SET b = 'x' WHERE a = 1500"
		keep s.db
		sqlite3 s.db "DELETE FROM t WHERE a > 1000; VACUUM"
		keep s.db
		compare_kept
		check "integrity_check of the last" '[ "$(sqlite3 exported "PRAGMA integrity_check")" = ok ]'
	done
	fails 1 'its SQLite header says 65536' import another s.db --page-size 4096
	fails 1 "the SQLite file's 65536" import sqlite4096 s.db
	check "the message says what to do" 'grep -q "page_size=N; VACUUM" err'
	ok list
	check "a refused import makes no database" '! grep -qx another out'
	sqlite3 wal.db "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES (1)" >/dev/null
	printf 'not empty' >wal.db-wal
	call import wal wal.db
	check "a write-ahead log makes a warning" '[ $status -eq 0 ] && grep -q wal_checkpoint err'
	rm -f wal.db-wal
	ok import wal wal.db
	printf 'left over' >exported-journal
	call export wal exported
	check "a journal beside the target makes a warning" '[ $status -eq 0 ] && grep -q "exported\" has a -journal file" err'
	rm -f exported-journal
}

test_export() {
	db=exp
	random 20000 1 >file
	keep file
	first=$revision first_time=$(date +%s)
	sleep 2.1
	random 20000 2 >file
	keep file
	second=$revision
	fails 1 'exp' export exp f --at $((second + 1000))
	check "the hint says log" 'grep -q "pagestore log" err'
	fails 1 'exp' export exp f --time 2001-01-01
	check "the hint says log" 'grep -q "pagestore log" err'
	check "a failed export leaves nothing" '[ ! -e f ]'
	ok export exp f --time 2100-01-01T00:00:00Z
	check "a time to come gives the newest" 'cmp f "kept.exp.$second"'
	ok export exp f --time "$first_time"
	check "a Unix time gives the version of then" 'cmp f "kept.exp.$first"'
	ok export exp f --time "$(date -u -d "@$first_time" +%Y-%m-%dT%H:%M:%SZ)"
	check "an ISO time, UTC" 'cmp f "kept.exp.$first"'
	ok export exp f --time "$(date -u -d "@$first_time" '+%Y-%m-%d %H:%M:%S')"
	check "an ISO time, local" 'cmp f "kept.exp.$first"'
	ok export exp f --time "$(date -u -d "@$((first_time + 3600))" +%Y-%m-%dT%H:%M:%S+01:00)"
	check "an ISO time, with an offset" 'cmp f "kept.exp.$first"'
	ok export exp f --time "$(date -u -d "@$((first_time + 86400))" +%Y-%m-%d)"
	check "a date, to its end" 'cmp f "kept.exp.$second"'
	logged=$("$tool" -s "$url" log exp | awk -v r="$first" '$1 == r { print $2 " " $3 }')
	ok export exp f --time "$logged"
	check "the time that log prints finds its commit" 'cmp f "kept.exp.$first"'
	ok export exp f --json --at "$first"
	is_json export
	check "export --json has the revision" '[ "$(fact "\$.revision")" = $first ] && [ "$(fact "\$.file_bytes")" = 20000 ]'
	chmod 640 f
	ln -sf f link
	ok export exp link
	check "an existing target keeps its permissions, a link its place" \
		'[ -L link ] && [ "$(stat -c %a f)" = 640 ] && cmp f "kept.exp.$second"'
	fails 1 'is a directory' export exp .
	fails 1 'no/such' export exp no/such/file
	ok export exp /dev/null
	if [ -e /dev/full ]; then
		"$tool" -s "$url" export exp - >/dev/full 2>err
		check "a full disk fails" '[ $? -eq 1 ] && grep -q "No space" err'
		"$tool" -s "$url" log exp >/dev/full 2>err
		check "a full stdout fails" '[ $? -eq 1 ] && grep -q stdout err'
	fi
	if [ "$(id -u)" -ne 0 ]; then
		mkdir -p locked && chmod 500 locked
		fails 1 'Permission denied' export exp locked/f
	fi
	check "no temporary files are left" '! ls | grep -q "^f\.\|^link\.\|^exported\."'
}

test_history() {
	random 40960 1 >file
	ok import hist file --note "$(printf 'the "first"\n\033[31m')"
	printf 'AAAA' | dd of=file bs=4096 seek=2 conv=notrunc 2>/dev/null
	printf 'AAAA' | dd of=file bs=4096 seek=3 conv=notrunc 2>/dev/null
	printf 'AAAA' | dd of=file bs=4096 seek=7 conv=notrunc 2>/dev/null
	ok import hist file --note 'the second'
	head -c 4096 file >short
	ok import hist short --note 'größe'
	ok log hist
	check "log prints a header and the commits, newest first" \
		'[ "$(wc -l <out)" -eq 4 ] && sed -n 2p out | grep -q größe && sed -n 3p out | grep -q "the second"'
	check "log escapes what a terminal would act on" 'grep -qF "the \"first\"\\x0a\\x1b[31m" out'
	check "log marks a file that became shorter" 'sed -n 2p out | grep -q "cut to 1 page"'
	ok log -n 1 hist
	check "log -n 1 shows one" '[ "$(wc -l <out)" -eq 2 ] && grep -q größe out'
	ok log hist --json
	is_json log
	check "log --json has the notes" '[ "$(fact "\$.commits[1].note")" = "the second" ] && [ "$(fact "\$.commits[1].pages_written")" = 3 ]'
	check "log --json has every byte of a note" '[ "$(fact "\$.commits[2].note")" = "$(printf "the \"first\"\n\033[31m")" ]'
	third=$(fact '$.commits[0].revision') second=$(fact '$.commits[1].revision') first=$(fact '$.commits[2].revision')
	ok diff hist "$first" "$second"
	check "diff prints ranges and how many" 'grep -q "^2-3 7\$" out && grep -q "^3 pages differ" out'
	ok diff hist "$second" "$first" --json
	is_json diff
	check "diff --json has ranges" '[ "$(fact "\$.ranges")" = "[[2,3],[7,7]]" ] && [ "$(fact "\$.pages_differing")" = 3 ]'
	ok diff hist "$second" "$third"
	check "diff of a truncation" 'grep -q "^1-9\$" out'
	ok diff hist "$first" "$first"
	check "diff of a revision with itself" 'grep -q "^0 pages differ" out'
	fails 1 'hist' diff hist "$first" 999999
	ok stat hist
	check "stat prints units" 'grep -q "4.0 KiB" out && grep -q "after 3 commits" out'
	check "stat shows what it asked" 'grep -q "^  local   read  .* us .* [um]*s$" out'
	check "stat shows nothing that it did not ask" '! grep -q "^  local   txn" out'
	ok stat hist --json
	is_json stat
	check "stat --json shows what it asked" \
		'[ "$(fact "\$.operations[0].backend")" = local ] && [ "$(fact "\$.operations[0].operation")" = read ] &&
			[ "$(fact "\$.operations[0].requests")" -gt 0 ] && [ "$(fact "\$.operations[0].failures")" = 0 ] &&
			[ "$(fact "\$.operations[0].p50_us")" -le "$(fact "\$.operations[0].max_us")" ]'
	check "stat --json" '[ "$(fact "\$.commit_count")" = 3 ] && [ "$(fact "\$.page_count")" = 1 ] && [ "$(fact "\$.revision")" = $third ]'
	ok verify hist
	check "verify finds nothing" 'grep -q "no damage" out'
	ok verify hist --json
	is_json verify
	check "verify --json" '[ "$(fact "\$.findings_count")" = 0 ] && [ "$(fact "\$.findings")" = "[]" ] && [ "$(fact "\$.contents_checked")" -gt 0 ]'
}

# A blob that was damaged is found, named, and makes the exit status 1.
test_snapshots() {
	ok create snap
	ok snapshot list snap
	check "no snapshots: says so" 'grep -q "^no snapshots" out'
	ok snapshot create snap empty
	random 40000 >one
	ok import snap one --json
	first=$(fact '$.revision')
	ok snapshot create snap 'before the change' --json
	is_json 'snapshot create'
	check "snapshot create --json has the facts" '[ "$(fact "\$.revision")" = "$first" ] && [ "$(fact "\$.page_count")" = 10 ]'
	cp one two
	printf 'XY' | dd of=two bs=1 seek=8191 conv=notrunc 2>/dev/null
	printf 'more' >>two
	ok import snap two
	ok snapshot create snap second
	check "snapshot create says what it kept" 'grep -q "kept revision" out && grep -q "10 pages" out'
	ok snapshot create snap again --at "$first"
	ok snapshot create snap now --time 2200-01-01
	fails 1 'has a snapshot second already' snapshot create snap second
	check "a name that is taken: the hint says drop" 'grep -q "snapshot drop" err'
	fails 1 'no commit' snapshot create snap old --time 1980-01-01
	fails 1 'above the store' snapshot create snap old --at 999999
	ok snapshot list snap
	check "snapshot list has a line each, in the order of names" \
		'[ "$(wc -l <out)" -eq 6 ] && sed -n 2p out | grep -q "again\$" && sed -n 3p out | grep -q "before the change\$"'
	ok snapshot list snap --json
	is_json 'snapshot list'
	check "snapshot list --json has them" '[ "$(fact "\$.snapshots[1].name")" = "before the change" ] &&
		[ "$(fact "\$.snapshots[1].revision")" = "$first" ] && [ "$(fact "\$.snapshots[2].page_count")" = 0 ]'
	ok export snap exported --snapshot 'before the change'
	check "export --snapshot is what was kept" 'cmp one exported >err 2>&1'
	ok export snap exported --snapshot second --json
	check "export --snapshot of another" 'cmp two exported >err 2>&1'
	ok export snap exported --snapshot empty
	check "export --snapshot of an empty one" '[ ! -s exported ]'
	ok diff snap '@before the change' @second
	check "diff of two snapshots" 'grep -q "^1-2 9\$" out && grep -q "^3 pages differ between @before the change and @second" out'
	ok diff snap "$first" @second --json
	is_json diff
	check "diff of a revision and a snapshot" '[ "$(fact "\$.from_revision")" = "$first" ] &&
		[ "$(fact "\$.to_snapshot")" = second ] && [ "$(fact "\$.ranges")" = "[[1,2],[9,9]]" ]'
	ok diff snap @again "$first"
	check "diff of a snapshot and its revision" 'grep -q "^0 pages differ" out'
	fails 1 'no snapshot nothing' export snap exported --snapshot nothing
	check "the hint says snapshot list" 'grep -q "snapshot list" err'
	fails 1 'no snapshot nothing' diff snap @nothing @second
	fails 1 'no snapshot nothing' snapshot drop snap nothing
	ok snapshot drop snap 'before the change'
	ok snapshot drop snap again --json
	is_json 'snapshot drop'
	fails 1 'no snapshot again' export snap exported --snapshot again
	ok snapshot list snap
	check "dropped snapshots are gone" '[ "$(wc -l <out)" -eq 4 ] && ! grep -q again out'
	fails 1 nowhere snapshot list nowhere
}

test_damage() {
	url="dir:$work/damaged?sync=off"
	# Bytes that do not compress, enough for a sorted file.
	awk 'BEGIN { srand(7); for (i = 0; i < 400000; i++) printf "%08x", int(rand() * 4294967295) }' >file
	ok import db file
	ok verify db
	blob=$(find damaged -type f ! -name '*.mdb' -size +500k | head -n 1)
	check "a large import makes a blob" '[ -n "$blob" ]'
	[ -n "$blob" ] || return
	chmod u+w "$blob"
	size=$(wc -c <"$blob")
	printf 'damage' | dd of="$blob" bs=1 seek=$((size - 1000)) conv=notrunc 2>/dev/null
	call verify db
	check "verify finds the damage (exit $status)" '[ $status -eq 1 ] && grep -q ECORRUPT err && grep -q "finding" out'
	call verify db --json
	is_json "verify --json of damage"
	check "verify --json lists it" '[ $status -eq 1 ] && [ "$(fact "\$.findings_count")" -ge 1 ] && [ "$(fact "\$.findings[0].code")" = PGS_ECORRUPT ]'
	check "and what to do" '[ "$(fact "\$.findings[0].hint")" != "" ] && grep -q backup err'
	call verify db --deep
	check "verify --deep finds page and copy" '[ $status -eq 1 ] && [ "$(grep -c "^PGS_ECORRUPT" err)" -eq 2 ] && grep -q "2 findings" out'
	call export db damaged.out
	check "export of damage fails and writes nothing" '[ $status -eq 1 ] && [ ! -s out ] && [ ! -e damaged.out ]'
	url="dir:$work/store?sync=off"
}

# Imports into one database at the same time: each is whole, one after the other.
test_concurrent() {
	db=conc
	random 100000 >base
	ok import $db base
	for i in 1 2 3 4; do
		{ head -c $((i * 20000)) base && random $((i * 3000)) $i && tail -c 5000 base; } >"conc.$i"
		"$tool" -s "$url" import $db "conc.$i" --note "conc.$i" >"conc.out.$i" 2>&1 &
	done
	wait
	check "all of them succeed" '! grep -L "revision" conc.out.? | grep -q .'
	"$tool" -s "$url" log $db | awk '$NF ~ /^conc/ { print $1, $NF }' >commits
	check "all of them are in the log" '[ "$(wc -l <commits)" -eq 4 ]'
	while read -r revision file; do
		ok export $db exported --at "$revision"
		check "revision $revision is $file, whole" 'cmp "$file" exported >err 2>&1'
	done <commits
}

test_changing_file() {
	head -c 20000000 /dev/zero >growing
	(while [ -e growing ]; do printf x >>growing; done) 2>/dev/null &
	writer=$!
	fails 1 'changed while it was being read' import growing growing
	check "the message says what to do" 'grep -q "VACUUM INTO" err'
	rm -f growing
	kill $writer 2>/dev/null
	wait $writer 2>/dev/null
	rm -f growing
	ok list
	check "nothing is left of it" '! grep -q growing out'
}

test_maintain() {
	random 409600 7 >file
	ok import kept file
	random 4096 8 | dd of=file bs=4096 seek=2 conv=notrunc 2>/dev/null
	ok import kept file
	ok log kept --json
	old=$(fact '$.commits[1].revision')
	ok stat kept
	check "stat tells of level 0, what waits, and pressure" \
		'grep -q "in level 0" out && grep -q "wait to be removed" out && grep -q "^pressure " out'
	ok levels kept
	check "levels of a database without files says so" 'grep -q "no sorted files" out'
	ok maintain kept --dry-run --all
	check "a dry run says what is due" 'grep -q "^due .* contents to move" out'
	ok stat kept --json
	check "and does none of it" '[ "$(fact "\$.kv_content_count")" = 101 ] && [ "$(fact "\$.file_count")" = 0 ]'
	ok maintain kept
	check "below the thresholds nothing is moved" '! grep -q "moved" out'
	ok export kept old.out --at "$old"
	ok maintain kept --all --json
	is_json maintain
	check "maintain --all moves everything" \
		'[ "$(fact "\$.flushed_pages")" = 101 ] && [ "$(fact "\$.more")" = 0 ] && [ "$(fact "\$.due_flush_pages")" = 0 ]'
	ok stat kept --json
	check "stat sees it" '[ "$(fact "\$.kv_content_count")" = 0 ] && [ "$(fact "\$.file_count")" = 1 ]'
	ok export kept old.out --at "$old"
	check "history within the retention is still there" '! cmp -s file old.out'
	ok levels kept --live
	check "levels draws one line" '[ "$(grep -c "|1*|" out)" = 1 ] && grep -q " 100 % " out'
	ok levels kept --json
	is_json levels
	check "levels --json has the file" \
		'[ "$(fact "\$.files[0].content_count")" = 101 ] && [ "$(fact "\$.files[1]")" = "" ]'
	ok maintain kept --all --retention none
	check "without retention garbage is dropped" 'grep -q "^dropped .* 1 content" out'
	fails 1 'is gone' export kept old.out --at "$old"
	ok export kept new.out
	check "the newest version is what it was" 'cmp -s file new.out'
	ok verify kept
	check "and verifies" 'grep -q "no damage" out'
	ok verify kept --deep
	check "verify --deep counts copies" 'grep -q "copies in 1 file and the KV" out && grep -q "no damage" out'
	folder=$(find store -name "s-*" | head -n 1)
	folder=${folder%/*}
	echo stranger >"$folder/stranger"
	ok verify kept --deep
	check "a note is no damage" 'grep -q "no damage, 1 note" out && grep -q "^note: blob .*stranger" out'
	ok verify kept --deep --json
	is_json "verify --deep --json"
	check "verify --deep --json has notes" '[ "$(fact "\$.notes_count")" = 1 ] && [ "$(fact "\$.notes[0].hint")" != "" ] && [ "$(fact "\$.findings")" = "[]" ]'
	rm "$folder/stranger"
	ok maintain
	check "without a database it does the whole store" 'grep -q "^readable from " out'
	fails 1 'list' maintain nosuch
	fails 1 'list' levels nosuch
}

# A signal ends an import with nothing changed; stdin that never ends keeps it waiting.
test_interrupt() {
	random 10000 >file
	mkfifo slow
	(exec 3>slow; cat file >&3; : >taken; exec sleep 60) &
	writer=$!
	# A shell ignores SIGINT in what it starts in the background; SIGTERM takes the same way.
	"$tool" -s "$url" import interrupted slow >out 2>err &
	importer=$!
	waits=0
	until [ -e taken ] || [ $waits -ge 300 ]; do # it has opened it
		waits=$((waits + 1))
		sleep 0.1
	done
	sleep 0.5
	kill -TERM $importer
	wait $importer 2>/dev/null
	status=$?
	check "an interrupted import dies of the signal (got $status)" '[ $status -eq 143 ]'
	check "and says that nothing was changed" 'grep -q "nothing was changed" err'
	kill $writer 2>/dev/null
	wait $writer 2>/dev/null
	ok list
	check "and leaves no database" '! grep -q interrupted out'
}

test_follow() {
	plain=$url cached="$url&cache=$work/cache&cache_size=8M"
	url="$plain&cache=$work"
	fails 1 "a directory" list
	check "with what to do about a cache" 'grep -q "cache_size=BYTES" err'
	url="$plain&cache=$work/cache&cache_size=3"
	fails 1 "at least" list
	check "with what a size may be" 'grep -q "cache_size=BYTES" err'
	url=$plain
	ok follow first --count 2
	check "follow shows where it is" 'grep -q "revision.*behind.*lag" out && [ $(grep -cE "^ *[0-9]+ +0 +[0-9.]+ m?s " out) -eq 2 ]'
	check "and that it has no cache file" 'grep -q "without a cache file" out && grep -q "cache=PATH" out'
	check "and what came of it" 'grep -q "^followed for .* 0 commits behind$" out'
	ok follow first --count 2 --json
	check "as JSON, an object a line" '[ $(grep -c "\"behind\": *0.*\"cache\": *null" out) -eq 3 ]'
	check "the last of which says so" '[ $(grep -c "\"ended\": *true" out) -eq 1 ] && tail -n 1 out | grep -q "\"ended\": *true"'
	fails 1 none follow none --once
	fails 2 "number of lines" follow first --count many
	fails 2 "number of lines" follow first --once --count 2
	fails 2 "none, hot or all" follow first --fetch some
	fails 2 "bytes a second" follow first --rate fast
	fails 2 "bytes a second" follow first --rate 10T
	fails 2 "milliseconds" follow first --confirm 0
	fails 2 "takes no option" log first --once
	url=$cached
	ok stat first --json
	check "a new cache file has nothing" '[ "$(fact "\$.cache.keeper_pid")" = 0 ] && [ "$(fact "\$.cache.mirror_revision")" = 0 ]'
	ok follow first --once --json --fetch all --rate 1G --confirm 20
	check "--once comes to the latest, and mirrors it" 'head -n 1 out | grep -q "\"behind\": *0.*\"keeps_mirror\": *true"'
	ok stat first
	check "stat shows the mirror, and that nobody keeps it" 'grep -q "mirror  *to KV revision" out && grep -q "kept by  *nobody" out'
	"$tool" -s "$url" follow first --count 60 >follow.out 2>follow.err &
	follower=$!
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		ok stat first --json
		[ "$(fact "\$.cache.keeper_pid")" = $follower ] && break
		sleep 0.3
	done
	check "stat names the process that keeps it" '[ "$(fact "\$.cache.keeper_pid")" = $follower ]'
	ok follow first --count 1
	check "a second follower says so, too" 'grep -q "process $follower keeps" out'
	random 10000 >file
	"$tool" -s "$url" import first file >out 2>err
	sleep 1.2
	kill -TERM $follower
	wait $follower
	status=$?
	check "SIGTERM is a clean end (got $status)" '[ $status -eq 0 ] && [ ! -s follow.err ]'
	check "with a summary" 'grep -q "^applied 1 commits" follow.out && grep -q "^this process ($follower) keeps" follow.out'
	if command -v script >/dev/null; then
		TERM=xterm script -qec "stty cols 120; $tool -s '$url' follow first --count 3" /dev/null </dev/null >out 2>err
		check "on a terminal a line is written over" '[ $(grep -c "behind" out) -le 2 ] && [ $(tr "\r" "\n" <out | grep -cE "^ *[0-9]+ +0 +[0-9.]+ m?s ") -eq 3 ]'
	fi
	url=$plain
}

test_url() {
	export PAGESTORE_URL="$url"
	"$tool" list >out 2>err
	check "PAGESTORE_URL names the store" '[ $? -eq 0 ] && grep -q first out'
	"$tool" -s mem: create inmemory >out 2>err
	check "-s goes before it" '[ $? -eq 0 ]'
	"$tool" list >out 2>err
	check "what was made in memory is not in the store" '! grep -q inmemory out'
	"$tool" list --store="dir:$work/elsewhere" >out 2>err
	check "--store=URL after the command" '[ $? -eq 1 ] && grep -q elsewhere err'
	unset PAGESTORE_URL
}

for test in help usage_errors missing_store stats_option databases sizes import sqlite export history snapshots maintain damage concurrent changing_file interrupt follow url; do
	test_$test
done
echo "$passed checks passed, $failures failed"
[ $failures -eq 0 ]
