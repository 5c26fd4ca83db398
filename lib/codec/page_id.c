/* Page ids. Hashing runs once per page read or written, so it is inlined here and nowhere else. */
#include "codec/page_id.h"

#include <assert.h>

#include "util/cursor.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

pgs__page_id pgs__page_id_of(
	const uint8_t secret[PGS__SECRET_SIZE], uint64_t page_no, const void *page, uint32_t page_size)
{
	assert(page_no < pgs__page_limit(page_size));
	XXH128_hash_t hash = XXH3_128bits_withSecret(page, page_size, secret, PGS__SECRET_SIZE);
	pgs__page_id id;
	pgs__store_u32be(id.bytes, pgs__page_group(page_no, page_size));
	pgs__store_u32be(id.bytes + 4, (uint32_t)hash.high64);
	pgs__store_u64be(id.bytes + 8, hash.low64);
	return id; /* cppcheck-suppress uninitvar; filled through its array */
}

uint32_t pgs__page_id_group(const pgs__page_id *id)
{
	return pgs__load_u32be(id->bytes);
}
