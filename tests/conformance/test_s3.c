/* The S3 backend against the contract, on a real server. */
#include <stdio.h>

#include "conformance/blob_suite.h"
#include "support/s3_server.h"

/* A server that lives as long as the program; each store is a new prefix on it. */
typedef struct place {
	s3_server *server;
	unsigned stores;
	char prefix[32];
} place;

static pgs_blob *reopen_blob(void *ctx)
{
	place *at = ctx;
	return s3_blob(at->server, at->prefix, NULL);
}

/* Prefixes that have to be encoded, in the path and in the query. */
static pgs_blob *open_blob(void *ctx)
{
	place *at = ctx;
	snprintf(at->prefix, sizeof at->prefix, "a b/%%+&=\xc3\xa9~/%u", ++at->stores);
	return reopen_blob(ctx);
}

static pgs_blob *share_blob(void *ctx, pgs_blob *blob)
{
	(void)blob;
	return reopen_blob(ctx);
}

int main(void)
{
	if (!s3_available())
		return 77;
	place at = {.server = s3_start(false)};
	const blob_factory factory = {
		.name = "s3", .ctx = &at, .open = open_blob, .reopen = reopen_blob, .share = share_blob};
	int failed = at.server ? blob_suite_run(&factory) : 1;
	s3_stop(at.server);
	return failed;
}
