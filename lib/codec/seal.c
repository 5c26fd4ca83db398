/* Checks of stored values. XXH3-64 without a secret: anyone can compute it,
 * so it finds accidents and nothing else. */
#include "codec/seal.h"

#include <string.h>

#include <pagestore/error.h>
#include <pagestore/version.h>

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

int pgs__sealed_open(pgs_slice value, uint8_t newest, pgs__reader *r, uint8_t *kind)
{
	*kind = 0;
	if (!pgs__unseal(&value))
		return PGS_ECORRUPT;
	*r = pgs__reader_of(value);
	*kind = pgs__read_u8(r);
	if (r->failed || *kind == 0)
		return PGS_ECORRUPT;
	return *kind > newest ? PGS_EVERSION : PGS_OK;
}

int pgs__sealed_file_open(pgs_slice file, const char magic[4], pgs__reader *r)
{
	if (!pgs__unseal(&file))
		return PGS_ECORRUPT;
	*r = pgs__reader_of(file);
	pgs_slice found = pgs__read_slice(r, 4);
	uint16_t version = pgs__read_u16(r);
	if (r->failed || memcmp(found.data, magic, 4) != 0 || version == 0)
		return PGS_ECORRUPT;
	return version > PGS_FORMAT_VERSION ? PGS_EVERSION : PGS_OK;
}
