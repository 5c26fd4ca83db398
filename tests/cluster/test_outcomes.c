/* Commits whose outcome is not known, on real servers: between the library and three etcds are proxies that cut,
 * swallow, halve, delay and refuse at random, and members that stand still and go on later with what they were sent.
 *
 * Each commit has a number in its note. What was told of it, at once or by pgs_commit_status(), is what the changelog
 * shows at the end: none is there twice, none is lost, and "not happened" stays so. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore/backends.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/stores.h"
#include "support/tcp_proxy.h"
#include "support/testing.h"
#include "util/clock.h"

#define MEMBERS 3
#define STORES 2
#define WRITERS 6
#define COMMITS_MAX 100000
#define COUNTERS 3 /* pages, one of which every commit reads, and raises */
#define TIMEOUT_MS 1500
#define ANSWER_MS 250
#define PATIENT_MS 60000

typedef enum fate { OPEN, HAPPENED, NOT_HAPPENED } fate;

typedef struct record {
	pgs_commit_token token;
	fate told;
	bool unknown; /* at first */
	uint64_t revision;
	bool logged;
} record;

typedef struct writer {
	pgs_db *db, *clean; /* through the proxies; not */
	unsigned number;
	uint64_t random;
	record *records;
	size_t count, unknown, happened, failed;
	char failure[500];
} writer;

typedef struct cluster {
	etcd_server *etcd;
	s3_server *s3;
	tcp_proxy *proxies[MEMBERS];
	pgs_store *stores[STORES], *clean_store;
	pgs_db *dbs[STORES], *clean;
	writer writers[WRITERS];
} cluster;

static atomic_bool stop;
static atomic_size_t unknown_so_far;

static uint64_t draw(uint64_t *random, uint64_t below)
{
	*random = *random * 6364136223846793005 + 1442695040888963407;
	return (*random >> 20) % below;
}

/* --- committing ------------------------------------------------------------------------- */

static void give_up(writer *w, const char *what, const pgs_error *err)
{
	if (!w->failure[0])
		snprintf(w->failure, sizeof w->failure, "writer %u: %s: %s %s", w->number, what, pgs_error_name(err->code),
			err->message);
}

/* Says that nothing was applied. */
static bool passes(int result)
{
	return result == PGS_EIO || result == PGS_ETIMEOUT || result == PGS_EBUSY || result == PGS_ECONFLICT;
}

static bool settle(pgs_db *db, record *r, pgs_error *err)
{
	uint64_t revision = 0;
	int status = 0, result = pgs_commit_status(db, &r->token, &status, &revision, err);
	if (result == PGS_OK) {
		r->told = status == PGS_COMMIT_HAPPENED ? HAPPENED : NOT_HAPPENED;
		r->revision = revision;
	}
	return result == PGS_OK || result == PGS_EUNKNOWN || passes(result);
}

/* Some are asked about at once, here or there; the rest at the end. */
static void ask(writer *w, record *r)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t die = draw(&w->random, 3);
	if (die && !settle(die == 1 ? w->db : w->clean, r, &err))
		give_up(w, "pgs_commit_status", &err);
}

static void commit(writer *w, pgs_txn *txn)
{
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	char note[32];
	record *r = &w->records[w->count];
	snprintf(note, sizeof note, "%u-%zu", w->number, w->count++);
	options.note = note;
	options.note_size = strlen(note);
	options.token = &r->token;
	int result = pgs_commit(txn, &options, &r->revision, &err);
	r->told = result == PGS_OK ? HAPPENED : NOT_HAPPENED;
	r->unknown = result == PGS_EUNKNOWN;
	if (r->unknown) {
		r->told = OPEN;
		ask(w, r);
	} else if (result != PGS_OK && !passes(result)) {
		give_up(w, "pgs_commit", &err);
	}
	w->unknown += r->unknown;
	unknown_so_far += r->unknown;
	w->failed += passes(result);
}

static void count_one(writer *w)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[TEST_PAGE_SIZE];
	uint64_t counter;
	pgs_txn *txn;
	uint64_t page_no = w->number % COUNTERS;
	options.write = true;
	options.timeout_ms = draw(&w->random, 4) ? 30 + (uint32_t)draw(&w->random, 300) : TIMEOUT_MS; /* the library asks on */
	int result = pgs_begin(&txn, w->db, &options, &err);
	if (result != PGS_OK) {
		if (!passes(result))
			give_up(w, "pgs_begin", &err);
		return;
	}
	result = pgs_read(txn, page_no, page);
	if (result == PGS_OK) {
		memcpy(&counter, page, sizeof counter);
		counter++;
		memcpy(page, &counter, sizeof counter);
		if (pgs_write(txn, page_no, page) != PGS_OK ||
			write_seed(txn, COUNTERS + w->number, counter * 256) != PGS_OK)
			give_up(w, "pgs_write", pgs_txn_error(txn));
		commit(w, txn);
		return;
	}
	if (!passes(result))
		give_up(w, "pgs_read", pgs_txn_error(txn));
	pgs_abort(txn);
}

static void *run_writer(void *arg)
{
	writer *w = arg;
	while (!stop && !w->failure[0] && w->count < COMMITS_MAX)
		count_one(w);
	return NULL;
}

/* --- trouble ------------------------------------------------------------------------------- */

static void trouble(cluster *c, uint64_t *random)
{
	static const proxy_mode modes[] = {
		PROXY_CUT, PROXY_HALF, PROXY_SWALLOW, PROXY_SWALLOW, PROXY_SWALLOW, PROXY_DELAY, PROXY_REFUSE};
	size_t member = draw(random, MEMBERS);
	uint64_t die = draw(random, 10);
	if (die == 0) { /* what it is sent meanwhile comes when its sender has given up, or not at all */
		etcd_freeze(c->etcd, member);
		pgs__sleep_ms(ANSWER_MS + (uint32_t)draw(random, 600), 0);
		etcd_thaw(c->etcd, member);
	} else if (die == 1) {
		tcp_proxy_cut_all(c->proxies[member]);
	} else {
		tcp_proxy_set(c->proxies[member], modes[draw(random, 7)], 1 + (int)draw(random, 12));
	}
	pgs__sleep_ms(1 + (uint32_t)draw(random, 20), 0);
}

/* For as long as there is nothing to be asked about, longer. */
static void make_trouble(cluster *c)
{
	const char *given = getenv("PGS_TEST_SEED");
	uint64_t random = given ? strtoull(given, NULL, 0) : (uint64_t)pgs__unix_ms();
	uint64_t end = pgs__now_ms() + (getenv("PGS_TEST_LONG") ? 120000 : 10000);
	print_message("PGS_TEST_SEED=%llu\n", (unsigned long long)random);
	while (pgs__now_ms() < end || (!unknown_so_far && pgs__now_ms() < end + 60000))
		trouble(c, &random);
}

/* --- the cluster ----------------------------------------------------------------------------- */

static pgs_store *open_store(cluster *c, const char *endpoints, uint32_t answer_ms, uint32_t timeout_ms)
{
	pgs_etcd_options etcd = PGS_ETCD_OPTIONS_INIT;
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_store *store;
	etcd.answer_timeout_ms = answer_ms;
	options.timeout_ms = timeout_ms;
	expect_code(pgs_kv_etcd_open(&kv, endpoints, "outcomes", &etcd, &err), PGS_OK, &err, "etcd");
	pgs_blob *blob = s3_blob(c->s3, "outcomes", NULL);
	assert_non_null(blob);
	expect_code(pgs_open_with(&store, kv, blob, &options, &err), PGS_OK, &err, "pgs_open_with");
	return store;
}

static void start_cluster(cluster *c)
{
	char endpoints[MEMBERS * 24] = "";
	c->etcd = etcd_start(&(etcd_setup){.members = MEMBERS});
	c->s3 = s3_start(false);
	assert_true(c->etcd && c->s3);
	for (size_t i = 0; i < MEMBERS; i++) {
		c->proxies[i] = tcp_proxy_start(etcd_port(c->etcd, i));
		snprintf(endpoints + strlen(endpoints), sizeof endpoints - strlen(endpoints), "%s127.0.0.1:%u", i ? "," : "",
			tcp_proxy_port(c->proxies[i]));
	}
	c->clean_store = open_store(c, etcd_endpoints(c->etcd), 0, PATIENT_MS);
	c->clean = create_db(c->clean_store, "db", NULL);
	for (size_t i = 0; i < STORES; i++) {
		c->stores[i] = open_store(c, endpoints, ANSWER_MS, TIMEOUT_MS);
		c->dbs[i] = open_db(c->stores[i], "db");
	}
	for (unsigned i = 0; i < WRITERS; i++)
		c->writers[i] = (writer){.db = c->dbs[i % STORES],
			.clean = c->clean,
			.number = i,
			.random = i,
			.records = calloc(COMMITS_MAX, sizeof(record))};
}

static void stop_cluster(cluster *c)
{
	for (size_t i = 0; i < WRITERS; i++)
		free(c->writers[i].records);
	for (size_t i = 0; i < STORES; i++) {
		pgs_db_close(c->dbs[i]);
		pgs_close(c->stores[i]);
	}
	pgs_db_close(c->clean);
	pgs_close(c->clean_store);
	for (size_t i = 0; i < MEMBERS; i++)
		tcp_proxy_stop(c->proxies[i]);
	etcd_stop(c->etcd);
	s3_stop(c->s3);
}

/* --- what is told, and what is there ------------------------------------------------------------ */

/* Those that were left open; and what was told before of the others is told again. */
static void ask_again(cluster *c)
{
	for (size_t i = 0; i < WRITERS; i++)
		for (size_t n = 0; n < c->writers[i].count; n++) {
			record *r = &c->writers[i].records[n], again = *r;
			pgs_error err = PGS_ERROR_INIT;
			if (!r->unknown && n % 16)
				continue;
			for (int tries = 0; again.told == OPEN || tries == 0; tries++)
				assert_true(tries < 20 && settle(c->clean, &again, &err));
			if (r->told != OPEN && (again.told != r->told || (r->told == HAPPENED && again.revision != r->revision)))
				fail_msg("commit %zu-%zu: told %d (%llu), then %d (%llu)", i, n, r->told,
					(unsigned long long)r->revision, again.told, (unsigned long long)again.revision);
			*r = again;
		}
}

static int check_entry(void *ctx, const pgs_log_entry *entry)
{
	cluster *c = ctx;
	unsigned number;
	size_t n;
	char note[32] = "";
	if (entry->note_size == 0 || entry->note_size >= sizeof note)
		return 0;
	memcpy(note, entry->note, entry->note_size);
	assert_int_equal(sscanf(note, "%u-%zu", &number, &n), 2);
	assert_true(number < WRITERS && n < c->writers[number].count);
	record *r = &c->writers[number].records[n];
	if (r->logged)
		fail_msg("commit %s is in the changelog twice", note);
	if (r->told != HAPPENED || r->revision != entry->revision || memcmp(r->token.uuid, entry->uuid, 16) != 0)
		fail_msg("commit %s is in the changelog at %llu; told was %d, at %llu", note,
			(unsigned long long)entry->revision, r->told, (unsigned long long)r->revision);
	r->logged = true;
	return 0;
}

static void check_changelog(cluster *c)
{
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[TEST_PAGE_SIZE];
	uint64_t counter, counted = 0, happened = 0;
	size_t unknown = 0, failed = 0;
	expect_code(pgs_log(c->clean, NULL, check_entry, c, &err), PGS_OK, &err, "pgs_log");
	for (size_t i = 0; i < WRITERS; i++) {
		const writer *w = &c->writers[i];
		unknown += w->unknown;
		failed += w->failed;
		for (size_t n = 0; n < w->count; n++) {
			if (w->records[n].told == HAPPENED && !w->records[n].logged)
				fail_msg("commit %zu-%zu is lost", i, n);
			happened += w->records[n].told == HAPPENED;
		}
	}
	pgs_txn *txn = begin_write(c->clean);
	for (uint64_t i = 0; i < COUNTERS; i++) {
		assert_int_equal(pgs_read(txn, i, page), PGS_OK);
		memcpy(&counter, page, sizeof counter);
		counted += counter;
	}
	pgs_abort(txn);
	assert_int_equal(counted, happened); /* serializable: no increment is lost */
	print_message("%llu commits, %zu unknown at first, %zu that failed\n", (unsigned long long)happened, unknown, failed);
	assert_true(happened > 0);
	assert_true(unknown > 0);
}

static void test_outcomes__are_what_they_are_told_to_be(void **state)
{
	static cluster c;
	pthread_t threads[WRITERS];
	pgs_verify_options options = PGS_VERIFY_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	start_cluster(&c);
	for (size_t i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, run_writer, &c.writers[i]), 0);
	make_trouble(&c);
	stop = true;
	for (size_t i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < WRITERS; i++)
		assert_string_equal(c.writers[i].failure, "");
	ask_again(&c);
	check_changelog(&c);
	options.deep = true;
	expect_code(pgs_verify(c.clean, &options, NULL, &err), PGS_OK, &err, "pgs_verify");
	stop_cluster(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_outcomes__are_what_they_are_told_to_be),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
