/* The simulator's workload by the wall clock (tests/soak), on real servers: one etcd, or three in the long tier, and S3. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"
#include "support/testing.h"

static void soak(size_t members, unsigned seconds)
{
	char url[SERVER_URL_SIZE], command[SERVER_URL_SIZE + 600];
	etcd_server *etcd = etcd_start(&(etcd_setup){.members = members});
	s3_server *s3 = s3_start(false);
	assert_true(etcd && s3);
	server_store_url(url, etcd_endpoints(etcd), "soak", s3_endpoint(s3), "");
	snprintf(command, sizeof command, "exec '%s/soak/pgs_soak' --compact --seconds %u '%s'", HELPER_DIR, seconds, url);
	assert_int_equal(system(command), 0);
	etcd_stop(etcd);
	s3_stop(s3);
}

static void test_soak__on_one_etcd_and_s3(void **state)
{
	(void)state;
	soak(1, getenv("PGS_TEST_LONG") ? 60 : 15);
}

static void test_soak__on_three_etcds_and_s3(void **state)
{
	(void)state;
	soak(3, getenv("PGS_TEST_LONG") ? 180 : 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_soak__on_one_etcd_and_s3),
		cmocka_unit_test(test_soak__on_three_etcds_and_s3),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
