/* Named snapshots' records and attributes. */
#include "test_codec.h"

#include "codec/snapshot_record.h"

static int decode(pgs_slice bytes)
{
	pgs__snapshot_record record;
	return pgs__snapshot_decode(bytes, &record);
}

static int decode_attrs_file(pgs_slice bytes)
{
	pgs_slice attrs;
	return pgs__attrs_file_decode(bytes, &attrs);
}

static int walk_attrs(pgs_slice bytes)
{
	pgs__attrs_reader r;
	pgs_slice name, value;
	int result = pgs__attrs_open(bytes, &r);
	while (result == PGS_OK && pgs__attrs_next(&r, &name, &value))
		;
	return result == PGS_OK && r.reader.failed ? PGS_ECORRUPT : result;
}

static pgs__buffer sample_attrs(void)
{
	pgs__attrs_writer w = {0};
	pgs__buffer out = {0};
	pgs__attrs_add(&w, text("empty"), (pgs_slice){0});
	pgs__attrs_add(&w, text("root"), text("17"));
	pgs__attrs_finish(&w, &out);
	assert_false(out.failed);
	pgs__buffer_free(&w.bytes);
	return out;
}

static const pgs__snapshot_file sample_files[] = {
	{0, 500, {"i-0001", 6}, 5000, 400},
	{500, 501, {"i-0002", 6}, 110, 1},
	{UINT64_C(1) << 40, (UINT64_C(1) << 40) + 2, {"i-0003", 6}, 120, 2},
};

static pgs__snapshot_record sample(void)
{
	return (pgs__snapshot_record){
		.revision = 300,
		.commit_revision = 299,
		.counter = UINT64_MAX,
		.page_count = UINT64_C(1) << 41,
		.created_ms = -1,
		.file_count = COUNT_OF(sample_files),
		.files = sample_files,
	};
}

static void assert_files(const pgs__snapshot_record *out, const pgs__snapshot_file *files, size_t count)
{
	pgs__snapshot_files_reader r = pgs__snapshot_files_open(out);
	pgs__snapshot_file file;
	for (size_t i = 0; i < count; i++) {
		assert_true(pgs__snapshot_next_file(&r, &file));
		assert_true(file.first == files[i].first && file.end == files[i].end);
		assert_slice_equal(file.name, files[i].name.data, files[i].name.size);
		assert_true(file.file_size == files[i].file_size && file.pointer_count == files[i].pointer_count);
	}
	assert_false(pgs__snapshot_next_file(&r, &file));
}

/* Encode, compare, and damage in every way. */
static void assert_round_trip(const pgs__snapshot_record *record)
{
	pgs__buffer b = {0};
	pgs__snapshot_record out;
	pgs__snapshot_encode(record, &b);
	assert_false(b.failed);
	assert_int_equal(pgs__snapshot_decode(pgs__buffer_slice(&b), &out), PGS_OK);
	assert_true(out.revision == record->revision && out.commit_revision == record->commit_revision);
	assert_true(out.counter == record->counter && out.page_count == record->page_count);
	assert_true(out.created_ms == record->created_ms && out.file_count == record->file_count);
	assert_files(&out, record->files, record->file_count);
	assert_int_equal(out.attrs_in_file, record->attrs_in_file);
	if (record->attrs_in_file)
		assert_slice_equal(out.attrs_name, record->attrs_name.data, record->attrs_name.size);
	else if (record->attrs.size)
		assert_slice_equal(out.attrs, record->attrs.data, record->attrs.size);
	else
		assert_slice_equal(out.attrs, "", 1);
	assert_true(out.attrs_size == record->attrs_size);
	assert_damage_is_found(decode, pgs__buffer_slice(&b));
	assert_length_is_exact(decode, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static void test_record__round_trip(void **state)
{
	(void)state;
	pgs__buffer attrs = sample_attrs();
	pgs__snapshot_record record = sample();
	assert_round_trip(&record);
	record.attrs = pgs__buffer_slice(&attrs);
	assert_round_trip(&record);
	record.attrs = (pgs_slice){0};
	record.attrs_in_file = true;
	record.attrs_name = text("a-0001");
	record.attrs_size = 70000;
	assert_round_trip(&record);
	record = (pgs__snapshot_record){.revision = 1, .commit_revision = 1};
	assert_round_trip(&record);
	pgs__buffer_free(&attrs);
}

static void test_record__kinds_it_does_not_know(void **state)
{
	(void)state;
	pgs__buffer b = {0};
	pgs__snapshot_record record = sample();
	pgs__snapshot_encode(&record, &b);
	b.data[0] = 3;
	assert_int_equal(decode_sealed(decode, b.data, b.size - PGS__SEAL_SIZE), PGS_EVERSION);
	b.data[0] = 0;
	assert_int_equal(decode_sealed(decode, b.data, b.size - PGS__SEAL_SIZE), PGS_ECORRUPT);
	pgs__buffer_free(&b);
}

/* kind, S, T, counter, page count, time; then files and attributes. */
#define HEAD "\1\5\4\0\x0a\0\0\0\0\0\0\0\0"
#define HEAD_SIZE 13

static void test_record__malformed_ones_fail(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t size;
		int result;
	} cases[] = {
		{HEAD "\0\0", HEAD_SIZE + 2, PGS_OK},
		{HEAD "\1\0\x0a\1a\x1e\x0a\0", HEAD_SIZE + 8, PGS_OK},
		{HEAD "\1\0\x0b\1a\x1e\x0a\0", HEAD_SIZE + 8, PGS_ECORRUPT},      /* past the page count */
		{HEAD "\1\0\x0a\1a\x1e\x0b\0", HEAD_SIZE + 8, PGS_ECORRUPT},      /* more pointers than pages */
		{HEAD "\1\0\x0a\1a\x1d\x0a\0", HEAD_SIZE + 8, PGS_ECORRUPT},      /* than fit the file */
		{HEAD "\1\0\x0a\1a\x1e\0\0", HEAD_SIZE + 8, PGS_ECORRUPT},        /* an empty file */
		{HEAD "\1\0\0\1a\x1e\0\0", HEAD_SIZE + 8, PGS_ECORRUPT},          /* of no pages */
		{HEAD "\1\0\x0a\1/\x1e\x0a\0", HEAD_SIZE + 8, PGS_ECORRUPT},      /* a path */
		{HEAD "\1\0\x0a\0\x1e\x0a\0", HEAD_SIZE + 7, PGS_ECORRUPT},       /* no name */
		{HEAD "\2\0\x0a\1a\x1e\x0a\0", HEAD_SIZE + 8, PGS_ECORRUPT},      /* fewer files than it says */
		{HEAD "\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\0", HEAD_SIZE + 11, PGS_ECORRUPT},
		{HEAD "\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\2\1a\x1e\1\0", HEAD_SIZE + 17, PGS_ECORRUPT},
		{HEAD "\0\1\1n\1v", HEAD_SIZE + 6, PGS_OK},
		{HEAD "\0\2\1n\1v", HEAD_SIZE + 6, PGS_ECORRUPT},
		{HEAD "\0\1\1n\1vx", HEAD_SIZE + 7, PGS_ECORRUPT},
		{"\1\5\0\0\x0a\0\0\0\0\0\0\0\0\0\0", HEAD_SIZE + 2, PGS_ECORRUPT}, /* T is 0 */
		{"\1\5\6\0\x0a\0\0\0\0\0\0\0\0\0\0", HEAD_SIZE + 2, PGS_ECORRUPT}, /* or above S */
		{"\2\5\4\0\x0a\0\0\0\0\0\0\0\0\0\1a\5", HEAD_SIZE + 4, PGS_OK},
		{"\2\5\4\0\x0a\0\0\0\0\0\0\0\0\0\1/\5", HEAD_SIZE + 4, PGS_ECORRUPT},
		{"\2\5\4\0\x0a\0\0\0\0\0\0\0\0\0\0\5", HEAD_SIZE + 3, PGS_ECORRUPT},
		{"\2\5\4\0\x0a\0\0\0\0\0\0\0\0\0\1a\5\0", HEAD_SIZE + 5, PGS_ECORRUPT},
	};
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		if (decode_sealed(decode, cases[i].bytes, cases[i].size) != cases[i].result)
			fail_msg("case %zu", i);
}

static void test_attrs__walk(void **state)
{
	(void)state;
	pgs__buffer b = sample_attrs();
	pgs__attrs_reader r;
	pgs_slice name, value;
	assert_int_equal(pgs__attrs_open(pgs__buffer_slice(&b), &r), PGS_OK);
	assert_true(pgs__attrs_next(&r, &name, &value));
	assert_slice_equal(name, "empty", 5);
	assert_int_equal(value.size, 0);
	assert_true(pgs__attrs_next(&r, &name, &value));
	assert_slice_equal(name, "root", 4);
	assert_slice_equal(value, "17", 2);
	assert_false(pgs__attrs_next(&r, &name, &value));
	assert_false(r.reader.failed);
	for (size_t cut = 0; cut < b.size; cut++)
		assert_int_equal(decode_exact(walk_attrs, b.data, cut), PGS_ECORRUPT);
	pgs__buffer_free(&b);
}

static void test_attrs__malformed_ones_fail(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t size;
	} bad[] = {
		{"\0x", 2},                                         /* more than it says */
		{"\1\0\0", 3},                                      /* no name */
		{"\2\1a\0\1a\0", 7},                                /* twice */
		{"\2\1b\0\1a\0", 7},                                /* falling */
		{"\1\2a\0", 4},                                     /* name past the end */
		{"\1\1a\1", 4},                                     /* value past the end */
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\1a\0", 13}, /* a hostile count */
		{"\1\1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", 13}, /* a hostile size */
	};
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(decode_exact(walk_attrs, bad[i].bytes, bad[i].size), PGS_ECORRUPT);
	assert_int_equal(decode_exact(walk_attrs, "\2\1a\0\1b\0", 7), PGS_OK);
}

static void test_attrs_file__round_trips_and_refuses(void **state)
{
	(void)state;
	pgs__buffer attrs = sample_attrs(), file = {0};
	pgs_slice out;
	pgs__attrs_file_encode(pgs__buffer_slice(&attrs), &file);
	assert_int_equal(pgs__attrs_file_decode(pgs__buffer_slice(&file), &out), PGS_OK);
	assert_slice_equal(out, attrs.data, attrs.size);
	assert_damage_is_found(decode_attrs_file, pgs__buffer_slice(&file));
	assert_length_is_exact(decode_attrs_file, pgs__buffer_slice(&file));
	file.data[4] = 2;
	assert_int_equal(decode_sealed(decode_attrs_file, file.data, file.size - 4), PGS_EVERSION);
	file.data[4] = 0;
	assert_int_equal(decode_sealed(decode_attrs_file, file.data, file.size - 4), PGS_ECORRUPT);
	file.data[4] = 1;
	file.data[3] = 'X';
	assert_int_equal(decode_sealed(decode_attrs_file, file.data, file.size - 4), PGS_ECORRUPT);
	pgs__buffer_free(&attrs);
	pgs__buffer_free(&file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record__round_trip),
		cmocka_unit_test(test_record__kinds_it_does_not_know),
		cmocka_unit_test(test_record__malformed_ones_fail),
		cmocka_unit_test(test_attrs__walk),
		cmocka_unit_test(test_attrs__malformed_ones_fail),
		cmocka_unit_test(test_attrs_file__round_trips_and_refuses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
