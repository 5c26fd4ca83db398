/* See kv_calls.h. */
#include "support/kv_calls.h"

#include <string.h>

#include "support/testing.h"

pgs_slice bytes_of(const char *text)
{
	return (pgs_slice){text, text ? strlen(text) : 0};
}

bool slice_is(pgs_slice slice, const char *text)
{
	return slice.size == strlen(text) && (slice.size == 0 || memcmp(slice.data, text, slice.size) == 0);
}

pgs_kv_op op_put(const char *key, const char *value)
{
	return (pgs_kv_op){.kind = PGS_KV_PUT, .key = bytes_of(key), .value = bytes_of(value)};
}

pgs_kv_op op_delete(const char *key, const char *range_end)
{
	return (pgs_kv_op){.kind = PGS_KV_DELETE, .key = bytes_of(key), .range_end = bytes_of(range_end)};
}

pgs_kv_op op_range(const char *key, const char *range_end)
{
	return (pgs_kv_op){.kind = PGS_KV_RANGE, .key = bytes_of(key), .range_end = bytes_of(range_end)};
}

pgs_kv_compare compare_number(const char *key, pgs_kv_target target, pgs_kv_relation relation, uint64_t number)
{
	return (pgs_kv_compare){.key = bytes_of(key), .target = target, .relation = relation, .number = number};
}

pgs_kv_compare compare_value(const char *key, pgs_kv_relation relation, const char *value)
{
	return (pgs_kv_compare){
		.key = bytes_of(key), .target = PGS_KV_VALUE, .relation = relation, .value = bytes_of(value)};
}

pgs_kv_txn txn_of(const pgs_kv_op *ops, size_t count)
{
	return (pgs_kv_txn){.success = ops, .success_count = count};
}

int run_txn(pgs_kv *kv, pgs_kv_txn *txn)
{
	txn->status = 12345; /* every status must be set */
	int result = kv->vtable->txn(kv, txn, 1, 0, NULL);
	return txn->status == result ? result : 12345;
}

int status_of(pgs_kv *kv, const pgs_kv_op *ops, size_t count)
{
	pgs_kv_txn txn = txn_of(ops, count);
	int status = run_txn(kv, &txn);
	kv->vtable->release(kv, &txn, 1);
	return status;
}

uint64_t kv_apply(pgs_kv *kv, const pgs_kv_op *ops, size_t count)
{
	pgs_kv_txn txn = txn_of(ops, count);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_true(txn.succeeded);
	uint64_t revision = txn.revision;
	kv->vtable->release(kv, &txn, 1);
	return revision;
}

uint64_t kv_put(pgs_kv *kv, const char *key, const char *value)
{
	pgs_kv_op op = op_put(key, value);
	return kv_apply(kv, &op, 1);
}

uint64_t kv_delete(pgs_kv *kv, const char *key, const char *range_end)
{
	pgs_kv_op op = op_delete(key, range_end);
	return kv_apply(kv, &op, 1);
}

uint64_t kv_revision(pgs_kv *kv)
{
	pgs_kv_op op = op_range("?", NULL);
	return kv_apply(kv, &op, 1);
}

void kv_compact(pgs_kv *kv, uint64_t revision)
{
	assert_int_equal(kv->vtable->compact(kv, revision, 0, NULL), PGS_OK);
}

void kv_expect_at(pgs_kv *kv, const char *key, uint64_t revision, const char *value)
{
	pgs_kv_op op = op_range(key, NULL);
	op.revision = revision;
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.result_count, 1);
	assert_int_equal(txn.results[0].count, value ? 1 : 0);
	if (value) {
		assert_true(slice_is(txn.results[0].pairs[0].key, key));
		assert_true(slice_is(txn.results[0].pairs[0].value, value));
	}
	kv->vtable->release(kv, &txn, 1);
}

void kv_expect(pgs_kv *kv, const char *key, const char *value)
{
	kv_expect_at(kv, key, 0, value);
}

pgs_kv_pair kv_numbers(pgs_kv *kv, const char *key)
{
	pgs_kv_op op = op_range(key, NULL);
	op.keys_only = true;
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	pgs_kv_pair pair = {0};
	if (txn.results[0].count)
		pair = txn.results[0].pairs[0];
	pair.key = pair.value = NO_END;
	kv->vtable->release(kv, &txn, 1);
	return pair;
}

uint64_t kv_count(pgs_kv *kv)
{
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = {"", 1}, .range_end = PGS_KV_TO_END, .count_only = true};
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	uint64_t total = txn.results[0].total;
	kv->vtable->release(kv, &txn, 1);
	return total;
}
