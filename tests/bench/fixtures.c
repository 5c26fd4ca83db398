/* Databases of ours and of LMDB. */
#include "fixtures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- ours -------------------------------------------------------------------------- */

void bench_db_create(bench_db *out, const char *url, uint32_t page_size, uint64_t cache_bytes)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	options.page_size_bytes = page_size;
	options.cache_bytes = cache_bytes;
	bench_must(pgs_open(&out->store, url, NULL, &err), &err, url);
	bench_must(pgs_db_create(&out->db, out->store, "bench", 5, &options, &err), &err, "pgs_db_create");
}

void bench_db_close(bench_db *b)
{
	pgs_db_close(b->db);
	pgs_close(b->store);
}

void bench_page(uint32_t number, uint8_t page[4096])
{
	bench_random random = {number};
	memset(page, 0, 4096);
	for (size_t i = 0; i < 4096; i += 16) { /* a random word, and one that says little */
		uint64_t words[2] = {bench_random_next(&random), i / 16 % 7};
		memcpy(page + i, words, sizeof words);
	}
}

void bench_db_fill(bench_db *b, uint32_t count)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	uint8_t page[4096];
	options.write = true;
	bench_must(pgs_begin(&t, b->db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < count; i++) {
		bench_page(i, page);
		bench_must(pgs_write(t, i, page), pgs_txn_error(t), "pgs_write");
	}
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
}

const char *bench_url(const bench_env *env, const char *name, char out[BENCH_PATH_MAX])
{
	int size = snprintf(out, BENCH_PATH_MAX, "dir:%s/%s", env->dir, name);
	bench_check(size > 0 && size < BENCH_PATH_MAX, "--dir: the path is too long");
	return out;
}

/* --- LMDB ------------------------------------------------------------------------------ */

static void lmdb_must(int rc, const char *what)
{
	if (rc)
		bench_die("%s: %s", what, mdb_strerror(rc));
}

void bench_lmdb_create(bench_lmdb *out, const char *path, uint32_t count, size_t value_size)
{
	MDB_txn *txn;
	uint8_t value[4096] = {0};
	bench_check(value_size <= sizeof value, "bench_lmdb_create");
	mkdir(path, 0777);
	lmdb_must(mdb_env_create(&out->env), "mdb_env_create");
	lmdb_must(mdb_env_set_mapsize(out->env, (size_t)4 << 30), "mdb_env_set_mapsize");
	lmdb_must(mdb_env_open(out->env, path, MDB_NOTLS, 0666), path);
	lmdb_must(mdb_txn_begin(out->env, NULL, 0, &txn), "mdb_txn_begin");
	lmdb_must(mdb_dbi_open(txn, NULL, MDB_CREATE | MDB_INTEGERKEY, &out->dbi), "mdb_dbi_open");
	for (uint64_t i = 0; i < count; i++) {
		MDB_val k = {sizeof i, &i}, v = {value_size, value};
		if (value_size == 4096)
			bench_page((uint32_t)i, value);
		lmdb_must(mdb_put(txn, out->dbi, &k, &v, MDB_APPEND), "mdb_put");
	}
	lmdb_must(mdb_txn_commit(txn), "mdb_txn_commit");
}

void bench_lmdb_close(bench_lmdb *l)
{
	mdb_env_close(l->env);
}
