/* Requests over kept-alive connections: see wire.h.
 *
 *      idle ──take──▶ request started ──▶ … driven by drive() … ──▶ finished ──give──▶ idle
 *                          │ connected, about to send: before_sending() notes `sent`
 *                          └ deadline, or a server that is silent: removed, its connection closed
 *
 * Patience. What a member has passed on to a leader that is dead is lost, and nobody says so: etcd itself gives up after
 * 7 s. So a server that is silent is given up sooner, after PATIENCE_MS. Where that was too soon it gets twice as much
 * the next time, up to answer_timeout_ms, and as long as it is slow: a cluster that is overloaded is not asked ever
 * again for what it is about to answer.
 *
 * libcurl repeats a request by itself when a connection that it took from its cache turns out to be dead and nothing
 * has come back. The server may have got the first one, so that would break invariant 1 of etcd.h: before_sending()
 * stops the second one. */
#include "wire.h"

#include <stdio.h>
#include <string.h>

#include "http/easy.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define PARALLEL 16 /* requests of one call under way at once */
#define PATIENCE_MS 3000u
#define IDLE_MS 60000 /* a channel that nobody took for so long is freed */

typedef struct slot {
	CURL *easy;
	pgs__wire_request *request; /* NULL: free */
	uint64_t started_ms;
	uint64_t heard_ms;          /* when it started, or the server last said something */
	uint32_t patience_ms;
	char detail[CURL_ERROR_SIZE];
	char url[320];
} slot;

struct pgs__wire_channel {
	CURLM *multi;
	slot slots[PARALLEL];
	pgs__wire_channel *next;
	uint64_t idle_since_ms;
};

/* --- easy handles ---------------------------------------------------------------- */

CURL *pgs__wire_easy(const pgs__wire *wire)
{
	const pgs__http_options options = {wire->ca_file, wire->cert_file, wire->key_file, wire->connect_timeout_ms};
	CURL *easy = curl_easy_init();
	if (!easy)
		return NULL;
	if (!pgs__http_set(easy, &options) || curl_easy_setopt(easy, CURLOPT_POST, 1L)) {
		curl_easy_cleanup(easy);
		return NULL;
	}
	return easy;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): libcurl's type */
static int before_sending(void *ctx, char *to, char *from, int to_port, int from_port)
{
	(void)to;
	(void)from;
	(void)to_port;
	(void)from_port;
	pgs__wire_request *request = ((slot *)ctx)->request;
	if (request->sent && request->once)
		return CURL_PREREQFUNC_ABORT;
	request->sent = true;
	return CURL_PREREQFUNC_OK;
}

static size_t take_answer(char *data, size_t one, size_t size, void *ctx)
{
	(void)one;
	slot *s = ctx;
	s->heard_ms = pgs__now_ms();
	pgs__put_bytes(&s->request->answer, data, size);
	return s->request->answer.failed ? 0 : size;
}

static bool make_easy(const pgs__wire *wire, slot *s)
{
	if (s->easy)
		return true;
	s->easy = pgs__wire_easy(wire);
	if (!s->easy)
		return false;
	curl_easy_setopt(s->easy, CURLOPT_ERRORBUFFER, s->detail);
	curl_easy_setopt(s->easy, CURLOPT_PRIVATE, s);
	curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, take_answer);
	curl_easy_setopt(s->easy, CURLOPT_WRITEDATA, s);
	curl_easy_setopt(s->easy, CURLOPT_PREREQFUNCTION, before_sending);
	curl_easy_setopt(s->easy, CURLOPT_PREREQDATA, s);
	return true;
}

/* --- the pool ---------------------------------------------------------------------- */

static void free_channel(pgs__wire_channel *channel)
{
	for (size_t i = 0; i < PARALLEL; i++)
		if (channel->slots[i].easy)
			curl_easy_cleanup(channel->slots[i].easy);
	curl_multi_cleanup(channel->multi);
	pgs__free(channel);
}

static pgs__wire_channel *take_channel(pgs__wire *wire)
{
	pthread_mutex_lock(&wire->lock);
	pgs__wire_channel *channel = wire->idle;
	if (channel)
		wire->idle = channel->next;
	pthread_mutex_unlock(&wire->lock);
	if (channel)
		return channel;
	channel = pgs__calloc(1, sizeof *channel);
	if (!channel)
		return NULL;
	channel->multi = curl_multi_init();
	if (!channel->multi) {
		pgs__free(channel);
		return NULL;
	}
	curl_multi_setopt(channel->multi, CURLMOPT_MAXCONNECTS, (long)PARALLEL * 2);
	return channel;
}

static void free_channels(pgs__wire_channel *channel)
{
	while (channel) {
		pgs__wire_channel *next = channel->next;
		free_channel(channel);
		channel = next;
	}
}

/* The list is in the order of idle_since_ms, the latest first. */
static void give_channel(pgs__wire *wire, pgs__wire_channel *channel)
{
	uint64_t now = pgs__now_ms();
	channel->idle_since_ms = now;
	pthread_mutex_lock(&wire->lock);
	channel->next = wire->idle;
	wire->idle = channel;
	pgs__wire_channel **at = &channel->next;
	while (*at && now - (*at)->idle_since_ms < IDLE_MS)
		at = &(*at)->next;
	pgs__wire_channel *old = *at;
	*at = NULL;
	pthread_mutex_unlock(&wire->lock);
	free_channels(old);
}

int pgs__wire_init(pgs__wire *wire, pgs_error *err)
{
	int status = pgs__http_start(err);
	if (status != PGS_OK)
		return status;
	pthread_mutex_init(&wire->lock, NULL);
	return PGS_OK;
}

void pgs__wire_close(pgs__wire *wire)
{
	free_channels(wire->idle);
	pthread_mutex_destroy(&wire->lock);
}

void pgs__wire_avoid(pgs__wire *wire, size_t endpoint)
{
	size_t expected = endpoint;
	atomic_compare_exchange_strong(&wire->current, &expected, (endpoint + 1) % wire->endpoint_count);
}

/* --- patience -------------------------------------------------------------------------- */

static uint32_t within(const pgs__wire *wire, uint64_t ms)
{
	uint64_t least = PATIENCE_MS < wire->answer_timeout_ms ? PATIENCE_MS : wire->answer_timeout_ms;
	return (uint32_t)(ms < least ? least : ms < wire->answer_timeout_ms ? ms : wire->answer_timeout_ms);
}

static void was_silent(pgs__wire *wire, const slot *s)
{
	/* Of what this one had: those that waited side by side double it once. */
	atomic_store(&wire->patience_ms[s->request->once], within(wire, (uint64_t)s->patience_ms * 2));
}

static void has_answered(pgs__wire *wire, const slot *s)
{
	uint32_t wanted = within(wire, (pgs__now_ms() - s->started_ms) * 2);
	_Atomic uint32_t *patience = &wire->patience_ms[s->request->once];
	if (atomic_load_explicit(patience, memory_order_relaxed) != wanted)
		atomic_store(patience, wanted);
}

/* --- running ------------------------------------------------------------------------- */

static void fail(pgs__wire_request *request, pgs__wire_result result, const char *detail)
{
	request->result = result;
	snprintf(request->detail, sizeof request->detail, "%.*s", (int)sizeof request->detail - 1, detail);
}

static bool start(pgs__wire *wire, pgs__wire_channel *channel, slot *s, pgs__wire_request *request)
{
	request->sent = request->timed_out = false;
	request->endpoint = atomic_load_explicit(&wire->current, memory_order_relaxed);
	request->answer.size = 0;
	request->answer.failed = request->nomem = false;
	request->detail[0] = '\0';
	s->detail[0] = '\0';
	s->started_ms = s->heard_ms = pgs__now_ms();
	s->patience_ms = within(wire, atomic_load_explicit(&wire->patience_ms[request->once], memory_order_relaxed));
	const char *base = wire->endpoints[request->endpoint];
	size_t length = strlen(base), tail = strlen(request->path) + 1;
	if (!make_easy(wire, s) || length + tail > sizeof s->url)
		return false;
	memcpy(s->url, base, length);
	memcpy(s->url + length, request->path, tail);
	s->request = request;
	if (curl_easy_setopt(s->easy, CURLOPT_URL, s->url) ||
		curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.size) ||
		curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, request->body.data) ||
		curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, request->headers) ||
		curl_multi_add_handle(channel->multi, s->easy)) {
		s->request = NULL;
		return false;
	}
	request->started_us = pgs__now_us();
	return true;
}

static void finish(pgs__wire *wire, pgs__wire_channel *channel, slot *s, CURLcode code)
{
	pgs__wire_request *request = s->request;
	request->took_us = pgs__now_us() - request->started_us;
	if (code == CURLE_OK)
		has_answered(wire, s);
	curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &request->http_status);
	curl_multi_remove_handle(channel->multi, s->easy);
	s->request = NULL;
	if (code == CURLE_OK)
		request->result = PGS__WIRE_ANSWERED;
	else if (!request->sent)
		fail(request, code == CURLE_OUT_OF_MEMORY ? PGS__WIRE_NOMEM : PGS__WIRE_NOT_SENT,
			pgs__http_text(code, s->detail));
	else
		fail(request, PGS__WIRE_LOST, pgs__http_text(code, s->detail));
	request->nomem = request->result == PGS__WIRE_NOMEM || request->answer.failed;
}

/* Give up on it: its connection closes. */
static void expire(pgs__wire_channel *channel, slot *s, const char *why)
{
	pgs__wire_request *request = s->request;
	curl_multi_remove_handle(channel->multi, s->easy);
	s->request = NULL;
	request->took_us = pgs__now_us() - request->started_us;
	request->timed_out = true;
	fail(request, request->sent ? PGS__WIRE_LOST : PGS__WIRE_NOT_SENT, why);
}

/* Expire what is due; returns how long until the next is, in milliseconds, or 0 when nothing is under way. */
static int expire_due(pgs__wire *wire, pgs__wire_channel *channel, uint64_t deadline_ms)
{
	uint64_t now = pgs__now_ms(), next = UINT64_MAX;
	for (size_t i = 0; i < PARALLEL; i++) {
		slot *s = &channel->slots[i];
		if (!s->request)
			continue;
		uint64_t silent = s->heard_ms + s->patience_ms;
		if (now >= deadline_ms) {
			expire(channel, s, "the deadline has passed");
		} else if (now >= silent) {
			was_silent(wire, s);
			expire(channel, s, "no answer");
		} else if (silent < next) {
			next = silent;
		}
	}
	if (next == UINT64_MAX)
		return 0;
	next = next < deadline_ms ? next : deadline_ms;
	return next - now < 1000 ? (int)(next - now) : 1000;
}

/* Finish what is done; returns whether anything was. */
static bool collect(pgs__wire *wire, pgs__wire_channel *channel)
{
	int left;
	bool any = false;
	for (CURLMsg *message; (message = curl_multi_info_read(channel->multi, &left)) != NULL;) {
		CURLcode code = message->data.result;
		slot *s = NULL;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &s);
		if (message->msg == CURLMSG_DONE && s && s->request) {
			finish(wire, channel, s, code);
			any = true;
		}
	}
	return any;
}

/* Fill free slots from requests[*next] on. */
static void start_more(pgs__wire *wire, pgs__wire_channel *channel, pgs__wire_request **requests, size_t count,
	size_t *next, uint64_t deadline_ms)
{
	for (size_t i = 0; i < PARALLEL && *next < count; i++) {
		if (channel->slots[i].request)
			continue;
		pgs__wire_request *request = requests[(*next)++];
		if (pgs__deadline_passed(deadline_ms)) {
			request->sent = false;
			request->timed_out = true;
			fail(request, PGS__WIRE_NOT_SENT, "the deadline has passed");
		} else if (!start(wire, channel, &channel->slots[i], request)) {
			fail(request, PGS__WIRE_NOMEM, "out of memory");
		}
	}
}

int pgs__wire_run(pgs__wire *wire, pgs__wire_request **requests, size_t count, uint64_t deadline_ms)
{
	pgs__wire_channel *channel = take_channel(wire);
	if (!channel)
		return PGS_ENOMEM;
	size_t next = 0;
	for (;;) {
		int running;
		start_more(wire, channel, requests, count, &next, deadline_ms);
		curl_multi_perform(channel->multi, &running);
		bool finished = collect(wire, channel);
		int wait_ms = expire_due(wire, channel, deadline_ms);
		if (wait_ms == 0 && next == count)
			break;
		if (wait_ms > 0 && !(finished && next < count))
			curl_multi_poll(channel->multi, NULL, 0, wait_ms, NULL);
	}
	give_channel(wire, channel);
	return PGS_OK;
}
