/* The etcd backend when things go wrong between it and the cluster: answers that are lost, late or nonsense, members
 * that die or hang. What is acknowledged is there, once; what may be there is PGS_EUNKNOWN; deadlines are kept. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <pagestore/backends.h>

#include "support/etcd_server.h"
#include "support/failing_alloc.h"
#include "support/kv_calls.h"
#include "support/tcp_proxy.h"
#include "support/testing.h"
#include "util/clock.h"
#include "util/hooks.h"

#define SLACK_MS 500 /* a scheduling delay, on a machine that has much else to do */

static etcd_server *etcd;

/* A KV through a proxy, and one straight to the server, which sees what has become of things. */
typedef struct fixture {
	tcp_proxy *proxy;
	pgs_kv *kv;
	pgs_kv *direct;
} fixture;

static pgs_kv *open_with(const char *endpoints, const char *root, uint32_t answer_timeout_ms)
{
	pgs_etcd_options options = PGS_ETCD_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	options.connect_timeout_ms = 300;
	options.answer_timeout_ms = answer_timeout_ms;
	if (pgs_kv_etcd_open(&kv, endpoints, root, &options, &err) != PGS_OK)
		print_error("%s\n", err.message);
	return kv;
}

static int set_up(void **state)
{
	static unsigned number;
	fixture *f = calloc(1, sizeof *f);
	char root[16], endpoint[32];
	snprintf(root, sizeof root, "faults-%u", number++);
	f->proxy = tcp_proxy_start(etcd_port(etcd, 0));
	snprintf(endpoint, sizeof endpoint, "127.0.0.1:%u", tcp_proxy_port(f->proxy));
	f->kv = open_with(endpoint, root, 2000);
	f->direct = etcd_kv(etcd, root, NULL);
	*state = f;
	return f->kv && f->direct ? 0 : -1;
}

static int tear_down(void **state)
{
	fixture *f = *state;
	f->kv->vtable->close(f->kv);
	f->direct->vtable->close(f->direct);
	tcp_proxy_stop(f->proxy);
	free(f);
	return 0;
}

/* A put by `deadline` ms from now; fails when it takes longer than that. */
static int put_within(pgs_kv *kv, const char *key, uint64_t ms)
{
	pgs_kv_op op = op_put(key, "1");
	pgs_kv_txn txn = txn_of(&op, 1);
	pgs_error err = PGS_ERROR_INIT;
	uint64_t started = pgs__now_ms();
	int status = kv->vtable->txn(kv, &txn, 1, started + ms, &err);
	uint64_t took = pgs__now_ms() - started;
	if (took > ms + SLACK_MS)
		fail_msg("%llu ms with a deadline of %llu: %s", (unsigned long long)took, (unsigned long long)ms,
			err.message);
	kv->vtable->release(kv, &txn, 1);
	return status;
}

static int read_within(pgs_kv *kv, const char *key, uint64_t ms)
{
	pgs_kv_op op = op_range(key, NULL);
	pgs_kv_txn txn = txn_of(&op, 1);
	uint64_t started = pgs__now_ms();
	int status = kv->vtable->txn(kv, &txn, 1, started + ms, NULL);
	assert_true(pgs__now_ms() - started <= ms + SLACK_MS);
	kv->vtable->release(kv, &txn, 1);
	return status;
}

/* --- answers that do not come -------------------------------------------------------- */

/* On a connection that was used before: libcurl would send it again. */
static void test_put__whose_answer_is_cut_is_unknown_and_sent_once(void **state)
{
	fixture *f = *state;
	kv_put(f->kv, "a", "0");
	for (unsigned i = 1; i <= 5; i++) {
		tcp_proxy_set(f->proxy, i % 2 ? PROXY_CUT : PROXY_HALF, 1);
		assert_int_equal(put_within(f->kv, "a", 5000), PGS_EUNKNOWN);
		assert_int_equal(kv_numbers(f->direct, "a").version, i + 1);
	}
	assert_int_equal(put_within(f->kv, "a", 5000), PGS_OK);
	assert_int_equal(kv_numbers(f->direct, "a").version, 7);
}

static void test_put__whose_answer_is_swallowed_is_unknown_at_the_deadline(void **state)
{
	fixture *f = *state;
	tcp_proxy_set(f->proxy, PROXY_SWALLOW, 1);
	assert_int_equal(put_within(f->kv, "a", 300), PGS_EUNKNOWN);
	assert_int_equal(kv_numbers(f->direct, "a").version, 1);
	/* Without a deadline, when the server has been silent for too long. */
	tcp_proxy_set(f->proxy, PROXY_SWALLOW, 1);
	uint64_t started = pgs__now_ms();
	pgs_kv_op op = op_put("a", "2");
	assert_int_equal(status_of(f->kv, &op, 1), PGS_EUNKNOWN);
	assert_in_range(pgs__now_ms() - started, 1900, 2000 + SLACK_MS);
	assert_int_equal(put_within(f->kv, "a", 5000), PGS_OK);
}

/* What a member passed on to a leader that is dead gets no answer: it is given up long before etcd says so. A server
 * that is silent again gets more time. */
static void test_put__into_silence_is_given_up_soon_and_later_then(void **state)
{
	fixture *f = *state;
	char endpoint[32];
	pgs_kv_op op = op_put("a", "1");
	snprintf(endpoint, sizeof endpoint, "127.0.0.1:%u", tcp_proxy_port(f->proxy));
	pgs_kv *kv = open_with(endpoint, "patience", 0);
	for (uint64_t patience = 3000; patience <= 6000; patience *= 2) {
		uint64_t started = pgs__now_ms();
		tcp_proxy_set(f->proxy, PROXY_SWALLOW, 1);
		assert_int_equal(status_of(kv, &op, 1), PGS_EUNKNOWN);
		assert_in_range(pgs__now_ms() - started, patience - 100, patience + 1500);
	}
	kv->vtable->close(kv);
}

static void test_put__that_was_never_sent_is_not_unknown(void **state)
{
	fixture *f = *state;
	tcp_proxy_cut_all(f->proxy);
	pgs__sleep_ms(20, 0);
	char endpoint[32];
	snprintf(endpoint, sizeof endpoint, "127.0.0.1:%u", tcp_proxy_port(f->proxy));
	pgs_kv *kv = open_with(endpoint, "never", 2000);
	tcp_proxy_stop(f->proxy); /* nobody listens any more */
	assert_int_equal(put_within(kv, "a", 5000), PGS_EIO);
	assert_int_equal(read_within(kv, "a", 5000), PGS_EIO);
	kv->vtable->close(kv);
	f->proxy = tcp_proxy_start(etcd_port(etcd, 0));
}

static void test_read__is_asked_for_again(void **state)
{
	fixture *f = *state;
	kv_put(f->kv, "a", "1");
	for (unsigned i = 0; i < 4; i++) {
		tcp_proxy_set(f->proxy, i % 2 ? PROXY_CUT : PROXY_HALF, 1);
		assert_int_equal(read_within(f->kv, "a", 5000), PGS_OK);
	}
	tcp_proxy_set(f->proxy, PROXY_CUT, 0);
	assert_int_equal(read_within(f->kv, "a", 5000), PGS_EIO);
	tcp_proxy_set(f->proxy, PROXY_SWALLOW, 0);
	assert_int_equal(read_within(f->kv, "a", 300), PGS_ETIMEOUT);
	tcp_proxy_set(f->proxy, PROXY_PASS, 0);
	assert_int_equal(read_within(f->kv, "a", 5000), PGS_OK);
}

static void test_compact__that_was_repeated_has_happened(void **state)
{
	fixture *f = *state;
	uint64_t first = kv_put(f->kv, "a", "1"), revision = kv_put(f->kv, "a", "2");
	tcp_proxy_set(f->proxy, PROXY_CUT, 1);
	assert_int_equal(f->kv->vtable->compact(f->kv, revision, 0, NULL), PGS_OK);
	assert_int_equal(f->direct->vtable->compact(f->direct, revision, 0, NULL), PGS_EOLDREV);
	assert_int_equal(f->kv->vtable->compact(f->kv, first, 0, NULL), PGS_EOLDREV);
}

/* --- answers that are late ------------------------------------------------------------- */

static void test_array__keeps_its_deadline(void **state)
{
	enum { COUNT = 40 };
	fixture *f = *state;
	char keys[COUNT][8];
	pgs_kv_op ops[COUNT];
	pgs_kv_txn txns[COUNT];
	for (unsigned i = 0; i < COUNT; i++) {
		snprintf(keys[i], sizeof keys[i], "k%u", i);
		ops[i] = op_put(keys[i], "1");
		txns[i] = txn_of(&ops[i], 1);
	}
	tcp_proxy_set(f->proxy, PROXY_DELAY, 0);
	uint64_t started = pgs__now_ms();
	assert_int_not_equal(f->kv->vtable->txn(f->kv, txns, COUNT, started + 1000, NULL), PGS_OK);
	assert_true(pgs__now_ms() - started <= 1000 + SLACK_MS);
	tcp_proxy_set(f->proxy, PROXY_PASS, 0);
	unsigned done = 0, late = 0;
	for (unsigned i = 0; i < COUNT; i++) {
		uint64_t version = kv_numbers(f->direct, keys[i]).version;
		assert_true(version <= 1);
		if (txns[i].status == PGS_OK)
			assert_int_equal(version, 1);
		else if (txns[i].status == PGS_ETIMEOUT)
			assert_int_equal(version, 0);
		else
			assert_int_equal(txns[i].status, PGS_EUNKNOWN);
		done += txns[i].status == PGS_OK;
		late += txns[i].status == PGS_ETIMEOUT;
	}
	assert_true(done > 0);
	assert_true(late > 0);
	f->kv->vtable->release(f->kv, txns, COUNT);
}

/* A listener whose queue is full: what connects to it hears nothing, not even a refusal. */
static int make_deaf(char *endpoint, size_t size, int fillers[4])
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof address;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
	assert_int_equal(listen(fd, 0), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	for (int i = 0; i < 4; i++) {
		fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)!connect(fillers[i], (struct sockaddr *)&address, length);
	}
	snprintf(endpoint, size, "127.0.0.1:%u", ntohs(address.sin_port));
	return fd;
}

static void test_connect__to_nowhere_keeps_the_deadline(void **state)
{
	fixture *f = *state;
	char deaf[32], both[80];
	int fillers[4], fd = make_deaf(deaf, sizeof deaf, fillers);
	(void)f;
	snprintf(both, sizeof both, "%s,%s", deaf, etcd_endpoint(etcd, 0));
	uint64_t started = pgs__now_ms();
	pgs_kv *kv = open_with(both, "deaf", 2000);
	assert_non_null(kv);
	assert_in_range(pgs__now_ms() - started, 250, 2000);
	assert_int_equal(put_within(kv, "a", 100), PGS_OK); /* it has learned */
	kv->vtable->close(kv);
	for (int i = 0; i < 4; i++)
		close(fillers[i]);
	close(fd);
}

static void test_read__goes_elsewhere_when_a_server_is_silent(void **state)
{
	fixture *f = *state;
	char both[80];
	snprintf(both, sizeof both, "127.0.0.1:%u,%s", tcp_proxy_port(f->proxy), etcd_endpoint(etcd, 0));
	pgs_kv *kv = open_with(both, "silent", 300);
	kv_put(kv, "a", "1");
	tcp_proxy_set(f->proxy, PROXY_SWALLOW, 0);
	assert_int_equal(read_within(kv, "a", 2000), PGS_OK);
	kv->vtable->close(kv);
}

/* --- connections that are not needed any more ---------------------------------------------- */

static atomic_uint skipped_ms;

static uint64_t skipping_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + skipped_ms;
}

static void *put_once(void *kv)
{
	pgs_kv_op op = op_put("idle", "1");
	return status_of(kv, &op, 1) == PGS_OK ? NULL : kv;
}

/* Each in a thread of its own, while answers take 200 ms: on a channel of its own. */
static void put_side_by_side(fixture *f)
{
	enum { THREADS = 4 };
	pthread_t threads[THREADS];
	tcp_proxy_set(f->proxy, PROXY_DELAY, THREADS);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, put_once, f->kv), 0);
	for (size_t i = 0; i < THREADS; i++) {
		void *failed;
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
}

static void test_channels__that_nobody_takes_for_a_minute_are_freed(void **state)
{
	fixture *f = *state;
	pgs__system clock = {.now_ms = skipping_now_ms};
	put_side_by_side(f);
	unsigned warm = tcp_proxy_accepted(f->proxy);
	put_side_by_side(f);
	assert_int_equal(tcp_proxy_accepted(f->proxy), warm);
	pgs__hooks = &clock; /* nothing else that it has is asked for */
	skipped_ms = 61000;
	assert_null(put_once(f->kv));
	assert_int_equal(tcp_proxy_accepted(f->proxy), warm); /* the one that is used stays */
	put_side_by_side(f);
	pgs__hooks = NULL;
	assert_in_range(tcp_proxy_accepted(f->proxy), warm + 1, warm + 3);
}

/* --- answers that make no sense ------------------------------------------------------------ */

static const char *http(const char *status, const char *body)
{
	static char text[900];
	snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(body), body);
	return text;
}

static void test_answers__that_leave_it_open_are_unknown(void **state)
{
	fixture *f = *state;
	static const char *const bodies[][2] = {
		{"200 OK", ""},
		{"200 OK", "{}"},
		{"200 OK", "{"},
		{"200 OK", "nonsense"},
		{"200 OK", "{\"header\":{}}"},
		{"200 OK", "{\"header\":{\"revision\":\"7\",\"cluster_id\":\"1\"},\"succeeded\":true}"},
		{"502 Bad Gateway", "<html>"},
		{"504 Gateway Timeout", "<html>"},
		{"500 Oops", "{\"error\":\"x\",\"message\":\"x\",\"code\":13}"},
		{"503 Unavailable", "{\"message\":\"etcdserver: request timed out\",\"code\":14}"},
		{"503 Unavailable", "{\"message\":\"etcdserver: leader changed\",\"code\":14}"},
		{"503 Unavailable", "{\"message\":\"transport is closing\",\"code\":14}"},
		{"504 Timeout", "{\"message\":\"context deadline exceeded\",\"code\":4}"},
		{"200 OK", "{\"header\":{\"revision\":\"99999999999999999999\"}}"},
		{"200 OK", "{\"header\":{\"revision\":-7},\"succeeded\":true,\"responses\":[]}"},
	};
	for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
		tcp_proxy_answer(f->proxy, http(bodies[i][0], bodies[i][1]), 1);
		assert_int_equal(put_within(f->kv, "a", 3000), PGS_EUNKNOWN);
		tcp_proxy_answer(f->proxy, http(bodies[i][0], bodies[i][1]), 1);
		assert_int_equal(read_within(f->kv, "a", 3000), PGS_OK); /* the second time */
		tcp_proxy_answer(f->proxy, http(bodies[i][0], bodies[i][1]), 0);
		assert_int_equal(read_within(f->kv, "a", 3000), PGS_EIO);
	}
	tcp_proxy_set(f->proxy, PROXY_PASS, 0);
	kv_expect(f->direct, "a", NULL);
}

static void test_answers__that_are_final_are_told(void **state)
{
	fixture *f = *state;
	static const struct {
		const char *status, *body;
		int expected;
	} cases[] = {
		{"400 Bad", "{\"message\":\"etcdserver: too many operations in txn request\",\"code\":3}", PGS_ELIMIT},
		{"400 Bad", "{\"message\":\"etcdserver: request is too large\",\"code\":3}", PGS_ELIMIT},
		{"400 Bad", "{\"message\":\"etcdserver: duplicate key given in txn request\",\"code\":3}", PGS_EINVAL},
		{"429 Many", "{\"message\":\"grpc: received message larger than max (3 vs. 2)\",\"code\":8}", PGS_ELIMIT},
		{"503 Busy", "{\"message\":\"etcdserver: too many requests\",\"code\":8}", PGS_EIO},
		{"403 No", "{\"message\":\"etcdserver: permission denied\",\"code\":7}", PGS_EAUTH},
		{"401 No", "{\"message\":\"etcdserver: invalid auth token\",\"code\":16}", PGS_EAUTH},
		{"400 No", "{\"message\":\"mvcc: required revision has been compacted\",\"code\":11}", PGS_EOLDREV},
		{"400 No", "{\"message\":\"mvcc: required revision is a future revision\",\"code\":11}", PGS_EINVAL},
		{"500 No", "{\"message\":\"etcdserver: corrupt cluster\",\"code\":15}", PGS_ECORRUPT},
		{"404 Not Found", "Not Found", PGS_EIO},
		{"401 Who", "<html>", PGS_EAUTH},
		{"413 Large", "<html>", PGS_ELIMIT},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		tcp_proxy_answer(f->proxy, http(cases[i].status, cases[i].body), 1);
		assert_int_equal(put_within(f->kv, "a", 3000), cases[i].expected);
	}
	kv_expect(f->direct, "a", NULL);
}

/* A reply that is cut, or has something else in it, at any place. */
static void test_answers__that_are_damaged_anywhere(void **state)
{
	fixture *f = *state;
	static const char reply[] =
		"{\"header\":{\"cluster_id\":\"%s\",\"revision\":\"9\"},\"succeeded\":true,\"responses\":"
		"[{\"response_range\":"
		"{\"header\":{\"revision\":\"9\"},\"kvs\":[{\"key\":\"L2ZhdWx0cy0wL2E=\",\"create_revision\":\"2\","
		"\"mod_revision\":\"3\",\"version\":\"1\",\"value\":\"eA==\"}],\"count\":\"1\"}}]}";
	size_t size = sizeof reply - 1;
	for (size_t i = 0; i < size; i++) {
		char text[sizeof reply];
		memcpy(text, reply, sizeof reply);
		if (i % 2)
			text[i] = i % 4 == 1 ? '"' : '[';
		else
			text[i] = '\0';
		tcp_proxy_answer(f->proxy, http("200 OK", text), 0);
		pgs_kv_op op = op_range("a", NULL);
		pgs_kv_txn txn = txn_of(&op, 1);
		run_txn(f->kv, &txn); /* whatever it says: within bounds */
		f->kv->vtable->release(f->kv, &txn, 1);
	}
	tcp_proxy_set(f->proxy, PROXY_PASS, 0);
	kv_put(f->kv, "a", "1");
}

/* --- memory ------------------------------------------------------------------------------------ */

/* Each allocation fails once: nothing is lost, nothing leaks, and what was applied is not denied. */
static void test_memory__may_run_out_anywhere(void **state)
{
	(void)state;
	failing_alloc_install();
	unsigned puts = 0, failures = 0;
	for (size_t nth = 1;; nth++) {
		pgs_kv *kv = NULL;
		char key[24];
		snprintf(key, sizeof key, "k%zu", nth);
		failing_alloc_begin(nth);
		if (pgs_kv_etcd_open(&kv, etcd_endpoint(etcd, 0), "memory", NULL, NULL) == PGS_OK) {
			pgs_kv_op ops[] = {op_put(key, "1"), op_range("k", "l")};
			pgs_kv_txn txns[] = {txn_of(ops, 2), txn_of(&ops[1], 1)};
			kv->vtable->txn(kv, txns, 2, 0, NULL);
			if (txns[0].status == PGS_OK)
				puts++;
			kv->vtable->release(kv, txns, 2);
			pgs_kv_watch *watch = NULL;
			pgs_kv_events events;
			if (kv->vtable->watch_open(kv, bytes_of(key), NO_END, 1, &watch, NULL) == PGS_OK) {
				kv->vtable->watch_next(watch, 200, &events, NULL);
				kv->vtable->watch_next(watch, 0, &events, NULL);
				kv->vtable->watch_close(watch);
			}
		}
		bool failed = failing_alloc_end();
		failures += failed;
		if (kv) {
			uint64_t version = kv_numbers(kv, key).version;
			assert_true(version <= 1);
			kv->vtable->close(kv);
		}
		assert_int_equal(failing_alloc_live(), 0);
		if (!failed)
			break;
	}
	failing_alloc_uninstall();
	assert_true(failures > 20);
	assert_true(puts > 5);
}

/* --- watches ------------------------------------------------------------------------------------- */

typedef struct putter {
	pgs_kv *kv;
	unsigned count;
	int status;
} putter;

static void *put_numbers(void *arg)
{
	putter *p = arg;
	for (unsigned i = 0; i < p->count && p->status == PGS_OK; i++) {
		char value[16];
		snprintf(value, sizeof value, "%u", i);
		pgs_kv_op op = op_put("n", value);
		p->status = status_of(p->kv, &op, 1);
	}
	return NULL;
}

/* Whatever happens to its connection, every event comes once, in order. */
static void test_watch__goes_on_where_it_was(void **state)
{
	enum { COUNT = 2000 };
	fixture *f = *state;
	putter p = {f->direct, COUNT, PGS_OK};
	pgs_kv_watch *watch;
	pthread_t thread;
	unsigned seen = 0;
	assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("n"), NO_END, 0, &watch, NULL), PGS_OK);
	assert_int_equal(pthread_create(&thread, NULL, put_numbers, &p), 0);
	unsigned rounds = 0;
	for (uint64_t started = pgs__now_ms(); seen < COUNT && pgs__now_ms() - started < 60000;) {
		pgs_kv_events events;
		f->kv->vtable->watch_next(watch, 50, &events, NULL);
		for (size_t i = 0; i < events.count; i++, seen++) {
			char value[16];
			snprintf(value, sizeof value, "%u", seen);
			if (!slice_is(events.events[i].pair.value, value))
				seen = COUNT + 1000000; /* not here: the thread runs */
		}
		if (rounds++ % 7 == 3)
			tcp_proxy_set(f->proxy, rounds % 2 ? PROXY_CUT : PROXY_HALF, 1);
		if (rounds % 40 == 20)
			tcp_proxy_cut_all(f->proxy);
	}
	tcp_proxy_set(f->proxy, PROXY_PASS, 0);
	pthread_join(thread, NULL);
	assert_int_equal(p.status, PGS_OK);
	assert_int_equal(seen, COUNT);
	assert_true(tcp_proxy_accepted(f->proxy) > 5);
	f->kv->vtable->watch_close(watch);
}

static void test_watch__says_when_nobody_answers_and_goes_on_later(void **state)
{
	fixture *f = *state;
	pgs_kv_watch *watch;
	pgs_kv_events events = {0};
	pgs_error err = PGS_ERROR_INIT;
	assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("n"), NO_END, 0, &watch, NULL), PGS_OK);
	tcp_proxy_set(f->proxy, PROXY_REFUSE, 0);
	tcp_proxy_cut_all(f->proxy);
	uint64_t started = pgs__now_ms();
	assert_int_equal(f->kv->vtable->watch_next(watch, 400, &events, &err), PGS_EIO);
	assert_in_range(pgs__now_ms() - started, 390, 400 + SLACK_MS);
	assert_non_null(strstr(err.message, "watching etcd at"));
	kv_put(f->direct, "n", "1");
	tcp_proxy_set(f->proxy, PROXY_PASS, 0);
	while (events.count == 0 && pgs__now_ms() - started < 10000)
		f->kv->vtable->watch_next(watch, 1000, &events, NULL);
	assert_int_equal(events.count, 1);
	assert_true(slice_is(events.events[0].pair.value, "1"));
	f->kv->vtable->watch_close(watch);
}

/* While it was away, what it had still to see was compacted. */
static void test_watch__that_missed_something_says_so_for_good(void **state)
{
	fixture *f = *state;
	pgs_kv_watch *watch;
	pgs_kv_events events;
	assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("n"), NO_END, 0, &watch, NULL), PGS_OK);
	kv_put(f->direct, "n", "0");
	do
		assert_int_equal(f->kv->vtable->watch_next(watch, 1000, &events, NULL), PGS_OK);
	while (events.count == 0);
	tcp_proxy_set(f->proxy, PROXY_REFUSE, 0);
	tcp_proxy_cut_all(f->proxy);
	uint64_t last = 0;
	for (unsigned i = 0; i < 5; i++)
		last = kv_put(f->direct, "n", "x");
	kv_compact(f->direct, last);
	tcp_proxy_set(f->proxy, PROXY_PASS, 0);
	int status = PGS_OK;
	for (unsigned i = 0; i < 20 && status != PGS_EOLDREV; i++) {
		status = f->kv->vtable->watch_next(watch, 500, &events, NULL);
		assert_int_equal(events.count, 0);
	}
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(f->kv->vtable->watch_next(watch, 100, &events, NULL), PGS_EOLDREV);
	f->kv->vtable->watch_close(watch);
}

/* Nothing happens in its range, but all around it, and that is compacted. */
static void test_watch__of_a_quiet_range_survives_compaction(void **state)
{
	fixture *f = *state;
	pgs_kv_watch *watch;
	pgs_kv_events events = {0};
	assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("n"), NO_END, 0, &watch, NULL), PGS_OK);
	uint64_t last = 0, started = pgs__now_ms();
	for (unsigned i = 0; i < 20; i++)
		last = kv_put(f->direct, "other", "x");
	while (events.revision < last && pgs__now_ms() - started < 10000)
		assert_int_equal(f->kv->vtable->watch_next(watch, 50, &events, NULL), PGS_OK);
	assert_int_equal(events.revision, last);
	kv_compact(f->direct, last);
	tcp_proxy_cut_all(f->proxy);
	kv_put(f->direct, "n", "1");
	for (unsigned i = 0; i < 50 && events.count == 0; i++)
		assert_int_not_equal(f->kv->vtable->watch_next(watch, 100, &events, NULL), PGS_EOLDREV);
	assert_int_equal(events.count, 1);
	f->kv->vtable->watch_close(watch);
}

/* A notice of progress moves the watch on, unless it comes before etcd has accepted the watch. */
static void test_watch__takes_notices_of_progress(void **state)
{
	static const struct {
		const char *lines;
		uint64_t revision; /* above the store's: delivered up to here */
	} cases[] = {
		{"{\"result\":{\"header\":{\"revision\":\"900000\"},\"created\":true}}\n", 0},
		{"{\"result\":{\"header\":{\"revision\":\"900000\"}}}\n", 0},
		{"{\"result\":{\"header\":{\"revision\":\"7\"},\"created\":true}}\n"
		 "{\"result\":{\"header\":{\"revision\":\"900000\"}}}\n", 900000},
		{"{\"result\":{\"header\":{\"revision\":\"7\"},\"created\":true}}\n"
		 "{\"result\":{\"header\":{\"revision\":\"1\"}}}\n", 0},
	};
	fixture *f = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char text[400];
		pgs_kv_watch *watch;
		pgs_kv_events events;
		uint64_t now = kv_revision(f->direct);
		snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\n\r\n%s", cases[i].lines);
		assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("n"), NO_END, now + 1, &watch, NULL), PGS_OK);
		tcp_proxy_answer(f->proxy, text, 0);
		tcp_proxy_cut_all(f->proxy);
		assert_int_equal(f->kv->vtable->watch_next(watch, 300, &events, NULL), PGS_OK);
		assert_int_equal(events.count, 0);
		assert_int_equal(events.revision, cases[i].revision);
		tcp_proxy_set(f->proxy, PROXY_PASS, 0);
		f->kv->vtable->watch_close(watch);
	}
}

static void test_watch__of_nonsense_fails_and_does_not_spin(void **state)
{
	fixture *f = *state;
	static const char *const lines[] = {"{}\n", "{\"result\":{\"events\":[{}]}}\n", "nonsense\n",
		"{\"result\":{\"events\":[",
		"{\"error\":{\"grpc_code\":14,\"message\":\"etcdserver: no leader\"}}\n"};
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		pgs_kv_watch *watch;
		pgs_kv_events events;
		assert_int_equal(f->kv->vtable->watch_open(f->kv, bytes_of("n"), NO_END, 0, &watch, NULL), PGS_OK);
		tcp_proxy_answer(f->proxy, http("200 OK", lines[i]), 0);
		tcp_proxy_cut_all(f->proxy);
		unsigned before = tcp_proxy_accepted(f->proxy);
		assert_int_equal(f->kv->vtable->watch_next(watch, 500, &events, NULL), PGS_EIO);
		assert_true(tcp_proxy_accepted(f->proxy) - before < 20);
		tcp_proxy_set(f->proxy, PROXY_PASS, 0);
		f->kv->vtable->watch_close(watch);
	}
}

/* --- members that die ---------------------------------------------------------------------------------- */

enum { WRITERS = 6, KEYS = 4000 };

typedef struct writer {
	pgs_kv *kv;
	unsigned number;
	atomic_bool *stop;
	unsigned tried;
	int8_t status[KEYS];
	unsigned slow; /* calls past their deadline */
} writer;

static void *write_keys(void *arg)
{
	writer *w = arg;
	for (; w->tried < KEYS && !*w->stop; w->tried++) {
		char key[24];
		snprintf(key, sizeof key, "w%u-%u", w->number, w->tried);
		pgs_kv_op op = op_put(key, "1");
		pgs_kv_txn txn = txn_of(&op, 1);
		uint64_t started = pgs__now_ms();
		w->status[w->tried] = (int8_t)w->kv->vtable->txn(w->kv, &txn, 1, started + 3000, NULL);
		w->slow += pgs__now_ms() - started > 3000 + SLACK_MS;
		w->kv->vtable->release(w->kv, &txn, 1);
		if (w->status[w->tried] != PGS_OK)
			pgs__sleep_ms(10, 0);
	}
	return NULL;
}

/* Acknowledged: there, once. Refused: not there. Unknown: at most once. */
static unsigned check_keys(pgs_kv *kv, const writer *w, unsigned *good)
{
	unsigned wrong = 0;
	for (unsigned i = 0; i < w->tried; i++) {
		char key[24];
		snprintf(key, sizeof key, "w%u-%u", w->number, i);
		uint64_t version = kv_numbers(kv, key).version;
		if (w->status[i] == PGS_OK)
			wrong += version != 1;
		else if (w->status[i] == PGS_EUNKNOWN)
			wrong += version > 1;
		else
			wrong += version != 0;
		*good += w->status[i] == PGS_OK;
	}
	return wrong;
}

static void check_writers(pgs_kv *kv, const writer *writers, unsigned least)
{
	unsigned good = 0, wrong = 0, slow = 0;
	for (unsigned i = 0; i < WRITERS; i++) {
		wrong += check_keys(kv, &writers[i], &good);
		slow += writers[i].slow;
	}
	assert_int_equal(wrong, 0);
	assert_int_equal(slow, 0);
	assert_true(good > least);
}

typedef void disaster(etcd_server *cluster, size_t leader);

static void die_and_return(etcd_server *cluster, size_t leader)
{
	etcd_kill(cluster, leader);
	pgs__sleep_ms(2500, 0);
	etcd_restart(cluster, leader);
}

static void hang_and_wake(etcd_server *cluster, size_t leader)
{
	etcd_freeze(cluster, leader);
	pgs__sleep_ms(4000, 0);
	etcd_thaw(cluster, leader);
}

static void survive(etcd_server *cluster, const char *root, disaster *strike, uint32_t answer_timeout_ms)
{
	atomic_bool stop = false;
	writer *writers = calloc(WRITERS, sizeof *writers);
	pthread_t threads[WRITERS];
	pgs_kv *kv = open_with(etcd_endpoints(cluster), root, answer_timeout_ms);
	assert_non_null(kv);
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i].kv = kv;
		writers[i].number = i;
		writers[i].stop = &stop;
		assert_int_equal(pthread_create(&threads[i], NULL, write_keys, &writers[i]), 0);
	}
	pgs__sleep_ms(300, 0);
	size_t leader = etcd_leader(cluster);
	if (leader != SIZE_MAX)
		strike(cluster, leader);
	pgs__sleep_ms(700, 0);
	stop = true;
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	assert_true(leader != SIZE_MAX);
	check_writers(kv, writers, 200);
	unsigned last = 0;
	for (unsigned i = 0; i < WRITERS; i++) /* and they got over it */
		last += writers[i].tried == KEYS || writers[i].status[writers[i].tried - 1] == PGS_OK;
	assert_true(last >= WRITERS - 1);
	free(writers);
	kv->vtable->close(kv);
}

/* A member that is behind must not answer from what it has, whatever the transaction is made of. */
static void expect_fresh(etcd_server *cluster)
{
	size_t leader = etcd_leader(cluster);
	assert_true(leader != SIZE_MAX);
	pgs_kv *writes = open_with(etcd_endpoint(cluster, leader), "fresh", 2000);
	pgs_kv *reads = open_with(etcd_endpoint(cluster, (leader + 1) % 3), "fresh", 2000);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t revision = kv_put(writes, "a", "1");
		pgs_kv_compare current = compare_number("a", PGS_KV_MOD, PGS_KV_EQUAL, revision);
		pgs_kv_txn txn = {.compares = &current, .compare_count = 1};
		assert_int_equal(run_txn(reads, &txn), PGS_OK);
		assert_true(txn.succeeded);
		assert_int_equal(txn.revision, revision);
		reads->vtable->release(reads, &txn, 1);
		revision = kv_put(writes, "a", "1");
		assert_int_equal(kv_revision(reads), revision);
		revision = kv_put(writes, "a", "1");
		assert_int_equal(kv_numbers(reads, "a").mod_revision, revision);
	}
	writes->vtable->close(writes);
	reads->vtable->close(reads);
}

static void test_cluster__survives_a_leader_that_dies_and_one_that_hangs(void **state)
{
	(void)state;
	etcd_server *cluster = etcd_start(&(etcd_setup){.members = 3});
	assert_non_null(cluster);
	expect_fresh(cluster);
	survive(cluster, "dies", die_and_return, 2000);
	survive(cluster, "hangs", hang_and_wake, 1000);
	etcd_stop(cluster);
}

/* One member alone: while it is away there is nothing to write to; when it is back, what it acknowledged is there. */
static void test_member__comes_back_with_what_it_acknowledged(void **state)
{
	(void)state;
	etcd_server *alone = etcd_start(&(etcd_setup){.members = 1});
	assert_non_null(alone);
	survive(alone, "alone", die_and_return, 2000);
	etcd_stop(alone);
}

static int start(void **state)
{
	(void)state;
	/* Notices of progress come all the time: what they say must be true. */
	etcd = etcd_start(&(etcd_setup){.members = 1, .progress_ms = 20});
	return etcd ? 0 : -1;
}

static int stop(void **state)
{
	(void)state;
	etcd_stop(etcd);
	return 0;
}

#define FAULT_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(test_put__whose_answer_is_cut_is_unknown_and_sent_once),
		FAULT_TEST(test_put__whose_answer_is_swallowed_is_unknown_at_the_deadline),
		FAULT_TEST(test_put__into_silence_is_given_up_soon_and_later_then),
		FAULT_TEST(test_channels__that_nobody_takes_for_a_minute_are_freed),
		FAULT_TEST(test_put__that_was_never_sent_is_not_unknown),
		FAULT_TEST(test_read__is_asked_for_again),
		FAULT_TEST(test_compact__that_was_repeated_has_happened),
		FAULT_TEST(test_array__keeps_its_deadline),
		FAULT_TEST(test_connect__to_nowhere_keeps_the_deadline),
		FAULT_TEST(test_read__goes_elsewhere_when_a_server_is_silent),
		FAULT_TEST(test_answers__that_leave_it_open_are_unknown),
		FAULT_TEST(test_answers__that_are_final_are_told),
		FAULT_TEST(test_answers__that_are_damaged_anywhere),
		cmocka_unit_test(test_memory__may_run_out_anywhere),
		FAULT_TEST(test_watch__goes_on_where_it_was),
		FAULT_TEST(test_watch__says_when_nobody_answers_and_goes_on_later),
		FAULT_TEST(test_watch__that_missed_something_says_so_for_good),
		FAULT_TEST(test_watch__of_a_quiet_range_survives_compaction),
		FAULT_TEST(test_watch__takes_notices_of_progress),
		FAULT_TEST(test_watch__of_nonsense_fails_and_does_not_spin),
		cmocka_unit_test(test_cluster__survives_a_leader_that_dies_and_one_that_hangs),
		cmocka_unit_test(test_member__comes_back_with_what_it_acknowledged),
	};
	if (!etcd_available())
		return 77;
	return cmocka_run_group_tests(tests, start, stop);
}
