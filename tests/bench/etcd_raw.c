/* Requests of etcd's gateway, and how many it has had. */
#include "etcd_raw.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_BYTES 27         /* in base64 36 digits: a prefix of 18 bytes, and the number */
#define BODY_MAX (256u << 10)

struct bench_raw {
	CURL *easy;
	struct curl_slist *headers;
	char endpoint[64];
	char *body;
	size_t size;
	size_t answer_size;
};

static size_t take_nothing(char *data, size_t one, size_t size, void *ctx)
{
	(void)data;
	((bench_raw *)ctx)->answer_size += size;
	return one * size;
}

bench_raw *bench_raw_open(const char *endpoint)
{
	bench_raw *raw = bench_alloc(sizeof *raw);
	*raw = (bench_raw){.easy = curl_easy_init(), .body = bench_alloc(BODY_MAX)};
	raw->headers = curl_slist_append(curl_slist_append(NULL, "Content-Type: application/json"), "Expect:");
	bench_check(raw->easy && raw->headers, "out of memory");
	snprintf(raw->endpoint, sizeof raw->endpoint, "http://%s", endpoint);
	curl_easy_setopt(raw->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(raw->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(raw->easy, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(raw->easy, CURLOPT_PROXY, "");
	curl_easy_setopt(raw->easy, CURLOPT_HTTPHEADER, raw->headers);
	curl_easy_setopt(raw->easy, CURLOPT_WRITEFUNCTION, take_nothing);
	curl_easy_setopt(raw->easy, CURLOPT_WRITEDATA, raw);
	return raw;
}

void bench_raw_close(bench_raw *raw)
{
	curl_easy_cleanup(raw->easy);
	curl_slist_free_all(raw->headers);
	free(raw->body);
	free(raw);
}

/* --- requests --------------------------------------------------------------------- */

static void put_text(bench_raw *raw, const char *text)
{
	size_t size = strlen(text);
	bench_check(raw->size + size <= BODY_MAX, "a raw request is too large");
	memcpy(raw->body + raw->size, text, size);
	raw->size += size;
}

/* Any digits are base64 when they are a multiple of four. */
static void put_key(bench_raw *raw, uint32_t number)
{
	char text[64];
	snprintf(text, sizeof text, "\"key\":\"rawrawrawrawrawrawrawraw++++%08u\"", number);
	put_text(raw, text);
}

static void put_value(bench_raw *raw, size_t bytes)
{
	size_t digits = (bytes + 2) / 3 * 4;
	put_text(raw, ",\"value\":\"");
	bench_check(raw->size + digits + 16 <= BODY_MAX, "a raw request is too large");
	for (size_t i = 0; i < digits; i++)
		raw->body[raw->size + i] = (char)('a' + (i * 7 + digits) % 26);
	raw->size += digits;
	put_text(raw, "\"");
}

static double post(bench_raw *raw, const char *path)
{
	char url[128];
	long status = 0;
	snprintf(url, sizeof url, "%s%s", raw->endpoint, path);
	raw->answer_size = 0;
	curl_easy_setopt(raw->easy, CURLOPT_URL, url);
	curl_easy_setopt(raw->easy, CURLOPT_POSTFIELDS, raw->body);
	curl_easy_setopt(raw->easy, CURLOPT_POSTFIELDSIZE, (long)raw->size);
	double since = bench_seconds();
	CURLcode code = curl_easy_perform(raw->easy);
	double took = bench_seconds() - since;
	curl_easy_getinfo(raw->easy, CURLINFO_RESPONSE_CODE, &status);
	if (code || status != 200 || raw->answer_size == 0)
		bench_die("a raw request of %s: HTTP status %ld, %s", path, status, curl_easy_strerror(code));
	return took;
}

double bench_raw_put(bench_raw *raw, uint32_t number, size_t bytes)
{
	raw->size = 0;
	put_text(raw, "{");
	put_key(raw, number);
	put_value(raw, bytes > KEY_BYTES ? bytes - KEY_BYTES : 0);
	put_text(raw, "}");
	return post(raw, "/v3/kv/put");
}

double bench_raw_get(bench_raw *raw, uint32_t number)
{
	raw->size = 0;
	put_text(raw, "{");
	put_key(raw, number);
	put_text(raw, "}");
	return post(raw, "/v3/kv/range");
}

double bench_raw_get_many(bench_raw *raw, const uint32_t *numbers, size_t count)
{
	raw->size = 0;
	put_text(raw, "{\"success\":[");
	for (size_t i = 0; i < count; i++) {
		put_text(raw, i ? ",{\"request_range\":{" : "{\"request_range\":{");
		put_key(raw, numbers[i]);
		put_text(raw, "}}");
	}
	put_text(raw, "]}");
	double took = post(raw, "/v3/kv/txn");
	bench_check(raw->answer_size > count * 100, "raw keys that are not there");
	return took;
}

/* --- a watch ---------------------------------------------------------------------------- */

typedef struct replay {
	char last[48]; /* what its end is known by */
	size_t last_size;
	char seam[96]; /* it may come in two parts */
	bool done;
} replay;

static size_t take_events(char *data, size_t one, size_t size, void *ctx)
{
	replay *r = ctx;
	size_t head = size < r->last_size ? size : r->last_size;
	(void)one;
	memcpy(r->seam + r->last_size, data, head);
	r->done = memmem(data, size, r->last, r->last_size) || memmem(r->seam, r->last_size + head, r->last, r->last_size);
	if (head == r->last_size)
		memcpy(r->seam, data + size - head, head);
	else
		memmove(r->seam, r->seam + head, r->last_size);
	return r->done ? 0 : size;
}

double bench_raw_replay(const bench_raw *raw, uint64_t from, uint64_t through)
{
	replay r = {.done = false};
	CURL *easy = curl_easy_duphandle(raw->easy);
	char url[128], body[160];
	bench_check(easy != NULL, "out of memory");
	r.last_size = (size_t)snprintf(r.last, sizeof r.last, "\"mod_revision\":\"%llu\"", (unsigned long long)through);
	snprintf(url, sizeof url, "%s/v3/watch", raw->endpoint);
	snprintf(body, sizeof body, "{\"create_request\":{\"key\":\"AA==\",\"range_end\":\"AA==\",\"start_revision\":%llu,"
		 "\"fragment\":true}}", (unsigned long long)from);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_events);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, &r);
	double since = bench_seconds();
	CURLcode code = curl_easy_perform(easy);
	double took = bench_seconds() - since;
	if (!r.done)
		bench_die("a raw watch: %s", curl_easy_strerror(code));
	curl_easy_cleanup(easy);
	return took;
}

/* --- counting ------------------------------------------------------------------------- */

typedef struct metrics {
	char text[512u << 10];
	size_t size;
} metrics;

static size_t take_metrics(char *data, size_t one, size_t size, void *ctx)
{
	metrics *m = ctx;
	if (m->size + size >= sizeof m->text)
		return 0;
	memcpy(m->text + m->size, data, one * size);
	m->size += size;
	return size;
}

/* Lines like grpc_server_started_total{grpc_method="Txn",…} 12. What looks after the server itself is not counted. */
static uint64_t add_started(const char *text)
{
	static const char name[] = "\ngrpc_server_started_total{";
	uint64_t sum = 0;
	for (const char *at = strstr(text, name); at; at = strstr(at + 1, name)) {
		const char *end = strchr(at + 1, '\n'), *number = strstr(at, "} "), *service = strstr(at, "etcdserverpb.");
		bench_check(end && number && number < end, "etcd's metrics look otherwise");
		if (service && service < end && strncmp(service, "etcdserverpb.Maintenance", 24) != 0)
			sum += (uint64_t)strtod(number + 2, NULL);
	}
	return sum;
}

uint64_t bench_requests(const etcd_server *etcd)
{
	CURL *easy = curl_easy_init();
	metrics *m = bench_alloc(sizeof *m);
	char url[128];
	m->size = 0;
	bench_check(easy != NULL, "out of memory");
	snprintf(url, sizeof url, "http://%s/metrics", etcd_health_endpoint(etcd));
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_metrics);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, m);
	CURLcode code = curl_easy_perform(easy);
	if (code)
		bench_die("etcd's metrics: %s", curl_easy_strerror(code));
	m->text[m->size] = '\0';
	uint64_t sum = add_started(m->text);
	curl_easy_cleanup(easy);
	free(m);
	return sum;
}
