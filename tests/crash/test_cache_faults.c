/* A store with a cache file and a follower, whose calls fail one by one: the library's allocations, LMDB's, the system's,
 * the backends'. What is wrong with the cache makes reads slower, and nothing else; a snapshot is never mixed, nor
 * older than was asked for; nothing leaks; and afterwards the same file works. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pagestore.h>
#include <pagestore/follow.h>

#include "support/failing_alloc.h"
#include "support/failing_calls.h"
#include "support/scratch.h"
#include "support/stores.h"
#include "support/testing.h"

#define PAGES 12           /* each commit writes all of them */
#define BULK_FIRST 1000    /* pages that do not change; */
#define BULK 950           /* a little more than the cache has room for: each takes a page of LMDB's */
#define CACHE_SIZE (4u << 20)

typedef struct world {
	server server;
	pgs_store *outside_store; /* another process's */
	pgs_db *outside;
	pgs_fault *fault;
	uint64_t generation; /* of the last commit that succeeded */
	uint64_t revision;   /* its revision */
	bool unsure;         /* the generation after it may have been committed */
	pgs_cache_stat stat; /* of the last use that got to its end */
	/* a store with a cache, while it is used */
	pgs_store *store;
	pgs_db *db;
	pgs_txn *txn;
} world;

/* --- pages ---------------------------------------------------------------------------------- */

/* Page n of a generation says which it is. Some change by deltas. */
static void make_page(void *out, uint64_t page_no, uint64_t generation)
{
	fill_page(out, page_no % 3 ? (page_no + 1) * 256 + 1 : (generation * 1000 + page_no + 1) * 256 + 1);
	memcpy(out, &generation, sizeof generation);
}

static void make_bulk(void *out, uint64_t page_no)
{
	fill_page(out, (page_no + 77) * 256 + 1);
	memset((uint8_t *)out + 3000, 0, TEST_PAGE_SIZE - 3000);
}

static int write_generation(pgs_txn *txn, uint64_t generation)
{
	uint8_t page[TEST_PAGE_SIZE];
	int result = PGS_OK;
	for (uint64_t n = 0; result == PGS_OK && n < PAGES; n++) {
		make_page(page, n, generation);
		result = pgs_write(txn, n, page);
	}
	return result;
}

/* What a snapshot shows: all pages of one generation, `least` or later. */
static int read_generation(world *w, uint64_t least)
{
	static uint8_t pages[PAGES][TEST_PAGE_SIZE];
	uint8_t expected[TEST_PAGE_SIZE];
	uint64_t numbers[PAGES], seen;
	void *dst[PAGES];
	for (uint64_t n = 0; n < PAGES; n++) {
		numbers[n] = n;
		dst[n] = pages[n];
	}
	int result = pgs_read(w->txn, 0, pages[0]);
	if (result == PGS_OK)
		result = pgs_read_many(w->txn, numbers + 1, PAGES - 1, dst + 1);
	if (result != PGS_OK)
		return result;
	memcpy(&seen, pages[0], sizeof seen);
	for (uint64_t n = 0; n < PAGES; n++) {
		make_page(expected, n, seen);
		if (memcmp(pages[n], expected, sizeof expected) != 0)
			fail_msg("page %u is not of generation %u", (unsigned)n, (unsigned)seen);
	}
	if (seen < least || seen > w->generation + w->unsure)
		fail_msg("generation %u is shown, not %u to %u", (unsigned)seen, (unsigned)least,
			 (unsigned)w->generation + w->unsure);
	return PGS_OK;
}

/* --- what is done ------------------------------------------------------------------------------- */

static int end_txn(world *w, int result, pgs_error *err)
{
	if (result != PGS_OK)
		*err = *pgs_txn_error(w->txn);
	pgs_abort(w->txn);
	w->txn = NULL;
	return result;
}

static int commit(world *w, pgs_db *db, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	uint64_t revision;
	o.write = true;
	int result = pgs_begin(&w->txn, db, &o, err);
	if (result != PGS_OK)
		return result;
	result = write_generation(w->txn, w->generation + 1);
	if (result != PGS_OK)
		return end_txn(w, result, err);
	w->unsure = true;
	result = pgs_commit(w->txn, NULL, &revision, err);
	w->txn = NULL;
	if (result == PGS_OK) {
		w->generation++;
		w->revision = revision;
		w->unsure = false;
	}
	return result;
}

static int look(world *w, uint32_t freshness, uint64_t least, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.freshness = freshness;
	o.bound_ms = 60000;
	o.least_revision = freshness == PGS_AT_LEAST ? w->revision : 0;
	int result = pgs_begin(&w->txn, w->db, &o, err);
	return result == PGS_OK ? end_txn(w, read_generation(w, least), err) : result;
}

/* Others commit, the follower takes it, and it is there without asking. */
static int follow(world *w, pgs_error *err)
{
	int result = commit(w, w->outside, err);
	if (result == PGS_OK)
		result = pgs_follow_step(w->db, 2000, err);
	if (result == PGS_OK)
		result = look(w, PGS_LOCAL, w->generation, err);
	if (result == PGS_OK)
		result = look(w, PGS_AT_LEAST, w->generation, err);
	return result == PGS_OK ? look(w, PGS_BOUNDED, w->generation, err) : result;
}

static int read_bulk(world *w, pgs_error *err)
{
	uint8_t page[TEST_PAGE_SIZE], expected[TEST_PAGE_SIZE];
	int result = pgs_begin(&w->txn, w->db, NULL, err);
	if (result != PGS_OK)
		return result;
	for (uint64_t n = BULK_FIRST; result == PGS_OK && n < BULK_FIRST + BULK; n++) {
		result = pgs_read(w->txn, n, page);
		make_bulk(expected, n);
		if (result == PGS_OK && memcmp(page, expected, sizeof page) != 0)
			fail_msg("page %u is not what was written", (unsigned)n);
	}
	return end_txn(w, result, err);
}

static int maintain(world *w, pgs_error *err)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	o.all = true;
	return pgs_maintain(w->db, &o, NULL, err);
}

static int use_snapshot(world *w, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_snapshot = "kept";
	o.at_snapshot_size = 4;
	int result = pgs_snapshot_drop(w->db, "kept", 4, err);
	if (result == PGS_OK || result == PGS_ENOTFOUND)
		result = pgs_snapshot_create(w->db, "kept", 4, NULL, err);
	uint64_t generation = w->generation;
	if (result == PGS_OK)
		result = commit(w, w->outside, err);
	if (result == PGS_OK)
		result = pgs_begin(&w->txn, w->db, &o, err);
	return result == PGS_OK ? end_txn(w, read_generation(w, generation), err) : result;
}

static int open_inside(world *w, pgs_error *err)
{
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	pgs_db_options d = PGS_DB_OPTIONS_INIT;
	pgs_kv *kv = NULL;
	pgs_blob *blob = NULL;
	o.cache_path = scratch_path("cache");
	o.cache_size_bytes = CACHE_SIZE;
	o.timeout_ms = 1000;
	d.cache_bytes = 1 << 16;
	int result = pgs_kv_memory_share(&kv, w->server.kv, err);
	if (result == PGS_OK)
		result = pgs_fault_wrap_kv(&kv, w->fault, kv, err);
	if (result != PGS_OK)
		return result;
	result = pgs_blob_memory_share(&blob, w->server.blob, err);
	if (result == PGS_OK)
		result = pgs_fault_wrap_blob(&blob, w->fault, blob, err);
	if (result != PGS_OK) {
		kv->vtable->close(kv);
		return result;
	}
	result = pgs_open_with(&w->store, kv, blob, &o, err);
	return result == PGS_OK ? pgs_db_open(&w->db, w->store, "db", 2, &d, err) : result;
}

static int work(world *w, pgs_error *err)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	int result = look(w, PGS_LATEST, w->generation, err);
	if (result == PGS_OK)
		result = commit(w, w->db, err);
	if (result == PGS_OK)
		result = look(w, PGS_LOCAL, w->generation, err);
	for (int i = 0; result == PGS_OK && i < 2; i++)
		result = follow(w, err);
	if (result == PGS_OK)
		result = read_bulk(w, err);
	if (result == PGS_OK)
		result = commit(w, w->db, err);
	if (result == PGS_OK)
		result = maintain(w, err);
	if (result == PGS_OK)
		result = follow(w, err);
	if (result == PGS_OK)
		result = use_snapshot(w, err);
	if (result == PGS_OK)
		result = pgs_stat(w->db, &stat, err);
	if (result == PGS_OK) /* which is about the cache alone, and may fail with it */
		pgs_cache_stat_get(w->db, &w->stat, NULL);
	return result;
}

/* From opening to closing. */
static int use(world *w, pgs_error *err)
{
	int result = open_inside(w, err);
	if (result == PGS_OK)
		result = work(w, err);
	pgs_db_close(w->db);
	pgs_close(w->store);
	w->db = NULL;
	w->store = NULL;
	return result;
}

/* --- the world ------------------------------------------------------------------------------------ */

static void build(world *w)
{
	static const pgs_kv_limits limits = {24, 200000, 0, 0};
	pgs_error err = PGS_ERROR_INIT;
	*w = (world){.stat = PGS_CACHE_STAT_INIT};
	assert_int_equal(pgs_fault_new(&w->fault, NULL, NULL), PGS_OK);
	server_start(&w->server, &limits);
	w->outside_store = server_open(&w->server, NULL, NULL);
	w->outside = create_db(w->outside_store, "db", NULL);
	pgs_txn *txn = begin_write(w->outside);
	for (uint64_t n = BULK_FIRST; n < BULK_FIRST + BULK; n++) {
		uint8_t page[TEST_PAGE_SIZE];
		make_bulk(page, n);
		assert_int_equal(pgs_write(txn, n, page), PGS_OK);
	}
	commit_ok(txn);
	expect_code(commit(w, w->outside, &err), PGS_OK, &err, "commit");
}

static void tear_down(world *w)
{
	pgs_db_close(w->outside);
	pgs_close(w->outside_store);
	server_stop(&w->server);
	pgs_fault_free(w->fault);
}

static void remove_cache(void)
{
	unlink(scratch_path("cache"));
	unlink(scratch_path("cache-lock"));
	unlink(scratch_path("cache-state"));
}

static size_t open_files(void)
{
	size_t count = 0;
	DIR *dir = opendir("/proc/self/fd");
	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* Whether what was in doubt happened. */
static void find_out(world *w)
{
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[TEST_PAGE_SIZE];
	uint64_t seen;
	pgs_txn *txn;
	expect_code(pgs_begin(&txn, w->outside, NULL, &err), PGS_OK, &err, "begin");
	assert_int_equal(pgs_read(txn, 0, page), PGS_OK);
	memcpy(&seen, page, sizeof seen);
	assert_true(seen == w->generation || (w->unsure && seen == w->generation + 1));
	if (seen != w->generation)
		w->revision = pgs_txn_revision(txn);
	pgs_abort(txn);
	w->generation = seen;
	w->unsure = false;
}

/* Afterwards all is as if nothing had been, and the cache is in use. */
static void use_in_peace(world *w)
{
	pgs_error err = PGS_ERROR_INIT;
	find_out(w);
	w->stat = (pgs_cache_stat)PGS_CACHE_STAT_INIT;
	expect_code(use(w, &err), PGS_OK, &err, "the same without failures");
	assert_true(w->stat.usable);
	assert_int_equal(w->stat.errors, 0);
	assert_true(w->stat.hits + w->stat.puts > 0 && w->stat.page_count > 0 && w->stat.mirror_revision > 0);
}

/* --- sweeps ------------------------------------------------------------------------------------------ */

static char where[120];

static int say_where(void **state)
{
	if (where[0])
		fprintf(stderr, "# it was: %s\n", where);
	failing_alloc_end();
	failing_calls_end();
	return scratch_tear_down(state);
}

typedef struct sweep {
	const char *name;
	void (*begin)(world *w, const struct sweep *s, size_t nth);
	const char *(*end)(world *w); /* what has failed, or NULL */
	int error;        /* an errno, or a pgs_fault_kind */
	bool lasting;
	bool (*may_end_with)(int result);
	size_t each;      /* every call up to this one, then ever fewer */
} sweep;

/* What fails is the cache's alone. */
static bool nothing(int result)
{
	return result == PGS_OK;
}

/* The nth call fails; returns false when there were fewer. */
static bool fail_one(world *w, const sweep *s, size_t nth, bool new_file)
{
	pgs_error err = PGS_ERROR_INIT;
	snprintf(where, sizeof where, "%s, call %u, a file that is %s", s->name, (unsigned)nth, new_file ? "new" : "there");
	if (new_file)
		remove_cache();
	size_t files = open_files();
	s->begin(w, s, nth);
	int result = use(w, &err);
	const char *failed = s->end(w);
	if (failed)
		snprintf(where + strlen(where), sizeof where - strlen(where), ": %s", failed);
	if (result != PGS_OK && !(failed && s->may_end_with(result)))
		fail_msg("a call of the store: %s: %s", pgs_error_name(result), err.message);
	assert_int_equal(open_files(), files);
	use_in_peace(w);
	return failed != NULL;
}

static void run(const sweep *s)
{
	world w;
	bool thorough = getenv("PGS_TEST_LONG") != NULL;
	size_t each = thorough ? 40 * s->each : s->each, count = 0;
	failing_alloc_install();
	build(&w);
	for (int new_file = 1; new_file >= 0; new_file--)
		for (size_t nth = 1; fail_one(&w, s, nth, new_file); nth += nth < each ? 1 : 1 + nth / (each / 2))
			count++;
	tear_down(&w);
	where[0] = '\0';
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
	print_message("%s: %u failures\n", s->name, (unsigned)count);
}

/* --- what fails ---------------------------------------------------------------------------------------- */

static void begin_alloc(world *w, const sweep *s, size_t nth)
{
	(void)w;
	(void)s;
	failing_alloc_begin(nth);
}

static const char *end_alloc(world *w)
{
	(void)w;
	return failing_alloc_end() ? "an allocation" : NULL;
}

static bool no_memory(int result)
{
	return result == PGS_ENOMEM;
}

static void test_cache_faults__every_allocation(void **state)
{
	(void)state;
	run(&(sweep){.name = "allocations", .begin = begin_alloc, .end = end_alloc, .may_end_with = no_memory, .each = 6});
}

static void begin_call(world *w, const sweep *s, size_t nth)
{
	(void)w;
	failing_calls_begin(s->error, nth, s->lasting);
}

static const char *end_call(world *w)
{
	(void)w;
	return failing_calls_end();
}

static void fail_calls(const char *name, int error, bool lasting)
{
	if (!failing_calls_install())
		skip();
	run(&(sweep){.name = name, .begin = begin_call, .end = end_call, .error = error, .lasting = lasting,
		     .may_end_with = nothing, .each = 6});
}

static void test_cache_faults__every_allocation_of_lmdb(void **state)
{
	(void)state;
	fail_calls("LMDB's allocations", ENOMEM, false);
}

static void test_cache_faults__no_memory_for_lmdb_from_then_on(void **state)
{
	(void)state;
	fail_calls("LMDB's allocations from one on", ENOMEM, true);
}

static void test_cache_faults__every_system_call(void **state)
{
	(void)state;
	fail_calls("system calls, EIO", EIO, false);
}

static void test_cache_faults__a_disk_that_has_failed(void **state)
{
	(void)state;
	fail_calls("system calls from one on, EIO", EIO, true);
}

static void test_cache_faults__a_disk_that_is_full_for_a_moment(void **state)
{
	(void)state;
	fail_calls("system calls, ENOSPC", ENOSPC, false);
}

static void test_cache_faults__writes_that_are_cut_short(void **state)
{
	(void)state;
	fail_calls("short writes", FAILING_SHORT, false);
}

/* What the cache could not do is told. */
static void test_cache_faults__are_counted(void **state)
{
	world w;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	if (!failing_calls_install())
		skip();
	build(&w);
	expect_code(open_inside(&w, &err), PGS_OK, &err, "opening");
	failing_calls_begin(ENOMEM, 1, true);
	expect_code(read_bulk(&w, &err), PGS_OK, &err, "reading");
	failing_calls_end();
	expect_code(pgs_cache_stat_get(w.db, &w.stat, &err), PGS_OK, &err, "stat");
	assert_true(w.stat.errors > 0 && w.stat.hits == 0);
	pgs_db_close(w.db);
	pgs_close(w.store);
	tear_down(&w);
}

static uint64_t faulty_call;

static void begin_backend(world *w, const sweep *s, size_t nth)
{
	faulty_call = pgs_fault_calls(w->fault) + nth;
	pgs_fault_at(w->fault, nth, (pgs_fault_kind)s->error);
}

/* What was delayed comes now. */
static const char *end_backend(world *w)
{
	bool failed = pgs_fault_calls(w->fault) >= faulty_call;
	pgs_fault_at(w->fault, 0, PGS_FAULT_NONE);
	pgs_fault_resume(w->fault);
	pgs_fault_deliver(w->fault);
	return failed ? "a backend" : NULL;
}

static bool backend_failed(int result)
{
	return result == PGS_EIO || result == PGS_EUNKNOWN || result == PGS_ETIMEOUT || result == PGS_EBUSY;
}

static void test_cache_faults__every_call_of_the_backends(void **state)
{
	static const char *const names[] = {[PGS_FAULT_ERROR] = "backend errors", [PGS_FAULT_LOSE_REPLY] = "lost replies",
					    [PGS_FAULT_DELAY] = "delayed calls", [PGS_FAULT_STOP] = "a backend that stops"};
	(void)state;
	for (int kind = PGS_FAULT_ERROR; kind <= PGS_FAULT_STOP; kind++)
		run(&(sweep){.name = names[kind], .begin = begin_backend, .end = end_backend, .error = kind,
			     .may_end_with = backend_failed, .each = 6});
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(test_cache_faults__##name, scratch_set_up, say_where)
	const struct CMUnitTest tests[] = {
		CASE(every_allocation),
		CASE(every_allocation_of_lmdb),
		CASE(no_memory_for_lmdb_from_then_on),
		CASE(every_system_call),
		CASE(a_disk_that_has_failed),
		CASE(a_disk_that_is_full_for_a_moment),
		CASE(writes_that_are_cut_short),
		CASE(are_counted),
		CASE(every_call_of_the_backends),
	};
	return cmocka_run_group_tests_name("cache_faults", tests, NULL, NULL);
}
