#include "support/followers.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include <pagestore.h>

#include "support/bank.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define FOLLOWERS 3
#define WRITERS 2
#define KILL_EVERY_MS 150

static uint32_t ms_until(uint64_t end_ms)
{
	uint64_t now = pgs__now_ms();
	return end_ms > now ? (uint32_t)(end_ms - now) : 0;
}

static void start_writer(bank_life *l, uint32_t number, const char *folder, const char *url, const char *acks,
	uint64_t end_ms, bool servers)
{
	*l = (bank_life){.number = number, .life = l->life + 1, .acks_path = acks};
	bank_start(l, folder, url, ms_until(end_ms), servers, PGS_SERIALIZABLE);
	assert_true(l->pid > 0);
}

/* It had not given up by itself; on a busy machine its time may be up. */
static void kill_process(pid_t pid, uint64_t end_ms)
{
	int status;
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) || (status == 0 && pgs__now_ms() >= end_ms));
}

static void expect_good_end(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* A process that comes last, with what the others left in the cache file. */
static void look_afterwards(const char *cached_url)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	pgs_db *db;
	pgs_txn *latest, *local;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	bank_worker worker = {.freshness = PGS_LOCAL};
	uint64_t revision = 0;
	expect_code(pgs_open(&store, cached_url, NULL, &err), PGS_OK, &err, "opening");
	expect_code(pgs_db_open(&db, store, "db", 2, NULL, &err), PGS_OK, &err, "opening");
	expect_code(pgs_follow_step(db, 20000, &err), PGS_OK, &err, "following");
	worker.db = db;
	bank_check_total(&worker, 0, &revision);
	if (worker.failure[0])
		fail_msg("%s", worker.failure);
	options.freshness = PGS_LOCAL;
	expect_code(pgs_begin(&local, db, &options, &err), PGS_OK, &err, "begin");
	expect_code(pgs_begin(&latest, db, NULL, &err), PGS_OK, &err, "begin");
	assert_int_equal(pgs_txn_revision(local), pgs_txn_revision(latest));
	pgs_abort(local);
	pgs_abort(latest);
	pgs_db_close(db);
	pgs_close(store);
}

void followers_run(const char *url, const char *cached_url, const char *dir, const char *folder, uint32_t run_ms,
	bool servers)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	pid_t followers[FOLLOWERS];
	bank_life writers[WRITERS] = {0};
	char acks[WRITERS][128];
	uint64_t random = 1, end_ms = pgs__now_ms() + run_ms;
	expect_code(pgs_open(&store, url, NULL, &err), PGS_OK, &err, "opening");
	pgs_db *db = create_db(store, "db", NULL);
	expect_code(bank_fill(db, &err), PGS_OK, &err, "filling the accounts");
	for (uint32_t i = 0; i < WRITERS; i++) {
		snprintf(acks[i], sizeof acks[i], "%s/acks-%u", dir, i);
		/* one writes through the cache, too */
		start_writer(&writers[i], i, folder, i ? cached_url : url, acks[i], end_ms, servers);
	}
	for (int i = 0; i < FOLLOWERS; i++)
		followers[i] = bank_follow(folder, cached_url, run_ms, servers);
	while (pgs__now_ms() + 1000 < end_ms) {
		random = random * 6364136223846793005 + 1442695040888963407;
		uint32_t victim = (uint32_t)(random >> 40) % (FOLLOWERS + WRITERS);
		pgs__sleep_ms(KILL_EVERY_MS, 0);
		if (victim < FOLLOWERS) {
			kill_process(followers[victim], end_ms);
			followers[victim] = bank_follow(folder, cached_url, ms_until(end_ms) + 500, servers);
		} else {
			uint32_t number = victim - FOLLOWERS;
			kill_process(writers[number].pid, end_ms);
			start_writer(&writers[number], number, folder, number ? cached_url : url, acks[number], end_ms,
				servers);
		}
	}
	for (uint32_t i = 0; i < WRITERS; i++)
		expect_good_end(writers[i].pid);
	for (int i = 0; i < FOLLOWERS; i++)
		expect_good_end(followers[i]);
	pgs_db_close(db);
	pgs_close(store);
	look_afterwards(cached_url);
}
