/* See stores.h. */
#include "support/stores.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/testing.h"

void expect_code(int code, int expected, const pgs_error *err, const char *what)
{
	if (code != expected)
		fail_msg("%s: %s, not %s: %s", what, pgs_error_name(code), pgs_error_name(expected),
			 err ? err->message : "");
}

void server_start(server *s, const pgs_kv_limits *limits)
{
	assert_int_equal(pgs_kv_memory_new(&s->kv, limits, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_new(&s->blob, NULL), PGS_OK);
}

void server_stop(server *s)
{
	s->kv->vtable->close(s->kv);
	s->blob->vtable->close(s->blob);
}

pgs_store *server_open(server *s, pgs_fault *fault, const pgs_store_options *options)
{
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(pgs_kv_memory_share(&kv, s->kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob, s->blob, NULL), PGS_OK);
	if (fault) {
		assert_int_equal(pgs_fault_wrap_kv(&kv, fault, kv, NULL), PGS_OK);
		assert_int_equal(pgs_fault_wrap_blob(&blob, fault, blob, NULL), PGS_OK);
	}
	expect_code(pgs_open_with(&store, kv, blob, options, &err), PGS_OK, &err, "pgs_open_with");
	return store;
}

pgs_db *create_db(pgs_store *store, const char *name, const pgs_db_options *options)
{
	pgs_db_options defaults = PGS_DB_OPTIONS_INIT;
	pgs_db *db;
	pgs_error err = PGS_ERROR_INIT;
	defaults.page_size_bytes = TEST_PAGE_SIZE;
	defaults.cache_bytes = 1 << 20;
	expect_code(pgs_db_create(&db, store, name, strlen(name), options ? options : &defaults, &err), PGS_OK, &err,
		    "pgs_db_create");
	return db;
}

pgs_db *open_db(pgs_store *store, const char *name)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_db *db;
	pgs_error err = PGS_ERROR_INIT;
	options.cache_bytes = 1 << 20;
	expect_code(pgs_db_open(&db, store, name, strlen(name), &options, &err), PGS_OK, &err, "pgs_db_open");
	return db;
}

pgs_txn *begin_write(pgs_db *db)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	pgs_error err = PGS_ERROR_INIT;
	options.write = true;
	expect_code(pgs_begin(&txn, db, &options, &err), PGS_OK, &err, "pgs_begin");
	return txn;
}

uint64_t commit_ok(pgs_txn *txn)
{
	uint64_t revision = 0;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_commit(txn, NULL, &revision, &err), PGS_OK, &err, "pgs_commit");
	return revision;
}

void fill_page(void *page, uint64_t seed)
{
	uint8_t *bytes = page;
	uint64_t state = (seed >> 8) * 0x9e3779b97f4a7c15 + 1;
	memset(bytes, 0, TEST_PAGE_SIZE);
	for (size_t i = 0; seed && i < TEST_PAGE_SIZE; i += 8) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		memcpy(bytes + i, &state, 8);
	}
	if (seed)
		bytes[100] = (uint8_t)seed;
}

int read_seed(pgs_txn *txn, uint64_t page_no, uint64_t seed)
{
	uint8_t page[TEST_PAGE_SIZE], expected[TEST_PAGE_SIZE];
	int result = pgs_read(txn, page_no, page);
	fill_page(expected, seed);
	if (result == PGS_OK && memcmp(page, expected, sizeof page) != 0)
		fail_msg("page %llu does not hold %llu", (unsigned long long)page_no, (unsigned long long)seed);
	return result;
}

int write_seed(pgs_txn *txn, uint64_t page_no, uint64_t seed)
{
	uint8_t page[TEST_PAGE_SIZE];
	fill_page(page, seed);
	return pgs_write(txn, page_no, page);
}

uint64_t write_pages(pgs_db *db, uint64_t first, uint64_t count, uint64_t (*seed)(uint64_t page_no))
{
	pgs_txn *txn = begin_write(db);
	for (uint64_t i = first; i < first + count; i++)
		assert_int_equal(write_seed(txn, i, seed(i)), PGS_OK);
	return commit_ok(txn);
}

/* --- folders ---------------------------------------------------------------------- */

void make_folder(char path[64])
{
	const char *parent = getenv("TMPDIR");
	if (!parent || strlen(parent) > 30)
		parent = "/tmp";
	snprintf(path, 64, "%s/pagestore-test-XXXXXX", parent);
	assert_non_null(mkdtemp(path));
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void remove_folder(const char *path)
{
	nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}
