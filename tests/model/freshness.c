/* What is promised of a transaction's freshness, and clients that follow. */
#include "sim.h"

#define NUMBER(n) ((unsigned long long)(n))

static const char *const kinds[] = {"latest", "at least", "bounded", "local"};

/* The last commit of the database at or before that time. */
static uint64_t revision_at_time(const sim_db *db, uint64_t at_us)
{
	size_t i = db->count - 1;
	while (i > 0 && db->states[i].at_us > at_us)
		i--;
	return db->states[i].revision;
}

/* Everything committed more than bound_ms, by the client's clock, before now. */
static uint64_t bounded_revision(const sim_client *c, uint32_t bound_ms)
{
	uint64_t us = (uint64_t)bound_ms * 1000 * 1000 / c->rate + 1;
	return world.now_us > us ? revision_at_time(c->model, world.now_us - us) : 0;
}

void promise_draw(sim_client *c, sim_promise *out, uint32_t fresh)
{
	uint64_t newest = model_last(c->model)->revision;
	*out = (sim_promise){.kind = PGS_LATEST, .revision = newest, .options = PGS_TXN_OPTIONS_INIT};
	if (!fresh || !rng_chance(&c->work, fresh, 1000))
		return;
	pgs_txn_options *o = &out->options;
	out->kind = o->freshness = PGS_AT_LEAST + (uint32_t)rng_below(&c->work, 3);
	out->revision = 0;
	if (out->kind == PGS_AT_LEAST) {
		size_t back = rng_below(&c->work, 4);
		const sim_db *db = c->model;
		o->least_revision = db->states[back < db->count ? db->count - 1 - back : 0].revision;
		out->revision = o->least_revision;
	} else if (out->kind == PGS_BOUNDED) {
		o->bound_ms = (uint32_t)rng_below(&c->work, rng_below(&c->work, 2) ? 20 : 2000);
		out->revision = bounded_revision(c, o->bound_ms);
	}
	if (c->acked > out->revision)
		out->revision = c->acked;
	if (machine_acked(c) > out->revision)
		out->revision = machine_acked(c);
}

void promise_check(const sim_promise *promise, uint64_t revision)
{
	if (revision < promise->revision && !world.current->dead)
		sim_fail("a transaction begins at revision %llu (%s), though it had to show %llu", NUMBER(revision),
			kinds[promise->kind], NUMBER(promise->revision));
}

/* Follow for a while. Afterwards what was committed before is seen without asking. */
void op_follow(sim_client *c)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	uint64_t faults = c->faults, newest = model_last(c->model)->revision;
	int result = pgs_follow_step(c->db, 1 + (uint32_t)rng_below(&c->work, world.config.timeout_ms), &err);
	if (result != PGS_OK) {
		client_expect_error(c, "following", result, &err, faults);
		return;
	}
	trace("has followed through revision %llu", NUMBER(newest));
	o.freshness = PGS_LOCAL;
	result = pgs_begin(&t, c->db, &o, &err);
	if (result != PGS_OK) {
		client_expect_error(c, "begin after following", result, &err, faults);
		return;
	}
	uint64_t revision = pgs_txn_revision(t);
	pgs_abort(t);
	if (revision < newest && !c->dead)
		sim_fail("a follower that is current begins at revision %llu, though %llu was committed before",
			NUMBER(revision), NUMBER(newest));
}
