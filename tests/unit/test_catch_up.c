/* Commits that bring the machine's mirror to themselves: lib/txn/catch_up.c. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "local_cache/file.h"
#include "local_cache/database.h"
#include "support/jobs.h"
#include "support/kv_calls.h"
#include "support/machine.h"
#include "support/planted.h"
#include "support/testing.h"
#include "txn/txn.h"
#include "util/clock.h"
#include "util/hooks.h"

#define T(n) PAGE_NOISE(n)

static machine m;

static int setup(void **state)
{
	stage_setup(state);
	machine_setup(&m, *state);
	return 0;
}

static int teardown(void **state)
{
	machine_teardown(&m);
	return stage_teardown(state);
}

/* A commit by the process that is counted, on a database with a mirror. */
static void begin_with(stage *s, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		tx_one(stage_other(s), s, i, PAGE_THIN(i));
	for (int i = 0; i < 5 && !pgs__mirror_confirmed(m.mine); i++)
		machine_follow(stage_other(s));
	assert_true(pgs__mirror_confirmed(m.mine) > 0);
	machine_expect_mirror(&m);
}

/* What the other process sees at once, without asking. */
static void expect_at_once(stage *s, pgs_db *db, uint64_t revision, uint64_t page, uint64_t tag)
{
	pgs_cost cost = PGS_COST_INIT;
	pgs_txn *t = machine_begin(db, PGS_LOCAL, 0, &cost);
	assert_int_equal(pgs_txn_revision(t), revision);
	tx_expect(t, s, page, tag);
	pgs_abort(t);
	pgs_abort(machine_begin(db, PGS_BOUNDED, 60000, &cost));
	assert_int_equal(cost.kv_requests, 0);
	assert_int_equal(cost.blob_gets, 0);
}

/* A page, without asking for contents. */
static void expect_page(stage *s, pgs_db *db, uint64_t page, uint64_t tag)
{
	pgs_cost cost = PGS_COST_INIT;
	pgs_txn *t = machine_begin(db, PGS_LOCAL, 0, &cost);
	tx_expect(t, s, page, tag);
	pgs_abort(t);
	if (!(s->variant->backend & STAGE_LIMITED)) /* there it is a pack, which is asked for */
		assert_int_equal(cost.kv_requests, 0);
	assert_int_equal(cost.blob_gets, 0);
}

/* It is seen by asking: the mirror is behind. */
static void expect_by_asking(stage *s, pgs_db *db, uint64_t revision, uint64_t page, uint64_t tag)
{
	pgs_cost cost = PGS_COST_INIT;
	pgs_txn *t = machine_begin(db, PGS_LOCAL, 0, &cost);
	assert_true(pgs_txn_revision(t) >= revision);
	tx_expect(t, s, page, tag);
	pgs_abort(t);
	assert_true(cost.kv_requests > 0);
}

/* --- nobody else ------------------------------------------------------------------------ */

static void test_catch_up__others_see_it_at_once(void **state)
{
	stage *s = *state;
	begin_with(s, 3);
	for (uint64_t i = 0; i < 10; i++) {
		uint64_t revision = tx_one(s->db, s, i, PAGE_THIN(100 + i));
		assert_int_equal(machine_expect_mirror(&m), revision);
		expect_at_once(s, stage_other(s), revision, i, PAGE_THIN(100 + i));
		revision = tx_one(stage_other(s), s, i, PAGE_THIN(200 + i));
		assert_int_equal(machine_expect_mirror(&m), revision);
		expect_at_once(s, s->db, revision, i, PAGE_THIN(200 + i));
	}
}

/* Also by a process that follows by itself, before its follower has come to it. */
static void test_catch_up__followers_see_it_at_once(void **state)
{
	stage *s = *state;
	begin_with(s, 3);
	pgs_abort(machine_begin(stage_other(s), PGS_LOCAL, 0, NULL));
	stage_other(s)->newest->followed = true;
	uint64_t revision = tx_one(s->db, s, 1, PAGE_THIN(100));
	expect_at_once(s, stage_other(s), revision, 1, PAGE_THIN(100));
	stage_other(s)->newest->followed = false;
}

/* Contents, too: those that are in the KV, and those in files. */
static void test_catch_up__contents_are_there(void **state)
{
	stage *s = *state;
	begin_with(s, 3);
	uint64_t revision = tx_one(s->db, s, 1, T(1));
	expect_at_once(s, stage_other(s), revision, 1, T(1));
	uint64_t blobs = stage_blobs(s);
	revision = tx_fill(s->db, s, 0, 300, T(1000)); /* more than a MiB */
	assert_true(stage_blobs(s) > blobs);
	assert_int_equal(machine_expect_mirror(&m), revision);
	for (uint64_t i = 0; i < 300; i += 13)
		expect_page(s, stage_other(s), i, T(1000 + i));
}

/* Commits of every kind: the mirror is what the KV is, after each. */
static void test_catch_up__is_the_kv_word_for_word(void **state)
{
	stage *s = *state;
	uint64_t seed = 7, caught_up = 0;
	begin_with(s, 20);
	for (uint64_t i = 0; i < 150; i++) {
		uint64_t die = stage_random(&seed) % 12, page = stage_random(&seed) % 24;
		pgs_db *db = die % 2 ? s->db : stage_other(s);
		pgs_txn *t = tx_begin(db, PGS_SERIALIZABLE);
		if (die == 0)
			assert_int_equal(pgs_truncate(t, page), PGS_OK);
		if (die == 1)
			tx_attr(t, "a", i % 3 ? "x" : NULL);
		if (die == 2)
			for (uint64_t p = 0; p < 150; p++)
				tx_put(t, s, p, PAGE_THIN(i * 1000 + p)); /* a pack, where there are limits */
		tx_put(t, s, page, die < 6 ? PAGE_THIN(i) : PAGE_KIN(page, i));
		uint64_t revision = tx_commit(t);
		caught_up += machine_expect_mirror(&m) == revision;
		t = machine_begin(die % 2 ? stage_other(s) : s->db, PGS_LOCAL, 0, NULL);
		assert_true(pgs_txn_revision(t) >= revision);
		pgs_abort(t);
		if (die == 3) {
			const pgs_maintain_options all = {.struct_size = sizeof all, .all = true};
			assert_int_equal(pgs_maintain(stage_other(s), &all, NULL, NULL), PGS_OK);
		}
		if (die == 4)
			machine_follow(stage_other(s));
	}
	assert_true(caught_up > 50);
}

/* --- side by side ------------------------------------------------------------------------------- */

typedef struct committer {
	stage *s;
	pgs_db *db;
	uint64_t first, failures;
} committer;

static void *commit_many(void *ctx)
{
	committer *c = ctx;
	uint8_t page[PGS_PAGE_SIZE_MAX];
	for (uint64_t i = 0; i < 100; i++) {
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_txn *t;
		o.write = true;
		page_fill(page, c->s->page_size, PAGE_THIN(i));
		if (pgs_begin(&t, c->db, &o, NULL) != PGS_OK || pgs_write(t, c->first + i % 10, page) != PGS_OK ||
		    pgs_commit(t, NULL, NULL, NULL) != PGS_OK)
			c->failures++;
	}
	return NULL;
}

/* Replies are met in any order, and two processes get in each other's way. What is given up meanwhile the follower brings
 * along; what is left in line is in nobody's way then. */
static void test_catch_up__side_by_side(void **state)
{
	stage *s = *state;
	pthread_t threads[6];
	committer committers[6];
	begin_with(s, 60);
	for (uint64_t i = 0; i < 6; i++) {
		committers[i] = (committer){s, i % 2 ? s->db : stage_other(s), i * 10, 0};
		pthread_create(&threads[i], NULL, commit_many, &committers[i]);
	}
	for (int i = 0; i < 6; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(committers[i].failures, 0);
	}
	machine_expect_mirror(&m);
	machine_follow(stage_other(s));
	uint64_t revision = 0, caught_up = 0;
	for (int i = 0; i < 10; i++) {
		revision = tx_one(i % 2 ? s->db : stage_other(s), s, 3, PAGE_THIN(300 + i));
		caught_up += machine_expect_mirror(&m) == revision;
		pgs_txn *t = machine_begin(i % 2 ? stage_other(s) : s->db, PGS_LOCAL, 0, NULL);
		assert_true(pgs_txn_revision(t) >= revision);
		pgs_abort(t);
	}
	assert_true(caught_up > 5);
}

static bool stays_with(stage *s)
{
	pthread_t threads[4];
	committer committers[4];
	for (uint64_t i = 0; i < 4; i++) {
		committers[i] = (committer){s, s->db, i * 10, 0};
		pthread_create(&threads[i], NULL, commit_many, &committers[i]);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(committers[i].failures, 0);
	}
	uint64_t revision = tx_one(s->db, s, 3, PAGE_THIN(300));
	if (machine_expect_mirror(&m) != revision)
		return false;
	expect_at_once(s, stage_other(s), revision, 3, PAGE_THIN(300));
	return true;
}

/* Within one process none is given up, but for what takes too long on a machine that is busy. */
static void test_catch_up__side_by_side_in_one_process(void **state)
{
	stage *s = *state;
	bool stays = false;
	begin_with(s, 40);
	for (int i = 0; i < 25 && !stays; i++) {
		stays = stays_with(s);
		machine_follow(stage_other(s));
	}
	assert_true(stays);
}

/* --- several databases ------------------------------------------------------------------------------ */

/* One KV transaction of two databases, each of which has a mirror. */
static void test_catch_up__of_two_databases(void **state)
{
	stage *s = *state;
	pgs_db *second, *seconds_other;
	pgs__disk_db *disks[2];
	uint64_t revision;
	begin_with(s, 3);
	assert_int_equal(pgs_db_create(&second, s->store, "second", 6, &s->options, NULL), PGS_OK);
	assert_int_equal(pgs_db_open(&seconds_other, stage_other(s)->store, "second", 6, &s->options, NULL), PGS_OK);
	disks[0] = second->contents.disk;
	disks[1] = seconds_other->contents.disk;
	assert_true(disks[0] && disks[1]); /* the stores have the cache file by now */
	tx_one(second, s, 1, PAGE_THIN(1));
	machine_follow(seconds_other);
	for (uint64_t i = 0; i < 5; i++) {
		pgs_txn *both[] = {tx_begin(s->db, PGS_SERIALIZABLE), tx_begin(second, PGS_SERIALIZABLE)};
		tx_put(both[0], s, 1, PAGE_THIN(100 + i));
		tx_put(both[1], s, 2, PAGE_THIN(200 + i));
		assert_int_equal(pgs_commit_many(both, NULL, 2, NULL, &revision, NULL), PGS_OK);
		assert_int_equal(machine_expect_mirror(&m), revision);
		expect_at_once(s, stage_other(s), revision, 1, PAGE_THIN(100 + i));
		expect_at_once(s, seconds_other, revision, 2, PAGE_THIN(200 + i));
	}
	pgs_db_close(seconds_other);
	pgs_db_close(second);
}

/* --- others --------------------------------------------------------------------------------- */

/* Commits from elsewhere, right before ours. It is given a moment, which may be too short for a machine that is busy. */
static void test_catch_up__takes_others_along(void **state)
{
	stage *s = *state;
	int caught_up = 0;
	begin_with(s, 10);
	for (uint64_t i = 0; i < 20; i++) {
		pgs_txn *t = tx_begin(machine_away(&m), PGS_SERIALIZABLE);
		tx_put(t, s, i % 7, PAGE_THIN(100 + i));
		tx_put(t, s, 20 + i, PAGE_THIN(i));
		tx_attr(t, i % 2 ? "a" : "b", i % 3 ? "there" : NULL);
		tx_commit(t);
		tx_one(machine_away(&m), s, 8, PAGE_THIN(200 + i));
		uint64_t revision = tx_one(s->db, s, 3, PAGE_THIN(300 + i));
		if (machine_expect_mirror(&m) == revision)
			caught_up++;
		else
			machine_follow(stage_other(s));
		expect_at_once(s, stage_other(s), revision, 3, PAGE_THIN(300 + i));
		expect_page(s, stage_other(s), 8, PAGE_THIN(200 + i));
		expect_page(s, stage_other(s), 20 + i, PAGE_THIN(i));
	}
	assert_true(caught_up > 10);
}

/* Too many to be looked at one by one, or to be found at all: it is seen all the same. */
static void test_catch_up__not_past_too_many(void **state)
{
	stage *s = *state;
	begin_with(s, 10);
	uint64_t sequence = machine_expect_mirror(&m);
	for (uint64_t i = 0; i < 40; i++)
		tx_one(machine_away(&m), s, i % 10, PAGE_THIN(100 + i));
	uint64_t revision = tx_one(s->db, s, 3, PAGE_THIN(300));
	assert_int_equal(machine_expect_mirror(&m), sequence);
	expect_by_asking(s, stage_other(s), revision, 3, PAGE_THIN(300));
	for (uint64_t i = 0; i < 200; i++)
		tx_one(machine_away(&m), s, i % 10, PAGE_THIN(400 + i));
	revision = tx_one(s->db, s, 3, PAGE_THIN(700));
	assert_int_equal(machine_expect_mirror(&m), sequence);
	expect_by_asking(s, stage_other(s), revision, 3, PAGE_THIN(700));
}

static int64_t unix_late(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 - 300000;
}

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void sleep_ms(uint32_t ms)
{
	nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

static void random_bytes(void *out, size_t size)
{
	assert_int_equal(getrandom(out, size, 0), (ssize_t)size);
}

/* One of those before ours has a clock that is minutes late: its entry is elsewhere, and only the count tells. */
static void test_catch_up__not_past_a_clock_that_differs(void **state)
{
	stage *s = *state;
	const pgs__system late = {.now_ms = now_ms, .unix_ms = unix_late, .sleep_ms = sleep_ms, .random_bytes = random_bytes};
	if (s->variant->backend & STAGE_LOCAL)
		return; /* it asks for more of the system */
	begin_with(s, 10);
	tx_one(machine_away(&m), s, 5, PAGE_THIN(1));
	machine_follow(stage_other(s));
	uint64_t sequence = machine_expect_mirror(&m);
	pgs__hooks = &late;
	tx_one(machine_away(&m), s, 5, PAGE_THIN(500));
	pgs__hooks = NULL;
	tx_one(machine_away(&m), s, 6, PAGE_THIN(600));
	uint64_t revision = tx_one(s->db, s, 3, PAGE_THIN(300));
	assert_int_equal(machine_expect_mirror(&m), sequence);
	expect_by_asking(s, stage_other(s), revision, 5, PAGE_THIN(500));
}

/* --- what it must not be brought past ------------------------------------------------------- */

static void maintain(pgs_db *db)
{
	const pgs_maintain_options all = {.struct_size = sizeof all, .all = true, .retention_ms = PGS_RETENTION_NONE};
	assert_int_equal(pgs_maintain(db, &all, NULL, NULL), PGS_OK);
}

/* The floor moves without a commit. */
static void test_catch_up__takes_the_floor_along(void **state)
{
	stage *s = *state;
	begin_with(s, 3);
	tx_one(s->db, s, 1, PAGE_THIN(7));
	uint64_t sequence = machine_expect_mirror(&m);
	maintain(machine_away(&m));
	uint64_t revision = tx_one(s->db, s, 1, PAGE_THIN(8));
	assert_true(revision > sequence + 1);
	assert_int_equal(machine_expect_mirror(&m), revision);
	expect_at_once(s, stage_other(s), revision, 1, PAGE_THIN(8));
}

/* A fold moves pointers, and no t tells. */
static void test_catch_up__not_past_a_fold(void **state)
{
	stage *s = *state;
	if (!(s->variant->backend & STAGE_LIMITED))
		return; /* no packs */
	tx_fill(machine_away(&m), s, 0, 300, PAGE_THIN(0));
	begin_with(s, 3);
	assert_true(stage_keys_of(s, 'o') == 1);
	uint64_t sequence = machine_expect_mirror(&m);
	maintain(machine_away(&m));
	assert_int_equal(stage_keys_of(s, 'o'), 0);
	uint64_t revision = tx_one(s->db, s, 1, PAGE_THIN(8));
	assert_int_equal(machine_expect_mirror(&m), sequence);
	expect_by_asking(s, stage_other(s), revision, 1, PAGE_THIN(8));
	machine_follow(stage_other(s));
	machine_expect_mirror(&m);
	revision = tx_one(s->db, s, 1, PAGE_THIN(9));
	expect_at_once(s, stage_other(s), revision, 1, PAGE_THIN(9));
}

/* A pack of another's: no entry tells of it. */
static void test_catch_up__not_past_a_pack(void **state)
{
	stage *s = *state;
	if (!(s->variant->backend & STAGE_LIMITED))
		return;
	tx_fill(machine_away(&m), s, 0, 75, PAGE_THIN(0)); /* so that there are keys of theirs */
	tx_fill(machine_away(&m), s, 75, 75, PAGE_THIN(0));
	begin_with(s, 3);
	uint64_t sequence = machine_expect_mirror(&m);
	tx_fill(machine_away(&m), s, 0, 150, PAGE_THIN(1000));
	uint64_t revision = tx_one(s->db, s, 200, PAGE_THIN(8));
	assert_int_equal(machine_expect_mirror(&m), sequence);
	expect_by_asking(s, stage_other(s), revision, 1, PAGE_THIN(1001));
}

/* One that came, and was folded, between the mirror and the commit. */
static void test_catch_up__not_past_a_pack_that_went(void **state)
{
	stage *s = *state;
	if (!(s->variant->backend & STAGE_LIMITED))
		return;
	tx_fill(machine_away(&m), s, 0, 75, PAGE_THIN(0)); /* so that there are keys of theirs */
	tx_fill(machine_away(&m), s, 75, 75, PAGE_THIN(0));
	begin_with(s, 3);
	uint64_t sequence = machine_expect_mirror(&m);
	tx_fill(machine_away(&m), s, 0, 150, PAGE_THIN(1000));
	maintain(machine_away(&m));
	uint64_t revision = tx_one(s->db, s, 200, PAGE_THIN(8));
	assert_int_equal(machine_expect_mirror(&m), sequence);
	expect_by_asking(s, stage_other(s), revision, 1, PAGE_THIN(1001));
}

static void test_catch_up__not_past_a_truncation(void **state)
{
	stage *s = *state;
	begin_with(s, 10);
	uint64_t sequence = machine_expect_mirror(&m);
	pgs_txn *t = tx_begin(machine_away(&m), PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 5), PGS_OK);
	tx_commit(t);
	uint64_t revision = tx_one(s->db, s, 1, PAGE_THIN(8));
	assert_int_equal(machine_expect_mirror(&m), sequence);
	expect_by_asking(s, stage_other(s), revision, 7, PAGE_ZERO);
}

/* The reply is lost, and the entry tells that it happened: not what came before it. */
static void test_catch_up__not_by_an_unknown_outcome(void **state)
{
	stage *s = *state;
	begin_with(s, 3);
	uint64_t sequence = machine_expect_mirror(&m);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(t, s, 1, PAGE_THIN(8));
	pgs_fault_at(s->fault, 1, PGS_FAULT_LOSE_REPLY);
	uint64_t revision = tx_commit(t);
	assert_int_equal(machine_expect_mirror(&m), sequence);
	expect_by_asking(s, stage_other(s), revision, 1, PAGE_THIN(8));
}

static void test_catch_up__not_by_one_that_did_not_happen(void **state)
{
	stage *s = *state;
	begin_with(s, 3);
	uint64_t sequence = machine_expect_mirror(&m);
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	o.write = true;
	o.timeout_ms = 50;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_OK);
	tx_put(t, s, 1, PAGE_THIN(8));
	pgs_fault_at(s->fault, 1, PGS_FAULT_STOP);
	assert_int_not_equal(pgs_commit(t, NULL, NULL, NULL), PGS_OK);
	pgs_fault_resume(s->fault);
	assert_int_equal(machine_expect_mirror(&m), sequence);
	assert_true(pgs__mirror_required(m.mine) <= sequence);
}

/* What is wrong with the file is no matter of the commit's. */
static void test_catch_up__the_file_fails(void **state)
{
	stage *s = *state;
	begin_with(s, 3);
	pgs__cache_file_broken(m.cache->file);
	uint64_t revision = tx_one(s->db, s, 1, T(8));
	tx_fill(s->db, s, 0, 300, T(100));
	expect_by_asking(s, stage_other(s), revision, 1, T(101));
}

/* Whatever is left of the KV's limits. */
static void test_catch_up__within_limits(void **state)
{
	stage *s = *state;
	uint64_t caught_up = 0;
	if (!(s->variant->backend & STAGE_LIMITED))
		return;
	begin_with(s, 3);
	for (uint64_t i = 100; i < 128; i++) {
		uint64_t revision = tx_fill(s->db, s, 0, i, PAGE_THIN(1000 * i));
		caught_up += machine_expect_mirror(&m) == revision;
		expect_page(s, stage_other(s), 1, PAGE_THIN(1000 * i + 1));
		machine_follow(stage_other(s));
	}
	assert_true(caught_up > 10);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	plant(argc, argv);
	const struct CMUnitTest tests[] = {
		TEST(test_catch_up__others_see_it_at_once),
		TEST(test_catch_up__followers_see_it_at_once),
		TEST(test_catch_up__contents_are_there),
		TEST(test_catch_up__is_the_kv_word_for_word),
		TEST(test_catch_up__side_by_side),
		TEST(test_catch_up__side_by_side_in_one_process),
		TEST(test_catch_up__of_two_databases),
		TEST(test_catch_up__takes_others_along),
		TEST(test_catch_up__not_past_too_many),
		TEST(test_catch_up__not_past_a_clock_that_differs),
		TEST(test_catch_up__takes_the_floor_along),
		TEST(test_catch_up__not_past_a_fold),
		TEST(test_catch_up__not_past_a_pack),
		TEST(test_catch_up__not_past_a_pack_that_went),
		TEST(test_catch_up__not_past_a_truncation),
		TEST(test_catch_up__not_by_an_unknown_outcome),
		TEST(test_catch_up__not_by_one_that_did_not_happen),
		TEST(test_catch_up__the_file_fails),
		TEST(test_catch_up__within_limits),
	};
#ifdef PGS_PLANTED_BUGS
	const uint32_t variants = STAGE_MEMORY | STAGE_LIMITED;
#else
	const uint32_t variants = STAGE_ALL;
#endif
	return planted_result(stage_run("catch_up", tests, sizeof tests / sizeof *tests, variants));
}
