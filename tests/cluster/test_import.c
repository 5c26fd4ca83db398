/* One commit of many pages on a stock etcd and S3: nobody sees a part of it, whatever happens, and it leaves little in
 * etcd. The file is 48 MiB, and the limits such that it takes the way of a large one: spilling, an index file for the
 * pointers, many folding steps. With PGS_TEST_LONG it is 1 GiB, and the limits are etcd's own. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define MIB ((uint64_t)1 << 20)
#define OLD_PAGES 16    /* what is there before the import, */
#define OLD 1           /* and its version: pages, and the attribute "version", say which they are of */
#define NEW 2
#define CACHE_BYTES (8 * MIB)
#define REVISIONS_MAX 4096
#define SETTLE_MS 10000 /* for etcd to free what was compacted */

typedef struct cluster {
	etcd_server *etcd;
	s3_server *s3;
	char url[400];
	uint32_t page_size;
	uint64_t pages;
	uint64_t buffer;
} cluster;

static bool is_long(void)
{
	return getenv("PGS_TEST_LONG") != NULL;
}

/* --- pages ---------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Bytes of which three pages of eight do not compress, three do by half, one is mostly zeros, and one is all zeros. */
static void make_page(uint8_t *page, uint32_t size, uint64_t page_no, uint64_t version)
{
	uint64_t state = (page_no + 1) * 0x9e3779b97f4a7c15u + version;
	unsigned kind = page_no % 8;
	memset(page, 0, size);
	for (uint32_t at = 0; kind < 7 && at < (kind == 6 ? 64 : size); at += 8) {
		uint64_t bytes = next_random(&state);
		if (kind >= 3)
			bytes &= 0x0f0f0f0f0f0f0f0fu;
		memcpy(page + at, &bytes, 8);
	}
}

/* Whether the page is of that version: one of OLD or NEW. */
static bool is_page(const uint8_t *page, uint32_t size, uint64_t page_no, uint64_t version)
{
	uint8_t *expected = malloc(size);
	make_page(expected, size, page_no, version);
	bool same = memcmp(page, expected, size) == 0;
	free(expected);
	return same;
}

/* --- servers ----------------------------------------------------------------------------- */

static void start(cluster *c, uint32_t page_size, uint64_t bytes)
{
	*c = (cluster){.page_size = page_size, .pages = bytes / page_size};
	c->buffer = is_long() ? 64 * MIB : 4 * MIB;
	c->etcd = etcd_start(&(etcd_setup){.members = 1});
	c->s3 = s3_start(false);
	assert_non_null(c->etcd);
	assert_non_null(c->s3);
	snprintf(c->url, sizeof c->url, "etcd://%s/import?blob=s3://%s/blobs?endpoint=%s%s", etcd_endpoints(c->etcd),
		 S3_TEST_BUCKET, s3_endpoint(c->s3), is_long() ? "" : "&max_request_bytes=256K");
	setenv("AWS_ACCESS_KEY_ID", S3_TEST_ID, 1);
	setenv("AWS_SECRET_ACCESS_KEY", S3_TEST_SECRET, 1);
}

static void stop(cluster *c)
{
	s3_stop(c->s3);
	etcd_stop(c->etcd);
}

static pgs_db *open_cluster(const cluster *c, pgs_store **store)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	so.kv_history = PGS_KV_HISTORY_OWNED;
	o.page_size_bytes = c->page_size;
	o.cache_bytes = CACHE_BYTES;
	o.write_buffer_bytes = c->buffer;
	expect_code(pgs_open(store, c->url, &so, &err), PGS_OK, &err, c->url);
	int result = pgs_db_open(&db, *store, "db", 2, &o, &err);
	if (result == PGS_ENOTFOUND)
		result = pgs_db_create(&db, *store, "db", 2, &o, &err);
	expect_code(result, PGS_OK, &err, "opening the database");
	return db;
}

/* Keys of the store, and bytes in use in etcd. */
static uint64_t count_keys(const cluster *c)
{
	pgs_kv *kv = etcd_kv(c->etcd, "import", NULL);
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = {"\0", 1}, .range_end = {"\xff", 1}, .count_only = true};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_non_null(kv);
	assert_int_equal(kv->vtable->txn(kv, &txn, 1, 0, NULL), PGS_OK);
	uint64_t count = txn.results[0].total;
	kv->vtable->release(kv, &txn, 1);
	kv->vtable->close(kv);
	return count;
}

static uint64_t bytes_in_use(const cluster *c)
{
	pgs_kv *kv = etcd_kv(c->etcd, "import", NULL);
	pgs_kv_stat stat = {0};
	assert_non_null(kv);
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	kv->vtable->close(kv);
	return stat.used_bytes;
}

/* --- importing ------------------------------------------------------------------------------ */

static int write_version(const cluster *c, pgs_txn *t, uint64_t pages, uint64_t version, int progress)
{
	uint8_t *page = malloc(c->page_size);
	int result = pgs_attr_set(t, "version", 7, &version, sizeof version);
	for (uint64_t i = 0; result == PGS_OK && i < pages; i++) {
		make_page(page, c->page_size, i, version);
		result = pgs_write(t, i, page);
		if (progress >= 0 && i % (pages / 16) == 0 && write(progress, "p", 1) != 1)
			result = PGS_EIO;
	}
	free(page);
	if (result != PGS_OK)
		fprintf(stderr, "import: %s\n", pgs_txn_error(t)->message);
	return result;
}

/* The importing process: tells how far it is through `progress`, ends with the commit's result. */
static void import_and_exit(const cluster *c, int progress)
{
	pgs_store *store;
	pgs_db *db = open_cluster(c, &store);
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t = begin_write(db);
	int result = write_version(c, t, c->pages, NEW, progress);
	if (progress >= 0 && write(progress, "c", 1) != 1)
		_exit(1);
	if (result == PGS_OK)
		result = pgs_commit(t, NULL, NULL, &err);
	if (result != PGS_OK)
		fprintf(stderr, "import: %s: %s\n", pgs_error_name(result), err.message);
	_exit(result == PGS_OK ? 0 : 1);
}

static pid_t start_import(const cluster *c, int progress)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		import_and_exit(c, progress);
	assert_true(pid > 0);
	return pid;
}

static void put_old(const cluster *c)
{
	pgs_store *store;
	pgs_db *db = open_cluster(c, &store);
	pgs_txn *t = begin_write(db);
	assert_int_equal(write_version(c, t, OLD_PAGES, OLD, -1), PGS_OK);
	commit_ok(t);
	pgs_db_close(db);
	pgs_close(store);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* One look at a revision (0 = the latest): all of one version. Returns it, or 0 with a message. */
static uint64_t look(const cluster *c, pgs_db *db, uint64_t at, uint64_t *random, uint64_t *revision)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	uint8_t *page = malloc(c->page_size);
	uint64_t version = 0, count = 0, bad = UINT64_MAX;
	size_t size;
	o.at_revision = at;
	int result = pgs_begin(&t, db, &o, &err);
	if (result == PGS_OK) {
		*revision = pgs_txn_revision(t);
		result = pgs_attr_get(t, "version", 7, &version, sizeof version, &size);
		if (result == PGS_OK)
			result = pgs_page_count(t, &count);
		for (int i = 0; result == PGS_OK && bad == UINT64_MAX && i < 8; i++) {
			uint64_t page_no = i < 2 ? (uint64_t)i : next_random(random) % count;
			result = pgs_read(t, page_no, page);
			if (result == PGS_OK && !is_page(page, c->page_size, page_no, version))
				bad = page_no;
		}
		if (result != PGS_OK)
			err = *pgs_txn_error(t);
		pgs_abort(t);
	}
	free(page);
	bool good = result == PGS_OK && bad == UINT64_MAX && count == (version == OLD ? OLD_PAGES : c->pages);
	if (!good)
		fprintf(stderr, "revision %llu: version %llu, %llu pages, page %lld is not of it; %s\n",
			(unsigned long long)*revision, (unsigned long long)version, (unsigned long long)count,
			(long long)bad, err.message);
	return good ? version : 0;
}

typedef struct reader {
	const cluster *c;
	_Atomic bool stop; /* the import has ended */
	bool failed;
	unsigned seen[3]; /* how often which version */
	uint64_t revisions[REVISIONS_MAX], versions[REVISIONS_MAX];
	size_t count; /* of looks that are noted */
} reader;

static void *read_on(void *ctx)
{
	reader *r = ctx;
	pgs_store *store;
	pgs_db *db = open_cluster(r->c, &store);
	uint64_t random = 88172645463325252u;
	for (bool last = false; !r->failed && !last;) {
		last = r->stop; /* what is seen from here on is what it left */
		uint64_t revision, version = look(r->c, db, 0, &random, &revision);
		r->failed = version == 0 || (version == OLD && r->seen[NEW]);
		r->seen[version]++;
		if (r->count < REVISIONS_MAX) {
			r->revisions[r->count] = revision;
			r->versions[r->count++] = version;
		}
		pgs__sleep_ms(5, 0);
	}
	for (size_t i = 0; !r->failed && i < r->count; i += 1 + r->count / 100) { /* and as of then */
		uint64_t revision;
		r->failed = look(r->c, db, r->revisions[i], &random, &revision) != r->versions[i];
	}
	pgs_db_close(db);
	pgs_close(store);
	return NULL;
}

static void check_all(const cluster *c)
{
	enum { BATCH = 64 };
	pgs_store *store;
	pgs_db *db = open_cluster(c, &store);
	pgs_txn *t;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t *pages = malloc((size_t)BATCH * c->page_size);
	uint64_t numbers[BATCH];
	void *into[BATCH];
	expect_code(pgs_begin(&t, db, NULL, &err), PGS_OK, &err, "begin");
	for (uint64_t first = 0; first < c->pages; first += BATCH) {
		size_t count = c->pages - first < BATCH ? (size_t)(c->pages - first) : BATCH;
		for (size_t i = 0; i < count; i++) {
			numbers[i] = first + i;
			into[i] = pages + i * c->page_size;
		}
		expect_code(pgs_read_many(t, numbers, count, into), PGS_OK, pgs_txn_error(t), "reading");
		for (size_t i = 0; i < count; i++)
			if (!is_page(into[i], c->page_size, numbers[i], NEW))
				fail_msg("page %llu is not what was written", (unsigned long long)numbers[i]);
	}
	pgs_abort(t);
	free(pages);
	pgs_db_close(db);
	pgs_close(store);
}

/* --- what is left ------------------------------------------------------------------------------- */

static void maintain_all(const cluster *c, pgs_maintain_report *report, pgs_db_stat *stat)
{
	pgs_store *store;
	pgs_db *db = open_cluster(c, &store);
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.all = true;
	o.retention_ms = PGS_RETENTION_NONE;
	expect_code(pgs_maintain(db, &o, report, &err), PGS_OK, &err, "maintenance");
	expect_code(pgs_stat(db, stat, &err), PGS_OK, &err, "stat");
	pgs_db_close(db);
	pgs_close(store);
}

/* Memory goes with the write buffer, and some 250 bytes a page. A sanitizer has its own. */
static void check_memory(const cluster *c, const struct rusage *used)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__has_feature)
	uint64_t most = 48 * MIB + CACHE_BYTES + 2 * c->buffer + 512 * c->pages;
	assert_in_range((uint64_t)used->ru_maxrss << 10, 1, most);
#else
	(void)c;
	(void)used;
#endif
}

static void check_small(const cluster *c, uint64_t kv_before)
{
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	uint64_t began = pgs__now_ms();
	maintain_all(c, &report, &stat);
	uint64_t took = pgs__now_ms() - began, keys, used;
	while ((keys = count_keys(c)) < c->pages && pgs__now_ms() - began < took + SETTLE_MS) {
		print_message("  etcd counts %llu keys while it compacts\n", (unsigned long long)keys); /* once, so far */
		pgs__sleep_ms(100, 0);
	}
	assert_int_equal(report.folded_packs, 1);
	assert_int_equal(report.folded_pointers, c->pages - OLD_PAGES / 8); /* zeros were there already */
	assert_true(report.compacted_revision > 0);
	assert_int_equal(stat.pack_count, 0);
	assert_int_equal(stat.kv_content_count, 0);
	assert_int_equal(stat.pointer_count, c->pages);
	assert_in_range(keys, c->pages, c->pages + 60); /* files, the log, and what every database has */
	while ((used = bytes_in_use(c)) > 160 * c->pages + 4 * MIB && pgs__now_ms() - began < took + SETTLE_MS)
		pgs__sleep_ms(100, 0);
	assert_true(used < 160 * c->pages + 4 * MIB);
	print_message("  %llu pages of %u bytes: %llu KiB in etcd after the commit; maintained in %llu ms: %llu keys, "
		      "%llu KiB in use, %.1f bytes a page\n",
		      (unsigned long long)c->pages, c->page_size, (unsigned long long)(kv_before >> 10),
		      (unsigned long long)took, (unsigned long long)keys, (unsigned long long)(used >> 10),
		      (double)used / (double)c->pages);
}

/* --- the tests ------------------------------------------------------------------------------------ */

static void import_whole(uint32_t page_size, uint64_t bytes)
{
	cluster c;
	struct rusage used;
	pthread_t thread;
	int status;
	start(&c, page_size, bytes);
	reader *r = calloc(1, sizeof *r);
	r->c = &c;
	put_old(&c);
	uint64_t keys = count_keys(&c), began = pgs__now_ms();
	pid_t pid = start_import(&c, -1); /* before there are threads */
	assert_int_equal(pthread_create(&thread, NULL, read_on, r), 0);
	assert_int_equal(wait4(pid, &status, 0, &used), pid);
	uint64_t took = pgs__now_ms() - began;
	r->stop = true;
	pthread_join(thread, NULL);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_false(r->failed);
	assert_true(r->seen[OLD] > 0 && r->seen[NEW] > 0);
	free(r);
	print_message("  imported in %llu ms, %llu MiB of memory\n", (unsigned long long)took,
		      (unsigned long long)(used.ru_maxrss >> 10));
	check_memory(&c, &used);
	/* One transaction: a pack, files, and what every commit puts. */
	assert_in_range(count_keys(&c), keys, keys + 60);
	uint64_t kv = bytes_in_use(&c);
	assert_true(kv < 4 * MIB);
	check_all(&c);
	check_small(&c, kv);
	check_all(&c);
	stop(&c);
}

static void test_import__is_seen_whole_or_not_at_all(void **state)
{
	(void)state;
	import_whole(4096, is_long() ? 1024 * MIB : 48 * MIB);
}

static void test_import__of_small_pages(void **state)
{
	(void)state;
	import_whole(512, is_long() ? 1024 * MIB : 8 * MIB);
}

static void test_import__of_large_pages(void **state)
{
	(void)state;
	import_whole(65536, is_long() ? 1024 * MIB : 32 * MIB);
}

/* Kill an import once `until` messages came from it, and `after_ms`. Returns whether it had committed. */
static bool kill_import(const cluster *c, int until, uint64_t after_ms)
{
	int pipes[2], status;
	char byte;
	uint64_t random = 1 + (uint64_t)until, revision;
	pgs_store *store;
	assert_int_equal(pipe(pipes), 0);
	pid_t pid = start_import(c, pipes[1]);
	close(pipes[1]);
	for (int i = 0; i < until && read(pipes[0], &byte, 1) == 1; i++)
		;
	pgs__sleep_ms(after_ms, 0);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(pipes[0]);
	pgs_db *db = open_cluster(c, &store);
	uint64_t version = look(c, db, 0, &random, &revision);
	pgs_db_close(db);
	pgs_close(store);
	assert_true(version == OLD || version == NEW);
	assert_false(version == NEW && until < 17); /* it had not come to that */
	return version == NEW;
}

/* Nothing of it is visible, and what it uploaded goes. */
static void test_import__killed_leaves_nothing(void **state)
{
	cluster c;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	(void)state;
	start(&c, 4096, is_long() ? 256 * MIB : 48 * MIB);
	put_old(&c);
	uint64_t keys = count_keys(&c);
	assert_false(kill_import(&c, 4, 0));
	assert_false(kill_import(&c, 16, 0));
	assert_int_equal(count_keys(&c), keys);
	bool committed = kill_import(&c, 17, 1);
	maintain_all(&c, &report, &stat);
	assert_true(report.removed_orphans > 0);
	assert_int_equal(stat.blob_count, stat.file_count); /* nothing else is left */
	if (!committed)
		assert_int_equal(stat.file_count, 1); /* the old pages, moved out of the KV */
	assert_int_equal(s3_open_uploads(c.s3), 0);
	assert_int_equal(stat.pin_count, 0);
	int status;
	pid_t pid = start_import(&c, -1); /* and again, to the end */
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	check_all(&c);
	stop(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_import__is_seen_whole_or_not_at_all),
		cmocka_unit_test(test_import__of_small_pages),
		cmocka_unit_test(test_import__of_large_pages),
		cmocka_unit_test(test_import__killed_leaves_nothing),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
