/* Whose turn it is to be fetched, and how fast: see fetch.h. */
#include "follow/fetch.h"

#include "content/parts.h"
#include "follow/follower.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"

#define PAGES 1024                 /* fetched together, at the most */
#define BLOCK_BYTES (16u << 20)
#define BURST_MS 250               /* what is asked for at once is as much as the bound gives in that time */
#define IDLE_MS 1000
#define FAILED_MS 200              /* nothing is asked for after a failure */

/* --- beginning and ending ------------------------------------------------------------------ */

void pgs__fetcher_init(pgs__fetcher *f, pgs_db *db)
{
	pthread_condattr_t attributes;
	f->db = db;
	f->commits.max = f->hot.max = PGS__FETCH_PAGES_MAX;
	f->fill_page = f->again_page = f->hot_at = UINT64_MAX;
	pthread_mutex_init(&f->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&f->wake, &attributes);
	pthread_condattr_destroy(&attributes);
}

void pgs__fetcher_free(pgs__fetcher *f)
{
	pgs__page_queue_free(&f->commits);
	pgs__page_queue_free(&f->hot);
	pgs__file_queue_free(&f->files);
	pgs__snapshot_close(&f->at);
	pthread_cond_destroy(&f->wake);
	pthread_mutex_destroy(&f->lock);
}

static pgs__disk_ahead disk_stat(const pgs_db *db)
{
	return db->contents.disk ? pgs__disk_ahead_get(db->contents.disk) : (pgs__disk_ahead){0};
}

/* A copy in memory was used: the one in the cache file was fetched for something. */
static void used_in_memory(void *ctx, const pgs__page_id *stored)
{
	pgs__disk_used(ctx, stored);
}

void pgs__fetch_begin(pgs__fetcher *f, const pgs_follow_options *options)
{
	pgs__contents *contents = &f->db->contents;
	const pgs__disk_ahead disk = disk_stat(f->db);
	pthread_mutex_lock(&f->lock);
	f->options = *options;
	if (f->options.fetch == PGS_FETCH_DEFAULT)
		f->options.fetch = PGS_FETCH_HOT;
	f->fill_page = options->fetch == PGS_FETCH_ALL ? 0 : UINT64_MAX;
	f->hot_at = options->fetch == PGS_FETCH_NONE ? UINT64_MAX : 0;
	f->again_page = UINT64_MAX;
	f->next_ms = 0;
	f->before = disk;
	pthread_mutex_unlock(&f->lock);
	pgs__cache_on_use(contents->cache, contents->disk ? used_in_memory : NULL, contents->disk);
}

static void wait_for_work(pgs__fetcher *f)
{
	pthread_mutex_lock(&f->lock);
	uint64_t now = pgs__now_ms(), until_ms = f->next_ms > now ? f->next_ms : now + IDLE_MS;
	const struct timespec until = {(time_t)(until_ms / 1000), (long)(until_ms % 1000) * 1000000};
	if (!f->stop)
		pthread_cond_timedwait(&f->wake, &f->lock, &until);
	pthread_mutex_unlock(&f->lock);
}

static bool is_stopped(pgs__fetcher *f)
{
	pthread_mutex_lock(&f->lock);
	bool stop = f->stop;
	pthread_mutex_unlock(&f->lock);
	return stop;
}

static void *work(void *ctx)
{
	pgs__fetcher *f = ctx;
	while (!is_stopped(f))
		if (!pgs__fetch_some(f, pgs__db_deadline(f->db, 0)))
			wait_for_work(f);
	return NULL;
}

bool pgs__fetch_start(pgs__fetcher *f)
{
	f->stop = false;
	return f->options.fetch == PGS_FETCH_NONE || pgs__task_start(&f->thread, work, f);
}

void pgs__fetch_end(pgs__fetcher *f)
{
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
	pgs__task_join(&f->thread);
}

/* --- what waits ------------------------------------------------------------------------------- */

void pgs__fetch_at(pgs__fetcher *f, const pgs__snapshot *at)
{
	if (f->options.fetch == PGS_FETCH_NONE)
		return;
	pthread_mutex_lock(&f->lock);
	pgs__pack_view *old = f->at.packs;
	f->at = *at;
	pgs__pack_view_retain(f->at.packs);
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
	pgs__pack_view_release(old);
}

bool pgs__fetch_wants(const pgs__fetcher *f, uint64_t page_no)
{
	if (f->options.fetch == PGS_FETCH_NONE)
		return false;
	return f->options.fetch == PGS_FETCH_ALL || pgs__cache_knows(f->db->contents.cache, page_no);
}

/* Under the lock. A page was lost: G1. */
static void fill_again(pgs__fetcher *f, uint64_t page_no)
{
	if (f->options.fetch == PGS_FETCH_ALL && page_no < f->again_page)
		f->again_page = page_no;
}

void pgs__fetch_page_later(pgs__fetcher *f, int queue, const pgs__fetch_page *page)
{
	uint64_t dropped;
	pthread_mutex_lock(&f->lock);
	pgs__page_queue_push(queue == PGS_FETCH_QUEUE_COMMITS ? &f->commits : &f->hot, page, &dropped);
	f->done.dropped += dropped != UINT64_MAX;
	fill_again(f, dropped);
	pthread_mutex_unlock(&f->lock);
}

void pgs__fetch_file_later(pgs__fetcher *f, pgs__file *file)
{
	if (f->options.fetch == PGS_FETCH_NONE || file->index.has_table)
		return;
	pthread_mutex_lock(&f->lock);
	f->done.dropped += !pgs__file_queue_push(&f->files, file);
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
}

void pgs__fetch_again(pgs__fetcher *f, uint64_t first, uint64_t revision)
{
	if (f->options.fetch == PGS_FETCH_NONE)
		return;
	pthread_mutex_lock(&f->lock);
	f->hot_at = 0;
	f->again_revision = revision;
	fill_again(f, first);
	pthread_mutex_unlock(&f->lock);
}

/* --- whose turn it is --------------------------------------------------------------------------- */

/* What is fetched next. */
typedef struct turn {
	int queue; /* PGS_FETCH_QUEUE_…, or -1: nothing waits */
	pgs__snapshot at;
	size_t max;   /* pages */
	uint64_t bytes;
	pgs__fetch_page *pages;
	size_t count;
	pgs__file *file;
	uint64_t fill_page;
} turn;

static uint64_t burst(const pgs__fetcher *f)
{
	uint64_t bytes = f->options.fetch_bytes_per_s / (1000 / BURST_MS);
	if (!f->options.fetch_bytes_per_s || bytes > BLOCK_BYTES)
		return BLOCK_BYTES;
	return bytes > f->db->contents.page_size ? bytes : f->db->contents.page_size;
}

/* Under the lock. Pages of one kind, and that the snapshot shows. */
static bool take_pages(pgs__fetcher *f, pgs__page_queue *q, turn *t)
{
	const pgs__fetch_page *next;
	while (t->count < t->max && (next = pgs__page_queue_next(q))) {
		if ((!next->known && next->revision > f->at.kv_revision) ||
		    (t->count && next->recent != t->pages[0].recent))
			break;
		t->pages[t->count++] = *next;
		pgs__page_queue_pop(q);
	}
	return t->count > 0;
}

/* Under the lock: pages that the page cache knows. Where they are at hand, that costs nothing. */
static bool take_known(pgs__fetcher *f, turn *t)
{
	uint64_t page_nos[64];
	while (f->hot_at != UINT64_MAX && f->at.kv_revision && f->at.kv_revision >= f->again_revision && t->count < t->max) {
		size_t room = t->max - t->count < 64 ? t->max - t->count : 64;
		size_t found = pgs__cache_known(f->db->contents.cache, &f->hot_at, page_nos, room);
		for (size_t i = 0; i < found; i++)
			t->pages[t->count++] = (pgs__fetch_page){.page_no = page_nos[i]};
		if (!found)
			f->hot_at = UINT64_MAX;
	}
	return t->count > 0;
}

static bool take_fill(pgs__fetcher *f, turn *t)
{
	if (!f->at.kv_revision || f->options.fetch != PGS_FETCH_ALL)
		return false;
	if (f->fill_page >= f->at.extent && f->at.kv_revision >= f->again_revision && f->again_page != UINT64_MAX) {
		f->fill_page = f->again_page;
		f->again_page = UINT64_MAX;
	}
	t->fill_page = f->fill_page;
	return f->fill_page < f->at.extent;
}

/* Under the lock (G4). */
static void take_turn(pgs__fetcher *f, turn *t)
{
	t->queue = -1;
	if (pgs__now_ms() < f->next_ms && !PGS__BUG(FETCH_UNBOUND))
		return;
	if (take_pages(f, &f->commits, t))
		t->queue = PGS_FETCH_QUEUE_COMMITS;
	else if ((t->file = pgs__file_queue_take(&f->files)))
		t->queue = PGS_FETCH_QUEUE_FILES;
	else if (take_pages(f, &f->hot, t) || take_known(f, t))
		t->queue = PGS_FETCH_QUEUE_HOT;
	else if (take_fill(f, t))
		t->queue = PGS_FETCH_QUEUE_FILL;
	t->at = f->at;
	pgs__pack_view_retain(t->at.packs);
}

/* --- fetching ------------------------------------------------------------------------------------- */

static int fetch_file(pgs__fetcher *f, turn *t, uint64_t deadline_ms, pgs__fetched *out)
{
	int result = PGS_OK;
	bool any = false;
	for (size_t at = 0; result == PGS_OK && at != PGS__PARTS_DONE;) {
		bool read;
		result = pgs__parts_fetch(&f->db->contents, t->file, &at, &read, deadline_ms, NULL);
		any |= read;
	}
	out->files += any && result == PGS_OK;
	return result;
}

static int run_turn(pgs__fetcher *f, turn *t, uint64_t deadline_ms, pgs__fetched *out)
{
	switch (t->queue) {
	case PGS_FETCH_QUEUE_FILES:
		return fetch_file(f, t, deadline_ms, out);
	case PGS_FETCH_QUEUE_FILL:
		return pgs__fetch_block(f->db, &t->at, &t->fill_page, t->bytes, deadline_ms, out);
	default:
		return pgs__fetch_pages(f->db, &t->at, t->pages, t->count, deadline_ms, out);
	}
}

/* Not likely to go well the next moment. What is damaged or gone stays so. */
static bool is_trouble(int result)
{
	return result != PGS_OK && result != PGS_ENOTFOUND && result != PGS_ECORRUPT && result != PGS_EOLDREV;
}

static void note_turn(pgs__fetcher *f, const turn *t, int result, const pgs_cost *cost, const pgs__fetched *got,
		      uint64_t began_ms)
{
	uint64_t rate = f->options.fetch_bytes_per_s, bytes = cost->kv_bytes_received + cost->blob_bytes_received;
	pthread_mutex_lock(&f->lock);
	f->done.pages += got->pages;
	f->done.files += got->files;
	f->done.bytes += bytes;
	f->done.requests += cost->kv_requests + cost->blob_gets;
	if (rate)
		f->next_ms = began_ms + bytes * 1000 / rate;
	if (is_trouble(result) && f->next_ms < pgs__now_ms() + FAILED_MS)
		f->next_ms = pgs__now_ms() + FAILED_MS;
	for (size_t i = 0; result != PGS_OK && i < t->count; i++)
		fill_again(f, t->pages[i].page_no);
	if (t->queue == PGS_FETCH_QUEUE_FILL)
		f->fill_page = t->fill_page;
	pthread_mutex_unlock(&f->lock);
}

bool pgs__fetch_some(pgs__fetcher *f, uint64_t deadline_ms)
{
	pgs__fetched got = {0};
	pgs_cost cost = PGS_COST_INIT;
	turn t = {.bytes = burst(f)};
	t.max = t.bytes / f->db->contents.page_size < PAGES ? (size_t)(t.bytes / f->db->contents.page_size) : PAGES;
	t.pages = pgs__malloc(t.max * sizeof *t.pages);
	if (!t.pages)
		return false;
	pthread_mutex_lock(&f->lock);
	take_turn(f, &t);
	pthread_mutex_unlock(&f->lock);
	uint64_t began_ms = pgs__now_ms();
	if (t.queue >= 0) {
		pgs_cost *before = pgs__charge(&cost);
		int result = run_turn(f, &t, deadline_ms, &got);
		pgs__charge(before);
		if (f->db->contents.disk && (got.pages || got.files))
			pgs__disk_put_end(f->db->contents.disk, pgs__now_ms() + PGS__FETCH_PUT_WAIT_MS);
		note_turn(f, &t, result, &cost, &got, began_ms);
	}
	pgs__pack_view_release(t.at.packs);
	pgs__file_release(t.file);
	pgs__free(t.pages);
	return t.queue >= 0;
}

/* --- numbers --------------------------------------------------------------------------------------- */

/* Of what was fetched, a page is used where somebody comes across it first, and wasted where it is given up last: with a
 * cache file, there. */
static void stat_use(const pgs__fetcher *f, pgs_follow_stat *stat)
{
	pgs__cache_stat memory;
	pgs__disk_ahead disk = disk_stat(f->db);
	uint64_t page_size = f->db->contents.page_size;
	pgs__cache_stat_get(f->db->contents.cache, &memory);
	stat->pages_used = memory.ahead_used + disk.used - f->before.used;
	stat->bytes_used = memory.ahead_used * page_size + disk.used_bytes - f->before.used_bytes;
	stat->pages_wasted = f->db->contents.disk ? disk.wasted - f->before.wasted : memory.ahead_wasted;
	stat->bytes_wasted = f->db->contents.disk ? disk.wasted_bytes - f->before.wasted_bytes
						  : memory.ahead_wasted * page_size;
}

void pgs__fetch_stat(pgs__fetcher *f, pgs_follow_stat *stat)
{
	pthread_mutex_lock(&f->lock);
	stat->queued[PGS_FETCH_QUEUE_COMMITS] = pgs__page_queue_count(&f->commits);
	stat->queued[PGS_FETCH_QUEUE_FILES] = f->files.count;
	stat->queued[PGS_FETCH_QUEUE_HOT] = pgs__page_queue_count(&f->hot);
	stat->queued[PGS_FETCH_QUEUE_FILL] = f->fill_page < f->at.extent ? f->at.extent - f->fill_page : 0;
	stat->pages_waiting = stat->queued[PGS_FETCH_QUEUE_COMMITS] + stat->queued[PGS_FETCH_QUEUE_HOT];
	stat->pages_fetched = f->done.pages;
	stat->bytes_fetched = f->done.bytes;
	stat->fetch_requests = f->done.requests;
	stat->files_fetched = f->done.files;
	stat->queue_dropped = f->done.dropped;
	stat_use(f, stat);
	pthread_mutex_unlock(&f->lock);
}
