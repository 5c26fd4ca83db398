/* What the fuzz targets share. A target gets bytes, decodes them, and aborts when a property does not hold. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>

#include "codec/seal.h"
#include "util/cursor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                              \
	do {                                                                                                          \
		if (!(condition)) {                                                                                   \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                 \
			abort();                                                                                      \
		}                                                                                                     \
	} while (0)

/* A decoder gives these and nothing else. */
static inline void check_result(int result)
{
	CHECK(result == PGS_OK || result == PGS_ECORRUPT || result == PGS_EVERSION);
}

/* Take the byte that chooses what the rest is; 0 when there is none. */
static inline unsigned choose(pgs_slice *bytes, unsigned count)
{
	if (bytes->size == 0)
		return 0;
	unsigned choice = *(const uint8_t *)bytes->data % count;
	*bytes = (pgs_slice){(const uint8_t *)bytes->data + 1, bytes->size - 1};
	return choice;
}

/* `bytes` with a good seal: no fuzzer finds one by itself. Free the buffer. */
static inline pgs__buffer sealed(pgs_slice bytes)
{
	pgs__buffer b = {0};
	pgs__put_bytes(&b, bytes.data, bytes.size);
	pgs__seal(&b, 0);
	CHECK(!b.failed);
	return b;
}

/* What was encoded again is what was decoded. */
static inline void check_same(const pgs__buffer *again, pgs_slice bytes)
{
	CHECK(!again->failed);
	CHECK(pgs__slice_equal(pgs__buffer_slice(again), bytes));
}

#endif
