/* A database on an etcd of its own, for benchmarks. */
#ifndef PGS_BENCH_ETCD_FIXTURE_H
#define PGS_BENCH_ETCD_FIXTURE_H

#include <counting.h>

#include "etcd_raw.h"
#include "fixtures.h"

typedef struct etcd_db {
	etcd_server *etcd;
	counters counted; /* what the store asked of the KV */
	bench_db ours;
	uint32_t pages;
} etcd_db;

/* Page `number` of the database. */
typedef void (*etcd_db_page)(uint32_t number, uint8_t page[4096]);

/* A page that is stored in its pointer. */
void etcd_db_small_page(uint32_t number, uint8_t page[4096]);

/* An etcd that syncs what it writes, in the scratch directory; a store whose blobs are in memory; a database "bench" of
 * so many pages, none of which is in a pack any more. False, having said so, when there is no etcd. */
bool etcd_db_open(const bench_env *env, etcd_db *out, uint32_t pages, etcd_db_page page);
void etcd_db_close(etcd_db *d);

/* A handle with an empty cache. */
void etcd_db_reopen(etcd_db *d);

/* Read all pages. */
void etcd_db_warm(etcd_db *d);

/* Change 50 bytes of each of the pages first, first + step, … (count of them), in a transaction. Returns the seconds
 * that committing took; *whole (may be NULL) those of all. */
double etcd_db_commit(etcd_db *d, bench_random *random, const uint32_t *pages, uint32_t count, double *whole);

#endif
