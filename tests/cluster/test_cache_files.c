/* What may happen to a cache file that processes on etcd and S3 share: its disk is full, bits flip in it, another store
 * uses it, it is deleted, its path is no good. They are slower then, and nothing else. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/chain.h"
#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/scratch.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define FLIP_ROUNDS 5

static etcd_server *etcd;
static s3_server *s3;

static const unsigned duties[] = {
	CHAIN_FOLLOWS,
	CHAIN_FOLLOWS | CHAIN_WRITES,
	0,
	CHAIN_WRITES | CHAIN_MAINTAINS | CHAIN_ELSEWHERE,
};
#define PROCESSES (sizeof duties / sizeof *duties)
#define HERE 3 /* of them, with the cache */

/* A chain in a store of its own, `which` of two, with the cache at scratch_path(cache). */
static chain *set_up_chain(size_t which, const char *root, const char *cache, const char *more)
{
	static chain chains[2];
	static char urls[2][SERVER_URL_SIZE], cached[2][SERVER_URL_SIZE + 300];
	static uint64_t salt;
	server_store_url(urls[which], etcd_endpoints(etcd), root, s3_endpoint(s3), "");
	snprintf(cached[which], sizeof cached[which], "%s&cache=%s%s", urls[which], scratch_path(cache), more);
	chain_set_up(&chains[which], scratch_path(which ? "chain-1" : "chain-0"), urls[which], cached[which], ++salt);
	return &chains[which];
}

static void start_all(chain *c)
{
	for (unsigned i = 0; i < PROCESSES; i++)
		if (c->lives[i].pid == 0)
			chain_start(c, i, duties[i]);
}

static void replace(chain *c, unsigned process)
{
	chain_kill(c, process);
	chain_start(c, process, duties[process]);
}

static void end_chain(chain *c, const char *what)
{
	chain_end(c);
	chain_check(c, c->url);
	chain_report(c, what);
	assert_int_equal(chain_errors(c), 0);
	chain_tear_down(c);
}

/* --- a full disk --------------------------------------------------------------------------------- */

static void fill_disk(const char *path)
{
	static const char block[1 << 12];
	int fd = open(path, O_WRONLY | O_CREAT, 0666);
	assert_true(fd >= 0);
	while (write(fd, block, sizeof block) > 0)
		;
	close(fd);
}

static void test_cache__on_a_disk_that_gets_full(void **state)
{
	char disk[300], filler[320];
	uint64_t took_ms;
	(void)state;
	snprintf(disk, sizeof disk, "%s", scratch_path("disk"));
	snprintf(filler, sizeof filler, "%s/filler", disk);
	assert_int_equal(mkdir(disk, 0777), 0);
	scratch_mount(disk, "8m");
	chain *c = set_up_chain(0, "full", "disk/cache", "&cache_size=64M");
	start_all(c);
	chain_wait_commits(c, 10, "at first");
	chain_catch_up(c, "at first");
	fill_disk(filler);
	chain_wait_commits(c, 64, "on a full disk"); /* some of them larger than what is left */
	chain_catch_up(c, "on a full disk");
	chain_kill(c, chain_wait_keeper(c, scratch_path("disk/cache"), &took_ms));
	chain_catch_up(c, "on a full disk, another keeping the mirror");
	start_all(c);
	chain_catch_up(c, "on a full disk, anew");
	for (unsigned i = 0; i < HERE; i++)
		chain_kill(c, i);
	start_all(c); /* nobody has it open */
	chain_wait_commits(c, 20, "on a full disk, all anew");
	chain_catch_up(c, "on a full disk, all anew");
	unlink(filler);
	chain_wait_commits(c, 20, "with room again");
	chain_catch_up(c, "with room again");
	end_chain(c, "full disk");
}

/* Not even room to make one: they go without. So they do not share one, and only their own commits are seen at once. */
static void test_cache__on_a_disk_that_is_full(void **state)
{
	char disk[300], filler[320];
	(void)state;
	snprintf(disk, sizeof disk, "%s", scratch_path("disk"));
	snprintf(filler, sizeof filler, "%s/filler", disk);
	assert_int_equal(mkdir(disk, 0777), 0);
	scratch_mount(disk, "1m");
	fill_disk(filler);
	chain *c = set_up_chain(0, "none", "disk/cache", "&cache_size=64M");
	for (unsigned i = 0; i < HERE; i++)
		chain_start(c, i, CHAIN_FOLLOWS);
	chain_start(c, HERE, duties[HERE]);
	chain_wait_commits(c, 64, "without a cache");
	chain_catch_up(c, "without a cache");
	end_chain(c, "no room");
}

/* --- flipped bits ----------------------------------------------------------------------------------- */

/* Flip a bit somewhere in the file, where there is anything: mostly at its beginning. */
static bool flip(int fd, uint64_t *random)
{
	struct stat st;
	uint8_t byte;
	*random = *random * 6364136223846793005 + 1442695040888963407;
	assert_int_equal(fstat(fd, &st), 0);
	off_t at = lseek(fd, (off_t)((*random >> 20) % ((uint64_t)st.st_blocks * 512)), SEEK_DATA);
	if (at < 0 || pread(fd, &byte, 1, at += (off_t)(*random >> 8 & 4095)) != 1)
		return false;
	byte ^= (uint8_t)(1u << (*random >> 61));
	return pwrite(fd, &byte, 1, at) == 1;
}

static void test_cache__with_flipped_bits(void **state)
{
	chain *c = set_up_chain(0, "flips", "flipped", "&cache_size=16M");
	unsigned running = 0, resting = 0;
	uint64_t random = 4711;
	(void)state;
	c->may_crash = true; /* LMDB trusts its file while it is in use: lib/local_cache/lmdb_page.h */
	start_all(c);
	for (int round = 0; round < FLIP_ROUNDS; round++) {
		chain_wait_commits(c, 10, "before bits flip");
		chain_catch_up(c, "before bits flip");
		int fd = open(scratch_path("flipped"), O_RDWR);
		assert_true(fd >= 0);
		for (int i = 0; i < 60; i++) {
			running += flip(fd, &random);
			chain_sleep(c, 5);
		}
		chain_wait_looks(c, 5, "after bits flipped");
		chain_catch_up(c, "after bits flipped");
		for (unsigned i = 0; i < HERE; i++)
			chain_kill(c, i);
		for (int i = 0; i < 20; i++)
			resting += flip(fd, &random);
		close(fd);
		start_all(c);
	}
	chain_catch_up(c, "with a damaged file");
	print_message("%u bits flipped while it was in use, %u while it was not; %u processes crashed\n", running, resting,
		c->crashes);
	assert_true(running >= 100 && resting >= 50);
	assert_true(c->crashes <= 1 + running / 100);
	end_chain(c, "flipped bits");
}

/* --- two stores --------------------------------------------------------------------------------------- */

static void test_cache__of_two_stores(void **state)
{
	chain *one = set_up_chain(0, "one", "both", "&cache_size=16M"), *two = set_up_chain(1, "two", "both", "&cache_size=16M");
	(void)state;
	for (int round = 0; round < 2; round++) {
		start_all(one);
		start_all(two);
		chain_wait_commits(one, 20, "with another store");
		chain_wait_commits(two, 20, "with another store");
		chain_catch_up(one, "with another store");
		chain_catch_up(two, "with another store");
		for (unsigned i = 0; i < HERE; i++)
			chain_kill(round % 2 ? one : two, i);
		chain_wait_looks(round % 2 ? two : one, 3, "with another store");
	}
	start_all(one);
	start_all(two);
	chain_catch_up(one, "at the end");
	chain_catch_up(two, "at the end");
	end_chain(one, "one store");
	end_chain(two, "the other");
}

/* --- deleted -------------------------------------------------------------------------------------------- */

static void delete(const char *suffix)
{
	char path[400];
	snprintf(path, sizeof path, "%s%s", scratch_path("deleted"), suffix);
	assert_int_equal(unlink(path), 0);
}

/* Who has it open goes on with what was deleted; who comes later, with a new one. They do not share it, so of each
 * other's commits nothing is promised that was not promised before. */
static void replace_deleted(chain *c, const char *what)
{
	uint64_t took_ms;
	c->machine++;
	chain_catch_up(c, what);
	for (unsigned i = 0; i < HERE; i++) {
		replace(c, i);
		chain_catch_up(c, what);
	}
	unsigned keeper = chain_wait_keeper(c, scratch_path("deleted"), &took_ms);
	assert_true(keeper < HERE);
	chain_wait_commits(c, 10, what);
	chain_catch_up(c, what);
}

static void test_cache__deleted_while_in_use(void **state)
{
	chain *c = set_up_chain(0, "deleted", "deleted", "&cache_size=16M");
	(void)state;
	start_all(c);
	chain_wait_commits(c, 10, "at first");
	delete("");
	delete("-lock");
	delete("-state");
	replace_deleted(c, "after it was deleted");
	delete("");
	replace_deleted(c, "after LMDB's file was deleted");
	delete("");
	delete("-state");
	replace_deleted(c, "after all but its lock was deleted");
	end_chain(c, "deleted");
}

/* --- paths that are no good --------------------------------------------------------------------------------- */

static void expect_refusal(const char *path, int expected, const char *says)
{
	char url[SERVER_URL_SIZE], more[400];
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	snprintf(more, sizeof more, "&cache=%s", path);
	server_store_url(url, etcd_endpoints(etcd), "paths", s3_endpoint(s3), more);
	expect_code(pgs_open(&store, url, NULL, &err), expected, &err, path);
	assert_null(store);
	expect_words(&err, "cache", path, says, NULL);
}

static void test_cache__at_a_path_that_is_no_good(void **state)
{
	char path[320];
	(void)state;
	expect_refusal(scratch_path("no/such/folder"), PGS_ENOTFOUND, "No such file or directory");
	expect_refusal(scratch_root(), PGS_EINVAL, "that of a directory");
	snprintf(path, sizeof path, "%s", scratch_path("notes.txt"));
	scratch_write(path, "somebody's", 10);
	expect_refusal(path, PGS_EINVAL, "no cache of ours");
	expect_refusal("/sys/cache", PGS_EREADONLY, "-state");
	char content[20] = "";
	FILE *file = fopen(path, "r");
	assert_int_equal(fread(content, 1, sizeof content, file), 10);
	fclose(file);
	assert_string_equal(content, "somebody's");
}

/* --- running them ------------------------------------------------------------------------------------------------ */

static int set_up(void **state)
{
	etcd = etcd_start(&(etcd_setup){.members = 1});
	s3 = s3_start(false);
	return etcd && s3 ? scratch_set_up(state) : -1;
}

static int clear(void **state)
{
	chain_clear(state);
	umount2(scratch_path("disk"), MNT_DETACH);
	rmdir(scratch_path("disk"));
	return 0;
}

static int tear_down(void **state)
{
	etcd_stop(etcd);
	s3_stop(s3);
	return scratch_tear_down(state);
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_teardown(test_cache__##name, clear)
	const struct CMUnitTest tests[] = {
		CASE(on_a_disk_that_gets_full),
		CASE(on_a_disk_that_is_full),
		CASE(with_flipped_bits),
		CASE(of_two_stores),
		CASE(deleted_while_in_use),
		CASE(at_a_path_that_is_no_good),
	};
	if (argc > 1)
		return chain_process(argc, argv);
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests_name("cache_files", tests, set_up, tear_down);
}
