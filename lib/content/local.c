/* Contents in this machine's cache file: what a fetch finds there, and what it leaves there.
 *
 * A copy is opened as any other is, in LMDB's own memory, under its read transaction; what does not have its id is dropped
 * after that, and is fetched from the store with the others that were not there.
 */
#include "content/fetch.h"

#define IDS 64 /* looked up under one read transaction */

typedef struct lookup {
	pgs__fetch *f;
	pgs__job *jobs;
	bool bad[IDS];
	size_t good;
} lookup;

static void take(void *ctx, size_t index, pgs_slice stored)
{
	lookup *l = ctx;
	pgs__job *j = &l->jobs[index];
	l->bad[index] = pgs__content_open(l->f->contents, l->f->bench, stored, j->want, "the cache", NULL) != PGS_OK;
	if (l->bad[index])
		return;
	j->want->status = PGS_OK;
	j->done = true;
	l->good++;
}

void pgs__fetch_local(pgs__fetch *f)
{
	pgs__disk_db *disk = f->contents->disk;
	for (size_t first = 0; first < f->count; first += IDS) {
		pgs__page_id ids[IDS];
		lookup l = {.f = f, .jobs = f->jobs + first};
		size_t count = f->count - first < IDS ? f->count - first : IDS;
		for (size_t i = 0; i < count; i++)
			ids[i] = l.jobs[i].want->id;
		pgs__disk_get(disk, ids, count, take, &l);
		for (size_t i = 0; i < count; i++)
			if (l.bad[i])
				pgs__disk_drop(disk, &ids[i]);
		pgs__charge_disk_cache(l.good, count - l.good);
	}
}
