/* Handles: a cache file as a store uses it, and a database's part of it. */
#ifndef PGS_LOCAL_CACHE_DATABASE_H
#define PGS_LOCAL_CACHE_DATABASE_H

#include "local_cache/file.h"

struct pgs__disk_cache {
	pgs__cache_file *file;
	uint8_t identity[16];
	pgs_logger logger;
	void *logger_ctx;
	_Atomic uint32_t told; /* bits: kinds of trouble that were logged */
};

struct pgs__disk_db {
	pgs__disk_cache *cache;
	pgs__cache_file *file;
	uint8_t prefix[PGS__PREFIX_SIZE];
	uint32_t page_size;
	uint32_t number; /* of its contents */
	unsigned slot;
};

enum { PGS__TOLD_FAILED = 1, PGS__TOLD_BAD = 2, PGS__TOLD_FULL = 4, PGS__TOLD_MIRROR = 8 };

/* One line to the logger, the first time that this kind of trouble is met. */
void pgs__disk_tell(pgs__disk_cache *cache, uint32_t kind, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* A failed call: told, and turned into a PGS_E…. */
int pgs__disk_failed(pgs__disk_cache *cache, int rc, const char *what, pgs_error *err);

#endif
