/* Running transactions on the memory KV, and undoing them. See store.h. */
#include "store.h"

#include <string.h>

#include "util/alloc.h"
#include "util/arena.h"
#include "util/cursor.h"
#include "util/error.h"

/* --- compares ----------------------------------------------------------- */

static bool relation_holds(pgs_kv_relation relation, int order)
{
	switch (relation) {
	case PGS_KV_EQUAL:
		return order == 0;
	case PGS_KV_NOT_EQUAL:
		return order != 0;
	case PGS_KV_LESS:
		return order < 0;
	case PGS_KV_GREATER:
		return order > 0;
	}
	return false;
}

static bool number_holds(const pgs_kv_compare *compare, uint64_t stored)
{
	return relation_holds(compare->relation, (stored > compare->number) - (stored < compare->number));
}

/* `version` is NULL for an absent key: its numbers are 0, and no value compare holds. */
static bool compare_holds(const pgs_kv_compare *compare, const pgs__mem_version *version)
{
	switch (compare->target) {
	case PGS_KV_MOD:
		return number_holds(compare, version ? version->mod_revision : 0);
	case PGS_KV_CREATE:
		return number_holds(compare, version ? version->create_revision : 0);
	case PGS_KV_VERSION_COUNT:
		return number_holds(compare, version ? version->count : 0);
	case PGS_KV_VALUE:
		break;
	}
	if (!version)
		return false;
	pgs_slice stored = {version->value, version->value_size};
	return relation_holds(compare->relation, pgs__slice_compare(stored, compare->value));
}

static bool compare_passes(const pgs__mem_store *store, const pgs_kv_compare *compare)
{
	pgs__mem_range range;
	pgs__mem_key *key = pgs__mem_first(&range, &store->map, compare->key, compare->range_end);
	bool any = false;
	for (; key; key = pgs__mem_next(&range, key)) {
		const pgs__mem_version *version = pgs__mem_visible(key, 0);
		if (!version)
			continue;
		any = true;
		if (!compare_holds(compare, version))
			return false;
	}
	return any || compare_holds(compare, NULL);
}

static bool all_compares_pass(const pgs__mem_store *store, const pgs_kv_txn *txn)
{
	for (size_t i = 0; i < txn->compare_count; i++)
		if (!compare_passes(store, &txn->compares[i]))
			return false;
	return true;
}

/* --- changes ------------------------------------------------------------ */

static size_t key_cost(const pgs__mem_key *key)
{
	return sizeof *key + key->levels * sizeof key->next[0] + key->size;
}

static size_t version_cost(const pgs__mem_version *version)
{
	return sizeof *version + version->value_size + sizeof(pgs__mem_change) + sizeof(pgs__mem_version *);
}

/* Squeezes or grows the log so that one more change fits. */
static int reserve_log(pgs__mem_store *store)
{
	if (store->log_end < store->log_capacity)
		return PGS_OK;
	size_t count = store->log_end - store->log_first;
	if (store->log_first <= count)
		return pgs__grow(&store->log, &store->log_capacity, store->log_end + 1, sizeof *store->log);
	memmove(store->log, store->log + store->log_first, count * sizeof *store->log);
	store->log_first = 0;
	store->log_end = count;
	return PGS_OK;
}

/* Everything that can fail comes before anything that shows. `key` may be new, without versions. */
static int append_version(pgs__mem_store *store, pgs__mem_key *key, const pgs_slice *value)
{
	if (reserve_log(store) != PGS_OK || pgs__mem_reserve_version(key) != PGS_OK)
		return PGS_ENOMEM;
	size_t size = value ? value->size : 0;
	pgs__mem_version *version = pgs__malloc(sizeof *version + size);
	if (!version)
		return PGS_ENOMEM;
	*version = (pgs__mem_version){.mod_revision = store->revision + 1, .value_size = size};
	if (value) {
		const pgs__mem_version *before = pgs__mem_visible(key, 0);
		version->create_revision = before ? before->create_revision : version->mod_revision;
		version->count = before ? before->count + 1 : 1;
	}
	if (size)
		memcpy(version->value, value->data, size);
	pgs__mem_push(key, version);
	store->log[store->log_end++] = (pgs__mem_change){key, version};
	store->size_bytes += version_cost(version);
	return PGS_OK;
}

static void remove_key(pgs__mem_store *store, pgs__mem_key *key)
{
	store->size_bytes -= key_cost(key);
	pgs__mem_remove(&store->map, key);
}

static int run_put(pgs__mem_store *store, const pgs_kv_op *op)
{
	pgs__mem_key *key = pgs__mem_find(&store->map, op->key);
	if (!key) {
		key = pgs__mem_insert(&store->map, op->key);
		if (!key)
			return PGS_ENOMEM;
		store->size_bytes += key_cost(key);
	}
	int status = append_version(store, key, &op->value);
	if (key->count == 0)
		remove_key(store, key);
	return status;
}

static int run_delete(pgs__mem_store *store, const pgs_kv_op *op, pgs_kv_result *result)
{
	pgs__mem_range range;
	pgs__mem_key *key = pgs__mem_first(&range, &store->map, op->key, op->range_end);
	for (; key; key = pgs__mem_next(&range, key)) {
		if (!pgs__mem_visible(key, 0))
			continue;
		int status = append_version(store, key, NULL);
		if (status != PGS_OK)
			return status;
		result->total++;
	}
	return PGS_OK;
}

/* Takes back a transaction that failed half-way: the log had `count_before` changes when it began. */
static void undo(pgs__mem_store *store, size_t count_before)
{
	while (store->log_end - store->log_first > count_before) {
		pgs__mem_change change = store->log[--store->log_end];
		store->size_bytes -= version_cost(change.version);
		pgs__mem_pop(change.key); /* it is the newest: a transaction changes a key once (K3) */
		if (change.key->count == 0)
			remove_key(store, change.key);
	}
}

/* --- reads -------------------------------------------------------------- */

static int fill_pair(pgs__arena *arena, const pgs_kv_op *op, const pgs__mem_key *key, const pgs__mem_version *version,
	pgs_kv_pair *pair)
{
	*pair = (pgs_kv_pair){.create_revision = version->create_revision,
		.mod_revision = version->mod_revision,
		.version = version->count};
	int status = pgs__arena_copy(arena, pgs__mem_key_bytes(key), &pair->key);
	if (status == PGS_OK && !op->keys_only)
		status = pgs__arena_copy(arena, (pgs_slice){version->value, version->value_size}, &pair->value);
	return status;
}

static const pgs__mem_version *wanted(const pgs__mem_key *key, const pgs_kv_op *op)
{
	const pgs__mem_version *version = pgs__mem_visible(key, op->revision);
	return version && version->mod_revision >= op->min_mod_revision ? version : NULL;
}

/* How many pairs the read returns, at most `limit`. */
static size_t count_wanted(const pgs__mem_store *store, const pgs_kv_op *op, bool *more)
{
	size_t count = 0;
	pgs__mem_range range;
	pgs__mem_key *key = pgs__mem_first(&range, &store->map, op->key, op->range_end);
	for (; key; key = pgs__mem_next(&range, key)) {
		if (!wanted(key, op))
			continue;
		if (op->limit && count == op->limit) {
			*more = true;
			break;
		}
		count++;
	}
	return count;
}

/* Two walks, the first to count: so the pairs are one allocation of the right size. */
static int read_range(const pgs__mem_store *store, const pgs_kv_op *op, pgs__arena *arena, pgs_kv_result *result)
{
	size_t count = count_wanted(store, op, &result->more);
	if (count == 0)
		return PGS_OK;
	if (!(result->pairs = pgs__arena_calloc(arena, count, sizeof *result->pairs)))
		return PGS_ENOMEM;
	pgs__mem_range range;
	pgs__mem_key *key = pgs__mem_first(&range, &store->map, op->key, op->range_end);
	for (; result->count < count; key = pgs__mem_next(&range, key)) {
		const pgs__mem_version *version = wanted(key, op);
		if (!version)
			continue;
		int status = fill_pair(arena, op, key, version, &result->pairs[result->count]);
		if (status != PGS_OK)
			return status;
		result->count++;
	}
	return PGS_OK;
}

static int read_one(const pgs__mem_store *store, const pgs_kv_op *op, pgs__arena *arena, pgs_kv_result *result)
{
	const pgs__mem_key *key = pgs__mem_find(&store->map, op->key);
	const pgs__mem_version *version = key ? wanted(key, op) : NULL;
	if (!version)
		return PGS_OK;
	if (!(result->pairs = pgs__arena_alloc(arena, sizeof *result->pairs)))
		return PGS_ENOMEM;
	result->count = 1;
	return fill_pair(arena, op, key, version, result->pairs);
}

static void count_keys(const pgs__mem_store *store, const pgs_kv_op *op, pgs_kv_result *result)
{
	pgs__mem_range range;
	pgs__mem_key *key = pgs__mem_first(&range, &store->map, op->key, op->range_end);
	for (; key; key = pgs__mem_next(&range, key))
		result->total += pgs__mem_visible(key, op->revision) != NULL;
}

static int run_range(const pgs__mem_store *store, const pgs_kv_op *op, pgs__arena *arena, pgs_kv_result *result)
{
	if (op->count_only) {
		count_keys(store, op, result);
		return PGS_OK;
	}
	return op->range_end.size ? read_range(store, op, arena, result) : read_one(store, op, arena, result);
}

/* --- transactions ------------------------------------------------------- */

/* Judged against the store as it was before the transaction, before anything runs. */
static int check_revisions(const pgs__mem_store *store, const pgs_kv_op *ops, size_t count, pgs_error *err)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t revision = ops[i].revision;
		if (ops[i].kind != PGS_KV_RANGE || revision == 0)
			continue;
		if (revision > store->revision)
			return pgs__error(err, PGS_EINVAL, "revision %llu is in the future: the store is at %llu",
				(unsigned long long)revision, (unsigned long long)store->revision);
		if (revision < store->compacted)
			return pgs__error(err, PGS_EOLDREV, "revision %llu was compacted: the oldest is %llu",
				(unsigned long long)revision, (unsigned long long)store->compacted);
	}
	return PGS_OK;
}

static int run_op(pgs__mem_store *store, const pgs_kv_op *op, pgs__arena *arena, pgs_kv_result *result)
{
	switch (op->kind) {
	case PGS_KV_PUT:
		return run_put(store, op);
	case PGS_KV_DELETE:
		return run_delete(store, op, result);
	case PGS_KV_RANGE:
		return run_range(store, op, arena, result);
	}
	return PGS_EINVAL;
}

static int run_branch(pgs__mem_store *store, const pgs_kv_op *ops, size_t count, pgs_kv_txn *txn, pgs__arena *arena)
{
	if (count == 0)
		return PGS_OK;
	if (!(txn->results = pgs__arena_calloc(arena, count, sizeof *txn->results)))
		return PGS_ENOMEM;
	txn->result_count = count;
	for (size_t i = 0; i < count; i++) {
		int status = run_op(store, &ops[i], arena, &txn->results[i]);
		if (status != PGS_OK)
			return status;
	}
	return PGS_OK;
}

int pgs__mem_run(pgs__mem_store *store, pgs_kv_txn *txn, pgs_error *err)
{
	txn->succeeded = all_compares_pass(store, txn);
	const pgs_kv_op *ops = txn->succeeded ? txn->success : txn->failure;
	size_t count = txn->succeeded ? txn->success_count : txn->failure_count;
	int status = check_revisions(store, ops, count, err);
	if (status != PGS_OK)
		return status;

	pgs__arena arena = {0};
	size_t changes = store->log_end - store->log_first;
	status = run_branch(store, ops, count, txn, &arena);
	txn->response = arena.blocks;
	if (status != PGS_OK) {
		undo(store, changes);
		pgs__mem_release(txn);
		return pgs__error_nomem(err, "a memory KV transaction");
	}
	if (store->log_end - store->log_first > changes) {
		store->revision++;
		pthread_cond_broadcast(&store->changed);
	}
	txn->revision = store->revision;
	return PGS_OK;
}

void pgs__mem_release(pgs_kv_txn *txn)
{
	pgs__arena arena = {txn->response, 0};
	pgs__arena_free(&arena);
	txn->results = NULL;
	txn->result_count = 0;
	txn->response = NULL;
}

/* --- compaction --------------------------------------------------------- */

static void drop_oldest(pgs__mem_store *store, pgs__mem_key *key)
{
	store->size_bytes -= version_cost(key->versions[key->first]);
	pgs__mem_drop_oldest(key);
}

/* `change` is at or below the new compacted revision: it hides the key's older
 * versions from every read to come. Below it, a delete need not be remembered
 * either. The key goes with its last version, and then no later change names
 * it, for that would have left a version. */
static void forget_hidden(pgs__mem_store *store, pgs__mem_change change, uint64_t revision)
{
	pgs__mem_key *key = change.key;
	while (key->versions[key->first] != change.version)
		drop_oldest(store, key);
	if (change.version->count == 0 && change.version->mod_revision < revision)
		drop_oldest(store, key);
	if (key->count == 0)
		remove_key(store, key);
}

void pgs__mem_compact(pgs__mem_store *store, uint64_t revision)
{
	size_t at = store->log_first;
	for (; at < store->log_end; at++) {
		pgs__mem_change change = store->log[at];
		uint64_t changed = change.version->mod_revision;
		if (changed > revision)
			break;
		forget_hidden(store, change, revision);
		if (changed < revision)
			store->log_first = at + 1;
	}
	store->compacted = revision;
	pthread_cond_broadcast(&store->changed);
}
