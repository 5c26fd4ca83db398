/* See kv_model.h. */
#include "support/kv_model.h"

#include <stdlib.h>
#include <string.h>

#include "support/kv_calls.h"
#include "support/testing.h"
#include "util/cursor.h"

/* --- random choices ----------------------------------------------------- */

uint64_t kv_model_random(kv_model *model, uint64_t below)
{
	uint64_t z = model->random += 0x9e3779b97f4a7c15;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return (z ^ (z >> 31)) % below;
}

static int by_bytes(const void *a, const void *b)
{
	return pgs__slice_compare(*(const pgs_slice *)a, *(const pgs_slice *)b);
}

static bool has_key(const kv_model *model, size_t count, pgs_slice key)
{
	for (size_t i = 0; i < count; i++)
		if (pgs__slice_equal(model->keys[i], key))
			return true;
	return false;
}

/* Short keys of few different bytes, 0x00 and 0xff among them: prefixes of each other, next to each other. */
static void make_keys(kv_model *model)
{
	static const uint8_t letters[] = {0x00, 'a', 'b', 0xff};
	for (size_t count = 0; count < MODEL_KEYS;) {
		uint8_t *bytes = model->key_bytes[count];
		size_t size = 1 + kv_model_random(model, 4);
		for (size_t i = 0; i < size; i++)
			bytes[i] = letters[kv_model_random(model, 4)];
		pgs_slice key = {bytes, size};
		if (!has_key(model, count, key))
			model->keys[count++] = key;
	}
	qsort(model->keys, MODEL_KEYS, sizeof *model->keys, by_bytes);
}

void kv_model_range(kv_model *model, pgs_slice *key, pgs_slice *range_end)
{
	*key = model->keys[kv_model_random(model, MODEL_KEYS)];
	switch (kv_model_random(model, 4)) {
	case 0:
		*range_end = NO_END;
		break;
	case 1:
		*range_end = PGS_KV_TO_END;
		break;
	default:
		*range_end = model->keys[kv_model_random(model, MODEL_KEYS)];
		break;
	}
}

bool kv_model_in_range(pgs_slice key, pgs_slice from, pgs_slice range_end)
{
	if (range_end.size == 0)
		return pgs__slice_equal(key, from);
	if (pgs__slice_compare(key, from) < 0)
		return false;
	return pgs__slice_equal(range_end, PGS_KV_TO_END) || pgs__slice_compare(key, range_end) < 0;
}

/* --- states ------------------------------------------------------------- */

void kv_model_init(kv_model *model, uint64_t seed, uint64_t base_revision)
{
	*model = (kv_model){.random = seed, .base = base_revision, .state_count = 1, .state_capacity = 64};
	make_keys(model);
	model->states = calloc(model->state_capacity, sizeof *model->states);
	assert_non_null(model->states);
}

void kv_model_free(kv_model *model)
{
	free(model->states);
}

uint64_t kv_model_revision(const kv_model *model)
{
	return model->base + model->state_count - 1;
}

static model_cell *push_state(kv_model *model)
{
	if (model->state_count == model->state_capacity) {
		model->state_capacity *= 2;
		model->states = realloc(model->states, model->state_capacity * sizeof *model->states);
		assert_non_null(model->states);
	}
	memcpy(model->states[model->state_count], model->states[model->state_count - 1], sizeof *model->states);
	return model->states[model->state_count++];
}

/* --- transactions ------------------------------------------------------- */

static bool overlaps(const pgs_kv_op *a, const pgs_kv_op *b)
{
	if (a->kind == PGS_KV_PUT && b->kind == PGS_KV_PUT)
		return pgs__slice_equal(a->key, b->key);
	if (a->kind == PGS_KV_PUT && b->kind == PGS_KV_DELETE)
		return kv_model_in_range(a->key, b->key, b->range_end);
	if (a->kind == PGS_KV_DELETE && b->kind == PGS_KV_PUT)
		return overlaps(b, a);
	return false;
}

static pgs_kv_op random_op(kv_model *model, uint64_t *value)
{
	pgs_kv_op op = {.kind = PGS_KV_PUT};
	kv_model_range(model, &op.key, &op.range_end);
	uint64_t die = kv_model_random(model, 10);
	if (die < 7) {
		*value = kv_model_random(model, 4);
		op.range_end = NO_END;
		op.value = (pgs_slice){value, sizeof *value};
	} else if (die < 9) {
		op.kind = PGS_KV_DELETE;
		if (kv_model_random(model, 4) != 0)
			op.range_end = NO_END; /* else the store would be empty most of the time */
	} else {
		op.kind = PGS_KV_RANGE;
	}
	return op;
}

static void plan_branch(kv_model *model, model_step *step, int branch)
{
	size_t wanted = kv_model_random(model, MODEL_OPS + 1), count = 0;
	for (size_t tries = 0; tries < wanted; tries++) {
		pgs_kv_op op = random_op(model, &step->values[branch][count]);
		bool clash = false;
		for (size_t i = 0; i < count; i++)
			clash = clash || overlaps(&op, &step->ops[branch][i]);
		if (!clash)
			step->ops[branch][count++] = op;
	}
	step->op_counts[branch] = count;
}

static int order_of(const model_cell *cell, const pgs_kv_compare *compare, uint64_t given_value)
{
	uint64_t stored = cell->mod_revision, given = compare->number;
	if (compare->target == PGS_KV_CREATE)
		stored = cell->create_revision;
	if (compare->target == PGS_KV_VERSION_COUNT)
		stored = cell->version;
	if (compare->target == PGS_KV_VALUE)
		return memcmp(&cell->value, &given_value, sizeof given_value);
	return (stored > given) - (stored < given);
}

static bool cell_passes(const model_cell *cell, const pgs_kv_compare *compare, uint64_t given_value)
{
	if (compare->target == PGS_KV_VALUE && cell->version == 0)
		return false;
	int order = order_of(cell, compare, given_value);
	return (compare->relation == PGS_KV_EQUAL && order == 0) || (compare->relation == PGS_KV_NOT_EQUAL && order) ||
	       (compare->relation == PGS_KV_LESS && order < 0) || (compare->relation == PGS_KV_GREATER && order > 0);
}

static bool compare_passes(const kv_model *model, const pgs_kv_compare *compare, uint64_t given_value)
{
	const model_cell *cells = model->states[model->state_count - 1];
	bool any = false;
	for (size_t i = 0; i < MODEL_KEYS; i++) {
		if (!cells[i].version || !kv_model_in_range(model->keys[i], compare->key, compare->range_end))
			continue;
		any = true;
		if (!cell_passes(&cells[i], compare, given_value))
			return false;
	}
	return any || cell_passes(&(model_cell){0}, compare, given_value);
}

static void plan_compare(kv_model *model, pgs_kv_compare *compare, uint64_t *value)
{
	const model_cell *cell = &model->states[model->state_count - 1][kv_model_random(model, MODEL_KEYS)];
	*compare = (pgs_kv_compare){.target = (pgs_kv_target)(1 + kv_model_random(model, 4)),
		.relation = (pgs_kv_relation)(1 + kv_model_random(model, 4))};
	kv_model_range(model, &compare->key, &compare->range_end);
	static const size_t offsets[] = {0, offsetof(model_cell, mod_revision), offsetof(model_cell, create_revision),
		offsetof(model_cell, version), offsetof(model_cell, mod_revision)};
	memcpy(&compare->number, (const char *)cell + offsets[compare->target], sizeof compare->number);
	*value = kv_model_random(model, 4);
	if (compare->target == PGS_KV_VALUE)
		compare->value = (pgs_slice){value, sizeof *value};
}

void kv_model_plan(kv_model *model, model_step *step)
{
	memset(step, 0, sizeof *step);
	plan_branch(model, step, 0);
	plan_branch(model, step, 1);
	size_t compares = kv_model_random(model, MODEL_COMPARES + 1);
	step->succeeds = true;
	for (size_t i = 0; i < compares; i++) {
		plan_compare(model, &step->compares[i], &step->compare_values[i]);
		if (!compare_passes(model, &step->compares[i], step->compare_values[i]))
			step->succeeds = false;
	}
	step->txn = (pgs_kv_txn){.compares = step->compares,
		.compare_count = compares,
		.success = step->ops[1],
		.success_count = step->op_counts[1],
		.failure = step->ops[0],
		.failure_count = step->op_counts[0]};
}

static void put_cell(model_cell *cell, uint64_t revision, uint64_t value)
{
	if (cell->version == 0)
		cell->create_revision = revision;
	cell->mod_revision = revision;
	cell->version++;
	cell->value = value;
}

/* Returns how many keys it changed. */
static uint64_t apply_op(kv_model *model, model_cell *cells, const pgs_kv_op *op, uint64_t value)
{
	uint64_t changed = 0;
	for (size_t i = 0; i < MODEL_KEYS; i++) {
		if (!kv_model_in_range(model->keys[i], op->key, op->range_end))
			continue;
		if (op->kind == PGS_KV_PUT)
			put_cell(&cells[i], kv_model_revision(model), value);
		else if (cells[i].version)
			cells[i] = (model_cell){0};
		else
			continue;
		changed++;
	}
	return changed;
}

void kv_model_apply(kv_model *model, const model_step *step)
{
	const pgs_kv_txn *txn = &step->txn;
	assert_int_equal(txn->status, PGS_OK);
	assert_int_equal(txn->succeeded, step->succeeds);
	assert_int_equal(txn->result_count, step->op_counts[step->succeeds]);
	const pgs_kv_op *ops = step->ops[step->succeeds];
	model_cell *cells = push_state(model);
	uint64_t changes = 0;
	for (size_t i = 0; i < txn->result_count; i++) {
		if (ops[i].kind == PGS_KV_RANGE) {
			kv_model_check_range(model, kv_model_revision(model), &ops[i], &txn->results[i]);
			continue;
		}
		uint64_t changed = apply_op(model, cells, &ops[i], step->values[step->succeeds][i]);
		if (ops[i].kind == PGS_KV_DELETE)
			assert_int_equal(txn->results[i].total, changed);
		changes += changed;
	}
	if (!changes)
		model->state_count--;
	assert_int_equal(txn->revision, kv_model_revision(model));
}

/* --- reads -------------------------------------------------------------- */

static void check_pair(
	const kv_model *model, size_t key, const model_cell *cell, const pgs_kv_op *op, const pgs_kv_pair *pair)
{
	assert_true(pgs__slice_equal(pair->key, model->keys[key]));
	assert_int_equal(pair->mod_revision, cell->mod_revision);
	assert_int_equal(pair->create_revision, cell->create_revision);
	assert_int_equal(pair->version, cell->version);
	assert_int_equal(pair->value.size, op->keys_only ? 0 : sizeof cell->value);
	if (!op->keys_only)
		assert_memory_equal(pair->value.data, &cell->value, sizeof cell->value);
}

void kv_model_check_range(const kv_model *model, uint64_t revision, const pgs_kv_op *op, const pgs_kv_result *result)
{
	const model_cell *cells = model->states[revision - model->base];
	uint64_t total = 0;
	size_t count = 0;
	bool more = false;
	for (size_t i = 0; i < MODEL_KEYS; i++) {
		if (!cells[i].version || !kv_model_in_range(model->keys[i], op->key, op->range_end))
			continue;
		total++;
		if (op->count_only || cells[i].mod_revision < op->min_mod_revision)
			continue;
		if (op->limit && count == op->limit) {
			more = true;
			continue;
		}
		assert_true(count < result->count);
		check_pair(model, i, &cells[i], op, &result->pairs[count++]);
	}
	assert_int_equal(result->count, count);
	assert_int_equal(result->more, more);
	if (op->count_only)
		assert_int_equal(result->total, total);
}

void kv_model_check_random_read(kv_model *model, pgs_kv *kv, uint64_t revision)
{
	uint64_t at = revision ? revision : kv_model_revision(model);
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .revision = revision};
	kv_model_range(model, &op.key, &op.range_end);
	if (kv_model_random(model, 3) == 0)
		op.limit = 1 + kv_model_random(model, 6);
	if (kv_model_random(model, 3) == 0)
		op.min_mod_revision = at - kv_model_random(model, at - model->base + 1) + kv_model_random(model, 2);
	op.keys_only = kv_model_random(model, 5) == 0;
	op.count_only = kv_model_random(model, 8) == 0;
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.revision, kv_model_revision(model));
	kv_model_check_range(model, at, &op, &txn.results[0]);
	kv->vtable->release(kv, &txn, 1);
}
