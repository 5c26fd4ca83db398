/* Maintenance as a whole, with its real jobs: what is left, what a budget does, what a failure leaves behind. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/txn_stage.h"
#include "txn/db.h"
#include "util/clock.h"

/* Everything the two backends hold for the database, to be compared: a hash of names and sizes, and the revision. */
typedef struct holdings {
	uint64_t revision, keys, blobs, sum;
} holdings;

static int add_blob(void *ctx, const char *name, uint64_t size)
{
	holdings *h = ctx;
	uint64_t sum = size;
	for (const char *p = name; *p; p++)
		sum = sum * 31 + (uint8_t)*p;
	h->blobs++;
	h->sum += sum;
	return 0;
}

static holdings look(stage *s)
{
	holdings h = {0};
	pgs_kv_stat stat;
	assert_int_equal(s->kv->vtable->stat(s->kv, &stat, 0, NULL), PGS_OK);
	h.revision = stat.revision;
	h.keys = stage_keys(s);
	assert_int_equal(s->blob->vtable->list(s->blob, "", add_blob, &h, 0, NULL), PGS_OK);
	return h;
}

static pgs_maintain_options everything(void)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.all = true;
	o.retention_ms = PGS_RETENTION_NONE;
	return o;
}

static void maintain_ok(stage *s, const pgs_maintain_options *o, pgs_maintain_report *report)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_report local = PGS_MAINTAIN_REPORT_INIT;
	int result = pgs_maintain(s->db, o, report ? report : &local, &err);
	if (result != PGS_OK)
		fail_msg("pgs_maintain: %s: %s", pgs_error_name(result), err.message);
}

/* Pages 0 … 299 written three times over, some truncated away, in the KV and in files; an attribute. */
static void make_history(stage *s)
{
	for (uint64_t round = 0; round < 3; round++) {
		for (uint64_t first = 0; first < 300; first += 100)
			tx_fill(s->db, s, first, 100, PAGE_NOISE(round * 1000));
		tx_fill(s->db, s, 1000, 300, PAGE_NOISE(round * 1000)); /* more than a MiB: a file */
	}
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 1200), PGS_OK);
	tx_attr(t, "name", "value");
	tx_commit(t);
	tx_one(s->db, s, 7, PAGE_KIN(1, 1));
	tx_one(s->db, s, 7, PAGE_KIN(1, 2));
}

static void expect_history(stage *s)
{
	stage_expect(s, 7, PAGE_KIN(1, 2));
	for (uint64_t page = 0; page < 300; page += 7)
		if (page != 7)
			stage_expect(s, page, PAGE_NOISE(2000) + page);
	for (uint64_t page = 1000; page < 1200; page += 7)
		stage_expect(s, page, PAGE_NOISE(2000) + page);
	stage_expect(s, 1250, PAGE_ZERO);
	pgs_txn *t = tx_read(s->db);
	tx_expect_count(t, 1200);
	tx_expect_attr(t, "name", "value");
	pgs_abort(t);
}

#define LIVE_CONTENTS 500 /* 300 and 200 pages, each its own; page 7 is a delta against the content that was written last */

/* --- all ---------------------------------------------------------------------------------- */

typedef struct files {
	uint64_t contents, live, count;
} files;

static int add_file(void *ctx, const pgs_file_info *info)
{
	files *f = ctx;
	f->count++;
	f->contents += info->content_count;
	f->live += info->live_count;
	return 0;
}

static void test_maintain__all_without_retention_leaves_what_is_live(void **state)
{
	stage *s = *state;
	pgs_maintain_options o = everything();
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	files f = {0};
	pgs_error err = PGS_ERROR_INIT;
	make_history(s);
	maintain_ok(s, &o, &report);
	assert_false(report.more);
	assert_int_equal(pgs_levels(s->db, true, add_file, &f, &err), PGS_OK);
	assert_int_equal(f.live, LIVE_CONTENTS);
	assert_int_equal(f.contents, f.live);
	assert_int_equal(stage_keys_of(s, 'c'), 0);
	assert_int_equal(stage_keys_of(s, 'o'), 0);
	assert_int_equal(stage_keys_of(s, 'd'), 0);
	assert_int_equal(stage_keys_of(s, 'k'), 0);
	assert_int_equal(stage_keys_of(s, 'l'), f.count);
	assert_int_equal(stage_blobs(s), f.count); /* no stray blob */
	assert_int_equal(pgs_stat(s->db, &stat, NULL), PGS_OK);
	assert_true(stat.changelog_count <= 1);
	assert_int_equal(stat.pressure_percent < 100, 1);
	expect_history(s);
	pgs_verify_report verified = PGS_VERIFY_REPORT_INIT;
	assert_int_equal(pgs_verify(s->db, NULL, &verified, &err), PGS_OK);
	assert_int_equal(verified.findings, 0);
}

static void test_maintain__a_second_call_finds_nothing(void **state)
{
	stage *s = *state;
	pgs_maintain_options o = everything();
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	make_history(s);
	maintain_ok(s, &o, NULL);
	maintain_ok(s, &o, &report);
	assert_int_equal(report.flushed_pages + report.merges + report.dropped_contents + report.folded_packs +
				 report.removed_blobs,
			 0);
	assert_false(report.more);
}

static void test_maintain__within_the_retention_history_stays(void **state)
{
	stage *s = *state;
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	uint64_t first = tx_fill(s->db, s, 0, 100, PAGE_NOISE(9000));
	make_history(s);
	o.all = true;
	maintain_ok(s, &o, NULL);
	pgs_txn *t = tx_at(s->db, first);
	for (uint64_t page = 0; page < 100; page += 9)
		tx_expect(t, s, page, PAGE_NOISE(9000) + page);
	pgs_abort(t);
	expect_history(s);
}

/* --- dry runs, budgets ----------------------------------------------------------------------- */

static void test_maintain__a_dry_run_changes_nothing(void **state)
{
	stage *s = *state;
	pgs_maintain_options o = everything();
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	make_history(s);
	holdings before = look(s);
	o.dry_run = true;
	maintain_ok(s, &o, &report);
	holdings after = look(s);
	assert_memory_equal(&before, &after, sizeof before);
	assert_int_equal(report.due_flush_pages, stage_keys_of(s, 'c'));
	assert_true(report.due_merge_files >= 3);
	assert_int_equal(report.flushed_pages + report.merges + report.removed_blobs, 0);
}

static void test_maintain__budgets_end_where_one_call_does(void **state)
{
	stage *s = *state;
	pgs_maintain_options o = everything();
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	int calls = 0;
	make_history(s);
	o.budget_ms = 1;
	o.budget_bytes = 100000;
	do {
		maintain_ok(s, &o, &report);
		calls++;
	} while (report.more && calls < 500);
	assert_in_range(calls, 2, 499);
	assert_int_equal(stage_keys_of(s, 'c'), 0);
	assert_int_equal(stage_keys_of(s, 'o'), 0);
	expect_history(s);
}

static int stop_at(void *ctx, const pgs_maintain_progress *progress)
{
	int *left = ctx;
	(void)progress;
	return --*left <= 0 ? 42 : 0;
}

static void test_maintain__stopped_anywhere_it_goes_on(void **state)
{
	stage *s = *state;
	pgs_maintain_options o = everything();
	make_history(s);
	o.progress = stop_at;
	int result = 42;
	for (int i = 1; result == 42 && i < 200; i++) {
		int left = i;
		o.progress_ctx = &left;
		result = pgs_maintain(s->db, &o, NULL, NULL);
		assert_true(result == 42 || result == PGS_OK);
		expect_history(s);
	}
	assert_int_equal(result, PGS_OK);
}

/* --- failures ------------------------------------------------------------------------------------ */

/* Calls fail one after the other, until a run meets none. */
static void test_maintain__survives_a_failure_of_every_call(void **state)
{
	stage *s = *state;
	pgs_maintain_options o = everything();
	int failed = 0;
	make_history(s);
	for (uint64_t nth = 1; nth < 2000; nth += nth < 40 ? 1 : 7) {
		uint64_t calls = pgs_fault_calls(s->fault);
		pgs_fault_at(s->fault, nth, nth % 2 ? PGS_FAULT_ERROR : PGS_FAULT_LOSE_REPLY);
		failed += pgs_maintain(s->db, &o, NULL, NULL) != PGS_OK;
		bool met = pgs_fault_calls(s->fault) - calls >= nth;
		pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
		if (nth % 5 == 1)
			expect_history(s);
		if (!met)
			break;
		tx_one(s->db, s, 500 + nth % 100, PAGE_NOISE(nth)); /* something to do again */
	}
	assert_true(failed > 5);
	maintain_ok(s, &o, NULL);
	expect_history(s);
	assert_int_equal(stage_keys_of(s, 'c'), 0);
	assert_int_equal(stage_keys_of(s, 'd'), 0);
	assert_int_equal(stage_blobs(s), stage_keys_of(s, 'l'));
}

static void refuse_puts(stage *s, const char *operation)
{
	if (strcmp(operation, "put") == 0)
		pgs_fault_at(s->fault, 1, PGS_FAULT_ERROR);
}

static void test_maintain__a_blob_store_that_refuses_is_no_loss(void **state)
{
	stage *s = *state;
	pgs_maintain_options o = everything();
	pgs_error err = PGS_ERROR_INIT;
	make_history(s);
	uint64_t contents = stage_keys_of(s, 'c');
	s->before = refuse_puts;
	assert_int_equal(pgs_maintain(s->db, &o, NULL, &err), PGS_EIO);
	s->before = NULL;
	assert_int_equal(stage_keys_of(s, 'c'), contents);
	expect_history(s);
	maintain_ok(s, &o, NULL);
	assert_int_equal(stage_keys_of(s, 'c'), 0);
	expect_history(s);
}

/* --- by itself ---------------------------------------------------------------------------------------- */

static pgs_db *open_automatic(stage *s, pgs_store **store, uint32_t maintenance, const pgs_maintain_options *thresholds)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = s->options;
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_db *db;
	so.maintenance = maintenance;
	o.maintain = thresholds;
	stage_backends(s, &kv, &blob);
	assert_int_equal(pgs_open_with(store, kv, blob, &so, NULL), PGS_OK);
	assert_int_equal(pgs_db_open(&db, *store, "db", 2, &o, NULL), PGS_OK);
	return db;
}

#define COMMITS 3000
#define PAGES 512

static pgs_maintain_options small_thresholds(void)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.flush_pages = 50;
	o.level0_files = 4;
	o.file_bytes = 1 << 20;
	o.retention_ms = 200;
	return o;
}

static uint64_t page_of(uint64_t i)
{
	return i * 2654435761u % PAGES;
}

/* One page a commit, in full each time. */
static void commit_many(stage *s, pgs_db *db, uint64_t count, uint64_t *most_contents, uint64_t *most_files)
{
	for (uint64_t i = 0; i < count; i++) {
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_error err = PGS_ERROR_INIT;
		pgs_db_stat stat = PGS_DB_STAT_INIT;
		pgs_txn *t;
		o.write = true;
		int result = PGS_EBUSY;
		for (int tries = 0; result == PGS_EBUSY && tries < 100; tries++)
			result = pgs_begin(&t, db, &o, &err);
		if (result != PGS_OK)
			fail_msg("pgs_begin: %s", err.message);
		tx_put(t, s, page_of(i), PAGE_NOISE(100000 + i));
		tx_commit(t);
		if (i % 50)
			continue;
		assert_int_equal(pgs_stat(db, &stat, NULL), PGS_OK);
		*most_contents = stat.kv_content_count > *most_contents ? stat.kv_content_count : *most_contents;
		*most_files = stat.level0_count > *most_files ? stat.level0_count : *most_files;
	}
}

static void expect_many(stage *s, pgs_db *db, uint64_t count)
{
	uint64_t *last = calloc(PAGES, sizeof *last);
	for (uint64_t i = 0; i < count; i++)
		last[page_of(i)] = PAGE_NOISE(100000 + i);
	pgs_txn *t = tx_read(db);
	for (uint64_t page = 0; page < PAGES; page++)
		if (last[page])
			tx_expect(t, s, page, last[page]);
	pgs_abort(t);
	free(last);
}

static void keep_bounded(stage *s, uint32_t maintenance)
{
	const pgs_maintain_options o = small_thresholds();
	pgs_store *store;
	pgs_db *db = open_automatic(s, &store, maintenance, &o);
	uint64_t contents = 0, level0 = 0;
	commit_many(s, db, COMMITS, &contents, &level0);
	expect_many(s, db, COMMITS);
	assert_in_range(contents, 1, 16 * 50);
	assert_in_range(level0, 1, 16 * 4);
	pgs_db_close(db);
	pgs_close(store);
}

static void test_maintain__writers_keep_it_bounded(void **state)
{
	keep_bounded(*state, PGS_MAINTENANCE_BY_WRITERS);
}

static void test_maintain__a_thread_keeps_it_bounded(void **state)
{
	keep_bounded(*state, PGS_MAINTENANCE_THREAD);
}

static void test_maintain__closing_does_not_wait_for_the_thread(void **state)
{
	stage *s = *state;
	const pgs_maintain_options o = small_thresholds();
	int late = 0;
	for (int i = 0; i < 10; i++) {
		pgs_store *store;
		pgs_db *db = open_automatic(s, &store, PGS_MAINTENANCE_THREAD, &o);
		tx_fill(db, s, (uint64_t)i * 1000, 600, PAGE_NOISE(i * 10000));
		pgs__sleep_ms((uint32_t)i, 0);
		uint64_t before = pgs__now_ms();
		pgs_db_close(db);
		pgs_close(store);
		late += pgs__now_ms() - before > 2000; /* now and then, on a busy machine */
	}
	assert_true(late < 5);
	for (int i = 0; i < 10; i++)
		stage_expect(s, (uint64_t)i * 1000, PAGE_NOISE(i * 10000) + (uint64_t)i * 1000);
}

static void test_maintain__pressure_ends_with_maintenance(void **state)
{
	stage *s = *state;
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = s->options;
	pgs_maintain_options m = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_txn_options writing = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_db *db;
	pgs_txn *t;
	m.flush_pages = 4;
	o.maintain = &m;
	so.maintenance = PGS_MAINTENANCE_MANUAL;
	so.pressure = PGS_PRESSURE_LIMIT;
	stage_backends(s, &kv, &blob);
	assert_int_equal(pgs_open_with(&store, kv, blob, &so, NULL), PGS_OK);
	assert_int_equal(pgs_db_open(&db, store, "db", 2, &o, NULL), PGS_OK);
	tx_fill(db, s, 0, 64, PAGE_NOISE(0));
	writing.write = true;
	assert_int_equal(pgs_begin(&t, db, &writing, &err), PGS_EBUSY);
	m.all = true;
	assert_int_equal(pgs_maintain(s->db, &m, NULL, &err), PGS_OK); /* another's */
	assert_int_equal(pgs_begin(&t, db, &writing, &err), PGS_OK);
	pgs_abort(t);
	pgs_db_close(db);
	pgs_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_maintain__##name, stage_setup, stage_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_without_retention_leaves_what_is_live),
		TEST(a_second_call_finds_nothing),
		TEST(within_the_retention_history_stays),
		TEST(a_dry_run_changes_nothing),
		TEST(budgets_end_where_one_call_does),
		TEST(stopped_anywhere_it_goes_on),
		TEST(survives_a_failure_of_every_call),
		TEST(a_blob_store_that_refuses_is_no_loss),
		TEST(writers_keep_it_bounded),
		TEST(a_thread_keeps_it_bounded),
		TEST(closing_does_not_wait_for_the_thread),
		TEST(pressure_ends_with_maintenance),
	};
	return stage_run("maintain", tests, sizeof tests / sizeof *tests, STAGE_MEMORY | STAGE_LIMITED | STAGE_LOCAL);
}
