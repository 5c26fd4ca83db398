/* The fault controller: counting calls, deciding, keeping delayed transactions.
 *
 *     call ─▶ number it ─▶ latency ─▶ before() ─▶ decide ─▶ none, or a fault
 *                                                 │
 *                                   stopped? planned? else by chance
 *
 * Chance is a hash of the seed and the call's number, so a run whose calls
 * come in the same order replays exactly, whatever the clock does.
 *
 * The lock covers the plan, the stop flag and the queue; it is not held while
 * the hook or a backend runs.
 */
#include "control.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

struct pgs_fault {
	pgs_fault_options options;
	atomic_uint_fast64_t calls;
	pthread_mutex_t lock;
	uint64_t plan_left; /* decisions until the planned one, which is the last counted; 0 = no plan */
	pgs_fault_kind plan_kind;
	bool stopped;
	pgs__fault_delayed *first; /* oldest first */
	pgs__fault_delayed **last;
};

/* --- deciding ----------------------------------------------------------- */

enum { DRAW_KIND = 1, DRAW_LATENCY = 2 };

/* splitmix64's finalizer over everything that may matter. */
static uint64_t draw(const pgs_fault *fault, uint64_t call, uint64_t what)
{
	uint64_t z = fault->options.seed + call * 0x9e3779b97f4a7c15 + what * 0xd1b54a32d192ed03;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static void sleep_latency(const pgs_fault *fault, uint64_t call, uint64_t deadline_ms)
{
	if (fault->options.latency_us_max == 0)
		return;
	uint64_t us = draw(fault, call, DRAW_LATENCY) % ((uint64_t)fault->options.latency_us_max + 1);
	if (deadline_ms) {
		uint64_t now = pgs__now_ms(), left = deadline_ms > now ? deadline_ms - now : 0;
		if (us / 1000 >= left)
			us = left * 1000;
	}
	struct timespec pause = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
	nanosleep(&pause, NULL);
}

static pgs_fault_kind chance(const pgs_fault *fault, uint64_t call)
{
	uint64_t die = draw(fault, call, DRAW_KIND) % 1000000;
	uint64_t error = fault->options.error_per_million;
	if (die < error)
		return PGS_FAULT_ERROR;
	return die < error + fault->options.lose_reply_per_million ? PGS_FAULT_LOSE_REPLY : PGS_FAULT_NONE;
}

pgs_fault_kind pgs__fault_decide(pgs_fault *fault, const char *operation, uint64_t deadline_ms)
{
	uint64_t call = atomic_fetch_add(&fault->calls, 1) + 1;
	sleep_latency(fault, call, deadline_ms);
	if (fault->options.before)
		fault->options.before(fault->options.before_ctx, call, operation);
	pthread_mutex_lock(&fault->lock);
	bool planned = fault->plan_left && --fault->plan_left == 0;
	pgs_fault_kind kind = planned ? fault->plan_kind : chance(fault, call);
	if (kind == PGS_FAULT_STOP)
		fault->stopped = true;
	if (fault->stopped)
		kind = PGS_FAULT_STOP;
	pthread_mutex_unlock(&fault->lock);
	return kind;
}

bool pgs__fault_is_stopped(pgs_fault *fault)
{
	pthread_mutex_lock(&fault->lock);
	bool stopped = fault->stopped;
	pthread_mutex_unlock(&fault->lock);
	return stopped;
}

void pgs_fault_at(pgs_fault *fault, uint64_t nth, pgs_fault_kind kind)
{
	pthread_mutex_lock(&fault->lock);
	fault->plan_left = nth;
	fault->plan_kind = kind;
	pthread_mutex_unlock(&fault->lock);
}

uint64_t pgs_fault_calls(const pgs_fault *fault)
{
	return atomic_load(&((pgs_fault *)fault)->calls);
}

void pgs_fault_resume(pgs_fault *fault)
{
	pthread_mutex_lock(&fault->lock);
	fault->stopped = false;
	pthread_mutex_unlock(&fault->lock);
}

/* --- delayed transactions ----------------------------------------------- */

/* A slice that the kind of compare or operation does not use may be anything: it is not looked at. */
static int copy_if(bool used, pgs__arena *arena, pgs_slice *slice)
{
	pgs_slice from = used ? *slice : (pgs_slice){NULL, 0};
	return pgs__arena_copy(arena, from, slice);
}

static int copy_compares(pgs__arena *arena, const pgs_kv_compare **compares, size_t count)
{
	pgs_kv_compare *copies = pgs__arena_calloc(arena, count, sizeof *copies);
	if (!copies)
		return PGS_ENOMEM;
	for (size_t i = 0; i < count; i++) {
		pgs_kv_compare *copy = &copies[i];
		*copy = (*compares)[i];
		if (copy_if(true, arena, &copy->key) != PGS_OK || copy_if(true, arena, &copy->range_end) != PGS_OK ||
			copy_if(copy->target == PGS_KV_VALUE, arena, &copy->value) != PGS_OK)
			return PGS_ENOMEM;
	}
	*compares = copies;
	return PGS_OK;
}

static int copy_ops(pgs__arena *arena, const pgs_kv_op **ops, size_t count)
{
	pgs_kv_op *copies = pgs__arena_calloc(arena, count, sizeof *copies);
	if (!copies)
		return PGS_ENOMEM;
	for (size_t i = 0; i < count; i++) {
		pgs_kv_op *copy = &copies[i];
		bool puts = (*ops)[i].kind == PGS_KV_PUT;
		*copy = (*ops)[i];
		if (copy_if(true, arena, &copy->key) != PGS_OK || copy_if(!puts, arena, &copy->range_end) != PGS_OK ||
			copy_if(puts, arena, &copy->value) != PGS_OK)
			return PGS_ENOMEM;
	}
	*ops = copies;
	return PGS_OK;
}

/* Replaces the request's borrowed pointers by copies; the response starts empty. */
static int copy_txn(pgs__arena *arena, const pgs_kv_txn *from, pgs_kv_txn *copy)
{
	*copy = (pgs_kv_txn){.compares = from->compares,
		.compare_count = from->compare_count,
		.success = from->success,
		.success_count = from->success_count,
		.failure = from->failure,
		.failure_count = from->failure_count};
	if (copy_compares(arena, &copy->compares, copy->compare_count) != PGS_OK ||
		copy_ops(arena, &copy->success, copy->success_count) != PGS_OK)
		return PGS_ENOMEM;
	return copy_ops(arena, &copy->failure, copy->failure_count);
}

static pgs__fault_delayed *copy_call(pgs__arena *arena, pgs_kv *inner, const pgs_kv_txn *txns, size_t count)
{
	pgs__fault_delayed *delayed = pgs__arena_calloc(arena, 1, sizeof *delayed);
	if (!delayed || !(delayed->txns = pgs__arena_calloc(arena, count, sizeof *txns)))
		return NULL;
	delayed->inner = inner;
	delayed->count = count;
	for (size_t i = 0; i < count; i++)
		if (copy_txn(arena, &txns[i], &delayed->txns[i]) != PGS_OK)
			return NULL;
	return delayed;
}

int pgs__fault_keep(pgs_fault *fault, pgs_kv *inner, const pgs_kv_txn *txns, size_t count)
{
	pgs__arena arena = {0};
	pgs__fault_delayed *delayed = copy_call(&arena, inner, txns, count);
	if (!delayed) {
		pgs__arena_free(&arena);
		return PGS_ENOMEM;
	}
	delayed->arena = arena;
	pthread_mutex_lock(&fault->lock);
	*fault->last = delayed;
	fault->last = &delayed->next;
	pthread_mutex_unlock(&fault->lock);
	return PGS_OK;
}

static void free_delayed(pgs__fault_delayed *delayed)
{
	pgs__arena arena = delayed->arena; /* the struct itself is in it */
	pgs__arena_free(&arena);
}

static pgs__fault_delayed *take_oldest(pgs_fault *fault)
{
	pthread_mutex_lock(&fault->lock);
	pgs__fault_delayed *delayed = fault->first;
	if (delayed) {
		fault->first = delayed->next;
		if (!fault->first)
			fault->last = &fault->first;
	}
	pthread_mutex_unlock(&fault->lock);
	return delayed;
}

uint64_t pgs_fault_deliver(pgs_fault *fault)
{
	uint64_t applied = 0;
	pgs__fault_delayed *delayed;
	while ((delayed = take_oldest(fault))) {
		const pgs_kv_vtable *vtable = delayed->inner->vtable;
		vtable->txn(delayed->inner, delayed->txns, delayed->count, 0, NULL);
		for (size_t i = 0; i < delayed->count; i++)
			applied += delayed->txns[i].status == PGS_OK && delayed->txns[i].succeeded;
		vtable->release(delayed->inner, delayed->txns, delayed->count);
		free_delayed(delayed);
	}
	return applied;
}

void pgs__fault_forget(pgs_fault *fault, const pgs_kv *inner)
{
	pthread_mutex_lock(&fault->lock);
	pgs__fault_delayed **link = &fault->first;
	while (*link) {
		pgs__fault_delayed *delayed = *link;
		if (delayed->inner != inner) {
			link = &delayed->next;
			continue;
		}
		*link = delayed->next;
		free_delayed(delayed);
	}
	fault->last = link;
	pthread_mutex_unlock(&fault->lock);
}

/* --- creation and end --------------------------------------------------- */

int pgs_fault_new(pgs_fault **out, const pgs_fault_options *options, pgs_error *err)
{
	*out = NULL;
	if (options && (options->struct_size == 0 || options->struct_size > sizeof *options))
		return pgs__error(err, PGS_EINVAL, "pgs_fault_options.struct_size is %u, at most %zu is known",
			options->struct_size, sizeof *options);
	pgs_fault *fault = pgs__calloc(1, sizeof *fault);
	if (!fault || pthread_mutex_init(&fault->lock, NULL) != 0) {
		pgs__free(fault);
		return pgs__error_nomem(err, "a fault controller");
	}
	if (options)
		memcpy(&fault->options, options, options->struct_size);
	atomic_init(&fault->calls, 0);
	fault->last = &fault->first;
	*out = fault;
	return PGS_OK;
}

void pgs_fault_free(pgs_fault *fault)
{
	if (!fault)
		return;
	pgs__fault_delayed *delayed;
	while ((delayed = take_oldest(fault)))
		free_delayed(delayed);
	pthread_mutex_destroy(&fault->lock);
	pgs__free(fault);
}
