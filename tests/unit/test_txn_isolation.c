/* lib/txn: what is a conflict and what is none. Tags: see support/txn_stage.h. */
#include <string.h>

#include "support/txn_stage.h"

#define T PAGE_NOISE

/* --- pages --------------------------------------------------------------------- */

/* Two pages whose sum must stay: each transaction reads both and writes one. */
static void write_skew(stage *s, uint32_t isolation, pgs_txn **a, pgs_txn **b)
{
	tx_fill(s->db, s, 0, 2, T(0));
	*a = tx_begin(s->db, isolation);
	*b = tx_begin(stage_other(s), isolation);
	for (uint64_t page = 0; page < 2; page++) {
		tx_expect(*a, s, page, T(page));
		tx_expect(*b, s, page, T(page));
	}
	tx_put(*a, s, 0, T(10));
	tx_put(*b, s, 1, T(11));
}

static void test_txn_isolation__write_skew_is_refused(void **state)
{
	stage *s = *state;
	pgs_txn *a, *b;
	write_skew(s, PGS_SERIALIZABLE, &a, &b);
	tx_commit(a);
	tx_conflict(b, 0);
	stage_expect(s, 0, T(10));
	stage_expect(s, 1, T(1));
}

static void test_txn_isolation__write_skew_passes_under_snapshot(void **state)
{
	stage *s = *state;
	pgs_txn *a, *b;
	write_skew(s, PGS_SNAPSHOT, &a, &b);
	tx_commit(a);
	tx_commit(b);
	stage_expect(s, 0, T(10));
	stage_expect(s, 1, T(11));
}

static void test_txn_isolation__first_committer_wins_under_snapshot(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *a = tx_begin(s->db, PGS_SNAPSHOT), *b = tx_begin(stage_other(s), PGS_SNAPSHOT);
	tx_put(a, s, 5, T(100)); /* blind: under snapshot isolation that does not matter */
	tx_put(b, s, 4, T(101));
	tx_put(b, s, 5, T(102));
	tx_commit(a);
	tx_conflict(b, 5);
	stage_expect(s, 4, T(4));
}

static void test_txn_isolation__first_committer_wins_a_new_page(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *a = tx_begin(s->db, PGS_SNAPSHOT), *b = tx_begin(stage_other(s), PGS_SNAPSHOT);
	tx_put(a, s, 8, T(100));
	tx_put(b, s, 8, T(101));
	tx_commit(a);
	tx_conflict(b, 8);
	stage_expect(s, 8, T(100));
}

/* Writing a page with what it holds is how an application makes a read count: it must count then. */
static void test_txn_isolation__first_committer_wins_an_equal_write(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *a = tx_begin(s->db, PGS_SNAPSHOT), *b = tx_begin(stage_other(s), PGS_SNAPSHOT);
	tx_put(a, s, 5, T(100));
	tx_put(b, s, 5, T(5));
	tx_put(b, s, 6, T(101));
	tx_commit(a);
	tx_conflict(b, 5);
}

/* So must the page count set to what it is: the other's pages would be there still, as if it had not been set. */
static void test_txn_isolation__first_committer_wins_an_equal_count(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 8, T(0));
	pgs_txn *a = tx_begin(s->db, PGS_SNAPSHOT), *b = tx_begin(stage_other(s), PGS_SNAPSHOT);
	tx_put(a, s, 8, T(100));
	assert_int_equal(pgs_truncate(b, 8), PGS_OK);
	tx_put(b, s, 6, T(101));
	tx_commit(a);
	tx_conflict(b, PGS_NO_PAGE);
}

static void test_txn_isolation__reads_do_not_count_under_snapshot(void **state)
{
	stage *s = *state;
	pgs_txn *init = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(init, s, 0, T(0));
	tx_put(init, s, 1, T(1));
	tx_attr(init, "root", "1");
	tx_commit(init);
	pgs_txn *a = tx_begin(s->db, PGS_SNAPSHOT), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_expect(a, s, 0, T(0));
	tx_expect_attr(a, "root", "1");
	tx_expect_count(a, 2);
	tx_put(a, s, 1, T(100));
	tx_put(b, s, 0, T(10));
	tx_put(b, s, 2, T(10));
	tx_attr(b, "root", "2");
	tx_commit(b);
	tx_commit(a);
	stage_expect(s, 0, T(10));
	stage_expect(s, 1, T(100));
}

static void test_txn_isolation__lost_update_is_refused(void **state)
{
	stage *s = *state;
	for (uint32_t isolation = PGS_SERIALIZABLE; isolation <= PGS_SNAPSHOT; isolation++) {
		tx_one(s->db, s, 3, T(1 + isolation));
		pgs_txn *a = tx_begin(s->db, isolation), *b = tx_begin(stage_other(s), isolation);
		tx_expect(a, s, 3, T(1 + isolation));
		tx_expect(b, s, 3, T(1 + isolation));
		tx_put(a, s, 3, T(100 + isolation));
		tx_put(b, s, 3, T(200 + isolation));
		tx_commit(b);
		tx_conflict(a, 3);
		stage_expect(s, 3, T(200 + isolation));
	}
}

/* The same page, small changes of a page at hand: the library stores the blind write as a delta, and must give that
 * up quietly when its base has gone. */
static void test_txn_isolation__blind_writes_never_conflict(void **state)
{
	stage *s = *state;
	for (uint64_t round = 0; round < 6; round++) {
		bool spill = round & 1;
		s->options.write_buffer_bytes = spill ? 4096 : 0;
		stage_remake(s);
		tx_fill(s->db, s, 0, 40, PAGE_KIN(7, 0));
		pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
		for (uint64_t page = 0; page < 40; page += round < 2 ? 1 : round < 4 ? 2 : 39) {
			tx_put(a, s, page, PAGE_KIN(7, 1000 + page)); /* a delta */
			tx_put(b, s, page, round < 2 ? PAGE_KIN(7, 2000 + page) : T(3000 + page));
		}
		tx_commit(b);
		tx_commit(a);
		stage_expect(s, 0, PAGE_KIN(7, 1000));
		stage_expect(s, 39, PAGE_KIN(7, round < 2 || round >= 4 ? 1039 : 39));
		assert_int_equal(stage_pointer(s, 0).kind, PGS__POINTER_FULL);
		/* A delta taken now must apply to what is there now. */
		tx_one(s->db, s, 0, PAGE_KIN(7, 5000));
		assert_int_equal(stage_pointer(s, 0).kind, PGS__POINTER_DELTA);
		pgs_txn *other = tx_read(stage_other(s));
		tx_expect(other, s, 0, PAGE_KIN(7, 5000));
		pgs_abort(other);
	}
}

static void test_txn_isolation__a_blind_write_beside_a_read_conflict(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 10, PAGE_KIN(7, 0));
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect(a, s, 4, PAGE_KIN(7, 4));
	tx_put(a, s, 3, PAGE_KIN(7, 103));
	tx_put(a, s, 5, PAGE_KIN(7, 105));
	pgs_txn *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	for (uint64_t page = 3; page <= 5; page++)
		tx_put(b, s, page, T(page));
	tx_commit(b);
	tx_conflict(a, 4);
}

/* Before the first attempt the blind page changes, before the second one that was read. */
static void change_in_turn(stage *s, const char *operation)
{
	if (strcmp(operation, "txn") != 0)
		return;
	s->calls[0]++;
	if (s->calls[0] <= 2)
		tx_one(stage_other(s), s, s->calls[0] == 1 ? 20 : s->page, T(100 + s->calls[0]));
}

static void test_txn_isolation__a_read_conflict_after_a_blind_one(void **state)
{
	stage *s = *state;
	for (uint64_t round = 0; round < 4; round++) { /* by one range; by key; by changelog; and one not read */
		stage_remake(s);
		tx_fill(s->db, s, 0, 400, PAGE_KIN(7, 0));
		stage_other(s);
		pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
		for (uint64_t page = round == 1 ? 8 : 0; page < (round == 2 ? 400 : 20); page += round == 2 ? 3 : 1 + round % 2)
			tx_expect(t, s, page, PAGE_KIN(7, page));
		tx_put(t, s, 20, PAGE_KIN(7, 500));
		s->calls[0] = 0;
		s->page = round == 0 ? 5 : round == 1 ? 10 : round == 2 ? 300 : 399;
		s->before = change_in_turn;
		if (round < 3)
			tx_conflict(t, s->page);
		else
			tx_commit(t);
		s->before = NULL;
		assert_true(s->calls[0] >= 2);
		stage_expect(s, 20, round < 3 ? T(101) : PAGE_KIN(7, 500));
	}
}

/* --- equal writes ---------------------------------------------------------------- */

/* Each sets its page to what the other's page holds, which it already does: dropped, they would both pass beside a
 * third that makes each of them wrong, were the pages not read. */
static void test_txn_isolation__equal_writes_count_as_reads(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 4, T(0));
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	/* a: page 0 := T(0) (as it is), page 2 := "a was here". b: page 2 := T(2) (as it is), page 0 := "b was here".
	 * Serially the last one's value of both pages stands; dropping both equal writes would leave a mixture. */
	tx_put(a, s, 0, T(0));
	tx_put(a, s, 2, T(100));
	tx_put(b, s, 2, T(2));
	tx_put(b, s, 0, T(101));
	tx_commit(a);
	tx_conflict(b, 2);
	stage_expect(s, 0, T(0));
	stage_expect(s, 2, T(100));
}

static void test_txn_isolation__equal_writes_of_zero_count_as_reads(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 1, T(0));
	tx_one(s->db, s, 9, T(9)); /* pages 1 to 8 were never written */
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_put(a, s, 1, PAGE_ZERO);
	tx_put(a, s, 2, T(100));
	tx_put(b, s, 2, PAGE_ZERO);
	tx_put(b, s, 1, T(101));
	tx_commit(a);
	tx_conflict(b, 2);
	stage_expect(s, 1, PAGE_ZERO);
}

static void test_txn_isolation__an_equal_transaction_writes_nothing(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 4, T(0));
	uint64_t base = tx_one(s->db, s, 6, T(6)), keys = stage_keys(s);
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(a, s, 0, T(0));
	tx_put(a, s, 3, T(77));
	tx_put(a, s, 3, T(3)); /* and back */
	tx_put(a, s, 5, PAGE_ZERO);
	tx_one(stage_other(s), s, 0, T(50)); /* serially after it */
	assert_int_equal(tx_commit(a), base);
	assert_true(stage_keys(s) <= keys + 3);
	stage_expect(s, 0, T(50));
	pgs_txn *b = tx_begin(s->db, PGS_SERIALIZABLE);
	uint64_t latest = pgs_txn_revision(b);
	assert_int_equal(tx_commit(b), latest);
	assert_int_equal(tx_commit(tx_read(s->db)), latest);
}

static void test_txn_isolation__zero_pages_take_no_content(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 3, T(0));
	uint64_t contents = stage_keys_of(s, 'c'), old = tx_one(s->db, s, 1, PAGE_ZERO);
	assert_int_equal(stage_pointer(s, 1).kind, PGS__POINTER_ZERO);
	assert_int_equal(stage_keys_of(s, 'c'), contents);
	stage_expect(s, 1, PAGE_ZERO);
	tx_one(s->db, s, 7, PAGE_ZERO);
	pgs_txn *t = tx_read(stage_other(s));
	tx_expect_count(t, 8);
	tx_expect(t, s, 7, PAGE_ZERO);
	pgs_abort(t);
	tx_one(s->db, s, 1, T(9));
	t = tx_at(stage_other(s), old);
	tx_expect(t, s, 1, PAGE_ZERO);
	tx_expect_count(t, 3);
	pgs_abort(t);
}

/* --- the page count ----------------------------------------------------------------- */

static void test_txn_extent__readers_of_the_count_cannot_both_append(void **state)
{
	stage *s = *state;
	uint64_t n;
	tx_fill(s->db, s, 0, 5, T(0));
	for (uint32_t isolation = PGS_SERIALIZABLE; isolation <= PGS_SNAPSHOT; isolation++) {
		pgs_txn *a = tx_begin(s->db, isolation), *b = tx_begin(stage_other(s), isolation);
		tx_expect_count(a, 5 + isolation);
		pgs_page_count(b, &n);
		tx_put(a, s, n, T(100));
		tx_put(b, s, n, T(200));
		tx_commit(b);
		pgs_error err = PGS_ERROR_INIT;
		assert_int_equal(pgs_commit(a, NULL, NULL, &err), PGS_ECONFLICT);
		stage_expect(s, n, T(200));
	}
}

static void test_txn_extent__blind_appenders_both_win(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 5, T(0));
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_put(a, s, 5, T(100));
	tx_put(a, s, 6, T(101));
	tx_put(b, s, 5, T(200));
	tx_put(b, s, 9, T(201));
	tx_commit(b);
	tx_commit(a);
	pgs_txn *t = tx_read(s->db);
	tx_expect_count(t, 10);
	tx_expect(t, s, 5, T(100));
	tx_expect(t, s, 6, T(101));
	tx_expect(t, s, 9, T(201));
	pgs_abort(t);
}

static void test_txn_extent__growers_race_in_any_order(void **state)
{
	stage *s = *state;
	static const uint64_t ends[][3] = {{3, 9, 6}, {9, 6, 3}, {6, 3, 9}, {9, 3, 6}};
	for (size_t i = 0; i < 4; i++) {
		pgs_txn *t[3];
		for (size_t k = 0; k < 3; k++) {
			t[k] = tx_begin(k & 1 ? stage_other(s) : s->db, PGS_SERIALIZABLE);
			tx_put(t[k], s, 10 * i + ends[i][k], T(ends[i][k]));
		}
		for (size_t k = 0; k < 3; k++)
			tx_commit(t[k]);
		pgs_txn *r = tx_read(s->db);
		tx_expect_count(r, 10 * i + 10);
		for (size_t k = 0; k < 3; k++)
			tx_expect(r, s, 10 * i + ends[i][k], T(ends[i][k]));
		pgs_abort(r);
	}
}

static void test_txn_extent__reading_past_the_end_counts(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 5, T(0));
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	const void *pinned;
	tx_expect(a, s, 7, PAGE_ZERO);
	assert_int_equal(pgs_pin(b, 7, &pinned), PGS_OK);
	tx_put(a, s, 0, T(100));
	tx_put(b, s, 1, T(100));
	tx_one(stage_other(s), s, 7, T(7));
	tx_conflict(a, PGS_NO_PAGE);
	tx_conflict(b, PGS_NO_PAGE);
	a = tx_begin(s->db, PGS_SERIALIZABLE); /* what is inside need not care that it grows */
	tx_expect(a, s, 6, PAGE_ZERO);
	tx_put(a, s, 0, T(100));
	tx_one(stage_other(s), s, 8, T(8));
	tx_commit(a);
}

static void test_txn_extent__the_largest_page_number(void **state)
{
	stage *s = *state;
	uint64_t limit = (1ull << 32) * ((1u << 20) / s->page_size);
	uint8_t page[4096] = {1};
	uint64_t before = tx_one(s->db, s, 2, T(2));
	tx_one(s->db, s, limit - 1, T(1));
	pgs_txn *t = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_expect_count(t, limit);
	tx_expect(t, s, limit - 1, T(1));
	tx_expect(t, s, limit - 2, PAGE_ZERO);
	static const uint64_t past[] = {0, 1, UINT64_MAX};
	for (size_t i = 0; i < 3; i++) {
		uint64_t no = past[i] == UINT64_MAX ? past[i] : limit + past[i];
		void *dst = page;
		const void *pinned;
		assert_int_equal(pgs_read(t, no, page), PGS_EINVAL);
		assert_int_equal(pgs_read_many(t, &no, 1, &dst), PGS_EINVAL);
		assert_int_equal(pgs_pin(t, no, &pinned), PGS_EINVAL);
		assert_null(pinned);
		assert_int_equal(pgs_write(t, no, page), PGS_EINVAL);
		assert_int_equal(pgs_txn_error(t)->page, no);
		assert_int_equal(pgs_truncate(t, no), no == limit ? PGS_OK : PGS_EINVAL);
	}
	tx_put(t, s, limit - 1, T(3));
	tx_commit(t);
	stage_expect(s, limit - 1, T(3));
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 3), PGS_OK);
	tx_expect(t, s, limit - 1, PAGE_ZERO);
	tx_commit(t);
	stage_expect(s, limit - 1, PAGE_ZERO);
	stage_expect(s, 2, T(2));
	t = tx_at(s->db, before);
	tx_expect_count(t, 3);
	pgs_abort(t);
}

/* --- attributes ------------------------------------------------------------------------ */

static void test_txn_attr__round_trips_at_every_revision(void **state)
{
	stage *s = *state;
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect_attr(t, "a", NULL);
	tx_attr(t, "a", "one");
	tx_expect_attr(t, "a", "one");
	tx_attr(t, "empty", "");
	uint64_t first = tx_commit(t);
	t = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_expect_attr(t, "a", "one");
	tx_attr(t, "a", NULL);
	tx_expect_attr(t, "a", NULL);
	uint64_t second = tx_commit(t);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect_attr(t, "a", NULL);
	tx_attr(t, "a", "three");
	tx_commit(t);
	t = tx_at(s->db, first);
	tx_expect_attr(t, "a", "one");
	tx_expect_attr(t, "empty", "");
	pgs_abort(t);
	t = tx_at(s->db, second);
	tx_expect_attr(t, "a", NULL);
	pgs_abort(t);
	t = tx_read(s->db);
	tx_expect_attr(t, "a", "three");
	assert_int_equal(pgs_attr_set(t, "a", 1, "x", 1), PGS_EREADONLY);
	pgs_abort(t);
}

static void test_txn_attr__limits(void **state)
{
	stage *s = *state;
	static char name[256], value[4097];
	size_t size;
	memset(name, 'n', sizeof name);
	memset(value, 'v', sizeof value);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_attr_set(t, name, 0, value, 1), PGS_EINVAL);
	assert_int_equal(pgs_attr_set(t, name, 256, value, 1), PGS_EINVAL);
	assert_int_equal(pgs_attr_set(t, NULL, 3, value, 1), PGS_EINVAL);
	assert_int_equal(pgs_attr_set(t, name, 255, value, 4097), PGS_EINVAL);
	assert_int_equal(pgs_attr_get(t, name, 256, value, 1, &size), PGS_EINVAL);
	for (size_t i = 0; i < 64; i++) {
		name[0] = (char)i;
		assert_int_equal(pgs_attr_set(t, name, 255, value, 4096), PGS_OK);
	}
	assert_int_equal(pgs_attr_set(t, name, 255, "again", 5), PGS_OK);
	name[0] = 64;
	assert_int_equal(pgs_attr_set(t, name, 255, value, 1), PGS_ELIMIT);
	tx_commit(t);
	t = tx_read(stage_other(s));
	char got[10];
	name[0] = 5;
	assert_int_equal(pgs_attr_get(t, name, 255, got, sizeof got, &size), PGS_OK);
	assert_int_equal(size, 4096);
	assert_memory_equal(got, value, sizeof got);
	name[0] = 63;
	assert_int_equal(pgs_attr_get(t, name, 255, NULL, 0, &size), PGS_OK);
	assert_int_equal(size, 5);
	pgs_abort(t);
}

static void test_txn_attr__conflicts_are_by_name(void **state)
{
	stage *s = *state;
	for (uint32_t isolation = PGS_SERIALIZABLE; isolation <= PGS_SNAPSHOT; isolation++) {
		pgs_txn *a = tx_begin(s->db, isolation), *b = tx_begin(stage_other(s), isolation);
		tx_expect_attr(a, "x", isolation ? "b" : NULL); /* its absence was read */
		tx_attr(a, "x", "a");
		tx_attr(b, "x", "b");
		tx_commit(b);
		tx_conflict(a, PGS_NO_PAGE);
		a = tx_begin(s->db, isolation), b = tx_begin(stage_other(s), isolation);
		tx_expect_attr(a, "x", "b");
		tx_attr(a, "y", "a");
		tx_attr(b, "z", "b");
		tx_commit(b);
		tx_commit(a);
		a = tx_begin(s->db, isolation), b = tx_begin(stage_other(s), isolation);
		tx_attr(a, "x", "b"); /* blind */
		tx_attr(b, "x", NULL);
		tx_commit(b);
		if (isolation == PGS_SNAPSHOT)
			tx_conflict(a, PGS_NO_PAGE);
		else
			tx_commit(a);
	}
}

/* So many scattered reads that the changelog is what tells. */
static void test_txn_attr__conflicts_by_changelog(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 600, T(0));
	for (int conflict = 0; conflict < 2; conflict++) {
		pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE);
		for (uint64_t page = 0; page < 600; page += 2)
			tx_expect(a, s, page, T(page));
		tx_expect_attr(a, "x", NULL);
		tx_put(a, s, 1, T(1001 + (uint64_t)conflict));
		pgs_txn *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
		tx_attr(b, conflict ? "x" : "xx", "b");
		tx_put(b, s, 3, T(2000 + (uint64_t)conflict));
		tx_commit(b);
		if (conflict)
			tx_conflict(a, PGS_NO_PAGE);
		else
			tx_commit(a);
	}
}

/* --- who was alone for a while, and is no more ----------------------------------------------------- */

static void read_page(pgs_txn *t, uint64_t page_no)
{
	uint8_t page[4096];
	assert_int_equal(pgs_read(t, page_no, page), PGS_OK);
}

/* Commits after which the next one counts on nobody else's. */
static void be_alone(stage *s)
{
	for (uint64_t i = 0; i < 6; i++)
		tx_one(s->db, s, 50, T(9000 + i));
}

static void test_txn_alone__a_page_read_is_still_checked(void **state)
{
	stage *s = *state;
	for (uint32_t isolation = PGS_SERIALIZABLE; isolation <= PGS_SNAPSHOT; isolation++) {
		be_alone(s);
		pgs_txn *a = tx_begin(s->db, isolation), *b = tx_begin(stage_other(s), isolation);
		read_page(a, 3);
		tx_put(a, s, 3, T(100 + isolation));
		tx_put(b, s, 3, T(200 + isolation));
		tx_commit(b);
		tx_conflict(a, 3);
		stage_expect(s, 3, T(200 + isolation));
	}
}

static void test_txn_alone__others_pages_do_not_matter(void **state)
{
	stage *s = *state;
	be_alone(s);
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	read_page(a, 3);
	tx_put(a, s, 4, PAGE_KIN(7, 1));
	tx_put(b, s, 4, PAGE_KIN(7, 2)); /* what a wrote blindly */
	tx_put(b, s, 5, T(5));
	tx_commit(b);
	tx_commit(a);
	stage_expect(s, 4, PAGE_KIN(7, 1));
	stage_expect(s, 5, T(5));
}

static void test_txn_alone__the_page_count_and_attributes_are_still_checked(void **state)
{
	stage *s = *state;
	be_alone(s);
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_expect_count(a, 51);
	tx_put(a, s, 51, T(1));
	tx_put(b, s, 60, T(2));
	tx_commit(b);
	tx_conflict(a, PGS_NO_PAGE);
	be_alone(s);
	a = tx_begin(s->db, PGS_SERIALIZABLE);
	b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_expect_attr(a, "x", NULL);
	tx_put(a, s, 1, T(1));
	tx_attr(b, "x", "b");
	tx_commit(b);
	tx_conflict(a, PGS_NO_PAGE);
}

/* Both grow the database; and one grows what the other truncates. */
static void test_txn_alone__others_change_the_page_count(void **state)
{
	stage *s = *state;
	be_alone(s);
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE), *b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_put(a, s, 60, T(60));
	tx_put(b, s, 70, T(70));
	tx_commit(b);
	tx_commit(a);
	stage_expect(s, 60, T(60));
	stage_expect(s, 70, T(70));
	be_alone(s);
	a = tx_begin(s->db, PGS_SERIALIZABLE);
	b = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	tx_put(a, s, 55, T(55));
	assert_int_equal(pgs_truncate(b, 10), PGS_OK);
	tx_commit(b);
	tx_commit(a);
	stage_expect(s, 55, T(55));
	stage_expect(s, 70, PAGE_ZERO);
}

static void test_txn_alone__a_dropped_database_is_not_written(void **state)
{
	stage *s = *state;
	pgs_error err = PGS_ERROR_INIT;
	be_alone(s);
	pgs_txn *a = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(a, s, 1, T(1));
	assert_int_equal(pgs_db_drop(s->store, "db", 2, &err), PGS_OK);
	assert_int_equal(pgs_commit(a, NULL, NULL, &err), PGS_ENOTFOUND);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_txn_isolation__write_skew_is_refused),
		TEST(test_txn_isolation__write_skew_passes_under_snapshot),
		TEST(test_txn_isolation__first_committer_wins_under_snapshot),
		TEST(test_txn_isolation__first_committer_wins_a_new_page),
		TEST(test_txn_isolation__first_committer_wins_an_equal_write),
		TEST(test_txn_isolation__first_committer_wins_an_equal_count),
		TEST(test_txn_isolation__reads_do_not_count_under_snapshot),
		TEST(test_txn_isolation__lost_update_is_refused),
		TEST(test_txn_isolation__blind_writes_never_conflict),
		TEST(test_txn_isolation__a_blind_write_beside_a_read_conflict),
		TEST(test_txn_isolation__a_read_conflict_after_a_blind_one),
		TEST(test_txn_isolation__equal_writes_count_as_reads),
		TEST(test_txn_isolation__equal_writes_of_zero_count_as_reads),
		TEST(test_txn_isolation__an_equal_transaction_writes_nothing),
		TEST(test_txn_isolation__zero_pages_take_no_content),
		TEST(test_txn_extent__readers_of_the_count_cannot_both_append),
		TEST(test_txn_extent__blind_appenders_both_win),
		TEST(test_txn_extent__growers_race_in_any_order),
		TEST(test_txn_extent__reading_past_the_end_counts),
		TEST(test_txn_extent__the_largest_page_number),
		TEST(test_txn_attr__round_trips_at_every_revision),
		TEST(test_txn_attr__limits),
		TEST(test_txn_attr__conflicts_are_by_name),
		TEST(test_txn_attr__conflicts_by_changelog),
		TEST(test_txn_alone__a_page_read_is_still_checked),
		TEST(test_txn_alone__others_pages_do_not_matter),
		TEST(test_txn_alone__the_page_count_and_attributes_are_still_checked),
		TEST(test_txn_alone__others_change_the_page_count),
		TEST(test_txn_alone__a_dropped_database_is_not_written),
	};
	return stage_run("txn_isolation", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
