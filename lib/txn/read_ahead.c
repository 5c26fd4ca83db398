/* Reading ahead of who reads in order.
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
 * misses its pages, and reads them itself. */
#include "txn/load.h"

#include "util/alloc.h"
#include "util/error.h"
#include "util/task.h"

#define CACHE_PART 8 /* of the cache that a window may take */
#define WINDOWS PGS__AHEAD_WINDOWS

struct pgs__window {
	pgs__task task;
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
	pgs__load_ahead(w->snapshot, w->pages, w->count, w->deadline_ms);
	return NULL;
}

static void finish_oldest(pgs__ahead *a)
{
	pgs__window *w = a->windows[0];
	pgs__task_join(&w->task);
	pgs__free(w);
	for (size_t i = 1; i < a->count; i++)
		a->windows[i - 1] = a->windows[i];
	a->count--;
	a->next = a->count ? a->windows[0]->pages[0] : PGS_NO_PAGE;
}

void pgs__read_ahead_stop(pgs_txn *t)
{
	while (t->ahead.count)
		finish_oldest(&t->ahead);
}

/* Load a window of pages from `end` on beside the reader, if there are any. Whatever fails, it is then not read ahead. */
static void start_window(pgs_txn *t)
{
	pgs__ahead *a = &t->ahead;
	uint64_t end = run_end(t, a->end, window_pages(t));
	size_t count = end > a->end ? (size_t)(end - a->end) : 0;
	pgs__window *w = count ? pgs__malloc(sizeof *w + count * sizeof w->pages[0]) : NULL;
	if (!w)
		return;
	*w = (pgs__window){.snapshot = &t->snapshot, .deadline_ms = pgs__txn_deadline(t), .count = count};
	for (size_t i = 0; i < count; i++)
		w->pages[i] = a->end + i;
	pgs__txn_keep(t, w->deadline_ms);
	if (!pgs__task_start(&w->task, load_window, w)) {
		pgs__free(w);
		return;
	}
	a->windows[a->count++] = w;
	a->next = a->windows[0]->pages[0];
	a->end = end;
}

void pgs__read_ahead_reached(pgs_txn *t)
{
	finish_oldest(&t->ahead);
	start_window(t);
}

/* The pages from `end` on are read next: begin anew there. */
static void start_windows(pgs_txn *t, uint64_t end)
{
	pgs__read_ahead_stop(t);
	t->ahead.end = end;
	if (has_threads(t))
		for (size_t i = 0; i < WINDOWS; i++)
			start_window(t);
}

/* --- what was missed ------------------------------------------------------------------- */

int pgs__read_ahead(pgs_txn *t, uint64_t page_no)
{
	pgs__ahead *a = &t->ahead;
	const size_t window = window_pages(t);
	bool follows = page_no == a->missed;
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
	int result = pgs__load_pages(t, pages, count, NULL, false);
	pgs__free(pages);
	return result;
}
