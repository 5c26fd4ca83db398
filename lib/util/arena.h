/* Memory that is freed all at once: a response, a commit's keys and values. */
#ifndef PGS_UTIL_ARENA_H
#define PGS_UTIL_ARENA_H

#include <stddef.h>

#include <pagestore/sys/slice.h>

/* A zeroed arena is empty and ready. */
typedef struct pgs__arena {
	struct pgs__arena_block *blocks;
	size_t used; /* of the newest block */
} pgs__arena;

/* `size` bytes aligned for any type, or NULL. */
void *pgs__arena_alloc(pgs__arena *arena, size_t size);

/* `count` zeroed elements, or NULL (also when the product overflows). */
void *pgs__arena_calloc(pgs__arena *arena, size_t count, size_t size);

/* A copy of `bytes` in the arena, in *out. PGS_OK or PGS_ENOMEM. */
int pgs__arena_copy(pgs__arena *arena, pgs_slice bytes, pgs_slice *out);

/* Free everything; the arena is empty and ready again. */
void pgs__arena_free(pgs__arena *arena);

#endif
