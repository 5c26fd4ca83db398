/* Changelog entries and runs of pages. */
#include "codec/changelog.h"

#include <assert.h>

#include <pagestore/txn.h>
#include <pagestore/version.h>

#include "codec/keys.h"
#include "codec/seal.h"

#define RUN_SIZE_MIN 2  /* bytes of an encoded run */
#define ATTR_SIZE_MIN 2 /* of a name: its size, and at least one byte */

static const char runs_magic[4] = {'P', 'G', 'S', 'R'};

void pgs__runs_encode(const pgs__page_run *runs, size_t count, pgs__buffer *out)
{
	uint64_t next = 0;
	pgs__put_varint(out, count);
	for (size_t i = 0; i < count; i++) {
		assert(runs[i].count > 0 && (i == 0 || runs[i].first > next));
		pgs__put_varint(out, runs[i].first - next);
		pgs__put_varint(out, runs[i].count - 1);
		next = runs[i].first + runs[i].count;
	}
}

int pgs__runs_open(pgs_slice runs, pgs__runs_reader *out)
{
	*out = (pgs__runs_reader){.reader = pgs__reader_of(runs)};
	out->left = pgs__read_varint(&out->reader);
	if (out->left > pgs__reader_left(&out->reader) / RUN_SIZE_MIN)
		out->reader.failed = true;
	return out->reader.failed ? PGS_ECORRUPT : PGS_OK;
}

bool pgs__runs_next(pgs__runs_reader *r, pgs__page_run *run)
{
	*run = (pgs__page_run){0};
	if (r->left == 0) {
		if (!pgs__reader_done(&r->reader))
			r->reader.failed = true;
		return false;
	}
	uint64_t skip = pgs__read_varint(&r->reader);
	uint64_t more = pgs__read_varint(&r->reader);
	/* A run that touches the last one belongs to it; next_page is 0 only before the first. */
	if ((skip == 0 && r->next_page > 0) || skip > UINT64_MAX - 1 - r->next_page ||
		more > UINT64_MAX - 1 - r->next_page - skip)
		r->reader.failed = true;
	if (r->reader.failed)
		return false;
	*run = (pgs__page_run){r->next_page + skip, more + 1};
	r->next_page = run->first + run->count;
	r->left--;
	return true;
}

/* Walk encoded runs to their end and give the number of pages in them. */
static int count_pages(pgs_slice runs, uint64_t *pages)
{
	pgs__runs_reader r;
	pgs__page_run run;
	*pages = 0;
	if (pgs__runs_open(runs, &r) != PGS_OK)
		return PGS_ECORRUPT;
	while (pgs__runs_next(&r, &run))
		*pages += run.count; /* no overflow: runs do not overlap */
	return r.reader.failed ? PGS_ECORRUPT : PGS_OK;
}

void pgs__runs_file_encode(pgs_slice runs, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_bytes(out, runs_magic, sizeof runs_magic);
	pgs__put_u16(out, PGS_FORMAT_VERSION);
	pgs__put_bytes(out, runs.data, runs.size);
	pgs__seal(out, from);
}

int pgs__runs_file_decode(pgs_slice file, pgs_slice *runs)
{
	uint64_t pages;
	*runs = (pgs_slice){0};
	pgs__reader r;
	int result = pgs__sealed_file_open(file, runs_magic, &r);
	if (result != PGS_OK)
		return result;
	pgs_slice rest = pgs__read_slice(&r, pgs__reader_left(&r));
	if (count_pages(rest, &pages) != PGS_OK)
		return PGS_ECORRUPT;
	*runs = rest;
	return PGS_OK;
}

/* Everything from the digest to the note. */
static void put_head(const pgs__change *change, pgs__buffer *out)
{
	pgs__put_bytes(out, change->digest, sizeof change->digest);
	pgs__put_u64(out, change->kv_bytes);
	pgs__put_u64(out, change->blob_bytes);
	pgs__put_varint(out, change->base_revision);
	pgs__put_varint(out, change->page_count);
	pgs__put_varint(out, change->truncated ? change->truncated_to + 1 : 0);
	pgs__put_varint(out, change->pages_written);
	pgs__put_varint(out, change->attr_count);
	for (size_t i = 0; i < change->attr_count; i++) {
		pgs__put_varint(out, change->attrs[i].size);
		pgs__put_bytes(out, change->attrs[i].data, change->attrs[i].size);
	}
	pgs__put_varint(out, change->has_note ? (uint64_t)change->note.size + 1 : 0);
	if (change->has_note)
		pgs__put_bytes(out, change->note.data, change->note.size);
}

/* The pages: runs (a caller with none may leave them empty), or the blob that holds them. */
static void put_pages(const pgs__change *change, pgs__buffer *out)
{
	if (change->kind == PGS__CHANGE_COMMIT_RUNS_IN_BLOB) {
		pgs__put_varint(out, change->file_name.size);
		pgs__put_bytes(out, change->file_name.data, change->file_name.size);
		pgs__put_varint(out, change->file_size);
	} else if (change->runs.size > 0) {
		pgs__put_bytes(out, change->runs.data, change->runs.size);
	} else {
		pgs__put_varint(out, 0);
	}
}

void pgs__change_encode(const pgs__change *change, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_u8(out, (uint8_t)change->kind);
	if (change->kind != PGS__CHANGE_ABORTED) {
		put_head(change, out);
		put_pages(change, out);
	}
	pgs__seal(out, from);
}

static bool read_attrs(pgs__reader *r, pgs__change *out)
{
	uint64_t count = pgs__read_varint(r);
	if (count > pgs__reader_left(r) / ATTR_SIZE_MIN)
		return false;
	size_t from = r->offset;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t size = pgs__read_varint(r);
		if (size == 0 || size > PGS_ATTR_NAME_MAX)
			return false;
		pgs__read_slice(r, (size_t)size);
	}
	if (r->failed)
		return false;
	out->attr_count = (size_t)count;
	out->attr_bytes = (pgs_slice){r->data + from, r->offset - from};
	return true;
}

static bool read_note(pgs__reader *r, pgs__change *out)
{
	uint64_t size_and_1 = pgs__read_varint(r);
	if (size_and_1 == 0)
		return !r->failed;
	if (size_and_1 - 1 > pgs__reader_left(r))
		return false;
	out->has_note = true;
	out->note = pgs__read_slice(r, (size_t)(size_and_1 - 1));
	return !r->failed;
}

static bool read_head(pgs__reader *r, pgs__change *out)
{
	pgs__read_bytes(r, out->digest, sizeof out->digest);
	out->kv_bytes = pgs__read_u64(r);
	out->blob_bytes = pgs__read_u64(r);
	out->base_revision = pgs__read_varint(r);
	out->page_count = pgs__read_varint(r);
	uint64_t truncated = pgs__read_varint(r);
	out->truncated = truncated > 0;
	out->truncated_to = truncated > 0 ? truncated - 1 : 0;
	out->pages_written = pgs__read_varint(r);
	return !r->failed && read_attrs(r, out) && read_note(r, out);
}

static bool read_pages(pgs__reader *r, pgs__change *out)
{
	if (out->kind == PGS__CHANGE_COMMIT) {
		uint64_t pages;
		out->runs = pgs__read_slice(r, pgs__reader_left(r));
		return count_pages(out->runs, &pages) == PGS_OK && pages == out->pages_written;
	}
	uint64_t name_size = pgs__read_varint(r);
	if (name_size > PGS__FILE_NAME_MAX)
		return false;
	out->file_name = pgs__read_slice(r, (size_t)name_size);
	out->file_size = pgs__read_varint(r);
	return pgs__reader_done(r) && pgs__file_name_ok(out->file_name);
}

int pgs__change_decode(pgs_slice bytes, pgs__change *out)
{
	*out = (pgs__change){0};
	pgs__reader r;
	uint8_t kind;
	int result = pgs__sealed_open(bytes, PGS__CHANGE_COMMIT_RUNS_IN_BLOB, &r, &kind);
	if (result != PGS_OK)
		return result;
	out->kind = (pgs__change_kind)kind;
	if (kind == PGS__CHANGE_ABORTED)
		return pgs__reader_done(&r) ? PGS_OK : PGS_ECORRUPT;
	return read_head(&r, out) && read_pages(&r, out) ? PGS_OK : PGS_ECORRUPT;
}

bool pgs__change_next_attr(pgs_slice *rest, pgs_slice *name)
{
	*name = (pgs_slice){0};
	if (rest->size == 0)
		return false;
	pgs__reader r = pgs__reader_of(*rest);
	uint64_t size = pgs__read_varint(&r);
	if (size > pgs__reader_left(&r))
		return false;
	*name = pgs__read_slice(&r, (size_t)size);
	*rest = (pgs_slice){r.data + r.offset, r.size - r.offset};
	return true;
}
