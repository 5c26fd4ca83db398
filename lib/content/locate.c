/* In which sorted file contents are.
 *
 *     level 0: each file in turn, the newest first
 *     others:  jobs are in id order, and so are a level's files: few files for each run of jobs, by binary search
 *
 *     a file: its table in memory; or fences ── filter ── slices of the table: kept ones, others read in runs
 *
 * A tombstone counts as "not here": the content may be in another file, or have been written again. A table that is
 * damaged costs only the jobs that needed that slice of it, and those only if they are nowhere else.
 */
#include "content/fetch.h"

#include <string.h>

#include "content/parts.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

/* Jobs [first, end), which are in id order. */
typedef struct job_run {
	size_t first, end;
} job_run;

static bool wants_file(const pgs__job *j, const pgs__file *file)
{
	const uint8_t *id = j->want->id.bytes;
	if (j->done || j->file || memcmp(id, file->key.first.bytes, PGS__ID_SIZE) < 0 ||
		memcmp(id, file->key.last.bytes, PGS__ID_SIZE) > 0)
		return false;
	for (size_t i = 0; i < j->bad_count; i++)
		if (j->bad[i] == file)
			return false;
	return j->bad_count < PGS__FETCH_BAD_MAX;
}

static int damaged_table(pgs__fetch *f, pgs__job *j, const pgs__file *file, const char *what)
{
	pgs_error why = PGS_ERROR_INIT;
	pgs__error_page(&why, PGS_ECORRUPT, j->want->page_no, "page %llu: table of sorted file %s is damaged: %s",
			(unsigned long long)j->want->page_no, file->blob_name, what);
	return pgs__job_damaged(f, j, file, &why);
}

/* Look one id up in table bytes. */
static int locate_in(pgs__fetch *f, pgs__job *j, pgs__file *file, pgs_slice table)
{
	pgs__sorted_entry entry;
	int result = pgs__sorted_find(table, &j->want->id, f->contents->page_size, file->index.contents_offset,
				      file->index.file_size, &entry);
	if (result == PGS_ENOTFOUND)
		return PGS_OK;
	if (result != PGS_OK)
		return damaged_table(f, j, file, "entry outside the file");
	if (entry.length == 0) {
		j->done = PGS__BUG(TOMBSTONE_ENDS_SEARCH);
		return PGS_OK;
	}
	j->file = file;
	j->offset = entry.offset;
	j->length = entry.length;
	return PGS_OK;
}

/* --- fenced tables --------------------------------------------------------------- */

/* A run of table slices read together. */
typedef struct slice_span {
	size_t first, last; /* slices */
	job_run jobs;
} slice_span;

static size_t slice_bytes(const pgs__file *file, size_t first, size_t last)
{
	return pgs__slices_bytes(file, first, last + 1);
}

/* The slice that a job has to look at, or -1: not this file. */
static int64_t slice_of(const pgs__job *j, pgs__file *file)
{
	int64_t slice = wants_file(j, file) ? pgs__fence_find(file->index.fences, &j->want->id) : -1;
	if (slice < 0 || !file->index.filter_size ||
		pgs__filters_may_have(file->filters, &file->filter, &j->want->id))
		return slice;
	return -1;
}

/* Where a read waits for a network, a few slices more cost next to nothing, and are those of neighbouring pages: whoever
 * reads an interior page of a tree mostly reads one of its group next. And the cache file keeps so many together. */
static void widen_span(const pgs__fetch *f, const pgs__file *file, slice_span *span)
{
	const size_t count = pgs__file_slices(file);
	if (f->contents->backend->concurrency <= 1 && !f->keeps)
		return;
	span->first -= span->first % PGS__PART_SLICES;
	span->last += PGS__PART_SLICES - 1 - span->last % PGS__PART_SLICES;
	if (span->last >= count)
		span->last = count - 1;
}

/* Slice `slice` of what was read, kept if it is good; nothing when it is damaged. */
static pgs_slice check_slice(pgs__file *file, const slice_span *span, size_t slice, const uint8_t *bytes)
{
	const pgs_slice table = {bytes + (slice - span->first) * PGS__SLICE_BYTES, slice_bytes(file, slice, slice)};
	return pgs__slice_take(file, slice, table.data) ? table : (pgs_slice){0};
}

/* Keep all that was read, if it is good: a damaged table is looked at again by whoever needs it. */
static void keep_span(const pgs__fetch *f, pgs__file *file, const slice_span *span, const uint8_t *bytes)
{
	bool good = true;
	for (size_t slice = span->first; slice <= span->last; slice++)
		good &= check_slice(file, span, slice, bytes).data != NULL;
	if (good && f->keeps)
		pgs__parts_put_slices(f->contents->disk, file, span->first, span->last + 1, bytes, false, f->deadline_ms);
}

static int search_span(pgs__fetch *f, pgs__file *file, const slice_span *span, const uint8_t *bytes)
{
	int64_t current = -1;
	if (f->keeps || f->contents->backend->concurrency > 1)
		keep_span(f, file, span, bytes);
	pgs_slice table = {0};
	int result = PGS_OK;
	for (size_t i = span->jobs.first; i < span->jobs.end && result == PGS_OK; i++) {
		pgs__job *j = &f->jobs[i];
		int64_t slice = wants_file(j, file) ? pgs__fence_find(file->index.fences, &j->want->id) : -1;
		if (slice < (int64_t)span->first || slice > (int64_t)span->last)
			continue; /* nowhere, or it was kept */
		if (slice != current)
			table = check_slice(file, span, (size_t)slice, bytes);
		current = slice;
		result = table.data ? locate_in(f, j, file, table)
				    : damaged_table(f, j, file, "a slice does not match its fence");
	}
	return result;
}

/* The file is too short for its table, or not there. */
static int damage_span(pgs__fetch *f, pgs__file *file, const slice_span *span, bool there)
{
	int result = PGS_OK;
	for (size_t i = span->jobs.first; i < span->jobs.end && result == PGS_OK; i++)
		if (wants_file(&f->jobs[i], file))
			result = there ? damaged_table(f, &f->jobs[i], file, "it cannot be read")
				       : pgs__job_missed(f, &f->jobs[i], file);
	return result;
}

static int read_span(pgs__fetch *f, pgs__file *file, slice_span *span)
{
	const pgs__backend *backend = f->contents->backend;
	widen_span(f, file, span);
	size_t size = slice_bytes(file, span->first, span->last);
	uint8_t *bytes = pgs__malloc(size);
	if (!bytes)
		return pgs__error_nomem(f->err, "table of a sorted file");
	pgs_blob_range range = {
		.name = file->blob_name,
		.offset = PGS__SORTED_HEADER_SIZE + (uint64_t)span->first * PGS__SLICE_BYTES,
		.size = size,
		.buffer = bytes,
	};
	pgs_error local = PGS_ERROR_INIT;
	int result = pgs__blob_get(backend->blob, &range, 1, f->deadline_ms, &local);
	if (result == PGS_OK)
		result = search_span(f, file, span, bytes);
	else if (result == PGS_ENOTFOUND || result == PGS_ECORRUPT)
		result = damage_span(f, file, span, result == PGS_ECORRUPT);
	else
		pgs__error(f->err, result, "%s", local.message);
	pgs__free(bytes);
	return result;
}

static int read_filter(const pgs__fetch *f, pgs__file *file, uint8_t *bits)
{
	pgs_blob_range range = {
		.name = file->blob_name,
		.offset = pgs__sorted_contents_offset(file->index.count, 0),
		.size = (size_t)file->index.filter_size + PGS__FILTER_CHECK_SIZE,
		.buffer = bits,
	};
	int result = pgs__blob_get(f->contents->backend->blob, &range, 1, f->deadline_ms, NULL);
	if (result == PGS_OK && !pgs__sorted_filter_check((pgs_slice){bits, range.size}))
		result = PGS_ECORRUPT;
	if (result == PGS_OK && f->keeps)
		pgs__parts_put_filter(f->contents->disk, file, bits, false, f->deadline_ms);
	return result;
}

/* Read the filter if it is worth it for so many bytes of slices. Without it everything works, only slower. */
static void load_filter(pgs__fetch *f, pgs__file *file, size_t slices)
{
	const size_t size = (size_t)file->index.filter_size;
	if (!pgs__filters_due(file->filters, &file->filter, size, slices, f->last_level))
		return;
	uint8_t *bits = f->keeps ? pgs__parts_get_filter(f->contents->disk, file) : NULL;
	int result = PGS_OK;
	if (!bits && (bits = pgs__malloc(size + PGS__FILTER_CHECK_SIZE)))
		result = read_filter(f, file, bits);
	if (bits && result == PGS_OK) {
		pgs__filters_keep(file->filters, &file->filter, bits, size);
		return;
	}
	if (result == PGS_ECORRUPT)
		pgs__filters_set_damaged(file->filters, &file->filter);
	pgs__free(bits);
}

/* Before slices are looked at: how many bytes of them the jobs would need without a filter. */
static void want_filter(pgs__fetch *f, pgs__file *file, job_run run)
{
	int64_t last = -1;
	size_t bytes = 0;
	for (size_t i = run.first; i < run.end; i++) {
		const pgs__job *j = &f->jobs[i];
		int64_t slice = wants_file(j, file) ? pgs__fence_find(file->index.fences, &j->want->id) : -1;
		if (slice >= 0 && slice != last)
			bytes += PGS__SLICE_BYTES;
		last = slice >= 0 ? slice : last;
	}
	if (bytes)
		load_filter(f, file, bytes);
}

/* A slice that is in memory or in the cache file, and the jobs' way to it. */
typedef struct kept_slice {
	int64_t index; /* -1: none */
	bool found;
	uint8_t bytes[PGS__SLICE_BYTES];
} kept_slice;

static bool get_kept(const pgs__file *file, kept_slice *kept, size_t slice)
{
	return pgs__slices_get(file->slices, file->slices_key, slice, kept->bytes, slice_bytes(file, slice, slice));
}

static bool take_kept(const pgs__fetch *f, pgs__file *file, kept_slice *kept, int64_t slice)
{
	if (kept->index == slice)
		return kept->found;
	kept->found = get_kept(file, kept, (size_t)slice);
	if (!kept->found && f->keeps) {
		pgs__parts_get_slice(f->contents->disk, file, (size_t)slice);
		kept->found = get_kept(file, kept, (size_t)slice);
	}
	kept->index = slice;
	return kept->found;
}

/* Whether a span goes on with this slice. */
static bool joins_span(const pgs__file *file, const slice_span *span, size_t slice)
{
	return span->jobs.end && slice_bytes(file, span->last, slice) <= PGS__FETCH_GAP_MAX &&
	       slice_bytes(file, span->first, slice) <= PGS__FETCH_SPAN_MAX;
}

/* Jobs are in id order, so the slices they need rise: read them in runs, but for those that are in memory. */
static int locate_fenced(pgs__fetch *f, pgs__file *file, job_run run)
{
	slice_span span = {0};
	kept_slice kept;
	int result = PGS_OK;
	kept.index = -1;
	if (file->index.filter_size)
		want_filter(f, file, run);
	for (size_t i = run.first; i < run.end && result == PGS_OK; i++) {
		int64_t found = slice_of(&f->jobs[i], file);
		if (found < 0)
			continue;
		if (take_kept(f, file, &kept, found)) {
			const pgs_slice table = {kept.bytes, slice_bytes(file, (size_t)found, (size_t)found)};
			result = locate_in(f, &f->jobs[i], file, table);
			continue;
		}
		size_t slice = (size_t)found;
		if (!joins_span(file, &span, slice)) {
			if (span.jobs.end)
				result = read_span(f, file, &span);
			span = (slice_span){slice, slice, {i, i + 1}};
		}
		span.last = slice;
		span.jobs.end = i + 1;
	}
	return result == PGS_OK && span.jobs.end ? read_span(f, file, &span) : result;
}

/* --- levels -------------------------------------------------------------------------- */

static int locate_in_file(pgs__fetch *f, pgs__file *file, job_run run)
{
	int result = PGS_OK;
	if (!file->index.has_table)
		return locate_fenced(f, file, run);
	for (size_t i = run.first; i < run.end && result == PGS_OK; i++)
		if (wants_file(&f->jobs[i], file))
			result = locate_in(f, &f->jobs[i], file, file->index.table);
	return result;
}

/* The run of jobs from `first` on that are below `id` (NULL = all). */
static size_t jobs_below(const pgs__fetch *f, size_t first, const pgs__page_id *id)
{
	size_t end = first;
	while (end < f->count && (!id || memcmp(f->jobs[end].want->id.bytes, id->bytes, PGS__ID_SIZE) < 0))
		end++;
	return end;
}

/* Files [first, end) are those of a level whose files come by first id. All jobs up to the first id of the next file
 * have the same file before them, and, where ranges overlap, those before it that reach as far. */
static int locate_in_level(pgs__fetch *f, const pgs__file_map *map, size_t first, size_t end)
{
	for (size_t i = 0; i < f->count;) {
		const pgs__page_id *id = &f->jobs[i].want->id;
		size_t past = pgs__file_map_up_to(map, first, end, id);
		const job_run run = {i, jobs_below(f, i, past < end ? &map->files[past]->key.first : NULL)};
		for (size_t at = past; at > first; at--) {
			if (memcmp(pgs__file_map_furthest(map, at - 1)->bytes, id->bytes, PGS__ID_SIZE) < 0)
				break;
			int result = locate_in_file(f, map->files[at - 1], run);
			if (result != PGS_OK)
				return result;
		}
		i = run.end;
	}
	return PGS_OK;
}

int pgs__locate(pgs__fetch *f, const pgs__file_map *map)
{
	const job_run all = {0, f->count};
	int result = PGS_OK;
	for (size_t first = 0, end; first < map->count && result == PGS_OK; first = end) {
		end = pgs__file_map_level_end(map, first);
		f->last_level = end == map->count && map->files[first]->key.level > 0;
		if (map->files[first]->key.level > 0)
			result = locate_in_level(f, map, first, end);
		for (size_t i = first; map->files[first]->key.level == 0 && i < end && result == PGS_OK; i++)
			result = locate_in_file(f, map->files[i], all);
	}
	return result;
}
