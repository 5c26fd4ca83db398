/* An open cache file: LMDB's environment, once in a process, and the two ways to work on it.
 *
 *     key (every number big endian)                value
 *     meta    'f'                                  u16 format version   16 file id   seal
 *             'n'                                  u32 next number   seal
 *             'd' slot                             16 identity   8 prefix   u32 number   u64 last attached, Unix s   seal
 *             'm' slot                             where the mirror stands (mirror_record.h)
 *             'q'                                  the queues (queue.h)
 *             't' mirror's number                  nothing: a mirror that was given up, to be cleared
 *             'u' database's number                nothing: its contents are nobody's, and go first (queue.h)
 *     pages   content.h
 *     queue   queue.h
 *     mirror  mirror's number, KV key's tail       mirror_record.h
 *     dead    mirror's number, u64 revision, tail  nothing: a tombstone of that revision
 *
 * Numbers are given once and never again: what belonged to a database that went, or to a mirror that was reset, is
 * nobody's.
 *
 * LMDB aborts the process at an assertion when it finds its file damaged. Here it does not: work on the file runs under a
 * trap, to which the assertion jumps. The file is broken then (D5), and what LMDB held stays held: nobody goes there.
 */
#ifndef PGS_LOCAL_CACHE_FILE_H
#define PGS_LOCAL_CACHE_FILE_H

#include <errno.h>
#include <pthread.h>

#include <lmdb.h>

#include "local_cache/disk_cache.h"
#include "local_cache/shared.h"
#include "util/cursor.h"

#define PGS__CACHE_FORMAT 3
#define PGS__CACHE_KEY_MAX 511 /* LMDB's */

/* Contents that wait to be written. */
typedef struct pgs__pending {
	pgs__buffer bytes; /* u32 number, id, u32 size, and bit 31: ahead; content */
	size_t count;
	uint64_t since_ms; /* the first came */
} pgs__pending;

typedef struct pgs__cache_file {
	struct pgs__cache_file *next; /* in the registry, whose lock guards it and `users` */
	unsigned users;
	bool forked;                  /* this is a child of the process that opened it */
	char *path;
	pgs__shared state;
	MDB_env *mdb;
	MDB_dbi meta, pages, queue, mirror, dead;
	uint32_t page_size;         /* LMDB's */
	uint64_t map_pages;
	const uint8_t *map;
	uint64_t disk_pages;         /* from the file's begin there is disk space for so many (under the turn to write) */
	_Atomic uint64_t full_pages; /* the disk was full with so many; 0 = it was not */
	_Atomic uint64_t full_until_ms; /* … and that counts until then */
	_Atomic bool trapped;       /* LMDB was left by a jump: its environment cannot be closed */
	_Atomic bool failed;

	_Atomic uint64_t in_use[1024]; /* u32 transaction, u32 page: not free there (lmdb_page.c) */
	pthread_mutex_t write_lock; /* writers of this process; then PGS__LOCK_WRITE, for those of others */
	pthread_mutex_t pool_lock;
	MDB_txn *pool[16]; /* read transactions, reset */
	unsigned pool_size;
	pthread_mutex_t pending_lock;
	pgs__pending pending;
	pthread_mutex_t attach_lock; /* followers; attached */
	unsigned attached[PGS__SHARED_SLOTS];
	const void *followers[PGS__SHARED_SLOTS];

	pgs__cache_counts counts; /* this process's */
} pgs__cache_file;

/* Count, for this process and for all. */
static inline void pgs__cache_count(pgs__cache_file *file, unsigned which, uint64_t by)
{
	atomic_fetch_add_explicit(&file->counts[which], by, memory_order_relaxed);
	if (file->state.words)
		atomic_fetch_add_explicit(&file->state.words->counts[which], by, memory_order_relaxed);
}

/* Open, or take another reference. Errors: pgs__disk_cache_open()'s. */
int pgs__cache_file_open(pgs__cache_file **out, const pgs__disk_cache_options *options, bool *started_over, pgs_error *err);
void pgs__cache_file_release(pgs__cache_file *file);

/* Work on the file. Results are LMDB's and errno's; whatever is not 0 makes a write transaction go. A work may be run
 * twice, from the start. It must not keep memory of its own over calls of LMDB: a trap would leak it. */
typedef int (*pgs__cache_file_work)(pgs__cache_file *file, MDB_txn *txn, void *ctx);
#define PGS__CACHE_NOTHING_TO_DO ECANCELED /* a write transaction that is to go, and no failure */
#define PGS__CACHE_BAD_RECORD EILSEQ       /* what a record of ours says cannot be; LMDB is all right */
#define PGS__CACHE_TOO_LARGE E2BIG         /* the mirror */

/* In a read transaction. */
int pgs__cache_file_read(pgs__cache_file *file, pgs__cache_file_work work, void *ctx);

/* The same within the work of a write transaction: what was committed last. */
int pgs__cache_file_read_within(pgs__cache_file *file, pgs__cache_file_work work, void *ctx);

/* In a write transaction, after room for `pages` pages was made. EBUSY: others kept the file past the deadline (0: it is
 * to be had at once or not). `committed` (may be NULL) is called before others may write. */
typedef void (*pgs__cache_file_committed)(pgs__cache_file *file, void *ctx);
int pgs__cache_file_write(pgs__cache_file *file, uint64_t pages, uint64_t deadline_ms, pgs__cache_file_work work,
		    pgs__cache_file_committed committed, void *ctx);

/* Whether it can be used at all. */
bool pgs__cache_file_usable(const pgs__cache_file *file);

/* Nobody is to touch it again (D5). */
void pgs__cache_file_broken(pgs__cache_file *file);

/* The PGS_E… of a result, and its message. */
int pgs__cache_file_error(pgs__cache_file *file, int rc, const char *what, pgs_error *err);

/* Sync, and say so (D4). */
int pgs__cache_file_checkpoint(pgs__cache_file *file, uint64_t deadline_ms);

/* mdb_get() and mdb_cursor_get(), whose answers are held against the map: of a damaged file they may be anything. */
int pgs__cache_get(const pgs__cache_file *file, MDB_txn *txn, MDB_dbi table, MDB_val *key, MDB_val *value);
int pgs__cache_cursor_get(const pgs__cache_file *file, MDB_cursor *cursor, MDB_val *key, MDB_val *value, MDB_cursor_op op);

/* Pages in use, as a transaction sees them; and how many may be. */
int pgs__cache_file_used(pgs__cache_file *file, MDB_txn *txn, uint64_t *pages);
uint64_t pgs__cache_file_room(const pgs__cache_file *file);

/* A value of `meta`, sealed together with its key. Key and value are built, and read, in place. */
#define PGS__CACHE_META_ROOM 256
typedef struct pgs__cache_meta_value {
	uint8_t bytes[PGS__CACHE_META_ROOM]; /* key, value, seal */
	size_t key_size;
	pgs__buffer writer; /* into bytes */
} pgs__cache_meta_value;
void pgs__cache_meta_key(pgs__cache_meta_value *m, const void *key, size_t size);

/* Read what is at m's key: the reader stands before it. MDB_NOTFOUND, or PGS__CACHE_BAD_RECORD. */
int pgs__cache_meta_get(pgs__cache_file *file, MDB_txn *txn, pgs__cache_meta_value *m, pgs__reader *r);
/* Put what was written to m->writer. */
int pgs__cache_meta_put(pgs__cache_file *file, MDB_txn *txn, pgs__cache_meta_value *m);

/* A number that was never given. */
int pgs__cache_meta_number(pgs__cache_file *file, MDB_txn *txn, uint32_t *number);

static inline MDB_val pgs__val(const void *data, size_t size)
{
	return (MDB_val){size, (void *)(uintptr_t)data};
}

static inline pgs_slice pgs__val_slice(MDB_val v)
{
	return (pgs_slice){v.mv_data, v.mv_size};
}

/* How LMDB is opened, and what stops it; for open.c. */
void pgs__cache_file_assertion(MDB_env *env, const char *message);
int pgs__cache_file_guard(pgs__cache_file *file, int (*call)(pgs__cache_file *file, void *ctx), void *ctx);

#endif
