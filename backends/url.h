/* From a store's URL to its backends. */
#ifndef PGS_BACKENDS_URL_H
#define PGS_BACKENDS_URL_H

#include <stdbool.h>
#include <stdint.h>

#include <pagestore/backends.h>

typedef struct pgs__open_how {
	bool read_only, must_exist;
	uint32_t timeout_ms; /* of each server's answer; 0 = the backend's own */
} pgs__open_how;

/* Make the KV and the blob store that `url` names; the forms are in
 * pagestore/store.h. On failure both are NULL. Errors: EINVAL for a bad URL,
 * naming the part that is wrong and what is allowed there; else as the
 * constructors in pagestore/backends.h. */
int pgs__backends_open(const char *url, const pgs__open_how *how, pgs_kv **kv, pgs_blob **blob, pgs_error *err);

/* The parts of it: a blob store alone; both. */
int pgs__url_open_s3(const char *url, const pgs__open_how *how, pgs_blob **blob, pgs_error *err);
int pgs__url_open_etcd(const char *url, const pgs__open_how *how, pgs_kv **kv, pgs_blob **blob, pgs_error *err);

/* The blob half of the store that `url` names. */
int pgs__url_open_blob(const char *url, const pgs__open_how *how, pgs_blob **blob, pgs_error *err);

/* A copy with its %XX decoded, to be freed; NULL when an escape is bad (*bad) or memory ran out. */
char *pgs__url_decode(pgs_slice text, bool *bad);

/* The same of part `what` of a URL of `scheme` ("etcd"), which the message does not repeat. PGS_OK, PGS_EINVAL or
 * PGS_ENOMEM. */
int pgs__url_decode_part(char **out, pgs_slice text, const char *scheme, const char *what, pgs_error *err);

/* Whether `text` is that word. */
bool pgs__url_is(pgs_slice text, const char *word);

/* The cache that a store's URL asks for, apart from the rest. */
typedef struct pgs__url_cache {
	char *url;  /* without cache= and cache_size= */
	char *path; /* NULL: none is asked for */
	uint64_t size_bytes; /* 0: not said */
} pgs__url_cache;
int pgs__url_split_cache(pgs__url_cache *out, const char *url, pgs_error *err); /* PGS_OK, PGS_EINVAL or PGS_ENOMEM */
void pgs__url_cache_free(pgs__url_cache *cache);

/* A number with K, M or G behind it, at most 2^50; false if it is none. */
bool pgs__url_size(pgs_slice text, uint64_t *out);

/* What a message may say of a URL: people write passwords into those of servers. */
const char *pgs__url_shown(const char *url);

#endif
