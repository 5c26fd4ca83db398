/* PATH-state: who uses a cache file, and the words its users share.
 *
 *     4096 bytes   pgs__shared_words, mapped by all
 *     then         counters of hits, two bytes each, mapped too (queue.h)
 *
 * Locks are the system's, on single bytes past the end (fcntl): they go with the process that has them. They belong to
 * processes, and closing any descriptor of the file drops them: so a process has the file open once (file.h).
 */
#ifndef PGS_LOCAL_CACHE_SHARED_H
#define PGS_LOCAL_CACHE_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <pagestore/error.h>

#define PGS__SHARED_SLOTS 64
#define PGS__CACHE_MODE 0600 /* of all three files: what is in them is as secret as the store's contents */

/* Anything but CLEAN is not to be trusted after a crash of the machine (D4); BROKEN, ever (D5). */
#define PGS__SHARED_CLEAN 0x6e61656c63736770u
#define PGS__SHARED_DIRTY 0x7974726964736770u
#define PGS__SHARED_BROKEN 0x6e656b6f72627067u

/* Of a database that is attached. Zero when the first process opens the file. */
typedef struct pgs__shared_slot {
	_Atomic uint64_t sequence;
	_Atomic uint64_t required;
	_Atomic uint64_t confirmed_ms;
	_Atomic uint64_t verified; /* the mirror was held against its digest */
} pgs__shared_slot;

/* What its users have met, all of them together since it was made new, and each by itself (file.h). Told, never relied
 * on. */
enum {
	PGS__COUNT_HITS,
	PGS__COUNT_MISSES,
	PGS__COUNT_HIT_BYTES,
	PGS__COUNT_PUTS,
	PGS__COUNT_PUT_BYTES,
	PGS__COUNT_DROPPED,
	PGS__COUNT_BAD,
	PGS__COUNT_EVICTIONS,
	PGS__COUNT_ERRORS,
	PGS__COUNT_AHEAD_USED,
	PGS__COUNT_AHEAD_USED_BYTES,
	PGS__COUNT_AHEAD_WASTED,
	PGS__COUNT_AHEAD_WASTED_BYTES,
	PGS__COUNTS
};
typedef _Atomic uint64_t pgs__cache_counts[PGS__COUNTS];

typedef struct pgs__shared_words {
	uint8_t magic[8];
	uint8_t file_id[16]; /* of the data file that this belongs to */
	uint8_t boot[16];    /* under which it was last written */
	uint64_t size_bytes;
	uint64_t hit_count;  /* power of two */
	uint64_t data_inode, lock_inode; /* of LMDB's files, while they are in use */
	_Atomic uint64_t condition;      /* PGS__SHARED_… */
	pgs__shared_slot slots[PGS__SHARED_SLOTS];
	pgs__cache_counts counts;
} pgs__shared_words;

typedef struct pgs__shared {
	int fd; /* -1 = not open */
	dev_t device;
	ino_t inode;
	pgs__shared_words *words;
	_Atomic uint16_t *hits;
	size_t mapped;
} pgs__shared;

/* Which byte is locked for what. */
enum {
	PGS__LOCK_OPEN = 1 << 20, /* exclusive: opening */
	PGS__LOCK_USE,            /* shared: has the file open */
	PGS__LOCK_WRITE,          /* exclusive: writes */
	PGS__LOCK_ATTACHED,       /* + slot; shared: has the database attached */
	PGS__LOCK_FOLLOW = PGS__LOCK_ATTACHED + PGS__SHARED_SLOTS /* + slot; exclusive: follows */
};

/* Open the file, made if missing, without its words. Errors: PGS_EINVAL, PGS_ENOTFOUND, PGS_EREADONLY, …. */
int pgs__shared_open(pgs__shared *state, const char *path, pgs_error *err);

/* Map the words; false if the file is not one (new, or something else: *empty tells). */
bool pgs__shared_map(pgs__shared *state, bool *empty);

/* Make it new, for a data file of this size. The caller has it alone. PGS_OK, PGS_ENOSPC, PGS_EIO. */
int pgs__shared_init(pgs__shared *state, uint64_t size_bytes, pgs_error *err);

/* Make the words durable. PGS_OK or PGS_EIO. */
int pgs__shared_sync(pgs__shared *state);

void pgs__shared_close(pgs__shared *state); /* and all locks of this process on it */

/* Take a lock, waiting until the deadline (0 = not at all): true if it is held. A process that has it already gets it
 * again, converted. */
bool pgs__shared_lock(pgs__shared *state, off_t byte, bool exclusive, uint64_t deadline_ms);
void pgs__shared_unlock(pgs__shared *state, off_t byte);

/* Whether another process has a lock there; and which one: 0 = none, -1 = one that we cannot name. */
bool pgs__shared_others(pgs__shared *state, off_t byte);
pid_t pgs__shared_holder(pgs__shared *state, off_t byte);

/* This boot of the machine. */
void pgs__shared_boot(uint8_t out[16]);

#endif
