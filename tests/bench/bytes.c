/* How many bytes a commit puts into the KV, for the pages that real transactions of a bank on SQLite change.
 *
 * Each transaction moves money between two accounts and records it. The pages it changed, found by comparing the
 * database file with how it was, are committed to pagestore. The baseline is each of those pages compressed by zstd.
 */
#include "fixtures.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

typedef struct bank {
	char path[BENCH_PATH_MAX];
	sqlite3 *sql;
	sqlite3_stmt *move, *record;
	bench_random random;
	uint32_t page_size;
	uint32_t accounts;
	uint8_t *image; /* the file as last committed */
	uint32_t image_pages;
	bench_db ours;
	ZSTD_CCtx *compressor;
	uint8_t *frame;
	uint64_t pages_changed, full_bytes;
} bank;

static void sql(bank *b, const char *statement)
{
	char *message = NULL;
	if (sqlite3_exec(b->sql, statement, NULL, NULL, &message) != SQLITE_OK)
		bench_die("sqlite: %s: %s", statement, message ? message : "");
}

static void step(sqlite3_stmt *s)
{
	bench_check(sqlite3_step(s) == SQLITE_DONE, "sqlite: step");
	sqlite3_reset(s);
}

static void add_accounts(bank *b)
{
	sqlite3_stmt *s;
	char name[64], email[96], street[64];
	sqlite3_prepare_v2(b->sql, "INSERT INTO account(owner, email, street, balance, opened) VALUES(?,?,?,?,?)", -1, &s,
			   NULL);
	for (uint32_t i = 0; i < b->accounts; i++) {
		const char *first = bench_word(&b->random), *last = bench_word(&b->random);
		snprintf(name, sizeof name, "%s %s", first, last);
		snprintf(email, sizeof email, "%s.%s%u@example.org", first, last, i);
		snprintf(street, sizeof street, "%s Street %u", bench_word(&b->random),
			 (unsigned)(bench_random_next(&b->random) % 300));
		sqlite3_bind_text(s, 1, name, -1, SQLITE_TRANSIENT);
		sqlite3_bind_text(s, 2, email, -1, SQLITE_TRANSIENT);
		sqlite3_bind_text(s, 3, street, -1, SQLITE_TRANSIENT);
		sqlite3_bind_int64(s, 4, (int64_t)(bench_random_next(&b->random) % 10000000));
		sqlite3_bind_int64(s, 5, 1500000000 + (int64_t)(bench_random_next(&b->random) % 200000000));
		step(s);
	}
	sqlite3_finalize(s);
}

static void open_bank(const bench_env *env, bank *b)
{
	char pragma[64];
	bench_path(env, "bank.sqlite", b->path);
	bench_check(sqlite3_open(b->path, &b->sql) == SQLITE_OK, "sqlite: open");
	snprintf(pragma, sizeof pragma, "PRAGMA page_size=%u", b->page_size);
	sql(b, pragma);
	sql(b, "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF;"
	       "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT, email TEXT, street TEXT, balance INTEGER,"
	       " opened INTEGER);"
	       "CREATE TABLE history(id INTEGER PRIMARY KEY, at INTEGER, source INTEGER, target INTEGER, amount INTEGER,"
	       " note TEXT); BEGIN");
	add_accounts(b);
	sql(b, "COMMIT");
	sqlite3_prepare_v2(b->sql, "UPDATE account SET balance = balance + ? WHERE id = ?", -1, &b->move, NULL);
	sqlite3_prepare_v2(b->sql, "INSERT INTO history(at, source, target, amount, note) VALUES(?,?,?,?,?)", -1,
			   &b->record, NULL);
	bench_check(b->move && b->record, "sqlite: prepare");
}

static void transfer(bank *b, uint32_t number)
{
	char note[96];
	int64_t amount = (int64_t)(bench_random_next(&b->random) % 50000) + 1;
	int64_t accounts[2];
	sql(b, "BEGIN");
	for (int i = 0; i < 2; i++) {
		accounts[i] = (int64_t)(bench_random_next(&b->random) % b->accounts) + 1;
		sqlite3_bind_int64(b->move, 1, i ? amount : -amount);
		sqlite3_bind_int64(b->move, 2, accounts[i]);
		step(b->move);
	}
	snprintf(note, sizeof note, "%s %s", bench_word(&b->random), bench_word(&b->random));
	sqlite3_bind_int64(b->record, 1, 1700000000 + (int64_t)number);
	sqlite3_bind_int64(b->record, 2, accounts[0]);
	sqlite3_bind_int64(b->record, 3, accounts[1]);
	sqlite3_bind_int64(b->record, 4, amount);
	sqlite3_bind_text(b->record, 5, note, -1, SQLITE_TRANSIENT);
	step(b->record);
	sql(b, "COMMIT");
}

/* Commit the pages that differ from the image; `counted`: add what zstd makes of them. */
static void commit_changes(bank *b, bool counted)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	uint8_t *page = bench_alloc(b->page_size);
	FILE *file = fopen(b->path, "rb");
	bench_check(file != NULL, "opening the bank's file");
	options.write = true;
	bench_must(pgs_begin(&t, b->ours.db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = 0; fread(page, b->page_size, 1, file) == 1; i++) {
		if (i == b->image_pages) {
			b->image = realloc(b->image, (size_t)++b->image_pages * b->page_size);
			bench_check(b->image != NULL, "out of memory");
			memset(b->image + (size_t)i * b->page_size, 0, b->page_size);
		}
		uint8_t *was = b->image + (size_t)i * b->page_size;
		if (memcmp(was, page, b->page_size) == 0)
			continue;
		memcpy(was, page, b->page_size);
		bench_must(pgs_write(t, i, page), pgs_txn_error(t), "pgs_write");
		if (counted) {
			b->pages_changed++;
			b->full_bytes += ZSTD_compress2(b->compressor, b->frame, ZSTD_compressBound(b->page_size), page,
							b->page_size);
		}
	}
	fclose(file);
	free(page);
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
}

static void verify(bank *b)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	uint8_t *page = bench_alloc(b->page_size);
	bench_must(pgs_begin(&t, b->ours.db, NULL, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < b->image_pages; i++) {
		bench_must(pgs_read(t, i, page), pgs_txn_error(t), "pgs_read");
		bench_check(memcmp(page, b->image + (size_t)i * b->page_size, b->page_size) == 0,
			    "a page of the bank reads otherwise");
	}
	pgs_abort(t);
	free(page);
}

typedef struct totals {
	uint64_t kv_bytes, blob_bytes, pages;
} totals;

static int add_entry(void *ctx, const pgs_log_entry *entry)
{
	totals *sum = ctx;
	sum->kv_bytes += entry->kv_bytes;
	sum->blob_bytes += entry->blob_bytes;
	sum->pages += entry->pages_written;
	return 0;
}

static void run_bank(const bench_env *env, uint32_t page_size, bench_result *out)
{
	pgs_error err = PGS_ERROR_INIT;
	bank b = {.page_size = page_size, .random = {3}, .accounts = env->quick ? 20000 : 100000};
	uint32_t transfers = env->quick ? 200 : 3000;
	b.compressor = ZSTD_createCCtx();
	b.frame = bench_alloc(ZSTD_compressBound(page_size));
	bench_check(b.compressor != NULL, "out of memory");
	ZSTD_CCtx_setParameter(b.compressor, ZSTD_c_compressionLevel, 1);
	ZSTD_CCtx_setParameter(b.compressor, ZSTD_c_contentSizeFlag, 0);
	bench_db_create(&b.ours, "mem:", page_size, 0);
	open_bank(env, &b);
	commit_changes(&b, false); /* the bank as it opens */
	pgs_txn *t;
	bench_must(pgs_begin(&t, b.ours.db, NULL, &err), &err, "pgs_begin");
	pgs_log_options options = PGS_LOG_OPTIONS_INIT;
	options.from_revision = pgs_txn_revision(t) + 1;
	pgs_abort(t);
	for (uint32_t i = 0; i < transfers; i++) {
		transfer(&b, i);
		commit_changes(&b, true);
	}
	totals sum = {0};
	bench_must(pgs_log(b.ours.db, &options, add_entry, &sum, &err), &err, "pgs_log");
	bench_check(sum.pages == b.pages_changed && sum.blob_bytes == 0, "the log counts other pages than were written");
	verify(&b);
	out->ours = (double)sum.kv_bytes / (double)sum.pages;
	out->baseline = (double)b.full_bytes / (double)b.pages_changed;
	sqlite3_finalize(b.move);
	sqlite3_finalize(b.record);
	sqlite3_close(b.sql);
	unlink(b.path);
	bench_db_close(&b.ours);
	ZSTD_freeCCtx(b.compressor);
	free(b.frame);
	free(b.image);
}

static void run_4k(const bench_env *env, bench_result *out)
{
	run_bank(env, 4096, out);
}

static void run_64k(const bench_env *env, bench_result *out)
{
	run_bank(env, 65536, out);
}

const bench bench_bytes_4k = {"bytes_per_page_changed_4k", "zstd of the page", "B/page", 1.0 / 8, false, run_4k};
const bench bench_bytes_64k = {"bytes_per_page_changed_64k", "zstd of the page", "B/page", 1.0 / 60, false, run_64k};
