/* Changelog entries and runs of pages. */
#include "test_codec.h"

#include "codec/changelog.h"

static int decode(pgs_slice bytes)
{
	pgs__change change;
	return pgs__change_decode(bytes, &change);
}

static int decode_runs_file(pgs_slice bytes)
{
	pgs_slice runs;
	return pgs__runs_file_decode(bytes, &runs);
}

/* Open and walk: what is inside a sealed value. */
static int walk_runs(pgs_slice bytes)
{
	pgs__runs_reader r;
	pgs__page_run run;
	int result = pgs__runs_open(bytes, &r);
	while (result == PGS_OK && pgs__runs_next(&r, &run))
		;
	return result == PGS_OK && r.reader.failed ? PGS_ECORRUPT : result;
}

static const pgs__page_run sample_runs[] = {{0, 1}, {2, 3}, {100, 200}, {UINT64_C(1) << 42, 1}};
#define SAMPLE_PAGES 205

static pgs__buffer encoded_runs(const pgs__page_run *runs, size_t count)
{
	pgs__buffer b = {0};
	pgs__runs_encode(runs, count, &b);
	assert_false(b.failed);
	return b;
}

static void test_runs__round_trip(void **state)
{
	(void)state;
	static const pgs__page_run whole = {0, UINT64_MAX}, last = {UINT64_MAX - 1, 1};
	static const struct {
		const pgs__page_run *runs;
		size_t count;
	} cases[] = {{NULL, 0}, {sample_runs, COUNT_OF(sample_runs)}, {&whole, 1}, {&last, 1}};
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		pgs__buffer b = encoded_runs(cases[i].runs, cases[i].count);
		pgs__runs_reader r;
		pgs__page_run run;
		assert_int_equal(pgs__runs_open(pgs__buffer_slice(&b), &r), PGS_OK);
		for (size_t j = 0; j < cases[i].count; j++) {
			assert_true(pgs__runs_next(&r, &run));
			assert_true(run.first == cases[i].runs[j].first && run.count == cases[i].runs[j].count);
		}
		assert_false(pgs__runs_next(&r, &run));
		assert_false(r.reader.failed);
		for (size_t cut = 0; cut < b.size; cut++)
			assert_int_equal(decode_exact(walk_runs, b.data, cut), PGS_ECORRUPT);
		pgs__buffer_free(&b);
	}
}

static void test_runs__malformed_ones_fail(void **state)
{
	(void)state;
#define MAX "\xff\xff\xff\xff\xff\xff\xff\xff\xff\1"
	static const struct {
		const char *bytes;
		size_t size;
	} bad[] = {
		{"", 0},
		{"\0x", 2},                   /* more than it says */
		{"\1\0\0x", 4},
		{"\2\0\0\0\0", 5},            /* the second touches the first */
		{MAX "\0\0", 12},             /* a hostile count */
		{"\2\0\0\1", 4},              /* two cannot be in three bytes */
		{"\1" MAX "\0", 12},          /* page past the end */
		{"\1\1\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1", 12}, /* past the end */
		{"\1\0" MAX, 12},
		{"\1\x80\0\0", 4},            /* overlong */
	};
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(decode_exact(walk_runs, bad[i].bytes, bad[i].size), PGS_ECORRUPT);
	assert_int_equal(decode_exact(walk_runs, "\2\0\0\1\0", 5), PGS_OK);
	assert_int_equal(decode_exact(walk_runs, "\1\0\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1", 12), PGS_OK);
}

static void test_runs_file__round_trips_and_refuses(void **state)
{
	(void)state;
	pgs__buffer runs = encoded_runs(sample_runs, COUNT_OF(sample_runs)), file = {0};
	pgs_slice out;
	pgs__runs_file_encode(pgs__buffer_slice(&runs), &file);
	assert_int_equal(pgs__runs_file_decode(pgs__buffer_slice(&file), &out), PGS_OK);
	assert_slice_equal(out, runs.data, runs.size);
	assert_damage_is_found(decode_runs_file, pgs__buffer_slice(&file));
	assert_length_is_exact(decode_runs_file, pgs__buffer_slice(&file));
	file.data[4] = 2;
	assert_int_equal(decode_sealed(decode_runs_file, file.data, file.size - 4), PGS_EVERSION);
	file.data[4] = 0;
	assert_int_equal(decode_sealed(decode_runs_file, file.data, file.size - 4), PGS_ECORRUPT);
	file.data[4] = 1;
	file.data[3] = 'X';
	assert_int_equal(decode_sealed(decode_runs_file, file.data, file.size - 4), PGS_ECORRUPT);
	pgs__buffer_free(&runs);
	pgs__buffer_free(&file);
}

static pgs__change sample(void)
{
	return (pgs__change){
		.kind = PGS__CHANGE_COMMIT,
		.digest = "digest-digest-d",
		.kv_bytes = 1234,
		.blob_bytes = UINT64_MAX,
		.base_revision = 77,
		.page_count = UINT64_C(1) << 43,
	};
}

static void assert_head_equal(const pgs__change *a, const pgs__change *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_memory_equal(a->digest, b->digest, 16);
	assert_true(a->kv_bytes == b->kv_bytes && a->blob_bytes == b->blob_bytes);
	assert_true(a->base_revision == b->base_revision && a->page_count == b->page_count);
	assert_true(a->truncated == b->truncated && a->truncated_to == b->truncated_to);
	assert_true(a->pages_written == b->pages_written);
	assert_int_equal(a->attr_count, b->attr_count);
	assert_int_equal(a->has_note, b->has_note);
	assert_true(pgs__slice_equal(a->note, b->note));
}

static void assert_attrs(const pgs__change *out, const pgs_slice *names, size_t count)
{
	pgs_slice rest = out->attr_bytes, name;
	for (size_t i = 0; i < count; i++) {
		assert_true(pgs__change_next_attr(&rest, &name));
		assert_slice_equal(name, names[i].data, names[i].size);
	}
	assert_false(pgs__change_next_attr(&rest, &name));
}

/* Encode, compare, and damage in every way. */
static void assert_round_trip(const pgs__change *change)
{
	pgs__buffer b = {0};
	pgs__change out;
	pgs__change_encode(change, &b);
	assert_false(b.failed);
	assert_int_equal(pgs__change_decode(pgs__buffer_slice(&b), &out), PGS_OK);
	assert_head_equal(change, &out);
	assert_attrs(&out, change->attrs, change->attr_count);
	assert_slice_equal(out.file_name, change->file_name.data, change->file_name.size);
	assert_true(out.file_size == change->file_size);
	if (change->runs.size > 0)
		assert_slice_equal(out.runs, change->runs.data, change->runs.size);
	assert_damage_is_found(decode, pgs__buffer_slice(&b));
	assert_length_is_exact(decode, pgs__buffer_slice(&b));
	pgs__buffer_free(&b);
}

static void test_change__round_trips(void **state)
{
	(void)state;
	char longest[255];
	memset(longest, 'n', sizeof longest);
	const pgs_slice attrs[] = {text("size"), text("root"), {longest, sizeof longest}, {"\0", 1}};
	pgs__buffer runs = encoded_runs(sample_runs, COUNT_OF(sample_runs));
	pgs__change change = sample();
	assert_round_trip(&change); /* nothing written: only an attribute, or a note */
	change.attrs = attrs;
	change.attr_count = COUNT_OF(attrs);
	change.truncated = true;
	assert_round_trip(&change);
	change.truncated_to = UINT64_MAX - 1;
	change.has_note = true; /* an empty note is not no note */
	assert_round_trip(&change);
	change.note = text("a note");
	change.runs = pgs__buffer_slice(&runs);
	change.pages_written = SAMPLE_PAGES;
	assert_round_trip(&change);
	change.kind = PGS__CHANGE_COMMIT_RUNS_IN_BLOB;
	change.runs = (pgs_slice){0};
	change.pages_written = UINT64_MAX;
	change.file_name = text("x-0000000000000001-0");
	change.file_size = 1u << 30;
	assert_round_trip(&change);
	change = (pgs__change){.kind = PGS__CHANGE_ABORTED};
	assert_round_trip(&change);
	pgs__buffer_free(&runs);
}

static void test_change__bytes_are_where_the_picture_says(void **state)
{
	(void)state;
	pgs__change change = sample();
	pgs__buffer b = {0};
	pgs__change_encode(&change, &b);
	assert_int_equal(b.data[0], 1);
	assert_memory_equal(b.data + 1, change.digest, 16);
	assert_memory_equal(b.data + 17, "\xd2\4\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 16);
	assert_memory_equal(b.data + 33, "\x4d\x80\x80\x80\x80\x80\x80\x02\0\0\0\0\0", 13);
	assert_int_equal(b.size, 46 + PGS__SEAL_SIZE);
	pgs__buffer_free(&b);
}

static void test_change__kinds(void **state)
{
	(void)state;
	assert_int_equal(decode_sealed(decode, "", 0), PGS_ECORRUPT);
	assert_int_equal(decode_sealed(decode, "\0", 1), PGS_ECORRUPT);
	assert_int_equal(decode_sealed(decode, "\2", 1), PGS_OK);
	assert_int_equal(decode_sealed(decode, "\2\0", 2), PGS_ECORRUPT);
	assert_int_equal(decode_sealed(decode, "\4", 1), PGS_EVERSION);
	assert_int_equal(decode_sealed(decode, "\xff whatever", 10), PGS_EVERSION);
}

/* Decode kind `kind`, zeros as far as the page count, then `rest`. */
static int with_rest(uint8_t kind, const char *rest, size_t size)
{
	pgs__buffer b = {0};
	memset(pgs__buffer_extend(&b, 35), 0, 35);
	b.data[0] = kind;
	pgs__put_bytes(&b, rest, size);
	int result = decode_sealed(decode, b.data, b.size);
	pgs__buffer_free(&b);
	return result;
}

static void test_change__hostile_ones_are_corrupt(void **state)
{
	(void)state;
	char name[300];
	memset(name, 'n', sizeof name);
	memcpy(name, "\0\0\1\xff\1", 5); /* one name of 255 bytes, then no note and no runs */
	memcpy(name + 5 + 255, "\0\0", 2);
	assert_int_equal(with_rest(1, "\0\0\0\0\0", 5), PGS_OK);
	assert_int_equal(with_rest(1, name, 5 + 255 + 2), PGS_OK);
	memcpy(name, "\0\0\1\x80\2", 5); /* 256 bytes */
	memcpy(name + 5 + 256, "\0\0", 2);
	assert_int_equal(with_rest(1, name, 5 + 256 + 2), PGS_ECORRUPT);
	assert_int_equal(with_rest(1, "\0\0\1\0\0\0", 6), PGS_ECORRUPT);       /* a name of no bytes */
	assert_int_equal(with_rest(1, "\0\0" MAX "\0\0", 14), PGS_ECORRUPT);   /* so many names */
	assert_int_equal(with_rest(1, "\0\0\0" MAX "\0", 14), PGS_ECORRUPT);   /* so long a note */
	assert_int_equal(with_rest(1, "\0\0\0\3x\0", 6), PGS_ECORRUPT);        /* takes the runs */
	assert_int_equal(with_rest(1, "\0\0\0\0" MAX, 14), PGS_ECORRUPT);      /* so many runs */
	assert_int_equal(with_rest(1, "\0\2\0\0\1\0\1", 7), PGS_OK);           /* two written, two in runs */
	assert_int_equal(with_rest(1, "\0\3\0\0\1\0\1", 7), PGS_ECORRUPT);
	assert_int_equal(with_rest(1, "\0\0\0\0\1\0\1", 7), PGS_ECORRUPT);
	assert_int_equal(with_rest(3, "\0\0\0\0\1a\5", 7), PGS_OK);
	assert_int_equal(with_rest(3, "\0\0\0\0\0\5", 6), PGS_ECORRUPT);       /* no name */
	assert_int_equal(with_rest(3, "\0\0\0\0\1/\5", 7), PGS_ECORRUPT);      /* a path */
	assert_int_equal(with_rest(3, "\0\0\0\0\1a\5\0", 8), PGS_ECORRUPT);
	assert_int_equal(with_rest(3, "\0\0\0\0" MAX "a\5", 16), PGS_ECORRUPT);
}

static void test_change__file_names_at_their_limit(void **state)
{
	(void)state;
	char name[66];
	memset(name, 'a', sizeof name);
	for (size_t size = 64; size <= 65; size++) {
		pgs__change change = {.kind = PGS__CHANGE_COMMIT_RUNS_IN_BLOB, .file_name = {name, size}};
		pgs__buffer b = {0};
		pgs__change_encode(&change, &b);
		assert_int_equal(decode(pgs__buffer_slice(&b)), size == 64 ? PGS_OK : PGS_ECORRUPT);
		pgs__buffer_free(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_runs__round_trip),
		cmocka_unit_test(test_runs__malformed_ones_fail),
		cmocka_unit_test(test_runs_file__round_trips_and_refuses),
		cmocka_unit_test(test_change__round_trips),
		cmocka_unit_test(test_change__bytes_are_where_the_picture_says),
		cmocka_unit_test(test_change__kinds),
		cmocka_unit_test(test_change__hostile_ones_are_corrupt),
		cmocka_unit_test(test_change__file_names_at_their_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
