/* The simulator's workload by the wall clock (tests/soak), on real servers: one etcd, or three in the long tier, and S3. */
#include <stdio.h>
#include <stdlib.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/scratch.h"
#include "support/server_store.h"
#include "support/testing.h"

static void soak(size_t members, unsigned seconds, const char *options, const char *more)
{
	char url[SERVER_URL_SIZE], command[SERVER_URL_SIZE + 600];
	etcd_server *etcd = etcd_start(&(etcd_setup){.members = members});
	s3_server *s3 = s3_start(false);
	assert_true(etcd && s3);
	server_store_url(url, etcd_endpoints(etcd), "soak", s3_endpoint(s3), more);
	snprintf(command, sizeof command, "exec '%s/soak/pgs_soak' --compact --seconds %u %s '%s'", HELPER_DIR, seconds,
		options, url);
	assert_int_equal(system(command), 0);
	etcd_stop(etcd);
	s3_stop(s3);
}

static void test_soak__on_one_etcd_and_s3(void **state)
{
	(void)state;
	soak(1, getenv("PGS_TEST_LONG") ? 60 : 10, "", "");
}

static void test_soak__on_three_etcds_and_s3(void **state)
{
	(void)state;
	soak(3, getenv("PGS_TEST_LONG") ? 180 : 5, "", "");
}

/* They share a cache file, which is small enough to be full, and follow. */
static void test_soak__with_a_cache_file(void **state)
{
	char more[300];
	(void)state;
	snprintf(more, sizeof more, "&cache=%s&cache_size=4M", scratch_path("cache"));
	soak(1, getenv("PGS_TEST_LONG") ? 180 : 10, "--follow --kill-every 500", more);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_soak__on_one_etcd_and_s3),
		cmocka_unit_test(test_soak__on_three_etcds_and_s3),
		cmocka_unit_test(test_soak__with_a_cache_file),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
