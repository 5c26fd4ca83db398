/* The soft quota on a real etcd with a small quota: writers are refused in time, maintenance works all the same, and
 * writing goes on once there is room. etcd itself never comes to refuse (its alarm NOSPACE). */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>
#include <pagestore/backends.h>

#include "support/etcd_server.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define MIB ((uint64_t)1 << 20)
#define WRITERS 3
#define PAGES 400          /* a writer's, written again and again: history is what fills etcd */
#define COMMITS_MAX 200000
#define GOES_ON_MS 15000

typedef struct writer {
	const char *url;
	unsigned number;
	pgs_store *store;
	pgs_db *db;
	uint64_t commits;
	int result; /* what ended it */
	char message[PGS_ERROR_MESSAGE_SIZE];
} writer;

static void open_writer(writer *w, const char *url, unsigned number)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	*w = (writer){.url = url, .number = number};
	so.kv_history = PGS_KV_HISTORY_OWNED;
	o.cache_bytes = MIB;
	expect_code(pgs_open(&w->store, url, &so, &err), PGS_OK, &err, "opening the store");
	int result = pgs_db_open(&w->db, w->store, "db", 2, &o, &err);
	if (result == PGS_ENOTFOUND)
		result = pgs_db_create(&w->db, w->store, "db", 2, &o, &err);
	expect_code(result, PGS_OK, &err, "opening the database");
}

static void close_writer(writer *w)
{
	pgs_db_close(w->db);
	pgs_close(w->store);
}

/* A few pages of its own that do not compress: 16 KiB of contents a commit. */
static int commit_some(writer *w, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	o.write = true;
	int result = pgs_begin(&t, w->db, &o, err);
	if (result != PGS_OK)
		return result;
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(write_seed(t, w->number * PAGES + (w->commits * 4 + i) % PAGES,
					    (w->commits * 4 + i + 1) * 256 * WRITERS + w->number * 256),
				 PGS_OK);
	result = pgs_commit(t, NULL, NULL, err);
	w->commits += result == PGS_OK;
	return result;
}

static void *write_on(void *ctx)
{
	writer *w = ctx;
	pgs_error err = PGS_ERROR_INIT;
	while (w->result == PGS_OK && w->commits < COMMITS_MAX)
		w->result = commit_some(w, &err);
	snprintf(w->message, sizeof w->message, "%s", err.message);
	return NULL;
}

static void write_until_refused(writer writers[WRITERS])
{
	pthread_t threads[WRITERS];
	for (int i = 0; i < WRITERS; i++) {
		writers[i].result = PGS_OK;
		assert_int_equal(pthread_create(&threads[i], NULL, write_on, &writers[i]), 0);
	}
	for (int i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < WRITERS; i++)
		if (writers[i].result != PGS_ENOSPC || !strstr(writers[i].message, "KV"))
			fail_msg("writer %d: %s: %s", i, pgs_error_name(writers[i].result), writers[i].message);
}

static void expect_no_alarm(const etcd_server *etcd)
{
	char answer[500];
	assert_int_equal(etcd_post(etcd, 0, "/v3/maintenance/alarm", "{\"action\":\"GET\"}", answer, sizeof answer), 200);
	assert_null(strstr(answer, "NOSPACE"));
}

static pgs_kv_stat stat_of(const etcd_server *etcd)
{
	pgs_kv *kv = etcd_kv(etcd, "quota", NULL);
	pgs_kv_stat stat = {0};
	assert_non_null(kv);
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	kv->vtable->close(kv);
	return stat;
}

/* etcd frees what was compacted in its own time. */
static void wait_for_room(const etcd_server *etcd, uint64_t bytes)
{
	uint64_t began = pgs__now_ms();
	while (stat_of(etcd).used_bytes > bytes && pgs__now_ms() - began < GOES_ON_MS)
		pgs__sleep_ms(50, 0);
}

static void maintain(writer *w, pgs_maintain_report *report)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.all = true;
	o.retention_ms = PGS_RETENTION_NONE;
	expect_code(pgs_maintain(w->db, &o, report, &err), PGS_OK, &err, "maintenance");
}

/* Through the handle as it is: no opening anew. */
static void expect_writing_goes_on(writer *w)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t began = pgs__now_ms();
	int result;
	do {
		result = commit_some(w, &err);
		pgs__sleep_ms(20, 0);
	} while (result == PGS_ENOSPC && pgs__now_ms() - began < GOES_ON_MS);
	expect_code(result, PGS_OK, &err, "writing when there is room");
}

static void defragment(const etcd_server *etcd)
{
	char answer[200];
	assert_int_equal(etcd_post(etcd, 0, "/v3/maintenance/defragment", "{}", answer, sizeof answer), 200);
}

static void check_db(writer *w)
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_verify(w->db, NULL, NULL, &err), PGS_OK, &err, "verify");
}

/* Writers fill it with history. Room comes from compaction, and in the end from defragmentation. */
static void run_quota(uint64_t quota)
{
	char folder[64], url[200];
	writer writers[WRITERS];
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	etcd_server *etcd = etcd_start(&(etcd_setup){.quota_bytes = quota});
	assert_non_null(etcd);
	make_folder(folder);
	snprintf(url, sizeof url, "etcd://%s/quota?blob=dir:%s&quota=%llu", etcd_endpoints(etcd), folder,
		 (unsigned long long)quota);
	for (unsigned i = 0; i < WRITERS; i++)
		open_writer(&writers[i], url, i);
	write_until_refused(writers);
	expect_no_alarm(etcd);
	pgs_kv_stat full = stat_of(etcd);
	assert_in_range(full.size_bytes, quota / 10 * 6, quota - 1);
	maintain(&writers[0], &report);
	assert_true(report.flushed_pages > 0 && report.pruned_changes > 0 && report.compacted_revision > 0);
	expect_no_alarm(etcd);
	wait_for_room(etcd, full.used_bytes / 4);
	defragment(etcd);
	pgs_kv_stat after = stat_of(etcd);
	assert_true(after.size_bytes < full.size_bytes / 4);
	for (int i = 0; i < WRITERS; i++)
		expect_writing_goes_on(&writers[i]);
	write_until_refused(writers); /* and again */
	expect_no_alarm(etcd);
	maintain(&writers[0], &report);
	check_db(&writers[0]);
	print_message("  quota %llu MiB: refused at %.1f MiB of file and %.1f in use; %.1f MiB after maintenance and "
		      "defragmentation\n",
		      (unsigned long long)(quota / MIB), (double)full.size_bytes / MIB, (double)full.used_bytes / MIB,
		      (double)after.size_bytes / MIB);
	for (int i = 0; i < WRITERS; i++)
		close_writer(&writers[i]);
	etcd_stop(etcd);
	remove_folder(folder);
}

static void test_quota__writers_are_refused_before_etcd_is_full(void **state)
{
	(void)state;
	run_quota(16 * MIB);
}

static void test_quota__of_a_larger_etcd(void **state)
{
	(void)state;
	run_quota(64 * MIB);
}

/* Compaction alone gives room back for use, if the file is not too near the quota. */
static void test_quota__compaction_is_enough_while_the_file_has_room(void **state)
{
	char folder[64], url[200];
	writer w;
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	(void)state;
	etcd_server *etcd = etcd_start(&(etcd_setup){.quota_bytes = 64 * MIB});
	assert_non_null(etcd);
	make_folder(folder);
	snprintf(url, sizeof url, "etcd://%s/quota?blob=dir:%s&quota=64M", etcd_endpoints(etcd), folder);
	open_writer(&w, url, 0);
	for (int round = 0; round < 3; round++) { /* together more than the quota */
		int result = PGS_OK;
		for (int i = 0; result == PGS_OK && i < 1200; i++)
			result = commit_some(&w, &err);
		expect_code(result, PGS_OK, &err, "writing");
		maintain(&w, &report);
		wait_for_room(etcd, 8 * MIB);
	}
	expect_no_alarm(etcd);
	assert_true(stat_of(etcd).size_bytes > 16 * MIB);
	close_writer(&w);
	etcd_stop(etcd);
	remove_folder(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quota__writers_are_refused_before_etcd_is_full),
		cmocka_unit_test(test_quota__of_a_larger_etcd),
		cmocka_unit_test(test_quota__compaction_is_enough_while_the_file_has_room),
	};
	if (!etcd_available())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
