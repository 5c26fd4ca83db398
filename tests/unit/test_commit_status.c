/* txn/status.c, and what commit.c answers after an attempt whose reply never came. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>

#include "codec/changelog.h"
#include "codec/meta.h"
#include "support/failing_alloc.h"
#include "support/kv_calls.h"
#include "support/stores.h"
#include "support/testing.h"
#include "txn/db.h"

typedef struct fixture {
	server server;
	pgs_fault *fault;
	pgs_store *store, *faulty_store;
	pgs_db *db, *faulty;
	/* Called before the nth call after arming; then the fault strikes it. */
	uint64_t calls_left;
	pgs_fault_kind kind;
	void (*then)(struct fixture *f); /* before the call after that */
	bool then_is_next;
	pgs_commit_token token;
} fixture;

static void before_call(void *ctx, uint64_t call, const char *operation)
{
	fixture *f = ctx;
	(void)call;
	(void)operation;
	if (f->then_is_next) {
		f->then_is_next = false;
		f->then(f);
	}
	if (f->calls_left && --f->calls_left == 0) {
		pgs_fault_at(f->fault, 1, f->kind);
		f->then_is_next = f->then != NULL;
	}
}

static int setup(void **state)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	fixture *f = calloc(1, sizeof *f);
	pgs_fault_options options = PGS_FAULT_OPTIONS_INIT;
	options.before = before_call;
	options.before_ctx = f;
	failing_alloc_install();
	assert_int_equal(pgs_fault_new(&f->fault, &options, NULL), PGS_OK);
	server_start(&f->server, NULL);
	f->store = server_open(&f->server, NULL, NULL);
	so.soft_quota_percent = PGS_SOFT_QUOTA_OFF; /* the KV is not asked how full it is: calls are counted here */
	f->faulty_store = server_open(&f->server, f->fault, &so);
	f->db = create_db(f->store, "db", NULL);
	f->faulty = open_db(f->faulty_store, "db");
	pgs_txn *txn = begin_write(f->db);
	assert_int_equal(write_seed(txn, 0, 256), PGS_OK);
	assert_int_equal(write_seed(txn, 1, 512), PGS_OK);
	commit_ok(txn);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	failing_alloc_end();
	pgs_db_close(f->db);
	pgs_db_close(f->faulty);
	pgs_close(f->store);
	pgs_close(f->faulty_store);
	server_stop(&f->server);
	pgs_fault_free(f->fault);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
	free(f);
	return 0;
}

/* A transaction of the faulty store that changes page 0. */
static pgs_txn *begin_change(fixture *f, uint32_t timeout_ms)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.write = true;
	options.timeout_ms = timeout_ms;
	assert_int_equal(pgs_begin(&txn, f->faulty, &options, NULL), PGS_OK);
	assert_int_equal(read_seed(txn, 0, 256), PGS_OK);
	assert_int_equal(write_seed(txn, 0, 257), PGS_OK);
	return txn;
}

static int commit_token(fixture *f, pgs_txn *txn, pgs_error *err)
{
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	options.token = &f->token;
	return pgs_commit(txn, &options, NULL, err);
}

static void expect_status(fixture *f, int expected)
{
	int status;
	uint64_t revision;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_commit_status(f->db, &f->token, &status, &revision, &err), PGS_OK, &err, "status");
	assert_int_equal(status, expected);
	assert_true((revision != 0) == (expected == PGS_COMMIT_HAPPENED));
}

static void expect_page(fixture *f, uint64_t seed)
{
	pgs_txn *txn = begin_write(f->db);
	assert_int_equal(read_seed(txn, 0, seed), PGS_OK);
	pgs_abort(txn);
}

/* From the next call on, every one. */
static void always(fixture *f)
{
	f->calls_left = 1;
}

/* Leave a commit on its way: every request of it is delayed. */
static void delay_commit(fixture *f)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn = begin_change(f, 30);
	f->kind = PGS_FAULT_DELAY;
	f->then = always;
	f->calls_left = 1;
	expect_code(commit_token(f, txn, &err), PGS_EUNKNOWN, &err, "commit");
	f->calls_left = 0;
	f->then_is_next = false;
	f->then = NULL;
}

/* The floor, as the collector would raise it. */
static void put_floor(fixture *f, uint64_t floor)
{
	pgs__buffer value = {0};
	pgs__floor_encode(&(pgs__floor){floor, 0}, &value);
	pgs__key key = pgs__key_single(pgs__db_prefix(f->db), 'g');
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = pgs__key_slice(&key), .value = pgs__buffer_slice(&value)};
	kv_apply(f->server.kv, &op, 1);
	pgs__buffer_free(&value);
}

/* --- the status -------------------------------------------------------------------- */

static void test_status__of_a_token_never_sent_is_no(void **state)
{
	fixture *f = *state;
	f->token = (pgs_commit_token){.base_revision = kv_revision(f->server.kv)};
	memset(f->token.uuid, 7, sizeof f->token.uuid);
	expect_status(f, PGS_COMMIT_NOT_HAPPENED);
	expect_status(f, PGS_COMMIT_NOT_HAPPENED);
}

static void test_status__of_a_commit_is_yes(void **state)
{
	fixture *f = *state;
	assert_int_equal(commit_token(f, begin_change(f, 0), NULL), PGS_OK);
	expect_status(f, PGS_COMMIT_HAPPENED);
	expect_status(f, PGS_COMMIT_HAPPENED);
	expect_page(f, 257);
}

static void test_status__no_keeps_a_delayed_commit_out(void **state)
{
	fixture *f = *state;
	delay_commit(f);
	expect_status(f, PGS_COMMIT_NOT_HAPPENED);
	assert_int_equal(pgs_fault_deliver(f->fault), 0);
	expect_page(f, 256);
	expect_status(f, PGS_COMMIT_NOT_HAPPENED);
}

static void test_status__of_a_commit_that_landed_late_is_yes(void **state)
{
	fixture *f = *state;
	delay_commit(f);
	assert_int_equal(pgs_fault_deliver(f->fault), 1);
	expect_status(f, PGS_COMMIT_HAPPENED);
	expect_page(f, 257);
}

static void test_status__goes_on_through_faults(void **state)
{
	fixture *f = *state;
	delay_commit(f);
	for (pgs_fault_kind kind = PGS_FAULT_LOSE_REPLY; kind <= PGS_FAULT_DELAY; kind++) {
		int status;
		pgs_fault_at(f->fault, 1, kind);
		assert_int_equal(pgs_commit_status(f->faulty, &f->token, &status, NULL, NULL), PGS_OK);
		assert_int_equal(status, PGS_COMMIT_NOT_HAPPENED);
		pgs_fault_deliver(f->fault);
		expect_page(f, 256);
	}
}

static void test_status__after_drop_is_not_found(void **state)
{
	fixture *f = *state;
	int status;
	assert_int_equal(commit_token(f, begin_change(f, 0), NULL), PGS_OK);
	assert_int_equal(pgs_db_drop(f->store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_commit_status(f->db, &f->token, &status, NULL, NULL), PGS_ENOTFOUND);
	memset(f->token.uuid, 9, sizeof f->token.uuid);
	assert_int_equal(pgs_commit_status(f->faulty, &f->token, &status, NULL, NULL), PGS_ENOTFOUND);
}

static void test_status__stays_unknown_below_the_floor(void **state)
{
	fixture *f = *state;
	int status;
	delay_commit(f);
	put_floor(f, f->token.base_revision + 1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pgs_commit_status(f->db, &f->token, &status, NULL, NULL), PGS_EUNKNOWN);
	assert_int_equal(pgs_fault_deliver(f->fault), 0); /* its own compare */
	expect_page(f, 256);
}

static void test_status__at_the_floor_is_answered(void **state)
{
	fixture *f = *state;
	delay_commit(f);
	put_floor(f, f->token.base_revision);
	expect_status(f, PGS_COMMIT_NOT_HAPPENED);
}

/* --- the floor ---------------------------------------------------------------------- */

static void test_commit__below_the_floor_is_refused(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn = begin_change(f, 0), *other = begin_change(f, 0);
	uint64_t base = kv_revision(f->server.kv);
	put_floor(f, base);
	expect_code(commit_token(f, txn, &err), PGS_OK, &err, "a commit at the floor");
	put_floor(f, base + 1);
	expect_code(commit_token(f, other, &err), PGS_EOLDREV, &err, "a commit below the floor");
}

static int collections;

/* Before each call, as often as `collections` says: all history is forgotten. */
static void collect_again(fixture *f)
{
	if (collections-- <= 0)
		return;
	put_floor(f, kv_revision(f->server.kv));
	uint64_t now = kv_revision(f->server.kv);
	put_floor(f, now);
	assert_int_equal(f->server.kv->vtable->compact(f->server.kv, now, 0, NULL), PGS_OK);
	f->calls_left = 1;
}

/* An old revision that shows what the oldest readable one shows, while that moves on between any two requests. */
static void test_begin__the_oldest_may_move_on(void **state)
{
	fixture *f = *state;
	for (int times = 1; times < 12; times++) {
		pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
		pgs_error err = PGS_ERROR_INIT;
		pgs_txn *txn = begin_write(f->db);
		options.at_revision = pgs_txn_revision(txn);
		pgs_abort(txn);
		f->kind = PGS_FAULT_NONE;
		f->then = collect_again;
		f->calls_left = 1;
		collections = times;
		expect_code(pgs_begin(&txn, f->faulty, &options, &err), PGS_OK, &err, "begin at the oldest");
		assert_int_equal(pgs_txn_revision(txn), options.at_revision);
		f->calls_left = 0;
		f->then_is_next = false;
		pgs_abort(txn);
	}
}

/* Collected, as far as commits go: the floor is above it, its entry is gone. */
static void collect_commit(fixture *f)
{
	pgs__key from = pgs__key_kind(pgs__db_prefix(f->db), 'x'), end = pgs__key_kind_end(pgs__db_prefix(f->db), 'x');
	pgs_kv_op op = {.kind = PGS_KV_DELETE, .key = pgs__key_slice(&from), .range_end = pgs__key_slice(&end)};
	put_floor(f, kv_revision(f->server.kv));
	kv_apply(f->server.kv, &op, 1);
}

/* The reply is lost; when the commit is sent again, nothing is left that would tell that it happened. */
static void test_commit__unknown_and_below_the_floor_stays_unknown(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn = begin_change(f, 60000);
	f->kind = PGS_FAULT_LOSE_REPLY;
	f->then = collect_commit;
	f->calls_left = 1;
	expect_code(commit_token(f, txn, &err), PGS_EUNKNOWN, &err, "a commit whose outcome was collected");
	expect_page(f, 257);
}

static void test_begin__below_the_floor_names_the_oldest(void **state)
{
	fixture *f = *state;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	char oldest[32];
	uint64_t now = kv_revision(f->server.kv);
	put_floor(f, now);
	snprintf(oldest, sizeof oldest, "readable is %llu", (unsigned long long)now);
	options.at_revision = now - 1;
	expect_code(pgs_begin(&txn, f->db, &options, &err), PGS_EOLDREV, &err, "begin below the floor");
	assert_non_null(strstr(err.message, oldest));
	options.at_revision = now;
	expect_code(pgs_begin(&txn, f->db, &options, &err), PGS_OK, &err, "begin at the floor");
	assert_int_equal(read_seed(txn, 0, 256), PGS_OK);
	pgs_abort(txn);
}

static void test_begin__in_the_past_of_a_dropped_database_is_not_found(void **state)
{
	fixture *f = *state;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	options.at_revision = kv_revision(f->server.kv);
	assert_int_equal(pgs_db_drop(f->store, "db", 2, NULL), PGS_OK);
	expect_code(pgs_begin(&txn, f->faulty, &options, &err), PGS_ENOTFOUND, &err, "begin in the past");
}

/* --- failures after an attempt that may still land ------------------------------------- */

static void set_attr(fixture *f)
{
	pgs_txn *txn = begin_write(f->db);
	assert_int_equal(pgs_attr_set(txn, "root", 4, "x", 1), PGS_OK);
	commit_ok(txn);
}

static void test_commit__a_conflict_that_goes_away_lets_nothing_land(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	size_t size;
	pgs_txn *txn = begin_change(f, 0);
	assert_int_equal(pgs_attr_get(txn, "root", 4, NULL, 0, &size), PGS_ENOTFOUND);
	f->kind = PGS_FAULT_DELAY;
	f->calls_left = 1;
	f->then = set_attr;
	expect_code(commit_token(f, txn, &err), PGS_ECONFLICT, &err, "commit");
	txn = begin_write(f->db);
	assert_int_equal(pgs_attr_set(txn, "root", 4, NULL, 0), PGS_OK); /* absent, as the delayed attempt saw it */
	commit_ok(txn);
	assert_int_equal(pgs_fault_deliver(f->fault), 0);
	expect_page(f, 256);
	expect_status(f, PGS_COMMIT_NOT_HAPPENED);
}

static size_t failing;

static void fail_allocation(fixture *f)
{
	(void)f;
	failing_alloc_begin(failing);
}

/* The first attempt is delayed, then memory runs out somewhere: "nothing was changed" must stay true. */
static bool commit_short_of_memory(fixture *f)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn = begin_change(f, 100);
	f->kind = PGS_FAULT_DELAY;
	f->calls_left = 1;
	f->then = NULL;
	fail_allocation(f);
	int result = commit_token(f, txn, &err);
	bool failed = failing_alloc_end();
	f->calls_left = 0;
	uint64_t landed = pgs_fault_deliver(f->fault);
	if (result != PGS_OK && result != PGS_EUNKNOWN) {
		expect_code(result, PGS_ENOMEM, &err, "commit");
		assert_int_equal(landed, 0);
	}
	expect_page(f, result == PGS_OK || landed ? 257 : 256);
	txn = begin_write(f->db);
	assert_int_equal(write_seed(txn, 0, 256), PGS_OK);
	commit_ok(txn);
	return failed;
}

static void test_commit__out_of_memory_after_an_unknown_attempt_is_unknown(void **state)
{
	fixture *f = *state;
	for (failing = 1; commit_short_of_memory(f); failing++)
		;
	assert_true(failing > 10);
}

/* A blind delta on a page that another rewrites: the second attempt has to be built anew, and memory runs out there. */
static bool rebuild_short_of_memory(fixture *f, uint64_t lost_call)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn, *other = begin_write(f->db);
	int status = 0;
	options.write = true;
	assert_int_equal(pgs_begin(&txn, f->faulty, &options, NULL), PGS_OK);
	assert_int_equal(write_seed(txn, 0, 258), PGS_OK);
	assert_int_equal(write_seed(other, 0, 512 * failing), PGS_OK);
	commit_ok(other);
	f->kind = PGS_FAULT_LOSE_REPLY;
	f->calls_left = lost_call;
	f->then = fail_allocation;
	int result = commit_token(f, txn, &err);
	bool failed = failing_alloc_end();
	f->calls_left = 0;
	f->then_is_next = false;
	assert_int_equal(pgs_commit_status(f->db, &f->token, &status, NULL, NULL), PGS_OK);
	assert_true(result != PGS_OK || status == PGS_COMMIT_HAPPENED);
	expect_page(f, status == PGS_COMMIT_HAPPENED ? 258 : 512 * failing);
	assert_int_equal(pgs_verify(f->db, NULL, NULL, NULL), PGS_OK);
	other = begin_write(f->db);
	assert_int_equal(write_seed(other, 0, 256), PGS_OK);
	commit_ok(other);
	return failed;
}

static void test_commit__a_payload_built_in_part_is_not_sent(void **state)
{
	fixture *f = *state;
	for (uint64_t call = 1; call <= 5; call++)
		for (failing = 1; rebuild_short_of_memory(f, call); failing++)
			;
}

/* --- databases ---------------------------------------------------------------------------- */

static void fail_this_call(fixture *f)
{
	pgs_fault_at(f->fault, 1, PGS_FAULT_ERROR);
}

static void test_create__an_error_after_a_delay_is_unknown(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	f->kind = PGS_FAULT_DELAY;
	f->then = fail_this_call;
	f->calls_left = 2; /* the first announces it */
	expect_code(pgs_db_create(&db, f->faulty_store, "new", 3, NULL, &err), PGS_EUNKNOWN, &err, "create");
	assert_int_equal(pgs_fault_deliver(f->fault), 1);
	pgs_db_close(open_db(f->store, "new")); /* and there it is */
}

/* Whatever call of a creation comes late, once the database was dropped it does not come back. */
static void test_create__what_comes_after_the_drop_does_nothing(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	f->kind = PGS_FAULT_DELAY;
	for (uint64_t nth = 1; nth <= 4; nth++) {
		pgs_db *db;
		f->calls_left = nth;
		expect_code(pgs_db_create(&db, f->faulty_store, "new", 3, NULL, &err), PGS_OK, &err, "create");
		pgs_db_close(db);
		f->calls_left = 0;
		expect_code(pgs_db_drop(f->store, "new", 3, &err), PGS_OK, &err, "drop");
		pgs_fault_deliver(f->fault);
		assert_int_equal(pgs_db_open(&db, f->store, "new", 3, NULL, &err), PGS_ENOTFOUND);
	}
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	expect_code(pgs_maintain_store(f->store, NULL, &report, &err), PGS_OK, &err, "maintain");
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = {"N/", 2}, .range_end = {"N0", 2}, .count_only = true};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(f->server.kv->vtable->txn(f->server.kv, &txn, 1, 0, NULL), PGS_OK);
	assert_int_equal(txn.results[0].total, 0);
	f->server.kv->vtable->release(f->server.kv, &txn, 1);
}

static void test_drop__an_error_after_a_delay_is_unknown(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	f->kind = PGS_FAULT_DELAY;
	f->then = fail_this_call;
	f->calls_left = 2; /* the first finds the name */
	expect_code(pgs_db_drop(f->faulty_store, "db", 2, &err), PGS_EUNKNOWN, &err, "drop");
	assert_int_equal(pgs_fault_deliver(f->fault), 1);
	assert_int_equal(pgs_db_open(&db, f->store, "db", 2, NULL, &err), PGS_ENOTFOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_create__an_error_after_a_delay_is_unknown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_create__what_comes_after_the_drop_does_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drop__an_error_after_a_delay_is_unknown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status__of_a_token_never_sent_is_no, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status__of_a_commit_is_yes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status__no_keeps_a_delayed_commit_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status__of_a_commit_that_landed_late_is_yes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status__goes_on_through_faults, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status__after_drop_is_not_found, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status__stays_unknown_below_the_floor, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status__at_the_floor_is_answered, setup, teardown),
		cmocka_unit_test_setup_teardown(test_commit__below_the_floor_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_begin__the_oldest_may_move_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_commit__unknown_and_below_the_floor_stays_unknown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_begin__below_the_floor_names_the_oldest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_begin__in_the_past_of_a_dropped_database_is_not_found, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_commit__a_conflict_that_goes_away_lets_nothing_land, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_commit__a_payload_built_in_part_is_not_sent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_commit__out_of_memory_after_an_unknown_attempt_is_unknown, setup,
						teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
