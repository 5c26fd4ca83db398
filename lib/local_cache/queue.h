/* Which contents stay: S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: "FIFO queues are all you need for cache eviction", SOSP
 * 2023), and before it what no pointer refers to.
 *
 *     put ──→ small (a tenth) ──hit──→ main ──hit──┐
 *      │        └──no hit──→ ghost      ↑  └──no hit──→ out
 *      └────────was a ghost─────────────┴──────────┘
 *     nobody's (the database was dropped, or its place was given away) ──→ out, before all others
 *     superseded (a pointer turned away from it) ──→ out, after them
 *
 * Why this one: a scan goes through the small queue and out, and the main one does not notice; queues are appended
 * to and taken from at one end, which a B+tree does best; and a hit changes no queue. Hits are counted, up to 3, in
 * PATH-state, in memory that all processes share: a read writes nothing. A counter is found by a hash of the content
 * and says whose it is; another's hit there takes one from it, and with the last one the counter. One hit is enough to
 * get from small to main (the paper asks for two): what is asked for twice in a row is met in memory, so a hit here
 * comes from something else already.
 *
 * Positions rise. An entry whose content is gone, or was put again since, is found to be so when its turn comes.
 *
 *     small, main, superseded, ghost   kind, u64 position → database's number, page id, u32 size
 *     ghosts by name                   kind, database's number, page id → nothing
 */
#ifndef PGS_LOCAL_CACHE_QUEUE_H
#define PGS_LOCAL_CACHE_QUEUE_H

#include "local_cache/content.h"

typedef enum pgs__queue_kind {
	PGS__QUEUE_SMALL,
	PGS__QUEUE_MAIN,
	PGS__QUEUE_GHOST,
	PGS__QUEUE_SUPERSEDED,
	PGS__QUEUE_KINDS,
	PGS__QUEUE_GHOST_NAMES = PGS__QUEUE_KINDS
} pgs__queue_kind;

/* What `meta` says of the queues; of entries, those of contents that are gone among them. */
typedef struct pgs__queues {
	uint64_t count[PGS__QUEUE_KINDS];
	uint64_t bytes[PGS__QUEUE_KINDS];
	uint64_t next[PGS__QUEUE_KINDS]; /* position */
} pgs__queues;

int pgs__queues_read(pgs__cache_file *file, MDB_txn *txn, pgs__queues *q);
int pgs__queues_write(pgs__cache_file *file, MDB_txn *txn, const pgs__queues *q);

int pgs__queue_push(pgs__cache_file *file, MDB_txn *txn, pgs__queues *q, pgs__queue_kind kind,
		    const uint8_t key[PGS__CONTENT_KEY_SIZE], uint32_t size);

/* No pointer refers to this content any more: it goes first, if it is there at all. */
int pgs__queue_supersede(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE]);

/* The contents of this database's number are nobody's: they go first. */
int pgs__queue_disown(pgs__cache_file *file, MDB_txn *txn, uint32_t number);

/* Evict until `pages` pages can be written, and a reserve is left, which a transaction needs to change anything. */
int pgs__queue_make_room(pgs__cache_file *file, MDB_txn *txn, uint64_t pages);

/* Pages that are kept free, and those that one transaction should write at most. */
uint64_t pgs__queue_reserve(const pgs__cache_file *file);
uint64_t pgs__queue_batch(const pgs__cache_file *file);

/* Forget that a content was a ghost; *was. */
int pgs__queue_recall(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE], bool *was);

/* Count a hit of a content (true: it is now known to have one, and was not), or make it as if there had been none. */
bool pgs__content_hit(pgs__cache_file *file, const uint8_t key[PGS__CONTENT_KEY_SIZE]);
void pgs__content_not_hit(pgs__cache_file *file, const uint8_t key[PGS__CONTENT_KEY_SIZE]);

#endif
