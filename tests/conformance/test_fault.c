/* The fault wrappers, told to do nothing, are backends like any other. */
#include <stdlib.h>

#include <pagestore/backends.h>
#include <pagestore/fault.h>

#include "conformance/blob_suite.h"
#include "conformance/kv_suite.h"

static pgs_kv *wrap_kv(pgs_fault *fault, pgs_kv *inner)
{
	pgs_kv *kv;
	return pgs_fault_wrap_kv(&kv, fault, inner, NULL) == PGS_OK ? kv : NULL;
}

static pgs_kv *open_limited_kv(void *ctx, const pgs_kv_limits *limits)
{
	pgs_kv *inner;
	return pgs_kv_memory_new(&inner, limits, NULL) == PGS_OK ? wrap_kv(ctx, inner) : NULL;
}

static pgs_kv *open_kv(void *ctx)
{
	return open_limited_kv(ctx, NULL);
}

static pgs_blob *open_blob(void *ctx)
{
	pgs_blob *inner, *blob;
	if (pgs_blob_memory_new(&inner, NULL) != PGS_OK)
		return NULL;
	return pgs_fault_wrap_blob(&blob, ctx, inner, NULL) == PGS_OK ? blob : NULL;
}

int main(void)
{
	pgs_fault *fault;
	if (pgs_fault_new(&fault, NULL, NULL) != PGS_OK)
		return EXIT_FAILURE;
	kv_factory kv = {.name = "fault", .ctx = fault, .open = open_kv, .open_limited = open_limited_kv, .steps = 500};
	blob_factory blob = {.name = "fault", .ctx = fault, .open = open_blob};
	int failed = kv_suite_run(&kv) + blob_suite_run(&blob);
	pgs_fault_free(fault);
	return failed;
}
