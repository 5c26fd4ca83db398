/* Processes on etcd and S3 that share a cache file, killed (-9) a hundred times: the one that keeps the machine's mirror,
 * and any other, in the midst of commits and of writing the file; now and then all of them at once. Each snapshot of each
 * freshness is read whole, and held against what it promises. */
#include <stdio.h>
#include <stdlib.h>

#include "support/chain.h"
#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/scratch.h"
#include "support/server_store.h"
#include "support/testing.h"
#include "util/clock.h"

#define KILLS 100
#define KILLS_LONG 600
#define ALL_AT_ONCE 25 /* kills, until the next is of all */
#define TAKEOVER_MAX_MS 30000 /* it tries twice a second */

static const unsigned duties[] = {
	CHAIN_FOLLOWS,
	CHAIN_FOLLOWS | CHAIN_WRITES,
	CHAIN_FOLLOWS,
	0, /* it has what the others keep in the file */
	CHAIN_WRITES,
	CHAIN_WRITES | CHAIN_MAINTAINS | CHAIN_ELSEWHERE,
};
#define PROCESSES (sizeof duties / sizeof *duties)

typedef struct tally {
	unsigned keepers, others, all, takeovers;
	uint64_t longest_ms, sum_ms;
} tally;

static void start_all(chain *c)
{
	for (unsigned i = 0; i < PROCESSES; i++)
		chain_start(c, i, duties[i]);
}

static void kill_keeper(chain *c, const char *cache, tally *t)
{
	uint64_t took_ms;
	unsigned keeper = chain_wait_keeper(c, cache, &took_ms);
	chain_kill(c, keeper);
	unsigned next = chain_wait_keeper(c, cache, &took_ms);
	assert_true(next != keeper);
	assert_true(took_ms <= TAKEOVER_MAX_MS);
	chain_start(c, keeper, duties[keeper]);
	t->keepers++;
	t->takeovers++;
	t->sum_ms += took_ms;
	t->longest_ms = took_ms > t->longest_ms ? took_ms : t->longest_ms;
}

static void kill_all(chain *c, tally *t)
{
	for (unsigned i = 0; i < PROCESSES; i++)
		chain_kill(c, i);
	start_all(c);
	chain_catch_up(c, "after all were killed");
	t->all++;
}

static void kill_some(chain *c, const char *cache, unsigned kills, tally *t)
{
	uint64_t random = 4711;
	for (unsigned next_all = ALL_AT_ONCE; c->kills < kills;) {
		random = random * 6364136223846793005 + 1442695040888963407;
		chain_sleep(c, (uint32_t)(random >> 33) % 150);
		if (c->kills >= next_all) {
			kill_all(c, t);
			next_all = c->kills + ALL_AT_ONCE;
		} else if (random >> 63) {
			kill_keeper(c, cache, t);
		} else {
			unsigned victim = (unsigned)(random >> 40) % PROCESSES;
			chain_kill(c, victim);
			chain_start(c, victim, duties[victim]);
			t->others++;
		}
		if (c->kills % 10 == 0)
			chain_catch_up(c, "after a kill");
	}
}

static void test_followers_and_writers__killed(void **state)
{
	static chain c;
	char url[SERVER_URL_SIZE], cached[SERVER_URL_SIZE + 200];
	const char *cache = scratch_path("cache");
	tally t = {0};
	(void)state;
	etcd_server *etcd = etcd_start(&(etcd_setup){.members = 1});
	s3_server *s3 = s3_start(false);
	assert_true(etcd && s3);
	server_store_url(url, etcd_endpoints(etcd), "kills", s3_endpoint(s3), "");
	snprintf(cached, sizeof cached, "%s&cache=%s&cache_size=16M", url, cache);
	chain_set_up(&c, scratch_path("chain"), url, cached, 1);
	start_all(&c);
	chain_catch_up(&c, "at first");
	uint64_t began_ms = pgs__now_ms();
	kill_some(&c, cache, getenv("PGS_TEST_LONG") ? KILLS_LONG : KILLS, &t);
	chain_catch_up(&c, "after the last kill");
	chain_wait_commits(&c, 10, "after the last kill");
	chain_end(&c);
	chain_check(&c, url);
	chain_check(&c, cached);
	print_message("%u times the keeper of the mirror was killed, %u times another, %u times all, in %llu s; taking over "
		      "took %llu ms on average, %llu at most\n", t.keepers, t.others, t.all,
		      (unsigned long long)(pgs__now_ms() - began_ms) / 1000,
		      (unsigned long long)(t.takeovers ? t.sum_ms / t.takeovers : 0), (unsigned long long)t.longest_ms);
	chain_report(&c, "kills");
	assert_true(c.kills >= KILLS && t.takeovers >= 10 && t.all >= 1);
	chain_tear_down(&c);
	etcd_stop(etcd);
	s3_stop(s3);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_followers_and_writers__killed, chain_clear),
	};
	if (argc > 1)
		return chain_process(argc, argv);
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests_name("cache_kills", tests, scratch_set_up, scratch_tear_down);
}
