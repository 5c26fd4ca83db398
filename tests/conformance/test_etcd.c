/* The etcd backend against the contract, on a real server. */
#include <stdio.h>

#include "conformance/kv_suite.h"
#include "support/etcd_server.h"

/* A server that lives as long as the program; each store is a new root on it. */
typedef struct place {
	etcd_server *server;
	unsigned stores;
	char root[16];
} place;

static pgs_kv *reopen_kv(void *ctx)
{
	place *at = ctx;
	return etcd_kv(at->server, at->root, NULL);
}

static pgs_kv *open_limited(void *ctx, const pgs_kv_limits *limits)
{
	place *at = ctx;
	snprintf(at->root, sizeof at->root, "store-%u", ++at->stores);
	return etcd_kv(at->server, at->root, limits);
}

static pgs_kv *open_kv(void *ctx)
{
	return open_limited(ctx, NULL);
}

static pgs_kv *share_kv(void *ctx, pgs_kv *kv)
{
	(void)kv;
	return reopen_kv(ctx);
}

static int run(const char *name, size_t members, size_t steps)
{
	place at = {.server = etcd_start(&(etcd_setup){.members = members})};
	const kv_factory factory = {.name = name,
		.ctx = &at,
		.open = open_kv,
		.reopen = reopen_kv,
		.share = share_kv,
		.open_limited = open_limited,
		.steps = steps};
	int failed = at.server ? kv_suite_run(&factory) : 1;
	etcd_stop(at.server);
	return failed;
}

int main(void)
{
	if (!etcd_available())
		return 77;
	return run("etcd", 1, 600) + run("etcd, three members", 3, 100);
}
