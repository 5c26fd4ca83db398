/* Money moved between pages by several workers: the total never changes, and no committed transfer is lost. Shared
 * by threads and processes; nothing here uses cmocka, which belongs to one thread. */
#ifndef PGS_TESTS_BANK_H
#define PGS_TESTS_BANK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <pagestore.h>

#define BANK_PAGE_SIZE 4096
#define BANK_ACCOUNTS 16
#define BANK_START 1000
#define BANK_WORKER_PAGE 1000 /* + worker: how many transfers it committed */

typedef struct bank_worker {
	pgs_db *db;
	uint32_t number;
	uint32_t life;    /* how often its process was started before */
	uint64_t end_ms;
	uint32_t isolation;
	bool servers;     /* they may be away for a moment */
	uint32_t freshness, bound_ms; /* of the snapshots it looks at, if not the latest */
	FILE *acks;       /* the number of each transfer, once it is committed; NULL = none */
	uint64_t sent;    /* transfer n has the note "number.life-n" */
	uint64_t committed, conflicts, snapshots;
	char failure[500];
} bank_worker;

int64_t bank_balance(const void *page);

/* The accounts, in one commit. */
int bank_fill(pgs_db *db, pgs_error *err);

/* The sum of the latest snapshot; -1: w->failure says why, or it cannot be read now. */
int64_t bank_total(bank_worker *w);

/* Sets w->failure if the snapshot at a revision (0: the latest) does not hold all of the money. */
void bank_check_total(bank_worker *w, uint64_t revision, uint64_t *revision_out);

/* Transfers, and looks at totals now and then, until w->end_ms or a failure. */
void bank_run(bank_worker *w);

/* --- workers that are processes ----------------------------------------------------------- */

typedef struct bank_life {
	uint32_t number, life;
	const char *acks_path; /* a file */
	pid_t pid;
	bool killed;           /* then one transfer more may have been committed */
	uint64_t *acks;        /* what was acknowledged, in order */
	size_t count;
	size_t seen, extra;    /* in the changelog: of those; of others */
	bool *logged;          /* by acknowledgement */
} bank_life;

/* Start the program helper_writer in `folder` on the store at `url`; it ends with this process at the latest. */
void bank_start(bank_life *life, const char *folder, const char *url, uint32_t run_ms, bool servers,
	uint32_t isolation);

/* Start it to follow the database, and look at totals at less than the latest revision, for so long. */
pid_t bank_follow(const char *folder, const char *url, uint32_t run_ms, bool servers);

/* After its end: read what it acknowledged. */
bool bank_read_acks(bank_life *life);

/* --- afterwards: the changelog against what was acknowledged ----------------------------- */

typedef struct bank_audit {
	bank_life *lives;
	size_t count;
	char failure[500]; /* "": none */
} bank_audit;

/* Every acknowledged transfer is in the changelog once, and no other, but the last one of who was killed; else
 * a->failure says what is not so. */
void bank_audit_log(bank_audit *a, pgs_db *db);

#endif
