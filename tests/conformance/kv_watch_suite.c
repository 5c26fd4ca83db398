/* KV conformance: watches. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/kv_suite.h"
#include "support/kv_calls.h"
#include "util/clock.h"

#define WAIT_MS 10000 /* for events that must come; no test waits so long unless it fails */
#define QUIET_MS 100  /* for events that must not come */

static pgs_kv *kv_of(void **state)
{
	return ((kv_fixture *)*state)->kv;
}

static pgs_kv_watch *watch_from(pgs_kv *kv, const char *key, const char *range_end, uint64_t revision)
{
	pgs_kv_watch *watch = NULL;
	assert_int_equal(
		kv->vtable->watch_open(kv, bytes_of(key), bytes_of(range_end), revision, &watch, NULL), PGS_OK);
	assert_non_null(watch);
	return watch;
}

/* The next batch that has events. Batches without any may come before it. */
static pgs_kv_events next_events(pgs_kv *kv, pgs_kv_watch *watch)
{
	pgs_kv_events events = {0};
	uint64_t deadline = pgs__now_ms() + WAIT_MS;
	while (events.count == 0 && pgs__now_ms() < deadline)
		assert_int_equal(kv->vtable->watch_next(watch, WAIT_MS, &events, NULL), PGS_OK);
	assert_true(events.count > 0);
	return events;
}

static void expect_quiet(pgs_kv *kv, pgs_kv_watch *watch)
{
	pgs_kv_events events;
	assert_int_equal(kv->vtable->watch_next(watch, QUIET_MS, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 0);
}

/* "key=value@revision " or "key!@revision " for each event, revisions counted from `base`. */
static void append_events(char *text, size_t size, const pgs_kv_events *events, uint64_t base)
{
	for (size_t i = 0; i < events->count; i++) {
		const pgs_kv_event *event = &events->events[i];
		size_t used = strlen(text);
		snprintf(text + used, size - used, "%.*s%c%.*s@%llu ", (int)event->pair.key.size,
			(const char *)event->pair.key.data, event->deleted ? '!' : '=', (int)event->pair.value.size,
			event->pair.value.size ? (const char *)event->pair.value.data : "",
			(unsigned long long)(event->pair.mod_revision - base));
	}
}

/* Reads batches until they say `expected`; they may be cut anywhere between revisions. */
static void expect_events(pgs_kv *kv, pgs_kv_watch *watch, uint64_t base, const char *expected)
{
	char text[512] = "";
	uint64_t delivered = 0;
	while (strlen(text) < strlen(expected)) {
		pgs_kv_events events = next_events(kv, watch);
		append_events(text, sizeof text, &events, base);
		assert_true(events.events[0].pair.mod_revision > delivered);
		assert_true(events.revision >= events.events[events.count - 1].pair.mod_revision);
		delivered = events.revision;
	}
	assert_string_equal(text, expected);
}

static void test_watch__replays_history_then_follows(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_revision(kv);
	kv_put(kv, "a1", "x");
	kv_put(kv, "a2", "y");
	kv_put(kv, "b1", "z");
	kv_put(kv, "a1", "w");
	pgs_kv_watch *watch = watch_from(kv, "a", "b", base + 2);
	expect_events(kv, watch, base, "a2=y@2 a1=w@4 ");
	expect_quiet(kv, watch);
	kv_put(kv, "b2", "x");
	kv_put(kv, "a3", "v");
	expect_events(kv, watch, base, "a3=v@6 ");
	kv->vtable->watch_close(watch);
}

static void test_watch__tells_deletes(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_revision(kv);
	kv_put(kv, "a1", "x");
	kv_put(kv, "a2", "x");
	kv_delete(kv, "a", "b");
	kv_put(kv, "a1", "y");
	pgs_kv_watch *watch = watch_from(kv, "a", "b", base + 1);
	expect_events(kv, watch, base, "a1=x@1 a2=x@2 a1!@3 a2!@3 a1=y@4 ");
	kv_delete(kv, "a1", NULL);
	pgs_kv_events events = next_events(kv, watch);
	assert_true(events.events[0].deleted);
	assert_int_equal(events.events[0].pair.version, 0);
	assert_int_equal(events.events[0].pair.create_revision, 0);
	assert_int_equal(events.events[0].pair.mod_revision, base + 5);
	kv->vtable->watch_close(watch);
}

static void test_watch__from_zero_is_from_now(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_put(kv, "a", "before");
	pgs_kv_watch *watch = watch_from(kv, "a", NULL, 0);
	expect_quiet(kv, watch);
	kv_put(kv, "a", "after");
	expect_events(kv, watch, base, "a=after@1 ");
	kv->vtable->watch_close(watch);
}

static void test_watch__waits_for_a_future_revision(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_put(kv, "a", "0");
	pgs_kv_watch *watch = watch_from(kv, "a", NULL, base + 3);
	expect_quiet(kv, watch);
	kv_put(kv, "a", "1");
	kv_put(kv, "a", "2");
	expect_quiet(kv, watch);
	kv_put(kv, "a", "3");
	expect_events(kv, watch, base, "a=3@3 ");
	kv->vtable->watch_close(watch);
}

static void test_watch__a_single_key_is_just_that(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_revision(kv);
	pgs_kv_watch *watch = watch_from(kv, "key", NULL, base + 1);
	kv_put(kv, "ke", "1");
	kv_put(kv, "key1", "2");
	kv_put(kv, "key", "3");
	expect_events(kv, watch, base, "key=3@3 ");
	expect_quiet(kv, watch);
	kv->vtable->watch_close(watch);
}

static void test_watch__to_the_end_watches_all_above(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_revision(kv);
	pgs_kv_watch *watch = NULL;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("m"), PGS_KV_TO_END, base + 1, &watch, NULL), PGS_OK);
	kv_put(kv, "l", "1");
	kv_put(kv, "m", "2");
	kv_put(kv, "z", "3");
	expect_events(kv, watch, base, "m=2@2 z=3@3 ");
	kv->vtable->watch_close(watch);
}

static void test_watch__several_see_their_own_ranges(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_revision(kv);
	pgs_kv_watch *a = watch_from(kv, "a", "b", base + 1), *b = watch_from(kv, "b", "c", 0);
	pgs_kv_op ops[] = {op_put("b1", "1"), op_put("a1", "1")};
	kv_apply(kv, ops, 2);
	kv_put(kv, "a2", "2");
	pgs_kv_watch *both = watch_from(kv, "a", "c", base + 1);
	expect_events(kv, a, base, "a1=1@1 a2=2@2 ");
	expect_events(kv, b, base, "b1=1@1 ");
	expect_events(kv, both, base, "a1=1@1 b1=1@1 a2=2@2 "); /* key order within a revision */
	kv->vtable->watch_close(a);
	kv_put(kv, "b2", "3");
	expect_events(kv, b, base, "b2=3@3 ");
	expect_events(kv, both, base, "b2=3@3 ");
	kv->vtable->watch_close(b);
	kv->vtable->watch_close(both);
}

/* Big transactions, enough of them to fill several batches of any implementation. */
static void put_wide_revisions(pgs_kv *kv, size_t revisions, size_t width)
{
	char(*keys)[24] = calloc(width, sizeof *keys);
	pgs_kv_op *ops = calloc(width, sizeof *ops);
	char *value = calloc(1, 4096);
	for (size_t i = 0; i < width; i++) {
		snprintf(keys[i], sizeof keys[i], "w%04zu", (i * 37 + 11) % width); /* not in key order */
		ops[i] = op_put(keys[i], "");
		ops[i].value = (pgs_slice){value, 4096};
	}
	for (size_t i = 0; i < revisions; i++)
		kv_apply(kv, ops, width);
	free(value);
	free(ops);
	free(keys);
}

static void test_watch__never_splits_a_revision(void **state)
{
	enum { REVISIONS = 40 };
	pgs_kv *kv = kv_of(state);
	pgs_kv_limits limits;
	kv->vtable->limits(kv, &limits);
	size_t width = limits.max_txn_ops && limits.max_txn_ops < 101 ? limits.max_txn_ops : 101;
	uint64_t base = kv_revision(kv), delivered = base;
	put_wide_revisions(kv, REVISIONS, width);
	pgs_kv_watch *watch = watch_from(kv, "w", "x", base + 1);
	while (delivered < base + REVISIONS) {
		pgs_kv_events events = next_events(kv, watch);
		assert_int_equal(events.count % width, 0);
		for (size_t i = 0; i < events.count; i++) {
			assert_int_equal(events.events[i].pair.mod_revision, delivered + 1 + i / width);
			char key[8];
			snprintf(key, sizeof key, "w%04u", (unsigned)(i % width));
			assert_true(slice_is(events.events[i].pair.key, key));
		}
		delivered += events.count / width;
		assert_true(events.revision >= delivered);
	}
	kv->vtable->watch_close(watch);
}

/* `revision` never goes back, and what comes later is above it. */
static void test_watch__progress_is_true(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_watch *watch = watch_from(kv, "a", "b", 0);
	uint64_t delivered = 0;
	size_t seen = 0;
	for (unsigned i = 0; i < 50; i++) {
		uint64_t revision = kv_put(kv, i % 3 ? "other" : "a", "1");
		pgs_kv_events events;
		assert_int_equal(kv->vtable->watch_next(watch, i % 2 ? 0 : 5, &events, NULL), PGS_OK);
		if (events.count)
			assert_true(events.events[0].pair.mod_revision > delivered);
		assert_true(events.revision >= delivered);
		assert_true(events.revision <= revision);
		delivered = events.revision;
		seen += events.count;
	}
	while (seen < 17)
		seen += next_events(kv, watch).count;
	assert_int_equal(seen, 17);
	kv->vtable->watch_close(watch);
}

static void test_watch__a_timeout_is_prompt_and_empty(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_watch *watch = watch_from(kv, "a", NULL, 0);
	pgs_kv_events events;
	uint64_t started = pgs__now_ms();
	assert_int_equal(kv->vtable->watch_next(watch, 0, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 0);
	assert_int_equal(kv->vtable->watch_next(watch, 150, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 0);
	assert_true(pgs__now_ms() - started < 3000);
	kv_put(kv, "a", "1");
	next_events(kv, watch); /* the watch lives on */
	kv->vtable->watch_close(watch);
}

typedef struct late_put {
	pgs_kv *kv;
	int status;
} late_put;

static void *put_later(void *arg)
{
	late_put *put = arg;
	pgs__sleep_ms(100, 0);
	pgs_kv_op op = op_put("a", "late");
	put->status = status_of(put->kv, &op, 1);
	return NULL;
}

static void test_watch__wakes_when_something_happens(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_revision(kv), started = pgs__now_ms();
	pgs_kv_watch *watch = watch_from(kv, "a", NULL, 0);
	late_put put = {kv, PGS_EIO};
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, put_later, &put), 0);
	expect_events(kv, watch, base, "a=late@1 ");
	pthread_join(thread, NULL);
	assert_int_equal(put.status, PGS_OK);
	assert_true(pgs__now_ms() - started < WAIT_MS / 2);
	kv->vtable->watch_close(watch);
}

static void test_watch__of_compacted_history_fails_for_good(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_revision(kv);
	kv_put(kv, "a", "1");
	kv_put(kv, "a", "2");
	uint64_t last = kv_put(kv, "a", "3");
	kv_compact(kv, last);
	pgs_kv_watch *watch = NULL;
	pgs_kv_events events;
	int status = kv->vtable->watch_open(kv, bytes_of("a"), NO_END, base + 1, &watch, NULL);
	if (status == PGS_OK) {
		for (int i = 0; i < 2; i++)
			assert_int_equal(kv->vtable->watch_next(watch, WAIT_MS, &events, NULL), PGS_EOLDREV);
		kv->vtable->watch_close(watch);
	} else {
		assert_int_equal(status, PGS_EOLDREV);
		assert_null(watch);
	}
	watch = watch_from(kv, "a", NULL, last); /* the compacted revision itself is still there */
	expect_events(kv, watch, base, "a=3@3 ");
	kv->vtable->watch_close(watch);
}

static void test_watch__a_batch_outlives_compaction(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t base = kv_revision(kv);
	kv_put(kv, "a", "1");
	kv_delete(kv, "a", NULL);
	uint64_t last = kv_put(kv, "b", "1");
	pgs_kv_watch *watch = watch_from(kv, "a", "c", base + 1);
	char text[64] = "";
	pgs_kv_events events = next_events(kv, watch);
	kv_compact(kv, last);
	append_events(text, sizeof text, &events, base);
	assert_memory_equal(text, "a=1@1 ", 6);
	kv->vtable->watch_close(watch);
}

static void test_watch__of_an_empty_key_is_refused(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_watch *watch = NULL;
	assert_int_equal(kv->vtable->watch_open(kv, NO_END, NO_END, 0, &watch, NULL), PGS_EINVAL);
	assert_null(watch);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_watch__replays_history_then_follows),
	cmocka_unit_test(test_watch__tells_deletes),
	cmocka_unit_test(test_watch__from_zero_is_from_now),
	cmocka_unit_test(test_watch__waits_for_a_future_revision),
	cmocka_unit_test(test_watch__a_single_key_is_just_that),
	cmocka_unit_test(test_watch__to_the_end_watches_all_above),
	cmocka_unit_test(test_watch__several_see_their_own_ranges),
	cmocka_unit_test(test_watch__never_splits_a_revision),
	cmocka_unit_test(test_watch__progress_is_true),
	cmocka_unit_test(test_watch__a_timeout_is_prompt_and_empty),
	cmocka_unit_test(test_watch__wakes_when_something_happens),
	cmocka_unit_test(test_watch__of_compacted_history_fails_for_good),
	cmocka_unit_test(test_watch__a_batch_outlives_compaction),
	cmocka_unit_test(test_watch__of_an_empty_key_is_refused),
};

KV_SUITE_PART(kv_watch_part, "watches", tests);
