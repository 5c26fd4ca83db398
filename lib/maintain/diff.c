/* Which pages differ.
 *
 * Between two revisions: those the commits between them wrote, whose pointers then differ. That costs what was
 * changed. Where a named snapshot is on a side the changelog may be gone: then all pointers of both sides are walked,
 * side by side, in bounded memory.
 */
#include <string.h>

#include <pagestore/history.h>

#include "txn/changes.h"
#include "txn/txn.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/map.h"

#define CHUNK 256
#define KEYS_AT_ONCE 1000

typedef struct diff {
	pgs__snapshot older, newer;
	pgs__map candidates;
	uint64_t truncated_to; /* the lowest; UINT64_MAX = never */
	uint64_t deadline_ms;
	pgs_diff_visitor visitor;
	void *ctx;
	pgs_error *err;
} diff;

static int add_run(diff *d, uint64_t first, uint64_t end)
{
	for (uint64_t page = first; page < end; page++)
		if (pgs__map_set(&d->candidates, page, 0, NULL) != PGS_OK)
			return pgs__error_nomem(d->err, "diff");
	return PGS_OK;
}

static int collect_change(void *ctx, uint64_t revision, const pgs__change *change, pgs_slice runs)
{
	diff *d = ctx;
	pgs__runs_reader reader;
	pgs__page_run run;
	int result = PGS_OK;
	(void)revision;
	if (change->truncated && change->truncated_to < d->truncated_to)
		d->truncated_to = change->truncated_to;
	if (pgs__runs_open(runs, &reader) != PGS_OK)
		return pgs__error(d->err, PGS_ECORRUPT, "a changelog entry of database %s is damaged", d->older.db->name);
	while (result == PGS_OK && pgs__runs_next(&reader, &run))
		result = add_run(d, run.first, run.first + run.count);
	return result;
}

/* --- what a truncation cut off ------------------------------------------------ */

static int add_key(void *ctx, const pgs_kv_pair *pair)
{
	diff *d = ctx;
	uint64_t page_no;
	if (!pgs__key_parse_page(pair->key, &page_no))
		return pgs__error(d->err, PGS_ECORRUPT, "a page's key is malformed");
	return add_run(d, page_no, page_no + 1);
}

/* The older snapshot's pages from truncated_to on. The page space is sparse: those that have a pointer, not all. */
static int add_keys(diff *d)
{
	const uint8_t *prefix = pgs__db_prefix(d->older.db);
	pgs__key from = pgs__key_page(prefix, d->truncated_to), end = pgs__key_page(prefix, d->older.extent);
	pgs__key_space space = pgs__db_space(d->older.db);
	pgs__walk walk;
	int result = PGS_OK;
	space.page_count = d->older.extent;
	pgs__walk_kind(&walk, prefix, 'p', &space, KEYS_AT_ONCE);
	pgs__walk_between(&walk, &from, &end);
	walk.revision = d->older.kv_revision;
	walk.keys_only = true;
	while (result == PGS_OK && pgs__walk_more(&walk))
		result = pgs__walk_pairs(&walk, pgs__db_backend(d->older.db), false, add_key, d, d->deadline_ms, d->err);
	return result;
}

static int add_packed(void *ctx, uint64_t page_no, uint64_t revision, pgs_slice pointer)
{
	diff *d = ctx;
	(void)revision;
	(void)pointer;
	return page_no >= d->truncated_to && page_no < d->older.extent ? add_run(d, page_no, page_no + 1) : PGS_OK;
}

static int add_cut_off(diff *d)
{
	int result = add_keys(d);
	if (result == PGS_OK)
		result = pgs__pack_view_visit(d->older.packs, pgs__db_backend(d->older.db), d->deadline_ms, add_packed, d,
					      d->err);
	return result == PGS_ENOTFOUND ? pgs__explain_missing(&d->older, d->deadline_ms, d->err) : result;
}

/* --- comparing ----------------------------------------------------------------- */

static bool is_zero(const pgs__page_ref *ref)
{
	return ref->kind == PGS__POINTER_ABSENT || ref->kind == PGS__POINTER_ZERO;
}

static bool same_content(const pgs__page_ref *a, const pgs__page_ref *b)
{
	if (is_zero(a) || is_zero(b))
		return is_zero(a) && is_zero(b);
	return pgs__page_id_equal(&a->id, &b->id);
}

static int compare_chunk(diff *d, const uint64_t *pages, size_t count)
{
	pgs__arena arena = {0};
	pgs__resolved *a = pgs__arena_calloc(&arena, count, sizeof *a);
	pgs__resolved *b = pgs__arena_calloc(&arena, count, sizeof *b);
	int result = a && b ? PGS_OK : pgs__error_nomem(d->err, "diff");
	if (result == PGS_OK)
		result = pgs__pointers_read(&d->older, pages, count, a, &arena, d->deadline_ms, d->err);
	if (result == PGS_OK)
		result = pgs__pointers_read(&d->newer, pages, count, b, &arena, d->deadline_ms, d->err);
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		if (!same_content(&a[i].ref, &b[i].ref))
			result = d->visitor(d->ctx, pages[i]);
	pgs__arena_free(&arena);
	return result;
}

static int compare_candidates(diff *d)
{
	size_t count;
	uint64_t *pages = pgs__map_sorted_keys(&d->candidates, &count);
	if (!pages)
		return d->candidates.count ? pgs__error_nomem(d->err, "diff") : PGS_OK;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < count; i += CHUNK)
		result = compare_chunk(d, pages + i, count - i < CHUNK ? count - i : CHUNK);
	pgs__free(pages);
	return result;
}

static int run(diff *d)
{
	/* From R, not T: there is no commit between, and the KV's history may begin there. */
	int result = pgs__changes_read(d->older.db, d->older.kv_revision, d->newer.commit_revision, d->deadline_ms,
				       collect_change, d, d->err);
	/* What a truncation cut off lay below the older extent, or was written and is among the runs. */
	if (result == PGS_OK && d->truncated_to < d->older.extent)
		result = add_cut_off(d);
	return result == PGS_OK ? compare_candidates(d) : result;
}

int pgs_diff(pgs_db *db, uint64_t revision_a, uint64_t revision_b, pgs_diff_visitor visitor, void *ctx,
	     pgs_error *err)
{
	uint64_t low = revision_a < revision_b ? revision_a : revision_b;
	uint64_t high = revision_a < revision_b ? revision_b : revision_a;
	diff d = {.truncated_to = UINT64_MAX,
		  .deadline_ms = pgs__db_deadline(db, 0),
		  .visitor = visitor,
		  .ctx = ctx,
		  .err = err};
	if (low == 0)
		return pgs__error(err, PGS_EINVAL, "revision 0 is before every commit");
	int result = pgs__snapshot_open(&d.older, db, low, d.deadline_ms, err);
	if (result == PGS_OK)
		result = pgs__snapshot_open(&d.newer, db, high, d.deadline_ms, err);
	if (result == PGS_OK)
		result = run(&d);
	if (result == PGS_EOLDREV)
		result = pgs__explain_old(&d.older, d.deadline_ms, err);
	pgs__map_free(&d.candidates);
	pgs__snapshot_close(&d.older);
	pgs__snapshot_close(&d.newer);
	return result;
}

/* --- any two snapshots ------------------------------------------------------------ */

/* One side of a walk: the page it is at. */
typedef struct side {
	pgs__pointer_cursor *cursor;
	uint64_t page_no; /* UINT64_MAX = at the end */
	pgs__page_id id;
} side;

/* To the next page that is not zero: absent and zero are the same. */
static int advance(side *s, pgs_db *db, pgs_error *err)
{
	pgs__pointer pointer;
	bool found = true;
	for (;;) {
		int result = pgs__pointer_cursor_next(s->cursor, &found, &s->page_no, &pointer, pgs__db_deadline(db, 0),
						      err);
		if (result != PGS_OK)
			return result;
		if (!found)
			s->page_no = UINT64_MAX;
		if (!found || pointer.kind != PGS__POINTER_ZERO)
			break;
	}
	if (found)
		s->id = pointer.id;
	return PGS_OK;
}

static int walk(side *a, side *b, pgs_db *db, pgs_diff_visitor visitor, void *ctx, pgs_error *err)
{
	int result = advance(a, db, err);
	if (result == PGS_OK)
		result = advance(b, db, err);
	while (result == PGS_OK && (a->page_no != UINT64_MAX || b->page_no != UINT64_MAX)) {
		uint64_t page_no = a->page_no < b->page_no ? a->page_no : b->page_no;
		bool both = a->page_no == b->page_no;
		if (!both || !pgs__page_id_equal(&a->id, &b->id))
			result = visitor(ctx, page_no);
		bool move_b = b->page_no == page_no;
		if (result == PGS_OK && a->page_no == page_no)
			result = advance(a, db, err);
		if (result == PGS_OK && move_b)
			result = advance(b, db, err);
	}
	return result;
}

static int diff_walked(const pgs__snapshot *x, const pgs__snapshot *y, pgs_diff_visitor visitor, void *ctx,
		       pgs_error *err)
{
	side a = {0}, b = {0};
	int result = pgs__pointer_cursor_open(&a.cursor, x, 0, x->extent, err);
	if (result == PGS_OK)
		result = pgs__pointer_cursor_open(&b.cursor, y, 0, y->extent, err);
	if (result == PGS_OK)
		result = walk(&a, &b, x->db, visitor, ctx, err);
	pgs__pointer_cursor_close(a.cursor);
	pgs__pointer_cursor_close(b.cursor);
	return result;
}

int pgs_diff_txns(pgs_txn *a, pgs_txn *b, pgs_diff_visitor visitor, void *ctx, pgs_error *err)
{
	const pgs__snapshot *x = &a->snapshot, *y = &b->snapshot;
	if (memcmp(pgs__db_prefix(x->db), pgs__db_prefix(y->db), PGS__PREFIX_SIZE) != 0)
		return pgs__error(err, PGS_EINVAL, "the transactions are of two databases, %s and %s", x->db->name,
				  y->db->name);
	if (x->commit_revision == y->commit_revision)
		return PGS_OK;
	if (x->named || y->named)
		return diff_walked(x, y, visitor, ctx, err);
	bool in_order = x->commit_revision < y->commit_revision;
	diff d = {.older = in_order ? *x : *y,
		  .newer = in_order ? *y : *x,
		  .truncated_to = UINT64_MAX,
		  .deadline_ms = pgs__db_deadline(x->db, 0),
		  .visitor = visitor,
		  .ctx = ctx,
		  .err = err};
	int result = run(&d);
	pgs__map_free(&d.candidates);
	return result;
}
