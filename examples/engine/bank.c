/* bank: a program on the table of table.h, and its test
 *
 *     bank [URL]       mem: unless told; a store that has no bank yet
 *
 * Opens accounts, moves money between them from several threads at once, and
 * checks that none was made or lost: now, and at every revision there was.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

enum { ACCOUNTS = 600, OPENING_BALANCE = 100, THREADS = 3, TRANSFERS = 40 };

/* The commits, in order: [0] has the accounts opened. */
static uint64_t revisions[1 + THREADS * TRANSFERS];
static size_t revision_count;
static pthread_mutex_t revisions_lock = PTHREAD_MUTEX_INITIALIZER;

static int failed(const char *what, int rc, const pgs_error *err)
{
	fprintf(stderr, "bank: %s: %s %s\n", what, pgs_error_name(rc), err->message);
	return 1;
}

static void remember(uint64_t revision)
{
	pthread_mutex_lock(&revisions_lock);
	revisions[revision_count++] = revision;
	pthread_mutex_unlock(&revisions_lock);
}

/* Account keys are text of varying length, so that the tree's order is not that of the numbers. */
static size_t account_key(char key[32], unsigned account)
{
	return (size_t)snprintf(key, 32, "account-%u", account);
}

static int get_balance(table *t, unsigned account, int64_t *balance)
{
	char key[32];
	size_t size;
	int rc = table_get(t, key, account_key(key, account), balance, sizeof(*balance), &size);
	return rc == PGS_OK && size != sizeof(*balance) ? PGS_ECORRUPT : rc;
}

static int put_balance(table *t, unsigned account, int64_t balance)
{
	char key[32];
	return table_put(t, key, account_key(key, account), &balance, sizeof(balance));
}

/* --- what runs in transactions ------------------------------------------ */

static int open_accounts(table *t, void *ctx)
{
	(void)ctx;
	for (unsigned i = 0; i < ACCOUNTS; i++) {
		int rc = put_balance(t, i * 7919 % ACCOUNTS, OPENING_BALANCE); /* 7919 is a prime: each once */
		if (rc != PGS_OK)
			return rc;
	}
	return PGS_OK;
}

typedef struct transfer {
	unsigned from, to;
	int64_t amount;
} transfer;

static int move_money(table *t, void *ctx)
{
	const transfer *order = ctx;
	int64_t from = 0, to = 0;
	int rc = get_balance(t, order->from, &from);
	if (rc == PGS_OK)
		rc = get_balance(t, order->to, &to);
	if (rc == PGS_OK)
		rc = put_balance(t, order->from, from - order->amount);
	return rc == PGS_OK ? put_balance(t, order->to, to + order->amount) : rc;
}

static int close_account(table *t, void *ctx)
{
	char key[32];
	int64_t balance, first;
	unsigned *account = ctx;
	int rc = get_balance(t, *account, &balance);
	if (rc == PGS_OK)
		rc = get_balance(t, 0, &first);
	if (rc == PGS_OK)
		rc = put_balance(t, 0, first + balance);
	return rc == PGS_OK ? table_remove(t, key, account_key(key, *account)) : rc;
}

/* --- threads ------------------------------------------------------------ */

typedef struct teller {
	pgs_db *db;
	unsigned seed;
	int result;
	pgs_error err;
} teller;

static void *run_teller(void *ctx)
{
	teller *who = ctx;
	for (int i = 0; i < TRANSFERS && who->result == PGS_OK; i++) {
		uint64_t revision;
		transfer order;
		order.from = (unsigned)rand_r(&who->seed) % ACCOUNTS;
		order.to = (order.from + 1 + (unsigned)rand_r(&who->seed) % (ACCOUNTS - 1)) % ACCOUNTS;
		order.amount = 1 + rand_r(&who->seed) % 20;
		who->result = table_update(who->db, move_money, &order, &revision, &who->err);
		if (who->result == PGS_OK)
			remember(revision);
	}
	return NULL;
}

static int run_tellers(pgs_db *db)
{
	pthread_t threads[THREADS];
	teller tellers[THREADS];
	int started = 0, status = 0;
	memset(tellers, 0, sizeof(tellers));
	for (; started < THREADS; started++) {
		tellers[started].db = db;
		tellers[started].seed = (unsigned)started + 1;
		if (pthread_create(&threads[started], NULL, run_teller, &tellers[started]) != 0)
			break;
	}
	for (int i = 0; i < started; i++) {
		pthread_join(threads[i], NULL);
		if (tellers[i].result != PGS_OK)
			status = failed("transfer", tellers[i].result, &tellers[i].err);
	}
	return started == THREADS ? status : 1;
}

/* --- checks ------------------------------------------------------------- */

typedef struct audit {
	unsigned accounts;
	int64_t total;
	char last[32];
	size_t last_size;
} audit;

static int audit_entry(void *ctx, const void *key, size_t key_size, const void *value, size_t value_size)
{
	audit *a = ctx;
	int64_t balance;
	size_t common = key_size < a->last_size ? key_size : a->last_size;
	int order = memcmp(a->last, key, common);
	if (value_size != sizeof(balance) || key_size > sizeof(a->last) || order > 0 ||
		(order == 0 && key_size <= a->last_size))
		return PGS_ECORRUPT;
	memcpy(&balance, value, sizeof(balance));
	memcpy(a->last, key, key_size);
	a->last_size = key_size;
	a->total += balance;
	a->accounts++;
	return 0;
}

/* Count the money at a revision; 0 = now. Returns 0 when it is all there. */
static int check(pgs_db *db, uint64_t revision, unsigned accounts)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	table t;
	audit a = {0};
	options.at_revision = revision;
	int rc = pgs_begin(&txn, db, &options, &err);
	if (rc != PGS_OK)
		return failed("begin", rc, &err);
	table_open(&t, db, txn);
	rc = table_scan(&t, NULL, 0, audit_entry, &a);
	if (rc != PGS_OK)
		failed("scan", rc, pgs_txn_error(txn));
	pgs_abort(txn);
	if (rc == PGS_OK && (a.accounts != accounts || a.total != (int64_t)ACCOUNTS * OPENING_BALANCE)) {
		fprintf(stderr, "bank: revision %" PRIu64 ": %u accounts hold %" PRId64 "\n", revision, a.accounts,
			a.total);
		return 1;
	}
	return rc != PGS_OK;
}

static int run(pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t revision;
	unsigned account = 17;
	int rc = table_update(db, open_accounts, NULL, &revision, &err);
	if (rc != PGS_OK)
		return failed("open accounts", rc, &err);
	remember(revision);
	if (run_tellers(db) != 0)
		return 1;
	rc = table_update(db, close_account, &account, &revision, &err);
	if (rc != PGS_OK)
		return failed("close an account", rc, &err);
	if (table_update(db, close_account, &account, NULL, &err) != PGS_ENOTFOUND)
		return failed("close it twice", PGS_OK, &err);
	for (size_t i = 0; i < revision_count; i++) {
		if (check(db, revisions[i], ACCOUNTS) != 0)
			return 1;
	}
	if (check(db, 0, ACCOUNTS - 1) != 0)
		return 1;
	printf("%zu revisions of %d accounts, the money is all there in each\n", revision_count, ACCOUNTS);
	return 0;
}

int main(int argc, char **argv)
{
	pgs_store *store = NULL;
	pgs_db *db = NULL;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	int status = 1;
	options.page_size_bytes = 512; /* small, for a tree of several levels */
	int rc = pgs_open(&store, argc > 1 ? argv[1] : "mem:", NULL, &err);
	if (rc == PGS_OK)
		rc = pgs_db_create(&db, store, "bank", 4, &options, &err);
	if (rc == PGS_OK)
		status = run(db);
	else
		failed("open the store", rc, &err);
	pgs_db_close(db);
	pgs_close(store);
	return status;
}
