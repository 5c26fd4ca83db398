/* pgs_soak: the simulator's workload by the wall clock, on a real store: processes that read, write, truncate, take
 * snapshots, do maintenance, and are killed.
 *
 *     main.c    the parent: command line; starts workers, kills some, ends with the audit
 *     worker.c  what a worker does, and writes down
 *     audit.c   the changelog, replayed in the order of revisions, against what workers wrote down
 *
 * Nothing here is deterministic, so nothing is checked that needs to be. A worker writes down each transaction before
 * it commits: what it read, what it writes; and then what it was told. Files survive a kill. The parent follows the
 * changelog, holding a pin so that maintenance does not prune what it has not seen. At the end each commit of the
 * changelog is taken in turn: its reads must be those of its snapshot, and still true right before it (serializable);
 * its writes make the next state. What was told of a commit must be so; what was only read must be a state's, too. */
#ifndef PGS_SOAK_SOAK_H
#define PGS_SOAK_SOAK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <pagestore.h>

#include "model/pages.h"

#define SOAK_DB "soak"

typedef struct soak_options {
	const char *url;
	uint64_t seed, seconds, retention_ms;
	uint32_t workers, kill_ms; /* between two kills; 0 = none */
	bool compact;              /* the KV is the store's alone: its history may be compacted */
	bool follow;               /* workers follow, and begin at any freshness */
	const char *folder;        /* for what workers write down */
} soak_options;

/* --- what workers write down ------------------------------------------------------------ */

typedef enum soak_told { SOAK_NOTHING, SOAK_COMMITTED, SOAK_REFUSED, SOAK_UNKNOWN } soak_told;

/* Pages and values are told by their hashes, 0 being zeros, or none. */
typedef struct soak_txn {
	uint64_t number;       /* the note of its commit is "worker.life-number"; 0: it only reads */
	uint64_t base;         /* the revision of its snapshot */
	uint64_t truncated_to; /* UINT64_MAX: not */
	uint64_t extent_seen, extent;
	uint32_t page_read, page_written; /* a bit for each page; what is read of its own writes does not count */
	uint32_t attr_read, attr_written;
	bool serializable, extent_read, extent_set;
	uint64_t read[SIM_PAGES], written[SIM_PAGES];
	uint64_t attr_seen[SIM_ATTRS], attr_set[SIM_ATTRS];
} soak_txn;

typedef struct soak_record {
	bool is_outcome;
	union {
		soak_txn txn;
		struct {
			uint64_t number, revision;
			soak_told told;
		} outcome;
	};
} soak_record;

void soak_journal_path(char out[512], const soak_options *o, uint32_t worker, uint32_t life);
uint64_t soak_hash(const void *bytes, size_t size);

/* --- the parts ------------------------------------------------------------------------------- */

/* Opens the store and its database. False, having said why, if not. */
bool soak_open(const soak_options *o, bool create, pgs_store **store, pgs_db **db);

/* Backends on servers may be away for a moment. */
bool soak_passes(const soak_options *o, int result);

/* Ends the process as failed. */
void soak_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

int soak_work(const soak_options *o, uint32_t worker, uint32_t life);

typedef struct soak_audit soak_audit;
soak_audit *soak_audit_start(const soak_options *o);
void soak_audit_follow(soak_audit *a); /* now and then */
/* After the last worker's end; `lives` of each. Prints what there was. */
void soak_audit_end(soak_audit *a, const uint32_t *lives);

#endif
