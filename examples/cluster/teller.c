/* teller: a process that shares a bank with others, on any machine
 *
 *     teller URL open                 make the bank: 100 accounts with 100 each
 *     teller URL move NAME SECONDS    move money between accounts until then
 *     teller URL audit NAME SECONDS   count the money until then, or once when SECONDS is 0
 *
 * Account n is page n of the database "bank": its balance, then what else a bank knows of a customer (noise). The URL is a store's that
 * several processes can share, so mem: is none. examples/cluster.sh runs some of these, and pulls a server's plug.
 *
 * It shows what a program has to do about each kind of error. How far it is goes to stderr, what came of it to stdout.
 * Exit status: 0; 1 failed, or money is missing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <pagestore.h>

enum { ACCOUNTS = 100, OPENING_BALANCE = 100, MONEY = ACCOUNTS * OPENING_BALANCE, PAGE_SIZE = 4096, REPORT_SECONDS = 6 };

typedef struct teller {
	pgs_db *db;
	const char *name;
	double started;
	uint64_t done;      /* transfers, or audits */
	uint64_t conflicts; /* transactions begun again because another teller was first */
	uint64_t failures;  /* begun again because a server failed; nothing was applied */
	uint64_t asked;     /* commits of unknown outcome that were asked about */
	double longest;     /* seconds from wanting a transfer until it was committed */
} teller;

static double seconds_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int failed(const char *what, const pgs_error *err)
{
	fprintf(stderr, "teller: %s: %s %s\n", what, pgs_error_name(err->code), err->message);
	return 1;
}

/* Keep what went wrong with a transaction, and end it. */
static int give_up(pgs_txn *txn, int rc, pgs_error *err)
{
	*err = *pgs_txn_error(txn);
	pgs_abort(txn);
	return rc;
}

/* --- transactions ------------------------------------------------------------ */

/* A new account: page and all. */
static int open_account(pgs_txn *txn, uint64_t account, unsigned *seed)
{
	unsigned char page[PAGE_SIZE];
	const int64_t balance = OPENING_BALANCE;
	for (size_t i = 0; i < sizeof page; i++)
		page[i] = (unsigned char)(rand_r(seed) >> 8);
	memcpy(page, &balance, sizeof balance);
	return pgs_write(txn, account, page);
}

static int add_money(pgs_txn *txn, uint64_t account, int64_t amount)
{
	unsigned char page[PAGE_SIZE];
	int64_t balance;
	int rc = pgs_read(txn, account, page);
	if (rc != PGS_OK)
		return rc;
	memcpy(&balance, page, sizeof balance);
	balance += amount;
	memcpy(page, &balance, sizeof balance);
	return pgs_write(txn, account, page);
}

/* Commit, and do not leave open whether it happened. */
static int commit(teller *who, pgs_txn *txn, pgs_error *err)
{
	pgs_commit_token token;
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	int status;
	options.note = who->name;
	options.note_size = strlen(who->name);
	options.token = &token;
	int rc = pgs_commit(txn, &options, NULL, err);
	if (rc != PGS_EUNKNOWN)
		return rc;
	who->asked++;
	rc = pgs_commit_status(who->db, &token, &status, NULL, err);
	if (rc == PGS_OK && status == PGS_COMMIT_NOT_HAPPENED)
		return err->code = PGS_EIO;
	return rc;
}

static int try_transfer(teller *who, uint64_t from, uint64_t to, int64_t amount, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.write = true;
	int rc = pgs_begin(&txn, who->db, &options, err);
	if (rc != PGS_OK)
		return rc;
	rc = add_money(txn, from, -amount);
	if (rc == PGS_OK)
		rc = add_money(txn, to, amount);
	return rc == PGS_OK ? commit(who, txn, err) : give_up(txn, rc, err);
}

/* Until it is committed, or there is no use in trying. */
static int transfer(teller *who, uint64_t from, uint64_t to, int64_t amount, pgs_error *err)
{
	const struct timespec pause = {0, 50000000};
	double begun = seconds_now();
	for (;;) {
		int rc = try_transfer(who, from, to, amount, err);
		double took = seconds_now() - begun;
		if (rc == PGS_OK) {
			who->done++;
			who->longest = took > who->longest ? took : who->longest;
			return PGS_OK;
		}
		if (pgs_error_class(rc) == PGS_CLASS_RETRY)
			who->conflicts++;
		else if (rc == PGS_EIO || rc == PGS_ETIMEOUT)
			who->failures++, nanosleep(&pause, NULL);
		else
			return rc;
	}
}

/* All accounts, as of one revision. */
static int count_money(teller *who, int64_t *total, uint64_t *revision, pgs_error *err)
{
	static unsigned char pages[ACCOUNTS][PAGE_SIZE];
	uint64_t numbers[ACCOUNTS];
	void *buffers[ACCOUNTS];
	pgs_txn *txn;
	int rc = pgs_begin(&txn, who->db, NULL, err);
	if (rc != PGS_OK)
		return rc;
	for (uint64_t i = 0; i < ACCOUNTS; i++) {
		numbers[i] = i;
		buffers[i] = pages[i];
	}
	rc = pgs_read_many(txn, numbers, ACCOUNTS, buffers);
	if (rc != PGS_OK)
		return give_up(txn, rc, err);
	*total = 0;
	for (uint64_t i = 0; i < ACCOUNTS; i++) {
		int64_t balance;
		memcpy(&balance, pages[i], sizeof balance);
		*total += balance;
	}
	*revision = pgs_txn_revision(txn);
	pgs_abort(txn);
	return PGS_OK;
}

/* --- the jobs ------------------------------------------------------------------ */

static int open_bank(pgs_store *store)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_txn_options writing = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	teller who = {.name = "open"};
	unsigned seed = (unsigned)time(NULL);
	pgs_txn *txn = NULL;
	options.page_size_bytes = PAGE_SIZE;
	writing.write = true;
	int rc = pgs_db_create(&who.db, store, "bank", 4, &options, &err);
	if (rc == PGS_OK)
		rc = pgs_begin(&txn, who.db, &writing, &err);
	for (uint64_t i = 0; i < ACCOUNTS && rc == PGS_OK; i++) {
		rc = open_account(txn, i, &seed);
		if (rc != PGS_OK)
			give_up(txn, rc, &err);
	}
	if (rc == PGS_OK)
		rc = commit(&who, txn, &err);
	pgs_db_close(who.db);
	if (rc != PGS_OK)
		return failed("open the bank", &err);
	printf("%d accounts with %d each: %d\n", ACCOUNTS, OPENING_BALANCE, MONEY);
	return 0;
}

static void report(const teller *who, const char *what)
{
	fprintf(stderr, "%4.0f s  %s: %" PRIu64 " %s\n", seconds_now() - who->started, who->name, who->done, what);
}

static int move_until(teller *who, double seconds)
{
	pgs_error err = PGS_ERROR_INIT;
	unsigned seed = (unsigned)time(NULL) ^ (unsigned char)who->name[strlen(who->name) - 1] << 8;
	double next = REPORT_SECONDS;
	while (seconds_now() - who->started < seconds) {
		uint64_t from = (uint64_t)rand_r(&seed) % ACCOUNTS;
		uint64_t to = (from + 1 + (uint64_t)rand_r(&seed) % (ACCOUNTS - 1)) % ACCOUNTS;
		if (transfer(who, from, to, 1 + rand_r(&seed) % 20, &err) != PGS_OK)
			return failed(who->name, &err);
		if (seconds_now() - who->started >= next) {
			report(who, "transfers");
			next += REPORT_SECONDS;
		}
	}
	printf("%s: %" PRIu64 " transfers, the longest in %.1f s. Begun again: %" PRIu64 " after a conflict, %" PRIu64
	       " after a server's failure. In doubt, and asked about: %" PRIu64 "\n",
		who->name, who->done, who->longest, who->conflicts, who->failures, who->asked);
	return 0;
}

static int audit_until(teller *who, double seconds)
{
	const struct timespec pause = {0, 100000000};
	pgs_error err = PGS_ERROR_INIT;
	double next = REPORT_SECONDS;
	int64_t total;
	uint64_t revision = 0;
	do {
		int rc = count_money(who, &total, &revision, &err);
		if (rc == PGS_OK && total != MONEY) {
			fprintf(stderr, "%s: revision %" PRIu64 " has %" PRId64 "\n", who->name, revision, total);
			return 1;
		}
		if (rc == PGS_OK)
			who->done++;
		else if (rc == PGS_EIO || rc == PGS_ETIMEOUT)
			who->failures++;
		else
			return failed(who->name, &err);
		if (seconds > 0)
			nanosleep(&pause, NULL);
		if (seconds_now() - who->started >= next) {
			report(who, "audits");
			next += REPORT_SECONDS;
		}
	} while (seconds_now() - who->started < seconds || who->done == 0);
	printf("%s: %" PRIu64 " audit%s, the last of revision %" PRIu64 ". Found, each time: %d\n", who->name, who->done,
		who->done == 1 ? "" : "s", revision, MONEY);
	return 0;
}

/* --- what it cost ---------------------------------------------------------------- */

static void print_operation(void *ctx, const pgs_operation_stat *s)
{
	(void)ctx;
	if (s->requests)
		printf("  %-5s %-6s %7" PRIu64 " %7" PRIu64 " %7" PRIu64 " %9" PRIu64 " %9" PRIu64 " %8.1f %8.1f %8.1f\n",
			s->backend, s->operation, s->requests, s->failures, s->retries, s->bytes_sent >> 10,
			s->bytes_received >> 10, (double)s->p50_us / 1e3, (double)s->p99_us / 1e3, (double)s->max_us / 1e3);
}

static void print_operations(pgs_store *store)
{
	printf("  %-5s %-6s %7s %7s %7s %9s %9s %8s %8s %8s\n", "to", "for", "asked", "failed", "again", "KiB sent",
		"received", "p50 ms", "p99 ms", "max ms");
	pgs_store_operations(store, print_operation, NULL, NULL);
}

static int usage(void)
{
	fputs("usage: teller URL open | teller URL move NAME SECONDS | teller URL audit NAME SECONDS\n", stderr);
	return 2;
}

int main(int argc, char **argv)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	bool opens = argc == 3 && strcmp(argv[2], "open") == 0;
	bool moves = argc == 5 && strcmp(argv[2], "move") == 0;
	bool audits = argc == 5 && strcmp(argv[2], "audit") == 0;
	if ((!opens && !moves && !audits) || (!opens && argv[3][0] == '\0'))
		return usage();
	if (pgs_open(&store, argv[1], NULL, &err) != PGS_OK)
		return failed("open the store", &err);
	int status = 1;
	if (opens) {
		status = open_bank(store);
	} else {
		teller who = {.name = argv[3], .started = seconds_now()};
		if (pgs_db_open(&who.db, store, "bank", 4, NULL, &err) == PGS_OK)
			status = moves ? move_until(&who, atof(argv[4])) : audit_until(&who, atof(argv[4]));
		else
			failed("open the bank", &err);
		pgs_db_close(who.db);
		if (status == 0 && moves)
			print_operations(store);
	}
	pgs_close(store);
	return status;
}
