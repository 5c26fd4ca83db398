/* A sorted file: header, table, search. Its checks are made good here, first the table's, then the header's. */
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
	pgs_slice table = {file + PGS__SORTED_HEADER_SIZE, (size_t)h.contents_offset - PGS__SORTED_HEADER_SIZE};
	result = pgs__sorted_table_check(table, &h);
	check_result(result);
	check_find(table, &h, result == PGS_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < PGS__SORTED_HEADER_SIZE)
		return 0;
	check_file(data, size);
	uint8_t *file = malloc(size);
	CHECK(file);
	memcpy(file, data, size);
	uint64_t end = pgs__load_little(file + 32, 8);
	if (end >= PGS__SORTED_HEADER_SIZE && end <= size)
		pgs__store_little(file + 48, pgs__check64(file + 64, (size_t)end - 64), 8);
	pgs__store_little(file + 56, pgs__check64(file, 56), 8);
	check_file(file, size);
	free(file);
	return 0;
}
