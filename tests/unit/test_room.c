/* The soft quota: what is refused when the KV is nearly full, what is not, and what knowing it costs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/stores.h"
#include "txn/db.h"
#include "util/clock.h"

#define QUOTA ((uint64_t)1 << 30)
#define PERCENT (QUOTA / 100)

/* A KV on a memory KV, with a quota and a size that the test says. */
typedef struct fixture {
	server srv;
	pgs_store *store;
	pgs_db *db;
	pgs_kv_vtable vtable;
} fixture;

static const pgs_kv_vtable *real;
static pgs_kv_stat told;
static int stat_result;
static unsigned asked;

static int tell(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	int result = real->stat(kv, out, deadline_ms, err);
	asked++;
	out->size_bytes = told.size_bytes;
	out->used_bytes = told.used_bytes;
	out->quota_bytes = told.quota_bytes;
	return stat_result ? stat_result : result;
}

static void open_with(fixture *f, const pgs_kv_limits *limits, uint32_t soft_quota_percent)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	so.soft_quota_percent = soft_quota_percent;
	o.page_size_bytes = TEST_PAGE_SIZE;
	o.cache_bytes = o.write_buffer_bytes = 1 << 20;
	told = (pgs_kv_stat){.quota_bytes = QUOTA};
	stat_result = PGS_OK;
	asked = 0;
	server_start(&f->srv, limits);
	f->store = server_open(&f->srv, NULL, &so);
	pgs_kv *kv = f->store->backend.kv;
	real = kv->vtable;
	f->vtable = *real;
	f->vtable.stat = tell;
	kv->vtable = &f->vtable;
	f->db = create_db(f->store, "db", &o);
}

static void close_all(fixture *f)
{
	pgs_db_close(f->db);
	f->store->backend.kv->vtable = real;
	pgs_close(f->store);
	server_stop(&f->srv);
}

/* What is known is older than the shortest time between two questions. */
static void let_it_age(void)
{
	pgs__sleep_ms(110, 0);
}

/* The next that wants room asks: so much was put since. */
static void learn(fixture *f)
{
	pgs__room_note(f->store, QUOTA);
}

static int put_page(pgs_db *db, uint64_t page_no, uint64_t seed, pgs_error *err)
{
	pgs_txn *t = begin_write(db);
	assert_int_equal(write_seed(t, page_no, seed), PGS_OK);
	return pgs_commit(t, NULL, NULL, err);
}

static int set_attr(pgs_db *db, const char *value, pgs_error *err)
{
	pgs_txn *t = begin_write(db);
	assert_int_equal(pgs_attr_set(t, "a", 1, value, value ? strlen(value) : 0), PGS_OK);
	return pgs_commit(t, NULL, NULL, err);
}

static int truncate_to(pgs_db *db, uint64_t page_count, pgs_error *err)
{
	pgs_txn *t = begin_write(db);
	assert_int_equal(pgs_truncate(t, page_count), PGS_OK);
	return pgs_commit(t, NULL, NULL, err);
}

static void test_room__what_fills_the_kv_is_refused(void **state)
{
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *other;
	(void)state;
	open_with(&f, NULL, 0);
	told.size_bytes = told.used_bytes = 79 * PERCENT;
	let_it_age();
	learn(&f);
	expect_code(put_page(f.db, 3, 1, &err), PGS_OK, &err, "writing below");
	told.size_bytes = told.used_bytes = 81 * PERCENT; /* others wrote */
	let_it_age();
	pgs__room_note(f.store, PERCENT); /* asks again, as little was left */
	expect_code(put_page(f.db, 4, 1, &err), PGS_ENOSPC, &err, "a page");
	assert_non_null(strstr(err.message, "829.4 MiB of the KV's quota of 1024.0 MiB are in use"));
	assert_non_null(strstr(err.message, "80 %"));
	assert_non_null(strstr(err.message, "Run maintenance"));
	assert_int_equal(pgs_error_class(PGS_ENOSPC), PGS_CLASS_BACKEND);
	expect_code(set_attr(f.db, "x", &err), PGS_ENOSPC, &err, "an attribute");
	expect_code(truncate_to(f.db, 100, &err), PGS_ENOSPC, &err, "growing");
	expect_code(pgs_snapshot_create(f.db, "s", 1, NULL, &err), PGS_ENOSPC, &err, "a named snapshot");
	expect_code(pgs_db_create(&other, f.store, "b", 1, NULL, &err), PGS_ENOSPC, &err, "a database");
	close_all(&f);
}

static void test_room__what_makes_room_is_not(void **state)
{
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	pgs_revision_pin *pin;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	(void)state;
	open_with(&f, NULL, 0);
	expect_code(put_page(f.db, 3, 1, &err), PGS_OK, &err, "writing");
	expect_code(set_attr(f.db, "x", &err), PGS_OK, &err, "setting");
	assert_int_equal(pgs_snapshot_create(f.db, "s", 1, NULL, &err), PGS_OK);
	let_it_age();
	told.size_bytes = told.used_bytes = 95 * PERCENT;
	learn(&f);
	expect_code(put_page(f.db, 4, 1, &err), PGS_ENOSPC, &err, "a page");
	expect_code(pgs_pin_revision(&pin, f.db, 0, 0, NULL, &err), PGS_OK, &err, "a pin");
	pgs_unpin_revision(pin);
	expect_code(set_attr(f.db, NULL, &err), PGS_OK, &err, "removing an attribute");
	expect_code(truncate_to(f.db, 1, &err), PGS_OK, &err, "truncating");
	pgs_txn *t = begin_write(f.db);
	expect_code(pgs_commit(t, NULL, NULL, &err), PGS_OK, &err, "a commit of nothing");
	expect_code(pgs_snapshot_drop(f.db, "s", 1, &err), PGS_OK, &err, "dropping a named snapshot");
	expect_code(pgs_maintain(f.db, NULL, &report, &err), PGS_OK, &err, "maintenance");
	expect_code(pgs_db_drop(f.store, "db", 2, &err), PGS_OK, &err, "dropping the database");
	close_all(&f);
}

static void test_room__writing_goes_on_when_there_is_room(void **state)
{
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	open_with(&f, NULL, 0);
	told.size_bytes = told.used_bytes = 90 * PERCENT;
	let_it_age();
	learn(&f);
	expect_code(put_page(f.db, 3, 1, &err), PGS_ENOSPC, &err, "a page");
	told.used_bytes = 20 * PERCENT; /* compacted, and not yet defragmented: what is free is used again */
	let_it_age();
	expect_code(put_page(f.db, 3, 1, &err), PGS_OK, &err, "a page when there is room");
	close_all(&f);
}

static void test_room__a_file_near_the_quota_is_refused(void **state)
{
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	(void)state;
	open_with(&f, NULL, 0);
	told.size_bytes = 96 * PERCENT;
	told.used_bytes = 20 * PERCENT;
	let_it_age();
	learn(&f);
	expect_code(put_page(f.db, 3, 1, &err), PGS_ENOSPC, &err, "a page");
	assert_non_null(strstr(err.message, "defragment it"));
	assert_non_null(strstr(err.message, "204.8 MiB are in use"));
	assert_int_equal(pgs_stat(f.db, &stat, NULL), PGS_OK);
	assert_int_equal(stat.store_kv_bytes, 96 * PERCENT);
	assert_int_equal(stat.store_kv_used_bytes, 20 * PERCENT);
	assert_int_equal(stat.store_kv_soft_quota_bytes, 80 * PERCENT);
	assert_in_range(stat.pressure_percent, 98, 100); /* of what is refused */
	close_all(&f);
}

/* A small quota leaves room for the largest requests, not for a share of it. */
static void test_room__the_reserve_takes_a_request(void **state)
{
	static const pgs_kv_limits limits = {128, 1572864, 0, 0};
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	open_with(&f, &limits, 100);
	told.quota_bytes = 16 << 20;
	told.size_bytes = told.used_bytes = (13 << 20) - 4096;
	let_it_age();
	learn(&f);
	expect_code(put_page(f.db, 3, 1, &err), PGS_ENOSPC, &err, "a page");
	told.size_bytes = told.used_bytes = (13 << 20) - 65536;
	let_it_age();
	expect_code(put_page(f.db, 3, 1, &err), PGS_OK, &err, "a page");
	close_all(&f);
}

static void test_room__asks_seldom(void **state)
{
	fixture f;
	(void)state;
	open_with(&f, NULL, 0);
	told.size_bytes = told.used_bytes = 50 * PERCENT;
	uint64_t began = pgs__now_ms();
	for (uint64_t i = 0; i < 300; i++)
		assert_int_equal(put_page(f.db, i % 7, 1 + i, NULL), PGS_OK);
	assert_true(asked <= 1 + (pgs__now_ms() - began) / 5000);
	let_it_age();
	unsigned before = asked;
	pgs__room_note(f.store, 29 * PERCENT); /* nearly as much as was left */
	assert_int_equal(put_page(f.db, 0, 1000, NULL), PGS_OK);
	assert_int_equal(asked, before + 1);
	close_all(&f);
}

/* Between two questions, what this process puts counts. */
static void test_room__counts_its_own_puts(void **state)
{
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	open_with(&f, NULL, 0);
	told.quota_bytes = 2 << 20;
	told.size_bytes = told.used_bytes = 1 << 20;
	let_it_age();
	learn(&f);
	assert_int_equal(put_page(f.db, 0, 256, NULL), PGS_OK);
	stat_result = PGS_EIO; /* it tells nothing new */
	uint64_t page = 1;
	int result = PGS_OK;
	for (; result == PGS_OK && page < 1000; page++)
		result = put_page(f.db, page, page * 256 + 256, &err);
	expect_code(result, PGS_ENOSPC, &err, "writing on");
	assert_in_range(page, 100, 160); /* 0.6 MiB of pages of 4 KiB, and what goes with them */
	close_all(&f);
}

static void test_room__a_kv_that_does_not_tell_is_not_full(void **state)
{
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	open_with(&f, NULL, 0);
	f.store->room.asked_ms = 0;
	stat_result = PGS_EIO;
	expect_code(put_page(f.db, 0, 1, &err), PGS_OK, &err, "no answer");
	stat_result = PGS_OK;
	told.quota_bytes = 0;
	told.size_bytes = UINT64_MAX / 2;
	f.store->room.asked_ms = 0;
	expect_code(put_page(f.db, 0, 2, &err), PGS_OK, &err, "no quota");
	close_all(&f);
}

static void test_room__can_be_switched_off(void **state)
{
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *out;
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	(void)state;
	open_with(&f, NULL, PGS_SOFT_QUOTA_OFF);
	told.size_bytes = told.used_bytes = 99 * PERCENT;
	expect_code(put_page(f.db, 0, 1, &err), PGS_OK, &err, "writing");
	assert_int_equal(asked, 0);
	close_all(&f);
	so.soft_quota_percent = 101;
	assert_int_equal(pgs_open(&out, "mem:", &so, NULL), PGS_EINVAL);
}

static int count_blob(void *ctx, const char *name, uint64_t size)
{
	(void)name;
	(void)size;
	++*(unsigned *)ctx;
	return 0;
}

/* A large transaction learns it before it uploads anything. */
static void test_room__is_looked_at_before_pages_spill(void **state)
{
	fixture f;
	unsigned before = 0, after = 0;
	pgs_blob *blob;
	(void)state;
	open_with(&f, NULL, 0);
	blob = f.srv.blob;
	told.size_bytes = told.used_bytes = 90 * PERCENT;
	let_it_age();
	learn(&f);
	assert_int_equal(blob->vtable->list(blob, "", count_blob, &before, 0, NULL), PGS_OK);
	pgs_txn *t = begin_write(f.db);
	int result = PGS_OK;
	uint64_t page = 0;
	for (; result == PGS_OK && page < 2000; page++)
		result = write_seed(t, page, page * 256 + 256);
	assert_int_equal(result, PGS_ENOSPC);
	assert_int_equal(page, 257); /* the write buffer's, and one */
	assert_int_equal(pgs_txn_error(t)->code, PGS_ENOSPC);
	pgs_abort(t);
	assert_int_equal(blob->vtable->list(blob, "", count_blob, &after, 0, NULL), PGS_OK);
	assert_int_equal(after, before);
	close_all(&f);
}

static uint64_t thin_seed(uint64_t page_no)
{
	(void)page_no;
	return 0;
}

/* A pack takes less of the KV than what it is folded into. */
static void test_room__packs_stay_as_they_are(void **state)
{
	static const pgs_kv_limits limits = {128, 1572864, 0, 0};
	fixture f;
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	(void)state;
	open_with(&f, &limits, 0);
	write_pages(f.db, 0, 1000, thin_seed);
	told.size_bytes = told.used_bytes = 90 * PERCENT;
	let_it_age();
	learn(&f);
	expect_code(pgs_maintain(f.db, NULL, &report, &err), PGS_OK, &err, "maintenance");
	assert_int_equal(report.folded_pointers, 0);
	assert_int_equal(report.due_packs, 1);
	assert_false(report.more); /* calling again does not help */
	told.size_bytes = told.used_bytes = 10 * PERCENT;
	let_it_age();
	expect_code(pgs_maintain(f.db, NULL, &report, &err), PGS_OK, &err, "maintenance");
	assert_int_equal(report.folded_pointers, 1000);
	assert_int_equal(report.due_packs, 0);
	close_all(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_room__what_fills_the_kv_is_refused),
		cmocka_unit_test(test_room__what_makes_room_is_not),
		cmocka_unit_test(test_room__writing_goes_on_when_there_is_room),
		cmocka_unit_test(test_room__a_file_near_the_quota_is_refused),
		cmocka_unit_test(test_room__the_reserve_takes_a_request),
		cmocka_unit_test(test_room__asks_seldom),
		cmocka_unit_test(test_room__counts_its_own_puts),
		cmocka_unit_test(test_room__a_kv_that_does_not_tell_is_not_full),
		cmocka_unit_test(test_room__can_be_switched_off),
		cmocka_unit_test(test_room__is_looked_at_before_pages_spill),
		cmocka_unit_test(test_room__packs_stay_as_they_are),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
