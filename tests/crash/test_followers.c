/* Processes that follow one database on a local store, with a cache file between them, and are killed. */
#include <stdio.h>
#include <stdlib.h>

#include "support/followers.h"
#include "support/stores.h"
#include "support/testing.h"

static void test_followers__killed(void **state)
{
	char folder[64], url[100], cached[200];
	(void)state;
	make_folder(folder);
	snprintf(url, sizeof url, "dir:%s/store", folder);
	snprintf(cached, sizeof cached, "%s?cache=%s/cache", url, folder);
	followers_run(url, cached, folder, HELPER_DIR, getenv("PGS_TEST_LONG") ? 60000 : 6000, false);
	remove_folder(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_followers__killed),
	};
	return cmocka_run_group_tests_name("followers", tests, NULL, NULL);
}
