/* pagestore/store.h: stores and databases
 *
 *     pgs_store *store;
 *     pgs_db *db;
 *     pgs_error err = PGS_ERROR_INIT;
 *     if (pgs_open(&store, "dir:/var/lib/app", NULL, &err) != PGS_OK) ...
 *     if (pgs_db_create(&db, store, "ledger", 6, NULL, &err) != PGS_OK) ...
 *     ...
 *     pgs_db_close(db);
 *     pgs_close(store);
 *
 * A store is a KV and a blob store that belong together; a database is a named
 * space of fixed-size pages in it.
 *
 * Caveats: close every transaction before its database and every database
 * before its store. A store refuses a KV and a blob store whose contents do not
 * belong together as soon as it notices (PGS_ECORRUPT).
 *
 * Threads: stores and databases may be used by any number of threads at once;
 * opening and closing the same handle may not race its use.
 */
#ifndef PAGESTORE_STORE_H
#define PAGESTORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pgs_store pgs_store;
typedef struct pgs_db pgs_db;
struct pgs_kv;
struct pgs_blob;

enum { PGS_LOG_ERROR = 1, PGS_LOG_WARN = 2, PGS_LOG_INFO = 3, PGS_LOG_DEBUG = 4 };

/* Called with one line per event, from whatever thread it happened in; must
 * not call the library. Secrets never reach it. */
typedef void (*pgs_logger)(void *ctx, int level, const char *message);

typedef struct pgs_store_options {
	uint32_t struct_size; /* set by PGS_STORE_OPTIONS_INIT */
	uint32_t timeout_ms;  /* bound on each call's wait for the backend; 0 = 30000 */
	bool read_only;       /* refuse everything that writes, and never create the store */
	bool must_exist;      /* PGS_ENOTFOUND instead of making a new store */
	pgs_logger logger;    /* NULL = silent */
	void *logger_ctx;
	uint32_t maintenance; /* PGS_MAINTENANCE_…: who does it, of the databases opened through this handle */
	uint32_t kv_history;  /* PGS_KV_HISTORY_…: whether maintenance may compact the KV */
	uint32_t pressure;    /* PGS_PRESSURE_…: what happens when maintenance does not keep up with writers */
	uint32_t soft_quota_percent; /* of the KV's quota, past which what fills it further (pages, attributes, named
				      * snapshots, new databases) is PGS_ENOSPC; 0 = 80, or PGS_SOFT_QUOTA_OFF */
	const char *cache_path;   /* a file of this machine's for a copy of what was read from the store, as cache= in a URL
				   * (below); copied; NULL = none */
	uint64_t cache_size_bytes; /* bound on that file, 4 MiB at least; 0 = 1 GiB */
} pgs_store_options;

#define PGS_SOFT_QUOTA_OFF UINT32_MAX /* fill the KV until it refuses by itself */

#define PGS_STORE_OPTIONS_INIT { sizeof(pgs_store_options), 0, false, false, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Who does maintenance (pagestore/maintain.h). None of these fails a commit: what goes wrong is logged, and tried again
 * later. A store opened read-only does none. */
enum {
	PGS_MAINTENANCE_DEFAULT = 0, /* BY_WRITERS for mem: and dir:, else MANUAL */
	PGS_MAINTENANCE_MANUAL = 1,  /* nobody but who calls pgs_maintain() */
	PGS_MAINTENANCE_BY_WRITERS = 2, /* a commit that finds a threshold passed does a bounded part of what is due
					 * (some 25 ms, and the step it is in) before it returns; one thread at a time */
	PGS_MAINTENANCE_THREAD = 3   /* a thread of this handle's, from pgs_open() to pgs_close(), looks after the
				      * databases that are open. It blocks all signals, and calls the logger. After
				      * fork() the child has no such thread; it may only close the handle */
};

/* What happens when maintenance does not keep up (docs/operations.md has the limits). Reading is never held up. */
enum {
	PGS_PRESSURE_DEFAULT = 0, /* LIMIT, but REPORT where maintenance is MANUAL */
	PGS_PRESSURE_REPORT = 1,  /* a line in the log, once, and pgs_db_stat.pressure_percent */
	PGS_PRESSURE_LIMIT = 2    /* pgs_begin() for writing helps, is delayed (up to 100 ms), then says PGS_EBUSY */
};

/* Whose the KV's history is. */
enum {
	PGS_KV_HISTORY_DEFAULT = 0, /* OWNED for mem: and dir:, else SHARED */
	PGS_KV_HISTORY_OWNED = 1,   /* the store's alone: maintenance compacts it to the lowest floor */
	PGS_KV_HISTORY_SHARED = 2   /* others use it, or compact it: maintenance leaves it alone */
};

/* Open the store at `url` (NUL-terminated, copied), making it if it is new.
 *
 *   mem:                   private to this handle, gone when it is closed
 *   dir:PATH[?key=value&…] a local directory, shared by any number of processes;
 *                          keys: sync=full|lazy|off (default full),
 *                          map=BYTES of address space (suffixes K M G; default 64G),
 *                          blob=URL of its blobs (default: in the directory)
 *   etcd://HOST:PORT[,HOST:PORT…]/ROOT?blob=URL[&key=value&…]
 *                          a KV in an etcd cluster below /ROOT/ (default "pagestore"),
 *                          and the blobs of another URL (below); keys: user=,
 *                          password_file=, tls=0|1, ca=, cert=, key= (PEM files),
 *                          max_txn_ops=, max_request_bytes=, quota= (as the servers'
 *                          flags). A password comes from its file or from
 *                          PAGESTORE_ETCD_PASSWORD in the environment.
 *
 * The URL of a blob= is escaped (& is %26, % is %25): that of a directory, or
 *   s3://BUCKET[/PREFIX][?key=value&…]
 *                          a bucket of S3 or of a server that speaks it; keys:
 *                          endpoint=http[s]://HOST:PORT, region=, style=path|virtual,
 *                          ca= (PEM file), credentials_file=. Without the last,
 *                          credentials are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
 *                          and AWS_SESSION_TOKEN in the environment.
 *
 * With any of them go two more keys (which win over the options):
 *   cache=PATH             keep a copy of the pages that are read from the store in
 *                          this file, made if missing; its directory must exist. Any
 *                          processes and stores of one machine may share it. What is
 *                          in it is proved before it is used; losing it, or anything
 *                          that happens to it, costs time alone. PATH-lock and
 *                          PATH-state are beside it; all three are their owner's
 *                          alone (0600). Not on a network file system
 *   cache_size=BYTES       what it may grow to (suffixes K M G; 4M at least; default
 *                          1G). The first of those who have it open decides
 *
 * *out is NULL on failure; else the caller closes it with pgs_close().
 * `options` may be NULL. A cache that cannot be used is no failure, but logged,
 * unless its path, its size or the rights there are wrong (EINVAL, ENOTFOUND,
 * EREADONLY). Errors: EINVAL (bad URL or option), ENOTFOUND (no such directory,
 * or `must_exist`), EREADONLY, EIO, ENOSPC, ECORRUPT, EVERSION, ETIMEOUT, EAUTH,
 * ENOMEM. Since 0.1. */
int pgs_open(pgs_store **out, const char *url, const pgs_store_options *options, pgs_error *err);

/* Open a store on backends of the caller's: see pagestore/backends.h for those
 * that come with the library and pagestore/sys/ for writing one. The store owns
 * both from the call on, closing them in pgs_close() and on failure. Errors: as
 * pgs_open(), and EVERSION or EINVAL for a vtable that lacks something.
 * Since 0.1. */
int pgs_open_with(pgs_store **out, struct pgs_kv *kv, struct pgs_blob *blob, const pgs_store_options *options,
		  pgs_error *err);

/* Close the store and its backends. NULL is allowed. Since 0.1. */
void pgs_close(pgs_store *store);

#define PGS_DB_NAME_MAX 255
#define PGS_PAGE_SIZE_MIN 512
#define PGS_PAGE_SIZE_MAX 65536
#define PGS_PAGE_SIZE_DEFAULT 4096

/* How commits are ordered; chosen at creation, recorded, never changed. */
enum {
	PGS_ORDER_REVISION = 0, /* by the KV's revision: the default, and the faster */
	PGS_ORDER_COUNTER = 1   /* by a counter each commit proposes to raise, as the first design had it */
};

typedef struct pgs_db_options {
	uint32_t struct_size;
	/* Used at creation, recorded in the database, ignored when opening: */
	uint32_t page_size_bytes; /* power of two, 512 … 65536; 0 = 4096 */
	uint32_t order;           /* PGS_ORDER_… */
	/* Used by this process: */
	uint32_t expect_page_size_bytes; /* opening: PGS_EINVAL unless the database has it; 0 = any */
	uint64_t cache_bytes;     /* page cache, shared by all handles of the database in this store; the first opener's choice counts; 0 = 64 MiB */
	uint64_t write_buffer_bytes; /* a transaction's written pages kept in memory before they spill to the blob store; 0 = 64 MiB.
				      * Each spill may be a file, and a KV limited to n operations takes about n - 18 in a commit. */
	int32_t compression_level;   /* zstd's, of contents; 0 = 1 */
	uint32_t delta_max_divisor;  /* keep a change as a delta while it is <= page size / this; 0 = 8 */
	const struct pgs_maintain_options *maintain; /* retention and thresholds (pagestore/maintain.h), copied; the first
						      * opener's count; NULL = the defaults */
} pgs_db_options;

#define PGS_DB_OPTIONS_INIT { sizeof(pgs_db_options), 0, 0, 0, 0, 0, 0, 0, 0 }

/* Create the database `name` (`name_size` bytes of any value, 1 …
 * PGS_DB_NAME_MAX; copied) and open it. Errors: EEXIST, EINVAL (name, page
 * size), EREADONLY, EUNKNOWN, EIO, ENOSPC, ETIMEOUT, ENOMEM. Since 0.1. */
int pgs_db_create(pgs_db **out, pgs_store *store, const void *name, size_t name_size, const pgs_db_options *options,
		  pgs_error *err);

/* Open an existing database. Handles of one database share their caches.
 * Errors: ENOTFOUND, EINVAL (name, page size not the expected one), EVERSION
 * (written by a newer version), ECORRUPT (metadata), EIO, ETIMEOUT, ENOMEM.
 * Since 0.1. */
int pgs_db_open(pgs_db **out, pgs_store *store, const void *name, size_t name_size, const pgs_db_options *options,
		pgs_error *err);

/* Close the handle; its transactions must have ended. NULL is allowed. Since 0.1. */
void pgs_db_close(pgs_db *db);

/* Called once per database in memcmp order of names; `name` is borrowed for
 * the call. Return 0 to go on; anything else ends pgs_db_list() with it. */
typedef int (*pgs_db_lister)(void *ctx, const void *name, size_t name_size);

/* List the databases. Errors: EIO, ETIMEOUT, ECORRUPT, ENOMEM, the lister's. Since 0.1. */
int pgs_db_list(pgs_store *store, pgs_db_lister lister, void *ctx, pgs_error *err);

/* Drop a database: from the moment it returns the name is free and open
 * handles get PGS_ENOTFOUND. Its contents are removed by the same call as far
 * as it gets, the rest by maintenance. Errors: ENOTFOUND, EREADONLY, EUNKNOWN,
 * EIO, ETIMEOUT, ENOMEM. Since 0.1. */
int pgs_db_drop(pgs_store *store, const void *name, size_t name_size, pgs_error *err);

/* The database's page size in bytes. Since 0.1. */
uint32_t pgs_db_page_size(const pgs_db *db);

typedef struct pgs_db_stat {
	uint32_t struct_size;
	uint32_t page_size_bytes;
	uint32_t order;            /* PGS_ORDER_… */
	uint64_t revision;         /* of the last commit */
	uint64_t commit_count;     /* since creation */
	uint64_t page_count;       /* the extent */
	int64_t created_ms;        /* Unix time */
	uint64_t floor_revision;   /* the oldest readable; 0 = since creation */
	uint64_t pointer_count;    /* p/ keys */
	uint64_t kv_content_count; /* contents in the KV (c/) */
	uint64_t pack_count;       /* commits not yet folded */
	uint64_t changelog_count;  /* commits in the log */
	uint64_t file_count;       /* registered sorted files */
	uint64_t file_bytes;
	uint64_t blob_count;       /* blobs under the database's name, registered or not */
	uint64_t blob_bytes;
	uint64_t store_kv_bytes;   /* whole store: the KV's size, history included; 0 = unknown */
	/* this process, since the database was opened */
	uint64_t cache_used_bytes;
	uint64_t cache_limit_bytes;
	uint64_t cache_overhead_bytes; /* the cache's own memory beside page data and free room */
	uint64_t cache_hits;
	uint64_t cache_misses;
	/* maintenance (docs/operations.md says what to make of the numbers) */
	uint64_t level0_count;       /* of the sorted files, those of level 0 */
	uint64_t unregistered_count; /* blobs that wait for the floor to be removed */
	uint64_t snapshot_count;     /* named snapshots */
	uint64_t pin_count;          /* pinned revisions, dead pins not yet removed among them */
	uint64_t store_kv_quota_bytes; /* whole store: what the KV may grow to; 0 = unknown */
	uint32_t pressure_percent;   /* of the limit at which writers are refused, whichever is the nearest */
	int32_t maintenance_error;   /* this process: what the last automatic maintenance ended with, PGS_OK or PGS_E… */
	uint64_t store_kv_used_bytes; /* whole store: of store_kv_bytes, what is not free to be used again */
	uint64_t store_kv_soft_quota_bytes; /* whole store: what may be filled before page writes are PGS_ENOSPC; 0 = no
					     * bound */
	/* the machine's cache file (cache=); zeros without one. The first six: this process, all its databases there */
	uint64_t disk_cache_hits;      /* pages */
	uint64_t disk_cache_misses;
	uint64_t disk_cache_hit_bytes; /* compressed */
	uint64_t disk_cache_puts;
	uint64_t disk_cache_evictions;
	uint64_t disk_cache_bad;       /* found damaged, and not used */
	uint64_t disk_cache_page_count; /* in the file */
	uint64_t disk_cache_used_bytes; /* of its bound */
	uint64_t disk_cache_limit_bytes; /* the bound; 0 = there is no cache, or it failed */
} pgs_db_stat;

#define PGS_DB_STAT_INIT                                                                                                 \
	{ sizeof(pgs_db_stat), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,       \
	  0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Facts about the database now. stat->struct_size must be set. Counts keys and
 * lists blobs: not for hot paths. Errors: ENOTFOUND (dropped), EIO, ETIMEOUT,
 * ECORRUPT, ENOMEM. Since 0.1. */
int pgs_stat(pgs_db *db, pgs_db_stat *stat, pgs_error *err);

/* This machine's cache file (cache=), and the database's part of it. What "this process" has done counts from when it
 * opened the file, what "all" have done from when the file was made or started over; both are of all databases in it. */
typedef struct pgs_cache_stat {
	uint32_t struct_size;
	bool usable;               /* there is a cache, and it has not failed; else the numbers of the file are zeros */
	/* this process */
	uint64_t hits;             /* pages that were there, of those that were asked for */
	uint64_t misses;
	uint64_t hit_bytes;        /* compressed */
	uint64_t puts;             /* pages written to it */
	uint64_t put_bytes;        /* compressed */
	uint64_t puts_dropped;     /* pages that came faster than they could be written */
	uint64_t evictions;        /* pages that made room for others */
	uint64_t bad;              /* found damaged, and not used */
	uint64_t errors;           /* calls that failed */
	/* all processes */
	uint64_t all_hits;
	uint64_t all_misses;
	uint64_t all_hit_bytes;
	uint64_t all_puts;
	uint64_t all_put_bytes;
	uint64_t all_puts_dropped;
	uint64_t all_evictions;
	uint64_t all_bad;
	uint64_t all_errors;
	/* the file */
	uint64_t limit_bytes;      /* its bound */
	uint64_t used_bytes;       /* of it, what is not free to be used again */
	uint64_t disk_bytes;       /* what it takes of the disk */
	uint64_t page_count;       /* of all databases */
	uint64_t page_bytes;       /* compressed */
	/* the database's mirror in it: page pointers and the like, which a follower keeps up to date */
	uint64_t mirror_revision;  /* of the KV, to which it has come; 0 = nothing is known yet */
	uint64_t mirror_loading;   /* the revision at which it is being loaded; 0 = it is not */
	uint64_t mirror_horizon;   /* what is older cannot be told from it */
	uint64_t mirror_keys;
	uint64_t mirror_bytes;
	uint64_t mirror_required;  /* a commit of this machine's: until the mirror has come to it, transactions read the KV */
	uint64_t mirror_confirmed_ms; /* so many milliseconds ago, at the most, it had all commits; UINT64_MAX = never */
	int64_t keeper_pid;        /* the process whose follower keeps it; 0 = none does, -1 = one that has no number here */
} pgs_cache_stat;

#define PGS_CACHE_STAT_INIT                                                                                              \
	{ sizeof(pgs_cache_stat), false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  \
	  0, 0 }

/* What the cache file has and did. Asks neither the KV nor the blob store; the first call since the file was opened may
 * read the whole mirror, to prove it. stat->struct_size must be set; without a cache all is zero (and
 * mirror_confirmed_ms UINT64_MAX), and the result PGS_OK. Any thread may call it. Errors: EINVAL (struct_size), EIO (the
 * file failed: *stat has what is known), ENOMEM. Since 0.1. */
int pgs_cache_stat_get(pgs_db *db, pgs_cache_stat *stat, pgs_error *err);

#ifdef __cplusplus
}
#endif

#endif
