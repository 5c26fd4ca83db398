/* An SQLite VFS on pagestore.
 *
 *     sqlite3 -cmd '.load ./pagestore_sqlite'
 *     sqlite> .open 'file:app?vfs=pagestore&store=dir:/data'
 *
 * A database of SQLite's is a database of a pagestore: each transaction reads a snapshot and is one commit. There are no
 * locks on files, no journals on disks, and old states can be opened. docs/sqlite.md is for users; file.h says what is
 * where here, and each part's first comment how it works and why:
 *
 *     xLock(SHARED)         the snapshot                              locks.c
 *     xRead, xFetch         pages of it                               file.c
 *     xLock(RESERVED)       a writing transaction on it               locks.c
 *     journal               what SQLite wants for ROLLBACK TO         journal.c
 *     xWrite                pages of the transaction                  file.c, header.c
 *     SQLITE_FCNTL_SYNC     the commit                                commit.c
 *     xUnlock               its end
 *
 * What belongs to no database (temporary files) goes to SQLite's default VFS.
 */
#include "file.h"

#include <string.h>

#include "pagestore_sqlite.h"

/* --- opening -------------------------------------------------------------------------------------------- */

/* A file that cannot be opened is opened all the same, and refuses everything: on_open(), where the connection is there
 * to be told why, is only called then. */
static int refuse(sq_file *f, int code, const char *name, const char *why)
{
	sq_tell(code, "cannot open %s: %s", name[0] ? name : "a database without a name", why);
	f->refused = code;
	f->read_only = true;
	f->base.pMethods = &sq_file_methods;
	return SQLITE_OK;
}

/* There is such a past state. */
static bool can_begin(sq_file *f)
{
	pgs_txn *txn;
	int result = pgs_begin(&txn, f->db, &f->at, &f->error);
	pgs_abort(txn);
	return result == PGS_OK;
}

static int open_database(sq_file *f, const char *name, int flags, int *out_flags)
{
	char *url = NULL;
	*f = (sq_file){.at = PGS_TXN_OPTIONS_INIT, .error = PGS_ERROR_INIT, .counter = 1, .cost = PGS_COST_INIT};
	f->at.cost = &f->cost;
	f->read_only = flags & SQLITE_OPEN_READONLY;
	if (sqlite3_uri_boolean(name, "nolock", 0) || sqlite3_uri_boolean(name, "immutable", 0)) {
		/* SQLite would not even ask for the file's size, and take any file for an empty one. */
		sq_tell(SQLITE_CANTOPEN, "cannot open %s: nolock and immutable are not possible: a lock begins a transaction, "
					 "and keeps nobody waiting", name);
		return SQLITE_CANTOPEN;
	}
	const char *why = sq_uri_take(f, name, &url);
	if (why)
		return refuse(f, SQLITE_CANTOPEN, name, why);
	int result = sq_database_enter(&f->database, url, name, flags & SQLITE_OPEN_READONLY,
		flags & SQLITE_OPEN_CREATE, &f->error);
	sqlite3_free(url);
	if (result != SQLITE_OK)
		return refuse(f, result, name, f->error.message);
	bool past = f->at_name || f->at.at_revision || f->at.at_time_ms, must_exist = past || !(flags & SQLITE_OPEN_CREATE);
	if (must_exist && (sq_database_open(f->database, &f->db, &f->error) != PGS_OK || !f->db))
		return refuse(f, SQLITE_CANTOPEN, name, f->error.message);
	if (past && !can_begin(f))
		return refuse(f, SQLITE_CANTOPEN, name, f->error.message);
	f->base.pMethods = &sq_file_methods;
	f->name = name; /* stays where it is */
	sq_files_add(f);
	if (out_flags)
		*out_flags = f->read_only ? (flags & ~SQLITE_OPEN_READWRITE) | SQLITE_OPEN_READONLY : flags;
	return SQLITE_OK;
}

static sqlite3_vfs *default_vfs(sqlite3_vfs *vfs)
{
	return vfs->pAppData;
}

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags)
{
	sqlite3_vfs *other = default_vfs(vfs);
	file->pMethods = NULL;
	if (flags & SQLITE_OPEN_MAIN_DB && name)
		return open_database((sq_file *)file, name, flags, out_flags);
	if (flags & SQLITE_OPEN_MAIN_JOURNAL && name) {
		sq_journal_open(file, (sq_file *)sqlite3_database_file_object(name));
		return SQLITE_OK;
	}
	if (flags & SQLITE_OPEN_SUPER_JOURNAL)
		return sq_super_open(file, name);
	if (flags & SQLITE_OPEN_WAL)
		return SQLITE_CANTOPEN;
	return other->xOpen(other, name, file, flags, out_flags);
}

/* --- names -------------------------------------------------------------------------------------------------- */

/* Journals are gone when they are closed. A super-journal is what a transaction waits for. */
static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
	(void)vfs, (void)sync_dir;
	return sq_super_delete(name);
}

/* There never is a journal to be rolled back. */
static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *there)
{
	(void)vfs, (void)flags;
	*there = sq_super_exists(name);
	return SQLITE_OK;
}

static int vfs_full_name(sqlite3_vfs *vfs, const char *name, int size, char *out)
{
	(void)vfs;
	sqlite3_snprintf(size, out, "%s", name);
	return strlen(name) < (size_t)size ? SQLITE_OK : SQLITE_CANTOPEN;
}

/* --- what any VFS does ----------------------------------------------------------------------------------------- */

static void *vfs_dl_open(sqlite3_vfs *vfs, const char *name)
{
	return default_vfs(vfs)->xDlOpen(default_vfs(vfs), name);
}

static void vfs_dl_error(sqlite3_vfs *vfs, int size, char *message)
{
	default_vfs(vfs)->xDlError(default_vfs(vfs), size, message);
}

typedef void (*symbol)(void);
static symbol vfs_dl_symbol(sqlite3_vfs *vfs, void *library, const char *name)
{
	return default_vfs(vfs)->xDlSym(default_vfs(vfs), library, name);
}

static void vfs_dl_close(sqlite3_vfs *vfs, void *library)
{
	default_vfs(vfs)->xDlClose(default_vfs(vfs), library);
}

static int vfs_randomness(sqlite3_vfs *vfs, int size, char *out)
{
	return default_vfs(vfs)->xRandomness(default_vfs(vfs), size, out);
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds)
{
	return default_vfs(vfs)->xSleep(default_vfs(vfs), microseconds);
}

static int vfs_time(sqlite3_vfs *vfs, double *day)
{
	return default_vfs(vfs)->xCurrentTime(default_vfs(vfs), day);
}

static int vfs_time_ms(sqlite3_vfs *vfs, sqlite3_int64 *ms)
{
	return default_vfs(vfs)->xCurrentTimeInt64(default_vfs(vfs), ms);
}

static int vfs_last_error(sqlite3_vfs *vfs, int size, char *message)
{
	return default_vfs(vfs)->xGetLastError(default_vfs(vfs), size, message);
}

static sqlite3_vfs the_vfs = {
	.iVersion = 2,
	.mxPathname = 1024,
	.zName = SQ_VFS_NAME,
	.xOpen = vfs_open,
	.xDelete = vfs_delete,
	.xAccess = vfs_access,
	.xFullPathname = vfs_full_name,
	.xDlOpen = vfs_dl_open,
	.xDlError = vfs_dl_error,
	.xDlSym = vfs_dl_symbol,
	.xDlClose = vfs_dl_close,
	.xRandomness = vfs_randomness,
	.xSleep = vfs_sleep,
	.xCurrentTime = vfs_time,
	.xCurrentTimeInt64 = vfs_time_ms,
	.xGetLastError = vfs_last_error,
};

/* A connection was opened. Pages without copying (xFetch) are for files with a mmap_size, which is 0 unless it is set. */
static int on_open(sqlite3 *db, char **message, const struct sqlite3_api_routines *api)
{
	sqlite3_vfs *vfs = NULL;
	sqlite3_file *file = NULL;
	(void)api;
	int result = sq_error_function_create(db);
	if (result != SQLITE_OK || sqlite3_file_control(db, "main", SQLITE_FCNTL_VFS_POINTER, &vfs) != SQLITE_OK ||
	    vfs != &the_vfs)
		return result;
	if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK && ((sq_file *)file)->refused) {
		*message = sqlite3_mprintf("pagestore: %s", sq_last_error());
		return ((sq_file *)file)->refused;
	}
	result = sqlite3_exec(db, "PRAGMA main.mmap_size = 1073741824", NULL, NULL, NULL);
	return result == SQLITE_OK ? sq_tables_create(db) : result;
}

int pagestore_sqlite_register(void)
{
	static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
	int result = SQLITE_OK;
	pthread_mutex_lock(&once);
	if (!sqlite3_vfs_find(SQ_VFS_NAME)) {
		sqlite3_vfs *other = sqlite3_vfs_find(NULL);
		size_t size = sizeof(sq_file) > sq_journal_size() ? sizeof(sq_file) : sq_journal_size();
		size = size > sq_super_size() ? size : sq_super_size();
		the_vfs.pAppData = other;
		the_vfs.szOsFile = other->szOsFile > (int)size ? other->szOsFile : (int)size;
		result = sqlite3_vfs_register(&the_vfs, 0);
		if (result == SQLITE_OK)
			result = sqlite3_auto_extension((void (*)(void))on_open);
	}
	pthread_mutex_unlock(&once);
	return result;
}
