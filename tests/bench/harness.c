/* Timing, medians, randomness, scratch files. */
#include "bench.h"

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS_MAX 100

/* --- failing --------------------------------------------------------------- */

void bench_die(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("pgs_bench: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

void bench_must(int result, const pgs_error *err, const char *what)
{
	if (result != PGS_OK)
		bench_die("%s: error %d: %s", what, result, err ? err->message : "");
}

void bench_check(bool good, const char *what)
{
	if (!good)
		bench_die("%s", what);
}

void *bench_alloc(size_t size)
{
	void *block = malloc(size);
	bench_check(block != NULL, "out of memory");
	return block;
}

/* --- measuring ---------------------------------------------------------------- */

double bench_seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

double bench_median(double *values, size_t count)
{
	qsort(values, count, sizeof *values, by_value);
	return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

void bench_compare(const bench_env *env, bench_side ours, bench_side baseline, void *ctx, bench_result *out)
{
	double mine[ROUNDS_MAX], theirs[ROUNDS_MAX];
	unsigned rounds = env->rounds < ROUNDS_MAX ? env->rounds : ROUNDS_MAX;
	ours(ctx);
	baseline(ctx);
	for (unsigned i = 0; i < rounds; i++) {
		mine[i] = ours(ctx);
		theirs[i] = baseline(ctx);
	}
	out->ours = bench_median(mine, rounds);
	out->baseline = bench_median(theirs, rounds);
}

/* --- randomness ----------------------------------------------------------------- */

/* splitmix64 (public domain, Sebastiano Vigna) */
uint64_t bench_random_next(bench_random *r)
{
	uint64_t x = r->state += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

uint32_t *bench_shuffled(uint32_t count, uint64_t seed)
{
	uint32_t *order = bench_alloc(count * sizeof *order);
	bench_random random = {seed};
	for (uint32_t i = 0; i < count; i++)
		order[i] = i;
	for (uint32_t i = count; i > 1; i--) {
		uint32_t other = (uint32_t)(bench_random_next(&random) % i), swap = order[i - 1];
		order[i - 1] = order[other];
		order[other] = swap;
	}
	return order;
}

/* --- files ------------------------------------------------------------------------ */

const char *bench_path(const bench_env *env, const char *name, char out[BENCH_PATH_MAX])
{
	int size = snprintf(out, BENCH_PATH_MAX, "%s/%s", env->dir, name);
	bench_check(size > 0 && size < BENCH_PATH_MAX, "--dir: the path is too long");
	return out;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
	(void)st;
	(void)kind;
	(void)walk;
	return remove(path);
}

void bench_remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
