/* Is a request well formed? Judged for both branches before anything runs. */
#include "kv.h"

#include <stdlib.h>
#include <string.h>

#include "scan.h"
#include "util/alloc.h"
#include "util/error.h"

/* Branches up to this many operations are compared pairwise, without memory. */
#define SMALL_BRANCH 16

static int check_key(pgs_slice key, pgs_slice range_end, pgs_error *err)
{
	char name[64];
	if (key.size == 0)
		return pgs__error(err, PGS_EINVAL, "a key is empty");
	if (key.size <= PGS__LOCAL_KEY_MAX && range_end.size <= PGS__LOCAL_KEY_MAX)
		return PGS_OK;
	return pgs__error(err, PGS_ELIMIT, "key '%s' or its range's end is longer than %d bytes",
		pgs__printable(name, sizeof name, key.data, key.size), PGS__LOCAL_KEY_MAX);
}

static int check_compare(const pgs_kv_compare *c, pgs_error *err)
{
	if (c->target < PGS_KV_MOD || c->target > PGS_KV_VALUE)
		return pgs__error(err, PGS_EINVAL, "a compare has the unknown target %d", (int)c->target);
	if (c->relation < PGS_KV_EQUAL || c->relation > PGS_KV_GREATER)
		return pgs__error(err, PGS_EINVAL, "a compare has the unknown relation %d", (int)c->relation);
	return check_key(c->key, c->range_end, err);
}

static int check_op(const pgs_kv_op *op, pgs_error *err)
{
	if (op->kind < PGS_KV_PUT || op->kind > PGS_KV_RANGE)
		return pgs__error(err, PGS_EINVAL, "an operation has the unknown kind %d", (int)op->kind);
	if (op->kind == PGS_KV_PUT && op->value.size > PGS__LOCAL_VALUE_MAX)
		return pgs__error(err, PGS_ELIMIT, "a value of %zu bytes: at most %zu are possible", op->value.size,
			PGS__LOCAL_VALUE_MAX);
	/* A put has no range, whatever the field says. */
	return check_key(op->key, op->kind == PGS_KV_PUT ? (pgs_slice){NULL, 0} : op->range_end, err);
}

static int twice(pgs_slice key, const char *how, pgs_error *err)
{
	char name[64];
	return pgs__error(err, PGS_EINVAL, "key '%s' is put and %s by one transaction",
		pgs__printable(name, sizeof name, key.data, key.size), how);
}

static bool in_range(const pgs_kv_op *del, pgs_slice key)
{
	return pgs__slice_compare(del->key, key) <= 0 && pgs__range_open(del->key, del->range_end, key);
}

static int conflict_between(const pgs_kv_op *a, const pgs_kv_op *b, pgs_error *err)
{
	if (a->kind == PGS_KV_PUT && b->kind == PGS_KV_PUT && pgs__slice_equal(a->key, b->key))
		return twice(a->key, "put again", err);
	if (a->kind == PGS_KV_PUT && b->kind == PGS_KV_DELETE && in_range(b, a->key))
		return twice(a->key, "deleted", err);
	if (a->kind == PGS_KV_DELETE && b->kind == PGS_KV_PUT && in_range(a, b->key))
		return twice(b->key, "deleted", err);
	return PGS_OK;
}

static int check_small(const pgs_kv_op *ops, size_t count, pgs_error *err)
{
	for (size_t i = 1; i < count; i++)
		for (size_t j = 0; j < i; j++) {
			int status = conflict_between(&ops[j], &ops[i], err);
			if (status)
				return status;
		}
	return PGS_OK;
}

static int by_key(const void *a, const void *b)
{
	const pgs_kv_op *const *x = a, *const *y = b;
	return pgs__slice_compare((*x)->key, (*y)->key);
}

/* The sorted puts of a branch against one delete: is the first put at or behind its start inside? */
static int check_delete(const pgs_kv_op *const *puts, size_t count, const pgs_kv_op *del, pgs_error *err)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (pgs__slice_compare(puts[middle]->key, del->key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && in_range(del, puts[low]->key) ? twice(puts[low]->key, "deleted", err) : PGS_OK;
}

static int check_sorted(const pgs_kv_op **puts, size_t put_count, const pgs_kv_op *ops, size_t count, pgs_error *err)
{
	bool sorted = true;
	for (size_t i = 1; i < put_count && sorted; i++)
		sorted = by_key(&puts[i - 1], &puts[i]) <= 0;
	if (!sorted)
		qsort(puts, put_count, sizeof *puts, by_key);
	for (size_t i = 1; i < put_count; i++)
		if (pgs__slice_equal(puts[i - 1]->key, puts[i]->key))
			return twice(puts[i]->key, "put again", err);
	int status = PGS_OK;
	for (size_t i = 0; i < count && !status; i++)
		if (ops[i].kind == PGS_KV_DELETE)
			status = check_delete(puts, put_count, &ops[i], err);
	return status;
}

static int check_large(const pgs_kv_op *ops, size_t count, pgs_error *err)
{
	const pgs_kv_op **puts = pgs__malloc(count * sizeof *puts);
	size_t put_count = 0;
	if (!puts)
		return pgs__error_nomem(err, "checking a transaction");
	for (size_t i = 0; i < count; i++)
		if (ops[i].kind == PGS_KV_PUT)
			puts[put_count++] = &ops[i];
	int status = check_sorted(puts, put_count, ops, count, err);
	pgs__free(puts);
	return status;
}

static int check_branch(const pgs_kv_op *ops, size_t count, pgs_error *err)
{
	int status = PGS_OK;
	for (size_t i = 0; i < count && !status; i++)
		status = check_op(&ops[i], err);
	if (status)
		return status;
	return count <= SMALL_BRANCH ? check_small(ops, count, err) : check_large(ops, count, err);
}

int pgs__check_txn(const pgs_kv_txn *txn, pgs_error *err)
{
	int status = PGS_OK;
	for (size_t i = 0; i < txn->compare_count && !status; i++)
		status = check_compare(&txn->compares[i], err);
	if (!status)
		status = check_branch(txn->success, txn->success_count, err);
	return status ? status : check_branch(txn->failure, txn->failure_count, err);
}

static bool mutates(const pgs_kv_op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (ops[i].kind != PGS_KV_RANGE)
			return true;
	return false;
}

bool pgs__txn_mutates(const pgs_kv_txn *txn)
{
	return mutates(txn->success, txn->success_count) || mutates(txn->failure, txn->failure_count);
}
