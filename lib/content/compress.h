/* zstd contexts, pooled: compressing pages and deltas, and undoing both. */
#ifndef PGS_CONTENT_COMPRESS_H
#define PGS_CONTENT_COMPRESS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/sys/slice.h>

/* One thread's tools, borrowed from the pool. */
typedef struct pgs__workbench {
	struct ZSTD_CCtx_s *compressor;
	struct ZSTD_CCtx_s *delta_compressor;
	struct ZSTD_DCtx_s *decompressor;
	uint8_t *page;  /* page_size bytes of scratch */
	uint8_t *frame; /* frame_capacity bytes */
	size_t frame_capacity;
	uint32_t page_size;
	struct pgs__workbench *next;
} pgs__workbench;

typedef struct pgs__workbench_pool {
	pthread_mutex_t lock;
	pgs__workbench *free;
	uint32_t page_size;
	int level;
} pgs__workbench_pool;

void pgs__workbench_pool_init(pgs__workbench_pool *pool, uint32_t page_size, int level);
void pgs__workbench_pool_free(pgs__workbench_pool *pool);

/* NULL when out of memory. */
pgs__workbench *pgs__workbench_take(pgs__workbench_pool *pool);
void pgs__workbench_give(pgs__workbench_pool *pool, pgs__workbench *bench);

/* Compress a page into bench->frame. The slice is the zstd frame, or the page itself when that is not larger. */
pgs_slice pgs__compress_page(pgs__workbench *bench, const void *page);

/* Undo it: page_size bytes into `page`. PGS_OK or PGS_ECORRUPT. */
int pgs__decompress_page(pgs__workbench *bench, pgs_slice content, void *page);

/* The delta of `page` against `base` in bench->frame if it is at most `max` bytes, else an empty slice. */
pgs_slice pgs__delta_encode(pgs__workbench *bench, const void *page, const void *base, size_t max);

/* The delta against the zero page that a compressed page is, or an empty slice (raw, or larger than max). */
pgs_slice pgs__delta_of_frame(pgs_slice content, uint32_t page_size, size_t max);

/* page = base XOR delta; `page` may be `base`. PGS_OK or PGS_ECORRUPT. */
int pgs__delta_apply(pgs__workbench *bench, pgs_slice delta, const void *base, void *page);

#endif
