/* libcurl handles: see easy.h. */
#include "easy.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>

#include "util/error.h"

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_state;

static void start_curl(void)
{
	curl_state = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int pgs__http_start(pgs_error *err)
{
	pthread_once(&curl_once, start_curl);
	if (curl_state)
		return pgs__error(err, PGS_EIO, "libcurl does not start: %s", curl_easy_strerror(curl_state));
	return PGS_OK;
}

/* A peer that vanishes without a word is noticed after half a minute: what waits for events notices nothing else. */
static int set_keepalive(void *ctx, curl_socket_t socket, curlsocktype purpose)
{
	(void)ctx;
	(void)purpose;
	int count = 3;
	setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
	return CURL_SOCKOPT_OK;
}

static CURLcode set_protocols(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	return curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

static CURLcode set_tls(CURL *easy, const pgs__http_options *options)
{
	CURLcode code = CURLE_OK;
	if (options->ca_file)
		code = curl_easy_setopt(easy, CURLOPT_CAINFO, options->ca_file);
	if (!code && options->cert_file)
		code = curl_easy_setopt(easy, CURLOPT_SSLCERT, options->cert_file);
	if (!code && options->key_file)
		code = curl_easy_setopt(easy, CURLOPT_SSLKEY, options->key_file);
	return code;
}

/* A name server that does not answer must not hold up removing the handle. */
static void set_quick_exit(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075700
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#else
	(void)easy;
#endif
}

bool pgs__http_set(CURL *easy, const pgs__http_options *options)
{
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	/* HTTP/2 would carry many requests on one connection: all of them lost with it. */
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 15L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 5L);
	curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, set_keepalive);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)options->connect_timeout_ms);
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 65536L);
	set_quick_exit(easy);
	return !curl_easy_setopt(easy, CURLOPT_PROXY, "") && !set_protocols(easy) && !set_tls(easy, options);
}

const char *pgs__http_text(CURLcode code, const char *detail)
{
	return detail && *detail ? detail : curl_easy_strerror(code);
}
