/* Sorted files: contents of pages in the order of their ids. And the values of the l/ keys that register them.
 *
 * File, little endian:
 *      0   4  "PGSF"            4  u16 version: 1 without,  6  u16 0
 *                                  2 with a filter
 *      8  u32 page size        12  u32 entries per slice (64)
 *     16  u64 entry count      24  u64 table offset (64)    32  u64 contents offset
 *     40  u64 file size        48  u64 check64 of the table 56  u64 check64 of bytes 0..55
 *     64  count × entry: 16 id, u64 offset in the file, u32 length, u64 birth   (36 bytes, ids rising)
 *     version 2: the filter (codec/filter.h), a multiple of 64 bytes, and u64 check64 of it
 *     from the contents offset on the contents in table order without gaps: a page raw when its length is the page
 *     size, else a zstd frame
 *
 * The size of the filter is what is left between the table and the contents. Files whose whole table is in the l/ value
 * need none, and have version 1; writers give one to those with fences.
 *
 * A file has at least one entry. An offset above PGS__SORTED_FILE_MAX, with length 0, is a tombstone: nothing is
 * stored, older copies of the content may go.
 * Birth: the revision at which the content was put; 0 = that of the file's own registration.
 *
 * l/ value:
 *     u8 kind: 1 table, 2 fences, 3 fences of a file with a filter    varint file size    varint count
 *     kind 3: varint size of the filter
 *     table:  count × entry as in the file
 *     fences: per slice of 64 entries its first id (16) and check32 of the slice's bytes (4)
 *     seal
 */
#ifndef PGS_CODEC_SORTED_FILE_H
#define PGS_CODEC_SORTED_FILE_H

#include <pagestore/error.h>

#include "codec/filter.h"
#include "codec/page_id.h"
#include "util/cursor.h"

#define PGS__SORTED_HEADER_SIZE 64
#define PGS__SORTED_ENTRY_SIZE 36
#define PGS__SORTED_SLICE 64                    /* entries per fence */
#define PGS__SORTED_FILE_MAX (256u << 20)       /* bytes */
#define PGS__SORTED_COUNT_MAX (1u << 18)        /* entries */
#define PGS__LEVEL_TABLE_MAX (64u << 10)        /* bytes of a whole table in an l/ value */
#define PGS__TOMBSTONE UINT64_MAX

/* Where the contents begin behind a table of `count` entries and a filter of so many bytes (0 = none). */
static inline uint64_t pgs__sorted_contents_offset(uint64_t count, uint64_t filter_size)
{
	return PGS__SORTED_HEADER_SIZE + count * PGS__SORTED_ENTRY_SIZE +
	       (filter_size ? filter_size + PGS__FILTER_CHECK_SIZE : 0);
}

typedef struct pgs__sorted_header {
	uint32_t page_size;
	uint64_t count;
	uint64_t filter_size;     /* 0 = no filter: version 1 */
	uint64_t contents_offset; /* pgs__sorted_contents_offset() */
	uint64_t file_size;
	uint64_t table_check;
} pgs__sorted_header;

typedef struct pgs__sorted_entry {
	pgs__page_id id;
	uint64_t offset;
	uint32_t length;
	uint64_t birth;
} pgs__sorted_entry;

void pgs__sorted_header_encode(const pgs__sorted_header *header, uint8_t out[PGS__SORTED_HEADER_SIZE]);

/* Checks that sizes and offsets fit each other. PGS_OK, PGS_ECORRUPT or PGS_EVERSION. */
int pgs__sorted_header_decode(const uint8_t in[PGS__SORTED_HEADER_SIZE], pgs__sorted_header *out);

void pgs__sorted_entry_encode(const pgs__sorted_entry *entry, uint8_t out[PGS__SORTED_ENTRY_SIZE]);
void pgs__sorted_entry_decode(const uint8_t in[PGS__SORTED_ENTRY_SIZE], pgs__sorted_entry *out);

/* Whether an entry's content can be where it says, in [contents_min, file_size), a tombstone having none. */
bool pgs__sorted_place_ok(const pgs__sorted_entry *entry, uint32_t page_size, uint64_t contents_min,
			  uint64_t file_size);

/* Decode a run of table bytes (a multiple of the entry size) and find `id` in it by binary search. PGS_OK,
 * PGS_ENOTFOUND, or PGS_ECORRUPT when the entry it comes to lies outside [contents_min, file_size). */
int pgs__sorted_find(pgs_slice table, const pgs__page_id *id, uint32_t page_size, uint64_t contents_min,
		     uint64_t file_size, pgs__sorted_entry *out);

/* Check a whole table: ids strictly rising, contents without gaps up to file_size. PGS_OK or PGS_ECORRUPT. */
int pgs__sorted_table_check(pgs_slice table, const pgs__sorted_header *header);

/* Fill the filter of a table, and put its check behind it: size + PGS__FILTER_CHECK_SIZE bytes at `out`. It has the
 * ids of all entries but tombstones, which no lookup wants. */
void pgs__sorted_filter_make(pgs_slice table, size_t size, uint8_t *out);

/* Whether the check behind a filter (`bytes` includes it) is good. */
bool pgs__sorted_filter_check(pgs_slice bytes);

typedef struct pgs__level_value {
	bool has_table;      /* else fences */
	uint64_t file_size;
	uint64_t count;
	uint64_t filter_size; /* 0 = the file has none */
	uint64_t contents_offset;
	pgs_slice table;     /* count entries, borrowed */
	pgs_slice fences;    /* ceil(count / 64) × (16 id, 4 check), borrowed */
} pgs__level_value;

#define PGS__FENCE_SIZE 20

/* The filter that a writer gives to a file of `count` entries, whose l/ value has the whole table up to `table_max`
 * bytes (PGS__LEVEL_TABLE_MAX, less in tests): its size, or 0 for none. */
size_t pgs__sorted_filter_size(uint64_t count, size_t table_max);

/* Append the l/ value of a file with this table (count × entry bytes): the table, or its fences when it is larger
 * than `table_max` bytes. A file with a filter has fences. */
void pgs__level_value_encode(uint64_t file_size, pgs_slice table, size_t filter_size, size_t table_max,
			     pgs__buffer *out);

/* Checks everything but lengths against the page size, which the value does not say. PGS_OK, PGS_ECORRUPT or
 * PGS_EVERSION (unknown kind). */
int pgs__level_value_decode(pgs_slice bytes, pgs__level_value *out);

/* Which slice of a fenced table would hold `id`: its index, or PGS_ENOTFOUND (before the first). */
int64_t pgs__fence_find(pgs_slice fences, const pgs__page_id *id);

/* The check32 that fence `index` gives for its slice. */
uint32_t pgs__fence_check(pgs_slice fences, size_t index);

#endif
