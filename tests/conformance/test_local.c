/* The local backends against the contracts. */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

#include <pagestore/backends.h>

#include "conformance/blob_suite.h"
#include "conformance/kv_suite.h"

/* A path, and the directory that holds it. */
typedef struct place {
	char root[40];
	char path[48];
} place;

static void print_failure(const char *what, const pgs_error *err)
{
	print_error("%s: %s\n", what, err->message);
}

static pgs_kv *reopen_kv(void *ctx)
{
	place *at = ctx;
	pgs_error err = PGS_ERROR_INIT;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	/* Small enough for every sanitizer; the suite asks for no crash of the machine. */
	options.map_bytes = (uint64_t)256 << 20;
	options.sync = PGS_SYNC_OFF;
	pgs_kv *kv;
	if (pgs_kv_local_open(&kv, at->path, &options, &err) != PGS_OK)
		print_failure("KV", &err);
	return kv;
}

static int make_place(place *at)
{
	snprintf(at->root, sizeof at->root, "/tmp/pagestore-suite-XXXXXX");
	if (!mkdtemp(at->root))
		return -1;
	snprintf(at->path, sizeof at->path, "%s/store", at->root);
	return 0;
}

static pgs_kv *open_kv(void *ctx)
{
	return make_place(ctx) ? NULL : reopen_kv(ctx);
}

static pgs_kv *share_kv(void *ctx, pgs_kv *kv)
{
	(void)kv;
	return reopen_kv(ctx);
}

static pgs_blob *reopen_blob(void *ctx)
{
	place *at = ctx;
	pgs_error err = PGS_ERROR_INIT;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_blob *blob;
	if (pgs_blob_local_open(&blob, at->path, &options, &err) != PGS_OK)
		print_failure("blob store", &err);
	return blob;
}

static pgs_blob *open_blob(void *ctx)
{
	return make_place(ctx) ? NULL : reopen_blob(ctx);
}

static pgs_blob *share_blob(void *ctx, pgs_blob *blob)
{
	(void)blob;
	return reopen_blob(ctx);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void clean_up(void *ctx)
{
	nftw(((place *)ctx)->root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
	static place at;
	static const kv_factory kv = {.name = "local",
		.ctx = &at,
		.open = open_kv,
		.reopen = reopen_kv,
		.share = share_kv,
		.cleanup = clean_up,
		.steps = 1500};
	static const blob_factory blob = {.name = "local",
		.ctx = &at,
		.open = open_blob,
		.reopen = reopen_blob,
		.share = share_blob,
		.cleanup = clean_up};
	return kv_suite_run(&kv) + blob_suite_run(&blob);
}
