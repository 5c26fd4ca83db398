/* Processes of one machine or several that share a database, most of them a cache file too, and check each other.
 *
 * Commits are a chain: commit N is made by reading N - 1 on page 0. It says N there, and writes some other pages; which,
 * and what, follows from N. So who finds N on page 0 of a snapshot knows every byte of every other page. When each commit
 * was acknowledged, and to which machine, is in memory that all processes share, and outlives who is killed: every
 * beginning is held against what its freshness promises.
 *
 *     chain c;
 *     chain_set_up(&c, scratch_path("chain"), url, cached_url);
 *     chain_start(&c, 0, CHAIN_FOLLOWS | CHAIN_WRITES);
 *     ...
 *     chain_kill(&c, 0);
 *     chain_start(&c, 0, CHAIN_FOLLOWS);
 *     chain_catch_up(&c, "after a kill");
 *     chain_end(&c);
 *     chain_tear_down(&c);
 *
 * with chain_clear() for the test's teardown. Processes are this program, begun anew: main() starts with
 *
 *     if (argc > 1)
 *             return chain_process(argc, argv);
 *
 * All functions fail the running test when a process found something wrong, has ended, or does nothing any more. */
#ifndef PGS_TESTS_CHAIN_H
#define PGS_TESTS_CHAIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <pagestore.h>

#define CHAIN_DB "chain"
#define CHAIN_PROCESSES 8
#define CHAIN_COMMITS 100000
#define CHAIN_MACHINES 4
#define CHAIN_FRESHNESS 4 /* PGS_LATEST, … */
#define CHAIN_RETENTION_MS 3000

/* What a process does, beside looking at snapshots of every freshness. */
enum {
	CHAIN_FOLLOWS = 1,  /* pgs_follow_start() */
	CHAIN_WRITES = 2,
	CHAIN_MAINTAINS = 4,
	CHAIN_ELSEWHERE = 8 /* on another machine: without the cache file */
};

/* What a process shows of itself. All but `failure` and what is reset at its start only rises. */
typedef struct chain_process_state {
	_Atomic uint64_t beat_ms;                /* its last sign of life */
	_Atomic uint64_t seen;                   /* the last commit seen at PGS_LOCAL, by this life; 0 = none */
	_Atomic uint64_t looks[CHAIN_FRESHNESS]; /* snapshots that were read whole, and right */
	_Atomic uint64_t commits, conflicts;
	_Atomic uint64_t errors; /* calls that failed while something was said to be away */
	_Atomic uint64_t old;    /* snapshots that were collected before they were read */
	_Atomic uint64_t restarts, damaged; /* the follower's; contents in the cache that were not what they should be */
	char last_error[sizeof ((pgs_error *)0)->message + 40];
	char failure[600];
} chain_process_state;

typedef struct chain_commit {
	_Atomic uint64_t at_ns; /* acknowledged; monotonic clock; 0 = not known to be */
	_Atomic uint64_t revision;
} chain_commit;

typedef struct chain_shared {
	_Atomic bool stop, paused;      /* end; write nothing */
	_Atomic uint64_t away_until_ms; /* until then calls may fail */
	uint64_t salt;                  /* of all contents: another for each chain */
	_Atomic uint64_t era_began;     /* commits after this one are of a later era: the same numbers, other contents */
	_Atomic uint64_t acknowledged;
	_Atomic uint64_t acknowledged_on[CHAIN_MACHINES];
	chain_process_state processes[CHAIN_PROCESSES];
	chain_commit commits[CHAIN_COMMITS];
} chain_shared;

typedef struct chain_life {
	pid_t pid; /* 0 = none */
	unsigned duties, machine;
} chain_life;

typedef struct chain {
	chain_shared *shared;
	char path[300];
	const char *url, *cached_url;
	unsigned machine; /* of processes to be started with a cache */
	chain_life lives[CHAIN_PROCESSES];
	unsigned kills, starts;
	bool may_crash; /* what is done to them may end a process by a signal: it is started anew, and counted */
	unsigned crashes;
} chain;

/* The database made, with the chain's first commit; nobody at it yet. `path`: a file of its own. Both URLs are borrowed. */
void chain_set_up(chain *c, const char *path, const char *url, const char *cached_url, uint64_t salt);
void chain_tear_down(chain *c);
int chain_clear(void **state); /* a test's teardown: kills what a failed test has left */

void chain_start(chain *c, unsigned process, unsigned duties);
void chain_kill(chain *c, unsigned process); /* -9 */
void chain_freeze(chain *c, unsigned process);
void chain_thaw(chain *c, unsigned process);
void chain_end(chain *c); /* all end by themselves, well */

/* While there is no process: the store was put back to where commit `last` was the latest. */
void chain_lose(chain *c, uint64_t last);

/* Wait until every process has seen, at PGS_LOCAL, what was committed before the call; until so many commits were added;
 * until each process has looked so often at PGS_LOCAL. */
void chain_catch_up(chain *c, const char *when);
void chain_wait_commits(chain *c, uint64_t count, const char *when);
void chain_wait_looks(chain *c, uint64_t count, const char *when);

/* Wait, looking after all of them. */
void chain_sleep(chain *c, uint32_t ms);

/* Nobody commits any more when this returns, and what processes look at has few pages; and on again. */
void chain_pause(chain *c);
void chain_go_on(chain *c);

/* From here on calls may fail; and from a while after the second, not any more. */
void chain_away(chain *c);
void chain_back(chain *c);

/* Which process keeps the mirror in the cache file at `path`; CHAIN_PROCESSES: none of them. */
unsigned chain_keeper(const chain *c, const char *path);
/* Wait until one does, and return it; *took_ms: how long that was. */
unsigned chain_wait_keeper(chain *c, const char *path, uint64_t *took_ms);

/* Look at the latest state without any cache; and print what was done. Fails if some freshness was never looked at. */
void chain_check(chain *c, const char *url);
void chain_report(chain *c, const char *what);

uint64_t chain_errors(const chain *c);
uint64_t chain_restarts(const chain *c);
uint64_t chain_damaged(const chain *c);

int chain_process(int argc, char **argv);

/* --- chain_process.c: one process's part ---------------------------------------------------- */

typedef struct chain_worker {
	chain_shared *shared;
	chain_process_state *state;
	pgs_store *store;
	pgs_db *db;
	unsigned duties, machine;
	uint64_t seen, own; /* the last commit seen at any freshness; committed by this process */
	uint64_t random;
} chain_worker;

/* Whether a snapshot of commit n has many pages, in files. */
bool chain_is_bulky(uint64_t n);

/* These say why not in state->failure. */
bool chain_open(chain_worker *w, const char *url);
void chain_close(chain_worker *w);
/* Read a snapshot whole. True: it is right. False also if it could not be read now. */
bool chain_look(chain_worker *w, uint32_t freshness);
/* Add a commit. False: not this time. */
bool chain_add(chain_worker *w);

#endif
