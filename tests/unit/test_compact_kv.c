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

/* --- while others work with it ----------------------------------------------------------------- */

static void compact_to_now(fixture *f)
{
	change(f->a.db);
	int result = f->server.kv->vtable->compact(f->server.kv, kv_revision(f->server.kv), 0, NULL);
	assert_true(result == PGS_OK || result == PGS_EOLDREV);
}

static int give_byte(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	(void)ctx;
	(void)offset;
	memset(buffer, 'x', size);
	return PGS_OK;
}

/* Blobs that nobody registered: their removal reads several kinds of keys as of one revision. */
static void put_orphans(fixture *f, uint64_t base)
{
	static const char kinds[] = {'s', 'i', 'x'};
	for (size_t i = 0; i < sizeof kinds; i++) {
		char name[PGS__FILE_NAME_MAX + 1], blob[PGS__BLOB_NAME_SIZE];
		assert_int_equal(pgs__file_name_new(name, kinds[i], base), PGS_OK);
		pgs__blob_name(blob, pgs__db_prefix(f->a.db), name);
		assert_int_equal(f->server.blob->vtable->put(f->server.blob, blob, 1, give_byte, NULL, 0, NULL), PGS_OK);
	}
}

static void (*disturb)(fixture *f);

static void disturb_once(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	if (call == f->number)
		disturb(f);
}

/* Another worker's run: the floor, then the KV. */
static void run_other(fixture *f)
{
	f->a.worker.options.all = true;
	f->a.worker.options.retention_ms = PGS_RETENTION_NONE;
	change(f->a.db);
	assert_int_equal(pgs__job_floor(&f->a.worker), PGS_OK);
	run_compact(&f->a);
}

/* A run of b, disturbed at each of its calls in turn. How many of these ended with EOLDREV; *more: said to be undone. */
static size_t run_disturbed(fixture *f, void (*how)(fixture *), bool all, size_t *more)
{
	size_t old = 0;
	uint64_t calls = UINT64_MAX;
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.all = all;
	o.retention_ms = PGS_RETENTION_NONE;
	disturb = how;
	*more = 0;
	for (f->number = 1; f->number <= calls; f->number++) {
		pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
		pgs_error err = PGS_ERROR_INIT;
		change(f->a.db);
		put_orphans(f, 1);
		f->b.db->orphans_looked_ms = 0;
		watch_calls(f, disturb_once);
		int result = pgs_maintain(f->b.db, &o, &report, &err);
		f->before = NULL;
		calls = pgs_fault_calls(f->fault) - f->first_call;
		if (result != PGS_EOLDREV)
			expect_code(result, PGS_OK, &err, "maintain");
		old += result == PGS_EOLDREV;
		*more += report.more;
	}
	return old;
}

static void test_compact__beside_a_run(void **state)
{
	fixture *f = *state;
	size_t more;
	assert_int_equal(run_disturbed(f, run_other, false, &more), 0);
	assert_int_equal(run_disturbed(f, run_other, true, &more), 0);
	assert_int_equal(more, 0); /* it went on until all was done */
}

static void test_compact__above_the_floor_by_someone_else(void **state)
{
	fixture *f = *state;
	size_t more;
	run_disturbed(f, compact_to_now, false, &more); /* fails with nothing but EOLDREV, and that only where it must */
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_maintain(f->b.db, NULL, &report, &err), PGS_OK, &err, "the next run");
}

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
		TEST(test_compact__beside_a_run),
		TEST(test_compact__above_the_floor_by_someone_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
