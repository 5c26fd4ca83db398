/* What a transaction is, inside.
 *
 *     pgs_begin ─→ open ─ pgs_read, pgs_write, … ─→ pgs_commit ─ place ─ validate ─ one KV transaction ─→ freed
 *                    └─→ pgs_abort ─→ freed
 *
 *   begin.c       begin, abort, and what they hold       read.c     reads, pins, prefetch
 *   load.c        pages past the cache                   read_ahead.c  what is read in order
 *   upload.c      full contents ahead of the commit, compressed before that by early.c
 *   write.c       buffered writes, truncate, attributes  place.c    where a page's new content goes
 *   commit.c      commits and their outcomes             attempt.c  their KV transaction, and why it failed
 *   validate.c    what it compares                       payload.c  what it puts
 *   lock.c        the writer lock                        status.c   what became of an unknown commit
 */
#ifndef PGS_TXN_TXN_H
#define PGS_TXN_TXN_H

#include <pagestore/txn.h>

#include "content/sorted_writer.h"
#include "txn/lock.h"
#include "txn/newest.h"
#include "txn/revision_pin.h"
#include "txn/snapshot.h"
#include "util/clock.h"
#include "util/map.h"

/* A new page, hashed and compressed ahead of its placement (early.c). */
typedef struct pgs__early_page {
	uint64_t page_no;
	uint8_t *page;
	bool given;      /* the page is the batch's: its write has another */
	pgs__page_id id;
	uint8_t *frame;  /* NULL: nothing was made */
	uint32_t frame_size;
} pgs__early_page;

typedef struct pgs__early pgs__early;

/* A page this transaction wrote. */
typedef enum pgs__write_state {
	PGS__WRITE_PENDING, /* `page` is what was written; nothing decided */
	PGS__WRITE_READY,   /* `pointer` is decided */
	PGS__WRITE_DROPPED  /* equal to what the page holds: no write */
} pgs__write_state;

typedef struct pgs__write {
	uint64_t page_no;
	pgs__write_state state;
	uint8_t *page;          /* page_size bytes, or NULL once spilled */
	pgs__early_page *early; /* PENDING: what another thread makes of it, or NULL */
	pgs__pointer pointer;   /* READY; its delta is in the transaction's arena */
	uint64_t seen_revision; /* READY: mod revision of the p/ key at the snapshot */
	bool depends;           /* READY: the pointer's base belongs to what the page held, to be compared unchanged */
	uint8_t *frame;         /* FULL: the content as stored, until it is in a file */
	uint32_t frame_size;
	bool in_kv;             /* FULL: put under c/ already */
	bool in_file;           /* FULL: in files[file] at offset */
	uint32_t file;
	uint64_t offset;
} pgs__write;

typedef struct pgs__attr_write {
	pgs_slice name;  /* in the transaction's arena */
	pgs_slice value;
	bool removed;
} pgs__attr_write;

typedef struct pgs__attr_read {
	pgs_slice name;
	uint64_t seen_revision; /* 0 = absent */
} pgs__attr_read;

/* A page that is pinned: how often, and whether the buffer is the transaction's own. */
typedef struct pgs__pinned {
	const void *page;
	uint64_t count; /* + PGS__PINNED_OWN */
} pgs__pinned;

#define PGS__PINNED_OWN (1ull << 63)
#define PGS__PINS_AT_HAND 3 /* the path down a tree */

#define PGS__AHEAD_WINDOWS 2 /* under way at once, */
#define PGS__AHEAD_HINTS 4   /* and beside them */

/* What is read in order, and what the caller says will be (read_ahead.c). */
typedef struct pgs__window pgs__window;
typedef struct pgs__ahead {
	uint64_t missed;     /* the page after those that were read when one was missed */
	size_t run_length;   /* pages read at the last miss */
	uint64_t next;       /* the first page of the oldest window under way; PGS_NO_PAGE: none is */
	uint64_t end;        /* where the next window begins */
	uint32_t count, hint_count;
	pgs__window *windows[PGS__AHEAD_WINDOWS]; /* the oldest first */
	pgs__window *hints[PGS__AHEAD_HINTS];
} pgs__ahead;

typedef struct pgs__upload pgs__upload;

/* One that reads is begun often: all of it is to fit into what allocators keep for each thread. */
struct pgs_txn {
	pgs_db *db;
	pgs__snapshot snapshot;
	bool past;              /* begun at a revision, time or named snapshot */
	bool writes_allowed;
	bool tracks_reads;      /* serializable writer */
	bool extent_checked;    /* the commit compares the page count unchanged */
	bool extent_set;        /* pgs_truncate() was called: that is a write, if perhaps of what is there */
	bool truncated;         /* below the snapshot's extent, at the lowest to truncated_to */
	uint8_t isolation;
	uint32_t timeout_ms;
	uint32_t pins_at_hand;
	pgs__freshness freshness; /* asked for at its beginning */
	pgs_cost *cost;         /* the caller's, or NULL. What reaches the backends is charged to it (content/backend.h) */
	pgs_error error;
	pgs__arena arena;

	pgs__map reads;         /* page → mod revision of its p/ key as seen */
	pgs__attr_read *attr_reads;
	size_t attr_read_count, attr_read_capacity;

	pgs__map write_index;   /* page → index in writes */
	pgs__write *writes;
	size_t write_count, write_capacity;
	pgs__early *early;      /* batches of new pages, the newest first */
	size_t early_next;      /* of writes: the first that no batch has looked at */
	uint64_t buffered_bytes; /* of `page` buffers of pending writes */
	uint64_t frame_bytes;    /* of frames not yet in a file */
	pgs__attr_write *attr_writes;
	size_t attr_write_count, attr_write_capacity;
	uint64_t page_count;    /* as this transaction sees it */
	uint64_t truncated_to;
	pgs__sorted_file *files;
	size_t file_count, file_capacity;
	uint64_t file_bytes;
	pgs__upload *upload;    /* under way: the newest of them (upload.c) */

	pgs__pinned at_hand[PGS__PINS_AT_HAND]; /* pins_at_hand of them */
	pgs__map pins;          /* older ones: address → count */
	uint64_t found;         /* the last page that was read from the cache */
	pgs__ahead ahead;
	pgs__keeper keeper;     /* pins the revision once it is older than half the retention */
	pgs__writer_lock lock;  /* taken before the snapshot, if asked for; the commit takes it over */
};

_Static_assert(sizeof(struct pgs_txn) <= 1032, "glibc's malloc has fast lists for blocks of up to 1032 bytes");

static inline uint32_t pgs__txn_page_size(const pgs_txn *t)
{
	return t->db->contents.page_size;
}

static inline uint64_t pgs__txn_deadline(const pgs_txn *t)
{
	return pgs__db_deadline(t->db, t->timeout_ms);
}

/* Before the transaction asks the backends for something: pin its revision, if it is getting old, renew its lock. */
static inline void pgs__txn_keep(pgs_txn *t, uint64_t deadline_ms)
{
	uint64_t now = pgs__now_ms();
	if (now >= t->keeper.due_ms)
		pgs__keeper_pin(&t->keeper, t->db, t->snapshot.kv_revision, deadline_ms);
	if (t->lock.held && now >= t->lock.renew_ms)
		pgs__writer_lock_renew(t->db, &t->lock, deadline_ms);
}

/* PGS_OK, or PGS_EINVAL with the transaction's error set: page numbers end at 2^32 groups. */
int pgs__txn_check_page(pgs_txn *t, uint64_t page_no);

/* Remember that a page was read. PGS_OK or PGS_ENOMEM. */
int pgs__txn_note_read(pgs_txn *t, uint64_t page_no, uint64_t seen_revision);

/* The page's write that counts (pending or ready), or NULL. */
pgs__write *pgs__txn_find_write(const pgs_txn *t, uint64_t page_no);

/* Give back every pin, for the end. */
void pgs__txn_release_pins(pgs_txn *t);

/* Whether the snapshot holds nothing for the page: past its extent, or truncated away by this transaction. */
static inline bool pgs__txn_is_blank(const pgs_txn *t, uint64_t page_no)
{
	return page_no >= t->snapshot.extent || (t->truncated && page_no >= t->truncated_to);
}

/* A page was missed: load it, and what comes next if pages are missed in order. PGS_OK, or what kept that from the
 * cache: only PGS_ENOMEM counts, others are for the page's own read to meet. */
int pgs__read_ahead(pgs_txn *t, uint64_t page_no);

/* The reader got to ahead.next. */
void pgs__read_ahead_reached(pgs_txn *t);

/* Whether reads wait for a network, so that it is worth knowing them before. */
bool pgs__read_ahead_is_useful(const pgs_db *db);

/* Load pages, whose numbers are valid, beside the caller. *taken: of the first so many nothing is left to do. PGS_OK,
 * ENOMEM. */
int pgs__read_ahead_hint(pgs_txn *t, const uint64_t *page_nos, size_t count, size_t *taken);

/* Wait for what is read ahead: at most until the deadlines of what is under way. */
void pgs__read_ahead_stop(pgs_txn *t);

/* Content of a ready write into `page`. Errors: as pgs_read(). */
int pgs__write_content(pgs_txn *t, const pgs__write *write, void *page, uint64_t deadline_ms);

/* Decide the pointers of all pending writes (place.c), and upload full contents that are worth it. With `spill`, also
 * free the pages. Errors: as pgs_write(). */
int pgs__txn_place(pgs_txn *t, bool spill, uint64_t deadline_ms, pgs_error *err);

/* Whether there is room in the KV for what the transaction holds now, before anything is uploaded for it (room.h).
 * Errors: ENOSPC. */
int pgs__txn_admit(pgs_txn *t, uint64_t deadline_ms, pgs_error *err);

/* Give up a delta against what the page held: write the page full. */
int pgs__write_make_full(pgs_txn *t, pgs__write *write, uint64_t deadline_ms, pgs_error *err);

/* Files this transaction uploaded and nobody registered: remove them now rather than leave them to the collector. */
void pgs__txn_remove_files(pgs_txn *t, uint64_t deadline_ms);

/* Free everything; the pointer is gone. */
void pgs__txn_free(pgs_txn *t);

#endif
