/* Base64. Encoding writes where the request is built, decoding where the response's bytes stay. */
#include "base64.h"

#include <pagestore/error.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char *put_group(char *out, uint32_t bits)
{
	out[0] = digits[bits >> 18];
	out[1] = digits[bits >> 12 & 63];
	out[2] = digits[bits >> 6 & 63];
	out[3] = digits[bits & 63];
	return out + 4;
}

/* The whole groups of three; returns how many bytes they were. */
static size_t put_groups(char **out, const uint8_t *in, size_t size)
{
	size_t whole = size - size % 3;
	char *at = *out;
	for (size_t i = 0; i < whole; i += 3)
		at = put_group(at, (uint32_t)in[i] << 16 | (uint32_t)in[i + 1] << 8 | in[i + 2]);
	*out = at;
	return whole;
}

/* The last one or two bytes. */
static void put_rest(char *out, const uint8_t *in, size_t size)
{
	if (size == 0)
		return;
	put_group(out, (uint32_t)in[0] << 16 | (size > 1 ? (uint32_t)in[1] << 8 : 0));
	out[3] = '=';
	if (size == 1)
		out[2] = '=';
}

void pgs__base64_put(pgs__buffer *out, pgs_slice first, pgs_slice second)
{
	size_t size = first.size + second.size;
	char *at = pgs__buffer_extend(out, (size + 2) / 3 * 4);
	if (!at || size == 0)
		return;
	const uint8_t *a = first.size ? first.data : (const uint8_t *)"";
	const uint8_t *b = second.size ? second.data : (const uint8_t *)"";
	uint8_t seam[3]; /* the group that has bytes of both */
	size_t done = put_groups(&at, a, first.size), used = first.size - done, taken = 0;
	for (size_t i = 0; i < used; i++)
		seam[i] = a[done + i];
	if (used > 0) {
		while (used < 3 && taken < second.size)
			seam[used++] = b[taken++];
		if (used < 3) {
			put_rest(at, seam, used);
			return;
		}
		put_groups(&at, seam, 3);
	}
	taken += put_groups(&at, b + taken, second.size - taken);
	put_rest(at, b + taken, second.size - taken);
}

/* Six bits; all bits of the number when it is no digit, which no digit hides. */
static uint32_t value_of(char c)
{
	static const uint8_t values[256] = {
		['A'] = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
		['a'] = 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50,
		51, 52,
		['0'] = 53, 54, 55, 56, 57, 58, 59, 60, 61, 62,
		['+'] = 63, ['/'] = 64,
	};
	return (uint32_t)values[(uint8_t)c] - 1;
}

int pgs__base64_decode(const char *text, size_t size, uint8_t *out, size_t *out_size)
{
	*out_size = 0;
	if (size == 0)
		return PGS_OK;
	if (size % 4)
		return PGS_ECORRUPT;
	size_t pads = text[size - 1] != '=' ? 0 : text[size - 2] != '=' ? 1 : 2;
	size_t whole = pads ? size - 4 : size;
	uint32_t seen = 0;
	uint8_t *at = out;
	for (size_t i = 0; i < whole; i += 4, at += 3) {
		uint32_t a = value_of(text[i]), b = value_of(text[i + 1]);
		uint32_t c = value_of(text[i + 2]), d = value_of(text[i + 3]);
		seen |= a | b | c | d;
		uint32_t bits = a << 18 | b << 12 | c << 6 | d;
		at[0] = (uint8_t)(bits >> 16);
		at[1] = (uint8_t)(bits >> 8);
		at[2] = (uint8_t)bits;
	}
	if (pads) {
		uint32_t a = value_of(text[whole]), b = value_of(text[whole + 1]);
		uint32_t c = pads == 1 ? value_of(text[whole + 2]) : 0;
		seen |= a | b | c;
		*at++ = (uint8_t)(a << 2 | b >> 4);
		if (pads == 1)
			*at++ = (uint8_t)(b << 4 | c >> 2);
	}
	*out_size = (size_t)(at - out);
	return seen > 63 ? PGS_ECORRUPT : PGS_OK;
}
