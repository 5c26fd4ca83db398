/* Bulk import and cold scans of real pages on a local directory, against zstd and plain files. */
#include "fixtures.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

typedef struct bulk {
	const bench_env *env;
	const bench_pages *pages;
	char url[BENCH_PATH_MAX], path[BENCH_PATH_MAX]; /* ours */
	char file[BENCH_PATH_MAX];                      /* the baseline's frames */
	ZSTD_CCtx *compressor;
	ZSTD_DCtx *decompressor;
	uint64_t *offsets; /* of frames; one past the last is the end */
} bulk;

static void set_up(const bench_env *env, bulk *b)
{
	*b = (bulk){.env = env, .pages = bench_real_pages(env, (uint64_t)(env->quick ? 4 : 256) << 20)};
	bench_url(env, "bulk", b->url);
	bench_path(env, "bulk", b->path);
	bench_path(env, "frames", b->file);
	b->compressor = ZSTD_createCCtx();
	b->decompressor = ZSTD_createDCtx();
	b->offsets = bench_alloc((b->pages->count + 1) * sizeof *b->offsets);
	bench_check(b->compressor && b->decompressor, "out of memory");
	ZSTD_CCtx_setParameter(b->compressor, ZSTD_c_compressionLevel, 1);
}

static void tear_down(bulk *b)
{
	bench_remove_tree(b->path);
	unlink(b->file);
	ZSTD_freeCCtx(b->compressor);
	ZSTD_freeDCtx(b->decompressor);
	free(b->offsets);
}

static const uint8_t *page_at(const bulk *b, uint32_t number)
{
	return b->pages->data + (size_t)number * b->pages->page_size;
}

static double megabytes_per_second(const bulk *b, double since)
{
	return (double)b->pages->count * b->pages->page_size / 1e6 / (bench_seconds() - since);
}

/* --- importing -------------------------------------------------------------------- */

static double import_ours(void *ctx)
{
	bulk *b = ctx;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	bench_db db;
	pgs_txn *t;
	bench_remove_tree(b->path);
	bench_db_create(&db, b->url, b->pages->page_size, 0);
	options.write = true;
	double since = bench_seconds();
	bench_must(pgs_begin(&t, db.db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < b->pages->count; i++)
		bench_must(pgs_write(t, i, page_at(b, i)), pgs_txn_error(t), "pgs_write");
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
	double speed = megabytes_per_second(b, since);
	bench_db_close(&db);
	return speed;
}

static void write_all(int fd, const uint8_t *data, size_t size)
{
	while (size) {
		ssize_t wrote = write(fd, data, size);
		bench_check(wrote > 0, "writing frames");
		data += wrote;
		size -= (size_t)wrote;
	}
}

static double import_frames(void *ctx)
{
	bulk *b = ctx;
	size_t capacity = 1u << 20, used = 0, room = ZSTD_compressBound(b->pages->page_size);
	uint8_t *buffer = bench_alloc(capacity);
	uint64_t offset = 0;
	unlink(b->file);
	double since = bench_seconds();
	int fd = open(b->file, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	bench_check(fd >= 0, "opening a file of frames");
	for (uint32_t i = 0; i < b->pages->count; i++) {
		if (used + room > capacity) {
			write_all(fd, buffer, used);
			used = 0;
		}
		size_t size = ZSTD_compress2(b->compressor, buffer + used, capacity - used, page_at(b, i),
					     b->pages->page_size);
		bench_check(!ZSTD_isError(size), "zstd");
		b->offsets[i] = offset;
		offset += size;
		used += size;
	}
	b->offsets[b->pages->count] = offset;
	write_all(fd, buffer, used);
	bench_check(fsync(fd) == 0 && close(fd) == 0, "syncing frames");
	double speed = megabytes_per_second(b, since);
	free(buffer);
	return speed;
}

/* --- scanning ------------------------------------------------------------------------ */

static double scan_ours(void *ctx)
{
	bulk *b = ctx;
	pgs_error err = PGS_ERROR_INIT;
	bench_db db;
	pgs_txn *t;
	uint8_t page[4096];
	double since = bench_seconds();
	bench_must(pgs_open(&db.store, b->url, NULL, &err), &err, b->url);
	bench_must(pgs_db_open(&db.db, db.store, "bench", 5, NULL, &err), &err, "pgs_db_open");
	bench_must(pgs_begin(&t, db.db, NULL, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < b->pages->count; i++) {
		bench_must(pgs_read(t, i, page), pgs_txn_error(t), "pgs_read");
		bench_check(memcmp(page, page_at(b, i), sizeof page) == 0, "an imported page reads otherwise");
	}
	double speed = megabytes_per_second(b, since);
	pgs_abort(t);
	bench_db_close(&db);
	return speed;
}

static double scan_frames(void *ctx)
{
	bulk *b = ctx;
	uint8_t frame[8192], page[4096];
	double since = bench_seconds();
	int fd = open(b->file, O_RDONLY);
	bench_check(fd >= 0, "opening the file of frames");
	for (uint32_t i = 0; i < b->pages->count; i++) {
		size_t size = (size_t)(b->offsets[i + 1] - b->offsets[i]);
		bench_check(pread(fd, frame, size, (off_t)b->offsets[i]) == (ssize_t)size, "reading a frame");
		bench_check(ZSTD_decompressDCtx(b->decompressor, page, sizeof page, frame, size) == sizeof page,
			    "zstd: decompressing");
		bench_check(memcmp(page, page_at(b, i), sizeof page) == 0, "a frame gives another page");
	}
	double speed = megabytes_per_second(b, since);
	close(fd);
	return speed;
}

static void run_import(const bench_env *env, bench_result *out)
{
	bulk b;
	set_up(env, &b);
	bench_compare(env, import_ours, import_frames, &b, out);
	scan_ours(&b); /* verifies */
	scan_frames(&b);
	tear_down(&b);
}

static void run_scan(const bench_env *env, bench_result *out)
{
	bulk b;
	set_up(env, &b);
	import_ours(&b);
	import_frames(&b);
	bench_compare(env, scan_ours, scan_frames, &b, out);
	tear_down(&b);
}

const bench bench_bulk_local = {"bulk_local", "zstd -1 of the pages + write + fsync", "MB/s", 0.7, true, run_import};
const bench bench_cold_scan_local = {"cold_scan_local", "pread + unzstd of the frames", "MB/s", 0.6, true, run_scan};
