/* A stage for tests of transactions: a store on one of several backends, and short ways to say things to it.
 * Everything named stage_… and tx_… fails the running cmocka test when the library refuses, so use it on the test's
 * own thread only.
 *
 *     int main(void) { return stage_run("txn_x", tests, sizeof tests / sizeof *tests, STAGE_ALL); }
 *
 * runs the tests once per variant: memory, memory with a stock etcd's limits, a local directory; commits ordered by
 * revision, and by counter. On etcd and S3 they run when the environment has STAGE_VARIANT=servers, as the ctests
 * cluster_txn_x do. A test uses stage_setup and stage_teardown, and gets a `stage *`.
 *
 * A page's content follows from a tag, which its first eight bytes hold: see the PAGE_… macros.
 */
#ifndef PGS_TESTS_TXN_STAGE_H
#define PGS_TESTS_TXN_STAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <pagestore.h>
#include <pagestore/backends.h>
#include <pagestore/fault.h>

#include "codec/pointer.h"
#include "support/testing.h"

#define STAGE_ALL 0xffu
#define STAGE_MEMORY 1u   /* without limits */
#define STAGE_LIMITED 2u  /* a stock etcd's */
#define STAGE_LOCAL 4u
#define STAGE_COUNTER 8u  /* also order=counter */
#define STAGE_SERVERS 16u /* a real etcd, and S3 */

typedef struct stage_variant {
	const char *name;
	uint32_t backend; /* STAGE_MEMORY, … */
	uint32_t order;
} stage_variant;

typedef struct stage stage;
struct stage {
	const stage_variant *variant;
	pgs_store *store;
	pgs_db *db;
	pgs_fault *fault; /* around the backends of `store` */
	pgs_kv *kv;       /* the same store's, without faults */
	pgs_blob *blob;
	pgs_store *other_store; /* as another process has it: stage_other() */
	pgs_db *other_db;
	char dir[64];
	char root[24];
	pgs_db_options options;
	uint32_t page_size;
	/* Called before each call of `store` to its backends, in whatever thread; it may use other_db. */
	void (*_Atomic before)(stage *s, const char *operation);
	atomic_bool in_before;
	uint64_t calls[4]; /* for tests' own use */
	pgs_txn *txn;
	uint64_t page;
};

int stage_run(const char *name, const struct CMUnitTest *tests, size_t count, uint32_t variants);

int stage_setup(void **state);    /* database "db" with 4096-byte pages */
int stage_teardown(void **state);

/* Drop the database and make it again with s->options changed. */
void stage_remake(stage *s);

/* The database as another process sees it: own caches, same contents. */
pgs_db *stage_other(stage *s);

/* New backends on the stage's contents, for another store. */
void stage_backends(stage *s, pgs_kv **kv, pgs_blob **blob);

/* Blobs of the database, registered or not; keys of the whole KV; keys of a kind ('p', 'c', …). */
size_t stage_blobs(stage *s);
uint64_t stage_keys(stage *s);
uint64_t stage_keys_of(stage *s, char kind);

/* What p/<page> holds now. The delta is not kept. */
pgs__pointer stage_pointer(stage *s, uint64_t page);

/* --- contents --------------------------------------------------------------- */

#define PAGE_ZERO 0
#define PAGE_NOISE(n) ((uint64_t)(n) + 1)                                     /* does not compress */
#define PAGE_THIN(n) (1ull << 56 | (uint64_t)(n))                             /* almost all zero */
#define PAGE_KIN(family, n) (2ull << 56 | (uint64_t)(family) << 32 | (uint64_t)(n)) /* of a family: small deltas */

void page_fill(void *page, uint32_t size, uint64_t tag);
bool page_is(const void *page, uint32_t size, uint64_t tag);
uint64_t page_tag(const void *page);

/* --- transactions ------------------------------------------------------------- */

pgs_txn *tx_begin(pgs_db *db, uint32_t isolation); /* PGS_SERIALIZABLE or PGS_SNAPSHOT, to write */
pgs_txn *tx_read(pgs_db *db);
pgs_txn *tx_at(pgs_db *db, uint64_t revision);

void tx_put(pgs_txn *t, stage *s, uint64_t page, uint64_t tag);
void tx_expect(pgs_txn *t, stage *s, uint64_t page, uint64_t tag);
void tx_expect_count(pgs_txn *t, uint64_t page_count);
void tx_attr(pgs_txn *t, const char *name, const char *value); /* NULL removes */
void tx_expect_attr(pgs_txn *t, const char *name, const char *value);

uint64_t tx_commit(pgs_txn *t); /* must succeed */
void tx_conflict(pgs_txn *t, uint64_t page); /* must be refused for that page */

/* A transaction of one write, on any handle; the revision. */
uint64_t tx_one(pgs_db *db, stage *s, uint64_t page, uint64_t tag);
uint64_t tx_fill(pgs_db *db, stage *s, uint64_t first, uint64_t count, uint64_t tag); /* tag + page */

/* What a new reader sees. */
void stage_expect(stage *s, uint64_t page, uint64_t tag);

uint64_t stage_random(uint64_t *seed);

#endif
