/* The conformance suite of pagestore/sys/blob.h: rules B1 to B6 on any backend.
 *
 *     static const blob_factory factory = {.name = "mine", .open = open_mine};
 *     int main(void) { return blob_suite_run(&factory); }
 */
#ifndef PGS_TESTS_BLOB_SUITE_H
#define PGS_TESTS_BLOB_SUITE_H

#include <pagestore/sys/blob.h>

#include "support/testing.h"

typedef struct blob_factory {
	const char *name;
	void *ctx;
	/* A backend on an empty store. */
	pgs_blob *(*open)(void *ctx);
	/* After close(): the same store again. NULL when contents end with the last handle. */
	pgs_blob *(*reopen)(void *ctx);
	/* A second handle on the contents of an open one; NULL when there is no such thing. */
	pgs_blob *(*share)(void *ctx, pgs_blob *blob);
	/* After the test's last handle was closed; may be NULL. */
	void (*cleanup)(void *ctx);
} blob_factory;

/* Runs everything as one cmocka group; returns how many tests failed. */
int blob_suite_run(const blob_factory *factory);

#endif
