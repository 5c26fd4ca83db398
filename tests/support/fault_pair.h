/* Two stores on one server: one whose calls fail by a plan, and a healthy one to look with.
 *
 *     pair.kind = ONE_LOST, pair.at = 3;
 *     fault_pair_open(&pair, &limits);
 *     ... databases on pair.healthy and pair.faulty ...
 *     pair.armed = true;
 *     result = ... the faulty one commits ...
 *     pair.armed = false;
 *     fault_pair_expect(&pair, result, &err);
 *
 * for each plan, and at = 1, 2, … for as long as fault_pair_reached(). */
#ifndef PGS_TESTS_FAULT_PAIR_H
#define PGS_TESTS_FAULT_PAIR_H

#include "support/stores.h"

/* Beyond fault.h's kinds: from the call on, every one. */
typedef enum fault_plan {
	ONE_ERROR,
	ONE_LOST,
	ONE_DELAY,
	STOP,
	ALL_LOST, /* from here on, deadlines may be short */
	ALL_DELAYED,
	DELAY_THEN_STOP,
	DELAY_THEN_ERRORS,
	FAULT_PLANS
} fault_plan;

extern const char *const fault_plan_names[FAULT_PLANS];

typedef struct fault_pair {
	fault_plan kind;
	uint64_t at;   /* the call at which the plan begins; 0 = none */
	void (*between)(struct fault_pair *pair); /* before each KV transaction, while armed; NULL = nothing */
	bool armed;
	uint64_t call; /* so many, while armed */
	server server;
	pgs_fault *fault;
	pgs_store *healthy, *faulty;
} fault_pair;

void fault_pair_open(fault_pair *p, const pgs_kv_limits *limits);
void fault_pair_close(fault_pair *p);

bool fault_pair_reached(const fault_pair *p);

/* A commit's result is one that the plan allows. */
void fault_pair_expect(const fault_pair *p, int result, const pgs_error *err);

/* Another's commit to a page, if it comes through at once: ours may hold the lock. */
void fault_pair_commit_beside(pgs_db *healthy, uint64_t page_no, uint64_t seed);

/* Remove the lock of a writer that is taken to be dead, but whose process, ours, is not. */
void fault_pair_remove_lock(fault_pair *p, pgs_db *db);

#endif
