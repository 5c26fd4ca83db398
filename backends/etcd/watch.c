/* Watches: one connection each, on which etcd writes a line of JSON for every batch of events.
 *
 *      closed ──connect──▶ streaming ──lines──▶ events ──ready──▶ a batch
 *         ▲                    │  │
 *         └──── broken ◀───────┘  └─ "compacted" ──▶ failed, for good
 *
 * Invariants
 *  1 `resume` is the first revision not delivered: a new connection starts there, and what was received behind it is
 *    dropped, so that nothing is delivered twice or left out.
 *  2 etcd sends a revision's events in one message, but may cut a message into fragments anywhere. So the last
 *    revision received is complete only when its message's last fragment is there.
 *
 * Nothing is read while the caller is elsewhere: a slow reader slows the server's sending, not this process's memory. */
#include "etcd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/easy.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/kv_check.h"

#define LINE_MAX_BYTES ((size_t)64 << 20) /* etcd cuts messages at the size of a request */
#define BACKOFF_MS 50                     /* between rounds of attempts, doubling … */
#define BACKOFF_MAX_MS 1000
#define RENEWAL_MS 1000 /* a new token may take so long even if the caller waits for less */

typedef struct etcd_watch {
	pgs__etcd *e;
	pgs__arena names; /* key and range_end */
	pgs_slice key, range_end;
	bool empty;         /* a range without room for keys: etcd does not take it */
	bool gone;          /* history is: PGS_EOLDREV for good */
	uint64_t resume;    /* invariant 1 */
	uint64_t delivered; /* all up to it has been */
	/* The connection. */
	CURLM *multi;
	CURL *easy;
	bool streaming;
	bool answering; /* etcd has accepted this connection's watch */
	size_t endpoint;
	uint64_t started_us;
	uint64_t token_number;
	struct curl_slist *headers;
	pgs__buffer request;
	char detail[CURL_ERROR_SIZE];
	unsigned failures; /* in a row */
	unsigned refusals; /* of the token, in a row */
	uint64_t pause_until_ms;
	uint64_t until_ms; /* when the running watch_next() returns */
	/* What came: lines not looked at, events not delivered. */
	pgs__buffer input;
	size_t looked; /* bytes of `input` that were lines */
	size_t searched;
	pgs__arena arena;
	pgs_kv_event *events;
	size_t event_count, event_capacity;
	size_t lent;  /* events of the batch that the caller has */
	bool partial; /* the last revision's events may go on */
	pgs_error error; /* of the last failure */
} etcd_watch;

static pgs__meter *meter_of(const etcd_watch *w)
{
	return &w->e->meters[PGS__ETCD_WATCH];
}

/* --- the connection -------------------------------------------------------------------- */

static void drop_events(etcd_watch *w)
{
	w->event_count = w->lent = 0;
	w->partial = false;
	pgs__arena_free(&w->arena);
}

static void disconnect(etcd_watch *w)
{
	if (w->streaming)
		curl_multi_remove_handle(w->multi, w->easy);
	w->streaming = w->answering = false;
	curl_slist_free_all(w->headers);
	w->headers = NULL;
	w->input.size = w->looked = w->searched = 0;
}

/* Try elsewhere; after a round of that, a little later. */
static void fall_back(etcd_watch *w)
{
	pgs__meter_add(&meter_of(w)->failures, w->streaming);
	disconnect(w);
	drop_events(w);
	pgs__wire_avoid(&w->e->wire, w->endpoint);
	unsigned rounds = ++w->failures / (unsigned)w->e->wire.endpoint_count;
	if (rounds == 0)
		return;
	uint64_t pause = (uint64_t)BACKOFF_MS << (rounds < 6 ? rounds - 1 : 5);
	w->pause_until_ms = pgs__now_ms() + (pause < BACKOFF_MAX_MS ? pause : BACKOFF_MAX_MS);
}

static int break_off(etcd_watch *w, int status, const char *why)
{
	char text[PGS__ETCD_LINE];
	pgs__error(&w->error, status, "watching etcd at %s: %s", w->e->wire.endpoints[w->endpoint],
		pgs__etcd_one_line(text, why));
	fall_back(w);
	return status;
}

static size_t take_input(char *data, size_t one, size_t size, void *ctx)
{
	(void)one;
	etcd_watch *w = ctx;
	pgs__meter_add(&meter_of(w)->bytes_received, size);
	pgs__put_bytes(&w->input, data, size);
	return w->input.failed || w->input.size > LINE_MAX_BYTES ? 0 : size;
}

static bool copy_headers(etcd_watch *w)
{
	pgs__etcd_headers *current = pgs__etcd_headers_take(w->e);
	/* A member that has lost its leader would be silent: it says so. */
	struct curl_slist *list = curl_slist_append(NULL, "Grpc-Metadata-hasleader: true");
	bool good = list != NULL;
	for (const struct curl_slist *at = current->list; at && good; at = at->next)
		good = curl_slist_append(list, at->data) != NULL;
	w->token_number = current->number;
	pgs__etcd_headers_give(w->e, current);
	w->headers = list;
	return good;
}

static void put_request(etcd_watch *w)
{
	w->request.size = 0;
	pgs__etcd_put_text(&w->request, "{\"create_request\":{");
	pgs__etcd_put_range(w->e, &w->request, w->key, w->range_end);
	pgs__etcd_put_text(&w->request, ",\"start_revision\":");
	pgs__etcd_put_number(&w->request, w->resume);
	pgs__etcd_put_text(&w->request, ",\"progress_notify\":true,\"fragment\":true}}");
}

static bool make_handles(etcd_watch *w)
{
	if (!w->multi)
		w->multi = curl_multi_init();
	if (!w->easy)
		w->easy = pgs__wire_easy(&w->e->wire);
	if (!w->multi || !w->easy)
		return false;
	curl_multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, 1L);
	curl_easy_setopt(w->easy, CURLOPT_ERRORBUFFER, w->detail);
	curl_easy_setopt(w->easy, CURLOPT_WRITEFUNCTION, take_input);
	curl_easy_setopt(w->easy, CURLOPT_WRITEDATA, w);
	return true;
}

static int connect_watch(etcd_watch *w)
{
	char url[320];
	const pgs__wire *wire = &w->e->wire;
	w->endpoint = atomic_load(&wire->current);
	w->detail[0] = '\0';
	w->started_us = pgs__now_us();
	snprintf(url, sizeof url, "%s/v3/watch", wire->endpoints[w->endpoint]);
	put_request(w);
	if (w->request.failed || !make_handles(w) || !copy_headers(w) ||
		curl_easy_setopt(w->easy, CURLOPT_URL, url) ||
		curl_easy_setopt(w->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)w->request.size) ||
		curl_easy_setopt(w->easy, CURLOPT_POSTFIELDS, w->request.data) ||
		curl_easy_setopt(w->easy, CURLOPT_HTTPHEADER, w->headers) ||
		curl_multi_add_handle(w->multi, w->easy)) {
		disconnect(w);
		w->request.failed = false;
		return pgs__error_nomem(&w->error, "a watch");
	}
	w->streaming = true;
	pgs__meter_add(&meter_of(w)->requests, 1);
	pgs__meter_add(&meter_of(w)->retries, w->failures + w->refusals > 0);
	pgs__meter_add(&meter_of(w)->bytes_sent, w->request.size);
	return PGS_OK;
}

/* --- lines ------------------------------------------------------------------------------- */

static int add_event(etcd_watch *w, pgs__json *j)
{
	pgs_slice name;
	bool found = false;
	int status = PGS_OK;
	if (pgs__grow(&w->events, &w->event_capacity, w->event_count + 1, sizeof *w->events) != PGS_OK)
		return PGS_ENOMEM;
	pgs_kv_event *event = &w->events[w->event_count];
	event->deleted = false;
	pgs__json_enter(j, '{');
	while (status == PGS_OK && pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "type")) {
			event->deleted = pgs__json_is(pgs__json_string(j), "DELETE");
		} else if (pgs__json_is(name, "kv")) {
			status = pgs__etcd_pair(w->e, j, &event->pair);
			found = true;
		} else {
			pgs__json_skip(j);
		}
	}
	if (status != PGS_OK || j->failed || !found)
		return PGS_ECORRUPT;
	if (event->pair.mod_revision < w->resume ||
		(w->event_count && event->pair.mod_revision < event[-1].pair.mod_revision))
		return PGS_ECORRUPT; /* what etcd never does; delivering it would break invariant 1 */
	w->event_count++;
	return PGS_OK;
}

static int take_events(etcd_watch *w, pgs__json *j)
{
	int status = PGS_OK;
	pgs__json_enter(j, '[');
	while (status == PGS_OK && pgs__json_element(j))
		status = add_event(w, j);
	return status == PGS_OK && j->failed ? PGS_ECORRUPT : status;
}

/* A token that expired, or a right that is missing: etcd says the same of both when a watch is made. */
static int refused(etcd_watch *w, const char *why)
{
	pgs__meter_add(&meter_of(w)->failures, 1);
	disconnect(w);
	drop_events(w);
	char text[PGS__ETCD_LINE];
	pgs__error(&w->error, PGS_EAUTH, "watching etcd at %s: %s", w->e->wire.endpoints[w->endpoint],
		pgs__etcd_one_line(text, why));
	if (w->refusals++ > 0 || !w->e->user) {
		w->refusals = 0;
		return PGS_EAUTH;
	}
	uint64_t least = pgs__now_ms() + RENEWAL_MS;
	return pgs__etcd_token_renew(
		w->e, w->token_number, w->until_ms > least ? w->until_ms : least, &w->error);
}

static int judge_end(etcd_watch *w, int code, pgs_slice reason)
{
	char why[200];
	int status;
	snprintf(why, sizeof why, "%.*s", (int)(reason.size < 190 ? reason.size : 190), (const char *)reason.data);
	pgs__etcd_verdict verdict = pgs__etcd_judge(code, why, &status);
	if (verdict == PGS__ETCD_RENEW || (verdict == PGS__ETCD_FINAL && status == PGS_EAUTH) ||
		strstr(why, "permission denied"))
		return refused(w, why);
	return break_off(w, PGS_EIO, *why ? why : "it ended the watch");
}

/* One message. What is not there is zero. */
typedef struct message {
	bool is_result;
	bool created, canceled, fragment, has_events;
	uint64_t revision, compacted;
	pgs_slice reason;
	int events; /* what came of taking them */
	bool is_error;
	uint64_t code;
	pgs_slice error;
} message;

static uint64_t take_revision(pgs__json *j)
{
	pgs_slice name;
	uint64_t revision = 0;
	pgs__json_enter(j, '{');
	while (pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "revision"))
			revision = pgs__json_number(j);
		else
			pgs__json_skip(j);
	}
	return revision;
}

static void read_result(etcd_watch *w, pgs__json *j, message *m)
{
	pgs_slice name;
	m->is_result = true;
	pgs__json_enter(j, '{');
	while (m->events == PGS_OK && pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "events")) {
			m->has_events = true;
			m->events = take_events(w, j);
		} else if (pgs__json_is(name, "header")) {
			m->revision = take_revision(j);
		} else if (pgs__json_is(name, "compact_revision")) {
			m->compacted = pgs__json_number(j);
		} else if (pgs__json_is(name, "cancel_reason")) {
			m->reason = pgs__json_string(j);
		} else if (pgs__json_is(name, "created")) {
			m->created = pgs__json_flag(j);
		} else if (pgs__json_is(name, "canceled")) {
			m->canceled = pgs__json_flag(j);
		} else if (pgs__json_is(name, "fragment")) {
			m->fragment = pgs__json_flag(j);
		} else {
			pgs__json_skip(j);
		}
	}
}

/* {"grpc_code":…,"message":…} of a stream, {"error":"…","code":…} of an answer that is none: both, in one object. */
static void read_error(pgs__json *j, message *m)
{
	pgs_slice name;
	m->is_error = true;
	if (j->at < j->end && *j->at == '"') {
		m->error = pgs__json_string(j);
		return;
	}
	pgs__json_enter(j, '{');
	while (pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "grpc_code"))
			m->code = pgs__json_number(j);
		else if (pgs__json_is(name, "message"))
			m->error = pgs__json_string(j);
		else
			pgs__json_skip(j);
	}
}

static bool read_message(etcd_watch *w, pgs__json *j, message *m)
{
	pgs_slice name;
	*m = (message){.reason = {"", 0}, .error = {"", 0}};
	pgs__json_enter(j, '{');
	while (m->events == PGS_OK && pgs__json_member(j, &name)) {
		if (pgs__json_is(name, "result"))
			read_result(w, j, m);
		else if (pgs__json_is(name, "error"))
			read_error(j, m);
		else if (pgs__json_is(name, "code"))
			m->code = pgs__json_number(j);
		else
			pgs__json_skip(j);
	}
	return m->events == PGS_OK && !j->failed && (m->is_result || m->is_error);
}

static int take_result(etcd_watch *w, const message *m)
{
	if (m->compacted) {
		pgs__etcd_saw_compacted(w->e, m->compacted);
		pgs__meter_add(&meter_of(w)->failures, 1);
		w->gone = true;
		disconnect(w);
		return PGS_OK;
	}
	if (m->canceled)
		return judge_end(w, 0, m->reason);
	w->failures = w->refusals = 0;
	if (m->created) {
		w->answering = true;
		pgs__meter_time(meter_of(w), pgs__now_us() - w->started_us);
		return PGS_OK;
	}
	if (m->has_events) {
		w->partial = m->fragment;
		return PGS_OK;
	}
	/* A notice of progress: all events up to here have been sent, since it comes in their order. */
	if (w->answering && !w->partial && w->event_count == 0 && m->revision >= w->resume) {
		w->resume = m->revision + 1;
		w->delivered = m->revision;
	}
	return PGS_OK;
}

/* The events lie in the line: it moves to where they stay. */
static int take_line(etcd_watch *w, pgs_slice line)
{
	message m;
	pgs_slice text;
	if (pgs__arena_copy(&w->arena, line, &text) != PGS_OK)
		return break_off(w, PGS_ENOMEM, "out of memory");
	pgs__json j = pgs__json_of((void *)text.data, text.size);
	bool good = read_message(w, &j, &m);
	if (m.events == PGS_ENOMEM)
		return break_off(w, PGS_ENOMEM, "out of memory");
	if (!good)
		return break_off(w, PGS_EIO,
			"what it sends is not a watch's events: is this an etcd of version 3.4 or later?");
	return m.is_result ? take_result(w, &m) : judge_end(w, (int)m.code, m.error);
}

/* How many of the events can be delivered: invariant 2. */
static size_t ready(const etcd_watch *w)
{
	size_t count = w->event_count;
	if (!w->partial || count == 0)
		return count;
	uint64_t last = w->events[count - 1].pair.mod_revision;
	while (count > 0 && w->events[count - 1].pair.mod_revision == last)
		count--;
	return count;
}

/* The next line without its end, or an empty slice. */
static pgs_slice next_line(etcd_watch *w)
{
	const char *data = (const char *)w->input.data;
	size_t begin = w->looked;
	const char *end = NULL;
	if (w->searched < w->input.size)
		end = memchr(data + w->searched, '\n', w->input.size - w->searched);
	w->searched = w->input.size;
	if (!end)
		return (pgs_slice){NULL, 0};
	w->looked = w->searched = (size_t)(end - data) + 1;
	return (pgs_slice){data + begin, w->looked - 1 - begin};
}

/* Look at the lines that are complete, until there is something to deliver. */
static int take_lines(etcd_watch *w)
{
	int status = PGS_OK;
	while (status == PGS_OK && w->streaming && ready(w) == 0) {
		size_t before = w->looked;
		pgs_slice line = next_line(w);
		if (w->looked == before)
			break;
		if (line.size)
			status = take_line(w, line);
		if (w->event_count == 0)
			pgs__arena_free(&w->arena);
	}
	if (w->streaming && w->looked && ready(w) == 0) {
		memmove(w->input.data, w->input.data + w->looked, w->input.size - w->looked);
		w->input.size -= w->looked;
		w->searched -= w->looked;
		w->looked = 0;
	}
	return status;
}

/* --- waiting --------------------------------------------------------------------------------- */

/* The connection has ended: what it said last may be an error without the end of a line. */
static int take_end(etcd_watch *w, CURLcode code)
{
	size_t left = w->input.size - w->looked;
	if (code == CURLE_OK && left > 0)
		return take_line(w, (pgs_slice){w->input.data + w->looked, left});
	if (w->input.failed) {
		w->input.failed = false;
		return break_off(w, PGS_ENOMEM, "out of memory");
	}
	return break_off(w, PGS_EIO, code ? pgs__http_text(code, w->detail) : "it ended the connection");
}

/* Whatever can be done without waiting. */
static int pump(etcd_watch *w)
{
	int status = take_lines(w), left;
	if (status != PGS_OK || !w->streaming || ready(w))
		return status;
	curl_multi_perform(w->multi, &left);
	status = take_lines(w);
	if (status != PGS_OK || !w->streaming || ready(w))
		return status;
	for (CURLMsg *said; (said = curl_multi_info_read(w->multi, &left)) != NULL;)
		if (said->msg == CURLMSG_DONE)
			return take_end(w, said->data.result);
	if (!w->answering && pgs__now_us() > w->started_us + (uint64_t)w->e->wire.answer_timeout_ms * 1000)
		return break_off(w, PGS_EIO, "no answer");
	return PGS_OK;
}

/* The first failures are not the caller's affair: another endpoint may do. */
static bool is_passing(int status)
{
	return status == PGS_OK || status == PGS_EIO;
}

static int advance(etcd_watch *w)
{
	if (!w->streaming && pgs__now_ms() >= w->pause_until_ms) {
		int status = connect_watch(w);
		if (status != PGS_OK)
			return status;
	}
	return w->streaming ? pump(w) : PGS_OK;
}

/* Until something is ready, or is wrong, or it is time. */
static int wait_for_events(etcd_watch *w)
{
	for (;;) {
		int status = advance(w);
		if (!is_passing(status) || w->gone || ready(w))
			return status;
		uint64_t now = pgs__now_ms();
		if (now >= w->until_ms)
			return w->failures ? PGS_EIO : PGS_OK;
		uint64_t left = w->until_ms - now;
		if (!w->streaming && w->pause_until_ms > now && w->pause_until_ms - now < left)
			left = w->pause_until_ms - now;
		left = left < 1000 ? left : 1000;
		if (w->streaming)
			curl_multi_poll(w->multi, NULL, 0, (int)left, NULL);
		else if (w->pause_until_ms > now)
			pgs__sleep_ms((uint32_t)left, 0);
	}
}

/* --- batches ------------------------------------------------------------------------------------- */

static int by_revision_and_key(const void *a, const void *b)
{
	const pgs_kv_pair *x = &((const pgs_kv_event *)a)->pair, *y = &((const pgs_kv_event *)b)->pair;
	if (x->mod_revision != y->mod_revision)
		return x->mod_revision < y->mod_revision ? -1 : 1;
	return pgs__slice_compare(x->key, y->key);
}

/* etcd has a revision's events in the order of the operations. */
static void sort_events(pgs_kv_event *events, size_t count)
{
	for (size_t i = 1; i < count; i++)
		if (by_revision_and_key(&events[i - 1], &events[i]) > 0) {
			qsort(events, count, sizeof *events, by_revision_and_key);
			return;
		}
}

static void lend(etcd_watch *w, pgs_kv_events *out)
{
	size_t count = ready(w);
	out->revision = w->delivered;
	if (count == 0)
		return;
	sort_events(w->events, count);
	w->delivered = w->events[count - 1].pair.mod_revision;
	w->resume = w->delivered + 1;
	w->lent = count;
	*out = (pgs_kv_events){.events = w->events, .count = count, .revision = w->delivered};
}

/* The caller has done with the last batch. The events behind it move to memory of their own. */
static int take_back(etcd_watch *w)
{
	pgs__arena kept = {0};
	if (w->lent == 0)
		return PGS_OK;
	for (size_t i = w->lent; i < w->event_count; i++) {
		pgs_kv_pair *pair = &w->events[i].pair;
		if (pgs__arena_copy(&kept, pair->key, &pair->key) != PGS_OK ||
			pgs__arena_copy(&kept, pair->value, &pair->value) != PGS_OK) {
			pgs__arena_free(&kept);
			return break_off(w, PGS_ENOMEM, "out of memory"); /* it comes again */
		}
	}
	memmove(w->events, w->events + w->lent, (w->event_count - w->lent) * sizeof *w->events);
	w->event_count -= w->lent;
	w->lent = 0;
	pgs__arena_free(&w->arena);
	w->arena = kept;
	return PGS_OK;
}

/* --- the slots --------------------------------------------------------------------------------------- */

int pgs__etcd_watch_next(pgs_kv_watch *handle, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	etcd_watch *w = (etcd_watch *)handle;
	*out = (pgs_kv_events){.revision = w->delivered};
	w->until_ms = pgs__now_ms() + timeout_ms;
	int status = take_back(w);
	if (status == PGS_OK && w->empty)
		pgs__sleep_ms(timeout_ms, 0);
	else if (status == PGS_OK && !w->gone)
		status = wait_for_events(w);
	if (w->gone)
		return pgs__error(err, PGS_EOLDREV, "the history from revision %llu on has been compacted",
			(unsigned long long)w->resume);
	if (status != PGS_OK) {
		if (err)
			*err = w->error;
		return status;
	}
	lend(w, out);
	return PGS_OK;
}

void pgs__etcd_watch_close(pgs_kv_watch *handle)
{
	etcd_watch *w = (etcd_watch *)handle;
	disconnect(w);
	if (w->easy)
		curl_easy_cleanup(w->easy);
	if (w->multi)
		curl_multi_cleanup(w->multi);
	pgs__buffer_free(&w->request);
	pgs__buffer_free(&w->input);
	pgs__arena_free(&w->arena);
	pgs__arena_free(&w->names);
	pgs__free(w->events);
	pgs__free(w);
}

/* From now: from behind a revision that is read, so that a member which lags shows nothing older. */
static int find_start(etcd_watch *w, uint64_t from_revision, pgs_error *err)
{
	w->resume = from_revision;
	if (from_revision)
		return PGS_OK;
	int status = pgs__etcd_revision(w->e, &w->delivered, NULL, pgs__etcd_deadline(w->e, 0), err);
	w->resume = w->delivered + 1;
	return status;
}

int pgs__etcd_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err)
{
	*out = NULL;
	if (key.size == 0)
		return pgs__error(err, PGS_EINVAL, "a watch of an empty key");
	etcd_watch *w = pgs__calloc(1, sizeof *w);
	if (!w)
		return pgs__error_nomem(err, "a watch");
	w->e = pgs__etcd_of(kv);
	w->empty = range_end.size && !pgs__kv_is_to_end(range_end) && pgs__slice_compare(key, range_end) >= 0;
	int status = PGS_OK;
	if (pgs__arena_copy(&w->names, key, &w->key) != PGS_OK ||
		pgs__arena_copy(&w->names, range_end, &w->range_end) != PGS_OK)
		status = pgs__error_nomem(err, "a watch");
	if (status == PGS_OK)
		status = find_start(w, from_revision, err);
	if (status == PGS_OK && !w->empty) { /* what fails here is met again by watch_next() */
		w->until_ms = pgs__now_ms();
		advance(w);
	}
	if (status != PGS_OK) {
		pgs__etcd_watch_close((pgs_kv_watch *)w);
		return status;
	}
	*out = (pgs_kv_watch *)w;
	return PGS_OK;
}
