/* Packs, entries, index files. */
#include "test_codec.h"

#include "codec/pack.h"

#define MAX "\xff\xff\xff\xff\xff\xff\xff\xff\xff\1"

static int decode(pgs_slice bytes)
{
	pgs__pack pack;
	return pgs__pack_decode(bytes, &pack);
}

static int walk_entries(pgs_slice bytes)
{
	pgs__entries_reader r;
	uint64_t page_no;
	pgs_slice pointer;
	int result = pgs__entries_open(bytes, &r);
	while (result == PGS_OK && pgs__entries_next(&r, &page_no, &pointer))
		;
	return result == PGS_OK && r.reader.failed ? PGS_ECORRUPT : result;
}

/* Pointers of different kinds and lengths. */
static pgs__buffer pointer_at(size_t i)
{
	static const uint8_t delta[300] = {1, 2, 3};
	pgs__pointer p = {.kind = (pgs__pointer_kind)(1 + i % 3)};
	fill_pattern(p.id.bytes + 4, 12, (uint32_t)i);
	if (p.kind == PGS__POINTER_DELTA)
		p.delta = (pgs_slice){delta, 1 + i % sizeof delta};
	pgs__buffer b = {0};
	pgs__pointer_encode(&p, &b);
	return b;
}

static void add(pgs__entries_writer *w, uint64_t page_no, size_t i)
{
	pgs__buffer b = pointer_at(i);
	pgs__entries_add(w, page_no, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static const uint64_t pages[] = {0, 1, 5, 6, 1000, UINT64_C(1) << 43, UINT64_MAX - 1};

static pgs__entries_writer sample_entries(void)
{
	pgs__entries_writer w = {0};
	for (size_t i = 0; i < COUNT_OF(pages); i++)
		add(&w, pages[i], i);
	return w;
}

static void assert_entries(pgs_slice entries)
{
	pgs__entries_reader r;
	uint64_t page_no;
	pgs_slice pointer;
	assert_int_equal(pgs__entries_open(entries, &r), PGS_OK);
	for (size_t i = 0; i < COUNT_OF(pages); i++) {
		assert_true(pgs__entries_next(&r, &page_no, &pointer));
		assert_true(page_no == pages[i]);
		pgs__buffer b = pointer_at(i);
		assert_slice_equal(pointer, b.data, b.size);
		pgs__buffer_free(&b);
	}
	assert_false(pgs__entries_next(&r, &page_no, &pointer));
	assert_false(r.reader.failed);
}

static const pgs__page_range ranges[] = {{0, 1}, {2, 10}, {500, UINT64_MAX - 1}};
static const pgs__page_range endless[] = {{7, 8}, {UINT64_MAX - 1, UINT64_MAX}};

static void assert_ranges(const pgs__pack *pack, const pgs__page_range *expected, size_t count)
{
	pgs_slice rest = pack->range_bytes;
	pgs__page_range range;
	assert_int_equal(pack->range_count, count);
	for (size_t i = 0; i < count; i++) {
		assert_true(pgs__pack_next_range(&rest, &range));
		assert_true(range.first == expected[i].first && range.end == expected[i].end);
	}
	assert_false(pgs__pack_next_range(&rest, &range));
}

static void test_pack__inline_round_trips(void **state)
{
	(void)state;
	pgs__entries_writer w = sample_entries();
	pgs__buffer b = {0};
	pgs__pack pack;
	pgs__pack_encode_inline(ranges, COUNT_OF(ranges), &w, &b);
	assert_int_equal(pgs__pack_decode(pgs__buffer_slice(&b), &pack), PGS_OK);
	assert_false(pack.in_file);
	assert_int_equal(pack.pointer_count, COUNT_OF(pages));
	assert_ranges(&pack, ranges, COUNT_OF(ranges));
	assert_entries(pack.entries);
	assert_damage_is_found(decode, pgs__buffer_slice(&b));
	assert_length_is_exact(decode, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
	pgs__buffer_free(&w.bytes);
}

static void test_pack__empty_and_ranges_only(void **state)
{
	(void)state;
	pgs__entries_writer none = {0};
	pgs__pack pack;
	for (size_t count = 0; count <= COUNT_OF(endless); count++) {
		pgs__buffer b = {0};
		pgs__pack_encode_inline(endless, count, &none, &b);
		assert_int_equal(pgs__pack_decode(pgs__buffer_slice(&b), &pack), PGS_OK);
		assert_int_equal(pack.pointer_count, 0);
		assert_ranges(&pack, endless, count);
		assert_length_is_exact(decode, pgs__buffer_slice(&b));
		pgs__buffer_free(&b);
	}
}

static void test_pack__file_round_trips(void **state)
{
	(void)state;
	pgs__buffer b = {0};
	pgs__pack pack;
	pgs__pack_encode_file(endless, COUNT_OF(endless), "i-0000000000000001-0", UINT64_MAX, 123456, &b);
	assert_int_equal(pgs__pack_decode(pgs__buffer_slice(&b), &pack), PGS_OK);
	assert_true(pack.in_file);
	assert_slice_equal(pack.file_name, "i-0000000000000001-0", 20);
	assert_true(pack.file_size == UINT64_MAX);
	assert_int_equal(pack.pointer_count, 123456);
	assert_ranges(&pack, endless, COUNT_OF(endless));
	assert_damage_is_found(decode, pgs__buffer_slice(&b));
	assert_length_is_exact(decode, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static void test_pack__hostile_ones_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t size;
		int expected;
	} cases[] = {
		{"\1\0\0", 3, PGS_OK},
		{"", 0, PGS_ECORRUPT},
		{"\0\0\0", 3, PGS_ECORRUPT},
		{"\3\0\0", 3, PGS_EVERSION},
		{"\xff", 1, PGS_EVERSION},
		{"\1\1\5\6\0", 5, PGS_OK},
		{"\1\1\5\5\0", 5, PGS_ECORRUPT},             /* an empty range */
		{"\1\1\6\5\0", 5, PGS_ECORRUPT},             /* backwards */
		{"\1\2\1\3\4\5\0", 7, PGS_OK},
		{"\1\2\1\3\3\5\0", 7, PGS_ECORRUPT},         /* they touch */
		{"\1\2\1\3\2\5\0", 7, PGS_ECORRUPT},         /* overlap */
		{"\1\2\4\5\1\2\0", 7, PGS_ECORRUPT},         /* fall */
		{"\1\2\4\0\5\6\0", 7, PGS_ECORRUPT},         /* after one without end */
		{"\1\1\5" MAX "\0", 14, PGS_ECORRUPT},       /* no end has one form */
		{"\1" MAX "\0\0", 13, PGS_ECORRUPT},         /* so many ranges */
		{"\1\3\1\2\4\5", 6, PGS_ECORRUPT},
		{"\1\0\1\0\1\1", 6, PGS_OK},
		{"\1\0" MAX "\0\1\1", 15, PGS_ECORRUPT},     /* so many entries */
		{"\1\0\2\0\1\1", 6, PGS_ECORRUPT},
		{"\1\0\1\0\0", 5, PGS_ECORRUPT},             /* a pointer of no bytes */
		{"\1\0\1\0\2\1", 6, PGS_ECORRUPT},           /* longer than what is left */
		{"\1\0\1\0" MAX "\1", 15, PGS_ECORRUPT},
		{"\1\0\1\0\1\2", 6, PGS_ECORRUPT},           /* a malformed pointer */
		{"\1\0\1\0\1\1\1", 7, PGS_ECORRUPT},         /* something behind */
		{"\1\0\1" MAX "\1\1", 15, PGS_ECORRUPT},     /* page past the end */
		{"\1\0\2\1\1\1\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1\1\1", 18, PGS_ECORRUPT},
		{"\2\0\1a\x1e\x0a", 6, PGS_OK},
		{"\2\0\1a\x1e\x0b", 6, PGS_ECORRUPT},        /* 11 pointers in 30 bytes */
		{"\2\0\0\x1e\x0a", 5, PGS_ECORRUPT},         /* no name */
		{"\2\0\1.\x1e\x0a", 6, PGS_ECORRUPT},
		{"\2\0" MAX "a\x1e\x0a", 15, PGS_ECORRUPT},
		{"\2\0\1a\x1e\x0a\0", 7, PGS_ECORRUPT},
	};
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		assert_int_equal(decode_sealed(decode, cases[i].bytes, cases[i].size), cases[i].expected);
}

static void test_entries__cut_ones_fail(void **state)
{
	(void)state;
	pgs__entries_writer w = sample_entries();
	pgs__buffer b = {0};
	pgs__put_varint(&b, w.count);
	pgs__put_bytes(&b, w.bytes.data, w.bytes.size);
	assert_int_equal(walk_entries(pgs__buffer_slice(&b)), PGS_OK);
	for (size_t cut = 0; cut < b.size; cut++)
		assert_int_equal(decode_exact(walk_entries, b.data, cut), PGS_ECORRUPT);
	pgs__buffer_free(&b);
	pgs__buffer_free(&w.bytes);
}

/* ---- index files ---- */

static pgs__buffer make_index(size_t count, uint64_t step, uint32_t page_size)
{
	pgs__index_writer w = {0};
	pgs__buffer file = {0};
	for (size_t i = 0; i < count; i++) {
		pgs__buffer b = pointer_at(i);
		pgs__index_add(&w, i * step, pgs__buffer_slice(&b));
		pgs__buffer_free(&b);
	}
	assert_int_equal(pgs__index_finish(&w, page_size, &file), PGS_OK);
	pgs__index_writer_free(&w);
	return file;
}

static pgs_slice table_in(const pgs__buffer *file, const pgs__index_header *h)
{
	return (pgs_slice){file->data + PGS__INDEX_HEADER_SIZE, (size_t)h->block_count * PGS__INDEX_BLOCK_SIZE};
}

static pgs_slice block_in(const pgs__buffer *file, const pgs__index_block *block)
{
	return (pgs_slice){file->data + block->offset, block->length};
}

static void test_index__holds_every_page(void **state)
{
	(void)state;
	static const size_t counts[] = {0, 1, 256, 257, 1000};
	for (size_t c = 0; c < COUNT_OF(counts); c++) {
		pgs__buffer file = make_index(counts[c], 3, 4096);
		pgs__index_header h;
		pgs__index_block block;
		assert_int_equal(pgs__index_header_decode(file.data, &h), PGS_OK);
		assert_int_equal(h.page_size, 4096);
		assert_int_equal(h.pointer_count, counts[c]);
		assert_int_equal(h.block_count, (counts[c] + 255) / 256);
		assert_int_equal(h.file_size, file.size);
		pgs_slice table = table_in(&file, &h), pointer;
		assert_int_equal(pgs__index_table_check(table, &h), PGS_OK);
		uint64_t next = 0, page_no;
		for (uint32_t i = 0; i < h.block_count; i++) {
			pgs__entries_reader r;
			pgs__index_block_decode(table, i, &block);
			assert_int_equal(pgs__index_block_check(block_in(&file, &block), &block), PGS_OK);
			assert_int_equal(pgs__entries_open(block_in(&file, &block), &r), PGS_OK);
			while (pgs__entries_next(&r, &page_no, &pointer)) {
				pgs__buffer b = pointer_at((size_t)next);
				assert_int_equal(page_no, 3 * next++);
				assert_slice_equal(pointer, b.data, b.size);
				assert_int_equal(pgs__index_table_find(table, page_no), i);
				pgs__buffer_free(&b);
			}
		}
		assert_int_equal(next, counts[c]);
		pgs__buffer_free(&file);
	}
}

static void test_index__blocks_end_at_their_size(void **state)
{
	(void)state;
	static uint8_t delta[5000];
	pgs__index_writer w = {0};
	pgs__buffer file = {0};
	pgs__pointer p = {.kind = PGS__POINTER_DELTA, .delta = {delta, sizeof delta}};
	pgs__index_header h;
	pgs__buffer b = {0};
	pgs__pointer_encode(&p, &b);
	for (uint64_t i = 0; i < 30; i++)
		pgs__index_add(&w, i, pgs__buffer_slice(&b));
	assert_int_equal(pgs__index_finish(&w, 65536, &file), PGS_OK);
	assert_int_equal(pgs__index_header_decode(file.data, &h), PGS_OK);
	assert_int_equal(h.block_count, 3); /* 14 × 5 kB pass 64 KiB */
	assert_int_equal(pgs__index_table_check(table_in(&file, &h), &h), PGS_OK);
	pgs__index_writer_free(&w);
	pgs__buffer_free(&file);
	pgs__buffer_free(&b);
}

static void test_index__find_in_gaps(void **state)
{
	(void)state;
	pgs__buffer file = make_index(600, 10, 512);
	pgs__index_header h;
	assert_int_equal(pgs__index_header_decode(file.data, &h), PGS_OK);
	pgs_slice table = table_in(&file, &h);
	assert_int_equal(pgs__index_table_find(table, 5), 0); /* may include: inside the block's pages */
	assert_int_equal(pgs__index_table_find(table, 2550), 0);
	assert_int_equal(pgs__index_table_find(table, 2555), PGS_ENOTFOUND); /* between blocks */
	assert_int_equal(pgs__index_table_find(table, 2560), 1);
	assert_int_equal(pgs__index_table_find(table, 5990), 2);
	assert_int_equal(pgs__index_table_find(table, 5991), PGS_ENOTFOUND);
	assert_int_equal(pgs__index_table_find(table, UINT64_MAX), PGS_ENOTFOUND);
	assert_int_equal(pgs__index_table_find((pgs_slice){NULL, 0}, 0), PGS_ENOTFOUND);
	pgs__buffer_free(&file);
}

/* The whole file: header, table, every block. */
static int read_index(pgs_slice file)
{
	pgs__index_header h;
	pgs__index_block block;
	const uint8_t *bytes = file.data;
	if (file.size < PGS__INDEX_HEADER_SIZE)
		return PGS_ECORRUPT;
	int result = pgs__index_header_decode(bytes, &h);
	if (result != PGS_OK)
		return result;
	if (h.file_size != file.size)
		return PGS_ECORRUPT;
	pgs_slice table = {bytes + PGS__INDEX_HEADER_SIZE, (size_t)(h.blocks_offset - PGS__INDEX_HEADER_SIZE)};
	result = pgs__index_table_check(table, &h);
	for (size_t i = 0; result == PGS_OK && i < h.block_count; i++) {
		pgs__index_block_decode(table, i, &block);
		result = pgs__index_block_check((pgs_slice){bytes + block.offset, block.length}, &block);
	}
	return result;
}

static void test_index__damage_is_found(void **state)
{
	(void)state;
	pgs__buffer file = make_index(3, 7, 4096);
	assert_damage_is_found(read_index, pgs__buffer_slice(&file));
	pgs__buffer_free(&file);
}

static void test_index__headers_are_checked(void **state)
{
	(void)state;
	const pgs__index_header good = {.page_size = 512, .block_count = 2, .pointer_count = 2, .blocks_offset = 128,
		.file_size = 136};
	static const struct {
		uint32_t page_size, block_count;
		uint64_t pointer_count, blocks_offset, file_size;
	} bad[] = {
		{513, 2, 2, 128, 136},
		{512, 1, 2, 128, 136},          /* the blocks begin elsewhere */
		{512, 2, 1, 128, 136},          /* an empty block */
		{512, 2, 3, 128, 136},          /* three pointers in eight bytes */
		{512, 2, UINT64_MAX, 128, 136},
		{512, 2, 2, 128, 127},
		{512, 0, 0, 64, 65},            /* bytes of nothing */
		{512, UINT32_MAX, 2, 128, 136},
	};
	uint8_t bytes[PGS__INDEX_HEADER_SIZE];
	pgs__index_header h;
	pgs__index_header_encode(&good, bytes);
	assert_int_equal(pgs__index_header_decode(bytes, &h), PGS_OK);
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		h = (pgs__index_header){bad[i].page_size, bad[i].block_count, bad[i].pointer_count,
			bad[i].blocks_offset, bad[i].file_size, 0};
		pgs__index_header_encode(&h, bytes);
		assert_int_equal(pgs__index_header_decode(bytes, &h), PGS_ECORRUPT);
	}
	pgs__index_header_encode(&good, bytes);
	bytes[4] = 2;
	uint64_t check = pgs__check64(bytes, 56);
	for (int i = 0; i < 8; i++)
		bytes[56 + i] = (uint8_t)(check >> (8 * i));
	assert_int_equal(pgs__index_header_decode(bytes, &h), PGS_EVERSION);
}

/* Check a table of two rows, whose blocks are `a` and `b`, for a file of 512-byte pages ending at `file_size`. */
static int table_of(pgs__index_block a, pgs__index_block b, uint64_t file_size)
{
	uint8_t table[2 * PGS__INDEX_BLOCK_SIZE];
	pgs__index_block_encode(&a, table);
	pgs__index_block_encode(&b, table + PGS__INDEX_BLOCK_SIZE);
	pgs__index_header h = {.page_size = 512, .block_count = 2, .pointer_count = 2, .blocks_offset = 128,
		.file_size = file_size, .table_check = pgs__check64(table, sizeof table)};
	return pgs__index_table_check((pgs_slice){table, sizeof table}, &h);
}

static void test_index__tables_are_checked(void **state)
{
	(void)state;
	const uint64_t last = (UINT64_C(1) << 43) - 1;
	const pgs__index_block a = {5, 9, 128, 10, 0}, b = {10, 20, 138, 10, 0};
	assert_int_equal(table_of(a, b, 148), PGS_OK);
	assert_int_equal(table_of(a, (pgs__index_block){10, last, 138, 10, 0}, 148), PGS_OK);
	assert_int_equal(table_of(a, (pgs__index_block){10, last + 1, 138, 10, 0}, 148), PGS_ECORRUPT);
	assert_int_equal(table_of(a, (pgs__index_block){10, UINT64_MAX, 138, 10, 0}, 148), PGS_ECORRUPT);
	assert_int_equal(table_of(a, (pgs__index_block){9, 20, 138, 10, 0}, 148), PGS_ECORRUPT);  /* overlap */
	assert_int_equal(table_of(a, (pgs__index_block){1, 2, 138, 10, 0}, 148), PGS_ECORRUPT);   /* fall */
	assert_int_equal(table_of(a, (pgs__index_block){20, 10, 138, 10, 0}, 148), PGS_ECORRUPT); /* backwards */
	assert_int_equal(table_of(a, (pgs__index_block){10, 20, 139, 9, 0}, 148), PGS_ECORRUPT);  /* a gap */
	assert_int_equal(table_of(a, (pgs__index_block){10, 20, 137, 11, 0}, 148), PGS_ECORRUPT);
	assert_int_equal(table_of(a, (pgs__index_block){10, 20, 138, 11, 0}, 148), PGS_ECORRUPT);
	assert_int_equal(table_of(a, b, 149), PGS_ECORRUPT);
	assert_int_equal(table_of(a, (pgs__index_block){10, 20, 138, 3, 0}, 141), PGS_ECORRUPT);  /* too short to be */
	assert_int_equal(table_of((pgs__index_block){5, 9, 128, UINT32_MAX, 0}, b, 148), PGS_ECORRUPT);
}

static void test_index__blocks_are_checked_against_their_row(void **state)
{
	(void)state;
	static const char bytes[] = "\2\5\1\1\0\1\1"; /* pages 5 and 6, zero */
	pgs_slice block = {bytes, 7};
	pgs__index_block row = {5, 6, 0, 7, pgs__check32(bytes, 7)};
	assert_int_equal(pgs__index_block_check(block, &row), PGS_OK);
	row.first_page = 4;
	assert_int_equal(pgs__index_block_check(block, &row), PGS_ECORRUPT);
	row.first_page = 5;
	row.last_page = 7;
	assert_int_equal(pgs__index_block_check(block, &row), PGS_ECORRUPT);
	row.last_page = 6;
	row.check++;
	assert_int_equal(pgs__index_block_check(block, &row), PGS_ECORRUPT);
	row.check--;
	row.length++;
	assert_int_equal(pgs__index_block_check(block, &row), PGS_ECORRUPT);
	row = (pgs__index_block){0, 0, 0, 1, pgs__check32("\0", 1)}; /* no entries */
	assert_int_equal(pgs__index_block_check((pgs_slice){"\0", 1}, &row), PGS_ECORRUPT);
}

/* ---- out of memory ---- */

static size_t allowed;

static void *failing_realloc(void *ctx, void *ptr, size_t size)
{
	(void)ctx;
	return allowed > 0 ? allowed--, realloc(ptr, size) : NULL;
}

static void *failing_alloc(void *ctx, size_t size)
{
	return failing_realloc(ctx, NULL, size);
}

static void plain_free(void *ctx, void *ptr)
{
	(void)ctx;
	free(ptr);
}

static void test_index__says_when_memory_runs_out(void **state)
{
	(void)state;
	static const pgs_allocator failing = {failing_alloc, failing_realloc, plain_free, NULL};
	int result = PGS_ENOMEM;
	pgs_set_allocator(&failing);
	for (size_t n = 0; n < 1000 && result == PGS_ENOMEM; n++) {
		pgs__index_writer w = {0};
		pgs__buffer file = {0};
		allowed = n;
		for (uint64_t i = 0; i < 600; i++)
			pgs__index_add(&w, i, (pgs_slice){"\1", 1});
		result = pgs__index_finish(&w, 512, &file);
		if (result == PGS_OK)
			result = read_index(pgs__buffer_slice(&file));
		pgs__index_writer_free(&w);
		pgs__buffer_free(&file);
	}
	pgs_set_allocator(NULL);
	assert_int_equal(result, PGS_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pack__inline_round_trips),
		cmocka_unit_test(test_pack__empty_and_ranges_only),
		cmocka_unit_test(test_pack__file_round_trips),
		cmocka_unit_test(test_pack__hostile_ones_are_refused),
		cmocka_unit_test(test_entries__cut_ones_fail),
		cmocka_unit_test(test_index__holds_every_page),
		cmocka_unit_test(test_index__blocks_end_at_their_size),
		cmocka_unit_test(test_index__find_in_gaps),
		cmocka_unit_test(test_index__damage_is_found),
		cmocka_unit_test(test_index__headers_are_checked),
		cmocka_unit_test(test_index__tables_are_checked),
		cmocka_unit_test(test_index__blocks_are_checked_against_their_row),
		cmocka_unit_test(test_index__says_when_memory_runs_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
