/* Slices of tables in memory: a table of places, one for each slice, taken by whoever came last. */
#include "content/slices.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "util/alloc.h"

void pgs__slices_init(pgs__slices *slices)
{
	*slices = (pgs__slices){.max = PGS__SLICES_MAX};
	pthread_mutex_init(&slices->lock, NULL);
}

void pgs__slices_free(pgs__slices *slices)
{
	for (size_t i = 0; slices->kept && i < slices->max; i++)
		pgs__free(slices->kept[i].bytes);
	pgs__free(slices->kept);
	pthread_mutex_destroy(&slices->lock);
}

uint64_t pgs__slices_file(const char *blob_name)
{
	return XXH3_64bits(blob_name, strlen(blob_name));
}

/* Neighbouring slices of a file have neighbouring places. */
static pgs__kept_slice *place_of(pgs__slices *slices, uint64_t file, size_t index)
{
	return &slices->kept[(file + index) % slices->max];
}

bool pgs__slices_get(pgs__slices *slices, uint64_t file, size_t index, uint8_t *out, size_t size)
{
	bool found = false;
	pthread_mutex_lock(&slices->lock);
	if (slices->kept) {
		const pgs__kept_slice *s = place_of(slices, file, index);
		found = s->size == size && s->file == file && s->index == index;
		if (found)
			memcpy(out, s->bytes, size);
	}
	slices->found += found;
	slices->missed += !found;
	pthread_mutex_unlock(&slices->lock);
	return found;
}

void pgs__slices_put(pgs__slices *slices, uint64_t file, size_t index, const uint8_t *bytes, size_t size)
{
	if (!slices->max || size > PGS__SLICE_BYTES)
		return;
	pthread_mutex_lock(&slices->lock);
	if (!slices->kept)
		slices->kept = pgs__calloc(slices->max, sizeof *slices->kept);
	pgs__kept_slice *s = slices->kept ? place_of(slices, file, index) : NULL;
	if (s && !s->bytes)
		s->bytes = pgs__malloc(PGS__SLICE_BYTES);
	if (s && s->bytes) {
		memcpy(s->bytes, bytes, size);
		s->file = file;
		s->index = (uint32_t)index;
		s->size = (uint32_t)size;
	}
	pthread_mutex_unlock(&slices->lock);
}
