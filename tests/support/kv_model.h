/* A plain model of the KV: the whole state after every revision, as arrays.
 *
 * It does nothing cleverly, so that it is right by inspection: after each
 * random transaction the state is copied, changed and kept, and any read at
 * any revision is a loop over one of the copies.
 */
#ifndef PGS_TESTS_KV_MODEL_H
#define PGS_TESTS_KV_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include <pagestore/sys/kv.h>

#define MODEL_KEYS 48
#define MODEL_OPS 5
#define MODEL_COMPARES 3

/* What a key holds; version 0 = absent. */
typedef struct model_cell {
	uint64_t mod_revision;
	uint64_t create_revision;
	uint64_t version;
	uint64_t value; /* stored as its 8 bytes */
} model_cell;

typedef struct kv_model {
	uint64_t random;
	uint64_t base; /* the store's revision when the model began */
	pgs_slice keys[MODEL_KEYS];
	uint8_t key_bytes[MODEL_KEYS][4];
	model_cell (*states)[MODEL_KEYS]; /* states[r - base] */
	size_t state_count;
	size_t state_capacity;
} kv_model;

/* One random transaction and what must come of it. */
typedef struct model_step {
	pgs_kv_compare compares[MODEL_COMPARES];
	pgs_kv_op ops[2][MODEL_OPS]; /* failure, success */
	size_t op_counts[2];
	uint64_t values[2][MODEL_OPS];
	uint64_t compare_values[MODEL_COMPARES];
	pgs_kv_txn txn;
	bool succeeds;
} model_step;

void kv_model_init(kv_model *model, uint64_t seed, uint64_t base_revision);
void kv_model_free(kv_model *model);

uint64_t kv_model_random(kv_model *model, uint64_t below);
uint64_t kv_model_revision(const kv_model *model);

/* A random key, and a random end: none, any key (so also an empty range), or to the end. */
void kv_model_range(kv_model *model, pgs_slice *key, pgs_slice *range_end);
bool kv_model_in_range(pgs_slice key, pgs_slice from, pgs_slice range_end);

/* Makes up a transaction; the model itself does not change yet. */
void kv_model_plan(kv_model *model, model_step *step);

/* Runs it on the model, and asserts that the KV's response is what it must be. */
void kv_model_apply(kv_model *model, const model_step *step);

/* Asserts the result of a read at `revision`. */
void kv_model_check_range(const kv_model *model, uint64_t revision, const pgs_kv_op *op, const pgs_kv_result *result);

/* A random read with random options, at `revision` (0 = now), run and checked. */
void kv_model_check_random_read(kv_model *model, pgs_kv *kv, uint64_t revision);

#endif
