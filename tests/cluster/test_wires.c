/* A store whose answers are late, cut, halved, swallowed or refused, before etcd and before S3: every call ends by its
 * deadline, says what could not be done and where, and the next one works on the same handles. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/tcp_proxy.h"
#include "support/testing.h"
#include "util/clock.h"

#define TIMEOUT_MS 2000
#define PATIENT_MS 30000 /* for what has to work, on a loaded machine */
#define SMALL_FIRST 0
#define SMALL_PAGES 8
#define LARGE_FIRST 1000
#define LARGE_PAGES 384 /* 1.5 MiB of contents: a sorted file */
#define PACK_FIRST 4000
#define PACK_PAGES 300 /* more pointers than operations in etcd's transactions */

static etcd_server *etcd;
static s3_server *s3;

typedef struct fixture {
	tcp_proxy *kv_proxy, *blob_proxy;
	char url[SERVER_URL_SIZE];
	pgs_store *store;
	pgs_db *db;
	uint32_t timeout_ms; /* of the next operation's transactions */
	uint64_t written;    /* seeds given out */
	uint64_t small, large, packed; /* what those pages were written with last, for sure */
} fixture;

/* --- operations: PGS_OK, or why not ---------------------------------------------------- */

typedef int operation(fixture *f, pgs_error *err);

static int begin_with(fixture *f, bool write, pgs_txn **txn, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	options.write = write;
	options.timeout_ms = f->timeout_ms;
	timed t = timed_begin("pgs_begin", f->timeout_ms);
	int result = pgs_begin(txn, f->db, &options, err);
	timed_end(&t);
	return result;
}

static int do_begin(fixture *f, pgs_error *err)
{
	pgs_txn *txn;
	int result = begin_with(f, false, &txn, err);
	pgs_abort(txn);
	return result;
}

/* More pages than the cache has, so that they come from the servers. */
static int do_read(fixture *f, pgs_error *err)
{
	enum { STEP = 64 };
	static uint8_t pages[STEP][TEST_PAGE_SIZE];
	pgs_txn *txn;
	int result = begin_with(f, false, &txn, err);
	for (uint64_t at = 0; result == PGS_OK && at < LARGE_PAGES; at += STEP) {
		uint64_t numbers[STEP];
		void *dst[STEP];
		for (uint64_t i = 0; i < STEP; i++) {
			numbers[i] = LARGE_FIRST + at + i;
			dst[i] = pages[i];
		}
		timed t = timed_begin("pgs_read_many", f->timeout_ms);
		result = pgs_read_many(txn, numbers, STEP, dst);
		timed_end(&t);
		if (result != PGS_OK)
			*err = *pgs_txn_error(txn);
	}
	pgs_abort(txn);
	return result;
}

/* Writes pages with a new seed. What is unknown is asked for when all is well again, and is what it is said to be. */
static int write_all(fixture *f, uint64_t first, uint64_t count, uint64_t *last, uint64_t seed, pgs_error *err)
{
	pgs_txn *txn;
	pgs_commit_token token;
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	options.token = &token;
	int result = begin_with(f, true, &txn, err);
	if (result != PGS_OK)
		return result;
	for (uint64_t i = 0; i < count; i++)
		assert_int_equal(write_seed(txn, first + i, seed), PGS_OK);
	timed t = timed_begin("pgs_commit", f->timeout_ms);
	result = pgs_commit(txn, &options, NULL, err);
	timed_end(&t);
	int status = result == PGS_OK ? PGS_COMMIT_HAPPENED : PGS_COMMIT_NOT_HAPPENED;
	if (result == PGS_EUNKNOWN) {
		tcp_proxy_set(f->kv_proxy, PROXY_PASS, 0);
		tcp_proxy_set(f->blob_proxy, PROXY_PASS, 0);
		pgs_error why = PGS_ERROR_INIT;
		int asked;
		do /* the store's timeout is short, the machine perhaps slow */
			asked = pgs_commit_status(f->db, &token, &status, NULL, &why);
		while (asked == PGS_ETIMEOUT);
		expect_code(asked, PGS_OK, &why, "pgs_commit_status");
	}
	if (status == PGS_COMMIT_HAPPENED)
		*last = seed;
	return result;
}

/* Eight bytes of each page are other ones: deltas. */
static int do_small_commit(fixture *f, pgs_error *err)
{
	return write_all(f, SMALL_FIRST, SMALL_PAGES, &f->small, 256 * 7 + ++f->written % 250, err);
}

static int do_large_commit(fixture *f, pgs_error *err)
{
	return write_all(f, LARGE_FIRST, LARGE_PAGES, &f->large, ++f->written << 8, err);
}

static int do_packed_commit(fixture *f, pgs_error *err)
{
	return write_all(f, PACK_FIRST, PACK_PAGES, &f->packed, 256 * 9 + ++f->written % 250, err);
}

static int do_maintain(fixture *f, pgs_error *err)
{
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_error own = PGS_ERROR_INIT;
	options.all = true;
	options.budget_ms = TIMEOUT_MS; /* others' claims are not waited for */
	options.level0_files = 2;
	int result = pgs_maintain(f->db, &options, NULL, &own);
	*err = own;
	return result;
}

static int do_snapshot(fixture *f, pgs_error *err)
{
	char name[32];
	snprintf(name, sizeof name, "at-%llu", (unsigned long long)++f->written);
	return pgs_snapshot_create(f->db, name, strlen(name), NULL, err);
}

static int do_verify(fixture *f, pgs_error *err)
{
	return pgs_verify(f->db, NULL, NULL, err);
}

static int do_stat(fixture *f, pgs_error *err)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	return pgs_stat(f->db, &stat, err);
}

static int take_entry(void *ctx, const pgs_log_entry *entry)
{
	(void)ctx;
	(void)entry;
	return 0;
}

static int do_log(fixture *f, pgs_error *err)
{
	return pgs_log(f->db, NULL, take_entry, NULL, err);
}

/* Each step of a call has the store's timeout: `steps`, how many may be waited for in one that fails. */
static const struct {
	const char *name;
	operation *run;
	unsigned steps;
} operations[] = {
	{"begin", do_begin, 1},
	{"read", do_read, 2},
	{"small commit", do_small_commit, 2},
	{"large commit", do_large_commit, 2},
	{"packed commit", do_packed_commit, 2},
	{"maintain", do_maintain, 2},
	{"snapshot", do_snapshot, 2},
	{"verify", do_verify, 1},
	{"stat", do_stat, 1},
	{"log", do_log, 1},
};

#define OPERATIONS (sizeof operations / sizeof *operations)

/* --- a store between two proxies -------------------------------------------------------------- */

static pgs_db *open_small_cache(pgs_store *store)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	options.page_size_bytes = TEST_PAGE_SIZE;
	options.cache_bytes = 64 * TEST_PAGE_SIZE;
	expect_code(pgs_db_create(&db, store, "db", 2, &options, &err), PGS_OK, &err, "pgs_db_create");
	return db;
}

static void expect_works(fixture *f, size_t which)
{
	pgs_error err = PGS_ERROR_INIT;
	int result;
	f->timeout_ms = PATIENT_MS;
	do /* calls without a timeout of their own have the store's, which is short for a loaded machine */
		result = operations[which].run(f, &err);
	while (result == PGS_ETIMEOUT && operations[which].run != do_begin);
	expect_code(result, PGS_OK, &err, operations[which].name);
}

static int set_up(void **state)
{
	static unsigned number;
	fixture *f = calloc(1, sizeof *f);
	char root[16], kv[32], blob[48];
	snprintf(root, sizeof root, "wires-%u", number++);
	f->kv_proxy = tcp_proxy_start(etcd_port(etcd, 0));
	f->blob_proxy = tcp_proxy_start(s3_port(s3));
	snprintf(kv, sizeof kv, "127.0.0.1:%u", tcp_proxy_port(f->kv_proxy));
	snprintf(blob, sizeof blob, "http://127.0.0.1:%u", tcp_proxy_port(f->blob_proxy));
	server_store_url(f->url, kv, root, blob, "");
	f->store = server_store_open(f->url, TIMEOUT_MS);
	f->db = open_small_cache(f->store);
	*state = f;
	for (size_t i = 0; i < OPERATIONS; i++) /* something of each kind is there */
		expect_works(f, i);
	return 0;
}

static void expect_pages(fixture *f, uint64_t first, uint64_t count, uint64_t seed)
{
	pgs_txn *txn;
	f->timeout_ms = PATIENT_MS;
	assert_int_equal(begin_with(f, false, &txn, NULL), PGS_OK);
	for (uint64_t i = 0; i < count; i++)
		assert_int_equal(read_seed(txn, first + i, seed), PGS_OK);
	pgs_abort(txn);
}

static int tear_down(void **state)
{
	fixture *f = *state;
	expect_pages(f, SMALL_FIRST, SMALL_PAGES, f->small);
	expect_pages(f, LARGE_FIRST, LARGE_PAGES, f->large);
	expect_pages(f, PACK_FIRST, PACK_PAGES, f->packed);
	pgs_db_close(f->db);
	pgs_close(f->store);
	tcp_proxy_stop(f->kv_proxy);
	tcp_proxy_stop(f->blob_proxy);
	free(f);
	return 0;
}

/* --- what goes wrong ------------------------------------------------------------------------------ */

static bool may_fail_so(int result)
{
	return result == PGS_EIO || result == PGS_ETIMEOUT || result == PGS_EUNKNOWN;
}

/* Each operation while `proxy` misbehaves; then once more when it does not. */
static void hurt_all(fixture *f, tcp_proxy *proxy, proxy_mode mode, int times, const char *what)
{
	char endpoint[32];
	/* Hurt once, what is left of the time may be too short for the other server, on a slow machine. */
	const char *where = times == 0 ? endpoint : "127.0.0.1:";
	unsigned failed = 0;
	snprintf(endpoint, sizeof endpoint, "127.0.0.1:%u", tcp_proxy_port(proxy));
	for (size_t i = 0; i < OPERATIONS; i++) {
		pgs_error err = PGS_ERROR_INIT;
		char name[64];
		snprintf(name, sizeof name, "%s, %s", operations[i].name, what);
		f->timeout_ms = TIMEOUT_MS;
		tcp_proxy_set(proxy, mode, times);
		if (mode == PROXY_REFUSE)
			tcp_proxy_cut_all(proxy);
		timed t = timed_begin(name, (uint64_t)operations[i].steps * TIMEOUT_MS);
		int result = operations[i].run(f, &err);
		timed_end(&t);
		tcp_proxy_set(proxy, PROXY_PASS, 0);
		if (result != PGS_OK && !may_fail_so(result))
			fail_msg("%s: %s %s", name, pgs_error_name(result), err.message);
		if (result != PGS_OK && (!strstr(err.message, where) || !strstr(err.message, "cannot ")))
			fail_msg("%s: not where and what: %s %s", name, pgs_error_name(result), err.message);
		failed += result != PGS_OK;
		expect_works(f, i);
	}
	if (times == 0)
		assert_true(failed > 0);
}

static void test_answers__that_are_cut_once(void **state)
{
	fixture *f = *state;
	hurt_all(f, f->kv_proxy, PROXY_CUT, 1, "etcd's answer cut");
	hurt_all(f, f->kv_proxy, PROXY_HALF, 1, "etcd's answer halved");
	hurt_all(f, f->blob_proxy, PROXY_CUT, 1, "S3's answer cut");
	hurt_all(f, f->blob_proxy, PROXY_HALF, 1, "S3's answer halved");
}

static void test_answers__that_are_swallowed_once(void **state)
{
	fixture *f = *state;
	hurt_all(f, f->kv_proxy, PROXY_SWALLOW, 1, "etcd's answer swallowed");
}

static void test_etcd__that_never_answers(void **state)
{
	fixture *f = *state;
	hurt_all(f, f->kv_proxy, PROXY_SWALLOW, 0, "etcd silent");
}

static void test_etcd__whose_answers_are_all_cut(void **state)
{
	fixture *f = *state;
	hurt_all(f, f->kv_proxy, PROXY_CUT, 0, "etcd cut");
}

static void test_etcd__that_cannot_be_reached(void **state)
{
	fixture *f = *state;
	hurt_all(f, f->kv_proxy, PROXY_REFUSE, 0, "etcd refuses");
}

static void test_s3__that_never_answers(void **state)
{
	fixture *f = *state;
	hurt_all(f, f->blob_proxy, PROXY_SWALLOW, 0, "S3 silent");
}

static void test_s3__whose_answers_are_all_cut(void **state)
{
	fixture *f = *state;
	hurt_all(f, f->blob_proxy, PROXY_CUT, 0, "S3 cut");
}

static void test_s3__that_cannot_be_reached(void **state)
{
	fixture *f = *state;
	hurt_all(f, f->blob_proxy, PROXY_REFUSE, 0, "S3 refuses");
}

/* What deltas are taken against is in S3, and not in the cache: the pages are written full, into etcd. */
static void test_small_commits__go_on_without_s3(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	fixture cold = *f;
	expect_code(do_maintain(f, &err), PGS_OK, &err, "pgs_maintain");
	cold.store = server_store_open(f->url, TIMEOUT_MS);
	cold.db = open_db(cold.store, "db");
	tcp_proxy_set(f->blob_proxy, PROXY_SWALLOW, 0);
	cold.timeout_ms = 4000;
	expect_code(do_small_commit(&cold, &err), PGS_OK, &err, "a commit");
	tcp_proxy_set(f->blob_proxy, PROXY_PASS, 0);
	f->small = cold.small;
	pgs_db_close(cold.db);
	pgs_close(cold.store);
}

/* 200 ms on every answer: all works, only later. */
static void test_answers__that_are_late(void **state)
{
	fixture *f = *state;
	static operation *const some[] = {do_begin, do_read, do_small_commit, do_large_commit, do_packed_commit};
	for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
		pgs_error err = PGS_ERROR_INIT;
		f->timeout_ms = PATIENT_MS;
		tcp_proxy_set(f->kv_proxy, PROXY_DELAY, 0);
		tcp_proxy_set(f->blob_proxy, PROXY_DELAY, 4); /* pieces of answers are answers to it */
		expect_code(some[i](f, &err), PGS_OK, &err, "late");
	}
	tcp_proxy_set(f->kv_proxy, PROXY_PASS, 0);
	tcp_proxy_set(f->blob_proxy, PROXY_PASS, 0);
}

/* --- closing ------------------------------------------------------------------------------------------ */

/* What is closed while nobody answers does not wait for an answer, or not for long. */
static void test_close__among_the_silent(void **state)
{
	fixture *f = *state;
	char url[SERVER_URL_SIZE], kv[32], blob[48];
	pgs_error err = PGS_ERROR_INIT;
	pgs_revision_pin *pin;
	snprintf(kv, sizeof kv, "127.0.0.1:%u", tcp_proxy_port(f->kv_proxy));
	snprintf(blob, sizeof blob, "http://127.0.0.1:%u", tcp_proxy_port(f->blob_proxy));
	server_store_url(url, kv, "closing", blob, "");
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	options.timeout_ms = TIMEOUT_MS;
	options.maintenance = PGS_MAINTENANCE_THREAD;
	pgs_store *store;
	expect_code(pgs_open(&store, url, &options, &err), PGS_OK, &err, "pgs_open");
	pgs_db_options small = PGS_DB_OPTIONS_INIT;
	small.page_size_bytes = TEST_PAGE_SIZE;
	small.write_buffer_bytes = 1 << 20; /* it spills: there is something to remove when it is aborted */
	pgs_db *db;
	expect_code(pgs_db_create(&db, store, "db", 2, &small, &err), PGS_OK, &err, "pgs_db_create");
	pgs_txn *txn = begin_write(db);
	for (uint64_t i = 0; i < 600; i++)
		assert_int_equal(write_seed(txn, i, (i + 1) << 8), PGS_OK);
	expect_code(pgs_pin_revision(&pin, db, 0, 0, NULL, &err), PGS_OK, &err, "pgs_pin_revision");
	tcp_proxy_set(f->kv_proxy, PROXY_SWALLOW, 0);
	tcp_proxy_set(f->blob_proxy, PROXY_SWALLOW, 0);
	timed t = timed_begin("pgs_abort", TIMEOUT_MS);
	pgs_abort(txn);
	timed_end(&t);
	t = timed_begin("pgs_unpin_revision", TIMEOUT_MS);
	pgs_unpin_revision(pin);
	timed_end(&t);
	t = timed_begin("pgs_close", 2 * TIMEOUT_MS); /* a step of the maintenance thread's may be under way */
	pgs_db_close(db);
	pgs_close(store);
	timed_end(&t);
	tcp_proxy_set(f->kv_proxy, PROXY_PASS, 0);
	tcp_proxy_set(f->blob_proxy, PROXY_PASS, 0);
}

/* --- main ------------------------------------------------------------------------------------------------ */

static int group_set_up(void **state)
{
	(void)state;
	etcd = etcd_start(&(etcd_setup){.members = 1});
	s3 = s3_start(false);
	return etcd && s3 ? 0 : -1;
}

static int group_tear_down(void **state)
{
	(void)state;
	etcd_stop(etcd);
	s3_stop(s3);
	return 0;
}

#define WIRE_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WIRE_TEST(test_answers__that_are_cut_once),
		WIRE_TEST(test_answers__that_are_swallowed_once),
		WIRE_TEST(test_answers__that_are_late),
		WIRE_TEST(test_etcd__that_never_answers),
		WIRE_TEST(test_etcd__whose_answers_are_all_cut),
		WIRE_TEST(test_etcd__that_cannot_be_reached),
		WIRE_TEST(test_s3__that_never_answers),
		WIRE_TEST(test_s3__whose_answers_are_all_cut),
		WIRE_TEST(test_s3__that_cannot_be_reached),
		WIRE_TEST(test_small_commits__go_on_without_s3),
		WIRE_TEST(test_close__among_the_silent),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
