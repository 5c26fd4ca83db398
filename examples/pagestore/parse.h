/* parse.h: numbers and times from the command line */
#ifndef PARSE_H
#define PARSE_H

#include <stdbool.h>
#include <stdint.h>

/* Decimal digits alone, at most UINT64_MAX. */
bool cli_parse_number(const char *text, uint64_t *number);

/* The same with K, M or G behind it: "10M". */
bool cli_parse_bytes(const char *text, uint64_t *bytes);

/* A page size: a power of two from PGS_PAGE_SIZE_MIN to PGS_PAGE_SIZE_MAX. */
bool cli_parse_page_size(const char *text, uint32_t *page_size_bytes);

/* Unix seconds ("1769860800", "1769860800.25"), or ISO 8601: "2026-01-31",
 * "2026-01-31 12:00", "2026-01-31T12:00:00.5", each with "Z" or an offset
 * ("+01:00") behind the time, else local time.
 *
 * The result is the last millisecond of the day, minute or second that was
 * named: what log prints for a commit finds that commit. */
bool cli_parse_time(const char *text, int64_t *unix_ms);

#endif
