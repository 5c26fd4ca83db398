/* What a follower has to fetch: queues of pages and files, bounded, without duplicates.
 *
 * First in, first out. A page that is in a queue already stays where it is, and what is said of it last counts. When a
 * queue is full its oldest entry goes: of what waits, that is the likeliest to have been moved, changed again, or read by
 * whoever needed it.
 */
#ifndef PGS_FOLLOW_FETCH_QUEUE_H
#define PGS_FOLLOW_FETCH_QUEUE_H

#include "content/levels.h"
#include "util/map.h"

#define PGS__FETCH_PAGES_MAX 8192 /* in a queue: with its index 600 KiB, once it was needed */
#define PGS__FETCH_FILES_MAX 64

typedef struct pgs__fetch_page {
	uint64_t page_no;
	uint64_t revision; /* a snapshot that is older does not tell what it points to */
	pgs__page_id id;   /* of the content it needs, if that is known */
	bool known;
	bool recent;       /* that was put in c/ lately */
} pgs__fetch_page;

/* Zeroed, but for `max`. */
typedef struct pgs__page_queue {
	size_t max;
	pgs__fetch_page *pages; /* entry n at n mod max; NULL until the first */
	uint64_t first, end;    /* entries */
	pgs__map at;            /* page → entry */
} pgs__page_queue;

/* *dropped: the page that had to go, or the one that could not be put (no memory); UINT64_MAX = none. */
void pgs__page_queue_push(pgs__page_queue *q, const pgs__fetch_page *page, uint64_t *dropped);

static inline size_t pgs__page_queue_count(const pgs__page_queue *q)
{
	return (size_t)(q->end - q->first);
}

/* The next page, which stays, or NULL; and that one goes. */
const pgs__fetch_page *pgs__page_queue_next(const pgs__page_queue *q);
void pgs__page_queue_pop(pgs__page_queue *q);
void pgs__page_queue_free(pgs__page_queue *q);

/* Zeroed. It has references to its files. */
typedef struct pgs__file_queue {
	pgs__file *files[PGS__FETCH_FILES_MAX];
	size_t count;
} pgs__file_queue;

bool pgs__file_queue_push(pgs__file_queue *q, pgs__file *file); /* false: the oldest had to go */
pgs__file *pgs__file_queue_take(pgs__file_queue *q); /* the reference is the caller's; NULL: none */
void pgs__file_queue_free(pgs__file_queue *q);

#endif
