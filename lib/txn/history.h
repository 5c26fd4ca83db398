/* The changelog as a list: for the log, and for finding a revision by its time. */
#ifndef PGS_TXN_HISTORY_H
#define PGS_TXN_HISTORY_H

#include "codec/changelog.h"
#include "txn/db.h"

/* One entry's key: a commit, or the mark of an aborted one. */
typedef struct pgs__logged {
	uint64_t revision;
	uint8_t uuid[16];
} pgs__logged;

typedef struct pgs__logged_list {
	pgs__logged *list;
	size_t count, capacity;
} pgs__logged_list;

/* Add the changelog's keys in [from, end) and sort all by revision, newest first. out->list is the caller's to free
 * with pgs__free(), also after an error. Errors: the KV's, ECORRUPT, ENOMEM. */
int pgs__history_list(pgs_db *db, const pgs__key *from, const pgs__key *end, pgs__logged_list *out,
		      uint64_t deadline_ms, pgs_error *err);

/* The changelog key that sorts before all of `time_ms` (Unix) and after all before it. */
pgs__key pgs__history_key_at(const pgs_db *db, uint64_t time_ms);

/* Called with a decoded entry, borrowed for the call. */
typedef int (*pgs__history_reader)(void *ctx, const pgs__logged *logged, const pgs__change *change);

/* Read an entry and hand it to `read` (which may be NULL). Returns read's result; PGS_ENOTFOUND when the entry has
 * been pruned or marks an aborted commit. Errors: the KV's, ECORRUPT, EVERSION. */
int pgs__history_read(pgs_db *db, const pgs__logged *logged, pgs__history_reader read, void *ctx, uint64_t deadline_ms,
		      pgs_error *err);

/* PGS_OK, or PGS_ENOTFOUND when the database was dropped: a log of nothing is not the same as no database. */
int pgs__history_check(pgs_db *db, uint64_t deadline_ms, pgs_error *err);

/* A revision that shows the last commit at or before Unix time `time_ms`, by the committers' clocks: its own, or the
 * floor's if it is older. Errors: ENOTFOUND (no commit so early), EOLDREV (collected), the KV's, ECORRUPT, ENOMEM. */
int pgs__revision_at_time(pgs_db *db, int64_t time_ms, uint64_t deadline_ms, uint64_t *revision, pgs_error *err);

#endif
