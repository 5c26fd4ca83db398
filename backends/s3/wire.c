/* Attempts over kept-alive connections: a pool of channels; pgs__s3_run() takes one, runs its calls on it side by
 * side, and gives it back. A channel is a libcurl multi handle with its connections, so that no lock is held while
 * anything is sent, and sources may use the store.
 *
 *      slot: free ──▶ waiting ──▶ running ──▶ settled: free again, or waiting to try again
 *                       └ not before start_ms      └ deadline, or a silent server: removed, its connection closed
 *
 * A call keeps its slot while it waits: a server that refuses gets less to do. */
#include "s3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define ANSWER_BYTES_MAX ((size_t)16 << 20) /* of a list; a thousand keys of 1024 bytes, encoded, and more */
#define UPLOAD_BUFFER_BYTES (256L << 10)

typedef struct slot {
	pgs__s3 *s3;
	CURL *easy;
	pgs__s3_call *call; /* NULL: free */
	bool running;
	uint64_t start_ms;
	uint64_t heard_ms; /* when it started, or anything moved last */
	uint64_t started_us;
	pgs__buffer url;
	char detail[CURL_ERROR_SIZE];
} slot;

struct pgs__s3_channel {
	CURLM *multi;
	pgs__s3_channel *next;
	size_t count;
	slot slots[];
};

/* --- what is sent ------------------------------------------------------------------ */

static size_t give_body(char *out, size_t one, size_t count, void *ctx)
{
	slot *s = ctx;
	pgs__s3_call *call = s->call;
	uint64_t left = call->size - call->last.sent;
	size_t size = one * count < left ? one * count : (size_t)left;
	s->heard_ms = pgs__now_ms();
	if (size == 0)
		return 0;
	call->last.source_status = call->source(call->ctx, call->offset + call->last.sent, out, size);
	if (call->last.source_status != PGS_OK)
		return CURL_READFUNC_ABORT;
	pgs__md5_update(&call->md5, out, size);
	call->last.sent += size;
	s->heard_ms = pgs__now_ms(); /* a slow source is not a silent server */
	return size;
}

/* A kept connection was dead: libcurl begins again. */
static int rewind_body(void *ctx, curl_off_t offset, int origin)
{
	pgs__s3_call *call = ((slot *)ctx)->call;
	if (offset != 0 || origin != SEEK_SET)
		return CURL_SEEKFUNC_FAIL;
	call->last.sent = 0;
	pgs__md5_init(&call->md5);
	return CURL_SEEKFUNC_OK;
}

/* --- what comes ---------------------------------------------------------------------- */

/* The value when `line` is header `name`, trimmed, in `out`. */
static bool is_header(const char *line, size_t size, const char *name, char *out, size_t out_size)
{
	size_t length = strlen(name);
	if (size <= length || strncasecmp(line, name, length) != 0 || line[length] != ':')
		return false;
	const char *from = line + length + 1, *to = line + size;
	while (from < to && (*from == ' ' || *from == '\t'))
		from++;
	while (to > from && strchr(" \t\r\n", to[-1]))
		to--;
	size_t used = (size_t)(to - from);
	if (used >= out_size)
		used = 0; /* nothing of ours is so long */
	memcpy(out, from, used);
	out[used] = '\0';
	return true;
}

/* Decimal digits at *at; false when there are none, or too many. */
static bool read_digits(const char **at, uint64_t *out)
{
	const char *start = *at;
	uint64_t value = 0;
	for (; **at >= '0' && **at <= '9'; ++*at) {
		if (value > UINT64_MAX / 10 - 10)
			return false;
		value = value * 10 + (uint64_t)(**at - '0');
	}
	*out = value;
	return *at > start;
}

/* bytes FIRST-LAST/TOTAL, TOTAL perhaps "*" */
static void take_range(pgs__s3_attempt *a, const char *value)
{
	uint64_t total = UINT64_MAX;
	if (strncasecmp(value, "bytes ", 6) != 0)
		return;
	value += 6;
	if (!read_digits(&value, &a->range_first) || *value++ != '-' || !read_digits(&value, &a->range_last) ||
		*value++ != '/' || (strcmp(value, "*") != 0 && (!read_digits(&value, &total) || *value != '\0')))
		return;
	a->range_total = total;
	a->has_range = a->range_last >= a->range_first && a->range_last < total;
}

static size_t take_header(char *line, size_t one, size_t size, void *ctx)
{
	(void)one;
	slot *s = ctx;
	pgs__s3_attempt *a = &s->call->last;
	char value[128] = "";
	s->heard_ms = pgs__now_ms();
	if (size > 5 && !memcmp(line, "HTTP/", 5)) { /* another answer begins: after 100 Continue */
		a->has_range = a->encrypted = false;
		a->length = -1;
		a->etag[0] = a->region[0] = '\0';
	} else if (is_header(line, size, "etag", value, sizeof a->etag)) {
		strcpy(a->etag, value);
	} else if (is_header(line, size, "content-range", value, sizeof value)) {
		take_range(a, value);
	} else if (is_header(line, size, "content-length", value, sizeof value)) {
		const char *at = value;
		uint64_t length;
		a->length = read_digits(&at, &length) && length <= INT64_MAX ? (int64_t)length : -1;
	} else if (is_header(line, size, "x-amz-bucket-region", value, sizeof a->region)) {
		strcpy(a->region, value);
	} else if (is_header(line, size, "x-amz-server-side-encryption", value, sizeof value)) {
		a->encrypted |= strcasecmp(value, "AES256") != 0;
	} else if (is_header(line, size, "x-amz-server-side-encryption-customer-algorithm", value, sizeof value)) {
		a->encrypted = true;
	}
	return size;
}

static size_t take_range_body(pgs__s3_call *call, const char *data, size_t size)
{
	pgs__s3_attempt *a = &call->last;
	if (a->received == 0 && !pgs__s3_check_range(call))
		return 0;
	size_t left = (size_t)(call->size - a->received), take = size < left ? size : left;
	memcpy((char *)call->buffer + a->received, data, take);
	a->received += take;
	a->done_early = take < size;
	return a->done_early ? 0 : size;
}

static size_t take_body(char *data, size_t one, size_t size, void *ctx)
{
	(void)one;
	slot *s = ctx;
	pgs__s3_call *call = s->call;
	s->heard_ms = pgs__now_ms();
	curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &call->last.http_status);
	if (call->buffer && (call->last.http_status == 200 || call->last.http_status == 206))
		return take_range_body(call, data, size);
	if (size > ANSWER_BYTES_MAX - call->answer.size) {
		call->last.complaint = "its answer has no end";
		return 0;
	}
	pgs__put_bytes(&call->answer, data, size);
	call->last.nomem = call->answer.failed;
	return call->answer.failed ? 0 : size;
}

/* --- starting ---------------------------------------------------------------------------- */

static bool set_url(slot *s)
{
	const pgs__s3_call *call = s->call;
	const char *base = call->name ? s->s3->root_url : s->s3->bucket_url;
	s->url.size = 0;
	pgs__put_bytes(&s->url, base, strlen(base));
	if (call->name)
		pgs__put_bytes(&s->url, call->name, strlen(call->name)); /* B3: nothing in it needs encoding */
	if (call->query) {
		pgs__put_u8(&s->url, '?');
		pgs__put_bytes(&s->url, call->query, strlen(call->query));
	}
	pgs__put_u8(&s->url, 0);
	bool good = !s->url.failed;
	if (!good)
		pgs__buffer_free(&s->url);
	return good && !curl_easy_setopt(s->easy, CURLOPT_URL, (const char *)s->url.data);
}

static CURLcode set_method(slot *s)
{
	const pgs__s3_call *call = s->call;
	CURL *easy = s->easy;
	char range[64];
	switch (call->method) {
	case PGS__S3_GET:
		if (!call->buffer)
			return CURLE_OK;
		snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)call->offset,
			(unsigned long long)(call->offset + call->size - 1));
		return curl_easy_setopt(easy, CURLOPT_RANGE, range);
	case PGS__S3_HEAD:
		return curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
	case PGS__S3_PUT:
		curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)call->size);
		curl_easy_setopt(easy, CURLOPT_READFUNCTION, give_body);
		curl_easy_setopt(easy, CURLOPT_READDATA, s);
		curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, rewind_body);
		curl_easy_setopt(easy, CURLOPT_SEEKDATA, s);
		return curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, UPLOAD_BUFFER_BYTES);
	case PGS__S3_POST:
		curl_easy_setopt(easy, CURLOPT_POST, 1L);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.size);
		return curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body.size ? call->body.data : "");
	case PGS__S3_DELETE:
		return curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, "DELETE");
	}
	return CURLE_OK;
}

static bool set_all(slot *s)
{
	pgs__s3 *s3 = s->s3;
	const pgs__s3_call *call = s->call;
	curl_easy_reset(s->easy);
	curl_easy_setopt(s->easy, CURLOPT_ERRORBUFFER, s->detail);
	curl_easy_setopt(s->easy, CURLOPT_PRIVATE, s);
	curl_easy_setopt(s->easy, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(s->easy, CURLOPT_WRITEDATA, s);
	curl_easy_setopt(s->easy, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(s->easy, CURLOPT_HEADERDATA, s);
	return pgs__http_set(s->easy, &s3->http) && set_url(s) && !set_method(s) &&
	       !curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, call->signer->headers) &&
	       !curl_easy_setopt(s->easy, CURLOPT_AWS_SIGV4, s3->signing) &&
	       !curl_easy_setopt(s->easy, CURLOPT_USERNAME, call->signer->credentials.id) &&
	       !curl_easy_setopt(s->easy, CURLOPT_PASSWORD, call->signer->credentials.secret);
}

static void drop_signer(slot *s)
{
	pgs__s3_signer_give(s->s3, s->call->signer);
	s->call->signer = NULL;
}

static bool start(pgs__s3_channel *channel, slot *s)
{
	pgs__s3_call *call = s->call;
	call->last = (pgs__s3_attempt){.length = -1, .range_total = UINT64_MAX};
	pgs__buffer_free(&call->answer);
	pgs__md5_init(&call->md5);
	s->detail[0] = '\0';
	s->heard_ms = pgs__now_ms();
	s->started_us = pgs__now_us();
	if (!s->easy)
		s->easy = curl_easy_init();
	call->signer = pgs__s3_signer_take(s->s3);
	s->running = s->easy && set_all(s) && !curl_multi_add_handle(channel->multi, s->easy);
	if (!s->running)
		drop_signer(s);
	return s->running;
}

/* --- ending an attempt -------------------------------------------------------------------- */

static pgs__s3_operation operation_of(const pgs__s3_call *call)
{
	switch (call->method) {
	case PGS__S3_GET:
		return call->buffer ? PGS__S3_OP_GET : PGS__S3_OP_LIST;
	case PGS__S3_HEAD:
		return PGS__S3_OP_HEAD;
	case PGS__S3_PUT:
		return call->query ? PGS__S3_OP_PART : PGS__S3_OP_PUT;
	case PGS__S3_DELETE:
		return call->query ? PGS__S3_OP_UPLOAD : PGS__S3_OP_DELETE;
	default:
		return PGS__S3_OP_UPLOAD;
	}
}

static void count(slot *s, bool good)
{
	const pgs__s3_call *call = s->call;
	pgs__meter *meter = &s->s3->meters[operation_of(call)];
	pgs__meter_add(&meter->requests, 1);
	pgs__meter_add(&meter->failures, !good);
	pgs__meter_add(&meter->retries, call->attempts > 1);
	pgs__meter_add(&meter->bytes_sent, call->method == PGS__S3_PUT ? call->last.sent : call->body.size);
	pgs__meter_add(&meter->bytes_received, call->last.received + call->answer.size);
	pgs__meter_time(meter, pgs__now_us() - s->started_us);
}

static void settle(slot *s, uint64_t deadline_ms)
{
	uint32_t wait_ms;
	s->running = false;
	bool done = pgs__s3_settle(s->s3, s->call, deadline_ms, &wait_ms);
	count(s, done && s->call->status == PGS_OK);
	drop_signer(s);
	if (done)
		s->call = NULL;
	else
		s->start_ms = pgs__now_ms() + wait_ms;
}

static void finish(pgs__s3_channel *channel, slot *s, CURLcode code, uint64_t deadline_ms)
{
	pgs__s3_attempt *a = &s->call->last;
	curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &a->http_status);
	curl_multi_remove_handle(channel->multi, s->easy);
	a->code = code;
	a->nomem |= code == CURLE_OUT_OF_MEMORY;
	snprintf(a->detail, sizeof a->detail, "%s", pgs__http_text(code, s->detail));
	settle(s, deadline_ms);
}

/* Give up on this attempt: its connection closes. */
static void expire(pgs__s3_channel *channel, slot *s, const char *why, uint64_t deadline_ms)
{
	curl_multi_remove_handle(channel->multi, s->easy);
	s->call->last.timed_out = true;
	s->call->last.code = CURLE_OPERATION_TIMEDOUT;
	snprintf(s->call->last.detail, sizeof s->call->last.detail, "%s", why);
	settle(s, deadline_ms);
}

/* Finish what is done; returns whether anything was. */
static bool collect(pgs__s3_channel *channel, uint64_t deadline_ms)
{
	int left;
	bool any = false;
	for (CURLMsg *message; (message = curl_multi_info_read(channel->multi, &left)) != NULL;) {
		CURLcode code = message->data.result;
		slot *s = NULL;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &s);
		if (message->msg == CURLMSG_DONE && s && s->running) {
			finish(channel, s, code, deadline_ms);
			any = true;
		}
	}
	return any;
}

/* --- the pool ---------------------------------------------------------------------------------- */

static void free_channel(pgs__s3_channel *channel)
{
	for (size_t i = 0; i < channel->count; i++) {
		if (channel->slots[i].easy)
			curl_easy_cleanup(channel->slots[i].easy);
		pgs__buffer_free(&channel->slots[i].url);
	}
	curl_multi_cleanup(channel->multi);
	pgs__free(channel);
}

static pgs__s3_channel *take_channel(pgs__s3 *s3)
{
	pthread_mutex_lock(&s3->lock);
	pgs__s3_channel *channel = s3->idle;
	if (channel)
		s3->idle = channel->next;
	pthread_mutex_unlock(&s3->lock);
	if (channel)
		return channel;
	channel = pgs__calloc(1, sizeof *channel + s3->parallel * sizeof *channel->slots);
	if (!channel)
		return NULL;
	channel->multi = curl_multi_init();
	if (!channel->multi) {
		pgs__free(channel);
		return NULL;
	}
	channel->count = s3->parallel;
	for (size_t i = 0; i < channel->count; i++)
		channel->slots[i].s3 = s3;
	curl_multi_setopt(channel->multi, CURLMOPT_MAXCONNECTS, (long)s3->parallel);
	return channel;
}

static void give_channel(pgs__s3 *s3, pgs__s3_channel *channel)
{
	pthread_mutex_lock(&s3->lock);
	channel->next = s3->idle;
	s3->idle = channel;
	pthread_mutex_unlock(&s3->lock);
}

void pgs__s3_wire_close(pgs__s3 *s3)
{
	while (s3->idle) {
		pgs__s3_channel *channel = s3->idle;
		s3->idle = channel->next;
		free_channel(channel);
	}
}

/* --- running ------------------------------------------------------------------------------------- */

typedef struct run {
	pgs__s3_channel *channel;
	pgs__s3_call *calls;
	size_t count, next;
	size_t parallel;
	uint64_t deadline_ms;
} run;

/* Put calls into free slots, and start those whose time has come. */
static void start_due(run *r)
{
	for (size_t i = 0; i < r->parallel; i++) {
		slot *s = &r->channel->slots[i];
		if (!s->call && r->next < r->count) {
			s->call = &r->calls[r->next++];
			s->start_ms = 0;
		}
		if (!s->call || s->running || s->start_ms > pgs__now_ms())
			continue;
		if (pgs__deadline_passed(r->deadline_ms)) {
			pgs__s3_end(s->s3, s->call, PGS_ETIMEOUT, "the deadline has passed");
			s->call = NULL;
		} else if (!start(r->channel, s)) {
			pgs__s3_end(s->s3, s->call, PGS_ENOMEM, "out of memory");
			s->call = NULL;
		}
	}
}

static uint64_t lesser(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Expire what is due; returns how long until something is, in milliseconds, or -1 when nothing is under way. */
static int expire_due(run *r)
{
	uint64_t now = pgs__now_ms(), next = UINT64_MAX;
	for (size_t i = 0; i < r->parallel; i++) {
		slot *s = &r->channel->slots[i];
		bool late = r->deadline_ms && now >= r->deadline_ms;
		if (s->running && (late || now >= s->heard_ms + s->s3->answer_timeout_ms))
			expire(r->channel, s, "no answer", r->deadline_ms);
		if (s->call)
			next = lesser(next, s->running ? s->heard_ms + s->s3->answer_timeout_ms : s->start_ms);
	}
	if (next == UINT64_MAX)
		return -1;
	if (r->deadline_ms)
		next = lesser(next, r->deadline_ms);
	return next <= now ? 0 : (int)lesser(next - now, 1000);
}

void pgs__s3_run(pgs__s3 *s3, pgs__s3_call *calls, size_t count, size_t parallel, uint64_t deadline_ms)
{
	run r = {take_channel(s3), calls, count, 0, parallel, deadline_ms};
	for (size_t i = 0; !r.channel && i < count; i++)
		pgs__s3_end(s3, &calls[i], PGS_ENOMEM, "out of memory");
	if (!r.channel)
		return;
	if (r.parallel > r.channel->count)
		r.parallel = r.channel->count;
	for (;;) {
		int running;
		start_due(&r);
		curl_multi_perform(r.channel->multi, &running);
		bool finished = collect(r.channel, deadline_ms);
		int wait_ms = expire_due(&r);
		if (wait_ms < 0 && r.next == count)
			break;
		if (wait_ms > 0 && !finished)
			curl_multi_poll(r.channel->multi, NULL, 0, wait_ms, NULL);
	}
	give_channel(s3, r.channel);
}

int pgs__s3_run_one(pgs__s3 *s3, pgs__s3_call *call, uint64_t deadline_ms, pgs_error *err)
{
	pgs__s3_run(s3, call, 1, 1, deadline_ms);
	if (call->status != PGS_OK && err)
		*err = call->error;
	return call->status;
}
