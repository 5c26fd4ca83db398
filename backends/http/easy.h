/* libcurl handles as every backend of a server wants them: HTTP/1.1 over kept-alive connections, TLS as told, no
 * proxy, no signals, nothing but http and https. */
#ifndef PGS_HTTP_EASY_H
#define PGS_HTTP_EASY_H

#include <stdbool.h>
#include <stdint.h>

#include <curl/curl.h>

#include <pagestore/error.h>

typedef struct pgs__http_options {
	const char *ca_file, *cert_file, *key_file; /* NULL: the system's, none, none */
	uint32_t connect_timeout_ms;
} pgs__http_options;

/* Before anything else, any number of times. PGS_OK or PGS_EIO. */
int pgs__http_start(pgs_error *err);

/* Set these options on a handle that is new or reset. False when out of memory. */
bool pgs__http_set(CURL *easy, const pgs__http_options *options);

/* What is wrong, for people: curl's own text, or the code's. */
const char *pgs__http_text(CURLcode code, const char *detail);

#endif
