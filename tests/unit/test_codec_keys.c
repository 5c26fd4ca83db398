/* Keys: their bytes, their order, their ranges. */
#include "test_codec.h"

#include "codec/keys.h"

static const uint8_t prefix[8] = {0x80, 1, 2, 3, 4, 5, 6, 0xff};
static const uint8_t next_prefix[8] = {0x80, 1, 2, 3, 4, 5, 7, 0};
static const uint8_t last_prefix[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const char kinds[] = "paoclxksrd";

#define HEAD "\x80\1\2\3\4\5\6\xff"

static bool less(const pgs__key *a, const pgs__key *b)
{
	return pgs__slice_compare(pgs__key_slice(a), pgs__key_slice(b)) < 0;
}

static void assert_key(pgs__key key, const char *bytes, size_t size)
{
	assert_slice_equal(pgs__key_slice(&key), bytes, size);
}

static void test_keys__bytes(void **state)
{
	(void)state;
	pgs__page_id first = {{1}}, last = {{2}};
	assert_key(pgs__key_identity(), "i", 1);
	assert_key(pgs__key_name("led\0ger", 7), "n/led\0ger", 9);
	assert_key(pgs__key_single(prefix, 'm'), HEAD "/m", 10);
	assert_key(pgs__key_page(prefix, 0x0102030405060708), HEAD "/p/\1\2\3\4\5\6\7\x08", 19);
	assert_key(pgs__key_attr(prefix, "size", 4), HEAD "/a/size", 15);
	assert_key(pgs__key_uuid(prefix, 'x', (const uint8_t *)"0123456789abcdef"), HEAD "/x/0123456789abcdef", 27);
	assert_key(pgs__key_content(prefix, &first), HEAD "/c/\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 27);
	assert_key(pgs__key_level(prefix, 3, &first, &last, "s-1"),
		HEAD "/l/\3\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0s-1", 47);
	assert_key(pgs__key_lock(prefix, "w"), HEAD "/k/w", 12);
	assert_key(pgs__key_kind(prefix, 'p'), HEAD "/p/", 11);
	assert_key(pgs__key_kind_end(prefix, 'p'), HEAD "/p0", 11);
	assert_key(pgs__key_prefix_end(prefix), HEAD "0", 9);
}

static void test_keys__the_longest_fit(void **state)
{
	(void)state;
	char name[255], file[PGS__FILE_NAME_MAX + 1];
	memset(name, 'x', sizeof name);
	memset(file, 'f', sizeof file);
	file[PGS__FILE_NAME_MAX] = '\0';
	pgs__page_id id = {{0}};
	pgs__key keys[] = {pgs__key_name(name, 255), pgs__key_attr(prefix, name, 255),
		pgs__key_level(prefix, 255, &id, &id, file)};
	static const size_t sizes[] = {257, 266, 108};
	for (size_t i = 0; i < COUNT_OF(keys); i++) {
		assert_int_equal(keys[i].size, sizes[i]);
		pgs__key after = pgs__key_after(&keys[i]);
		assert_int_equal(after.size, sizes[i] + 1);
		assert_true(less(&keys[i], &after));
	}
}

static void test_keys__pages_sort_by_number(void **state)
{
	(void)state;
	static const uint64_t pages[] = {0, 1, 255, 256, 65535, 65536, UINT32_MAX, UINT64_C(1) << 32,
		(UINT64_C(1) << 36) - 1, (UINT64_C(1) << 43) - 1, UINT64_MAX};
	for (size_t i = 0; i < COUNT_OF(pages); i++) {
		pgs__key key = pgs__key_page(prefix, pages[i]);
		uint64_t page_no;
		assert_true(pgs__key_parse_page(pgs__key_slice(&key), &page_no));
		assert_true(page_no == pages[i]);
		if (i == 0)
			continue;
		pgs__key before = pgs__key_page(prefix, pages[i - 1]);
		assert_true(less(&before, &key));
		before = pgs__key_after(&before);
		assert_true(less(&before, &key));
	}
}

/* Some keys of every kind, the least and the greatest among them. */
static size_t sample_keys(const uint8_t *of, pgs__key *out)
{
	char name[255];
	uint8_t ones[16];
	pgs__page_id low = {{0}}, high;
	size_t n = 0;
	memset(name, 0xff, sizeof name);
	memset(ones, 0xff, sizeof ones);
	memset(&high, 0xff, sizeof high);
	for (const char *which = "mtgezv"; *which; which++)
		out[n++] = pgs__key_single(of, *which);
	out[n++] = pgs__key_page(of, 0);
	out[n++] = pgs__key_page(of, UINT64_MAX);
	out[n++] = pgs__key_attr(of, "\0", 1);
	out[n++] = pgs__key_attr(of, name, sizeof name);
	out[n++] = pgs__key_uuid(of, 'o', low.bytes);
	out[n++] = pgs__key_uuid(of, 'o', ones);
	out[n++] = pgs__key_uuid(of, 'x', low.bytes);
	out[n++] = pgs__key_uuid(of, 'x', ones);
	out[n++] = pgs__key_content(of, &low);
	out[n++] = pgs__key_content(of, &high);
	out[n++] = pgs__key_level(of, 0, &low, &low, "s-0");
	out[n++] = pgs__key_level(of, 255, &high, &high, "s-z");
	out[n++] = pgs__key_lock(of, "w");
	out[n++] = pgs__key_lock(of, "compact");
	out[n++] = pgs__key_snapshot(of, "\0", 1);
	out[n++] = pgs__key_snapshot(of, name, sizeof name);
	out[n++] = pgs__key_uuid(of, 'r', ones);
	out[n++] = pgs__key_unregistered(of, "i-0");
	return n;
}

static void test_keys__kind_ranges_cover_exactly_their_keys(void **state)
{
	(void)state;
	pgs__key keys[32];
	static const uint8_t *const prefixes[] = {prefix, last_prefix};
	for (size_t p = 0; p < COUNT_OF(prefixes); p++) {
		size_t n = sample_keys(prefixes[p], keys);
		for (const char *kind = kinds; *kind; kind++) {
			pgs__key from = pgs__key_kind(prefixes[p], *kind), end = pgs__key_kind_end(prefixes[p], *kind);
			assert_true(less(&from, &end));
			for (size_t i = 0; i < n; i++) {
				pgs_slice tail;
				bool inside = !less(&keys[i], &from) && less(&keys[i], &end);
				bool is_kind = keys[i].size > 10 && keys[i].bytes[9] == (uint8_t)*kind;
				assert_int_equal(inside, is_kind);
				assert_int_equal(pgs__key_tail(pgs__key_slice(&keys[i]), *kind, &tail), is_kind);
			}
		}
	}
}

static void test_keys__databases_keep_apart(void **state)
{
	(void)state;
	pgs__key keys[32], name;
	static const uint8_t *const prefixes[] = {prefix, next_prefix, last_prefix};
	for (size_t p = 0; p < COUNT_OF(prefixes); p++) {
		size_t n = sample_keys(prefixes[p], keys);
		for (size_t q = 0; q < COUNT_OF(prefixes); q++) {
			pgs__key from = {PGS__PREFIX_SIZE, {0}}, end = pgs__key_prefix_end(prefixes[q]);
			memcpy(from.bytes, prefixes[q], PGS__PREFIX_SIZE);
			for (size_t i = 0; i < n; i++)
				assert_int_equal(!less(&keys[i], &from) && less(&keys[i], &end), p == q);
		}
	}
	/* A name may be any bytes; its key still sorts below every prefix, and i below all. */
	pgs__key least = {PGS__PREFIX_SIZE, {0x80}}, identity = pgs__key_identity();
	name = pgs__key_name("\xff\xff\xff\xff/p/\xff", 8);
	assert_true(less(&name, &least));
	assert_true(less(&identity, &name));
}

static void test_keys__tail_refuses_what_is_not_the_kind(void **state)
{
	(void)state;
	pgs_slice tail;
	assert_true(pgs__key_tail((pgs_slice){HEAD "/a/x", 12}, 'a', &tail));
	assert_slice_equal(tail, "x", 1);
	assert_true(pgs__key_tail((pgs_slice){HEAD "/a/", 11}, 'a', &tail));
	assert_int_equal(tail.size, 0);
	assert_false(pgs__key_tail((pgs_slice){HEAD "/a", 10}, 'a', &tail));
	assert_false(pgs__key_tail((pgs_slice){HEAD "/a0", 11}, 'a', &tail));
	assert_false(pgs__key_tail((pgs_slice){HEAD "0a/", 11}, 'a', &tail));
	assert_false(pgs__key_tail((pgs_slice){HEAD "/b/x", 12}, 'a', &tail));
	assert_false(pgs__key_tail((pgs_slice){"\x7f\1\2\3\4\5\6\7/a/x", 12}, 'a', &tail));
	assert_false(pgs__key_tail((pgs_slice){NULL, 0}, 'a', &tail));
	uint64_t page_no;
	assert_false(pgs__key_parse_page((pgs_slice){HEAD "/p/1234567", 18}, &page_no));
	assert_false(pgs__key_parse_page((pgs_slice){HEAD "/p/123456789", 20}, &page_no));
	assert_false(pgs__key_parse_page((pgs_slice){HEAD "/a/12345678", 19}, &page_no));
}

static void test_keys__level_keys_parse(void **state)
{
	(void)state;
	pgs__page_id first = {{1, 2, 3}}, last = {{1, 2, 4}};
	char name[PGS__FILE_NAME_MAX + 1];
	pgs__level_key parsed;
	assert_int_equal(pgs__file_name_new(name, 's', 0x1234), PGS_OK);
	pgs__key key = pgs__key_level(prefix, 7, &first, &last, name);
	assert_true(pgs__key_parse_level(pgs__key_slice(&key), &parsed));
	assert_int_equal(parsed.level, 7);
	assert_true(pgs__page_id_equal(&parsed.first, &first));
	assert_true(pgs__page_id_equal(&parsed.last, &last));
	assert_string_equal(parsed.file_name, name);
	/* Every shorter form lacks something, or only has a shorter name. */
	for (size_t cut = 0; cut < key.size; cut++)
		assert_int_equal(pgs__key_parse_level((pgs_slice){key.bytes, cut}, &parsed), cut > 11 + 33);
	key = pgs__key_level(prefix, 7, &last, &first, name);
	assert_false(pgs__key_parse_level(pgs__key_slice(&key), &parsed));
	key = pgs__key_level(prefix, 7, &first, &first, "../escape");
	assert_false(pgs__key_parse_level(pgs__key_slice(&key), &parsed));
}

static void test_file_names__are_new_and_good(void **state)
{
	(void)state;
	char a[PGS__FILE_NAME_MAX + 1], b[PGS__FILE_NAME_MAX + 1], blob[PGS__BLOB_NAME_SIZE];
	assert_int_equal(pgs__file_name_new(a, 'i', UINT64_C(0x00abcdef01234567)), PGS_OK);
	assert_int_equal(pgs__file_name_new(b, 'i', UINT64_C(0x00abcdef01234567)), PGS_OK);
	assert_string_not_equal(a, b);
	assert_int_equal(strlen(a), 51);
	assert_memory_equal(a, "i-00abcdef01234567-", 19);
	assert_true(pgs__file_name_ok(text(a)));
	pgs__blob_name(blob, prefix, "s-1");
	assert_string_equal(blob, "80010203040506ff/s-1");
	memset(a, 'z', PGS__FILE_NAME_MAX);
	a[PGS__FILE_NAME_MAX] = '\0';
	pgs__blob_name(blob, last_prefix, a);
	assert_int_equal(strlen(blob), PGS__BLOB_NAME_SIZE - 1);
}

static void test_file_names__bad_ones_are_refused(void **state)
{
	(void)state;
	static const char *const bad[] = {"", ".", "..", "a/b", "a.b", "A", "a b", "a\n", "\xc3\xa4", "a_b", "%2e"};
	char name[PGS__FILE_NAME_MAX + 2];
	memset(name, 'a', sizeof name);
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_false(pgs__file_name_ok(text(bad[i])));
	assert_false(pgs__file_name_ok((pgs_slice){"a\0b", 3}));
	assert_true(pgs__file_name_ok((pgs_slice){name, PGS__FILE_NAME_MAX}));
	assert_false(pgs__file_name_ok((pgs_slice){name, PGS__FILE_NAME_MAX + 1}));
}

static void test_file_names__parse_as_made(void **state)
{
	(void)state;
	char name[PGS__FILE_NAME_MAX + 1];
	pgs__file_name parsed;
	assert_int_equal(pgs__file_name_new(name, 'i', UINT64_C(0x00abcdef01234567)), PGS_OK);
	assert_true(pgs__file_name_parse(text(name), &parsed));
	assert_int_equal(parsed.kind, 'i');
	assert_int_equal(parsed.base_revision, UINT64_C(0x00abcdef01234567));
	for (size_t cut = 0; cut < strlen(name); cut++)
		assert_false(pgs__file_name_parse((pgs_slice){name, cut}, &parsed));
	for (size_t at = 0; at < strlen(name); at++) {
		char bad[PGS__FILE_NAME_MAX + 1];
		strcpy(bad, name);
		bad[at] = 'G';
		assert_false(pgs__file_name_parse(text(bad), &parsed));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys__bytes),
		cmocka_unit_test(test_keys__the_longest_fit),
		cmocka_unit_test(test_keys__pages_sort_by_number),
		cmocka_unit_test(test_keys__kind_ranges_cover_exactly_their_keys),
		cmocka_unit_test(test_keys__databases_keep_apart),
		cmocka_unit_test(test_keys__tail_refuses_what_is_not_the_kind),
		cmocka_unit_test(test_keys__level_keys_parse),
		cmocka_unit_test(test_file_names__are_new_and_good),
		cmocka_unit_test(test_file_names__bad_ones_are_refused),
		cmocka_unit_test(test_file_names__parse_as_made),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
