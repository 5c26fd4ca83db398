/* Reading named snapshots: from what s/<name> says and the files it names, whatever became of the KV's history.
 *
 * An open one keeps the tables of the index files that were used, and the one block used last, so that a run of pages
 * costs one block. It belongs to one transaction.
 */
#ifndef PGS_TXN_NAMED_H
#define PGS_TXN_NAMED_H

#include "codec/snapshot_record.h"
#include "txn/index_file.h"
#include "txn/snapshot.h"

/* The cache knows a named snapshot's pages by T and this bit: apart from those of revisions, whose entries carry mod
 * revisions of keys that commits compare. */
#define PGS__CACHE_NAMED (1ull << 63)

/* Open the snapshot `name`. Errors: ENOTFOUND (no such snapshot; database dropped), the KV's, ECORRUPT, EVERSION,
 * ENOMEM. Close it with pgs__snapshot_close(). */
int pgs__named_open(pgs__snapshot *out, pgs_db *db, pgs_slice name, uint64_t deadline_ms, pgs_error *err);
void pgs__named_close(struct pgs__named *named);

/* As pgs__pointers_read(), which calls it. */
int pgs__named_read(const pgs__snapshot *snapshot, const uint64_t *pages, size_t count, pgs__resolved *out,
		    pgs__arena *arena, uint64_t deadline_ms, pgs_error *err);

/* An attribute, borrowed from the snapshot; *found false when there is none. Errors: the blob store's, ECORRUPT,
 * EVERSION, EOLDREV (dropped meanwhile), ENOMEM. */
int pgs__named_attr(const pgs__snapshot *snapshot, pgs_slice name, bool *found, pgs_slice *value,
		    uint64_t deadline_ms, pgs_error *err);

/* pgs__explain_missing() of a named snapshot: EOLDREV when it was dropped, or another has its name now. */
int pgs__named_explain(const pgs__snapshot *snapshot, uint64_t deadline_ms, pgs_error *err);

/* As pgs__pointer_cursor. Start zeroed. */
typedef struct pgs__named_cursor {
	const pgs__snapshot *snapshot;
	uint64_t first, end;
	size_t file; /* the one being walked, or to be walked next */
	bool walking;
	pgs__index_cursor cursor;
} pgs__named_cursor;
void pgs__named_cursor_open(pgs__named_cursor *cursor, const pgs__snapshot *snapshot, uint64_t first, uint64_t end);
int pgs__named_cursor_next(pgs__named_cursor *cursor, bool *found, uint64_t *page_no, pgs__pointer *pointer,
			   uint64_t deadline_ms, pgs_error *err);
void pgs__named_cursor_close(pgs__named_cursor *cursor);

#endif
