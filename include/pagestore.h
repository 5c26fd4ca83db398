/* pagestore.h: all of pagestore's stable API
 *
 * pagestore is a transactional, versioned page store that a storage engine
 * embeds: snapshots of every retained revision, optimistic serializable
 * transactions with page-level conflicts, commits as small as what changed,
 * on memory, a local directory, or backends of your own.
 *
 *     #include <pagestore.h>
 *     pgs_open(&store, "dir:/tmp/shop", NULL, &err);
 *     pgs_db_create(&db, store, "orders", 6, NULL, &err);
 *     pgs_begin(&txn, db, &(pgs_txn_options){ sizeof(pgs_txn_options), .write = true }, &err);
 *     pgs_write(txn, 0, page);
 *     pgs_commit(txn, NULL, &revision, &err);
 *
 * error.h    result codes           store.h   stores and databases
 * txn.h      transactions           history.h log, diff, verify
 * maintain.h maintenance, snapshots alloc.h   the allocator hook
 * operations.h what backends did  follow.h  keeping up with others
 * version.h
 *
 * backends.h and fault.h (backends by hand, faults for tests) are included
 * separately; sys/ is for backend authors.
 */
#ifndef PAGESTORE_H
#define PAGESTORE_H

#include <pagestore/alloc.h>
#include <pagestore/error.h>
#include <pagestore/follow.h>
#include <pagestore/history.h>
#include <pagestore/maintain.h>
#include <pagestore/operations.h>
#include <pagestore/store.h>
#include <pagestore/txn.h>
#include <pagestore/version.h>

#endif
