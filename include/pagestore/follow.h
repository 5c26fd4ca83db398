/* pagestore/follow.h: keeping up with what others commit
 *
 *     pgs_follow_start(db, NULL, &err);
 *     ...
 *     pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
 *     o.freshness = PGS_BOUNDED;
 *     o.bound_ms = 50;
 *     pgs_begin(&txn, db, &o, &err);        // mostly without asking the KV
 *     ...
 *     pgs_follow_stop(db);
 *
 * A follower watches a database and applies what is committed, whole commits in
 * order: to the page cache, so that pages in use stay there as they change, and
 * to the snapshot on which transactions begin that ask for less than
 * PGS_LATEST. Without a follower those see what this process did and read. With
 * a cache file (cache= in the store's URL) one of the machine's followers also
 * keeps the file's copy of where pages are up to date, for all its processes;
 * when it ends another one does (docs/cache.md).
 *
 * Caveats: one follower per database of a store, whichever handle it was asked
 * for by. What it cannot do it tries again; a KV that is away, or has forgotten
 * the history that is needed, makes it late, and nothing it says wrong. It ends
 * with the last handle of the database. After fork() the child has none.
 *
 * Threads: all functions may be called from any threads.
 */
#ifndef PAGESTORE_FOLLOW_H
#define PAGESTORE_FOLLOW_H

#include <stdbool.h>
#include <stdint.h>

#include <pagestore/error.h>
#include <pagestore/store.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a follower fetches of the pages that were changed. */
enum {
	PGS_FETCH_DEFAULT = 0, /* HOT */
	PGS_FETCH_NONE = 1, /* nothing: who reads them fetches them */
	PGS_FETCH_HOT = 2,  /* those the page cache knew, or the machine's cache file: somebody has read them */
	PGS_FETCH_ALL = 3   /* all; and when it begins, all pages that there are, but for those at hand: for stores with a
			     * cache file that has room for them, or a page cache that has */
};

typedef struct pgs_follow_options {
	uint32_t struct_size; /* set by PGS_FOLLOW_OPTIONS_INIT */
	uint32_t fetch;       /* PGS_FETCH_… */
	uint32_t confirm_ms;  /* how often to ask the KV whether anything was missed; 0 = 1000. More often, while
			       * transactions begin with PGS_BOUNDED: so often that these need not ask */
	uint64_t fetch_bytes_per_s; /* bound on what is fetched, in bytes that come from KV and blob store; 0 = none */
} pgs_follow_options;

#define PGS_FOLLOW_OPTIONS_INIT { sizeof(pgs_follow_options), 0, 0, 0 }

/* Follow on threads of its own, one that applies and one that fetches, from now to pgs_follow_stop(). They block all
 * signals, and call the logger. It begins by itself when the KV is not there yet. `options` are copied; NULL is the
 * defaults. What goes wrong later is tried again, logged once, and told by pgs_follow_stat_get(). Errors: EINVAL
 * (options), EBUSY (there is a follower), ENOMEM (memory, or no thread). Since 0.1. */
int pgs_follow_start(pgs_db *db, const pgs_follow_options *options, pgs_error *err);

/* End the follower: it has ended when this returns, which takes as long as the call it is in. No error if there is none.
 * What is known stays known. Since 0.1. */
void pgs_follow_stop(pgs_db *db);

/* Follow on the caller's thread, for as long as it takes to have applied what was committed before the call, at most
 * timeout_ms (0: as the store's). The first call begins, with the default options; where there is history to go through
 * each goes on where the last one ended. In what is left of the time, what changed is fetched. Errors: EBUSY (another
 * thread follows), ETIMEOUT (not there yet), ENOTFOUND (database dropped), the KV's and blob store's, ECORRUPT, EVERSION,
 * ENOMEM. Since 0.1. */
int pgs_follow_step(pgs_db *db, uint32_t timeout_ms, pgs_error *err);

/* What waits to be fetched, in the order in which it is. */
enum {
	PGS_FETCH_QUEUE_COMMITS = 0, /* pages of commits that were just applied: contents are in the KV for a while */
	PGS_FETCH_QUEUE_FILES = 1,   /* sorted files that were just registered: their tables and filters */
	PGS_FETCH_QUEUE_HOT = 2,     /* pages that somebody has read */
	PGS_FETCH_QUEUE_FILL = 3,    /* PGS_FETCH_ALL: page numbers, from where it has come to up to the page count */
	PGS_FETCH_QUEUES = 4
};

typedef struct pgs_follow_stat {
	uint32_t struct_size;
	bool running;          /* on a thread of its own */
	int32_t error;         /* what its last step ended with, PGS_OK or PGS_E… */
	uint64_t revision;     /* of the last commit applied; 0 = none yet */
	uint64_t confirmed_ms; /* so many milliseconds ago, at the most, that was the latest; UINT64_MAX = never */
	uint64_t commits;      /* applied */
	uint64_t behind;       /* commits known of and not yet applied */
	uint64_t pages_changed; /* by those commits, pages of truncated ranges not counted */
	uint64_t pages_kept;   /* of them, brought up to date in the page cache by what the watch delivered */
	uint64_t pages_fetched; /* read for the page cache */
	uint64_t pages_waiting; /* to be, by fetch_bytes_per_s; those of the beginning not counted */
	uint64_t restarts;     /* times it had to start over: history was gone */
	uint64_t reconnects;   /* times the watch failed, or fell silent */
	uint64_t bytes_fetched;  /* received from KV and blob store for what was fetched */
	uint64_t fetch_requests; /* sent for that: to the KV, and ranges of blobs */
	uint64_t files_fetched;  /* sorted files whose table and filter were read */
	uint64_t queued[PGS_FETCH_QUEUES]; /* waiting now, by PGS_FETCH_QUEUE_… */
	uint64_t queue_dropped;  /* had no room in a queue: who reads it fetches it */
	uint64_t pages_used, bytes_used;     /* of the pages that were fetched, those that somebody read since, */
	uint64_t pages_wasted, bytes_wasted; /* and those that went, or were changed, before anybody did; in bytes as they
					      * are kept. In neither: those that wait for their reader */
} pgs_follow_stat;

#define PGS_FOLLOW_STAT_INIT { sizeof(pgs_follow_stat), false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
			       { 0, 0, 0, 0 }, 0, 0, 0, 0, 0 }

/* What the follower of this process has done; zeros where there was none. No I/O. stat->struct_size must be set.
 * Errors: EINVAL. Since 0.1. */
int pgs_follow_stat_get(pgs_db *db, pgs_follow_stat *stat, pgs_error *err);

#ifdef __cplusplus
}
#endif

#endif
