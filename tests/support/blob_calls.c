/* See blob_calls.h. */
#include "support/blob_calls.h"

#include <stdlib.h>
#include <string.h>

#include "support/testing.h"

uint8_t pattern_byte(uint64_t seed, uint64_t offset)
{
	uint64_t mixed = (offset / 8 + seed * 0x100000001b3) * 0x9e3779b97f4a7c15;
	return (uint8_t)(mixed >> (8 * (offset % 8)));
}

int pattern_read(void *ctx, uint64_t offset, void *buf, size_t size)
{
	const pattern_source *source = ctx;
	if (source->fail_at && offset + size > source->fail_at)
		return source->status;
	uint8_t *bytes = buf;
	for (size_t i = 0; i < size; i++)
		bytes[i] = pattern_byte(source->seed, offset + i);
	return PGS_OK;
}

int put_pattern(pgs_blob *blob, const char *name, uint64_t size, uint64_t seed)
{
	pattern_source source = {.seed = seed};
	return blob->vtable->put(blob, name, size, pattern_read, &source, 0, NULL);
}

static int text_read(void *ctx, uint64_t offset, void *buf, size_t size)
{
	memcpy(buf, (const char *)ctx + offset, size);
	return PGS_OK;
}

int put_text(pgs_blob *blob, const char *name, const char *text)
{
	return blob->vtable->put(blob, name, strlen(text), text_read, (void *)text, 0, NULL);
}

int get_range(pgs_blob *blob, const char *name, uint64_t offset, void *buf, size_t size)
{
	pgs_blob_range range = {.name = name, .offset = offset, .size = size, .buffer = buf, .status = 12345};
	int result = blob->vtable->get(blob, &range, 1, 0, NULL);
	return range.status == result ? result : 12345;
}

int stat_size(pgs_blob *blob, const char *name, uint64_t *size)
{
	return blob->vtable->stat(blob, name, size, 0, NULL);
}

void blob_expect_pattern(pgs_blob *blob, const char *name, uint64_t size, uint64_t seed)
{
	uint64_t stored = 0;
	assert_int_equal(stat_size(blob, name, &stored), PGS_OK);
	assert_int_equal(stored, size);
	uint8_t *bytes = malloc(size ? size : 1);
	int status = get_range(blob, name, 0, bytes, size);
	uint64_t good = 0;
	while (status == PGS_OK && good < size && bytes[good] == pattern_byte(seed, good))
		good++;
	free(bytes);
	assert_int_equal(status, PGS_OK);
	assert_int_equal(good, size);
}

void blob_expect_text(pgs_blob *blob, const char *name, const char *text)
{
	char bytes[64] = "";
	uint64_t stored = 0;
	assert_int_equal(stat_size(blob, name, &stored), PGS_OK);
	assert_int_equal(stored, strlen(text));
	assert_int_equal(get_range(blob, name, 0, bytes, strlen(text)), PGS_OK);
	assert_string_equal(bytes, text);
}

void blob_expect_absent(pgs_blob *blob, const char *name)
{
	uint64_t size;
	char byte;
	assert_int_equal(stat_size(blob, name, &size), PGS_ENOTFOUND);
	assert_int_equal(get_range(blob, name, 0, &byte, 1), PGS_ENOTFOUND);
}
