/* Sorted files: header, table, search; the values of l/ keys. */
#include "test_codec.h"

#include "codec/page_id.h"
#include "codec/sorted_file.h"

#define PAGE 4096
#define ENTRY PGS__SORTED_ENTRY_SIZE

/* A table of `count` entries with contents of different lengths; every seventh is a tombstone. */
typedef struct file {
	pgs__buffer table;
	pgs__sorted_header header;
} file;

static pgs__page_id id_at(size_t i)
{
	pgs__page_id id = {{0}};
	pgs__store_u32be(id.bytes, (uint32_t)(i / 10));
	pgs__store_u32be(id.bytes + 4, (uint32_t)i * 2 + 1);
	return id;
}

static file make_file(size_t count)
{
	file f = {.header = {.page_size = PAGE, .count = count}};
	uint64_t offset = f.header.contents_offset = PGS__SORTED_HEADER_SIZE + count * ENTRY;
	for (size_t i = 0; i < count; i++) {
		bool tombstone = i % 7 == 6;
		pgs__sorted_entry entry = {.id = id_at(i), .birth = i};
		entry.length = tombstone ? 0 : (uint32_t)(i * 97 % PAGE + 1);
		entry.offset = tombstone ? PGS__TOMBSTONE : offset;
		offset += entry.length;
		pgs__sorted_entry_encode(&entry, pgs__buffer_extend(&f.table, ENTRY));
	}
	f.header.file_size = offset;
	f.header.table_check = pgs__check64(f.table.data, f.table.size);
	return f;
}

static pgs_slice table_of(const file *f)
{
	return pgs__buffer_slice(&f->table);
}

static int decode_header(pgs_slice bytes)
{
	pgs__sorted_header header;
	assert_int_equal(bytes.size, PGS__SORTED_HEADER_SIZE);
	return pgs__sorted_header_decode(bytes.data, &header);
}

static int decode_header_bytes(const uint8_t *bytes)
{
	return decode_exact(decode_header, bytes, PGS__SORTED_HEADER_SIZE);
}

static int header_result(const pgs__sorted_header *header)
{
	uint8_t bytes[PGS__SORTED_HEADER_SIZE];
	pgs__sorted_header_encode(header, bytes);
	return decode_header_bytes(bytes);
}

static void test_sorted_header__round_trips(void **state)
{
	(void)state;
	file f = make_file(100);
	uint8_t bytes[PGS__SORTED_HEADER_SIZE];
	pgs__sorted_header out;
	pgs__sorted_header_encode(&f.header, bytes);
	assert_int_equal(pgs__sorted_header_decode(bytes, &out), PGS_OK);
	assert_int_equal(out.page_size, PAGE);
	assert_int_equal(out.count, 100);
	assert_int_equal(out.contents_offset, f.header.contents_offset);
	assert_int_equal(out.file_size, f.header.file_size);
	assert_true(out.table_check == f.header.table_check);
	for (size_t bit = 0; bit < sizeof bytes * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(decode_header_bytes(bytes), PGS_ECORRUPT);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	pgs__buffer_free(&f.table);
}

/* Change one byte and make the header's check good again. */
static int header_with(size_t at, uint8_t value)
{
	uint8_t bytes[PGS__SORTED_HEADER_SIZE];
	file f = make_file(10);
	pgs__sorted_header_encode(&f.header, bytes);
	pgs__buffer_free(&f.table);
	bytes[at] = value;
	uint64_t check = pgs__check64(bytes, 56);
	for (int i = 0; i < 8; i++)
		bytes[56 + i] = (uint8_t)(check >> (8 * i));
	return decode_header_bytes(bytes);
}

static void test_sorted_header__fields_are_checked(void **state)
{
	(void)state;
	assert_int_equal(header_with(0, 'P'), PGS_OK);
	assert_int_equal(header_with(0, 'p'), PGS_ECORRUPT);
	assert_int_equal(header_with(3, 'X'), PGS_ECORRUPT); /* an index file */
	assert_int_equal(header_with(4, 0), PGS_ECORRUPT);
	assert_int_equal(header_with(4, 2), PGS_ECORRUPT); /* no filter */
	assert_int_equal(header_with(4, 3), PGS_EVERSION);
	assert_int_equal(header_with(5, 1), PGS_EVERSION);
	assert_int_equal(header_with(6, 1), PGS_ECORRUPT);
	assert_int_equal(header_with(8, 1), PGS_ECORRUPT);   /* page size 4097 */
	assert_int_equal(header_with(12, 65), PGS_ECORRUPT); /* slice */
	assert_int_equal(header_with(16, 11), PGS_ECORRUPT); /* count: the contents begin elsewhere */
	assert_int_equal(header_with(23, 255), PGS_ECORRUPT);
	assert_int_equal(header_with(24, 63), PGS_ECORRUPT);
	assert_int_equal(header_with(32, 0), PGS_ECORRUPT);
	assert_int_equal(header_with(47, 1), PGS_ECORRUPT);  /* file size */
}

static pgs__sorted_header header_of(uint64_t count, uint64_t file_size)
{
	return (pgs__sorted_header){.page_size = PAGE, .count = count,
		.contents_offset = PGS__SORTED_HEADER_SIZE + count * ENTRY, .file_size = file_size};
}

static void test_sorted_header__limits(void **state)
{
	(void)state;
	const uint64_t max = PGS__SORTED_FILE_MAX, overflowing = UINT64_MAX / ENTRY + 2;
	pgs__sorted_header good[] = {
		header_of(1, 100),
		header_of(1, max),
		header_of(PGS__SORTED_COUNT_MAX, max),
	};
	pgs__sorted_header bad[] = {
		header_of(0, 64),
		header_of(1, 99),
		header_of(1, max + 1),
		header_of(PGS__SORTED_COUNT_MAX + 1, max),
		header_of(overflowing, max),
		header_of(UINT64_MAX, max),
	};
	for (size_t i = 0; i < COUNT_OF(good); i++)
		assert_int_equal(header_result(&good[i]), PGS_OK);
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(header_result(&bad[i]), PGS_ECORRUPT);
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		good[0].page_size = size;
		assert_int_equal(header_result(&good[0]), PGS_OK);
	}
	good[0].page_size = 131072;
	assert_int_equal(header_result(&good[0]), PGS_ECORRUPT);
}

static void test_sorted_header__filter_sizes(void **state)
{
	(void)state;
	static const struct {
		uint64_t size;
		int result;
	} cases[] = {{64, PGS_OK}, {1 << 20, PGS_OK}, {(1 << 20) + 64, PGS_ECORRUPT}, {32, PGS_ECORRUPT},
		{65, PGS_ECORRUPT}, {8 << 20, PGS_ECORRUPT}};
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		pgs__sorted_header out, header = header_of(10, 20 << 20);
		uint8_t bytes[PGS__SORTED_HEADER_SIZE];
		header.filter_size = cases[i].size;
		header.contents_offset += header.filter_size + 8;
		assert_int_equal(header_result(&header), cases[i].result);
		header.file_size = header.contents_offset - 1; /* no room for it */
		assert_int_equal(header_result(&header), PGS_ECORRUPT);
		header.file_size++;
		pgs__sorted_header_encode(&header, bytes);
		assert_int_equal(bytes[4], 2);
		if (pgs__sorted_header_decode(bytes, &out) == PGS_OK)
			assert_int_equal(out.filter_size, cases[i].size);
	}
}

static void test_filter__has_its_ids_and_few_others(void **state)
{
	(void)state;
	static const size_t counts[] = {1, 100, 5000};
	for (size_t c = 0; c < COUNT_OF(counts); c++) {
		const size_t count = counts[c], size = pgs__filter_size_for(count);
		uint8_t *filter = calloc(1, size + PGS__FILTER_CHECK_SIZE);
		pgs__buffer table = {0};
		pgs__page_id id;
		for (size_t i = 0; i < 2 * count; i++) { /* every other one a tombstone */
			fill_pattern(id.bytes, sizeof id.bytes, (uint32_t)i);
			pgs__store_u32be(id.bytes, (uint32_t)i / 100);
			const pgs__sorted_entry entry = {id, 1000, i % 2 ? 0 : 100, 0};
			pgs__sorted_entry_encode(&entry, pgs__buffer_extend(&table, ENTRY));
		}
		pgs__sorted_filter_make(pgs__buffer_slice(&table), size, filter);
		assert_true(pgs__sorted_filter_check((pgs_slice){filter, size + PGS__FILTER_CHECK_SIZE}));
		size_t wrong = 0, moved = 0;
		for (size_t i = 0; i < 2 * count; i++) {
			pgs__sorted_entry entry;
			pgs__sorted_entry_decode(table.data + i * ENTRY, &entry);
			bool has = pgs__filter_may_have(filter, size, &entry.id);
			assert_true(has || i % 2);
			wrong += has && i % 2;
			pgs__store_u32be(entry.id.bytes, (uint32_t)i / 100 + 1); /* the same content in the next group */
			moved += pgs__filter_may_have(filter, size, &entry.id);
		}
		assert_true(wrong <= 2 + count / 500 && moved <= 2 + count / 250);
		filter[size / 2] ^= 1;
		assert_false(pgs__sorted_filter_check((pgs_slice){filter, size + PGS__FILTER_CHECK_SIZE}));
		assert_false(pgs__sorted_filter_check((pgs_slice){filter, 8}));
		pgs__buffer_free(&table);
		free(filter);
	}
}

static void test_sorted_entry__bytes(void **state)
{
	(void)state;
	pgs__sorted_entry entry = {{"0123456789abcdef"}, 0x0102030405060708, 0x0a0b0c0d, 0x1112131415161718}, out;
	uint8_t bytes[ENTRY];
	pgs__sorted_entry_encode(&entry, bytes);
	assert_memory_equal(bytes, "0123456789abcdef\x08\7\6\5\4\3\2\1\x0d\x0c\x0b\x0a\x18\x17\x16\x15\x14\x13\x12\x11", 36);
	pgs__sorted_entry_decode(bytes, &out);
	assert_true(pgs__page_id_equal(&out.id, &entry.id));
	assert_true(out.offset == entry.offset && out.length == entry.length && out.birth == entry.birth);
}

static int find(const file *f, const pgs__page_id *id, pgs__sorted_entry *out)
{
	return pgs__sorted_find(table_of(f), id, PAGE, f->header.contents_offset, f->header.file_size, out);
}

static void test_sorted_find__finds_each_and_nothing_else(void **state)
{
	(void)state;
	static const size_t counts[] = {1, 2, 3, 63, 64, 65, 200};
	for (size_t c = 0; c < COUNT_OF(counts); c++) {
		file f = make_file(counts[c]);
		pgs__sorted_entry out;
		for (size_t i = 0; i < counts[c]; i++) {
			pgs__page_id id = id_at(i);
			assert_int_equal(find(&f, &id, &out), PGS_OK);
			assert_int_equal(out.birth, i);
			assert_int_equal(out.offset > PGS__SORTED_FILE_MAX, i % 7 == 6);
			id.bytes[15] = 1; /* just above */
			assert_int_equal(find(&f, &id, &out), PGS_ENOTFOUND);
		}
		pgs__page_id below = {{0}}, above;
		memset(&above, 0xff, sizeof above);
		assert_int_equal(find(&f, &below, &out), PGS_ENOTFOUND);
		assert_int_equal(find(&f, &above, &out), PGS_ENOTFOUND);
		pgs__buffer_free(&f.table);
	}
	pgs__sorted_entry out;
	pgs__page_id id = id_at(0);
	assert_int_equal(pgs__sorted_find((pgs_slice){NULL, 0}, &id, PAGE, 64, 64, &out), PGS_ENOTFOUND);
}

static int find_one(uint64_t offset, uint32_t length)
{
	uint8_t bytes[ENTRY];
	pgs__sorted_entry entry = {.id = id_at(0), .offset = offset, .length = length}, out;
	pgs__sorted_entry_encode(&entry, bytes);
	return pgs__sorted_find((pgs_slice){bytes, ENTRY}, &entry.id, PAGE, 100, 10000, &out);
}

static void test_sorted_find__refuses_places_outside(void **state)
{
	(void)state;
	assert_int_equal(find_one(100, 1), PGS_OK);
	assert_int_equal(find_one(99, 1), PGS_ECORRUPT);
	assert_int_equal(find_one(100, PAGE), PGS_OK);
	assert_int_equal(find_one(100, PAGE + 1), PGS_ECORRUPT);
	assert_int_equal(find_one(9999, 1), PGS_OK);
	assert_int_equal(find_one(9999, 2), PGS_ECORRUPT);
	assert_int_equal(find_one(10000, 0), PGS_ECORRUPT);
	assert_int_equal(find_one(PGS__SORTED_FILE_MAX, 1), PGS_ECORRUPT);
	assert_int_equal(find_one(PGS__SORTED_FILE_MAX + 1, 0), PGS_OK); /* a tombstone */
	assert_int_equal(find_one(PGS__TOMBSTONE, 0), PGS_OK);
	assert_int_equal(find_one(PGS__TOMBSTONE, 1), PGS_ECORRUPT);
	file f = make_file(3);
	pgs__sorted_entry out;
	pgs__page_id id = id_at(0);
	assert_int_equal(pgs__sorted_find((pgs_slice){f.table.data, 3 * ENTRY - 1}, &id, PAGE, 0, 10000, &out), PGS_ECORRUPT);
	pgs__buffer_free(&f.table);
}

static void test_sorted_table__damage_is_found(void **state)
{
	(void)state;
	file f = make_file(20);
	assert_int_equal(pgs__sorted_table_check(table_of(&f), &f.header), PGS_OK);
	for (size_t bit = 0; bit < f.table.size * 8; bit++) {
		f.table.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(pgs__sorted_table_check(table_of(&f), &f.header), PGS_ECORRUPT);
		f.table.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(pgs__sorted_table_check((pgs_slice){f.table.data, 19 * ENTRY}, &f.header), PGS_ECORRUPT);
	f.header.page_size = 512; /* some contents are longer */
	assert_int_equal(pgs__sorted_table_check(table_of(&f), &f.header), PGS_ECORRUPT);
	pgs__buffer_free(&f.table);
}

/* Put `entry` at `index`, make the table's check good, and check. */
static int table_with(size_t index, void (*change)(pgs__sorted_entry *))
{
	file f = make_file(20);
	pgs__sorted_entry entry;
	uint8_t *at = f.table.data + index * ENTRY;
	pgs__sorted_entry_decode(at, &entry);
	change(&entry);
	pgs__sorted_entry_encode(&entry, at);
	f.header.table_check = pgs__check64(f.table.data, f.table.size);
	int result = pgs__sorted_table_check(table_of(&f), &f.header);
	pgs__buffer_free(&f.table);
	return result;
}

static void nothing(pgs__sorted_entry *e)
{
	(void)e;
}

static void id_of_the_next(pgs__sorted_entry *e)
{
	e->id = id_at(6);
}

static void id_above_the_next(pgs__sorted_entry *e)
{
	e->id = id_at(8);
}

static void a_gap(pgs__sorted_entry *e)
{
	e->offset++;
}

static void an_overlap(pgs__sorted_entry *e)
{
	e->offset--;
}

static void shorter(pgs__sorted_entry *e)
{
	e->length--;
}

static void longer(pgs__sorted_entry *e)
{
	e->length++;
}

static void a_tombstone(pgs__sorted_entry *e)
{
	e->offset = PGS__TOMBSTONE;
	e->length = 0;
}

static void test_sorted_table__order_and_gaps_are_checked(void **state)
{
	(void)state;
	assert_int_equal(table_with(5, nothing), PGS_OK);
	assert_int_equal(table_with(5, id_of_the_next), PGS_ECORRUPT);
	assert_int_equal(table_with(5, id_above_the_next), PGS_ECORRUPT);
	assert_int_equal(table_with(5, a_gap), PGS_ECORRUPT);
	assert_int_equal(table_with(5, an_overlap), PGS_ECORRUPT);
	assert_int_equal(table_with(0, an_overlap), PGS_ECORRUPT);
	assert_int_equal(table_with(5, shorter), PGS_ECORRUPT);
	assert_int_equal(table_with(5, longer), PGS_ECORRUPT);
	assert_int_equal(table_with(19, shorter), PGS_ECORRUPT);
	assert_int_equal(table_with(19, longer), PGS_ECORRUPT);
	assert_int_equal(table_with(5, a_tombstone), PGS_ECORRUPT); /* its bytes belong to nothing now */
	assert_int_equal(table_with(6, a_tombstone), PGS_OK);       /* it was one */
	assert_int_equal(table_with(6, longer), PGS_ECORRUPT);
}

static int decode_level(pgs_slice bytes)
{
	pgs__level_value value;
	return pgs__level_value_decode(bytes, &value);
}

static void test_level_value__table_or_fences(void **state)
{
	(void)state;
	static const size_t counts[] = {1, 64, 65, 128, 130};
	for (size_t c = 0; c < COUNT_OF(counts); c++) {
		file f = make_file(counts[c]);
		for (int whole = 0; whole < 2; whole++) {
			pgs__buffer b = {0};
			pgs__level_value out;
			pgs__level_value_encode(f.header.file_size, table_of(&f), 0, f.table.size - !whole, &b);
			assert_int_equal(pgs__level_value_decode(pgs__buffer_slice(&b), &out), PGS_OK);
			assert_int_equal(out.has_table, whole);
			assert_int_equal(out.count, counts[c]);
			assert_true(out.file_size == f.header.file_size);
			if (whole)
				assert_slice_equal(out.table, f.table.data, f.table.size);
			else
				assert_int_equal(out.fences.size, (counts[c] + 63) / 64 * PGS__FENCE_SIZE);
			if (counts[c] == 65)
				assert_damage_is_found(decode_level, pgs__buffer_slice(&b));
			assert_length_is_exact(decode_level, pgs__buffer_slice(&b));
			pgs__buffer_free(&b);
		}
		pgs__buffer_free(&f.table);
	}
}

static void test_level_value__the_largest_table_and_file(void **state)
{
	(void)state;
	const size_t most = PGS__LEVEL_TABLE_MAX / ENTRY;
	for (size_t count = most; count <= most + 1; count++) {
		file f = make_file(count);
		pgs__buffer b = {0};
		pgs__level_value out;
		pgs__level_value_encode(f.header.file_size, table_of(&f), 0, PGS__LEVEL_TABLE_MAX, &b);
		assert_int_equal(pgs__level_value_decode(pgs__buffer_slice(&b), &out), PGS_OK);
		assert_int_equal(out.has_table, count == most);
		pgs__buffer_free(&f.table);
		pgs__buffer_free(&b);
	}
}

static void test_level_value__with_a_filter(void **state)
{
	(void)state;
	file f = make_file(130);
	pgs__buffer b = {0};
	pgs__level_value out;
	pgs__level_value_encode(f.header.file_size + 1000, table_of(&f), 320, 0, &b);
	assert_int_equal(b.data[0], 3);
	assert_int_equal(pgs__level_value_decode(pgs__buffer_slice(&b), &out), PGS_OK);
	assert_false(out.has_table);
	assert_int_equal(out.filter_size, 320);
	assert_int_equal(out.contents_offset, 64 + 130 * ENTRY + 320 + 8);
	assert_int_equal(out.fences.size, 3 * PGS__FENCE_SIZE);
	assert_damage_is_found(decode_level, pgs__buffer_slice(&b));
	assert_length_is_exact(decode_level, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	pgs__level_value_encode(64 + 130 * ENTRY + 320 + 8 - 1, table_of(&f), 320, 0, &b); /* no room for it */
	assert_int_equal(decode_level(pgs__buffer_slice(&b)), PGS_ECORRUPT);
	pgs__buffer_free(&b);
	pgs__buffer_free(&f.table);
	assert_int_equal(pgs__sorted_filter_size(100, 3600), 0);
	assert_int_equal(pgs__sorted_filter_size(100, 3599), 256);
}

static void test_fences__lead_to_the_slice(void **state)
{
	(void)state;
	const size_t count = 200;
	file f = make_file(count);
	pgs__buffer b = {0};
	pgs__level_value value;
	pgs__level_value_encode(f.header.file_size, table_of(&f), 0, 0, &b);
	assert_int_equal(pgs__level_value_decode(pgs__buffer_slice(&b), &value), PGS_OK);
	pgs__page_id id = {{0}};
	assert_int_equal(pgs__fence_find(value.fences, &id), PGS_ENOTFOUND);
	for (size_t i = 0; i < count; i++) {
		id = id_at(i);
		assert_int_equal(pgs__fence_find(value.fences, &id), i / 64);
		id.bytes[15] = 1;
		assert_int_equal(pgs__fence_find(value.fences, &id), i / 64);
	}
	for (size_t slice = 0; slice < 4; slice++) {
		size_t size = slice < 3 ? 64 * ENTRY : (count - 192) * ENTRY;
		assert_true(pgs__fence_check(value.fences, slice) == pgs__check32(f.table.data + slice * 64 * ENTRY, size));
	}
	pgs__buffer_free(&f.table);
	pgs__buffer_free(&b);
}

/* A level value of `kind` with this size and count, and `rows` zero bytes. */
static int level_of(uint8_t kind, uint64_t file_size, uint64_t count, size_t rows)
{
	pgs__buffer b = {0};
	pgs__put_u8(&b, kind);
	pgs__put_varint(&b, file_size);
	pgs__put_varint(&b, count);
	if (rows > 0)
		memset(pgs__buffer_extend(&b, rows), 0, rows);
	int result = decode_sealed(decode_level, b.data, b.size);
	pgs__buffer_free(&b);
	return result;
}

static void test_level_value__hostile_ones_are_refused(void **state)
{
	(void)state;
	const uint64_t max = PGS__SORTED_FILE_MAX;
	assert_int_equal(level_of(2, 100, 1, 20), PGS_OK);
	assert_int_equal(level_of(2, max, 1, 20), PGS_OK);
	assert_int_equal(level_of(2, max + 1, 1, 20), PGS_ECORRUPT);
	assert_int_equal(level_of(2, 99, 1, 20), PGS_ECORRUPT);
	assert_int_equal(level_of(2, 100, 0, 0), PGS_ECORRUPT);
	assert_int_equal(level_of(2, max, 64, 20), PGS_OK);
	assert_int_equal(level_of(2, max, 65, 20), PGS_ECORRUPT);
	assert_int_equal(level_of(2, max, 65, 40), PGS_ECORRUPT); /* equal fences */
	assert_int_equal(level_of(2, max, UINT64_MAX, 20), PGS_ECORRUPT);
	assert_int_equal(level_of(2, max, UINT64_MAX / 36 + 1, 0), PGS_ECORRUPT);
	assert_int_equal(level_of(2, max, PGS__SORTED_COUNT_MAX + 1, 4097 * 20), PGS_ECORRUPT);
	assert_int_equal(level_of(1, max, 1, 36), PGS_ECORRUPT); /* a content of no bytes */
	assert_int_equal(level_of(0, 100, 1, 20), PGS_ECORRUPT);
	assert_int_equal(level_of(3, 100, 1, 20), PGS_ECORRUPT);
	assert_int_equal(level_of(4, 100, 1, 20), PGS_EVERSION);
	assert_int_equal(level_of(255, 0, 0, 0), PGS_EVERSION);
}

static void test_level_value__descending_ids_are_corrupt(void **state)
{
	(void)state;
	for (int whole = 0; whole < 2; whole++) {
		file f = make_file(130);
		pgs__sorted_entry low, high;
		uint8_t *first = f.table.data, *second = f.table.data + 64 * ENTRY;
		pgs__sorted_entry_decode(first, &low);
		pgs__sorted_entry_decode(second, &high);
		memcpy(first, high.id.bytes, PGS__ID_SIZE);
		memcpy(second, low.id.bytes, PGS__ID_SIZE);
		pgs__buffer b = {0};
		pgs__level_value_encode(f.header.file_size, table_of(&f), 0, whole ? f.table.size : 0, &b);
		assert_int_equal(decode_level(pgs__buffer_slice(&b)), PGS_ECORRUPT);
		pgs__buffer_free(&f.table);
		pgs__buffer_free(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sorted_header__round_trips),
		cmocka_unit_test(test_sorted_header__fields_are_checked),
		cmocka_unit_test(test_sorted_header__limits),
		cmocka_unit_test(test_sorted_header__filter_sizes),
		cmocka_unit_test(test_filter__has_its_ids_and_few_others),
		cmocka_unit_test(test_sorted_entry__bytes),
		cmocka_unit_test(test_sorted_find__finds_each_and_nothing_else),
		cmocka_unit_test(test_sorted_find__refuses_places_outside),
		cmocka_unit_test(test_sorted_table__damage_is_found),
		cmocka_unit_test(test_sorted_table__order_and_gaps_are_checked),
		cmocka_unit_test(test_level_value__table_or_fences),
		cmocka_unit_test(test_level_value__the_largest_table_and_file),
		cmocka_unit_test(test_level_value__with_a_filter),
		cmocka_unit_test(test_fences__lead_to_the_slice),
		cmocka_unit_test(test_level_value__hostile_ones_are_refused),
		cmocka_unit_test(test_level_value__descending_ids_are_corrupt),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
