/* SQLite on a store in etcd and S3 that has a cache file and a follower, by key, against SQLite on a store on a directory:
 * both answer from memory, and neither asks anybody.
 *
 * The follower is the thread that `freshness=` starts in this process; it alone has something to ask for: whether what
 * it knows is the latest, twice in a bound. What the reads ask for, when it could not do so in time, is said. */
#include "sqlite_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"

typedef struct cached {
	etcd_server *etcd;
	s3_server *s3;
	char uri[3 * SERVER_URL_SIZE + 100];
	bench_sqlite ours, local;
	unsigned long requests; /* of the reads */
} cached;

/* A part of a URI. */
static void append_escaped(char *to, const char *text)
{
	for (to += strlen(to); *text; text++)
		to += sprintf(to, strchr("%?&=#", *text) ? "%%%02X" : "%c", (unsigned char)*text);
}

static bool start_servers(cached *c, const bench_env *env)
{
	char url[SERVER_URL_SIZE], path[BENCH_PATH_MAX], more[BENCH_PATH_MAX + 16];
	if (!etcd_available() || !s3_available())
		return false;
	setenv("TMPDIR", env->dir, 1); /* where the servers' files go */
	c->etcd = etcd_start(&(etcd_setup){.members = 1});
	c->s3 = s3_start(false);
	bench_check(c->etcd && c->s3, "starting the servers");
	snprintf(more, sizeof more, "&cache=%s", bench_path(env, "sqlite-cache", path));
	server_store_url(url, etcd_endpoints(c->etcd), "bench", s3_endpoint(c->s3), more);
	strcpy(c->uri, "file:bench?vfs=pagestore&freshness=bounded:100&store=");
	append_escaped(c->uri, url);
	return true;
}

/* What the connection has asked the servers for. */
static unsigned long asked(sqlite3 *db)
{
	unsigned long kv = 1, gets = 1;
	sqlite3_stmt *cost = bench_sql_prepare(db, "PRAGMA pagestore_cost");
	bench_check(sqlite3_step(cost) == SQLITE_ROW, "PRAGMA pagestore_cost");
	const char *text = (const char *)sqlite3_column_text(cost, 0);
	const char *kv_at = strstr(text, "kv_requests"), *gets_at = strstr(text, "blob_gets");
	bench_check(kv_at && gets_at && sscanf(kv_at, "kv_requests%*[^0-9]%lu", &kv) == 1 &&
			    sscanf(gets_at, "blob_gets%*[^0-9]%lu", &gets) == 1,
		    text);
	sqlite3_finalize(cost);
	return kv + gets;
}

/* Long enough for some bounds to pass. */
static double read_often(bench_sqlite *side)
{
	double sum = 0;
	for (int i = 0; i < 10; i++)
		sum += bench_sqlite_points.round(side);
	return sum / 10;
}

static double read_cached(void *ctx)
{
	cached *c = ctx;
	unsigned long before = asked(c->ours.db);
	double took = read_often(&c->ours);
	c->requests += asked(c->ours.db) - before;
	return took;
}

static double read_local(void *ctx)
{
	return read_often(&((cached *)ctx)->local);
}

static void run(const bench_env *env, bench_result *out)
{
	cached *c = bench_alloc(sizeof *c);
	*c = (cached){.ours = {.env = env, .uri = c->uri, .random = {1}}, .local = {.env = env, .random = {1}}};
	out->skipped = !start_servers(c, env);
	if (!out->skipped) {
		bench_sqlite *const sides[] = {&c->ours, &c->local};
		for (size_t i = 0; i < 2; i++) {
			bench_sqlite_open(sides[i]);
			bench_sqlite_points.set_up(sides[i]);
		}
		bench_compare(env, read_cached, read_local, c, out);
		printf("# %lu requests by reads in %u rounds\n", c->requests, env->rounds + 1);
		bench_check(c->ours.sum == c->local.sum, "sqlite: the two databases give different results");
		bench_sqlite_close(&c->ours);
		bench_sqlite_remove(&c->local);
		s3_stop(c->s3);
		etcd_stop(c->etcd);
	}
	free(c);
}

const bench bench_sqlite_cached_point_read = {"sqlite_cached_point_read", "SQLite on dir:", "ns", 1.3, false, run};
