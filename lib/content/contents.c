/* Fetching contents.
 *
 *     wants, sorted by id ── in the machine's cache file? (local.c)
 *           │ not
 *           ↓             locate in the known sorted files ──┬─ found: blob ranges, merged over small gaps
 *           ↑                         (locate.c)                └─ not:   c/<id> in the KV
 *           ├── a copy is damaged: look for another, leaving that one out
 *           └── still missing: refresh the list of files, and as long as that brings another list look again: a content
 *               that moved was in its new place first
 */
#include "content/contents.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "content/fetch.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define BATCH_MAX (16u << 20)  /* of one call's reads together */
#define KV_BATCH 100           /* c/ keys in one transaction */

/* --- opening ----------------------------------------------------------------- */

int pgs__content_open(pgs__contents *contents, pgs__workbench *bench, pgs_slice stored, const pgs__want *want,
		      const char *place, pgs_error *err)
{
	if (pgs__decompress_page(bench, stored, want->page) != PGS_OK)
		return pgs__error_page(err, PGS_ECORRUPT, want->page_no,
				       "page %llu: its content at %s does not decompress",
				       (unsigned long long)want->page_no, place);
	pgs__page_id id = pgs__page_id_of(contents->secret, want->page_no, want->page, contents->page_size);
	bool trusted = PGS__BUG(CACHE_UNVERIFIED) && strcmp(place, "the cache") == 0;
	if (!pgs__page_id_equal(&id, &want->id) && !trusted)
		return pgs__error_page(err, PGS_ECORRUPT, want->page_no,
				       "page %llu: its content at %s does not match its id",
				       (unsigned long long)want->page_no, place);
	return PGS_OK;
}

int pgs__job_damaged(pgs__fetch *f, pgs__job *j, const pgs__file *file, const pgs_error *why)
{
	f->damaged = true;
	j->file = NULL;
	if (!file)
		j->kv_bad = true;
	else if (j->bad_count < PGS__FETCH_BAD_MAX)
		j->bad[j->bad_count++] = file;
	if (j->why)
		return PGS_OK;
	j->why = pgs__malloc(sizeof *j->why);
	if (!j->why)
		return pgs__error_nomem(f->err, "reading contents");
	*j->why = *why;
	return PGS_OK;
}

/* Open what was found for a job, in `file` or c/. A damaged copy is the job's trouble, and does not stop the others. */
static int finish_job(pgs__fetch *f, pgs__job *j, const pgs__file *file, pgs_slice stored, const char *place)
{
	pgs_error why = PGS_ERROR_INIT;
	if (pgs__content_open(f->contents, f->bench, stored, j->want, place, &why) != PGS_OK)
		return pgs__job_damaged(f, j, file, &why);
	if (f->visit)
		f->visit(f->visit_ctx, j->want, stored);
	else if (f->keeps)
		pgs__disk_put(f->contents->disk, &j->want->id, stored);
	j->want->status = PGS_OK;
	j->done = true;
	return PGS_OK;
}

/* --- reading from the KV --------------------------------------------------------- */

static int read_kv_batch(pgs__fetch *f, pgs__job **jobs, size_t count)
{
	pgs__key keys[KV_BATCH];
	pgs_kv_op ops[KV_BATCH];
	pgs_kv_txn txn;
	ops[0].kind = PGS_KV_RANGE; /* count is at least 1, which compilers do not know */
	for (size_t i = 0; i < count; i++) {
		keys[i] = pgs__key_content(f->contents->prefix, &jobs[i]->want->id);
		ops[i] = pgs__op_get(pgs__key_slice(&keys[i]), 0);
	}
	int result = pgs__kv_read(f->contents->backend, &txn, ops, count, f->deadline_ms, f->err);
	for (size_t i = 0; result == PGS_OK && i < count; i++) {
		const pgs_kv_pair *pair = pgs__got(&txn, i);
		char place[2 * PGS__KEY_MAX];
		if (pair)
			result = finish_job(f, jobs[i], NULL, pair->value,
					    pgs__printable(place, sizeof place, keys[i].bytes, keys[i].size));
	}
	pgs__kv_release(f->contents->backend, &txn, 1);
	return result;
}

static int read_kv(pgs__fetch *f)
{
	pgs__job *batch[KV_BATCH];
	size_t used = 0, room = pgs__max_ops(f->contents->backend);
	/* Contents are at most a page each: keep the reply within what the backend can carry. */
	size_t by_bytes = pgs__max_bytes(f->contents->backend) / (f->contents->page_size + 64);
	room = room < KV_BATCH ? room : KV_BATCH;
	room = by_bytes < room ? (by_bytes ? by_bytes : 1) : room;
	for (size_t i = 0; i < f->count; i++) {
		if (f->jobs[i].done || f->jobs[i].file || f->jobs[i].kv_bad)
			continue;
		batch[used++] = &f->jobs[i];
		if (used == room) {
			int result = read_kv_batch(f, batch, used);
			if (result != PGS_OK)
				return result;
			used = 0;
		}
	}
	return used ? read_kv_batch(f, batch, used) : PGS_OK;
}

/* --- reading from files ------------------------------------------------------------ */

static int by_place(const void *a, const void *b)
{
	const pgs__job *x = *(pgs__job *const *)a, *y = *(pgs__job *const *)b;
	int order = x->file == y->file ? 0 : strcmp(x->file->blob_name, y->file->blob_name);
	if (order != 0)
		return order;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Jobs [first, end) of the sorted list are served by one ranged read; `wanted` bytes of it are theirs. */
typedef struct content_span {
	size_t first, end;
	uint64_t wanted;
} content_span;

static size_t span_size(pgs__job *const *jobs, const content_span *span)
{
	const pgs__job *last = jobs[span->end - 1];
	return (size_t)(last->offset + last->length - jobs[span->first]->offset);
}

/* Whether the read goes on to the next content. Over a gap that costs less than a request it does; ahead of time, when
 * much of a range is wanted, over larger ones too, as long as half of what comes is. */
static bool joins_span(const pgs__fetch *f, pgs__job *const *jobs, const content_span *span, const pgs__job *next)
{
	const pgs__job *first = jobs[span->first], *last = jobs[span->end - 1];
	uint64_t end = last->offset + last->length, size = next->offset + next->length - first->offset;
	if (last->file != next->file || size > (f->visit ? PGS__FETCH_BLOCK_MAX : PGS__FETCH_SPAN_MAX))
		return false;
	return next->offset <= end + PGS__FETCH_GAP_MAX ||
	       (f->visit && next->offset <= end + PGS__FETCH_BLOCK_GAP && 2 * (span->wanted + next->length) >= size);
}

int pgs__job_missed(pgs__fetch *f, pgs__job *j, const pgs__file *file)
{
	pgs_error why = PGS_ERROR_INIT;
	f->missed = true;
	if (!f->last) {
		j->file = NULL;
		return PGS_OK;
	}
	pgs__error_page(&why, PGS_ENOTFOUND, j->want->page_no,
			"page %llu: its content is not found, and sorted file %s is registered but not there",
			(unsigned long long)j->want->page_no, file->blob_name);
	return pgs__job_damaged(f, j, file, &why);
}

static int open_span(pgs__fetch *f, pgs__job **jobs, const content_span *span, const pgs_blob_range *range)
{
	int result = PGS_OK;
	for (size_t i = span->first; i < span->end && result == PGS_OK; i++) {
		pgs__job *j = jobs[i];
		char place[PGS__BLOB_NAME_SIZE + 32];
		if (range->status == PGS_ENOTFOUND) {
			result = pgs__job_missed(f, j, j->file);
			continue;
		}
		snprintf(place, sizeof place, "%s offset %llu", j->file->blob_name, (unsigned long long)j->offset);
		const pgs_slice stored = {(const uint8_t *)range->buffer + (j->offset - range->offset), j->length};
		result = finish_job(f, j, j->file, stored, place);
	}
	return result;
}

static int read_one(pgs__fetch *f, pgs__job **jobs, size_t at, void *buffer)
{
	const pgs__backend *backend = f->contents->backend;
	pgs__job *j = jobs[at];
	pgs_error local = PGS_ERROR_INIT, why = PGS_ERROR_INIT;
	pgs_blob_range range = {.name = j->file->blob_name, .offset = j->offset, .size = j->length, .buffer = buffer};
	int result = pgs__blob_get(backend->blob, &range, 1, f->deadline_ms, &local);
	if (result == PGS_OK || result == PGS_ENOTFOUND)
		return open_span(f, jobs, &(content_span){at, at + 1, j->length}, &range);
	if (result != PGS_ECORRUPT)
		return pgs__error(f->err, result, "%s", local.message);
	pgs__error_page(&why, PGS_ECORRUPT, j->want->page_no,
			"page %llu: its content at %s offset %llu cannot be read: %s",
			(unsigned long long)j->want->page_no, j->file->blob_name, (unsigned long long)j->offset,
			local.message);
	return pgs__job_damaged(f, j, j->file, &why);
}

/* One of a span's contents lies past the end of its file, or worse: read them one by one, so that only those fail. */
static int read_alone(pgs__fetch *f, pgs__job **jobs, const content_span *span)
{
	uint8_t *buffer = pgs__malloc(f->contents->page_size);
	int result = buffer ? PGS_OK : pgs__error_nomem(f->err, "reading contents");
	for (size_t i = span->first; i < span->end && result == PGS_OK; i++)
		result = read_one(f, jobs, i, buffer);
	pgs__free(buffer);
	return result;
}

static int read_spans(pgs__fetch *f, pgs__job **jobs, const content_span *spans, size_t count, size_t bytes)
{
	const pgs__backend *backend = f->contents->backend;
	pgs_blob_range *ranges = pgs__calloc(count, sizeof *ranges);
	uint8_t *buffer = pgs__malloc(bytes);
	int result = ranges && buffer ? PGS_OK : pgs__error_nomem(f->err, "reading contents");
	size_t used = 0;
	for (size_t i = 0; result == PGS_OK && i < count; i++) {
		const pgs__job *first = jobs[spans[i].first];
		ranges[i] = (pgs_blob_range){.name = first->file->blob_name,
					     .offset = first->offset,
					     .size = span_size(jobs, &spans[i]),
					     .buffer = buffer + used};
		used += ranges[i].size;
	}
	if (result == PGS_OK) {
		pgs_error local = PGS_ERROR_INIT;
		pgs__blob_get(backend->blob, ranges, count, f->deadline_ms, &local);
		for (size_t i = 0; i < count && result == PGS_OK; i++) {
			int status = ranges[i].status;
			if (status == PGS_OK || status == PGS_ENOTFOUND)
				result = open_span(f, jobs, &spans[i], &ranges[i]);
			else if (status == PGS_ECORRUPT)
				result = read_alone(f, jobs, &spans[i]);
			else
				result = pgs__error(f->err, status, "%s", local.message);
		}
	}
	pgs__free(buffer);
	pgs__free(ranges);
	return result;
}

/* Group the located jobs into spans, and those into calls of bounded size. */
static int read_sorted_jobs(pgs__fetch *f, pgs__job **jobs, size_t count, content_span *spans)
{
	size_t span_count = 0, bytes = 0;
	for (size_t i = 0; i < count; i++) {
		content_span *last = span_count ? &spans[span_count - 1] : NULL;
		if (last && joins_span(f, jobs, last, jobs[i])) {
			bytes -= span_size(jobs, last);
			last->end = i + 1;
			last->wanted += jobs[i]->length;
			bytes += span_size(jobs, last);
			continue;
		}
		if (bytes >= (f->visit ? PGS__FETCH_BLOCK_GAP : BATCH_MAX)) {
			int result = read_spans(f, jobs, spans, span_count, bytes);
			if (result != PGS_OK)
				return result;
			span_count = bytes = 0;
		}
		spans[span_count++] = (content_span){i, i + 1, jobs[i]->length};
		bytes += jobs[i]->length;
	}
	return span_count ? read_spans(f, jobs, spans, span_count, bytes) : PGS_OK;
}

static int read_files(pgs__fetch *f)
{
	pgs__job **located = pgs__malloc(f->count * sizeof *located);
	content_span *spans = pgs__malloc(f->count * sizeof *spans);
	size_t count = 0;
	int result = located && spans ? PGS_OK : pgs__error_nomem(f->err, "reading contents");
	for (size_t i = 0; result == PGS_OK && i < f->count; i++)
		if (!f->jobs[i].done && f->jobs[i].file)
			located[count++] = &f->jobs[i];
	if (result == PGS_OK && count) {
		qsort(located, count, sizeof *located, by_place);
		result = read_sorted_jobs(f, located, count, spans);
	}
	pgs__free(located);
	pgs__free(spans);
	return result;
}

/* --- all together -------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
	const pgs__job *x = a, *y = b;
	return memcmp(x->want->id.bytes, y->want->id.bytes, PGS__ID_SIZE);
}

static bool all_done(const pgs__fetch *f)
{
	for (size_t i = 0; i < f->count; i++)
		if (!f->jobs[i].done)
			return false;
	return true;
}

/* Forget places: the map they belong to goes, or is another one. */
static void forget_places(pgs__fetch *f)
{
	for (size_t i = 0; i < f->count; i++) {
		f->jobs[i].file = NULL;
		f->jobs[i].bad_count = 0;
		f->jobs[i].kv_bad = false;
	}
}

/* One look through the files known now, and the KV; more, for other copies of what is damaged: each time that happens
 * a job has one copy less to try. */
static int attempt(pgs__fetch *f, uint64_t *generation)
{
	pgs__levels_wait(&f->contents->levels);
	pgs__file_map *map = pgs__levels_map(&f->contents->levels);
	int result;
	*generation = map->generation;
	do {
		f->damaged = false;
		result = pgs__locate(f, map);
		if (result == PGS_OK)
			result = read_kv(f);
		if (result == PGS_OK)
			result = read_files(f);
	} while (result == PGS_OK && f->damaged);
	forget_places(f);
	pgs__file_map_release(map);
	return result;
}

static int missing(pgs__fetch *f, const pgs__want *want)
{
	char id[2 * PGS__ID_SIZE + 1];
	pgs__hex(id, want->id.bytes, PGS__ID_SIZE);
	return pgs__error_page(f->err, PGS_ENOTFOUND, want->page_no,
			       "page %llu: content %s is neither in the KV nor in a sorted file",
			       (unsigned long long)want->page_no, id);
}

/* After the last look. `unread`: the index of some file is damaged, and *why: what is not found may be there. */
static int settle(pgs__fetch *f, int unread, const pgs_error *why)
{
	int first = PGS_OK;
	for (size_t i = 0; i < f->count; i++) {
		const pgs__job *j = &f->jobs[i];
		uint64_t page_no = j->want->page_no;
		if (j->done && j->want->status == PGS_OK)
			continue;
		j->want->status = j->why ? j->why->code : PGS_ENOTFOUND;
		if (first != PGS_OK)
			continue;
		first = j->why ? j->why->code : unread != PGS_OK ? unread : PGS_ENOTFOUND;
		if (j->why && f->err)
			*f->err = *j->why;
		else if (!j->why && unread != PGS_OK)
			pgs__error_page(f->err, unread, page_no, "page %llu: %s", (unsigned long long)page_no,
					why->message);
		else if (!j->why)
			missing(f, j->want);
	}
	return first;
}

/* Look, and look again as long as a refresh brings other files. When it does not, there is no other place: a content
 * was in none of these files, nor in c/ after that, and files come before what they replace goes. Only where one of
 * these files was not there, a last look is for other copies. */
static int run(pgs__fetch *f)
{
	int unread = PGS_OK;
	pgs_error why = PGS_ERROR_INIT;
	if (f->recent) {
		int result = read_kv(f);
		forget_places(f);
		if (result != PGS_OK || all_done(f))
			return result;
	}
	for (;;) {
		uint64_t generation;
		int result = attempt(f, &generation);
		if (result != PGS_OK)
			return result;
		if (all_done(f))
			break;
		if (pgs__deadline_passed(f->deadline_ms))
			return pgs__error(f->err, PGS_ETIMEOUT, "contents move faster than they are found");
		pgs_error local = PGS_ERROR_INIT;
		result = pgs__levels_refresh(&f->contents->levels, f->contents->backend, f->contents->prefix,
					     f->deadline_ms, &local);
		unread = result;
		why = local;
		if (result != PGS_OK && result != PGS_ECORRUPT && result != PGS_EVERSION)
			return pgs__error(f->err, result, "%s", local.message);
		pgs__file_map *map = pgs__levels_map(&f->contents->levels);
		bool other = map->generation != generation;
		pgs__file_map_release(map);
		if (!other && (f->last || !f->missed))
			break;
		f->last = !other;
	}
	return settle(f, unread, &why);
}

static int fetch(const pgs__fetch *what, pgs__want *wants, pgs_error *err)
{
	pgs__contents *contents = what->contents;
	pgs_error local = PGS_ERROR_INIT;
	pgs__fetch own = *what, *f = &own;
	if (f->count == 0)
		return PGS_OK;
	f->err = &local;
	for (size_t i = 0; i < f->count; i++) /* before anything fails: a status of PGS_OK says that the page is there */
		wants[i].status = PGS_ENOTFOUND;
	f->jobs = pgs__calloc(f->count, sizeof *f->jobs);
	f->bench = pgs__workbench_take(&contents->benches);
	int result = f->jobs && f->bench ? PGS_OK : pgs__error_nomem(&local, "reading contents");
	if (result == PGS_OK) {
		for (size_t i = 0; i < f->count; i++)
			f->jobs[i].want = &wants[i];
		qsort(f->jobs, f->count, sizeof *f->jobs, by_id);
		if (f->keeps && !f->visit)
			pgs__fetch_local(f);
		if (!all_done(f))
			result = run(f);
	}
	for (size_t i = 0; f->jobs && i < f->count; i++)
		pgs__free(f->jobs[i].why);
	pgs__workbench_give(&contents->benches, f->bench);
	pgs__free(f->jobs);
	if (result != PGS_OK && err)
		*err = local;
	return result;
}

int pgs__contents_fetch(pgs__contents *contents, pgs__want *wants, size_t count, uint64_t deadline_ms,
			pgs_error *err)
{
	const pgs__fetch f = {.contents = contents, .count = count, .deadline_ms = deadline_ms, .keeps = contents->disk};
	return fetch(&f, wants, err);
}

int pgs__contents_fetch_stored(pgs__contents *contents, pgs__want *wants, size_t count, uint64_t deadline_ms,
			       pgs_error *err)
{
	const pgs__fetch f = {.contents = contents, .count = count, .deadline_ms = deadline_ms};
	return fetch(&f, wants, err);
}

int pgs__contents_fetch_ahead(pgs__contents *contents, pgs__want *wants, size_t count, bool recent,
			      pgs__content_visitor visit, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	const pgs__fetch f = {.contents = contents, .count = count, .deadline_ms = deadline_ms, .recent = recent,
			      .keeps = contents->disk, .visit = visit, .visit_ctx = ctx};
	return fetch(&f, wants, err);
}
