/* Walking all pointers of a snapshot.
 *
 *     p/ in bounded ranges ──┐
 *     pages of packs ────────┴─ by page, the youngest by age ── batches ── one pointer after the other
 *     or a named snapshot's index files ─────────────────────────────────┘
 *
 * The page space is sparse: content/walk.h says what a page far away costs.
 */
#include "txn/snapshot.h"

#include "content/walk.h"
#include "txn/named.h"
#include "util/alloc.h"
#include "util/cursor.h"
#include "util/error.h"

#define BATCH_PAGES 2000
#define BATCH_BYTES (4u << 20) /* of pointers, if deltas were a quarter of a page: most are far smaller */

typedef struct item {
	uint64_t page_no;
	pgs__pointer pointer;
} item;

struct pgs__pointer_cursor {
	const pgs__snapshot *snapshot;
	uint64_t next, end;        /* pages not yet read */
	pgs__walk walk;            /* over their keys */
	size_t batch;              /* items at most */
	size_t count, at;
	pgs__walk_page page;       /* the batch's deltas are in here, */
	pgs__pack_finder *finder;  /* and here */
	pgs__named_cursor named;
	item items[];
};

static void begin_walk(pgs__pointer_cursor *c)
{
	const uint8_t *prefix = pgs__db_prefix(c->snapshot->db);
	pgs__key_space space = pgs__db_space(c->snapshot->db);
	pgs__key from = pgs__key_page(prefix, c->next), end = pgs__key_page(prefix, c->end);
	space.page_count = c->snapshot->extent;
	pgs__walk_kind(&c->walk, prefix, 'p', &space, c->batch);
	pgs__walk_between(&c->walk, &from, &end);
	c->walk.revision = c->snapshot->kv_revision;
}

int pgs__pointer_cursor_open(pgs__pointer_cursor **out, const pgs__snapshot *snapshot, uint64_t first, uint64_t end,
			     pgs_error *err)
{
	size_t batch = BATCH_BYTES / (snapshot->db->contents.page_size / 4);
	batch = snapshot->named ? 0 : batch < BATCH_PAGES ? batch : BATCH_PAGES;
	pgs__pointer_cursor *c = *out = pgs__calloc(1, sizeof *c + batch * sizeof c->items[0]);
	if (!c)
		return pgs__error_nomem(err, "reading pointers");
	c->snapshot = snapshot;
	c->batch = batch;
	c->next = first;
	c->end = end;
	if (snapshot->named)
		pgs__named_cursor_open(&c->named, snapshot, c->next, c->end);
	else
		begin_walk(c);
	return PGS_OK;
}

static void release_batch(pgs__pointer_cursor *c)
{
	pgs__pack_finder_free(c->finder);
	c->finder = NULL;
	pgs__kv_release(pgs__db_backend(c->snapshot->db), &c->page.txn, 1);
	c->page = (pgs__walk_page){.used = 0};
	c->count = c->at = 0;
}

void pgs__pointer_cursor_close(pgs__pointer_cursor *c)
{
	if (!c)
		return;
	release_batch(c);
	pgs__named_cursor_close(&c->named);
	pgs__free(c);
}

/* --- a batch from the KV and the packs -------------------------------------------- */

static int decode(const pgs__pointer_cursor *c, uint64_t page_no, pgs_slice value, const char *where, uint64_t revision,
		  pgs__pointer *out, pgs_error *err)
{
	if (pgs__pointer_decode(value, pgs__page_group(page_no, c->snapshot->db->contents.page_size), out) == PGS_OK)
		return PGS_OK;
	return pgs__error_page(err, PGS_ECORRUPT, page_no, "page %llu: its pointer in %s of revision %llu is damaged",
			       (unsigned long long)page_no, where, (unsigned long long)revision);
}

/* Add the youngest of p/<page_no> (`pair`, or NULL) and what the packs say. */
static int add_item(pgs__pointer_cursor *c, uint64_t page_no, const pgs_kv_pair *pair, pgs_error *err)
{
	pgs__pointer pointer = {.kind = PGS__POINTER_ABSENT};
	pgs__pack_answer answer = {0};
	int result = PGS_OK;
	if (pair)
		result = decode(c, page_no, pair->value, "the KV", pair->mod_revision, &pointer, err);
	uint64_t age = !pair ? 0 : pointer.folded_revision ? pointer.folded_revision : pair->mod_revision;
	if (result == PGS_OK && c->finder)
		result = pgs__pack_find(c->finder, page_no, age, &answer);
	if (result == PGS_OK && answer.found) {
		pgs_slice value = {answer.pointer, answer.pointer_size};
		pointer = (pgs__pointer){.kind = PGS__POINTER_ABSENT};
		if (!answer.absent)
			result = decode(c, page_no, value, "the pack", answer.revision, &pointer, err);
	}
	if (result != PGS_OK || pointer.kind == PGS__POINTER_ABSENT)
		return result;
	pointer.folded_revision = 0;
	c->items[c->count++] = (item){page_no, pointer};
	return PGS_OK;
}

/* The pair at hand of those read, or NULL behind the last. */
static const pgs_kv_pair *pair_at(const pgs__walk_page *page, size_t *result, size_t *index)
{
	while (*result < page->used && *index == page->txn.results[*result].count) {
		++*result;
		*index = 0;
	}
	return *result < page->used ? &page->txn.results[*result].pairs[*index] : NULL;
}

/* Merge the keys read, which are all of those of [c->next, end), with the packs' pages. c->next moves to where the
 * batch ends: at `end`, or where it is full. */
static int merge_packs(pgs__pointer_cursor *c, uint64_t end, pgs_error *err)
{
	size_t from = 0, index = 0;
	while (c->count < c->batch) {
		uint64_t key = UINT64_MAX, packed = UINT64_MAX;
		const pgs_kv_pair *pair = pair_at(&c->page, &from, &index);
		if (pair && !pgs__key_parse_page(pair->key, &key))
			return pgs__error(err, PGS_ECORRUPT, "a page's key is malformed");
		int result = c->finder ? pgs__pack_next_page(c->finder, c->next, &packed) : PGS_OK;
		uint64_t page_no = key < packed ? key : packed;
		if (result == PGS_OK && page_no < end)
			result = add_item(c, page_no, key == page_no ? pair : NULL, err);
		if (result != PGS_OK)
			return result;
		if (page_no >= end) {
			c->next = end;
			return PGS_OK;
		}
		index += key == page_no;
		c->next = page_no + 1;
	}
	return PGS_OK;
}

/* Read the next keys. *end is where what was read ends. */
static int read_keys(pgs__pointer_cursor *c, uint64_t *end, uint64_t deadline_ms, pgs_error *err)
{
	const pgs__snapshot *s = c->snapshot;
	pgs__key from = pgs__key_page(pgs__db_prefix(s->db), c->next);
	pgs__walk_resume(&c->walk, &from); /* packs may have filled the last batch before its keys were through */
	int result = pgs__walk_next(&c->walk, pgs__db_backend(s->db), &c->page, deadline_ms, err);
	if (result != PGS_OK)
		return result == PGS_EOLDREV ? pgs__explain_old(s, deadline_ms, err) : result;
	const pgs__key *left = &c->walk.from; /* at a page, or right after one */
	*end = c->end;
	if (pgs__walk_more(&c->walk))
		*end = pgs__load_u64be(left->bytes + from.size - 8) + (left->size > from.size);
	return PGS_OK;
}

static int read_batch(pgs__pointer_cursor *c, uint64_t deadline_ms, pgs_error *err)
{
	const pgs__snapshot *s = c->snapshot;
	uint64_t end = c->end;
	release_batch(c);
	int result = read_keys(c, &end, deadline_ms, err);
	if (result == PGS_OK && pgs__pack_view_count(s->packs) > 0)
		result = pgs__pack_finder_new(&c->finder, s->packs, pgs__db_backend(s->db), deadline_ms, err);
	if (result == PGS_OK)
		result = merge_packs(c, end, err);
	return result == PGS_ENOTFOUND ? pgs__explain_missing(s, deadline_ms, err) : result;
}

/* --- the walk ------------------------------------------------------------------------ */

int pgs__pointer_cursor_next(pgs__pointer_cursor *c, bool *found, uint64_t *page_no, pgs__pointer *pointer,
			     uint64_t deadline_ms, pgs_error *err)
{
	if (c->snapshot->named)
		return pgs__named_cursor_next(&c->named, found, page_no, pointer, deadline_ms, err);
	while (c->at == c->count && c->next < c->end) {
		int result = read_batch(c, deadline_ms, err);
		if (result != PGS_OK) {
			c->count = c->at; /* nothing half read; the walk is over */
			c->next = c->end;
			return result;
		}
	}
	*found = c->at < c->count;
	if (*found) {
		*page_no = c->items[c->at].page_no;
		*pointer = c->items[c->at++].pointer;
	}
	return PGS_OK;
}

int pgs__pointers_scan(const pgs__snapshot *snapshot, uint64_t first, uint64_t end, pgs__pointer_visitor visit,
		       void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	pgs__pointer_cursor *cursor;
	pgs__pointer pointer;
	uint64_t page_no;
	bool found = true;
	int result = pgs__pointer_cursor_open(&cursor, snapshot, first, end, err);
	while (result == PGS_OK && found) {
		result = pgs__pointer_cursor_next(cursor, &found, &page_no, &pointer, deadline_ms, err);
		if (result == PGS_OK && found)
			result = visit(ctx, page_no, &pointer);
	}
	pgs__pointer_cursor_close(cursor);
	return result;
}
