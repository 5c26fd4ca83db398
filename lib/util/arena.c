/* A list of blocks, each about twice the one before up to 1 MiB; large requests get their own. */
#include "util/arena.h"

#include <stdint.h>
#include <string.h>

#include <pagestore/error.h>

#include "util/alloc.h"

#define BLOCK_MAX (1u << 20)

struct pgs__arena_block {
	struct pgs__arena_block *older;
	size_t capacity;
	max_align_t data[];
};

/* The first, header included, is as much as glibc's malloc gives out of its fast per-thread lists. */
#define BLOCK_MIN (1024 - sizeof(struct pgs__arena_block))

static size_t align_up(size_t size)
{
	return (size + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
}

void *pgs__arena_alloc(pgs__arena *arena, size_t size)
{
	if (size > SIZE_MAX / 2)
		return NULL;
	size = align_up(size ? size : 1);
	struct pgs__arena_block *block = arena->blocks;
	if (!block || block->capacity - arena->used < size) {
		size_t capacity = block ? block->capacity * 2 : BLOCK_MIN;
		if (capacity > BLOCK_MAX)
			capacity = BLOCK_MAX;
		if (capacity < size)
			capacity = size;
		block = pgs__malloc(sizeof *block + capacity);
		if (!block)
			return NULL;
		*block = (struct pgs__arena_block){arena->blocks, capacity};
		arena->blocks = block;
		arena->used = 0;
	}
	void *at = (char *)block->data + arena->used;
	arena->used += size;
	return at;
}

void *pgs__arena_calloc(pgs__arena *arena, size_t count, size_t size)
{
	if (size && count > SIZE_MAX / size)
		return NULL;
	void *at = pgs__arena_alloc(arena, count * size);
	if (at)
		memset(at, 0, count * size);
	return at;
}

int pgs__arena_copy(pgs__arena *arena, pgs_slice bytes, pgs_slice *out)
{
	*out = (pgs_slice){NULL, 0};
	if (bytes.size == 0)
		return PGS_OK;
	void *copy = pgs__arena_alloc(arena, bytes.size);
	if (!copy)
		return PGS_ENOMEM;
	memcpy(copy, bytes.data, bytes.size);
	*out = (pgs_slice){copy, bytes.size};
	return PGS_OK;
}

void pgs__arena_free(pgs__arena *arena)
{
	while (arena->blocks) {
		struct pgs__arena_block *block = arena->blocks;
		arena->blocks = block->older;
		pgs__free(block);
	}
	arena->used = 0;
}
