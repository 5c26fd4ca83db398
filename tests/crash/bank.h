/* Money moved between pages by several workers: the total never changes, and no committed transfer is lost. Shared
 * by threads and processes; nothing here uses cmocka, which belongs to one thread. */
#ifndef PGS_TESTS_BANK_H
#define PGS_TESTS_BANK_H

#include <stdio.h>
#include <string.h>

#include <pagestore.h>

#include "util/clock.h"

#define BANK_PAGE_SIZE 4096
#define BANK_ACCOUNTS 16
#define BANK_START 1000
#define BANK_WORKER_PAGE 1000 /* + worker: how many transfers it committed */

typedef struct bank_worker {
	pgs_db *db;
	uint32_t number;
	uint64_t end_ms;
	uint32_t isolation;
	uint64_t committed, conflicts, snapshots;
	char failure[500];
} bank_worker;

static inline int64_t bank_balance(const uint8_t *page)
{
	int64_t balance;
	memcpy(&balance, page, sizeof balance);
	return balance;
}

static inline void bank_fail(bank_worker *w, const char *what, const pgs_error *err)
{
	snprintf(w->failure, sizeof w->failure, "%s: %s %s", what, pgs_error_name(err->code), err->message);
}

/* The sum of a snapshot, or -1. */
static inline int64_t bank_total(bank_worker *w)
{
	static _Thread_local uint8_t pages[BANK_ACCOUNTS][BANK_PAGE_SIZE];
	uint64_t numbers[BANK_ACCOUNTS];
	void *dst[BANK_ACCOUNTS];
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	int64_t total = 0;
	for (uint64_t i = 0; i < BANK_ACCOUNTS; i++) {
		numbers[i] = i;
		dst[i] = pages[i];
	}
	if (pgs_begin(&txn, w->db, NULL, &err) != PGS_OK) {
		bank_fail(w, "begin to read", &err);
		return -1;
	}
	if (pgs_read_many(txn, numbers, BANK_ACCOUNTS, dst) != PGS_OK) {
		bank_fail(w, "read all", pgs_txn_error(txn));
		total = -1;
	}
	for (uint64_t i = 0; total >= 0 && i < BANK_ACCOUNTS; i++)
		total += bank_balance(pages[i]);
	pgs_abort(txn);
	return total;
}

static inline int bank_change(pgs_txn *txn, uint64_t page_no, int64_t by)
{
	uint8_t page[BANK_PAGE_SIZE];
	int result = pgs_read(txn, page_no, page);
	int64_t balance = bank_balance(page) + by;
	memcpy(page, &balance, sizeof balance);
	return result == PGS_OK ? pgs_write(txn, page_no, page) : result;
}

/* One transfer; PGS_OK, PGS_ECONFLICT, or a failure. */
static inline int bank_transfer(bank_worker *w, uint64_t random)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	uint64_t from = random % BANK_ACCOUNTS, to = (from + 1 + random / 64 % (BANK_ACCOUNTS - 1)) % BANK_ACCOUNTS;
	options.write = true;
	options.isolation = w->isolation;
	int result = pgs_begin(&txn, w->db, &options, &err);
	if (result != PGS_OK) {
		bank_fail(w, "begin", &err);
		return result;
	}
	result = bank_change(txn, from, -(int64_t)(random / 4096 % 10 + 1));
	if (result == PGS_OK)
		result = bank_change(txn, to, (int64_t)(random / 4096 % 10 + 1));
	if (result == PGS_OK)
		result = bank_change(txn, BANK_WORKER_PAGE + w->number, 1);
	if (result != PGS_OK) {
		bank_fail(w, "transfer", pgs_txn_error(txn));
		pgs_abort(txn);
		return result;
	}
	result = pgs_commit(txn, NULL, NULL, &err);
	if (result != PGS_OK && result != PGS_ECONFLICT)
		bank_fail(w, "commit", &err);
	return result;
}

static inline void bank_run(bank_worker *w)
{
	uint64_t random = w->number * 0x9e3779b97f4a7c15 + 12345;
	while (!w->failure[0] && pgs__now_ms() < w->end_ms) {
		random = random * 6364136223846793005 + 1442695040888963407;
		int result = bank_transfer(w, random >> 11);
		if (result == PGS_OK)
			w->committed++;
		else if (result == PGS_ECONFLICT)
			w->conflicts++;
		if (random >> 62 == 0 && !w->failure[0]) {
			int64_t total = bank_total(w);
			w->snapshots++;
			if (!w->failure[0] && total != BANK_ACCOUNTS * BANK_START)
				snprintf(w->failure, sizeof w->failure, "a snapshot holds %lld", (long long)total);
		}
	}
}

#endif
