/* An HTTP server that answers what it is told to. */
#include "support/fake_http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/testing.h"
#include "util/clock.h"

#define CONNECTIONS 2000

typedef struct connection {
	pthread_t thread;
	int fd;
	fake_http *fake;
} connection;

struct fake_http {
	fake_serve serve;
	void *ctx;
	int listener;
	unsigned port;
	atomic_bool stop;
	pthread_t thread;
	connection connections[CONNECTIONS]; /* all there ever were; joined at the end */
	size_t count;
};

static bool readable(fake_http *fake, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	while (!fake->stop)
		if (poll(&p, 1, 20) == 1)
			return true;
	return false;
}

void fake_send(const fake_request *request, const void *data, size_t size)
{
	const char *at = data;
	while (size && !request->fake->stop) {
		ssize_t sent = send(request->fd, at, size, MSG_NOSIGNAL);
		if (sent <= 0)
			return;
		at += sent;
		size -= (size_t)sent;
	}
}

void fake_sendf(const fake_request *request, const char *format, ...)
{
	char text[8192];
	va_list args;
	va_start(args, format);
	int size = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	fake_send(request, text, (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
}

void fake_wait(const fake_request *request, unsigned ms)
{
	for (unsigned waited = 0; waited < ms && !request->fake->stop; waited += 10)
		pgs__sleep_ms(10, 0);
}

void fake_header(const fake_request *request, const char *name, char *out, size_t size)
{
	char wanted[128];
	snprintf(wanted, sizeof wanted, "\n%s:", name);
	const char *at = strcasestr(request->headers, wanted);
	at = at ? at + strlen(wanted) : "";
	at += strspn(at, " ");
	snprintf(out, size, "%.*s", (int)strcspn(at, "\r\n"), at);
}

/* Byte by byte: nothing of the body is taken. */
static bool read_head(fake_request *r)
{
	size_t used = 0;
	while (used < sizeof r->headers - 1 && readable(r->fake, r->fd)) {
		if (recv(r->fd, r->headers + used, 1, 0) != 1)
			return false;
		r->headers[++used] = '\0';
		if (used >= 4 && !memcmp(r->headers + used - 4, "\r\n\r\n", 4))
			return sscanf(r->headers, "%15s %4095s", r->method, r->target) == 2;
	}
	return false;
}

static bool read_body(fake_request *r)
{
	char length[32], expect[32];
	fake_header(r, "Content-Length", length, sizeof length);
	fake_header(r, "Expect", expect, sizeof expect);
	if (*expect)
		fake_sendf(r, "HTTP/1.1 100 Continue\r\n\r\n");
	size_t size = strtoull(length, NULL, 10);
	r->body = malloc(size + 1);
	for (r->body_size = 0; r->body_size < size;) {
		ssize_t got =
			readable(r->fake, r->fd) ? recv(r->fd, r->body + r->body_size, size - r->body_size, 0) : 0;
		if (got <= 0)
			return false;
		r->body_size += (size_t)got;
	}
	r->body[size] = '\0';
	return true;
}

static void *converse(void *arg)
{
	connection *c = arg;
	fake_request *r = calloc(1, sizeof *r);
	r->fd = c->fd;
	r->fake = c->fake;
	bool more = true;
	while (more && !c->fake->stop && read_head(r)) {
		more = read_body(r) && c->fake->serve(c->fake->ctx, r);
		free(r->body);
		r->body = NULL;
	}
	close(c->fd);
	free(r);
	return NULL;
}

static void *accept_all(void *arg)
{
	fake_http *fake = arg;
	while (readable(fake, fake->listener)) {
		int fd = accept4(fake->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		connection *c = &fake->connections[fake->count];
		*c = (connection){.fd = fd, .fake = fake};
		if (fake->count == CONNECTIONS || pthread_create(&c->thread, NULL, converse, c) != 0)
			close(fd);
		else
			fake->count++;
	}
	return NULL;
}

fake_http *fake_http_start(fake_serve serve, void *ctx)
{
	fake_http *fake = calloc(1, sizeof *fake);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof address;
	fake->serve = serve;
	fake->ctx = ctx;
	fake->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(fake->listener, (struct sockaddr *)&address, size) != 0 || listen(fake->listener, 64) != 0 ||
		getsockname(fake->listener, (struct sockaddr *)&address, &size) != 0 ||
		pthread_create(&fake->thread, NULL, accept_all, fake) != 0)
		abort();
	fake->port = ntohs(address.sin_port);
	return fake;
}

void fake_http_stop(fake_http *fake)
{
	fake->stop = true;
	pthread_join(fake->thread, NULL);
	for (size_t i = 0; i < fake->count; i++)
		pthread_join(fake->connections[i].thread, NULL);
	close(fake->listener);
	free(fake);
}

unsigned fake_http_port(const fake_http *fake)
{
	return fake->port;
}
