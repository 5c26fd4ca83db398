/* The local cache: a machine's copy of a remote store's pages and pointers, in one LMDB file.
 *
 *     cache file ── database (a store's identity and a database's prefix) ── contents by id         this header
 *                                                                        └── mirror of KV keys     mirror.h
 *
 * Everything in it is expendable. It is filled from the store, it is never the only copy of anything, and whatever is
 * wrong with it makes reads slower and nothing else: a call that fails means "as if there were no cache".
 *
 * Files: PATH (LMDB's data), PATH-lock (LMDB's readers), PATH-state (state.h: who uses it, what readers hit). Any number
 * of processes of one machine share them, and may die at any point. Not for network file systems, nor for processes
 * of different PID namespaces at once: LMDB knows readers by pid.
 *
 * Invariants
 *  D1 What belongs to one database is never found under another: every key begins with a number that stands for the
 *     store's identity and the database's prefix.
 *  D2 Nothing here is believed: a content is proved by its id, by whoever asked for it; a mirrored value by a check
 *     over its key, its revision and itself; that a key is absent by a digest over all of a database's mirror, held
 *     against the mirror before its first use.
 *  D3 LMDB's map is the size bound, and the file never grows past it.
 *  D4 Without being synced at each commit, LMDB's file is only whole as long as the kernel lives. So before it is first
 *     written, PATH-state says so, durably; a file that says so and is of another boot is started over. A checkpoint
 *     (sync, then "clean" in PATH-state) undoes it.
 *  D5 An LMDB read transaction lasts as long as a call, so that nobody's snapshot keeps pages of the file from being
 *     used again.
 *
 * Threads: all functions may be called from any threads. After fork() the child has no cache: every call says PGS_EIO,
 * and closing gives back memory alone.
 */
#ifndef PGS_LOCAL_CACHE_DISK_CACHE_H
#define PGS_LOCAL_CACHE_DISK_CACHE_H

#include <stdbool.h>

#include <pagestore/error.h>
#include <pagestore/store.h>

#include "codec/keys.h"

#define PGS__DISK_CACHE_SIZE_MIN ((uint64_t)4 << 20)
#define PGS__DISK_CACHE_SIZE_DEFAULT ((uint64_t)1 << 30)
#define PGS__DISK_CACHE_DATABASES 64 /* in one file; past that the one that was not in use for the longest goes */

typedef struct pgs__disk_cache pgs__disk_cache; /* a cache file, open in this process */
typedef struct pgs__disk_db pgs__disk_db;       /* a database's part of it */

/* What to open. */
typedef struct pgs__disk_cache_options {
	const char *path;     /* of the data file, made if missing; its directory must exist */
	uint64_t size_bytes;  /* bound on the data file; 0 = 1 GiB. The first process to open it since nobody did decides */
	uint8_t identity[16]; /* of the store: the value of its key i */
	pgs_logger logger;    /* may be NULL: told what went wrong with the cache, once for each kind of trouble */
	void *logger_ctx;
} pgs__disk_cache_options;

/* Open a cache file. In one process all handles of a file share it, whatever path or store they came by.
 *
 * A file that is LMDB's but damaged, of another version of this format, or was in use when the machine crashed (D4), is
 * removed and started over, and that is logged. What is not a cache (something else is in the file) is refused.
 *
 * Errors: PGS_EINVAL (no path, a size below PGS__DISK_CACHE_SIZE_MIN, not a cache), PGS_ENOTFOUND (no such directory),
 * PGS_EAUTH (no rights), PGS_EREADONLY, PGS_ENOSPC, PGS_EBUSY (somebody else is opening it for longer than 5 s),
 * PGS_EIO, PGS_ENOMEM. */
int pgs__disk_cache_open(pgs__disk_cache **out, const pgs__disk_cache_options *options, pgs_error *err);

/* Writes what waits, and checkpoints. Databases must have been detached. NULL is allowed. */
void pgs__disk_cache_close(pgs__disk_cache *cache);

/* Make everything so far survive a crash of the machine (D4); does nothing if nothing was written since the last.
 * Writers wait meanwhile, readers do not. PGS_OK, PGS_EBUSY (other writers kept it past the deadline), PGS_EIO,
 * PGS_ENOSPC. */
int pgs__disk_cache_checkpoint(pgs__disk_cache *cache, uint64_t deadline_ms, pgs_error *err);

/* A database's part, made if it is new. Errors: PGS_ELIMIT (the file has 64 databases, all in use), PGS_EBUSY,
 * PGS_EIO, PGS_ENOSPC, PGS_ENOMEM. */
int pgs__disk_db_attach(pgs__disk_db **out, pgs__disk_cache *cache, const uint8_t prefix[PGS__PREFIX_SIZE],
			pgs_error *err);
void pgs__disk_db_detach(pgs__disk_db *db); /* NULL is allowed */

#endif
