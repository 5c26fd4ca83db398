/* pgs_bench: what the library costs, against what it is made of. See docs/benchmarks.md. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const bench *const all[] = {
	&bench_read_warm,	   &bench_pin_warm, &bench_begin_warm,	       &bench_cache_overhead,   &bench_commit_small_local,
	&bench_commit_small_memory, &bench_commit_100_local,   &bench_bulk_local,	&bench_cold_scan_local,
	&bench_bytes_4k,	   &bench_bytes_64k,	       &bench_open_reads,
	&bench_cache_begin_local,
	&bench_lookup_cost_1e6,	   &bench_lookup_cost_1e7,     &bench_lookup_absent_1e6, &bench_lookup_absent_1e7,
	&bench_compact_speed,	   &bench_merge_speed,	       &bench_space_amp,	&bench_space_amp_hot,
	&bench_write_amp,	   &bench_maintain_memory,     &bench_reader_stall,
	&bench_cache_read,	   &bench_cache_memory,
#ifdef PGS_WITH_SQLITE
	&bench_sqlite_point_read,  &bench_sqlite_scan,	       &bench_sqlite_insert_autocommit,
	&bench_sqlite_insert_autocommit_wal,		       &bench_sqlite_bank,	&bench_sqlite_bulk,
	&bench_sqlite_speedtest,   &bench_sqlite_conflicts,
#endif
};
#define COUNT (sizeof all / sizeof *all)

/* Minutes and gigabytes, or a server of their own: only when named. */
static const bench *const large[] = {
	&bench_lookup_cost_1e9,	      &bench_lookup_absent_1e9,
#ifdef PGS_WITH_ETCD
	&bench_etcd_commit_small,     &bench_etcd_commit_requests,  &bench_etcd_commit_parallel, &bench_etcd_begin,
	&bench_etcd_begin_requests,   &bench_etcd_read_many,	    &bench_etcd_read_many_requests,
	&bench_etcd_big_table_commit, &bench_etcd_big_table_put,    &bench_etcd_idle,
	&bench_follow_lag,
	&bench_follow_apply,
	&bench_follow_apply_cached,
	&bench_follow_memory,
#endif
#if defined PGS_WITH_ETCD && defined PGS_WITH_SQLITE
	&bench_sqlite_etcd_autocommit,
#endif
#ifdef PGS_WITH_S3
	&bench_s3_bulk,		      &bench_s3_cold_scan,	    &bench_s3_cold_scan_unzstd,
	&bench_s3_cold_scan_gets,     &bench_s3_cold_point,	    &bench_s3_cold_point_local,
	&bench_cache_warm_restart,
#endif
#if defined PGS_WITH_S3 && defined PGS_WITH_SQLITE
	&bench_sqlite_cached_point_read,
	&bench_sqlite_cold_open,      &bench_sqlite_cold_open_gets, &bench_sqlite_cold_open_kv, &bench_sqlite_cold_scan,
#endif
};
#define LARGE_COUNT (sizeof large / sizeof *large)
#define SKIPPED 77 /* as ctest has it */

static void usage(FILE *to)
{
	fputs("usage: pgs_bench [--json] [--rounds N] [--quick] [--dir DIR] [NAME…]\n"
	      "Measures the library against its baselines, in turn; medians of N rounds (default 7).\n"
	      "--quick: small sizes, to see that it runs. DIR (default /tmp): where scratch files go.\n"
	      "NAMEs:",
	      to);
	for (size_t i = 0; i < COUNT; i++)
		fprintf(to, " %s", all[i]->name);
	fputs("\nand, not by default, as they need minutes, gigabytes or a server:", to);
	for (size_t i = 0; i < LARGE_COUNT; i++)
		fprintf(to, " %s", large[i]->name);
	fputc('\n', to);
}

static const bench *find(const char *name)
{
	for (size_t i = 0; i < COUNT; i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	for (size_t i = 0; i < LARGE_COUNT; i++)
		if (strcmp(large[i]->name, name) == 0)
			return large[i];
	bench_die("no benchmark is called %s", name);
}

static void show(const bench *b, const bench_result *r, bool json)
{
	double ratio = r->ours / r->baseline;
	bool met = b->at_least ? ratio >= b->goal : ratio <= b->goal;
	if (json)
		printf("{\"bench\":\"%s\",\"ours\":%.6g,\"baseline\":%.6g,\"baseline_name\":\"%s\",\"unit\":\"%s\","
		       "\"ratio\":%.4g}\n",
		       b->name, r->ours, r->baseline, b->baseline_name, b->unit, ratio);
	else
		printf("%-27s %10.2f %10.2f %-8s %8.4f  %s %-7.4g %-6s  against %s\n", b->name, r->ours, r->baseline,
		       b->unit, ratio, b->at_least ? ">=" : "<=", b->goal, met ? "met" : "MISSED", b->baseline_name);
	fflush(stdout);
}

static bool run(const bench *b, const bench_env *env, bool json)
{
	bench_result result = {0};
	b->run(env, &result);
	if (result.skipped)
		fprintf(stderr, "%s: skipped\n", b->name);
	else
		show(b, &result, json);
	return !result.skipped;
}

static char scratch[BENCH_PATH_MAX];

static void remove_scratch(void)
{
	bench_remove_tree(scratch);
}

static void make_scratch(const char *dir)
{
	int size = snprintf(scratch, sizeof scratch, "%s/pgs_bench.XXXXXX", dir);
	if (size >= (int)sizeof scratch || !mkdtemp(scratch))
		bench_die("cannot make a directory in %s", dir);
	atexit(remove_scratch);
}

static const char *argument(int argc, char **argv, int *at)
{
	if (*at + 1 >= argc)
		bench_die("%s needs a value", argv[*at]);
	return argv[++*at];
}

int main(int argc, char **argv)
{
	bench_env env = {.rounds = 7};
	const bench *chosen[COUNT * 4];
	const char *dir = "/tmp";
	size_t count = 0, ran = 0;
	bool json = false;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0)
			json = true;
		else if (strcmp(argv[i], "--quick") == 0)
			env.quick = true;
		else if (strcmp(argv[i], "--rounds") == 0)
			env.rounds = (unsigned)strtoul(argument(argc, argv, &i), NULL, 10);
		else if (strcmp(argv[i], "--dir") == 0)
			dir = argument(argc, argv, &i);
		else if (strcmp(argv[i], "--help") == 0)
			return usage(stdout), 0;
		else if (argv[i][0] == '-' || count == sizeof chosen / sizeof *chosen)
			return usage(stderr), 2;
		else
			chosen[count++] = find(argv[i]);
	}
	bench_check(env.rounds >= 1 && env.rounds <= 100, "--rounds: 1 to 100");
	make_scratch(dir);
	env.dir = scratch;
	if (!json)
		printf("%-27s %10s %10s %-8s %8s\n", "benchmark", "ours", "baseline", "unit", "ratio");
	for (size_t i = 0; i < (count ? count : COUNT); i++)
		ran += run(count ? chosen[i] : all[i], &env, json);
	return ran ? 0 : SKIPPED;
}
