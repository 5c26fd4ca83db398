/* KV conformance: what is refused, and that refusals change nothing (K3, K4, K5, deadlines). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/kv_suite.h"
#include "support/kv_calls.h"
#include "util/clock.h"

static pgs_kv *kv_of(void **state)
{
	return ((kv_fixture *)*state)->kv;
}

/* --- K3: overlapping changes -------------------------------------------- */

/* Refused in the branch that would run and in the one that would not. */
static void expect_overlap(pgs_kv *kv, const pgs_kv_op *ops, size_t count)
{
	uint64_t before = kv_revision(kv);
	pgs_kv_compare never = compare_number("present", PGS_KV_MOD, PGS_KV_EQUAL, 0);
	pgs_kv_op good = op_put("good", "1");
	pgs_kv_txn txns[] = {
		{.success = ops, .success_count = count},
		{.success = &good, .success_count = 1, .failure = ops, .failure_count = count},
		{.compares = &never,
			.compare_count = 1,
			.success = ops,
			.success_count = count,
			.failure = &good,
			.failure_count = 1},
		{.compares = &never, .compare_count = 1, .failure = ops, .failure_count = count},
	};
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(run_txn(kv, &txns[i]), PGS_EINVAL);
		kv->vtable->release(kv, &txns[i], 1);
	}
	assert_int_equal(kv_revision(kv), before);
	kv_expect(kv, "good", NULL);
}

static void test_kv__two_puts_of_a_key_are_refused(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "present", "1");
	pgs_kv_op same[] = {op_put("a", "1"), op_put("a", "1")};
	expect_overlap(kv, same, 2);
	pgs_kv_op apart[] = {
		op_put("z", "1"), op_put("a", "1"), op_range("a", NULL), op_put("m", "1"), op_put("z", "2")};
	expect_overlap(kv, apart, 5);
}

static void test_kv__a_put_inside_a_deleted_range_is_refused(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "present", "1");
	pgs_kv_op after[] = {op_delete("a", "c"), op_put("b", "1")};
	expect_overlap(kv, after, 2);
	pgs_kv_op before[] = {op_put("b", "1"), op_delete("a", "c")};
	expect_overlap(kv, before, 2);
	pgs_kv_op single[] = {op_put("b", "1"), op_delete("b", NULL)};
	expect_overlap(kv, single, 2);
	pgs_kv_op first[] = {op_delete("b", "c"), op_put("c", "1"), op_put("a", "1"), op_put("b", "1")};
	expect_overlap(kv, first, 4);
	pgs_kv_op to_end[] = {op_put("z", "1"), op_delete("b", NULL)};
	to_end[1].range_end = PGS_KV_TO_END;
	expect_overlap(kv, to_end, 2);
}

static void test_kv__what_does_not_overlap_is_allowed(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_op ops[] = {op_delete("b", "d"), op_put("d", "1"), op_put("a", "1"), op_delete("b", "c"),
		op_delete("x", NULL), op_delete("x", NULL), op_put("x1", "1"), op_range("a", "z")};
	kv_apply(kv, ops, 8);
	/* The branches are judged apart: only one of them runs. */
	pgs_kv_op put = op_put("e", "1"), clear = op_delete("e", NULL);
	pgs_kv_txn txn = {.success = &put, .success_count = 1, .failure = &clear, .failure_count = 1};
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(kv_count(kv), 4);
}

/* The check must not take time in the square of the operations. */
static void test_kv__a_transaction_may_have_very_many_operations(void **state)
{
	enum { COUNT = 65536 };
	pgs_kv *kv = kv_of(state);
	pgs_kv_limits limits;
	kv->vtable->limits(kv, &limits);
	size_t count = limits.max_txn_ops && limits.max_txn_ops < COUNT ? limits.max_txn_ops : COUNT;
	pgs_kv_op *ops = calloc(count, sizeof *ops);
	char(*keys)[24] = calloc(count, sizeof *keys);
	for (size_t i = 0; i < count; i++) {
		snprintf(keys[i], sizeof keys[i], "%c%05zu", i % 2 ? 'p' : 'd', i * 40503 % COUNT);
		ops[i] = i % 2 ? op_put(keys[i], "v") : op_delete(keys[i], NULL);
	}
	kv_apply(kv, ops, count);
	assert_int_equal(kv_count(kv), count / 2);
	ops[0].key = ops[1].key;
	assert_int_equal(status_of(kv, ops, count), PGS_EINVAL);
	free(ops);
	free(keys);
}

/* --- K4: limits --------------------------------------------------------- */

static void expect_limit(pgs_kv *kv, const pgs_kv_op *ops, size_t count, int status)
{
	uint64_t before = kv_revision(kv);
	assert_int_equal(status_of(kv, ops, count), status);
	pgs_kv_txn txn = {.failure = ops, .failure_count = count};
	assert_int_equal(run_txn(kv, &txn), status);
	kv->vtable->release(kv, &txn, 1);
	if (status != PGS_OK)
		assert_int_equal(kv_revision(kv), before);
}

static void test_kv__operations_are_limited_per_list(void **state)
{
	kv_fixture *fixture = *state;
	kv_suite_limit(fixture, (pgs_kv_limits){.max_txn_ops = 4});
	pgs_kv_op ops[5];
	pgs_kv_compare compares[5];
	static const char *const keys[] = {"a", "b", "c", "d", "e"};
	for (size_t i = 0; i < 5; i++) {
		ops[i] = op_put(keys[i], "1");
		compares[i] = compare_number(keys[i], PGS_KV_MOD, PGS_KV_GREATER, 0);
	}
	expect_limit(fixture->kv, ops, 5, PGS_ELIMIT);
	pgs_kv_txn txn = {.compares = compares, .compare_count = 5};
	assert_int_equal(run_txn(fixture->kv, &txn), PGS_ELIMIT);
	fixture->kv->vtable->release(fixture->kv, &txn, 1);
	txn = (pgs_kv_txn){.compares = compares,
		.compare_count = 4,
		.success = ops,
		.success_count = 4,
		.failure = ops,
		.failure_count = 4};
	assert_int_equal(run_txn(fixture->kv, &txn), PGS_OK);
	fixture->kv->vtable->release(fixture->kv, &txn, 1);
}

static void test_kv__sizes_are_limited(void **state)
{
	kv_fixture *fixture = *state;
	kv_suite_limit(fixture, (pgs_kv_limits){.max_key_bytes = 8, .max_value_bytes = 16, .max_request_bytes = 60});
	pgs_kv *kv = fixture->kv;
	pgs_kv_limits limits;
	kv->vtable->limits(kv, &limits);
	assert_int_equal(limits.max_key_bytes, 8);
	assert_int_equal(limits.max_value_bytes, 16);
	assert_int_equal(limits.max_request_bytes, 60);
	pgs_kv_op op = op_put("12345678", "0123456789abcdef");
	expect_limit(kv, &op, 1, PGS_OK);
	op = op_put("123456789", "0");
	expect_limit(kv, &op, 1, PGS_ELIMIT);
	op = op_range("123456789", NULL);
	expect_limit(kv, &op, 1, PGS_ELIMIT);
	op = op_put("1", "0123456789abcdefg");
	expect_limit(kv, &op, 1, PGS_ELIMIT);
	pgs_kv_op whole[] = {op_put("123", "0123456789abcdef"), op_put("124", "0123456789abcdef"),
		op_put("125", "0123456789abcdef"), op_put("126", "")};
	expect_limit(kv, whole, 4, PGS_OK); /* 60 bytes in all */
	whole[3].value = bytes_of("1");
	expect_limit(kv, whole, 4, PGS_ELIMIT);
}

static void test_kv__empty_keys_are_refused(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "a", "1");
	pgs_kv_op ops[] = {op_put("", "1"), op_delete("", NULL), op_range("", NULL), op_range("", "z")};
	for (size_t i = 0; i < 4; i++)
		expect_limit(kv, &ops[i], 1, PGS_EINVAL);
	pgs_kv_compare compare = compare_number("", PGS_KV_MOD, PGS_KV_EQUAL, 0);
	pgs_kv_txn txn = {.compares = &compare, .compare_count = 1};
	assert_int_equal(run_txn(kv, &txn), PGS_EINVAL);
	kv->vtable->release(kv, &txn, 1);
}

static void test_kv__unknown_kinds_are_refused(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_op op = op_put("a", "1");
	op.kind = (pgs_kv_op_kind)9;
	expect_limit(kv, &op, 1, PGS_EINVAL);
	pgs_kv_compare compares[] = {compare_number("a", (pgs_kv_target)9, PGS_KV_EQUAL, 0),
		compare_number("a", PGS_KV_MOD, (pgs_kv_relation)0, 0)};
	for (size_t i = 0; i < 2; i++) {
		pgs_kv_txn txn = {.compares = &compares[i], .compare_count = 1};
		assert_int_equal(run_txn(kv, &txn), PGS_EINVAL);
		kv->vtable->release(kv, &txn, 1);
	}
}

/* --- K5: revisions that cannot be read ---------------------------------- */

static int status_at(pgs_kv *kv, uint64_t revision)
{
	pgs_kv_op ops[] = {op_put("other", "1"), op_range("a", NULL)};
	ops[1].revision = revision;
	return status_of(kv, ops, 2);
}

static void test_kv__future_revisions_are_refused(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t now = kv_put(kv, "a", "1");
	/* Not even the revision that the transaction itself is about to have. */
	assert_int_equal(status_at(kv, now + 1), PGS_EINVAL);
	assert_int_equal(status_at(kv, now + 1000), PGS_EINVAL);
	assert_int_equal(status_at(kv, INT64_MAX), PGS_EINVAL);
	assert_int_equal(kv_revision(kv), now);
	kv_expect(kv, "other", NULL);
	assert_int_equal(status_at(kv, now), PGS_OK);
}

static void test_kv__compacted_revisions_are_refused(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t first = kv_put(kv, "a", "1"), second = kv_put(kv, "a", "2");
	kv_compact(kv, second);
	assert_int_equal(status_at(kv, first), PGS_EOLDREV);
	assert_int_equal(status_at(kv, 1), PGS_EOLDREV);
	assert_int_equal(kv_revision(kv), second);
	kv_expect(kv, "other", NULL);
	kv_expect_at(kv, "a", second, "2");
}

/* Revisions of reads are judged for the branch that runs. */
static void test_kv__the_branch_not_taken_reads_no_revision(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "a", "1");
	pgs_kv_op now = op_range("a", NULL), future = op_range("a", NULL);
	future.revision = kv_revision(kv) + 10;
	pgs_kv_txn txn = {.success = &now, .success_count = 1, .failure = &future, .failure_count = 1};
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.results[0].count, 1);
	kv->vtable->release(kv, &txn, 1);
}

/* --- deadlines ---------------------------------------------------------- */

static void expect_late(int status)
{
	if (status != PGS_OK && status != PGS_ETIMEOUT)
		fail_msg("a past deadline gave %d", status);
}

static void test_kv__a_past_deadline_never_hangs(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t revision = kv_put(kv, "a", "1"), past = pgs__now_ms() - 10, started = pgs__now_ms();
	pgs_kv_op op = op_put("b", "1");
	pgs_kv_txn txns[] = {txn_of(&op, 1), txn_of(&op, 1)};
	expect_late(kv->vtable->txn(kv, txns, 2, past, NULL));
	for (size_t i = 0; i < 2; i++)
		expect_late(txns[i].status);
	uint64_t puts = (txns[0].status == PGS_OK) + (txns[1].status == PGS_OK);
	kv->vtable->release(kv, txns, 2);
	assert_int_equal(kv_numbers(kv, "b").version, puts); /* K7: a timeout was not applied */
	pgs_kv_stat stat;
	uint8_t identity[16];
	expect_late(kv->vtable->stat(kv, &stat, past, NULL));
	expect_late(kv->vtable->identity(kv, identity, past, NULL));
	expect_late(kv->vtable->compact(kv, revision, past, NULL));
	assert_true(pgs__now_ms() - started < 5000);
	assert_int_equal(kv->vtable->txn(kv, txns, 1, pgs__now_ms() + 60000, NULL), PGS_OK);
	kv->vtable->release(kv, txns, 1);
}

/* --- errors ------------------------------------------------------------- */

static void test_kv__failures_are_explained(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_op bad = op_put("", "1"), good = op_put("a", "1"), ahead = op_range("a", NULL);
	ahead.revision = kv_revision(kv) + 99;
	pgs_kv_txn txns[] = {txn_of(&good, 1), txn_of(&bad, 1), txn_of(&ahead, 1)};
	pgs_error err = PGS_ERROR_INIT;
	int status = kv->vtable->txn(kv, txns, 3, 0, &err);
	assert_int_equal(status, PGS_EINVAL);
	assert_int_equal(err.code, status);
	assert_true(strlen(err.message) > 0);
	kv->vtable->release(kv, txns, 3);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_kv__two_puts_of_a_key_are_refused),
	cmocka_unit_test(test_kv__a_put_inside_a_deleted_range_is_refused),
	cmocka_unit_test(test_kv__what_does_not_overlap_is_allowed),
	cmocka_unit_test(test_kv__a_transaction_may_have_very_many_operations),
	cmocka_unit_test(test_kv__operations_are_limited_per_list),
	cmocka_unit_test(test_kv__sizes_are_limited),
	cmocka_unit_test(test_kv__empty_keys_are_refused),
	cmocka_unit_test(test_kv__unknown_kinds_are_refused),
	cmocka_unit_test(test_kv__future_revisions_are_refused),
	cmocka_unit_test(test_kv__compacted_revisions_are_refused),
	cmocka_unit_test(test_kv__the_branch_not_taken_reads_no_revision),
	cmocka_unit_test(test_kv__a_past_deadline_never_hangs),
	cmocka_unit_test(test_kv__failures_are_explained),
};

KV_SUITE_PART(kv_error_part, "refusals", tests);
