/* Transactions on a cache file. */
#include "local_cache/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "codec/seal.h"
#include "local_cache/queue.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/hooks.h"

#define VALUE_MAX ((size_t)4 << 20) /* of anything */
#define DISK_FULL_MS 60000 /* so long it is not tried whether there is room again */

static _Thread_local jmp_buf *trap;

/* --- what can go wrong -------------------------------------------------------------- */

void pgs__cache_file_broken(pgs__cache_file *file)
{
	atomic_store(&file->state.words->condition, PGS__SHARED_BROKEN);
	atomic_store(&file->failed, true);
}

bool pgs__cache_file_usable(const pgs__cache_file *file)
{
	return !file->forked && !atomic_load_explicit(&file->failed, memory_order_relaxed) &&
	       atomic_load_explicit(&file->state.words->condition, memory_order_relaxed) != PGS__SHARED_BROKEN;
}

void pgs__cache_file_assertion(MDB_env *env, const char *message)
{
	(void)env;
	(void)message;
	if (trap)
		longjmp(*trap, 1); /* NOLINT(cert-err52-cpp): the alternative is LMDB's abort() */
}

int pgs__cache_file_guard(pgs__cache_file *file, int (*call)(pgs__cache_file *file, void *ctx), void *ctx)
{
	jmp_buf here;
	if (setjmp(here)) { /* NOLINT(cert-err52-cpp) */
		trap = NULL;
		atomic_store(&file->trapped, true);
		pgs__cache_file_broken(file);
		return MDB_CORRUPTED;
	}
	trap = &here;
	int rc = call(file, ctx);
	trap = NULL;
	return rc;
}

/* What says that the file itself is damaged, and not that there is no room, memory or slot. */
static bool is_damage(int rc)
{
	switch (rc) {
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_INVALID:
	case MDB_VERSION_MISMATCH:
	case MDB_INCOMPATIBLE:
	case MDB_CURSOR_FULL:
	case MDB_PAGE_FULL:
	case MDB_BAD_VALSIZE:
	case MDB_BAD_TXN:
	case MDB_BAD_DBI:
	case MDB_PANIC:
		return true;
	default:
		return false;
	}
}

/* Note a result that is a failure. */
static int note(pgs__cache_file *file, int rc)
{
	if (rc == 0 || rc == PGS__CACHE_NOTHING_TO_DO || rc == EBUSY || rc == PGS__CACHE_TOO_LARGE)
		return rc;
	pgs__cache_count(file, PGS__COUNT_ERRORS, 1);
	if (is_damage(rc))
		pgs__cache_file_broken(file);
	return rc;
}

int pgs__cache_file_error(pgs__cache_file *file, int rc, const char *what, pgs_error *err)
{
	const char *path = file->path;
	if (rc == 0 || rc == PGS__CACHE_NOTHING_TO_DO)
		return PGS_OK;
	if (rc == ENOMEM)
		return pgs__error_nomem(err, what);
	if (rc == EBUSY)
		return pgs__error(err, PGS_EBUSY, "%s: other processes keep the cache '%s' busy", what, path);
	if (rc == PGS__CACHE_TOO_LARGE)
		return pgs__error(err, PGS_ELIMIT, "%s: it alone would take more than half of the cache '%s'", what, path);
	if (rc == ENOSPC || rc == EDQUOT || rc == MDB_MAP_FULL || rc == MDB_TXN_FULL)
		return pgs__error(err, PGS_ENOSPC, "%s: no room in the cache '%s': %s", what, path, mdb_strerror(rc));
	if (rc == EOWNERDEAD)
		return pgs__error(err, PGS_EIO, "%s: the cache '%s' was opened before a fork", what, path);
	return pgs__error(err, PGS_EIO, "%s: the cache '%s' failed (%s): reads go on without it; it is started over "
			  "when it is opened anew", what, path, mdb_strerror(rc));
}

/* EOWNERDEAD: a child after fork(), where LMDB must not be used. */
static int unusable(const pgs__cache_file *file)
{
	return file->forked ? EOWNERDEAD : MDB_PANIC;
}

/* --- reading --------------------------------------------------------------------------- */

typedef struct reading {
	pgs__cache_file_work work;
	void *ctx;
} reading;

static MDB_txn *pool_take(pgs__cache_file *file)
{
	pthread_mutex_lock(&file->pool_lock);
	MDB_txn *txn = file->pool_size ? file->pool[--file->pool_size] : NULL;
	pthread_mutex_unlock(&file->pool_lock);
	return txn;
}

static void pool_give(pgs__cache_file *file, MDB_txn *txn)
{
	mdb_txn_reset(txn);
	pthread_mutex_lock(&file->pool_lock);
	bool keep = file->pool_size < sizeof file->pool / sizeof *file->pool;
	if (keep)
		file->pool[file->pool_size++] = txn;
	pthread_mutex_unlock(&file->pool_lock);
	if (!keep)
		mdb_txn_abort(txn);
}

static int begin_read(pgs__cache_file *file, MDB_txn **txn)
{
	*txn = pool_take(file);
	if (*txn) {
		int rc = mdb_txn_renew(*txn);
		if (rc)
			mdb_txn_abort(*txn);
		return rc;
	}
	int dead, rc = mdb_txn_begin(file->mdb, NULL, MDB_RDONLY, txn);
	if (rc != MDB_READERS_FULL)
		return rc;
	mdb_reader_check(file->mdb, &dead);
	return mdb_txn_begin(file->mdb, NULL, MDB_RDONLY, txn);
}

static int run_read(pgs__cache_file *file, void *ctx)
{
	const reading *r = ctx;
	MDB_txn *txn;
	int rc = begin_read(file, &txn);
	if (rc)
		return rc;
	rc = r->work(file, txn, r->ctx);
	pool_give(file, txn);
	return rc;
}

int pgs__cache_file_read(pgs__cache_file *file, pgs__cache_file_work work, void *ctx)
{
	reading r = {work, ctx};
	pgs__switch_point();
	if (!pgs__cache_file_usable(file))
		return unusable(file);
	return note(file, pgs__cache_file_guard(file, run_read, &r));
}

int pgs__cache_file_read_within(pgs__cache_file *file, pgs__cache_file_work work, void *ctx)
{
	reading r = {work, ctx};
	return run_read(file, &r);
}

/* --- the turn to write ------------------------------------------------------------------ */

static bool lock_here(pgs__cache_file *file, uint64_t deadline_ms)
{
	struct timespec until;
	if (pthread_mutex_trylock(&file->write_lock) == 0)
		return true;
	uint64_t now = pgs__now_ms();
	if (deadline_ms == 0 || now >= deadline_ms)
		return false;
	clock_gettime(CLOCK_REALTIME, &until);
	uint64_t ns = (uint64_t)until.tv_nsec + (deadline_ms - now) % 1000 * 1000000;
	until.tv_sec += (time_t)((deadline_ms - now) / 1000 + ns / 1000000000);
	until.tv_nsec = (long)(ns % 1000000000);
	return pthread_mutex_timedlock(&file->write_lock, &until) == 0;
}

/* Not LMDB's own lock, which cannot be waited for with a limit: a stopped process that has it would stop everyone. */
static bool lock_writers(pgs__cache_file *file, uint64_t deadline_ms)
{
	if (!lock_here(file, deadline_ms))
		return false;
	if (pgs__shared_lock(&file->state, PGS__LOCK_WRITE, true, deadline_ms))
		return true;
	pthread_mutex_unlock(&file->write_lock);
	return false;
}

static void unlock_writers(pgs__cache_file *file)
{
	pgs__shared_unlock(&file->state, PGS__LOCK_WRITE);
	pthread_mutex_unlock(&file->write_lock);
}

/* Have disk space for what may be written, and for as much again as it takes to delete something when there is no more:
 * a file that cannot grow a page could not even be made smaller. On a full disk, what the file has must do for a while. */
static void have_space(pgs__cache_file *file, uint64_t pages)
{
	MDB_envinfo info;
	int fd;
	if (mdb_env_get_fd(file->mdb, &fd) || mdb_env_info(file->mdb, &info))
		return;
	uint64_t want = info.me_last_pgno + 1 + pages + pgs__queue_reserve(file) / 2;
	want = want < file->map_pages ? want : file->map_pages;
	if (want <= file->disk_pages || pgs__cache_file_room(file) < file->map_pages)
		return;
	off_t from = (off_t)(file->disk_pages * file->page_size), to = (off_t)(want * file->page_size);
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, from, to - from) == 0 || errno == EOPNOTSUPP || errno == ENOSYS) {
		file->disk_pages = want;
	} else if (errno == ENOSPC || errno == EDQUOT) {
		atomic_store(&file->full_pages, file->disk_pages ? file->disk_pages : info.me_last_pgno + 1);
		atomic_store(&file->full_until_ms, pgs__now_ms() + DISK_FULL_MS);
	}
}

/* Before the file is written (D4). */
static int make_dirty(pgs__cache_file *file)
{
	pgs__shared_words *w = file->state.words;
	if (atomic_load(&w->condition) != PGS__SHARED_CLEAN)
		return 0;
	pgs__shared_boot(w->boot);
	atomic_store(&w->condition, PGS__SHARED_DIRTY);
	if (pgs__shared_sync(&file->state) == PGS_OK)
		return 0;
	atomic_store(&w->condition, PGS__SHARED_CLEAN);
	return EIO;
}

int pgs__cache_file_checkpoint(pgs__cache_file *file, uint64_t deadline_ms)
{
	pgs__shared_words *w = file->state.words;
	if (!pgs__cache_file_usable(file))
		return unusable(file);
	if (atomic_load(&w->condition) == PGS__SHARED_CLEAN)
		return 0;
	mdb_env_sync(file->mdb, 1); /* most of it, while others may write */
	if (!lock_writers(file, deadline_ms))
		return EBUSY;
	int rc = pgs__cache_file_usable(file) ? mdb_env_sync(file->mdb, 1) : unusable(file);
	if (!rc && atomic_load(&w->condition) == PGS__SHARED_DIRTY) {
		atomic_store(&w->condition, PGS__SHARED_CLEAN);
		rc = pgs__shared_sync(&file->state) == PGS_OK ? 0 : EIO;
	}
	unlock_writers(file);
	return note(file, rc);
}

/* --- writing ------------------------------------------------------------------------------ */

typedef struct writing {
	pgs__cache_file_work work;
	void *ctx;
	uint64_t pages;
} writing;

static int run_write(pgs__cache_file *file, void *ctx)
{
	const writing *w = ctx;
	MDB_txn *txn;
	int rc = mdb_txn_begin(file->mdb, NULL, 0, &txn);
	if (rc)
		return rc;
	rc = pgs__queue_make_room(file, txn, w->pages);
	if (!rc)
		rc = w->work(file, txn, w->ctx);
	if (!rc)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return rc;
}

static bool is_full(int rc)
{
	return rc == MDB_MAP_FULL || rc == MDB_TXN_FULL || rc == ENOSPC || rc == EDQUOT;
}

static int change_something(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	pgs__queues q;
	(void)ctx;
	int rc = pgs__queues_read(file, txn, &q);
	return rc ? rc : pgs__queues_write(file, txn, &q);
}

/* Freed pages are there for the transaction after next: so room is made, and then it is tried again. A transaction that
 * changes nothing is none to LMDB. */
static int make_room(pgs__cache_file *file, uint64_t pages)
{
	writing w = {.work = change_something, .pages = pages};
	int dead, rc = 0;
	mdb_reader_check(file->mdb, &dead);
	for (int i = 0; i < 2 && !rc; i++)
		rc = pgs__cache_file_guard(file, run_write, &w);
	return rc;
}

int pgs__cache_file_write(pgs__cache_file *file, uint64_t pages, uint64_t deadline_ms, pgs__cache_file_work work,
		    pgs__cache_file_committed committed, void *ctx)
{
	writing w = {work, ctx, pages};
	pgs__switch_point();
	if (!pgs__cache_file_usable(file))
		return unusable(file);
	if (!lock_writers(file, deadline_ms))
		return EBUSY;
	pgs__switch_point();
	int rc = pgs__cache_file_usable(file) ? make_dirty(file) : unusable(file);
	if (!rc) {
		have_space(file, pages);
		rc = pgs__cache_file_guard(file, run_write, &w);
	}
	if (is_full(rc)) {
		rc = make_room(file, 2 * pages);
		if (!rc)
			rc = pgs__cache_file_guard(file, run_write, &w);
	}
	if (!rc)
		pgs__switch_point();
	if (!rc && committed && !file->forked)
		committed(file, ctx);
	unlock_writers(file);
	return note(file, rc);
}

/* In the map, all of it; or in LMDB's own memory, where a transaction's changed pages are, and not too large. */
static bool sane(const pgs__cache_file *file, const MDB_val *v)
{
	uint64_t size = file->map_pages * file->page_size, at = (uint64_t)((uintptr_t)v->mv_data - (uintptr_t)file->map);
	return at < size ? v->mv_size <= size - at : v->mv_size <= VALUE_MAX;
}

int pgs__cache_get(const pgs__cache_file *file, MDB_txn *txn, MDB_dbi table, MDB_val *key, MDB_val *value)
{
	int rc = mdb_get(txn, table, key, value);
	return rc || sane(file, value) ? rc : MDB_CORRUPTED;
}

int pgs__cache_cursor_get(const pgs__cache_file *file, MDB_cursor *cursor, MDB_val *key, MDB_val *value, MDB_cursor_op op)
{
	int rc = mdb_cursor_get(cursor, key, value, op);
	return rc || (key->mv_size <= PGS__CACHE_KEY_MAX && sane(file, key) && sane(file, value)) ? rc : MDB_CORRUPTED;
}

/* --- how full it is --------------------------------------------------------------------------- */

int pgs__cache_file_used(pgs__cache_file *file, MDB_txn *txn, uint64_t *pages)
{
	const MDB_dbi tables[] = {0, 1, file->meta, file->pages, file->queue, file->mirror, file->dead};
	*pages = 2; /* LMDB's meta pages */
	for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
		MDB_stat st;
		int rc = mdb_stat(txn, tables[i], &st);
		if (rc)
			return rc;
		*pages += st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages;
	}
	return 0;
}

uint64_t pgs__cache_file_room(const pgs__cache_file *file)
{
	uint64_t full = atomic_load(&file->full_pages);
	if (full && full < file->map_pages && !pgs__deadline_passed(atomic_load(&file->full_until_ms)))
		return full;
	return file->map_pages;
}

/* --- small values ------------------------------------------------------------------------------ */

void pgs__cache_meta_key(pgs__cache_meta_value *m, const void *key, size_t size)
{
	m->writer = (pgs__buffer){.data = m->bytes, .capacity = sizeof m->bytes};
	m->key_size = size;
	pgs__put_bytes(&m->writer, key, size);
}

int pgs__cache_meta_get(pgs__cache_file *file, MDB_txn *txn, pgs__cache_meta_value *m, pgs__reader *r)
{
	MDB_val key = pgs__val(m->bytes, m->key_size), value;
	int rc = pgs__cache_get(file, txn, file->meta, &key, &value);
	if (rc)
		return rc;
	if (value.mv_size > sizeof m->bytes - m->key_size)
		return PGS__CACHE_BAD_RECORD;
	memcpy(m->bytes + m->key_size, value.mv_data, value.mv_size);
	pgs_slice whole = {m->bytes, m->key_size + value.mv_size};
	if (!pgs__unseal(&whole) || whole.size < m->key_size)
		return PGS__CACHE_BAD_RECORD;
	*r = pgs__reader_of((pgs_slice){m->bytes + m->key_size, whole.size - m->key_size});
	return 0;
}

int pgs__cache_meta_put(pgs__cache_file *file, MDB_txn *txn, pgs__cache_meta_value *m)
{
	pgs__seal(&m->writer, 0);
	MDB_val key = pgs__val(m->bytes, m->key_size);
	MDB_val value = pgs__val(m->bytes + m->key_size, m->writer.size - m->key_size);
	return mdb_put(txn, file->meta, &key, &value, 0);
}

int pgs__cache_meta_number(pgs__cache_file *file, MDB_txn *txn, uint32_t *number)
{
	pgs__cache_meta_value m;
	pgs__reader r;
	pgs__cache_meta_key(&m, "n", 1);
	int rc = pgs__cache_meta_get(file, txn, &m, &r);
	if (rc)
		return rc == MDB_NOTFOUND || rc == PGS__CACHE_BAD_RECORD ? MDB_CORRUPTED : rc;
	*number = pgs__read_u32be(&r);
	if (r.failed || *number == UINT32_MAX)
		return MDB_CORRUPTED;
	pgs__cache_meta_key(&m, "n", 1);
	pgs__put_u32be(&m.writer, *number + 1);
	return pgs__cache_meta_put(file, txn, &m);
}
