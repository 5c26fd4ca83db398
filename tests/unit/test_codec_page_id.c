/* Seals and page ids, against xxHash's own streaming and canonical functions. */
#include "test_codec.h"

#include "codec/page_id.h"

/* Ours hash at once; the tests hash in pieces, and take xxHash's own byte order. */
#define XXH_INLINE_ALL
#include <xxhash.h>

static uint8_t page[PGS_PAGE_SIZE_MAX];
static uint8_t secret[PGS__SECRET_SIZE];

static int fill(void **state)
{
	(void)state;
	fill_pattern(page, sizeof page, 1);
	fill_pattern(secret, sizeof secret, 2);
	return 0;
}

static void streamed_hash(uint32_t page_size, uint8_t out[16])
{
	XXH3_state_t *xxh = XXH3_createState();
	assert_non_null(xxh);
	XXH3_128bits_reset_withSecret(xxh, secret, sizeof secret);
	for (uint32_t at = 0; at < page_size; at += 128)
		XXH3_128bits_update(xxh, page + at, 128);
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(xxh));
	memcpy(out, canonical.digest, 16);
	XXH3_freeState(xxh);
}

static void test_page_id__is_group_and_low_96_bits(void **state)
{
	(void)state;
	for (uint32_t size = PGS_PAGE_SIZE_MIN; size <= PGS_PAGE_SIZE_MAX; size *= 2) {
		uint8_t hash[16];
		streamed_hash(size, hash);
		uint64_t page_no = 5 * pgs__pages_per_group(size);
		pgs__page_id id = pgs__page_id_of(secret, page_no, page, size);
		assert_memory_equal(id.bytes, "\0\0\0\5", 4);
		assert_memory_equal(id.bytes + 4, hash + 4, 12);
		assert_int_equal(pgs__page_id_group(&id), 5);
	}
}

static void test_page_id__has_not_changed(void **state)
{
	(void)state;
	static const uint8_t expected[16] = {0x00, 0x00, 0x00, 0x03, 0xff, 0xee, 0xd3, 0xa9,
		0x76, 0x13, 0xae, 0x27, 0xa2, 0xb4, 0x1c, 0xb1};
	pgs__page_id id = pgs__page_id_of(secret, 1000, page, 4096);
	assert_memory_equal(id.bytes, expected, 16);
}

static void test_page_id__depends_on_all_it_should(void **state)
{
	(void)state;
	pgs__page_id id = pgs__page_id_of(secret, 7, page, 4096), other;
	other = pgs__page_id_of(secret, 255, page, 4096);
	assert_true(pgs__page_id_equal(&id, &other)); /* same group, same content: one id */
	other = pgs__page_id_of(secret, 256, page, 4096);
	assert_false(pgs__page_id_equal(&id, &other));
	assert_memory_equal(id.bytes + 4, other.bytes + 4, 12);
	for (size_t bit = 0; bit < 4096 * 8; bit += 37) {
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
		other = pgs__page_id_of(secret, 7, page, 4096);
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(pgs__page_id_equal(&id, &other));
	}
	for (size_t i = 0; i < sizeof secret; i++) {
		secret[i] ^= 1;
		other = pgs__page_id_of(secret, 7, page, 4096);
		secret[i] ^= 1;
		assert_false(pgs__page_id_equal(&id, &other));
	}
}

static void test_page_id__boundary_page_numbers(void **state)
{
	(void)state;
	static const struct {
		uint32_t page_size;
		uint64_t per_group, limit;
	} cases[] = {{512, 2048, UINT64_C(1) << 43}, {4096, 256, UINT64_C(1) << 40}, {65536, 16, UINT64_C(1) << 36}};
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		uint32_t size = cases[i].page_size;
		assert_int_equal(pgs__pages_per_group(size), cases[i].per_group);
		assert_int_equal(pgs__page_limit(size), cases[i].limit);
		assert_int_equal(pgs__page_group(cases[i].per_group - 1, size), 0);
		assert_int_equal(pgs__page_group(cases[i].per_group, size), 1);
		pgs__page_id id = pgs__page_id_of(secret, cases[i].limit - 1, page, size);
		assert_memory_equal(id.bytes, "\xff\xff\xff\xff", 4);
		assert_int_equal(pgs__page_id_group(&id), UINT32_MAX);
	}
}

static void test_page_size__powers_of_two_in_range(void **state)
{
	(void)state;
	static const uint32_t bad[] = {0, 1, 256, 511, 513, 4095, 4097, 12288, 65535, 65537, 131072, 1u << 31};
	for (uint32_t size = 512; size <= 65536; size *= 2)
		assert_true(pgs__page_size_ok(size));
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_false(pgs__page_size_ok(bad[i]));
}

static int unseal_only(pgs_slice bytes)
{
	return pgs__unseal(&bytes) ? PGS_OK : PGS_ECORRUPT;
}

static void test_seal__finds_damage_at_every_size(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 300};
	for (size_t i = 0; i < COUNT_OF(sizes); i++) {
		pgs__buffer b = {0};
		pgs__put_bytes(&b, page, sizes[i]);
		pgs__seal(&b, 0);
		assert_int_equal(b.size, sizes[i] + PGS__SEAL_SIZE);
		assert_damage_is_found(unseal_only, pgs__buffer_slice(&b));
		pgs__buffer_free(&b);
	}
}

static void test_seal__is_the_low_half_of_xxh3_little_endian(void **state)
{
	(void)state;
	XXH3_state_t *xxh = XXH3_createState();
	assert_non_null(xxh);
	XXH3_64bits_reset(xxh);
	XXH3_64bits_update(xxh, page, 40);
	XXH3_64bits_update(xxh, page + 40, 60);
	uint64_t hash = XXH3_64bits_digest(xxh);
	XXH3_freeState(xxh);
	assert_true(pgs__check64(page, 100) == hash);
	pgs__buffer b = {0};
	pgs__put_bytes(&b, "before", 6);
	pgs__put_bytes(&b, page, 100);
	pgs__seal(&b, 6);
	for (int i = 0; i < 4; i++)
		assert_int_equal(b.data[106 + i], hash >> (8 * i) & 0xff);
	pgs_slice value = {b.data + 6, b.size - 6};
	assert_true(pgs__unseal(&value));
	assert_slice_equal(value, page, 100);
	pgs__buffer_free(&b);
}

static void test_seal__leaves_a_bad_value_alone(void **state)
{
	(void)state;
	pgs_slice value = {"abcdefgh", 8};
	assert_false(pgs__unseal(&value));
	assert_int_equal(value.size, 8);
	value = (pgs_slice){NULL, 0};
	assert_false(pgs__unseal(&value));
	pgs__buffer failed = {.failed = true};
	pgs__seal(&failed, 0);
	assert_int_equal(failed.size, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_page_id__is_group_and_low_96_bits),
		cmocka_unit_test(test_page_id__has_not_changed),
		cmocka_unit_test(test_page_id__depends_on_all_it_should),
		cmocka_unit_test(test_page_id__boundary_page_numbers),
		cmocka_unit_test(test_page_size__powers_of_two_in_range),
		cmocka_unit_test(test_seal__finds_damage_at_every_size),
		cmocka_unit_test(test_seal__is_the_low_half_of_xxh3_little_endian),
		cmocka_unit_test(test_seal__leaves_a_bad_value_alone),
	};
	return cmocka_run_group_tests(tests, fill, NULL);
}
