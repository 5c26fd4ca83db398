/* Pointers. */
#include "test_codec.h"

#include "codec/pointer.h"

#define GROUP 0x01020304

static pgs__page_id id_of(uint32_t seed)
{
	pgs__page_id id;
	fill_pattern(id.bytes, sizeof id.bytes, seed);
	pgs__store_u32be(id.bytes, GROUP);
	return id;
}

static int decode(pgs_slice bytes)
{
	pgs__pointer p;
	return pgs__pointer_decode(bytes, GROUP, &p);
}

static pgs__buffer encode(const pgs__pointer *p)
{
	pgs__buffer b = {0};
	pgs__pointer_encode(p, &b);
	assert_false(b.failed);
	return b;
}

static void assert_same(const pgs__pointer *a, const pgs__pointer *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->has_base, b->has_base);
	assert_true(a->folded_revision == b->folded_revision);
	if (a->kind != PGS__POINTER_ZERO)
		assert_true(pgs__page_id_equal(&a->id, &b->id));
	if (a->has_base)
		assert_true(pgs__page_id_equal(&a->base, &b->base));
	assert_int_equal(a->spent, b->spent);
	assert_true(pgs__slice_equal(a->delta, b->delta));
}

/* A folded pointer is sealed. Only the bit that says so is left to the hash of the content: without it a delta is
 * one of another page. */
static void assert_seal_covers(const pgs__buffer *b)
{
	for (size_t cut = 0; cut < b->size; cut++)
		assert_int_equal(decode_exact(decode, b->data, cut), PGS_ECORRUPT);
	for (size_t bit = 0; bit < b->size * 8; bit++) {
		if (bit == 4 && (b->data[0] & 7) == PGS__POINTER_DELTA)
			continue;
		b->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(decode_exact(decode, b->data, b->size), PGS_ECORRUPT);
		b->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static const uint64_t foldings[] = {0, 1, 127, 128, UINT32_MAX, UINT64_MAX};

static void test_pointer__round_trips(void **state)
{
	(void)state;
	pgs__pointer cases[] = {
		{.kind = PGS__POINTER_ZERO},
		{.kind = PGS__POINTER_FULL, .id = id_of(1)},
		{.kind = PGS__POINTER_DELTA, .id = id_of(2), .delta = text("x")},
		{.kind = PGS__POINTER_DELTA, .id = id_of(3), .has_base = true, .base = id_of(4), .delta = text("delta")},
		{.kind = PGS__POINTER_DELTA, .id = id_of(5), .has_base = true, .base = id_of(6), .spent = UINT32_MAX,
			.delta = text("d")},
	};
	static const size_t sizes[] = {1, 13, 14, 31, 31};
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		for (size_t f = 0; f < COUNT_OF(foldings); f++) {
			cases[i].folded_revision = foldings[f];
			pgs__buffer b = encode(&cases[i]);
			pgs__pointer p;
			assert_int_equal(pgs__pointer_decode(pgs__buffer_slice(&b), GROUP, &p), PGS_OK);
			assert_same(&cases[i], &p);
			if (foldings[f] == 0)
				assert_int_equal(b.size, sizes[i]);
			else
				assert_seal_covers(&b);
			pgs__buffer_free(&b);
		}
	}
}

static void test_pointer__group_comes_from_the_page(void **state)
{
	(void)state;
	pgs__pointer p = {.kind = PGS__POINTER_FULL, .id = id_of(1)}, out;
	pgs__buffer b = encode(&p);
	assert_int_equal(pgs__pointer_decode(pgs__buffer_slice(&b), 9, &out), PGS_OK);
	assert_int_equal(pgs__page_id_group(&out.id), 9);
	assert_memory_equal(out.id.bytes + 4, p.id.bytes + 4, 12);
	pgs__buffer_free(&b);
}

static void test_pointer__the_longest_delta(void **state)
{
	(void)state;
	static uint8_t delta[PGS_PAGE_SIZE_MAX + 1];
	pgs__pointer p = {.kind = PGS__POINTER_DELTA, .has_base = true, .folded_revision = UINT64_MAX, .spent = UINT32_MAX,
		.delta = {delta, PGS_PAGE_SIZE_MAX}};
	pgs__buffer b = encode(&p);
	assert_int_equal(b.size, pgs__pointer_size_max(PGS_PAGE_SIZE_MAX));
	assert_int_equal(decode(pgs__buffer_slice(&b)), PGS_OK);
	pgs__buffer_free(&b);
	p.delta.size++;
	b = encode(&p);
	assert_int_equal(decode(pgs__buffer_slice(&b)), PGS_ECORRUPT);
	pgs__buffer_free(&b);
}

static void test_pointer__malformed_ones_are_corrupt(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t size;
	} bad[] = {
		{"", 0},
		{"\0", 1},                           /* absent is never stored */
		{"\1\0", 2},                         /* zero, and more */
		{"\2" "123456789ab", 12},            /* full, a byte short */
		{"\2" "123456789abcd", 14},          /* full, a byte over */
		{"\3" "123456789abc", 13},           /* delta without a delta */
		{"\x0b" "123456789abc0123456789", 23}, /* base cut */
		{"\x0b" "123456789abc0123456789ab", 25}, /* base, nothing spent, no delta */
		{"\x0b" "123456789abc0123456789ab\0", 26}, /* base, no delta */
		{"\x0b" "123456789abc0123456789ab\x80\x80\x80\x80\x10" "d", 31}, /* spent 2^32 */
		{"\x09", 1},                         /* zero with base */
		{"\x0a" "123456789abc0123456789ab", 25}, /* full with base */
		{"\4" "123456789abc", 13},
		{"\7" "123456789abc", 13},
		{"\x21", 1},
		{"\x41", 1},
		{"\x81", 1},
		{"\x11\1", 2},                       /* folded without a seal */
	};
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(decode_exact(decode, bad[i].bytes, bad[i].size), PGS_ECORRUPT);
}

static void test_pointer__folded_forms_are_canonical(void **state)
{
	(void)state;
	assert_int_equal(decode_sealed(decode, "\x11\1", 2), PGS_OK);
	assert_int_equal(decode_sealed(decode, "\x11\0", 2), PGS_ECORRUPT);      /* folded at 0 is not folded */
	assert_int_equal(decode_sealed(decode, "\x11\x81\0", 3), PGS_ECORRUPT);  /* overlong */
	assert_int_equal(decode_sealed(decode, "\x11\x81", 2), PGS_ECORRUPT);    /* cut */
	assert_int_equal(decode_sealed(decode, "\x11", 1), PGS_ECORRUPT);
	assert_int_equal(decode_sealed(decode, "\x11\1\0", 3), PGS_ECORRUPT);    /* zero, and more */
	assert_int_equal(decode_sealed(decode, "\1", 1), PGS_ECORRUPT);          /* a seal on what is not folded */
}

/* A flipped bit of an unfolded pointer is caught, or leads to other content, whose hash will not be the id's. */
static void test_pointer__flips_never_go_unnoticed(void **state)
{
	(void)state;
	pgs__pointer cases[] = {
		{.kind = PGS__POINTER_ZERO},
		{.kind = PGS__POINTER_FULL, .id = id_of(1)},
		{.kind = PGS__POINTER_DELTA, .id = id_of(3), .has_base = true, .base = id_of(4), .delta = text("delta")},
	};
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		pgs__buffer b = encode(&cases[i]);
		for (size_t bit = 0; bit < b.size * 8; bit++) {
			pgs__pointer p;
			b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
			int result = pgs__pointer_decode(pgs__buffer_slice(&b), GROUP, &p);
			if (result == PGS_OK) {
				assert_int_not_equal(p.kind, PGS__POINTER_ZERO);
				assert_int_equal(p.folded_revision, 0);
				pgs__buffer again = encode(&p);
				assert_true(pgs__slice_equal(pgs__buffer_slice(&again), pgs__buffer_slice(&b)));
				pgs__buffer_free(&again);
			} else {
				assert_int_equal(result, PGS_ECORRUPT);
			}
			b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		pgs__buffer_free(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pointer__round_trips),
		cmocka_unit_test(test_pointer__group_comes_from_the_page),
		cmocka_unit_test(test_pointer__the_longest_delta),
		cmocka_unit_test(test_pointer__malformed_ones_are_corrupt),
		cmocka_unit_test(test_pointer__folded_forms_are_canonical),
		cmocka_unit_test(test_pointer__flips_never_go_unnoticed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
