/* json.h: writing one JSON value to stdout
 *
 * The text is kept in memory until json_finish(), so that a command that fails
 * half-way prints nothing rather than half an object.
 *
 *     json j;
 *     json_begin(&j);                       // {
 *     json_text(&j, "db", name, name_size);
 *     json_open(&j, "pages", '[');
 *     json_count(&j, NULL, 7);              // inside an array: no key
 *     json_close(&j, ']');
 *     status = json_finish(&j);             // }
 *
 * Strings: JSON text is Unicode, names and notes are bytes. UTF-8 is written as
 * it is; a byte that is not part of valid UTF-8 becomes \u00XX, which a reader
 * cannot tell from the character U+00XX.
 */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct json {
	FILE *out; /* NULL when there was no memory: json_finish() says so */
	char *text;
	size_t size;
	bool comma; /* a value stands before the next one */
} json;

/* Begin, with an object open. */
void json_begin(json *j);

/* Close the object, print it and a newline, free it. CLI_OK or CLI_FAILED. */
int json_finish(json *j);

/* Free it without printing. */
void json_discard(json *j);

/* `key` is a literal, NULL inside an array. */
void json_open(json *j, const char *key, char bracket);
void json_close(json *j, char bracket);
void json_text(json *j, const char *key, const void *bytes, size_t size);
void json_string(json *j, const char *key, const char *string);
void json_count(json *j, const char *key, uint64_t value);
void json_number(json *j, const char *key, int64_t value);
void json_ratio(json *j, const char *key, uint64_t part, uint64_t whole); /* null when `whole` is 0 */
void json_bool(json *j, const char *key, bool value);
void json_null(json *j, const char *key);

#endif
