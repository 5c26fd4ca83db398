/* The benchmarks' harness.
 *
 * Every benchmark measures two sides in one run, in turn (ours, baseline, ours, …), and says how they compare. Both
 * sides are checked to give the same bytes. What fails ends the program.
 */
#ifndef PGS_BENCH_H
#define PGS_BENCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore.h>

typedef struct bench_env {
	bool quick;       /* small sizes: does it run at all */
	unsigned rounds;
	const char *dir;  /* scratch, removed at the end */
} bench_env;

/* Medians over the rounds. */
typedef struct bench_result {
	double ours, baseline;
	bool skipped; /* what it needs is not here, and that was said */
} bench_result;

typedef struct bench {
	const char *name;
	const char *baseline_name;
	const char *unit;
	double goal;
	bool at_least;    /* ours / baseline is to be at least the goal, else at most */
	void (*run)(const bench_env *env, bench_result *out);
} bench;

extern const bench bench_read_warm, bench_pin_warm, bench_begin_warm, bench_cache_overhead;
extern const bench bench_commit_small_local, bench_commit_small_memory, bench_commit_100_local;
extern const bench bench_bulk_local, bench_cold_scan_local;
extern const bench bench_bytes_4k, bench_bytes_64k;
extern const bench bench_open_reads;
extern const bench bench_cache_begin_local; /* follow.c */
extern const bench bench_s3_bulk, bench_s3_cold_scan, bench_s3_cold_scan_unzstd, bench_s3_cold_scan_gets;
extern const bench bench_s3_cold_point, bench_s3_cold_point_local;
extern const bench bench_compact_speed, bench_merge_speed, bench_space_amp, bench_space_amp_hot, bench_write_amp;
extern const bench bench_maintain_memory, bench_reader_stall;
extern const bench bench_lookup_cost_1e6, bench_lookup_cost_1e7, bench_lookup_cost_1e9;
extern const bench bench_lookup_absent_1e6, bench_lookup_absent_1e7, bench_lookup_absent_1e9;
extern const bench bench_cache_read, bench_cache_memory;
/* etcd.c, etcd_table.c; they start a server */
extern const bench bench_etcd_commit_small, bench_etcd_commit_requests, bench_etcd_commit_parallel;
extern const bench bench_etcd_begin, bench_etcd_begin_requests;
extern const bench bench_etcd_read_many, bench_etcd_read_many_requests, bench_etcd_idle;
extern const bench bench_follow_lag;                               /* etcd_follow.c */
extern const bench bench_follow_apply, bench_follow_apply_cached;  /* etcd_apply.c */
extern const bench bench_cache_warm_restart;                       /* warm_restart.c */
extern const bench bench_follow_memory;                            /* etcd_follow_memory.c */
extern const bench bench_etcd_big_table_commit, bench_etcd_big_table_put;
/* sqlite_….c */
extern const bench bench_sqlite_point_read, bench_sqlite_scan, bench_sqlite_cached_point_read;
extern const bench bench_sqlite_insert_autocommit, bench_sqlite_insert_autocommit_wal, bench_sqlite_bank, bench_sqlite_bulk;
extern const bench bench_sqlite_speedtest, bench_sqlite_conflicts, bench_sqlite_etcd_autocommit;
extern const bench bench_sqlite_cold_open, bench_sqlite_cold_open_gets, bench_sqlite_cold_open_kv, bench_sqlite_cold_scan;

/* One round of one side; returns what was measured. */
typedef double (*bench_side)(void *ctx);

/* A round of each to warm up, then env->rounds of each in turn. */
void bench_compare(const bench_env *env, bench_side ours, bench_side baseline, void *ctx, bench_result *out);

double bench_median(double *values, size_t count);
double bench_seconds(void);

void bench_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void bench_must(int result, const pgs_error *err, const char *what); /* a PGS_… result */
void bench_check(bool good, const char *what);
void *bench_alloc(size_t size);

/* The most memory this process takes meanwhile, beside what it had, resident and not of files; looked at every 2 ms by a
 * thread. Its end returns MiB. */
typedef struct bench_memory {
	pthread_t thread;
	_Atomic bool stop;
	uint64_t before, peak;
} bench_memory;
void bench_memory_start(bench_memory *memory);
double bench_memory_end(bench_memory *memory);

/* Random numbers, the same in every run. */
typedef struct bench_random {
	uint64_t state;
} bench_random;
uint64_t bench_random_next(bench_random *r);
uint32_t *bench_shuffled(uint32_t count, uint64_t seed); /* 0 … count-1 in random order; freed by the caller */

/* <env->dir>/<name>, in a buffer of the caller's. */
#define BENCH_PATH_MAX 512
const char *bench_path(const bench_env *env, const char *name, char out[BENCH_PATH_MAX]);
void bench_remove_tree(const char *path);

#endif
