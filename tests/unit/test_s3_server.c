/* The S3 backend on a real server, beyond the contract: parts, TLS, styles, long lists, and stores whose blobs are
 * there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>
#include <pagestore/backends.h>

#include "support/blob_calls.h"
#include "support/s3_server.h"
#include "support/scratch.h"
#include "support/stores.h"
#include "support/tcp_proxy.h"
#include "support/testing.h"
#include "util/clock.h"

#define MIB ((uint64_t)1 << 20)

static s3_server *s3;

static pgs_s3_options in_parts(void)
{
	pgs_s3_options o = s3_options(s3);
	o.multipart_bytes = 5 * MIB;
	o.part_bytes = 5 * MIB;
	return o;
}

static int count_one(void *ctx, const char *name, uint64_t size)
{
	(void)name;
	(void)size;
	++*(size_t *)ctx;
	return 0;
}

static size_t count_all(pgs_blob *blob)
{
	size_t count = 0;
	assert_int_equal(blob->vtable->list(blob, "", count_one, &count, 0, NULL), PGS_OK);
	return count;
}

static void test_parts__make_one_blob(void **state)
{
	(void)state;
	pgs_s3_options o = in_parts();
	pgs_blob *blob = s3_blob(s3, "parts", &o);
	const uint64_t sizes[] = {5 * MIB, 5 * MIB + 1, 10 * MIB, 21 * MIB + 7, 100 * MIB};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char name[16];
		snprintf(name, sizeof name, "b%zu", i);
		assert_int_equal(put_pattern(blob, name, sizes[i], i), PGS_OK);
		uint64_t stored;
		uint8_t bytes[1000];
		assert_int_equal(stat_size(blob, name, &stored), PGS_OK);
		assert_int_equal(stored, sizes[i]);
		for (uint64_t at = 0; at < sizes[i] - 1000; at += 2 * MIB + 12345) {
			assert_int_equal(get_range(blob, name, at, bytes, sizeof bytes), PGS_OK);
			for (size_t k = 0; k < sizeof bytes; k++)
				assert_int_equal(bytes[k], pattern_byte(i, at + k));
		}
		assert_int_equal(blob->vtable->remove(blob, name, 0, NULL), PGS_OK);
	}
	blob->vtable->close(blob);
}

/* What was begun is aborted: the server knows no upload any more, and has no object. */
static void test_parts__of_a_source_that_fails_leave_nothing(void **state)
{
	(void)state;
	pgs_s3_options o = in_parts();
	pgs_blob *blob = s3_blob(s3, "torn", &o);
	const uint64_t fail_at[] = {1, 7 * MIB, 23 * MIB - 1};
	for (size_t i = 0; i < 3; i++) {
		pattern_source source = {.seed = 1, .fail_at = fail_at[i], .status = PGS_ECORRUPT};
		assert_int_equal(
			blob->vtable->put(blob, "torn", 23 * MIB, pattern_read, &source, 0, NULL), PGS_ECORRUPT);
		blob_expect_absent(blob, "torn");
	}
	assert_int_equal(s3_open_uploads(s3), 0);
	blob->vtable->close(blob);
}

typedef struct lossy_source {
	pattern_source pattern;
	tcp_proxy *proxy;
	uint64_t cut_at; /* once, when bytes beyond are asked for */
	int times;
} lossy_source;

static int read_lossy(void *ctx, uint64_t offset, void *buf, size_t size)
{
	lossy_source *source = ctx;
	if (source->cut_at && offset >= source->cut_at) {
		tcp_proxy_set(source->proxy, source->times % 2 ? PROXY_HALF : PROXY_CUT, source->times);
		source->cut_at = 0;
	}
	return pattern_read(&source->pattern, offset, buf, size);
}

/* The answers to some parts do not arrive. */
static void test_parts__survive_lost_answers(void **state)
{
	(void)state;
	tcp_proxy *proxy = tcp_proxy_start(s3_port(s3));
	pgs_s3_options o = in_parts();
	char endpoint[64];
	snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%u", tcp_proxy_port(proxy));
	o.endpoint = endpoint;
	pgs_blob *blob = s3_blob(s3, "lossy", &o);
	for (int times = 1; times < 6; times++) {
		pgs_error err = PGS_ERROR_INIT;
		lossy_source source = {{.seed = (uint64_t)times}, proxy, 6 * MIB, times};
		int status =
			blob->vtable->put(blob, "lossy", 21 * MIB, read_lossy, &source, pgs__now_ms() + 60000, &err);
		if (status != PGS_OK)
			fail_msg("%s", err.message);
		tcp_proxy_set(proxy, PROXY_PASS, 0);
		uint8_t bytes[1000];
		for (uint64_t at = MIB / 2; at < 21 * MIB; at += MIB) {
			assert_int_equal(get_range(blob, "lossy", at, bytes, sizeof bytes), PGS_OK);
			for (size_t i = 0; i < sizeof bytes; i++)
				assert_int_equal(bytes[i], pattern_byte((uint64_t)times, at + i));
		}
	}
	assert_int_equal(s3_open_uploads(s3), 0);
	blob->vtable->close(blob);
	tcp_proxy_stop(proxy);
}

static void test_list__of_many_pages(void **state)
{
	(void)state;
	enum { COUNT = 2345 };
	pgs_blob *blob = s3_blob(s3, "many & more", NULL), *other = s3_blob(s3, "many", NULL);
	char name[32];
	for (size_t i = 0; i < COUNT; i++) {
		snprintf(name, sizeof name, "%zu/%04zu", i % 7, i);
		assert_int_equal(put_text(blob, name, "x"), PGS_OK);
	}
	assert_int_equal(count_all(blob), COUNT);
	size_t count = 0;
	assert_int_equal(blob->vtable->list(blob, "3/", count_one, &count, 0, NULL), PGS_OK);
	assert_int_equal(count, COUNT / 7);
	assert_int_equal(count_all(other), 0); /* a prefix ends at its '/' */
	blob->vtable->close(blob);
	other->vtable->close(other);
}

static void expect_refused(const pgs_s3_options *o, const char *bucket, int status, const char *says)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_blob *blob;
	int got = pgs_blob_s3_open(&blob, bucket, NULL, o, &err);
	if (got != status || !strstr(err.message, says))
		fail_msg("%d: '%s' does not say '%s'", got, err.message, says);
	assert_null(blob);
}

static void test_open__looks_at_bucket_and_credentials(void **state)
{
	(void)state;
	pgs_s3_options o = s3_options(s3);
	expect_refused(&o, "no-such-bucket", PGS_EIO, "NoSuchBucket");
	o.secret_access_key = "wrong";
	expect_refused(&o, S3_TEST_BUCKET, PGS_EAUTH, "SignatureDoesNotMatch");
	o.access_key_id = "NOBODY";
	expect_refused(&o, S3_TEST_BUCKET, PGS_EAUTH, "InvalidAccessKeyId");
}

static void expect_works(const pgs_s3_options *o, const char *prefix)
{
	pgs_blob *blob = s3_blob(s3, prefix, o);
	assert_non_null(blob);
	assert_int_equal(put_pattern(blob, "a/b", 100000, 3), PGS_OK);
	blob_expect_pattern(blob, "a/b", 100000, 3);
	assert_int_equal(count_all(blob), 1);
	blob->vtable->close(blob);
}

static void test_style__may_be_path_or_virtual(void **state)
{
	(void)state;
	pgs_s3_options o = s3_options(s3);
	char endpoint[64];
	o.region = "eu-central-7";
	o.style = PGS_S3_STYLE_PATH;
	expect_works(&o, "style/path");
	snprintf(endpoint, sizeof endpoint, "http://s3.localhost:%u/", s3_port(s3));
	o.endpoint = endpoint;
	o.style = PGS_S3_STYLE_VIRTUAL;
	expect_works(&o, "style/virtual");
	o.style = PGS_S3_STYLE_AUTO;
	expect_works(&o, "style/auto");
}

static void test_tls__is_checked(void **state)
{
	(void)state;
	s3_server *plain = s3, *tls = s3_start(true);
	assert_non_null(tls);
	s3 = tls;
	pgs_s3_options o = s3_options(tls);
	uint64_t started = pgs__now_ms();
	expect_refused(&o, S3_TEST_BUCKET, PGS_EIO, "certificate");
	o.ca_file = s3_other_ca_file(tls);
	expect_refused(&o, S3_TEST_BUCKET, PGS_EIO, "certificate");
	o.ca_file = "/nonexistent";
	expect_refused(&o, S3_TEST_BUCKET, PGS_EIO, "/nonexistent");
	assert_true(pgs__now_ms() - started < 5000); /* not tried again */
	o.ca_file = s3_ca_file(tls);
	expect_works(&o, "tls");
	char endpoint[64];
	snprintf(endpoint, sizeof endpoint, "https://localhost:%u", s3_port(tls));
	o.endpoint = endpoint;
	expect_refused(&o, S3_TEST_BUCKET, PGS_EIO, "localhost"); /* a name it is not for */
	s3 = plain;
	s3_stop(tls);
}

/* A store with its KV here and its blobs there. */
static void test_url__of_a_directory_with_blobs_in_a_bucket(void **state)
{
	(void)state;
	enum { PAGES = 3000 };
	char url[500];
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	setenv("AWS_ACCESS_KEY_ID", S3_TEST_ID, 1);
	setenv("AWS_SECRET_ACCESS_KEY", S3_TEST_SECRET, 1);
	snprintf(url, sizeof url,
		"dir:%s/mixed?map=64M&blob=s3%%3A//" S3_TEST_BUCKET "/mixed%%3Fendpoint%%3Dhttp%%3A//127.0.0.1%%3A%u",
		scratch_root(), s3_port(s3));
	for (int round = 0; round < 2; round++) {
		if (pgs_open(&store, url, NULL, &err) != PGS_OK)
			fail_msg("%s", err.message);
		pgs_db *db = round ? open_db(store, "db") : create_db(store, "db", NULL);
		pgs_txn *txn = begin_write(db);
		for (uint64_t n = 0; n < PAGES; n++) {
			if (round)
				assert_int_equal(read_seed(txn, n, 256 * n + 256), PGS_OK);
			else
				assert_int_equal(write_seed(txn, n, 256 * n + 256), PGS_OK);
		}
		if (!round)
			commit_ok(txn);
		else
			pgs_abort(txn);
		pgs_db_close(db);
		pgs_close(store);
	}
	pgs_blob *blob = s3_blob(s3, "mixed", NULL);
	assert_true(count_all(blob) > 0);
	blob->vtable->close(blob);
}

static int set_up(void **state)
{
	s3 = s3_start(false);
	return s3 ? scratch_set_up(state) : -1;
}

static int tear_down(void **state)
{
	s3_stop(s3);
	return scratch_tear_down(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parts__make_one_blob),
		cmocka_unit_test(test_parts__of_a_source_that_fails_leave_nothing),
		cmocka_unit_test(test_parts__survive_lost_answers),
		cmocka_unit_test(test_list__of_many_pages),
		cmocka_unit_test(test_open__looks_at_bucket_and_credentials),
		cmocka_unit_test(test_style__may_be_path_or_virtual),
		cmocka_unit_test(test_tls__is_checked),
		cmocka_unit_test(test_url__of_a_directory_with_blobs_in_a_bucket),
	};
	if (!s3_available())
		return 77;
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
