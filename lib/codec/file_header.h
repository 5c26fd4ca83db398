/* What the headers of sorted and index files have in common: 64 bytes, of which
 * these places never change, in whatever version:
 *
 *      0   4  magic             4  u16 format version       6  u16 0
 *     56  u64 check64 of bytes 0..55
 *
 * and in all versions so far the rest is
 *
 *      8  u32 page size        12  u32, the file's own      16  u64 count
 *     24  u64 table offset (64)                             32  u64 body offset: where the body begins
 *     40  u64 file size        48  u64 check64 of the table
 */
#ifndef PGS_CODEC_FILE_HEADER_H
#define PGS_CODEC_FILE_HEADER_H

#include <stdint.h>

#include <pagestore/error.h>

#define PGS__FILE_HEADER_SIZE 64

typedef struct pgs__file_header {
	uint16_t version;
	uint32_t page_size;
	uint32_t own;
	uint64_t count;
	uint64_t body_offset;
	uint64_t file_size;
	uint64_t table_check;
} pgs__file_header;

void pgs__file_header_encode(const char magic[4], const pgs__file_header *header, uint8_t out[PGS__FILE_HEADER_SIZE]);

/* Checks magic, check, version (1 to `newest`), page size and the fixed fields, not that counts and sizes fit each
 * other. PGS_OK, PGS_ECORRUPT or PGS_EVERSION. */
int pgs__file_header_decode(const char magic[4], uint16_t newest, const uint8_t in[PGS__FILE_HEADER_SIZE],
			    pgs__file_header *out);

/* Little-endian integers of `size` bytes at a fixed place. */
static inline void pgs__store_little(uint8_t *out, uint64_t value, int size)
{
	for (int i = 0; i < size; i++)
		out[i] = (uint8_t)(value >> (8 * i));
}

static inline uint64_t pgs__load_little(const uint8_t *in, int size)
{
	uint64_t value = 0;
	for (int i = 0; i < size; i++)
		value |= (uint64_t)in[i] << (8 * i);
	return value;
}

#endif
