/* Options to a handle: what bucket, endpoint and prefix may be, and the URLs made of them. */
#include "s3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define PREFIX_MAX 512
#define REGION_MAX 40
#define PARALLEL_MAX 256
#define PART_BYTES_MIN ((uint64_t)5 << 20)
#define PART_BYTES_MAX ((uint64_t)5 << 30)

#define MULTIPART_BYTES ((uint64_t)64 << 20)
#define PART_BYTES ((uint64_t)16 << 20)
#define PARALLEL 16
#define CONNECT_TIMEOUT_MS 5000
#define ANSWER_TIMEOUT_MS 30000
#define OPEN_TIMEOUT_MS 30000

/* --- what may be written -------------------------------------------------------- */

static bool consists_of(const char *text, size_t size, const char *more)
{
	for (size_t i = 0; i < size; i++) {
		char c = text[i];
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		if (!plain && !strchr(more, c))
			return false;
	}
	return true;
}

/* S3's own are stricter; other servers' are not. */
static int check_bucket(const char *bucket, pgs_error *err)
{
	size_t size = bucket ? strnlen(bucket, 256) : 0;
	if (size >= 1 && size <= 255 && consists_of(bucket, size, "-._") && bucket[0] != '.')
		return PGS_OK;
	return pgs__error(err, PGS_EINVAL, "s3: a bucket's name is 1 to 255 of a-z A-Z 0-9 - . _");
}

/* http:// or https://, a host or [address], perhaps a port, nothing else. */
static bool is_endpoint(const char *text)
{
	const char *host = !strncmp(text, "https://", 8) ? text + 8 : !strncmp(text, "http://", 7) ? text + 7 : NULL;
	if (!host || strlen(host) > 255)
		return false;
	const char *port = host;
	if (*host == '[') {
		port = strchr(host, ']');
		if (!port || port == host + 1 || !consists_of(host + 1, (size_t)(port - host - 1), ":."))
			return false;
		port++;
	} else {
		port += strcspn(host, ":");
		if (port == host || !consists_of(host, (size_t)(port - host), "-._"))
			return false;
	}
	if (*port == '\0')
		return true;
	size_t digits = strspn(port + 1, "0123456789");
	int number = digits <= 5 ? atoi(port + 1) : 0;
	return *port == ':' && port[1 + digits] == '\0' && number > 0 && number < 65536;
}

static bool is_prefix_part(const char *part, size_t size)
{
	if (size == 0 || (size == 1 && part[0] == '.') || (size == 2 && part[0] == '.' && part[1] == '.'))
		return false;
	for (size_t i = 0; i < size; i++)
		if ((unsigned char)part[i] < ' ' || part[i] == 0x7f)
			return false;
	return true;
}

/* Parts between single '/'s; one at the end is fine. */
static bool is_prefix(const char *text)
{
	size_t size = strlen(text);
	bool good = size <= PREFIX_MAX;
	while (good && *text) {
		size_t part = strcspn(text, "/");
		good = is_prefix_part(text, part);
		text += part + (text[part] == '/');
	}
	return good;
}

/* --- strings --------------------------------------------------------------------- */

/* Takes the buffer over. */
static int take_text(pgs__buffer *b, char **out, pgs_error *err)
{
	pgs__put_u8(b, 0);
	*out = b->failed ? NULL : (char *)b->data;
	if (!*out)
		pgs__buffer_free(b);
	return *out ? PGS_OK : pgs__error_nomem(err, "an s3 blob store");
}

static void put_text(pgs__buffer *b, const char *text)
{
	pgs__put_bytes(b, text, strlen(text));
}

static int copy(char **out, const char *text, pgs_error *err)
{
	*out = pgs__strndup(text, strlen(text));
	return *out ? PGS_OK : pgs__error_nomem(err, "an s3 blob store");
}

static const char *region_of(const pgs_s3_options *o)
{
	const char *names[] = {o->region, getenv("AWS_REGION"), getenv("AWS_DEFAULT_REGION")};
	for (size_t i = 0; i < 3; i++)
		if (names[i] && *names[i])
			return names[i];
	return "us-east-1";
}

static int set_region(pgs__s3 *s3, const pgs_s3_options *o, pgs_error *err)
{
	const char *region = region_of(o);
	pgs__buffer signing = {0};
	size_t size = strnlen(region, REGION_MAX + 1);
	if (size > REGION_MAX || !consists_of(region, size, "-_"))
		return pgs__error(err, PGS_EINVAL, "s3: a region is at most %d of a-z A-Z 0-9 - _", REGION_MAX);
	put_text(&signing, "aws:amz:");
	put_text(&signing, region);
	put_text(&signing, ":s3");
	int status = copy(&s3->region, region, err);
	return status == PGS_OK ? take_text(&signing, &s3->signing, err) : (pgs__buffer_free(&signing), status);
}

static int set_endpoint(pgs__s3 *s3, const pgs_s3_options *o, pgs_error *err)
{
	pgs__buffer endpoint = {0};
	if (!o->endpoint) {
		put_text(&endpoint, "https://s3.");
		put_text(&endpoint, s3->region);
		put_text(&endpoint, ".amazonaws.com");
		return take_text(&endpoint, &s3->endpoint, err);
	}
	size_t size = strlen(o->endpoint);
	if (size && o->endpoint[size - 1] == '/')
		size--;
	int status =
		(s3->endpoint = pgs__strndup(o->endpoint, size)) ? PGS_OK : pgs__error_nomem(err, "an s3 blob store");
	if (status == PGS_OK && !is_endpoint(s3->endpoint))
		status = pgs__error(err, PGS_EINVAL, "s3: an endpoint is http://HOST:PORT or https://HOST:PORT");
	return status;
}

/* A bucket with a dot has no certificate as a host. */
static bool is_virtual(const pgs__s3 *s3, const pgs_s3_options *o)
{
	if (o->style == PGS_S3_STYLE_AUTO)
		return !o->endpoint && !strpbrk(s3->bucket, "._");
	return o->style == PGS_S3_STYLE_VIRTUAL;
}

static int set_urls(pgs__s3 *s3, const pgs_s3_options *o, pgs_error *err)
{
	pgs__buffer url = {0}, root = {0};
	const char *host = strstr(s3->endpoint, "://") + 3;
	bool is_host = is_virtual(s3, o);
	if (is_host && *host == '[')
		return pgs__error(err, PGS_EINVAL, "s3: an address has no virtual hosts: write style=path");
	pgs__put_bytes(&url, s3->endpoint, (size_t)(host - s3->endpoint));
	if (is_host) {
		put_text(&url, s3->bucket);
		put_text(&url, ".");
		put_text(&url, host);
		put_text(&url, "/");
	} else {
		put_text(&url, host);
		put_text(&url, "/");
		put_text(&url, s3->bucket);
		put_text(&url, "/");
	}
	int status = take_text(&url, &s3->bucket_url, err);
	if (status != PGS_OK)
		return status;
	put_text(&root, s3->bucket_url);
	pgs__s3_put_encoded(&root, s3->root, strlen(s3->root), true);
	return take_text(&root, &s3->root_url, err);
}

static int set_root(pgs__s3 *s3, const char *prefix, pgs_error *err)
{
	pgs__buffer root = {0};
	prefix = prefix ? prefix : "";
	if (!is_prefix(prefix))
		return pgs__error(err, PGS_EINVAL,
			"s3: a prefix is at most %d bytes, without empty parts, . and .. between its /", PREFIX_MAX);
	size_t size = strlen(prefix);
	put_text(&root, prefix);
	if (size && prefix[size - 1] != '/')
		put_text(&root, "/");
	return take_text(&root, &s3->root, err);
}

/* --- opening ----------------------------------------------------------------------- */

static void s3_operations(pgs_blob *blob, pgs_operation_visitor visit, void *ctx)
{
	static const char *const names[PGS__S3_OPERATIONS] = {
		[PGS__S3_OP_PUT] = "put",
		[PGS__S3_OP_PART] = "part",
		[PGS__S3_OP_UPLOAD] = "upload",
		[PGS__S3_OP_GET] = "get",
		[PGS__S3_OP_HEAD] = "head",
		[PGS__S3_OP_LIST] = "list",
		[PGS__S3_OP_DELETE] = "delete",
	};
	for (size_t i = 0; i < PGS__S3_OPERATIONS; i++)
		pgs__meter_visit(&pgs__s3_of(blob)->meters[i], "s3", names[i], visit, ctx);
}

static unsigned s3_concurrency(pgs_blob *blob)
{
	return (unsigned)pgs__s3_of(blob)->parallel;
}

static void s3_close(pgs_blob *blob)
{
	pgs__s3 *s3 = pgs__s3_of(blob);
	pgs__s3_wire_close(s3);
	pgs__s3_signer_close(s3);
	pgs__free(s3->endpoint);
	pgs__free(s3->bucket);
	pgs__free(s3->root);
	pgs__free(s3->bucket_url);
	pgs__free(s3->root_url);
	pgs__free(s3->region);
	pgs__free(s3->signing);
	pgs__free(s3->ca_file);
	pthread_mutex_destroy(&s3->lock);
	pthread_mutex_destroy(&s3->renewal);
	pgs__free(s3);
}

static const pgs_blob_vtable vtable = {
	.version = PGS_BLOB_VERSION,
	.struct_size = sizeof vtable,
	.put = pgs__s3_put,
	.get = pgs__s3_get,
	.stat = pgs__s3_stat,
	.list = pgs__s3_list,
	.remove = pgs__s3_remove,
	.close = s3_close,
	.operations = s3_operations,
	.concurrency = s3_concurrency,
};

static int set_numbers(pgs__s3 *s3, const pgs_s3_options *o, pgs_error *err)
{
	s3->multipart_bytes = o->multipart_bytes ? o->multipart_bytes : MULTIPART_BYTES;
	s3->part_bytes = o->part_bytes ? o->part_bytes : PART_BYTES;
	s3->parallel = o->parallel ? o->parallel : PARALLEL;
	s3->answer_timeout_ms = o->answer_timeout_ms ? o->answer_timeout_ms : ANSWER_TIMEOUT_MS;
	s3->http.connect_timeout_ms = o->connect_timeout_ms ? o->connect_timeout_ms : CONNECT_TIMEOUT_MS;
	s3->read_only = o->read_only;
	if (s3->parallel > PARALLEL_MAX)
		return pgs__error(err, PGS_EINVAL, "s3: parallel is at most %d", PARALLEL_MAX);
	if (s3->part_bytes < PART_BYTES_MIN || s3->part_bytes > PART_BYTES_MAX || s3->multipart_bytes > PART_BYTES_MAX)
		return pgs__error(err, PGS_EINVAL, "s3: part_bytes is 5 MiB to 5 GiB, multipart_bytes at most 5 GiB");
	return PGS_OK;
}

static int set_all(pgs__s3 *s3, const char *bucket, const char *prefix, const pgs_s3_options *o, pgs_error *err)
{
	int status = check_bucket(bucket, err);
	if (status == PGS_OK)
		status = set_numbers(s3, o, err);
	if (status == PGS_OK)
		status = copy(&s3->bucket, bucket, err);
	if (status == PGS_OK && o->ca_file)
		status = copy(&s3->ca_file, o->ca_file, err);
	s3->http.ca_file = s3->ca_file;
	if (status == PGS_OK)
		status = set_root(s3, prefix, err);
	if (status == PGS_OK)
		status = set_region(s3, o, err);
	if (status == PGS_OK)
		status = set_endpoint(s3, o, err);
	if (status == PGS_OK)
		status = set_urls(s3, o, err);
	return status == PGS_OK ? pgs__s3_signer_init(s3, o, err) : status;
}

int pgs_blob_s3_open(
	pgs_blob **out, const char *bucket, const char *prefix, const pgs_s3_options *options, pgs_error *err)
{
	pgs_s3_options o = PGS_S3_OPTIONS_INIT;
	*out = NULL;
	if (options && options->struct_size != sizeof o)
		return pgs__error(
			err, PGS_EINVAL, "s3: the options' struct_size is wrong: begin with PGS_S3_OPTIONS_INIT");
	o = options ? *options : o;
	int status = pgs__http_start(err);
	if (status != PGS_OK)
		return status;
	pgs__s3 *s3 = pgs__calloc(1, sizeof *s3);
	if (!s3)
		return pgs__error_nomem(err, "an s3 blob store");
	pthread_mutex_init(&s3->lock, NULL);
	pthread_mutex_init(&s3->renewal, NULL);
	s3->base.vtable = &vtable;
	status = set_all(s3, bucket, prefix, &o, err);
	if (status == PGS_OK)
		status = pgs__s3_check_bucket(
			s3, pgs__now_ms() + (o.open_timeout_ms ? o.open_timeout_ms : OPEN_TIMEOUT_MS), err);
	if (status != PGS_OK) {
		s3_close(&s3->base);
		return status;
	}
	*out = &s3->base;
	return PGS_OK;
}
