/* Several threads, several processes, and processes that are killed, on one local store. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore.h>

#include "support/bank.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define WORKERS 4

static char folder[64];
static char url[80];

static int setup(void **state)
{
	(void)state;
	make_folder(folder);
	snprintf(url, sizeof url, "dir:%s", folder);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_folder(folder);
	return 0;
}

static void open_store(pgs_store **store)
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_open(store, url, NULL, &err), PGS_OK, &err, "opening the store");
}

static uint32_t run_ms(void)
{
	return getenv("PGS_TEST_LONG") ? 20000 : 2000;
}

/* --- the bank ------------------------------------------------------------------------- */

static void make_bank(void)
{
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	open_store(&store);
	pgs_db *db = create_db(store, "db", NULL);
	expect_code(bank_fill(db, &err), PGS_OK, &err, "filling the accounts");
	pgs_db_close(db);
	pgs_close(store);
}

/* After reopening: the total, and each worker's transfers. */
static void check_bank(const uint64_t committed[WORKERS])
{
	pgs_store *store;
	uint8_t page[TEST_PAGE_SIZE];
	pgs_error err = PGS_ERROR_INIT;
	open_store(&store);
	pgs_db *db = open_db(store, "db");
	bank_worker reader = {.db = db};
	assert_int_equal(bank_total(&reader), BANK_ACCOUNTS * BANK_START);
	pgs_txn *txn = begin_write(db);
	uint64_t all = 0;
	for (uint64_t i = 0; i < WORKERS; i++) {
		assert_int_equal(pgs_read(txn, BANK_WORKER_PAGE + i, page), PGS_OK);
		assert_int_equal(bank_balance(page), committed[i]);
		all += committed[i];
	}
	pgs_abort(txn);
	assert_true(all > WORKERS);
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	assert_int_equal(pgs_stat(db, &stat, NULL), PGS_OK);
	assert_int_equal(stat.commit_count, all + 1);
	expect_code(pgs_verify(db, NULL, NULL, &err), PGS_OK, &err, "verify");
	pgs_db_close(db);
	pgs_close(store);
}

static void *run_worker(void *worker)
{
	bank_run(worker);
	return NULL;
}

static void run_threads(uint32_t isolation)
{
	pgs_store *store;
	pthread_t threads[WORKERS];
	bank_worker workers[WORKERS];
	uint64_t committed[WORKERS];
	make_bank();
	open_store(&store);
	pgs_db *db = open_db(store, "db");
	for (uint32_t i = 0; i < WORKERS; i++) {
		workers[i] = (bank_worker){
			.db = db, .number = i, .end_ms = pgs__now_ms() + run_ms(), .isolation = isolation};
		assert_int_equal(pthread_create(&threads[i], NULL, run_worker, &workers[i]), 0);
	}
	for (uint32_t i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	pgs_db_close(db);
	pgs_close(store);
	for (uint32_t i = 0; i < WORKERS; i++) {
		if (workers[i].failure[0])
			fail_msg("worker %u: %s", i, workers[i].failure);
		assert_true(workers[i].snapshots > 0);
		committed[i] = workers[i].committed;
	}
	check_bank(committed);
}

static void test_threads__lose_no_transfer(void **state)
{
	(void)state;
	run_threads(PGS_SERIALIZABLE);
}

static void test_threads__lose_no_transfer_under_snapshot_isolation(void **state)
{
	(void)state;
	run_threads(PGS_SNAPSHOT);
}

/* --- processes ---------------------------------------------------------------------------- */

/* Start the helper; its standard output is *out. */
static pid_t start(int *out, const char *const arguments[])
{
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		execv(HELPER_DIR "/helper_writer", (char *const *)arguments);
		_exit(127);
	}
	close(ends[1]);
	*out = ends[0];
	return pid;
}

static void check_changelog(bank_life *lives)
{
	bank_audit audit = {.lives = lives, .count = WORKERS};
	pgs_store *store;
	open_store(&store);
	pgs_db *db = open_db(store, "db");
	bank_audit_log(&audit, db);
	assert_string_equal(audit.failure, "");
	pgs_db_close(db);
	pgs_close(store);
}

static void run_processes(uint32_t isolation)
{
	bank_life lives[WORKERS] = {{0}};
	char paths[WORKERS][80];
	uint64_t committed[WORKERS];
	make_bank();
	for (uint32_t i = 0; i < WORKERS; i++) {
		snprintf(paths[i], sizeof paths[i], "%s/acks-%u", folder, i);
		lives[i] = (bank_life){.number = i, .acks_path = paths[i]};
		bank_start(&lives[i], HELPER_DIR, url, run_ms(), false, isolation);
	}
	for (uint32_t i = 0; i < WORKERS; i++) {
		int status;
		assert_int_equal(waitpid(lives[i].pid, &status, 0), lives[i].pid);
		assert_int_equal(status, 0);
		assert_true(bank_read_acks(&lives[i]));
		committed[i] = lives[i].count;
	}
	check_bank(committed);
	check_changelog(lives);
	for (uint32_t i = 0; i < WORKERS; i++)
		free(lives[i].acks);
}

static void test_processes__lose_no_transfer(void **state)
{
	(void)state;
	run_processes(PGS_SERIALIZABLE);
}

static void test_processes__lose_no_transfer_under_snapshot_isolation(void **state)
{
	(void)state;
	run_processes(PGS_SNAPSHOT);
}

/* --- killed ---------------------------------------------------------------------------------- */

/* What commit_number() of the helper leaves. */
static void check_number(pgs_db *db, uint64_t acknowledged, uint64_t *number)
{
	uint8_t page[TEST_PAGE_SIZE];
	pgs_txn *txn = begin_write(db);
	assert_int_equal(pgs_read(txn, 0, page), PGS_OK);
	memcpy(number, page, sizeof *number);
	if (*number != acknowledged && *number != acknowledged + 1)
		fail_msg("%llu was acknowledged, %llu is there", (unsigned long long)acknowledged,
			 (unsigned long long)*number);
	uint64_t count = *number % 16 == 15 ? 300 : *number % 7 + 1;
	for (uint64_t i = 1; *number && i <= count; i++)
		expect_code(read_seed(txn, i, (*number * 1000 + i) * (*number % 2 ? 256 : 1)), PGS_OK,
			    pgs_txn_error(txn), "a page of the last commit");
	pgs_abort(txn);
}

static uint64_t read_acks(int out, uint64_t last)
{
	uint64_t numbers[512];
	ssize_t got;
	while ((got = read(out, numbers, sizeof numbers)) > 0) {
		assert_int_equal(got % 8, 0);
		for (ssize_t i = 0; i < got / 8; i++) {
			assert_int_equal(numbers[i], last + 1);
			last = numbers[i];
		}
	}
	return last;
}

/* Let it open the store and acknowledge something, usually; then some more. */
static void wait_a_little(int out, uint64_t random)
{
	struct pollfd ready = {.fd = out, .events = POLLIN};
	if (random % 8)
		poll(&ready, 1, 5000);
	usleep((useconds_t)(random / 8 % 25000));
}

static void test_killed__writers_leave_what_they_acknowledged(void **state)
{
	uint64_t random = 4711, number = 0;
	size_t rounds = getenv("PGS_TEST_LONG") ? 1000 : 100, last_round = 0;
	pgs_store *store;
	(void)state;
	open_store(&store);
	pgs_db_close(create_db(store, "db", NULL));
	pgs_close(store);
	for (size_t round = 0; round < rounds; round++) {
		const char *const arguments[] = {"helper_writer", "acks", url, NULL};
		int out, status;
		pid_t pid = start(&out, arguments);
		random = random * 6364136223846793005 + 1442695040888963407;
		wait_a_little(out, random >> 20);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status)); /* it had not given up by itself */
		uint64_t acknowledged = read_acks(out, number);
		close(out);
		open_store(&store);
		pgs_db *db = open_db(store, "db");
		check_number(db, acknowledged, &number);
		last_round = round;
		if (round % (rounds / 10) == rounds / 10 - 1) { /* the history it looks at grows all the time */
			pgs_error err = PGS_ERROR_INIT;
			expect_code(pgs_verify(db, NULL, NULL, &err), PGS_OK, &err, "verify");
		}
		pgs_db_close(db);
		pgs_close(store);
	}
	assert_int_equal(last_round + 1, rounds);
	assert_true(number > rounds / 2);
}

/* --- in turn --------------------------------------------------------------------------------- */

#define TURNS 6000

/* The number in page 0 of the latest snapshot. */
static bool latest_is(pgs_db *db, uint64_t number)
{
	pgs_txn *t;
	uint64_t page[TEST_PAGE_SIZE / sizeof(uint64_t)];
	if (pgs_begin(&t, db, NULL, NULL) != PGS_OK)
		return false;
	bool is = pgs_read(t, 0, page) == PGS_OK && page[0] == number;
	pgs_abort(t);
	return is;
}

static bool renewed_is(pgs_txn *t, uint64_t number)
{
	bool same;
	uint64_t page[TEST_PAGE_SIZE / sizeof(uint64_t)];
	pgs_reset(t);
	return pgs_renew(t, &same) == PGS_OK && pgs_read(t, 0, page) == PGS_OK && page[0] == number;
}

static bool commit_number(pgs_db *db, uint64_t number)
{
	pgs_txn *t;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	uint64_t page[TEST_PAGE_SIZE / sizeof(uint64_t)] = {number};
	o.write = true;
	if (pgs_begin(&t, db, &o, NULL) != PGS_OK)
		return false;
	if (pgs_write(t, 0, page) == PGS_OK)
		return pgs_commit(t, NULL, NULL, NULL) == PGS_OK;
	pgs_abort(t);
	return false;
}

static bool is_told(int in, uint64_t number)
{
	uint64_t told;
	struct pollfd wait = {.fd = in, .events = POLLIN};
	return poll(&wait, 1, 60000) == 1 && read(in, &told, sizeof told) == sizeof told && told == number;
}

/* Whoever is told of a number begins, finds it, once or again, and commits the next. */
static bool count_in_turn(int in, int out, uint64_t mine)
{
	pgs_store *store;
	open_store(&store);
	pgs_db *db = open_db(store, "db");
	pgs_txn *again;
	bool good = pgs_begin(&again, db, NULL, NULL) == PGS_OK;
	for (uint64_t n = mine; good && n <= TURNS; n += 2) {
		good = n == 1 || is_told(in, n - 1);
		for (uint64_t look = 0; good && look < n % 7; look++)
			good = look % 2 ? latest_is(db, n - 1) : renewed_is(again, n - 1);
		good = good && commit_number(db, n) && latest_is(db, n) && write(out, &n, sizeof n) == sizeof n;
	}
	pgs_abort(again);
	pgs_db_close(db);
	pgs_close(store);
	return good;
}

static void test_processes__begin_at_what_the_other_has_committed(void **state)
{
	(void)state;
	int to_child[2], to_parent[2], status;
	pgs_store *store;
	snprintf(url, sizeof url, "dir:%s?sync=off", folder);
	open_store(&store);
	pgs_db_close(create_db(store, "db", NULL));
	pgs_close(store);
	assert_int_equal(pipe(to_child), 0);
	assert_int_equal(pipe(to_parent), 0);
	pid_t child = fork();
	if (child == 0)
		_exit(count_in_turn(to_child[0], to_parent[1], 2) ? 0 : 1);
	close(to_child[0]);
	close(to_parent[1]);
	bool good = count_in_turn(to_parent[0], to_child[1], 1);
	close(to_child[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(to_parent[0]);
	assert_true(good);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_threads__lose_no_transfer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads__lose_no_transfer_under_snapshot_isolation, setup, teardown),
		cmocka_unit_test_setup_teardown(test_processes__lose_no_transfer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_processes__lose_no_transfer_under_snapshot_isolation, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_processes__begin_at_what_the_other_has_committed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed__writers_leave_what_they_acknowledged, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
