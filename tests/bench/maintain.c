/* What maintenance costs: its speed, the room that garbage takes, how often bytes are written again, its memory, and
 * how long it makes readers wait. On a local directory, with the default thresholds. */
#include "fixtures.h"

#include "util/hooks.h"
#include "util/process.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define PAGE 4096

/* A database that nobody maintains but the benchmark. */
typedef struct kept {
	const bench_env *env;
	char url[BENCH_PATH_MAX], path[BENCH_PATH_MAX];
	bench_db db;
	uint32_t page_size, page_count;
	uint32_t level0_files;  /* before they are merged; 0 = the default */
	bench_random random;
	uint64_t content_bytes; /* committed as full contents, as stored */
	uint64_t written_bytes; /* to the blob store, commits' files and maintenance's */
} kept;

static void open_kept(kept *k, const bench_env *env, const char *name, uint32_t page_size, uint32_t page_count)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options store = PGS_STORE_OPTIONS_INIT;
	pgs_db_options db = PGS_DB_OPTIONS_INIT;
	*k = (kept){.env = env, .page_size = page_size, .page_count = page_count, .random = {11}};
	bench_url(env, name, k->url);
	if (strcmp(name, "hot") == 0 || strcmp(name, "room") == 0)
		strcat(k->url, "?sync=off"); /* only room is measured */
	bench_path(env, name, k->path);
	store.maintenance = PGS_MAINTENANCE_MANUAL;
	if (strcmp(name, "compact") == 0)
		store.kv_history = PGS_KV_HISTORY_SHARED; /* forgetting the KV's history is not what is measured */
	db.page_size_bytes = page_size;
	bench_must(pgs_open(&k->db.store, k->url, &store, &err), &err, k->url);
	bench_must(pgs_db_create(&k->db.db, k->db.store, "bench", 5, &db, &err), &err, "pgs_db_create");
}

static void close_kept(kept *k)
{
	bench_db_close(&k->db);
	bench_remove_tree(k->path);
}

/* Half of it random, half of it zeros: zstd makes half of it. */
static void fresh_page(kept *k, uint8_t *page)
{
	for (size_t i = 0; i < k->page_size; i += 16) {
		uint64_t words[2] = {bench_random_next(&k->random), 0};
		memcpy(page + i, words, sizeof words);
	}
}

/* Commit `count` pages, `next` telling which. */
static void commit_pages(kept *k, uint32_t count, uint32_t (*next)(kept *, uint32_t), uint32_t from)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	uint8_t *page = bench_alloc(k->page_size);
	pgs_txn *t;
	options.write = true;
	bench_must(pgs_begin(&t, k->db.db, &options, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < count; i++) {
		fresh_page(k, page);
		bench_must(pgs_write(t, next(k, from + i), page), pgs_txn_error(t), "pgs_write");
	}
	bench_must(pgs_commit(t, NULL, NULL, &err), &err, "pgs_commit");
	free(page);
}

static uint32_t in_order(kept *k, uint32_t i)
{
	return i % k->page_count;
}

/* Every page once, neighbours far from each other. */
static uint32_t scattered(kept *k, uint32_t i)
{
	return (uint32_t)((uint64_t)i * 7919 % k->page_count);
}

static uint32_t at_random(kept *k, uint32_t i)
{
	(void)i;
	return (uint32_t)(bench_random_next(&k->random) % k->page_count);
}

static void maintain(kept *k, bool all, pgs_maintain_report *report)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	*report = (pgs_maintain_report)PGS_MAINTAIN_REPORT_INIT;
	options.retention_ms = PGS_RETENTION_NONE;
	options.all = all;
	options.level0_files = k->level0_files;
	bench_must(pgs_maintain(k->db.db, &options, report, &err), &err, "pgs_maintain");
	k->written_bytes += report->bytes_written;
}

static pgs_db_stat stat_of(const kept *k)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	bench_must(pgs_stat(k->db.db, &stat, &err), &err, "pgs_stat");
	return stat;
}

/* --- speed --------------------------------------------------------------------------- */

/* Copy every blob of the database, hashing on the way: what moving the same bytes costs at the least. */
static uint64_t copy_file(const char *from, int to, uint8_t *buffer, size_t size)
{
	uint64_t bytes = 0;
	int in = open(from, O_RDONLY);
	bench_check(in >= 0, "opening a file to copy");
	for (ssize_t got; (got = read(in, buffer, size)) > 0; bytes += (uint64_t)got) {
		volatile uint64_t hash = XXH3_64bits(buffer, (size_t)got);
		(void)hash;
		for (ssize_t done = 0, wrote; done < got; done += wrote) {
			wrote = write(to, buffer + done, (size_t)(got - done));
			bench_check(wrote > 0, "writing the copy");
		}
	}
	close(in);
	return bytes;
}

static double copy_speed(const bench_env *env, const char *from, uint64_t *bytes)
{
	char path[BENCH_PATH_MAX];
	size_t size = 1u << 20;
	uint8_t *buffer = bench_alloc(size);
	bench_path(env, "copy", path);
	double since = bench_seconds();
	int to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	bench_check(to >= 0, "opening the copy");
	*bytes = copy_file(from, to, buffer, size);
	bench_check(fsync(to) == 0 && close(to) == 0, "syncing the copy");
	double speed = (double)*bytes / 1e6 / (bench_seconds() - since);
	unlink(path);
	free(buffer);
	return speed;
}

/* The same bytes as one plain file. */
static void make_plain(const bench_env *env, uint64_t bytes, char path[BENCH_PATH_MAX])
{
	bench_random random = {5};
	size_t size = 1u << 20;
	uint64_t *buffer = bench_alloc(size);
	bench_path(env, "plain", path);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	bench_check(fd >= 0, "making a plain file");
	for (uint64_t done = 0; done < bytes; done += size) {
		for (size_t i = 0; i < size / sizeof *buffer; i++)
			buffer[i] = bench_random_next(&random);
		bench_check(write(fd, buffer, size) == (ssize_t)size, "writing a plain file");
	}
	bench_check(fsync(fd) == 0 && close(fd) == 0, "syncing a plain file");
	free(buffer);
}

/* `merging`: only level 0 into level 1. */
static void run_compaction(const bench_env *env, bool merging, bench_result *out)
{
	kept k;
	char plain[BENCH_PATH_MAX];
	uint32_t count = (env->quick ? 16u << 20 : 1u << 30) / PAGE;
	pgs_maintain_report report;
	open_kept(&k, env, "compact", PAGE, count);
	k.level0_files = merging ? 1000 : 0; /* the last call merges them all */
	double took = 0;
	for (uint32_t i = 0; i < count; i += 128) { /* too few at a time for a file of their own */
		commit_pages(&k, 128, scattered, i);
		if ((i + 128) % (count / 4) != 0)
			continue;
		double since = bench_seconds();
		maintain(&k, false, &report); /* a quarter goes to level 0 */
		took += merging ? 0 : bench_seconds() - since;
	}
	double since = bench_seconds();
	maintain(&k, true, &report); /* all into level 1 */
	took += bench_seconds() - since;
	pgs_db_stat stat = stat_of(&k);
	bench_check(stat.kv_content_count == 0 && stat.level0_count == 0, "not all is in level 1");
	bench_check(!merging || report.merges > 0, "nothing was merged");
	uint64_t moved = merging ? report.bytes_written : stat.file_bytes, bytes = 1;
	make_plain(env, moved, plain);
	out->baseline = copy_speed(env, plain, &bytes);
	out->ours = (double)moved / 1e6 / took;
	unlink(plain);
	close_kept(&k);
}

static void run_speed(const bench_env *env, bench_result *out)
{
	run_compaction(env, false, out);
}

static void run_merge(const bench_env *env, bench_result *out)
{
	run_compaction(env, true, out);
}

/* --- room ------------------------------------------------------------------------------ */

#define OVERWRITES 10
#define COMMIT_PAGES 100

/* Ten times overwritten at random, maintained as it is due; then once thoroughly. */
static void overwrite(kept *k, const bench_env *env, pgs_maintain_report *last)
{
	uint32_t pages = env->quick ? 2048 : 32768;
	open_kept(k, env, "room", PAGE, pages);
	for (uint32_t i = 0; i < pages; i += COMMIT_PAGES)
		commit_pages(k, COMMIT_PAGES, in_order, i);
	for (uint32_t i = 0; i < OVERWRITES * pages; i += COMMIT_PAGES) {
		commit_pages(k, COMMIT_PAGES, at_random, i);
		if (i / COMMIT_PAGES % 25 == 24)
			maintain(k, false, last);
	}
	maintain(k, true, last);
}

/* What the contents take that are live, compressed as they are stored. */
static double live_bytes(const kept *k)
{
	return (double)k->page_count * (PAGE / 2); /* see fresh_page(); the frames' headers are left out */
}

static void run_space(const bench_env *env, bench_result *out)
{
	kept k;
	pgs_maintain_report report;
	overwrite(&k, env, &report);
	out->ours = (double)stat_of(&k).blob_bytes;
	out->baseline = live_bytes(&k);
	close_kept(&k);
}

static void run_write(const bench_env *env, bench_result *out)
{
	kept k;
	pgs_maintain_report report;
	overwrite(&k, env, &report);
	out->ours = (double)k.written_bytes;
	out->baseline = (double)(OVERWRITES + 1) * live_bytes(&k);
	close_kept(&k);
}

/* --- room while it is written to ------------------------------------------------------------- */

/* A made-up clock: 20 hours pass in a minute. */
static _Atomic uint64_t clock_ms = 1000000;

static uint64_t made_up_now(void)
{
	return clock_ms;
}

static int64_t made_up_unix(void)
{
	return INT64_C(1700000000000) + (int64_t)clock_ms;
}

static void made_up_sleep(uint32_t ms)
{
	clock_ms += ms;
}

static void random_bytes(void *out, size_t size)
{
	bench_check(getentropy(out, size) == 0, "getentropy");
}

static void this_process(pgs__process *out)
{
	*out = (pgs__process){.pid = (uint64_t)getpid()};
}

static bool is_gone(const pgs__process *process)
{
	(void)process;
	return false;
}

#define HOT_SIZES 20           /* database sizes written, */
#define HOT_HOURS 20           /* in so long, */
#define HOT_RETENTION_MINUTES 10
#define HOT_STEP_MINUTES 2     /* maintained so often */

/* The worst of (stored / (live + retained)) after the first quarter; *growth: the last quarter's mean over the second's. */
static double hot_ratio(kept *k, uint32_t hours, double *growth)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	const uint32_t steps = hours * 60 / HOT_STEP_MINUTES, each = k->page_count * HOT_SIZES / HOT_HOURS * HOT_STEP_MINUTES / 60;
	double worst = 0, quarters[4] = {0};
	options.retention_ms = HOT_RETENTION_MINUTES * 60000;
	for (uint32_t i = 0; i < steps; i++) {
		for (uint32_t done = 0; done < each; done += COMMIT_PAGES)
			commit_pages(k, each - done < COMMIT_PAGES ? each - done : COMMIT_PAGES, at_random, 0);
		clock_ms += HOT_STEP_MINUTES * 60000;
		bench_must(pgs_maintain(k->db.db, &options, NULL, &err), &err, "pgs_maintain");
		pgs_db_stat stat = stat_of(k);
		double stored = (double)stat.blob_bytes + (double)stat.kv_content_count * PAGE / 2;
		double needed = live_bytes(k) + (double)each * HOT_RETENTION_MINUTES / HOT_STEP_MINUTES * PAGE / 2;
		quarters[i * 4 / steps] += stored;
		if (i >= steps / 4 && stored / needed > worst)
			worst = stored / needed;
	}
	*growth = quarters[3] / quarters[1];
	return worst;
}

static void run_hot(const bench_env *env, bench_result *out)
{
	static const pgs__system made_up = {made_up_now, made_up_unix, made_up_sleep,
					    random_bytes, this_process, is_gone, NULL};
	kept k;
	double growth;
	pgs__hooks = &made_up;
	open_kept(&k, env, "hot", PAGE, env->quick ? 4096 : 32768);
	for (uint32_t i = 0; i < k.page_count; i += COMMIT_PAGES)
		commit_pages(&k, COMMIT_PAGES, in_order, i);
	out->ours = hot_ratio(&k, env->quick ? 2 : HOT_HOURS, &growth);
	out->baseline = 1;
	bench_check(env->quick || growth < 1.1, "it grows");
	close_kept(&k);
	pgs__hooks = NULL;
}

/* --- memory ------------------------------------------------------------------------------- */

static void run_memory(const bench_env *env, bench_result *out)
{
	kept k;
	bench_memory memory;
	pgs_maintain_report report;
	uint32_t count = (uint32_t)((env->quick ? 64ull << 20 : 8ull << 30) / 65536); /* half of it stays after zstd */
	open_kept(&k, env, "memory", 65536, count);
	for (uint32_t i = 0; i < count; i += 1024) /* files of 32 MiB in level 0 */
		commit_pages(&k, count < 1024 ? count : 1024, scattered, i);
	bench_memory_start(&memory);
	maintain(&k, true, &report);
	out->ours = bench_memory_end(&memory);
	bench_check(env->quick || report.bytes_read >= 4ull << 30, "less was merged than was meant to be");
	out->baseline = 96;
	close_kept(&k);
}

/* --- readers meanwhile ----------------------------------------------------------------------- */

typedef struct reading {
	kept *k;
	bench_random random;
	_Atomic bool stop;
	double *times;
	size_t count, capacity;
} reading;

/* Reads of random pages, most of them not in the cache. */
static void read_some(reading *r, size_t most)
{
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[PAGE];
	pgs_txn *t;
	bench_must(pgs_begin(&t, r->k->db.db, NULL, &err), &err, "pgs_begin");
	for (size_t i = 0; i < most && !r->stop && r->count < r->capacity; i++) {
		uint64_t page_no = bench_random_next(&r->random) % r->k->page_count;
		double since = bench_seconds();
		bench_must(pgs_read(t, page_no, page), pgs_txn_error(t), "pgs_read");
		r->times[r->count++] = bench_seconds() - since;
	}
	pgs_abort(t);
}

static void *read_on(void *ctx)
{
	reading *r = ctx;
	while (!r->stop && r->count < r->capacity)
		read_some(r, 1000);
	return NULL;
}

static int by_time(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double p99_us(reading *r)
{
	qsort(r->times, r->count, sizeof *r->times, by_time);
	return r->times[r->count * 99 / 100] * 1e6;
}

static void run_stall(const bench_env *env, bench_result *out)
{
	kept k;
	pgs_maintain_report report;
	pthread_t thread;
	uint32_t pages = env->quick ? 4096 : 131072;
	reading idle = {.random = {1}, .capacity = env->quick ? 2000 : 200000}, busy = idle;
	open_kept(&k, env, "stall", PAGE, pages);
	for (uint32_t i = 0; i < pages; i += 2048)
		commit_pages(&k, 2048, in_order, i);
	maintain(&k, true, &report);
	for (uint32_t i = 0; i < pages; i += 2048)
		commit_pages(&k, 2048, at_random, i);
	busy.capacity *= 10;
	idle.k = busy.k = &k;
	idle.times = bench_alloc(idle.capacity * sizeof *idle.times);
	busy.times = bench_alloc(busy.capacity * sizeof *busy.times);
	read_some(&idle, idle.capacity / 2); /* to warm up */
	idle.count = 0;
	read_some(&idle, idle.capacity);
	bench_check(pthread_create(&thread, NULL, read_on, &busy) == 0, "starting a thread");
	maintain(&k, true, &report);
	busy.stop = true;
	pthread_join(thread, NULL);
	bench_check(busy.count > 100 && report.merges > 0, "nothing was read during the merge");
	out->ours = p99_us(&busy);
	out->baseline = p99_us(&idle);
	free(idle.times);
	free(busy.times);
	close_kept(&k);
}

const bench bench_compact_speed = {"compact_speed", "copying the same bytes: read, XXH3, write, fsync", "MB/s", 0.5,
				   true, run_speed};
const bench bench_merge_speed = {"merge_speed", "copying the same bytes: read, XXH3, write, fsync", "MB/s", 0.5, true,
				 run_merge};
const bench bench_space_amp_hot = {"space_amp_hot", "the live and retained contents, compressed", "ratio", 1.6, false,
				   run_hot};
const bench bench_space_amp = {"space_amp", "the live contents, compressed", "B", 1.3, false, run_space};
const bench bench_write_amp = {"write_amp", "the contents committed, compressed", "B", 8, false, run_write};
const bench bench_maintain_memory = {"maintain_memory", "96 MiB", "MiB", 1, false, run_memory};
const bench bench_reader_stall = {"reader_stall", "p99 of a read while nothing is merged", "us", 3, false, run_stall};
