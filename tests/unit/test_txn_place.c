/* lib/txn: where a page's content goes, spilling, chains of deltas, pins and reads. */
#include <stdlib.h>
#include <string.h>

#include "support/txn_stage.h"
#include "util/clock.h"

#define T PAGE_NOISE

/* --- placements ----------------------------------------------------------------- */

static void test_txn_place__smallest_first(void **state)
{
	stage *s = *state;
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(t, s, 0, PAGE_ZERO);
	tx_put(t, s, 1, PAGE_THIN(1));
	tx_put(t, s, 2, T(2));
	tx_put(t, s, 3, T(2)); /* the same content in the group: stored once */
	uint64_t first = tx_commit(t);
	assert_int_equal(stage_pointer(s, 0).kind, PGS__POINTER_ZERO);
	assert_int_equal(stage_pointer(s, 1).kind, PGS__POINTER_DELTA);
	assert_false(stage_pointer(s, 1).has_base);
	assert_int_equal(stage_pointer(s, 2).kind, PGS__POINTER_FULL);
	assert_int_equal(stage_keys_of(s, 'c'), 1);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(t, s, 1, PAGE_THIN(2)); /* what was no base is none */
	tx_put(t, s, 2, PAGE_ZERO);
	tx_commit(t);
	assert_false(stage_pointer(s, 1).has_base);
	assert_int_equal(stage_keys_of(s, 'c'), 1);
	assert_int_equal(stage_blobs(s), 0);
	uint64_t files = stage_keys_of(s, 'l');
	tx_fill(s->db, s, 100, 255, T(0)); /* just below a MiB */
	assert_int_equal(stage_keys_of(s, 'l'), files);
	tx_fill(s->db, s, 400, 260, T(0)); /* above */
	assert_int_equal(stage_keys_of(s, 'l'), files + 1);
	assert_int_equal(stage_keys_of(s, 'c'), 256);
	for (int i = 0; i < 2; i++) {
		pgs_db *db = i ? stage_other(s) : s->db;
		t = tx_read(db);
		tx_expect(t, s, 1, PAGE_THIN(2));
		tx_expect(t, s, 2, PAGE_ZERO);
		tx_expect(t, s, 3, T(2));
		tx_expect(t, s, 354, T(354));
		tx_expect(t, s, 659, T(659));
		pgs_abort(t);
		t = tx_at(db, first);
		tx_expect(t, s, 1, PAGE_THIN(1));
		tx_expect(t, s, 2, T(2));
		tx_expect_count(t, 4);
		pgs_abort(t);
	}
}

static void test_txn_place__a_chain_of_deltas_is_one_deep(void **state)
{
	stage *s = *state;
	uint64_t revisions[101];
	revisions[0] = tx_one(s->db, s, 5, PAGE_KIN(3, 0));
	pgs__pointer base = stage_pointer(s, 5);
	assert_int_equal(base.kind, PGS__POINTER_FULL);
	for (uint64_t i = 1; i <= 100; i++) {
		revisions[i] = tx_one(i & 1 ? s->db : stage_other(s), s, 5, PAGE_KIN(3, i));
		pgs__pointer now = stage_pointer(s, 5);
		assert_int_equal(now.kind, PGS__POINTER_DELTA);
		assert_true(now.has_base && pgs__page_id_equal(&now.base, &base.id));
	}
	assert_int_equal(stage_keys_of(s, 'c'), 1);
	for (uint64_t i = 0; i <= 100; i += 7) {
		pgs_txn *t = tx_at(i & 1 ? s->db : stage_other(s), revisions[i]);
		tx_expect(t, s, 5, PAGE_KIN(3, i));
		pgs_abort(t);
	}
	tx_one(s->db, s, 5, PAGE_KIN(4, 1)); /* not small any more */
	assert_int_equal(stage_pointer(s, 5).kind, PGS__POINTER_FULL);
	tx_one(s->db, s, 5, PAGE_KIN(4, 2));
	pgs__pointer last = stage_pointer(s, 5);
	assert_int_equal(last.kind, PGS__POINTER_DELTA);
	assert_false(pgs__page_id_equal(&last.base, &base.id));
}

/* The base is kept while the delta, which grows with every change, is small. */
static void test_txn_place__a_growing_delta_becomes_full(void **state)
{
	stage *s = *state;
	uint8_t page[4096];
	uint64_t seed = 9, full_at = 0;
	page_fill(page, 4096, T(1));
	tx_one(s->db, s, 0, T(1));
	pgs__pointer base = stage_pointer(s, 0);
	for (uint64_t i = 1; i <= 60 && !full_at; i++) {
		for (size_t k = 0; k < 16; k++)
			page[8 + (i * 16 + k) % 4088] = (uint8_t)stage_random(&seed);
		pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
		assert_int_equal(pgs_write(t, 0, page), PGS_OK);
		tx_commit(t);
		pgs__pointer now = stage_pointer(s, 0);
		if (now.kind == PGS__POINTER_FULL)
			full_at = i;
		else
			assert_true(pgs__page_id_equal(&now.base, &base.id));
	}
	assert_in_range(full_at, 20, 50); /* 512 bytes at 16 and a little a change */
}

/* --- spilling --------------------------------------------------------------------- */

static void small_buffer(stage *s, uint64_t pages)
{
	s->options.write_buffer_bytes = pages * 4096;
	stage_remake(s);
}

/* Where blobs go over a network, they are put beside the writer. */
static void expect_blobs(stage *s, size_t least)
{
	for (int i = 0; i < 1000 && stage_blobs(s) < least; i++)
		pgs__sleep_ms(10, 0);
	assert_true(stage_blobs(s) >= least);
}

static void test_txn_place__spilled_pages_read_and_write_again(void **state)
{
	stage *s = *state;
	small_buffer(s, 8);
	tx_fill(s->db, s, 0, 20, PAGE_KIN(9, 0));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t page = 0; page < 900; page++)
		tx_put(t, s, page, page % 7 == 3 ? PAGE_ZERO : page < 20 ? PAGE_KIN(9, 500 + page) : T(page));
	expect_blobs(s, 2);
	for (uint64_t page = 0; page < 900; page += 3) /* deltas, files, frames, pending */
		tx_expect(t, s, page, page % 7 == 3 ? PAGE_ZERO : page < 20 ? PAGE_KIN(9, 500 + page) : T(page));
	for (uint64_t page = 1; page < 900; page += 3)
		tx_put(t, s, page, page % 2 ? T(5000 + page) : PAGE_THIN(page));
	tx_put(t, s, 10, PAGE_KIN(9, 10)); /* as it was before all this */
	for (uint64_t page = 1; page < 900; page += 3)
		tx_expect(t, s, page, page == 10 ? PAGE_KIN(9, 10) : page % 2 ? T(5000 + page) : PAGE_THIN(page));
	tx_commit(t);
	for (int i = 0; i < 2; i++) {
		t = tx_read(i ? stage_other(s) : s->db);
		for (uint64_t page = 0; page < 900; page++)
			tx_expect(t, s, page,
				  page == 10		? PAGE_KIN(9, 10)
				  : page % 3 == 1	? (page % 2 ? T(5000 + page) : PAGE_THIN(page))
				  : page % 7 == 3	? PAGE_ZERO
				  : page < 20		? PAGE_KIN(9, 500 + page)
							: T(page));
		pgs_abort(t);
	}
}

static pgs_txn *spill(stage *s)
{
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect(t, s, 5, T(5));
	for (uint64_t page = 100; page < 700; page++)
		tx_put(t, s, page, T(page));
	expect_blobs(s, 1);
	return t;
}

static void test_txn_place__abort_after_a_spill_leaves_no_blob(void **state)
{
	stage *s = *state;
	small_buffer(s, 8);
	tx_fill(s->db, s, 0, 10, T(0));
	pgs_abort(spill(s));
	assert_int_equal(stage_blobs(s), 0);
}

static void test_txn_place__conflict_after_an_upload_leaves_no_blob(void **state)
{
	stage *s = *state;
	small_buffer(s, 8);
	tx_fill(s->db, s, 0, 10, T(0));
	pgs_txn *t = spill(s);
	tx_one(stage_other(s), s, 5, T(77));
	tx_conflict(t, 5);
	assert_int_equal(stage_blobs(s), 0);
	/* Uploaded by the commit itself, with the index file and the changelog's. */
	s->options = (pgs_db_options)PGS_DB_OPTIONS_INIT;
	s->options.page_size_bytes = 512;
	s->options.order = s->variant->order;
	stage_remake(s);
	tx_fill(s->db, s, 0, 10, T(0));
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect(t, s, 5, T(5));
	for (uint64_t page = 100; page < 60000; page += 2)
		tx_put(t, s, page, T(page));
	tx_one(stage_other(s), s, 5, T(77));
	tx_conflict(t, 5);
	assert_int_equal(stage_blobs(s), 0);
}

static void test_txn_place__taking_spilled_pages_back_leaves_no_blob(void **state)
{
	stage *s = *state;
	small_buffer(s, 8);
	tx_fill(s->db, s, 0, 10, T(0));
	pgs_txn *t = spill(s);
	uint64_t base = pgs_txn_revision(t);
	assert_int_equal(pgs_truncate(t, 10), PGS_OK);
	assert_int_equal(tx_commit(t), base);
	assert_int_equal(stage_blobs(s), 0);
}

/* Many spilled files in one commit: their keys must fit the KV's limits. */
static void test_txn_place__many_files_in_one_commit(void **state)
{
	stage *s = *state;
	s->options.write_buffer_bytes = 1 << 20;
	s->options.page_size_bytes = 1024;
	stage_remake(s);
	tx_fill(s->db, s, 0, 45 * 1024, T(0));
	pgs_txn *t = tx_read(stage_other(s));
	for (uint64_t page = 0; page < 45 * 1024; page += 997)
		tx_expect(t, s, page, T(page));
	pgs_abort(t);
}

/* --- pins -------------------------------------------------------------------------- */

static void test_txn_pin__survives_writes_and_pressure(void **state)
{
	stage *s = *state;
	const void *pins[300], *again, *own, *zero, *old;
	s->options.cache_bytes = 64 * 4096;
	stage_remake(s);
	tx_fill(s->db, s, 0, 300, T(0));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t page = 0; page < 300; page++) /* more than there are frames */
		assert_int_equal(pgs_pin(t, page, &pins[page]), PGS_OK);
	assert_int_equal(pgs_pin(t, 0, &again), PGS_OK);
	tx_put(t, s, 7, T(1007));
	assert_int_equal(pgs_pin(t, 7, &own), PGS_OK);
	assert_true(page_is(own, 4096, T(1007)));
	tx_put(t, s, 7, T(2007));
	assert_true(page_is(own, 4096, T(1007))); /* does not follow later writes */
	assert_int_equal(pgs_pin(t, 1000, &zero), PGS_OK);
	assert_true(page_is(zero, 4096, PAGE_ZERO));
	tx_fill(stage_other(s), s, 50, 200, T(5000));
	tx_fill(s->db, s, 0, 50, T(9000));
	pgs_txn *other = tx_read(s->db); /* a cache without a free frame still reads */
	for (uint64_t page = 0; page < 300; page++)
		tx_expect(other, s, page, T(page < 50 ? 9000 + page : page < 250 ? 5000 + page : page));
	pgs_abort(other);
	for (uint64_t page = 0; page < 300; page++)
		assert_true(page_is(pins[page], 4096, T(page)));
	pgs_unpin(t, again);
	assert_true(page_is(pins[0], 4096, T(0)));
	pgs_unpin(t, zero);
	pgs_unpin(t, own);
	for (uint64_t page = 0; page < 300; page += 2)
		pgs_unpin(t, pins[page]);
	tx_conflict(t, 0); /* the rest ends with the transaction */
	t = tx_read(s->db);
	assert_int_equal(pgs_pin(t, 3, &old), PGS_OK);
	assert_true(page_is(old, 4096, T(9003)));
	pgs_abort(t);
	/* Nothing is pinned any more: all of the cache turns over. */
	t = tx_read(s->db);
	for (uint64_t page = 0; page < 64; page++)
		assert_int_equal(pgs_pin(t, page, &pins[page]), PGS_OK);
	for (uint64_t page = 0; page < 64; page++)
		assert_true(page_is(pins[page], 4096, T(page < 50 ? 9000 + page : 5000 + page)));
	pgs_abort(t);
}

/* --- reads --------------------------------------------------------------------------- */

static void test_txn_read__prefetch_joins_no_read_set(void **state)
{
	stage *s = *state;
	uint64_t pages[30], past = UINT64_MAX;
	tx_fill(s->db, s, 0, 30, T(0));
	for (uint64_t i = 0; i < 30; i++)
		pages[i] = i * 2;
	pgs_txn *t = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	assert_int_equal(pgs_prefetch(t, pages, 30), PGS_OK); /* some of it past the extent */
	assert_int_equal(pgs_prefetch(t, &past, 1), PGS_EINVAL);
	tx_put(t, s, 1, T(500));
	tx_fill(s->db, s, 0, 50, T(1000));
	tx_commit(t);
	/* Read-ahead does not either. */
	t = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	for (uint64_t page = 10; page < 15; page++)
		tx_expect(t, s, page, T(1000 + page));
	tx_put(t, s, 0, T(500));
	tx_one(s->db, s, 16, T(7));
	tx_one(s->db, s, 9, T(7));
	tx_commit(t);
}

static void test_txn_read__many_in_any_order(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 40, PAGE_KIN(1, 0));
	tx_fill(s->db, s, 10, 10, PAGE_KIN(1, 100)); /* deltas */
	tx_one(s->db, s, 700, T(700));
	for (int cold = 0; cold < 2; cold++) {
		pgs_txn *t = tx_begin(cold ? stage_other(s) : s->db, PGS_SERIALIZABLE);
		tx_put(t, s, 5, T(5));
		tx_put(t, s, 6, PAGE_ZERO);
		static const uint64_t nos[] = {700, 12, 5, 3, 12, 699, 6, 5000, 3, 39, 12, 0, 5, 13};
		const uint64_t tags[] = {T(700),    PAGE_KIN(1, 112), T(5),	      PAGE_KIN(1, 3), PAGE_KIN(1, 112),
					 PAGE_ZERO, PAGE_ZERO,	      PAGE_ZERO,      PAGE_KIN(1, 3), PAGE_KIN(1, 39),
					 PAGE_KIN(1, 112), PAGE_KIN(1, 0), T(5), PAGE_KIN(1, 113)};
		enum { COUNT = sizeof nos / sizeof *nos };
		static uint8_t bytes[COUNT][4096];
		void *dst[COUNT];
		for (size_t i = 0; i < COUNT; i++)
			dst[i] = bytes[i];
		assert_int_equal(pgs_read_many(t, nos, COUNT, dst), PGS_OK);
		for (size_t i = 0; i < COUNT; i++)
			assert_true(page_is(bytes[i], 4096, tags[i]));
		assert_int_equal(pgs_read_many(t, NULL, 0, NULL), PGS_OK);
		tx_one(s->db, s, 13, T(1000));
		tx_conflict(t, 13);
		tx_one(s->db, s, 13, PAGE_KIN(1, 113));
	}
}

static void test_txn_begin__past_and_future(void **state)
{
	stage *s = *state;
	pgs_txn *t;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	uint64_t first = tx_one(s->db, s, 0, T(1)), last = tx_one(s->db, s, 0, T(2));
	o.at_revision = last + 1000;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_EINVAL);
	assert_null(t);
	o.at_revision = 1;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_ENOTFOUND);
	o.at_revision = first;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_OK);
	assert_int_equal(pgs_txn_revision(t), first);
	tx_expect(t, s, 0, T(1));
	uint8_t page[4096] = {0};
	assert_int_equal(pgs_write(t, 0, page), PGS_EREADONLY);
	assert_int_equal(pgs_truncate(t, 0), PGS_EREADONLY);
	pgs_abort(t);
	o.at_time_ms = 5;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_EINVAL); /* both */
	o.at_revision = 0;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_ENOTFOUND); /* 1970 */
	o.at_time_ms = -5;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_ENOTFOUND);
	o.at_time_ms = 1ll << 45;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_OK);
	assert_int_equal(pgs_txn_revision(t), last);
	tx_expect(t, s, 0, T(2));
	pgs_abort(t);
	o.write = true;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_EINVAL);
	o = (pgs_txn_options)PGS_TXN_OPTIONS_INIT;
	o.isolation = 2;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_EINVAL);
	o = (pgs_txn_options){0};
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_EINVAL);
	assert_null(t);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_txn_place__smallest_first),
		TEST(test_txn_place__a_chain_of_deltas_is_one_deep),
		TEST(test_txn_place__a_growing_delta_becomes_full),
		TEST(test_txn_place__spilled_pages_read_and_write_again),
		TEST(test_txn_place__abort_after_a_spill_leaves_no_blob),
		TEST(test_txn_place__conflict_after_an_upload_leaves_no_blob),
		TEST(test_txn_place__taking_spilled_pages_back_leaves_no_blob),
		TEST(test_txn_place__many_files_in_one_commit),
		TEST(test_txn_pin__survives_writes_and_pressure),
		TEST(test_txn_read__prefetch_joins_no_read_set),
		TEST(test_txn_read__many_in_any_order),
		TEST(test_txn_begin__past_and_future),
	};
	return stage_run("txn_place", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
