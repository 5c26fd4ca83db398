/* A follower of a database: what others commit, applied here as the watch tells it.
 *
 *     pgs__snapshot_open ─→ watch from its revision on ─→ events ─→ apply ─→ newest ─→ begin without asking
 *            ↑                        ↑    └─ failed, or silent ─┘     │
 *            └── history is gone, or a commit was missed ←────────────┘
 *
 *   follower.c  the watch, confirming, starting over      apply.c    one revision's events
 *   follow.c    pagestore/follow.h: the thread             mirror*.c  the machine's mirror, where there is a cache file
 *   fetch*.c    what readers will want (fetch.h)
 *
 *  F1 `at` is the database as of at.kv_revision, whole: every key that a snapshot is made of was delivered up to there.
 *  F2 The page cache has taken in every commit through at.commit_revision before `at` is offered to anybody.
 *  F3 A commit is applied only if it is the next one: t's version counts them.
 *  F4 What the watch says tells nothing of now. Only a linearizable read of t and z that finds what was applied does, and
 *     it tells of the moment before it was sent.
 *
 * What is watched is everything from e to z: contents, which are read when they are wanted, and attributes, which the
 * changelog names, are not. What it says of sorted files (l) keeps the map of them up to date.
 */
#ifndef PGS_FOLLOW_FOLLOWER_H
#define PGS_FOLLOW_FOLLOWER_H

#include <pagestore/follow.h>

#include "codec/changelog.h"
#include "follow/fetch.h"
#include "local_cache/mirror.h"
#include "txn/newest.h"
#include "util/arena.h"
#include "util/task.h"

/* What t and z were when they were last read. */
typedef struct pgs__claim_of_now {
	uint64_t asked_ms; /* 0: none is open */
	uint64_t commit_revision, commit_count, epoch;
} pgs__claim_of_now;

typedef struct pgs__follower {
	pgs_db *db;
	pgs_follow_options options;
	pgs__snapshot at;      /* F1; kv_revision 0: not begun. Its packs may be of an older epoch: then it is not offered */
	bool packs_due;
	pgs_kv_watch *watch;
	uint64_t begun;        /* `at` began here: events up to it are for the mirror alone */
	uint64_t seen;         /* all events through it have been applied */
	uint64_t seen_ms;      /* when it last moved */
	uint64_t patience_ms;  /* with a watch that says nothing though there are commits */
	uint64_t asked_ms;     /* when t and z were last read; 0: read them now */
	pgs__claim_of_now claim;
	bool mirrors;          /* it has the mirror's lock, and keeps it; */
	bool load_due;         /* which has to be loaded anew, */
	struct pgs__mirror_load *load; /* is being loaded, */
	unsigned load_failures;
	uint64_t mirrored;     /* or is at this revision; what has been loaded is, too */
	bool proved;           /* it is of the KV's history, as the watch has not been lost since */
	uint64_t mirror_ms;    /* not before then: trying to become that, loading */
	uint64_t too_large_ms; /* so long it is not tried again to load one that took too much */
	uint64_t flush_ms, checkpoint_ms; /* when to write the file, and make it durable, next */
	struct {
		uint64_t commits, pages_changed, pages_kept;
	} done;

	_Atomic bool busy;     /* a thread is at it; all above is its */
	pgs__fetcher fetch;
	pthread_mutex_t control; /* starting and ending the thread; held until it has ended */
	pgs__task thread;
	pid_t pid;             /* where that is: after fork() the child has none */
	_Atomic bool stop;
	pthread_mutex_t lock;  /* stat; and sleeping */
	pthread_cond_t wake;
	pgs_follow_stat stat;
	uint64_t confirmed_ms; /* monotonic: F4 */
} pgs__follower;

pgs__follower *pgs__follower_new(pgs_db *db); /* NULL: out of memory */
void pgs__follower_free(pgs__follower *f);    /* its thread has ended */

/* Begin if it has not begun; read t and z if it is time; wait up to wait_ms for events, and apply them. Errors: as
 * pgs_follow_step(); all but ENOTFOUND may be gone next time. */
int pgs__follow_round(pgs__follower *f, uint32_t wait_ms, uint64_t deadline_ms, pgs_error *err);

/* Whether what was the latest when t and z were last read has been applied. */
static inline bool pgs__follow_is_current(const pgs__follower *f)
{
	return f->at.kv_revision && !f->claim.asked_ms;
}

void pgs__follow_close_watch(pgs__follower *f);

/* The last handle of the database is closed: end its follower. */
void pgs__follow_end(pgs_db *db);

/* --- apply.c -------------------------------------------------------------------------- */

/* The events of one revision. */
typedef struct pgs__revision_events {
	const pgs_kv_event *events;
	size_t count;
	uint64_t revision;
} pgs__revision_events;

#define PGS__FOLLOW_GAP 1 /* a commit was missed: start over */

/* Apply them to the page cache and to `at`. Errors: PGS__FOLLOW_GAP; ENOTFOUND (dropped), ECORRUPT, EVERSION, ENOMEM, the
 * blob store's: then nothing has been applied. */
int pgs__follow_apply(pgs__follower *f, const pgs__revision_events *r, uint64_t deadline_ms, pgs_error *err);

/* --- fetch_hot.c ---------------------------------------------------------------------- */

/* Fetch pages of the batch, as far as it was seen, that the cache file knew; before the mirror takes it. */
void pgs__follow_note_hot(pgs__follower *f, const pgs_kv_events *batch);

/* --- mirrored.c ----------------------------------------------------------------------- */

/* Become the one that keeps the machine's mirror, if it is time to try; load some of it if it has to be. Errors: EOLDREV
 * (history is gone, or is another one), the KV's. */
int pgs__follow_mirror(pgs__follower *f, uint64_t deadline_ms, pgs_error *err);

/* Whether it is ours, and tells what was done up to the revision. */
bool pgs__follow_mirror_has(const pgs__follower *f, uint64_t revision);

/* The database was dropped. */
void pgs__follow_mirror_dropped(pgs__follower *f);

/* Whether some of it is to be loaded now. */
bool pgs__follow_mirror_loads(const pgs__follower *f);

/* Apply the batch, as far as it was seen, to the mirror, if we keep it. */
void pgs__follow_mirror_apply(pgs__follower *f, const pgs_kv_events *batch, uint64_t deadline_ms);

/* Let another follower keep it. */
void pgs__follow_mirror_leave(pgs__follower *f);

/* --- mirror_load.c ----------------------------------------------------------------------- */

/* Begin to load the mirror; each step is one request, or a few to begin with. The last one makes f->load NULL.
 * Errors: EOLDREV (history is gone, or the mirror was reset: start again), the KV's, the mirror's. */
int pgs__mirror_load_start(pgs__follower *f, pgs_error *err);
int pgs__mirror_load_step(pgs__follower *f, uint64_t deadline_ms, pgs_error *err);
void pgs__mirror_load_stop(pgs__follower *f); /* also where there is none */

/* It has not begun: there is nothing yet that changes could be applied to. */
bool pgs__mirror_load_waits(const pgs__follower *f);

/* --- mirror_proof.c ------------------------------------------------------------------------ */

typedef enum pgs__proof {
	PGS__PROOF_SAME,  /* what the mirror has is of the KV's history */
	PGS__PROOF_OTHER, /* it is not */
	PGS__PROOF_NONE   /* that cannot be told */
} pgs__proof;

/* Hold it against the KV. Errors: the KV's. */
int pgs__mirror_prove_history(const pgs__follower *f, const pgs__mirror_state *state, uint64_t deadline_ms,
			      pgs__proof *out, pgs_error *err);

/* --- mirror_changes.c ------------------------------------------------------------------- */

typedef struct pgs__mirror_changes {
	pgs__follower *f;
	uint64_t deadline_ms;
	pgs_error *err;
	pgs__mirror_change *list; /* keys and values borrow from the batch */
	size_t count, capacity;
	pgs__arena arena;
} pgs__mirror_changes;

/* What the batch, as far as it was seen, changes of what is mirrored, attributes too. ECORRUPT, EVERSION, ENOMEM; to be
 * freed in any case. */
int pgs__mirror_changes_of(pgs__mirror_changes *c, const pgs_kv_events *batch);
void pgs__mirror_changes_free(pgs__mirror_changes *c);

#endif
