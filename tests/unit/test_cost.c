/* pgs_cost: what transactions cost is what the store's backends were asked, and nobody else's. */
#include "support/operations.h"
#include "support/stores.h"
#include "support/testing.h"

#define PAGES 3000

static uint64_t seed_of(uint64_t page_no)
{
	return (page_no + 1) << 8;
}

typedef struct fixture {
	server server;
	pgs_store *store;
	pgs_db *db;
} fixture;

/* A database whose contents are in a file; nobody does maintenance. */
static int setup(void **state)
{
	static fixture f;
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	o.maintenance = PGS_MAINTENANCE_MANUAL;
	server_start(&f.server, NULL);
	f.store = server_open(&f.server, NULL, &o);
	f.db = create_db(f.store, "db", NULL);
	write_pages(f.db, 0, PAGES, seed_of);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	pgs_db_close(f->db);
	pgs_close(f->store);
	server_stop(&f->server);
	return 0;
}

/* With empty caches. */
static void reopen(fixture *f)
{
	pgs_db_close(f->db);
	f->db = open_db(f->store, "db");
}

static pgs_txn *begin(fixture *f, bool write, pgs_cost *cost)
{
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.write = write;
	o.cost = cost;
	expect_code(pgs_begin(&t, f->db, &o, &err), PGS_OK, &err, "pgs_begin");
	return t;
}

static uint64_t requests(const operation_list *now, const operation_list *before, const char *operation)
{
	return operation_since(now, before, operation).requests;
}

/* The cost is what was added since `before`. */
static void expect_all_counted(fixture *f, const operation_list *before, const pgs_cost *cost)
{
	operation_list now = store_operations(f->store);
	pgs_operation_stat get = operation_since(&now, before, "get"), put = operation_since(&now, before, "put");
	pgs_operation_stat txn = operation_since(&now, before, "txn"), read = operation_since(&now, before, "read");
	assert_int_equal(cost->kv_requests, txn.requests + read.requests);
	assert_int_equal(cost->kv_bytes_sent, txn.bytes_sent + read.bytes_sent);
	assert_int_equal(cost->kv_bytes_received, txn.bytes_received + read.bytes_received);
	assert_int_equal(cost->blob_gets, get.requests);
	assert_int_equal(cost->blob_bytes_received, get.bytes_received);
	assert_int_equal(cost->blob_puts, put.requests);
	assert_int_equal(cost->blob_bytes_sent, put.bytes_sent);
}

static void test_cost__is_what_the_backends_were_asked(void **state)
{
	fixture *f = *state;
	pgs_cost cost = PGS_COST_INIT;
	reopen(f);
	operation_list before = store_operations(f->store);
	pgs_txn *t = begin(f, true, &cost);
	for (uint64_t i = 0; i < PAGES; i += 100)
		assert_int_equal(read_seed(t, i, seed_of(i)), PGS_OK);
	assert_int_equal(pgs_attr_set(t, "name", 4, "value", 5), PGS_OK);
	for (uint64_t i = 0; i < 1000; i++)
		assert_int_equal(write_seed(t, i * 3, seed_of(i) + ((uint64_t)1 << 40)), PGS_OK);
	commit_ok(t);
	expect_all_counted(f, &before, &cost);
	assert_true(cost.kv_requests >= 3 && cost.blob_gets > 0 && cost.blob_puts > 0);
	assert_true(cost.blob_bytes_sent > 2000000);
}

static void test_cost__of_several_transactions_adds_up(void **state)
{
	fixture *f = *state;
	pgs_cost cost = PGS_COST_INIT;
	operation_list before = store_operations(f->store);
	for (int i = 0; i < 3; i++) {
		pgs_txn *t = begin(f, i == 1, &cost), *fork;
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		o.cost = &cost;
		char value[8];
		size_t size;
		assert_int_equal(pgs_fork(&fork, t, &o, NULL), PGS_OK);
		assert_int_equal(pgs_attr_get(fork, "name", 4, value, sizeof value, &size), PGS_ENOTFOUND);
		pgs_abort(fork);
		pgs_abort(t);
	}
	expect_all_counted(f, &before, &cost);
	assert_true(cost.kv_requests >= 3); /* to begin may take none */
}

static void test_cost__of_others_does_not_count(void **state)
{
	fixture *f = *state;
	pgs_cost cost = PGS_COST_INIT;
	reopen(f);
	pgs_txn *t = begin(f, false, &cost), *other = begin(f, false, NULL);
	const pgs_cost begun = cost;
	for (uint64_t i = 0; i < 50; i++)
		assert_int_equal(read_seed(other, i * 7, seed_of(i * 7)), PGS_OK);
	assert_memory_equal(&cost, &begun, sizeof cost);
	pgs_abort(other);
	pgs_abort(t);
}

static void test_cost__tells_what_was_in_memory(void **state)
{
	fixture *f = *state;
	pgs_cost cost = PGS_COST_INIT;
	uint64_t pages[] = {10, 500, 1000, 1500, PAGES + 7};
	uint8_t bytes[5][TEST_PAGE_SIZE];
	void *dst[] = {bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]};
	const void *pin;
	reopen(f);
	pgs_txn *t = begin(f, true, &cost);
	assert_int_equal(read_seed(t, 10, seed_of(10)), PGS_OK);
	assert_int_equal(cost.cache_misses, 1);
	assert_int_equal(read_seed(t, 10, seed_of(10)), PGS_OK);
	assert_int_equal(cost.cache_hits, 1);
	assert_int_equal(pgs_read_many(t, pages, 5, dst), PGS_OK); /* the last is past the end */
	assert_int_equal(cost.cache_hits, 2);
	assert_int_equal(cost.cache_misses, 4);
	assert_int_equal(pgs_pin(t, 1000, &pin), PGS_OK);
	assert_int_equal(pgs_pin(t, 2000, &pin), PGS_OK);
	assert_int_equal(cost.cache_hits, 3);
	assert_int_equal(cost.cache_misses, 5);
	assert_int_equal(write_seed(t, 2500, 1), PGS_OK);
	assert_int_equal(read_seed(t, 2500, 1), PGS_OK); /* its own */
	assert_int_equal(read_seed(t, PAGES + 1, 0), PGS_OK);
	assert_int_equal(cost.cache_hits + cost.cache_misses, 8);
	assert_int_equal(cost.pages_ahead, 0);
	pgs_abort(t);
}

static void test_cost__pages_ahead_are_counted_once(void **state)
{
	fixture *f = *state;
	pgs_cost cost = PGS_COST_INIT;
	const uint64_t pages[] = {100, 700, 1300, PAGES + 1};
	size_t taken = 1;
	reopen(f);
	pgs_txn *t = begin(f, false, &cost);
	assert_int_equal(pgs_prefetch(t, pages, 4), PGS_OK);
	assert_int_equal(pgs_prefetch(t, pages, 4), PGS_OK);
	assert_int_equal(cost.pages_ahead, 3);
	assert_int_equal(cost.cache_hits + cost.cache_misses, 0);
	assert_int_equal(read_seed(t, 700, seed_of(700)), PGS_OK);
	assert_int_equal(cost.cache_hits, 1);
	/* Nothing is waited for here. */
	assert_false(pgs_prefetch_is_useful(f->db));
	assert_int_equal(pgs_prefetch_start(t, pages, 4, &taken), PGS_OK);
	assert_int_equal(taken, 0);
	pgs_abort(t);
}

static void test_cost__of_a_begin_that_fails_counts(void **state)
{
	fixture *f = *state;
	pgs_txn *t;
	pgs_cost cost = PGS_COST_INIT;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_revision = 1;
	o.cost = &cost;
	assert_int_not_equal(pgs_begin(&t, f->db, &o, NULL), PGS_OK);
	assert_true(cost.kv_requests > 0);
	cost.struct_size = 0;
	assert_int_equal(pgs_begin(&t, f->db, &o, NULL), PGS_EINVAL);
}

/* What a commit does for the database, by the way, is nobody's. */
static void test_cost__is_without_maintenance(void **state)
{
	fixture *f = *state;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	uint64_t most = 0;
	pgs_store_options by_writers = PGS_STORE_OPTIONS_INIT;
	by_writers.maintenance = PGS_MAINTENANCE_BY_WRITERS;
	pgs_store *store = server_open(&f->server, NULL, &by_writers);
	const pgs_maintain_options often = {.struct_size = sizeof often, .flush_pages = 50, .level0_files = 2};
	o.maintain = &often;
	pgs_db *db = create_db(store, "small", &o);
	operation_list before = store_operations(store);
	uint64_t counted = 0;
	for (uint64_t i = 0; i < 1000; i++) {
		pgs_cost cost = PGS_COST_INIT;
		pgs_txn *t;
		pgs_txn_options w = PGS_TXN_OPTIONS_INIT;
		w.write = true;
		w.cost = &cost;
		assert_int_equal(pgs_begin(&t, db, &w, NULL), PGS_OK);
		assert_int_equal(write_seed(t, i % 100, seed_of(i)), PGS_OK);
		commit_ok(t);
		counted += cost.kv_requests;
		most = cost.kv_requests > most ? cost.kv_requests : most;
	}
	operation_list now = store_operations(store);
	assert_true(requests(&now, &before, "txn") + requests(&now, &before, "read") > counted);
	assert_true(most < 12);
	pgs_db_close(db);
	pgs_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_cost__is_what_the_backends_were_asked),
		TEST(test_cost__of_several_transactions_adds_up),
		TEST(test_cost__of_others_does_not_count),
		TEST(test_cost__tells_what_was_in_memory),
		TEST(test_cost__pages_ahead_are_counted_once),
		TEST(test_cost__of_a_begin_that_fails_counts),
		TEST(test_cost__is_without_maintenance),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
