/* Followers that keep a machine's mirror, and transactions that begin and read from it: lib/follow/mirrored.c,
 * lib/txn/newest.c, lib/txn/pointers.c. `s->db` and the stage's other handle stand for two processes with one cache file. */
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore/follow.h>

#include "follow/follower.h"
#include "local_cache/database.h"
#include "local_cache/file.h"
#include "local_cache/mirror.h"
#include "support/jobs.h"
#include "support/kv_calls.h"
#include "support/planted.h"
#include "support/testing.h"
#include "support/txn_stage.h"
#include "txn/txn.h"
#include "util/bug.h"
#include "util/clock.h"

#define T(n) PAGE_NOISE(n)
#define CACHE_BYTES (64u << 20)

static struct machine {
	char dir[64];
	pgs__disk_cache *cache;
	pgs__disk_db *mine, *others; /* of s->db, and of the other handle */
} machine;

static pgs_db *other(stage *s)
{
	return stage_other(s);
}

static void attach(stage *s)
{
	char path[100];
	pgs_error err = PGS_ERROR_INIT;
	snprintf(path, sizeof path, "%s/cache", machine.dir);
	const pgs__disk_cache_options o = {.path = path, .size_bytes = CACHE_BYTES};
	if (pgs__disk_cache_open(&machine.cache, &o, &err) != PGS_OK ||
	    pgs__disk_db_attach(&machine.mine, machine.cache, pgs__db_prefix(s->db), s->page_size, &err) != PGS_OK ||
	    pgs__disk_db_attach(&machine.others, machine.cache, pgs__db_prefix(s->db), s->page_size, &err) != PGS_OK)
		fail_msg("%s", err.message);
	s->db->contents.disk = machine.mine;
	other(s)->contents.disk = machine.others;
}

static void detach(stage *s)
{
	pgs__follow_end(s->db);
	pgs__follow_end(other(s));
	s->db->contents.disk = NULL;
	other(s)->contents.disk = NULL;
	pgs__disk_db_detach(machine.mine);
	pgs__disk_db_detach(machine.others);
	pgs__disk_cache_close(machine.cache);
}

static int setup(void **state)
{
	stage_setup(state);
	strcpy(machine.dir, "/tmp/pagestore-mirror-XXXXXX");
	assert_non_null(mkdtemp(machine.dir));
	attach(*state);
	return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static int teardown(void **state)
{
	stage *s = *state;
	s->before = NULL;
	detach(s);
	nftw(machine.dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	return stage_teardown(state);
}

static void count_call(stage *s, const char *operation)
{
	(void)operation;
	s->calls[0]++;
}

static pgs_txn *at(pgs_db *db, uint32_t freshness, uint32_t bound_ms)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	o.freshness = freshness;
	o.bound_ms = bound_ms;
	if (pgs_begin(&t, db, &o, &err) != PGS_OK)
		fail_msg("pgs_begin: %s", err.message);
	return t;
}

static void step(pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs_follow_step(db, 5000, &err);
	if (result != PGS_OK)
		fail_msg("pgs_follow_step: %s: %s", pgs_error_name(result), err.message);
}

/* --- a process that does not follow -------------------------------------------------------------- */

static void test_mirror__begins_and_reads_without_asking(void **state)
{
	stage *s = *state;
	for (uint64_t i = 0; i < 20; i++) /* deltas against zeros: all there is to them is in the pointers */
		tx_one(other(s), s, i, PAGE_THIN(i));
	step(other(s));
	s->before = count_call;
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	for (uint64_t i = 0; i < 20; i++)
		tx_expect(t, s, i, PAGE_THIN(i));
	pgs_abort(t);
	uint64_t revision = tx_one(other(s), s, 3, PAGE_THIN(103));
	step(other(s));
	t = at(s->db, PGS_LOCAL, 0);
	assert_int_equal(pgs_txn_revision(t), revision);
	tx_expect(t, s, 3, PAGE_THIN(103));
	tx_expect(t, s, 4, PAGE_THIN(4));
	tx_expect_count(t, 20);
	pgs_abort(t);
	pgs_abort(at(s->db, PGS_BOUNDED, 60000)); /* confirmed by the one that follows */
	assert_int_equal(s->calls[0], 0);
}

/* A snapshot that is older than the mirror asks for what has changed since. */
static void test_mirror__an_older_snapshot(void **state)
{
	stage *s = *state;
	for (uint64_t i = 0; i < 10; i++)
		tx_one(other(s), s, i, PAGE_THIN(i));
	step(other(s));
	pgs_txn *old = at(s->db, PGS_LOCAL, 0);
	tx_one(other(s), s, 3, PAGE_THIN(103));
	pgs_txn *t = tx_begin(other(s), PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 8), PGS_OK);
	tx_commit(t);
	step(other(s));
	pgs__cache_forget(s->db->contents.cache, UINT64_MAX / 2);
	tx_expect(old, s, 3, PAGE_THIN(3));
	tx_expect(old, s, 4, PAGE_THIN(4));
	tx_expect(old, s, 9, PAGE_THIN(9));
	pgs_abort(old);
}

/* What one process has committed, the others of the machine see. */
static void test_mirror__commits_of_the_machine_are_seen(void **state)
{
	stage *s = *state;
	tx_one(other(s), s, 1, T(1));
	step(other(s));
	pgs_abort(at(s->db, PGS_LOCAL, 0));
	uint64_t revision = tx_one(other(s), s, 1, T(2)); /* the mirror does not have it yet */
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	assert_true(pgs_txn_revision(t) >= revision);
	tx_expect(t, s, 1, T(2));
	pgs_abort(t);
	revision = tx_one(s->db, s, 1, T(3));
	t = at(other(s), PGS_LOCAL, 0);
	assert_true(pgs_txn_revision(t) >= revision);
	pgs_abort(t);
}

/* Whatever happens: what is read through the mirror is what is read past it. */
static void test_mirror__is_what_asking_tells(void **state)
{
	stage *s = *state;
	uint64_t seed = 11;
	tx_fill(other(s), s, 0, 10, T(0));
	for (int i = 0; i < 60; i++) {
		uint64_t die = stage_random(&seed) % 10, page = stage_random(&seed) % 16;
		pgs_txn *t = tx_begin(other(s), PGS_SERIALIZABLE);
		if (die == 0)
			assert_int_equal(pgs_truncate(t, page), PGS_OK);
		else
			tx_put(t, s, page, die < 5 ? PAGE_THIN(i) : PAGE_KIN(page, i));
		tx_commit(t);
		if (die == 1)
			tx_fill(other(s), s, 0, 200, T(1000 * (uint64_t)i)); /* a pack, where there are limits */
		if (die == 3) {
			const pgs_maintain_options all = {.struct_size = sizeof all, .all = true};
			assert_int_equal(pgs_maintain(other(s), &all, NULL, NULL), PGS_OK);
		}
		if (die != 4)
			step(other(s));
		pgs_txn *mine = at(s->db, PGS_LOCAL, 0), *asked = tx_at(other(s), pgs_txn_revision(mine));
		assert_int_equal(mine->snapshot.commit_revision, asked->snapshot.commit_revision);
		assert_int_equal(mine->snapshot.commit_count, asked->snapshot.commit_count);
		assert_int_equal(mine->snapshot.extent, asked->snapshot.extent);
		other(s)->contents.disk = NULL;
		for (uint64_t p = 0; p < 16; p++) {
			uint8_t a[4096], b[4096];
			assert_int_equal(pgs_read(mine, p, a), PGS_OK);
			assert_int_equal(pgs_read(asked, p, b), PGS_OK);
			assert_memory_equal(a, b, sizeof a);
		}
		other(s)->contents.disk = machine.others;
		pgs_abort(mine);
		pgs_abort(asked);
	}
}

/* --- attributes ------------------------------------------------------------------------------------- */

static void set_attr(stage *s, const char *name, const char *value)
{
	pgs_txn *t = tx_begin(other(s), PGS_SERIALIZABLE);
	tx_attr(t, name, value);
	tx_commit(t);
}

/* Loaded, changed, new and removed: no request is needed for any of them. */
static void test_mirror__attributes_are_read_without_asking(void **state)
{
	stage *s = *state;
	set_attr(s, "loaded", "1");
	set_attr(s, "changed", "2");
	set_attr(s, "removed", "3");
	step(other(s));
	set_attr(s, "changed", "4");
	pgs_txn *t = tx_begin(other(s), PGS_SERIALIZABLE);
	tx_attr(t, "new", "5");
	tx_attr(t, "removed", NULL);
	tx_commit(t);
	set_attr(s, "new", "6");
	step(other(s));
	s->before = count_call;
	t = at(s->db, PGS_LOCAL, 0);
	tx_expect_attr(t, "loaded", "1");
	tx_expect_attr(t, "changed", "4");
	tx_expect_attr(t, "new", "6");
	tx_expect_attr(t, "removed", NULL);
	tx_expect_attr(t, "never", NULL);
	pgs_abort(t);
	assert_int_equal(s->calls[0], 0);
}

/* A snapshot from before a change, a removal, and one that came and went, sees what there was. */
static void test_mirror__attributes_of_an_older_snapshot(void **state)
{
	stage *s = *state;
	set_attr(s, "a", "1");
	set_attr(s, "b", "2");
	step(other(s));
	pgs_txn *first = at(s->db, PGS_LOCAL, 0);
	set_attr(s, "c", "3");
	uint64_t between = tx_one(other(s), s, 1, T(1));
	set_attr(s, "a", "4");
	set_attr(s, "b", NULL);
	set_attr(s, "c", NULL);
	pgs_txn *middle = tx_at(s->db, between);
	step(other(s)); /* c was put and removed in what this applies */
	tx_expect_attr(first, "a", "1");
	tx_expect_attr(first, "b", "2");
	tx_expect_attr(first, "c", NULL);
	tx_expect_attr(middle, "a", "1");
	tx_expect_attr(middle, "c", "3");
	pgs_abort(first);
	pgs_abort(middle);
}

/* One that is too large to be kept is asked of the KV. */
static void test_mirror__large_attributes_are_not_kept(void **state)
{
	stage *s = *state;
	char large[PGS_ATTR_SIZE_MAX + 1];
	pgs__mirror_state before, after;
	memset(large, 'x', sizeof large - 1);
	large[sizeof large - 1] = '\0';
	set_attr(s, "loaded", large);
	set_attr(s, "changed", "1");
	step(other(s));
	assert_int_equal(pgs__mirror_state_get(machine.mine, &before, NULL), PGS_OK);
	assert_true(before.bytes < sizeof large);
	set_attr(s, "changed", large);
	step(other(s));
	assert_int_equal(pgs__mirror_state_get(machine.mine, &after, NULL), PGS_OK);
	assert_true(after.bytes < sizeof large);
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	tx_expect_attr(t, "loaded", large);
	tx_expect_attr(t, "changed", large);
	pgs_abort(t);
	other(s)->contents.disk = NULL; /* elsewhere: a commit from here does not know how often it was put before */
	set_attr(s, "changed", "2");
	other(s)->contents.disk = machine.others;
	step(other(s));
	s->before = count_call;
	t = at(s->db, PGS_LOCAL, 0);
	tx_expect_attr(t, "changed", "2");
	pgs_abort(t);
	assert_int_equal(s->calls[0], 0);
}

/* The first transaction after what the watch delivers is the read of attributes. */
static void fail_after_watch(stage *s, const char *operation)
{
	if (strstr(operation, "watch_next"))
		s->calls[1] = 1;
	else if (strstr(operation, "txn") && s->calls[1] == 1) {
		s->calls[1] = 2;
		pgs_fault_at(s->fault, 1, PGS_FAULT_ERROR);
	}
}

/* The KV does not tell what they are: then readers ask it, later. */
static void test_mirror__attributes_that_could_not_be_read(void **state)
{
	stage *s = *state;
	set_attr(s, "a", "1");
	step(s->db);
	uint64_t revision = kv_revision(s->kv);
	set_attr(s, "a", "2");
	s->before = fail_after_watch;
	step(s->db);
	s->before = NULL;
	assert_int_equal(s->calls[1], 2);
	assert_true(pgs__mirror_sequence(machine.mine) > revision);
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	tx_expect_attr(t, "a", "2");
	pgs_abort(t);
}

/* --- who keeps it ------------------------------------------------------------------------------------ */

static void test_mirror__one_keeps_it_and_another_takes_over(void **state)
{
	stage *s = *state;
	tx_one(other(s), s, 1, T(1));
	step(other(s));
	step(s->db);
	assert_true(other(s)->follower->mirrors);
	assert_false(s->db->follower->mirrors);
	pgs__follow_mirror_leave(other(s)->follower);
	other(s)->follower->mirror_ms = UINT64_MAX;
	tx_one(other(s), s, 1, T(2));
	s->db->follower->mirror_ms = 0;
	step(s->db);
	assert_true(s->db->follower->mirrors);
	uint64_t revision = tx_one(other(s), s, 1, T(3));
	step(s->db);
	assert_true(pgs__mirror_sequence(machine.others) >= revision);
}

/* From the sequence on, what was done meanwhile is watched again: by one that has seen it already. */
static void test_mirror__goes_on_from_the_sequence(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, 10, T(0));
	step(other(s));
	uint64_t sequence = pgs__mirror_sequence(machine.mine);
	pgs__follow_end(other(s));
	other(s)->contents.disk = NULL; /* elsewhere: here commits bring it along */
	pgs_txn *t = tx_begin(other(s), PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 5), PGS_OK);
	tx_commit(t);
	uint64_t revision = tx_one(other(s), s, 7, PAGE_THIN(7));
	other(s)->contents.disk = machine.others;
	assert_int_equal(pgs__mirror_sequence(machine.mine), sequence);
	step(s->db);
	assert_true(pgs__mirror_sequence(machine.mine) >= revision);
	t = at(s->db, PGS_LOCAL, 0);
	tx_expect(t, s, 4, T(4));
	tx_expect(t, s, 5, PAGE_ZERO);
	tx_expect(t, s, 7, PAGE_THIN(7));
	pgs_abort(t);
	assert_int_equal(s->db->follower->stat.restarts, 0);
}

static void test_mirror__is_loaded_anew_when_history_is_gone(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, 10, T(0));
	step(other(s));
	pgs__follow_end(other(s));
	tx_fill(other(s), s, 0, 10, T(100));
	tx_one(other(s), s, 3, PAGE_THIN(3));
	kv_compact(s->kv, kv_revision(s->kv));
	step(s->db);
	step(s->db);
	assert_true(pgs__mirror_sequence(machine.mine) >= pgs_txn_revision(s->txn = tx_read(s->db)));
	pgs_abort(s->txn);
	pgs__cache_forget(s->db->contents.cache, UINT64_MAX / 2);
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	tx_expect(t, s, 3, PAGE_THIN(3));
	tx_expect(t, s, 4, T(104));
	pgs_abort(t);
}

/* Many pointers, far apart. */
static void test_mirror__loads_what_is_large(void **state)
{
	stage *s = *state;
	uint64_t far = 1ull << 30;
	for (uint64_t i = 0; i < 12; i++)
		tx_fill(other(s), s, i * 250, 250, PAGE_THIN(0));
	tx_one(other(s), s, far, PAGE_THIN(77));
	const pgs_maintain_options all = {.struct_size = sizeof all, .all = true};
	assert_int_equal(pgs_maintain(other(s), &all, NULL, NULL), PGS_OK);
	step(other(s));
	pgs__mirror_state state_now;
	assert_int_equal(pgs__mirror_state_get(machine.mine, &state_now, NULL), PGS_OK);
	assert_true(state_now.keys >= 3001);
	s->before = count_call;
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	tx_expect(t, s, 0, PAGE_THIN(0));
	tx_expect(t, s, 2999, PAGE_THIN(2999));
	tx_expect(t, s, 5000, PAGE_ZERO);
	tx_expect(t, s, far, PAGE_THIN(77));
	pgs_abort(t);
	assert_int_equal(s->calls[0], 0);
}

/* Its keeper dies after it wrote the file, and before it told readers: the next one finds the file up to date, and what it
 * confirms must not count for what readers still see. */
static void test_mirror__is_confirmed_for_what_readers_see(void **state)
{
	stage *s = *state;
	pgs__shared_slot *slot = &machine.mine->file->state.words->slots[machine.mine->slot];
	tx_one(other(s), s, 1, PAGE_THIN(1));
	step(other(s));
	pgs_abort(at(s->db, PGS_LOCAL, 0));
	uint64_t before = pgs__mirror_sequence(machine.mine);
	tx_one(other(s), s, 1, PAGE_THIN(2));
	step(other(s));
	assert_true(pgs__mirror_sequence(machine.mine) > before);
	pgs__follow_end(other(s));
	atomic_store(&slot->sequence, before);
	atomic_store(&slot->required, 0); /* it was a commit of another machine */
	pgs__sleep_ms(300, 0); /* what was confirmed before is older than the bound */
	step(other(s));
	pgs_txn *t = at(s->db, PGS_BOUNDED, 250);
	tx_expect(t, s, 1, PAGE_THIN(2));
	pgs_abort(t);
}

/* --- loading, while there are commits --------------------------------------------------------------- */

#define LOADED 12000u /* pages: many requests */

/* Before each request that loads, once it has begun, another commit. */
static void commit_while_loading(stage *s, const char *operation)
{
	if (!s->db->follower || !s->db->follower->load || strcmp(operation, "txn") != 0 || s->calls[1] > 20)
		return;
	uint64_t i = s->calls[1]++, page = (i * 7919) % LOADED;
	pgs_txn *t = tx_begin(other(s), PGS_SERIALIZABLE);
	tx_put(t, s, page, PAGE_THIN(LOADED + i));
	if (i % 3 == 1)
		tx_attr(t, "attr", i % 2 ? "1" : NULL);
	if (i == 10)
		assert_int_equal(pgs_truncate(t, LOADED - 10), PGS_OK);
	s->calls[2] = tx_commit(t);
}

static void many_pages(stage *s)
{
	for (uint64_t first = 0; first < LOADED; first += 3000)
		tx_fill(other(s), s, first, 3000, PAGE_THIN(0));
	const pgs_maintain_options all = {.struct_size = sizeof all, .all = true};
	assert_int_equal(pgs_maintain(other(s), &all, NULL, NULL), PGS_OK);
}

static void test_mirror__follows_while_it_is_loaded(void **state)
{
	stage *s = *state;
	many_pages(s);
	s->before = commit_while_loading;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t seen_at = 0;
	for (int i = 0; i < 1000 && !pgs__mirror_sequence(machine.mine); i++) {
		if (!s->db->follower)
			pgs_follow_step(s->db, 1, NULL);
		assert_int_equal(pgs__follow_round(s->db->follower, 0, pgs__now_ms() + 5000, &err), PGS_OK);
		if (s->db->follower->load && s->calls[2] && s->db->follower->at.commit_revision == s->calls[2])
			seen_at++; /* what was just committed is followed, before the load has ended */
	}
	s->before = NULL;
	assert_true(s->calls[1] > 5);
	assert_true(seen_at > 3);
	assert_int_equal(s->db->follower->stat.restarts, 0);
	step(s->db);
	pgs__cache_forget(s->db->contents.cache, UINT64_MAX / 2);
	pgs_txn *mine = at(s->db, PGS_LOCAL, 0), *asked = tx_read(other(s));
	assert_int_equal(pgs_txn_revision(mine), pgs_txn_revision(asked));
	other(s)->contents.disk = NULL;
	for (uint64_t p = 0; p < LOADED; p += p < LOADED - 20 ? 37 : 1) {
		uint8_t a[4096], b[4096];
		assert_int_equal(pgs_read(mine, p, a), PGS_OK);
		assert_int_equal(pgs_read(asked, p, b), PGS_OK);
		assert_memory_equal(a, b, sizeof a);
	}
	for (uint64_t i = 0; i < s->calls[1]; i++) { /* what was committed meanwhile, above all */
		uint8_t a[4096], b[4096];
		assert_int_equal(pgs_read(mine, (i * 7919) % LOADED, a), PGS_OK);
		assert_int_equal(pgs_read(asked, (i * 7919) % LOADED, b), PGS_OK);
		assert_memory_equal(a, b, sizeof a);
	}
	other(s)->contents.disk = machine.others;
	pgs_abort(mine);
	pgs_abort(asked);
}

/* Each time one more page where the load has found nothing before. */
static void commit_in_the_gap(stage *s, const char *operation)
{
	if (s->db->follower && s->db->follower->load && strcmp(operation, "txn") == 0 && s->calls[1] < 30)
		tx_one(other(s), s, 1 + s->calls[1]++, PAGE_THIN(7));
}

static void test_mirror__follows_while_a_gap_is_loaded(void **state)
{
	stage *s = *state;
	const uint64_t far = 1ull << 30;
	tx_one(other(s), s, 0, PAGE_THIN(0));
	tx_one(other(s), s, far, PAGE_THIN(1));
	s->before = commit_in_the_gap;
	step(s->db);
	s->before = NULL;
	step(s->db);
	const uint64_t count = s->calls[1];
	assert_true(count > 5);
	pgs__cache_forget(s->db->contents.cache, UINT64_MAX / 2);
	s->before = count_call;
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	for (uint64_t i = 0; i < count; i++)
		tx_expect(t, s, 1 + i, PAGE_THIN(7));
	tx_expect(t, s, far, PAGE_THIN(1));
	pgs_abort(t);
	assert_int_equal(s->calls[0], 0);
}

/* Broken off at any request, and begun again by another. */
static void test_mirror__a_load_that_is_broken_off(void **state)
{
	stage *s = *state;
	many_pages(s);
	step(s->db);
	for (uint64_t stop = 1; stop < 12; stop++) {
		assert_int_equal(pgs__mirror_reset(machine.mine, pgs__now_ms() + 5000, NULL), PGS_OK);
		pgs__follow_end(s->db);
		pgs_follow_step(s->db, 1, NULL);
		for (uint64_t i = 0; i < stop && s->db->follower; i++)
			pgs__follow_round(s->db->follower, 0, pgs__now_ms() + 5000, NULL);
		pgs__follow_end(s->db);
		tx_one(other(s), s, stop, PAGE_THIN(77 + stop));
	}
	assert_int_equal(pgs__mirror_reset(machine.mine, pgs__now_ms() + 5000, NULL), PGS_OK);
	step(s->db);
	pgs__mirror_state now;
	assert_int_equal(pgs__mirror_state_get(machine.mine, &now, NULL), PGS_OK);
	assert_true(now.sequence && now.keys >= LOADED);
	s->before = count_call;
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	tx_expect(t, s, 5, PAGE_THIN(82));
	tx_expect(t, s, 11, PAGE_THIN(88));
	tx_expect(t, s, 12, PAGE_THIN(12));
	tx_expect(t, s, LOADED - 1, PAGE_THIN(LOADED - 1));
	pgs_abort(t);
	assert_int_equal(s->calls[0], 0);
}

/* Requests of a load that fail are made again; what was loaded stays. */
static void test_mirror__a_load_survives_failures(void **state)
{
	stage *s = *state;
	many_pages(s);
	pgs_follow_step(s->db, 1, NULL);
	pgs__follower *f = s->db->follower;
	for (int i = 0; i < 200 && !pgs__mirror_sequence(machine.mine); i++) {
		f->mirror_ms = 0; /* do not wait */
		if (f->load && i % 2)
			pgs_fault_at(s->fault, 1, PGS_FAULT_ERROR);
		pgs__follow_round(f, 0, pgs__now_ms() + 5000, NULL);
	}
	pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
	step(s->db);
	assert_true(pgs__mirror_sequence(machine.mine) > 0);
	s->before = count_call;
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	for (uint64_t p = 0; p < LOADED; p += 41)
		tx_expect(t, s, p, PAGE_THIN(p));
	pgs_abort(t);
	assert_int_equal(s->calls[0], 0);
}

/* --- whose history it is ------------------------------------------------------------------------------- */

/* The watch was lost, and meanwhile the KV has become another one: one that does not have what the mirror has. */
static void test_mirror__is_proved_again_when_the_watch_was_lost(void **state)
{
	stage *s = *state;
	tx_one(other(s), s, 1, PAGE_THIN(1));
	step(other(s));
	uint64_t sequence = pgs__mirror_sequence(machine.mine);
	pgs__key key = pgs__key_single(pgs__db_prefix(s->db), 'e');
	const pgs__mirror_change forged = {.pair = {.key = pgs__key_slice(&key), .value = {"?", 1}, .version = 9,
						    .create_revision = 1, .mod_revision = sequence + 1}};
	s->db->contents.disk = NULL; /* it does not bring the mirror along */
	uint64_t now = tx_one(s->db, s, 2, PAGE_THIN(2));
	s->db->contents.disk = machine.mine;
	assert_int_equal(pgs__mirror_apply(machine.mine, sequence, now, 0, &forged, 1, 0, NULL, NULL), PGS_OK);
	pgs__follow_close_watch(other(s)->follower);
	step(other(s));
	assert_int_equal(other(s)->follower->stat.restarts, 1);
	assert_true(pgs__mirror_sequence(machine.mine) >= now);
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	tx_expect(t, s, 2, PAGE_THIN(2));
	tx_expect_count(t, 3);
	pgs_abort(t);
}

/* --- size ------------------------------------------------------------------------------------------------- */

/* More than half of the cache: it is given up, leaves the room to contents, and comes back when there is less of it. */
static void test_mirror__too_large_is_given_up_and_comes_back(void **state)
{
	stage *s = *state;
	pgs__mirror_state now;
	many_pages(s);
	step(s->db);
	tx_fill(other(s), s, 0, 10, T(0));
	pgs__follower *f = s->db->follower;
	f->db->contents.disk->file->map_pages /= 64;
	f->load_due = true;
	pgs_follow_step(s->db, 5000, NULL);
	assert_true(f->mirrors && f->load_due && !f->load && f->too_large_ms);
	assert_int_equal(pgs__mirror_sequence(machine.mine), 0);
	assert_int_equal(pgs__mirror_state_get(machine.mine, &now, NULL), PGS_OK);
	assert_int_equal(now.keys, 0);
	step(s->db); /* following goes on */
	pgs_txn *t = at(s->db, PGS_LOCAL, 0);
	tx_expect(t, s, 3, T(3));
	pgs_abort(t);
	f->mirror_ms = 0; /* the pause is over: too large still */
	pgs_follow_step(s->db, 5000, NULL);
	assert_true(f->load_due && f->too_large_ms > 60000);
	t = tx_begin(other(s), PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 100), PGS_OK);
	tx_commit(t);
	const pgs_maintain_options all = {.struct_size = sizeof all, .all = true};
	assert_int_equal(pgs_maintain(other(s), &all, NULL, NULL), PGS_OK);
	for (int i = 0; i < 100 && !pgs__mirror_sequence(machine.mine); i++) {
		f->mirror_ms = 0;
		step(s->db);
	}
	assert_true(pgs__mirror_sequence(machine.mine) > 0);
	assert_int_equal(f->too_large_ms, 0);
	f->db->contents.disk->file->map_pages *= 64;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
#ifdef PGS_PLANTED_BUGS
	const uint32_t variants = STAGE_MEMORY;
#else
	const uint32_t variants = STAGE_ALL;
#endif
	plant(argc, argv);
	const struct CMUnitTest tests[] = {
		TEST(test_mirror__begins_and_reads_without_asking),
		TEST(test_mirror__an_older_snapshot),
		TEST(test_mirror__commits_of_the_machine_are_seen),
		TEST(test_mirror__is_what_asking_tells),
		TEST(test_mirror__attributes_are_read_without_asking),
		TEST(test_mirror__attributes_of_an_older_snapshot),
		TEST(test_mirror__large_attributes_are_not_kept),
		TEST(test_mirror__attributes_that_could_not_be_read),
		TEST(test_mirror__one_keeps_it_and_another_takes_over),
		TEST(test_mirror__goes_on_from_the_sequence),
		TEST(test_mirror__is_loaded_anew_when_history_is_gone),
		TEST(test_mirror__loads_what_is_large),
		TEST(test_mirror__is_confirmed_for_what_readers_see),
		TEST(test_mirror__follows_while_it_is_loaded),
		TEST(test_mirror__follows_while_a_gap_is_loaded),
		TEST(test_mirror__a_load_that_is_broken_off),
		TEST(test_mirror__a_load_survives_failures),
		TEST(test_mirror__is_proved_again_when_the_watch_was_lost),
		TEST(test_mirror__too_large_is_given_up_and_comes_back),
	};
	return planted_result(stage_run("follow_mirror", tests, sizeof tests / sizeof *tests, variants));
}
