/* Merging sorted files.
 *
 * Two passes over each output, so that its size is known before the first byte is put and no content is held in memory:
 * a plan, made of tables and verdicts; then the put, whose source copies what the plan names. Contents come in id
 * order, as they are in the inputs, so both passes read each input forward; a source that is asked again seeks.
 *
 * - Outputs follow each other in id order: an id is in one of them, once.
 * - Births are written as numbers, never as 0: an output's own registration says nothing about its contents.
 * - Nothing is left out but what the decider drops, and copies.
 */
#include "content/sorted_merge.h"

#include <string.h>

#include "content/merge_input.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define WINDOW_MAX (4u << 20)     /* read ahead of one input */
#define PROOF_AHEAD (64u << 10)   /* and when a copy is only looked at */
#define CHUNK_SLICES_MAX 28       /* of a table read at once: just below 64 KiB */
#define PLAN_ENTRIES_MIN 64
#define PUT_STEP (16u << 20)      /* bytes of a put that have the timeout of one call */

/* Where the bytes of a planned content are, and go to. */
typedef struct place {
	uint32_t input;
	uint32_t from;   /* offset in the input */
	uint32_t to;     /* offset after the start of the output's contents */
	uint32_t row;    /* of the output's table */
	uint32_t length : 31;
	uint32_t proven : 1; /* or found damaged: nothing is looked at twice */
} place;

/* One copy of the id at hand. */
typedef struct copy {
	uint32_t input;
	pgs__sorted_entry entry; /* its birth resolved; length 0 is a tombstone */
} copy;

/* What the merge decided about an id: a row of the next output. */
typedef struct item {
	pgs__sorted_entry entry; /* offset in the input, or PGS__TOMBSTONE */
	uint32_t input;
	bool proven;
} item;

typedef struct plan {
	uint8_t *head;  /* what comes before the contents: room for `capacity` entries */
	place *places;
	size_t capacity;
	size_t count;        /* entries */
	size_t place_count;  /* of them with a content */
	uint64_t contents_bytes;
	uint64_t contents_offset;
	size_t last_place;   /* the one copied last: the next read begins there, or right after */
} plan;

typedef struct run {
	pgs__merge *m;
	pgs__merge_reader reader;
	pgs__merge_input *inputs;
	uint32_t *heap; /* inputs that have not ended, the least id first, of equal ones the first input */
	size_t heap_count;
	copy *copies; /* of one id: at most one per input */
	plan plan;
	item next;
	bool has_next;
	pgs__workbench *bench;
	uint64_t copied;
	int source_result; /* why the source failed, which a backend need not pass on */
	bool ended;        /* by a callback */
	pgs_error err;     /* of the last call that failed, which need not be the end */
} run;

static int end_run(run *r, int code)
{
	r->ended = true;
	return pgs__error(&r->err, code, "the merge was ended");
}

/* --- the inputs by id ------------------------------------------------------------------ */

static bool comes_before(const run *r, uint32_t a, uint32_t b)
{
	int order = memcmp(r->inputs[a].entry.id.bytes, r->inputs[b].entry.id.bytes, PGS__ID_SIZE);
	return order < 0 || (order == 0 && a < b);
}

static void sift_down(run *r, size_t at)
{
	for (;;) {
		size_t least = at;
		for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < r->heap_count; child++)
			if (comes_before(r, r->heap[child], r->heap[least]))
				least = child;
		if (least == at)
			return;
		uint32_t moved = r->heap[at];
		r->heap[at] = r->heap[least];
		r->heap[least] = moved;
		at = least;
	}
}

static int open_inputs(run *r)
{
	for (size_t i = 0; i < r->m->input_count; i++) {
		int result = pgs__merge_input_open(&r->inputs[i], r->m->inputs[i], &r->reader);
		if (result != PGS_OK)
			return result;
		r->heap[r->heap_count++] = (uint32_t)i;
		r->m->input_bytes += r->m->inputs[i]->index.file_size;
	}
	for (size_t i = r->heap_count; i > 0; i--)
		sift_down(r, i - 1);
	return PGS_OK;
}

/* Take the current entry of the heap's first input, and move that input on. */
static int take_first(run *r, copy *out)
{
	uint32_t which = r->heap[0];
	pgs__merge_input *input = &r->inputs[which];
	*out = (copy){which, input->entry};
	if (out->entry.birth == 0)
		out->entry.birth = input->file->registered;
	int result = pgs__merge_input_next(input, &r->reader);
	if (result != PGS_OK)
		return result;
	if (input->ended)
		r->heap[0] = r->heap[--r->heap_count];
	sift_down(r, 0);
	return PGS_OK;
}

/* All copies of the least id. */
static int take_copies(run *r, size_t *count)
{
	*count = 0;
	do {
		int result = take_first(r, &r->copies[*count]);
		if (result != PGS_OK)
			return result;
		++*count;
	} while (r->heap_count && pgs__page_id_equal(&r->inputs[r->heap[0]].entry.id, &r->copies[0].entry.id));
	return PGS_OK;
}

/* --- which copy -------------------------------------------------------------------------- */

/* Whether these bytes are the content of that id. */
static bool proves(run *r, const pgs__page_id *id, const uint8_t *bytes, size_t length)
{
	const pgs__want want = {
		.page_no = pgs__page_id_group(id) * pgs__pages_per_group(r->reader.page_size),
		.id = *id,
		.page = r->bench->page,
	};
	return pgs__content_open(r->m->contents, r->bench, (pgs_slice){bytes, length}, &want, "", NULL) == PGS_OK;
}

/* The youngest first; of equals, that of the earlier input. */
static void sort_copies(copy *copies, size_t count)
{
	for (size_t i = 1; i < count; i++) {
		copy moved = copies[i];
		size_t at = i;
		for (; at > 0 && copies[at - 1].entry.birth < moved.entry.birth; at--)
			copies[at] = copies[at - 1];
		copies[at] = moved;
	}
}

/* Of several contents take the first that is good, or the first if none is. */
static int choose_copy(run *r, const copy *contents, size_t count, const copy **out)
{
	*out = NULL;
	for (size_t i = 0; i < count; i++) {
		const pgs__sorted_entry *e = &contents[i].entry;
		const uint8_t *bytes;
		int result = pgs__merge_input_content(&r->inputs[contents[i].input], &r->reader, e->offset, e->length,
						      PROOF_AHEAD, &bytes);
		if (result != PGS_OK && result != PGS_ECORRUPT)
			return result;
		if (result == PGS_OK && !*out)
			*out = &contents[i]; /* damaged or not, it can be read */
		if (result == PGS_OK && proves(r, &e->id, bytes, e->length)) {
			*out = &contents[i];
			return PGS_OK;
		}
	}
	if (!*out)
		return PGS_ECORRUPT; /* the error says which was read last */
	r->m->damaged_count++;
	return PGS_OK;
}

static int set_content(run *r, const copy *contents, size_t count, uint64_t birth)
{
	const copy *chosen = contents;
	int result = count > 1 ? choose_copy(r, contents, count, &chosen) : PGS_OK;
	if (result != PGS_OK)
		return result;
	r->next = (item){chosen->entry, chosen->input, count > 1};
	r->next.entry.birth = PGS__BUG(BIRTH_LOST_IN_MERGE) ? 1 : birth;
	r->has_next = true;
	return PGS_OK;
}

/* Decide about one id, whose contents were separated from its tombstones. */
static int decide(run *r, const pgs__page_id *id, const copy *contents, size_t count, uint64_t tombstone_birth)
{
	pgs__merge *m = r->m;
	uint64_t content_birth = count ? contents[0].entry.birth : 0;
	bool tombstone = count == 0 || content_birth <= tombstone_birth;
	uint64_t birth = tombstone ? tombstone_birth : content_birth;
	int verdict = m->decide ? m->decide(m->decide_ctx, id, &birth, tombstone) : PGS__MERGE_KEEP;
	if (verdict < 0)
		return end_run(r, verdict);
	if (verdict == PGS__MERGE_KEEP && !tombstone)
		return set_content(r, contents, count, content_birth);
	if (verdict == PGS__MERGE_KEEP)
		birth = tombstone_birth;
	m->dropped_count += count > 0;
	if (verdict != PGS__MERGE_DROP) {
		r->next = (item){{*id, PGS__TOMBSTONE, 0, birth}, 0, true};
		r->has_next = true;
	}
	return PGS_OK;
}

/* Find the next row of the outputs; has_next stays false at the end of the inputs. */
static int find_next(run *r)
{
	while (!r->has_next && r->heap_count) {
		size_t count, contents = 0;
		uint64_t tombstone_birth = 0;
		int result = take_copies(r, &count);
		if (result != PGS_OK)
			return result;
		const pgs__page_id id = r->copies[0].entry.id;
		for (size_t i = 0; i < count; i++) {
			const pgs__sorted_entry *e = &r->copies[i].entry;
			r->m->dropped_bytes += e->length; /* what is put is taken off again */
			if (e->length > 0)
				r->copies[contents++] = r->copies[i];
			else if (e->birth > tombstone_birth)
				tombstone_birth = e->birth;
		}
		sort_copies(r->copies, contents);
		result = decide(r, &id, r->copies, contents, tombstone_birth);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

/* --- planning an output --------------------------------------------------------------------- */

static size_t table_max(const run *r)
{
	return r->m->table_max ? r->m->table_max : PGS__LEVEL_TABLE_MAX;
}

/* Where contents begin behind so many entries. */
static uint64_t offset_behind(const run *r, uint64_t count)
{
	return pgs__sorted_contents_offset(count, pgs__sorted_filter_size(count, table_max(r)));
}

static uint8_t *row_at(const plan *p, size_t row)
{
	return p->head + PGS__SORTED_HEADER_SIZE + row * PGS__SORTED_ENTRY_SIZE;
}

static bool fits(const run *r)
{
	const plan *p = &r->plan;
	uint64_t max = r->m->file_bytes_max && r->m->file_bytes_max < PGS__SORTED_FILE_MAX ? r->m->file_bytes_max
											   : PGS__SORTED_FILE_MAX;
	return p->count == 0 || (p->count < p->capacity &&
				 offset_behind(r, p->count + 1) + p->contents_bytes + r->next.entry.length <= max);
}

static void plan_next(run *r)
{
	plan *p = &r->plan;
	pgs__sorted_entry entry = r->next.entry;
	if (entry.length > 0) {
		p->places[p->place_count++] = (place){
			.input = r->next.input,
			.from = (uint32_t)entry.offset,
			.to = (uint32_t)p->contents_bytes,
			.row = (uint32_t)p->count,
			.length = entry.length,
			.proven = r->next.proven,
		};
		entry.offset = p->contents_bytes; /* made absolute when the size of the table is known */
		p->contents_bytes += entry.length;
	}
	pgs__sorted_entry_encode(&entry, row_at(p, p->count++));
	r->has_next = false;
}

static int make_plan(run *r)
{
	plan *p = &r->plan;
	p->count = p->place_count = p->last_place = 0;
	p->contents_bytes = 0;
	for (;;) {
		int result = find_next(r);
		if (result != PGS_OK)
			return result;
		if (!r->has_next || !fits(r))
			return PGS_OK;
		plan_next(r);
	}
}

/* Give the table its offsets, and the file its header and filter. Returns the filter's size. */
static size_t finish_head(run *r)
{
	plan *p = &r->plan;
	const pgs_slice table = {row_at(p, 0), p->count * PGS__SORTED_ENTRY_SIZE};
	const size_t filter_size = pgs__sorted_filter_size(p->count, table_max(r));
	p->contents_offset = offset_behind(r, p->count);
	for (size_t i = 0; i < p->place_count; i++) {
		pgs__sorted_entry entry;
		pgs__sorted_entry_decode(row_at(p, p->places[i].row), &entry);
		entry.offset += p->contents_offset;
		pgs__sorted_entry_encode(&entry, row_at(p, p->places[i].row));
	}
	const pgs__sorted_header header = {
		.page_size = r->reader.page_size,
		.count = p->count,
		.filter_size = filter_size,
		.contents_offset = p->contents_offset,
		.file_size = p->contents_offset + p->contents_bytes,
		.table_check = pgs__check64(table.data, table.size),
	};
	pgs__sorted_header_encode(&header, p->head);
	if (filter_size)
		pgs__sorted_filter_make(table, filter_size, row_at(p, p->count));
	return filter_size;
}

/* --- putting an output ------------------------------------------------------------------------ */

/* The place that holds byte `offset` of the contents. */
static size_t place_at(const plan *p, uint64_t offset)
{
	size_t low = 0, high = p->place_count;
	for (size_t i = p->last_place; i < p->place_count && i < p->last_place + 2; i++)
		if (offset >= p->places[i].to && offset - p->places[i].to < p->places[i].length)
			return i;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (p->places[middle].to <= offset)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static int copy_contents(run *r, uint64_t offset, uint8_t *out, size_t size)
{
	plan *p = &r->plan;
	for (size_t i = size ? place_at(p, offset) : 0; size > 0; i++) {
		place *from = &p->places[i];
		const uint8_t *bytes;
		int result = pgs__merge_input_content(&r->inputs[from->input], &r->reader, from->from, from->length,
						      r->reader.window_bytes, &bytes);
		if (result != PGS_OK)
			return result;
		if (r->m->scrub && !from->proven) {
			pgs__sorted_entry entry;
			pgs__sorted_entry_decode(row_at(p, from->row), &entry);
			r->m->damaged_count += !proves(r, &entry.id, bytes, from->length);
			from->proven = 1;
		}
		size_t skip = (size_t)(offset - from->to), part = from->length - skip;
		part = part < size ? part : size;
		memcpy(out, bytes + skip, part);
		out += part;
		offset += part;
		size -= part;
		r->copied += part;
		p->last_place = i;
	}
	return PGS_OK;
}

/* What put() reads from: the head, then the contents. */
static int read_source(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	run *r = ctx;
	uint8_t *out = buffer;
	const uint64_t head_size = r->plan.contents_offset;
	if (offset < head_size) {
		size_t part = head_size - offset < size ? (size_t)(head_size - offset) : size;
		memcpy(out, r->plan.head + offset, part);
		out += part;
		offset += part;
		size -= part;
	}
	int result = copy_contents(r, offset - head_size, out, size);
	if (result != PGS_OK)
		r->source_result = result;
	return result;
}

static int put_blob(run *r, const pgs__sorted_file *file)
{
	pgs_blob *blob = r->reader.blob;
	uint64_t timeout_ms = (uint64_t)r->reader.timeout_ms * (1 + file->size / PUT_STEP);
	pgs_error local = PGS_ERROR_INIT;
	r->source_result = PGS_OK;
	int result = pgs__blob_put(blob, file->blob_name, file->size, read_source, r,
				       timeout_ms ? pgs__now_ms() + timeout_ms : 0, &local);
	if (r->source_result != PGS_OK && result != PGS_OK)
		return r->source_result; /* the reader has said why */
	return result == PGS_OK ? PGS_OK : pgs__error(&r->err, result, "%s", local.message);
}

static int put_output(run *r)
{
	pgs__merge *m = r->m;
	const plan *p = &r->plan;
	const pgs_slice table = {row_at(p, 0), p->count * PGS__SORTED_ENTRY_SIZE};
	const size_t filter_size = finish_head(r);
	if (pgs__grow(&m->outputs, &m->output_capacity, m->output_count + 1, sizeof *m->outputs) != PGS_OK)
		return pgs__error_nomem(&r->err, "merging sorted files");
	pgs__sorted_file *file = &m->outputs[m->output_count];
	*file = (pgs__sorted_file){.size = p->contents_offset + p->contents_bytes};
	if (pgs__file_name_new(file->file_name, 's', m->base_revision) != PGS_OK)
		return pgs__error(&r->err, PGS_EIO, "the system gives no random bytes");
	pgs__blob_name(file->blob_name, m->contents->prefix, file->file_name);
	pgs__level_value_encode(file->size, table, filter_size, table_max(r), &file->value);
	if (file->value.failed) {
		pgs__buffer_free(&file->value);
		return pgs__error_nomem(&r->err, "merging sorted files");
	}
	pgs__sorted_entry first, last;
	pgs__sorted_entry_decode(row_at(p, 0), &first);
	pgs__sorted_entry_decode(row_at(p, p->count - 1), &last);
	file->key = pgs__key_level(m->contents->prefix, m->level, &first.id, &last.id, file->file_name);
	m->output_count++; /* from here on there may be a blob */
	m->output_bytes += file->size;
	m->kept_count += p->place_count;
	m->dropped_bytes -= p->contents_bytes;
	return put_blob(r, file);
}

/* --- running -------------------------------------------------------------------------------------- */

static int before_read(void *ctx)
{
	run *r = ctx;
	int result = r->m->progress ? r->m->progress(r->m->progress_ctx, r->copied) : PGS_OK;
	return result == PGS_OK ? PGS_OK : end_run(r, result);
}

/* Divide the memory: a quarter for a plan, the rest for the inputs. Plans are no larger than all inputs together. */
static void divide_memory(run *r)
{
	const pgs__merge *m = r->m;
	const size_t per_entry = PGS__SORTED_ENTRY_SIZE + 2 + sizeof(place); /* 2 in the filter */
	uint64_t entries = 0, largest = m->memory_bytes / 4 / per_entry;
	for (size_t i = 0; i < m->input_count; i++)
		entries += m->inputs[i]->index.count;
	largest = largest < PLAN_ENTRIES_MIN ? PLAN_ENTRIES_MIN : largest;
	entries = entries < largest ? entries : largest;
	r->plan.capacity = entries < PGS__SORTED_COUNT_MAX ? (size_t)entries : PGS__SORTED_COUNT_MAX;
	uint64_t plan_bytes = PGS__SORTED_HEADER_SIZE + r->plan.capacity * per_entry;
	uint64_t rest = m->memory_bytes > plan_bytes ? m->memory_bytes - plan_bytes : 0;
	uint64_t share = rest / (m->input_count ? m->input_count : 1);
	const size_t slice = (size_t)PGS__SORTED_SLICE * PGS__SORTED_ENTRY_SIZE;
	uint64_t slices = share / 4 / slice;
	slices = slices < CHUNK_SLICES_MAX ? slices : CHUNK_SLICES_MAX;
	r->reader.chunk_slices = slices ? (size_t)slices : 1;
	uint64_t chunk = r->reader.chunk_slices * slice;
	uint64_t window = share > chunk ? share - chunk : 0;
	window = window < WINDOW_MAX ? window : WINDOW_MAX;
	r->reader.window_bytes = window < r->reader.page_size ? r->reader.page_size : (size_t)window;
}

static int run_start(run *r)
{
	pgs__merge *m = r->m;
	divide_memory(r);
	r->bench = pgs__workbench_take(&m->contents->benches);
	r->inputs = pgs__calloc(m->input_count, sizeof *r->inputs);
	r->heap = pgs__calloc(m->input_count, sizeof *r->heap);
	r->copies = pgs__calloc(m->input_count, sizeof *r->copies);
	const size_t capacity = r->plan.capacity;
	r->plan.head = pgs__malloc(pgs__sorted_contents_offset(capacity, pgs__filter_size_for(capacity)));
	r->plan.places = pgs__calloc(capacity, sizeof *r->plan.places);
	if (!r->bench || !r->inputs || !r->heap || !r->copies || !r->plan.head || !r->plan.places)
		return pgs__error_nomem(&r->err, "merging sorted files");
	return open_inputs(r);
}

static void run_end(run *r)
{
	for (size_t i = 0; r->inputs && i < r->m->input_count; i++)
		pgs__merge_input_close(&r->inputs[i]);
	pgs__free(r->inputs);
	pgs__free(r->heap);
	pgs__free(r->copies);
	pgs__free(r->plan.head);
	pgs__free(r->plan.places);
	pgs__workbench_give(&r->m->contents->benches, r->bench);
}

int pgs__merge_run(pgs__merge *m, uint32_t timeout_ms, pgs_error *err)
{
	run r = {.m = m, .err = PGS_ERROR_INIT};
	r.reader = (pgs__merge_reader){
		.blob = m->contents->backend->blob,
		.page_size = m->contents->page_size,
		.timeout_ms = timeout_ms,
		.before = before_read,
		.before_ctx = &r,
		.err = &r.err,
	};
	int result = run_start(&r);
	while (result == PGS_OK) {
		result = make_plan(&r);
		if (result != PGS_OK || r.plan.count == 0)
			break;
		result = put_output(&r);
	}
	run_end(&r);
	/* A callback may have said more than we can. */
	if (result != PGS_OK && err && !(r.ended && err->code == result))
		*err = r.err;
	return result;
}

void pgs__merge_discard(pgs__merge *m, uint32_t timeout_ms)
{
	pgs_blob *blob = m->contents->backend->blob;
	uint64_t deadline_ms = timeout_ms ? pgs__now_ms() + timeout_ms : 0;
	for (size_t i = 0; i < m->output_count && !pgs__deadline_passed(deadline_ms); i++)
		blob->vtable->remove(blob, m->outputs[i].blob_name, deadline_ms, NULL);
}

void pgs__merge_free(pgs__merge *m)
{
	for (size_t i = 0; i < m->output_count; i++)
		pgs__buffer_free(&m->outputs[i].value);
	pgs__free(m->outputs);
	m->outputs = NULL;
	m->output_count = m->output_capacity = 0;
}
