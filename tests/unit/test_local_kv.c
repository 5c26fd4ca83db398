/* backends/local: the KV beyond the conformance suite: opening, transactions, watching. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>


#include "support/local_kv.h"
#include "support/testing.h"
#include "util/clock.h"


/* The sanitizers' own maps are beyond any limit on address space. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MAP_IS_HUGE_ANYWAY true
#endif
#endif
#ifndef MAP_IS_HUGE_ANYWAY
#define MAP_IS_HUGE_ANYWAY false
#endif

/* --- opening -------------------------------------------------------------- */

static void test_open__a_new_store_is_at_revision_1(void **state)
{
	(void)state;
	pgs_kv *kv = local_open("new");
	pgs_kv_stat stat = local_stat(kv);
	assert_int_equal(stat.revision, 1);
	assert_int_equal(stat.compacted_revision, 0);
	assert_int_equal(stat.quota_bytes, MAP_BYTES);
	assert_int_equal(local_put(kv, "a", SLICE("1")), 2);
	local_close(kv);
}

static void test_open__what_was_put_is_there_again(void **state)
{
	(void)state;
	uint8_t before[16], after[16];
	pgs_kv *kv = local_open("again");
	assert_int_equal(kv->vtable->identity(kv, before, 0, NULL), PGS_OK);
	for (int i = 0; i < 50; i++)
		local_increment(kv, "n");
	local_close(kv);
	kv = local_open("again");
	assert_int_equal(kv->vtable->identity(kv, after, 0, NULL), PGS_OK);
	assert_memory_equal(before, after, 16);
	assert_int_equal(local_get(kv, "n"), 50);
	assert_int_equal(local_get_at(kv, "n", 11, NULL), 10);
	assert_int_equal(local_stat(kv).revision, 51);
	local_close(kv);
	kv = local_open("other");
	assert_int_equal(kv->vtable->identity(kv, after, 0, NULL), PGS_OK);
	assert_memory_not_equal(before, after, 16);
	local_close(kv);
}

static void test_open__handles_of_a_process_share_the_environment(void **state)
{
	(void)state;
	pgs_kv *one = local_open("shared"), *two;
	assert_int_equal(symlink("shared", scratch_path("link")), 0);
	two = local_open_with(
		"link", (pgs_local_options){sizeof(pgs_local_options), PGS_SYNC_OFF, MAP_BYTES * 2, false, true});
	assert_int_equal(local_put(one, "a", SLICE("1")), 2);
	assert_int_equal(local_put(two, "a", SLICE("2")), 3);
	assert_int_equal(local_get(one, "a"), 2);
	assert_int_equal(local_stat(one).quota_bytes, MAP_BYTES * 2);
	local_close(one);
	assert_int_equal(local_put(two, "a", SLICE("3")), 4);
	local_close(two);
}

/* A process with little address space gets a smaller default, not an error, and no larger one later. */
static void test_open__the_default_map_fits_the_process(void **state)
{
	(void)state;
	if (MAP_IS_HUGE_ANYWAY)
		return;
	pid_t child = fork();
	if (child == 0) {
		struct rlimit limit = {(rlim_t)16 << 30, (rlim_t)16 << 30};
		pgs_local_options options = PGS_LOCAL_OPTIONS_INIT, large = PGS_LOCAL_OPTIONS_INIT;
		pgs_kv *kv, *again, *refused;
		large.map_bytes = (uint64_t)32 << 30;
		if (setrlimit(RLIMIT_AS, &limit) || pgs_kv_local_open(&kv, scratch_path("fits"), &options, NULL) ||
			pgs_kv_local_open(&again, scratch_path("fits"), &options, NULL))
			_exit(1);
		if (pgs_kv_local_open(&refused, scratch_path("fits"), &large, NULL) != PGS_ENOMEM)
			_exit(2);
		bool works = local_put(again, "a", SLICE("1")) == 2 && local_stat(kv).quota_bytes == (uint64_t)8 << 30;
		local_close(kv);
		local_close(again);
		_exit(works ? 0 : 3);
	}
	wait_for_child(child);
}

static void test_open__says_what_is_missing(void **state)
{
	(void)state;
	pgs_local_options must = PGS_LOCAL_OPTIONS_INIT, plain = PGS_LOCAL_OPTIONS_INIT, small = PGS_LOCAL_OPTIONS_INIT;
	must.must_exist = true;
	small.map_bytes = 4096;
	assert_int_equal(local_open_fails("nothing", must, "no pagestore store"), PGS_ENOTFOUND);
	assert_int_equal(local_open_fails("no/such", plain, "/no' does not exist"), PGS_ENOTFOUND);
	assert_int_equal(mkdir(scratch_path("empty"), 0777), 0);
	assert_int_equal(local_open_fails("empty", must, "no pagestore store"), PGS_ENOTFOUND);
	must.must_exist = false;
	must.read_only = true;
	assert_int_equal(local_open_fails("empty", must, "no pagestore store"), PGS_ENOTFOUND);
	assert_int_equal(local_open_fails("empty", small, "from 1 MiB"), PGS_EINVAL);
	scratch_write(scratch_path("file"), "x", 1);
	assert_int_equal(local_open_fails("file", plain, "not a directory"), PGS_EINVAL);
	pgs_kv *kv;
	assert_int_equal(pgs_kv_local_open(&kv, "", NULL, NULL), PGS_EINVAL);
}

static void test_read_only__reads_and_refuses_writes(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.read_only = true;
	pgs_kv *kv = local_open("ro");
	local_put(kv, "a", SLICE("7"));
	pgs_kv *reader = local_open_with("ro", options);
	local_close(kv);
	assert_int_equal(local_get(reader, "a"), 7);
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE("a"), .value = SLICE("8")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(local_run(reader, &txn, &err), PGS_EREADONLY);
	assert_non_null(strstr(err.message, "read-only"));
	reader->vtable->release(reader, &txn, 1);
	assert_int_equal(reader->vtable->compact(reader, 2, 0, NULL), PGS_EREADONLY);
	local_close(reader);
}

/* In a directory that this user cannot write: another user's, for a scratch_root() that tests. */
static void test_read_only__works_in_a_directory_that_cannot_be_written(void **state)
{
	(void)state;
	pgs_kv *kv = local_open("sealed");
	local_put(kv, "a", SLICE("7"));
	local_close(kv);
	assert_int_equal(unlink(scratch_path("sealed/lock.mdb")), 0);
	assert_int_equal(chmod(scratch_path("sealed/data.mdb"), 0444), 0);
	assert_int_equal(chmod(scratch_path("sealed"), 0555), 0);
	assert_int_equal(chmod(scratch_root(), 0755), 0);
	pid_t child = fork();
	if (child == 0) {
		if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
			_exit(1);
		pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
		options.map_bytes = MAP_BYTES;
		if (pgs_kv_local_open(&kv, scratch_path("sealed"), &options, NULL) != PGS_EREADONLY)
			_exit(2);
		options.read_only = true;
		kv = local_open_with("sealed", options);
		int64_t found = local_get(kv, "a");
		local_close(kv);
		_exit(found == 7 ? 0 : 3);
	}
	wait_for_child(child);
	assert_int_equal(chmod(scratch_path("sealed"), 0777), 0);
}

/* --- transactions ----------------------------------------------------------- */

static void test_txn__requests_of_one_call_do_not_harm_each_other(void **state)
{
	(void)state;
	pgs_kv *kv = local_open("batch");
	local_put(kv, "a", SLICE("1"));
	pgs_kv_op ops[] = {
		{.kind = PGS_KV_PUT, .key = SLICE("a"), .value = SLICE("2")},
		{.kind = PGS_KV_RANGE, .key = SLICE("a"), .revision = 1000},
		{.kind = PGS_KV_PUT, .key = SLICE("x")},
		{.kind = PGS_KV_PUT, .key = SLICE("b"), .value = SLICE("3")},
		{.kind = PGS_KV_PUT, .key = SLICE("b")},
		{.kind = PGS_KV_PUT, .key = SLICE("c"), .value = SLICE("4")},
		{.kind = PGS_KV_RANGE, .key = SLICE("c")},
	};
	pgs_kv_txn txns[] = {
		{.success = &ops[0], .success_count = 1},
		{.success = &ops[1], .success_count = 2},
		{.success = &ops[3], .success_count = 2},
		{.success = &ops[5], .success_count = 1},
		{.success = &ops[6], .success_count = 1},
	};
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(kv->vtable->txn(kv, txns, 5, 0, &err), PGS_EINVAL);
	assert_non_null(strstr(err.message, "revision 1000"));
	assert_int_equal(txns[0].status, PGS_OK);
	assert_int_equal(txns[0].revision, 3);
	assert_int_equal(txns[1].status, PGS_EINVAL);
	assert_int_equal(txns[2].status, PGS_EINVAL);
	assert_int_equal(txns[3].status, PGS_OK);
	assert_int_equal(txns[3].revision, 4);
	assert_int_equal(txns[4].status, PGS_OK);
	kv->vtable->release(kv, txns, 5);
	assert_int_equal(local_get(kv, "x"), -1);
	assert_int_equal(local_get(kv, "c"), 4);
	local_close(kv);
}

static void test_txn__a_large_one_is_checked_quickly(void **state)
{
	(void)state;
	enum { COUNT = 65536 };
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_kv *kv = local_open_with("large", options);
	pgs_kv_op *ops = calloc(COUNT, sizeof *ops);
	char *names = calloc(COUNT, 16);
	for (size_t i = 0; i < COUNT; i++) {
		snprintf(names + i * 16, 16, "k%zu", i * 40503 % COUNT);
		ops[i] = (pgs_kv_op){.kind = PGS_KV_PUT, .key = SLICE(names + i * 16), .value = SLICE("v")};
	}
	pgs_kv_txn txn = {.success = ops, .success_count = COUNT};
	uint64_t begun = pgs__now_ms();
	assert_int_equal(local_run(kv, &txn, NULL), PGS_OK);
	assert_true(pgs__now_ms() - begun < 20000);
	kv->vtable->release(kv, &txn, 1);
	ops[COUNT - 1].kind = PGS_KV_DELETE;
	ops[COUNT - 1].key = SLICE("k5");
	ops[COUNT - 1].range_end = SLICE("k50");
	assert_int_equal(local_run(kv, &txn, NULL), PGS_EINVAL);
	kv->vtable->release(kv, &txn, 1);
	ops[COUNT - 1] = ops[0];
	assert_int_equal(local_run(kv, &txn, NULL), PGS_EINVAL);
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(local_stat(kv).revision, 2);
	free(names);
	free(ops);
	local_close(kv);
}

static void test_txn__keys_of_any_bytes_keep_their_order(void **state)
{
	(void)state;
	/* Each is a prefix of, or looks like, another key with the revision behind it. */
	static const pgs_slice keys[] = {{"\0", 1}, {"\0\0", 2}, {"a", 1}, {"a\0\0\0\0\0\0\0\0", 9}, {"ab", 2},
		{"a\xff\xff\xff\xff\xff\xff\xff\xfd", 9}, {"\xff", 1}, {"\xff\xff", 2}};
	enum { COUNT = sizeof keys / sizeof *keys };
	pgs_kv *kv = local_open("bytes");
	for (int round = 0; round < 12; round++)
		for (size_t i = COUNT; i-- > 0;) {
			pgs_kv_op op = {.kind = PGS_KV_PUT, .key = keys[i], .value = keys[i]};
			pgs_kv_txn txn = {.success = &op, .success_count = 1};
			assert_int_equal(local_run(kv, &txn, NULL), PGS_OK);
			kv->vtable->release(kv, &txn, 1);
		}
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = keys[0], .range_end = PGS_KV_TO_END};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(local_run(kv, &txn, NULL), PGS_OK);
	assert_int_equal(txn.results[0].count, COUNT);
	for (size_t i = 0; i < COUNT; i++) {
		assert_int_equal(txn.results[0].pairs[i].key.size, keys[i].size);
		assert_memory_equal(txn.results[0].pairs[i].key.data, keys[i].data, keys[i].size);
		assert_int_equal(txn.results[0].pairs[i].version, 12);
	}
	kv->vtable->release(kv, &txn, 1);
	local_close(kv);
}

static void test_compact__removes_what_nobody_can_see(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_kv *kv = local_open_with("compact", options);
	uint64_t empty = local_stat(kv).size_bytes;
	for (int i = 0; i < 3000; i++)
		local_increment(kv, i % 2 ? "odd" : "even");
	uint64_t before = local_stat(kv).size_bytes;
	pgs_kv_op op = {.kind = PGS_KV_DELETE, .key = SLICE("odd")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(local_run(kv, &txn, NULL), PGS_OK);
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(kv->vtable->compact(kv, 2000, 0, NULL), PGS_OK);
	assert_int_equal(local_get_at(kv, "odd", 2000, NULL), 999);
	assert_int_equal(local_get_at(kv, "odd", 2500, NULL), 1249);
	assert_int_equal(kv->vtable->compact(kv, 2000, 0, NULL), PGS_EOLDREV);
	assert_int_equal(kv->vtable->compact(kv, 3003, 0, NULL), PGS_EINVAL);
	assert_int_equal(kv->vtable->compact(kv, 3002, 0, NULL), PGS_OK);
	pgs_kv_stat stat = local_stat(kv);
	assert_int_equal(stat.revision, 3002);
	assert_int_equal(stat.compacted_revision, 3002);
	assert_true((stat.size_bytes - empty) * 4 < before - empty);
	assert_int_equal(local_get(kv, "odd"), -1);
	assert_int_equal(local_get(kv, "even"), 1500);
	local_close(kv);
	kv = local_open("compact");
	assert_int_equal(local_put(kv, "odd", SLICE("1")), 3003);
	local_close(kv);
}

/* --- watching ---------------------------------------------------------------- */

static void *put_later(void *kv)
{
	usleep(30000);
	local_put(kv, "w/later", SLICE("1"));
	return NULL;
}

static void test_watch__wakes_for_a_commit_of_this_process(void **state)
{
	(void)state;
	pgs_kv *kv = local_open("wake");
	pgs_kv_watch *watch;
	pgs_kv_events events;
	pthread_t thread;
	assert_int_equal(kv->vtable->watch_open(kv, SLICE("w/"), SLICE("w0"), 0, &watch, NULL), PGS_OK);
	assert_int_equal(kv->vtable->watch_next(watch, 1, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 0);
	assert_int_equal(pthread_create(&thread, NULL, put_later, kv), 0);
	assert_int_equal(kv->vtable->watch_next(watch, 20000, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 1);
	assert_int_equal(events.revision, 2);
	pthread_join(thread, NULL);
	kv->vtable->watch_close(watch);
	local_close(kv);
}

static void test_watch__sees_every_commit_of_another_process(void **state)
{
	(void)state;
	enum { COUNT = 300 };
	pid_t child = fork();
	if (child == 0) {
		pgs_kv *kv = local_open("across");
		for (int i = 0; i < COUNT; i++)
			local_increment(kv, "n");
		local_close(kv);
		_exit(0);
	}
	pgs_kv *kv = local_open("across");
	pgs_kv_watch *watch;
	pgs_kv_events events;
	uint64_t seen = 1;
	assert_int_equal(kv->vtable->watch_open(kv, SLICE("n"), (pgs_slice){NULL, 0}, 1, &watch, NULL), PGS_OK);
	while (seen < COUNT + 1) {
		assert_int_equal(kv->vtable->watch_next(watch, 20000, &events, NULL), PGS_OK);
		assert_true(events.count > 0);
		for (size_t i = 0; i < events.count; i++)
			assert_int_equal(events.events[i].pair.mod_revision, ++seen);
		assert_int_equal(events.revision, seen);
	}
	wait_for_child(child);
	kv->vtable->watch_close(watch);
	local_close(kv);
}

static void test_watch__batches_are_bounded_and_fail_after_compaction(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_kv *kv = local_open_with("bounded", options);
	pgs_kv_watch *watch;
	pgs_kv_events events;
	for (int i = 0; i < 2500; i++)
		local_increment(kv, "n");
	assert_int_equal(kv->vtable->watch_open(kv, SLICE("n"), (pgs_slice){NULL, 0}, 1, &watch, NULL), PGS_OK);
	assert_int_equal(kv->vtable->watch_next(watch, 0, &events, NULL), PGS_OK);
	assert_true(events.count > 0 && events.count <= 1000);
	assert_int_equal(events.revision, events.count + 1);
	assert_int_equal(kv->vtable->compact(kv, 2000, 0, NULL), PGS_OK);
	assert_int_equal(kv->vtable->watch_next(watch, 0, &events, NULL), PGS_EOLDREV);
	assert_int_equal(kv->vtable->watch_next(watch, 0, &events, NULL), PGS_EOLDREV);
	kv->vtable->watch_close(watch);
	assert_int_equal(kv->vtable->watch_open(kv, SLICE("n"), (pgs_slice){NULL, 0}, 1999, &watch, NULL), PGS_EOLDREV);
	assert_int_equal(kv->vtable->watch_open(kv, SLICE("n"), (pgs_slice){NULL, 0}, 2000, &watch, NULL), PGS_OK);
	assert_int_equal(kv->vtable->watch_next(watch, 0, &events, NULL), PGS_OK);
	assert_int_equal(events.events[0].pair.mod_revision, 2000);
	kv->vtable->watch_close(watch);
	local_close(kv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open__a_new_store_is_at_revision_1),
		cmocka_unit_test(test_open__what_was_put_is_there_again),
		cmocka_unit_test(test_open__handles_of_a_process_share_the_environment),
		cmocka_unit_test(test_open__the_default_map_fits_the_process),
		cmocka_unit_test(test_open__says_what_is_missing),
		cmocka_unit_test(test_read_only__reads_and_refuses_writes),
		cmocka_unit_test(test_read_only__works_in_a_directory_that_cannot_be_written),
		cmocka_unit_test(test_txn__requests_of_one_call_do_not_harm_each_other),
		cmocka_unit_test(test_txn__a_large_one_is_checked_quickly),
		cmocka_unit_test(test_txn__keys_of_any_bytes_keep_their_order),
		cmocka_unit_test(test_compact__removes_what_nobody_can_see),
		cmocka_unit_test(test_watch__wakes_for_a_commit_of_this_process),
		cmocka_unit_test(test_watch__sees_every_commit_of_another_process),
		cmocka_unit_test(test_watch__batches_are_bounded_and_fail_after_compaction),
	};
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
