/* How far a follower is behind, against etcd's watch alone. Both stores are in one process, with handles of their own. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pagestore/backends.h>
#include <pagestore/follow.h>
#include <pagestore/sys/kv.h>

#include "etcd_raw.h"

#define PAGES 100

typedef struct followed {
	etcd_server *etcd;
	pgs_blob *blob;
	pgs_store *stores[2];
	pgs_db *writer, *reader;
	pgs_kv *raw;       /* for the baseline's puts and watches */
	uint32_t count;    /* commits, or puts, of a round */
	uint64_t number;   /* of the last one */
	double *times;
	_Atomic double sent; /* when the one under way was */
} followed;

static pgs_kv *open_kv(const followed *f, const char *root)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	bench_must(pgs_kv_etcd_open(&kv, etcd_endpoints(f->etcd), root, NULL, &err), &err, "pgs_kv_etcd_open");
	return kv;
}

static pgs_db *open_db(followed *f, size_t which)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_blob *blob;
	pgs_db *db;
	bench_must(pgs_blob_memory_share(&blob, f->blob, &err), &err, "pgs_blob_memory_share");
	bench_must(pgs_open_with(&f->stores[which], open_kv(f, "bench"), blob, NULL, &err), &err, "pgs_open_with");
	int result = which == 0 ? pgs_db_create(&db, f->stores[0], "bench", 5, NULL, &err)
				: pgs_db_open(&db, f->stores[1], "bench", 5, NULL, &err);
	bench_must(result, &err, "opening the database");
	return db;
}

/* A commit of one page, which says its number. */
static void commit_number(followed *f, uint64_t number)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[4096] = {0};
	pgs_txn *t;
	options.write = true;
	memcpy(page, &number, sizeof number);
	bench_must(pgs_begin(&t, f->writer, &options, &err), &err, "pgs_begin");
	bench_must(pgs_write(t, number % PAGES, page), pgs_txn_error(t), "pgs_write");
	f->sent = bench_seconds();
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
}

static bool set_up(const bench_env *env, followed *f, uint32_t count)
{
	pgs_error err = PGS_ERROR_INIT;
	*f = (followed){.count = env->quick ? 20 : count};
	if (!etcd_available())
		return false;
	setenv("TMPDIR", env->dir, 1); /* where the server's files go */
	f->etcd = etcd_start(&(etcd_setup){.synced = true});
	bench_check(f->etcd != NULL, "etcd does not start");
	bench_must(pgs_blob_memory_new(&f->blob, &err), &err, "pgs_blob_memory_new");
	f->writer = open_db(f, 0);
	f->reader = open_db(f, 1);
	f->raw = open_kv(f, "raw");
	f->times = bench_alloc(f->count * sizeof *f->times);
	for (f->number = 1; f->number <= PAGES; f->number++)
		commit_number(f, f->number);
	bench_must(pgs_follow_step(f->reader, 0, &err), &err, "pgs_follow_step");
	return true;
}

static void tear_down(followed *f)
{
	free(f->times);
	f->raw->vtable->close(f->raw);
	pgs_db_close(f->reader);
	pgs_db_close(f->writer);
	pgs_close(f->stores[1]);
	pgs_close(f->stores[0]);
	f->blob->vtable->close(f->blob);
	etcd_stop(f->etcd);
}

/* --- from a commit to its being readable ---------------------------------------------------- */

static int compare_times(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double p99(followed *f)
{
	qsort(f->times, f->count, sizeof *f->times, compare_times);
	return f->times[f->count * 99 / 100] * 1e6;
}

static uint64_t read_local(followed *f, uint64_t page_no)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[4096];
	uint64_t number;
	pgs_txn *t;
	options.freshness = PGS_LOCAL;
	bench_must(pgs_begin(&t, f->reader, &options, &err), &err, "pgs_begin");
	bench_must(pgs_read(t, page_no, page), pgs_txn_error(t), "pgs_read");
	memcpy(&number, page, sizeof number);
	pgs_abort(t);
	return number;
}

static void *commit_one(void *ctx)
{
	followed *f = ctx;
	commit_number(f, f->number);
	return NULL;
}

/* The 99th percentile of the microseconds from sending a commit to reading its page. */
static double lag_ours(void *ctx)
{
	followed *f = ctx;
	pgs_error err = PGS_ERROR_INIT;
	bench_must(pgs_follow_start(f->reader, NULL, &err), &err, "pgs_follow_start");
	for (uint32_t i = 0; i < f->count; i++) {
		pthread_t thread;
		f->number++;
		bench_check(pthread_create(&thread, NULL, commit_one, f) == 0, "pthread_create");
		while (read_local(f, f->number % PAGES) != f->number)
			usleep(20);
		f->times[i] = bench_seconds() - f->sent;
		pthread_join(thread, NULL);
	}
	pgs_follow_stop(f->reader);
	return p99(f);
}

static void *put_one(void *ctx)
{
	followed *f = ctx;
	const pgs_kv_op put = {.kind = PGS_KV_PUT, .key = {"key", 3}, .value = {&f->number, sizeof f->number}};
	pgs_kv_txn txn = {.success = &put, .success_count = 1};
	pgs_error err = PGS_ERROR_INIT;
	f->sent = bench_seconds();
	bench_must(f->raw->vtable->txn(f->raw, &txn, 1, 0, &err), &err, "put");
	f->raw->vtable->release(f->raw, &txn, 1);
	return NULL;
}

static double lag_watch(void *ctx)
{
	followed *f = ctx;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_watch *watch;
	bench_must(f->raw->vtable->watch_open(f->raw, (pgs_slice){"key", 3}, (pgs_slice){0}, 0, &watch, &err), &err, "watch");
	pgs_kv_events events;
	f->raw->vtable->watch_next(watch, 200, &events, &err); /* it is there */
	for (uint32_t i = 0; i < f->count; i++) {
		pthread_t thread;
		f->number++;
		bench_check(pthread_create(&thread, NULL, put_one, f) == 0, "pthread_create");
		do
			bench_must(f->raw->vtable->watch_next(watch, 5000, &events, &err), &err, "watch_next");
		while (events.count == 0);
		f->times[i] = bench_seconds() - f->sent;
		pthread_join(thread, NULL);
	}
	f->raw->vtable->watch_close(watch);
	return p99(f);
}

static void run_lag(const bench_env *env, bench_result *out)
{
	followed f;
	out->skipped = !set_up(env, &f, 300);
	if (out->skipped)
		return;
	for (uint64_t i = 0; i < PAGES; i++)
		read_local(&f, i);
	bench_compare(env, lag_ours, lag_watch, &f, out);
	tear_down(&f);
}

const bench bench_follow_lag = {"follow_lag", "the watch's delivery of a put, p99", "us", 3.0, false, run_lag};
