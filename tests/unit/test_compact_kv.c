/* maintain/compact_kv.c: how far the KV's history may be forgotten. */
#include "test_worker.h"

static uint64_t change(pgs_db *db)
{
	static uint64_t seed = 1000;
	pgs_txn *t = begin_write(db);
	assert_int_equal(write_seed(t, 1, seed += 256), PGS_OK);
	return commit_ok(t);
}

static void put_floor(fixture *f, pgs_db *db, uint64_t floor)
{
	pgs__key g = pgs__key_single(pgs__db_prefix(db), 'g');
	pgs__buffer b = {0};
	pgs__floor_encode(&(pgs__floor){floor, 0}, &b);
	put_raw(f, &g, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static uint64_t compacted(fixture *f)
{
	pgs_kv_stat stat;
	assert_int_equal(f->server.kv->vtable->stat(f->server.kv, &stat, 0, NULL), PGS_OK);
	return stat.compacted_revision;
}

/* Compacts, and checks what is reported. */
static uint64_t run_compact(process *p)
{
	p->report.compacted_revision = 0;
	int result = pgs__job_compact_kv(&p->worker);
	expect_code(result, PGS_OK, &p->err, "compact");
	return p->report.compacted_revision;
}

static void test_compact__to_the_lowest_floor(void **state)
{
	fixture *f = *state;
	pgs_db *second = create_db(f->a.store, "second", NULL), *third = create_db(f->a.store, "third", NULL);
	f->b.worker.options.all = true;
	uint64_t r1 = change(f->a.db), r2 = change(f->a.db), r3 = change(f->a.db);
	put_floor(f, f->a.db, r3);
	put_floor(f, second, r1);
	put_floor(f, third, r2);
	assert_true(run_compact(&f->b) == r1 && compacted(f) == r1);
	assert_true(run_compact(&f->b) == 0); /* done already */
	put_floor(f, second, r3);
	assert_true(run_compact(&f->b) == r2 && compacted(f) == r2);
	assert_int_equal(pgs_db_drop(f->a.store, "third", 5, NULL), PGS_OK);
	assert_true(run_compact(&f->b) == r3);
	pgs_db_close(second);
	pgs_db_close(third);
}

/* No maintenance has seen it yet: it needs what there is since its creation. */
static void test_compact__a_new_database(void **state)
{
	fixture *f = *state;
	f->b.worker.options.all = true;
	put_floor(f, f->a.db, change(f->a.db));
	pgs_db *db = create_db(f->a.store, "new", NULL);
	uint64_t created = kv_revision(f->server.kv), first = change(db);
	put_floor(f, f->a.db, change(f->a.db));
	assert_true(run_compact(&f->b) == created);
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	o.at_revision = first;
	assert_int_equal(pgs_begin(&t, db, &o, NULL), PGS_OK);
	pgs_abort(t);
	pgs_db_close(db);
}

/* No database is left: nobody needs any of it. */
static void test_compact__an_empty_store(void **state)
{
	fixture *f = *state;
	f->b.worker.options.all = true;
	assert_int_equal(pgs_db_drop(f->a.store, "db", 2, NULL), PGS_OK);
	assert_true(run_compact(&f->b) == kv_revision(f->server.kv));
}

/* Made after the names were read. */
static void create_before(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	if (call != f->number)
		return;
	pgs_db *db = create_db(f->a.store, "new", NULL);
	f->number = 0;
	f->a.worker.db = db;
}

static void test_compact__a_database_comes_at_every_call(void **state)
{
	fixture *f = *state;
	f->b.worker.options.all = true;
	for (uint64_t nth = 1; nth <= 4; nth++) {
		uint64_t r1 = change(f->a.db);
		put_floor(f, f->a.db, r1);
		f->number = nth;
		watch_calls(f, create_before);
		assert_true(run_compact(&f->b) == r1);
		watch_calls(f, NULL);
		assert_int_equal(f->number, 0);
		change(f->a.worker.db);
		pgs_db_close(f->a.worker.db);
		assert_int_equal(pgs_db_drop(f->a.store, "new", 3, NULL), PGS_OK);
	}
}

static void test_compact__is_worth_it(void **state)
{
	fixture *f = *state;
	put_floor(f, f->a.db, change(f->a.db));
	assert_true(run_compact(&f->b) == 0);
	for (int i = 0; i < 1000; i++)
		kv_put(f->server.kv, "elsewhere", "x");
	uint64_t r = change(f->a.db);
	put_floor(f, f->a.db, r);
	assert_true(run_compact(&f->b) == r);
}

static void test_compact__only_an_owned_kv(void **state)
{
	fixture *f = *state;
	f->b.worker.options.all = true;
	put_floor(f, f->a.db, change(f->a.db));
	f->b.store->owns_kv = false;
	assert_true(run_compact(&f->b) == 0 && compacted(f) == 0);
	f->b.store->owns_kv = true;
	f->b.worker.options.dry_run = true;
	assert_true(run_compact(&f->b) == 0 && compacted(f) == 0);
	f->b.worker.options.dry_run = false;
	assert_true(run_compact(&f->b) > 0);
}

static void test_compact__damage_ends_it(void **state)
{
	fixture *f = *state;
	f->b.worker.options.all = true;
	pgs_db *second = create_db(f->a.store, "second", NULL);
	pgs__key g = pgs__key_single(pgs__db_prefix(second), 'g'), n = pgs__key_name("second", 6);
	put_floor(f, f->a.db, change(f->a.db));
	put_raw(f, &g, (pgs_slice){"?", 1});
	assert_int_equal(pgs__job_compact_kv(&f->b.worker), PGS_ECORRUPT);
	delete_raw(f, &g);
	assert_int_equal(pgs__job_compact_kv(&f->b.worker), PGS_ECORRUPT);
	put_floor(f, second, 3);
	put_raw(f, &n, (pgs_slice){"?", 1});
	assert_int_equal(pgs__job_compact_kv(&f->b.worker), PGS_ECORRUPT);
	assert_true(compacted(f) == 0);
	pgs_db_close(second);
}

/* Another worker compacts at any moment: that is as good. */
static void compact_before(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	if (call == f->number)
		run_compact(&f->a);
}

static void test_compact__two_workers(void **state)
{
	fixture *f = *state;
	f->a.worker.options.all = f->b.worker.options.all = true;
	for (f->number = 1; f->number <= 4; f->number++) {
		uint64_t r = change(f->a.db);
		put_floor(f, f->a.db, r);
		watch_calls(f, compact_before);
		run_compact(&f->b);
		watch_calls(f, NULL);
		assert_true(compacted(f) == r);
	}
}

static void test_compact__faults_at_every_call(void **state)
{
	fixture *f = *state;
	f->b.worker.options.all = true;
	for (uint64_t nth = 1; nth <= 4; nth++) {
		uint64_t r = change(f->a.db);
		put_floor(f, f->a.db, r);
		pgs_fault_at(f->fault, nth, PGS_FAULT_ERROR);
		assert_int_equal(pgs__job_compact_kv(&f->b.worker), PGS_EIO);
		pgs_fault_at(f->fault, nth, PGS_FAULT_LOSE_REPLY);
		int result = pgs__job_compact_kv(&f->b.worker);
		assert_true(result == PGS_OK || (nth == 1 && result == PGS_EIO)); /* stat */
		pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
		run_compact(&f->b);
		assert_true(compacted(f) == r);
	}
}

static void test_compact__many_databases(void **state)
{
	fixture *f = *state;
	pgs_db *lowest = NULL;
	f->b.worker.options.all = true;
	uint64_t r1 = change(f->a.db);
	for (int i = 0; i < 150; i++) {
		char name[8] = {(char)('A' + i / 26), (char)('a' + i % 26)};
		pgs_db_options o = PGS_DB_OPTIONS_INIT;
		o.cache_bytes = 1 << 16;
		pgs_db *db;
		assert_int_equal(pgs_db_create(&db, f->a.store, name, 2, &o, NULL), PGS_OK);
		put_floor(f, db, kv_revision(f->server.kv) + 1000);
		if (i == 120)
			lowest = db;
		else
			pgs_db_close(db);
	}
	assert_non_null(lowest);
	put_floor(f, f->a.db, kv_revision(f->server.kv) + 1000);
	for (int i = 0; i < 2000; i++)
		kv_put(f->server.kv, "elsewhere", "x");
	put_floor(f, lowest, r1); /* its creation is later, and counts */
	uint64_t target = run_compact(&f->b);
	assert_true(target > r1 && target < kv_revision(f->server.kv) - 2000);
	pgs_db_close(lowest);
}

static void test_compact__allocation_failures(void **state)
{
	fixture *f = *state;
	f->a.worker.options.all = true;
	put_floor(f, f->a.db, change(f->a.db));
	for (size_t nth = 1;; nth++) {
		failing_alloc_begin(nth);
		int result = pgs__job_compact_kv(&f->a.worker);
		bool failed = failing_alloc_end();
		assert_true(result == PGS_OK || (failed && result == PGS_ENOMEM));
		if (!failed)
			break;
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_compact__to_the_lowest_floor),
		TEST(test_compact__a_new_database),
		TEST(test_compact__a_database_comes_at_every_call),
		TEST(test_compact__an_empty_store),
		TEST(test_compact__is_worth_it),
		TEST(test_compact__only_an_owned_kv),
		TEST(test_compact__damage_ends_it),
		TEST(test_compact__two_workers),
		TEST(test_compact__faults_at_every_call),
		cmocka_unit_test_setup_teardown(test_compact__many_databases, setup_limited, teardown),
		TEST(test_compact__allocation_failures),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
