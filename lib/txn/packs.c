/* Packs in memory: an inline one as its sorted entries, one in an index file as its table of blocks. */
#include "txn/packs.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "local_cache/mirror.h"
#include "txn/index_file.h"
#include "util/alloc.h"
#include "util/arena.h"
#include "util/error.h"

typedef struct inline_entry {
	uint64_t page_no;
	pgs_slice pointer; /* into the pack's value */
} inline_entry;

typedef struct pack {
	_Atomic uint32_t references;
	uint8_t uuid[16];
	uint64_t revision;
	uint8_t *value; /* the o/ value: everything below borrows from it */
	pgs__pack decoded;
	size_t entry_count;    /* inline */
	inline_entry *entries;
	pgs__index_file file;  /* in a file */
} pack;

struct pgs__pack_view {
	_Atomic uint32_t references;
	uint64_t epoch;
	size_t count;
	pack *packs[]; /* newest first */
};

/* --- loading a pack ---------------------------------------------------------- */

static void pack_release(pack *p)
{
	if (!p || atomic_fetch_sub(&p->references, 1) > 1)
		return;
	pgs__free(p->value);
	pgs__free(p->entries);
	pgs__index_file_close(&p->file);
	pgs__free(p);
}

static int load_inline(pack *p)
{
	pgs__entries_reader reader;
	if (pgs__entries_open(p->decoded.entries, &reader) != PGS_OK)
		return PGS_ECORRUPT;
	p->entries = pgs__calloc(reader.left ? (size_t)reader.left : 1, sizeof *p->entries);
	if (!p->entries)
		return PGS_ENOMEM;
	inline_entry e; /* also written to when there is no next one */
	while (pgs__entries_next(&reader, &e.page_no, &e.pointer))
		p->entries[p->entry_count++] = e;
	return reader.reader.failed ? PGS_ECORRUPT : PGS_OK;
}

static int pack_load(pack **out, const pgs_db *db, const pgs_kv_pair *pair, uint64_t deadline_ms, pgs_error *err)
{
	pgs_slice uuid;
	*out = NULL;
	if (!pgs__key_tail(pair->key, 'o', &uuid) || uuid.size != 16)
		return pgs__error(err, PGS_ECORRUPT, "a pack's key is malformed");
	pack *p = pgs__calloc(1, sizeof *p);
	if (!p)
		return pgs__error_nomem(err, "pack");
	atomic_init(&p->references, 1);
	memcpy(p->uuid, uuid.data, 16);
	p->revision = pair->mod_revision;
	p->value = pgs__malloc(pair->value.size + 1); /* an emptied value is damage, not lack of memory */
	int result = p->value ? PGS_OK : pgs__error_nomem(err, "pack");
	if (result == PGS_OK) {
		if (pair->value.size)
			memcpy(p->value, pair->value.data, pair->value.size);
		result = pgs__pack_decode((pgs_slice){p->value, pair->value.size}, &p->decoded);
		if (result == PGS_OK && !p->decoded.in_file)
			result = load_inline(p);
		if (result != PGS_OK)
			pgs__error(err, result, "the pack of revision %llu is damaged or of a newer version",
				   (unsigned long long)p->revision);
		else if (p->decoded.in_file)
			result = pgs__index_file_open(&p->file, db, p->decoded.file_name, true, deadline_ms, err);
	}
	if (result != PGS_OK) {
		pack_release(p);
		return result;
	}
	*out = p;
	return PGS_OK;
}

/* --- views ---------------------------------------------------------------------- */

static pgs__pack_view *view_new(uint64_t epoch, size_t capacity)
{
	pgs__pack_view *view = pgs__malloc(sizeof *view + capacity * sizeof view->packs[0]);
	if (!view)
		return NULL;
	atomic_init(&view->references, 1);
	view->epoch = epoch;
	view->count = 0;
	return view;
}

void pgs__pack_view_retain(pgs__pack_view *view)
{
	if (view)
		atomic_fetch_add(&view->references, 1);
}

void pgs__pack_view_release(pgs__pack_view *view)
{
	if (!view || atomic_fetch_sub(&view->references, 1) > 1)
		return;
	for (size_t i = 0; i < view->count; i++)
		pack_release(view->packs[i]);
	pgs__free(view);
}

size_t pgs__pack_view_count(const pgs__pack_view *view)
{
	return view->count;
}

pgs__pack_info pgs__pack_view_at(const pgs__pack_view *view, size_t index)
{
	const pack *p = view->packs[index];
	return (pgs__pack_info){p->revision, p->uuid, &p->decoded};
}

static pgs__pack_view *current_view(pgs_db *db)
{
	pthread_mutex_lock(&db->packs_lock);
	pgs__pack_view *view = db->packs;
	if (view)
		atomic_fetch_add(&view->references, 1);
	pthread_mutex_unlock(&db->packs_lock);
	return view;
}

/* Keep the view for the next transaction if none of a later epoch is kept. */
static void offer_view(pgs_db *db, pgs__pack_view *view)
{
	pgs__pack_view *old = NULL;
	pthread_mutex_lock(&db->packs_lock);
	if (!db->packs || db->packs->epoch < view->epoch) {
		old = db->packs;
		db->packs = view;
		atomic_fetch_add(&view->references, 1);
	}
	pthread_mutex_unlock(&db->packs_lock);
	pgs__pack_view_release(old);
}

static pack *known_pack(pgs__pack_view *known, const pgs_kv_pair *pair)
{
	for (size_t i = 0; known && i < known->count; i++)
		if (known->packs[i]->revision == pair->mod_revision) {
			atomic_fetch_add(&known->packs[i]->references, 1);
			return known->packs[i];
		}
	return NULL;
}

static int fetch_pack(pgs_db *db, pgs_slice key, uint64_t revision, uint64_t deadline_ms, pack **out, pgs_error *err)
{
	pgs_kv_op op = pgs__op_get(key, revision);
	pgs_kv_txn txn;
	*out = NULL;
	int result = pgs__kv_read(pgs__db_backend(db), &txn, &op, 1, deadline_ms, err);
	if (result == PGS_OK && !pgs__got(&txn, 0))
		result = pgs__error(err, PGS_EIO, "a listed pack could not be read");
	if (result == PGS_OK)
		result = pack_load(out, db, pgs__got(&txn, 0), deadline_ms, err);
	pgs__kv_release(pgs__db_backend(db), &txn, 1);
	return result;
}

static int newest_first(const void *a, const void *b)
{
	const pack *x = *(pack *const *)a, *y = *(pack *const *)b;
	return (x->revision < y->revision) - (x->revision > y->revision);
}

static int fill_view(pgs_db *db, pgs__pack_view *view, pgs__pack_view *known, const pgs_kv_result *keys,
		     uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	for (size_t i = 0; i < keys->count; i++) {
		pack *p = known_pack(known, &keys->pairs[i]);
		int result = p ? PGS_OK : fetch_pack(db, keys->pairs[i].key, revision, deadline_ms, &p, err);
		if (result != PGS_OK)
			return result;
		view->packs[view->count++] = p;
	}
	if (view->count > 1)
		qsort(view->packs, view->count, sizeof view->packs[0], newest_first);
	return PGS_OK;
}

/* List the packs at `revision`; values are fetched one by one, as each may be as large as a request may be. */
static int read_view(pgs_db *db, uint64_t epoch, uint64_t revision, uint64_t deadline_ms, pgs__pack_view *known,
		     pgs__pack_view **out, pgs_error *err)
{
	pgs__key first = pgs__key_kind(pgs__db_prefix(db), 'o'), end = pgs__key_kind_end(pgs__db_prefix(db), 'o');
	pgs_kv_op op = pgs__op_range(pgs__key_slice(&first), pgs__key_slice(&end), revision);
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(pgs__db_backend(db), &txn, &op, 1, deadline_ms, err);
	pgs__pack_view *view = NULL;
	if (result == PGS_OK) {
		view = view_new(epoch, txn.results[0].count);
		if (!view)
			result = pgs__error_nomem(err, "packs");
	}
	if (result == PGS_OK)
		result = fill_view(db, view, known, &txn.results[0], revision, deadline_ms, err);
	pgs__kv_release(pgs__db_backend(db), &txn, 1);
	if (result != PGS_OK) {
		pgs__pack_view_release(view);
		return result;
	}
	*out = view;
	return PGS_OK;
}

static void count_pack(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	(void)index;
	(void)pair;
	*(size_t *)ctx += answer == PGS__MIRROR_PRESENT;
}

/* Mostly there are none, and the machine's mirror, where there is one, says so. */
static bool mirror_has_none(const pgs_db *db, uint64_t revision)
{
	pgs__disk_db *disk = db->contents.disk;
	pgs__key first = pgs__key_kind(pgs__db_prefix(db), 'o'), end = pgs__key_kind_end(pgs__db_prefix(db), 'o');
	uint64_t sequence = 0;
	size_t count = 0;
	return disk && pgs__mirror_sequence(disk) >= revision &&
	       pgs__mirror_range(disk, revision, pgs__key_slice(&first), pgs__key_slice(&end), 1, count_pack, &count,
				 &sequence, NULL) == PGS_OK &&
	       sequence >= revision && count == 0;
}

int pgs__pack_view_get(pgs_db *db, uint64_t epoch, uint64_t revision, uint64_t deadline_ms, pgs__pack_view **out,
		       pgs_error *err)
{
	pgs__pack_view *known = current_view(db);
	if (known && known->epoch == epoch) {
		*out = known;
		return PGS_OK;
	}
	*out = mirror_has_none(db, revision) ? view_new(epoch, 0) : NULL;
	int result = *out ? PGS_OK : read_view(db, epoch, revision, deadline_ms, known, out, err);
	pgs__pack_view_release(known);
	if (result == PGS_OK)
		offer_view(db, *out);
	return result;
}

/* --- finding ----------------------------------------------------------------------- */

struct pgs__pack_finder {
	pgs__pack_view *view; /* borrowed */
	const pgs__backend *backend;
	uint64_t deadline_ms;
	pgs_error *err;
	pgs__arena arena;
	pgs__index_block_kept blocks[]; /* per pack, the index blocks read last */
};

int pgs__pack_finder_new(pgs__pack_finder **out, pgs__pack_view *view, const pgs__backend *backend,
			 uint64_t deadline_ms, pgs_error *err)
{
	pgs__pack_finder *finder = pgs__calloc(1, sizeof *finder + view->count * sizeof finder->blocks[0]);
	*out = finder;
	if (!finder)
		return pgs__error_nomem(err, "packs");
	finder->view = view;
	finder->backend = backend;
	finder->deadline_ms = deadline_ms;
	finder->err = err;
	return PGS_OK;
}

void pgs__pack_expect(pgs__pack_finder *finder, const uint64_t *pages, size_t count)
{
	for (size_t i = 0; i < finder->view->count; i++) {
		finder->blocks[i].expected = pages;
		finder->blocks[i].expected_count = count;
	}
}

void pgs__pack_finder_free(pgs__pack_finder *finder)
{
	if (!finder)
		return;
	for (size_t i = 0; i < finder->view->count; i++)
		pgs__free(finder->blocks[i].bytes);
	pgs__arena_free(&finder->arena);
	pgs__free(finder);
}

/* The first entry of an inline pack at or after a page. */
static size_t first_entry(const pack *p, uint64_t page_no)
{
	size_t low = 0, high = p->entry_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (p->entries[middle].page_no < page_no)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool find_inline(const pack *p, uint64_t page_no, pgs_slice *pointer)
{
	size_t index = first_entry(p, page_no);
	if (index == p->entry_count || p->entries[index].page_no != page_no)
		return false;
	*pointer = p->entries[index].pointer;
	return true;
}

static bool in_ranges(const pack *p, uint64_t page_no)
{
	pgs_slice rest = p->decoded.range_bytes;
	pgs__page_range range;
	while (pgs__pack_next_range(&rest, &range))
		if (page_no >= range.first && page_no < range.end)
			return true;
	return false;
}

/* The youngest pack above `age` that says something about a page: *pointer, or nothing in it where a range covers the
 * page. *revision is 0 when there is none. */
static int locate(pgs__pack_finder *finder, uint64_t page_no, uint64_t age, uint64_t *revision, bool *absent,
		  pgs_slice *pointer)
{
	*revision = 0;
	/* Invariant 10: the youngest wins, on a tie p/ before a pack, a page before a range. */
	for (size_t i = 0; i < finder->view->count && finder->view->packs[i]->revision > age; i++) {
		const pack *p = finder->view->packs[i];
		bool found = !p->decoded.in_file && find_inline(p, page_no, pointer);
		if (p->decoded.in_file) {
			int result = pgs__index_file_find(&p->file, finder->backend, page_no, &finder->blocks[i], &found,
							  pointer, finder->deadline_ms, finder->err);
			if (result != PGS_OK)
				return result;
		}
		if (!found && !in_ranges(p, page_no))
			continue;
		*revision = p->revision;
		*absent = !found;
		return PGS_OK;
	}
	return PGS_OK;
}

int pgs__pack_next_page(pgs__pack_finder *finder, uint64_t from, uint64_t *page_no)
{
	*page_no = UINT64_MAX;
	for (size_t i = 0; i < finder->view->count; i++) {
		const pack *p = finder->view->packs[i];
		size_t at = first_entry(p, from);
		uint64_t next = at < p->entry_count ? p->entries[at].page_no : UINT64_MAX;
		int result = !p->decoded.in_file ? PGS_OK
						 : pgs__index_file_next(&p->file, finder->backend, from,
									&finder->blocks[i], &next, finder->deadline_ms,
									finder->err);
		if (result != PGS_OK)
			return result;
		if (next < *page_no)
			*page_no = next;
	}
	return PGS_OK;
}

int pgs__pack_find(pgs__pack_finder *finder, uint64_t page_no, uint64_t age, pgs__pack_answer *out)
{
	pgs_slice pointer = {0}, copy;
	*out = (pgs__pack_answer){0};
	int result = locate(finder, page_no, age, &out->revision, &out->absent, &pointer);
	if (result != PGS_OK || out->revision == 0)
		return result;
	out->found = true;
	if (out->absent)
		return PGS_OK;
	if (pgs__arena_copy(&finder->arena, pointer, &copy) != PGS_OK)
		return pgs__error_nomem(finder->err, "packs");
	out->pointer = (uint8_t *)copy.data;
	out->pointer_size = copy.size;
	return PGS_OK;
}

int pgs__pack_covers(pgs__pack_finder *finder, uint64_t page_no, uint64_t age, bool *covered)
{
	uint64_t revision;
	bool absent;
	pgs_slice pointer;
	int result = locate(finder, page_no, age, &revision, &absent, &pointer);
	*covered = revision != 0;
	return result;
}

/* --- visiting ------------------------------------------------------------------------ */

void pgs__pack_walk_open(pgs__pack_walk *walk, const pgs__pack_view *view, size_t index, const pgs__backend *backend,
			 uint64_t first_page)
{
	const pack *p = view->packs[index];
	*walk = (pgs__pack_walk){.view = view, .index = index};
	if (p->decoded.in_file)
		pgs__index_cursor_open(&walk->cursor, &p->file, backend, first_page, UINT64_MAX);
	else
		walk->at = first_entry(p, first_page);
}

int pgs__pack_walk_next(pgs__pack_walk *walk, bool *found, uint64_t *page_no, pgs_slice *pointer, uint64_t deadline_ms,
			pgs_error *err)
{
	const pack *p = walk->view->packs[walk->index];
	if (p->decoded.in_file)
		return pgs__index_cursor_next(&walk->cursor, found, page_no, pointer, deadline_ms, err);
	*found = walk->at < p->entry_count;
	if (*found) {
		*page_no = p->entries[walk->at].page_no;
		*pointer = p->entries[walk->at++].pointer;
	}
	return PGS_OK;
}

void pgs__pack_walk_close(pgs__pack_walk *walk)
{
	pgs__index_cursor_close(&walk->cursor);
}

int pgs__pack_view_visit_one(const pgs__pack_view *view, size_t index, const pgs__backend *backend,
			     uint64_t deadline_ms, pgs__pack_visitor visit, void *ctx, pgs_error *err)
{
	pgs__pack_walk walk;
	uint64_t page_no;
	pgs_slice pointer;
	bool found = true;
	int result = PGS_OK;
	pgs__pack_walk_open(&walk, view, index, backend, 0);
	while (result == PGS_OK && found) {
		result = pgs__pack_walk_next(&walk, &found, &page_no, &pointer, deadline_ms, err);
		if (result == PGS_OK && found)
			result = visit(ctx, page_no, view->packs[index]->revision, pointer);
	}
	pgs__pack_walk_close(&walk);
	return result;
}

int pgs__pack_view_visit(pgs__pack_view *view, const pgs__backend *backend, uint64_t deadline_ms,
			 pgs__pack_visitor visit, void *ctx, pgs_error *err)
{
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < view->count; i++)
		result = pgs__pack_view_visit_one(view, i, backend, deadline_ms, visit, ctx, err);
	return result;
}
