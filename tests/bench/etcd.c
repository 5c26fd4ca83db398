/* What a real etcd makes of commits, begins and reads, against the bare requests: see etcd_raw.h. */
#include "etcd_fixture.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore/backends.h>
#include <pagestore/sys/kv.h>

#define WRITERS 16
#define PAGES_MAX 10     /* of a small commit */
#define SCATTERED 100    /* pages read at once */

/* --- commits of 1 to 10 pages ------------------------------------------------------- */

typedef struct commits {
	etcd_db on;
	bench_raw *raw;
	bench_random random;
	uint32_t count;     /* in a round */
	double *times;
	size_t *bytes;      /* put by each of the last round */
	double requests;    /* of ours in the last round, for each */
} commits;

/* Different ones, in the pages that are there. */
static uint32_t choose_pages(bench_random *random, uint32_t total, uint32_t pages[PAGES_MAX])
{
	uint32_t count = 1 + (uint32_t)(bench_random_next(random) % PAGES_MAX);
	uint32_t first = (uint32_t)(bench_random_next(random) % total), step = total / PAGES_MAX;
	for (uint32_t i = 0; i < count; i++)
		pages[i] = (first + i * step) % total;
	return count;
}

/* Median microseconds of pgs_commit(); its requests are counted by the server, less those of beginning. */
static double commit_small(void *ctx)
{
	commits *c = ctx;
	uint32_t pages[PAGES_MAX];
	uint64_t before = bench_requests(c->on.etcd);
	for (uint32_t i = 0; i < c->count; i++) {
		uint32_t count = choose_pages(&c->random, c->on.pages, pages);
		uint64_t bytes = c->on.counted.kv_put_bytes;
		c->times[i] = etcd_db_commit(&c->on, &c->random, pages, count, NULL) * 1e6;
		c->bytes[i] = (size_t)(c->on.counted.kv_put_bytes - bytes);
	}
	c->requests = (double)(bench_requests(c->on.etcd) - before) / c->count;
	return bench_median(c->times, c->count);
}

static double put_raw(void *ctx)
{
	commits *c = ctx;
	for (uint32_t i = 0; i < c->count; i++) {
		uint32_t number = (uint32_t)(bench_random_next(&c->random) % c->on.pages);
		c->times[i] = bench_raw_put(c->raw, number, c->bytes[i]) * 1e6;
	}
	return bench_median(c->times, c->count);
}

static bool start_commits(const bench_env *env, commits *c)
{
	*c = (commits){.random = {1}, .count = env->quick ? 5 : 200};
	if (!etcd_db_open(env, &c->on, env->quick ? 200 : 1000, bench_page))
		return false;
	c->times = bench_alloc(c->count * sizeof *c->times);
	c->bytes = bench_alloc(c->count * sizeof *c->bytes);
	c->raw = bench_raw_open(etcd_endpoint(c->on.etcd, 0));
	etcd_db_warm(&c->on);
	return true;
}

static void end_commits(commits *c)
{
	bench_raw_close(c->raw);
	free(c->times);
	free(c->bytes);
	etcd_db_close(&c->on);
}

static void run_commit_small(const bench_env *env, bench_result *out)
{
	commits c;
	out->skipped = !start_commits(env, &c);
	if (out->skipped)
		return;
	bench_compare(env, commit_small, put_raw, &c, out);
	end_commits(&c);
}

/* A transaction is begun with one request, and committed with the rest; the median of rounds, as now and then a
 * transaction asks how much room there is. */
static void run_commit_requests(const bench_env *env, bench_result *out)
{
	commits c;
	double requests[100];
	out->skipped = !start_commits(env, &c);
	if (out->skipped)
		return;
	for (unsigned i = 0; i < env->rounds; i++) {
		commit_small(&c);
		requests[i] = c.requests;
	}
	out->ours = bench_median(requests, env->rounds) - 1;
	out->baseline = 1;
	end_commits(&c);
}

const bench bench_etcd_commit_small = {"etcd_commit_small", "a put of as many bytes", "us", 1.5, false, run_commit_small};
const bench bench_etcd_commit_requests = {"etcd_commit_requests", "one", "requests", 1, false, run_commit_requests};

/* --- 16 writers ------------------------------------------------------------------------ */

typedef struct writer {
	struct parallel *all;
	uint32_t number;
	pthread_t thread;
} writer;

typedef struct parallel {
	etcd_db on;
	bench_raw *raw[WRITERS];
	uint32_t each;  /* commits of a writer in a round */
	size_t bytes;   /* of a commit, on average */
	unsigned round;
} parallel;

/* Pages of its own: one to four of them change. */
static void *commit_own(void *ctx)
{
	const writer *w = ctx;
	bench_random random = {w->number + 1000 * w->all->round};
	uint32_t share = w->all->on.pages / WRITERS, first = w->number * share, pages[4];
	for (uint32_t i = 0; i < w->all->each; i++) {
		uint32_t count = 1 + i % 4;
		for (uint32_t k = 0; k < count; k++)
			pages[k] = first + (i * 7 + k * 3) % share;
		etcd_db_commit(&w->all->on, &random, pages, count, NULL);
	}
	return NULL;
}

static void *put_own(void *ctx)
{
	const writer *w = ctx;
	for (uint32_t i = 0; i < w->all->each; i++)
		bench_raw_put(w->all->raw[w->number], w->number * 100 + i % 100, w->all->bytes);
	return NULL;
}

/* How many a second all of them get done. */
static double run_writers(parallel *p, void *(*work)(void *))
{
	writer writers[WRITERS];
	double since = bench_seconds();
	p->round++;
	for (uint32_t i = 0; i < WRITERS; i++) {
		writers[i] = (writer){.all = p, .number = i};
		bench_check(pthread_create(&writers[i].thread, NULL, work, &writers[i]) == 0, "pthread_create");
	}
	for (uint32_t i = 0; i < WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
	return (double)p->each * WRITERS / (bench_seconds() - since);
}

static double commit_parallel(void *ctx)
{
	parallel *p = ctx;
	uint64_t before = p->on.counted.kv_put_bytes;
	double rate = run_writers(p, commit_own);
	p->bytes = (size_t)((p->on.counted.kv_put_bytes - before) / (p->each * WRITERS));
	return rate;
}

static double put_parallel(void *ctx)
{
	return run_writers(ctx, put_own);
}

static void run_commit_parallel(const bench_env *env, bench_result *out)
{
	parallel p = {.each = env->quick ? 4 : 100};
	out->skipped = !etcd_db_open(env, &p.on, env->quick ? 320 : 1600, bench_page);
	if (out->skipped)
		return;
	for (size_t i = 0; i < WRITERS; i++)
		p.raw[i] = bench_raw_open(etcd_endpoint(p.on.etcd, 0));
	etcd_db_warm(&p.on);
	bench_compare(env, commit_parallel, put_parallel, &p, out);
	for (size_t i = 0; i < WRITERS; i++)
		bench_raw_close(p.raw[i]);
	etcd_db_close(&p.on);
}

const bench bench_etcd_commit_parallel = {"etcd_commit_parallel", "16 connections that put as many bytes", "commits/s",
					  0.7, true, run_commit_parallel};

/* --- beginning and reading ------------------------------------------------------------------ */

typedef struct reads {
	etcd_db on;
	bench_raw *raw;
	uint32_t count; /* in a round */
	double *times;
	uint32_t *order; /* pages not read since the handle was opened: from `next` on */
	uint32_t next;
	uint64_t done, requests;
} reads;

static bool start_reads(const bench_env *env, reads *r, uint32_t pages, uint32_t count)
{
	*r = (reads){.count = count};
	if (!etcd_db_open(env, &r->on, pages, etcd_db_small_page))
		return false;
	r->times = bench_alloc(count * sizeof *r->times);
	r->order = bench_shuffled(pages, 1);
	r->raw = bench_raw_open(etcd_endpoint(r->on.etcd, 0));
	for (uint32_t i = 0; i < 1024; i++) /* as large as the pointer of a small page */
		bench_raw_put(r->raw, i, 100);
	return true;
}

static void end_reads(reads *r)
{
	bench_raw_close(r->raw);
	free(r->times);
	free(r->order);
	etcd_db_close(&r->on);
}

static double begin_latest(void *ctx)
{
	reads *r = ctx;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t before = bench_requests(r->on.etcd);
	for (uint32_t i = 0; i < r->count; i++) {
		pgs_txn *t;
		double since = bench_seconds();
		bench_must(pgs_begin(&t, r->on.ours.db, NULL, &err), &err, "pgs_begin");
		r->times[i] = (bench_seconds() - since) * 1e6;
		pgs_abort(t);
	}
	r->requests += bench_requests(r->on.etcd) - before;
	r->done += r->count;
	return bench_median(r->times, r->count);
}

static double get_raw(void *ctx)
{
	reads *r = ctx;
	for (uint32_t i = 0; i < r->count; i++)
		r->times[i] = bench_raw_get(r->raw, i % 1024) * 1e6;
	return bench_median(r->times, r->count);
}

static void check_small_page(uint32_t number, const uint8_t *page)
{
	uint8_t expected[4096];
	etcd_db_small_page(number, expected);
	bench_check(memcmp(page, expected, sizeof expected) == 0, "a page reads otherwise");
}

/* Pages that nobody has read yet through this handle. */
static double read_scattered(reads *r, pgs_txn *t)
{
	static uint8_t data[SCATTERED][4096];
	uint64_t pages[SCATTERED];
	void *dst[SCATTERED];
	for (size_t k = 0; k < SCATTERED; k++) {
		pages[k] = r->order[r->next++];
		dst[k] = data[k];
	}
	double since = bench_seconds();
	bench_must(pgs_read_many(t, pages, SCATTERED, dst), pgs_txn_error(t), "pgs_read_many");
	double took = bench_seconds() - since;
	for (size_t k = 0; k < SCATTERED; k++)
		check_small_page((uint32_t)pages[k], data[k]);
	return took;
}

static double read_many(void *ctx)
{
	reads *r = ctx;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	if (r->next + r->count * SCATTERED > r->on.pages) {
		etcd_db_reopen(&r->on);
		r->next = 0;
	}
	bench_must(pgs_begin(&t, r->on.ours.db, NULL, &err), &err, "pgs_begin");
	uint64_t before = bench_requests(r->on.etcd);
	for (uint32_t i = 0; i < r->count; i++)
		r->times[i] = read_scattered(r, t) * 1e6;
	r->requests += bench_requests(r->on.etcd) - before;
	r->done += r->count;
	pgs_abort(t);
	return bench_median(r->times, r->count);
}

static double get_many_raw(void *ctx)
{
	reads *r = ctx;
	uint32_t numbers[SCATTERED];
	for (uint32_t i = 0; i < r->count; i++) {
		for (uint32_t k = 0; k < SCATTERED; k++)
			numbers[k] = (k * 397 + i * 31) % 1024;
		r->times[i] = bench_raw_get_many(r->raw, numbers, SCATTERED) * 1e6;
	}
	return bench_median(r->times, r->count);
}

static void run_reads(const bench_env *env, uint32_t pages, uint32_t count, bench_side ours, bench_side raw,
		      bench_result *out)
{
	reads r;
	out->skipped = !start_reads(env, &r, pages, count);
	if (out->skipped)
		return;
	if (raw) {
		bench_compare(env, ours, raw, &r, out);
	} else {
		for (unsigned i = 0; i < env->rounds; i++)
			ours(&r);
		*out = (bench_result){.ours = (double)r.requests / (double)r.done, .baseline = 1};
	}
	end_reads(&r);
}

static void run_begin(const bench_env *env, bench_result *out)
{
	run_reads(env, 100, env->quick ? 5 : 500, begin_latest, get_raw, out);
}

static void run_begin_requests(const bench_env *env, bench_result *out)
{
	run_reads(env, 100, env->quick ? 5 : 500, begin_latest, NULL, out);
}

static void run_read_many(const bench_env *env, bench_result *out)
{
	run_reads(env, env->quick ? 2000 : 65536, env->quick ? 5 : 60, read_many, get_many_raw, out);
}

static void run_read_many_requests(const bench_env *env, bench_result *out)
{
	run_reads(env, env->quick ? 2000 : 65536, env->quick ? 5 : 60, read_many, NULL, out);
}

const bench bench_etcd_begin = {"etcd_begin", "a range of one key", "us", 1.2, false, run_begin};
const bench bench_etcd_begin_requests = {"etcd_begin_requests", "one", "requests", 1, false, run_begin_requests};
const bench bench_etcd_read_many = {"etcd_read_many", "a transaction of 100 ranges", "us", 1.5, false, run_read_many};
const bench bench_etcd_read_many_requests = {"etcd_read_many_requests", "one", "requests", 2, false,
					     run_read_many_requests};

/* --- doing nothing ------------------------------------------------------------------------------ */

static void run_idle(const bench_env *env, bench_result *out)
{
	etcd_db d;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_watch *watch;
	pgs_kv_events events;
	pgs_kv *kv;
	unsigned seconds = env->quick ? 1 : 30;
	out->skipped = !etcd_db_open(env, &d, 100, bench_page);
	if (out->skipped)
		return;
	bench_must(pgs_kv_etcd_open(&kv, etcd_endpoints(d.etcd), "bench", NULL, &err), &err, "pgs_kv_etcd_open");
	const pgs_slice from = {"", 1}, to = {"\xff", 1};
	bench_must(kv->vtable->watch_open(kv, from, to, 0, &watch, &err), &err, "watch_open");
	bench_must(kv->vtable->watch_next(watch, 1000, &events, &err), &err, "watch_next");
	uint64_t before = bench_requests(d.etcd);
	for (unsigned i = 0; i < seconds; i++)
		bench_must(kv->vtable->watch_next(watch, 1000, &events, &err), &err, "watch_next");
	out->ours = (double)(bench_requests(d.etcd) - before) * 3600 / seconds;
	out->baseline = 1;
	kv->vtable->watch_close(watch);
	kv->vtable->close(kv);
	etcd_db_close(&d);
}

const bench bench_etcd_idle = {"etcd_idle", "one", "requests/h", 0, false, run_idle};
