/* Calls: what an answer, or none, means for the outcome, and where to ask next.
 *
 *                          ┌──────────── not sent: the next endpoint ──────────┐
 *      pgs__etcd_run ──▶ attempt ──▶ answered 200 ──▶ PGS_OK                   │
 *                          │  ├──▶ answered with an error ──▶ judge ──▶ final   │
 *                          │  │                                 ├ token: renew ─┤
 *                          │  │                                 └ elsewhere ────┤ (a read)
 *                          │  └──▶ no answer ───────────────────────────────────┤ (a read)
 *                          └──────▶ no answer, or "elsewhere", to a change: PGS_EUNKNOWN
 *
 * Only these make a change's outcome certain: a reply, an error of those that judge() calls final (etcd checks them
 * before it applies anything), or that no byte of the request was sent. */
#include "etcd.h"

#include <stdio.h>
#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define RENEWALS 2 /* of the token in one call */

/* --- errors of the gateway ------------------------------------------------------ */

/* gRPC's codes. */
enum {
	INVALID_ARGUMENT = 3,
	PERMISSION_DENIED = 7,
	RESOURCE_EXHAUSTED = 8,
	FAILED_PRECONDITION = 9,
	OUT_OF_RANGE = 11,
	UNIMPLEMENTED = 12,
	DATA_LOSS = 15,
	UNAUTHENTICATED = 16
};

static const struct {
	int code; /* 0: any */
	const char *says; /* "": anything */
	pgs__etcd_verdict verdict;
	int status;
} meanings[] = {
	{0, "invalid auth token", PGS__ETCD_RENEW, PGS_EAUTH},
	{0, "revision of auth store is old", PGS__ETCD_RENEW, PGS_EAUTH},
	{0, "revision in header is old", PGS__ETCD_RENEW, PGS_EAUTH},
	{INVALID_ARGUMENT, "user name is empty", PGS__ETCD_RENEW, PGS_EAUTH},
	{INVALID_ARGUMENT, "authentication failed", PGS__ETCD_FINAL, PGS_EAUTH},
	{INVALID_ARGUMENT, "too many operations", PGS__ETCD_FINAL, PGS_ELIMIT},
	{INVALID_ARGUMENT, "request is too large", PGS__ETCD_FINAL, PGS_ELIMIT},
	{INVALID_ARGUMENT, "", PGS__ETCD_FINAL, PGS_EINVAL},
	{PERMISSION_DENIED, "", PGS__ETCD_FINAL, PGS_EAUTH},
	{RESOURCE_EXHAUSTED, "space exceeded", PGS__ETCD_FINAL, PGS_ENOSPC},
	{RESOURCE_EXHAUSTED, "larger than max", PGS__ETCD_FINAL, PGS_ELIMIT},
	{RESOURCE_EXHAUSTED, "too many requests", PGS__ETCD_REFUSED, PGS_EIO},
	{FAILED_PRECONDITION, "", PGS__ETCD_FINAL, PGS_EAUTH},
	{OUT_OF_RANGE, "compacted", PGS__ETCD_FINAL, PGS_EOLDREV},
	{OUT_OF_RANGE, "future revision", PGS__ETCD_FINAL, PGS_EINVAL},
	{UNIMPLEMENTED, "", PGS__ETCD_FINAL, PGS_EIO},
	{DATA_LOSS, "corrupt", PGS__ETCD_FINAL, PGS_ECORRUPT},
	{UNAUTHENTICATED, "", PGS__ETCD_RENEW, PGS_EAUTH},
};

pgs__etcd_verdict pgs__etcd_judge(int grpc_code, const char *message, int *status)
{
	for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
		if ((meanings[i].code == 0 || meanings[i].code == grpc_code) && strstr(message, meanings[i].says)) {
			*status = meanings[i].status;
			return meanings[i].verdict;
		}
	*status = PGS_EIO;
	return PGS__ETCD_ELSEWHERE;
}

/* An answer that no etcd made: a proxy's, or another program's. */
static pgs__etcd_verdict judge_http(long http_status, int *status)
{
	*status = PGS_EIO;
	if (http_status == 401 || http_status == 403)
		*status = PGS_EAUTH;
	else if (http_status == 413)
		*status = PGS_ELIMIT;
	return http_status >= 400 && http_status < 500 && http_status != 408 ? PGS__ETCD_FINAL : PGS__ETCD_ELSEWHERE;
}

/* --- ending a call ----------------------------------------------------------------- */

static const char *endpoint_of(const pgs__etcd *e, const pgs__etcd_call *call)
{
	return e->wire.endpoints[call->request.endpoint];
}

const char *pgs__etcd_one_line(char out[PGS__ETCD_LINE], const char *text)
{
	snprintf(out, PGS__ETCD_LINE, "%.*s", PGS__ETCD_LINE - 1, text);
	for (char *at = out; *at; at++)
		if ((unsigned char)*at < ' ')
			*at = ' ';
	return out;
}

/* What to do about it, where that is not plain. */
static const char *hint_of(const char *why, int status)
{
	if (status == PGS_ENOSPC)
		return "; only deletes pass: make room (maintenance, compaction, defragmentation), then disarm the alarm";
	if (strstr(why, "permission denied"))
		return "; does the user have a role for the keys below the store's root?";
	return "";
}

static void end(const pgs__etcd *e, pgs__etcd_call *call, int status, const char *why)
{
	char text[PGS__ETCD_LINE];
	call->done = true;
	call->status = pgs__error(&call->error, status, "etcd at %s: cannot %s: %s%s", endpoint_of(e, call), call->what,
		pgs__etcd_one_line(text, why), hint_of(why, status));
}

/* Not applied by this attempt. An earlier one may have been. */
static void end_unapplied(const pgs__etcd *e, pgs__etcd_call *call, int status, const char *why)
{
	end(e, call, call->lost ? PGS_EUNKNOWN : status, why);
	call->final_status = status;
}

static bool late(const pgs__etcd_call *call, uint64_t deadline_ms)
{
	return call->request.timed_out && pgs__deadline_passed(deadline_ms);
}

/* Ask another endpoint, unless all were asked. `more` is how many attempts beyond one for each are fine. */
static void elsewhere(
	pgs__etcd *e, pgs__etcd_call *call, unsigned more, int status, const char *why, uint64_t deadline_ms)
{
	pgs__wire_avoid(&e->wire, call->request.endpoint);
	if (late(call, deadline_ms))
		end_unapplied(e, call, PGS_ETIMEOUT, why);
	else if (call->attempts >= e->wire.endpoint_count + more)
		end_unapplied(e, call, status, why);
}

/* Perhaps applied. */
static void lost(pgs__etcd *e, pgs__etcd_call *call, const char *why, uint64_t deadline_ms)
{
	if (call->mutates && !call->repeats) {
		pgs__wire_avoid(&e->wire, call->request.endpoint);
		end(e, call, PGS_EUNKNOWN, why);
		return;
	}
	call->lost |= call->mutates;
	if (call->request.nomem)
		end_unapplied(e, call, PGS_ENOMEM, why);
	else
		elsewhere(e, call, 1, PGS_EIO, why, deadline_ms);
}

/* --- answers --------------------------------------------------------------------------- */

static void take_reply(pgs__etcd *e, pgs__etcd_call *call, uint64_t deadline_ms)
{
	call->answer_size = call->request.answer.size;
	int status = call->decode ? call->decode(e, call) : pgs__etcd_decode_small(e, call);
	if (status == PGS_OK) {
		call->done = true;
		call->status = PGS_OK;
		return;
	}
	call->request.nomem = status == PGS_ENOMEM;
	lost(e, call, status == PGS_ENOMEM ? "out of memory (an answer)" :
		status == PGS_EIO ? "it belongs to another cluster than when the store was opened" :
		"the answer is not what etcd's gateway says: is this an etcd of version 3.4 or later?", deadline_ms);
}

/* Why a server may answer otherwise than the gateway does. */
static const char *guess_at(const pgs__etcd *e, long http_status)
{
	if (http_status == 400 && !e->wire.tls)
		return ": does it want TLS? then write tls=1";
	if (http_status == 400 && e->wire.cert_file)
		return ": where etcd has users, a client's certificate must have no common name";
	return ", not as etcd's gateway does (/v3, of version 3.4 or later)";
}

static void take_error(pgs__etcd *e, pgs__etcd_call *call, bool *renew, uint64_t deadline_ms)
{
	const pgs__buffer *answer = &call->request.answer;
	json_t *reply = json_loadb(answer->size ? (const char *)answer->data : "", answer->size, 0, NULL);
	const char *message = pgs__etcd_text(reply, "message");
	bool good = true;
	int status, code = (int)pgs__etcd_number(reply, "code", &good);
	char text[160];
	pgs__etcd_verdict verdict;
	if (code && good) {
		verdict = pgs__etcd_judge(code, message, &status);
	} else {
		verdict = judge_http(call->request.http_status, &status);
		snprintf(text, sizeof text, "it answers with HTTP status %ld%s", call->request.http_status,
			guess_at(e, call->request.http_status));
		message = text;
	}
	if (verdict == PGS__ETCD_RENEW && !call->plain && call->renewals++ < RENEWALS)
		*renew = true;
	else if (verdict == PGS__ETCD_FINAL || verdict == PGS__ETCD_RENEW)
		end_unapplied(e, call, status, message);
	else if (verdict == PGS__ETCD_REFUSED)
		elsewhere(e, call, 0, status, message, deadline_ms);
	else
		lost(e, call, message, deadline_ms);
	json_decref(reply);
}

static pgs__etcd_operation operation_of(const pgs__etcd_call *call)
{
	if (!strncmp(call->path, "/v3/kv/compact", 14))
		return PGS__ETCD_COMPACT;
	if (!strncmp(call->path, "/v3/kv/", 7))
		return call->mutates ? PGS__ETCD_TXN : PGS__ETCD_READ;
	return !strncmp(call->path, "/v3/auth/", 9) ? PGS__ETCD_AUTH : PGS__ETCD_STAT;
}

/* The last attempt. */
static void count(pgs__etcd *e, const pgs__etcd_call *call)
{
	const pgs__wire_request *request = &call->request;
	pgs__meter *meter = &e->meters[operation_of(call)];
	if (request->started_us == 0)
		return;
	pgs__meter_add(&meter->requests, 1);
	pgs__meter_add(&meter->failures, request->result != PGS__WIRE_ANSWERED || request->http_status != 200);
	pgs__meter_add(&meter->retries, call->attempts > 0);
	pgs__meter_add(&meter->bytes_sent, request->sent ? request->body.size : 0);
	pgs__meter_add(&meter->bytes_received, request->answer.size);
	pgs__meter_time(meter, request->took_us);
}

static void settle(pgs__etcd *e, pgs__etcd_call *call, bool *renew, uint64_t deadline_ms)
{
	pgs__wire_request *request = &call->request;
	count(e, call);
	call->attempts++;
	switch (request->result) {
	case PGS__WIRE_NOMEM:
		end_unapplied(e, call, PGS_ENOMEM, request->detail);
		break;
	case PGS__WIRE_NOT_SENT:
		elsewhere(e, call, 0, PGS_EIO, request->detail, deadline_ms);
		break;
	case PGS__WIRE_LOST:
		lost(e, call, request->detail, deadline_ms);
		break;
	case PGS__WIRE_ANSWERED:
		if (request->http_status == 200)
			take_reply(e, call, deadline_ms);
		else
			take_error(e, call, renew, deadline_ms);
		break;
	}
	pgs__buffer_free(&request->answer);
}

/* --- running ------------------------------------------------------------------------------ */

/* The calls that are not done, and what they send. */
static size_t gather(pgs__etcd *e, pgs__etcd_call *calls, size_t count, pgs__wire_request **requests,
	struct curl_slist *headers)
{
	size_t used = 0;
	for (size_t i = 0; i < count; i++) {
		pgs__etcd_call *call = &calls[i];
		if (call->body.failed && !call->done)
			end(e, call, PGS_ENOMEM, "out of memory (a request)");
		if (call->done)
			continue;
		call->request.path = call->path;
		call->request.started_us = 0;
		call->request.body = pgs__buffer_slice(&call->body);
		call->request.headers = call->plain ? e->plain_headers : headers;
		call->request.once = call->mutates; /* what repeats is repeated here, where it is known */
		requests[used++] = &call->request;
	}
	return used;
}

static pgs__etcd_call *call_of(pgs__wire_request *request)
{
	return (pgs__etcd_call *)((char *)request - offsetof(pgs__etcd_call, request));
}

/* One attempt of each; returns whether a token has to be renewed for some. */
static bool attempt(pgs__etcd *e, pgs__wire_request **requests, size_t count, uint64_t deadline_ms)
{
	bool renew = false;
	int status = pgs__wire_run(&e->wire, requests, count, deadline_ms);
	for (size_t i = 0; i < count; i++) {
		if (status != PGS_OK) {
			requests[i]->result = PGS__WIRE_NOMEM;
			strcpy(requests[i]->detail, "out of memory");
		}
		settle(e, call_of(requests[i]), &renew, deadline_ms);
	}
	return renew;
}

/* Without a token, those that asked for one end; the others go on elsewhere. */
static void end_without_token(pgs__etcd_call *calls, size_t count, int status, const pgs_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (!calls[i].done && calls[i].renewals > 0) {
			calls[i].done = true;
			calls[i].error = *err;
			calls[i].status = calls[i].error.code = calls[i].lost ? PGS_EUNKNOWN : status;
		}
}

void pgs__etcd_run(pgs__etcd *e, pgs__etcd_call *calls, size_t count, uint64_t deadline_ms)
{
	pgs__wire_request *requests[PGS__ETCD_WINDOW];
	for (;;) {
		pgs__etcd_headers *headers = pgs__etcd_headers_take(e);
		size_t used = gather(e, calls, count, requests, headers->list);
		bool renew = used && attempt(e, requests, used, deadline_ms);
		uint64_t number = headers->number;
		pgs__etcd_headers_give(e, headers);
		if (used == 0)
			return;
		if (renew) {
			pgs_error err = PGS_ERROR_INIT;
			int status = pgs__etcd_token_renew(e, number, deadline_ms, &err);
			if (status != PGS_OK)
				end_without_token(calls, count, status, &err);
		}
	}
}

int pgs__etcd_run_one(pgs__etcd *e, pgs__etcd_call *call, uint64_t deadline_ms, pgs_error *err)
{
	pgs__etcd_run(e, call, 1, deadline_ms);
	if (call->status != PGS_OK && err)
		*err = call->error;
	return call->status;
}

void pgs__etcd_call_free(pgs__etcd_call *call)
{
	pgs__buffer_free(&call->body);
	pgs__buffer_free(&call->request.answer);
	json_decref(call->reply);
	call->reply = NULL;
}

uint64_t pgs__etcd_deadline(const pgs__etcd *e, uint64_t deadline_ms)
{
	return deadline_ms ? deadline_ms : pgs__now_ms() + e->timeout_ms;
}
