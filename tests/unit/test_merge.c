/* lib/maintain/merge.c, replace.c: files go down the levels, garbage goes, nothing else does. */
#include "test_collect.h"

#include <pthread.h>

#include "maintain/live.h"
#include "support/txn_stage.h"

static int set_up(void **state, int (*how)(void **))
{
	how(state);
	fixture *f = *state;
	set_thresholds(&f->a);
	set_thresholds(&f->b);
	return 0;
}

static int setup_merge(void **state)
{
	return set_up(state, setup);
}

static int setup_merge_limited(void **state)
{
	return set_up(state, setup_limited);
}

static void flush(process *p)
{
	pgs_maintain_options saved = p->worker.options;
	p->worker.options.all = true;
	int result = pgs__job_flush(&p->worker);
	expect_code(result, PGS_OK, &p->err, "flush");
	p->worker.options = saved;
}

static void merge(process *p)
{
	int result = pgs__job_merge(&p->worker);
	expect_code(result, PGS_OK, &p->err, "merge");
}

static void merge_all(process *p)
{
	p->worker.options.all = true;
	merge(p);
	p->worker.options.all = false;
}

/* Ids are by chance; files of so many pages of a group overlap nevertheless. */
#define N 30

/* One file of level 0 with pages [first, first + count) of a family. */
static void make_file(fixture *f, uint64_t first, uint64_t count, uint64_t family)
{
	write_many(f, first, count, family);
	flush(&f->a);
}

static void expect_files(fixture *f, size_t level0, size_t level1, size_t level2)
{
	assert_int_equal(files_in(f, 0), level0);
	assert_int_equal(files_in(f, 1), level1);
	assert_int_equal(files_in(f, 2), level2);
	expect_no_overlaps(f);
	assert_int_equal(count_kind(f, 'k'), 0);
}

/* Where a content is: '-' nowhere, 'c' once, 't' a tombstone, '+' more than once. */
static char where_is(fixture *f, uint64_t page_no, uint64_t family)
{
	pgs__page_id id = id_of(f, page_no, seed_of(family + page_no, 0));
	pgs__sorted_entry row;
	size_t count = rows_of(f, &id, &row);
	return count > 1 ? '+' : count == 0 ? '-' : row.length ? 'c' : 't';
}

/* --- down the levels ----------------------------------------------------------------- */

static void test_merge__level_0_into_level_1(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++) {
		merge(&f->b);
		expect_files(f, i, 0, 0);
		make_file(f, 5 * i, 10, 1000 * i); /* the second half of each is overwritten by the next */
	}
	merge(&f->b);
	expect_files(f, 0, 1, 0);
	assert_int_equal(f->b.report.merges, 1);
	assert_int_equal(f->b.report.merged_files, 4);
	assert_int_equal(f->b.report.dropped_contents, 0); /* no floor was published */
	assert_int_equal(f->b.report.due_merge_files, 0);
	assert_false(f->b.report.more);
	assert_int_equal(count_kind(f, 'd'), 4);
	reopen(f, &f->a);
	for (uint64_t i = 0; i < 4; i++)
		expect_many(f, 5 * i, i < 3 ? 5 : 10, 1000 * i);
	expect_page(f, 7, seed_of(1007, 0), 0);
}

static void test_merge__births_are_kept(void **state)
{
	fixture *f = *state;
	uint64_t births[4];
	for (uint64_t i = 0; i < 4; i++) {
		births[i] = write_one(f, i, seed_of(100 + i, 0));
		flush(&f->a);
	}
	for (int round = 0; round < 2; round++) {
		if (round)
			merge_all(&f->b);
		else
			merge(&f->b);
		for (uint64_t i = 0; i < 4; i++) {
			pgs__sorted_entry row;
			pgs__page_id id = id_of(f, i, seed_of(100 + i, 0));
			assert_int_equal(rows_of(f, &id, &row), 1);
			assert_int_equal(row.birth, births[i]);
		}
	}
}

static void test_merge__what_is_apart_is_moved(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 1000 * i, 5, 1);
	uint64_t written = f->b.report.bytes_written;
	size_t blobs = count_blobs(f);
	merge(&f->b);
	expect_files(f, 3, 1, 0); /* then there are not enough any more */
	assert_int_equal(f->b.report.bytes_written, written);
	assert_int_equal(count_blobs(f), blobs);
	assert_int_equal(count_kind(f, 'd'), 0);
	reopen(f, &f->a);
	expect_many(f, 0, 5, 1);
}

static void test_merge__excess_goes_on_down(void **state)
{
	fixture *f = *state;
	f->b.worker.options.level_fanout = 2;
	f->b.worker.options.level0_files = 1;
	for (uint64_t i = 0; i < 8; i++) {
		make_file(f, 1000 * i, 5, 1);
		merge(&f->b);
	}
	expect_files(f, 0, 2, 4);
	assert_int_equal(files_in(f, 3), 2);
	reopen(f, &f->a);
	for (uint64_t i = 0; i < 8; i++)
		expect_many(f, 1000 * i, 5, 1);
}

static void test_merge__dry_run_only_looks(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 0, N, 100 * i);
	uint64_t before = revision_now(f);
	f->b.worker.options.dry_run = true;
	merge(&f->b);
	assert_int_equal(revision_now(f), before);
	assert_int_equal(f->b.report.due_merge_files, 4);
	assert_false(f->b.report.more);
}

static void test_merge__stops_when_the_budget_is_spent(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 8; i++)
		make_file(f, i / 4 * 1000, N, 100 * i);
	f->b.worker.bytes_left = 10;
	f->b.worker.options.level0_files = 1;
	merge(&f->b);
	expect_files(f, 4, 1, 0);
	assert_true(f->b.report.more);
	assert_int_equal(f->b.report.due_merge_files, 4);
	f->b.worker.bytes_left = UINT64_MAX;
	f->b.report.more = false;
	merge(&f->b);
	expect_files(f, 0, 2, 0);
	assert_false(f->b.report.more);
}

typedef struct ending {
	int calls, code;
} ending;

static int count_progress(void *ctx, const pgs_maintain_progress *progress)
{
	ending *e = ctx;
	assert_string_equal(progress->job, "merge");
	assert_true(progress->total == 0 || progress->done <= progress->total);
	return --e->calls == 0 ? e->code : 0;
}

/* With whatever code, also those that mean something here. */
static void test_merge__ends_with_the_progress_callback(void **state)
{
	fixture *f = *state;
	static const int codes[] = {-77, 5, PGS_EBUSY, PGS_ENOTFOUND, PGS_EUNKNOWN};
	ending e;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 0, N, 100 * i);
	f->b.worker.options.progress = count_progress;
	f->b.worker.options.progress_ctx = &e;
	size_t blobs = count_blobs(f);
	for (size_t i = 0; i < COUNT_OF(codes); i++) {
		e = (ending){2, codes[i]};
		assert_int_equal(pgs__job_merge(&f->b.worker), codes[i]);
		expect_files(f, 4, 0, 0);
		assert_int_equal(count_blobs(f), blobs); /* nothing is left behind */
	}
	e.calls = 0;
	merge(&f->b);
	expect_files(f, 0, 1, 0);
}

/* --- garbage ------------------------------------------------------------------------------ */

static void test_merge__drops_what_is_dead_and_old(void **state)
{
	fixture *f = *state;
	make_file(f, 0, 10, 1000);
	make_file(f, 0, 5, 2000); /* pages 0 … 4 of 1000 are dead at the floor, and born before the previous one */
	publish_now(f);
	write_many(f, 5, 2, 3000); /* 5 and 6 of 1000 die after the floor */
	flush(&f->a);
	make_file(f, 5, 1, 4000); /* and so does 5 of 3000, which is young */
	merge_all(&f->b);
	expect_files(f, 0, 1, 0);
	assert_int_equal(f->b.report.dropped_contents, 5);
	for (uint64_t n = 0; n < 10; n++)
		assert_int_equal(where_is(f, n, 1000), n < 5 ? '-' : 'c');
	assert_int_equal(where_is(f, 5, 3000), 'c');
	assert_int_equal(where_is(f, 5, 4000), 'c');
	uint64_t floor = f->a.worker.floor.floor;
	reopen(f, &f->a);
	for (uint64_t n = 5; n < 10; n++)
		expect_page(f, n, seed_of(1000 + n, 0), floor);
}

/* Dead at the floor, but born after the previous one: whoever put it may yet be led to it. */
static void test_merge__births_are_held_against_the_previous_floor(void **state)
{
	fixture *f = *state;
	publish(f, revision_now(f));
	make_file(f, 0, N, 1000);
	make_file(f, 0, N, 2000);
	publish(f, revision_now(f));
	make_file(f, 0, N, 3000);
	make_file(f, 0, N, 4000);
	merge(&f->b);
	assert_int_equal(f->b.report.dropped_contents, 0);
	assert_int_equal(where_is(f, 0, 1000), 'c');
	publish(f, revision_now(f));
	merge_all(&f->b);
	assert_int_equal(where_is(f, 0, 1000), '-');
	assert_int_equal(where_is(f, 0, 2000), '-');
	assert_int_equal(where_is(f, 0, 3000), 'c'); /* dead, but born after the previous floor */
}

static void test_merge__bases_are_live(void **state)
{
	fixture *f = *state;
	write_one(f, 0, seed_of(100, 0));
	flush(&f->a);
	write_one(f, 0, seed_of(100, 1)); /* a delta */
	publish_now(f);
	make_file(f, 1, 5, 500);
	merge_all(&f->b);
	expect_files(f, 0, 1, 0);
	reopen(f, &f->a);
	expect_page(f, 0, seed_of(100, 1), 0);
}

static void test_merge__a_file_of_garbage_alone_vanishes(void **state)
{
	fixture *f = *state;
	make_file(f, 0, N, 1000);
	make_file(f, 0, N, 2000);
	pgs_txn *t = begin_write(f->a.db);
	assert_int_equal(pgs_truncate(t, 0), PGS_OK);
	commit_ok(t);
	publish_now(f);
	merge_all(&f->b);
	expect_files(f, 0, 0, 0);
	assert_int_equal(f->b.report.dropped_contents, 2 * N);
	assert_int_equal(count_kind(f, 'd'), 2);
}

static void test_merge__tombstones_where_something_below_may_hold_it(void **state)
{
	fixture *f = *state;
	f->a.worker.options.level_fanout = 1;
	f->a.worker.options.level0_files = 1;
	make_file(f, 0, N, 1000);
	merge(&f->a); /* in level 1 */
	make_file(f, 700, 3, 1);
	merge(&f->a);
	make_file(f, 800, 3, 1);
	merge(&f->a);
	/* Some of them went below level 1; bring all of it down. */
	merge_all(&f->a);
	set_thresholds(&f->a);
	pgs__file_map *map = files_of(&f->a);
	assert_true(map->count > 0 && map->files[0]->key.level >= 2);
	pgs__file_map_release(map);
	/* Put again in level 0, then dead for good, with three more files to make it due. */
	write_many(f, 0, N, 5000);
	write_many(f, 0, N, 1000);
	flush(&f->a);
	assert_int_equal(where_is(f, 1, 1000), '+');
	make_file(f, 0, N, 2000);
	make_file(f, 0, N, 3000);
	make_file(f, 0, N, 4000);
	publish_now(f);
	merge(&f->b);
	pgs__page_id id = id_of(f, 1, seed_of(1001, 0)), gone = id_of(f, 1, seed_of(2001, 0));
	pgs__sorted_entry row;
	if (f->b.report.merges == 1) { /* one run in eight also rewrites an old file, and meets the tombstone */
		assert_int_equal(rows_of(f, &id, &row), 2); /* the tombstone above, the content below */
		assert_true(row.length > 0);
	}
	assert_int_equal(rows_of(f, &gone, NULL), 0); /* the table below is known: it has no copy */
	reopen(f, &f->a);
	expect_many(f, 0, N, 4000);
	merge_all(&f->b);
	assert_int_equal(rows_of(f, &id, NULL), 0);
	reopen(f, &f->a);
	expect_many(f, 0, N, 4000);
	expect_many(f, 700, 3, 1);
}

static void test_merge__turnover_of_what_no_merge_would_visit(void **state)
{
	fixture *f = *state;
	f->b.worker.options.flush_pages = 20;
	make_file(f, 0, 100, 1000);
	make_file(f, 1000, 100, 1000);
	merge_all(&f->a);
	pgs_txn *t = begin_write(f->a.db);
	assert_int_equal(pgs_truncate(t, 80), PGS_OK);
	commit_ok(t);
	merge(&f->b);
	assert_int_equal(f->b.report.merges, 0); /* nothing is old enough */
	publish_now(f);
	for (int i = 0; i < 3; i++)
		merge(&f->b);
	assert_in_range(f->b.report.merges, 1, 2);
	assert_int_equal(where_is(f, 85, 1000), '-');
	assert_int_equal(where_is(f, 1005, 1000), '-');
	assert_int_equal(where_is(f, 75, 1000), 'c');
	uint64_t merges = f->b.report.merges;
	merge(&f->b); /* and then there is no reason any more */
	assert_int_equal(f->b.report.merges, merges);
	reopen(f, &f->a);
	expect_many(f, 0, 80, 1000);
}

static void write_zeros(fixture *f, uint64_t first, uint64_t count)
{
	pgs_txn *t = begin_write(f->a.db);
	for (uint64_t n = first; n < first + count; n++)
		assert_int_equal(write_seed(t, n, 0), PGS_OK); /* zeros: no content */
	commit_ok(t);
}

/* More contents than can be live, by far: files are looked through, and left alone if they are not the reason. */
static void test_merge__files_with_little_garbage_are_not_rewritten(void **state)
{
	fixture *f = *state;
	f->b.worker.options.flush_pages = 20;
	make_file(f, 0, 100, 1000);
	write_zeros(f, 0, 20);
	publish_now(f);
	for (uint64_t i = 0; i < 2; i++)
		make_file(f, 0, 100, 1000 * (2 + i)); /* young */
	for (int i = 0; i < 5; i++)
		merge(&f->b);
	assert_int_equal(f->b.report.merges, 0);
	assert_int_equal(where_is(f, 3, 1000), 'c');
	assert_int_equal(where_is(f, 30, 1000), 'c');
	publish_now(f); /* and now all of the first is */
	for (int i = 0; i < 5; i++)
		merge(&f->b);
	assert_int_equal(where_is(f, 3, 1000), '-');
	assert_int_equal(where_is(f, 30, 1000), '-');
	reopen(f, &f->a);
	expect_many(f, 0, 100, 3000);
}

static void test_merge__all_leaves_one_level_without_garbage(void **state)
{
	fixture *f = *state;
	f->a.worker.options.file_bytes = f->b.worker.options.file_bytes = 20 * TEST_PAGE_SIZE;
	for (uint64_t i = 0; i < 12; i++) {
		make_file(f, 7 * i, 20, 1000 * i);
		if (i % 3 == 2)
			merge_all(&f->a);
	}
	publish_now(f);
	merge_all(&f->b);
	pgs__file_map *map = files_of(&f->a);
	uint64_t count = 0;
	for (size_t i = 0; i < map->count; i++) {
		assert_int_equal(map->files[i]->key.level, map->files[0]->key.level);
		assert_int_not_equal(map->files[i]->key.level, 0);
		assert_true(map->files[i]->index.file_size <= 20 * TEST_PAGE_SIZE);
		count += map->files[i]->index.count;
	}
	assert_in_range(map->count, 5, 7);
	pgs__file_map_release(map);
	assert_int_equal(count, 7 * 11 + 20 - 1); /* page 0 of family 0 is zeros */
	expect_no_overlaps(f);
	reopen(f, &f->a);
	for (uint64_t i = 0; i < 12; i++)
		expect_many(f, 7 * i, i < 11 ? 7 : 20, 1000 * i);
	uint64_t merges = f->b.report.merges;
	merge_all(&f->b); /* nothing to do any more */
	assert_int_equal(f->b.report.merges, merges);
}

/* --- others at work ---------------------------------------------------------------------------- */

static void break_claims(fixture *f)
{
	pgs__key from = pgs__key_lock(pgs__db_prefix(f->a.db), "m-"), end = pgs__key_lock(pgs__db_prefix(f->a.db), "m.");
	const pgs_kv_op op = {.kind = PGS_KV_DELETE, .key = pgs__key_slice(&from), .range_end = pgs__key_slice(&end)};
	kv_apply(f->server.kv, &op, 1);
}

static void break_claims_at_put(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "put") == 0)
		break_claims(f);
}

static void pass_floor_at_put(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "put") == 0)
		publish_now(f);
}

static void put_input_again(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "put") != 0)
		return;
	pgs__file_map *map = files_of(&f->a);
	const pgs__level_key *k = &map->files[map->count - 1]->key;
	pgs__key key = pgs__key_level(pgs__db_prefix(f->a.db), k->level, &k->first, &k->last, k->file_name);
	const pgs_kv_op get = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&key)};
	pgs_kv_txn txn = txn_of(&get, 1);
	assert_int_equal(run_txn(f->server.kv, &txn), PGS_OK);
	put_raw(f, &key, txn.results[0].pairs[0].value);
	f->server.kv->vtable->release(f->server.kv, &txn, 1);
	pgs__file_map_release(map);
}

static void test_merge__is_fenced(void **state)
{
	fixture *f = *state;
	void (*const others[])(fixture *, uint64_t, const char *) = {break_claims_at_put, pass_floor_at_put, put_input_again};
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 0, N, 100 * i);
	size_t blobs = count_blobs(f);
	for (size_t i = 0; i < COUNT_OF(others); i++) {
		watch_calls(f, others[i]);
		merge(&f->b);
		f->before = NULL;
		expect_files(f, 4, 0, 0);
		assert_int_equal(f->b.report.merges, 0);
		assert_int_equal(count_kind(f, 'd'), 0);
		assert_int_equal(count_blobs(f), blobs);
		assert_true(f->b.report.more);
	}
	merge(&f->b);
	expect_files(f, 0, 1, 0);
	reopen(f, &f->a);
	expect_many(f, 0, N, 300);
}

/* Process a as it would be anywhere: floors without retention, and the KV compacted to them. */
static void collect_all(fixture *f)
{
	process *p = &f->a;
	pgs_maintain_options saved = p->worker.options;
	p->worker.options.all = true;
	p->worker.options.retention_ms = PGS_RETENTION_NONE;
	int result = pgs__job_floor(&p->worker);
	if (result == PGS_OK)
		result = pgs__job_compact_kv(&p->worker);
	expect_code(result, PGS_OK, &p->err, "collecting");
	p->worker.options = saved;
}

/* Pages change, floors follow, the KV forgets: whenever the merge reads or writes a blob. */
static void collect_all_the_time(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "get") != 0 && strcmp(operation, "put") != 0)
		return;
	write_one(f, 5000, seed_of(90000 + ++f->number, 0));
	collect_all(f);
}

static void test_merge__is_registered_while_others_publish_floors(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++) {
		make_file(f, 0, N, 100 * i);
		collect_all(f);
	}
	f->number = 0;
	watch_calls(f, collect_all_the_time);
	merge(&f->b);
	f->before = NULL;
	assert_in_range(f->number, 2, 1000);
	expect_files(f, 0, 1, 0);
	assert_int_equal(f->b.report.merges, 1);
	assert_int_equal(count_kind(f, 'r'), 0);
	reopen(f, &f->a);
	expect_many(f, 0, N, 300);
}

static void break_pins(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	(void)operation;
	delete_kind(f, 'r');
}

/* It helps, but nothing relies on it. */
static void test_merge__does_without_its_pin(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 0, N, 100 * i);
	watch_calls(f, break_pins);
	merge(&f->b);
	f->before = NULL;
	expect_files(f, 0, 1, 0);
	assert_int_equal(f->b.report.merges, 1);
}

static int count_pins(void *ctx, const pgs_maintain_progress *progress)
{
	(void)progress;
	fixture *f = ctx;
	f->number += count_kind(f, 'r') > 0;
	return 0;
}

/* A move is one step: nothing can come between often. */
static void test_merge__a_move_pins_nothing(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 1000 * i, 5, 1);
	uint64_t before = revision_now(f);
	merge(&f->b);
	expect_files(f, 3, 1, 0);
	assert_int_equal(revision_now(f) - before, 3); /* claim, move, release */
}

/* What it costs in the KV: a pin and its release, beside the claim, its release, and the registration. */
static void test_merge__pins_once(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 0, N, 100 * i);
	uint64_t before = revision_now(f);
	f->b.worker.options.progress = count_pins;
	f->b.worker.options.progress_ctx = f;
	f->number = 0;
	merge(&f->b);
	assert_int_not_equal(f->number, 0);
	assert_int_equal(revision_now(f) - before, 5);
	assert_int_equal(count_kind(f, 'r'), 0);
}

static void test_merge__takes_what_others_leave(void **state)
{
	fixture *f = *state;
	pgs__page_id first = id_of(f, 0, 1), last = id_of(f, 256, 1);
	memset(first.bytes + 4, 0, 12);
	memset(last.bytes + 4, 0, 12);
	const pgs__scope scope = {PGS__JOB_MERGE, 0, 1, first, last};
	pgs__claim claim;
	for (uint64_t i = 0; i < 8; i++)
		make_file(f, i / 4 * 1000, N, 100 * i);
	assert_int_equal(pgs__claim_take(&f->a.worker, &scope, &claim), PGS_OK);
	merge(&f->b);
	assert_true(f->b.report.busy);
	assert_int_equal(f->b.report.merges, 1);
	assert_int_equal(files_in(f, 0), 4);
	assert_int_equal(files_in(f, 1), 1);
	pgs__claim_release(&f->a.worker, &claim);
	f->b.worker.options.level0_files = 1;
	merge(&f->b);
	expect_files(f, 0, 2, 0);
}

/* --- damage ------------------------------------------------------------------------------------- */

static void test_merge__a_damaged_list_of_files_stops_it(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 0, N, 100 * i);
	pgs__page_id id = id_of(f, 0, 1);
	pgs__key key = pgs__key_level(pgs__db_prefix(f->a.db), 3, &id, &id, "s-bad");
	put_raw(f, &key, (pgs_slice){"\1damage", 7});
	assert_int_equal(pgs__job_merge(&f->b.worker), PGS_ECORRUPT);
	assert_int_equal(count_kind(f, 'l'), 5);
	delete_raw(f, &key);
	merge(&f->b);
	expect_files(f, 0, 1, 0);
}

static void test_merge__a_lost_file_is_named(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 0, N, 100 * i);
	pgs__file_map *map = files_of(&f->a);
	assert_int_equal(f->server.blob->vtable->remove(f->server.blob, map->files[2]->blob_name, 0, NULL), PGS_OK);
	assert_int_equal(pgs__job_merge(&f->b.worker), PGS_ECORRUPT);
	assert_non_null(strstr(f->b.err.message, "missing"));
	pgs__file_map_release(map);
	expect_files(f, 4, 0, 0);
}

static void test_merge__of_a_dropped_database(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 4; i++)
		make_file(f, 0, N, 100 * i);
	assert_int_equal(pgs_db_drop(f->a.store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs__job_merge(&f->b.worker), PGS_ENOTFOUND);
}

/* --- limits --------------------------------------------------------------------------------------- */

/* More inputs and outputs than one transaction takes. */
static void make_many_files(fixture *f)
{
	f->a.worker.options.file_bytes = f->b.worker.options.file_bytes = 64 + 5 * (TEST_PAGE_SIZE + 36);
	for (uint64_t i = 0; i < 3; i++)
		write_many(f, 0, 250, 1000 * i);
	flush(&f->a);
	assert_in_range(files_in(f, 0), 140, 160);
	write_many(f, 0, 1, 5000);
}

static void test_merge__more_files_than_a_transaction_takes(void **state)
{
	fixture *f = *state;
	make_many_files(f);
	publish_now(f);
	merge_all(&f->b);
	assert_int_equal(files_in(f, 0), 0);
	expect_no_overlaps(f);
	flush(&f->b);
	reopen(f, &f->a);
	expect_many(f, 1, 249, 2000);
	expect_page(f, 0, seed_of(5000, 0), 0);
}

/* --- faults ------------------------------------------------------------------------------------------ */

static void hit_every_call(fixture *f, pgs_fault_kind kind, bool many)
{
	bool over = false;
	for (uint64_t nth = 1; !over; nth += many ? 17 : 1) {
		uint64_t family = 10000 * nth;
		if (many) {
			f->a.worker.options.file_bytes = f->b.worker.options.file_bytes = 64 + 2 * (TEST_PAGE_SIZE + 36);
			write_many(f, 0, 100, family);
			flush(&f->a);
		} else {
			for (uint64_t i = 0; i < 4; i++)
				make_file(f, 0, N, family + 100 * i);
			family += 300;
		}
		publish_now(f);
		pgs_maintain_options options = f->b.worker.options;
		reopen(f, &f->b);
		f->b.worker.options = options;
		uint64_t before = pgs_fault_calls(f->fault);
		pgs_fault_at(f->fault, nth, kind);
		f->b.worker.options.all = many;
		int result = pgs__job_merge(&f->b.worker);
		over = pgs_fault_calls(f->fault) - before < nth;
		pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
		if (kind == PGS_FAULT_STOP)
			pgs_fault_resume(f->fault);
		if (over)
			assert_int_equal(result, PGS_OK);
		else if (result != PGS_OK && result != PGS_EIO && result != PGS_ECORRUPT)
			fail_msg("call %llu: %s: %s", (unsigned long long)nth, pgs_error_name(result), f->b.err.message);
		if (result == PGS_ECORRUPT)
			fail_msg("call %llu: %s", (unsigned long long)nth, f->b.err.message);
		reopen(f, &f->a);
		expect_many(f, 0, many ? 100 : N, family);
		break_claims(f);
		merge_all(&f->a);
		pgs_fault_deliver(f->fault); /* what comes now changes nothing */
		assert_int_equal(files_in(f, 0), 0);
		expect_no_overlaps(f);
		reopen(f, &f->a);
		expect_many(f, 0, many ? 100 : N, family);
	}
}

static void test_merge__errors(void **state)
{
	hit_every_call(*state, PGS_FAULT_ERROR, false);
}

static void test_merge__lost_replies(void **state)
{
	hit_every_call(*state, PGS_FAULT_LOSE_REPLY, false);
}

static void test_merge__late_replies(void **state)
{
	hit_every_call(*state, PGS_FAULT_DELAY, false);
}

static void test_merge__a_worker_that_dies(void **state)
{
	hit_every_call(*state, PGS_FAULT_STOP, false);
}

static void test_merge__a_worker_that_dies_between_many_steps(void **state)
{
	hit_every_call(*state, PGS_FAULT_STOP, true);
}

static void test_merge__lost_replies_between_many_steps(void **state)
{
	hit_every_call(*state, PGS_FAULT_LOSE_REPLY, true);
}

static void test_merge__runs_out_of_memory_cleanly(void **state)
{
	fixture *f = *state;
	bool failed = true;
	for (uint64_t nth = 1; failed; nth++) {
		for (uint64_t i = 0; i < 4; i++)
			make_file(f, 0, 2, 1000 * nth + 100 * i);
		publish_now(f);
		failing_alloc_begin(nth);
		int result = pgs__job_merge(&f->b.worker);
		failed = failing_alloc_end();
		if (result != PGS_OK && result != PGS_ENOMEM)
			fail_msg("allocation %llu: %s: %s", (unsigned long long)nth, pgs_error_name(result), f->b.err.message);
		if (!failed)
			assert_int_equal(result, PGS_OK);
		merge_all(&f->a);
		expect_no_overlaps(f);
		expect_many(f, 0, 2, 1000 * nth + 300);
	}
}

/* --- everything at once, against a model --------------------------------------------------------------- */

#define MODEL_PAGES 96
#define MODEL_REVISIONS 400

typedef struct model {
	fixture *f;
	uint64_t random;
	struct {
		uint64_t revision;
		uint64_t seeds[MODEL_PAGES];
	} states[MODEL_REVISIONS];
	size_t count;
	uint64_t seeds[MODEL_PAGES];
	uint64_t floor;
} model;

static uint64_t model_random(model *m, uint64_t below)
{
	return stage_random(&m->random) % below;
}

static uint64_t model_page(uint64_t index)
{
	return index / 16 * 256 + index % 16; /* in six groups */
}

static void model_write(model *m)
{
	pgs_txn *t = begin_write(m->f->a.db);
	uint64_t count = 1 + model_random(m, model_random(m, 4) ? 4 : MODEL_PAGES);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t page = model_random(m, MODEL_PAGES);
		m->seeds[page] = model_random(m, 10) ? seed_of(1 + model_random(m, 40), model_random(m, 3)) : 0;
		assert_int_equal(write_seed(t, model_page(page), m->seeds[page]), PGS_OK);
	}
	if (model_random(m, 20) == 0) {
		uint64_t left = model_random(m, MODEL_PAGES);
		assert_int_equal(pgs_truncate(t, model_page(left)), PGS_OK);
		memset(m->seeds + left, 0, (MODEL_PAGES - left) * sizeof m->seeds[0]);
	}
	m->states[m->count].revision = commit_ok(t);
	memcpy(m->states[m->count++].seeds, m->seeds, sizeof m->seeds);
}

static void model_publish(model *m)
{
	assert_int_equal(pgs__worker_read_floor(&m->f->a.worker), PGS_OK);
	uint64_t least = m->f->a.worker.floor_revision, now = revision_now(m->f);
	if (least < m->floor)
		least = m->floor;
	m->floor = least + model_random(m, now - least + 1);
	publish(m->f, m->floor);
}

static void model_check(model *m)
{
	reopen(m->f, &m->f->a);
	for (size_t i = 0; i < m->count; i++) {
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_txn *t;
		/* The state lasts until the next commit: it is readable if that is above the floor. */
		o.at_revision = m->states[i].revision > m->floor ? m->states[i].revision : m->floor;
		if (i + 1 < m->count && m->states[i + 1].revision <= o.at_revision)
			continue;
		if (model_random(m, 3) && i + 1 < m->count)
			continue;
		assert_int_equal(pgs_begin(&t, m->f->a.db, &o, NULL), PGS_OK);
		for (uint64_t page = 0; page < MODEL_PAGES; page++) {
			int result = read_seed(t, model_page(page), m->states[i].seeds[page]);
			expect_code(result, PGS_OK, pgs_txn_error(t), "read");
		}
		pgs_abort(t);
	}
}

static void small_thresholds(process *p)
{
	p->worker.options.flush_pages = 10;
	p->worker.options.level0_files = 2;
	p->worker.options.level_fanout = 2;
	p->worker.options.file_bytes = 12 * TEST_PAGE_SIZE;
	p->worker.options.memory_bytes = 1 << 20;
}

static void model_maintain(model *m)
{
	process *p = model_random(m, 2) ? &m->f->a : &m->f->b;
	pgs_maintain_options saved = p->worker.options;
	p->worker.options.all = model_random(m, 8) == 0;
	uint64_t what = model_random(m, 8);
	int result = what < 4 ? pgs__job_flush(&p->worker) : what < 7 ? pgs__job_merge(&p->worker) : pgs__job_fold(&p->worker);
	expect_code(result, PGS_OK, &p->err, "maintenance");
	p->worker.options = saved;
	expect_no_overlaps(m->f);
}

/* After two floors at the present and everything merged, what is stored is what is live. */
static void model_expect_no_garbage(model *m)
{
	uint64_t live = 0, stored = 0;
	publish_now(m->f);
	m->floor = m->f->a.worker.floor.floor;
	flush(&m->f->a);
	merge_all(&m->f->b);
	pgs__live *set;
	assert_int_equal(pgs__live_open(&set, &m->f->a.worker), PGS_OK);
	pgs__file_map *map = files_of(&m->f->a);
	for (size_t i = 0; i < map->count; i++)
		stored += map->files[i]->index.count;
	pgs__file_map_release(map);
	for (uint64_t family = 1; family <= 40; family++)
		for (uint64_t member = 0; member < 3; member++)
			for (uint64_t group = 0; group < MODEL_PAGES / 16; group++) {
				bool is_live;
				pgs__page_id id = id_of(m->f, group * 256, seed_of(family, member));
				assert_int_equal(pgs__live_has(set, &id, &is_live), PGS_OK);
				live += is_live && rows_of(m->f, &id, NULL) == 1;
			}
	pgs__live_close(set);
	assert_int_equal(stored, live);
}

static void run_model(fixture *f, uint64_t seed)
{
	model *m = calloc(1, sizeof *m);
	m->f = f;
	m->random = seed;
	small_thresholds(&f->a);
	small_thresholds(&f->b);
	while (m->count < 300) {
		uint64_t what = model_random(m, 10);
		if (what < 5) {
			model_write(m);
		} else if (what < 6) {
			model_publish(m);
		} else {
			model_maintain(m);
			model_check(m);
		}
	}
	model_expect_no_garbage(m);
	model_check(m);
	free(m);
}

static void test_merge__against_a_model(void **state)
{
	run_model(*state, 1);
}

static void test_merge__against_a_model_again(void **state)
{
	const char *seed = getenv("MERGE_SEED");
	run_model(*state, seed ? strtoull(seed, NULL, 10) : 2);
}

/* --- several workers --------------------------------------------------------------------------------------- */

static void *work(void *ctx)
{
	process *p = ctx;
	for (int i = 0; i < 30; i++) {
		int result = pgs__job_flush(&p->worker);
		if (result == PGS_OK)
			result = pgs__job_merge(&p->worker);
		if (result != PGS_OK)
			return p;
	}
	return NULL;
}

static void test_merge__several_workers_share_the_work(void **state)
{
	fixture *f = *state;
	process more[2];
	pthread_t threads[3];
	for (size_t i = 0; i < 2; i++) {
		more[i] = (process){.store = server_open(&f->server, NULL, NULL)};
		more[i].db = open_db(more[i].store, "db");
		worker_init(&more[i]);
		set_thresholds(&more[i]);
		small_thresholds(&more[i]);
	}
	small_thresholds(&f->b);
	process *const workers[] = {&f->b, &more[0], &more[1]};
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, work, workers[i]), 0);
	for (uint64_t i = 0; i < 60; i++)
		write_many(f, i % 6 * 256 + i % 7, 9, 1000 * i);
	for (size_t i = 0; i < 3; i++) {
		void *failed;
		pthread_join(threads[i], &failed);
		if (failed)
			fail_msg("worker %zu: %s", i, workers[i]->err.message);
	}
	expect_no_overlaps(f);
	for (uint64_t i = 54; i < 60; i++)
		expect_many(f, i % 6 * 256 + i % 7, 9, 1000 * i);
	for (size_t i = 0; i < 2; i++) {
		pgs_db_close(more[i].db);
		pgs_close(more[i].store);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_merge__level_0_into_level_1, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__births_are_kept, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__what_is_apart_is_moved, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__excess_goes_on_down, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__dry_run_only_looks, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__stops_when_the_budget_is_spent, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__ends_with_the_progress_callback, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__drops_what_is_dead_and_old, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__births_are_held_against_the_previous_floor, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__bases_are_live, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__a_file_of_garbage_alone_vanishes, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__tombstones_where_something_below_may_hold_it, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__turnover_of_what_no_merge_would_visit, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__files_with_little_garbage_are_not_rewritten, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__all_leaves_one_level_without_garbage, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__is_fenced, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__is_registered_while_others_publish_floors, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__does_without_its_pin, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__a_move_pins_nothing, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__pins_once, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__takes_what_others_leave, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__a_damaged_list_of_files_stops_it, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__a_lost_file_is_named, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__of_a_dropped_database, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__more_files_than_a_transaction_takes, setup_merge_limited, teardown),
		cmocka_unit_test_setup_teardown(test_merge__errors, setup_merge_limited, teardown),
		cmocka_unit_test_setup_teardown(test_merge__lost_replies, setup_merge_limited, teardown),
		cmocka_unit_test_setup_teardown(test_merge__late_replies, setup_merge_limited, teardown),
		cmocka_unit_test_setup_teardown(test_merge__a_worker_that_dies, setup_merge_limited, teardown),
		cmocka_unit_test_setup_teardown(test_merge__a_worker_that_dies_between_many_steps, setup_merge_limited, teardown),
		cmocka_unit_test_setup_teardown(test_merge__lost_replies_between_many_steps, setup_merge_limited, teardown),
		cmocka_unit_test_setup_teardown(test_merge__runs_out_of_memory_cleanly, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__against_a_model, setup_merge, teardown),
		cmocka_unit_test_setup_teardown(test_merge__against_a_model_again, setup_merge_limited, teardown),
		cmocka_unit_test_setup_teardown(test_merge__several_workers_share_the_work, setup_merge, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
