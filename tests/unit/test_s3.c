/* The S3 backend without S3: what may be written in options, URLs and files; what it makes of answers that are late,
 * wrong, short or hostile, from a server inside of this program. Deadlines hold, and nothing short is accepted. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <pagestore/backends.h>

#include "../../backends/s3/credentials.h"
#include "../../backends/s3/md5.h"
#include "../../backends/s3/page.h"
#include "../../backends/s3/xml.h"
#include "../../backends/url.h"
#include "support/blob_calls.h"
#include "support/failing_alloc.h"
#include "support/fake_http.h"
#include "support/operations.h"
#include "support/scratch.h"
#include "support/testing.h"
#include "util/clock.h"
#include "util/hooks.h"
#include "util/random.h"

#define SLACK_MS 400 /* a scheduling delay, on a machine that has much else to do */
#define CLEANUP_MS 1000

#define ID "AKIDEXAMPLE"
#define SECRET "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
#define TOKEN "session-token-EXAMPLE=="

/* --- MD5 --------------------------------------------------------------------------- */

static void expect_md5(const char *text, const char *expected)
{
	size_t size = strlen(text);
	for (size_t chunk = 1; chunk <= size + 1; chunk++) {
		pgs__md5 md5;
		uint8_t digest[16];
		char hex[33];
		pgs__md5_init(&md5);
		for (size_t at = 0; at < size; at += chunk)
			pgs__md5_update(&md5, text + at, size - at < chunk ? size - at : chunk);
		pgs__md5_final(&md5, digest);
		pgs__hex(hex, digest, sizeof digest);
		assert_string_equal(hex, expected);
	}
}

/* RFC 1321, A.5, and around the ends of blocks. */
static void test_md5__is_that_of_the_rfc(void **state)
{
	(void)state;
	char text[128];
	static const struct {
		size_t size;
		const char *md5;
	} lengths[] = {
		{55, "ef1772b6dff9a122358552954ad0df65"},
		{56, "3b0c8ac703f828b04c6c197006d17218"},
		{57, "652b906d60af96844ebd21b674f35e93"},
		{63, "b06521f39153d618550606be297466d5"},
		{64, "014842d480b571495a4a0363793f7367"},
		{65, "c743a45e0d2e6a95cb859adae0248435"},
		{119, "8a7bd0732ed6a28ce75f6dabc90e1613"},
		{120, "5f61c0ccad4cac44c75ff505e1f1e537"},
	};
	expect_md5("", "d41d8cd98f00b204e9800998ecf8427e");
	expect_md5("a", "0cc175b9c0f1b6a831c399e269772661");
	expect_md5("message digest", "f96b697d7cb7938d525a2f31aaf161d0");
	expect_md5("12345678901234567890123456789012345678901234567890123456789012345678901234567890",
		"57edf4a22be3c955ac49da2e2107b67a");
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		memset(text, 'a', lengths[i].size);
		text[lengths[i].size] = '\0';
		expect_md5(text, lengths[i].md5);
	}
}

/* --- XML ------------------------------------------------------------------------------- */

typedef struct collected {
	char text[1024];
	size_t stop_at;
} collected;

static int collect(void *ctx, const char *path, const char *text, size_t size)
{
	collected *c = ctx;
	size_t used = strlen(c->text);
	assert_int_equal(strlen(text), size);
	snprintf(c->text + used, sizeof c->text - used, "%s=%s;", path, text);
	return c->stop_at && --c->stop_at == 0 ? 77 : PGS_OK;
}

static void expect_xml(const char *document, const char *expected)
{
	collected c = {"", 0};
	int status = pgs__xml_read((pgs_slice){document, strlen(document)}, collect, &c);
	if (status != PGS_OK || strcmp(c.text, expected) != 0)
		fail_msg("%d: '%s', not '%s'", status, c.text, expected);
}

static void test_xml__gives_elements_at_their_ends(void **state)
{
	(void)state;
	expect_xml("<a/>", "a=;");
	expect_xml("\xef\xbb\xbf<?xml version=\"1.0\"?>\n<a xmlns='x&y' b = \"1>2\" ><b>1</b>\n<c >2</c ><d/></a>\n",
		"a/b=1;a/c=2;a/d=;a=;");
	expect_xml("<a>&lt;&gt;&amp;&quot;&apos;&#65;&#x42;&#xe9;&#x20ac;&#x1F600;</a>",
		"a=<>&\"'AB\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80;");
	expect_xml("<a><!-- <b> --><![CDATA[<x>&amp;]]>]]</a>", "a=<x>&amp;]];");
	collected c = {"", 2};
	assert_int_equal(pgs__xml_read((pgs_slice){"<a><b/><c/><d/></a>", 19}, collect, &c), 77);
	assert_string_equal(c.text, "a/b=;a/c=;");
}

static void expect_no_xml(const char *document, size_t size)
{
	collected c = {"", 0};
	/* In memory of its own: the sanitizer sees where it ends. */
	char *copy = malloc(size ? size : 1);
	memcpy(copy, document, size);
	if (pgs__xml_read((pgs_slice){copy, size}, collect, &c) != PGS_ECORRUPT)
		fail_msg("'%.*s' was accepted", (int)size, document);
	free(copy);
}

static void test_xml__refuses_what_is_none(void **state)
{
	(void)state;
	static const char *const bad[] = {"", " ", "text", "<", "<a", "<a>", "</a>", "<a></b>", "<a></a", "<a/><b/>",
		"<a/>x", "x<a/>", "<a>&nbsp;</a>", "<a>&", "<a>&#;</a>", "<a>&#0;</a>", "<a>&#x110000;</a>",
		"<a>&#xd800;</a>", "<a>&#99999999999999999999;</a>", "<a b></a>", "<a b=></a>", "<a b=1></a>",
		"<a b=\"></a>", "<a/", "<a /x>", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>", "<!-- <a/>",
		"<?xml <a/>", "<a><![CDATA[</a>", "<![CDATA[x]]><a/>",
		"<a><a><a><a><a><a><a><a><a/></a></a></a></a></a></a></a></a>", "< a/>", "<a>\x01<", "<a></a></a>"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		expect_no_xml(bad[i], strlen(bad[i]));
	expect_no_xml("<a>\0</a>", 8);
	/* Names and text beyond the limits. */
	char *large = malloc(20000);
	memset(large, 'x', 20000);
	large[0] = '<';
	large[19999] = '>';
	expect_no_xml(large, 20000);
	memcpy(large, "<a>", 3);
	memcpy(large + 19996, "</a>", 4);
	expect_no_xml(large, 20000);
	free(large);
}

static const char whole_list[] =
	"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult "
	"xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
	"<Name>b</Name><IsTruncated>true</IsTruncated><Contents><Key>p/a%20b%2Bc+d</Key><Size>12</Size></Contents>"
	"<Contents><Size>0</Size><Key>p/z</Key><Owner><ID>1</ID></Owner></Contents>"
	"<NextContinuationToken>t&amp;t</NextContinuationToken><EncodingType>url</EncodingType></ListBucketResult>";

static int read_page(const char *text, size_t size, pgs__s3_page *page)
{
	return pgs__s3_page_read((pgs_slice){text, size}, page);
}

static void test_list_page__is_read(void **state)
{
	(void)state;
	pgs__s3_page page;
	assert_int_equal(read_page(whole_list, strlen(whole_list), &page), PGS_OK);
	assert_int_equal(page.count, 2);
	assert_true(page.truncated);
	assert_string_equal(page.token, "t&t");
	assert_string_equal((char *)page.text.data + page.entries[0].key, "p/a b+c d");
	assert_int_equal(page.entries[0].size, 12);
	assert_string_equal((char *)page.text.data + page.entries[1].key, "p/z");
	assert_int_equal(page.entries[1].size, 0);
	pgs__s3_page_free(&page);
}

static void test_list_page__that_is_cut_or_nonsense_is_refused(void **state)
{
	(void)state;
	pgs__s3_page page;
	for (size_t size = 0; size < strlen(whole_list); size++) {
		char *cut = malloc(size ? size : 1);
		memcpy(cut, whole_list, size);
		assert_int_equal(read_page(cut, size, &page), PGS_ECORRUPT);
		pgs__s3_page_free(&page);
		free(cut);
	}
#define IN(inside) "<ListBucketResult>" inside "</ListBucketResult>"
	static const char *const bad[] = {"<html><body>Welcome</body></html>", "<Error><Code>X</Code></Error>",
		IN("<Contents><Key>a</Key></Contents>"), IN("<Contents><Size>1</Size></Contents>"),
		IN("<Contents><Key>a</Key><Key>b</Key><Size>1</Size></Contents>"),
		IN("<Contents><Key></Key><Size>1</Size></Contents>"),
		IN("<Contents><Key>a</Key><Size></Size></Contents>"),
		IN("<Contents><Key>a</Key><Size>-1</Size></Contents>"),
		IN("<Contents><Key>a</Key><Size>1x</Size></Contents>"),
		IN("<Contents><Key>a</Key><Size>99999999999999999999</Size></Contents>"),
		IN("<Contents><Key>a</Key><Size>9999999999999999999</Size></Contents>"),
		IN("<IsTruncated>true</IsTruncated>"), IN("<NextContinuationToken></NextContinuationToken>"),
		IN("<EncodingType>url</EncodingType><Contents><Key>a%</Key><Size>1</Size></Contents>"),
		IN("<EncodingType>url</EncodingType><Contents><Key>a%4</Key><Size>1</Size></Contents>"),
		IN("<EncodingType>url</EncodingType><Contents><Key>a%zz</Key><Size>1</Size></Contents>"),
		IN("<EncodingType>url</EncodingType><Contents><Key>a%00</Key><Size>1</Size></Contents>")};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		if (read_page(bad[i], strlen(bad[i]), &page) != PGS_ECORRUPT)
			fail_msg("'%s' was accepted", bad[i]);
		pgs__s3_page_free(&page);
	}
}

/* --- options, URLs, credentials -------------------------------------------------------------- */

static pgs_s3_options good_options(void)
{
	pgs_s3_options o = PGS_S3_OPTIONS_INIT;
	o.endpoint = "http://127.0.0.1:9"; /* discard: nobody listens */
	o.access_key_id = ID;
	o.secret_access_key = SECRET;
	o.open_timeout_ms = 50;
	return o;
}

static void expect_no_secret(const pgs_error *err)
{
	assert_null(strstr(err->message, SECRET));
	assert_null(strstr(err->message, TOKEN));
	assert_null(strstr(err->message, "hunter2"));
}

static void expect_no_open(
	const char *bucket, const char *prefix, const pgs_s3_options *o, int status, const char *says)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_blob *blob = (pgs_blob *)&err;
	int got = pgs_blob_s3_open(&blob, bucket, prefix, o, &err);
	if (got != status || !strstr(err.message, says))
		fail_msg("'%s': %d: '%s' does not say '%s'", bucket, got, err.message, says);
	assert_null(blob);
	expect_no_secret(&err);
}

static void test_open__says_what_is_wrong_with_options(void **state)
{
	(void)state;
	static const char *const endpoints[] = {"", "h", "ftp://h", "http://", "http://h:", "http://h:0",
		"http://h:65536", "http://h:1x", "http://h:123456789012345678901", "http://me:hunter2@h",
		"http://h/path", "http://h?q", "http://h h", "http://[::1", "http://[]", "http://[::1]x", "http://::1"};
	static const char *const buckets[] = {"", "a/b", "me:hunter2@b", "a b", "..", "\xc3\xa9", "?"};
	static const char *const prefixes[] = {"/a", "a//b", ".", "a/..", "a/./b", "a\nb", "/"};
	pgs_s3_options o = good_options();
	for (size_t i = 0; i < sizeof endpoints / sizeof *endpoints; i++) {
		o.endpoint = endpoints[i];
		expect_no_open("b", NULL, &o, PGS_EINVAL, "http://HOST:PORT");
	}
	o = good_options();
	for (size_t i = 0; i < sizeof buckets / sizeof *buckets; i++)
		expect_no_open(buckets[i], NULL, &o, PGS_EINVAL, "bucket's name");
	expect_no_open(NULL, NULL, &o, PGS_EINVAL, "bucket's name");
	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
		expect_no_open("b", prefixes[i], &o, PGS_EINVAL, "prefix");
	o.region = "eu west";
	expect_no_open("b", NULL, &o, PGS_EINVAL, "region");
	o = good_options();
	o.endpoint = "http://[::1]:9";
	o.style = PGS_S3_STYLE_VIRTUAL;
	expect_no_open("b", NULL, &o, PGS_EINVAL, "style=path");
	o = good_options();
	o.parallel = 1000;
	expect_no_open("b", NULL, &o, PGS_EINVAL, "parallel");
	o = good_options();
	o.part_bytes = 1 << 20;
	expect_no_open("b", NULL, &o, PGS_EINVAL, "part_bytes");
	o.struct_size = 1;
	expect_no_open("b", NULL, &o, PGS_EINVAL, "struct_size");
}

static void test_open__where_nobody_answers_ends_soon(void **state)
{
	(void)state;
	pgs_s3_options o = good_options();
	o.open_timeout_ms = 0;
	uint64_t started = pgs__now_ms();
	expect_no_open("b", "p", &o, PGS_EIO, "cannot list bucket 'b' at http://127.0.0.1:9: ");
	o.open_timeout_ms = 30;
	expect_no_open("b", "p", &o, PGS_ETIMEOUT, "the deadline has passed");
	assert_true(pgs__now_ms() - started < 5000);
}

static void expect_bad_url(const char *url, const char *says)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_blob *blob = NULL;
	int status = pgs__url_open_blob(url, &(pgs__open_how){0}, &blob, &err);
	if (status != PGS_EINVAL || !strstr(err.message, says))
		fail_msg("'%s': %d: '%s' does not say '%s'", url, status, err.message, says);
	assert_null(blob);
	expect_no_secret(&err);
}

static void test_url__says_what_is_wrong_without_repeating_it(void **state)
{
	(void)state;
	expect_bad_url("s3:b", "s3://BUCKET");
	expect_bad_url("s3://", "bucket's name");
	expect_bad_url("s3://me:hunter2@b/p", "bucket's name");
	expect_bad_url("s3://b%zz/p", "%XX");
	expect_bad_url("s3://b/p%00", "%XX");
	expect_bad_url("s3://b/p?hunter2=1", "not known");
	expect_bad_url("s3://b/p?", "not known");
	expect_bad_url("s3://b/p?region=", "region is empty");
	expect_bad_url("s3://b/p?region=a&region=b", "'region' twice");
	expect_bad_url("s3://b/p?style=hunter2", "neither path nor virtual");
	expect_bad_url("s3://b/p?endpoint=http%3A//me%3Ahunter2@h", "http://HOST:PORT");
	expect_bad_url("s3://b/p?secret_access_key=hunter2", "do not go into a URL");
	expect_bad_url("s3://b/p?access_key_id=hunter2", "do not go into a URL");
	expect_bad_url("s3://b/p?token=hunter2", "do not go into a URL");
}

static void expect_store_url(const char *url, const char *says)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_blob *blob;
	assert_int_equal(pgs__backends_open(url, &(pgs__open_how){0}, &kv, &blob, &err), PGS_EINVAL);
	if (!strstr(err.message, says))
		fail_msg("'%s' does not say '%s'", err.message, says);
	expect_no_secret(&err);
}

static void test_url__of_blobs_alone_is_no_store(void **state)
{
	(void)state;
	char url[300];
	expect_store_url("s3://b/hunter2", "blob=");
	expect_store_url("dir:/tmp/x?blob=", "blob=");
	snprintf(url, sizeof url, "dir:%s/x?blob=s3%%3A//b%%3Ftoken%%3Dhunter2", scratch_root());
	expect_store_url(url, "do not go into a URL");
	expect_store_url("dir:/tmp/x?blob=s3%3A//hunter2&sync=never", "full, lazy and off");
	assert_null(strstr(pgs__url_shown("dir:/x?blob=hunter2"), "hunter2"));
	assert_null(strstr(pgs__url_shown("s3://hunter2"), "hunter2"));
}

static void expect_credentials(const pgs_s3_options *o, int status, const char *secret, const char *token)
{
	pgs__s3_credentials c;
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(pgs__s3_credentials_find(&c, o, &err), status);
	expect_no_secret(&err);
	assert_true((c.secret == NULL) == (secret == NULL));
	assert_true((c.token == NULL) == (token == NULL));
	if (secret)
		assert_string_equal(c.secret, secret);
	if (token)
		assert_string_equal(c.token, token);
	pgs__s3_credentials_free(&c);
}

static void expect_file(const char *text, int status, const char *secret, const char *token)
{
	pgs_s3_options o = PGS_S3_OPTIONS_INIT;
	scratch_write(scratch_path("credentials"), text, strlen(text));
	o.credentials_file = scratch_path("credentials");
	expect_credentials(&o, status, secret, token);
}

static void test_credentials__come_from_files(void **state)
{
	(void)state;
	expect_file("aws_access_key_id=a\naws_secret_access_key=hunter2", PGS_OK, "hunter2", NULL);
	expect_file("# mine\r\n[default]\r\n  aws_access_key_id = a \r\naws_secret_access_key\t=\thunter2\r\n"
		    "aws_session_token=t==\nregion=x\n[other]\naws_secret_access_key=no\n",
		PGS_OK, "hunter2", "t==");
	expect_file("[other]\naws_access_key_id=a\naws_secret_access_key=hunter2\n", PGS_EAUTH, NULL, NULL);
	expect_file("", PGS_EAUTH, NULL, NULL);
	expect_file("aws_access_key_id=a\n;aws_secret_access_key=hunter2\n", PGS_EAUTH, NULL, NULL);
	expect_file("aws_access_key_id=a\naws_secret_access_key=\n", PGS_EAUTH, NULL, NULL);
	expect_file("aws_access_key_id=a\naws_secret_access_key=hunter2 hunter2\n", PGS_EAUTH, NULL, NULL);
	pgs_s3_options o = PGS_S3_OPTIONS_INIT;
	o.credentials_file = scratch_path("none");
	expect_credentials(&o, PGS_EAUTH, NULL, NULL);
}

static void test_credentials__come_from_the_environment(void **state)
{
	(void)state;
	pgs_s3_options o = PGS_S3_OPTIONS_INIT;
	unsetenv("AWS_SECRET_ACCESS_KEY");
	setenv("AWS_ACCESS_KEY_ID", ID, 1);
	expect_credentials(&o, PGS_EAUTH, NULL, NULL);
	setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
	expect_credentials(&o, PGS_OK, SECRET, NULL);
	setenv("AWS_SESSION_TOKEN", TOKEN, 1);
	expect_credentials(&o, PGS_OK, SECRET, TOKEN);
	/* Given ones are taken whole. */
	o.access_key_id = "a";
	expect_credentials(&o, PGS_EAUTH, NULL, NULL);
	o.secret_access_key = "s";
	expect_credentials(&o, PGS_OK, "s", NULL);
	unsetenv("AWS_ACCESS_KEY_ID");
	unsetenv("AWS_SECRET_ACCESS_KEY");
	unsetenv("AWS_SESSION_TOKEN");
}

/* --- a server that misbehaves ----------------------------------------------------------------- */

enum { OBJECT_SIZE = 1000 };

typedef enum fault {
	ANSWER, /* the text, then the connection closes */
	CLOSE,  /* the connection, without a word */
	STALL,  /* nothing at all */
	TRICKLE /* a byte every 20 ms */
} fault;

/* Holds one object, "object"; takes any put. The next `times` requests (but lists, and those without `only` in their
 * target) get the fault. */
typedef struct fixture {
	fake_http *fake;
	pgs_blob *blob;
	pthread_mutex_t lock;
	fault fault;
	int times;
	const char *only; /* NULL: any */
	char text[4096];
	const char *token;    /* requests with another have expired; NULL: any */
	const char *list;     /* NULL: an empty one */
	char put_etag[200];   /* with more headers, perhaps; "": the MD5 */
	uint64_t head_length; /* of what was put */
	unsigned requests, removed, aborted;
	bool completed; /* an upload in parts */
	char last_headers[8192];
	uint8_t object[OBJECT_SIZE];
} fixture;

static bool play(fixture *f, const fake_request *r, fault what, const char *text)
{
	if (what == ANSWER)
		fake_send(r, text, strlen(text));
	else if (what == STALL)
		fake_wait(r, 60000);
	for (size_t i = 0; what == TRICKLE && i < 3000; i++) {
		fake_send(r, text + i % strlen(text), 1);
		fake_wait(r, 20);
	}
	(void)f;
	return false;
}

static bool serve_get(fixture *f, const fake_request *r)
{
	char range[64];
	unsigned long long from = 0, to = OBJECT_SIZE - 1;
	fake_header(r, "Range", range, sizeof range);
	if (!strstr(r->target, "/object")) {
		static const char none[] = "<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>";
		fake_sendf(r, "HTTP/1.1 404 Not Found\r\nContent-Length: %zu\r\n\r\n%s", strlen(none), none);
		return true;
	}
	sscanf(range, "bytes=%llu-%llu", &from, &to);
	if (from >= OBJECT_SIZE) {
		fake_sendf(r, "HTTP/1.1 416 Range\r\nContent-Length: 0\r\n\r\n");
		return true;
	}
	to = to < OBJECT_SIZE ? to : OBJECT_SIZE - 1;
	fake_sendf(r, "HTTP/1.1 206 Partial\r\nContent-Length: %llu\r\nContent-Range: bytes %llu-%llu/%d\r\n\r\n",
		to - from + 1, from, to, OBJECT_SIZE);
	fake_send(r, f->object + from, (size_t)(to - from + 1));
	return true;
}

static bool serve_put(fixture *f, const fake_request *r)
{
	pgs__md5 md5;
	uint8_t digest[16];
	char hex[33];
	pgs__md5_init(&md5);
	pgs__md5_update(&md5, r->body, r->body_size);
	pgs__md5_final(&md5, digest);
	pgs__hex(hex, digest, sizeof digest);
	fake_sendf(r, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: ");
	if (*f->put_etag)
		fake_sendf(r, "%s\r\n\r\n", f->put_etag);
	else
		fake_sendf(r, "\"%s\"\r\n\r\n", hex);
	return true;
}

/* The beginning and the end of an upload in parts, which can be completed once. */
static bool serve_post(const fake_request *r, bool again)
{
	static const char begun[] =
		"<InitiateMultipartUploadResult><UploadId>a+b/c=</UploadId></InitiateMultipartUploadResult>";
	static const char gone[] = "<Error><Code>NoSuchUpload</Code></Error>";
	static const char good[] = "<CompleteMultipartUploadResult/>";
	const char *text = strstr(r->target, "?uploads=") ? begun : again ? gone : good;
	fake_sendf(r, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s", text == gone ? "404 No" : "200 OK", strlen(text),
		text);
	return true;
}

static bool serve(void *ctx, const fake_request *r)
{
	fixture *f = ctx;
	static const char empty[] = "<ListBucketResult></ListBucketResult>";
	char text[4096];
	bool is_list = strstr(r->target, "list-type=2") != NULL;
	pthread_mutex_lock(&f->lock);
	bool is_end = !strcmp(r->method, "POST") && strstr(r->target, "?uploadId=a%2Bb%2Fc%3D"), again = f->completed;
	bool faulty = f->times > 0 && !is_list && (!f->only || strstr(r->target, f->only));
	fault what = f->fault;
	const char *list = f->list ? f->list : empty;
	bool expired = f->token && !strstr(r->headers, f->token);
	f->times -= faulty;
	f->requests++;
	f->aborted += !strcmp(r->method, "DELETE") && strstr(r->target, "?uploadId=");
	f->removed += !strcmp(r->method, "DELETE") && !strstr(r->target, "?uploadId=");
	f->completed |= is_end && (!faulty || what == CLOSE); /* a lost answer's request was good */
	snprintf(text, sizeof text, "%s", f->text);
	snprintf(f->last_headers, sizeof f->last_headers, "%s", r->headers);
	pthread_mutex_unlock(&f->lock);
	if (faulty)
		return play(f, r, what, text);
	if (expired && !strcmp(r->method, "HEAD"))
		fake_sendf(r, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
	else if (expired)
		fake_sendf(r, "HTTP/1.1 400 Bad Request\r\nContent-Length: 46\r\n\r\n"
			      "<Error><Code>ExpiredToken</Code></Error>      ");
	else if (is_list)
		fake_sendf(r, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(list), list);
	else if (!strcmp(r->method, "GET"))
		return serve_get(f, r);
	else if (!strcmp(r->method, "PUT"))
		return serve_put(f, r);
	else if (!strcmp(r->method, "POST"))
		return serve_post(r, again);
	else if (!strcmp(r->method, "HEAD"))
		fake_sendf(r, "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\n\r\n", (unsigned long long)f->head_length);
	else
		fake_sendf(r, "HTTP/1.1 204 No Content\r\n\r\n");
	return true;
}

static pgs_s3_options fake_options(const fixture *f)
{
	static char endpoint[64];
	pgs_s3_options o = PGS_S3_OPTIONS_INIT;
	snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%u", fake_http_port(f->fake));
	o.endpoint = endpoint;
	o.access_key_id = ID;
	o.secret_access_key = SECRET;
	o.session_token = TOKEN;
	o.answer_timeout_ms = 2000;
	return o;
}

static int set_up(void **state)
{
	fixture *f = calloc(1, sizeof *f);
	pgs_error err = PGS_ERROR_INIT;
	pthread_mutex_init(&f->lock, NULL);
	f->head_length = OBJECT_SIZE;
	for (size_t i = 0; i < OBJECT_SIZE; i++)
		f->object[i] = pattern_byte(1, i);
	f->fake = fake_http_start(serve, f);
	pgs_s3_options o = fake_options(f);
	if (pgs_blob_s3_open(&f->blob, "bucket", "pre fix", &o, &err) != PGS_OK)
		print_error("%s\n", err.message);
	*state = f;
	return f->blob ? 0 : -1;
}

static int tear_down(void **state)
{
	fixture *f = *state;
	f->blob->vtable->close(f->blob);
	fake_http_stop(f->fake);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return 0;
}

static void set_fault(fixture *f, fault what, int times, const char *text)
{
	pthread_mutex_lock(&f->lock);
	f->fault = what;
	f->times = times;
	f->requests = 0;
	snprintf(f->text, sizeof f->text, "%s", text ? text : "");
	pthread_mutex_unlock(&f->lock);
}

static unsigned requests_of(fixture *f)
{
	pthread_mutex_lock(&f->lock);
	unsigned requests = f->requests;
	pthread_mutex_unlock(&f->lock);
	return requests;
}

/* An answer with a length that is right. */
static const char *reply(const char *status, const char *headers, const char *body)
{
	static char text[4096];
	snprintf(text, sizeof text, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n%s", status, headers, strlen(body),
		body);
	return text;
}

/* --- the five operations, each checked ------------------------------------------------------------ */

enum { OP_GET, OP_PUT, OP_STAT, OP_REMOVE, OP_LIST, OP_COUNT };

static int nothing(void *ctx, const char *name, uint64_t size)
{
	(void)ctx;
	(void)name;
	(void)size;
	return 0;
}

static int get_part(fixture *f, uint64_t offset, size_t size, uint64_t deadline, pgs_error *err)
{
	uint8_t bytes[OBJECT_SIZE + 100];
	memset(bytes, 0xee, sizeof bytes);
	pgs_blob_range range = {"object", offset, size, bytes, 1};
	int status = f->blob->vtable->get(f->blob, &range, 1, deadline, err);
	assert_int_equal(status, range.status);
	for (size_t i = 0; status == PGS_OK && i < size; i++)
		assert_int_equal(bytes[i], f->object[offset + i]);
	for (size_t i = size; i < sizeof bytes; i++)
		assert_int_equal(bytes[i], 0xee);
	return status;
}

static int run_op(fixture *f, int op, uint64_t deadline, pgs_error *err)
{
	pgs_blob *blob = f->blob;
	pattern_source source = {.seed = 1};
	uint64_t size = 0;
	int status;
	switch (op) {
	case OP_GET:
		return get_part(f, 100, 500, deadline, err);
	case OP_PUT:
		return blob->vtable->put(blob, "object", OBJECT_SIZE, pattern_read, &source, deadline, err);
	case OP_STAT:
		status = blob->vtable->stat(blob, "object", &size, deadline, err);
		assert_int_equal(size, status == PGS_OK ? OBJECT_SIZE : 0);
		return status;
	case OP_REMOVE:
		return blob->vtable->remove(blob, "object", deadline, err);
	default:
		return blob->vtable->list(blob, "", nothing, NULL, deadline, err);
	}
}

/* Within `ms`, and a little. */
static int run_within(fixture *f, int op, uint64_t ms, pgs_error *err)
{
	uint64_t started = pgs__now_ms();
	int status = run_op(f, op, started + ms, err);
	uint64_t took = pgs__now_ms() - started;
	if (took > ms + SLACK_MS)
		fail_msg("operation %d took %llu ms: %s", op, (unsigned long long)took, err->message);
	return status;
}

static void test_retry__makes_up_for_bad_moments(void **state)
{
	fixture *f = *state;
	static const char *const bad[] = {"500 Internal Server Error", "502 Bad Gateway", "503 Slow Down",
		"504 Gateway Timeout", "429 Too Many Requests", "408 Request Timeout"};
	for (int op = OP_GET; op <= OP_REMOVE; op++)
		for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
			static const char *const counted_as[] = {"get", "put", "head", "delete"};
			pgs_error err = PGS_ERROR_INIT;
			operation_list before = blob_operations(f->blob);
			set_fault(f, ANSWER, 2, reply(bad[i], "", "<Error><Code>SlowDown</Code></Error>"));
			if (run_op(f, op, 0, &err) != PGS_OK)
				fail_msg("%d after %s: %s", op, bad[i], err.message);
			assert_int_equal(requests_of(f), 3);
			operation_list now = blob_operations(f->blob);
			pgs_operation_stat s = operation_since(&now, &before, counted_as[op - OP_GET]);
			assert_int_equal(s.requests, 3);
			assert_int_equal(s.failures, 2);
			assert_int_equal(s.retries, 2);
			assert_int_equal(all_requests(&now) - all_requests(&before), 3);
		}
}

/* --- credentials that end ------------------------------------------------------------------------- */

static atomic_uint skipped_ms;

static uint64_t skipping_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + skipped_ms;
}

static void want_token(fixture *f, const char *token)
{
	pthread_mutex_lock(&f->lock);
	f->token = token;
	f->requests = 0;
	pthread_mutex_unlock(&f->lock);
}

static void write_token(const char *path, const char *token)
{
	char text[300];
	snprintf(text, sizeof text, "[default]\naws_access_key_id=a\naws_secret_access_key=" SECRET "\naws_session_token=%s\n",
		token);
	scratch_write(path, text, strlen(text));
}

static void open_with_file(fixture *f, const char *path)
{
	pgs_s3_options o = fake_options(f);
	o.access_key_id = o.secret_access_key = o.session_token = NULL;
	o.credentials_file = path;
	f->blob->vtable->close(f->blob);
	assert_int_equal(pgs_blob_s3_open(&f->blob, "bucket", "pre fix", &o, NULL), PGS_OK);
}

/* All operations; the file is written anew before each, and the server wants what is in it. */
static void test_credentials__that_end_are_read_again(void **state)
{
	fixture *f = *state;
	pgs__system clock = {.now_ms = skipping_now_ms};
	char path[256];
	snprintf(path, sizeof path, "%s", scratch_path("credentials"));
	write_token(path, "first");
	open_with_file(f, path);
	pgs__hooks = &clock; /* nothing else of it is asked for: there are no pauses here */
	for (int op = 0; op < OP_COUNT; op++) {
		pgs_error err = PGS_ERROR_INIT;
		char token[16];
		snprintf(token, sizeof token, "token-%d", op);
		want_token(f, token);
		write_token(path, token);
		skipped_ms += 5000;
		int status = run_op(f, op, 0, &err);
		want_token(f, NULL);
		if (status != PGS_OK)
			fail_msg("operation %d: %s", op, err.message);
	}
	pgs__hooks = NULL;
}

/* The file has nothing newer, and is not read for every refusal. */
static void test_credentials__that_have_ended_are_told(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	char path[256];
	snprintf(path, sizeof path, "%s", scratch_path("credentials"));
	write_token(path, "first");
	open_with_file(f, path);
	want_token(f, "second");
	assert_int_equal(run_op(f, OP_GET, 0, &err), PGS_EAUTH);
	assert_non_null(strstr(err.message, "ExpiredToken"));
	assert_non_null(strstr(err.message, "the credentials_file has no newer ones"));
	assert_null(strstr(err.message, SECRET));
	write_token(path, "second");
	assert_int_equal(run_op(f, OP_GET, 0, &err), PGS_EAUTH); /* too soon */
	assert_int_equal(requests_of(f), 2);
	pgs__system clock = {.now_ms = skipping_now_ms};
	skipped_ms += 5000;
	pgs__hooks = &clock;
	assert_int_equal(run_op(f, OP_GET, 0, &err), PGS_OK);
	pgs__hooks = NULL;
	/* Given ones are the caller's to renew. */
	pgs_s3_options o = fake_options(f);
	want_token(f, NULL);
	f->blob->vtable->close(f->blob);
	assert_int_equal(pgs_blob_s3_open(&f->blob, "bucket", "pre fix", &o, NULL), PGS_OK);
	want_token(f, "second");
	assert_int_equal(run_op(f, OP_GET, 0, &err), PGS_EAUTH);
	assert_non_null(strstr(err.message, "open the store with new ones"));
}

static void *get_once(void *ctx)
{
	return run_op(ctx, OP_GET, 0, NULL) == PGS_OK ? NULL : ctx;
}

static void test_credentials__that_end_for_all_threads_at_once(void **state)
{
	enum { THREADS = 8 };
	fixture *f = *state;
	pthread_t threads[THREADS];
	char path[256];
	snprintf(path, sizeof path, "%s", scratch_path("credentials"));
	write_token(path, "first");
	open_with_file(f, path);
	want_token(f, "second");
	write_token(path, "second");
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, get_once, f), 0);
	size_t failed = 0;
	for (size_t i = 0; i < THREADS; i++) {
		void *result;
		pthread_join(threads[i], &result);
		failed += result != NULL;
	}
	assert_int_equal(failed, 0);
}

static void test_retry__makes_up_for_lost_connections(void **state)
{
	fixture *f = *state;
	static const char *const cut[] = {"", "HTTP/1.1 200 OK\r\nContent-Le", "nonsense\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"};
	for (int op = OP_GET; op <= OP_REMOVE; op++)
		for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
			pgs_error err = PGS_ERROR_INIT;
			if (i == 3 && op != OP_GET)
				continue; /* others look at no body */
			set_fault(f, *cut[i] ? ANSWER : CLOSE, 2, cut[i]);
			int status = run_op(f, op, pgs__now_ms() + 10000, &err);
			/* Sent the whole object from its start: not what was asked for, however it ends. */
			if (status != (i == 3 ? PGS_EIO : PGS_OK))
				fail_msg("%d after '%s': %s", op, cut[i], err.message);
		}
}

static void test_retry__of_a_silent_server(void **state)
{
	fixture *f = *state;
	pgs_s3_options o = fake_options(f);
	o.answer_timeout_ms = 100;
	f->blob->vtable->close(f->blob);
	assert_int_equal(pgs_blob_s3_open(&f->blob, "bucket", NULL, &o, NULL), PGS_OK);
	for (int op = OP_GET; op <= OP_REMOVE; op++) {
		set_fault(f, STALL, 2, NULL);
		assert_int_equal(run_op(f, op, 0, NULL), PGS_OK);
		assert_int_equal(requests_of(f), 3);
	}
}

static void test_retry__not_of_what_will_not_change(void **state)
{
	fixture *f = *state;
	static const struct {
		const char *http, *body;
		int status;
	} bad[] = {
		{"403 Forbidden", "<Error><Code>AccessDenied</Code></Error>", PGS_EAUTH},
		{"401 No", "", PGS_EAUTH},
		{"400 Bad", "<Error><Code>ExpiredToken</Code></Error>", PGS_EAUTH},
		{"400 Bad", "<Error><Code>AuthorizationHeaderMalformed</Code></Error>", PGS_EAUTH},
		{"400 Bad", "<Error><Code>InvalidRequest</Code></Error>", PGS_EIO},
		{"404 No", "<Error><Code>NoSuchBucket</Code></Error>", PGS_EIO},
		{"404 No", "<html>no such page</html>", PGS_EIO},
		{"501 No", "<Error><Code>NotImplemented</Code></Error>", PGS_EIO},
		{"507 Full", "", PGS_ENOSPC},
		{"403 Full", "<Error><Code>QuotaExceeded</Code></Error>", PGS_ENOSPC},
		{"301 Moved", "<Error><Code>PermanentRedirect</Code></Error>", PGS_EIO},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		for (int op = OP_GET; op <= OP_REMOVE; op++) {
			if (op == OP_STAT)
				continue; /* has no body to say it in */
			set_fault(f, ANSWER, 1, reply(bad[i].http, "", bad[i].body));
			int status = run_op(f, op, 0, NULL);
			if (status != bad[i].status)
				fail_msg("%d after %s: %d, not %d", op, bad[i].http, status, bad[i].status);
			assert_int_equal(requests_of(f), 1);
		}
	/* As HEAD has it. */
	set_fault(f, ANSWER, 1, "HTTP/1.1 404 Not Found\r\n\r\n");
	assert_int_equal(run_op(f, OP_STAT, 0, NULL), PGS_ENOTFOUND);
	set_fault(f, ANSWER, 1, "HTTP/1.1 403 Forbidden\r\n\r\n");
	assert_int_equal(run_op(f, OP_STAT, 0, NULL), PGS_EAUTH);
}

static void test_deadline__holds(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	static const char slow[] =
		"HTTP/1.1 206 Partial\r\nContent-Range: bytes 100-599/1000\r\nContent-Length: 500\r\n\r\n"
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
	for (int op = OP_GET; op <= OP_REMOVE; op++) {
		set_fault(f, STALL, 1000, NULL);
		assert_int_equal(run_within(f, op, 150, &err), PGS_ETIMEOUT);
		assert_int_equal(err.code, PGS_ETIMEOUT);
		set_fault(f, TRICKLE, 1000, slow);
		assert_int_equal(run_within(f, op, 150, &err), PGS_ETIMEOUT);
		set_fault(f, ANSWER, 1000, reply("503 Slow Down", "", "<Error><Code>SlowDown</Code></Error>"));
		assert_int_equal(run_within(f, op, 500, &err), PGS_ETIMEOUT);
		assert_non_null(strstr(err.message, "the deadline has passed"));
		assert_true(requests_of(f) >= 2);
		set_fault(f, CLOSE, 1000, NULL);
		assert_int_equal(run_within(f, op, 300, &err), PGS_ETIMEOUT);
	}
}

static void test_error__says_where_what_and_the_servers_words(void **state)
{
	fixture *f = *state;
	static const char *const whats[] = {"get", "put", "stat", "remove"};
	char endpoint[64];
	snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%u", fake_http_port(f->fake));
	for (int op = OP_GET; op <= OP_REMOVE; op++) {
		pgs_error err = PGS_ERROR_INIT;
		set_fault(f, ANSWER, 1,
			reply("403 Forbidden", "x-amz-bucket-region: eu-1\r\n",
				"<Error><Code>NoWay</Code><Message>Not \x01 you</Message></Error>"));
		assert_int_equal(run_op(f, op, 0, &err), PGS_EAUTH);
		const char *says[] = {whats[op], "'pre fix/object'", "bucket 'bucket'", endpoint, "403",
			op == OP_STAT ? "" : "NoWay: Not   you", "eu-1"};
		for (size_t i = 0; i < sizeof says / sizeof *says; i++)
			if (!strstr(err.message, says[i]))
				fail_msg("'%s' does not say '%s'", err.message, says[i]);
		/* A server that repeats secrets. */
		set_fault(f, ANSWER, 1, reply("403 Forbidden", "", "<Error><Code>" SECRET "</Code></Error>"));
		assert_int_equal(run_op(f, op, 0, &err), PGS_EAUTH);
		expect_no_secret(&err);
		set_fault(f, ANSWER, 1,
			reply("403 Forbidden", "",
				"<Error><Code>A</Code><Message>you sent " TOKEN " here</Message></Error>"));
		assert_int_equal(run_op(f, op, 0, &err), PGS_EAUTH);
		expect_no_secret(&err);
	}
}

static void test_request__is_signed_with_the_token(void **state)
{
	fixture *f = *state;
	assert_int_equal(run_op(f, OP_STAT, 0, NULL), PGS_OK);
	assert_non_null(strstr(f->last_headers, "HEAD /bucket/pre%20fix/object HTTP/1.1"));
	assert_non_null(strcasestr(f->last_headers, "x-amz-security-token: " TOKEN));
	assert_non_null(strstr(f->last_headers, "Credential=" ID "/"));
	assert_non_null(strstr(f->last_headers, "/us-east-1/s3/aws4_request"));
	assert_non_null(strstr(f->last_headers, "host;x-amz-content-sha256;x-amz-date;x-amz-security-token"));
	assert_null(strstr(f->last_headers, SECRET));
}

/* --- ranges -------------------------------------------------------------------------------------------- */

static void expect_get(fixture *f, uint64_t offset, size_t size, const char *headers, size_t sent, int expected)
{
	char text[4096], body[2001];
	pgs_error err = PGS_ERROR_INIT;
	for (size_t i = 0; i < sent; i++)
		body[i] = 'x'; /* none of the object's: nobody may take it for that */
	body[sent] = '\0';
	snprintf(text, sizeof text, "%s\r\n\r\n%s", headers, body);
	set_fault(f, ANSWER, 1, text);
	int status = get_part(f, offset, size, pgs__now_ms() + 10000, &err);
	if (status != expected)
		fail_msg("%s: %d, not %d: %s", headers, status, expected, err.message);
	/* Good means: asked again. */
	assert_int_equal(requests_of(f), expected == PGS_OK ? 2 : 1);
}

/* Each fault once: the second answer is good. */
static void test_get__takes_nothing_that_is_short_or_elsewhere(void **state)
{
	fixture *f = *state;
#define PARTIAL "HTTP/1.1 206 Partial\r\nContent-Length: "
#define RANGE "\r\nContent-Range: "
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes 100-599/1000", 499, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes 100-599/1000", 0, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "499" RANGE "bytes 100-599/1000", 499, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "0" RANGE "bytes 100-599/1000", 0, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes 101-600/1000", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes 99-598/1000", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "499" RANGE "bytes 100-598/1000", 499, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes */1000", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes 100-599/300", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes 599-100/1000", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes -599/1000", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes 100-18446744073709551616/*", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "bytes 100-599/10x", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500" RANGE "items 100-599/1000", 500, PGS_OK);
	expect_get(f, 100, 500, PARTIAL "500", 500, PGS_OK);
	expect_get(f, 100, 500, "HTTP/1.1 206 Partial" RANGE "bytes 100-599/1000", 499, PGS_OK); /* ends by closing */
	expect_get(f, 0, 500, "HTTP/1.1 200 OK", 499, PGS_OK);
	expect_get(f, 100, 500, "HTTP/1.1 204 None", 0, PGS_OK);
	/* The object is too short, says the server: B4. */
	expect_get(f, 100, 500, PARTIAL "400" RANGE "bytes 100-499/500", 400, PGS_ECORRUPT);
	expect_get(f, 100, 500, "HTTP/1.1 416 Range\r\nContent-Length: 0", 0, PGS_ECORRUPT);
	expect_get(f, 0, 500, "HTTP/1.1 200 OK\r\nContent-Length: 499", 499, PGS_ECORRUPT);
	expect_get(f, 0, 500, "HTTP/1.1 200 OK\r\nContent-Length: 0", 0, PGS_ECORRUPT);
	/* All of it where a part was wanted, which no second time will change. */
	expect_get(f, 100, 500, "HTTP/1.1 200 OK\r\nContent-Length: 1000", 1000, PGS_EIO);
	assert_int_equal(get_part(f, 600, 401, 0, NULL), PGS_ECORRUPT);
	assert_int_equal(get_part(f, 1000, 1, 0, NULL), PGS_ECORRUPT);
	assert_int_equal(get_part(f, 0, 1000, 0, NULL), PGS_OK);
}

/* More than was asked for does not go beyond the buffer. */
static void test_get__may_be_sent_more(void **state)
{
	fixture *f = *state;
	char text[4096];
	for (int whole = 0; whole < 2; whole++) {
		int size = snprintf(text, sizeof text,
			whole ? "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
			      : "HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-999/1000\r\nContent-Length: "
				"1000\r\n\r\n");
		/* The pattern has zeros in it; what comes first does not. */
		size_t plain = strnlen((char *)f->object, 64);
		assert_true(plain > 4);
		memcpy(text + size, f->object, plain);
		memset(text + size + plain, 'y', 900);
		text[size + plain + 900] = '\0';
		set_fault(f, ANSWER, 1, text);
		assert_int_equal(get_part(f, 0, plain, 0, NULL), PGS_OK);
		assert_int_equal(requests_of(f), 1);
	}
}

static void test_get__gives_up_on_a_server_that_is_always_short(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	set_fault(f, ANSWER, 1000,
		"HTTP/1.1 206 P\r\nContent-Range: bytes 100-599/1000\r\nContent-Length: 9\r\n\r\n123456789");
	assert_int_equal(get_part(f, 100, 500, 0, &err), PGS_EIO);
	assert_non_null(strstr(err.message, "shorter than it says"));
	assert_int_equal(requests_of(f), 10);
}

/* --- puts ---------------------------------------------------------------------------------------------- */

static void test_put__is_compared_with_what_was_stored(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
#define OTHER_MD5 "\"00000000000000000000000000000000\""
	/* Once: sent again. */
	set_fault(f, ANSWER, 1, reply("200 OK", "ETag: " OTHER_MD5 "\r\n", ""));
	assert_int_equal(run_op(f, OP_PUT, 0, &err), PGS_OK);
	assert_int_equal(requests_of(f), 2);
	assert_int_equal(f->removed, 0);
	/* Always: failed, and removed. */
	strcpy(f->put_etag, OTHER_MD5);
	assert_int_equal(run_op(f, OP_PUT, 0, &err), PGS_EIO);
	assert_non_null(strstr(err.message, "another MD5"));
	assert_int_equal(f->removed, 1);
	/* No MD5 where it is encrypted: the length counts. */
	static const char *const other[] = {OTHER_MD5 "\r\nx-amz-server-side-encryption: aws:kms", "\"abc-3\"", "\"\"",
		OTHER_MD5 "\r\nx-amz-server-side-encryption-customer-algorithm: AES256"};
	for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
		strcpy(f->put_etag, other[i]);
		f->head_length = OBJECT_SIZE;
		set_fault(f, ANSWER, 0, NULL);
		assert_int_equal(run_op(f, OP_PUT, 0, &err), PGS_OK);
		assert_int_equal(requests_of(f), 2);
		f->head_length = OBJECT_SIZE - 1;
		assert_int_equal(run_op(f, OP_PUT, 0, &err), PGS_EIO);
		assert_non_null(strstr(err.message, "has 999 bytes after a put of 1000"));
	}
}

static void test_put__that_the_source_breaks_is_not_tried_again(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pattern_source source = {.seed = 1, .fail_at = 500, .status = PGS_EOLDREV};
	set_fault(f, ANSWER, 0, NULL);
	assert_int_equal(
		f->blob->vtable->put(f->blob, "object", OBJECT_SIZE, pattern_read, &source, 0, &err), PGS_EOLDREV);
	assert_non_null(strstr(err.message, "source failed"));
	assert_int_equal(requests_of(f), 0);
}

enum { LARGE = 11 << 20 };

static int put_in_parts(fixture *f, fault what, int times, const char *only, const char *text, pgs_error *err)
{
	pgs_s3_options o = fake_options(f);
	pattern_source source = {.seed = 1};
	o.multipart_bytes = o.part_bytes = 5 << 20;
	f->blob->vtable->close(f->blob);
	assert_int_equal(pgs_blob_s3_open(&f->blob, "bucket", NULL, &o, NULL), PGS_OK);
	f->only = only;
	f->completed = false;
	f->aborted = 0;
	f->head_length = LARGE;
	set_fault(f, what, times, text);
	return f->blob->vtable->put(f->blob, "large", LARGE, pattern_read, &source, pgs__now_ms() + 20000, err);
}

static void test_parts__each_may_fail_once(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	static const char *const steps[] = {"?uploads=", "partNumber=2&", "?uploadId="};
	for (size_t i = 0; i < 3; i++) {
		if (put_in_parts(f, CLOSE, 1, steps[i], NULL, &err) != PGS_OK)
			fail_msg("%s: %s", steps[i], err.message);
		if (put_in_parts(f, ANSWER, 1, steps[i], reply("503 Slow", "", ""), &err) != PGS_OK)
			fail_msg("%s: %s", steps[i], err.message);
		assert_int_equal(f->aborted, 0);
		operation_list list = blob_operations(f->blob);
		assert_int_equal(operation_since(&list, NULL, "part").requests, i == 1 ? 4 : 3);
		assert_int_equal(operation_since(&list, NULL, "upload").requests, i == 1 ? 2 : 3);
		assert_int_equal(operation_since(&list, NULL, "put").requests, 0);
		assert_true(operation_since(&list, NULL, "part").bytes_sent >= LARGE);
	}
	/* An error that comes after 200 was said. */
	static const char late[] = "<Error><Code>InternalError</Code></Error>";
	assert_int_equal(put_in_parts(f, ANSWER, 1, "?uploadId=", reply("200 OK", "", late), &err), PGS_OK);
	assert_int_equal(f->aborted, 0);
}

static void test_parts__that_fail_are_aborted(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	static const char denied[] = "<Error><Code>AccessDenied</Code></Error>";
	assert_int_equal(put_in_parts(f, ANSWER, 9, "?uploads=", reply("403 No", "", denied), &err), PGS_EAUTH);
	assert_int_equal(f->aborted, 0); /* nothing was begun */
	assert_int_equal(put_in_parts(f, ANSWER, 9, "?uploads=", reply("200 OK", "", "<x/>"), &err), PGS_EIO);
	assert_int_equal(put_in_parts(f, ANSWER, 1, "partNumber=3&", reply("403 No", "", denied), &err), PGS_EAUTH);
	assert_non_null(strstr(err.message, "put a part of 'large'"));
	assert_int_equal(f->aborted, 1);
	assert_int_equal(put_in_parts(f, ANSWER, 1, "partNumber=3&", reply("200 OK", "", ""), &err), PGS_EIO);
	assert_non_null(strstr(err.message, "no usable ETag"));
	assert_int_equal(f->aborted, 1);
	static const char late[] = "<Error><Code>InvalidPart</Code></Error>";
	assert_int_equal(put_in_parts(f, ANSWER, 1, "?uploadId=", reply("200 OK", "", late), &err), PGS_EIO);
	assert_non_null(strstr(err.message, "InvalidPart"));
	assert_int_equal(f->aborted, 1);
}

static void test_read_only__changes_nothing(void **state)
{
	fixture *f = *state;
	pgs_s3_options o = fake_options(f);
	o.read_only = true;
	f->blob->vtable->close(f->blob);
	assert_int_equal(pgs_blob_s3_open(&f->blob, "bucket", NULL, &o, NULL), PGS_OK);
	set_fault(f, ANSWER, 0, NULL);
	assert_int_equal(run_op(f, OP_PUT, 0, NULL), PGS_EREADONLY);
	assert_int_equal(run_op(f, OP_REMOVE, 0, NULL), PGS_EREADONLY);
	assert_int_equal(requests_of(f), 0);
	assert_int_equal(run_op(f, OP_GET, 0, NULL), PGS_OK);
}

/* --- lists --------------------------------------------------------------------------------------------- */

typedef struct listing {
	char text[256];
} listing;

static int add_name(void *ctx, const char *name, uint64_t size)
{
	listing *l = ctx;
	size_t used = strlen(l->text);
	snprintf(l->text + used, sizeof l->text - used, "%s:%u ", name, (unsigned)size);
	return 0;
}

#define ENTRY(key) "<Contents><Key>" key "</Key><Size>7</Size></Contents>"

static void expect_list(fixture *f, const char *list, int expected, const char *names)
{
	listing l = {""};
	pgs_error err = PGS_ERROR_INIT;
	f->list = list;
	int status = f->blob->vtable->list(f->blob, "d/", add_name, &l, pgs__now_ms() + 5000, &err);
	if (status != expected || strcmp(l.text, names) != 0)
		fail_msg("%s: %d '%s': %s", list, status, l.text, err.message);
}

static void test_list__trusts_no_server(void **state)
{
	fixture *f = *state;
	expect_list(f, IN(ENTRY("pre fix/d/a") ENTRY("pre fix/d/b")), PGS_OK, "d/a:7 d/b:7 ");
	assert_non_null(strstr(f->last_headers,
		"GET /bucket/?encoding-type=url&list-type=2&max-keys=1000&prefix=pre%20fix%2Fd%2F HTTP/1.1"));
	/* What is no blob is not ours. */
	expect_list(f, IN(ENTRY("pre fix/d/") ENTRY("pre fix/d/a b") ENTRY("pre fix/d/c")), PGS_OK, "d/c:7 ");
	expect_list(f, IN(ENTRY("pre fix/d/b") ENTRY("pre fix/d/a")), PGS_EIO, "d/b:7 ");
	expect_list(f, IN(ENTRY("pre fix/d/a") ENTRY("pre fix/d/a")), PGS_EIO, "d/a:7 ");
	expect_list(f, IN(ENTRY("pre fix/e")), PGS_EIO, "");
	expect_list(f, IN(ENTRY("other/d/a")), PGS_EIO, "");
	expect_list(f, "<html></html>", PGS_EIO, "");
	expect_list(f, "", PGS_EIO, "");
	/* The same page for ever, and empty ones for ever. */
	static const char more[] = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>";
	char text[500];
	snprintf(text, sizeof text, "<ListBucketResult>%s" ENTRY("pre fix/d/a") "</ListBucketResult>", more);
	expect_list(f, text, PGS_EIO, "d/a:7 ");
	snprintf(text, sizeof text, "<ListBucketResult>%s</ListBucketResult>", more);
	expect_list(f, text, PGS_EIO, "");
}

/* --- memory ---------------------------------------------------------------------------------------------- */

static void test_memory__may_run_out_anywhere(void **state)
{
	fixture *f = *state;
	pgs_s3_options o = fake_options(f);
	f->list = IN(ENTRY("pre fix/d/a") ENTRY("pre fix/d/b"));
	f->blob->vtable->close(f->blob);
	failing_alloc_install();
	for (size_t nth = 1;; nth++) {
		pgs_error err = PGS_ERROR_INIT;
		failing_alloc_begin(nth);
		int status = pgs_blob_s3_open(&f->blob, "bucket", "pre fix", &o, &err);
		for (int op = OP_GET; op < OP_COUNT && status == PGS_OK; op++)
			status = run_op(f, op, 0, &err);
		if (f->blob)
			f->blob->vtable->close(f->blob);
		bool failed = failing_alloc_end();
		if (status != (failed ? PGS_ENOMEM : PGS_OK))
			fail_msg("allocation %zu: %d: %s", nth, status, err.message);
		assert_int_equal(failing_alloc_live(), 0);
		if (!failed)
			break;
	}
	failing_alloc_uninstall();
	assert_int_equal(pgs_blob_s3_open(&f->blob, "bucket", "pre fix", &o, NULL), PGS_OK);
}

#define WITH_FAKE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_md5__is_that_of_the_rfc),
		cmocka_unit_test(test_xml__gives_elements_at_their_ends),
		cmocka_unit_test(test_xml__refuses_what_is_none),
		cmocka_unit_test(test_list_page__is_read),
		cmocka_unit_test(test_list_page__that_is_cut_or_nonsense_is_refused),
		cmocka_unit_test(test_open__says_what_is_wrong_with_options),
		cmocka_unit_test(test_open__where_nobody_answers_ends_soon),
		cmocka_unit_test(test_url__says_what_is_wrong_without_repeating_it),
		cmocka_unit_test(test_url__of_blobs_alone_is_no_store),
		cmocka_unit_test(test_credentials__come_from_files),
		cmocka_unit_test(test_credentials__come_from_the_environment),
		WITH_FAKE(test_retry__makes_up_for_bad_moments),
		WITH_FAKE(test_credentials__that_end_are_read_again),
		WITH_FAKE(test_credentials__that_have_ended_are_told),
		WITH_FAKE(test_credentials__that_end_for_all_threads_at_once),
		WITH_FAKE(test_retry__makes_up_for_lost_connections),
		WITH_FAKE(test_retry__of_a_silent_server),
		WITH_FAKE(test_retry__not_of_what_will_not_change),
		WITH_FAKE(test_deadline__holds),
		WITH_FAKE(test_error__says_where_what_and_the_servers_words),
		WITH_FAKE(test_request__is_signed_with_the_token),
		WITH_FAKE(test_get__takes_nothing_that_is_short_or_elsewhere),
		WITH_FAKE(test_get__may_be_sent_more),
		WITH_FAKE(test_get__gives_up_on_a_server_that_is_always_short),
		WITH_FAKE(test_put__is_compared_with_what_was_stored),
		WITH_FAKE(test_put__that_the_source_breaks_is_not_tried_again),
		WITH_FAKE(test_parts__each_may_fail_once),
		WITH_FAKE(test_parts__that_fail_are_aborted),
		WITH_FAKE(test_read_only__changes_nothing),
		WITH_FAKE(test_list__trusts_no_server),
		WITH_FAKE(test_memory__may_run_out_anywhere),
	};
	return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
