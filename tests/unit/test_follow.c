/* lib/txn/newest.c and lib/follow/: beginning without asking, and following what others commit. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore/backends.h>
#include <pagestore/follow.h>

#include "follow/follower.h"
#include "support/jobs.h"
#include "support/kv_calls.h"
#include "support/scratch.h"
#include "support/testing.h"
#include "support/txn_stage.h"
#include "txn/txn.h"
#include "util/clock.h"

#define T(n) PAGE_NOISE(n)

static void count_call(stage *s, const char *operation)
{
	(void)operation;
	s->calls[0]++;
}

static void count_calls(stage *s)
{
	s->calls[0] = 0;
	s->before = count_call;
}

/* The KV is away. */
static void refuse_call(stage *s, const char *operation)
{
	(void)operation;
	pgs_fault_at(s->fault, 1, PGS_FAULT_ERROR);
}

static int begin_at(stage *s, pgs_txn **t, uint32_t freshness, uint64_t argument)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.freshness = freshness;
	o.bound_ms = (uint32_t)argument;
	o.least_revision = argument;
	return pgs_begin(t, s->db, &o, NULL);
}

static pgs_txn *at(stage *s, uint32_t freshness, uint64_t argument)
{
	pgs_txn *t;
	assert_int_equal(begin_at(s, &t, freshness, argument), PGS_OK);
	return t;
}

/* A page as PGS_LOCAL has it. */
static void expect_local(stage *s, uint64_t page, uint64_t tag)
{
	pgs_txn *t = at(s, PGS_LOCAL, 0);
	tx_expect(t, s, page, tag);
	pgs_abort(t);
}

static void step(stage *s)
{
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs_follow_step(s->db, 5000, &err);
	if (result != PGS_OK)
		fail_msg("pgs_follow_step: %s: %s", pgs_error_name(result), err.message);
}

/* As after a failure. */
static void lose_watch(stage *s)
{
	pgs__db_backend(s->db)->kv->vtable->watch_close(s->db->follower->watch);
	s->db->follower->watch = NULL;
}

static pgs_follow_stat stat_of(stage *s)
{
	pgs_follow_stat stat = PGS_FOLLOW_STAT_INIT;
	assert_int_equal(pgs_follow_stat_get(s->db, &stat, NULL), PGS_OK);
	return stat;
}

/* --- freshness without a follower --------------------------------------------------------- */

static void test_freshness__local_asks_once(void **state)
{
	stage *s = *state;
	tx_one(s->db, s, 1, T(1));
	pgs_abort(at(s, PGS_LOCAL, 0));
	count_calls(s);
	expect_local(s, 1, T(1));
	pgs_abort(at(s, PGS_LOCAL, 0));
	assert_int_equal(s->calls[0], 0);
}

static void test_freshness__own_commits_are_seen(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 10, T(0));
	pgs_abort(at(s, PGS_LOCAL, 0));
	tx_one(s->db, s, 3, T(100)); /* one after another: known without asking */
	tx_one(s->db, s, 20, T(101));
	count_calls(s);
	expect_local(s, 3, T(100));
	pgs_txn *t = at(s, PGS_LOCAL, 0);
	tx_expect_count(t, 21);
	pgs_abort(t);
	assert_int_equal(s->calls[0], 0);
	s->before = NULL;
	tx_one(stage_other(s), s, 4, T(102)); /* not known: there is another's in between */
	uint64_t own = tx_one(s->db, s, 5, T(103));
	t = at(s, PGS_LOCAL, 0);
	assert_int_equal(pgs_txn_revision(t), own);
	tx_expect(t, s, 4, T(102));
	tx_expect(t, s, 5, T(103));
	pgs_abort(t);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 4), PGS_OK);
	tx_commit(t);
	t = at(s, PGS_LOCAL, 0);
	tx_expect_count(t, 4);
	pgs_abort(t);
}

/* A snapshot that is given out goes on as any other does. */
static void test_freshness__a_writer_on_an_old_snapshot_conflicts(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 10, T(0));
	pgs_abort(at(s, PGS_LOCAL, 0));
	tx_one(stage_other(s), s, 3, T(50));
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	o.freshness = PGS_LOCAL;
	o.write = true;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_OK);
	tx_expect(t, s, 3, T(3));
	tx_put(t, s, 4, T(60));
	tx_conflict(t, 3);
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_OK);
	tx_expect(t, s, 5, T(5)); /* nobody changed it */
	tx_put(t, s, 4, T(60));
	tx_commit(t);
	stage_expect(s, 4, T(60));
	stage_expect(s, 3, T(50));
}

static void test_freshness__bounded_asks_when_the_time_is_up(void **state)
{
	stage *s = *state;
	uint64_t first = tx_one(s->db, s, 1, T(1));
	pgs_abort(at(s, PGS_BOUNDED, 10000));
	uint64_t second = tx_one(stage_other(s), s, 1, T(2));
	count_calls(s);
	pgs_txn *t = at(s, PGS_BOUNDED, 10000);
	assert_int_equal(pgs_txn_revision(t), first);
	pgs_abort(t);
	assert_int_equal(s->calls[0], 0);
	pgs__sleep_ms(30, 0);
	t = at(s, PGS_BOUNDED, 20);
	assert_int_equal(pgs_txn_revision(t), second);
	pgs_abort(t);
	assert_int_equal(s->calls[0] > 0, true);
	t = at(s, PGS_BOUNDED, 0); /* as the latest */
	pgs_abort(t);
}

/* What a request's answer shows is as old as the request. */
static void delay_call(stage *s, const char *operation)
{
	(void)operation;
	if (s->calls[1]++ == 0)
		pgs__sleep_ms(60, 0);
}

static void test_freshness__the_bound_counts_from_the_question(void **state)
{
	stage *s = *state;
	const pgs__freshness tight = {PGS_BOUNDED, 50, 0}, loose = {PGS_BOUNDED, 60000, 0};
	pgs__snapshot snapshot;
	uint64_t since;
	tx_one(stage_other(s), s, 1, T(1));
	pgs__newest_want(s->db);
	s->before = delay_call;
	pgs_abort(tx_read(s->db));
	assert_false(pgs__newest_take(s->db, &tight, &snapshot, &since, 0));
	assert_true(pgs__newest_take(s->db, &loose, &snapshot, &since, 0));
	pgs__snapshot_close(&snapshot);
}

static void test_freshness__at_least_asks_when_it_must(void **state)
{
	stage *s = *state;
	pgs_txn *t;
	uint64_t first = tx_one(s->db, s, 1, T(1));
	pgs_abort(at(s, PGS_LOCAL, 0));
	uint64_t second = tx_one(stage_other(s), s, 1, T(2));
	t = at(s, PGS_AT_LEAST, first);
	assert_int_equal(pgs_txn_revision(t), first);
	pgs_abort(t);
	t = at(s, PGS_AT_LEAST, second);
	assert_int_equal(pgs_txn_revision(t), second);
	pgs_abort(t);
	assert_int_equal(begin_at(s, &t, PGS_AT_LEAST, second + 1000), PGS_EINVAL);
}

static void test_freshness__without_the_kv(void **state)
{
	stage *s = *state;
	pgs_txn *t;
	tx_one(s->db, s, 1, T(1));
	pgs_abort(at(s, PGS_LOCAL, 0));
	expect_local(s, 1, T(1));
	tx_one(stage_other(s), s, 1, T(2));
	s->before = refuse_call;
	expect_local(s, 1, T(1));
	pgs_abort(at(s, PGS_BOUNDED, 10000));
	pgs__sleep_ms(20, 0);
	assert_int_equal(begin_at(s, &t, PGS_BOUNDED, 10), PGS_EIO);
	assert_int_equal(begin_at(s, &t, PGS_LATEST, 0), PGS_EIO);
	expect_local(s, 1, T(1));
}

/* Who asks for what is gone is told so, and begins on what is there next time. */
static void test_freshness__a_revision_that_is_gone(void **state)
{
	stage *s = *state;
	uint8_t page[65536];
	tx_fill(s->db, s, 0, 4, T(0));
	s->db->maintain.retention_ms = PGS_RETENTION_NONE;
	pgs_abort(at(s, PGS_LOCAL, 0));
	tx_fill(stage_other(s), s, 0, 4, T(100));
	set_floor(s->kv, s->db, kv_revision(s->kv));
	kv_compact(s->kv, kv_revision(s->kv));
	pgs__cache_forget(s->db->contents.cache, UINT64_MAX / 2); /* so that it must ask */
	pgs_txn *t = at(s, PGS_LOCAL, 0);
	t->snapshot.cache_revision = UINT64_MAX / 4;
	assert_int_equal(pgs_read(t, 1, page), PGS_EOLDREV);
	pgs_abort(t);
	expect_local(s, 1, T(101));
}

static void test_freshness__options_that_do_not_fit(void **state)
{
	stage *s = *state;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	o.freshness = PGS_LOCAL + 1;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_EINVAL);
	o.freshness = PGS_LOCAL;
	o.at_revision = 1;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_EINVAL);
	o.at_revision = 0;
	o.write = true;
	o.lock = PGS_LOCK_WAIT;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_EINVAL);
}

/* --- following ---------------------------------------------------------------------------------- */

static void test_follow__what_others_commit_is_there(void **state)
{
	stage *s = *state;
	pgs_db *other = stage_other(s);
	tx_fill(s->db, s, 0, 20, PAGE_KIN(1, 0));
	step(s);
	for (uint64_t i = 0; i < 20; i++)
		expect_local(s, i, PAGE_KIN(1, i));
	uint64_t revision = 0;
	for (uint64_t i = 0; i < 20; i++)
		revision = tx_one(other, s, i, PAGE_KIN(1, 100 + i));
	step(s);
	count_calls(s);
	pgs_txn *t = at(s, PGS_LOCAL, 0);
	assert_int_equal(pgs_txn_revision(t), revision);
	for (uint64_t i = 0; i < 20; i++)
		tx_expect(t, s, i, PAGE_KIN(1, 100 + i));
	pgs_abort(t);
	pgs_abort(at(s, PGS_AT_LEAST, revision));
	pgs_abort(at(s, PGS_BOUNDED, 10000));
	assert_int_equal(s->calls[0], 0); /* and so are the pages */
	pgs_follow_stat stat = stat_of(s);
	assert_int_equal(stat.revision, revision);
	assert_int_equal(stat.commits, 20);
	assert_int_equal(stat.pages_changed, 20);
	assert_int_equal(stat.behind, 0);
	assert_true(stat.pages_kept + stat.pages_fetched >= 20);
	assert_true(stat.confirmed_ms < 60000);
}

/* Pages nobody read are not fetched. */
static void test_follow__what_is_not_used_is_left_alone(void **state)
{
	stage *s = *state;
	tx_fill(stage_other(s), s, 0, 20, T(0));
	step(s);
	expect_local(s, 3, T(3));
	tx_fill(stage_other(s), s, 0, 20, T(100));
	step(s);
	pgs_follow_stat stat = stat_of(s);
	assert_true(stat.pages_fetched + stat.pages_kept < 20 && stat.pages_fetched > 0);
	count_calls(s);
	expect_local(s, 3, T(103));
	assert_int_equal(s->calls[0], 0);
	expect_local(s, 19, T(119));
	assert_true(s->calls[0] > 0);
}

static void test_follow__truncations_and_growth(void **state)
{
	stage *s = *state;
	pgs_db *other = stage_other(s);
	tx_fill(s->db, s, 0, 30, T(0));
	step(s);
	for (uint64_t i = 0; i < 30; i++)
		expect_local(s, i, T(i));
	pgs_txn *t = tx_begin(other, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 10), PGS_OK);
	tx_commit(t);
	tx_one(other, s, 29, T(200)); /* what is in between was cut off */
	step(s);
	t = at(s, PGS_LOCAL, 0);
	tx_expect_count(t, 30);
	tx_expect(t, s, 9, T(9));
	tx_expect(t, s, 10, PAGE_ZERO);
	tx_expect(t, s, 28, PAGE_ZERO);
	tx_expect(t, s, 29, T(200));
	pgs_abort(t);
}

/* Large commits, where there are limits, and their folding. */
static void test_follow__packs_and_folds(void **state)
{
	stage *s = *state;
	pgs_db *other = stage_other(s);
	tx_fill(s->db, s, 0, 300, T(0));
	step(s);
	for (uint64_t i = 0; i < 300; i++)
		expect_local(s, i, T(i));
	tx_fill(other, s, 0, 300, T(1000));
	step(s);
	for (uint64_t i = 0; i < 300; i += 7)
		expect_local(s, i, T(1000 + i));
	tx_one(other, s, 5, T(5000));
	const pgs_maintain_options all = {.struct_size = sizeof all, .all = true};
	assert_int_equal(pgs_maintain(other, &all, NULL, NULL), PGS_OK);
	uint64_t revision = tx_one(other, s, 6, T(5001));
	step(s);
	pgs_txn *t = at(s, PGS_LOCAL, 0);
	assert_int_equal(pgs_txn_revision(t), revision);
	assert_int_equal(pgs__pack_view_count(t->snapshot.packs), 0);
	tx_expect(t, s, 5, T(5000));
	tx_expect(t, s, 6, T(5001));
	tx_expect(t, s, 7, T(1007));
	pgs_abort(t);
	tx_one(s->db, s, 7, T(5002)); /* and a commit on it succeeds */
	expect_local(s, 7, T(5002));
}

/* What a snapshot shows is what one that asks shows. */
static void test_follow__is_what_asking_tells(void **state)
{
	stage *s = *state;
	uint64_t seed = 7;
	pgs_db *other = stage_other(s);
	tx_fill(other, s, 0, 10, T(0));
	for (int i = 0; i < 60; i++) {
		uint64_t die = stage_random(&seed) % 10;
		pgs_txn *t = tx_begin(die == 9 ? s->db : other, PGS_SERIALIZABLE);
		if (die == 0)
			assert_int_equal(pgs_truncate(t, stage_random(&seed) % 12), PGS_OK);
		else
			tx_put(t, s, stage_random(&seed) % 16, T(1000 + i));
		if (die == 1)
			tx_attr(t, "name", "value");
		tx_commit(t);
		if (die == 3) {
			const pgs_maintain_options all = {.struct_size = sizeof all, .all = true};
			assert_int_equal(pgs_maintain(other, &all, NULL, NULL), PGS_OK);
		}
		step(s);
		pgs_txn *mine = at(s, PGS_LOCAL, 0), *theirs = tx_read(other);
		assert_int_equal(mine->snapshot.commit_revision, theirs->snapshot.commit_revision);
		assert_int_equal(mine->snapshot.commit_count, theirs->snapshot.commit_count);
		assert_int_equal(mine->snapshot.counter, theirs->snapshot.counter);
		assert_int_equal(mine->snapshot.epoch, theirs->snapshot.epoch);
		assert_int_equal(mine->snapshot.extent, theirs->snapshot.extent);
		assert_int_equal(mine->snapshot.extent_revision, theirs->snapshot.extent_revision);
		for (uint64_t page = 0; page < 16; page++) {
			uint8_t a[4096], b[4096];
			assert_int_equal(pgs_read(mine, page, a), PGS_OK);
			assert_int_equal(pgs_read(theirs, page, b), PGS_OK);
			assert_memory_equal(a, b, sizeof a);
		}
		pgs_abort(mine);
		pgs_abort(theirs);
	}
}

static void test_follow__starts_over_when_history_is_gone(void **state)
{
	stage *s = *state;
	pgs_db *other = stage_other(s);
	tx_fill(s->db, s, 0, 10, T(0));
	step(s);
	for (uint64_t i = 0; i < 10; i++)
		expect_local(s, i, T(i));
	lose_watch(s);
	tx_fill(other, s, 0, 10, T(100));
	tx_fill(other, s, 0, 10, T(200));
	kv_compact(s->kv, kv_revision(s->kv));
	step(s);
	for (uint64_t i = 0; i < 10; i++)
		expect_local(s, i, T(200 + i));
	assert_int_equal(stat_of(s).restarts, 1);
	tx_one(other, s, 3, T(300));
	step(s);
	expect_local(s, 3, T(300));
	assert_int_equal(stat_of(s).restarts, 1);
}

/* A commit that the watch does not tell of is noticed by the next one. */
static void test_follow__a_commit_that_was_missed(void **state)
{
	stage *s = *state;
	pgs_db *other = stage_other(s);
	tx_fill(s->db, s, 0, 10, T(0));
	step(s);
	expect_local(s, 3, T(3));
	tx_one(other, s, 3, T(100));
	s->db->follower->seen = kv_revision(s->kv);
	lose_watch(s);
	tx_one(other, s, 4, T(101));
	step(s);
	assert_int_equal(stat_of(s).restarts, 1);
	expect_local(s, 3, T(100));
	expect_local(s, 4, T(101));
}

static void fail_watch(stage *s, const char *operation)
{
	if (strncmp(operation, "watch", 5) == 0 && s->calls[2]++ < 2)
		pgs_fault_at(s->fault, 1, PGS_FAULT_ERROR);
}

static void test_follow__a_watch_that_fails_goes_on(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 10, T(0));
	step(s);
	for (uint64_t i = 0; i < 10; i++) {
		tx_one(stage_other(s), s, i, T(100 + i));
		s->calls[2] = 0;
		s->before = fail_watch;
		int result = PGS_EIO;
		for (int tries = 0; result != PGS_OK && tries < 20; tries++)
			result = pgs_follow_step(s->db, 5000, NULL);
		assert_int_equal(result, PGS_OK);
		s->before = NULL;
		expect_local(s, i, T(100 + i));
	}
	pgs_follow_stat stat = stat_of(s);
	assert_int_equal(stat.commits, 10);
	assert_int_equal(stat.restarts, 0);
	assert_true(stat.reconnects > 0);
}

#define SLOW_MS 1300 /* longer than a follower waits at first */

/* A KV that has much to go through before a watch's first event. */
static struct {
	const pgs_kv_vtable *real;
	uint64_t opened_ms;
} slow;

static int slow_open(pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from, pgs_kv_watch **out, pgs_error *err)
{
	slow.opened_ms = pgs__now_ms();
	return slow.real->watch_open(kv, key, range_end, from, out, err);
}

static int slow_next(pgs_kv_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	uint64_t ready_ms = slow.opened_ms + SLOW_MS;
	pgs__sleep_ms(timeout_ms, ready_ms);
	*out = (pgs_kv_events){0};
	return pgs__now_ms() < ready_ms ? PGS_OK : slow.real->watch_next(watch, 0, out, err);
}

static void test_follow__a_watch_that_is_slow_gets_there(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 10, T(0));
	step(s);
	lose_watch(s);
	tx_one(stage_other(s), s, 1, T(100));
	pgs_kv *kv = pgs__db_backend(s->db)->kv;
	slow.real = kv->vtable;
	pgs_kv_vtable vtable = *slow.real;
	vtable.watch_open = slow_open;
	vtable.watch_next = slow_next;
	kv->vtable = &vtable;
	step(s);
	kv->vtable = slow.real;
	expect_local(s, 1, T(100));
	assert_int_equal(stat_of(s).restarts, 0);
}

static void test_follow__a_dropped_database(void **state)
{
	stage *s = *state;
	tx_one(s->db, s, 1, T(1));
	step(s);
	assert_int_equal(pgs_db_drop(s->store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_follow_step(s->db, 5000, NULL), PGS_ENOTFOUND);
}

static void test_follow__damage_is_told(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs__key x = pgs__key_uuid(pgs__db_prefix(s->db), 'x', (const uint8_t *)"0123456789abcdef"),
		 t = pgs__key_single(pgs__db_prefix(s->db), 't');
	uint8_t number[PGS__NUMBER_SIZE];
	tx_one(s->db, s, 1, T(1));
	step(s);
	pgs__number_encode(77, number);
	const pgs_kv_op ops[] = {
		{.kind = PGS_KV_PUT, .key = pgs__key_slice(&t), .value = {number, sizeof number}},
		{.kind = PGS_KV_PUT, .key = pgs__key_slice(&x), .value = {"no entry", 8}},
	};
	kv_apply(s->kv, ops, 2);
	assert_int_equal(pgs_follow_step(s->db, 5000, &err), PGS_ECORRUPT);
	expect_local(s, 1, T(1)); /* what was there before is */
}

/* --- the thread ------------------------------------------------------------------------------------ */

static void wait_until_local(stage *s, uint64_t revision)
{
	uint64_t seen = 0;
	for (int i = 0; i < 2000 && seen < revision; i++) {
		pgs_txn *t = at(s, PGS_LOCAL, 0);
		seen = pgs_txn_revision(t);
		pgs_abort(t);
		if (seen < revision)
			pgs__sleep_ms(5, 0);
	}
	assert_true(seen >= revision);
}

static void test_follow__on_a_thread(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	tx_fill(s->db, s, 0, 10, T(0));
	assert_false(stat_of(s).running);
	assert_int_equal(pgs_follow_start(s->db, NULL, &err), PGS_OK);
	assert_int_equal(pgs_follow_start(s->db, NULL, &err), PGS_EBUSY);
	assert_int_equal(pgs_follow_step(s->db, 100, &err), PGS_EBUSY);
	for (uint64_t i = 0; i < 50; i++) {
		uint64_t revision = tx_one(stage_other(s), s, i % 10, T(100 + i));
		if (i % 7 == 0) {
			wait_until_local(s, revision);
			expect_local(s, i % 10, T(100 + i));
		}
	}
	assert_true(stat_of(s).running);
	pgs_follow_stop(s->db);
	pgs_follow_stop(s->db);
	assert_false(stat_of(s).running);
	uint64_t revision = tx_one(stage_other(s), s, 3, T(500));
	step(s); /* goes on where that ended */
	wait_until_local(s, revision);
	assert_int_equal(pgs_follow_start(s->db, NULL, &err), PGS_OK); /* closing ends it */
}

/* While transactions begin with a bound, the thread asks often enough for them. */
static void test_follow__a_bound_is_kept_up_with(void **state)
{
	stage *s = *state;
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	size_t kept = 0;
	o.confirm_ms = 600000; /* by itself it would ask once */
	tx_one(s->db, s, 1, T(1));
	assert_int_equal(pgs_follow_start(s->db, &o, NULL), PGS_OK);
	for (size_t i = 0; i < 5000 && kept < 200; i++) { /* a loaded machine may be late now and then */
		const pgs__freshness f = {PGS_BOUNDED, 200, 0};
		pgs__snapshot snapshot;
		uint64_t since;
		if (pgs__newest_take(s->db, &f, &snapshot, &since, 0)) {
			pgs__snapshot_close(&snapshot);
			kept++;
		}
		pgs__sleep_ms(5, 0);
	}
	assert_int_equal(kept, 200);
	pgs_follow_stop(s->db);
}

/* All pages, also those that were there before and nobody has read; not faster than allowed. */
static void test_follow__fetches_all(void **state)
{
	stage *s = *state;
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	o.fetch = PGS_FETCH_ALL;
	tx_fill(stage_other(s), s, 0, 600, T(0));
	tx_one(stage_other(s), s, 1ull << 30, T(5)); /* far away */
	o.fetch_bytes_per_s = 1 << 20; /* 256 pages a second */
	uint64_t began = pgs__now_ms();
	assert_int_equal(pgs_follow_start(s->db, &o, NULL), PGS_OK);
	pgs__sleep_ms(300, 0);
	for (int i = 0; i < 1000 && !stat_of(s).pages_fetched; i++)
		pgs__sleep_ms(10, 0);
	pgs_follow_stat stat = stat_of(s);
	uint64_t took = pgs__now_ms() - began;
	assert_in_range(stat.pages_fetched, 1, 512 + took * 256 / 1000);
	assert_in_range(stat.bytes_fetched, 4096, (3 << 20) + took * o.fetch_bytes_per_s / 1000);
	assert_true(stat.fetch_requests > 0);
	pgs_follow_stop(s->db);
	o.fetch_bytes_per_s = 0;
	assert_int_equal(pgs_follow_start(s->db, &o, NULL), PGS_OK);
	for (int i = 0; i < 1000 && stat_of(s).queued[PGS_FETCH_QUEUE_FILL]; i++)
		pgs__sleep_ms(10, 0);
	uint64_t filled = stat_of(s).pages_fetched;
	uint64_t revision = tx_one(stage_other(s), s, 700, T(700)); /* and what comes */
	wait_until_local(s, revision);
	for (int i = 0; i < 1000 && stat_of(s).pages_fetched == filled; i++)
		pgs__sleep_ms(10, 0);
	pgs_follow_stop(s->db);
	count_calls(s);
	for (uint64_t i = 0; i < 600; i += 7)
		expect_local(s, i, T(i));
	expect_local(s, 1ull << 30, T(5));
	expect_local(s, 700, T(700));
	assert_int_equal(s->calls[0], 0);
	s->before = NULL;
}

static void test_follow__options_that_do_not_fit(void **state)
{
	stage *s = *state;
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	pgs_follow_stat stat = {0};
	o.fetch = PGS_FETCH_ALL + 1;
	assert_int_equal(pgs_follow_start(s->db, &o, NULL), PGS_EINVAL);
	o.struct_size = 1;
	assert_int_equal(pgs_follow_start(s->db, &o, NULL), PGS_EINVAL);
	assert_int_equal(pgs_follow_stat_get(s->db, &stat, NULL), PGS_EINVAL);
	pgs_follow_stop(s->db); /* there is none */
}

/* The child has no follower, and can close what it has a copy of. (Whether its threads wait just then is a matter of
 * time: they mostly do.) */
static void test_follow__a_fork_leaves_it_behind(void **state)
{
	(void)state;
	char url[100];
	pgs_store *store;
	pgs_db *db;
	int status = -1;
	snprintf(url, sizeof url, "dir:%s?sync=off", scratch_path("store"));
	assert_int_equal(pgs_open(&store, url, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_db_create(&db, store, "db", 2, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_follow_start(db, NULL, NULL), PGS_OK);
	pgs__sleep_ms(100, pgs__now_ms() + 100);
	pid_t child = fork();
	if (child == 0) {
		alarm(20);
		pgs_db_close(db);
		pgs_close(store);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	pgs_db_close(db);
	pgs_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_freshness__local_asks_once),
		TEST(test_freshness__own_commits_are_seen),
		TEST(test_freshness__a_writer_on_an_old_snapshot_conflicts),
		TEST(test_freshness__bounded_asks_when_the_time_is_up),
		TEST(test_freshness__the_bound_counts_from_the_question),
		TEST(test_freshness__at_least_asks_when_it_must),
		TEST(test_freshness__without_the_kv),
		TEST(test_freshness__a_revision_that_is_gone),
		TEST(test_freshness__options_that_do_not_fit),
		TEST(test_follow__what_others_commit_is_there),
		TEST(test_follow__what_is_not_used_is_left_alone),
		TEST(test_follow__truncations_and_growth),
		TEST(test_follow__packs_and_folds),
		TEST(test_follow__is_what_asking_tells),
		TEST(test_follow__starts_over_when_history_is_gone),
		TEST(test_follow__a_commit_that_was_missed),
		TEST(test_follow__a_watch_that_fails_goes_on),
		TEST(test_follow__a_watch_that_is_slow_gets_there),
		TEST(test_follow__a_dropped_database),
		TEST(test_follow__damage_is_told),
		TEST(test_follow__on_a_thread),
		TEST(test_follow__a_bound_is_kept_up_with),
		TEST(test_follow__fetches_all),
		TEST(test_follow__options_that_do_not_fit),
		cmocka_unit_test_setup_teardown(test_follow__a_fork_leaves_it_behind, scratch_set_up, scratch_tear_down),
	};
	return stage_run("follow", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
