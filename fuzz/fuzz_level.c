/* l/ keys and values, and page keys, by the first byte; values are sealed here. */
#include "codec/keys.h"
#include "codec/sorted_file.h"
#include "fuzz.h"

static const uint8_t prefix[PGS__PREFIX_SIZE] = {0x80, 1, 2, 3, 4, 5, 6, 7};

static void check_level_key(pgs_slice key)
{
	pgs__level_key parsed;
	if (!pgs__key_parse_level(key, &parsed))
		return;
	CHECK(memcmp(parsed.first.bytes, parsed.last.bytes, PGS__ID_SIZE) <= 0);
	CHECK(pgs__file_name_ok((pgs_slice){parsed.file_name, strlen(parsed.file_name)}));
	pgs__key again = pgs__key_level(key.data, parsed.level, &parsed.first, &parsed.last, parsed.file_name);
	CHECK(pgs__slice_equal(pgs__key_slice(&again), key));
}

static void check_page_key(pgs_slice key)
{
	uint64_t page_no;
	if (!pgs__key_parse_page(key, &page_no))
		return;
	pgs__key again = pgs__key_page(key.data, page_no);
	CHECK(pgs__slice_equal(pgs__key_slice(&again), key));
}

/* Each as it comes, and behind "<prefix>/<kind>/". */
static void check_keys(pgs_slice bytes)
{
	pgs__buffer b = {0};
	pgs__key head = pgs__key_kind(prefix, 'l');
	check_level_key(bytes);
	check_page_key(bytes);
	pgs__put_bytes(&b, head.bytes, head.size);
	pgs__put_bytes(&b, bytes.data, bytes.size);
	check_level_key(pgs__buffer_slice(&b));
	b.data[head.size - 2] = 'p';
	check_page_key(pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

/* Every fence leads to its own slice. */
static void check_fences(const pgs__level_value *value)
{
	size_t count = value->fences.size / PGS__FENCE_SIZE;
	CHECK(count * PGS__SORTED_SLICE >= value->count && (count - 1) * PGS__SORTED_SLICE < value->count);
	for (size_t i = 0; i < count; i++) {
		pgs__page_id id;
		memcpy(id.bytes, (const uint8_t *)value->fences.data + i * PGS__FENCE_SIZE, PGS__ID_SIZE);
		CHECK(pgs__fence_find(value->fences, &id) == (int64_t)i);
		pgs__fence_check(value->fences, i);
	}
}

/* Every entry of a table is found, inside the file; and the table as fences has the same facts. */
static void check_table(const pgs__level_value *value)
{
	pgs__level_value fenced;
	pgs__buffer b = {0};
	CHECK(value->filter_size == 0);
	for (size_t i = 0; i < value->count; i++) {
		pgs__sorted_entry entry, found;
		pgs__sorted_entry_decode((const uint8_t *)value->table.data + i * PGS__SORTED_ENTRY_SIZE, &entry);
		CHECK(pgs__sorted_find(value->table, &entry.id, PGS_PAGE_SIZE_MAX, 64 + value->table.size,
			value->file_size, &found) == PGS_OK);
		CHECK(found.offset == entry.offset && found.length == entry.length && found.birth == entry.birth);
		CHECK(found.offset > PGS__SORTED_FILE_MAX || found.offset + found.length <= value->file_size);
	}
	pgs__level_value_encode(value->file_size, value->table, 0, 0, &b);
	CHECK(pgs__level_value_decode(pgs__buffer_slice(&b), &fenced) == PGS_OK);
	CHECK(!fenced.has_table && fenced.count == value->count && fenced.file_size == value->file_size);
	check_fences(&fenced);
	pgs__buffer_free(&b);
}

static void check_value(pgs_slice bytes)
{
	pgs__level_value value;
	pgs__buffer again = {0};
	int result = pgs__level_value_decode(bytes, &value);
	check_result(result);
	if (result != PGS_OK)
		return;
	CHECK(value.contents_offset == pgs__sorted_contents_offset(value.count, value.filter_size));
	CHECK(value.contents_offset <= value.file_size && value.filter_size <= PGS__FILTER_MAX);
	if (!value.has_table) {
		check_fences(&value);
		return;
	}
	check_table(&value);
	pgs__level_value_encode(value.file_size, value.table, 0, SIZE_MAX, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	pgs_slice bytes = {data, size};
	if (choose(&bytes, 2) == 0) {
		check_keys(bytes);
		return 0;
	}
	check_value(bytes);
	pgs__buffer b = sealed(bytes);
	check_value(pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	return 0;
}
