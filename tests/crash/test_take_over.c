/* Processes that follow one database with one cache file: one keeps its mirror, and when that one goes, however, another
 * takes over from where the mirror is. */
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore.h>
#include <pagestore/follow.h>

#include "local_cache/mirror.h"
#include "support/stores.h"
#include "support/testing.h"
#include "txn/db.h"
#include "util/clock.h"

#define PROCESSES 3
#define TURNS 12
#define WAIT_MS 20000

typedef struct process {
	pid_t pid;
	int orders; /* what to write to */
} process;

static char folder[64], url[90], cached[200];

/* --- a follower ----------------------------------------------------------------------------------------- */

/* Follow until told to stop ('s') or to close ('c') or, by the end of the orders, to end. */
static void live(int orders)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	pgs_db *db;
	char order;
	if (pgs_open(&store, cached, NULL, &err) != PGS_OK || pgs_db_open(&db, store, "db", 2, NULL, &err) != PGS_OK ||
	    pgs_follow_start(db, NULL, &err) != PGS_OK)
		_exit(1);
	while (read(orders, &order, 1) == 1) {
		if (order == 's') {
			pgs_follow_stop(db);
		} else {
			pgs_db_close(db);
			pgs_close(store);
			db = NULL;
		}
	}
	if (db) {
		pgs_db_close(db);
		pgs_close(store);
	}
	_exit(0);
}

static void start(process *all, int which)
{
	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	pid_t pid = fork();
	if (pid == 0) {
		for (int i = 0; i < PROCESSES; i++)
			if (all[i].orders >= 0)
				close(all[i].orders);
		close(pipes[1]);
		live(pipes[0]);
	}
	assert_true(pid > 0);
	close(pipes[0]);
	all[which] = (process){pid, pipes[1]};
}

static void end(process *p, bool killed)
{
	int status;
	if (killed)
		kill(p->pid, SIGKILL);
	close(p->orders);
	p->orders = -1;
	assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
	assert_true(killed ? WIFSIGNALED(status) : status == 0);
}

/* --- one who looks ------------------------------------------------------------------------------------------- */

static uint64_t commit(pgs_db *db, uint64_t value)
{
	uint8_t page[4096] = {0};
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	uint64_t revision;
	pgs_error err = PGS_ERROR_INIT;
	o.write = true;
	expect_code(pgs_begin(&t, db, &o, &err), PGS_OK, &err, "begin");
	memcpy(page, &value, sizeof value);
	assert_int_equal(pgs_write(t, value % 10, page), PGS_OK);
	assert_int_equal(pgs_attr_set(t, "last", 4, &value, sizeof value), PGS_OK);
	expect_code(pgs_commit(t, NULL, &revision, &err), PGS_OK, &err, "commit");
	return revision;
}

/* The one that keeps the mirror, once it has come to the revision. */
static int wait_for_keeper(pgs_db *db, const process *all, uint64_t revision)
{
	uint64_t until = pgs__now_ms() + WAIT_MS;
	while (!pgs__deadline_passed(until)) {
		pid_t pid = pgs__mirror_follower(db->contents.disk);
		if (pgs__mirror_sequence(db->contents.disk) >= revision)
			for (int i = 0; i < PROCESSES; i++)
				if (all[i].orders >= 0 && all[i].pid == pid)
					return i;
		pgs__sleep_ms(2, 0);
	}
	fail_msg("nobody has brought the mirror to revision %llu", (unsigned long long)revision);
	return -1;
}

static void expect_local(pgs_db *db, uint64_t revision, uint64_t value)
{
	uint8_t page[4096];
	uint64_t found;
	size_t size;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	o.freshness = PGS_LOCAL;
	expect_code(pgs_begin(&t, db, &o, &err), PGS_OK, &err, "begin");
	assert_int_equal(pgs_txn_revision(t), revision);
	assert_int_equal(pgs_read(t, value % 10, page), PGS_OK);
	assert_memory_equal(page, &value, sizeof value);
	assert_int_equal(pgs_attr_get(t, "last", 4, &found, sizeof found, &size), PGS_OK);
	assert_int_equal(found, value);
	pgs_abort(t);
}

static void test_take_over__when_the_keeper_goes(void **state)
{
	process all[PROCESSES];
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	uint64_t slowest = 0;
	(void)state;
	make_folder(folder);
	snprintf(url, sizeof url, "dir:%s/store", folder);
	snprintf(cached, sizeof cached, "%s?cache=%s/cache", url, folder);
	expect_code(pgs_open(&store, url, NULL, &err), PGS_OK, &err, "opening");
	pgs_db_close(create_db(store, "db", NULL));
	pgs_close(store);
	for (int i = 0; i < PROCESSES; i++)
		all[i].orders = -1;
	for (int i = 0; i < PROCESSES; i++)
		start(all, i);
	pgs_store *looks;
	pgs_db *db;
	expect_code(pgs_open(&looks, cached, NULL, &err), PGS_OK, &err, "opening");
	expect_code(pgs_db_open(&db, looks, "db", 2, NULL, &err), PGS_OK, &err, "opening");
	pgs__mirror_state before, after;
	uint64_t revision = commit(db, 1);
	int keeper = wait_for_keeper(db, all, revision);
	assert_int_equal(pgs__mirror_state_get(db->contents.disk, &before, NULL), PGS_OK);
	for (int turn = 0; turn < TURNS; turn++) {
		pid_t gone = all[keeper].pid;
		if (turn % 3 == 0)
			end(&all[keeper], true);
		else
			assert_int_equal(write(all[keeper].orders, turn % 3 == 1 ? "s" : "c", 1), 1);
		revision = commit(db, 100 + (uint64_t)turn);
		uint64_t since = pgs__now_ms();
		int next = keeper;
		while (turn % 3 && pgs__mirror_follower(db->contents.disk) == gone && pgs__now_ms() - since < WAIT_MS)
			pgs__sleep_ms(2, 0);
		next = wait_for_keeper(db, all, revision);
		assert_int_not_equal(next, keeper);
		uint64_t took = pgs__now_ms() - since;
		slowest = took > slowest ? took : slowest;
		expect_local(db, revision, 100 + (uint64_t)turn);
		if (all[keeper].orders >= 0)
			end(&all[keeper], false);
		start(all, keeper);
		keeper = next;
	}
	print_message("took over within %llu ms\n", (unsigned long long)slowest);
	assert_int_equal(pgs__mirror_state_get(db->contents.disk, &after, NULL), PGS_OK);
	assert_int_equal(after.horizon, before.horizon); /* nobody has loaded it anew */
	pgs_db_close(db);
	pgs_close(looks);
	for (int i = 0; i < PROCESSES; i++)
		end(&all[i], false);
	remove_folder(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_take_over__when_the_keeper_goes),
	};
	return cmocka_run_group_tests_name("take_over", tests, NULL, NULL);
}
