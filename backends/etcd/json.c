/* Reading JSON where it lies: see json.h. */
#include "json.h"

#include <pagestore/error.h>

#include "base64.h"

static void fail(pgs__json *j)
{
	j->failed = true;
	j->at = j->end;
}

static char peek(pgs__json *j)
{
	while (j->at < j->end && (*j->at == ' ' || *j->at == '\n' || *j->at == '\r' || *j->at == '\t'))
		j->at++;
	if (j->at == j->end)
		return '\0';
	return *j->at;
}

static bool take(pgs__json *j, char c)
{
	if (peek(j) != c || j->at == j->end)
		return false;
	j->at++;
	return true;
}

static void expect(pgs__json *j, char c)
{
	if (!take(j, c))
		fail(j);
}

void pgs__json_enter(pgs__json *j, char open)
{
	expect(j, open);
}

/* Behind `close`, or on the next item. */
static bool next_item(pgs__json *j, char close)
{
	if (j->failed || take(j, close))
		return false;
	take(j, ',');
	if (peek(j) == '\0')
		fail(j);
	return !j->failed;
}

bool pgs__json_member(pgs__json *j, pgs_slice *name)
{
	if (!next_item(j, '}'))
		return false;
	*name = pgs__json_string(j);
	expect(j, ':');
	return !j->failed;
}

bool pgs__json_element(pgs__json *j)
{
	return next_item(j, ']');
}

/* The quote that ends the string that begins at `from`: one behind an even number of backslashes. */
static char *find_quote(char *from, char *end)
{
	for (char *at = from; at < end; at++) {
		at = memchr(at, '"', (size_t)(end - at));
		if (!at)
			return NULL;
		const char *slash = at;
		while (slash > from && slash[-1] == '\\')
			slash--;
		if ((at - slash) % 2 == 0)
			return at;
	}
	return NULL;
}

pgs_slice pgs__json_string(pgs__json *j)
{
	expect(j, '"');
	char *from = j->at, *quote = j->failed ? NULL : find_quote(from, j->end);
	if (!quote) {
		fail(j);
		return (pgs_slice){"", 0};
	}
	j->at = quote + 1;
	return (pgs_slice){from, (size_t)(quote - from)};
}

pgs_slice pgs__json_bytes(pgs__json *j)
{
	pgs_slice text = pgs__json_string(j);
	uint8_t *bytes = (uint8_t *)j->at - 1 - text.size; /* the same place */
	size_t size = 0;
	if (!j->failed && pgs__base64_decode(text.data, text.size, bytes, &size) != PGS_OK)
		fail(j);
	return j->failed ? (pgs_slice){"", 0} : (pgs_slice){bytes, size};
}

uint64_t pgs__json_number(pgs__json *j)
{
	uint64_t number = 0;
	bool quoted = take(j, '"');
	const char *from = j->at;
	for (; j->at < j->end && *j->at >= '0' && *j->at <= '9'; j->at++) {
		unsigned digit = (unsigned)(*j->at - '0');
		if (number > (UINT64_MAX - digit) / 10)
			fail(j);
		number = number * 10 + digit;
	}
	if (j->at == from || (quoted && (j->at == j->end || *j->at++ != '"')))
		fail(j);
	return j->failed ? 0 : number;
}

static bool take_word(pgs__json *j, const char *word)
{
	size_t size = strlen(word);
	if ((size_t)(j->end - j->at) < size || memcmp(j->at, word, size) != 0)
		return false;
	j->at += size;
	return true;
}

bool pgs__json_flag(pgs__json *j)
{
	peek(j);
	if (take_word(j, "true"))
		return true;
	if (!take_word(j, "false"))
		fail(j);
	return false;
}

/* Numbers, true, false, null. */
static void skip_word(pgs__json *j)
{
	const char *from = j->at;
	while (j->at < j->end && *j->at && !strchr(",:]}[{\" \t\r\n", *j->at))
		j->at++;
	if (j->at == from)
		fail(j);
}

/* Whatever is nested in it is not looked at, but for where it ends. */
void pgs__json_skip(pgs__json *j)
{
	size_t depth = 0;
	do {
		char c = peek(j);
		if (c == '"') {
			pgs__json_string(j);
		} else if (c == '{' || c == '[') {
			j->at++;
			depth++;
		} else if (depth && (c == '}' || c == ']')) {
			j->at++;
			depth--;
		} else if (depth && (c == ',' || c == ':')) {
			j->at++;
		} else {
			skip_word(j);
		}
	} while (depth && !j->failed);
}
