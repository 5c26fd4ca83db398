/* Reading pages. The warm path is pgs_read()'s first lines; everything else goes through load.c, and what is read in
 * order through read_ahead.c before. */
#include "txn/load.h"

#include "util/alloc.h"
#include "util/error.h"

/* A page was found in the cache. */
static void found(pgs_txn *t, uint64_t page_no)
{
	if (page_no == t->found + 1)
		pgs__cache_expect(t->db->contents.cache, page_no + 1);
	t->found = page_no;
}

/* --- the API ------------------------------------------------------------------------ */

static inline void count_hit(const pgs_txn *t)
{
	if (t->cost)
		t->cost->cache_hits++;
}

static inline void count_miss(const pgs_txn *t)
{
	if (t->cost)
		t->cost->cache_misses++;
}

static int read_slow(pgs_txn *t, uint64_t page_no, void *dst)
{
	count_miss(t);
	if (pgs__read_ahead(t, page_no) == PGS_ENOMEM)
		return PGS_ENOMEM; /* other errors are for the page's own read to meet */
	return pgs__load_pages(t, &page_no, 1, &dst, PGS__LOAD_READ);
}

int pgs_read(pgs_txn *txn, uint64_t page_no, void *dst)
{
	if (page_no >= txn->page_count || pgs__txn_is_blank(txn, page_no) || pgs__txn_find_write(txn, page_no))
		return pgs__load_pages(txn, &page_no, 1, &dst, PGS__LOAD_COUNTED);
	if (page_no == txn->ahead.next)
		pgs__read_ahead_reached(txn);
	pgs__page_ref ref;
	const void *data;
	pgs__cache *cache = txn->db->contents.cache;
	if (pgs__cache_lookup(cache, page_no, txn->snapshot.cache_revision, &ref, &data) != PGS__CACHE_CONTENT)
		return read_slow(txn, page_no, dst);
	count_hit(txn);
	found(txn, page_no);
	memcpy(dst, data, pgs__txn_page_size(txn));
	pgs__cache_unpin(cache, data);
	return txn->tracks_reads ? pgs__txn_note_read(txn, page_no, ref.key_revision) : PGS_OK;
}

int pgs_read_many(pgs_txn *txn, const uint64_t *page_nos, size_t count, void *const *dst)
{
	return pgs__load_pages(txn, page_nos, count, dst, PGS__LOAD_COUNTED);
}

int pgs_prefetch(pgs_txn *txn, const uint64_t *page_nos, size_t count)
{
	int result = pgs__load_pages(txn, page_nos, count, NULL, PGS__LOAD_AHEAD);
	return result == PGS_ENOMEM || result == PGS_EINVAL ? result : PGS_OK;
}

int pgs_prefetch_start(pgs_txn *txn, const uint64_t *page_nos, size_t count, size_t *taken)
{
	*taken = 0;
	for (size_t i = 0; i < count; i++) {
		int result = pgs__txn_check_page(txn, page_nos[i]);
		if (result != PGS_OK)
			return result;
	}
	return pgs__read_ahead_hint(txn, page_nos, count, taken);
}

bool pgs_prefetch_is_useful(const pgs_db *db)
{
	return pgs__read_ahead_is_useful(db);
}

/* --- pins ------------------------------------------------------------------------------ */

/* The count of a pinned page, or NULL. */
static uint64_t *find_pin(pgs_txn *t, const void *page)
{
	for (uint32_t i = 0; i < t->pins_at_hand; i++)
		if (t->at_hand[i].page == page)
			return &t->at_hand[i].count;
	return pgs__map_get(&t->pins, (uintptr_t)page);
}

static int add_pin(pgs_txn *t, const void *page, uint64_t first_value)
{
	uint64_t *count = find_pin(t, page);
	if (count) {
		++*count;
		return PGS_OK;
	}
	if (t->pins_at_hand == PGS__PINS_AT_HAND) { /* the newest is given back first, mostly */
		const pgs__pinned oldest = t->at_hand[0];
		if (pgs__map_set(&t->pins, (uintptr_t)oldest.page, oldest.count, NULL) != PGS_OK)
			return pgs__error_nomem(&t->error, "pins");
		memmove(t->at_hand, t->at_hand + 1, (PGS__PINS_AT_HAND - 1) * sizeof *t->at_hand);
		t->pins_at_hand--;
	}
	t->at_hand[t->pins_at_hand++] = (pgs__pinned){page, first_value};
	return PGS_OK;
}

/* A page that the cache does not hold: own writes, or no room. */
static int pin_copy(pgs_txn *t, uint64_t page_no, const void **page)
{
	void *copy = pgs__malloc(pgs__txn_page_size(t));
	if (!copy)
		return pgs__error_nomem(&t->error, "pin");
	int result = pgs__load_pages(t, &page_no, 1, &copy, PGS__LOAD_READ);
	if (result == PGS_OK)
		result = add_pin(t, copy, PGS__PINNED_OWN | 1);
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
	found(t, page_no);
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
	if (page_no == txn->ahead.next)
		pgs__read_ahead_reached(txn);
	result = pin_cached(txn, page_no, page);
	if (result != PGS_ENOTFOUND) {
		count_hit(txn);
		return result;
	}
	count_miss(txn);
	if (pgs__read_ahead(txn, page_no) == PGS_ENOMEM)
		return PGS_ENOMEM;
	result = pgs__load_pages(txn, &page_no, 1, NULL, PGS__LOAD_READ);
	if (result == PGS_OK)
		result = pin_cached(txn, page_no, page);
	return result == PGS_ENOTFOUND ? pin_copy(txn, page_no, page) : result;
}

/* Its last pin is given back. */
static void end_pin(pgs_txn *t, const void *page, bool own)
{
	uint32_t i = 0;
	while (i < t->pins_at_hand && t->at_hand[i].page != page)
		i++;
	if (i < t->pins_at_hand)
		t->at_hand[i] = t->at_hand[--t->pins_at_hand];
	else
		pgs__map_remove(&t->pins, (uintptr_t)page);
	if (own)
		pgs__free((void *)page);
}

void pgs_unpin(pgs_txn *txn, const void *page)
{
	uint64_t *count = find_pin(txn, page);
	if (!count)
		return; /* the zero page needs no pin */
	bool own = *count & PGS__PINNED_OWN;
	if (!own)
		pgs__cache_unpin(txn->db->contents.cache, page);
	if ((--*count & ~PGS__PINNED_OWN) == 0)
		end_pin(txn, page, own);
}

static void release_pin(pgs_txn *t, void *page, uint64_t count)
{
	if (count & PGS__PINNED_OWN) {
		pgs__free(page);
		return;
	}
	for (uint64_t i = 0; i < count; i++)
		pgs__cache_unpin(t->db->contents.cache, page);
}

void pgs__txn_release_pins(pgs_txn *t)
{
	size_t cursor = 0;
	for (uint32_t i = 0; i < t->pins_at_hand; i++)
		release_pin(t, (void *)t->at_hand[i].page, t->at_hand[i].count);
	for (const pgs__map_slot *slot; (slot = pgs__map_next(&t->pins, &cursor));)
		release_pin(t, (void *)(uintptr_t)slot->key, slot->value);
	pgs__map_free(&t->pins);
}
