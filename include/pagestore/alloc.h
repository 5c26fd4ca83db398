/* pagestore/alloc.h: the allocator hook
 *
 * pagestore takes its memory from one allocator, malloc's unless replaced:
 *
 *     static const pgs_allocator mine = { my_alloc, my_realloc, my_free, &arena };
 *     pgs_set_allocator(&mine);
 *
 * Caveat: LMDB and zstd take the memory of their own handles and contexts
 * from malloc.
 *
 * Threads: call pgs_set_allocator() before any other function of the library,
 * once; the allocator itself must be thread-safe.
 */
#ifndef PAGESTORE_ALLOC_H
#define PAGESTORE_ALLOC_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pgs_allocator {
	void *(*alloc)(void *ctx, size_t size_bytes);              /* NULL when out of memory; size is never 0 */
	void *(*realloc)(void *ctx, void *ptr, size_t size_bytes); /* ptr may be NULL; size is never 0 */
	void (*free)(void *ctx, void *ptr);                        /* ptr may be NULL */
	void *ctx;
} pgs_allocator;

/* Use `allocator` (copied) from now on; NULL goes back to malloc's. Everything
 * allocated before must have been freed. Since 0.1. */
void pgs_set_allocator(const pgs_allocator *allocator);

#ifdef __cplusplus
}
#endif

#endif
