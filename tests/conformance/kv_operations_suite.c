/* KV conformance: what a backend says it has done, where it counts: pagestore/operations.h. */
#include <string.h>

#include "conformance/kv_suite.h"
#include "support/kv_calls.h"
#include "support/operations.h"

static pgs_kv *counting_kv(void **state)
{
	pgs_kv *kv = ((kv_fixture *)*state)->kv;
	if (!PGS_KV_HAS(kv, operations))
		skip();
	return kv;
}

static uint64_t first_attempts(const operation_list *now, const operation_list *before, const char *name)
{
	pgs_operation_stat s = operation_since(now, before, name);
	return s.requests - s.retries;
}

static void test_kv__each_transaction_is_a_request(void **state)
{
	pgs_kv *kv = counting_kv(state);
	operation_list before = kv_operations(kv);
	kv_put(kv, "a", "12345678");
	operation_list put = kv_operations(kv);
	assert_int_equal(first_attempts(&put, &before, "txn"), 1);
	assert_int_equal(first_attempts(&put, &before, "read"), 0);
	assert_true(operation_since(&put, &before, "txn").bytes_sent >= 9);
	pgs_kv_op get = op_range("a", NULL), puts[] = {op_put("b", "1"), op_put("c", "2")};
	pgs_kv_txn txns[] = {txn_of(&get, 1), txn_of(&puts[0], 1), txn_of(&get, 1), txn_of(&puts[1], 1), txn_of(&get, 1)};
	assert_int_equal(kv->vtable->txn(kv, txns, 5, 0, NULL), PGS_OK);
	kv->vtable->release(kv, txns, 5);
	operation_list all = kv_operations(kv);
	assert_int_equal(first_attempts(&all, &put, "txn"), 2);
	assert_int_equal(first_attempts(&all, &put, "read"), 3);
	assert_true(operation_since(&all, &put, "read").bytes_received >= 3 * 9);
	operations_expect_grown(&put, &before);
	operations_expect_grown(&all, &put);
}

/* A compare that does not hold is an answer. */
static void test_kv__a_lost_compare_is_no_failure(void **state)
{
	pgs_kv *kv = counting_kv(state);
	operation_list before = kv_operations(kv);
	pgs_kv_compare wrong = compare_number("a", PGS_KV_MOD, PGS_KV_GREATER, 0);
	pgs_kv_op put = op_put("a", "1");
	pgs_kv_txn txn = {.compares = &wrong, .compare_count = 1, .success = &put, .success_count = 1};
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_false(txn.succeeded);
	kv->vtable->release(kv, &txn, 1);
	operation_list now = kv_operations(kv);
	pgs_operation_stat s = operation_since(&now, &before, "txn");
	assert_int_equal(s.requests - s.retries, 1);
	assert_int_equal(s.failures, s.retries);
}

static void test_kv__a_watch_is_one_request_while_it_is_open(void **state)
{
	pgs_kv *kv = counting_kv(state);
	pgs_kv_watch *watch;
	pgs_kv_events events = {0};
	uint64_t revision = kv_put(kv, "a", "0");
	operation_list before = kv_operations(kv);
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("a"), NO_END, revision + 1, &watch, NULL), PGS_OK);
	kv_put(kv, "a", "1");
	for (size_t seen = 0; seen < 1; seen += events.count)
		assert_int_equal(kv->vtable->watch_next(watch, 10000, &events, NULL), PGS_OK);
	operation_list now = kv_operations(kv);
	assert_int_equal(first_attempts(&now, &before, "watch"), 1);
	assert_int_equal(first_attempts(&now, &before, "txn"), 1);
	assert_int_equal(kv->vtable->watch_next(watch, 300, &events, NULL), PGS_OK);
	operation_list idle = kv_operations(kv);
	assert_int_equal(all_requests(&idle), all_requests(&now));
	kv->vtable->watch_close(watch);
	operations_expect_grown(&now, &before);
}

static void test_kv__compactions_and_statistics_are_counted(void **state)
{
	pgs_kv *kv = counting_kv(state);
	pgs_kv_stat stat;
	uint64_t revision = kv_put(kv, "a", "1");
	operation_list before = kv_operations(kv);
	kv_compact(kv, revision);
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	operation_list now = kv_operations(kv);
	assert_int_equal(first_attempts(&now, &before, "compact"), 1);
	assert_true(first_attempts(&now, &before, "stat") >= 1);
	assert_int_equal(first_attempts(&now, &before, "txn"), 0);
	operations_expect_grown(&now, &before);
}

/* Only a handle's own. */
static void test_kv__handles_count_apart(void **state)
{
	kv_fixture *fixture = *state;
	pgs_kv *kv = counting_kv(state);
	if (!fixture->factory->share)
		skip();
	pgs_kv *other = fixture->factory->share(fixture->factory->ctx, kv);
	operation_list before = kv_operations(other);
	kv_put(kv, "a", "1");
	operation_list now = kv_operations(other);
	assert_int_equal(all_requests(&now), all_requests(&before));
	other->vtable->close(other);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_kv__each_transaction_is_a_request),
	cmocka_unit_test(test_kv__a_lost_compare_is_no_failure),
	cmocka_unit_test(test_kv__a_watch_is_one_request_while_it_is_open),
	cmocka_unit_test(test_kv__compactions_and_statistics_are_counted),
	cmocka_unit_test(test_kv__handles_count_apart),
};

KV_SUITE_PART(kv_operations_part, "operations", tests);
