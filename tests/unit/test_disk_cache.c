/* lib/local_cache: opening cache files, contents in them, eviction; and stores that have one. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local_cache/database.h"
#include "support/disk_cache.h"
#include "support/failing_alloc.h"
#include "support/scratch.h"
#include "support/stores.h"
#include "support/testing.h"
#include "txn/db.h"
#include "util/clock.h"

#define SIZE (4u << 20)

static uint64_t file_size(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static int open_fails(const char *path, uint64_t size, pgs_error *err)
{
	pgs__disk_cache *cache;
	pgs__disk_cache_options o = {.path = path, .size_bytes = size};
	int status = pgs__disk_cache_open(&cache, &o, err);
	assert_int_not_equal(status, PGS_OK);
	assert_null(cache);
	return status;
}

/* --- opening -------------------------------------------------------------------------------- */

static void test_disk_cache__what_is_wrong_is_said(void **state)
{
	(void)state;
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(open_fails(NULL, SIZE, &err), PGS_EINVAL);
	assert_int_equal(open_fails("", SIZE, &err), PGS_EINVAL);
	assert_int_equal(open_fails(scratch_path("c"), PGS__DISK_CACHE_SIZE_MIN - 1, &err), PGS_EINVAL);
	assert_int_equal(open_fails(scratch_path("no/such"), SIZE, &err), PGS_ENOTFOUND);
	assert_non_null(strstr(err.message, "no/such"));
	assert_int_equal(mkdir(scratch_path("folder"), 0777), 0);
	assert_int_equal(open_fails(scratch_path("folder"), SIZE, &err), PGS_EINVAL);
	scratch_write(scratch_path("letter"), "Dear Sir", 8);
	assert_int_equal(open_fails(scratch_path("letter"), SIZE, &err), PGS_EINVAL);
	assert_int_equal(file_size(scratch_path("letter")), 8); /* not ours: left alone */
	assert_int_not_equal(access(scratch_path("letter-state"), F_OK), 0); /* and nothing is left beside it */
	assert_int_not_equal(access(scratch_path("folder-state"), F_OK), 0);
	assert_int_equal(open_fails(scratch_path("letter/c"), SIZE, &err), PGS_ENOTFOUND);
	assert_non_null(strstr(err.message, "make its directory"));
}

/* What is in it is for its owner's eyes, whatever the umask. */
static void test_disk_cache__is_its_owner_s_alone(void **state)
{
	static const char *const names[] = {"cache", "cache-lock", "cache-state"};
	(void)state;
	struct stat st;
	mode_t mask = umask(0);
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	umask(mask);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(stat(scratch_path(names[i]), &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
	disk_close(&d);
}

static void test_disk_cache__contents_outlive_the_process_s_handle(void **state)
{
	(void)state;
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	for (uint64_t i = 0; i < 200; i++)
		disk_put(&d, i, 100 + i * 20);
	disk_close(&d); /* writes what waits */
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	assert_int_equal(d.warnings, 0);
	for (uint64_t i = 0; i < 200; i++)
		assert_true(disk_has(&d, i, NULL));
	assert_false(disk_has(&d, 200, NULL));
	pgs__disk_stat s = disk_stat(&d);
	assert_int_equal(s.hits, 200);
	assert_int_equal(s.misses, 1);
	assert_int_equal(s.content_count, 200);
	disk_close(&d);
}

/* D1: the number that stands for a database in the file is of its store's identity and its prefix. */
static void test_disk_cache__stores_do_not_meet(void **state)
{
	(void)state;
	disk a, b, again;
	disk_open(&a, scratch_path("cache"), SIZE, 1);
	disk_open(&b, scratch_path("cache"), SIZE, 2);
	disk_put(&a, 1, 1000);
	disk_flush(&a);
	assert_true(disk_has(&a, 1, NULL));
	assert_false(disk_has(&b, 1, NULL));
	disk_open(&again, scratch_path("./cache"), SIZE, 1); /* by another path */
	assert_true(disk_has(&again, 1, NULL));
	disk_close(&again);
	disk_close(&b);
	disk_close(&a);
}

/* D4 */
static void set_condition(uint64_t condition, uint8_t boot)
{
	pgs__shared s;
	bool empty;
	assert_int_equal(pgs__shared_open(&s, scratch_path("cache-state"), NULL), PGS_OK);
	assert_true(pgs__shared_map(&s, &empty));
	atomic_store(&s.words->condition, condition);
	if (boot)
		s.words->boot[0] ^= boot;
	pgs__shared_close(&s);
}

static void fill_and_close(void)
{
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_put(&d, 1, 1000);
	disk_close(&d);
}

static void expect_kept(bool kept)
{
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	assert_int_equal(disk_has(&d, 1, NULL), kept);
	assert_int_equal(d.warnings, !kept);
	disk_put(&d, 2, 1000);
	disk_flush(&d);
	assert_true(disk_has(&d, 2, NULL));
	disk_close(&d);
}

static void test_disk_cache__a_crash_of_the_machine_starts_it_over(void **state)
{
	(void)state;
	fill_and_close();
	set_condition(PGS__SHARED_DIRTY, 0); /* of processes alone: the kernel has it all */
	expect_kept(true);
	fill_and_close();
	set_condition(PGS__SHARED_CLEAN, 1); /* the machine was started again, all having been synced */
	expect_kept(true);
	fill_and_close();
	set_condition(PGS__SHARED_DIRTY, 1);
	expect_kept(false);
	fill_and_close();
	set_condition(PGS__SHARED_BROKEN, 0);
	expect_kept(false);
}

static void test_disk_cache__a_checkpoint_makes_it_clean_until_it_is_written(void **state)
{
	(void)state;
	disk d;
	pgs__shared s;
	bool empty;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_put(&d, 1, 1000);
	disk_flush(&d);
	int fd = open(scratch_path("cache-state"), O_RDONLY); /* closing it drops our locks: at the end */
	pgs__shared_words words;
	assert_int_equal(pread(fd, &words, sizeof words, 0), sizeof words);
	assert_true(words.condition == PGS__SHARED_DIRTY);
	assert_int_equal(pgs__disk_cache_checkpoint(d.cache, 0, NULL), PGS_OK);
	assert_int_equal(pread(fd, &words, sizeof words, 0), sizeof words);
	assert_true(words.condition == PGS__SHARED_CLEAN);
	disk_put(&d, 2, 1000);
	disk_flush(&d);
	assert_int_equal(pread(fd, &words, sizeof words, 0), sizeof words);
	assert_true(words.condition == PGS__SHARED_DIRTY);
	close(fd);
	disk_close(&d);
	assert_int_equal(pgs__shared_open(&s, scratch_path("cache-state"), NULL), PGS_OK);
	assert_true(pgs__shared_map(&s, &empty));
	assert_true(s.words->condition == PGS__SHARED_CLEAN);
	pgs__shared_close(&s);
}

static void test_disk_cache__what_is_damaged_or_of_another_kind_is_started_over(void **state)
{
	(void)state;
	static const char garbage[9000] = "not LMDB's";
	fill_and_close();
	scratch_write(scratch_path("cache"), garbage, sizeof garbage);
	expect_kept(false);
	fill_and_close();
	scratch_write(scratch_path("cache-state"), garbage, sizeof garbage);
	expect_kept(false);
	fill_and_close();
	assert_int_equal(truncate(scratch_path("cache"), 8192), 0); /* cut off */
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_has(&d, 1, NULL);
	disk_close(&d);
	fill_and_close();
	disk_open(&d, scratch_path("cache"), 2 * SIZE, 1); /* another size */
	assert_false(disk_has(&d, 1, NULL));
	disk_close(&d);
}

static void test_disk_cache__deleted_while_open_goes_on_and_a_new_one_begins(void **state)
{
	(void)state;
	disk old, new;
	disk_open(&old, scratch_path("cache"), SIZE, 1);
	disk_put(&old, 1, 1000);
	disk_flush(&old);
	disk_load(&old, 10, 10);
	unlink(scratch_path("cache"));
	unlink(scratch_path("cache-lock"));
	unlink(scratch_path("cache-state"));
	assert_true(disk_has(&old, 1, NULL));
	disk_open(&new, scratch_path("cache"), SIZE, 1);
	assert_false(disk_has(&new, 1, NULL));
	assert_true(disk_page(&new, 1, 0) == DISK_UNKNOWN);
	disk_put(&new, 2, 1000);
	disk_flush(&new);
	disk_put(&old, 3, 1000);
	disk_flush(&old);
	assert_true(disk_has(&old, 3, NULL));
	assert_false(disk_has(&new, 3, NULL));
	assert_false(disk_has(&old, 2, NULL));
	disk_close(&old);
	disk_close(&new);
	disk_open(&new, scratch_path("cache"), SIZE, 1);
	assert_true(disk_has(&new, 2, NULL));
	disk_close(&new);
}

/* --- databases --------------------------------------------------------------------------------- */

static void test_disk_cache__the_database_that_was_not_used_for_the_longest_makes_room(void **state)
{
	(void)state;
	enum { SLOTS = PGS__DISK_CACHE_DATABASES };
	disk d;
	pgs__disk_db *others[SLOTS] = {0};
	uint8_t prefix[PGS__PREFIX_SIZE] = {0x90};
	pgs_error err = PGS_ERROR_INIT;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_load(&d, 10, 10);
	for (int i = 0; i < SLOTS - 1; i++) {
		prefix[7] = (uint8_t)i;
		assert_int_equal(pgs__disk_db_attach(&others[i], d.cache, prefix, 4096, &err), PGS_OK);
	}
	prefix[6] = 1;
	assert_int_equal(pgs__disk_db_attach(&others[SLOTS - 1], d.cache, prefix, 4096, &err), PGS_ELIMIT);
	pgs__disk_db_detach(others[5]);
	assert_int_equal(pgs__disk_db_attach(&others[5], d.cache, prefix, 4096, &err), PGS_OK);
	pgs__mirror_state s;
	assert_int_equal(pgs__mirror_state_get(others[5], &s, &err), PGS_OK);
	assert_int_equal(s.sequence, 0);
	assert_int_equal(disk_page(&d, 3, 0), 3);
	for (int i = 0; i < SLOTS; i++)
		pgs__disk_db_detach(others[i]);
	disk_close(&d);
}

/* --- the bound --------------------------------------------------------------------------------- */

/* D3 */
static void fill_past(uint64_t cache_size, size_t content_size)
{
	disk d;
	disk_open(&d, scratch_path("cache"), cache_size, 1);
	uint64_t count = 4 * cache_size / content_size, found = 0;
	for (uint64_t i = 0; i < count; i++) {
		disk_put(&d, i, content_size);
		if (i % 16 == 0) {
			disk_flush(&d);
			assert_true(file_size(scratch_path("cache")) <= cache_size);
		}
	}
	disk_flush(&d);
	pgs__disk_stat s = disk_stat(&d);
	assert_true(s.evictions > 0);
	assert_int_equal(s.dropped, 0);
	assert_int_equal(s.errors, 0);
	assert_true(s.used_bytes <= cache_size);
	assert_true(file_size(scratch_path("cache")) <= cache_size);
	for (uint64_t i = 0; i < count; i++)
		found += disk_has(&d, i, NULL);
	print_message("contents of %zu bytes: %llu of %llu fit, %.0f %% of the bound\n", content_size,
		      (unsigned long long)found, (unsigned long long)(cache_size / content_size),
		      100.0 * (double)(found * content_size) / (double)cache_size);
	assert_true(found * content_size * 5 > cache_size * 2); /* it is worth its room */
	assert_int_equal(found, s.content_count);
	disk_close(&d);
	unlink(scratch_path("cache"));
	unlink(scratch_path("cache-lock"));
	unlink(scratch_path("cache-state"));
}

static void test_disk_cache__never_grows_past_its_bound(void **state)
{
	(void)state;
	fill_past(SIZE, 900);
	fill_past(SIZE, 1990);
	fill_past(SIZE, 3000);
	fill_past(SIZE + (1 << 20), 65536);
	fill_past(16 * SIZE, 1200);
}

/* A hot set, read now and then, survives a scan of ten times the file. */
static void test_disk_cache__a_scan_leaves_the_hot_set(void **state)
{
	(void)state;
	enum { HOT = 500, SCAN = 40000, CONTENT = 1000 };
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	for (uint64_t i = 0; i < HOT; i++)
		disk_put(&d, i, CONTENT);
	disk_flush(&d);
	for (uint64_t i = 0; i < HOT; i++)
		assert_true(disk_has(&d, i, NULL));
	unsigned missed = 0;
	for (uint64_t i = 0; i < SCAN; i++) {
		disk_put(&d, 1000000 + i, CONTENT);
		if (i % 8 == 0 && !disk_has(&d, i / 8 % HOT, NULL)) { /* what is missed is fetched, and put again */
			missed++;
			disk_put(&d, i / 8 % HOT, CONTENT);
		}
	}
	unsigned kept = 0;
	for (uint64_t i = 0; i < HOT; i++)
		kept += disk_has(&d, i, NULL);
	print_message("of %d hot pages %u are there after a scan of %d; %u of %d reads missed\n", HOT, kept, SCAN, missed,
		      SCAN / 8);
	assert_true(kept >= HOT * 95 / 100);
	assert_true(missed <= SCAN / 8 / 20);
	disk_close(&d);
}

/* Without being read meanwhile: what was found hot before stays through one scan of ten times the file. */
static void test_disk_cache__a_scan_alone_goes_through_the_small_queue(void **state)
{
	(void)state;
	enum { HOT = 500, WARM_UP = 4000, SCAN = 40000, CONTENT = 1000 };
	disk d;
	unsigned kept = 0;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	for (uint64_t i = 0; i < HOT; i++)
		disk_put(&d, i, CONTENT);
	disk_flush(&d);
	for (uint64_t i = 0; i < HOT; i++)
		disk_has(&d, i, NULL);
	for (uint64_t i = 0; i < SCAN; i++)
		disk_put(&d, 1000000 + i, CONTENT);
	disk_flush(&d);
	for (uint64_t i = 0; i < HOT; i++)
		kept += disk_has(&d, i, NULL);
	print_message("of %d hot pages %u are there after a scan of %d\n", HOT, kept, SCAN);
	assert_true(kept >= HOT * 95 / 100);
	disk_close(&d);
}

/* Contents of all sizes come and go in a file at its bound: what is free is scattered, and has to do for large ones. */
static size_t mixed_size(uint64_t n)
{
	return n % 40 == 0 ? 65536 : n % 3 == 0 ? 4096 : n % 3 == 1 ? 3000 : 700;
}

static void test_disk_cache__scattered_room_does_for_large_contents(void **state)
{
	enum { HOT = 60, COUNT = 30000 };
	disk d;
	unsigned missed = 0;
	(void)state;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	for (uint64_t i = 1; i < COUNT; i++) {
		uint64_t hot = i % HOT * 3; /* of 4 KiB, but for two */
		disk_put(&d, i + COUNT, mixed_size(i));
		if (i % 8 == 0)
			pgs__disk_flush(d.cache, pgs__now_ms() + 5000, NULL);
		if (i % 4 == 0 && !disk_has(&d, hot, NULL)) { /* fetched, and put again */
			missed++;
			disk_put(&d, hot, mixed_size(hot));
		}
	}
	pgs__disk_flush(d.cache, pgs__now_ms() + 5000, NULL);
	pgs__disk_stat s = disk_stat(&d);
	print_message("%u of %d hot reads missed; %llu puts, %llu dropped, %llu errors; %.0f %% of the bound are contents\n",
		      missed, COUNT / 4, (unsigned long long)s.puts, (unsigned long long)s.dropped,
		      (unsigned long long)s.errors, 100.0 * (double)s.content_bytes / SIZE);
	assert_int_equal(s.errors, 0);
	assert_int_equal(s.dropped, 0);
	assert_true(s.puts >= COUNT - 1);
	assert_true(missed <= COUNT / 4 / 20);
	assert_true(s.content_bytes * 3 > SIZE * 2ull); /* a page of 4 KiB does not take two */
	assert_true(file_size(scratch_path("cache")) <= SIZE);
	disk_close(&d);
}

/* All that is there is read again and again, and more than that comes: something has to go all the same. */
static void test_disk_cache__what_is_all_in_use_makes_room(void **state)
{
	enum { IN_USE = 1000, ROUNDS = 40, NEW = 64 };
	disk d;
	(void)state;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	for (uint64_t round = 0; round < ROUNDS; round++) {
		for (uint64_t i = 0; i < 4 * IN_USE; i++)
			if (!disk_has(&d, i % IN_USE, NULL))
				disk_put(&d, i % IN_USE, 3000);
		for (uint64_t i = 0; i < NEW; i++)
			disk_put(&d, IN_USE + round * NEW + i, 4096);
		pgs__disk_flush(d.cache, pgs__now_ms() + 5000, NULL);
	}
	pgs__disk_stat s = disk_stat(&d);
	print_message("%llu puts, %llu dropped, %llu errors\n", (unsigned long long)s.puts, (unsigned long long)s.dropped,
		      (unsigned long long)s.errors);
	assert_int_equal(s.errors, 0);
	assert_int_equal(s.dropped, 0);
	disk_close(&d);
}

/* A content that comes back soon after it went is known (a ghost), and goes to the main queue. */
static void test_disk_cache__what_comes_back_is_kept(void **state)
{
	(void)state;
	enum { CONTENT = 1000 };
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_put(&d, 0, CONTENT);
	uint64_t n = 1;
	for (disk_flush(&d); disk_stat(&d).evictions < 10; n++) {
		disk_put(&d, n, CONTENT);
		disk_flush(&d);
	}
	assert_int_equal(disk_stat(&d).bad, 0);
	disk_put(&d, 0, CONTENT); /* it went; now it is in the main queue */
	disk_flush(&d);
	for (uint64_t end = n + 6000; n < end; n++)
		disk_put(&d, n, CONTENT);
	disk_flush(&d);
	assert_true(disk_has(&d, 0, NULL));
	disk_close(&d);
}

static void test_disk_cache__a_dropped_content_is_gone_and_counted(void **state)
{
	(void)state;
	disk d;
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_put(&d, 1, 1000);
	disk_flush(&d);
	pgs__page_id id = disk_id(1);
	pgs__disk_drop(d.db, &id);
	assert_false(disk_has(&d, 1, NULL));
	assert_int_equal(disk_stat(&d).bad, 1);
	assert_int_equal(d.warnings, 1);
	pgs__disk_drop(d.db, &id);
	assert_int_equal(d.warnings, 1); /* said once */
	disk_put(&d, 1, 1000);
	disk_flush(&d);
	assert_true(disk_has(&d, 1, NULL));
	disk_close(&d);
}

/* --- memory that runs out --------------------------------------------------------------------- */

static void see_nothing(void *ctx, size_t index, pgs_slice stored)
{
	(void)index;
	(void)stored;
	++*(unsigned *)ctx;
}

static int use_while_memory_fails(const char *path)
{
	pgs__disk_cache_options o = {.path = path, .size_bytes = SIZE};
	pgs__disk_cache *cache;
	pgs__disk_db *db = NULL;
	pgs__page_id id = disk_id(1);
	unsigned found = 0;
	uint64_t soon = pgs__now_ms() + 1000;
	int status = pgs__disk_cache_open(&cache, &o, NULL);
	if (status == PGS_OK)
		status = pgs__disk_db_attach(&db, cache, disk_prefix, DISK_PAGE, NULL);
	if (status == PGS_OK) {
		pgs__disk_put(db, &id, (pgs_slice){"content", 7});
		status = pgs__disk_flush(cache, soon, NULL);
		pgs__disk_get(db, &id, 1, see_nothing, &found);
	}
	if (status == PGS_OK)
		status = pgs__mirror_load_begin(db, 10, soon, NULL);
	if (status == PGS_OK)
		status = pgs__mirror_load_end(db, 10, soon, NULL);
	pgs__disk_db_detach(db);
	pgs__disk_cache_close(cache);
	return status;
}

static void test_disk_cache__memory_may_run_out_anywhere(void **state)
{
	(void)state;
	char path[200];
	bool failed = true;
	snprintf(path, sizeof path, "%s", scratch_path("cache"));
	failing_alloc_install();
	for (size_t nth = 1; failed; nth++) {
		assert_true(nth < 100);
		failing_alloc_begin(nth);
		int status = use_while_memory_fails(path);
		failed = failing_alloc_end();
		assert_true(status == PGS_OK || (failed && status == PGS_ENOMEM));
		assert_int_equal(failing_alloc_live(), 0);
	}
	failing_alloc_uninstall();
}

/* --- threads ------------------------------------------------------------------------------------ */

enum { THREADS = 4, THREAD_ROUNDS = 600, THREAD_CONTENTS = 6000 };

typedef struct thread {
	pthread_t id;
	disk *d;
	uint64_t random;
	bool wrong;
} thread;

static void *use_in_thread(void *ctx)
{
	thread *t = ctx;
	for (int i = 0; i < THREAD_ROUNDS; i++) {
		unsigned damaged = 0;
		t->random = t->random * 6364136223846793005u + 1442695040888963407u;
		uint64_t n = (t->random >> 33) % THREAD_CONTENTS, page = n % 10;
		if (!disk_has(t->d, n, &damaged))
			disk_put(t->d, n, 100 + n % 3000);
		uint64_t at = pgs__mirror_sequence(t->d->db);
		disk_apply(t->d, at, at + 1, at % 10, at + 1); /* revision r puts r at page (r - 1) % 10 */
		uint64_t seen = disk_page(t->d, page, at);
		t->wrong |= damaged || (seen != DISK_UNKNOWN && seen > 10 && (seen - 1) % 10 != page);
		if (i % 100 == 0)
			pgs__disk_cache_checkpoint(t->d->cache, pgs__now_ms() + 1000, NULL);
		pgs__mirror_require(t->d->db, at);
		t->wrong |= pgs__mirror_required(t->d->db) < at;
	}
	return NULL;
}

static void test_disk_cache__threads_share_it(void **state)
{
	(void)state;
	disk d;
	thread threads[THREADS];
	disk_open(&d, scratch_path("cache"), SIZE, 1);
	disk_load(&d, 10, 10);
	for (uint64_t i = 0; i < THREADS; i++) {
		threads[i] = (thread){.d = &d, .random = i};
		assert_int_equal(pthread_create(&threads[i].id, NULL, use_in_thread, &threads[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i].id, NULL);
		assert_false(threads[i].wrong);
	}
	assert_true(pgs__mirror_sequence(d.db) > 100);
	assert_int_equal(disk_stat(&d).bad, 0);
	disk_close(&d);
}

/* --- stores that have one ------------------------------------------------------------------------- */

typedef struct with_cache {
	server server;
	pgs_store *store;
	pgs_db *db;
	unsigned lines;
} with_cache;

static void count_line(void *ctx, int level, const char *message)
{
	(void)level;
	(void)message;
	++*(unsigned *)ctx;
}

static uint64_t seed_of(uint64_t page_no)
{
	return (page_no + 1) * 256 + 1;
}

/* A new handle on the store, whose cache in memory is empty and small. */
static void open_with_cache(with_cache *w, const char *path, pgs_fault *fault)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	pgs_db_options d = PGS_DB_OPTIONS_INIT;
	o.cache_path = path;
	o.cache_size_bytes = SIZE;
	o.logger = count_line;
	o.logger_ctx = &w->lines;
	d.cache_bytes = 1;
	w->store = server_open(&w->server, fault, &o);
	int status = pgs_db_open(&w->db, w->store, "db", 2, &d, &err);
	expect_code(status, PGS_OK, &err, "opening");
}

static void close_with_cache(with_cache *w)
{
	pgs_db_close(w->db);
	pgs_close(w->store);
}

static void make_pages(with_cache *w, uint64_t count)
{
	*w = (with_cache){.lines = 0};
	server_start(&w->server, NULL);
	pgs_store *store = server_open(&w->server, NULL, NULL);
	pgs_db *db = create_db(store, "db", NULL);
	write_pages(db, 0, count, seed_of);
	pgs_db_close(db);
	pgs_close(store);
}

static int read_pages(with_cache *w, uint64_t count)
{
	pgs_txn *txn;
	int result = pgs_begin(&txn, w->db, NULL, NULL);
	for (uint64_t i = 0; result == PGS_OK && i < count; i++)
		result = read_seed(txn, i, seed_of(i));
	pgs_abort(txn);
	return result;
}

static pgs_db_stat stat_of(with_cache *w)
{
	pgs_db_stat s = PGS_DB_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_stat(w->db, &s, &err), PGS_OK, &err, "pgs_stat");
	return s;
}

static void test_disk_cache__a_store_reads_each_content_once(void **state)
{
	(void)state;
	with_cache w;
	make_pages(&w, 300); /* more than a megabyte: they are in a sorted file */
	open_with_cache(&w, scratch_path("cache"), NULL);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	pgs_db_stat s = stat_of(&w);
	assert_int_equal(s.disk_cache_hits, 0);
	assert_true(s.disk_cache_misses >= 300);
	assert_int_equal(s.disk_cache_limit_bytes, SIZE);
	close_with_cache(&w);
	open_with_cache(&w, scratch_path("cache"), NULL);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	s = stat_of(&w);
	assert_true(s.disk_cache_hits >= 300);
	assert_int_equal(s.disk_cache_misses, 0);
	assert_int_equal(s.disk_cache_puts, 0);
	assert_int_equal(s.disk_cache_page_count, 300);
	assert_int_equal(w.lines, 0);
	close_with_cache(&w);
	server_stop(&w.server);
}

/* What one process did is known to the next; what it did itself begins anew. */
static void test_disk_cache__what_all_did_is_counted(void **state)
{
	(void)state;
	with_cache w;
	pgs_cache_stat s = PGS_CACHE_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	make_pages(&w, 300);
	for (unsigned round = 0; round < 3; round++) {
		open_with_cache(&w, scratch_path("cache"), NULL);
		assert_int_equal(read_pages(&w, 300), PGS_OK);
		expect_code(pgs_cache_stat_get(w.db, &s, &err), PGS_OK, &err, "pgs_cache_stat_get");
		assert_true(s.usable);
		if (round < 2)
			close_with_cache(&w);
	}
	assert_int_equal(s.misses, 0);
	assert_int_equal(s.puts, 0);
	assert_true(s.hits >= 300);
	assert_int_equal(s.all_hits, 2 * s.hits);
	assert_int_equal(s.all_hit_bytes, 2 * s.hit_bytes);
	assert_true(s.all_misses >= 300);
	assert_int_equal(s.all_puts, 300);
	assert_int_equal(s.page_count, 300);
	assert_true(s.page_bytes >= s.all_put_bytes);
	assert_int_equal(s.limit_bytes, SIZE);
	assert_true(s.used_bytes > s.page_bytes && s.used_bytes < s.limit_bytes);
	assert_int_equal(s.bad + s.errors + s.all_bad + s.all_errors + s.all_puts_dropped, 0);
	assert_int_equal(s.keeper_pid, 0);
	assert_true(s.mirror_confirmed_ms == UINT64_MAX);
	close_with_cache(&w);
	server_stop(&w.server);
}

/* A transaction's cost tells what came from the file apart from what came from memory. */
static void test_disk_cache__is_part_of_what_a_transaction_costs(void **state)
{
	(void)state;
	with_cache w;
	pgs_error err = PGS_ERROR_INIT;
	make_pages(&w, 300);
	for (unsigned round = 0; round < 2; round++) {
		pgs_cost cost = PGS_COST_INIT;
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		pgs_txn *txn;
		o.cost = &cost;
		open_with_cache(&w, scratch_path("cache"), NULL);
		expect_code(pgs_begin(&txn, w.db, &o, &err), PGS_OK, &err, "pgs_begin");
		for (uint64_t i = 0; i < 300; i++)
			assert_int_equal(read_seed(txn, i, seed_of(i)), PGS_OK);
		pgs_abort(txn);
		assert_int_equal(cost.disk_cache_hits, round ? 300 : 0);
		assert_int_equal(cost.disk_cache_misses, round ? 0 : 300);
		assert_true(round ? cost.blob_gets == 0 : cost.blob_gets > 0);
		close_with_cache(&w);
	}
	server_stop(&w.server);
}

static void add_requests(void *ctx, const pgs_operation_stat *stat)
{
	*(uint64_t *)ctx += stat->requests;
}

static uint64_t requests_of(pgs_store *store)
{
	uint64_t count = 0;
	assert_int_equal(pgs_store_operations(store, add_requests, &count, NULL), PGS_OK);
	return count;
}

static void test_disk_cache__its_numbers_ask_nobody(void **state)
{
	(void)state;
	with_cache w;
	pgs_cache_stat s = PGS_CACHE_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	make_pages(&w, 10);
	w.store = server_open(&w.server, NULL, NULL);
	expect_code(pgs_db_open(&w.db, w.store, "db", 2, NULL, &err), PGS_OK, &err, "opening");
	expect_code(pgs_cache_stat_get(w.db, &s, &err), PGS_OK, &err, "without a cache");
	assert_false(s.usable);
	assert_int_equal(s.limit_bytes + s.hits + s.all_hits + s.mirror_revision, 0);
	close_with_cache(&w);
	open_with_cache(&w, scratch_path("cache"), NULL);
	assert_int_equal(read_pages(&w, 10), PGS_OK);
	uint64_t before = requests_of(w.store);
	expect_code(pgs_cache_stat_get(w.db, &s, &err), PGS_OK, &err, "one that works");
	assert_true(s.usable && before > 0);
	assert_int_equal(requests_of(w.store), before);
	s.struct_size = 8;
	expect_code(pgs_cache_stat_get(w.db, &s, &err), PGS_EINVAL, &err, "struct_size");
	s.struct_size = sizeof s;
	atomic_store(&w.db->contents.disk->file->state.words->condition, PGS__SHARED_BROKEN);
	expect_code(pgs_cache_stat_get(w.db, &s, &err), PGS_OK, &err, "one that failed");
	assert_false(s.usable);
	assert_int_equal(s.limit_bytes, 0);
	close_with_cache(&w);
	server_stop(&w.server);
}

/* Damage every content in the file, by putting another page's there. */
static void test_disk_cache__a_wrong_content_is_dropped_and_fetched_again(void **state)
{
	(void)state;
	with_cache w;
	make_pages(&w, 300);
	open_with_cache(&w, scratch_path("cache"), NULL);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	close_with_cache(&w);
	size_t size = file_size(scratch_path("cache"));
	uint8_t *bytes = malloc(size);
	int fd = open(scratch_path("cache"), O_RDWR);
	assert_int_equal(pread(fd, bytes, size, 0), size);
	uint8_t page[TEST_PAGE_SIZE];
	unsigned flipped = 0;
	for (uint64_t i = 0; i < 300; i++) {
		fill_page(page, seed_of(i)); /* they do not compress */
		uint8_t *at = memmem(bytes, size, page + 1000, 64), *next = at;
		for (; next; next = memmem(at, size - (size_t)(at - bytes), page + 1000, 64)) { /* LMDB leaves copies about */
			at = next;
			at[flipped % 64] ^= (uint8_t)(1u << i % 8);
		}
		flipped += at != NULL;
	}
	assert_int_equal(flipped, 300);
	assert_int_equal(pwrite(fd, bytes, size, 0), size);
	close(fd);
	free(bytes);
	open_with_cache(&w, scratch_path("cache"), NULL);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	pgs_db_stat s = stat_of(&w);
	assert_int_equal(s.disk_cache_bad, 300);
	assert_int_equal(w.lines, 1);
	close_with_cache(&w);
	open_with_cache(&w, scratch_path("cache"), NULL);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	assert_int_equal(stat_of(&w).disk_cache_bad, 0);
	assert_true(stat_of(&w).disk_cache_hits >= 300);
	close_with_cache(&w);
	server_stop(&w.server);
}

static void test_disk_cache__verification_does_not_believe_it(void **state)
{
	(void)state;
	with_cache w;
	pgs_verify_options o = PGS_VERIFY_OPTIONS_INIT;
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	make_pages(&w, 300);
	open_with_cache(&w, scratch_path("cache"), NULL);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	uint64_t hits = stat_of(&w).disk_cache_hits;
	o.deep = true;
	expect_code(pgs_verify(w.db, &o, &report, &err), PGS_OK, &err, "pgs_verify");
	assert_int_equal(stat_of(&w).disk_cache_hits, hits);
	close_with_cache(&w);
	server_stop(&w.server);
}

static void test_disk_cache__two_stores_with_one_path_do_not_meet(void **state)
{
	(void)state;
	with_cache a, b;
	make_pages(&a, 300);
	make_pages(&b, 300);
	for (int i = 0; i < 2; i++) {
		open_with_cache(&a, scratch_path("cache"), NULL);
		open_with_cache(&b, scratch_path("cache"), NULL);
		assert_int_equal(read_pages(&a, 300), PGS_OK);
		assert_int_equal(read_pages(&b, 300), PGS_OK);
		assert_int_equal(stat_of(&a).disk_cache_bad + stat_of(&b).disk_cache_bad, 0);
		close_with_cache(&b);
		close_with_cache(&a);
	}
	server_stop(&a.server);
	server_stop(&b.server);
}

static void test_disk_cache__one_that_fails_makes_reads_slower_only(void **state)
{
	(void)state;
	with_cache w;
	make_pages(&w, 300);
	open_with_cache(&w, scratch_path("cache"), NULL);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	atomic_store(&w.db->contents.disk->file->state.words->condition, PGS__SHARED_BROKEN);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	assert_int_equal(stat_of(&w).disk_cache_limit_bytes, 0);
	close_with_cache(&w);
	w.lines = 0;
	open_with_cache(&w, scratch_path("cache"), NULL); /* started over */
	assert_int_equal(w.lines, 1);
	assert_int_equal(read_pages(&w, 300), PGS_OK);
	assert_int_equal(stat_of(&w).disk_cache_limit_bytes, SIZE);
	close_with_cache(&w);
	server_stop(&w.server);
}

static void test_disk_cache__a_wrong_path_is_the_caller_s_mistake(void **state)
{
	(void)state;
	server s;
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	server_start(&s, NULL);
	server_stop(&s);
	o.cache_path = scratch_path("no/such/cache");
	expect_code(pgs_open(&store, "mem:", &o, &err), PGS_ENOTFOUND, &err, "no directory");
	assert_non_null(strstr(err.message, "no/such"));
	o.cache_path = NULL;
	o.cache_size_bytes = SIZE;
	expect_code(pgs_open(&store, "mem:", &o, &err), PGS_EINVAL, &err, "a size without a path");
	o.cache_path = scratch_path("cache");
	o.cache_size_bytes = 1000;
	expect_code(pgs_open(&store, "mem:", &o, &err), PGS_EINVAL, &err, "too small");
}

static void test_disk_cache__a_url_names_it(void **state)
{
	(void)state;
	char url[1024];
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_stat s = PGS_DB_STAT_INIT;
	snprintf(url, sizeof url, "dir:%s?cache=%s%%20x&sync=off&cache_size=5M", scratch_path("store"), scratch_path("c"));
	expect_code(pgs_open(&store, url, NULL, &err), PGS_OK, &err, url);
	pgs_db *db = create_db(store, "db", NULL);
	expect_code(pgs_stat(db, &s, &err), PGS_OK, &err, "pgs_stat");
	assert_int_equal(s.disk_cache_limit_bytes, 5 << 20);
	pgs_db_close(db);
	pgs_close(store);
	assert_true(file_size(scratch_path("c x")) > 0);
	static const char *const wrong[] = {"cache=", "cache_size=5M", "cache=/x&cache_size=", "cache=/x&cache_size=5T",
					    "cache=/x&cache=/y", "cache=/x&cache_size=1M&cache_size=1M", "cache=%00"};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		snprintf(url, sizeof url, "dir:%s?%s", scratch_path("store"), wrong[i]);
		expect_code(pgs_open(&store, url, NULL, &err), PGS_EINVAL, &err, url);
		assert_non_null(strstr(err.message, "cache"));
	}
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(test_disk_cache__##name, scratch_set_up, scratch_tear_down)
	const struct CMUnitTest tests[] = {
		CASE(what_is_wrong_is_said),
		CASE(is_its_owner_s_alone),
		CASE(contents_outlive_the_process_s_handle),
		CASE(stores_do_not_meet),
		CASE(a_crash_of_the_machine_starts_it_over),
		CASE(a_checkpoint_makes_it_clean_until_it_is_written),
		CASE(what_is_damaged_or_of_another_kind_is_started_over),
		CASE(deleted_while_open_goes_on_and_a_new_one_begins),
		CASE(the_database_that_was_not_used_for_the_longest_makes_room),
		CASE(never_grows_past_its_bound),
		CASE(a_scan_leaves_the_hot_set),
		CASE(a_scan_alone_goes_through_the_small_queue),
		CASE(scattered_room_does_for_large_contents),
		CASE(what_is_all_in_use_makes_room),
		CASE(what_comes_back_is_kept),
		CASE(a_dropped_content_is_gone_and_counted),
		CASE(memory_may_run_out_anywhere),
		CASE(threads_share_it),
		CASE(a_store_reads_each_content_once),
		CASE(what_all_did_is_counted),
		CASE(its_numbers_ask_nobody),
		CASE(is_part_of_what_a_transaction_costs),
		CASE(a_wrong_content_is_dropped_and_fetched_again),
		CASE(verification_does_not_believe_it),
		CASE(two_stores_with_one_path_do_not_meet),
		CASE(one_that_fails_makes_reads_slower_only),
		CASE(a_wrong_path_is_the_caller_s_mistake),
		CASE(a_url_names_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
