/* Servers killed (-9) and started again while a bank is at work: the leader of three etcds every two seconds for a
 * minute; the S3 server in the midst of large commits. What was acknowledged is in the changelog, once; what was
 * unknown is settled by pgs_commit_status(); totals are right in every snapshot; nobody opens anything anew. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define RUN_MS 60000
#define KILL_EVERY_MS 2000
#define TIMEOUT_MS 20000
#define GAP_MAX_MS 20000 /* without a commit by anybody; what was longest is printed */
#define STORES 2
#define WRITERS 4
#define ACCOUNTS 32
#define START 1000
#define OUTCOMES_MAX 200000

/* --- what became of commits ------------------------------------------------------------ */

typedef struct outcome {
	bool happened;
	uint64_t revision;
} outcome;

typedef struct worker {
	pgs_db *db;
	unsigned number;
	atomic_bool *stop;
	uint64_t page_first; /* of large commits */
	outcome *outcomes;   /* by the number in the note */
	size_t count;
	uint64_t committed, unknown, conflicts, failed, snapshots, longest_ms;
	char failure[600];
} worker;

/* When anybody's last commit was acknowledged, and the longest time without one. */
static _Atomic uint64_t acknowledged_ms, longest_gap_ms;

static void note_progress(void)
{
	uint64_t now = pgs__now_ms(), before = atomic_exchange(&acknowledged_ms, now);
	uint64_t gap = before && now > before ? now - before : 0, longest = longest_gap_ms;
	while (gap > longest && !atomic_compare_exchange_weak(&longest_gap_ms, &longest, gap))
		;
}

static void give_up(worker *w, const char *what, const pgs_error *err)
{
	if (!w->failure[0])
		snprintf(w->failure, sizeof w->failure, "worker %u: %s: %s %s", w->number, what, pgs_error_name(err->code),
			err->message);
}

/* What may happen when servers are killed, and says that nothing was applied. */
static bool is_passing(int result)
{
	return result == PGS_EIO || result == PGS_ETIMEOUT || result == PGS_EBUSY;
}

static uint64_t rest_of(worker *w, const char *what, uint64_t started)
{
	uint64_t took = pgs__now_ms() - started;
	if (took > w->longest_ms)
		w->longest_ms = took;
	if (took > TIMEOUT_MS + SERVER_SLACK_MS && !w->failure[0])
		snprintf(w->failure, sizeof w->failure, "worker %u: %s took %llu ms", w->number, what,
			(unsigned long long)took);
	return took;
}

static void ask_until_settled(worker *w, const pgs_commit_token *token, outcome *o)
{
	pgs_error err = PGS_ERROR_INIT;
	int status = 0, result;
	do {
		uint64_t started = pgs__now_ms();
		result = pgs_commit_status(w->db, token, &status, &o->revision, &err);
		rest_of(w, "pgs_commit_status", started);
	} while (is_passing(result) || result == PGS_EUNKNOWN);
	if (result != PGS_OK)
		give_up(w, "pgs_commit_status", &err);
	o->happened = status == PGS_COMMIT_HAPPENED;
}

/* Commits with a note "worker-number", and writes down what became of it. */
static int commit_noted(worker *w, pgs_txn *txn)
{
	char note[32];
	pgs_commit_token token;
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	outcome *o = &w->outcomes[w->count];
	snprintf(note, sizeof note, "%u-%zu", w->number, w->count++);
	options.note = note;
	options.note_size = strlen(note);
	options.token = &token;
	uint64_t started = pgs__now_ms();
	int result = pgs_commit(txn, &options, &o->revision, &err);
	rest_of(w, "pgs_commit", started);
	o->happened = result == PGS_OK;
	if (result == PGS_EUNKNOWN)
		ask_until_settled(w, &token, o);
	w->unknown += result == PGS_EUNKNOWN;
	w->conflicts += result == PGS_ECONFLICT;
	w->failed += is_passing(result);
	w->committed += o->happened;
	if (o->happened)
		note_progress();
	if (result != PGS_OK && result != PGS_EUNKNOWN && result != PGS_ECONFLICT && !is_passing(result))
		give_up(w, "pgs_commit", &err);
	return result;
}

/* NULL: not now. */
static pgs_txn *begin_timed(worker *w, bool write)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	options.write = write;
	uint64_t started = pgs__now_ms();
	int result = pgs_begin(&txn, w->db, &options, &err);
	rest_of(w, "pgs_begin", started);
	w->failed += is_passing(result);
	if (result != PGS_OK && !is_passing(result))
		give_up(w, "pgs_begin", &err);
	return txn;
}

static bool note_read(worker *w, const pgs_txn *txn, int result, uint64_t started)
{
	rest_of(w, "a read", started);
	w->failed += is_passing(result);
	if (result != PGS_OK && !is_passing(result))
		give_up(w, "a read", pgs_txn_error(txn));
	return result == PGS_OK;
}

/* --- the bank ----------------------------------------------------------------------------- */

static int64_t balance_of(const uint8_t *page)
{
	int64_t balance;
	memcpy(&balance, page, sizeof balance);
	return balance;
}

static bool change(worker *w, pgs_txn *txn, uint64_t page_no, int64_t by)
{
	uint8_t page[TEST_PAGE_SIZE];
	uint64_t started = pgs__now_ms();
	if (!note_read(w, txn, pgs_read(txn, page_no, page), started))
		return false;
	int64_t balance = balance_of(page) + by;
	memcpy(page, &balance, sizeof balance);
	return pgs_write(txn, page_no, page) == PGS_OK;
}

static void transfer(worker *w, uint64_t random)
{
	uint64_t from = random % ACCOUNTS, to = (from + 1 + random / 64 % (ACCOUNTS - 1)) % ACCOUNTS;
	pgs_txn *txn = begin_timed(w, true);
	if (!txn)
		return;
	if (change(w, txn, from, -7) && change(w, txn, to, 7))
		commit_noted(w, txn);
	else
		pgs_abort(txn);
}

static void check_total(worker *w)
{
	static _Thread_local uint8_t pages[ACCOUNTS][TEST_PAGE_SIZE];
	uint64_t numbers[ACCOUNTS], started = pgs__now_ms();
	void *dst[ACCOUNTS];
	int64_t total = 0;
	for (uint64_t i = 0; i < ACCOUNTS; i++) {
		numbers[i] = i;
		dst[i] = pages[i];
	}
	pgs_txn *txn = begin_timed(w, false);
	if (txn && note_read(w, txn, pgs_read_many(txn, numbers, ACCOUNTS, dst), started)) {
		for (uint64_t i = 0; i < ACCOUNTS; i++)
			total += balance_of(pages[i]);
		w->snapshots++;
		if (total != ACCOUNTS * START && !w->failure[0])
			snprintf(w->failure, sizeof w->failure, "a snapshot holds %lld", (long long)total);
	}
	pgs_abort(txn);
}

static void *run_writer(void *arg)
{
	worker *w = arg;
	uint64_t random = w->number * 0x9e3779b97f4a7c15 + 12345;
	while (!*w->stop && !w->failure[0] && w->count < OUTCOMES_MAX) {
		random = random * 6364136223846793005 + 1442695040888963407;
		transfer(w, random >> 11);
		if (random >> 62 == 0)
			check_total(w);
	}
	return NULL;
}

static void open_accounts(pgs_db *db)
{
	uint8_t page[TEST_PAGE_SIZE];
	pgs_txn *txn = begin_write(db);
	for (uint64_t i = 0; i < ACCOUNTS; i++) {
		int64_t start = START;
		fill_page(page, i + 1);
		memcpy(page, &start, sizeof start);
		assert_int_equal(pgs_write(txn, i, page), PGS_OK);
	}
	commit_ok(txn);
}

/* --- large commits ------------------------------------------------------------------------------ */

#define LARGE_PAGES 512 /* 2 MiB: sorted files */

/* Page n of commit k of worker w. */
static uint64_t large_seed(const worker *w, size_t k, uint64_t n)
{
	return ((uint64_t)(w->number + 1) << 40 | (uint64_t)k << 20 | (n + 1)) << 8;
}

static void commit_large(worker *w)
{
	size_t k = w->count;
	pgs_txn *txn = begin_timed(w, true);
	if (!txn)
		return;
	for (uint64_t n = 0; n < LARGE_PAGES; n++) {
		uint8_t page[TEST_PAGE_SIZE];
		fill_page(page, large_seed(w, k, n));
		if (pgs_write(txn, w->page_first + n, page) != PGS_OK)
			give_up(w, "pgs_write", pgs_txn_error(txn));
	}
	commit_noted(w, txn);
}

static void *run_large_writer(void *arg)
{
	worker *w = arg;
	while (!*w->stop && !w->failure[0] && w->count < OUTCOMES_MAX) {
		commit_large(w);
		pgs__sleep_ms(20, 0);
	}
	return NULL;
}

/* What the last commit that happened wrote is there, each page of it. */
static void check_large(pgs_db *db, const worker *w)
{
	size_t last = w->count;
	while (last > 0 && !w->outcomes[last - 1].happened)
		last--;
	assert_true(last > 0);
	pgs_txn *txn;
	assert_int_equal(pgs_begin(&txn, db, NULL, NULL), PGS_OK);
	for (uint64_t n = 0; n < LARGE_PAGES; n++)
		assert_int_equal(read_seed(txn, w->page_first + n, large_seed(w, last - 1, n)), PGS_OK);
	pgs_abort(txn);
}

/* --- the changelog afterwards ------------------------------------------------------------------ */

typedef struct audit {
	worker *workers;
	size_t worker_count, found;
	unsigned char *seen[WRITERS];
} audit;

static int audit_entry(void *ctx, const pgs_log_entry *entry)
{
	audit *a = ctx;
	unsigned number;
	size_t which;
	char note[32] = "";
	if (entry->note_size == 0 || entry->note_size >= sizeof note)
		return 0;
	memcpy(note, entry->note, entry->note_size);
	assert_int_equal(sscanf(note, "%u-%zu", &number, &which), 2);
	assert_true(number < a->worker_count && which < a->workers[number].count);
	const outcome *o = &a->workers[number].outcomes[which];
	if (a->seen[number][which]++)
		fail_msg("commit %s is in the changelog twice", note);
	if (!o->happened)
		fail_msg("commit %s is in the changelog, and was said not to have happened", note);
	if (o->revision != entry->revision)
		fail_msg("commit %s is at %llu, and was said to be at %llu", note, (unsigned long long)entry->revision,
			(unsigned long long)o->revision);
	a->found++;
	return 0;
}

static void check_changelog(pgs_db *db, worker *workers, size_t count)
{
	audit a = {.workers = workers, .worker_count = count};
	pgs_error err = PGS_ERROR_INIT;
	size_t happened = 0;
	for (size_t i = 0; i < count; i++) {
		a.seen[i] = calloc(workers[i].count + 1, 1);
		happened += (size_t)workers[i].committed;
	}
	expect_code(pgs_log(db, NULL, audit_entry, &a, &err), PGS_OK, &err, "pgs_log");
	assert_int_equal(a.found, happened);
	for (size_t i = 0; i < count; i++)
		free(a.seen[i]);
}

static void check_all(pgs_db *db)
{
	pgs_verify_options options = PGS_VERIFY_OPTIONS_INIT;
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.deep = true;
	expect_code(pgs_verify(db, &options, &report, &err), PGS_OK, &err, "pgs_verify");
}

/* --- running --------------------------------------------------------------------------------------- */

typedef struct machine {
	pgs_store *store;
	pgs_db *db;
} machine;

typedef struct run {
	etcd_server *etcd;
	s3_server *s3;
	machine machines[STORES];
	worker workers[WRITERS];
	pthread_t threads[WRITERS];
	size_t count;
	atomic_bool stop;
} run;

static void start_run(run *r, const char *root, size_t members, size_t workers)
{
	char url[SERVER_URL_SIZE];
	r->etcd = etcd_start(&(etcd_setup){.members = members});
	r->s3 = s3_start_durable();
	assert_true(r->etcd && r->s3);
	server_store_url(url, etcd_endpoints(r->etcd), root, s3_endpoint(r->s3), "");
	for (size_t i = 0; i < STORES; i++) {
		machine *m = &r->machines[i];
		m->store = server_store_open(url, TIMEOUT_MS);
		m->db = i ? open_db(m->store, "bank") : create_db(m->store, "bank", NULL);
	}
	r->count = workers;
	atomic_store(&acknowledged_ms, 0);
	atomic_store(&longest_gap_ms, 0);
	for (unsigned i = 0; i < workers; i++)
		r->workers[i] = (worker){.db = r->machines[i % STORES].db,
			.number = i,
			.stop = &r->stop,
			.page_first = 1000 + i * LARGE_PAGES,
			.outcomes = calloc(OUTCOMES_MAX, sizeof(outcome))};
}

static void start_workers(run *r, void *(*body)(void *))
{
	for (size_t i = 0; i < r->count; i++)
		assert_int_equal(pthread_create(&r->threads[i], NULL, body, &r->workers[i]), 0);
}

static bool any_failure(const run *r)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->workers[i].failure[0])
			return true;
	return false;
}

static void join_workers(run *r, const char *what, unsigned kills)
{
	uint64_t committed = 0, unknown = 0, conflicts = 0, failed = 0, snapshots = 0, longest = 0;
	r->stop = true;
	for (size_t i = 0; i < r->count; i++) {
		const worker *w = &r->workers[i];
		pthread_join(r->threads[i], NULL);
		committed += w->committed;
		unknown += w->unknown;
		conflicts += w->conflicts;
		failed += w->failed;
		snapshots += w->snapshots;
		longest = w->longest_ms > longest ? w->longest_ms : longest;
	}
	note_progress();
	print_message("%s: %u kills, %llu commits, %llu of them unknown at first, %llu conflicts, %llu calls failed, %llu "
		      "snapshots; longest call %llu ms, longest time without a commit %llu ms\n",
		what, kills, (unsigned long long)committed, (unsigned long long)unknown, (unsigned long long)conflicts,
		(unsigned long long)failed, (unsigned long long)snapshots, (unsigned long long)longest,
		(unsigned long long)longest_gap_ms);
	for (size_t i = 0; i < r->count; i++)
		if (r->workers[i].failure[0])
			fail_msg("%s", r->workers[i].failure);
	assert_true(committed > 0);
}

static void end_run(run *r)
{
	for (size_t i = 0; i < r->count; i++)
		free(r->workers[i].outcomes);
	for (size_t i = 0; i < STORES; i++) {
		timed t = timed_begin("pgs_close", 1000);
		pgs_db_close(r->machines[i].db);
		pgs_close(r->machines[i].store);
		timed_end(&t);
	}
	etcd_stop(r->etcd);
	s3_stop(r->s3);
}

/* --- tests --------------------------------------------------------------------------------------------- */

static void test_bank__survives_its_leaders(void **state)
{
	static run r;
	unsigned kills = 0;
	(void)state;
	start_run(&r, "leaders", 3, WRITERS);
	open_accounts(r.machines[0].db);
	start_workers(&r, run_writer);
	uint64_t end = pgs__now_ms() + RUN_MS;
	for (uint64_t next = pgs__now_ms() + KILL_EVERY_MS; pgs__now_ms() < end && !any_failure(&r);
		next += KILL_EVERY_MS) {
		pgs__sleep_ms(next > pgs__now_ms() ? (uint32_t)(next - pgs__now_ms()) : 0, 0);
		size_t leader = etcd_leader(r.etcd);
		if (leader == SIZE_MAX)
			continue; /* none yet: nobody to kill */
		etcd_kill(r.etcd, leader);
		kills++;
		assert_true(etcd_restart(r.etcd, leader));
	}
	join_workers(&r, "leaders", kills);
	assert_true(kills >= 5);
	assert_true(longest_gap_ms <= GAP_MAX_MS); /* the two others of three were there all the time */
	check_total(&r.workers[0]);
	assert_string_equal(r.workers[0].failure, "");
	check_changelog(r.machines[1].db, r.workers, r.count);
	check_all(r.machines[0].db);
	end_run(&r);
}

static void test_large_commits__survive_their_object_store(void **state)
{
	static run r;
	unsigned kills = 0;
	(void)state;
	start_run(&r, "objects", 1, 2);
	start_workers(&r, run_large_writer);
	uint64_t end = pgs__now_ms() + 15000;
	while ((pgs__now_ms() < end || kills < 5) && !any_failure(&r)) {
		pgs__sleep_ms(700 + 137 * (kills % 5), 0);
		s3_kill(r.s3);
		kills++;
		pgs__sleep_ms(kills % 3 ? 50 : 1200, 0); /* the shorter ones, commits wait out; not the longer ones */
		assert_true(s3_restart(r.s3));
	}
	join_workers(&r, "objects", kills);
	check_changelog(r.machines[1].db, r.workers, r.count);
	for (size_t i = 0; i < r.count; i++)
		check_large(r.machines[i].db, &r.workers[i]);
	check_all(r.machines[0].db);
	end_run(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_large_commits__survive_their_object_store),
		cmocka_unit_test(test_bank__survives_its_leaders),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
