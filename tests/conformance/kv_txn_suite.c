/* KV conformance: revisions, compares, branches, results (K1, K2, K6). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore/sys/kv.h>

#include "conformance/kv_suite.h"
#include "support/kv_calls.h"

static pgs_kv *kv_of(void **state)
{
	return ((kv_fixture *)*state)->kv;
}

/* --- K1: revisions ------------------------------------------------------ */

static void test_kv__a_new_store_has_a_revision_and_no_keys(void **state)
{
	pgs_kv *kv = kv_of(state);
	assert_true(kv_revision(kv) >= 1);
	assert_int_equal(kv_count(kv), 0);
}

static void test_kv__each_change_raises_the_revision_by_one(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t start = kv_revision(kv);
	assert_int_equal(kv_put(kv, "a", "1"), start + 1);
	assert_int_equal(kv_put(kv, "a", "1"), start + 2); /* the same value again is a change too */
	pgs_kv_op ops[] = {op_put("b", "1"), op_put("c", "1"), op_delete("a", NULL)};
	assert_int_equal(kv_apply(kv, ops, 3), start + 3);
	assert_int_equal(kv_revision(kv), start + 3);
	assert_int_equal(kv_numbers(kv, "b").mod_revision, start + 3);
	assert_int_equal(kv_numbers(kv, "c").mod_revision, start + 3);
}

static void test_kv__what_changes_nothing_leaves_the_revision(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t start = kv_put(kv, "a", "1");
	assert_int_equal(kv_delete(kv, "b", NULL), start);
	assert_int_equal(kv_delete(kv, "b", "z"), start);
	assert_int_equal(kv_apply(kv, NULL, 0), start);
	pgs_kv_op read = op_range("a", "z");
	assert_int_equal(kv_apply(kv, &read, 1), start);
	assert_int_equal(kv_put(kv, "a", "2"), start + 1);
}

static void test_kv__stat_tells_the_revision(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t revision = kv_put(kv, "a", "1");
	pgs_kv_stat stat;
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	assert_int_equal(stat.revision, revision);
	assert_true(stat.compacted_revision < revision);
}

static void test_kv__identity_stays(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint8_t first[16], second[16];
	assert_int_equal(kv->vtable->identity(kv, first, 0, NULL), PGS_OK);
	kv_put(kv, "a", "1");
	assert_int_equal(kv->vtable->identity(kv, second, 0, NULL), PGS_OK);
	assert_memory_equal(first, second, 16);
}

/* --- K6: create revision and version ------------------------------------ */

static void test_kv__versions_count_puts_since_creation(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t created = kv_put(kv, "a", "1");
	for (uint64_t i = 1; i <= 5; i++) {
		pgs_kv_pair pair = kv_numbers(kv, "a");
		assert_int_equal(pair.create_revision, created);
		assert_int_equal(pair.version, i);
		assert_int_equal(pair.mod_revision, created + i - 1);
		kv_put(kv, "a", "1");
	}
	kv_delete(kv, "a", NULL);
	assert_int_equal(kv_numbers(kv, "a").mod_revision, 0);
	uint64_t recreated = kv_put(kv, "a", "1");
	assert_int_equal(kv_numbers(kv, "a").create_revision, recreated);
	assert_int_equal(kv_numbers(kv, "a").version, 1);
}

/* --- compares ----------------------------------------------------------- */

/* "present" has version 2; "gone" was deleted; "again" was deleted and put; "never" is what it says. */
static const char *const subjects[] = {"present", "gone", "again", "never"};

static void put_subjects(pgs_kv *kv)
{
	kv_put(kv, "present", "x");
	kv_put(kv, "gone", "mm");
	kv_put(kv, "again", "mm");
	kv_delete(kv, "gone", NULL);
	kv_delete(kv, "again", NULL);
	kv_put(kv, "again", "mm");
	kv_put(kv, "present", "mm");
}

static bool holds(pgs_kv_relation relation, int order)
{
	static const bool table[][3] = {
		/* stored:               less   same   more */
		[PGS_KV_EQUAL] = {false, true, false},
		[PGS_KV_NOT_EQUAL] = {true, false, true},
		[PGS_KV_LESS] = {true, false, false},
		[PGS_KV_GREATER] = {false, false, true},
	};
	return table[relation][order + 1];
}

static void expect_compare(pgs_kv *kv, pgs_kv_compare compare, bool expected)
{
	pgs_kv_txn txn = {.compares = &compare, .compare_count = 1};
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	if (txn.succeeded != expected)
		fail_msg("key %.*s target %d relation %d number %llu: %d", (int)compare.key.size,
			(const char *)compare.key.data, compare.target, compare.relation,
			(unsigned long long)compare.number, txn.succeeded);
	kv->vtable->release(kv, &txn, 1);
}

static uint64_t number_of(const pgs_kv_pair *pair, pgs_kv_target target)
{
	if (target == PGS_KV_MOD)
		return pair->mod_revision;
	return target == PGS_KV_CREATE ? pair->create_revision : pair->version;
}

static void test_kv__compares_of_numbers(void **state)
{
	pgs_kv *kv = kv_of(state);
	put_subjects(kv);
	for (size_t s = 0; s < 4; s++) {
		pgs_kv_pair pair = kv_numbers(kv, subjects[s]);
		for (pgs_kv_target target = PGS_KV_MOD; target <= PGS_KV_VERSION_COUNT; target++) {
			for (pgs_kv_relation relation = PGS_KV_EQUAL; relation <= PGS_KV_GREATER; relation++) {
				uint64_t stored = number_of(&pair, target);
				expect_compare(
					kv, compare_number(subjects[s], target, relation, stored), holds(relation, 0));
				expect_compare(kv, compare_number(subjects[s], target, relation, stored + 1),
					holds(relation, -1));
				if (stored)
					expect_compare(kv, compare_number(subjects[s], target, relation, stored - 1),
						holds(relation, 1));
			}
		}
	}
}

static void test_kv__compares_of_values(void **state)
{
	pgs_kv *kv = kv_of(state);
	put_subjects(kv);
	static const struct {
		const char *given;
		int order; /* of the stored "mm" against it */
	} cases[] = {{"mm", 0}, {"m", 1}, {"mmm", -1}, {"ma", 1}, {"mz", -1}, {"", 1}, {"m\xff", -1}};
	for (size_t s = 0; s < 4; s++) {
		bool exists = s == 0 || s == 2;
		for (pgs_kv_relation relation = PGS_KV_EQUAL; relation <= PGS_KV_GREATER; relation++)
			for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
				expect_compare(kv, compare_value(subjects[s], relation, cases[i].given),
					exists && holds(relation, cases[i].order));
	}
}

static pgs_kv_compare over(pgs_kv_compare compare, const char *range_end)
{
	compare.range_end = bytes_of(range_end);
	return compare;
}

static void test_kv__compares_of_ranges_want_every_key(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t first = kv_put(kv, "b1", "v");
	kv_put(kv, "b2", "v");
	uint64_t last = kv_put(kv, "b3", "w");
	kv_put(kv, "b4", "v");
	kv_delete(kv, "b4", NULL);
	expect_compare(kv, over(compare_number("b", PGS_KV_MOD, PGS_KV_LESS, last + 1), "c"), true);
	expect_compare(kv, over(compare_number("b", PGS_KV_MOD, PGS_KV_LESS, last), "c"), false);
	expect_compare(kv, over(compare_number("b", PGS_KV_MOD, PGS_KV_LESS, last), "b3"), true);
	expect_compare(kv, over(compare_number("b", PGS_KV_CREATE, PGS_KV_GREATER, first - 1), "c"), true);
	expect_compare(kv, over(compare_number("b", PGS_KV_CREATE, PGS_KV_GREATER, first), "c"), false);
	expect_compare(kv, over(compare_number("b", PGS_KV_VERSION_COUNT, PGS_KV_EQUAL, 1), "c"), true);
	expect_compare(kv, over(compare_value("b", PGS_KV_EQUAL, "v"), "c"), false);
	expect_compare(kv, over(compare_value("b", PGS_KV_EQUAL, "v"), "b3"), true);
	expect_compare(kv, over(compare_value("b", PGS_KV_GREATER, "a"), "c"), true);
}

static void test_kv__compares_to_the_end(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t first = kv_put(kv, "b1", "v");
	uint64_t last = kv_put(kv, "\xff\xff", "v");
	pgs_kv_compare compare = compare_number("b1", PGS_KV_MOD, PGS_KV_LESS, last);
	compare.range_end = PGS_KV_TO_END;
	expect_compare(kv, compare, false);
	compare.number++;
	expect_compare(kv, compare, true);
	compare.relation = PGS_KV_GREATER;
	compare.number = first;
	expect_compare(kv, compare, false);
	compare.key = bytes_of("b2");
	expect_compare(kv, compare, true);
}

/* A range without keys, or an empty one, is compared as one absent key. */
static void test_kv__compares_of_keyless_ranges(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "b1", "v");
	kv_put(kv, "c1", "v");
	kv_delete(kv, "c1", NULL);
	static const char *const ranges[][2] = {{"c", "d"}, {"b2", "b9"}, {"b2", "b1"}, {"b1", "b1"}};
	for (size_t i = 0; i < 4; i++) {
		const char *key = ranges[i][0], *end = ranges[i][1];
		for (pgs_kv_target target = PGS_KV_MOD; target <= PGS_KV_VERSION_COUNT; target++) {
			expect_compare(kv, over(compare_number(key, target, PGS_KV_EQUAL, 0), end), true);
			expect_compare(kv, over(compare_number(key, target, PGS_KV_NOT_EQUAL, 0), end), false);
			expect_compare(kv, over(compare_number(key, target, PGS_KV_LESS, 1), end), true);
			expect_compare(kv, over(compare_number(key, target, PGS_KV_GREATER, 0), end), false);
		}
		for (pgs_kv_relation relation = PGS_KV_EQUAL; relation <= PGS_KV_GREATER; relation++)
			expect_compare(kv, over(compare_value(key, relation, "v"), end), false);
	}
}

static void test_kv__all_compares_must_pass(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "a", "1");
	pgs_kv_compare compares[] = {compare_value("a", PGS_KV_EQUAL, "1"), compare_value("a", PGS_KV_EQUAL, "2")};
	pgs_kv_op yes = op_put("r", "yes"), no = op_put("r", "no");
	pgs_kv_txn txn = {.compares = compares,
		.compare_count = 1,
		.success = &yes,
		.success_count = 1,
		.failure = &no,
		.failure_count = 1};
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_true(txn.succeeded);
	assert_int_equal(txn.result_count, 1);
	kv->vtable->release(kv, &txn, 1);
	kv_expect(kv, "r", "yes");
	txn.compare_count = 2;
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_false(txn.succeeded);
	assert_int_equal(txn.result_count, 1);
	kv->vtable->release(kv, &txn, 1);
	kv_expect(kv, "r", "no");
}

/* --- K2: operations ----------------------------------------------------- */

static void test_kv__operations_see_earlier_ones(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "a", "old");
	kv_put(kv, "d", "old");
	uint64_t before = kv_revision(kv);
	pgs_kv_op ops[] = {op_range("a", "z"), op_put("b", "new"), op_range("a", "z"), op_delete("a", NULL),
		op_delete("a", "b"), op_range("a", "z"), op_put("d", "new"), op_range("d", NULL)};
	pgs_kv_txn txn = txn_of(ops, 8);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.result_count, 8);
	assert_int_equal(txn.results[0].count, 2);
	assert_int_equal(txn.results[2].count, 3);
	assert_int_equal(txn.results[2].pairs[1].mod_revision, before + 1);
	assert_int_equal(txn.results[3].total, 1);
	assert_int_equal(txn.results[4].total, 0); /* it was gone already */
	assert_int_equal(txn.results[5].count, 2);
	assert_true(slice_is(txn.results[5].pairs[0].key, "b"));
	assert_true(slice_is(txn.results[7].pairs[0].value, "new"));
	assert_int_equal(txn.results[7].pairs[0].version, 2);
	assert_int_equal(txn.revision, before + 1);
	kv->vtable->release(kv, &txn, 1);
}

static void test_kv__reads_at_a_revision_do_not_see_the_transaction(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t before = kv_put(kv, "a", "old");
	pgs_kv_op ops[] = {op_put("a", "new"), op_range("a", NULL), op_range("a", NULL)};
	ops[1].revision = before;
	pgs_kv_txn txn = txn_of(ops, 3);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_true(slice_is(txn.results[1].pairs[0].value, "old"));
	assert_true(slice_is(txn.results[2].pairs[0].value, "new"));
	kv->vtable->release(kv, &txn, 1);
}

static void test_kv__deletes_count_keys(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_op puts[] = {op_put("a", ""), op_put("b", ""), op_put("c", ""), op_put("d", "")};
	kv_apply(kv, puts, 4);
	pgs_kv_op op = op_delete("b", "d");
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.results[0].total, 2);
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(kv_count(kv), 2);
	op.key = (pgs_slice){"", 1};
	op.range_end = PGS_KV_TO_END;
	txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.results[0].total, 2);
	kv->vtable->release(kv, &txn, 1);
	assert_int_equal(kv_count(kv), 0);
}

static void test_kv__release_zeroes_the_response(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "a", "1");
	pgs_kv_op op = op_range("a", NULL);
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	kv->vtable->release(kv, &txn, 1);
	assert_null(txn.results);
	assert_null(txn.response);
	assert_int_equal(txn.result_count, 0);
	kv->vtable->release(kv, &txn, 1); /* harmless */
}

/* --- bytes -------------------------------------------------------------- */

static void test_kv__keys_and_values_are_binary(void **state)
{
	pgs_kv *kv = kv_of(state);
	static const char keys[][4] = {{0, 0, 0, 0}, {0, 0, 0, 1}, {'a', 0, 0, 0}, {'a', 0, (char)0xff, 0},
		{'a', (char)0xff, 0, 0}, {(char)0xff, 0, 0, 0}, {(char)0xff, (char)0xff, (char)0xff, (char)0xff}};
	enum { KEYS = sizeof keys / sizeof *keys };
	for (size_t i = 0; i < KEYS; i++) {
		size_t reversed = KEYS - 1 - i;
		pgs_kv_op op = {.kind = PGS_KV_PUT, .key = {keys[reversed], 4}, .value = {keys[reversed], 4}};
		kv_apply(kv, &op, 1);
	}
	pgs_kv_op all = {.kind = PGS_KV_RANGE, .key = {"", 1}, .range_end = PGS_KV_TO_END};
	pgs_kv_txn txn = txn_of(&all, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.results[0].count, KEYS);
	for (size_t i = 0; i < KEYS; i++) {
		assert_int_equal(txn.results[0].pairs[i].key.size, 4);
		assert_memory_equal(txn.results[0].pairs[i].key.data, keys[i], 4);
		assert_int_equal(txn.results[0].pairs[i].value.size, 4);
		assert_memory_equal(txn.results[0].pairs[i].value.data, keys[i], 4);
	}
	kv->vtable->release(kv, &txn, 1);
}

static void test_kv__a_prefix_comes_before_the_longer_key(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_op puts[] = {op_put("ab", ""), op_put("a", ""), op_put("abc", "")};
	kv_apply(kv, puts, 3);
	pgs_kv_op op = op_range("a", "abc");
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.results[0].count, 2);
	assert_true(slice_is(txn.results[0].pairs[0].key, "a"));
	assert_true(slice_is(txn.results[0].pairs[1].key, "ab"));
	kv->vtable->release(kv, &txn, 1);
}

static void test_kv__large_values_come_back(void **state)
{
	pgs_kv *kv = kv_of(state);
	size_t size = (size_t)1 << 20;
	char *value = malloc(size);
	for (size_t i = 0; i < size; i++)
		value[i] = (char)(i * 31 >> 5);
	pgs_kv_op op = {.kind = PGS_KV_PUT, .key = bytes_of("large"), .value = {value, size}};
	kv_apply(kv, &op, 1);
	op = op_range("large", NULL);
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	assert_int_equal(txn.results[0].pairs[0].value.size, size);
	assert_memory_equal(txn.results[0].pairs[0].value.data, value, size);
	kv->vtable->release(kv, &txn, 1);
	free(value);
}

/* --- arrays of requests ------------------------------------------------- */

static void test_kv__requests_of_an_array_have_their_own_status(void **state)
{
	pgs_kv *kv = kv_of(state);
	pgs_kv_op good = op_put("a", "1"), empty = op_put("", "1"), twice[] = {op_put("b", ""), op_put("b", "")};
	pgs_kv_op other = op_put("c", "3");
	pgs_kv_txn txns[] = {txn_of(&good, 1), txn_of(&empty, 1), txn_of(twice, 2), txn_of(&other, 1)};
	assert_int_equal(kv->vtable->txn(kv, txns, 4, 0, NULL), PGS_EINVAL);
	assert_int_equal(txns[0].status, PGS_OK);
	assert_int_equal(txns[1].status, PGS_EINVAL);
	assert_int_equal(txns[2].status, PGS_EINVAL);
	assert_int_equal(txns[3].status, PGS_OK);
	kv->vtable->release(kv, txns, 4);
	kv_expect(kv, "a", "1");
	kv_expect(kv, "b", NULL);
	kv_expect(kv, "c", "3");
}

static void test_kv__an_empty_array_is_fine(void **state)
{
	pgs_kv *kv = kv_of(state);
	assert_int_equal(kv->vtable->txn(kv, NULL, 0, 0, NULL), PGS_OK);
	kv->vtable->release(kv, NULL, 0);
}

static void test_kv__a_large_array_runs_whole(void **state)
{
	enum { COUNT = 100 };
	pgs_kv *kv = kv_of(state);
	uint64_t before = kv_revision(kv);
	static char keys[COUNT][8];
	static pgs_kv_op ops[COUNT];
	static pgs_kv_txn txns[COUNT];
	bool seen[COUNT] = {false};
	for (unsigned i = 0; i < COUNT; i++) {
		snprintf(keys[i], sizeof keys[i], "k%03u", i);
		ops[i] = op_put(keys[i], keys[i]);
		txns[i] = txn_of(&ops[i], 1);
	}
	assert_int_equal(kv->vtable->txn(kv, txns, COUNT, 0, NULL), PGS_OK);
	for (size_t i = 0; i < COUNT; i++) {
		assert_in_range(txns[i].revision, before + 1, before + COUNT);
		assert_false(seen[txns[i].revision - before - 1]); /* each its own revision, in any order */
		seen[txns[i].revision - before - 1] = true;
	}
	kv->vtable->release(kv, txns, COUNT);
	assert_int_equal(kv_count(kv), COUNT);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_kv__a_new_store_has_a_revision_and_no_keys),
	cmocka_unit_test(test_kv__each_change_raises_the_revision_by_one),
	cmocka_unit_test(test_kv__what_changes_nothing_leaves_the_revision),
	cmocka_unit_test(test_kv__stat_tells_the_revision),
	cmocka_unit_test(test_kv__identity_stays),
	cmocka_unit_test(test_kv__versions_count_puts_since_creation),
	cmocka_unit_test(test_kv__compares_of_numbers),
	cmocka_unit_test(test_kv__compares_of_values),
	cmocka_unit_test(test_kv__compares_of_ranges_want_every_key),
	cmocka_unit_test(test_kv__compares_to_the_end),
	cmocka_unit_test(test_kv__compares_of_keyless_ranges),
	cmocka_unit_test(test_kv__all_compares_must_pass),
	cmocka_unit_test(test_kv__operations_see_earlier_ones),
	cmocka_unit_test(test_kv__reads_at_a_revision_do_not_see_the_transaction),
	cmocka_unit_test(test_kv__deletes_count_keys),
	cmocka_unit_test(test_kv__release_zeroes_the_response),
	cmocka_unit_test(test_kv__keys_and_values_are_binary),
	cmocka_unit_test(test_kv__a_prefix_comes_before_the_longer_key),
	cmocka_unit_test(test_kv__large_values_come_back),
	cmocka_unit_test(test_kv__requests_of_an_array_have_their_own_status),
	cmocka_unit_test(test_kv__an_empty_array_is_fine),
	cmocka_unit_test(test_kv__a_large_array_runs_whole),
};

KV_SUITE_PART(kv_txn_part, "transactions", tests);
