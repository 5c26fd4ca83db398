/* Snapshots: a database as of one revision, and the pointers it shows. */
#ifndef PGS_TXN_SNAPSHOT_H
#define PGS_TXN_SNAPSHOT_H

#include "txn/packs.h"
#include "util/arena.h"

/* Two revisions tell a snapshot: `kv_revision` (R in the algorithms) is where the KV is read; `commit_revision` (T)
 * is that of the last commit at or before it, which is what users see and what the cache goes by. */
struct pgs__named;

typedef struct pgs__snapshot {
	pgs_db *db;
	uint64_t kv_revision;
	uint64_t commit_revision;
	uint64_t commit_count;     /* version of `t` */
	uint64_t counter;          /* value of `t` */
	uint64_t floor;            /* 0 where it was not read: the latest, opened by `t` alone */
	uint64_t epoch;            /* mod revision of `z` */
	uint64_t extent;           /* pages */
	uint64_t extent_revision;  /* mod revision of `e` */
	uint64_t changes;          /* the KV's number before it was read: see tip.h; 0 = not known, or not the latest then */
	uint64_t cache_revision;   /* what the cache knows it by: commit_revision, or a number of its own */
	pgs__pack_view *packs;     /* NULL if named */
	struct pgs__named *named;  /* a named snapshot, which asks the KV for nothing: txn/named.h */
} pgs__snapshot;

/* Open the latest snapshot (at_revision 0) or a past one. A revision that is no longer readable itself, but shows the
 * same commit as the oldest one that is, opens there: kv_revision is then above at_revision. Errors: ENOTFOUND, EOLDREV
 * (naming the oldest readable revision), EINVAL (future), the KV's, ECORRUPT, ENOMEM. */
int pgs__snapshot_open(pgs__snapshot *out, pgs_db *db, uint64_t at_revision, uint64_t deadline_ms, pgs_error *err);
/* Whether opening the latest would give the same, at once. */
bool pgs__snapshot_is_latest(const pgs__snapshot *snapshot);

/* Open the latest snapshot where it is known to be that of a commit of this process. Errors: ENOTFOUND (nothing is known
 * of it), and as above. */
int pgs__snapshot_open_known(pgs__snapshot *out, pgs_db *db, const pgs__turn_commit *commit, uint64_t deadline_ms,
			     pgs_error *err);
void pgs__snapshot_close(pgs__snapshot *snapshot);

/* The snapshot that the machine's mirror has, if it is later than `after`: without asking the KV, unless there are packs
 * that this process does not know. False: there is none. */
bool pgs__snapshot_mirrored(pgs__snapshot *out, pgs_db *db, uint64_t after, uint64_t deadline_ms);

/* The revision at which the machine's mirror may be asked for the snapshot's pointers and attributes; 0 = at none. It may
 * be behind the KV, as long as it has the snapshot's commit and list of packs: then there were only steps of folds since. */
uint64_t pgs__snapshot_mirror_revision(const pgs__snapshot *s);

/* What the cache keeps of a pointer; key_revision and from are the caller's to set. */
pgs__page_ref pgs__page_ref_of(const pgs__pointer *pointer);

/* A page's pointer; `delta` lives in the arena given. */
typedef struct pgs__resolved {
	pgs__page_ref ref;
	pgs_slice delta;
} pgs__resolved;

/* Read the pointers of `count` pages, strictly rising, past the cache, which learns them. Errors: the KV's, ECORRUPT,
 * ENOMEM. */
int pgs__pointers_read(const pgs__snapshot *snapshot, const uint64_t *pages, size_t count, pgs__resolved *out,
		       pgs__arena *arena, uint64_t deadline_ms, pgs_error *err);

/* A walk over the pointers of pages [first, end) that are not absent, in rising order, past the cache. What lies
 * between pages that have a pointer costs next to nothing, however far it is. (From the page count on there are none.) */
typedef struct pgs__pointer_cursor pgs__pointer_cursor;
int pgs__pointer_cursor_open(pgs__pointer_cursor **out, const pgs__snapshot *snapshot, uint64_t first, uint64_t end,
			     pgs_error *err);
/* The next page and its pointer, not folded, its delta borrowed until the next call; *found is false at the end.
 * Errors: EOLDREV, the KV's and blob store's, ECORRUPT, ENOTFOUND (dropped), ENOMEM. */
int pgs__pointer_cursor_next(pgs__pointer_cursor *cursor, bool *found, uint64_t *page_no, pgs__pointer *pointer,
			     uint64_t deadline_ms, pgs_error *err);
void pgs__pointer_cursor_close(pgs__pointer_cursor *cursor);

/* Called per page that has a pointer, in page order; the pointer is borrowed for the call. Return 0 to go on. */
typedef int (*pgs__pointer_visitor)(void *ctx, uint64_t page_no, const pgs__pointer *pointer);

/* Visit the pointers of pages [first, end), neither using the cache nor filling it. Errors: as the cursor's, and the
 * visitor's. */
int pgs__pointers_scan(const pgs__snapshot *snapshot, uint64_t first, uint64_t end, pgs__pointer_visitor visit,
		       void *ctx, uint64_t deadline_ms, pgs_error *err);

/* Is the content really gone, or was it collected, or the database dropped, while we read? Turns a PGS_ENOTFOUND of
 * a content into EOLDREV, ENOTFOUND or ECORRUPT, with the message. */
int pgs__explain_missing(const pgs__snapshot *snapshot, uint64_t deadline_ms, pgs_error *err);

/* The oldest revision that can be read: the floor, or where someone else compacted the KV to. Errors: ENOTFOUND
 * (dropped), ECORRUPT, the KV's. */
int pgs__oldest_readable(pgs_db *db, uint64_t *oldest, uint64_t deadline_ms, pgs_error *err);

/* The KV answered EOLDREV while the snapshot was read: say so in our words, with the oldest revision that is readable.
 * Returns PGS_EOLDREV, ENOTFOUND when the database was dropped, or why that could not be found out. */
int pgs__explain_old(const pgs__snapshot *snapshot, uint64_t deadline_ms, pgs_error *err);

#endif
