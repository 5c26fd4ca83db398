/* The KV fault wrapper.
 *
 * A fault strikes a whole call: of an array of transactions all are applied or
 * none, and all get the same status, as when a connection dies.
 */
#include "control.h"

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

typedef struct fault_kv {
	pgs_kv base;
	pgs_fault *fault;
	pgs_kv *inner;
} fault_kv;

typedef struct fault_watch {
	pgs_fault *fault;
	const pgs_kv_vtable *vtable; /* the inner backend's */
	pgs_kv_watch *inner;
} fault_watch;

static fault_kv *wrapper_of(pgs_kv *kv)
{
	return (fault_kv *)kv;
}

static int fail(pgs_error *err, int code, const char *operation)
{
	return pgs__error(err, code, "%s: an injected fault", operation);
}

/* For calls that change nothing: losing the reply or the request is all the same. */
static int fail_unless_none(pgs_fault *fault, const char *operation, uint64_t deadline_ms, pgs_error *err)
{
	if (pgs__fault_decide(fault, operation, deadline_ms) == PGS_FAULT_NONE)
		return PGS_OK;
	return fail(err, PGS_EIO, operation);
}

/* --- transactions ------------------------------------------------------- */

static int fail_all(pgs_kv_txn *txns, size_t count, int code, pgs_error *err)
{
	for (size_t i = 0; i < count; i++) {
		txns[i].status = code;
		txns[i].succeeded = false;
		txns[i].revision = 0;
		txns[i].results = NULL;
		txns[i].result_count = 0;
		txns[i].response = NULL;
	}
	return fail(err, code, "txn");
}

static int fault_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	fault_kv *w = wrapper_of(kv);
	const pgs_kv_vtable *vtable = w->inner->vtable;
	switch (pgs__fault_decide(w->fault, "txn", deadline_ms)) {
	case PGS_FAULT_NONE:
		return vtable->txn(w->inner, txns, count, deadline_ms, err);
	case PGS_FAULT_LOSE_REPLY:
		vtable->txn(w->inner, txns, count, deadline_ms, NULL);
		vtable->release(w->inner, txns, count);
		return fail_all(txns, count, PGS_EUNKNOWN, err);
	case PGS_FAULT_DELAY:
		if (pgs__fault_keep(w->fault, w->inner, txns, count) != PGS_OK)
			return fail_all(txns, count, PGS_ENOMEM, err);
		return fail_all(txns, count, PGS_EUNKNOWN, err);
	default:
		return fail_all(txns, count, PGS_EIO, err);
	}
}

/* What the wrapper failed itself the inner backend has never seen: it is not asked to release it. */
static void fault_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count)
{
	pgs_kv *inner = wrapper_of(kv)->inner;
	for (size_t i = 0; i < count; i++)
		if (txns[i].results || txns[i].response)
			inner->vtable->release(inner, &txns[i], 1);
}

/* --- watches ------------------------------------------------------------ */

static int fault_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err)
{
	fault_kv *w = wrapper_of(kv);
	*out = NULL;
	int status = fail_unless_none(w->fault, "watch_open", 0, err);
	if (status != PGS_OK)
		return status;
	fault_watch *watch = pgs__calloc(1, sizeof *watch);
	if (!watch)
		return pgs__error_nomem(err, "a watch");
	watch->fault = w->fault;
	watch->vtable = w->inner->vtable;
	status = watch->vtable->watch_open(w->inner, key, range_end, from_revision, &watch->inner, err);
	if (status != PGS_OK) {
		pgs__free(watch);
		return status;
	}
	*out = (pgs_kv_watch *)watch;
	return PGS_OK;
}

/* A failed call takes no events from the inner watch, so the next one has them: the contract of watch_next(). */
static int fault_watch_next(pgs_kv_watch *handle, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	fault_watch *watch = (fault_watch *)handle;
	uint64_t deadline_ms = pgs__now_ms() + timeout_ms;
	*out = (pgs_kv_events){0};
	int status = fail_unless_none(watch->fault, "watch_next", deadline_ms, err);
	if (status != PGS_OK)
		return status;
	uint64_t now = pgs__now_ms();
	uint32_t left = deadline_ms > now ? (uint32_t)(deadline_ms - now) : 0;
	return watch->vtable->watch_next(watch->inner, left, out, err);
}

static void fault_watch_close(pgs_kv_watch *handle)
{
	fault_watch *watch = (fault_watch *)handle;
	watch->vtable->watch_close(watch->inner);
	pgs__free(watch);
}

/* --- the rest ----------------------------------------------------------- */

static int fault_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	fault_kv *w = wrapper_of(kv);
	switch (pgs__fault_decide(w->fault, "compact", deadline_ms)) {
	case PGS_FAULT_NONE:
		return w->inner->vtable->compact(w->inner, revision, deadline_ms, err);
	case PGS_FAULT_LOSE_REPLY:
		w->inner->vtable->compact(w->inner, revision, deadline_ms, NULL);
		return fail(err, PGS_EUNKNOWN, "compact");
	default:
		return fail(err, PGS_EIO, "compact");
	}
}

static void fault_limits(pgs_kv *kv, pgs_kv_limits *out)
{
	pgs_kv *inner = wrapper_of(kv)->inner;
	inner->vtable->limits(inner, out);
}

static int fault_identity(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	fault_kv *w = wrapper_of(kv);
	int status = fail_unless_none(w->fault, "identity", deadline_ms, err);
	return status == PGS_OK ? w->inner->vtable->identity(w->inner, out, deadline_ms, err) : status;
}

static int fault_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	fault_kv *w = wrapper_of(kv);
	*out = (pgs_kv_stat){0};
	int status = fail_unless_none(w->fault, "stat", deadline_ms, err);
	return status == PGS_OK ? w->inner->vtable->stat(w->inner, out, deadline_ms, err) : status;
}

/* What the inner backend did: calls that a fault kept from it are not in there. */
static void fault_operations(pgs_kv *kv, pgs_operation_visitor visit, void *ctx)
{
	pgs_kv *inner = wrapper_of(kv)->inner;
	if (PGS_KV_HAS(inner, operations))
		inner->vtable->operations(inner, visit, ctx);
}

/* No call that could be lost; but who is cut off is not told that all is as it was. */
static uint64_t fault_changes(pgs_kv *kv)
{
	pgs_kv *inner = wrapper_of(kv)->inner;
	if (!PGS_KV_HAS(inner, changes) || pgs__fault_is_stopped(wrapper_of(kv)->fault))
		return 0;
	return inner->vtable->changes(inner);
}

static void fault_close(pgs_kv *kv)
{
	fault_kv *w = wrapper_of(kv);
	pgs__fault_forget(w->fault, w->inner);
	w->inner->vtable->close(w->inner);
	pgs__free(w);
}

static const pgs_kv_vtable fault_vtable = {
	.version = PGS_KV_VERSION,
	.struct_size = sizeof(pgs_kv_vtable),
	.txn = fault_txn,
	.release = fault_release,
	.watch_open = fault_watch_open,
	.watch_next = fault_watch_next,
	.watch_close = fault_watch_close,
	.compact = fault_compact,
	.limits = fault_limits,
	.identity = fault_identity,
	.stat = fault_stat,
	.close = fault_close,
	.operations = fault_operations,
	.changes = fault_changes,
};

int pgs_fault_wrap_kv(pgs_kv **out, pgs_fault *fault, pgs_kv *inner, pgs_error *err)
{
	*out = NULL;
	if (!inner || inner->vtable->version != PGS_KV_VERSION || inner->vtable->struct_size < PGS_KV_VTABLE_LEAST)
		return pgs__error(err, PGS_EINVAL, "not a KV of a version known here");
	if (!fault) {
		inner->vtable->close(inner);
		return pgs__error(err, PGS_EINVAL, "no fault controller");
	}
	fault_kv *w = pgs__calloc(1, sizeof *w);
	if (!w) {
		inner->vtable->close(inner);
		return pgs__error_nomem(err, "a fault wrapper");
	}
	*w = (fault_kv){{&fault_vtable}, fault, inner};
	*out = &w->base;
	return PGS_OK;
}
