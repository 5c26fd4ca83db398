/* Meters: see meter.h for the histogram. */
#include "util/meter.h"

#include <stddef.h>

/* The bucket of a latency; what is too long for any is in the last. */
static size_t bucket_of(uint64_t us)
{
	if (us < 8)
		return (size_t)us;
	unsigned power = 63u - (unsigned)__builtin_clzll(us); /* us is in [2^power, 2^(power + 1)) */
	size_t bucket = (size_t)(power - 2) * 8 + (size_t)(us >> (power - 3)) % 8;
	return bucket < PGS__METER_BUCKETS ? bucket : PGS__METER_BUCKETS - 1;
}

/* The largest latency in a bucket. */
static uint64_t end_of(size_t bucket)
{
	if (bucket < 8)
		return bucket;
	unsigned power = (unsigned)(bucket / 8) + 2;
	return ((uint64_t)(bucket % 8 + 9) << (power - 3)) - 1;
}

void pgs__meter_time(pgs__meter *meter, uint64_t us)
{
	atomic_fetch_add_explicit(&meter->buckets[bucket_of(us)], 1, memory_order_relaxed);
	uint64_t max = atomic_load_explicit(&meter->max_us, memory_order_relaxed);
	while (us > max && !atomic_compare_exchange_weak_explicit(
				   &meter->max_us, &max, us, memory_order_relaxed, memory_order_relaxed)) {
	}
}

/* The end of the bucket that the `rank`th latency (1 …) is in, but not above the longest. */
static uint64_t at_rank(const uint32_t *counts, uint64_t rank, uint64_t max_us)
{
	uint64_t passed = 0;
	for (size_t i = 0; i < PGS__METER_BUCKETS - 1; i++) {
		passed += counts[i];
		if (passed >= rank)
			return end_of(i) < max_us ? end_of(i) : max_us;
	}
	return max_us;
}

static uint64_t load(const _Atomic uint64_t *number)
{
	return atomic_load_explicit(number, memory_order_relaxed);
}

void pgs__meter_visit(
	const pgs__meter *meter, const char *backend, const char *operation, pgs_operation_visitor visit, void *ctx)
{
	uint32_t counts[PGS__METER_BUCKETS];
	uint64_t timed = 0;
	for (size_t i = 0; i < PGS__METER_BUCKETS; i++) {
		counts[i] = atomic_load_explicit(&meter->buckets[i], memory_order_relaxed);
		timed += counts[i];
	}
	pgs_operation_stat stat = {
		.struct_size = sizeof stat,
		.backend = backend,
		.operation = operation,
		.requests = load(&meter->requests),
		.failures = load(&meter->failures),
		.retries = load(&meter->retries),
		.bytes_sent = load(&meter->bytes_sent),
		.bytes_received = load(&meter->bytes_received),
		.max_us = load(&meter->max_us),
	};
	if (timed) {
		stat.p50_us = at_rank(counts, timed - timed / 2, stat.max_us);
		stat.p99_us = at_rank(counts, timed - timed / 100, stat.max_us);
	}
	visit(ctx, &stat);
}
