/* Bulk commits and cold reads of a database on a cluster: etcd and an S3 server, both real, on this machine, against
 * libcurl moving the same compressed bytes to and from that S3 server. */
#include "s3_fixture.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define MIB ((uint64_t)1 << 20)
#define CURL_RANGE (4 * MIB)
#define POINT_RANGE 4096
#define POINTS 400

/* --- the data ----------------------------------------------------------------------------- */

typedef struct bulk {
	cluster c;
	const bench_pages *pages;
	uint8_t *frames, *came; /* the pages compressed, one after another; and what was downloaded */
	uint64_t *offsets;      /* of frames; one past the last is the end */
	uint64_t frame_bytes;
	uint64_t gets;          /* of the last scan */
} bulk;

static void compress_pages(bulk *b)
{
	const bench_pages *p = b->pages;
	const size_t room = ZSTD_compressBound(p->page_size);
	ZSTD_CCtx *compressor = ZSTD_createCCtx();
	b->frames = bench_alloc(p->count * (size_t)p->page_size + room);
	b->offsets = bench_alloc((p->count + 1) * sizeof *b->offsets);
	bench_check(compressor != NULL, "out of memory");
	for (uint32_t i = 0; i < p->count; i++) {
		size_t size = ZSTD_compressCCtx(compressor, b->frames + b->frame_bytes, room,
			p->data + (size_t)i * p->page_size, p->page_size, 1);
		bench_check(!ZSTD_isError(size) && size <= p->page_size, "zstd");
		b->offsets[i] = b->frame_bytes;
		b->frame_bytes += size;
	}
	b->offsets[p->count] = b->frame_bytes;
	ZSTD_freeCCtx(compressor);
	b->came = bench_alloc(b->frame_bytes);
}

static bool bulk_start(bulk *b, const bench_env *env, bench_result *out)
{
	*b = (bulk){0};
	if (!cluster_start(&b->c, env, out))
		return false;
	b->pages = bench_real_pages(env, (env->quick ? 4 : 256) * MIB);
	compress_pages(b);
	return true;
}

static void bulk_stop(bulk *b)
{
	cluster_stop(&b->c);
	free(b->frames);
	free(b->offsets);
	free(b->came);
}

static const uint8_t *page_at(const bulk *b, uint32_t number)
{
	return b->pages->data + (size_t)number * b->pages->page_size;
}

static double megabytes_per_second(const bulk *b, double since)
{
	return (double)b->pages->count * b->pages->page_size / 1e6 / (bench_seconds() - since);
}

/* --- importing ------------------------------------------------------------------------------- */

static double write_all(const bulk *b, pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *t;
	options.write = true;
	double since = bench_seconds();
	bench_must(pgs_begin(&t, db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < b->pages->count; i++)
		bench_must(pgs_write(t, i, page_at(b, i)), pgs_txn_error(t), "pgs_write");
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
	return megabytes_per_second(b, since);
}

static double import_ours(void *ctx)
{
	bulk *b = ctx;
	bench_db db;
	cluster_empty_bucket(&b->c); /* the server has it in memory */
	cluster_create_db(&b->c, &db);
	double speed = write_all(b, db.db);
	bench_db_close(&db);
	return speed;
}

static double import_curl(void *ctx)
{
	bulk *b = ctx;
	cluster_empty_bucket(&b->c);
	double since = bench_seconds();
	cluster_upload(&b->c, b->frames, b->frame_bytes);
	return megabytes_per_second(b, since);
}

/* --- scanning ----------------------------------------------------------------------------------- */

static void add_gets(void *ctx, const pgs_operation_stat *stat)
{
	if (!strcmp(stat->backend, "s3") && !strcmp(stat->operation, "get"))
		((bulk *)ctx)->gets += stat->requests;
}

static double scan_ours(void *ctx)
{
	bulk *b = ctx;
	pgs_error err = PGS_ERROR_INIT;
	bench_db db;
	pgs_txn *t;
	uint8_t page[4096];
	b->gets = 0;
	double since = bench_seconds();
	cluster_open_db(&b->c, &db);
	bench_must(pgs_begin(&t, db.db, NULL, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < b->pages->count; i++) {
		bench_must(pgs_read(t, i, page), pgs_txn_error(t), "pgs_read");
		bench_check(memcmp(page, page_at(b, i), sizeof page) == 0, "an imported page reads otherwise");
	}
	double speed = megabytes_per_second(b, since);
	pgs_abort(t);
	bench_must(pgs_store_operations(db.store, add_gets, b, &err), &err, "pgs_store_operations");
	bench_db_close(&db);
	return speed;
}

static void fetch_frames(bulk *b)
{
	CURL *easy = cluster_curl(&b->c);
	for (uint64_t at = 0; at < b->frame_bytes; at += CURL_RANGE) {
		uint64_t left = b->frame_bytes - at;
		cluster_download(easy, at, b->came + at, left < CURL_RANGE ? left : CURL_RANGE);
	}
	curl_easy_cleanup(easy);
}

static double scan_curl(void *ctx)
{
	bulk *b = ctx;
	double since = bench_seconds();
	fetch_frames(b);
	double speed = megabytes_per_second(b, since);
	bench_check(memcmp(b->came, b->frames, b->frame_bytes) == 0, "curl: other bytes came");
	return speed;
}

/* And what any reader of such frames has to do as well, in the same thread. */
static double scan_curl_unzstd(void *ctx)
{
	bulk *b = ctx;
	uint8_t page[4096];
	ZSTD_DCtx *decompressor = ZSTD_createDCtx();
	bench_check(decompressor != NULL, "out of memory");
	double since = bench_seconds();
	fetch_frames(b);
	for (uint32_t i = 0; i < b->pages->count; i++) {
		const uint8_t *frame = b->came + b->offsets[i];
		bench_check(ZSTD_decompressDCtx(decompressor, page, sizeof page, frame,
				(size_t)(b->offsets[i + 1] - b->offsets[i])) == sizeof page, "unzstd");
		bench_check(memcmp(page, page_at(b, i), sizeof page) == 0, "a frame gives another page");
	}
	double speed = megabytes_per_second(b, since);
	ZSTD_freeDCtx(decompressor);
	return speed;
}

static void run_bulk(const bench_env *env, bench_result *out)
{
	bulk b;
	if (!bulk_start(&b, env, out))
		return;
	import_ours(&b);
	scan_ours(&b); /* verifies */
	bench_compare(env, import_ours, import_curl, &b, out);
	bulk_stop(&b);
}

static void load(bulk *b)
{
	import_ours(b);
	cluster_upload(&b->c, b->frames, b->frame_bytes);
}

static void scan_against(const bench_env *env, bench_side baseline, bench_result *out)
{
	bulk b;
	if (!bulk_start(&b, env, out))
		return;
	load(&b);
	bench_compare(env, scan_ours, baseline, &b, out);
	bulk_stop(&b);
}

static void run_scan(const bench_env *env, bench_result *out)
{
	scan_against(env, scan_curl, out);
}

static void run_scan_unzstd(const bench_env *env, bench_result *out)
{
	scan_against(env, scan_curl_unzstd, out);
}

/* All that a process reads for it: contents, tables, pointers. */
static void run_scan_gets(const bench_env *env, bench_result *out)
{
	bulk b;
	if (!bulk_start(&b, env, out))
		return;
	load(&b);
	scan_ours(&b);
	out->ours = (double)b.gets;
	out->baseline = (double)b.frame_bytes / (double)MIB;
	bulk_stop(&b);
}

/* --- single pages ------------------------------------------------------------------------------- */

typedef struct points {
	bulk b;
	bench_db db;
	CURL *easy;
	uint32_t *order;
	uint32_t count, next; /* pages read in this round, and so far: none comes twice */
} points;

static double read_points(void *ctx)
{
	points *p = ctx;
	double seconds[POINTS];
	uint8_t page[4096];
	pgs_error err = PGS_ERROR_INIT;
	for (uint32_t i = 0; i < p->count; i++) {
		uint32_t number = p->order[p->next++ % p->b.pages->count];
		pgs_txn *t;
		double since = bench_seconds();
		bench_must(pgs_begin(&t, p->db.db, NULL, &err), &err, "pgs_begin");
		bench_must(pgs_read(t, number, page), pgs_txn_error(t), "pgs_read");
		pgs_abort(t);
		seconds[i] = bench_seconds() - since;
		bench_check(memcmp(page, page_at(&p->b, number), sizeof page) == 0, "a page reads otherwise");
	}
	return bench_median(seconds, p->count) * 1e6;
}

static double curl_points(void *ctx)
{
	points *p = ctx;
	double seconds[POINTS];
	uint8_t bytes[POINT_RANGE];
	for (uint32_t i = 0; i < p->count; i++) {
		uint64_t offset = (uint64_t)p->order[i] * 100 % (p->b.frame_bytes - sizeof bytes);
		double since = bench_seconds();
		cluster_download(p->easy, offset, bytes, sizeof bytes);
		seconds[i] = bench_seconds() - since;
		bench_check(memcmp(bytes, p->b.frames + offset, sizeof bytes) == 0, "curl: other bytes came");
	}
	return bench_median(seconds, p->count) * 1e6;
}

static void read_from(const bench_env *env, bool local_kv, bench_result *out)
{
	points p = {0};
	pgs_error err = PGS_ERROR_INIT;
	if (!bulk_start(&p.b, env, out))
		return;
	p.b.c.local_kv = local_kv;
	load(&p.b);
	cluster_open_db(&p.b.c, &p.db);
	bench_must(pgs_maintain(p.db.db, NULL, NULL, &err), &err, "pgs_maintain"); /* folds the import's pack */
	bench_db_close(&p.db);
	cluster_open_db(&p.b.c, &p.db);
	p.easy = cluster_curl(&p.b.c);
	p.order = bench_shuffled(p.b.pages->count, 1);
	p.count = env->quick ? 20 : POINTS;
	bench_compare(env, read_points, curl_points, &p, out);
	curl_easy_cleanup(p.easy);
	bench_db_close(&p.db);
	free(p.order);
	bulk_stop(&p.b);
}

static void run_points(const bench_env *env, bench_result *out)
{
	read_from(env, false, out);
}

static void run_points_local(const bench_env *env, bench_result *out)
{
	read_from(env, true, out);
}

const bench bench_s3_bulk = {"s3_bulk", "curl: one PUT of the frames", "MB/s", 0.7, true, run_bulk};
const bench bench_s3_cold_scan = {"s3_cold_scan", "curl: GETs of 4 MiB of frames", "MB/s", 0.7, true, run_scan};
const bench bench_s3_cold_scan_unzstd = {
	"s3_cold_scan_unzstd", "the same GETs, and unzstd", "MB/s", 0.7, true, run_scan_unzstd};
const bench bench_s3_cold_scan_gets = {"s3_cold_scan_gets", "MiB stored", "GETs", 1.0, false, run_scan_gets};
const bench bench_s3_cold_point = {"s3_cold_point", "curl: one GET of 4 KiB", "us", 2.2, false, run_points};
const bench bench_s3_cold_point_local = {
	"s3_cold_point_local", "curl: one GET of 4 KiB", "us", 2.2, false, run_points_local};
