/* The local backend's KV in a scratch folder: short names for what its tests do. What fails ends the test. */
#ifndef TEST_LOCAL_KV_H
#define TEST_LOCAL_KV_H

#include <stdbool.h>
#include <string.h>
#include <sys/types.h>

#include <pagestore.h>
#include <pagestore/backends.h>

#include "support/scratch.h"

/* Small enough for every sanitizer and for valgrind. */
#define MAP_BYTES ((uint64_t)256 << 20)

#define SLICE(text) ((pgs_slice){(text), strlen(text)})

/* Open the KV in the scratch folder's `name`; a map of MAP_BYTES unless the options say otherwise. */
pgs_kv *local_open(const char *name);
pgs_kv *local_open_with(const char *name, pgs_local_options options);
int local_open_fails(const char *name, pgs_local_options options, const char *says);
void local_close(pgs_kv *kv);

int local_run(pgs_kv *kv, pgs_kv_txn *txn, pgs_error *err);

/* Put one key; returns the new revision or a negative code. */
int64_t local_put(pgs_kv *kv, const char *key, pgs_slice value);

/* Read one key, as of `revision`: its value as a number, -1 when absent. */
int64_t local_get_at(pgs_kv *kv, const char *key, uint64_t revision, uint64_t *mod);
int64_t local_get(pgs_kv *kv, const char *key);

/* Raise the number in `key` by compare and put until it works. */
void local_increment(pgs_kv *kv, const char *key);

pgs_kv_stat local_stat(pgs_kv *kv);

/* Wait for a child that is to exit with 0. */
void wait_for_child(pid_t child);

/* A test that this machine cannot run: loud, and a failure where everything has to run. */
void skip_test(const char *why);

#endif
