/* A cluster for benchmarks: etcd and an S3 server, both real, on this machine; and libcurl moving bytes to and from that
 * S3 server without us. */
#ifndef PGS_BENCH_S3_FIXTURE_H
#define PGS_BENCH_S3_FIXTURE_H

#include <curl/curl.h>

#include "fixtures.h"
#include "support/etcd_server.h"
#include "support/s3_server.h"

typedef struct cluster {
	const bench_env *env;
	s3_server *s3;
	etcd_server *etcd;
	pgs_blob *bucket;
	bool local_kv; /* instead of etcd */
	unsigned databases; /* so far: each has a root of its own in etcd */
} cluster;

/* False, with out->skipped, when a server is missing, which is said. */
bool cluster_start(cluster *c, const bench_env *env, bench_result *out);
void cluster_stop(cluster *c);
void cluster_empty_bucket(cluster *c);

/* The backends of the newest database, as a process of its own has them: nothing is known, nothing connected. */
void cluster_backends(cluster *c, pgs_kv **kv, pgs_blob **blob);
void cluster_create_db(cluster *c, bench_db *out);
void cluster_open_db(cluster *c, bench_db *out);

/* --- libcurl alone --------------------------------------------------------------------- */

/* For the object "curl" of the bucket. */
CURL *cluster_curl(cluster *c);

/* Put it. */
void cluster_upload(cluster *c, uint8_t *data, uint64_t size);

/* Get a part of it. */
void cluster_download(CURL *easy, uint64_t offset, uint8_t *data, uint64_t size);

#endif
