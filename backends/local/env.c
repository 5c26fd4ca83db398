/* Transactions on an open environment, and what LMDB's results mean. */
#include "env.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "redo.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

/* More threads than this reading at once pay for a new read transaction. */
#define POOL_MAX 32

/* With less free than this, a short write is taken for a full disk. */
#define DISK_FULL_BYTES ((uint64_t)1 << 20)

static int code_of(int rc)
{
	switch (rc) {
	case MDB_MAP_FULL:
		return PGS_ENOSPC;
	case MDB_TXN_FULL:
		return PGS_ELIMIT;
	case MDB_VERSION_MISMATCH:
		return PGS_EVERSION;
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_PAGE_FULL:
	case MDB_CURSOR_FULL:
	case MDB_INVALID:
	case MDB_INCOMPATIBLE:
	case MDB_NOTFOUND:
	case MDB_BAD_VALSIZE:
		return PGS_ECORRUPT;
	case ENOENT:
	case ENOTDIR:
	case EINVAL:
		return PGS_EIO; /* of LMDB's own calls: not the caller's fault */
	default:
		return rc > 0 ? pgs__error_from_errno(rc) : PGS_EIO;
	}
}

int pgs__env_error_at(const char *path, size_t map_bytes, int rc, const char *what, pgs_error *err)
{
	int code = code_of(rc);
	if (rc == MDB_MAP_FULL)
		return pgs__error(err, code,
			"%s in '%s': its map of %zu bytes is full: compact it, or open it with a larger map=", what,
			path, map_bytes);
	if (rc == MDB_READERS_FULL)
		return pgs__error(err, code, "%s in '%s': every reader slot is taken: close handles in other processes",
			what, path);
	if (rc == MDB_PANIC)
		return pgs__error(err, code,
			"%s in '%s': an earlier write to it failed: close every handle on it and open it again", what,
			path);
	if (rc == MDB_VERSION_MISMATCH)
		return pgs__error(err, code, "%s in '%s': the files are of another LMDB version", what, path);
	if (code == PGS_ECORRUPT)
		return pgs__error(err, code,
			"%s in '%s': the data file is damaged or not LMDB's (%s): restore it from a backup", what, path,
			mdb_strerror(rc));
	if (code == PGS_ENOSPC)
		return pgs__error(err, code, "%s in '%s': %s: free disk space", what, path, strerror(rc));
	return pgs__error(err, code, "%s in '%s': %s", what, path, mdb_strerror(rc));
}

int pgs__env_error(const pgs__env *env, int rc, const char *what, pgs_error *err)
{
	MDB_envinfo info = {0};
	if (rc == MDB_MAP_FULL)
		mdb_env_info(env->mdb, &info);
	return pgs__env_error_at(env->path, info.me_mapsize, rc, what, err);
}

int pgs__env_check(const pgs__env *env, pgs_error *err)
{
	if (env->forks == pgs__env_forks())
		return PGS_OK;
	return pgs__error(err, PGS_EINVAL, "the store in '%s' was opened before a fork: open it again in this process",
		env->path);
}

/* Another process made the map larger than ours: take its size (L3). */
static int follow_resize(pgs__env *env, pgs_error *err)
{
	pthread_rwlock_wrlock(&env->map_lock);
	int rc = mdb_env_set_mapsize(env->mdb, 0);
	pthread_rwlock_unlock(&env->map_lock);
	return rc ? pgs__env_error(env, rc, "cannot enlarge the map", err) : PGS_OK;
}

static void view_free(pgs__view *view)
{
	if (view->versions)
		mdb_cursor_close(view->versions);
	if (view->log)
		mdb_cursor_close(view->log);
	if (view->txn)
		mdb_txn_abort(view->txn);
	pgs__free(view);
}

static pgs__view *pool_take(pgs__env *env)
{
	pthread_mutex_lock(&env->pool_lock);
	pgs__view *view = env->pool;
	if (view) {
		env->pool = view->next;
		env->pool_size--;
	}
	pthread_mutex_unlock(&env->pool_lock);
	return view;
}

/* Start `view`, fresh or from the pool. The result is LMDB's. */
static int view_start(pgs__env *env, pgs__view *view)
{
	int rc;
	if (view->txn) {
		rc = mdb_txn_renew(view->txn);
		if (!rc)
			rc = mdb_cursor_renew(view->txn, view->versions);
		return rc ? rc : mdb_cursor_renew(view->txn, view->log);
	}
	rc = mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &view->txn);
	if (!rc)
		rc = mdb_cursor_open(view->txn, env->versions, &view->versions);
	return rc ? rc : mdb_cursor_open(view->txn, env->log, &view->log);
}

/* Slots of dead processes, then those that idle in our own pool. */
static void free_reader_slots(pgs__env *env)
{
	int dead;
	mdb_reader_check(env->mdb, &dead);
	for (pgs__view *view; (view = pool_take(env));)
		view_free(view);
}

static void note_seen(pgs__env *env, uint64_t id)
{
	uint64_t seen = atomic_load_explicit(&env->seen, memory_order_relaxed);
	while (seen < id && !atomic_compare_exchange_weak_explicit(
				    &env->seen, &seen, id, memory_order_release, memory_order_relaxed)) {
	}
}

int pgs__env_view_begin(pgs__env *env, pgs__view **out, pgs_error *err)
{
	*out = NULL;
	for (int attempt = 0;; attempt++) {
		pgs__view *view = pool_take(env);
		if (!view)
			view = pgs__calloc(1, sizeof *view);
		if (!view)
			return pgs__error_nomem(err, "a read transaction");
		pthread_rwlock_rdlock(&env->map_lock);
		int rc = view_start(env, view);
		if (!rc) {
			note_seen(env, mdb_txn_id(view->txn));
			*out = view;
			return PGS_OK;
		}
		view_free(view);
		if (rc == MDB_READERS_FULL && attempt == 0)
			free_reader_slots(env);
		pthread_rwlock_unlock(&env->map_lock);
		if (rc == MDB_MAP_RESIZED && attempt < 10) {
			int status = follow_resize(env, err);
			if (status)
				return status;
			continue;
		}
		if (rc != MDB_READERS_FULL || attempt > 0)
			return pgs__env_error(env, rc, "cannot begin a read transaction", err);
	}
}

void pgs__env_view_end(pgs__env *env, pgs__view *view)
{
	if (!view)
		return;
	mdb_txn_reset(view->txn);
	pthread_mutex_lock(&env->pool_lock);
	bool keep = env->pool_size < POOL_MAX;
	if (keep) {
		view->next = env->pool;
		env->pool = view;
		env->pool_size++;
	}
	pthread_mutex_unlock(&env->pool_lock);
	if (!keep)
		view_free(view);
	pthread_rwlock_unlock(&env->map_lock);
}

/* A transaction of LMDB's is written into the newer of two meta pages, whose number mdb_env_info() loads from the map,
 * and only after that, while it may be waiting for the disk in between, told to readers by a number in the lock file.
 * So the first number is never behind what readers see, but it may be ahead: it stands for what they see only if one of
 * them has seen it. Else one begins, to find out; that renews a transaction of the pool. */
uint64_t pgs__env_last_visible(pgs__env *env)
{
	MDB_envinfo info;
	pgs__view *view;
	uint64_t seen = atomic_load_explicit(&env->seen, memory_order_acquire);
	if (pgs__env_check(env, NULL) || pthread_rwlock_tryrdlock(&env->map_lock))
		return 0;
	mdb_env_info(env->mdb, &info);
	pthread_rwlock_unlock(&env->map_lock);
	if (info.me_last_txnid == seen)
		return seen;
	pgs__env_view_begin(env, &view, NULL);
	if (!view)
		return 0;
	uint64_t id = mdb_txn_id(view->txn);
	pgs__env_view_end(env, view);
	return id;
}

/* Handles of different durability share an environment, so that the choice is
 * made per transaction: LMDB's flags are the environment's, but it looks at
 * them when it commits, and only one transaction writes at a time.
 *
 * Full: the pages are synced, then the meta page that points to them is written
 * and synced; or the pages and a record of what they say are synced together,
 * and the meta page is left as by lazy (redo.c). Lazy: the meta page is left to the kernel, to be synced with the
 * next commit's pages or by itself: a crash of the machine may lose the last
 * commits, and what remains is the store as it was after an earlier one. Off:
 * nothing is synced, so a meta page may reach the disk before the pages it
 * points to: a crash of the machine may lose the store. A full commit makes all
 * earlier ones durable, of whatever handle. */
static unsigned sync_flags(pgs_sync sync)
{
	return sync == PGS_SYNC_OFF ? MDB_NOSYNC : sync == PGS_SYNC_LAZY ? MDB_NOMETASYNC : 0;
}

static int choose_sync(pgs__env *env, pgs_sync sync)
{
	unsigned wanted = sync_flags(sync);
	if (wanted == env->sync_flags)
		return 0;
	int rc = mdb_env_set_flags(env->mdb, MDB_NOSYNC | MDB_NOMETASYNC, 0);
	if (!rc && wanted)
		rc = mdb_env_set_flags(env->mdb, wanted, 1);
	if (!rc)
		env->sync_flags = wanted;
	return rc;
}

int pgs__env_write_begin(pgs__env *env, pgs_sync sync, MDB_txn **out, pgs_error *err)
{
	for (int attempt = 0;; attempt++) {
		*out = NULL;
		pthread_rwlock_rdlock(&env->map_lock);
		int rc = mdb_txn_begin(env->mdb, NULL, 0, out);
		if (!rc && !(rc = choose_sync(env, sync)))
			return PGS_OK;
		if (*out)
			mdb_txn_abort(*out);
		pthread_rwlock_unlock(&env->map_lock);
		if (rc != MDB_MAP_RESIZED || attempt == 10)
			return pgs__env_error(env, rc, "cannot begin a transaction", err);
		int status = follow_resize(env, err);
		if (status)
			return status;
	}
}

/* A disk that fills up in the middle of a write makes it short, which LMDB calls EIO. */
static bool disk_is_full(pgs__env *env)
{
	struct statvfs fs;
	int fd;
	return !mdb_env_get_fd(env->mdb, &fd) && !fstatvfs(fd, &fs) &&
	       (uint64_t)fs.f_bavail * fs.f_frsize < DISK_FULL_BYTES;
}

/* LMDB writes and syncs pages, then writes the meta page that makes them count.
 * When that last step fails it marks the environment as unusable (MDB_PANIC
 * from then on), and only then may the disk have the commit or not. */
static int commit_failed(pgs__env *env, int rc, pgs_error *err)
{
	MDB_txn *probe;
	int probed = mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &probe);
	if (!probed)
		mdb_txn_abort(probe);
	if (probed != MDB_PANIC)
		return pgs__env_error(env, rc == EIO && disk_is_full(env) ? ENOSPC : rc, "cannot commit", err);
	return pgs__error(err, PGS_EUNKNOWN,
		"cannot tell if the commit in '%s' happened: %s: close every handle on it and open it again", env->path,
		mdb_strerror(rc));
}

/* The record of a commit that failed is wiped; should the machine stop before that is on the disk, it would come back. */
static int take_back(pgs__env *env, size_t id, int status, pgs_error *err)
{
	int fd;
	if (pgs__redo_forget(env, id) && !mdb_env_get_fd(env->mdb, &fd) && !fdatasync(fd))
		return status;
	return pgs__error_prefix(err, PGS_EUNKNOWN, "if the machine stops now the commit may turn out to have happened");
}

int pgs__env_write_commit(pgs__env *env, MDB_txn *txn, pgs__buffer *puts, pgs_error *err)
{
	size_t id = mdb_txn_id(txn);
	bool recorded = puts && pgs__redo_write(env, id, puts);
	int rc = 0;
	if (recorded)
		rc = choose_sync(env, PGS_SYNC_LAZY);
	else if (!pgs__redo_forget(env, id))
		rc = EIO;
	if (rc)
		mdb_txn_abort(txn);
	else
		rc = mdb_txn_commit(txn);
	int status = rc ? commit_failed(env, rc, err) : PGS_OK;
	if (status && recorded && status != PGS_EUNKNOWN)
		status = take_back(env, id, status, err);
	pthread_rwlock_unlock(&env->map_lock);
	return status;
}

void pgs__env_write_abort(pgs__env *env, MDB_txn *txn)
{
	mdb_txn_abort(txn);
	pthread_rwlock_unlock(&env->map_lock);
}

/* A plain fcntl() lock: the kernel drops it when the process dies, and a child
 * made by fork() does not inherit it. Polled, because a blocking wait has no limit. */
int pgs__env_lock_writers(pgs__env *env, uint64_t deadline_ms, pgs_error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
	struct timespec pause = {0, 20000};
	while (fcntl(env->writer_fd, F_SETLK, &lock)) {
		if (errno != EAGAIN && errno != EACCES && errno != EINTR)
			return pgs__error(err, PGS_EIO, "cannot lock '%s/writer.lock': %s", env->path, strerror(errno));
		if (pgs__deadline_passed(deadline_ms))
			return pgs__error(
				err, PGS_ETIMEOUT, "another process kept '%s' locked past the deadline", env->path);
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 500000)
			pause.tv_nsec += pause.tv_nsec / 4;
	}
	return PGS_OK;
}

void pgs__env_unlock_writers(pgs__env *env)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
	fcntl(env->writer_fd, F_SETLK, &lock);
}

void pgs__env_announce(pgs__env *env)
{
	pthread_mutex_lock(&env->wake_lock);
	env->commits++;
	pthread_cond_broadcast(&env->wake);
	pthread_mutex_unlock(&env->wake_lock);
}

void pgs__env_destroy(pgs__env *env)
{
	/* In a forked child LMDB must not be touched (L2): only our own memory goes, and the inherited map stays. Nor must
	 * conditions, at which a thread of the parent may have waited: destroying them would wait for it. */
	const bool forked = env->forks != pgs__env_forks();
	if (env->mdb && !forked) {
		for (pgs__view *view; (view = pool_take(env));)
			view_free(view);
		mdb_env_close(env->mdb);
	}
	if (env->writer_fd >= 0)
		close(env->writer_fd);
	pthread_rwlock_destroy(&env->map_lock);
	pthread_mutex_destroy(&env->pool_lock);
	pthread_mutex_destroy(&env->queue_lock);
	pthread_mutex_destroy(&env->wake_lock);
	if (!forked) {
		pthread_cond_destroy(&env->turn);
		pthread_cond_destroy(&env->wake);
	}
	pgs__free(env->path);
	pgs__free(env);
}
