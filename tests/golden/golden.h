/* The golden files of format version 1: made here, kept in v1/, and read back for ever. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include <pagestore/sys/slice.h>

/* Called with each file: "<kind>.<variant>.<good|corrupt|newer>" and its bytes, borrowed for the call. */
typedef void (*golden_emit)(void *ctx, const char *name, pgs_slice bytes);

/* Make every file, always the same. */
void golden_make(golden_emit emit, void *ctx);

#endif
