/* lib/txn/tip.c: beginning with one read of one key, and commits whose replies are met in any order. */
#include <pthread.h>
#include <string.h>

#include <pagestore/backends.h>

#include "support/kv_calls.h"
#include "support/testing.h"
#include "support/txn_stage.h"
#include "txn/snapshot.h"
#include "txn/txn.h"
#include "util/clock.h"

#define T(n) PAGE_NOISE(n)

/* Something changes in the store, but not in the database. */
static void stir(stage *s)
{
	kv_put(s->kv, "elsewhere", "1");
}

/* Begins until the next one reads `t` alone. */
static void be_steady(stage *s)
{
	for (int i = 0; i < 6; i++) {
		stir(s);
		pgs_abort(tx_read(s->db));
	}
	stir(s);
	assert_true(pgs__tip_is_steady(s->db));
}

static pgs__snapshot now(pgs_db *db)
{
	pgs__snapshot s;
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(pgs__snapshot_open(&s, db, 0, 0, &err), PGS_OK);
	pgs__snapshot_close(&s);
	return s;
}

/* As who knows nothing yet sees it. */
static pgs__snapshot as_new(stage *s)
{
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	pgs_db *db;
	stage_backends(s, &kv, &blob);
	assert_int_equal(pgs_open_with(&store, kv, blob, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_db_open(&db, store, "db", 2, NULL, NULL), PGS_OK);
	pgs__snapshot seen = now(db);
	pgs_db_close(db);
	pgs_close(store);
	return seen;
}

static void expect_same(stage *s)
{
	const pgs__snapshot theirs = as_new(s), mine = now(s->db);
	assert_true(mine.kv_revision >= theirs.kv_revision);
	assert_int_equal(mine.commit_revision, theirs.commit_revision);
	assert_int_equal(mine.commit_count, theirs.commit_count);
	assert_int_equal(mine.counter, theirs.counter);
	assert_int_equal(mine.epoch, theirs.epoch);
	assert_int_equal(mine.extent, theirs.extent);
	assert_int_equal(mine.extent_revision, theirs.extent_revision);
}

static void count_call(stage *s, const char *operation)
{
	(void)operation;
	s->calls[0]++;
}

static uint64_t calls_of_begin(stage *s)
{
	s->calls[0] = 0;
	s->before = count_call;
	pgs_abort(tx_read(s->db));
	s->before = NULL;
	return s->calls[0];
}

/* --- beginning ------------------------------------------------------------------------- */

static void test_tip__a_steady_begin_sees_what_a_new_one_sees(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 20, T(0));
	be_steady(s);
	expect_same(s);
	tx_one(s->db, s, 3, T(100)); /* its own commits keep it so: */
	assert_int_equal(calls_of_begin(s), 1);
	expect_same(s);
	tx_one(s->db, s, 30, T(101)); /* growing, */
	assert_true(pgs__tip_is_steady(s->db));
	expect_same(s);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE); /* not truncating, */
	assert_int_equal(pgs_truncate(t, 10), PGS_OK);
	tx_commit(t);
	expect_same(s);
	be_steady(s);
	expect_same(s);
	tx_one(stage_other(s), s, 15, T(102)); /* nor what others do, */
	expect_same(s);
	be_steady(s);
	tx_fill(s->db, s, 0, 300, T(1000)); /* nor packs, where there are limits */
	expect_same(s);
	for (int i = 0; i < 6; i++) {
		stir(s);
		pgs_abort(tx_read(s->db));
	}
	expect_same(s);
	stage_expect(s, 299, T(1299));
}

/* While there are packs, z may move without a commit: then all is read. */
static void test_tip__is_not_steady_with_packs(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 300, T(0));
	bool packs = stage_keys_of(s, 'o') > 0;
	for (int i = 0; i < 8; i++) {
		stir(s);
		pgs_abort(tx_read(s->db));
	}
	assert_int_equal(pgs__tip_is_steady(s->db), !packs);
	assert_int_equal(pgs_maintain(s->db, &(pgs_maintain_options){.struct_size = sizeof(pgs_maintain_options),
								    .all = true}, NULL, NULL), PGS_OK);
	expect_same(s);
	be_steady(s);
	expect_same(s);
}

static void test_tip__a_dropped_database_does_not_begin(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	tx_one(s->db, s, 1, T(1));
	be_steady(s);
	assert_int_equal(pgs_db_drop(s->store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_begin(&t, s->db, NULL, &err), PGS_ENOTFOUND);
}

/* --- where nothing has changed -------------------------------------------------------------- */

static bool tells_changes(stage *s)
{
	pgs_kv *kv = pgs__db_backend(s->db)->kv;
	return PGS_KV_HAS(kv, changes) && kv->vtable->changes(kv);
}

static void test_tip__begins_without_a_call_where_nothing_has_changed(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 300, T(0)); /* with packs, too */
	uint64_t first = calls_of_begin(s), calls = tells_changes(s) ? 0 : first;
	assert_true(first > 0);
	for (int i = 0; i < 3; i++)
		assert_true(calls_of_begin(s) <= calls);
	stage_expect(s, 7, T(7));
	assert_true(calls_of_begin(s) <= calls);
	tx_one(s->db, s, 3, T(1000));
	assert_true(calls_of_begin(s) > 0);
	stage_expect(s, 3, T(1000));
	assert_true(calls_of_begin(s) <= calls);
	stir(s);
	assert_true(calls_of_begin(s) > 0);
	expect_same(s);
	assert_true(calls_of_begin(s) <= calls);
}

static void test_tip__sees_what_others_committed(void **state)
{
	stage *s = *state;
	pgs_db *other = stage_other(s);
	tx_fill(s->db, s, 0, 20, T(0));
	for (uint64_t i = 1; i < 200; i++) {
		pgs_db *writer = i % 3 ? other : s->db, *reader = i % 2 ? other : s->db;
		uint64_t at = tx_one(writer, s, i % 20, T(100 + i));
		pgs_txn *t = tx_read(reader);
		assert_int_equal(pgs_txn_revision(t), at);
		tx_expect(t, s, i % 20, T(100 + i));
		pgs_abort(t);
	}
	expect_same(s);
}

static void test_tip__maintenance_counts_as_a_change(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 300, T(0));
	pgs_abort(tx_read(s->db));
	for (uint64_t i = 0; i < 3; i++) {
		pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
		o.all = true;
		o.retention_ms = PGS_RETENTION_NONE;
		assert_int_equal(pgs_maintain(stage_other(s), &o, NULL, NULL), PGS_OK);
		expect_same(s);
		stage_expect(s, 299, T(299));
		tx_one(stage_other(s), s, 5, T(500 + i));
		stage_expect(s, 5, T(500 + i));
	}
}

static void test_tip__drops_by_others_are_met(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	tx_one(s->db, s, 1, T(1));
	pgs_abort(tx_read(s->db));
	pgs_abort(tx_read(s->db));
	stage_other(s);
	assert_int_equal(pgs_db_drop(s->other_store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_begin(&t, s->db, NULL, &err), PGS_ENOTFOUND);
	assert_int_equal(pgs_begin(&t, s->db, NULL, &err), PGS_ENOTFOUND);
}

static void cut_off(stage *s, const char *operation)
{
	(void)operation;
	pgs_fault_at(s->fault, 1, PGS_FAULT_STOP);
}

static void test_tip__who_is_cut_off_is_told(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	tx_one(s->db, s, 1, T(1));
	pgs_abort(tx_read(s->db));
	stir(s);
	s->before = cut_off;
	assert_int_equal(pgs_begin(&t, s->db, NULL, &err), PGS_EIO);
	assert_int_equal(pgs_begin(&t, s->db, NULL, &err), PGS_EIO);
	s->before = NULL;
	pgs_fault_resume(s->fault);
	stage_expect(s, 1, T(1));
}

/* A fold may have ended between the commit and when the database was seen without packs. */
static void test_tip__a_state_does_not_tell_of_the_time_before(void **state)
{
	stage *s = *state;
	pgs__state known;
	tx_one(s->db, s, 1, T(1));
	be_steady(s);
	pgs__snapshot seen;
	assert_int_equal(pgs__snapshot_open(&seen, s->db, 0, 0, NULL), PGS_OK);
	seen.commit_revision += 5;
	seen.kv_revision += 7;
	pgs__tip_learn(s->db, &seen);
	assert_false(pgs__tip_find(s->db, seen.commit_revision, seen.kv_revision - 1, 0, &known));
	assert_true(pgs__tip_find(s->db, seen.commit_revision, seen.kv_revision, 0, &known));
	assert_int_equal(known.epoch, seen.epoch);
	pgs__snapshot_close(&seen);
}

/* --- commits ------------------------------------------------------------------------------ */

static void land(stage *s, uint64_t previous, uint64_t revision, uint64_t page_no)
{
	pgs__changed_page page = {.page_no = page_no,
				  .ref = {.kind = PGS__POINTER_ZERO, .key_revision = revision, .from = revision}};
	const pgs__landed landed = {.previous = previous, .revision = revision, .pages = &page, .count = 1};
	pgs__tip_land(s->db, &landed);
}

static bool knows(stage *s, uint64_t page_no, uint64_t at, uint64_t key_revision)
{
	pgs__page_ref ref;
	const void *data;
	return pgs__cache_lookup(s->db->contents.cache, page_no, at, &ref, &data) == PGS__CACHE_CONTENT &&
	       ref.key_revision == key_revision;
}

static void test_tip__replies_in_any_order(void **state)
{
	stage *s = *state;
	pgs__state known;
	tx_one(s->db, s, 1, T(1));
	be_steady(s);
	uint64_t first = now(s->db).commit_revision;
	land(s, first + 4, first + 6, 3);
	land(s, first + 2, first + 4, 2);
	assert_int_equal(pgs__cache_revision(s->db->contents.cache), first);
	assert_false(pgs__tip_find(s->db, first + 6, first + 6, 0, &known));
	land(s, first, first + 2, 3);
	assert_int_equal(pgs__cache_revision(s->db->contents.cache), first + 6);
	assert_true(pgs__tip_find(s->db, first + 6, first + 6, 0, &known));
	assert_true(knows(s, 3, first + 6, first + 6));
	assert_true(knows(s, 2, first + 6, first + 4));
	assert_true(knows(s, 3, first + 5, first + 2));
	assert_false(knows(s, 2, first + 3, first + 4));
	assert_int_equal(s->db->tip.waiting_count, 0);
}

/* Others got in between: what waits is overtaken, and goes. */
static void test_tip__overtaken_commits_do_not_stay(void **state)
{
	stage *s = *state;
	tx_one(s->db, s, 1, T(1));
	uint64_t first = now(s->db).commit_revision;
	for (uint64_t i = 1; i < 200; i++)
		land(s, first + 10 * i, first + 10 * i + 1, 5);
	assert_true(s->db->tip.waiting_count > 0 && s->db->tip.waiting_count < 100);
	pgs__cache_forget(s->db->contents.cache, first + 5000);
	pgs__tip_catch_up(s->db);
	assert_int_equal(s->db->tip.waiting_count, 0);
	assert_int_equal(pgs__cache_revision(s->db->contents.cache), first + 5000);
}

static void *land_later(void *ctx)
{
	stage *s = ctx;
	uint64_t first = s->calls[1];
	pgs__sleep_ms(10, 0);
	land(s, first, first + 2, 7);
	pgs__tip_end_commit(s->db);
	return NULL;
}

static void test_tip__waits_for_a_commit_on_its_way(void **state)
{
	stage *s = *state;
	pthread_t thread;
	pgs__state known;
	tx_one(s->db, s, 1, T(1));
	be_steady(s);
	s->calls[1] = now(s->db).commit_revision;
	pgs__tip_begin_commit(s->db);
	assert_int_equal(pthread_create(&thread, NULL, land_later, s), 0);
	bool found = false;
	for (int i = 0; i < 100 && !found; i++) /* its patience may be too short on a busy machine */
		found = pgs__tip_find(s->db, s->calls[1] + 2, s->calls[1] + 2, 0, &known);
	assert_true(found);
	pthread_join(thread, NULL);
	uint64_t since = pgs__now_ms();
	pgs__tip_wait(s->db, s->calls[1] + 100, 0); /* nobody is on its way */
	pgs__tip_begin_commit(s->db);
	pgs__tip_wait(s->db, s->calls[1] + 100, pgs__now_ms() + 1); /* nor does it wait for ever */
	pgs__tip_end_commit(s->db);
	assert_true(pgs__now_ms() - since < 5000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_tip__a_steady_begin_sees_what_a_new_one_sees),
		TEST(test_tip__is_not_steady_with_packs),
		TEST(test_tip__a_dropped_database_does_not_begin),
		TEST(test_tip__begins_without_a_call_where_nothing_has_changed),
		TEST(test_tip__sees_what_others_committed),
		TEST(test_tip__maintenance_counts_as_a_change),
		TEST(test_tip__drops_by_others_are_met),
		TEST(test_tip__who_is_cut_off_is_told),
		TEST(test_tip__a_state_does_not_tell_of_the_time_before),
		TEST(test_tip__replies_in_any_order),
		TEST(test_tip__overtaken_commits_do_not_stay),
		TEST(test_tip__waits_for_a_commit_on_its_way),
	};
	return stage_run("tip", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
