/* Walking the keys of a range, or counting them, in bounded sub-ranges.
 *
 *     range   |--few--|------------------ dense -------------------|------few------|
 *     asked   [       ][   ][   ][        ][      more │  ][  ]  …  [               ]
 *                                                      └─ full: the rest with narrower sub-ranges
 *
 * A KV like etcd visits every key under a range that it reads, whatever the limit, and holds writers up meanwhile. So
 * no range that is asked for should have many more keys than are wanted. How wide that is nobody knows; it is learned
 * on the way. Keys are taken for big-endian fractions, and a width is a number in eight of their bytes. A sub-range
 * that comes back full says how dense keys are there. Where next to nothing is found the following ones are wider, and
 * several go in one transaction.
 *
 *  - A walk of n keys, `page` at a time, makes about n / page requests, and a few for gaps: up to 16 sub-ranges go in
 *    one, each as wide as all of the request before, so a gap is crossed in the logarithm of its width to base 16.
 *  - The worst case is a gap with something dense behind it: the request that meets it has up to 16 sub-ranges, each no
 *    wider than what was found empty just before. The KV visits what is in those once, range by range, then it gets
 *    narrow again. Where the space is known, as that of pages is, no sub-range is wider than a 1024th of it.
 *    The changelog is walked back from now: what other clocks put hours ahead of ours is taken for little.
 *  - A range that is said to have few keys is asked for whole: one request, and if that is wrong one too wide.
 *  - Keys that were deleted since the KV was last compacted cost about as much as those that are there. A walk cannot
 *    see them.
 */
#ifndef PGS_CONTENT_WALK_H
#define PGS_CONTENT_WALK_H

#include "content/backend.h"

#define PGS__WALK_FEW 2000    /* keys that may lie under one range */
#define PGS__WALK_PROBES 16   /* sub-ranges in one request, */
#define PGS__WALK_OPS (PGS__WALK_PROBES + 2) /* and those on both sides of the dense part */

/* What is known of a database: where its keys are, and about how many. Walks begin by it; nothing depends on it. */
typedef struct pgs__key_space {
	uint64_t page_count;
	uint64_t group_pages; /* pages of a group */
	uint64_t contents;    /* in c/ when they were last counted */
	uint64_t commits;     /* ever: there are no more changelog entries, but for aborted ones */
} pgs__key_space;

/* A distance between keys: `amount` in the 8 bytes from `at` on. */
typedef struct pgs__width {
	uint64_t amount;
	size_t at;
} pgs__width;

typedef struct pgs__walk {
	pgs__key from, end;         /* what is left to ask for, but for the part */
	pgs__key part, part_end;    /* of a walk that goes down: what a full sub-range left, next */
	pgs__key dense, dense_end;  /* outside of it few keys are expected */
	bool evenly;                /* that turned out wrong */
	bool names;                 /* of keys of which only the letters of a text occur: gaps are everywhere */
	bool downward;              /* from the end on; pairs of one sub-range rise all the same */
	bool keys_only, counting;
	uint64_t revision;          /* 0 = each request sees the latest */
	size_t base, finest;        /* which bytes of a key are told apart by widths */
	size_t page;                /* pairs wanted of one request, and about the most that come */
	size_t each;                /* and of one sub-range; 0 = its share of the page */
	pgs__width width;
	uint64_t widest;            /* at `base` */
	size_t probes;              /* sub-ranges of the next request */

	/* the request in work: sub-range i is between bounds i and i + 1 */
	pgs__key bounds[PGS__WALK_OPS + 1];
	bool outer[PGS__WALK_OPS];  /* outside of the dense part */
	size_t asked;
} pgs__walk;

/* Begin a walk of [from, end), in which few keys are expected. */
void pgs__walk_range(pgs__walk *w, const pgs__key *from, const pgs__key *end, size_t page);

/* Begin a walk of all keys of a kind. Those of x/ come newest first, more or less; all others in order. */
void pgs__walk_kind(pgs__walk *w, const uint8_t *prefix, char kind, const pgs__key_space *space, size_t page);

/* The same of level 0's sorted files. */
void pgs__walk_level0(pgs__walk *w, const uint8_t *prefix, const pgs__key_space *space, size_t page);

/* Of what was begun, only what is in [from, end) too. */
void pgs__walk_between(pgs__walk *w, const pgs__key *from, const pgs__key *end);

/* And of kinds whose keys begin with the time, x/, o/ and r/: what is of before that Unix time. */
void pgs__walk_before(pgs__walk *w, const uint8_t *prefix, char kind, int64_t time_ms);

/* Whether anything is left to ask for. */
bool pgs__walk_more(const pgs__walk *w);

/* Go on at this key, which is one that was met. Not for a walk that goes down. */
void pgs__walk_resume(pgs__walk *w, const pgs__key *at);

/* The reads of the next request, at most `room` (at least 1) and PGS__WALK_OPS; returns their number, 0 at the end.
 * Their keys are the walk's, until the next call. */
size_t pgs__walk_ask(pgs__walk *w, pgs_kv_op *ops, size_t room);

/* Take their results. *used: so many of them are part of the walk; the others are to be ignored, and come again.
 * PGS_OK, or PGS_ECORRUPT when a key is too long to be ours. */
int pgs__walk_take(pgs__walk *w, const pgs_kv_result *results, size_t *used, pgs_error *err);

/* One request, asked and taken. */
typedef struct pgs__walk_page {
	pgs_kv_txn txn;
	size_t used; /* results of it */
} pgs__walk_page;

/* Errors: the KV's, ECORRUPT. The caller releases page->txn, also after an error. */
int pgs__walk_next(pgs__walk *w, const pgs__backend *b, pgs__walk_page *page, uint64_t deadline_ms, pgs_error *err);

/* One request; `read` gets each pair, borrowed for the call; what it returns, if not PGS_OK, ends it. With a revision of
 * 0 and `pin`, the walk goes on at the one of this request. */
typedef int (*pgs__pair_reader)(void *ctx, const pgs_kv_pair *pair);
int pgs__walk_pairs(pgs__walk *w, const pgs__backend *b, bool pin, pgs__pair_reader read, void *ctx,
		    uint64_t deadline_ms, pgs_error *err);

/* Read a range of few keys, all as of one revision: *revision, or, where that is 0, the one of the first request, which
 * is then put there. Errors: the KV's (EOLDREV: history was compacted meanwhile), read's. */
int pgs__kv_read_range(const pgs__backend *b, const pgs__key *from, const pgs__key *end, uint64_t *revision,
		       pgs__pair_reader read, void *ctx, uint64_t deadline_ms, pgs_error *err);

/* Count the keys of several walks, side by side; each ends when it has `enough`, or more. Errors: the KV's. */
int pgs__walk_count(pgs__walk *walks, size_t count, uint64_t enough, uint64_t *totals, const pgs__backend *b,
		    uint64_t deadline_ms, pgs_error *err);

#endif
