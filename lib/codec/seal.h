/* A check at the end of a stored value: the low 32 bits of XXH3-64 of what is
 * before it, little endian. It catches flipped and lost bits; it is no defence
 * against someone who writes values on purpose. */
#ifndef PGS_CODEC_SEAL_H
#define PGS_CODEC_SEAL_H

#include <stdbool.h>

#include "util/cursor.h"

#define PGS__SEAL_SIZE 4

uint32_t pgs__check32(const void *data, size_t size);
uint64_t pgs__check64(const void *data, size_t size);

/* Append the check of everything in the buffer from offset `from` on. */
void pgs__seal(pgs__buffer *b, size_t from);

/* Strip a good check off *value; false when it is missing or wrong. */
bool pgs__unseal(pgs_slice *value);

#endif
