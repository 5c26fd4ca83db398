/* Page 1's counters, kept apart.
 *
 * Every transaction of SQLite's writes page 1, if only to count: two transactions that have nothing to do with each other
 * would always conflict there. So bytes [24, 40) and [92, 100) of the file live in page 0 of the store's database:
 *
 *     0                   16        20          24     28           32         36           40
 *     +-------------------+---------+-----------+------+------------+----------+------------+--- zeros
 *     | "pagestore sqlite"| version | page size |  0   | page count | freelist | free pages |
 *     +-------------------+---------+-----------+------+------------+----------+------------+---
 *
 * (numbers of four bytes, big endian) and page 1 has zeros there. Page 0 is written when pages are allocated or freed,
 * and counts as relied on only then: who allocates nothing does not care how many free pages there are.
 *
 * The counters themselves are not stored. Each connection is told a number that changes exactly when its cache is out
 * of date (locks.c).
 */
#include "file.h"

#include <string.h>

static const uint8_t magic[16] = "pagestore sqlite";

enum { VERSION = 1, AT_VERSION = 16, AT_PAGE_SIZE = 20, AT_ALLOCATION = 28, ALLOCATION_SIZE = 12 };

/* Of SQLite's header: 1 for a rollback journal, 2 for WAL. */
enum { AT_WRITE_FORMAT = 18, AT_READ_FORMAT = 19 };

/* Within `kept`. */
enum { KEPT_COUNTER = 0, KEPT_ALLOCATION = 4, KEPT_VALID_FOR = 16, KEPT_LIBRARY = 20 };

/* The kept bytes are two ranges of the file. */
static const struct range {
	int64_t first, end;
	size_t at; /* in `kept` */
} ranges[] = {{24, 40, 0}, {92, 100, 16}};

uint32_t sq_get4(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

void sq_put4(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 24);
	at[1] = (uint8_t)(value >> 16);
	at[2] = (uint8_t)(value >> 8);
	at[3] = (uint8_t)value;
}

static bool is_page_size(uint32_t size)
{
	return size >= 512 && size <= 65536 && (size & (size - 1)) == 0;
}

bool sq_header_decode(sq_header *header, const uint8_t *page)
{
	*header = (sq_header){.page_size = sq_get4(page + AT_PAGE_SIZE)};
	memcpy(header->kept + KEPT_ALLOCATION, page + AT_ALLOCATION, ALLOCATION_SIZE);
	return memcmp(page, magic, sizeof magic) == 0 && sq_get4(page + AT_VERSION) == VERSION &&
	       is_page_size(header->page_size);
}

void sq_header_encode(const sq_header *header, uint8_t *page, size_t page_size)
{
	memset(page, 0, page_size);
	memcpy(page, magic, sizeof magic);
	sq_put4(page + AT_VERSION, VERSION);
	sq_put4(page + AT_PAGE_SIZE, header->page_size);
	memcpy(page + AT_ALLOCATION, header->kept + KEPT_ALLOCATION, ALLOCATION_SIZE);
}

bool sq_header_same(const sq_header *a, const sq_header *b)
{
	return a->page_size == b->page_size &&
	       memcmp(a->kept + KEPT_ALLOCATION, b->kept + KEPT_ALLOCATION, ALLOCATION_SIZE) == 0;
}

void sq_header_count(sq_header *header, uint32_t counter)
{
	sq_put4(header->kept + KEPT_COUNTER, counter);
	sq_put4(header->kept + KEPT_VALID_FOR, counter);
	sq_put4(header->kept + KEPT_LIBRARY, (uint32_t)sqlite3_libversion_number());
}

uint32_t sq_header_counter(const sq_header *header)
{
	return sq_get4(header->kept + KEPT_COUNTER);
}

bool sq_header_is_valid(const sq_header *header)
{
	return header->page_size && memcmp(header->kept + KEPT_COUNTER, header->kept + KEPT_VALID_FOR, 4) == 0;
}

int64_t sq_header_size(const sq_header *header)
{
	return (int64_t)header->page_size * sq_get4(header->kept + KEPT_ALLOCATION);
}

/* The part of a range that lies in [offset, offset + size). */
static bool clip(const struct range *r, size_t size, int64_t offset, int64_t *first, size_t *length)
{
	int64_t end = offset + (int64_t)size < r->end ? offset + (int64_t)size : r->end;
	*first = offset > r->first ? offset : r->first;
	*length = end > *first ? (size_t)(end - *first) : 0;
	return *length > 0;
}

void sq_header_overlay(const sq_header *header, uint8_t *bytes, size_t size, int64_t offset)
{
	int64_t first;
	size_t length;
	for (size_t i = 0; offset < SQ_HEADER_SIZE && i < 2; i++)
		if (clip(&ranges[i], size, offset, &first, &length))
			memcpy(bytes + (first - offset), header->kept + ranges[i].at + (first - ranges[i].first),
				length);
}

void sq_header_learn(sq_header *header, const uint8_t *bytes, size_t size, int64_t offset)
{
	int64_t first;
	size_t length;
	for (size_t i = 0; offset < SQ_HEADER_SIZE && i < 2; i++)
		if (clip(&ranges[i], size, offset, &first, &length))
			memcpy(header->kept + ranges[i].at + (first - ranges[i].first), bytes + (first - offset),
				length);
	if (offset == 0 && size >= 18) {
		uint32_t page_size = (uint32_t)bytes[16] << 8 | (uint32_t)bytes[17] << 16;
		header->page_size = is_page_size(page_size) ? page_size : header->page_size;
	}
}

bool sq_header_covers(size_t size, int64_t offset)
{
	for (size_t i = 0; i < 2; i++)
		if (offset >= ranges[i].first && offset + (int64_t)size <= ranges[i].end)
			return true;
	return false;
}

bool sq_header_leave_wal(uint8_t *page)
{
	bool wal = page[AT_WRITE_FORMAT] == 2 || page[AT_READ_FORMAT] == 2;
	if (wal)
		page[AT_WRITE_FORMAT] = page[AT_READ_FORMAT] = 1;
	return wal;
}

void sq_header_strip(uint8_t *page)
{
	for (size_t i = 0; i < 2; i++)
		memset(page + ranges[i].first, 0, (size_t)(ranges[i].end - ranges[i].first));
}
