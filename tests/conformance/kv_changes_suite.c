/* KV conformance: a number that stays while nothing changes, where a backend has one. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "conformance/kv_suite.h"
#include "support/kv_calls.h"
#include "util/cursor.h"

#define WRITES 300
#define READERS 2

static pgs_kv *telling_kv(void **state)
{
	pgs_kv *kv = ((kv_fixture *)*state)->kv;
	if (!PGS_KV_HAS(kv, changes))
		skip();
	return kv;
}

static uint64_t changes(pgs_kv *kv)
{
	return kv->vtable->changes(kv);
}

static void expect_new(uint64_t *before, uint64_t now)
{
	for (size_t i = 0; i < WRITES && before[i]; i++)
		assert_int_not_equal(before[i], now);
}

/* --- one after the other ------------------------------------------------------------- */

static void test_kv__reads_leave_the_number_alone(void **state)
{
	pgs_kv *kv = telling_kv(state);
	pgs_kv_stat stat;
	kv_put(kv, "a", "1");
	uint64_t number = changes(kv);
	assert_int_not_equal(number, 0);
	for (int i = 0; i < 50; i++) {
		kv_expect(kv, "a", "1");
		kv_expect(kv, "b", NULL);
		assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
		assert_int_equal(changes(kv), number);
	}
}

static void test_kv__a_change_gives_a_new_number_each_time(void **state)
{
	pgs_kv *kv = telling_kv(state);
	uint64_t *numbers = test_calloc(WRITES + 1, sizeof *numbers);
	for (size_t i = 0; i < WRITES; i++) {
		if (i % 3 == 2)
			kv_delete(kv, "a", NULL);
		else
			kv_put(kv, i % 2 ? "a" : "other", "1");
		uint64_t now = changes(kv);
		assert_int_not_equal(now, 0);
		expect_new(numbers, now);
		numbers[i] = now;
		assert_int_equal(changes(kv), now);
	}
	test_free(numbers);
}

static void test_kv__another_handles_changes_count(void **state)
{
	kv_fixture *fixture = *state;
	pgs_kv *kv = telling_kv(state);
	if (!fixture->factory->share)
		skip();
	pgs_kv *other = fixture->factory->share(fixture->factory->ctx, kv);
	assert_true(PGS_KV_HAS(other, changes));
	uint64_t *numbers = test_calloc(WRITES + 1, sizeof *numbers);
	for (size_t i = 0; i < WRITES; i++) {
		kv_put(other, "a", i % 2 ? "odd" : "even");
		uint64_t now = changes(kv);
		expect_new(numbers, now);
		numbers[i] = now;
		kv_expect(kv, "a", i % 2 ? "odd" : "even");
		assert_int_equal(changes(kv), now);
	}
	test_free(numbers);
	other->vtable->close(other);
}

/* --- beside each other ----------------------------------------------------------------- */

typedef struct reader {
	pgs_kv *kv;
	atomic_bool *stop;
	size_t count;
	struct {
		uint64_t number, revision;
	} seen[1 << 16];
	bool failed;
} reader;

static uint64_t latest_revision(pgs_kv *kv)
{
	pgs_kv_op op = op_range("n", NULL);
	pgs_kv_txn txn = txn_of(&op, 1);
	uint64_t revision = run_txn(kv, &txn) == PGS_OK ? txn.revision : 0;
	kv->vtable->release(kv, &txn, 1);
	return revision;
}

/* What is read between two equal numbers is noted under that number. */
static void *note(void *arg)
{
	reader *r = arg;
	while (!atomic_load(r->stop) && r->count < sizeof r->seen / sizeof *r->seen) {
		uint64_t number = changes(r->kv), revision = latest_revision(r->kv);
		r->failed |= revision == 0;
		if (number == 0 || changes(r->kv) != number)
			continue;
		if (r->count && r->seen[r->count - 1].number == number && r->seen[r->count - 1].revision == revision)
			continue;
		r->seen[r->count].number = number;
		r->seen[r->count++].revision = revision;
	}
	return NULL;
}

/* Whoever looked, and when: one number, one revision. */
static size_t contradictions(const reader *a, const reader *b)
{
	size_t found = 0;
	for (size_t i = 0; i < a->count; i++)
		for (size_t k = 0; k < b->count; k++)
			found += a->seen[i].number == b->seen[k].number && a->seen[i].revision != b->seen[k].revision;
	return found;
}

static void test_kv__a_number_stands_for_what_is_read(void **state)
{
	pgs_kv *kv = telling_kv(state);
	kv_fixture *fixture = *state;
	atomic_bool stop = false;
	pthread_t threads[READERS];
	reader *readers[READERS];
	for (size_t i = 0; i < READERS; i++) {
		readers[i] = test_calloc(1, sizeof *readers[i]);
		readers[i]->kv = kv;
		readers[i]->stop = &stop;
		if (i && fixture->factory->share)
			readers[i]->kv = fixture->factory->share(fixture->factory->ctx, kv);
		assert_int_equal(pthread_create(&threads[i], NULL, note, readers[i]), 0);
	}
	size_t bad = 0;
	for (size_t i = 0; i < 4 * WRITES; i++) {
		pgs_kv_op put = op_put("n", "1");
		bad += status_of(kv, &put, 1) != PGS_OK;
	}
	atomic_store(&stop, true);
	for (size_t i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < READERS; i++) {
		bad += readers[i]->failed;
		for (size_t k = 0; k < READERS; k++)
			bad += contradictions(readers[i], readers[k]);
	}
	for (size_t i = 0; i < READERS; i++) {
		if (readers[i]->kv != kv)
			readers[i]->kv->vtable->close(readers[i]->kv);
		test_free(readers[i]);
	}
	assert_int_equal(bad, 0);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_kv__reads_leave_the_number_alone),
	cmocka_unit_test(test_kv__a_change_gives_a_new_number_each_time),
	cmocka_unit_test(test_kv__another_handles_changes_count),
	cmocka_unit_test(test_kv__a_number_stands_for_what_is_read),
};

KV_SUITE_PART(kv_changes_part, "changes", tests);
