/* Stores and databases, shared by all connections of the process.
 *
 * A store is opened with its first connection and closed with its last, and so is a database: connections to the same
 * one share its page cache. Stores are told apart by their URLs as given; one that is open read only serves those that
 * only read.
 *
 * One mutex guards the lists; it is held while a store is opened, so that two connections do not open it twice.
 */
#include "file.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "pagestore_sqlite.h"

typedef struct sq_store {
	struct sq_store *next;
	char *url;
	bool read_only;
	unsigned references;
	pgs_store *store;
	sq_database *databases;
} sq_store;

static pthread_mutex_t stores_lock = PTHREAD_MUTEX_INITIALIZER;
static sq_store *stores;

static char *copy_text(const char *text)
{
	return sqlite3_mprintf("%s", text);
}

/* --- stores ----------------------------------------------------------------------------------------- */

static void log_line(void *ctx, int level, const char *message)
{
	(void)ctx;
	if (level <= PGS_LOG_WARN)
		sqlite3_log(level == PGS_LOG_ERROR ? SQLITE_IOERR : SQLITE_WARNING, "pagestore: %s", message);
}

static sq_store *store_add(const char *url, bool read_only)
{
	sq_store *s = sqlite3_malloc(sizeof *s);
	char *copy = copy_text(url);
	if (!s || !copy) {
		sqlite3_free(s);
		sqlite3_free(copy);
		return NULL;
	}
	*s = (sq_store){.next = stores, .url = copy, .read_only = read_only};
	stores = s;
	return s;
}

static void store_remove(sq_store *store)
{
	sq_store **link = &stores;
	while (*link != store)
		link = &(*link)->next;
	*link = store->next;
	pgs_close(store->store);
	sqlite3_free(store->url);
	sqlite3_free(store);
}

/* Who only reads may use a store that is open to write: it is the file that refuses to be written to. */
static sq_store *store_find(const char *url, bool read_only)
{
	for (sq_store *s = stores; s; s = s->next)
		if ((read_only || !s->read_only) && strcmp(s->url, url) == 0)
			return s;
	return NULL;
}

static int store_enter(sq_store **out, const char *url, bool read_only, bool create, pgs_error *err)
{
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	options.read_only = read_only;
	options.must_exist = !create;
	options.logger = log_line;
	*out = store_find(url, read_only);
	if (!*out) {
		*out = store_add(url, read_only);
		if (!*out)
			return SQLITE_NOMEM;
		if (pgs_open(&(*out)->store, url, &options, err) != PGS_OK) {
			store_remove(*out);
			return err->code == PGS_ENOMEM ? SQLITE_NOMEM : SQLITE_CANTOPEN;
		}
	}
	(*out)->references++;
	return SQLITE_OK;
}

static void store_leave(sq_store *store)
{
	if (--store->references == 0)
		store_remove(store);
}

int pagestore_sqlite_offer(const char *name, struct pgs_kv *kv, struct pgs_blob *blob)
{
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_store *store;
	int result = SQLITE_NOMEM;
	options.logger = log_line;
	if (pgs_open_with(&store, kv, blob, &options, NULL) != PGS_OK)
		return SQLITE_CANTOPEN;
	pthread_mutex_lock(&stores_lock);
	sq_store *s = store_find(name, false) ? NULL : store_add(name, false);
	if (s) {
		s->store = store;
		result = SQLITE_OK;
	} else if (store_find(name, false)) {
		result = SQLITE_MISUSE;
	}
	pthread_mutex_unlock(&stores_lock);
	if (!s)
		pgs_close(store);
	return result;
}

/* --- databases ---------------------------------------------------------------------------------------- */

static sq_database *database_add(sq_store *store, const char *name)
{
	sq_database *d = sqlite3_malloc(sizeof *d);
	char *copy = copy_text(name);
	if (!d || !copy) {
		sqlite3_free(d);
		sqlite3_free(copy);
		return NULL;
	}
	*d = (sq_database){.store = store, .next = store->databases, .name = copy};
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->turn, &monotonic);
	pthread_condattr_destroy(&monotonic);
	store->databases = d;
	return d;
}

int sq_database_enter(sq_database **out, const char *url, const char *name, bool read_only, bool create,
		      pgs_error *err)
{
	sq_store *store;
	*out = NULL;
	pthread_mutex_lock(&stores_lock);
	int result = store_enter(&store, url, read_only, create, err);
	if (result == SQLITE_OK) {
		sq_database *d = store->databases;
		while (d && strcmp(d->name, name) != 0)
			d = d->next;
		*out = d ? d : database_add(store, name);
		if (*out)
			(*out)->references++;
		else
			store_leave(store);
		result = *out ? SQLITE_OK : SQLITE_NOMEM;
	}
	pthread_mutex_unlock(&stores_lock);
	return result;
}

void sq_database_leave(sq_database *database)
{
	if (!database)
		return;
	pthread_mutex_lock(&stores_lock);
	sq_store *store = database->store;
	if (--database->references == 0) {
		sq_database **link = &store->databases;
		while (*link != database)
			link = &(*link)->next;
		*link = database->next;
		pgs_db_close(database->db);
		pthread_mutex_destroy(&database->lock);
		pthread_cond_destroy(&database->turn);
		sqlite3_free(database->name);
		sqlite3_free(database);
	}
	store_leave(store);
	pthread_mutex_unlock(&stores_lock);
}

bool sq_database_is_shared(sq_database *database)
{
	return atomic_load(&database->references) > 1;
}

int sq_database_open(sq_database *database, pgs_db **db, pgs_error *err)
{
	pthread_mutex_lock(&database->lock);
	int result = PGS_OK;
	if (!database->db)
		result = pgs_db_open(&database->db, database->store->store, database->name, strlen(database->name),
			NULL, err);
	*db = database->db;
	pthread_mutex_unlock(&database->lock);
	return result == PGS_ENOTFOUND ? PGS_OK : result;
}

int sq_database_create(sq_database *database, uint32_t page_size, pgs_db **db, pgs_error *err)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	options.page_size_bytes = page_size;
	pthread_mutex_lock(&database->lock);
	int result = PGS_OK;
	if (!database->db)
		result = pgs_db_create(&database->db, database->store->store, database->name, strlen(database->name),
			&options, err);
	if (result == PGS_EEXIST) /* another process was faster */
		result = pgs_db_open(&database->db, database->store->store, database->name, strlen(database->name),
			NULL, err);
	*db = database->db;
	pthread_mutex_unlock(&database->lock);
	return result;
}

/* --- turns ------------------------------------------------------------------------------------------------ */

static void later(struct timespec *when, unsigned ms)
{
	clock_gettime(CLOCK_MONOTONIC, when);
	when->tv_nsec += (long)(ms % 1000) * 1000000;
	when->tv_sec += (long)(ms / 1000) + when->tv_nsec / 1000000000;
	when->tv_nsec %= 1000000000;
}

bool sq_turn_take(sq_database *database, const void *file, unsigned wait_ms)
{
	struct timespec until;
	int timed_out = 0;
	pthread_mutex_lock(&database->lock);
	if (database->writer && database->writer != file) {
		later(&until, wait_ms);
		while (database->writer && !timed_out)
			timed_out = pthread_cond_timedwait(&database->turn, &database->lock, &until);
	}
	bool taken = !database->writer || database->writer == file;
	if (taken)
		database->writer = file;
	pthread_mutex_unlock(&database->lock);
	return taken;
}

void sq_turn_give(sq_database *database, const void *file)
{
	pthread_mutex_lock(&database->lock);
	if (database->writer == file) {
		database->writer = NULL;
		pthread_cond_signal(&database->turn);
	}
	pthread_mutex_unlock(&database->lock);
}
