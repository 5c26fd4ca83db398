/* lib/maintain/sweep.c, orphans.c: the changelog pruned, blobs removed, and nothing that anyone needs. */
#include <stdlib.h>
#include <string.h>

#include "codec/changelog.h"
#include "support/blob_calls.h"
#include "support/jobs.h"
#include "support/kv_calls.h"
#include "support/stores.h"
#include "support/txn_stage.h"
#include "util/clock.h"

#define THIN PAGE_THIN

static void small_pages(stage *s)
{
	s->options.page_size_bytes = 512;
	stage_remake(s);
}

static void commits(stage *s, uint64_t count, uint64_t *revisions)
{
	for (uint64_t i = 0; i < count; i++)
		revisions[i] = tx_one(s->db, s, i % 7, THIN(i + 1));
}

static pgs_maintain_report sweep_everything(stage *s)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.all = true;
	expect_code(job_run(s->db, pgs__job_sweep, &o, &r, &err), PGS_OK, &err, "sweep");
	return r;
}

static void expect_sound(stage *s)
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_verify(stage_other(s), NULL, NULL, &err), PGS_OK, &err, "verify");
}

static int count_entry(void *ctx, const pgs_log_entry *entry)
{
	uint64_t *seen = ctx;
	seen[0]++;
	seen[1] = entry->revision; /* the oldest, at the end */
	return 0;
}

/* --- the changelog ------------------------------------------------------------------ */

static void test_sweep__prunes_up_to_the_floor(void **state)
{
	stage *s = *state;
	static uint64_t r[1200], seen[2];
	small_pages(s);
	commits(s, 1200, r);
	set_floor(s->kv, s->db, r[1100]);
	pgs_maintain_report report = job_do(s->db, pgs__job_sweep);
	assert_int_equal(report.pruned_changes, 1100); /* the last one up to the floor stays */
	assert_false(report.more || report.busy);
	assert_int_equal(stage_keys_of(s, 'x'), 100);
	assert_int_equal(stage_keys_of(s, 'k'), 0);
	seen[0] = 0;
	assert_int_equal(pgs_log(s->db, NULL, count_entry, seen, NULL), PGS_OK);
	assert_int_equal(seen[0], 100);
	assert_int_equal(seen[1], r[1100]);
	report = job_do(s->db, pgs__job_sweep);
	assert_int_equal(report.pruned_changes, 0);
	for (uint64_t i = 1100; i < 1200; i += 9) {
		pgs_txn *t = tx_at(i & 1 ? s->db : stage_other(s), r[i]);
		tx_expect(t, s, i % 7, THIN(i + 1));
		pgs_abort(t);
	}
	expect_sound(s);
}

static void test_sweep__prunes_nothing_without_a_floor(void **state)
{
	stage *s = *state;
	uint64_t r[10];
	commits(s, 10, r);
	assert_int_equal(job_do(s->db, pgs__job_sweep).pruned_changes, 0);
	assert_int_equal(stage_keys_of(s, 'x'), 10);
}

/* Committers' clocks differ: keys are not in the order of revisions. */
static void test_sweep__prunes_behind_a_clock_that_differs(void **state)
{
	stage *s = *state;
	uint64_t r[20];
	pgs__buffer value = {0};
	pgs__change_encode(&(pgs__change){.kind = PGS__CHANGE_ABORTED}, &value);
	for (uint8_t i = 0; i < 3; i++) { /* as of years ago, but put now */
		uint8_t uuid[16] = {0, i};
		pgs__key key = pgs__key_uuid(pgs__db_prefix(s->db), 'x', uuid);
		const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), pgs__buffer_slice(&value));
		if (i == 2)
			commits(s, 20, r);
		kv_apply(s->kv, &put, 1);
	}
	pgs__buffer_free(&value);
	set_floor(s->kv, s->db, r[15]);
	assert_int_equal(job_do(s->db, pgs__job_sweep).pruned_changes, 2 + 15);
	assert_int_equal(stage_keys_of(s, 'x'), 1 + 5);
}

static int begin_at_time(pgs_db *db, int64_t time_ms, pgs_txn **t, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_time_ms = time_ms;
	return pgs_begin(t, db, &o, err);
}

static void test_sweep__leaves_times_that_the_floor_shows(void **state)
{
	stage *s = *state;
	uint64_t r[4];
	int64_t at[4];
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	pgs__sleep_ms(5, 0);
	int64_t before = pgs__unix_ms() - 1; /* of an empty database */
	for (uint64_t i = 0; i < 4; i++) {
		pgs__sleep_ms(5, 0);
		r[i] = tx_one(s->db, s, 0, THIN(i + 1));
		pgs__sleep_ms(5, 0);
		at[i] = pgs__unix_ms();
	}
	expect_code(begin_at_time(s->db, before, &t, &err), PGS_ENOTFOUND, &err, "before the first");
	kv_put(s->kv, "n", "something else"); /* the floor is past the commit, not at it */
	kv_put(s->kv, "n", "something else");
	set_floor(s->kv, s->db, r[3] + 2);
	for (int swept = 0; swept < 2; swept++) {
		expect_code(begin_at_time(s->db, before, &t, &err), PGS_EOLDREV, &err, "before the first");
		expect_code(begin_at_time(s->db, at[1], &t, &err), PGS_EOLDREV, &err, "below the floor");
		for (int64_t later = 0; later < 2; later++) {
			expect_code(begin_at_time(stage_other(s), at[3] + later * 100000, &t, &err), PGS_OK, &err, "the last");
			assert_int_equal(pgs_txn_revision(t), r[3]);
			tx_expect(t, s, 0, THIN(4));
			pgs_abort(t);
		}
		job_do(s->db, pgs__job_sweep);
		assert_int_equal(stage_keys_of(s, 'x'), 1);
	}
	s->kv->vtable->compact(s->kv, r[3] + 2, 0, NULL);
	expect_code(begin_at_time(s->db, at[3], &t, &err), PGS_OK, &err, "the last, of a compacted KV");
	tx_expect(t, s, 0, THIN(4));
	pgs_abort(t);
}

/* The last commit is long ago, and the KV compacted past it: what began after that still commits, and by log. */
static void test_sweep__lets_transactions_commit_across_compaction(void **state)
{
	stage *s = *state;
	small_pages(s);
	tx_fill(s->db, s, 0, 400, THIN(1));
	for (int i = 0; i < 5; i++)
		kv_put(s->kv, "n", "the KV goes on");
	uint64_t floor = kv_revision(s->kv);
	set_floor(s->kv, s->db, floor);
	job_do(s->db, pgs__job_sweep);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE), *u = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < 400; i += 2) {
		tx_expect(t, s, i, THIN(1) + i);
		tx_expect(u, s, i, THIN(1) + i);
	}
	tx_put(t, s, 1, THIN(1000));
	tx_put(u, s, 3, THIN(1001));
	tx_one(s->db, s, 399, THIN(1002));
	assert_int_equal(s->kv->vtable->compact(s->kv, floor, 0, NULL), PGS_OK);
	tx_commit(t);
	tx_commit(u);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < 400; i += 2)
		tx_expect(t, s, i, THIN(1) + i);
	tx_put(t, s, 1, THIN(1003));
	tx_one(stage_other(s), s, 44, THIN(1004));
	tx_conflict(t, 44);
	expect_sound(s);
}

/* Runs of pages so many that they are in a blob. */
static void test_sweep__removes_the_blob_of_runs_a_floor_later(void **state)
{
	stage *s = *state;
	small_pages(s);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < 33000; i++)
		tx_put(t, s, 2 * i, THIN(1));
	tx_commit(t);
	size_t blobs = stage_blobs(s);
	assert_true(blobs >= 1);
	uint64_t last = tx_one(s->db, s, 0, THIN(2));
	set_floor(s->kv, s->db, last);
	pgs_maintain_report r = job_do(s->db, pgs__job_sweep);
	assert_int_equal(r.pruned_changes, 1);
	assert_int_equal(r.removed_blobs, 0);
	assert_int_equal(r.due_blobs, 1);
	assert_int_equal(stage_blobs(s), blobs);
	set_floor(s->kv, s->db, kv_revision(s->kv));
	r = job_do(s->db, pgs__job_sweep);
	assert_int_equal(r.removed_blobs, 1);
	assert_true(r.removed_bytes > 60000);
	assert_int_equal(r.removed_orphans, 0);
	assert_int_equal(r.due_blobs, 0);
	assert_int_equal(stage_blobs(s), blobs - 1);
	assert_int_equal(stage_keys_of(s, 'd'), 0);
	expect_sound(s);
}

/* --- blobs ------------------------------------------------------------------------------- */

/* A blob of the database, as a writer at `base` would name it. */
static void put_file(stage *s, char kind, uint64_t base, char name[PGS__FILE_NAME_MAX + 1])
{
	char blob[PGS__BLOB_NAME_SIZE];
	assert_int_equal(pgs__file_name_new(name, kind, base), PGS_OK);
	pgs__blob_name(blob, pgs__db_prefix(s->db), name);
	assert_int_equal(put_pattern(s->blob, blob, 1000, 1), PGS_OK);
}

static bool is_there(stage *s, const char *name)
{
	char blob[PGS__BLOB_NAME_SIZE];
	uint64_t size;
	pgs__blob_name(blob, pgs__db_prefix(s->db), name);
	return stat_size(s->blob, blob, &size) == PGS_OK;
}

static uint64_t unregister(stage *s, const char *name)
{
	pgs__key key = pgs__key_unregistered(pgs__db_prefix(s->db), name);
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&key), (pgs_slice){0});
	return kv_apply(s->kv, &put, 1);
}

static void test_sweep__removes_sorted_files_at_once_and_others_later(void **state)
{
	stage *s = *state;
	char sorted[PGS__FILE_NAME_MAX + 1], index[PGS__FILE_NAME_MAX + 1], gone[PGS__FILE_NAME_MAX + 1];
	uint64_t now = tx_one(s->db, s, 0, THIN(1));
	put_file(s, 's', now, sorted);
	put_file(s, 'i', now, index);
	assert_int_equal(pgs__file_name_new(gone, 's', now), PGS_OK);
	unregister(s, sorted);
	unregister(s, gone);
	uint64_t folded = unregister(s, index);
	set_floor(s->kv, s->db, folded - 1);
	pgs_maintain_report r = job_do(s->db, pgs__job_sweep);
	assert_int_equal(r.removed_blobs, 1);
	assert_int_equal(r.removed_bytes, 1000);
	assert_int_equal(r.due_blobs, 1);
	assert_false(is_there(s, sorted));
	assert_true(is_there(s, index));
	set_floor(s->kv, s->db, folded);
	r = job_do(s->db, pgs__job_sweep);
	assert_int_equal(r.removed_blobs, 1);
	assert_int_equal(r.due_blobs, 0);
	assert_false(is_there(s, index));
	assert_int_equal(stage_keys_of(s, 'd'), 0);
}

static void test_sweep__removes_many_in_slices(void **state)
{
	stage *s = *state;
	char name[PGS__FILE_NAME_MAX + 1];
	for (int i = 0; i < 620; i++) {
		put_file(s, i % 10 ? 's' : 'i', 1, name);
		unregister(s, name);
	}
	pgs_maintain_report r = job_do(s->db, pgs__job_sweep);
	assert_int_equal(r.removed_blobs, 558);
	assert_int_equal(r.due_blobs, 62);
	assert_int_equal(stage_keys_of(s, 'd'), 62);
}

/* A database that has a file of each kind registered. */
static void register_all_kinds(stage *s)
{
	small_pages(s);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < 2200; i++) /* contents enough for a sorted file */
		tx_put(t, s, i, PAGE_NOISE(i));
	tx_commit(t);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < 70000; i++) /* runs in a blob; with limits, a pack with an index file too */
		tx_put(t, s, 10000 + 2 * i, THIN(i));
	tx_commit(t);
	if (s->variant->backend & STAGE_LIMITED) {
		assert_int_equal(stage_keys_of(s, 'o'), 2);
		assert_int_equal(stage_blobs(s), 3);
	} else {
		assert_int_equal(stage_blobs(s), 2);
	}
}

static void test_sweep__removes_orphans_only(void **state)
{
	stage *s = *state;
	char orphan[3][PGS__FILE_NAME_MAX + 1], young[PGS__FILE_NAME_MAX + 1], noted[PGS__FILE_NAME_MAX + 1];
	char stranger[PGS__BLOB_NAME_SIZE];
	register_all_kinds(s);
	size_t registered = stage_blobs(s);
	uint64_t floor = kv_revision(s->kv);
	set_floor(s->kv, s->db, floor);
	for (int i = 0; i < 3; i++)
		put_file(s, "six"[i], floor - 1 - (uint64_t)i, orphan[i]);
	put_file(s, 's', floor, young); /* its writer may register it yet */
	put_file(s, 'i', 1, noted);
	unregister(s, noted);
	pgs__blob_name(stranger, pgs__db_prefix(s->db), "readme");
	assert_int_equal(put_text(s->blob, stranger, "not ours"), PGS_OK);
	pgs_maintain_report r = sweep_everything(s);
	assert_int_equal(r.removed_orphans, 3);
	assert_int_equal(r.removed_blobs, 3);
	assert_int_equal(r.removed_bytes, 3000);
	for (int i = 0; i < 3; i++)
		assert_false(is_there(s, orphan[i]));
	assert_true(is_there(s, young));
	assert_true(is_there(s, noted));
	assert_true(is_there(s, "readme"));
	assert_int_equal(stage_blobs(s), registered + 3);
	expect_sound(s);
}

static void test_sweep__looks_for_orphans_once_in_a_while(void **state)
{
	stage *s = *state;
	char name[PGS__FILE_NAME_MAX + 1];
	set_floor(s->kv, s->db, kv_revision(s->kv));
	put_file(s, 's', 1, name);
	assert_int_equal(job_do(s->db, pgs__job_sweep).removed_orphans, 1);
	put_file(s, 's', 1, name);
	assert_int_equal(job_do(s->db, pgs__job_sweep).removed_orphans, 0);
	assert_int_equal(sweep_everything(s).removed_orphans, 1);
}

static void test_sweep__keeps_what_named_snapshots_need(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	small_pages(s);
	tx_fill(s->db, s, 0, 300, THIN(1));
	expect_code(pgs_snapshot_create(s->db, "kept", 4, NULL, &err), PGS_OK, &err, "snapshot");
	tx_fill(s->db, s, 0, 300, THIN(1000));
	size_t blobs = stage_blobs(s);
	assert_true(blobs >= 1);
	for (int i = 0; i < 2; i++) {
		set_floor(s->kv, s->db, kv_revision(s->kv));
		assert_int_equal(sweep_everything(s).removed_blobs, 0);
	}
	assert_int_equal(stage_blobs(s), blobs);
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_snapshot = "kept";
	o.at_snapshot_size = 4;
	expect_code(pgs_begin(&t, stage_other(s), &o, &err), PGS_OK, &err, "begin at the snapshot");
	for (uint64_t i = 0; i < 300; i += 7)
		tx_expect(t, s, i, THIN(1) + i);
	pgs_abort(t);
	assert_int_equal(pgs_snapshot_drop(s->db, "kept", 4, NULL), PGS_OK);
	set_floor(s->kv, s->db, kv_revision(s->kv));
	assert_int_equal(sweep_everything(s).removed_blobs, 1);
	assert_int_equal(stage_blobs(s), blobs - 1);
}

static void spoil(stage *s, char kind)
{
	pgs__key from = pgs__key_kind(pgs__db_prefix(s->db), kind), end = pgs__key_kind_end(pgs__db_prefix(s->db), kind);
	pgs_kv_op op = pgs__op_range(pgs__key_slice(&from), pgs__key_slice(&end), 0);
	op.limit = 1;
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(s->kv, &txn), PGS_OK);
	if (txn.results[0].count) {
		const pgs_kv_op put = pgs__op_put(txn.results[0].pairs[0].key, (pgs_slice){"spoilt", 6});
		kv_apply(s->kv, &put, 1);
	}
	s->kv->vtable->release(s->kv, &txn, 1);
}

/* What a damaged value names is not known, so nothing is an orphan for certain. */
static void test_sweep__removes_no_orphan_on_damaged_grounds(void **state)
{
	stage *s = *state;
	char names[2][PGS__FILE_NAME_MAX + 1];
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.all = true;
	for (int i = 0; i < 2; i++) {
		if (i == 0 && !(s->variant->backend & STAGE_LIMITED))
			continue;
		register_all_kinds(s);
		set_floor(s->kv, s->db, 2);
		put_file(s, 'i', 1, names[0]);
		put_file(s, 'x', 1, names[1]);
		spoil(s, "ox"[i]);
		expect_code(job_run(s->db, pgs__job_sweep, &o, NULL, &err), PGS_ECORRUPT, &err, "sweep");
		assert_true(is_there(s, names[0]) && is_there(s, names[1]));
		assert_int_equal(stage_keys_of(s, 'k'), 0);
	}
}

/* --- with a fold, and workers -------------------------------------------------------------- */

static void test_sweep__keeps_a_folded_pack_readable_until_the_floor_passes(void **state)
{
	stage *s = *state;
	if (!(s->variant->backend & STAGE_LIMITED)) {
		skip();
		return;
	}
	register_all_kinds(s);
	uint64_t packed = tx_one(s->db, s, 1, THIN(7));
	pgs_maintain_report r = job_do(s->db, pgs__job_fold);
	assert_int_equal(r.folded_packs, 2);
	assert_int_equal(stage_keys_of(s, 'd'), 1);
	set_floor(s->kv, s->db, packed);
	r = sweep_everything(s);
	assert_int_equal(r.removed_blobs, 0); /* the pack's file is wanted, and so is its changelog's, just noted */
	assert_int_equal(r.due_blobs, 2);
	pgs_txn *t = tx_at(stage_other(s), packed);
	for (uint64_t i = 0; i < 70000; i += 997)
		tx_expect(t, s, 10000 + 2 * i, THIN(i));
	pgs_abort(t);
	expect_sound(s);
	set_floor(s->kv, s->db, kv_revision(s->kv));
	r = sweep_everything(s);
	assert_int_equal(r.removed_blobs, 2);
	assert_int_equal(stage_blobs(s), 1);
	t = tx_read(s->db);
	for (uint64_t i = 0; i < 70000; i += 997)
		tx_expect(t, s, 10000 + 2 * i, THIN(i));
	pgs_abort(t);
	expect_sound(s);
}

static void test_sweep__keeps_to_its_budget(void **state)
{
	stage *s = *state;
	uint64_t r[200];
	char name[PGS__FILE_NAME_MAX + 1];
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	small_pages(s);
	commits(s, 200, r);
	put_file(s, 's', 1, name);
	unregister(s, name);
	set_floor(s->kv, s->db, r[199]);
	o.dry_run = true;
	assert_int_equal(job_run(s->db, pgs__job_sweep, &o, &report, NULL), PGS_OK);
	assert_int_equal(report.due_blobs, 1);
	pgs__worker w = {.db = s->db, .report = &report, .deadline_ms = 1, .bytes_left = UINT64_MAX};
	assert_int_equal(pgs__job_sweep(&w), PGS_OK);
	assert_true(report.more);
	assert_int_equal(stage_keys_of(s, 'x'), 200);
	assert_int_equal(job_run_until(s->db, pgs__job_sweep, 2, NULL), JOB_ENDED);
	assert_int_equal(stage_keys_of(s, 'x'), 100);
	job_do(s->db, pgs__job_sweep);
	assert_int_equal(stage_keys_of(s, 'x'), 1);
	assert_false(is_there(s, name));
}

static void break_claim(stage *s, const char *operation)
{
	pgs__key from = pgs__key_lock(pgs__db_prefix(s->db), "m-"), end = pgs__key_lock(pgs__db_prefix(s->db), "m.");
	if (strcmp(operation, "txn") != 0 || s->calls[0]++ != s->calls[1])
		return;
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&from), pgs__key_slice(&end));
	kv_apply(s->kv, &delete, 1);
}

static void test_sweep__by_a_worker_whose_claim_was_broken_changes_no_key(void **state)
{
	stage *s = *state;
	uint64_t r[60];
	size_t noticed = 0;
	small_pages(s);
	for (s->calls[1] = 3; s->calls[1] < 12; s->calls[1]++) {
		pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
		stage_remake(s);
		commits(s, 60, r);
		set_floor(s->kv, s->db, r[59]);
		s->calls[0] = 0;
		s->before = break_claim;
		assert_int_equal(job_run(s->db, pgs__job_sweep, NULL, &report, NULL), PGS_OK);
		s->before = NULL;
		assert_int_equal(stage_keys_of(s, 'x'), 60 - report.pruned_changes);
		noticed += report.busy && report.pruned_changes < 59;
	}
	assert_true(noticed > 1);
}

static void test_sweep__leaves_a_claimed_database_alone(void **state)
{
	stage *s = *state;
	uint64_t r[5];
	commits(s, 5, r);
	set_floor(s->kv, s->db, r[4]);
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs__worker w = {.db = stage_other(s), .report = &report, .bytes_left = UINT64_MAX};
	const pgs__scope scope = {.jobs = PGS__JOB_SWEEP};
	pgs__claim claim = {.held = 0};
	assert_int_equal(pgs__claim_take(&w, &scope, &claim), PGS_OK);
	report = job_do(s->db, pgs__job_sweep);
	assert_true(report.busy);
	assert_int_equal(stage_keys_of(s, 'x'), 5);
	pgs__claim_release(&w, &claim);
	assert_int_equal(job_do(s->db, pgs__job_sweep).pruned_changes, 4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_sweep__prunes_up_to_the_floor),
		TEST(test_sweep__prunes_nothing_without_a_floor),
		TEST(test_sweep__prunes_behind_a_clock_that_differs),
		TEST(test_sweep__leaves_times_that_the_floor_shows),
		TEST(test_sweep__lets_transactions_commit_across_compaction),
		TEST(test_sweep__removes_the_blob_of_runs_a_floor_later),
		TEST(test_sweep__removes_sorted_files_at_once_and_others_later),
		TEST(test_sweep__removes_many_in_slices),
		TEST(test_sweep__removes_orphans_only),
		TEST(test_sweep__keeps_what_named_snapshots_need),
		TEST(test_sweep__looks_for_orphans_once_in_a_while),
		TEST(test_sweep__removes_no_orphan_on_damaged_grounds),
		TEST(test_sweep__keeps_a_folded_pack_readable_until_the_floor_passes),
		TEST(test_sweep__keeps_to_its_budget),
		TEST(test_sweep__by_a_worker_whose_claim_was_broken_changes_no_key),
		TEST(test_sweep__leaves_a_claimed_database_alone),
	};
	return stage_run("sweep", tests, sizeof tests / sizeof *tests, STAGE_MEMORY | STAGE_LIMITED | STAGE_LOCAL);
}
