/* Small commits: durable on a local directory against LMDB, in memory against the arithmetic alone. */
#include "fixtures.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define CHANGED 50 /* bytes of a page */
#define COMMITS_MAX 20000

typedef struct commits {
	uint32_t pages;      /* in the database */
	uint32_t per_commit; /* pages changed */
	uint32_t per_round;  /* commits */
	bench_db ours;
	bench_lmdb lmdb;
	bench_random random, lmdb_random;
	double *times;       /* of a round */
	/* the last thing written, to be found again */
	uint64_t last_page;
	uint8_t last[4096];
	uint8_t *pages_at_hand; /* for the arithmetic */
	ZSTD_CCtx *compressor;
	uint64_t sum;
} commits;

static void set_up(commits *c, const char *url, uint32_t pages, uint32_t per_commit, uint32_t per_round)
{
	*c = (commits){.pages = pages, .per_commit = per_commit, .per_round = per_round, .random = {1}, .lmdb_random = {1}};
	c->times = bench_alloc(per_round * sizeof *c->times);
	/* Room for every page, and for the base of every page that is a delta. */
	bench_db_create(&c->ours, url, 4096, (uint64_t)pages * 5 / 2 * 4096);
	bench_db_fill(&c->ours, pages);
	/* as a running engine has it: cached */
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	bench_must(pgs_begin(&t, c->ours.db, NULL, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < pages; i++)
		bench_must(pgs_read(t, i, c->last), pgs_txn_error(t), "pgs_read");
	pgs_abort(t);
}

static void tear_down(commits *c)
{
	bench_db_close(&c->ours);
	free(c->times);
}

/* --- ours ------------------------------------------------------------------------- */

static void change_page(commits *c, pgs_txn *t)
{
	uint64_t page_no = bench_random_next(&c->random) % c->pages;
	size_t at = bench_random_next(&c->random) % (4096 - CHANGED);
	bench_must(pgs_read(t, page_no, c->last), pgs_txn_error(t), "pgs_read");
	for (size_t i = 0; i < CHANGED; i++)
		c->last[at + i] = (uint8_t)bench_random_next(&c->random);
	bench_must(pgs_write(t, page_no, c->last), pgs_txn_error(t), "pgs_write");
	c->last_page = page_no;
}

static void commit_once(commits *c)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	options.write = true;
	bench_must(pgs_begin(&t, c->ours.db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < c->per_commit; i++)
		change_page(c, t);
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
}

/* What was written last is there, also for a store opened afresh. */
static void verify(pgs_db *db, const commits *c)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	uint8_t page[4096];
	bench_must(pgs_begin(&t, db, NULL, &err), &err, "pgs_begin");
	bench_must(pgs_read(t, c->last_page, page), pgs_txn_error(t), "pgs_read");
	bench_check(memcmp(page, c->last, sizeof page) == 0, "a committed page reads otherwise");
	pgs_abort(t);
}

/* Median microseconds of the round's commits. */
static double commit_ours(void *ctx)
{
	commits *c = ctx;
	for (uint32_t i = 0; i < c->per_round; i++) {
		double since = bench_seconds();
		commit_once(c);
		c->times[i] = (bench_seconds() - since) * 1e6;
	}
	verify(c->ours.db, c);
	return bench_median(c->times, c->per_round);
}

/* --- LMDB ----------------------------------------------------------------------------- */

static void lmdb_commit_once(commits *c)
{
	MDB_txn *txn;
	uint8_t value[100];
	int rc = mdb_txn_begin(c->lmdb.env, NULL, 0, &txn);
	for (uint32_t i = 0; i < c->per_commit && rc == 0; i++) {
		uint64_t key = bench_random_next(&c->lmdb_random) % c->pages;
		for (size_t k = 0; k < sizeof value; k++)
			value[k] = (uint8_t)bench_random_next(&c->lmdb_random);
		MDB_val k = {sizeof key, &key}, v = {sizeof value, value};
		rc = mdb_put(txn, c->lmdb.dbi, &k, &v, 0);
	}
	rc = rc ? rc : mdb_txn_commit(txn);
	if (rc)
		bench_die("LMDB: %s", mdb_strerror(rc));
}

static double commit_lmdb(void *ctx)
{
	commits *c = ctx;
	for (uint32_t i = 0; i < c->per_round; i++) {
		double since = bench_seconds();
		lmdb_commit_once(c);
		c->times[i] = (bench_seconds() - since) * 1e6;
	}
	return bench_median(c->times, c->per_round);
}

static void run_local(const bench_env *env, uint32_t per_commit, uint32_t per_round, bench_result *out)
{
	char path[BENCH_PATH_MAX], url[BENCH_PATH_MAX];
	pgs_error err = PGS_ERROR_INIT;
	commits c;
	set_up(&c, bench_url(env, "commits", url), env->quick ? 2048 : 65536, per_commit, per_round);
	bench_lmdb_create(&c.lmdb, bench_path(env, "commits-lmdb", path), c.pages, 100);
	bench_compare(env, commit_ours, commit_lmdb, &c, out);
	bench_lmdb_close(&c.lmdb);
	bench_db_close(&c.ours);
	bench_must(pgs_open(&c.ours.store, url, NULL, &err), &err, url);
	bench_must(pgs_db_open(&c.ours.db, c.ours.store, "bench", 5, NULL, &err), &err, "pgs_db_open");
	verify(c.ours.db, &c);
	tear_down(&c);
	bench_remove_tree(path);
	bench_remove_tree(bench_path(env, "commits", path));
}

static void run_small_local(const bench_env *env, bench_result *out)
{
	run_local(env, 1, env->quick ? 5 : 100, out);
}

static void run_100_local(const bench_env *env, bench_result *out)
{
	run_local(env, 100, env->quick ? 3 : 30, out);
}

const bench bench_commit_small_local = {"commit_small_local", "LMDB put 100 B + commit", "us", 1.5, false,
					run_small_local};
const bench bench_commit_100_local = {"commit_100_local", "LMDB put 100 x 100 B + commit", "us", 1.5, false,
				      run_100_local};

/* --- memory ---------------------------------------------------------------------------- */

/* What cannot be saved: XOR with the base (of as many pages as ours has, so no likelier in the processor's cache), zstd,
 * the new page's hash. */
static double arithmetic(void *ctx)
{
	commits *c = ctx;
	uint64_t page[512], delta[512];
	uint8_t frame[8192], secret[192];
	for (size_t i = 0; i < sizeof secret; i++)
		secret[i] = (uint8_t)bench_random_next(&c->lmdb_random);
	for (uint32_t i = 0; i < c->per_round; i++) {
		uint32_t number = (uint32_t)(bench_random_next(&c->lmdb_random) % c->pages);
		bench_page(number, (uint8_t *)page);
		size_t at = bench_random_next(&c->lmdb_random) % (4096 - CHANGED);
		for (size_t k = 0; k < CHANGED; k++)
			((uint8_t *)page)[at + k] = (uint8_t)bench_random_next(&c->lmdb_random);
		const uint64_t *base = (const uint64_t *)(c->pages_at_hand + (size_t)number * 4096);
		double since = bench_seconds();
		for (size_t k = 0; k < 512; k++)
			delta[k] = page[k] ^ base[k];
		size_t size = ZSTD_compress2(c->compressor, frame, sizeof frame, delta, sizeof delta);
		XXH128_hash_t hash = XXH3_128bits_withSecret(page, sizeof page, secret, sizeof secret);
		c->times[i] = (bench_seconds() - since) * 1e6;
		bench_check(!ZSTD_isError(size) && size < 200, "zstd");
		c->sum += hash.low64 + size;
	}
	return bench_median(c->times, c->per_round);
}

static void run_small_memory(const bench_env *env, bench_result *out)
{
	commits c;
	set_up(&c, "mem:", env->quick ? 2048 : 65536, 1, env->quick ? 100 : 5000);
	c.pages_at_hand = bench_alloc((size_t)c.pages * 4096);
	for (uint32_t i = 0; i < c.pages; i++)
		bench_page(i, c.pages_at_hand + (size_t)i * 4096);
	c.compressor = ZSTD_createCCtx();
	bench_check(c.compressor != NULL, "out of memory");
	ZSTD_CCtx_setParameter(c.compressor, ZSTD_c_compressionLevel, 1);
	ZSTD_CCtx_setParameter(c.compressor, ZSTD_c_contentSizeFlag, 0);
	bench_compare(env, commit_ours, arithmetic, &c, out);
	ZSTD_freeCCtx(c.compressor);
	free(c.pages_at_hand);
	tear_down(&c);
}

const bench bench_commit_small_memory = {"commit_small_memory", "XOR + zstd + XXH3 of the page", "us", 4.0, false,
					 run_small_memory};
