/* What contents.c and locate.c share: a fetch, and its jobs. */
#ifndef PGS_CONTENT_FETCH_H
#define PGS_CONTENT_FETCH_H

#include "content/contents.h"

#define PGS__FETCH_GAP_MAX (64u << 10) /* bytes read and thrown away rather than asked for separately */
#define PGS__FETCH_SPAN_MAX (8u << 20) /* of one ranged read */
#define PGS__FETCH_BLOCK_MAX (16u << 20) /* the same ahead of time, */
#define PGS__FETCH_BLOCK_GAP (1u << 20)  /* and what is thrown away there, as long as half of the read is wanted */
#define PGS__FETCH_BAD_MAX 4           /* files with a damaged copy that are remembered */

/* One content to find. What is about a place holds for one attempt, with one map of files. */
typedef struct pgs__job {
	pgs__want *want;
	pgs__file *file; /* where it was located, or NULL */
	uint64_t offset;
	uint32_t length;
	bool done;
	bool kv_bad;                          /* c/ has a damaged copy */
	uint8_t bad_count;
	const pgs__file *bad[PGS__FETCH_BAD_MAX]; /* files that have a damaged one, or whose table is */
	pgs_error *why; /* the first damage met; counts if no other copy is good */
} pgs__job;

typedef struct pgs__fetch {
	pgs__contents *contents;
	pgs__workbench *bench;
	pgs__job *jobs; /* in id order */
	size_t count;
	bool damaged; /* a copy was found damaged: look for others */
	bool missed;  /* a file was not there; it may have been merged away */
	bool last_level; /* locating in the last one, which is not level 0 */
	bool last;    /* it was not: what is not there is damage */
	bool keeps;   /* the machine's cache file is used, for contents and for tables and filters */
	bool recent;  /* ahead of time: look into c/ first */
	pgs__content_visitor visit; /* ahead of time: who keeps it; else NULL */
	void *visit_ctx;
	uint64_t deadline_ms;
	pgs_error *err;
} pgs__fetch;

/* The copy in `file` (NULL = c/) cannot be used, as `why` says: look elsewhere. PGS_OK or ENOMEM. */
int pgs__job_damaged(pgs__fetch *f, pgs__job *j, const pgs__file *file, const pgs_error *why);

/* `file`, in which a job's content is or may be, is not there. Merged away: look again. If it is still registered, it is
 * lost: another may have the content. (Of a dropped database files go before their keys: this is no damage yet.) PGS_OK
 * or ENOMEM. */
int pgs__job_missed(pgs__fetch *f, pgs__job *j, const pgs__file *file);

/* Take what is in the machine's cache file (local.c). */
void pgs__fetch_local(pgs__fetch *f);

/* Find the files of all jobs that are neither done nor located (locate.c). Jobs that are in no file stay as they are.
 * Errors: the blob store's, ENOMEM. */
int pgs__locate(pgs__fetch *f, const pgs__file_map *map);

#endif
