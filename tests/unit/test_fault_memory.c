/* backends/fault: running out of memory. */
#include <pagestore/backends.h>
#include <pagestore/fault.h>

#include "support/failing_alloc.h"
#include "support/kv_calls.h"
#include "support/testing.h"

/* A controller and both wrappers; what could not be built is NULL. */
static int build(pgs_fault **fault, pgs_kv **kv, pgs_blob **blob)
{
	pgs_kv *inner;
	pgs_blob *inner_blob;
	*kv = NULL;
	*blob = NULL;
	int status = pgs_fault_new(fault, NULL, NULL);
	if (status == PGS_OK)
		status = pgs_kv_memory_new(&inner, NULL, NULL);
	if (status == PGS_OK)
		status = pgs_fault_wrap_kv(kv, *fault, inner, NULL); /* closes the inner one when it fails */
	if (status == PGS_OK)
		status = pgs_blob_memory_new(&inner_blob, NULL);
	if (status == PGS_OK)
		status = pgs_fault_wrap_blob(blob, *fault, inner_blob, NULL);
	return status;
}

static void test_fault__constructors_out_of_memory_leak_nothing(void **state)
{
	(void)state;
	failing_alloc_install();
	bool failed = true;
	for (size_t nth = 1; failed; nth++) {
		pgs_fault *fault;
		pgs_kv *kv;
		pgs_blob *blob;
		failing_alloc_begin(nth);
		int status = build(&fault, &kv, &blob);
		failed = failing_alloc_end();
		assert_int_equal(status, failed ? PGS_ENOMEM : PGS_OK);
		if (kv)
			kv->vtable->close(kv);
		if (blob)
			blob->vtable->close(blob);
		pgs_fault_free(fault);
		assert_int_equal(failing_alloc_live(), 0);
	}
	failing_alloc_uninstall();
}

static bool delay_with_failure(pgs_fault *fault, pgs_kv *kv, size_t nth)
{
	static char large[3000]; /* more than an arena's first block */
	pgs_kv_op ops[] = {op_put("a", "1"), op_put("b", "2"), op_range("a", "z")};
	ops[1].value = (pgs_slice){large, sizeof large};
	pgs_kv_compare compare = compare_value("c", PGS_KV_EQUAL, "3");
	pgs_kv_txn txns[] = {
		txn_of(ops, 3), {.compares = &compare, .compare_count = 1, .failure = ops, .failure_count = 3}};
	size_t live = failing_alloc_live();
	pgs_fault_at(fault, 1, PGS_FAULT_DELAY);
	failing_alloc_begin(nth);
	int status = kv->vtable->txn(kv, txns, 2, 0, NULL);
	bool failed = failing_alloc_end();
	assert_int_equal(status, failed ? PGS_ENOMEM : PGS_EUNKNOWN);
	assert_int_equal(txns[1].status, status);
	kv->vtable->release(kv, txns, 2);
	if (failed) {
		assert_int_equal(failing_alloc_live(), live);
		assert_int_equal(pgs_fault_deliver(fault), 0); /* refused for good */
	}
	return failed;
}

static void test_fault__a_delay_out_of_memory_is_refused(void **state)
{
	(void)state;
	failing_alloc_install();
	pgs_fault *fault;
	pgs_kv *kv;
	pgs_blob *blob;
	assert_int_equal(build(&fault, &kv, &blob), PGS_OK);
	size_t nth = 1;
	while (delay_with_failure(fault, kv, nth))
		nth++;
	assert_true(nth > 2);
	assert_int_equal(pgs_fault_deliver(fault), 1); /* the last one; of its two, one had a compare that fails */
	assert_int_equal(kv_numbers(kv, "a").version, 2);
	assert_false(delay_with_failure(fault, kv, 0)); /* never delivered: freed with the wrapper */
	kv->vtable->close(kv);
	blob->vtable->close(blob);
	pgs_fault_free(fault);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
}

static void test_fault__lost_replies_are_freed(void **state)
{
	(void)state;
	failing_alloc_install();
	pgs_fault *fault;
	pgs_kv *kv;
	pgs_blob *blob;
	assert_int_equal(build(&fault, &kv, &blob), PGS_OK);
	kv_put(kv, "a", "1");
	size_t live = failing_alloc_live();
	pgs_kv_op op = op_range("a", "b");
	pgs_kv_txn txns[] = {txn_of(&op, 1), txn_of(&op, 1)};
	pgs_fault_at(fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(kv->vtable->txn(kv, txns, 2, 0, NULL), PGS_EUNKNOWN);
	assert_int_equal(failing_alloc_live(), live); /* nobody will release what nobody got */
	pgs_fault_at(fault, 1, PGS_FAULT_DELAY);
	assert_int_equal(kv->vtable->txn(kv, txns, 2, 0, NULL), PGS_EUNKNOWN);
	assert_int_equal(pgs_fault_deliver(fault), 2);
	assert_int_equal(failing_alloc_live(), live);
	kv->vtable->close(kv);
	blob->vtable->close(blob);
	pgs_fault_free(fault);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
}

static void test_fault__a_watch_out_of_memory_leaks_nothing(void **state)
{
	(void)state;
	failing_alloc_install();
	pgs_fault *fault;
	pgs_kv *kv;
	pgs_blob *blob;
	assert_int_equal(build(&fault, &kv, &blob), PGS_OK);
	bool failed = true;
	for (size_t nth = 1; failed; nth++) {
		pgs_kv_watch *watch = NULL;
		size_t live = failing_alloc_live();
		failing_alloc_begin(nth);
		int status = kv->vtable->watch_open(kv, bytes_of("a"), NO_END, 0, &watch, NULL);
		failed = failing_alloc_end();
		assert_int_equal(status, failed ? PGS_ENOMEM : PGS_OK);
		if (watch)
			kv->vtable->watch_close(watch);
		assert_int_equal(failing_alloc_live(), live);
	}
	kv->vtable->close(kv);
	blob->vtable->close(blob);
	pgs_fault_free(fault);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fault__constructors_out_of_memory_leak_nothing),
		cmocka_unit_test(test_fault__a_delay_out_of_memory_is_refused),
		cmocka_unit_test(test_fault__lost_replies_are_freed),
		cmocka_unit_test(test_fault__a_watch_out_of_memory_leaks_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
