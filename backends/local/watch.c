/* Watching: history from the log, then what comes.
 *
 * One batch is collected in one read transaction: log records from `next` on,
 * and for each changed key in the range its version at that revision. A commit
 * of this process wakes its watches; those of other processes are found by
 * looking again, after 1 ms at first and up to 20 ms when nothing happens.
 */
#include "kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scan.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/kv_check.h"

/* A batch ends with the revision that reaches one of these. */
#define BATCH_EVENTS 1000
#define BATCH_BYTES ((size_t)4 << 20)
/* Log records looked at in one read transaction, whether they match or not. */
#define BATCH_RECORDS 10000

#define POLL_MIN_MS 1
#define POLL_MAX_MS 20

struct pgs_kv_watch {
	pgs__env *env;
	pgs_slice key;
	pgs_slice range_end;
	char *key_bytes;
	uint64_t next; /* the first revision not delivered */
	int failed;    /* stays so */
	pgs_kv_event *events;
	size_t count;
	size_t capacity;
	size_t bytes;
	pgs__arena arena; /* of the batch */
};

static int gone(pgs_kv_watch *w, uint64_t compacted, pgs_error *err)
{
	w->failed = PGS_EOLDREV;
	return pgs__error(err, PGS_EOLDREV, "a watch from revision %llu: history starts at %llu",
		(unsigned long long)w->next, (unsigned long long)compacted);
}

static int add_event(pgs_kv_watch *w, const pgs__record *r, pgs_error *err)
{
	char *at = pgs__arena_alloc(&w->arena, r->key.size + r->value.size);
	if (!at || pgs__grow(&w->events, &w->capacity, w->count + 1, sizeof *w->events))
		return pgs__error_nomem(err, "a watch");
	memcpy(at, r->key.data, r->key.size);
	if (r->value.size)
		memcpy(at + r->key.size, r->value.data, r->value.size);
	pgs_kv_event *event = &w->events[w->count++];
	event->deleted = r->deleted;
	event->pair = (pgs_kv_pair){
		.key = {at, r->key.size},
		.value = {r->value.size ? at + r->key.size : NULL, r->value.size},
		.create_revision = r->create_revision,
		.mod_revision = r->mod_revision,
		.version = r->version,
	};
	w->bytes += r->key.size + r->value.size;
	return PGS_OK;
}

static int add_key(pgs_kv_watch *w, MDB_cursor *versions, pgs_slice key, uint64_t revision, pgs_error *err)
{
	uint8_t stored[PGS__LOCAL_STORED_KEY_MAX];
	pgs__record record;
	MDB_val k = pgs__record_key(stored, key, revision), v;
	int rc = mdb_cursor_get(versions, &k, &v, MDB_SET_KEY);
	if (rc)
		return pgs__env_error(w->env, rc, "cannot read a version the log tells of", err);
	int status = pgs__record_decode(&record, &k, &v, err);
	return status ? status : add_event(w, &record, err);
}

static int by_key(const void *a, const void *b)
{
	const pgs_kv_event *x = a, *y = b;
	return pgs__slice_compare(x->pair.key, y->pair.key);
}

/* The log has keys in the order of the transaction's operations; events come in key order. */
static int add_revision(pgs_kv_watch *w, MDB_cursor *versions, uint64_t revision, const MDB_val *log, pgs_error *err)
{
	pgs__reader r = pgs__reader_of(pgs__slice_of(log));
	pgs_slice key;
	size_t first = w->count;
	while (pgs__log_next(&r, &key)) {
		if (!pgs__kv_in_range(key, w->key, w->range_end))
			continue;
		int status = add_key(w, versions, key, revision, err);
		if (status)
			return status;
	}
	if (r.failed)
		return pgs__error(err, PGS_ECORRUPT, "the log record of revision %llu in '%s' is malformed",
			(unsigned long long)revision, w->env->path);
	if (w->count - first > 1)
		qsort(w->events + first, w->count - first, sizeof *w->events, by_key);
	return PGS_OK;
}

/* Log records from w->next on, until a batch is full. */
static int collect_from(pgs_kv_watch *w, pgs__view *view, pgs_error *err)
{
	uint8_t from[8];
	pgs__store_u64be(from, w->next);
	MDB_val key = {sizeof from, from}, value;
	int rc = mdb_cursor_get(view->log, &key, &value, MDB_SET_RANGE);
	for (size_t records = 0; !rc && records < BATCH_RECORDS; records++) {
		if (key.mv_size != 8)
			return pgs__env_error(w->env, MDB_CORRUPTED, "cannot read the log", err);
		uint64_t revision = pgs__load_u64be(key.mv_data);
		int status = add_revision(w, view->versions, revision, &value, err);
		if (status)
			return status;
		w->next = revision + 1;
		if (w->count >= BATCH_EVENTS || w->bytes >= BATCH_BYTES)
			return PGS_OK;
		rc = mdb_cursor_get(view->log, &key, &value, MDB_NEXT);
	}
	return rc && rc != MDB_NOTFOUND ? pgs__env_error(w->env, rc, "cannot read the log", err) : PGS_OK;
}

/* *more: there is a reason to look again at once. */
static int collect(pgs_kv_watch *w, bool *more, pgs_error *err)
{
	pgs__view *view;
	uint64_t compacted, now = 0, before = w->next;
	w->count = w->bytes = 0;
	pgs__arena_free(&w->arena);
	int status = pgs__env_view_begin(w->env, &view, err);
	if (status)
		return status;
	status = pgs__read_compacted(w->env, view->txn, &compacted, err);
	if (!status && w->next < compacted)
		status = gone(w, compacted, err);
	if (!status)
		status = pgs__read_revision(w->env, view->log, &now, err);
	if (!status && now >= w->next)
		status = collect_from(w, view, err);
	pgs__env_view_end(w->env, view);
	/* A failed batch is not delivered: it is collected again. */
	if (status)
		w->next = before;
	*more = w->next <= now;
	return status;
}

/* Sleep until a commit of this process moves `commits` past `seen`, or `ms` pass. */
static void wait_commit(pgs__env *env, uint64_t seen, uint64_t ms)
{
	uint64_t at = pgs__now_ms() + ms;
	struct timespec until = {(time_t)(at / 1000), (long)(at % 1000) * 1000000};
	pthread_mutex_lock(&env->wake_lock);
	while (env->commits == seen && pthread_cond_timedwait(&env->wake, &env->wake_lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&env->wake_lock);
}

static uint64_t commits_seen(pgs__env *env)
{
	pthread_mutex_lock(&env->wake_lock);
	uint64_t seen = env->commits;
	pthread_mutex_unlock(&env->wake_lock);
	return seen;
}

int pgs__local_watch_next(pgs_kv_watch *w, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	uint64_t end = pgs__now_ms() + timeout_ms, pause = POLL_MIN_MS;
	*out = (pgs_kv_events){0};
	int status = pgs__env_check(w->env, err);
	if (!status && w->failed)
		status = pgs__error(err, w->failed, "a watch of '%s' that has failed: open a new one", w->env->path);
	for (bool more; !status;) {
		uint64_t seen = commits_seen(w->env);
		status = collect(w, &more, err);
		uint64_t now = pgs__now_ms();
		if (status || w->count || now >= end)
			break;
		if (more)
			continue;
		wait_commit(w->env, seen, pause < end - now ? pause : end - now);
		pause = pause * 2 < POLL_MAX_MS ? pause * 2 : POLL_MAX_MS;
	}
	if (!status)
		*out = (pgs_kv_events){w->events, w->count, w->next - 1};
	return status;
}

static int watch_from(pgs_kv_watch *w, uint64_t from_revision, pgs_error *err)
{
	pgs__view *view;
	uint64_t compacted = 0, now = 0;
	int status = pgs__env_view_begin(w->env, &view, err);
	if (status)
		return status;
	status = pgs__read_revision(w->env, view->log, &now, err);
	if (!status)
		status = pgs__read_compacted(w->env, view->txn, &compacted, err);
	w->next = from_revision ? from_revision : now + 1;
	if (!status && w->next < compacted)
		status = gone(w, compacted, err);
	pgs__env_view_end(w->env, view);
	return status;
}

static int copy_range(pgs_kv_watch *w, pgs_slice key, pgs_slice range_end, pgs_error *err)
{
	w->key_bytes = pgs__malloc(key.size + range_end.size);
	if (!w->key_bytes)
		return pgs__error_nomem(err, "a watch");
	memcpy(w->key_bytes, key.data, key.size);
	if (range_end.size)
		memcpy(w->key_bytes + key.size, range_end.data, range_end.size);
	w->key = (pgs_slice){w->key_bytes, key.size};
	w->range_end = (pgs_slice){w->key_bytes + key.size, range_end.size};
	return PGS_OK;
}

int pgs__local_watch_open(
	pgs_kv *base, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err)
{
	pgs__local_kv *kv = (pgs__local_kv *)base;
	*out = NULL;
	int status = pgs__env_check(kv->env, err);
	if (status)
		return status;
	if (key.size == 0)
		return pgs__error(err, PGS_EINVAL, "the key of a watch is empty");
	pgs_kv_watch *w = pgs__calloc(1, sizeof *w);
	if (!w)
		return pgs__error_nomem(err, "a watch");
	w->env = kv->env;
	status = copy_range(w, key, range_end, err);
	if (!status)
		status = watch_from(w, from_revision, err);
	if (status) {
		pgs__local_watch_close(w);
		return status;
	}
	*out = w;
	return PGS_OK;
}

void pgs__local_watch_close(pgs_kv_watch *w)
{
	if (!w)
		return;
	pgs__arena_free(&w->arena);
	pgs__free(w->events);
	pgs__free(w->key_bytes);
	pgs__free(w);
}
