/* Bringing the machine's mirror to one commit of this process: catch_up.h says why that may be done. */
#ifndef PGS_TXN_BRING_H
#define PGS_TXN_BRING_H

#include "codec/meta.h"
#include "local_cache/mirror.h"
#include "txn/history.h"
#include "util/arena.h"

struct pgs__commit;

/* What is put, and what the mirror has there; nothing: version 0. */
typedef struct pgs__own_put {
	pgs_slice key, value;
	uint64_t create_revision, mod_revision, version;
	bool unknown; /* of an attribute the mirror may not know that (M4) */
} pgs__own_put;

typedef struct pgs__bringing {
	struct pgs__bringing *next; /* in line: catch_up.c */
	enum { PGS__IN_LINE, PGS__IN_HAND, PGS__TRIED } state;
	bool done;                  /* the mirror is at the commit, or further */
	bool left;                  /* the commit has returned: this is the line's */
	uint64_t left_ms;

	pgs_db *db;
	uint64_t revision, previous, previous_count, sent_ms;
	bool structural;
	pgs_kv_pair floor;
	const pgs__logged *others;
	size_t other_count;
	pgs__arena arena;
	pgs__key t, z, e, g;
	uint8_t counter[PGS__NUMBER_SIZE], extent[PGS__NUMBER_SIZE], uuid[16];
	pgs__own_put *puts;
	pgs_slice *put_keys;
	size_t put_count;
	pgs_kv_op *deletes;
	size_t delete_count;

	uint64_t deadline_ms;
	bool tried;        /* what others have committed was looked for */
	uint64_t sequence; /* S: where the mirror is, and what it has there */
	bool torn;         /* it has moved while it was looked at */
	size_t packs;
	bool full;         /* more changes than are worth it, or no memory */
	pgs__mirror_change *changes;
	size_t change_count, change_capacity;
} pgs__bringing;

/* What a commit has done, borrowed from it. NULL: too much, or out of memory. */
pgs__bringing *pgs__bringing_new(const struct pgs__commit *c);
void pgs__bringing_free(pgs__bringing *b); /* NULL is allowed */

/* Have it outlive the commit; without what others have committed. False: it is too large, or out of memory. */
bool pgs__bringing_keep(pgs__bringing *b);

/* Bring the mirror to it: whether it is there now, or further. */
bool pgs__bring(pgs__bringing *b);

#endif
