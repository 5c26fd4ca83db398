/* Answers of etcd's gateway: whatever they are, what is made of them lies within them. */
#include "../backends/etcd/etcd.h"
#include "fuzz.h"

/* Reads every byte that a result promises: the sanitizer sees where they are. */
static unsigned touch(const pgs_kv_result *result)
{
	unsigned sum = 0;
	for (size_t i = 0; i < result->count; i++) {
		const pgs_slice parts[] = {result->pairs[i].key, result->pairs[i].value};
		CHECK(parts[0].size > 0);
		for (size_t k = 0; k < 2; k++)
			for (size_t at = 0; at < parts[k].size; at++)
				sum += ((const uint8_t *)parts[k].data)[at];
	}
	return sum;
}

static void check_result_of(int result, const pgs_kv_txn *txn)
{
	CHECK(result == PGS_OK || result == PGS_ECORRUPT);
	CHECK(result == PGS_OK || !txn->response);
	for (size_t i = 0; i < txn->result_count; i++)
		touch(&txn->results[i]);
}

static pgs__buffer copy_of(const uint8_t *data, size_t size)
{
	pgs__buffer b = {0};
	pgs__put_bytes(&b, data, size);
	return b;
}

static void decode(pgs__etcd *e, pgs_kv_txn *txn, pgs__etcd_decoder *decoder, const uint8_t *data, size_t size)
{
	pgs__etcd_call call = {.ctx = txn};
	call.request.answer = copy_of(data, size);
	int result = decoder(e, &call);
	check_result_of(result, txn);
	if (result == PGS_OK && txn->result_count) { /* and as one more page of it */
		pgs__etcd_page page = {txn->response, &txn->results[0]};
		pgs__etcd_call next = {.ctx = &page};
		size_t before = txn->results[0].count;
		next.request.answer = copy_of(data, size);
		if (pgs__etcd_decode_page(e, &next) != PGS_OK)
			CHECK(txn->results[0].count == before);
		touch(&txn->results[0]);
		pgs__etcd_call_free(&next);
	}
	pgs__etcd_drop_response(txn);
	pgs__etcd_call_free(&call);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const pgs_kv_op ops[] = {
		{.kind = PGS_KV_RANGE, .key = {"a", 1}, .range_end = {"z", 1}},
		{.kind = PGS_KV_PUT, .key = {"b", 1}},
		{.kind = PGS_KV_DELETE, .key = {"c", 1}},
		{.kind = PGS_KV_RANGE, .key = {"d", 1}, .count_only = true},
	};
	pgs__etcd e = {.prefix = {"/r/", 3}};
	for (size_t count = 0; count <= 4; count++) {
		pgs_kv_txn txn = {.success = ops, .success_count = count, .failure = ops, .failure_count = 1};
		decode(&e, &txn, pgs__etcd_decode_txn, data, size);
	}
	pgs_kv_txn one = {.success = ops, .success_count = 1};
	decode(&e, &one, pgs__etcd_decode_range, data, size);
	return 0;
}
