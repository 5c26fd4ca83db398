/* What the tests of lib/codec share: damage of every kind, and sealed bytes made by hand. */
#ifndef TEST_CODEC_H
#define TEST_CODEC_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pagestore.h>

#include "codec/seal.h"
#include "util/alloc.h"
#include "util/cursor.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

typedef int (*decoder)(pgs_slice bytes);

/* Decode from memory of exactly that size, so that the address sanitizer sees a read past the end. */
static inline int decode_exact(decoder decode, const void *bytes, size_t size)
{
	uint8_t *copy = pgs__malloc(size);
	assert_non_null(copy);
	if (size > 0)
		memcpy(copy, bytes, size);
	int result = decode((pgs_slice){copy, size});
	pgs__free(copy);
	return result;
}

/* Decode `bytes` with a good seal put behind them: what a hostile writer would store. */
static inline int decode_sealed(decoder decode, const void *bytes, size_t size)
{
	pgs__buffer b = {0};
	pgs__put_bytes(&b, bytes, size);
	pgs__seal(&b, 0);
	int result = decode_exact(decode, b.data, b.size);
	pgs__buffer_free(&b);
	return result;
}

/* A sealed value decodes; cut anywhere, with any bit flipped, or with a byte behind it, it is corrupt. */
static inline void assert_damage_is_found(decoder decode, pgs_slice good)
{
	assert_int_equal(decode_exact(decode, good.data, good.size), PGS_OK);
	for (size_t cut = 0; cut < good.size; cut++)
		assert_int_equal(decode_exact(decode, good.data, cut), PGS_ECORRUPT);
	uint8_t *bad = pgs__malloc(good.size + 1);
	assert_non_null(bad);
	memcpy(bad, good.data, good.size);
	for (size_t bit = 0; bit < good.size * 8; bit++) {
		bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(decode_exact(decode, bad, good.size), PGS_ECORRUPT);
		bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	bad[good.size] = 0;
	assert_int_equal(decode_exact(decode, bad, good.size + 1), PGS_ECORRUPT);
	pgs__free(bad);
}

/* With a byte more or less under a good seal it is corrupt too. */
static inline void assert_length_is_exact(decoder decode, pgs_slice good)
{
	size_t body = good.size - PGS__SEAL_SIZE;
	uint8_t *longer = pgs__malloc(body + 1);
	assert_non_null(longer);
	memcpy(longer, good.data, body);
	longer[body] = 0;
	assert_int_equal(decode_sealed(decode, longer, body), PGS_OK);
	assert_int_equal(decode_sealed(decode, longer, body + 1), PGS_ECORRUPT);
	for (size_t cut = 0; cut < body; cut++)
		assert_int_equal(decode_sealed(decode, longer, cut), PGS_ECORRUPT);
	pgs__free(longer);
}

static inline void assert_slice_equal(pgs_slice slice, const void *bytes, size_t size)
{
	assert_int_equal(slice.size, size);
	if (size > 0)
		assert_memory_equal(slice.data, bytes, size);
}

static inline pgs_slice text(const char *s)
{
	return (pgs_slice){s, strlen(s)};
}

/* Bytes that look random and never change. */
static inline void fill_pattern(void *out, size_t size, uint32_t seed)
{
	uint8_t *bytes = out;
	for (size_t i = 0; i < size; i++) {
		seed = seed * 1664525u + 1013904223u;
		bytes[i] = (uint8_t)(seed >> 24);
	}
}

#endif
