/* s3://bucket/prefix?endpoint=URL&…: blobs in a bucket, as the blob= of another URL.
 *
 * Whatever is wrong with one is said without repeating it: people write keys into URLs. They are refused there; they
 * come from the environment or a file. */
#include "url.h"

#include <string.h>

#include "util/alloc.h"
#include "util/cursor.h"
#include "util/error.h"

#define SCHEME "s3://"

enum { ENDPOINT, REGION, STYLE, CA, CREDENTIALS_FILE, NAME_COUNT };
static const char *const names[NAME_COUNT] = {"endpoint", "region", "style", "ca", "credentials_file"};

typedef struct s3_url {
	char *bucket;
	char *prefix;
	char *texts[NAME_COUNT];
} s3_url;

static void free_url(s3_url *url)
{
	pgs__free(url->bucket);
	pgs__free(url->prefix);
	for (size_t i = 0; i < NAME_COUNT; i++)
		pgs__free(url->texts[i]);
}

static bool is_secret(pgs_slice key)
{
	static const char *const words[] = {"access_key", "access_key_id", "secret", "secret_key", "secret_access_key",
		"session_token", "token", "password", "aws_access_key_id", "aws_secret_access_key",
		"aws_session_token"};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (pgs__url_is(key, words[i]))
			return true;
	return false;
}

static int parse_option(s3_url *url, pgs_slice option, pgs_error *err)
{
	const char *equals = option.size ? memchr(option.data, '=', option.size) : NULL;
	pgs_slice key = {option.data, equals ? (size_t)(equals - (const char *)option.data) : option.size};
	pgs_slice value = {equals ? equals + 1 : "", equals ? option.size - key.size - 1 : 0};
	size_t which = 0;
	if (is_secret(key))
		return pgs__error(err, PGS_EINVAL,
			"s3: keys do not go into a URL: set AWS_ACCESS_KEY_ID and "
			"AWS_SECRET_ACCESS_KEY, or credentials_file=");
	while (which < NAME_COUNT && !pgs__url_is(key, names[which]))
		which++;
	if (which == NAME_COUNT)
		return pgs__error(err, PGS_EINVAL,
			"s3: the URL has an option that is not known: endpoint, region, style, "
			"ca and credentials_file are");
	if (url->texts[which])
		return pgs__error(err, PGS_EINVAL, "s3: the URL has the option '%s' twice", names[which]);
	int status = pgs__url_decode_part(&url->texts[which], value, "s3", names[which], err);
	if (status == PGS_OK && !*url->texts[which])
		status = pgs__error(err, PGS_EINVAL, "s3: the URL's %s is empty", names[which]);
	return status;
}

static int parse_style(const char *text, pgs_s3_style *out, pgs_error *err)
{
	*out = PGS_S3_STYLE_AUTO;
	if (!text)
		return PGS_OK;
	if (strcmp(text, "path") != 0 && strcmp(text, "virtual") != 0)
		return pgs__error(err, PGS_EINVAL, "s3: the URL's style is neither path nor virtual");
	*out = *text == 'p' ? PGS_S3_STYLE_PATH : PGS_S3_STYLE_VIRTUAL;
	return PGS_OK;
}

static int parse(s3_url *url, const char *text, pgs_error *err)
{
	if (strncmp(text, SCHEME, strlen(SCHEME)) != 0)
		return pgs__error(err, PGS_EINVAL, "s3: a URL begins with " SCHEME "BUCKET");
	text += strlen(SCHEME);
	size_t bucket = strcspn(text, "/?");
	const char *prefix = text + bucket + (text[bucket] == '/');
	size_t prefix_size = strcspn(prefix, "?");
	int status = pgs__url_decode_part(&url->bucket, (pgs_slice){text, bucket}, "s3", "bucket", err);
	if (status == PGS_OK)
		status = pgs__url_decode_part(&url->prefix, (pgs_slice){prefix, prefix_size}, "s3", "prefix", err);
	const char *option = prefix[prefix_size] == '?' ? prefix + prefix_size + 1 : NULL;
	while (option && status == PGS_OK) {
		size_t size = strcspn(option, "&");
		status = parse_option(url, (pgs_slice){option, size}, err);
		option = option[size] ? option + size + 1 : NULL;
	}
	return status;
}

int pgs__url_open_s3(const char *text, const pgs__open_how *how, pgs_blob **blob, pgs_error *err)
{
	s3_url url = {0};
	pgs_s3_options options = PGS_S3_OPTIONS_INIT;
	int status = parse(&url, text, err);
	if (status == PGS_OK)
		status = parse_style(url.texts[STYLE], &options.style, err);
	options.endpoint = url.texts[ENDPOINT];
	options.region = url.texts[REGION];
	options.ca_file = url.texts[CA];
	options.credentials_file = url.texts[CREDENTIALS_FILE];
	options.read_only = how->read_only;
	options.open_timeout_ms = how->timeout_ms;
	if (status == PGS_OK)
		status = pgs_blob_s3_open(blob, url.bucket, url.prefix, &options, err);
	free_url(&url);
	return status;
}

#ifndef PGS_WITH_S3
int pgs_blob_s3_open(
	pgs_blob **out, const char *bucket, const char *prefix, const pgs_s3_options *options, pgs_error *err)
{
	(void)bucket;
	(void)prefix;
	(void)options;
	*out = NULL;
	return pgs__error(
		err, PGS_EINVAL, "s3: is not in this build of pagestore: build it with libcurl, PAGESTORE_S3=ON");
}
#endif
