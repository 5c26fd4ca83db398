/* A page of a list: see page.h. Keys come URL-encoded (encoding-type=url), because XML cannot hold every character; by
 * EncodingType, which may stand behind them, the server says that it has done so. */
#include "page.h"

#include <string.h>

#include <pagestore/error.h>

#include "util/alloc.h"
#include "xml.h"

typedef struct reading {
	pgs__s3_page *page;
	bool has_key, has_size; /* of the entry that is being read */
	bool is_list, is_encoded;
	size_t key;
	uint64_t size;
} reading;

static int add_text(pgs__buffer *out, const char *text, size_t size)
{
	pgs__put_bytes(out, text, size);
	pgs__put_u8(out, 0);
	return out->failed ? PGS_ENOMEM : PGS_OK;
}

static int read_size(reading *r, const char *text)
{
	uint64_t value = 0;
	const char *at = text;
	for (; *at >= '0' && *at <= '9' && at - text < 19; at++)
		value = value * 10 + (uint64_t)(*at - '0');
	if (at == text || *at || value > INT64_MAX || r->has_size)
		return PGS_ECORRUPT;
	r->size = value;
	r->has_size = true;
	return PGS_OK;
}

static int read_key(reading *r, const char *text, size_t size)
{
	if (r->has_key || size == 0 || size > (size_t)3 * PGS__S3_KEY_MAX)
		return PGS_ECORRUPT;
	r->has_key = true;
	r->key = r->page->text.size;
	return add_text(&r->page->text, text, size);
}

static int end_entry(reading *r)
{
	pgs__s3_page *page = r->page;
	if (!r->has_key || !r->has_size)
		return PGS_ECORRUPT;
	r->has_key = r->has_size = false;
	int status = pgs__grow(&page->entries, &page->capacity, page->count + 1, sizeof *page->entries);
	if (status == PGS_OK)
		page->entries[page->count++] = (pgs__s3_entry){r->key, r->size};
	return status;
}

static int read_token(pgs__s3_page *page, const char *text, size_t size)
{
	if (page->token || size == 0)
		return PGS_ECORRUPT;
	page->token = pgs__strndup(text, size);
	return page->token ? PGS_OK : PGS_ENOMEM;
}

static int take_element(void *ctx, const char *path, const char *text, size_t size)
{
	static const char root[] = "ListBucketResult";
	reading *r = ctx;
	if (strncmp(path, root, sizeof root - 1) != 0)
		return PGS_ECORRUPT;
	path += sizeof root - 1;
	if (!*path)
		r->is_list = true;
	else if (!strcmp(path, "/Contents/Key"))
		return read_key(r, text, size);
	else if (!strcmp(path, "/Contents/Size"))
		return read_size(r, text);
	else if (!strcmp(path, "/Contents"))
		return end_entry(r);
	else if (!strcmp(path, "/IsTruncated"))
		r->page->truncated = !strcmp(text, "true");
	else if (!strcmp(path, "/NextContinuationToken"))
		return read_token(r->page, text, size);
	else if (!strcmp(path, "/EncodingType"))
		r->is_encoded = !strcmp(text, "url");
	return PGS_OK;
}

static int digit_of(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
				      : -1;
}

/* In place: %XX, and '+' for a space. */
static bool decode(char *text)
{
	char *out = text;
	for (; *text; text++) {
		char c = *text;
		if (c == '+')
			c = ' ';
		if (c == '%') {
			int high = digit_of(text[1]), low = high < 0 ? -1 : digit_of(text[2]);
			if (low < 0 || (high == 0 && low == 0))
				return false;
			c = (char)(high * 16 + low);
			text += 2;
		}
		*out++ = c;
	}
	*out = '\0';
	return true;
}

int pgs__s3_page_read(pgs_slice document, pgs__s3_page *out)
{
	*out = (pgs__s3_page){0};
	reading r = {.page = out};
	int status = pgs__xml_read(document, take_element, &r);
	if (status == PGS_OK && (!r.is_list || r.has_key || r.has_size || (out->truncated && !out->token)))
		status = PGS_ECORRUPT;
	for (size_t i = 0; i < out->count && status == PGS_OK && r.is_encoded; i++)
		if (!decode((char *)out->text.data + out->entries[i].key))
			status = PGS_ECORRUPT;
	return status;
}

void pgs__s3_page_free(pgs__s3_page *page)
{
	pgs__buffer_free(&page->text);
	pgs__free(page->entries);
	pgs__free(page->token);
	*page = (pgs__s3_page){0};
}
