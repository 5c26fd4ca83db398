/* examples/sqlite on a real etcd: several processes on one database, some of which die. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

#include "sqlite/bank.h"
#include "sqlite/sql.h"
#include "support/etcd_server.h"
#include "support/scratch.h"
#include "util/clock.h"

enum { TELLERS = 4, RUN_MS = 6000, LIFE_MS = 1200, DEATHS = 2, LEASE_MS = 10000, SLACK_MS = 10000 };

static etcd_server *etcd;

static uint64_t usually(uint64_t count)
{
	return getenv("PGS_TEST_LONG") ? count * 5 : count;
}

static void bank_uri(char *uri, size_t size, const char *name)
{
	snprintf(uri, size, "file:%s?vfs=pagestore&store=etcd://%s/bank%%3Fblob%%3Ddir:%s", name, etcd_endpoints(etcd),
		 scratch_path("blobs"));
}

static const teller_kind kinds[TELLERS] = {TELLER_OPTIMIST, TELLER_IMMEDIATE, TELLER_AUTOCOMMIT, TELLER_OPTIMIST};

static void test_sqlite_servers__move_money(void **state)
{
	char uri[300];
	pid_t pids[TELLERS + 1];
	bank_board *board = bank_board_new();
	(void)state;
	bank_uri(uri, sizeof uri, "living");
	bank_make(uri);
	uint64_t end = pgs__now_ms() + usually(RUN_MS);
	for (unsigned i = 0; i < TELLERS; i++)
		pids[i] = teller_start((teller){uri, board, i, kinds[i], 0, end, 0});
	pids[TELLERS] = teller_start((teller){uri, board, TELLERS, TELLER_AUDITOR, 0, end, 0});
	for (unsigned i = 0; i <= TELLERS; i++) {
		int status = 0;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	for (unsigned i = 0; i < TELLERS; i++) {
		print_message("teller %u, kind %d: %lu transactions, %lu conflicts\n", i, (int)kinds[i],
			      atomic_load(&board->done[i]), atomic_load(&board->conflicts[i]));
		assert_true(atomic_load(&board->done[i]) > 0);
	}
	bank_check(uri, board);
	bank_board_free(board);
}

/* All are killed at once; one of them may have had the turn, which the others get when its lease is over. */
static void live_and_die(const char *uri, bank_board *board)
{
	pid_t pids[TELLERS];
	for (unsigned i = 0; i < TELLERS; i++)
		pids[i] = teller_start((teller){uri, board, i, kinds[i], 0, 0, 0});
	struct timespec pause = {LIFE_MS / 1000, LIFE_MS % 1000 * 1000000};
	nanosleep(&pause, NULL);
	for (unsigned i = 0; i < TELLERS; i++) {
		int status = 0;
		assert_int_equal(kill(pids[i], SIGKILL), 0);
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFSIGNALED(status)); /* it was still at work */
	}
	bank_check(uri, board);
	uint64_t begun = pgs__now_ms();
	sqlite3 *db = sql_open_uri(uri);
	sqlite3_busy_timeout(db, LEASE_MS + SLACK_MS);
	sql_do(db, "begin immediate; update account set balance = balance where id = 1; commit");
	sql_close(db);
	assert_true(pgs__now_ms() - begun < LEASE_MS + 2 * SLACK_MS);
}

static void test_sqlite_servers__die(void **state)
{
	char uri[300];
	bank_board *board = bank_board_new();
	(void)state;
	bank_uri(uri, sizeof uri, "dying");
	bank_make(uri);
	for (uint64_t i = 0; i < usually(DEATHS); i++)
		live_and_die(uri, board);
	assert_true(atomic_load(&board->done[0]) > 0);
	bank_board_free(board);
}

static int start(void **state)
{
	etcd = etcd_start(&(etcd_setup){.members = 1});
	return etcd ? scratch_set_up(state) : -1;
}

static int stop(void **state)
{
	etcd_stop(etcd);
	return scratch_tear_down(state);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sqlite_servers__move_money),
		cmocka_unit_test(test_sqlite_servers__die),
	};
	if (!etcd_available())
		return 77;
	pagestore_sqlite_register();
	return cmocka_run_group_tests_name("sqlite_servers", tests, start, stop);
}
