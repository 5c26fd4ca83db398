/* Short ways to say things to a blob store in tests. Everything named blob_…
 * fails the running cmocka test when the store refuses. */
#ifndef PGS_TESTS_BLOB_CALLS_H
#define PGS_TESTS_BLOB_CALLS_H

#include <stddef.h>
#include <stdint.h>

#include <pagestore/sys/blob.h>

/* A source of bytes that are different at every offset and for every seed; it
 * fails with `status` when asked for a byte at or after `fail_at`. */
typedef struct pattern_source {
	uint64_t seed;
	uint64_t fail_at; /* 0 = never */
	int status;
} pattern_source;

uint8_t pattern_byte(uint64_t seed, uint64_t offset);
int pattern_read(void *ctx, uint64_t offset, void *buf, size_t size);

int put_pattern(pgs_blob *blob, const char *name, uint64_t size, uint64_t seed);
int put_text(pgs_blob *blob, const char *name, const char *text);
int get_range(pgs_blob *blob, const char *name, uint64_t offset, void *buf, size_t size);
int stat_size(pgs_blob *blob, const char *name, uint64_t *size);

void blob_expect_pattern(pgs_blob *blob, const char *name, uint64_t size, uint64_t seed);
void blob_expect_text(pgs_blob *blob, const char *name, const char *text);
void blob_expect_absent(pgs_blob *blob, const char *name);

#endif
