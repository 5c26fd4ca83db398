/* Reading index files: their tables, and blocks as they are needed. Every block is checked before it is walked. */
#include "txn/index_file.h"

#include <string.h>

#include "content/parts.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define READ_MAX (256u << 10) /* bytes of blocks read at once */

static int read_blob(const pgs__index_file *file, const pgs__backend *backend, uint64_t offset, void *buffer,
		     size_t size, uint64_t deadline_ms, pgs_error *err)
{
	pgs_blob_range range = {.name = file->blob_name, .offset = offset, .size = size, .buffer = buffer};
	int result = pgs__blob_get(backend->blob, &range, 1, deadline_ms, err);
	return result == PGS_ENOTFOUND ? pgs__error(err, result, "index file %s is missing", file->blob_name) : result;
}

static pgs_slice table_of(const pgs__index_file *file)
{
	return (pgs_slice){file->table, file->table_size};
}

static size_t block_count(const pgs__index_file *file)
{
	return file->table_size / PGS__INDEX_BLOCK_SIZE;
}

static pgs__index_block block_at(const pgs__index_file *file, size_t index)
{
	pgs__index_block row;
	pgs__index_block_decode(table_of(file), index, &row);
	return row;
}

/* --- opening ----------------------------------------------------------------- */

static int read_header(const pgs__index_file *file, const pgs__backend *backend, pgs__index_header *out,
		       uint64_t deadline_ms, pgs_error *err)
{
	uint8_t bytes[PGS__INDEX_HEADER_SIZE];
	if (pgs__parts_get_index(file->disk, file->blob_name, 0, bytes, sizeof bytes)) {
		if (pgs__index_header_decode(bytes, out) == PGS_OK)
			return PGS_OK;
		pgs__parts_drop_index(file->disk, file->blob_name, 0, sizeof bytes);
	}
	int result = read_blob(file, backend, 0, bytes, sizeof bytes, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	result = pgs__index_header_decode(bytes, out);
	if (result != PGS_OK)
		return pgs__error(err, result, "header of index file %s is damaged or of a newer version",
				  file->blob_name);
	pgs__parts_put_index(file->disk, file->blob_name, 0, (pgs_slice){bytes, sizeof bytes});
	return PGS_OK;
}

static int read_table(const pgs__index_file *file, const pgs__backend *backend, const pgs__index_header *header,
		      uint64_t deadline_ms, pgs_error *err)
{
	const uint64_t offset = PGS__INDEX_HEADER_SIZE;
	if (pgs__parts_get_index(file->disk, file->blob_name, offset, file->table, file->table_size)) {
		if (pgs__index_table_check(table_of(file), header) == PGS_OK)
			return PGS_OK;
		pgs__parts_drop_index(file->disk, file->blob_name, offset, file->table_size);
	}
	int result = PGS_OK;
	if (file->table_size)
		result = read_blob(file, backend, offset, file->table, file->table_size, deadline_ms, err);
	if (result == PGS_OK && pgs__index_table_check(table_of(file), header) != PGS_OK)
		result = pgs__error(err, PGS_ECORRUPT, "table of index file %s is damaged", file->blob_name);
	if (result == PGS_OK)
		pgs__parts_put_index(file->disk, file->blob_name, offset, table_of(file));
	return result;
}

static int read_file(pgs__index_file *file, const pgs_db *db, uint64_t deadline_ms, pgs_error *err)
{
	const pgs__backend *backend = pgs__db_backend(db);
	pgs__index_header header;
	int result = read_header(file, backend, &header, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	if (header.page_size != db->contents.page_size)
		return pgs__error(err, PGS_ECORRUPT, "index file %s is of pages of %u bytes, the database of %u",
				  file->blob_name, header.page_size, db->contents.page_size);
	file->pointer_count = header.pointer_count;
	file->file_size = header.file_size;
	file->table_size = (size_t)header.block_count * PGS__INDEX_BLOCK_SIZE;
	file->table = pgs__malloc(file->table_size ? file->table_size : 1);
	if (!file->table)
		return pgs__error_nomem(err, "index file");
	return read_table(file, backend, &header, deadline_ms, err);
}

int pgs__index_file_open(pgs__index_file *out, const pgs_db *db, pgs_slice name, bool cached, uint64_t deadline_ms,
			 pgs_error *err)
{
	char text[PGS__FILE_NAME_MAX + 1];
	*out = (pgs__index_file){.disk = cached ? db->contents.disk : NULL};
	if (!pgs__file_name_ok(name))
		return pgs__error(err, PGS_ECORRUPT, "database %s: the name of an index file is malformed", db->name);
	memcpy(text, name.data, name.size);
	text[name.size] = '\0';
	pgs__blob_name(out->blob_name, pgs__db_prefix(db), text);
	int result = read_file(out, db, deadline_ms, err);
	if (result != PGS_OK)
		pgs__index_file_close(out);
	return result;
}

void pgs__index_file_close(pgs__index_file *file)
{
	pgs__free(file->table);
	*file = (pgs__index_file){0};
}

/* --- blocks -------------------------------------------------------------------- */

static int damaged_block(const pgs__index_file *file, size_t index, pgs_error *err)
{
	return pgs__error(err, PGS_ECORRUPT, "block %zu of index file %s is damaged", index, file->blob_name);
}

/* Blocks [first, end) from the cache file: false unless all are there, and good. */
static bool local_blocks(const pgs__index_file *file, size_t first, size_t end, uint8_t *bytes)
{
	for (size_t i = first; i < end; i++) {
		pgs__index_block row = block_at(file, i);
		if (!pgs__parts_get_index(file->disk, file->blob_name, row.offset, bytes, row.length))
			return false;
		if (pgs__index_block_check((pgs_slice){bytes, row.length}, &row) != PGS_OK && !PGS__BUG(PARTS_BELIEVED)) {
			pgs__parts_drop_index(file->disk, file->blob_name, row.offset, row.length);
			return false;
		}
		bytes += row.length;
	}
	return true;
}

/* The same from the blob. `disk`, if not NULL, is given what is good. */
static int stored_blocks(const pgs__index_file *file, const pgs__backend *backend, pgs__disk_db *disk, size_t first,
			 size_t end, uint8_t *bytes, size_t size, uint64_t deadline_ms, pgs_error *err)
{
	int result = read_blob(file, backend, block_at(file, first).offset, bytes, size, deadline_ms, err);
	for (size_t i = first; result == PGS_OK && i < end; i++) {
		pgs__index_block row = block_at(file, i);
		pgs_slice block = {bytes, row.length};
		if (pgs__index_block_check(block, &row) != PGS_OK)
			result = damaged_block(file, i, err);
		else
			pgs__parts_put_index(disk, file->blob_name, row.offset, block);
		bytes += row.length;
	}
	return result;
}

/* Read blocks [first, end), neighbours in the file, and check them. The bytes are the caller's to free. */
static int read_blocks(const pgs__index_file *file, const pgs__backend *backend, pgs__disk_db *disk, size_t first,
		       size_t end, uint8_t **bytes, uint64_t deadline_ms, pgs_error *err)
{
	pgs__index_block from = block_at(file, first), last = block_at(file, end - 1);
	size_t size = (size_t)(last.offset + last.length - from.offset);
	*bytes = pgs__malloc(size);
	if (!*bytes)
		return pgs__error_nomem(err, "index blocks");
	if (disk && local_blocks(file, first, end, *bytes))
		return PGS_OK;
	int result = stored_blocks(file, backend, disk, first, end, *bytes, size, deadline_ms, err);
	if (result != PGS_OK) {
		pgs__free(*bytes);
		*bytes = NULL;
	}
	return result;
}

/* Where the blocks end that are read with block `first`: each has a page that is expected. */
static size_t expected_end(const pgs__index_file *file, size_t first, const pgs__index_block_kept *kept)
{
	uint64_t from = block_at(file, first).offset;
	size_t end = first + 1, at = 0;
	for (; end < block_count(file); end++) {
		const pgs__index_block next = block_at(file, end);
		while (at < kept->expected_count && kept->expected[at] < next.first_page)
			at++;
		if (at == kept->expected_count || kept->expected[at] > next.last_page ||
			next.offset + next.length - from > READ_MAX)
			break;
	}
	return end;
}

/* Have block `index` among those that are kept. */
static int keep_block(const pgs__index_file *file, const pgs__backend *backend, size_t index,
		      pgs__index_block_kept *kept, uint64_t deadline_ms, pgs_error *err)
{
	if (kept->bytes && index >= kept->first && index < kept->end)
		return PGS_OK;
	pgs__free(kept->bytes);
	kept->bytes = NULL;
	kept->at = false;
	kept->first = index;
	kept->end = expected_end(file, index, kept);
	return read_blocks(file, backend, file->disk, kept->first, kept->end, &kept->bytes, deadline_ms, err);
}

/* Go to the first entry of block `index` at or after `page_no`: kept->at tells whether there is one. */
static int seek(const pgs__index_file *file, const pgs__backend *backend, size_t index, uint64_t page_no,
		pgs__index_block_kept *kept, uint64_t deadline_ms, pgs_error *err)
{
	int result = keep_block(file, backend, index, kept, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	if (!kept->at || kept->index != index || kept->page_no > page_no) {
		const pgs__index_block row = block_at(file, index);
		const uint8_t *bytes = kept->bytes + (row.offset - block_at(file, kept->first).offset);
		kept->at = false;
		kept->index = index;
		if (pgs__entries_open((pgs_slice){bytes, row.length}, &kept->reader) != PGS_OK)
			return damaged_block(file, index, err);
	}
	while (!kept->at || kept->page_no < page_no) {
		kept->at = pgs__entries_next(&kept->reader, &kept->page_no, &kept->pointer);
		if (!kept->at)
			break;
	}
	return PGS_OK;
}

int pgs__index_file_find(const pgs__index_file *file, const pgs__backend *backend, uint64_t page_no,
			 pgs__index_block_kept *kept, bool *found, pgs_slice *pointer, uint64_t deadline_ms,
			 pgs_error *err)
{
	int64_t index = pgs__index_table_find(table_of(file), page_no);
	*found = false;
	if (index < 0)
		return PGS_OK;
	int result = seek(file, backend, (size_t)index, page_no, kept, deadline_ms, err);
	*found = result == PGS_OK && kept->at && kept->page_no == page_no;
	if (*found)
		*pointer = kept->pointer;
	return result;
}

/* The first block that ends at or after the page. */
static size_t first_block(const pgs__index_file *file, uint64_t page_no)
{
	size_t low = 0, high = block_count(file);
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (block_at(file, middle).last_page < page_no)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int pgs__index_file_next(const pgs__index_file *file, const pgs__backend *backend, uint64_t from,
			 pgs__index_block_kept *kept, uint64_t *page_no, uint64_t deadline_ms, pgs_error *err)
{
	size_t index = first_block(file, from);
	*page_no = index < block_count(file) ? block_at(file, index).first_page : UINT64_MAX;
	if (*page_no >= from)
		return PGS_OK;
	int result = seek(file, backend, index, from, kept, deadline_ms, err);
	if (result == PGS_OK && !kept->at)
		return damaged_block(file, index, err); /* it ends at or after `from`, as its row says */
	*page_no = kept->page_no;
	return result;
}

/* --- walking ------------------------------------------------------------------- */

void pgs__index_cursor_open(pgs__index_cursor *cursor, const pgs__index_file *file, const pgs__backend *backend,
			    uint64_t first, uint64_t end)
{
	*cursor = (pgs__index_cursor){.file = file, .backend = backend, .first = first, .end = end};
	cursor->block = cursor->read_end = first_block(file, first);
}

void pgs__index_cursor_close(pgs__index_cursor *cursor)
{
	pgs__free(cursor->bytes);
	*cursor = (pgs__index_cursor){0};
}

/* Read the next blocks that have pages of the range. */
static int read_ahead(pgs__index_cursor *c, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t from = block_at(c->file, c->block).offset;
	c->read_end = c->block + 1;
	for (; c->read_end < block_count(c->file); c->read_end++) {
		pgs__index_block next = block_at(c->file, c->read_end);
		if (next.first_page >= c->end || next.offset + next.length - from > READ_MAX)
			break;
	}
	pgs__free(c->bytes);
	c->at = 0;
	int result = read_blocks(c->file, c->backend, NULL, c->block, c->read_end, &c->bytes, deadline_ms, err);
	if (result != PGS_OK)
		c->read_end = c->block; /* called again, it is read again */
	return result;
}

/* Begin walking the next block; *found is false when none has pages of the range. */
static int next_block(pgs__index_cursor *c, bool *found, uint64_t deadline_ms, pgs_error *err)
{
	*found = c->block < block_count(c->file) && block_at(c->file, c->block).first_page < c->end;
	if (!*found)
		return PGS_OK;
	if (c->block == c->read_end) {
		int result = read_ahead(c, deadline_ms, err);
		if (result != PGS_OK)
			return result;
	}
	size_t size = block_at(c->file, c->block).length;
	if (pgs__entries_open((pgs_slice){c->bytes + c->at, size}, &c->reader) != PGS_OK)
		return damaged_block(c->file, c->block, err);
	c->at += size;
	c->block++;
	return PGS_OK;
}

int pgs__index_cursor_next(pgs__index_cursor *c, bool *found, uint64_t *page_no, pgs_slice *pointer,
			   uint64_t deadline_ms, pgs_error *err)
{
	for (*found = true; *found;) {
		while (pgs__entries_next(&c->reader, page_no, pointer)) {
			if (*page_no >= c->first) {
				*found = *page_no < c->end;
				return PGS_OK;
			}
		}
		int result = next_block(c, found, deadline_ms, err);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}
