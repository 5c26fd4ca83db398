/* Sizes, times and names for people. */
#include "format.h"

#include <stdbool.h>
#include <string.h>
#include <time.h>

cli_short cli_size(uint64_t bytes)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	cli_short s;
	if (bytes < 1024) {
		snprintf(s.text, sizeof(s.text), "%u B", (unsigned)bytes);
		return s;
	}
	double value = (double)bytes / 1024;
	size_t unit = 0;
	while (value >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(s.text, sizeof(s.text), "%.1f %s", value, units[unit]);
	return s;
}

cli_short cli_duration(uint64_t us)
{
	cli_short s;
	if (us < 1000)
		snprintf(s.text, sizeof(s.text), "%u us", (unsigned)us);
	else if (us < 1000000)
		snprintf(s.text, sizeof(s.text), "%.1f ms", (double)us / 1e3);
	else
		snprintf(s.text, sizeof(s.text), "%.1f s", (double)us / 1e6);
	return s;
}

cli_short cli_percent(uint64_t part, uint64_t whole)
{
	cli_short s;
	double percent = whole ? 100.0 * (double)part / (double)whole : 0;
	int digits = percent >= 10 || percent == 0 ? 0 : percent >= 1 ? 1 : percent >= 0.01 ? 2 : 4;
	snprintf(s.text, sizeof(s.text), "%.*f %%", digits, percent);
	return s;
}

/* Seconds and milliseconds, rounding down before 1970 too. */
static time_t split_ms(int64_t unix_ms, int *ms)
{
	int64_t seconds = unix_ms / 1000;
	*ms = (int)(unix_ms % 1000);
	if (*ms < 0) {
		*ms += 1000;
		seconds--;
	}
	return (time_t)seconds;
}

cli_short cli_time_local(int64_t unix_ms)
{
	cli_short s;
	struct tm tm;
	int ms;
	time_t seconds = split_ms(unix_ms, &ms);
	if (!localtime_r(&seconds, &tm) || !strftime(s.text, sizeof(s.text), "%Y-%m-%d %H:%M:%S", &tm))
		snprintf(s.text, sizeof(s.text), "%lld ms", (long long)unix_ms);
	return s;
}

cli_short cli_time_utc(int64_t unix_ms)
{
	cli_short s;
	struct tm tm;
	int ms;
	time_t seconds = split_ms(unix_ms, &ms);
	size_t used = 0;
	if (gmtime_r(&seconds, &tm))
		used = strftime(s.text, sizeof(s.text), "%Y-%m-%dT%H:%M:%S", &tm);
	if (used)
		snprintf(s.text + used, sizeof(s.text) - used, ".%03dZ", ms);
	else
		snprintf(s.text, sizeof(s.text), "%lld ms", (long long)unix_ms);
	return s;
}

size_t cli_utf8_length(const unsigned char *b, size_t size)
{
	if (size == 0)
		return 0;
	if (b[0] < 0x80)
		return 1;
	size_t length = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
	if (b[0] < 0xc2 || b[0] > 0xf4 || size < length)
		return 0;
	for (size_t i = 1; i < length; i++) {
		if ((b[i] & 0xc0) != 0x80)
			return 0;
	}
	/* Overlong forms, surrogates, and what is past U+10FFFF. */
	if ((b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xed && b[1] > 0x9f) || (b[0] == 0xf0 && b[1] < 0x90) ||
		(b[0] == 0xf4 && b[1] > 0x8f))
		return 0;
	return length;
}

/* The next piece of `bytes` as it is printed, into `out` (5 bytes or more); returns how many bytes it stands for. */
static size_t next_piece(char *out, const unsigned char *bytes, size_t size)
{
	size_t length = cli_utf8_length(bytes, size);
	bool control =
		length == 1 ? bytes[0] < 0x20 || bytes[0] == 0x7f : length == 2 && bytes[0] == 0xc2 && bytes[1] < 0xa0;
	if (length == 0 || control || bytes[0] == '\\') {
		snprintf(out, 5, "\\x%02x", bytes[0]);
		return 1;
	}
	memcpy(out, bytes, length);
	out[length] = '\0';
	return length;
}

void cli_print_text(FILE *out, const void *bytes, size_t size)
{
	const unsigned char *at = bytes;
	char piece[8];
	while (size) {
		size_t used = next_piece(piece, at, size);
		fputs(piece, out);
		at += used;
		size -= used;
	}
}

cli_quoted cli_quote(const char *text)
{
	cli_quoted q;
	const size_t room = sizeof(q.text) - 8; /* for the end */
	const unsigned char *at = (const unsigned char *)text;
	size_t left = strlen(text), used = 0;
	char piece[8];
	q.text[used++] = '"';
	while (left && used < room) {
		size_t taken = next_piece(piece, at, left);
		size_t length = strlen(piece);
		memcpy(q.text + used, piece, length);
		used += length;
		at += taken;
		left -= taken;
	}
	strcpy(q.text + used, left ? "...\"" : "\"");
	return q;
}
