/* Running one request inside an LMDB transaction.
 *
 * Everything that can refuse a request is looked at before its first write, so
 * that requests sharing an LMDB transaction cannot harm each other; what is
 * left to fail while writing (a full map, no memory) sets run->dirty. */
#include "kv.h"

#include <stdio.h>
#include <string.h>

#include "redo.h"
#include "scan.h"
#include "util/alloc.h"
#include "util/error.h"

/* --- the store's revisions ------------------------------------------------ */

int pgs__read_revision(pgs__env *env, MDB_cursor *log, uint64_t *out, pgs_error *err)
{
	MDB_val key, value;
	int rc = mdb_cursor_get(log, &key, &value, MDB_LAST);
	if (!rc && key.mv_size != 8)
		rc = MDB_CORRUPTED;
	if (rc)
		return pgs__env_error(env, rc, "cannot read the log's end", err);
	*out = pgs__load_u64be(key.mv_data);
	return PGS_OK;
}

int pgs__read_compacted(pgs__env *env, MDB_txn *txn, uint64_t *out, pgs_error *err)
{
	MDB_val key = {9, "compacted"}, value;
	*out = 0;
	int rc = mdb_get(txn, env->meta, &key, &value);
	if (rc == MDB_NOTFOUND)
		return PGS_OK;
	if (!rc && value.mv_size != 8)
		rc = MDB_CORRUPTED;
	if (rc)
		return pgs__env_error(env, rc, "cannot read the compacted revision", err);
	*out = pgs__load_u64be(value.mv_data);
	return PGS_OK;
}

/* K5 for every read of the branch that is going to run. */
static int check_revisions(pgs__run *run, const pgs_kv_op *ops, size_t count, pgs_error *err)
{
	for (size_t i = 0; i < count; i++) {
		if (ops[i].kind != PGS_KV_RANGE || ops[i].revision == 0)
			continue;
		if (!run->compacted_known) {
			int status = pgs__read_compacted(run->env, run->txn, &run->compacted, err);
			if (status)
				return status;
			run->compacted_known = true;
		}
		if (ops[i].revision > run->revision)
			return pgs__error(err, PGS_EINVAL, "a read at revision %llu: the store is at %llu",
				(unsigned long long)ops[i].revision, (unsigned long long)run->revision);
		if (ops[i].revision < run->compacted)
			return pgs__error(err, PGS_EOLDREV, "a read at revision %llu: history starts at %llu",
				(unsigned long long)ops[i].revision, (unsigned long long)run->compacted);
	}
	return PGS_OK;
}

/* --- compares -------------------------------------------------------------- */

static bool holds(const pgs_kv_compare *c, const pgs__record *found)
{
	int order;
	if (c->target == PGS_KV_VALUE) {
		if (!found)
			return false;
		order = pgs__slice_compare(found->value, c->value);
	} else {
		uint64_t stored = 0;
		if (found)
			stored = c->target == PGS_KV_MOD      ? found->mod_revision
				 : c->target == PGS_KV_CREATE ? found->create_revision
							      : found->version;
		order = (stored > c->number) - (stored < c->number);
	}
	switch (c->relation) {
	case PGS_KV_EQUAL:
		return order == 0;
	case PGS_KV_NOT_EQUAL:
		return order != 0;
	case PGS_KV_LESS:
		return order < 0;
	default:
		return order > 0;
	}
}

static int scan_step(pgs__run *run, pgs__scan *scan, pgs__record *record, bool *found, pgs_error *err)
{
	int status = pgs__scan_next(scan, record, found, err);
	if (status == PGS_EIO)
		return pgs__env_error(run->env, scan->rc, "cannot read a key", err);
	return status == PGS_ECORRUPT ? pgs__error_prefix(err, status, "'%s'", run->env->path) : status;
}

static int run_compare(pgs__run *run, const pgs_kv_compare *c, bool *passed, pgs_error *err)
{
	pgs__scan scan;
	pgs__record record;
	bool found = false, any = false;
	*passed = true;
	pgs__scan_start(&scan, run->versions, c->key, c->range_end, UINT64_MAX);
	do {
		int status = scan_step(run, &scan, &record, &found, err);
		if (status)
			return status;
		if (found && !holds(c, &record))
			*passed = false;
		any |= found;
	} while (found && *passed);
	if (!any)
		*passed = holds(c, NULL);
	return PGS_OK;
}

/* --- operations ------------------------------------------------------------ */

static int write_failed(pgs__run *run, int rc, pgs_slice key, pgs_error *err)
{
	char what[96], name[48];
	snprintf(what, sizeof what, "cannot write key '%s'", pgs__printable(name, sizeof name, key.data, key.size));
	return pgs__env_error(run->env, rc, what, err);
}

/* Add a version of a key; one a revision, as K3 sees to. */
static int add_version(pgs__run *run, pgs_slice key, uint64_t create, uint64_t version, pgs_slice value, pgs_error *err)
{
	uint8_t stored[PGS__LOCAL_STORED_KEY_MAX], header[PGS__LOCAL_HEADER_MAX];
	size_t header_size = pgs__record_header(header, create, version, version == 0);
	MDB_val k = pgs__record_key(stored, key, run->revision + 1), v = {header_size + value.size, NULL};
	run->dirty = true;
	pgs__log_put(&run->log_record, key);
	if (run->log_record.failed)
		return pgs__error_nomem(err, "the log");
	int rc = mdb_cursor_put(run->versions, &k, &v, MDB_RESERVE);
	if (rc)
		return write_failed(run, rc, key, err);
	memcpy(v.mv_data, header, header_size);
	if (value.size)
		memcpy((char *)v.mv_data + header_size, value.data, value.size);
	if (run->keeps_puts)
		pgs__redo_note(&run->puts, PGS__REDO_VERSIONS, &k, (pgs_slice){header, header_size}, value);
	return PGS_OK;
}

static int run_put(pgs__run *run, const pgs_kv_op *op, pgs_error *err)
{
	pgs__scan scan;
	pgs__record old;
	bool found;
	pgs__scan_start(&scan, run->versions, op->key, (pgs_slice){NULL, 0}, UINT64_MAX);
	int status = scan_step(run, &scan, &old, &found, err);
	if (status)
		return status;
	uint64_t create = found ? old.create_revision : run->revision + 1;
	return add_version(run, op->key, create, found ? old.version + 1 : 1, op->value, err);
}

static int run_delete(pgs__run *run, const pgs_kv_op *op, pgs_kv_result *result, pgs_error *err)
{
	pgs__scan scan;
	pgs__record record;
	bool found = false;
	pgs__scan_start(&scan, run->versions, op->key, op->range_end, UINT64_MAX);
	for (;;) {
		int status = scan_step(run, &scan, &record, &found, err);
		if (status || !found)
			return status;
		/* LMDB's memory moves under a write: the scan has a copy. */
		pgs_slice key = {scan.last, scan.last_size};
		status = add_version(run, key, 0, 0, (pgs_slice){NULL, 0}, err);
		if (status)
			return status;
		pgs__scan_moved(&scan);
		result->total++;
	}
}

/* One allocation for key and value together. */
static int copy_pair(pgs__arena *arena, pgs_kv_pair *out, const pgs__record *r, bool keys_only, pgs_error *err)
{
	size_t value_size = keys_only ? 0 : r->value.size;
	char *at = pgs__arena_alloc(arena, r->key.size + value_size);
	if (!at)
		return pgs__error_nomem(err, "a response");
	memcpy(at, r->key.data, r->key.size);
	if (value_size)
		memcpy(at + r->key.size, r->value.data, value_size);
	*out = (pgs_kv_pair){
		.key = {at, r->key.size},
		.value = {value_size ? at + r->key.size : NULL, value_size},
		.create_revision = r->create_revision,
		.mod_revision = r->mod_revision,
		.version = r->version,
	};
	return PGS_OK;
}

/* Count, or collect in run->pairs. */
static int collect(pgs__run *run, const pgs_kv_op *op, pgs__arena *arena, pgs_kv_result *result, pgs_error *err)
{
	pgs__scan scan;
	pgs__record record;
	bool found;
	pgs__scan_start(&scan, run->versions, op->key, op->range_end, op->revision ? op->revision : UINT64_MAX);
	for (;;) {
		int status = scan_step(run, &scan, &record, &found, err);
		if (status || !found)
			return status;
		if (op->count_only) {
			result->total++;
			continue;
		}
		if (record.mod_revision < op->min_mod_revision)
			continue;
		if (op->limit && result->count == op->limit) {
			result->more = true;
			return PGS_OK;
		}
		if (pgs__grow(&run->pairs, &run->pair_capacity, result->count + 1, sizeof *run->pairs))
			return pgs__error_nomem(err, "a response");
		status = copy_pair(arena, &run->pairs[result->count], &record, op->keys_only, err);
		if (status)
			return status;
		result->count++;
	}
}

static int run_range(pgs__run *run, const pgs_kv_op *op, pgs__arena *arena, pgs_kv_result *result, pgs_error *err)
{
	int status = collect(run, op, arena, result, err);
	if (status || result->count == 0)
		return status;
	size_t size = result->count * sizeof *result->pairs;
	result->pairs = pgs__arena_alloc(arena, size);
	if (!result->pairs)
		return pgs__error_nomem(err, "a response");
	memcpy(result->pairs, run->pairs, size);
	return PGS_OK;
}

static int run_op(pgs__run *run, const pgs_kv_op *op, pgs__arena *arena, pgs_kv_result *result, pgs_error *err)
{
	switch (op->kind) {
	case PGS_KV_PUT:
		return run_put(run, op, err);
	case PGS_KV_DELETE:
		return run_delete(run, op, result, err);
	default:
		return run_range(run, op, arena, result, err);
	}
}

/* --- the request ------------------------------------------------------------ */

/* A changed store has a new revision and, at the log's end, what changed in it. */
static int end_revision(pgs__run *run, pgs_error *err)
{
	uint8_t revision[8];
	pgs__store_u64be(revision, run->revision + 1);
	MDB_val key = {sizeof revision, revision}, value = {run->log_record.size, run->log_record.data};
	int rc = mdb_cursor_put(run->log, &key, &value, MDB_APPEND);
	if (rc)
		return pgs__env_error(run->env, rc, "cannot write the log", err);
	if (run->keeps_puts)
		pgs__redo_note(&run->puts, PGS__REDO_LOG, &key, pgs__buffer_slice(&run->log_record), (pgs_slice){NULL, 0});
	run->revision++;
	run->changed = true;
	return PGS_OK;
}

static int run_branch(pgs__run *run, pgs_kv_txn *txn, pgs__arena *arena, pgs_error *err)
{
	const pgs_kv_op *ops = txn->succeeded ? txn->success : txn->failure;
	size_t count = txn->succeeded ? txn->success_count : txn->failure_count;
	int status = check_revisions(run, ops, count, err);
	if (status || count == 0)
		return status;
	txn->results = pgs__arena_calloc(arena, count, sizeof *txn->results);
	if (!txn->results)
		return pgs__error_nomem(err, "a response");
	for (size_t i = 0; i < count && !status; i++)
		status = run_op(run, &ops[i], arena, &txn->results[i], err);
	txn->result_count = count;
	if (!status && run->log_record.size)
		status = end_revision(run, err);
	return status;
}

int pgs__run_txn(pgs__run *run, pgs_kv_txn *txn, pgs_error *err)
{
	pgs__arena arena = {0};
	int status = PGS_OK;
	bool passed = true;
	for (size_t i = 0; i < txn->compare_count && passed && !status; i++)
		status = run_compare(run, &txn->compares[i], &passed, err);
	txn->succeeded = passed;
	run->log_record.size = 0;
	if (!status)
		status = run_branch(run, txn, &arena, err);
	/* The arena's first block is all that is needed to free it. */
	txn->response = arena.blocks;
	txn->revision = run->revision;
	if (!status)
		run->dirty = false;
	else
		pgs__txn_release(txn);
	return status;
}

int pgs__run_begin(pgs__run *run, pgs_error *err)
{
	return pgs__read_revision(run->env, run->log, &run->revision, err);
}

void pgs__run_end(pgs__run *run)
{
	pgs__buffer_free(&run->log_record);
	pgs__buffer_free(&run->puts);
	pgs__free(run->pairs);
	run->pairs = NULL;
	run->pair_capacity = 0;
}

void pgs__txn_release(pgs_kv_txn *txn)
{
	pgs__arena arena = {txn->response, 0};
	pgs__arena_free(&arena);
	txn->results = NULL;
	txn->result_count = 0;
	txn->response = NULL;
}
