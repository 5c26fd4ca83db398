/* The files that are open in this process: those of a connection, and what the connection has beside them. */
#include "file.h"

static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
static sq_file *files;

sqlite3 *sq_connection_of(const sq_file *f)
{
	return f->connection ? *f->connection : NULL;
}

void sq_files_add(sq_file *f)
{
	pthread_mutex_lock(&files_lock);
	f->next = files;
	files = f;
	pthread_mutex_unlock(&files_lock);
}

void sq_files_remove(sq_file *f)
{
	pthread_mutex_lock(&files_lock);
	sq_file **link = &files;
	while (*link && *link != f)
		link = &(*link)->next;
	if (*link)
		*link = f->next;
	pthread_mutex_unlock(&files_lock);
}

void sq_files_connect(sq_file *f, sqlite3 **connection)
{
	pthread_mutex_lock(&files_lock);
	f->connection = connection;
	pthread_mutex_unlock(&files_lock);
}

/* Only a connection's own thread opens, changes and closes its files: what is found stays. */
sq_file *sq_files_next(const sq_file *of, const sq_file *after)
{
	sqlite3 *db = sq_connection_of(of);
	pthread_mutex_lock(&files_lock);
	sq_file *f = after ? after->next : files;
	while (f && !(db && f->connection && *f->connection == db))
		f = f->next;
	pthread_mutex_unlock(&files_lock);
	return f;
}

const sq_file *sq_files_find_journal(const char *name)
{
	pthread_mutex_lock(&files_lock);
	const sq_file *f = files;
	while (f && sqlite3_filename_journal(f->name) != name)
		f = f->next;
	pthread_mutex_unlock(&files_lock);
	return f;
}

/* --- what SQLite knows of a connection -------------------------------------------------------------------- */

/* sqlite3_db_name() is there since 3.39. */
static const char *schema_name(sqlite3 *db, int i)
{
	if (sqlite3_libversion_number() >= 3039000)
		return sqlite3_db_name(db, i);
	return i == 0 ? "main" : NULL;
}

static sqlite3_file *schema_file(sqlite3 *db, const char *name)
{
	sqlite3_file *file = NULL;
	sqlite3_file_control(db, name, SQLITE_FCNTL_FILE_POINTER, &file);
	return file;
}

int sq_schema_of(const sq_file *f)
{
	sqlite3 *db = sq_connection_of(f);
	const char *name;
	for (int i = 0; db && (name = schema_name(db, i)); i++)
		if (schema_file(db, name) == &f->base)
			return i;
	return -1;
}

bool sq_writes_foreign_file(const sq_file *f)
{
	sqlite3 *db = sq_connection_of(f);
	const char *name;
	for (int i = 0; db && (name = schema_name(db, i)); i++) {
		const sqlite3_file *file = schema_file(db, name);
		const char *path = sqlite3_db_filename(db, name); /* "": temporary, or in memory */
		if (file && file->pMethods != &sq_file_methods && path && *path &&
			sqlite3_txn_state(db, name) == SQLITE_TXN_WRITE)
			return true;
	}
	return sqlite3_libversion_number() < 3039000;
}
