/* The bank of several processes on one database in three etcds and S3. One of them is killed (-9) and replaced now and
 * then. Totals are right in every snapshot, also in those of the past; what was acknowledged is in the changelog, once. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "support/bank.h"
#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/scratch.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define WRITERS 4
#define LIVES_MAX 400
#define KILL_EVERY_MS 1200
#define TIMEOUT_MS 60000
#define REVISIONS 64

typedef struct run {
	etcd_server *etcd;
	s3_server *s3;
	char url[SERVER_URL_SIZE];
	pgs_store *store;
	pgs_db *db;
	uint64_t end_ms;
	bank_life lives[LIVES_MAX]; /* [i] for i < WRITERS, then their replacements */
	char paths[LIVES_MAX][128];
	size_t count;
	size_t running[WRITERS];
	bank_worker reader;
	uint64_t revisions[REVISIONS]; /* some that were the latest, and no more */
	size_t revision_count;
} run;

static uint32_t run_ms(void)
{
	return getenv("PGS_TEST_LONG") ? 120000 : 10000;
}

static void start_writer(run *r, uint32_t number, uint32_t life)
{
	uint64_t now = pgs__now_ms();
	assert_true(r->count < LIVES_MAX);
	bank_life *l = &r->lives[r->count];
	snprintf(r->paths[r->count], sizeof r->paths[0], "%s/acks-%zu", scratch_root(), r->count);
	*l = (bank_life){.number = number, .life = life, .acks_path = r->paths[r->count]};
	bank_start(l, HELPER_DIR, r->url, r->end_ms > now ? (uint32_t)(r->end_ms - now) : 0, true,
		number % 2 ? PGS_SNAPSHOT : PGS_SERIALIZABLE);
	assert_true(l->pid > 0);
	r->running[number] = r->count++;
}

static void kill_writer(run *r, uint32_t number)
{
	bank_life *l = &r->lives[r->running[number]];
	int status;
	kill(l->pid, SIGKILL);
	assert_int_equal(waitpid(l->pid, &status, 0), l->pid);
	assert_true(WIFSIGNALED(status)); /* it had not given up by itself */
	l->killed = true;
	start_writer(r, number, l->life + 1);
}

static void start_run(run *r)
{
	pgs_error err = PGS_ERROR_INIT;
	r->etcd = etcd_start(&(etcd_setup){.members = 3});
	r->s3 = s3_start(false);
	assert_true(r->etcd && r->s3);
	server_store_url(r->url, etcd_endpoints(r->etcd), "money", s3_endpoint(r->s3), "");
	r->store = server_store_open(r->url, TIMEOUT_MS);
	r->db = create_db(r->store, "db", NULL);
	expect_code(bank_fill(r->db, &err), PGS_OK, &err, "filling the accounts");
	r->reader = (bank_worker){.db = r->db, .servers = true};
	r->end_ms = pgs__now_ms() + run_ms();
	for (uint32_t i = 0; i < WRITERS; i++)
		start_writer(r, i, 0);
}

/* The latest total, and one of the past. */
static void look(run *r, uint64_t random)
{
	uint64_t revision = 0;
	bank_check_total(&r->reader, 0, &revision);
	if (revision)
		r->revisions[r->revision_count++ % REVISIONS] = revision;
	size_t known = r->revision_count < REVISIONS ? r->revision_count : REVISIONS;
	if (known)
		bank_check_total(&r->reader, r->revisions[random % known], NULL);
	if (r->reader.failure[0])
		fail_msg("reader: %s", r->reader.failure);
}

static size_t end_writers(run *r)
{
	size_t acknowledged = 0;
	for (uint32_t i = 0; i < WRITERS; i++) {
		int status;
		const bank_life *l = &r->lives[r->running[i]];
		assert_int_equal(waitpid(l->pid, &status, 0), l->pid);
		assert_int_equal(status, 0);
	}
	for (size_t i = 0; i < r->count; i++) {
		assert_true(bank_read_acks(&r->lives[i]));
		acknowledged += r->lives[i].count;
	}
	return acknowledged;
}

/* Each worker's page counts its transfers, those of its earlier lives too. */
static void check_counters(run *r, size_t acknowledged)
{
	uint8_t page[TEST_PAGE_SIZE];
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_txn *txn = begin_write(r->db);
	size_t counted = 0, extra = 0;
	for (uint64_t i = 0; i < WRITERS; i++) {
		assert_int_equal(pgs_read(txn, BANK_WORKER_PAGE + i, page), PGS_OK);
		counted += (size_t)bank_balance(page);
	}
	pgs_abort(txn);
	for (size_t i = 0; i < r->count; i++)
		extra += r->lives[i].extra;
	assert_int_equal(counted, acknowledged + extra);
	assert_int_equal(pgs_stat(r->db, &stat, NULL), PGS_OK);
	assert_int_equal(stat.commit_count, counted + 1);
}

static void end_run(run *r)
{
	for (size_t i = 0; i < r->count; i++)
		free(r->lives[i].acks);
	pgs_db_close(r->db);
	pgs_close(r->store);
	etcd_stop(r->etcd);
	s3_stop(r->s3);
}

static void test_money__of_processes_that_are_killed(void **state)
{
	static run r;
	bank_audit audit = {.lives = r.lives};
	pgs_verify_options options = PGS_VERIFY_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t random = 4711;
	(void)state;
	start_run(&r);
	uint64_t next_kill = pgs__now_ms() + KILL_EVERY_MS;
	while (pgs__now_ms() + 500 < r.end_ms) {
		random = random * 6364136223846793005 + 1442695040888963407;
		look(&r, random >> 20);
		if (pgs__now_ms() >= next_kill && pgs__now_ms() + 500 < r.end_ms) {
			kill_writer(&r, (uint32_t)(random >> 40) % WRITERS);
			next_kill = pgs__now_ms() + KILL_EVERY_MS;
		}
	}
	size_t acknowledged = end_writers(&r);
	look(&r, random >> 20);
	audit.count = r.count;
	bank_audit_log(&audit, r.db);
	assert_string_equal(audit.failure, "");
	check_counters(&r, acknowledged);
	options.deep = true;
	expect_code(pgs_verify(r.db, &options, NULL, &err), PGS_OK, &err, "pgs_verify");
	print_message("%zu transfers by %zu processes, %llu snapshots\n", acknowledged, r.count,
		(unsigned long long)r.reader.snapshots);
	assert_true(r.count > WRITERS);
	assert_true(acknowledged > 0);
	end_run(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_money__of_processes_that_are_killed),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
