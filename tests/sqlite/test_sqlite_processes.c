/* examples/sqlite: several processes and threads on one database, and processes that die. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

#include <pagestore.h>

#include "sqlite/bank.h"
#include "sqlite/sql.h"
#include "support/scratch.h"
#include "util/clock.h"

enum { TELLERS = 4, KILLS = 100, LIMIT_MS = 90000 };
enum { AT_ONCE_MS = 8000 }; /* and not when a lease of 10 s is over */

static void bank_uri(char *uri, size_t size, const char *name)
{
	snprintf(uri, size, "file:%s?vfs=pagestore&store=dir:%s%%3Fsync%%3Doff", name, scratch_path("store"));
}

static unsigned long usually(unsigned long count)
{
	return getenv("PGS_TEST_LONG") ? count * 10 : count;
}

static void end_process(pid_t pid)
{
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void kill_process(pid_t pid)
{
	int status = 0;
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status)); /* it was still at work */
}

/* --- all of them live ------------------------------------------------------------------------------------ */

static void test_sqlite_processes__move_money(void **state)
{
	char uri[200];
	pid_t pids[TELLERS], auditor;
	bank_board *board = bank_board_new();
	(void)state;
	bank_uri(uri, sizeof uri, "bank");
	bank_make(uri);
	uint64_t end = pgs__now_ms() + usually(3000);
	for (unsigned i = 0; i < TELLERS; i++)
		pids[i] = teller_start((teller){uri, board, i, (teller_kind)(i % TELLER_AUDITOR), 0, end, 0});
	auditor = teller_start((teller){uri, board, TELLERS, TELLER_AUDITOR, 0, end, 0});
	for (unsigned i = 0; i < TELLERS; i++)
		end_process(pids[i]);
	end_process(auditor);
	for (unsigned i = 0; i < TELLERS; i++)
		assert_true(atomic_load(&board->done[i]) > 0);
	bank_check(uri, board);
	bank_board_free(board);
}

static void test_sqlite_threads__move_money(void **state)
{
	char uri[200];
	pthread_t threads[TELLERS];
	teller tellers[TELLERS];
	bank_board *board = bank_board_new();
	(void)state;
	bank_uri(uri, sizeof uri, "threads");
	bank_make(uri);
	for (unsigned i = 0; i < TELLERS; i++) {
		tellers[i] = (teller){uri, board, i, (teller_kind)(i % TELLER_BUILDER), usually(60), 0, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, teller_run, &tellers[i]), 0);
	}
	for (unsigned i = 0; i < TELLERS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (unsigned i = 0; i < TELLERS; i++) {
		assert_int_equal(tellers[i].failure, SQLITE_OK);
		assert_int_equal(atomic_load(&board->done[i]), usually(60));
	}
	bank_check(uri, board);
	bank_board_free(board);
}

/* --- some die ---------------------------------------------------------------------------------------------- */

/* Until it has done something since, or a while has passed. */
static void wait_for_work(const bank_board *board, unsigned number, unsigned long before)
{
	struct timespec pause = {0, 1000000};
	for (int i = 0; i < 3000 && atomic_load(&board->done[number]) == before; i++)
		nanosleep(&pause, NULL);
}

/* Two tellers, killed in the middle of what they do: a transaction of several statements, one that makes and drops
 * tables, VACUUM, a commit, with the turn or without. What they acknowledged is there, the next one goes on at once. */
static void kill_two(const char *uri, bank_board *board, unsigned round)
{
	pid_t pids[2];
	unsigned long before[2];
	for (unsigned p = 0; p < 2; p++) {
		before[p] = atomic_load(&board->done[p]);
		pids[p] = teller_start((teller){uri, board, p, (teller_kind)((round + 2 * p) % TELLER_AUDITOR), 0, 0, 0});
	}
	for (unsigned p = 0; p < 2; p++)
		wait_for_work(board, p, before[p]);
	struct timespec pause = {0, (long)(round * 7919 % 30000) * 1000};
	nanosleep(&pause, NULL);
	for (unsigned p = 0; p < 2; p++)
		kill_process(pids[p]);
	bank_check(uri, board);
	sqlite3 *db = sql_open_uri(uri);
	sqlite3_busy_timeout(db, AT_ONCE_MS);
	sql_do(db, "begin immediate; update account set balance = balance where id = 1; commit");
	sql_close(db);
}

static void test_sqlite_processes__die_at_any_time(void **state)
{
	char uri[200];
	bank_board *board = bank_board_new();
	(void)state;
	bank_uri(uri, sizeof uri, "dying");
	bank_make(uri);
	/* Seconds; under a sanitizer on a busy machine it is as many as there is time for. */
	uint64_t end = pgs__now_ms() + usually(LIMIT_MS);
	unsigned rounds = 0;
	while (rounds < usually(KILLS / 2) && pgs__now_ms() < end)
		kill_two(uri, board, rounds++);
	print_message("%u killed\n", 2 * rounds);
	assert_true(rounds > 5);
	bank_board_free(board);
}

/* --- turns --------------------------------------------------------------------------------------------------- */

/* Whatever goes on beside them, those that take turns meet no conflict, and none of them waits for ever. */
static void test_sqlite_processes__turns_never_conflict(void **state)
{
	static const teller_kind kinds[] = {TELLER_AUTOCOMMIT, TELLER_AUTOCOMMIT, TELLER_IMMEDIATE, TELLER_OPTIMIST};
	char uri[200];
	pid_t pids[TELLERS];
	bank_board *board = bank_board_new();
	(void)state;
	bank_uri(uri, sizeof uri, "turns");
	bank_make(uri);
	uint64_t end = pgs__now_ms() + usually(3000);
	for (unsigned i = 0; i < TELLERS; i++)
		pids[i] = teller_start((teller){uri, board, i, kinds[i], 0, end, 0});
	for (unsigned i = 0; i < TELLERS; i++)
		end_process(pids[i]);
	for (unsigned i = 0; i < TELLERS; i++) {
		assert_true(atomic_load(&board->done[i]) > 0);
		if (kinds[i] != TELLER_OPTIMIST)
			assert_int_equal(atomic_load(&board->conflicts[i]), 0);
	}
	bank_check(uri, board);
	bank_board_free(board);
}

static bool store_takes_writes(void)
{
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	pgs_store *store;
	pgs_db *db = NULL;
	char url[200];
	snprintf(url, sizeof url, "dir:%s?sync=off", scratch_path("store"));
	o.timeout_ms = 1000;
	if (pgs_open(&store, url, &o, NULL) != PGS_OK)
		return false;
	int result = pgs_db_create(&db, store, "probe", 5, NULL, NULL);
	pgs_db_close(db);
	if (result == PGS_OK || result == PGS_EEXIST)
		result = pgs_db_drop(store, "probe", 5, NULL);
	pgs_close(store);
	return result == PGS_OK;
}

/* Stopped in the middle of a write to the store's files it would keep everybody out until it goes on, whatever it has of
 * turns: then it is stopped again. */
static void stop_between_writes(pid_t pid)
{
	int status;
	for (;;) {
		assert_int_equal(kill(pid, SIGSTOP), 0);
		assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
		assert_true(WIFSTOPPED(status));
		if (store_takes_writes())
			return;
		assert_int_equal(kill(pid, SIGCONT), 0);
		pgs__sleep_ms(1, 0);
	}
}

/* One that goes from turn to turn keeps the lock in between. Killed, it keeps nobody out; nor does it when it is gone for
 * longer than its lease, and comes back. */
static void test_sqlite_processes__end_while_they_keep_the_turn(void **state)
{
	static const char sql[] = "update account set balance = balance where id = 1";
	char uri[200];
	bank_board *board = bank_board_new();
	(void)state;
	bank_uri(uri, sizeof uri, "keeper");
	bank_make(uri);
	for (int i = 0; i < 10; i++) {
		bool stop = i == 0 && getenv("PGS_TEST_LONG");
		pid_t pid = teller_start((teller){uri, board, 0, TELLER_AUTOCOMMIT, 0, 0, 0});
		for (int turns = 0; turns < 20; turns++)
			wait_for_work(board, 0, atomic_load(&board->done[0]));
		sqlite3 *db = sql_open_uri(uri);
		if (stop) {
			stop_between_writes(pid);
			sqlite3_busy_timeout(db, 20000);
			sql_do(db, sql);
			unsigned long before = atomic_load(&board->done[0]);
			assert_int_equal(kill(pid, SIGCONT), 0);
			wait_for_work(board, 0, before);
		}
		kill(pid, SIGKILL); /* the one that was stopped may have met a conflict */
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		sqlite3_busy_timeout(db, AT_ONCE_MS);
		sql_do(db, sql);
		sql_close(db);
		bank_check(uri, board); /* each may have died between its commit and saying so */
	}
	bank_board_free(board);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sqlite_processes__move_money),
		cmocka_unit_test(test_sqlite_threads__move_money),
		cmocka_unit_test(test_sqlite_processes__die_at_any_time),
		cmocka_unit_test(test_sqlite_processes__turns_never_conflict),
		cmocka_unit_test(test_sqlite_processes__end_while_they_keep_the_turn),
	};
	pagestore_sqlite_register();
	return cmocka_run_group_tests_name("sqlite_processes", tests, scratch_set_up, scratch_tear_down);
}
