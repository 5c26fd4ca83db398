/* Reading from the machine's cache file, against LMDB alone: single random pages of a real database, found, decompressed and
 * proved by their hash; nothing is kept in memory. And what memory the mirror of a large page table takes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <lmdb.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "bench.h"
#include "codec/pointer.h"
#include "content/contents.h"
#include "fixtures.h"
#include "local_cache/mirror.h"
#include "util/clock.h"

#define PAGE_SIZE 4096
#define CACHE_BYTES ((uint64_t)2 << 30)
#define MIRRORED 1000000u
#define LOAD 50000u

typedef struct cache_world {
	const bench_pages *pages;
	uint32_t *order;
	uint32_t reads;
	pgs__disk_cache *cache;
	pgs__contents contents;
	pgs__page_id *ids;
	bench_lmdb lmdb;
	uint8_t (*hashes)[PGS__ID_HASH_SIZE];
} cache_world;

static const uint8_t *page_at(const cache_world *w, uint32_t i)
{
	return w->pages->data + (size_t)i * PAGE_SIZE;
}

/* --- ours ---------------------------------------------------------------------------------- */

static void open_cache(cache_world *w, const char *path)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs__disk_cache_options o = {.path = path, .size_bytes = CACHE_BYTES};
	pgs__contents *c = &w->contents;
	c->page_size = PAGE_SIZE;
	c->prefix[0] = 0x80;
	for (size_t i = 0; i < sizeof c->secret; i++)
		c->secret[i] = (uint8_t)(i * 37 + 11);
	pgs__workbench_pool_init(&c->benches, PAGE_SIZE, 1);
	bench_must(pgs__disk_cache_open(&w->cache, &o, &err), &err, "opening the cache");
	bench_must(pgs__disk_db_attach(&c->disk, w->cache, c->prefix, PAGE_SIZE, &err), &err, "attaching");
}

static void fill(cache_world *w)
{
	pgs_error err = PGS_ERROR_INIT;
	MDB_txn *txn = NULL;
	pgs__workbench *tools = pgs__workbench_take(&w->contents.benches);
	bench_check(tools && mdb_txn_begin(w->lmdb.env, NULL, 0, &txn) == 0, "filling");
	for (uint32_t i = 0; i < w->pages->count; i++) {
		uint64_t number = i;
		pgs_slice stored = pgs__compress_page(tools, page_at(w, i));
		MDB_val key = {sizeof number, &number}, value = {stored.size, (void *)(uintptr_t)stored.data};
		w->ids[i] = pgs__page_id_of(w->contents.secret, i, page_at(w, i), PAGE_SIZE);
		memcpy(w->hashes[i], w->ids[i].bytes + 4, PGS__ID_HASH_SIZE);
		pgs__disk_put(w->contents.disk, &w->ids[i], stored);
		bench_check(mdb_put(txn, w->lmdb.dbi, &key, &value, MDB_APPEND) == 0, "filling LMDB");
	}
	bench_check(mdb_txn_commit(txn) == 0, "filling LMDB");
	bench_must(pgs__disk_flush(w->cache, pgs__now_ms() + 10000, &err), &err, "flushing");
	pgs__workbench_give(&w->contents.benches, tools);
}

static double read_ours(void *ctx)
{
	cache_world *w = ctx;
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[PAGE_SIZE];
	double began = bench_seconds();
	for (uint32_t i = 0; i < w->reads; i++) {
		uint32_t number = w->order[i];
		pgs__want want = {.page_no = number, .id = w->ids[number], .page = page};
		bench_must(pgs__contents_fetch(&w->contents, &want, 1, 0, &err), &err, "fetching");
		bench_check(memcmp(page, page_at(w, number), 64) == 0, "a page");
	}
	return (bench_seconds() - began) / w->reads * 1e6;
}

/* --- LMDB, zstd and XXH3 -------------------------------------------------------------------- */

static double read_theirs(void *ctx)
{
	cache_world *w = ctx;
	uint8_t page[PAGE_SIZE];
	MDB_txn *txn = NULL;
	ZSTD_DCtx *context = ZSTD_createDCtx();
	bench_check(context && mdb_txn_begin(w->lmdb.env, NULL, MDB_RDONLY, &txn) == 0, "a read transaction");
	mdb_txn_reset(txn);
	double began = bench_seconds();
	for (uint32_t i = 0; i < w->reads; i++) {
		uint64_t number = w->order[i];
		uint8_t hash[PGS__ID_HASH_SIZE];
		MDB_val key = {sizeof number, &number}, value;
		bench_check(mdb_txn_renew(txn) == 0 && mdb_get(txn, w->lmdb.dbi, &key, &value) == 0, "mdb_get");
		if (value.mv_size == PAGE_SIZE)
			memcpy(page, value.mv_data, PAGE_SIZE);
		else
			bench_check(ZSTD_decompressDCtx(context, page, PAGE_SIZE, value.mv_data, value.mv_size) == PAGE_SIZE,
				    "unzstd");
		mdb_txn_reset(txn);
		XXH128_canonical_t canonical;
		XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSecret(page, PAGE_SIZE, w->contents.secret,
									      sizeof w->contents.secret));
		memcpy(hash, canonical.digest + 4, sizeof hash);
		bench_check(memcmp(hash, w->hashes[number], sizeof hash) == 0, "a hash");
		bench_check(memcmp(page, page_at(w, (uint32_t)number), 64) == 0, "a page");
	}
	double took = bench_seconds() - began;
	mdb_txn_abort(txn);
	ZSTD_freeDCtx(context);
	return took / w->reads * 1e6;
}

/* --- both -------------------------------------------------------------------------------------- */

static void open_lmdb(cache_world *w, const char *path)
{
	MDB_txn *txn = NULL;
	bool good = mdb_env_create(&w->lmdb.env) == 0 && mdb_env_set_mapsize(w->lmdb.env, CACHE_BYTES) == 0 &&
		    mdb_env_open(w->lmdb.env, path, MDB_NOSUBDIR | MDB_NOTLS | MDB_NOSYNC | MDB_NORDAHEAD, 0666) == 0 &&
		    mdb_txn_begin(w->lmdb.env, NULL, 0, &txn) == 0 &&
		    mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &w->lmdb.dbi) == 0 && mdb_txn_commit(txn) == 0;
	bench_check(good, "opening LMDB");
}

static void run_read(const bench_env *env, bench_result *out)
{
	char path[BENCH_PATH_MAX];
	cache_world w = {.pages = bench_real_pages(env, env->quick ? 4u << 20 : 256u << 20)};
	w.reads = w.pages->count < 50000 ? w.pages->count : 50000;
	w.order = bench_shuffled(w.pages->count, 1);
	w.ids = bench_alloc(w.pages->count * sizeof *w.ids);
	w.hashes = bench_alloc(w.pages->count * sizeof *w.hashes);
	open_cache(&w, bench_path(env, "cache", path));
	open_lmdb(&w, bench_path(env, "cache-lmdb", path));
	fill(&w);
	bench_compare(env, read_ours, read_theirs, &w, out);
	pgs__disk_stat stat;
	bench_must(pgs__disk_stat_get(w.cache, &stat, NULL), NULL, "counting");
	bench_check(stat.misses == 0 && stat.bad == 0 && stat.dropped == 0, "all pages were in the cache");
	printf("# %llu pages, %.1f MB compressed, %.1f MB in the file\n", (unsigned long long)stat.content_count,
	       (double)stat.content_bytes / 1e6, (double)stat.used_bytes / 1e6);
	pgs__disk_db_detach(w.contents.disk);
	pgs__disk_cache_close(w.cache);
	pgs__workbench_pool_free(&w.contents.benches);
	mdb_env_close(w.lmdb.env);
	free(w.order);
	free(w.ids);
	free(w.hashes);
}

const bench bench_cache_read = {"cache_read", "LMDB get + unzstd + XXH3", "µs", 1.3, false, run_read};

/* --- memory ------------------------------------------------------------------------------------- */

static void load(pgs__disk_db *db, const uint8_t *prefix, uint32_t count)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs__key *keys = bench_alloc(LOAD * sizeof *keys);
	pgs_kv_pair *pairs = bench_alloc(LOAD * sizeof *pairs);
	pgs__pointer pointer = {.kind = PGS__POINTER_FULL};
	pgs__buffer value = {0};
	pgs__pointer_encode(&pointer, &value);
	bench_must(pgs__mirror_load_begin(db, 10, 0, &err), &err, "loading");
	for (uint32_t first = 0; first < count; first += LOAD) {
		uint32_t n = count - first < LOAD ? count - first : LOAD;
		for (uint32_t i = 0; i < n; i++) {
			keys[i] = pgs__key_page(prefix, first + i);
			pairs[i] = (pgs_kv_pair){.key = pgs__key_slice(&keys[i]), .value = pgs__buffer_slice(&value),
						 .create_revision = 5, .mod_revision = 5, .version = 1};
		}
		pgs__key end = pgs__key_page(prefix, first + n);
		bench_must(pgs__mirror_load_range(db, 10, pairs[0].key, pgs__key_slice(&end), pairs, n, 0, &err), &err,
			   "loading");
	}
	bench_must(pgs__mirror_load_end(db, 10, 0, &err), &err, "loading");
	pgs__buffer_free(&value);
	free(keys);
	free(pairs);
}

static void run_memory(const bench_env *env, bench_result *out)
{
	char path[BENCH_PATH_MAX];
	pgs_error err = PGS_ERROR_INIT;
	const uint8_t prefix[PGS__PREFIX_SIZE] = {0x80};
	pgs__disk_cache_options o = {.path = bench_path(env, "mirror", path), .size_bytes = CACHE_BYTES};
	pgs__disk_cache *cache;
	pgs__disk_db *db;
	uint32_t count = env->quick ? 2 * LOAD : MIRRORED;
	bench_memory memory;
	double began = bench_seconds();
	bench_memory_start(&memory);
	for (int again = 0; again < 2; again++) {
		bench_must(pgs__disk_cache_open(&cache, &o, &err), &err, "opening the cache");
		bench_must(pgs__disk_db_attach(&db, cache, prefix, PAGE_SIZE, &err), &err, "attaching");
		if (again)
			break;
		load(db, prefix, count);
		printf("# loaded %u pointers in %.1f s\n", count, bench_seconds() - began);
		pgs__disk_db_detach(db);
		pgs__disk_cache_close(cache);
	}
	began = bench_seconds();
	pgs__mirror_state state;
	bench_must(pgs__mirror_state_get(db, &state, &err), &err, "reading the mirror"); /* holds it against its digest */
	printf("# proved %llu pointers in %.0f ms\n", (unsigned long long)state.keys, (bench_seconds() - began) * 1e3);
	bench_check(state.keys == count, "all were loaded");
	out->ours = bench_memory_end(&memory);
	out->baseline = 64;
	pgs__disk_db_detach(db);
	pgs__disk_cache_close(cache);
}

const bench bench_cache_memory = {"cache_memory", "64 MiB", "MiB", 1, false, run_memory};
