#include "support/fault_pair.h"

#include <string.h>

#include "codec/keys.h"
#include "support/kv_calls.h"
#include "support/testing.h"
#include "txn/db.h"

const char *const fault_plan_names[FAULT_PLANS] = {"error", "lost reply", "delay", "stop", "all replies lost", "all delayed",
						   "delay, then stop", "delay, then errors"};

static pgs_fault_kind fault_of(fault_plan kind, bool first)
{
	static const struct {
		pgs_fault_kind first, then;
	} kinds[FAULT_PLANS] = {
		[ONE_ERROR] = {PGS_FAULT_ERROR, PGS_FAULT_NONE},
		[ONE_LOST] = {PGS_FAULT_LOSE_REPLY, PGS_FAULT_NONE},
		[ONE_DELAY] = {PGS_FAULT_DELAY, PGS_FAULT_NONE},
		[STOP] = {PGS_FAULT_STOP, PGS_FAULT_STOP},
		[ALL_LOST] = {PGS_FAULT_LOSE_REPLY, PGS_FAULT_LOSE_REPLY},
		[ALL_DELAYED] = {PGS_FAULT_DELAY, PGS_FAULT_DELAY},
		[DELAY_THEN_STOP] = {PGS_FAULT_DELAY, PGS_FAULT_STOP},
		[DELAY_THEN_ERRORS] = {PGS_FAULT_DELAY, PGS_FAULT_ERROR},
	};
	return first ? kinds[kind].first : kinds[kind].then;
}

static void before_call(void *ctx, uint64_t call, const char *operation)
{
	fault_pair *p = ctx;
	(void)call;
	if (!p->armed)
		return;
	p->call++;
	if (p->between && strcmp(operation, "txn") == 0)
		p->between(p);
	if (fault_pair_reached(p) && fault_of(p->kind, p->call == p->at) != PGS_FAULT_NONE)
		pgs_fault_at(p->fault, 1, fault_of(p->kind, p->call == p->at));
}

void fault_pair_open(fault_pair *p, const pgs_kv_limits *limits)
{
	pgs_fault_options faults = PGS_FAULT_OPTIONS_INIT;
	faults.before = before_call;
	faults.before_ctx = p;
	assert_int_equal(pgs_fault_new(&p->fault, &faults, NULL), PGS_OK);
	server_start(&p->server, limits);
	p->healthy = server_open(&p->server, NULL, NULL);
	p->faulty = server_open(&p->server, p->fault, NULL);
}

void fault_pair_close(fault_pair *p)
{
	pgs_close(p->healthy);
	pgs_close(p->faulty);
	server_stop(&p->server);
	pgs_fault_free(p->fault);
}

bool fault_pair_reached(const fault_pair *p)
{
	return p->at && p->call >= p->at;
}

void fault_pair_expect(const fault_pair *p, int result, const pgs_error *err)
{
	if (!fault_pair_reached(p) && result != PGS_ETIMEOUT && result != PGS_EBUSY) /* the short deadlines of some plans */
		expect_code(result, PGS_OK, err, "a commit without faults");
	if (result == PGS_ENOMEM || result == PGS_ECORRUPT || result == PGS_EINVAL || result == PGS_ECONFLICT)
		expect_code(result, PGS_EIO, err, "a commit through faults");
}

void fault_pair_commit_beside(pgs_db *healthy, uint64_t page_no, uint64_t seed)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.write = true;
	options.timeout_ms = 20; /* which may be over at any point, on a busy machine */
	int result = pgs_begin(&txn, healthy, &options, NULL);
	if (result == PGS_OK) {
		result = write_seed(txn, page_no, seed);
		if (result == PGS_OK)
			result = pgs_commit(txn, NULL, NULL, NULL);
		else
			pgs_abort(txn);
	}
	assert_true(result == PGS_OK || result == PGS_ETIMEOUT || result == PGS_EUNKNOWN || result == PGS_ECONFLICT ||
		    result == PGS_EBUSY);
}

void fault_pair_remove_lock(fault_pair *p, pgs_db *db)
{
	pgs__key key = pgs__key_lock(pgs__db_prefix(db), "w");
	const pgs_kv_op delete = {.kind = PGS_KV_DELETE, .key = pgs__key_slice(&key)};
	kv_apply(p->server.kv, &delete, 1);
}
