/* Finding contents in c/ and in sorted files: levels, filters, damage, files that come and go. */
#include "content/contents.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <pagestore.h>
#include <pagestore/backends.h>
#include <pagestore/fault.h>

#include "content/sorted_writer.h"
#include "support/failing_alloc.h"
#include "support/kv_calls.h"
#include "support/testing.h"
#include "util/alloc.h"
#include "util/clock.h"

#define PAGE 512
#define GROUP_PAGES (PGS__GROUP_BYTES / PAGE)

typedef struct model_page {
	pgs__page_id id;
	uint64_t no;
	uint8_t bytes[PAGE];
	bool present; /* somewhere */
} model_page;

typedef struct world world;
struct world {
	uint64_t random;
	pgs_kv *kv; /* direct */
	pgs_blob *blob;
	pgs_fault *fault;
	pgs__backend backend; /* through the faults */
	pgs__contents contents;
	model_page *pages; /* in id order */
	size_t count;
	_Atomic uint64_t gets, txns; /* calls of the library */
	void (*before)(world *w, const char *operation);
	bool in_before;
	size_t steps; /* for `before` */
};

static uint64_t roll(world *w, uint64_t below)
{
	w->random = w->random * 6364136223846793005u + 1442695040888963407u;
	return (w->random >> 33) % below;
}

static int by_id(const void *a, const void *b)
{
	const model_page *x = a, *y = b;
	return memcmp(x->id.bytes, y->id.bytes, PGS__ID_SIZE);
}

static void count_call(void *ctx, uint64_t call, const char *operation)
{
	world *w = ctx;
	(void)call;
	w->gets += strcmp(operation, "get") == 0;
	w->txns += strcmp(operation, "txn") == 0;
	if (!w->before || w->in_before)
		return;
	w->in_before = true;
	w->before(w, operation);
	w->in_before = false;
}

static void open_backends(world *w, const pgs_kv_limits *limits)
{
	pgs_fault_options options = PGS_FAULT_OPTIONS_INIT;
	options.before = count_call;
	options.before_ctx = w;
	assert_int_equal(pgs_fault_new(&w->fault, &options, NULL), PGS_OK);
	assert_int_equal(pgs_kv_memory_new(&w->kv, limits, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_new(&w->blob, NULL), PGS_OK);
	assert_int_equal(pgs_kv_memory_share(&w->backend.kv, w->kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&w->backend.blob, w->blob, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_kv(&w->backend.kv, w->fault, w->backend.kv, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_blob(&w->backend.blob, w->fault, w->backend.blob, NULL), PGS_OK);
	w->kv->vtable->limits(w->kv, &w->backend.limits);
}

static world *world_new(uint64_t seed, size_t count, const pgs_kv_limits *limits)
{
	world *w = calloc(1, sizeof *w);
	w->random = seed * 77 + 1;
	open_backends(w, limits);
	w->contents.backend = &w->backend;
	w->contents.page_size = PAGE;
	memset(w->contents.prefix, 0xab, sizeof w->contents.prefix);
	for (size_t i = 0; i < PGS__SECRET_SIZE; i++)
		w->contents.secret[i] = (uint8_t)(i * 37 + 11);
	assert_int_equal(pgs__levels_init(&w->contents.levels), PGS_OK);
	pgs__workbench_pool_init(&w->contents.benches, PAGE, 1);
	w->count = count;
	w->pages = calloc(count, sizeof *w->pages);
	for (size_t i = 0; i < count; i++) {
		model_page *p = &w->pages[i];
		p->no = i * 3 % (5 * GROUP_PAGES);
		for (size_t k = 0; k < PAGE; k++)
			p->bytes[k] = (uint8_t)roll(w, 256);
		p->id = pgs__page_id_of(w->contents.secret, p->no, p->bytes, PAGE);
	}
	qsort(w->pages, count, sizeof *w->pages, by_id);
	return w;
}

static void world_free(world *w)
{
	w->before = NULL;
	pgs__levels_free(&w->contents.levels);
	pgs__workbench_pool_free(&w->contents.benches);
	w->backend.kv->vtable->close(w->backend.kv);
	w->backend.blob->vtable->close(w->backend.blob);
	w->kv->vtable->close(w->kv);
	w->blob->vtable->close(w->blob);
	pgs_fault_free(w->fault);
	free(w->pages);
	free(w);
}

/* --- files ------------------------------------------------------------------------ */

typedef enum cell { NONE, GOOD, DAMAGED, TOMBSTONE } cell;

static void put_key(world *w, pgs_slice key, pgs_slice value)
{
	const pgs_kv_op op = {.kind = PGS_KV_PUT, .key = key, .value = value};
	assert_int_equal(status_of(w->kv, &op, 1), PGS_OK);
}

static void delete_key(world *w, pgs_slice key)
{
	const pgs_kv_op op = {.kind = PGS_KV_DELETE, .key = key};
	assert_int_equal(status_of(w->kv, &op, 1), PGS_OK);
}

/* Put and register a file of what cells says about each page. `file` (may be NULL) tells its names. */
static void put_file(world *w, uint8_t level, const cell *cells, size_t table_max, pgs__sorted_file *out)
{
	const pgs__backend direct = {w->kv, w->blob, w->backend.limits, 1};
	const pgs__sorted_target target = {&direct, w->contents.prefix, PAGE, level, 5, table_max};
	pgs__sorted_item *items = calloc(w->count, sizeof *items);
	uint8_t (*damaged)[PAGE] = calloc(w->count, PAGE);
	size_t used = 0;
	pgs__sorted_file file;
	for (size_t i = 0; i < w->count; i++) {
		const model_page *p = &w->pages[i];
		if (cells[i] == NONE)
			continue;
		memcpy(damaged[i], p->bytes, PAGE);
		damaged[i][5] ^= cells[i] == DAMAGED;
		items[used++] = (pgs__sorted_item){p->id, damaged[i], cells[i] == TOMBSTONE ? 0 : PAGE, 9, 0};
		w->pages[i].present |= cells[i] == GOOD;
	}
	assert_int_equal(pgs__sorted_file_put(&target, items, used, 0, &file, NULL), PGS_OK);
	put_key(w, pgs__key_slice(&file.key), pgs__buffer_slice(&file.value));
	pgs__buffer_free(&file.value);
	if (out)
		*out = file;
	free(items);
	free(damaged);
}

/* A file of the pages [first, end), each `what`. */
static void put_range(world *w, uint8_t level, size_t first, size_t end, cell what, size_t table_max,
		      pgs__sorted_file *out)
{
	cell *cells = calloc(w->count, sizeof *cells);
	for (size_t i = first; i < end; i++)
		cells[i] = what;
	put_file(w, level, cells, table_max, out);
	free(cells);
}

/* In c/. */
static void put_content(world *w, size_t page, bool good)
{
	uint8_t bytes[PAGE];
	const pgs__key key = pgs__key_content(w->contents.prefix, &w->pages[page].id);
	memcpy(bytes, w->pages[page].bytes, PAGE);
	bytes[9] ^= !good;
	put_key(w, pgs__key_slice(&key), (pgs_slice){bytes, PAGE});
	w->pages[page].present |= good;
}

static int copy_source(void *ctx, uint64_t offset, void *buf, size_t n)
{
	memcpy(buf, (const uint8_t *)ctx + offset, n);
	return PGS_OK;
}

/* Change a byte of a stored blob, or cut it there. */
static void break_blob(world *w, const char *name, uint64_t at, bool cut)
{
	uint64_t size;
	assert_int_equal(w->blob->vtable->stat(w->blob, name, &size, 0, NULL), PGS_OK);
	uint8_t *bytes = malloc(size);
	pgs_blob_range range = {.name = name, .size = size, .buffer = bytes};
	assert_int_equal(w->blob->vtable->get(w->blob, &range, 1, 0, NULL), PGS_OK);
	assert_int_equal(w->blob->vtable->remove(w->blob, name, 0, NULL), PGS_OK);
	bytes[at] ^= 1;
	assert_int_equal(w->blob->vtable->put(w->blob, name, cut ? at : size, copy_source, bytes, 0, NULL), PGS_OK);
	free(bytes);
}

/* --- looking ------------------------------------------------------------------------- */

#define DEADLINE_MS 20000

/* Fetch pages [first, first + count); the result, which the statuses must agree with. */
static int fetch(world *w, size_t first, size_t count, pgs_error *err)
{
	pgs__want *wants = calloc(count, sizeof *wants);
	uint8_t (*bytes)[PAGE] = calloc(count, PAGE);
	for (size_t i = 0; i < count; i++)
		wants[i] = (pgs__want){
			.page_no = w->pages[first + i].no, .id = w->pages[first + i].id, .page = bytes[i]};
	int result = pgs__contents_fetch(&w->contents, wants, count, pgs__now_ms() + DEADLINE_MS, err);
	bool all = true;
	for (size_t i = 0; i < count; i++) {
		all &= wants[i].status == PGS_OK;
		if (wants[i].status == PGS_OK)
			assert_memory_equal(bytes[i], w->pages[first + i].bytes, PAGE);
	}
	assert_int_equal(all, result == PGS_OK);
	if (count == 1 && result == PGS_OK)
		assert_int_equal(wants[0].status, PGS_OK);
	free(wants);
	free(bytes);
	return result;
}

static void expect(world *w, size_t page, int result)
{
	pgs_error err = PGS_ERROR_INIT;
	int got = fetch(w, page, 1, &err);
	if (got != result)
		fail_msg("page %zu: %s, not %s: %s", page, pgs_error_name(got), pgs_error_name(result), err.message);
	assert_int_equal(err.code, result);
}

/* All that is there is found, together and alone; what is not, is not. */
static void expect_model(world *w)
{
	for (size_t i = 0; i < w->count; i++)
		expect(w, i, w->pages[i].present ? PGS_OK : PGS_ENOTFOUND);
	for (size_t i = 0; i < 20; i++) {
		size_t first = roll(w, w->count), count = 1 + roll(w, w->count - first);
		bool all = true;
		for (size_t k = first; k < first + count; k++)
			all &= w->pages[k].present;
		assert_int_equal(fetch(w, first, count, NULL), all ? PGS_OK : PGS_ENOTFOUND);
	}
}

/* --- levels -------------------------------------------------------------------------------- */

static void test_contents__are_found_in_any_levels(void **state)
{
	(void)state;
	static const pgs_kv_limits small = {16, 40000, 0, 0};
	for (uint64_t seed = 1; seed <= 60; seed++) {
		world *w = world_new(seed, 10 + seed % 5 * 90, seed % 2 ? &small : NULL);
		cell *cells = calloc(w->count, sizeof *cells);
		size_t files = 1 + roll(w, 12);
		for (size_t f = 0; f < files; f++) {
			uint8_t level = (uint8_t)roll(w, 4);
			size_t first = level ? roll(w, w->count) : 0;
			size_t length = 1 + roll(w, level ? w->count / 3 : w->count);
			for (size_t i = 0; i < w->count; i++) {
				bool in = i >= first && i < first + length && roll(w, 3) > 0;
				cells[i] = i == first ? GOOD : !in ? NONE : roll(w, 6) ? GOOD : TOMBSTONE;
			}
			put_file(w, level, cells, roll(w, 2) ? PGS__LEVEL_TABLE_MAX : 0, NULL);
		}
		for (size_t i = 0; i < w->count / 10; i++)
			put_content(w, roll(w, w->count), true);
		expect_model(w);
		free(cells);
		world_free(w);
	}
}

static void test_contents__a_tombstone_does_not_end_the_search(void **state)
{
	(void)state;
	for (int fenced = 0; fenced < 2; fenced++) {
		world *w = world_new(1, 20, NULL);
		put_range(w, 1, 0, 20, GOOD, fenced ? 0 : PGS__LEVEL_TABLE_MAX, NULL);
		put_range(w, 0, 0, 10, TOMBSTONE, fenced ? 0 : PGS__LEVEL_TABLE_MAX, NULL); /* searched first */
		put_content(w, 0, true);
		expect_model(w);
		world_free(w);
	}
}

static void test_contents__few_files_are_asked(void **state)
{
	(void)state;
	world *w = world_new(1, 2000, NULL);
	for (size_t i = 0; i < 2000; i += 20)
		put_range(w, 1, i, i + 20, GOOD, 0, NULL);
	expect(w, 0, PGS_OK);
	w->gets = 0;
	for (size_t i = 0; i < 2000; i += 100)
		expect(w, i, PGS_OK);
	assert_true(w->gets <= 3 * 20); /* filter, slice, content */
	w->gets = 0;
	assert_int_equal(fetch(w, 0, 256, NULL), PGS_OK);
	assert_true(w->gets <= 13 * 2 + 1);
	world_free(w);
}

/* --- slices of tables ---------------------------------------------------------------------------- */

static void test_slices__are_read_once(void **state)
{
	(void)state;
	world *w = world_new(1, 1000, NULL);
	put_range(w, 1, 0, 1000, GOOD, 0, NULL);
	expect_model(w);
	w->gets = 0;
	for (size_t i = 0; i < 1000; i++)
		expect(w, i, PGS_OK);
	assert_int_equal(w->gets, 1000); /* contents */
	w->gets = 0;
	assert_int_equal(fetch(w, 0, 1000, NULL), PGS_OK);
	assert_int_equal(w->gets, 1);
	world_free(w);
}

static void test_slices__of_some_are_kept_and_others_read(void **state)
{
	(void)state;
	world *w = world_new(1, 1000, NULL);
	put_range(w, 1, 0, 1000, GOOD, 0, NULL);
	for (size_t i = 0; i < 1000; i += 64 * 3)
		expect(w, i, PGS_OK);
	w->gets = 0;
	assert_int_equal(fetch(w, 0, 1000, NULL), PGS_OK);
	assert_int_equal(w->gets, 2); /* slices between them, together; contents */
	world_free(w);
}

static void test_slices__share_few_places(void **state)
{
	(void)state;
	for (size_t max = 0; max < 4; max++) {
		world *w = world_new(1, 1000, NULL);
		w->contents.levels.slices.max = max;
		put_range(w, 1, 0, 500, GOOD, 0, NULL);
		put_range(w, 0, 300, 1000, GOOD, 0, NULL);
		expect_model(w);
		for (size_t i = 0; i < 1000; i++)
			expect(w, roll(w, 1000), PGS_OK);
		assert_int_equal(w->contents.levels.slices.found > 0, max > 0);
		world_free(w);
	}
}

static void test_slices__damaged_ones_are_not_kept(void **state)
{
	(void)state;
	world *w = world_new(1, 200, NULL);
	pgs__sorted_file file;
	put_range(w, 1, 0, 200, GOOD, 0, &file);
	break_blob(w, file.blob_name, 64 + 70 * 36, false);
	expect(w, 70, PGS_ECORRUPT);
	break_blob(w, file.blob_name, 64 + 70 * 36, false); /* as it was */
	expect(w, 70, PGS_OK);
	expect_model(w);
	world_free(w);
}

/* --- filters ---------------------------------------------------------------------------------- */

static void test_filters__absent_ids_read_nothing(void **state)
{
	(void)state;
	world *w = world_new(1, 1000, NULL);
	cell *cells = calloc(w->count, sizeof *cells);
	for (size_t i = 0; i < w->count; i++)
		cells[i] = i % 2 ? NONE : GOOD;
	put_file(w, 2, cells, 0, NULL);
	expect(w, 0, PGS_OK);
	assert_int_equal(w->contents.levels.filters.loaded, 1);
	w->gets = 0;
	for (size_t i = 1; i < w->count - 1; i += 2)
		expect(w, i, PGS_ENOTFOUND);
	assert_true(w->gets <= 4); /* the filter was wrong */
	assert_true(w->contents.levels.filters.refused >= 490);
	expect_model(w);
	free(cells);
	world_free(w);
}

static void test_filters__a_damaged_one_is_no_answer(void **state)
{
	(void)state;
	for (int cut = 0; cut < 2; cut++) {
		world *w = world_new(1, 100, NULL);
		pgs__sorted_file file;
		w->contents.levels.slices.max = 0; /* none is kept: what is read is counted */
		put_range(w, 1, 0, 99, TOMBSTONE, 0, &file); /* so that no content is cut off */
		put_range(w, 2, 0, 99, GOOD, 0, NULL);
		break_blob(w, file.blob_name, 64 + 99 * 36 + 100, cut);
		expect_model(w);
		assert_int_equal(w->contents.levels.filters.loaded, 1); /* the other one's */
		w->gets = 0;
		expect(w, 5, PGS_OK);
		assert_int_equal(w->gets, 3); /* two slices and a content: it is not read again */
		world_free(w);
	}
}

static void test_filters__files_without_one_are_read(void **state)
{
	(void)state;
	world *w = world_new(1, 200, NULL);
	pgs__sorted_file file;
	put_range(w, 1, 0, 200, GOOD, 0, &file);
	/* The same as version 1 had it: no filter, fences of kind 2. */
	const pgs__sorted_header header = {.page_size = PAGE, .count = 200, .contents_offset = 64 + 200 * 36,
					   .file_size = 64 + 200 * 36 + 200 * PAGE};
	uint8_t *bytes = calloc(1, header.file_size);
	pgs__sorted_header_encode(&header, bytes);
	for (size_t i = 0; i < 200; i++) {
		const pgs__sorted_entry entry = {w->pages[i].id, header.contents_offset + i * PAGE, PAGE, 0};
		pgs__sorted_entry_encode(&entry, bytes + 64 + i * 36);
		memcpy(bytes + entry.offset, w->pages[i].bytes, PAGE);
	}
	assert_int_equal(w->blob->vtable->remove(w->blob, file.blob_name, 0, NULL), PGS_OK);
	assert_int_equal(w->blob->vtable->put(w->blob, file.blob_name, header.file_size, copy_source, bytes, 0, NULL),
			 PGS_OK);
	pgs__buffer value = {0};
	pgs__level_value_encode(header.file_size, (pgs_slice){bytes + 64, 200 * 36}, 0, 0, &value);
	put_key(w, pgs__key_slice(&file.key), pgs__buffer_slice(&value));
	pgs__buffer_free(&value);
	free(bytes);
	expect_model(w);
	assert_int_equal(w->contents.levels.filters.loaded, 0);
	world_free(w);
}

static void test_filters__stay_within_their_budget(void **state)
{
	(void)state;
	world *w = world_new(1, 2000, NULL);
	pgs__filters *filters = &w->contents.levels.filters;
	for (size_t i = 0; i < 2000; i += 100)
		put_range(w, 1, i, i + 100, GOOD, 0, NULL); /* filters of 256 bytes */
	filters->budget = 5 * 256 + 100;
	for (size_t i = 0; i < 4000; i++) {
		expect(w, roll(w, 2000), PGS_OK);
		assert_true(filters->used <= filters->budget);
	}
	assert_int_equal(filters->used, 5 * 256);
	assert_true(filters->evicted > 0 && filters->evicted == filters->loaded - 5);
	filters->budget = 100; /* too small for any */
	uint64_t loaded = filters->loaded;
	expect_model(w);
	assert_int_equal(filters->loaded, loaded);
	world_free(w);
}

static void test_filters__beyond_the_budget_are_read_rarely(void **state)
{
	(void)state;
	enum { FILES = 4, SIZE = 64 << 10 };
	pgs__filters filters;
	pgs__filter_slot slots[FILES] = {0};
	uint64_t random = 1, loads = 0, slices = 0;
	pgs__filters_init(&filters);
	filters.budget = SIZE; /* room for one of four */
	for (int i = 0; i < 10000; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		pgs__filter_slot *slot = &slots[random >> 33 & (FILES - 1)];
		if (pgs__filters_due(&filters, slot, SIZE, 2304, false)) {
			uint8_t *bits = pgs__calloc(1, SIZE);
			pgs__filters_keep(&filters, slot, bits, SIZE);
			loads++;
		}
		const pgs__page_id id = {{1, 2, 3}};
		slices += pgs__filters_may_have(&filters, slot, &id);
	}
	assert_true(loads > 4);
	assert_true((loads - 1) * (SIZE - 2304) <= slices * 2304); /* the first had room */
	for (size_t i = 0; i < FILES; i++)
		pgs__filters_forget(&filters, &slots[i]);
	assert_int_equal(filters.used, 0);
	assert_null(filters.hand);
	pgs__filters_free(&filters);
}

/* Who reads a few pages of a large database has no use for the filters of the level they are in. */
static void test_filters__of_the_last_level_are_read_late(void **state)
{
	(void)state;
	enum { SIZE = 64 << 10, SLICE = 2304 };
	pgs__filters filters;
	pgs__filter_slot slot = {0};
	int slices = 0;
	pgs__filters_init(&filters);
	assert_true(pgs__filters_due(&filters, &slot, SIZE, SLICE, false));
	slot.missed_bytes = 0;
	while (!pgs__filters_due(&filters, &slot, SIZE, SLICE, true))
		slices++;
	assert_int_equal(slices, SIZE / 4 / SLICE);
	pgs__filters_free(&filters);
}

/* --- damage --------------------------------------------------------------------------------------- */

static void test_damage__another_copy_is_taken(void **state)
{
	(void)state;
	world *w = world_new(1, 40, NULL);
	put_range(w, 3, 0, 10, GOOD, 0, NULL);
	put_range(w, 2, 0, 10, DAMAGED, 0, NULL);
	put_range(w, 1, 0, 20, DAMAGED, PGS__LEVEL_TABLE_MAX, NULL);
	put_range(w, 0, 0, 30, DAMAGED, PGS__LEVEL_TABLE_MAX, NULL);
	for (size_t i = 10; i < 20; i++)
		put_content(w, i, true);
	for (size_t i = 20; i < 25; i++)
		put_content(w, i, false);
	for (size_t i = 0; i < 20; i++)
		expect(w, i, PGS_OK);
	for (size_t i = 20; i < 30; i++)
		expect(w, i, PGS_ECORRUPT);
	for (size_t i = 30; i < 40; i++)
		expect(w, i, PGS_ENOTFOUND);
	assert_int_equal(fetch(w, 0, 20, NULL), PGS_OK);
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(fetch(w, 0, 30, &err), PGS_ECORRUPT);
	world_free(w);
}

static void test_damage__the_error_says_where(void **state)
{
	(void)state;
	world *w = world_new(1, 10, NULL);
	pgs__sorted_file file;
	pgs_error err = PGS_ERROR_INIT;
	put_range(w, 1, 0, 5, DAMAGED, 0, &file);
	assert_int_equal(fetch(w, 3, 1, &err), PGS_ECORRUPT);
	assert_non_null(strstr(err.message, file.blob_name));
	assert_int_equal(err.page, w->pages[3].no);
	put_content(w, 6, false);
	assert_int_equal(fetch(w, 6, 1, &err), PGS_ECORRUPT);
	assert_non_null(strstr(err.message, "/c/"));
	assert_int_equal(err.page, w->pages[6].no);
	world_free(w);
}

static void test_damage__of_a_table_costs_its_slice(void **state)
{
	(void)state;
	for (int cut = 0; cut < 2; cut++) {
		world *w = world_new(1, 200, NULL);
		pgs__sorted_file file;
		pgs_error err = PGS_ERROR_INIT;
		put_range(w, 1, 0, 200, TOMBSTONE, 0, NULL);
		put_range(w, 2, 0, 200, GOOD, 0, &file);
		put_content(w, 70, true);
		break_blob(w, file.blob_name, 64 + 36 * 64 + 5, cut); /* the second of four slices */
		for (size_t i = 0; i < 200; i++) {
			bool lost = cut || (i >= 64 && i < 128);
			expect(w, i, lost && i != 70 ? PGS_ECORRUPT : PGS_OK);
		}
		assert_int_equal(fetch(w, 60, 5, &err), PGS_ECORRUPT);
		assert_non_null(strstr(err.message, file.blob_name));
		world_free(w);
	}
}

/* --- files that come and go ---------------------------------------------------------------------------- */

static pgs__sorted_file moving;

/* The content's file is replaced by another right before each of the first ten reads of it. */
static void replace_file(world *w, const char *operation)
{
	if (strcmp(operation, "get") != 0 || w->steps == 0)
		return;
	w->steps--;
	pgs__sorted_file old = moving;
	put_range(w, (uint8_t)(w->steps % 3), 0, 5, GOOD, w->steps % 2 ? 0 : PGS__LEVEL_TABLE_MAX, &moving);
	delete_key(w, pgs__key_slice(&old.key));
	assert_int_equal(w->blob->vtable->remove(w->blob, old.blob_name, 0, NULL), PGS_OK);
}

static void test_contents__that_keep_moving_are_found(void **state)
{
	(void)state;
	world *w = world_new(1, 5, NULL);
	put_range(w, 1, 0, 5, GOOD, 0, &moving);
	w->steps = 10;
	w->before = replace_file;
	assert_int_equal(fetch(w, 0, 5, NULL), PGS_OK);
	assert_int_equal(w->steps, 0);
	world_free(w);
}

static void move_to_file(world *w, const char *operation)
{
	if (strcmp(operation, "txn") != 0 || w->steps == 0)
		return;
	w->steps = 0; /* before c/ is read: the file was not listed when it was looked for there */
	put_range(w, 0, 0, 1, GOOD, 0, NULL);
	const pgs__key key = pgs__key_content(w->contents.prefix, &w->pages[0].id);
	delete_key(w, pgs__key_slice(&key));
}

static void test_contents__that_are_moved_from_the_kv_are_found(void **state)
{
	(void)state;
	world *w = world_new(1, 5, NULL);
	put_content(w, 0, true);
	w->steps = 1;
	w->before = move_to_file;
	expect(w, 0, PGS_OK);
	assert_int_equal(w->steps, 0);
	world_free(w);
}

static void test_contents__of_a_lost_file_are_not_looked_for_forever(void **state)
{
	(void)state;
	world *w = world_new(1, 5, NULL);
	pgs__sorted_file file;
	put_range(w, 1, 0, 5, GOOD, 0, &file);
	expect(w, 0, PGS_OK);
	assert_int_equal(w->blob->vtable->remove(w->blob, file.blob_name, 0, NULL), PGS_OK);
	w->gets = w->txns = 0;
	expect(w, 0, PGS_ENOTFOUND);
	assert_true(w->gets + w->txns <= 6);
	world_free(w);
}

/* Its whole table in the key, or fences alone: it is told by its name, and other files are looked into. */
static void test_contents__of_a_lost_file_are_taken_from_another(void **state)
{
	(void)state;
	for (int fences = 0; fences < 2; fences++) {
		world *w = world_new(1, 200, NULL);
		pgs__sorted_file lost;
		pgs_error err = PGS_ERROR_INIT;
		put_range(w, 1, 0, 200, GOOD, fences ? 0 : PGS__LEVEL_TABLE_MAX, &lost);
		put_range(w, 2, 0, 100, GOOD, 0, NULL);
		assert_int_equal(w->blob->vtable->remove(w->blob, lost.blob_name, 0, NULL), PGS_OK);
		for (size_t i = 0; i < 200; i += 33)
			expect(w, i, i < 100 ? PGS_OK : PGS_ENOTFOUND);
		assert_int_equal(fetch(w, 90, 20, &err), PGS_ENOTFOUND);
		assert_non_null(strstr(err.message, lost.blob_name));
		world_free(w);
	}
}

/* Many files: keys and values alone. */
static void register_many(world *w, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		pgs__page_id id = {{0}};
		char name[40];
		uint8_t row[PGS__SORTED_ENTRY_SIZE];
		pgs__buffer value = {0};
		pgs__store_u64be(id.bytes, i);
		snprintf(name, sizeof name, "s-%zu", i * 7919 % count);
		const pgs__sorted_entry entry = {id, 100, PAGE, 0};
		pgs__sorted_entry_encode(&entry, row);
		pgs__level_value_encode(100 + PAGE, (pgs_slice){row, sizeof row}, 0, 100, &value);
		const pgs__key key = pgs__key_level(w->contents.prefix, (uint8_t)(i % 3), &id, &id, name);
		put_key(w, pgs__key_slice(&key), pgs__buffer_slice(&value));
		pgs__buffer_free(&value);
	}
}

static int refresh(world *w)
{
	return pgs__levels_refresh(
		&w->contents.levels, &w->backend, w->contents.prefix, pgs__now_ms() + DEADLINE_MS, NULL);
}

static void test_levels__are_listed_in_pages(void **state)
{
	(void)state;
	static const pgs_kv_limits limits = {128, 1500000, 0, 0};
	world *w = world_new(1, 5, &limits);
	register_many(w, 2500);
	assert_int_equal(refresh(w), PGS_OK);
	pgs__file_map *map = pgs__levels_map(&w->contents.levels);
	assert_int_equal(map->count, 2500);
	for (size_t i = 1; i < map->count; i++) {
		const pgs__file *a = map->files[i - 1], *b = map->files[i];
		assert_true(a->key.level <= b->key.level);
		if (a->key.level == b->key.level && a->key.level == 0)
			assert_true(a->registered > b->registered);
		else if (a->key.level == b->key.level)
			assert_true(memcmp(a->key.first.bytes, b->key.first.bytes, PGS__ID_SIZE) < 0);
	}
	w->txns = 0;
	assert_int_equal(refresh(w), PGS_OK); /* nothing new: keys alone, and the same map */
	assert_int_equal(w->txns, 1);
	pgs__file_map *again = pgs__levels_map(&w->contents.levels);
	assert_ptr_equal(map, again);
	pgs__file_map_release(again);
	put_range(w, 0, 0, 5, GOOD, 0, NULL);
	assert_int_equal(refresh(w), PGS_OK);
	again = pgs__levels_map(&w->contents.levels);
	assert_int_equal(again->count, 2501);
	assert_true(again->generation != map->generation);
	pgs__file_map_release(again);
	pgs__file_map_release(map);
	world_free(w);
}

/* Between two pages of the listing: a file goes from where is yet to be listed to where has been. */
static void move_over_the_listing(world *w, const char *operation)
{
	if (strcmp(operation, "txn") != 0 || ++w->steps != 4)
		return;
	pgs__sorted_file old = moving;
	put_range(w, 0, 0, 5, GOOD, 0, &moving);
	delete_key(w, pgs__key_slice(&old.key));
}

static void compact_during_the_listing(world *w, const char *operation)
{
	if (strcmp(operation, "txn") != 0 || ++w->steps != 4)
		return;
	kv_put(w->kv, "other", "x");
	kv_compact(w->kv, kv_revision(w->kv));
}

static void test_levels__are_listed_as_of_one_revision(void **state)
{
	(void)state;
	world *w = world_new(1, 5, NULL);
	register_many(w, 1500);
	put_range(w, 200, 0, 5, GOOD, 0, &moving); /* the last key */
	w->before = move_over_the_listing;
	assert_int_equal(refresh(w), PGS_OK);
	pgs__file_map *map = pgs__levels_map(&w->contents.levels);
	assert_int_equal(map->count, 1501);
	assert_int_equal(map->files[1500]->key.level, 200);
	pgs__file_map_release(map);
	world_free(w);

	w = world_new(1, 5, NULL);
	register_many(w, 1500);
	w->before = compact_during_the_listing;
	assert_int_equal(refresh(w), PGS_OK);
	map = pgs__levels_map(&w->contents.levels);
	assert_int_equal(map->count, 1500);
	pgs__file_map_release(map);
	world_free(w);
}

static void test_levels__damaged_entries_leave_the_others(void **state)
{
	(void)state;
	world *w = world_new(1, 5, NULL);
	pgs_error err = PGS_ERROR_INIT;
	put_range(w, 1, 0, 4, GOOD, 0, NULL);
	pgs__sorted_file file;
	put_range(w, 2, 4, 5, GOOD, 0, &file);
	put_key(w, pgs__key_slice(&file.key), (pgs_slice){"damaged", 7});
	for (size_t i = 0; i < 4; i++)
		expect(w, i, PGS_OK);
	assert_int_equal(fetch(w, 4, 1, &err), PGS_ECORRUPT);
	assert_non_null(strstr(err.message, "index of sorted file"));
	assert_int_equal(err.page, w->pages[4].no);
	world_free(w);
}

/* --- threads ---------------------------------------------------------------------------------------------- */

typedef struct reader {
	world *w;
	uint64_t random;
	size_t failures;
} reader;

/* Fetch single contents, and refresh now and then. */
static void *read_contents(void *arg)
{
	reader *r = arg;
	world *w = r->w;
	for (int i = 0; i < 400; i++) {
		uint8_t bytes[PAGE];
		r->random = r->random * 6364136223846793005u + 1442695040888963407u;
		const model_page *p = &w->pages[(r->random >> 33) % w->count];
		pgs__want want = {.page_no = p->no, .id = p->id, .page = bytes};
		int result = pgs__contents_fetch(&w->contents, &want, 1, pgs__now_ms() + DEADLINE_MS, NULL);
		r->failures += result != PGS_OK || memcmp(bytes, p->bytes, PAGE) != 0;
		if (i % 50 == 0)
			r->failures += refresh(w) != PGS_OK;
	}
	return NULL;
}

static void test_contents__threads_share_files_and_filters(void **state)
{
	(void)state;
	enum { THREADS = 4 };
	world *w = world_new(1, 1000, NULL);
	pthread_t threads[THREADS];
	reader readers[THREADS];
	for (size_t i = 0; i < 1000; i += 100)
		put_range(w, (uint8_t)(i / 100 % 3), i, i + 100, GOOD, 0, NULL);
	w->contents.levels.filters.budget = 4 * 256; /* of ten */
	for (size_t i = 0; i < THREADS; i++) {
		readers[i] = (reader){w, i, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, read_contents, &readers[i]), 0);
	}
	for (size_t i = 0; i < 20; i++) { /* files come meanwhile */
		put_range(w, 0, i * 10, i * 10 + 50, GOOD, 0, NULL);
		assert_int_equal(refresh(w), PGS_OK);
	}
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(readers[i].failures, 0);
	assert_true(w->contents.levels.filters.used <= 4 * 256);
	world_free(w);
}

/* --- resources -------------------------------------------------------------------------------------------- */

/* Files of every kind, damage, and c/. */
static world *mixed_world(void)
{
	world *w = world_new(3, 200, NULL);
	put_range(w, 0, 0, 100, DAMAGED, 0, NULL);
	put_range(w, 1, 0, 150, GOOD, 0, NULL);
	put_range(w, 2, 150, 190, GOOD, PGS__LEVEL_TABLE_MAX, NULL);
	for (size_t i = 190; i < 200; i++)
		put_content(w, i, true);
	return w;
}

static void test_contents__every_allocation_failing(void **state)
{
	(void)state;
	failing_alloc_install();
	bool failed = true;
	for (size_t nth = 1; failed; nth++) {
		world *w = mixed_world();
		failing_alloc_begin(nth);
		pgs_error err = PGS_ERROR_INIT;
		int result = fetch(w, 0, 200, &err);
		failed = failing_alloc_end();
		assert_true(result == PGS_OK || (failed && result == PGS_ENOMEM));
		assert_int_equal(err.code, result);
		world_free(w);
		assert_int_equal(failing_alloc_live(), 0);
	}
	failing_alloc_uninstall();
}

static void test_contents__every_call_failing(void **state)
{
	(void)state;
	for (int kind = PGS_FAULT_ERROR; kind <= PGS_FAULT_LOSE_REPLY; kind++) {
		bool reached = true;
		for (uint64_t nth = 1; reached; nth++) {
			world *w = mixed_world();
			uint64_t before = pgs_fault_calls(w->fault);
			pgs_fault_at(w->fault, nth, (pgs_fault_kind)kind);
			pgs_error err = PGS_ERROR_INIT;
			int result = fetch(w, 0, 200, &err);
			reached = pgs_fault_calls(w->fault) - before >= nth;
			assert_true(result == PGS_OK || (reached && result == PGS_EIO && err.code == PGS_EIO));
			pgs_fault_at(w->fault, 0, PGS_FAULT_NONE);
			assert_int_equal(fetch(w, 0, 200, NULL), PGS_OK);
			world_free(w);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_contents__are_found_in_any_levels),
		cmocka_unit_test(test_contents__a_tombstone_does_not_end_the_search),
		cmocka_unit_test(test_contents__few_files_are_asked),
		cmocka_unit_test(test_slices__are_read_once),
		cmocka_unit_test(test_slices__of_some_are_kept_and_others_read),
		cmocka_unit_test(test_slices__share_few_places),
		cmocka_unit_test(test_slices__damaged_ones_are_not_kept),
		cmocka_unit_test(test_filters__absent_ids_read_nothing),
		cmocka_unit_test(test_filters__a_damaged_one_is_no_answer),
		cmocka_unit_test(test_filters__files_without_one_are_read),
		cmocka_unit_test(test_filters__stay_within_their_budget),
		cmocka_unit_test(test_filters__beyond_the_budget_are_read_rarely),
		cmocka_unit_test(test_filters__of_the_last_level_are_read_late),
		cmocka_unit_test(test_damage__another_copy_is_taken),
		cmocka_unit_test(test_damage__the_error_says_where),
		cmocka_unit_test(test_damage__of_a_table_costs_its_slice),
		cmocka_unit_test(test_contents__that_keep_moving_are_found),
		cmocka_unit_test(test_contents__that_are_moved_from_the_kv_are_found),
		cmocka_unit_test(test_contents__of_a_lost_file_are_not_looked_for_forever),
		cmocka_unit_test(test_contents__of_a_lost_file_are_taken_from_another),
		cmocka_unit_test(test_levels__are_listed_in_pages),
		cmocka_unit_test(test_levels__are_listed_as_of_one_revision),
		cmocka_unit_test(test_levels__damaged_entries_leave_the_others),
		cmocka_unit_test(test_contents__threads_share_files_and_filters),
		cmocka_unit_test(test_contents__every_allocation_failing),
		cmocka_unit_test(test_contents__every_call_failing),
	};
	return cmocka_run_group_tests_name("contents", tests, NULL, NULL);
}
