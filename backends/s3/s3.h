/* The S3 blob store: what its files share.
 *
 *     open.c    options to a handle, the vtable     credentials.c  environment and files
 *     blob.c    get, stat, remove                   list.c         names, page by page (page.c, xml.c)
 *     put.c     one piece, or many                  md5.c          what an ETag is compared with
 *     signer.c  credentials, shared and renewed
 *     call.c    what an answer means: done, again, or failed
 *     wire.c    attempts over kept-alive connections, side by side, with deadlines
 *
 * Invariants
 *  1 Bytes are given to the caller only when all that were asked for came: where they lie is said by Content-Range, and
 *    counted.
 *  2 A put has succeeded only when the server said so and what it stored has the right MD5, or, where its ETag is
 *    none, the right length.
 *  3 Every request may be sent again: puts of a name have the same bytes, removing twice is fine.
 *  4 No secret (key, token) is in a message, nor in what libcurl is asked to print.
 */
#ifndef PGS_S3_S3_H
#define PGS_S3_S3_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/backends.h>

#include "credentials.h"
#include "http/easy.h"
#include "md5.h"
#include "page.h"
#include "util/cursor.h"
#include "util/meter.h"

#define PGS__S3_ETAG_MAX 96
#define PGS__S3_PARTS_MAX 10000

typedef struct pgs__s3_channel pgs__s3_channel;

/* What requests are counted as: pagestore/operations.h. */
typedef enum pgs__s3_operation {
	PGS__S3_OP_PUT,
	PGS__S3_OP_PART,
	PGS__S3_OP_UPLOAD,
	PGS__S3_OP_GET,
	PGS__S3_OP_HEAD,
	PGS__S3_OP_LIST,
	PGS__S3_OP_DELETE,
	PGS__S3_OPERATIONS
} pgs__s3_operation;

/* Credentials and the headers of every request: see signer.c. */
typedef struct pgs__s3_signer {
	pgs__s3_credentials credentials;
	struct curl_slist *headers;
	size_t users;
} pgs__s3_signer;

typedef struct pgs__s3 {
	pgs_blob base;
	/* Constant once open: */
	char *endpoint; /* "https://host:port", for people */
	char *bucket;
	char *root;       /* what keys begin with: "prefix/", or "" */
	char *bucket_url; /* "https://host:port/bucket/" */
	char *root_url;   /* the same with `root` behind it */
	char *region;
	char *signing; /* CURLOPT_AWS_SIGV4 */
	char *ca_file;
	char *credentials_file; /* NULL: they are not from one */
	pgs__http_options http;
	uint32_t answer_timeout_ms;
	size_t parallel;
	uint64_t multipart_bytes, part_bytes;
	bool read_only;
	pgs__meter meters[PGS__S3_OPERATIONS];
	/* Under `lock`: */
	pthread_mutex_t lock;
	pgs__s3_channel *idle;
	pgs__s3_signer *signer;
	/* One thread at a time renews it: */
	pthread_mutex_t renewal;
	uint64_t renewal_due_ms; /* the credentials_file is not read again before */
} pgs__s3;

static inline pgs__s3 *pgs__s3_of(pgs_blob *blob)
{
	return (pgs__s3 *)blob;
}

/* --- calls (call.c) --------------------------------------------------------- */

typedef enum pgs__s3_method { PGS__S3_GET, PGS__S3_HEAD, PGS__S3_PUT, PGS__S3_POST, PGS__S3_DELETE } pgs__s3_method;

/* What came of one attempt. */
typedef struct pgs__s3_attempt {
	long http_status;
	CURLcode code;
	bool timed_out; /* by the deadline, or a silent server */
	bool nomem;
	bool done_early;       /* all that was asked for is here, and more was coming */
	bool too_short;        /* the object ends before the range does, says the server */
	bool final;            /* `complaint` will not go away by itself */
	const char *complaint; /* what is wrong with the answer, or NULL */
	bool has_range;
	uint64_t range_first, range_last, range_total; /* total UINT64_MAX: not told */
	int64_t length;                                /* of the body, as told; -1: not told */
	uint64_t sent, received;
	int source_status; /* what made the source fail */
	bool encrypted;    /* in a way that makes ETags no MD5 */
	char etag[PGS__S3_ETAG_MAX];
	char region[40];  /* where the bucket is, says the server */
	char detail[160]; /* curl's words */
} pgs__s3_attempt;

/* One request and its answer. Zeroed, then the first part set. */
typedef struct pgs__s3_call {
	pgs__s3_method method;
	const char *what;  /* "put", for people */
	const char *name;  /* of a blob; NULL: the bucket */
	const char *query; /* as SigV4 wants it: sorted, encoded, "name=value"; NULL: none */
	void *buffer;      /* of GET: `size` bytes at `offset` go here; NULL: the answer is kept below */
	uint64_t offset;   /* … and of PUT: that range of the source is sent */
	uint64_t size;
	pgs_blob_source source;
	void *ctx;
	pgs_slice body;   /* of POST */
	bool judges_body; /* 200 may have an error in it */
	/* Afterwards: */
	int status;
	pgs_error error;
	pgs__buffer answer; /* freed by pgs__s3_call_free() */
	char code[64];      /* S3's, of the last error */
	bool damaged;       /* what is stored is not what was sent */
	bool verified;      /* a PUT's ETag is its MD5 */
	pgs__s3_attempt last;
	/* wire.c's and call.c's own: */
	pgs__md5 md5;
	pgs__s3_signer *signer; /* of the attempt under way, or being settled */
	unsigned attempts, unconnected, renewals;
	bool done;
} pgs__s3_call;

/* Look at the last attempt. True: the call is done. False: again, in *wait_ms from now. */
bool pgs__s3_settle(pgs__s3 *s3, pgs__s3_call *call, uint64_t deadline_ms, uint32_t *wait_ms);

/* Whether what comes is what was asked for, once the headers of a ranged GET's answer are there. */
bool pgs__s3_check_range(pgs__s3_call *call);

/* The call ends so, before or after it ran. */
int pgs__s3_end(const pgs__s3 *s3, pgs__s3_call *call, int status, const char *why);

void pgs__s3_call_free(pgs__s3_call *call);

/* --- running them (wire.c) --------------------------------------------------- */

/* Run all of them, `parallel` at once, each to its end: status, and error. */
void pgs__s3_run(pgs__s3 *s3, pgs__s3_call *calls, size_t count, size_t parallel, uint64_t deadline_ms);

/* The same with one; returns its status with *err set. */
int pgs__s3_run_one(pgs__s3 *s3, pgs__s3_call *call, uint64_t deadline_ms, pgs_error *err);

void pgs__s3_wire_close(pgs__s3 *s3);

/* --- signing (signer.c) ----------------------------------------------------------- */

int pgs__s3_signer_init(pgs__s3 *s3, const pgs_s3_options *options, pgs_error *err);
void pgs__s3_signer_close(pgs__s3 *s3);

/* The one to use now, until given back. */
pgs__s3_signer *pgs__s3_signer_take(pgs__s3 *s3);
void pgs__s3_signer_give(pgs__s3 *s3, pgs__s3_signer *signer);

/* The server refused that one: whether there is another by now. */
bool pgs__s3_signer_renew(pgs__s3 *s3, const pgs__s3_signer *refused);

/* --- the rest ------------------------------------------------------------------ */

int pgs__s3_put(pgs_blob *blob, const char *name, uint64_t size, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err);
int pgs__s3_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err);
int pgs__s3_stat(pgs_blob *blob, const char *name, uint64_t *size, uint64_t deadline_ms, pgs_error *err);
int pgs__s3_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err);
int pgs__s3_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err);

/* Whether there is such a bucket, and the credentials are good for it. */
int pgs__s3_check_bucket(pgs__s3 *s3, uint64_t deadline_ms, pgs_error *err);

/* B3. */
bool pgs__s3_is_name(const char *name, size_t size);
int pgs__s3_check_name(const char *name, pgs_error *err);

/* Append `text` with all but letters, digits, "-._~" and, with `slashes`, "/" as %XX. */
void pgs__s3_put_encoded(pgs__buffer *out, const char *text, size_t size, bool slashes);

/* A small answer: the text of the element `path` ("Error/Code"), cut to fit; "" when there is none. */
void pgs__s3_find_text(pgs_slice document, const char *path, char *out, size_t size);

#endif
