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
 * Several databases, which have to be of one store, are changed by one commit (pgs_commit_many()). SQLite says SYNC of
 * one after the other, in the order of its schemas, but not of those in which nothing was changed, which nobody knows
 * before. So what is said SYNC of is prepared, and all that are prepared are committed at the first of these:
 *
 *     SYNC of the last one that could have been changed   mostly; a failure is that of a single database
 *     the super-journal's deletion (super.c)              the same: SQLite rolls back all of them
 *     SQLITE_FCNTL_COMMIT_PHASETWO of the first one       without super-journal: journal_mode=MEMORY, synchronous=OFF,
 *                                                         or another VFS's as the main database
 *
 * A failure of the last kind rolls back, too; but a SELECT of the same connection that is still at work may see what was
 * not committed, in the first one. It takes a conflict, and a database that was locked to be written and was not.
 *
 * What is validated: the pages SQLite has read or written since it last dropped its cache must be what the snapshot had.
 * They are all it can have gone by. Page 0 (header.c) counts only if the transaction allocated or freed. A transaction
 * that was begun with BEGIN is validated in the other databases of the store, too, that it has only read.
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
	sq_super_join(f, NULL);
	if (f->state == SQ_WRITING || f->state == SQ_PREPARED || f->state == SQ_FAILED) {
		f->state = SQ_NOT_WRITING;
		f->now = f->seen;
		f->size = sq_header_size(&f->seen);
	}
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

static bool is_being_written(const sq_file *f)
{
	return f->state == SQ_WRITING || f->state == SQ_PREPARED;
}

/* Give back turns that were not there from the start. */
static void give_turns(const sq_file *of)
{
	for (sq_file *f = sq_files_next(of, NULL); f; f = sq_files_next(of, f))
		if (!f->has_turn)
			sq_turn_give(f->database, f);
}

/* The one whose database comes next in memory. */
static sq_file *next_by_database(const sq_file *of, const sq_file *last)
{
	sq_file *next = NULL;
	for (sq_file *f = sq_files_next(of, NULL); f; f = sq_files_next(of, f))
		if (is_being_written(f) && (!last || f->database > last->database) &&
			(!next || f->database < next->database))
			next = f;
	return next;
}

bool sq_turns_take(const sq_file *of)
{
	for (sq_file *f = next_by_database(of, NULL); f; f = next_by_database(of, f))
		if (!sq_turn_take(f->database, f, TURN_WAIT_MS)) {
			give_turns(of);
			return false;
		}
	return true;
}

/* Who did not have the turn from the start takes it for the commit, so as not to make one that has it fail. */
static bool wait_for_turns(const sq_file *f)
{
	while (!sq_turns_take(f))
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
	bool allocation = f->error.code == PGS_ECONFLICT && /* page 0, or the page count */
			  (f->error.page == 0 || f->error.page == PGS_NO_PAGE);
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

/* --- the commit -------------------------------------------------------------------------------------------- */

/* One database's part. */
typedef struct part {
	sq_file *file;
	pgs_commit_token token;
	pgs_commit_options options;
	uint64_t base, previous;
} part;

typedef struct parts {
	part all[PGS_COMMIT_MANY_MAX];
	pgs_txn *txns[PGS_COMMIT_MANY_MAX];
	const pgs_commit_options *options[PGS_COMMIT_MANY_MAX];
	size_t count, written; /* those that are written come first */
} parts;

static void add_part(parts *p, sq_file *f, pgs_txn *txn)
{
	part *one = &p->all[p->count];
	*one = (part){.file = f, .options = PGS_COMMIT_OPTIONS_INIT, .base = pgs_txn_revision(txn)};
	one->options.token = &one->token;
	one->options.relied = next_known;
	one->options.relied_ctx = &f->known;
	one->options.previous_revision = &one->previous;
	p->txns[p->count] = txn;
	p->options[p->count++] = &one->options;
}

static bool is_among(const parts *p, const sq_database *database)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->all[i].file->database == database)
			return true;
	return false;
}

/* Whether the transaction has gone by what this file had, and others may have changed it since. In autocommit mode it
 * belongs to another statement. */
static bool is_relied_on(const parts *p, const sq_file *f)
{
	const sq_file *first = p->all[0].file;
	return f->reader && !f->read_only && !f->has_turn && f->database->store == first->database->store &&
	       (f->state == SQ_WRITING || (f->state == SQ_NOT_WRITING && !first->has_turn)) &&
	       !is_among(p, f->database);
}

static int add_relied(parts *p, const sq_file *of)
{
	for (sq_file *f = sq_files_next(of, NULL); f; f = sq_files_next(of, f)) {
		pgs_txn *txn;
		if (!is_relied_on(p, f))
			continue;
		if (p->count == PGS_COMMIT_MANY_MAX)
			return sq_refuse(f, SQLITE_ERROR, "a transaction cannot use that many databases");
		int result = sq_fork_writer(f, &txn);
		if (result != SQLITE_OK)
			return result;
		add_part(p, f, txn);
	}
	return SQLITE_OK;
}

static int gather(parts *p, sq_file *of)
{
	p->count = 0;
	add_part(p, of, of->writer);
	p->written = 1;
	for (sq_file *f = sq_files_next(of, NULL); f; f = sq_files_next(of, f)) {
		if (f == of || f->state != SQ_PREPARED)
			continue;
		if (p->count == PGS_COMMIT_MANY_MAX)
			return sq_refuse(f, SQLITE_ERROR, "a transaction cannot change that many databases");
		add_part(p, f, f->writer);
		p->written++;
	}
	return add_relied(p, of);
}

/* The outcome was not known: ask, one of them, as it is the same for all. */
static int settle(parts *p, uint64_t *revision, pgs_error *err)
{
	int result = PGS_EUNKNOWN, status;
	for (size_t i = 0; i < p->written && result != PGS_OK; i++) {
		result = pgs_commit_status(p->all[i].file->db, &p->all[i].token, &status, revision, err);
		p->all[i].previous = 0;
	}
	if (result != PGS_OK)
		return PGS_EUNKNOWN;
	return status == PGS_COMMIT_HAPPENED ? PGS_OK : PGS_EIO;
}

static int commit_parts(parts *p)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision = 0;
	size_t which;
	int result = pgs_commit_many(p->txns, p->options, p->count, &which, &revision, &err), code = SQLITE_OK;
	for (size_t i = 0; i < p->written; i++)
		p->all[i].file->writer = NULL;
	if (result == PGS_EUNKNOWN)
		result = settle(p, &revision, &err);
	for (size_t i = p->written; i-- > 0;) {
		part *one = &p->all[i];
		one->file->error = err;
		code = result == PGS_OK ? committed(one->file, revision, one->previous != one->base)
					: failed(one->file, result);
	}
	if (result == PGS_ECONFLICT && which >= p->written && which < p->count)
		p->all[which].file->others = true;
	return code;
}

/* Nothing was sent. */
static void give_up(sq_file *of, const parts *p)
{
	for (size_t i = p->written; i < p->count; i++)
		pgs_abort(p->txns[i]);
	for (sq_file *f = sq_files_next(of, NULL); f; f = sq_files_next(of, f))
		if (f->state == SQ_PREPARED) {
			f->state = SQ_FAILED;
			f->size = sq_header_size(&f->seen);
		}
}

int sq_publish(sq_file *f)
{
	parts p;
	int result = gather(&p, f);
	if (result == SQLITE_OK)
		result = commit_parts(&p);
	else
		give_up(f, &p);
	for (size_t i = 0; i < p.written; i++) {
		p.all[i].file->has_turn = false;
		sq_turn_give(p.all[i].file->database, p.all[i].file);
	}
	give_turns(f);
	return result;
}

/* --- SYNC ---------------------------------------------------------------------------------------------------- */

/* Whether it goes together with what is prepared. */
static int check_together(sq_file *f)
{
	bool several = false;
	for (const sq_file *other = sq_files_next(f, NULL); other; other = sq_files_next(f, other)) {
		if (other == f || other->state != SQ_PREPARED)
			continue;
		several = true;
		if (other->database->store != f->database->store)
			return sq_refuse(f, SQLITE_ERROR, "a transaction cannot change databases of different stores");
	}
	if (several && sq_writes_foreign_file(f))
		return sq_refuse(f, SQLITE_ERROR, "a transaction cannot change several databases in a pagestore, and another "
						  "file, too");
	return SQLITE_OK;
}

/* Whether SQLite may say SYNC of another one yet. */
static bool is_last(const sq_file *f)
{
	int place = -1;
	for (const sq_file *other = sq_files_next(f, NULL); other; other = sq_files_next(f, other)) {
		if (other == f || other->state != SQ_WRITING)
			continue;
		if (place < 0)
			place = sq_schema_of(f);
		if (place < 0 || sq_schema_of(other) > place)
			return false;
	}
	return true;
}

static int prepare(sq_file *f, const char *super)
{
	int result = check_together(f);
	if (result == SQLITE_OK && write_header(f) != PGS_OK) {
		f->error = *pgs_txn_error(f->writer);
		return failed(f, f->error.code);
	}
	if (result == SQLITE_OK)
		result = sq_super_join(f, super);
	f->state = result == SQLITE_OK ? SQ_PREPARED : SQ_FAILED;
	return result;
}

/* Mostly the turn was taken with the EXCLUSIVE lock; it was not when that was needed before, to write pages ahead of the
 * commit. COMMIT may be tried again, but not where the super-journal's name is in the journal by now: no page could be
 * added to that. */
static int without_turn(sq_file *f, const char *super)
{
	if (!super)
		return SQLITE_BUSY;
	f->error = (pgs_error){.code = PGS_EBUSY, .page = PGS_NO_PAGE, .message = "another transaction has the turn to write"};
	return failed(f, PGS_EBUSY);
}

int sq_commit(sq_file *f, const char *super)
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
	if (!wait_for_turns(f))
		return without_turn(f, super);
	int result = prepare(f, super);
	if (result == SQLITE_OK && is_last(f))
		return sq_publish(f);
	if (result != SQLITE_OK)
		give_turns(f);
	return result;
}
