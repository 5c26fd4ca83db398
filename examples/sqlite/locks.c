/* Locks are transactions.
 *
 * SHARED takes a snapshot. RESERVED forks a writing transaction from it: optimistic, so that it is the commit that finds
 * out whether others were faster. But statements in autocommit mode and BEGIN IMMEDIATE, which ask for SHARED only to
 * write, first take the turn: in this process (sq_turn_take), then the store's writer lock, and only then the snapshot.
 * Those never conflict with each other; while another has the turn the answer is BUSY, and SQLite calls its busy handler.
 *
 * Which of the two it is SQLite does not say. It is told by what runs: a statement that writes, in autocommit mode, needs
 * the turn (BEGIN IMMEDIATE counts as a writer, and has not left that mode yet).
 *
 * BEGIN IMMEDIATE takes the turn in all of the connection's databases before SQLite asks for more than the first, in the
 * order of their names. COMMIT takes those it lacks with the EXCLUSIVE lock, all or none.
 *
 * SQLite's cache is good as long as the database is at the revision it was filled at. At every SHARED lock it compares
 * the change counter of page 1, so the counter that it is told (file->counter) is raised when that is not so.
 *
 * What SQLite takes from its cache nobody sees. So a commit relies on all pages that went there since it was last
 * dropped, which may be far more than the transaction used. Where others are at work, too, a transaction that is begun
 * with BEGIN starts with an empty cache, so that it conflicts only over what it uses itself.
 */
#include "file.h"

#include <string.h>
#include <time.h>

enum { TURN_WAIT_MS = 5, LOCK_WAIT_US = 25000, LOCK_LOOK_US = 1000 };

/* --- what the connection does ------------------------------------------------------------------------- */

static bool begins_with(const char *sql, const char *word)
{
	while (*sql == ' ' || *sql == '\t' || *sql == '\n' || *sql == '\r' || *sql == ';')
		sql++;
	return sqlite3_strnicmp(sql, word, (int)strlen(word)) == 0;
}

bool sq_is_running(const sq_file *f, const char *word)
{
	sqlite3 *db = sq_connection_of(f);
	for (sqlite3_stmt *s = db ? sqlite3_next_stmt(db, NULL) : NULL; s; s = sqlite3_next_stmt(db, s))
		if (sqlite3_stmt_busy(s) && sqlite3_sql(s) && begins_with(sqlite3_sql(s), word))
			return true;
	return false;
}

static bool is_vacuum(const char *sql)
{
	return sql && begins_with(sql, "VACUUM");
}

/* VACUUM INTO counts as a writer, but only reads this file. */
static bool is_writing(sqlite3_stmt *s)
{
	const char *sql = sqlite3_sql(s);
	return sqlite3_stmt_busy(s) && !sqlite3_stmt_readonly(s) &&
	       !(is_vacuum(sql) && sqlite3_strlike("%into%", sql, 0) == 0);
}

/* VACUUM says BEGIN itself, and cannot be part of a transaction. */
static bool needs_turn(const sq_file *f)
{
	sqlite3 *db = sq_connection_of(f);
	if (!db || f->read_only)
		return false;
	for (sqlite3_stmt *s = sqlite3_next_stmt(db, NULL); s; s = sqlite3_next_stmt(db, s))
		if (is_writing(s) && (sqlite3_get_autocommit(db) || is_vacuum(sqlite3_sql(s))))
			return true;
	return false;
}

/* --- snapshots ---------------------------------------------------------------------------------------------- */

/* One for all connections to it; the first one's choice counts. What it promised is kept by asking where it fails. */
static void follow(const sq_file *f)
{
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.fetch = f->fetch;
	int result = pgs_follow_start(f->db, &o, &err);
	if (result != PGS_OK && result != PGS_EBUSY)
		sq_tell(SQLITE_WARNING, "%s", err.message);
}

static int use_database(sq_file *f)
{
	if (f->db && f->scratch)
		return SQLITE_OK;
	int result = sq_database_open(f->database, &f->db, &f->error);
	if (result != PGS_OK || !f->db || f->scratch)
		return sq_fail(f, result, SQLITE_CANTOPEN);
	f->page_size = pgs_db_page_size(f->db);
	f->prefetches = !f->prefetch_off && pgs_prefetch_is_useful(f->db);
	f->scratch = sqlite3_malloc((int)f->page_size);
	if (f->follows)
		follow(f);
	return f->scratch ? SQLITE_OK : SQLITE_IOERR_NOMEM;
}

static int not_ours(sq_file *f)
{
	snprintf(f->error.message, sizeof f->error.message, "database %s of the store holds something else than an SQLite "
		"database", f->database->name);
	sq_tell(SQLITE_NOTADB, "%s", f->error.message);
	return SQLITE_NOTADB;
}

/* Learn the header of a snapshot that SQLite's cache is not of. */
static int learn_header(sq_file *f, pgs_txn *txn)
{
	uint64_t count = 0;
	const uint64_t first[] = {0, 1, 2}; /* ours, SQLite's first, and mostly the root of the first table: read next */
	int result = pgs_page_count(txn, &count);
	if (result == PGS_OK && f->prefetches)
		result = pgs_prefetch(txn, first, 3);
	if (result == PGS_OK)
		result = pgs_read(txn, 0, f->scratch);
	if (result != PGS_OK) {
		f->error = *pgs_txn_error(txn);
		return sq_fail(f, result, SQLITE_IOERR_READ);
	}
	f->seen = (sq_header){0};
	if (count > 0 && !sq_header_decode(&f->seen, f->scratch))
		return not_ours(f);
	f->others |= f->cache_revision && f->cache_revision != pgs_txn_revision(txn);
	f->cache_stale = false;
	f->cache_revision = pgs_txn_revision(txn);
	return SQLITE_OK;
}

/* SQLite is to drop its cache. */
static void raise_counter(sq_file *f)
{
	sq_pages_clear(&f->known);
	sq_prefetch_forget(f);
	f->counter += 2; /* one more than it can have made up itself: a commit that failed left it the next one */
	if (f->seen.page_size)
		sq_header_count(&f->seen, f->counter);
}

/* A transaction begun with BEGIN, which may write, and others may be at work, too. */
static bool wants_empty_cache(const sq_file *f)
{
	sqlite3 *db = sq_connection_of(f);
	return db && !f->read_only && !sqlite3_get_autocommit(db) && (f->others || sq_database_is_shared(f->database));
}

static int begin_reader(sq_file *f)
{
	if (sq_reader_renew(f))
		return SQLITE_OK;
	return sq_fail(f, pgs_begin(&f->reader, f->db, &f->at, &f->error), SQLITE_IOERR_LOCK);
}

/* SNAPSHOT: what a commit has to validate it is told (commit.c). */
static pgs_txn_options to_write(const sq_file *f)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.write = true;
	o.isolation = PGS_SNAPSHOT;
	o.timeout_ms = f->at.timeout_ms;
	o.cost = f->at.cost;
	return o;
}

static uint64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* With the store's writer lock. Another process has it for a few milliseconds, mostly: looking again soon is fairer than
 * SQLite's busy handler, which sleeps for up to 100 ms. Asking a server is not free: it gets a rest of four times what a
 * look takes. */
static int begin_with_lock(sq_file *f)
{
	pgs_txn_options o = to_write(f), reads = f->at;
	uint64_t began = now_us(), look = began;
	o.lock = PGS_LOCK_TRY;
	reads.freshness = PGS_LATEST;
	sq_reader_drop(f);
	int result = pgs_begin(&f->writer, f->db, &o, &f->error);
	for (uint64_t now; result == PGS_EBUSY && (now = now_us()) - began < LOCK_WAIT_US; ) {
		uint64_t pause = 4 * (now - look);
		pause = pause < LOCK_LOOK_US ? LOCK_LOOK_US : pause > LOCK_WAIT_US ? LOCK_WAIT_US : pause;
		nanosleep(&(struct timespec){0, (long)pause * 1000}, NULL);
		look = now_us();
		result = pgs_begin(&f->writer, f->db, &o, &f->error);
	}
	if (result == PGS_OK)
		result = pgs_fork(&f->reader, f->writer, &reads, &f->error);
	return sq_fail(f, result, SQLITE_IOERR_LOCK);
}

static int take_snapshot(sq_file *f)
{
	int result = f->refused ? f->refused : use_database(f);
	f->seen = f->db ? f->seen : (sq_header){0};
	if (result == SQLITE_OK && f->db)
		result = f->has_turn ? begin_with_lock(f) : begin_reader(f);
	bool stale = f->cache_stale || (f->reader && pgs_txn_revision(f->reader) != f->cache_revision);
	if (result == SQLITE_OK && f->reader && stale)
		result = learn_header(f, f->reader);
	if (result != SQLITE_OK)
		return result;
	if (stale || wants_empty_cache(f))
		raise_counter(f);
	f->now = f->seen;
	f->size = sq_header_size(&f->seen);
	return SQLITE_OK;
}

static int begin_shared(sq_file *f, bool turn)
{
	if (turn) {
		if (!sq_turn_take(f->database, f, TURN_WAIT_MS))
			return SQLITE_BUSY;
		f->has_turn = true;
	}
	int result = take_snapshot(f);
	if (result != SQLITE_OK)
		sq_end(f);
	return result;
}

/* The order in which BEGIN IMMEDIATE locks, the same in all processes. */
static int compare_names(const sq_file *a, const sq_file *b)
{
	int by_name = strcmp(a->database->name, b->database->name);
	return by_name ? by_name : (a->database->store > b->database->store) - (a->database->store < b->database->store);
}

static sq_file *next_by_name(const sq_file *of, const sq_file *last)
{
	sq_file *next = NULL;
	for (sq_file *f = sq_files_next(of, NULL); f; f = sq_files_next(of, f))
		if ((!last || compare_names(f, last) > 0) && (!next || compare_names(f, next) < 0))
			next = f;
	return next;
}

/* Give up what SQLite has not asked for yet. */
static void end_ahead(const sq_file *of)
{
	for (sq_file *f = sq_files_next(of, NULL); f; f = sq_files_next(of, f))
		if (f->ahead) {
			f->ahead = false;
			sq_end(f);
		}
}

/* BEGIN IMMEDIATE is about all databases of the connection. SQLite locks them as they were attached; two connections that
 * did it the other way round would wait for each other. So all are locked at once, in one order, or none is. */
static int lock_all(sq_file *of)
{
	int result = SQLITE_OK;
	for (sq_file *f = next_by_name(of, NULL); result == SQLITE_OK && f; f = next_by_name(of, f)) {
		if (f->lock != SQLITE_LOCK_NONE || f->read_only)
			continue;
		result = begin_shared(f, true);
		f->ahead = result == SQLITE_OK;
	}
	if (result != SQLITE_OK)
		end_ahead(of);
	of->ahead = false;
	return result;
}

static int lock_shared(sq_file *f)
{
	if (f->ahead) {
		f->ahead = false;
		return SQLITE_OK;
	}
	bool turn = needs_turn(f);
	return turn && sq_is_running(f, "BEGIN") ? lock_all(f) : begin_shared(f, turn);
}

void sq_end(sq_file *f)
{
	bool had_turn = f->has_turn;
	pgs_abort(f->after);
	pgs_abort(f->writer);
	sq_reader_rest(f);
	pgs_abort(f->old_reader);
	f->after = f->writer = f->old_reader = NULL;
	f->fetched = 0;
	if (f->has_turn || f->state != SQ_NOT_WRITING)
		sq_turn_give(f->database, f);
	f->state = SQ_NOT_WRITING;
	sq_super_join(f, NULL);
	f->has_turn = false;
	if (had_turn)
		end_ahead(f);
}

/* --- writing --------------------------------------------------------------------------------------------------- */

int sq_refuse(sq_file *f, int code, const char *why)
{
	snprintf(f->conflict, sizeof f->conflict, "%s", why);
	f->conflicts += code == SQLITE_BUSY_SNAPSHOT;
	sq_tell(code, "%s", why);
	return code;
}

/* A statement of this connection still reads what was there before its last commit, and another one writes: from
 * that commit's revision on, if nobody has committed since the reader began. */
static int go_on_after_commit(sq_file *f)
{
	pgs_txn *next;
	const char *why = "others have committed since the statement began that is still reading";
	if (f->merged)
		return sq_refuse(f, SQLITE_BUSY_SNAPSHOT, why);
	int result = pgs_begin(&next, f->db, &f->at, &f->error);
	if (result != PGS_OK)
		return sq_fail(f, result, SQLITE_IOERR_LOCK);
	if (pgs_txn_revision(next) != f->committed) {
		pgs_abort(next);
		return sq_refuse(f, SQLITE_BUSY_SNAPSHOT, why);
	}
	sq_held_forget(f); /* they end with their reader */
	if (f->fetched && !f->old_reader)
		f->old_reader = f->reader;
	else
		pgs_abort(f->reader);
	pgs_abort(f->after);
	f->after = NULL;
	f->reader = next;
	return SQLITE_OK;
}

int sq_fork_writer(sq_file *f, pgs_txn **out)
{
	pgs_txn_options o = to_write(f);
	return sq_fail(f, pgs_fork(out, f->reader, &o, &f->error), SQLITE_IOERR_LOCK);
}

/* What the transaction writes already may not go together with this file. BEGIN IMMEDIATE locks all there is, and need
 * not write to it. */
static int check_others(sq_file *f)
{
	for (const sq_file *other = sq_files_next(f, NULL); other; other = sq_files_next(f, other)) {
		if (other == f || other->state != SQ_WRITING)
			continue;
		if (other->database == f->database)
			return sq_refuse(f, SQLITE_BUSY, "the connection writes to the database under another name");
		if (other->database->store != f->database->store && !sq_is_running(f, "BEGIN"))
			return sq_refuse(f, SQLITE_ERROR, "a transaction cannot change databases of different stores");
	}
	return SQLITE_OK;
}

static int lock_reserved(sq_file *f)
{
	if (f->read_only)
		return SQLITE_READONLY;
	int result = check_others(f);
	if (result == SQLITE_OK && f->state == SQ_COMMITTED)
		result = go_on_after_commit(f);
	if (result == SQLITE_OK && f->reader && !f->writer)
		result = sq_fork_writer(f, &f->writer);
	if (result != SQLITE_OK)
		return result;
	f->state = SQ_WRITING;
	f->now = f->seen;
	f->header_written = false;
	sq_pages_clear(&f->written);
	return SQLITE_OK;
}

/* The first write to a file without a database makes one, with SQLite's page size. */
int sq_create(sq_file *f, uint32_t page_size)
{
	pgs_txn_options o = to_write(f);
	uint64_t count = 0;
	int result = sq_database_create(f->database, page_size, &f->db, &f->error);
	if (result != PGS_OK)
		return sq_fail(f, result, SQLITE_IOERR_WRITE);
	int code = use_database(f);
	if (code != SQLITE_OK)
		return code;
	result = pgs_begin(&f->writer, f->db, &o, &f->error);
	if (result != PGS_OK)
		return sq_fail(f, result, SQLITE_IOERR_WRITE);
	if (pgs_page_count(f->writer, &count) == PGS_OK && count == 0)
		return SQLITE_OK;
	pgs_abort(f->writer);
	f->writer = NULL;
	f->state = SQ_FAILED;
	return sq_refuse(f, SQLITE_BUSY_SNAPSHOT, "another connection has made the database");
}

/* For COMMIT, or to write pages ahead of it, in the midst of a transaction: that does not need the turn yet. COMMIT sets
 * autocommit mode first, and asks for this lock of all files before it touches any. */
static int lock_exclusive(sq_file *f)
{
	sqlite3 *db = sq_connection_of(f);
	if (!db || !sqlite3_get_autocommit(db) || f->state != SQ_WRITING)
		return SQLITE_OK;
	return sq_turns_take(f) ? SQLITE_OK : SQLITE_BUSY;
}

int sq_lock(sqlite3_file *file, int level)
{
	sq_file *f = (sq_file *)file;
	int result = SQLITE_OK;
	if (level <= f->lock)
		return SQLITE_OK;
	if (f->lock == SQLITE_LOCK_NONE)
		result = lock_shared(f);
	else if (f->lock == SQLITE_LOCK_SHARED)
		result = lock_reserved(f);
	else if (level == SQLITE_LOCK_EXCLUSIVE)
		result = lock_exclusive(f);
	if (result == SQLITE_OK)
		f->lock = level;
	return result;
}

int sq_unlock(sqlite3_file *file, int level)
{
	sq_file *f = (sq_file *)file;
	if (level >= f->lock)
		return SQLITE_OK;
	f->lock = level;
	if (level == SQLITE_LOCK_NONE)
		sq_end(f);
	else
		sq_discard(f);
	return SQLITE_OK;
}
