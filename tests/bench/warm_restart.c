/* A process that reads random pages of a large database in etcd and S3, with a cache file: the first one of its machine
 * against one after it, which finds there what that one has read.
 *
 * The database is as maintenance leaves it: pointers are in the KV, contents in sorted files. Between the two a follower
 * has brought the cache's mirror up (`pagestore follow` does that), and the second one follows, too: its pointers come from
 * the mirror. Each begins with opening the store, and reads pages one by one. */
#include <pagestore/follow.h>
#include <pagestore/operations.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fixtures.h"
#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"

#define MIB ((uint64_t)1 << 20)
#define PAGE_SIZE 4096
#define READS 1000
#define COMMIT_PAGES 16384 /* 64 MiB */

typedef struct restart {
	etcd_server *etcd;
	s3_server *s3;
	char url[SERVER_URL_SIZE], cached_url[SERVER_URL_SIZE], cache[BENCH_PATH_MAX];
	uint32_t pages, reads;
	uint32_t *order;
	uint64_t gets;  /* of blobs, of the last run, but for what opening a store always asks */
	uint64_t warm_gets;
} restart;

/* --- the database ----------------------------------------------------------------------------- */

static void write_pages(pgs_db *db, uint32_t first, uint32_t end)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[PAGE_SIZE];
	pgs_txn *t;
	options.write = true;
	bench_must(pgs_begin(&t, db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = first; i < end; i++) {
		bench_page(i, page);
		bench_must(pgs_write(t, i, page), pgs_txn_error(t), "pgs_write");
	}
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
}

static void fill(restart *r)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store = server_store_open(r->url, 600000);
	pgs_db *db;
	bench_must(pgs_db_create(&db, store, "bench", 5, NULL, &err), &err, "pgs_db_create");
	for (uint32_t i = 0; i < r->pages; i += COMMIT_PAGES)
		write_pages(db, i, i + COMMIT_PAGES < r->pages ? i + COMMIT_PAGES : r->pages);
	bench_must(pgs_maintain(db, NULL, NULL, &err), &err, "pgs_maintain");
	pgs_db_close(db);
	pgs_close(store);
}

/* --- a process ---------------------------------------------------------------------------------- */

static void add_gets(void *ctx, const pgs_operation_stat *stat)
{
	if (!strcmp(stat->backend, "s3") && !strcmp(stat->operation, "get"))
		((restart *)ctx)->gets += stat->requests;
}

static uint64_t gets_of(restart *r, pgs_store *store)
{
	pgs_error err = PGS_ERROR_INIT;
	r->gets = 0;
	bench_must(pgs_store_operations(store, add_gets, r, &err), &err, "pgs_store_operations");
	return r->gets;
}

static void read_pages(restart *r, pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[PAGE_SIZE], expected[PAGE_SIZE];
	pgs_txn *t;
	bench_must(pgs_begin(&t, db, NULL, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < r->reads; i++) {
		bench_must(pgs_read(t, r->order[i], page), pgs_txn_error(t), "pgs_read");
		bench_page(r->order[i], expected);
		bench_check(memcmp(page, expected, PAGE_SIZE) == 0, "a page");
	}
	pgs_abort(t);
}

/* Returns the milliseconds. */
static double process(restart *r, bool follows)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	double since = bench_seconds();
	pgs_store *store = server_store_open(r->cached_url, 60000);
	uint64_t opening = gets_of(r, store);
	bench_must(pgs_db_open(&db, store, "bench", 5, NULL, &err), &err, "pgs_db_open");
	if (follows)
		bench_must(pgs_follow_step(db, 0, &err), &err, "pgs_follow_step");
	read_pages(r, db);
	double took = (bench_seconds() - since) * 1e3;
	r->gets = gets_of(r, store) - opening;
	pgs_db_close(db);
	pgs_close(store);
	return took;
}

static void forget_cache(const restart *r)
{
	char path[BENCH_PATH_MAX + 16];
	static const char *const parts[] = {"", "-lock", "-state"};
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		snprintf(path, sizeof path, "%s%s", r->cache, parts[i]);
		unlink(path);
	}
}

/* Until the mirror has everything. */
static void follow(restart *r)
{
	pgs_cache_stat stat = PGS_CACHE_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store = server_store_open(r->cached_url, 600000);
	pgs_db *db;
	bench_must(pgs_db_open(&db, store, "bench", 5, NULL, &err), &err, "pgs_db_open");
	for (int i = 0; i < 100000 && !stat.mirror_revision; i++) {
		bench_must(pgs_follow_step(db, 0, &err), &err, "pgs_follow_step");
		bench_must(pgs_cache_stat_get(db, &stat, &err), &err, "pgs_cache_stat_get");
	}
	bench_check(stat.mirror_revision > 0, "the mirror is not loaded");
	pgs_db_close(db);
	pgs_close(store);
}

static double cold(void *ctx)
{
	restart *r = ctx;
	forget_cache(r);
	double took = process(r, false);
	bench_check(r->gets > 0, "the first run was not cold");
	follow(r);
	return took;
}

/* After the other side's round; before the first there is none. */
static double warm(void *ctx)
{
	restart *r = ctx;
	if (access(r->cache, F_OK) != 0)
		cold(r);
	double took = process(r, true);
	r->warm_gets += r->gets;
	return took;
}

/* --- the benchmark -------------------------------------------------------------------------------- */

static bool start(restart *r, const bench_env *env)
{
	char more[BENCH_PATH_MAX + 64];
	if (!etcd_available() || !s3_available())
		return false;
	setenv("TMPDIR", env->dir, 1); /* where the servers' files go */
	r->etcd = etcd_start(&(etcd_setup){.members = 1});
	r->s3 = s3_start(false);
	bench_check(r->etcd && r->s3, "starting the servers");
	bench_path(env, "restart-cache", r->cache);
	snprintf(more, sizeof more, "&cache=%s&cache_size=%llu", r->cache, (unsigned long long)(512 * MIB));
	server_store_url(r->url, etcd_endpoints(r->etcd), "bench", s3_endpoint(r->s3), "");
	server_store_url(r->cached_url, etcd_endpoints(r->etcd), "bench", s3_endpoint(r->s3), more);
	return true;
}

static void run(const bench_env *env, bench_result *out)
{
	restart *r = bench_alloc(sizeof *r);
	*r = (restart){.pages = (uint32_t)((env->quick ? 16 : 1024) * MIB / PAGE_SIZE), .reads = env->quick ? 50 : READS};
	out->skipped = !start(r, env);
	if (!out->skipped) {
		r->order = bench_shuffled(r->pages, 5);
		fill(r);
		bench_compare(env, warm, cold, r, out);
		if (r->warm_gets)
			fprintf(stderr, "cache_warm_restart: %llu blob requests after a restart\n",
				(unsigned long long)r->warm_gets);
		bench_check(r->warm_gets == 0, "blobs were asked for after a restart");
		free(r->order);
		s3_stop(r->s3);
		etcd_stop(r->etcd);
	}
	free(r);
}

const bench bench_cache_warm_restart = {"cache_warm_restart", "the first run, cold", "ms", 0.05, false, run};
