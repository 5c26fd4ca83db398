/* Commits through every fault at every call.
 *
 * For each shape of commit, each call of begin … commit and each kind of fault: the commit happened once, or not at
 * all; what the caller was told is what became of it, also after every delayed request has been delivered; and the
 * store goes on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>

#include "support/failing_alloc.h"
#include "support/fault_pair.h"
#include "support/testing.h"

#define NO_TRUNCATION UINT64_MAX
#define BUSY_PAGE 5000 /* written by others meanwhile */

typedef struct shape {
	const char *name;
	pgs_kv_limits limits;
	uint64_t old_count;   /* pages [0, old_count) are there before */
	uint64_t write_first, write_count, write_step;
	bool small;           /* a few bytes of each page, else all of it */
	bool old_packs;       /* one more large commit before, so that a pack is there */
	uint64_t truncate_to;
	bool attrs;
	uint64_t read_count, read_step;
	size_t busy;          /* commits of others, one before each KV transaction of ours, at most so many */
	bool slow;            /* many calls or bytes: fewer kinds */
} shape;

#define ETCD {128, 1572864, 0, 0}

static const shape shapes[] = {
	{.name = "delta", .old_count = 8, .write_first = 2, .write_count = 1, .write_step = 1, .small = true,
	 .truncate_to = NO_TRUNCATION, .read_count = 3, .read_step = 2},
	{.name = "contents", .old_count = 8, .write_first = 1, .write_count = 5, .write_step = 2,
	 .truncate_to = NO_TRUNCATION, .read_count = 2, .read_step = 1},
	{.name = "contents before", .limits = {16, 65536, 0, 0}, .old_count = 8, .write_first = 1, .write_count = 7,
	 .write_step = 2, .truncate_to = NO_TRUNCATION},
	{.name = "attributes", .old_count = 3, .write_first = 0, .write_count = 1, .write_step = 1, .small = true,
	 .attrs = true, .truncate_to = NO_TRUNCATION},
	{.name = "truncation", .old_count = 30, .write_first = 3, .write_count = 2, .write_step = 20,
	 .truncate_to = 10},
	{.name = "truncation in a pack", .limits = ETCD, .old_count = 30, .write_first = 3, .write_count = 2,
	 .write_step = 20, .truncate_to = 10, .old_packs = true},
	{.name = "pack", .limits = ETCD, .old_count = 150, .write_first = 0, .write_count = 140, .write_step = 1,
	 .small = true, .truncate_to = NO_TRUNCATION, .read_count = 2, .read_step = 1},
	{.name = "pack in an index file", .limits = {16, 40000, 0, 0}, .old_count = 220, .write_first = 0,
	 .write_count = 220, .write_step = 1, .small = true, .truncate_to = NO_TRUNCATION},
	{.name = "bulk", .old_count = 4, .write_first = 2, .write_count = 270, .write_step = 1,
	 .truncate_to = NO_TRUNCATION, .slow = true},
	{.name = "bulk in a pack", .limits = ETCD, .old_count = 4, .write_first = 2, .write_count = 270,
	 .write_step = 1, .truncate_to = NO_TRUNCATION, .slow = true},
	{.name = "changelog", .old_count = 60, .write_first = 1, .write_count = 1, .write_step = 1, .small = true,
	 .truncate_to = NO_TRUNCATION, .read_count = 25, .read_step = 2, .busy = 1},
	{.name = "changelog and lock", .limits = ETCD, .old_count = 260, .write_first = 1, .write_count = 1,
	 .write_step = 1, .small = true, .truncate_to = NO_TRUNCATION, .read_count = 130, .read_step = 2, .busy = 5,
	 .slow = true},
};

/* What a page holds before and after. */
static uint64_t old_seed(const shape *s, uint64_t page_no)
{
	return page_no < s->old_count ? (page_no + 1) * 256 + 1 : 0;
}

static bool is_written(const shape *s, uint64_t page_no)
{
	return page_no >= s->write_first && (page_no - s->write_first) % s->write_step == 0 &&
	       (page_no - s->write_first) / s->write_step < s->write_count;
}

static uint64_t new_seed(const shape *s, uint64_t page_no)
{
	if (is_written(s, page_no))
		return s->small ? (page_no + 1) * 256 + 2 : (page_no + 100001) * 256 + 1;
	return page_no >= s->truncate_to ? 0 : old_seed(s, page_no);
}

static uint64_t last_page(const shape *s)
{
	uint64_t written = s->write_first + s->write_count * s->write_step;
	return written > s->old_count ? written : s->old_count;
}

/* --- a run ----------------------------------------------------------------------------- */

typedef struct run {
	fault_pair pair;
	const shape *shape;
	uint32_t order;
	bool deliver_first;   /* before asking what became of it */
	pgs_db *healthy, *faulty;
	size_t busy_done;
	pgs_commit_token token;
} run;

static void commit_busy(fault_pair *pair)
{
	run *r = (run *)pair;
	if (r->busy_done < r->shape->busy && pair->call > 1)
		fault_pair_commit_beside(r->healthy, BUSY_PAGE, 256 * 7777 + ++r->busy_done);
}

static void set_up_pages(run *r)
{
	const shape *s = r->shape;
	pgs_txn *txn = begin_write(r->healthy);
	for (uint64_t i = 0; i < s->old_count; i++)
		assert_int_equal(write_seed(txn, i, old_seed(s, i)), PGS_OK);
	assert_int_equal(write_seed(txn, BUSY_PAGE, 256 * 7777), PGS_OK);
	commit_ok(txn);
	txn = begin_write(r->healthy);
	assert_int_equal(pgs_attr_set(txn, "kept", 4, "old", 3), PGS_OK);
	assert_int_equal(pgs_attr_set(txn, "removed", 7, "old", 3), PGS_OK);
	commit_ok(txn);
	if (!s->old_packs)
		return;
	txn = begin_write(r->healthy);
	for (uint64_t i = 0; i < 150; i++)
		assert_int_equal(write_seed(txn, BUSY_PAGE + 1 + i, 256 * (9000 + i) + 1), PGS_OK);
	commit_ok(txn);
}

static void open_run(run *r)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	r->pair.between = commit_busy;
	options.page_size_bytes = TEST_PAGE_SIZE;
	options.order = r->order;
	options.cache_bytes = 1 << 20;
	fault_pair_open(&r->pair, &r->shape->limits);
	r->healthy = create_db(r->pair.healthy, "db", &options);
	set_up_pages(r);
	r->faulty = open_db(r->pair.faulty, "db");
}

static void close_run(run *r)
{
	pgs_db_close(r->healthy);
	pgs_db_close(r->faulty);
	fault_pair_close(&r->pair);
}

static int read_many(const shape *s, pgs_txn *txn)
{
	static uint8_t bytes[256][TEST_PAGE_SIZE];
	uint8_t expected[TEST_PAGE_SIZE];
	uint64_t pages[256];
	void *buffers[256];
	for (size_t i = 0; i < s->read_count; i++) {
		pages[i] = i * s->read_step;
		buffers[i] = bytes[i];
	}
	int result = pgs_read_many(txn, pages, s->read_count, buffers);
	for (size_t i = 0; result == PGS_OK && i < s->read_count; i++) {
		fill_page(expected, old_seed(s, pages[i]));
		assert_memory_equal(bytes[i], expected, sizeof expected);
	}
	return result;
}

static int change_things(const shape *s, pgs_txn *txn)
{
	int result = PGS_OK;
	if (s->read_count > 10)
		result = read_many(s, txn);
	for (uint64_t i = 0; s->read_count <= 10 && result == PGS_OK && i < s->read_count; i++)
		result = read_seed(txn, i * s->read_step, old_seed(s, i * s->read_step));
	if (result == PGS_OK && s->truncate_to != NO_TRUNCATION)
		result = pgs_truncate(txn, s->truncate_to);
	for (uint64_t i = 0; result == PGS_OK && i < s->write_count; i++)
		result = write_seed(txn, s->write_first + i * s->write_step,
				    new_seed(s, s->write_first + i * s->write_step));
	if (result == PGS_OK && s->attrs) {
		size_t size;
		char value[8];
		result = pgs_attr_get(txn, "kept", 4, value, sizeof value, &size);
		if (result == PGS_OK)
			result = pgs_attr_set(txn, "kept", 4, "new", 3);
		if (result == PGS_OK)
			result = pgs_attr_set(txn, "removed", 7, NULL, 0);
	}
	return result;
}

/* The transaction, through the faults. */
static int commit_through_faults(run *r, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_commit_options commit = PGS_COMMIT_OPTIONS_INIT;
	pgs_txn *txn;
	options.write = true;
	options.timeout_ms = r->pair.kind >= ALL_LOST ? 20 : 2000;
	commit.note = "tested";
	commit.note_size = 6;
	commit.token = &r->token;
	r->pair.armed = true;
	int result = pgs_begin(&txn, r->faulty, &options, err);
	if (result == PGS_OK) {
		result = change_things(r->shape, txn);
		if (result == PGS_OK) {
			result = pgs_commit(txn, &commit, NULL, err);
		} else {
			*err = *pgs_txn_error(txn);
			pgs_abort(txn);
		}
	}
	r->pair.armed = false;
	return result;
}

static bool ask_status(run *r)
{
	int status = 0, again = 0;
	uint64_t revision = 0, revision_again = 0;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_commit_status(r->healthy, &r->token, &status, &revision, &err), PGS_OK, &err, "status");
	expect_code(pgs_commit_status(r->healthy, &r->token, &again, &revision_again, &err), PGS_OK, &err, "status");
	assert_int_equal(status, again);
	assert_int_equal(revision, revision_again);
	assert_true(status == PGS_COMMIT_HAPPENED || status == PGS_COMMIT_NOT_HAPPENED);
	return status == PGS_COMMIT_HAPPENED;
}

static int count_note(void *ctx, const pgs_log_entry *entry)
{
	size_t *count = ctx;
	*count += entry->note_size == 6 && memcmp(entry->note, "tested", 6) == 0;
	return 0;
}

static void check_state(run *r, pgs_db *db, bool happened)
{
	const shape *s = r->shape;
	pgs_txn *txn;
	size_t notes = 0, size = 0;
	char value[8] = "";
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_begin(&txn, db, NULL, &err), PGS_OK, &err, "begin");
	for (uint64_t i = 0; i < last_page(s); i++)
		expect_code(read_seed(txn, i, happened ? new_seed(s, i) : old_seed(s, i)), PGS_OK, pgs_txn_error(txn),
			    "read");
	uint64_t extent, old_extent = s->old_packs ? BUSY_PAGE + 151 : BUSY_PAGE + 1;
	assert_int_equal(pgs_page_count(txn, &extent), PGS_OK);
	if (happened && s->truncate_to != NO_TRUNCATION)
		old_extent = s->write_first + (s->write_count - 1) * s->write_step + 1;
	assert_int_equal(extent, old_extent);
	assert_int_equal(pgs_attr_get(txn, "kept", 4, value, sizeof value, &size), PGS_OK);
	assert_memory_equal(value, happened && s->attrs ? "new" : "old", 3);
	assert_int_equal(pgs_attr_get(txn, "removed", 7, value, sizeof value, &size),
			 happened && s->attrs ? PGS_ENOTFOUND : PGS_OK);
	pgs_abort(txn);
	expect_code(pgs_log(db, NULL, count_note, &notes, &err), PGS_OK, &err, "log");
	assert_int_equal(notes, happened ? 1 : 0);
}

static void check_with_new_handle(run *r, bool happened)
{
	pgs_store *store = server_open(&r->pair.server, NULL, NULL);
	pgs_db *db = open_db(store, "db");
	pgs_error err = PGS_ERROR_INIT;
	check_state(r, db, happened);
	expect_code(pgs_verify(db, NULL, NULL, &err), PGS_OK, &err, "verify");
	pgs_db_close(db);
	pgs_close(store);
}

static void check_further_commit(run *r)
{
	pgs_txn *txn = begin_write(r->faulty);
	assert_int_equal(write_seed(txn, 6001, 256 * 4242), PGS_OK);
	commit_ok(txn);
	txn = begin_write(r->healthy);
	assert_int_equal(read_seed(txn, 6001, 256 * 4242), PGS_OK);
	pgs_abort(txn);
}

/* Returns false when the fault came after the end. */
static bool try_fault(run *r)
{
	pgs_error err = PGS_ERROR_INIT;
	failing_alloc_install();
	open_run(r);
	int result = commit_through_faults(r, &err);
	bool reached = fault_pair_reached(&r->pair), happened = result == PGS_OK;
	pgs_fault_resume(r->pair.fault);
	fault_pair_expect(&r->pair, result, &err);
	if (r->deliver_first)
		pgs_fault_deliver(r->pair.fault);
	if (result == PGS_EUNKNOWN)
		happened = ask_status(r);
	check_state(r, r->healthy, happened);
	pgs_fault_deliver(r->pair.fault);
	check_state(r, r->healthy, happened);
	check_state(r, r->faulty, happened);
	check_with_new_handle(r, happened);
	fault_pair_remove_lock(&r->pair, r->healthy);
	check_further_commit(r);
	close_run(r);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
	return reached;
}

static char where[200];

static int say_where(void **state)
{
	(void)state;
	if (where[0])
		fprintf(stderr, "# it was: %s\n", where);
	failing_alloc_uninstall();
	return 0;
}

static void sweep(uint32_t order)
{
	size_t runs = 0;
	const char *only = getenv("PGS_TEST_SHAPE");
	bool thorough = getenv("PGS_TEST_LONG") != NULL;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		for (fault_plan kind = 0; kind < FAULT_PLANS; kind++) {
			if ((only && strcmp(only, shapes[i].name) != 0) ||
			    (shapes[i].slow && kind >= ALL_LOST && kind != DELAY_THEN_STOP && !thorough) ||
			    (order == PGS_ORDER_COUNTER && (shapes[i].slow || shapes[i].old_count > 100) && !thorough))
				continue;
			bool reached = true;
			for (uint64_t at = 1; reached; at++)
				for (int deliver_first = 0; deliver_first < 2; deliver_first++) {
					run r = {.pair = {.kind = kind, .at = at},
						 .shape = &shapes[i],
						 .order = order,
						 .deliver_first = deliver_first};
					if (deliver_first && (kind == ONE_ERROR || kind == ONE_LOST || kind == STOP))
						continue;
					snprintf(where, sizeof where, "%s: %s at call %u%s", shapes[i].name,
						 fault_plan_names[kind], (unsigned)at,
						 deliver_first ? ", delivered before asking" : "");
					reached = try_fault(&r);
					runs++;
				}
		}
	where[0] = '\0';
	assert_true(runs > 0);
}

static void test_commit__is_once_or_never_through_any_fault(void **state)
{
	(void)state;
	sweep(PGS_ORDER_REVISION);
}

static void test_commit__is_once_or_never_with_a_counter(void **state)
{
	(void)state;
	sweep(PGS_ORDER_COUNTER);
}

/* --- random faults --------------------------------------------------------------------- */

#define ACCOUNTS 12
#define TRANSFERS 150
#define START 1000

typedef struct acks {
	uint32_t seen[TRANSFERS]; /* times in the log */
} acks;

static int count_transfer(void *ctx, const pgs_log_entry *entry)
{
	acks *a = ctx;
	uint32_t number;
	if (entry->note_size == sizeof number) {
		memcpy(&number, entry->note, sizeof number);
		assert_true(number < TRANSFERS);
		a->seen[number]++;
	}
	return 0;
}

static int change_balance(pgs_txn *txn, uint64_t page_no, int64_t by)
{
	uint8_t page[TEST_PAGE_SIZE];
	int64_t balance;
	int result = pgs_read(txn, page_no, page);
	memcpy(&balance, page, sizeof balance);
	balance += by;
	memcpy(page, &balance, sizeof balance);
	return result == PGS_OK ? pgs_write(txn, page_no, page) : result;
}

/* Returns the commit's result, or that of what came before it. */
static int try_transfer(run *r, uint32_t number, uint64_t random)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_commit_options commit = PGS_COMMIT_OPTIONS_INIT;
	pgs_txn *txn;
	uint64_t from = random % ACCOUNTS, to = (from + 1 + random / 16 % (ACCOUNTS - 1)) % ACCOUNTS;
	options.write = true;
	options.timeout_ms = 30;
	commit.note = &number;
	commit.note_size = sizeof number;
	commit.token = &r->token;
	int result = pgs_begin(&txn, r->faulty, &options, NULL);
	if (result != PGS_OK)
		return result;
	result = change_balance(txn, from, -5);
	if (result == PGS_OK)
		result = change_balance(txn, to, 5);
	if (result == PGS_OK)
		return pgs_commit(txn, &commit, NULL, NULL);
	pgs_abort(txn);
	return result;
}

static void run_bank_with_faults(uint64_t seed, uint32_t order)
{
	static const shape plain = {.name = "bank", .old_count = 0, .truncate_to = NO_TRUNCATION};
	run r = {.shape = &plain, .order = order};
	pgs_fault_options faults = PGS_FAULT_OPTIONS_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	acks log = {{0}};
	bool expected[TRANSFERS] = {false};
	uint64_t random = seed;
	size_t unknown = 0;
	faults.seed = seed;
	faults.error_per_million = 60000;
	faults.lose_reply_per_million = 300000;
	options.page_size_bytes = TEST_PAGE_SIZE;
	options.order = order;
	assert_int_equal(pgs_fault_new(&r.pair.fault, &faults, NULL), PGS_OK);
	server_start(&r.pair.server, NULL);
	r.pair.healthy = server_open(&r.pair.server, NULL, NULL);
	r.healthy = create_db(r.pair.healthy, "db", &options);
	while (!r.pair.faulty) {
		pgs_kv *kv;
		pgs_blob *blob;
		assert_int_equal(pgs_kv_memory_share(&kv, r.pair.server.kv, NULL), PGS_OK);
		assert_int_equal(pgs_blob_memory_share(&blob, r.pair.server.blob, NULL), PGS_OK);
		assert_int_equal(pgs_fault_wrap_kv(&kv, r.pair.fault, kv, NULL), PGS_OK);
		assert_int_equal(pgs_fault_wrap_blob(&blob, r.pair.fault, blob, NULL), PGS_OK);
		pgs_open_with(&r.pair.faulty, kv, blob, NULL, NULL);
	}
	while (pgs_db_open(&r.faulty, r.pair.faulty, "db", 2, NULL, NULL) != PGS_OK)
		;
	pgs_txn *txn = begin_write(r.healthy);
	for (uint64_t i = 0; i < ACCOUNTS; i++) {
		uint8_t page[TEST_PAGE_SIZE];
		int64_t start = START;
		fill_page(page, (i + 1) * 256);
		memcpy(page, &start, sizeof start);
		assert_int_equal(pgs_write(txn, i, page), PGS_OK);
	}
	commit_ok(txn);
	for (uint32_t number = 0; number < TRANSFERS; number++) {
		random = random * 6364136223846793005 + 1442695040888963407;
		int result = try_transfer(&r, number, random >> 20);
		expected[number] = result == PGS_OK;
		if (result == PGS_EUNKNOWN) {
			expected[number] = ask_status(&r);
			unknown++;
		}
	}
	assert_int_equal(pgs_log(r.healthy, NULL, count_transfer, &log, NULL), PGS_OK);
	size_t done = 0;
	for (uint32_t i = 0; i < TRANSFERS; i++) {
		if (log.seen[i] != expected[i])
			fail_msg("seed %u: transfer %u is %u times in the log", (unsigned)seed, i, log.seen[i]);
		done += log.seen[i];
	}
	assert_true(done > TRANSFERS / 3);
	int64_t total = 0;
	txn = begin_write(r.healthy);
	for (uint64_t i = 0; i < ACCOUNTS; i++) {
		uint8_t page[TEST_PAGE_SIZE];
		int64_t balance;
		assert_int_equal(pgs_read(txn, i, page), PGS_OK);
		memcpy(&balance, page, sizeof balance);
		total += balance;
	}
	pgs_abort(txn);
	assert_int_equal(total, ACCOUNTS * START);
	close_run(&r);
}

static void test_commit__keeps_the_total_through_random_faults(void **state)
{
	uint64_t seeds = getenv("PGS_TEST_LONG") ? 200 : 10;
	(void)state;
	for (uint64_t seed = 1; seed <= seeds; seed++)
		run_bank_with_faults(seed, seed % 2 ? PGS_ORDER_REVISION : PGS_ORDER_COUNTER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_commit__keeps_the_total_through_random_faults),
		cmocka_unit_test_teardown(test_commit__is_once_or_never_through_any_fault, say_where),
		cmocka_unit_test_teardown(test_commit__is_once_or_never_with_a_counter, say_where),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
