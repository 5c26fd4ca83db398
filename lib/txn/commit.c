/* Committing.
 *
 *     place ─ prepare ─→ attempt ──┬─ succeeded ───────────────────────────→ committed
 *                          ↑       ├─ it did not ask why it failed: again, asking
 *                          ↑       ├─ x/<uuid> is ours: an attempt whose reply was lost ─→ committed
 *                          │       ├─ outcome unknown: the same again ──┐
 *                          │       ├─ lock, z, t or e moved, folds only │
 *                          └───────┴────────── mend ←───────────────────┘
 *                                  └─ conflict, floor passed, dropped ─→ not committed, or no longer known
 *
 * At most once (invariant 5): every attempt compares that x/<uuid> is absent and puts it. After an unknown attempt
 * a failure is answered only when that attempt can never land any more: the database was dropped, or "aborted" was put
 * at x/<uuid> (a conflict may go away: an attribute read as absent is absent again when it is removed). The rest is
 * tried until the deadline, and then the answer is PGS_EUNKNOWN. So it is at once when the floor has passed B: no
 * attempt can land, but one may have, and its entry have been pruned.
 *
 * Most commits succeed with their first attempt, so that one is made cheap: it does not read what would tell why it
 * failed; and where nobody else has committed lately, it compares that nobody has since the snapshot, which is one
 * compare in place of those of z, e and every page. A first attempt that fails says nothing: it is made again in full.
 */
#include "txn/commit.h"

#include <stdlib.h>

#include "txn/upload.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define LOG_ROUNDS_MAX 3
#define LARGE_READ_SET 1000 /* in order=counter: proposes the very next number */
#define COUNTER_SPREAD 10
#define RESEND_PAUSE_MS 5
#define CLEANUP_MS 250
#define FIXED_OPS 3             /* t, x/<uuid>, and now and then e or z */
#define FIXED_BYTES 1024        /* what they take */
#define POINTER_BYTES 64        /* a page's in the KV, besides its content or delta, */
#define PACKED_BYTES (2u << 20) /* but all of them no more than this: the rest is in blobs */
#define QUIET_COMMITS 3 /* with nobody else's in between: then the next one counts on it */

/* --- one attempt ------------------------------------------------------------------- */

/* Places of the failure branch's reads. */
enum { READ_T, READ_G, READ_Z, READ_E, READ_LOCK, READ_X, READ_M, READ_CHECKS }; /* where it asks */

typedef struct keys {
	pgs__key t, g, z, e, lock, x, m;
} keys;

typedef struct attempt {
	pgs__commit *c;
	pgs__arena arena;
	keys keys;
	pgs_kv_compare *compares;
	size_t compare_count;
	pgs_kv_op *success;
	size_t success_count;
	pgs_kv_op *reads;
	size_t read_count;
	uint8_t floor_bound[8];
	uint8_t extent[PGS__NUMBER_SIZE];
	uint8_t counter[PGS__NUMBER_SIZE];
} attempt;

static void make_keys(keys *k, const uint8_t *prefix, const uint8_t *uuid)
{
	k->t = pgs__key_single(prefix, 't');
	k->g = pgs__key_single(prefix, 'g');
	k->z = pgs__key_single(prefix, 'z');
	k->e = pgs__key_single(prefix, 'e');
	k->m = pgs__key_single(prefix, 'm');
	k->lock = pgs__key_lock(prefix, "w");
	k->x = pgs__key_uuid(prefix, 'x', uuid);
}

/* Whether the counter is what orders this commit. */
static bool by_counter(const pgs__commit *c)
{
	return c->t->db->order == PGS_ORDER_COUNTER;
}

/* What must be as it was seen: the structure, the page count; by log, and by counter, t. */
static size_t compare_state(const attempt *a, pgs_kv_compare *out)
{
	const pgs__commit *c = a->c;
	size_t n = 0;
	if (!PGS__BUG(COMMIT_IGNORES_EPOCH))
		out[n++] = pgs__if_mod(pgs__key_slice(&a->keys.z), PGS_KV_EQUAL, c->epoch);
	if (c->t->extent_checked)
		out[n++] = pgs__if_mod(pgs__key_slice(&a->keys.e), PGS_KV_EQUAL, c->t->snapshot.extent_revision);
	else if (c->put_extent)
		out[n++] = pgs__if_value_less(pgs__key_slice(&a->keys.e), (pgs_slice){a->extent, PGS__NUMBER_SIZE});
	if (c->mode == PGS__CHECK_LOG)
		out[n++] = pgs__if_mod(pgs__key_slice(&a->keys.t), PGS_KV_EQUAL, c->validated);
	if (by_counter(c))
		out[n++] = pgs__if_value_less(pgs__key_slice(&a->keys.t), (pgs_slice){a->counter, PGS__NUMBER_SIZE});
	return n;
}

static void fill_compares(attempt *a)
{
	const pgs__commit *c = a->c;
	pgs_kv_compare *out = a->compares;
	size_t n = 0;
	out[n++] = pgs__if_absent(pgs__key_slice(&a->keys.x));
	/* Invariant 7: floor <= B. The value begins with the floor, so it is less than B + 1 exactly then. And g is there
	 * at all: the database was not dropped. */
	bool forgets = PGS__BUG(RETRY_FORGETS_BASE) && c->unknown;
	pgs__store_u64be(a->floor_bound, forgets ? UINT64_MAX : c->base_revision + 1);
	if (!PGS__BUG(COMMIT_IGNORES_FLOOR))
		out[n++] = pgs__if_value_less(pgs__key_slice(&a->keys.g), (pgs_slice){a->floor_bound, 8});
	out[n++] = (pgs_kv_compare){.key = pgs__key_slice(&a->keys.lock),
				    .target = PGS_KV_CREATE,
				    .relation = PGS_KV_EQUAL,
				    .number = c->lock.held};
	if (!c->alone)
		n += compare_state(a, out + n);
	else if (!PGS__BUG(ALONE_UNCHECKED))
		out[n++] = pgs__if_mod(pgs__key_slice(&a->keys.t), PGS_KV_EQUAL, c->t->snapshot.commit_revision);
	a->compare_count = n;
}

static void fill_success(attempt *a)
{
	const pgs__commit *c = a->c;
	size_t n = 0;
	/* The commit before ours, read first: it tells whether the cache may move past us. Alone, it is the snapshot's. */
	if (!c->alone)
		a->success[n++] = pgs__op_get(pgs__key_slice(&a->keys.t), 0);
	a->success[n++] = pgs__op_put(pgs__key_slice(&a->keys.t), (pgs_slice){a->counter, PGS__NUMBER_SIZE});
	for (size_t i = 0; i < c->op_count; i++)
		a->success[n++] = c->ops[i];
	if (c->structural)
		a->success[n++] = pgs__op_put(pgs__key_slice(&a->keys.z), (pgs_slice){c->uuid, sizeof c->uuid});
	if (c->put_extent)
		a->success[n++] = pgs__op_put(pgs__key_slice(&a->keys.e), (pgs_slice){a->extent, PGS__NUMBER_SIZE});
	if (c->lock.held)
		a->success[n++] = pgs__op_delete(pgs__key_slice(&a->keys.lock), (pgs_slice){0});
	a->success_count = n;
}

static void fill_reads(attempt *a, size_t checks)
{
	const pgs__key *places[READ_CHECKS] = {
		[READ_T] = &a->keys.t,	     [READ_G] = &a->keys.g, [READ_Z] = &a->keys.z, [READ_E] = &a->keys.e,
		[READ_LOCK] = &a->keys.lock, [READ_X] = &a->keys.x, [READ_M] = &a->keys.m,
	};
	for (size_t i = 0; i < READ_CHECKS; i++)
		a->reads[i] = pgs__op_get(pgs__key_slice(places[i]), 0);
	a->read_count = READ_CHECKS + checks;
}

static int make_request(attempt *a)
{
	pgs__commit *c = a->c;
	size_t checks = c->alone ? 0 : pgs__validate_count(c);
	make_keys(&a->keys, pgs__db_prefix(c->t->db), c->uuid);
	a->compares = pgs__arena_calloc(&a->arena, 9 + checks, sizeof *a->compares);
	a->success = pgs__arena_calloc(&a->arena, 5 + c->op_count, sizeof *a->success);
	if (c->asks)
		a->reads = pgs__arena_calloc(&a->arena, READ_CHECKS + checks, sizeof *a->reads);
	if (!a->compares || !a->success || (c->asks && !a->reads))
		return pgs__error_nomem(c->err, "commit");
	pgs__number_encode(c->t->page_count, a->extent);
	pgs__number_encode(c->counter, a->counter);
	fill_compares(a);
	fill_success(a);
	if (c->asks)
		fill_reads(a, checks);
	if (checks == 0)
		return PGS_OK;
	int result = pgs__validate_fill(c, &a->arena, a->compares + a->compare_count,
					c->asks ? a->reads + READ_CHECKS : NULL);
	a->compare_count += checks;
	return result;
}

/* --- judging a failed attempt --------------------------------------------------------- */

static const pgs_kv_pair *read_pair(const pgs_kv_txn *txn, size_t which)
{
	return pgs__got(txn, which);
}

/* x/<uuid> is there: an earlier attempt got through, or someone asked and was told it never will. */
static int judge_entry(pgs__commit *c, const pgs_kv_pair *x, bool *done)
{
	pgs__change change;
	int result = pgs__change_decode(x->value, &change);
	if (result != PGS_OK)
		return pgs__error(c->err, result, "the changelog entry of this commit is damaged");
	if (change.kind == PGS__CHANGE_ABORTED)
		return pgs__error(c->err, PGS_ECONFLICT,
				  "the commit was given up: pgs_commit_status() was asked about it meanwhile");
	c->final = true;
	if (memcmp(change.digest, c->digest, sizeof c->digest) != 0)
		return pgs__error(c->err, PGS_ECORRUPT, "another commit has this commit's identifier");
	c->revision = x->mod_revision;
	c->previous = UINT64_MAX;
	c->lock.held = 0; /* that commit deleted it */
	*done = true;
	return PGS_OK;
}

/* Failures that no later state of the store can undo. */
static int judge_final(pgs__commit *c, const pgs_kv_txn *txn)
{
	pgs__floor floor;
	const pgs_kv_pair *g = read_pair(txn, READ_G);
	if (!read_pair(txn, READ_M)) {
		c->final = true;
		return pgs__error(c->err, PGS_ENOTFOUND, "database %s was dropped", c->t->db->name);
	}
	if (!g || !read_pair(txn, READ_T) || !read_pair(txn, READ_Z))
		return pgs__error(c->err, PGS_ECORRUPT, "database %s lacks a key it must have (%s)", c->t->db->name,
				  !g ? "g, floor" : read_pair(txn, READ_T) ? "z, structure epoch" : "t, last write");
	if (pgs__floor_decode(g->value, &floor) != PGS_OK)
		return pgs__error(c->err, PGS_ECORRUPT, "database %s: the value of key g, floor, is damaged",
				  c->t->db->name);
	if (floor.floor <= c->base_revision)
		return PGS_OK;
	c->final = true;
	if (c->unknown) /* an earlier attempt may have landed, and its entry been pruned since */
		return PGS_EUNKNOWN;
	return pgs__error(c->err, PGS_EOLDREV,
			  "the transaction began at revision %llu, which is gone; the oldest readable is %llu",
			  (unsigned long long)c->base_revision, (unsigned long long)floor.floor);
}

static int judge_extent(pgs__commit *c, const pgs_kv_txn *txn)
{
	const pgs_kv_pair *e = read_pair(txn, READ_E);
	uint64_t extent;
	if (!e || pgs__number_decode(e->value, &extent) != PGS_OK)
		return pgs__error(c->err, PGS_ECORRUPT, "database %s: the value of key e, extent, is damaged",
				  c->t->db->name);
	if (c->t->extent_checked && e->mod_revision != c->t->snapshot.extent_revision)
		return pgs__error(c->err, PGS_ECONFLICT, "the page count of database %s was changed by another transaction",
				  c->t->db->name);
	if (!c->t->extent_checked && c->put_extent && extent >= c->t->page_count)
		c->put_extent = false; /* someone grew it further */
	return PGS_OK;
}

/* Other commits got in between: learn what they changed, by log where the compares do not tell. */
static int judge_moves(pgs__commit *c, const pgs_kv_txn *txn)
{
	const pgs_kv_pair *t = read_pair(txn, READ_T), *z = read_pair(txn, READ_Z);
	uint64_t counter;
	if (pgs__number_decode(t->value, &counter) != PGS_OK)
		return pgs__error(c->err, PGS_ECORRUPT, "database %s: the value of key t, last write, is damaged",
				  c->t->db->name);
	bool lost = c->mode == PGS__CHECK_LOG && t->mod_revision != c->validated;
	if (lost || z->mod_revision != c->epoch) {
		int result = pgs__validate_log(c, t->mod_revision);
		if (result != PGS_OK)
			return result;
		if (z->mod_revision != c->epoch && c->t->truncated && !c->packs_came) {
			c->packs_came = true; /* deleting keys does not reach into a pack: a range does */
			c->stale = true;
		}
		c->epoch = z->mod_revision;
		c->log_rounds += lost && c->mode == PGS__CHECK_LOG;
	}
	if (by_counter(c) && counter >= c->counter)
		c->counter = counter;
	return PGS_OK;
}

/* What a failed attempt means: PGS_OK to go on (or *done), else why not. */
static int judge(pgs__commit *c, const pgs_kv_txn *txn, bool *done)
{
	const pgs_kv_pair *x = read_pair(txn, READ_X), *lock = read_pair(txn, READ_LOCK);
	if (x)
		return judge_entry(c, x, done);
	int result = judge_final(c, txn);
	if (result == PGS_OK)
		result = judge_extent(c, txn);
	if (result == PGS_OK && c->mode == PGS__CHECK_KEYS)
		result = pgs__validate_judge(c, txn->results + READ_CHECKS, txn->revision);
	if (result == PGS_OK)
		result = judge_moves(c, txn);
	if (result != PGS_OK)
		return result;
	if (lock && lock->create_revision != c->lock.held) {
		c->lock.held = 0; /* broken by someone, if it was ours */
		result = pgs__writer_lock_wait(c->t->db, &c->lock, lock, c->deadline_ms, c->err);
	} else if (!lock) {
		c->lock.held = 0;
	}
	return result;
}

/* --- the loop ----------------------------------------------------------------------------- */

/* The number put at t. In order=counter it must be above what is there when the commit gets through. */
static int propose_counter(pgs__commit *c)
{
	uint8_t random = 0;
	if (by_counter(c) && c->check_count < LARGE_READ_SET && pgs__random_bytes(&random, 1) != PGS_OK)
		return pgs__error(c->err, PGS_EIO, "the system gives no random bytes");
	c->counter += 1 + random % COUNTER_SPREAD;
	return PGS_OK;
}

/* Nothing is known but that this attempt did nothing: the next one asks. */
static void ask_next_time(pgs__commit *c)
{
	c->alone = false;
	c->asks = true;
}

/* The first attempt, by how the commits before went. Where failing is likely, it asks at once. */
static void choose_attempt(pgs__commit *c)
{
	const pgs_db *db = c->t->db;
	c->alone = c->mode == PGS__CHECK_KEYS && atomic_load_explicit(&db->quiet, memory_order_relaxed) >= QUIET_COMMITS;
	c->asks = !c->alone && (c->mode == PGS__CHECK_LOG || by_counter(c) ||
				atomic_load_explicit(&db->contended, memory_order_relaxed));
}

/* Written only when it changes: all threads that commit read it. */
static void remember_how_it_went(const pgs__commit *c)
{
	pgs_db *db = c->t->db;
	bool alone = c->previous == c->t->snapshot.commit_revision && !c->failed;
	uint32_t quiet = atomic_load_explicit(&db->quiet, memory_order_relaxed);
	uint32_t now = !alone ? 0 : quiet < QUIET_COMMITS ? quiet + 1 : quiet;
	if (now != quiet)
		atomic_store_explicit(&db->quiet, now, memory_order_relaxed);
	if (atomic_load_explicit(&db->contended, memory_order_relaxed) != c->failed)
		atomic_store_explicit(&db->contended, c->failed, memory_order_relaxed);
}

/* The commit before this one, which has succeeded. */
static uint64_t previous_of(const pgs__commit *c, const pgs_kv_txn *txn)
{
	if (c->alone)
		return c->t->snapshot.commit_revision;
	return read_pair(txn, 0) ? read_pair(txn, 0)->mod_revision : UINT64_MAX;
}

static int send(pgs__commit *c, bool *done)
{
	const pgs__backend *backend = pgs__db_backend(c->t->db);
	attempt a = {.c = c};
	uint64_t counter = c->counter;
	int result = propose_counter(c);
	if (result == PGS_OK)
		result = make_request(&a);
	pgs_kv_txn txn = {
		.compares = a.compares,
		.compare_count = a.compare_count,
		.success = a.success,
		.success_count = a.success_count,
		.failure = a.reads,
		.failure_count = a.read_count,
	};
	if (result == PGS_OK) {
		result = backend->kv->vtable->txn(backend->kv, &txn, 1, c->deadline_ms, c->err);
		if (result == PGS_EUNKNOWN)
			c->unknown = true;
		if (result == PGS_OK && txn.succeeded) {
			*done = true;
			c->revision = txn.revision;
			c->previous = previous_of(c, &txn);
			c->lock.held = 0;
		} else if (result == PGS_OK) {
			c->counter = counter;
			c->failed = true;
			if (c->asks)
				result = judge(c, &txn, done);
			else
				ask_next_time(c);
		} else {
			c->counter = counter;
		}
		backend->kv->vtable->release(backend->kv, &txn, 1);
	}
	pgs__arena_free(&a.arena);
	return result;
}

static int unknown(pgs__commit *c)
{
	if (c->final)
		return pgs__error(c->err, PGS_EUNKNOWN,
				  "the commit was sent and not confirmed, and the history that would tell what became of it "
				  "has been collected");
	return pgs__error_prefix(c->err, PGS_EUNKNOWN,
				 "the commit was sent and not confirmed; pgs_commit_status() tells whether it happened");
}

/* Failures of this moment: the next attempt may do better. */
static bool is_passing(int result)
{
	return result == PGS_EIO || result == PGS_ETIMEOUT || result == PGS_EBUSY || result == PGS_EAUTH ||
	       result == PGS_ENOSPC || result == PGS_ENOMEM;
}

/* This attempt failed for good, but one before it may still be on its way: make sure that it never lands. */
static int settle(pgs__commit *c, int result, bool *done)
{
	pgs_commit_token token = {.base_revision = c->base_revision};
	int status;
	uint64_t revision;
	memcpy(token.uuid, c->uuid, sizeof token.uuid);
	if (pgs__commit_status(c->t->db, &token, &status, &revision, c->deadline_ms, NULL) != PGS_OK)
		return PGS_EUNKNOWN;
	if (status == PGS_COMMIT_NOT_HAPPENED)
		return result;
	c->revision = revision;
	c->previous = UINT64_MAX;
	*done = true;
	return PGS_OK;
}

/* Until it is committed, or certainly not, or the deadline. */
static int send_until_done(pgs__commit *c)
{
	bool done = false;
	int result = PGS_OK;
	while (!done) {
		pgs__txn_keep(c->t, c->deadline_ms);
		if (c->stale)
			result = pgs__payload_build(c);
		if (result == PGS_OK && c->mode == PGS__CHECK_LOG && c->log_rounds >= LOG_ROUNDS_MAX && !c->lock.held)
			result = pgs__writer_lock_take(c->t->db, &c->lock, c->deadline_ms, c->err);
		if (result == PGS_OK)
			result = send(c, &done);
		if (done)
			return PGS_OK;
		if (c->unknown && result == PGS_ENOSPC) { /* the next attempt will not do better */
			result = settle(c, result, &done);
			if (result == PGS_EUNKNOWN)
				return unknown(c);
		} else if (c->unknown && is_passing(result)) {
			result = PGS_EUNKNOWN;
		}
		if (c->unknown && !c->final && result != PGS_OK && result != PGS_EUNKNOWN)
			result = settle(c, result, &done);
		if (result == PGS_EUNKNOWN && !c->final && !pgs__deadline_passed(c->deadline_ms)) {
			pgs__sleep_ms(RESEND_PAUSE_MS, c->deadline_ms);
			result = PGS_OK;
			continue;
		}
		if (result == PGS_OK && pgs__deadline_passed(c->deadline_ms))
			result = c->unknown ? PGS_EUNKNOWN
					    : pgs__error(c->err, PGS_EBUSY,
							 "database %s: other commits kept this one out past the timeout",
							 c->t->db->name);
		if (result != PGS_OK)
			return result == PGS_EUNKNOWN ? unknown(c) : result;
	}
	return PGS_OK;
}

/* --- around it -------------------------------------------------------------------------------- */

/* The process knows what we committed. Without memory its caches stay behind. */
static void land(pgs__commit *c)
{
	const pgs_txn *t = c->t;
	pgs__landed landed = {.previous = c->previous,
			      .revision = c->revision,
			      .structural = c->structural,
			      .puts_extent = c->put_extent,
			      .extent = t->page_count,
			      .truncated = t->truncated,
			      .truncated_to = t->truncated_to,
			      .count = c->write_count};
	landed.pages = pgs__arena_calloc(&c->arena, c->write_count, sizeof *landed.pages);
	if (!landed.pages)
		return;
	for (size_t i = 0; i < c->write_count; i++) {
		const pgs__write *w = c->writes[i];
		pgs__changed_page *p = &landed.pages[i];
		/* An older p/ key may be there, and we do not know its revision. */
		*p = (pgs__changed_page){.page_no = w->page_no, .frozen = pgs__txn_is_blank(t, w->page_no) && c->packed};
		p->ref = pgs__page_ref_of(&w->pointer);
		p->ref.key_revision = c->packed ? w->seen_revision : c->revision;
		p->ref.from = c->revision;
		p->page = w->pointer.kind == PGS__POINTER_ZERO ? NULL : w->page;
	}
	pgs__tip_land(t->db, &landed);
}

/* Tell the caches what we committed. */
static void update_caches(pgs__commit *c)
{
	const pgs_txn *t = c->t;
	if (t->file_count) {
		pgs__registration *files = pgs__calloc(t->file_count, sizeof *files);
		for (size_t i = 0; files && i < t->file_count; i++)
			files[i] = (pgs__registration){pgs__key_slice(&t->files[i].key),
						       pgs__buffer_slice(&t->files[i].value)};
		if (files)
			pgs__levels_add(&t->db->contents.levels, pgs__db_prefix(t->db), files, t->file_count,
					c->revision);
		pgs__free(files);
	}
	if (c->previous != UINT64_MAX)
		land(c);
}

/* What maintenance will have to move. */
static void note_load(const pgs__commit *c)
{
	size_t contents = 0;
	for (size_t i = 0; i < c->write_count; i++)
		contents += c->writes[i]->pointer.kind == PGS__POINTER_FULL && !c->writes[i]->in_file;
	pgs__upkeep_note(c->t->db, contents, c->t->file_count, c->structural);
}

static bool changes_nothing(const pgs_txn *t)
{
	for (size_t i = 0; i < t->write_count; i++)
		if (t->writes[i].state == PGS__WRITE_READY)
			return false;
	return t->attr_write_count == 0 && t->page_count == t->snapshot.extent && !t->truncated;
}

/* What only makes room, or changes nothing to speak of, is let through when the KV is filled to its soft quota. */
static bool fills(const pgs_txn *t)
{
	for (size_t i = 0; i < t->attr_write_count; i++)
		if (!t->attr_writes[i].removed)
			return true;
	return t->write_count > 0 || t->page_count > t->snapshot.extent;
}

int pgs__txn_admit(pgs_txn *t, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t bytes = t->write_count * POINTER_BYTES + t->buffered_bytes + t->frame_bytes;
	if (!fills(t))
		return PGS_OK;
	bytes = FIXED_BYTES + (bytes < PACKED_BYTES ? bytes : PACKED_BYTES);
	for (size_t i = 0; i < t->file_count; i++)
		bytes += t->files[i].value.size;
	return pgs__room_admit(t->db->store, t->db->name, bytes, deadline_ms, err);
}

static int check_options(const pgs_commit_options *o, pgs_error *err)
{
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL,
				  "pgs_commit_options: struct_size is not set; use PGS_COMMIT_OPTIONS_INIT");
	if (o->note && o->note_size > PGS_NOTE_MAX)
		return pgs__error(err, PGS_ELIMIT, "a note has at most %d bytes, not %zu", PGS_NOTE_MAX, o->note_size);
	return PGS_OK;
}

/* What is cleaned up after a commit may take a moment past its deadline; what is not is left to its lease, or to the
 * collector. */
static uint64_t cleanup_deadline(const pgs__commit *c)
{
	uint64_t soon = pgs__now_ms() + CLEANUP_MS;
	return c->deadline_ms > soon ? c->deadline_ms : soon;
}

static int run(pgs__commit *c)
{
	pgs_txn *t = c->t;
	int result = pgs__txn_admit(t, c->deadline_ms, c->err);
	if (result == PGS_OK && t->buffered_bytes)
		result = pgs__txn_place(t, false, c->deadline_ms, c->err);
	if (result == PGS_OK)
		result = pgs__upload_finish(t, c->deadline_ms, c->err); /* invariant 6 */
	if (result != PGS_OK || changes_nothing(t)) {
		c->nothing = true;
		c->revision = c->previous = t->snapshot.commit_revision;
		return result;
	}
	c->counter = t->snapshot.counter;
	c->put_extent = t->truncated || t->page_count != t->snapshot.extent;
	if (t->isolation == PGS_SNAPSHOT && !c->put_extent && !t->extent_set)
		t->extent_checked = false; /* the first to change the page count wins; who only read it does not mind */
	result = pgs__payload_prepare(c);
	if (result == PGS_OK)
		result = pgs__payload_build(c);
	if (result == PGS_OK)
		result = pgs__validate_prepare(c);
	if (result == PGS_OK) {
		pgs__tip_begin_commit(t->db);
		choose_attempt(c);
		result = send_until_done(c);
		remember_how_it_went(c);
		if (result == PGS_OK)
			update_caches(c);
		pgs__tip_end_commit(t->db);
	}
	pgs__room_note(t->db->store, c->kv_bytes + (c->op_count + FIXED_OPS) * PGS__ROOM_OP_BYTES);
	if (result == PGS_OK)
		note_load(c);
	c->deadline_ms = cleanup_deadline(c);
	if (result != PGS_OK)
		pgs__payload_discard(c);
	return result;
}

static int begin_commit(pgs__commit *c, pgs_txn *t, const pgs_commit_options *o, pgs_error *err)
{
	*c = (pgs__commit){.t = t, .options = o, .err = err, .base_revision = t->snapshot.kv_revision, .lock = t->lock};
	t->lock.held = 0;
	int result = check_options(o, err);
	if (result == PGS_OK && pgs__uuid7(c->uuid) != PGS_OK)
		result = pgs__error(err, PGS_EIO, "the system gives no random bytes");
	if (result == PGS_OK && o->token) {
		memcpy(o->token->uuid, c->uuid, sizeof c->uuid);
		o->token->base_revision = c->base_revision;
	}
	c->relied = o->relied;
	c->deadline_ms = pgs__txn_deadline(t);
	return result;
}

/* What the caller is told of the commit. */
static void report(const pgs__commit *c, uint64_t *revision)
{
	if (revision)
		*revision = c->revision;
	if (c->options->previous_revision)
		*c->options->previous_revision = c->previous == UINT64_MAX ? 0 : c->previous;
}

int pgs_commit(pgs_txn *txn, const pgs_commit_options *options, uint64_t *revision, pgs_error *err)
{
	const pgs_commit_options defaults = PGS_COMMIT_OPTIONS_INIT;
	pgs_db *db = txn->db;
	pgs__commit c;
	int result = begin_commit(&c, txn, options ? options : &defaults, err);
	if (result == PGS_OK)
		result = run(&c);
	pgs__writer_lock_release(db, &c.lock, cleanup_deadline(&c));
	if (result == PGS_OK)
		report(&c, revision);
	pgs__arena_free(&c.arena);
	pgs__free(c.ops);
	pgs__free(c.writes);
	pgs__free(c.checks);
	pgs__free(c.runs);
	if ((result != PGS_OK || c.nothing) && !c.unknown)
		pgs__txn_remove_files(txn, cleanup_deadline(&c)); /* else they are registered, or may be */
	pgs__pin_release(&txn->keeper.pin, cleanup_deadline(&c));
	pgs__txn_free(txn);
	if (result == PGS_OK && !c.nothing && db->store->help)
		db->store->help(db, false); /* whatever becomes of that: the commit has happened */
	return result;
}
