/* Sorted files and the l/ values that register them.
 *
 * Tables are left as bytes: a file's is up to nine megabytes, and a search
 * looks at eighteen entries of it. */
#include "codec/sorted_file.h"

#include <assert.h>

#include <pagestore/store.h>

#include "codec/file_header.h"
#include "codec/seal.h"

#define KIND_TABLE 1
#define KIND_FENCES 2
#define KIND_FILTERED 3 /* fences, of a file with a filter */

#define VERSION_PLAIN 1
#define VERSION_FILTER 2

static const char magic[4] = {'P', 'G', 'S', 'F'};

void pgs__sorted_header_encode(const pgs__sorted_header *header, uint8_t out[PGS__SORTED_HEADER_SIZE])
{
	assert(header->contents_offset == pgs__sorted_contents_offset(header->count, header->filter_size));
	pgs__file_header h = {
		.version = header->filter_size ? VERSION_FILTER : VERSION_PLAIN,
		.page_size = header->page_size,
		.own = PGS__SORTED_SLICE,
		.count = header->count,
		.body_offset = header->contents_offset,
		.file_size = header->file_size,
		.table_check = header->table_check,
	};
	pgs__file_header_encode(magic, &h, out);
}

/* Whether a file of so many bytes may hold so many entries, and such a filter. */
static bool sizes_ok(uint64_t file_size, uint64_t count, uint64_t filter_size)
{
	return count > 0 && count <= PGS__SORTED_COUNT_MAX && file_size <= PGS__SORTED_FILE_MAX &&
	       (filter_size == 0 || pgs__filter_size_ok(filter_size)) &&
	       file_size >= pgs__sorted_contents_offset(count, filter_size);
}

/* The filter is between table and contents: its size follows from their offsets. */
static int decode_filter_size(const pgs__file_header *h, uint64_t *out)
{
	*out = 0;
	if (h->count > PGS__SORTED_COUNT_MAX)
		return PGS_ECORRUPT;
	uint64_t table_end = pgs__sorted_contents_offset(h->count, 0);
	if (h->version == VERSION_PLAIN)
		return h->body_offset == table_end ? PGS_OK : PGS_ECORRUPT;
	if (h->body_offset < table_end + PGS__FILTER_CHECK_SIZE)
		return PGS_ECORRUPT;
	*out = h->body_offset - table_end - PGS__FILTER_CHECK_SIZE;
	return pgs__filter_size_ok(*out) ? PGS_OK : PGS_ECORRUPT;
}

int pgs__sorted_header_decode(const uint8_t in[PGS__SORTED_HEADER_SIZE], pgs__sorted_header *out)
{
	pgs__file_header h;
	*out = (pgs__sorted_header){0};
	int result = pgs__file_header_decode(magic, VERSION_FILTER, in, &h);
	if (result != PGS_OK)
		return result;
	uint64_t filter_size;
	if (h.own != PGS__SORTED_SLICE || decode_filter_size(&h, &filter_size) != PGS_OK ||
		!sizes_ok(h.file_size, h.count, filter_size))
		return PGS_ECORRUPT;
	out->page_size = h.page_size;
	out->count = h.count;
	out->filter_size = filter_size;
	out->contents_offset = h.body_offset;
	out->file_size = h.file_size;
	out->table_check = h.table_check;
	return PGS_OK;
}

void pgs__sorted_entry_encode(const pgs__sorted_entry *entry, uint8_t out[PGS__SORTED_ENTRY_SIZE])
{
	memcpy(out, entry->id.bytes, PGS__ID_SIZE);
	pgs__store_little(out + 16, entry->offset, 8);
	pgs__store_little(out + 24, entry->length, 4);
	pgs__store_little(out + 28, entry->birth, 8);
}

void pgs__sorted_entry_decode(const uint8_t in[PGS__SORTED_ENTRY_SIZE], pgs__sorted_entry *out)
{
	memcpy(out->id.bytes, in, PGS__ID_SIZE);
	out->offset = pgs__load_little(in + 16, 8);
	out->length = (uint32_t)pgs__load_little(in + 24, 4);
	out->birth = pgs__load_little(in + 28, 8);
}

bool pgs__sorted_place_ok(
	const pgs__sorted_entry *entry, uint32_t page_size, uint64_t contents_min, uint64_t file_size)
{
	if (entry->offset > PGS__SORTED_FILE_MAX)
		return entry->length == 0;
	return entry->length > 0 && entry->length <= page_size && entry->offset >= contents_min &&
	       entry->offset + entry->length <= file_size;
}

/* The number of rows of `row_size` bytes, each beginning with an id, whose id is <= `id`. */
static size_t rows_up_to(pgs_slice rows, size_t row_size, const pgs__page_id *id)
{
	const uint8_t *bytes = rows.data;
	size_t low = 0, high = rows.size / row_size;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (memcmp(bytes + middle * row_size, id->bytes, PGS__ID_SIZE) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int pgs__sorted_find(pgs_slice table, const pgs__page_id *id, uint32_t page_size, uint64_t contents_min,
	uint64_t file_size, pgs__sorted_entry *out)
{
	*out = (pgs__sorted_entry){0};
	if (table.size % PGS__SORTED_ENTRY_SIZE != 0)
		return PGS_ECORRUPT;
	size_t past = rows_up_to(table, PGS__SORTED_ENTRY_SIZE, id);
	if (past == 0)
		return PGS_ENOTFOUND;
	pgs__sorted_entry entry;
	pgs__sorted_entry_decode((const uint8_t *)table.data + (past - 1) * PGS__SORTED_ENTRY_SIZE, &entry);
	if (!pgs__page_id_equal(&entry.id, id))
		return PGS_ENOTFOUND;
	if (!pgs__sorted_place_ok(&entry, page_size, contents_min, file_size))
		return PGS_ECORRUPT;
	*out = entry;
	return PGS_OK;
}

/* Ids rise strictly; contents follow each other from `contents_offset` to `file_size`. */
static int check_rows(pgs_slice table, uint32_t page_size, uint64_t contents_offset, uint64_t file_size)
{
	const uint8_t *bytes = table.data;
	uint64_t next = contents_offset;
	pgs__sorted_entry entry;
	for (size_t at = 0; at < table.size; at += PGS__SORTED_ENTRY_SIZE) {
		if (at > 0 && memcmp(bytes + at - PGS__SORTED_ENTRY_SIZE, bytes + at, PGS__ID_SIZE) >= 0)
			return PGS_ECORRUPT;
		pgs__sorted_entry_decode(bytes + at, &entry);
		if (!pgs__sorted_place_ok(&entry, page_size, next, file_size))
			return PGS_ECORRUPT;
		if (entry.length > 0 && entry.offset != next)
			return PGS_ECORRUPT;
		next += entry.length;
	}
	return next == file_size ? PGS_OK : PGS_ECORRUPT;
}

int pgs__sorted_table_check(pgs_slice table, const pgs__sorted_header *header)
{
	/* The sizes were checked against each other when the header was decoded. */
	if (table.size != header->count * PGS__SORTED_ENTRY_SIZE ||
		pgs__check64(table.data, table.size) != header->table_check)
		return PGS_ECORRUPT;
	return check_rows(table, header->page_size, header->contents_offset, header->file_size);
}

size_t pgs__sorted_filter_size(uint64_t count, size_t table_max)
{
	return count * PGS__SORTED_ENTRY_SIZE <= table_max ? 0 : pgs__filter_size_for(count);
}

void pgs__sorted_filter_make(pgs_slice table, size_t size, uint8_t *out)
{
	assert(pgs__filter_size_ok(size));
	const uint8_t *bytes = table.data;
	pgs__sorted_entry entry;
	memset(out, 0, size);
	for (size_t at = 0; at < table.size; at += PGS__SORTED_ENTRY_SIZE) {
		pgs__sorted_entry_decode(bytes + at, &entry);
		if (entry.length > 0)
			pgs__filter_add(out, size, &entry.id);
	}
	pgs__store_little(out + size, pgs__check64(out, size), PGS__FILTER_CHECK_SIZE);
}

bool pgs__sorted_filter_check(pgs_slice bytes)
{
	if (bytes.size <= PGS__FILTER_CHECK_SIZE)
		return false;
	size_t size = bytes.size - PGS__FILTER_CHECK_SIZE;
	return pgs__load_little((const uint8_t *)bytes.data + size, PGS__FILTER_CHECK_SIZE) ==
	       pgs__check64(bytes.data, size);
}

static uint64_t slice_count(uint64_t entries)
{
	return (entries + PGS__SORTED_SLICE - 1) / PGS__SORTED_SLICE;
}

static void put_fences(pgs_slice table, pgs__buffer *out)
{
	const uint8_t *bytes = table.data;
	const size_t step = (size_t)PGS__SORTED_SLICE * PGS__SORTED_ENTRY_SIZE;
	for (size_t at = 0; at < table.size; at += step) {
		size_t size = table.size - at < step ? table.size - at : step;
		pgs__put_bytes(out, bytes + at, PGS__ID_SIZE);
		pgs__put_u32(out, pgs__check32(bytes + at, size));
	}
}

void pgs__level_value_encode(
	uint64_t file_size, pgs_slice table, size_t filter_size, size_t table_max, pgs__buffer *out)
{
	assert(table.size > 0 && table.size % PGS__SORTED_ENTRY_SIZE == 0);
	size_t from = out->size;
	bool whole = table.size <= table_max;
	assert(!whole || filter_size == 0);
	pgs__put_u8(out, whole ? KIND_TABLE : filter_size ? KIND_FILTERED : KIND_FENCES);
	pgs__put_varint(out, file_size);
	pgs__put_varint(out, table.size / PGS__SORTED_ENTRY_SIZE);
	if (filter_size)
		pgs__put_varint(out, filter_size);
	if (whole)
		pgs__put_bytes(out, table.data, table.size);
	else
		put_fences(table, out);
	pgs__seal(out, from);
}

static int check_fences(pgs_slice fences)
{
	const uint8_t *bytes = fences.data;
	for (size_t at = PGS__FENCE_SIZE; at < fences.size; at += PGS__FENCE_SIZE) {
		if (memcmp(bytes + at - PGS__FENCE_SIZE, bytes + at, PGS__ID_SIZE) >= 0)
			return PGS_ECORRUPT;
	}
	return PGS_OK;
}

int pgs__level_value_decode(pgs_slice bytes, pgs__level_value *out)
{
	*out = (pgs__level_value){0};
	pgs__reader r;
	uint8_t kind;
	int result = pgs__sealed_open(bytes, KIND_FILTERED, &r, &kind);
	if (result != PGS_OK)
		return result;
	out->has_table = kind == KIND_TABLE;
	out->file_size = pgs__read_varint(&r);
	out->count = pgs__read_varint(&r);
	out->filter_size = kind == KIND_FILTERED ? pgs__read_varint(&r) : 0;
	if (r.failed || (kind == KIND_FILTERED && out->filter_size == 0) ||
		!sizes_ok(out->file_size, out->count, out->filter_size))
		return PGS_ECORRUPT;
	/* The count is bounded now: no product below overflows. */
	out->contents_offset = pgs__sorted_contents_offset(out->count, out->filter_size);
	uint64_t rows = out->has_table ? out->count : slice_count(out->count);
	size_t row_size = out->has_table ? PGS__SORTED_ENTRY_SIZE : PGS__FENCE_SIZE;
	if (pgs__reader_left(&r) != rows * row_size)
		return PGS_ECORRUPT;
	pgs_slice body = pgs__read_slice(&r, pgs__reader_left(&r));
	if (!out->has_table) {
		out->fences = body;
		return check_fences(body);
	}
	out->table = body;
	return check_rows(body, PGS_PAGE_SIZE_MAX, out->contents_offset, out->file_size);
}

int64_t pgs__fence_find(pgs_slice fences, const pgs__page_id *id)
{
	size_t past = rows_up_to(fences, PGS__FENCE_SIZE, id);
	return past == 0 ? PGS_ENOTFOUND : (int64_t)past - 1;
}

uint32_t pgs__fence_check(pgs_slice fences, size_t index)
{
	assert(index < fences.size / PGS__FENCE_SIZE);
	return (uint32_t)pgs__load_little((const uint8_t *)fences.data + index * PGS__FENCE_SIZE + PGS__ID_SIZE, 4);
}
