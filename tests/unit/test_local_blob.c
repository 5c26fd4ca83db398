/* backends/local: the blob store beyond the conformance suite: files, crashes, full disks. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pagestore.h>
#include <pagestore/backends.h>

#include "support/scratch.h"
#include "support/testing.h"

/* --- helpers ------------------------------------------------------------- */

static pgs_blob *open_as(const char *name, bool read_only)
{
	pgs_blob *blob = NULL;
	pgs_error err = PGS_ERROR_INIT;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.read_only = read_only;
	if (pgs_blob_local_open(&blob, scratch_path(name), &options, &err) != PGS_OK)
		fail_msg("%s", err.message);
	return blob;
}

static pgs_blob *open_blobs(const char *name)
{
	return open_as(name, false);
}

static void close_blobs(pgs_blob *blob)
{
	blob->vtable->close(blob);
}

/* Bytes that tell their place. */
static int pattern(void *ctx, uint64_t offset, void *buf, size_t size)
{
	(void)ctx;
	for (size_t i = 0; i < size; i++)
		((uint8_t *)buf)[i] = (uint8_t)((offset + i) * 31 >> 3);
	return PGS_OK;
}

static int put(pgs_blob *blob, const char *name, uint64_t size)
{
	return blob->vtable->put(blob, name, size, pattern, NULL, 0, NULL);
}

static int get(pgs_blob *blob, const char *name, uint64_t offset, size_t size)
{
	uint8_t got[256], expected[256];
	assert_true(size <= sizeof got);
	pgs_blob_range range = {.name = name, .offset = offset, .size = size, .buffer = got};
	int status = blob->vtable->get(blob, &range, 1, 0, NULL);
	assert_int_equal(status, range.status);
	pattern(NULL, offset, expected, size);
	if (status == PGS_OK)
		assert_memory_equal(got, expected, size);
	return status;
}

static int count_one(void *ctx, const char *name, uint64_t size_bytes)
{
	(void)name;
	(void)size_bytes;
	++*(size_t *)ctx;
	return 0;
}

static size_t count_blobs(pgs_blob *blob)
{
	size_t count = 0;
	assert_int_equal(blob->vtable->list(blob, "", count_one, &count, 0, NULL), PGS_OK);
	return count;
}

/* Files in a directory of the store; 0 when it is not there. */
static size_t count_files(const char *name)
{
	DIR *dir = opendir(scratch_path(name));
	size_t count = 0;
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		count += entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return count;
}

static void skip_test(const char *why)
{
	const char *ci = getenv("CI");
	if (ci && !strcmp(ci, "true"))
		fail_msg("cannot run here: %s", why);
	print_message("SKIPPED: %s\n", why);
	skip();
}

/* --- tests ------------------------------------------------------------------ */

static void test_put__is_there_again(void **state)
{
	(void)state;
	pgs_blob *blob = open_blobs("again");
	assert_int_equal(put(blob, "large", (3u << 20) + 17), PGS_OK);
	assert_int_equal(put(blob, "deep/er/x", 100), PGS_OK);
	assert_int_equal(put(blob, "deep/er/x", 100), PGS_OK);
	close_blobs(blob);
	blob = open_blobs("again");
	assert_int_equal(get(blob, "large", 3u << 20, 17), PGS_OK);
	assert_int_equal(get(blob, "large", (1u << 20) - 3, 100), PGS_OK);
	assert_int_equal(get(blob, "large", 3u << 20, 18), PGS_ECORRUPT);
	assert_int_equal(get(blob, "deep/er/x", 0, 100), PGS_OK);
	assert_int_equal(count_files("again/+tmp"), 0);
	close_blobs(blob);
}

static void test_names__a_blob_may_be_called_like_a_directory(void **state)
{
	(void)state;
	pgs_blob *blob = open_blobs("names");
	static const char *const names[] = {"a/b/c", "a/b", "a", "tmp/x", "tmp", "+"};
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(put(blob, names[i], 10 + i), PGS_OK);
	assert_int_equal(put(blob, names[5], 1), PGS_EINVAL);
	assert_int_equal(put(blob, "+tmp/x", 1), PGS_EINVAL);
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(get(blob, names[i], 0, 10 + i), PGS_OK);
	assert_int_equal(count_blobs(blob), 5);
	/* The longest name with the most parts: "x/x/…/xx". */
	char longest[PGS_BLOB_NAME_MAX + 2] = "";
	for (size_t i = 0; i < PGS_BLOB_NAME_MAX - 1; i++)
		longest[i] = i % 2 ? '/' : 'x';
	longest[PGS_BLOB_NAME_MAX - 2] = 'x';
	longest[PGS_BLOB_NAME_MAX - 1] = 'x';
	assert_int_equal(put(blob, longest, 3), PGS_OK);
	assert_int_equal(get(blob, longest, 0, 3), PGS_OK);
	longest[PGS_BLOB_NAME_MAX] = 'x';
	assert_int_equal(put(blob, longest, 3), PGS_EINVAL);
	close_blobs(blob);
}

static void test_remove__takes_empty_directories_along(void **state)
{
	(void)state;
	pgs_blob *blob = open_blobs("removed");
	assert_int_equal(put(blob, "a/b/one", 1), PGS_OK);
	assert_int_equal(put(blob, "a/two", 1), PGS_OK);
	assert_int_equal(blob->vtable->remove(blob, "a/b/one", 0, NULL), PGS_OK);
	assert_int_equal(count_files("removed/a+"), 1);
	assert_int_equal(blob->vtable->remove(blob, "a/two", 0, NULL), PGS_OK);
	assert_int_not_equal(access(scratch_path("removed/a+"), F_OK), 0);
	close_blobs(blob);
}

static void *put_and_remove(void *arg)
{
	pgs_blob *blob = arg;
	char name[40];
	snprintf(name, sizeof name, "race/d/%lx", (unsigned long)pthread_self());
	for (int i = 0; i < 100; i++)
		if (put(blob, name, 10) || get(blob, name, 0, 10) || blob->vtable->remove(blob, name, 0, NULL))
			return arg;
	return NULL;
}

static void test_remove__races_with_puts_in_one_directory(void **state)
{
	(void)state;
	pthread_t threads[4];
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_blob *blob;
	assert_int_equal(pgs_blob_local_open(&blob, scratch_path("races"), &options, NULL), PGS_OK);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, put_and_remove, blob), 0);
	for (size_t i = 0; i < 4; i++) {
		void *failed;
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(count_blobs(blob), 0);
	close_blobs(blob);
}

static void test_get__does_not_find_what_another_handle_removed(void **state)
{
	(void)state;
	pgs_blob *one = open_blobs("handles"), *two = open_blobs("handles");
	assert_int_equal(put(one, "x", 50), PGS_OK);
	assert_int_equal(get(two, "x", 0, 50), PGS_OK);
	assert_int_equal(one->vtable->remove(one, "x", 0, NULL), PGS_OK);
	assert_int_equal(get(two, "x", 0, 50), PGS_ENOTFOUND);
	close_blobs(one);
	close_blobs(two);
}

static void test_get__of_more_files_than_are_kept_open(void **state)
{
	(void)state;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.sync = PGS_SYNC_OFF;
	pgs_blob *blob;
	char name[20];
	assert_int_equal(pgs_blob_local_open(&blob, scratch_path("many"), &options, NULL), PGS_OK);
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 100; i++) {
			snprintf(name, sizeof name, "f%d", i);
			assert_int_equal(round ? get(blob, name, 0, 20) : put(blob, name, 20), PGS_OK);
		}
	assert_true(count_files("../../proc/self/fd") < 60);
	close_blobs(blob);
}

static void test_truncated__is_corrupt(void **state)
{
	(void)state;
	pgs_blob *blob = open_blobs("short");
	assert_int_equal(put(blob, "x", 100), PGS_OK);
	assert_int_equal(truncate(scratch_path("short/x"), 60), 0);
	assert_int_equal(get(blob, "x", 0, 60), PGS_OK);
	assert_int_equal(get(blob, "x", 0, 100), PGS_ECORRUPT);
	close_blobs(blob);
}

static int fail_second(void *ctx, uint64_t offset, void *buf, size_t size)
{
	(void)ctx;
	memset(buf, 'x', size);
	return offset ? PGS_EOLDREV : PGS_OK;
}

static void test_put__that_fails_leaves_nothing(void **state)
{
	(void)state;
	pgs_blob *blob = open_blobs("failing");
	assert_int_equal(blob->vtable->put(blob, "a/x", 5 << 20, fail_second, NULL, 0, NULL), PGS_EOLDREV);
	assert_int_equal(blob->vtable->put(blob, "a/x", 1, pattern, NULL, 1, NULL), PGS_ETIMEOUT);
	assert_int_equal(count_blobs(blob), 0);
	assert_int_equal(count_files("failing/+tmp"), 0);
	assert_int_not_equal(access(scratch_path("failing/a+"), F_OK), 0);
	close_blobs(blob);
}

static void test_full__leaves_nothing(void **state)
{
	(void)state;
	assert_int_equal(mkdir(scratch_path("disk"), 0777), 0);
	if (mount("none", scratch_path("disk"), "tmpfs", 0, "size=2m")) {
		skip_test("mounting a small tmpfs needs root");
		return;
	}
	pgs_blob *blob = open_blobs("disk/blobs");
	pgs_error err = PGS_ERROR_INIT;
	int small = put(blob, "a/small", 1000);
	int large = blob->vtable->put(blob, "b/large", 8 << 20, pattern, NULL, 0, &err);
	size_t temps = count_files("disk/blobs/+tmp"), blobs = count_blobs(blob);
	int after = put(blob, "c/after", 1 << 20);
	close_blobs(blob);
	assert_int_equal(umount(scratch_path("disk")), 0);
	assert_int_equal(small, PGS_OK);
	assert_int_equal(large, PGS_ENOSPC);
	assert_non_null(strstr(err.message, "b/large"));
	assert_int_equal(temps, 0);
	assert_int_equal(blobs, 1);
	assert_int_equal(after, PGS_OK);
}

static int stop_here(void *ctx, uint64_t offset, void *buf, size_t size)
{
	char ready = 1;
	memset(buf, 'x', size);
	if (offset && write(*(int *)ctx, &ready, 1) == 1)
		pause();
	return PGS_OK;
}

/* A temporary file of a living process stays; that of a dead one goes. */
static void test_open__removes_what_dead_writers_left(void **state)
{
	(void)state;
	int ready[2];
	char byte;
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	if (child == 0) {
		pgs_blob *blob = open_blobs("stale");
		blob->vtable->put(blob, "x", 4 << 20, stop_here, &ready[1], 0, NULL);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close_blobs(open_blobs("stale"));
	assert_int_equal(count_files("stale/+tmp"), 1);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close_blobs(open_as("stale", true));
	assert_int_equal(count_files("stale/+tmp"), 1);
	pgs_blob *blob = open_blobs("stale");
	assert_int_equal(count_files("stale/+tmp"), 0);
	assert_int_equal(count_blobs(blob), 0);
	close_blobs(blob);
	close(ready[0]);
	close(ready[1]);
}

static void test_crash__a_blob_is_whole_or_absent(void **state)
{
	(void)state;
	char name[20];
	for (int round = 0; round < 30; round++) {
		pid_t child = fork();
		if (child == 0) {
			pgs_blob *blob = open_blobs("crash");
			for (int i = 0;; i++) {
				snprintf(name, sizeof name, "d/%d", i % 20);
				put(blob, name, 300000);
				blob->vtable->remove(blob, name, 0, NULL);
				put(blob, name, 300000);
			}
		}
		usleep(2000 + (useconds_t)round * 733 % 9000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		pgs_blob *blob = open_blobs("crash");
		assert_int_equal(count_files("crash/+tmp"), 0);
		for (int i = 0; i < 20; i++) {
			snprintf(name, sizeof name, "d/%d", i);
			int status = get(blob, name, 299900, 100);
			assert_true(status == PGS_OK || status == PGS_ENOTFOUND);
		}
		close_blobs(blob);
	}
}

static void test_read_only__refuses_writes(void **state)
{
	(void)state;
	pgs_blob *blob = open_blobs("sealed");
	assert_int_equal(put(blob, "x", 10), PGS_OK);
	close_blobs(blob);
	blob = open_as("sealed", true);
	assert_int_equal(get(blob, "x", 0, 10), PGS_OK);
	assert_int_equal(put(blob, "y", 10), PGS_EREADONLY);
	assert_int_equal(blob->vtable->remove(blob, "x", 0, NULL), PGS_EREADONLY);
	close_blobs(blob);
}

static void test_open__says_what_is_missing(void **state)
{
	(void)state;
	pgs_blob *blob;
	pgs_error err = PGS_ERROR_INIT;
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	assert_int_equal(pgs_blob_local_open(&blob, scratch_path("no/such"), &options, &err), PGS_ENOTFOUND);
	assert_non_null(strstr(err.message, "make it first"));
	options.must_exist = true;
	assert_int_equal(pgs_blob_local_open(&blob, scratch_path("such"), &options, &err), PGS_ENOTFOUND);
	assert_null(blob);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_put__is_there_again),
		cmocka_unit_test(test_names__a_blob_may_be_called_like_a_directory),
		cmocka_unit_test(test_remove__takes_empty_directories_along),
		cmocka_unit_test(test_remove__races_with_puts_in_one_directory),
		cmocka_unit_test(test_get__does_not_find_what_another_handle_removed),
		cmocka_unit_test(test_get__of_more_files_than_are_kept_open),
		cmocka_unit_test(test_truncated__is_corrupt),
		cmocka_unit_test(test_put__that_fails_leaves_nothing),
		cmocka_unit_test(test_full__leaves_nothing),
		cmocka_unit_test(test_open__removes_what_dead_writers_left),
		cmocka_unit_test(test_crash__a_blob_is_whole_or_absent),
		cmocka_unit_test(test_read_only__refuses_writes),
		cmocka_unit_test(test_open__says_what_is_missing),
	};
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
