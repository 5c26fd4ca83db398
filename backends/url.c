/* From a store's URL to its backends.
 *
 *      dir:/var/lib/my%20app?sync=lazy&map=16G
 *      └┬┘ └──────┬────────┘ └───┬───┘ └─┬──┘
 *     scheme    path, %XX      options, each at most once
 *
 * A dir: store is PATH/kv (LMDB's files) and PATH/blobs. The blobs' directory
 * comes first, so that where a KV is, both are. With blob=URL (escaped), blobs
 * are there instead. */
#include "url.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "local/dir.h"
#include "util/alloc.h"
#include "util/error.h"

#define MAP_MIN ((uint64_t)1 << 20)
#define MAP_MAX ((uint64_t)1 << 46)

/* --- parsing ----------------------------------------------------------------- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

char *pgs__url_decode(pgs_slice text, bool *bad)
{
	const char *in = text.data;
	char *out = pgs__malloc(text.size + 1), *at = out;
	*bad = false;
	for (size_t i = 0; out && i < text.size; i++, at++) {
		*at = in[i];
		if (in[i] != '%')
			continue;
		int high = text.size - i > 2 ? hex_digit(in[i + 1]) : -1;
		int low = high >= 0 ? hex_digit(in[i + 2]) : -1;
		*at = (char)(high * 16 + low);
		if (high < 0 || low < 0 || *at == '\0') {
			*bad = true;
			pgs__free(out);
			return NULL;
		}
		i += 2;
	}
	if (out)
		*at = '\0';
	return out;
}

int pgs__url_decode_part(char **out, pgs_slice text, const char *scheme, const char *what, pgs_error *err)
{
	bool bad;
	*out = pgs__url_decode(text, &bad);
	if (*out)
		return PGS_OK;
	return bad ? pgs__error(err, PGS_EINVAL, "%s: the URL has a bad escape in its %s: %%XX is allowed, not %%00", scheme,
				what)
		   : pgs__error_nomem(err, "a URL");
}

bool pgs__url_is(pgs_slice text, const char *word)
{
	return text.size == strlen(word) && !memcmp(text.data, word, text.size);
}

/* The path, to be freed. */
static int decode_path(char **out, pgs_slice text, const char *url, pgs_error *err)
{
	bool bad;
	*out = NULL;
	if (text.size == 0)
		return pgs__error(err, PGS_EINVAL, "'%s' has an empty path: write dir:PATH", url);
	*out = pgs__url_decode(text, &bad);
	if (bad)
		return pgs__error(
			err, PGS_EINVAL, "'%s' has a bad escape in its path: %%XX is allowed, not %%00", url);
	return *out ? PGS_OK : pgs__error_nomem(err, "a path");
}

static bool is(pgs_slice text, const char *word)
{
	return text.size == strlen(word) && !memcmp(text.data, word, text.size);
}

static int parse_sync(pgs_slice value, pgs_sync *out, const char *url, pgs_error *err)
{
	if (is(value, "full"))
		*out = PGS_SYNC_FULL;
	else if (is(value, "lazy"))
		*out = PGS_SYNC_LAZY;
	else if (is(value, "off"))
		*out = PGS_SYNC_OFF;
	else
		return pgs__error(err, PGS_EINVAL, "'%s' has sync=%.*s: full, lazy and off are allowed", url,
			(int)value.size, (const char *)value.data);
	return PGS_OK;
}

static unsigned suffix_shift(char c)
{
	return c == 'K' ? 10 : c == 'M' ? 20 : c == 'G' ? 30 : 0;
}

static int parse_map(pgs_slice value, uint64_t *out, const char *url, pgs_error *err)
{
	const char *text = value.data;
	size_t digits = value.size;
	unsigned shift = digits ? suffix_shift(text[digits - 1]) : 0;
	if (shift)
		digits--;
	uint64_t number = 0;
	bool good = digits > 0;
	for (size_t i = 0; i < digits && good; i++) {
		good = text[i] >= '0' && text[i] <= '9' && number <= MAP_MAX;
		number = number * 10 + (uint64_t)(text[i] - '0');
	}
	if (good)
		good = number <= MAP_MAX >> shift && number << shift >= MAP_MIN;
	if (!good)
		return pgs__error(err, PGS_EINVAL,
			"'%s' has map=%.*s: a number of bytes from 1M to 65536G is allowed, with K, M or G behind it",
			url, (int)value.size, text);
	*out = number << shift;
	return PGS_OK;
}

/* The options of a dir: URL. */
typedef struct dir_options {
	pgs_local_options local;
	char *blob; /* the URL of its blobs; NULL: in the directory */
	pgs__open_how how;
} dir_options;

static int parse_blob(pgs_slice value, char **out, const char *url, pgs_error *err)
{
	bool bad;
	*out = pgs__url_decode(value, &bad);
	if (bad || (*out && !**out))
		return pgs__error(err, PGS_EINVAL, "'%s' has a blob= that is empty, or has a bad escape", url);
	return *out ? PGS_OK : pgs__error_nomem(err, "a URL");
}

/* One key=value. `seen` has a bit for each key met. */
static int parse_option(pgs_slice option, dir_options *out, unsigned *seen, const char *url, pgs_error *err)
{
	const char *equals = option.size ? memchr(option.data, '=', option.size) : NULL;
	pgs_slice key = {option.data, equals ? (size_t)(equals - (const char *)option.data) : option.size};
	pgs_slice value = {equals ? equals + 1 : NULL, equals ? option.size - key.size - 1 : 0};
	unsigned bit = is(key, "sync") ? 1 : is(key, "map") ? 2 : is(key, "blob") ? 4 : 0;
	if (!bit)
		return pgs__error(err, PGS_EINVAL, "'%s' has the unknown option '%.*s': sync, map, blob, cache "
				  "and cache_size are allowed",
			url, (int)key.size, (const char *)key.data);
	if (*seen & bit)
		return pgs__error(err, PGS_EINVAL, "'%s' has the option '%.*s' twice", url, (int)key.size,
			(const char *)key.data);
	*seen |= bit;
	if (bit == 4)
		return parse_blob(value, &out->blob, url, err);
	return bit == 1 ? parse_sync(value, &out->local.sync, url, err)
			: parse_map(value, &out->local.map_bytes, url, err);
}

static int parse_options(const char *text, dir_options *out, const char *url, pgs_error *err)
{
	unsigned seen = 0;
	int status = PGS_OK;
	while (text && !status) {
		const char *next = strchr(text, '&');
		pgs_slice option = {text, next ? (size_t)(next - text) : strlen(text)};
		status = parse_option(option, out, &seen, url, err);
		text = next ? next + 1 : NULL;
	}
	return status;
}

/* --- opening ------------------------------------------------------------------- */

static int open_memory(bool must_exist, const char *url, pgs_kv **kv, pgs_blob **blob, pgs_error *err)
{
	if (must_exist)
		return pgs__error(
			err, PGS_ENOTFOUND, "no pagestore store at '%s': a store in memory is always new", url);
	int status = pgs_kv_memory_new(kv, NULL, err);
	return status ? status : pgs_blob_memory_new(blob, err);
}

/* Without a KV there is no store, whatever else is there. */
static int check_exists(const char *path, const char *kv_path, const pgs_local_options *options, pgs_error *err)
{
	if (!options->read_only && !options->must_exist)
		return PGS_OK;
	char *data = pgs__path_join(kv_path, "data.mdb");
	if (!data)
		return pgs__error_nomem(err, "a path");
	bool there = access(data, F_OK) == 0;
	pgs__free(data);
	return there ? PGS_OK : pgs__error(err, PGS_ENOTFOUND, "no pagestore store at '%s'", path);
}

/* `kv` NULL: only the blobs. */
static int open_at(const char *path, const dir_options *dir, pgs_kv **kv, pgs_blob **blob, pgs_error *err)
{
	const pgs_local_options *options = &dir->local;
	char *kv_path = pgs__path_join(path, "kv"), *blob_path = pgs__path_join(path, "blobs");
	int status = kv_path && blob_path ? PGS_OK : pgs__error_nomem(err, "a path");
	if (!status && kv)
		status = check_exists(path, kv_path, options, err);
	if (!status)
		status = pgs__local_directory(path, options, err);
	if (!status && dir->blob)
		status = pgs__url_open_blob(dir->blob, &dir->how, blob, err);
	else if (!status)
		status = pgs_blob_local_open(blob, blob_path, options, err);
	if (!status && kv)
		status = pgs_kv_local_open(kv, kv_path, options, err);
	pgs__free(kv_path);
	pgs__free(blob_path);
	return status;
}

/* What is shown of a URL with another in it ends before that. */
static int open_directory(const char *url, const pgs__open_how *how, pgs_kv **kv, pgs_blob **blob, pgs_error *err)
{
	const char *text = url + strlen("dir:"), *question = strchr(text, '?');
	pgs_slice path_text = {text, question ? (size_t)(question - text) : strlen(text)};
	bool nested = question && strstr(question, "blob=");
	char *shown = pgs__strndup(url, nested ? (size_t)(question - url) : strlen(url)), *path = NULL;
	dir_options dir = {PGS_LOCAL_OPTIONS_INIT, NULL, *how};
	dir.local.read_only = how->read_only;
	dir.local.must_exist = how->must_exist;
	int status = shown ? decode_path(&path, path_text, shown, err) : pgs__error_nomem(err, "a URL");
	if (!status && question)
		status = parse_options(question + 1, &dir, shown, err);
	if (!status && dir.blob && !kv)
		status = pgs__error(err, PGS_EINVAL, "'%s' has its blobs elsewhere: name that place itself", shown);
	if (!status)
		status = open_at(path, &dir, kv, blob, err);
	pgs__free(path);
	pgs__free(shown);
	pgs__free(dir.blob);
	return status;
}

static bool begins(const char *url, const char *scheme)
{
	return !strncmp(url, scheme, strlen(scheme));
}

static int open_any(const char *url, const pgs__open_how *how, pgs_kv **kv, pgs_blob **blob, pgs_error *err)
{
	if (!url)
		return pgs__error(err, PGS_EINVAL, "the URL is NULL: mem:, dir:PATH and etcd://HOST are possible");
	if (!strcmp(url, "mem:"))
		return open_memory(how->must_exist || how->read_only, url, kv, blob, err);
	if (begins(url, "mem:"))
		return pgs__error(err, PGS_EINVAL, "'%s' has something behind mem:, where nothing but cache= and "
				  "cache_size= is allowed", url);
	if (begins(url, "dir:"))
		return open_directory(url, how, kv, blob, err);
	if (begins(url, "etcd:"))
		return pgs__url_open_etcd(url, how, kv, blob, err);
	/* Without its content: such a URL may hold a password. */
	if (begins(url, "s3:"))
		return pgs__error(err, PGS_EINVAL,
			"s3: holds blobs alone: give it as blob= (escaped) of an etcd:// or a dir: URL");
	return pgs__error(err, PGS_EINVAL, "the URL has no scheme that is known: mem:, dir:PATH and etcd://HOST are");
}

int pgs__url_open_blob(const char *url, const pgs__open_how *how, pgs_blob **blob, pgs_error *err)
{
	if (begins(url, "dir:"))
		return open_directory(url, how, NULL, blob, err);
	if (begins(url, "s3:"))
		return pgs__url_open_s3(url, how, blob, err);
	return pgs__error(
		err, PGS_EINVAL, "the URL's blob= is none that blobs can be kept at: dir:PATH and s3://BUCKET are");
}

const char *pgs__url_shown(const char *url)
{
	if (!url)
		return "a store";
	if (begins(url, "etcd:"))
		return "an etcd: store";
	if (begins(url, "dir:") && strstr(url, "blob="))
		return "a dir: store with its blobs elsewhere";
	return begins(url, "dir:") || begins(url, "mem:") || !strstr(url, "//") ? url : "a store";
}

int pgs__backends_open(const char *url, const pgs__open_how *how, pgs_kv **kv, pgs_blob **blob, pgs_error *err)
{
	*kv = NULL;
	*blob = NULL;
	int status = open_any(url, how, kv, blob, err);
	if (!status)
		return PGS_OK;
	if (*kv)
		(*kv)->vtable->close(*kv);
	if (*blob)
		(*blob)->vtable->close(*blob);
	*kv = NULL;
	*blob = NULL;
	return status;
}
