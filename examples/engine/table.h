/* table.h: an ordered key-value table, as a storage engine on pagestore
 *
 * A B+tree over the pages of one database: keys and values are short byte
 * strings, in memcmp order. It shows what an engine does with the public API:
 *
 *   pages        a node of the tree is a page: read into a buffer to change it
 *                (pgs_read, pgs_write), borrowed to look at it (pgs_pin)
 *   attribute    "root" holds the root's page number; only a new root writes it
 *   page count   a new node is the page past the end: pgs_page_count() puts the
 *                count into the read set, so that two writers that both split a
 *                node conflict instead of taking the same page
 *   conflicts    table_update() runs a function again until it commits
 *   history      any function works on a transaction at an old revision
 *
 *     static int deposit(table *t, void *ctx) { ... table_get(), table_put() ... }
 *     table_update(db, deposit, &amount, &revision, &err);
 *
 * Left out for brevity: merging nodes that removals emptied, and binary search
 * within a node.
 *
 * Threads: a table, like its transaction, belongs to one thread at a time.
 */
#ifndef TABLE_H
#define TABLE_H

#include <stddef.h>
#include <stdint.h>

#include <pagestore.h>

/* The table as one transaction sees it; a plain value, nothing to free. */
typedef struct table {
	pgs_txn *txn;
	size_t page_size;
} table;

/* Look at `db` through `txn`. A database without a root is an empty table. */
void table_open(table *t, pgs_db *db, pgs_txn *txn);

/* The longest key and value together, in bytes: a quarter of a page less the headers. */
size_t table_entry_max(const table *t);

/* Copy the first `capacity` bytes of key's value into `value`, its whole size
 * into *size. PGS_ENOTFOUND when there is none. This and those below also
 * return what pgs_read() and its like do, and PGS_ECORRUPT for a page that is
 * not a node. */
int table_get(table *t, const void *key, size_t key_size, void *value, size_t capacity, size_t *size);

/* Set key's value. PGS_EINVAL for an empty key, PGS_ELIMIT for an entry over table_entry_max(). */
int table_put(table *t, const void *key, size_t key_size, const void *value, size_t value_size);

/* Remove a key. PGS_ENOTFOUND when it is not there. */
int table_remove(table *t, const void *key, size_t key_size);

/* Called per entry, in order of keys; the bytes are borrowed for the call.
 * Return 0 to go on; anything else ends table_scan() with it. */
typedef int (*table_visitor)(void *ctx, const void *key, size_t key_size, const void *value, size_t value_size);

/* Visit the entries whose key is at or after `from` (NULL and 0 for all). */
int table_scan(table *t, const void *from, size_t from_size, table_visitor visitor, void *ctx);

/* What table_update() runs, perhaps more than once: it must keep its effects in
 * the table, or set them anew each time. A result other than PGS_OK aborts. */
typedef int (*table_work)(table *t, void *ctx);

/* Begin, run `work`, commit, all of it again after a conflict. Returns what
 * `work` does, or pgs_begin() and pgs_commit(); err->code says the same.
 * `revision` may be NULL. */
int table_update(pgs_db *db, table_work work, void *ctx, uint64_t *revision, pgs_error *err);

#endif
