/* The blob fault wrapper. A lost reply is PGS_EIO after the call took effect: rule B1 lets it. */
#include "control.h"

#include <stdbool.h>

#include "util/alloc.h"
#include "util/error.h"

typedef struct fault_blob {
	pgs_blob base;
	pgs_fault *fault;
	pgs_blob *inner;
} fault_blob;

static fault_blob *wrapper_of(pgs_blob *blob)
{
	return (fault_blob *)blob;
}

/* What becomes of a call: whether the inner backend hears of it, whether the caller hears back. */
typedef struct fate {
	bool applied;
	bool answered;
} fate;

static fate decide(fault_blob *w, const char *operation, uint64_t deadline_ms)
{
	pgs_fault_kind kind = pgs__fault_decide(w->fault, operation, deadline_ms);
	return (fate){kind == PGS_FAULT_NONE || kind == PGS_FAULT_LOSE_REPLY, kind == PGS_FAULT_NONE};
}

static int fail(pgs_error *err, const char *operation)
{
	return pgs__error(err, PGS_EIO, "%s: an injected fault", operation);
}

static int fault_put(pgs_blob *blob, const char *name, uint64_t size_bytes, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	fault_blob *w = wrapper_of(blob);
	fate decided = decide(w, "put", deadline_ms);
	int status = PGS_EIO;
	if (decided.applied)
		status = w->inner->vtable->put(w->inner, name, size_bytes, source, ctx, deadline_ms, err);
	return decided.answered ? status : fail(err, "put");
}

static int fault_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	fault_blob *w = wrapper_of(blob);
	fate decided = decide(w, "get", deadline_ms);
	if (decided.answered)
		return w->inner->vtable->get(w->inner, ranges, count, deadline_ms, err);
	for (size_t i = 0; i < count; i++)
		ranges[i].status = PGS_EIO;
	return fail(err, "get");
}

static int fault_stat(pgs_blob *blob, const char *name, uint64_t *size_bytes, uint64_t deadline_ms, pgs_error *err)
{
	fault_blob *w = wrapper_of(blob);
	fate decided = decide(w, "stat", deadline_ms);
	*size_bytes = 0;
	if (decided.answered)
		return w->inner->vtable->stat(w->inner, name, size_bytes, deadline_ms, err);
	return fail(err, "stat");
}

static int fault_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	fault_blob *w = wrapper_of(blob);
	fate decided = decide(w, "list", deadline_ms);
	int status = PGS_EIO;
	if (decided.applied) /* with a lost reply the names come, and then the failure: a list cut short */
		status = w->inner->vtable->list(w->inner, prefix, lister, ctx, deadline_ms, err);
	return decided.answered ? status : fail(err, "list");
}

static int fault_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	fault_blob *w = wrapper_of(blob);
	fate decided = decide(w, "remove", deadline_ms);
	int status = PGS_EIO;
	if (decided.applied)
		status = w->inner->vtable->remove(w->inner, name, deadline_ms, err);
	return decided.answered ? status : fail(err, "remove");
}

/* What the inner backend did: calls that a fault kept from it are not in there. */
static void fault_operations(pgs_blob *blob, pgs_operation_visitor visit, void *ctx)
{
	pgs_blob *inner = wrapper_of(blob)->inner;
	if (PGS_BLOB_HAS(inner, operations))
		inner->vtable->operations(inner, visit, ctx);
}

static unsigned fault_concurrency(pgs_blob *blob)
{
	pgs_blob *inner = wrapper_of(blob)->inner;
	return PGS_BLOB_HAS(inner, concurrency) ? inner->vtable->concurrency(inner) : 1;
}

static void fault_close(pgs_blob *blob)
{
	fault_blob *w = wrapper_of(blob);
	w->inner->vtable->close(w->inner);
	pgs__free(w);
}

static const pgs_blob_vtable fault_vtable = {
	.version = PGS_BLOB_VERSION,
	.struct_size = sizeof(pgs_blob_vtable),
	.put = fault_put,
	.get = fault_get,
	.stat = fault_stat,
	.list = fault_list,
	.remove = fault_remove,
	.close = fault_close,
	.operations = fault_operations,
	.concurrency = fault_concurrency,
};

int pgs_fault_wrap_blob(pgs_blob **out, pgs_fault *fault, pgs_blob *inner, pgs_error *err)
{
	*out = NULL;
	if (!inner || inner->vtable->version != PGS_BLOB_VERSION ||
		inner->vtable->struct_size < PGS_BLOB_VTABLE_LEAST)
		return pgs__error(err, PGS_EINVAL, "not a blob store of a version known here");
	if (!fault) {
		inner->vtable->close(inner);
		return pgs__error(err, PGS_EINVAL, "no fault controller");
	}
	fault_blob *w = pgs__calloc(1, sizeof *w);
	if (!w) {
		inner->vtable->close(inner);
		return pgs__error_nomem(err, "a fault wrapper");
	}
	*w = (fault_blob){{&fault_vtable}, fault, inner};
	*out = &w->base;
	return PGS_OK;
}
