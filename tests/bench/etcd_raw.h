/* What the etcd benchmarks measure against: requests of etcd's gateway, sent as they are on one kept-alive connection,
 * their answers not looked at. */
#ifndef PGS_BENCH_ETCD_RAW_H
#define PGS_BENCH_ETCD_RAW_H

#include <stddef.h>
#include <stdint.h>

#include "bench.h"
#include "support/etcd_server.h"

typedef struct bench_raw bench_raw;

/* A connection; each thread has its own. */
bench_raw *bench_raw_open(const char *endpoint);
void bench_raw_close(bench_raw *raw);

/* Keys are numbers: key `number` is as long as a page's. They lie beside the store's root. */

/* Put `bytes` (key and value together) at a key; returns the seconds it took, without making the request. */
double bench_raw_put(bench_raw *raw, uint32_t number, size_t bytes);

/* Read one key. */
double bench_raw_get(bench_raw *raw, uint32_t number);

/* Read many keys, each as a range of one transaction. */
double bench_raw_get_many(bench_raw *raw, const uint32_t *numbers, size_t count);

/* Watch all keys from one revision on, until the events of another, the last of a commit, have come: returns the
 * seconds it took. */
double bench_raw_replay(const bench_raw *raw, uint64_t from, uint64_t through);

/* Requests that the server has begun to answer since it started, by its own count: of its KV, watches, leases. */
uint64_t bench_requests(const etcd_server *etcd);

#endif
