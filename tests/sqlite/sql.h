/* Short ways to say SQL to databases in a pagestore, and to native ones. What is not expected fails the running test, so
 * use them on its own thread. */
#ifndef PGS_TESTS_SQLITE_SQL_H
#define PGS_TESTS_SQLITE_SQL_H

#include <stdint.h>

#include <pagestore.h>
#include <pagestore/backends.h>
#include <pagestore/fault.h>

#include <sqlite3.h>

#include "pagestore_sqlite.h"
#include "support/testing.h"

/* A store in memory through faults, which connections find as store=<name>. */
typedef struct sql_store {
	char name[32];
	pgs_fault *fault;
	pgs_kv *kv; /* the same, without faults: keeps the contents when the last connection is closed */
	pgs_blob *blob;
	uint64_t last_call; /* all after it fail, as if the store were gone; 0 = none does */
} sql_store;

void sql_store_start(sql_store *s);
void sql_store_offer(sql_store *s); /* again, after its last connection was closed */
int sql_store_try_offer(sql_store *s); /* the same where it may fail: an SQLite code */
void sql_store_stop(sql_store *s);  /* after its last connection was closed */

sqlite3 *sql_open_uri(const char *uri);                         /* must work */
sqlite3 *sql_open(const sql_store *s, const char *parameters); /* database "app"; parameters: "" or "&…" */
sqlite3 *sql_native(void);                                      /* in memory */
void sql_close(sqlite3 *db);

int sql_try(sqlite3 *db, const char *sql);                      /* the extended code */
void sql_do(sqlite3 *db, const char *sql);                      /* must work */
void sql_expect(sqlite3 *db, int code, const char *sql);

/* The first column of the first row; 0 without one. */
int64_t sql_number(sqlite3 *db, const char *sql);
/* All rows as text, in a buffer of the connection's own choice: free with sqlite3_free(). NULL if it failed. */
char *sql_text(sqlite3 *db, const char *sql);
void sql_expect_text(sqlite3 *db, const char *expected, const char *sql);

/* A statement at its first row. */
sqlite3_stmt *sql_begin_select(sqlite3 *db, const char *sql);

/* The database has no damage. */
void sql_check(sqlite3 *db);

#endif
