/* A maintenance worker: what all jobs share.
 *
 * A job claims what it works on, prepares without being seen, and makes one fenced step after the other: a KV
 * transaction that compares the claim, that the database exists, and floor <= the revision it relies on. A worker
 * that was paused, and whose claim was broken meanwhile, changes nothing when it wakes (invariant 9).
 *
 *     k/m-<uuid>   a claim: which jobs, levels and ids. Taken only if no live claim overlaps, comparing that the
 *                  claims are those that were read. Its create revision is the fencing token; renewals re-put it.
 */
#ifndef PGS_MAINTAIN_WORKER_H
#define PGS_MAINTAIN_WORKER_H

#include <pagestore/maintain.h>

#include "codec/meta.h"
#include "txn/db.h"

typedef struct pgs__worker {
	pgs_db *db;
	pgs_maintain_options options; /* thresholds filled in: no zeros that mean a default */
	pgs_maintain_report *report;
	pgs_error *err;
	uint64_t deadline_ms;         /* no step begins past it; 0 = none */
	uint64_t bytes_left;          /* of blobs to write before it stops; UINT64_MAX = no bound */
	pgs__floor floor;             /* as last read or published */
	uint64_t floor_revision;      /* mod revision of g: where it was published */
	uint64_t created;             /* revision at which the database came to be */
	pgs__lease in_the_way;        /* a claim or pin of another machine that kept a job from its work: the one whose
				       * lease runs out first; key.size 0 = none */
} pgs__worker;

/* The deadline of a backend call that starts now: the store's timeout. The worker's own deadline ends no call, it only
 * lets none of the next steps begin: work that was paid for is not thrown away. */
uint64_t pgs__worker_deadline(const pgs__worker *w);

/* Whether the call's time or bytes are used up: jobs stop between steps, and the report says that there is more. */
bool pgs__worker_spent(const pgs__worker *w);

/* Read g into w->floor. Errors: ENOTFOUND (dropped), ECORRUPT, the KV's. */
int pgs__worker_read_floor(pgs__worker *w);

/* What a claim covers. Two overlap when their jobs do and, for merges, their levels and ids do. */
enum { PGS__JOB_FLOOR = 1, PGS__JOB_FLUSH = 2, PGS__JOB_FOLD = 4, PGS__JOB_MERGE = 8, PGS__JOB_SWEEP = 16 };
typedef struct pgs__scope {
	uint32_t jobs;
	uint8_t level_first, level_last;
	pgs__page_id first, last;
} pgs__scope;

typedef struct pgs__claim {
	pgs__key key;
	uint64_t held;       /* create revision: the fencing token; 0 = not held */
	uint64_t renewed_ms; /* when it was last put */
	pgs__scope scope;
	uint8_t owner[16];
} pgs__claim;

/* PGS_OK, PGS_EBUSY (a live claim overlaps; dead ones are broken on the way), ENOTFOUND (dropped), the KV's. */
int pgs__claim_take(pgs__worker *w, const pgs__scope *scope, pgs__claim *out);

/* Put it again when a third of its lease has passed; cheap otherwise. PGS_EBUSY: it was broken, the job must end. */
int pgs__claim_renew(pgs__worker *w, pgs__claim *claim);
void pgs__claim_release(pgs__worker *w, pgs__claim *claim);

/* A live claim or pin is in the way of a job: note it, if only its lease tells when it is dead. */
void pgs__worker_hindered(pgs__worker *w, const pgs__lease *lease);

/* One fenced step: `compares` and the fence, then `ops`. `base_revision`: the revision the step relies on. Sent again
 * while its outcome is unknown, until the deadline. *applied: it took effect, now. When it is false a compare failed;
 * *unsure then says that an earlier sending of it may have been what changed the state (look before removing anything
 * it would have registered). PGS_OK, or the KV's errors (EUNKNOWN: it may still happen; with others, look at unsure). */
typedef struct pgs__step {
	const pgs_kv_compare *compares;
	size_t compare_count;
	const pgs_kv_op *ops;
	size_t op_count;
	uint64_t base_revision;
	/* out */
	bool applied, unsure;
	uint64_t revision; /* applied: of the transaction */
} pgs__step;
#define PGS__FENCE_COMPARES 3
int pgs__step_run(pgs__worker *w, const pgs__claim *claim, pgs__step *step);

/* How many compares (or operations) of a job's own fit a step on this backend; it says nothing of bytes
 * (pgs__max_bytes()). */
size_t pgs__step_room(const pgs__worker *w);

#endif
