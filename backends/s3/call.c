/* Calls: what an answer, or none, means.
 *
 *      attempt ──▶ 2xx, and all is as it should be ──▶ done
 *         ▲  ├───▶ 404, 403, 416, … ──▶ failed
 *         │  └───▶ 5xx, 429, no answer, a damaged one ──▶ again, after a while
 *         └───────────────────────────────────────────────────┘  ATTEMPTS times at most, and within the deadline
 *
 * The while doubles each time and is half random, so that clients that were refused together do not come back
 * together. */
#include "s3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"
#include "xml.h"

#define ATTEMPTS 10
#define ATTEMPTS_UNCONNECTED 4 /* of those, without ever reaching the server */
#define RENEWALS_MAX 2         /* of credentials in one call */
#define BACKOFF_MS 50u
#define BACKOFF_MAX_MS 5000u
#define LEAST_WAIT_MS 10u

/* --- words ------------------------------------------------------------------------ */

typedef struct finding {
	const char *path;
	char *out;
	size_t size;
} finding;

static int find_one(void *ctx, const char *path, const char *text, size_t size)
{
	finding *f = ctx;
	if (strcmp(path, f->path) != 0 || *f->out)
		return PGS_OK;
	if (size >= f->size)
		size = f->size - 1;
	memcpy(f->out, text, size);
	f->out[size] = '\0';
	return PGS_OK;
}

void pgs__s3_find_text(pgs_slice document, const char *path, char *out, size_t size)
{
	finding f = {path, out, size};
	*out = '\0';
	pgs__xml_read(document, find_one, &f); /* what came before a mistake is as good as it gets */
}

/* A server may repeat anything. */
static bool has_secret(const pgs__s3_call *call, const char *text)
{
	const pgs__s3_credentials *c = call->signer ? &call->signer->credentials : NULL; /* NULL: no server was asked */
	return c && ((c->secret && strstr(text, c->secret)) || (c->token && strstr(text, c->token)));
}

/* A server's words, or curl's, on one line. */
static void copy_line(char *out, size_t size, const char *text)
{
	size_t used = 0;
	for (; used < size - 1 && text[used]; used++)
		out[used] = (char)((unsigned char)text[used] < ' ' ? ' ' : text[used]);
	out[used] = '\0';
}

int pgs__s3_end(const pgs__s3 *s3, pgs__s3_call *call, int status, const char *why)
{
	char text[200], key[160];
	copy_line(text, sizeof text, why);
	snprintf(key, sizeof key, "'%s%s'", call->name ? s3->root : "", call->name ? call->name : "");
	call->done = true;
	call->status = pgs__error(&call->error, status, "s3: cannot %s %s%sbucket '%s' at %s: %s", call->what,
		call->name ? key : "", call->name ? " in " : "", s3->bucket, s3->endpoint,
		has_secret(call, why) ? "(the server's words have a secret in them)" : text);
	return call->status;
}

void pgs__s3_call_free(pgs__s3_call *call)
{
	pgs__buffer_free(&call->answer);
}

/* --- again ---------------------------------------------------------------------------- */

/* In half to all of the time that doubles; never so late that the deadline would pass first. */
static uint32_t backoff(unsigned attempts, uint64_t deadline_ms)
{
	uint32_t most = attempts < 8 ? BACKOFF_MS << (attempts - 1) : BACKOFF_MAX_MS, random = 0;
	pgs__random_bytes(&random, sizeof random);
	most = most < BACKOFF_MAX_MS ? most : BACKOFF_MAX_MS;
	uint32_t wait = most / 2 + random % (most / 2 + 1);
	if (!deadline_ms)
		return wait;
	uint64_t now = pgs__now_ms(), left = deadline_ms > now ? deadline_ms - now : 0;
	return wait <= left / 2 ? wait : (uint32_t)(left / 2);
}

/* True: it was the last attempt. */
static bool again(const pgs__s3 *s3, pgs__s3_call *call, const char *why, uint64_t deadline_ms, uint32_t *wait_ms)
{
	char text[300];
	*wait_ms = backoff(call->attempts, deadline_ms);
	bool late = pgs__deadline_passed(deadline_ms) || (deadline_ms && *wait_ms < LEAST_WAIT_MS);
	if (!late && call->attempts < ATTEMPTS && call->unconnected < ATTEMPTS_UNCONNECTED)
		return false;
	snprintf(text, sizeof text, "%s (attempt %u%s)", why, call->attempts, late ? "; the deadline has passed" : "");
	pgs__s3_end(s3, call, late ? PGS_ETIMEOUT : PGS_EIO, text);
	return true;
}

/* --- errors of the server ------------------------------------------------------------------ */

/* By S3's code, where it says more than the HTTP status. 1: again. */
static const struct {
	const char *code;
	int status;
} meanings[] = {
	{"NoSuchKey", PGS_ENOTFOUND},
	{"InvalidRange", PGS_ECORRUPT},
	{"RequestTimeout", 1},
	{"SlowDown", 1},
	{"InternalError", 1},
	{"ServiceUnavailable", 1},
	{"OperationAborted", 1},
	{"BadDigest", 1},
	{"IncompleteBody", 1},
	{"ExpiredToken", PGS_EAUTH},
	{"InvalidToken", PGS_EAUTH},
	{"TokenRefreshRequired", PGS_EAUTH},
	{"AuthorizationHeaderMalformed", PGS_EAUTH},
	{"QuotaExceeded", PGS_ENOSPC},
	{"XMinioStorageFull", PGS_ENOSPC},
	{"XMinioAdminBucketQuotaExceeded", PGS_ENOSPC},
};

static int meaning_of(const pgs__s3_call *call)
{
	long http = call->last.http_status;
	for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
		if (!strcmp(call->code, meanings[i].code))
			return meanings[i].status;
	if (http == 401 || http == 403)
		return PGS_EAUTH;
	if (http == 507)
		return PGS_ENOSPC;
	if (http == 416)
		return PGS_ECORRUPT;
	if (http == 404 && call->name && call->answer.size == 0) /* HEAD has no body; the bucket was there */
		return PGS_ENOTFOUND;
	if (http >= 500 || http == 429 || http == 408)
		return http == 501 || http == 505 ? PGS_EIO : 1;
	return PGS_EIO;
}

static const char *hint_of(const pgs__s3 *s3, const pgs__s3_call *call)
{
	if (!strcmp(call->code, "RequestTimeTooSkewed"))
		return "; set this machine's clock";
	if (!strcmp(call->code, "ExpiredToken"))
		return s3->credentials_file ? "; the credentials_file has no newer ones: it is read again when it has"
					    : "; open the store with new ones";
	if (call->last.http_status == 301 || call->last.http_status == 307)
		return "; is the endpoint, or the region, another one?";
	if (call->last.http_status == 400 && call->code[0] == '\0')
		return "; does it want TLS?";
	return "";
}

/* Whether the credentials have ended, or may have: the answer to HEAD has no words. */
static bool has_expired(const pgs__s3_call *call)
{
	static const char *const codes[] = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"};
	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
		if (!strcmp(call->code, codes[i]))
			return true;
	return call->method == PGS__S3_HEAD && (call->last.http_status == 403 || call->last.http_status == 400);
}

static bool settle_error(pgs__s3 *s3, pgs__s3_call *call, uint64_t deadline_ms, uint32_t *wait_ms)
{
	char message[120], text[300];
	pgs_slice answer = pgs__buffer_slice(&call->answer);
	pgs__s3_find_text(answer, "Error/Code", call->code, sizeof call->code);
	pgs__s3_find_text(answer, "Error/Message", message, sizeof message);
	const char *region = call->last.region;
	snprintf(text, sizeof text, "HTTP status %ld%s%s%s%s%s%s%s", call->last.http_status, *call->code ? " " : "",
		call->code, *message ? ": " : "", message, *region ? "; the bucket is in " : "", region, hint_of(s3, call));
	int meaning = meaning_of(call);
	if (has_expired(call) && call->renewals++ < RENEWALS_MAX && pgs__s3_signer_renew(s3, call->signer)) {
		*wait_ms = 0;
		return false;
	}
	if (meaning == 1)
		return again(s3, call, text, deadline_ms, wait_ms);
	pgs__s3_end(s3, call, meaning, text);
	return true;
}

/* --- good answers, looked at ------------------------------------------------------------------ */

bool pgs__s3_check_range(pgs__s3_call *call)
{
	pgs__s3_attempt *a = &call->last;
	if (a->http_status == 200) {
		/* All of it: good for who asked from the start. */
		a->final = call->offset != 0;
		a->complaint = a->final ? "it sends the whole object where a range was asked for" : NULL;
		a->too_short = !a->final && a->length >= 0 && (uint64_t)a->length < call->size;
		return !a->final && !a->too_short;
	}
	bool good = a->has_range && a->range_first == call->offset;
	if (good && a->range_last - a->range_first < call->size - 1) {
		a->too_short = a->range_total != UINT64_MAX && a->range_last == a->range_total - 1;
		good = false;
	}
	if (!good && !a->too_short)
		a->complaint = "it sends another range than was asked for";
	return good;
}

static bool is_md5(const char *etag)
{
	return strlen(etag) == 34 && etag[0] == '"' && etag[33] == '"' &&
	       strspn(etag + 1, "0123456789abcdefABCDEF") == 32;
}

/* What was stored is what was sent, unless its ETag says otherwise. */
static bool check_etag(pgs__s3_call *call)
{
	uint8_t digest[16];
	char hex[33];
	const pgs__s3_attempt *a = &call->last;
	pgs__md5_final(&call->md5, digest);
	pgs__hex(hex, digest, sizeof digest);
	bool same = is_md5(a->etag) && strncasecmp(a->etag + 1, hex, 32) == 0;
	call->verified = same;
	call->damaged = !same && is_md5(a->etag) && !a->encrypted;
	return !call->damaged;
}

/* What is wrong with a 2xx; NULL: nothing. */
static const char *complaint_of(pgs__s3_call *call)
{
	pgs__s3_attempt *a = &call->last;
	if (a->complaint || a->too_short)
		return a->complaint;
	if (call->method == PGS__S3_GET && call->buffer && a->received < call->size) {
		bool good = pgs__s3_check_range(call);
		a->final = false; /* without a byte of it, it may be no more than a lost connection */
		return good ? "its answer is shorter than it says" : a->complaint;
	}
	if (call->method == PGS__S3_HEAD && a->length < 0)
		return "it does not say how long the object is";
	if (call->method == PGS__S3_PUT && a->sent != call->size)
		return "it answered before it had everything";
	if (call->method == PGS__S3_PUT && !check_etag(call))
		return "what it stored has another MD5 than what was sent";
	return NULL;
}

static bool is_error(const pgs__s3_call *call)
{
	char code[8];
	pgs__s3_find_text(pgs__buffer_slice(&call->answer), "Error/Code", code, sizeof code);
	return *code != '\0';
}

static bool settle_good(pgs__s3 *s3, pgs__s3_call *call, uint64_t deadline_ms, uint32_t *wait_ms)
{
	if (call->judges_body && is_error(call)) {
		call->last.http_status = 400; /* found when it had said 200 already; its code says whether it stays */
		return settle_error(s3, call, deadline_ms, wait_ms);
	}
	const char *complaint = complaint_of(call);
	if (call->last.too_short) {
		pgs__s3_end(s3, call, PGS_ECORRUPT, "the object ends before the range does");
	} else if (complaint && !call->last.final) {
		return again(s3, call, complaint, deadline_ms, wait_ms);
	} else if (complaint) {
		pgs__s3_end(s3, call, PGS_EIO, complaint);
	} else {
		call->done = true;
		call->status = PGS_OK;
	}
	return true;
}

/* --- no answer ------------------------------------------------------------------------------------ */

/* What no further attempt will change. */
static bool is_final(CURLcode code)
{
	return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
	       code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_ISSUER_ERROR || code == CURLE_URL_MALFORMAT ||
	       code == CURLE_NOT_BUILT_IN || code == CURLE_UNKNOWN_OPTION;
}

static bool settle_lost(const pgs__s3 *s3, pgs__s3_call *call, uint64_t deadline_ms, uint32_t *wait_ms)
{
	const pgs__s3_attempt *a = &call->last;
	call->unconnected += a->code == CURLE_COULDNT_CONNECT || a->code == CURLE_COULDNT_RESOLVE_HOST;
	if (!is_final(a->code))
		return again(s3, call, a->complaint ? a->complaint : a->detail, deadline_ms, wait_ms);
	pgs__s3_end(s3, call, PGS_EIO, a->detail);
	return true;
}

bool pgs__s3_settle(pgs__s3 *s3, pgs__s3_call *call, uint64_t deadline_ms, uint32_t *wait_ms)
{
	const pgs__s3_attempt *a = &call->last;
	call->attempts++;
	call->code[0] = '\0';
	if (a->source_status != PGS_OK) {
		pgs__s3_end(s3, call, a->source_status, "its source failed");
		return true;
	}
	if (a->nomem) {
		pgs__s3_end(s3, call, PGS_ENOMEM, "out of memory");
		return true;
	}
	/* An error may come, and the connection go, before a body is sent. */
	if (a->http_status >= 300 && !a->timed_out)
		return settle_error(s3, call, deadline_ms, wait_ms);
	bool whole = a->code == CURLE_OK || a->done_early || a->complaint || a->too_short;
	if (whole && a->http_status >= 200)
		return settle_good(s3, call, deadline_ms, wait_ms);
	return settle_lost(s3, call, deadline_ms, wait_ms);
}
