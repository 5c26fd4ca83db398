/* A proxy on a port of its own that misbehaves when told to.
 *
 *     tcp_proxy *proxy = tcp_proxy_start(server_port);
 *     tcp_proxy_set(proxy, PROXY_CUT, 1);     // the next answer does not arrive
 *     ...
 *     tcp_proxy_stop(proxy);
 *
 * Requests always reach the server, but for PROXY_REFUSE and PROXY_ANSWER. */
#ifndef PGS_TESTS_TCP_PROXY_H
#define PGS_TESTS_TCP_PROXY_H

#include <stdbool.h>

typedef struct tcp_proxy tcp_proxy;

typedef enum proxy_mode {
	PROXY_PASS,
	PROXY_CUT,     /* when the server answers, close the connection instead of passing that on */
	PROXY_HALF,    /* pass on half of what the server answered, and close */
	PROXY_SWALLOW, /* keep the answer, and the connection */
	PROXY_DELAY,   /* 200 ms */
	PROXY_REFUSE,  /* close connections as they come */
	PROXY_ANSWER   /* what tcp_proxy_answer() said, without asking the server */
} proxy_mode;

tcp_proxy *tcp_proxy_start(unsigned server_port);
void tcp_proxy_stop(tcp_proxy *proxy);
unsigned tcp_proxy_port(const tcp_proxy *proxy);

/* For the next `times` answers (0 = from now on), then PROXY_PASS again. */
void tcp_proxy_set(tcp_proxy *proxy, proxy_mode mode, int times);
void tcp_proxy_answer(tcp_proxy *proxy, const char *answer, int times);

/* Close all connections that are open. */
void tcp_proxy_cut_all(tcp_proxy *proxy);

/* How many connections were accepted so far. */
unsigned tcp_proxy_accepted(const tcp_proxy *proxy);

#endif
