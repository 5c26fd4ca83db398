/* backends/local: the KV between threads and processes, stopped and killed ones too. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>


#include "support/local_kv.h"
#include "support/testing.h"
#include "util/clock.h"

static void test_fork__an_inherited_handle_is_refused(void **state)
{
	(void)state;
	pgs_kv *kv = local_open("forked");
	local_put(kv, "a", SLICE("1"));
	pid_t child = fork();
	if (child == 0) {
		pgs_error err = PGS_ERROR_INIT;
		pgs_kv_txn txn = {0};
		bool refused = local_run(kv, &txn, &err) == PGS_EINVAL && strstr(err.message, "fork") &&
			       kv->vtable->changes(kv) == 0;
		kv->vtable->release(kv, &txn, 1);
		local_close(kv);
		/* But the child may open the store itself. */
		kv = local_open("forked");
		bool works = local_put(kv, "a", SLICE("2")) == 3;
		local_close(kv);
		_exit(refused && works ? 0 : 1);
	}
	wait_for_child(child);
	assert_int_equal(local_get(kv, "a"), 2);
	assert_int_equal(local_put(kv, "a", SLICE("3")), 4);
	local_close(kv);
}

/* --- threads and processes ----------------------------------------------------- */

static void *increment_often(void *kv)
{
	for (int i = 0; i < 100; i++)
		local_increment(kv, "n");
	return NULL;
}

static void test_threads__share_commits_and_lose_none(void **state)
{
	(void)state;
	pthread_t threads[8];
	pgs_kv *kv = local_open("threads");
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, increment_often, kv), 0);
	for (int i = 0; i < 20; i++) {
		usleep(2000);
		uint64_t now = local_stat(kv).revision;
		int status = kv->vtable->compact(kv, now, 0, NULL);
		assert_true(status == PGS_OK || status == PGS_EOLDREV);
	}
	for (size_t i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(local_get(kv, "n"), 800);
	assert_int_equal(local_stat(kv).revision, 801);
	local_close(kv);
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
		pgs_kv *kv = read(go[0], &byte, 1) == 1 ? local_open("grown") : NULL;
		for (int i = 0; i < 10; i++)
			if (local_put(kv, "big", (pgs_slice){big, sizeof big}) < 0)
				_exit(1);
		local_close(kv);
		_exit(0);
	}
	pgs_kv *kv = local_open_with("grown", options);
	assert_int_equal(local_put(kv, "a", SLICE("1")), 2);
	assert_int_equal(write(go[1], &byte, 1), 1);
	wait_for_child(child);
	assert_int_equal(local_get(kv, "a"), 1);
	assert_int_equal(local_put(kv, "a", SLICE("2")), 13);
	assert_true(local_stat(kv).quota_bytes > 3000000);
	local_close(kv);
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
		pgs_kv *kv = local_open("together");
		for (int n = 0; n < COUNT; n++)
			local_increment(kv, "n");
		local_close(kv);
		_exit(0);
	}
	for (size_t i = 0; i < PROCESSES; i++)
		wait_for_child(children[i]);
	pgs_kv *kv = local_open("together");
	assert_int_equal(local_get(kv, "n"), PROCESSES * COUNT);
	assert_int_equal(local_stat(kv).revision, PROCESSES * COUNT + 1);
	local_close(kv);
}

/* The number that tells of changes stands for what is read, also while another process is between writing a commit and
 * telling readers of it; and who is told of a commit finds another number. Commits are synced, which makes that long. */
static void test_processes__a_number_stands_for_what_is_read(void **state)
{
	(void)state;
	enum { COUNT = 300 };
	pgs_local_options options = PGS_LOCAL_OPTIONS_INIT;
	options.map_bytes = MAP_BYTES;
	int told[2];
	unsigned char n = 0;
	assert_int_equal(pipe(told), 0);
	pid_t child = fork();
	if (child == 0) {
		close(told[0]);
		pgs_kv *kv = local_open_with("told", options);
		for (int i = 1; i <= COUNT; i++) {
			local_put(kv, "n", SLICE(i % 2 ? "1" : "2"));
			if (write(told[1], &n, 1) != 1)
				_exit(1);
		}
		local_close(kv);
		_exit(0);
	}
	close(told[1]);
	assert_int_equal(fcntl(told[0], F_SETFL, O_NONBLOCK), 0);
	pgs_kv *kv = local_open_with("told", options);
	uint64_t at = 0, stands_for = 0;
	for (int64_t done = 0, seen; stands_for < COUNT;) {
		for (ssize_t got; (got = read(told[0], &n, 1)) == 1;)
			done++;
		uint64_t number = kv->vtable->changes(kv);
		seen = (int64_t)local_stat(kv).revision - 1;
		if (number != kv->vtable->changes(kv) || number == 0)
			continue;
		assert_true(seen >= done);
		if (number == at)
			assert_int_equal(seen, stands_for);
		at = number;
		stands_for = (uint64_t)seen;
	}
	wait_for_child(child);
	assert_int_equal(stands_for, COUNT);
	local_close(kv);
	close(told[0]);
}

static void test_processes__a_stopped_writer_does_not_stop_others_for_good(void **state)
{
	(void)state;
	pgs_kv *kv = local_open("stopped");
	int fd = open(scratch_path("stopped/writer.lock"), O_RDWR);
	local_close(kv);
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
	kv = local_open("stopped");
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = SLICE("a")};
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(kv->vtable->txn(kv, &txn, 1, pgs__now_ms() + 50, &err), PGS_ETIMEOUT);
	assert_non_null(strstr(err.message, "another process"));
	kv->vtable->release(kv, &txn, 1);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_int_equal(local_put(kv, "a", SLICE("1")), 2);
	close(ready[0]);
	close(ready[1]);
	local_close(kv);
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
			pgs_kv *kv = local_open("crash");
			for (;;) {
				local_increment(kv, "n");
				*acknowledged = local_get(kv, "n");
				if (*acknowledged % 50 == 0)
					kv->vtable->compact(kv, local_stat(kv).revision - 10, 0, NULL);
			}
		}
		usleep(3000 + (useconds_t)round * 977 % 20000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		pgs_kv *kv = local_open("crash");
		int64_t n = local_get(kv, "n");
		n = n < 0 ? 0 : n;
		if (n != *acknowledged && n != *acknowledged + 1)
			fail_msg("round %d: %lld is stored, %lld was acknowledged", round, (long long)n,
				(long long)*acknowledged);
		*acknowledged = n;
		/* One revision per increment, with none left out. */
		assert_int_equal(local_stat(kv).revision, n + 1);
		local_close(kv);
	}
	assert_true(*acknowledged > 0);
	munmap((void *)acknowledged, sizeof *acknowledged);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fork__an_inherited_handle_is_refused),
		cmocka_unit_test(test_threads__share_commits_and_lose_none),
		cmocka_unit_test(test_processes__follow_a_map_that_another_enlarged),
		cmocka_unit_test(test_processes__count_together),
		cmocka_unit_test(test_processes__a_number_stands_for_what_is_read),
		cmocka_unit_test(test_processes__a_stopped_writer_does_not_stop_others_for_good),
		cmocka_unit_test(test_crash__nothing_acknowledged_is_lost),
	};
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
