/* What several benchmarks measure on: databases of ours and of LMDB, and real pages. */
#ifndef PGS_BENCH_FIXTURES_H
#define PGS_BENCH_FIXTURES_H

#include <lmdb.h>

#include "bench.h"

/* --- ours ------------------------------------------------------------------------ */

typedef struct bench_db {
	pgs_store *store;
	pgs_db *db;
} bench_db;

/* A new database "bench" at `url`. */
void bench_db_create(bench_db *out, const char *url, uint32_t page_size, uint64_t cache_bytes);
void bench_db_close(bench_db *b);

/* Fill it with pages 0 … count-1, page i being bench_page(i), in one commit. */
void bench_db_fill(bench_db *b, uint32_t count);

/* Page `number` of a made-up database: 4096 bytes, half of them compressible. */
void bench_page(uint32_t number, uint8_t page[4096]);

/* "dir:<env->dir>/<name>" */
const char *bench_url(const bench_env *env, const char *name, char out[BENCH_PATH_MAX]);

/* --- LMDB ------------------------------------------------------------------------- */

typedef struct bench_lmdb {
	MDB_env *env;
	MDB_dbi dbi;
} bench_lmdb;

/* A new environment with keys 0 … count-1 (8-byte native integers, MDB_INTEGERKEY: its fastest). With 4096 bytes the
 * values are bench_page(i), else zeros. Commits are synced afterwards. */
void bench_lmdb_create(bench_lmdb *out, const char *path, uint32_t count, size_t value_size);
void bench_lmdb_close(bench_lmdb *l);

/* --- real pages ---------------------------------------------------------------------- */

typedef struct bench_pages {
	uint8_t *data;
	uint32_t page_size;
	uint32_t count;
} bench_pages;

/* Pages of a SQLite database of at least `bytes`; made once per size and kept until the end. */
const bench_pages *bench_real_pages(const bench_env *env, uint64_t bytes);

/* Words to make realistic rows of: Unicode's character names if installed, else made up. */
const char *bench_word(bench_random *random);

#endif
