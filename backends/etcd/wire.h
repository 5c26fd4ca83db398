/* Requests over kept-alive HTTP connections.
 *
 * A pool of channels; a call takes one, runs its requests on it side by side,
 * and gives it back. A channel is a libcurl multi handle with its connections,
 * so that no lock is held while anything is sent, and connections stay warm:
 * the channel given back last is taken first. */
#ifndef PGS_ETCD_WIRE_H
#define PGS_ETCD_WIRE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <curl/curl.h>

#include <pagestore/error.h>
#include <pagestore/sys/slice.h>

#include "util/cursor.h"

typedef struct pgs__wire_channel pgs__wire_channel;

typedef struct pgs__wire {
	const char **endpoints; /* "https://host:port", by index */
	size_t endpoint_count;
	const char *ca_file, *cert_file, *key_file; /* NULL: the system's, none, none */
	bool tls;
	uint32_t connect_timeout_ms;
	uint32_t answer_timeout_ms; /* a server that is silent for so long does not answer any more */
	_Atomic uint32_t patience_ms[2]; /* how much of that it gets now: for reads, for changes (wire.c) */
	_Atomic size_t current;     /* the endpoint that answered last */
	pthread_mutex_t lock;
	pgs__wire_channel *idle; /* under `lock` */
} pgs__wire;

typedef enum pgs__wire_result {
	PGS__WIRE_ANSWERED, /* http_status and answer are there */
	PGS__WIRE_NOT_SENT, /* no byte of the request left */
	PGS__WIRE_LOST,     /* it may have been sent, and no whole answer came */
	PGS__WIRE_NOMEM     /* nothing was sent */
} pgs__wire_result;

/* One attempt. */
typedef struct pgs__wire_request {
	const char *path;
	pgs_slice body;
	struct curl_slist *headers;
	bool once; /* libcurl must not send it again by itself on a new connection */
	/* Afterwards: */
	pgs__wire_result result;
	size_t endpoint;
	long http_status;
	pgs__buffer answer; /* freed by the caller */
	bool sent;
	bool timed_out;
	bool nomem; /* memory ran out, perhaps for the answer */
	uint64_t started_us; /* 0: it was not even tried */
	uint64_t took_us;    /* to connect, where that was needed, too */
	char detail[160]; /* why there is no answer */
} pgs__wire_request;

int pgs__wire_init(pgs__wire *wire, pgs_error *err);
void pgs__wire_close(pgs__wire *wire);

/* Run `count` requests at once (a channel's worth at a time) on the current endpoint, until each has its result or
 * the deadline has passed. PGS_OK, or PGS_ENOMEM (nothing was sent). */
int pgs__wire_run(pgs__wire *wire, pgs__wire_request **requests, size_t count, uint64_t deadline_ms);

/* From now on another endpoint is the current one, unless another thread has moved on from this one already. */
void pgs__wire_avoid(pgs__wire *wire, size_t endpoint);

/* An easy handle with this wire's options, for a request that is driven elsewhere. NULL when out of memory. */
CURL *pgs__wire_easy(const pgs__wire *wire);

#endif
