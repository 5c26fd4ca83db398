/* Slices of the tables of sorted files, in memory: a lookup that finds the slice here reads only the content.
 *
 * A slice has one place, by its file's name and its number, and is there until another needs that place: nothing has to
 * be forgotten, as a file's name never has other bytes (invariant 8). What comes out is as it was put in: whoever puts
 * has checked it.
 *
 * Threads: any; one lock, held for a copy of a slice.
 */
#ifndef PGS_CONTENT_SLICES_H
#define PGS_CONTENT_SLICES_H

#include <pthread.h>

#include "codec/sorted_file.h"

#define PGS__SLICE_BYTES ((size_t)PGS__SORTED_SLICE * PGS__SORTED_ENTRY_SIZE)
#define PGS__SLICES_MAX 14563 /* of one database, unless set: 32 MiB */

typedef struct pgs__kept_slice {
	uint64_t file;  /* pgs__slices_file() */
	uint32_t index;
	uint32_t size;  /* 0 = none here */
	uint8_t *bytes; /* room for PGS__SLICE_BYTES */
} pgs__kept_slice;

typedef struct pgs__slices {
	pthread_mutex_t lock;
	size_t max;             /* set before use; 0 = keep none */
	pgs__kept_slice *kept;  /* `max` places; NULL until the first is put */
	uint64_t found, missed;
} pgs__slices;

void pgs__slices_init(pgs__slices *slices);
void pgs__slices_free(pgs__slices *slices);

/* What a file is called here. */
uint64_t pgs__slices_file(const char *blob_name);

/* Copy slice `index` to `out`; false when it is not here, or not of that size. */
bool pgs__slices_get(pgs__slices *slices, uint64_t file, size_t index, uint8_t *out, size_t size);

/* Keep a slice: at most PGS__SLICE_BYTES. Best effort. */
void pgs__slices_put(pgs__slices *slices, uint64_t file, size_t index, const uint8_t *bytes, size_t size);

#endif
