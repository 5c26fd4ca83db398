/* backends/url: what is a URL of a store, and what is said about one that is none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/stat.h>
#include <unistd.h>

#include <pagestore.h>
#include <pagestore/backends.h>

#include "../../backends/url.h"
#include "support/scratch.h"
#include "support/testing.h"

/* A URL with the test's directory in it. */
static const char *url_of(const char *format)
{
	static char url[300];
	snprintf(url, sizeof url, format, scratch_root());
	return url;
}

static void expect_opens(const char *url, bool read_only, bool must_exist, pgs_kv_stat *stat)
{
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_error err = PGS_ERROR_INIT;
	const pgs__open_how how = {.read_only = read_only, .must_exist = must_exist};
	if (pgs__backends_open(url, &how, &kv, &blob, &err) != PGS_OK)
		fail_msg("'%s': %s", url, err.message);
	assert_int_equal(kv->vtable->stat(kv, stat, 0, NULL), PGS_OK);
	kv->vtable->close(kv);
	blob->vtable->close(blob);
}

static void expect_refused(const char *url, int status, const char *says)
{
	pgs_kv *kv = (pgs_kv *)scratch_root();
	pgs_blob *blob = (pgs_blob *)scratch_root();
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(pgs__backends_open(url, &(pgs__open_how){0}, &kv, &blob, &err), status);
	assert_null(kv);
	assert_null(blob);
	assert_int_equal(err.code, status);
	if (!strstr(err.message, says))
		fail_msg("'%s' does not say '%s'", err.message, says);
}

static void test_url__mem_is_always_new(void **state)
{
	(void)state;
	pgs_kv_stat stat;
	pgs_kv *kv;
	pgs_blob *blob;
	expect_opens("mem:", false, false, &stat);
	static const pgs__open_how existing = {.must_exist = true}, reading = {.read_only = true};
	assert_int_equal(pgs__backends_open("mem:", &existing, &kv, &blob, NULL), PGS_ENOTFOUND);
	assert_int_equal(pgs__backends_open("mem:", &reading, &kv, &blob, NULL), PGS_ENOTFOUND);
}

static void test_url__dir_makes_the_last_directory(void **state)
{
	(void)state;
	pgs_kv_stat stat;
	char path[200];
	struct stat st;
	expect_opens(url_of("dir:%s/store?map=256M"), false, false, &stat);
	assert_int_equal(stat.quota_bytes, 256 << 20);
	snprintf(path, sizeof path, "%s/store/kv/data.mdb", scratch_root());
	assert_int_equal(lstat(path, &st), 0);
	snprintf(path, sizeof path, "%s/store/blobs", scratch_root());
	assert_int_equal(lstat(path, &st), 0);
	expect_opens(url_of("dir:%s/store/?map=256M"), false, true, &stat);
	expect_opens(url_of("dir:%s/store?map=256M"), true, false, &stat);
	expect_refused(url_of("dir:%s/no/store?map=256M"), PGS_ENOTFOUND, "/no' does not exist");
}

static void test_url__must_exist_makes_nothing(void **state)
{
	(void)state;
	pgs_kv *kv;
	pgs_blob *blob;
	struct stat st;
	pgs_error err = PGS_ERROR_INIT;
	char path[200], says[300];
	snprintf(path, sizeof path, "%s/none", scratch_root());
	snprintf(says, sizeof says, "no pagestore store at '%s'", path);
	for (int i = 0; i < 2; i++) {
		const pgs__open_how how = {.read_only = i == 0, .must_exist = i == 1};
		int status = pgs__backends_open(url_of("dir:%s/none"), &how, &kv, &blob, &err);
		assert_int_equal(status, PGS_ENOTFOUND);
		assert_string_equal(err.message, says);
		assert_int_not_equal(stat(path, &st), 0);
	}
}

static void test_url__escapes_are_decoded(void **state)
{
	(void)state;
	pgs_kv_stat stat;
	struct stat st;
	char path[200];
	expect_opens(url_of("dir:%s/a%%20b%%3F%%c3%%A9?map=1M&sync=off"), false, false, &stat);
	snprintf(path, sizeof path, "%s/a b?\xc3\xa9/kv", scratch_root());
	assert_int_equal(lstat(path, &st), 0);
	expect_refused("dir:/tmp/%zz", PGS_EINVAL, "%XX");
	expect_refused("dir:/tmp/%4", PGS_EINVAL, "%XX");
	expect_refused("dir:/tmp/%", PGS_EINVAL, "%XX");
	expect_refused("dir:/tmp/a%00b", PGS_EINVAL, "%00");
}

static void test_url__options_have_names_values_and_limits(void **state)
{
	(void)state;
	static const struct {
		const char *query;
		const char *says;
	} bad[] = {
		{"", "unknown option ''"},
		{"sync", "full, lazy and off"},
		{"sync=", "full, lazy and off"},
		{"sync=never", "sync=never"},
		{"sync=FULL", "full, lazy and off"},
		{"sync=off&sync=off", "'sync' twice"},
		{"map=1G&map=1G", "'map' twice"},
		{"map", "1M to 65536G"},
		{"map=", "1M to 65536G"},
		{"map=G", "1M to 65536G"},
		{"map=-1", "1M to 65536G"},
		{"map=1T", "1M to 65536G"},
		{"map=1g", "1M to 65536G"},
		{"map=1000", "1M to 65536G"},
		{"map=65537G", "1M to 65536G"},
		{"map=18446744073709551617M", "1M to 65536G"},
		{"mode=fast", "'mode': sync, map, blob, cache"},
		{"sync=off&", "unknown option ''"},
		{"=off", "unknown option ''"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		char url[300];
		snprintf(url, sizeof url, "dir:%s/bad?%s", scratch_root(), bad[i].query);
		expect_refused(url, PGS_EINVAL, bad[i].says);
	}
	pgs_kv_stat stat;
	expect_opens(url_of("dir:%s/good?map=2048K"), false, false, &stat);
	assert_int_equal(stat.quota_bytes, 2 << 20);
	expect_opens(url_of("dir:%s/good?sync=lazy&map=1048576"), false, false, &stat);
	assert_int_equal(stat.quota_bytes, 1 << 20);
}

static void test_url__other_schemes_are_refused(void **state)
{
	(void)state;
	expect_refused(NULL, PGS_EINVAL, "NULL");
	expect_refused("", PGS_EINVAL, "no scheme");
	expect_refused("/var/lib/store", PGS_EINVAL, "no scheme");
	expect_refused("DIR:/x", PGS_EINVAL, "no scheme");
	expect_refused("dir:", PGS_EINVAL, "empty path");
	expect_refused("dir:?sync=off", PGS_EINVAL, "empty path");
	expect_refused("mem:x", PGS_EINVAL, "nothing but cache= and cache_size= is allowed");
	expect_refused("mem:?sync=off", PGS_EINVAL, "nothing but cache= and cache_size= is allowed");
	expect_refused("s3://bucket", PGS_EINVAL, "s3: holds blobs alone");
}

/* What is wrong with an etcd: URL is found before anybody is asked. */
static void test_url__etcd_options_have_names_and_values(void **state)
{
	(void)state;
	static const struct {
		const char *rest;
		const char *says;
	} bad[] = {
		{"", "where blobs go"},
		{"h:2379/root", "where blobs go"},
		{"h:2379/root?", "not known"},
		{"h:2379/root?blob", "blob is empty"},
		{"h:2379/root?blob=", "blob is empty"},
		{"h:2379/root?blob=dir:/x&blob=dir:/x", "'blob' twice"},
		{"h:2379/root?mode=fast", "not known"},
		{"h:2379/ro%00t?blob=dir:/x", "escape in its root"},
		{"h:2379/root?blob=dir:/x%2", "escape in its blob"},
		{"h:2379/root?blob=dir:/x&tls=yes", "neither 0 nor 1"},
		{"h:2379/root?blob=dir:/x&tls=0&ca=/dev/null", "tls=0 and files"},
		{"h:2379/root?blob=dir:/x&max_txn_ops=0", "max_txn_ops is not a number"},
		{"h:2379/root?blob=dir:/x&max_txn_ops=x", "max_txn_ops is not a number"},
		{"h:2379/root?blob=dir:/x&max_request_bytes=1T", "max_request_bytes is not a number"},
		{"h:2379/root?blob=dir:/x&quota=-1", "quota is not a number"},
		{"h:2379/root?blob=dir:/x&quota=99999999999999999999999", "quota is not a number"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		char url[300];
		snprintf(url, sizeof url, "etcd://%s", bad[i].rest);
		expect_refused(url, PGS_EINVAL, bad[i].says);
	}
	expect_refused("etcd:h:2379/root", PGS_EINVAL, "begins with etcd://");
}

/* Not by the one that looks at the URL, nor by pgs_open(), which says what it could not open. */
static void test_url__secrets_are_not_repeated(void **state)
{
	(void)state;
	static const char *const urls[] = {"etcd://me:hunter2@h:2379", "etcd://me:hunter2@h:2379/root?blob=dir:/x",
		"etcd://h/root?password=hunter2", "etcd://h/root?hunter2", "etcd://h/root?blob=dir:/x&token=hunter2",
		"etcd://h/root?blob=dir:/x&tls=hunter2", "etcd:hunter2", "etcdd://me:hunter2@h:2379",
		"s3://hunter2@bucket", "etcd://h/hunter2%00"};
	for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
		pgs_kv *kv;
		pgs_blob *blob;
		pgs_store *store;
		pgs_error err = PGS_ERROR_INIT;
		assert_int_equal(pgs__backends_open(urls[i], &(pgs__open_how){0}, &kv, &blob, &err), PGS_EINVAL);
		assert_true(err.message[0]);
		assert_null(strstr(err.message, "hunter2"));
		assert_int_equal(pgs_open(&store, urls[i], NULL, &err), PGS_EINVAL);
		assert_null(strstr(err.message, "hunter2"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_url__mem_is_always_new),
		cmocka_unit_test(test_url__dir_makes_the_last_directory),
		cmocka_unit_test(test_url__must_exist_makes_nothing),
		cmocka_unit_test(test_url__escapes_are_decoded),
		cmocka_unit_test(test_url__options_have_names_values_and_limits),
		cmocka_unit_test(test_url__other_schemes_are_refused),
		cmocka_unit_test(test_url__etcd_options_have_names_and_values),
		cmocka_unit_test(test_url__secrets_are_not_repeated),
	};
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
