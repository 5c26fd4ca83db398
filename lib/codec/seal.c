/* Checks of stored values. XXH3-64 without a secret: anyone can compute it,
 * so it finds accidents and nothing else. */
#include "codec/seal.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t pgs__check64(const void *data, size_t size)
{
	return XXH3_64bits(size ? data : "", size);
}

uint32_t pgs__check32(const void *data, size_t size)
{
	return (uint32_t)pgs__check64(data, size);
}

void pgs__seal(pgs__buffer *b, size_t from)
{
	if (b->failed)
		return;
	size_t size = b->size - from;
	pgs__put_u32(b, pgs__check32(size ? b->data + from : NULL, size));
}

bool pgs__unseal(pgs_slice *value)
{
	if (value->size < PGS__SEAL_SIZE)
		return false;
	size_t size = value->size - PGS__SEAL_SIZE;
	pgs__reader r = {(const uint8_t *)value->data, value->size, size, false};
	if (pgs__read_u32(&r) != pgs__check32(value->data, size))
		return false;
	value->size = size;
	return true;
}
