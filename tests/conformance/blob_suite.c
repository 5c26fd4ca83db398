/* Blob conformance: everything, on a factory's backend. */
#include "conformance/blob_suite.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/blob_calls.h"
#include "support/operations.h"
#include "util/clock.h"

#define LARGE ((size_t)8 << 20)

typedef struct blob_fixture {
	const blob_factory *factory;
	pgs_blob *blob;
} blob_fixture;

static pgs_blob *blob_of(void **state)
{
	return ((blob_fixture *)*state)->blob;
}

/* --- put and get -------------------------------------------------------- */

static void test_blob__comes_back_as_it_was_put(void **state)
{
	pgs_blob *blob = blob_of(state);
	static const uint64_t sizes[] = {1, 7, 4096, 65537, 1000003};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char name[32];
		snprintf(name, sizeof name, "file-%zu", i);
		assert_int_equal(put_pattern(blob, name, sizes[i], i), PGS_OK);
	}
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char name[32];
		snprintf(name, sizeof name, "file-%zu", i);
		blob_expect_pattern(blob, name, sizes[i], i);
	}
}

static void test_blob__large_ones_come_back(void **state)
{
	pgs_blob *blob = blob_of(state);
	assert_int_equal(put_pattern(blob, "dir/large", LARGE + 5, 42), PGS_OK);
	blob_expect_pattern(blob, "dir/large", LARGE + 5, 42);
}

static void test_blob__empty_ones_exist(void **state)
{
	pgs_blob *blob = blob_of(state);
	blob_expect_absent(blob, "empty");
	assert_int_equal(put_pattern(blob, "empty", 0, 0), PGS_OK);
	blob_expect_pattern(blob, "empty", 0, 0);
	assert_int_equal(get_range(blob, "empty", 0, NULL, 0), PGS_OK);
	char byte;
	assert_int_equal(get_range(blob, "empty", 0, &byte, 1), PGS_ECORRUPT);
}

static void test_blob__ranges_are_exact(void **state)
{
	enum { SIZE = 100000 };
	pgs_blob *blob = blob_of(state);
	assert_int_equal(put_pattern(blob, "a", SIZE, 3), PGS_OK);
	static const struct {
		uint64_t offset;
		size_t size;
	} ranges[] = {{0, 1}, {0, 100}, {1, 4095}, {4096, 4096}, {SIZE - 1, 1}, {SIZE - 777, 777}, {50, 0}, {SIZE, 0}};
	uint8_t bytes[4096 + 1];
	for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
		memset(bytes, 0xee, sizeof bytes);
		assert_int_equal(get_range(blob, "a", ranges[i].offset, bytes, ranges[i].size), PGS_OK);
		for (size_t j = 0; j < ranges[i].size; j++)
			assert_int_equal(bytes[j], pattern_byte(3, ranges[i].offset + j));
		assert_int_equal(bytes[ranges[i].size], 0xee); /* and nothing beyond */
	}
}

static void test_blob__a_range_past_the_end_is_corrupt(void **state)
{
	pgs_blob *blob = blob_of(state);
	assert_int_equal(put_pattern(blob, "a", 100, 1), PGS_OK);
	uint8_t bytes[200];
	assert_int_equal(get_range(blob, "a", 0, bytes, 101), PGS_ECORRUPT);
	assert_int_equal(get_range(blob, "a", 99, bytes, 2), PGS_ECORRUPT);
	assert_int_equal(get_range(blob, "a", 100, bytes, 1), PGS_ECORRUPT);
	assert_int_equal(get_range(blob, "a", 5000, bytes, 1), PGS_ECORRUPT);
	assert_int_equal(get_range(blob, "a", UINT64_MAX - 3, bytes, 100), PGS_ECORRUPT);
	assert_int_equal(get_range(blob, "a", 0, bytes, 100), PGS_OK);
}

static void test_blob__missing_ones_are_not_found(void **state)
{
	pgs_blob *blob = blob_of(state);
	assert_int_equal(put_pattern(blob, "a/b", 10, 1), PGS_OK);
	blob_expect_absent(blob, "a/c");
	blob_expect_absent(blob, "a/b2");
	assert_int_equal(get_range(blob, "none", 0, NULL, 0), PGS_ENOTFOUND);
}

static void test_blob__ranges_have_their_own_status(void **state)
{
	pgs_blob *blob = blob_of(state);
	assert_int_equal(put_pattern(blob, "a", 1000, 1), PGS_OK);
	assert_int_equal(put_pattern(blob, "b", 1000, 2), PGS_OK);
	uint8_t bytes[6][100];
	pgs_blob_range ranges[] = {
		{"a", 0, 100, bytes[0], 1},
		{"missing", 0, 100, bytes[1], 1},
		{"b", 500, 100, bytes[2], 1},
		{"b", 950, 100, bytes[3], 1},
		{"bad//name", 0, 100, bytes[4], 1},
		{"a", 900, 100, bytes[5], 1},
	};
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(blob->vtable->get(blob, ranges, 6, 0, &err), PGS_ENOTFOUND); /* the first that failed */
	assert_int_equal(err.code, PGS_ENOTFOUND);
	static const int expected[] = {PGS_OK, PGS_ENOTFOUND, PGS_OK, PGS_ECORRUPT, PGS_EINVAL, PGS_OK};
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(ranges[i].status, expected[i]);
	for (size_t i = 0; i < 100; i++) {
		assert_int_equal(bytes[0][i], pattern_byte(1, i));
		assert_int_equal(bytes[2][i], pattern_byte(2, 500 + i));
		assert_int_equal(bytes[5][i], pattern_byte(1, 900 + i));
	}
	assert_int_equal(blob->vtable->get(blob, NULL, 0, 0, NULL), PGS_OK);
}

static void test_blob__many_ranges_in_one_call(void **state)
{
	enum { BLOBS = 10, RANGES = 500 };
	pgs_blob *blob = blob_of(state);
	char names[BLOBS][16];
	for (size_t i = 0; i < BLOBS; i++) {
		snprintf(names[i], sizeof names[i], "many/%zu", i);
		assert_int_equal(put_pattern(blob, names[i], 10000, i), PGS_OK);
	}
	pgs_blob_range *ranges = calloc(RANGES, sizeof *ranges);
	uint8_t(*bytes)[64] = calloc(RANGES, sizeof *bytes);
	for (size_t i = 0; i < RANGES; i++)
		ranges[i] = (pgs_blob_range){names[i * 7 % BLOBS], i * 131 % 9900, 1 + i % 64, bytes[i], 1};
	assert_int_equal(blob->vtable->get(blob, ranges, RANGES, 0, NULL), PGS_OK);
	for (size_t i = 0; i < RANGES; i++)
		for (size_t j = 0; j < ranges[i].size; j++)
			assert_int_equal(bytes[i][j], pattern_byte(i * 7 % BLOBS, ranges[i].offset + j));
	free(ranges);
	free(bytes);
}

/* --- B1, B2: whole or not at all ---------------------------------------- */

static void test_blob__a_failing_source_leaves_nothing(void **state)
{
	pgs_blob *blob = blob_of(state);
	static const int statuses[] = {PGS_EIO, PGS_ECORRUPT, PGS_EOLDREV};
	static const uint64_t fail_at[] = {1, 5000, LARGE - 1};
	for (size_t i = 0; i < 3; i++) {
		pattern_source source = {.seed = 1, .fail_at = fail_at[i], .status = statuses[i]};
		assert_int_equal(blob->vtable->put(blob, "torn", LARGE, pattern_read, &source, 0, NULL), statuses[i]);
		blob_expect_absent(blob, "torn");
	}
	assert_int_equal(put_pattern(blob, "torn", 1000, 2), PGS_OK);
	blob_expect_pattern(blob, "torn", 1000, 2);
}

static void test_blob__may_be_put_twice(void **state)
{
	pgs_blob *blob = blob_of(state);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(put_pattern(blob, "a", 5000, 1), PGS_OK);
		blob_expect_pattern(blob, "a", 5000, 1);
	}
}

/* --- B3: names ---------------------------------------------------------- */

static void test_blob__names_are_checked(void **state)
{
	pgs_blob *blob = blob_of(state);
	char long_name[PGS_BLOB_NAME_MAX + 2];
	memset(long_name, 'n', sizeof long_name - 1);
	long_name[sizeof long_name - 1] = '\0';
	const char *const bad[] = {"", "/", "/a", "a/", "a//b", ".", "..", "a/.", "../a", "a/../b", "a b", "a\\b",
		"a:b", "a\nb", "\xc3\xa9", "*", long_name};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		uint64_t size;
		char byte;
		assert_int_equal(put_text(blob, bad[i], "x"), PGS_EINVAL);
		assert_int_equal(get_range(blob, bad[i], 0, &byte, 1), PGS_EINVAL);
		assert_int_equal(stat_size(blob, bad[i], &size), PGS_EINVAL);
		assert_int_equal(blob->vtable->remove(blob, bad[i], 0, NULL), PGS_EINVAL);
	}
	long_name[PGS_BLOB_NAME_MAX] = '\0';
	const char *const good[] = {"a", "...", ".a", "..a", "a..", "A-Z_0.9", "x/b/c/d", "-", "_/.x", long_name};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		assert_int_equal(put_text(blob, good[i], good[i][0] == 'n' ? "n" : good[i]), PGS_OK);
		blob_expect_text(blob, good[i], good[i][0] == 'n' ? "n" : good[i]);
	}
}

/* --- B5: lists ---------------------------------------------------------- */

typedef struct listing {
	char text[512];
	size_t stop_after; /* 0 = never */
	int stop_with;
	size_t count;
} listing;

static int add_to_listing(void *ctx, const char *name, uint64_t size_bytes)
{
	listing *list = ctx;
	size_t used = strlen(list->text);
	snprintf(list->text + used, sizeof list->text - used, "%s:%u ", name, (unsigned)size_bytes);
	return ++list->count == list->stop_after ? list->stop_with : 0;
}

static void expect_list(pgs_blob *blob, const char *prefix, const char *expected)
{
	listing list = {.stop_after = 0};
	assert_int_equal(blob->vtable->list(blob, prefix, add_to_listing, &list, 0, NULL), PGS_OK);
	assert_string_equal(list.text, expected);
}

static void put_for_lists(pgs_blob *blob)
{
	/* '-' and '.' sort below '/', so a directory's order is not the names' order. */
	static const char *const names[] = {"b/2", "a0", "a/x", "a-1", "b/10", "a.z", "B", "c/d/e", "a/w/deep", "b/1"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		assert_int_equal(put_text(blob, names[i], names[i]), PGS_OK);
}

static void test_blob__lists_are_in_order(void **state)
{
	pgs_blob *blob = blob_of(state);
	expect_list(blob, "", "");
	put_for_lists(blob);
	expect_list(blob, "", "B:1 a-1:3 a.z:3 a/w/deep:8 a/x:3 a0:2 b/1:3 b/10:4 b/2:3 c/d/e:5 ");
}

static void test_blob__lists_take_any_prefix(void **state)
{
	pgs_blob *blob = blob_of(state);
	put_for_lists(blob);
	expect_list(blob, "a", "a-1:3 a.z:3 a/w/deep:8 a/x:3 a0:2 ");
	expect_list(blob, "a/", "a/w/deep:8 a/x:3 ");
	expect_list(blob, "b/1", "b/1:3 b/10:4 ");
	expect_list(blob, "c/d/e", "c/d/e:5 ");
	expect_list(blob, "c/d/ee", "");
	expect_list(blob, "c/d/", "c/d/e:5 ");
	expect_list(blob, "zzz", "");
}

static void test_blob__lists_stop_when_told(void **state)
{
	pgs_blob *blob = blob_of(state);
	put_for_lists(blob);
	listing list = {.stop_after = 2, .stop_with = 77};
	assert_int_equal(blob->vtable->list(blob, "a", add_to_listing, &list, 0, NULL), 77);
	assert_string_equal(list.text, "a-1:3 a.z:3 ");
	list = (listing){.stop_after = 1, .stop_with = PGS_EIO};
	assert_int_equal(blob->vtable->list(blob, "", add_to_listing, &list, 0, NULL), PGS_EIO);
	assert_int_equal(list.count, 1);
}

typedef struct removing {
	pgs_blob *blob;
	size_t removed;
} removing;

static int remove_listed(void *ctx, const char *name, uint64_t size_bytes)
{
	removing *r = ctx;
	(void)size_bytes;
	r->removed++;
	return r->blob->vtable->remove(r->blob, name, 0, NULL);
}

/* No lock is held while the lister runs. */
static void test_blob__a_lister_may_remove(void **state)
{
	pgs_blob *blob = blob_of(state);
	put_for_lists(blob);
	removing r = {blob, 0};
	assert_int_equal(blob->vtable->list(blob, "", remove_listed, &r, 0, NULL), PGS_OK);
	assert_int_equal(r.removed, 10);
	expect_list(blob, "", "");
}

typedef struct nested_source {
	pgs_blob *blob;
	int status;
} nested_source;

static int put_inside(void *ctx, uint64_t offset, void *buf, size_t size)
{
	nested_source *source = ctx;
	(void)offset;
	memset(buf, 'x', size);
	source->status = put_text(source->blob, "inner", "inner");
	return PGS_OK;
}

/* No lock is held while the source runs, nor is anything visible yet. */
static void test_blob__a_source_may_use_the_store(void **state)
{
	pgs_blob *blob = blob_of(state);
	nested_source source = {blob, PGS_EIO};
	assert_int_equal(blob->vtable->put(blob, "outer", 5, put_inside, &source, 0, NULL), PGS_OK);
	assert_int_equal(source.status, PGS_OK);
	blob_expect_text(blob, "outer", "xxxxx");
	blob_expect_text(blob, "inner", "inner");
}

/* --- B6: removing ------------------------------------------------------- */

static void test_blob__removing_twice_is_fine(void **state)
{
	pgs_blob *blob = blob_of(state);
	assert_int_equal(put_text(blob, "d/a", "1"), PGS_OK);
	assert_int_equal(put_text(blob, "d/b", "2"), PGS_OK);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(blob->vtable->remove(blob, "d/a", 0, NULL), PGS_OK);
		blob_expect_absent(blob, "d/a");
	}
	assert_int_equal(blob->vtable->remove(blob, "never/was", 0, NULL), PGS_OK);
	blob_expect_text(blob, "d/b", "2");
	expect_list(blob, "", "d/b:1 ");
	assert_int_equal(put_text(blob, "d/a", "1"), PGS_OK);
	blob_expect_text(blob, "d/a", "1");
}

/* --- deadlines, threads, handles ---------------------------------------- */

static void expect_late(int status)
{
	if (status != PGS_OK && status != PGS_ETIMEOUT)
		fail_msg("a past deadline gave %d", status);
}

static void test_blob__a_past_deadline_never_hangs(void **state)
{
	pgs_blob *blob = blob_of(state);
	assert_int_equal(put_text(blob, "a", "text"), PGS_OK);
	uint64_t past = pgs__now_ms() - 10, started = pgs__now_ms(), size;
	pattern_source source = {.seed = 1};
	listing list = {.stop_after = 0};
	char bytes[4];
	pgs_blob_range range = {"a", 0, 4, bytes, 1};
	expect_late(blob->vtable->put(blob, "b", 100, pattern_read, &source, past, NULL));
	expect_late(blob->vtable->get(blob, &range, 1, past, NULL));
	expect_late(range.status);
	expect_late(blob->vtable->stat(blob, "a", &size, past, NULL));
	expect_late(blob->vtable->list(blob, "", add_to_listing, &list, past, NULL));
	expect_late(blob->vtable->remove(blob, "none", past, NULL));
	assert_true(pgs__now_ms() - started < 5000);
	assert_int_equal(blob->vtable->get(blob, &range, 1, pgs__now_ms() + 60000, NULL), PGS_OK);
}

typedef struct worker {
	pgs_blob *blob;
	unsigned number;
	size_t wrong;
} worker;

/* Each thread has names of its own, and one that all of them put, read and remove. */
static void *work(void *arg)
{
	worker *w = arg;
	uint8_t bytes[3000];
	char name[32];
	for (unsigned round = 0; round < 40; round++) {
		snprintf(name, sizeof name, "t%u/%u", w->number, round);
		w->wrong += put_pattern(w->blob, name, 3000, round) != PGS_OK;
		w->wrong += put_pattern(w->blob, "shared", 3000, 7) != PGS_OK;
		w->wrong += get_range(w->blob, name, 0, bytes, 3000) != PGS_OK;
		w->wrong += bytes[2999] != pattern_byte(round, 2999);
		int status = get_range(w->blob, "shared", 0, bytes, 3000);
		w->wrong += status != PGS_OK && status != PGS_ENOTFOUND;
		w->wrong +=
			status == PGS_OK && (bytes[0] != pattern_byte(7, 0) || bytes[2999] != pattern_byte(7, 2999));
		w->wrong += round % 3 == 0 && w->blob->vtable->remove(w->blob, "shared", 0, NULL) != PGS_OK;
		listing list = {.stop_after = 5, .stop_with = 1};
		w->wrong += w->blob->vtable->list(w->blob, "t", add_to_listing, &list, 0, NULL) < 0;
	}
	return NULL;
}

static void test_blob__threads_do_not_disturb_each_other(void **state)
{
	worker workers[4];
	pthread_t threads[4];
	for (unsigned i = 0; i < 4; i++) {
		workers[i] = (worker){blob_of(state), i, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	size_t wrong = 0;
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		wrong += workers[i].wrong;
	}
	assert_int_equal(wrong, 0);
	blob_expect_pattern(blob_of(state), "t3/39", 3000, 39);
}

static void test_blob__handles_share_contents(void **state)
{
	blob_fixture *fixture = *state;
	if (!fixture->factory->share)
		skip();
	pgs_blob *second = fixture->factory->share(fixture->factory->ctx, fixture->blob);
	assert_non_null(second);
	assert_int_equal(put_text(fixture->blob, "a", "1"), PGS_OK);
	blob_expect_text(second, "a", "1");
	assert_int_equal(second->vtable->remove(second, "a", 0, NULL), PGS_OK);
	blob_expect_absent(fixture->blob, "a");
	assert_int_equal(put_text(fixture->blob, "b", "2"), PGS_OK);
	fixture->blob->vtable->close(fixture->blob);
	fixture->blob = second;
	blob_expect_text(second, "b", "2");
}

static void test_blob__contents_outlive_close(void **state)
{
	blob_fixture *fixture = *state;
	if (!fixture->factory->reopen)
		skip();
	assert_int_equal(put_pattern(fixture->blob, "a/b", 100000, 9), PGS_OK);
	fixture->blob->vtable->close(fixture->blob);
	fixture->blob = fixture->factory->reopen(fixture->factory->ctx);
	assert_non_null(fixture->blob);
	blob_expect_pattern(fixture->blob, "a/b", 100000, 9);
	expect_list(fixture->blob, "", "a/b:100000 ");
}

/* --- what is counted ------------------------------------------------------ */

static uint64_t first_attempts(const operation_list *now, const operation_list *before, const char *name)
{
	pgs_operation_stat s = operation_since(now, before, name);
	return s.requests - s.retries;
}

static void test_blob__operations_are_counted(void **state)
{
	pgs_blob *blob = ((blob_fixture *)*state)->blob;
	uint8_t bytes[100];
	uint64_t size;
	pgs_blob_range ranges[] = {{.name = "a", .size = 60, .buffer = bytes}, {.name = "a", .size = 40, .buffer = bytes}};
	if (!PGS_BLOB_HAS(blob, operations))
		skip();
	operation_list before = blob_operations(blob);
	assert_int_equal(put_pattern(blob, "a", 1000, 1), PGS_OK);
	assert_int_equal(blob->vtable->get(blob, ranges, 2, 0, NULL), PGS_OK);
	assert_int_equal(stat_size(blob, "a", &size), PGS_OK);
	expect_list(blob, "", "a:1000 ");
	operation_list now = blob_operations(blob);
	assert_int_equal(first_attempts(&now, &before, "put"), 1);
	assert_int_equal(first_attempts(&now, &before, "get"), 2);
	assert_int_equal(first_attempts(&now, &before, "head"), 1);
	assert_int_equal(first_attempts(&now, &before, "list"), 1);
	assert_int_equal(first_attempts(&now, &before, "delete"), 0);
	assert_true(operation_since(&now, &before, "put").bytes_sent >= 1000);
	assert_true(operation_since(&now, &before, "get").bytes_received >= 100);
	assert_int_equal(get_range(blob, "none", 0, bytes, 1), PGS_ENOTFOUND);
	assert_int_equal(blob->vtable->remove(blob, "a", 0, NULL), PGS_OK);
	operation_list after = blob_operations(blob);
	assert_true(operation_since(&after, &now, "get").failures >= 1);
	assert_int_equal(first_attempts(&after, &now, "delete"), 1);
	assert_int_equal(first_attempts(&after, &now, "put"), 0);
	operations_expect_grown(&now, &before);
	operations_expect_grown(&after, &now);
}

/* --- running ------------------------------------------------------------ */

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_blob__comes_back_as_it_was_put),
	cmocka_unit_test(test_blob__large_ones_come_back),
	cmocka_unit_test(test_blob__empty_ones_exist),
	cmocka_unit_test(test_blob__ranges_are_exact),
	cmocka_unit_test(test_blob__a_range_past_the_end_is_corrupt),
	cmocka_unit_test(test_blob__missing_ones_are_not_found),
	cmocka_unit_test(test_blob__ranges_have_their_own_status),
	cmocka_unit_test(test_blob__many_ranges_in_one_call),
	cmocka_unit_test(test_blob__a_failing_source_leaves_nothing),
	cmocka_unit_test(test_blob__may_be_put_twice),
	cmocka_unit_test(test_blob__names_are_checked),
	cmocka_unit_test(test_blob__lists_are_in_order),
	cmocka_unit_test(test_blob__lists_take_any_prefix),
	cmocka_unit_test(test_blob__lists_stop_when_told),
	cmocka_unit_test(test_blob__a_lister_may_remove),
	cmocka_unit_test(test_blob__a_source_may_use_the_store),
	cmocka_unit_test(test_blob__removing_twice_is_fine),
	cmocka_unit_test(test_blob__a_past_deadline_never_hangs),
	cmocka_unit_test(test_blob__threads_do_not_disturb_each_other),
	cmocka_unit_test(test_blob__handles_share_contents),
	cmocka_unit_test(test_blob__contents_outlive_close),
	cmocka_unit_test(test_blob__operations_are_counted),
};

static int open_fixture(void **state)
{
	const blob_factory *factory = *state;
	blob_fixture *fixture = test_calloc(1, sizeof *fixture);
	fixture->factory = factory;
	fixture->blob = factory->open(factory->ctx);
	*state = fixture;
	return fixture->blob ? 0 : -1;
}

static int close_fixture(void **state)
{
	blob_fixture *fixture = *state;
	if (fixture->blob)
		fixture->blob->vtable->close(fixture->blob);
	if (fixture->factory->cleanup)
		fixture->factory->cleanup(fixture->factory->ctx);
	test_free(fixture);
	return 0;
}

int blob_suite_run(const blob_factory *factory)
{
	struct CMUnitTest runnable[sizeof tests / sizeof *tests];
	char name[128];
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
		runnable[i] = tests[i];
		runnable[i].setup_func = open_fixture;
		runnable[i].teardown_func = close_fixture;
		runnable[i].initial_state = (void *)factory;
	}
	snprintf(name, sizeof name, "%s: blobs", factory->name);
	return _cmocka_run_group_tests(name, runnable, sizeof tests / sizeof *tests, NULL, NULL);
}
