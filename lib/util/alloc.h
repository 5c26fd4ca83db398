/* The one allocator every other file takes memory from. */
#ifndef PGS_UTIL_ALLOC_H
#define PGS_UTIL_ALLOC_H

#include <stddef.h>

#include <pagestore/alloc.h>

/* NULL when out of memory. A size of 0 is treated as 1. */
void *pgs__malloc(size_t size);
void *pgs__calloc(size_t count, size_t size); /* zeroed; NULL also when count * size overflows */
void *pgs__realloc(void *ptr, size_t size);
void pgs__free(void *ptr);

/* A NUL-terminated copy of `size` bytes. */
char *pgs__strndup(const char *text, size_t size);

/* Make room for `need` elements of `size` bytes in the growing array `*array`
 * of capacity `*capacity` (elements), doubling. Returns PGS_OK or PGS_ENOMEM,
 * leaving the array as it was. */
int pgs__grow(void *array, size_t *capacity, size_t need, size_t size);

#endif
