/* Super-journals: transactions that change several databases.
 *
 * To change several files SQLite writes the names of their journals to a super-journal, prepares each file
 * (SQLITE_FCNTL_SYNC has the super-journal's name then), deletes the super-journal, and ends each file's part. The
 * deletion is the commit: what fails before it, or is it, rolls everything back.
 *
 * So that is where files which wait for each other are committed (commit.c). The super-journal itself is a name: it
 * exists as long as it is open, or a file waits for it. It is never read: who dies leaves nothing that would ask for it.
 *
 * A file of another VFS must not have its journal there. After a crash SQLite would look for a super-journal in the file
 * system, find none, and take the journal for one that is not needed any more, with the file half written. So it is
 * refused, when all names are there (xSync) and no file has been touched yet. Databases in memory are named, too, and do
 * no harm.
 */
#include "file.h"

#include <string.h>

typedef struct super {
	sqlite3_file base;
	struct super *next; /* of all that are open */
	const char *name;
	const sq_file *one_of; /* one of ours that is named there */
	bool others;           /* there is one that is not ours */
} super;

static pthread_mutex_t supers_lock = PTHREAD_MUTEX_INITIALIZER; /* the list, and the files' `super` */
static super *supers;
static sq_file *waiting; /* files that wait for one */

static bool is_open(const char *name)
{
	for (const super *s = supers; s; s = s->next)
		if (strcmp(s->name, name) == 0)
			return true;
	return false;
}

static sq_file *find_waiting(const char *name)
{
	sq_file *f = waiting;
	while (f && strcmp(f->super, name) != 0)
		f = f->next_waiting;
	return f;
}

bool sq_super_exists(const char *name)
{
	pthread_mutex_lock(&supers_lock);
	bool there = is_open(name) || find_waiting(name);
	pthread_mutex_unlock(&supers_lock);
	return there;
}

static void leave(sq_file *f)
{
	sq_file **link = &waiting;
	while (*link != f)
		link = &(*link)->next_waiting;
	*link = f->next_waiting;
	sqlite3_free(f->super);
	f->super = NULL;
}

int sq_super_join(sq_file *f, const char *name)
{
	if (!f->super && !name)
		return SQLITE_OK;
	char *copy = name ? sqlite3_mprintf("%s", name) : NULL;
	if (name && !copy)
		return SQLITE_IOERR_NOMEM;
	pthread_mutex_lock(&supers_lock);
	if (f->super)
		leave(f);
	if (copy) {
		f->super = copy;
		f->next_waiting = waiting;
		waiting = f;
	}
	pthread_mutex_unlock(&supers_lock);
	return SQLITE_OK;
}

int sq_super_delete(const char *name)
{
	pthread_mutex_lock(&supers_lock);
	sq_file *f = find_waiting(name); /* of this thread's connection: no other one has this super-journal */
	pthread_mutex_unlock(&supers_lock);
	return f && f->state == SQ_PREPARED ? sq_publish(f) : SQLITE_OK;
}

/* --- the file ------------------------------------------------------------------------------------------- */

static int super_write(sqlite3_file *file, const void *bytes, int size, sqlite3_int64 offset)
{
	super *s = (super *)file;
	const sq_file *f = sq_files_find_journal(bytes);
	(void)size, (void)offset;
	if (f)
		s->one_of = f;
	s->others |= !f;
	return SQLITE_OK;
}

static int super_sync(sqlite3_file *file, int flags)
{
	const super *s = (super *)file;
	(void)flags;
	if (!s->others || (s->one_of && !sq_writes_foreign_file(s->one_of)))
		return SQLITE_OK;
	sq_tell(SQLITE_CANTOPEN, "a transaction that changes a database in a pagestore cannot change another file, too");
	return SQLITE_CANTOPEN;
}

static int super_close(sqlite3_file *file)
{
	super **link = &supers;
	pthread_mutex_lock(&supers_lock);
	while (*link != (super *)file)
		link = &(*link)->next;
	*link = (*link)->next;
	pthread_mutex_unlock(&supers_lock);
	return SQLITE_OK;
}

static int super_read(sqlite3_file *file, void *bytes, int size, sqlite3_int64 offset)
{
	(void)file, (void)offset;
	memset(bytes, 0, (size_t)size);
	return SQLITE_IOERR_SHORT_READ;
}

static int super_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	(void)file, (void)size;
	return SQLITE_OK;
}

static int super_lock(sqlite3_file *file, int level)
{
	(void)file, (void)level;
	return SQLITE_OK;
}

static int super_size(sqlite3_file *file, sqlite3_int64 *size)
{
	(void)file;
	*size = 0;
	return SQLITE_OK;
}

static int super_reserved(sqlite3_file *file, int *reserved)
{
	(void)file;
	*reserved = 0;
	return SQLITE_OK;
}

static int super_control(sqlite3_file *file, int op, void *argument)
{
	(void)file, (void)op, (void)argument;
	return SQLITE_NOTFOUND;
}

static int super_sector_size(sqlite3_file *file)
{
	(void)file;
	return 512;
}

static int super_characteristics(sqlite3_file *file)
{
	(void)file;
	return 0; /* not SEQUENTIAL, with which it is not synced */
}

static const sqlite3_io_methods super_methods = {
	.iVersion = 1,
	.xClose = super_close,
	.xRead = super_read,
	.xWrite = super_write,
	.xTruncate = super_truncate,
	.xSync = super_sync,
	.xFileSize = super_size,
	.xLock = super_lock,
	.xUnlock = super_lock,
	.xCheckReservedLock = super_reserved,
	.xFileControl = super_control,
	.xSectorSize = super_sector_size,
	.xDeviceCharacteristics = super_characteristics,
};

size_t sq_super_size(void)
{
	return sizeof(super);
}

/* The name stays where it is until the file is closed. */
int sq_super_open(sqlite3_file *file, const char *name)
{
	super *s = (super *)file;
	pthread_mutex_lock(&supers_lock);
	bool there = is_open(name) || find_waiting(name); /* SQLite has asked, but another may have come in between */
	if (!there) {
		*s = (super){.base = {&super_methods}, .next = supers, .name = name};
		supers = s;
	}
	pthread_mutex_unlock(&supers_lock);
	return there ? SQLITE_CANTOPEN : SQLITE_OK;
}
