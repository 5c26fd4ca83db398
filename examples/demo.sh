#!/bin/sh
# demo.sh: what pagestore does, on a real database, from nothing
#
#   sh examples/demo.sh             a database built from the Unicode data that Debian ships
#   sh examples/demo.sh FILE        your file: imported, changed a few times (on a copy), imported again
#   sh examples/demo.sh FILE FILE…  your files, as versions of one another in that order
#
# Installs what is missing (Debian and its kin: with apt-get, as root or through
# sudo) and builds the tool in build/demo. Then, in two acts:
#
#   1. imports version after version of an SQLite database, shows what each one
#      cost, exports them again and compares them byte for byte. FILE may be an
#      SQLite database or anything else.
#   2. SQL straight on the store, through the extension for SQLite; an accident;
#      and a table that comes back from before it.
#
# Everything goes into a new directory below TMPDIR, or into PAGESTORE_DEMO_DIR,
# and stays there. It can be run again and again. PAGESTORE_DEMO_URL puts the
# databases, "pagestore-demo" and "pagestore-demo-sql", into another store, of
# etcd and S3 for example. PAGESTORE_DEMO_BUILD is a build that is there already.
set -eu

# --- saying things -------------------------------------------------------

if [ -t 1 ]; then
	bold=$(printf '\033[1m') plain=$(printf '\033[0m')
else
	bold='' plain=''
fi

step() {
	printf '\n%s== %s%s\n' "$bold" "$*" "$plain"
}

# Show a command as one would type it, then run it.
run() {
	printf '$'
	for word; do
		case $word in
		*[!A-Za-z0-9_./:=+,%@-]* | '') printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
	printf '\n'
	"$@"
}

fail() {
	printf 'demo.sh: %s\n' "$*" >&2
	exit 1
}

# --- setting up ----------------------------------------------------------

installed() {
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Print the packages that are missing.
missing_packages() {
	command -v cc >/dev/null || command -v gcc >/dev/null || printf 'gcc '
	[ -f /usr/include/stdio.h ] || printf 'libc6-dev '
	command -v cmake >/dev/null || printf 'cmake '
	command -v ninja >/dev/null || printf 'ninja-build '
	command -v pkg-config >/dev/null || printf 'pkg-config '
	command -v sqlite3 >/dev/null || printf 'sqlite3 '
	for library in libzstd:libzstd-dev libxxhash:libxxhash-dev lmdb:liblmdb-dev libcurl:libcurl4-openssl-dev \
		jansson:libjansson-dev sqlite3:libsqlite3-dev; do
		pkg-config --exists "${library%%:*}" 2>/dev/null || printf '%s ' "${library#*:}"
	done
	[ "$from_unicode" = no ] || [ -f /usr/share/unicode/UnicodeData.txt ] || printf 'unicode-data '
}

install_missing() {
	missing=$(missing_packages)
	if [ -z "$missing" ]; then
		echo "Everything it needs is installed."
		return
	fi
	command -v apt-get >/dev/null || fail "please install these first (by their Debian names): $missing"
	as_root=
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || fail "run it as root, or install these first: $missing"
		as_root=sudo
	fi
	run $as_root apt-get -qq update || fail "apt-get update failed; is the network there?"
	printf '$ %s apt-get install %s\n' "$as_root" "$missing"
	# shellcheck disable=SC2086 # a list of words
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing \
		>"$work/apt.log" 2>&1 ||
		fail "could not install $missing: see $work/apt.log"
	echo "Installed $missing"
}

# Run a command with its output in a log, shown only when it fails.
quietly() {
	"$@" >"$work/build.log" 2>&1 && return
	tail -n 30 "$work/build.log" >&2
	fail "failed: $* (all of its output is in $work/build.log)"
}

build_tool() {
	if [ -n "${PAGESTORE_DEMO_BUILD:-}" ]; then
		build=$PAGESTORE_DEMO_BUILD
		PATH=$build/examples:$PATH
		echo "It is in $build."
		return
	fi
	build=$root/build/demo
	printf '$ cmake -S . -B build/demo -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPAGESTORE_BUILD_TESTS=OFF\n'
	quietly cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DPAGESTORE_BUILD_TESTS=OFF
	printf '$ cmake --build build/demo --target pagestore-cli pagestore-sqlite-extension\n'
	quietly cmake --build "$build" --target pagestore-cli pagestore-sqlite-extension
	PATH=$build/examples:$PATH
	pagestore --version
}

# --- versions ------------------------------------------------------------

# Commit $file as the next version, with a note, and keep a copy to compare with.
commit_version() {
	count=$((count + 1))
	cp "$file" "versions/$count"
	printf '%s' "$1" >"costs/$count.note"
	printf '$ pagestore import %s %s --note "%s"\n' "$db" "$file" "$1"
	pagestore import "$db" "$file" --note "$1" --json >"costs/$count.json" ||
		fail "the import of version $count failed"
	cost_of "$count"
}

# One line about what a version cost.
cost_of() {
	sqlite3 :memory: "
		WITH v(j) AS (SELECT CAST(readfile('costs/$1.json') AS TEXT))
		SELECT CASE WHEN json_extract(j, '$.changed') THEN
			printf('  revision %d: %d of %d pages changed, stored in %,d bytes, %.4f %% of the file',
				json_extract(j, '$.revision'), json_extract(j, '$.pages_written'), json_extract(j, '$.page_count'),
				json_extract(j, '$.kv_bytes') + json_extract(j, '$.blob_bytes'),
				100.0 * (json_extract(j, '$.kv_bytes') + json_extract(j, '$.blob_bytes')) /
				max(1, json_extract(j, '$.file_bytes')))
			ELSE '  unchanged: nothing was stored' END FROM v"
}

# The number of a fact in version $1's report.
fact() {
	sqlite3 :memory: "SELECT json_extract(CAST(readfile('costs/$1.json') AS TEXT), '\$.$2')"
}

cost_table() {
	printf '%s\n' ' version  revision   file bytes  pages changed  bytes stored  of the file  note'
	i=1
	while [ $i -le $count ]; do
		sqlite3 :memory: "
			WITH v(j) AS (SELECT CAST(readfile('costs/$i.json') AS TEXT)),
			f(revision, size, pages, cost) AS (SELECT json_extract(j, '$.revision'), json_extract(j, '$.file_bytes'),
				json_extract(j, '$.pages_written'), json_extract(j, '$.kv_bytes') + json_extract(j, '$.blob_bytes') FROM v)
			SELECT printf('%8d  %8d %,12d %14d  %,12d %10.4f %%  %s', $i, revision, size, pages, cost,
				100.0 * cost / max(1, size), CAST(readfile('costs/$i.note') AS TEXT)) FROM f"
		i=$((i + 1))
	done
	files=$(cat versions/* | wc -c)
	sqlite3 :memory: "SELECT printf('%d versions are %,d bytes of files.', $count, $files)"
	[ ! -d store ] || sqlite3 :memory: "SELECT printf('The store has %,d KiB on disk.', $(du -sk store | cut -f 1))"
}

# Run SQL on the file, showing it.
change() {
	printf '$ sqlite3 %s "%s"\n' "$file" "$1"
	sqlite3 -bail "$file" "$1" >/dev/null || fail "sqlite3 failed on $file"
}

# --- where the versions come from ----------------------------------------

unicode_versions() {
	file=files/unicode.db
	rm -f "$file"
	data=/usr/share/unicode
	step "A database from $data: characters, blocks, and every word of every name"
	# Comments out, columns apart at the semicolons, blanks around them gone.
	sed 's/#.*//; /^[[:space:]]*$/d; s/[[:space:]]*;[[:space:]]*/;/g' "$data/Blocks.txt" >blocks.txt
	build_unicode_database
	run ls -l "$file"

	step "The first version"
	commit_version 'the Unicode database'

	step "Small changes"
	change "UPDATE character SET name = 'SPACE, THE FINAL ONE' WHERE code = 32"
	commit_version 'one row'
	change "UPDATE character SET note = 'has a decimal value ' || decimal WHERE decimal <> '' AND code < 3000"
	commit_version 'a few rows in different places'
	change "INSERT INTO character(code, name, category) SELECT 1114112 + value, 'PRIVATE ' || value, 'Co' FROM (
  WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 1000) SELECT value FROM n)"
	commit_version '1,000 new rows at the end'

	step "Larger ones"
	change "UPDATE character SET name = lower(name) WHERE category = 'Ll'"
	commit_version 'every lower-case letter'
	change "CREATE INDEX character_by_bidi ON character(bidi, code)"
	commit_version 'a new index'
	change "DELETE FROM word WHERE code BETWEEN 0x12000 AND 0x1ffff"
	commit_version 'a third of the words deleted'
	change "VACUUM"
	commit_version 'vacuumed: a smaller file, every page moved'

	step "And nothing at all"
	commit_version 'nothing'
}

# Hexadecimal text in column $1 to a number: SQLite has no function for that.
hex_to_number() {
	printf '0'
	for place in 1 2 3 4 5 6; do
		printf " + (instr('123456789ABCDEF', substr(substr('00000' || %s, -6), %d, 1)) << %d)" "$1" $place $((24 - 4 * place))
	done
}

build_unicode_database() {
	code=$(hex_to_number code)
	cat >build.sql <<SQL
PRAGMA page_size = 4096;
CREATE TEMP TABLE raw(code, name, category, combining, bidi, decomposition, decimal, digit, number, mirrored,
	old_name, comment, upper, lower, title);
CREATE TEMP TABLE raw_block(range, name);
.mode ascii
.separator ";" "\n"
.import $data/UnicodeData.txt raw
.import blocks.txt raw_block
BEGIN;
CREATE TABLE character(code INTEGER PRIMARY KEY, name TEXT, category TEXT, bidi TEXT, decomposition TEXT, decimal TEXT,
	number TEXT, old_name TEXT, note TEXT);
INSERT INTO character(code, name, category, bidi, decomposition, decimal, number, old_name)
	SELECT $code, name, category, bidi, decomposition, decimal, number, old_name FROM raw;
CREATE TABLE block(name TEXT PRIMARY KEY, range TEXT);
INSERT INTO block SELECT name, range FROM raw_block;
CREATE TABLE word(word TEXT, code INTEGER, PRIMARY KEY(word, code)) WITHOUT ROWID;
INSERT OR IGNORE INTO word
	WITH RECURSIVE split(word, rest, code) AS (
		SELECT NULL, name || ' ', code FROM character
		UNION ALL
		SELECT substr(rest, 1, instr(rest, ' ') - 1), substr(rest, instr(rest, ' ') + 1), code FROM split WHERE rest <> '')
	SELECT word, code FROM split WHERE word <> '';
CREATE INDEX character_by_category ON character(category, code);
CREATE INDEX character_by_name ON character(name);
COMMIT;
SQL
	printf '$ sqlite3 %s <build.sql\n' "$file"
	sqlite3 -bail "$file" <build.sql || fail "sqlite3 could not build $file"
}

is_sqlite() {
	[ "$(head -c 15 "$1" | tr -d '\0')" = 'SQLite format 3' ]
}

# Copy a user's file; an SQLite write-ahead log beside it goes into the copy.
copy_file() {
	rm -f "$file" "$file-wal" "$file-shm" "$file-journal"
	cat "$1" >"$file"
	if [ -s "$1-wal" ] && is_sqlite "$1"; then
		cat "$1-wal" >"$file-wal"
		sqlite3 "$file" 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null
	fi
}

one_file_versions() {
	file=files/${1##*/}
	step "A copy of $1, as the first version"
	copy_file "$1"
	commit_version "$1"
	if is_sqlite "$file"; then
		step "Changes, on the copy"
		change "CREATE TABLE pagestore_demo(id INTEGER PRIMARY KEY, text TEXT)"
		commit_version 'a new table'
		change "INSERT INTO pagestore_demo(text) SELECT hex(randomblob(100)) FROM (
  WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 1000) SELECT value FROM n)"
		commit_version '1,000 rows in it'
		change "UPDATE pagestore_demo SET text = 'changed' WHERE id = 500"
		commit_version 'one row changed'
		change "DROP TABLE pagestore_demo"
		commit_version 'the table dropped'
		change "VACUUM"
		commit_version 'vacuumed'
	else
		step "It is not an SQLite database: changing some bytes of the copy"
		printf 'pagestore' | run dd of="$file" bs=1 seek=$(($(wc -c <"$file") / 2)) conv=notrunc status=none
		commit_version 'nine bytes in the middle'
		printf 'and a new last line\n' >>"$file"
		commit_version 'a few bytes at the end'
		copy_file "$1"
		commit_version 'as it was'
	fi
}

many_file_versions() {
	file=files/current
	step "Your files, as versions of one another"
	for version; do
		copy_file "$version"
		commit_version "$version"
	done
}

# --- the same things for all of them -------------------------------------

check_versions() {
	step "Every version comes back byte for byte"
	i=1
	while [ $i -le $count ]; do
		revision=$(fact $i revision)
		pagestore export "$db" files/exported --at "$revision" >/dev/null || fail "the export of revision $revision failed"
		cmp files/exported "versions/$i" || fail "version $i is not what was imported"
		i=$((i + 1))
	done
	echo "All $count versions: identical."
	half=$(((count + 1) / 2))
	old=files/old-${file##*/}
	run pagestore export "$db" "$old" --at "$(fact $half revision)"
	run cmp "$old" "versions/$half"
	if is_sqlite "$old"; then
		run sqlite3 "$old" 'PRAGMA integrity_check'
	fi
}

keep_first() {
	step "A name for the first version: it stays, however short the history is"
	run pagestore snapshot create "$db" first --at "$(fact 1 revision)"
	run pagestore snapshot list "$db"
	run pagestore export "$db" files/exported --snapshot first
	run cmp files/exported versions/1
	if [ "$count" -gt 1 ]; then
		run pagestore diff "$db" @first "$(fact 2 revision)"
	fi
}

show_history() {
	step "The history"
	run pagestore log "$db"
	step "What each version cost, against the size of the file"
	cost_table
	step "The database as it is stored"
	run pagestore stat "$db"
	if [ "$count" -gt 1 ]; then
		step "The pages that differ between the first two versions"
		run pagestore diff "$db" "$(fact 1 revision)" "$(fact 2 revision)"
	fi
}

# --- the second act: SQL on the store, and an accident -------------------

# Say SQL to the database in the store, showing it. There is no file: the store is the one of PAGESTORE_URL.
sql() {
	printf '%s\n' "$1" | sed -e 's/^/sqlite> /' -e 's/^sqlite>   /   ...>  /'
	answer "$1"
}

# The same without showing it.
answer() {
	sqlite3 -batch -bail -cmd ".load $build/examples/pagestore_sqlite" -cmd ".open file:$db-sql?vfs=pagestore" \
		:memory: "$1" || fail "sqlite3 failed on $db-sql"
}

second_act() {
	step "Second act: SQL straight on the store"
	printf "\$ sqlite3 -cmd '.load %s/examples/pagestore_sqlite' -cmd '.open file:%s-sql?vfs=pagestore'\n" "$build" "$db"
	sql "CREATE TABLE potion(id INTEGER PRIMARY KEY, name TEXT, price INTEGER);
WITH kind(a, kind) AS (VALUES (1, 'Bubbling'), (2, 'Murky'), (3, 'Overpriced'), (4, 'Forbidden')),
  effect(b, effect) AS (VALUES (1, 'invisibility'), (2, 'courage'), (3, 'patience'), (4, 'mild regret'))
  INSERT INTO potion(name, price)
  SELECT kind || ' potion of ' || effect || ', ' || year.value, (2030 - year.value) * a / 10 + b
  FROM kind, effect, generate_series(1720, 1999) AS year;
SELECT count(*) || ' potions, worth ' || sum(price) FROM potion;"
	sql "UPDATE potion SET price = price * 2 WHERE name LIKE '%invisibility%'; -- they are hard to find
SELECT name, price FROM potion ORDER BY price DESC, id LIMIT 3;"
	worth=$(answer "SELECT sum(price) FROM potion")

	step "The accident: one bottle is to be thrown away, and somebody presses return too soon"
	sql "DELETE FROM potion; -- WHERE id = 1848
SELECT count(*) || ' potions' FROM potion;"

	step "What happened? Every commit has a revision, and the pages it wrote"
	sql "SELECT revision, time(time_ms / 1000, 'unixepoch') AS at, pages FROM pagestore_log;"
	before=$(answer "SELECT revision FROM pagestore_log ORDER BY revision DESC LIMIT 1 OFFSET 1")

	step "Revision $before is from before it, and is attached like any other database; it is read only"
	sql "ATTACH 'file:$db-sql?at=$before' AS before;
SELECT count(*) || ' potions, worth ' || sum(price) FROM before.potion;
INSERT INTO potion SELECT * FROM before.potion WHERE id <> 1848; -- and this time without the one bottle
SELECT count(*) || ' potions in ' || (SELECT count(*) FROM pagestore_changes($before,
  (SELECT max(revision) FROM pagestore_log))) || ' pages that differ from before' FROM potion;"
	[ "$(answer "ATTACH 'file:$db-sql?at=$before' AS b; SELECT sum(price) FROM b.potion")" = "$worth" ] ||
		fail "revision $before is not what it was"
	[ "$(answer 'SELECT count(*) FROM potion')" -eq 4479 ] || fail "the potions are not back"
	echo "Nothing was restored from a backup, and nobody had to make one."
}

next_things() {
	step "What to try next"
	cat <<TEXT
For example:

  export PATH="$build/examples:\$PATH" PAGESTORE_URL='$PAGESTORE_URL'
  pagestore list
  pagestore log $db -n 3
  pagestore export $db /tmp/first.db --at $(fact 1 revision)
  pagestore help

  sqlite3 -cmd ".load $build/examples/pagestore_sqlite" -cmd ".open file:$db-sql?vfs=pagestore"
  sqlite> PRAGMA pagestore_snapshot = 'before-lunch';
  sqlite> ATTACH 'file:$db-sql?at=@before-lunch' AS lunch;

TEXT
	[ "$from_unicode" = no ] || echo "And with a file of yours: sh examples/demo.sh FILE"
	echo "Remove $work when you are done with it."
}

main() {
	from_unicode=$([ $# -eq 0 ] && echo yes || echo no)
	work=${PAGESTORE_DEMO_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/pagestore-demo.XXXXXX")}
	mkdir -p "$work/versions" "$work/costs" "$work/files"
	work=$(cd "$work" && pwd)
	rm -f "$work"/versions/* "$work"/costs/* "$work"/files/*

	step "What it needs"
	install_missing
	step "Building the tool"
	build_tool

	cd "$work"
	export PAGESTORE_URL="${PAGESTORE_DEMO_URL:-dir:$work/store}"
	db=demo count=0
	[ -z "${PAGESTORE_DEMO_URL:-}" ] || db=pagestore-demo
	for old in "$db" "$db-sql"; do
		if pagestore list 2>/dev/null | grep -qx "$old"; then
			step "Dropping what the last run left"
			run pagestore drop "$old"
		fi
	done
	printf '\nThe store: PAGESTORE_URL=%s; the files are in %s/files\n' "$PAGESTORE_URL" "$work"
	case $# in
	0) unicode_versions ;;
	1) one_file_versions "$1" ;;
	*) many_file_versions "$@" ;;
	esac
	show_history
	check_versions
	keep_first
	step "Every content of every revision, hashed again"
	run pagestore verify "$db"
	second_act
	next_things
}

# Paths of the user's are meant from where they stand.
root=$(cd "$(dirname "$0")/.." && pwd)
i=0
for argument; do
	[ $i -gt 0 ] || set --
	i=$((i + 1))
	[ -f "$argument" ] || fail "cannot read $argument: give files to import, or nothing for the built-in example"
	[ -r "$argument" ] || fail "cannot read $argument"
	case $argument in
	/*) set -- "$@" "$argument" ;;
	*) set -- "$@" "$PWD/$argument" ;;
	esac
done
main "$@"
