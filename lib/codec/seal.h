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

/* Open a sealed value that begins with its kind, 1 … `newest`; the reader stands behind it, up to the seal. PGS_OK,
 * PGS_ECORRUPT (seal, or kind 0) or PGS_EVERSION (a kind above `newest`). */
int pgs__sealed_open(pgs_slice value, uint8_t newest, pgs__reader *r, uint8_t *kind);

/* Open a sealed blob that begins with a magic and the format's version (u16). PGS_OK, PGS_ECORRUPT or PGS_EVERSION. */
int pgs__sealed_file_open(pgs_slice file, const char magic[4], pgs__reader *r);

#endif
