/* The local cache: a machine's copy of a remote store's pages and pointers, in one LMDB file.
 *
 *     cache file ── database (a store's identity and a database's prefix) ── contents by id         this header
 *                                                                        └── mirror of KV keys     mirror.h
 *
 * Everything in it is expendable. It is filled from the store, it is never the only copy of anything, and whatever is
 * wrong with it makes reads slower and nothing else: a call that fails means "as if there were no cache".
 *
 * Files: PATH (LMDB's data), PATH-lock (LMDB's readers), PATH-state (shared.h: who uses it, what readers hit). Any number
 * of processes of one machine share them, and may die at any point. Not for network file systems, nor for processes
 * of different PID namespaces at once: LMDB knows readers by pid.
 *
 * Invariants
 *  D1 What belongs to one database is never found under another: every key begins with a number that stands for the
 *     store's identity and the database's prefix.
 *  D2 Nothing here is believed: a content is proved by its id, by whoever asked for it; a mirrored value by a check
 *     over its key, its revision and itself; that nothing is missing by a digest over all of a database's mirror, held
 *     against the mirror before its first use; and from then on, that a key is absent, by the checks of all that is in the
 *     leaf where it would be, and of its neighbours. That a record is not an old one, which checks as well as the new one,
 *     nor missed because the way led to another leaf: all pages on the way to it are in use, as LMDB's lists of free pages
 *     say, and the leaf's keys are those for which the branches lead there (lmdb_page.h). Who finds otherwise has found
 *     the file broken (D5).
 *  D3 LMDB's map is the size bound, and the file never grows past it.
 *  D4 Without being synced at each commit, LMDB's file is only whole as long as the kernel lives. So before it is first
 *     written, PATH-state says so, durably; a file that says so and is of another boot is started over. A checkpoint
 *     (sync, then "clean" in PATH-state) undoes it.
 *  D5 Who finds the file broken (LMDB says so, or stops at an assertion) says so in PATH-state: from then on no process
 *     touches it, and the first one to open it later starts it over.
 *  D6 An LMDB read transaction lasts as long as a call, so that nobody's snapshot keeps pages of the file from being
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
 * PGS_EREADONLY (no rights), PGS_ENOSPC, PGS_EBUSY (somebody else is opening it for longer than 5 s),
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
			uint32_t page_size, pgs_error *err);
void pgs__disk_db_detach(pgs__disk_db *db); /* NULL is allowed */

/* The bound on the file, in bytes. */
uint64_t pgs__disk_size(const pgs__disk_db *db);

/* The database of this prefix was dropped, whether it is attached or not: its mirror is forgotten, its contents go before
 * any others. Best effort: what nobody asks for goes sooner or later. */
void pgs__disk_db_dropped(pgs__disk_cache *cache, const uint8_t prefix[PGS__PREFIX_SIZE]);

/* --- contents ------------------------------------------------------------------------ */

/* Called for each content that is there; `stored` (as pgs__decompress_page() takes it, unproved) is borrowed for the
 * call. Must not call the cache. */
typedef void (*pgs__disk_visitor)(void *ctx, size_t index, pgs_slice stored);

/* Look up contents. PGS_OK, whatever was found; PGS_EIO: the cache failed, and what was visited is good all the same. */
int pgs__disk_get(pgs__disk_db *db, const pgs__page_id *ids, size_t count, pgs__disk_visitor visit, void *ctx);

/* Keep a copy of a content that was just proved. It is written later, with others, by whoever comes by when enough wait
 * and the file can be had at once; what waits for too long is dropped. Best effort. */
void pgs__disk_put(pgs__disk_db *db, const pgs__page_id *id, pgs_slice stored);

/* The same of a content that nobody has asked for yet. Whether somebody does before it goes is
 * counted. Waits until the deadline for room among what waits to be written. */
void pgs__disk_put_ahead(pgs__disk_db *db, const pgs__page_id *id, pgs_slice stored, uint64_t deadline_ms);

/* Write what waits, as pgs__disk_flush(): what was put ahead is to be found. Best effort. */
void pgs__disk_put_end(pgs__disk_db *db, uint64_t deadline_ms);

/* Which contents are there, written or not: there[i] is set or left. That is no hit. PGS_OK or PGS_EIO. */
int pgs__disk_look(pgs__disk_db *db, const pgs__page_id *ids, size_t count, bool *there);

/* Somebody used a copy in memory of what was put ahead. */
void pgs__disk_used(pgs__disk_db *db, const pgs__page_id *id);

/* What became of contents that were put ahead, since the file was made, by all processes and of all databases: somebody
 * read them; they went before anybody had. About: hits are counted by a hash (queue.h). */
typedef struct pgs__disk_ahead {
	uint64_t used, used_bytes, wasted, wasted_bytes;
} pgs__disk_ahead;
pgs__disk_ahead pgs__disk_ahead_get(const pgs__disk_db *db);

/* Write what waits. PGS_OK, PGS_EBUSY (others kept the file past the deadline: it waits on), PGS_ENOSPC, PGS_EIO. */
int pgs__disk_flush(pgs__disk_cache *cache, uint64_t deadline_ms, pgs_error *err);

/* The cache's copy of a content does not have its id: remove it, and count it. Best effort: it is met again otherwise. */
void pgs__disk_drop(pgs__disk_db *db, const pgs__page_id *id);

typedef struct pgs__disk_stat {
	/* this process, all databases in the file */
	uint64_t hits, misses, hit_bytes;
	uint64_t puts, put_bytes;
	uint64_t dropped;   /* given to put, and not kept: nobody got to write them in time */
	uint64_t bad;       /* contents and mirrored values that were not what they should be */
	uint64_t evictions; /* by this process */
	uint64_t errors;    /* calls that failed */
	/* the same of all processes, since the file was made or started over */
	struct {
		uint64_t hits, misses, hit_bytes, puts, put_bytes, dropped, bad, evictions, errors;
	} all;
	/* the file */
	uint64_t size_bytes;   /* the bound */
	uint64_t used_bytes;   /* of it, what is not free to be used again */
	uint64_t file_bytes;   /* disk space it takes; its length is the bound from the start, with holes */
	uint64_t content_count;
	uint64_t content_bytes;
	bool failed;           /* it is out of use until it is opened anew */
} pgs__disk_stat;
int pgs__disk_stat_get(pgs__disk_cache *cache, pgs__disk_stat *out, pgs_error *err);

#endif
