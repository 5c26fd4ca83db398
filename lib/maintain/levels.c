/* The sorted files of a database, for people: which there are, and how much of them is still needed. */
#include "maintain/live.h"
#include "maintain/table.h"
#include "util/error.h"

typedef struct counting {
	pgs__live *live;
	pgs_file_info *info;
} counting;

static int count_row(void *ctx, const pgs__sorted_entry *entry)
{
	counting *c = ctx;
	bool is_live = false;
	int result = entry->length ? pgs__live_has(c->live, &entry->id, &is_live) : PGS_OK;
	c->info->live_count += is_live;
	c->info->live_bytes += is_live ? entry->length : 0;
	return result;
}

static int list_file(pgs__worker *w, const pgs__file *file, pgs__live *live, pgs_file_lister lister, void *ctx)
{
	pgs_file_info info = {
		.level = file->key.level,
		.name = file->blob_name,
		.registered = file->registered,
		.size_bytes = file->index.file_size,
		.content_count = file->index.count,
		.first_group = pgs__page_id_group(&file->key.first),
		.last_group = pgs__page_id_group(&file->key.last),
	};
	counting c = {live, &info};
	int result = live ? pgs__table_visit(w, file, count_row, &c) : PGS_OK;
	if (result == PGS_ENOTFOUND) /* merged away since the list was read; damage is for pgs_verify() to find */
		return PGS_OK;
	return result == PGS_OK ? lister(ctx, &info) : result;
}

int pgs_levels(pgs_db *db, bool live, pgs_file_lister lister, void *ctx, pgs_error *err)
{
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs__worker w = {.db = db, .report = &report, .err = err, .bytes_left = UINT64_MAX};
	pgs__contents *contents = &db->contents;
	pgs__live *set = NULL;
	int result = pgs__worker_read_floor(&w);
	if (result == PGS_OK)
		result = pgs__levels_refresh(&contents->levels, contents->backend, contents->prefix,
					     pgs__worker_deadline(&w), err);
	if (result == PGS_OK && live)
		result = pgs__live_open(&set, &w);
	pgs__file_map *map = pgs__levels_map(&contents->levels);
	for (size_t i = 0; result == PGS_OK && i < map->count; i++)
		result = list_file(&w, map->files[i], set, lister, ctx);
	pgs__file_map_release(map);
	pgs__live_close(set);
	return result;
}
