/* What all jobs share: claims, the floor, fenced steps.
 *
 *     k/m-<uuid> absent ── put, if no claim moved since they were read and no live one overlaps ──→ held ── deleted
 *                               ↑                                                                    │
 *                               └── dead ones are deleted by whoever takes a claim next ←────────────┘
 *
 * Two claims that overlap are never held at once by workers that both still can do something: the second was put in a
 * transaction that deleted the first, and every step compares the create revision of its own claim (invariant 9).
 */
#include "maintain/worker.h"

#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define LEASE_MS 30000
#define TAKE_TRIES 8
#define RETRY_PAUSE_MS 5
#define STEP_OPS_MAX 1024 /* where the backend sets no limit */
#define BREAKS_MAX 64     /* dead claims deleted at once */

/* --- time, and the floor ------------------------------------------------------------ */

uint64_t pgs__worker_deadline(const pgs__worker *w)
{
	return pgs__db_deadline(w->db, 0);
}

bool pgs__worker_spent(const pgs__worker *w)
{
	return w->bytes_left == 0 || pgs__deadline_passed(w->deadline_ms);
}

static int dropped(const pgs__worker *w)
{
	return pgs__error(w->err, PGS_ENOTFOUND, "database %s was dropped", w->db->name);
}

int pgs__worker_read_floor(pgs__worker *w)
{
	const pgs__backend *backend = pgs__db_backend(w->db);
	pgs__key g = pgs__key_single(pgs__db_prefix(w->db), 'g'), m = pgs__key_single(pgs__db_prefix(w->db), 'm');
	const pgs_kv_op gets[] = {pgs__op_get(pgs__key_slice(&g), 0), pgs__op_get(pgs__key_slice(&m), 0)};
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend, &txn, gets, 2, pgs__worker_deadline(w), w->err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (result == PGS_OK && !pgs__got(&txn, 1))
		result = dropped(w);
	else if (result == PGS_OK && (!pair || pgs__floor_decode(pair->value, &w->floor) != PGS_OK))
		result = pgs__error(w->err, PGS_ECORRUPT, "database %s: the value of key g, floor, is %s", w->db->name,
				    pair ? "damaged" : "not there");
	if (result == PGS_OK) {
		w->floor_revision = pair->mod_revision;
		w->created = pgs__got(&txn, 1)->create_revision;
	}
	pgs__kv_release(backend, &txn, 1);
	return result;
}

/* --- claims --------------------------------------------------------------------------- */

static bool overlap(const pgs__scope *a, const pgs__scope *b)
{
	uint32_t jobs = a->jobs & b->jobs;
	if (jobs & ~(uint32_t)PGS__JOB_MERGE)
		return true;
	return jobs && a->level_first <= b->level_last && b->level_first <= a->level_last &&
	       memcmp(a->first.bytes, b->last.bytes, PGS__ID_SIZE) <= 0 &&
	       memcmp(b->first.bytes, a->last.bytes, PGS__ID_SIZE) <= 0;
}

/* A claim as it stands in the KV. */
typedef struct standing {
	pgs__lease lease; /* first: judged through pointers to it */
	pgs__scope scope;
} standing;

typedef struct claims {
	standing *list;
	size_t count, capacity;
	pgs_error *err;
} claims;

static int collect_claim(void *ctx, const pgs_kv_pair *pair)
{
	claims *c = ctx;
	pgs__claim_value value;
	if (pair->key.size > PGS__KEY_MAX)
		return pgs__error(c->err, PGS_ECORRUPT, "the key of a maintenance claim (k/m-) is malformed");
	if (pgs__grow(&c->list, &c->capacity, c->count + 1, sizeof *c->list) != PGS_OK)
		return pgs__error_nomem(c->err, "maintenance claims");
	standing *s = &c->list[c->count++];
	*s = (standing){.lease = {.create_revision = pair->create_revision, .mod_revision = pair->mod_revision}};
	s->lease.key.size = (uint16_t)pair->key.size;
	memcpy(s->lease.key.bytes, pair->key.data, pair->key.size);
	if (pgs__claim_decode(pair->value, &value) == PGS_OK) {
		s->lease.holder = value.holder;
		s->scope = (pgs__scope){value.jobs, value.level_first, value.level_last, value.first, value.last};
	} else { /* damaged, or of a newer version: it covers everything, for as long as ours would */
		s->lease.holder.lease_ms = LEASE_MS;
		s->scope = (pgs__scope){.jobs = UINT32_MAX, .level_last = UINT8_MAX};
		memset(s->scope.last.bytes, 0xff, PGS__ID_SIZE);
	}
	return PGS_OK;
}

/* Read all claims and tell which are dead. *revision: as of when. */
static int read_claims(pgs__worker *w, claims *out, uint64_t *revision)
{
	pgs__key from = pgs__key_lock(pgs__db_prefix(w->db), "m-"), end = pgs__key_lock(pgs__db_prefix(w->db), "m.");
	uint64_t asked = pgs__now_ms();
	out->count = 0;
	*revision = 0;
	int result = pgs__kv_read_range(pgs__db_backend(w->db), &from, &end, revision, collect_claim, out,
					pgs__worker_deadline(w), w->err);
	if (result != PGS_OK || out->count == 0)
		return result;
	pgs__lease **leases = pgs__calloc(out->count, sizeof *leases);
	if (!leases)
		return pgs__error_nomem(w->err, "maintenance claims");
	for (size_t i = 0; i < out->count; i++)
		leases[i] = &out->list[i].lease;
	pgs__observed_judge(&w->db->seen->claims, leases, out->count, asked);
	pgs__free(leases);
	return PGS_OK;
}

/* What is said of our claim in all its puts. */
static int encode_claim(const pgs__worker *w, const pgs__claim *claim, pgs__buffer *out)
{
	const pgs__scope *s = &claim->scope;
	pgs__claim_value value = {.jobs = s->jobs,
				  .level_first = s->level_first,
				  .level_last = s->level_last,
				  .first = s->first,
				  .last = s->last};
	int result = pgs__lease_self(&value.holder, LEASE_MS, w->err);
	if (result != PGS_OK)
		return result;
	memcpy(value.holder.owner, claim->owner, sizeof claim->owner);
	pgs__claim_encode(&value, out);
	return out->failed ? pgs__error_nomem(w->err, "maintenance claim") : PGS_OK;
}

/* The deletes of dead claims, then room for one more operation. Their number, or SIZE_MAX if a live one is in the way.
 * An earlier put of ours whose reply was lost is neither. */
static size_t find_dead(pgs__worker *w, const claims *all, const pgs__claim *own, size_t room, pgs_kv_op *ops)
{
	size_t count = 0;
	for (size_t i = 0; i < all->count; i++) {
		const standing *s = &all->list[i];
		if (memcmp(s->lease.holder.owner, own->owner, sizeof own->owner) == 0)
			continue;
		bool dead = s->lease.dead && count + 1 < room;
		if (!dead && overlap(&s->scope, &own->scope)) {
			pgs__worker_hindered(w, &s->lease);
			return SIZE_MAX;
		}
		if (dead)
			ops[count++] = pgs__op_delete(pgs__key_slice(&s->lease.key), (pgs_slice){0});
	}
	return count;
}

/* Put ours if the claims are still those read at `revision`. PGS_OK with claim->held 0: look again. */
static int send_claim(pgs__worker *w, pgs__claim *claim, pgs_kv_op *ops, size_t deletes, pgs_slice value,
		      uint64_t revision)
{
	const pgs__backend *backend = pgs__db_backend(w->db);
	pgs__key from = pgs__key_lock(pgs__db_prefix(w->db), "m-"), end = pgs__key_lock(pgs__db_prefix(w->db), "m."),
		 m = pgs__key_single(pgs__db_prefix(w->db), 'm');
	const pgs_kv_compare compares[] = {
		pgs__if_absent(pgs__key_slice(&claim->key)),
		pgs__if_exists(pgs__key_slice(&m)),
		{.key = pgs__key_slice(&from),
		 .range_end = pgs__key_slice(&end),
		 .target = PGS_KV_MOD,
		 .relation = PGS_KV_LESS,
		 .number = revision + 1},
	};
	const pgs_kv_op gets[] = {pgs__op_get(pgs__key_slice(&claim->key), 0), pgs__op_get(pgs__key_slice(&m), 0)};
	ops[deletes] = pgs__op_put(pgs__key_slice(&claim->key), value);
	pgs_kv_txn txn = {.compares = compares,
			  .compare_count = 3,
			  .success = ops,
			  .success_count = deletes + 1,
			  .failure = gets,
			  .failure_count = 2};
	int result = backend->kv->vtable->txn(backend->kv, &txn, 1, pgs__worker_deadline(w), w->err);
	const pgs_kv_pair *ours = result == PGS_OK && !txn.succeeded ? pgs__got(&txn, 0) : NULL;
	if (result == PGS_OK && txn.succeeded)
		claim->held = txn.revision;
	else if (ours) /* a put whose reply was lost */
		claim->held = ours->create_revision;
	else if (result == PGS_OK && !pgs__got(&txn, 1))
		result = dropped(w);
	if (result == PGS_OK && txn.succeeded && deletes)
		pgs__log(w->db->store, PGS_LOG_WARN, "database %s: broke %zu claims of dead or stuck workers",
			 w->db->name, deletes);
	backend->kv->vtable->release(backend->kv, &txn, 1);
	return result;
}

static int try_take(pgs__worker *w, pgs__claim *claim, claims *all, pgs_slice value)
{
	pgs_kv_op ops[BREAKS_MAX + 1];
	uint64_t revision;
	size_t room = pgs__max_ops(pgs__db_backend(w->db));
	int result = read_claims(w, all, &revision);
	if (result != PGS_OK)
		return result;
	size_t deletes = find_dead(w, all, claim, room < BREAKS_MAX + 1 ? room : BREAKS_MAX + 1, ops);
	if (deletes == SIZE_MAX)
		return pgs__error(w->err, PGS_EBUSY, "another worker maintains database %s", w->db->name);
	claim->renewed_ms = pgs__now_ms();
	return send_claim(w, claim, ops, deletes, value, revision);
}

static int claim_init(pgs__worker *w, pgs__claim *claim, const pgs__scope *scope)
{
	uint8_t uuid[16];
	char role[2 + 32 + 1] = "m-";
	*claim = (pgs__claim){.scope = *scope};
	if (pgs__uuid7(uuid) != PGS_OK || pgs__random_bytes(claim->owner, sizeof claim->owner) != PGS_OK)
		return pgs__error(w->err, PGS_EIO, "the system gives no random bytes");
	pgs__hex(role + 2, uuid, sizeof uuid);
	claim->key = pgs__key_lock(pgs__db_prefix(w->db), role);
	return PGS_OK;
}

/* A put of it may have happened, and it is not wanted any more. What comes later still ends with its lease. */
static void forget_claim(pgs__worker *w, const pgs__claim *claim)
{
	const pgs_kv_op op = pgs__op_delete(pgs__key_slice(&claim->key), (pgs_slice){0});
	pgs_kv_txn txn;
	pgs__kv_read(pgs__db_backend(w->db), &txn, &op, 1, pgs__worker_deadline(w), NULL);
	pgs__kv_release(pgs__db_backend(w->db), &txn, 1);
}

int pgs__claim_take(pgs__worker *w, const pgs__scope *scope, pgs__claim *out)
{
	pgs__buffer value = {0};
	claims all = {.err = w->err};
	uint64_t deadline = pgs__worker_deadline(w);
	int result = claim_init(w, out, scope), tries = 0;
	bool unknown = false;
	if (result == PGS_OK)
		result = encode_claim(w, out, &value);
	while (result == PGS_OK && out->held == 0) {
		result = try_take(w, out, &all, pgs__buffer_slice(&value));
		unknown |= result == PGS_EUNKNOWN;
		if (result == PGS_EUNKNOWN && !pgs__deadline_passed(deadline)) {
			pgs__sleep_ms(RETRY_PAUSE_MS, deadline);
			result = PGS_OK;
		} else if (result == PGS_OK && out->held == 0 && ++tries == TAKE_TRIES) {
			result = pgs__error(w->err, PGS_EBUSY, "other workers maintain database %s", w->db->name);
		}
	}
	if (result != PGS_OK && unknown)
		forget_claim(w, out);
	pgs__free(all.list);
	pgs__buffer_free(&value);
	return result;
}

static pgs_kv_compare if_held(const pgs__claim *claim)
{
	return (pgs_kv_compare){.key = pgs__key_slice(&claim->key),
				.target = PGS_KV_CREATE,
				.relation = PGS_KV_EQUAL,
				.number = claim->held};
}

/* Put or delete the claim if it is still ours, again while it is not known whether that happened. */
static int change_claim(pgs__worker *w, const pgs__claim *claim, pgs_kv_op op, uint64_t deadline, bool *held)
{
	const pgs__backend *backend = pgs__db_backend(w->db);
	const pgs_kv_compare ours = if_held(claim);
	int result = PGS_EUNKNOWN;
	for (;;) {
		pgs_kv_txn txn = {.compares = &ours, .compare_count = 1, .success = &op, .success_count = 1};
		result = backend->kv->vtable->txn(backend->kv, &txn, 1, deadline, w->err);
		*held = result == PGS_OK && txn.succeeded;
		backend->kv->vtable->release(backend->kv, &txn, 1);
		if (result != PGS_EUNKNOWN || pgs__deadline_passed(deadline))
			return result;
		pgs__sleep_ms(RETRY_PAUSE_MS, deadline);
	}
}

int pgs__claim_renew(pgs__worker *w, pgs__claim *claim)
{
	uint64_t now = pgs__now_ms();
	pgs__buffer value = {0};
	bool held = false;
	if (claim->held && now - claim->renewed_ms < LEASE_MS / 3)
		return PGS_OK;
	int result = claim->held ? encode_claim(w, claim, &value) : PGS_OK;
	if (result == PGS_OK && claim->held)
		result = change_claim(w, claim, pgs__op_put(pgs__key_slice(&claim->key), pgs__buffer_slice(&value)),
				      pgs__worker_deadline(w), &held);
	pgs__buffer_free(&value);
	if (result != PGS_OK)
		return result;
	if (!held) {
		claim->held = 0;
		return pgs__error(w->err, PGS_EBUSY, "the claim of this worker on database %s was broken", w->db->name);
	}
	claim->renewed_ms = now;
	return PGS_OK;
}

void pgs__claim_release(pgs__worker *w, pgs__claim *claim)
{
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&claim->key), (pgs_slice){0});
	pgs_error *err = w->err;
	bool held;
	if (claim->held == 0)
		return;
	w->err = NULL; /* what the job failed with is still to be told; a claim that stays ends with its lease */
	change_claim(w, claim, delete, pgs__worker_deadline(w), &held);
	w->err = err;
	claim->held = 0;
}

void pgs__worker_hindered(pgs__worker *w, const pgs__lease *lease)
{
	if (lease->dead_at_ms == 0 || !pgs__lease_is_elsewhere(&lease->holder))
		return;
	if (w->in_the_way.key.size == 0 || lease->dead_at_ms < w->in_the_way.dead_at_ms)
		w->in_the_way = *lease;
}

/* --- steps ------------------------------------------------------------------------------ */

size_t pgs__step_room(const pgs__worker *w)
{
	size_t ops = pgs__max_ops(pgs__db_backend(w->db));
	return (ops < STEP_OPS_MAX ? ops : STEP_OPS_MAX) - PGS__FENCE_COMPARES;
}

/* Send it once, then again while its outcome is unknown. */
static int send_step(pgs__worker *w, pgs__step *step, const pgs_kv_compare *compares, size_t count)
{
	const pgs__backend *backend = pgs__db_backend(w->db);
	uint64_t deadline = pgs__worker_deadline(w);
	for (;;) {
		pgs_kv_txn txn = {.compares = compares,
				  .compare_count = count,
				  .success = step->ops,
				  .success_count = step->op_count};
		int result = backend->kv->vtable->txn(backend->kv, &txn, 1, deadline, w->err);
		step->applied = result == PGS_OK && txn.succeeded;
		step->revision = step->applied ? txn.revision : 0;
		backend->kv->vtable->release(backend->kv, &txn, 1);
		if (result != PGS_EUNKNOWN)
			return result;
		step->unsure = true;
		if (pgs__deadline_passed(deadline))
			return result;
		pgs__sleep_ms(RETRY_PAUSE_MS, deadline);
	}
}

int pgs__step_run(pgs__worker *w, const pgs__claim *claim, pgs__step *step)
{
	pgs__key m = pgs__key_single(pgs__db_prefix(w->db), 'm'), g = pgs__key_single(pgs__db_prefix(w->db), 'g');
	uint8_t bound[8];
	size_t count = step->compare_count;
	step->applied = step->unsure = false;
	step->revision = 0;
	pgs_kv_compare *compares = pgs__calloc(count + PGS__FENCE_COMPARES, sizeof *compares);
	if (!compares)
		return pgs__error_nomem(w->err, "maintenance");
	if (count)
		memcpy(compares, step->compares, count * sizeof *compares);
	compares[count++] = pgs__if_exists(pgs__key_slice(&m));
	pgs__store_u64be(bound, step->base_revision + 1); /* floor <= base: see commit.c */
	if (!PGS__BUG(MERGE_IGNORES_FLOOR))
		compares[count++] = pgs__if_value_less(pgs__key_slice(&g), (pgs_slice){bound, sizeof bound});
	if (!PGS__BUG(WORKER_UNFENCED))
		compares[count++] = if_held(claim);
	int result = send_step(w, step, compares, count);
	pgs__free(compares);
	return result;
}
