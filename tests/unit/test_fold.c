/* lib/maintain/fold.c: packs become p/ keys, and nobody notices. What random transactions find beside it is in
 * test_txn_model, faults at every call in crash/test_fold_faults.c. */
#include <stdlib.h>
#include <string.h>

#include "support/jobs.h"
#include "support/kv_calls.h"
#include "support/stores.h"
#include "support/txn_stage.h"

#define THIN PAGE_THIN

static void small_pages(stage *s)
{
	s->options.page_size_bytes = 512;
	stage_remake(s);
}

static uint64_t fill(pgs_db *db, stage *s, uint64_t first, uint64_t count, uint64_t generation)
{
	pgs_txn *t = tx_begin(db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < count; i++)
		tx_put(t, s, first + i, THIN(generation));
	return tx_commit(t);
}

static uint64_t truncate_to(stage *s, uint64_t count)
{
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, count), PGS_OK);
	return tx_commit(t);
}

static void expect_at(stage *s, pgs_db *db, uint64_t revision, uint64_t first, uint64_t count, uint64_t tag)
{
	pgs_txn *t = revision ? tx_at(db, revision) : tx_read(db);
	for (uint64_t i = first; i < first + count; i++)
		tx_expect(t, s, i, tag);
	pgs_abort(t);
}

static uint64_t mod_of(stage *s, pgs__key key)
{
	pgs_kv_op get = pgs__op_get(pgs__key_slice(&key), 0);
	pgs_kv_txn txn = txn_of(&get, 1);
	assert_int_equal(run_txn(s->kv, &txn), PGS_OK);
	uint64_t mod = pgs__got(&txn, 0) ? pgs__got(&txn, 0)->mod_revision : 0;
	s->kv->vtable->release(s->kv, &txn, 1);
	return mod;
}

static uint64_t page_mod(stage *s, uint64_t page)
{
	return mod_of(s, pgs__key_page(pgs__db_prefix(s->db), page));
}

static void expect_sound(stage *s)
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_verify(s->db, NULL, NULL, &err), PGS_OK, &err, "verify");
	expect_code(pgs_verify(stage_other(s), NULL, NULL, &err), PGS_OK, &err, "verify");
}

/* --- what it does --------------------------------------------------------------- */

static void test_fold__moves_pointers_at_their_age(void **state)
{
	stage *s = *state;
	small_pages(s);
	uint64_t before = fill(s->db, s, 0, 10, 1);
	uint64_t packed = fill(s->db, s, 5, 300, 2);
	uint64_t after = tx_one(stage_other(s), s, 7, THIN(3));
	uint64_t z = mod_of(s, pgs__key_single(pgs__db_prefix(s->db), 'z'));
	assert_int_equal(stage_keys_of(s, 'o'), 1);
	pgs_maintain_report r = job_do(s->db, pgs__job_fold);
	assert_int_equal(r.folded_packs, 1);
	assert_int_equal(r.folded_pointers, 299);
	assert_int_equal(r.due_packs, 0);
	assert_false(r.more || r.busy);
	assert_int_equal(stage_keys_of(s, 'o'), 0);
	assert_int_equal(stage_keys_of(s, 'd'), 0);
	assert_int_equal(stage_keys_of(s, 'k'), 0);
	assert_true(mod_of(s, pgs__key_single(pgs__db_prefix(s->db), 'z')) > z);
	assert_int_equal(stage_pointer(s, 2).folded_revision, 0);
	assert_int_equal(stage_pointer(s, 5).folded_revision, packed);
	assert_int_equal(stage_pointer(s, 304).folded_revision, packed);
	assert_int_equal(stage_pointer(s, 7).folded_revision, 0);
	for (int i = 0; i < 2; i++) {
		pgs_db *db = i ? stage_other(s) : s->db;
		expect_at(s, db, before, 0, 10, THIN(1));
		expect_at(s, db, before, 10, 20, PAGE_ZERO);
		expect_at(s, db, packed, 0, 5, THIN(1));
		expect_at(s, db, packed, 5, 300, THIN(2));
		expect_at(s, db, after, 7, 1, THIN(3));
		expect_at(s, db, 0, 8, 297, THIN(2));
		expect_at(s, db, 0, 7, 1, THIN(3));
	}
	expect_sound(s);
}

/* Five packs over each other, folded in any number of runs. */
static void test_fold__goes_oldest_first(void **state)
{
	stage *s = *state;
	uint64_t revisions[5];
	small_pages(s);
	for (uint64_t i = 0; i < 5; i++) {
		if (i == 3)
			truncate_to(s, 100);
		revisions[i] = fill(s->db, s, i * 60, 200, i + 1);
	}
	assert_int_equal(stage_keys_of(s, 'o'), 6);
	for (int ended = JOB_ENDED, i = 0; ended == JOB_ENDED; i++) {
		ended = job_run_until(i & 1 ? s->db : stage_other(s), pgs__job_fold, 2, NULL);
		assert_true(ended == PGS_OK || ended == JOB_ENDED);
		assert_true(i < 100);
		expect_at(s, s->db, 0, 60, 40, THIN(2));
		expect_at(s, s->db, 0, 100, 80, PAGE_ZERO);
		expect_at(s, s->db, 0, 180, 60, THIN(4));
		expect_at(s, stage_other(s), revisions[2], 120, 200, THIN(3));
	}
	assert_int_equal(stage_keys_of(s, 'o'), 0);
	for (uint64_t i = 0; i < 5; i++)
		expect_at(s, i & 1 ? s->db : stage_other(s), revisions[i], i * 60, 200, THIN(i + 1));
	expect_at(s, s->db, 0, 240, 200, THIN(5));
	expect_at(s, s->db, 0, 440, 20, PAGE_ZERO);
	assert_int_equal(stage_keys_of(s, 'p'), 100 + 260);
	expect_sound(s);
}

/* What a younger pack says something about is left to that one. */
static void test_fold__leaves_out_what_is_covered(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 200, 1);
	fill(s->db, s, 100, 200, 2);
	pgs_maintain_report r = job_do(s->db, pgs__job_fold);
	assert_int_equal(r.folded_packs, 2);
	assert_int_equal(r.folded_pointers, 300);
	expect_at(s, s->db, 0, 0, 100, THIN(1));
	expect_at(s, s->db, 0, 100, 200, THIN(2));
}

static void test_fold__deletes_truncated_keys(void **state)
{
	stage *s = *state;
	static const uint64_t sparse[] = {0, 99, 100, 5000, 70000, 1u << 22, (1ull << 40) + 3};
	small_pages(s);
	for (size_t i = 0; i < 7; i++)
		tx_one(s->db, s, sparse[i], THIN(1));
	for (uint64_t first = 2000; first < 3600; first += 100)
		fill(s->db, s, first, 100, 1);
	uint64_t full = tx_one(s->db, s, 3700, THIN(1)), cut = truncate_to(s, 100);
	assert_int_equal(stage_keys_of(s, 'o'), 1);
	assert_int_equal(stage_keys_of(s, 'p'), 7 + 1601);
	tx_one(s->db, s, 5000, THIN(2)); /* written again: younger than the range */
	tx_one(s->db, s, 2050, THIN(2));
	job_do(s->db, pgs__job_fold);
	assert_int_equal(stage_keys_of(s, 'o'), 0);
	assert_int_equal(stage_keys_of(s, 'p'), 4);
	for (int i = 0; i < 2; i++) {
		pgs_txn *t = tx_at(i ? stage_other(s) : s->db, cut);
		tx_expect_count(t, 100);
		tx_expect(t, s, 99, THIN(1));
		tx_expect(t, s, 100, PAGE_ZERO);
		tx_expect(t, s, 5000, PAGE_ZERO);
		pgs_abort(t);
		t = tx_at(i ? stage_other(s) : s->db, full);
		tx_expect(t, s, 2050, THIN(1));
		tx_expect(t, s, sparse[6], THIN(1));
		pgs_abort(t);
		expect_at(s, i ? stage_other(s) : s->db, 0, 5000, 1, THIN(2));
		expect_at(s, i ? stage_other(s) : s->db, 0, 2050, 1, THIN(2));
	}
	expect_sound(s);
}

static void test_fold__keeps_to_its_budget(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 2000, 1);
	truncate_to(s, 300);
	uint64_t packs = stage_keys_of(s, 'o'), keys = stage_keys(s);
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	o.dry_run = true;
	assert_int_equal(job_run(s->db, pgs__job_fold, &o, &r, NULL), PGS_OK);
	assert_int_equal(r.due_packs, packs);
	pgs__worker w = {.db = s->db, .report = &r, .deadline_ms = 1, .bytes_left = UINT64_MAX};
	assert_int_equal(pgs__job_fold(&w), PGS_OK);
	assert_true(r.more);
	assert_int_equal(r.due_packs, packs);
	assert_int_equal(r.folded_pointers, 0);
	assert_int_equal(stage_keys(s), keys);
	r.more = false;
	assert_int_equal(job_run(s->db, pgs__job_fold, NULL, &r, NULL), PGS_OK);
	assert_int_equal(r.due_packs, 0);
	assert_int_equal(r.folded_packs, packs);
	assert_false(r.more);
}

/* --- beside others -------------------------------------------------------------------- */

/* Before every call of the folding process: a snapshot from before, a new one, and an old revision. */
static void look(stage *s, const char *operation)
{
	(void)operation;
	s->calls[0]++;
	pgs_db *dbs[] = {s->other_db};
	pgs_txn *t = tx_read(dbs[0]);
	for (uint64_t i = 0; i < 400; i += 19)
		tx_expect(t, s, i, i < 50 ? THIN(1) : i < 120 ? THIN(2) : i < 200 || i >= 350 ? PAGE_ZERO : THIN(3));
	pgs_abort(t);
	t = tx_at(s->other_db, s->calls[2]);
	for (uint64_t i = 0; i < 400; i += 19)
		tx_expect(t, s, i, i < 50 ? THIN(1) : i < 250 ? THIN(2) : PAGE_ZERO);
	pgs_abort(t);
	for (uint64_t i = s->calls[0] % 7; i < 400; i += 40)
		tx_expect(s->txn, s, i, i < 50 ? THIN(1) : i < 120 ? THIN(2) : i < 200 || i >= 350 ? PAGE_ZERO : THIN(3));
}

static void test_fold__is_not_seen_by_readers(void **state)
{
	stage *s = *state;
	small_pages(s);
	s->options.cache_bytes = 64 * 512; /* next to nothing: pointers are read again and again */
	stage_remake(s);
	fill(s->db, s, 0, 150, 1);
	s->calls[2] = fill(s->db, s, 50, 200, 2);
	truncate_to(s, 120);
	fill(s->db, s, 200, 150, 3);
	s->txn = tx_read(stage_other(s));
	s->before = look;
	job_do(s->db, pgs__job_fold);
	s->before = NULL;
	assert_true(s->calls[0] > 8);
	assert_int_equal(stage_keys_of(s, 'o'), 0);
	look(s, "");
	pgs_abort(s->txn);
	expect_sound(s);
}

/* A page of the pack written before each call: never overwritten by the older pointer. */
static void write_one(stage *s, const char *operation)
{
	if (strcmp(operation, "txn") == 0 && s->page < 180)
		tx_one(s->other_db, s, s->page++, THIN(2));
}

static void test_fold__never_covers_a_younger_pointer(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 200, 1);
	stage_other(s);
	s->before = write_one;
	job_do(s->db, pgs__job_fold);
	s->before = NULL;
	assert_true(s->page > 5);
	expect_at(s, s->db, 0, 0, s->page, THIN(2));
	expect_at(s, s->db, 0, s->page, 200 - s->page, THIN(1));
	expect_sound(s);
}

static void fold_now(stage *s, const char *operation)
{
	if (strcmp(operation, "txn") != 0 || s->calls[0]++ != s->calls[1])
		return;
	job_do(s->other_db, pgs__job_fold);
	s->calls[3]++;
}

/* Reads of pages one by one, in a run, and too many to compare by key; and a delta against what the page holds. */
static pgs_txn *reading(stage *s, pgs_db *db, int how)
{
	pgs_txn *t = tx_begin(db, PGS_SERIALIZABLE);
	uint64_t step = how == 0 ? 30 : how == 1 ? 1 : 2, end = how == 1 ? 120 : 400;
	for (uint64_t i = 0; how < 3 && i < end; i += step)
		tx_expect(t, s, i, i >= 300 ? PAGE_ZERO : THIN(1));
	tx_put(t, s, 7, PAGE_KIN(1, how + 100));
	return t;
}

static void race(stage *s, int how, bool conflict)
{
	stage_remake(s);
	fill(s->db, s, 0, 400, 5);
	truncate_to(s, 300);
	fill(s->db, s, 0, 300, 1);
	tx_one(s->db, s, 400, THIN(9));
	if (how == 3)
		tx_one(s->db, s, 7, PAGE_KIN(1, 1));
	pgs_txn *t = reading(s, s->db, how);
	if (conflict)
		tx_one(stage_other(s), s, 60, THIN(2));
	stage_other(s);
	s->calls[0] = 0;
	s->before = fold_now;
	if (conflict && how < 3)
		tx_conflict(t, 60);
	else
		tx_commit(t);
	s->before = NULL;
	if (!conflict)
		stage_expect(s, 7, PAGE_KIN(1, how + 100));
}

static void test_fold__conflicts_with_no_commit(void **state)
{
	stage *s = *state;
	small_pages(s);
	for (int how = 0; how < 4; how++)
		for (int conflict = 0; conflict < 2; conflict++)
			for (s->calls[1] = 0; s->calls[1] < 3; s->calls[1]++)
				race(s, how, conflict);
	assert_true(s->calls[3] >= 8);
}

/* The cache knows a pointer by the key it had before it was folded. */
static void test_fold__leaves_the_cache_usable(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 10, 5);
	fill(s->db, s, 0, 300, 1);
	expect_at(s, s->db, 0, 0, 300, THIN(1)); /* cached */
	job_do(stage_other(s), pgs__job_fold);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < 300; i += 50)
		tx_expect(t, s, i, THIN(1));
	tx_put(t, s, 3, THIN(6));
	tx_put(t, s, 299, THIN(6));
	tx_commit(t);
	stage_expect(s, 3, THIN(6));
	t = tx_begin(s->db, PGS_SNAPSHOT);
	tx_put(t, s, 4, THIN(7)); /* first committer wins: nobody was before it */
	tx_put(t, s, 298, THIN(7));
	tx_commit(t);
	stage_expect(s, 4, THIN(7));
	stage_expect(s, 298, THIN(7));
}

/* A range is folded: the key under it, which the snapshot's pack hid, is gone. */
static void test_fold__of_a_range_conflicts_only_with_who_read_below(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 20, 1);
	tx_one(s->db, s, 2000, THIN(1));
	pgs_txn *below = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect(below, s, 15, THIN(1));
	tx_put(below, s, 0, THIN(2));
	truncate_to(s, 10); /* long: in a pack */
	tx_one(s->db, s, 2001, THIN(1));
	assert_int_equal(stage_keys_of(s, 'o'), 1);
	pgs_txn *above = tx_begin(s->db, PGS_SERIALIZABLE), *first = tx_begin(s->db, PGS_SNAPSHOT);
	tx_expect(above, s, 15, PAGE_ZERO);
	tx_expect(above, s, 2000, PAGE_ZERO);
	tx_put(above, s, 1, THIN(3));
	tx_put(first, s, 15, THIN(4));
	assert_true(page_mod(s, 15) > 0);
	job_do(stage_other(s), pgs__job_fold);
	assert_int_equal(page_mod(s, 15), 0);
	tx_commit(above);
	tx_commit(first);
	tx_conflict(below, 15);
	stage_expect(s, 15, THIN(4));
	expect_sound(s);
}

static void forget_content(stage *s, const pgs__page_id *id)
{
	pgs__key key = pgs__key_content(pgs__db_prefix(s->db), id);
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&key), (pgs_slice){0});
	kv_apply(s->kv, &delete, 1);
}

/* Collection drops what a pack hides, though a pointer to it is still there, below the pack. */
static void test_fold__leaves_nothing_that_verification_minds(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	small_pages(s);
	tx_one(s->db, s, 5, PAGE_NOISE(1));
	pgs__page_id hidden = stage_pointer(s, 5).id;
	fill(s->db, s, 0, 200, 2);
	tx_one(s->db, s, 7, PAGE_NOISE(2));
	pgs__page_id shown = stage_pointer(s, 7).id;
	set_floor(s->kv, s->db, kv_revision(s->kv));
	expect_sound(s);
	forget_content(s, &hidden);
	expect_sound(s);
	job_do(s->db, pgs__job_fold);
	expect_sound(s);
	forget_content(s, &shown);
	expect_code(pgs_verify(stage_other(s), NULL, NULL, &err), PGS_ECORRUPT, &err, "verify");
}

/* --- workers ------------------------------------------------------------------------------ */

static void break_claim(stage *s, const char *operation)
{
	pgs__key from = pgs__key_lock(pgs__db_prefix(s->db), "m-"), end = pgs__key_lock(pgs__db_prefix(s->db), "m.");
	if (strcmp(operation, "txn") != 0 || s->calls[0]++ != s->calls[1])
		return;
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&from), pgs__key_slice(&end));
	kv_apply(s->kv, &delete, 1);
	job_do(s->other_db, pgs__job_fold); /* another takes over, */
	for (uint64_t i = 0; i < 4; i++)    /* and the world goes on */
		fill(s->other_db, s, i * 70, 150, 10 + i);
}

static void test_fold__by_a_worker_whose_claim_was_broken_changes_nothing(void **state)
{
	stage *s = *state;
	size_t noticed = 0;
	small_pages(s);
	for (s->calls[1] = 2; s->calls[1] < 14; s->calls[1]++) {
		stage_remake(s);
		fill(s->db, s, 0, 2000, 1);
		truncate_to(s, 200);
		fill(s->db, s, 100, 250, 2);
		stage_other(s);
		s->calls[0] = 0;
		s->before = break_claim;
		pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
		assert_int_equal(job_run(s->db, pgs__job_fold, NULL, &r, NULL), PGS_OK);
		s->before = NULL;
		if (s->calls[0] <= s->calls[1])
			break; /* done before */
		expect_at(s, s->db, 0, 0, 70, THIN(10));
		expect_at(s, s->db, 0, 210, 150, THIN(13));
		noticed += r.busy;
	}
	assert_true(noticed > 1);
}

static void test_fold__leaves_a_claimed_database_alone(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 2000, 1);
	truncate_to(s, 200);
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	pgs__worker w = {.db = stage_other(s), .report = &r, .bytes_left = UINT64_MAX};
	const pgs__scope scope = {.jobs = PGS__JOB_FOLD};
	pgs__claim claim = {.held = 0};
	assert_int_equal(pgs__claim_take(&w, &scope, &claim), PGS_OK);
	r = job_do(s->db, pgs__job_fold);
	assert_true(r.busy);
	assert_int_equal(r.folded_packs, 0);
	pgs__claim_release(&w, &claim);
	r = job_do(s->db, pgs__job_fold);
	assert_int_equal(r.due_packs, 0);
}

static void test_fold__of_a_dropped_database_says_so(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 2000, 1);
	truncate_to(s, 200);
	stage_other(s);
	assert_int_equal(pgs_db_drop(s->other_store, "db", 2, NULL), PGS_OK);
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	pgs__worker w = {.db = s->db, .report = &r, .bytes_left = UINT64_MAX};
	assert_int_equal(pgs__job_fold(&w), PGS_OK); /* nothing is left to fold */
	assert_int_equal(pgs_db_create(&w.db, s->store, "db", 2, &s->options, NULL), PGS_OK);
	pgs_db_close(w.db);
}

static void test_fold__stops_at_damage(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 10, 1);
	fill(s->db, s, 0, 300, 2);
	pgs__key key = pgs__key_page(pgs__db_prefix(s->db), 4);
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), (pgs_slice){"\x17garbage", 8});
	kv_apply(s->kv, &put, 1);
	pgs_error err = PGS_ERROR_INIT;
	expect_code(job_run(s->db, pgs__job_fold, NULL, NULL, &err), PGS_ECORRUPT, &err, "fold");
	assert_int_equal(err.page, 4);
	assert_int_equal(stage_keys_of(s, 'o'), 1);
	assert_int_equal(stage_keys_of(s, 'k'), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest packs[] = {
		TEST(test_fold__moves_pointers_at_their_age),
		TEST(test_fold__goes_oldest_first),
		TEST(test_fold__leaves_out_what_is_covered),
		TEST(test_fold__is_not_seen_by_readers),
		TEST(test_fold__never_covers_a_younger_pointer),
		TEST(test_fold__leaves_the_cache_usable),
		TEST(test_fold__stops_at_damage),
		TEST(test_fold__leaves_nothing_that_verification_minds),
	};
	static const struct CMUnitTest all[] = {
		TEST(test_fold__deletes_truncated_keys),
		TEST(test_fold__keeps_to_its_budget),
		TEST(test_fold__conflicts_with_no_commit),
		TEST(test_fold__of_a_range_conflicts_only_with_who_read_below),
		TEST(test_fold__by_a_worker_whose_claim_was_broken_changes_nothing),
		TEST(test_fold__leaves_a_claimed_database_alone),
		TEST(test_fold__of_a_dropped_database_says_so),
	};
	return stage_run("fold of packs", packs, sizeof packs / sizeof *packs, STAGE_LIMITED | STAGE_COUNTER) +
	       stage_run("fold", all, sizeof all / sizeof *all, STAGE_ALL);
}
