/* Reading ahead: of who reads in order, and of who says what is next.
 *
 * A page was missed right after the one before it: what comes next is loaded with it, twice as much each time, up to
 * a window: an eighth of the cache, at most a group, or, where reads wait for a network, what is loaded at once.
 * Contents of neighbouring pages lie together (see codec/page_id.h), so a window is few large reads; it ends with a
 * group.
 *
 * Where the blob store waits for a network, windows after that are loaded beside the reader, WINDOWS of them:
 *
 *      reader ──▶  ┌─────────────┐ ┌─────────────┐ ┌─────────────┐
 *                  │ read before │ │ under way   │ │ under way   │
 *                  └─────────────┘ └─────────────┘ └─────────────┘
 *                                  next            a reader that gets to `next` waits for that window, and starts
 *                                                  another behind the last
 *
 * So at most twice what has been read in order is loaded for nothing. A window that fails is no failure: the reader
 * misses its pages, and reads them itself.
 *
 * A hint (pgs_prefetch_start) is a window of any pages. There are up to PGS__AHEAD_HINTS of them, in no order; while
 * there is one, nothing is guessed: the caller knows better. Who misses a page that is under way waits for its window. */
#include "txn/load.h"

#include <stdatomic.h>

#include "util/alloc.h"
#include "util/error.h"
#include "util/task.h"

#define CACHE_PART 8 /* of the cache that a window may take */
#define WINDOWS PGS__AHEAD_WINDOWS

struct pgs__window {
	pgs__task task;
	_Atomic bool done;
	pgs_cost cost;
	const pgs__snapshot *snapshot;
	uint64_t deadline_ms;
	size_t count;
	uint64_t pages[];
};

static bool has_threads(const pgs_txn *t)
{
	return pgs__db_backend(t->db)->concurrency > 1 && !t->snapshot.named;
}

/* Where nothing is waited for, a group is enough, and is still in the processor's cache when it is read. */
static size_t window_pages(const pgs_txn *t)
{
	uint32_t page_size = pgs__txn_page_size(t);
	size_t most = has_threads(t) ? pgs__load_chunk(page_size) : pgs__pages_per_group(page_size);
	size_t part = (size_t)(t->db->cache_bytes / CACHE_PART / page_size);
	return part < most ? part : most;
}

/* Where a run ends that is to have `count` pages from `page_no` on. The contents of a group are in no order: a tenth
 * of its pages costs as much as all of them. And what ends with a group does not need that group again. */
static uint64_t run_end(const pgs_txn *t, uint64_t page_no, size_t count)
{
	const uint64_t group = pgs__pages_per_group(pgs__txn_page_size(t));
	uint64_t end = page_no + count, group_end = end + (group - end % group) % group;
	if (count > group / 10 && group_end - page_no <= window_pages(t))
		end = group_end;
	else if (count >= group)
		end -= end % group;
	return end < t->snapshot.extent ? end : t->snapshot.extent;
}

/* --- windows -------------------------------------------------------------------------- */

static void *load_window(void *ctx)
{
	pgs__window *w = ctx;
	pgs__load_ahead(w->snapshot, w->pages, w->count, w->deadline_ms, &w->cost);
	atomic_store_explicit(&w->done, true, memory_order_release);
	return NULL;
}

/* A window of up to `count` pages, for the caller to fill. NULL: out of memory. */
static pgs__window *window_new(const pgs_txn *t, size_t count)
{
	pgs__window *w = pgs__malloc(sizeof *w + count * sizeof w->pages[0]);
	if (w)
		*w = (pgs__window){.snapshot = &t->snapshot, .deadline_ms = pgs__txn_deadline(t)};
	return w;
}

/* Load it beside the reader. When there can be no thread, it is gone. */
static bool window_start(pgs_txn *t, pgs__window *w)
{
	pgs__txn_keep(t, w->deadline_ms);
	if (pgs__task_start(&w->task, load_window, w))
		return true;
	pgs__free(w);
	return false;
}

/* Wait for a window, and free it. */
static void window_finish(const pgs_txn *t, pgs__window *w)
{
	pgs__task_join(&w->task);
	if (t->cost)
		pgs__cost_add(t->cost, &w->cost);
	pgs__free(w);
}

static bool window_has(const pgs__window *w, uint64_t page_no)
{
	for (size_t i = 0; i < w->count; i++)
		if (w->pages[i] == page_no)
			return true;
	return false;
}

/* --- of who reads in order ---------------------------------------------------------------- */

static void finish_oldest(pgs_txn *t)
{
	pgs__ahead *a = &t->ahead;
	window_finish(t, a->windows[0]);
	for (size_t i = 1; i < a->count; i++)
		a->windows[i - 1] = a->windows[i];
	a->count--;
	a->next = a->count ? a->windows[0]->pages[0] : PGS_NO_PAGE;
}

static void stop_guessing(pgs_txn *t)
{
	while (t->ahead.count)
		finish_oldest(t);
}

/* Load a window of pages from `end` on beside the reader, if there are any. Whatever fails, it is then not read ahead. */
static void start_window(pgs_txn *t)
{
	pgs__ahead *a = &t->ahead;
	uint64_t end = run_end(t, a->end, window_pages(t));
	size_t count = end > a->end ? (size_t)(end - a->end) : 0;
	pgs__window *w = count ? window_new(t, count) : NULL;
	if (!w)
		return;
	w->count = count;
	for (size_t i = 0; i < count; i++)
		w->pages[i] = a->end + i;
	if (!window_start(t, w))
		return;
	a->windows[a->count++] = w;
	a->next = a->windows[0]->pages[0];
	a->end = end;
}

void pgs__read_ahead_reached(pgs_txn *t)
{
	finish_oldest(t);
	start_window(t);
}

/* The pages from `end` on are read next: begin anew there. */
static void start_windows(pgs_txn *t, uint64_t end)
{
	stop_guessing(t);
	t->ahead.end = end;
	if (has_threads(t))
		for (size_t i = 0; i < WINDOWS; i++)
			start_window(t);
}

/* --- of who says what is next --------------------------------------------------------------- */

static void finish_hint(pgs_txn *t, size_t index)
{
	pgs__ahead *a = &t->ahead;
	window_finish(t, a->hints[index]);
	a->hints[index] = a->hints[--a->hint_count];
}

static void finish_done_hints(pgs_txn *t)
{
	for (size_t i = t->ahead.hint_count; i-- > 0;)
		if (atomic_load_explicit(&t->ahead.hints[i]->done, memory_order_acquire))
			finish_hint(t, i);
}

static bool is_under_way(const pgs__ahead *a, uint64_t page_no)
{
	for (size_t i = 0; i < a->count; i++) /* in order, and without gaps */
		if (page_no - a->windows[i]->pages[0] < a->windows[i]->count)
			return true;
	for (size_t i = 0; i < a->hint_count; i++)
		if (window_has(a->hints[i], page_no))
			return true;
	return false;
}

/* Whether reading the page would wait, and nobody is at it yet. */
static bool is_worth_loading(const pgs_txn *t, uint64_t page_no)
{
	pgs__page_ref ref;
	const void *data;
	pgs__cache *cache = t->db->contents.cache;
	if (pgs__txn_is_blank(t, page_no) || pgs__txn_find_write(t, page_no) || is_under_way(&t->ahead, page_no))
		return false;
	if (pgs__cache_lookup(cache, page_no, t->snapshot.cache_revision, &ref, &data) != PGS__CACHE_CONTENT)
		return true;
	pgs__cache_unpin(cache, data);
	return false;
}

bool pgs__read_ahead_is_useful(const pgs_db *db)
{
	return pgs__db_backend(db)->concurrency > 1;
}

int pgs__read_ahead_hint(pgs_txn *t, const uint64_t *page_nos, size_t count, size_t *taken)
{
	pgs__ahead *a = &t->ahead;
	const size_t most = window_pages(t);
	*taken = 0;
	if (!pgs__read_ahead_is_useful(t->db) || count == 0)
		return PGS_OK;
	finish_done_hints(t);
	if (a->hint_count == PGS__AHEAD_HINTS)
		return PGS_OK;
	pgs__window *w = window_new(t, count < most ? count : most);
	if (!w)
		return pgs__error_nomem(&t->error, "prefetch");
	size_t done = 0;
	for (; done < count && w->count < most; done++)
		if (is_worth_loading(t, page_nos[done]))
			w->pages[w->count++] = page_nos[done];
	*taken = done;
	if (w->count > 0 && t->snapshot.named) { /* has no threads */
		int result = pgs__load_pages(t, w->pages, w->count, NULL, PGS__LOAD_AHEAD);
		pgs__free(w);
		return result == PGS_ENOMEM ? result : PGS_OK;
	}
	if (w->count == 0)
		pgs__free(w);
	else if (window_start(t, w))
		a->hints[a->hint_count++] = w;
	else
		*taken = 0;
	return PGS_OK;
}

void pgs__read_ahead_stop(pgs_txn *t)
{
	stop_guessing(t);
	while (t->ahead.hint_count)
		finish_hint(t, 0);
}

/* --- what was missed ------------------------------------------------------------------- */

/* Wait for a page that is under way. Who skipped the first page of a window has reached it all the same. */
static bool wait_for(pgs_txn *t, uint64_t page_no)
{
	pgs__ahead *a = &t->ahead;
	bool found = is_under_way(a, page_no);
	for (size_t i = 0; found && i < a->hint_count; i++)
		if (window_has(a->hints[i], page_no)) {
			finish_hint(t, i);
			return true;
		}
	while (found && is_under_way(a, page_no))
		pgs__read_ahead_reached(t);
	return found;
}

/* Who reads in order may leave out a page here and there, having it at hand. */
static bool follows_run(const pgs__ahead *a, uint64_t page_no)
{
	return page_no == a->missed || (a->run_length > 1 && page_no == a->missed + 1);
}

int pgs__read_ahead(pgs_txn *t, uint64_t page_no)
{
	pgs__ahead *a = &t->ahead;
	const size_t window = window_pages(t);
	finish_done_hints(t);
	if (wait_for(t, page_no) || a->hint_count > 0)
		return PGS_OK;
	bool follows = follows_run(a, page_no);
	/* Past a group, who reads in order is likely to go on. */
	const size_t grown = a->run_length * (a->run_length < pgs__pages_per_group(pgs__txn_page_size(t)) ? 2 : 4);
	a->run_length = !follows ? 1 : grown < window ? grown : window;
	a->missed = page_no + 1;
	if (a->run_length < 2 || page_no >= t->snapshot.extent)
		return PGS_OK;
	a->missed = run_end(t, page_no, a->run_length);
	size_t count = (size_t)(a->missed - page_no);
	uint64_t *pages = pgs__malloc(count * sizeof *pages);
	if (!pages)
		return pgs__error_nomem(&t->error, "reading pages");
	for (size_t i = 0; i < count; i++)
		pages[i] = page_no + i;
	if (a->run_length == window)
		start_windows(t, a->missed);
	a->run_length = count;
	int result = pgs__load_pages(t, pages, count, NULL, PGS__LOAD_AHEAD);
	pgs__free(pages);
	return result;
}
