/* Watches on the memory KV: a position in the log of changes.
 *
 *     open ──▶ next: copy the batch out of the log ──▶ next …
 *                └─ nothing yet: wait for `changed`, or the timeout
 *
 * A batch is a copy, because compaction may free the log's versions while the
 * caller still looks at it.
 */
#include "store.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "util/alloc.h"
#include "util/arena.h"
#include "util/cursor.h"
#include "util/error.h"
#include "util/kv_check.h"

/* A batch ends with the revision that passes one of these. */
#define BATCH_EVENTS 1024
#define BATCH_BYTES ((size_t)1 << 20)
#define BATCH_SCAN 65536 /* changes looked at without letting others have the lock */

typedef struct memory_watch {
	pgs__mem_store *store;
	pgs__arena names; /* key and range_end */
	pgs_slice key;
	pgs_slice range_end;
	uint64_t next;    /* the first revision not delivered */
	pgs__arena batch; /* the events last delivered */
} memory_watch;

int pgs__mem_watch_open(pgs__mem_store *store, pgs_slice key, pgs_slice range_end, uint64_t from_revision,
	pgs_kv_watch **out, pgs_error *err)
{
	*out = NULL;
	if (key.size == 0)
		return pgs__error(err, PGS_EINVAL, "a watch of an empty key");
	memory_watch *watch = pgs__calloc(1, sizeof *watch);
	if (!watch || pgs__arena_copy(&watch->names, key, &watch->key) != PGS_OK ||
		pgs__arena_copy(&watch->names, range_end, &watch->range_end) != PGS_OK) {
		if (watch)
			pgs__mem_watch_close((pgs_kv_watch *)watch);
		return pgs__error_nomem(err, "a watch");
	}
	watch->store = store;
	watch->next = from_revision;
	if (from_revision == 0) {
		pthread_mutex_lock(&store->lock);
		watch->next = store->revision + 1;
		pthread_mutex_unlock(&store->lock);
	}
	*out = (pgs_kv_watch *)watch;
	return PGS_OK;
}

void pgs__mem_watch_close(pgs_kv_watch *handle)
{
	memory_watch *watch = (memory_watch *)handle;
	pgs__arena_free(&watch->batch);
	pgs__arena_free(&watch->names);
	pgs__free(watch);
}

/* The log's first change at or above `revision`. */
static size_t find_change(const pgs__mem_store *store, uint64_t revision)
{
	size_t low = store->log_first, high = store->log_end;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (store->log[middle].version->mod_revision < revision)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_watched(const memory_watch *watch, const pgs__mem_change *change)
{
	return pgs__kv_in_range(pgs__mem_key_bytes(change->key), watch->key, watch->range_end);
}

typedef struct span {
	size_t begin; /* in the log */
	size_t end;
	size_t matching;
} span;

/* What the next batch covers: whole revisions, of bounded size and effort. */
static span plan_batch(const memory_watch *watch)
{
	const pgs__mem_store *store = watch->store;
	size_t begin = find_change(store, watch->next);
	span batch = {begin, begin, 0};
	size_t bytes = 0;
	uint64_t revision = 0;
	for (; batch.end < store->log_end; batch.end++) {
		const pgs__mem_change *change = &store->log[batch.end];
		bool full = batch.matching >= BATCH_EVENTS || bytes >= BATCH_BYTES || batch.end - begin >= BATCH_SCAN;
		if (full && change->version->mod_revision != revision)
			break;
		revision = change->version->mod_revision;
		if (!is_watched(watch, change))
			continue;
		batch.matching++;
		bytes += change->key->size + change->version->value_size;
	}
	return batch;
}

static int copy_event(pgs__arena *arena, const pgs__mem_change *change, pgs_kv_event *event)
{
	const pgs__mem_version *version = change->version;
	event->deleted = version->count == 0;
	event->pair.create_revision = version->create_revision;
	event->pair.mod_revision = version->mod_revision;
	event->pair.version = version->count;
	int status = pgs__arena_copy(arena, pgs__mem_key_bytes(change->key), &event->pair.key);
	if (status == PGS_OK)
		status = pgs__arena_copy(arena, (pgs_slice){version->value, version->value_size}, &event->pair.value);
	return status;
}

static int by_revision_and_key(const void *a, const void *b)
{
	const pgs_kv_pair *x = &((const pgs_kv_event *)a)->pair, *y = &((const pgs_kv_event *)b)->pair;
	if (x->mod_revision != y->mod_revision)
		return x->mod_revision < y->mod_revision ? -1 : 1;
	return pgs__slice_compare(x->key, y->key);
}

/* The log has a revision's changes in the order of the operations; usually that is key order already. */
static void sort_events(pgs_kv_event *events, size_t count)
{
	for (size_t i = 1; i < count; i++) {
		if (by_revision_and_key(&events[i - 1], &events[i]) > 0) {
			qsort(events, count, sizeof *events, by_revision_and_key);
			return;
		}
	}
}

static int copy_batch(memory_watch *watch, span batch, pgs_kv_events *out)
{
	const pgs__mem_store *store = watch->store;
	pgs_kv_event *events = pgs__arena_calloc(&watch->batch, batch.matching, sizeof *events);
	if (!events)
		return PGS_ENOMEM;
	size_t used = 0;
	for (size_t at = batch.begin; at < batch.end; at++) {
		if (!is_watched(watch, &store->log[at]))
			continue;
		if (copy_event(&watch->batch, &store->log[at], &events[used]) != PGS_OK)
			return PGS_ENOMEM;
		used++;
	}
	sort_events(events, used);
	out->events = events;
	out->count = used;
	return PGS_OK;
}

/* Delivers what the log has, perhaps nothing. On failure the position stays. */
static int collect(memory_watch *watch, pgs_kv_events *out, pgs_error *err)
{
	const pgs__mem_store *store = watch->store;
	if (watch->next < store->compacted) /* and so it stays: `compacted` only rises */
		return pgs__error(err, PGS_EOLDREV, "watched revision %llu was compacted: the oldest is %llu",
			(unsigned long long)watch->next, (unsigned long long)store->compacted);
	span batch = plan_batch(watch);
	if (batch.matching && copy_batch(watch, batch, out) != PGS_OK)
		return pgs__error_nomem(err, "a watch's events");
	uint64_t after = batch.end < store->log_end ? store->log[batch.end].version->mod_revision : store->revision + 1;
	if (after > watch->next) /* not so while a future revision is waited for */
		watch->next = after;
	return PGS_OK;
}

static struct timespec time_after(uint32_t ms)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += (long)(ms % 1000) * 1000000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_sec++;
		at.tv_nsec -= 1000000000;
	}
	return at;
}

static int wait_for_events(memory_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	pgs__mem_store *store = watch->store;
	struct timespec until = time_after(timeout_ms);
	for (bool timed_out = false;;) {
		int status = collect(watch, out, err);
		if (status != PGS_OK || out->count || timed_out)
			return status;
		if (watch->next <= store->revision) {
			pthread_mutex_unlock(&store->lock); /* a long log without matches: let others in between */
			pthread_mutex_lock(&store->lock);
			continue;
		}
		/* One more look after the timeout: what was committed before it is delivered. */
		timed_out = pthread_cond_timedwait(&store->changed, &store->lock, &until) == ETIMEDOUT;
	}
}

int pgs__mem_watch_next(pgs_kv_watch *handle, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	memory_watch *watch = (memory_watch *)handle;
	*out = (pgs_kv_events){0};
	pgs__arena_free(&watch->batch);
	pthread_mutex_lock(&watch->store->lock);
	int status = wait_for_events(watch, timeout_ms, out, err);
	uint64_t revision = watch->store->revision;
	pthread_mutex_unlock(&watch->store->lock);
	if (status == PGS_OK)
		out->revision = watch->next <= revision ? watch->next - 1 : revision;
	return status;
}
