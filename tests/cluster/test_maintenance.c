/* Maintenance on a real etcd and S3: two processes do it for a database that a third writes to. They share the work,
 * nothing is lost, and what is left is small. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define WORKERS 2
#define ROUNDS 24
#define LARGE 600 /* pages of a large commit: more than a transaction takes, and a sorted file */
#define PAGES 3000
#define BUDGET_MS 50

typedef struct shared {
	char url[300];
	etcd_server *etcd;
	s3_server *s3;
	uint64_t seeds[PAGES]; /* what is there; 0 = zeros */
} shared;

static pgs_maintain_options thresholds(void)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.retention_ms = 1000;
	o.flush_pages = 50;
	o.level0_files = 2;
	o.level_fanout = 2;
	o.file_bytes = 1 << 20;
	return o;
}

static pgs_db *open_it(const shared *s, pgs_store **store)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_maintain_options m = thresholds();
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	so.kv_history = PGS_KV_HISTORY_OWNED;
	o.cache_bytes = 1 << 20;
	o.maintain = &m;
	expect_code(pgs_open(store, s->url, &so, &err), PGS_OK, &err, "opening the store");
	int result = pgs_db_open(&db, *store, "db", 2, &o, &err);
	if (result == PGS_ENOTFOUND)
		result = pgs_db_create(&db, *store, "db", 2, &o, &err);
	expect_code(result, PGS_OK, &err, "opening the database");
	return db;
}

/* What a worker did, told through a pipe. */
typedef struct told {
	uint64_t flushed, folded, merges, removed, pruned, busy;
	int result;
} told;

static volatile sig_atomic_t enough;

static void stop_working(int signal)
{
	(void)signal;
	enough = 1;
}

/* A worker: bounded runs, one after the other, until it is told to stop. */
static void work_and_exit(const shared *s, int out)
{
	told t = {0};
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	signal(SIGTERM, stop_working);
	pgs_db *db = open_it(s, &store);
	pgs_maintain_options o = thresholds();
	o.budget_ms = BUDGET_MS;
	while (!enough && t.result == PGS_OK) {
		pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
		t.result = pgs_maintain(db, &o, &r, &err);
		t.flushed += r.flushed_pages;
		t.folded += r.folded_pointers;
		t.merges += r.merges;
		t.removed += r.removed_blobs;
		t.pruned += r.pruned_changes;
		t.busy += r.busy;
		pgs__sleep_ms(r.more ? 5 : 50, 0);
	}
	if (t.result != PGS_OK)
		fprintf(stderr, "maintenance: %s: %s\n", pgs_error_name(t.result), err.message);
	pgs_db_close(db);
	pgs_close(store);
	_exit(write(out, &t, sizeof t) == sizeof t ? 0 : 1);
}

static pid_t start_worker(const shared *s, int *in)
{
	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		work_and_exit(s, pipes[1]);
	close(pipes[1]);
	*in = pipes[0];
	return pid;
}

static void write_round(shared *s, pgs_db *db, uint64_t round)
{
	uint64_t first = round * 397 % (PAGES - LARGE), count = round % 4 == 0 ? LARGE : 7;
	pgs_txn *t = begin_write(db);
	for (uint64_t i = 0; i < count; i++) {
		s->seeds[first + i] = (round * PAGES + i + 1) * 256;
		assert_int_equal(write_seed(t, first + i, s->seeds[first + i]), PGS_OK);
	}
	commit_ok(t);
}

static void check(const shared *s, pgs_db *db)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_begin(&t, db, &o, &err), PGS_OK, &err, "begin");
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(read_seed(t, i, s->seeds[i]), PGS_OK);
	pgs_abort(t);
}

static void start(shared *s)
{
	s->etcd = etcd_start(&(etcd_setup){.members = 1});
	s->s3 = s3_start(false);
	assert_non_null(s->etcd);
	assert_non_null(s->s3);
	snprintf(s->url, sizeof s->url, "etcd://%s/maintain?blob=s3://%s/blobs?endpoint=%s", etcd_endpoints(s->etcd),
		 S3_TEST_BUCKET, s3_endpoint(s->s3));
	setenv("AWS_ACCESS_KEY_ID", S3_TEST_ID, 1);
	setenv("AWS_SECRET_ACCESS_KEY", S3_TEST_SECRET, 1);
}

/* Stop a worker; adds up what it did. */
static void stop_worker(pid_t pid, int in, told *sum)
{
	told t;
	int status;
	kill(pid, SIGTERM);
	assert_int_equal(read(in, &t, sizeof t), sizeof t);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(in);
	assert_int_equal(status, 0);
	assert_int_equal(t.result, PGS_OK);
	assert_true(t.flushed + t.folded + t.merges + t.removed + t.pruned > 0); /* each had its part */
	sum->flushed += t.flushed;
	sum->folded += t.folded;
	sum->merges += t.merges;
	sum->removed += t.removed;
	sum->pruned += t.pruned;
}

static void check_the_end(const shared *s, pgs_db *db)
{
	pgs_maintain_options o = thresholds();
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_verify_options vo = PGS_VERIFY_OPTIONS_INIT;
	o.all = true;
	o.retention_ms = PGS_RETENTION_NONE;
	expect_code(pgs_maintain(db, &o, &r, &err), PGS_OK, &err, "maintenance of all");
	expect_code(pgs_stat(db, &stat, &err), PGS_OK, &err, "stat");
	assert_int_equal(stat.pack_count + stat.kv_content_count + stat.level0_count, 0);
	assert_true(stat.changelog_count <= 2);
	assert_int_equal(stat.blob_count, stat.file_count);
	vo.deep = true;
	expect_code(pgs_verify(db, &vo, NULL, &err), PGS_OK, &err, "verify");
	check(s, db);
}

static void test_maintenance__two_processes_share_it(void **state)
{
	static shared s;
	pgs_store *store;
	pid_t pids[WORKERS];
	int in[WORKERS];
	told sum = {0};
	(void)state;
	start(&s);
	pgs_db *db = open_it(&s, &store);
	pgs_db_close(db); /* what is open may not be used across fork() */
	pgs_close(store);
	for (int i = 0; i < WORKERS; i++)
		pids[i] = start_worker(&s, &in[i]);
	db = open_it(&s, &store);
	for (uint64_t round = 0; round < ROUNDS; round++) {
		write_round(&s, db, round);
		if (round % 8 == 7)
			check(&s, db);
		pgs__sleep_ms(100, 0);
	}
	for (int i = 0; i < WORKERS; i++)
		stop_worker(pids[i], in[i], &sum);
	assert_true(sum.folded > 0 && sum.merges > 0 && sum.removed > 0 && sum.pruned > 0);
	check(&s, db);
	check_the_end(&s, db);
	print_message("  %llu contents moved, %llu pointers folded, %llu merges, %llu blobs removed, %llu commits pruned\n",
		      (unsigned long long)sum.flushed, (unsigned long long)sum.folded, (unsigned long long)sum.merges,
		      (unsigned long long)sum.removed, (unsigned long long)sum.pruned);
	pgs_db_close(db);
	pgs_close(store);
	s3_stop(s.s3);
	etcd_stop(s.etcd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_maintenance__two_processes_share_it),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
