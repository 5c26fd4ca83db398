/* pagestore/history.h: the log of commits, differences, verification
 *
 *     static int show(void *ctx, const pgs_log_entry *e) {
 *             printf("%" PRIu64 "  %.*s\n", e->revision, (int)e->note_size, (const char *)e->note);
 *             return 0;
 *     }
 *     pgs_log(db, NULL, show, NULL, &err);
 *
 * Threads: as pagestore/store.h.
 */
#ifndef PAGESTORE_HISTORY_H
#define PAGESTORE_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/error.h>
#include <pagestore/store.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pgs_log_entry {
	uint64_t revision;
	int64_t time_ms;      /* Unix time by the committer's clock */
	const uint8_t *uuid;  /* 16 bytes */
	const void *note;     /* note_size bytes, NULL = none */
	size_t note_size;
	uint64_t pages_written; /* pages whose pointer the commit changed */
	uint64_t attrs_written;
	bool truncated;       /* it set the page count lower */
	uint64_t page_count;  /* after the commit, as the committer knew it */
	uint64_t kv_bytes;    /* keys and values it put into the KV */
	uint64_t blob_bytes;  /* bytes it put into the blob store */
} pgs_log_entry;

/* Called per commit, newest first. The entry is borrowed for the call. Return
 * 0 to go on; anything else ends pgs_log() with it. */
typedef int (*pgs_log_visitor)(void *ctx, const pgs_log_entry *entry);

typedef struct pgs_log_options {
	uint32_t struct_size;
	uint64_t max_entries;   /* 0 = all */
	uint64_t from_revision; /* commits at or after it; 0 = all */
	uint64_t to_revision;   /* commits at or before it; 0 = latest */
} pgs_log_options;

#define PGS_LOG_OPTIONS_INIT { sizeof(pgs_log_options), 0, 0, 0 }

/* Visit the commits still in the changelog. Errors: ENOTFOUND (dropped), EIO,
 * ETIMEOUT, ECORRUPT, ENOMEM, the visitor's. Since 0.1. */
int pgs_log(pgs_db *db, const pgs_log_options *options, pgs_log_visitor visitor, void *ctx, pgs_error *err);

/* Called per changed page, in rising order. */
typedef int (*pgs_diff_visitor)(void *ctx, uint64_t page_no);

/* Visit the pages whose content differs between two revisions (in either
 * order). Errors: EOLDREV, ENOTFOUND, EINVAL (a future revision), EIO,
 * ETIMEOUT, ECORRUPT, ENOMEM, the visitor's. Since 0.1. */
int pgs_diff(pgs_db *db, uint64_t revision_a, uint64_t revision_b, pgs_diff_visitor visitor, void *ctx,
	     pgs_error *err);

struct pgs_txn;

/* The same between what two open transactions of one database read: revisions,
 * the latest, or named snapshots, which need not be in the KV's history any
 * more. What the transactions wrote themselves does not count. With a named
 * snapshot it reads all of both indexes, in bounded memory; without, only what
 * was changed between. Neither transaction may be used meanwhile. Errors: as
 * pgs_diff(), and EINVAL (two databases). Since 0.1. */
int pgs_diff_txns(struct pgs_txn *a, struct pgs_txn *b, pgs_diff_visitor visitor, void *ctx, pgs_error *err);

typedef struct pgs_verify_finding {
	int code;         /* PGS_ECORRUPT or PGS_EVERSION; PGS_OK = a note */
	uint64_t page;    /* the page, or PGS_NO_PAGE */
	uint64_t revision; /* of the pointer or key; 0 = none */
	const char *message; /* where and what; borrowed for the call */
	const char *hint;    /* what to do about it; static */
} pgs_verify_finding;

typedef struct pgs_verify_report {
	uint32_t struct_size;
	uint64_t pointers_checked; /* pointers of all retained revisions; deep: and of named snapshots */
	uint64_t contents_checked; /* distinct contents that pointers need, read and re-hashed */
	uint64_t bytes_checked;
	uint64_t findings;         /* damage */
	uint64_t from_revision;    /* the oldest revision that was checked */
	uint64_t to_revision;
	uint64_t notes;            /* deep: what is untidy and harms nobody */
	uint64_t files_checked;    /* sorted files */
	uint64_t copies_checked;   /* deep: contents read in sorted files and in the KV, needed or not */
	uint64_t snapshots_checked; /* deep */
} pgs_verify_report;

#define PGS_VERIFY_REPORT_INIT { sizeof(pgs_verify_report), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

typedef struct pgs_verify_options {
	uint32_t struct_size;
	/* Per finding; return 0 to go on. NULL = only count. */
	int (*finding)(void *ctx, const pgs_verify_finding *finding);
	/* Now and then: pointers and copies done, and the total known so far. Return 0 to go on. */
	int (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
	bool deep; /* also named snapshots, every content of every sorted file, levels, and blobs nobody refers to */
	/* Per note (deep); return 0 to go on. NULL = only count. */
	int (*note)(void *ctx, const pgs_verify_finding *note);
} pgs_verify_options;

#define PGS_VERIFY_OPTIONS_INIT { sizeof(pgs_verify_options), 0, 0, 0, false, 0 }

/* Read and re-hash every content of every retained revision, past the caches.
 * Damage is reported as findings and does not stop it: the result is PGS_OK
 * when all was looked at and nothing was found, PGS_ECORRUPT when something
 * was, or the error that stopped it (EIO, ETIMEOUT, ENOTFOUND, EOLDREV: the
 * history was forgotten faster than it could be read, ENOMEM, the callbacks').
 * Notes do not count. Others may write and do maintenance meanwhile.
 *
 * Deep, it reads all there is: the indexes and attributes of named snapshots,
 * each copy of each content in sorted files and the KV, also those that no
 * revision needs any more, every table against its filter, fences and key, and
 * the list of blobs. `options` may be NULL. Since 0.1. */
int pgs_verify(pgs_db *db, const pgs_verify_options *options, pgs_verify_report *report, pgs_error *err);

#ifdef __cplusplus
}
#endif

#endif
