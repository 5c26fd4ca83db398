/* The map of registered sorted files.
 *
 * Files are shared by the maps they are in: of a file listed before neither value nor filter is read again. */
#include "content/levels.h"

#include <stdlib.h>
#include <string.h>

#include "content/walk.h"
#include "util/alloc.h"
#include "util/arena.h"
#include "util/error.h"
#include "util/map.h"

#define LIST_PAGE 1000 /* keys listed at a time */
#define VALUE_BATCH 8   /* values in one transaction, each up to VALUE_SIZE bytes */
#define VALUE_SIZE (84u << 10)
#define LISTINGS 10     /* begun anew, when the KV was compacted meanwhile */

/* --- files and maps ------------------------------------------------------- */

void pgs__file_release(pgs__file *file)
{
	if (!file || atomic_fetch_sub(&file->references, 1) > 1)
		return;
	pgs__filters_forget(file->filters, &file->filter);
	pgs__free(file->value);
	pgs__free(file);
}

static int file_new(pgs__file **out, pgs__levels *levels, const uint8_t *prefix, pgs_slice key, pgs_slice value,
		    uint64_t revision)
{
	*out = NULL;
	pgs__file *file = pgs__calloc(1, sizeof *file);
	if (!file)
		return PGS_ENOMEM;
	atomic_init(&file->references, 1);
	file->registered = revision;
	file->filters = &levels->filters;
	file->slices = &levels->slices;
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
		pgs__file_release(file);
		return result;
	}
	pgs__blob_name(file->blob_name, prefix, file->key.file_name);
	file->slices_key = pgs__slices_file(file->blob_name);
	*out = file;
	return PGS_OK;
}

static int search_order(const void *a, const void *b)
{
	const pgs__file *x = *(pgs__file *const *)a, *y = *(pgs__file *const *)b;
	if (x->key.level != y->key.level)
		return x->key.level < y->key.level ? -1 : 1;
	int order = x->key.level ? memcmp(x->key.first.bytes, y->key.first.bytes, PGS__ID_SIZE) : 0;
	if (order == 0 && x->registered != y->registered)
		return x->registered > y->registered ? -1 : 1;
	return order ? order : strcmp(x->key.file_name, y->key.file_name);
}

static void find_furthest(pgs__file_map *map)
{
	for (size_t i = 0; i < map->count; i++) {
		const pgs__level_key *key = &map->files[i]->key;
		map->furthest[i] = (uint32_t)i;
		if (i > 0 && map->files[i - 1]->key.level == key->level &&
			memcmp(pgs__file_map_furthest(map, i - 1)->bytes, key->last.bytes, PGS__ID_SIZE) > 0)
			map->furthest[i] = map->furthest[i - 1];
	}
}

static void release_files(pgs__file **files, size_t count)
{
	for (size_t i = 0; i < count; i++)
		pgs__file_release(files[i]);
	pgs__free(files);
}

/* A map of these files; the references, and the array, are taken over in any case. NULL when out of memory. */
static pgs__file_map *map_new(pgs__file **files, size_t count)
{
	pgs__file_map *map = pgs__calloc(1, sizeof *map);
	uint32_t *furthest = pgs__malloc(count * sizeof *furthest);
	if (!map || !furthest) {
		pgs__free(map);
		pgs__free(furthest);
		release_files(files, count);
		return NULL;
	}
	atomic_init(&map->references, 1);
	map->files = files;
	map->furthest = furthest;
	map->count = count;
	if (count > 1)
		qsort(files, count, sizeof *files, search_order);
	find_furthest(map);
	return map;
}

void pgs__file_map_release(pgs__file_map *map)
{
	if (!map || atomic_fetch_sub(&map->references, 1) > 1)
		return;
	release_files(map->files, map->count);
	pgs__free(map->furthest);
	pgs__free(map);
}

size_t pgs__file_map_level_end(const pgs__file_map *map, size_t first)
{
	size_t low = first + 1, high = map->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (map->files[middle]->key.level == map->files[first]->key.level)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

size_t pgs__file_map_up_to(const pgs__file_map *map, size_t first, size_t end, const pgs__page_id *id)
{
	while (first < end) {
		size_t middle = first + (end - first) / 2;
		if (memcmp(map->files[middle]->key.first.bytes, id->bytes, PGS__ID_SIZE) <= 0)
			first = middle + 1;
		else
			end = middle;
	}
	return first;
}

/* --- the current map -------------------------------------------------------- */

int pgs__levels_init(pgs__levels *levels)
{
	pthread_mutex_init(&levels->lock, NULL);
	pthread_mutex_init(&levels->opening.lock, NULL);
	pgs__filters_init(&levels->filters);
	pgs__slices_init(&levels->slices);
	levels->map = map_new(NULL, 0);
	return levels->map ? PGS_OK : PGS_ENOMEM;
}

void pgs__levels_free(pgs__levels *levels)
{
	pgs__levels_wait(levels);
	pthread_mutex_destroy(&levels->opening.lock);
	pgs__file_map_release(levels->map);
	pgs__filters_free(&levels->filters);
	pgs__slices_free(&levels->slices);
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

static bool same_files(const pgs__file_map *a, const pgs__file_map *b)
{
	return a->count == b->count &&
	       (a->count == 0 || memcmp(a->files, b->files, a->count * sizeof *a->files) == 0);
}

/* Make it the current map, unless the current one has the same files, or was listed later. */
static void replace_map(pgs__levels *levels, pgs__file_map *map)
{
	pthread_mutex_lock(&levels->lock);
	pgs__file_map *current = levels->map, *old = map;
	if (map->listed >= current->listed && !same_files(map, current)) {
		map->generation = current->generation + 1;
		levels->map = map;
		old = current;
	}
	pthread_mutex_unlock(&levels->lock);
	pgs__file_map_release(old);
}

/* --- refreshing ------------------------------------------------------------- */

/* The files as of one revision. */
typedef struct listing {
	const pgs__backend *backend;
	const uint8_t *prefix;
	pgs__levels *levels;
	uint64_t deadline_ms;
	uint64_t revision;          /* 0 = that of the first reply */
	const pgs__file_map *known;
	pgs__map by_name;           /* index into known's files by level and name */
	pgs__file **files;
	size_t count, capacity;
	int damage;                 /* of the first file that had to be left out, */
	pgs_error why;              /* and what it is */
} listing;

static uint64_t name_hash(const pgs__level_key *key)
{
	return (pgs__check64(key->file_name, strlen(key->file_name)) + key->level) >> 1;
}

static int index_known(listing *l)
{
	for (size_t i = 0; i < l->known->count; i++)
		if (pgs__map_set(&l->by_name, name_hash(&l->known->files[i]->key), i, NULL) != PGS_OK)
			return PGS_ENOMEM;
	return PGS_OK;
}

/* The file that was registered as `key` at `revision`, by which births may be told, referenced, or NULL. */
static pgs__file *find_known(const listing *l, const pgs__level_key *key, uint64_t revision)
{
	const uint64_t *at = pgs__map_get(&l->by_name, name_hash(key));
	pgs__file *file = at ? l->known->files[*at] : NULL;
	if (!file || file->key.level != key->level || file->registered != revision ||
	    strcmp(file->key.file_name, key->file_name) != 0)
		return NULL;
	atomic_fetch_add(&file->references, 1);
	return file;
}

static int append_file(listing *l, pgs__file *file)
{
	int result = pgs__grow(&l->files, &l->capacity, l->count + 1, sizeof *l->files);
	if (result == PGS_OK)
		l->files[l->count++] = file;
	else
		pgs__file_release(file);
	return result;
}

/* What is damaged is left out, and the first such thing remembered. */
static int leave_out(listing *l, int code, pgs_slice key)
{
	char name[2 * PGS__KEY_MAX];
	if (l->damage != PGS_OK)
		return PGS_OK;
	l->damage = code;
	pgs__error(&l->why, code, "index of sorted file at key %s is damaged or of a newer version",
		   pgs__printable(name, sizeof name, key.data, key.size));
	return PGS_OK;
}

static int add_pair(listing *l, const pgs_kv_pair *pair)
{
	pgs__file *file;
	int result = file_new(&file, l->levels, l->prefix, pair->key, pair->value, pair->mod_revision);
	if (result == PGS_ECORRUPT || result == PGS_EVERSION)
		return leave_out(l, result, pair->key);
	return result == PGS_OK ? append_file(l, file) : result;
}

/* Fetch values as of the listing's revision, and add their files. */
static int fetch_files(listing *l, const pgs_slice *keys, size_t count, pgs_error *err)
{
	pgs_kv_op ops[VALUE_BATCH];
	pgs_kv_txn txn;
	ops[0].kind = PGS_KV_RANGE; /* count is at least 1, which compilers do not know */
	for (size_t i = 0; i < count; i++)
		ops[i] = pgs__op_get(keys[i], l->revision);
	int result = pgs__kv_read(l->backend, &txn, ops, count, l->deadline_ms, err);
	for (size_t i = 0; i < count && result == PGS_OK; i++) {
		const pgs_kv_pair *pair = pgs__got(&txn, i);
		result = pair ? add_pair(l, pair) : PGS_OK;
		if (result == PGS_ENOMEM)
			pgs__error_nomem(err, "map of sorted files");
	}
	pgs__kv_release(l->backend, &txn, 1);
	return result;
}

/* How many values a reply can carry. */
static size_t value_batch(const pgs__backend *backend)
{
	size_t by_bytes = pgs__max_bytes(backend) / VALUE_SIZE, room = pgs__max_ops(backend);
	room = room < VALUE_BATCH ? room : VALUE_BATCH;
	room = by_bytes < room ? by_bytes : room;
	return room ? room : 1;
}

static int add_keys(listing *l, const pgs_kv_result *keys, pgs_error *err)
{
	pgs_slice unknown[VALUE_BATCH];
	size_t waiting = 0, batch = value_batch(l->backend);
	int result = PGS_OK;
	for (size_t i = 0; i < keys->count && result == PGS_OK; i++) {
		pgs__level_key key;
		pgs__file *file;
		if (!pgs__key_parse_level(keys->pairs[i].key, &key))
			result = leave_out(l, PGS_ECORRUPT, keys->pairs[i].key);
		else if (!(file = find_known(l, &key, keys->pairs[i].mod_revision)))
			unknown[waiting++] = keys->pairs[i].key;
		else if (append_file(l, file) != PGS_OK)
			result = pgs__error_nomem(err, "map of sorted files");
		if (result == PGS_OK && waiting == batch) {
			result = fetch_files(l, unknown, waiting, err);
			waiting = 0;
		}
	}
	return result == PGS_OK && waiting ? fetch_files(l, unknown, waiting, err) : result;
}

static int list_files(listing *l, pgs_error *err)
{
	const pgs__key_space space = {0};
	pgs__walk walk;
	int result = PGS_OK;
	pgs__walk_kind(&walk, l->prefix, 'l', &space, LIST_PAGE);
	walk.keys_only = true;
	walk.each = LIST_PAGE;
	while (result == PGS_OK && pgs__walk_more(&walk)) {
		pgs__walk_page page;
		result = pgs__walk_next(&walk, l->backend, &page, l->deadline_ms, err);
		if (result == PGS_OK && l->revision == 0)
			l->revision = walk.revision = page.txn.revision;
		for (size_t i = 0; result == PGS_OK && i < page.used; i++)
			result = add_keys(l, &page.txn.results[i], err);
		pgs__kv_release(l->backend, &page.txn, 1);
	}
	return result;
}

/* List again when the KV was compacted past the listing's revision. */
static int list_anew(listing *l, pgs_error *err)
{
	int result = PGS_EOLDREV;
	for (int i = 0; result == PGS_EOLDREV && i < LISTINGS; i++) {
		release_files(l->files, l->count);
		l->files = NULL;
		l->count = l->capacity = 0;
		l->revision = 0;
		l->damage = PGS_OK;
		result = list_files(l, err);
	}
	return result == PGS_EOLDREV ? pgs__error(err, PGS_EIO, "the KV is compacted while it is listed") : result;
}

int pgs__levels_refresh(pgs__levels *levels, const pgs__backend *backend, const uint8_t *prefix, uint64_t deadline_ms,
			pgs_error *err)
{
	pgs__file_map *known = pgs__levels_map(levels), *map;
	pgs_error local = PGS_ERROR_INIT;
	listing l = {.backend = backend, .prefix = prefix, .levels = levels, .deadline_ms = deadline_ms,
		     .known = known, .why = PGS_ERROR_INIT};
	int result = index_known(&l) == PGS_OK ? PGS_OK : pgs__error_nomem(&local, "map of sorted files");
	if (result == PGS_OK)
		result = list_anew(&l, &local);
	if (result != PGS_OK) {
		release_files(l.files, l.count);
	} else if (!(map = map_new(l.files, l.count))) {
		result = pgs__error_nomem(&local, "map of sorted files");
	} else {
		map->listed = l.revision;
		replace_map(levels, map);
	}
	pgs__map_free(&l.by_name);
	pgs__file_map_release(known);
	if (result == PGS_OK && l.damage != PGS_OK) {
		result = l.damage;
		local = l.why;
	}
	if (result != PGS_OK && err)
		*err = local;
	return result;
}

static void *open_beside(void *ctx)
{
	pgs__levels_opening *o = ctx;
	pgs__levels_refresh(o->levels, o->backend, o->prefix, o->deadline_ms, NULL);
	return NULL;
}

void pgs__levels_open(pgs__levels *levels, const pgs__backend *backend, const uint8_t *prefix, uint64_t deadline_ms)
{
	pgs__levels_opening *o = &levels->opening;
	o->levels = levels;
	o->backend = backend;
	o->prefix = prefix;
	o->deadline_ms = deadline_ms;
	atomic_store_explicit(&o->running, pgs__task_start(&o->task, open_beside, o), memory_order_release);
}

void pgs__levels_wait_slow(pgs__levels *levels)
{
	pgs__levels_opening *o = &levels->opening;
	pthread_mutex_lock(&o->lock);
	pgs__task_join(&o->task); /* nothing when another thread was first */
	atomic_store_explicit(&o->running, false, memory_order_release);
	pthread_mutex_unlock(&o->lock);
}

static bool is_file(const pgs__file *file, const pgs__level_key *key)
{
	return file->key.level == key->level && strcmp(file->key.file_name, key->file_name) == 0;
}

static bool is_in(const pgs__file_map *map, const pgs__level_key *key)
{
	for (size_t i = 0; i < map->count; i++)
		if (is_file(map->files[i], key))
			return true;
	return false;
}

void pgs__levels_add(pgs__levels *levels, const uint8_t *prefix, const pgs__registration *files, size_t count,
		     uint64_t revision)
{
	pgs__file_map *known = pgs__levels_map(levels);
	pgs__file **all = pgs__malloc((known->count + count) * sizeof *all);
	size_t used = 0;
	for (size_t i = 0; all && i < count; i++) {
		if (file_new(&all[used], levels, prefix, files[i].key, files[i].value, revision) != PGS_OK)
			continue;
		if (is_in(known, &all[used]->key)) /* a refresh was first */
			pgs__file_release(all[used]);
		else
			used++;
	}
	for (size_t i = 0; all && i < known->count; i++) {
		atomic_fetch_add(&known->files[i]->references, 1);
		all[used++] = known->files[i];
	}
	pgs__file_map *map = all ? map_new(all, used) : NULL;
	if (map) {
		map->listed = known->listed;
		replace_map(levels, map);
	}
	pgs__file_map_release(known);
}

/* The files of a map that a watch has not seen going. */
static size_t keep_files(const pgs__file_map *known, const pgs__level_change *changes, size_t count, pgs__file **out)
{
	size_t used = 0;
	for (size_t i = 0; i < known->count; i++) {
		bool gone = false;
		for (size_t j = 0; !gone && j < count; j++) {
			pgs__level_key key;
			gone = changes[j].deleted && pgs__key_parse_level(changes[j].key, &key) &&
			       is_file(known->files[i], &key);
		}
		if (!gone)
			out[used++] = pgs__file_retain(known->files[i]);
	}
	return used;
}

void pgs__levels_follow(pgs__levels *levels, const uint8_t *prefix, const pgs__level_change *changes, size_t count,
			uint64_t revision, pgs__file_visitor added, void *ctx)
{
	pgs__file_map *known = pgs__levels_map(levels);
	pgs__file **all = pgs__malloc((known->count + count) * sizeof *all);
	size_t used = all ? keep_files(known, changes, count, all) : 0;
	for (size_t i = 0; all && i < count; i++) {
		if (changes[i].deleted ||
		    file_new(&all[used], levels, prefix, changes[i].key, changes[i].value, revision) != PGS_OK)
			continue; /* who needs a file that is damaged meets it when the list is read */
		if (is_in(known, &all[used]->key)) {
			pgs__file_release(all[used]);
			continue;
		}
		added(ctx, all[used]);
		used++;
	}
	pgs__file_map *map = all ? map_new(all, used) : NULL;
	if (map) {
		map->listed = known->listed;
		replace_map(levels, map);
	}
	pgs__file_map_release(known);
}
