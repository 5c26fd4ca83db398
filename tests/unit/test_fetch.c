/* lib/follow/fetch*.c and lib/content/parts.c: what a follower fetches, in which order, how fast, and what it was for.
 * `s->db` follows, with a cache file or without; the stage's other handle writes. */
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <pagestore/follow.h>

#include "content/parts.h"
#include "follow/follower.h"
#include "support/planted.h"
#include "support/testing.h"
#include "support/txn_stage.h"
#include "txn/txn.h"
#include "util/clock.h"

#define T(n) PAGE_NOISE(n)
#define FENCED 2000 /* pages of a file whose table is not in its key */

static struct machine {
	char dir[64], path[100];
	pgs__disk_cache *cache;
} machine;

static pgs_db *other(stage *s)
{
	return stage_other(s);
}

static void attach(stage *s, uint64_t size)
{
	pgs_error err = PGS_ERROR_INIT;
	snprintf(machine.path, sizeof machine.path, "%s/cache", machine.dir);
	const pgs__disk_cache_options o = {.path = machine.path, .size_bytes = size};
	if (pgs__disk_cache_open(&machine.cache, &o, &err) != PGS_OK ||
	    pgs__disk_db_attach(&s->db->contents.disk, machine.cache, pgs__db_prefix(s->db), s->page_size, &err) != PGS_OK)
		fail_msg("%s", err.message);
}

static void detach(stage *s)
{
	pgs__follow_end(s->db);
	if (!machine.cache)
		return;
	pgs__disk_db_detach(s->db->contents.disk);
	s->db->contents.disk = NULL;
	pgs__disk_cache_close(machine.cache);
	machine.cache = NULL;
}

/* What is in memory goes, as it does with the process. */
static void forget_memory(stage *s)
{
	pgs__contents *c = &s->db->contents;
	uint64_t revision = pgs__cache_revision(c->cache);
	pgs__levels_free(&c->levels);
	assert_int_equal(pgs__levels_init(&c->levels), PGS_OK);
	pgs__cache_free(c->cache);
	assert_int_equal(pgs__cache_new(&c->cache, c->page_size, s->db->cache_bytes), PGS_OK);
	pgs__cache_forget(c->cache, revision);
}

static int setup(void **state)
{
	stage_setup(state);
	strcpy(machine.dir, "/tmp/pagestore-fetch-XXXXXX");
	assert_non_null(mkdtemp(machine.dir));
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

/* calls[0]: reads of blobs; calls[1]: transactions of the KV. */
static void count_call(stage *s, const char *operation)
{
	s->calls[0] += strcmp(operation, "get") == 0;
	s->calls[1] += strcmp(operation, "txn") == 0;
}

static void count_calls(stage *s)
{
	s->calls[0] = s->calls[1] = 0;
	s->before = count_call;
}

static void step(stage *s)
{
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs_follow_step(s->db, 10000, &err);
	if (result != PGS_OK)
		fail_msg("pgs_follow_step: %s: %s", pgs_error_name(result), err.message);
}

static void flush(void)
{
	assert_int_equal(pgs__disk_flush(machine.cache, pgs__now_ms() + 5000, NULL), PGS_OK);
}

static void expect_local(stage *s, uint64_t page, uint64_t tag)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	o.freshness = PGS_LOCAL;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_OK);
	tx_expect(t, s, page, tag);
	pgs_abort(t);
}

static pgs_follow_stat stat_of(stage *s)
{
	pgs_follow_stat stat = PGS_FOLLOW_STAT_INIT;
	assert_int_equal(pgs_follow_stat_get(s->db, &stat, NULL), PGS_OK);
	return stat;
}

static uint64_t bad(stage *s)
{
	(void)s;
	pgs__disk_stat stat;
	assert_int_equal(pgs__disk_stat_get(machine.cache, &stat, NULL), PGS_OK);
	return stat.bad;
}

static void follow(stage *s, uint32_t fetch, uint64_t rate)
{
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.fetch = fetch;
	o.fetch_bytes_per_s = rate;
	if (pgs_follow_start(s->db, &o, &err) != PGS_OK)
		fail_msg("%s", err.message);
}

/* Until all that there was to fetch has been. */
static void wait_idle(stage *s)
{
	for (int i = 0; i < 3000; i++) {
		pgs_follow_stat stat = stat_of(s);
		uint64_t waiting = 0;
		for (int q = 0; q < PGS_FETCH_QUEUES; q++)
			waiting += stat.queued[q];
		if (!waiting && stat.revision)
			return;
		pgs__sleep_ms(10, 0);
	}
	fail_msg("it is not done");
}

static uint64_t flip_seed;

/* Damage every copy of these bytes in the cache file; returns how many there were. */
static unsigned flip(const uint8_t *what, size_t size)
{
	struct stat st;
	unsigned flipped = 0;
	int fd = open(machine.path, O_RDWR);
	assert_int_equal(fstat(fd, &st), 0);
	uint8_t *bytes = malloc((size_t)st.st_size), *at = bytes;
	assert_int_equal(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
	while ((at = memmem(at, (size_t)(bytes + st.st_size - at), what, size))) {
		uint8_t byte = at[flip_seed % size] ^ (uint8_t)(1u << flip_seed % 8);
		assert_int_equal(pwrite(fd, &byte, 1, at - bytes + (off_t)(flip_seed % size)), 1);
		flip_seed += 7;
		at += size;
		flipped++;
	}
	free(bytes);
	close(fd);
	return flipped;
}

/* --- queues ------------------------------------------------------------------------------------------ */

static void push(pgs__page_queue *q, uint64_t page_no, uint64_t revision, uint64_t dropped)
{
	const pgs__fetch_page page = {.page_no = page_no, .revision = revision};
	uint64_t went;
	pgs__page_queue_push(q, &page, &went);
	assert_int_equal(went, dropped);
}

static void expect_next(pgs__page_queue *q, uint64_t page_no, uint64_t revision)
{
	const pgs__fetch_page *next = pgs__page_queue_next(q);
	assert_non_null(next);
	assert_int_equal(next->page_no, page_no);
	assert_int_equal(next->revision, revision);
	pgs__page_queue_pop(q);
}

static void test_queue__is_in_order_and_has_each_page_once(void **state)
{
	(void)state;
	pgs__page_queue q = {.max = 4};
	assert_null(pgs__page_queue_next(&q));
	push(&q, 7, 1, UINT64_MAX);
	push(&q, 3, 2, UINT64_MAX);
	push(&q, 7, 5, UINT64_MAX); /* where it was, with what is new */
	assert_int_equal(pgs__page_queue_count(&q), 2);
	expect_next(&q, 7, 5);
	push(&q, 7, 6, UINT64_MAX);
	push(&q, 1, 6, UINT64_MAX);
	push(&q, 2, 6, UINT64_MAX);
	push(&q, 9, 7, 3); /* full: the oldest goes */
	push(&q, 10, 7, 7);
	expect_next(&q, 1, 6);
	expect_next(&q, 2, 6);
	expect_next(&q, 9, 7);
	expect_next(&q, 10, 7);
	assert_null(pgs__page_queue_next(&q));
	pgs__page_queue_free(&q);
}

/* Commits, then files, then what is hot, then the rest: one at a time. */
static void test_fetch__goes_by_priority(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, FENCED, T(0));
	tx_fill(other(s), s, FENCED, 3, T(0));
	step(s);
	pgs__fetcher *f = &s->db->follower->fetch;
	pgs__page_id none = {{1}};
	const pgs__fetch_page commit = {.page_no = 1, .known = true, .id = none, .recent = true}, hot = {.page_no = FENCED};
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	o.fetch = PGS_FETCH_ALL;
	pgs__fetch_begin(f, &o);
	pgs__fetch_page_later(f, PGS_FETCH_QUEUE_HOT, &hot);
	pgs__levels_refresh(&s->db->contents.levels, pgs__db_backend(s->db), pgs__db_prefix(s->db), 0, NULL);
	pgs__file_map *map = pgs__levels_map(&s->db->contents.levels);
	for (size_t i = 0; i < map->count; i++)
		pgs__fetch_file_later(f, map->files[i]);
	pgs__file_map_release(map);
	pgs__fetch_page_later(f, PGS_FETCH_QUEUE_COMMITS, &commit);
	const uint64_t left[][3] = {{1, 1, 1}, {0, 1, 1}, {0, 0, 1}, {0, 0, 0}};
	for (size_t i = 0; i < 4; i++) {
		pgs_follow_stat stat = stat_of(s);
		for (int q = 0; q < 3; q++)
			assert_int_equal(stat.queued[q], left[i][q]);
		assert_int_equal(stat.queued[PGS_FETCH_QUEUE_FILL], FENCED + 3);
		assert_true(pgs__fetch_some(f, 0));
	}
	while (pgs__fetch_some(f, 0))
		;
	assert_int_equal(stat_of(s).queued[PGS_FETCH_QUEUE_FILL], 0);
}

/* What has no room is come back to, when all is wanted. */
static void test_fetch__what_was_dropped_is_fetched_by_the_walk(void **state)
{
	stage *s = *state;
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	tx_fill(other(s), s, 0, 100, T(0));
	step(s);
	pgs__fetcher *f = &s->db->follower->fetch;
	o.fetch = s->db->follower->options.fetch = PGS_FETCH_ALL;
	pgs__fetch_begin(f, &o);
	while (pgs__fetch_some(f, 0))
		;
	f->commits.max = 8; /* nothing has been in it yet */
	for (uint64_t i = 0; i < 60; i++)
		tx_one(other(s), s, i, T(1000 + i));
	step(s);
	assert_true(stat_of(s).queue_dropped > 0);
	count_calls(s);
	for (uint64_t i = 0; i < 100; i++)
		expect_local(s, i, T(i < 60 ? 1000 + i : i));
	assert_int_equal(s->calls[0] + s->calls[1], 0);
}

/* --- what is fetched ----------------------------------------------------------------------------------- */

static void test_fetch__contents_of_commits_come_out_of_c(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, 40, T(0));
	step(s);
	for (uint64_t i = 0; i < 40; i++)
		expect_local(s, i, T(i));
	pgs_follow_stat before = stat_of(s);
	tx_fill(other(s), s, 0, 40, T(100));
	count_calls(s);
	step(s);
	pgs_follow_stat stat = stat_of(s);
	assert_int_equal(s->calls[0], 0); /* no sorted file was looked into */
	assert_int_equal(stat.pages_fetched - before.pages_fetched, 40);
	assert_int_equal(stat.fetch_requests - before.fetch_requests, 1); /* all in one */
	assert_in_range(stat.bytes_fetched - before.bytes_fetched, 40 * s->page_size, 40 * (s->page_size + 100));
	count_calls(s);
	for (uint64_t i = 0; i < 40; i++)
		expect_local(s, i, T(100 + i));
	assert_int_equal(s->calls[0] + s->calls[1], 0);
}

static void test_fetch__policies(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, 40, T(0));
	follow(s, PGS_FETCH_NONE, 0);
	wait_idle(s);
	expect_local(s, 1, T(1));
	uint64_t revision = tx_fill(other(s), s, 0, 40, T(100));
	for (int i = 0; i < 1000 && stat_of(s).revision < revision; i++)
		pgs__sleep_ms(5, 0);
	wait_idle(s);
	assert_int_equal(stat_of(s).pages_fetched, 0);
	assert_int_equal(stat_of(s).fetch_requests, 0);
	pgs_follow_stop(s->db);
	expect_local(s, 1, T(101));
	expect_local(s, 2, T(102));
	follow(s, PGS_FETCH_HOT, 0);
	revision = tx_fill(other(s), s, 0, 40, T(200));
	for (int i = 0; i < 1000 && stat_of(s).pages_fetched < 2; i++)
		pgs__sleep_ms(5, 0);
	wait_idle(s);
	assert_int_equal(stat_of(s).pages_fetched, 2); /* those that somebody has read */
	pgs_follow_stop(s->db);
	follow(s, PGS_FETCH_ALL, 0);
	wait_idle(s);
	pgs_follow_stop(s->db);
	assert_int_equal(stat_of(s).pages_fetched, 40);
}

/* Neighbours come in one read, however many there are; also where every other one is there already. */
static void test_fetch__a_range_of_ids_is_one_read(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, FENCED, T(0));
	attach(s, 64 << 20);
	count_calls(s);
	follow(s, PGS_FETCH_ALL, 0);
	wait_idle(s);
	pgs_follow_stop(s->db);
	assert_int_equal(stat_of(s).pages_fetched, FENCED);
	assert_in_range(s->calls[0], 1, 5); /* 8 MB, of one file; and its table and filter */
	forget_memory(s);
	flush();
	s->before = NULL;
	for (uint64_t i = 0; i < FENCED; i += 2)
		tx_one(other(s), s, i, PAGE_THIN(i)); /* no contents */
	detach(s);
	remove(machine.path);
	attach(s, 64 << 20);
	count_calls(s);
	follow(s, PGS_FETCH_ALL, 0);
	wait_idle(s);
	assert_int_equal(stat_of(s).pages_fetched, FENCED / 2);
	assert_in_range(s->calls[0], 1, 6);
	assert_true(stat_of(s).bytes_fetched < (uint64_t)FENCED * s->page_size + (1 << 20));
}

/* What the cache file has is not read again: not by the next process, nor when one begins anew. */
static void test_fetch__the_cache_file_is_not_read_again(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, FENCED, T(0));
	tx_fill(other(s), s, 0, 20, T(5000));
	attach(s, 64 << 20);
	follow(s, PGS_FETCH_ALL, 0);
	wait_idle(s);
	pgs_follow_stop(s->db);
	assert_int_equal(stat_of(s).pages_fetched, FENCED);
	detach(s);
	forget_memory(s);
	attach(s, 64 << 20);
	count_calls(s);
	follow(s, PGS_FETCH_ALL, 0);
	wait_idle(s);
	assert_int_equal(stat_of(s).pages_fetched, 0);
	assert_int_equal(s->calls[0], 0);
	count_calls(s);
	for (uint64_t i = 0; i < FENCED; i++)
		expect_local(s, i, T(i < 20 ? 5000 + i : i));
	assert_int_equal(s->calls[0], 0);
}

/* Pages that were read by a process that is gone, and have changed since, are hot. */
static void test_fetch__what_the_cache_file_knew_is_hot(void **state)
{
	stage *s = *state;
	attach(s, 64 << 20);
	tx_fill(other(s), s, 0, 100, T(0));
	step(s);
	for (uint64_t i = 0; i < 30; i++)
		expect_local(s, i, T(i));
	flush();
	detach(s);
	forget_memory(s);
	tx_fill(other(s), s, 10, 60, T(500));
	attach(s, 64 << 20);
	step(s);
	step(s);
	assert_int_equal(stat_of(s).pages_fetched, 20); /* 10 … 29 */
	tx_fill(other(s), s, 0, 20, T(900)); /* and while it follows; memory knows none of them */
	step(s);
	assert_int_equal(stat_of(s).pages_fetched, 40);
	count_calls(s);
	for (uint64_t i = 0; i < 30; i++)
		expect_local(s, i, T(i < 20 ? 900 + i : 500 + i));
	assert_int_equal(s->calls[0] + s->calls[1], 0);
}

/* --- tables and filters ---------------------------------------------------------------------------------- */

/* A page that nobody has read costs one read: the content. */
static void test_parts__a_new_file_s_table_is_there(void **state)
{
	stage *s = *state;
	attach(s, 64 << 20);
	tx_one(other(s), s, FENCED, T(1));
	step(s);
	tx_fill(other(s), s, 0, FENCED, T(0));
	count_calls(s);
	step(s);
	assert_int_equal(stat_of(s).files_fetched, 1);
	assert_int_equal(s->calls[0], 1); /* table and filter lie together */
	count_calls(s);
	expect_local(s, 700, T(700));
	assert_int_equal(s->calls[0], 1);
	flush();
	forget_memory(s);
	pgs__levels_refresh(&s->db->contents.levels, pgs__db_backend(s->db), pgs__db_prefix(s->db), 0, NULL);
	count_calls(s);
	expect_local(s, 1400, T(1400)); /* after a restart, too */
	assert_int_equal(s->calls[0], 1);
}

/* Without a follower they get there as they are read. */
static void test_parts__are_kept_as_they_are_read(void **state)
{
	stage *s = *state;
	attach(s, 64 << 20);
	tx_fill(other(s), s, 0, FENCED, T(0));
	stage_expect(s, 900, T(900));
	flush();
	forget_memory(s);
	pgs_txn *t = tx_read(s->db);
	count_calls(s);
	tx_expect(t, s, 901, T(901)); /* most likely in another slice: all have been read, as eight come together */
	assert_in_range(s->calls[0], 1, 2);
	pgs_abort(t);
}

static void read_blob(stage *s, const char *name, uint64_t offset, void *out, size_t size)
{
	pgs_blob_range range = {.name = name, .offset = offset, .size = size, .buffer = out};
	assert_int_equal(s->blob->vtable->get(s->blob, &range, 1, 0, NULL), PGS_OK);
}

/* Flipped bits: dropped, counted, fetched again; never believed. */
static void test_parts__that_are_damaged_are_read_again(void **state)
{
	stage *s = *state;
	attach(s, 64 << 20);
	tx_one(other(s), s, FENCED, T(1));
	step(s);
	tx_fill(other(s), s, 0, FENCED, T(0));
	step(s);
	flush();
	assert_int_equal(stat_of(s).files_fetched, 1);
	pgs__file_map *map = pgs__levels_map(&s->db->contents.levels);
	assert_int_equal(map->count, 1);
	pgs__file *file = map->files[0];
	size_t table = (size_t)file->index.count * PGS__SORTED_ENTRY_SIZE, filter = (size_t)file->index.filter_size + 8;
	uint8_t *bytes = malloc(table + filter);
	read_blob(s, file->blob_name, PGS__SORTED_HEADER_SIZE, bytes, table + filter);
	unsigned slices = 0;
	for (size_t at = 0; at + 64 <= table; at += PGS__SLICE_BYTES)
		slices += flip(bytes + at, 32);
	assert_int_equal(slices, pgs__file_slices(file));
	assert_int_equal(flip(bytes + table + 16, 64), 1);
	pgs__file_map_release(map);
	free(bytes);
	forget_memory(s);
	pgs__levels_refresh(&s->db->contents.levels, pgs__db_backend(s->db), pgs__db_prefix(s->db), 0, NULL);
	assert_int_equal(bad(s), 0);
	for (uint64_t i = 0; i < FENCED; i += 20)
		expect_local(s, i, T(i));
	assert_true(bad(s) >= 2); /* parts of the table, and of the filter */
	uint64_t before = bad(s);
	flush();
	forget_memory(s);
	pgs__levels_refresh(&s->db->contents.levels, pgs__db_backend(s->db), pgs__db_prefix(s->db), 0, NULL);
	for (uint64_t i = 1; i < FENCED; i += 20)
		expect_local(s, i, T(i));
	assert_int_equal(bad(s), before); /* good ones are there */
}

/* --- the bound ------------------------------------------------------------------------------------------------ */

static void test_fetch__keeps_to_its_bound(void **state)
{
	stage *s = *state;
	uint64_t rate = 2 << 20;
	tx_fill(other(s), s, 0, FENCED, T(0));
	attach(s, 64 << 20);
	uint64_t began = pgs__now_ms(), bytes = 0;
	follow(s, PGS_FETCH_ALL, rate);
	for (int i = 0; i < 6; i++) {
		pgs__sleep_ms(150, 0);
		bytes = stat_of(s).bytes_fetched;
		uint64_t elapsed = pgs__now_ms() - began;
		assert_true(bytes <= rate * (elapsed + 500) / 1000); /* what is asked for at once is a quarter of a second's */
	}
	assert_true(bytes > 0 && stat_of(s).queued[PGS_FETCH_QUEUE_FILL] > 0);
}

/* --- used and wasted ---------------------------------------------------------------------------------------------- */

static void test_use__in_memory(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, 30, T(0));
	step(s);
	for (uint64_t i = 0; i < 30; i++)
		expect_local(s, i, T(i));
	assert_int_equal(stat_of(s).pages_used, 0); /* it was no follower that fetched them */
	tx_fill(other(s), s, 0, 30, T(100));
	step(s);
	for (int round = 0; round < 2; round++)
		for (uint64_t i = 0; i < 10; i++)
			expect_local(s, i, T(100 + i));
	pgs_follow_stat stat = stat_of(s);
	assert_int_equal(stat.pages_used, 10); /* each once */
	assert_int_equal(stat.bytes_used, 10 * s->page_size);
	assert_int_equal(stat.pages_wasted, 0);
	tx_fill(other(s), s, 0, 15, T(200)); /* of which five had not been read */
	step(s);
	stat = stat_of(s);
	assert_int_equal(stat.pages_used, 10);
	assert_int_equal(stat.pages_wasted, 5);
	assert_int_equal(stat.bytes_wasted, 5 * s->page_size);
}

/* A base that was fetched is used by who reads the page that it makes. */
static void test_use__of_a_delta_s_base(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, 10, PAGE_KIN(1, 0));
	tx_fill(other(s), s, 0, 10, PAGE_KIN(1, 100));
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	step(s);
	o.fetch = s->db->follower->options.fetch = PGS_FETCH_ALL;
	pgs__fetch_begin(&s->db->follower->fetch, &o);
	step(s);
	assert_int_equal(stat_of(s).pages_fetched, 10);
	for (uint64_t i = 0; i < 4; i++)
		expect_local(s, i, PAGE_KIN(1, 100 + i));
	assert_int_equal(stat_of(s).pages_used, 4);
	for (uint64_t i = 0; i < 10; i++)
		tx_one(other(s), s, i, T(i));
	step(s);
	assert_int_equal(stat_of(s).pages_used, 4);
	assert_int_equal(stat_of(s).pages_wasted, 6);
}

static void test_use__in_the_cache_file(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, FENCED, T(0));
	attach(s, 64 << 20);
	follow(s, PGS_FETCH_ALL, 0);
	wait_idle(s);
	pgs_follow_stop(s->db);
	flush();
	pgs_follow_stat stat = stat_of(s);
	assert_int_equal(stat.pages_used + stat.pages_wasted, 0);
	for (int round = 0; round < 2; round++)
		for (uint64_t i = 0; i < 100; i++)
			expect_local(s, i, T(i));
	stat = stat_of(s);
	assert_in_range(stat.pages_used, 80, 100); /* hits are counted by a hash */
	assert_true(stat.bytes_used >= 80 * s->page_size);
	assert_int_equal(stat.pages_wasted, 0);
}

/* A file that is too small: most goes before anybody reads it. */
static void test_use__what_is_evicted_was_wasted(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, FENCED, T(0));
	attach(s, 4 << 20);
	follow(s, PGS_FETCH_ALL, 0);
	wait_idle(s);
	pgs_follow_stop(s->db);
	flush();
	pgs_follow_stat stat = stat_of(s);
	assert_int_equal(stat.pages_fetched, FENCED);
	assert_int_equal(stat.pages_used, 0);
	assert_in_range(stat.pages_wasted, FENCED / 2, FENCED);
	assert_true(stat.bytes_wasted >= stat.pages_wasted * s->page_size);
}

/* --- beside the watch ------------------------------------------------------------------------------------------------- */

static atomic_bool gate_open;

static void hold_blobs(stage *s, const char *operation)
{
	(void)s;
	for (int i = 0; i < 20000 && !gate_open && strcmp(operation, "get") == 0; i++)
		pgs__sleep_ms(1, 0);
}

/* A blob store that does not answer holds up nothing but what is read from it. */
static void test_fetch__the_watch_does_not_wait_for_it(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, FENCED, T(0));
	gate_open = false;
	s->before = hold_blobs;
	follow(s, PGS_FETCH_ALL, 0);
	for (int i = 0; i < 2000 && !stat_of(s).revision; i++)
		pgs__sleep_ms(5, 0);
	uint64_t revision = 0;
	for (uint64_t i = 0; i < 20; i++)
		revision = tx_one(other(s), s, i, PAGE_THIN(i));
	for (int i = 0; i < 2000 && stat_of(s).revision < revision; i++)
		pgs__sleep_ms(5, 0);
	assert_int_equal(stat_of(s).revision, revision);
	assert_int_equal(stat_of(s).pages_fetched, 0);
	gate_open = true;
	wait_idle(s);
	assert_true(stat_of(s).pages_fetched >= FENCED - 20);
}

/* Failures of the stores are got over. */
static void test_fetch__goes_on_after_failures(void **state)
{
	stage *s = *state;
	tx_fill(other(s), s, 0, FENCED, T(0));
	attach(s, 64 << 20);
	step(s);
	pgs_fault_at(s->fault, 1, PGS_FAULT_ERROR);
	pgs_follow_options o = PGS_FOLLOW_OPTIONS_INIT;
	o.fetch = PGS_FETCH_ALL;
	pgs__fetcher *f = &s->db->follower->fetch;
	pgs__fetch_begin(f, &o);
	assert_true(pgs__fetch_some(f, 0));
	assert_false(pgs__fetch_some(f, 0)); /* a little later */
	assert_int_equal(stat_of(s).pages_fetched, 0);
	for (int i = 0; i < 1000 && stat_of(s).queued[PGS_FETCH_QUEUE_FILL]; i++) {
		while (pgs__fetch_some(f, 0))
			;
		pgs__sleep_ms(10, 0);
	}
	assert_int_equal(stat_of(s).pages_fetched, FENCED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	plant(argc, argv);
	const struct CMUnitTest tests[] = {
		TEST(test_queue__is_in_order_and_has_each_page_once),
		TEST(test_fetch__goes_by_priority),
		TEST(test_fetch__what_was_dropped_is_fetched_by_the_walk),
		TEST(test_fetch__contents_of_commits_come_out_of_c),
		TEST(test_fetch__policies),
		TEST(test_fetch__a_range_of_ids_is_one_read),
		TEST(test_fetch__the_cache_file_is_not_read_again),
		TEST(test_fetch__what_the_cache_file_knew_is_hot),
		TEST(test_parts__a_new_file_s_table_is_there),
		TEST(test_parts__are_kept_as_they_are_read),
		TEST(test_parts__that_are_damaged_are_read_again),
		TEST(test_fetch__keeps_to_its_bound),
		TEST(test_use__in_memory),
		TEST(test_use__of_a_delta_s_base),
		TEST(test_use__in_the_cache_file),
		TEST(test_use__what_is_evicted_was_wasted),
		TEST(test_fetch__the_watch_does_not_wait_for_it),
		TEST(test_fetch__goes_on_after_failures),
	};
	return planted_result(stage_run("fetch", tests, sizeof tests / sizeof *tests, STAGE_MEMORY));
}
