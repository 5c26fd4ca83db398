/* The etcd KV: handles, options, the vtable. */
#include "etcd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define DEFAULT_TXN_OPS 128
#define DEFAULT_REQUEST_BYTES ((size_t)3 << 19)
#define DEFAULT_QUOTA_BYTES ((uint64_t)2 << 30)
#define DEFAULT_CONNECT_MS 2000
#define DEFAULT_ANSWER_MS 10000 /* etcd itself gives up after 7 s */
#define DEFAULT_TIMEOUT_MS 30000
#define DEFAULT_ROOT "pagestore"
#define ROOT_MAX 200
#define HOST_MAX 260
#define ENDPOINT_MAX 32 /* endpoints */
#define PASSWORD_MAX 4096

/* What protobuf adds: to a request, and to each compare or operation, whose key and range end have the prefix too. */
#define REQUEST_OVERHEAD 1024
#define OP_OVERHEAD 64
#define LEAST_REQUEST_BYTES 65536 /* with less, a store does not work */

/* --- options ------------------------------------------------------------------------- */

static size_t or_default(size_t given, size_t otherwise)
{
	return given ? given : otherwise;
}

static size_t stricter(size_t limit, size_t other)
{
	return limit == 0 || (other && other < limit) ? other : limit;
}

static int set_limits(pgs__etcd *e, const pgs_etcd_options *o, pgs_error *err)
{
	size_t ops = or_default(o->max_txn_ops, DEFAULT_TXN_OPS);
	size_t bytes = or_default(o->max_request_bytes, DEFAULT_REQUEST_BYTES);
	size_t each = OP_OVERHEAD + 2 * e->prefix.size; /* compares, success, failure: three lists */
	size_t user = o->user ? strlen(o->user) : 0;
	if (bytes / 3 / each < ops || bytes - 3 * ops * each < REQUEST_OVERHEAD + user + LEAST_REQUEST_BYTES)
		return pgs__error(err, PGS_EINVAL,
			"etcd: max_txn_ops=%zu with max_request_bytes=%zu leaves no room for values: raise "
			"--max-request-bytes on the servers, and max_request_bytes here", ops, bytes);
	e->limits.max_txn_ops = stricter(ops, o->limits.max_txn_ops);
	e->limits.max_request_bytes =
		stricter(bytes - 3 * ops * each - REQUEST_OVERHEAD - user, o->limits.max_request_bytes);
	e->limits.max_key_bytes = o->limits.max_key_bytes;
	e->limits.max_value_bytes = o->limits.max_value_bytes;
	e->quota_bytes = o->quota_bytes ? o->quota_bytes : DEFAULT_QUOTA_BYTES;
	e->timeout_ms = (uint32_t)or_default(o->timeout_ms, DEFAULT_TIMEOUT_MS);
	e->read_only = o->read_only;
	return PGS_OK;
}

static int copy_text(pgs__etcd *e, const char *text, const char **out, pgs_error *err)
{
	pgs_slice copy;
	*out = NULL;
	if (!text)
		return PGS_OK;
	if (pgs__arena_copy(&e->names, (pgs_slice){text, strlen(text) + 1}, &copy) != PGS_OK)
		return pgs__error_nomem(err, "options");
	*out = copy.data;
	return PGS_OK;
}

static int check_file(const char *path, const char *what, pgs_error *err)
{
	FILE *file = path ? fopen(path, "re") : NULL;
	if (path && !file)
		return pgs__error(err, PGS_EINVAL, "etcd: cannot read the %s file '%s': %s", what, path, strerror(errno));
	if (file)
		fclose(file);
	return PGS_OK;
}

static int set_tls(pgs__etcd *e, const pgs_etcd_options *o, pgs_error *err)
{
	e->wire.tls = o->tls || o->ca_file || o->cert_file || o->key_file;
	if (!o->cert_file != !o->key_file)
		return pgs__error(err, PGS_EINVAL, "etcd: a client certificate wants both cert and key");
	int status = check_file(o->ca_file, "ca", err);
	if (status == PGS_OK)
		status = check_file(o->cert_file, "cert", err);
	if (status == PGS_OK)
		status = check_file(o->key_file, "key", err);
	if (status == PGS_OK)
		status = copy_text(e, o->ca_file, &e->wire.ca_file, err);
	if (status == PGS_OK)
		status = copy_text(e, o->cert_file, &e->wire.cert_file, err);
	return status == PGS_OK ? copy_text(e, o->key_file, &e->wire.key_file, err) : status;
}

/* The file's first line. */
static int read_password(const char *path, char **out, pgs_error *err)
{
	FILE *file = fopen(path, "re");
	if (!file)
		return pgs__error(err, PGS_EINVAL, "etcd: cannot read the password_file '%s': %s", path, strerror(errno));
	setvbuf(file, NULL, _IONBF, 0); /* no second copy */
	char *text = pgs__calloc(1, PASSWORD_MAX + 1);
	if (!text) {
		fclose(file);
		return pgs__error_nomem(err, "a password");
	}
	size_t size = fread(text, 1, PASSWORD_MAX, file);
	bool failed = ferror(file) || (size == PASSWORD_MAX && !memchr(text, '\n', size));
	fclose(file);
	text[strcspn(text, "\r\n")] = '\0';
	*out = text;
	return failed ? pgs__error(err, PGS_EINVAL, "etcd: the password_file '%s' has no line of at most %d bytes", path,
				PASSWORD_MAX) : PGS_OK;
}

static int set_user(pgs__etcd *e, const pgs_etcd_options *o, pgs_error *err)
{
	if (!o->user && (o->password || o->password_file))
		return pgs__error(err, PGS_EINVAL, "etcd: a password without a user");
	int status = copy_text(e, o->user, &e->user, err);
	if (status != PGS_OK || !o->user)
		return status;
	if (o->password_file && !o->password)
		return read_password(o->password_file, &e->password, err);
	if (!o->password && !e->wire.cert_file)
		return pgs__error(err, PGS_EINVAL,
			"etcd: user '%s' has no password: set PAGESTORE_ETCD_PASSWORD or password_file", o->user);
	e->password = pgs__strndup(o->password ? o->password : "", o->password ? strlen(o->password) : 0);
	return e->password ? PGS_OK : pgs__error_nomem(err, "a password");
}

/* --- names ------------------------------------------------------------------------------ */

static int set_prefix(pgs__etcd *e, const char *root, pgs_error *err)
{
	if (!root || !*root)
		root = DEFAULT_ROOT;
	size_t size = strlen(root) + 2;
	if (size > ROOT_MAX + 2 || root[0] == '/' || root[size - 3] == '/')
		return pgs__error(err, PGS_EINVAL,
			"etcd: the root has at most %d bytes, and no slash at its beginning or end", ROOT_MAX);
	char *prefix = pgs__arena_alloc(&e->names, size + 1), *end = pgs__arena_alloc(&e->names, size + 1);
	if (!prefix || !end)
		return pgs__error_nomem(err, "a root");
	snprintf(prefix, size + 1, "/%s/", root);
	snprintf(end, size + 1, "/%s0", root); /* '0' follows '/' */
	e->prefix = (pgs_slice){prefix, size};
	e->prefix_end = (pgs_slice){end, size};
	return PGS_OK;
}

/* One "host", "host:port", "[v6]" or "[v6]:port". Not repeated in messages: people write passwords before an '@'. */
static int check_endpoint(const char *text, size_t size, size_t *host_size, pgs_error *err)
{
	const char *close = text[0] == '[' ? memchr(text, ']', size) : NULL;
	size_t host = close ? (size_t)(close - text) + 1 : 0;
	if (!close)
		while (host < size && text[host] != ':')
			host++;
	unsigned long port = 0;
	bool good = host > 0 && host <= HOST_MAX && (close || text[0] != '[') && size != host + 1;
	for (size_t i = 0; i < host && good; i++)
		good = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z') ||
			(text[i] >= '0' && text[i] <= '9') || strchr(close ? "[]:.%" : ".-_", text[i]) != NULL;
	for (size_t i = host + 1; i < size && good; i++) {
		port = port * 10 + (unsigned long)(text[i] - '0');
		good = text[i] >= '0' && text[i] <= '9' && port <= 65535;
	}
	*host_size = host;
	if (!good || (host < size && (text[host] != ':' || port == 0)))
		return pgs__error(err, PGS_EINVAL,
			"etcd: an endpoint is not host:port; several have commas between them, a user goes into user=");
	return PGS_OK;
}

static int add_endpoint(pgs__etcd *e, const char *text, size_t size, pgs_error *err)
{
	size_t host;
	int status = check_endpoint(text, size, &host, err);
	if (status != PGS_OK)
		return status;
	size_t room = size + 20;
	char *base = pgs__arena_alloc(&e->names, room);
	if (!base)
		return pgs__error_nomem(err, "endpoints");
	const char *scheme = e->wire.tls ? "https" : "http";
	if (host < size)
		snprintf(base, room, "%s://%.*s", scheme, (int)size, text);
	else
		snprintf(base, room, "%s://%.*s:%d", scheme, (int)size, text, PGS__ETCD_DEFAULT_PORT);
	e->wire.endpoints[e->wire.endpoint_count++] = base;
	return PGS_OK;
}

static int set_endpoints(pgs__etcd *e, const char *text, pgs_error *err)
{
	int status = PGS_OK;
	e->wire.endpoints = pgs__arena_calloc(&e->names, ENDPOINT_MAX, sizeof *e->wire.endpoints);
	if (!e->wire.endpoints)
		return pgs__error_nomem(err, "endpoints");
	for (bool last = false; !last && status == PGS_OK;) {
		size_t size = strcspn(text, ",");
		last = text[size] == '\0';
		if (e->wire.endpoint_count == ENDPOINT_MAX)
			return pgs__error(err, PGS_EINVAL, "etcd: more than %d endpoints", ENDPOINT_MAX);
		status = add_endpoint(e, text, size, err);
		text += size + 1;
	}
	return status;
}

/* --- opening and closing -------------------------------------------------------------------- */

static void etcd_limits(pgs_kv *kv, pgs_kv_limits *out)
{
	*out = pgs__etcd_of(kv)->limits;
}

static void etcd_operations(pgs_kv *kv, pgs_operation_visitor visit, void *ctx)
{
	static const char *const names[PGS__ETCD_OPERATIONS] = {
		[PGS__ETCD_TXN] = "txn",
		[PGS__ETCD_READ] = "read",
		[PGS__ETCD_WATCH] = "watch",
		[PGS__ETCD_COMPACT] = "compact",
		[PGS__ETCD_STAT] = "stat",
		[PGS__ETCD_AUTH] = "auth",
	};
	for (size_t i = 0; i < PGS__ETCD_OPERATIONS; i++)
		pgs__meter_visit(&pgs__etcd_of(kv)->meters[i], "etcd", names[i], visit, ctx);
}

static void etcd_close(pgs_kv *kv)
{
	pgs__etcd *e = pgs__etcd_of(kv);
	pgs__wire_close(&e->wire);
	pgs__etcd_token_free(e);
	pgs__etcd_wipe(e->password);
	pgs__arena_free(&e->names);
	pgs__free(e);
}

static const pgs_kv_vtable vtable = {
	.version = PGS_KV_VERSION,
	.struct_size = sizeof vtable,
	.txn = pgs__etcd_txn,
	.release = pgs__etcd_release,
	.watch_open = pgs__etcd_watch_open,
	.watch_next = pgs__etcd_watch_next,
	.watch_close = pgs__etcd_watch_close,
	.compact = pgs__etcd_compact,
	.limits = etcd_limits,
	.identity = pgs__etcd_identity,
	.stat = pgs__etcd_stat,
	.close = etcd_close,
	.operations = etcd_operations,
};

static int configure(
	pgs__etcd *e, const char *endpoints, const char *root, const pgs_etcd_options *o, pgs_error *err)
{
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL,
			"pgs_etcd_options: struct_size is not set; use PGS_ETCD_OPTIONS_INIT");
	e->wire.connect_timeout_ms = (uint32_t)or_default(o->connect_timeout_ms, DEFAULT_CONNECT_MS);
	e->wire.answer_timeout_ms = (uint32_t)or_default(o->answer_timeout_ms, DEFAULT_ANSWER_MS);
	int status = set_tls(e, o, err);
	if (status == PGS_OK)
		status = set_user(e, o, err);
	if (status == PGS_OK)
		status = set_prefix(e, root, err);
	if (status == PGS_OK)
		status = set_limits(e, o, err);
	return status == PGS_OK ? set_endpoints(e, endpoints, err) : status;
}

/* The first request says whether there is an etcd, and which. */
static int meet(pgs__etcd *e, pgs_error *err)
{
	uint64_t revision, deadline_ms = pgs__now_ms() + e->timeout_ms;
	int status = e->user ? pgs__etcd_token_renew(e, 0, deadline_ms, err) : PGS_OK;
	if (status == PGS_OK)
		status = pgs__etcd_revision(e, &revision, &e->cluster_id, deadline_ms, err);
	if (status == PGS_OK && !e->read_only)
		pgs__etcd_look_for_alarm(e, deadline_ms); /* so that the first refusal is a sure one */
	/* A server that wants TLS does not say so to who does not speak it. */
	if (status == PGS_EIO && err && !e->wire.tls && strstr(err->message, "Empty reply")) {
		size_t used = strlen(err->message);
		snprintf(err->message + used, sizeof err->message - used, ": does it want TLS? then write tls=1");
	}
	return status;
}

int pgs_kv_etcd_open(
	pgs_kv **out, const char *endpoints, const char *root, const pgs_etcd_options *options, pgs_error *err)
{
	static const pgs_etcd_options defaults = PGS_ETCD_OPTIONS_INIT;
	*out = NULL;
	pgs__etcd *e = pgs__calloc(1, sizeof *e);
	if (!e)
		return pgs__error_nomem(err, "a KV");
	e->base.vtable = &vtable;
	int status = pgs__wire_init(&e->wire, err);
	if (status != PGS_OK) {
		pgs__free(e);
		return status;
	}
	status = pgs__etcd_token_init(e, err);
	if (status == PGS_OK)
		status = configure(e, endpoints, root, options ? options : &defaults, err);
	if (status == PGS_OK)
		status = meet(e, err);
	if (status != PGS_OK) {
		etcd_close(&e->base);
		return status;
	}
	*out = &e->base;
	return PGS_OK;
}
