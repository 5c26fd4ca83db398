/* lib/util/meter.c, lib/util/metered.c, pgs_store_operations(): what is counted, and how near the quantiles come. */
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>
#include <pagestore/backends.h>
#include <pagestore/fault.h>

#include "support/operations.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/meter.h"

/* --- the histogram -------------------------------------------------------------------- */

static void keep(void *ctx, const pgs_operation_stat *stat)
{
	*(pgs_operation_stat *)ctx = *stat;
}

static pgs_operation_stat read_meter(const pgs__meter *meter)
{
	pgs_operation_stat s;
	pgs__meter_visit(meter, "some", "thing", keep, &s);
	return s;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static void expect_near(uint64_t told, uint64_t truth)
{
	if (told < truth || told > truth + truth / 8)
		fail_msg("%llu is told for %llu", (unsigned long long)told, (unsigned long long)truth);
}

static void test_meter__quantiles_are_never_below_and_an_eighth_above(void **state)
{
	(void)state;
	uint64_t seed = 88172645463325252u, values[1000];
	for (unsigned shift = 0; shift <= 33; shift++)
		for (size_t count = 1; count <= 1000; count = count * 3 + 1) {
			pgs__meter meter = {0};
			for (size_t i = 0; i < count; i++) {
				seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
				values[i] = seed & ((2ull << shift) - 1);
				pgs__meter_time(&meter, values[i]);
			}
			qsort(values, count, sizeof *values, by_value);
			pgs_operation_stat s = read_meter(&meter);
			assert_int_equal(s.max_us, values[count - 1]);
			expect_near(s.p50_us, values[count - count / 2 - 1]);
			expect_near(s.p99_us, values[count - count / 100 - 1]);
		}
}

static void test_meter__any_latency_has_a_bucket(void **state)
{
	(void)state;
	for (unsigned power = 0; power < 64; power++) {
		pgs__meter meter = {0};
		uint64_t us = 1ull << power;
		pgs__meter_time(&meter, us - 1);
		pgs__meter_time(&meter, us);
		pgs_operation_stat s = read_meter(&meter);
		assert_true(s.p50_us >= us - 1 && s.p50_us <= s.p99_us);
		assert_int_equal(s.max_us, us);
		assert_int_equal(s.p99_us, us);
	}
	pgs__meter never = {0};
	assert_int_equal(read_meter(&never).p99_us, 0);
}

/* --- stores ------------------------------------------------------------------------------ */

static void test_operations__of_a_store_are_its_backends(void **state)
{
	(void)state;
	server s;
	server_start(&s, NULL);
	pgs_store *store = server_open(&s, NULL, NULL);
	pgs_db *db = create_db(store, "db", NULL);
	operation_list before = store_operations(store);
	assert_int_equal(before.count, 10);
	assert_string_equal(before.stats[0].backend, "memory");
	pgs_txn *txn = begin_write(db);
	assert_int_equal(write_seed(txn, 0, 7), PGS_OK);
	commit_ok(txn);
	operation_list now = store_operations(store);
	assert_int_equal(operation_since(&now, &before, "txn").requests, 1);
	assert_true(operation_since(&now, &before, "txn").bytes_sent > TEST_PAGE_SIZE);
	assert_true(operation_since(&now, &before, "read").requests >= 1);
	operations_expect_grown(&now, &before);
	pgs_db_close(db);
	pgs_close(store);
	server_stop(&s);
}

static void test_operations__pass_through_faults(void **state)
{
	(void)state;
	server s;
	pgs_fault *fault;
	server_start(&s, NULL);
	assert_int_equal(pgs_fault_new(&fault, NULL, NULL), PGS_OK);
	pgs_store *store = server_open(&s, fault, NULL);
	operation_list list = store_operations(store);
	assert_true(operation_since(&list, NULL, "read").requests > 0);
	assert_true(operation_since(&list, NULL, "put").requests > 0);
	pgs_close(store);
	pgs_fault_free(fault);
	server_stop(&s);
}

static void none(void *ctx, const pgs_operation_stat *stat)
{
	(void)ctx;
	(void)stat;
}

static void test_operations__need_a_store_and_a_visitor(void **state)
{
	(void)state;
	server s;
	pgs_error err = PGS_ERROR_INIT;
	server_start(&s, NULL);
	pgs_store *store = server_open(&s, NULL, NULL);
	assert_int_equal(pgs_store_operations(NULL, none, NULL, &err), PGS_EINVAL);
	assert_int_equal(pgs_store_operations(store, NULL, NULL, &err), PGS_EINVAL);
	pgs_close(store);
	server_stop(&s);
}

/* --- backends of other versions -------------------------------------------------------------- */

static pgs_kv_vtable kv_slots;
static pgs_blob_vtable blob_slots;

/* Compiled before the slot was: it does not lie there, so what does is never called. */
static pgs_store *open_with_size(uint32_t kv_size, uint32_t blob_size)
{
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	assert_int_equal(pgs_kv_memory_new(&kv, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_new(&blob, NULL), PGS_OK);
	kv_slots = *kv->vtable;
	blob_slots = *blob->vtable;
	kv_slots.struct_size = kv_size;
	blob_slots.struct_size = blob_size;
	kv->vtable = &kv_slots;
	blob->vtable = &blob_slots;
	return pgs_open_with(&store, kv, blob, NULL, NULL) == PGS_OK ? store : NULL;
}

static void test_operations__of_backends_without_them_are_none(void **state)
{
	(void)state;
	pgs_store *store = open_with_size(PGS_KV_VTABLE_LEAST, PGS_BLOB_VTABLE_LEAST);
	assert_non_null(store);
	assert_int_equal(store_operations(store).count, 0);
	pgs_close(store);
	store = open_with_size(sizeof(pgs_kv_vtable), sizeof(pgs_blob_vtable));
	assert_non_null(store);
	kv_slots.operations = NULL;
	assert_int_equal(store_operations(store).count, 5);
	blob_slots.operations = NULL;
	assert_int_equal(store_operations(store).count, 0);
	pgs_close(store);
	assert_null(open_with_size(PGS_KV_VTABLE_LEAST - 1, PGS_BLOB_VTABLE_LEAST));
	assert_null(open_with_size(PGS_KV_VTABLE_LEAST, PGS_BLOB_VTABLE_LEAST - 1));
}

static void visit_short(pgs_kv *kv, pgs_operation_visitor visit, void *ctx)
{
	(void)kv;
	struct {
		uint32_t struct_size;
		const char *backend, *operation;
		uint64_t requests;
		uint8_t beyond[sizeof(pgs_operation_stat)];
	} small = {.struct_size = 32, .backend = "old", .operation = "txn", .requests = 5};
	memset(small.beyond, 0xff, sizeof small.beyond);
	visit(ctx, (const pgs_operation_stat *)&small);
}

static void test_operations__of_a_smaller_struct_end_in_zeros(void **state)
{
	(void)state;
	pgs_store *store = open_with_size(sizeof(pgs_kv_vtable), PGS_BLOB_VTABLE_LEAST);
	kv_slots.operations = visit_short;
	operation_list list = store_operations(store);
	assert_int_equal(list.count, 1);
	assert_string_equal(list.stats[0].backend, "old");
	assert_int_equal(list.stats[0].requests, 5);
	assert_int_equal(list.stats[0].failures, 0);
	assert_int_equal(list.stats[0].max_us, 0);
	pgs_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_meter__quantiles_are_never_below_and_an_eighth_above),
		cmocka_unit_test(test_meter__any_latency_has_a_bucket),
		cmocka_unit_test(test_operations__of_a_store_are_its_backends),
		cmocka_unit_test(test_operations__pass_through_faults),
		cmocka_unit_test(test_operations__need_a_store_and_a_visitor),
		cmocka_unit_test(test_operations__of_backends_without_them_are_none),
		cmocka_unit_test(test_operations__of_a_smaller_struct_end_in_zeros),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
