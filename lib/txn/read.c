/* Reading pages.
 *
 *     page ── own write? ── blank? ── cache ── pointers from the KV ── contents ── delta applied ── verified
 *
 * The warm path is pgs_read()'s first lines; everything else goes through load(), which takes pages in chunks and
 * asks the backends for as much at once as it can.
 */
#include "txn/txn.h"

#include <stdlib.h>

#include "util/alloc.h"
#include "util/error.h"

#define CHUNK 256               /* pages loaded at once, */
#define CHUNK_BYTES (8u << 20)  /* and the memory they may take */
#define OWN_BUFFER (1ull << 63) /* flag in the pins map */

/* --- what every read does -------------------------------------------------- */

/* A page that is blank was read: past the extent that makes the extent part of the read set. */
static void note_blank(pgs_txn *t, uint64_t page_no)
{
	if (page_no >= t->snapshot.extent)
		t->extent_checked = true;
}

/* --- loading -------------------------------------------------------------------- */

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
	pgs_txn *t;
	item *items;
	size_t count;
	pgs__arena arena;
	uint64_t deadline_ms;
	bool tracked; /* the pages join the read set */
} load;

/* Answer from own writes, blank pages and the cache. */
static int load_known(load *l, item *i)
{
	pgs_txn *t = l->t;
	uint32_t page_size = pgs__txn_page_size(t);
	const pgs__write *write = pgs__txn_find_write(t, i->page_no);
	const void *data;
	if (write && write->page) {
		memcpy(i->page, write->page, page_size);
		return PGS_OK;
	}
	if (write)
		return pgs__write_content(t, write, i->page, l->deadline_ms);
	if (pgs__txn_is_blank(t, i->page_no)) {
		if (l->tracked)
			note_blank(t, i->page_no);
		memset(i->page, 0, page_size);
		return PGS_OK;
	}
	pgs__cache *cache = t->db->contents.cache;
	pgs__cache_state state = pgs__cache_lookup(cache, i->page_no, t->snapshot.cache_revision, &i->ref, &data);
	if (state == PGS__CACHE_CONTENT) {
		memcpy(i->page, data, page_size);
		pgs__cache_unpin(cache, data);
	} else if (state == PGS__CACHE_POINTER && i->ref.kind == PGS__POINTER_FULL) {
		i->needs_content = true;
	} else {
		i->needs_pointer = true; /* a delta's bytes are not cached */
	}
	if (!i->needs_pointer && l->tracked)
		return pgs__txn_note_read(t, i->page_no, i->ref.key_revision);
	return PGS_OK;
}

static int by_page(const void *a, const void *b)
{
	const item *x = a, *y = b;
	return (x->page_no > y->page_no) - (x->page_no < y->page_no);
}

/* Read the pointers of the items that lack one. The items are in page order; a page may be there twice. */
static int load_pointers(load *l)
{
	uint64_t pages[CHUNK];
	size_t count = 0;
	for (size_t i = 0; i < l->count; i++)
		if (l->items[i].needs_pointer && (count == 0 || pages[count - 1] != l->items[i].page_no))
			pages[count++] = l->items[i].page_no;
	if (count == 0)
		return PGS_OK;
	pgs__resolved *resolved = pgs__arena_calloc(&l->arena, count, sizeof *resolved);
	if (!resolved)
		return pgs__error_nomem(&l->t->error, "reading pages");
	int result = pgs__pointers_read(&l->t->snapshot, pages, count, resolved, &l->arena, l->deadline_ms,
					&l->t->error);
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
	uint32_t page_size = pgs__txn_page_size(l->t);
	const pgs__page_id *id = i->ref.kind == PGS__POINTER_DELTA ? &i->ref.base : &i->ref.id;
	if (i->ref.kind == PGS__POINTER_ABSENT || i->ref.kind == PGS__POINTER_ZERO ||
	    (i->ref.kind == PGS__POINTER_DELTA && !i->ref.has_base)) {
		memset(i->page, 0, page_size);
		i->needs_content = false;
		return;
	}
	const void *data = pgs__cache_content(l->t->db->contents.cache, i->page_no, id);
	if (!data)
		return;
	memcpy(i->page, data, page_size);
	pgs__cache_unpin(l->t->db->contents.cache, data);
	i->needs_content = false;
}

static int load_contents(load *l)
{
	pgs__want wants[CHUNK];
	size_t count = 0;
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
	pgs__contents *contents = &l->t->db->contents;
	int result = pgs__contents_fetch(contents, wants, count, l->deadline_ms, &l->t->error);
	for (size_t i = 0; i < count; i++) /* what is good is kept, whatever happened to the others */
		if (wants[i].status == PGS_OK)
			pgs__cache_put_content(contents->cache, wants[i].page_no, &wants[i].id, wants[i].page);
	if (result == PGS_ENOTFOUND)
		result = pgs__explain_missing(&l->t->snapshot, l->deadline_ms, &l->t->error);
	return result;
}

static int damaged_delta(pgs_txn *t, uint64_t page_no)
{
	return pgs__error_page(&t->error, PGS_ECORRUPT, page_no,
			       "page %llu: the delta in its pointer (database %s) does not give the page it names",
			       (unsigned long long)page_no, t->db->name);
}

/* Turn bases into pages: apply the delta, prove the result. */
static int apply_deltas(load *l)
{
	pgs__contents *contents = &l->t->db->contents;
	pgs__workbench *bench = NULL;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < l->count; i++) {
		item *it = &l->items[i];
		if (!it->needs_pointer || it->ref.kind != PGS__POINTER_DELTA)
			continue;
		if (!bench && !(bench = pgs__workbench_take(&contents->benches)))
			return pgs__error_nomem(&l->t->error, "reading pages");
		result = pgs__delta_apply(bench, it->delta, it->page, it->page);
		pgs__page_id id = pgs__page_id_of(contents->secret, it->page_no, it->page, contents->page_size);
		if (result != PGS_OK || !pgs__page_id_equal(&id, &it->ref.id))
			result = damaged_delta(l->t, it->page_no);
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
	if (result == PGS_OK)
		pgs__txn_keep(l->t, l->deadline_ms);
	if (result == PGS_OK)
		result = load_pointers(l);
	if (result == PGS_OK)
		result = load_contents(l);
	if (result == PGS_OK)
		result = apply_deltas(l);
	return result;
}

static size_t chunk_pages(const pgs_txn *t)
{
	size_t by_bytes = CHUNK_BYTES / pgs__txn_page_size(t);
	return by_bytes < CHUNK ? by_bytes : CHUNK;
}

/* Load pages into dst[], or, when dst is NULL, only into the cache. */
static int load_pages(pgs_txn *t, const uint64_t *page_nos, size_t count, void *const *dst, bool tracked)
{
	item items[CHUNK];
	size_t chunk = chunk_pages(t), page_size = pgs__txn_page_size(t);
	uint8_t *scratch = NULL;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		result = pgs__txn_check_page(t, page_nos[i]);
	if (result == PGS_OK && !dst && count) {
		scratch = pgs__malloc((count < chunk ? count : chunk) * page_size);
		result = scratch ? PGS_OK : pgs__error_nomem(&t->error, "prefetch");
	}
	for (size_t done = 0; result == PGS_OK && done < count;) {
		load l = {.t = t, .items = items, .deadline_ms = pgs__txn_deadline(t), .tracked = tracked};
		for (; l.count < chunk && done < count; l.count++, done++)
			items[l.count] = (item){.page_no = page_nos[done],
						.page = dst ? dst[done] : scratch + l.count * page_size};
		result = load_chunk(&l);
		pgs__arena_free(&l.arena);
	}
	pgs__free(scratch);
	return result;
}

/* --- read-ahead ------------------------------------------------------------------- */

/* A page was missed right after the one before it: fetch what comes next with it, twice as much each time, up to a
 * locality group. Its contents lie together (see codec/page_id.h), so this is few large reads. */
static int read_ahead(pgs_txn *t, uint64_t page_no)
{
	uint64_t pages[CHUNK], limit = pgs__pages_per_group(pgs__txn_page_size(t));
	bool follows = page_no == t->last_missed_page;
	t->run_length = follows ? (t->run_length < CHUNK ? t->run_length * 2 : CHUNK) : 1;
	t->last_missed_page = page_no + 1;
	limit = limit < chunk_pages(t) ? limit : chunk_pages(t);
	limit = limit < t->run_length ? limit : t->run_length;
	size_t count = 0;
	while (count < limit && page_no + count < t->snapshot.extent) {
		pages[count] = page_no + count;
		count++;
	}
	if (count < 2)
		return PGS_OK;
	t->last_missed_page = page_no + count;
	return load_pages(t, pages, count, NULL, false);
}

/* --- the API ------------------------------------------------------------------------ */

static int read_slow(pgs_txn *t, uint64_t page_no, void *dst)
{
	if (read_ahead(t, page_no) == PGS_ENOMEM)
		return PGS_ENOMEM; /* other errors are for the page's own read to meet */
	return load_pages(t, &page_no, 1, &dst, t->tracks_reads);
}

int pgs_read(pgs_txn *txn, uint64_t page_no, void *dst)
{
	if (page_no >= txn->page_count || pgs__txn_is_blank(txn, page_no) || pgs__txn_find_write(txn, page_no))
		return load_pages(txn, &page_no, 1, &dst, txn->tracks_reads);
	pgs__page_ref ref;
	const void *data;
	pgs__cache *cache = txn->db->contents.cache;
	if (pgs__cache_lookup(cache, page_no, txn->snapshot.cache_revision, &ref, &data) != PGS__CACHE_CONTENT)
		return read_slow(txn, page_no, dst);
	memcpy(dst, data, pgs__txn_page_size(txn));
	pgs__cache_unpin(cache, data);
	return txn->tracks_reads ? pgs__txn_note_read(txn, page_no, ref.key_revision) : PGS_OK;
}

int pgs_read_many(pgs_txn *txn, const uint64_t *page_nos, size_t count, void *const *dst)
{
	return load_pages(txn, page_nos, count, dst, txn->tracks_reads);
}

int pgs_prefetch(pgs_txn *txn, const uint64_t *page_nos, size_t count)
{
	int result = load_pages(txn, page_nos, count, NULL, false);
	return result == PGS_ENOMEM || result == PGS_EINVAL ? result : PGS_OK;
}

/* --- pins ------------------------------------------------------------------------------ */

static int add_pin(pgs_txn *t, const void *page, uint64_t first_value)
{
	uint64_t *count = pgs__map_get(&t->pins, (uintptr_t)page);
	if (count) {
		++*count;
		return PGS_OK;
	}
	if (pgs__map_set(&t->pins, (uintptr_t)page, first_value, NULL) != PGS_OK)
		return pgs__error_nomem(&t->error, "pins");
	return PGS_OK;
}

/* A page that the cache does not hold: own writes, or no room. */
static int pin_copy(pgs_txn *t, uint64_t page_no, const void **page)
{
	void *copy = pgs__malloc(pgs__txn_page_size(t));
	if (!copy)
		return pgs__error_nomem(&t->error, "pin");
	int result = load_pages(t, &page_no, 1, &copy, t->tracks_reads);
	if (result == PGS_OK)
		result = add_pin(t, copy, OWN_BUFFER | 1);
	if (result != PGS_OK) {
		pgs__free(copy);
		return result;
	}
	*page = copy;
	return PGS_OK;
}

/* Pin from the cache. PGS_ENOTFOUND when it is not there. */
static int pin_cached(pgs_txn *t, uint64_t page_no, const void **page)
{
	pgs__page_ref ref;
	const void *data;
	pgs__cache *cache = t->db->contents.cache;
	if (pgs__cache_lookup(cache, page_no, t->snapshot.cache_revision, &ref, &data) != PGS__CACHE_CONTENT)
		return PGS_ENOTFOUND;
	int result = pgs__txn_note_read(t, page_no, ref.key_revision);
	if (result == PGS_OK && pgs__cache_owns(cache, data))
		result = add_pin(t, data, 1);
	if (result == PGS_OK)
		*page = data;
	else
		pgs__cache_unpin(cache, data);
	return result;
}

int pgs_pin(pgs_txn *txn, uint64_t page_no, const void **page)
{
	*page = NULL;
	int result = pgs__txn_check_page(txn, page_no);
	if (result != PGS_OK)
		return result;
	if (pgs__txn_find_write(txn, page_no) || pgs__txn_is_blank(txn, page_no))
		return pin_copy(txn, page_no, page);
	result = pin_cached(txn, page_no, page);
	if (result != PGS_ENOTFOUND)
		return result;
	if (read_ahead(txn, page_no) == PGS_ENOMEM)
		return PGS_ENOMEM;
	result = load_pages(txn, &page_no, 1, NULL, txn->tracks_reads);
	if (result == PGS_OK)
		result = pin_cached(txn, page_no, page);
	return result == PGS_ENOTFOUND ? pin_copy(txn, page_no, page) : result;
}

void pgs_unpin(pgs_txn *txn, const void *page)
{
	uint64_t *count = pgs__map_get(&txn->pins, (uintptr_t)page);
	if (!count)
		return; /* the zero page needs no pin */
	bool own = *count & OWN_BUFFER;
	if (!own)
		pgs__cache_unpin(txn->db->contents.cache, page);
	if ((--*count & ~OWN_BUFFER) > 0)
		return;
	pgs__map_remove(&txn->pins, (uintptr_t)page);
	if (own)
		pgs__free((void *)page);
}
