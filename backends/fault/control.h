/* What the fault wrappers share: the controller that decides about each call. */
#ifndef PGS_FAULT_CONTROL_H
#define PGS_FAULT_CONTROL_H

#include <pagestore/fault.h>

#include "util/arena.h"

/* A txn call kept back by PGS_FAULT_DELAY, in its own memory. */
typedef struct pgs__fault_delayed {
	struct pgs__fault_delayed *next;
	pgs_kv *inner; /* where it was going */
	pgs_kv_txn *txns;
	size_t count;
	pgs__arena arena; /* everything above, this struct too */
} pgs__fault_delayed;

/* Counts a call, waits out its latency (not past the deadline), calls the
 * user's hook, and says what the call shall suffer. PGS_FAULT_STOP stands for
 * every call while stopped. */
pgs_fault_kind pgs__fault_decide(pgs_fault *fault, const char *operation, uint64_t deadline_ms);

/* Whether PGS_FAULT_STOP was met, and nothing has been resumed since. */
bool pgs__fault_is_stopped(pgs_fault *fault);

/* Keeps a deep copy of a txn call for pgs_fault_deliver(). PGS_OK or PGS_ENOMEM. */
int pgs__fault_keep(pgs_fault *fault, pgs_kv *inner, const pgs_kv_txn *txns, size_t count);

/* Drops what was kept for `inner`, which is about to close. */
void pgs__fault_forget(pgs_fault *fault, const pgs_kv *inner);

#endif
