/* lib/txn: what engines with a page cache of their own need. Pages relied on without being read, the revision before a
 * commit's, forks, the writer lock. Tags: see support/txn_stage.h. */
#include <stdio.h>
#include <string.h>

#include "support/txn_stage.h"
#include "txn/txn.h"

#define T PAGE_NOISE

/* --- relied pages ------------------------------------------------------------------ */

/* Every `step`th page from `first` on, up to `end`. */
typedef struct pages {
	uint64_t first, step, end;
	size_t asked;
} pages;

static uint64_t next_page(void *ctx, uint64_t from)
{
	pages *p = ctx;
	p->asked++;
	uint64_t page = from <= p->first ? p->first : p->first + (from - p->first + p->step - 1) / p->step * p->step;
	return page < p->end ? page : PGS_NO_PAGE;
}

static int commit_relying(pgs_txn *t, pages *relied, uint64_t *previous, pgs_error *err)
{
	pgs_commit_options o = PGS_COMMIT_OPTIONS_INIT;
	o.relied = relied ? next_page : NULL;
	o.relied_ctx = relied;
	o.previous_revision = previous;
	return pgs_commit(t, &o, NULL, err);
}

/* Commit page 0 of a transaction that relies on `relied` while another writes page `other`. */
static void expect_relied(stage *s, uint32_t isolation, pages relied, uint64_t other, bool conflict)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t = tx_begin(s->db, isolation);
	tx_put(t, s, 0, T(1000 + s->calls[0]));
	tx_one(stage_other(s), s, other, T(2000 + s->calls[0]++));
	int result = commit_relying(t, &relied, NULL, &err);
	if (result != (conflict ? PGS_ECONFLICT : PGS_OK))
		fail_msg("relying on %llu to %llu, page %llu changed: %s %s", (unsigned long long)relied.first,
			 (unsigned long long)relied.end, (unsigned long long)other, pgs_error_name(result), err.message);
	if (conflict)
		assert_int_equal(err.page, other);
}

static void test_txn_relied__pages_count_as_read(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 64, T(0));
	for (uint32_t isolation = PGS_SERIALIZABLE; isolation <= PGS_SNAPSHOT; isolation++) {
		expect_relied(s, isolation, (pages){10, 2, 15, 0}, 14, true);  /* three pages */
		expect_relied(s, isolation, (pages){10, 2, 15, 0}, 13, false); /* between them */
		expect_relied(s, isolation, (pages){10, 1, 15, 0}, 12, true);  /* neighbours */
		expect_relied(s, isolation, (pages){10, 1, 15, 0}, 9, false);
		expect_relied(s, isolation, (pages){10, 1, 15, 0}, 15, false);
		expect_relied(s, isolation, (pages){70, 1, 71, 0}, 70, true);  /* not there yet */
	}
}

static void test_txn_relied__sets_of_any_size(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 64, T(0));
	for (uint64_t end = 100; end <= 100000; end *= 10) { /* more single pages than keys are compared */
		expect_relied(s, PGS_SNAPSHOT, (pages){10, 2, end, 0}, 40, true);
		expect_relied(s, PGS_SNAPSHOT, (pages){10, 2, end, 0}, 41, false);
		expect_relied(s, PGS_SERIALIZABLE, (pages){10, 2, end, 0}, 40, true);
		expect_relied(s, PGS_SERIALIZABLE, (pages){10, 2, end, 0}, 41, false);
	}
}

static void test_txn_relied__a_truncation_is_a_change(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	for (uint64_t step = 1; step < 3; step++) {
		tx_fill(s->db, s, 0, 64, T(0));
		pgs_txn *t = tx_begin(s->db, PGS_SNAPSHOT), *other = tx_begin(stage_other(s), PGS_SERIALIZABLE);
		tx_put(t, s, 0, T(7));
		assert_int_equal(pgs_truncate(other, 30), PGS_OK);
		tx_commit(other);
		pages relied = {20, step, 20 + 40 * step, 0};
		assert_int_equal(commit_relying(t, &relied, NULL, &err), PGS_ECONFLICT);
	}
}

/* With what was read, and with blind writes whose deltas depend on the page. */
static void test_txn_relied__beside_reads_and_writes(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	tx_fill(s->db, s, 0, 64, PAGE_KIN(1, 0));
	for (int changed = 10; changed < 13; changed++) {
		pages relied = {11, 1, 13, 0};
		pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
		pgs_txn *now = tx_read(s->db);
		uint8_t page[4096];
		assert_int_equal(pgs_read(now, 10, page), PGS_OK);
		tx_expect(t, s, 10, page_tag(page));
		pgs_abort(now);
		tx_put(t, s, 12, PAGE_KIN(1, 100 + changed));
		tx_put(t, s, 40, PAGE_KIN(1, 200 + changed));
		tx_one(stage_other(s), s, (uint64_t)changed, PAGE_KIN(1, 300 + changed));
		tx_one(stage_other(s), s, 40, PAGE_KIN(1, 400 + changed)); /* blind: no conflict */
		assert_int_equal(commit_relying(t, &relied, NULL, &err), PGS_ECONFLICT);
		assert_int_equal(err.page, changed);
	}
}

/* Nobody else commits: a large set is not even looked through. */
static void test_txn_relied__costs_nothing_alone(void **state)
{
	stage *s = *state;
	pages relied = {0, 1, 1000000, 0};
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t = tx_begin(s->db, PGS_SNAPSHOT);
	tx_put(t, s, 5, T(5));
	assert_int_equal(commit_relying(t, &relied, NULL, &err), PGS_OK);
	assert_true(relied.asked < 300);
}

/* --- the revision before ------------------------------------------------------------- */

static void test_txn_previous__tells_whether_others_committed(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	uint64_t base = pgs_txn_revision(t), previous = 0;
	tx_put(t, s, 1, T(100));
	assert_int_equal(commit_relying(t, NULL, &previous, &err), PGS_OK);
	assert_int_equal(previous, base);

	t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(t, s, 1, T(101));
	uint64_t other = tx_one(stage_other(s), s, 2, T(102));
	assert_int_equal(commit_relying(t, NULL, &previous, &err), PGS_OK);
	assert_int_equal(previous, other);

	t = tx_begin(s->db, PGS_SERIALIZABLE); /* nothing is committed: the snapshot's own */
	base = pgs_txn_revision(t);
	assert_int_equal(commit_relying(t, NULL, &previous, &err), PGS_OK);
	assert_int_equal(previous, base);
}

/* --- forks ----------------------------------------------------------------------------- */

static pgs_txn *fork_of(pgs_txn *of, bool write)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	o.write = write;
	if (pgs_fork(&t, of, &o, &err) != PGS_OK)
		fail_msg("fork: %s", err.message);
	return t;
}

static void test_txn_fork__has_the_same_snapshot(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *reader = tx_read(s->db);
	uint64_t calls = pgs_fault_calls(s->fault);
	pgs_txn *writer = fork_of(reader, true), *third = fork_of(writer, false);
	assert_int_equal(pgs_fault_calls(s->fault), calls);
	assert_int_equal(pgs_txn_revision(writer), pgs_txn_revision(reader));
	tx_one(stage_other(s), s, 3, T(50));
	tx_put(writer, s, 4, T(51));
	tx_expect(writer, s, 4, T(51));
	tx_expect(reader, s, 4, T(4)); /* not seen outside of its transaction */
	tx_expect(third, s, 3, T(3));
	tx_expect_count(third, 8);
	tx_commit(writer);
	tx_expect(reader, s, 4, T(4));
	pgs_abort(reader);
	tx_expect(third, s, 4, T(4));
	pgs_abort(third);
	stage_expect(s, 3, T(50));
	stage_expect(s, 4, T(51));
}

static void test_txn_fork__conflicts_from_its_snapshot_on(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *reader = tx_read(s->db);
	tx_one(stage_other(s), s, 3, T(50));
	pgs_txn *writer = fork_of(reader, true);
	tx_expect(writer, s, 3, T(3));
	tx_put(writer, s, 4, T(51));
	tx_conflict(writer, 3);
	pgs_abort(reader);
}

static void test_txn_fork__refuses(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision = tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *latest = tx_read(s->db), *past = tx_at(s->db, revision), *out;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_revision = revision;
	assert_int_equal(pgs_fork(&out, latest, &o, &err), PGS_EINVAL);
	assert_null(out);
	o = (pgs_txn_options)PGS_TXN_OPTIONS_INIT;
	o.write = true;
	assert_int_equal(pgs_fork(&out, past, &o, &err), PGS_EINVAL);
	o.lock = PGS_LOCK_TRY;
	assert_int_equal(pgs_fork(&out, latest, &o, &err), PGS_EINVAL);
	assert_int_equal(pgs_fork(&out, past, NULL, &err), PGS_OK);
	tx_expect(out, s, 2, T(2));
	pgs_abort(out);
	pgs_abort(past);
	pgs_abort(latest);
}

/* --- the writer lock ---------------------------------------------------------------------- */

#define KEPT_OUT_MS 500 /* long against a call of the KV, also of a server on a busy machine */

static int begin_locked(pgs_txn **out, pgs_db *db, uint32_t lock, uint32_t timeout_ms, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.write = true;
	o.lock = lock;
	o.timeout_ms = timeout_ms;
	return pgs_begin(out, db, &o, err);
}

static pgs_txn *locked(pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	if (begin_locked(&t, db, PGS_LOCK_TRY, 0, &err) != PGS_OK)
		fail_msg("begin with the lock: %s", err.message);
	return t;
}

/* Kept out past the timeout; on a busy machine that may pass within a call of the KV. */
static void expect_kept_out(int result)
{
	assert_true(result == PGS_EBUSY || result == PGS_ETIMEOUT);
}

static void test_txn_exclusive__one_at_a_time(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *second;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *first = locked(s->db);
	assert_int_equal(begin_locked(&second, stage_other(s), PGS_LOCK_TRY, 0, &err), PGS_EBUSY);
	assert_null(second);
	expect_kept_out(begin_locked(&second, stage_other(s), PGS_LOCK_WAIT, KEPT_OUT_MS, &err));
	tx_put(first, s, 1, T(10));
	tx_commit(first); /* gives it back, */
	second = locked(stage_other(s));
	pgs_abort(second); /* as does aborting, */
	tx_commit(locked(s->db)); /* committing nothing, */
	first = locked(s->db);
	tx_put(first, s, 1, T(11));
	pgs_commit_options bad = PGS_COMMIT_OPTIONS_INIT;
	bad.struct_size = 0;
	assert_int_equal(pgs_commit(first, &bad, NULL, &err), PGS_EINVAL); /* and failing. */
	pgs_abort(locked(stage_other(s)));
}

static void test_txn_exclusive__others_wait_to_commit(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.write = true;
	o.timeout_ms = KEPT_OUT_MS;
	pgs_txn *first = locked(s->db), *optimist;
	tx_expect(first, s, 2, T(2));
	assert_int_equal(pgs_begin(&optimist, stage_other(s), &o, &err), PGS_OK);
	tx_put(optimist, s, 2, T(20));
	expect_kept_out(pgs_commit(optimist, NULL, NULL, &err));
	tx_put(first, s, 3, T(30));
	tx_commit(first);
	stage_expect(s, 2, T(2));
}

/* Whoever comes first, the lock's holder is not refused by those who came before it. */
static void test_txn_exclusive__the_snapshot_is_taken_under_it(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	tx_one(stage_other(s), s, 2, T(20));
	pgs_txn *first = locked(s->db);
	tx_expect(first, s, 2, T(20));
	tx_put(first, s, 2, T(21));
	tx_commit(first);
	stage_expect(s, 2, T(21));
}

static void test_txn_exclusive__is_for_writers(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.lock = PGS_LOCK_TRY;
	assert_int_equal(pgs_begin(&t, s->db, &o, &err), PGS_EINVAL);
	assert_int_equal(begin_locked(&t, s->db, PGS_LOCK_TRY + 1, 0, &err), PGS_EINVAL);
	assert_null(t);
}

/* A begin that fails after taking it gives it back. */
static void test_txn_exclusive__a_failed_begin_keeps_nothing(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	if (s->variant->backend == STAGE_LIMITED)
		skip(); /* the same code */
	pgs_fault_at(s->fault, 2, PGS_FAULT_ERROR); /* the first takes the lock */
	assert_int_equal(begin_locked(&t, s->db, PGS_LOCK_TRY, 0, &err), PGS_EIO);
	pgs_abort(locked(stage_other(s)));
}

/* What is left there keeps everybody out until its lease ends: it is tried again. */
static void test_txn_exclusive__is_given_back_in_spite_of_a_fault(void **state)
{
	stage *s = *state;
	pgs_txn *t = locked(s->db);
	pgs_fault_at(s->fault, 1, PGS_FAULT_ERROR);
	pgs_abort(t);
	pgs_abort(locked(stage_other(s)));
	t = locked(s->db);
	pgs_fault_at(s->fault, 1, PGS_FAULT_LOSE_REPLY);
	pgs_abort(t);
	pgs_abort(locked(stage_other(s)));
}

/* Once it is due, the next call that reaches the storage renews it; what was broken meanwhile is noticed. */
static void test_txn_exclusive__renews_its_lock(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *t = locked(stage_other(s));
	uint64_t held = t->lock.held;
	t->lock.renew_ms = 0;
	tx_expect(t, s, 1, T(1));
	assert_int_equal(t->lock.held, held);
	assert_true(t->lock.renew_ms > pgs__now_ms());
	pgs__writer_lock broken = t->lock;
	pgs__writer_lock_release(s->db, &broken, pgs__db_deadline(s->db, 0));
	tx_one(s->db, s, 2, T(20));
	t->lock.renew_ms = 0;
	tx_expect(t, s, 5, T(5));
	assert_int_equal(t->lock.held, 0);
	tx_put(t, s, 1, T(10)); /* as an optimist */
	tx_commit(t);
	stage_expect(s, 2, T(20));
}

/* --- used again --------------------------------------------------------------------- */

static void renew(pgs_txn *t, bool same)
{
	bool told = !same;
	assert_int_equal(pgs_renew(t, &told), PGS_OK);
	assert_int_equal(told, same);
}

static void test_txn_renew__shows_what_a_new_one_shows(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *t = tx_read(s->db);
	for (uint64_t i = 0; i < 60; i++) {
		uint64_t page = i % 8;
		if (i % 3)
			tx_one(i % 2 ? s->db : stage_other(s), s, page, T(100 + i));
		if (i % 20 == 19) { /* something that is not the database's */
			pgs_db *beside;
			char name[16];
			snprintf(name, sizeof name, "beside%u", (unsigned)i);
			assert_int_equal(pgs_db_create(&beside, s->store, name, strlen(name), NULL, NULL), PGS_OK);
			pgs_db_close(beside);
		}
		pgs_txn *fresh = tx_read(s->db);
		pgs_reset(t);
		renew(t, i % 3 == 0);
		assert_int_equal(pgs_txn_revision(t), pgs_txn_revision(fresh));
		for (uint64_t k = 0; k < 8; k++) {
			uint8_t one[4096], other[4096];
			assert_int_equal(pgs_read(t, k, one), PGS_OK);
			assert_int_equal(pgs_read(fresh, k, other), PGS_OK);
			assert_memory_equal(one, other, 4096);
		}
		pgs_abort(fresh);
	}
	pgs_txn *shrink = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(shrink, 3), PGS_OK);
	tx_commit(shrink);
	tx_expect_count(t, 8);
	pgs_reset(t);
	renew(t, false);
	tx_expect_count(t, 3);
	tx_expect(t, s, 5, PAGE_ZERO);
	pgs_abort(t);
}

static void test_txn_renew__pins_stay(void **state)
{
	stage *s = *state;
	const void *old[6], *new;
	tx_fill(s->db, s, 0, 6, T(0));
	pgs_txn *t = tx_read(s->db);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(pgs_pin(t, i, &old[i]), PGS_OK);
	pgs_reset(t);
	renew(t, true);
	for (uint64_t i = 0; i < 6; i++)
		assert_true(page_is(old[i], 4096, T(i)));
	pgs_reset(t);
	tx_one(stage_other(s), s, 2, T(100));
	pgs_unpin(t, old[0]);
	renew(t, false);
	assert_true(page_is(old[2], 4096, T(2)));
	assert_int_equal(pgs_pin(t, 2, &new), PGS_OK);
	assert_true(page_is(new, 4096, T(100)));
	for (uint64_t i = 5; i > 0; i--)
		pgs_unpin(t, old[i]);
	assert_true(page_is(new, 4096, T(100)));
	pgs_reset(t);
	pgs_abort(t);
}

static void test_txn_renew__refuses(void **state)
{
	stage *s = *state;
	bool same = true;
	uint64_t revision = tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *txns[] = {tx_begin(s->db, PGS_SERIALIZABLE), tx_at(s->db, revision)};
	for (size_t i = 0; i < 2; i++) {
		pgs_reset(txns[i]);
		tx_expect(txns[i], s, 2, T(2)); /* as if nothing had been said */
		assert_int_equal(pgs_renew(txns[i], &same), PGS_EINVAL);
		assert_false(same);
		assert_int_equal(pgs_txn_error(txns[i])->code, PGS_EINVAL);
		pgs_abort(txns[i]);
	}
}

static void cut_off(stage *s, const char *operation)
{
	(void)operation;
	pgs_fault_at(s->fault, 1, PGS_FAULT_STOP);
}

static void test_txn_renew__of_a_store_that_is_gone_for_a_while(void **state)
{
	stage *s = *state;
	bool same;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *t = tx_read(s->db);
	pgs_reset(t);
	tx_one(stage_other(s), s, 2, T(100));
	s->before = cut_off;
	assert_int_not_equal(pgs_renew(t, &same), PGS_OK);
	assert_int_not_equal(pgs_renew(t, &same), PGS_OK);
	s->before = NULL;
	pgs_fault_resume(s->fault);
	renew(t, false);
	tx_expect(t, s, 2, T(100));
	pgs_reset(t);
	assert_int_equal(pgs_db_drop(stage_other(s)->store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_renew(t, &same), PGS_ENOTFOUND);
	pgs_abort(t);
}

static void test_txn_renew__rests_without_a_pin(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *t = tx_read(stage_other(s));
	t->keeper.due_ms = 0; /* it has got old, and reaches the store */
	tx_expect(t, s, 3, T(3));
	assert_int_equal(stage_keys_of(s, 'r'), 1);
	pgs_reset(t);
	assert_int_equal(stage_keys_of(s, 'r'), 0);
	bool same;
	assert_int_equal(pgs_renew(t, &same), PGS_OK);
	assert_true(t->keeper.due_ms > 0);
	tx_expect(t, s, 4, T(4));
	assert_int_equal(stage_keys_of(s, 'r'), 0);
	pgs_abort(t);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_txn_relied__pages_count_as_read),
		TEST(test_txn_relied__sets_of_any_size),
		TEST(test_txn_relied__a_truncation_is_a_change),
		TEST(test_txn_relied__beside_reads_and_writes),
		TEST(test_txn_relied__costs_nothing_alone),
		TEST(test_txn_previous__tells_whether_others_committed),
		TEST(test_txn_fork__has_the_same_snapshot),
		TEST(test_txn_fork__conflicts_from_its_snapshot_on),
		TEST(test_txn_fork__refuses),
		TEST(test_txn_renew__shows_what_a_new_one_shows),
		TEST(test_txn_renew__pins_stay),
		TEST(test_txn_renew__refuses),
		TEST(test_txn_renew__of_a_store_that_is_gone_for_a_while),
		TEST(test_txn_renew__rests_without_a_pin),
		TEST(test_txn_exclusive__one_at_a_time),
		TEST(test_txn_exclusive__others_wait_to_commit),
		TEST(test_txn_exclusive__the_snapshot_is_taken_under_it),
		TEST(test_txn_exclusive__is_for_writers),
		TEST(test_txn_exclusive__is_given_back_in_spite_of_a_fault),
		TEST(test_txn_exclusive__renews_its_lock),
		TEST(test_txn_exclusive__a_failed_begin_keeps_nothing),
	};
	return stage_run("txn_engine", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
