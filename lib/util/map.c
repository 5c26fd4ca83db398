/* Open addressing with linear probing; at most three quarters full. */
#include "util/map.h"

#include <stdlib.h>
#include <string.h>

#include <pagestore/error.h>

#include "util/alloc.h"

#define EMPTY UINT64_MAX
#define CAPACITY_MIN 16

static size_t home(const pgs__map *map, uint64_t key)
{
	key *= 0x9e3779b97f4a7c15u;
	return (size_t)(key >> 20 ^ key >> 42) & (map->capacity - 1);
}

/* The slot of `key`, or the empty one where it would go. */
static pgs__map_slot *probe(const pgs__map *map, uint64_t key)
{
	size_t i = home(map, key);
	while (map->slots[i].key != EMPTY && map->slots[i].key != key)
		i = (i + 1) & (map->capacity - 1);
	return &map->slots[i];
}

uint64_t *pgs__map_get(const pgs__map *map, uint64_t key)
{
	if (map->count == 0)
		return NULL;
	pgs__map_slot *slot = probe(map, key);
	return slot->key == key ? &slot->value : NULL;
}

static int enlarge(pgs__map *map)
{
	pgs__map bigger = {.capacity = map->capacity ? map->capacity * 2 : CAPACITY_MIN, .count = map->count};
	if (bigger.capacity > SIZE_MAX / sizeof *bigger.slots)
		return PGS_ENOMEM;
	bigger.slots = pgs__malloc(bigger.capacity * sizeof *bigger.slots);
	if (!bigger.slots)
		return PGS_ENOMEM;
	memset(bigger.slots, 0xff, bigger.capacity * sizeof *bigger.slots); /* all EMPTY */
	for (size_t i = 0; i < map->capacity; i++)
		if (map->slots[i].key != EMPTY)
			*probe(&bigger, map->slots[i].key) = map->slots[i];
	pgs__free(map->slots);
	*map = bigger;
	return PGS_OK;
}

int pgs__map_set(pgs__map *map, uint64_t key, uint64_t value, bool *existed)
{
	if (existed)
		*existed = false;
	if (4 * (map->count + 1) > 3 * map->capacity) {
		int result = enlarge(map);
		if (result != PGS_OK)
			return result;
	}
	pgs__map_slot *slot = probe(map, key);
	if (existed)
		*existed = slot->key == key;
	map->count += slot->key != key;
	*slot = (pgs__map_slot){key, value};
	return PGS_OK;
}

bool pgs__map_remove(pgs__map *map, uint64_t key)
{
	if (map->count == 0)
		return false;
	pgs__map_slot *slot = probe(map, key);
	if (slot->key != key)
		return false;
	/* Shift back those whose probing passed over the hole. */
	size_t mask = map->capacity - 1, hole = (size_t)(slot - map->slots);
	for (size_t i = (hole + 1) & mask; map->slots[i].key != EMPTY; i = (i + 1) & mask) {
		size_t distance = (i - home(map, map->slots[i].key)) & mask;
		if (distance < ((i - hole) & mask))
			continue;
		map->slots[hole] = map->slots[i];
		hole = i;
	}
	map->slots[hole].key = EMPTY;
	map->count--;
	return true;
}

const pgs__map_slot *pgs__map_next(const pgs__map *map, size_t *cursor)
{
	while (*cursor < map->capacity) {
		const pgs__map_slot *slot = &map->slots[(*cursor)++];
		if (slot->key != EMPTY)
			return slot;
	}
	return NULL;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

uint64_t *pgs__map_sorted_keys(const pgs__map *map, size_t *count)
{
	*count = 0;
	if (map->count == 0)
		return NULL;
	uint64_t *keys = pgs__malloc(map->count * sizeof *keys);
	if (!keys)
		return NULL;
	size_t cursor = 0;
	for (const pgs__map_slot *slot; (slot = pgs__map_next(map, &cursor));)
		keys[(*count)++] = slot->key;
	qsort(keys, *count, sizeof *keys, by_number);
	return keys;
}

void pgs__map_free(pgs__map *map)
{
	pgs__free(map->slots);
	*map = (pgs__map){0};
}
