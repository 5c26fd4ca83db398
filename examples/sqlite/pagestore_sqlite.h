/* pagestore_sqlite.h: SQLite databases in a pagestore, for programs that link the VFS statically
 *
 *     pagestore_sqlite_register();
 *     sqlite3_open_v2("file:app?store=dir:/var/lib/data", &db,
 *                     SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, "pagestore");
 *
 * The loadable extension, pagestore_sqlite.so, does the same when it is loaded.
 * docs/sqlite.md says how to use it, and what to expect of it.
 */
#ifndef PAGESTORE_SQLITE_H
#define PAGESTORE_SQLITE_H

#ifdef __cplusplus
extern "C" {
#endif

struct pgs_kv;
struct pgs_blob;

/* Make the VFS "pagestore" known to SQLite; the default VFS stays what it is.
 * Again is harmless. Returns an SQLite result code. Any thread. */
int pagestore_sqlite_register(void);

/* Offer a store on backends of the caller's (pagestore/backends.h) under
 * "store=NAME" until all connections to it are closed: for tests, and for
 * backends that no URL names. It owns both, closing them with the last
 * connection, or on failure. Returns an SQLite result code: MISUSE if the name
 * is taken, NOMEM, or CANTOPEN. Any thread. */
int pagestore_sqlite_offer(const char *name, struct pgs_kv *kv, struct pgs_blob *blob);

#ifdef __cplusplus
}
#endif

#endif
