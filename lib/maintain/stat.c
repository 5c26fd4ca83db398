/* Facts about a database, counted when asked. */
#include <string.h>

#include "content/contents.h"
#include "txn/snapshot.h"
#include "util/alloc.h"
#include "util/error.h"

static const char kinds[] = {'p', 'c', 'o', 'x', 'd', 's', 'r'};
enum { POINTERS, CONTENTS, PACKS, CHANGES, UNREGISTERED, SNAPSHOTS, PINS };
#define KIND_COUNT (sizeof kinds)

static int count_keys(pgs_db *db, uint64_t counts[KIND_COUNT], uint64_t deadline_ms, pgs_error *err)
{
	const pgs__key_space space = pgs__db_space(db);
	pgs__walk *walks = pgs__calloc(KIND_COUNT, sizeof *walks);
	if (!walks)
		return pgs__error_nomem(err, "counting keys");
	for (size_t i = 0; i < KIND_COUNT; i++)
		pgs__walk_kind(&walks[i], pgs__db_prefix(db), kinds[i], &space, PGS__WALK_FEW);
	int result = pgs__walk_count(walks, KIND_COUNT, UINT64_MAX, counts, pgs__db_backend(db), deadline_ms, err);
	pgs__free(walks);
	return result;
}

/* A snapshot that was opened by `t` alone does not know it. */
static int read_floor(pgs_db *db, pgs_db_stat *stat, uint64_t deadline_ms, pgs_error *err)
{
	pgs__key g = pgs__key_single(pgs__db_prefix(db), 'g');
	const pgs_kv_op op = pgs__op_get(pgs__key_slice(&g), 0);
	pgs__floor floor = {0};
	pgs_kv_txn txn;
	int result = pgs__kv_read(pgs__db_backend(db), &txn, &op, 1, deadline_ms, err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (result == PGS_OK && !pair)
		result = pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", db->name);
	else if (pair && pgs__floor_decode(pair->value, &floor) != PGS_OK)
		result = pgs__error(err, PGS_ECORRUPT, "database %s: the value of key g, floor, is damaged", db->name);
	stat->floor_revision = floor.floor;
	pgs__kv_release(pgs__db_backend(db), &txn, 1);
	return result;
}

static int add_blob(void *ctx, const char *name, uint64_t size)
{
	pgs_db_stat *stat = ctx;
	(void)name;
	stat->blob_count++;
	stat->blob_bytes += size;
	return 0;
}

static int count_files(pgs_db *db, pgs_db_stat *stat, uint64_t deadline_ms, pgs_error *err)
{
	const pgs__backend *backend = pgs__db_backend(db);
	char folder[PGS__BLOB_NAME_SIZE];
	int result = pgs__levels_refresh(&db->contents.levels, backend, pgs__db_prefix(db), deadline_ms, err);
	if (result != PGS_OK)
		return result;
	pgs__file_map *map = pgs__levels_map(&db->contents.levels);
	stat->file_count = map->count;
	for (size_t i = 0; i < map->count; i++) {
		stat->file_bytes += map->files[i]->index.file_size;
		stat->level0_count += map->files[i]->key.level == 0;
	}
	pgs__file_map_release(map);
	pgs__blob_name(folder, pgs__db_prefix(db), "");
	return backend->blob->vtable->list(backend->blob, folder, add_blob, stat, deadline_ms, err);
}

static void add_cache(pgs_db *db, pgs_db_stat *stat)
{
	pgs__cache_stat cache;
	pgs__cache_stat_get(db->contents.cache, &cache);
	stat->cache_used_bytes = cache.used_bytes;
	stat->cache_limit_bytes = cache.limit_bytes;
	stat->cache_overhead_bytes = cache.overhead_bytes;
	stat->cache_hits = cache.hits;
	stat->cache_misses = cache.misses;
}

static void add_disk_cache(pgs_db *db, pgs_db_stat *stat)
{
	pgs__disk_stat disk;
	if (!db->contents.disk || pgs__disk_stat_get(db->store->disk, &disk, NULL) != PGS_OK)
		return;
	stat->disk_cache_hits = disk.hits;
	stat->disk_cache_misses = disk.misses;
	stat->disk_cache_hit_bytes = disk.hit_bytes;
	stat->disk_cache_puts = disk.puts;
	stat->disk_cache_evictions = disk.evictions;
	stat->disk_cache_bad = disk.bad;
	stat->disk_cache_page_count = disk.content_count;
	stat->disk_cache_used_bytes = disk.used_bytes;
	stat->disk_cache_limit_bytes = disk.size_bytes;
}

static void add_upkeep(pgs_db *db, pgs_db_stat *stat, const pgs_kv_stat *kv)
{
	pgs__gauges gauges = {.at = {
		[PGS__GAUGE_CONTENTS] = stat->kv_content_count,
		[PGS__GAUGE_LEVEL0] = stat->level0_count,
		[PGS__GAUGE_PACKS] = stat->pack_count,
		[PGS__GAUGE_QUOTA] = pgs__quota_percent(db->store, kv),
	}};
	uint64_t soft = pgs__room_soft_quota(db->store, kv);
	stat->store_kv_bytes = kv->size_bytes;
	stat->store_kv_used_bytes = kv->used_bytes ? kv->used_bytes : kv->size_bytes;
	stat->store_kv_quota_bytes = kv->quota_bytes;
	stat->store_kv_soft_quota_bytes = soft == UINT64_MAX ? 0 : soft;
	stat->pressure_percent = pgs__gauges_percent(db, &gauges);
	pthread_mutex_lock(&db->upkeep.lock);
	stat->maintenance_error = db->upkeep.last_error;
	pthread_mutex_unlock(&db->upkeep.lock);
}

static void add_counts(pgs_db_stat *stat, const uint64_t counts[KIND_COUNT])
{
	stat->pointer_count = counts[POINTERS];
	stat->kv_content_count = counts[CONTENTS];
	stat->pack_count = counts[PACKS];
	stat->changelog_count = counts[CHANGES];
	stat->unregistered_count = counts[UNREGISTERED];
	stat->snapshot_count = counts[SNAPSHOTS];
	stat->pin_count = counts[PINS];
}

int pgs_stat(pgs_db *db, pgs_db_stat *stat, pgs_error *err)
{
	uint64_t deadline = pgs__db_deadline(db, 0), counts[KIND_COUNT] = {0};
	pgs__snapshot snapshot;
	pgs_kv_stat kv = {0};
	pgs_kv *backend = pgs__db_backend(db)->kv;
	if (stat->struct_size != sizeof *stat)
		return pgs__error(err, PGS_EINVAL, "pgs_db_stat: struct_size is not set; use PGS_DB_STAT_INIT");
	*stat = (pgs_db_stat)PGS_DB_STAT_INIT;
	int result = pgs__snapshot_open(&snapshot, db, 0, deadline, err);
	if (result == PGS_OK)
		result = read_floor(db, stat, deadline, err);
	if (result == PGS_OK)
		result = count_keys(db, counts, deadline, err);
	if (result == PGS_OK)
		result = count_files(db, stat, deadline, err);
	if (result == PGS_OK)
		result = backend->vtable->stat(backend, &kv, deadline, err);
	stat->page_size_bytes = db->contents.page_size;
	stat->order = db->order;
	stat->created_ms = db->created_ms;
	stat->revision = snapshot.commit_revision;
	stat->commit_count = snapshot.commit_count ? snapshot.commit_count - 1 : 0; /* the first put made it */
	stat->page_count = snapshot.extent;
	add_counts(stat, counts);
	add_upkeep(db, stat, &kv);
	add_cache(db, stat);
	add_disk_cache(db, stat);
	pgs__snapshot_close(&snapshot);
	return result;
}
