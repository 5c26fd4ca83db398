/* Where a changed page's content goes, smallest first:
 *
 *     equal to what the page holds   no write; the page joins the read set
 *     zero                           the pointer says so
 *     delta against its base         in the pointer: XOR with what the page held when last written full (depth 1,
 *                                    invariant 3), if it compresses to an eighth of a page
 *     delta against the zero page    in the pointer: a page that compresses to so little anyway
 *     full                           c/<id> in the KV, or a level-0 sorted file when there is a lot of it
 *
 * A delta against its base depends on what the page held: the commit compares that unchanged (invariant 6).
 */
#include "txn/early.h"
#include "txn/upload.h"

#include <stdlib.h>

#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define CHUNK 256
#define INLINE_AGAIN_MAX 64       /* a page this small in its pointer is as good as any delta */
#define FILE_BYTES_MIN (1u << 20) /* contents of a commit that are worth a sorted file */
#define BASE_TIME_DIVISOR 4       /* of what is left of a call's time, for reading bases */

typedef struct placing {
	pgs_txn *t;
	pgs__workbench *bench;
	pgs__write *writes[CHUNK]; /* pending, in page order */
	pgs__page_ref old[CHUNK];  /* what the page held */
	const void *base[CHUNK];   /* content to take a delta against: pinned, in scratch, or NULL */
	uint8_t *scratch;          /* fetched bases */
	bool unreachable;          /* bases that are not in the cache */
	size_t count;
	uint64_t deadline_ms;
	pgs_error *err;
} placing;

/* --- what the pages held ------------------------------------------------------- */

static const pgs__page_id *base_id(const pgs__page_ref *old)
{
	if (old->kind == PGS__POINTER_FULL)
		return &old->id;
	return old->kind == PGS__POINTER_DELTA && old->has_base ? &old->base : NULL;
}

static int find_old(placing *p)
{
	pgs_txn *t = p->t;
	uint64_t pages[CHUNK];
	size_t index[CHUNK], count = 0;
	const void *data;
	for (size_t i = 0; i < p->count; i++) {
		uint64_t page_no = p->writes[i]->page_no;
		p->old[i] = (pgs__page_ref){.kind = PGS__POINTER_ABSENT};
		if (pgs__txn_is_blank(t, page_no))
			continue;
		switch (pgs__cache_lookup(t->db->contents.cache, page_no, t->snapshot.commit_revision, &p->old[i],
					  &data)) {
		case PGS__CACHE_MISS:
			pages[count] = page_no;
			index[count++] = i;
			break;
		case PGS__CACHE_CONTENT:
			pgs__cache_unpin(t->db->contents.cache, data);
			break;
		case PGS__CACHE_POINTER:
			break;
		}
	}
	if (count == 0)
		return PGS_OK;
	pgs__arena arena = {0};
	pgs__resolved *resolved = pgs__arena_calloc(&arena, count, sizeof *resolved);
	int result = resolved ? pgs__pointers_read(&t->snapshot, pages, count, resolved, &arena, p->deadline_ms, p->err)
			      : pgs__error_nomem(p->err, "placing pages");
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		p->old[index[i]] = resolved[i].ref;
	pgs__arena_free(&arena);
	return result;
}

static bool is_blank(const pgs__page_ref *old)
{
	return old->kind == PGS__POINTER_ABSENT || old->kind == PGS__POINTER_ZERO;
}

/* --- decisions that need no base ------------------------------------------------- */

static bool is_zero(const uint8_t *page, size_t size)
{
	return page[0] == 0 && memcmp(page, page + 1, size - 1) == 0;
}

/* The page holds this already. It is checked all the same, under snapshot isolation too: there it is a write, and the
 * first committer of a page wins. */
static int drop(placing *p, size_t i)
{
	pgs_txn *t = p->t;
	pgs__write *w = p->writes[i];
	if (!PGS__BUG(DROPPED_WRITE_UNREAD) && !pgs__txn_is_blank(t, w->page_no) && !pgs__map_get(&t->reads, w->page_no) &&
	    pgs__map_set(&t->reads, w->page_no, p->old[i].key_revision, NULL) != PGS_OK)
		return pgs__error_nomem(p->err, "read set");
	w->state = PGS__WRITE_DROPPED;
	pgs__map_remove(&t->write_index, w->page_no);
	pgs__free(w->page);
	w->page = NULL;
	p->writes[i] = NULL;
	return PGS_OK;
}

static void decide(pgs__write *w, pgs__pointer_kind kind, const pgs__page_id *id)
{
	w->state = PGS__WRITE_READY;
	w->pointer = (pgs__pointer){.kind = kind};
	if (id)
		w->pointer.id = *id;
}

/* The ids are equal: so must the bytes be, where they are at hand. A page made to collide is refused. */
static int refuse_collision(placing *p, const pgs__write *w)
{
	pgs__cache *cache = p->t->db->contents.cache;
	const void *held = pgs__cache_content(cache, w->page_no, &w->pointer.id);
	bool differs = held && memcmp(held, w->page, pgs__txn_page_size(p->t)) != 0;
	if (held)
		pgs__cache_unpin(cache, held);
	if (!differs)
		return PGS_OK;
	return pgs__error_page(p->err, PGS_EINVAL, w->page_no,
			       "page %llu: its content has the same hash as what the page held, but other bytes",
			       (unsigned long long)w->page_no);
}

static bool was_made_early(const pgs__write *w)
{
	return w->early && w->early->frame;
}

/* Equal and zero pages. What is left has its id in w->pointer.id. */
static int place_simple(placing *p, size_t i)
{
	pgs__write *w = p->writes[i];
	const pgs__contents *contents = &p->t->db->contents;
	const pgs__page_ref *old = &p->old[i];
	w->seen_revision = old->key_revision;
	bool was_zero = is_blank(old);
	if (is_zero(w->page, contents->page_size)) {
		/* Past the extent another may be appending the page: then our zeros must not depend on its absence. */
		if (was_zero && w->page_no < p->t->snapshot.extent)
			return drop(p, i);
		decide(w, PGS__POINTER_ZERO, NULL);
		return PGS_OK;
	}
	w->pointer.id = was_made_early(w)
				? w->early->id
				: pgs__page_id_of(contents->secret, w->page_no, w->page, contents->page_size);
	if (was_zero || !pgs__page_id_equal(&w->pointer.id, &old->id))
		return PGS_OK;
	int result = refuse_collision(p, w);
	return result == PGS_OK ? drop(p, i) : result;
}

/* --- bases --------------------------------------------------------------------------- */

/* Bases are worth a part of the time that is left, not all of it: without them pages are written full. */
static uint64_t base_deadline(uint64_t deadline_ms)
{
	uint64_t now = pgs__now_ms();
	return deadline_ms > now ? now + (deadline_ms - now) / BASE_TIME_DIVISOR : deadline_ms;
}

/* Get the bases of the undecided writes: from the cache, else all others at once. A base that cannot be read is no
 * reason to fail: the page is then written full, which mends it. Where they cannot be reached at all, no more of them
 * are asked for. */
static int find_bases(placing *p)
{
	pgs__contents *contents = &p->t->db->contents;
	pgs__want wants[CHUNK];
	size_t index[CHUNK], count = 0;
	for (size_t i = 0; i < p->count; i++) {
		p->base[i] = NULL;
		if (!p->writes[i] || p->writes[i]->state == PGS__WRITE_READY)
			continue;
		const pgs__page_id *id = base_id(&p->old[i]);
		if (!id)
			continue;
		p->base[i] = pgs__cache_content(contents->cache, p->writes[i]->page_no, id);
		if (p->base[i] || p->unreachable)
			continue;
		wants[count] = (pgs__want){.page_no = p->writes[i]->page_no, .id = *id};
		index[count++] = i;
	}
	if (count == 0)
		return PGS_OK;
	p->scratch = pgs__malloc(count * contents->page_size);
	if (!p->scratch)
		return pgs__error_nomem(p->err, "placing pages");
	for (size_t i = 0; i < count; i++)
		wants[i].page = p->scratch + i * contents->page_size;
	pgs_error ignored = PGS_ERROR_INIT;
	int result = pgs__contents_fetch(contents, wants, count, base_deadline(p->deadline_ms), &ignored);
	if (result == PGS_ENOMEM)
		return pgs__error_nomem(p->err, "placing pages");
	p->unreachable = pgs_error_class(result) == PGS_CLASS_BACKEND;
	for (size_t i = 0; i < count; i++) {
		if (wants[i].status != PGS_OK)
			continue;
		p->base[index[i]] = wants[i].page;
		/* The next change of the page wants it again. */
		pgs__cache_put_content(contents->cache, wants[i].page_no, &wants[i].id, wants[i].page);
	}
	return PGS_OK;
}

static void release_bases(placing *p)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->base[i])
			pgs__cache_unpin(p->t->db->contents.cache, p->base[i]);
	pgs__free(p->scratch);
	p->scratch = NULL;
}

/* --- deltas and full contents ---------------------------------------------------------- */

static int keep_delta(placing *p, pgs__write *w, pgs_slice delta)
{
	pgs__page_id id = w->pointer.id;
	pgs_slice copy;
	if (pgs__arena_copy(&p->t->arena, delta, &copy) != PGS_OK)
		return pgs__error_nomem(p->err, "deltas"); /* still pending: the transaction may go on */
	decide(w, PGS__POINTER_DELTA, &id);
	w->pointer.delta = copy;
	return PGS_OK;
}

static int keep_frame(pgs_txn *t, pgs__write *w, pgs_slice content, pgs_error *err)
{
	pgs__page_id id = w->pointer.id;
	if (w->early && content.data == w->early->frame) {
		w->frame = w->early->frame;
		w->early->frame = NULL;
	} else {
		w->frame = pgs__malloc(content.size);
		if (!w->frame)
			return pgs__error_nomem(err, "compressed page");
		memcpy(w->frame, content.data, content.size);
	}
	w->frame_size = (uint32_t)content.size;
	t->frame_bytes += content.size;
	decide(w, PGS__POINTER_FULL, &id);
	return PGS_OK;
}

/* Keep the page as a delta against its base, if there is one and the delta is small: *kept. */
static int place_delta(placing *p, size_t i, bool *kept)
{
	pgs__write *w = p->writes[i];
	const pgs__page_ref *old = &p->old[i];
	*kept = false;
	if (!p->base[i])
		return PGS_OK;
	pgs_slice delta = pgs__delta_encode(p->bench, w->page, p->base[i], p->t->db->delta_max);
	if (delta.size == 0)
		return PGS_OK;
	int result = keep_delta(p, w, delta);
	if (result != PGS_OK)
		return result;
	w->pointer.has_base = true;
	w->pointer.base = *base_id(old);
	w->pointer.spent = old->kind == PGS__POINTER_DELTA ? old->spent : 0;
	w->depends = true;
	*kept = true;
	return PGS_OK;
}

/* Deltas against one base grow from commit to commit. Once they have cost together what the page costs written full,
 * it is written full and they start anew: for steady growth that is the cheapest moment (a base that serves n commits,
 * each adding g bytes, costs F + g n^2 / 2, the least per commit where the two are equal). */
static bool delta_is_spent(const pgs__write *w, size_t full_size)
{
	return w->pointer.spent > 0 && w->pointer.spent + w->pointer.delta.size >= full_size;
}

static int place_content(placing *p, size_t i)
{
	pgs__write *w = p->writes[i];
	size_t max = p->t->db->delta_max;
	bool kept;
	int result = place_delta(p, i, &kept);
	/* Few pages compress to less than a quarter: before the deltas have cost that, it is not worth knowing. */
	if (result != PGS_OK || (kept && !delta_is_spent(w, pgs__txn_page_size(p->t) / 4)))
		return result;
	pgs_slice content = was_made_early(w) ? (pgs_slice){w->early->frame, w->early->frame_size}
					      : pgs__compress_page(p->bench, w->page);
	if (kept && !delta_is_spent(w, content.size))
		return PGS_OK;
	/* Inside its pointer a page is no base for later deltas. One that is known to change shall become one. */
	if (!is_blank(&p->old[i]) && content.size > INLINE_AGAIN_MAX)
		max = 0;
	pgs_slice delta = pgs__delta_of_frame(content, pgs__txn_page_size(p->t), max);
	result = delta.size ? keep_delta(p, w, delta) : keep_frame(p->t, w, content, p->err);
	if (result == PGS_OK)
		w->depends = false;
	return result;
}

static int place_chunk(placing *p)
{
	int result = find_old(p);
	for (size_t i = 0; result == PGS_OK && i < p->count; i++)
		result = place_simple(p, i);
	if (result != PGS_OK)
		return result;
	result = find_bases(p);
	for (size_t i = 0; result == PGS_OK && i < p->count; i++)
		if (p->writes[i] && p->writes[i]->state == PGS__WRITE_PENDING)
			result = place_content(p, i);
	release_bases(p);
	return result;
}

/* --- all pending writes ---------------------------------------------------------------------- */

static int by_page(const void *a, const void *b)
{
	const pgs__write *x = *(pgs__write *const *)a, *y = *(pgs__write *const *)b;
	return (x->page_no > y->page_no) - (x->page_no < y->page_no);
}

static int place_all(pgs_txn *t, pgs__write **pending, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	placing p; /* filled piece by piece: zeroing its arrays would cost a small commit dear */
	p.t = t;
	p.deadline_ms = deadline_ms;
	p.err = err;
	p.scratch = NULL;
	p.unreachable = false;
	size_t chunk = (8u << 20) / pgs__txn_page_size(t);
	chunk = chunk < CHUNK ? chunk : CHUNK;
	int result = PGS_OK;
	p.bench = pgs__workbench_take(&t->db->contents.benches);
	if (!p.bench)
		return pgs__error_nomem(err, "placing pages");
	for (size_t done = 0; result == PGS_OK && done < count; done += p.count) {
		p.count = count - done < chunk ? count - done : chunk;
		memcpy(p.writes, pending + done, p.count * sizeof *pending);
		pgs__txn_keep(t, deadline_ms);
		result = place_chunk(&p);
	}
	pgs__workbench_give(&t->db->contents.benches, p.bench);
	return result;
}

static void free_pages(pgs_txn *t)
{
	for (size_t i = 0; i < t->write_count; i++)
		if (t->writes[i].state == PGS__WRITE_READY) {
			pgs__free(t->writes[i].page);
			t->writes[i].page = NULL;
		}
}

int pgs__txn_place(pgs_txn *t, bool spill, uint64_t deadline_ms, pgs_error *err)
{
	pgs__write **pending = pgs__malloc(t->write_count * sizeof *pending);
	if (!pending)
		return pgs__error_nomem(err, "placing pages");
	size_t count = 0;
	pgs__early_finish(t);
	for (size_t i = 0; i < t->write_count; i++)
		if (t->writes[i].state == PGS__WRITE_PENDING)
			pending[count++] = &t->writes[i];
	if (count > 1)
		qsort(pending, count, sizeof *pending, by_page);
	int result = place_all(t, pending, count, deadline_ms, err);
	pgs__free(pending);
	if (result == PGS_OK)
		pgs__early_free(t);
	if (result == PGS_OK && t->frame_bytes >= FILE_BYTES_MIN)
		result = pgs__upload_frames(t, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	if (spill)
		free_pages(t);
	t->buffered_bytes = 0;
	return PGS_OK;
}

/* --- contents of ready writes ------------------------------------------------------------------- */

static int read_own_file(pgs_txn *t, const pgs__write *w, void *page, pgs__workbench *bench, uint64_t deadline_ms)
{
	pgs_blob *blob = pgs__db_backend(t->db)->blob;
	pgs_blob_range range = {.name = t->files[w->file].blob_name, .offset = w->offset, .size = w->frame_size};
	int result = pgs__upload_has(t, w->file) ? pgs__upload_finish(t, deadline_ms, &t->error) : PGS_OK;
	if (result != PGS_OK)
		return result;
	uint8_t *bytes = pgs__malloc(w->frame_size);
	if (!bytes)
		return pgs__error_nomem(&t->error, "reading a spilled page");
	range.buffer = bytes;
	result = pgs__blob_get(blob, &range, 1, deadline_ms, &t->error);
	pgs__want want = {.page_no = w->page_no, .id = w->pointer.id, .page = page};
	if (result == PGS_OK)
		result = pgs__content_open(&t->db->contents, bench, (pgs_slice){bytes, w->frame_size}, &want,
					   range.name, &t->error);
	pgs__free(bytes);
	return result;
}

static int read_own_delta(pgs_txn *t, const pgs__write *w, void *page, pgs__workbench *bench, uint64_t deadline_ms)
{
	pgs__want want = {.page_no = w->page_no, .id = w->pointer.base, .page = page};
	memset(page, 0, pgs__txn_page_size(t));
	if (w->pointer.has_base) {
		int result = pgs__contents_fetch(&t->db->contents, &want, 1, deadline_ms, &t->error);
		if (result == PGS_ENOTFOUND)
			result = pgs__explain_missing(&t->snapshot, deadline_ms, &t->error);
		if (result != PGS_OK)
			return result;
	}
	if (pgs__delta_apply(bench, w->pointer.delta, page, page) != PGS_OK)
		return pgs__error_page(&t->error, PGS_ECORRUPT, w->page_no, "page %llu: its own delta does not apply",
				       (unsigned long long)w->page_no);
	return PGS_OK;
}

int pgs__write_content(pgs_txn *t, const pgs__write *w, void *page, uint64_t deadline_ms)
{
	uint32_t page_size = pgs__txn_page_size(t);
	if (w->page) {
		memcpy(page, w->page, page_size);
		return PGS_OK;
	}
	if (w->pointer.kind == PGS__POINTER_ZERO) {
		memset(page, 0, page_size);
		return PGS_OK;
	}
	pgs__workbench *bench = pgs__workbench_take(&t->db->contents.benches);
	if (!bench)
		return pgs__error_nomem(&t->error, "reading a written page");
	int result;
	if (w->pointer.kind == PGS__POINTER_DELTA)
		result = read_own_delta(t, w, page, bench, deadline_ms);
	else if (w->in_file)
		result = read_own_file(t, w, page, bench, deadline_ms);
	else
		result = pgs__decompress_page(bench, (pgs_slice){w->frame, w->frame_size}, page);
	pgs__workbench_give(&t->db->contents.benches, bench);
	return result;
}

int pgs__write_make_full(pgs_txn *t, pgs__write *w, uint64_t deadline_ms, pgs_error *err)
{
	if (!w->page) {
		uint8_t *page = pgs__malloc(pgs__txn_page_size(t));
		if (!page)
			return pgs__error_nomem(err, "written page");
		int result = pgs__write_content(t, w, page, deadline_ms);
		if (result != PGS_OK) {
			pgs__free(page);
			if (err)
				*err = t->error;
			return result;
		}
		w->page = page;
	}
	pgs__workbench *bench = pgs__workbench_take(&t->db->contents.benches);
	if (!bench)
		return pgs__error_nomem(err, "compressed page");
	w->depends = false;
	int result = keep_frame(t, w, pgs__compress_page(bench, w->page), err);
	pgs__workbench_give(&t->db->contents.benches, bench);
	return result;
}
