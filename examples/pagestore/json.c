/* Writing one JSON value to stdout. */
#include "json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "format.h"
#include "report.h"

void json_begin(json *j)
{
	memset(j, 0, sizeof(*j));
	j->out = open_memstream(&j->text, &j->size);
	if (j->out)
		fputc('{', j->out);
}

void json_discard(json *j)
{
	if (j->out)
		fclose(j->out);
	free(j->text);
	memset(j, 0, sizeof(*j));
}

int json_finish(json *j)
{
	bool whole = j->out != NULL;
	if (whole) {
		fputs("}\n", j->out);
		whole = !ferror(j->out);
		whole = fclose(j->out) == 0 && whole;
		j->out = NULL;
	}
	if (whole)
		fwrite(j->text, 1, j->size, stdout);
	json_discard(j);
	return whole ? CLI_OK : cli_fail(NULL, "cannot write the result as JSON: out of memory");
}

static void put_string(FILE *out, const unsigned char *bytes, size_t size)
{
	fputc('"', out);
	while (size) {
		size_t length = cli_utf8_length(bytes, size);
		if (length == 1 && (bytes[0] == '"' || bytes[0] == '\\'))
			fprintf(out, "\\%c", bytes[0]);
		else if (length == 0 || bytes[0] < 0x20 || bytes[0] == 0x7f)
			fprintf(out, "\\u%04x", bytes[0]);
		else
			fwrite(bytes, 1, length, out);
		length = length ? length : 1;
		bytes += length;
		size -= length;
	}
	fputc('"', out);
}

/* Everything that comes before a value; false when there is nowhere to write. */
static bool lead(json *j, const char *key)
{
	if (!j->out)
		return false;
	if (j->comma)
		fputc(',', j->out);
	j->comma = true;
	if (key)
		fprintf(j->out, "\"%s\":", key);
	return true;
}

void json_open(json *j, const char *key, char bracket)
{
	if (lead(j, key))
		fputc(bracket, j->out);
	j->comma = false;
}

void json_close(json *j, char bracket)
{
	if (j->out)
		fputc(bracket, j->out);
	j->comma = true;
}

void json_text(json *j, const char *key, const void *bytes, size_t size)
{
	if (lead(j, key))
		put_string(j->out, bytes, size);
}

void json_string(json *j, const char *key, const char *string)
{
	json_text(j, key, string, strlen(string));
}

void json_count(json *j, const char *key, uint64_t value)
{
	if (lead(j, key))
		fprintf(j->out, "%" PRIu64, value);
}

void json_number(json *j, const char *key, int64_t value)
{
	if (lead(j, key))
		fprintf(j->out, "%" PRId64, value);
}

void json_ratio(json *j, const char *key, uint64_t part, uint64_t whole)
{
	if (whole == 0)
		json_null(j, key);
	else if (lead(j, key))
		fprintf(j->out, "%.6g", (double)part / (double)whole);
}

void json_bool(json *j, const char *key, bool value)
{
	if (lead(j, key))
		fputs(value ? "true" : "false", j->out);
}

void json_null(json *j, const char *key)
{
	if (lead(j, key))
		fputs("null", j->out);
}
