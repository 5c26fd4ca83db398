/* Users of an etcd whose tokens expire, whose passwords are wrong or changed, whose roles lack the store's keys: what can
 * go on does, the rest is PGS_EAUTH, with no password in any message; and when it is mended, the same handles work. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define TTL_S 1
#define EXPIRED_MS 3500 /* etcd looks for tokens to forget now and then */
#define SECRET "hunter2"

static etcd_server *etcd;
static s3_server *s3;

static void post(const char *path, const char *body)
{
	char answer[500];
	int status = etcd_post(etcd, 0, path, body, answer, sizeof answer);
	if (status != 200)
		fail_msg("%s: %d %s", path, status, answer);
}

static void post_as_root(const char *path, const char *body)
{
	assert_true(etcd_log_in(etcd, "root", SECRET));
	post(path, body);
}

/* "me" may do anything below /mine/. */
static const char grant_mine[] =
	"{\"name\":\"mine\",\"perm\":{\"permType\":\"READWRITE\",\"key\":\"L21pbmUv\",\"range_end\":\"L21pbmUw\"}}";
static const char revoke_mine[] = "{\"role\":\"mine\",\"key\":\"L21pbmUv\",\"range_end\":\"L21pbmUw\"}";

static int set_up(void **state)
{
	(void)state;
	etcd = etcd_start(&(etcd_setup){.token_ttl_s = TTL_S});
	s3 = s3_start(false);
	if (!etcd || !s3)
		return -1;
	post("/v3/auth/user/add", "{\"name\":\"root\",\"password\":\"" SECRET "\"}");
	post("/v3/auth/role/add", "{\"name\":\"root\"}");
	post("/v3/auth/user/grant", "{\"user\":\"root\",\"role\":\"root\"}");
	post("/v3/auth/user/add", "{\"name\":\"me\",\"password\":\"" SECRET "\"}");
	post("/v3/auth/role/add", "{\"name\":\"mine\"}");
	post("/v3/auth/role/grant", grant_mine);
	post("/v3/auth/user/grant", "{\"user\":\"me\",\"role\":\"mine\"}");
	post("/v3/auth/enable", "{}");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	etcd_stop(etcd);
	s3_stop(s3);
	unsetenv("PAGESTORE_ETCD_PASSWORD");
	return 0;
}

static int open_as_me(pgs_store **out, const char *root, const char *password, pgs_error *err)
{
	char url[SERVER_URL_SIZE];
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	options.timeout_ms = 10000;
	setenv("PAGESTORE_ETCD_PASSWORD", password, 1);
	server_store_url(url, etcd_endpoints(etcd), root, s3_endpoint(s3), "&user=me");
	return pgs_open(out, url, &options, err);
}

static pgs_store *open_mine(pgs_db **db)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	expect_code(open_as_me(&store, "mine", SECRET, &err), PGS_OK, &err, "pgs_open");
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	options.page_size_bytes = TEST_PAGE_SIZE;
	options.cache_bytes = 64 * TEST_PAGE_SIZE;
	int result = pgs_db_create(db, store, "db", 2, &options, &err);
	if (result == PGS_EEXIST)
		result = pgs_db_open(db, store, "db", 2, &options, &err);
	expect_code(result, PGS_OK, &err, "the database");
	return store;
}

static void expect_refused(int result, const pgs_error *err, const char *what, const char *says)
{
	expect_code(result, PGS_EAUTH, err, what);
	expect_words(err, etcd_endpoint(etcd, 0), "cannot ", says, NULL);
	assert_null(strstr(err->message, SECRET));
}

static uint64_t seed_of(uint64_t page_no)
{
	return (page_no + 1) << 8;
}

/* --- tokens --------------------------------------------------------------------------------- */

static void test_tokens__that_expire_are_renewed(void **state)
{
	pgs_db *db;
	pgs_store *store = open_mine(&db);
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	write_pages(db, 0, 500, seed_of);
	pgs__sleep_ms(EXPIRED_MS, 0); /* between calls */
	pgs_txn *txn = begin_write(db), *reader;
	expect_code(pgs_begin(&reader, db, NULL, &err), PGS_OK, &err, "pgs_begin");
	assert_int_equal(read_seed(txn, 3, seed_of(3)), PGS_OK);
	assert_int_equal(write_seed(txn, 3, 77 << 8), PGS_OK);
	pgs__sleep_ms(EXPIRED_MS, 0); /* in a transaction */
	commit_ok(txn);
	for (uint64_t i = 0; i < 500; i++)
		assert_int_equal(read_seed(reader, i, seed_of(i)), PGS_OK);
	pgs__sleep_ms(EXPIRED_MS, 0);
	pgs_abort(reader);
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	options.all = true;
	expect_code(pgs_maintain(db, &options, NULL, &err), PGS_OK, &err, "pgs_maintain");
	pgs__sleep_ms(EXPIRED_MS, 0);
	expect_code(pgs_verify(db, NULL, NULL, &err), PGS_OK, &err, "pgs_verify"); /* with a watch */
	pgs_db_close(db);
	pgs_close(store);
}

/* --- what is refused -------------------------------------------------------------------------- */

static void test_open__with_a_wrong_password_or_root(void **state)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	(void)state;
	expect_refused(open_as_me(&store, "mine", SECRET "-not", &err), &err, "pgs_open", "authentication failed");
	expect_refused(open_as_me(&store, "theirs", SECRET, &err), &err, "pgs_open", "does the user have a role");
}

/* All that needs the servers is refused, and none of it hangs. */
static void expect_all_refused(pgs_db *db, pgs_txn *begun, const char *says)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	timed t = timed_begin("what is refused", 5000);
	expect_refused(pgs_begin(&txn, db, NULL, &err), &err, "pgs_begin", says);
	assert_null(txn);
	expect_refused(pgs_maintain(db, NULL, NULL, &err), &err, "pgs_maintain", says);
	expect_refused(pgs_snapshot_create(db, "s", 1, NULL, &err), &err, "pgs_snapshot_create", says);
	assert_int_equal(write_seed(begun, 1, 99 << 8), PGS_OK);
	expect_refused(pgs_commit(begun, NULL, NULL, &err), &err, "pgs_commit", says);
	timed_end(&t);
}

static void expect_works(pgs_db *db)
{
	pgs_txn *txn = begin_write(db);
	assert_int_equal(read_seed(txn, 1, seed_of(1)), PGS_OK);
	assert_int_equal(write_seed(txn, 2, seed_of(2)), PGS_OK);
	assert_int_equal(write_seed(txn, 600, seed_of(600)), PGS_OK);
	commit_ok(txn);
}

static void test_passwords__that_are_changed_while_open(void **state)
{
	pgs_db *db;
	pgs_store *store = open_mine(&db);
	(void)state;
	write_pages(db, 0, 10, seed_of);
	pgs_txn *txn = begin_write(db);
	post_as_root("/v3/auth/user/changepw", "{\"name\":\"me\",\"password\":\"another\"}");
	expect_all_refused(db, txn, "authentication failed");
	post_as_root("/v3/auth/user/changepw", "{\"name\":\"me\",\"password\":\"" SECRET "\"}");
	expect_works(db);
	pgs_db_close(db);
	pgs_close(store);
}

static void test_roles__that_are_revoked_while_open(void **state)
{
	pgs_db *db;
	pgs_store *store = open_mine(&db);
	(void)state;
	write_pages(db, 0, 10, seed_of);
	pgs_txn *txn = begin_write(db);
	post_as_root("/v3/auth/role/revoke", revoke_mine);
	expect_all_refused(db, txn, "permission denied");
	post_as_root("/v3/auth/role/grant", grant_mine);
	expect_works(db);
	pgs_db_close(db);
	pgs_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open__with_a_wrong_password_or_root),
		cmocka_unit_test(test_tokens__that_expire_are_renewed),
		cmocka_unit_test(test_passwords__that_are_changed_while_open),
		cmocka_unit_test(test_roles__that_are_revoked_while_open),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
