/* See pages.h. */
#include "pages.h"

#include <string.h>

#define PAGES_PER_GROUP ((1u << 20) / SIM_PAGE_SIZE)

/* Places in a group: neighbours, which share a compare, and more runs than a limited KV takes compares. */
static const uint64_t places[SIM_GROUP_PAGES] = {0, 1, 3, 5, 7, 9, 11, 20};

uint64_t page_number(int index)
{
	return (uint64_t)(index / SIM_GROUP_PAGES) * PAGES_PER_GROUP + places[index % SIM_GROUP_PAGES];
}

int page_index(uint64_t page_no)
{
	uint64_t group = page_no / PAGES_PER_GROUP;
	for (int i = 0; group < SIM_GROUPS && i < SIM_GROUP_PAGES; i++)
		if (places[i] == page_no % PAGES_PER_GROUP)
			return (int)group * SIM_GROUP_PAGES + i;
	return -1;
}

const char *attr_name(int index)
{
	static const char *const names[SIM_ATTRS] = {"alpha", "beta", "gamma"};
	return names[index];
}

void attr_value(uint32_t attr, uint8_t *out, size_t *size)
{
	*size = attr % 40;
	for (size_t i = 0; i < *size; i++)
		out[i] = (uint8_t)(attr * 7 + i);
	if (*size >= 4)
		memcpy(out, &attr, 4);
}
