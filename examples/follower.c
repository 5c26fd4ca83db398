/* follower: read what others commit, mostly without asking the store.
 *
 *     follower 'etcd://db1:2379/shop?blob=s3://pages/shop' /var/cache/shop/pages
 *
 * One handle stands for a process elsewhere, which writes. The other keeps what it knows in a file of this machine's,
 * follows, and begins its transactions on what it has: then each read is of memory, or of that file. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <pagestore.h>

enum { PAGES = 100, ROUNDS = 5 };

static pgs_error err = PGS_ERROR_INIT;

static void must(int result)
{
	if (result == PGS_OK)
		return;
	fprintf(stderr, "%s: %s\n", pgs_error_name(result), err.message);
	exit(1);
}

static void log_line(void *ctx, int level, const char *message)
{
	(void)ctx;
	if (level <= PGS_LOG_WARN) /* a cache that cannot be used is no error, but is told here */
		fprintf(stderr, "%s\n", message);
}

/* Every page gets the number; returns the commit's revision. */
static uint64_t write_all(pgs_db *db, unsigned number)
{
	char page[PGS_PAGE_SIZE_DEFAULT];
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	uint64_t revision;
	pgs_txn *txn;
	o.write = true;
	must(pgs_begin(&txn, db, &o, &err));
	for (uint64_t i = 0; i < PAGES; i++) {
		for (size_t at = 0; at < sizeof page; at++)
			page[at] = (char)rand();
		snprintf(page, sizeof page, "page %" PRIu64 " of round %u", i, number);
		must(pgs_write(txn, i, page));
	}
	must(pgs_commit(txn, NULL, &revision, &err));
	return revision;
}

/* Read all pages of what this machine has; returns which revision that was, and what it cost. */
static uint64_t read_all(pgs_db *db, pgs_cost *cost)
{
	char page[PGS_PAGE_SIZE_DEFAULT];
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	o.freshness = PGS_LOCAL; /* PGS_BOUNDED with o.bound_ms = 100: at most a tenth of a second old, or it asks */
	o.cost = cost;
	must(pgs_begin(&txn, db, &o, &err));
	uint64_t revision = pgs_txn_revision(txn);
	for (uint64_t i = 0; i < PAGES; i++)
		must(pgs_read(txn, i, page));
	pgs_abort(txn);
	return revision;
}

static void show(uint64_t revision, const pgs_cost *cost)
{
	printf("revision %" PRIu64 " is here: read for %" PRIu64 " KV requests, %" PRIu64 " blob reads, %" PRIu64
	       " pages of the cache file\n",
		revision, cost->kv_requests, cost->blob_gets, cost->disk_cache_hits);
}

/* The machine's own handle. */
static pgs_store *open_here(pgs_db **db, const char *url, const char *cache)
{
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	pgs_store *store;
	o.cache_path = cache; /* or &cache=PATH&cache_size=64M in the URL */
	o.cache_size_bytes = 64 << 20;
	o.logger = log_line;
	must(pgs_open(&store, url, &o, &err));
	must(pgs_db_open(db, store, "news", 4, NULL, &err));
	must(pgs_follow_start(*db, NULL, &err));
	return store;
}

int main(int argc, char **argv)
{
	pgs_cost cost = PGS_COST_INIT;
	pgs_store *there, *here;
	pgs_db *writer, *reader;
	if (argc != 3) {
		fprintf(stderr, "usage: follower URL CACHE_FILE\n");
		return 2;
	}
	must(pgs_open(&there, argv[1], NULL, &err));
	int result = pgs_db_create(&writer, there, "news", 4, NULL, &err);
	must(result == PGS_EEXIST ? pgs_db_open(&writer, there, "news", 4, NULL, &err) : result);
	here = open_here(&reader, argv[1], argv[2]);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t written = write_all(writer, i), seen = 0;
		while (seen < written) {
			nanosleep(&(struct timespec){0, 10000000}, NULL); /* a moment, for the follower */
			cost = (pgs_cost)PGS_COST_INIT;
			seen = read_all(reader, &cost);
		}
		show(seen, &cost);
	}
	pgs_db_close(reader); /* ends the follower, too */
	pgs_close(here);
	here = open_here(&reader, argv[1], argv[2]);
	cost = (pgs_cost)PGS_COST_INIT;
	printf("opened again: ");
	show(read_all(reader, &cost), &cost);
	pgs_db_close(reader);
	pgs_close(here);
	pgs_db_close(writer);
	pgs_close(there);
	return 0;
}
