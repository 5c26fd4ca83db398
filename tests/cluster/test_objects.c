/* An object store that answers 500 and 503, slowly, short, with flipped bits, or has lost an object: while a store reads,
 * commits large data and does maintenance. What passes is waited out; nothing is registered that is not there; damage is
 * named; orphans are swept. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define TIMEOUT_MS 20000 /* what works does so within it, also on a loaded machine */
#define SHORT_MS 2000    /* for what is to fail */
#define PAGES 400        /* of a large commit: 1.6 MiB, a sorted file */
#define FILES_MAX 64

static etcd_server *etcd;
static s3_server *s3;

typedef struct fixture {
	char root[16];
	pgs_store *store;
	pgs_db *db;
	pgs_blob *direct; /* the bucket, without faults of ours: used when there are none */
	size_t file_count;
	char files[FILES_MAX][256];
} fixture;

static uint64_t first_seed(uint64_t page_no)
{
	return (page_no + 1) << 8;
}

static uint64_t second_seed(uint64_t page_no)
{
	return (page_no + 7001) << 8;
}

static int set_up(void **state)
{
	static unsigned number;
	fixture *f = calloc(1, sizeof *f);
	char url[SERVER_URL_SIZE];
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	snprintf(f->root, sizeof f->root, "objects-%u", number++);
	server_store_url(url, etcd_endpoints(etcd), f->root, s3_endpoint(s3), "");
	f->store = server_store_open(url, TIMEOUT_MS);
	f->direct = s3_blob(s3, f->root, NULL);
	options.page_size_bytes = TEST_PAGE_SIZE;
	options.cache_bytes = 64 * TEST_PAGE_SIZE;
	expect_code(pgs_db_create(&f->db, f->store, "db", 2, &options, &err), PGS_OK, &err, "pgs_db_create");
	write_pages(f->db, 0, PAGES, first_seed);
	*state = f;
	return f->direct ? 0 : -1;
}

static int tear_down(void **state)
{
	fixture *f = *state;
	s3_heal(s3);
	pgs_db_close(f->db);
	pgs_close(f->store);
	f->direct->vtable->close(f->direct);
	free(f);
	return 0;
}

/* --- what a store does -------------------------------------------------------------------- */

static int read_all(fixture *f, uint64_t (*seed)(uint64_t), uint32_t timeout_ms, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.timeout_ms = timeout_ms;
	expect_code(pgs_begin(&txn, f->db, &options, err), PGS_OK, err, "pgs_begin");
	int result = PGS_OK;
	for (uint64_t i = 0; i < PAGES && result == PGS_OK; i++) {
		timed t = timed_begin("pgs_read", timeout_ms);
		result = read_seed(txn, i, seed(i));
		timed_end(&t);
	}
	if (result != PGS_OK)
		*err = *pgs_txn_error(txn);
	pgs_abort(txn);
	return result;
}

static void expect_all(fixture *f, uint64_t (*seed)(uint64_t))
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(read_all(f, seed, TIMEOUT_MS, &err), PGS_OK, &err, "reading");
}

static int commit_all(fixture *f, uint64_t (*seed)(uint64_t), uint32_t timeout_ms, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.write = true;
	options.timeout_ms = timeout_ms;
	expect_code(pgs_begin(&txn, f->db, &options, err), PGS_OK, err, "pgs_begin");
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(write_seed(txn, i, seed(i)), PGS_OK);
	timed t = timed_begin("pgs_commit", timeout_ms);
	int result = pgs_commit(txn, NULL, NULL, err);
	timed_end(&t);
	return result;
}

/* All that can be done, and no history kept. */
static int maintain_all(fixture *f, pgs_maintain_report *report, pgs_error *err)
{
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	options.all = true;
	options.retention_ms = PGS_RETENTION_NONE;
	return pgs_maintain(f->db, &options, report, err);
}

static int take_file(void *ctx, const pgs_file_info *info)
{
	fixture *f = ctx;
	assert_true(f->file_count < FILES_MAX);
	snprintf(f->files[f->file_count++], sizeof f->files[0], "%s", info->name);
	return 0;
}

/* The registered files, in the order lookups go. */
static void list_files(fixture *f)
{
	pgs_error err = PGS_ERROR_INIT;
	f->file_count = 0;
	expect_code(pgs_levels(f->db, false, take_file, f, &err), PGS_OK, &err, "pgs_levels");
}

static int count_blob(void *ctx, const char *name, uint64_t size)
{
	(void)size;
	*(size_t *)ctx += strcmp(name, "identity") != 0;
	return 0;
}

static size_t count_blobs(fixture *f)
{
	size_t count = 0;
	assert_int_equal(f->direct->vtable->list(f->direct, "", count_blob, &count, 0, NULL), PGS_OK);
	return count;
}

/* Every registered file is there, and nothing is damaged. */
static void expect_whole(fixture *f)
{
	pgs_verify_options options = PGS_VERIFY_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.deep = true;
	expect_code(pgs_verify(f->db, &options, NULL, &err), PGS_OK, &err, "pgs_verify");
	list_files(f);
	for (size_t i = 0; i < f->file_count; i++) {
		uint64_t size;
		assert_int_equal(f->direct->vtable->stat(f->direct, f->files[i], &size, 0, NULL), PGS_OK);
	}
}

static void fail_all(const char *method, unsigned status, const char *code, unsigned times)
{
	s3_set_fault(s3, &(s3_fault){.kind = "error", .method = method, .part = "objects-", .status = status, .code = code,
		.times = times});
}

/* --- errors -------------------------------------------------------------------------------------- */

/* A few are waited out. */
static void test_errors__that_pass_are_not_noticed(void **state)
{
	fixture *f = *state;
	static const struct {
		unsigned status;
		const char *code;
	} errors[] = {{500, "InternalError"}, {503, "SlowDown"}, {503, "ServiceUnavailable"}};
	pgs_error err = PGS_ERROR_INIT;
	for (size_t i = 0; i < 3; i++) {
		fail_all(NULL, errors[i].status, errors[i].code, 3);
		expect_all(f, i % 2 ? second_seed : first_seed);
		assert_int_equal(s3_heal(s3), 3);
		fail_all("PUT", errors[i].status, errors[i].code, 3);
		expect_code(commit_all(f, i % 2 ? first_seed : second_seed, TIMEOUT_MS, &err), PGS_OK, &err, "a commit");
		assert_int_equal(s3_heal(s3), 3);
		fail_all(NULL, errors[i].status, errors[i].code, 4);
		expect_code(maintain_all(f, NULL, &err), PGS_OK, &err, "pgs_maintain");
		assert_int_equal(s3_heal(s3), 4);
	}
	expect_all(f, second_seed);
	expect_whole(f);
}

static void expect_trouble(int result, const pgs_error *err, const char *what, const char *operation)
{
	if (result != PGS_EIO && result != PGS_ETIMEOUT)
		fail_msg("%s: %s %s", what, pgs_error_name(result), err->message);
	expect_words(err, operation, s3_endpoint(s3), S3_TEST_BUCKET, NULL);
}

static void test_errors__that_stay_are_told_and_leave_nothing(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	list_files(f);
	size_t files = f->file_count;
	fail_all("GET", 503, "SlowDown", 0);
	expect_trouble(read_all(f, first_seed, SHORT_MS, &err), &err, "a read", "cannot get");
	s3_heal(s3);
	expect_all(f, first_seed);
	fail_all("PUT", 500, "InternalError", 0);
	expect_trouble(commit_all(f, second_seed, SHORT_MS, &err), &err, "a commit", "cannot put");
	list_files(f);
	assert_int_equal(f->file_count, files);
	s3_heal(s3);
	expect_all(f, first_seed);
	expect_whole(f);
	/* More files, so that there is something to merge; but what merging writes cannot be put. */
	for (int i = 0; i < 4; i++)
		expect_code(commit_all(f, i % 2 ? first_seed : second_seed, TIMEOUT_MS, &err), PGS_OK, &err, "a commit");
	list_files(f);
	files = f->file_count;
	fail_all("PUT", 400, "InvalidRequest", 0); /* one that is not tried again: the test need not wait */
	expect_trouble(maintain_all(f, &report, &err), &err, "pgs_maintain", "cannot put");
	assert_int_equal(report.merges, 0);
	list_files(f);
	assert_int_equal(f->file_count, files);
	s3_heal(s3);
	expect_all(f, first_seed);
	expect_code(maintain_all(f, &report, &err), PGS_OK, &err, "pgs_maintain");
	expect_all(f, first_seed);
	expect_whole(f);
}

/* A commit that fails after its file is in S3, and cannot remove it either: the collector does. */
static void test_orphans__are_swept_later(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_txn *loser = begin_write(f->db);
	uint8_t page[TEST_PAGE_SIZE];
	for (uint64_t i = 0; i < PAGES; i++) {
		assert_int_equal(pgs_read(loser, i, page), PGS_OK);
		assert_int_equal(write_seed(loser, i, second_seed(i)), PGS_OK);
	}
	pgs_txn *winner = begin_write(f->db);
	assert_int_equal(write_seed(winner, 0, first_seed(0) + 1), PGS_OK);
	commit_ok(winner);
	size_t before = count_blobs(f);
	fail_all("DELETE", 403, "AccessDenied", 0);
	assert_int_equal(pgs_commit(loser, NULL, NULL, &err), PGS_ECONFLICT);
	assert_true(s3_heal(s3) > 0);
	assert_int_equal(count_blobs(f), before + 1);
	winner = begin_write(f->db);
	assert_int_equal(write_seed(winner, 0, first_seed(0)), PGS_OK);
	commit_ok(winner);
	for (int i = 0; i < 2; i++) /* the floor passes what it was begun at */
		expect_code(maintain_all(f, &report, &err), PGS_OK, &err, "pgs_maintain");
	expect_all(f, first_seed);
	expect_whole(f);
	assert_int_equal(count_blobs(f), f->file_count);
}

/* --- time ---------------------------------------------------------------------------------------- */

static void test_slowness__within_the_deadline_is_fine(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	s3_set_fault(s3, &(s3_fault){.kind = "slow", .part = "objects-", .ms = 300});
	expect_all(f, first_seed);
	expect_code(commit_all(f, second_seed, TIMEOUT_MS, &err), PGS_OK, &err, "a commit");
	assert_true(s3_heal(s3) > 1);
	expect_all(f, second_seed);
}

static void test_slowness__past_the_deadline_is_a_timeout(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	s3_set_fault(s3, &(s3_fault){.kind = "slow", .part = "objects-", .ms = 30000});
	expect_code(read_all(f, first_seed, SHORT_MS, &err), PGS_ETIMEOUT, &err, "a read");
	expect_words(&err, "cannot get", s3_endpoint(s3), "deadline", NULL);
	expect_code(commit_all(f, second_seed, SHORT_MS, &err), PGS_ETIMEOUT, &err, "a commit");
	expect_words(&err, "cannot put", s3_endpoint(s3), "deadline", NULL);
	s3_heal(s3);
	expect_all(f, first_seed);
	expect_whole(f);
}

/* --- bodies ------------------------------------------------------------------------------------------ */

static void test_bodies__that_are_short_are_asked_for_again(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	s3_set_fault(s3, &(s3_fault){.kind = "short", .method = "GET", .part = "objects-", .times = 3});
	expect_all(f, first_seed);
	assert_int_equal(s3_heal(s3), 3);
	s3_set_fault(s3, &(s3_fault){.kind = "short", .method = "GET", .part = "objects-"});
	expect_trouble(read_all(f, first_seed, SHORT_MS, &err), &err, "a read", "cannot get");
	s3_heal(s3);
	expect_all(f, first_seed);
}

/* Each content is hashed: one that comes damaged is an error with the object's name, and no page is a wrong one. */
static void test_bodies__with_a_flipped_bit_are_damage(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	list_files(f);
	assert_int_equal(f->file_count, 1);
	s3_set_fault(s3, &(s3_fault){.kind = "flip", .method = "GET", .part = f->files[0]});
	expect_code(read_all(f, first_seed, TIMEOUT_MS, &err), PGS_ECORRUPT, &err, "a read");
	expect_words(&err, f->files[0], "page", NULL);
	int verified = pgs_verify(f->db, NULL, NULL, &err);
	expect_code(verified, PGS_ECORRUPT, &err, "pgs_verify");
	assert_true(s3_heal(s3) > 0);
	expect_all(f, first_seed);
	expect_code(maintain_all(f, &report, &err), PGS_OK, &err, "pgs_maintain");
	expect_whole(f);
}

/* The same contents in two files: the other one is taken. */
static void test_bodies__with_a_flipped_bit_have_other_copies(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(commit_all(f, second_seed, TIMEOUT_MS, &err), PGS_OK, &err, "a commit");
	expect_code(commit_all(f, first_seed, TIMEOUT_MS, &err), PGS_OK, &err, "a commit"); /* once more */
	list_files(f);
	assert_int_equal(f->file_count, 3);
	unsigned struck = 0;
	for (size_t i = 0; i < f->file_count; i++) {
		s3_set_fault(s3, &(s3_fault){.kind = "flip", .method = "GET", .part = f->files[i]});
		expect_all(f, first_seed);
		struck += s3_heal(s3) > 0;
	}
	assert_true(struck > 0);
}

/* --- an object that is gone -------------------------------------------------------------------------- */

typedef struct object {
	uint8_t *data;
	uint64_t size;
} object;

static int read_object(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	memcpy(buffer, ((object *)ctx)->data + offset, size);
	return PGS_OK;
}

static object take_away(fixture *f, const char *name)
{
	object o;
	pgs_blob *b = f->direct;
	assert_int_equal(b->vtable->stat(b, name, &o.size, 0, NULL), PGS_OK);
	o.data = malloc(o.size);
	pgs_blob_range range = {.name = name, .size = o.size, .buffer = o.data};
	assert_int_equal(b->vtable->get(b, &range, 1, 0, NULL), PGS_OK);
	assert_int_equal(b->vtable->remove(b, name, 0, NULL), PGS_OK);
	return o;
}

static void test_objects__that_are_gone_are_named(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	expect_code(commit_all(f, second_seed, TIMEOUT_MS, &err), PGS_OK, &err, "a commit");
	write_pages(f->db, 10000, PAGES, first_seed); /* another file */
	list_files(f);
	char name[256];
	assert_int_equal(f->file_count, 3);
	pgs_txn *txn;
	object o = {NULL, 0};
	int result = PGS_OK;
	for (size_t i = 0; i < 3 && result == PGS_OK; i++) { /* that of the pages which are read */
		snprintf(name, sizeof name, "%s", f->files[i]);
		if (o.data)
			assert_int_equal(f->direct->vtable->put(f->direct, f->files[i - 1], o.size, read_object, &o, 0, NULL), PGS_OK);
		free(o.data);
		o = take_away(f, name);
		result = read_all(f, second_seed, TIMEOUT_MS, &err);
	}
	expect_code(result, PGS_ECORRUPT, &err, "a read");
	expect_words(&err, name, NULL);
	expect_code(maintain_all(f, &report, &err), PGS_ECORRUPT, &err, "pgs_maintain");
	expect_words(&err, name, NULL);
	expect_code(pgs_verify(f->db, NULL, NULL, &err), PGS_ECORRUPT, &err, "pgs_verify");
	expect_code(pgs_begin(&txn, f->db, NULL, &err), PGS_OK, &err, "pgs_begin");
	for (uint64_t i = 0; i < PAGES; i++) /* others are not concerned */
		assert_int_equal(read_seed(txn, 10000 + i, first_seed(10000 + i)), PGS_OK);
	pgs_abort(txn);
	assert_int_equal(f->direct->vtable->put(f->direct, name, o.size, read_object, &o, 0, NULL), PGS_OK);
	free(o.data);
	expect_all(f, second_seed);
	expect_code(maintain_all(f, &report, &err), PGS_OK, &err, "pgs_maintain");
	expect_all(f, second_seed);
	expect_whole(f);
}

/* --- main -------------------------------------------------------------------------------------------------- */

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

#define OBJECT_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OBJECT_TEST(test_errors__that_pass_are_not_noticed),
		OBJECT_TEST(test_errors__that_stay_are_told_and_leave_nothing),
		OBJECT_TEST(test_orphans__are_swept_later),
		OBJECT_TEST(test_slowness__within_the_deadline_is_fine),
		OBJECT_TEST(test_slowness__past_the_deadline_is_a_timeout),
		OBJECT_TEST(test_bodies__that_are_short_are_asked_for_again),
		OBJECT_TEST(test_bodies__with_a_flipped_bit_are_damage),
		OBJECT_TEST(test_bodies__with_a_flipped_bit_have_other_copies),
		OBJECT_TEST(test_objects__that_are_gone_are_named),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
