/* The memory backends against the contracts. */
#include <pagestore/backends.h>

#include "conformance/blob_suite.h"
#include "conformance/kv_suite.h"

static pgs_kv *open_kv(void *ctx)
{
	(void)ctx;
	pgs_kv *kv;
	return pgs_kv_memory_new(&kv, NULL, NULL) == PGS_OK ? kv : NULL;
}

static pgs_kv *share_kv(void *ctx, pgs_kv *kv)
{
	(void)ctx;
	pgs_kv *other;
	return pgs_kv_memory_share(&other, kv, NULL) == PGS_OK ? other : NULL;
}

static pgs_kv *open_limited_kv(void *ctx, const pgs_kv_limits *limits)
{
	(void)ctx;
	pgs_kv *kv;
	return pgs_kv_memory_new(&kv, limits, NULL) == PGS_OK ? kv : NULL;
}

static pgs_blob *open_blob(void *ctx)
{
	(void)ctx;
	pgs_blob *blob;
	return pgs_blob_memory_new(&blob, NULL) == PGS_OK ? blob : NULL;
}

static pgs_blob *share_blob(void *ctx, pgs_blob *blob)
{
	(void)ctx;
	pgs_blob *other;
	return pgs_blob_memory_share(&other, blob, NULL) == PGS_OK ? other : NULL;
}

int main(void)
{
	static const kv_factory kv = {
		.name = "memory", .open = open_kv, .share = share_kv, .open_limited = open_limited_kv};
	static const blob_factory blob = {.name = "memory", .open = open_blob, .share = share_blob};
	return kv_suite_run(&kv) + blob_suite_run(&blob);
}
