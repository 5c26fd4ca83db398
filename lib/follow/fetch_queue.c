/* Queues of pages and files: see fetch_queue.h. */
#include "follow/fetch_queue.h"

#include <string.h>

#include "util/alloc.h"
#include "util/bug.h"

/* --- pages ------------------------------------------------------------------------------ */

static pgs__fetch_page *entry(const pgs__page_queue *q, uint64_t number)
{
	return &q->pages[number % q->max];
}

const pgs__fetch_page *pgs__page_queue_next(const pgs__page_queue *q)
{
	return q->first < q->end ? entry(q, q->first) : NULL;
}

void pgs__page_queue_pop(pgs__page_queue *q)
{
	pgs__map_remove(&q->at, entry(q, q->first)->page_no);
	q->first++;
}

void pgs__page_queue_push(pgs__page_queue *q, const pgs__fetch_page *page, uint64_t *dropped)
{
	const uint64_t *at = pgs__map_get(&q->at, page->page_no);
	*dropped = UINT64_MAX;
	if (at) {
		*entry(q, *at) = *page;
		return;
	}
	if (!q->pages)
		q->pages = pgs__malloc(q->max * sizeof *q->pages);
	if (q->pages && pgs__page_queue_count(q) == q->max) {
		*dropped = pgs__page_queue_next(q)->page_no;
		pgs__page_queue_pop(q);
	}
	if (!q->pages || pgs__map_set(&q->at, page->page_no, q->end, NULL) != PGS_OK) {
		*dropped = *dropped < page->page_no ? *dropped : page->page_no;
		return;
	}
	*entry(q, q->end++) = *page;
}

void pgs__page_queue_free(pgs__page_queue *q)
{
	pgs__map_free(&q->at);
	pgs__free(q->pages);
	*q = (pgs__page_queue){.max = q->max};
}

/* --- files -------------------------------------------------------------------------------- */

pgs__file *pgs__file_queue_take(pgs__file_queue *q)
{
	pgs__file *file = q->count ? q->files[0] : NULL;
	if (file)
		memmove(q->files, q->files + 1, --q->count * sizeof *q->files);
	return file;
}

bool pgs__file_queue_push(pgs__file_queue *q, pgs__file *file)
{
	bool full = q->count == PGS__FETCH_FILES_MAX;
	for (size_t i = 0; i < q->count; i++)
		if (strcmp(q->files[i]->blob_name, file->blob_name) == 0)
			return true; /* the same file in another level */
	if (full)
		pgs__file_release(pgs__file_queue_take(q));
	q->files[q->count++] = pgs__file_retain(file);
	return !full;
}

void pgs__file_queue_free(pgs__file_queue *q)
{
	while (q->count)
		pgs__file_release(pgs__file_queue_take(q));
}
