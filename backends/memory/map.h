/* The memory KV's ordered map: every key with its whole retained history.
 *
 * A key is in two structures at once:
 *
 *     buckets ─ chain ─ chain          a hash table, for single keys
 *     head ── next ── next ── next     a skip list in memcmp order, for ranges
 *
 * Nearly every operation of a commit names single keys, and a hash finds one
 * in about a third of the time the list would take; the list is walked only
 * for ranges and to place new keys.
 *
 * Invariants
 *  M1 A key in the map has at least one version; versions are in revision
 *     order, and no two of a key have the same revision.
 *  M2 A version is a put (count >= 1) or a delete (count == 0); a delete never
 *     follows a delete, and is the oldest version only while watches may still
 *     ask for it (see pgs__mem_compact()).
 *
 * Threads: none of its own; the store's lock covers it.
 */
#ifndef PGS_MEMORY_MAP_H
#define PGS_MEMORY_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include <pagestore/sys/slice.h>

#define PGS__MEM_LEVELS 16 /* a quarter of the keys of each level are in the next: enough for 4^16 keys */

typedef struct pgs__mem_version {
	uint64_t mod_revision;
	uint64_t create_revision; /* 0 for a delete */
	uint64_t count;           /* puts since creation; 0 for a delete */
	size_t value_size;
	uint8_t value[];
} pgs__mem_version;

typedef struct pgs__mem_key {
	struct pgs__mem_key *chain;  /* the next key of the bucket */
	uint64_t hash;
	pgs__mem_version *newest;    /* the last of the versions; beside the hash, because most reads want no other */
	pgs__mem_version **versions; /* [first, first + count), oldest first */
	size_t first;                /* compaction drops from the front without moving the rest */
	size_t count;
	size_t capacity;
	size_t size;                 /* of the key's bytes, which follow next[] */
	uint32_t levels;
	struct pgs__mem_key *next[];
} pgs__mem_key;

typedef struct pgs__mem_map {
	pgs__mem_key *head[PGS__MEM_LEVELS];
	pgs__mem_key **buckets;
	size_t bucket_count; /* a power of two */
	size_t key_count;
	uint64_t random;
} pgs__mem_map;

static inline pgs_slice pgs__mem_key_bytes(const pgs__mem_key *key)
{
	return (pgs_slice){&key->next[key->levels], key->size};
}

/* PGS_OK or PGS_ENOMEM. */
int pgs__mem_map_init(pgs__mem_map *map);

/* Frees every key and version. */
void pgs__mem_map_free(pgs__mem_map *map);

/* The key, also when its newest version is a delete; NULL when the map has no trace of it. */
pgs__mem_key *pgs__mem_find(const pgs__mem_map *map, pgs_slice bytes);

/* The first key at or above `bytes`, or NULL. */
pgs__mem_key *pgs__mem_lower_bound(const pgs__mem_map *map, pgs_slice bytes);

/* Adds a key that is not there, without versions: the caller appends one or
 * removes it again. NULL when out of memory. */
pgs__mem_key *pgs__mem_insert(pgs__mem_map *map, pgs_slice bytes);

/* Takes out and frees a key that has no versions left. */
void pgs__mem_remove(pgs__mem_map *map, pgs__mem_key *key);

/* Makes room for one more version. PGS_OK or PGS_ENOMEM. */
int pgs__mem_reserve_version(pgs__mem_key *key);

/* Adds the newest version; room was made for it. */
void pgs__mem_push(pgs__mem_key *key, pgs__mem_version *version);

/* Frees the newest version. */
void pgs__mem_pop(pgs__mem_key *key);

/* Frees the oldest version. */
void pgs__mem_drop_oldest(pgs__mem_key *key);

/* What a read at `revision` (0 = now) sees: a put, or NULL when the key is absent then. */
const pgs__mem_version *pgs__mem_visible(const pgs__mem_key *key, uint64_t revision);

/* A walk over [key, range_end), with the meaning it has in pgs_kv_op:
 *
 *     for (key = pgs__mem_first(&range, map, from, end); key; key = pgs__mem_next(&range, key))
 */
typedef struct pgs__mem_range {
	pgs_slice end;
	bool single;
	bool to_end;
} pgs__mem_range;

pgs__mem_key *pgs__mem_first(pgs__mem_range *range, const pgs__mem_map *map, pgs_slice key, pgs_slice range_end);
pgs__mem_key *pgs__mem_next(const pgs__mem_range *range, const pgs__mem_key *key);

#endif
