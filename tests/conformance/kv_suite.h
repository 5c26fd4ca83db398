/* The conformance suite of pagestore/sys/kv.h: rules K1 to K8 on any backend.
 *
 *     static const kv_factory factory = {.name = "mine", .open = open_mine};
 *     int main(void) { return kv_suite_run(&factory); }
 *
 * The suite makes no assumption about the first revision, so that `open` may
 * also clear a long-lived server: it has to give a store without keys.
 */
#ifndef PGS_TESTS_KV_SUITE_H
#define PGS_TESTS_KV_SUITE_H

#include <pagestore/sys/kv.h>

#include "support/testing.h"

typedef struct kv_factory {
	const char *name;
	void *ctx;
	/* A backend on an empty store. */
	pgs_kv *(*open)(void *ctx);
	/* After close(): the same store again. NULL when contents end with the last handle. */
	pgs_kv *(*reopen)(void *ctx);
	/* A second handle on the contents of an open one; NULL when there is no such thing. */
	pgs_kv *(*share)(void *ctx, pgs_kv *kv);
	/* On an empty store with these limits; NULL when the limits cannot be chosen. */
	pgs_kv *(*open_limited)(void *ctx, const pgs_kv_limits *limits);
	/* After the test's last handle was closed; may be NULL. */
	void (*cleanup)(void *ctx);
	/* Transactions of the random workload; 0 = 3000. Fewer for slow backends. */
	size_t steps;
} kv_factory;

/* What a test finds in *state. */
typedef struct kv_fixture {
	const kv_factory *factory;
	pgs_kv *kv;
} kv_fixture;

/* Runs everything as one cmocka group per part; returns how many tests failed. */
int kv_suite_run(const kv_factory *factory);

/* Closes the fixture's KV and opens it with other limits; skips the test when it cannot. */
void kv_suite_limit(kv_fixture *fixture, pgs_kv_limits limits);

typedef struct kv_suite_part {
	const char *name;
	const struct CMUnitTest *tests;
	size_t count;
} kv_suite_part;

extern const kv_suite_part kv_txn_part;
extern const kv_suite_part kv_error_part;
extern const kv_suite_part kv_history_part;
extern const kv_suite_part kv_watch_part;
extern const kv_suite_part kv_sharing_part;
extern const kv_suite_part kv_operations_part;
extern const kv_suite_part kv_changes_part;

#define KV_SUITE_PART(variable, title, tests)                                                                          \
	const kv_suite_part variable = {title, tests, sizeof(tests) / sizeof *(tests)}

#endif
