/* KV conformance: reads at past revisions against a plain model, and compaction (K5). */
#include <stdio.h>
#include <string.h>

#include "conformance/kv_suite.h"
#include "support/kv_calls.h"
#include "support/kv_model.h"
#include "util/cursor.h"

#define SEED 20240229

static pgs_kv *kv_of(void **state)
{
	return ((kv_fixture *)*state)->kv;
}

static size_t steps_of(void **state)
{
	size_t steps = ((kv_fixture *)*state)->factory->steps;
	return steps ? steps : 3000;
}

static void run_steps(kv_model *model, pgs_kv *kv, size_t steps)
{
	model_step step;
	for (size_t i = 0; i < steps; i++) {
		kv_model_plan(model, &step);
		assert_int_equal(run_txn(kv, &step.txn), PGS_OK);
		kv_model_apply(model, &step);
		kv->vtable->release(kv, &step.txn, 1);
		kv_model_check_random_read(model, kv, 0);
	}
}

static void check_whole_store(kv_model *model, pgs_kv *kv, uint64_t revision)
{
	pgs_kv_op op = {.kind = PGS_KV_RANGE, .key = {"", 1}, .range_end = PGS_KV_TO_END, .revision = revision};
	pgs_kv_txn txn = txn_of(&op, 1);
	assert_int_equal(run_txn(kv, &txn), PGS_OK);
	kv_model_check_range(model, revision, &op, &txn.results[0]);
	kv->vtable->release(kv, &txn, 1);
}

static void test_kv__every_revision_reads_as_it_was(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_model model;
	kv_model_init(&model, SEED, kv_revision(kv));
	run_steps(&model, kv, steps_of(state));
	uint64_t last = kv_model_revision(&model);
	assert_true(last - model.base > steps_of(state) / 3);
	for (uint64_t revision = model.base + 1; revision <= last; revision++) {
		check_whole_store(&model, kv, revision);
		kv_model_check_random_read(&model, kv, revision);
		kv_model_check_random_read(&model, kv, revision);
	}
	kv_model_free(&model);
}

/* Whatever is compacted in between, what is still readable reads the same. */
static void test_kv__compaction_changes_no_readable_revision(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_model model;
	kv_model_init(&model, SEED + 1, kv_revision(kv));
	uint64_t compacted = model.base;
	for (size_t round = 0; round < 10; round++) {
		run_steps(&model, kv, 1 + steps_of(state) / 30);
		uint64_t last = kv_model_revision(&model);
		if (last == compacted)
			continue;
		compacted += 1 + kv_model_random(&model, last - compacted);
		kv_compact(kv, compacted);
		for (uint64_t revision = compacted; revision <= last; revision++)
			check_whole_store(&model, kv, revision);
		pgs_kv_op below = op_range("a", NULL);
		below.revision = compacted - 1;
		assert_int_equal(status_of(kv, &below, 1), PGS_EOLDREV);
	}
	kv_model_free(&model);
}

/* The position of the key in the model, which must know it. */
static size_t key_index(const kv_model *model, pgs_slice key)
{
	for (size_t i = 0; i < MODEL_KEYS; i++)
		if (pgs__slice_equal(model->keys[i], key))
			return i;
	fail_msg("an event of a key that was never put");
	return 0;
}

static void check_event(const kv_model *model, const pgs_kv_event *event)
{
	size_t key = key_index(model, event->pair.key);
	const model_cell *after = &model->states[event->pair.mod_revision - model->base][key];
	const model_cell *before = &model->states[event->pair.mod_revision - model->base - 1][key];
	assert_int_equal(event->deleted, after->version == 0);
	assert_int_equal(event->pair.version, after->version);
	assert_int_equal(event->pair.create_revision, after->create_revision);
	if (event->deleted) {
		assert_true(before->version > 0);
		assert_int_equal(event->pair.value.size, 0);
		return;
	}
	assert_int_equal(after->mod_revision, event->pair.mod_revision);
	assert_int_equal(event->pair.value.size, sizeof after->value);
	assert_memory_equal(event->pair.value.data, &after->value, sizeof after->value);
}

static size_t count_changes(const kv_model *model, pgs_slice from, pgs_slice end)
{
	size_t changes = 0;
	for (size_t s = 1; s < model->state_count; s++)
		for (size_t i = 0; i < MODEL_KEYS; i++)
			changes += kv_model_in_range(model->keys[i], from, end) &&
				   model->states[s][i].mod_revision != model->states[s - 1][i].mod_revision;
	return changes;
}

static size_t check_replay(const kv_model *model, pgs_kv *kv, pgs_slice from, pgs_slice end)
{
	pgs_kv_watch *watch;
	pgs_kv_events events;
	pgs_kv_pair last = {.mod_revision = 0};
	size_t seen = 0, expected = count_changes(model, from, end);
	assert_int_equal(kv->vtable->watch_open(kv, from, end, model->base + 1, &watch, NULL), PGS_OK);
	char last_key[8];
	while (seen < expected) {
		assert_int_equal(kv->vtable->watch_next(watch, 10000, &events, NULL), PGS_OK);
		assert_true(events.count > 0);
		for (size_t i = 0; i < events.count; i++, seen++) {
			const pgs_kv_pair *pair = &events.events[i].pair;
			check_event(model, &events.events[i]);
			assert_true(kv_model_in_range(pair->key, from, end));
			assert_true(pair->mod_revision > last.mod_revision ||
				    (pair->mod_revision == last.mod_revision &&
					    pgs__slice_compare(pair->key, last.key) > 0));
			memcpy(last_key, pair->key.data, pair->key.size);
			last = *pair;
			last.key.data = last_key;
		}
	}
	assert_int_equal(seen, expected);
	kv->vtable->watch_close(watch);
	return seen;
}

static void test_kv__a_watch_replays_the_whole_workload(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_model model;
	kv_model_init(&model, SEED + 2, kv_revision(kv));
	run_steps(&model, kv, steps_of(state));
	assert_true(check_replay(&model, kv, (pgs_slice){"", 1}, PGS_KV_TO_END) > steps_of(state) / 2);
	assert_true(check_replay(&model, kv, bytes_of("a"), bytes_of("b")) > 0);
	assert_true(check_replay(&model, kv, model.keys[MODEL_KEYS / 2], NO_END) > 0);
	kv_model_free(&model);
}

/* --- compaction --------------------------------------------------------- */

static void test_kv__compaction_keeps_what_is_current(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t r1 = kv_put(kv, "a", "1"), r2 = kv_put(kv, "b", "1"), r3 = kv_put(kv, "a", "2");
	uint64_t r4 = kv_delete(kv, "b", NULL), r5 = kv_put(kv, "c", "1");
	kv_compact(kv, r3);
	kv_expect_at(kv, "a", r3, "2");
	kv_expect_at(kv, "b", r3, "1");
	kv_expect_at(kv, "b", r4, NULL);
	kv_compact(kv, r5);
	kv_expect(kv, "a", "2");
	kv_expect(kv, "b", NULL);
	kv_expect(kv, "c", "1");
	pgs_kv_pair pair = kv_numbers(kv, "a");
	assert_int_equal(pair.version, 2);
	assert_int_equal(pair.create_revision, r1);
	assert_int_equal(pair.mod_revision, r3);
	pgs_kv_stat stat;
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	assert_int_equal(stat.compacted_revision, r5);
	assert_int_equal(stat.revision, r5);
	assert_true(r2 < r5);
}

static void test_kv__compaction_goes_forward_only(void **state)
{
	pgs_kv *kv = kv_of(state);
	uint64_t first = kv_put(kv, "a", "1"), second = kv_put(kv, "a", "2");
	assert_int_equal(kv->vtable->compact(kv, second + 1, 0, NULL), PGS_EINVAL);
	kv_compact(kv, second);
	assert_int_equal(kv->vtable->compact(kv, second, 0, NULL), PGS_EOLDREV);
	assert_int_equal(kv->vtable->compact(kv, first, 0, NULL), PGS_EOLDREV);
	kv_expect(kv, "a", "2");
}

static void test_kv__a_key_compacted_away_starts_anew(void **state)
{
	pgs_kv *kv = kv_of(state);
	kv_put(kv, "a", "1");
	kv_delete(kv, "a", NULL);
	uint64_t other = kv_put(kv, "b", "1");
	kv_compact(kv, other);
	kv_expect_at(kv, "a", other, NULL);
	uint64_t again = kv_put(kv, "a", "2");
	pgs_kv_pair pair = kv_numbers(kv, "a");
	assert_int_equal(pair.create_revision, again);
	assert_int_equal(pair.version, 1);
}

static void test_kv__many_keys_page_by_limit(void **state)
{
	enum { KEYS = 2000, PER_TXN = 100 };
	pgs_kv *kv = kv_of(state);
	char keys[PER_TXN][8];
	pgs_kv_op ops[PER_TXN];
	for (unsigned i = 0; i < KEYS; i += PER_TXN) {
		for (unsigned j = 0; j < PER_TXN; j++) {
			snprintf(keys[j], sizeof keys[j], "%06u", (i + j) * 7919 % KEYS);
			ops[j] = op_put(keys[j], keys[j]);
		}
		kv_apply(kv, ops, PER_TXN);
	}
	char from[32] = "0", expected[16];
	unsigned seen = 0;
	for (bool more = true; more;) {
		pgs_kv_op op = op_range(from, "9");
		op.limit = 333;
		pgs_kv_txn txn = txn_of(&op, 1);
		assert_int_equal(run_txn(kv, &txn), PGS_OK);
		const pgs_kv_result *result = &txn.results[0];
		for (size_t i = 0; i < result->count; i++) {
			snprintf(expected, sizeof expected, "%06u", seen++);
			assert_true(slice_is(result->pairs[i].key, expected));
		}
		more = result->more;
		snprintf(from, sizeof from, "%s!", expected); /* just above the last key */
		kv->vtable->release(kv, &txn, 1);
	}
	assert_int_equal(seen, KEYS);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_kv__every_revision_reads_as_it_was),
	cmocka_unit_test(test_kv__compaction_changes_no_readable_revision),
	cmocka_unit_test(test_kv__a_watch_replays_the_whole_workload),
	cmocka_unit_test(test_kv__compaction_keeps_what_is_current),
	cmocka_unit_test(test_kv__compaction_goes_forward_only),
	cmocka_unit_test(test_kv__a_key_compacted_away_starts_anew),
	cmocka_unit_test(test_kv__many_keys_page_by_limit),
};

KV_SUITE_PART(kv_history_part, "history", tests);
