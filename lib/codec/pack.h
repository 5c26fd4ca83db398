/* Packs: the pointers of one large commit under one key. And index files, which hold them when they are many.
 *
 * o/ value:
 *     u8 kind: 1 inline, 2 index file
 *     varint n, then n × (varint first page, varint page past the last; 0 = no end): ranges that became absent;
 *               they rise and never touch
 *     1: entries (below)      2: varint name size, file name, varint file size, varint count
 *     seal
 *
 * Entries: varint n, then n × (varint pages skipped since the last entry, varint pointer size, pointer). Pages rise
 * strictly. A page entry beats a range of the same pack.
 *
 * Index file, little endian:
 *      0   4  "PGSX"            4  u16 format version       6  u16 0
 *      8  u32 page size        12  u32 block count
 *     16  u64 pointer count    24  u64 block table offset (64)    32  u64 blocks offset
 *     40  u64 file size        48  u64 check64 of the block table 56  u64 check64 of bytes 0..55
 *     64  block count × (u64 first page, u64 last page, u64 offset, u32 length, u32 check32 of the block)   (32 bytes)
 *     then the blocks in that order without gaps, each: entries
 */
#ifndef PGS_CODEC_PACK_H
#define PGS_CODEC_PACK_H

#include <pagestore/error.h>

#include "codec/pointer.h"
#include "util/cursor.h"

typedef struct pgs__page_range {
	uint64_t first;
	uint64_t end; /* past the last; UINT64_MAX = no end */
} pgs__page_range;

/* Builds entries; feed pages in rising order. Start zeroed; `bytes` holds n-less entries until finished. */
typedef struct pgs__entries_writer {
	pgs__buffer bytes;
	uint64_t count;
	uint64_t next_page;
} pgs__entries_writer;
void pgs__entries_add(pgs__entries_writer *w, uint64_t page_no, pgs_slice pointer);

typedef struct pgs__entries_reader {
	pgs__reader reader;
	uint64_t left;
	uint64_t next_page;
} pgs__entries_reader;
int pgs__entries_open(pgs_slice entries, pgs__entries_reader *out); /* PGS_OK or PGS_ECORRUPT */
/* The next page and its still encoded pointer (borrowed); false at the end or when r->reader.failed. */
bool pgs__entries_next(pgs__entries_reader *r, uint64_t *page_no, pgs_slice *pointer);

typedef struct pgs__pack {
	bool in_file;
	size_t range_count;
	pgs_slice range_bytes;  /* decode: the encoded ranges, see pgs__pack_next_range() */
	pgs_slice entries;      /* inline: encoded entries, with their n */
	pgs_slice file_name;    /* in_file; borrowed */
	uint64_t file_size;
	uint64_t pointer_count;
} pgs__pack;

void pgs__pack_encode_inline(const pgs__page_range *ranges, size_t range_count, const pgs__entries_writer *entries,
			     pgs__buffer *out);
void pgs__pack_encode_file(const pgs__page_range *ranges, size_t range_count, const char *file_name,
			   uint64_t file_size, uint64_t pointer_count, pgs__buffer *out);

/* Checks everything. PGS_OK, PGS_ECORRUPT or PGS_EVERSION (unknown kind). */
int pgs__pack_decode(pgs_slice bytes, pgs__pack *out);

/* Walk the ranges: start with *rest = pack->range_bytes; false at the end. */
bool pgs__pack_next_range(pgs_slice *rest, pgs__page_range *range);

#define PGS__INDEX_HEADER_SIZE 64
#define PGS__INDEX_BLOCK_SIZE 32      /* of a block table row */
#define PGS__INDEX_BLOCK_ENTRIES 256  /* a writer ends a block at so many entries, or past 64 KiB */

typedef struct pgs__index_header {
	uint32_t page_size;
	uint32_t block_count;
	uint64_t pointer_count;
	uint64_t blocks_offset;
	uint64_t file_size;
	uint64_t table_check;
} pgs__index_header;

typedef struct pgs__index_block {
	uint64_t first_page;
	uint64_t last_page;
	uint64_t offset;
	uint32_t length;
	uint32_t check;
} pgs__index_block;

void pgs__index_header_encode(const pgs__index_header *header, uint8_t out[PGS__INDEX_HEADER_SIZE]);
int pgs__index_header_decode(const uint8_t in[PGS__INDEX_HEADER_SIZE], pgs__index_header *out);

void pgs__index_block_encode(const pgs__index_block *block, uint8_t out[PGS__INDEX_BLOCK_SIZE]);
/* Row `index` of a block table, unchecked; check the table with pgs__index_table_check() first. */
void pgs__index_block_decode(pgs_slice table, size_t index, pgs__index_block *out);
int pgs__index_table_check(pgs_slice table, const pgs__index_header *header); /* PGS_OK or PGS_ECORRUPT */

/* A block's bytes against its row: length, check, entries and their pointers, first and last page. PGS_OK or
 * PGS_ECORRUPT. */
int pgs__index_block_check(pgs_slice bytes, const pgs__index_block *block);

/* The row whose pages may include `page_no`: its index, or PGS_ENOTFOUND. */
int64_t pgs__index_table_find(pgs_slice table, uint64_t page_no);

/* A whole index file in memory, from entries fed in rising order. */
typedef struct pgs__index_writer {
	pgs__buffer blocks;      /* finished blocks */
	pgs__buffer table;       /* their rows, offsets relative to the first block */
	pgs__entries_writer current;
	uint64_t first_page, last_page; /* of the current block */
	uint64_t pointer_count;
} pgs__index_writer;
void pgs__index_add(pgs__index_writer *w, uint64_t page_no, pgs_slice pointer);
/* Append the file to `out`. PGS_OK or PGS_ENOMEM (any buffer failed on the way). */
int pgs__index_finish(pgs__index_writer *w, uint32_t page_size, pgs__buffer *out);
void pgs__index_writer_free(pgs__index_writer *w);

#endif
