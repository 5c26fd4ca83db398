/* A hash map from 64-bit numbers to 64-bit numbers: open addressing, linear probing; removing shifts the followers
 * back, so there are no tombstones. UINT64_MAX is not a key. A zeroed map is empty and ready. */
#ifndef PGS_UTIL_MAP_H
#define PGS_UTIL_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pgs__map_slot {
	uint64_t key;
	uint64_t value;
} pgs__map_slot;

typedef struct pgs__map {
	pgs__map_slot *slots;
	size_t capacity; /* power of two, or 0 */
	size_t count;
} pgs__map;

/* The value's place, or NULL. Valid until the next change. */
uint64_t *pgs__map_get(const pgs__map *map, uint64_t key);

/* Set key to value; *existed (may be NULL) tells whether it was there. PGS_OK or PGS_ENOMEM. */
int pgs__map_set(pgs__map *map, uint64_t key, uint64_t value, bool *existed);

/* Remove a key; false if it was not there. */
bool pgs__map_remove(pgs__map *map, uint64_t key);

/* Walk in no order: start with *cursor = 0; NULL at the end. */
const pgs__map_slot *pgs__map_next(const pgs__map *map, size_t *cursor);

/* The keys in rising order, to be freed with pgs__free(); NULL when out of memory (or empty: *count 0). */
uint64_t *pgs__map_sorted_keys(const pgs__map *map, size_t *count);

void pgs__map_free(pgs__map *map);

#endif
