/* The allocator hook and the helpers on it. */
#include "util/alloc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore/error.h>

static void *default_alloc(void *ctx, size_t size)
{
	(void)ctx;
	return malloc(size);
}

static void *default_realloc(void *ctx, void *ptr, size_t size)
{
	(void)ctx;
	return realloc(ptr, size);
}

static void default_free(void *ctx, void *ptr)
{
	(void)ctx;
	free(ptr);
}

static pgs_allocator hook = {default_alloc, default_realloc, default_free, NULL};

void pgs_set_allocator(const pgs_allocator *allocator)
{
	static const pgs_allocator standard = {default_alloc, default_realloc, default_free, NULL};
	hook = allocator ? *allocator : standard;
}

void *pgs__malloc(size_t size)
{
	return hook.alloc(hook.ctx, size ? size : 1);
}

void *pgs__calloc(size_t count, size_t size)
{
	if (size && count > SIZE_MAX / size)
		return NULL;
	void *ptr = pgs__malloc(count * size);
	if (ptr)
		memset(ptr, 0, count * size);
	return ptr;
}

void *pgs__realloc(void *ptr, size_t size)
{
	return hook.realloc(hook.ctx, ptr, size ? size : 1);
}

void pgs__free(void *ptr)
{
	if (ptr)
		hook.free(hook.ctx, ptr);
}

char *pgs__strndup(const char *text, size_t size)
{
	char *copy = pgs__malloc(size + 1);
	if (!copy)
		return NULL;
	memcpy(copy, text, size);
	copy[size] = '\0';
	return copy;
}

int pgs__grow(void *array, size_t *capacity, size_t need, size_t size)
{
	if (need <= *capacity)
		return PGS_OK;
	size_t wanted = *capacity ? *capacity : 8;
	while (wanted < need && wanted <= SIZE_MAX / 2)
		wanted *= 2;
	if (wanted < need || wanted > SIZE_MAX / size)
		return PGS_ENOMEM;
	void *old;
	memcpy(&old, array, sizeof old);
	void *grown = pgs__realloc(old, wanted * size);
	if (!grown)
		return PGS_ENOMEM;
	memcpy(array, &grown, sizeof grown);
	*capacity = wanted;
	return PGS_OK;
}
