/* lib/maintain/dropped.c: what dropped databases leave, whatever got in the way of their dropping. */
#include <stdlib.h>
#include <string.h>

#include "maintain/dropped.h"
#include "support/blob_calls.h"
#include "support/kv_calls.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

static const pgs_maintain_options defaults = PGS_MAINTAIN_OPTIONS_INIT;

typedef struct fixture {
	server server;
	pgs_fault *fault;
	pgs_store *store, *faulty;
	pgs_db *kept;
} fixture;

static uint64_t seed_of(uint64_t page_no)
{
	return (page_no + 1) * 256;
}

static int set_up(void **state)
{
	fixture *f = calloc(1, sizeof *f);
	static const pgs_kv_limits limits = {128, 1572864, 0, 0};
	*state = f;
	server_start(&f->server, &limits);
	assert_int_equal(pgs_fault_new(&f->fault, NULL, NULL), PGS_OK);
	f->store = server_open(&f->server, NULL, NULL);
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	o.timeout_ms = 200;
	f->faulty = server_open(&f->server, f->fault, &o);
	f->kept = create_db(f->store, "kept", NULL);
	write_pages(f->kept, 0, 5, seed_of);
	return 0;
}

static int tear_down(void **state)
{
	fixture *f = *state;
	pgs_db_close(f->kept);
	pgs_close(f->store);
	pgs_close(f->faulty);
	server_stop(&f->server);
	pgs_fault_free(f->fault);
	free(f);
	return 0;
}

/* A database with keys of many kinds, more than one page of them, and a sorted file. */
static void make_victim(fixture *f, uint8_t prefix[PGS__PREFIX_SIZE])
{
	pgs_db *db = create_db(f->store, "victim", NULL);
	if (prefix)
		memcpy(prefix, pgs__db_prefix(db), PGS__PREFIX_SIZE);
	for (uint64_t i = 0; i < 600; i += 60)
		write_pages(db, i, 60, seed_of);
	write_pages(db, 1000, 300, seed_of);
	pgs_db_close(db);
}

typedef struct counts {
	uint64_t keys;
	size_t blobs;
} counts;

static int count_blob(void *ctx, const char *name, uint64_t size)
{
	(void)name;
	(void)size;
	++*(size_t *)ctx;
	return 0;
}

static counts count(fixture *f)
{
	counts c = {kv_count(f->server.kv), 0};
	assert_int_equal(f->server.blob->vtable->list(f->server.blob, "", count_blob, &c.blobs, 0, NULL), PGS_OK);
	return c;
}

static void expect_kept(fixture *f, counts before)
{
	counts now = count(f);
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(now.keys, before.keys);
	assert_int_equal(now.blobs, before.blobs);
	expect_code(pgs_verify(f->kept, NULL, NULL, &err), PGS_OK, &err, "verify");
}

static pgs_maintain_report sweep_store(fixture *f)
{
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs__sweep_dropped(f->store, &defaults, &r, &err), PGS_OK, &err, "sweep_dropped");
	expect_code(pgs__sweep_stray_blobs(f->store, &defaults, &r, &err), PGS_OK, &err, "sweep_stray_blobs");
	assert_false(r.more);
	return r;
}

static void test_drop__leaves_nothing(void **state)
{
	fixture *f = *state;
	counts before = count(f);
	make_victim(f, NULL);
	assert_true(count(f).keys > before.keys + 600);
	assert_true(count(f).blobs > before.blobs);
	assert_int_equal(pgs_db_drop(f->store, "victim", 6, NULL), PGS_OK);
	expect_kept(f, before);
	pgs_maintain_report r = sweep_store(f);
	assert_int_equal(r.removed_blobs, 0);
	expect_kept(f, before);
	pgs_db_close(f->kept);
	f->kept = NULL;
	assert_int_equal(pgs_db_drop(f->store, "kept", 4, NULL), PGS_OK);
	assert_int_equal(kv_count(f->server.kv), 1); /* the identity */
	assert_true(kv_numbers(f->server.kv, "i").version > 0);
	assert_int_equal(count(f).blobs, 1);
	uint64_t size;
	assert_int_equal(stat_size(f->server.blob, "identity", &size), PGS_OK);
}

/* Whatever happens to any call of a drop: dropped or not, and in the end swept. */
static void drop_through(fixture *f, pgs_fault_kind kind, uint64_t nth, bool *reached)
{
	counts before = count(f);
	make_victim(f, NULL);
	uint64_t calls = pgs_fault_calls(f->fault);
	pgs_fault_at(f->fault, nth, kind);
	int result = pgs_db_drop(f->faulty, "victim", 6, NULL);
	*reached = pgs_fault_calls(f->fault) - calls >= nth;
	pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
	pgs_fault_resume(f->fault);
	pgs_fault_deliver(f->fault);
	if (result != PGS_OK) { /* it may have happened yet */
		result = pgs_db_drop(f->store, "victim", 6, NULL);
		assert_true(result == PGS_OK || result == PGS_ENOTFOUND);
	}
	sweep_store(f);
	expect_kept(f, before);
}

static void test_drop__is_finished_by_maintenance(void **state)
{
	fixture *f = *state;
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_LOSE_REPLY, PGS_FAULT_DELAY, PGS_FAULT_STOP};
	for (size_t i = 0; i < 4; i++) {
		bool reached = true;
		uint64_t nth = 0;
		while (reached)
			drop_through(f, kinds[i], ++nth, &reached);
		assert_true(nth > 6);
	}
}

static void test_sweep_dropped__is_finished_by_another(void **state)
{
	fixture *f = *state;
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_LOSE_REPLY, PGS_FAULT_DELAY, PGS_FAULT_STOP};
	for (size_t i = 0; i < 4; i++) {
		bool reached = true;
		for (uint64_t nth = 1; reached; nth++) {
			counts before = count(f);
			make_victim(f, NULL);
			pgs_fault_at(f->fault, 3, PGS_FAULT_STOP); /* dropped, not swept */
			pgs_db_drop(f->faulty, "victim", 6, NULL);
			pgs_fault_resume(f->fault);
			assert_true(count(f).keys > before.keys);
			pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
			uint64_t calls = pgs_fault_calls(f->fault);
			pgs_fault_at(f->fault, nth, kinds[i]);
			pgs__sweep_dropped(f->faulty, &defaults, &r, NULL);
			reached = pgs_fault_calls(f->fault) - calls >= nth;
			pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
			pgs_fault_resume(f->fault);
			pgs_fault_deliver(f->fault);
			sweep_store(f);
			expect_kept(f, before);
		}
	}
}

static void test_sweep_dropped__takes_several_and_a_budget(void **state)
{
	fixture *f = *state;
	counts before = count(f);
	for (int i = 0; i < 3; i++) {
		make_victim(f, NULL);
		pgs_fault_at(f->fault, 3, PGS_FAULT_STOP);
		pgs_db_drop(f->faulty, "victim", 6, NULL);
		pgs_fault_resume(f->fault);
	}
	uint64_t keys = count(f).keys;
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.dry_run = true;
	assert_int_equal(pgs__sweep_dropped(f->store, &o, &r, NULL), PGS_OK);
	assert_true(r.more);
	assert_int_equal(count(f).keys, keys);
	bool done = true;
	uint8_t prefix[PGS__PREFIX_SIZE] = {0x80};
	assert_int_equal(pgs__sweep_database(f->store, prefix, NULL, 1, &r, &done, NULL), PGS_OK); /* no time at all */
	assert_false(done);
	r = sweep_store(f);
	assert_true(r.removed_blobs >= 3);
	assert_true(r.removed_bytes > 3u << 20);
	expect_kept(f, before);
}

static void test_sweep_stray_blobs__removes_what_came_after_a_drop(void **state)
{
	fixture *f = *state;
	uint8_t prefix[PGS__PREFIX_SIZE];
	char file[PGS__FILE_NAME_MAX + 1], blob[PGS__BLOB_NAME_SIZE], kept[PGS__BLOB_NAME_SIZE], odd[PGS__BLOB_NAME_SIZE];
	make_victim(f, prefix);
	assert_int_equal(pgs_db_drop(f->store, "victim", 6, NULL), PGS_OK);
	assert_int_equal(pgs__file_name_new(file, 's', 7), PGS_OK);
	pgs__blob_name(blob, prefix, file);
	pgs__blob_name(odd, prefix, "notes");
	pgs__blob_name(kept, pgs__db_prefix(f->kept), file);
	assert_int_equal(put_text(f->server.blob, blob, "late"), PGS_OK);
	assert_int_equal(put_text(f->server.blob, odd, "not ours"), PGS_OK);
	assert_int_equal(put_text(f->server.blob, kept, "not registered yet"), PGS_OK);
	assert_int_equal(put_text(f->server.blob, "elsewhere/file", "not ours"), PGS_OK);
	pgs_maintain_report r = sweep_store(f);
	assert_int_equal(r.removed_blobs, 1);
	assert_int_equal(r.removed_orphans, 1);
	assert_int_equal(r.removed_bytes, 4);
	blob_expect_absent(f->server.blob, blob);
	blob_expect_text(f->server.blob, odd, "not ours");
	blob_expect_text(f->server.blob, kept, "not registered yet");
	blob_expect_text(f->server.blob, "elsewhere/file", "not ours");
}

/* Dropped, not swept yet: its folder is no stray, as what sweeps it would find nothing to report. */
static void test_sweep_stray_blobs__leaves_what_is_to_be_swept(void **state)
{
	fixture *f = *state;
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	make_victim(f, NULL);
	pgs_fault_at(f->fault, 3, PGS_FAULT_STOP);
	pgs_db_drop(f->faulty, "victim", 6, NULL);
	pgs_fault_resume(f->fault);
	size_t blobs = count(f).blobs;
	assert_int_equal(pgs__sweep_stray_blobs(f->store, &defaults, &r, NULL), PGS_OK);
	assert_int_equal(count(f).blobs, blobs);
	sweep_store(f);
	assert_true(count(f).blobs < blobs);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_drop__leaves_nothing),
		TEST(test_drop__is_finished_by_maintenance),
		TEST(test_sweep_dropped__is_finished_by_another),
		TEST(test_sweep_dropped__takes_several_and_a_budget),
		TEST(test_sweep_stray_blobs__removes_what_came_after_a_drop),
		TEST(test_sweep_stray_blobs__leaves_what_is_to_be_swept),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
