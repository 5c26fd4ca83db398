/* Processes that follow one database on etcd and S3, with a cache file between them, and are killed. */
#include <stdio.h>
#include <stdlib.h>

#include "support/etcd_server.h"
#include "support/followers.h"
#include "support/s3_server.h"
#include "support/scratch.h"
#include "support/server_store.h"
#include "support/testing.h"

static void test_followers__killed(void **state)
{
	char url[SERVER_URL_SIZE], cached[SERVER_URL_SIZE + 200];
	(void)state;
	etcd_server *etcd = etcd_start(&(etcd_setup){.members = 1});
	s3_server *s3 = s3_start(false);
	assert_true(etcd && s3);
	server_store_url(url, etcd_endpoints(etcd), "followers", s3_endpoint(s3), "");
	snprintf(cached, sizeof cached, "%s&cache=%s", url, scratch_path("cache"));
	followers_run(url, cached, scratch_root(), HELPER_DIR, getenv("PGS_TEST_LONG") ? 60000 : 6000, true);
	etcd_stop(etcd);
	s3_stop(s3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_followers__killed),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests_name("followers", tests, scratch_set_up, scratch_tear_down);
}
