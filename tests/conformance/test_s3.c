/* The S3 backend against the contract, on a real server: bucket in the path, over TLS, bucket in the host's name. */
#include <stdio.h>

#include "conformance/blob_suite.h"
#include "support/s3_server.h"

/* A server that lives as long as the program; each store is a new prefix on it. */
typedef struct place {
	s3_server *server;
	pgs_s3_options options;
	unsigned stores;
	char prefix[32];
} place;

static pgs_blob *reopen_blob(void *ctx)
{
	place *at = ctx;
	return s3_blob(at->server, at->prefix, &at->options);
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

static int run(const char *name, bool tls, bool virtual_host)
{
	char endpoint[48];
	place at = {.server = s3_start(tls)};
	const blob_factory factory = {
		.name = name, .ctx = &at, .open = open_blob, .reopen = reopen_blob, .share = share_blob};
	if (!at.server)
		return 1;
	at.options = s3_options(at.server);
	if (tls)
		at.options.ca_file = s3_ca_file(at.server);
	if (virtual_host) {
		snprintf(endpoint, sizeof endpoint, "http://s3.localhost:%u", s3_port(at.server));
		at.options.endpoint = endpoint;
		at.options.style = PGS_S3_STYLE_VIRTUAL;
	}
	int failed = blob_suite_run(&factory);
	s3_stop(at.server);
	return failed;
}

int main(void)
{
	if (!s3_available())
		return 77;
	return run("s3", false, false) + run("s3, TLS", true, false) + run("s3, virtual hosts", false, true);
}
