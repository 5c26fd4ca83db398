/* Compressing ahead of the commit.
 *
 * Placing a large transaction is hashing and compressing its pages, while the caller waits. Pages past the snapshot's
 * extent need nothing else: there is no content they could be equal to, and no base. So they are hashed and compressed
 * by a thread beside the caller, who goes on writing: a batch at a time, as soon as there is one, if the machine has a
 * processor for it.
 *
 *      writes ── new ones, a mebibyte or more ── batch: a thread reads their pages ── w->early has id and frame ── place
 *
 * A page that is written again meanwhile is in another buffer from then on, and the batch has the old one. What it made
 * of that is freed unused: a page is tried once, so that those which keep changing cost little.
 */
#include "txn/early.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/task.h"

#define BATCH_BYTES (1u << 20)
#define FRAMES_SHARE 4 /* of the write buffer, beside it */

struct pgs__early {
	pgs__early *next; /* older ones, which are done */
	pgs__contents *contents;
	pgs__task task;
	atomic_bool done;
	size_t count;
	uint64_t frame_bytes; /* once it is done, of all batches */
	pgs__early_page pages[];
};

/* --- the thread ------------------------------------------------------------------------ */

static bool compress(const pgs__contents *contents, pgs__workbench *bench, pgs__early_page *p)
{
	pgs_slice content = pgs__compress_page(bench, p->page);
	p->id = pgs__page_id_of(contents->secret, p->page_no, p->page, contents->page_size);
	p->frame = pgs__malloc(content.size);
	if (!p->frame)
		return false; /* it is tried again when the page is placed */
	memcpy(p->frame, content.data, content.size);
	p->frame_size = (uint32_t)content.size;
	return true;
}

static void *run(void *ctx)
{
	pgs__early *e = ctx;
	pgs__workbench *bench = pgs__workbench_take(&e->contents->benches);
	for (size_t i = 0; bench && i < e->count && compress(e->contents, bench, &e->pages[i]); i++)
		e->frame_bytes += e->pages[i].frame_size;
	pgs__workbench_give(&e->contents->benches, bench);
	atomic_store_explicit(&e->done, true, memory_order_release);
	return NULL;
}

/* --- batches ------------------------------------------------------------------------------ */

static bool is_done(const pgs__early *e)
{
	return atomic_load_explicit(&e->done, memory_order_acquire);
}

static bool is_worth_it(const pgs_txn *t)
{
	uint64_t bytes = (uint64_t)(t->write_count - t->early_next) * pgs__txn_page_size(t);
	if (bytes < BATCH_BYTES || (t->early && !is_done(t->early)))
		return false;
	return !t->early || t->early->frame_bytes < t->db->write_buffer_bytes / FRAMES_SHARE;
}

static bool has_processor(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) > 1;
}

static bool is_new(const pgs_txn *t, const pgs__write *w)
{
	return w->state == PGS__WRITE_PENDING && !w->early && pgs__txn_is_blank(t, w->page_no);
}

/* The new pages among the writes since the last batch. */
static pgs__early *collect(pgs_txn *t)
{
	size_t most = t->write_count - t->early_next;
	pgs__early *e = pgs__calloc(1, sizeof *e + most * sizeof e->pages[0]);
	if (!e)
		return NULL;
	for (; t->early_next < t->write_count; t->early_next++) {
		pgs__write *w = &t->writes[t->early_next];
		if (!is_new(t, w))
			continue;
		w->early = &e->pages[e->count++];
		*w->early = (pgs__early_page){.page_no = w->page_no, .page = w->page};
	}
	e->contents = &t->db->contents;
	return e;
}

void pgs__early_note(pgs_txn *t)
{
	if (!is_worth_it(t) || !has_processor())
		return;
	pgs__early *e = collect(t);
	if (!e)
		return;
	if (t->early) {
		pgs__task_join(&t->early->task);
		e->frame_bytes = t->early->frame_bytes;
	}
	e->next = t->early;
	t->early = e;
	/* Without a thread nothing is made: the pages are placed as ever. */
	if (e->count == 0 || !pgs__task_start(&e->task, run, e))
		atomic_store(&e->done, true);
}

/* --- the writes ------------------------------------------------------------------------------ */

/* Only the newest batch can be at work. */
bool pgs__early_is_busy(const pgs_txn *t, const pgs__write *w)
{
	const pgs__early *e = t->early;
	return w->early && !is_done(e) && w->early >= e->pages && w->early < e->pages + e->count;
}

void pgs__early_drop(pgs_txn *t, pgs__write *w)
{
	if (!w->early)
		return;
	if (pgs__early_is_busy(t, w)) {
		w->early->given = true;
		w->page = NULL;
	}
	w->early = NULL;
}

void pgs__early_finish(pgs_txn *t)
{
	if (t->early)
		pgs__task_join(&t->early->task);
}

void pgs__early_free(pgs_txn *t)
{
	if (!t->early)
		return;
	pgs__early_finish(t);
	for (pgs__early *e = t->early, *next; e; e = next) {
		next = e->next;
		for (size_t i = 0; i < e->count; i++) {
			pgs__free(e->pages[i].frame);
			if (e->pages[i].given)
				pgs__free(e->pages[i].page);
		}
		pgs__free(e);
	}
	t->early = NULL;
	for (size_t i = 0; i < t->write_count; i++)
		t->writes[i].early = NULL;
}
