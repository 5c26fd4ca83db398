/* The page and pointer cache.
 *
 *     cache ── shard[hash(page_no)] ── entries: page_no → ref, [from, through], frame hint     (CLOCK)
 *                                   └─ frames:  id → page data, pins                            (CLOCK)
 *
 * Page data is one block: frame f of shard s is at (s * frames_per_shard + f) * page_size, so a frame needs no data
 * pointer and unpinning needs no lookup.
 *
 * Advancing C (see C1 in the header). `pending` is set before pages are frozen and `revision` after, and an entry is
 * put as current only while both equal its snapshot, judged under the shard's lock. So of a put and a freeze of one
 * page, either the put comes first and is frozen, or it sees `pending` and is put frozen.
 */
#include "content/cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include <pagestore/error.h>
#include <pagestore/store.h>

#include "util/alloc.h"

#define NONE UINT32_MAX
#define CURRENT UINT64_MAX
#define SHARDS_MAX 64
#define FRAMES_PER_SHARD_MIN 64
#define FRAMES_MIN 64
#define SUPERSEDED_MAX 60
#define CACHE_LINE 64
#define EXPECTED_LINES 4
#define HUGE_PAGE (2u << 20)

typedef struct frame {
	pgs__page_id id;
	uint32_t next; /* in its bucket */
	_Atomic uint32_t pins;
	bool live;
	bool referenced;
	bool ahead; /* fetched, and not looked up since */
} frame;

/* One cache line. Page numbers end below 2^43; what was spent is kept in units, rounded up. */
#define SPENT_UNIT 4
#define SPENT_BITS 15

typedef struct entry {
	uint64_t page_no : 44;
	uint64_t kind : 2;
	uint64_t has_base : 1;
	uint64_t live : 1;
	uint64_t referenced : 1;
	uint64_t spent : SPENT_BITS;
	uint64_t key_revision;
	uint64_t from;
	uint64_t through; /* or CURRENT */
	uint8_t id_hash[PGS__ID_HASH_SIZE];
	uint8_t base_hash[PGS__ID_HASH_SIZE];
	uint32_t frame; /* where the content was last seen: a hint, checked against the id */
	uint32_t next;
} entry;

_Static_assert(sizeof(entry) == CACHE_LINE, "an entry is a cache line");

/* What a commit superseded, to be taken before anything else: nobody may want it any more, and the hands find the
 * least recently used only roughly. What does not fit is left to the hands. */
typedef struct superseded {
	uint32_t count;
	uint32_t index[SUPERSEDED_MAX];
} superseded;

typedef struct shard {
	_Alignas(CACHE_LINE) pthread_mutex_t lock;
	frame *frames;
	entry *entries;
	uint32_t *frame_buckets;
	uint32_t *entry_buckets;
	uint8_t *data;
	uint32_t frames_used, entries_used; /* ever: the rest has not been touched */
	uint32_t frame_hand, entry_hand;
	superseded old_frames, old_entries;
	uint64_t hits, misses;
	uint64_t ahead_used, ahead_wasted;
} shard;

typedef struct block {
	void *allocated;
	uint8_t *data; /* aligned */
	size_t size;
} block;

struct pgs__cache {
	uint32_t page_size, page_shift;
	uint32_t shard_count; /* power of two */
	uint32_t capacity;    /* frames, and entries, per shard */
	uint32_t bucket_mask;
	block pages;  /* contents */
	block tables; /* entries, frames and buckets, shard after shard */
	block shard_block;
	_Atomic uint64_t revision; /* C */
	_Atomic uint64_t pending;
	pthread_mutex_t advance_lock;
	pgs__cache_used used; /* may be NULL */
	void *used_ctx;
	shard *shards;
};

static const _Alignas(CACHE_LINE) uint8_t zero_page[PGS_PAGE_SIZE_MAX];

const void *pgs__zero_page(void)
{
	return zero_page;
}

/* --- making and freeing -------------------------------------------------- */

static uint32_t round_down_to_power(uint64_t n)
{
	uint32_t power = 1;
	while ((uint64_t)power * 2 <= n && power < (1u << 30))
		power *= 2;
	return power;
}

static void fill_buckets(uint32_t *buckets, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		buckets[i] = NONE;
}

/* A block of the allocator's, aligned; huge pages where they fit, which spare a look-up its TLB misses. */
static int block_init(block *b, size_t size)
{
	size_t align = size >= HUGE_PAGE ? HUGE_PAGE : CACHE_LINE;
	b->allocated = pgs__malloc(size + align);
	if (!b->allocated)
		return PGS_ENOMEM;
	b->size = size;
	b->data = (uint8_t *)(((uintptr_t)b->allocated + align - 1) & ~(uintptr_t)(align - 1));
	if (align == HUGE_PAGE)
		madvise(b->data, size, MADV_HUGEPAGE);
	return PGS_OK;
}

/* A shard's part of the block of tables. */
static size_t tables_size(const pgs__cache *cache)
{
	size_t size = (size_t)cache->capacity * (sizeof(entry) + sizeof(frame)) +
		      (size_t)2 * (cache->bucket_mask + 1) * sizeof(uint32_t);
	return (size + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
}

static void shard_init(pgs__cache *cache, uint32_t index)
{
	shard *s = &cache->shards[index];
	uint32_t buckets = cache->bucket_mask + 1;
	pthread_mutex_init(&s->lock, NULL);
	s->data = cache->pages.data + (size_t)index * cache->page_size;
	s->entries = (entry *)(void *)(cache->tables.data + index * tables_size(cache));
	s->frames = (frame *)(void *)(s->entries + cache->capacity);
	s->frame_buckets = (uint32_t *)(void *)(s->frames + cache->capacity);
	s->entry_buckets = s->frame_buckets + buckets;
	fill_buckets(s->frame_buckets, buckets);
	fill_buckets(s->entry_buckets, buckets);
}

static int allocate(pgs__cache *cache)
{
	if (block_init(&cache->pages, (size_t)cache->shard_count * cache->capacity * cache->page_size) != PGS_OK ||
	    block_init(&cache->tables, cache->shard_count * tables_size(cache)) != PGS_OK ||
	    block_init(&cache->shard_block, cache->shard_count * sizeof(shard)) != PGS_OK)
		return PGS_ENOMEM;
	cache->shards = (shard *)(void *)cache->shard_block.data;
	memset(cache->shards, 0, cache->shard_block.size);
	for (uint32_t i = 0; i < cache->shard_count; i++)
		shard_init(cache, i);
	return PGS_OK;
}

int pgs__cache_new(pgs__cache **out, uint32_t page_size, uint64_t bytes)
{
	*out = NULL;
	pgs__cache *cache = pgs__calloc(1, sizeof *cache);
	if (!cache)
		return PGS_ENOMEM;
	uint64_t frames = bytes / page_size;
	if (frames < FRAMES_MIN)
		frames = FRAMES_MIN;
	if (frames > UINT32_MAX / 2)
		frames = UINT32_MAX / 2;
	cache->page_size = page_size;
	cache->page_shift = (uint32_t)__builtin_ctz(page_size);
	cache->shard_count = round_down_to_power(frames / FRAMES_PER_SHARD_MIN);
	if (cache->shard_count > SHARDS_MAX)
		cache->shard_count = SHARDS_MAX;
	cache->capacity = (uint32_t)(frames / cache->shard_count);
	cache->bucket_mask = round_down_to_power(cache->capacity) - 1;
	pthread_mutex_init(&cache->advance_lock, NULL);
	if (allocate(cache) != PGS_OK) {
		pgs__cache_free(cache);
		return PGS_ENOMEM;
	}
	*out = cache;
	return PGS_OK;
}

void pgs__cache_free(pgs__cache *cache)
{
	if (!cache)
		return;
	for (uint32_t i = 0; cache->shards && i < cache->shard_count; i++)
		pthread_mutex_destroy(&cache->shards[i].lock);
	pthread_mutex_destroy(&cache->advance_lock);
	pgs__free(cache->shard_block.allocated);
	pgs__free(cache->tables.allocated);
	pgs__free(cache->pages.allocated);
	pgs__free(cache);
}

/* --- what was superseded ----------------------------------------------------- */

static void superseded_add(superseded *old, uint32_t index)
{
	if (old->count < SUPERSEDED_MAX)
		old->index[old->count++] = index;
}

static uint32_t superseded_take(superseded *old)
{
	return old->count ? old->index[--old->count] : NONE;
}

/* --- frames --------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
	x *= 0x9e3779b97f4a7c15u;
	return x ^ x >> 32;
}

static shard *shard_of(pgs__cache *cache, uint64_t page_no)
{
	return &cache->shards[mix(page_no) & (cache->shard_count - 1)];
}

/* An id is a hash already. */
static uint32_t *frame_bucket(pgs__cache *cache, shard *s, const pgs__page_id *id)
{
	return &s->frame_buckets[pgs__load_u32be(id->bytes + 12) & cache->bucket_mask];
}

static uint32_t *entry_bucket(pgs__cache *cache, shard *s, uint64_t page_no)
{
	return &s->entry_buckets[(mix(page_no) >> 8) & cache->bucket_mask];
}

/* The shards' frames take turns in the block: what has not been used yet is one stretch at its end, and each huge page
 * that is touched, which the kernel clears first, is filled by all. */
static uint8_t *frame_data(pgs__cache *cache, shard *s, uint32_t index)
{
	return s->data + ((size_t)index * cache->shard_count << cache->page_shift);
}

static uint32_t frame_find(pgs__cache *cache, shard *s, const pgs__page_id *id)
{
	uint32_t index = *frame_bucket(cache, s, id);
	while (index != NONE && !pgs__page_id_equal(&s->frames[index].id, id))
		index = s->frames[index].next;
	return index;
}

static void frame_unlink(pgs__cache *cache, shard *s, uint32_t index)
{
	uint32_t *link = frame_bucket(cache, s, &s->frames[index].id);
	while (*link != index)
		link = &s->frames[*link].next;
	*link = s->frames[index].next;
	s->frames[index].live = false;
	s->ahead_wasted += s->frames[index].ahead;
	s->frames[index].ahead = false;
}

/* A frame to fill: never used, or the next unpinned one the hand finds not referenced since it last came by. */
static uint32_t frame_take(pgs__cache *cache, shard *s)
{
	/* Room never touched costs the kernel a cleared page: what was superseded a while ago is cheaper. */
	if (s->frames_used < cache->capacity && s->old_frames.count < SUPERSEDED_MAX / 2)
		return s->frames_used++;
	for (uint32_t index; (index = superseded_take(&s->old_frames)) != NONE;) {
		frame *f = &s->frames[index];
		if (f->referenced || atomic_load_explicit(&f->pins, memory_order_acquire) > 0)
			continue;
		if (f->live)
			frame_unlink(cache, s, index);
		return index;
	}
	if (s->frames_used < cache->capacity)
		return s->frames_used++;
	for (uint32_t step = 0; step < 2 * cache->capacity; step++) {
		uint32_t index = s->frame_hand;
		s->frame_hand = index + 1 == cache->capacity ? 0 : index + 1;
		frame *f = &s->frames[index];
		if (atomic_load_explicit(&f->pins, memory_order_acquire) > 0)
			continue;
		if (f->live && f->referenced) {
			f->referenced = false;
			continue;
		}
		if (f->live)
			frame_unlink(cache, s, index);
		return index;
	}
	return NONE;
}

/* Somebody looks up what was fetched ahead. */
static void note_use(pgs__cache *cache, shard *s, frame *f, const pgs__page_id *stored)
{
	f->ahead = false;
	s->ahead_used++;
	if (cache->used)
		cache->used(cache->used_ctx, stored);
}

static const void *frame_pin(pgs__cache *cache, shard *s, uint32_t index)
{
	frame *f = &s->frames[index];
	f->referenced = true;
	atomic_fetch_add_explicit(&f->pins, 1, memory_order_relaxed);
	return frame_data(cache, s, index);
}

bool pgs__cache_owns(const pgs__cache *cache, const void *data)
{
	return (const uint8_t *)data >= cache->pages.data &&
	       (const uint8_t *)data < cache->pages.data + cache->pages.size;
}

void pgs__cache_unpin(pgs__cache *cache, const void *data)
{
	if (!pgs__cache_owns(cache, data))
		return;
	uint32_t number = (uint32_t)((size_t)((const uint8_t *)data - cache->pages.data) >> cache->page_shift);
	frame *f = &cache->shards[number & (cache->shard_count - 1)].frames[number / cache->shard_count];
	/* Release: our reads of the page come before the frame's next content. */
	atomic_fetch_sub_explicit(&f->pins, 1, memory_order_release);
}

static const void *pin_content(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id, bool use)
{
	shard *s = shard_of(cache, page_no);
	pthread_mutex_lock(&s->lock);
	uint32_t index = frame_find(cache, s, id);
	if (use && index != NONE && s->frames[index].ahead)
		note_use(cache, s, &s->frames[index], id);
	const void *data = index == NONE ? NULL : frame_pin(cache, s, index);
	pthread_mutex_unlock(&s->lock);
	return data;
}

const void *pgs__cache_content(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id)
{
	return pin_content(cache, page_no, id, true);
}

const void *pgs__cache_borrow(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id)
{
	return pin_content(cache, page_no, id, false);
}

/* Under the shard's lock. */
static void frame_put(pgs__cache *cache, shard *s, const pgs__page_id *id, const void *page, bool ahead)
{
	uint32_t index = frame_find(cache, s, id) == NONE ? frame_take(cache, s) : NONE;
	if (index == NONE)
		return;
	uint32_t *bucket = frame_bucket(cache, s, id);
	frame *f = &s->frames[index];
	f->id = *id;
	f->next = *bucket;
	f->live = true;
	f->referenced = true;
	f->ahead = ahead;
	atomic_init(&f->pins, 0);
	*bucket = index;
	memcpy(frame_data(cache, s, index), page, cache->page_size);
}

void pgs__cache_put_content(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id, const void *page)
{
	shard *s = shard_of(cache, page_no);
	pthread_mutex_lock(&s->lock);
	frame_put(cache, s, id, page, false);
	pthread_mutex_unlock(&s->lock);
}

void pgs__cache_put_ahead(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id, const void *page)
{
	shard *s = shard_of(cache, page_no);
	pthread_mutex_lock(&s->lock);
	frame_put(cache, s, id, page, true);
	pthread_mutex_unlock(&s->lock);
}

void pgs__cache_on_use(pgs__cache *cache, pgs__cache_used used, void *ctx)
{
	cache->used = used;
	cache->used_ctx = ctx;
}

/* --- entries --------------------------------------------------------------- */

static void id_from_hash(pgs__page_id *id, uint32_t group, const uint8_t *hash)
{
	pgs__store_u32be(id->bytes, group);
	memcpy(id->bytes + 4, hash, PGS__ID_HASH_SIZE);
}

static entry *entry_find(pgs__cache *cache, shard *s, uint64_t page_no, uint64_t t)
{
	uint64_t revision = atomic_load_explicit(&cache->revision, memory_order_acquire);
	for (uint32_t index = *entry_bucket(cache, s, page_no); index != NONE; index = s->entries[index].next) {
		entry *e = &s->entries[index];
		uint64_t through = e->through == CURRENT ? revision : e->through;
		if (e->page_no == page_no && e->from <= t && t <= through)
			return e;
	}
	return NULL;
}

static void entry_unlink(pgs__cache *cache, shard *s, uint32_t index)
{
	uint32_t *link = entry_bucket(cache, s, s->entries[index].page_no);
	while (*link != index)
		link = &s->entries[*link].next;
	*link = s->entries[index].next;
	s->entries[index].live = false;
}

static uint32_t entry_take(pgs__cache *cache, shard *s)
{
	if (s->entries_used < cache->capacity)
		return s->entries_used++;
	for (uint32_t index; (index = superseded_take(&s->old_entries)) != NONE;) {
		entry *e = &s->entries[index];
		if (e->live && (e->referenced || e->through == CURRENT))
			continue;
		if (e->live)
			entry_unlink(cache, s, index);
		return index;
	}
	for (;;) { /* ends: the second round meets no referenced entry */
		uint32_t index = s->entry_hand;
		s->entry_hand = index + 1 == cache->capacity ? 0 : index + 1;
		entry *e = &s->entries[index];
		if (e->live && e->referenced) {
			e->referenced = false;
			continue;
		}
		if (e->live)
			entry_unlink(cache, s, index);
		return index;
	}
}

static void entry_to_ref(const pgs__cache *cache, const entry *e, pgs__page_ref *ref)
{
	uint32_t group = pgs__page_group(e->page_no, cache->page_size);
	ref->kind = (uint8_t)e->kind;
	ref->has_base = e->has_base;
	ref->spent = (uint32_t)e->spent * SPENT_UNIT;
	ref->key_revision = e->key_revision;
	ref->from = e->from;
	id_from_hash(&ref->id, group, e->id_hash);
	id_from_hash(&ref->base, group, e->base_hash);
}

/* The frame and its page are looked at next: let them come from memory together. Most engines' pages begin at both
 * ends, with a table and with what it points to. */
static void expect_frame(pgs__cache *cache, shard *s, uint32_t index)
{
	const uint8_t *data = frame_data(cache, s, index), *end = data + cache->page_size;
	__builtin_prefetch(&s->frames[index], 1);
	for (size_t line = 1; line <= EXPECTED_LINES; line++) {
		__builtin_prefetch(data + (line - 1) * CACHE_LINE);
		__builtin_prefetch(end - line * CACHE_LINE);
	}
}

pgs__cache_state pgs__cache_lookup(pgs__cache *cache, uint64_t page_no, uint64_t t, pgs__page_ref *ref,
				   const void **data)
{
	shard *s = shard_of(cache, page_no);
	pgs__cache_state state = PGS__CACHE_MISS;
	pthread_mutex_lock(&s->lock);
	entry *e = entry_find(cache, s, page_no, t);
	if (e) {
		e->referenced = true;
		entry_to_ref(cache, e, ref);
		state = PGS__CACHE_POINTER;
		if (e->kind == PGS__POINTER_ZERO || e->kind == PGS__POINTER_ABSENT) {
			*data = zero_page;
			state = PGS__CACHE_CONTENT;
		} else {
			uint32_t index = e->frame;
			if (index != NONE)
				expect_frame(cache, s, index);
			if (index == NONE || !s->frames[index].live || !pgs__page_id_equal(&s->frames[index].id, &ref->id))
				index = e->frame = frame_find(cache, s, &ref->id);
			if (index != NONE) {
				if (s->frames[index].ahead)
					note_use(cache, s, &s->frames[index], ref->has_base ? &ref->base : &ref->id);
				*data = frame_pin(cache, s, index);
				state = PGS__CACHE_CONTENT;
			}
		}
	}
	if (state == PGS__CACHE_CONTENT)
		s->hits++;
	else
		s->misses++;
	pthread_mutex_unlock(&s->lock);
	return state;
}

pgs__cache_state pgs__cache_peek(pgs__cache *cache, uint64_t page_no, uint64_t t, pgs__page_ref *ref)
{
	shard *s = shard_of(cache, page_no);
	pgs__cache_state state = PGS__CACHE_MISS;
	pthread_mutex_lock(&s->lock);
	const entry *e = entry_find(cache, s, page_no, t);
	if (e) {
		entry_to_ref(cache, e, ref);
		bool empty = e->kind == PGS__POINTER_ZERO || e->kind == PGS__POINTER_ABSENT;
		state = empty || frame_find(cache, s, &ref->id) != NONE ? PGS__CACHE_CONTENT : PGS__CACHE_POINTER;
	}
	pthread_mutex_unlock(&s->lock);
	return state;
}

bool pgs__cache_knows(pgs__cache *cache, uint64_t page_no)
{
	shard *s = shard_of(cache, page_no);
	pthread_mutex_lock(&s->lock);
	uint32_t index = *entry_bucket(cache, s, page_no);
	while (index != NONE && s->entries[index].page_no != page_no)
		index = s->entries[index].next;
	pthread_mutex_unlock(&s->lock);
	return index != NONE;
}

size_t pgs__cache_known(pgs__cache *cache, uint64_t *at, uint64_t *page_nos, size_t max)
{
	size_t count = 0;
	for (; count < max && *at / cache->capacity < cache->shard_count; ++*at) {
		shard *s = &cache->shards[*at / cache->capacity];
		uint64_t index = *at % cache->capacity;
		pthread_mutex_lock(&s->lock);
		if (index < s->entries_used && s->entries[index].live)
			page_nos[count++] = s->entries[index].page_no;
		pthread_mutex_unlock(&s->lock);
	}
	return count;
}

/* Bring near what a look-up of the page begins with, or the rest of it, if nobody is at work there. */
static void expect_entry(pgs__cache *cache, uint64_t page_no, bool rest)
{
	shard *s = shard_of(cache, page_no);
	uint32_t found = NONE;
	if (pthread_mutex_trylock(&s->lock) != 0)
		return;
	uint32_t index = *entry_bucket(cache, s, page_no);
	if (index != NONE && rest)
		found = s->entries[index].frame;
	else if (index != NONE)
		__builtin_prefetch(&s->entries[index], 1);
	pthread_mutex_unlock(&s->lock);
	if (found != NONE)
		expect_frame(cache, s, found);
}

void pgs__cache_expect(pgs__cache *cache, uint64_t page_no)
{
	__builtin_prefetch(entry_bucket(cache, shard_of(cache, page_no + 2), page_no + 2));
	expect_entry(cache, page_no + 1, false);
	expect_entry(cache, page_no, true);
}

static uint64_t spent_units(uint32_t spent)
{
	uint64_t units = ((uint64_t)spent + SPENT_UNIT - 1) / SPENT_UNIT;
	return units < (1u << SPENT_BITS) ? units : (1u << SPENT_BITS) - 1;
}

/* Under the shard's lock. A ref known already is kept, its range widened. */
static void entry_put(pgs__cache *cache, shard *s, uint64_t page_no, const pgs__page_ref *ref, uint64_t through)
{
	uint32_t *bucket = entry_bucket(cache, s, page_no);
	uint32_t index;
	for (index = *bucket; index != NONE; index = s->entries[index].next) {
		entry *e = &s->entries[index];
		if (e->page_no == page_no && e->from == ref->from && e->kind == ref->kind)
			break;
	}
	if (index == NONE) {
		index = entry_take(cache, s);
		bucket = entry_bucket(cache, s, page_no);
		s->entries[index] = (entry){.page_no = page_no, .through = through, .frame = NONE, .next = *bucket};
		*bucket = index;
	}
	entry *e = &s->entries[index];
	if (through > e->through)
		e->through = through;
	e->kind = ref->kind;
	e->has_base = ref->has_base;
	e->spent = spent_units(ref->spent);
	e->key_revision = ref->key_revision;
	e->from = ref->from;
	e->live = e->referenced = true;
	memcpy(e->id_hash, ref->id.bytes + 4, PGS__ID_HASH_SIZE);
	memcpy(e->base_hash, ref->base.bytes + 4, PGS__ID_HASH_SIZE);
}

void pgs__cache_put_ref(pgs__cache *cache, uint64_t page_no, const pgs__page_ref *ref, uint64_t t)
{
	shard *s = shard_of(cache, page_no);
	pthread_mutex_lock(&s->lock);
	bool current = atomic_load(&cache->pending) == t && atomic_load(&cache->revision) == t;
	entry_put(cache, s, page_no, ref, current ? CURRENT : t);
	pthread_mutex_unlock(&s->lock);
}

/* --- advancing ------------------------------------------------------------- */

uint64_t pgs__cache_revision(pgs__cache *cache)
{
	return atomic_load_explicit(&cache->revision, memory_order_acquire);
}

bool pgs__cache_advance_begin(pgs__cache *cache, uint64_t known, uint64_t to)
{
	pthread_mutex_lock(&cache->advance_lock);
	uint64_t revision = atomic_load(&cache->revision);
	if (revision < known || revision >= to) {
		pthread_mutex_unlock(&cache->advance_lock);
		return false;
	}
	atomic_store(&cache->pending, to);
	return true;
}

/* Only old snapshots want it from now on. But a full page is the base of the deltas to come. */
static void supersede(shard *s, uint32_t index)
{
	entry *e = &s->entries[index];
	e->referenced = false;
	superseded_add(&s->old_entries, index);
	if (e->kind == PGS__POINTER_DELTA && e->frame != NONE) {
		s->frames[e->frame].referenced = false; /* if the hint is stale, that page is merely taken early */
		superseded_add(&s->old_frames, e->frame);
	}
}

static void freeze_one(shard *s, uint32_t index, uint64_t revision)
{
	entry *e = &s->entries[index];
	if (e->live && e->through == CURRENT && e->from < revision) {
		e->through = revision - 1;
		supersede(s, index);
	}
}

/* Under the shard's lock. */
static void freeze_page(pgs__cache *cache, shard *s, uint64_t page_no, uint64_t revision)
{
	for (uint32_t i = *entry_bucket(cache, s, page_no); i != NONE; i = s->entries[i].next)
		if (s->entries[i].page_no == page_no)
			freeze_one(s, i, revision);
}

/* Every entry, for ranges longer than the cache. */
static void freeze_sweep(pgs__cache *cache, uint64_t first_page, uint64_t count, uint64_t revision)
{
	for (uint32_t i = 0; i < cache->shard_count; i++) {
		shard *s = &cache->shards[i];
		pthread_mutex_lock(&s->lock);
		for (uint32_t j = 0; j < s->entries_used; j++)
			if (s->entries[j].page_no - first_page < count)
				freeze_one(s, j, revision);
		pthread_mutex_unlock(&s->lock);
	}
}

void pgs__cache_freeze(pgs__cache *cache, uint64_t first_page, uint64_t count, uint64_t revision)
{
	if (count > (uint64_t)cache->shard_count * cache->capacity) {
		freeze_sweep(cache, first_page, count, revision);
		return;
	}
	for (uint64_t i = 0; i < count; i++) {
		shard *s = shard_of(cache, first_page + i);
		pthread_mutex_lock(&s->lock);
		freeze_page(cache, s, first_page + i, revision);
		pthread_mutex_unlock(&s->lock);
	}
}

/* Under the shard's lock: nobody has looked up what was fetched for the page, and that is the base of what the page is
 * now. If it is not, it was fetched for nothing. */
static bool take_mark(pgs__cache *cache, shard *s, uint64_t page_no, const pgs__page_ref *now)
{
	for (uint32_t i = *entry_bucket(cache, s, page_no); i != NONE; i = s->entries[i].next) {
		pgs__page_ref was;
		uint64_t through = s->entries[i].through;
		if (s->entries[i].page_no != page_no || (through != CURRENT && through + 1 != now->from))
			continue; /* else it is what the page was until now, frozen maybe */
		entry_to_ref(cache, &s->entries[i], &was);
		uint32_t index = frame_find(cache, s, &was.id);
		if (index == NONE || !s->frames[index].ahead)
			return false;
		bool kept = now->has_base && pgs__page_id_equal(&now->base, was.has_base ? &was.base : &was.id);
		s->frames[index].ahead = false;
		s->ahead_wasted += !kept;
		return kept;
	}
	return false;
}

void pgs__cache_replace(pgs__cache *cache, uint64_t page_no, const pgs__page_ref *ref, const void *page)
{
	shard *s = shard_of(cache, page_no);
	pthread_mutex_lock(&s->lock);
	bool ahead = take_mark(cache, s, page_no, ref);
	freeze_page(cache, s, page_no, ref->from);
	entry_put(cache, s, page_no, ref, CURRENT);
	if (page)
		frame_put(cache, s, &ref->id, page, ahead);
	pthread_mutex_unlock(&s->lock);
}

void pgs__cache_advance_end(pgs__cache *cache)
{
	atomic_store(&cache->revision, atomic_load(&cache->pending));
	pthread_mutex_unlock(&cache->advance_lock);
}

void pgs__cache_forget(pgs__cache *cache, uint64_t to)
{
	if (!pgs__cache_advance_begin(cache, 0, to))
		return;
	/* The first commit not applied may be any after C, as it is now that nobody else moves it. */
	freeze_sweep(cache, 0, UINT64_MAX, pgs__cache_revision(cache) + 1);
	pgs__cache_advance_end(cache);
}

void pgs__cache_stat_get(pgs__cache *cache, pgs__cache_stat *out)
{
	*out = (pgs__cache_stat){.limit_bytes = cache->pages.size};
	for (uint32_t i = 0; i < cache->shard_count; i++) {
		shard *s = &cache->shards[i];
		pthread_mutex_lock(&s->lock);
		out->used_bytes += (uint64_t)s->frames_used * cache->page_size;
		out->overhead_bytes += s->frames_used * sizeof(frame) + s->entries_used * sizeof(entry) +
				       (uint64_t)2 * (cache->bucket_mask + 1) * sizeof(uint32_t) + sizeof(shard);
		out->hits += s->hits;
		out->misses += s->misses;
		out->ahead_used += s->ahead_used;
		out->ahead_wasted += s->ahead_wasted;
		pthread_mutex_unlock(&s->lock);
	}
}
