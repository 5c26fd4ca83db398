/* Page ids: `group (4 bytes, big endian) ‖ 12 bytes of hash`.
 *
 * The group is page_no / pages_per_group, a group being 1 MiB of pages, so
 * that contents of neighbouring pages lie together wherever contents are
 * sorted by id. The hash is the low 96 bits, big endian, of XXH3-128 of the
 * page with the database's 192-byte secret (https://xxhash.com; hash kind 1).
 *
 * XXH3 guards against accidents, not against crafted collisions: never compare
 * ids where the bytes are at hand.
 */
#ifndef PGS_CODEC_PAGE_ID_H
#define PGS_CODEC_PAGE_ID_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <pagestore/store.h>

#define PGS__ID_SIZE 16
#define PGS__ID_HASH_SIZE 12
#define PGS__SECRET_SIZE 192
#define PGS__GROUP_BYTES (1u << 20)

typedef struct pgs__page_id {
	uint8_t bytes[PGS__ID_SIZE];
} pgs__page_id;

/* A power of two in the range we support. */
static inline bool pgs__page_size_ok(uint32_t size)
{
	return size >= PGS_PAGE_SIZE_MIN && size <= PGS_PAGE_SIZE_MAX && (size & (size - 1)) == 0;
}

static inline uint64_t pgs__pages_per_group(uint32_t page_size)
{
	return PGS__GROUP_BYTES / page_size;
}

/* One past the largest page number: 2^32 groups. */
static inline uint64_t pgs__page_limit(uint32_t page_size)
{
	return pgs__pages_per_group(page_size) << 32;
}

static inline uint32_t pgs__page_group(uint64_t page_no, uint32_t page_size)
{
	return (uint32_t)(page_no / pgs__pages_per_group(page_size));
}

static inline bool pgs__page_id_equal(const pgs__page_id *a, const pgs__page_id *b)
{
	return memcmp(a->bytes, b->bytes, PGS__ID_SIZE) == 0;
}

/* The id of `page` (page_size bytes) as content of page `page_no`. */
pgs__page_id pgs__page_id_of(const uint8_t secret[PGS__SECRET_SIZE], uint64_t page_no, const void *page,
			     uint32_t page_size);

/* The group an id begins with. */
uint32_t pgs__page_id_group(const pgs__page_id *id);

#endif
