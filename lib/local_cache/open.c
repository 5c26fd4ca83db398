/* Opening cache files: the registry of this process, and what may be found at a path.
 *
 *     pgs__cache_file_open ── PATH-state is in the registry? ── yes ── users + 1
 *           │ no
 *           ↓
 *     open it, PGS__LOCK_OPEN; is it still what is at the path? ── no: again
 *           ├─ nobody uses it: all right? ── no: LMDB's files are removed, the state made new
 *           ├─ others do: LMDB's files are not theirs? ── all three are removed, again: who has the old ones keeps them
 *           ↓
 *     LMDB's environment, tables; PGS__LOCK_USE (shared) for as long as it is open
 *
 * The registry's lock is held all the way: nobody else in this process opens or closes these files, which would drop
 * the locks on them.
 */
#include "local_cache/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local_cache/lmdb_page.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/hooks.h"

#define READERS_MAX 1024
#define TABLES 5
#define OPEN_WAIT_MS 5000
#define CLOSE_WAIT_MS 1000
#define ATTEMPTS 8
#define AGAIN 1 /* the files were replaced meanwhile */

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static pgs__cache_file *registry;

static void lock_registry(void)
{
	pthread_mutex_lock(&registry_lock);
}

static void unlock_registry(void)
{
	pthread_mutex_unlock(&registry_lock);
}

/* No file is open that is not in the registry: whoever opens one has its lock. */
static void begin_child(void)
{
	for (pgs__cache_file *f = registry; f; f = f->next)
		f->forked = true;
	unlock_registry();
}

static void watch_forks(void)
{
	pthread_atfork(lock_registry, unlock_registry, begin_child);
}

/* --- files ---------------------------------------------------------------------------- */

typedef struct paths {
	char *data, *lock, *state;
} paths;

static char *with_suffix(const char *path, const char *suffix)
{
	size_t size = strlen(path) + strlen(suffix) + 1;
	char *out = pgs__malloc(size);
	if (out)
		snprintf(out, size, "%s%s", path, suffix);
	return out;
}

static void paths_free(paths *p)
{
	pgs__free(p->data);
	pgs__free(p->lock);
	pgs__free(p->state);
}

static int paths_make(paths *p, const char *path, pgs_error *err)
{
	*p = (paths){with_suffix(path, ""), with_suffix(path, "-lock"), with_suffix(path, "-state")};
	return p->data && p->lock && p->state ? PGS_OK : pgs__error_nomem(err, "opening the cache");
}

static uint64_t inode_of(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* Remove LMDB's files. Whoever still has them open keeps what he has. */
static int remove_data(const paths *p, pgs_error *err)
{
	if ((unlink(p->data) == 0 || errno == ENOENT) && (unlink(p->lock) == 0 || errno == ENOENT))
		return PGS_OK;
	return pgs__error(err, pgs__error_from_errno(errno), "cannot remove the old cache '%s': %s", p->data,
			  strerror(errno));
}

/* --- LMDB ------------------------------------------------------------------------------ */

/* The file's own record: made, or held against the state. MDB_VERSION_MISMATCH: it is not ours, or of another time. */
static int check_format(pgs__cache_file *f, MDB_txn *txn, bool fresh)
{
	pgs__cache_meta_value m;
	pgs__reader r;
	uint8_t id[16];
	pgs__cache_meta_key(&m, "f", 1);
	int rc = pgs__cache_meta_get(f, txn, &m, &r);
	if (rc == MDB_NOTFOUND && fresh) {
		pgs__cache_meta_key(&m, "f", 1);
		pgs__put_u16(&m.writer, PGS__CACHE_FORMAT);
		pgs__put_bytes(&m.writer, f->state.words->file_id, 16);
		rc = pgs__cache_meta_put(f, txn, &m);
		pgs__cache_meta_key(&m, "n", 1);
		pgs__put_u32be(&m.writer, 1);
		return rc ? rc : pgs__cache_meta_put(f, txn, &m);
	}
	if (rc)
		return rc == MDB_NOTFOUND ? MDB_VERSION_MISMATCH : rc;
	if (pgs__read_u16(&r) != PGS__CACHE_FORMAT)
		return MDB_VERSION_MISMATCH;
	pgs__read_bytes(&r, id, sizeof id);
	return r.failed || memcmp(id, f->state.words->file_id, sizeof id) != 0 ? MDB_VERSION_MISMATCH : 0;
}

static int open_tables(pgs__cache_file *f, MDB_txn *txn, bool alone)
{
	const struct {
		const char *name;
		MDB_dbi *table;
	} all[TABLES] = {{"meta", &f->meta}, {"pages", &f->pages}, {"queue", &f->queue}, {"mirror", &f->mirror},
			 {"dead", &f->dead}};
	MDB_stat root;
	int rc = mdb_stat(txn, 1, &root);
	bool fresh = !rc && alone && root.ms_entries == 0;
	for (size_t i = 0; !rc && i < TABLES; i++)
		rc = mdb_dbi_open(txn, all[i].name, fresh ? MDB_CREATE : 0, all[i].table);
	return rc ? rc : check_format(f, txn, fresh);
}

/* Look at the file before LMDB does. Reading a mapped file past its end is a signal, and a damaged one may lead there: so
 * it is made as long as the map, with nothing behind what was not written. */
static int check_file(const pgs__cache_file *f)
{
	size_t size = (size_t)f->state.words->size_bytes;
	struct stat st;
	int fd = open(f->path, O_RDWR | O_CLOEXEC), rc = 0;
	if (fd < 0)
		return errno == ENOENT ? 0 : errno;
	if (fstat(fd, &st) != 0 || ((size_t)st.st_size < size && st.st_size != 0 && ftruncate(fd, (off_t)size) != 0))
		rc = errno;
	else if ((size_t)st.st_size > size)
		rc = MDB_VERSION_MISMATCH; /* it was larger than it may be now */
	void *map = rc || st.st_size == 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (map != MAP_FAILED) {
		rc = pgs__lmdb_file_sound(map, size) ? 0 : MDB_CORRUPTED;
		munmap(map, size);
	}
	close(fd);
	return rc;
}

static int set_length(pgs__cache_file *f)
{
	int fd, rc = mdb_env_get_fd(f->mdb, &fd);
	return rc ? rc : ftruncate(fd, (off_t)f->state.words->size_bytes) ? errno : 0;
}

/* Where LMDB's map is: where it has any record, less where the record's page is in the file. */
static int find_map(pgs__cache_file *f)
{
	MDB_txn *txn;
	MDB_val key = pgs__val("f", 1), value;
	uint64_t number = 0;
	int rc = mdb_txn_begin(f->mdb, NULL, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_get(txn, f->meta, &key, &value);
	if (!rc) {
		const uint8_t *page = (const uint8_t *)value.mv_data - (uintptr_t)value.mv_data % f->page_size;
		memcpy(&number, page, sizeof number);
		f->map = page - number * f->page_size;
	}
	mdb_txn_abort(txn);
	return number < f->map_pages ? rc : MDB_CORRUPTED;
}

/* The simulator's processes are one, in which LMDB cannot lock a file against itself: nor need it there, where nobody else
 * runs while there is a transaction.
 *
 * Without WRITEMAP, a full disk is an error of a write, and not a signal. No read-ahead: what lies together was not
 * written together. */
static int open_env(pgs__cache_file *f, void *ctx)
{
	const unsigned flags = MDB_NOSUBDIR | MDB_NOTLS | MDB_NOSYNC | MDB_NORDAHEAD | (pgs__hooks ? MDB_NOLOCK : 0);
	const bool *alone = ctx;
	MDB_stat main_table;
	MDB_txn *txn;
	int rc = *alone ? check_file(f) : 0;
	if (!rc)
		rc = mdb_env_create(&f->mdb);
	if (!rc)
		rc = mdb_env_set_assert(f->mdb, pgs__cache_file_assertion);
	if (!rc)
		rc = mdb_env_set_maxreaders(f->mdb, READERS_MAX);
	if (!rc)
		rc = mdb_env_set_maxdbs(f->mdb, TABLES);
	if (!rc)
		rc = mdb_env_set_mapsize(f->mdb, (size_t)f->state.words->size_bytes);
	if (!rc)
		rc = mdb_env_open(f->mdb, f->path, flags, PGS__CACHE_MODE);
	if (!rc)
		rc = mdb_env_stat(f->mdb, &main_table);
	if (rc)
		return rc;
	f->page_size = main_table.ms_psize;
	f->map_pages = f->state.words->size_bytes / f->page_size;
	f->disk_pages = 0;
	if (*alone)
		rc = set_length(f);
	if (!rc) /* not to write while others may: that could wait for ever */
		rc = mdb_txn_begin(f->mdb, NULL, *alone ? 0 : MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = open_tables(f, txn, *alone);
	if (rc)
		mdb_txn_abort(txn);
	else
		rc = mdb_txn_commit(txn);
	return rc ? rc : find_map(f);
}

static void close_env(pgs__cache_file *f)
{
	if (!f->mdb || (f->forked && !pgs__hooks) || atomic_load(&f->trapped))
		return; /* of another process, or left in the middle: its memory is all that is lost */
	for (unsigned i = 0; i < f->pool_size; i++)
		mdb_txn_abort(f->pool[i]);
	f->pool_size = 0;
	mdb_env_close(f->mdb);
	f->mdb = NULL;
}

/* --- one that nobody uses ------------------------------------------------------------------ */

static bool condition_good(const pgs__shared_words *w)
{
	static const uint8_t unknown[16];
	uint8_t boot[16];
	uint64_t condition = atomic_load(&w->condition);
	if (condition == PGS__SHARED_CLEAN)
		return true;
	pgs__shared_boot(boot);
	return condition == PGS__SHARED_DIRTY && memcmp(boot, unknown, 16) != 0 && memcmp(boot, w->boot, 16) == 0;
}

/* That of a cache, or nothing, and not somebody else's: without a state beside it, a file must be empty, or LMDB's with
 * our record in it, which shows when it is opened. */
static int check_not_foreign(const paths *p, bool has_state, pgs_error *err)
{
	struct stat st;
	if (stat(p->data, &st) != 0)
		return PGS_OK;
	if (!S_ISREG(st.st_mode))
		return pgs__error(err, PGS_EINVAL, "the cache's path '%s' is that of a %s: name a file, which is made if it is "
				  "missing", p->data, S_ISDIR(st.st_mode) ? "directory" : "device");
	if (st.st_size == 0 || has_state)
		return PGS_OK;
	return pgs__error(err, PGS_EINVAL, "the cache's path '%s' is that of a file that is no cache of ours, or has lost its "
			  "'%s': remove it, or name another path", p->data, p->state);
}

/* Make it new. */
static int start_over(pgs__cache_file *f, const paths *p, uint64_t size_bytes, pgs_error *err)
{
	int status = remove_data(p, err);
	if (status == PGS_OK)
		status = pgs__shared_init(&f->state, size_bytes, err);
	if (status == PGS_OK && pgs__shared_sync(&f->state) != PGS_OK)
		status = pgs__error(err, PGS_EIO, "cannot sync '%s'", p->state);
	return status;
}

static void reset_slots(pgs__shared_words *w)
{
	for (size_t i = 0; i < PGS__SHARED_SLOTS; i++) {
		atomic_store(&w->slots[i].sequence, 0);
		atomic_store(&w->slots[i].required, 0);
		atomic_store(&w->slots[i].confirmed_ms, 0);
		atomic_store(&w->slots[i].verified, 0);
	}
}

/* What is wrong with the path itself was found before: LMDB's EINVAL and ENOENT are not the caller's mistakes. */
static int open_error(const pgs__cache_file *f, int rc, pgs_error *err)
{
	int code = rc > 0 ? pgs__error_from_errno(rc) : PGS_EIO;
	if (code == PGS_EINVAL || code == PGS_ENOTFOUND)
		code = PGS_EIO;
	return pgs__error(err, code, "cannot open the cache '%s' of %llu bytes: %s%s", f->path,
			  (unsigned long long)f->state.words->size_bytes, mdb_strerror(rc),
			  rc == ENOMEM ? ": name a smaller cache_size=" : "");
}

static bool is_resource(int rc)
{
	return rc == ENOSPC || rc == ENOMEM || rc == EACCES || rc == EROFS || rc == EPERM || rc == EMFILE ||
	       rc == ENFILE || rc == EDQUOT || rc == EAGAIN;
}

static int open_alone(pgs__cache_file *f, const paths *p, uint64_t size_bytes, bool *started_over, pgs_error *err)
{
	bool empty, alone = true;
	bool good = pgs__shared_map(&f->state, &empty);
	int status = check_not_foreign(p, !empty, err);
	if (status != PGS_OK && empty)
		unlink(p->state); /* it was made just now, beside something that is not ours */
	if (status != PGS_OK)
		return status;
	*started_over = !empty && (!good || !condition_good(f->state.words));
	good = good && !*started_over && f->state.words->size_bytes == size_bytes;
	if (good) {
		int rc = pgs__cache_file_guard(f, open_env, &alone);
		if (rc == 0 || is_resource(rc))
			return rc ? open_error(f, rc, err) : PGS_OK;
		close_env(f);
		atomic_store(&f->trapped, false);
		atomic_store(&f->failed, false);
		*started_over = true;
	}
	status = start_over(f, p, size_bytes, err);
	if (status != PGS_OK)
		return status;
	int rc = pgs__cache_file_guard(f, open_env, &alone);
	return rc ? open_error(f, rc, err) : PGS_OK;
}

/* --- one that others use ------------------------------------------------------------------- */

static int open_shared(pgs__cache_file *f, const paths *p, pgs_error *err)
{
	bool empty, alone = false;
	const pgs__shared_words *w;
	if (pgs__shared_map(&f->state, &empty) && (w = f->state.words)->data_inode == inode_of(p->data) &&
	    w->lock_inode == inode_of(p->lock) && atomic_load(&w->condition) != PGS__SHARED_BROKEN) {
		int rc = pgs__cache_file_guard(f, open_env, &alone);
		if (rc == 0 || is_resource(rc))
			return rc ? open_error(f, rc, err) : PGS_OK;
	}
	int status = remove_data(p, err);
	if (status == PGS_OK && unlink(p->state) != 0 && errno != ENOENT)
		status = pgs__error(err, pgs__error_from_errno(errno), "cannot remove '%s': %s", p->state,
				    strerror(errno));
	return status == PGS_OK ? AGAIN : status;
}

/* --- the registry ----------------------------------------------------------------------------- */

static void file_free(pgs__cache_file *f)
{
	close_env(f);
	pgs__shared_close(&f->state);
	pgs__buffer_free(&f->pending.bytes);
	pthread_mutex_destroy(&f->write_lock);
	pthread_mutex_destroy(&f->pool_lock);
	pthread_mutex_destroy(&f->pending_lock);
	pthread_mutex_destroy(&f->attach_lock);
	pgs__free(f->path);
	pgs__free(f);
}

static int file_new(pgs__cache_file **out, const char *path, pgs_error *err)
{
	pgs__cache_file *f = pgs__calloc(1, sizeof *f);
	*out = f;
	if (!f)
		return pgs__error_nomem(err, "opening the cache");
	pthread_mutex_init(&f->write_lock, NULL);
	pthread_mutex_init(&f->pool_lock, NULL);
	pthread_mutex_init(&f->pending_lock, NULL);
	pthread_mutex_init(&f->attach_lock, NULL);
	f->state.fd = -1;
	f->users = 1;
	f->path = pgs__strndup(path, strlen(path));
	return f->path ? PGS_OK : pgs__error_nomem(err, "opening the cache");
}

/* Open the state, and have PGS__LOCK_OPEN on what is at the path. */
static int open_state(pgs__cache_file *f, const paths *p, pgs_error *err)
{
	for (int i = 0; i < ATTEMPTS; i++) {
		int status = pgs__shared_open(&f->state, p->state, err);
		if (status != PGS_OK)
			return status;
		if (!pgs__shared_lock(&f->state, PGS__LOCK_OPEN, true, pgs__now_ms() + OPEN_WAIT_MS))
			return pgs__error(err, PGS_EBUSY, "the cache '%s' is being opened by another process", f->path);
		if (inode_of(p->state) == (uint64_t)f->state.inode)
			return PGS_OK;
		pgs__shared_close(&f->state);
	}
	return pgs__error(err, PGS_EBUSY, "the cache '%s' is replaced again and again", f->path);
}

static int open_once(pgs__cache_file *f, const paths *p, uint64_t size_bytes, bool *started_over, pgs_error *err)
{
	int status = open_state(f, p, err);
	if (status != PGS_OK)
		return status;
	bool alone = pgs__shared_lock(&f->state, PGS__LOCK_USE, true, 0);
	status = alone ? open_alone(f, p, size_bytes, started_over, err) : open_shared(f, p, err);
	if (status == PGS_OK && alone) {
		int dead;
		mdb_reader_check(f->mdb, &dead);
		reset_slots(f->state.words);
		f->state.words->data_inode = inode_of(p->data);
		f->state.words->lock_inode = inode_of(p->lock);
	}
	if (status == PGS_OK && !pgs__shared_lock(&f->state, PGS__LOCK_USE, false, 0))
		status = pgs__error(err, PGS_EIO, "cannot lock '%s'", p->state);
	if (status == PGS_OK)
		pgs__shared_unlock(&f->state, PGS__LOCK_OPEN);
	return status;
}

static pgs__cache_file *find_open(const char *state_path)
{
	struct stat st;
	if (pgs__hooks || stat(state_path, &st) != 0) /* each of the simulator's processes opens it for itself */
		return NULL;
	for (pgs__cache_file *f = registry; f; f = f->next)
		if (f->state.device == st.st_dev && f->state.inode == st.st_ino && !f->forked)
			return f;
	return NULL;
}

static int open_new(pgs__cache_file **out, const paths *p, uint64_t size_bytes, bool *started_over, pgs_error *err)
{
	int status = AGAIN;
	for (int i = 0; status == AGAIN && i < ATTEMPTS; i++) {
		status = file_new(out, p->data, err);
		if (status == PGS_OK)
			status = open_once(*out, p, size_bytes, started_over, err);
		if (status != PGS_OK && *out) {
			file_free(*out);
			*out = NULL;
		}
	}
	if (status == AGAIN)
		return pgs__error(err, PGS_EBUSY, "the cache '%s' is replaced again and again", p->data);
	if (status == PGS_OK) {
		(*out)->next = registry;
		registry = *out;
	}
	return status;
}

int pgs__cache_file_open(pgs__cache_file **out, const pgs__disk_cache_options *o, bool *started_over, pgs_error *err)
{
	paths p;
	*out = NULL;
	*started_over = false;
	uint64_t size = o->size_bytes ? o->size_bytes : PGS__DISK_CACHE_SIZE_DEFAULT;
	if (!o->path || !*o->path)
		return pgs__error(err, PGS_EINVAL, "a cache needs a path");
	if (size < PGS__DISK_CACHE_SIZE_MIN || size > SIZE_MAX / 2)
		return pgs__error(err, PGS_EINVAL, "the cache '%s' cannot have %llu bytes: cache_size= is %llu at least", o->path,
				  (unsigned long long)size, (unsigned long long)PGS__DISK_CACHE_SIZE_MIN);
	size -= size % (64u << 10); /* of any machine's pages */
	pthread_once(&fork_once, watch_forks);
	int status = paths_make(&p, o->path, err);
	lock_registry();
	pgs__cache_file *known = status == PGS_OK ? find_open(p.state) : NULL;
	if (known && !pgs__cache_file_usable(known)) {
		status = pgs__error(err, PGS_EIO, "the cache '%s' failed in this process: it is opened anew when all "
				    "handles of it are closed", p.data);
	} else if (known) {
		known->users++;
		*out = known;
	} else if (status == PGS_OK) {
		status = open_new(out, &p, size, started_over, err);
	}
	unlock_registry();
	paths_free(&p);
	return status;
}

void pgs__cache_file_release(pgs__cache_file *file)
{
	lock_registry();
	if (--file->users == 0) {
		/* Who goes last leaves it clean. */
		if (pgs__cache_file_usable(file) && !pgs__shared_others(&file->state, PGS__LOCK_USE))
			pgs__cache_file_checkpoint(file, pgs__now_ms() + CLOSE_WAIT_MS);
		pgs__cache_file **at = &registry;
		while (*at && *at != file)
			at = &(*at)->next;
		if (*at)
			*at = file->next;
		file_free(file);
	}
	unlock_registry();
}
