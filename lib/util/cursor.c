/* Bounds-checked reading and building of byte strings. */
#include "util/cursor.h"

#include <stdint.h>

#include <pagestore/error.h>

#include "util/alloc.h"

/* The next `size` bytes, or NULL and failed. */
static const uint8_t *take(pgs__reader *r, size_t size)
{
	if (r->failed || r->size - r->offset < size) {
		r->failed = true;
		return NULL;
	}
	const uint8_t *at = r->data + r->offset;
	r->offset += size;
	return at;
}

static uint64_t take_little(pgs__reader *r, size_t size)
{
	const uint8_t *at = take(r, size);
	uint64_t value = 0;
	for (size_t i = 0; at && i < size; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

uint8_t pgs__read_u8(pgs__reader *r)
{
	return (uint8_t)take_little(r, 1);
}

uint16_t pgs__read_u16(pgs__reader *r)
{
	return (uint16_t)take_little(r, 2);
}

uint32_t pgs__read_u32(pgs__reader *r)
{
	return (uint32_t)take_little(r, 4);
}

uint64_t pgs__read_u64(pgs__reader *r)
{
	return take_little(r, 8);
}

uint32_t pgs__read_u32be(pgs__reader *r)
{
	const uint8_t *at = take(r, 4);
	return at ? pgs__load_u32be(at) : 0;
}

uint64_t pgs__read_u64be(pgs__reader *r)
{
	const uint8_t *at = take(r, 8);
	return at ? pgs__load_u64be(at) : 0;
}

uint64_t pgs__read_varint(pgs__reader *r)
{
	uint64_t value = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		const uint8_t *at = take(r, 1);
		if (!at)
			return 0;
		uint64_t bits = *at & 0x7f;
		if ((shift == 63 && bits > 1) || (shift > 0 && *at == 0))
			break; /* past 64 bits, or an overlong form */
		value |= bits << shift;
		if (!(*at & 0x80))
			return value;
	}
	r->failed = true;
	return 0;
}

void pgs__read_bytes(pgs__reader *r, void *out, size_t size)
{
	const uint8_t *at = take(r, size);
	if (size == 0)
		return;
	if (at)
		memcpy(out, at, size);
	else
		memset(out, 0, size);
}

pgs_slice pgs__read_slice(pgs__reader *r, size_t size)
{
	const uint8_t *at = take(r, size);
	return (pgs_slice){at, at ? size : 0};
}

#define BUFFER_MIN 128 /* most values need no more, and so one allocation */

void *pgs__buffer_extend(pgs__buffer *b, size_t size)
{
	size_t need = b->size + size < BUFFER_MIN ? BUFFER_MIN : b->size + size;
	if (b->failed || size > SIZE_MAX - b->size || pgs__grow(&b->data, &b->capacity, need, 1) != PGS_OK) {
		b->failed = true;
		return NULL;
	}
	void *at = b->data + b->size;
	b->size += size;
	return at;
}

void pgs__buffer_free(pgs__buffer *b)
{
	pgs__free(b->data);
	*b = (pgs__buffer){0};
}

static void put_little(pgs__buffer *b, uint64_t value, size_t size)
{
	uint8_t *at = pgs__buffer_extend(b, size);
	for (size_t i = 0; at && i < size; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

void pgs__put_u8(pgs__buffer *b, uint8_t value)
{
	put_little(b, value, 1);
}

void pgs__put_u16(pgs__buffer *b, uint16_t value)
{
	put_little(b, value, 2);
}

void pgs__put_u32(pgs__buffer *b, uint32_t value)
{
	put_little(b, value, 4);
}

void pgs__put_u64(pgs__buffer *b, uint64_t value)
{
	put_little(b, value, 8);
}

void pgs__put_u32be(pgs__buffer *b, uint32_t value)
{
	uint8_t *at = pgs__buffer_extend(b, 4);
	if (at)
		pgs__store_u32be(at, value);
}

void pgs__put_u64be(pgs__buffer *b, uint64_t value)
{
	uint8_t *at = pgs__buffer_extend(b, 8);
	if (at)
		pgs__store_u64be(at, value);
}

void pgs__put_varint(pgs__buffer *b, uint64_t value)
{
	while (value >= 0x80) {
		pgs__put_u8(b, (uint8_t)(value | 0x80));
		value >>= 7;
	}
	pgs__put_u8(b, (uint8_t)value);
}

void pgs__put_bytes(pgs__buffer *b, const void *data, size_t size)
{
	void *at = size ? pgs__buffer_extend(b, size) : NULL;
	if (at)
		memcpy(at, data, size);
}
