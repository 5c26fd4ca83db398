/* Filters of sorted files in memory, under a budget.
 *
 * A filter is read when a lookup first needs it and there is room; that of a file of the last level, which has most of
 * what is looked for there, after the slices that were read without it have cost a quarter of it: who reads a few pages
 * of a large database does not need it. When the budget is used up, another filter has to go
 * (CLOCK), and that only pays for a file which is asked often: a filter then is read after the slices that were read
 * for want of it have cost as many bytes. So where the filters in use exceed the budget by far, they cost at most as
 * much as doing without.
 *
 * Threads: any; one lock, held for a probe.
 */
#ifndef PGS_CONTENT_FILTERS_H
#define PGS_CONTENT_FILTERS_H

#include <pthread.h>

#include "codec/filter.h"

#define PGS__FILTERS_BUDGET (32u << 20) /* bytes, of one database, unless set */

/* The place of a file's filter; all zero: not in memory. Guarded by the lock. */
typedef struct pgs__filter_slot {
	struct pgs__filter_slot *next, *previous; /* ring of those in memory */
	uint8_t *bits;
	size_t size;
	uint64_t missed_bytes; /* of slices read for want of it */
	bool recent;           /* asked since the hand passed */
	bool damaged;          /* as it is stored: not to be read again */
} pgs__filter_slot;

typedef struct pgs__filters {
	pthread_mutex_t lock;
	size_t budget; /* bytes; set before use */
	size_t used;
	pgs__filter_slot *hand; /* NULL = none in memory */
	uint64_t loaded, evicted, refused; /* filters read, given up; ids a filter said "no" to */
} pgs__filters;

void pgs__filters_init(pgs__filters *filters);
void pgs__filters_free(pgs__filters *filters); /* no slot is in use */

/* False when the file certainly does not have the id; true when it may, or the filter is not in memory. */
bool pgs__filters_may_have(pgs__filters *filters, pgs__filter_slot *slot, const pgs__page_id *id);

/* Whether the filter, of `size` bytes, should be read before `slice_bytes` of the table are. `last`: it is of a file
 * of the last level. */
bool pgs__filters_due(pgs__filters *filters, pgs__filter_slot *slot, size_t size, size_t slice_bytes, bool last);

/* Whether a filter that nobody has asked for yet should be kept: it is not here, and nothing has to go for it. */
bool pgs__filters_has_room(pgs__filters *filters, const pgs__filter_slot *slot, uint64_t size);

/* It was read: take over `bits`, from pgs__malloc(). */
void pgs__filters_keep(pgs__filters *filters, pgs__filter_slot *slot, uint8_t *bits, size_t size);

/* It was read, and is damaged. */
void pgs__filters_set_damaged(pgs__filters *filters, pgs__filter_slot *slot);

/* The file goes. */
void pgs__filters_forget(pgs__filters *filters, pgs__filter_slot *slot);

#endif
