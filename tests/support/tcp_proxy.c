/* A proxy that misbehaves when told to: one thread for all connections. */
#include "support/tcp_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINKS 64
#define CHUNK 65536
#define DELAY_US 200000

/* A client's connection and the server's; -1: none. */
typedef struct link_pair {
	int client, server;
	bool mute; /* what the server says is kept from the client */
} link_pair;

struct tcp_proxy {
	int listener;
	unsigned port, server_port;
	pthread_t thread;
	atomic_bool stop, cut_all;
	atomic_int mode, times; /* times 0: for ever */
	atomic_uint accepted;
	pthread_mutex_t lock;
	char answer[1024]; /* under `lock` */
	link_pair links[LINKS];
};

static struct sockaddr_in local(unsigned port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static void close_link(link_pair *pair)
{
	if (pair->client >= 0)
		close(pair->client);
	if (pair->server >= 0)
		close(pair->server);
	*pair = (link_pair){-1, -1, false};
}

static void accept_one(tcp_proxy *proxy)
{
	int client = accept(proxy->listener, NULL, NULL), yes = 1;
	if (client < 0)
		return;
	proxy->accepted++;
	link_pair *pair = NULL;
	for (size_t i = 0; i < LINKS && !pair; i++)
		if (proxy->links[i].client < 0)
			pair = &proxy->links[i];
	if (!pair || proxy->mode == PROXY_REFUSE) {
		close(client);
		return;
	}
	struct sockaddr_in address = local(proxy->server_port);
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
	setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
	*pair = (link_pair){client, server, false};
	if (connect(server, (struct sockaddr *)&address, sizeof address) != 0)
		close_link(pair);
}

static bool send_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
		if (sent <= 0)
			return false;
		data += sent;
		size -= (size_t)sent;
	}
	return true;
}

/* The mode for one answer. */
static proxy_mode next_mode(tcp_proxy *proxy)
{
	proxy_mode mode = (proxy_mode)proxy->mode;
	if (mode != PROXY_PASS && proxy->times > 0 && --proxy->times == 0)
		proxy->mode = PROXY_PASS;
	return mode;
}

static void from_client(tcp_proxy *proxy, link_pair *pair, char *data, size_t size)
{
	if (proxy->mode == PROXY_ANSWER) {
		next_mode(proxy);
		pthread_mutex_lock(&proxy->lock);
		bool good = send_all(pair->client, proxy->answer, strlen(proxy->answer));
		pthread_mutex_unlock(&proxy->lock);
		if (!good)
			close_link(pair);
		return;
	}
	if (!send_all(pair->server, data, size))
		close_link(pair);
}

static void from_server(tcp_proxy *proxy, link_pair *pair, char *data, size_t size)
{
	proxy_mode mode = pair->mute ? PROXY_SWALLOW : next_mode(proxy);
	if (mode == PROXY_SWALLOW) {
		pair->mute = true;
		return;
	}
	if (mode == PROXY_DELAY)
		usleep(DELAY_US);
	bool good = mode == PROXY_CUT || send_all(pair->client, data, mode == PROXY_HALF ? size / 2 : size);
	if (!good || mode == PROXY_CUT || mode == PROXY_HALF)
		close_link(pair);
}

static void pump(tcp_proxy *proxy, link_pair *pair, bool server_side)
{
	static _Thread_local char data[CHUNK];
	ssize_t size = recv(server_side ? pair->server : pair->client, data, sizeof data, 0);
	if (size <= 0)
		close_link(pair);
	else if (server_side)
		from_server(proxy, pair, data, (size_t)size);
	else
		from_client(proxy, pair, data, (size_t)size);
}

static void serve_once(tcp_proxy *proxy)
{
	struct pollfd fds[1 + 2 * LINKS];
	fds[0] = (struct pollfd){.fd = proxy->listener, .events = POLLIN};
	for (size_t i = 0; i < LINKS; i++) {
		fds[1 + 2 * i] = (struct pollfd){.fd = proxy->links[i].client, .events = POLLIN};
		fds[2 + 2 * i] = (struct pollfd){.fd = proxy->links[i].server, .events = POLLIN};
	}
	poll(fds, 1 + 2 * LINKS, 20);
	for (size_t i = 0; i < 2 * LINKS; i++) {
		link_pair *pair = &proxy->links[i / 2];
		if (fds[1 + i].revents && fds[1 + i].fd == (i % 2 ? pair->server : pair->client))
			pump(proxy, pair, i % 2);
	}
	if (fds[0].revents)
		accept_one(proxy);
	if (atomic_exchange(&proxy->cut_all, false))
		for (size_t i = 0; i < LINKS; i++)
			close_link(&proxy->links[i]);
}

static void *serve(void *arg)
{
	tcp_proxy *proxy = arg;
	while (!proxy->stop)
		serve_once(proxy);
	return NULL;
}

tcp_proxy *tcp_proxy_start(unsigned server_port)
{
	tcp_proxy *proxy = calloc(1, sizeof *proxy);
	struct sockaddr_in address = local(0);
	socklen_t size = sizeof address;
	for (size_t i = 0; i < LINKS; i++)
		proxy->links[i] = (link_pair){-1, -1, false};
	proxy->server_port = server_port;
	pthread_mutex_init(&proxy->lock, NULL);
	proxy->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(proxy->listener, (struct sockaddr *)&address, size) != 0 || listen(proxy->listener, 64) != 0 ||
		getsockname(proxy->listener, (struct sockaddr *)&address, &size) != 0)
		abort();
	proxy->port = ntohs(address.sin_port);
	if (pthread_create(&proxy->thread, NULL, serve, proxy) != 0)
		abort();
	return proxy;
}

void tcp_proxy_stop(tcp_proxy *proxy)
{
	if (!proxy)
		return;
	proxy->stop = true;
	pthread_join(proxy->thread, NULL);
	for (size_t i = 0; i < LINKS; i++)
		close_link(&proxy->links[i]);
	close(proxy->listener);
	pthread_mutex_destroy(&proxy->lock);
	free(proxy);
}

unsigned tcp_proxy_port(const tcp_proxy *proxy)
{
	return proxy->port;
}

void tcp_proxy_set(tcp_proxy *proxy, proxy_mode mode, int times)
{
	proxy->times = times;
	proxy->mode = (int)mode;
}

void tcp_proxy_answer(tcp_proxy *proxy, const char *answer, int times)
{
	pthread_mutex_lock(&proxy->lock);
	snprintf(proxy->answer, sizeof proxy->answer, "%s", answer);
	pthread_mutex_unlock(&proxy->lock);
	tcp_proxy_set(proxy, PROXY_ANSWER, times);
}

void tcp_proxy_cut_all(tcp_proxy *proxy)
{
	proxy->cut_all = true;
	while (proxy->cut_all)
		usleep(1000);
}

unsigned tcp_proxy_accepted(const tcp_proxy *proxy)
{
	return proxy->accepted;
}
