/* backends/fault: each kind does what fault.h says, at the call it was told. */
#include <stdio.h>
#include <string.h>

#include <pagestore/backends.h>
#include <pagestore/fault.h>

#include "support/blob_calls.h"
#include "support/kv_calls.h"
#include "support/testing.h"
#include "util/clock.h"

typedef struct fixture {
	pgs_fault *fault;
	pgs_kv *kv;
	pgs_kv *direct; /* the same contents, without faults */
	pgs_blob *blob;
	pgs_blob *direct_blob;
} fixture;

static void open_with(fixture *f, const pgs_fault_options *options)
{
	pgs_kv *inner;
	pgs_blob *inner_blob;
	assert_int_equal(pgs_fault_new(&f->fault, options, NULL), PGS_OK);
	assert_int_equal(pgs_kv_memory_new(&inner, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_kv_memory_share(&f->direct, inner, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_kv(&f->kv, f->fault, inner, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_new(&inner_blob, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&f->direct_blob, inner_blob, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_blob(&f->blob, f->fault, inner_blob, NULL), PGS_OK);
}

static void close_all(fixture *f)
{
	f->kv->vtable->close(f->kv);
	f->direct->vtable->close(f->direct);
	f->blob->vtable->close(f->blob);
	f->direct_blob->vtable->close(f->direct_blob);
	pgs_fault_free(f->fault);
}

static int setup(void **state)
{
	fixture *f = test_calloc(1, sizeof *f);
	open_with(f, NULL);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	close_all(*state);
	test_free(*state);
	return 0;
}

static int try_put(pgs_kv *kv, const char *key, const char *value)
{
	pgs_kv_op op = op_put(key, value);
	return status_of(kv, &op, 1);
}

/* --- transactions ------------------------------------------------------- */

static void test_fault__an_error_applies_nothing(void **state)
{
	fixture *f = *state;
	pgs_fault_at(f->fault, 1, PGS_FAULT_ERROR);
	assert_int_equal(try_put(f->kv, "a", "1"), PGS_EIO);
	kv_expect(f->direct, "a", NULL);
	assert_int_equal(try_put(f->kv, "a", "2"), PGS_OK); /* once only */
	kv_expect(f->direct, "a", "2");
}

static void test_fault__a_lost_reply_is_applied(void **state)
{
	fixture *f = *state;
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(try_put(f->kv, "a", "1"), PGS_EUNKNOWN);
	kv_expect(f->direct, "a", "1");
	assert_int_equal(pgs_fault_deliver(f->fault), 0);
	assert_int_equal(kv_numbers(f->direct, "a").version, 1);
}

static void test_fault__a_delay_is_applied_when_delivered(void **state)
{
	fixture *f = *state;
	/* The request's memory is the caller's again as soon as the call returns. */
	char key[] = "a", value[] = "late", other[] = "b";
	pgs_kv_compare absent = compare_number(other, PGS_KV_MOD, PGS_KV_EQUAL, 0);
	pgs_kv_op op = op_put(key, value);
	pgs_kv_txn txn = {.compares = &absent, .compare_count = 1, .success = &op, .success_count = 1};
	pgs_fault_at(f->fault, 1, PGS_FAULT_DELAY);
	assert_int_equal(run_txn(f->kv, &txn), PGS_EUNKNOWN);
	f->kv->vtable->release(f->kv, &txn, 1);
	memset(key, 'x', 1);
	memset(value, 'x', 4);
	memset(other, 'x', 1);
	memset(&op, 0xee, sizeof op);
	memset(&absent, 0xee, sizeof absent);
	kv_expect(f->direct, "a", NULL);
	assert_int_equal(pgs_fault_deliver(f->fault), 1);
	kv_expect(f->direct, "a", "late");
	assert_int_equal(pgs_fault_deliver(f->fault), 0);
	assert_int_equal(kv_numbers(f->direct, "a").version, 1);
}

static int delay_put_if(fixture *f, const char *key, const char *expected, const char *value)
{
	pgs_kv_compare same = compare_value(key, PGS_KV_EQUAL, expected);
	pgs_kv_op op = op_put(key, value);
	pgs_kv_txn txn = {.compares = &same, .compare_count = 1, .success = &op, .success_count = 1};
	pgs_fault_at(f->fault, 1, PGS_FAULT_DELAY);
	int status = run_txn(f->kv, &txn);
	f->kv->vtable->release(f->kv, &txn, 1);
	return status;
}

static void test_fault__delays_are_delivered_in_order(void **state)
{
	fixture *f = *state;
	kv_put(f->direct, "a", "0");
	assert_int_equal(delay_put_if(f, "a", "0", "1"), PGS_EUNKNOWN);
	assert_int_equal(delay_put_if(f, "a", "0", "2"), PGS_EUNKNOWN); /* its compare will fail */
	assert_int_equal(delay_put_if(f, "a", "1", "3"), PGS_EUNKNOWN);
	assert_int_equal(pgs_fault_deliver(f->fault), 2);
	kv_expect(f->direct, "a", "3");
}

static void test_fault__what_is_delayed_dies_with_its_wrapper(void **state)
{
	fixture *f = *state;
	pgs_kv *inner, *other;
	assert_int_equal(pgs_kv_memory_share(&inner, f->direct, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_kv(&other, f->fault, inner, NULL), PGS_OK);
	for (int i = 0; i < 4; i++) {
		pgs_fault_at(f->fault, 1, PGS_FAULT_DELAY);
		assert_int_equal(try_put(i % 2 ? other : f->kv, i % 2 ? "other" : "own", "1"), PGS_EUNKNOWN);
	}
	other->vtable->close(other);
	pgs_fault_at(f->fault, 1, PGS_FAULT_DELAY); /* the queue still takes more */
	assert_int_equal(try_put(f->kv, "own", "2"), PGS_EUNKNOWN);
	assert_int_equal(pgs_fault_deliver(f->fault), 3);
	kv_expect(f->direct, "own", "2");
	kv_expect(f->direct, "other", NULL);
}

/* One fault strikes the whole array. */
static void test_fault__arrays_suffer_as_one(void **state)
{
	fixture *f = *state;
	static const struct {
		pgs_fault_kind kind;
		int status;
		uint64_t applied;
	} cases[] = {{PGS_FAULT_ERROR, PGS_EIO, 0}, {PGS_FAULT_LOSE_REPLY, PGS_EUNKNOWN, 2},
		{PGS_FAULT_DELAY, PGS_EUNKNOWN, 2}, {PGS_FAULT_STOP, PGS_EIO, 2}};
	pgs_kv_op a = op_put("a", "1"), bad = op_put("", ""), b = op_put("b", "1");
	for (size_t i = 0; i < 4; i++) {
		pgs_kv_txn txns[] = {txn_of(&a, 1), txn_of(&bad, 1), txn_of(&b, 1)};
		pgs_fault_at(f->fault, 1, cases[i].kind);
		assert_int_equal(f->kv->vtable->txn(f->kv, txns, 3, 0, NULL), cases[i].status);
		for (size_t j = 0; j < 3; j++) {
			assert_int_equal(txns[j].status, cases[i].status);
			assert_null(txns[j].results);
			assert_false(txns[j].succeeded);
		}
		f->kv->vtable->release(f->kv, txns, 3);
		assert_int_equal(kv_count(f->direct), i == 2 ? 2 : cases[i].applied);
	}
	assert_int_equal(pgs_fault_deliver(f->fault), 2); /* two of the three were valid */
	assert_int_equal(kv_numbers(f->direct, "b").version, 2);
}

/* --- other calls -------------------------------------------------------- */

static void test_fault__compactions_lose_replies_too(void **state)
{
	fixture *f = *state;
	kv_put(f->direct, "a", "1");
	uint64_t revision = kv_put(f->direct, "a", "2");
	pgs_kv_stat stat;
	static const pgs_fault_kind refused[] = {PGS_FAULT_ERROR, PGS_FAULT_DELAY};
	for (size_t i = 0; i < 2; i++) {
		pgs_fault_at(f->fault, 1, refused[i]);
		assert_int_equal(f->kv->vtable->compact(f->kv, revision, 0, NULL), PGS_EIO);
	}
	assert_int_equal(f->kv->vtable->stat(f->kv, &stat, 0, NULL), PGS_OK);
	assert_true(stat.compacted_revision < revision);
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(f->kv->vtable->compact(f->kv, revision, 0, NULL), PGS_EUNKNOWN);
	assert_int_equal(f->kv->vtable->stat(f->kv, &stat, 0, NULL), PGS_OK);
	assert_int_equal(stat.compacted_revision, revision);
}

static void test_fault__reading_calls_fail_whatever_the_kind(void **state)
{
	fixture *f = *state;
	pgs_kv_stat stat;
	uint8_t identity[16];
	pgs_kv_watch *watch;
	for (pgs_fault_kind kind = PGS_FAULT_ERROR; kind <= PGS_FAULT_DELAY; kind++) {
		pgs_fault_at(f->fault, 1, kind);
		assert_int_equal(f->kv->vtable->stat(f->kv, &stat, 0, NULL), PGS_EIO);
		pgs_fault_at(f->fault, 1, kind);
		assert_int_equal(f->kv->vtable->identity(f->kv, identity, 0, NULL), PGS_EIO);
		pgs_fault_at(f->fault, 1, kind);
		assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("a"), NO_END, 0, &watch, NULL), PGS_EIO);
		assert_null(watch);
	}
}

static void test_fault__a_failed_watch_call_loses_no_events(void **state)
{
	fixture *f = *state;
	pgs_kv_watch *watch;
	pgs_kv_events events;
	assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("a"), NO_END, 0, &watch, NULL), PGS_OK);
	kv_put(f->direct, "a", "1");
	uint64_t before = pgs_fault_calls(f->fault);
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(f->kv->vtable->watch_next(watch, 0, &events, NULL), PGS_EIO);
	assert_int_equal(events.count, 0);
	assert_int_equal(f->kv->vtable->watch_next(watch, 0, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 1);
	assert_int_equal(pgs_fault_calls(f->fault), before + 2);
	f->kv->vtable->watch_close(watch);
}

static int ignore_name(void *ctx, const char *name, uint64_t size_bytes)
{
	(void)name;
	(void)size_bytes;
	++*(int *)ctx;
	return 0;
}

static void test_fault__blob_errors_apply_nothing(void **state)
{
	fixture *f = *state;
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_DELAY};
	char bytes[2] = "";
	uint64_t size;
	int listed = 0;
	assert_int_equal(put_text(f->direct_blob, "old", "x"), PGS_OK);
	for (size_t i = 0; i < 2; i++) {
		pgs_fault_at(f->fault, 1, kinds[i]);
		assert_int_equal(put_text(f->blob, "new", "y"), PGS_EIO);
		pgs_fault_at(f->fault, 1, kinds[i]);
		assert_int_equal(get_range(f->blob, "old", 0, bytes, 1), PGS_EIO);
		pgs_fault_at(f->fault, 1, kinds[i]);
		assert_int_equal(stat_size(f->blob, "old", &size), PGS_EIO);
		pgs_fault_at(f->fault, 1, kinds[i]);
		assert_int_equal(f->blob->vtable->list(f->blob, "", ignore_name, &listed, 0, NULL), PGS_EIO);
		pgs_fault_at(f->fault, 1, kinds[i]);
		assert_int_equal(f->blob->vtable->remove(f->blob, "old", 0, NULL), PGS_EIO);
	}
	assert_int_equal(listed, 0);
	assert_int_equal(pgs_fault_deliver(f->fault), 0);
	blob_expect_absent(f->direct_blob, "new");
	blob_expect_text(f->blob, "old", "x");
}

static void test_fault__blob_replies_get_lost(void **state)
{
	fixture *f = *state;
	char bytes[2] = "";
	uint64_t size;
	int listed = 0;
	assert_int_equal(put_text(f->direct_blob, "old", "x"), PGS_OK);
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(put_text(f->blob, "new", "y"), PGS_EIO);
	blob_expect_text(f->direct_blob, "new", "y");
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(get_range(f->blob, "old", 0, bytes, 1), PGS_EIO);
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(stat_size(f->blob, "old", &size), PGS_EIO);
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(f->blob->vtable->list(f->blob, "", ignore_name, &listed, 0, NULL), PGS_EIO);
	assert_int_equal(listed, 2);
	pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(f->blob->vtable->remove(f->blob, "old", 0, NULL), PGS_EIO);
	blob_expect_absent(f->direct_blob, "old");
}

/* --- which call --------------------------------------------------------- */

static void test_fault__the_nth_call_counts_over_all_wrappers(void **state)
{
	fixture *f = *state;
	pgs_kv_stat stat;
	assert_int_equal(pgs_fault_calls(f->fault), 0);
	pgs_fault_at(f->fault, 4, PGS_FAULT_ERROR);
	assert_int_equal(try_put(f->kv, "a", "1"), PGS_OK);
	assert_int_equal(put_text(f->blob, "a", "1"), PGS_OK);
	assert_int_equal(f->kv->vtable->stat(f->kv, &stat, 0, NULL), PGS_OK);
	assert_int_equal(pgs_fault_calls(f->fault), 3);
	assert_int_equal(f->blob->vtable->remove(f->blob, "a", 0, NULL), PGS_EIO);
	assert_int_equal(try_put(f->kv, "a", "1"), PGS_OK);
	assert_int_equal(pgs_fault_calls(f->fault), 5);
	pgs_kv_limits limits;
	f->kv->vtable->limits(f->kv, &limits); /* no I/O, no call */
	assert_int_equal(pgs_fault_calls(f->fault), 5);
}

static void test_fault__a_plan_can_be_replaced_and_cancelled(void **state)
{
	fixture *f = *state;
	pgs_fault_at(f->fault, 1, PGS_FAULT_ERROR);
	pgs_fault_at(f->fault, 2, PGS_FAULT_LOSE_REPLY);
	assert_int_equal(try_put(f->kv, "a", "1"), PGS_OK);
	assert_int_equal(try_put(f->kv, "a", "1"), PGS_EUNKNOWN);
	pgs_fault_at(f->fault, 1, PGS_FAULT_ERROR);
	pgs_fault_at(f->fault, 0, PGS_FAULT_ERROR);
	for (int i = 0; i < 5; i++)
		assert_int_equal(try_put(f->kv, "a", "1"), PGS_OK);
}

static void test_fault__a_stop_lasts_until_resumed(void **state)
{
	fixture *f = *state;
	pgs_kv_watch *watch;
	pgs_kv_events events;
	assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("a"), NO_END, 0, &watch, NULL), PGS_OK);
	pgs_fault_at(f->fault, 1, PGS_FAULT_DELAY);
	assert_int_equal(try_put(f->kv, "late", "1"), PGS_EUNKNOWN);
	pgs_fault_at(f->fault, 2, PGS_FAULT_STOP);
	assert_int_equal(try_put(f->kv, "a", "1"), PGS_OK);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(try_put(f->kv, "a", "2"), PGS_EIO);
		assert_int_equal(put_text(f->blob, "a", "2"), PGS_EIO);
		assert_int_equal(f->kv->vtable->watch_next(watch, 0, &events, NULL), PGS_EIO);
	}
	kv_expect(f->direct, "a", "1");
	blob_expect_absent(f->direct_blob, "a");
	assert_int_equal(pgs_fault_deliver(f->fault), 1); /* it was on its way before */
	pgs_fault_resume(f->fault);
	assert_int_equal(try_put(f->kv, "a", "3"), PGS_OK);
	assert_int_equal(f->kv->vtable->watch_next(watch, 0, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 2);
	f->kv->vtable->watch_close(watch);
}

/* --- chance ------------------------------------------------------------- */

enum { RUNS = 400 };

/* What each of RUNS puts got, as a string of letters. */
static void run_with_seed(uint64_t seed, char outcomes[RUNS + 1])
{
	pgs_fault_options options = PGS_FAULT_OPTIONS_INIT;
	options.seed = seed;
	options.error_per_million = 200000;
	options.lose_reply_per_million = 100000;
	fixture f;
	open_with(&f, &options);
	uint64_t applied = 0;
	for (int i = 0; i < RUNS; i++) {
		int status = try_put(f.kv, "a", "1");
		outcomes[i] = status == PGS_OK ? 'o' : status == PGS_EIO ? 'e' : status == PGS_EUNKNOWN ? 'u' : '?';
		applied += outcomes[i] != 'e';
	}
	outcomes[RUNS] = '\0';
	assert_int_equal(kv_numbers(f.direct, "a").version, applied);
	close_all(&f);
}

static size_t count_of(const char *text, char c)
{
	size_t count = 0;
	for (; *text; text++)
		count += *text == c;
	return count;
}

static void test_fault__a_seed_replays_exactly(void **state)
{
	(void)state;
	char first[RUNS + 1], again[RUNS + 1], other[RUNS + 1];
	run_with_seed(7, first);
	run_with_seed(7, again);
	run_with_seed(8, other);
	assert_string_equal(first, again);
	assert_string_not_equal(first, other);
	assert_in_range(count_of(first, 'e'), RUNS / 10, RUNS * 3 / 10);
	assert_in_range(count_of(first, 'u'), RUNS / 20, RUNS * 3 / 20);
	assert_int_equal(count_of(first, '?'), 0);
}

static void test_fault__no_chance_means_no_faults(void **state)
{
	fixture *f = *state;
	for (int i = 0; i < RUNS; i++)
		assert_int_equal(try_put(f->kv, "a", "1"), PGS_OK);
}

static void test_fault__latency_stops_at_the_deadline(void **state)
{
	(void)state;
	pgs_fault_options options = PGS_FAULT_OPTIONS_INIT;
	options.latency_us_max = 60000000;
	fixture f;
	open_with(&f, &options);
	pgs_kv_stat stat;
	uint64_t started = pgs__now_ms();
	for (int i = 0; i < 5; i++)
		assert_int_equal(f.kv->vtable->stat(f.kv, &stat, pgs__now_ms() + 20, NULL), PGS_ETIMEOUT);
	assert_in_range(pgs__now_ms() - started, 60, 5000);
	close_all(&f);
}

/* --- the hook ----------------------------------------------------------- */

typedef struct hook {
	pgs_fault *fault;
	pgs_kv *direct;
	char log[256];
	uint64_t fail_at;
} hook;

/* May use the controller and the backends: nothing is locked. */
static void before_call(void *ctx, uint64_t call, const char *operation)
{
	hook *h = ctx;
	size_t used = strlen(h->log);
	snprintf(h->log + used, sizeof h->log - used, "%u:%s ", (unsigned)call, operation);
	if (call == h->fail_at) {
		pgs_fault_at(h->fault, 1, PGS_FAULT_ERROR);
		kv_put(h->direct, "seen", "1");
	}
}

static void test_fault__the_hook_is_called_before_each_call(void **state)
{
	(void)state;
	hook h = {.fail_at = 2};
	pgs_fault_options options = PGS_FAULT_OPTIONS_INIT;
	options.before = before_call;
	options.before_ctx = &h;
	fixture f;
	open_with(&f, &options);
	h.fault = f.fault;
	h.direct = f.direct;
	pgs_kv_stat stat;
	char byte;
	assert_int_equal(try_put(f.kv, "a", "1"), PGS_OK);
	assert_int_equal(try_put(f.kv, "a", "2"), PGS_EIO); /* this very call */
	assert_int_equal(f.kv->vtable->stat(f.kv, &stat, 0, NULL), PGS_OK);
	assert_int_equal(get_range(f.blob, "none", 0, &byte, 1), PGS_ENOTFOUND);
	assert_string_equal(h.log, "1:txn 2:txn 3:stat 4:get ");
	kv_expect(f.direct, "seen", "1");
	close_all(&f);
}

/* --- misuse ------------------------------------------------------------- */

static void test_fault__misuse_is_refused(void **state)
{
	(void)state;
	pgs_fault_options options = PGS_FAULT_OPTIONS_INIT;
	pgs_fault *fault;
	options.struct_size = 0;
	assert_int_equal(pgs_fault_new(&fault, &options, NULL), PGS_EINVAL);
	options.struct_size = sizeof options + 1;
	assert_int_equal(pgs_fault_new(&fault, &options, NULL), PGS_EINVAL);
	assert_null(fault);
	pgs_kv *inner, *kv;
	pgs_blob *inner_blob, *blob;
	assert_int_equal(pgs_kv_memory_new(&inner, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_kv(&kv, NULL, inner, NULL), PGS_EINVAL); /* closes it */
	assert_null(kv);
	assert_int_equal(pgs_blob_memory_new(&inner_blob, NULL), PGS_OK);
	assert_int_equal(pgs_fault_wrap_blob(&blob, NULL, inner_blob, NULL), PGS_EINVAL);
	assert_null(blob);
	assert_int_equal(pgs_fault_wrap_kv(&kv, NULL, NULL, NULL), PGS_EINVAL);
	assert_int_equal(pgs_fault_wrap_blob(&blob, NULL, NULL, NULL), PGS_EINVAL);
	pgs_fault_free(NULL);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_FIXTURE(test_fault__an_error_applies_nothing),
		WITH_FIXTURE(test_fault__a_lost_reply_is_applied),
		WITH_FIXTURE(test_fault__a_delay_is_applied_when_delivered),
		WITH_FIXTURE(test_fault__delays_are_delivered_in_order),
		WITH_FIXTURE(test_fault__what_is_delayed_dies_with_its_wrapper),
		WITH_FIXTURE(test_fault__arrays_suffer_as_one),
		WITH_FIXTURE(test_fault__compactions_lose_replies_too),
		WITH_FIXTURE(test_fault__reading_calls_fail_whatever_the_kind),
		WITH_FIXTURE(test_fault__a_failed_watch_call_loses_no_events),
		WITH_FIXTURE(test_fault__blob_errors_apply_nothing),
		WITH_FIXTURE(test_fault__blob_replies_get_lost),
		WITH_FIXTURE(test_fault__the_nth_call_counts_over_all_wrappers),
		WITH_FIXTURE(test_fault__a_plan_can_be_replaced_and_cancelled),
		WITH_FIXTURE(test_fault__a_stop_lasts_until_resumed),
		WITH_FIXTURE(test_fault__no_chance_means_no_faults),
		cmocka_unit_test(test_fault__a_seed_replays_exactly),
		cmocka_unit_test(test_fault__latency_stops_at_the_deadline),
		cmocka_unit_test(test_fault__the_hook_is_called_before_each_call),
		cmocka_unit_test(test_fault__misuse_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
