/* KV conformance: several threads, several handles, and what is there after close.
 *
 * cmocka's asserts jump, which a thread other than the test's must not do: the
 * threads count what went wrong, and the test looks at the count.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "conformance/kv_suite.h"
#include "support/kv_calls.h"
#include "util/cursor.h"

#define THREADS 4
#define INCREMENTS 100

typedef struct worker {
	pgs_kv *kv;
	atomic_bool *stop;
	size_t done;
	size_t wrong;
} worker;

static pgs_kv *kv_of(void **state)
{
	return ((kv_fixture *)*state)->kv;
}

/* --- compare and increment ---------------------------------------------- */

static uint64_t read_counter(worker *w, uint64_t *mod_revision)
{
	pgs_kv_op op = op_range("counter", NULL);
	pgs_kv_txn txn = txn_of(&op, 1);
	uint64_t value = 0;
	*mod_revision = 0;
	if (run_txn(w->kv, &txn) != PGS_OK) {
		w->wrong++;
	} else if (txn.results[0].count) {
		value = pgs__load_u64be(txn.results[0].pairs[0].value.data);
		*mod_revision = txn.results[0].pairs[0].mod_revision;
	}
	w->kv->vtable->release(w->kv, &txn, 1);
	return value;
}

static bool try_increment(worker *w)
{
	uint64_t mod_revision;
	uint8_t value[8];
	pgs__store_u64be(value, read_counter(w, &mod_revision) + 1);
	pgs_kv_compare unchanged = compare_number("counter", PGS_KV_MOD, PGS_KV_EQUAL, mod_revision);
	pgs_kv_op put = op_put("counter", "");
	put.value = (pgs_slice){value, 8};
	pgs_kv_txn txn = {.compares = &unchanged, .compare_count = 1, .success = &put, .success_count = 1};
	int status = run_txn(w->kv, &txn);
	bool succeeded = status == PGS_OK && txn.succeeded;
	w->wrong += status != PGS_OK;
	w->kv->vtable->release(w->kv, &txn, 1);
	return succeeded;
}

static void *increment(void *arg)
{
	worker *w = arg;
	while (w->done < INCREMENTS && w->wrong == 0)
		w->done += try_increment(w);
	return NULL;
}

static void expect_total(pgs_kv *kv, uint64_t total)
{
	worker reader = {.kv = kv};
	uint64_t mod_revision;
	assert_int_equal(read_counter(&reader, &mod_revision), total);
	assert_int_equal(kv_numbers(kv, "counter").version, total);
	assert_int_equal(reader.wrong, 0);
}

static void run_increments(pgs_kv *const kvs[THREADS])
{
	worker workers[THREADS];
	pthread_t threads[THREADS];
	for (size_t i = 0; i < THREADS; i++) {
		workers[i] = (worker){.kv = kvs[i]};
		assert_int_equal(pthread_create(&threads[i], NULL, increment, &workers[i]), 0);
	}
	size_t wrong = 0;
	for (size_t i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		wrong += workers[i].wrong + (workers[i].done != INCREMENTS);
	}
	assert_int_equal(wrong, 0);
}

static void test_kv__concurrent_increments_are_all_counted(void **state)
{
	pgs_kv *kv = kv_of(state);
	run_increments((pgs_kv *[]){kv, kv, kv, kv});
	expect_total(kv, THREADS * INCREMENTS);
}

/* --- consistent snapshots ----------------------------------------------- */

/* Every transaction writes one value to both ends of the range. */
static void *write_pairs(void *arg)
{
	worker *w = arg;
	char value[16];
	for (; w->done < INCREMENTS && !w->wrong; w->done++) {
		snprintf(value, sizeof value, "%zu", w->done);
		pgs_kv_op ops[] = {op_put("pair-a", value), op_put("pair-z", value)};
		w->wrong += status_of(w->kv, ops, 2) != PGS_OK;
		pgs_kv_op clear = op_delete("pair-", "pair."); /* '.' follows '-' */
		if (w->done % 7 == 0)
			w->wrong += status_of(w->kv, &clear, 1) != PGS_OK;
	}
	return NULL;
}

static bool is_consistent(const pgs_kv_txn *txn)
{
	const pgs_kv_result *range = &txn->results[0], *a = &txn->results[1], *z = &txn->results[2];
	if (range->count != a->count + z->count || a->count != z->count)
		return false;
	if (range->count == 0)
		return true;
	const pgs_kv_pair *first = &range->pairs[0], *last = &range->pairs[1];
	return pgs__slice_equal(first->value, last->value) && first->mod_revision == last->mod_revision &&
	       pgs__slice_equal(first->value, a->pairs[0].value) && first->mod_revision == z->pairs[0].mod_revision &&
	       first->mod_revision <= txn->revision;
}

static void *read_pairs(void *arg)
{
	worker *w = arg;
	while (!atomic_load(w->stop)) {
		pgs_kv_op ops[] = {op_range("pair-", "pair."), op_range("pair-a", NULL), op_range("pair-z", NULL)};
		pgs_kv_txn txn = txn_of(ops, 3);
		if (run_txn(w->kv, &txn) != PGS_OK || !is_consistent(&txn))
			w->wrong++;
		w->kv->vtable->release(w->kv, &txn, 1);
		w->done++;
	}
	return NULL;
}

static void test_kv__readers_see_whole_transactions(void **state)
{
	atomic_bool stop = false;
	worker workers[THREADS];
	pthread_t threads[THREADS];
	for (size_t i = 0; i < THREADS; i++) {
		workers[i] = (worker){.kv = kv_of(state), .stop = &stop};
		void *(*run)(void *) = i < 2 ? write_pairs : read_pairs;
		assert_int_equal(pthread_create(&threads[i], NULL, run, &workers[i]), 0);
	}
	for (size_t i = 0; i < THREADS; i++) {
		if (i == 2)
			atomic_store(&stop, true);
		pthread_join(threads[i], NULL);
	}
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(workers[i].wrong, 0);
	assert_int_equal(workers[0].done + workers[1].done, 2 * INCREMENTS);
}

/* --- watches while others write ----------------------------------------- */

static void test_kv__a_watch_sees_all_that_others_write(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_watch *watch = NULL;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("counter"), NO_END, 0, &watch, NULL), PGS_OK);
	worker workers[2] = {{.kv = kv}, {.kv = kv}};
	pthread_t threads[2];
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, increment, &workers[i]), 0);
	uint64_t seen = 0;
	bool in_order = true;
	pgs_kv_events events = {0};
	int status = PGS_OK;
	while (seen < 2 * INCREMENTS && status == PGS_OK) {
		status = kv->vtable->watch_next(watch, 10000, &events, NULL);
		for (size_t i = 0; status == PGS_OK && i < events.count; i++)
			in_order = in_order && pgs__load_u64be(events.events[i].pair.value.data) == ++seen;
	}
	for (size_t i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(status, PGS_OK);
	assert_true(in_order);
	kv->vtable->watch_close(watch);
}

/* --- handles ------------------------------------------------------------ */

static void test_kv__handles_share_contents(void **state)
{
	kv_fixture *fixture = *state;
	if (!fixture->factory->share)
		skip();
	pgs_kv *first = fixture->kv, *second = fixture->factory->share(fixture->factory->ctx, first);
	assert_non_null(second);
	uint64_t revision = kv_put(first, "a", "1");
	kv_expect(second, "a", "1");
	assert_int_equal(kv_revision(second), revision);
	uint8_t one[16], other[16];
	assert_int_equal(first->vtable->identity(first, one, 0, NULL), PGS_OK);
	assert_int_equal(second->vtable->identity(second, other, 0, NULL), PGS_OK);
	assert_memory_equal(one, other, 16);
	pgs_kv_watch *watch = NULL;
	assert_int_equal(second->vtable->watch_open(second, bytes_of("b"), NO_END, 0, &watch, NULL), PGS_OK);
	kv_put(first, "b", "1");
	pgs_kv_events events = {0};
	assert_int_equal(second->vtable->watch_next(watch, 10000, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 1);
	second->vtable->watch_close(watch);
	run_increments((pgs_kv *[]){first, second, first, second});
	expect_total(second, THREADS * INCREMENTS);
	first->vtable->close(first);
	fixture->kv = second; /* contents live until the last handle is closed */
	kv_expect(second, "a", "1");
}

static void test_kv__contents_outlive_close(void **state)
{
	kv_fixture *fixture = *state;
	if (!fixture->factory->reopen)
		skip();
	uint64_t first = kv_put(fixture->kv, "a", "1"), second = kv_put(fixture->kv, "a", "2");
	uint8_t before[16], after[16];
	assert_int_equal(fixture->kv->vtable->identity(fixture->kv, before, 0, NULL), PGS_OK);
	fixture->kv->vtable->close(fixture->kv);
	fixture->kv = fixture->factory->reopen(fixture->factory->ctx);
	assert_non_null(fixture->kv);
	assert_int_equal(kv_revision(fixture->kv), second);
	kv_expect_at(fixture->kv, "a", first, "1");
	kv_expect(fixture->kv, "a", "2");
	assert_int_equal(fixture->kv->vtable->identity(fixture->kv, after, 0, NULL), PGS_OK);
	assert_memory_equal(before, after, 16);
	assert_int_equal(kv_put(fixture->kv, "a", "3"), second + 1);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_kv__concurrent_increments_are_all_counted),
	cmocka_unit_test(test_kv__readers_see_whole_transactions),
	cmocka_unit_test(test_kv__a_watch_sees_all_that_others_write),
	cmocka_unit_test(test_kv__handles_share_contents),
	cmocka_unit_test(test_kv__contents_outlive_close),
};

KV_SUITE_PART(kv_sharing_part, "threads and handles", tests);
