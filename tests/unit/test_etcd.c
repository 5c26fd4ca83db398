/* The etcd backend on a real server: opening and its errors, limits, pages, history, a full cluster, users, TLS. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>
#include <pagestore/backends.h>

#include "../../backends/etcd/base64.h"
#include "../../backends/url.h"
#include "support/etcd_server.h"
#include "support/kv_calls.h"
#include "support/operations.h"
#include "support/scratch.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

static etcd_server *shared; /* one member without anything special */

static const pgs_etcd_options no_options = PGS_ETCD_OPTIONS_INIT;

/* Without options: with the patience for a machine that has much else to do. */
static pgs_kv *open_ok(const char *endpoints, const char *root, const pgs_etcd_options *options)
{
	pgs_kv *kv;
	pgs_error err = PGS_ERROR_INIT;
	pgs_etcd_options patient = no_options;
	patient.answer_timeout_ms = patient.timeout_ms = 120000;
	if (!options)
		options = &patient;
	if (pgs_kv_etcd_open(&kv, endpoints, root, options, &err) != PGS_OK)
		fail_msg("%s: %s", endpoints, err.message);
	return kv;
}

static void expect_no_open(const char *endpoints, const pgs_etcd_options *options, int status, const char *says)
{
	pgs_kv *kv = (pgs_kv *)&shared;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t started = pgs__now_ms();
	assert_int_equal(pgs_kv_etcd_open(&kv, endpoints, "root", options, &err), status);
	assert_null(kv);
	assert_int_equal(err.code, status);
	if (!strstr(err.message, says))
		fail_msg("'%s' does not say '%s'", err.message, says);
	assert_null(strstr(err.message, "hunter2"));
	assert_true(pgs__now_ms() - started < 8000);
}

/* --- base64 ------------------------------------------------------------------------- */

static void test_base64__encodes_two_as_one(void **state)
{
	(void)state;
	char bytes[40];
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (char)(i * 37 + 200);
	for (size_t size = 0; size <= sizeof bytes; size++) {
		pgs__buffer whole = {0};
		uint8_t back[sizeof bytes + 3];
		size_t back_size;
		pgs__base64_put(&whole, (pgs_slice){bytes, size}, NO_END);
		assert_int_equal(whole.size, (size + 2) / 3 * 4);
		assert_int_equal(pgs__base64_decode((char *)whole.data, whole.size, back, &back_size), PGS_OK);
		assert_int_equal(back_size, size);
		assert_memory_equal(back, bytes, size);
		for (size_t cut = 0; cut <= size; cut++) {
			pgs__buffer parts = {0};
			pgs__base64_put(&parts, (pgs_slice){bytes, cut}, (pgs_slice){bytes + cut, size - cut});
			assert_int_equal(parts.size, whole.size);
			if (whole.size)
				assert_memory_equal(parts.data, whole.data, whole.size);
			pgs__buffer_free(&parts);
		}
		pgs__buffer_free(&whole);
	}
}

static void test_base64__refuses_what_is_none(void **state)
{
	(void)state;
	static const char *const bad[] = {"A", "AA", "AAA", "AAAAA", "A===", "====", "AA=A", "AA-A", "AAA\n", "=AAA", "AA A",
		"AAAA====", "A\xff" "AA", "A_==", "AA=="  "AAAA"};
	uint8_t out[16];
	size_t size;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(pgs__base64_decode(bad[i], strlen(bad[i]), out, &size), PGS_ECORRUPT);
	assert_int_equal(pgs__base64_decode("cGFnZQ==", 8, out, &size), PGS_OK);
	assert_memory_equal(out, "page", size);
}

/* --- opening ------------------------------------------------------------------------- */

static void test_open__says_what_is_wrong_with_the_endpoints(void **state)
{
	(void)state;
	static const char *const bad[] = {"", ",", "h,", ",h", "h:", ":2379", "h:0", "h:65536", "h:2379x", "me:hunter2@h",
		"h h",
		"[::1", "::1", "[::1]2379", "http://h:2379", "h/root"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		expect_no_open(bad[i], NULL, PGS_EINVAL, "host:port");
	char many[200] = "h";
	for (size_t i = 0; i < 40; i++)
		strcat(many, ",h");
	expect_no_open(many, NULL, PGS_EINVAL, "more than 32");
}

static void test_open__says_what_is_wrong_with_the_options(void **state)
{
	(void)state;
	pgs_etcd_options o = no_options;
	o.struct_size = 0;
	expect_no_open("h", &o, PGS_EINVAL, "PGS_ETCD_OPTIONS_INIT");
	o = no_options;
	o.password = "hunter2";
	expect_no_open("h", &o, PGS_EINVAL, "without a user");
	o = no_options;
	o.user = "me";
	expect_no_open("h", &o, PGS_EINVAL, "PAGESTORE_ETCD_PASSWORD");
	o.password_file = "/nowhere/at/all";
	expect_no_open("h", &o, PGS_EINVAL, "'/nowhere/at/all'");
	o = no_options;
	o.ca_file = "/nowhere/ca.pem";
	expect_no_open("h", &o, PGS_EINVAL, "'/nowhere/ca.pem'");
	o = no_options;
	o.cert_file = "/dev/null";
	expect_no_open("h", &o, PGS_EINVAL, "both cert and key");
	o = no_options;
	o.max_txn_ops = 100000;
	expect_no_open("h", &o, PGS_EINVAL, "--max-request-bytes");
	pgs_kv *kv;
	static const char *const roots[] = {"/a", "a/", "/"};
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(pgs_kv_etcd_open(&kv, "h", roots[i], NULL, NULL), PGS_EINVAL);
}

static void test_open__a_server_that_is_down(void **state)
{
	(void)state;
	char endpoint[32];
	snprintf(endpoint, sizeof endpoint, "127.0.0.1:%u", etcd_free_port());
	expect_no_open(endpoint, NULL, PGS_EIO, endpoint);
	expect_no_open("no-such-host.invalid", NULL, PGS_EIO, "no-such-host.invalid:2379");
	/* One of them is enough. */
	char both[80];
	snprintf(both, sizeof both, "%s,%s", endpoint, etcd_endpoint(shared, 0));
	pgs_kv *kv = open_ok(both, "down", NULL);
	kv_put(kv, "a", "1");
	kv->vtable->close(kv);
}

static void test_open__something_that_is_no_etcd(void **state)
{
	(void)state;
	pgs_etcd_options o = no_options;
	o.answer_timeout_ms = 300;
	expect_no_open(etcd_health_endpoint(shared), &o, PGS_EIO, "not as etcd's gateway does");
	expect_no_open(etcd_peer_endpoint(shared), &o, PGS_EIO, "not as etcd's gateway does");
}

static void test_open__tls_on_one_side_only(void **state)
{
	(void)state;
	pgs_etcd_options o = no_options;
	o.tls = true;
	expect_no_open(etcd_endpoint(shared, 0), &o, PGS_EIO, "https://127.0.0.1");
}

/* --- URLs ------------------------------------------------------------------------------ */

static void open_url(const char *rest, bool read_only, bool must_exist, int status, pgs_kv **kv, pgs_blob **blob)
{
	char url[400];
	pgs_error err = PGS_ERROR_INIT;
	snprintf(url, sizeof url, "etcd://%s%s", etcd_endpoint(shared, 0), rest);
	const pgs__open_how how = {.read_only = read_only, .must_exist = must_exist};
	int got = pgs__backends_open(url, &how, kv, blob, &err);
	if (got != status)
		fail_msg("%s: %d %s", url, got, err.message);
}

static void test_url__opens_both_halves(void **state)
{
	(void)state;
	char rest[300];
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_kv_limits limits;
	pgs_kv_stat stat;
	snprintf(rest, sizeof rest, "/a%%2Fb/c?blob=dir%%3A%s/blobs%%3Fsync=lazy&max_txn_ops=64&quota=1G", scratch_root());
	open_url(rest, false, false, PGS_OK, &kv, &blob);
	kv->vtable->limits(kv, &limits);
	assert_int_equal(limits.max_txn_ops, 64);
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	assert_int_equal(stat.quota_bytes, 1 << 30);
	kv_put(kv, "k", "v");
	kv->vtable->close(kv);
	blob->vtable->close(blob);
	kv = open_ok(etcd_endpoint(shared, 0), "a/b/c", NULL);
	kv_expect(kv, "k", "v");
	kv->vtable->close(kv);
	snprintf(rest, sizeof rest, "/a/b/c?blob=dir:%s/none", scratch_root());
	open_url(rest, false, true, PGS_ENOTFOUND, &kv, &blob);
	assert_null(kv);
	open_url("/root?blob=mem:", false, false, PGS_EINVAL, &kv, &blob);
}

static void test_url__a_whole_store_works(void **state)
{
	(void)state;
	char url[300];
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	snprintf(url, sizeof url, "etcd://%s/whole?blob=dir:%s/whole", etcd_endpoint(shared, 0), scratch_root());
	if (pgs_open(&store, url, NULL, &err) != PGS_OK)
		fail_msg("%s", err.message);
	pgs_db *db = create_db(store, "db", NULL);
	for (unsigned i = 0; i < 5; i++) {
		pgs_txn *txn = begin_write(db);
		for (unsigned page = 0; page < 300; page++)
			write_seed(txn, page, i * 1000 + page + 1);
		commit_ok(txn);
	}
	pgs_db_close(db);
	pgs_close(store);
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	options.read_only = true;
	assert_int_equal(pgs_open(&store, url, &options, &err), PGS_OK);
	db = open_db(store, "db");
	pgs_txn *txn;
	assert_int_equal(pgs_begin(&txn, db, NULL, &err), PGS_OK);
	for (unsigned page = 0; page < 300; page++)
		assert_int_equal(read_seed(txn, page, 4000 + page + 1), PGS_OK);
	pgs_abort(txn);
	pgs_db_close(db);
	pgs_close(store);
}

static void test_kv__read_only_changes_nothing(void **state)
{
	(void)state;
	pgs_etcd_options o = no_options;
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "ro", NULL);
	uint64_t revision = kv_put(kv, "a", "1");
	o.read_only = true;
	pgs_kv *reader = open_ok(etcd_endpoint(shared, 0), "ro", &o);
	pgs_kv_op put = op_put("a", "2"), clear = op_delete("a", NULL);
	assert_int_equal(status_of(reader, &put, 1), PGS_EREADONLY);
	assert_int_equal(status_of(reader, &clear, 1), PGS_EREADONLY);
	assert_int_equal(reader->vtable->compact(reader, revision, 0, NULL), PGS_EREADONLY);
	kv_expect(reader, "a", "1");
	reader->vtable->close(reader);
	kv->vtable->close(kv);
}

/* Roots side by side: neither ranges to the end nor anything else meets another's keys. */
static void test_kv__roots_do_not_meet(void **state)
{
	(void)state;
	static const char *const roots[] = {"r", "r0", "r/s", "r.", "q", NULL};
	pgs_kv *kvs[6];
	uint8_t identities[6][16];
	for (size_t i = 0; i < 6; i++) {
		kvs[i] = open_ok(etcd_endpoint(shared, 0), roots[i], NULL);
		assert_int_equal(kvs[i]->vtable->identity(kvs[i], identities[i], 0, NULL), PGS_OK);
		for (size_t k = 0; k < i; k++)
			assert_memory_not_equal(identities[i], identities[k], 16);
		kv_put(kvs[i], "a", "1");
		kv_put(kvs[i], "\xff\xff", "1");
	}
	for (size_t i = 0; i < 6; i++)
		if (i != 0) /* "r" holds the keys of "r/s" */
			assert_int_equal(kv_count(kvs[i]), 2);
	pgs_kv_op all = {.kind = PGS_KV_DELETE, .key = {"", 1}, .range_end = PGS_KV_TO_END};
	kv_apply(kvs[1], &all, 1);
	assert_int_equal(kv_count(kvs[1]), 0);
	for (size_t i = 0; i < 6; i++) {
		if (i > 1)
			assert_int_equal(kv_count(kvs[i]), 2);
		kvs[i]->vtable->close(kvs[i]);
	}
}

/* --- limits ------------------------------------------------------------------------------ */

static char *filled(size_t size)
{
	char *text = malloc(size);
	for (size_t i = 0; i < size; i++)
		text[i] = (char)(i * 7 + i / 251);
	return text;
}

/* The server takes what limits() promises, however it is made up; and not one byte more is sent. */
static void expect_limit_holds(pgs_kv *kv)
{
	pgs_kv_limits limits;
	kv->vtable->limits(kv, &limits);
	size_t most = limits.max_request_bytes, ops = limits.max_txn_ops;
	char *bytes = filled(most + 1);
	pgs_kv_op one = {.kind = PGS_KV_PUT, .key = {"k", 1}, .value = {bytes, most - 1}};
	kv_apply(kv, &one, 1);
	one.value.size++;
	assert_int_equal(status_of(kv, &one, 1), PGS_ELIMIT);
	/* Every list full, in bytes as in operations. */
	pgs_kv_compare *compares = calloc(ops, sizeof *compares);
	pgs_kv_op *puts = calloc(ops, sizeof *puts), *reads = calloc(ops, sizeof *reads);
	size_t share = most / ops / 8;
	for (size_t i = 0; i < ops; i++) {
		pgs_slice key = {bytes + i, share}, end = {bytes + i + 1, share};
		compares[i] = (pgs_kv_compare){.key = key, .range_end = end, .target = PGS_KV_VERSION_COUNT,
			.relation = PGS_KV_NOT_EQUAL, .number = INT64_MAX};
		puts[i] = (pgs_kv_op){.kind = PGS_KV_PUT, .key = key, .value = {bytes, share}};
		reads[i] = (pgs_kv_op){.kind = PGS_KV_RANGE, .key = key, .range_end = end, .limit = SIZE_MAX,
			.min_mod_revision = UINT64_MAX, .keys_only = true, .revision = 1};
	}
	size_t sum = ops * share * 6;
	puts[0].value.size += most - sum;
	pgs_kv_txn txn = {.compares = compares, .compare_count = ops, .success = puts, .success_count = ops,
		.failure = reads, .failure_count = ops};
	int tries = 10; /* etcd itself gives a request up that takes seven seconds, and does it nevertheless */
	while (run_txn(kv, &txn) == PGS_EUNKNOWN && --tries)
		kv->vtable->release(kv, &txn, 1);
	assert_int_equal(txn.status, PGS_OK);
	assert_true(txn.succeeded);
	kv->vtable->release(kv, &txn, 1);
	puts[0].value.size++;
	assert_int_equal(run_txn(kv, &txn), PGS_ELIMIT);
	kv->vtable->release(kv, &txn, 1);
	free(compares);
	free(puts);
	free(reads);
	free(bytes);
}

static void test_limits__the_server_takes_what_they_promise(void **state)
{
	(void)state;
	pgs_kv_limits limits;
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "limits", NULL);
	kv->vtable->limits(kv, &limits);
	assert_int_equal(limits.max_txn_ops, 128);
	assert_true(limits.max_request_bytes > 1500000 && limits.max_request_bytes < 1572864);
	expect_limit_holds(kv);
	kv->vtable->close(kv);
	char root[201];
	memset(root, 'r', 200);
	root[200] = '\0';
	kv = open_ok(etcd_endpoint(shared, 0), root, NULL);
	expect_limit_holds(kv);
	kv->vtable->close(kv);
}

/* Options that say more than the server takes: it says so, and nothing is applied. */
static void test_limits__the_servers_own_are_told(void **state)
{
	(void)state;
	pgs_etcd_options o = no_options;
	o.max_request_bytes = (size_t)16 << 20;
	o.max_txn_ops = 1000;
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "beyond", &o);
	char *bytes = filled((size_t)4 << 20);
	static const size_t sizes[] = {1572864, (size_t)2 << 20, (size_t)4 << 20};
	for (size_t i = 0; i < 3; i++) {
		pgs_kv_op put = {.kind = PGS_KV_PUT, .key = {"k", 1}, .value = {bytes, sizes[i]}};
		assert_int_equal(status_of(kv, &put, 1), PGS_ELIMIT);
	}
	pgs_kv_op ops[129];
	char keys[129][8];
	for (size_t i = 0; i < 129; i++) {
		snprintf(keys[i], sizeof keys[i], "%zu", i);
		ops[i] = op_put(keys[i], "");
	}
	assert_int_equal(status_of(kv, ops, 129), PGS_ELIMIT);
	assert_int_equal(kv_count(kv), 0);
	free(bytes);
	kv->vtable->close(kv);
}

static void test_limits__larger_ones_can_be_used(void **state)
{
	(void)state;
	etcd_server *etcd = etcd_start(&(etcd_setup){.max_txn_ops = 1000, .max_request_bytes = (size_t)8 << 20});
	pgs_etcd_options o = no_options;
	o.max_request_bytes = (size_t)8 << 20;
	o.max_txn_ops = 1000;
	o.answer_timeout_ms = o.timeout_ms = 120000;
	assert_non_null(etcd);
	pgs_kv *kv = open_ok(etcd_endpoint(etcd, 0), "large", &o);
	expect_limit_holds(kv);
	kv->vtable->close(kv);
	etcd_stop(etcd);
}

/* --- pages ----------------------------------------------------------------------------------- */

static void put_many(pgs_kv *kv, unsigned count, size_t value_size)
{
	char keys[100][16], *value = filled(value_size);
	pgs_kv_op ops[100];
	for (unsigned i = 0; i < count;) {
		unsigned n = 0;
		for (; n < 100 && i < count && n * value_size < 1000000; n++, i++) {
			snprintf(keys[n], sizeof keys[n], "n%07u", i);
			ops[n] = op_put(keys[n], "");
			ops[n].value = (pgs_slice){value, value_size};
		}
		kv_apply(kv, ops, n);
	}
	free(value);
}

static void expect_range(pgs_kv *kv, const pgs_kv_result *result, unsigned first, size_t count, size_t value_size, bool more)
{
	(void)kv;
	assert_int_equal(result->count, count);
	assert_int_equal(result->more, more);
	for (size_t i = 0; i < count; i++) {
		char key[16];
		snprintf(key, sizeof key, "n%07zu", first + i);
		assert_true(slice_is(result->pairs[i].key, key));
		assert_int_equal(result->pairs[i].value.size, value_size);
	}
}

static void test_range__comes_in_pages_and_whole(void **state)
{
	(void)state;
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "pages", NULL);
	put_many(kv, 7000, 20);
	pgs_kv_op ops[5];
	for (size_t i = 0; i < 5; i++)
		ops[i] = op_range("n", "o");
	ops[1].limit = 999;
	ops[2].limit = 1001;
	ops[3].limit = 7000;
	ops[4].limit = 6999;
	ops[4].revision = kv_revision(kv) - 1; /* without the last hundred */
	pgs_kv_txn txns[] = {txn_of(ops, 5), txn_of(ops, 1), txn_of(&ops[2], 1)};
	assert_int_equal(kv->vtable->txn(kv, txns, 3, 0, NULL), PGS_OK);
	expect_range(kv, &txns[0].results[0], 0, 7000, 20, false);
	expect_range(kv, &txns[0].results[1], 0, 999, 20, true);
	expect_range(kv, &txns[0].results[2], 0, 1001, 20, true);
	expect_range(kv, &txns[0].results[3], 0, 7000, 20, false);
	expect_range(kv, &txns[0].results[4], 0, 6900, 20, false);
	expect_range(kv, &txns[1].results[0], 0, 7000, 20, false);
	expect_range(kv, &txns[2].results[0], 0, 1001, 20, true);
	kv->vtable->release(kv, txns, 3);
	pgs_kv_op wide[70];
	for (size_t i = 0; i < 70; i++) {
		wide[i] = op_range("n0005000", "o");
		wide[i].keys_only = true;
	}
	pgs_kv_txn txn = txn_of(wide, 70);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	for (size_t i = 0; i < 70; i++)
		expect_range(kv, &txn.results[i], 5000, 2000, 0, false);
	kv->vtable->release(kv, &txn, 1);
	kv->vtable->close(kv);
}

static void test_range__of_large_values(void **state)
{
	(void)state;
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "heavy", NULL);
	put_many(kv, 1500, 16384);
	pgs_kv_op op = op_range("n", "o");
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	expect_range(kv, &txn.results[0], 0, 1500, 16384, false);
	kv->vtable->release(kv, &txn, 1);
	kv->vtable->close(kv);
}

typedef struct mover {
	pgs_kv *kv;
	bool compacts;
	atomic_bool stop;
	unsigned moves;
	int status;
} mover;

/* One mark, now at the first key and now at the last. */
static void *move_mark(void *arg)
{
	mover *m = arg;
	while (!m->stop && m->status == PGS_OK) {
		const char *to = m->moves % 2 ? "n0000000!" : "n9", *from = m->moves % 2 ? "n9" : "n0000000!";
		pgs_kv_op ops[] = {op_put(to, ""), op_delete(from, NULL)};
		pgs_kv_txn txn = txn_of(ops, 2);
		m->status = run_txn(m->kv, &txn);
		if (m->compacts && m->status == PGS_OK)
			m->kv->vtable->compact(m->kv, txn.revision, 0, NULL);
		m->kv->vtable->release(m->kv, &txn, 1);
		m->moves++;
	}
	return NULL;
}

/* The pages of a range are of one revision, also when that is compacted away between them. */
static void expect_consistent(const char *root, bool compacts)
{
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), root, NULL);
	mover m = {.kv = kv, .compacts = compacts};
	pthread_t thread;
	put_many(kv, 3000, 20);
	kv_put(kv, "n0000000!", "");
	assert_int_equal(pthread_create(&thread, NULL, move_mark, &m), 0);
	unsigned wrong = 0;
	for (unsigned i = 0; i < 20; i++) {
		pgs_kv_op op = op_range("n", "o");
		pgs_kv_txn txn = txn_of(&op, 1);
		wrong += run_txn(kv, &txn) != PGS_OK || txn.results[0].count != 3001;
		kv->vtable->release(kv, &txn, 1);
	}
	m.stop = true;
	pthread_join(thread, NULL);
	assert_int_equal(wrong, 0);
	assert_int_equal(m.status, PGS_OK);
	assert_true(m.moves > 10);
	kv->vtable->close(kv);
}

static void test_range__pages_are_of_one_revision(void **state)
{
	(void)state;
	expect_consistent("consistent", false);
}

static void test_range__pages_survive_compaction(void **state)
{
	(void)state;
	expect_consistent("compacted", true);
}

/* --- history ------------------------------------------------------------------------------------ */

static void test_stat__finds_what_others_compacted(void **state)
{
	(void)state;
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "stat", NULL);
	pgs_kv *other = open_ok(etcd_endpoint(shared, 0), "other", NULL);
	pgs_kv_stat stat;
	for (unsigned round = 0; round < 3; round++) {
		uint64_t at = 0;
		for (unsigned i = 0; i < 10; i++)
			at = kv_put(kv, "a", "1");
		kv_compact(kv, at - round * 3);
		assert_int_equal(other->vtable->stat(other, &stat, 0, NULL), PGS_OK);
		assert_int_equal(stat.compacted_revision, at - round * 3);
		assert_int_equal(stat.revision, at);
		assert_true(stat.size_bytes > 1000);
		assert_int_equal(stat.quota_bytes, (uint64_t)2 << 30);
	}
	kv->vtable->close(kv);
	kv = open_ok(etcd_endpoint(shared, 0), "stat", NULL); /* one that knows nothing */
	uint64_t last = stat.compacted_revision;
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	assert_int_equal(stat.compacted_revision, last);
	kv->vtable->close(kv);
	other->vtable->close(other);
}

static void test_watch__of_a_range_without_room(void **state)
{
	(void)state;
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "empty", NULL);
	pgs_kv_watch *watch;
	pgs_kv_events events;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("b"), bytes_of("a"), 0, &watch, NULL), PGS_OK);
	kv_put(kv, "b", "1");
	assert_int_equal(kv->vtable->watch_next(watch, 50, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 0);
	kv->vtable->watch_close(watch);
	kv->vtable->close(kv);
}

/* Revisions so large that etcd cuts its messages, which may not cut a batch. */
static void test_watch__large_revisions_stay_whole(void **state)
{
	(void)state;
	enum { REVISIONS = 12, KEYS = 20 };
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "fragments", NULL);
	uint64_t first = kv_revision(kv) + 1;
	char keys[KEYS][8], *value = filled(70000);
	pgs_kv_op ops[KEYS];
	for (unsigned i = 0; i < KEYS; i++) {
		snprintf(keys[i], sizeof keys[i], "%02u", i);
		ops[i] = op_put(keys[i], "");
		ops[i].value = (pgs_slice){value, 70000};
	}
	for (unsigned i = 0; i < REVISIONS; i++)
		kv_apply(kv, ops, KEYS);
	pgs_kv_watch *watch;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("0"), PGS_KV_TO_END, first, &watch, NULL), PGS_OK);
	size_t seen = 0, batches = 0;
	while (seen < REVISIONS * KEYS) {
		pgs_kv_events events;
		assert_int_equal(kv->vtable->watch_next(watch, 10000, &events, NULL), PGS_OK);
		assert_true(events.count > 0);
		assert_int_equal(events.count % KEYS, 0);
		for (size_t i = 0; i < events.count; i++, seen++) {
			assert_int_equal(events.events[i].pair.mod_revision, first + seen / KEYS);
			assert_true(slice_is(events.events[i].pair.key, keys[seen % KEYS]));
			assert_memory_equal(events.events[i].pair.value.data, value, 70000);
		}
		batches++;
	}
	assert_true(batches > 3); /* not all at once: memory is bounded by a message and a revision */
	kv->vtable->watch_close(watch);
	free(value);
	kv->vtable->close(kv);
}

/* --- a full cluster -------------------------------------------------------------------------------- */

typedef struct filler {
	pgs_kv *kv;
	unsigned number;
	uint8_t status[2000]; /* of each key, negated; 99 = not tried */
} filler;

static void *fill_up(void *arg)
{
	filler *f = arg;
	char *value = calloc(1, 60000);
	memset(f->status, 99, sizeof f->status);
	for (unsigned i = 0, refused = 0; i < 2000 && refused < 3; i++) {
		char key[16];
		snprintf(key, sizeof key, "f%u-%04u", f->number, i);
		pgs_kv_op op = op_put(key, "");
		op.value = (pgs_slice){value, 60000};
		f->status[i] = (uint8_t)-status_of(f->kv, &op, 1);
		refused += f->status[i] == -PGS_ENOSPC;
	}
	free(value);
	return NULL;
}

/* What was acknowledged is there, what was refused is not; only "unknown" may be either. */
static unsigned check_filled(const filler *f, unsigned *full)
{
	unsigned wrong = 0;
	for (unsigned i = 0; i < 2000; i++) {
		char key[16];
		if (f->status[i] == 99)
			continue;
		snprintf(key, sizeof key, "f%u-%04u", f->number, i);
		bool there = kv_numbers(f->kv, key).version > 0;
		wrong += f->status[i] == 0 ? !there : f->status[i] != -PGS_EUNKNOWN && there;
		*full += f->status[i] == -PGS_ENOSPC;
	}
	return wrong;
}

static void lower_alarm(const etcd_server *etcd)
{
	char answer[300], request[200], who[32] = "";
	assert_int_equal(
		etcd_post(etcd, 0, "/v3/maintenance/alarm", "{\"action\":\"GET\"}", answer, sizeof answer), 200);
	const char *at = strstr(answer, "\"memberID\":\"");
	assert_true(at && sscanf(at + 12, "%31[0-9]", who) == 1);
	snprintf(request, sizeof request, "{\"action\":\"DEACTIVATE\",\"alarm\":\"NOSPACE\",\"memberID\":\"%s\"}", who);
	assert_int_equal(etcd_post(etcd, 0, "/v3/maintenance/alarm", request, answer, sizeof answer), 200);
}

static void test_quota__full_is_enospc_and_never_applied(void **state)
{
	(void)state;
	enum { FILLERS = 24 };
	etcd_server *etcd = etcd_start(&(etcd_setup){.quota_bytes = (uint64_t)8 << 20});
	assert_non_null(etcd);
	pgs_kv *kv = open_ok(etcd_endpoint(etcd, 0), "full", NULL);
	filler *fillers = calloc(FILLERS, sizeof *fillers);
	pthread_t threads[FILLERS];
	for (unsigned i = 0; i < FILLERS; i++) {
		fillers[i].kv = kv;
		fillers[i].number = i;
		assert_int_equal(pthread_create(&threads[i], NULL, fill_up, &fillers[i]), 0);
	}
	for (unsigned i = 0; i < FILLERS; i++)
		pthread_join(threads[i], NULL);
	unsigned full = 0;
	for (unsigned i = 0; i < FILLERS; i++)
		assert_int_equal(check_filled(&fillers[i], &full), 0);
	assert_true(full >= FILLERS);
	free(fillers);
	pgs__sleep_ms(1100, 0); /* believed for a second, then asked about */
	pgs_kv_op put = op_put("one more", "1");
	assert_int_equal(status_of(kv, &put, 1), PGS_ENOSPC);
	kv_expect(kv, "one more", NULL);
	pgs_kv *late = open_ok(etcd_endpoint(etcd, 0), "full", NULL); /* it was full already: a sure answer at once */
	assert_int_equal(status_of(late, &put, 1), PGS_ENOSPC);
	late->vtable->close(late);
	/* Reads, deletes and compaction go on; with room and without the alarm, so do puts. */
	uint64_t revision = kv_delete(kv, "f", "g");
	kv_compact(kv, revision - 1);
	char answer[200], compact[80];
	/* What is freed is so a while after the answer, unless that is asked to wait. */
	snprintf(compact, sizeof compact, "{\"revision\":\"%llu\",\"physical\":true}", (unsigned long long)revision);
	assert_int_equal(etcd_post(etcd, 0, "/v3/kv/compaction", compact, answer, sizeof answer), 200);
	assert_int_equal(etcd_post(etcd, 0, "/v3/maintenance/defragment", "{}", answer, sizeof answer), 200);
	lower_alarm(etcd);
	kv_put(kv, "one more", "2");
	kv->vtable->close(kv);
	etcd_stop(etcd);
}

/* --- users ------------------------------------------------------------------------------------------ */

static void post_ok(const etcd_server *etcd, const char *path, const char *body)
{
	char answer[300];
	int status = etcd_post(etcd, 0, path, body, answer, sizeof answer);
	if (status != 200)
		fail_msg("%s: %d %s", path, status, answer);
}

/* "root", and "me" who may do anything below /mine/ and no more. Passwords are hunter2. */
static void enable_users(const etcd_server *etcd)
{
	post_ok(etcd, "/v3/auth/user/add", "{\"name\":\"root\",\"password\":\"hunter2\"}");
	post_ok(etcd, "/v3/auth/role/add", "{\"name\":\"root\"}");
	post_ok(etcd, "/v3/auth/user/grant", "{\"user\":\"root\",\"role\":\"root\"}");
	post_ok(etcd, "/v3/auth/user/add", "{\"name\":\"me\",\"password\":\"hunter2\"}");
	post_ok(etcd, "/v3/auth/role/add", "{\"name\":\"mine\"}");
	/* "/mine/" to "/mine0" */
	post_ok(etcd, "/v3/auth/role/grant",
		"{\"name\":\"mine\",\"perm\":{\"permType\":\"READWRITE\",\"key\":\"L21pbmUv\",\"range_end\":\"L21pbmUw\"}}");
	post_ok(etcd, "/v3/auth/user/grant", "{\"user\":\"me\",\"role\":\"mine\"}");
	post_ok(etcd, "/v3/auth/enable", "{}");
}

static void expect_refused_users(const char *endpoint)
{
	pgs_etcd_options o = no_options;
	expect_no_open(endpoint, &o, PGS_EAUTH, "wants a user");
	o.user = "me";
	o.password = "*******";
	expect_no_open(endpoint, &o, PGS_EAUTH, "authentication failed");
	o.password = "hunter2";
	expect_no_open(endpoint, &o, PGS_EAUTH, "permission denied"); /* of another root than its own */
}

static void expect_url_users(const char *endpoint)
{
	char url[400], says[64] = "hunter2\n";
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_error err = PGS_ERROR_INIT;
	snprintf(url, sizeof url, "etcd://%s/mine?user=me&blob=dir:%s/users", endpoint, scratch_root());
	unsetenv("PAGESTORE_ETCD_PASSWORD");
	assert_int_equal(pgs__backends_open(url, &(pgs__open_how){0}, &kv, &blob, &err), PGS_EINVAL);
	setenv("PAGESTORE_ETCD_PASSWORD", "hunter2", 1);
	for (int i = 0; i < 2; i++) {
		if (pgs__backends_open(url, &(pgs__open_how){0}, &kv, &blob, &err) != PGS_OK)
			fail_msg("%s", err.message);
		kv_put(kv, "by", "url");
		kv->vtable->close(kv);
		blob->vtable->close(blob);
		setenv("PAGESTORE_ETCD_PASSWORD", "the file counts", 1);
		scratch_write(scratch_path("password"), says, strlen(says));
		snprintf(url + strlen(url), sizeof url - strlen(url), "&password_file=%s", scratch_path("password"));
	}
	unsetenv("PAGESTORE_ETCD_PASSWORD");
}

static void expect_events(pgs_kv *kv, pgs_kv_watch *watch, const char *value)
{
	pgs_kv_events events = {0};
	pgs_error err = PGS_ERROR_INIT;
	for (int i = 0; i < 600 && events.count == 0; i++) {
		int status = kv->vtable->watch_next(watch, 100, &events, &err);
		if (status != PGS_OK && status != PGS_EIO) /* that is: not now */
			fail_msg("%s", err.message);
	}
	assert_int_equal(events.count, 1);
	assert_true(slice_is(events.events[0].pair.value, value));
}

typedef struct writer {
	pgs_kv *kv;
	unsigned number;
	int status;
} writer;

static void *write_some(void *arg)
{
	writer *w = arg;
	for (unsigned i = 0; i < 20 && w->status == PGS_OK; i++) {
		char key[24];
		snprintf(key, sizeof key, "w%u-%u", w->number, i);
		pgs_kv_op op = op_put(key, "1");
		w->status = status_of(w->kv, &op, 1);
	}
	return NULL;
}

/* Tokens are forgotten: every thread finds out at once, and all go on. */
static void expect_renewal(etcd_server *etcd, pgs_kv *kv)
{
	writer writers[8];
	pthread_t threads[8];
	pgs__sleep_ms(3500, 0);
	for (unsigned i = 0; i < 8; i++) {
		writers[i] = (writer){kv, i, PGS_OK};
		assert_int_equal(pthread_create(&threads[i], NULL, write_some, &writers[i]), 0);
	}
	for (unsigned i = 0; i < 8; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(writers[i].status, PGS_OK);
	}
	assert_int_equal(kv_count(kv), 160 + 2);
	(void)etcd;
}

static void test_users__come_with_passwords_and_tokens(void **state)
{
	(void)state;
	etcd_server *etcd = etcd_start(&(etcd_setup){.token_ttl_s = 1});
	assert_non_null(etcd);
	const char *endpoint = etcd_endpoint(etcd, 0);
	pgs_etcd_options o = no_options;
	o.user = "me";
	o.password = "hunter2";
	pgs_kv *early = open_ok(endpoint, "mine", &o); /* before there are users at all */
	kv_put(early, "early", "1");
	enable_users(etcd);
	expect_refused_users(endpoint);
	expect_url_users(endpoint);
	pgs_kv *kv = open_ok(endpoint, "mine", &o);
	kv_expect(kv, "by", "url");
	kv_expect(early, "early", "1");
	pgs_kv_watch *watch;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("a"), NO_END, 0, &watch, NULL), PGS_OK);
	expect_renewal(etcd, kv);
	kv_put(kv, "a", "1");
	expect_events(kv, watch, "1");
	/* A restart forgets all tokens, and breaks the watch. */
	etcd_kill(etcd, 0);
	assert_true(etcd_restart(etcd, 0));
	kv_put(kv, "a", "2");
	expect_events(kv, watch, "2");
	kv->vtable->watch_close(watch);
	kv->vtable->close(kv);
	early->vtable->close(early);
	etcd_stop(etcd);
}

/* "guest", who may read what is below /mine/. */
static void add_guest(const etcd_server *etcd)
{
	post_ok(etcd, "/v3/auth/user/add", "{\"name\":\"guest\",\"password\":\"hunter2\"}");
	post_ok(etcd, "/v3/auth/role/add", "{\"name\":\"guest\"}");
	post_ok(etcd, "/v3/auth/role/grant",
		"{\"name\":\"guest\",\"perm\":{\"permType\":\"READ\",\"key\":\"L21pbmUv\",\"range_end\":\"L21pbmUw\"}}");
	post_ok(etcd, "/v3/auth/user/grant", "{\"user\":\"guest\",\"role\":\"guest\"}");
}

static pgs_store *open_as(const etcd_server *etcd, const char *user, bool read_only)
{
	char url[400];
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	o.read_only = read_only;
	o.kv_history = PGS_KV_HISTORY_OWNED;
	snprintf(url, sizeof url, "etcd://%s/mine?user=%s&blob=dir:%s/rights", etcd_endpoint(etcd, 0), user, scratch_root());
	if (pgs_open(&store, url, &o, &err) != PGS_OK)
		fail_msg("%s: %s", url, err.message);
	return store;
}

/* docs/operations.md says which rights are enough. */
static void test_users__need_rights_below_the_root_alone(void **state)
{
	(void)state;
	etcd_server *etcd = etcd_start(&(etcd_setup){.members = 1});
	assert_non_null(etcd);
	add_guest(etcd);
	enable_users(etcd);
	setenv("PAGESTORE_ETCD_PASSWORD", "hunter2", 1);
	pgs_store *store = open_as(etcd, "me", false);
	pgs_db *db = create_db(store, "db", NULL);
	pgs_txn *txn = begin_write(db);
	assert_int_equal(write_seed(txn, 0, 7), PGS_OK);
	commit_ok(txn);
	pgs_maintain_options all = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	all.all = true;
	all.retention_ms = PGS_RETENTION_NONE;
	expect_code(pgs_maintain(db, &all, &report, &err), PGS_OK, &err, "maintaining");
	assert_true(report.compacted_revision > 0);
	expect_code(pgs_snapshot_create(db, "kept", 4, NULL, &err), PGS_OK, &err, "a snapshot");
	expect_code(pgs_stat(db, &stat, &err), PGS_OK, &err, "statistics");
	assert_true(stat.store_kv_bytes > 0);
	pgs_store *guests = open_as(etcd, "guest", true);
	pgs_db *seen = open_db(guests, "db");
	pgs_verify_options deep = PGS_VERIFY_OPTIONS_INIT;
	deep.deep = true;
	expect_code(pgs_verify(seen, &deep, NULL, &err), PGS_OK, &err, "verifying");
	pgs_db_close(seen);
	pgs_close(guests);
	guests = open_as(etcd, "guest", false);
	assert_int_equal(pgs_db_create(&seen, guests, "more", 4, NULL, &err), PGS_EAUTH);
	pgs_close(guests);
	pgs_db_close(db);
	expect_code(pgs_db_drop(store, "db", 2, &err), PGS_OK, &err, "dropping");
	pgs_close(store);
	unsetenv("PAGESTORE_ETCD_PASSWORD");
	etcd_stop(etcd);
}

/* --- TLS ----------------------------------------------------------------------------------------------- */

static void test_tls__certificates_are_asked_for_and_shown(void **state)
{
	(void)state;
	etcd_server *etcd = etcd_start(&(etcd_setup){.tls = true, .client_tls = true});
	assert_non_null(etcd);
	const char *endpoint = etcd_endpoint(etcd, 0);
	pgs_etcd_options o = no_options;
	expect_no_open(endpoint, &o, PGS_EIO, "tls=1");
	o.tls = true;
	expect_no_open(endpoint, &o, PGS_EIO, "https://"); /* nobody this machine trusts */
	o.ca_file = etcd_certificate(etcd, "other-ca.pem");
	expect_no_open(endpoint, &o, PGS_EIO, "https://");
	o.ca_file = etcd_certificate(etcd, "ca.pem");
	expect_no_open(endpoint, &o, PGS_EIO, "https://"); /* it wants to see a certificate, too */
	o.cert_file = etcd_certificate(etcd, "client.pem");
	o.key_file = etcd_certificate(etcd, "client-key.pem");
	o.tls = false; /* the files say so */
	pgs_kv *kv = open_ok(endpoint, "tls", &o);
	kv_put(kv, "a", "1");
	pgs_kv_watch *watch;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("a"), NO_END, 0, &watch, NULL), PGS_OK);
	kv_put(kv, "a", "2");
	expect_events(kv, watch, "2");
	kv->vtable->watch_close(watch);
	expect_limit_holds(kv);
	kv->vtable->close(kv);
	etcd_stop(etcd);
}

/* --- operations -------------------------------------------------------------------------- */

static pgs_store *open_counting_store(const char *root)
{
	char url[400];
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	snprintf(url, sizeof url, "etcd://%s/%s?blob=dir:%s/%s", etcd_endpoint(shared, 0), root, scratch_root(), root);
	if (pgs_open(&store, url, NULL, &err) != PGS_OK)
		fail_msg("%s: %s", url, err.message);
	return store;
}

static void test_operations__a_store_that_is_idle_asks_nothing(void **state)
{
	(void)state;
	pgs_store *store = open_counting_store("idle");
	pgs_db *db = create_db(store, "db", NULL);
	pgs_txn *txn = begin_write(db);
	assert_int_equal(write_seed(txn, 0, 7), PGS_OK);
	commit_ok(txn);
	pgs_kv *kv = open_ok(etcd_endpoint(shared, 0), "idle", NULL);
	pgs_kv_watch *watch;
	pgs_kv_events events;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("n/"), PGS_KV_TO_END, 0, &watch, NULL), PGS_OK);
	assert_int_equal(kv->vtable->watch_next(watch, 100, &events, NULL), PGS_OK);
	operation_list before = store_operations(store), watching = kv_operations(kv);
	assert_int_equal(operation_since(&watching, NULL, "watch").requests, 1);
	assert_int_equal(kv->vtable->watch_next(watch, 5000, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 0);
	operation_list after = store_operations(store), watched = kv_operations(kv);
	assert_int_equal(all_requests(&after), all_requests(&before));
	assert_int_equal(all_requests(&watched), all_requests(&watching));
	kv->vtable->watch_close(watch);
	kv->vtable->close(kv);
	pgs_db_close(db);
	pgs_close(store);
}

/* What is measured is what happened: a server's bytes and milliseconds, and the endpoint that was down. */
static void test_operations__count_what_went_over_the_wire(void **state)
{
	(void)state;
	char both[80];
	snprintf(both, sizeof both, "127.0.0.1:%u,%s", etcd_free_port(), etcd_endpoint(shared, 0));
	pgs_kv *kv = open_ok(both, "wire", NULL);
	operation_list before = kv_operations(kv);
	pgs_operation_stat read = operation_since(&before, NULL, "read");
	assert_int_equal(read.requests, 2); /* who are you? the first has nobody to answer it */
	assert_int_equal(read.failures, 1);
	assert_int_equal(read.retries, 1);
	kv_put(kv, "a", "some 30 bytes, and a bit more");
	operation_list now = kv_operations(kv);
	pgs_operation_stat put = operation_since(&now, &before, "txn");
	assert_int_equal(put.requests, 1);
	assert_true(put.bytes_sent > 60 && put.bytes_sent < 600);
	assert_true(put.bytes_received > 60 && put.bytes_received < 600);
	assert_true(put.p50_us > 50 && put.p50_us <= put.max_us);
	pgs_kv_watch *watch;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("a"), NO_END, 0, &watch, NULL), PGS_OK);
	kv_put(kv, "a", "2");
	expect_events(kv, watch, "2");
	kv->vtable->watch_close(watch);
	operation_list then = kv_operations(kv);
	pgs_operation_stat watched = operation_since(&then, &now, "watch");
	assert_int_equal(watched.requests, 1);
	assert_true(watched.bytes_sent > 20 && watched.bytes_received > 100 && watched.p50_us > 0);
	kv->vtable->close(kv);
}

static int start_shared(void **state)
{
	shared = etcd_start(&(etcd_setup){.members = 1});
	return shared ? scratch_set_up(state) : -1;
}

static int stop_shared(void **state)
{
	etcd_stop(shared);
	return scratch_tear_down(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_base64__encodes_two_as_one),
		cmocka_unit_test(test_base64__refuses_what_is_none),
		cmocka_unit_test(test_open__says_what_is_wrong_with_the_endpoints),
		cmocka_unit_test(test_open__says_what_is_wrong_with_the_options),
		cmocka_unit_test(test_open__a_server_that_is_down),
		cmocka_unit_test(test_open__something_that_is_no_etcd),
		cmocka_unit_test(test_open__tls_on_one_side_only),
		cmocka_unit_test(test_url__opens_both_halves),
		cmocka_unit_test(test_url__a_whole_store_works),
		cmocka_unit_test(test_kv__read_only_changes_nothing),
		cmocka_unit_test(test_kv__roots_do_not_meet),
		cmocka_unit_test(test_limits__the_server_takes_what_they_promise),
		cmocka_unit_test(test_limits__the_servers_own_are_told),
		cmocka_unit_test(test_limits__larger_ones_can_be_used),
		cmocka_unit_test(test_range__comes_in_pages_and_whole),
		cmocka_unit_test(test_range__of_large_values),
		cmocka_unit_test(test_range__pages_are_of_one_revision),
		cmocka_unit_test(test_range__pages_survive_compaction),
		cmocka_unit_test(test_stat__finds_what_others_compacted),
		cmocka_unit_test(test_watch__of_a_range_without_room),
		cmocka_unit_test(test_watch__large_revisions_stay_whole),
		cmocka_unit_test(test_quota__full_is_enospc_and_never_applied),
		cmocka_unit_test(test_users__come_with_passwords_and_tokens),
		cmocka_unit_test(test_users__need_rights_below_the_root_alone),
		cmocka_unit_test(test_tls__certificates_are_asked_for_and_shown),
		cmocka_unit_test(test_operations__a_store_that_is_idle_asks_nothing),
		cmocka_unit_test(test_operations__count_what_went_over_the_wire),
	};
	if (!etcd_available())
		return 77;
	return cmocka_run_group_tests(tests, start_shared, stop_shared);
}
