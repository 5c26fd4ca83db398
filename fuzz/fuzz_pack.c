/* Packs, index files and entries, by the first byte. Seals and checks are made good here. */
#include "codec/file_header.h"
#include "codec/keys.h"
#include "codec/pack.h"
#include "fuzz.h"
#include "util/alloc.h"

/* Walk entries that nobody checked; pages rise. */
static void walk_entries(pgs_slice bytes)
{
	pgs__entries_reader r;
	pgs_slice pointer;
	uint64_t page_no, next = 0;
	if (pgs__entries_open(bytes, &r) != PGS_OK)
		return;
	while (pgs__entries_next(&r, &page_no, &pointer)) {
		CHECK(page_no >= next && page_no < UINT64_MAX && pointer.size > 0);
		next = page_no + 1;
	}
}

/* Copy checked entries into a writer; every pointer must decode. */
static pgs__entries_writer copy_entries(pgs_slice entries)
{
	pgs__entries_writer w = {0};
	pgs__entries_reader r;
	pgs__pointer decoded;
	pgs_slice pointer;
	uint64_t page_no;
	CHECK(pgs__entries_open(entries, &r) == PGS_OK);
	while (pgs__entries_next(&r, &page_no, &pointer)) {
		CHECK(pgs__pointer_decode(pointer, 1, &decoded) == PGS_OK);
		pgs__entries_add(&w, page_no, pointer);
	}
	CHECK(!r.reader.failed);
	return w;
}

static void encode_again(const pgs__pack *pack, const pgs__page_range *ranges, pgs__buffer *again)
{
	if (pack->in_file) {
		char name[PGS__FILE_NAME_MAX + 1] = "";
		CHECK(pgs__file_name_ok(pack->file_name));
		memcpy(name, pack->file_name.data, pack->file_name.size);
		pgs__pack_encode_file(ranges, pack->range_count, name, pack->file_size, pack->pointer_count, again);
		return;
	}
	pgs__entries_writer w = copy_entries(pack->entries);
	CHECK(w.count == pack->pointer_count);
	pgs__pack_encode_inline(ranges, pack->range_count, &w, again);
	pgs__buffer_free(&w.bytes);
}

static void check_pack(pgs_slice bytes)
{
	pgs__pack pack;
	pgs__buffer again = {0};
	int result = pgs__pack_decode(bytes, &pack);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__page_range *ranges = pgs__calloc(pack.range_count, sizeof *ranges);
	pgs_slice rest = pack.range_bytes;
	CHECK(ranges);
	for (size_t i = 0; i < pack.range_count; i++) {
		CHECK(pgs__pack_next_range(&rest, &ranges[i]));
		CHECK(ranges[i].first < ranges[i].end && (i == 0 || ranges[i].first > ranges[i - 1].end));
	}
	CHECK(rest.size == 0);
	encode_again(&pack, ranges, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
	pgs__free(ranges);
}

/* The blocks of a good table lie in the file; those that are good themselves hold what their row says. */
static void check_blocks(const uint8_t *file, size_t size, pgs_slice table)
{
	pgs__index_block block;
	for (size_t i = 0; i < table.size / PGS__INDEX_BLOCK_SIZE; i++) {
		pgs__index_block_decode(table, i, &block);
		CHECK(pgs__index_table_find(table, block.first_page) == (int64_t)i);
		CHECK(pgs__index_table_find(table, block.last_page) == (int64_t)i);
		if (block.offset > size || block.length > size - block.offset)
			continue;
		pgs_slice bytes = {file + block.offset, block.length};
		if (pgs__index_block_check(bytes, &block) != PGS_OK)
			continue;
		pgs__entries_writer w = copy_entries(bytes);
		CHECK(w.count > 0 && w.next_page == block.last_page + 1);
		pgs__buffer_free(&w.bytes);
	}
}

static void check_index(const uint8_t *file, size_t size)
{
	pgs__index_header h;
	uint8_t again[PGS__INDEX_HEADER_SIZE];
	int result = pgs__index_header_decode(file, &h);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__index_header_encode(&h, again);
	CHECK(memcmp(again, file, sizeof again) == 0);
	CHECK(h.blocks_offset <= h.file_size);
	if (size < h.blocks_offset)
		return;
	pgs_slice table = {file + PGS__INDEX_HEADER_SIZE, (size_t)h.blocks_offset - PGS__INDEX_HEADER_SIZE};
	pgs__index_table_find(table, 1000);
	result = pgs__index_table_check(table, &h);
	check_result(result);
	if (result == PGS_OK)
		check_blocks(file, size, table);
}

/* Make the blocks' checks good, then the table's, then the header's. */
static void make_good(uint8_t *file, size_t size)
{
	uint64_t end = pgs__load_little(file + 32, 8);
	if (end >= PGS__INDEX_HEADER_SIZE && end <= size) {
		for (size_t at = 64; at + PGS__INDEX_BLOCK_SIZE <= end; at += PGS__INDEX_BLOCK_SIZE) {
			uint64_t offset = pgs__load_little(file + at + 16, 8), length = pgs__load_little(file + at + 24, 4);
			if (offset >= end && offset <= size && length <= size - offset)
				pgs__store_little(file + at + 28, pgs__check32(file + offset, (size_t)length), 4);
		}
		pgs__store_little(file + 48, pgs__check64(file + 64, (size_t)end - 64), 8);
	}
	pgs__store_little(file + 56, pgs__check64(file, 56), 8);
}

static void fuzz_index(pgs_slice bytes)
{
	if (bytes.size < PGS__INDEX_HEADER_SIZE)
		return;
	check_index(bytes.data, bytes.size);
	uint8_t *file = malloc(bytes.size);
	CHECK(file);
	memcpy(file, bytes.data, bytes.size);
	make_good(file, bytes.size);
	check_index(file, bytes.size);
	free(file);
}

/* Entries of any pages, cut into blocks by the writer, come back in order. */
static void fuzz_writer(pgs_slice bytes)
{
	pgs__index_writer w = {0};
	pgs__buffer file = {0};
	pgs__index_header h;
	uint64_t page_no = 0;
	for (size_t i = 0; i < bytes.size; i++) {
		page_no += 1u + ((const uint8_t *)bytes.data)[i];
		pgs__index_add(&w, page_no, (pgs_slice){"\1", 1});
	}
	CHECK(pgs__index_finish(&w, PGS_PAGE_SIZE_MIN, &file) == PGS_OK);
	CHECK(pgs__index_header_decode(file.data, &h) == PGS_OK);
	CHECK(h.pointer_count == bytes.size && h.file_size == file.size);
	check_index(file.data, file.size);
	pgs__index_writer_free(&w);
	pgs__buffer_free(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	pgs_slice bytes = {data, size};
	switch (choose(&bytes, 4)) {
	case 0: {
		pgs__buffer b = sealed(bytes);
		check_pack(pgs__buffer_slice(&b));
		pgs__buffer_free(&b);
		break;
	}
	case 1:
		fuzz_index(bytes);
		break;
	case 2:
		walk_entries(bytes);
		break;
	default:
		fuzz_writer(bytes);
	}
	return 0;
}
