/* What this process knows of a database's latest commits, from reading them whole and from making them.
 *
 * A state is what z and e say after a commit. While the database has no packs it holds until the next commit: z moves
 * with commits, and with the ends of folds, which need a pack; e moves with commits alone. So whoever reads `t` and
 * finds the revision of a known state need not read the rest: beginning is one read of one key. A state holds from the
 * revision on at which the database was seen without packs (a fold may have ended after the commit, moving z).
 *
 * Where the KV says whether anything has changed (its `changes`), the latest snapshot is kept with the number that was
 * read before it. Finding that number again proves that reading would bring the same: t, z, e, g and every other key are
 * as they were, so no one has committed, moved the floor, or dropped the database, here or anywhere, up to that look. The
 * number has to be the older: one that is read after the snapshot may stand for a commit that the snapshot has missed.
 *
 * Commits of one process run side by side, and their replies are met in any order. The cache moves from one commit to
 * the next; one that is met before its predecessor waits here until that has been met. A transaction that begins
 * behind such a commit waits for the ones on their way, rather than asking the changelog what they were.
 */
#ifndef PGS_TXN_TIP_H
#define PGS_TXN_TIP_H

#include <pthread.h>

#include "content/cache.h"

struct pgs_db;
struct pgs__snapshot;

#define PGS__TIP_STATES 32

typedef struct pgs__state {
	uint64_t commit_revision;
	uint64_t since; /* a revision of the KV: earlier readers may have to know of a pack */
	uint64_t epoch; /* mod revision of z */
	uint64_t extent, extent_revision;
} pgs__state;

/* A page that a commit of this process changed. */
typedef struct pgs__changed_page {
	uint64_t page_no;
	pgs__page_ref ref;
	const void *page; /* its content, or NULL */
	bool frozen;      /* `ref` is not known */
} pgs__changed_page;

/* A commit of this process. */
typedef struct pgs__landed {
	uint64_t previous, revision; /* of the commit before, and its own */
	bool structural;             /* z was rewritten */
	bool puts_extent;
	uint64_t extent;
	bool truncated;
	uint64_t truncated_to;
	pgs__changed_page *pages;
	size_t count;
} pgs__landed;

typedef struct pgs__tip {
	pthread_mutex_t lock;
	pthread_cond_t moved; /* a commit was met */
	pgs__state states[PGS__TIP_STATES];
	size_t newest;
	uint32_t steady;      /* how often in a row `t` was where it was expected */
	size_t under_way;     /* commits of this process */
	uint64_t ended;       /* commits that were */
	struct pgs__snapshot *latest; /* while the KV's number is its `changes`; its packs are retained */
	struct pgs__waiting *waiting;
	size_t waiting_count;
} pgs__tip;

int pgs__tip_init(pgs__tip *tip); /* PGS_OK or PGS_ENOMEM */
void pgs__tip_free(pgs__tip *tip);

/* The KV's number, to be asked for before a snapshot is read; 0 = it has none now. */
uint64_t pgs__tip_changes(const struct pgs_db *db);

/* True: the snapshot kept was read at that number; it is in *out. */
bool pgs__tip_latest(struct pgs_db *db, uint64_t changes, struct pgs__snapshot *out);

/* Keep the latest snapshot, with the KV's number in its `changes`. */
void pgs__tip_keep(struct pgs_db *db, const struct pgs__snapshot *snapshot);

/* Whether reading `t` alone is likely to do. */
bool pgs__tip_is_steady(struct pgs_db *db);

/* `t` has been read alone, at `kv_revision`: the state it stands for, after waiting for commits under way where that may
 * help. False: it is not known. */
bool pgs__tip_find(struct pgs_db *db, uint64_t commit_revision, uint64_t kv_revision, uint64_t deadline_ms,
		   pgs__state *out);

/* Wait until the cache has come to that commit, if commits under way may bring it there. */
void pgs__tip_wait(struct pgs_db *db, uint64_t commit_revision, uint64_t deadline_ms);

/* A snapshot was read whole, at the latest revision. */
void pgs__tip_learn(struct pgs_db *db, const struct pgs__snapshot *snapshot);

/* A commit is about to be sent; it has ended, and pgs__tip_land() was called if it was one. */
void pgs__tip_begin_commit(struct pgs_db *db);
void pgs__tip_end_commit(struct pgs_db *db);

/* A commit succeeded: the cache and what is known here move past it, now or when the one before is met. */
void pgs__tip_land(struct pgs_db *db, const pgs__landed *landed);

/* The cache has moved otherwise. */
void pgs__tip_catch_up(struct pgs_db *db);

#endif
