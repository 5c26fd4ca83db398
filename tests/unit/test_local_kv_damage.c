/* backends/local: the KV when files are damaged, the disk is full, or syncing fails. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <lmdb.h>

#include "support/local_kv.h"
#include "support/testing.h"

/* --- what LMDB asks of the kernel ------------------------------------------ */

/* These take the place of libc's for LMDB's shared library. */
static unsigned sync_count;
static bool fail_syncs;
static bool fail_meta_writes;

int fdatasync(int fd)
{
	__atomic_fetch_add(&sync_count, 1, __ATOMIC_RELAXED);
	if (fail_syncs) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
	/* The meta pages are the file's first two, and what is written of them is no whole page. */
	if (fail_meta_writes && offset < 8192 && size < 4096) {
		errno = EIO;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, data, size, offset);
}

/* --- damage ---------------------------------------------------------------- */

static void test_damage__a_file_that_is_not_lmdb(void **state)
{
	(void)state;
	static char garbage[65536];
	for (size_t i = 0; i < sizeof garbage; i++)
		garbage[i] = (char)(i * 7 + 3);
	assert_int_equal(mkdir(scratch_path("garbage"), 0777), 0);
	scratch_write(scratch_path("garbage/data.mdb"), garbage, sizeof garbage);
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	assert_int_equal(local_open_fails("garbage", options, "/garbage"), PGS_ECORRUPT);
	scratch_write(scratch_path("garbage/data.mdb"), garbage, 10);
	assert_int_equal(local_open_fails("garbage", options, "/garbage"), PGS_ECORRUPT);
}

static void test_damage__another_version_of_lmdb(void **state)
{
	(void)state;
	local_close(local_open("version"));
	int fd = open(scratch_path("version/data.mdb"), O_RDWR);
	assert_true(fd >= 0);
	/* Both meta pages: a page header of 16 bytes, the magic, the version. */
	uint32_t version = 77;
	assert_int_equal(pwrite(fd, &version, 4, 20), 4);
	assert_int_equal(pwrite(fd, &version, 4, 4096 + 20), 4);
	close(fd);
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	assert_int_equal(local_open_fails("version", options, "another LMDB version"), PGS_EVERSION);
}

/* Do something to the raw tables of a store. */
static void edit(const char *name, const char *table, MDB_val key, MDB_val value)
{
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	assert_int_equal(mdb_env_create(&env), 0);
	mdb_env_set_maxdbs(env, 4);
	assert_int_equal(mdb_env_open(env, scratch_path(name), 0, 0666), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, table, MDB_CREATE, &dbi), 0);
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
}

static void test_damage__another_format_or_another_program(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	local_close(local_open("format"));
	edit("format", "meta", (MDB_val){6, "format"}, (MDB_val){15, "pagestore kv 9\n"});
	assert_int_equal(local_open_fails("format", options, "newer pagestore"), PGS_EVERSION);
	edit("format", "meta", (MDB_val){6, "format"}, (MDB_val){4, "what"});
	assert_int_equal(local_open_fails("format", options, "not a pagestore store"), PGS_ECORRUPT);
	assert_int_equal(mkdir(scratch_path("stranger"), 0777), 0);
	edit("stranger", "recipes", (MDB_val){3, "pie"}, (MDB_val){5, "apple"});
	assert_int_equal(local_open_fails("stranger", options, "another program's"), PGS_ECORRUPT);
}

static void test_damage__a_malformed_record_names_its_key(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	local_close(local_open("record"));
	edit("record", "versions", (MDB_val){11, "key\xff\xff\xff\xff\xff\xff\xff\xfd"}, (MDB_val){2, "\x80\x80"});
	pgs_kv *kv = local_open("record");
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = SLICE("key")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(local_run(kv, &txn, &err), PGS_ECORRUPT);
	assert_non_null(strstr(err.message, "'key'"));
	assert_non_null(strstr(err.message, "/record"));
	kv->vtable->release(kv, &txn, 1);
	local_close(kv);
}

static void test_damage__a_malformed_log_record_fails_the_watch(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_events events;
	pgs_kv_watch *watch;
	local_close(local_open("log"));
	edit("log", "log", (MDB_val){8, "\0\0\0\0\0\0\0\2"},
		(MDB_val){2, "\x7f"
			     "a"});
	pgs_kv *kv = local_open("log");
	assert_int_equal(kv->vtable->watch_open(kv, SLICE("a"), PGS_KV_TO_END, 1, &watch, &err), PGS_OK);
	assert_int_equal(kv->vtable->watch_next(watch, 0, &events, &err), PGS_ECORRUPT);
	assert_int_equal(events.count, 0);
	kv->vtable->watch_close(watch);
	assert_int_equal(kv->vtable->compact(kv, 2, 0, &err), PGS_ECORRUPT);
	local_close(kv);
}

/* Cut at every 4 KiB: opening or reading fails in order, or nothing was lost; never a SIGBUS. */
static void test_damage__a_truncated_file_is_an_error_not_a_crash(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.map_bytes = MAP_BYTES;
	pgs_kv *kv = local_open("cut");
	char value[1000], key[16];
	memset(value, '1', sizeof value);
	for (int i = 0; i < 100; i++) {
		snprintf(key, sizeof key, "k%d", i);
		local_put(kv, key, (pgs_slice){value, sizeof value});
	}
	local_close(kv);
	struct stat st;
	assert_int_equal(stat(scratch_path("cut/data.mdb"), &st), 0);
	size_t refused = 0;
	for (off_t size = st.st_size - 4096; size > 8192; size -= 4096) {
		assert_int_equal(truncate(scratch_path("cut/data.mdb"), size), 0);
		pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = SLICE("k"), .range_end = PGS_KV_TO_END};
		pgs_kv_txn txn = {.success = &op, .success_count = 1};
		int status = pgs_kv_local_open(&kv, scratch_path("cut"), &options, NULL);
		if (!status) {
			status = local_run(kv, &txn, NULL);
			assert_true(status || txn.results[0].count == 100);
			kv->vtable->release(kv, &txn, 1);
			local_close(kv);
		}
		assert_true(status == PGS_OK || status == PGS_ECORRUPT);
		refused += status == PGS_ECORRUPT;
	}
	assert_true(refused > 0);
}

/* --- full ------------------------------------------------------------------ */

static void test_full__the_map_says_how_to_go_on(void **state)
{
	(void)state;
	static char big[300000];
	pgs_error err = PGS_ERROR_INIT;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.map_bytes = 1 << 20;
	options.sync = PGS_SYNC_OFF;
	pgs_kv *kv = local_open_with("full", options);
	static const char *const keys[3] = {"a", "b", "c"};
	pgs_kv_op ops[3];
	pgs_kv_txn txns[3] = {0};
	for (size_t i = 0; i < 3; i++) {
		ops[i] = (pgs_kv_op){.kind = PGS_KV_PUT, .key = SLICE(keys[i]), .value = SLICE("1")};
		txns[i].success = &ops[i];
		txns[i].success_count = 1;
	}
	/* The second of three in one call is too large for the map; the others must not suffer. */
	static char huge[1 << 20];
	ops[1].value = (pgs_slice){huge, sizeof huge};
	assert_int_equal(kv->vtable->txn(kv, txns, 3, 0, &err), PGS_ENOSPC);
	assert_non_null(strstr(err.message, "map="));
	assert_int_equal(txns[0].status, PGS_OK);
	assert_int_equal(txns[1].status, PGS_ENOSPC);
	assert_int_equal(txns[2].status, PGS_OK);
	assert_int_equal(txns[2].revision, txns[0].revision + 1);
	kv->vtable->release(kv, txns, 3);
	int64_t result = 0, last = 0;
	for (int i = 0; i < 20 && result >= 0; i++) {
		last = result > 0 ? result : last;
		result = local_put(kv, "big", (pgs_slice){big, sizeof big});
	}
	assert_int_equal(result, PGS_ENOSPC);
	/* Forgetting helps, though there is little room to do it in. */
	assert_int_equal(kv->vtable->compact(kv, (uint64_t)last, 0, &err), PGS_OK);
	assert_int_equal(local_put(kv, "small", SLICE("1")), ++last);
	/* A larger map helps at once, through any handle. */
	options.map_bytes = MAP_BYTES;
	pgs_kv *larger = local_open_with("full", options);
	assert_int_equal(local_put(kv, "big", (pgs_slice){big, sizeof big}), last + 1);
	local_close(larger);
	local_close(kv);
}

static void test_full__the_disk_says_so_and_loses_nothing(void **state)
{
	(void)state;
	static char big[200000];
	assert_int_equal(mkdir(scratch_path("disk"), 0777), 0);
	if (mount("none", scratch_path("disk"), "tmpfs", 0, "size=1m")) {
		skip_test("mounting a small tmpfs needs root");
		return;
	}
	pgs_kv *kv = local_open("disk/kv");
	int64_t revision = 1, result = 1;
	for (int i = 0; i < 100 && result > 0; i++) {
		revision = result;
		result = local_put(kv, "big", (pgs_slice){big, sizeof big});
	}
	uint64_t now = local_stat(kv).revision;
	local_close(kv);
	kv = local_open("disk/kv");
	uint64_t reopened = local_stat(kv).revision;
	local_close(kv);
	assert_int_equal(umount(scratch_path("disk")), 0);
	assert_int_equal(result, PGS_ENOSPC);
	assert_int_equal(now, revision);
	assert_int_equal(reopened, revision);
}

/* --- syncing ---------------------------------------------------------------- */

static unsigned syncs_of_a_put(pgs_kv *kv)
{
	sync_count = 0;
	assert_true(local_put(kv, "a", SLICE("1")) > 0);
	return sync_count;
}

/* The meta page's own write is synchronous besides, when it is. */
static void test_sync__is_each_handles_own(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	pgs_kv *full = local_open_with("sync", options);
	options.sync = PGS_SYNC_LAZY;
	pgs_kv *lazy = local_open_with("sync", options);
	options.sync = PGS_SYNC_OFF;
	pgs_kv *off = local_open_with("sync", options);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(syncs_of_a_put(full), 1);
		assert_int_equal(syncs_of_a_put(off), 0);
		assert_int_equal(syncs_of_a_put(lazy), 1);
		assert_int_equal(syncs_of_a_put(off), 0);
	}
	sync_count = 0;
	local_get(full, "a");
	assert_int_equal(sync_count, 0);
	local_close(full);
	local_close(lazy);
	local_close(off);
}

static void test_sync__that_fails_applies_nothing(void **state)
{
	(void)state;
	pgs_kv *kv = local_open("nosync");
	assert_int_equal(local_put(kv, "a", SLICE("1")), 2);
	fail_syncs = true;
	int64_t failed = local_put(kv, "a", SLICE("2"));
	fail_syncs = false;
	assert_int_equal(failed, PGS_EIO);
	assert_int_equal(local_get(kv, "a"), 1);
	assert_int_equal(local_put(kv, "a", SLICE("3")), 3);
	local_close(kv);
}

static void test_sync__a_failed_last_write_is_unknown(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv = local_open("unknown");
	assert_int_equal(local_put(kv, "a", SLICE("1")), 2);
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE("a"), .value = SLICE("2")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	fail_meta_writes = true;
	int status = local_run(kv, &txn, &err);
	fail_meta_writes = false;
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(status, PGS_EUNKNOWN);
	assert_non_null(strstr(err.message, "open it again"));
	assert_int_equal(local_put(kv, "a", SLICE("3")), PGS_EIO);
	local_close(kv);
	kv = local_open("unknown");
	assert_true(local_get(kv, "a") == 1 || local_get(kv, "a") == 2);
	assert_true(local_put(kv, "a", SLICE("3")) >= 3);
	local_close(kv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_damage__a_file_that_is_not_lmdb),
		cmocka_unit_test(test_damage__another_version_of_lmdb),
		cmocka_unit_test(test_damage__another_format_or_another_program),
		cmocka_unit_test(test_damage__a_malformed_record_names_its_key),
		cmocka_unit_test(test_damage__a_malformed_log_record_fails_the_watch),
		cmocka_unit_test(test_damage__a_truncated_file_is_an_error_not_a_crash),
		cmocka_unit_test(test_full__the_map_says_how_to_go_on),
		cmocka_unit_test(test_full__the_disk_says_so_and_loses_nothing),
		cmocka_unit_test(test_sync__is_each_handles_own),
		cmocka_unit_test(test_sync__that_fails_applies_nothing),
		cmocka_unit_test(test_sync__a_failed_last_write_is_unknown),
	};
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
