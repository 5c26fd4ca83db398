/* See guard_kv.h. */
#include "support/guard_kv.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct guard_kv {
	pgs_kv base;
	pgs_kv *inner;
	guard_seen *seen;
	pthread_mutex_t lock;
} guard_kv;

static uint64_t count_keys(guard_kv *g, pgs_slice key, pgs_slice end, uint64_t revision)
{
	const pgs_kv_op op = {
		.kind = PGS_KV_RANGE, .key = key, .range_end = end, .revision = revision, .count_only = true};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	uint64_t keys = 0;
	if (g->inner->vtable->txn(g->inner, &txn, 1, 0, NULL) == PGS_OK)
		keys = txn.results[0].total;
	g->inner->vtable->release(g->inner, &txn, 1);
	return keys;
}

static size_t print_key(char *out, size_t room, pgs_slice key)
{
	const unsigned char *bytes = key.data;
	size_t used = 0;
	for (size_t i = 0; i < key.size && used + 5 < room; i++)
		used += (size_t)snprintf(out + used, room - used, bytes[i] > ' ' && bytes[i] < 0x7f ? "%c" : "\\%02x",
					 bytes[i]);
	return used;
}

static void look(guard_kv *g, guard_worst *worst, const char *what, pgs_slice key, pgs_slice end, uint64_t revision)
{
	if (end.size == 0)
		return;
	uint64_t keys = count_keys(g, key, end, revision);
	pthread_mutex_lock(&g->lock);
	g->seen->ranges++;
	g->seen->keys += keys;
	if (keys > worst->keys) {
		size_t used = (size_t)snprintf(worst->range, sizeof worst->range, "%s ", what);
		used += print_key(worst->range + used, 72, key);
		used += (size_t)snprintf(worst->range + used, sizeof worst->range - used, " to ");
		print_key(worst->range + used, 72, end);
		worst->keys = keys;
	}
	pthread_mutex_unlock(&g->lock);
}

static bool changes(const pgs_kv_op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (ops[i].kind != PGS_KV_RANGE)
			return true;
	return false;
}

static void look_at_ops(guard_kv *g, guard_worst *worst, const pgs_kv_op *ops, size_t count)
{
	static const char *const names[] = {"", "put", "delete", "read"};
	for (size_t i = 0; i < count; i++)
		look(g, worst, names[ops[i].kind], ops[i].key, ops[i].range_end, ops[i].revision);
}

static int guard_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	guard_kv *g = (guard_kv *)kv;
	for (size_t i = 0; i < count; i++) {
		const pgs_kv_txn *t = &txns[i];
		bool change = changes(t->success, t->success_count) || changes(t->failure, t->failure_count);
		guard_worst *worst = change ? &g->seen->change : &g->seen->read;
		for (size_t k = 0; k < t->compare_count; k++)
			look(g, worst, "compare", t->compares[k].key, t->compares[k].range_end, 0);
		look_at_ops(g, worst, t->success, t->success_count);
		look_at_ops(g, worst, t->failure, t->failure_count);
		pthread_mutex_lock(&g->lock);
		g->seen->requests++;
		pthread_mutex_unlock(&g->lock);
	}
	return g->inner->vtable->txn(g->inner, txns, count, deadline_ms, err);
}

static pgs_kv *inner_of(pgs_kv *kv)
{
	return ((guard_kv *)kv)->inner;
}

static void guard_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count)
{
	inner_of(kv)->vtable->release(inner_of(kv), txns, count);
}

/* A watch's functions find the inner KV's by the watch itself: nothing is to be done for it here. */
typedef struct guard_watch {
	pgs_kv *inner;
	pgs_kv_watch *watch;
} guard_watch;

static int guard_watch_open(pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out,
			    pgs_error *err)
{
	guard_watch *w = malloc(sizeof *w);
	*out = NULL;
	if (!w)
		return PGS_ENOMEM;
	w->inner = inner_of(kv);
	int result = w->inner->vtable->watch_open(w->inner, key, range_end, from_revision, &w->watch, err);
	if (result == PGS_OK)
		*out = (pgs_kv_watch *)w;
	else
		free(w);
	return result;
}

static int guard_watch_next(pgs_kv_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	guard_watch *w = (guard_watch *)watch;
	return w->inner->vtable->watch_next(w->watch, timeout_ms, out, err);
}

static void guard_watch_close(pgs_kv_watch *watch)
{
	guard_watch *w = (guard_watch *)watch;
	w->inner->vtable->watch_close(w->watch);
	free(w);
}

static int guard_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(kv)->vtable->compact(inner_of(kv), revision, deadline_ms, err);
}

static void guard_limits(pgs_kv *kv, pgs_kv_limits *out)
{
	inner_of(kv)->vtable->limits(inner_of(kv), out);
}

static int guard_identity(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(kv)->vtable->identity(inner_of(kv), out, deadline_ms, err);
}

static int guard_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(kv)->vtable->stat(inner_of(kv), out, deadline_ms, err);
}

static void guard_close(pgs_kv *kv)
{
	guard_kv *g = (guard_kv *)kv;
	g->inner->vtable->close(g->inner);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

static const pgs_kv_vtable vtable = {
	.version = PGS_KV_VERSION,
	.struct_size = sizeof vtable,
	.txn = guard_txn,
	.release = guard_release,
	.watch_open = guard_watch_open,
	.watch_next = guard_watch_next,
	.watch_close = guard_watch_close,
	.compact = guard_compact,
	.limits = guard_limits,
	.identity = guard_identity,
	.stat = guard_stat,
	.close = guard_close,
};

pgs_kv *guard_kv_new(pgs_kv *inner, guard_seen *seen)
{
	guard_kv *g = calloc(1, sizeof *g);
	if (!g)
		return NULL;
	g->base.vtable = &vtable;
	g->inner = inner;
	g->seen = seen;
	*seen = (guard_seen){0};
	pthread_mutex_init(&g->lock, NULL);
	return &g->base;
}
