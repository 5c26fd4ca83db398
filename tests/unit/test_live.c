/* lib/maintain/live.c: which contents are live at a floor; lib/txn/pointers.c: the scan below it. */
#include "test_collect.h"

#include "codec/pack.h"
#include "codec/snapshot_record.h"
#include "maintain/live.h"
#include "support/txn_stage.h"
#include "txn/snapshot.h"

#define GROUP 256 /* pages of 4096 bytes */

static void publish_for_both(fixture *f, uint64_t floor)
{
	publish(f, floor);
	assert_int_equal(pgs__worker_read_floor(&f->b.worker), PGS_OK);
}

static pgs__live *open_live(process *p)
{
	pgs__live *live;
	int result = pgs__live_open(&live, &p->worker);
	expect_code(result, PGS_OK, &p->err, "live set");
	return live;
}

static bool has(process *p, pgs__live *live, const pgs__page_id *id)
{
	bool is_live;
	int result = pgs__live_has(live, id, &is_live);
	expect_code(result, PGS_OK, &p->err, "live?");
	return is_live;
}

static bool is_live(fixture *f, uint64_t page_no, uint64_t seed)
{
	pgs__page_id id = id_of(f, page_no, seed);
	pgs__live *live = open_live(&f->b);
	bool result = has(&f->b, live, &id);
	pgs__live_close(live);
	return result;
}

static void test_live__all_is_live_before_a_floor_was_published(void **state)
{
	fixture *f = *state;
	assert_int_equal(pgs__worker_read_floor(&f->b.worker), PGS_OK);
	assert_true(is_live(f, 7, seed_of(1, 0)));
}

static void test_live__what_the_floor_shows_and_no_more(void **state)
{
	fixture *f = *state;
	write_one(f, 7, seed_of(1, 0));
	uint64_t floor = write_one(f, 7, seed_of(2, 0));
	write_one(f, 7, seed_of(3, 0));
	publish_for_both(f, floor);
	assert_false(is_live(f, 7, seed_of(1, 0)));
	assert_true(is_live(f, 7, seed_of(2, 0)));
	assert_true(is_live(f, 8, seed_of(2, 0)));     /* the content, whichever page of the group it is of */
	assert_false(is_live(f, 7 + GROUP, seed_of(2, 0)));
	assert_false(is_live(f, 7, seed_of(3, 0)));    /* born later: that is for births to say */
}

static void test_live__bases_of_deltas(void **state)
{
	fixture *f = *state;
	write_one(f, 7, seed_of(1, 0));
	uint64_t floor = write_one(f, 7, seed_of(1, 1));
	write_one(f, 7, seed_of(2, 0));
	publish_for_both(f, floor);
	assert_true(is_live(f, 7, seed_of(1, 0)));
}

/* More pages than one transaction takes, on a limited backend: a pack. Then keys younger than it, and a truncation. */
static void test_live__packs_by_age(void **state)
{
	fixture *f = *state;
	pgs_txn *t = begin_write(f->a.db);
	for (uint64_t i = 0; i < 300; i++)
		assert_int_equal(write_seed(t, i, seed_of(1000 + i, 0)), PGS_OK);
	commit_ok(t);
	assert_int_equal(count_kind(f, 'o'), 1);
	write_one(f, 10, seed_of(1, 0));
	write_one(f, 290, seed_of(2, 0));
	t = begin_write(f->a.db);
	assert_int_equal(pgs_truncate(t, 270), PGS_OK);
	uint64_t floor = commit_ok(t);
	write_one(f, 11, seed_of(3, 0));
	publish_for_both(f, floor);
	assert_true(is_live(f, 11, seed_of(1011, 0)));
	assert_true(is_live(f, 260, seed_of(1260, 0)));
	assert_true(is_live(f, 10, seed_of(1, 0)));
	assert_false(is_live(f, 10, seed_of(1010, 0)));
	assert_false(is_live(f, 290, seed_of(2, 0)));
	assert_false(is_live(f, 290, seed_of(1290, 0)));
	assert_false(is_live(f, 270, seed_of(1270, 0)));
}

/* Whatever was written: the live set is what a reader at the floor is led to. */
static void test_live__is_what_readers_are_led_to(void **state)
{
	fixture *f = *state;
	uint64_t random = 11, revisions[60], seeds[60][8], pages[60][8];
	for (size_t i = 0; i < COUNT_OF(revisions); i++) {
		pgs_txn *t = begin_write(f->a.db);
		bool truncate = stage_random(&random) % 12 == 0;
		for (size_t k = 0; k < 8; k++) {
			pages[i][k] = stage_random(&random) % (6 * GROUP);
			seeds[i][k] = seed_of(1 + stage_random(&random) % 50, stage_random(&random) % 4);
			assert_int_equal(write_seed(t, pages[i][k], seeds[i][k]), PGS_OK);
		}
		if (truncate)
			assert_int_equal(pgs_truncate(t, stage_random(&random) % (6 * GROUP)), PGS_OK);
		revisions[i] = commit_ok(t);
	}
	for (size_t at = 0; at < COUNT_OF(revisions); at += 7) {
		static pgs__resolved resolved[6 * GROUP];
		static uint64_t all[6 * GROUP];
		pgs__arena arena = {0};
		pgs__snapshot s;
		publish_for_both(f, revisions[at]);
		assert_int_equal(pgs__snapshot_open(&s, f->a.db, revisions[at], 0, NULL), PGS_OK);
		for (uint64_t i = 0; i < COUNT_OF(all); i++)
			all[i] = i;
		assert_int_equal(pgs__pointers_read(&s, all, COUNT_OF(all), resolved, &arena, 0, NULL), PGS_OK);
		pgs__live *live = open_live(&f->b);
		for (size_t i = 0; i < COUNT_OF(revisions); i++)
			for (size_t k = 0; k < 8; k++) {
				pgs__page_id id = id_of(f, pages[i][k], seeds[i][k]);
				bool expected = false;
				for (size_t n = 0; n < COUNT_OF(all); n++) {
					const pgs__page_ref *ref = &resolved[n].ref;
					expected |= ref->kind >= PGS__POINTER_FULL && pgs__page_id_equal(&ref->id, &id);
					expected |= ref->has_base && pgs__page_id_equal(&ref->base, &id);
				}
				assert_int_equal(has(&f->b, live, &id), expected); /* in no order of ids */
			}
		pgs__live_close(live);
		pgs__snapshot_close(&s);
		pgs__arena_free(&arena);
	}
}

/* --- reading ------------------------------------------------------------------------ */

static uint64_t calls_for(fixture *f, pgs__live *live, uint64_t groups, uint64_t step)
{
	uint64_t before = pgs_fault_calls(f->fault);
	for (uint64_t i = 0; i < groups; i++) {
		pgs__page_id id = id_of(f, i * step * GROUP, 1);
		assert_false(has(&f->b, live, &id));
		id.bytes[15]++;
		assert_false(has(&f->b, live, &id));
	}
	return pgs_fault_calls(f->fault) - before;
}

static void test_live__windows_grow_while_requests_are_near_each_other(void **state)
{
	fixture *f = *state;
	publish_for_both(f, write_one(f, 0, seed_of(5, 0)));
	pgs__live *live = open_live(&f->b);
	assert_int_equal(calls_for(f, live, 20, 1000), 20); /* a group each, and once */
	pgs__live_close(live);
	live = open_live(&f->b);
	/* 1 + 2 + 4 + … + 256 groups of one MiB, and again 256; a read has at most 1000 pages or so */
	assert_in_range(calls_for(f, live, 767, 1), 10, 767 * GROUP / 1000 + 11);
	pgs__live_close(live);
}

static void test_live__does_not_touch_the_cache(void **state)
{
	fixture *f = *state;
	for (uint64_t i = 0; i < 20; i++)
		write_one(f, i, seed_of(5 + i, 0));
	publish_for_both(f, write_one(f, 0, seed_of(4, 0)));
	pgs__cache_stat before, after;
	pgs__cache_stat_get(f->b.db->contents.cache, &before);
	assert_true(is_live(f, 0, seed_of(4, 0)));
	pgs__cache_stat_get(f->b.db->contents.cache, &after);
	assert_memory_equal(&before, &after, sizeof before);
	assert_int_equal(pgs__cache_revision(f->b.db->contents.cache), 0);
}

static void test_live__counts_what_may_be_live(void **state)
{
	fixture *f = *state;
	write_many(f, 0, 20, 1000);
	uint64_t floor = write_one(f, 99, seed_of(1, 0));
	write_one(f, 1000, seed_of(1, 0));
	publish_for_both(f, floor);
	pgs__live *live = open_live(&f->b);
	assert_int_equal(pgs__live_count_max(live), 100);
	pgs__live_close(live);
}

/* --- history and damage ---------------------------------------------------------------- */

static void test_live__history_gone_above_the_floor(void **state)
{
	fixture *f = *state;
	uint64_t floor = write_one(f, 7, seed_of(1, 0));
	pgs__page_id id = id_of(f, 7, seed_of(1, 0));
	pgs__live *live;
	bool answer;
	publish_for_both(f, floor);
	pgs__live *before = open_live(&f->b);
	kv_compact(f->server.kv, write_one(f, 7, seed_of(2, 0)));
	assert_int_equal(pgs__live_open(&live, &f->b.worker), PGS_EOLDREV);
	assert_null(live);
	assert_non_null(strstr(f->b.err.message, "above the floor"));
	assert_int_equal(pgs__live_has(before, &id, &answer), PGS_EOLDREV);
	pgs__live_close(before);
}

static void test_live__follows_the_floor_when_history_goes(void **state)
{
	fixture *f = *state;
	publish_for_both(f, write_one(f, 7, seed_of(1, 0)));
	pgs__live *live = open_live(&f->b);
	pgs__page_id old = id_of(f, 7, seed_of(1, 0)), new = id_of(f, 7 + GROUP, seed_of(2, 0));
	assert_true(has(&f->b, live, &old));
	write_one(f, 7, seed_of(9, 0));
	uint64_t floor = write_one(f, 7 + GROUP, seed_of(2, 0));
	const pgs__worker seen = f->b.worker;
	publish_for_both(f, floor);
	f->b.worker = seen; /* b has not noticed */
	kv_compact(f->server.kv, floor);
	assert_true(has(&f->b, live, &new));
	assert_int_equal(f->b.worker.floor.floor, floor);
	assert_false(has(&f->b, live, &old));
	pgs__live_close(live);
}

static void test_live__a_damaged_pointer_is_an_error(void **state)
{
	fixture *f = *state;
	pgs__key key = pgs__key_page(pgs__db_prefix(f->a.db), 9);
	write_one(f, 7, seed_of(1, 0));
	publish_for_both(f, put_raw(f, &key, (pgs_slice){"damage", 6}));
	pgs__page_id id = id_of(f, 7, seed_of(1, 0)), far = id_of(f, 7 + 2 * GROUP, seed_of(1, 0));
	pgs__live *live = open_live(&f->b);
	bool answer;
	assert_int_equal(pgs__live_has(live, &id, &answer), PGS_ECORRUPT);
	assert_int_equal(f->b.err.page, 9);
	assert_false(has(&f->b, live, &far)); /* only what it is about */
	pgs__live_close(live);
}

/* --- named snapshots ----------------------------------------------------------------------- */

#define INDEX_NAME "i-0000000000000001-018bcfe5687b7abc8def0123456789ab"
#define SECOND_NAME "i-0000000000000001-018bcfe5687b7abc8def0123456789ac"

static int from_buffer(void *ctx, uint64_t offset, void *buf, size_t size)
{
	memcpy(buf, ((const pgs__buffer *)ctx)->data + offset, size);
	return PGS_OK;
}

static void put_index_file(fixture *f, const char *name, uint64_t page_no, const pgs__page_id *id, const pgs__page_id *base)
{
	pgs__pointer p = {.kind = PGS__POINTER_FULL, .id = *id};
	pgs__index_writer w = {0};
	pgs__buffer pointer = {0}, file = {0};
	char blob_name[PGS__BLOB_NAME_SIZE];
	pgs_blob *blob = f->server.blob;
	if (base) {
		p.kind = PGS__POINTER_DELTA;
		p.has_base = true;
		p.base = *base;
		p.delta = (pgs_slice){"delta", 5};
	}
	pgs__pointer_encode(&p, &pointer);
	pgs__index_add(&w, page_no, pgs__buffer_slice(&pointer));
	assert_int_equal(pgs__index_finish(&w, TEST_PAGE_SIZE, &file), PGS_OK);
	pgs__blob_name(blob_name, pgs__db_prefix(f->a.db), name);
	assert_int_equal(blob->vtable->put(blob, blob_name, file.size, from_buffer, &file, 0, NULL), PGS_OK);
	pgs__index_writer_free(&w);
	pgs__buffer_free(&pointer);
	pgs__buffer_free(&file);
}

/* Register a snapshot of pages in two files: [0, 1000) and [1000, 2000). */
static pgs__key put_snapshot(fixture *f, const char *name)
{
	const pgs__snapshot_file files[] = {
		{0, 1000, {INDEX_NAME, sizeof INDEX_NAME - 1}, 1000, 1},
		{1000, 2000, {SECOND_NAME, sizeof SECOND_NAME - 1}, 1000, 1},
	};
	const pgs__snapshot_record record = {
		.revision = 5, .commit_revision = 5, .page_count = 2000, .file_count = 2, .files = files};
	pgs__buffer b = {0};
	pgs__key key = pgs__key_snapshot(pgs__db_prefix(f->a.db), name, strlen(name));
	pgs__snapshot_encode(&record, &b);
	put_raw(f, &key, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	return key;
}

static void put_blob_name(fixture *f, char out[PGS__BLOB_NAME_SIZE], const char *name)
{
	pgs__blob_name(out, pgs__db_prefix(f->a.db), name);
}

static void make_snapshot(fixture *f)
{
	pgs__page_id one = id_of(f, 7, seed_of(1, 0)), two = id_of(f, 1500, seed_of(2, 0)), base = id_of(f, 1500, seed_of(3, 0));
	put_index_file(f, INDEX_NAME, 7, &one, NULL);
	put_index_file(f, SECOND_NAME, 1500, &two, &base);
	put_snapshot(f, "kept");
	publish_for_both(f, write_one(f, 1, seed_of(8, 0)));
}

static void test_live__named_snapshots(void **state)
{
	fixture *f = *state;
	make_snapshot(f);
	assert_true(is_live(f, 1, seed_of(8, 0)));
	assert_true(is_live(f, 7, seed_of(1, 0)));
	assert_true(is_live(f, 1500, seed_of(2, 0)));
	assert_true(is_live(f, 1500, seed_of(3, 0)));
	assert_false(is_live(f, 7, seed_of(2, 0)));
	pgs__live *live = open_live(&f->b);
	assert_int_equal(pgs__live_count_max(live), 2 + 2);
	pgs__live_close(live);
}

static void test_live__a_snapshot_that_cannot_be_read_is_an_error(void **state)
{
	fixture *f = *state;
	char blob_name[PGS__BLOB_NAME_SIZE];
	pgs__live *live;
	bool answer;
	make_snapshot(f);
	put_blob_name(f, blob_name, INDEX_NAME);
	assert_int_equal(f->server.blob->vtable->remove(f->server.blob, blob_name, 0, NULL), PGS_OK);
	pgs__page_id id = id_of(f, 7, seed_of(2, 0)), far = id_of(f, 1500, seed_of(2, 0));
	live = open_live(&f->b);
	assert_int_equal(pgs__live_has(live, &id, &answer), PGS_ECORRUPT);
	assert_non_null(strstr(f->b.err.message, "named snapshot"));
	assert_true(has(&f->b, live, &far));
	pgs__live_close(live);
	pgs__key key = pgs__key_snapshot(pgs__db_prefix(f->a.db), "bad", 3);
	put_raw(f, &key, (pgs_slice){"damage", 6});
	int result = pgs__live_open(&live, &f->b.worker);
	assert_true(result == PGS_ECORRUPT || result == PGS_EVERSION);
	assert_null(live);
}

static void test_live__a_snapshot_dropped_meanwhile_is_none(void **state)
{
	fixture *f = *state;
	char blob_name[PGS__BLOB_NAME_SIZE];
	make_snapshot(f);
	pgs__live *live = open_live(&f->b);
	pgs__key key = pgs__key_snapshot(pgs__db_prefix(f->a.db), "kept", 4);
	delete_raw(f, &key);
	put_blob_name(f, blob_name, INDEX_NAME);
	assert_int_equal(f->server.blob->vtable->remove(f->server.blob, blob_name, 0, NULL), PGS_OK);
	pgs__page_id id = id_of(f, 7, seed_of(1, 0)), mine = id_of(f, 1, seed_of(8, 0));
	assert_false(has(&f->b, live, &id));
	assert_true(has(&f->b, live, &mine));
	pgs__live_close(live);
}

/* --- memory, faults ---------------------------------------------------------------------------- */

static int look(process *p, const pgs__page_id *id, bool *answer)
{
	pgs__live *live;
	int result = pgs__live_open(&live, &p->worker);
	if (result == PGS_OK)
		result = pgs__live_has(live, id, answer);
	pgs__live_close(live);
	return result;
}

static void test_live__runs_out_of_memory_cleanly(void **state)
{
	fixture *f = *state;
	make_snapshot(f);
	pgs__page_id id = id_of(f, 7, seed_of(1, 0));
	for (size_t nth = 1;; nth++) {
		size_t before = failing_alloc_live();
		bool answer = false;
		failing_alloc_begin(nth);
		int result = look(&f->b, &id, &answer);
		if (!failing_alloc_end()) {
			assert_int_equal(result, PGS_OK);
			break;
		}
		assert_true(result == PGS_ENOMEM || (result == PGS_OK && answer));
		assert_true(failing_alloc_live() <= before + 1); /* the list of packs stays */
	}
}

static void test_live__fails_when_a_call_does(void **state)
{
	fixture *f = *state;
	make_snapshot(f);
	pgs__page_id id = id_of(f, 7, seed_of(1, 0));
	for (uint64_t nth = 1;; nth++) {
		bool answer = false;
		uint64_t before = pgs_fault_calls(f->fault);
		pgs_fault_at(f->fault, nth, PGS_FAULT_ERROR);
		int result = look(&f->b, &id, &answer);
		if (pgs_fault_calls(f->fault) - before < nth) {
			assert_int_equal(result, PGS_OK);
			assert_true(answer);
			pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
			break;
		}
		assert_int_equal(result, PGS_EIO);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_live__all_is_live_before_a_floor_was_published, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__what_the_floor_shows_and_no_more, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__bases_of_deltas, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__packs_by_age, setup_limited, teardown),
		cmocka_unit_test_setup_teardown(test_live__is_what_readers_are_led_to, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__is_what_readers_are_led_to, setup_limited, teardown),
		cmocka_unit_test_setup_teardown(test_live__windows_grow_while_requests_are_near_each_other, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__does_not_touch_the_cache, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__counts_what_may_be_live, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__history_gone_above_the_floor, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__follows_the_floor_when_history_goes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__a_damaged_pointer_is_an_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__named_snapshots, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__a_snapshot_that_cannot_be_read_is_an_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__a_snapshot_dropped_meanwhile_is_none, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__runs_out_of_memory_cleanly, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live__fails_when_a_call_does, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
