/* Fetching contents.
 *
 *     wants, sorted by id ── locate in the known sorted files ──┬─ found: blob ranges, merged over small gaps
 *                                                               └─ not:   c/<id> in the KV
 *     still missing ── refresh the list of files and look again: a content that moved was in its new place first
 */
#include "content/contents.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"
#include "util/arena.h"
#include "util/error.h"
#include "util/random.h"

#define ATTEMPTS 3
#define GAP_MAX (64u << 10)    /* bytes read and thrown away rather than asked for separately */
#define SPAN_MAX (4u << 20)    /* of one ranged read */
#define BATCH_MAX (16u << 20)  /* of one call's reads together */
#define KV_BATCH 100           /* c/ keys in one transaction */

typedef struct job {
	pgs__want *want;
	const pgs__file *file; /* where it was located, or NULL */
	uint64_t offset;
	uint32_t length;
	bool done;
} job;

typedef struct fetch {
	pgs__contents *contents;
	pgs__workbench *bench;
	job *jobs; /* in id order */
	size_t count;
	uint64_t deadline_ms;
	pgs_error *err;
} fetch;

/* --- opening ----------------------------------------------------------------- */

int pgs__content_open(pgs__contents *contents, pgs__workbench *bench, pgs_slice stored, const pgs__want *want,
		      const char *place, pgs_error *err)
{
	if (pgs__decompress_page(bench, stored, want->page) != PGS_OK)
		return pgs__error_page(err, PGS_ECORRUPT, want->page_no,
				       "page %llu: its content at %s does not decompress",
				       (unsigned long long)want->page_no, place);
	pgs__page_id id = pgs__page_id_of(contents->secret, want->page_no, want->page, contents->page_size);
	if (!pgs__page_id_equal(&id, &want->id))
		return pgs__error_page(err, PGS_ECORRUPT, want->page_no,
				       "page %llu: its content at %s does not match its id",
				       (unsigned long long)want->page_no, place);
	return PGS_OK;
}

/* Open what was found for a job. A damaged content is the job's status, and does not stop the others. */
static void finish_job(fetch *f, job *j, pgs_slice stored, const char *place)
{
	int before = f->err ? f->err->code : PGS_OK;
	pgs_error local = PGS_ERROR_INIT;
	j->want->status = pgs__content_open(f->contents, f->bench, stored, j->want, place, &local);
	j->done = true;
	if (j->want->status != PGS_OK && f->err && before == PGS_OK)
		*f->err = local;
}

/* --- locating in sorted files -------------------------------------------------- */

static bool file_covers(const pgs__file *file, const pgs__page_id *id)
{
	return memcmp(id->bytes, file->key.first.bytes, PGS__ID_SIZE) >= 0 &&
	       memcmp(id->bytes, file->key.last.bytes, PGS__ID_SIZE) <= 0;
}

static uint64_t contents_offset(const pgs__file *file)
{
	return PGS__SORTED_HEADER_SIZE + file->index.count * PGS__SORTED_ENTRY_SIZE;
}

static bool wants_file(const job *j, const pgs__file *file)
{
	return !j->done && !j->file && file_covers(file, &j->want->id);
}

/* Look one id up in table bytes. A tombstone does not end the search: it counts as not here. */
static int locate_in(fetch *f, job *j, const pgs__file *file, pgs_slice table)
{
	pgs__sorted_entry entry;
	int result = pgs__sorted_find(table, &j->want->id, f->contents->page_size, contents_offset(file),
				      file->index.file_size, &entry);
	if (result == PGS_ENOTFOUND || (result == PGS_OK && entry.offset > PGS__SORTED_FILE_MAX))
		return PGS_OK;
	if (result != PGS_OK)
		return pgs__error_page(f->err, PGS_ECORRUPT, j->want->page_no,
				       "table of sorted file %s is damaged: entry outside the file", file->blob_name);
	j->file = file;
	j->offset = entry.offset;
	j->length = entry.length;
	return PGS_OK;
}

/* A run of table slices read together. */
typedef struct slice_span {
	size_t first, last; /* slices */
	size_t job_first, job_end;
} slice_span;

static size_t slice_bytes(const pgs__file *file, size_t first, size_t last)
{
	uint64_t from = (uint64_t)first * PGS__SORTED_SLICE, to = (uint64_t)(last + 1) * PGS__SORTED_SLICE;
	if (to > file->index.count)
		to = file->index.count;
	return (size_t)(to - from) * PGS__SORTED_ENTRY_SIZE;
}

static int search_span(fetch *f, const pgs__file *file, const slice_span *span, const uint8_t *bytes)
{
	for (size_t i = span->job_first; i < span->job_end; i++) {
		job *j = &f->jobs[i];
		if (!wants_file(j, file))
			continue;
		int64_t slice = pgs__fence_find(file->index.fences, &j->want->id);
		if (slice < 0)
			continue;
		pgs_slice table = {bytes + ((size_t)slice - span->first) * PGS__SORTED_SLICE * PGS__SORTED_ENTRY_SIZE,
				   slice_bytes(file, (size_t)slice, (size_t)slice)};
		if (pgs__check32(table.data, table.size) != pgs__fence_check(file->index.fences, (size_t)slice))
			return pgs__error_page(f->err, PGS_ECORRUPT, j->want->page_no,
					       "table of sorted file %s is damaged: slice %lld", file->blob_name,
					       (long long)slice);
		int result = locate_in(f, j, file, table);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

static int read_span(fetch *f, const pgs__file *file, const slice_span *span)
{
	const pgs__backend *backend = f->contents->backend;
	size_t size = slice_bytes(file, span->first, span->last);
	uint8_t *bytes = pgs__malloc(size);
	if (!bytes)
		return pgs__error_nomem(f->err, "table of a sorted file");
	pgs_blob_range range = {
		.name = file->blob_name,
		.offset = PGS__SORTED_HEADER_SIZE + (uint64_t)span->first * PGS__SORTED_SLICE * PGS__SORTED_ENTRY_SIZE,
		.size = size,
		.buffer = bytes,
	};
	int result = backend->blob->vtable->get(backend->blob, &range, 1, f->deadline_ms, f->err);
	if (result == PGS_OK)
		result = search_span(f, file, span, bytes);
	pgs__free(bytes);
	/* A file that has gone was replaced: a refresh finds what replaced it. */
	return result == PGS_ENOTFOUND ? PGS_OK : result;
}

/* Jobs are in id order, so the slices they need rise: read them in runs. */
static int locate_fenced(fetch *f, const pgs__file *file)
{
	slice_span span = {0};
	bool open = false;
	for (size_t i = 0; i < f->count; i++) {
		job *j = &f->jobs[i];
		int64_t found = wants_file(j, file) ? pgs__fence_find(file->index.fences, &j->want->id) : -1;
		if (found < 0)
			continue;
		size_t slice = (size_t)found;
		bool joins = open && slice_bytes(file, span.last, slice) <= GAP_MAX &&
			     slice_bytes(file, span.first, slice) <= SPAN_MAX;
		if (open && !joins) {
			int result = read_span(f, file, &span);
			if (result != PGS_OK)
				return result;
		}
		if (!joins)
			span = (slice_span){slice, slice, i, i + 1};
		span.last = slice;
		span.job_end = i + 1;
		open = true;
	}
	return open ? read_span(f, file, &span) : PGS_OK;
}

static int locate(fetch *f, const pgs__file_map *map)
{
	for (size_t i = 0; i < map->count; i++) {
		const pgs__file *file = map->files[i];
		int result = PGS_OK;
		if (!file->index.has_table)
			result = locate_fenced(f, file);
		for (size_t k = 0; file->index.has_table && k < f->count && result == PGS_OK; k++)
			if (wants_file(&f->jobs[k], file))
				result = locate_in(f, &f->jobs[k], file, file->index.table);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

/* --- reading from the KV --------------------------------------------------------- */

static int read_kv_batch(fetch *f, job **jobs, size_t count)
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
			finish_job(f, jobs[i], pair->value,
				   pgs__printable(place, sizeof place, keys[i].bytes, keys[i].size));
	}
	pgs__kv_release(f->contents->backend, &txn, 1);
	return result;
}

static int read_kv(fetch *f)
{
	job *batch[KV_BATCH];
	size_t used = 0, room = pgs__max_ops(f->contents->backend);
	/* Contents are at most a page each: keep the reply within what the backend can carry. */
	size_t by_bytes = pgs__max_bytes(f->contents->backend) / (f->contents->page_size + 64);
	room = room < KV_BATCH ? room : KV_BATCH;
	room = by_bytes < room ? (by_bytes ? by_bytes : 1) : room;
	for (size_t i = 0; i < f->count; i++) {
		if (f->jobs[i].done || f->jobs[i].file)
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
	const job *x = *(job *const *)a, *y = *(job *const *)b;
	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Jobs [first, end) of the sorted list are served by one ranged read. */
typedef struct content_span {
	size_t first, end;
} content_span;

static size_t span_size(job *const *jobs, const content_span *span)
{
	const job *last = jobs[span->end - 1];
	return (size_t)(last->offset + last->length - jobs[span->first]->offset);
}

static void open_span(fetch *f, job **jobs, const content_span *span, const pgs_blob_range *range)
{
	for (size_t i = span->first; i < span->end; i++) {
		job *j = jobs[i];
		char place[PGS__BLOB_NAME_SIZE + 32];
		if (range->status == PGS_ENOTFOUND) {
			j->file = NULL; /* merged away: look again */
			continue;
		}
		snprintf(place, sizeof place, "%s offset %llu", j->file->blob_name, (unsigned long long)j->offset);
		finish_job(f, j,
			   (pgs_slice){(const uint8_t *)range->buffer + (j->offset - range->offset), j->length}, place);
	}
}

/* One of a span's contents lies past the end of its file, or worse: read them one by one, so that only those fail. */
static int read_alone(fetch *f, job **jobs, const content_span *span)
{
	const pgs__backend *backend = f->contents->backend;
	uint8_t *buffer = pgs__malloc(f->contents->page_size);
	if (!buffer)
		return pgs__error_nomem(f->err, "reading contents");
	for (size_t i = span->first; i < span->end; i++) {
		job *j = jobs[i];
		pgs_error local = PGS_ERROR_INIT;
		pgs_blob_range range = {.name = j->file->blob_name, .offset = j->offset, .size = j->length, .buffer = buffer};
		const content_span one = {i, i + 1};
		int result = backend->blob->vtable->get(backend->blob, &range, 1, f->deadline_ms, &local);
		if (result == PGS_OK || result == PGS_ENOTFOUND) {
			open_span(f, jobs, &one, &range);
			continue;
		}
		if (result != PGS_ECORRUPT) {
			pgs__free(buffer);
			return pgs__error(f->err, result, "%s", local.message);
		}
		j->want->status = PGS_ECORRUPT;
		j->done = true;
		if (f->err && f->err->code == PGS_OK)
			pgs__error_page(f->err, PGS_ECORRUPT, j->want->page_no, "page %llu: its content cannot be read: %s",
					(unsigned long long)j->want->page_no, local.message);
	}
	pgs__free(buffer);
	return PGS_OK;
}

static int read_spans(fetch *f, job **jobs, const content_span *spans, size_t count, size_t bytes)
{
	const pgs__backend *backend = f->contents->backend;
	pgs_blob_range *ranges = pgs__calloc(count, sizeof *ranges);
	uint8_t *buffer = pgs__malloc(bytes);
	int result = ranges && buffer ? PGS_OK : pgs__error_nomem(f->err, "reading contents");
	size_t used = 0;
	for (size_t i = 0; result == PGS_OK && i < count; i++) {
		const job *first = jobs[spans[i].first];
		ranges[i] = (pgs_blob_range){.name = first->file->blob_name,
					     .offset = first->offset,
					     .size = span_size(jobs, &spans[i]),
					     .buffer = buffer + used};
		used += ranges[i].size;
	}
	if (result == PGS_OK) {
		pgs_error local = PGS_ERROR_INIT;
		backend->blob->vtable->get(backend->blob, ranges, count, f->deadline_ms, &local);
		for (size_t i = 0; i < count && result == PGS_OK; i++) {
			int status = ranges[i].status;
			if (status == PGS_OK || status == PGS_ENOTFOUND)
				open_span(f, jobs, &spans[i], &ranges[i]);
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
static int read_sorted_jobs(fetch *f, job **jobs, size_t count, content_span *spans)
{
	size_t span_count = 0, bytes = 0;
	for (size_t i = 0; i < count; i++) {
		content_span *last = span_count ? &spans[span_count - 1] : NULL;
		const job *prev = last ? jobs[last->end - 1] : NULL;
		uint64_t prev_end = prev ? prev->offset + prev->length : 0;
		if (prev && prev->file == jobs[i]->file && jobs[i]->offset <= prev_end + GAP_MAX &&
		    jobs[i]->offset + jobs[i]->length - jobs[last->first]->offset <= SPAN_MAX) {
			bytes -= span_size(jobs, last);
			last->end = i + 1;
			bytes += span_size(jobs, last);
			continue;
		}
		if (bytes >= BATCH_MAX) {
			int result = read_spans(f, jobs, spans, span_count, bytes);
			if (result != PGS_OK)
				return result;
			span_count = bytes = 0;
		}
		spans[span_count++] = (content_span){i, i + 1};
		bytes += jobs[i]->length;
	}
	return span_count ? read_spans(f, jobs, spans, span_count, bytes) : PGS_OK;
}

static int read_files(fetch *f)
{
	job **located = pgs__malloc(f->count * sizeof *located);
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
	const job *x = a, *y = b;
	return memcmp(x->want->id.bytes, y->want->id.bytes, PGS__ID_SIZE);
}

static bool all_done(const fetch *f)
{
	for (size_t i = 0; i < f->count; i++)
		if (!f->jobs[i].done)
			return false;
	return true;
}

/* One look through the files known now, and the KV. */
static int attempt(fetch *f)
{
	pgs__file_map *map = pgs__levels_map(&f->contents->levels);
	int result = locate(f, map);
	if (result == PGS_OK)
		result = read_kv(f);
	if (result == PGS_OK)
		result = read_files(f);
	for (size_t i = 0; i < f->count; i++)
		f->jobs[i].file = NULL; /* the map it belongs to is released */
	pgs__file_map_release(map);
	return result;
}

static int first_failure(const fetch *f)
{
	for (size_t i = 0; i < f->count; i++) {
		const pgs__want *want = f->jobs[i].want;
		if (!f->jobs[i].done) {
			char id[2 * PGS__ID_SIZE + 1];
			pgs__hex(id, want->id.bytes, PGS__ID_SIZE);
			return pgs__error_page(f->err, PGS_ENOTFOUND, want->page_no,
					       "page %llu: content %s is neither in the KV nor in a sorted file",
					       (unsigned long long)want->page_no, id);
		}
		if (want->status != PGS_OK)
			return want->status;
	}
	return PGS_OK;
}

/* The index of some file is damaged, and a content was not found elsewhere: that says why, about its page. */
static int damaged_index(fetch *f, int damage, const pgs_error *why)
{
	for (size_t i = 0; i < f->count; i++)
		if (!f->jobs[i].done) {
			uint64_t page_no = f->jobs[i].want->page_no;
			return pgs__error_page(f->err, damage, page_no, "page %llu: %s", (unsigned long long)page_no,
					       why->message);
		}
	return first_failure(f);
}

static int run(fetch *f, const uint8_t *prefix)
{
	int result = PGS_OK, damage = PGS_OK;
	pgs_error why = PGS_ERROR_INIT;
	if (f->err)
		*f->err = (pgs_error)PGS_ERROR_INIT;
	for (int i = 0; i < ATTEMPTS && result == PGS_OK && !all_done(f); i++) {
		pgs_error local = PGS_ERROR_INIT;
		if (i > 0)
			result = pgs__levels_refresh(&f->contents->levels, f->contents->backend, prefix,
						     f->deadline_ms, &local);
		if (result == PGS_ECORRUPT || result == PGS_EVERSION) {
			damage = result;
			why = local;
		} else if (result != PGS_OK) {
			return pgs__error(f->err, result, "%s", local.message);
		}
		result = attempt(f);
	}
	if (result != PGS_OK)
		return result;
	return damage != PGS_OK ? damaged_index(f, damage, &why) : first_failure(f);
}

int pgs__contents_fetch(pgs__contents *contents, pgs__want *wants, size_t count, uint64_t deadline_ms,
			pgs_error *err)
{
	if (count == 0)
		return PGS_OK;
	fetch f = {.contents = contents, .count = count, .deadline_ms = deadline_ms, .err = err};
	for (size_t i = 0; i < count; i++) /* before anything fails: a status of PGS_OK says that the page is there */
		wants[i].status = PGS_ENOTFOUND;
	f.jobs = pgs__calloc(count, sizeof *f.jobs);
	f.bench = pgs__workbench_take(&contents->benches);
	int result = f.jobs && f.bench ? PGS_OK : pgs__error_nomem(err, "reading contents");
	if (result == PGS_OK) {
		for (size_t i = 0; i < count; i++)
			f.jobs[i].want = &wants[i];
		qsort(f.jobs, count, sizeof *f.jobs, by_id);
		result = run(&f, contents->prefix);
	}
	pgs__workbench_give(&contents->benches, f.bench);
	pgs__free(f.jobs);
	return result;
}
