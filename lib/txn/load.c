/* Loading pages: what every read that the cache cannot answer goes through, and what reads ahead.
 *
 *     page ── own write? ── blank? ── cache ── pointers from the KV ── contents ── delta applied ── verified
 *
 * Pages are taken in chunks; the backends are asked for as much of a chunk at once as they can take. A load ahead
 * of time belongs to no transaction: it may run beside the one whose snapshot it reads, and touches nothing of it.
 */
#include "txn/load.h"

#include <stdlib.h>

#include "util/alloc.h"
#include "util/error.h"

#define CHUNK 2048              /* pages loaded at once, */
#define CHUNK_BYTES (8u << 20)  /* and the memory they may take */

/* A page to load. */
typedef struct item {
	uint64_t page_no;
	void *page;
	pgs__page_ref ref;
	pgs_slice delta;
	bool needs_pointer;
	bool needs_content; /* of ref.id, or of the base of a delta: wants[want] */
	size_t want;
} item;

typedef struct load {
	const pgs__snapshot *snapshot;
	pgs_txn *t; /* NULL: ahead of time */
	item *items;
	size_t count;
	pgs__arena arena;
	uint64_t deadline_ms;
	bool tracked; /* the pages join the read set */
	size_t hits, missed; /* pages that memory had, and did not */
	pgs_error *err;
} load;

static uint32_t page_size_of(const load *l)
{
	return l->snapshot->db->contents.page_size;
}

/* --- what is at hand ------------------------------------------------------------ */

/* A page that is blank was read: past the extent that makes the extent part of the read set. */
static void note_blank(pgs_txn *t, uint64_t page_no)
{
	if (page_no >= t->snapshot.extent)
		t->extent_checked = true;
}

/* From the transaction's own writes and truncation; *found. */
static int load_own(load *l, item *i, bool *found)
{
	const pgs__write *write = pgs__txn_find_write(l->t, i->page_no);
	*found = write || pgs__txn_is_blank(l->t, i->page_no);
	if (write && !write->page)
		return pgs__write_content(l->t, write, i->page, l->deadline_ms);
	if (write) {
		memcpy(i->page, write->page, page_size_of(l));
	} else if (*found) {
		if (l->tracked)
			note_blank(l->t, i->page_no);
		memset(i->page, 0, page_size_of(l));
	}
	return PGS_OK;
}

/* From own writes, blank pages and the cache. */
static int load_known(load *l, item *i)
{
	bool own = false;
	const void *data;
	int result = l->t ? load_own(l, i, &own) : PGS_OK;
	if (own || result != PGS_OK)
		return result;
	pgs__cache *cache = l->snapshot->db->contents.cache;
	pgs__cache_state state = pgs__cache_lookup(cache, i->page_no, l->snapshot->cache_revision, &i->ref, &data);
	if (state == PGS__CACHE_CONTENT) {
		memcpy(i->page, data, page_size_of(l));
		pgs__cache_unpin(cache, data);
	} else if (state == PGS__CACHE_POINTER && i->ref.kind == PGS__POINTER_FULL) {
		i->needs_content = true;
	} else {
		i->needs_pointer = true; /* a delta's bytes are not cached */
	}
	if (i->needs_pointer || i->needs_content)
		l->missed++;
	else
		l->hits++;
	if (!i->needs_pointer && l->tracked)
		return pgs__txn_note_read(l->t, i->page_no, i->ref.key_revision);
	return PGS_OK;
}

/* --- pointers and contents --------------------------------------------------------- */

static int by_page(const void *a, const void *b)
{
	const item *x = a, *y = b;
	return (x->page_no > y->page_no) - (x->page_no < y->page_no);
}

/* Read the pointers of the items that lack one. The items are in page order; a page may be there twice. */
static int load_pointers(load *l)
{
	uint64_t *pages = pgs__arena_calloc(&l->arena, l->count, sizeof *pages);
	size_t count = 0;
	if (!pages)
		return pgs__error_nomem(l->err, "reading pages");
	for (size_t i = 0; i < l->count; i++)
		if (l->items[i].needs_pointer && (count == 0 || pages[count - 1] != l->items[i].page_no))
			pages[count++] = l->items[i].page_no;
	if (count == 0)
		return PGS_OK;
	pgs__resolved *resolved = pgs__arena_calloc(&l->arena, count, sizeof *resolved);
	if (!resolved)
		return pgs__error_nomem(l->err, "reading pages");
	int result = pgs__pointers_read(l->snapshot, pages, count, resolved, &l->arena, l->deadline_ms, l->err);
	for (size_t i = 0, at = 0; result == PGS_OK && i < l->count; i++) {
		item *it = &l->items[i];
		if (!it->needs_pointer)
			continue;
		while (pages[at] != it->page_no) /* NOLINT(clang-analyzer-core.UndefinedBinaryOperatorResult): it is there */
			at++;
		it->ref = resolved[at].ref;
		it->delta = resolved[at].delta;
		it->needs_content = true;
		if (l->tracked)
			result = pgs__txn_note_read(l->t, it->page_no, it->ref.key_revision);
	}
	return result;
}

/* Put the content a pointer needs, its own or its delta's base, into item->page if it is at hand. */
static void take_base_at_hand(load *l, item *i)
{
	pgs__cache *cache = l->snapshot->db->contents.cache;
	uint32_t page_size = page_size_of(l);
	const pgs__page_id *id = i->ref.kind == PGS__POINTER_DELTA ? &i->ref.base : &i->ref.id;
	if (i->ref.kind == PGS__POINTER_ABSENT || i->ref.kind == PGS__POINTER_ZERO ||
	    (i->ref.kind == PGS__POINTER_DELTA && !i->ref.has_base)) {
		memset(i->page, 0, page_size);
		i->needs_content = false;
		return;
	}
	const void *data = pgs__cache_content(cache, i->page_no, id);
	if (!data)
		return;
	memcpy(i->page, data, page_size);
	pgs__cache_unpin(cache, data);
	i->needs_content = false;
}

static int load_contents(load *l)
{
	pgs__want *wants = pgs__arena_calloc(&l->arena, l->count, sizeof *wants);
	size_t count = 0;
	if (!wants)
		return pgs__error_nomem(l->err, "reading pages");
	for (size_t i = 0; i < l->count; i++) {
		item *it = &l->items[i];
		if (it->needs_content)
			take_base_at_hand(l, it);
		if (!it->needs_content)
			continue;
		it->want = count;
		wants[count++] = (pgs__want){
			.page_no = it->page_no,
			.id = it->ref.kind == PGS__POINTER_DELTA ? it->ref.base : it->ref.id,
			.page = it->page,
		};
	}
	pgs__contents *contents = &l->snapshot->db->contents;
	int result = pgs__contents_fetch(contents, wants, count, l->deadline_ms, l->err);
	for (size_t i = 0; i < count; i++) /* what is good is kept, whatever happened to the others */
		if (wants[i].status == PGS_OK)
			pgs__cache_put_content(contents->cache, wants[i].page_no, &wants[i].id, wants[i].page);
	if (result == PGS_ENOTFOUND)
		result = pgs__explain_missing(l->snapshot, l->deadline_ms, l->err);
	return result;
}

static int damaged_delta(load *l, uint64_t page_no)
{
	return pgs__error_page(l->err, PGS_ECORRUPT, page_no,
			       "page %llu: the delta in its pointer (database %s) does not give the page it names",
			       (unsigned long long)page_no, l->snapshot->db->name);
}

/* Turn bases into pages: apply the delta, prove the result. */
static int apply_deltas(load *l)
{
	pgs__contents *contents = &l->snapshot->db->contents;
	pgs__workbench *bench = NULL;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < l->count; i++) {
		item *it = &l->items[i];
		if (!it->needs_pointer || it->ref.kind != PGS__POINTER_DELTA)
			continue;
		if (!bench && !(bench = pgs__workbench_take(&contents->benches)))
			return pgs__error_nomem(l->err, "reading pages");
		result = pgs__delta_apply(bench, it->delta, it->page, it->page);
		pgs__page_id id = pgs__page_id_of(contents->secret, it->page_no, it->page, contents->page_size);
		if (result != PGS_OK || !pgs__page_id_equal(&id, &it->ref.id))
			result = damaged_delta(l, it->page_no);
		else
			pgs__cache_put_content(contents->cache, it->page_no, &id, it->page);
	}
	pgs__workbench_give(&contents->benches, bench);
	return result;
}

static int load_chunk(load *l)
{
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < l->count; i++)
		result = load_known(l, &l->items[i]);
	if (l->count > 1)
		qsort(l->items, l->count, sizeof *l->items, by_page);
	if (result == PGS_OK && l->t)
		pgs__txn_keep(l->t, l->deadline_ms);
	if (result == PGS_OK)
		result = load_pointers(l);
	if (result == PGS_OK)
		result = load_contents(l);
	if (result == PGS_OK)
		result = apply_deltas(l);
	return result;
}

size_t pgs__load_chunk(uint32_t page_size)
{
	size_t by_bytes = CHUNK_BYTES / page_size;
	return by_bytes < CHUNK ? by_bytes : CHUNK;
}

/* The next pages, as many as are loaded at once; `dst` or `scratch` is where they go. */
static int load_next(load *l, const uint64_t *page_nos, size_t count, void *const *dst, uint8_t *scratch)
{
	size_t chunk = pgs__load_chunk(page_size_of(l));
	l->count = count < chunk ? count : chunk;
	l->items = pgs__arena_calloc(&l->arena, l->count, sizeof *l->items);
	if (!l->items)
		return pgs__error_nomem(l->err, "reading pages");
	for (size_t i = 0; i < l->count; i++) {
		l->items[i].page_no = page_nos[i];
		l->items[i].page = dst ? dst[i] : scratch + i * page_size_of(l);
	}
	return load_chunk(l);
}

/* Load pages into dst[], or, when dst is NULL, only into the cache. */
static int load_all(load *l, const uint64_t *page_nos, size_t count, void *const *dst)
{
	size_t chunk = pgs__load_chunk(page_size_of(l));
	uint8_t *scratch = NULL;
	int result = PGS_OK;
	if (!dst && count) {
		scratch = pgs__malloc((count < chunk ? count : chunk) * page_size_of(l));
		result = scratch ? PGS_OK : pgs__error_nomem(l->err, "prefetch");
	}
	for (size_t done = 0; result == PGS_OK && done < count; done += l->count) {
		if (l->t)
			l->deadline_ms = pgs__txn_deadline(l->t);
		result = load_next(l, page_nos + done, count - done, dst ? dst + done : NULL, scratch);
		pgs__arena_free(&l->arena);
	}
	pgs__free(scratch);
	return result;
}

/* What was not in memory, ahead of time. */
static void count_ahead(pgs_cost *cost, const load *l)
{
	if (cost)
		cost->pages_ahead += l->missed;
}

int pgs__load_pages(pgs_txn *t, const uint64_t *page_nos, size_t count, void *const *dst, pgs__load_use use)
{
	const bool tracked = use != PGS__LOAD_AHEAD && t->tracks_reads;
	load l = {.snapshot = &t->snapshot, .t = t, .tracked = tracked, .err = &t->error};
	for (size_t i = 0; i < count; i++) {
		int result = pgs__txn_check_page(t, page_nos[i]);
		if (result != PGS_OK)
			return result;
	}
	pgs_cost *before = pgs__charge(t->cost);
	int result = load_all(&l, page_nos, count, dst);
	pgs__charge(before);
	if (use == PGS__LOAD_AHEAD)
		count_ahead(t->cost, &l);
	if (use == PGS__LOAD_COUNTED && t->cost) {
		t->cost->cache_hits += l.hits;
		t->cost->cache_misses += l.missed;
	}
	return result;
}

int pgs__load_ahead(const pgs__snapshot *snapshot, const uint64_t *page_nos, size_t count, uint64_t deadline_ms,
		    pgs_cost *cost)
{
	pgs_error ignored = PGS_ERROR_INIT;
	load l = {.snapshot = snapshot, .deadline_ms = deadline_ms, .err = &ignored};
	pgs_cost *before = pgs__charge(cost);
	int result = load_all(&l, page_nos, count, NULL);
	pgs__charge(before);
	count_ahead(cost, &l);
	return result;
}
