/* What a large page table costs: commits, and other clients of the cluster, with 10^6 pages and with 10^3. */
#include "etcd_fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SMALL 1000
#define LARGE 1000000
#define QUICK 3000
#define PER_COMMIT 5

typedef struct table {
	etcd_db on;
	bench_raw *raw;
	bench_random random;
	uint32_t hot; /* the pages that change */
	uint32_t count;
	double *times;
	atomic_bool stop;
} table;

typedef struct tables {
	table large, small;
} tables;

/* The changed pages are as many in both, and cached: they are spread over the table. */
static double commit_one(table *t)
{
	uint32_t pages[PER_COMMIT], step = t->on.pages / t->hot;
	uint32_t first = (uint32_t)(bench_random_next(&t->random) % t->hot);
	for (uint32_t i = 0; i < PER_COMMIT; i++)
		pages[i] = (first + i * (t->hot / PER_COMMIT)) % t->hot * step;
	return etcd_db_commit(&t->on, &t->random, pages, PER_COMMIT, NULL);
}

/* Median microseconds. */
static double commit_round(table *t)
{
	for (uint32_t i = 0; i < t->count; i++)
		t->times[i] = commit_one(t) * 1e6;
	return bench_median(t->times, t->count);
}

static void *commit_on(void *ctx)
{
	table *t = ctx;
	while (!t->stop)
		commit_one(t);
	return NULL;
}

/* The 99th percentile of another client's puts while commits go on, in microseconds. */
static double put_round(table *t)
{
	pthread_t committer;
	uint32_t count = t->count * 5;
	double *times = bench_alloc(count * sizeof *times);
	t->stop = false;
	bench_check(pthread_create(&committer, NULL, commit_on, t) == 0, "pthread_create");
	for (uint32_t i = 0; i < count; i++)
		times[i] = bench_raw_put(t->raw, i % 1000, 200) * 1e6;
	t->stop = true;
	pthread_join(committer, NULL);
	bench_median(times, count); /* sorts them */
	double p99 = times[count * 99 / 100];
	free(times);
	return p99;
}

static bool start(const bench_env *env, table *t, uint32_t pages)
{
	uint32_t count = env->quick ? 10 : 200;
	*t = (table){.random = {1}, .hot = env->quick ? 100 : 500, .count = count};
	if (!etcd_db_open(env, &t->on, pages, etcd_db_small_page))
		return false;
	t->times = bench_alloc(count * sizeof *t->times);
	t->raw = bench_raw_open(etcd_endpoint(t->on.etcd, 0));
	for (uint32_t i = 0; i < t->hot / PER_COMMIT * 4; i++)
		commit_one(t); /* most of them are cached then */
	return true;
}

static void end(table *t)
{
	bench_raw_close(t->raw);
	free(t->times);
	etcd_db_close(&t->on);
}

static double commit_large(void *ctx)
{
	return commit_round(&((tables *)ctx)->large);
}

static double commit_small(void *ctx)
{
	return commit_round(&((tables *)ctx)->small);
}

static double put_large(void *ctx)
{
	return put_round(&((tables *)ctx)->large);
}

static double put_small(void *ctx)
{
	return put_round(&((tables *)ctx)->small);
}

static void run(const bench_env *env, bench_side large, bench_side small, bench_result *out)
{
	tables *t = bench_alloc(sizeof *t);
	out->skipped = !start(env, &t->small, SMALL);
	if (!out->skipped) {
		start(env, &t->large, env->quick ? QUICK : LARGE);
		bench_compare(env, large, small, t, out);
		end(&t->large);
		end(&t->small);
	}
	free(t);
}

static void run_commit(const bench_env *env, bench_result *out)
{
	run(env, commit_large, commit_small, out);
}

static void run_put(const bench_env *env, bench_result *out)
{
	run(env, put_large, put_small, out);
}

const bench bench_etcd_big_table_commit = {"etcd_big_table_commit", "the same with 10^3 pages, not 10^6", "us", 1.2, false,
					   run_commit};
const bench bench_etcd_big_table_put = {"etcd_big_table_put", "the same with 10^3 pages, not 10^6", "us p99", 1.2, false,
					run_put};
