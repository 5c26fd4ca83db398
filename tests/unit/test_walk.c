/* lib/content/walk.c: every key is met once, in few requests, and no range has many more keys than are wanted. */
#include <stdio.h>
#include <string.h>

#include <pagestore/backends.h>

#include "content/walk.h"
#include "support/guard_kv.h"
#include "support/testing.h"
#include "util/clock.h"
#include "util/cursor.h"

#define PUTS 100
#define MOST_KEYS 4096

typedef struct fixture {
	pgs__backend backend;
	guard_seen seen;
	uint8_t prefix[PGS__PREFIX_SIZE];
	pgs__key put[PUTS];
	size_t put_count;
	uint64_t keys;
	uint64_t page; /* the one met last */
} fixture;

static int setup(void **state)
{
	static const pgs_kv_limits limits = {128, 1572864, 0, 0};
	fixture *f = test_calloc(1, sizeof *f);
	pgs_kv *memory;
	assert_int_equal(pgs_kv_memory_new(&memory, &limits, NULL), PGS_OK);
	f->backend = (pgs__backend){.kv = guard_kv_new(memory, &f->seen), .limits = limits};
	memset(f->prefix, 0x80, sizeof f->prefix);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	f->backend.kv->vtable->close(f->backend.kv);
	test_free(f);
	return 0;
}

static void flush_puts(fixture *f)
{
	pgs_kv_op ops[PUTS];
	pgs_kv_txn txn;
	for (size_t i = 0; i < f->put_count; i++)
		ops[i] = pgs__op_put(pgs__key_slice(&f->put[i]), (pgs_slice){"v", 1});
	if (f->put_count)
		assert_int_equal(pgs__kv_read(&f->backend, &txn, ops, f->put_count, 0, NULL), PGS_OK);
	if (f->put_count)
		pgs__kv_release(&f->backend, &txn, 1);
	f->put_count = 0;
}

static void put(fixture *f, pgs__key key)
{
	f->put[f->put_count++] = key;
	f->keys++;
	if (f->put_count == PUTS)
		flush_puts(f);
}

static void put_pages(fixture *f, uint64_t first, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		put(f, pgs__key_page(f->prefix, first + i));
}

/* Numbers without order, always the same. */
static uint64_t scatter(uint64_t i)
{
	uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u;
	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9u;
	return x ^ x >> 32;
}

static void put_content(fixture *f, uint32_t group, uint64_t i)
{
	pgs__page_id id = {{0}};
	pgs__store_u64be(id.bytes + 8, scatter(i + 7));
	pgs__store_u64be(id.bytes, (uint64_t)group << 32 | (uint32_t)scatter(i));
	put(f, pgs__key_content(f->prefix, &id));
}

static void put_change(fixture *f, int64_t ms, uint64_t i)
{
	uint8_t uuid[16] = {0};
	pgs__store_u64be(uuid, (uint64_t)ms << 16 | (uint16_t)i);
	pgs__store_u64be(uuid + 8, scatter(i));
	put(f, pgs__key_uuid(f->prefix, 'x', uuid));
}

typedef struct met {
	uint64_t count;
	pgs__key last;
	bool rising;
} met;

static int meet(void *ctx, const pgs_kv_pair *pair)
{
	met *m = ctx;
	if (m->count && m->rising)
		assert_true(pgs__slice_compare(pair->key, pgs__key_slice(&m->last)) > 0);
	m->last.size = (uint16_t)pair->key.size;
	memcpy(m->last.bytes, pair->key.data, pair->key.size);
	m->count++;
	return PGS_OK;
}

/* Walk, and count: both meet all keys, in at most so many requests. */
static void expect_walk(fixture *f, char kind, const pgs__key_space *space, size_t page, uint64_t requests)
{
	pgs__walk walk;
	met m = {.rising = kind != 'x'};
	uint64_t total;
	flush_puts(f);
	f->seen = (guard_seen){0};
	pgs__walk_kind(&walk, f->prefix, kind, space, page);
	while (pgs__walk_more(&walk))
		assert_int_equal(pgs__walk_pairs(&walk, &f->backend, true, meet, &m, 0, NULL), PGS_OK);
	assert_int_equal(m.count, f->keys);
	if (f->seen.read.keys > MOST_KEYS)
		fail_msg("%llu keys under one range: %s", (unsigned long long)f->seen.read.keys, f->seen.read.range);
	if (f->seen.requests > requests)
		fail_msg("a walk of %c/ took %llu requests", kind, (unsigned long long)f->seen.requests);
	f->seen = (guard_seen){0};
	pgs__walk_kind(&walk, f->prefix, kind, space, page);
	assert_int_equal(pgs__walk_count(&walk, 1, UINT64_MAX, &total, &f->backend, 0, NULL), PGS_OK);
	assert_int_equal(total, f->keys);
	if (f->seen.read.keys > MOST_KEYS)
		fail_msg("%llu keys under one range: %s", (unsigned long long)f->seen.read.keys, f->seen.read.range);
	if (f->seen.requests > requests)
		fail_msg("counting %c/ took %llu requests", kind, (unsigned long long)f->seen.requests);
}

static void test_walk__of_few_keys_is_one_request(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = 20, .group_pages = 256, .commits = 20};
	static const char kinds[] = "pcxlodarsk";
	for (size_t i = 0; kinds[i]; i++)
		expect_walk(f, kinds[i], &space, 500, 1);
	put_pages(f, 0, 20);
	expect_walk(f, 'p', &space, 500, 1);
}

static void test_walk__of_dense_pages(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = 100000};
	put_pages(f, 0, 100000);
	expect_walk(f, 'p', &space, 500, 205);
	expect_walk(f, 'p', &space, 2000, 60);
}

static void test_walk__of_pages_far_apart(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = ((uint64_t)9 << 40) + 1};
	for (uint64_t i = 0; i < 10; i++)
		put_pages(f, i << 40, 1);
	expect_walk(f, 'p', &space, 500, 100);
}

static void test_walk__of_pages_in_heaps(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = 4000000};
	put_pages(f, 0, 1);
	put_pages(f, 1000000, 20000);
	put_pages(f, 3990000, 10000);
	expect_walk(f, 'p', &space, 500, 250);
}

static void test_walk__beyond_the_page_count(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = 5000};
	put_pages(f, 0, 10);
	put_pages(f, 7000, 3000);
	put_pages(f, UINT64_MAX - 5, 5);
	expect_walk(f, 'p', &space, 500, 40);
}

static void test_walk__of_contents(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = 20000, .group_pages = 256};
	for (uint64_t i = 0; i < 20000; i++)
		put_content(f, (uint32_t)(i % 79), i);
	expect_walk(f, 'c', &space, 256, 120);
}

static void test_walk__of_contents_of_one_group(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = 100, .group_pages = 256, .contents = 20000};
	for (uint64_t i = 0; i < 20000; i++)
		put_content(f, 0, i);
	expect_walk(f, 'c', &space, 256, 120);
}

static void test_walk__of_the_changelog(void **state)
{
	fixture *f = *state;
	int64_t now = pgs__unix_ms(), year = (int64_t)365 * 86400000;
	const pgs__key_space space = {.commits = 10000000};
	for (uint64_t i = 0; i < 20000; i++) /* some of another clock, that goes ahead */
		put_change(f, now - 20000000 + (int64_t)i * 1000 + (i % 1000 ? 0 : 86400000), i);
	put_change(f, now - year, 0);
	put_change(f, now - 2 * year, 1);
	put_change(f, now + year, 2);
	expect_walk(f, 'x', &space, 500, 130);
}

static void test_walk__of_a_changelog_without_hints(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.commits = UINT64_MAX};
	put_change(f, pgs__unix_ms() - 1000, 1);
	put_change(f, 0, 2);
	expect_walk(f, 'x', &space, 500, 15);
}

static void test_walk__of_names(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {0};
	char name[32];
	for (int i = 0; i < 4000; i++) {
		int size = snprintf(name, sizeof name, "tenant-%06d", i * 3);
		put(f, pgs__key_attr(f->prefix, name, (size_t)size));
	}
	expect_walk(f, 'a', &space, 100, 200);
}

static void test_walk__of_levels(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {0};
	for (uint64_t i = 0; i < 4000; i++) {
		pgs__page_id id = {{0}};
		pgs__store_u64be(id.bytes, i << 34 | (uint32_t)scatter(i));
		put(f, pgs__key_level(f->prefix, (uint8_t)(i % 4), &id, &id, "s-1"));
	}
	expect_walk(f, 'l', &space, 500, 60);
}

static void test_walk__with_room_for_one_operation(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = 5000};
	f->backend.limits.max_txn_ops = 1;
	put_pages(f, 0, 10);
	put_pages(f, 4000, 1000);
	flush_puts(f);
	f->backend.limits.max_txn_ops = 1;
	expect_walk(f, 'p', &space, 100, 60);
}

static void test_walk__of_a_single_pair_at_a_time(void **state)
{
	fixture *f = *state;
	const pgs__key_space space = {.page_count = 100};
	put_pages(f, 0, 50);
	put_pages(f, 90, 10);
	expect_walk(f, 'p', &space, 1, 120);
	expect_walk(f, 'p', &space, 3, 60);
}

int main(void)
{
#define WALK_TEST(name) cmocka_unit_test_setup_teardown(test_walk__##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		WALK_TEST(of_few_keys_is_one_request),
		WALK_TEST(of_dense_pages),
		WALK_TEST(of_pages_far_apart),
		WALK_TEST(of_pages_in_heaps),
		WALK_TEST(beyond_the_page_count),
		WALK_TEST(of_contents),
		WALK_TEST(of_contents_of_one_group),
		WALK_TEST(of_the_changelog),
		WALK_TEST(of_a_changelog_without_hints),
		WALK_TEST(of_names),
		WALK_TEST(of_levels),
		WALK_TEST(with_room_for_one_operation),
		WALK_TEST(of_a_single_pair_at_a_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
