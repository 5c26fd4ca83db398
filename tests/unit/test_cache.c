/* lib/content/cache.c: entries of several revisions, advancing, eviction and pins. */
#include <stdlib.h>
#include <string.h>

#include "content/cache.h"
#include "support/testing.h"

#define PAGE 512
#define FRAMES 64

static pgs__page_id id_of(uint64_t page, uint64_t n)
{
	pgs__page_id id = {{0}};
	uint32_t group = pgs__page_group(page, PAGE);
	for (int i = 0; i < 4; i++)
		id.bytes[i] = (uint8_t)(group >> (24 - 8 * i));
	memcpy(id.bytes + 4, &n, 8);
	id.bytes[15] = (uint8_t)(page ^ n * 31);
	return id;
}

static pgs__page_ref ref_of(uint64_t page, uint64_t n, uint64_t from)
{
	return (pgs__page_ref){.kind = PGS__POINTER_FULL, .key_revision = from, .from = from, .id = id_of(page, n)};
}

static void put_content(pgs__cache *cache, uint64_t page, uint64_t n)
{
	uint8_t bytes[PAGE];
	pgs__page_id id = id_of(page, n);
	memset(bytes, (int)n, sizeof bytes);
	pgs__cache_put_content(cache, page, &id, bytes);
}

static void put_ref(pgs__cache *cache, uint64_t page, uint64_t n, uint64_t from, uint64_t t)
{
	pgs__page_ref ref = ref_of(page, n, from);
	pgs__cache_put_ref(cache, page, &ref, t);
}

/* Content n at snapshot t; 0 = nothing known. */
static void expect(pgs__cache *cache, uint64_t page, uint64_t t, uint64_t n)
{
	pgs__page_ref ref;
	const void *data;
	pgs__cache_state state = pgs__cache_lookup(cache, page, t, &ref, &data);
	if (n == 0) {
		assert_int_equal(state, PGS__CACHE_MISS);
		return;
	}
	pgs__page_id id = id_of(page, n);
	assert_int_equal(state, PGS__CACHE_CONTENT);
	assert_true(pgs__page_id_equal(&ref.id, &id));
	assert_int_equal(*(const uint8_t *)data, (uint8_t)n);
	assert_true(pgs__cache_owns(cache, data));
	pgs__cache_unpin(cache, data);
}

static int setup(void **state)
{
	pgs__cache *cache;
	assert_int_equal(pgs__cache_new(&cache, PAGE, FRAMES * PAGE), PGS_OK);
	pgs__cache_forget(cache, 10);
	assert_int_equal(pgs__cache_revision(cache), 10);
	*state = cache;
	return 0;
}

static int teardown(void **state)
{
	pgs__cache_free(*state);
	return 0;
}

static void test_cache__old_snapshots_keep_their_pages(void **state)
{
	pgs__cache *cache = *state;
	put_ref(cache, 1, 1, 5, 10);
	put_content(cache, 1, 1);
	put_ref(cache, 2, 7, 6, 10);
	put_content(cache, 2, 7);
	expect(cache, 1, 4, 0);
	expect(cache, 1, 5, 1);
	expect(cache, 1, 10, 1);
	expect(cache, 1, 11, 0);
	assert_true(pgs__cache_advance_begin(cache, 10, 12));
	pgs__cache_freeze(cache, 1, 1, 12);
	pgs__page_ref ref = ref_of(1, 2, 12);
	pgs__cache_replace(cache, 1, &ref, NULL);
	put_content(cache, 1, 2);
	expect(cache, 1, 12, 0); /* not before it is all there */
	expect(cache, 2, 12, 0);
	expect(cache, 1, 10, 1);
	pgs__cache_advance_end(cache);
	expect(cache, 1, 10, 1);
	expect(cache, 1, 11, 1);
	expect(cache, 1, 12, 2);
	expect(cache, 1, 13, 0);
	expect(cache, 2, 12, 7); /* not changed: it went along */
}

static void test_cache__what_an_old_snapshot_learns_is_not_current(void **state)
{
	pgs__cache *cache = *state;
	assert_true(pgs__cache_advance_begin(cache, 10, 12));
	put_ref(cache, 3, 1, 4, 10); /* too late to be frozen, perhaps */
	put_content(cache, 3, 1);
	pgs__cache_advance_end(cache);
	expect(cache, 3, 10, 1);
	expect(cache, 3, 11, 0);
	expect(cache, 3, 12, 0);
	put_ref(cache, 3, 1, 4, 12); /* now it is known */
	expect(cache, 3, 11, 1);
	expect(cache, 3, 12, 1);
	assert_true(pgs__cache_advance_begin(cache, 12, 20));
	pgs__cache_advance_end(cache);
	expect(cache, 3, 20, 1);
	put_ref(cache, 4, 2, 4, 12); /* of a past snapshot */
	put_content(cache, 4, 2);
	expect(cache, 4, 12, 2);
	expect(cache, 4, 20, 0);
}

static void test_cache__advances_only_from_what_is_known(void **state)
{
	pgs__cache *cache = *state;
	assert_false(pgs__cache_advance_begin(cache, 11, 12)); /* commits in between are not known */
	assert_false(pgs__cache_advance_begin(cache, 5, 10));
	assert_false(pgs__cache_advance_begin(cache, 5, 9));
	assert_true(pgs__cache_advance_begin(cache, 5, 11));
	pgs__cache_advance_end(cache);
	assert_int_equal(pgs__cache_revision(cache), 11);
	pgs__cache_forget(cache, 11); /* no way back */
	pgs__cache_forget(cache, 3);
	assert_int_equal(pgs__cache_revision(cache), 11);
}

static void test_cache__forgets_nothing_of_the_past(void **state)
{
	pgs__cache *cache = *state;
	put_ref(cache, 1, 1, 5, 10);
	put_content(cache, 1, 1);
	assert_true(pgs__cache_advance_begin(cache, 10, 15));
	pgs__page_ref ref = ref_of(2, 2, 15); /* younger than what a forgetter may have begun with */
	pgs__cache_replace(cache, 2, &ref, NULL);
	put_content(cache, 2, 2);
	pgs__cache_advance_end(cache);
	pgs__cache_forget(cache, 30);
	expect(cache, 1, 10, 1);
	expect(cache, 1, 15, 1);
	expect(cache, 1, 30, 0);
	expect(cache, 2, 15, 2);
	expect(cache, 2, 16, 0);
	expect(cache, 2, 30, 0);
}

static void test_cache__ranges_freeze_short_and_long(void **state)
{
	pgs__cache *cache = *state;
	for (uint64_t page = 0; page < 20; page++) {
		put_ref(cache, page, page + 1, 5, 10);
		put_content(cache, page, page + 1);
	}
	assert_true(pgs__cache_advance_begin(cache, 10, 12));
	pgs__cache_freeze(cache, 3, 4, 12);
	pgs__cache_freeze(cache, 15, UINT64_MAX - 15, 12);
	pgs__cache_advance_end(cache);
	for (uint64_t page = 0; page < 20; page++) {
		bool frozen = (page >= 3 && page < 7) || page >= 15;
		expect(cache, page, 11, page + 1);
		expect(cache, page, 12, frozen ? 0 : page + 1);
	}
}

static void test_cache__zero_pages_take_no_frame(void **state)
{
	pgs__cache *cache = *state;
	static const uint8_t zeros[PAGE];
	for (uint64_t page = 0; page < 10; page++) {
		pgs__page_ref ref = {.kind = page & 1 ? PGS__POINTER_ZERO : PGS__POINTER_ABSENT, .from = 5};
		const void *data;
		pgs__cache_put_ref(cache, page, &ref, 10);
		assert_int_equal(pgs__cache_lookup(cache, page, 10, &ref, &data), PGS__CACHE_CONTENT);
		assert_memory_equal(data, zeros, PAGE);
		assert_false(pgs__cache_owns(cache, data));
		pgs__cache_unpin(cache, data);
	}
	pgs__cache_stat stat;
	pgs__cache_stat_get(cache, &stat);
	assert_int_equal(stat.used_bytes, 0);
	assert_int_equal(stat.hits, 10);
}

static void test_cache__never_evicts_what_is_pinned(void **state)
{
	pgs__cache *cache = *state;
	const void *pins[FRAMES];
	for (uint64_t page = 0; page < 10; page++) {
		pgs__page_id id = id_of(page, page + 1);
		put_content(cache, page, page + 1);
		pins[page] = pgs__cache_content(cache, page, &id);
		assert_non_null(pins[page]);
		assert_ptr_equal(pgs__cache_content(cache, page, &id), pins[page]); /* twice */
		pgs__cache_unpin(cache, pins[page]);
	}
	for (uint64_t n = 100; n < 2000; n++)
		put_content(cache, n % 50, n % 250 + 1);
	for (uint64_t page = 0; page < 10; page++)
		for (size_t i = 0; i < PAGE; i++)
			assert_int_equal(((const uint8_t *)pins[page])[i], page + 1);
	/* Full of pins it keeps nothing more, and says so by not having it. */
	size_t pinned = 10;
	for (uint64_t n = 5000; pinned < FRAMES && n < 6000; n++) {
		pgs__page_id id = id_of(n, n);
		put_content(cache, n, n);
		pins[pinned] = pgs__cache_content(cache, n, &id);
		if (pins[pinned])
			pinned++;
	}
	assert_int_equal(pinned, FRAMES);
	pgs__page_id id = id_of(7000, 7000);
	put_content(cache, 7000, 7000);
	assert_null(pgs__cache_content(cache, 7000, &id));
	for (size_t i = 0; i < pinned; i++)
		pgs__cache_unpin(cache, pins[i]);
	put_content(cache, 7000, 7000);
	const void *data = pgs__cache_content(cache, 7000, &id);
	assert_non_null(data);
	pgs__cache_unpin(cache, data);
}

static void test_cache__overhead_is_bounded(void **state)
{
	(void)state;
	static const uint64_t sizes[] = {64, 100, 1000, 4096, 5000, 40000};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		pgs__cache *cache;
		pgs__cache_stat stat;
		assert_int_equal(pgs__cache_new(&cache, PAGE, sizes[i] * PAGE), PGS_OK);
		for (uint64_t page = 0; page < 3 * sizes[i]; page++) {
			put_ref(cache, page, page + 1, 5, 10);
			put_content(cache, page, page + 1);
		}
		pgs__cache_stat_get(cache, &stat);
		assert_int_equal(stat.limit_bytes / PAGE > sizes[i], 0);
		uint64_t cached = stat.used_bytes / PAGE;
		assert_true(cached * 10 >= sizes[i] * 8);
		if (sizes[i] >= 1000)
			assert_true(stat.overhead_bytes <= 120 * cached);
		pgs__cache_free(cache);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_cache__old_snapshots_keep_their_pages),
		TEST(test_cache__what_an_old_snapshot_learns_is_not_current),
		TEST(test_cache__advances_only_from_what_is_known),
		TEST(test_cache__forgets_nothing_of_the_past),
		TEST(test_cache__ranges_freeze_short_and_long),
		TEST(test_cache__zero_pages_take_no_frame),
		TEST(test_cache__never_evicts_what_is_pinned),
		TEST(test_cache__overhead_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
