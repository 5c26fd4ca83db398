/* Folding and sweeping through every fault at every call: whatever stops a worker, nothing that is retained changes, the
 * next worker finishes what is left, and what was delayed does no harm when it comes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>

#include "support/blob_calls.h"
#include "support/failing_alloc.h"
#include "support/jobs.h"
#include "support/kv_calls.h"
#include "support/stores.h"
#include "support/testing.h"

#define EXTENT 260
#define STATES 6

typedef enum plan_kind { ONE_ERROR, ONE_LOST, ONE_DELAY, STOP, ALL_LOST, ALL_DELAYED, DELAY_THEN_STOP, PLAN_KINDS } plan_kind;

static const char *const plan_names[] = {"error",	    "lost reply",  "delay",	     "stop",
					 "all replies lost", "all delayed", "delay, then stop"};

typedef struct state {
	uint64_t revision, extent;
	uint64_t seeds[EXTENT];
} state;

typedef struct run {
	server server;
	pgs_fault *fault;
	pgs_store *healthy_store, *faulty_store;
	pgs_db *healthy, *faulty;
	state states[STATES];
	size_t count;
	plan_kind kind;
	uint64_t at, call;
	bool armed, deliver_first;
} run;

static void before_call(void *ctx, uint64_t call, const char *operation)
{
	run *r = ctx;
	(void)call;
	(void)operation;
	if (!r->armed || ++r->call < r->at)
		return;
	bool first = r->call == r->at;
	pgs_fault_kind kind = PGS_FAULT_NONE;
	switch (r->kind) {
	case ONE_ERROR:
		kind = first ? PGS_FAULT_ERROR : kind;
		break;
	case ONE_LOST:
		kind = first ? PGS_FAULT_LOSE_REPLY : kind;
		break;
	case ONE_DELAY:
		kind = first ? PGS_FAULT_DELAY : kind;
		break;
	case STOP:
		kind = PGS_FAULT_STOP;
		break;
	case ALL_LOST:
		kind = PGS_FAULT_LOSE_REPLY;
		break;
	case ALL_DELAYED:
		kind = PGS_FAULT_DELAY;
		break;
	default:
		kind = first ? PGS_FAULT_DELAY : PGS_FAULT_STOP;
		break;
	}
	if (kind != PGS_FAULT_NONE)
		pgs_fault_at(r->fault, 1, kind);
}

/* --- the database ------------------------------------------------------------------------ */

static void commit_state(run *r, pgs_txn *txn, uint64_t truncate_to, uint64_t first, uint64_t count, uint64_t generation)
{
	state *s = &r->states[r->count];
	if (r->count)
		*s = r->states[r->count - 1];
	if (truncate_to) {
		assert_int_equal(pgs_truncate(txn, truncate_to), PGS_OK);
		memset(&s->seeds[truncate_to], 0, (EXTENT - truncate_to) * sizeof s->seeds[0]);
		s->extent = truncate_to;
	}
	for (uint64_t i = first; i < first + count; i++) {
		s->seeds[i] = 256 * (i + 1) + generation; /* small changes from one generation to the next */
		assert_int_equal(write_seed(txn, i, s->seeds[i]), PGS_OK);
		s->extent = i + 1 > s->extent ? i + 1 : s->extent;
	}
	s->revision = commit_ok(txn);
	r->count++;
}

static void put_blob(run *r, const char *name)
{
	char blob[PGS__BLOB_NAME_SIZE];
	pgs__blob_name(blob, pgs__db_prefix(r->healthy), name);
	assert_int_equal(put_pattern(r->server.blob, blob, 100, 1), PGS_OK);
}

/* Packs over keys, a truncation among them, one pack in an index file; blobs that are to go. */
static void set_up_database(run *r)
{
	char name[PGS__FILE_NAME_MAX + 1];
	commit_state(r, begin_write(r->healthy), 0, 0, 8, 1);
	commit_state(r, begin_write(r->healthy), 0, 4, 36, 2);
	commit_state(r, begin_write(r->healthy), 6, 0, 0, 0);
	commit_state(r, begin_write(r->healthy), 0, 5, 3, 3);
	commit_state(r, begin_write(r->healthy), 0, 20, 220, 4);
	commit_state(r, begin_write(r->healthy), 0, 18, 230, 5);
	set_floor(r->server.kv, r->healthy, r->states[1].revision);
	assert_int_equal(pgs__file_name_new(name, 's', 1), PGS_OK);
	put_blob(r, name); /* an orphan */
	assert_int_equal(pgs__file_name_new(name, 's', 1), PGS_OK);
	put_blob(r, name);
	pgs__key d = pgs__key_unregistered(pgs__db_prefix(r->healthy), name);
	const pgs_kv_op put = pgs__op_put(pgs__key_slice(&d), (pgs_slice){0});
	kv_apply(r->server.kv, &put, 1);
}

static void open_run(run *r)
{
	static const pgs_kv_limits limits = {16, 40000, 0, 0};
	pgs_fault_options faults = PGS_FAULT_OPTIONS_INIT;
	pgs_store_options store = PGS_STORE_OPTIONS_INIT;
	faults.before = before_call;
	faults.before_ctx = r;
	store.timeout_ms = 20000;
	assert_int_equal(pgs_fault_new(&r->fault, &faults, NULL), PGS_OK);
	server_start(&r->server, &limits);
	r->healthy_store = server_open(&r->server, NULL, NULL);
	r->healthy = create_db(r->healthy_store, "db", NULL);
	set_up_database(r);
	r->faulty_store = server_open(&r->server, r->fault, &store);
	r->faulty = open_db(r->faulty_store, "db");
	if (r->kind >= ALL_LOST) /* to the end: do not wait long for it */
		r->faulty_store->timeout_ms = 10;
}

static void close_run(run *r)
{
	pgs_db_close(r->healthy);
	pgs_db_close(r->faulty);
	pgs_close(r->healthy_store);
	pgs_close(r->faulty_store);
	server_stop(&r->server);
	pgs_fault_free(r->fault);
}

/* --- what must hold ------------------------------------------------------------------------ */

static void check_states(run *r, pgs_db *db)
{
	for (size_t i = 1; i < r->count; i++) { /* from the floor on */
		const state *s = &r->states[i];
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_error err = PGS_ERROR_INIT;
		pgs_txn *txn;
		uint64_t extent;
		o.at_revision = i + 1 < r->count ? s->revision : 0;
		o.timeout_ms = 5000; /* whatever the faulty store's */
		expect_code(pgs_begin(&txn, db, &o, &err), PGS_OK, &err, "begin");
		assert_int_equal(pgs_page_count(txn, &extent), PGS_OK);
		assert_int_equal(extent, s->extent);
		for (uint64_t page = 0; page < EXTENT; page++)
			expect_code(read_seed(txn, page, s->seeds[page]), PGS_OK, pgs_txn_error(txn), "read");
		pgs_abort(txn);
	}
}

static void check_with_new_handle(run *r)
{
	pgs_store *store = server_open(&r->server, NULL, NULL);
	pgs_db *db = open_db(store, "db");
	pgs_error err = PGS_ERROR_INIT;
	check_states(r, db);
	expect_code(pgs_verify(db, NULL, NULL, &err), PGS_OK, &err, "verify");
	pgs_db_close(db);
	pgs_close(store);
}

static uint64_t keys_of(run *r, char kind)
{
	pgs__key first = pgs__key_kind(pgs__db_prefix(r->healthy), kind),
		 end = pgs__key_kind_end(pgs__db_prefix(r->healthy), kind);
	pgs_kv_op op = pgs__op_range(pgs__key_slice(&first), pgs__key_slice(&end), 0);
	op.count_only = true;
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(r->server.kv, &txn), PGS_OK);
	uint64_t total = txn.results[0].total;
	r->server.kv->vtable->release(r->server.kv, &txn, 1);
	return total;
}

static int count_blob(void *ctx, const char *name, uint64_t size)
{
	(void)name;
	(void)size;
	++*(size_t *)ctx;
	return 0;
}

static size_t blobs(run *r)
{
	size_t count = 0;
	assert_int_equal(r->server.blob->vtable->list(r->server.blob, "", count_blob, &count, 0, NULL), PGS_OK);
	return count;
}

/* The claim of a worker that is taken to be dead, but whose process, ours, is not. */
static void remove_claims(run *r)
{
	pgs__key from = pgs__key_lock(pgs__db_prefix(r->healthy), "m-"), end = pgs__key_lock(pgs__db_prefix(r->healthy), "m.");
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&from), pgs__key_slice(&end));
	kv_apply(r->server.kv, &delete, 1);
}

static int fold_and_sweep(pgs_db *db, pgs_error *err)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.all = true;
	int result = job_run(db, pgs__job_fold, &o, NULL, err);
	return result == PGS_OK ? job_run(db, pgs__job_sweep, &o, NULL, err) : result;
}

static void finish(run *r)
{
	pgs_error err = PGS_ERROR_INIT;
	remove_claims(r);
	expect_code(fold_and_sweep(r->healthy, &err), PGS_OK, &err, "finishing");
	assert_int_equal(keys_of(r, 'o'), 0);
	assert_int_equal(keys_of(r, 'x'), STATES - 1);
	assert_int_equal(keys_of(r, 'd'), 1); /* the folded pack's index file */
	assert_int_equal(blobs(r), 2);        /* that, and the identity */
	set_floor(r->server.kv, r->healthy, kv_revision(r->server.kv));
	expect_code(fold_and_sweep(r->healthy, &err), PGS_OK, &err, "after the floor");
	assert_int_equal(keys_of(r, 'd'), 0);
	assert_int_equal(blobs(r), 1);
}

static void check_further_commit(run *r)
{
	pgs_txn *txn = begin_write(r->healthy);
	assert_int_equal(read_seed(txn, 30, r->states[1].seeds[30]), PGS_OK);
	assert_int_equal(write_seed(txn, 31, 256 * 4242), PGS_OK);
	commit_ok(txn);
}

/* Returns false when the fault came after the end. */
static bool try_fault(run *r)
{
	pgs_error err = PGS_ERROR_INIT;
	failing_alloc_install();
	open_run(r);
	r->armed = true;
	int result = fold_and_sweep(r->faulty, &err);
	r->armed = false;
	bool reached = r->at && r->call >= r->at;
	r->faulty_store->timeout_ms = 20000;
	pgs_fault_resume(r->fault);
	if (!reached && r->kind < ALL_LOST)
		expect_code(result, PGS_OK, &err, "without a fault");
	else if (result != PGS_OK && result != PGS_EUNKNOWN && result != PGS_ETIMEOUT)
		expect_code(result, PGS_EIO, &err, "through a fault");
	check_states(r, r->healthy);
	if (r->deliver_first)
		pgs_fault_deliver(r->fault);
	if (r->at % 4 == 0 || r->kind == STOP)
		check_with_new_handle(r);
	finish(r);
	pgs_fault_deliver(r->fault);
	remove_claims(r);
	r->states[1] = r->states[r->count - 1]; /* the floor has passed the others */
	r->count = 2;
	check_states(r, r->healthy);
	check_states(r, r->faulty);
	check_with_new_handle(r);
	check_further_commit(r);
	close_run(r);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
	return reached;
}

static char where[200];

static int say_where(void **state_)
{
	(void)state_;
	if (where[0])
		fprintf(stderr, "# it was: %s\n", where);
	failing_alloc_uninstall();
	return 0;
}

static void test_fold_and_sweep__through_any_fault(void **state_)
{
	uint64_t calls = 0;
	(void)state_;
	for (plan_kind kind = 0; kind < PLAN_KINDS; kind++) {
		bool reached = true;
		/* Plans that last to the end wait for deadlines: every few calls will do. */
		uint64_t every = getenv("PGS_TEST_LONG") ? 1 : kind >= ALL_LOST ? 13 : kind == ONE_ERROR ? 5 : kind == STOP ? 1 : 2;
		for (uint64_t at = 1; reached; at += every) {
			static run r;
			r = (run){.kind = kind, .at = at, .deliver_first = at % 2};
			snprintf(where, sizeof where, "%s at call %u%s", plan_names[kind], (unsigned)at,
				 r.deliver_first ? ", delivered at once" : "");
			reached = try_fault(&r);
			calls = at > calls ? at : calls;
		}
	}
	where[0] = '\0';
	assert_true(calls > 80);
}

/* Out of memory at every allocation: an error, no leak, and the next run finishes. */
static void test_fold_and_sweep__out_of_memory(void **state_)
{
	(void)state_;
	bool failed = true;
	for (size_t nth = 1; failed; nth += nth < 30 || getenv("PGS_TEST_LONG") ? 1 : 13) {
		static run r;
		pgs_error err = PGS_ERROR_INIT;
		snprintf(where, sizeof where, "allocation %u", (unsigned)nth);
		r = (run){.kind = ONE_ERROR};
		failing_alloc_install();
		open_run(&r);
		failing_alloc_begin(nth);
		int result = fold_and_sweep(r.faulty, &err);
		failed = failing_alloc_end();
		if (!failed)
			expect_code(result, PGS_OK, &err, "without a fault");
		else if (result != PGS_OK)
			expect_code(result, PGS_ENOMEM, &err, "out of memory");
		check_states(&r, r.healthy);
		finish(&r);
		close_run(&r);
		assert_int_equal(failing_alloc_live(), 0);
		failing_alloc_uninstall();
	}
	where[0] = '\0';
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_fold_and_sweep__through_any_fault, say_where),
		cmocka_unit_test_teardown(test_fold_and_sweep__out_of_memory, say_where),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
