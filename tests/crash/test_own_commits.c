/* Two processes of a machine with one cache file: what one has been told is committed, the other sees, and mostly without
 * asking anybody. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore.h>
#include <pagestore/follow.h>

#include "support/stores.h"
#include "support/testing.h"

#define COMMITS 300

static void open_both(const char *url, pgs_store **store, pgs_db **db)
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_open(store, url, NULL, &err), PGS_OK, &err, "opening");
	expect_code(pgs_db_open(db, *store, "db", 2, NULL, &err), PGS_OK, &err, "opening");
}

/* Commit numbers, and tell of each. */
static void write_numbers(const char *url, int told, int heard)
{
	static uint8_t page[TEST_PAGE_SIZE];
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	pgs_db *db;
	char answer;
	open_both(url, &store, &db);
	for (uint64_t number = 1; number <= COMMITS; number++) {
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_txn *t;
		o.write = true;
		fill_page(page, number);
		memcpy(page, &number, sizeof number);
		if (pgs_begin(&t, db, &o, &err) != PGS_OK || pgs_write(t, number % 5, page) != PGS_OK ||
		    pgs_commit(t, NULL, NULL, &err) != PGS_OK || write(told, &number, sizeof number) != sizeof number ||
		    read(heard, &answer, 1) != 1)
			_exit(1);
	}
	pgs_db_close(db);
	pgs_close(store);
	_exit(0);
}

static bool sees_at_once(pgs_db *db, uint64_t number)
{
	static uint8_t page[TEST_PAGE_SIZE];
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_cost cost = PGS_COST_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	uint64_t seen;
	o.freshness = PGS_LOCAL;
	o.cost = &cost;
	expect_code(pgs_begin(&t, db, &o, &err), PGS_OK, &err, "begin");
	assert_int_equal(pgs_read(t, number % 5, page), PGS_OK);
	memcpy(&seen, page, sizeof seen);
	assert_int_equal(seen, number);
	pgs_abort(t);
	return cost.kv_requests == 0 && cost.blob_gets == 0;
}

static void test_own_commits__are_seen_by_the_other_process(void **state)
{
	char folder[64], url[100], cached[200];
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	pgs_db *db;
	int told[2], heard[2], status;
	uint64_t number, at_once = 0;
	(void)state;
	make_folder(folder);
	snprintf(url, sizeof url, "dir:%s/store", folder);
	snprintf(cached, sizeof cached, "%s?cache=%s/cache", url, folder);
	expect_code(pgs_open(&store, url, NULL, &err), PGS_OK, &err, "opening");
	pgs_db_close(create_db(store, "db", NULL));
	pgs_close(store);
	assert_int_equal(pipe(told) | pipe(heard), 0);
	pid_t writer = fork();
	if (writer == 0)
		write_numbers(cached, told[1], heard[0]);
	close(told[1]);
	open_both(cached, &store, &db);
	expect_code(pgs_follow_step(db, 5000, &err), PGS_OK, &err, "following");
	for (uint64_t i = 1; i <= COMMITS; i++) {
		assert_int_equal(read(told[0], &number, sizeof number), sizeof number);
		assert_int_equal(number, i);
		at_once += sees_at_once(db, number);
		if (i % 50 == 0)
			expect_code(pgs_follow_step(db, 5000, &err), PGS_OK, &err, "following");
		assert_int_equal(write(heard[1], "", 1), 1);
	}
	assert_int_equal(waitpid(writer, &status, 0), writer);
	assert_int_equal(status, 0);
	assert_true(at_once > COMMITS / 2);
	close(told[0]);
	close(heard[0]);
	close(heard[1]);
	pgs_db_close(db);
	pgs_close(store);
	remove_folder(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_own_commits__are_seen_by_the_other_process),
	};
	return cmocka_run_group_tests_name("own commits", tests, NULL, NULL);
}
