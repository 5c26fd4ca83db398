/* What happens to writers when maintenance does not keep up (lib/txn/pressure.c). */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "support/stores.h"
#include "support/testing.h"
#include "txn/db.h"
#include "util/clock.h"

#define FLUSH 4 /* contents due; 16 is the soft limit, 64 the hard one */

static server srv;
static pgs_fault *fault;
static pgs_store *store;
static pgs_db *db;
static char logged[512];
static int lines;

static void note_line(void *ctx, int level, const char *message)
{
	(void)ctx;
	(void)level;
	lines++;
	snprintf(logged, sizeof logged, "%s", message);
}

static uint64_t seed_of(uint64_t page_no)
{
	return (page_no + 1) * 256 + 1; /* full contents, each its own */
}

static pgs_maintain_options thresholds(void)
{
	pgs_maintain_options m = PGS_MAINTAIN_OPTIONS_INIT;
	m.flush_pages = FLUSH;
	m.level0_files = 1;
	return m;
}

static void open_with(uint32_t maintenance, uint32_t pressure, const pgs_kv_limits *limits)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_maintain_options m = thresholds();
	so.maintenance = maintenance;
	so.pressure = pressure;
	so.logger = note_line;
	lines = 0;
	server_start(&srv, limits);
	assert_int_equal(pgs_fault_new(&fault, NULL, NULL), PGS_OK);
	store = server_open(&srv, fault, &so);
	o.page_size_bytes = TEST_PAGE_SIZE;
	o.cache_bytes = 1 << 20;
	o.maintain = &m;
	db = create_db(store, "db", &o);
}

static void close_all(void)
{
	pgs_db_close(db);
	pgs_close(store);
	pgs_fault_free(fault);
	server_stop(&srv);
}

/* The same store as another process has it. */
static pgs_db *open_other(pgs_store **other, uint32_t pressure)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_maintain_options m = thresholds();
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *out;
	so.pressure = pressure;
	o.cache_bytes = 1 << 20;
	o.maintain = &m;
	*other = server_open(&srv, NULL, &so);
	expect_code(pgs_db_open(&out, *other, "db", 2, &o, &err), PGS_OK, &err, "pgs_db_open");
	return out;
}

static int begin(pgs_db *which, bool write, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	o.write = write;
	int result = pgs_begin(&t, which, &o, err);
	if (result == PGS_OK)
		pgs_abort(t);
	return result;
}

/* Put so many contents into the KV through a handle that nobody holds up. */
static void put_contents(pgs_db *which, uint64_t first, uint64_t count)
{
	for (uint64_t i = 0; i < count; i += 32)
		write_pages(which, first + i, count - i < 32 ? count - i : 32, seed_of);
}

static void test_pressure__refuses_writers_past_the_limit(void **state)
{
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_LIMIT, NULL);
	int result = PGS_OK;
	uint64_t page = 0;
	for (; result == PGS_OK && page < 200; page += 16) {
		result = begin(db, true, &err);
		if (result == PGS_OK)
			put_contents(db, page, 16);
	}
	expect_code(result, PGS_EBUSY, &err, "writing past the limit");
	assert_int_equal(page, 64 + 16); /* not before, not after */
	assert_non_null(strstr(err.message, "64 contents in the KV"));
	assert_non_null(strstr(err.message, "the limit is 64"));
	assert_non_null(strstr(err.message, "pgs_maintain"));
	assert_int_equal(pgs_error_class(result), PGS_CLASS_RETRY);
	expect_code(begin(db, false, &err), PGS_OK, &err, "reading past the limit");
	close_all();
}

/* In milliseconds: what they all take, whatever else the machine has to do. */
static uint64_t quickest_begin(int count, bool write)
{
	uint64_t quickest = UINT64_MAX;
	for (int i = 0; i < count; i++) {
		uint64_t before = pgs__now_ms();
		assert_int_equal(begin(db, write, NULL), PGS_OK);
		uint64_t took = pgs__now_ms() - before;
		quickest = took < quickest ? took : quickest;
	}
	return quickest;
}

static void test_pressure__delays_writers_before_that(void **state)
{
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_LIMIT, NULL);
	put_contents(db, 0, 15);
	assert_true(quickest_begin(20, true) < 50);
	put_contents(db, 15, 1 + 45);
	assert_true(quickest_begin(5, true) >= 50); /* near the hard limit: almost 100 ms each */
	assert_true(quickest_begin(20, false) < 50); /* reading is not */
	close_all();
}

static void test_pressure__a_delay_ends_with_the_timeout(void **state)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_LIMIT, NULL);
	put_contents(db, 0, 62);
	o.write = true;
	o.timeout_ms = 10;
	uint64_t quickest = UINT64_MAX;
	for (int i = 0; i < 20; i++) {
		uint64_t before = pgs__now_ms();
		if (pgs_begin(&t, db, &o, NULL) == PGS_OK)
			pgs_abort(t);
		uint64_t took = pgs__now_ms() - before;
		quickest = took < quickest ? took : quickest;
	}
	assert_true(quickest < 50); /* not almost 100 */
	close_all();
}

static void test_pressure__only_reports_where_maintenance_is_manual(void **state)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_DEFAULT, NULL);
	put_contents(db, 0, 128);
	for (int i = 0; i < 10; i++)
		assert_int_equal(begin(db, true, NULL), PGS_OK);
	assert_int_equal(lines, 1);
	assert_non_null(strstr(logged, "contents in the KV"));
	assert_int_equal(pgs_stat(db, &stat, NULL), PGS_OK);
	assert_int_equal(stat.pressure_percent, 200);
	close_all();
}

static void test_pressure__sees_what_others_put(void **state)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *other;
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_DEFAULT, NULL);
	put_contents(db, 0, 64);
	pgs_db *theirs = open_other(&other, PGS_PRESSURE_LIMIT);
	expect_code(begin(theirs, true, &err), PGS_EBUSY, &err, "writing where others wrote too much");
	pgs_db_close(theirs);
	pgs_close(other);
	close_all();
}

static void delete_kind(char kind)
{
	pgs__key first = pgs__key_kind(pgs__db_prefix(db), kind), end = pgs__key_kind_end(pgs__db_prefix(db), kind);
	pgs_kv_op op = pgs__op_delete(pgs__key_slice(&first), pgs__key_slice(&end));
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(srv.kv->vtable->txn(srv.kv, &txn, 1, 0, NULL), PGS_OK);
	srv.kv->vtable->release(srv.kv, &txn, 1);
}

static void test_pressure__ends_when_others_have_done_the_work(void **state)
{
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_LIMIT, NULL);
	put_contents(db, 0, 64);
	expect_code(begin(db, true, &err), PGS_EBUSY, &err, "writing past the limit");
	delete_kind('c');
	expect_code(begin(db, true, &err), PGS_OK, &err, "writing when there is room again");
	close_all();
}

static void test_pressure__counts_level_0(void **state)
{
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_LIMIT, NULL);
	for (int i = 0; i < 16; i++) { /* a MiB each: a file */
		expect_code(begin(db, true, &err), PGS_OK, &err, "writing");
		write_pages(db, (uint64_t)i * 300, 300, seed_of);
	}
	expect_code(begin(db, true, &err), PGS_EBUSY, &err, "writing past the limit");
	assert_non_null(strstr(err.message, "16 sorted files in level 0"));
	close_all();
}

static uint64_t thin_seed(uint64_t page_no)
{
	(void)page_no;
	return 0;
}

static void test_pressure__counts_packs(void **state)
{
	static const pgs_kv_limits limits = {128, 1572864, 0, 0};
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_LIMIT, &limits);
	for (int i = 0; i < 32; i++) {
		expect_code(begin(db, true, &err), PGS_OK, &err, "writing");
		write_pages(db, (uint64_t)i * 200, 200, thin_seed);
	}
	expect_code(begin(db, true, &err), PGS_EBUSY, &err, "writing past the limit");
	assert_non_null(strstr(err.message, "32 packs"));
	close_all();
}

static void test_pressure__costs_no_call(void **state)
{
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_LIMIT, NULL);
	put_contents(db, 0, 3);
	assert_int_equal(begin(db, true, NULL), PGS_OK); /* may look */
	uint64_t calls = pgs_fault_calls(fault);
	for (int i = 0; i < 100; i++)
		assert_int_equal(begin(db, false, NULL), PGS_OK);
	uint64_t reading = pgs_fault_calls(fault) - calls;
	calls = pgs_fault_calls(fault);
	for (int i = 0; i < 100; i++)
		assert_int_equal(begin(db, true, NULL), PGS_OK);
	assert_in_range(pgs_fault_calls(fault) - calls, reading, reading + 2); /* a count, should this take seconds */
	close_all();
}

static void test_pressure__survives_a_kv_that_does_not_count(void **state)
{
	(void)state;
	open_with(PGS_MAINTENANCE_MANUAL, PGS_PRESSURE_LIMIT, NULL);
	put_contents(db, 0, 8);
	pgs__sleep_ms(150, 0);
	uint64_t calls = pgs_fault_calls(fault);
	pgs_fault_at(fault, 1, PGS_FAULT_ERROR); /* the count: more are due than the mark says */
	assert_int_equal(begin(db, true, NULL), PGS_OK);
	assert_int_equal(pgs_fault_calls(fault) - calls, 2);
	assert_int_equal(begin(db, true, NULL), PGS_OK);
	close_all();
}

static void test_pressure__options_are_checked(void **state)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_store *out;
	(void)state;
	so.pressure = PGS_PRESSURE_LIMIT + 1;
	assert_int_equal(pgs_open(&out, "mem:", &so, NULL), PGS_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pressure__refuses_writers_past_the_limit),
		cmocka_unit_test(test_pressure__delays_writers_before_that),
		cmocka_unit_test(test_pressure__a_delay_ends_with_the_timeout),
		cmocka_unit_test(test_pressure__only_reports_where_maintenance_is_manual),
		cmocka_unit_test(test_pressure__sees_what_others_put),
		cmocka_unit_test(test_pressure__ends_when_others_have_done_the_work),
		cmocka_unit_test(test_pressure__counts_level_0),
		cmocka_unit_test(test_pressure__counts_packs),
		cmocka_unit_test(test_pressure__costs_no_call),
		cmocka_unit_test(test_pressure__survives_a_kv_that_does_not_count),
		cmocka_unit_test(test_pressure__options_are_checked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
