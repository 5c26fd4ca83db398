/* Processes that share a cache file, when their servers are not as they were: etcd is killed and started again, its
 * history compacted under the followers, away for a while, or put back to an earlier state. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/chain.h"
#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/scratch.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define RESTARTS 3

static etcd_server *etcd;
static s3_server *s3;
static bool are_down;

static const unsigned duties[] = {
	CHAIN_FOLLOWS,
	CHAIN_FOLLOWS | CHAIN_WRITES,
	0,
	CHAIN_WRITES | CHAIN_MAINTAINS | CHAIN_ELSEWHERE,
};
#define PROCESSES (sizeof duties / sizeof *duties)
#define READER 2
#define ELSEWHERE 3

static void start_all(chain *c)
{
	for (unsigned i = 0; i < PROCESSES; i++)
		if (c->lives[i].pid == 0)
			chain_start(c, i, duties[i]);
}

/* A chain of its own in a store of its own. */
static chain *set_up_chain(const char *root)
{
	static chain c;
	static char url[SERVER_URL_SIZE], cached[SERVER_URL_SIZE + 200];
	char name[50];
	static uint64_t salt;
	server_store_url(url, etcd_endpoints(etcd), root, s3_endpoint(s3), "");
	snprintf(name, sizeof name, "cache-%s", root);
	snprintf(cached, sizeof cached, "%s&cache=%s&cache_size=16M", url, scratch_path(name));
	chain_set_up(&c, scratch_path("chain"), url, cached, ++salt);
	return &c;
}

static void end_chain(chain *c, const char *what)
{
	chain_end(c);
	chain_check(c, c->url);
	chain_check(c, c->cached_url);
	chain_report(c, what);
	chain_tear_down(c);
}

/* --- restarted -------------------------------------------------------------------------------- */

static void restart_etcd(chain *c, uint32_t pause_ms)
{
	chain_away(c);
	etcd_kill(etcd, 0);
	chain_sleep(c, pause_ms);
	assert_true(etcd_restart(etcd, 0));
	chain_back(c);
}

static void test_etcd__restarted_under_followers(void **state)
{
	chain *c = set_up_chain("restarted");
	(void)state;
	start_all(c);
	chain_catch_up(c, "at first");
	for (uint32_t i = 0; i < RESTARTS; i++) {
		restart_etcd(c, i * 300);
		chain_wait_commits(c, 10, "after a restart");
		chain_catch_up(c, "after a restart");
	}
	print_message("etcd was killed and restarted %d times\n", RESTARTS);
	end_chain(c, "restarts");
}

/* --- compacted --------------------------------------------------------------------------------- */

static void compact_at(uint64_t revision)
{
	char body[100], answer[500];
	snprintf(body, sizeof body, "{\"revision\":\"%llu\",\"physical\":true}", (unsigned long long)revision);
	assert_int_equal(etcd_post(etcd, 0, "/v3/kv/compaction", body, answer, sizeof answer), 200);
}

/* Followers stand still; meanwhile others commit, their watches' connections break, and what they would have been told is
 * compacted. */
static void test_history__compacted_under_followers(void **state)
{
	chain *c = set_up_chain("compacted");
	uint64_t restarts = chain_restarts(c);
	(void)state;
	start_all(c);
	chain_catch_up(c, "at first");
	chain_freeze(c, 0);
	chain_freeze(c, 1);
	chain_wait_commits(c, 30, "beside followers that stand still");
	restart_etcd(c, 0);
	chain_wait_commits(c, 10, "before a compaction");
	compact_at(c->shared->commits[c->shared->acknowledged].revision);
	chain_thaw(c, 0);
	chain_thaw(c, 1);
	chain_catch_up(c, "after a compaction");
	chain_wait_commits(c, 10, "after a compaction");
	chain_catch_up(c, "after a compaction");
	assert_true(chain_restarts(c) > restarts);
	end_chain(c, "compactions");
}

/* --- away ---------------------------------------------------------------------------------------- */

static void restart_servers(void)
{
	assert_true(etcd_restart(etcd, 0) && s3_restart(s3));
	are_down = false;
}

/* Whoever has looked before can look on: also the one that has only what others keep in the file. */
static void test_servers__away(void **state)
{
	chain *c = set_up_chain("away");
	(void)state;
	start_all(c);
	chain_wait_commits(c, 50, "at first");
	chain_pause(c);
	chain_catch_up(c, "when nobody commits");
	chain_sleep(c, 3000);
	chain_wait_looks(c, 20, "when nobody commits"); /* what was read is in the file by now */
	chain_kill(c, ELSEWHERE);
	chain_away(c);
	are_down = true;
	etcd_kill(etcd, 0);
	s3_kill(s3);
	uint64_t errors = chain_errors(c);
	chain_wait_looks(c, 20, "without servers");
	assert_true(chain_errors(c) > errors); /* those at the latest */
	restart_servers();
	chain_back(c);
	chain_go_on(c);
	start_all(c);
	chain_wait_commits(c, 20, "with servers again");
	chain_catch_up(c, "with servers again");
	end_chain(c, "away");
}

static int try_begin(pgs_db *db, uint32_t freshness, uint32_t bound_ms, uint64_t least, uint64_t expected)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	o.freshness = freshness;
	o.bound_ms = bound_ms;
	o.least_revision = least;
	o.timeout_ms = 2000;
	timed t = timed_begin("pgs_begin", 2000);
	int result = pgs_begin(&txn, db, &o, &err);
	timed_end(&t);
	if (result == PGS_OK) {
		assert_int_equal(pgs_txn_revision(txn), expected);
		assert_int_equal(read_seed(txn, 1, 1), PGS_OK);
	}
	pgs_abort(txn);
	return result;
}

static uint64_t seed_of(uint64_t page_no)
{
	return page_no;
}

static void expect_unreachable(int result)
{
	assert_true(result == PGS_EIO || result == PGS_ETIMEOUT);
}

static void test_promises__that_hold_without_etcd(void **state)
{
	char url[SERVER_URL_SIZE], more[200];
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	snprintf(more, sizeof more, "&cache=%s&cache_size=16M", scratch_path("cache-promises"));
	server_store_url(url, etcd_endpoints(etcd), "promises", s3_endpoint(s3), more);
	pgs_store *store = server_store_open(url, 5000);
	pgs_db *db = create_db(store, "db", NULL);
	uint64_t revision = write_pages(db, 0, 10, seed_of);
	expect_code(pgs_follow_start(db, NULL, &err), PGS_OK, &err, "pgs_follow_start");
	assert_int_equal(try_begin(db, PGS_LOCAL, 0, 0, revision), PGS_OK);
	uint64_t asked_ms = pgs__now_ms(); /* it is the latest after this */
	assert_int_equal(try_begin(db, PGS_LATEST, 0, 0, revision), PGS_OK);
	etcd_kill(etcd, 0);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(try_begin(db, PGS_LOCAL, 0, 0, revision), PGS_OK);
		assert_int_equal(try_begin(db, PGS_BOUNDED, 600000, 0, revision), PGS_OK);
		assert_int_equal(try_begin(db, PGS_AT_LEAST, 0, revision, revision), PGS_OK);
	}
	assert_true(pgs__now_ms() - asked_ms < 600000);
	pgs__sleep_ms(60, 0);
	expect_unreachable(try_begin(db, PGS_BOUNDED, 50, 0, revision));
	expect_unreachable(try_begin(db, PGS_LATEST, 0, 0, revision));
	expect_unreachable(try_begin(db, PGS_AT_LEAST, 0, revision + 1000, revision));
	assert_true(etcd_restart(etcd, 0));
	assert_int_equal(try_begin(db, PGS_LATEST, 0, 0, revision), PGS_OK);
	revision = write_pages(db, 20, 10, seed_of);
	assert_int_equal(try_begin(db, PGS_LOCAL, 0, 0, revision), PGS_OK);
	assert_int_equal(try_begin(db, PGS_BOUNDED, 50, 0, revision), PGS_OK);
	pgs_db_close(db);
	pgs_close(store);
}

/* --- put back --------------------------------------------------------------------------------------- */

/* What was committed after the copy is lost, and what the cache file has of it is nobody's. */
static void put_back(chain *c)
{
	start_all(c);
	chain_wait_commits(c, 30, "at first");
	chain_end(c);
	assert_true(etcd_save(etcd));
	uint64_t last = c->shared->acknowledged;
	start_all(c);
	chain_wait_commits(c, 40, "what will be lost");
	chain_catch_up(c, "what will be lost");
	for (unsigned i = 0; i < PROCESSES; i++)
		chain_kill(c, i);
	assert_true(etcd_restore(etcd));
	print_message("commits %llu to %llu were lost\n", (unsigned long long)last + 1,
		(unsigned long long)c->shared->acknowledged);
	chain_lose(c, last);
}

static void test_etcd__put_back_to_an_earlier_state(void **state)
{
	chain *c = set_up_chain("earlier");
	(void)state;
	put_back(c);
	chain_start(c, READER, duties[READER]); /* nobody has followed yet */
	chain_wait_looks(c, 3, "after etcd was put back");
	start_all(c);
	chain_wait_looks(c, 10, "after etcd was put back");
	chain_wait_commits(c, 60, "after etcd was put back");
	chain_catch_up(c, "after etcd was put back");
	end_chain(c, "put back");
}

/* Others have committed since, more than what was lost: by its revision nothing can be told. */
static void test_etcd__put_back_and_further_than_before(void **state)
{
	chain *c = set_up_chain("further");
	(void)state;
	put_back(c);
	chain_start(c, ELSEWHERE, duties[ELSEWHERE]);
	chain_wait_commits(c, 60, "on another machine");
	chain_start(c, READER, duties[READER]);
	chain_wait_looks(c, 3, "after etcd was put back");
	start_all(c);
	chain_wait_looks(c, 10, "after etcd was put back");
	chain_wait_commits(c, 20, "after etcd was put back");
	chain_catch_up(c, "after etcd was put back");
	end_chain(c, "put back, and further");
}

static int set_up(void **state)
{
	etcd = etcd_start(&(etcd_setup){.members = 1});
	s3 = s3_start_durable();
	return etcd && s3 ? scratch_set_up(state) : -1;
}

/* After a test that failed, too. */
static int clear(void **state)
{
	chain_clear(state);
	if (are_down)
		restart_servers();
	return 0;
}

static int tear_down(void **state)
{
	etcd_stop(etcd);
	s3_stop(s3);
	return scratch_tear_down(state);
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_teardown(name, clear)
	const struct CMUnitTest tests[] = {
		CASE(test_etcd__restarted_under_followers),
		CASE(test_history__compacted_under_followers),
		CASE(test_servers__away),
		CASE(test_promises__that_hold_without_etcd),
		CASE(test_etcd__put_back_to_an_earlier_state),
		CASE(test_etcd__put_back_and_further_than_before),
	};
	if (argc > 1)
		return chain_process(argc, argv);
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests_name("cache_servers", tests, set_up, tear_down);
}
