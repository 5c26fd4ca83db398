/* Pages that stay pinned when SQLite has given them back, and the reader that they are pinned by.
 *
 * SQLite asks for the root and the inner pages of a b-tree again with every statement, each of which is a transaction of
 * its own. So the reader of one is not ended with its lock, but put to rest (pgs_reset()), and renewed with the next lock;
 * as long as nothing has been committed in between, what it has pinned is still good.
 *
 *     pinned by SQLite's fetch ──→ held, in use ⇄ held, not in use ──→ unpinned: another page takes its place,
 *                                                                       or the database has moved on
 *
 * A page has one place that it can be held in, which it gets when it is asked for a second time, before others are that
 * have the same place. Who is there, and was asked for since another page wanted the place, stays. So leaves, which come and
 * go, neither get in nor drive out what leads to them.
 *
 *  H1 What is held was pinned by `reader` or, between locks, `resting`, and is what its snapshot shows.
 *  H2 Between locks nothing that is held is in use.
 */
#include "file.h"

#include <string.h>

enum { HELD_BYTES = 256 << 10 };

static sq_held *place_of(sq_file *f, uint64_t page)
{
	uint64_t count = HELD_BYTES / f->page_size < SQ_HELD ? HELD_BYTES / f->page_size : SQ_HELD;
	return &f->held[(page * 0x9e3779b97f4a7c15u >> 32) % count];
}

const void *sq_held_get(sq_file *f, uint64_t page)
{
	sq_held *h = place_of(f, page);
	if (h->page != page || !h->bytes)
		return NULL;
	h->uses++;
	h->wanted = true;
	return h->bytes;
}

void sq_held_add(sq_file *f, uint64_t page, const void *bytes)
{
	sq_held *h = place_of(f, page);
	if (h->bytes && (h->uses || h->wanted)) {
		h->wanted = false;
		return;
	}
	if (h->bytes)
		pgs_unpin(f->reader, h->bytes);
	bool again = !h->bytes && h->page == page;
	*h = (sq_held){.page = page, .bytes = again ? bytes : NULL, .uses = again};
}

bool sq_held_give(sq_file *f, uint64_t page, const void *bytes)
{
	sq_held *h = place_of(f, page);
	if (h->bytes != bytes || h->uses == 0)
		return false;
	h->uses--;
	return true;
}

void sq_held_forget(sq_file *f)
{
	memset(f->held, 0, sizeof f->held);
}

static void unpin_all(sq_file *f)
{
	for (size_t i = 0; i < SQ_HELD; i++)
		if (f->held[i].bytes)
			pgs_unpin(f->reader, f->held[i].bytes);
	sq_held_forget(f);
}

/* --- the reader ------------------------------------------------------------------------------------------ */

static bool shows_the_past(const sq_file *f)
{
	return f->at.at_revision || f->at.at_time_ms || f->at.at_snapshot;
}

void sq_reader_rest(sq_file *f)
{
	if (!f->reader || f->fetched || f->old_reader || shows_the_past(f)) {
		sq_held_forget(f);
		pgs_abort(f->reader);
	} else {
		pgs_reset(f->reader);
		f->resting = f->reader;
	}
	f->reader = NULL;
}

bool sq_reader_renew(sq_file *f)
{
	bool same;
	if (!f->resting || pgs_renew(f->resting, &same) != PGS_OK) {
		sq_reader_drop(f);
		return false;
	}
	f->reader = f->resting;
	f->resting = NULL;
	if (!same)
		unpin_all(f);
	return true;
}

void sq_reader_drop(sq_file *f)
{
	if (!f->resting)
		return;
	sq_held_forget(f);
	pgs_abort(f->resting);
	f->resting = NULL;
}
