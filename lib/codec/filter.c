/* Bloom filters. */
#include "codec/filter.h"

#include "util/cursor.h"

#define PROBES 8
#define GROUP_FACTOR 0x9e3779b97f4a7c15u

typedef struct probe {
	uint32_t at, step;
} probe;

static probe probe_of(const pgs__page_id *id)
{
	uint64_t start = pgs__load_u64be(id->bytes + 8) + pgs__load_u32be(id->bytes) * GROUP_FACTOR;
	return (probe){(uint32_t)(start >> 32), pgs__load_u32be(id->bytes + 4) | 1};
}

static size_t next_bit(probe *p, size_t size)
{
	size_t bit = (size_t)((uint64_t)p->at * (8 * (uint64_t)size) >> 32);
	p->at += p->step;
	return bit;
}

void pgs__filter_add(uint8_t *filter, size_t size, const pgs__page_id *id)
{
	probe p = probe_of(id);
	for (int i = 0; i < PROBES; i++) {
		size_t bit = next_bit(&p, size);
		filter[bit / 8] |= (uint8_t)(1u << bit % 8);
	}
}

bool pgs__filter_may_have(const uint8_t *filter, size_t size, const pgs__page_id *id)
{
	probe p = probe_of(id);
	for (int i = 0; i < PROBES; i++) {
		size_t bit = next_bit(&p, size);
		if (!(filter[bit / 8] >> bit % 8 & 1))
			return false;
	}
	return true;
}
