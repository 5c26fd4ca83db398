/* Commits of two databases together, through every fault at every call: both happened, or neither; what the caller was
 * told is what became of them, also after every delayed request has been delivered, whichever token is asked about. */
#include <stdio.h>
#include <string.h>

#include <pagestore.h>

#include "support/failing_alloc.h"
#include "support/fault_pair.h"
#include "support/testing.h"

enum { DBS = 2, OLD = 40, READ_PAGE = 30, BUSY_PAGE = 500 };

typedef struct shape {
	const char *name;
	pgs_kv_limits limits;
	uint64_t writes[DBS]; /* pages [0, writes) of each */
	uint64_t reads[DBS];  /* pages [OLD - reads, OLD) of each, in steps of 2 */
	size_t busy;          /* commits of others to the second database, one before each KV transaction of ours */
} shape;

static const shape shapes[] = {
	{.name = "small", .writes = {1, 2}, .reads = {2, 2}},
	{.name = "the second only read", .writes = {2, 0}, .reads = {0, 2}, .busy = 2},
	{.name = "packs", .limits = {24, 200000, 0, 0}, .writes = {9, 20}, .reads = {2, 4}, .busy = 1},
	{.name = "changelog", .limits = {24, 200000, 0, 0}, .writes = {1, 1}, .reads = {20, 36}, .busy = 4},
};

typedef struct run {
	fault_pair pair;
	const shape *shape;
	size_t asked; /* whose token is asked about */
	pgs_db *healthy[DBS], *faulty[DBS];
	size_t busy_done;
	pgs_commit_token token[DBS];
} run;

static uint64_t old_seed(uint64_t page)
{
	return (page + 1) * 256 + 1;
}

static uint64_t new_seed(uint64_t page)
{
	return (page + 1001) * 256 + 1;
}

static void commit_busy(fault_pair *pair)
{
	run *r = (run *)pair;
	if (r->busy_done < r->shape->busy && pair->call > DBS)
		fault_pair_commit_beside(r->healthy[1], BUSY_PAGE, 256 * 7777 + ++r->busy_done);
}

static void open_run(run *r)
{
	static const char *const names[DBS] = {"a", "b"};
	r->pair.between = commit_busy;
	fault_pair_open(&r->pair, &r->shape->limits);
	for (size_t i = 0; i < DBS; i++) {
		r->healthy[i] = create_db(r->pair.healthy, names[i], NULL);
		pgs_txn *txn = begin_write(r->healthy[i]);
		for (uint64_t page = 0; page < OLD; page++)
			assert_int_equal(write_seed(txn, page, old_seed(page)), PGS_OK);
		assert_int_equal(write_seed(txn, BUSY_PAGE, 256 * 7777), PGS_OK);
		commit_ok(txn);
		r->faulty[i] = open_db(r->pair.faulty, names[i]);
	}
}

static void close_run(run *r)
{
	for (size_t i = 0; i < DBS; i++) {
		pgs_db_close(r->healthy[i]);
		pgs_db_close(r->faulty[i]);
	}
	fault_pair_close(&r->pair);
}

static int change_things(const shape *s, size_t db, pgs_txn *txn)
{
	int result = PGS_OK;
	for (uint64_t i = 0; result == PGS_OK && i < s->reads[db]; i += 2)
		result = read_seed(txn, OLD - s->reads[db] + i, old_seed(OLD - s->reads[db] + i));
	for (uint64_t i = 0; result == PGS_OK && i < s->writes[db]; i++)
		result = write_seed(txn, i, new_seed(i));
	return result;
}

static int commit_through_faults(run *r, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_commit_options commit[DBS] = {PGS_COMMIT_OPTIONS_INIT, PGS_COMMIT_OPTIONS_INIT};
	const pgs_commit_options *const commits[DBS] = {&commit[0], &commit[1]};
	pgs_txn *txns[DBS] = {NULL, NULL};
	int result = PGS_OK;
	options.write = true;
	options.timeout_ms = r->pair.kind >= ALL_LOST ? 20 : 2000;
	r->pair.armed = true;
	for (size_t i = 0; result == PGS_OK && i < DBS; i++) {
		commit[i].token = &r->token[i];
		result = pgs_begin(&txns[i], r->faulty[i], &options, err);
	}
	for (size_t i = 0; result == PGS_OK && i < DBS; i++) {
		result = change_things(r->shape, i, txns[i]);
		if (result != PGS_OK)
			*err = *pgs_txn_error(txns[i]);
	}
	if (result == PGS_OK) {
		result = pgs_commit_many(txns, commits, DBS, NULL, NULL, err);
	} else {
		pgs_abort(txns[0]);
		pgs_abort(txns[1]);
	}
	r->pair.armed = false;
	return result;
}

static bool ask_status(run *r)
{
	int status = 0;
	uint64_t revision[DBS] = {0, 0};
	pgs_error err = PGS_ERROR_INIT;
	bool happened = false;
	for (size_t i = 0; i < DBS; i++) {
		size_t db = (i + r->asked) % DBS;
		if (r->shape->writes[db] == 0)
			continue;
		expect_code(pgs_commit_status(r->healthy[db], &r->token[db], &status, &revision[i], &err), PGS_OK, &err,
			    "status");
		if (i && r->shape->writes[(db + 1) % DBS]) {
			assert_int_equal(happened, status == PGS_COMMIT_HAPPENED);
			assert_int_equal(revision[0], revision[i]);
		}
		happened = status == PGS_COMMIT_HAPPENED;
	}
	return happened;
}

static void check_state(run *r, pgs_db *const *dbs, bool happened)
{
	for (size_t i = 0; i < DBS; i++) {
		pgs_txn *txn;
		pgs_error err = PGS_ERROR_INIT;
		expect_code(pgs_begin(&txn, dbs[i], NULL, &err), PGS_OK, &err, "begin");
		for (uint64_t page = 0; page < OLD; page++) {
			bool written = happened && page < r->shape->writes[i];
			expect_code(read_seed(txn, page, written ? new_seed(page) : old_seed(page)), PGS_OK,
				    pgs_txn_error(txn), "read");
		}
		pgs_abort(txn);
	}
	for (size_t i = 0; i < DBS; i++)
		assert_int_equal(pgs_verify(dbs[i], NULL, NULL, NULL), PGS_OK);
}

static void check_further_commit(run *r)
{
	for (size_t i = 0; i < DBS; i++) {
		fault_pair_remove_lock(&r->pair, r->healthy[i]);
		pgs_txn *txn = begin_write(r->faulty[i]);
		assert_int_equal(write_seed(txn, 600, 256 * 4242), PGS_OK);
		commit_ok(txn);
	}
}

/* Returns false when the fault came after the end. */
static bool try_fault(run *r)
{
	pgs_error err = PGS_ERROR_INIT;
	failing_alloc_install();
	open_run(r);
	int result = commit_through_faults(r, &err);
	bool reached = fault_pair_reached(&r->pair), happened = result == PGS_OK;
	pgs_fault_resume(r->pair.fault);
	fault_pair_expect(&r->pair, result, &err);
	if (r->asked)
		pgs_fault_deliver(r->pair.fault);
	if (result == PGS_EUNKNOWN)
		happened = ask_status(r);
	check_state(r, r->healthy, happened);
	pgs_fault_deliver(r->pair.fault);
	check_state(r, r->healthy, happened);
	check_state(r, r->faulty, happened);
	check_further_commit(r);
	close_run(r);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
	return reached;
}

static void sweep(const shape *s)
{
	for (fault_plan kind = 0; kind < FAULT_PLANS; kind++)
		for (size_t asked = 0; asked < DBS; asked++) {
			uint64_t at = 1;
			for (bool reached = true; reached; at++) {
				run r = {.pair = {.kind = kind, .at = at}, .shape = s, .asked = asked};
				reached = try_fault(&r);
			}
			assert_true(at > 4);
		}
}

static void test_commit_many_faults__all_or_nothing(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		sweep(&shapes[i]);
}

/* Delayed, and given up at one of the databases: it lands in neither. */
static void test_commit_many_faults__given_up_at_one(void **state)
{
	(void)state;
	for (size_t asked = 0; asked < DBS; asked++) {
		run r = {.pair = {.kind = ALL_DELAYED, .at = 5}, .shape = &shapes[0], .asked = asked};
		pgs_error err = PGS_ERROR_INIT;
		int status;
		uint64_t revision;
		failing_alloc_install();
		open_run(&r);
		for (r.pair.at = 1; r.token[1].base_revision == 0; r.pair.at++) { /* until it is the commit's own call */
			r.pair.call = 0;
			commit_through_faults(&r, &err);
		}
		pgs_fault_resume(r.pair.fault);
		assert_int_equal(pgs_commit_status(r.healthy[asked], &r.token[asked], &status, &revision, &err), PGS_OK);
		assert_int_equal(status, PGS_COMMIT_NOT_HAPPENED);
		pgs_fault_deliver(r.pair.fault);
		check_state(&r, r.healthy, false);
		close_run(&r);
		failing_alloc_uninstall();
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_commit_many_faults__all_or_nothing),
		cmocka_unit_test(test_commit_many_faults__given_up_at_one),
	};
	return cmocka_run_group_tests_name("commit_many_faults", tests, NULL, NULL);
}
