/* lib/txn: new pages of large transactions, compressed beside their writer (lib/txn/early.h). What is committed is what was
 * written last, whenever it was written. Tags: see support/txn_stage.h. */
#include <unistd.h>

#include "support/txn_stage.h"
#include "txn/early.h"

#define N 1200          /* pages, of 4 KiB: several batches */
#define OLD 40          /* of them there from the start */
#define T(n) PAGE_KIN(3, n)

static void set_up(stage *s)
{
	tx_fill(s->db, s, 0, OLD, T(0));
}

/* Whether a thread made something, so that these tests are about what they say. */
static bool was_made(const pgs_txn *t)
{
	return t->early || sysconf(_SC_NPROCESSORS_ONLN) < 2;
}

static void expect_all(stage *s, const uint64_t *tags, uint64_t count)
{
	pgs_txn *t = tx_read(s->db);
	tx_expect_count(t, count);
	for (uint64_t i = 0; i < count; i++)
		tx_expect(t, s, i, tags[i]);
	pgs_abort(t);
}

static void test_txn_early__the_last_write_counts(void **state)
{
	stage *s = *state;
	uint64_t seed = 7, tags[N];
	set_up(s);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < N; i++) {
		tx_put(t, s, i, tags[i] = T(i));
		if (i % 3 == 0) { /* as a tree does, which goes back to pages it has just left */
			uint64_t again = i - stage_random(&seed) % (i < 300 ? i + 1 : 300);
			tx_put(t, s, again, tags[again] = stage_random(&seed) % 9 ? T(N + i) : PAGE_ZERO);
			tx_expect(t, s, again, tags[again]);
		}
	}
	assert_true(was_made(t));
	tx_commit(t);
	expect_all(s, tags, N);
}

static void test_txn_early__truncation_forgets_it(void **state)
{
	stage *s = *state;
	uint64_t tags[N];
	set_up(s);
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	for (uint64_t i = 0; i < N; i++)
		tx_put(t, s, i, T(i));
	assert_true(was_made(t));
	assert_int_equal(pgs_truncate(t, N / 2), PGS_OK);
	for (uint64_t i = 0; i < N; i++)
		tags[i] = i < N / 2 ? T(i) : PAGE_ZERO;
	for (uint64_t i = N / 2; i < N; i += 2)
		tx_put(t, s, i, tags[i] = T(N + i));
	tx_commit(t);
	expect_all(s, tags, N - 1);
}

static void test_txn_early__aborting_waits_for_it(void **state)
{
	stage *s = *state;
	set_up(s);
	for (int round = 0; round < 10; round++) {
		pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
		for (uint64_t i = OLD; i < OLD + 300 + 20 * (uint64_t)round; i++)
			tx_put(t, s, i, T(i));
		pgs_abort(t);
	}
	tx_expect_count(s->txn = tx_read(s->db), OLD);
	pgs_abort(s->txn);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_txn_early__the_last_write_counts),
		TEST(test_txn_early__truncation_forgets_it),
		TEST(test_txn_early__aborting_waits_for_it),
	};
	return stage_run("txn_early", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
