/* Reading and building byte strings, bounds-checked.
 *
 * Decoders of stored bytes use a reader and nothing else: a read past the end
 * or a malformed number sets `failed` and gives zeros from then on, so that a
 * decoder may read a whole structure and look once. Encoders append to a
 * buffer, whose `failed` says that memory ran out.
 *
 * Integers are little endian unless the name says be. A varint is LEB128:
 * seven bits a byte, low bits first, at most ten bytes, no overlong forms.
 */
#ifndef PGS_UTIL_CURSOR_H
#define PGS_UTIL_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <pagestore/sys/slice.h>

typedef struct pgs__reader {
	const uint8_t *data;
	size_t size;
	size_t offset;
	bool failed;
} pgs__reader;

static inline pgs__reader pgs__reader_of(pgs_slice bytes)
{
	return (pgs__reader){(const uint8_t *)bytes.data, bytes.size, 0, false};
}

static inline size_t pgs__reader_left(const pgs__reader *r)
{
	return r->failed ? 0 : r->size - r->offset;
}

/* True when everything was read and nothing failed. */
static inline bool pgs__reader_done(const pgs__reader *r)
{
	return !r->failed && r->offset == r->size;
}

uint8_t pgs__read_u8(pgs__reader *r);
uint16_t pgs__read_u16(pgs__reader *r);
uint32_t pgs__read_u32(pgs__reader *r);
uint64_t pgs__read_u64(pgs__reader *r);
uint32_t pgs__read_u32be(pgs__reader *r);
uint64_t pgs__read_u64be(pgs__reader *r);
uint64_t pgs__read_varint(pgs__reader *r);
void pgs__read_bytes(pgs__reader *r, void *out, size_t size); /* zeros on failure */
pgs_slice pgs__read_slice(pgs__reader *r, size_t size);       /* borrowed; empty on failure */

typedef struct pgs__buffer {
	uint8_t *data;
	size_t size;
	size_t capacity;
	bool failed;
} pgs__buffer;

/* Room for `size` more bytes at the end, to be filled by the caller; NULL (and failed) when memory runs out. */
void *pgs__buffer_extend(pgs__buffer *b, size_t size);
void pgs__buffer_free(pgs__buffer *b);

static inline pgs_slice pgs__buffer_slice(const pgs__buffer *b)
{
	return (pgs_slice){b->data, b->size};
}

void pgs__put_u8(pgs__buffer *b, uint8_t value);
void pgs__put_u16(pgs__buffer *b, uint16_t value);
void pgs__put_u32(pgs__buffer *b, uint32_t value);
void pgs__put_u64(pgs__buffer *b, uint64_t value);
void pgs__put_u32be(pgs__buffer *b, uint32_t value);
void pgs__put_u64be(pgs__buffer *b, uint64_t value);
void pgs__put_varint(pgs__buffer *b, uint64_t value);
void pgs__put_bytes(pgs__buffer *b, const void *data, size_t size);

/* Integers at a fixed place. */
static inline void pgs__store_u64be(uint8_t *out, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		out[i] = (uint8_t)(value >> (56 - 8 * i));
}

static inline uint64_t pgs__load_u64be(const uint8_t *in)
{
	uint64_t value = 0;
	for (int i = 0; i < 8; i++)
		value = value << 8 | in[i];
	return value;
}

static inline void pgs__store_u32be(uint8_t *out, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(value >> (24 - 8 * i));
}

static inline uint32_t pgs__load_u32be(const uint8_t *in)
{
	return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

/* memcmp order, a prefix before the longer. */
static inline int pgs__slice_compare(pgs_slice a, pgs_slice b)
{
	size_t common = a.size < b.size ? a.size : b.size;
	int order = common ? memcmp(a.data, b.data, common) : 0;
	return order ? order : (a.size > b.size) - (a.size < b.size);
}

static inline bool pgs__slice_equal(pgs_slice a, pgs_slice b)
{
	return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

#endif
