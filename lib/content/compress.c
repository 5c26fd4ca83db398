/* Compression of pages and deltas.
 *
 * Frames are zstd's (RFC 8878) without a content size, checksum or dictionary; a delta leaves out the four bytes
 * of the magic number, which are the same in each.
 */
#include "content/compress.h"

#include <string.h>
#include <zstd.h>

#include <pagestore/error.h>

#include "util/alloc.h"
#include "util/cursor.h"

#define MAGIC_SIZE 4

/* A delta is a few literals among zeros: there is next to nothing for an entropy coder, and its tables take longer than
 * all the rest. */
#define DELTA_LEVEL (-1)

static const uint8_t magic[MAGIC_SIZE] = {0x28, 0xb5, 0x2f, 0xfd};

void pgs__workbench_pool_init(pgs__workbench_pool *pool, uint32_t page_size, int level)
{
	pthread_mutex_init(&pool->lock, NULL);
	pool->free = NULL;
	pool->page_size = page_size;
	pool->level = level;
}

static void bench_free(pgs__workbench *bench)
{
	ZSTD_freeCCtx(bench->compressor);
	ZSTD_freeCCtx(bench->delta_compressor);
	ZSTD_freeDCtx(bench->decompressor);
	pgs__free(bench->page);
	pgs__free(bench->frame);
	pgs__free(bench);
}

void pgs__workbench_pool_free(pgs__workbench_pool *pool)
{
	while (pool->free) {
		pgs__workbench *bench = pool->free;
		pool->free = bench->next;
		bench_free(bench);
	}
	pthread_mutex_destroy(&pool->lock);
}

static pgs__workbench *bench_new(uint32_t page_size, int level)
{
	pgs__workbench *bench = pgs__calloc(1, sizeof *bench);
	if (!bench)
		return NULL;
	bench->page_size = page_size;
	bench->frame_capacity = ZSTD_compressBound(page_size) + MAGIC_SIZE;
	bench->compressor = ZSTD_createCCtx();
	bench->delta_compressor = ZSTD_createCCtx();
	bench->decompressor = ZSTD_createDCtx();
	bench->page = pgs__malloc(page_size);
	bench->frame = pgs__malloc(bench->frame_capacity);
	if (!bench->compressor || !bench->delta_compressor || !bench->decompressor || !bench->page || !bench->frame) {
		bench_free(bench);
		return NULL;
	}
	ZSTD_CCtx_setParameter(bench->compressor, ZSTD_c_compressionLevel, level);
	ZSTD_CCtx_setParameter(bench->compressor, ZSTD_c_contentSizeFlag, 0);
	ZSTD_CCtx_setParameter(bench->delta_compressor, ZSTD_c_compressionLevel, DELTA_LEVEL);
	ZSTD_CCtx_setParameter(bench->delta_compressor, ZSTD_c_contentSizeFlag, 0);
	return bench;
}

pgs__workbench *pgs__workbench_take(pgs__workbench_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pgs__workbench *bench = pool->free;
	if (bench)
		pool->free = bench->next;
	pthread_mutex_unlock(&pool->lock);
	return bench ? bench : bench_new(pool->page_size, pool->level);
}

void pgs__workbench_give(pgs__workbench_pool *pool, pgs__workbench *bench)
{
	if (!bench)
		return;
	pthread_mutex_lock(&pool->lock);
	bench->next = pool->free;
	pool->free = bench;
	pthread_mutex_unlock(&pool->lock);
}

pgs_slice pgs__compress_page(pgs__workbench *bench, const void *page)
{
	size_t size = ZSTD_compress2(bench->compressor, bench->frame, bench->frame_capacity, page, bench->page_size);
	if (ZSTD_isError(size) || size >= bench->page_size)
		return (pgs_slice){page, bench->page_size};
	return (pgs_slice){bench->frame, size};
}

int pgs__decompress_page(pgs__workbench *bench, pgs_slice content, void *page)
{
	if (content.size == bench->page_size) {
		memcpy(page, content.data, content.size);
		return PGS_OK;
	}
	size_t size = ZSTD_decompressDCtx(bench->decompressor, page, bench->page_size, content.data, content.size);
	return size == bench->page_size ? PGS_OK : PGS_ECORRUPT;
}

/* out = a XOR b; returns how many 8-byte words differ. */
static size_t xor_pages(uint8_t *out, const uint8_t *a, const uint8_t *b, size_t size)
{
	size_t differing = 0;
	for (size_t i = 0; i < size; i += 8) {
		uint64_t x, y;
		memcpy(&x, a + i, 8);
		memcpy(&y, b + i, 8);
		x ^= y;
		differing += x != 0;
		memcpy(out + i, &x, 8);
	}
	return differing;
}

pgs_slice pgs__delta_encode(pgs__workbench *bench, const void *page, const void *base, size_t max)
{
	const pgs_slice none = {NULL, 0};
	size_t differing = xor_pages(bench->page, page, base, bench->page_size);
	/* A differing word costs a byte at the very least: do not compress what cannot become small. */
	if (differing > 2 * max)
		return none;
	size_t size =
		ZSTD_compress2(bench->delta_compressor, bench->frame, bench->frame_capacity, bench->page, bench->page_size);
	if (ZSTD_isError(size))
		return none;
	return pgs__delta_of_frame((pgs_slice){bench->frame, size}, bench->page_size, max);
}

pgs_slice pgs__delta_of_frame(pgs_slice content, uint32_t page_size, size_t max)
{
	if (content.size == page_size || content.size < MAGIC_SIZE || content.size - MAGIC_SIZE > max)
		return (pgs_slice){NULL, 0};
	return (pgs_slice){(const uint8_t *)content.data + MAGIC_SIZE, content.size - MAGIC_SIZE};
}

int pgs__delta_apply(pgs__workbench *bench, pgs_slice delta, const void *base, void *page)
{
	if (delta.size == 0 || delta.size > bench->frame_capacity - MAGIC_SIZE)
		return PGS_ECORRUPT;
	memcpy(bench->frame, magic, MAGIC_SIZE);
	memcpy(bench->frame + MAGIC_SIZE, delta.data, delta.size);
	size_t size = ZSTD_decompressDCtx(bench->decompressor, bench->page, bench->page_size, bench->frame,
					  delta.size + MAGIC_SIZE);
	if (size != bench->page_size)
		return PGS_ECORRUPT;
	xor_pages(page, bench->page, base, bench->page_size);
	return PGS_OK;
}
