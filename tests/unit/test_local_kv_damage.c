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
static unsigned meta_sync_count; /* meta pages written through a descriptor that syncs */
static unsigned fail_syncs;      /* so many to come */
static bool fail_meta_writes;

int fdatasync(int fd)
{
	__atomic_fetch_add(&sync_count, 1, __ATOMIC_RELAXED);
	if (fail_syncs) {
		fail_syncs--;
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
	if (offset < 8192 && size < 4096 && (fcntl(fd, F_GETFL) & O_DSYNC))
		__atomic_fetch_add(&meta_sync_count, 1, __ATOMIC_RELAXED);
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
	sync_count = meta_sync_count = 0;
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
	fail_syncs = 1;
	assert_int_equal(local_put(kv, "a", SLICE("2")), PGS_EIO);
	local_close(kv);
	kv = local_open("nosync"); /* and puts nothing again (J3) */
	assert_int_equal(local_get(kv, "a"), 1);
	fail_syncs = 2; /* and that of wiping its redo record */
	assert_int_equal(local_put(kv, "a", SLICE("2")), PGS_EUNKNOWN);
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

/* --- commits with one sync (redo.c) ------------------------------------------ */

#define METAS 8192 /* the meta pages, which say where everything is */

static void read_metas(const char *path, uint8_t metas[METAS])
{
	int fd = open(scratch_path(path), O_RDONLY);
	assert_true(fd >= 0 && pread(fd, metas, METAS, 0) == METAS);
	close(fd);
}

static void write_at(const char *path, const void *bytes, size_t size, off_t offset)
{
	int fd = open(scratch_path(path), O_WRONLY);
	assert_true(fd >= 0 && pwrite(fd, bytes, size, offset) == (ssize_t)size);
	close(fd);
}

/* Where the record is in the data file, and where its two slots are. */
static off_t find_record(const char *path)
{
	char block[16];
	int fd = open(scratch_path(path), O_RDONLY);
	assert_true(fd >= 0);
	for (off_t at = 16;; at += 4096) {
		assert_int_equal(pread(fd, block, sizeof block, at), sizeof block);
		if (memcmp(block, "pagestore redo 1", sizeof block) == 0) {
			close(fd);
			return at;
		}
	}
}

#define SLOTS 4080
#define SLOT 65536

/* A store in which "a" is 1, with the meta pages of then; and in it "a" becomes 2. */
static void make_two_states(const char *name, const char *path, uint8_t metas[METAS])
{
	pgs_kv *kv = local_open(name);
	assert_true(local_put(kv, "a", SLICE("1")) > 0);
	assert_true(local_put(kv, "b", SLICE("7")) > 0);
	local_close(kv);
	read_metas(path, metas);
	const pgs_kv_op ops[] = {{.kind = PGS_KV_PUT, .key = SLICE("a"), .value = SLICE("2")},
				 {.kind = PGS_KV_DELETE, .key = SLICE("b")}};
	pgs_kv_txn txn = {.success = ops, .success_count = 2};
	kv = local_open(name);
	assert_int_equal(local_run(kv, &txn, NULL), PGS_OK);
	kv->vtable->release(kv, &txn, 1);
	local_close(kv);
}

static void test_redo__a_commit_is_there_without_its_meta_page(void **state)
{
	(void)state;
	uint8_t metas[METAS];
	make_two_states("redo", "redo/data.mdb", metas);
	write_at("redo/data.mdb", metas, METAS, 0);
	pgs_kv *kv = local_open("redo");
	assert_int_equal(local_get(kv, "a"), 2);
	assert_int_equal(local_get(kv, "b"), -1);
	assert_int_equal(local_stat(kv).revision, 4);
	assert_int_equal(local_put(kv, "a", SLICE("3")), 5);
	local_close(kv);
	kv = local_open("redo");
	assert_int_equal(local_get(kv, "a"), 3);
	local_close(kv);
}

static void test_redo__the_last_two_commits_are(void **state)
{
	(void)state;
	uint8_t metas[METAS];
	make_two_states("redo2", "redo2/data.mdb", metas);
	pgs_kv *kv = local_open("redo2");
	assert_int_equal(local_put(kv, "a", SLICE("3")), 5);
	local_close(kv);
	write_at("redo2/data.mdb", metas, METAS, 0);
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.read_only = true;
	kv = local_open_with("redo2", options); /* the files may be written all the same */
	assert_int_equal(local_get(kv, "a"), 3);
	assert_int_equal(local_stat(kv).revision, 5);
	local_close(kv);
}

static void test_redo__a_torn_record_is_none(void **state)
{
	(void)state;
	uint8_t metas[METAS], byte = 0x55;
	make_two_states("torn", "torn/data.mdb", metas);
	off_t record = find_record("torn/data.mdb");
	for (off_t slot = 0; slot < 2; slot++)
		write_at("torn/data.mdb", &byte, 1, record + SLOTS + slot * SLOT + 40);
	write_at("torn/data.mdb", metas, METAS, 0);
	pgs_kv *kv = local_open("torn");
	assert_int_equal(local_get(kv, "a"), 1);
	assert_int_equal(local_get(kv, "b"), 7);
	assert_int_equal(local_put(kv, "a", SLICE("3")), 4);
	local_close(kv);
}

/* A process that died between its record and its commit, and then a commit without a record by another: the dead one's
 * must not be put on top of it, nor in its place (J2). */
static void test_redo__a_commit_without_a_record_wipes_the_dead_ones(void **state)
{
	(void)state;
	uint8_t metas[METAS], slots[2 * SLOT];
	make_two_states("dead", "dead/data.mdb", metas);
	off_t record = find_record("dead/data.mdb");
	int fd = open(scratch_path("dead/data.mdb"), O_RDONLY);
	assert_int_equal(pread(fd, slots, sizeof slots, record + SLOTS), sizeof slots);
	close(fd);
	static const uint8_t none[2 * SLOT];
	write_at("dead/data.mdb", none, sizeof none, record + SLOTS);
	write_at("dead/data.mdb", metas, METAS, 0);
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_LAZY;
	pgs_kv *kv = local_open_with("dead", options);
	assert_int_equal(local_get(kv, "a"), 1);
	write_at("dead/data.mdb", slots, sizeof slots, record + SLOTS);
	assert_int_equal(local_put(kv, "c", SLICE("5")), 4);
	local_close(kv);
	write_at("dead/data.mdb", metas, METAS, 0);
	kv = local_open("dead");
	assert_int_equal(local_get(kv, "a"), 1);
	local_close(kv);
}

static void test_redo__small_commits_sync_once(void **state)
{
	(void)state;
	static char large[70000];
	pgs_kv *kv = local_open("once");
	assert_int_equal(syncs_of_a_put(kv), 1);
	assert_int_equal(meta_sync_count, 0);
	assert_true(local_put(kv, "large", (pgs_slice){large, sizeof large}) > 0);
	assert_int_equal(meta_sync_count, 1);
	local_close(kv);
}

static void test_redo__an_older_store_gets_a_record(void **state)
{
	(void)state;
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	local_close(local_open("older"));
	assert_int_equal(mdb_env_create(&env), 0);
	mdb_env_set_maxdbs(env, 4);
	assert_int_equal(mdb_env_open(env, scratch_path("older"), 0, 0666), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, "meta", 0, &dbi), 0);
	assert_int_equal(mdb_del(txn, dbi, &(MDB_val){4, "redo"}, NULL), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	pgs_kv *kv = local_open("older");
	assert_int_equal(syncs_of_a_put(kv), 1);
	assert_int_equal(meta_sync_count, 0);
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
		cmocka_unit_test(test_redo__a_commit_is_there_without_its_meta_page),
		cmocka_unit_test(test_redo__the_last_two_commits_are),
		cmocka_unit_test(test_redo__a_torn_record_is_none),
		cmocka_unit_test(test_redo__a_commit_without_a_record_wipes_the_dead_ones),
		cmocka_unit_test(test_redo__small_commits_sync_once),
		cmocka_unit_test(test_redo__an_older_store_gets_a_record),
	};
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
