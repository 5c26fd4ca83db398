/* Meters: requests, bytes and latencies of one operation of a backend (pagestore/operations.h).
 *
 * Latencies go into a histogram of fixed size: a bucket for each of 0 … 7 us, then eight per power of two:
 *
 *      0 1 … 7 | 8 9 … 15 | 16 18 … 30 | 32 36 … 60 | …            lower ends, in microseconds
 *
 * so that a bucket's upper end is at most an eighth above any value in it. Everything is relaxed atomics: threads do
 * not wait for each other, and a reader may see a request's count before its bytes. All zeros is a new meter.
 */
#ifndef PGS_UTIL_METER_H
#define PGS_UTIL_METER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <pagestore/operations.h>

#define PGS__METER_BUCKETS 256 /* 8 + 31 × 8: up to 2^34 us, which is hours */

typedef struct pgs__meter {
	_Atomic uint64_t requests, failures, retries;
	_Atomic uint64_t bytes_sent, bytes_received;
	_Atomic uint64_t max_us;
	_Atomic uint32_t buckets[PGS__METER_BUCKETS];
} pgs__meter;

static inline void pgs__meter_add(_Atomic uint64_t *number, uint64_t by)
{
	if (by)
		atomic_fetch_add_explicit(number, by, memory_order_relaxed);
}

/* One latency. */
void pgs__meter_time(pgs__meter *meter, uint64_t us);

/* Tell a visitor the numbers as they are. */
void pgs__meter_visit(const pgs__meter *meter, const char *backend, const char *operation,
	pgs_operation_visitor visit, void *ctx);

#endif
