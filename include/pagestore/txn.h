/* pagestore/txn.h: transactions
 *
 *     pgs_txn *t;
 *     pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
 *     o.write = true;
 *     do {
 *             pgs_begin(&t, db, &o, &err);
 *             pgs_read(t, 7, page);
 *             page[0]++;
 *             pgs_write(t, 7, page);
 *     } while (pgs_commit(t, NULL, &revision, &err) == PGS_ECONFLICT);
 *
 * A transaction reads one snapshot: the database as of one revision, plus its
 * own writes. Commits are optimistic. Under serializable isolation a commit
 * succeeds only if no page, attribute or page count the transaction read was
 * changed since its snapshot; under snapshot isolation only if none that it
 * wrote was. Writes of pages it never read ("blind") need no such check.
 *
 * Every page exists: one never written, or past the page count, reads as
 * zeros. A write past the page count raises it.
 *
 * Caveats: pgs_commit() and pgs_abort() free the transaction, whatever they
 * return. A page written with what it already holds is not written again, but
 * counts as read. A transaction may take long: from half the retention on it
 * pins its revision, whenever a call of it reaches the storage. One that makes
 * no such call for the whole retention may find its revision gone (EOLDREV).
 *
 * Threads: a transaction belongs to one thread at a time; any number of
 * transactions may run at once.
 *
 * Errors: functions without a pgs_error argument leave the details in
 * pgs_txn_error(). After PGS_ENOMEM, PGS_EIO or PGS_ETIMEOUT from a read the
 * call may be repeated.
 */
#ifndef PAGESTORE_TXN_H
#define PAGESTORE_TXN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/error.h>
#include <pagestore/operations.h>
#include <pagestore/store.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pgs_txn pgs_txn;

enum {
	PGS_SERIALIZABLE = 0, /* commits as if alone, in the order of their revisions */
	PGS_SNAPSHOT = 1      /* first committer of a page wins; write skew is possible */
};

/* How fresh the snapshot of pgs_begin() is. All but PGS_LATEST may begin without asking the KV, on the newest snapshot
 * that the process has: from a transaction begun on the latest revision, from a commit of its own, or from following
 * (pagestore/follow.h), or from the machine's cache file, if a follower of any process keeps it up to date. It always shows
 * every commit of this process that has returned, and with a cache file those of the machine's other processes that use
 * it. Where what the process has is not fresh enough, or it has nothing yet, the latest revision is asked for as by
 * PGS_LATEST, which takes one request, and fails by the transaction's deadline when the KV cannot be reached.
 * A writer may begin at any: what it read is checked when it commits, so that an older snapshot means more conflicts,
 * and nothing worse. */
enum {
	PGS_LATEST = 0,   /* the latest revision: it shows all that was committed before the call, by anybody */
	PGS_AT_LEAST = 1, /* least_revision, say one that another process has committed, or a later one */
	PGS_BOUNDED = 2,  /* what was committed more than bound_ms before the call is seen */
	PGS_LOCAL = 3     /* whatever the process has, however old; without a follower anywhere it stands still */
};

typedef struct pgs_txn_options {
	uint32_t struct_size;
	bool write;           /* false: read only */
	uint32_t isolation;   /* PGS_SERIALIZABLE or PGS_SNAPSHOT; for writers */
	uint64_t at_revision; /* read as of this revision; 0 = latest. Read only. */
	int64_t at_time_ms;   /* read the last commit at or before this Unix time; 0 = unused. Judged by the
			       * committers' clocks, so only as good as they are. Read only. */
	uint32_t timeout_ms;  /* bound on each call, commit's re-sends included; 0 = the store's */
	const void *at_snapshot; /* read a named snapshot (pagestore/maintain.h); NULL = unused. Read only. Of the three
				  * at_… at most one is set. */
	size_t at_snapshot_size;
	uint32_t lock;        /* PGS_LOCK_…; for writers */
	pgs_cost *cost;       /* what the transaction asks for is added here (pagestore/operations.h), as long as it lives,
			       * a pgs_begin() that fails included; NULL = not counted */
	uint32_t freshness;   /* PGS_LATEST, …; the others exclude at_… and lock */
	uint32_t bound_ms;    /* PGS_BOUNDED: milliseconds */
	uint64_t least_revision; /* PGS_AT_LEAST: above the store's latest is PGS_EINVAL */
} pgs_txn_options;

#define PGS_TXN_OPTIONS_INIT { sizeof(pgs_txn_options), false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* The database's writer lock. It is taken before the snapshot; until the transaction ends no other one commits, in any
 * process, so that it finds no conflict: the others wait in pgs_commit(), until their timeouts. Transactions that take
 * it queue up; those that do not stay optimistic. The lock of a process that has died is broken by who meets it: at once
 * on the same machine, else after 10 s. A transaction renews its lock when it reaches the storage; one that does not
 * for 10 s may lose it to others, and then commits as the optimistic ones do.
 * A process that takes it within 50 ms of the last time keeps it after the commit, until it has not been used for 50 ms
 * or others have asked for it, who may be told EBUSY though no transaction is open. The first such lock starts a thread,
 * which ends when the database is closed. */
enum {
	PGS_LOCK_NONE = 0,
	PGS_LOCK_WAIT = 1, /* pgs_begin() waits for it, PGS_EBUSY past the timeout */
	PGS_LOCK_TRY = 2   /* PGS_EBUSY at once if another has it */
};

/* Begin a transaction on the latest revision, or as the options say; NULL
 * options read the latest. One round trip to the KV, or none where the
 * freshness asked for allows it. *out is NULL on failure.
 * Errors: EINVAL (options; a revision above the latest), ENOTFOUND (database
 * dropped; no commit at or before the revision or time; no such snapshot),
 * EOLDREV, EREADONLY, EBUSY (the writer lock; maintenance is behind), EVERSION,
 * EIO, ETIMEOUT, ECORRUPT, ENOMEM. Since 0.1. */
int pgs_begin(pgs_txn **out, pgs_db *db, const pgs_txn_options *options, pgs_error *err);

/* Begin a transaction on the snapshot of `of`, without a round trip: as if it
 * had begun then. What `of` reads and writes is not seen, nor does it count;
 * either may end first. Of the options only write, isolation, timeout_ms and
 * cost may be set; NULL options read. *out is NULL on failure. Errors: EINVAL
 * (options; a writer on a past revision; `of` is at a named snapshot),
 * EREADONLY, EBUSY (maintenance is behind), ENOMEM. Since 0.1. */
int pgs_fork(pgs_txn **out, const pgs_txn *of, const pgs_txn_options *options, pgs_error *err);

/* End the transaction without committing, and free it. Pins end with it. NULL
 * is allowed. What it reads ahead or uploads beside the caller is waited for,
 * at most until its deadline. Since 0.1. */
void pgs_abort(pgs_txn *txn);

/* Between two uses of a transaction that reads the latest revision: pgs_reset()
 * puts it to rest, where it keeps nothing in the store; pgs_renew() begins it
 * again, as pgs_begin() would, for less. In between, only pgs_renew(),
 * pgs_unpin() and pgs_abort() may be called, and pages pinned stay where they
 * are. *same: nothing was committed to the database since it began before, so
 * that pages pinned then are what it shows. After an error it is still at rest;
 * pgs_txn_error() has the details. pgs_reset() does nothing to a transaction
 * that writes or shows the past; pgs_renew() then is EINVAL. Other errors: as
 * pgs_begin(). Since 0.1. */
void pgs_reset(pgs_txn *txn);
int pgs_renew(pgs_txn *txn, bool *same);

/* The revision of the commit this transaction's snapshot shows. Since 0.1. */
uint64_t pgs_txn_revision(const pgs_txn *txn);

/* The details of the last error of a call on this transaction; borrowed until
 * the next call on it. code is PGS_OK if there was none. Since 0.1. */
const pgs_error *pgs_txn_error(const pgs_txn *txn);

/* Copy page `page_no` into `dst` (page size bytes). Joins the read set.
 * Errors: EINVAL (page number past the largest: 2^32 groups of 1 MiB), ECORRUPT
 * (the content does not match its id, or is gone), EOLDREV (collected while
 * reading an old revision), ENOTFOUND (database dropped), EIO, ETIMEOUT,
 * ENOMEM; dst is then unspecified.
 * Since 0.1. */
int pgs_read(pgs_txn *txn, uint64_t page_no, void *dst);

/* Copy `count` pages, dst[i] getting page_nos[i]: the same as that many
 * pgs_read(), with the backend's requests batched and merged. On an error
 * pgs_txn_error()->page names a page that failed; the others' buffers are
 * unspecified. Since 0.1. */
int pgs_read_many(pgs_txn *txn, const uint64_t *page_nos, size_t count, void *const *dst);

/* Borrow page `page_no` without copying: *page points to page size bytes until
 * pgs_unpin() of it or the end of the transaction, and does not follow later
 * writes. Each pin holds one page of cache. Errors: as pgs_read(). Since 0.1. */
int pgs_pin(pgs_txn *txn, uint64_t page_no, const void **page);

/* Give back a page pgs_pin() returned; pins nest. Since 0.1. */
void pgs_unpin(pgs_txn *txn, const void *page);

/* Fetch pages into the cache without reading them: they do not join the read
 * set. What cannot be fetched is left for the read to report, but for ENOMEM.
 * Since 0.1. */
int pgs_prefetch(pgs_txn *txn, const uint64_t *page_nos, size_t count);

/* Say which pages are likely to be read next: they are fetched into the cache
 * beside the caller, as pgs_prefetch() does; who reads one that is under way
 * waits for it. Of the first *taken pages nothing is left to do: in memory,
 * under way, or the transaction's own. It is less than `count` where a part is
 * as much as the cache should take at once, and 0 where several calls' pages
 * are under way, and where pgs_prefetch_is_useful() says no. (Of a named
 * snapshot they are fetched before the call returns.) Until they are there the
 * transaction does not guess by itself what is read next. Errors: EINVAL (a
 * page number), ENOMEM. Since 0.1. */
int pgs_prefetch_start(pgs_txn *txn, const uint64_t *page_nos, size_t count, size_t *taken);

/* Whether reads of pages that are not in memory wait for a network, so that
 * it is worth finding out before what they will be. Constant. Since 0.1. */
bool pgs_prefetch_is_useful(const pgs_db *db);

/* Write page `page_no` from `src` (page size bytes, copied); raises the page
 * count to page_no + 1 if it was lower. Past the write buffer's size, pages
 * are compressed and uploaded ahead of the commit. New pages of a large
 * transaction are compressed by a thread of the library's, which ends with
 * the transaction at the latest. Errors: EINVAL (page
 * number), EREADONLY, ENOMEM, EIO, ETIMEOUT, ENOSPC (while spilling; also
 * the soft quota, before anything is uploaded).
 * Since 0.1. */
int pgs_write(pgs_txn *txn, uint64_t page_no, const void *src);

/* Set the page count. Pages at or above it are gone: they read as zeros, also
 * when the count is raised again. Joins the page count to the read set. Errors:
 * EINVAL, EREADONLY, ENOMEM. Since 0.1. */
int pgs_truncate(pgs_txn *txn, uint64_t page_count);

/* The page count as this transaction sees it; joins the read set. Errors:
 * ENOMEM. Since 0.1. */
int pgs_page_count(pgs_txn *txn, uint64_t *page_count);

#define PGS_ATTR_NAME_MAX 255
#define PGS_ATTR_SIZE_MAX 4096

/* Small named values beside the pages, versioned and checked for conflicts
 * like them: a root page number, an exact file size. `name` is 1 …
 * PGS_ATTR_NAME_MAX bytes.
 *
 * pgs_attr_get: copies the first `capacity` bytes of the value into `value`
 * and gives its whole size in *size. Errors: ENOTFOUND (there is no such
 * attribute; joins the read set all the same), EOLDREV (collected while
 * reading an old revision, or the database was dropped; the message says
 * which), EINVAL, EIO, ETIMEOUT, ECORRUPT, ENOMEM. Since 0.1. */
int pgs_attr_get(pgs_txn *txn, const void *name, size_t name_size, void *value, size_t capacity, size_t *size);

/* Set an attribute (size <= PGS_ATTR_SIZE_MAX, copied), or remove it with a NULL value.
 * Errors: EINVAL, ELIMIT (more than 64 attributes in one transaction),
 * EREADONLY, ENOMEM. Since 0.1. */
int pgs_attr_set(pgs_txn *txn, const void *name, size_t name_size, const void *value, size_t size);

/* Names a commit whose outcome is not known. Plain bytes: may be stored, sent, and asked about later. */
typedef struct pgs_commit_token {
	uint8_t uuid[16];
	uint64_t base_revision;
} pgs_commit_token;

/* A set of pages: the lowest page >= `from` in it, PGS_NO_PAGE if there is none. Called in the committing thread; must
 * not call the library, and answer the same for the whole of the call it is given to. */
typedef uint64_t (*pgs_page_set)(void *ctx, uint64_t from);

typedef struct pgs_commit_options {
	uint32_t struct_size;
	const void *note;        /* kept in the changelog; NULL = none */
	size_t note_size;        /* <= PGS_NOTE_MAX */
	pgs_commit_token *token; /* out: filled before anything is sent; NULL = not wanted */
	/* Pages the caller relies on as the snapshot has them without having read them through this transaction: an
	 * engine's own cache, say, that was filled at this revision. They count as read, whatever the isolation; what
	 * the set answers is asked for only as far as it is needed, and mostly not at all. NULL = none. */
	pgs_page_set relied;
	void *relied_ctx;
	uint64_t *previous_revision; /* out: of the commit before this one, the snapshot's if nobody committed in
				      * between; 0 = not known. With PGS_OK. NULL = not wanted */
} pgs_commit_options;

#define PGS_COMMIT_OPTIONS_INIT { sizeof(pgs_commit_options), 0, 0, 0, 0, 0, 0 }
#define PGS_NOTE_MAX 4096

/* Commit and free the transaction. On PGS_OK everything it wrote is durable
 * and visible at *revision, at once; a transaction that changed nothing (or
 * reads only) succeeds without writing, *revision being its snapshot's.
 * `revision` and `options` may be NULL. Errors: ECONFLICT (err->page names the
 * page, PGS_NO_PAGE for an attribute or the page count), EUNKNOWN (ask
 * pgs_commit_status() with the token), EOLDREV (began too long ago), EBUSY
 * (a writer holds the commit lock past the timeout), ENOTFOUND (database
 * dropped), ELIMIT, EINVAL, ENOSPC (also the soft quota, unless it only
 * truncates or removes), EIO, ETIMEOUT, ENOMEM: with all but EUNKNOWN nothing
 * was changed. Since 0.1. */
int pgs_commit(pgs_txn *txn, const pgs_commit_options *options, uint64_t *revision, pgs_error *err);

#define PGS_COMMIT_MANY_MAX 16

/* Commit transactions of several databases of one store together, and free them all, whatever is returned. On PGS_OK
 * everything they wrote is durable and visible at *revision, in all of them at once; else nothing is, in any. txns[i] is
 * committed with options[i] (NULL, as `options` itself: defaults), so each has its own token, and any of the tokens tells
 * pgs_commit_status() what became of all. The databases must differ, and belong to one pgs_store. What is sent counts
 * for the cost of txns[0].
 *
 * A transaction that changed nothing is not written to its database, so its token tells nothing; but what it read (a
 * serializable writer), or relies on, is validated with the others: the outcome is as if all of it had been done at
 * *revision. If none changed anything, nothing is validated, and *revision is the latest of their snapshots'.
 *
 * All share one transaction of the KV, and its limits: 128 operations are enough for 16 databases, but the more there
 * are, the sooner large changes need requests ahead of it.
 *
 * Of writer locks (PGS_LOCK_…) that were taken before: begin in the same order everywhere, else two that hold one and
 * want the other's wait until their timeouts. Locks that the commit itself takes are no such danger. The shortest
 * timeout of the transactions bounds the call.
 *
 * count: 1 … PGS_COMMIT_MANY_MAX. *which (may be NULL): the index of the transaction that an error is about, `count`
 * if it is about none in particular. Errors: as pgs_commit(); EINVAL also for two transactions of one database, or of
 * different stores, and for a count that is out of range; ELIMIT also if the KV's limits are too small for so many.
 * Since 0.1. */
int pgs_commit_many(pgs_txn *const *txns, const pgs_commit_options *const *options, size_t count, size_t *which,
		    uint64_t *revision, pgs_error *err);

enum {
	PGS_COMMIT_HAPPENED = 1,    /* it is committed, at *revision */
	PGS_COMMIT_NOT_HAPPENED = 2 /* it is not, and can no longer happen */
};

/* What became of a commit that answered PGS_EUNKNOWN. "Not happened" is said
 * only after it has been made impossible. *status is PGS_COMMIT_…; *revision
 * (may be NULL) its revision. Errors: EUNKNOWN (history that would tell has
 * been collected), ENOTFOUND (database dropped), ENOSPC (nothing can be put to
 * make it impossible: ask again when there is room), EAUTH, EIO, ETIMEOUT,
 * ENOMEM. Since 0.1. */
int pgs_commit_status(pgs_db *db, const pgs_commit_token *token, int *status, uint64_t *revision, pgs_error *err);

#ifdef __cplusplus
}
#endif

#endif
