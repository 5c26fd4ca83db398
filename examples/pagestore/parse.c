/* Numbers and times from the command line. */
#include "parse.h"

#include <time.h>

#include <pagestore.h>

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The digits at *at, moving past them; false when there are none or too many. */
static bool take_number(const char **at, uint64_t *number)
{
	uint64_t value = 0;
	if (!is_digit(**at))
		return false;
	for (; is_digit(**at); (*at)++) {
		unsigned digit = (unsigned)(**at - '0');
		if (value > (UINT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*number = value;
	return true;
}

bool cli_parse_number(const char *text, uint64_t *number)
{
	return take_number(&text, number) && *text == '\0';
}

bool cli_parse_bytes(const char *text, uint64_t *bytes)
{
	uint64_t number;
	if (!take_number(&text, &number))
		return false;
	unsigned shift = *text == 'K' ? 10 : *text == 'M' ? 20 : *text == 'G' ? 30 : 0;
	text += shift != 0;
	*bytes = number << shift;
	return *text == '\0' && number <= UINT64_MAX >> shift;
}

bool cli_parse_page_size(const char *text, uint32_t *page_size_bytes)
{
	uint64_t value;
	if (!cli_parse_number(text, &value) || value < PGS_PAGE_SIZE_MIN || value > PGS_PAGE_SIZE_MAX ||
		(value & (value - 1)))
		return false;
	*page_size_bytes = (uint32_t)value;
	return true;
}

/* Exactly `count` digits, as a number from `low` to `high`. */
static bool take_field(const char **at, int count, int low, int high, int *field)
{
	int value = 0;
	for (int i = 0; i < count; i++, (*at)++) {
		if (!is_digit(**at))
			return false;
		value = value * 10 + (**at - '0');
	}
	*field = value;
	return value >= low && value <= high;
}

/* ".5" and the like, in milliseconds; 999 when there is none: the second's last. */
static bool take_fraction(const char **at, int *ms)
{
	*ms = 999;
	if (**at != '.')
		return true;
	(*at)++;
	if (!is_digit(**at))
		return false;
	*ms = 0;
	for (int unit = 100; is_digit(**at); (*at)++, unit /= 10)
		*ms += unit * (**at - '0');
	return true;
}

/* "12:00", "12:00:00", "12:00:00.5"; what is left out is the unit's last. */
static bool take_clock(const char **at, struct tm *tm, int *ms)
{
	tm->tm_sec = 59;
	*ms = 999;
	if (!take_field(at, 2, 0, 23, &tm->tm_hour) || *(*at)++ != ':' || !take_field(at, 2, 0, 59, &tm->tm_min))
		return false;
	if (**at != ':')
		return true;
	(*at)++;
	return take_field(at, 2, 0, 59, &tm->tm_sec) && take_fraction(at, ms);
}

/* "Z", "+01:00", "-0530": seconds east of UTC. */
static bool take_zone(const char **at, long *east)
{
	int hours, minutes;
	char sign = *(*at)++;
	*east = 0;
	if (sign == 'Z' || sign == 'z')
		return true;
	if ((sign != '+' && sign != '-') || !take_field(at, 2, 0, 23, &hours))
		return false;
	if (**at == ':')
		(*at)++;
	if (!take_field(at, 2, 0, 59, &minutes))
		return false;
	*east = (hours * 60L + minutes) * 60 * (sign == '-' ? -1 : 1);
	return true;
}

/* mktime() and timegm() turn a 31st of April into a 1st of May: then the date was none. */
static bool to_seconds(struct tm *tm, bool local, int64_t *seconds)
{
	int day = tm->tm_mday;
	tm->tm_isdst = -1;
	*seconds = local ? mktime(tm) : timegm(tm);
	return tm->tm_mday == day;
}

static bool parse_iso(const char *at, int64_t *unix_ms)
{
	struct tm tm = {.tm_hour = 23, .tm_min = 59, .tm_sec = 59};
	int ms = 999;
	long east = 0;
	bool local = true;
	int64_t seconds;
	if (!take_field(&at, 4, 1900, 9999, &tm.tm_year) || *at++ != '-' || !take_field(&at, 2, 1, 12, &tm.tm_mon) ||
		*at++ != '-' || !take_field(&at, 2, 1, 31, &tm.tm_mday))
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	if (*at == 'T' || *at == 't' || *at == ' ') {
		at++;
		if (!take_clock(&at, &tm, &ms))
			return false;
		if (*at && (local = false, !take_zone(&at, &east)))
			return false;
	}
	if (*at || !to_seconds(&tm, local, &seconds))
		return false;
	*unix_ms = (seconds - east) * 1000 + ms;
	return true;
}

bool cli_parse_time(const char *text, int64_t *unix_ms)
{
	const char *at = text;
	uint64_t seconds;
	int ms;
	if (take_number(&at, &seconds) && take_fraction(&at, &ms) && *at == '\0') {
		if (seconds > INT64_MAX / 1000 - 1)
			return false;
		*unix_ms = (int64_t)seconds * 1000 + ms;
		return true;
	}
	return parse_iso(text, unix_ms);
}
