/* format.h: sizes, times and names for people
 *
 * The small functions return their text by value, so that it can be used inside
 * an argument list: printf("%s", cli_size(n).text).
 */
#ifndef FORMAT_H
#define FORMAT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct cli_short {
	char text[48];
} cli_short;

/* Room for PGS_DB_NAME_MAX bytes, each escaped; longer text is cut with "...". */
typedef struct cli_quoted {
	char text[1280];
} cli_quoted;

/* "17 B", "1.3 KiB", ... */
cli_short cli_size(uint64_t bytes);

/* "17 us", "1.3 ms", "2.5 s". */
cli_short cli_duration(uint64_t us);

/* part/whole as a percentage with as many digits as it needs: "0.012 %". */
cli_short cli_percent(uint64_t part, uint64_t whole);

/* Local time, "2026-01-31 12:00:00". */
cli_short cli_time_local(int64_t unix_ms);

/* ISO 8601, UTC, "2026-01-31T12:00:00.000Z". */
cli_short cli_time_utc(int64_t unix_ms);

/* "text" in quotes, what a terminal would act on escaped. */
cli_quoted cli_quote(const char *text);

/* Print any bytes as text of one line: UTF-8 as it is, control characters, backslashes
 * and bytes that are not UTF-8 as \xNN. */
void cli_print_text(FILE *out, const void *bytes, size_t size);

/* The length (1 ... 4) of the UTF-8 character at the start of `bytes`, 0 if it is none. */
size_t cli_utf8_length(const unsigned char *bytes, size_t size);

#endif
