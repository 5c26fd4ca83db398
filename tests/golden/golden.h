/* The golden files: made here, kept in v1/ (the first format) and filter/ (sorted files of version 2), and read back
 * for ever. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include <pagestore/sys/slice.h>

/* Called with each file: "<kind>.<variant>.<good|corrupt|newer>" and its bytes, borrowed for the call. */
typedef void (*golden_emit)(void *ctx, const char *name, pgs_slice bytes);

/* Make every file of v1/, always the same; and those of filter/. */
void golden_make(golden_emit emit, void *ctx);
void golden_make_filtered(golden_emit emit, void *ctx);

#endif
