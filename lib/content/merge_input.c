/* Reading an input of a merge.
 *
 * Every row is checked before it is used: slices by their fences, ids by rising, contents by lying one after the
 * other up to the end of the file. A table that fails is damaged as a whole, and nothing may be dropped because of it:
 * the merge ends. */
#include "content/merge_input.h"

#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define SLICE_BYTES ((size_t)PGS__SORTED_SLICE * PGS__SORTED_ENTRY_SIZE)

static int damaged(const pgs__merge_input *input, const pgs__merge_reader *reader, const char *what)
{
	return pgs__error(reader->err, PGS_ECORRUPT, "table of sorted file %s is damaged: %s", input->file->blob_name,
			  what);
}

static int read_range(const pgs__merge_input *input, const pgs__merge_reader *reader, uint64_t offset, void *buffer,
		      size_t size)
{
	int result = reader->before ? reader->before(reader->before_ctx) : PGS_OK;
	if (result != PGS_OK)
		return result;
	pgs_blob_range range = {.name = input->file->blob_name, .offset = offset, .size = size, .buffer = buffer};
	uint64_t deadline_ms = reader->timeout_ms ? pgs__now_ms() + reader->timeout_ms : 0;
	result = pgs__blob_get(reader->blob, &range, 1, deadline_ms, reader->err);
	return result == PGS_OK ? PGS_OK : pgs__error_prefix(reader->err, result, "merging %s", input->file->blob_name);
}

static int check_slices(const pgs__merge_input *input, const pgs__merge_reader *reader, size_t first, size_t size)
{
	for (size_t at = 0; at < size; at += SLICE_BYTES) {
		size_t part = size - at < SLICE_BYTES ? size - at : SLICE_BYTES;
		if (pgs__check32(input->chunk + at, part) !=
			pgs__fence_check(input->file->index.fences, first + at / SLICE_BYTES))
			return damaged(input, reader, "a slice does not match its fence");
	}
	return PGS_OK;
}

/* Read the chunk of the table that begins with the current row, the first of a slice. */
static int read_chunk(pgs__merge_input *input, const pgs__merge_reader *reader)
{
	uint64_t end = input->row + (uint64_t)reader->chunk_slices * PGS__SORTED_SLICE;
	if (end > input->file->index.count)
		end = input->file->index.count;
	size_t size = (size_t)(end - input->row) * PGS__SORTED_ENTRY_SIZE;
	if (!input->chunk && !(input->chunk = pgs__malloc(reader->chunk_slices * SLICE_BYTES)))
		return pgs__error_nomem(reader->err, "merging sorted files");
	int result = read_range(input, reader, PGS__SORTED_HEADER_SIZE + input->row * PGS__SORTED_ENTRY_SIZE,
				input->chunk, size);
	if (result == PGS_OK)
		result = check_slices(input, reader, (size_t)(input->row / PGS__SORTED_SLICE), size);
	input->rows = input->chunk;
	input->rows_first = input->row;
	input->rows_end = end;
	return result;
}

/* Make the current row the entry. `last` is the id before it, or NULL. */
static int load_row(pgs__merge_input *input, const pgs__merge_reader *reader, const pgs__page_id *last)
{
	const pgs__level_value *index = &input->file->index;
	if (input->row == index->count) {
		input->ended = true;
		return input->next_offset == index->file_size ? PGS_OK
							      : damaged(input, reader, "its contents end too early");
	}
	int result = input->row >= input->rows_end ? read_chunk(input, reader) : PGS_OK;
	if (result != PGS_OK)
		return result;
	pgs__sorted_entry *entry = &input->entry;
	pgs__sorted_entry_decode(input->rows + (input->row - input->rows_first) * PGS__SORTED_ENTRY_SIZE, entry);
	if (last && memcmp(last->bytes, entry->id.bytes, PGS__ID_SIZE) >= 0)
		return damaged(input, reader, "ids do not rise");
	if (!pgs__sorted_place_ok(entry, reader->page_size, input->next_offset, index->file_size) ||
		(entry->length > 0 && entry->offset != input->next_offset))
		return damaged(input, reader, "a content is not where it must be");
	input->next_offset += entry->length;
	return PGS_OK;
}

int pgs__merge_input_open(pgs__merge_input *input, const pgs__file *file, const pgs__merge_reader *reader)
{
	*input = (pgs__merge_input){.file = file, .next_offset = file->index.contents_offset};
	if (file->index.has_table) {
		input->rows = file->index.table.data;
		input->rows_end = file->index.count;
	}
	return load_row(input, reader, NULL);
}

void pgs__merge_input_close(pgs__merge_input *input)
{
	pgs__free(input->chunk);
	pgs__free(input->window);
	*input = (pgs__merge_input){.ended = true};
}

int pgs__merge_input_next(pgs__merge_input *input, const pgs__merge_reader *reader)
{
	const pgs__page_id last = input->entry.id;
	input->row++;
	return load_row(input, reader, &last);
}

int pgs__merge_input_content(pgs__merge_input *input, const pgs__merge_reader *reader, uint64_t offset, size_t length,
			     size_t ahead, const uint8_t **out)
{
	uint64_t file_size = input->file->index.file_size;
	if (offset < input->window_offset || offset + length > input->window_offset + input->window_used) {
		size_t size = ahead < reader->window_bytes ? ahead : reader->window_bytes;
		size = size < length ? length : size;
		size = size < file_size - offset ? size : (size_t)(file_size - offset);
		if (!input->window && !(input->window = pgs__malloc(reader->window_bytes)))
			return pgs__error_nomem(reader->err, "merging sorted files");
		input->window_used = 0;
		int result = read_range(input, reader, offset, input->window, size);
		if (result != PGS_OK)
			return result;
		input->window_offset = offset;
		input->window_used = size;
	}
	*out = input->window + (offset - input->window_offset);
	return PGS_OK;
}
