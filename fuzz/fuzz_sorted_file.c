/* A sorted file: header, table, search, filter. Its checks are made good here, first those of table and filter, then
 * the header's. */
#include "codec/file_header.h"
#include "codec/sorted_file.h"
#include "fuzz.h"

static void check_entry(const pgs__sorted_header *h, const pgs__sorted_entry *entry)
{
	if (entry->offset > PGS__SORTED_FILE_MAX) {
		CHECK(entry->length == 0);
		return;
	}
	CHECK(entry->length > 0 && entry->length <= h->page_size);
	CHECK(entry->offset >= h->contents_offset && entry->offset + entry->length <= h->file_size);
}

/* What a search gives is inside the file, in whatever order the table is; in a good table it finds every id. */
static void check_find(pgs_slice table, const pgs__sorted_header *h, bool good)
{
	for (size_t at = 0; at < table.size; at += PGS__SORTED_ENTRY_SIZE) {
		const uint8_t *row = (const uint8_t *)table.data + at;
		pgs__sorted_entry entry, found;
		uint8_t again[PGS__SORTED_ENTRY_SIZE];
		pgs__sorted_entry_decode(row, &entry);
		pgs__sorted_entry_encode(&entry, again);
		CHECK(memcmp(again, row, sizeof again) == 0);
		int result = pgs__sorted_find(table, &entry.id, h->page_size, h->contents_offset, h->file_size, &found);
		CHECK(result == PGS_OK || (!good && (result == PGS_ENOTFOUND || result == PGS_ECORRUPT)));
		if (result != PGS_OK)
			continue;
		CHECK(pgs__page_id_equal(&found.id, &entry.id));
		check_entry(h, &found);
	}
}

/* Whatever its bits are, a filter answers; made anew, it has every content. */
static void check_filter(pgs_slice table, const pgs__sorted_header *h, const uint8_t *filter)
{
	const size_t size = (size_t)h->filter_size;
	uint8_t *made = malloc(size + PGS__FILTER_CHECK_SIZE);
	CHECK(made);
	pgs__sorted_filter_check((pgs_slice){filter, size + PGS__FILTER_CHECK_SIZE});
	pgs__sorted_filter_make(table, size, made);
	CHECK(pgs__sorted_filter_check((pgs_slice){made, size + PGS__FILTER_CHECK_SIZE}));
	for (size_t at = 0; at < table.size; at += PGS__SORTED_ENTRY_SIZE) {
		pgs__sorted_entry entry;
		pgs__sorted_entry_decode((const uint8_t *)table.data + at, &entry);
		pgs__filter_may_have(filter, size, &entry.id);
		CHECK(entry.length == 0 || pgs__filter_may_have(made, size, &entry.id));
	}
	free(made);
}

static void check_file(const uint8_t *file, size_t size)
{
	pgs__sorted_header h;
	uint8_t again[PGS__SORTED_HEADER_SIZE];
	int result = pgs__sorted_header_decode(file, &h);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__sorted_header_encode(&h, again);
	CHECK(memcmp(again, file, sizeof again) == 0);
	CHECK(h.count <= PGS__SORTED_COUNT_MAX && h.contents_offset <= h.file_size);
	if (size < h.contents_offset)
		return;
	pgs_slice table = {file + PGS__SORTED_HEADER_SIZE, (size_t)h.count * PGS__SORTED_ENTRY_SIZE};
	result = pgs__sorted_table_check(table, &h);
	check_result(result);
	check_find(table, &h, result == PGS_OK);
	if (h.filter_size)
		check_filter(table, &h, (const uint8_t *)table.data + table.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < PGS__SORTED_HEADER_SIZE)
		return 0;
	check_file(data, size);
	uint8_t *file = malloc(size);
	CHECK(file);
	memcpy(file, data, size);
	uint64_t count = pgs__load_little(file + 16, 8);
	uint64_t end = count <= PGS__SORTED_COUNT_MAX ? pgs__sorted_contents_offset(count, 0) : SIZE_MAX;
	if (end <= size)
		pgs__store_little(file + 48, pgs__check64(file + 64, (size_t)end - 64), 8);
	pgs__store_little(file + 56, pgs__check64(file, 56), 8);
	check_file(file, size);
	free(file);
	return 0;
}
