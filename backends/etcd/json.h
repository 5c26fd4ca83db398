/* Reading JSON where it lies: for replies with pairs in them, which are large and many.
 *
 * A cursor moves over the text, once; strings are slices of it, and bytes in base64 become the bytes at the same
 * place. No tree is built (one of jansson's takes three times as long as etcd's gateway takes to make the text). What
 * is small is read with jansson.
 *
 *      pgs__json j = pgs__json_of(text, size);
 *      pgs_slice name;
 *      pgs__json_enter(&j, '{');
 *      while (pgs__json_member(&j, &name))
 *              if (pgs__json_is(name, "count")) count = pgs__json_number(&j);
 *              else pgs__json_skip(&j);
 *      if (j.failed) …
 *
 * The text is not trusted: what is not as it should be sets `failed`, and from then on there are no members, no
 * elements, and zeros. Text that a strict reader would refuse may pass (a comma too many); none makes this one read
 * outside. */
#ifndef PGS_ETCD_JSON_H
#define PGS_ETCD_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <pagestore/sys/slice.h>

typedef struct pgs__json {
	char *at;
	char *end;
	bool failed;
} pgs__json;

static inline pgs__json pgs__json_of(void *text, size_t size)
{
	char *from = size ? text : (char *)""; /* nothing is written where nothing is read */
	return (pgs__json){from, from + size, false};
}

static inline bool pgs__json_is(pgs_slice name, const char *word)
{
	return name.size == strlen(word) && memcmp(name.data, word, name.size) == 0;
}

/* Step into an object '{' or an array '['. */
void pgs__json_enter(pgs__json *j, char open);

/* The next member's name, the cursor on its value; false behind the last one, and outside the object then. */
bool pgs__json_member(pgs__json *j, pgs_slice *name);

/* The cursor on the next element; false behind the last one, and outside the array then. */
bool pgs__json_element(pgs__json *j);

/* The value under the cursor, and behind it. */
pgs_slice pgs__json_string(pgs__json *j); /* with the escapes it has */
pgs_slice pgs__json_bytes(pgs__json *j);  /* base64, decoded in place */
uint64_t pgs__json_number(pgs__json *j);  /* not negative; also in quotes, as 64-bit numbers are */
bool pgs__json_flag(pgs__json *j);
void pgs__json_skip(pgs__json *j);

#endif
