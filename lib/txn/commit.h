/* A commit under way: shared by commit.c, attempt.c, payload.c and validate.c.
 *
 * Several databases of a store may be committed together: then there is a part for each, and one KV transaction has the
 * compares and the puts of all of them. Mostly there is one part. */
#ifndef PGS_TXN_COMMIT_H
#define PGS_TXN_COMMIT_H

#include "codec/changelog.h"
#include "codec/seal.h"
#include "txn/catch_up.h"
#include "txn/lock.h"
#include "txn/txn.h"

/* A page whose pointer must be what the transaction saw. */
typedef struct pgs__page_check {
	uint64_t page_no;
	uint64_t seen_revision;
	pgs__write *blind; /* not read, only the base of this write's delta: on a conflict it is written full */
} pgs__page_check;

/* Checks [first, end), one compare: of a single key, or of a range, which must hold nothing younger than `bound`. */
typedef struct pgs__check_run {
	size_t first, end;
	uint64_t bound;
} pgs__check_run;

typedef enum pgs__check_mode {
	PGS__CHECK_KEYS, /* compare the keys that were read */
	PGS__CHECK_LOG   /* read the changelog here, compare that nobody committed since */
} pgs__check_mode;

/* Operations and bytes of one KV transaction. */
typedef struct pgs__budget {
	size_t ops, bytes;
} pgs__budget;

typedef struct pgs__commit_group pgs__commit_group;

/* One database's part. */
typedef struct pgs__commit {
	const pgs__commit_group *group;
	pgs_txn *t;
	const pgs_commit_options *options;
	pgs_error *err;
	uint64_t deadline_ms;
	uint8_t uuid[16];
	uint8_t digest[16];
	uint64_t base_revision; /* B */
	bool nothing;           /* there is nothing to put; what was read may have to be compared all the same, */
	bool idle;              /* or not even that */
	pgs__budget room;       /* its share of the KV transaction, beside what every commit has; */
	size_t most_compares;   /* and of the compares */

	/* payload.c: what is put, the same in every attempt until `stale` */
	pgs__write **writes; /* ready, in page order */
	size_t write_count;
	pgs__arena arena;
	pgs_kv_op *ops;
	size_t op_count, op_capacity;
	bool packed;     /* the pointers are in a pack */
	bool packs_came; /* z moved since the snapshot: there may be packs that it does not know */
	bool structural; /* z is rewritten: a pack or a truncation */
	bool stale;      /* a pointer was changed: build again */
	uint64_t kv_bytes, blob_bytes;
	char index_blob[PGS__BLOB_NAME_SIZE], changelog_blob[PGS__BLOB_NAME_SIZE]; /* uploaded, or "" */

	/* validate.c: what is compared */
	pgs__page_check *checks; /* in page order */
	size_t check_count;
	pgs__check_run *runs;
	size_t run_count;
	pgs_page_set relied; /* the caller's, not among the checks (yet); NULL = none */
	pgs__check_mode mode;
	uint64_t validated;  /* the changelog was checked through this commit; `t` when CHECK_LOG compares it */
	uint64_t epoch;      /* z */
	uint64_t counter;    /* what is put at t */
	bool put_extent;
	bool alone;          /* this attempt compares that nobody committed since the snapshot, instead of what was seen */
	size_t log_rounds;   /* lost to other commits */
	pgs__writer_lock lock;
	bool begun_locked;   /* the transaction began with it; */
	bool locked_here;    /* or the commit took it */
	bool keeps;          /* this attempt does not delete it, and reads whether others ask for it; */
	bool kept;           /* and has succeeded */

	pgs__catch_up catch_up;

	uint64_t revision;   /* out */
	uint64_t previous;   /* out: the commit before, or UINT64_MAX when not known; */
	uint64_t previous_count; /* and how many there were with it */
	uint64_t sent_ms;    /* the last attempt (monotonic) */
} pgs__commit;

struct pgs__commit_group {
	pgs__commit *parts;  /* as the caller has them */
	size_t count;
	pgs_error *err;
	uint64_t deadline_ms;
	bool asks;           /* this attempt, if it fails, reads why */
	bool failed;         /* an attempt has failed for what it compared */
	bool unknown;        /* an attempt may have been, or may yet be, applied */
	bool final;          /* the failure is for ever, whatever may still be on its way */
	bool done;           /* committed */
	uint64_t sent_ms;    /* the last attempt (monotonic) */
	size_t culprit;      /* the part that the failure is about; count: none in particular */
};

/* One KV transaction, and what it means if it fails. PGS_OK: `done`, or to be sent again. Else as pgs_commit(). */
int pgs__attempt(pgs__commit_group *g);

/* It is known to have happened at this revision. */
void pgs__commit_landed(pgs__commit_group *g, uint64_t revision);

/* pgs_commit_status() until a deadline. */
int pgs__commit_status(pgs_db *db, const pgs_commit_token *token, int *status, uint64_t *revision, uint64_t deadline_ms,
		       pgs_error *err);

/* Give each part its share of the KV's limits. Errors: ELIMIT (too many parts for them). */
int pgs__payload_share(pgs__commit_group *g);

/* Sort the ready writes and compute the digest. PGS_OK or PGS_ENOMEM. */
int pgs__payload_prepare(pgs__commit *c);

/* Put what must be there first (contents, files) and build the operations. */
int pgs__payload_build(pgs__commit *c);

/* Remove the blobs that only this payload refers to, unless an attempt with it may have happened. */
void pgs__payload_discard(pgs__commit *c);

/* Collect what must be unchanged, and choose how to compare it. */
int pgs__validate_prepare(pgs__commit *c);

/* How many compares the page and attribute checks take now; and fill in those, and (unless NULL) the reads that tell,
 * when one fails, which. */
size_t pgs__validate_count(const pgs__commit *c);
int pgs__validate_fill(pgs__commit *c, pgs__arena *arena, pgs_kv_compare *compares, pgs_kv_op *reads);

/* Judge those reads: PGS_OK when the commit may be sent again, PGS_ECONFLICT, or an error. `revision`: theirs. */
int pgs__validate_judge(pgs__commit *c, const pgs_kv_result *results, uint64_t revision);

/* Check everything read against the commits in (c->validated, through] by the changelog. PGS_OK: c->validated is
 * `through`. */
int pgs__validate_log(pgs__commit *c, uint64_t through);

#endif
