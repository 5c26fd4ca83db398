/* cache=PATH and cache_size=BYTES of any store's URL: they are no backend's, and are taken out before one sees it. */
#include "url.h"

#include <string.h>

#include "util/alloc.h"
#include "util/error.h"

#define SIZE_MAX_BYTES ((uint64_t)1 << 50)

bool pgs__url_size(pgs_slice value, uint64_t *out)
{
	const char *text = value.data;
	size_t digits = value.size;
	unsigned shift = 0;
	if (digits && strchr("KMG", text[digits - 1]))
		shift = text[--digits] == 'K' ? 10 : text[digits] == 'M' ? 20 : 30;
	uint64_t number = 0;
	bool good = digits > 0;
	for (size_t i = 0; i < digits && good; i++) {
		good = text[i] >= '0' && text[i] <= '9' && number <= SIZE_MAX_BYTES;
		number = number * 10 + (uint64_t)(text[i] - '0');
	}
	if (!good || number > SIZE_MAX_BYTES >> shift)
		return false;
	*out = number << shift;
	return true;
}

/* What is behind "NAME=" in an option, if that is its name. */
static bool value_of(pgs_slice option, const char *name, pgs_slice *value)
{
	size_t size = strlen(name);
	if (option.size < size || memcmp(option.data, name, size) != 0)
		return false;
	*value = (pgs_slice){(const char *)option.data + size, option.size - size};
	return true;
}

/* Take an option, if it is one of the cache's; *taken. */
static int take(pgs__url_cache *out, pgs_slice option, bool *taken, pgs_error *err)
{
	pgs_slice value;
	*taken = true;
	if (value_of(option, "cache=", &value)) {
		if (out->path || value.size == 0)
			return pgs__error(err, PGS_EINVAL, "the URL has cache= %s", out->path ? "twice" : "without a path");
		return pgs__url_decode_part(&out->path, value, "the store", "cache", err);
	}
	if (value_of(option, "cache_size=", &value)) {
		if (out->size_bytes)
			return pgs__error(err, PGS_EINVAL, "the URL has cache_size= twice");
		if (!pgs__url_size(value, &out->size_bytes) || out->size_bytes == 0)
			return pgs__error(err, PGS_EINVAL, "the URL has cache_size=%.*s: a number of bytes is allowed, "
					  "with K, M or G behind it", (int)value.size, (const char *)value.data);
		return PGS_OK;
	}
	*taken = false;
	return PGS_OK;
}

int pgs__url_split_cache(pgs__url_cache *out, const char *url, pgs_error *err)
{
	*out = (pgs__url_cache){.url = pgs__strndup(url, strlen(url))};
	int status = out->url ? PGS_OK : pgs__error_nomem(err, "a URL");
	char *to = out->url ? strchr(out->url, '?') : NULL;
	const char *from = to ? to + 1 : NULL;
	char before = '?';
	while (from && status == PGS_OK) {
		size_t size = strcspn(from, "&");
		bool taken, last = from[size] == '\0';
		status = take(out, (pgs_slice){from, size}, &taken, err);
		if (!taken) {
			*to++ = before;
			memmove(to, from, size);
			to += size;
			before = '&';
		}
		from = last ? NULL : from + size + 1;
	}
	if (to)
		*to = '\0';
	if (status == PGS_OK && out->size_bytes && !out->path)
		status = pgs__error(err, PGS_EINVAL, "the URL has cache_size= without cache=");
	if (status != PGS_OK)
		pgs__url_cache_free(out);
	return status;
}

void pgs__url_cache_free(pgs__url_cache *cache)
{
	pgs__free(cache->url);
	pgs__free(cache->path);
	*cache = (pgs__url_cache){0};
}
