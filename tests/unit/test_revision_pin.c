/* txn/revision_pin.c, and what old snapshots are told: pins of users and of long transactions. */
#include "test_worker.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "txn/snapshot.h"
#include "txn/txn.h"

#define HOUR 3600000

static uint64_t change(fixture *f)
{
	static uint64_t seed = 1000;
	pgs_txn *t = begin_write(f->a.db);
	assert_int_equal(write_seed(t, 1, seed += 256), PGS_OK);
	return commit_ok(t);
}

/* The floor rises as far as it may. */
static uint64_t raise_floor(fixture *f)
{
	f->a.worker.options.retention_ms = PGS_RETENTION_NONE;
	f->a.worker.options.all = true;
	assert_int_equal(pgs__job_floor(&f->a.worker), PGS_OK);
	assert_int_equal(pgs__job_compact_kv(&f->a.worker), PGS_OK);
	return f->a.worker.floor.floor;
}

static int begin_at(pgs_db *db, uint64_t revision, pgs_txn **t, pgs_error *err)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	o.at_revision = revision;
	return pgs_begin(t, db, &o, err);
}

static void expect_readable(fixture *f, uint64_t revision)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	uint8_t page[TEST_PAGE_SIZE];
	expect_code(begin_at(f->a.db, revision, &t, &err), PGS_OK, &err, "begin");
	assert_int_equal(pgs_read(t, 1, page), PGS_OK);
	pgs_abort(t);
}

static void expect_named(const pgs_error *err, uint64_t oldest)
{
	char text[64];
	snprintf(text, sizeof text, "the oldest readable is %llu", (unsigned long long)oldest);
	if (!strstr(err->message, text))
		fail_msg("\"%s\" does not say \"%s\"", err->message, text);
}

/* --- pins ------------------------------------------------------------------------------- */

static void test_pin__keeps_a_revision(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f), pinned;
	pgs_revision_pin *pin;
	change(f);
	assert_int_equal(pgs_pin_revision(&pin, f->a.db, r1, 0, &pinned, NULL), PGS_OK);
	assert_true(pinned == r1);
	assert_true(raise_floor(f) == r1);
	expect_readable(f, r1);
	assert_int_equal(pgs_pin_renew(pin, NULL), PGS_OK);
	pgs_unpin_revision(pin);
	assert_int_equal(count_kind(f, 'r'), 0);
	uint64_t floor = raise_floor(f);
	assert_true(floor > r1);
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	assert_int_equal(begin_at(f->a.db, r1, &t, &err), PGS_EOLDREV);
	expect_named(&err, floor);
	assert_int_equal(pgs_pin_revision(&pin, f->a.db, r1, 0, NULL, &err), PGS_EOLDREV);
	expect_named(&err, floor);
	assert_null(pin);
	pgs_unpin_revision(NULL);
}

/* The latest: what is told can be read, though the floor may be above that commit. */
static void test_pin__of_the_latest(void **state)
{
	fixture *f = *state;
	uint64_t changed = change(f), pinned;
	pgs_revision_pin *pin;
	kv_put(f->server.kv, "elsewhere", "1");
	raise_floor(f);
	uint64_t floor = raise_floor(f);
	assert_true(floor > changed);
	assert_int_equal(pgs_pin_revision(&pin, f->a.db, 0, 0, &pinned, NULL), PGS_OK);
	assert_true(pinned == changed);
	for (int i = 0; i < 3; i++) {
		change(f);
		raise_floor(f);
	}
	pgs_txn *t;
	assert_int_equal(begin_at(f->a.db, pinned, &t, NULL), PGS_OK);
	assert_true(pgs_txn_revision(t) == changed);
	pgs_abort(t);
	pgs_unpin_revision(pin);
	raise_floor(f);
	assert_int_equal(begin_at(f->a.db, pinned, &t, NULL), PGS_EOLDREV);
}

/* The floor passes the latest revision between our look and our put: then it is not the latest any more. */
static void raise_before(fixture *f, uint64_t call, const char *operation)
{
	(void)operation;
	if (call != f->number)
		return;
	change(f);
	raise_floor(f);
}

static void test_pin__of_the_latest_while_the_floor_rises(void **state)
{
	fixture *f = *state;
	change(f);
	for (f->number = 1; f->number <= 6; f->number++) {
		pgs_revision_pin *pin;
		uint64_t pinned;
		watch_calls(f, raise_before);
		assert_int_equal(pgs_pin_revision(&pin, f->b.db, 0, 0, &pinned, NULL), PGS_OK);
		watch_calls(f, NULL);
		expect_readable(f, pinned);
		pgs_unpin_revision(pin);
	}
}

static void test_pin__refusals(void **state)
{
	fixture *f = *state;
	pgs_revision_pin *pin;
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	assert_int_equal(pgs_pin_revision(&pin, f->a.db, kv_revision(f->server.kv) + 1, 0, NULL, NULL), PGS_EINVAL);
	options.read_only = true;
	pgs_store *store = server_open(&f->server, NULL, &options);
	pgs_db *db = open_db(store, "db");
	assert_int_equal(pgs_pin_revision(&pin, db, 0, 0, NULL, NULL), PGS_EREADONLY);
	pgs_db_close(db);
	pgs_close(store);
	pgs_revision_pin *held;
	assert_int_equal(pgs_pin_revision(&held, f->b.db, 0, 0, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_db_drop(f->a.store, "db", 2, NULL), PGS_OK);
	assert_int_equal(pgs_pin_revision(&pin, f->b.db, 0, 0, NULL, NULL), PGS_ENOTFOUND);
	assert_int_equal(pgs_pin_renew(held, NULL), PGS_ENOTFOUND);
	pgs_unpin_revision(held);
}

/* Broken by someone who thought us dead: taken anew as long as the revision is there. */
static void test_pin__renewed_after_it_was_broken(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	pgs_revision_pin *pin;
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(pgs_pin_revision(&pin, f->a.db, r1, 0, NULL, NULL), PGS_OK);
	delete_kind(f, 'r');
	assert_int_equal(pgs_pin_renew(pin, NULL), PGS_OK);
	assert_int_equal(count_kind(f, 'r'), 1);
	change(f);
	assert_true(raise_floor(f) == r1);
	delete_kind(f, 'r');
	uint64_t floor = raise_floor(f);
	assert_true(floor > r1);
	assert_int_equal(pgs_pin_renew(pin, &err), PGS_EOLDREV);
	expect_named(&err, floor);
	assert_int_equal(count_kind(f, 'r'), 0);
	pgs_unpin_revision(pin);
}

/* Lost to a compaction: the key is still there, and it is told all the same. */
static void test_pin__lost(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f), r2 = change(f);
	pgs_revision_pin *pin;
	assert_int_equal(pgs_pin_revision(&pin, f->a.db, r1, 0, NULL, NULL), PGS_OK);
	kv_compact(f->server.kv, r2);
	raise_floor(f);
	assert_int_equal(f->a.report.lost_pins, 1);
	assert_int_equal(count_kind(f, 'r'), 1);
	assert_int_equal(pgs_pin_renew(pin, NULL), PGS_EOLDREV);
	pgs_unpin_revision(pin);
	assert_int_equal(count_kind(f, 'r'), 0);
}

static void test_pin__faults_at_every_call(void **state)
{
	fixture *f = *state;
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_LOSE_REPLY, PGS_FAULT_DELAY};
	for (size_t k = 0; k < COUNT_OF(kinds); k++)
		for (uint64_t nth = 1; nth <= 8; nth++) {
			uint64_t r1 = change(f), pinned = 0;
			pgs_revision_pin *pin;
			change(f);
			pgs_fault_at(f->fault, nth, kinds[k]);
			int result = pgs_pin_revision(&pin, f->b.db, r1, 0, &pinned, NULL);
			assert_int_equal(count_kind(f, 'r'), result == PGS_OK);
			if (result == PGS_OK) {
				assert_true(pgs_pin_renew(pin, NULL) == PGS_OK || kinds[k] == PGS_FAULT_ERROR);
				assert_true(raise_floor(f) <= r1 && pinned == r1);
			} else {
				assert_true(result == PGS_EIO);
			}
			pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
			pgs_fault_deliver(f->fault); /* finds the key; later it would pin until its lease ends */
			pgs_unpin_revision(pin);
			assert_int_equal(count_kind(f, 'r'), 0);
		}
}

static void test_pin__allocation_failures(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f);
	for (size_t nth = 1;; nth++) {
		pgs_revision_pin *pin;
		failing_alloc_begin(nth);
		int result = pgs_pin_revision(&pin, f->a.db, r1, 0, NULL, NULL);
		bool failed = failing_alloc_end();
		assert_true(result == PGS_OK || (failed && result == PGS_ENOMEM));
		pgs_unpin_revision(pin);
		assert_int_equal(count_kind(f, 'r'), 0);
		if (!failed)
			break;
	}
}

/* --- in another process --------------------------------------------------------------------- */

static pgs_store *open_dir(const char *folder)
{
	char url[128];
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	snprintf(url, sizeof url, "dir:%s?sync=off", folder);
	expect_code(pgs_open(&store, url, NULL, &err), PGS_OK, &err, "open");
	return store;
}

/* In the child: pin and tell, then wait to be killed. */
static void pin_and_wait(const char *folder, uint64_t revision, int out)
{
	pgs_store *store;
	pgs_db *db;
	pgs_revision_pin *pin;
	char url[128];
	snprintf(url, sizeof url, "dir:%s?sync=off", folder);
	bool ok = pgs_open(&store, url, NULL, NULL) == PGS_OK &&
		  pgs_db_open(&db, store, "db", 2, NULL, NULL) == PGS_OK &&
		  pgs_pin_revision(&pin, db, revision, HOUR, NULL, NULL) == PGS_OK;
	if (write(out, ok ? "y" : "n", 1) == 1)
		for (;;)
			pause();
	_exit(1);
}

static void test_pin__of_a_killed_process(void **state)
{
	(void)state;
	char folder[64], told = 0;
	int fds[2];
	make_folder(folder);
	pgs_store *store = open_dir(folder);
	fixture f = {.a = {.store = store, .db = create_db(store, "db", NULL)}};
	f.server.kv = store->backend.kv;
	worker_init(&f.a);
	uint64_t r1 = change(&f);
	change(&f);
	assert_int_equal(pipe(fds), 0);
	pgs_db_close(f.a.db); /* LMDB does not go through fork() */
	pgs_close(store);
	pid_t child = fork();
	if (child == 0)
		pin_and_wait(folder, r1, fds[1]);
	assert_true(child > 0);
	assert_int_equal(read(fds[0], &told, 1), 1);
	assert_int_equal(told, 'y');
	store = f.a.store = open_dir(folder);
	f.a.db = open_db(store, "db");
	f.server.kv = store->backend.kv;
	worker_init(&f.a);
	assert_true(raise_floor(&f) == r1);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_true(raise_floor(&f) > r1);
	assert_int_equal(count_kind(&f, 'r'), 0);
	close(fds[0]);
	close(fds[1]);
	pgs_db_close(f.a.db);
	pgs_close(store);
	remove_folder(folder);
}

/* --- long transactions --------------------------------------------------------------------------- */

/* As if half the retention had passed. */
static void age(pgs_txn *t)
{
	t->keeper.due_ms = pgs__now_ms();
}

static void test_txn__short_ones_pin_nothing(void **state)
{
	fixture *f = *state;
	pgs_txn *t = begin_write(f->b.db);
	assert_true(t->keeper.due_ms >= pgs__now_ms() + HOUR / 2 - 1000);
	uint64_t calls = pgs_fault_calls(f->fault);
	uint8_t page[TEST_PAGE_SIZE];
	assert_int_equal(write_seed(t, 1, 256), PGS_OK);
	commit_ok(t);
	t = begin_write(f->b.db);
	assert_int_equal(pgs_read(t, 1, page), PGS_OK);
	pgs_abort(t);
	assert_true(pgs_fault_calls(f->fault) <= calls + 4);
	assert_int_equal(count_kind(f, 'r'), 0);
}

static void test_txn__pins_at_its_next_call(void **state)
{
	fixture *f = *state;
	change(f);
	pgs_txn *t = begin_write(f->b.db);
	uint8_t page[TEST_PAGE_SIZE];
	age(t);
	assert_int_equal(count_kind(f, 'r'), 0);
	assert_int_equal(pgs_read(t, 1, page), PGS_OK);
	assert_int_equal(count_kind(f, 'r'), 1);
	uint64_t revision = kv_revision(f->server.kv);
	assert_int_equal(pgs_prefetch(t, (uint64_t[]){1, 2}, 2), PGS_OK);
	assert_true(kv_revision(f->server.kv) == revision); /* not yet to be renewed */
	assert_true(t->keeper.due_ms > pgs__now_ms() + HOUR / 4 && t->keeper.due_ms < pgs__now_ms() + HOUR / 2);
	for (int i = 0; i < 3; i++) {
		kv_put(f->server.kv, "elsewhere", "1");
		assert_true(raise_floor(f) <= t->snapshot.kv_revision);
	}
	age(t);
	size_t size;
	assert_int_equal(pgs_attr_get(t, "x", 1, NULL, 0, &size), PGS_ENOTFOUND); /* renews */
	assert_true(kv_revision(f->server.kv) > revision);
	assert_int_equal(count_kind(f, 'r'), 1);
	assert_int_equal(write_seed(t, 2, 512), PGS_OK);
	commit_ok(t);
	assert_int_equal(count_kind(f, 'r'), 0);
	t = begin_write(f->b.db);
	age(t);
	assert_int_equal(write_seed(t, 2, 768), PGS_OK);
	commit_ok(t); /* the commit itself pins, too */
	assert_int_equal(count_kind(f, 'r'), 0);
	t = begin_write(f->b.db);
	age(t);
	assert_int_equal(pgs_attr_get(t, "x", 1, NULL, 0, &size), PGS_ENOTFOUND);
	assert_int_equal(count_kind(f, 'r'), 1);
	pgs_abort(t);
	assert_int_equal(count_kind(f, 'r'), 0);
}

/* A commit's B is where the KV was read, above the commit it saw: pinned is the former. */
static void test_txn__commits_what_it_pinned(void **state)
{
	fixture *f = *state;
	uint64_t changed = change(f);
	kv_put(f->server.kv, "elsewhere", "1");
	raise_floor(f);
	raise_floor(f);
	kv_put(f->server.kv, "elsewhere", "2");
	pgs_txn *t = begin_write(f->b.db);
	uint8_t page[TEST_PAGE_SIZE];
	assert_true(t->snapshot.kv_revision > changed);
	age(t);
	assert_int_equal(pgs_read(t, 1, page), PGS_OK);
	uint64_t floor = raise_floor(f);
	assert_true(floor > changed && floor <= t->snapshot.kv_revision);
	assert_int_equal(write_seed(t, 1, 12800), PGS_OK);
	commit_ok(t);
}

/* A large read set is checked by the changelog, which begins where the KV was read: history between the commit seen
 * and there is gone. */
static void test_txn__validates_by_log_past_a_compaction(void **state)
{
	fixture *f = *state;
	pgs_txn *first = begin_write(f->a.db);
	assert_int_equal(write_seed(first, 999, 256), PGS_OK);
	commit_ok(first);
	for (int i = 0; i < 4; i++) {
		kv_put(f->server.kv, "elsewhere", "1");
		raise_floor(f);
	}
	pgs_txn *t = begin_write(f->b.db);
	uint8_t page[TEST_PAGE_SIZE];
	for (uint64_t page_no = 0; page_no < 400; page_no += 2)
		assert_int_equal(pgs_read(t, page_no, page), PGS_OK);
	assert_int_equal(write_seed(t, 3, 256), PGS_OK);
	change(f); /* page 1 */
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_commit(t, NULL, NULL, &err), PGS_OK, &err, "commit");
}

/* Which is not the same as an attribute that is not there. */
static void test_txn__of_a_dropped_database(void **state)
{
	fixture *f = *state;
	size_t size;
	change(f);
	pgs_txn *t = begin_write(f->b.db);
	assert_int_equal(pgs_attr_get(t, "x", 1, NULL, 0, &size), PGS_ENOTFOUND);
	assert_non_null(strstr(pgs_txn_error(t)->message, "no attribute x"));
	assert_int_equal(pgs_db_drop(f->a.store, "db", 2, NULL), PGS_OK);
	assert_int_equal(f->server.kv->vtable->compact(f->server.kv, kv_revision(f->server.kv), 0, NULL), PGS_OK);
	assert_int_equal(pgs_attr_get(t, "x", 1, NULL, 0, &size), PGS_EOLDREV);
	assert_int_equal(pgs_txn_error(t)->code, PGS_EOLDREV);
	assert_non_null(strstr(pgs_txn_error(t)->message, "database db was dropped"));
	pgs_abort(t);
}

/* Nobody called for too long: everything tells what is the oldest. */
static void test_txn__too_old(void **state)
{
	fixture *f = *state;
	uint8_t page[TEST_PAGE_SIZE];
	size_t size;
	change(f);
	pgs_txn *t = begin_write(f->b.db);
	change(f);
	raise_floor(f);
	change(f);
	uint64_t floor = raise_floor(f);
	assert_int_equal(pgs_read(t, 1, page), PGS_EOLDREV);
	expect_named(pgs_txn_error(t), floor);
	assert_int_equal(pgs_attr_get(t, "x", 1, NULL, 0, &size), PGS_EOLDREV);
	expect_named(pgs_txn_error(t), floor);
	age(t); /* too late: it gives up */
	assert_int_equal(pgs_read(t, 1, page), PGS_EOLDREV);
	assert_true(t->keeper.due_ms == UINT64_MAX);
	assert_int_equal(count_kind(f, 'r'), 0);
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(write_seed(t, 1, 25600), PGS_OK);
	assert_int_equal(pgs_commit(t, NULL, NULL, &err), PGS_EOLDREV);
	expect_named(&err, floor);
}

/* Retention of 10 ms, but half of it is at least a second; and the pin is seen by a collector that keeps nothing. */
static void test_txn__with_a_short_retention(void **state)
{
	fixture *f = *state;
	uint8_t page[TEST_PAGE_SIZE];
	f->b.db->maintain.retention_ms = 10;
	change(f);
	pgs_txn *t = begin_write(f->b.db);
	assert_int_equal(pgs_read(t, 1, page), PGS_OK);
	assert_int_equal(count_kind(f, 'r'), 0);
	pgs__sleep_ms(1010, 0);
	assert_int_equal(pgs_read(t, 5, page), PGS_OK); /* past the end: no call of the KV, no pin */
	pgs__cache_forget(f->b.db->contents.cache, 0);
	assert_int_equal(pgs_prefetch(t, (uint64_t[]){0}, 1), PGS_OK);
	assert_int_equal(count_kind(f, 'r'), 1);
	change(f);
	raise_floor(f);
	assert_int_equal(pgs_read(t, 0, page), PGS_OK);
	pgs_abort(t);
	assert_int_equal(count_kind(f, 'r'), 0);
}

/* A pin that cannot be put fails nothing, and is tried again later. */
static void test_txn__pin_fails(void **state)
{
	fixture *f = *state;
	uint8_t page[TEST_PAGE_SIZE];
	change(f);
	pgs_txn *t = begin_write(f->b.db);
	age(t);
	pgs_fault_at(f->fault, 1, PGS_FAULT_ERROR);
	assert_int_equal(pgs_read(t, 1, page), PGS_OK);
	assert_int_equal(count_kind(f, 'r'), 0);
	assert_true(t->keeper.due_ms <= pgs__now_ms() + 1000);
	age(t);
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(pgs_prefetch(t, (uint64_t[]){0}, 1), PGS_OK);
	assert_int_equal(count_kind(f, 'r'), 1);
	pgs_abort(t);
	assert_int_equal(count_kind(f, 'r'), 0);
}

/* --- old revisions --------------------------------------------------------------------------------- */

static int count_page(void *ctx, uint64_t page_no)
{
	size_t *count = ctx;
	assert_true(page_no == 1);
	++*count;
	return 0;
}

/* The last commit's revision stays good, however high the floor, until there is another. */
static void test_old__the_last_commit_stays_readable(void **state)
{
	fixture *f = *state;
	uint64_t before = change(f), changed = change(f);
	for (int i = 0; i < 3; i++)
		raise_floor(f);
	pgs_txn *t;
	assert_int_equal(begin_at(f->a.db, changed, &t, NULL), PGS_OK);
	assert_true(pgs_txn_revision(t) == changed);
	pgs_abort(t);
	assert_int_equal(begin_at(f->a.db, changed + 1, &t, NULL), PGS_OK);
	assert_true(pgs_txn_revision(t) == changed);
	pgs_abort(t);
	assert_int_equal(begin_at(f->a.db, before, &t, NULL), PGS_EOLDREV);
	uint64_t next = change(f);
	size_t pages = 0;
	assert_int_equal(pgs_diff(f->a.db, changed, next, count_page, &pages, NULL), PGS_OK);
	assert_int_equal(pages, 1);
	raise_floor(f);
	raise_floor(f);
	assert_int_equal(begin_at(f->a.db, changed, &t, NULL), PGS_EOLDREV);
}

/* The KV is compacted above the floor, and no maintenance has seen it yet. */
static void test_old__compacted_by_someone_else(void **state)
{
	fixture *f = *state;
	uint64_t r1 = change(f), r2 = change(f), r3 = change(f);
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	kv_compact(f->server.kv, r2);
	assert_int_equal(begin_at(f->a.db, r1, &t, &err), PGS_EOLDREV);
	expect_named(&err, r2);
	assert_int_equal(pgs_diff(f->a.db, r1, r3, count_page, NULL, &err), PGS_EOLDREV);
	expect_named(&err, r2);
	pgs_revision_pin *pin;
	assert_int_equal(pgs_pin_revision(&pin, f->a.db, r1, 0, NULL, &err), PGS_EOLDREV);
	expect_named(&err, r2);
	assert_int_equal(begin_at(f->a.db, 1, &t, &err), PGS_EOLDREV);
	expect_readable(f, r2);
}

static void test_old__by_time(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	f->a.db->created_ms -= HOUR;
	o.at_time_ms = pgs__unix_ms() - HOUR / 2;
	change(f);
	assert_int_equal(pgs_begin(&t, f->a.db, &o, &err), PGS_ENOTFOUND); /* there was no commit so early */
	uint64_t floor = raise_floor(f);
	assert_int_equal(pgs_begin(&t, f->a.db, &o, &err), PGS_EOLDREV); /* there may have been */
	char text[64];
	snprintf(text, sizeof text, "%llu", (unsigned long long)floor);
	assert_non_null(strstr(err.message, text));
	o.at_time_ms = f->a.db->created_ms - 1;
	assert_int_equal(pgs_begin(&t, f->a.db, &o, &err), PGS_ENOTFOUND);
	o.at_time_ms = pgs__unix_ms() + 1000;
	assert_int_equal(pgs_begin(&t, f->a.db, &o, &err), PGS_OK);
	pgs_abort(t);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pin__of_a_killed_process),
		TEST(test_pin__keeps_a_revision),
		TEST(test_pin__of_the_latest),
		TEST(test_pin__of_the_latest_while_the_floor_rises),
		TEST(test_pin__refusals),
		TEST(test_pin__renewed_after_it_was_broken),
		TEST(test_pin__lost),
		TEST(test_pin__faults_at_every_call),
		TEST(test_pin__allocation_failures),
		TEST(test_txn__short_ones_pin_nothing),
		TEST(test_txn__pins_at_its_next_call),
		TEST(test_txn__commits_what_it_pinned),
		TEST(test_txn__validates_by_log_past_a_compaction),
		TEST(test_txn__too_old),
		TEST(test_txn__of_a_dropped_database),
		TEST(test_txn__with_a_short_retention),
		TEST(test_txn__pin_fails),
		TEST(test_old__the_last_commit_stays_readable),
		TEST(test_old__compacted_by_someone_else),
		TEST(test_old__by_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
