/* etcd://host:port,host:port/root?blob=URL&…: a KV in an etcd cluster, and the blobs of another URL.
 *
 * Whatever is wrong with one is said without repeating it: people write passwords into URLs. They are refused there;
 * they come from the environment or a file. */
#include "url.h"

#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"
#include "util/cursor.h"
#include "util/error.h"

#define SCHEME "etcd://"
#define PASSWORD_VARIABLE "PAGESTORE_ETCD_PASSWORD"

/* The options that are text, in the order of `texts` below. */
enum { BLOB, USER, PASSWORD_FILE, CA, CERT, KEY, TEXT_COUNT };
static const char *const text_names[TEXT_COUNT] = {"blob", "user", "password_file", "ca", "cert", "key"};

typedef struct etcd_url {
	char *endpoints;
	char *root;
	char *texts[TEXT_COUNT];
	pgs_etcd_options options;
	unsigned seen; /* a bit for each option */
} etcd_url;

static void free_url(etcd_url *url)
{
	pgs__free(url->endpoints);
	pgs__free(url->root);
	for (size_t i = 0; i < TEXT_COUNT; i++)
		pgs__free(url->texts[i]);
}

/* --- values --------------------------------------------------------------------- */

/* A number with K, M or G behind it, `least` or more. */
static int parse_size(pgs_slice value, const char *name, uint64_t least, uint64_t *out, pgs_error *err)
{
	if (!pgs__url_size(value, out) || *out < least)
		return pgs__error(err, PGS_EINVAL,
			"etcd: the URL's %s is not a number of at least %llu, with K, M or G behind it if need be", name,
			(unsigned long long)least);
	return PGS_OK;
}

static int parse_tls(pgs_slice value, bool *out, pgs_error *err)
{
	if (!pgs__url_is(value, "0") && !pgs__url_is(value, "1"))
		return pgs__error(err, PGS_EINVAL, "etcd: the URL's tls is neither 0 nor 1");
	*out = pgs__url_is(value, "1");
	return PGS_OK;
}

/* --- options ---------------------------------------------------------------------- */

static const char *const names[] = {"blob", "user", "password_file", "ca", "cert", "key", "tls", "max_txn_ops",
	"max_request_bytes", "quota"};
enum { NAME_COUNT = sizeof names / sizeof *names };

static int parse_value(etcd_url *url, size_t which, pgs_slice value, pgs_error *err)
{
	uint64_t number = 0;
	if (which < TEXT_COUNT) {
		int status = pgs__url_decode_part(&url->texts[which], value, "etcd", text_names[which], err);
		if (status == PGS_OK && !*url->texts[which])
			status = pgs__error(err, PGS_EINVAL, "etcd: the URL's %s is empty", text_names[which]);
		return status;
	}
	if (!strcmp(names[which], "tls"))
		return parse_tls(value, &url->options.tls, err);
	int status = parse_size(value, names[which], 1, &number, err);
	if (!strcmp(names[which], "max_txn_ops"))
		url->options.max_txn_ops = (size_t)number;
	else if (!strcmp(names[which], "max_request_bytes"))
		url->options.max_request_bytes = (size_t)number;
	else
		url->options.quota_bytes = number;
	return status;
}

static int parse_option(etcd_url *url, pgs_slice option, pgs_error *err)
{
	const char *equals = option.size ? memchr(option.data, '=', option.size) : NULL;
	pgs_slice key = {option.data, equals ? (size_t)(equals - (const char *)option.data) : option.size};
	pgs_slice value = {equals ? equals + 1 : "", equals ? option.size - key.size - 1 : 0};
	size_t which = 0;
	if (pgs__url_is(key, "password") || pgs__url_is(key, "token"))
		return pgs__error(err, PGS_EINVAL,
			"etcd: a password does not go into a URL: set " PASSWORD_VARIABLE " or password_file=");
	while (which < NAME_COUNT && !pgs__url_is(key, names[which]))
		which++;
	if (which == NAME_COUNT)
		return pgs__error(err, PGS_EINVAL,
			"etcd: the URL has an option that is not known: cache, cache_size, blob, user, password_file, tls, ca, cert, key, "
			"max_txn_ops, max_request_bytes and quota are");
	if (url->seen & 1u << which)
		return pgs__error(err, PGS_EINVAL, "etcd: the URL has the option '%s' twice", names[which]);
	url->seen |= 1u << which;
	return parse_value(url, which, value, err);
}

static int parse_options(etcd_url *url, const char *text, pgs_error *err)
{
	int status = PGS_OK;
	while (text && status == PGS_OK) {
		size_t size = strcspn(text, "&");
		status = parse_option(url, (pgs_slice){text, size}, err);
		text = text[size] ? text + size + 1 : NULL;
	}
	return status;
}

/* --- the URL ------------------------------------------------------------------------ */

static int check_options(etcd_url *url, pgs_error *err)
{
	pgs_etcd_options *o = &url->options;
	bool tls_said = url->seen & 1u << TEXT_COUNT;
	o->user = url->texts[USER];
	o->password_file = url->texts[PASSWORD_FILE];
	o->password = o->user && !o->password_file ? getenv(PASSWORD_VARIABLE) : NULL;
	o->ca_file = url->texts[CA];
	o->cert_file = url->texts[CERT];
	o->key_file = url->texts[KEY];
	if (tls_said && !o->tls && (o->ca_file || o->cert_file || o->key_file))
		return pgs__error(err, PGS_EINVAL, "etcd: the URL has tls=0 and files for TLS");
	if (!url->texts[BLOB])
		return pgs__error(err, PGS_EINVAL,
			"etcd: the URL does not say where blobs go: add blob=s3://BUCKET/PREFIX or blob=dir:PATH");
	return PGS_OK;
}

static int parse(etcd_url *url, const char *text, pgs_error *err)
{
	if (strncmp(text, SCHEME, strlen(SCHEME)) != 0)
		return pgs__error(err, PGS_EINVAL, "etcd: a URL begins with " SCHEME "HOST:PORT");
	text += strlen(SCHEME);
	size_t hosts = strcspn(text, "/?");
	const char *root = text + hosts + (text[hosts] == '/');
	size_t root_size = strcspn(root, "?");
	url->endpoints = pgs__strndup(text, hosts);
	if (!url->endpoints)
		return pgs__error_nomem(err, "a URL");
	int status = pgs__url_decode_part(&url->root, (pgs_slice){root, root_size}, "etcd", "root", err);
	if (status == PGS_OK && root[root_size] == '?')
		status = parse_options(url, root + root_size + 1, err);
	return status == PGS_OK ? check_options(url, err) : status;
}

int pgs__url_open_etcd(const char *text, const pgs__open_how *how, pgs_kv **kv, pgs_blob **blob, pgs_error *err)
{
	etcd_url url = {.options = PGS_ETCD_OPTIONS_INIT};
	url.options.read_only = how->read_only;
	url.options.timeout_ms = how->timeout_ms;
	int status = parse(&url, text, err);
	if (status == PGS_OK)
		status = pgs_kv_etcd_open(kv, url.endpoints, url.root, &url.options, err);
	if (status == PGS_OK)
		status = pgs__url_open_blob(url.texts[BLOB], how, blob, err);
	free_url(&url);
	return status;
}

#ifndef PGS_WITH_ETCD
int pgs_kv_etcd_open(
	pgs_kv **out, const char *endpoints, const char *root, const pgs_etcd_options *options, pgs_error *err)
{
	(void)endpoints;
	(void)root;
	(void)options;
	*out = NULL;
	return pgs__error(err, PGS_EINVAL,
		"etcd: is not in this build of pagestore: build it with libcurl and jansson, PAGESTORE_ETCD=ON");
}
#endif
