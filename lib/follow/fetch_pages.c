/* Fetching pages, and blocks of them.
 *
 *     pages ── pointers, where they are not known ── contents that are not at hand ── one fetch, neighbours in one read
 *                                                                                      └─ deltas applied, in memory
 *     block: all pointers of up to 16 MiB of page numbers, which begin at a group: ids begin with the group, so their
 *            contents lie together in every sorted file, and are read as one range
 *
 * Pages that are fetched for the cache file alone share one buffer: they are proved in it, and kept as they are stored.
 */
#include "follow/fetch.h"

#include <stdlib.h>

#include "local_cache/mirror.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define LOOK 64        /* contents looked for in the cache file at once */

/* A page to fetch. */
typedef struct item {
	pgs__fetch_page page;
	pgs__page_ref ref;   /* if it was resolved */
	pgs_slice delta;
	bool resolved;
	bool missing;        /* page.id is to be fetched */
} item;

typedef struct fetching {
	pgs_db *db;
	const pgs__snapshot *at;
	item *items;
	size_t count;
	pgs__arena arena;
	uint64_t deadline_ms;
	size_t fetched;
} fetching;

/* --- pointers ------------------------------------------------------------------------------ */

static int by_page(const void *a, const void *b)
{
	const item *x = a, *y = b;
	return (x->page.page_no > y->page.page_no) - (x->page.page_no < y->page.page_no);
}

/* The content that a page needs: its own or its delta's base. */
static void note_ref(item *i, const pgs__page_ref *ref)
{
	i->ref = *ref;
	i->page.id = ref->kind == PGS__POINTER_DELTA ? ref->base : ref->id;
	i->page.known = ref->kind == PGS__POINTER_FULL || (ref->kind == PGS__POINTER_DELTA && ref->has_base);
}

/* Pages that the page cache has are left out; of some it knows the pointer. Returns how many have to be asked for. */
static size_t peek_all(fetching *f)
{
	size_t unknown = 0, kept = 0;
	for (size_t i = 0; i < f->count; i++) {
		item *it = &f->items[i];
		pgs__page_ref ref;
		if (!it->page.known && it->page.page_no >= f->at->extent)
			continue;
		pgs__cache_state state = it->page.known ? PGS__CACHE_MISS
							: pgs__cache_peek(f->db->contents.cache, it->page.page_no,
									  f->at->cache_revision, &ref);
		if (state == PGS__CACHE_CONTENT)
			continue;
		if (state == PGS__CACHE_POINTER && ref.kind == PGS__POINTER_FULL)
			note_ref(it, &ref);
		unknown += !it->page.known;
		f->items[kept++] = *it;
	}
	f->count = kept;
	return unknown;
}

static int read_pointers(fetching *f, size_t unknown)
{
	uint64_t *pages = pgs__arena_calloc(&f->arena, unknown, sizeof *pages);
	pgs__resolved *resolved = pgs__arena_calloc(&f->arena, unknown, sizeof *resolved);
	size_t count = 0;
	if (!pages || !resolved)
		return PGS_ENOMEM;
	qsort(f->items, f->count, sizeof *f->items, by_page);
	for (size_t i = 0; i < f->count; i++)
		if (!f->items[i].page.known && (!count || pages[count - 1] != f->items[i].page.page_no))
			pages[count++] = f->items[i].page.page_no;
	int result = pgs__pointers_read(f->at, pages, count, resolved, &f->arena, f->deadline_ms, NULL);
	for (size_t i = 0, at = 0; result == PGS_OK && i < f->count; i++) {
		item *it = &f->items[i];
		if (it->page.known)
			continue;
		while (at + 1 < count && pages[at] < it->page.page_no)
			at++;
		note_ref(it, &resolved[at].ref);
		it->delta = resolved[at].delta;
		it->resolved = true;
	}
	return result;
}

/* --- contents -------------------------------------------------------------------------------- */

/* Of up to LOOK items, those that the cache file has are not missing. */
static void look_at_disk(pgs__disk_db *disk, item *const *items, size_t count)
{
	pgs__page_id ids[LOOK] = {0};
	bool there[LOOK] = {false};
	if (count == 0)
		return;
	for (size_t i = 0; i < count; i++)
		ids[i] = items[i]->page.id;
	pgs__disk_look(disk, ids, count, there);
	for (size_t i = 0; i < count; i++)
		items[i]->missing = !there[i] || PGS__BUG(FETCH_READS_AGAIN);
}

/* What is neither in memory nor in the cache file (G3). Returns how many. */
static size_t find_missing(fetching *f)
{
	pgs__contents *contents = &f->db->contents;
	item *looked[LOOK];
	size_t waiting = 0, missing = 0;
	for (size_t i = 0; i < f->count; i++) {
		item *it = &f->items[i];
		const void *data = it->page.known ? pgs__cache_borrow(contents->cache, it->page.page_no, &it->page.id) : NULL;
		it->missing = it->page.known && !data;
		if (data)
			pgs__cache_unpin(contents->cache, data);
		if (it->missing && contents->disk)
			looked[waiting++] = it;
		if (waiting == LOOK || (waiting && i + 1 == f->count)) {
			look_at_disk(contents->disk, looked, waiting);
			waiting = 0;
		}
	}
	if (waiting)
		look_at_disk(contents->disk, looked, waiting);
	for (size_t i = 0; i < f->count; i++)
		missing += f->items[i].missing;
	return missing;
}

/* Whether a page is for the page cache: a database with a cache file may be much larger. */
static bool for_memory(const pgs_db *db, uint64_t page_no)
{
	return !db->contents.disk || pgs__cache_knows(db->contents.cache, page_no);
}

static const item *item_of(const fetching *f, const pgs__want *want)
{
	const item key = {.page = {.page_no = want->page_no}};
	return bsearch(&key, f->items, f->count, sizeof *f->items, by_page);
}

static void keep_content(void *ctx, const pgs__want *want, pgs_slice stored)
{
	fetching *f = ctx;
	pgs__contents *contents = &f->db->contents;
	const item *it = item_of(f, want);
	f->fetched++;
	if (contents->disk)
		pgs__disk_put_ahead(contents->disk, &want->id, stored, pgs__now_ms() + PGS__FETCH_PUT_WAIT_MS);
	if (!for_memory(f->db, want->page_no))
		return;
	if (it && it->resolved && it->ref.kind == PGS__POINTER_DELTA) /* a base: it is the page that is looked up */
		pgs__cache_put_content(contents->cache, want->page_no, &want->id, want->page);
	else
		pgs__cache_put_ahead(contents->cache, want->page_no, &want->id, want->page);
}

static int fetch_missing(fetching *f, size_t missing, bool recent)
{
	pgs__contents *contents = &f->db->contents;
	pgs__want *wants = pgs__arena_calloc(&f->arena, missing, sizeof *wants);
	void *page = pgs__malloc(contents->page_size);
	size_t count = 0;
	int result = wants && page ? PGS_OK : PGS_ENOMEM;
	for (size_t i = 0; result == PGS_OK && i < f->count; i++)
		if (f->items[i].missing)
			wants[count++] = (pgs__want){.page_no = f->items[i].page.page_no, .id = f->items[i].page.id, .page = page};
	if (result == PGS_OK)
		result = pgs__contents_fetch_ahead(contents, wants, count, recent, keep_content, f, f->deadline_ms, NULL);
	pgs__free(page);
	return result;
}

/* --- deltas ------------------------------------------------------------------------------------ */

/* The page is what its delta makes of its base, which is in memory by now; else it is left to its reader. */
static void apply_delta(const fetching *f, pgs__workbench *bench, const item *it)
{
	pgs__contents *contents = &f->db->contents;
	uint64_t page_no = it->page.page_no;
	const void *base = it->ref.has_base ? pgs__cache_borrow(contents->cache, page_no, &it->ref.base) : pgs__zero_page();
	if (!base)
		return;
	bool applied = pgs__delta_apply(bench, it->delta, base, bench->page) == PGS_OK;
	pgs__cache_unpin(contents->cache, base);
	pgs__page_id id = pgs__page_id_of(contents->secret, page_no, bench->page, contents->page_size);
	if (applied && pgs__page_id_equal(&id, &it->ref.id) && it->missing)
		pgs__cache_put_ahead(contents->cache, page_no, &id, bench->page);
	else if (applied && pgs__page_id_equal(&id, &it->ref.id))
		pgs__cache_put_content(contents->cache, page_no, &id, bench->page);
}

static void apply_deltas(fetching *f)
{
	pgs__workbench *bench = pgs__workbench_take(&f->db->contents.benches);
	for (size_t i = 0; bench && i < f->count; i++)
		if (f->items[i].resolved && f->items[i].ref.kind == PGS__POINTER_DELTA)
			apply_delta(f, bench, &f->items[i]);
	pgs__workbench_give(&f->db->contents.benches, bench);
}

/* --- pages --------------------------------------------------------------------------------------- */

static int fetch_items(fetching *f, bool recent)
{
	size_t unknown = peek_all(f);
	int result = unknown ? read_pointers(f, unknown) : PGS_OK;
	if (!unknown)
		qsort(f->items, f->count, sizeof *f->items, by_page);
	size_t missing = result == PGS_OK ? find_missing(f) : 0;
	if (missing)
		result = fetch_missing(f, missing, recent);
	apply_deltas(f);
	return result;
}

int pgs__fetch_pages(pgs_db *db, const pgs__snapshot *at, pgs__fetch_page *pages, size_t count, uint64_t deadline_ms,
		     pgs__fetched *out)
{
	fetching f = {.db = db, .at = at, .count = count, .deadline_ms = deadline_ms};
	f.items = pgs__calloc(count ? count : 1, sizeof *f.items);
	for (size_t i = 0; f.items && i < count; i++)
		f.items[i].page = pages[i];
	int result = f.items ? fetch_items(&f, count && pages[0].recent) : PGS_ENOMEM;
	out->pages += f.fetched;
	pgs__arena_free(&f.arena);
	pgs__free(f.items);
	return result;
}

/* --- blocks ----------------------------------------------------------------------------------------- */

typedef struct block {
	pgs_db *db;
	uint64_t pages;     /* that it may span */
	uint64_t next, end; /* end 0: no page was found yet */
	pgs__fetch_page *list;
	size_t count, capacity;
	bool more;          /* there are pages behind it */
	bool contents;      /* they are for the cache file alone: their pointers are enough */
	int result;
} block;

/* Returns 1 where the block ends. */
static int take_pointer(block *b, uint64_t page_no, const pgs__pointer *pointer)
{
	if (!b->end) {
		uint64_t group = pgs__pages_per_group(b->db->contents.page_size);
		b->end = (b->pages > group ? page_no - page_no % group : page_no) + b->pages;
	}
	if (page_no >= b->end)
		return 1;
	b->next = page_no + 1;
	bool has_content = pointer->kind == PGS__POINTER_FULL ||
			   (pointer->kind == PGS__POINTER_DELTA && (pointer->has_base || !b->contents));
	if (!has_content)
		return 0;
	b->result = pgs__grow(&b->list, &b->capacity, b->count + 1, sizeof *b->list);
	if (b->result != PGS_OK)
		return b->result;
	b->list[b->count] = (pgs__fetch_page){.page_no = page_no};
	if (b->contents) {
		b->list[b->count].known = true;
		b->list[b->count].id = pointer->kind == PGS__POINTER_DELTA ? pointer->base : pointer->id;
	}
	b->count++;
	return 0;
}

static int take_scanned(void *ctx, uint64_t page_no, const pgs__pointer *pointer)
{
	return take_pointer(ctx, page_no, pointer);
}

static void take_mirrored(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	block *b = ctx;
	uint64_t page_no;
	pgs__pointer pointer;
	if (index == 0) /* from the start; maybe again */
		b->count = b->end = 0;
	b->more = index + 1 == b->pages;
	if (answer != PGS__MIRROR_PRESENT || !pgs__key_parse_page(pair->key, &page_no) ||
	    pgs__pointer_decode(pair->value, pgs__page_group(page_no, b->db->contents.page_size), &pointer) != PGS_OK)
		return;
	b->more |= take_pointer(b, page_no, &pointer) == 1;
}

/* Pointers as the mirror has them now, without asking the KV; while there are packs it does not have all. */
static bool scan_mirror(block *b, const pgs__snapshot *at)
{
	pgs__disk_db *disk = b->db->contents.disk;
	const uint8_t *prefix = pgs__db_prefix(b->db);
	if (!disk || pgs__pack_view_count(at->packs) || pgs__mirror_sequence(disk) < at->commit_revision)
		return false;
	pgs__key first = pgs__key_page(prefix, b->next), end = pgs__key_kind_end(prefix, 'p');
	uint64_t sequence = 0;
	return pgs__mirror_range(disk, 0, pgs__key_slice(&first), pgs__key_slice(&end), (size_t)b->pages, take_mirrored, b,
				 &sequence, NULL) == PGS_OK && sequence;
}

static int scan_kv(block *b, const pgs__snapshot *at, uint64_t deadline_ms)
{
	int result = pgs__pointers_scan(at, b->next, at->extent, take_scanned, b, deadline_ms, NULL);
	b->more = result == 1;
	return result == 1 ? PGS_OK : result;
}

int pgs__fetch_block(pgs_db *db, const pgs__snapshot *at, uint64_t *page, uint64_t bytes, uint64_t deadline_ms,
		     pgs__fetched *out)
{
	const block begin = {.db = db, .pages = bytes / db->contents.page_size, .next = *page, .contents = db->contents.disk};
	block b = begin;
	int result = PGS_OK;
	if (!scan_mirror(&b, at)) {
		pgs__free(b.list);
		b = begin;
		result = scan_kv(&b, at, deadline_ms);
	}
	if (result == PGS_OK)
		result = b.result;
	if (result == PGS_OK)
		result = pgs__fetch_pages(db, at, b.list, b.count, deadline_ms, out);
	if (result == PGS_OK || result == PGS_ENOTFOUND || result == PGS_ECORRUPT)
		*page = b.more ? b.next : UINT64_MAX;
	pgs__free(b.list);
	return result;
}
