/* Short ways to say things to a KV in tests. Everything named kv_… fails the
 * running cmocka test when the KV refuses, so use it on the test's own thread
 * only; run_txn() just returns the status. */
#ifndef PGS_TESTS_KV_CALLS_H
#define PGS_TESTS_KV_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/sys/kv.h>

#define NO_END ((pgs_slice){NULL, 0})

pgs_slice bytes_of(const char *text);
bool slice_is(pgs_slice slice, const char *text);

pgs_kv_op op_put(const char *key, const char *value);
pgs_kv_op op_delete(const char *key, const char *range_end); /* range_end NULL = the single key */
pgs_kv_op op_range(const char *key, const char *range_end);
pgs_kv_compare compare_number(const char *key, pgs_kv_target target, pgs_kv_relation relation, uint64_t number);
pgs_kv_compare compare_value(const char *key, pgs_kv_relation relation, const char *value);

/* A transaction of these success operations alone. */
pgs_kv_txn txn_of(const pgs_kv_op *ops, size_t count);

/* Runs one transaction without deadline. The caller releases it, whatever the status. */
int run_txn(pgs_kv *kv, pgs_kv_txn *txn);

/* The status of a transaction of these success operations; the response is dropped. */
int status_of(pgs_kv *kv, const pgs_kv_op *ops, size_t count);

uint64_t kv_put(pgs_kv *kv, const char *key, const char *value); /* the revision */
uint64_t kv_delete(pgs_kv *kv, const char *key, const char *range_end);
uint64_t kv_apply(pgs_kv *kv, const pgs_kv_op *ops, size_t count);
uint64_t kv_revision(pgs_kv *kv);
void kv_compact(pgs_kv *kv, uint64_t revision);

/* Asserts what the key holds at `revision` (0 = now); NULL = it is absent. */
void kv_expect_at(pgs_kv *kv, const char *key, uint64_t revision, const char *value);
void kv_expect(pgs_kv *kv, const char *key, const char *value);

/* The key's numbers and no bytes; all zero when it is absent. */
pgs_kv_pair kv_numbers(pgs_kv *kv, const char *key);

/* How many keys the whole store has now. */
uint64_t kv_count(pgs_kv *kv);

#endif
