/* A sorted file is put from its header, table and filter, made here, and the contents where they are: nothing is
 * copied. */
#include "content/sorted_writer.h"

#include <string.h>

#include "codec/seal.h"
#include "util/alloc.h"
#include "util/error.h"

size_t pgs__sorted_file_fit(const pgs__sorted_item *items, size_t count)
{
	uint64_t contents = 0;
	size_t fit = 0;
	while (fit < count && fit < PGS__SORTED_COUNT_MAX) {
		const uint64_t head = pgs__sorted_contents_offset(fit + 1, pgs__filter_size_for(fit + 1));
		contents += items[fit].size;
		if (head + contents > PGS__SORTED_FILE_MAX)
			break;
		fit++;
	}
	return fit;
}

/* Lay the contents out and fill what comes before them, in one block that is returned (to be freed), or NULL. */
static uint8_t *make_head(pgs__sorted_item *items, size_t count, uint32_t page_size, size_t filter_size,
			  size_t *head_size, uint64_t *file_size)
{
	size_t table_size = count * PGS__SORTED_ENTRY_SIZE;
	*head_size = pgs__sorted_contents_offset(count, filter_size);
	uint8_t *head = pgs__malloc(*head_size);
	if (!head)
		return NULL;
	uint64_t offset = *head_size;
	for (size_t i = 0; i < count; i++) {
		const pgs__sorted_entry entry = {
			items[i].id, items[i].size ? offset : PGS__TOMBSTONE, items[i].size, items[i].birth};
		items[i].offset = offset;
		offset += items[i].size;
		pgs__sorted_entry_encode(&entry, head + PGS__SORTED_HEADER_SIZE + i * PGS__SORTED_ENTRY_SIZE);
	}
	*file_size = offset;
	const pgs__sorted_header header = {
		.page_size = page_size,
		.count = count,
		.filter_size = filter_size,
		.contents_offset = *head_size,
		.file_size = offset,
		.table_check = pgs__check64(head + PGS__SORTED_HEADER_SIZE, table_size),
	};
	pgs__sorted_header_encode(&header, head);
	if (filter_size)
		pgs__sorted_filter_make((pgs_slice){head + PGS__SORTED_HEADER_SIZE, table_size}, filter_size,
					head + PGS__SORTED_HEADER_SIZE + table_size);
	return head;
}

/* The item that holds byte `offset` of the file. */
static size_t item_at(const pgs__sorted_put *s, uint64_t offset)
{
	size_t low = 0, high = s->count;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (s->items[middle].offset <= offset)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static int read_source(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	pgs__sorted_put *s = ctx;
	uint8_t *out = buffer;
	if (s->cancelled)
		return PGS_EIO;
	if (offset < s->head_size) {
		size_t part = s->head_size - (size_t)offset;
		part = part < size ? part : size;
		memcpy(out, s->head + offset, part);
		out += part;
		offset += part;
		size -= part;
	}
	for (size_t i = size ? item_at(s, offset) : 0; size > 0; i++) {
		size_t skip = (size_t)(offset - s->items[i].offset);
		size_t part = s->items[i].size - skip;
		part = part < size ? part : size;
		memcpy(out, (const uint8_t *)s->items[i].bytes + skip, part);
		out += part;
		offset += part;
		size -= part;
	}
	return PGS_OK;
}

int pgs__sorted_put_prepare(pgs__sorted_put *put, const pgs__sorted_target *target, pgs__sorted_item *items,
			    size_t count, pgs__sorted_file *out, pgs_error *err)
{
	*put = (pgs__sorted_put){.blob = target->backend->blob, .items = items, .count = count};
	*out = (pgs__sorted_file){0};
	if (pgs__file_name_new(out->file_name, 's', target->base_revision) != PGS_OK)
		return pgs__error(err, PGS_EIO, "the system gives no random bytes");
	const size_t filter_size = pgs__sorted_filter_size(count, target->table_max);
	put->head = make_head(items, count, target->page_size, filter_size, &put->head_size, &put->size);
	if (!put->head)
		return pgs__error_nomem(err, "table of a sorted file");
	pgs_slice table = {put->head + PGS__SORTED_HEADER_SIZE, count * PGS__SORTED_ENTRY_SIZE};
	pgs__level_value_encode(put->size, table, filter_size, target->table_max, &out->value);
	out->key = pgs__key_level(target->prefix, target->level, &items[0].id, &items[count - 1].id, out->file_name);
	out->size = put->size;
	pgs__blob_name(out->blob_name, target->prefix, out->file_name);
	memcpy(put->blob_name, out->blob_name, sizeof put->blob_name);
	if (!out->value.failed)
		return PGS_OK;
	pgs__buffer_free(&out->value);
	pgs__sorted_put_free(put);
	return pgs__error_nomem(err, "table of a sorted file");
}

int pgs__sorted_put_run(pgs__sorted_put *put, uint64_t deadline_ms, pgs_error *err)
{
	return pgs__blob_put(put->blob, put->blob_name, put->size, read_source, put, deadline_ms, err);
}

void pgs__sorted_put_free(pgs__sorted_put *put)
{
	pgs__free(put->head);
	put->head = NULL;
}

int pgs__sorted_file_put(const pgs__sorted_target *target, pgs__sorted_item *items, size_t count,
			 uint64_t deadline_ms, pgs__sorted_file *out, pgs_error *err)
{
	pgs__sorted_put put;
	int result = pgs__sorted_put_prepare(&put, target, items, count, out, err);
	if (result != PGS_OK)
		return result;
	result = pgs__sorted_put_run(&put, deadline_ms, err);
	if (result != PGS_OK)
		pgs__buffer_free(&out->value);
	pgs__sorted_put_free(&put);
	return result;
}
