/* A page of a list of S3: whatever it is, what is made of it lies within it. */
#include <pagestore/error.h>

#include "../backends/s3/page.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	pgs__s3_page page;
	int result = pgs__s3_page_read((pgs_slice){data, size}, &page);
	CHECK(result == PGS_OK || result == PGS_ECORRUPT);
	size_t keys = 0;
	for (size_t i = 0; i < page.count; i++) {
		CHECK(page.entries[i].key < page.text.size);
		const char *key = (const char *)page.text.data + page.entries[i].key;
		keys += strnlen(key, page.text.size - page.entries[i].key) + 1;
		CHECK(page.entries[i].size <= INT64_MAX);
	}
	CHECK(keys <= page.text.size && page.text.size <= size); /* decoding makes nothing longer */
	CHECK(result != PGS_OK || !page.truncated || page.token);
	pgs__s3_page_free(&page);
	return 0;
}
