/* One commit of the store for each transaction.
 *
 * SQLite commits in two phases: it writes all pages to the file, says SQLITE_FCNTL_SYNC, and then, past the point where
 * anything may fail, throws its journal away. So SYNC is where the store's commit is made, and its failure is the
 * transaction's: SQLITE_BUSY_SNAPSHOT makes SQLite roll back. (An outermost RELEASE would then report success when it
 * is repeated, with nothing committed. It is told SQLITE_BUSY, at which it keeps the transaction open, for ROLLBACK.)
 *
 * A rollback of what was written ahead of the commit says SYNC, too, after it has put everything back. But only a
 * commit counts page 1's change counter up.
 *
 * What is validated: the pages SQLite has read or written since it last dropped its cache must be what the snapshot had.
 * They are all it can have gone by. Page 0 (header.c) counts only if the transaction allocated or freed.
 */
#include "file.h"

#include <string.h>

enum { TURN_WAIT_MS = 5 };

/* Whether what was written is to be committed, not rolled back. */
static bool is_commit(const sq_file *f)
{
	return f->header_written && sq_header_counter(&f->now) != sq_header_counter(&f->seen);
}

void sq_discard(sq_file *f)
{
	pgs_abort(f->writer);
	f->writer = NULL;
	if (f->state == SQ_WRITING || f->state == SQ_FAILED) {
		f->state = SQ_NOT_WRITING;
		f->now = f->seen;
		f->size = sq_header_size(&f->seen);
	}
	if (f->has_turn)
		sq_turn_give(f->database, f);
	f->has_turn = false;
}

/* Whether SQLite keeps a rollback journal, in a file of ours or in memory. journal_mode=OFF is refused where it is set
 * (pragma.c), but a PRAGMA without a schema's name sets it for attached files, too, and tells only the main one. */
static bool keeps_journal(const sq_file *f)
{
	sqlite3 *db = f->connection ? *f->connection : NULL;
	const char *name;
	if (!db || sqlite3_libversion_number() < 3039000) /* there is no sqlite3_db_name() */
		return true;
	for (int i = 0; (name = sqlite3_db_name(db, i)); i++) {
		sqlite3_file *file = NULL, *journal = NULL;
		sqlite3_file_control(db, name, SQLITE_FCNTL_FILE_POINTER, &file);
		if (file != &f->base)
			continue;
		sqlite3_file_control(db, name, SQLITE_FCNTL_JOURNAL_POINTER, &journal);
		return journal && journal->pMethods;
	}
	return true;
}

/* --- before ----------------------------------------------------------------------------------------------- */

/* Who did not have the turn from the start takes it for the commit, so as not to make one that has it fail. */
static bool wait_for_turn(sq_file *f)
{
	while (!sq_turn_take(f->database, f, TURN_WAIT_MS))
		if (!f->busy || !f->busy(f->busy_ctx))
			return false;
	return true;
}

/* Page 0, and the page count. */
static int write_header(sq_file *f)
{
	uint64_t count = 0, wanted;
	int result = pgs_page_count(f->writer, &count);
	wanted = sq_page_count(f, sq_header_size(&f->now));
	if (result == PGS_OK && wanted < count)
		result = pgs_truncate(f->writer, wanted);
	if (result != PGS_OK || sq_header_same(&f->now, &f->seen))
		return result;
	sq_header_encode(&f->now, f->scratch, f->page_size);
	return pgs_write(f->writer, 0, f->scratch);
}

static uint64_t next_known(void *ctx, uint64_t from)
{
	return sq_pages_next(ctx, from);
}

/* --- after ------------------------------------------------------------------------------------------------- */

static int committed(sq_file *f, uint64_t revision, bool merged)
{
	f->state = SQ_COMMITTED;
	f->committed = revision;
	f->merged = merged;
	f->seen = f->now;
	f->size = sq_header_size(&f->now);
	f->counter = sq_header_counter(&f->now);
	f->cache_revision = revision;
	f->cache_stale |= merged;
	f->others |= merged;
	return SQLITE_OK;
}

static void note_conflict(sq_file *f)
{
	bool allocation = f->error.page == 0 || f->error.page == PGS_NO_PAGE; /* page 0, or the page count */
	const char *what = allocation ? "pages were allocated or freed" : "";
	f->conflicts++;
	f->others = true;
	snprintf(f->conflict, sizeof f->conflict, "%s%s%s", what, *what ? ": " : "", f->error.message);
}

static int failed(sq_file *f, int result)
{
	f->state = SQ_FAILED;
	f->size = sq_header_size(&f->seen);
	if (result == PGS_ECONFLICT || result == PGS_EOLDREV || result == PGS_EBUSY)
		note_conflict(f);
	int code = sq_fail(f, result, SQLITE_IOERR_FSYNC);
	if (code == SQLITE_BUSY) /* another process has the turn; but the transaction is over */
		code = SQLITE_BUSY_SNAPSHOT;
	return code == SQLITE_BUSY_SNAPSHOT && sq_is_running(f, "RELEASE") ? SQLITE_BUSY : code;
}

/* The outcome was not known: ask. */
static int settle(sq_file *f, const pgs_commit_token *token, uint64_t *revision, uint64_t *previous)
{
	int status;
	*previous = 0;
	int result = pgs_commit_status(f->db, token, &status, revision, &f->error);
	if (result != PGS_OK)
		return PGS_EUNKNOWN;
	return status == PGS_COMMIT_HAPPENED ? PGS_OK : PGS_EIO;
}

static int commit_store(sq_file *f)
{
	pgs_commit_token token;
	pgs_commit_options o = PGS_COMMIT_OPTIONS_INIT;
	uint64_t base = pgs_txn_revision(f->writer), revision = 0, previous = 0;
	int result = write_header(f);
	if (result != PGS_OK) {
		f->error = *pgs_txn_error(f->writer);
		return failed(f, result);
	}
	o.token = &token;
	o.relied = next_known;
	o.relied_ctx = &f->known;
	o.previous_revision = &previous;
	result = pgs_commit(f->writer, &o, &revision, &f->error);
	f->writer = NULL;
	if (result == PGS_EUNKNOWN)
		result = settle(f, &token, &revision, &previous);
	return result == PGS_OK ? committed(f, revision, previous != base) : failed(f, result);
}

int sq_commit(sq_file *f)
{
	if (f->state == SQ_FAILED)
		return is_commit(f) ? SQLITE_BUSY : SQLITE_OK;
	if (f->state != SQ_WRITING)
		return SQLITE_OK;
	if (!is_commit(f)) { /* rolled back */
		pgs_abort(f->writer);
		f->writer = NULL;
		f->state = SQ_FAILED;
		return SQLITE_OK;
	}
	bool valid = sq_header_is_valid(&f->now);
	if (!valid || !keeps_journal(f)) {
		sq_tell(SQLITE_IOERR_WRITE, "not committed: %s",
			valid ? "journal_mode is OFF" : "what was written is no database");
		f->state = SQ_FAILED;
		return SQLITE_IOERR_WRITE;
	}
	if (!wait_for_turn(f))
		return SQLITE_BUSY;
	int result = commit_store(f);
	sq_turn_give(f->database, f);
	f->has_turn = false;
	return result;
}
