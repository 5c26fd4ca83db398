/* backends/memory: what the conformance suite cannot see: compaction frees,
 * and running out of memory at any allocation changes and leaks nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore/backends.h>

#include "support/blob_calls.h"
#include "support/failing_alloc.h"
#include "support/kv_calls.h"
#include "support/testing.h"

static int install(void **state)
{
	(void)state;
	failing_alloc_install();
	return 0;
}

static int uninstall(void **state)
{
	(void)state;
	size_t leaked = failing_alloc_live();
	failing_alloc_uninstall();
	return leaked ? -1 : 0;
}

static pgs_kv_stat stat_of(pgs_kv *kv)
{
	pgs_kv_stat stat;
	assert_int_equal(kv->vtable->stat(kv, &stat, 0, NULL), PGS_OK);
	return stat;
}

/* --- compaction --------------------------------------------------------- */

static void test_memory__compaction_frees_superseded_versions(void **state)
{
	(void)state;
	pgs_kv *kv;
	assert_int_equal(pgs_kv_memory_new(&kv, NULL, NULL), PGS_OK);
	kv_put(kv, "hot", "0");
	kv_put(kv, "cold", "0");
	uint64_t revision = kv_put(kv, "mark", "0");
	kv_compact(kv, revision);
	size_t live = failing_alloc_live();
	uint64_t size = stat_of(kv).size_bytes;
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 1000; i++) {
			kv_put(kv, "hot", "x");
			kv_put(kv, "passing", "x");
			kv_delete(kv, "passing", NULL);
		}
		assert_true(failing_alloc_live() > live + 3000);
		assert_true(stat_of(kv).size_bytes > size + 3000);
		kv_compact(kv, kv_put(kv, "mark", "0"));
		assert_int_equal(failing_alloc_live(), live);
		assert_int_equal(stat_of(kv).size_bytes, size);
	}
	kv_expect(kv, "hot", "x");
	kv_expect(kv, "cold", "0");
	kv_expect(kv, "passing", NULL);
	assert_int_equal(kv_numbers(kv, "hot").version, 5001);
	kv->vtable->close(kv);
}

/* A delete at the compacted revision is remembered for watches, and goes with the next compaction. */
static void test_memory__deletes_are_forgotten_in_the_end(void **state)
{
	(void)state;
	pgs_kv *kv;
	assert_int_equal(pgs_kv_memory_new(&kv, NULL, NULL), PGS_OK);
	kv_put(kv, "mark", "0");
	uint64_t size = stat_of(kv).size_bytes;
	kv_put(kv, "a", "1");
	uint64_t deleted = kv_delete(kv, "a", NULL);
	kv_compact(kv, deleted);
	pgs_kv_watch *watch;
	pgs_kv_events events;
	assert_int_equal(kv->vtable->watch_open(kv, bytes_of("a"), NO_END, deleted, &watch, NULL), PGS_OK);
	assert_int_equal(kv->vtable->watch_next(watch, 0, &events, NULL), PGS_OK);
	assert_int_equal(events.count, 1);
	assert_true(events.events[0].deleted);
	kv->vtable->watch_close(watch);
	kv_compact(kv, kv_put(kv, "mark", "1"));
	assert_int_equal(stat_of(kv).size_bytes, size);
	kv->vtable->close(kv);
}

static void test_memory__a_refused_request_costs_nothing(void **state)
{
	(void)state;
	pgs_kv *kv;
	assert_int_equal(pgs_kv_memory_new(&kv, NULL, NULL), PGS_OK);
	size_t live = failing_alloc_live();
	pgs_kv_op ops[] = {op_put("a", "1"), op_put("a", "2")};
	assert_int_equal(status_of(kv, ops, 2), PGS_EINVAL);
	ops[1] = op_range("a", NULL);
	ops[1].revision = 99;
	assert_int_equal(status_of(kv, ops, 2), PGS_EINVAL);
	assert_int_equal(failing_alloc_live(), live);
	kv->vtable->close(kv);
}

/* --- running out of memory: the KV -------------------------------------- */

enum { WIDE = 70 }; /* more puts than are checked without scratch memory */

typedef struct script {
	pgs_kv_op ops[WIDE + 3];
	size_t count;
	char keys[WIDE][8];
} script;

/* New keys, changed keys, deletes, reads of all of them: every path that allocates. */
static void write_script(script *s)
{
	memset(s, 0, sizeof *s);
	for (size_t i = 0; i < WIDE; i++) {
		snprintf(s->keys[i], sizeof s->keys[i], "k%03u", (unsigned)(i * 37 % WIDE));
		s->ops[s->count++] = op_put(s->keys[i], "a value of the script");
	}
	s->ops[s->count++] = op_delete("d", "e");
	s->ops[s->count++] = op_range("a", "z");
	s->ops[s->count++] = op_range("k000", NULL);
}

static void put_base(pgs_kv *kv)
{
	pgs_kv_op ops[] = {op_put("d1", "1"), op_put("d2", "2"), op_put("k001", "old"), op_put("k069", "old")};
	kv_apply(kv, ops, 4);
}

static void expect_base(pgs_kv *kv, const pgs_kv_stat *before)
{
	pgs_kv_stat now = stat_of(kv);
	assert_int_equal(now.revision, before->revision);
	assert_int_equal(now.size_bytes, before->size_bytes);
	assert_int_equal(kv_count(kv), 4);
	kv_expect(kv, "d1", "1");
	kv_expect(kv, "k001", "old");
	kv_expect(kv, "k002", NULL);
	assert_int_equal(kv_numbers(kv, "k069").version, 1);
}

static void expect_script_done(pgs_kv *kv, const pgs_kv_stat *before)
{
	assert_int_equal(stat_of(kv).revision, before->revision + 1);
	assert_int_equal(kv_count(kv), WIDE);
	assert_int_equal(kv_numbers(kv, "k069").version, 2);
	kv_expect(kv, "d1", NULL);
	kv_expect(kv, "k002", "a value of the script");
	kv_expect_at(kv, "k002", before->revision, NULL);
}

/* One run with the nth allocation failing; false when there was no nth. */
static bool run_script(const script *s, size_t nth)
{
	pgs_kv *kv;
	assert_int_equal(pgs_kv_memory_new(&kv, NULL, NULL), PGS_OK);
	put_base(kv);
	pgs_kv_stat before = stat_of(kv);
	size_t live = failing_alloc_live();
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv_txn txn = txn_of(s->ops, s->count);
	failing_alloc_begin(nth);
	int status = kv->vtable->txn(kv, &txn, 1, 0, &err);
	bool failed = failing_alloc_end();
	if (status != PGS_OK) {
		assert_true(failed);
		assert_int_equal(status, PGS_ENOMEM);
		assert_int_equal(err.code, PGS_ENOMEM);
		assert_int_equal(txn.status, PGS_ENOMEM);
		assert_null(txn.results);
		kv->vtable->release(kv, &txn, 1);
		/* Room made in arrays that live on is no leak: what is freed on close is. */
		assert_true(failing_alloc_live() <= live + 4);
		expect_base(kv, &before);
		assert_int_equal(status_of(kv, s->ops, s->count), PGS_OK); /* and it works the second time */
	} else {
		assert_int_equal(txn.results[s->count - 2].count, WIDE);
		kv->vtable->release(kv, &txn, 1);
	}
	expect_script_done(kv, &before);
	kv->vtable->close(kv);
	assert_int_equal(failing_alloc_live(), 0);
	return failed;
}

static void test_memory__a_transaction_out_of_memory_changes_nothing(void **state)
{
	(void)state;
	script s;
	write_script(&s);
	size_t nth = 1;
	while (run_script(&s, nth))
		nth++;
	assert_true(nth > WIDE * 2); /* a key and a version for each put, at least */
}

/* Opening, reading and closing a watch; false when there was no nth. */
static bool run_watch(pgs_kv *kv, size_t nth)
{
	pgs_kv_watch *watch = NULL;
	pgs_kv_events events = {0};
	size_t live = failing_alloc_live();
	failing_alloc_begin(nth);
	int status = kv->vtable->watch_open(kv, bytes_of("a"), bytes_of("z"), 2, &watch, NULL);
	if (status == PGS_OK)
		status = kv->vtable->watch_next(watch, 0, &events, NULL);
	bool failed = failing_alloc_end();
	assert_int_equal(status, failed ? PGS_ENOMEM : PGS_OK);
	if (watch && failed) /* the failed batch comes again, whole */
		assert_int_equal(kv->vtable->watch_next(watch, 0, &events, NULL), PGS_OK);
	if (watch) {
		assert_int_equal(events.count, 4);
		kv->vtable->watch_close(watch);
	}
	assert_int_equal(failing_alloc_live(), live);
	return failed;
}

static void test_memory__a_watch_out_of_memory_loses_no_events(void **state)
{
	(void)state;
	pgs_kv *kv;
	assert_int_equal(pgs_kv_memory_new(&kv, NULL, NULL), PGS_OK);
	put_base(kv);
	size_t nth = 1;
	while (run_watch(kv, nth))
		nth++;
	assert_true(nth > 3);
	kv->vtable->close(kv);
}

static void test_memory__constructors_out_of_memory_leak_nothing(void **state)
{
	(void)state;
	bool failed = true;
	for (size_t nth = 1; failed; nth++) {
		pgs_kv *kv = NULL, *other = NULL;
		pgs_blob *blob = NULL, *other_blob = NULL;
		failing_alloc_begin(nth);
		int status = pgs_kv_memory_new(&kv, NULL, NULL);
		if (status == PGS_OK)
			status = pgs_kv_memory_share(&other, kv, NULL);
		if (status == PGS_OK)
			status = pgs_blob_memory_new(&blob, NULL);
		if (status == PGS_OK)
			status = pgs_blob_memory_share(&other_blob, blob, NULL);
		failed = failing_alloc_end();
		assert_int_equal(status, failed ? PGS_ENOMEM : PGS_OK);
		if (kv)
			kv->vtable->close(kv);
		if (other)
			other->vtable->close(other);
		if (blob)
			blob->vtable->close(blob);
		if (other_blob)
			other_blob->vtable->close(other_blob);
		assert_int_equal(failing_alloc_live(), 0);
	}
}

/* --- running out of memory: blobs --------------------------------------- */

static bool run_blobs(size_t nth)
{
	pgs_blob *blob;
	assert_int_equal(pgs_blob_memory_new(&blob, NULL), PGS_OK);
	static const char *const names[] = {
		"c", "a", "b", "d", "h", "g", "f", "e", "i"}; /* more than the first array holds */
	failing_alloc_begin(nth);
	size_t done = 0;
	int status = PGS_OK;
	while (done < 9 && (status = put_text(blob, names[done], names[done])) == PGS_OK)
		done++;
	bool failed = failing_alloc_end();
	assert_int_equal(status, failed ? PGS_ENOMEM : PGS_OK);
	for (size_t i = 0; i < done; i++)
		blob_expect_text(blob, names[i], names[i]);
	if (failed) {
		blob_expect_absent(blob, names[done]);
		assert_int_equal(put_text(blob, names[done], names[done]), PGS_OK);
		blob_expect_text(blob, names[done], names[done]);
	}
	blob->vtable->close(blob);
	assert_int_equal(failing_alloc_live(), 0);
	return failed;
}

static void test_memory__a_blob_put_out_of_memory_leaves_nothing(void **state)
{
	(void)state;
	size_t nth = 1;
	while (run_blobs(nth))
		nth++;
	assert_true(nth > 18);
}

static void test_memory__a_blob_too_large_for_memory_is_refused(void **state)
{
	(void)state;
	pgs_blob *blob;
	assert_int_equal(pgs_blob_memory_new(&blob, NULL), PGS_OK);
	assert_int_equal(put_pattern(blob, "huge", UINT64_MAX, 1), PGS_ENOMEM);
	blob_expect_absent(blob, "huge");
	blob->vtable->close(blob);
}

/* --- handles ------------------------------------------------------------ */

static int wrong_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	(void)kv, (void)txns, (void)count, (void)deadline_ms, (void)err;
	return PGS_EIO;
}

static void test_memory__only_memory_backends_are_shared(void **state)
{
	(void)state;
	static const pgs_kv_vtable kv_vtable = {.txn = wrong_txn};
	static const pgs_blob_vtable blob_vtable = {.version = PGS_BLOB_VERSION};
	pgs_kv other = {&kv_vtable}, *kv;
	pgs_blob other_blob = {&blob_vtable}, *blob;
	assert_int_equal(pgs_kv_memory_share(&kv, &other, NULL), PGS_EINVAL);
	assert_null(kv);
	assert_int_equal(pgs_kv_memory_share(&kv, NULL, NULL), PGS_EINVAL);
	assert_int_equal(pgs_blob_memory_share(&blob, &other_blob, NULL), PGS_EINVAL);
	assert_null(blob);
	assert_int_equal(pgs_blob_memory_share(&blob, NULL, NULL), PGS_EINVAL);
}

static void test_memory__stores_have_identities(void **state)
{
	(void)state;
	pgs_kv *a, *b;
	uint8_t identity_a[16], identity_b[16];
	assert_int_equal(pgs_kv_memory_new(&a, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_kv_memory_new(&b, NULL, NULL), PGS_OK);
	assert_int_equal(a->vtable->identity(a, identity_a, 0, NULL), PGS_OK);
	assert_int_equal(b->vtable->identity(b, identity_b, 0, NULL), PGS_OK);
	assert_memory_not_equal(identity_a, identity_b, 16);
	a->vtable->close(a);
	b->vtable->close(b);
}

#define COUNTED(test) cmocka_unit_test_setup_teardown(test, install, uninstall)

int main(void)
{
	const struct CMUnitTest tests[] = {
		COUNTED(test_memory__compaction_frees_superseded_versions),
		COUNTED(test_memory__deletes_are_forgotten_in_the_end),
		COUNTED(test_memory__a_refused_request_costs_nothing),
		COUNTED(test_memory__a_transaction_out_of_memory_changes_nothing),
		COUNTED(test_memory__a_watch_out_of_memory_loses_no_events),
		COUNTED(test_memory__constructors_out_of_memory_leak_nothing),
		COUNTED(test_memory__a_blob_put_out_of_memory_leaves_nothing),
		COUNTED(test_memory__a_blob_too_large_for_memory_is_refused),
		COUNTED(test_memory__only_memory_backends_are_shared),
		COUNTED(test_memory__stores_have_identities),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
