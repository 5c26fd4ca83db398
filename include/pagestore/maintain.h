/* pagestore/maintain.h: maintenance, retention, pins, named snapshots
 *
 *     pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
 *     pgs_maintain(db, NULL, &report, &err);       // does what is due; repeat while report.more
 *
 *     pgs_snapshot_create(db, "before-upgrade", 14, NULL, &err);
 *     pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
 *     o.at_snapshot = "before-upgrade";
 *     o.at_snapshot_size = 14;
 *     pgs_begin(&t, db, &o, &err);
 *
 * Maintenance moves contents from the KV into sorted files, merges those,
 * drops what no retained revision, pin or named snapshot needs, folds packs,
 * prunes the changelog and removes blobs that nothing refers to. It runs
 * beside readers and writers, in any number of processes at once: they share
 * the work. Interrupted anywhere, it loses nothing, and the next run goes on.
 *
 * Caveats: history shorter than the retention stays readable, older revisions
 * answer PGS_EOLDREV. What is retained takes room: see docs/operations.md.
 *
 * Threads: as pagestore/store.h.
 */
#ifndef PAGESTORE_MAINTAIN_H
#define PAGESTORE_MAINTAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/error.h>
#include <pagestore/store.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PGS_RETENTION_NONE UINT64_MAX /* keep no history but what pins and snapshots need */

typedef struct pgs_maintain_progress {
	const char *job;       /* "floor", "flush", "fold", "merge", "sweep", "compact", "wait"; static */
	uint64_t done, total;  /* bytes or keys of this job; total 0 = not known */
} pgs_maintain_progress;

typedef struct pgs_maintain_options {
	uint32_t struct_size;
	bool all;     /* do everything possible, whatever the thresholds say. Where a claim or a pin of another machine is in
		       * the way at the end, wait for its lease to run out, if that is within budget_ms, or 10 minutes. */
	bool dry_run; /* only report what is due */
	bool scrub;   /* prove every content that is merged by its id */
	/* Thresholds; 0 = the default. */
	uint64_t retention_ms;   /* history kept readable; 0 = 3,600,000 (1 hour), or PGS_RETENTION_NONE */
	uint32_t quota_percent;  /* of the KV's quota, past which history is cut short; 0 = 40 */
	uint32_t flush_pages;    /* contents in the KV that are moved to a file; 0 = 2500 */
	uint64_t flush_bytes;    /* the same as bytes (contents × page size); 0 = 160 MB */
	uint32_t level0_files;   /* that are merged into level 1; 0 = 4 */
	uint32_t level_fanout;   /* level i holds fanout^i files before its excess moves on; 0 = 10 */
	uint64_t file_bytes;     /* a sorted file's size at most; 0 = 256 MiB, which is also the most. A snapshot's index
				  * files end there, too, if it is less than 16 MiB. */
	/* Bounds of one call. */
	uint64_t memory_bytes;   /* for merging; 0 = 64 MiB */
	uint64_t budget_ms;      /* stop between steps after so long; 0 = no bound */
	uint64_t budget_bytes;   /* or so many bytes of blobs written; 0 = no bound. report->more says that work is left,
				  * and a merge that was begun is finished first. */
	/* Called now and then in the calling thread; return 0 to go on, anything else ends pgs_maintain() with it. */
	int (*progress)(void *ctx, const pgs_maintain_progress *progress);
	void *progress_ctx;
} pgs_maintain_options;

#define PGS_MAINTAIN_OPTIONS_INIT \
	{ sizeof(pgs_maintain_options), false, false, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

typedef struct pgs_maintain_report {
	uint32_t struct_size;
	bool more;                  /* work is left: due, or begun and not finished within the budget */
	bool busy;                  /* another worker was at some of it */
	uint64_t floor_revision;    /* the oldest revision readable now */
	uint64_t flushed_pages;     /* contents moved from the KV to level 0 */
	uint64_t merges;            /* merges registered */
	uint64_t merged_files;      /* their inputs */
	uint64_t bytes_read;        /* from the blob store */
	uint64_t bytes_written;     /* to the blob store */
	uint64_t dropped_contents;  /* garbage left out of merges */
	uint64_t dropped_bytes;
	uint64_t damaged_contents;  /* copied as they were, no good copy being there: run pgs_verify() */
	uint64_t folded_packs;
	uint64_t folded_pointers;
	uint64_t pruned_changes;    /* changelog entries */
	uint64_t removed_blobs;
	uint64_t removed_bytes;
	uint64_t removed_orphans;   /* of those blobs, ones that were never registered */
	uint64_t lost_pins;         /* pins below a revision that someone else compacted the KV to */
	uint64_t compacted_revision; /* the KV's history begins there now; 0 = not compacted by this call */
	/* due now (dry_run), or still due at the end */
	uint64_t due_flush_pages;
	uint64_t due_merge_files;
	uint64_t due_packs;
	uint64_t due_blobs;         /* unregistered, waiting for the floor */
} pgs_maintain_report;

#define PGS_MAINTAIN_REPORT_INIT \
	{ sizeof(pgs_maintain_report), false, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Do the maintenance of a database that is due, then return. `options` (may be
 * NULL) are copied; zeros take the database's own thresholds (pgs_db_options),
 * then the defaults. `report` may be NULL. Errors: EREADONLY, EINVAL
 * (struct_size, file_bytes), ENOTFOUND (dropped), ECORRUPT (a damaged table or
 * key: nothing is dropped on such a basis), EOLDREV (someone else compacted
 * the KV above the floor), EVERSION, ENOSPC, EIO, ETIMEOUT,
 * EAUTH, ENOMEM, the progress callback's; what was done before stays done, and
 * the report tells it. Since 0.1. */
int pgs_maintain(pgs_db *db, const pgs_maintain_options *options, pgs_maintain_report *report, pgs_error *err);

/* pgs_maintain() for every database of the store, and what belongs to none:
 * the rest of dropped databases, blobs of databases that never came to be.
 * Reports are summed up. Claims and pins of dead processes of other machines
 * are broken when this handle has seen them unchanged for their lease: call it
 * again and again on one handle. Since 0.1. */
int pgs_maintain_store(pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
		       pgs_error *err);

/* --- pins -------------------------------------------------------------------------- */

/* Keeps one revision readable. */
typedef struct pgs_revision_pin pgs_revision_pin;

/* Keep `revision` (0 = the latest) readable until the pin is released, or not
 * renewed for `lease_ms` (0 = 60,000), or its process is seen to be gone.
 * *revision_out (may be NULL) is what to read it by: `revision`, or that of
 * the latest commit. Release it before the database is closed. Errors: EOLDREV (with
 * the oldest readable revision in the message), EINVAL (a future revision),
 * ENOTFOUND (dropped), EREADONLY, EUNKNOWN, EIO, ENOSPC, ETIMEOUT, ENOMEM.
 * Since 0.1. */
int pgs_pin_revision(pgs_revision_pin **out, pgs_db *db, uint64_t revision, uint32_t lease_ms,
		     uint64_t *revision_out, pgs_error *err);

/* Renew the lease, also of a pin that was broken while its revision stayed.
 * Errors: EOLDREV (the revision is gone), ENOTFOUND (database dropped),
 * EUNKNOWN, EIO, ENOSPC, ETIMEOUT, ENOMEM. Since 0.1. */
int pgs_pin_renew(pgs_revision_pin *pin, pgs_error *err);

/* Release the pin and free it. NULL is allowed. Since 0.1. */
void pgs_unpin_revision(pgs_revision_pin *pin);

/* --- named snapshots --------------------------------------------------------------- */

#define PGS_SNAPSHOT_NAME_MAX 255

typedef struct pgs_snapshot_options {
	uint32_t struct_size;
	uint64_t at_revision; /* 0 = the latest */
	int64_t at_time_ms;   /* the last commit at or before this Unix time; 0 = unused */
} pgs_snapshot_options;

#define PGS_SNAPSHOT_OPTIONS_INIT { sizeof(pgs_snapshot_options), 0, 0 }

/* Keep the database as of a retained revision under `name` (1 …
 * PGS_SNAPSHOT_NAME_MAX bytes of any value), until it is dropped. Writes an
 * index of its pages to the blob store: time and room grow with the number of
 * pages, a few ten bytes each. `options` may be NULL. Errors: EEXIST, EINVAL
 * (name, options, a future revision), EOLDREV, ENOTFOUND (database dropped; no
 * commit at that time), EREADONLY, EUNKNOWN (look whether it is there),
 * ECORRUPT, ENOSPC, EIO, ETIMEOUT, ENOMEM. Since 0.1. */
int pgs_snapshot_create(pgs_db *db, const void *name, size_t name_size, const pgs_snapshot_options *options,
			pgs_error *err);

typedef struct pgs_snapshot_info {
	const void *name;     /* name_size bytes, borrowed for the call */
	size_t name_size;
	uint64_t revision;    /* of the commit it shows */
	uint64_t page_count;  /* the extent */
	int64_t created_ms;   /* Unix time */
	uint64_t index_bytes; /* of its index in the blob store */
	uint64_t pointer_count; /* pages that hold something */
} pgs_snapshot_info;

/* Called per snapshot in memcmp order of names; return 0 to go on. */
typedef int (*pgs_snapshot_lister)(void *ctx, const pgs_snapshot_info *info);

/* List the named snapshots. Errors: ENOTFOUND (dropped), ECORRUPT, EIO,
 * ETIMEOUT, ENOMEM, the lister's. Since 0.1. */
int pgs_snapshot_list(pgs_db *db, pgs_snapshot_lister lister, void *ctx, pgs_error *err);

/* Forget a snapshot, also a damaged one. Transactions that read it may fail
 * from then on (PGS_EOLDREV). Errors: EINVAL (name), ENOTFOUND, EREADONLY,
 * EUNKNOWN (look whether it is there), EVERSION, EIO, ETIMEOUT, ENOMEM.
 * Since 0.1. */
int pgs_snapshot_drop(pgs_db *db, const void *name, size_t name_size, pgs_error *err);

/* --- levels --------------------------------------------------------------------------- */

typedef struct pgs_file_info {
	uint8_t level;
	const char *name;          /* in the blob store; borrowed for the call */
	uint64_t registered;       /* revision */
	uint64_t size_bytes;
	uint64_t content_count;    /* tombstones included */
	uint64_t live_count;       /* contents that are live at the floor; only if asked for, else 0 */
	uint64_t live_bytes;
	uint32_t first_group, last_group; /* locality groups (of 1 MiB of pages) the file covers */
} pgs_file_info;

/* Called per registered sorted file, level by level, in the order lookups go. */
typedef int (*pgs_file_lister)(void *ctx, const pgs_file_info *info);

/* Visit the sorted files. With `live`, each file's table is read and held
 * against the live set, which reads every pointer: for people, not for hot
 * paths. Errors: as pgs_maintain(), the lister's. Since 0.1. */
int pgs_levels(pgs_db *db, bool live, pgs_file_lister lister, void *ctx, pgs_error *err);

#ifdef __cplusplus
}
#endif

#endif
