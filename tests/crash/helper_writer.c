/* A process that writes, for tests that start several, or kill it.
 *
 *     helper_writer acks <url>
 *         Commit number after number, from the one stored on; write each to standard output once it is committed.
 *         Runs until it is killed.
 *     helper_writer bank <url> <worker> <life> <milliseconds> serializable|snapshot local|servers
 *         Move money between the accounts; count transfers in the worker's own page; write the number of each to standard
 *         output once it is committed. See support/bank.h.
 *     helper_writer follow <url> <milliseconds> local|servers
 *         Follow; look at totals on what is known here, which never goes back. At least once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pagestore.h>

#include "support/bank.h"
#include "support/stores.h"
#include "util/clock.h"

static int fail_with(const char *what, const pgs_error *err)
{
	fprintf(stderr, "%s: %s: %s\n", what, pgs_error_name(err->code), err->message);
	return 1;
}

static int open_both(const char *url, pgs_store **store, pgs_db **db)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	options.cache_bytes = 1 << 20;
	options.expect_page_size_bytes = TEST_PAGE_SIZE;
	if (pgs_open(store, url, NULL, &err) != PGS_OK || pgs_db_open(db, *store, "db", 2, &options, &err) != PGS_OK)
		return fail_with("opening", &err);
	return 0;
}

/* Number n writes n % 7 + 1 pages after page 0, which holds n: sometimes so much that it goes to a file. */
static int commit_number(pgs_db *db, uint64_t number)
{
	static uint8_t page[TEST_PAGE_SIZE];
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	options.write = true;
	if (pgs_begin(&txn, db, &options, &err) != PGS_OK)
		return fail_with("begin", &err);
	memset(page, 0, sizeof page);
	memcpy(page, &number, sizeof number);
	int result = pgs_write(txn, 0, page);
	uint64_t count = number % 16 == 15 ? 300 : number % 7 + 1;
	for (uint64_t i = 1; result == PGS_OK && i <= count; i++) {
		fill_page(page, (number * 1000 + i) * (number % 2 ? 256 : 1));
		result = pgs_write(txn, i, page);
	}
	if (result != PGS_OK)
		return fail_with("write", pgs_txn_error(txn));
	if (pgs_commit(txn, NULL, NULL, &err) != PGS_OK)
		return fail_with("commit", &err);
	return 0;
}

static int write_acks(const char *url)
{
	pgs_store *store;
	pgs_db *db;
	pgs_txn *txn;
	uint8_t page[TEST_PAGE_SIZE];
	uint64_t number;
	if (open_both(url, &store, &db) != 0 || pgs_begin(&txn, db, NULL, NULL) != PGS_OK ||
	    pgs_read(txn, 0, page) != PGS_OK)
		return 1;
	pgs_abort(txn);
	memcpy(&number, page, sizeof number);
	while (commit_number(db, ++number) == 0)
		if (write(STDOUT_FILENO, &number, sizeof number) != sizeof number)
			return 1;
	return 1;
}

static int follow(const char *url, uint64_t ms, bool servers)
{
	pgs_store *store;
	pgs_db *db;
	uint64_t revision = 0, last = 0, end_ms = pgs__now_ms() + ms;
	if (open_both(url, &store, &db) != 0 || pgs_follow_start(db, NULL, NULL) != PGS_OK)
		return 1;
	bank_worker worker = {.db = db, .servers = servers, .bound_ms = 100};
	while (!worker.failure[0] && (pgs__now_ms() < end_ms || worker.snapshots == 0)) {
		worker.freshness = worker.freshness == PGS_LOCAL ? PGS_BOUNDED : PGS_LOCAL;
		bank_check_total(&worker, 0, &revision);
		if (revision < last && !worker.failure[0])
			snprintf(worker.failure, sizeof worker.failure, "revision %llu comes after %llu",
				 (unsigned long long)revision, (unsigned long long)last);
		last = revision;
		pgs__sleep_ms(1, 0);
	}
	if (worker.failure[0])
		fprintf(stderr, "follower: %s\n", worker.failure);
	pgs_db_close(db);
	pgs_close(store);
	return worker.failure[0] != '\0';
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "follow") == 0)
		return follow(argv[2], (uint64_t)atoi(argv[3]), strcmp(argv[4], "servers") == 0);
	if (argc == 3 && strcmp(argv[1], "acks") == 0)
		return write_acks(argv[2]);
	pgs_store *store;
	pgs_db *db;
	if (argc != 8 || strcmp(argv[1], "bank") != 0 || open_both(argv[2], &store, &db) != 0)
		return 2;
	bank_worker worker = {.db = db,
			      .number = (uint32_t)atoi(argv[3]),
			      .life = (uint32_t)atoi(argv[4]),
			      .end_ms = pgs__now_ms() + (uint64_t)atoi(argv[5]),
			      .isolation = strcmp(argv[6], "snapshot") == 0 ? PGS_SNAPSHOT : PGS_SERIALIZABLE,
			      .servers = strcmp(argv[7], "servers") == 0,
			      .acks = stdout};
	bank_run(&worker);
	if (worker.failure[0]) {
		fprintf(stderr, "worker %u: %s\n", worker.number, worker.failure);
		return 1;
	}
	pgs_db_close(db);
	pgs_close(store);
	return 0;
}
