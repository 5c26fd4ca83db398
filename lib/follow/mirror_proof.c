/* Whether what the mirror has is of the KV's history.
 *
 * A KV may be restored from a backup and go on, while this machine is away; then it comes to the revisions that the mirror
 * knows, with other contents. So what the mirror has at S is held against what the KV had at S:
 *
 *  - the changelog entry of the last commit. Its uuid is random: the history that has it at the same revision is the same up
 *    to there, so all commits up to S are the same; pointers and attributes are changed by commits alone;
 *  - t, z, e, g and m: packs, folds and the floor may have gone on without a commit.
 *
 * It costs one request. Where the KV's history does not reach back to S, nothing can be told, and the mirror is loaded anew.
 */
#include "follow/follower.h"

#include <string.h>

#include "util/bug.h"
#include "util/error.h"

enum { GET_T, GET_Z, GET_E, GET_G, GET_M, GET_SINGLES, GET_LAST = GET_SINGLES, GET_COUNT };

typedef struct holding {
	const pgs_kv_txn *txn; /* what the KV had */
	bool differs;
	uint64_t commit;       /* by the mirror */
} holding;

static bool same(const pgs_kv_pair *a, const pgs_kv_pair *b)
{
	return a->mod_revision == b->mod_revision && a->create_revision == b->create_revision &&
	       a->version == b->version && pgs__slice_equal(a->value, b->value);
}

static void hold(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	holding *h = ctx;
	const pgs_kv_pair *there = pgs__got(h->txn, index);
	if (index == GET_T && answer == PGS__MIRROR_PRESENT)
		h->commit = pair->mod_revision;
	if (answer == PGS__MIRROR_PRESENT)
		h->differs |= !there || !same(pair, there);
	else if (answer == PGS__MIRROR_ABSENT)
		h->differs |= there != NULL;
}

/* While it is loaded, the mirror says nothing of its keys, and the last commit is all there is to be held. */
static pgs__proof compare(const pgs__follower *f, const pgs__mirror_state *state, const pgs_slice *keys,
			  const pgs_kv_txn *txn)
{
	holding h = {.txn = txn, .commit = state->last.revision};
	const pgs_kv_pair *last = pgs__got(txn, GET_LAST);
	int result = state->sequence ? pgs__mirror_get(f->db->contents.disk, state->sequence, keys, GET_SINGLES, hold, &h,
						       NULL, NULL)
				     : PGS_OK;
	bool known = state->last.revision && state->last.revision == h.commit;
	bool there = last && last->mod_revision == state->last.revision;
	if (PGS__BUG(MIRROR_PROVED_BY_REVISION))
		known = there = true;
	if (h.differs || (known && !there))
		return PGS__PROOF_OTHER;
	return result == PGS_OK && known ? PGS__PROOF_SAME : PGS__PROOF_NONE;
}

int pgs__mirror_prove_history(const pgs__follower *f, const pgs__mirror_state *state, uint64_t deadline_ms,
			      pgs__proof *out, pgs_error *err)
{
	static const char kinds[] = {[GET_T] = 't', [GET_Z] = 'z', [GET_E] = 'e', [GET_G] = 'g', [GET_M] = 'm'};
	const uint8_t *prefix = pgs__db_prefix(f->db);
	pgs__key keys[GET_COUNT];
	pgs_slice slices[GET_COUNT];
	pgs_kv_op ops[GET_COUNT];
	pgs_kv_txn txn;
	for (size_t i = 0; i < GET_COUNT; i++) {
		keys[i] = i == GET_LAST ? pgs__key_uuid(prefix, 'x', state->last.uuid) : pgs__key_single(prefix, kinds[i]);
		slices[i] = pgs__key_slice(&keys[i]);
		ops[i] = pgs__op_get(slices[i], state->sequence ? state->sequence : state->loading);
	}
	*out = PGS__PROOF_SAME;
	if (PGS__BUG(MIRROR_UNPROVED))
		return PGS_OK;
	int result = pgs__kv_read(pgs__db_backend(f->db), &txn, ops, GET_COUNT, deadline_ms, err);
	if (result == PGS_OK)
		*out = compare(f, state, slices, &txn);
	else if (result == PGS_EOLDREV || result == PGS_EINVAL) /* gone; or the KV has not come so far (again) */
		*out = result == PGS_EOLDREV ? PGS__PROOF_NONE : PGS__PROOF_OTHER;
	pgs__kv_release(pgs__db_backend(f->db), &txn, 1);
	return result == PGS_EOLDREV || result == PGS_EINVAL ? PGS_OK : result;
}
