/* Facts about the machine's cache file, and the database's part of it. */
#include "local_cache/mirror.h"
#include "txn/db.h"
#include "util/clock.h"
#include "util/error.h"

static int add_file(pgs_cache_stat *stat, pgs_db *db, pgs_error *err)
{
	pgs__disk_stat s;
	int result = pgs__disk_stat_get(db->store->disk, &s, err);
	stat->usable = !s.failed && result == PGS_OK;
	stat->hits = s.hits;
	stat->misses = s.misses;
	stat->hit_bytes = s.hit_bytes;
	stat->puts = s.puts;
	stat->put_bytes = s.put_bytes;
	stat->puts_dropped = s.dropped;
	stat->evictions = s.evictions;
	stat->bad = s.bad;
	stat->errors = s.errors;
	stat->all_hits = s.all.hits;
	stat->all_misses = s.all.misses;
	stat->all_hit_bytes = s.all.hit_bytes;
	stat->all_puts = s.all.puts;
	stat->all_put_bytes = s.all.put_bytes;
	stat->all_puts_dropped = s.all.dropped;
	stat->all_evictions = s.all.evictions;
	stat->all_bad = s.all.bad;
	stat->all_errors = s.all.errors;
	stat->limit_bytes = s.size_bytes;
	stat->used_bytes = s.used_bytes;
	stat->disk_bytes = s.file_bytes;
	stat->page_count = s.content_count;
	stat->page_bytes = s.content_bytes;
	return result;
}

static int add_mirror(pgs_cache_stat *stat, pgs_db *db, pgs_error *err)
{
	pgs__mirror_state state;
	pgs__disk_db *disk = db->contents.disk;
	uint64_t confirmed_ms = pgs__mirror_confirmed(disk);
	int result = pgs__mirror_state_get(disk, &state, err);
	stat->mirror_revision = state.sequence;
	stat->mirror_loading = state.loading;
	stat->mirror_horizon = state.horizon;
	stat->mirror_keys = state.keys;
	stat->mirror_bytes = state.bytes;
	stat->mirror_required = pgs__mirror_required(disk);
	stat->mirror_confirmed_ms = confirmed_ms ? pgs__now_ms() - confirmed_ms : UINT64_MAX;
	stat->keeper_pid = pgs__mirror_follower(disk);
	return result;
}

int pgs_cache_stat_get(pgs_db *db, pgs_cache_stat *stat, pgs_error *err)
{
	if (stat->struct_size != sizeof *stat)
		return pgs__error(err, PGS_EINVAL, "pgs_cache_stat: struct_size is not set; use PGS_CACHE_STAT_INIT");
	*stat = (pgs_cache_stat)PGS_CACHE_STAT_INIT;
	stat->mirror_confirmed_ms = UINT64_MAX;
	if (!db->contents.disk)
		return PGS_OK;
	int result = add_file(stat, db, err);
	return result == PGS_OK && stat->usable ? add_mirror(stat, db, err) : result;
}
