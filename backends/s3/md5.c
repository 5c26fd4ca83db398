/* MD5: see md5.h. */
#include "md5.h"

#include <string.h>

static const uint32_t sines[64] = {
	0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
	0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
	0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
	0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
	0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
	0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
	0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
	0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};

static inline uint32_t rotate(uint32_t value, unsigned by)
{
	return value << by | value >> (32 - by);
}

static inline uint32_t load(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Four steps of round `r` from step `i` on; each gives the next of a, b, c, d. Everything but the words is known when
 * it is compiled. */
#define STEP(f, a, b, c, d, r, i, by)                                                                                 \
	(a) += f(b, c, d) + sines[16 * (r) + (i)] + words[(first[r] + stride[r] * (i)) % 16];                         \
	(a) = (b) + rotate(a, by)
#define STEPS(f, r, i, s0, s1, s2, s3)                                                                                \
	STEP(f, a, b, c, d, r, i, s0);                                                                                \
	STEP(f, d, a, b, c, r, (i) + 1, s1);                                                                          \
	STEP(f, c, d, a, b, r, (i) + 2, s2);                                                                          \
	STEP(f, b, c, d, a, r, (i) + 3, s3)
#define ROUND(f, r, s0, s1, s2, s3)                                                                                   \
	STEPS(f, r, 0, s0, s1, s2, s3);                                                                               \
	STEPS(f, r, 4, s0, s1, s2, s3);                                                                               \
	STEPS(f, r, 8, s0, s1, s2, s3);                                                                               \
	STEPS(f, r, 12, s0, s1, s2, s3)
#define F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define G(x, y, z) (((x) & (z)) + (~(z) & (y)))
#define H(x, y, z) ((x) ^ (y) ^ (z))
#define I(x, y, z) ((y) ^ ((x) | ~(z)))

static void add_block(uint32_t state[4], const uint8_t block[64])
{
	static const unsigned first[4] = {0, 1, 5, 0}, stride[4] = {1, 5, 3, 7};
	uint32_t words[16], a = state[0], b = state[1], c = state[2], d = state[3];
	for (size_t i = 0; i < 16; i++)
		words[i] = load(block + 4 * i);
	ROUND(F, 0, 7, 12, 17, 22);
	ROUND(G, 1, 5, 9, 14, 20);
	ROUND(H, 2, 4, 11, 16, 23);
	ROUND(I, 3, 6, 10, 15, 21);
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
}

void pgs__md5_init(pgs__md5 *md5)
{
	*md5 = (pgs__md5){.state = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}};
}

void pgs__md5_update(pgs__md5 *md5, const void *data, size_t size)
{
	const uint8_t *bytes = data;
	size_t have = md5->size % 64;
	md5->size += size;
	if (have) {
		size_t take = size < 64 - have ? size : 64 - have;
		memcpy(md5->block + have, bytes, take);
		if (have + take < 64)
			return;
		add_block(md5->state, md5->block);
		bytes += take;
		size -= take;
	}
	for (; size >= 64; bytes += 64, size -= 64)
		add_block(md5->state, bytes);
	if (size)
		memcpy(md5->block, bytes, size);
}

void pgs__md5_final(pgs__md5 *md5, uint8_t out[16])
{
	static const uint8_t padding[64] = {0x80};
	uint64_t bits = md5->size * 8;
	uint8_t length[8];
	for (unsigned i = 0; i < 8; i++)
		length[i] = (uint8_t)(bits >> (8 * i));
	pgs__md5_update(md5, padding, (md5->size % 64 < 56 ? 56 : 120) - md5->size % 64);
	pgs__md5_update(md5, length, sizeof length);
	for (unsigned i = 0; i < 16; i++)
		out[i] = (uint8_t)(md5->state[i / 4] >> (8 * (i % 4)));
}
