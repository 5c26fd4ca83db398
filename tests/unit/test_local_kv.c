/* backends/local: the KV beyond the conformance suite: files, processes, crashes, damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <lmdb.h>

#include <pagestore.h>
#include <pagestore/backends.h>

#include "util/clock.h"

/* Small enough for every sanitizer and for valgrind. */
#define MAP_BYTES ((uint64_t)256 << 20)

/* The sanitizers' own maps are beyond any limit on address space. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MAP_IS_HUGE_ANYWAY true
#endif
#endif
#ifndef MAP_IS_HUGE_ANYWAY
#define MAP_IS_HUGE_ANYWAY false
#endif

#define SLICE(text) ((pgs_slice){(text), strlen(text)})

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

/* --- helpers ------------------------------------------------------------- */

static char root[64];

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int set_up(void **state)
{
	(void)state;
	strcpy(root, "/tmp/pagestore-local-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	return nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *path_of(const char *name)
{
	static char path[200];
	snprintf(path, sizeof path, "%s/%s", root, name);
	return path;
}

static pgs_kv *open_with(const char *name, pgs_local_options options)
{
	pgs_kv *kv = NULL;
	pgs_error err = PGS_ERROR_INIT;
	if (!options.map_bytes)
		options.map_bytes = MAP_BYTES;
	if (pgs_kv_local_open(&kv, path_of(name), &options, &err) != PGS_OK)
		fail_msg("%s", err.message);
	return kv;
}

static pgs_kv *open_kv(const char *name)
{
	return open_with(name, (pgs_local_options)PGS_LOCAL_OPTIONS_INIT);
}

static int open_fails(const char *name, pgs_local_options options, const char *says)
{
	pgs_kv *kv = NULL;
	pgs_error err = PGS_ERROR_INIT;
	if (!options.map_bytes)
		options.map_bytes = MAP_BYTES;
	int status = pgs_kv_local_open(&kv, path_of(name), &options, &err);
	assert_null(kv);
	assert_int_not_equal(status, PGS_OK);
	assert_int_equal(status, err.code);
	if (!strstr(err.message, says))
		fail_msg("'%s' does not say '%s'", err.message, says);
	return status;
}

static void close_kv(pgs_kv *kv)
{
	kv->vtable->close(kv);
}

static int run(pgs_kv *kv, pgs_kv_txn *txn, pgs_error *err)
{
	return kv->vtable->txn(kv, txn, 1, pgs__now_ms() + 60000, err);
}

/* Put one key; returns the new revision or a negative code. */
static int64_t put(pgs_kv *kv, const char *key, pgs_slice value)
{
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE(key), .value = value};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	int status = run(kv, &txn, NULL);
	int64_t revision = (int64_t)txn.revision;
	kv->vtable->release(kv, &txn, 1);
	return status ? status : revision;
}

/* Read one key as of `revision`: its value as a number, -1 when absent. */
static int64_t get_at(pgs_kv *kv, const char *key, uint64_t revision, uint64_t *mod)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = SLICE(key), .revision = revision};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	if (run(kv, &txn, &err) != PGS_OK)
		fail_msg("%s", err.message);
	int64_t number = -1;
	if (txn.results[0].count) {
		char text[32] = "";
		memcpy(text, txn.results[0].pairs[0].value.data, txn.results[0].pairs[0].value.size);
		number = atoll(text);
		if (mod)
			*mod = txn.results[0].pairs[0].mod_revision;
	}
	kv->vtable->release(kv, &txn, 1);
	return number;
}

static int64_t get(pgs_kv *kv, const char *key)
{
	return get_at(kv, key, 0, NULL);
}

/* Raise the number in `key` by compare and put until it works. */
static void increment(pgs_kv *kv, const char *key)
{
	for (bool done = false; !done;) {
		char text[32];
		uint64_t mod = 0;
		int64_t now = get_at(kv, key, 0, &mod);
		snprintf(text, sizeof text, "%lld", (long long)(now < 0 ? 1 : now + 1));
		pgs_kv_compare same = {
			.key = SLICE(key), .target = PGS_KV_MOD, .relation = PGS_KV_EQUAL, .number = mod};
		pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE(key), .value = SLICE(text)};
		pgs_kv_txn txn = {.compares = &same, .compare_count = 1, .success = &op, .success_count = 1};
		assert_int_equal(run(kv, &txn, NULL), PGS_OK);
		done = txn.succeeded;
		kv->vtable->release(kv, &txn, 1);
	}
}

static pgs_kv_stat stat_of(pgs_kv *kv)
{
	pgs_kv_stat stat;
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	return stat;
}

static void wait_for(pid_t child)
{
	int how;
	assert_int_equal(waitpid(child, &how, 0), child);
	assert_true(WIFEXITED(how));
	assert_int_equal(WEXITSTATUS(how), 0);
}

/* A test that this machine cannot run: loud, and a failure where everything has to run. */
static void skip_test(const char *why)
{
	const char *ci = getenv("CI");
	if (ci && !strcmp(ci, "true"))
		fail_msg("cannot run here: %s", why);
	print_message("SKIPPED: %s\n", why);
	skip();
}

static void write_file(const char *path, const void *data, size_t size)
{
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, size, file), size);
	assert_int_equal(fclose(file), 0);
}

/* --- opening -------------------------------------------------------------- */

static void test_open__a_new_store_is_at_revision_1(void **state)
{
	(void)state;
	pgs_kv *kv = open_kv("new");
	pgs_kv_stat stat = stat_of(kv);
	assert_int_equal(stat.revision, 1);
	assert_int_equal(stat.compacted_revision, 0);
	assert_int_equal(stat.quota_bytes, MAP_BYTES);
	assert_int_equal(put(kv, "a", SLICE("1")), 2);
	close_kv(kv);
}

static void test_open__what_was_put_is_there_again(void **state)
{
	(void)state;
	uint8_t before[16], after[16];
	pgs_kv *kv = open_kv("again");
	assert_int_equal(kv->vtable->identity(kv, before, 0, NULL), PGS_OK);
	for (int i = 0; i < 50; i++)
		increment(kv, "n");
	close_kv(kv);
	kv = open_kv("again");
	assert_int_equal(kv->vtable->identity(kv, after, 0, NULL), PGS_OK);
	assert_memory_equal(before, after, 16);
	assert_int_equal(get(kv, "n"), 50);
	assert_int_equal(get_at(kv, "n", 11, NULL), 10);
	assert_int_equal(stat_of(kv).revision, 51);
	close_kv(kv);
	kv = open_kv("other");
	assert_int_equal(kv->vtable->identity(kv, after, 0, NULL), PGS_OK);
	assert_memory_not_equal(before, after, 16);
	close_kv(kv);
}

static void test_open__handles_of_a_process_share_the_environment(void **state)
{
	(void)state;
	pgs_kv *one = open_kv("shared"), *two;
	assert_int_equal(symlink("shared", path_of("link")), 0);
	two = open_with(
		"link", (pgs_local_options){sizeof(pgs_local_options), PGS_SYNC_OFF, MAP_BYTES * 2, false, true});
	assert_int_equal(put(one, "a", SLICE("1")), 2);
	assert_int_equal(put(two, "a", SLICE("2")), 3);
	assert_int_equal(get(one, "a"), 2);
	assert_int_equal(stat_of(one).quota_bytes, MAP_BYTES * 2);
	close_kv(one);
	assert_int_equal(put(two, "a", SLICE("3")), 4);
	close_kv(two);
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
		if (setrlimit(RLIMIT_AS, &limit) || pgs_kv_local_open(&kv, path_of("fits"), &options, NULL) ||
			pgs_kv_local_open(&again, path_of("fits"), &options, NULL))
			_exit(1);
		if (pgs_kv_local_open(&refused, path_of("fits"), &large, NULL) != PGS_ENOMEM)
			_exit(2);
		bool works = put(again, "a", SLICE("1")) == 2 && stat_of(kv).quota_bytes == (uint64_t)8 << 30;
		close_kv(kv);
		close_kv(again);
		_exit(works ? 0 : 3);
	}
	wait_for(child);
}

static void test_open__says_what_is_missing(void **state)
{
	(void)state;
	pgs_local_options must = PGS_LOCAL_OPTIONS_INIT, plain = PGS_LOCAL_OPTIONS_INIT, small = PGS_LOCAL_OPTIONS_INIT;
	must.must_exist = true;
	small.map_bytes = 4096;
	assert_int_equal(open_fails("nothing", must, "no pagestore store"), PGS_ENOTFOUND);
	assert_int_equal(open_fails("no/such", plain, "/no' does not exist"), PGS_ENOTFOUND);
	assert_int_equal(mkdir(path_of("empty"), 0777), 0);
	assert_int_equal(open_fails("empty", must, "no pagestore store"), PGS_ENOTFOUND);
	must.must_exist = false;
	must.read_only = true;
	assert_int_equal(open_fails("empty", must, "no pagestore store"), PGS_ENOTFOUND);
	assert_int_equal(open_fails("empty", small, "from 1 MiB"), PGS_EINVAL);
	write_file(path_of("file"), "x", 1);
	assert_int_equal(open_fails("file", plain, "not a directory"), PGS_EINVAL);
	pgs_kv *kv;
	assert_int_equal(pgs_kv_local_open(&kv, "", NULL, NULL), PGS_EINVAL);
}

static void test_read_only__reads_and_refuses_writes(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.read_only = true;
	pgs_kv *kv = open_kv("ro");
	put(kv, "a", SLICE("7"));
	pgs_kv *reader = open_with("ro", options);
	close_kv(kv);
	assert_int_equal(get(reader, "a"), 7);
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE("a"), .value = SLICE("8")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(run(reader, &txn, &err), PGS_EREADONLY);
	assert_non_null(strstr(err.message, "read-only"));
	reader->vtable->release(reader, &txn, 1);
	assert_int_equal(reader->vtable->compact(reader, 2, 0, NULL), PGS_EREADONLY);
	close_kv(reader);
}

/* In a directory that this user cannot write: another user's, for a root that tests. */
static void test_read_only__works_in_a_directory_that_cannot_be_written(void **state)
{
	(void)state;
	pgs_kv *kv = open_kv("sealed");
	put(kv, "a", SLICE("7"));
	close_kv(kv);
	assert_int_equal(unlink(path_of("sealed/lock.mdb")), 0);
	assert_int_equal(chmod(path_of("sealed/data.mdb"), 0444), 0);
	assert_int_equal(chmod(path_of("sealed"), 0555), 0);
	assert_int_equal(chmod(root, 0755), 0);
	pid_t child = fork();
	if (child == 0) {
		if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
			_exit(1);
		pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
		options.map_bytes = MAP_BYTES;
		if (pgs_kv_local_open(&kv, path_of("sealed"), &options, NULL) != PGS_EREADONLY)
			_exit(2);
		options.read_only = true;
		kv = open_with("sealed", options);
		int64_t found = get(kv, "a");
		close_kv(kv);
		_exit(found == 7 ? 0 : 3);
	}
	wait_for(child);
	assert_int_equal(chmod(path_of("sealed"), 0777), 0);
}

static void test_fork__an_inherited_handle_is_refused(void **state)
{
	(void)state;
	pgs_kv *kv = open_kv("forked");
	put(kv, "a", SLICE("1"));
	pid_t child = fork();
	if (child == 0) {
		pgs_error err = PGS_ERROR_INIT;
		pgs_kv_txn txn = {0};
		bool refused = run(kv, &txn, &err) == PGS_EINVAL && strstr(err.message, "fork");
		kv->vtable->release(kv, &txn, 1);
		close_kv(kv);
		/* But the child may open the store itself. */
		kv = open_kv("forked");
		bool works = put(kv, "a", SLICE("2")) == 3;
		close_kv(kv);
		_exit(refused && works ? 0 : 1);
	}
	wait_for(child);
	assert_int_equal(get(kv, "a"), 2);
	assert_int_equal(put(kv, "a", SLICE("3")), 4);
	close_kv(kv);
}

/* --- damage ---------------------------------------------------------------- */

static void test_damage__a_file_that_is_not_lmdb(void **state)
{
	(void)state;
	static char garbage[65536];
	for (size_t i = 0; i < sizeof garbage; i++)
		garbage[i] = (char)(i * 7 + 3);
	assert_int_equal(mkdir(path_of("garbage"), 0777), 0);
	write_file(path_of("garbage/data.mdb"), garbage, sizeof garbage);
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	assert_int_equal(open_fails("garbage", options, "/garbage"), PGS_ECORRUPT);
	write_file(path_of("garbage/data.mdb"), garbage, 10);
	assert_int_equal(open_fails("garbage", options, "/garbage"), PGS_ECORRUPT);
}

static void test_damage__another_version_of_lmdb(void **state)
{
	(void)state;
	close_kv(open_kv("version"));
	int fd = open(path_of("version/data.mdb"), O_RDWR);
	assert_true(fd >= 0);
	/* Both meta pages: a page header of 16 bytes, the magic, the version. */
	uint32_t version = 77;
	assert_int_equal(pwrite(fd, &version, 4, 20), 4);
	assert_int_equal(pwrite(fd, &version, 4, 4096 + 20), 4);
	close(fd);
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	assert_int_equal(open_fails("version", options, "another LMDB version"), PGS_EVERSION);
}

/* Do something to the raw tables of a store. */
static void edit(const char *name, const char *table, MDB_val key, MDB_val value)
{
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	assert_int_equal(mdb_env_create(&env), 0);
	mdb_env_set_maxdbs(env, 4);
	assert_int_equal(mdb_env_open(env, path_of(name), 0, 0666), 0);
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
	close_kv(open_kv("format"));
	edit("format", "meta", (MDB_val){6, "format"}, (MDB_val){15, "pagestore kv 9\n"});
	assert_int_equal(open_fails("format", options, "newer pagestore"), PGS_EVERSION);
	edit("format", "meta", (MDB_val){6, "format"}, (MDB_val){4, "what"});
	assert_int_equal(open_fails("format", options, "not a pagestore store"), PGS_ECORRUPT);
	assert_int_equal(mkdir(path_of("stranger"), 0777), 0);
	edit("stranger", "recipes", (MDB_val){3, "pie"}, (MDB_val){5, "apple"});
	assert_int_equal(open_fails("stranger", options, "another program's"), PGS_ECORRUPT);
}

static void test_damage__a_malformed_record_names_its_key(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	close_kv(open_kv("record"));
	edit("record", "versions", (MDB_val){11, "key\xff\xff\xff\xff\xff\xff\xff\xfd"}, (MDB_val){2, "\x80\x80"});
	pgs_kv *kv = open_kv("record");
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = SLICE("key")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(run(kv, &txn, &err), PGS_ECORRUPT);
	assert_non_null(strstr(err.message, "'key'"));
	assert_non_null(strstr(err.message, "/record"));
	kv->vtable->release(kv, &txn, 1);
	close_kv(kv);
}

static void test_damage__a_malformed_log_record_fails_the_watch(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_events events;
	pgs_kv_watch *watch;
	close_kv(open_kv("log"));
	edit("log", "log", (MDB_val){8, "\0\0\0\0\0\0\0\2"},
		(MDB_val){2, "\x7f"
			     "a"});
	pgs_kv *kv = open_kv("log");
	assert_int_equal(kv->vtable->watch_open(kv, SLICE("a"), PGS_KV_TO_END, 1, &watch, &err), PGS_OK);
	assert_int_equal(kv->vtable->watch_next(watch, 0, &events, &err), PGS_ECORRUPT);
	assert_int_equal(events.count, 0);
	kv->vtable->watch_close(watch);
	assert_int_equal(kv->vtable->compact(kv, 2, 0, &err), PGS_ECORRUPT);
	close_kv(kv);
}

/* Cut at every 4 KiB: opening or reading fails in order, or nothing was lost; never a SIGBUS. */
static void test_damage__a_truncated_file_is_an_error_not_a_crash(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.map_bytes = MAP_BYTES;
	pgs_kv *kv = open_kv("cut");
	char value[1000], key[16];
	memset(value, '1', sizeof value);
	for (int i = 0; i < 100; i++) {
		snprintf(key, sizeof key, "k%d", i);
		put(kv, key, (pgs_slice){value, sizeof value});
	}
	close_kv(kv);
	struct stat st;
	assert_int_equal(stat(path_of("cut/data.mdb"), &st), 0);
	size_t refused = 0;
	for (off_t size = st.st_size - 4096; size > 8192; size -= 4096) {
		assert_int_equal(truncate(path_of("cut/data.mdb"), size), 0);
		pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = SLICE("k"), .range_end = PGS_KV_TO_END};
		pgs_kv_txn txn = {.success = &op, .success_count = 1};
		int status = pgs_kv_local_open(&kv, path_of("cut"), &options, NULL);
		if (!status) {
			status = run(kv, &txn, NULL);
			assert_true(status || txn.results[0].count == 100);
			kv->vtable->release(kv, &txn, 1);
			close_kv(kv);
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
	pgs_kv *kv = open_with("full", options);
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
		result = put(kv, "big", (pgs_slice){big, sizeof big});
	}
	assert_int_equal(result, PGS_ENOSPC);
	/* Forgetting helps, though there is little room to do it in. */
	assert_int_equal(kv->vtable->compact(kv, (uint64_t)last, 0, &err), PGS_OK);
	assert_int_equal(put(kv, "small", SLICE("1")), ++last);
	/* A larger map helps at once, through any handle. */
	options.map_bytes = MAP_BYTES;
	pgs_kv *larger = open_with("full", options);
	assert_int_equal(put(kv, "big", (pgs_slice){big, sizeof big}), last + 1);
	close_kv(larger);
	close_kv(kv);
}

static void test_full__the_disk_says_so_and_loses_nothing(void **state)
{
	(void)state;
	static char big[200000];
	assert_int_equal(mkdir(path_of("disk"), 0777), 0);
	if (mount("none", path_of("disk"), "tmpfs", 0, "size=1m")) {
		skip_test("mounting a small tmpfs needs root");
		return;
	}
	pgs_kv *kv = open_kv("disk/kv");
	int64_t revision = 1, result = 1;
	for (int i = 0; i < 100 && result > 0; i++) {
		revision = result;
		result = put(kv, "big", (pgs_slice){big, sizeof big});
	}
	uint64_t now = stat_of(kv).revision;
	close_kv(kv);
	kv = open_kv("disk/kv");
	uint64_t reopened = stat_of(kv).revision;
	close_kv(kv);
	assert_int_equal(umount(path_of("disk")), 0);
	assert_int_equal(result, PGS_ENOSPC);
	assert_int_equal(now, revision);
	assert_int_equal(reopened, revision);
}

/* --- syncing ---------------------------------------------------------------- */

static unsigned syncs_of_a_put(pgs_kv *kv)
{
	sync_count = 0;
	assert_true(put(kv, "a", SLICE("1")) > 0);
	return sync_count;
}

/* The meta page's own write is synchronous besides, when it is. */
static void test_sync__is_each_handles_own(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	pgs_kv *full = open_with("sync", options);
	options.sync = PGS_SYNC_LAZY;
	pgs_kv *lazy = open_with("sync", options);
	options.sync = PGS_SYNC_OFF;
	pgs_kv *off = open_with("sync", options);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(syncs_of_a_put(full), 1);
		assert_int_equal(syncs_of_a_put(off), 0);
		assert_int_equal(syncs_of_a_put(lazy), 1);
		assert_int_equal(syncs_of_a_put(off), 0);
	}
	sync_count = 0;
	get(full, "a");
	assert_int_equal(sync_count, 0);
	close_kv(full);
	close_kv(lazy);
	close_kv(off);
}

static void test_sync__that_fails_applies_nothing(void **state)
{
	(void)state;
	pgs_kv *kv = open_kv("nosync");
	assert_int_equal(put(kv, "a", SLICE("1")), 2);
	fail_syncs = true;
	int64_t failed = put(kv, "a", SLICE("2"));
	fail_syncs = false;
	assert_int_equal(failed, PGS_EIO);
	assert_int_equal(get(kv, "a"), 1);
	assert_int_equal(put(kv, "a", SLICE("3")), 3);
	close_kv(kv);
}

static void test_sync__a_failed_last_write_is_unknown(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv = open_kv("unknown");
	assert_int_equal(put(kv, "a", SLICE("1")), 2);
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE("a"), .value = SLICE("2")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	fail_meta_writes = true;
	int status = run(kv, &txn, &err);
	fail_meta_writes = false;
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(status, PGS_EUNKNOWN);
	assert_non_null(strstr(err.message, "open it again"));
	assert_int_equal(put(kv, "a", SLICE("3")), PGS_EIO);
	close_kv(kv);
	kv = open_kv("unknown");
	assert_true(get(kv, "a") == 1 || get(kv, "a") == 2);
	assert_true(put(kv, "a", SLICE("3")) >= 3);
	close_kv(kv);
}

/* --- transactions ----------------------------------------------------------- */

static void test_txn__requests_of_one_call_do_not_harm_each_other(void **state)
{
	(void)state;
	pgs_kv *kv = open_kv("batch");
	put(kv, "a", SLICE("1"));
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
	assert_int_equal(get(kv, "x"), -1);
	assert_int_equal(get(kv, "c"), 4);
	close_kv(kv);
}

static void test_txn__a_large_one_is_checked_quickly(void **state)
{
	(void)state;
	enum { COUNT = 65536 };
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_kv *kv = open_with("large", options);
	pgs_kv_op *ops = calloc(COUNT, sizeof *ops);
	char *names = calloc(COUNT, 16);
	for (size_t i = 0; i < COUNT; i++) {
		snprintf(names + i * 16, 16, "k%zu", i * 40503 % COUNT);
		ops[i] = (pgs_kv_op){.kind = PGS_KV_PUT, .key = SLICE(names + i * 16), .value = SLICE("v")};
	}
	pgs_kv_txn txn = {.success = ops, .success_count = COUNT};
	uint64_t begun = pgs__now_ms();
	assert_int_equal(run(kv, &txn, NULL), PGS_OK);
	assert_true(pgs__now_ms() - begun < 20000);
	kv->vtable->release(kv, &txn, 1);
	ops[COUNT - 1].kind = PGS_KV_DELETE;
	ops[COUNT - 1].key = SLICE("k5");
	ops[COUNT - 1].range_end = SLICE("k50");
	assert_int_equal(run(kv, &txn, NULL), PGS_EINVAL);
	kv->vtable->release(kv, &txn, 1);
	ops[COUNT - 1] = ops[0];
	assert_int_equal(run(kv, &txn, NULL), PGS_EINVAL);
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(stat_of(kv).revision, 2);
	free(names);
	free(ops);
	close_kv(kv);
}

static void test_txn__keys_of_any_bytes_keep_their_order(void **state)
{
	(void)state;
	/* Each is a prefix of, or looks like, another key with the revision behind it. */
	static const pgs_slice keys[] = {{"\0", 1}, {"\0\0", 2}, {"a", 1}, {"a\0\0\0\0\0\0\0\0", 9}, {"ab", 2},
		{"a\xff\xff\xff\xff\xff\xff\xff\xfd", 9}, {"\xff", 1}, {"\xff\xff", 2}};
	enum { COUNT = sizeof keys / sizeof *keys };
	pgs_kv *kv = open_kv("bytes");
	for (int round = 0; round < 12; round++)
		for (size_t i = COUNT; i-- > 0;) {
			pgs_kv_op op = {.kind = PGS_KV_PUT, .key = keys[i], .value = keys[i]};
			pgs_kv_txn txn = {.success = &op, .success_count = 1};
			assert_int_equal(run(kv, &txn, NULL), PGS_OK);
			kv->vtable->release(kv, &txn, 1);
		}
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = keys[0], .range_end = PGS_KV_TO_END};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(run(kv, &txn, NULL), PGS_OK);
	assert_int_equal(txn.results[0].count, COUNT);
	for (size_t i = 0; i < COUNT; i++) {
		assert_int_equal(txn.results[0].pairs[i].key.size, keys[i].size);
		assert_memory_equal(txn.results[0].pairs[i].key.data, keys[i].data, keys[i].size);
		assert_int_equal(txn.results[0].pairs[i].version, 12);
	}
	kv->vtable->release(kv, &txn, 1);
	close_kv(kv);
}

static void test_compact__removes_what_nobody_can_see(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_kv *kv = open_with("compact", options);
	for (int i = 0; i < 3000; i++)
		increment(kv, i % 2 ? "odd" : "even");
	uint64_t before = stat_of(kv).size_bytes;
	pgs_kv_op op = {.kind = PGS_KV_DELETE, .key = SLICE("odd")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(run(kv, &txn, NULL), PGS_OK);
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(kv->vtable->compact(kv, 2000, 0, NULL), PGS_OK);
	assert_int_equal(get_at(kv, "odd", 2000, NULL), 999);
	assert_int_equal(get_at(kv, "odd", 2500, NULL), 1249);
	assert_int_equal(kv->vtable->compact(kv, 2000, 0, NULL), PGS_EOLDREV);
	assert_int_equal(kv->vtable->compact(kv, 3003, 0, NULL), PGS_EINVAL);
	assert_int_equal(kv->vtable->compact(kv, 3002, 0, NULL), PGS_OK);
	pgs_kv_stat stat = stat_of(kv);
	assert_int_equal(stat.revision, 3002);
	assert_int_equal(stat.compacted_revision, 3002);
	assert_true(stat.size_bytes * 4 < before);
	assert_int_equal(get(kv, "odd"), -1);
	assert_int_equal(get(kv, "even"), 1500);
	close_kv(kv);
	kv = open_kv("compact");
	assert_int_equal(put(kv, "odd", SLICE("1")), 3003);
	close_kv(kv);
}

/* --- watching ---------------------------------------------------------------- */

static void *put_later(void *kv)
{
	usleep(30000);
	put(kv, "w/later", SLICE("1"));
	return NULL;
}

static void test_watch__wakes_for_a_commit_of_this_process(void **state)
{
	(void)state;
	pgs_kv *kv = open_kv("wake");
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
	close_kv(kv);
}

static void test_watch__sees_every_commit_of_another_process(void **state)
{
	(void)state;
	enum { COUNT = 300 };
	pid_t child = fork();
	if (child == 0) {
		pgs_kv *kv = open_kv("across");
		for (int i = 0; i < COUNT; i++)
			increment(kv, "n");
		close_kv(kv);
		_exit(0);
	}
	pgs_kv *kv = open_kv("across");
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
	wait_for(child);
	kv->vtable->watch_close(watch);
	close_kv(kv);
}

static void test_watch__batches_are_bounded_and_fail_after_compaction(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_kv *kv = open_with("bounded", options);
	pgs_kv_watch *watch;
	pgs_kv_events events;
	for (int i = 0; i < 2500; i++)
		increment(kv, "n");
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
	close_kv(kv);
}

/* --- threads and processes ----------------------------------------------------- */

static void *increment_often(void *kv)
{
	for (int i = 0; i < 100; i++)
		increment(kv, "n");
	return NULL;
}

static void test_threads__share_commits_and_lose_none(void **state)
{
	(void)state;
	pthread_t threads[8];
	pgs_kv *kv = open_kv("threads");
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, increment_often, kv), 0);
	for (int i = 0; i < 20; i++) {
		usleep(2000);
		uint64_t now = stat_of(kv).revision;
		int status = kv->vtable->compact(kv, now, 0, NULL);
		assert_true(status == PGS_OK || status == PGS_EOLDREV);
	}
	for (size_t i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(get(kv, "n"), 800);
	assert_int_equal(stat_of(kv).revision, 801);
	close_kv(kv);
}

static void test_processes__follow_a_map_that_another_enlarged(void **state)
{
	(void)state;
	static char big[300000];
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.map_bytes = 1 << 20;
	int go[2];
	char byte = 1;
	assert_int_equal(pipe(go), 0);
	pid_t child = fork();
	if (child == 0) {
		pgs_kv *kv = read(go[0], &byte, 1) == 1 ? open_kv("grown") : NULL;
		for (int i = 0; i < 10; i++)
			if (put(kv, "big", (pgs_slice){big, sizeof big}) < 0)
				_exit(1);
		close_kv(kv);
		_exit(0);
	}
	pgs_kv *kv = open_with("grown", options);
	assert_int_equal(put(kv, "a", SLICE("1")), 2);
	assert_int_equal(write(go[1], &byte, 1), 1);
	wait_for(child);
	assert_int_equal(get(kv, "a"), 1);
	assert_int_equal(put(kv, "a", SLICE("2")), 13);
	assert_true(stat_of(kv).quota_bytes > 3000000);
	close_kv(kv);
	close(go[0]);
	close(go[1]);
}

static void test_processes__count_together(void **state)
{
	(void)state;
	enum { PROCESSES = 3, COUNT = 200 };
	pid_t children[PROCESSES];
	for (size_t i = 0; i < PROCESSES; i++) {
		children[i] = fork();
		if (children[i])
			continue;
		pgs_kv *kv = open_kv("together");
		for (int n = 0; n < COUNT; n++)
			increment(kv, "n");
		close_kv(kv);
		_exit(0);
	}
	for (size_t i = 0; i < PROCESSES; i++)
		wait_for(children[i]);
	pgs_kv *kv = open_kv("together");
	assert_int_equal(get(kv, "n"), PROCESSES * COUNT);
	assert_int_equal(stat_of(kv).revision, PROCESSES * COUNT + 1);
	close_kv(kv);
}

static void test_processes__a_stopped_writer_does_not_stop_others_for_good(void **state)
{
	(void)state;
	pgs_kv *kv = open_kv("stopped");
	int fd = open(path_of("stopped/writer.lock"), O_RDWR);
	close_kv(kv);
	int ready[2];
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	if (child == 0) {
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
		int got = fcntl(fd, F_SETLK, &lock);
		if (write(ready[1], &got, sizeof got) < 0)
			_exit(1);
		pause();
		_exit(0);
	}
	int got = -1;
	assert_int_equal(read(ready[0], &got, sizeof got), sizeof got);
	assert_int_equal(got, 0);
	close(fd);
	kv = open_kv("stopped");
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE("a")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(kv->vtable->txn(kv, &txn, 1, pgs__now_ms() + 50, &err), PGS_ETIMEOUT);
	assert_non_null(strstr(err.message, "another process"));
	kv->vtable->release(kv, &txn, 1);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_int_equal(put(kv, "a", SLICE("1")), 2);
	close(ready[0]);
	close(ready[1]);
	close_kv(kv);
}

/* The child says in shared memory what was acknowledged, and is killed at any moment. */
static void test_crash__nothing_acknowledged_is_lost(void **state)
{
	(void)state;
	enum { ROUNDS = 40 };
	volatile int64_t *acknowledged =
		mmap(NULL, sizeof *acknowledged, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(acknowledged, MAP_FAILED);
	for (int round = 0; round < ROUNDS; round++) {
		pid_t child = fork();
		if (child == 0) {
			pgs_kv *kv = open_kv("crash");
			for (;;) {
				increment(kv, "n");
				*acknowledged = get(kv, "n");
				if (*acknowledged % 50 == 0)
					kv->vtable->compact(kv, stat_of(kv).revision - 10, 0, NULL);
			}
		}
		usleep(3000 + (useconds_t)round * 977 % 20000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		pgs_kv *kv = open_kv("crash");
		int64_t n = get(kv, "n");
		n = n < 0 ? 0 : n;
		if (n != *acknowledged && n != *acknowledged + 1)
			fail_msg("round %d: %lld is stored, %lld was acknowledged", round, (long long)n,
				(long long)*acknowledged);
		*acknowledged = n;
		/* One revision per increment, with none left out. */
		assert_int_equal(stat_of(kv).revision, n + 1);
		close_kv(kv);
	}
	assert_true(*acknowledged > 0);
	munmap((void *)acknowledged, sizeof *acknowledged);
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
		cmocka_unit_test(test_fork__an_inherited_handle_is_refused),
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
		cmocka_unit_test(test_txn__requests_of_one_call_do_not_harm_each_other),
		cmocka_unit_test(test_txn__a_large_one_is_checked_quickly),
		cmocka_unit_test(test_txn__keys_of_any_bytes_keep_their_order),
		cmocka_unit_test(test_compact__removes_what_nobody_can_see),
		cmocka_unit_test(test_watch__wakes_for_a_commit_of_this_process),
		cmocka_unit_test(test_watch__sees_every_commit_of_another_process),
		cmocka_unit_test(test_watch__batches_are_bounded_and_fail_after_compaction),
		cmocka_unit_test(test_threads__share_commits_and_lose_none),
		cmocka_unit_test(test_processes__follow_a_map_that_another_enlarged),
		cmocka_unit_test(test_processes__count_together),
		cmocka_unit_test(test_processes__a_stopped_writer_does_not_stop_others_for_good),
		cmocka_unit_test(test_crash__nothing_acknowledged_is_lost),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
