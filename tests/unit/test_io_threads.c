/* What a transaction does beside its caller where the blob store waits for a network: uploading and reading ahead. The
 * blob store here says that it does, and waits, fails, and counts as it is told. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "support/failing_alloc.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define MIB ((uint64_t)1 << 20)
#define PAGES_PER_MIB (MIB / TEST_PAGE_SIZE)

typedef struct remote {
	pgs_blob base;
	pgs_blob *inner;
} remote;

#define MEETING_MS 100

/* Of all remote stores: there is one at a time. */
static _Atomic bool hold_puts;       /* they wait as long as this is so, or until the deadline or their source's end */
static _Atomic int failing_puts;     /* so many fail */
static _Atomic int failing_gets_one_in; /* 0: none */
static _Atomic unsigned put_calls, get_calls, running_gets, most_gets;
static _Atomic uint64_t get_bytes;
static _Atomic bool gets_meet; /* until two have been under way at once, each waits a while for another */
static pthread_t main_thread;
static _Atomic unsigned puts_of_main;

static void reset(void)
{
	hold_puts = gets_meet = false;
	failing_puts = failing_gets_one_in = 0;
	put_calls = get_calls = most_gets = puts_of_main = 0;
	get_bytes = 0;
	main_thread = pthread_self();
}

static pgs_blob *inner_of(pgs_blob *blob)
{
	return ((remote *)blob)->inner;
}

static int remote_put(pgs_blob *blob, const char *name, uint64_t size, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	uint8_t byte;
	put_calls++;
	puts_of_main += pthread_equal(pthread_self(), main_thread) != 0;
	while (hold_puts) {
		int status = source(ctx, 0, &byte, 1);
		if (status != PGS_OK)
			return status;
		if (pgs__deadline_passed(deadline_ms))
			return PGS_ETIMEOUT;
		pgs__sleep_ms(1, 0);
	}
	if (failing_puts > 0) {
		failing_puts--;
		if (err)
			err->code = PGS_EIO;
		return PGS_EIO;
	}
	return inner_of(blob)->vtable->put(inner_of(blob), name, size, source, ctx, deadline_ms, err);
}

static int remote_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	unsigned now = ++running_gets, most = most_gets, one_in = (unsigned)failing_gets_one_in;
	while (now > most && !atomic_compare_exchange_weak(&most_gets, &most, now))
		;
	for (size_t i = 0; i < count; i++)
		get_bytes += ranges[i].size;
	pgs__sleep_ms(1, 0);
	for (int i = 0; i < MEETING_MS && gets_meet && most_gets < 2; i++)
		pgs__sleep_ms(1, 0);
	int result = inner_of(blob)->vtable->get(inner_of(blob), ranges, count, deadline_ms, err);
	unsigned number = ++get_calls;
	running_gets--;
	if (!one_in || number % one_in)
		return result;
	for (size_t i = 0; i < count; i++)
		ranges[i].status = PGS_EIO;
	return PGS_EIO;
}

static int remote_stat(pgs_blob *blob, const char *name, uint64_t *size, uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(blob)->vtable->stat(inner_of(blob), name, size, deadline_ms, err);
}

static int remote_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(blob)->vtable->list(inner_of(blob), prefix, lister, ctx, deadline_ms, err);
}

static int remote_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(blob)->vtable->remove(inner_of(blob), name, deadline_ms, err);
}

static unsigned remote_concurrency(pgs_blob *blob)
{
	(void)blob;
	return 4;
}

static void remote_close(pgs_blob *blob)
{
	inner_of(blob)->vtable->close(inner_of(blob));
	free(blob);
}

static const pgs_blob_vtable vtable = {
	.version = PGS_BLOB_VERSION,
	.struct_size = sizeof vtable,
	.put = remote_put,
	.get = remote_get,
	.stat = remote_stat,
	.list = remote_list,
	.remove = remote_remove,
	.close = remote_close,
	.concurrency = remote_concurrency,
};

/* --- stores ---------------------------------------------------------------------------- */

typedef struct world {
	server server;
	pgs_store *store;
	pgs_db *db;
} world;

static pgs_store *open_remote(server *s)
{
	pgs_kv *kv;
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	remote *r = malloc(sizeof *r);
	r->base.vtable = &vtable;
	assert_int_equal(pgs_kv_memory_share(&kv, s->kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&r->inner, s->blob, NULL), PGS_OK);
	expect_code(pgs_open_with(&store, kv, &r->base, NULL, &err), PGS_OK, &err, "pgs_open_with");
	return store;
}

static pgs_db_options small_options(void)
{
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	o.page_size_bytes = TEST_PAGE_SIZE;
	o.cache_bytes = 16 * MIB;
	o.write_buffer_bytes = 4 * MIB;
	return o;
}

static void world_open(world *w)
{
	const pgs_db_options o = small_options();
	reset();
	server_start(&w->server, NULL);
	w->store = open_remote(&w->server);
	w->db = create_db(w->store, "db", &o);
}

static void world_close(world *w)
{
	reset();
	pgs_db_close(w->db);
	pgs_close(w->store);
	server_stop(&w->server);
}

/* As a process that knows nothing yet. */
static void world_reopen(world *w)
{
	pgs_db_options o = small_options();
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_close(w->db);
	pgs_close(w->store);
	w->store = open_remote(&w->server);
	expect_code(pgs_db_open(&w->db, w->store, "db", 2, &o, &err), PGS_OK, &err, "pgs_db_open");
}

static uint64_t first_seed(uint64_t page_no)
{
	return 1000 + page_no * 256;
}

static uint64_t second_seed(uint64_t page_no)
{
	return 77000000 + page_no * 256;
}

static void put_range(pgs_txn *t, uint64_t first, uint64_t end, uint64_t (*seed)(uint64_t))
{
	for (uint64_t i = first; i < end; i++)
		expect_code(write_seed(t, i, seed(i)), PGS_OK, pgs_txn_error(t), "pgs_write");
}

static void read_range(pgs_txn *t, uint64_t first, uint64_t end, uint64_t (*seed)(uint64_t))
{
	for (uint64_t i = first; i < end; i++)
		expect_code(read_seed(t, i, seed(i)), PGS_OK, pgs_txn_error(t), "pgs_read");
}

static int count_one(void *ctx, const char *name, uint64_t size)
{
	(void)size;
	*(size_t *)ctx += strstr(name, "/s-") != NULL;
	return 0;
}

/* Sorted files in the store. */
static size_t count_files(world *w)
{
	size_t count = 0;
	assert_int_equal(w->server.blob->vtable->list(w->server.blob, "", count_one, &count, 0, NULL), PGS_OK);
	return count;
}

/* --- uploading -------------------------------------------------------------------------- */

static void test_upload__goes_on_beside_the_writer(void **state)
{
	(void)state;
	world w;
	world_open(&w);
	pgs_txn *t = begin_write(w.db);
	hold_puts = true;
	put_range(t, 0, 3 * PAGES_PER_MIB, first_seed); /* the first half of the buffer is under way, and this goes on */
	for (int i = 0; i < 20000 && put_calls < 2; i++)
		pgs__sleep_ms(1, 0);
	assert_int_equal(put_calls, 2); /* the store's identity, a file */
	hold_puts = false;
	put_range(t, 3 * PAGES_PER_MIB, 13 * PAGES_PER_MIB, first_seed);
	unsigned of_main = puts_of_main;
	commit_ok(t);
	assert_true(of_main == 1 && put_calls >= 7);
	world_reopen(&w);
	t = begin_write(w.db);
	read_range(t, 0, 13 * PAGES_PER_MIB, first_seed);
	pgs_abort(t);
	world_close(&w);
}

/* Pages of a file that is under way are read, written again, and truncated away. */
static void test_upload__does_not_hold_its_pages(void **state)
{
	(void)state;
	world w;
	world_open(&w);
	for (int held = 0; held < 2; held++) {
		pgs_txn *t = begin_write(w.db);
		hold_puts = held == 1;
		put_range(t, 0, 3 * PAGES_PER_MIB, first_seed);
		put_range(t, 10, 200, second_seed);
		assert_int_equal(pgs_truncate(t, PAGES_PER_MIB), PGS_OK);
		hold_puts = false;
		read_range(t, 0, 10, first_seed);
		read_range(t, 10, 200, second_seed);
		put_range(t, PAGES_PER_MIB, 9 * PAGES_PER_MIB, second_seed);
		read_range(t, 200, PAGES_PER_MIB, first_seed);
		commit_ok(t);
		world_reopen(&w);
		t = begin_write(w.db);
		read_range(t, 0, 10, first_seed);
		read_range(t, 10, 200, second_seed);
		read_range(t, 200, PAGES_PER_MIB, first_seed);
		read_range(t, PAGES_PER_MIB, 9 * PAGES_PER_MIB, second_seed);
		pgs_abort(t);
	}
	world_close(&w);
}

static void test_upload__that_failed_is_tried_again(void **state)
{
	(void)state;
	for (int times = 1; times < 6; times += 2) {
		world w;
		world_open(&w);
		pgs_txn *t = begin_write(w.db);
		size_t refused = 0;
		failing_puts = times; /* in the task, then by who waits for it, … */
		for (uint64_t i = 0; i < 9 * PAGES_PER_MIB;) {
			int result = write_seed(t, i, first_seed(i));
			assert_true(result == PGS_OK || result == PGS_EIO);
			refused += result != PGS_OK;
			i += result == PGS_OK;
		}
		assert_int_equal(refused, times - 1);
		commit_ok(t);
		world_reopen(&w);
		t = begin_write(w.db);
		read_range(t, 0, 9 * PAGES_PER_MIB, first_seed);
		pgs_abort(t);
		world_close(&w);
	}
}

/* Nothing is committed that is not durable, and nothing is left. */
static void test_upload__that_fails_fails_the_commit(void **state)
{
	(void)state;
	world w;
	pgs_error err = PGS_ERROR_INIT;
	world_open(&w);
	pgs_txn *t = begin_write(w.db);
	put_range(t, 0, 3 * PAGES_PER_MIB, first_seed);
	failing_puts = 1000;
	assert_int_equal(pgs_commit(t, NULL, NULL, &err), PGS_EIO);
	failing_puts = 0;
	assert_int_equal(count_files(&w), 0);
	t = begin_write(w.db);
	uint64_t count;
	assert_int_equal(pgs_page_count(t, &count), PGS_OK);
	assert_int_equal(count, 0);
	pgs_abort(t);
	world_close(&w);
}

static void test_upload__is_broken_off_by_an_abort(void **state)
{
	(void)state;
	world w;
	world_open(&w);
	pgs_txn *t = begin_write(w.db);
	hold_puts = true;
	put_range(t, 0, 3 * PAGES_PER_MIB, first_seed);
	uint64_t since = pgs__now_ms();
	pgs_abort(t); /* the put would wait for 30 s */
	assert_true(pgs__now_ms() - since < 15000);
	assert_int_equal(count_files(&w), 0);
	world_close(&w);
}

static void test_upload__has_a_deadline(void **state)
{
	(void)state;
	world w;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	world_open(&w);
	options.write = true;
	options.timeout_ms = 1000;
	assert_int_equal(pgs_begin(&t, w.db, &options, &err), PGS_OK);
	put_range(t, 0, 2 * PAGES_PER_MIB, first_seed);
	hold_puts = true;
	put_range(t, 2 * PAGES_PER_MIB, 3 * PAGES_PER_MIB, first_seed);
	uint64_t since = pgs__now_ms();
	assert_int_equal(pgs_commit(t, NULL, NULL, &err), PGS_ETIMEOUT);
	assert_true(pgs__now_ms() - since < 15000);
	hold_puts = false;
	assert_int_equal(count_files(&w), 0);
	world_close(&w);
}

static bool commit_with_failure(world *w, size_t nth)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t = NULL;
	options.write = true;
	failing_alloc_begin(nth);
	int result = pgs_begin(&t, w->db, &options, &err);
	for (uint64_t i = 0; result == PGS_OK && i < 5 * PAGES_PER_MIB; i++)
		result = write_seed(t, i, nth % 2 ? first_seed(i) : second_seed(i));
	if (result == PGS_OK)
		result = pgs_commit(t, NULL, NULL, &err);
	else
		pgs_abort(t);
	bool failed = failing_alloc_end();
	assert_true(result == PGS_OK || (failed && result == PGS_ENOMEM));
	return failed;
}

static void test_upload__allocations_failing(void **state)
{
	(void)state;
	failing_alloc_install();
	world w;
	bool failed = true;
	world_open(&w);
	for (size_t nth = 1; failed; nth += 1 + nth / 4)
		failed = commit_with_failure(&w, nth);
	world_close(&w);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
}

/* --- reading ahead ------------------------------------------------------------------------ */

#define LARGE (24 * PAGES_PER_MIB)

static void fill_large(world *w)
{
	world_open(w);
	pgs_txn *t = begin_write(w->db);
	put_range(t, 0, LARGE, first_seed);
	commit_ok(t);
	world_reopen(w);
	reset();
}

static void test_ahead__windows_are_read_beside_the_reader(void **state)
{
	(void)state;
	world w;
	fill_large(&w);
	gets_meet = true;
	pgs_txn *t = begin_write(w.db);
	read_range(t, 0, LARGE, first_seed);
	read_range(t, LARGE / 2, LARGE, first_seed);
	pgs_abort(t);
	assert_true(most_gets > 1);
	assert_true(get_calls < 200);
	assert_true(get_bytes < 24 * MIB * 2);
	world_close(&w);
}

static void test_ahead__pins_are_read_ahead_too(void **state)
{
	(void)state;
	world w;
	fill_large(&w);
	gets_meet = true;
	pgs_txn *t = begin_write(w.db);
	for (uint64_t i = 0; i < LARGE; i++) {
		uint8_t want[TEST_PAGE_SIZE];
		const void *page;
		fill_page(want, first_seed(i));
		assert_int_equal(pgs_pin(t, i, &page), PGS_OK);
		assert_memory_equal(page, want, sizeof want);
		pgs_unpin(t, page);
	}
	pgs_abort(t);
	assert_true(most_gets > 1 && get_calls < 200);
	world_close(&w);
}

static void test_ahead__is_not_for_who_jumps(void **state)
{
	(void)state;
	world w;
	fill_large(&w);
	pgs_txn *t = begin_write(w.db);
	for (uint64_t i = 0; i < 500; i++)
		read_range(t, i * 997 % LARGE, i * 997 % LARGE + 1, first_seed);
	pgs_abort(t);
	assert_int_equal(most_gets, 1);
	assert_true(get_bytes < 500 * (TEST_PAGE_SIZE + 2304) + MIB);
	world_close(&w);
}

/* What was read ahead is no part of what a commit relies on. */
static void test_ahead__does_not_join_the_read_set(void **state)
{
	(void)state;
	world w;
	pgs_error err = PGS_ERROR_INIT;
	fill_large(&w);
	gets_meet = true;
	pgs_txn *t = begin_write(w.db);
	read_range(t, 0, 6 * PAGES_PER_MIB + 10, first_seed);
	assert_true(most_gets > 1);
	pgs_txn *other = begin_write(w.db);
	put_range(other, LARGE - 1, LARGE, second_seed);
	put_range(other, 8 * PAGES_PER_MIB, 8 * PAGES_PER_MIB + 5, second_seed);
	commit_ok(other);
	put_range(t, LARGE, LARGE + 1, second_seed);
	expect_code(pgs_commit(t, NULL, NULL, &err), PGS_OK, &err, "pgs_commit");
	world_close(&w);
}

/* A window that cannot be read is no failure; a page that cannot is, and may be read again. */
static void test_ahead__failures_are_met_by_the_reader(void **state)
{
	(void)state;
	world w;
	fill_large(&w);
	pgs_txn *t = begin_write(w.db);
	failing_gets_one_in = 3;
	size_t failed = 0;
	for (uint64_t i = 0; i < LARGE;) {
		int result = read_seed(t, i, first_seed(i));
		assert_true(result == PGS_OK || result == PGS_EIO);
		failed += result != PGS_OK;
		i += result == PGS_OK;
	}
	assert_true(failed < 100);
	pgs_abort(t);
	world_close(&w);
}

static void test_ahead__may_be_left_at_any_time(void **state)
{
	(void)state;
	world w;
	fill_large(&w);
	for (uint64_t end = 1; end < LARGE; end += 1 + end / 2) {
		world_reopen(&w);
		pgs_txn *t = begin_write(w.db);
		read_range(t, 0, end, first_seed);
		read_range(t, LARGE - 1, LARGE, first_seed);
		pgs_abort(t);
	}
	world_close(&w);
}

static void *change_pages(void *ctx)
{
	world *w = ctx;
	for (uint64_t round = 0; round < 20; round++) {
		pgs_txn *t = begin_write(w->db);
		for (uint64_t i = 0; i < LARGE; i += 61)
			if (write_seed(t, i, second_seed(i)) != PGS_OK)
				abort();
		if (pgs_commit(t, NULL, NULL, NULL) != PGS_OK)
			abort();
	}
	return NULL;
}

/* The snapshot stays what it was. */
static void test_ahead__beside_commits(void **state)
{
	(void)state;
	world w;
	pthread_t writer;
	fill_large(&w);
	pgs_txn *t = begin_write(w.db);
	assert_int_equal(pthread_create(&writer, NULL, change_pages, &w), 0);
	read_range(t, 0, LARGE, first_seed);
	pgs_abort(t);
	pthread_join(writer, NULL);
	world_close(&w);
}

static void test_ahead__allocations_failing(void **state)
{
	(void)state;
	failing_alloc_install();
	world w;
	bool failed = true;
	fill_large(&w);
	for (size_t nth = 1; failed; nth += 1 + nth / 4) {
		world_reopen(&w);
		pgs_txn *t = begin_write(w.db);
		failing_alloc_begin(nth);
		for (uint64_t i = 0; i < LARGE; i++) {
			int result = read_seed(t, i, first_seed(i));
			if (result == PGS_ENOMEM)
				result = read_seed(t, i, first_seed(i));
			assert_int_equal(result, PGS_OK);
		}
		failed = failing_alloc_end();
		pgs_abort(t);
	}
	world_close(&w);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
}

/* Where contents are is found out while the database is opened and the transaction begins. */
static void test_open__reads_the_list_of_files_beside(void **state)
{
	(void)state;
	world w;
	pgs_cost cost = PGS_COST_INIT;
	fill_large(&w);
	for (int i = 0; i < 20; i++) { /* also when it is closed at once */
		world_reopen(&w);
		if (i % 2)
			continue;
		pgs_txn *t;
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		o.cost = &cost;
		assert_int_equal(pgs_begin(&t, w.db, &o, NULL), PGS_OK);
		uint64_t before = cost.kv_requests;
		read_range(t, LARGE / 2, LARGE / 2 + 1, first_seed);
		assert_true(cost.kv_requests <= before + 2); /* pointers and packs: nothing is looked for in vain */
		pgs_abort(t);
	}
	world_close(&w);
}

/* One read of a table is for all neighbours. */
static void test_slices__neighbours_are_read_together(void **state)
{
	(void)state;
	world w;
	fill_large(&w);
	pgs_txn *t = begin_write(w.db);
	for (uint64_t i = 0; i < PAGES_PER_MIB; i += 2) /* a group, backwards: nothing is read ahead */
		read_range(t, 2 * PAGES_PER_MIB - 1 - i, 2 * PAGES_PER_MIB - i, first_seed);
	pgs_abort(t);
	assert_true(get_calls <= PAGES_PER_MIB / 2 + 3); /* contents; and a filter, and one or two parts of the table */
	world_close(&w);
}

/* --- hints ------------------------------------------------------------------------------------- */

/* So many pages, far from each other, from `first` on. */
static void far_pages(uint64_t *pages, size_t count, uint64_t first)
{
	for (size_t i = 0; i < count; i++)
		pages[i] = (first + i * 997) % LARGE;
}

static pgs_txn *begin_counted(world *w, pgs_cost *cost)
{
	pgs_txn *t;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.write = true;
	o.cost = cost;
	assert_int_equal(pgs_begin(&t, w->db, &o, NULL), PGS_OK);
	return t;
}

static void test_hint__pages_are_fetched_beside_the_reader(void **state)
{
	(void)state;
	world w;
	uint64_t pages[60];
	size_t taken;
	pgs_cost cost = PGS_COST_INIT;
	fill_large(&w);
	pgs_txn *t = begin_counted(&w, &cost);
	assert_true(pgs_prefetch_is_useful(w.db));
	far_pages(pages, 60, 5);
	assert_int_equal(pgs_prefetch_start(t, pages, 30, &taken), PGS_OK);
	assert_int_equal(taken, 30);
	assert_int_equal(pgs_prefetch_start(t, pages, 60, &taken), PGS_OK); /* the first 30 are under way */
	assert_int_equal(taken, 60);
	for (size_t i = 0; i < 60; i++)
		read_range(t, pages[i], pages[i] + 1, first_seed);
	assert_true(get_calls < 30); /* of 60: two fetches, of tables and contents */
	assert_int_equal(cost.cache_hits + cost.cache_misses, 60);
	assert_true(cost.cache_misses <= 2); /* who waits for a fetch misses once */
	unsigned before = get_calls;
	assert_int_equal(pgs_prefetch_start(t, pages, 60, &taken), PGS_OK); /* all are in memory */
	assert_int_equal(taken, 60);
	pgs_abort(t);
	assert_int_equal(get_calls, before);
	assert_int_equal(cost.pages_ahead, 60);
	world_close(&w);
}

static void test_hint__only_so_many_are_under_way(void **state)
{
	(void)state;
	world w;
	uint64_t pages[8];
	size_t taken, refused = 0;
	fill_large(&w);
	for (uint64_t round = 0; round < 20 && !refused; round++) {
		world_reopen(&w);
		pgs_txn *t = begin_write(w.db);
		for (uint64_t i = 0; i < 20; i++) {
			far_pages(pages, 8, i * 31 + 1);
			assert_int_equal(pgs_prefetch_start(t, pages, 8, &taken), PGS_OK);
			assert_true(taken == 0 || taken == 8);
			refused += taken == 0;
		}
		pgs_abort(t);
	}
	assert_true(refused > 0);
	assert_true(most_gets <= 4);
	world_close(&w);
}

static void test_hint__what_is_not_there_is_not_fetched(void **state)
{
	(void)state;
	world w;
	size_t taken;
	fill_large(&w);
	pgs_txn *t = begin_write(w.db);
	const uint64_t past[] = {LARGE, LARGE + 5, ((uint64_t)1 << 40) - 1}, bad = PGS_NO_PAGE - 1;
	assert_int_equal(pgs_prefetch_start(t, past, 3, &taken), PGS_OK);
	assert_int_equal(taken, 3);
	assert_int_equal(pgs_prefetch_start(t, &bad, 1, &taken), PGS_EINVAL);
	assert_int_equal(taken, 0);
	assert_int_equal(write_seed(t, 7, 1), PGS_OK);
	unsigned before = get_calls;
	const uint64_t own = 7;
	assert_int_equal(pgs_prefetch_start(t, &own, 1, &taken), PGS_OK);
	assert_int_equal(pgs_prefetch_start(t, &own, 0, &taken), PGS_OK);
	pgs_abort(t);
	assert_int_equal(get_calls, before);
	world_close(&w);
}

/* Nor do these pages count as read. */
static void test_hint__does_not_join_the_read_set(void **state)
{
	(void)state;
	world w;
	uint64_t pages[10];
	size_t taken;
	pgs_error err = PGS_ERROR_INIT;
	fill_large(&w);
	pgs_txn *t = begin_write(w.db);
	far_pages(pages, 10, 3);
	assert_int_equal(pgs_prefetch_start(t, pages, 10, &taken), PGS_OK);
	read_range(t, pages[0], pages[0] + 1, first_seed);
	pgs_txn *other = begin_write(w.db);
	put_range(other, pages[5], pages[5] + 1, second_seed);
	commit_ok(other);
	put_range(t, LARGE, LARGE + 1, second_seed);
	expect_code(pgs_commit(t, NULL, NULL, &err), PGS_OK, &err, "pgs_commit");
	t = begin_write(w.db);
	assert_int_equal(pgs_prefetch_start(t, pages, 10, &taken), PGS_OK);
	read_range(t, pages[1], pages[1] + 1, first_seed);
	other = begin_write(w.db);
	put_range(other, pages[1], pages[1] + 1, second_seed);
	commit_ok(other);
	put_range(t, LARGE, LARGE + 1, first_seed);
	assert_int_equal(pgs_commit(t, NULL, NULL, NULL), PGS_ECONFLICT); /* that one was read */
	world_close(&w);
}

static void test_hint__failures_are_met_by_the_reader(void **state)
{
	(void)state;
	world w;
	uint64_t pages[50];
	size_t taken, failed = 0;
	fill_large(&w);
	pgs_txn *t = begin_write(w.db);
	far_pages(pages, 50, 9);
	failing_gets_one_in = 2;
	assert_int_equal(pgs_prefetch_start(t, pages, 50, &taken), PGS_OK);
	for (size_t i = 0; i < 50;) {
		int result = read_seed(t, pages[i], first_seed(pages[i]));
		assert_true(result == PGS_OK || result == PGS_EIO);
		failed += result != PGS_OK;
		i += result == PGS_OK;
	}
	assert_true(failed < 100);
	pgs_abort(t);
	world_close(&w);
}

static void test_hint__of_a_named_snapshot_is_fetched_at_once(void **state)
{
	(void)state;
	world w;
	uint64_t pages[20];
	size_t taken;
	pgs_txn *t;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_cost cost = PGS_COST_INIT;
	fill_large(&w);
	assert_int_equal(pgs_snapshot_create(w.db, "s", 1, NULL, NULL), PGS_OK);
	o.at_snapshot = "s";
	o.at_snapshot_size = 1;
	o.cost = &cost;
	assert_int_equal(pgs_begin(&t, w.db, &o, NULL), PGS_OK);
	far_pages(pages, 20, 2);
	assert_int_equal(pgs_prefetch_start(t, pages, 20, &taken), PGS_OK);
	assert_int_equal(taken, 20);
	assert_int_equal(cost.pages_ahead, 20);
	unsigned before = get_calls;
	for (size_t i = 0; i < 20; i++)
		read_range(t, pages[i], pages[i] + 1, first_seed);
	assert_int_equal(get_calls, before);
	assert_int_equal(cost.cache_hits, 20);
	pgs_abort(t);
	world_close(&w);
}

static void test_hint__allocations_failing(void **state)
{
	(void)state;
	failing_alloc_install();
	world w;
	bool failed = true;
	uint64_t pages[40];
	size_t taken;
	fill_large(&w);
	far_pages(pages, 40, 1);
	for (size_t nth = 1; failed; nth++) {
		world_reopen(&w);
		pgs_txn *t = begin_write(w.db);
		failing_alloc_begin(nth);
		int result = pgs_prefetch_start(t, pages, 40, &taken);
		assert_true(result == PGS_OK || result == PGS_ENOMEM);
		pgs__sleep_ms(5, 0);
		failed = failing_alloc_end();
		pgs_abort(t);
	}
	world_close(&w);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
}

/* Who reads in order but for pages it has elsewhere is read ahead for all the same. */
static void test_ahead__goes_on_over_pages_left_out(void **state)
{
	(void)state;
	world w;
	fill_large(&w);
	gets_meet = true;
	pgs_txn *t = begin_write(w.db);
	for (uint64_t i = 0; i < LARGE; i++)
		if (i % 64 != 0 && i % 512 != 1)
			read_range(t, i, i + 1, first_seed);
	pgs_abort(t);
	assert_true(most_gets > 1);
	assert_true(get_calls < 200);
	assert_true(get_bytes < 24 * MIB * 2);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_upload__goes_on_beside_the_writer),
		cmocka_unit_test(test_upload__does_not_hold_its_pages),
		cmocka_unit_test(test_upload__that_failed_is_tried_again),
		cmocka_unit_test(test_upload__that_fails_fails_the_commit),
		cmocka_unit_test(test_upload__is_broken_off_by_an_abort),
		cmocka_unit_test(test_upload__has_a_deadline),
		cmocka_unit_test(test_upload__allocations_failing),
		cmocka_unit_test(test_ahead__windows_are_read_beside_the_reader),
		cmocka_unit_test(test_ahead__pins_are_read_ahead_too),
		cmocka_unit_test(test_ahead__is_not_for_who_jumps),
		cmocka_unit_test(test_ahead__does_not_join_the_read_set),
		cmocka_unit_test(test_ahead__failures_are_met_by_the_reader),
		cmocka_unit_test(test_ahead__may_be_left_at_any_time),
		cmocka_unit_test(test_ahead__beside_commits),
		cmocka_unit_test(test_ahead__allocations_failing),
		cmocka_unit_test(test_ahead__goes_on_over_pages_left_out),
		cmocka_unit_test(test_open__reads_the_list_of_files_beside),
		cmocka_unit_test(test_slices__neighbours_are_read_together),
		cmocka_unit_test(test_hint__pages_are_fetched_beside_the_reader),
		cmocka_unit_test(test_hint__only_so_many_are_under_way),
		cmocka_unit_test(test_hint__what_is_not_there_is_not_fetched),
		cmocka_unit_test(test_hint__does_not_join_the_read_set),
		cmocka_unit_test(test_hint__failures_are_met_by_the_reader),
		cmocka_unit_test(test_hint__of_a_named_snapshot_is_fetched_at_once),
		cmocka_unit_test(test_hint__allocations_failing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
