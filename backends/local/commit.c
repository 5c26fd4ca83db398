/* Which LMDB transaction a request runs in.
 *
 * Requests that only read run in a read transaction and never wait for writers.
 *
 * Those that may write queue up. Whoever finds nobody writing leads: it takes
 * the writers' lock, then everything queued until then, runs it all in one LMDB
 * transaction with one sync, and tells the others. So threads that commit at
 * the same time share the disk's latency, and a lone thread pays nothing.
 *
 *      queued ──take──> taken ──(run_together, else run_alone each)──> done
 *        └─deadline─> PGS_ETIMEOUT, never ran
 *
 *  C1 Each request is atomic and has its own revision; a refused one (K3, K5)
 *     leaves the LMDB transaction as it was.
 *  C2 If one breaks the LMDB transaction, it is aborted and every request runs
 *     again in one of its own: then each gets its own result.
 *  C3 The strictest sync of those in a transaction is the transaction's.
 */
#include "kv.h"

#include <errno.h>
#include <time.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/kv_check.h"

/* One LMDB transaction takes no more batches once it has so many requests. */
#define GROUP_MAX 1024

typedef struct item {
	pgs_kv_txn *txn;
	pgs_error err;
} item;

/* The requests of one call, on the caller's stack and heap. */
typedef struct pgs__batch {
	struct pgs__batch *next;
	pgs_sync sync;
	item *items;
	size_t count;
	bool taken;
	bool done;
} pgs__batch;

/* The first failed request's error is the call's. */
static int note(pgs_kv_txn *txns, size_t count, size_t index, int status, const pgs_error *from, pgs_error *to)
{
	txns[index].status = status;
	if (status == PGS_OK || !to)
		return status;
	for (size_t i = 0; i < index && i < count; i++)
		if (txns[i].status != PGS_OK)
			return status;
	*to = *from;
	return status;
}

/* --- reading ----------------------------------------------------------------- */

static int begin_reading(pgs__env *env, pgs__run *run, pgs__view **view, pgs_error *err)
{
	int status = pgs__env_view_begin(env, view, err);
	if (status)
		return status;
	*run = (pgs__run){.env = env, .txn = (*view)->txn, .versions = (*view)->versions, .log = (*view)->log};
	return pgs__run_begin(run, err);
}

/* All reading requests of the call, as of one moment. */
static void run_reads(pgs__local_kv *kv, pgs_kv_txn *txns, size_t count, pgs_error *err)
{
	pgs__run run = {0};
	pgs__view *view = NULL;
	pgs_error why = PGS_ERROR_INIT;
	int begun = PGS_OK;
	for (size_t i = 0; i < count; i++) {
		if (txns[i].status || pgs__kv_mutates(&txns[i]))
			continue;
		if (!view && !begun)
			begun = begin_reading(kv->env, &run, &view, &why);
		int status = begun ? begun : pgs__run_txn(&run, &txns[i], &why);
		note(txns, count, i, status, &why, err);
	}
	pgs__run_end(&run);
	pgs__env_view_end(kv->env, view);
}

/* --- writing ----------------------------------------------------------------- */

static int begin_writing(pgs__env *env, pgs_sync sync, pgs__run *run, pgs_error *err)
{
	*run = (pgs__run){.env = env, .keeps_puts = sync == PGS_SYNC_FULL && env->redo_offset};
	int status = pgs__env_write_begin(env, sync, &run->txn, err);
	if (status)
		return status;
	int rc = mdb_cursor_open(run->txn, env->versions, &run->versions);
	if (!rc)
		rc = mdb_cursor_open(run->txn, env->log, &run->log);
	status = rc ? pgs__env_error(env, rc, "cannot begin a transaction", err) : pgs__run_begin(run, err);
	if (status)
		pgs__env_write_abort(env, run->txn);
	return status;
}

/* Commit, or abort when there is nothing to commit. */
static int end_writing(pgs__run *run, pgs_error *err)
{
	int status = PGS_OK;
	if (run->changed)
		status = pgs__env_write_commit(run->env, run->txn, run->keeps_puts ? &run->puts : NULL, err);
	else
		pgs__env_write_abort(run->env, run->txn);
	pgs__run_end(run);
	return status;
}

static void fail_item(item *it, int status, const pgs_error *why)
{
	pgs__txn_release(it->txn);
	it->txn->status = status;
	it->err = *why;
}

static bool run_alone(pgs__env *env, item *it, pgs_sync sync)
{
	pgs__run run;
	pgs_error why = PGS_ERROR_INIT;
	int status = begin_writing(env, sync, &run, &why);
	if (!status) {
		status = pgs__run_txn(&run, it->txn, &why);
		/* A failed request's writes must not be committed. */
		if (status)
			run.changed = false;
		int ended = end_writing(&run, &why);
		status = status ? status : ended;
	}
	it->txn->status = status;
	if (status)
		fail_item(it, status, &why);
	return !status && run.changed;
}

/* Did the request refuse itself before it touched anything (C1)? */
static bool refused(int status)
{
	return status == PGS_EINVAL || status == PGS_EOLDREV;
}

/* Run every batch in one LMDB transaction. False when that broke and nothing was applied (C2). */
static bool run_together(pgs__env *env, pgs__batch *group, pgs_sync sync, bool *changed)
{
	pgs__run run;
	pgs_error why = PGS_ERROR_INIT;
	int broken = begin_writing(env, sync, &run, &why);
	if (broken)
		return false;
	for (pgs__batch *batch = group; batch && !broken; batch = batch->next)
		for (size_t i = 0; i < batch->count && !broken; i++) {
			item *it = &batch->items[i];
			it->txn->status = pgs__run_txn(&run, it->txn, &it->err);
			if (!refused(it->txn->status) || run.dirty)
				broken = it->txn->status;
		}
	if (broken)
		run.changed = false;
	*changed = run.changed;
	int ended = end_writing(&run, &why);
	if (ended != PGS_EUNKNOWN)
		return !broken && !ended;
	/* Also one that changed nothing saw what may not last. */
	for (pgs__batch *batch = group; batch; batch = batch->next)
		for (size_t i = 0; i < batch->count; i++)
			if (!refused(batch->items[i].txn->status))
				fail_item(&batch->items[i], ended, &why);
	return true;
}

static void run_group(pgs__env *env, pgs__batch *group)
{
	pgs_sync sync = group->sync;
	bool changed = false, alone = group->count == 1 && !group->next;
	for (pgs__batch *batch = group; batch; batch = batch->next)
		if (batch->sync < sync)
			sync = batch->sync;
	if (alone || !run_together(env, group, sync, &changed))
		for (pgs__batch *batch = group; batch; batch = batch->next)
			for (size_t i = 0; i < batch->count; i++) {
				pgs__txn_release(batch->items[i].txn);
				changed |= run_alone(env, &batch->items[i], sync);
			}
	if (changed)
		pgs__env_announce(env);
}

/* --- the queue --------------------------------------------------------------- */

static void enqueue(pgs__env *env, pgs__batch *batch)
{
	*env->queue_last = batch;
	env->queue_last = &batch->next;
}

static void unqueue(pgs__env *env, pgs__batch *batch)
{
	pgs__batch **at = &env->queue_first;
	while (*at != batch)
		at = &(*at)->next;
	*at = batch->next;
	if (!*at)
		env->queue_last = at;
}

/* The queue's front, at least one batch. */
static pgs__batch *take_group(pgs__env *env)
{
	pgs__batch *group = env->queue_first, **at = &env->queue_first;
	for (size_t count = 0; *at && count < GROUP_MAX; at = &(*at)->next) {
		(*at)->taken = true;
		count += (*at)->count;
	}
	env->queue_first = *at;
	*at = NULL;
	if (!env->queue_first)
		env->queue_last = &env->queue_first;
	return group;
}

/* Lead once: called and returning with the queue locked. */
static int lead(pgs__env *env, pgs__batch *own, uint64_t deadline_ms, pgs_error *err)
{
	env->writing = true;
	pthread_mutex_unlock(&env->queue_lock);
	int status = pgs__env_lock_writers(env, deadline_ms, err);
	pthread_mutex_lock(&env->queue_lock);
	pgs__batch *group = NULL;
	if (status)
		unqueue(env, own);
	else
		group = take_group(env);
	pthread_mutex_unlock(&env->queue_lock);
	if (group) {
		run_group(env, group);
		pgs__env_unlock_writers(env);
	}
	pthread_mutex_lock(&env->queue_lock);
	/* A batch that is done may be gone as soon as the lock is: step first. */
	for (pgs__batch *batch = group, *next; batch; batch = next) {
		next = batch->next;
		batch->done = true;
	}
	env->writing = false;
	pthread_cond_broadcast(&env->turn);
	return status;
}

/* True when the deadline passed. */
static bool wait_turn(pgs__env *env, uint64_t deadline_ms)
{
	if (deadline_ms == 0) {
		pthread_cond_wait(&env->turn, &env->queue_lock);
		return false;
	}
	struct timespec until = {(time_t)(deadline_ms / 1000), (long)(deadline_ms % 1000) * 1000000};
	return pthread_cond_timedwait(&env->turn, &env->queue_lock, &until) == ETIMEDOUT;
}

static void leave_queue(pgs__env *env)
{
	pthread_mutex_lock(&env->queue_lock);
	env->writing = false;
	pthread_cond_broadcast(&env->turn);
	pthread_mutex_unlock(&env->queue_lock);
}

int pgs__writers_enter(pgs__env *env, uint64_t deadline_ms, pgs_error *err)
{
	pthread_mutex_lock(&env->queue_lock);
	bool late = false;
	while (env->writing && !late)
		late = wait_turn(env, deadline_ms);
	late = env->writing;
	env->writing = true;
	pthread_mutex_unlock(&env->queue_lock);
	if (late)
		return pgs__error(err, PGS_ETIMEOUT, "other writers kept '%s' busy past the deadline", env->path);
	int status = pgs__env_lock_writers(env, deadline_ms, err);
	if (status)
		leave_queue(env);
	return status;
}

void pgs__writers_leave(pgs__env *env)
{
	pgs__env_unlock_writers(env);
	leave_queue(env);
}

static int submit(pgs__env *env, pgs__batch *batch, uint64_t deadline_ms, pgs_error *err)
{
	int status = PGS_OK;
	pthread_mutex_lock(&env->queue_lock);
	enqueue(env, batch);
	while (!batch->done && !status) {
		if (!batch->taken && !env->writing) {
			status = lead(env, batch, deadline_ms, err);
			continue;
		}
		/* Once taken it is being written: there is no way back, and the disk is all that it waits for. */
		bool late = wait_turn(env, batch->taken ? 0 : deadline_ms);
		if (late && !batch->taken) {
			unqueue(env, batch);
			status = pgs__error(
				err, PGS_ETIMEOUT, "other writers kept '%s' busy past the deadline", env->path);
		}
	}
	pthread_mutex_unlock(&env->queue_lock);
	return status;
}

/* --- the call ---------------------------------------------------------------- */

/* Well formed, allowed, in time? Sets every status. */
static size_t check_all(pgs__local_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	size_t writes = 0;
	pgs_error why = PGS_ERROR_INIT;
	bool late = pgs__deadline_passed(deadline_ms);
	pgs_kv_limits limits;
	kv->base.vtable.limits(&kv->base.base, &limits);
	for (size_t i = 0; i < count; i++) {
		bool mutates = pgs__kv_mutates(&txns[i]);
		int status = pgs__kv_check(&txns[i], &limits, &why);
		if (!status && mutates && kv->read_only)
			status = pgs__error(
				&why, PGS_EREADONLY, "a write to '%s', which is open read-only", kv->env->path);
		if (!status && late)
			status = pgs__error(
				&why, PGS_ETIMEOUT, "the deadline passed before a transaction in '%s'", kv->env->path);
		note(txns, count, i, status, &why, err);
		writes += !status && mutates;
	}
	return writes;
}

static void run_writes(
	pgs__local_kv *kv, pgs_kv_txn *txns, size_t count, size_t writes, uint64_t deadline_ms, pgs_error *err)
{
	item single;
	pgs_error why = PGS_ERROR_INIT;
	pgs__batch batch = {.sync = kv->sync, .items = &single};
	if (writes > 1)
		batch.items = pgs__malloc(writes * sizeof *batch.items);
	for (size_t i = 0; i < count && batch.items; i++)
		if (!txns[i].status && pgs__kv_mutates(&txns[i]))
			batch.items[batch.count++].txn = &txns[i];
	int failed = batch.items ? submit(kv->env, &batch, deadline_ms, &why) : pgs__error_nomem(&why, "a transaction");
	for (size_t i = 0, at = 0; i < count; i++) {
		if (failed && !txns[i].status && pgs__kv_mutates(&txns[i]))
			note(txns, count, i, failed, &why, err);
		else if (!failed && at < batch.count && batch.items[at].txn == &txns[i]) {
			note(txns, count, i, txns[i].status, &batch.items[at].err, err);
			at++;
		}
	}
	if (batch.items != &single)
		pgs__free(batch.items);
}

int pgs__local_txn(pgs_kv *base, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	pgs__local_kv *kv = (pgs__local_kv *)base;
	int forked = pgs__env_check(kv->env, err);
	for (size_t i = 0; i < count; i++) {
		txns[i].succeeded = false;
		txns[i].revision = 0;
		txns[i].results = NULL;
		txns[i].result_count = 0;
		txns[i].response = NULL;
		txns[i].status = forked;
	}
	if (forked)
		return forked;
	size_t writes = check_all(kv, txns, count, deadline_ms, err);
	run_reads(kv, txns, count, err);
	if (writes)
		run_writes(kv, txns, count, writes, deadline_ms, err);
	for (size_t i = 0; i < count; i++)
		if (txns[i].status)
			return txns[i].status;
	return PGS_OK;
}
