/* The ordered map: a hash table and a skip list over the same keys. See map.h. */
#include "map.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <pagestore/error.h>

#include "util/alloc.h"
#include "util/cursor.h"
#include "util/kv_check.h"

#define BUCKETS_MIN 64

int pgs__mem_map_init(pgs__mem_map *map)
{
	*map = (pgs__mem_map){.random = 0x9e3779b97f4a7c15, .bucket_count = BUCKETS_MIN};
	map->buckets = pgs__calloc(BUCKETS_MIN, sizeof(pgs__mem_key *));
	return map->buckets ? PGS_OK : PGS_ENOMEM;
}

static void free_key(pgs__mem_key *key)
{
	for (size_t i = 0; i < key->count; i++)
		pgs__free(key->versions[key->first + i]);
	pgs__free(key->versions);
	pgs__free(key);
}

void pgs__mem_map_free(pgs__mem_map *map)
{
	pgs__mem_key *key = map->head[0];
	while (key) {
		pgs__mem_key *next = key->next[0];
		free_key(key);
		key = next;
	}
	pgs__free(map->buckets);
	*map = (pgs__mem_map){.bucket_count = 0};
}

/* --- the hash table ----------------------------------------------------- */

static uint64_t hash_of(pgs_slice bytes)
{
	return XXH3_64bits(bytes.data, bytes.size);
}

static pgs__mem_key **bucket_of(const pgs__mem_map *map, uint64_t hash)
{
	return &map->buckets[hash & (map->bucket_count - 1)];
}

pgs__mem_key *pgs__mem_find(const pgs__mem_map *map, pgs_slice bytes)
{
	uint64_t hash = hash_of(bytes);
	pgs__mem_key *key = *bucket_of(map, hash);
	while (key && (key->hash != hash || !pgs__slice_equal(pgs__mem_key_bytes(key), bytes)))
		key = key->chain;
	return key;
}

/* A failure to grow is no error: chains get longer, and the next insert tries again. */
static void grow_buckets(pgs__mem_map *map)
{
	if (map->key_count < map->bucket_count)
		return;
	pgs__mem_key **buckets = pgs__calloc(map->bucket_count * 2, sizeof(pgs__mem_key *));
	if (!buckets)
		return;
	pgs__free(map->buckets);
	map->buckets = buckets;
	map->bucket_count *= 2;
	for (pgs__mem_key *key = map->head[0]; key; key = key->next[0]) {
		pgs__mem_key **bucket = bucket_of(map, key->hash);
		key->chain = *bucket;
		*bucket = key;
	}
}

static void unchain(pgs__mem_map *map, const pgs__mem_key *key)
{
	pgs__mem_key **link = bucket_of(map, key->hash);
	while (*link != key)
		link = &(*link)->chain;
	*link = key->chain;
}

/* --- the skip list ------------------------------------------------------ */

/* Returns the first key at or above `bytes`. Into `path` (unless NULL) goes,
 * for each level, the array of links (a key's or the head's) to change there. */
static pgs__mem_key *descend(const pgs__mem_map *map, pgs_slice bytes, pgs__mem_key **path[PGS__MEM_LEVELS])
{
	pgs__mem_key *const *links = map->head;
	const pgs__mem_key *known = NULL; /* not below `bytes`: compared one level up, so stop there */
	for (int level = PGS__MEM_LEVELS - 1; level >= 0; level--) {
		const pgs__mem_key *key = links[level];
		while (key && key != known && pgs__slice_compare(pgs__mem_key_bytes(key), bytes) < 0) {
			links = key->next;
			key = links[level];
		}
		known = key;
		if (path)
			path[level] = (pgs__mem_key **)links;
	}
	return links[0];
}

pgs__mem_key *pgs__mem_lower_bound(const pgs__mem_map *map, pgs_slice bytes)
{
	return descend(map, bytes, NULL);
}

/* 1 with probability 3/4, 2 with 3/16, …: xorshift is random enough to balance a list. */
static uint32_t random_levels(pgs__mem_map *map)
{
	map->random ^= map->random << 13;
	map->random ^= map->random >> 7;
	map->random ^= map->random << 17;
	uint32_t levels = 1;
	for (uint64_t bits = map->random; (bits & 3) == 0 && levels < PGS__MEM_LEVELS; bits >>= 2)
		levels++;
	return levels;
}

pgs__mem_key *pgs__mem_insert(pgs__mem_map *map, pgs_slice bytes)
{
	uint32_t levels = random_levels(map);
	pgs__mem_key *key = pgs__malloc(sizeof *key + levels * sizeof(pgs__mem_key *) + bytes.size);
	if (!key)
		return NULL;
	grow_buckets(map);
	*key = (pgs__mem_key){.hash = hash_of(bytes), .levels = levels, .size = bytes.size};
	memcpy(&key->next[levels], bytes.data, bytes.size);

	pgs__mem_key **path[PGS__MEM_LEVELS];
	descend(map, bytes, path);
	for (uint32_t level = 0; level < levels; level++) {
		key->next[level] = path[level][level];
		path[level][level] = key;
	}
	pgs__mem_key **bucket = bucket_of(map, key->hash);
	key->chain = *bucket;
	*bucket = key;
	map->key_count++;
	return key;
}

void pgs__mem_remove(pgs__mem_map *map, pgs__mem_key *key)
{
	pgs__mem_key **path[PGS__MEM_LEVELS];
	descend(map, pgs__mem_key_bytes(key), path);
	for (uint32_t level = 0; level < key->levels; level++)
		path[level][level] = key->next[level];
	unchain(map, key);
	map->key_count--;
	free_key(key);
}

/* --- versions ----------------------------------------------------------- */

int pgs__mem_reserve_version(pgs__mem_key *key)
{
	size_t end = key->first + key->count;
	if (end < key->capacity)
		return PGS_OK;
	if (key->first > key->count) {
		/* More than half was compacted away: moving the rest is paid for by the drops. */
		memmove(key->versions, key->versions + key->first, key->count * sizeof *key->versions);
		key->first = 0;
		return PGS_OK;
	}
	if (key->capacity)
		return pgs__grow(&key->versions, &key->capacity, end + 1, sizeof *key->versions);
	/* Most keys have one or two versions: pgs__grow()'s eight would double the map's memory. */
	key->versions = pgs__malloc(2 * sizeof *key->versions);
	key->capacity = key->versions ? 2 : 0;
	return key->versions ? PGS_OK : PGS_ENOMEM;
}

void pgs__mem_push(pgs__mem_key *key, pgs__mem_version *version)
{
	key->versions[key->first + key->count++] = version;
	key->newest = version;
}

void pgs__mem_pop(pgs__mem_key *key)
{
	pgs__free(key->newest);
	key->count--;
	key->newest = key->count ? key->versions[key->first + key->count - 1] : NULL;
}

void pgs__mem_drop_oldest(pgs__mem_key *key)
{
	pgs__free(key->versions[key->first]);
	key->first++;
	key->count--;
	if (key->count == 0)
		key->newest = NULL;
}

/* The newest version at or below `revision`, or NULL. */
static const pgs__mem_version *version_at(const pgs__mem_key *key, uint64_t revision)
{
	pgs__mem_version *const *versions = key->versions + key->first;
	size_t low = 0, above = key->count; /* versions[above] and all after it are newer than `revision` */
	while (low < above) {
		size_t middle = low + (above - low) / 2;
		if (versions[middle]->mod_revision <= revision)
			low = middle + 1;
		else
			above = middle;
	}
	return above ? versions[above - 1] : NULL;
}

const pgs__mem_version *pgs__mem_visible(const pgs__mem_key *key, uint64_t revision)
{
	const pgs__mem_version *version = revision ? version_at(key, revision) : key->newest;
	return version && version->count ? version : NULL;
}

/* --- ranges ------------------------------------------------------------- */

static pgs__mem_key *inside(const pgs__mem_range *range, pgs__mem_key *key)
{
	if (!key || range->to_end || pgs__slice_compare(pgs__mem_key_bytes(key), range->end) < 0)
		return key;
	return NULL;
}

pgs__mem_key *pgs__mem_first(pgs__mem_range *range, const pgs__mem_map *map, pgs_slice key, pgs_slice range_end)
{
	range->end = range_end;
	range->single = range_end.size == 0;
	range->to_end = pgs__kv_is_to_end(range_end);
	if (range->single)
		return pgs__mem_find(map, key);
	return inside(range, pgs__mem_lower_bound(map, key));
}

pgs__mem_key *pgs__mem_next(const pgs__mem_range *range, const pgs__mem_key *key)
{
	return range->single ? NULL : inside(range, key->next[0]);
}
