/* The page and pointer cache of a database: bounded, shared by its transactions, thread-safe.
 *
 * It holds pointers (which content a page has, and at which snapshots that is known to hold) and contents by id.
 * Everything about one page number, its base contents included, lives in one shard under one mutex, so a warm read
 * is one lock, two probes and a copy.
 *
 * Revisions here are those of commits (the mod revision of `t`): a snapshot's T.
 *
 *  C1 A pointer entry answers a snapshot T only if from <= T <= through. Entries that are "current" hold through
 *     the cache's revision C, and C moves past a commit only after the pages it wrote were frozen.
 *  C2 A frame's content matches its id: it was hashed or computed here before it was put.
 *  C3 A pinned frame is never evicted or changed.
 */
#ifndef PGS_CONTENT_CACHE_H
#define PGS_CONTENT_CACHE_H

#include "codec/pointer.h"

typedef struct pgs__cache pgs__cache;

/* What a page points to, without the delta's bytes. */
typedef struct pgs__page_ref {
	uint8_t kind; /* pgs__pointer_kind */
	bool has_base;
	uint32_t spent;        /* has_base: bytes of all deltas against it, the present one included */
	uint64_t key_revision; /* mod revision of the p/ key as seen; 0 = no such key */
	uint64_t from;         /* valid at snapshots from this one on: the pointer's age */
	pgs__page_id id, base;
} pgs__page_ref;

/* A cache of about `bytes` of pages (at least 64). PGS_OK or PGS_ENOMEM. */
int pgs__cache_new(pgs__cache **out, uint32_t page_size, uint64_t bytes);
void pgs__cache_free(pgs__cache *cache);

typedef enum pgs__cache_state {
	PGS__CACHE_MISS,    /* nothing known */
	PGS__CACHE_POINTER, /* *ref is filled, the content is not cached */
	PGS__CACHE_CONTENT  /* *ref is filled, *data is pinned */
} pgs__cache_state;

/* Page `page_no` at snapshot T. Zero and absent pages give the zero page. */
pgs__cache_state pgs__cache_lookup(pgs__cache *cache, uint64_t page_no, uint64_t t, pgs__page_ref *ref,
				   const void **data);

/* Page `page_no` is likely to be looked up next, and then the pages after it: fetch what that takes into the processor's
 * cache, a step of it for each of the next three. Where tables and pages are larger than that cache, a look-up takes four
 * fetches from memory, each of which says where the next one is. */
void pgs__cache_expect(pgs__cache *cache, uint64_t page_no);

/* The content `id`, pinned, or NULL. `page_no` is the page it is wanted for. */
const void *pgs__cache_content(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id);

/* Whether anything at all is known of page_no: somebody reads it. */
bool pgs__cache_knows(pgs__cache *cache, uint64_t page_no);

/* Remember what page_no pointed to at snapshot T. */
void pgs__cache_put_ref(pgs__cache *cache, uint64_t page_no, const pgs__page_ref *ref, uint64_t t);

/* Keep a copy of a content. Best effort: a shard full of pins keeps nothing. */
void pgs__cache_put_content(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id, const void *page);

/* The same of a content that was fetched ahead of time, of which it is told when somebody looks it up, or when it goes
 * before that. `used` (may be NULL) is called at the first look-up, once for each, under a lock: it must not call the
 * cache. `stored` is what was fetched: the page's own content, or its delta's base. Set it before anything is put. */
typedef void (*pgs__cache_used)(void *ctx, const pgs__page_id *stored);
void pgs__cache_on_use(pgs__cache *cache, pgs__cache_used used, void *ctx);
void pgs__cache_put_ahead(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id, const void *page);

/* As pgs__cache_content(), for those who are not readers: it stays as unused as it is. */
const void *pgs__cache_borrow(pgs__cache *cache, uint64_t page_no, const pgs__page_id *id);

/* As a look-up that nobody reads: what is known stays as it is, and nothing is pinned. */
pgs__cache_state pgs__cache_peek(pgs__cache *cache, uint64_t page_no, uint64_t t, pgs__page_ref *ref);

/* Pages of which anything is known, from place *at on (0 first), which is moved past them; returns how many. */
size_t pgs__cache_known(pgs__cache *cache, uint64_t *at, uint64_t *page_nos, size_t max);

/* Give back what lookup or content pinned. Any thread. The zero page may be passed. */
void pgs__cache_unpin(pgs__cache *cache, const void *data);

/* Whether `data` lies in this cache (else it is the zero page or the caller's own). */
bool pgs__cache_owns(const pgs__cache *cache, const void *data);

/* PGS_PAGE_SIZE_MAX zero bytes. */
const void *pgs__zero_page(void);

/* C: all commits up to it have been applied to the current entries. */
uint64_t pgs__cache_revision(pgs__cache *cache);

/* Move C from `known` to `to`, the caller knowing every page changed by the commits in (known, to]. Returns false,
 * and nothing is held, when C is below `known` or not below `to`. Else call freeze for each change, or replace where
 * the new pointer is known (from = `to`) and maybe its content (`page`, or NULL); then end. */
bool pgs__cache_advance_begin(pgs__cache *cache, uint64_t known, uint64_t to);
void pgs__cache_freeze(pgs__cache *cache, uint64_t first_page, uint64_t count, uint64_t revision);
void pgs__cache_replace(pgs__cache *cache, uint64_t page_no, const pgs__page_ref *ref, const void *page);
void pgs__cache_advance_end(pgs__cache *cache);

/* Freeze everything at C and make `to` the new C: when what changed is not known. */
void pgs__cache_forget(pgs__cache *cache, uint64_t to);

typedef struct pgs__cache_stat {
	uint64_t used_bytes, limit_bytes, overhead_bytes, hits, misses;
	uint64_t ahead_used, ahead_wasted; /* pages fetched ahead that were looked up; that went before */
} pgs__cache_stat;
void pgs__cache_stat_get(pgs__cache *cache, pgs__cache_stat *out);

#endif
