/* A cache file outlives what happens to the store while nobody looks: backups that are put back, stores and databases that
 * are made anew. Whatever was mirrored, what is read is what the store has: lib/follow/mirror_proof.c. */
#include <stdio.h>
#include <string.h>

#include <pagestore.h>
#include <pagestore/follow.h>

#include "local_cache/mirror.h"
#include "support/planted.h"
#include "support/stores.h"
#include "support/testing.h"
#include "txn/db.h"

#define PAGES 8

static struct place {
	char folder[64], store[80], backup[80], url[90], cached[200];
	unsigned warnings;
} place;

static int set_up(void **state)
{
	(void)state;
	make_folder(place.folder);
	snprintf(place.store, sizeof place.store, "%s/store", place.folder);
	snprintf(place.backup, sizeof place.backup, "%s/backup", place.folder);
	snprintf(place.url, sizeof place.url, "dir:%s", place.store);
	snprintf(place.cached, sizeof place.cached, "%s?cache=%s/cache", place.url, place.folder);
	place.warnings = 0;
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	remove_folder(place.folder);
	return 0;
}

static void copy_folder(const char *from, const char *to)
{
	char command[300];
	snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s' '%s'", to, from, to);
	assert_int_equal(system(command), 0);
}

typedef struct handle {
	pgs_store *store;
	pgs_db *db;
} handle;

static void count_warning(void *ctx, int level, const char *message)
{
	(void)ctx;
	(void)message;
	place.warnings += level == PGS_LOG_WARN;
}

static handle open_at(const char *url, bool create)
{
	handle h;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	o.logger = count_warning;
	expect_code(pgs_open(&h.store, url, &o, &err), PGS_OK, &err, "opening");
	if (create)
		h.db = create_db(h.store, "db", NULL);
	else
		expect_code(pgs_db_open(&h.db, h.store, "db", 2, NULL, &err), PGS_OK, &err, "opening db");
	return h;
}

static void close_handle(handle *h)
{
	pgs_db_close(h->db);
	pgs_close(h->store);
}

static uint8_t *page_of(uint64_t value)
{
	static uint8_t page[4096];
	memset(page, 0, sizeof page);
	memcpy(page, &value, sizeof value);
	return page;
}

/* One commit: page i becomes value. The revision. */
static uint64_t put(handle *h, uint64_t i, uint64_t value)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	uint64_t revision;
	pgs_error err = PGS_ERROR_INIT;
	o.write = true;
	expect_code(pgs_begin(&t, h->db, &o, &err), PGS_OK, &err, "begin");
	assert_int_equal(pgs_write(t, i, page_of(value)), PGS_OK);
	expect_code(pgs_commit(t, NULL, &revision, &err), PGS_OK, &err, "commit");
	return revision;
}

static void follow(handle *h)
{
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_follow_step(h->db, 20000, &err), PGS_OK, &err, "following");
}

static pgs__mirror_state state_of(handle *h)
{
	pgs__mirror_state s;
	assert_int_equal(pgs__mirror_state_get(h->db->contents.disk, &s, NULL), PGS_OK);
	return s;
}

static void expect(handle *h, uint32_t freshness, uint64_t i, uint64_t value)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	uint8_t page[4096];
	pgs_error err = PGS_ERROR_INIT;
	o.freshness = freshness;
	expect_code(pgs_begin(&t, h->db, &o, &err), PGS_OK, &err, "begin");
	assert_int_equal(pgs_read(t, i, page), PGS_OK);
	assert_memory_equal(page, page_of(value), sizeof page);
	pgs_abort(t);
}

/* PAGES commits with the cache, mirrored; then a backup; then as many more, mirrored too. S. */
static uint64_t make_history(bool follow_before)
{
	handle h = open_at(place.cached, true);
	for (uint64_t i = 0; i < PAGES; i++)
		put(&h, i, i);
	if (follow_before)
		follow(&h);
	close_handle(&h);
	copy_folder(place.store, place.backup);
	h = open_at(place.cached, false);
	for (uint64_t i = 0; i < PAGES; i++)
		put(&h, i, 100 + i);
	follow(&h);
	uint64_t sequence = state_of(&h).sequence;
	close_handle(&h);
	assert_true(sequence > 0);
	return sequence;
}

/* The backup is put back, and other commits are made: `count` of them, without the cache. The last revision. */
static uint64_t make_other_history(uint64_t count)
{
	uint64_t revision = 0;
	copy_folder(place.backup, place.store);
	handle h = open_at(place.url, false);
	for (uint64_t i = 0; i < count; i++)
		revision = put(&h, (i * 3) % PAGES, 1000 + i); /* other pages at the same revisions */
	close_handle(&h);
	return revision;
}

static uint64_t other_value(uint64_t count, uint64_t page)
{
	uint64_t value = page;
	for (uint64_t i = 0; i < count; i++)
		value = (i * 3) % PAGES == page ? 1000 + i : value;
	return value;
}

static void expect_other(uint64_t count)
{
	handle h = open_at(place.cached, false);
	expect(&h, PGS_LOCAL, 1, other_value(count, 1)); /* before anybody has proved anything */
	follow(&h);
	for (uint64_t i = 0; i < PAGES; i++) {
		expect(&h, PGS_LOCAL, i, other_value(count, i));
		expect(&h, PGS_LATEST, i, other_value(count, i));
	}
	assert_true(state_of(&h).sequence > 0);
	put(&h, 2, 5000);
	follow(&h);
	expect(&h, PGS_LOCAL, 2, 5000);
	close_handle(&h);
}

/* --- the same history ------------------------------------------------------------------------------ */

static void test_history__the_same_goes_on(void **state)
{
	(void)state;
	make_history(true);
	handle h = open_at(place.cached, false);
	uint64_t horizon = state_of(&h).horizon;
	for (uint64_t i = 0; i < PAGES; i++)
		put(&h, i, 200 + i);
	follow(&h);
	assert_int_equal(state_of(&h).horizon, horizon); /* it was not loaded anew: that moves it */
	for (uint64_t i = 0; i < PAGES; i++)
		expect(&h, PGS_LOCAL, i, 200 + i);
	close_handle(&h);
	assert_int_equal(place.warnings, 0);
}

/* The proof of one that was loaded after the last commit is found in the changelog. */
static void test_history__loaded_and_idle_goes_on(void **state)
{
	(void)state;
	handle h = open_at(place.cached, true);
	for (uint64_t i = 0; i < PAGES; i++)
		put(&h, i, i);
	follow(&h);
	uint64_t horizon = state_of(&h).horizon;
	assert_int_equal(state_of(&h).last.revision != 0, 1);
	close_handle(&h);
	h = open_at(place.cached, false);
	follow(&h);
	assert_int_equal(state_of(&h).horizon, horizon);
	expect(&h, PGS_LOCAL, 3, 3);
	close_handle(&h);
}

/* --- a backup was put back -------------------------------------------------------------------------- */

static void test_history__restored_and_behind(void **state)
{
	(void)state;
	uint64_t sequence = make_history(true);
	assert_true(make_other_history(2) < sequence);
	expect_other(2);
	assert_int_equal(place.warnings, 1);
}

/* At S there is a commit of the same number, and all revisions are the same. */
static void test_history__restored_and_at_the_same_revision(void **state)
{
	(void)state;
	uint64_t sequence = make_history(true);
	assert_int_equal(make_other_history(PAGES), sequence);
	expect_other(PAGES);
	assert_int_equal(place.warnings, 1);
}

static void test_history__restored_and_further(void **state)
{
	(void)state;
	uint64_t sequence = make_history(true);
	assert_true(make_other_history(3 * PAGES) > sequence);
	expect_other(3 * PAGES);
	assert_int_equal(place.warnings, 1);
}

/* The mirror had not come further than the backup: nothing of it is wrong. */
static void test_history__restored_to_what_was_mirrored(void **state)
{
	(void)state;
	handle h = open_at(place.cached, true);
	for (uint64_t i = 0; i < PAGES; i++)
		put(&h, i, i);
	follow(&h);
	uint64_t horizon = state_of(&h).horizon;
	close_handle(&h);
	copy_folder(place.store, place.backup);
	h = open_at(place.url, false);
	for (uint64_t i = 0; i < PAGES; i++)
		put(&h, i, 100 + i); /* nobody saw these */
	close_handle(&h);
	make_other_history(PAGES);
	expect_other(PAGES);
	h = open_at(place.cached, false);
	assert_int_equal(state_of(&h).horizon, horizon);
	close_handle(&h);
	assert_int_equal(place.warnings, 0);
}

/* History at S is gone besides: it is loaded anew, whatever it was. */
static void test_history__restored_and_compacted(void **state)
{
	(void)state;
	pgs_maintain_options all = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	make_history(true);
	make_other_history(3 * PAGES);
	handle h = open_at(place.url, false);
	all.all = true;
	all.retention_ms = PGS_RETENTION_NONE;
	for (int i = 0; i < 3; i++)
		expect_code(pgs_maintain(h.db, &all, NULL, &err), PGS_OK, &err, "maintaining");
	close_handle(&h);
	expect_other(3 * PAGES);
}

/* --- made anew ---------------------------------------------------------------------------------------- */

static void test_history__a_store_made_anew(void **state)
{
	(void)state;
	make_history(true);
	remove_folder(place.store);
	handle h = open_at(place.cached, true);
	put(&h, 1, 77);
	expect(&h, PGS_LOCAL, 1, 77);
	follow(&h);
	expect(&h, PGS_LOCAL, 1, 77);
	expect(&h, PGS_LOCAL, 2, 0);
	close_handle(&h);
}

static void test_history__a_database_dropped_and_made_anew(void **state)
{
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	make_history(true);
	handle h = open_at(place.cached, false);
	follow(&h);
	pgs_db_close(h.db);
	expect_code(pgs_db_drop(h.store, "db", 2, &err), PGS_OK, &err, "dropping");
	h.db = create_db(h.store, "db", NULL);
	put(&h, 1, 77);
	expect(&h, PGS_LOCAL, 1, 77);
	follow(&h);
	expect(&h, PGS_LOCAL, 1, 77);
	expect(&h, PGS_LOCAL, 2, 0);
	close_handle(&h);
}

/* The store from before the database was dropped is put back: its prefix is in use again. */
static void test_history__a_dropped_database_that_came_back(void **state)
{
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	make_history(true);
	handle h = open_at(place.cached, false);
	pgs_db_close(h.db);
	expect_code(pgs_db_drop(h.store, "db", 2, &err), PGS_OK, &err, "dropping");
	h.db = create_db(h.store, "db", NULL);
	put(&h, 1, 77);
	follow(&h);
	close_handle(&h);
	make_other_history(5 * PAGES);
	expect_other(5 * PAGES);
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_setup_teardown(test_history__##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(the_same_goes_on),
		CASE(loaded_and_idle_goes_on),
		CASE(restored_and_behind),
		CASE(restored_and_at_the_same_revision),
		CASE(restored_and_further),
		CASE(restored_to_what_was_mirrored),
		CASE(restored_and_compacted),
		CASE(a_store_made_anew),
		CASE(a_database_dropped_and_made_anew),
		CASE(a_dropped_database_that_came_back),
	};
	plant(argc, argv);
	return planted_result(cmocka_run_group_tests_name("mirror_history", tests, NULL, NULL));
}
