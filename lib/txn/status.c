/* What became of a commit whose outcome is not known.
 *
 * The question makes the answer true: one KV transaction puts "aborted" at x/<uuid> if nothing is there, so that a
 * request still on its way fails its own compare (invariant 5). It also compares floor <= B: past that the entry may
 * have been pruned, and its absence tells nothing.
 */
#include <pagestore/txn.h>

#include "codec/changelog.h"
#include "txn/commit.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define RETRY_PAUSE_MS 5

enum { READ_X, READ_G, READ_M, READ_COUNT };

static int judge(const pgs_db *db, const pgs_kv_txn *txn, int *status, uint64_t *revision, pgs_error *err)
{
	const pgs_kv_pair *x = pgs__got(txn, READ_X);
	pgs__change change;
	if (x) {
		int result = pgs__change_decode(x->value, &change);
		if (result != PGS_OK)
			return pgs__error(err, result, "the changelog entry of that commit is damaged");
		*status = change.kind == PGS__CHANGE_ABORTED ? PGS_COMMIT_NOT_HAPPENED : PGS_COMMIT_HAPPENED;
		if (revision && *status == PGS_COMMIT_HAPPENED)
			*revision = x->mod_revision;
		return PGS_OK;
	}
	if (!pgs__got(txn, READ_M))
		return pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", db->name);
	if (PGS__BUG(STATUS_AFTER_FLOOR))
		return *status = PGS_COMMIT_NOT_HAPPENED, PGS_OK;
	return pgs__error(err, PGS_EUNKNOWN, "the history that would tell what became of that commit has been collected");
}

/* One try. *answered: the KV replied, and the result is the answer. */
static int ask(pgs_db *db, const pgs_commit_token *token, int *status, uint64_t *revision, uint64_t deadline_ms,
	       bool *answered, pgs_error *err)
{
	const uint8_t *prefix = pgs__db_prefix(db);
	pgs__key x = pgs__key_uuid(prefix, 'x', token->uuid), g = pgs__key_single(prefix, 'g'),
		 m = pgs__key_single(prefix, 'm');
	uint8_t bound[8];
	pgs__buffer value = {0};
	pgs__store_u64be(bound, token->base_revision + 1);
	pgs__change_encode(&(pgs__change){.kind = PGS__CHANGE_ABORTED}, &value);
	if (value.failed) {
		pgs__buffer_free(&value);
		return pgs__error_nomem(err, "commit status");
	}
	const pgs_kv_compare compares[] = {
		pgs__if_absent(pgs__key_slice(&x)),
		pgs__if_value_less(pgs__key_slice(&g), (pgs_slice){bound, sizeof bound}),
		pgs__if_exists(pgs__key_slice(&m)),
	};
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&x), pgs__buffer_slice(&value));
	const pgs_kv_op reads[READ_COUNT] = {
		[READ_X] = pgs__op_get(pgs__key_slice(&x), 0),
		[READ_G] = pgs__op_get(pgs__key_slice(&g), 0),
		[READ_M] = pgs__op_get(pgs__key_slice(&m), 0),
	};
	pgs_kv_txn txn = {.compares = compares,
			  .compare_count = 3,
			  .success = &put,
			  .success_count = PGS__BUG(STATUS_WITHOUT_FENCE) ? 0 : 1,
			  .failure = reads,
			  .failure_count = READ_COUNT};
	const pgs__backend *backend = pgs__db_backend(db);
	int result = pgs__kv_send(backend->kv, &txn, deadline_ms, err);
	*answered = result == PGS_OK;
	if (result == PGS_OK && txn.succeeded)
		*status = PGS_COMMIT_NOT_HAPPENED;
	else if (result == PGS_OK)
		result = judge(db, &txn, status, revision, err);
	backend->kv->vtable->release(backend->kv, &txn, 1);
	pgs__buffer_free(&value);
	return result;
}

/* Nothing can be put now: but perhaps the entry is there. *answered as above; else *err stays. */
static int look(pgs_db *db, const pgs_commit_token *token, int *status, uint64_t *revision, uint64_t deadline_ms,
		bool *answered, pgs_error *err)
{
	const pgs__backend *backend = pgs__db_backend(db);
	pgs__key x = pgs__key_uuid(pgs__db_prefix(db), 'x', token->uuid);
	const pgs_kv_op read = pgs__op_get(pgs__key_slice(&x), 0);
	pgs_kv_txn txn = {.success = &read, .success_count = 1};
	int result = PGS_ENOSPC;
	*answered = pgs__kv_send(backend->kv, &txn, deadline_ms, NULL) == PGS_OK && pgs__got(&txn, READ_X);
	if (*answered)
		result = judge(db, &txn, status, revision, err);
	backend->kv->vtable->release(backend->kv, &txn, 1);
	return result;
}

int pgs__commit_status(pgs_db *db, const pgs_commit_token *token, int *status, uint64_t *revision, uint64_t deadline_ms,
		       pgs_error *err)
{
	*status = 0;
	if (revision)
		*revision = 0;
	for (;;) {
		bool answered = false;
		int result = ask(db, token, status, revision, deadline_ms, &answered, err);
		if (result == PGS_ENOSPC)
			return look(db, token, status, revision, deadline_ms, &answered, err);
		/* A lost answer is asked for again: "aborted" twice is as good as once. */
		if (answered || result != PGS_EUNKNOWN || pgs__deadline_passed(deadline_ms))
			return result;
		pgs__sleep_ms(RETRY_PAUSE_MS, deadline_ms);
	}
}

int pgs_commit_status(pgs_db *db, const pgs_commit_token *token, int *status, uint64_t *revision, pgs_error *err)
{
	return pgs__commit_status(db, token, status, revision, pgs__db_deadline(db, 0), err);
}
