/* The writer lock between two transactions: who takes it again and again keeps it meanwhile.
 *
 *                  ┌──────── the next one resumes it: no request ────────┐
 *                  ↓                                                     │
 *     taken ──→ in use ── commit, nobody has asked for it ──→ kept ──────┴─ unused for KEEP_MS ──→ given back
 *                  └───── commit, somebody has; abort; failure ─────────────────────────────────→ given back
 *
 * Putting the lock and deleting it cost a request each, and a sync to disk, as much as the commit between them. So a
 * transaction that begins with the lock soon after the one before, of the same process, keeps it past its commit.
 *
 * In the KV a kept lock is one like any other (lock.h): every commit compares it, it has a lease, it is renewed when
 * that is due, it can be broken. So nothing new can go wrong with it but that others wait for it, and that is bounded:
 *
 *  - Who meets another process's lock twice asks for it: puts `k/w-asked` beside it. A commit that keeps the lock reads
 *    that key in its own transaction; when it is there the lock is given back at once, and not kept for ASKED_MS.
 *  - A thread gives it back when no transaction has begun with it for KEEP_MS. Without a thread it is not kept.
 *  - Aborting, failing, and closing the database give it back. Where that fails, as the KV is away, its lease ends it
 *    for others; this process remembers that it has left it there.
 *
 * Other commits of the process use the lock that is kept, rather than wait for it.
 *
 * A transaction that resumes the lock begins at the process's last commit with it, without asking a KV that takes a
 * request for that: nobody else can have committed since. That goes by the clock: at the latest a third of the lease ago
 * the lock was renewed. Where that is not so, because the machine was stopped and its clock with it, the snapshot may be
 * out of date: then the lock was broken, and the transaction commits as an optimist, who finds out.
 */
#ifndef PGS_TXN_TURN_H
#define PGS_TXN_TURN_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/task.h"

struct pgs_db;

/* The process's last commit with the lock. Nobody else can have committed since, as long as the lock is its own. */
typedef struct pgs__turn_commit {
	uint64_t revision; /* 0: it is not known */
	uint64_t count;    /* commits, it included */
	uint64_t counter;  /* what it put at t */
} pgs__turn_commit;

typedef struct pgs__writer_lock {
	uint64_t held;         /* create revision of ours; 0 = not held */
	uint64_t seen;         /* mod revision of another's, as observed, */
	uint64_t seen_since;   /* unchanged since this monotonic ms */
	uint32_t waits;
	bool worth_keeping;    /* taken soon after the one before */
	uint64_t renew_ms;     /* held: put it again from then on (monotonic) */
	pgs__turn_commit last; /* held, resumed */
} pgs__writer_lock;

/* Of an open database. */
typedef struct pgs__turn {
	pthread_mutex_t lock;
	pthread_cond_t moved;  /* the thread has something to do, or has given it back */
	pgs__writer_lock kept; /* held 0: none */
	uint64_t until_ms;     /* it is kept until then */
	bool leaving;          /* the thread is giving it back */
	bool closing;
	bool idle;             /* the thread sleeps until it is woken */
	pgs__task thread;
	pid_t pid;             /* whose all this is: a child made by fork() has neither lock nor thread */
	uint64_t own;          /* create revision of the last lock this process took, */
	uint64_t left;         /* and of the last that could not be given back: it may still be there, unused */
	uint64_t ended_ms;     /* the last transaction that began with it committed; 0 = none has */
	uint64_t asked_ms;     /* others asked for it last; 0 = never */
	uint64_t met;          /* create revision of another's lock, as met last, */
	uint64_t met_since_ms; /* first met then, */
	uint64_t met_ms;       /* last then; */
	bool asked;            /* and asked for */
} pgs__turn;

int pgs__turn_init(pgs__turn *turn); /* PGS_OK or PGS_ENOMEM */

/* Give back what is kept, end the thread. The database is about to be freed; nothing of it is in use. */
void pgs__turn_close(struct pgs_db *db);

/* Use the lock that is kept, after waiting for it to be gone if it is just being given back. False: none is kept. */
bool pgs__turn_resume(struct pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms);

/* A commit has succeeded with the lock, and nobody has asked for it: keep it. False: it must be given back. */
bool pgs__turn_keep(struct pgs_db *db, const pgs__writer_lock *lock);

/* Whether a commit with this lock should try to keep it. */
bool pgs__turn_is_worth_keeping(struct pgs_db *db, const pgs__writer_lock *lock);

/* Whether a transaction that begins with the lock now comes soon after the one before. */
bool pgs__turn_is_soon(struct pgs_db *db);

/* The lock of this create revision could not be given back. */
void pgs__turn_leave(struct pgs_db *db, uint64_t revision);

/* Whether a lock that was met is one of those: nobody has it, whatever its lease says. */
bool pgs__turn_was_left(struct pgs_db *db, uint64_t revision);

/* The lock was put, with this create revision. */
void pgs__turn_taken(struct pgs_db *db, pgs__writer_lock *lock, uint64_t revision);

/* A transaction that began with the lock has committed. */
void pgs__turn_ended(struct pgs_db *db);

/* Somebody wants the lock that this process has. */
void pgs__turn_wanted(struct pgs_db *db);

/* A lock of this create revision is there, and not the caller's. True: it is another process's, and was there the last
 * time, too: ask for it, and say so with pgs__turn_asked(). */
bool pgs__turn_met(struct pgs_db *db, uint64_t revision);
void pgs__turn_asked(struct pgs_db *db, uint64_t revision);

/* Whether another's lock was met lately: then look before putting one's own. */
bool pgs__turn_is_contended(struct pgs_db *db);

/* Give it back if it is time to: for who has no threads. */
void pgs__turn_expire(struct pgs_db *db);

#endif
