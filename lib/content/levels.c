/* The map of registered sorted files. */
#include "content/levels.h"

#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"
#include "util/arena.h"
#include "util/error.h"

/* --- files and maps ------------------------------------------------------- */

static void file_release(pgs__file *file)
{
	if (!file || atomic_fetch_sub(&file->references, 1) > 1)
		return;
	pgs__free(file->value);
	pgs__free(file);
}

static int file_new(pgs__file **out, const uint8_t *prefix, pgs_slice key, pgs_slice value, uint64_t revision)
{
	*out = NULL;
	pgs__file *file = pgs__calloc(1, sizeof *file);
	if (!file)
		return PGS_ENOMEM;
	atomic_init(&file->references, 1);
	file->registered = revision;
	file->value = pgs__malloc(value.size + 1); /* an emptied value is damage, not lack of memory */
	int result = file->value ? PGS_OK : PGS_ENOMEM;
	if (result == PGS_OK) {
		if (value.size)
			memcpy(file->value, value.data, value.size);
		result = pgs__key_parse_level(key, &file->key) ? PGS_OK : PGS_ECORRUPT;
	}
	if (result == PGS_OK)
		result = pgs__level_value_decode((pgs_slice){file->value, value.size}, &file->index);
	if (result != PGS_OK) {
		file_release(file);
		return result;
	}
	pgs__blob_name(file->blob_name, prefix, file->key.file_name);
	*out = file;
	return PGS_OK;
}

static pgs__file_map *map_new(size_t capacity)
{
	pgs__file_map *map = pgs__malloc(sizeof *map + capacity * sizeof map->files[0]);
	if (!map)
		return NULL;
	atomic_init(&map->references, 1);
	map->count = 0;
	return map;
}

void pgs__file_map_release(pgs__file_map *map)
{
	if (!map || atomic_fetch_sub(&map->references, 1) > 1)
		return;
	for (size_t i = 0; i < map->count; i++)
		file_release(map->files[i]);
	pgs__free(map);
}

/* The map takes over the caller's reference to `file`. */
static void map_append(pgs__file_map *map, pgs__file *file)
{
	map->files[map->count++] = file;
}

static int search_order(const void *a, const void *b)
{
	const pgs__file *x = *(pgs__file *const *)a, *y = *(pgs__file *const *)b;
	if (x->key.level != y->key.level)
		return x->key.level < y->key.level ? -1 : 1;
	if (x->registered != y->registered)
		return x->registered > y->registered ? -1 : 1;
	return strcmp(x->key.file_name, y->key.file_name);
}

static void map_sort(pgs__file_map *map)
{
	if (map->count > 1)
		qsort(map->files, map->count, sizeof map->files[0], search_order);
}

/* The file that was registered as `key`, referenced, or NULL. */
static pgs__file *map_find(const pgs__file_map *map, const pgs__level_key *key)
{
	for (size_t i = 0; i < map->count; i++) {
		pgs__file *file = map->files[i];
		if (file->key.level == key->level && strcmp(file->key.file_name, key->file_name) == 0) {
			atomic_fetch_add(&file->references, 1);
			return file;
		}
	}
	return NULL;
}

/* --- the current map -------------------------------------------------------- */

int pgs__levels_init(pgs__levels *levels)
{
	pthread_mutex_init(&levels->lock, NULL);
	levels->map = map_new(0);
	return levels->map ? PGS_OK : PGS_ENOMEM;
}

void pgs__levels_free(pgs__levels *levels)
{
	pgs__file_map_release(levels->map);
	pthread_mutex_destroy(&levels->lock);
}

pgs__file_map *pgs__levels_map(pgs__levels *levels)
{
	pthread_mutex_lock(&levels->lock);
	pgs__file_map *map = levels->map;
	atomic_fetch_add(&map->references, 1);
	pthread_mutex_unlock(&levels->lock);
	return map;
}

static void replace_map(pgs__levels *levels, pgs__file_map *map)
{
	pthread_mutex_lock(&levels->lock);
	pgs__file_map *old = levels->map;
	levels->map = map;
	pthread_mutex_unlock(&levels->lock);
	pgs__file_map_release(old);
}

/* --- refreshing ------------------------------------------------------------- */

/* Fetch one l/ value and make its file; *out stays NULL when the key has gone meanwhile. */
static int fetch_file(pgs__file **out, const pgs__backend *backend, const uint8_t *prefix, pgs_slice key,
		      uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv_op op = pgs__op_get(key, 0);
	pgs_kv_txn txn;
	*out = NULL;
	int result = pgs__kv_read(backend, &txn, &op, 1, deadline_ms, err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (pair) {
		result = file_new(out, prefix, key, pair->value, pair->mod_revision);
		char name[2 * PGS__KEY_MAX];
		if (result != PGS_OK)
			pgs__error(err, result, "index of sorted file at key %s is damaged or of a newer version",
				   pgs__printable(name, sizeof name, key.data, key.size));
	}
	pgs__kv_release(backend, &txn, 1);
	return result;
}

/* What is damaged is left out; the first such error is the result, when all else went well. */
static int build_map(pgs__file_map *map, const pgs__file_map *known, const pgs_kv_result *keys,
		     const pgs__backend *backend, const uint8_t *prefix, uint64_t deadline_ms, pgs_error *err)
{
	int damage = PGS_OK;
	for (size_t i = 0; i < keys->count; i++) {
		pgs__level_key key;
		pgs__file *file = NULL;
		pgs_error local = PGS_ERROR_INIT;
		int result = PGS_OK;
		if (!pgs__key_parse_level(keys->pairs[i].key, &key))
			result = pgs__error(&local, PGS_ECORRUPT, "a sorted file's key is malformed");
		else if (!(file = map_find(known, &key)))
			result = fetch_file(&file, backend, prefix, keys->pairs[i].key, deadline_ms, &local);
		if (file)
			map_append(map, file);
		if (result != PGS_OK && err && damage == PGS_OK)
			*err = local;
		if (result == PGS_ECORRUPT || result == PGS_EVERSION)
			damage = damage == PGS_OK ? result : damage;
		else if (result != PGS_OK)
			return pgs__error(err, result, "%s", local.message);
	}
	return damage;
}

int pgs__levels_refresh(pgs__levels *levels, const pgs__backend *backend, const uint8_t *prefix, uint64_t deadline_ms,
			pgs_error *err)
{
	pgs__key first = pgs__key_kind(prefix, 'l'), end = pgs__key_kind_end(prefix, 'l');
	pgs_kv_op op = pgs__op_range(pgs__key_slice(&first), pgs__key_slice(&end), 0);
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend, &txn, &op, 1, deadline_ms, err);
	pgs__file_map *map = NULL;
	if (result == PGS_OK) {
		map = map_new(txn.results[0].count);
		if (!map)
			result = pgs__error_nomem(err, "map of sorted files");
	}
	if (result == PGS_OK) {
		pgs__file_map *known = pgs__levels_map(levels);
		result = build_map(map, known, &txn.results[0], backend, prefix, deadline_ms, err);
		pgs__file_map_release(known);
	}
	if (map && (result == PGS_OK || result == PGS_ECORRUPT || result == PGS_EVERSION)) {
		map_sort(map);
		replace_map(levels, map);
	} else {
		pgs__file_map_release(map);
	}
	pgs__kv_release(backend, &txn, 1);
	return result;
}

void pgs__levels_add(pgs__levels *levels, const uint8_t *prefix, const pgs__registration *files, size_t count,
		     uint64_t revision)
{
	pgs__file_map *known = pgs__levels_map(levels);
	pgs__file_map *map = map_new(known->count + count);
	for (size_t i = 0; map && i < count; i++) {
		pgs__file *file;
		if (file_new(&file, prefix, files[i].key, files[i].value, revision) == PGS_OK)
			map_append(map, file);
	}
	for (size_t i = 0; map && i < known->count; i++) {
		atomic_fetch_add(&known->files[i]->references, 1);
		map_append(map, known->files[i]);
	}
	if (map) {
		map_sort(map);
		replace_map(levels, map);
	}
	pgs__file_map_release(known);
}
