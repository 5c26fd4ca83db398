/* An HTTP server for tests that answers what it is told to, well-formed or not.
 *
 *     fake_http *fake = fake_http_start(serve, ctx);
 *     …
 *     fake_http_stop(fake);
 *
 * `serve` runs for each request, on a thread of its connection, and writes the answer with fake_send(). */
#ifndef PGS_TESTS_FAKE_HTTP_H
#define PGS_TESTS_FAKE_HTTP_H

#include <stdbool.h>
#include <stddef.h>

typedef struct fake_http fake_http;

typedef struct fake_request {
	char method[16];
	char target[4096];  /* "/bucket/key?query" */
	char headers[8192]; /* with the request line */
	char *body;
	size_t body_size;
	int fd;
	fake_http *fake;
} fake_request;

/* Returns whether the connection goes on. */
typedef bool (*fake_serve)(void *ctx, const fake_request *request);

fake_http *fake_http_start(fake_serve serve, void *ctx);
void fake_http_stop(fake_http *fake);
unsigned fake_http_port(const fake_http *fake);

/* The value of a header, cut to fit; "" when it is not there. */
void fake_header(const fake_request *request, const char *name, char *out, size_t size);

void fake_send(const fake_request *request, const void *data, size_t size);
void fake_sendf(const fake_request *request, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Sleep, but not after fake_http_stop(). */
void fake_wait(const fake_request *request, unsigned ms);

#endif
