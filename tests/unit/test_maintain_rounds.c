/* Which jobs run, in which order, and when it ends (lib/maintain/maintain.c, lib/maintenance.c): with jobs that only
 * write down that they were called. The linker puts them in the place of the real ones (--wrap, in CMakeLists.txt). */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "maintain/jobs.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"
#include "util/error.h"

int __wrap_pgs__job_floor(pgs__worker *w);
int __wrap_pgs__job_flush(pgs__worker *w);
int __wrap_pgs__job_fold(pgs__worker *w);
int __wrap_pgs__job_merge(pgs__worker *w);
int __wrap_pgs__job_sweep(pgs__worker *w);
int __wrap_pgs__job_compact_kv(pgs__worker *w);

/* What the jobs do, and did. */
static struct {
	char log[4096];           /* a letter per call: F(loor) f(lush) o(ld) m(erge) s(weep) C(ompact) */
	pgs_maintain_options seen; /* in the last flush */
	int work[128];            /* by letter: calls that still do something; each then says so in the report */
	int more[128];            /* calls that still say that there is more */
	int error[128];           /* what the job ends with */
	uint32_t sleep_ms[128];
	bool flush_deletes;       /* c/, as the real one would */
	bool raises_floor;
	bool merge_waits;         /* until the progress callback ends it */
	_Atomic int running, together; /* flushes at once, at most */
	_Atomic int flushes;
	_Atomic bool merging;
} fake;

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static void write_down(char letter)
{
	pthread_mutex_lock(&log_lock);
	size_t length = strlen(fake.log);
	if (length + 1 < sizeof fake.log) {
		fake.log[length] = letter;
		fake.log[length + 1] = '\0';
	}
	pthread_mutex_unlock(&log_lock);
}

static int play(pgs__worker *w, char letter, uint64_t *done)
{
	int i = letter;
	write_down(letter);
	if (fake.sleep_ms[i])
		pgs__sleep_ms(fake.sleep_ms[i], 0);
	if (fake.work[i] > 0) {
		fake.work[i]--;
		++*done;
	}
	if (fake.more[i] > 0) {
		fake.more[i]--;
		w->report->more = true;
	}
	return fake.error[i] ? pgs__error(w->err, fake.error[i], "job %c failed", letter) : PGS_OK;
}

int __wrap_pgs__job_floor(pgs__worker *w)
{
	uint64_t floors = 0;
	if (fake.raises_floor)
		w->floor.floor++;
	return play(w, 'F', &floors);
}

static void delete_contents(pgs_db *db)
{
	pgs__key first = pgs__key_kind(pgs__db_prefix(db), 'c'), end = pgs__key_kind_end(pgs__db_prefix(db), 'c');
	pgs_kv_op op = pgs__op_delete(pgs__key_slice(&first), pgs__key_slice(&end));
	pgs_kv_txn txn;
	pgs__kv_read(pgs__db_backend(db), &txn, &op, 1, 0, NULL);
	pgs__kv_release(pgs__db_backend(db), &txn, 1);
}

int __wrap_pgs__job_flush(pgs__worker *w)
{
	int now = ++fake.running;
	if (now > fake.together)
		fake.together = now;
	fake.seen = w->options;
	int result = play(w, 'f', &w->report->flushed_pages);
	if (fake.flush_deletes)
		delete_contents(w->db);
	fake.flushes++;
	fake.running--;
	return result;
}

int __wrap_pgs__job_fold(pgs__worker *w)
{
	return play(w, 'o', &w->report->folded_packs);
}

int __wrap_pgs__job_merge(pgs__worker *w)
{
	const pgs_maintain_progress progress = {"merge", 1, 2};
	while (fake.merge_waits) {
		fake.merging = true;
		pgs__sleep_ms(1, 0);
		int result = w->options.progress(w->options.progress_ctx, &progress);
		if (result != 0)
			return result;
	}
	return play(w, 'm', &w->report->merges);
}

int __wrap_pgs__job_sweep(pgs__worker *w)
{
	return play(w, 's', &w->report->removed_blobs);
}

int __wrap_pgs__job_compact_kv(pgs__worker *w)
{
	uint64_t done = 0;
	return play(w, 'C', &done);
}

/* --- the stage --------------------------------------------------------------------- */

static server srv;
static pgs_store *store;
static pgs_db *db;
static char logged[512];

static void note_line(void *ctx, int level, const char *message)
{
	(void)ctx;
	(void)level;
	pthread_mutex_lock(&log_lock);
	snprintf(logged, sizeof logged, "%s", message);
	pthread_mutex_unlock(&log_lock);
}

static void open_store(uint32_t maintenance, const pgs_maintain_options *thresholds)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	memset(&fake, 0, sizeof fake);
	logged[0] = '\0';
	so.maintenance = maintenance;
	so.logger = note_line;
	server_start(&srv, NULL);
	store = server_open(&srv, NULL, &so);
	o.page_size_bytes = TEST_PAGE_SIZE;
	o.cache_bytes = 1 << 20;
	o.maintain = thresholds;
	db = create_db(store, "db", &o);
}

static int set_up(void **state)
{
	(void)state;
	open_store(PGS_MAINTENANCE_MANUAL, NULL);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	pgs_db_close(db);
	pgs_close(store);
	server_stop(&srv);
	return 0;
}

static uint64_t seed_of(uint64_t page_no)
{
	return (page_no + 1) * 256 + 1;
}

static pgs_maintain_options all_options(void)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.all = true;
	return o;
}

/* --- rounds ------------------------------------------------------------------------------ */

static void test_maintain__runs_the_jobs_in_order(void **state)
{
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	(void)state;
	assert_int_equal(pgs_maintain(db, NULL, &report, NULL), PGS_OK);
	assert_string_equal(fake.log, "FfomsC");
	assert_false(report.more);
	assert_int_equal(pgs_maintain(db, NULL, NULL, NULL), PGS_OK); /* a report is not needed */
}

static void test_maintain__one_round_unless_all(void **state)
{
	(void)state;
	fake.work['f'] = 5;
	assert_int_equal(pgs_maintain(db, NULL, NULL, NULL), PGS_OK);
	assert_string_equal(fake.log, "FfomsC");
}

static void test_maintain__all_goes_on_until_nothing_changes(void **state)
{
	pgs_maintain_options o = all_options();
	(void)state;
	fake.work['f'] = 1;
	fake.work['m'] = 2;
	assert_int_equal(pgs_maintain(db, &o, NULL, NULL), PGS_OK);
	assert_string_equal(fake.log, "Ffoms" "Ffoms" "Ffoms" "C");
}

static void test_maintain__all_ends_beside_writers_that_do_not(void **state)
{
	pgs_maintain_options o = all_options();
	(void)state;
	fake.work['f'] = 1000000;
	assert_int_equal(pgs_maintain(db, &o, NULL, NULL), PGS_OK);
	assert_in_range(strlen(fake.log), 2 * 6, 50 * 6);
}

static void test_maintain__a_dry_run_is_one_round(void **state)
{
	pgs_maintain_options o = all_options();
	(void)state;
	o.dry_run = true;
	fake.work['f'] = 5;
	assert_int_equal(pgs_maintain(db, &o, NULL, NULL), PGS_OK);
	assert_string_equal(fake.log, "Ffoms");
	assert_true(fake.seen.dry_run);
}

/* --- thresholds ----------------------------------------------------------------------------- */

static void test_maintain__thresholds_come_from_the_call_the_database_the_defaults(void **state)
{
	pgs_maintain_options own = PGS_MAINTAIN_OPTIONS_INIT, given = PGS_MAINTAIN_OPTIONS_INIT;
	own.flush_pages = 7;
	own.level_fanout = 3;
	own.retention_ms = PGS_RETENTION_NONE;
	tear_down(state);
	open_store(PGS_MAINTENANCE_MANUAL, &own);
	given.flush_pages = 9;
	given.file_bytes = 1 << 20;
	assert_int_equal(pgs_maintain(db, &given, NULL, NULL), PGS_OK);
	assert_int_equal(fake.seen.flush_pages, 9);
	assert_int_equal(fake.seen.level_fanout, 3);
	assert_true(fake.seen.retention_ms == PGS_RETENTION_NONE);
	assert_int_equal(fake.seen.file_bytes, 1 << 20);
	assert_int_equal(fake.seen.level0_files, 4);
	assert_int_equal(fake.seen.quota_percent, 40);
	assert_int_equal(fake.seen.memory_bytes, 64 << 20);
	assert_int_equal(fake.seen.flush_bytes, 160000000);
}

static int try_options(pgs_maintain_options o)
{
	return pgs_maintain(db, &o, NULL, NULL);
}

static void test_maintain__refuses_what_makes_no_sense(void **state)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	(void)state;
	o.struct_size--;
	assert_int_equal(try_options(o), PGS_EINVAL);
	o = (pgs_maintain_options)PGS_MAINTAIN_OPTIONS_INIT;
	o.file_bytes = (256 << 20) + 1;
	assert_int_equal(try_options(o), PGS_EINVAL);
	o.file_bytes = 256 << 20;
	assert_int_equal(try_options(o), PGS_OK);
	o.level_fanout = 1;
	assert_int_equal(try_options(o), PGS_EINVAL);
	o.level_fanout = 2;
	o.quota_percent = 101;
	assert_int_equal(try_options(o), PGS_EINVAL);
	report.struct_size = 0;
	assert_int_equal(pgs_maintain(db, NULL, &report, NULL), PGS_EINVAL);
	assert_string_equal(fake.log, "FfomsC"); /* the one good call */
}

static void test_maintain__refuses_a_store_that_is_read_only(void **state)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	(void)state;
	so.read_only = true;
	pgs_store *other = server_open(&srv, NULL, &so);
	pgs_db *theirs = open_db(other, "db");
	assert_int_equal(pgs_maintain(theirs, NULL, NULL, NULL), PGS_EREADONLY);
	assert_int_equal(pgs_maintain_store(other, NULL, NULL, NULL), PGS_EREADONLY);
	assert_string_equal(fake.log, "");
	pgs_db_close(theirs);
	pgs_close(other);
}

static void test_maintain__refuses_a_dropped_database(void **state)
{
	(void)state;
	assert_int_equal(pgs_db_drop(store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_maintain(db, NULL, NULL, NULL), PGS_ENOTFOUND);
}

/* --- failures --------------------------------------------------------------------------------- */

static void test_maintain__a_failed_job_keeps_no_other_from_its_work(void **state)
{
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	fake.error['f'] = PGS_ENOSPC;
	fake.error['m'] = PGS_ECORRUPT;
	fake.work['s'] = 1;
	assert_int_equal(pgs_maintain(db, NULL, &report, &err), PGS_ENOSPC);
	assert_string_equal(fake.log, "FfomsC");
	assert_string_equal(err.message, "job f failed"); /* the first */
	assert_int_equal(report.removed_blobs, 1);        /* and what was done is told */
	fake.error['f'] = fake.error['m'] = PGS_OK;
	assert_int_equal(pgs_maintain(db, NULL, NULL, NULL), PGS_OK);
}

static void test_maintain__some_failures_end_it(void **state)
{
	static const int codes[] = {PGS_ETIMEOUT, PGS_EAUTH, PGS_ENOMEM, PGS_ENOTFOUND, 7};
	(void)state;
	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
		fake.log[0] = '\0';
		fake.error['o'] = codes[i];
		assert_int_equal(pgs_maintain(db, NULL, NULL, NULL), codes[i]);
		assert_string_equal(fake.log, "Ffo");
	}
}

static void test_maintain__all_ends_at_the_first_round_that_fails(void **state)
{
	pgs_maintain_options o = all_options();
	(void)state;
	fake.work['f'] = 5;
	fake.error['m'] = PGS_EIO;
	assert_int_equal(pgs_maintain(db, &o, NULL, NULL), PGS_EIO);
	assert_string_equal(fake.log, "FfomsC");
}

/* --- budgets ------------------------------------------------------------------------------------ */

static void test_maintain__every_job_gets_its_turn(void **state)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	(void)state;
	o.budget_ms = 1;
	for (const char *p = "foms"; *p; p++) {
		fake.sleep_ms[(int)*p] = 3;
		fake.work[(int)*p] = fake.more[(int)*p] = 100;
	}
	for (int i = 0; i < 8; i++) {
		assert_int_equal(pgs_maintain(db, &o, &report, NULL), PGS_OK);
		assert_true(report.more);
	}
	assert_string_equal(fake.log, "FfFoFmFs" "FfFoFmFs");
}

static void test_maintain__more_ends_when_no_job_has_any(void **state)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	int calls = 0;
	(void)state;
	o.budget_ms = 1;
	for (const char *p = "foms"; *p; p++)
		fake.sleep_ms[(int)*p] = 3; /* each takes a call of its own, just to look */
	fake.work['m'] = fake.more['m'] = 2;
	do {
		assert_int_equal(pgs_maintain(db, &o, &report, NULL), PGS_OK);
		calls++;
	} while (report.more && calls < 100);
	assert_in_range(calls, 8, 20); /* m worked twice, a turn apart, and then everyone looked once more */
	assert_int_equal(fake.work['m'], 0);
}

static void test_maintain__ends_soon_after_its_budget(void **state)
{
	pgs_maintain_options o = all_options();
	(void)state;
	o.budget_ms = 20;
	fake.work['f'] = 1000000;
	fake.sleep_ms['f'] = fake.sleep_ms['o'] = fake.sleep_ms['m'] = 30;
	assert_int_equal(pgs_maintain(db, &o, NULL, NULL), PGS_OK);
	assert_string_equal(fake.log, "Ff"); /* and the step it was in */
}

/* --- stores --------------------------------------------------------------------------------------- */

static void test_maintain_store__goes_over_every_database(void **state)
{
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	(void)state;
	pgs_db_close(create_db(store, "other", NULL));
	fake.work['f'] = 2;
	assert_int_equal(pgs_maintain_store(store, NULL, &report, NULL), PGS_OK);
	assert_string_equal(fake.log, "Ffoms" "Ffoms" "C"); /* the KV once */
	assert_int_equal(report.flushed_pages, 2);
}

static void test_maintain_store__one_that_fails_leaves_the_others_theirs(void **state)
{
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	pgs_db_close(create_db(store, "other", NULL));
	fake.error['m'] = PGS_ECORRUPT;
	assert_int_equal(pgs_maintain_store(store, NULL, NULL, &err), PGS_ECORRUPT);
	assert_string_equal(fake.log, "Ffoms" "Ffoms" "C");
	assert_non_null(strstr(err.message, "db"));
	fake.log[0] = '\0';
	fake.error['m'] = 7; /* the progress callback's */
	assert_int_equal(pgs_maintain_store(store, NULL, NULL, &err), 7);
	assert_string_equal(fake.log, "Ffom");
}

static void test_maintain_store__budgets_reach_every_database(void **state)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	(void)state;
	pgs_db_close(create_db(store, "other", NULL));
	o.budget_ms = 1;
	fake.sleep_ms['f'] = fake.sleep_ms['o'] = fake.sleep_ms['m'] = fake.sleep_ms['s'] = 3;
	assert_int_equal(pgs_maintain_store(store, &o, &report, NULL), PGS_OK);
	assert_true(report.more);
	uint32_t first = store->next_database;
	assert_int_equal(pgs_maintain_store(store, &o, &report, NULL), PGS_OK);
	assert_int_not_equal(store->next_database % 2, first % 2);
}

static void test_maintain_store__has_nothing_to_do_without_databases(void **state)
{
	(void)state;
	assert_int_equal(pgs_db_drop(store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_maintain_store(store, NULL, NULL, NULL), PGS_OK);
	assert_string_equal(fake.log, "");
}

/* --- by itself --------------------------------------------------------------------------------------- */

static pgs_maintain_options small_thresholds(void)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.flush_pages = 8;
	return o;
}

static void test_maintenance__writers_do_it_when_something_is_due(void **state)
{
	pgs_maintain_options o = small_thresholds();
	tear_down(state);
	open_store(PGS_MAINTENANCE_BY_WRITERS, &o);
	fake.flush_deletes = true;
	fake.work['f'] = 1000;
	write_pages(db, 0, 7, seed_of);
	assert_string_equal(fake.log, "");
	write_pages(db, 7, 1, seed_of);
	assert_string_equal(fake.log, "Ffoms");
	write_pages(db, 8, 7, seed_of);
	assert_string_equal(fake.log, "Ffoms");
}

static void test_maintenance__a_failure_fails_no_commit(void **state)
{
	pgs_maintain_options o = small_thresholds();
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	tear_down(state);
	open_store(PGS_MAINTENANCE_BY_WRITERS, &o);
	fake.error['f'] = PGS_ENOSPC;
	write_pages(db, 0, 10, seed_of);
	assert_non_null(strstr(logged, "PGS_ENOSPC"));
	assert_int_equal(pgs_stat(db, &stat, NULL), PGS_OK);
	assert_int_equal(stat.maintenance_error, PGS_ENOSPC);
	int before = (int)strlen(fake.log);
	write_pages(db, 10, 1, seed_of); /* not again at once */
	assert_int_equal(strlen(fake.log), before);
	fake.error['f'] = PGS_OK;
	fake.flush_deletes = true;
	pgs__sleep_ms(300, 0);
	write_pages(db, 11, 1, seed_of);
	assert_true((int)strlen(fake.log) > before);
	assert_int_equal(pgs_stat(db, &stat, NULL), PGS_OK);
	assert_int_equal(stat.maintenance_error, PGS_OK);
}

static void test_maintenance__routine_runs_come_with_time(void **state)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.retention_ms = PGS_RETENTION_NONE; /* a routine run every second */
	tear_down(state);
	open_store(PGS_MAINTENANCE_BY_WRITERS, &o);
	fake.raises_floor = true;
	write_pages(db, 0, 1, seed_of);
	assert_string_equal(fake.log, "");
	pgs__sleep_ms(1100, 0);
	write_pages(db, 1, 1, seed_of);
	assert_string_equal(fake.log, "FfomsC"); /* there is a new floor */
	write_pages(db, 2, 1, seed_of);
	assert_string_equal(fake.log, "FfomsC");
}

static void *write_much(void *ctx)
{
	uint64_t first = *(const uint64_t *)ctx;
	for (uint64_t i = 0; i < 50; i++) {
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_txn *t;
		uint8_t page[TEST_PAGE_SIZE];
		o.write = true;
		if (pgs_begin(&t, db, &o, NULL) != PGS_OK)
			continue;
		fill_page(page, seed_of(first + i));
		pgs_write(t, first + i, page);
		pgs_commit(t, NULL, NULL, NULL);
	}
	return NULL;
}

static void write_in_threads(void)
{
	pthread_t threads[4];
	uint64_t first[4];
	for (int i = 0; i < 4; i++) {
		first[i] = (uint64_t)i * 1000;
		assert_int_equal(pthread_create(&threads[i], NULL, write_much, &first[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

static void test_maintenance__one_writer_at_a_time(void **state)
{
	pgs_maintain_options o = small_thresholds();
	tear_down(state);
	open_store(PGS_MAINTENANCE_BY_WRITERS, &o);
	fake.flush_deletes = true;
	fake.work['f'] = 1000;
	fake.sleep_ms['f'] = 2;
	write_in_threads();
	assert_true(fake.flushes >= 2);
	assert_int_equal(fake.together, 1);
}

static void wait_for(_Atomic int *what, int value)
{
	for (int i = 0; i < 5000 && *what < value; i++)
		pgs__sleep_ms(1, 0);
	assert_true(*what >= value);
}

static void test_maintenance__a_thread_does_it(void **state)
{
	pgs_maintain_options o = small_thresholds();
	tear_down(state);
	open_store(PGS_MAINTENANCE_THREAD, &o);
	fake.flush_deletes = true;
	fake.work['f'] = 1000;
	write_in_threads();
	wait_for(&fake.flushes, 2);
	assert_int_equal(fake.together, 1);
}

static void test_maintenance__the_thread_wakes_by_time(void **state)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.retention_ms = 1;
	tear_down(state);
	open_store(PGS_MAINTENANCE_THREAD, &o);
	wait_for(&fake.flushes, 2);
}

static void test_maintenance__closing_ends_the_thread_in_a_merge(void **state)
{
	pgs_maintain_options o = small_thresholds();
	tear_down(state);
	open_store(PGS_MAINTENANCE_THREAD, &o);
	fake.merge_waits = true;
	write_pages(db, 0, 10, seed_of);
	for (int i = 0; i < 5000 && !fake.merging; i++)
		pgs__sleep_ms(1, 0);
	assert_true(fake.merging);
	uint64_t before = pgs__now_ms();
	pgs_db_close(db); /* the thread still has it */
	pgs_close(store);
	assert_true(pgs__now_ms() - before < 20000); /* by itself the merge would not end */
	assert_string_equal(logged, ""); /* nothing failed */
	server_stop(&srv);
	open_store(PGS_MAINTENANCE_MANUAL, NULL);
}

static void test_maintenance__databases_come_and_go_beside_the_thread(void **state)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	tear_down(state);
	o.flush_pages = 1;
	open_store(PGS_MAINTENANCE_THREAD, &o);
	fake.flush_deletes = true;
	for (int i = 0; i < 50; i++) {
		char name[16];
		pgs_db_options options = PGS_DB_OPTIONS_INIT;
		snprintf(name, sizeof name, "db%d", i);
		options.cache_bytes = 1 << 20;
		options.maintain = &o;
		pgs_db *other = create_db(store, name, &options);
		write_pages(other, 0, 2, seed_of);
		pgs_db_close(other);
		if (i % 3 == 0)
			assert_int_equal(pgs_db_drop(store, name, strlen(name), NULL), PGS_OK);
	}
	pthread_mutex_lock(&log_lock);
	assert_string_equal(logged, "");
	pthread_mutex_unlock(&log_lock);
}

static void test_maintenance__no_thread_unless_asked_for(void **state)
{
	(void)state;
	assert_null(store->keeper);
	assert_null(store->help);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(maintain__runs_the_jobs_in_order),
		TEST(maintain__one_round_unless_all),
		TEST(maintain__all_goes_on_until_nothing_changes),
		TEST(maintain__all_ends_beside_writers_that_do_not),
		TEST(maintain__a_dry_run_is_one_round),
		TEST(maintain__thresholds_come_from_the_call_the_database_the_defaults),
		TEST(maintain__refuses_what_makes_no_sense),
		TEST(maintain__refuses_a_store_that_is_read_only),
		TEST(maintain__refuses_a_dropped_database),
		TEST(maintain__a_failed_job_keeps_no_other_from_its_work),
		TEST(maintain__some_failures_end_it),
		TEST(maintain__all_ends_at_the_first_round_that_fails),
		TEST(maintain__every_job_gets_its_turn),
		TEST(maintain__more_ends_when_no_job_has_any),
		TEST(maintain__ends_soon_after_its_budget),
		TEST(maintain_store__goes_over_every_database),
		TEST(maintain_store__one_that_fails_leaves_the_others_theirs),
		TEST(maintain_store__budgets_reach_every_database),
		TEST(maintain_store__has_nothing_to_do_without_databases),
		TEST(maintenance__writers_do_it_when_something_is_due),
		TEST(maintenance__a_failure_fails_no_commit),
		TEST(maintenance__routine_runs_come_with_time),
		TEST(maintenance__one_writer_at_a_time),
		TEST(maintenance__a_thread_does_it),
		TEST(maintenance__the_thread_wakes_by_time),
		TEST(maintenance__closing_ends_the_thread_in_a_merge),
		TEST(maintenance__databases_come_and_go_beside_the_thread),
		TEST(maintenance__no_thread_unless_asked_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
