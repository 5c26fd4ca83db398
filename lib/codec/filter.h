/* Filters of sorted files: Bloom filters over the ids whose contents a file holds.
 *
 * "No" is certain, "yes" is wrong for about one id in 1,700. A filter has any multiple of 64 bytes; writers take 16
 * bits an entry. Eight probes by double hashing, from the id's own bytes, which are a hash already. One content in two
 * groups has one hash, so the group is mixed in:
 *
 *     start = high 32 bits of (u64be id[8..15] + u32be id[0..3] × 0x9e3779b97f4a7c15 mod 2^64)
 *     step  = u32be id[4..7], with its lowest bit set
 *     bit i = ((start + i × step) mod 2^32) × bits / 2^32,  i = 0 … 7; bit n is bit n % 8 of byte n / 8
 */
#ifndef PGS_CODEC_FILTER_H
#define PGS_CODEC_FILTER_H

#include "codec/page_id.h"

#define PGS__FILTER_UNIT 64u       /* bytes */
#define PGS__FILTER_MAX (1u << 20) /* bytes */
#define PGS__FILTER_CHECK_SIZE 8   /* check64 of the filter, behind it */

/* The size writers give a filter of so many entries. */
static inline size_t pgs__filter_size_for(uint64_t entries)
{
	return (size_t)((2 * entries + PGS__FILTER_UNIT - 1) / PGS__FILTER_UNIT * PGS__FILTER_UNIT);
}

/* Whether a filter may have so many bytes. */
static inline bool pgs__filter_size_ok(uint64_t size)
{
	return size > 0 && size <= PGS__FILTER_MAX && size % PGS__FILTER_UNIT == 0;
}

void pgs__filter_add(uint8_t *filter, size_t size, const pgs__page_id *id);
bool pgs__filter_may_have(const uint8_t *filter, size_t size, const pgs__page_id *id);

#endif
