/* What it costs to find a content in very many sorted files.
 *
 * The files are simulated: ids follow from their place, so a blob store that holds nothing makes headers, slices of
 * tables and filters as they are asked for, and the list of files is as it would be read from the KV. Contents are not
 * made: the search ends where the content would be read. Levels are filled as merging fills them with a fan-out of 10;
 * each has its own ids, spread over the whole range. Lookups are of single random ids, which is the worst there is:
 * neighbours share slices.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "content/fetch.h"

#define FILE_ENTRIES PGS__SORTED_COUNT_MAX
#define FIRST_ENTRIES 10000 /* of a file of level 0 */
#define FIRST_FILES 4
#define CONTENT_SIZE 900
#define PAGE_SIZE 4096
#define PARTS_MAX 16
#define FANOUT 10

/* Contents that are spread over the whole range of ids: a file of level 0, or all files of another level. */
typedef struct part {
	uint8_t level;
	uint64_t entries;
	uint32_t per_file;
	uint64_t step; /* from the first eight bytes of one id to the next one's, about */
} part;

typedef struct lookup_world {
	pgs_blob blob;
	pgs__backend backend;
	pgs__contents contents;
	uint64_t pages, span; /* ids are below span × 2^64 */
	part parts[PARTS_MAX]; /* the one past the last is of ids that are nowhere */
	size_t part_count;
	uint8_t *table; /* scratch: of one file */
	uint64_t slice_reads, slice_bytes, filter_reads, filter_bytes;
	size_t files;
	uint64_t map_bytes;
} lookup_world;

/* --- made as they are asked for ------------------------------------------------------- */

/* The id of entry `at` of a part. */
static pgs__page_id id_of(const lookup_world *w, size_t which, uint64_t at)
{
	bench_random random = {(which << 48 | at) * 0x2545f4914f6cdd1du + 1};
	uint64_t step = w->parts[which].step, fraction = bench_random_next(&random) >> 44;
	pgs__page_id id;
	pgs__store_u64be(id.bytes, at * step + (step * fraction >> 20));
	pgs__store_u64be(id.bytes + 8, bench_random_next(&random));
	return id;
}

static uint64_t count_of(const part *p, uint64_t file)
{
	uint64_t left = p->entries - file * p->per_file;
	return left < p->per_file ? left : p->per_file;
}

static void make_rows(const lookup_world *w, size_t which, uint64_t file, uint64_t first, uint64_t count, uint8_t *out)
{
	const part *p = &w->parts[which];
	uint64_t entries = count_of(p, file);
	uint64_t contents = pgs__sorted_contents_offset(entries, pgs__filter_size_for(entries));
	for (uint64_t i = first; i < first + count; i++) {
		const pgs__sorted_entry entry = {
			.id = id_of(w, which, file * p->per_file + i),
			.offset = contents + i * CONTENT_SIZE,
			.length = CONTENT_SIZE,
		};
		pgs__sorted_entry_encode(&entry, out + (i - first) * PGS__SORTED_ENTRY_SIZE);
	}
}

static void make_range(lookup_world *w, pgs_blob_range *range)
{
	size_t which;
	unsigned long long file;
	bench_check(sscanf(strchr(range->name, '/'), "/s-%zu-%llu", &which, &file) == 2, "a blob's name");
	uint64_t entries = count_of(&w->parts[which], file);
	const uint64_t row = (range->offset - PGS__SORTED_HEADER_SIZE) / PGS__SORTED_ENTRY_SIZE;
	if (row < entries) {
		make_rows(w, which, file, row, range->size / PGS__SORTED_ENTRY_SIZE, range->buffer);
		w->slice_reads++;
		w->slice_bytes += range->size;
	} else {
		make_rows(w, which, file, 0, entries, w->table);
		pgs__sorted_filter_make((pgs_slice){w->table, entries * PGS__SORTED_ENTRY_SIZE},
					range->size - PGS__FILTER_CHECK_SIZE, range->buffer);
		w->filter_reads++;
		w->filter_bytes += range->size;
	}
	range->status = PGS_OK;
}

static int make_ranges(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	(void)deadline_ms;
	(void)err;
	for (size_t i = 0; i < count; i++)
		make_range((lookup_world *)blob, &ranges[i]);
	return PGS_OK;
}

/* --- the list of files ------------------------------------------------------------------- */

static void plan_levels(lookup_world *w)
{
	uint64_t left = w->pages, room = FANOUT;
	for (int i = 0; i < FIRST_FILES; i++, left -= FIRST_ENTRIES)
		w->parts[w->part_count++] = (part){0, FIRST_ENTRIES, FIRST_ENTRIES, 0};
	for (uint8_t level = 1; left > 0; level++, room *= FANOUT) {
		uint64_t entries = left < room * FILE_ENTRIES ? left : room * FILE_ENTRIES;
		w->parts[w->part_count++] = (part){level, entries, FILE_ENTRIES, 0};
		left -= entries;
	}
	w->parts[w->part_count] = (part){0, w->pages, 0, 0};
	for (size_t i = 0; i <= w->part_count; i++)
		w->parts[i].step = w->span / w->parts[i].entries;
}

static void register_file(lookup_world *w, size_t which, uint64_t file, pgs__registration *out)
{
	const part *p = &w->parts[which];
	uint64_t entries = count_of(p, file), filter = pgs__filter_size_for(entries);
	char name[40];
	pgs__buffer value = {0};
	make_rows(w, which, file, 0, entries, w->table);
	pgs__level_value_encode(pgs__sorted_contents_offset(entries, filter) + entries * CONTENT_SIZE,
				(pgs_slice){w->table, entries * PGS__SORTED_ENTRY_SIZE}, filter, 0, &value);
	bench_check(!value.failed, "out of memory");
	const pgs__page_id first = id_of(w, which, file * p->per_file),
			   last = id_of(w, which, file * p->per_file + entries - 1);
	snprintf(name, sizeof name, "s-%zu-%llu", which, (unsigned long long)file);
	pgs__key *key = bench_alloc(sizeof *key);
	*key = pgs__key_level(w->contents.prefix, p->level, &first, &last, name);
	*out = (pgs__registration){pgs__key_slice(key), pgs__buffer_slice(&value)};
	w->map_bytes += value.size + sizeof(pgs__file) + sizeof(pgs__file *) + sizeof(uint32_t);
}

static void register_all(lookup_world *w)
{
	for (size_t i = 0; i < w->part_count; i++)
		w->files += (w->parts[i].entries + w->parts[i].per_file - 1) / w->parts[i].per_file;
	pgs__registration *files = bench_alloc(w->files * sizeof *files);
	size_t used = 0;
	for (size_t i = 0; i < w->part_count; i++)
		for (uint64_t file = 0; file * w->parts[i].per_file < w->parts[i].entries; file++)
			register_file(w, i, file, &files[used++]);
	pgs__levels_add(&w->contents.levels, w->contents.prefix, files, used, 1);
	pgs__file_map *map = pgs__levels_map(&w->contents.levels);
	bench_check(map->count == w->files, "not all files are in the map");
	pgs__file_map_release(map);
	for (size_t i = 0; i < used; i++) {
		free((void *)((const char *)files[i].key.data - offsetof(pgs__key, bytes)));
		free((void *)files[i].value.data); /* the library's allocator is malloc's */
	}
	free(files);
}

static void world_open(lookup_world *w, uint64_t pages)
{
	static pgs_blob_vtable vtable = {.version = PGS_BLOB_VERSION, .struct_size = sizeof vtable, .get = make_ranges};
	memset(w, 0, sizeof *w);
	w->blob.vtable = &vtable;
	w->backend.blob = &w->blob;
	w->contents = (pgs__contents){.backend = &w->backend, .page_size = PAGE_SIZE, .prefix = {0x80}};
	w->pages = pages;
	w->span = pages / pgs__pages_per_group(PAGE_SIZE) << 32;
	w->table = bench_alloc((size_t)FILE_ENTRIES * PGS__SORTED_ENTRY_SIZE);
	bench_must(pgs__levels_init(&w->contents.levels), NULL, "pgs__levels_init");
	w->contents.levels.slices.max = 0; /* what is counted is what is read when none is in memory */
	plan_levels(w);
	register_all(w);
}

static void world_close(lookup_world *w)
{
	pgs__levels_free(&w->contents.levels);
	free(w->table);
}

/* --- lookups ------------------------------------------------------------------------------------ */

static bool look_up(lookup_world *w, const pgs__file_map *map, const pgs__page_id *id)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs__want want = {.id = *id};
	pgs__job job = {.want = &want};
	pgs__fetch f = {.contents = &w->contents, .jobs = &job, .count = 1, .err = &err};
	bench_must(pgs__locate(&f, map), &err, "pgs__locate");
	bench_check(!job.why, "a table is damaged");
	return job.file != NULL;
}

/* Slices read per lookup of a random content, or of an id that is nowhere. */
static double look_up_many(lookup_world *w, bool existing, uint64_t count, uint64_t seed)
{
	pgs__file_map *map = pgs__levels_map(&w->contents.levels);
	bench_random random = {seed};
	w->slice_reads = w->slice_bytes = w->filter_reads = w->filter_bytes = 0;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t at = bench_random_next(&random) % w->pages;
		size_t which = existing ? 0 : w->part_count;
		for (; existing && at >= w->parts[which].entries; which++)
			at -= w->parts[which].entries;
		const pgs__page_id id = id_of(w, which, at);
		bench_check(look_up(w, map, &id) == existing, "a lookup's result");
	}
	pgs__file_map_release(map);
	return (double)w->slice_reads / (double)count;
}

static void show(const lookup_world *w, const char *what, uint64_t count, size_t budget)
{
	char limit[32] = "no limit";
	if (budget != SIZE_MAX)
		snprintf(limit, sizeof limit, "%zu MiB", budget >> 20);
	fprintf(stderr,
		"# %11llu pages, %5zu files, map %7.1f MB | filters: %-8s, %8.1f MB used, %7.4f read per lookup | %-8s "
		"%.4f slices, %.0f bytes per lookup\n",
		(unsigned long long)w->pages, w->files, (double)w->map_bytes / 1e6, limit,
		(double)w->contents.levels.filters.used / 1e6, (double)w->filter_reads / (double)count, what,
		(double)w->slice_reads / (double)count, (double)(w->slice_bytes + w->filter_bytes) / (double)count);
}

/* With the default budget, warmed up and then measured; and with room for all filters. What counts is the latter. */
static void run_lookups(const bench_env *env, uint64_t pages, bool existing, bench_result *out)
{
	static lookup_world w;
	const uint64_t count = env->quick ? 2000 : 100000, warm = env->quick ? 2000 : pages / 5000 + 100000;
	const char *what = existing ? "existing" : "absent";
	world_open(&w, pages);
	look_up_many(&w, existing, warm, 1);
	look_up_many(&w, existing, count, 2);
	show(&w, what, count, w.contents.levels.filters.budget);
	w.contents.levels.filters.budget = SIZE_MAX;
	look_up_many(&w, existing, warm, 3);
	out->ours = look_up_many(&w, existing, count, 4);
	out->baseline = 1;
	show(&w, what, count, SIZE_MAX);
	world_close(&w);
}

static void run_existing_small(const bench_env *env, bench_result *out)
{
	run_lookups(env, env->quick ? 300000 : 1000000, true, out);
}

static void run_absent_small(const bench_env *env, bench_result *out)
{
	run_lookups(env, env->quick ? 300000 : 1000000, false, out);
}

static void run_existing_medium(const bench_env *env, bench_result *out)
{
	run_lookups(env, env->quick ? 300000 : 10000000, true, out);
}

static void run_absent_medium(const bench_env *env, bench_result *out)
{
	run_lookups(env, env->quick ? 300000 : 10000000, false, out);
}

static void run_existing_large(const bench_env *env, bench_result *out)
{
	run_lookups(env, env->quick ? 300000 : 1000000000, true, out);
}

static void run_absent_large(const bench_env *env, bench_result *out)
{
	run_lookups(env, env->quick ? 300000 : 1000000000, false, out);
}

const bench bench_lookup_cost_1e6 = {"lookup_cost_1e6", "one", "slices", 1.05, false, run_existing_small};
const bench bench_lookup_cost_1e7 = {"lookup_cost_1e7", "one", "slices", 1.05, false, run_existing_medium};
const bench bench_lookup_cost_1e9 = {"lookup_cost_1e9", "one", "slices", 1.05, false, run_existing_large};
const bench bench_lookup_absent_1e6 = {"lookup_absent_1e6", "one", "slices", 0.02, false, run_absent_small};
const bench bench_lookup_absent_1e7 = {"lookup_absent_1e7", "one", "slices", 0.02, false, run_absent_medium};
const bench bench_lookup_absent_1e9 = {"lookup_absent_1e9", "one", "slices", 0.02, false, run_absent_large};
