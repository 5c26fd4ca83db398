/* Packs and index files.
 *
 * Both hold entries: page numbers as distances, each with a pointer still
 * encoded, so that finding one page decodes one pointer. */
#include "codec/pack.h"

#include <assert.h>

#include "codec/file_header.h"
#include "codec/keys.h"
#include "codec/seal.h"

#define KIND_INLINE 1
#define KIND_FILE 2
#define INDEX_VERSION 1 /* of index files */

#define RANGE_SIZE_MIN 2 /* bytes of an encoded range */
#define ENTRY_SIZE_MIN 3 /* skip, size, and a pointer of one byte */
#define BLOCK_SIZE_MIN (1 + ENTRY_SIZE_MIN)
#define BLOCK_SIZE_SOFT_MAX (64u << 10)

static const char magic[4] = {'P', 'G', 'S', 'X'};

/* ---- entries ---- */

void pgs__entries_add(pgs__entries_writer *w, uint64_t page_no, pgs_slice pointer)
{
	assert(page_no >= w->next_page && page_no < UINT64_MAX && pointer.size > 0);
	pgs__put_varint(&w->bytes, page_no - w->next_page);
	pgs__put_varint(&w->bytes, pointer.size);
	pgs__put_bytes(&w->bytes, pointer.data, pointer.size);
	w->next_page = page_no + 1;
	w->count++;
}

static void put_entries(const pgs__entries_writer *w, pgs__buffer *out)
{
	pgs__put_varint(out, w->count);
	pgs__put_bytes(out, w->bytes.data, w->bytes.size);
	if (w->bytes.failed)
		out->failed = true;
}

int pgs__entries_open(pgs_slice entries, pgs__entries_reader *out)
{
	*out = (pgs__entries_reader){.reader = pgs__reader_of(entries)};
	out->left = pgs__read_varint(&out->reader);
	if (out->left > pgs__reader_left(&out->reader) / ENTRY_SIZE_MIN)
		out->reader.failed = true;
	return out->reader.failed ? PGS_ECORRUPT : PGS_OK;
}

bool pgs__entries_next(pgs__entries_reader *r, uint64_t *page_no, pgs_slice *pointer)
{
	*page_no = 0;
	*pointer = (pgs_slice){0};
	if (r->left == 0) {
		if (!pgs__reader_done(&r->reader))
			r->reader.failed = true;
		return false;
	}
	uint64_t skip = pgs__read_varint(&r->reader);
	uint64_t size = pgs__read_varint(&r->reader);
	if (size == 0 || size > pgs__reader_left(&r->reader) || skip > UINT64_MAX - 1 - r->next_page)
		r->reader.failed = true;
	if (r->reader.failed)
		return false;
	*page_no = r->next_page + skip;
	*pointer = pgs__read_slice(&r->reader, (size_t)size);
	r->next_page = *page_no + 1;
	r->left--;
	return true;
}

typedef struct entries_facts {
	uint64_t count;
	uint64_t first_page, last_page; /* when there are any */
} entries_facts;

/* Walk entries to their end, pointers included. The group only fills in ids, so any will do. */
static int check_entries(pgs_slice entries, entries_facts *out)
{
	pgs__entries_reader r;
	pgs__pointer decoded;
	pgs_slice pointer;
	uint64_t page_no;
	*out = (entries_facts){0};
	if (pgs__entries_open(entries, &r) != PGS_OK)
		return PGS_ECORRUPT;
	while (pgs__entries_next(&r, &page_no, &pointer)) {
		if (pgs__pointer_decode(pointer, 0, &decoded) != PGS_OK)
			return PGS_ECORRUPT;
		if (out->count++ == 0)
			out->first_page = page_no;
		out->last_page = page_no;
	}
	return r.reader.failed ? PGS_ECORRUPT : PGS_OK;
}

/* ---- o/ values ---- */

static void put_head(uint8_t kind, const pgs__page_range *ranges, size_t count, pgs__buffer *out)
{
	pgs__put_u8(out, kind);
	pgs__put_varint(out, count);
	for (size_t i = 0; i < count; i++) {
		assert(ranges[i].first < ranges[i].end && (i == 0 || ranges[i].first > ranges[i - 1].end));
		pgs__put_varint(out, ranges[i].first);
		pgs__put_varint(out, ranges[i].end == UINT64_MAX ? 0 : ranges[i].end);
	}
}

void pgs__pack_encode_inline(
	const pgs__page_range *ranges, size_t range_count, const pgs__entries_writer *entries, pgs__buffer *out)
{
	size_t from = out->size;
	put_head(KIND_INLINE, ranges, range_count, out);
	put_entries(entries, out);
	pgs__seal(out, from);
}

void pgs__pack_encode_file(const pgs__page_range *ranges, size_t range_count, const char *file_name, uint64_t file_size,
	uint64_t pointer_count, pgs__buffer *out)
{
	size_t from = out->size, name_size = strlen(file_name);
	put_head(KIND_FILE, ranges, range_count, out);
	pgs__put_varint(out, name_size);
	pgs__put_bytes(out, file_name, name_size);
	pgs__put_varint(out, file_size);
	pgs__put_varint(out, pointer_count);
	pgs__seal(out, from);
}

static bool read_range(pgs__reader *r, pgs__page_range *range)
{
	range->first = pgs__read_varint(r);
	range->end = pgs__read_varint(r);
	if (r->failed || range->end == UINT64_MAX)
		return false;
	if (range->end == 0)
		range->end = UINT64_MAX;
	return range->first < range->end;
}

static bool read_ranges(pgs__reader *r, pgs__pack *out)
{
	uint64_t count = pgs__read_varint(r);
	if (count > pgs__reader_left(r) / RANGE_SIZE_MIN)
		return false;
	size_t from = r->offset;
	pgs__page_range range, last = {0};
	for (uint64_t i = 0; i < count; i++) {
		/* Ranges that touch are one range. */
		if (!read_range(r, &range) || (i > 0 && range.first <= last.end))
			return false;
		last = range;
	}
	if (r->failed)
		return false;
	out->range_count = (size_t)count;
	out->range_bytes = (pgs_slice){r->data + from, r->offset - from};
	return true;
}

static bool read_file(pgs__reader *r, pgs__pack *out)
{
	uint64_t name_size = pgs__read_varint(r);
	if (name_size > PGS__FILE_NAME_MAX)
		return false;
	out->file_name = pgs__read_slice(r, (size_t)name_size);
	out->file_size = pgs__read_varint(r);
	out->pointer_count = pgs__read_varint(r);
	return pgs__reader_done(r) && pgs__file_name_ok(out->file_name) &&
	       out->pointer_count <= out->file_size / ENTRY_SIZE_MIN;
}

int pgs__pack_decode(pgs_slice bytes, pgs__pack *out)
{
	*out = (pgs__pack){0};
	pgs__reader r;
	uint8_t kind;
	int result = pgs__sealed_open(bytes, KIND_FILE, &r, &kind);
	if (result != PGS_OK)
		return result;
	out->in_file = kind == KIND_FILE;
	if (!read_ranges(&r, out))
		return PGS_ECORRUPT;
	if (out->in_file)
		return read_file(&r, out) ? PGS_OK : PGS_ECORRUPT;
	out->entries = pgs__read_slice(&r, pgs__reader_left(&r));
	entries_facts facts;
	result = check_entries(out->entries, &facts);
	out->pointer_count = facts.count;
	return result;
}

bool pgs__pack_next_range(pgs_slice *rest, pgs__page_range *range)
{
	*range = (pgs__page_range){0};
	if (rest->size == 0)
		return false;
	pgs__reader r = pgs__reader_of(*rest);
	if (!read_range(&r, range))
		return false;
	*rest = (pgs_slice){r.data + r.offset, r.size - r.offset};
	return true;
}

/* ---- index files: header and table ---- */

void pgs__index_header_encode(const pgs__index_header *header, uint8_t out[PGS__INDEX_HEADER_SIZE])
{
	pgs__file_header h = {
		.version = INDEX_VERSION,
		.page_size = header->page_size,
		.own = header->block_count,
		.count = header->pointer_count,
		.body_offset = header->blocks_offset,
		.file_size = header->file_size,
		.table_check = header->table_check,
	};
	pgs__file_header_encode(magic, &h, out);
}

/* Whether the sizes fit each other. */
static bool sizes_ok(const pgs__file_header *h)
{
	uint64_t blocks_offset = PGS__INDEX_HEADER_SIZE + (uint64_t)h->own * PGS__INDEX_BLOCK_SIZE;
	if (h->body_offset != blocks_offset || h->file_size < blocks_offset)
		return false;
	uint64_t room = h->file_size - blocks_offset;
	return (h->own > 0 || room == 0) && h->own <= h->count && h->count <= room / ENTRY_SIZE_MIN;
}

int pgs__index_header_decode(const uint8_t in[PGS__INDEX_HEADER_SIZE], pgs__index_header *out)
{
	pgs__file_header h;
	*out = (pgs__index_header){0};
	int result = pgs__file_header_decode(magic, INDEX_VERSION, in, &h);
	if (result != PGS_OK)
		return result;
	if (!sizes_ok(&h))
		return PGS_ECORRUPT;
	out->page_size = h.page_size;
	out->block_count = h.own;
	out->pointer_count = h.count;
	out->blocks_offset = h.body_offset;
	out->file_size = h.file_size;
	out->table_check = h.table_check;
	return PGS_OK;
}

void pgs__index_block_encode(const pgs__index_block *block, uint8_t out[PGS__INDEX_BLOCK_SIZE])
{
	pgs__store_little(out, block->first_page, 8);
	pgs__store_little(out + 8, block->last_page, 8);
	pgs__store_little(out + 16, block->offset, 8);
	pgs__store_little(out + 24, block->length, 4);
	pgs__store_little(out + 28, block->check, 4);
}

void pgs__index_block_decode(pgs_slice table, size_t index, pgs__index_block *out)
{
	assert(index < table.size / PGS__INDEX_BLOCK_SIZE);
	const uint8_t *in = (const uint8_t *)table.data + index * PGS__INDEX_BLOCK_SIZE;
	out->first_page = pgs__load_little(in, 8);
	out->last_page = pgs__load_little(in + 8, 8);
	out->offset = pgs__load_little(in + 16, 8);
	out->length = (uint32_t)pgs__load_little(in + 24, 4);
	out->check = (uint32_t)pgs__load_little(in + 28, 4);
}

int pgs__index_table_check(pgs_slice table, const pgs__index_header *header)
{
	if (table.size != (uint64_t)header->block_count * PGS__INDEX_BLOCK_SIZE ||
		pgs__check64(table.data, table.size) != header->table_check)
		return PGS_ECORRUPT;
	uint64_t offset = header->blocks_offset, next_page = 0;
	pgs__index_block block;
	for (uint32_t i = 0; i < header->block_count; i++) {
		pgs__index_block_decode(table, i, &block);
		if (block.first_page < next_page || block.last_page < block.first_page ||
			block.last_page >= pgs__page_limit(header->page_size))
			return PGS_ECORRUPT;
		if (block.offset != offset || block.length < BLOCK_SIZE_MIN ||
			block.length > header->file_size - offset)
			return PGS_ECORRUPT;
		offset += block.length;
		next_page = block.last_page + 1;
	}
	return offset == header->file_size ? PGS_OK : PGS_ECORRUPT;
}

int64_t pgs__index_table_find(pgs_slice table, uint64_t page_no)
{
	pgs__index_block block;
	size_t low = 0, high = table.size / PGS__INDEX_BLOCK_SIZE;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		pgs__index_block_decode(table, middle, &block);
		if (page_no < block.first_page)
			high = middle;
		else if (page_no > block.last_page)
			low = middle + 1;
		else
			return (int64_t)middle;
	}
	return PGS_ENOTFOUND;
}

int pgs__index_block_check(pgs_slice bytes, const pgs__index_block *block)
{
	if (bytes.size != block->length || pgs__check32(bytes.data, bytes.size) != block->check)
		return PGS_ECORRUPT;
	entries_facts facts;
	if (check_entries(bytes, &facts) != PGS_OK || facts.count == 0)
		return PGS_ECORRUPT;
	return facts.first_page == block->first_page && facts.last_page == block->last_page ? PGS_OK : PGS_ECORRUPT;
}

/* ---- index files: writer ---- */

static void end_block(pgs__index_writer *w)
{
	if (w->current.count == 0)
		return;
	size_t from = w->blocks.size;
	put_entries(&w->current, &w->blocks);
	pgs__buffer_free(&w->current.bytes);
	w->current = (pgs__entries_writer){0};
	uint8_t *row = pgs__buffer_extend(&w->table, PGS__INDEX_BLOCK_SIZE);
	if (!row || w->blocks.failed)
		return;
	size_t length = w->blocks.size - from;
	pgs__index_block block = {
		.first_page = w->first_page,
		.last_page = w->last_page,
		.offset = from,
		.length = (uint32_t)length,
		.check = pgs__check32(w->blocks.data + from, length),
	};
	pgs__index_block_encode(&block, row);
}

void pgs__index_add(pgs__index_writer *w, uint64_t page_no, pgs_slice pointer)
{
	assert(w->pointer_count == 0 || page_no > w->last_page);
	if (w->current.count == PGS__INDEX_BLOCK_ENTRIES || w->current.bytes.size >= BLOCK_SIZE_SOFT_MAX)
		end_block(w);
	if (w->current.count == 0)
		w->first_page = page_no;
	pgs__entries_add(&w->current, page_no, pointer);
	w->last_page = page_no;
	w->pointer_count++;
}

/* The rows count from the first block until the table's size, and with it the blocks' place, is known. */
static void rebase_table(pgs__index_writer *w, uint64_t blocks_offset)
{
	pgs__index_block block;
	for (size_t i = 0; i < w->table.size / PGS__INDEX_BLOCK_SIZE; i++) {
		pgs__index_block_decode(pgs__buffer_slice(&w->table), i, &block);
		block.offset += blocks_offset;
		pgs__index_block_encode(&block, w->table.data + i * PGS__INDEX_BLOCK_SIZE);
	}
}

int pgs__index_finish(pgs__index_writer *w, uint32_t page_size, pgs__buffer *out)
{
	end_block(w);
	if (w->blocks.failed || w->table.failed)
		return PGS_ENOMEM;
	uint64_t blocks_offset = PGS__INDEX_HEADER_SIZE + w->table.size;
	rebase_table(w, blocks_offset);
	pgs__index_header header = {
		.page_size = page_size,
		.block_count = (uint32_t)(w->table.size / PGS__INDEX_BLOCK_SIZE),
		.pointer_count = w->pointer_count,
		.blocks_offset = blocks_offset,
		.file_size = blocks_offset + w->blocks.size,
		.table_check = pgs__check64(w->table.data, w->table.size),
	};
	uint8_t *at = pgs__buffer_extend(out, PGS__INDEX_HEADER_SIZE);
	if (at)
		pgs__index_header_encode(&header, at);
	pgs__put_bytes(out, w->table.data, w->table.size);
	pgs__put_bytes(out, w->blocks.data, w->blocks.size);
	return out->failed ? PGS_ENOMEM : PGS_OK;
}

void pgs__index_writer_free(pgs__index_writer *w)
{
	pgs__buffer_free(&w->blocks);
	pgs__buffer_free(&w->table);
	pgs__buffer_free(&w->current.bytes);
	*w = (pgs__index_writer){0};
}
