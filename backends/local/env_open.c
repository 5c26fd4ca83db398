/* Opening environments: the registry of this process, files, tables.
 *
 *    pgs__env_open ── in the registry? ──yes── enlarge_map ── users + 1
 *                            │no
 *                     pgs__env_create ── open_files ── check_length ── open_tables ── pgs__redo_open
 *
 * The registry's lock is held all the way, so that L1 holds. */
#include "env.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dir.h"
#include "record.h"
#include "redo.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define READERS_MAX 1024

/* What the default map shrinks to at most. */
#define MAP_LEAST ((uint64_t)1 << 30)

/* More missing than this was not left out by LMDB: see pgs__env_extend(). */
#define SHORT_PAGES_MAX 4096

/* Opening has no deadline of the caller's; a stopped writer must not make it wait for good. */
#define LOCK_WAIT_MS 30000

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static pgs__env *registry;
static volatile unsigned forks; /* written in a child that has one thread */

static void lock_registry(void)
{
	pthread_mutex_lock(&registry_lock);
}

static void unlock_registry(void)
{
	pthread_mutex_unlock(&registry_lock);
}

static void begin_child(void)
{
	forks++;
	unlock_registry();
}

unsigned pgs__env_forks(void)
{
	return forks;
}

/* A fork while another thread holds the lock must not leave it locked in the child. */
static void watch_forks(void)
{
	pthread_atfork(lock_registry, unlock_registry, begin_child);
}

/* --- files --------------------------------------------------------------- */

static int env_set_up(pgs__env *env, const pgs_local_options *options)
{
	int rc = mdb_env_create(&env->mdb);
	if (!rc)
		rc = mdb_env_set_maxreaders(env->mdb, READERS_MAX);
	if (!rc)
		rc = mdb_env_set_maxdbs(env->mdb, 3);
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	if (!rc)
		rc = mdb_env_set_mapsize(env->mdb, ((size_t)options->map_bytes + page - 1) / page * page);
	return rc;
}

/* A failed mdb_env_open() leaves an environment that can only be closed. */
static int open_with(pgs__env *env, const pgs_local_options *options, unsigned flags)
{
	int rc = env_set_up(env, options);
	/* NOTLS: read transactions belong to our pool, not to threads. */
	if (!rc)
		rc = mdb_env_open(env->mdb, env->path, MDB_NOTLS | flags, 0666);
	if (rc && env->mdb) {
		mdb_env_close(env->mdb);
		env->mdb = NULL;
	}
	env->read_only = flags & MDB_RDONLY;
	return rc;
}

/* Where a process may not map the default (a limit on address space, valgrind), a smaller one does; a size that was
 * asked for is given or refused. */
static int open_mapped(pgs__env *env, const pgs_local_options *options, unsigned flags)
{
	pgs_local_options o = *options;
	int rc = open_with(env, &o, flags);
	while ((rc == EINVAL || rc == ENOMEM) && options->map_bytes == PGS__LOCAL_MAP_DEFAULT &&
		o.map_bytes > MAP_LEAST) {
		o.map_bytes /= 8;
		rc = open_with(env, &o, flags);
	}
	return rc;
}

/* A read-only handle opens the files for writing when it may, so that it can
 * share the environment with handles that write. Else LMDB's read-only mode,
 * which still needs to write the lock file, except on a read-only file system.
 * Last, in a directory that this user cannot write, without locks: that is safe
 * while nobody else writes; if somebody does, a long read here may see pages
 * being reused, which comes out as PGS_ECORRUPT. */
static int open_files(pgs__env *env, const pgs_local_options *options, pgs_error *err)
{
	static const unsigned modes[] = {0, MDB_RDONLY, MDB_RDONLY | MDB_NOLOCK};
	size_t allowed = options->read_only ? 3 : 1;
	int rc = 0;
	for (size_t i = 0; i < allowed; i++) {
		rc = open_mapped(env, options, modes[i]);
		if (rc != EACCES && rc != EROFS && rc != EPERM)
			break;
	}
	if (rc)
		return pgs__env_error_at(env->path, options->map_bytes, rc, "cannot open the store", err);
	int dead;
	mdb_reader_check(env->mdb, &dead);
	return PGS_OK;
}

static int open_writer_lock(pgs__env *env, pgs_error *err)
{
	if (env->read_only)
		return PGS_OK;
	char *name = pgs__path_join(env->path, "writer.lock");
	if (!name)
		return pgs__error_nomem(err, "a path");
	env->writer_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	int status = PGS_OK;
	if (env->writer_fd < 0)
		status = pgs__error(err, pgs__error_from_errno(errno), "cannot open '%s': %s", name, strerror(errno));
	pgs__free(name);
	return status;
}

/* The bytes that the data file has, and those its last commit counts on. */
static int file_lengths(pgs__env *env, uint64_t *have, uint64_t *want, pgs_error *err)
{
	MDB_envinfo info;
	MDB_stat main_table;
	struct stat st;
	int fd;
	int rc = mdb_env_info(env->mdb, &info);
	if (!rc)
		rc = mdb_env_stat(env->mdb, &main_table);
	if (!rc)
		rc = mdb_env_get_fd(env->mdb, &fd);
	if (!rc && fstat(fd, &st))
		rc = errno;
	if (rc)
		return pgs__env_error(env, rc, "cannot learn the file's size", err);
	*have = (uint64_t)st.st_size;
	*want = ((uint64_t)info.me_last_pgno + 1) * main_table.ms_psize;
	return PGS_OK;
}

/* LMDB does not write pages that a transaction allocated and let go again, not
 * even the file's last ones: a sound file may be a little shorter than it says.
 * But reading past the end of a mapped file is a SIGBUS, also when it is short
 * because someone cut it off. So it is made as long as it should be: pages that
 * went missing then are zeros, which LMDB and our decoders tell from good ones. */
int pgs__env_extend(pgs__env *env, pgs_error *err)
{
	uint64_t have, want;
	int fd;
	int status = file_lengths(env, &have, &want, err);
	if (status || have >= want)
		return status;
	int rc = mdb_env_get_fd(env->mdb, &fd);
	if (!rc && ftruncate(fd, (off_t)want))
		rc = errno;
	return rc ? pgs__env_error(env, rc, "cannot extend the data file", err) : PGS_OK;
}

static int check_length(pgs__env *env, pgs_error *err)
{
	uint64_t have = 0, want = 0;
	int status = file_lengths(env, &have, &want, err);
	if (status || have >= want)
		return status;
	if (env->read_only || want - have > (uint64_t)SHORT_PAGES_MAX * 4096)
		return pgs__error(err, PGS_ECORRUPT, "'%s/data.mdb' was cut off: it has %llu bytes of %llu: %s",
			env->path, (unsigned long long)have, (unsigned long long)want,
			env->read_only ? "open it for writing once, or restore it" : "restore it from a backup");
	/* Under the lock: a commit that grew the file meanwhile must not be cut off again. */
	status = pgs__env_lock_writers(env, pgs__now_ms() + LOCK_WAIT_MS, err);
	if (status)
		return status;
	status = pgs__env_extend(env, err);
	pgs__env_unlock_writers(env);
	return status;
}

/* --- tables -------------------------------------------------------------- */

static int open_table(MDB_txn *txn, const char *name, unsigned flags, MDB_dbi *out, pgs__env *env, pgs_error *err)
{
	int rc = mdb_dbi_open(txn, name, flags, out);
	return rc ? pgs__env_error(env, rc, "cannot open a table", err) : PGS_OK;
}

static int open_all(pgs__env *env, MDB_txn *txn, unsigned flags, pgs_error *err)
{
	int status = open_table(txn, "meta", flags, &env->meta, env, err);
	if (!status)
		status = open_table(txn, "log", flags, &env->log, env, err);
	if (!status)
		status = open_table(txn, "versions", flags, &env->versions, env, err);
	if (!status)
		mdb_set_compare(txn, env->versions, pgs__record_compare);
	return status;
}

static int check_format(pgs__env *env, MDB_txn *txn, pgs_error *err)
{
	MDB_val key = {6, "format"}, format, identity;
	int rc = mdb_get(txn, env->meta, &key, &format);
	if (rc)
		return pgs__env_error(env, rc, "cannot read the format", err);
	size_t name = strlen(PGS__LOCAL_FORMAT_NAME), whole = strlen(PGS__LOCAL_FORMAT);
	if (format.mv_size < name || memcmp(format.mv_data, PGS__LOCAL_FORMAT_NAME, name))
		return pgs__error(
			err, PGS_ECORRUPT, "'%s' is not a pagestore store: its format record is wrong", env->path);
	if (format.mv_size != whole || memcmp(format.mv_data, PGS__LOCAL_FORMAT, whole))
		return pgs__error(err, PGS_EVERSION, "the store in '%s' was written by a newer pagestore: use that one",
			env->path);
	key = (MDB_val){8, "identity"};
	rc = mdb_get(txn, env->meta, &key, &identity);
	if (!rc && identity.mv_size != sizeof env->identity)
		rc = MDB_CORRUPTED;
	if (rc)
		return pgs__env_error(env, rc, "cannot read the identity", err);
	memcpy(env->identity, identity.mv_data, sizeof env->identity);
	return PGS_OK;
}

static int put_meta(MDB_txn *txn, MDB_dbi table, const char *name, const void *data, size_t size)
{
	MDB_val key = {strlen(name), (void *)(uintptr_t)name}, value = {size, (void *)(uintptr_t)data};
	return mdb_put(txn, table, &key, &value, 0);
}

/* A new store: format, identity and the empty log record of revision 1. */
static int write_tables(pgs__env *env, MDB_txn *txn, pgs_error *err)
{
	uint8_t first[8];
	if (pgs__random_bytes(env->identity, sizeof env->identity))
		return pgs__error(err, PGS_EIO, "cannot make '%s': the kernel gave no random bytes", env->path);
	int status = open_all(env, txn, MDB_CREATE, err);
	if (status)
		return status;
	pgs__store_u64be(first, 1);
	MDB_val key = {sizeof first, first}, empty = {0, ""};
	int rc = mdb_put(txn, env->log, &key, &empty, MDB_APPEND);
	if (!rc)
		rc = put_meta(txn, env->meta, "format", PGS__LOCAL_FORMAT, strlen(PGS__LOCAL_FORMAT));
	if (!rc)
		rc = put_meta(txn, env->meta, "identity", env->identity, sizeof env->identity);
	if (!rc)
		rc = pgs__redo_make(env, txn);
	return rc ? pgs__env_error(env, rc, "cannot make the store", err) : PGS_OK;
}

/* *fresh: LMDB's files have nothing in them yet. Somebody else's tables are refused, not joined. */
static int probe_tables(pgs__env *env, MDB_txn *txn, bool *fresh, pgs_error *err)
{
	MDB_stat main_table;
	MDB_dbi root, meta;
	*fresh = false;
	int rc = mdb_dbi_open(txn, "meta", 0, &meta);
	if (rc == 0)
		return PGS_OK;
	if (rc == MDB_NOTFOUND)
		rc = mdb_dbi_open(txn, NULL, 0, &root);
	if (!rc)
		rc = mdb_stat(txn, root, &main_table);
	if (rc)
		return pgs__env_error(env, rc, "cannot read the tables", err);
	if (main_table.ms_entries)
		return pgs__error(
			err, PGS_ECORRUPT, "'%s' is not a pagestore store but another program's LMDB files", env->path);
	*fresh = true;
	return PGS_OK;
}

static int make_tables(pgs__env *env, const pgs_local_options *options, pgs_error *err)
{
	MDB_txn *txn;
	bool fresh;
	int status = pgs__env_lock_writers(env, pgs__now_ms() + LOCK_WAIT_MS, err);
	if (status)
		return status;
	status = pgs__env_write_begin(env, options->sync, &txn, err);
	if (status) {
		pgs__env_unlock_writers(env);
		return status;
	}
	/* Another process may have come first. */
	status = probe_tables(env, txn, &fresh, err);
	if (!status && fresh)
		status = write_tables(env, txn, err);
	if (status)
		pgs__env_write_abort(env, txn);
	else
		status = pgs__env_write_commit(env, txn, NULL, err);
	pgs__env_unlock_writers(env);
	if (!status && options->sync != PGS_SYNC_OFF)
		status = pgs__sync_directory(env->path, err);
	return status;
}

static int open_tables(pgs__env *env, const pgs_local_options *options, pgs_error *err)
{
	for (int attempt = 0;; attempt++) {
		MDB_txn *txn;
		bool fresh;
		int rc = mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &txn);
		if (rc)
			return pgs__env_error(env, rc, "cannot read the tables", err);
		int status = probe_tables(env, txn, &fresh, err);
		if (!status && !fresh)
			status = open_all(env, txn, 0, err);
		if (!status && !fresh)
			status = check_format(env, txn, err);
		/* Committing is what keeps the tables' handles. */
		if (status)
			mdb_txn_abort(txn);
		else
			mdb_txn_commit(txn);
		if (status || !fresh)
			return status;
		if (options->read_only || options->must_exist || attempt)
			return pgs__error(err, PGS_ENOTFOUND, "no pagestore store at '%s'", env->path);
		status = make_tables(env, options, err);
		if (status)
			return status;
	}
}

/* --- the registry -------------------------------------------------------- */

static void init_locks(pgs__env *env)
{
	pthread_rwlockattr_t prefer_resize;
	pthread_condattr_t monotonic;
	pthread_rwlockattr_init(&prefer_resize);
	pthread_rwlockattr_setkind_np(&prefer_resize, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_rwlock_init(&env->map_lock, &prefer_resize);
	pthread_mutex_init(&env->pool_lock, NULL);
	pthread_mutex_init(&env->queue_lock, NULL);
	pthread_mutex_init(&env->wake_lock, NULL);
	pthread_cond_init(&env->turn, &monotonic);
	pthread_cond_init(&env->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_rwlockattr_destroy(&prefer_resize);
}

static int remember_file(pgs__env *env, pgs_error *err)
{
	struct stat st;
	int fd;
	int rc = mdb_env_get_fd(env->mdb, &fd);
	if (!rc && fstat(fd, &st))
		rc = errno;
	if (rc)
		return pgs__env_error(env, rc, "cannot look at the data file", err);
	env->device = st.st_dev;
	env->inode = st.st_ino;
	return PGS_OK;
}

int pgs__env_create(pgs__env **out, const char *path, const pgs_local_options *options, pgs_error *err)
{
	pgs__env *env = pgs__calloc(1, sizeof *env);
	if (!env)
		return pgs__error_nomem(err, "a store");
	init_locks(env);
	env->queue_last = &env->queue_first;
	env->writer_fd = -1;
	env->forks = forks;
	env->users = 1;
	env->path = pgs__strndup(path, strlen(path));
	int status = env->path ? open_files(env, options, err) : pgs__error_nomem(err, "a path");
	if (!status)
		status = remember_file(env, err);
	if (!status)
		status = open_writer_lock(env, err);
	if (!status)
		status = check_length(env, err);
	if (!status)
		status = open_tables(env, options, err);
	if (!status)
		status = pgs__redo_open(env, !options->read_only && options->sync == PGS_SYNC_FULL, err);
	if (status) {
		pgs__env_destroy(env);
		return status;
	}
	*out = env;
	return PGS_OK;
}

/* LMDB gives up the old map before it has the new one: ask first. */
static bool can_map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at != MAP_FAILED)
		munmap(at, size);
	return at != MAP_FAILED;
}

/* The first handle chose the map; a later one may want more (L3). */
static int enlarge_map(pgs__env *env, const pgs_local_options *options, pgs_error *err)
{
	MDB_envinfo info;
	size_t page = (size_t)sysconf(_SC_PAGESIZE), wanted = ((size_t)options->map_bytes + page - 1) / page * page;
	pthread_rwlock_wrlock(&env->map_lock);
	int rc = mdb_env_info(env->mdb, &info);
	if (!rc && info.me_mapsize < wanted && can_map(wanted))
		rc = mdb_env_set_mapsize(env->mdb, wanted);
	else if (!rc && info.me_mapsize < wanted && options->map_bytes != PGS__LOCAL_MAP_DEFAULT)
		rc = ENOMEM;
	pthread_rwlock_unlock(&env->map_lock);
	return rc ? pgs__env_error(env, rc, "cannot enlarge the map", err) : PGS_OK;
}

static int join_env(pgs__env *env, const pgs_local_options *options, pgs_error *err)
{
	if (env->read_only && !options->read_only)
		return pgs__error(err, PGS_EREADONLY, "'%s' is open read-only in this process: close that handle first",
			env->path);
	int status = enlarge_map(env, options, err);
	if (!status)
		env->users++;
	return status;
}

static int open_locked(pgs__env **out, const char *path, const pgs_local_options *options, pgs_error *err)
{
	struct stat st;
	char *data = pgs__path_join(path, "data.mdb");
	if (!data)
		return pgs__error_nomem(err, "a path");
	bool found = stat(data, &st) == 0 && st.st_size > 0;
	pgs__free(data);
	if (!found && (options->read_only || options->must_exist))
		return pgs__error(err, PGS_ENOTFOUND, "no pagestore store at '%s'", path);
	for (pgs__env *env = registry; found && env; env = env->next)
		if (env->device == st.st_dev && env->inode == st.st_ino && env->forks == forks) {
			*out = env;
			return join_env(env, options, err);
		}
	int status = pgs__env_create(out, path, options, err);
	if (!status) {
		(*out)->next = registry;
		registry = *out;
	}
	return status;
}

int pgs__env_open(pgs__env **out, const char *path, const pgs_local_options *options, pgs_error *err)
{
	int status = pgs__local_directory(path, options, err);
	if (status)
		return status;
	pthread_once(&fork_once, watch_forks);
	lock_registry();
	status = open_locked(out, path, options, err);
	unlock_registry();
	return status;
}

void pgs__env_release(pgs__env *env)
{
	lock_registry();
	if (--env->users == 0) {
		pgs__env **at = &registry;
		while (*at && *at != env)
			at = &(*at)->next;
		if (*at)
			*at = env->next;
		pgs__env_destroy(env);
	}
	unlock_registry();
}
