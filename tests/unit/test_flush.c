/* lib/maintain/flush.c: contents in the KV become files of level 0. */
#include "test_collect.h"

static int set_up(void **state, int (*how)(void **))
{
	how(state);
	fixture *f = *state;
	set_thresholds(&f->a);
	set_thresholds(&f->b);
	return 0;
}

static int setup_flush(void **state)
{
	return set_up(state, setup);
}

static int setup_flush_limited(void **state)
{
	return set_up(state, setup_limited);
}

static void run_flush(process *p)
{
	int result = pgs__job_flush(&p->worker);
	expect_code(result, PGS_OK, &p->err, "flush");
}

static void flush_all(process *p)
{
	p->worker.options.all = true;
	run_flush(p);
}

/* Contents one by one, so that they are in the KV, each with a birth of its own. */
static void write_each(fixture *f, uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count; i++)
		write_one(f, i, seed_of(100 + i, 0));
}

static void expect_each(fixture *f, uint64_t first, uint64_t count)
{
	reopen(f, &f->a);
	expect_many(f, first, count, 100);
}

/* --- when, and what --------------------------------------------------------------- */

static void test_flush__waits_for_its_thresholds(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 10);
	f->b.worker.options.flush_pages = 11;
	run_flush(&f->b);
	assert_int_equal(count_kind(f, 'c'), 10);
	assert_int_equal(f->b.report.due_flush_pages, 0);
	f->b.worker.options.flush_bytes = 10 * TEST_PAGE_SIZE;
	f->b.worker.options.dry_run = true;
	run_flush(&f->b);
	assert_int_equal(count_kind(f, 'c'), 10);
	assert_int_equal(f->b.report.due_flush_pages, 10);
	f->b.worker.options.dry_run = false;
	run_flush(&f->b);
	assert_int_equal(count_kind(f, 'c'), 0);
	assert_int_equal(f->b.report.due_flush_pages, 0);
	write_each(f, 10, 11);
	f->b.worker.options.flush_bytes = 1 << 30;
	run_flush(&f->b);
	assert_int_equal(count_kind(f, 'c'), 0);
	assert_int_equal(f->b.report.flushed_pages, 21);
	expect_each(f, 0, 21);
}

static void test_flush__nothing_is_nothing(void **state)
{
	fixture *f = *state;
	uint64_t before = revision_now(f);
	flush_all(&f->b);
	assert_int_equal(revision_now(f), before);
}

static void test_flush__keeps_births(void **state)
{
	fixture *f = *state;
	uint64_t births[5];
	for (uint64_t i = 0; i < 5; i++)
		births[i] = write_one(f, i, seed_of(100 + i, 0));
	flush_all(&f->b);
	assert_int_equal(files_in(f, 0), 1);
	assert_int_equal(count_kind(f, 'k'), 0);
	for (uint64_t i = 0; i < 5; i++) {
		pgs__sorted_entry row;
		pgs__page_id id = id_of(f, i, seed_of(100 + i, 0));
		assert_int_equal(rows_of(f, &id, &row), 1);
		assert_int_equal(row.birth, births[i]);
	}
	assert_true(f->b.report.bytes_written > 5 * TEST_PAGE_SIZE);
	/* The name tells what its registration relies on: what was read, all of it before. */
	pgs__file_map *map = files_of(&f->a);
	const char *name = map->files[0]->key.file_name;
	pgs__file_name parsed;
	assert_true(pgs__file_name_parse((pgs_slice){name, strlen(name)}, &parsed));
	assert_int_equal(parsed.kind, 's');
	assert_in_range(parsed.base_revision, births[4], map->files[0]->registered - 1);
	pgs__file_map_release(map);
}

static void test_flush__this_process_finds_the_file_at_once(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 20);
	flush_all(&f->b);
	pgs__file_map *map = pgs__levels_map(&f->b.db->contents.levels);
	assert_int_equal(map->count, 1);
	pgs__file_map_release(map);
	pgs__file_map *read = files_of(&f->a);
	map = pgs__levels_map(&f->b.db->contents.levels);
	assert_int_equal(read->files[0]->registered, map->files[0]->registered);
	pgs__file_map_release(map);
	/* When a refresh was faster, it is there once all the same. */
	const pgs__level_key *k = &read->files[0]->key;
	pgs__key key = pgs__key_level(pgs__db_prefix(f->b.db), 0, &k->first, &k->last, k->file_name);
	const pgs_kv_op get = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&key)};
	pgs_kv_txn txn = txn_of(&get, 1);
	assert_int_equal(run_txn(f->server.kv, &txn), PGS_OK);
	const pgs__registration again = {pgs__key_slice(&key), txn.results[0].pairs[0].value};
	pgs__levels_add(&f->b.db->contents.levels, pgs__db_prefix(f->b.db), &again, 1, read->files[0]->registered);
	f->server.kv->vtable->release(f->server.kv, &txn, 1);
	map = pgs__levels_map(&f->b.db->contents.levels);
	assert_int_equal(map->count, 1);
	pgs__file_map_release(map);
	pgs__file_map_release(read);
	expect_each(f, 0, 20);
}

static void test_flush__more_than_a_transaction_takes(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 700);
	flush_all(&f->b);
	assert_int_equal(count_kind(f, 'c'), 0);
	assert_int_equal(files_in(f, 0), 1);
	assert_int_equal(f->b.report.flushed_pages, 700);
	expect_each(f, 0, 700);
}

static void test_flush__cuts_files(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 100);
	f->b.worker.options.file_bytes = 10 * (TEST_PAGE_SIZE + 64);
	flush_all(&f->b);
	assert_int_equal(files_in(f, 0), 10);
	f->b.worker.options.memory_bytes = 4 * (TEST_PAGE_SIZE + 100);
	write_each(f, 100, 10);
	run_flush(&f->b);
	assert_int_equal(files_in(f, 0), 15);
	expect_each(f, 0, 110);
}

static void test_flush__stops_when_the_budget_is_spent(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 100);
	f->b.worker.options.file_bytes = 10 * (TEST_PAGE_SIZE + 64);
	f->b.worker.bytes_left = 15 * TEST_PAGE_SIZE;
	flush_all(&f->b);
	assert_int_equal(files_in(f, 0), 2);
	assert_int_equal(count_kind(f, 'c'), 80);
	assert_int_equal(f->b.worker.bytes_left, 0);
	assert_int_equal(f->b.report.due_flush_pages, 80);
	assert_true(f->b.report.more);
	assert_int_equal(count_kind(f, 'k'), 0);
	expect_each(f, 0, 100);
}

static int stop_at(void *ctx, const pgs_maintain_progress *progress)
{
	assert_string_equal(progress->job, "flush");
	assert_int_equal(progress->total, 100);
	return progress->done >= *(const uint64_t *)ctx ? -77 : 0;
}

static void test_flush__ends_with_the_progress_callback(void **state)
{
	fixture *f = *state;
	uint64_t end = 30;
	write_each(f, 0, 100);
	f->b.worker.options.file_bytes = 10 * (TEST_PAGE_SIZE + 64);
	f->b.worker.options.all = true;
	f->b.worker.options.progress = stop_at;
	f->b.worker.options.progress_ctx = &end;
	assert_int_equal(pgs__job_flush(&f->b.worker), -77);
	assert_int_equal(count_kind(f, 'c'), 70);
	assert_int_equal(count_kind(f, 'k'), 0);
}

static void test_flush__what_is_damaged_stays(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 10);
	pgs__page_id id = id_of(f, 3, seed_of(103, 0)), far = id_of(f, 300, 1);
	pgs__key empty = pgs__key_content(pgs__db_prefix(f->a.db), &id), cut = pgs__key_content(pgs__db_prefix(f->a.db), &far);
	put_raw(f, &empty, (pgs_slice){"", 0});
	cut.size -= 3;
	put_raw(f, &cut, (pgs_slice){"text", 4});
	flush_all(&f->b);
	assert_int_equal(count_kind(f, 'c'), 2);
	assert_int_equal(f->b.report.damaged_contents, 2);
	assert_int_equal(f->b.report.flushed_pages, 9);
	flush_all(&f->b); /* and are no reason for a file */
	assert_int_equal(files_in(f, 0), 1);
}

/* --- others at work ------------------------------------------------------------------- */

static void put_again(fixture *f, uint64_t page_no)
{
	pgs__page_id id = id_of(f, page_no, seed_of(100 + page_no, 0));
	pgs__key key = pgs__key_content(pgs__db_prefix(f->a.db), &id);
	uint8_t page[TEST_PAGE_SIZE];
	fill_page(page, seed_of(100 + page_no, 0));
	put_raw(f, &key, (pgs_slice){page, sizeof page});
}

static void put_some_again(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "put") != 0)
		return;
	put_again(f, 3);
	put_again(f, 250);
}

/* A content that is put again while the file is written has a new birth, for who put it: its key stays. */
static void test_flush__keys_put_again_meanwhile_stay(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 300);
	watch_calls(f, put_some_again);
	flush_all(&f->b);
	f->before = NULL;
	assert_int_equal(count_kind(f, 'c'), 2);
	assert_int_equal(files_in(f, 0), 1);
	assert_int_equal(f->b.report.due_flush_pages, 0);
	expect_each(f, 0, 300);
	flush_all(&f->b);
	assert_int_equal(count_kind(f, 'c'), 0);
	expect_each(f, 0, 300);
}

static void break_claims(fixture *f)
{
	pgs__key from = pgs__key_lock(pgs__db_prefix(f->a.db), "m-"), end = pgs__key_lock(pgs__db_prefix(f->a.db), "m.");
	const pgs_kv_op op = {.kind = PGS_KV_DELETE, .key = pgs__key_slice(&from), .range_end = pgs__key_slice(&end)};
	kv_apply(f->server.kv, &op, 1);
}

static void break_claims_at_put(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "put") == 0)
		break_claims(f);
}

static void pass_floor(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "put") == 0)
		publish_now(f);
}

/* A worker whose claim was broken, or whom the floor has passed, changes nothing, and takes its file away. */
static void test_flush__is_fenced(void **state)
{
	fixture *f = *state;
	void (*const others[])(fixture *, uint64_t, const char *) = {break_claims_at_put, pass_floor};
	write_each(f, 0, 300);
	for (size_t i = 0; i < COUNT_OF(others); i++) {
		f->b.report.busy = false;
		watch_calls(f, others[i]);
		flush_all(&f->b);
		f->before = NULL;
		assert_true(f->b.report.busy);
		assert_int_equal(count_kind(f, 'c'), 300);
		assert_int_equal(files_in(f, 0), 0);
		assert_int_equal(count_blobs(f), 0);
		assert_int_equal(f->b.report.flushed_pages, 0);
	}
	flush_all(&f->b);
	assert_int_equal(count_kind(f, 'c'), 0);
	expect_each(f, 0, 300);
}

/* Of the first step after the file was put, the reply is lost; and before it is sent again, others have merged the file
 * away. */
static void merge_away(fixture *f, uint64_t call, const char *operation)
{
	(void)call;
	if (strcmp(operation, "put") == 0) {
		f->number = 1;
	} else if (f->number == 1 && strcmp(operation, "txn") == 0) {
		pgs_fault_at(f->fault, 1, PGS_FAULT_LOSE_REPLY);
		f->number = 2;
	} else if (f->number == 2) {
		pgs__key from = pgs__key_kind(pgs__db_prefix(f->a.db), 'l'),
			 end = pgs__key_kind_end(pgs__db_prefix(f->a.db), 'l');
		const pgs_kv_op op = {
			.kind = PGS_KV_DELETE, .key = pgs__key_slice(&from), .range_end = pgs__key_slice(&end)};
		assert_int_equal(files_in(f, 0), 1);
		kv_apply(f->server.kv, &op, 1);
		f->number = 3;
	}
}

static void test_flush__a_file_that_was_merged_away_is_not_registered_again(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 300);
	watch_calls(f, merge_away);
	flush_all(&f->b);
	f->before = NULL;
	assert_int_equal(f->number, 3);
	assert_int_equal(files_in(f, 0), 0);
}

static void test_flush__one_at_a_time(void **state)
{
	fixture *f = *state;
	const pgs__scope scope = {.jobs = PGS__JOB_FLUSH};
	pgs__claim claim;
	write_each(f, 0, 10);
	assert_int_equal(pgs__claim_take(&f->a.worker, &scope, &claim), PGS_OK);
	flush_all(&f->b);
	assert_true(f->b.report.busy);
	assert_int_equal(f->b.report.due_flush_pages, 10);
	assert_int_equal(count_kind(f, 'c'), 10);
	pgs__claim_release(&f->a.worker, &claim);
}

static void test_flush__of_a_dropped_database(void **state)
{
	fixture *f = *state;
	write_each(f, 0, 10);
	f->b.worker.options.all = true;
	assert_int_equal(pgs_db_drop(f->a.store, "db", 2, NULL), PGS_OK);
	int result = pgs__job_flush(&f->b.worker);
	assert_true(result == PGS_OK || result == PGS_ENOTFOUND);
}

/* --- faults ---------------------------------------------------------------------------- */

/* Hit every call in turn. What was done stays done, nothing is lost, and the next run finishes. */
static void hit_every_call(fixture *f, pgs_fault_kind kind)
{
	const uint64_t count = 200;
	bool over = false;
	for (uint64_t nth = 1, first = 0; !over; nth++, first += count) {
		write_each(f, first, count);
		reopen(f, &f->b);
		f->b.worker.options.all = true;
		f->b.worker.options.file_bytes = 150 * (TEST_PAGE_SIZE + 36);
		uint64_t before = pgs_fault_calls(f->fault);
		pgs_fault_at(f->fault, nth, kind);
		int result = pgs__job_flush(&f->b.worker);
		over = pgs_fault_calls(f->fault) - before < nth;
		pgs_fault_at(f->fault, 0, PGS_FAULT_NONE);
		if (kind == PGS_FAULT_STOP)
			pgs_fault_resume(f->fault);
		if (over)
			assert_int_equal(result, PGS_OK);
		else if (result != PGS_OK && result != PGS_EIO)
			fail_msg("call %llu: %s: %s", (unsigned long long)nth, pgs_error_name(result), f->b.err.message);
		expect_each(f, first, count);
		break_claims(f);
		flush_all(&f->a);
		pgs_fault_deliver(f->fault); /* what comes now changes nothing */
		assert_int_equal(count_kind(f, 'c'), 0);
		expect_each(f, first, count);
	}
}

static void test_flush__errors(void **state)
{
	hit_every_call(*state, PGS_FAULT_ERROR);
}

static void test_flush__lost_replies(void **state)
{
	hit_every_call(*state, PGS_FAULT_LOSE_REPLY);
}

static void test_flush__late_replies(void **state)
{
	hit_every_call(*state, PGS_FAULT_DELAY);
}

static void test_flush__a_worker_that_dies(void **state)
{
	hit_every_call(*state, PGS_FAULT_STOP);
}

static void test_flush__runs_out_of_memory_cleanly(void **state)
{
	fixture *f = *state;
	for (size_t nth = 1, first = 0;; nth++, first += 3) {
		write_each(f, first, 3);
		f->b.worker.options.all = true;
		failing_alloc_begin(nth);
		int result = pgs__job_flush(&f->b.worker);
		bool failed = failing_alloc_end();
		if (!failed) {
			assert_int_equal(result, PGS_OK);
			break;
		}
		assert_true(result == PGS_ENOMEM || result == PGS_OK);
		flush_all(&f->b);
		assert_int_equal(count_kind(f, 'c'), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_flush__waits_for_its_thresholds, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__nothing_is_nothing, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__keeps_births, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__this_process_finds_the_file_at_once, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__more_than_a_transaction_takes, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__more_than_a_transaction_takes, setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__cuts_files, setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__stops_when_the_budget_is_spent, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__ends_with_the_progress_callback, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__what_is_damaged_stays, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__keys_put_again_meanwhile_stay, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__keys_put_again_meanwhile_stay, setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__is_fenced, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__is_fenced, setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__a_file_that_was_merged_away_is_not_registered_again,
						setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__a_file_that_was_merged_away_is_not_registered_again,
						setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__one_at_a_time, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__of_a_dropped_database, setup_flush, teardown),
		cmocka_unit_test_setup_teardown(test_flush__errors, setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__lost_replies, setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__late_replies, setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__a_worker_that_dies, setup_flush_limited, teardown),
		cmocka_unit_test_setup_teardown(test_flush__runs_out_of_memory_cleanly, setup_flush, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
