/* Fetching what readers will want, beside the watch, which never waits for it.
 *
 *     apply ──→ pages of commits ─┐ 1                                     ┌─→ page cache, if it knows the page, or there
 *     l/ keys ─→ files ───────────┤ 2 ─→ what is not at hand ─→ one read ─┤   is no cache file
 *     packs, the cache file ─→ hot ┤ 3                       for neighbours └─→ cache file, marked as fetched ahead
 *     all pointers there are ─────┘ 4
 *
 *   fetch.c        whose turn it is, the bound on bytes, the thread     fetch_queue.c  what waits
 *   fetch_pages.c  pages, and blocks of them                            fetch_hot.c    what the cache file knew
 *
 *  G1 What waits is bounded. What has no room, or fails, is fetched by who reads it; with PGS_FETCH_ALL the walk over all
 *     pointers begins again at the lowest such page when it is through.
 *  G2 After n bytes have come, the next n / rate seconds nothing is asked for.
 *  G3 Nothing is asked for that is at hand: in the page cache, or in the cache file.
 *  G4 A queue is served only when all before it are empty, or hold what no snapshot shows yet.
 */
#ifndef PGS_FOLLOW_FETCH_H
#define PGS_FOLLOW_FETCH_H

#include <pagestore/follow.h>

#include "follow/fetch_queue.h"
#include "local_cache/disk_cache.h"
#include "txn/snapshot.h"
#include "util/task.h"

#define PGS__FETCH_PUT_WAIT_MS 2000 /* for others who write the cache file */

typedef struct pgs__fetcher {
	pgs_db *db;
	pgs_follow_options options; /* set while nothing runs */
	pthread_mutex_t lock;       /* all below */
	pthread_cond_t wake;
	pgs__task thread;
	bool stop;
	pgs__snapshot at;           /* the last one that was told; kv_revision 0: none */
	pgs__page_queue commits, hot;
	pgs__file_queue files;
	uint64_t hot_at;            /* place in the page cache from which pages are still to be looked at, */
	uint64_t fill_page;         /* PGS_FETCH_ALL: and page; UINT64_MAX: all have been */
	uint64_t again_page;        /* where that begins again; UINT64_MAX: nowhere */
	uint64_t again_revision;    /* both by a snapshot of this revision, at least */
	uint64_t next_ms;           /* G2, and after a failure */
	struct {
		uint64_t pages, bytes, requests, files, dropped;
	} done;
	pgs__disk_ahead before;     /* what the cache file had counted when it began */
} pgs__fetcher;

void pgs__fetcher_init(pgs__fetcher *f, pgs_db *db);
void pgs__fetcher_free(pgs__fetcher *f); /* nothing runs */

/* Begin with these options: PGS_FETCH_ALL walks over all pointers. */
void pgs__fetch_begin(pgs__fetcher *f, const pgs_follow_options *options);

/* Start and end the thread. start: false: the system gives none. */
bool pgs__fetch_start(pgs__fetcher *f);
void pgs__fetch_end(pgs__fetcher *f);

/* The database is this now. */
void pgs__fetch_at(pgs__fetcher *f, const pgs__snapshot *at);

/* Whether changes to the page are to be followed by fetching. */
bool pgs__fetch_wants(const pgs__fetcher *f, uint64_t page_no);

/* Put something in a queue (PGS_FETCH_QUEUE_COMMITS or _HOT). */
void pgs__fetch_page_later(pgs__fetcher *f, int queue, const pgs__fetch_page *page);
void pgs__fetch_file_later(pgs__fetcher *f, pgs__file *file);

/* More pages than a queue takes were changed up to `revision`, none below `first`; or nobody knows which. */
void pgs__fetch_again(pgs__fetcher *f, uint64_t first, uint64_t revision);

/* Fetch what comes next; false when nothing waits, or the bound says not now. */
bool pgs__fetch_some(pgs__fetcher *f, uint64_t deadline_ms);

void pgs__fetch_stat(pgs__fetcher *f, pgs_follow_stat *stat);

/* --- fetch_pages.c ------------------------------------------------------------------------ */

typedef struct pgs__fetched {
	size_t pages; /* contents that came */
	size_t files;
} pgs__fetched;

/* Pages of a snapshot; those known, of any. Errors: the backends'; ENOMEM. What is damaged or gone is passed over. */
int pgs__fetch_pages(pgs_db *db, const pgs__snapshot *at, pgs__fetch_page *pages, size_t count, uint64_t deadline_ms,
		     pgs__fetched *out);

/* The next block of all pages from *page on, whose contents take about `bytes` at the most; *page is moved past them. */
int pgs__fetch_block(pgs_db *db, const pgs__snapshot *at, uint64_t *page, uint64_t bytes, uint64_t deadline_ms,
		     pgs__fetched *out);

#endif
