/* One attempt of a commit: the KV transaction, and what its failure means.
 *
 *     compares   of each part: x/<uuid> absent, floor <= B, the lock, and what must be as it was seen
 *     success    of each part: t, the payload, e, z; then what brings the machine's mirror up (catch_up.h)
 *     failure    of each part: what tells which compare it was
 *
 * All parts are in the one transaction: together they take effect, or none does (invariant 4). So an entry x/<uuid> of
 * any part tells for all, and "aborted" at one of them keeps all from landing.
 *
 * A part that puts nothing only has its compares of what was read, and no entry.
 */
#include <string.h>

#include "txn/commit.h"
#include "txn/newest.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define LARGE_READ_SET 1000 /* in order=counter: proposes the very next number */
#define COUNTER_SPREAD 10
#define FIXED_COMPARES 9
#define FIXED_OPS 5         /* read t, put t, z, e, delete the lock or see who asks for it; x is in the payload */

/* Places of a part's reads. */
enum { READ_T, READ_G, READ_Z, READ_E, READ_LOCK, READ_X, READ_M, READ_CHECKS }; /* where it asks */

typedef struct part {
	pgs__commit *c;
	pgs__key t, g, z, e, x, m;
	pgs__writer_keys writer;
	size_t checks;            /* compares of pages and attributes */
	size_t first_op, first_read, first_answer;
	uint64_t counter_before;
	uint8_t floor_bound[8];
	uint8_t extent[PGS__NUMBER_SIZE];
	uint8_t counter[PGS__NUMBER_SIZE];
} part;

typedef struct attempt {
	pgs__commit_group *group;
	pgs__arena arena;
	part *parts; /* those that are not idle */
	size_t part_count;
	pgs_kv_compare *compares;
	size_t compare_count;
	pgs_kv_op *success;
	size_t success_count;
	pgs_kv_op *reads;
	size_t read_count;
} attempt;

/* Whether the counter is what orders this commit. */
static bool by_counter(const pgs__commit *c)
{
	return c->t->db->order == PGS_ORDER_COUNTER;
}

/* --- the request ------------------------------------------------------------------- */

/* The number put at t. In order=counter it must be above what is there when the commit gets through. */
static int propose_counter(pgs__commit *c)
{
	uint8_t random = 0;
	if (by_counter(c) && c->check_count < LARGE_READ_SET && pgs__random_bytes(&random, 1) != PGS_OK)
		return pgs__error(c->err, PGS_EIO, "the system gives no random bytes");
	c->counter += 1 + random % COUNTER_SPREAD;
	return PGS_OK;
}

static int part_init(part *p, pgs__commit *c)
{
	const uint8_t *prefix = pgs__db_prefix(c->t->db);
	p->c = c;
	p->checks = c->alone ? 0 : pgs__validate_count(c);
	p->t = pgs__key_single(prefix, 't');
	p->g = pgs__key_single(prefix, 'g');
	p->z = pgs__key_single(prefix, 'z');
	p->e = pgs__key_single(prefix, 'e');
	p->m = pgs__key_single(prefix, 'm');
	pgs__writer_keys_make(&p->writer, prefix);
	p->x = pgs__key_uuid(prefix, 'x', c->uuid);
	c->keeps = !c->nothing && pgs__turn_is_worth_keeping(c->t->db, &c->lock);
	p->counter_before = c->counter;
	int result = propose_counter(c);
	pgs__number_encode(c->t->page_count, p->extent);
	pgs__number_encode(c->counter, p->counter);
	return result;
}

/* What must be as it was seen: the structure, the page count; by log, and by counter, t. */
static size_t compare_state(const part *p, pgs_kv_compare *out)
{
	const pgs__commit *c = p->c;
	size_t n = 0;
	if (!PGS__BUG(COMMIT_IGNORES_EPOCH))
		out[n++] = pgs__if_mod(pgs__key_slice(&p->z), PGS_KV_EQUAL, c->epoch);
	if (c->t->extent_checked)
		out[n++] = pgs__if_mod(pgs__key_slice(&p->e), PGS_KV_EQUAL, c->t->snapshot.extent_revision);
	else if (c->put_extent)
		out[n++] = pgs__if_value_less(pgs__key_slice(&p->e), (pgs_slice){p->extent, PGS__NUMBER_SIZE});
	if (c->mode == PGS__CHECK_LOG)
		out[n++] = pgs__if_mod(pgs__key_slice(&p->t), PGS_KV_EQUAL, c->validated);
	if (by_counter(c) && !c->nothing)
		out[n++] = pgs__if_value_less(pgs__key_slice(&p->t), (pgs_slice){p->counter, PGS__NUMBER_SIZE});
	return n;
}

static size_t fill_fixed_compares(part *p, pgs_kv_compare *out)
{
	const pgs__commit *c = p->c;
	size_t n = 0;
	if (!c->nothing)
		out[n++] = pgs__if_absent(pgs__key_slice(&p->x));
	/* Invariant 7: floor <= B. The value begins with the floor, so it is less than B + 1 exactly then. And g is there
	 * at all: the database was not dropped. */
	bool forgets = PGS__BUG(RETRY_FORGETS_BASE) && c->group->unknown;
	pgs__store_u64be(p->floor_bound, forgets ? UINT64_MAX : c->base_revision + 1);
	if (!PGS__BUG(COMMIT_IGNORES_FLOOR))
		out[n++] = pgs__if_value_less(pgs__key_slice(&p->g), (pgs_slice){p->floor_bound, 8});
	if (!c->nothing && !(c->keeps && PGS__BUG(KEPT_LOCK_UNCOMPARED)))
		out[n++] = (pgs_kv_compare){.key = pgs__key_slice(&p->writer.lock),
					    .target = PGS_KV_CREATE,
					    .relation = PGS_KV_EQUAL,
					    .number = c->lock.held};
	if (!c->alone)
		n += compare_state(p, out + n);
	else if (!PGS__BUG(ALONE_UNCHECKED))
		out[n++] = pgs__if_mod(pgs__key_slice(&p->t), PGS_KV_EQUAL, c->t->snapshot.commit_revision);
	return n;
}

static void fill_success(attempt *a, part *p)
{
	const pgs__commit *c = p->c;
	pgs_kv_op *out = a->success + a->success_count;
	size_t n = 0;
	p->first_op = a->success_count;
	if (c->nothing)
		return;
	/* The commit before ours, read first: it tells whether the cache may move past us. Alone, it is the snapshot's. Then
	 * whether somebody asks for the lock. */
	if (!c->alone)
		out[n++] = pgs__op_get(pgs__key_slice(&p->t), 0);
	if (c->keeps)
		out[n++] = pgs__op_get(pgs__key_slice(&p->writer.asked), 0);
	out[n++] = pgs__op_put(pgs__key_slice(&p->t), (pgs_slice){p->counter, PGS__NUMBER_SIZE});
	for (size_t i = 0; i < c->op_count; i++)
		out[n++] = c->ops[i];
	if (c->structural)
		out[n++] = pgs__op_put(pgs__key_slice(&p->z), (pgs_slice){c->uuid, sizeof c->uuid});
	if (c->put_extent)
		out[n++] = pgs__op_put(pgs__key_slice(&p->e), (pgs_slice){p->extent, PGS__NUMBER_SIZE});
	if (c->lock.held && !c->keeps)
		out[n++] = pgs__op_delete(pgs__key_slice(&p->writer.lock), pgs__key_slice(&p->writer.end));
	a->success_count += n;
}

static void fill_reads(attempt *a, part *p)
{
	const pgs__key *places[READ_CHECKS] = {
		[READ_T] = &p->t,	[READ_G] = &p->g, [READ_Z] = &p->z, [READ_E] = &p->e,
		[READ_LOCK] = &p->writer.lock, [READ_X] = &p->x, [READ_M] = &p->m,
	};
	p->first_read = a->read_count;
	for (size_t i = 0; i < READ_CHECKS; i++)
		a->reads[a->read_count++] = pgs__op_get(pgs__key_slice(places[i]), 0);
}

static int fill_part(attempt *a, part *p)
{
	pgs__commit *c = p->c;
	int result = PGS_OK;
	if (a->group->asks)
		fill_reads(a, p);
	fill_success(a, p);
	if (PGS__BUG(OTHERS_UNCHECKED) && p != a->parts)
		p->checks = 0;
	else
		a->compare_count += fill_fixed_compares(p, a->compares + a->compare_count);
	if (p->checks)
		result = pgs__validate_fill(c, &a->arena, a->compares + a->compare_count,
					    a->group->asks ? a->reads + a->read_count : NULL);
	a->compare_count += p->checks;
	a->read_count += a->group->asks ? p->checks : 0;
	return result;
}

/* At the end, as far as the KV takes more operations. */
static void fill_catch_up(attempt *a)
{
	size_t most = pgs__max_ops(pgs__db_backend(a->group->parts[0].t->db));
	for (size_t i = 0; i < a->part_count; i++) {
		part *p = &a->parts[i];
		size_t room = most > a->success_count ? most - a->success_count : 0;
		p->first_answer = a->success_count;
		a->success_count += pgs__catch_up_ask(p->c, pgs__key_slice(&p->g), room, a->success + a->success_count);
	}
}

static int make_request(attempt *a)
{
	pgs__commit_group *g = a->group;
	size_t compares = 0, ops = 0, reads = 0;
	int result = PGS_OK;
	a->parts = pgs__arena_calloc(&a->arena, g->count, sizeof *a->parts);
	if (!a->parts)
		return pgs__error_nomem(g->err, "commit");
	for (size_t i = 0; result == PGS_OK && i < g->count; i++) {
		if (g->parts[i].idle)
			continue;
		part *p = &a->parts[a->part_count++];
		result = part_init(p, &g->parts[i]);
		compares += FIXED_COMPARES + p->checks;
		ops += FIXED_OPS + p->c->op_count + PGS__CATCH_UP_OPS;
		reads += READ_CHECKS + p->checks;
	}
	if (result != PGS_OK)
		return result;
	a->compares = pgs__arena_calloc(&a->arena, compares, sizeof *a->compares);
	a->success = pgs__arena_calloc(&a->arena, ops, sizeof *a->success);
	if (g->asks)
		a->reads = pgs__arena_calloc(&a->arena, reads, sizeof *a->reads);
	if (!a->compares || !a->success || (g->asks && !a->reads))
		return pgs__error_nomem(g->err, "commit");
	for (size_t i = 0; result == PGS_OK && i < a->part_count; i++)
		result = fill_part(a, &a->parts[i]);
	if (result == PGS_OK)
		fill_catch_up(a);
	return result;
}

/* --- judging a failed attempt --------------------------------------------------------- */

static const pgs_kv_pair *read_pair(const part *p, const pgs_kv_txn *txn, size_t which)
{
	return pgs__got(txn, p->first_read + which);
}

void pgs__commit_landed(pgs__commit_group *g, uint64_t revision)
{
	g->done = true;
	for (size_t i = 0; i < g->count; i++) {
		pgs__commit *c = &g->parts[i];
		if (c->nothing)
			continue;
		c->revision = revision;
		c->previous = UINT64_MAX;
	}
}

/* x/<uuid> is there: an earlier attempt got through, or someone asked and was told it never will. */
static int judge_entry(pgs__commit_group *g, const pgs__commit *c, const pgs_kv_pair *x)
{
	pgs__change change;
	int result = pgs__change_decode(x->value, &change);
	if (result != PGS_OK)
		return pgs__error(g->err, result, "the changelog entry of this commit is damaged");
	if (change.kind == PGS__CHANGE_ABORTED)
		return pgs__error(g->err, PGS_ECONFLICT,
				  "the commit was given up: pgs_commit_status() was asked about it meanwhile");
	g->final = true;
	if (memcmp(change.digest, c->digest, sizeof c->digest) != 0)
		return pgs__error(g->err, PGS_ECORRUPT, "another commit has this commit's identifier");
	pgs__commit_landed(g, x->mod_revision);
	return PGS_OK;
}

/* Whether the database, if it has no entry of the commit, never had one. */
static int judge_floor(const part *p, const pgs_kv_txn *txn, pgs__floor *floor)
{
	const pgs__commit *c = p->c;
	const pgs_kv_pair *g = read_pair(p, txn, READ_G);
	if (!g || !read_pair(p, txn, READ_T) || !read_pair(p, txn, READ_Z))
		return pgs__error(c->err, PGS_ECORRUPT, "database %s lacks a key it must have (%s)", c->t->db->name,
				  !g				 ? "g, floor"
				  : read_pair(p, txn, READ_T) ? "z, structure epoch"
							      : "t, last write");
	if (pgs__floor_decode(g->value, floor) != PGS_OK)
		return pgs__error(c->err, PGS_ECORRUPT, "database %s: the value of key g, floor, is damaged",
				  c->t->db->name);
	if (floor->floor <= c->base_revision)
		return PGS_OK;
	pgs__newest_forget(c->t->db, c->base_revision);
	return pgs__error(c->err, PGS_EOLDREV,
			  "the transaction began at revision %llu, which is gone; the oldest readable is %llu",
			  (unsigned long long)c->base_revision, (unsigned long long)floor->floor);
}

/* Failures that no later state of the store can undo. There is no entry of any part. If an earlier attempt may have
 * landed, it did not if one of the databases would tell: its entry is not pruned while the floor is at most B. */
static int judge_final(attempt *a, const pgs_kv_txn *txn)
{
	pgs__commit_group *g = a->group;
	bool told = false, all_dropped = true;
	int failure = PGS_OK;
	for (size_t i = 0; i < a->part_count; i++) {
		const part *p = &a->parts[i];
		pgs__floor floor;
		bool there = read_pair(p, txn, READ_M) != NULL;
		int result = there ? judge_floor(p, txn, &floor)
				   : pgs__error(g->err, PGS_ENOTFOUND, "database %s was dropped", p->c->t->db->name);
		if (result == PGS_ECORRUPT)
			return result;
		told |= result == PGS_OK && !p->c->nothing;
		all_dropped &= !there || p->c->nothing;
		if (result != PGS_OK) {
			failure = result;
			g->culprit = (size_t)(p->c - g->parts);
		}
	}
	if (failure == PGS_OK)
		return PGS_OK;
	g->final = true;
	return g->unknown && !told && !all_dropped ? PGS_EUNKNOWN : failure;
}

static int judge_extent(const part *p, const pgs_kv_txn *txn)
{
	pgs__commit *c = p->c;
	const pgs_kv_pair *e = read_pair(p, txn, READ_E);
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
static int judge_moves(const part *p, const pgs_kv_txn *txn)
{
	pgs__commit *c = p->c;
	const pgs_kv_pair *t = read_pair(p, txn, READ_T), *z = read_pair(p, txn, READ_Z);
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

static int judge_lock(const part *p, const pgs_kv_txn *txn)
{
	pgs__commit *c = p->c;
	const pgs_kv_pair *lock = read_pair(p, txn, READ_LOCK);
	if (lock && lock->create_revision == c->lock.held)
		return PGS_OK;
	c->lock.held = 0; /* broken by someone, if it was ours */
	return lock && !c->nothing ? pgs__writer_lock_wait(c->t->db, &c->lock, lock, c->deadline_ms, c->err) : PGS_OK;
}

static int judge_part(const part *p, const pgs_kv_txn *txn)
{
	pgs__commit *c = p->c;
	int result = judge_extent(p, txn);
	if (result == PGS_OK && c->mode == PGS__CHECK_KEYS)
		result = pgs__validate_judge(c, txn->results + p->first_read + READ_CHECKS, txn->revision);
	if (result == PGS_OK)
		result = judge_moves(p, txn);
	return result == PGS_OK ? judge_lock(p, txn) : result;
}

/* What a failed attempt means: PGS_OK to go on (or done), else why not. */
static int judge(attempt *a, const pgs_kv_txn *txn)
{
	pgs__commit_group *g = a->group;
	for (size_t i = 0; i < a->part_count; i++) {
		const pgs_kv_pair *x = read_pair(&a->parts[i], txn, READ_X);
		if (x)
			return judge_entry(g, a->parts[i].c, x);
	}
	int result = judge_final(a, txn);
	for (size_t i = 0; result == PGS_OK && i < a->part_count; i++) {
		result = judge_part(&a->parts[i], txn);
		if (result != PGS_OK)
			g->culprit = (size_t)(a->parts[i].c - g->parts);
	}
	return result;
}

/* --- sending ------------------------------------------------------------------------------ */

static void part_succeeded(const part *p, const pgs_kv_txn *txn)
{
	pgs__commit *c = p->c;
	const pgs_kv_pair *t = c->alone ? NULL : pgs__got(txn, p->first_op);
	if (c->alone) {
		c->previous = c->t->snapshot.commit_revision;
		c->previous_count = c->t->snapshot.commit_count;
	} else if (t) {
		c->previous = t->mod_revision;
		c->previous_count = t->version;
	}
	pgs__catch_up_answers(c, txn, p->first_answer);
	c->kept = c->keeps;
	if (!c->keeps)
		c->lock.held = 0; /* it was deleted with it */
	else if (pgs__got(txn, p->first_op + !c->alone) && !PGS__BUG(LOCK_KEPT_FOR_EVER)) {
		c->lock.worth_keeping = false; /* however long it takes from here to the commit's end */
		pgs__turn_wanted(c->t->db);
	}
}

static void succeeded(attempt *a, const pgs_kv_txn *txn)
{
	pgs__commit_landed(a->group, txn->revision);
	for (size_t i = 0; i < a->part_count; i++)
		if (!a->parts[i].c->nothing)
			part_succeeded(&a->parts[i], txn);
}

/* Nothing is known but that this attempt did nothing: the next one asks. */
static void ask_next_time(pgs__commit_group *g)
{
	g->asks = true;
	for (size_t i = 0; i < g->count; i++)
		g->parts[i].alone = false;
}

static int send(attempt *a)
{
	pgs__commit_group *g = a->group;
	const pgs__backend *backend = pgs__db_backend(g->parts[0].t->db);
	pgs_kv_txn txn = {
		.compares = a->compares,
		.compare_count = a->compare_count,
		.success = a->success,
		.success_count = a->success_count,
		.failure = a->reads,
		.failure_count = a->read_count,
	};
	g->sent_ms = pgs__now_ms();
	int result = pgs__kv_send(backend->kv, &txn, g->deadline_ms, g->err);
	g->unknown |= result == PGS_EUNKNOWN;
	if (result == PGS_OK && txn.succeeded) {
		succeeded(a, &txn);
	} else {
		for (size_t i = 0; i < a->part_count; i++)
			a->parts[i].c->counter = a->parts[i].counter_before;
		g->failed |= result == PGS_OK;
		if (result == PGS_OK && g->asks)
			result = judge(a, &txn);
		else if (result == PGS_OK)
			ask_next_time(g);
	}
	backend->kv->vtable->release(backend->kv, &txn, 1);
	return result;
}

int pgs__attempt(pgs__commit_group *g)
{
	attempt a = {.group = g};
	g->culprit = g->count;
	int result = make_request(&a);
	if (result == PGS_OK)
		result = send(&a);
	pgs__arena_free(&a.arena);
	return result;
}
