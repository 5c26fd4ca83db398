/* Cache files in tests: opened at paths of support/scratch.h, contents made from a number. */
#ifndef TEST_DISK_CACHE_H
#define TEST_DISK_CACHE_H

#include "local_cache/mirror.h"

#define DISK_PAGE 4096

extern const uint8_t disk_prefix[PGS__PREFIX_SIZE];

/* Open a cache of store `store`, attach the database `disk_prefix`, and believe its mirror. Fails the test when that
 * fails. */
typedef struct disk {
	pgs__disk_cache *cache;
	pgs__disk_db *db;
	unsigned warnings; /* lines logged */
} disk;
void disk_open(disk *d, const char *path, uint64_t size, uint8_t store);
void disk_close(disk *d);

/* Content n: its id, and `size` bytes that tell n. */
pgs__page_id disk_id(uint64_t n);
void disk_put(disk *d, uint64_t n, size_t size);
void disk_flush(disk *d);
/* Whether content n is there. What is there must be what was put, or (`damaged` not NULL) is counted there. */
bool disk_has(disk *d, uint64_t n, unsigned *damaged);
pgs__disk_stat disk_stat(disk *d);

/* Pairs: page n's key, and a value that is a pointer to content `content`, put at `revision`. */
typedef struct disk_pair {
	pgs__key key;
	uint8_t value[64];
	pgs_kv_pair pair;
} disk_pair;
void disk_pair_make(disk_pair *p, uint64_t page_no, uint64_t content, uint64_t revision);

/* What the mirror says of page n at `at`: the content, or one of these. */
#define DISK_UNKNOWN UINT64_MAX
#define DISK_ABSENT (UINT64_MAX - 1)
uint64_t disk_page(disk *d, uint64_t page_no, uint64_t at);

/* Load pages 0 … count - 1, page n with content n, at `revision`. */
void disk_load(disk *d, uint64_t count, uint64_t revision);
/* Apply one change: page_no gets `content` (DISK_ABSENT: is deleted). The result is pgs__mirror_apply()'s. */
int disk_apply(disk *d, uint64_t from, uint64_t to, uint64_t page_no, uint64_t content);

#endif
