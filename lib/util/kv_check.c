/* Rules K3 (no overlapping changes) and K4 (limits, empty keys). */
#include "util/kv_check.h"

#include <stdlib.h>

#include "util/alloc.h"
#include "util/cursor.h"
#include "util/error.h"

#define SMALL 64 /* puts that are sorted on the stack: a usual commit's */

typedef struct checker {
	const pgs_kv_limits *limits;
	uint64_t bytes; /* keys and values so far */
	pgs_error *err;
} checker;

static int check_key(checker *c, pgs_slice key, pgs_slice range_end)
{
	size_t max = c->limits->max_key_bytes;
	if (key.size == 0)
		return pgs__error(c->err, PGS_EINVAL, "a key is empty");
	if (max && (key.size > max || range_end.size > max))
		return pgs__error(c->err, PGS_ELIMIT, "a key or a range's end has more than %zu bytes", max);
	c->bytes += key.size + range_end.size;
	return PGS_OK;
}

static int check_value(checker *c, pgs_slice value)
{
	size_t max = c->limits->max_value_bytes;
	if (max && value.size > max)
		return pgs__error(c->err, PGS_ELIMIT, "a value of %zu bytes, more than %zu", value.size, max);
	c->bytes += value.size;
	return PGS_OK;
}

static int check_compare(checker *c, const pgs_kv_compare *compare)
{
	if (compare->target < PGS_KV_MOD || compare->target > PGS_KV_VALUE || compare->relation < PGS_KV_EQUAL ||
		compare->relation > PGS_KV_GREATER)
		return pgs__error(c->err, PGS_EINVAL, "a compare of unknown target or relation");
	int status = check_key(c, compare->key, compare->range_end);
	if (status == PGS_OK && compare->target == PGS_KV_VALUE)
		status = check_value(c, compare->value);
	return status;
}

static int check_op(checker *c, const pgs_kv_op *op)
{
	switch (op->kind) {
	case PGS_KV_PUT: {
		int status = check_key(c, op->key, (pgs_slice){NULL, 0});
		return status == PGS_OK ? check_value(c, op->value) : status;
	}
	case PGS_KV_DELETE:
	case PGS_KV_RANGE:
		return check_key(c, op->key, op->range_end);
	}
	return pgs__error(c->err, PGS_EINVAL, "an operation of unknown kind %d", (int)op->kind);
}

static int by_key(const void *a, const void *b)
{
	const pgs_kv_op *const *x = a, *const *y = b;
	return pgs__slice_compare((*x)->key, (*y)->key);
}

bool pgs__kv_in_range(pgs_slice key, pgs_slice from, pgs_slice range_end)
{
	if (range_end.size == 0)
		return pgs__slice_equal(key, from);
	return pgs__slice_compare(key, from) >= 0 &&
	       (pgs__kv_is_to_end(range_end) || pgs__slice_compare(key, range_end) < 0);
}

/* True when a put's key lies in the range that `op` deletes; `puts` are sorted. */
static bool deletes_a_put(const pgs_kv_op *op, const pgs_kv_op *const *puts, size_t count)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (pgs__slice_compare(puts[middle]->key, op->key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && pgs__kv_in_range(puts[low]->key, op->key, op->range_end);
}

static int check_sorted(
	const pgs_kv_op *ops, size_t op_count, const pgs_kv_op *const *puts, size_t count, pgs_error *err)
{
	for (size_t i = 1; i < count; i++)
		if (pgs__slice_equal(puts[i - 1]->key, puts[i]->key))
			return pgs__error(err, PGS_EINVAL, "duplicate key: two puts of one key in a transaction");
	for (size_t i = 0; i < op_count && count; i++)
		if (ops[i].kind == PGS_KV_DELETE && deletes_a_put(&ops[i], puts, count))
			return pgs__error(err, PGS_EINVAL, "duplicate key: a transaction puts a key that it deletes");
	return PGS_OK;
}

/* Fills `puts` with the branch's puts in key order. Callers mostly give them so. */
static void sort_puts(const pgs_kv_op *ops, size_t op_count, const pgs_kv_op **puts, size_t count)
{
	bool sorted = true;
	for (size_t i = 0, used = 0; i < op_count; i++) {
		if (ops[i].kind != PGS_KV_PUT)
			continue;
		sorted = sorted && (used == 0 || pgs__slice_compare(puts[used - 1]->key, ops[i].key) <= 0);
		puts[used++] = &ops[i];
	}
	if (!sorted)
		qsort(puts, count, sizeof *puts, by_key);
}

static int check_overlaps(const pgs_kv_op *ops, size_t op_count, pgs_error *err)
{
	const pgs_kv_op *small[SMALL], **puts = small;
	size_t count = 0;
	for (size_t i = 0; i < op_count; i++)
		count += ops[i].kind == PGS_KV_PUT;
	if (count == 0)
		return PGS_OK;
	if (count > SMALL) {
		puts = pgs__malloc(count * sizeof *puts);
		if (!puts)
			return pgs__error_nomem(err, "checking a transaction");
	}
	sort_puts(ops, op_count, puts, count);
	int status = check_sorted(ops, op_count, puts, count, err);
	if (puts != small)
		pgs__free(puts);
	return status;
}

static int check_branch(checker *c, const pgs_kv_op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int status = check_op(c, &ops[i]);
		if (status != PGS_OK)
			return status;
	}
	return check_overlaps(ops, count, c->err);
}

int pgs__kv_check(const pgs_kv_txn *txn, const pgs_kv_limits *limits, pgs_error *err)
{
	checker c = {limits, 0, err};
	size_t max = limits->max_txn_ops;
	if (max && (txn->compare_count > max || txn->success_count > max || txn->failure_count > max))
		return pgs__error(err, PGS_ELIMIT, "too many operations in a transaction: at most %zu", max);
	for (size_t i = 0; i < txn->compare_count; i++) {
		int status = check_compare(&c, &txn->compares[i]);
		if (status != PGS_OK)
			return status;
	}
	int status = check_branch(&c, txn->success, txn->success_count);
	if (status == PGS_OK)
		status = check_branch(&c, txn->failure, txn->failure_count);
	if (status == PGS_OK && limits->max_request_bytes && c.bytes > limits->max_request_bytes)
		return pgs__error(err, PGS_ELIMIT, "request is too large: %llu bytes of keys and values, at most %zu",
			(unsigned long long)c.bytes, limits->max_request_bytes);
	return status;
}

static bool mutates(const pgs_kv_op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (ops[i].kind != PGS_KV_RANGE)
			return true;
	return false;
}

bool pgs__kv_mutates(const pgs_kv_txn *txn)
{
	return mutates(txn->success, txn->success_count) || mutates(txn->failure, txn->failure_count);
}

/* --- how much it is -------------------------------------------------------------- */

static uint64_t bytes_of_ops(const pgs_kv_op *ops, size_t op_count)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < op_count; i++)
		bytes += ops[i].key.size + ops[i].range_end.size + ops[i].value.size;
	return bytes;
}

uint64_t pgs__kv_bytes_sent(const pgs_kv_txn *txn)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < txn->compare_count; i++)
		bytes += txn->compares[i].key.size + txn->compares[i].range_end.size + txn->compares[i].value.size;
	return bytes + bytes_of_ops(txn->success, txn->success_count) + bytes_of_ops(txn->failure, txn->failure_count);
}

uint64_t pgs__kv_bytes_received(const pgs_kv_txn *txn)
{
	uint64_t bytes = 0;
	for (size_t i = 0; txn->status == PGS_OK && i < txn->result_count; i++)
		for (size_t k = 0; k < txn->results[i].count; k++)
			bytes += txn->results[i].pairs[k].key.size + txn->results[i].pairs[k].value.size;
	return bytes;
}
