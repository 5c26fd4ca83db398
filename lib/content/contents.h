/* Contents by id: from the KV's c/ and the sorted files, verified.
 *
 * Nothing leaves here that does not hash to the id it was asked for (invariant 1).
 */
#ifndef PGS_CONTENT_CONTENTS_H
#define PGS_CONTENT_CONTENTS_H

#include "content/backend.h"
#include "content/cache.h"
#include "content/compress.h"
#include "content/levels.h"
#include "local_cache/disk_cache.h"

/* Where a database's contents are. */
typedef struct pgs__contents {
	const pgs__backend *backend;
	uint8_t prefix[PGS__PREFIX_SIZE];
	uint8_t secret[PGS__SECRET_SIZE];
	uint32_t page_size;
	pgs__levels levels;
	pgs__workbench_pool benches;
	pgs__cache *cache;
	pgs__disk_db *disk; /* the database's part of the machine's cache file, or NULL */
} pgs__contents;

/* One content to fetch. */
typedef struct pgs__want {
	uint64_t page_no;  /* the page it is for, in messages and for its group */
	pgs__page_id id;
	void *page;        /* page_size bytes, filled when status is PGS_OK */
	int status;        /* PGS_OK, PGS_ENOTFOUND (nowhere to be found), PGS_ECORRUPT */
} pgs__want;

/* Fetch `count` contents, past the cache in memory, in as few calls as possible: from the machine's cache file, else
 * from the store, and then the cache file gets a copy. Returns PGS_OK when every status is, else the
 * first failed status or a backend's error, with *err about it; then statuses not PGS_OK are not filled. */
int pgs__contents_fetch(pgs__contents *contents, pgs__want *wants, size_t count, uint64_t deadline_ms,
			pgs_error *err);

/* The same, past the cache file too: for those who want to know whether the store has them. */
int pgs__contents_fetch_stored(pgs__contents *contents, pgs__want *wants, size_t count, uint64_t deadline_ms,
			       pgs_error *err);

/* Called for a content that was fetched and proved; want->page and `stored`, as pgs__disk_put() takes it, are borrowed
 * for the call. */
typedef void (*pgs__content_visitor)(void *ctx, const pgs__want *want, pgs_slice stored);

/* Fetch contents that nobody waits for, past the cache file: the visitor keeps them, and all wants may share one page.
 * What lies near each other in a file is read together, up to 16 MiB. `recent`: they were just committed, so c/ is looked
 * at before the sorted files. Errors: as above. */
int pgs__contents_fetch_ahead(pgs__contents *contents, pgs__want *wants, size_t count, bool recent,
			      pgs__content_visitor visit, void *ctx, uint64_t deadline_ms, pgs_error *err);

/* Decompress a stored content and prove it by its id; `place` says where it was, for the message. */
int pgs__content_open(pgs__contents *contents, pgs__workbench *bench, pgs_slice stored, const pgs__want *want,
		      const char *place, pgs_error *err);

#endif
