/* traffic: what a few kinds of work cost in requests and bytes
 *
 * Runs them on the memory backends, wrapped in the counting ones, and prints a
 * table. Exits with 1 when something failed, or was not counted.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <pagestore.h>
#include <pagestore/backends.h>

#include "counting.h"

enum { PAGE = PGS_PAGE_SIZE_DEFAULT, BULK_PAGES = 1024 };

static counters n;

/* Pages that differ, and that compress to about half. */
static void fill(uint8_t *page, uint64_t seed)
{
	for (size_t i = 0; i < PAGE; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		page[i] = (uint8_t)(seed >> 60);
	}
}

static int write_pages(pgs_txn *txn, uint64_t first, uint64_t count)
{
	uint8_t page[PAGE];
	for (uint64_t i = first; i < first + count; i++) {
		fill(page, i);
		int rc = pgs_write(txn, i, page);
		if (rc != PGS_OK)
			return rc;
	}
	return PGS_OK;
}

static int bulk_load(pgs_txn *txn)
{
	return write_pages(txn, 0, BULK_PAGES);
}

/* Eight bytes of one page: the commit carries the difference alone. */
static int small_change(pgs_txn *txn)
{
	uint8_t page[PAGE];
	int rc = pgs_read(txn, 7, page);
	if (rc != PGS_OK)
		return rc;
	memset(page + 100, 0xff, 8);
	return pgs_write(txn, 7, page);
}

static int same_again(pgs_txn *txn)
{
	return write_pages(txn, 100, 10);
}

static int one_new_page(pgs_txn *txn)
{
	return write_pages(txn, BULK_PAGES, 1);
}

static int read_some(pgs_txn *txn)
{
	static uint8_t pages[64][PAGE];
	uint64_t page_nos[64];
	void *buffers[64];
	for (size_t i = 0; i < 64; i++) {
		page_nos[i] = i * 16;
		buffers[i] = pages[i];
	}
	return pgs_read_many(txn, page_nos, 64, buffers);
}

static const struct work {
	const char *name;
	int (*run)(pgs_txn *txn);
} works[] = {
	{"write 1024 pages", bulk_load},
	{"change 8 bytes", small_change},
	{"write 10 equal pages", same_again},
	{"write a new page", one_new_page},
	{"read 64 pages at once", read_some},
};

static int run_work(pgs_db *db, const struct work *w, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	options.write = true;
	int rc = pgs_begin(&txn, db, &options, err);
	if (rc != PGS_OK)
		return rc;
	rc = w->run(txn);
	if (rc == PGS_OK)
		return pgs_commit(txn, NULL, NULL, err);
	*err = *pgs_txn_error(txn);
	pgs_abort(txn);
	return rc;
}

static void reset(void)
{
	atomic_uint_fast64_t *const all[] = {&n.kv_calls, &n.kv_txns, &n.kv_put_bytes, &n.kv_read_bytes, &n.blob_puts,
		&n.blob_put_bytes, &n.blob_gets, &n.blob_get_bytes};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		atomic_store(all[i], 0);
}

static void print_row(const char *name)
{
	printf("%-22s %8" PRIuFAST64 " %8" PRIuFAST64 " %9" PRIuFAST64 " %9" PRIuFAST64 " %5" PRIuFAST64
	       " %9" PRIuFAST64 " %5" PRIuFAST64 " %9" PRIuFAST64 "\n",
		name, n.kv_calls, n.kv_txns, n.kv_put_bytes, n.kv_read_bytes, n.blob_puts, n.blob_put_bytes,
		n.blob_gets, n.blob_get_bytes);
}

/* Each work opens the database anew, so that none reads from the cache of the one before. */
static int run_all(pgs_store *store, pgs_error *err)
{
	pgs_db *db;
	int rc = pgs_db_create(&db, store, "traffic", 7, NULL, err);
	printf("%-22s %8s %8s %9s %9s %5s %9s %5s %9s\n", "", "KV calls", "KV txns", "put B", "read B", "puts", "B",
		"gets", "B");
	for (size_t i = 0; rc == PGS_OK && i < sizeof(works) / sizeof(works[0]); i++) {
		pgs_db_close(db);
		rc = pgs_db_open(&db, store, "traffic", 7, NULL, err);
		reset();
		if (rc == PGS_OK)
			rc = run_work(db, &works[i], err);
		if (rc == PGS_OK)
			print_row(works[i].name);
		if (rc == PGS_OK && n.kv_calls == 0) {
			snprintf(err->message, sizeof(err->message), "%s: nothing was counted", works[i].name);
			rc = PGS_EINVAL;
		}
	}
	pgs_db_close(db);
	return rc;
}

static int open_counted(pgs_store **store, pgs_error *err)
{
	pgs_kv *kv = NULL;
	pgs_blob *blob = NULL;
	int rc = pgs_kv_memory_new(&kv, NULL, err);
	if (rc == PGS_OK)
		rc = counting_kv_new(&kv, kv, &n, err);
	if (rc == PGS_OK)
		rc = pgs_blob_memory_new(&blob, err);
	if (rc == PGS_OK)
		rc = counting_blob_new(&blob, blob, &n, err);
	if (rc == PGS_OK)
		return pgs_open_with(store, kv, blob, NULL, err); /* owns both from here on */
	if (kv)
		kv->vtable->close(kv);
	return rc;
}

int main(void)
{
	pgs_store *store = NULL;
	pgs_error err = PGS_ERROR_INIT;
	int rc = open_counted(&store, &err);
	if (rc == PGS_OK)
		rc = run_all(store, &err);
	if (rc != PGS_OK)
		fprintf(stderr, "traffic: %s: %s\n", pgs_error_name(rc), err.message);
	pgs_close(store);
	return rc == PGS_OK ? 0 : 1;
}
