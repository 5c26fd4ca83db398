/* A cluster for benchmarks. */
#include "s3_fixture.h"

#include <stdio.h>
#include <string.h>

#include <pagestore/backends.h>

/* --- the servers ---------------------------------------------------------------------- */

bool cluster_start(cluster *c, const bench_env *env, bench_result *out)
{
	*c = (cluster){.env = env};
	out->skipped = !etcd_available() || !s3_available();
	if (out->skipped)
		return false;
	c->etcd = etcd_start(&(etcd_setup){.members = 1});
	c->s3 = s3_start(false);
	bench_check(c->etcd && c->s3, "starting the servers");
	c->bucket = s3_blob(c->s3, NULL, NULL);
	bench_check(c->bucket != NULL, "opening the bucket");
	return true;
}

static int remove_one(void *ctx, const char *name, uint64_t size)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_blob *bucket = ((cluster *)ctx)->bucket;
	(void)size;
	bench_must(bucket->vtable->remove(bucket, name, 0, &err), &err, name);
	return 0;
}

void cluster_empty_bucket(cluster *c)
{
	pgs_error err = PGS_ERROR_INIT;
	bench_must(c->bucket->vtable->list(c->bucket, "", remove_one, c, 0, &err), &err, "emptying the bucket");
}

void cluster_stop(cluster *c)
{
	c->bucket->vtable->close(c->bucket);
	s3_stop(c->s3);
	etcd_stop(c->etcd);
}

static pgs_kv *local_kv(const cluster *c, const char *root)
{
	char path[BENCH_PATH_MAX];
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	bench_must(pgs_kv_local_open(&kv, bench_path(c->env, root, path), NULL, &err), &err, "pgs_kv_local_open");
	return kv;
}

void cluster_backends(cluster *c, pgs_kv **kv, pgs_blob **blob)
{
	char root[32];
	snprintf(root, sizeof root, "bench-%u", c->databases);
	*kv = c->local_kv ? local_kv(c, root) : etcd_kv(c->etcd, root, NULL);
	*blob = s3_blob(c->s3, root, NULL);
	bench_check(*kv && *blob, "opening the servers");
}

static pgs_store *open_store(cluster *c)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	cluster_backends(c, &kv, &blob);
	bench_must(pgs_open_with(&store, kv, blob, NULL, &err), &err, "pgs_open_with");
	return store;
}

void cluster_create_db(cluster *c, bench_db *out)
{
	pgs_error err = PGS_ERROR_INIT;
	c->databases++;
	out->store = open_store(c);
	bench_must(pgs_db_create(&out->db, out->store, "bench", 5, NULL, &err), &err, "pgs_db_create");
}

void cluster_open_db(cluster *c, bench_db *out)
{
	pgs_error err = PGS_ERROR_INIT;
	out->store = open_store(c);
	bench_must(pgs_db_open(&out->db, out->store, "bench", 5, NULL, &err), &err, "pgs_db_open");
}

/* --- libcurl alone --------------------------------------------------------------------- */

/* An object, and what has been sent or has come of it. */
typedef struct transfer {
	CURL *easy;
	uint8_t *data;
	uint64_t size, done;
} transfer;

static size_t send_some(char *out, size_t one, size_t count, void *ctx)
{
	transfer *t = ctx;
	uint64_t left = t->size - t->done;
	size_t size = one * count < left ? one * count : (size_t)left;
	memcpy(out, t->data + t->done, size);
	t->done += size;
	return size;
}

static size_t take_some(char *data, size_t one, size_t size, void *ctx)
{
	(void)one;
	transfer *t = ctx;
	bench_check(size <= t->size - t->done, "curl: more came than was asked for");
	memcpy(t->data + t->done, data, size);
	t->done += size;
	return size;
}

CURL *cluster_curl(cluster *c)
{
	char url[128];
	CURL *easy = curl_easy_init();
	bench_check(easy != NULL, "curl_easy_init");
	snprintf(url, sizeof url, "%s/" S3_TEST_BUCKET "/curl", s3_endpoint(c->s3));
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_AWS_SIGV4, "aws:amz:us-east-1:s3");
	curl_easy_setopt(easy, CURLOPT_USERNAME, S3_TEST_ID);
	curl_easy_setopt(easy, CURLOPT_PASSWORD, S3_TEST_SECRET);
	curl_easy_setopt(easy, CURLOPT_FAILONERROR, 1L);
	return easy;
}

static void run_curl(transfer *t)
{
	struct curl_slist *headers = curl_slist_append(NULL, "x-amz-content-sha256: UNSIGNED-PAYLOAD");
	curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, headers);
	CURLcode code = curl_easy_perform(t->easy);
	curl_slist_free_all(headers);
	if (code || t->done != t->size)
		bench_die("curl: %s, after %llu of %llu bytes", curl_easy_strerror(code), (unsigned long long)t->done,
			(unsigned long long)t->size);
}

/* NOLINTNEXTLINE(readability-non-const-parameter): one struct for both ways */
void cluster_upload(cluster *c, uint8_t *data, uint64_t size)
{
	transfer t = {cluster_curl(c), data, size, 0};
	curl_easy_setopt(t.easy, CURLOPT_UPLOAD, 1L);
	curl_easy_setopt(t.easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)size);
	curl_easy_setopt(t.easy, CURLOPT_READFUNCTION, send_some);
	curl_easy_setopt(t.easy, CURLOPT_READDATA, &t);
	run_curl(&t);
	curl_easy_cleanup(t.easy);
}

/* NOLINTNEXTLINE(readability-non-const-parameter): take_some() writes to it */
void cluster_download(CURL *easy, uint64_t offset, uint8_t *data, uint64_t size)
{
	transfer t = {easy, data, size, 0};
	char range[64];
	snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)offset, (unsigned long long)(offset + size - 1));
	curl_easy_setopt(easy, CURLOPT_RANGE, range);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_some);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, &t);
	run_curl(&t);
}
