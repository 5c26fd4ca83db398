/* pgs_commit_many(): transactions of several databases of a store, committed together. Tags: see support/txn_stage.h. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "support/stores.h"
#include "support/txn_stage.h"
#include "txn/txn.h"

#define T PAGE_NOISE

enum { DBS = 3 };

/* The stage's database, and others beside it; as this process has them, and as another. */
typedef struct several {
	stage *s;
	pgs_db *db[DBS], *other[DBS];
} several;

static pgs_db *open_named(pgs_store *store, const char *name)
{
	pgs_db *db;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_db_open(&db, store, name, strlen(name), NULL, &err), PGS_OK, &err, "open");
	return db;
}

static void several_open(several *m, stage *s)
{
	static const char *const names[DBS] = {"db", "two", "three"};
	m->s = s;
	m->db[0] = s->db;
	m->other[0] = stage_other(s);
	for (size_t i = 1; i < DBS; i++) {
		m->db[i] = create_db(s->store, names[i], &s->options);
		m->other[i] = open_named(s->other_store, names[i]);
	}
}

static void several_close(several *m)
{
	for (size_t i = 1; i < DBS; i++) {
		pgs_db_close(m->db[i]);
		pgs_db_close(m->other[i]);
	}
}

static void begin_all(several *m, pgs_txn **txns, size_t count, uint32_t isolation)
{
	for (size_t i = 0; i < count; i++)
		txns[i] = tx_begin(m->db[i], isolation);
}

static uint64_t commit_all(pgs_txn **txns, size_t count)
{
	uint64_t revision = 0;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_commit_many(txns, NULL, count, NULL, &revision, &err), PGS_OK, &err, "commit");
	return revision;
}

static void expect_conflict(pgs_txn **txns, size_t count, size_t which, uint64_t page)
{
	size_t culprit = 99;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_commit_many(txns, NULL, count, &culprit, NULL, &err), PGS_ECONFLICT, &err, "commit");
	assert_int_equal(culprit, which);
	assert_int_equal(err.page, page);
}

/* What another process finds. */
static void expect_page(several *m, size_t db, uint64_t page, uint64_t tag)
{
	pgs_txn *t = tx_read(m->other[db]);
	tx_expect(t, m->s, page, tag);
	pgs_abort(t);
}

static uint64_t revision_of(pgs_db *db)
{
	pgs_txn *t = tx_read(db);
	uint64_t revision = pgs_txn_revision(t);
	pgs_abort(t);
	return revision;
}

/* --- all or nothing ---------------------------------------------------------------- */

static void test_txn_many__commits_at_one_revision(void **state)
{
	several m;
	pgs_txn *t[DBS];
	several_open(&m, *state);
	for (uint64_t round = 1; round <= 6; round++) { /* from the fourth on they count on being alone */
		begin_all(&m, t, DBS, PGS_SERIALIZABLE);
		for (size_t i = 0; i < DBS; i++) {
			tx_expect(t[i], m.s, i, round > 1 ? T(100 * (round - 1) + i) : PAGE_ZERO);
			tx_put(t[i], m.s, i, T(100 * round + i));
		}
		uint64_t revision = commit_all(t, DBS);
		for (size_t i = 0; i < DBS; i++) {
			assert_int_equal(revision_of(m.db[i]), revision);
			assert_int_equal(revision_of(m.other[i]), revision);
			expect_page(&m, i, i, T(100 * round + i));
		}
	}
	several_close(&m);
}

static void test_txn_many__a_conflict_in_one_stops_all(void **state)
{
	several m;
	pgs_txn *t[DBS];
	several_open(&m, *state);
	for (size_t i = 0; i < DBS; i++)
		tx_one(m.db[i], m.s, 5, T(i));
	for (uint64_t round = 0; round < 5; round++)
		for (size_t which = 0; which < DBS; which++) {
			begin_all(&m, t, DBS, PGS_SERIALIZABLE);
			for (size_t i = 0; i < DBS; i++) {
				tx_expect(t[i], m.s, 5, round || which > i ? T(10 + i) : T(i));
				tx_put(t[i], m.s, 6, T(666));
			}
			tx_one(m.other[which], m.s, 5, T(10 + which + 1000));
			expect_conflict(t, DBS, which, 5);
			for (size_t i = 0; i < DBS; i++)
				expect_page(&m, i, 6, PAGE_ZERO);
			tx_one(m.other[which], m.s, 5, T(10 + which));
		}
	several_close(&m);
}

/* Each writes where the other reads: one of them has to do it again. */
static void test_txn_many__has_no_write_skew(void **state)
{
	several m;
	pgs_txn *a[2], *b[2];
	several_open(&m, *state);
	tx_one(m.db[0], m.s, 1, T(0));
	tx_one(m.db[1], m.s, 1, T(0));
	begin_all(&m, a, 2, PGS_SERIALIZABLE);
	begin_all(&m, b, 2, PGS_SERIALIZABLE);
	tx_expect(a[0], m.s, 1, T(0));
	tx_put(a[1], m.s, 1, T(1));
	tx_expect(b[1], m.s, 1, T(0));
	tx_put(b[0], m.s, 1, T(2));
	commit_all(a, 2);
	expect_conflict(b, 2, 1, 1);
	expect_page(&m, 0, 1, T(0));
	several_close(&m);
}

static void test_txn_many__blind_writes_do_not_conflict(void **state)
{
	several m;
	pgs_txn *t[2];
	several_open(&m, *state);
	for (size_t i = 0; i < 2; i++)
		tx_one(m.db[i], m.s, 3, PAGE_KIN(1, 1));
	begin_all(&m, t, 2, PGS_SERIALIZABLE);
	for (size_t i = 0; i < 2; i++) {
		tx_put(t[i], m.s, 3, PAGE_KIN(1, 2)); /* deltas of what is about to change */
		tx_one(m.other[i], m.s, 3, T(7));
	}
	commit_all(t, 2);
	for (size_t i = 0; i < 2; i++)
		expect_page(&m, i, 3, PAGE_KIN(1, 2));
	several_close(&m);
}

/* --- those that write nothing ----------------------------------------------------------- */

static uint64_t one_page(void *ctx, uint64_t from)
{
	uint64_t page = *(uint64_t *)ctx;
	return from <= page ? page : PGS_NO_PAGE;
}

static void test_txn_many__what_is_only_read_is_validated(void **state)
{
	several m;
	pgs_txn *t[2];
	several_open(&m, *state);
	tx_one(m.db[0], m.s, 4, T(1));
	for (int attribute = 0; attribute < 2; attribute++) {
		begin_all(&m, t, 2, PGS_SERIALIZABLE);
		if (attribute)
			tx_expect_attr(t[0], "root", NULL);
		else
			tx_expect(t[0], m.s, 4, T(1));
		tx_put(t[1], m.s, 4, T(1));
		pgs_txn *other = tx_begin(m.other[0], PGS_SERIALIZABLE);
		tx_put(other, m.s, 4, T(2 + (uint64_t)attribute));
		tx_attr(other, "root", attribute ? "x" : NULL);
		tx_commit(other);
		expect_conflict(t, 2, 0, attribute ? PGS_NO_PAGE : 4);
		expect_page(&m, 1, 4, PAGE_ZERO);
	}
	uint64_t before = revision_of(m.db[0]);
	begin_all(&m, t, 2, PGS_SERIALIZABLE); /* and is not written */
	tx_expect(t[0], m.s, 4, T(3));
	tx_put(t[1], m.s, 4, T(1));
	tx_one(m.other[0], m.s, 5, T(2));
	assert_true(commit_all(t, 2) > before);
	begin_all(&m, t, 2, PGS_SNAPSHOT); /* its reads do not count */
	tx_expect(t[0], m.s, 4, T(3));
	tx_put(t[1], m.s, 4, T(9));
	tx_one(m.other[0], m.s, 4, T(4));
	commit_all(t, 2);
	several_close(&m);
}

static void test_txn_many__relied_pages_count(void **state)
{
	several m;
	pgs_txn *t[2];
	uint64_t page = 8, previous[2] = {1, 1};
	pgs_commit_options o[2] = {PGS_COMMIT_OPTIONS_INIT, PGS_COMMIT_OPTIONS_INIT};
	const pgs_commit_options *options[2] = {&o[0], &o[1]};
	pgs_error err = PGS_ERROR_INIT;
	several_open(&m, *state);
	for (size_t i = 0; i < 2; i++) {
		o[i].relied = one_page;
		o[i].relied_ctx = &page;
		o[i].previous_revision = &previous[i];
	}
	for (size_t changed = 0; changed < 2; changed++) {
		size_t which = 9;
		begin_all(&m, t, 2, PGS_SNAPSHOT);
		tx_put(t[1], m.s, 1, T(changed));
		tx_one(m.other[changed], m.s, 8, T(5));
		assert_int_equal(pgs_commit_many(t, options, 2, &which, NULL, &err), PGS_ECONFLICT);
		assert_int_equal(which, changed);
		assert_int_equal(err.page, 8);
	}
	begin_all(&m, t, 2, PGS_SNAPSHOT);
	uint64_t base[2] = {pgs_txn_revision(t[0]), pgs_txn_revision(t[1])};
	tx_put(t[1], m.s, 1, T(3));
	assert_int_equal(pgs_commit_many(t, options, 2, NULL, NULL, &err), PGS_OK);
	assert_int_equal(previous[0], base[0]);
	assert_int_equal(previous[1], base[1]);
	several_close(&m);
}

static void test_txn_many__nothing_to_do(void **state)
{
	several m;
	pgs_txn *t[DBS];
	several_open(&m, *state);
	uint64_t a = tx_one(m.db[0], m.s, 0, T(1)), b = tx_one(m.db[1], m.s, 0, T(1));
	begin_all(&m, t, 2, PGS_SERIALIZABLE);
	tx_expect(t[0], m.s, 0, T(1));
	t[2] = tx_read(m.db[2]);
	assert_int_equal(commit_all(t, DBS), a > b ? a : b);
	begin_all(&m, t, 1, PGS_SERIALIZABLE); /* one writes, the others are there to be ended */
	t[1] = tx_read(m.db[1]);
	t[2] = tx_begin(m.db[2], PGS_SERIALIZABLE);
	tx_put(t[0], m.s, 0, T(2));
	tx_one(m.other[1], m.s, 0, T(5));
	commit_all(t, DBS);
	begin_all(&m, t, 1, PGS_SERIALIZABLE); /* a single one */
	tx_put(t[0], m.s, 0, T(3));
	commit_all(t, 1);
	expect_page(&m, 0, 0, T(3));
	several_close(&m);
}

/* --- arguments, outcomes ------------------------------------------------------------------- */

static void test_txn_many__refuses_what_cannot_be_together(void **state)
{
	several m;
	pgs_txn *t[PGS_COMMIT_MANY_MAX + 1];
	pgs_error err = PGS_ERROR_INIT;
	several_open(&m, *state);
	t[0] = tx_begin(m.db[0], PGS_SERIALIZABLE);
	t[1] = tx_begin(m.db[0], PGS_SERIALIZABLE); /* one database */
	assert_int_equal(pgs_commit_many(t, NULL, 2, NULL, NULL, &err), PGS_EINVAL);
	t[0] = t[1] = tx_begin(m.db[0], PGS_SERIALIZABLE); /* given twice */
	assert_int_equal(pgs_commit_many(t, NULL, 2, NULL, NULL, &err), PGS_EINVAL);
	t[0] = tx_begin(m.db[0], PGS_SERIALIZABLE);
	t[1] = tx_begin(m.other[1], PGS_SERIALIZABLE); /* two stores, though of one KV */
	assert_int_equal(pgs_commit_many(t, NULL, 2, NULL, NULL, &err), PGS_EINVAL);
	for (size_t i = 0; i <= PGS_COMMIT_MANY_MAX; i++)
		t[i] = tx_begin(m.db[i % DBS], PGS_SERIALIZABLE);
	assert_int_equal(pgs_commit_many(t, NULL, PGS_COMMIT_MANY_MAX + 1, NULL, NULL, &err), PGS_EINVAL);
	assert_int_equal(pgs_commit_many(t, NULL, 0, NULL, NULL, &err), PGS_EINVAL);
	several_close(&m);
}

static void test_txn_many__each_token_tells(void **state)
{
	several m;
	pgs_txn *t[2];
	pgs_commit_token token[2];
	pgs_commit_options o[2] = {PGS_COMMIT_OPTIONS_INIT, PGS_COMMIT_OPTIONS_INIT};
	const pgs_commit_options *options[2] = {&o[0], &o[1]};
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision, found;
	int status;
	several_open(&m, *state);
	for (int conflict = 0; conflict < 2; conflict++) {
		begin_all(&m, t, 2, PGS_SERIALIZABLE);
		for (size_t i = 0; i < 2; i++) {
			o[i].token = &token[i];
			tx_expect(t[i], m.s, 0, conflict ? T(1) : PAGE_ZERO);
			tx_put(t[i], m.s, 0, T(1 + (uint64_t)conflict));
		}
		if (conflict)
			tx_one(m.other[1], m.s, 0, T(99));
		int result = pgs_commit_many(t, options, 2, NULL, &revision, &err);
		expect_code(result, conflict ? PGS_ECONFLICT : PGS_OK, &err, "commit");
		for (size_t i = 0; i < 2; i++) {
			assert_int_equal(pgs_commit_status(m.other[i], &token[i], &status, &found, &err), PGS_OK);
			assert_int_equal(status, conflict ? PGS_COMMIT_NOT_HAPPENED : PGS_COMMIT_HAPPENED);
			if (!conflict)
				assert_int_equal(found, revision);
		}
	}
	several_close(&m);
}

/* --- limits ---------------------------------------------------------------------------------- */

/* More pages than fit, in all of them: packs, or files. And attributes, and a truncation. */
static void test_txn_many__large_parts_fit(void **state)
{
	several m;
	pgs_txn *t[DBS];
	several_open(&m, *state);
	begin_all(&m, t, DBS, PGS_SERIALIZABLE);
	for (size_t i = 0; i < DBS; i++) {
		for (uint64_t page = 0; page < 60 + 200 * i; page++)
			tx_put(t[i], m.s, page, i == 1 ? PAGE_KIN(3, page + 1) : T(page));
		tx_attr(t[i], "size", "large");
	}
	commit_all(t, DBS);
	begin_all(&m, t, DBS, PGS_SERIALIZABLE);
	for (size_t i = 0; i < DBS; i++) {
		for (uint64_t page = 0; page < 60; page++)
			tx_expect(t[i], m.s, page, i == 1 ? PAGE_KIN(3, page + 1) : T(page));
		assert_int_equal(pgs_truncate(t[i], 50), PGS_OK);
		tx_put(t[i], m.s, 0, T(4242));
	}
	commit_all(t, DBS);
	for (size_t i = 0; i < DBS; i++) {
		pgs_txn *r = tx_read(m.other[i]);
		tx_expect_count(r, 50);
		tx_expect(r, m.s, 0, T(4242));
		tx_expect(r, m.s, 49, i == 1 ? PAGE_KIN(3, 50) : T(49));
		tx_expect(r, m.s, 51, PAGE_ZERO);
		tx_expect_attr(r, "size", "large");
		pgs_abort(r);
	}
	several_close(&m);
}

static void commit_on_limited_kv(pgs_db **dbs, size_t count, int expected)
{
	pgs_txn *t[PGS_COMMIT_MANY_MAX];
	pgs_error err = PGS_ERROR_INIT;
	for (size_t i = 0; i < count; i++) {
		t[i] = begin_write(dbs[i]);
		for (uint64_t page = 0; page < 20; page++)
			assert_int_equal(write_seed(t[i], page, 256 * (page + count) + 1), PGS_OK);
	}
	expect_code(pgs_commit_many(t, NULL, count, NULL, NULL, &err), expected, &err, "commit");
	for (size_t i = 0; i < count; i++) {
		t[i] = begin_write(dbs[i]);
		assert_int_equal(read_seed(t[i], 19, expected == PGS_OK ? 256 * (19 + count) + 1 : 0), PGS_OK);
		pgs_abort(t[i]);
	}
}

static void limited(pgs_kv_limits limits, size_t fit)
{
	server kv;
	pgs_db *dbs[PGS_COMMIT_MANY_MAX];
	server_start(&kv, &limits);
	pgs_store *store = server_open(&kv, NULL, NULL);
	for (size_t i = 0; i < PGS_COMMIT_MANY_MAX; i++) {
		char name[8];
		snprintf(name, sizeof name, "db%zu", i);
		dbs[i] = create_db(store, name, NULL);
	}
	if (fit < PGS_COMMIT_MANY_MAX)
		commit_on_limited_kv(dbs, PGS_COMMIT_MANY_MAX, PGS_ELIMIT);
	commit_on_limited_kv(dbs, fit, PGS_OK);
	for (size_t i = 0; i < PGS_COMMIT_MANY_MAX; i++)
		pgs_db_close(dbs[i]);
	pgs_close(store);
	server_stop(&kv);
}

static void test_txn_many__limits_of_the_kv(void **state)
{
	(void)state;
	limited((pgs_kv_limits){128, 1572864, 0, 0}, PGS_COMMIT_MANY_MAX);
	limited((pgs_kv_limits){32, 400000, 0, 0}, 4);
	limited((pgs_kv_limits){16, 200000, 0, 0}, 2);
}

/* --- threads ------------------------------------------------------------------------------------ */

enum { THREADS = 4, ACCOUNTS = 8, SCANNED = 700, BALANCE = 100 };

typedef struct mover {
	pgs_db *db[2];
	uint32_t page_size, number, transfers, conflicts;
	int failure;
	pgs_error err;
	uint8_t *page;
} mover;

static int change(mover *m, pgs_txn *t, uint64_t page, int64_t by)
{
	int64_t balance;
	int result = pgs_read(t, page, m->page);
	memcpy(&balance, m->page, sizeof balance);
	balance += by;
	memcpy(m->page, &balance, sizeof balance);
	return result == PGS_OK ? pgs_write(t, page, m->page) : result;
}

/* Every other one reads so much that it is checked by the changelog, and takes the writer locks when it loses. */
static int scan(mover *m, pgs_txn *t)
{
	int result = PGS_OK;
	for (uint64_t page = 100; result == PGS_OK && page < 100 + SCANNED; page += 2)
		result = pgs_read(t, page, m->page);
	return result;
}

static int move_once(mover *m, uint32_t step)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t[2] = {NULL, NULL};
	o.write = true;
	o.timeout_ms = 60000;
	int result = pgs_begin(&t[0], m->db[0], &o, &m->err);
	if (result == PGS_OK)
		result = pgs_begin(&t[1], m->db[1], &o, &m->err);
	for (size_t i = 0; result == PGS_OK && i < 2; i++) {
		result = change(m, t[i], (m->number * 3 + step * 5) % ACCOUNTS, i ? 1 : -1);
		if (result == PGS_OK && m->number % 2)
			result = scan(m, t[i]);
		if (result != PGS_OK)
			m->err = *pgs_txn_error(t[i]);
	}
	if (result == PGS_OK)
		return pgs_commit_many(t, NULL, 2, NULL, NULL, &m->err);
	pgs_abort(t[0]);
	pgs_abort(t[1]);
	return result;
}

static void *move(void *ctx)
{
	mover *m = ctx;
	for (uint32_t i = 0; i < m->transfers && m->failure == PGS_OK; i++) {
		while ((m->failure = move_once(m, i)) == PGS_ECONFLICT)
			m->conflicts++;
	}
	return NULL;
}

/* Both databases as of one revision. */
static int64_t sum_of(several *m)
{
	int64_t sum = 0, balance;
	uint8_t page[4096];
	pgs_txn *a = tx_read(m->other[0]), *b = tx_at(m->other[1], pgs_txn_revision(a));
	for (uint64_t i = 0; i < ACCOUNTS; i++)
		for (size_t side = 0; side < 2; side++) {
			assert_int_equal(pgs_read(side ? b : a, i, page), PGS_OK);
			memcpy(&balance, page, sizeof balance);
			sum += balance;
		}
	pgs_abort(a);
	pgs_abort(b);
	return sum;
}

static void test_txn_many__threads_move_money(void **state)
{
	several m;
	pgs_txn *t[2];
	mover movers[THREADS];
	uint8_t pages[THREADS][4096] = {{0}};
	pthread_t threads[THREADS];
	const int64_t balance = BALANCE;
	several_open(&m, *state);
	assert_int_equal(m.s->page_size, sizeof pages[0]);
	begin_all(&m, t, 2, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < 2 * ACCOUNTS; i++) {
		memcpy(pages[0], &balance, sizeof balance);
		assert_int_equal(pgs_write(t[i % 2], i / 2, pages[0]), PGS_OK);
	}
	commit_all(t, 2);
	for (size_t i = 0; i < 2; i++)
		tx_fill(m.db[i], m.s, 100, SCANNED, T(0));
	for (uint32_t i = 0; i < THREADS; i++) {
		bool turned = i >= THREADS / 2; /* {A, B} and {B, A} */
		movers[i] = (mover){{m.db[turned], m.db[!turned]}, m.s->page_size, i, 20, 0, PGS_OK, PGS_ERROR_INIT, pages[i]};
		assert_int_equal(pthread_create(&threads[i], NULL, move, &movers[i]), 0);
	}
	for (int i = 0; i < 30; i++)
		assert_int_equal(sum_of(&m), 2 * ACCOUNTS * BALANCE);
	for (uint32_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (uint32_t i = 0; i < THREADS; i++)
		expect_code(movers[i].failure, PGS_OK, &movers[i].err, "a transfer");
	assert_int_equal(sum_of(&m), 2 * ACCOUNTS * BALANCE);
	several_close(&m);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_txn_many__commits_at_one_revision, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__a_conflict_in_one_stops_all, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__has_no_write_skew, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__blind_writes_do_not_conflict, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__what_is_only_read_is_validated, stage_setup,
						stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__relied_pages_count, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__nothing_to_do, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__refuses_what_cannot_be_together, stage_setup,
						stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__each_token_tells, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__large_parts_fit, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__limits_of_the_kv, stage_setup, stage_teardown),
		cmocka_unit_test_setup_teardown(test_txn_many__threads_move_money, stage_setup, stage_teardown),
	};
	return stage_run("txn_many", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
