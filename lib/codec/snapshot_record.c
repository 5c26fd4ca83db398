/* What is registered of a named snapshot, and its attributes. */
#include "codec/snapshot_record.h"

#include <assert.h>

#include <pagestore/txn.h>
#include <pagestore/version.h>

#include "codec/keys.h"
#include "codec/seal.h"

#define KIND_INLINE 1
#define KIND_FILE 2

#define FILE_SIZE_MIN 6 /* bytes of an encoded file: five numbers, a name of one byte */
#define ATTR_SIZE_MIN 3 /* of an attribute: two sizes, a name of one byte */
#define POINTER_SIZE_MIN 3 /* bytes an index file has for each of its pointers */

static const char attrs_magic[4] = {'P', 'G', 'S', 'A'};

/* --- attributes -------------------------------------------------------------- */

void pgs__attrs_add(pgs__attrs_writer *w, pgs_slice name, pgs_slice value)
{
	assert(name.size > 0 && name.size <= PGS_ATTR_NAME_MAX);
	pgs__put_varint(&w->bytes, name.size);
	pgs__put_bytes(&w->bytes, name.data, name.size);
	pgs__put_varint(&w->bytes, value.size);
	pgs__put_bytes(&w->bytes, value.data, value.size);
	w->count++;
}

void pgs__attrs_finish(const pgs__attrs_writer *w, pgs__buffer *out)
{
	pgs__put_varint(out, w->count);
	pgs__put_bytes(out, w->bytes.data, w->bytes.size);
	if (w->bytes.failed)
		out->failed = true;
}

int pgs__attrs_open(pgs_slice attrs, pgs__attrs_reader *out)
{
	*out = (pgs__attrs_reader){.reader = pgs__reader_of(attrs)};
	out->left = pgs__read_varint(&out->reader);
	if (out->left > pgs__reader_left(&out->reader) / ATTR_SIZE_MIN)
		out->reader.failed = true;
	return out->reader.failed ? PGS_ECORRUPT : PGS_OK;
}

static pgs_slice read_sized(pgs__reader *r)
{
	uint64_t size = pgs__read_varint(r);
	if (size > pgs__reader_left(r))
		r->failed = true;
	return pgs__read_slice(r, r->failed ? 0 : (size_t)size);
}

bool pgs__attrs_next(pgs__attrs_reader *r, pgs_slice *name, pgs_slice *value)
{
	*name = *value = (pgs_slice){0};
	if (r->left == 0) {
		if (!pgs__reader_done(&r->reader))
			r->reader.failed = true;
		return false;
	}
	pgs_slice found = read_sized(&r->reader);
	pgs_slice bytes = read_sized(&r->reader);
	if (found.size == 0 || found.size > PGS_ATTR_NAME_MAX || pgs__slice_compare(r->last_name, found) >= 0)
		r->reader.failed = true;
	if (r->reader.failed)
		return false;
	*name = r->last_name = found;
	*value = bytes;
	r->left--;
	return true;
}

static bool attrs_ok(pgs_slice attrs)
{
	pgs__attrs_reader r;
	pgs_slice name, value;
	if (pgs__attrs_open(attrs, &r) != PGS_OK)
		return false;
	while (pgs__attrs_next(&r, &name, &value))
		;
	return !r.reader.failed;
}

void pgs__attrs_file_encode(pgs_slice attrs, pgs__buffer *out)
{
	size_t from = out->size;
	pgs__put_bytes(out, attrs_magic, sizeof attrs_magic);
	pgs__put_u16(out, PGS_FORMAT_VERSION);
	pgs__put_bytes(out, attrs.data, attrs.size);
	pgs__seal(out, from);
}

int pgs__attrs_file_decode(pgs_slice file, pgs_slice *attrs)
{
	*attrs = (pgs_slice){0};
	pgs__reader r;
	int result = pgs__sealed_file_open(file, attrs_magic, &r);
	if (result != PGS_OK)
		return result;
	pgs_slice rest = pgs__read_slice(&r, pgs__reader_left(&r));
	if (!attrs_ok(rest))
		return PGS_ECORRUPT;
	*attrs = rest;
	return PGS_OK;
}

/* --- the record --------------------------------------------------------------- */

static void put_named(pgs__buffer *out, pgs_slice name, uint64_t file_size)
{
	assert(pgs__file_name_ok(name));
	pgs__put_varint(out, name.size);
	pgs__put_bytes(out, name.data, name.size);
	pgs__put_varint(out, file_size);
}

void pgs__snapshot_encode(const pgs__snapshot_record *record, pgs__buffer *out)
{
	size_t from = out->size;
	uint64_t next = 0;
	pgs__put_u8(out, record->attrs_in_file ? KIND_FILE : KIND_INLINE);
	pgs__put_varint(out, record->revision);
	pgs__put_varint(out, record->commit_revision);
	pgs__put_varint(out, record->counter);
	pgs__put_varint(out, record->page_count);
	pgs__put_u64(out, (uint64_t)record->created_ms);
	pgs__put_varint(out, record->file_count);
	for (size_t i = 0; i < record->file_count; i++) {
		const pgs__snapshot_file *f = &record->files[i];
		assert(f->first >= next && f->end > f->first && f->end <= record->page_count);
		pgs__put_varint(out, f->first - next);
		pgs__put_varint(out, f->end - f->first);
		put_named(out, f->name, f->file_size);
		pgs__put_varint(out, f->pointer_count);
		next = f->end;
	}
	if (record->attrs_in_file)
		put_named(out, record->attrs_name, record->attrs_size);
	else if (record->attrs.size > 0)
		pgs__put_bytes(out, record->attrs.data, record->attrs.size);
	else
		pgs__put_varint(out, 0);
	pgs__seal(out, from);
}

static void read_named(pgs__reader *r, pgs_slice *name, uint64_t *file_size)
{
	*name = read_sized(r);
	*file_size = pgs__read_varint(r);
	if (!pgs__file_name_ok(*name))
		r->failed = true;
}

static bool read_file(pgs__reader *r, uint64_t next_page, pgs__snapshot_file *out)
{
	uint64_t skip = pgs__read_varint(r), pages = pgs__read_varint(r);
	read_named(r, &out->name, &out->file_size);
	out->pointer_count = pgs__read_varint(r);
	if (r->failed || skip > UINT64_MAX - next_page || pages > UINT64_MAX - next_page - skip)
		return false;
	out->first = next_page + skip;
	out->end = out->first + pages;
	return out->pointer_count > 0 && out->pointer_count <= pages &&
	       out->pointer_count <= out->file_size / POINTER_SIZE_MIN;
}

static bool read_files(pgs__reader *r, pgs__snapshot_record *out)
{
	uint64_t count = pgs__read_varint(r), next = 0;
	if (count > pgs__reader_left(r) / FILE_SIZE_MIN)
		return false;
	size_t from = r->offset;
	for (uint64_t i = 0; i < count; i++) {
		pgs__snapshot_file file;
		if (!read_file(r, next, &file))
			return false;
		next = file.end;
	}
	if (r->failed || next > out->page_count)
		return false;
	out->file_count = (size_t)count;
	out->file_bytes = (pgs_slice){r->data + from, r->offset - from};
	return true;
}

static bool read_record(pgs__reader *r, pgs__snapshot_record *out)
{
	out->revision = pgs__read_varint(r);
	out->commit_revision = pgs__read_varint(r);
	out->counter = pgs__read_varint(r);
	out->page_count = pgs__read_varint(r);
	out->created_ms = (int64_t)pgs__read_u64(r);
	if (r->failed || out->commit_revision == 0 || out->commit_revision > out->revision || !read_files(r, out))
		return false;
	if (out->attrs_in_file) {
		read_named(r, &out->attrs_name, &out->attrs_size);
		return pgs__reader_done(r);
	}
	out->attrs = pgs__read_slice(r, pgs__reader_left(r));
	return attrs_ok(out->attrs);
}

int pgs__snapshot_decode(pgs_slice bytes, pgs__snapshot_record *out)
{
	*out = (pgs__snapshot_record){0};
	pgs__reader r;
	uint8_t kind;
	int result = pgs__sealed_open(bytes, KIND_FILE, &r, &kind);
	if (result != PGS_OK)
		return result;
	out->attrs_in_file = kind == KIND_FILE;
	return read_record(&r, out) ? PGS_OK : PGS_ECORRUPT;
}

pgs__snapshot_files_reader pgs__snapshot_files_open(const pgs__snapshot_record *record)
{
	return (pgs__snapshot_files_reader){.reader = pgs__reader_of(record->file_bytes)};
}

bool pgs__snapshot_next_file(pgs__snapshot_files_reader *r, pgs__snapshot_file *file)
{
	*file = (pgs__snapshot_file){0};
	if (pgs__reader_left(&r->reader) == 0 || !read_file(&r->reader, r->next_page, file))
		return false;
	r->next_page = file->end;
	return true;
}
