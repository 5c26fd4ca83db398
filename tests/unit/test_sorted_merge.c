/* Merging sorted files, against a plain model: arrays of what each input holds. */
#include "content/sorted_merge.h"

#include <stdio.h>
#include <stdlib.h>

#include <pagestore.h>
#include <pagestore/backends.h>
#include <pagestore/fault.h>

#include "support/blob_calls.h"
#include "support/failing_alloc.h"
#include "support/testing.h"
#include "util/alloc.h"

#define PAGE 512
#define PAGES_MAX 4000
#define INPUTS_MAX 9
#define GROUP_PAGES (PGS__GROUP_BYTES / PAGE)

/* --- a blob store that asks as it likes ----------------------------------------------------
 *
 * It keeps its blobs in memory that the library's allocator does not see, and reads its sources in pieces of `step`
 * bytes, the last one first if `backwards`, and each a second time if `twice`. */

#define BLOBS_MAX 4096

typedef struct plain_blob {
	pgs_blob base;
	struct {
		char name[PGS_BLOB_NAME_MAX + 1];
		uint8_t *bytes;
		size_t size;
	} blobs[BLOBS_MAX];
	size_t count;
	size_t step;
	bool backwards, twice;
	uint64_t gets, got_bytes;
} plain_blob;

static size_t plain_find(const plain_blob *p, const char *name)
{
	size_t i = 0;
	while (i < p->count && strcmp(p->blobs[i].name, name) != 0)
		i++;
	return i;
}

static int plain_put(pgs_blob *blob, const char *name, uint64_t size, pgs_blob_source source, void *ctx,
		     uint64_t deadline_ms, pgs_error *err)
{
	plain_blob *p = (plain_blob *)blob;
	(void)deadline_ms;
	uint8_t *bytes = malloc(size + 1);
	size_t pieces = (size + p->step - 1) / p->step;
	for (size_t i = 0; i < pieces * (p->twice ? 2 : 1); i++) {
		size_t at = (p->backwards ? pieces - 1 - i % pieces : i % pieces) * p->step;
		int result = source(ctx, at, bytes + at, size - at < p->step ? size - at : p->step);
		if (result != PGS_OK) {
			free(bytes);
			if (err)
				err->code = result;
			return result;
		}
	}
	assert_true(p->count < BLOBS_MAX && plain_find(p, name) == p->count);
	snprintf(p->blobs[p->count].name, sizeof p->blobs[0].name, "%s", name);
	p->blobs[p->count].bytes = bytes;
	p->blobs[p->count++].size = size;
	return PGS_OK;
}

static int plain_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	plain_blob *p = (plain_blob *)blob;
	int first = PGS_OK;
	(void)deadline_ms;
	for (size_t i = 0; i < count; i++) {
		size_t at = plain_find(p, ranges[i].name);
		ranges[i].status = at == p->count ? PGS_ENOTFOUND
				   : ranges[i].offset + ranges[i].size > p->blobs[at].size ? PGS_ECORRUPT : PGS_OK;
		if (ranges[i].status == PGS_OK)
			memcpy(ranges[i].buffer, p->blobs[at].bytes + ranges[i].offset, ranges[i].size);
		else if (first == PGS_OK)
			first = ranges[i].status;
		p->gets++;
		p->got_bytes += ranges[i].size;
	}
	if (first != PGS_OK && err)
		err->code = first;
	return first;
}

static int plain_stat(pgs_blob *blob, const char *name, uint64_t *size, uint64_t deadline_ms, pgs_error *err)
{
	plain_blob *p = (plain_blob *)blob;
	size_t at = plain_find(p, name);
	(void)deadline_ms;
	(void)err;
	*size = at == p->count ? 0 : p->blobs[at].size;
	return at == p->count ? PGS_ENOTFOUND : PGS_OK;
}

static int plain_list(pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms,
		      pgs_error *err)
{
	(void)blob, (void)prefix, (void)lister, (void)ctx, (void)deadline_ms, (void)err;
	return PGS_EINVAL; /* nobody asks */
}

static int plain_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	plain_blob *p = (plain_blob *)blob;
	size_t at = plain_find(p, name);
	(void)deadline_ms;
	(void)err;
	if (at < p->count) {
		free(p->blobs[at].bytes);
		p->blobs[at] = p->blobs[--p->count];
	}
	return PGS_OK;
}

static void plain_close(pgs_blob *blob)
{
	plain_blob *p = (plain_blob *)blob;
	for (size_t i = 0; i < p->count; i++)
		free(p->blobs[i].bytes);
	free(p);
}

static plain_blob *plain_new(void)
{
	static const pgs_blob_vtable vtable = {
		.version = PGS_BLOB_VERSION,
		.struct_size = sizeof vtable,
		.put = plain_put,
		.get = plain_get,
		.stat = plain_stat,
		.list = plain_list,
		.remove = plain_remove,
		.close = plain_close,
	};
	plain_blob *p = calloc(1, sizeof *p);
	p->base.vtable = &vtable;
	p->step = 1000;
	return p;
}

/* --- the model: pages, and inputs that hold some of them --------------------------------------- */

typedef struct model_page {
	pgs__page_id id;
	uint64_t no;
	uint8_t bytes[PAGE];
	uint8_t frame[PAGE];
	size_t frame_size; /* PAGE: the page itself */
} model_page;

typedef enum cell_kind { CELL_NONE, CELL_GOOD, CELL_RAW, CELL_DAMAGED, CELL_TOMBSTONE } cell_kind;

/* What an input holds of a page. */
typedef struct cell {
	cell_kind kind;
	uint64_t birth; /* 0 = the input's registration */
} cell;

typedef struct world {
	uint64_t random;
	plain_blob *plain;
	pgs_blob *blob; /* `plain`, or what is around it */
	pgs__backend backend;
	pgs__contents contents;
	size_t page_count;
	model_page *pages; /* in id order */
	size_t input_count;
	cell (*cells)[PAGES_MAX]; /* cells[input][page] */
	uint64_t registered[INPUTS_MAX];
	pgs__levels levels[INPUTS_MAX]; /* one file each */
	pgs__file_map *maps[INPUTS_MAX];
	pgs__file *files[INPUTS_MAX];
	pgs__merge merge;
	/* of the decider */
	unsigned modes;   /* what it may say: 1 keep, 2 drop, 4 tombstone */
	size_t decided;   /* pages asked about so far */
	size_t end_after; /* decisions; 0 = never */
	uint64_t progress_calls, progress_end;
} world;

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

static void make_page(world *w, model_page *p, uint64_t no)
{
	p->no = no;
	bool thin = roll(w, 2);
	for (size_t i = 0; i < PAGE; i++)
		p->bytes[i] = thin && i > 40 ? (uint8_t)(i / 64) : (uint8_t)roll(w, 256);
	p->id = pgs__page_id_of(w->contents.secret, no, p->bytes, PAGE);
	pgs__workbench *bench = pgs__workbench_take(&w->contents.benches);
	assert_non_null(bench);
	pgs_slice frame = pgs__compress_page(bench, p->bytes);
	memcpy(p->frame, frame.data, frame.size);
	p->frame_size = frame.size;
	pgs__workbench_give(&w->contents.benches, bench);
}

static world *world_new(uint64_t seed, size_t page_count)
{
	world *w = calloc(1, sizeof *w);
	w->random = seed * 77 + 1;
	w->plain = plain_new();
	w->blob = &w->plain->base;
	w->backend.blob = w->blob;
	w->contents.backend = &w->backend;
	w->contents.page_size = PAGE;
	memset(w->contents.prefix, 0xab, sizeof w->contents.prefix);
	for (size_t i = 0; i < PGS__SECRET_SIZE; i++)
		w->contents.secret[i] = (uint8_t)(i * 37 + 11);
	pgs__workbench_pool_init(&w->contents.benches, PAGE, 1);
	w->page_count = page_count;
	w->pages = calloc(page_count, sizeof *w->pages);
	for (size_t i = 0; i < page_count; i++)
		make_page(w, &w->pages[i], i * 3 % (5 * GROUP_PAGES));
	qsort(w->pages, page_count, sizeof *w->pages, by_id);
	w->cells = calloc(INPUTS_MAX, sizeof *w->cells);
	w->modes = 1;
	w->merge = (pgs__merge){.contents = &w->contents, .inputs = w->files, .level = 1, .base_revision = 77,
				.memory_bytes = 1 << 20};
	return w;
}

static void world_free(world *w)
{
	pgs__merge_free(&w->merge);
	for (size_t i = 0; i < w->input_count; i++) {
		pgs__file_map_release(w->maps[i]);
		pgs__levels_free(&w->levels[i]);
	}
	pgs__workbench_pool_free(&w->contents.benches);
	w->blob->vtable->close(w->blob);
	free(w->pages);
	free(w->cells);
	free(w);
}

/* The bytes an input has for a page. */
static pgs_slice stored(const model_page *p, cell_kind kind, uint8_t damaged[PAGE])
{
	if (kind == CELL_TOMBSTONE)
		return (pgs_slice){"", 0};
	if (kind == CELL_GOOD)
		return (pgs_slice){p->frame, p->frame_size};
	memcpy(damaged, p->bytes, PAGE);
	damaged[7] ^= kind == CELL_DAMAGED;
	return (pgs_slice){damaged, PAGE};
}

/* Put and register what cells[input] says. */
static void add_input(world *w, uint64_t registered, size_t table_max)
{
	size_t input = w->input_count++, count = 0;
	pgs__sorted_item *items = calloc(w->page_count, sizeof *items);
	uint8_t (*bytes)[PAGE] = calloc(w->page_count, PAGE);
	for (size_t i = 0; i < w->page_count; i++) {
		const cell *c = &w->cells[input][i];
		if (c->kind == CELL_NONE)
			continue;
		pgs_slice content = stored(&w->pages[i], c->kind, bytes[i]);
		items[count++] = (pgs__sorted_item){w->pages[i].id, content.data, (uint32_t)content.size, c->birth, 0};
	}
	assert_true(count > 0);
	const pgs__sorted_target target = {&w->backend, w->contents.prefix, PAGE, 0, 5, table_max};
	pgs__sorted_file file;
	assert_int_equal(pgs__sorted_file_put(&target, items, count, 0, &file, NULL), PGS_OK);
	assert_int_equal(pgs__levels_init(&w->levels[input]), PGS_OK);
	const pgs__registration registration = {pgs__key_slice(&file.key), pgs__buffer_slice(&file.value)};
	pgs__levels_add(&w->levels[input], w->contents.prefix, &registration, 1, registered);
	w->maps[input] = pgs__levels_map(&w->levels[input]);
	assert_int_equal(w->maps[input]->count, 1);
	w->files[input] = w->maps[input]->files[0];
	w->registered[input] = registered;
	w->merge.input_count = w->input_count;
	pgs__buffer_free(&file.value);
	free(items);
	free(bytes);
}

static void add_random_inputs(world *w, size_t count, size_t table_max)
{
	for (size_t i = 0; i < count; i++) {
		for (size_t k = 0; k < w->page_count; k++)
			if (roll(w, 3) == 0)
				w->cells[w->input_count][k] =
					(cell){(cell_kind)(1 + roll(w, CELL_TOMBSTONE)), roll(w, 20)};
		w->cells[w->input_count][w->page_count / 2] = (cell){CELL_GOOD, 3}; /* at least one */
		add_input(w, 5 + roll(w, 20), roll(w, 2) ? table_max : PGS__LEVEL_TABLE_MAX);
	}
}

/* What the merge must make of a page. */
typedef struct expected {
	bool present, tombstone; /* in the inputs; what counts there is a tombstone */
	uint64_t birth;
	size_t contents; /* copies */
	size_t bytes;    /* of them */
	bool good;       /* one of them opens */
	size_t youngest; /* input, of the youngest content */
	int verdict;
} expected;

static int verdict_of(const world *w, size_t page)
{
	static const int verdicts[] = {PGS__MERGE_KEEP, PGS__MERGE_DROP, PGS__MERGE_TOMBSTONE};
	int verdict = w->pages[page].id.bytes[9] % 3;
	return w->modes >> verdict & 1 ? verdicts[verdict] : PGS__MERGE_KEEP;
}

static expected expect(const world *w, size_t page)
{
	expected e = {0};
	uint64_t content = 0, tombstone = 0;
	for (size_t i = 0; i < w->input_count; i++) {
		const cell *c = &w->cells[i][page];
		uint64_t birth = c->birth ? c->birth : w->registered[i];
		if (c->kind == CELL_NONE)
			continue;
		e.present = true;
		if (c->kind == CELL_TOMBSTONE) {
			tombstone = birth > tombstone ? birth : tombstone;
			continue;
		}
		if (e.contents++ == 0 || birth > content) {
			content = birth;
			e.youngest = i;
		}
		e.bytes += c->kind == CELL_GOOD ? w->pages[page].frame_size : PAGE;
		e.good = e.good || c->kind != CELL_DAMAGED;
	}
	e.tombstone = e.contents == 0 || content <= tombstone;
	e.birth = e.tombstone ? tombstone : content;
	e.verdict = verdict_of(w, page);
	return e;
}

#define TOMBSTONE_BIRTH 4

static int decider(void *ctx, const pgs__page_id *id, uint64_t *birth, bool tombstone)
{
	world *w = ctx;
	while (w->decided < w->page_count && !pgs__page_id_equal(&w->pages[w->decided].id, id))
		assert_false(expect(w, w->decided++).present); /* none is passed over */
	assert_true(w->decided < w->page_count);
	const expected e = expect(w, w->decided);
	assert_true(e.present);
	assert_int_equal(tombstone, e.tombstone);
	assert_int_equal(*birth, e.birth);
	*birth = e.verdict == PGS__MERGE_TOMBSTONE ? TOMBSTONE_BIRTH : 12345; /* which nobody may take */
	w->decided++;
	return w->end_after && w->decided > w->end_after ? PGS_EOLDREV : e.verdict;
}

static int progress(void *ctx, uint64_t bytes)
{
	world *w = ctx;
	(void)bytes;
	return ++w->progress_calls == w->progress_end ? PGS_ETIMEOUT : PGS_OK;
}

/* --- looking at outputs -------------------------------------------------------------------------- */

typedef struct output {
	uint8_t *bytes;
	size_t size;
	pgs__sorted_header header;
} output;

/* It has every content, and its own check. */
static void check_filter(const output *o, size_t table_size)
{
	const uint8_t *filter = o->bytes + PGS__SORTED_HEADER_SIZE + table_size;
	assert_true(pgs__sorted_filter_check((pgs_slice){filter, o->header.filter_size + PGS__FILTER_CHECK_SIZE}));
	assert_int_equal(o->header.filter_size, pgs__filter_size_for(o->header.count));
	for (size_t i = 0; i < o->header.count; i++) {
		pgs__sorted_entry entry;
		pgs__sorted_entry_decode(o->bytes + PGS__SORTED_HEADER_SIZE + i * PGS__SORTED_ENTRY_SIZE, &entry);
		assert_true(entry.length == 0 || pgs__filter_may_have(filter, o->header.filter_size, &entry.id));
	}
}

/* A file that is whole: header, table, and an l/ value that fits them. */
static output read_output(world *w, const pgs__sorted_file *file)
{
	output o = {.size = file->size};
	uint64_t size;
	assert_int_equal(stat_size(w->blob, file->blob_name, &size), PGS_OK);
	assert_int_equal(size, file->size);
	o.bytes = malloc(o.size);
	assert_int_equal(get_range(w->blob, file->blob_name, 0, o.bytes, o.size), PGS_OK);
	assert_int_equal(pgs__sorted_header_decode(o.bytes, &o.header), PGS_OK);
	assert_int_equal(o.header.file_size, file->size);
	assert_int_equal(o.header.page_size, PAGE);
	size_t table_size = o.header.count * PGS__SORTED_ENTRY_SIZE;
	const pgs_slice table = {o.bytes + PGS__SORTED_HEADER_SIZE, table_size};
	assert_int_equal(pgs__sorted_table_check(table, &o.header), PGS_OK);
	pgs__level_value value;
	assert_int_equal(pgs__level_value_decode(pgs__buffer_slice(&file->value), &value), PGS_OK);
	assert_int_equal(value.count, o.header.count);
	assert_int_equal(value.file_size, o.header.file_size);
	assert_int_equal(value.contents_offset, o.header.contents_offset);
	assert_int_equal(value.filter_size, o.header.filter_size);
	assert_int_equal(value.has_table, value.filter_size == 0);
	if (value.has_table)
		assert_memory_equal(value.table.data, table.data, table.size);
	else
		check_filter(&o, table_size);
	pgs__level_key key;
	assert_true(pgs__key_parse_level(pgs__key_slice(&file->key), &key));
	assert_int_equal(key.level, w->merge.level);
	assert_memory_equal(key.first.bytes, table.data, PGS__ID_SIZE);
	assert_memory_equal(key.last.bytes, (const uint8_t *)table.data + table.size - PGS__SORTED_ENTRY_SIZE,
			    PGS__ID_SIZE);
	assert_string_equal(key.file_name, file->file_name);
	pgs__file_name name;
	assert_true(pgs__file_name_parse((pgs_slice){file->file_name, strlen(file->file_name)}, &name));
	assert_int_equal(name.base_revision, w->merge.base_revision);
	return o;
}

static void check_content(world *w, const output *o, const pgs__sorted_entry *entry, const model_page *p,
			  const expected *e, size_t page)
{
	uint8_t bytes[PAGE];
	const uint8_t *at = o->bytes + entry->offset;
	if (!e->good) {
		pgs_slice damaged = stored(p, w->cells[e->youngest][page].kind, bytes);
		assert_int_equal(entry->length, damaged.size);
		assert_memory_equal(at, damaged.data, damaged.size);
		return;
	}
	pgs__workbench *bench = pgs__workbench_take(&w->contents.benches);
	const pgs__want want = {.page_no = p->no, .id = p->id, .page = bytes};
	assert_int_equal(pgs__content_open(&w->contents, bench, (pgs_slice){at, entry->length}, &want, "", NULL),
			 PGS_OK);
	pgs__workbench_give(&w->contents.benches, bench);
}

/* The outputs hold exactly what the model says, and the counters agree. */
static void check_outputs(world *w)
{
	const pgs__merge *m = &w->merge;
	size_t at = 0, row = 0;
	uint64_t kept = 0, dropped = 0, dropped_bytes = 0, damaged = 0, output_bytes = 0;
	output o = {0};
	for (size_t i = 0; i < w->page_count; i++) {
		const expected e = expect(w, i);
		dropped_bytes += e.bytes;
		if (e.present && e.contents && (e.tombstone || e.verdict != PGS__MERGE_KEEP))
			dropped++;
		if (!e.present || e.verdict == PGS__MERGE_DROP)
			continue;
		if (row == o.header.count) {
			free(o.bytes);
			assert_true(at < m->output_count);
			o = read_output(w, &m->outputs[at++]);
			output_bytes += o.size;
			row = 0;
		}
		pgs__sorted_entry entry;
		pgs__sorted_entry_decode(
			o.bytes + PGS__SORTED_HEADER_SIZE + row++ * PGS__SORTED_ENTRY_SIZE, &entry);
		assert_memory_equal(entry.id.bytes, w->pages[i].id.bytes, PGS__ID_SIZE);
		bool tombstone = e.tombstone || e.verdict == PGS__MERGE_TOMBSTONE;
		assert_int_equal(entry.length == 0, tombstone);
		assert_int_equal(entry.birth, e.verdict == PGS__MERGE_TOMBSTONE ? TOMBSTONE_BIRTH : e.birth);
		if (tombstone)
			continue;
		check_content(w, &o, &entry, &w->pages[i], &e, i);
		kept++;
		dropped_bytes -= entry.length;
		damaged += !e.good && (m->scrub || e.contents > 1);
	}
	assert_int_equal(at, m->output_count);
	assert_int_equal(row, o.header.count);
	free(o.bytes);
	assert_int_equal(m->kept_count, kept);
	assert_int_equal(m->dropped_count, dropped);
	assert_int_equal(m->dropped_bytes, dropped_bytes);
	assert_int_equal(m->damaged_count, damaged);
	assert_int_equal(m->output_bytes, output_bytes);
	assert_int_equal(w->plain->count, w->input_count + m->output_count);
}

static int merge_result(world *w, pgs_error *err)
{
	w->decided = 0;
	w->merge.decide_ctx = w->merge.progress_ctx = w;
	return pgs__merge_run(&w->merge, 1000, err);
}

static void merge_ok(world *w)
{
	pgs_error err = PGS_ERROR_INIT;
	int result = merge_result(w, &err);
	if (result != PGS_OK)
		fail_msg("%s: %s", pgs_error_name(result), err.message);
	assert_int_equal(err.code, PGS_OK);
	check_outputs(w);
}

/* --- tests -------------------------------------------------------------------------------------------- */

static void test_merge__random_inputs_match_the_model(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++) {
		world *w = world_new(seed, 1 + seed % 7 * 60);
		add_random_inputs(w, 1 + roll(w, INPUTS_MAX), roll(w, 3000));
		w->merge.decide = roll(w, 4) ? decider : NULL;
		w->modes = w->merge.decide ? 1 + (unsigned)roll(w, 7) : 1;
		w->merge.scrub = roll(w, 2);
		w->merge.table_max = roll(w, 2) ? roll(w, 2000) : 0;
		w->merge.file_bytes_max = roll(w, 2) ? roll(w, 20000) : 0;
		w->merge.memory_bytes = roll(w, 2) ? roll(w, 100000) : 1 << 20;
		w->merge.progress = progress;
		w->plain->step = 1 + roll(w, 5000);
		w->plain->backwards = roll(w, 3) == 0;
		w->plain->twice = roll(w, 3) == 0;
		merge_ok(w);
		world_free(w);
	}
}

static void test_merge__births_of_zero_become_the_registration(void **state)
{
	(void)state;
	world *w = world_new(1, 10);
	for (size_t i = 0; i < 10; i++)
		w->cells[0][i] = w->cells[1][i] = (cell){CELL_GOOD, 0};
	add_input(w, 500, 0);
	add_input(w, 600, PGS__LEVEL_TABLE_MAX);
	merge_ok(w);
	output o = read_output(w, &w->merge.outputs[0]);
	pgs__sorted_entry entry;
	pgs__sorted_entry_decode(o.bytes + PGS__SORTED_HEADER_SIZE, &entry);
	assert_int_equal(entry.birth, 600);
	free(o.bytes);
	world_free(w);
}

static void test_merge__tombstone_against_content(void **state)
{
	(void)state;
	static const struct {
		uint64_t content, tombstone;
		bool kept;
	} cases[] = {{5, 4, true}, {5, 5, false}, {5, 6, false}};
	for (size_t i = 0; i < 3; i++) {
		world *w = world_new(i, 1);
		w->cells[0][0] = (cell){CELL_GOOD, cases[i].content};
		w->cells[1][0] = (cell){CELL_TOMBSTONE, cases[i].tombstone};
		add_input(w, 9, 0);
		add_input(w, 9, 0);
		w->merge.decide = decider;
		merge_ok(w);
		assert_int_equal(w->merge.kept_count, cases[i].kept);
		assert_int_equal(w->merge.output_count, 1);
		world_free(w);
	}
}

static void test_merge__a_good_copy_replaces_a_damaged_one(void **state)
{
	(void)state;
	world *w = world_new(1, 4);
	for (size_t i = 0; i < 4; i++) {
		w->cells[0][i] = (cell){CELL_DAMAGED, 90}; /* the youngest */
		w->cells[1][i] = (cell){i < 3 ? CELL_GOOD : CELL_DAMAGED, 10};
	}
	add_input(w, 100, 0);
	add_input(w, 100, 0);
	merge_ok(w);
	assert_int_equal(w->merge.damaged_count, 1);
	world_free(w);
}

static void test_merge__scrub_proves_what_has_no_copy(void **state)
{
	(void)state;
	for (int scrub = 0; scrub < 2; scrub++) {
		world *w = world_new(1, 30);
		for (size_t i = 0; i < 30; i++)
			w->cells[0][i] = (cell){i % 10 == 3 ? CELL_DAMAGED : i % 10 == 2 ? CELL_TOMBSTONE : CELL_GOOD, 1};
		add_input(w, 100, 0);
		w->merge.scrub = scrub;
		w->plain->twice = true;
		merge_ok(w);
		assert_int_equal(w->merge.damaged_count, scrub ? 3 : 0);
		world_free(w);
	}
}

static void test_merge__nothing_left_is_no_output(void **state)
{
	(void)state;
	world *w = world_new(1, 30);
	merge_ok(w); /* no inputs either */
	assert_int_equal(w->merge.output_count, 0);
	add_random_inputs(w, 3, 0);
	w->modes = 2;
	for (size_t i = 0; i < w->page_count; i++)
		for (size_t k = 0; k < 3; k++)
			if (verdict_of(w, i) != PGS__MERGE_DROP)
				w->cells[k][i].kind = CELL_NONE;
	for (size_t i = 0; i < 3; i++) { /* the inputs anew, of those alone */
		pgs__file_map_release(w->maps[i]);
		pgs__levels_free(&w->levels[i]);
	}
	w->input_count = 0;
	while (w->plain->count)
		plain_remove(w->blob, w->plain->blobs[0].name, 0, NULL);
	for (size_t i = 0; i < 3; i++)
		add_input(w, 50, 0);
	w->merge.decide = decider;
	merge_ok(w);
	assert_int_equal(w->merge.output_count, 0);
	assert_true(w->merge.dropped_count > 0);
	world_free(w);
}

static void test_merge__tiny_files(void **state)
{
	(void)state;
	world *w = world_new(3, 200);
	add_random_inputs(w, 4, 0);
	w->merge.file_bytes_max = 1; /* one entry each, however large */
	merge_ok(w);
	assert_true(w->merge.output_count > 100);
	pgs__merge_discard(&w->merge, 1000);
	assert_int_equal(w->plain->count, w->input_count);
	world_free(w);
}

static void test_merge__files_are_filled(void **state)
{
	(void)state;
	world *w = world_new(3, 1000);
	add_random_inputs(w, 4, 0);
	w->merge.file_bytes_max = 40000;
	merge_ok(w);
	assert_true(w->merge.output_count > 3);
	for (size_t i = 0; i < w->merge.output_count; i++) {
		assert_true(w->merge.outputs[i].size <= 40000);
		if (i + 1 < w->merge.output_count)
			assert_true(w->merge.outputs[i].size > 40000 - PAGE - 2 * PGS__SORTED_ENTRY_SIZE);
	}
	world_free(w);
}

/* Flip a byte of an input's table. */
static void damage_table(world *w, size_t input, size_t offset)
{
	size_t at = plain_find(w->plain, w->files[input]->blob_name);
	w->plain->blobs[at].bytes[PGS__SORTED_HEADER_SIZE + offset] ^= 1;
}

static void test_merge__a_damaged_table_ends_it(void **state)
{
	(void)state;
	world *w = world_new(3, 1000);
	add_random_inputs(w, 3, 0);
	for (size_t k = 0; k < w->page_count; k++)
		w->cells[3][k] = (cell){CELL_GOOD, 5};
	add_input(w, 30, 0);
	damage_table(w, 3, 900 * PGS__SORTED_ENTRY_SIZE + 30); /* a birth, late */
	w->merge.file_bytes_max = 40000;
	w->merge.memory_bytes = 40000; /* so that the table is not read at once */
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(merge_result(w, &err), PGS_ECORRUPT);
	assert_int_equal(err.code, PGS_ECORRUPT);
	assert_non_null(strstr(err.message, w->files[3]->blob_name));
	assert_true(w->merge.output_count > 0);
	pgs__merge_discard(&w->merge, 0);
	assert_int_equal(w->plain->count, w->input_count);
	world_free(w);
}

static void test_merge__a_missing_or_short_input(void **state)
{
	(void)state;
	for (int cut = 0; cut < 2; cut++) {
		world *w = world_new(3, 100);
		add_random_inputs(w, 3, PGS__LEVEL_TABLE_MAX);
		if (cut)
			w->plain->blobs[1].size -= 1;
		else
			plain_remove(w->blob, w->files[1]->blob_name, 0, NULL);
		pgs_error err = PGS_ERROR_INIT;
		w->merge.scrub = true;
		assert_int_equal(merge_result(w, &err), cut ? PGS_ECORRUPT : PGS_ENOTFOUND);
		assert_non_null(strstr(err.message, w->files[1]->blob_name));
		world_free(w);
	}
}

static void test_merge__callbacks_end_it(void **state)
{
	(void)state;
	world *w = world_new(3, 300);
	add_random_inputs(w, 3, 0);
	pgs_error err = PGS_ERROR_INIT;
	w->merge.decide = decider;
	w->end_after = 20;
	assert_int_equal(merge_result(w, &err), PGS_EOLDREV);
	assert_int_equal(err.code, PGS_EOLDREV);
	world_free(w);

	int result = PGS_ETIMEOUT;
	for (uint64_t nth = 1; result != PGS_OK; nth++) { /* also inside of puts */
		w = world_new(3, 300);
		add_random_inputs(w, 3, 0);
		w->merge.memory_bytes = 30000;
		w->merge.progress = progress;
		w->progress_end = nth;
		err = (pgs_error)PGS_ERROR_INIT;
		result = merge_result(w, &err);
		assert_int_equal(err.code, result);
		assert_true(result == PGS_OK || (result == PGS_ETIMEOUT && err.message[0]));
		assert_true(nth > 20 || result != PGS_OK);
		world_free(w);
	}
}

static void test_merge__every_blob_call_failing(void **state)
{
	(void)state;
	for (int kind = PGS_FAULT_ERROR; kind <= PGS_FAULT_LOSE_REPLY; kind++) {
		int result = PGS_EIO;
		for (uint64_t nth = 1; result != PGS_OK; nth++) {
			world *w = world_new(5, 120);
			pgs_fault *fault;
			add_random_inputs(w, 3, 0);
			assert_int_equal(pgs_fault_new(&fault, NULL, NULL), PGS_OK);
			assert_int_equal(pgs_fault_wrap_blob(&w->blob, fault, w->blob, NULL), PGS_OK);
			w->backend.blob = w->blob;
			w->merge.file_bytes_max = 12000;
			w->merge.memory_bytes = 30000;
			pgs_fault_at(fault, nth, (pgs_fault_kind)kind);
			pgs_error err = PGS_ERROR_INIT;
			result = merge_result(w, &err);
			pgs_fault_at(fault, 0, PGS_FAULT_NONE);
			assert_true(result == PGS_OK || (result == PGS_EIO && err.code == PGS_EIO));
			if (result == PGS_OK)
				check_outputs(w);
			pgs__merge_discard(&w->merge, 1000); /* nothing stays, also of a put whose reply was lost */
			assert_int_equal(w->plain->count, w->input_count);
			world_free(w);
			pgs_fault_free(fault);
		}
	}
}

static void test_merge__every_allocation_failing(void **state)
{
	(void)state;
	failing_alloc_install();
	bool failed = true;
	for (size_t nth = 1; failed; nth++) {
		world *w = world_new(5, 120);
		add_random_inputs(w, 3, 0);
		w->merge.file_bytes_max = 12000;
		failing_alloc_begin(nth);
		pgs_error err = PGS_ERROR_INIT;
		int result = merge_result(w, &err);
		failed = failing_alloc_end();
		assert_int_equal(result, failed ? PGS_ENOMEM : PGS_OK);
		assert_int_equal(err.code, result);
		pgs__merge_discard(&w->merge, 1000);
		assert_int_equal(w->plain->count, w->input_count);
		world_free(w);
		assert_int_equal(failing_alloc_live(), 0);
	}
	failing_alloc_uninstall();
}

/* --- memory: an allocator that knows how much there is at a time ------------------------------------- */

static size_t in_use, most_in_use;

static void *sized_realloc(void *ctx, void *ptr, size_t size)
{
	size_t *old = ptr ? (size_t *)((char *)ptr - 16) : NULL, before = old ? *old : 0;
	(void)ctx;
	size_t *block = realloc(old, size + 16);
	if (!block)
		return NULL;
	*block = size;
	in_use += size - before;
	most_in_use = in_use > most_in_use ? in_use : most_in_use;
	return (char *)block + 16;
}

static void *sized_alloc(void *ctx, size_t size)
{
	return sized_realloc(ctx, NULL, size);
}

static void sized_free(void *ctx, void *ptr)
{
	(void)ctx;
	if (!ptr)
		return;
	size_t *block = (size_t *)((char *)ptr - 16);
	in_use -= *block;
	free(block);
}

static void test_merge__memory_is_bounded(void **state)
{
	(void)state;
	static const pgs_allocator sized = {sized_alloc, sized_realloc, sized_free, NULL};
	static const size_t budgets[] = {100 << 10, 300 << 10, 4 << 20};
	pgs_set_allocator(&sized);
	for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
		world *w = world_new(9, PAGES_MAX);
		for (size_t input = 0; input < INPUTS_MAX; input++) {
			for (size_t k = 0; k < w->page_count; k++)
				w->cells[input][k] = (cell){roll(w, 2) ? CELL_RAW : CELL_NONE, 1 + roll(w, 9)};
			add_input(w, 5, 0);
		}
		w->merge.memory_bytes = budgets[i];
		size_t before = in_use;
		most_in_use = in_use;
		w->plain->gets = w->plain->got_bytes = 0;
		merge_ok(w);
		uint64_t values = 0; /* what it returns stays */
		for (size_t k = 0; k < w->merge.output_count; k++)
			values += w->merge.outputs[k].value.capacity + 2 * sizeof *w->merge.outputs;
		assert_true(w->merge.input_bytes > 5000000);
		assert_true(most_in_use - before < budgets[i] + values + 24 * 1024);
		assert_true(w->plain->got_bytes < 4 * w->merge.input_bytes); /* forward: plan, put, and our look at it */
		world_free(w);
		assert_int_equal(in_use, 0);
	}
	pgs_set_allocator(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_merge__random_inputs_match_the_model),
		cmocka_unit_test(test_merge__births_of_zero_become_the_registration),
		cmocka_unit_test(test_merge__tombstone_against_content),
		cmocka_unit_test(test_merge__a_good_copy_replaces_a_damaged_one),
		cmocka_unit_test(test_merge__scrub_proves_what_has_no_copy),
		cmocka_unit_test(test_merge__nothing_left_is_no_output),
		cmocka_unit_test(test_merge__tiny_files),
		cmocka_unit_test(test_merge__files_are_filled),
		cmocka_unit_test(test_merge__a_damaged_table_ends_it),
		cmocka_unit_test(test_merge__a_missing_or_short_input),
		cmocka_unit_test(test_merge__callbacks_end_it),
		cmocka_unit_test(test_merge__every_blob_call_failing),
		cmocka_unit_test(test_merge__every_allocation_failing),
		cmocka_unit_test(test_merge__memory_is_bounded),
	};
	return cmocka_run_group_tests_name("sorted_merge", tests, NULL, NULL);
}
