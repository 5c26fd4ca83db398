/* Registering merged files in the place of their inputs.
 *
 *     one step:     inputs as they were  ⇒  l/ outputs put, l/ inputs deleted, d/ inputs put
 *     or, if that does not fit a transaction:
 *       each step:  inputs as they were  ⇒  some l/ outputs put
 *       then each:  some inputs as they were, outputs there  ⇒  those l/ deleted, their d/ put
 *
 * In between contents are in two files, and files of one level overlap: readers do not mind, and the next plan merges
 * them together (plan.c). Other workers stay away as long as the claim holds, and when it does not, the next step fails.
 */
#include "maintain/replace.h"

#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define FENCE_BYTES (2u << 10) /* more than the fence of a step takes of a request */

typedef struct replace {
	pgs__worker *w;
	const pgs__claim *claim;
	uint64_t base_revision;
	pgs__file *const *inputs;
	size_t input_count;
	const pgs__sorted_file *outputs;
	size_t output_count;
	pgs__key *input_keys, *unregistered_keys;
	pgs_kv_compare *compares;
	pgs_kv_op *ops;
	size_t compare_count, op_count, bytes;
	size_t room, bytes_max;
	bool some, unsure; /* steps that were applied; that may have been */
} replace;

size_t pgs__table_max(const pgs__worker *w)
{
	size_t quarter = pgs__max_bytes(pgs__db_backend(w->db)) / 4;
	return quarter < PGS__LEVEL_TABLE_MAX ? quarter : PGS__LEVEL_TABLE_MAX;
}

/* --- filling a step -------------------------------------------------------------- */

static void clear_step(replace *r)
{
	r->compare_count = r->op_count = r->bytes = 0;
}

static void compare_input(replace *r, size_t i)
{
	pgs_slice key = pgs__key_slice(&r->input_keys[i]);
	r->compares[r->compare_count++] = pgs__if_mod(key, PGS_KV_EQUAL, r->inputs[i]->registered);
	r->bytes += key.size;
}

static void compare_output(replace *r, size_t i, bool there)
{
	pgs_slice key = pgs__key_slice(&r->outputs[i].key);
	r->compares[r->compare_count++] = there ? pgs__if_exists(key) : pgs__if_absent(key);
	r->bytes += key.size;
}

static size_t output_bytes(const replace *r, size_t i)
{
	return r->outputs[i].key.size + r->outputs[i].value.size;
}

static void put_output(replace *r, size_t i)
{
	r->ops[r->op_count++] = pgs__op_put(pgs__key_slice(&r->outputs[i].key), pgs__buffer_slice(&r->outputs[i].value));
	r->bytes += output_bytes(r, i);
}

static size_t delete_bytes(const replace *r, size_t i)
{
	return (size_t)r->input_keys[i].size + r->unregistered_keys[i].size;
}

static void delete_input(replace *r, size_t i)
{
	r->ops[r->op_count++] = pgs__op_delete(pgs__key_slice(&r->input_keys[i]), (pgs_slice){0});
	r->ops[r->op_count++] = pgs__op_put(pgs__key_slice(&r->unregistered_keys[i]), (pgs_slice){0});
	r->bytes += delete_bytes(r, i);
}

static bool has_room(const replace *r, size_t compares, size_t ops, size_t bytes)
{
	return r->compare_count + compares <= r->room && r->op_count + ops <= r->room &&
	       bytes <= r->bytes_max && r->bytes <= r->bytes_max - bytes;
}

/* Run the step that was filled. */
static int run_step(replace *r, bool *applied)
{
	pgs__step step = {
		.compares = r->compares,
		.compare_count = r->compare_count,
		.ops = r->ops,
		.op_count = r->op_count,
		.base_revision = r->base_revision,
	};
	int result = pgs__step_run(r->w, r->claim, &step);
	*applied = result == PGS_OK && step.applied;
	r->some |= *applied;
	r->unsure |= step.unsure && !*applied;
	return result;
}

/* --- in one step --------------------------------------------------------------------- */

static bool fits_one_step(const replace *r)
{
	size_t bytes = 0;
	for (size_t i = 0; i < r->output_count; i++)
		bytes += output_bytes(r, i);
	for (size_t i = 0; i < r->input_count; i++)
		bytes += r->input_keys[i].size + delete_bytes(r, i);
	return !PGS__BUG(UNREGISTER_FIRST) && has_room(r, r->input_count, r->output_count + 2 * r->input_count, bytes);
}

/* Whether a key is there now. */
static int look(replace *r, const pgs__key *key, bool *there)
{
	const pgs__backend *backend = pgs__db_backend(r->w->db);
	pgs_kv_op op = pgs__op_get(pgs__key_slice(key), 0);
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend, &txn, &op, 1, pgs__worker_deadline(r->w), r->w->err);
	*there = result == PGS_OK && pgs__got(&txn, 0);
	pgs__kv_release(backend, &txn, 1);
	return result;
}

/* Run a step that puts output `first`, and maybe others. */
static int run_output_step(replace *r, size_t first, bool *applied)
{
	int result = run_step(r, applied);
	if (result == PGS_OK && !*applied && r->unsure && first < r->output_count)
		result = look(r, &r->outputs[first].key, applied); /* its name is ours alone */
	r->some |= *applied;
	return result;
}

static int in_one_step(replace *r, bool *all)
{
	clear_step(r);
	for (size_t i = 0; i < r->input_count; i++)
		compare_input(r, i);
	for (size_t i = 0; i < r->output_count; i++)
		put_output(r, i);
	for (size_t i = 0; i < r->input_count; i++)
		delete_input(r, i);
	return run_output_step(r, 0, all);
}

/* --- in several ------------------------------------------------------------------------ */

/* Register all outputs. *all is false when a compare failed. */
static int register_outputs(replace *r, bool *all)
{
	size_t compared = 0;
	*all = true;
	for (size_t at = 0; at < r->output_count && *all;) {
		size_t first = at;
		clear_step(r);
		do {
			compare_output(r, at, false); /* sent twice, it happens once */
			put_output(r, at++);
		} while (at < r->output_count && has_room(r, 1, 1, r->outputs[at].key.size + output_bytes(r, at)));
		/* As many inputs as there is room for; the next step goes on with the next. */
		for (size_t n = 0; n < r->input_count && has_room(r, 1, 0, PGS__KEY_MAX); n++)
			compare_input(r, compared++ % r->input_count);
		int result = run_output_step(r, first, all);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

static int unregister_inputs(replace *r, bool *all)
{
	size_t compared = 0;
	*all = true;
	for (size_t at = 0; at < r->input_count && *all;) {
		clear_step(r);
		do {
			compare_input(r, at);
			delete_input(r, at++);
		} while (at < r->input_count && has_room(r, 1, 2, r->input_keys[at].size + delete_bytes(r, at)));
		for (size_t n = 0; n < r->output_count && has_room(r, 1, 0, PGS__KEY_MAX); n++)
			if (!PGS__BUG(UNREGISTER_FIRST))
				compare_output(r, compared++ % r->output_count, true);
		int result = run_step(r, all);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

static int in_several_steps(replace *r, bool *all)
{
	if (PGS__BUG(UNREGISTER_FIRST)) {
		int planted = unregister_inputs(r, all);
		r->input_count = 0;
		return planted == PGS_OK ? register_outputs(r, all) : planted;
	}
	int result = register_outputs(r, all);
	return result == PGS_OK && *all ? unregister_inputs(r, all) : result;
}

/* --- all of it ---------------------------------------------------------------------------- */

static int allocate(replace *r)
{
	const uint8_t *prefix = pgs__db_prefix(r->w->db);
	size_t entries = 2 * (r->input_count + r->output_count) + 1;
	r->input_keys = pgs__calloc(r->input_count + 1, sizeof *r->input_keys);
	r->unregistered_keys = pgs__calloc(r->input_count + 1, sizeof *r->unregistered_keys);
	r->compares = pgs__calloc(entries, sizeof *r->compares);
	r->ops = pgs__calloc(entries, sizeof *r->ops);
	if (!r->input_keys || !r->unregistered_keys || !r->compares || !r->ops)
		return pgs__error_nomem(r->w->err, "registering sorted files");
	for (size_t i = 0; i < r->input_count; i++) {
		const pgs__level_key *k = &r->inputs[i]->key;
		r->input_keys[i] = pgs__key_level(prefix, k->level, &k->first, &k->last, k->file_name);
		r->unregistered_keys[i] = pgs__key_unregistered(prefix, k->file_name);
	}
	return PGS_OK;
}

int pgs__files_replace(pgs__worker *w, const pgs__claim *claim, uint64_t base_revision, pgs__file *const *inputs,
		       size_t input_count, const pgs__sorted_file *outputs, size_t output_count, pgs__replaced *done)
{
	size_t max = pgs__max_bytes(pgs__db_backend(w->db));
	replace r = {.w = w, .claim = claim, .base_revision = base_revision};
	r.inputs = inputs;
	r.input_count = input_count;
	r.outputs = outputs;
	r.output_count = output_count;
	r.room = pgs__step_room(w);
	r.bytes_max = max > FENCE_BYTES ? max - FENCE_BYTES : 0;
	bool all = false;
	*done = PGS__REPLACED_NO;
	int result = allocate(&r);
	if (result == PGS_OK)
		result = fits_one_step(&r) ? in_one_step(&r, &all) : in_several_steps(&r, &all);
	if (result == PGS_OK && all)
		*done = PGS__REPLACED_ALL;
	else if (r.some || r.unsure || result == PGS_EUNKNOWN)
		*done = PGS__REPLACED_PARTLY;
	pgs__free(r.input_keys);
	pgs__free(r.unregistered_keys);
	pgs__free(r.compares);
	pgs__free(r.ops);
	return result;
}

int pgs__file_move(pgs__worker *w, const pgs__claim *claim, uint64_t base_revision, const pgs__file *file,
		   uint8_t level, pgs__replaced *done)
{
	const pgs__backend *backend = pgs__db_backend(w->db);
	const pgs__level_key *k = &file->key;
	pgs__key from = pgs__key_level(pgs__db_prefix(w->db), k->level, &k->first, &k->last, k->file_name),
		 to = pgs__key_level(pgs__db_prefix(w->db), level, &k->first, &k->last, k->file_name);
	const pgs_kv_op get = pgs__op_get(pgs__key_slice(&from), 0);
	pgs_kv_txn txn;
	*done = PGS__REPLACED_NO;
	int result = pgs__kv_read(backend, &txn, &get, 1, pgs__worker_deadline(w), w->err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (pair && pair->mod_revision == file->registered) {
		const pgs_kv_compare same = pgs__if_mod(pgs__key_slice(&from), PGS_KV_EQUAL, file->registered);
		const pgs_kv_op ops[] = {pgs__op_put(pgs__key_slice(&to), pair->value),
					 pgs__op_delete(pgs__key_slice(&from), (pgs_slice){0})};
		pgs__step step = {.compares = &same, .compare_count = 1, .ops = ops, .op_count = 2};
		step.base_revision = base_revision;
		result = pgs__step_run(w, claim, &step);
		if (result == PGS_OK && step.applied)
			*done = PGS__REPLACED_ALL;
		else if (step.unsure)
			*done = PGS__REPLACED_PARTLY;
	}
	pgs__kv_release(backend, &txn, 1);
	return result;
}
