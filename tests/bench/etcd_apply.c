/* Catching up with many small commits, against etcd's replay of them to a client that does not look at it.
 *
 * The commits are made once, by many writers. Every round has a follower of its own, a store of its own in this process,
 * which began before them, knows all pages, and was away since. With a cache file each applies them to a mirror, too. */
#include <stdatomic.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include <pagestore/backends.h>
#include <pagestore/follow.h>

#include "etcd_raw.h"
#include "follow/follower.h"
#include "local_cache/mirror.h"

#define COMMITS 100000
#define QUICK 200
#define WRITERS 16
#define PAGES_EACH 64 /* of a writer */
#define PAGES (WRITERS * PAGES_EACH)
#define PAGE_SIZE 4096
#define CATCH_UP_MS 600000

typedef struct opened {
	pgs_store *store;
	pgs_db *db;
} opened;

typedef struct history {
	const bench_env *env;
	bool cached;
	etcd_server *etcd;
	pgs_blob *blob;
	bench_raw *raw;
	opened writer, *followers;
	unsigned count, next;        /* followers */
	uint32_t commits;
	_Atomic uint32_t made;
	uint64_t from, through;      /* revisions of them */
	uint32_t last[PAGES];        /* what each page holds afterwards */
} history;

static opened open_one(const history *h, const char *cache_path, bool create)
{
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_blob *blob;
	opened o;
	options.cache_path = cache_path;
	bench_must(pgs_kv_etcd_open(&kv, etcd_endpoints(h->etcd), "bench", NULL, &err), &err, "pgs_kv_etcd_open");
	bench_must(pgs_blob_memory_share(&blob, h->blob, &err), &err, "pgs_blob_memory_share");
	bench_must(pgs_open_with(&o.store, kv, blob, &options, &err), &err, "pgs_open_with");
	int result = create ? pgs_db_create(&o.db, o.store, "bench", 5, NULL, &err)
			    : pgs_db_open(&o.db, o.store, "bench", 5, NULL, &err);
	bench_must(result, &err, "opening the database");
	return o;
}

static void close_one(const opened *o)
{
	pgs_db_close(o->db);
	pgs_close(o->store);
}

/* --- the commits ------------------------------------------------------------------------- */

/* Beginning on what is known costs no request: there are no reads to conflict. */
static uint64_t commit_page(history *h, uint32_t page_no, uint32_t number)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[PAGE_SIZE] = {0};
	uint64_t revision;
	pgs_txn *t;
	options.write = true;
	options.freshness = PGS_LOCAL;
	memcpy(page, &number, sizeof number);
	bench_must(pgs_begin(&t, h->writer.db, &options, &err), &err, "pgs_begin");
	bench_must(pgs_write(t, page_no, page), pgs_txn_error(t), "pgs_write");
	bench_must(pgs_commit(t, NULL, &revision, &err), &err, "pgs_commit");
	h->last[page_no] = number;
	return revision;
}

typedef struct writer {
	history *history;
	uint32_t first; /* of its pages */
	pthread_t thread;
} writer;

static void *write_some(void *ctx)
{
	const writer *w = ctx;
	history *h = w->history;
	for (uint32_t number; (number = ++h->made) < h->commits;)
		commit_page(h, w->first + number % PAGES_EACH, number);
	return NULL;
}

static void make_commits(history *h)
{
	writer writers[WRITERS];
	double since = bench_seconds();
	for (uint32_t i = 0; i < WRITERS; i++) {
		writers[i] = (writer){.history = h, .first = i * PAGES_EACH};
		bench_check(pthread_create(&writers[i].thread, NULL, write_some, &writers[i]) == 0, "pthread_create");
	}
	for (uint32_t i = 0; i < WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
	h->through = commit_page(h, 0, h->commits);
	printf("# made %u commits in %.0f s\n", h->commits, bench_seconds() - since);
}

/* --- followers ----------------------------------------------------------------------------- */

static void check_pages(const history *h, pgs_db *db)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[PAGE_SIZE];
	pgs_txn *t;
	options.freshness = PGS_LOCAL;
	bench_must(pgs_begin(&t, db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < PAGES; i++) {
		bench_must(pgs_read(t, i, page), pgs_txn_error(t), "pgs_read");
		bench_check(memcmp(page, &h->last[i], sizeof h->last[i]) == 0, "a page is not what was committed");
	}
	pgs_abort(t);
}

static opened begin_to_follow(const history *h, unsigned number)
{
	char name[32], path[BENCH_PATH_MAX];
	pgs_error err = PGS_ERROR_INIT;
	snprintf(name, sizeof name, "apply-cache-%u", number);
	opened o = open_one(h, h->cached ? bench_path(h->env, name, path) : NULL, false);
	bench_must(pgs_follow_step(o.db, 0, &err), &err, "pgs_follow_step");
	pgs__follow_close_watch(o.db->follower);
	check_pages(h, o.db);
	return o;
}

/* Commits a second. */
static double apply(void *ctx)
{
	history *h = ctx;
	opened o = h->followers[h->next++];
	pgs_error err = PGS_ERROR_INIT;
	pgs_follow_stat stat = PGS_FOLLOW_STAT_INIT;
	bench_memory memory;
	bool first = h->next == 1;
	if (first)
		bench_memory_start(&memory);
	double since = bench_seconds();
	bench_must(pgs_follow_step(o.db, CATCH_UP_MS, &err), &err, "pgs_follow_step");
	double took = bench_seconds() - since;
	if (first)
		printf("# %.1f MiB more memory while catching up\n", bench_memory_end(&memory));
	pgs_follow_stat_get(o.db, &stat, NULL);
	bench_check(stat.commits == h->commits && stat.restarts == 0, "commits are missing");
	if (h->cached)
		bench_check(pgs__mirror_sequence(o.db->contents.disk) >= h->through, "the mirror is behind");
	check_pages(h, o.db);
	close_one(&o);
	return h->commits / took;
}

static double replay(void *ctx)
{
	const history *h = ctx;
	return h->commits / bench_raw_replay(h->raw, h->from + 1, h->through);
}

/* --- both ----------------------------------------------------------------------------------- */

static void set_up(const bench_env *env, history *h)
{
	pgs_error err = PGS_ERROR_INIT;
	setenv("TMPDIR", env->dir, 1); /* where the server's files go */
	h->etcd = etcd_start(&(etcd_setup){.members = 1});
	bench_check(h->etcd != NULL, "etcd does not start");
	h->raw = bench_raw_open(etcd_endpoint(h->etcd, 0));
	bench_must(pgs_blob_memory_new(&h->blob, &err), &err, "pgs_blob_memory_new");
	h->writer = open_one(h, NULL, true);
	for (uint32_t i = 0; i < PAGES; i++)
		h->from = commit_page(h, i, UINT32_MAX - i); /* no number of a commit: what changes nothing is none */
	h->followers = bench_alloc(h->count * sizeof *h->followers);
	for (unsigned i = 0; i < h->count; i++)
		h->followers[i] = begin_to_follow(h, i);
	make_commits(h);
}

static void run(const bench_env *env, bool cached, bench_result *out)
{
	history h = {.env = env, .cached = cached, .count = env->rounds + 1, .commits = env->quick ? QUICK : COMMITS};
	out->skipped = !etcd_available();
	if (out->skipped)
		return;
	set_up(env, &h);
	bench_compare(env, apply, replay, &h, out);
	close_one(&h.writer);
	h.blob->vtable->close(h.blob);
	free(h.followers);
	bench_raw_close(h.raw);
	etcd_stop(h.etcd);
}

static void run_apply(const bench_env *env, bench_result *out)
{
	run(env, false, out);
}

static void run_apply_cached(const bench_env *env, bench_result *out)
{
	run(env, true, out);
}

const bench bench_follow_apply = {"follow_apply", "etcd's replay, not looked at", "commits/s", 0.5, true, run_apply};
const bench bench_follow_apply_cached = {"follow_apply_cached", "etcd's replay, not looked at", "commits/s", 0.5, true,
					 run_apply_cached};
