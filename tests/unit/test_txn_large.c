/* lib/txn: large read sets, the writer lock, large commits and truncations. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "codec/meta.h"
#include "support/stores.h"
#include "support/txn_stage.h"
#include "txn/db.h"
#include "util/clock.h"
#include "util/process.h"

#define THIN PAGE_THIN

static void small_pages(stage *s)
{
	s->options.page_size_bytes = 512;
	s->options.cache_bytes = 16 << 20;
	stage_remake(s);
}

static uint64_t fill(pgs_db *db, stage *s, uint64_t first, uint64_t count, uint64_t generation)
{
	pgs_txn *t = tx_begin(db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < count; i++)
		tx_put(t, s, first + i, THIN(generation));
	return tx_commit(t);
}

static void read_all(pgs_txn *t, stage *s, uint64_t first, uint64_t end, uint64_t step, uint64_t tag)
{
	enum { BATCH = 500 };
	uint64_t pages[BATCH];
	static uint8_t bytes[BATCH][512];
	void *dst[BATCH];
	for (uint64_t page = first; page < end;) {
		size_t count = 0;
		for (; count < BATCH && page < end; count++, page += step) {
			pages[count] = page;
			dst[count] = bytes[count];
		}
		assert_int_equal(pgs_read_many(t, pages, count, dst), PGS_OK);
		for (size_t i = 0; i < count; i++)
			if (page_tag(bytes[i]) != tag)
				fail_msg("page %llu: %llx, not %llx", (unsigned long long)pages[i],
					 (unsigned long long)page_tag(bytes[i]), (unsigned long long)tag);
	}
	(void)s;
}

/* --- read sets ------------------------------------------------------------------- */

static void test_txn_large__a_read_set_of_100000_conflicts_exactly(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 200000, 1);
	for (int conflict = 0; conflict < 2; conflict++) {
		pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
		read_all(t, s, 0, 200000, 2, THIN(1));
		tx_put(t, s, 1, THIN(10 + (uint64_t)conflict));
		for (uint64_t i = 0; i < 5; i++)
			tx_one(stage_other(s), s, 12345 + 2 * i, THIN(7 + i));
		if (conflict)
			tx_one(stage_other(s), s, 150000, THIN(7));
		tx_one(stage_other(s), s, 300, THIN(1)); /* as it is */
		tx_one(stage_other(s), s, 12345, THIN(20));
		if (conflict)
			tx_conflict(t, 150000);
		else
			tx_commit(t);
	}
}

static bool lock_is_there(stage *s)
{
	return stage_keys_of(s, 'k') > 0;
}

/* Commits something unread before every transaction of the store under test, until it takes the lock. */
static void interfere(stage *s, const char *operation)
{
	if (strcmp(operation, "txn") != 0)
		return;
	if (!lock_is_there(s)) {
		tx_one(stage_other(s), s, s->page, THIN(1000 + s->calls[0]++));
		return;
	}
	if (s->calls[1]++)
		return;
	pgs_txn *t;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.write = true;
	o.timeout_ms = s->variant->backend & STAGE_SERVERS ? 3000 : 50;
	assert_int_equal(pgs_begin(&t, stage_other(s), &o, NULL), PGS_OK);
	tx_put(t, s, 1, THIN(5));
	assert_int_equal(pgs_commit(t, NULL, NULL, &err), PGS_EBUSY);
}

static void test_txn_lock__is_taken_after_three_lost_rounds(void **state)
{
	stage *s = *state;
	small_pages(s);
	fill(s->db, s, 0, 6000, 1);
	stage_other(s);
	for (int conflict = 0; conflict < 2; conflict++) {
		s->calls[0] = s->calls[1] = 0;
		s->page = conflict ? 4000 : 4001;
		pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
		read_all(t, s, 0, 6000, 2, THIN(1));
		tx_put(t, s, 3, THIN(10 + (uint64_t)conflict));
		s->before = interfere;
		if (conflict)
			tx_conflict(t, 4000);
		else
			tx_commit(t);
		s->before = NULL;
		assert_false(lock_is_there(s));
		if (conflict)
			continue;
		assert_in_range(s->calls[0], 3, 8);
		assert_true(s->calls[1] >= 1);
	}
}

static void put_lock(stage *s, uint64_t pid, uint64_t start, uint32_t lease_ms)
{
	pgs__process self = pgs__process_self();
	pgs__lock lock = {.pid = pid ? pid : self.pid, .process_start = pid ? start : self.start, .lease_ms = lease_ms};
	pgs__buffer b = {0};
	memcpy(lock.boot_id, self.boot_id, sizeof lock.boot_id);
	pgs__lock_encode(&lock, &b);
	pgs__key key = pgs__key_lock(pgs__db_prefix(s->db), "w");
	pgs_kv_op op = pgs__op_put(pgs__key_slice(&key), pgs__buffer_slice(&b));
	pgs_kv_txn txn = {.success = &op, .success_count = 1};
	assert_int_equal(s->kv->vtable->txn(s->kv, &txn, 1, 0, NULL), PGS_OK);
	s->kv->vtable->release(s->kv, &txn, 1);
	pgs__buffer_free(&b);
}

static void test_txn_lock__a_dead_holder_is_broken_at_once(void **state)
{
	stage *s = *state;
	put_lock(s, 1u << 30, 1, 60000); /* no such process can be */
	uint64_t began = pgs__now_ms();
	tx_one(s->db, s, 0, THIN(1));
	assert_true(pgs__now_ms() - began < 30000); /* not its lease */
	assert_false(lock_is_there(s));
}

static void test_txn_lock__a_live_holder_has_its_lease(void **state)
{
	stage *s = *state;
	put_lock(s, 0, 0, 200);
	uint64_t began = pgs__now_ms();
	tx_one(s->db, s, 0, THIN(1));
	assert_true(pgs__now_ms() - began >= 200);
	assert_false(lock_is_there(s));
	put_lock(s, 0, 0, 60000);
	pgs_txn *t;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.write = true;
	o.timeout_ms = 100;
	assert_int_equal(pgs_begin(&t, s->db, &o, NULL), PGS_OK);
	tx_put(t, s, 0, THIN(2));
	assert_int_equal(pgs_commit(t, NULL, NULL, NULL), PGS_EBUSY);
	assert_true(lock_is_there(s));
	stage_expect(s, 0, THIN(1));
}

/* --- commits of every size --------------------------------------------------------------- */

typedef struct watcher {
	pthread_t thread;
	pgs_db *db;
	uint64_t last; /* page */
	atomic_bool stop;
	atomic_uint looks, torn;
} watcher;

/* Sees the first, a middle and the last page of one generation, or something is torn. */
static void *watch(void *ctx)
{
	watcher *w = ctx;
	while (!atomic_load(&w->stop)) {
		pgs_txn *t;
		uint8_t page[3][512];
		void *dst[] = {page[0], page[1], page[2]};
		const uint64_t pages[] = {0, w->last / 2, w->last};
		if (pgs_begin(&t, w->db, NULL, NULL) != PGS_OK) {
			atomic_fetch_add(&w->torn, 1);
			break;
		}
		if (pgs_read_many(t, pages, 3, dst) != PGS_OK || page_tag(page[0]) != page_tag(page[1]) ||
		    page_tag(page[0]) != page_tag(page[2]))
			atomic_fetch_add(&w->torn, 1);
		pgs_abort(t);
		atomic_fetch_add(&w->looks, 1);
		pgs__sleep_ms(1, 0);
	}
	return NULL;
}

static void commit_of(stage *s, uint64_t count)
{
	small_pages(s);
	watcher w = {.db = stage_other(s), .last = count - 1};
	assert_int_equal(pthread_create(&w.thread, NULL, watch, &w), 0);
	pgs_txn *reader = tx_begin(s->db, PGS_SERIALIZABLE), *past = tx_begin(s->db, PGS_SERIALIZABLE), *inside;
	uint64_t first = fill(s->db, s, 0, count, 1);
	tx_expect(reader, s, count / 2, PAGE_ZERO); /* past its extent */
	tx_put(reader, s, 0, THIN(9));
	tx_put(past, s, count, PAGE_ZERO); /* blind */
	tx_conflict(reader, PGS_NO_PAGE);
	tx_commit(past);
	inside = tx_begin(s->db, PGS_SERIALIZABLE);
	past = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect(inside, s, count / 2, THIN(1));
	tx_expect(past, s, count, PAGE_ZERO);
	tx_put(inside, s, count, THIN(9));
	tx_put(past, s, count + 1, THIN(9));
	uint64_t second = fill(s->db, s, 0, count, 2);
	tx_conflict(inside, count / 2);
	tx_commit(past);
	pgs_txn *t = tx_read(s->other_db);
	read_all(t, s, 0, count, 1, THIN(2));
	pgs_abort(t);
	t = tx_at(s->other_db, first);
	read_all(t, s, 0, count, count > 20000 ? 101 : 1, THIN(1));
	tx_expect_count(t, count);
	pgs_abort(t);
	t = tx_at(s->db, second);
	tx_expect(t, s, count - 1, THIN(2));
	tx_expect(t, s, count + 1, PAGE_ZERO);
	pgs_abort(t);
	for (int i = 0; i < 5000 && atomic_load(&w.looks) == 0; i++)
		pgs__sleep_ms(1, 0);
	atomic_store(&w.stop, true);
	pthread_join(w.thread, NULL);
	assert_int_equal(atomic_load(&w.torn), 0);
	assert_true(atomic_load(&w.looks) > 0);
	if (s->variant->backend & STAGE_LIMITED)
		assert_int_equal(stage_keys_of(s, 'o'), count > 100 ? 2 : 0);
}

static void test_txn_large__commits_of_every_size(void **state)
{
	static const uint64_t sizes[] = {1, 127, 128, 129, 10000};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		commit_of(*state, sizes[i]);
}

static void test_txn_large__a_commit_of_300000(void **state)
{
	stage *s = *state;
	if (s->variant->backend != STAGE_LIMITED) {
		skip();
		return;
	}
	commit_of(s, 300000);
	assert_true(stage_blobs(s) >= 2); /* index files */
}

static void test_txn_large__twenty_packs_in_a_row(void **state)
{
	stage *s = *state;
	uint64_t revisions[20];
	small_pages(s);
	for (uint64_t i = 0; i < 20; i++)
		revisions[i] = fill(i & 1 ? s->db : stage_other(s), s, i * 40, 200, i + 1);
	for (uint64_t i = 0; i < 20; i += 3) {
		pgs_txn *t = tx_at(i & 1 ? s->db : stage_other(s), revisions[i]);
		for (uint64_t k = 0; k <= i; k++)
			read_all(t, s, k * 40, k * 40 + (k < i ? 40 : 200), 1, THIN(k + 1));
		tx_expect_count(t, i * 40 + 200);
		pgs_abort(t);
	}
	/* A page under all of them, by its own key. */
	tx_one(s->db, s, 100, THIN(99));
	stage_expect(s, 100, THIN(99));
	stage_expect(s, 101, THIN(3));
}

/* --- truncation ------------------------------------------------------------------------------ */

static void test_txn_truncate__of_thousands_of_pages(void **state)
{
	stage *s = *state;
	for (int packs = 0; packs < 2; packs++) {
		small_pages(s);
		if (packs)
			fill(s->db, s, 0, 3000, 1);
		else
			for (uint64_t i = 0; i < 3000; i += 100)
				fill(s->db, s, i, 100, 1);
		uint64_t before = fill(s->db, s, 2500, 1, 2);
		pgs_txn *reader = tx_begin(stage_other(s), PGS_SERIALIZABLE);
		tx_expect(reader, s, 2400, THIN(1));
		tx_put(reader, s, 5, THIN(50));
		pgs_txn *low = tx_begin(stage_other(s), PGS_SERIALIZABLE);
		tx_expect(low, s, 499, THIN(1));
		tx_put(low, s, 5, THIN(51));
		pgs_txn *blind = tx_begin(stage_other(s), PGS_SERIALIZABLE);
		tx_put(blind, s, 1000, THIN(52));
		pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
		assert_int_equal(pgs_truncate(t, 500), PGS_OK);
		tx_expect(t, s, 700, PAGE_ZERO);
		tx_put(t, s, 600, THIN(3));
		tx_expect_count(t, 601);
		uint64_t after = tx_commit(t);
		tx_conflict(reader, 2400);
		tx_commit(low);
		tx_commit(blind);
		t = tx_begin(s->db, PGS_SERIALIZABLE); /* grown again: nothing comes back */
		tx_expect_count(t, 1001);
		assert_int_equal(pgs_truncate(t, 3000), PGS_OK);
		uint64_t grown = tx_commit(t);
		const uint64_t at[] = {before, after, grown};
		for (size_t i = 0; i < 6; i++) {
			t = tx_at(i < 3 ? s->db : stage_other(s), at[i % 3]);
			bool old = i % 3 == 0, last = i % 3 == 2;
			tx_expect_count(t, old ? 3000 : last ? 3000 : 601);
			tx_expect(t, s, 499, THIN(1));
			tx_expect(t, s, 500, old ? THIN(1) : PAGE_ZERO);
			tx_expect(t, s, 600, old ? THIN(1) : THIN(3));
			tx_expect(t, s, 1000, old ? THIN(1) : last ? THIN(52) : PAGE_ZERO);
			tx_expect(t, s, 2500, old ? THIN(2) : PAGE_ZERO);
			tx_expect(t, s, 2999, old ? THIN(1) : PAGE_ZERO);
			tx_expect(t, s, 5, last ? THIN(51) : THIN(1));
			pgs_abort(t);
		}
	}
}

static void test_txn_truncate__a_page_read_before_it_conflicts(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 10, PAGE_NOISE(0));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect(t, s, 7, PAGE_NOISE(7));
	assert_int_equal(pgs_truncate(t, 5), PGS_OK);
	tx_expect(t, s, 7, PAGE_ZERO);
	tx_one(stage_other(s), s, 7, PAGE_NOISE(70));
	tx_conflict(t, 7);
	t = tx_begin(s->db, PGS_SERIALIZABLE); /* read after it only: what others write there goes with the rest */
	assert_int_equal(pgs_truncate(t, 5), PGS_OK);
	tx_expect(t, s, 7, PAGE_ZERO);
	tx_one(stage_other(s), s, 7, PAGE_NOISE(71));
	tx_commit(t);
	stage_expect(s, 7, PAGE_ZERO);
}

/* Truncated by deleting keys when it began; a pack put since then has no keys to delete. */
static void test_txn_truncate__reaches_a_pack_that_came_meanwhile(void **state)
{
	stage *s = *state;
	small_pages(s);
	for (uint64_t i = 0; i < 300; i += 100)
		fill(s->db, s, i, 100, 1);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 5), PGS_OK);
	tx_put(t, s, 60, THIN(3));
	fill(stage_other(s), s, 50, 200, 2);
	tx_commit(t);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 300), PGS_OK);
	tx_commit(t);
	for (int i = 0; i < 2; i++) {
		t = tx_read(i ? s->other_db : s->db);
		tx_expect(t, s, 4, THIN(1));
		for (uint64_t page = 5; page < 300; page++)
			tx_expect(t, s, page, page == 60 ? THIN(3) : PAGE_ZERO);
		pgs_abort(t);
	}
}

static void test_txn_truncate__joins_the_page_count(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 10, PAGE_NOISE(0));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 5), PGS_OK);
	tx_one(stage_other(s), s, 10, PAGE_NOISE(10));
	tx_conflict(t, PGS_NO_PAGE);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	pgs_txn *other = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 5), PGS_OK);
	assert_int_equal(pgs_truncate(other, 7), PGS_OK);
	tx_commit(t);
	tx_conflict(other, PGS_NO_PAGE);
	t = tx_read(s->db);
	tx_expect_count(t, 5);
	pgs_abort(t);
	uint64_t same = tx_one(s->db, s, 0, PAGE_NOISE(50));
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 5), PGS_OK); /* as it is */
	assert_int_equal(tx_commit(t), same);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

/* Before the second call of a begin: the snapshot it looks at is collected. */
static void collect_at_second_call(stage *s, const char *operation)
{
	(void)operation;
	if (++s->calls[0] != 2)
		return;
	uint64_t revision = tx_one(s->other_db, s, 3, PAGE_NOISE(3));
	assert_int_equal(s->kv->vtable->compact(s->kv, revision, 0, NULL), PGS_OK);
}

static void test_begin__latest_is_never_too_old(void **state)
{
	stage *s = *state;
	pgs_db *other = stage_other(s);
	tx_fill(other, s, 0, 3000, PAGE_NOISE(1000));
	pgs_txn *t = tx_begin(other, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 10), PGS_OK); /* a pack, which the begin below has not seen */
	tx_commit(t);
	s->calls[0] = 0;
	s->before = collect_at_second_call;
	t = tx_read(s->db);
	s->before = NULL;
	assert_true(s->calls[0] > 2);
	tx_expect(t, s, 3, PAGE_NOISE(3));
	tx_expect(t, s, 11, PAGE_ZERO);
	pgs_abort(t);
}

/* Its files are registered in one transaction, so there is a largest commit: told early, with nothing left behind. */
static void test_txn_large__more_files_than_a_commit_registers(void **state)
{
	static const pgs_kv_limits limits = {24, 1572864, 0, 0};
	enum { BUFFER_PAGES = 272, FILES = 24 - 8 + 1 }; /* a buffer is more than a MiB: worth a file */
	server srv;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	server_start(&srv, &limits);
	pgs_store *store = server_open(&srv, NULL, NULL);
	o.page_size_bytes = TEST_PAGE_SIZE;
	o.write_buffer_bytes = (uint64_t)BUFFER_PAGES * TEST_PAGE_SIZE;
	pgs_db *db = create_db(store, "db", &o);
	for (uint64_t most = FILES; most <= FILES + 1; most++) {
		pgs_txn *t = begin_write(db);
		uint64_t page = 0;
		int result = PGS_OK;
		for (; result == PGS_OK && page < most * BUFFER_PAGES; page++)
			result = write_seed(t, page, (most * 100000 + page) * 256);
		if (result == PGS_OK) { /* the last buffer is uploaded by the commit */
			result = pgs_commit(t, NULL, NULL, &err);
		} else {
			err = *pgs_txn_error(t);
			pgs_abort(t);
		}
		expect_code(result, most > FILES ? PGS_ELIMIT : PGS_OK, &err, "as many files as fit");
		assert_int_equal(pgs_stat(db, &stat, NULL), PGS_OK);
		assert_int_equal(stat.file_count, FILES);
		assert_int_equal(stat.blob_count, FILES);
	}
	assert_non_null(strstr(err.message, "17 files"));
	pgs_db_close(db);
	pgs_close(store);
	server_stop(&srv);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_txn_large__a_read_set_of_100000_conflicts_exactly),
		TEST(test_txn_lock__is_taken_after_three_lost_rounds),
		TEST(test_txn_lock__a_dead_holder_is_broken_at_once),
		TEST(test_txn_lock__a_live_holder_has_its_lease),
		TEST(test_txn_large__commits_of_every_size),
		TEST(test_txn_large__a_commit_of_300000),
		TEST(test_txn_large__twenty_packs_in_a_row),
		TEST(test_txn_truncate__of_thousands_of_pages),
		TEST(test_txn_truncate__a_page_read_before_it_conflicts),
		TEST(test_txn_truncate__reaches_a_pack_that_came_meanwhile),
		TEST(test_txn_truncate__joins_the_page_count),
		TEST(test_begin__latest_is_never_too_old),
		cmocka_unit_test(test_txn_large__more_files_than_a_commit_registers),
	};
	return stage_run("txn_large", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
