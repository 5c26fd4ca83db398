/* pagestore/backends.h: the backends that come with the library
 *
 * For pgs_open_with(); pgs_open() makes them from a URL.
 *
 *     pgs_kv *kv;
 *     pgs_blob *blob;
 *     pgs_kv_memory_new(&kv, NULL, &err);
 *     pgs_blob_memory_new(&blob, &err);
 *     pgs_open_with(&store, kv, blob, NULL, &err);
 *
 * Ownership: each constructor returns a backend that the store it is given to
 * closes; without one, call kv->vtable->close(kv).
 *
 * Threads: see pagestore/sys/kv.h and blob.h.
 */
#ifndef PAGESTORE_BACKENDS_H
#define PAGESTORE_BACKENDS_H

#include <stdbool.h>
#include <stdint.h>

#include <pagestore/error.h>
#include <pagestore/sys/blob.h>
#include <pagestore/sys/kv.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- memory ------------------------------------------------------------- */

/* A KV in memory, private to the process. `limits` (NULL = none) lets a test
 * have another backend's: etcd's are {128, 1572864, 0, 0}. Errors: ENOMEM.
 * Since 0.1. */
int pgs_kv_memory_new(pgs_kv **out, const pgs_kv_limits *limits, pgs_error *err);

/* A blob store in memory. Errors: ENOMEM. Since 0.1. */
int pgs_blob_memory_new(pgs_blob **out, pgs_error *err);

/* A second handle on the same contents, which live until the last handle is
 * closed: so that several stores of one process share one "server". Errors:
 * EINVAL (not a memory backend), ENOMEM. Since 0.1. */
int pgs_kv_memory_share(pgs_kv **out, pgs_kv *kv, pgs_error *err);
int pgs_blob_memory_share(pgs_blob **out, pgs_blob *blob, pgs_error *err);

/* --- local -------------------------------------------------------------- */

typedef enum pgs_sync {
	PGS_SYNC_FULL = 0, /* durable when a commit returns */
	PGS_SYNC_LAZY = 1, /* a crash of the machine may lose the last commits, in order; never the store's integrity */
	PGS_SYNC_OFF = 2   /* a crash of the machine may lose the store; a crash of the process loses nothing */
} pgs_sync;

typedef struct pgs_local_options {
	uint32_t struct_size;
	pgs_sync sync;
	uint64_t map_bytes;  /* address space for the KV, which is its largest size; 0 = 64 GiB, or what the process may map */
	bool read_only;
	bool must_exist;     /* PGS_ENOTFOUND instead of creating */
} pgs_local_options;

#define PGS_LOCAL_OPTIONS_INIT { sizeof(pgs_local_options), PGS_SYNC_FULL, 0, false, false }

/* A KV in an LMDB environment (files data.mdb, lock.mdb and writer.lock) in the
 * directory `path`, which is made if its parent exists. Any number of processes
 * may have it open, and any number of handles in a process; each handle's sync
 * is its own, and the largest map counts. Keys have at most 503 bytes.
 *
 * Caveats: a handle must not be used after fork(): every call says PGS_EINVAL
 * then, and the child opens its own. Nobody else may open or copy the files
 * inside this process: closing them drops LMDB's locks. Not on network file
 * systems. A read-only handle in a directory that cannot be written reads
 * without locks: safe while nobody writes. Pages have no checksums: a file cut
 * short or overwritten is noticed where LMDB or a record's decoder can tell.
 *
 * Errors: EINVAL, ENOTFOUND (parent missing, or must_exist), EREADONLY,
 * ETIMEOUT (another process kept the lock for 30 s), EIO, ENOSPC, ECORRUPT,
 * EVERSION, ENOMEM. Since 0.1. */
int pgs_kv_local_open(pgs_kv **out, const char *path, const pgs_local_options *options, pgs_error *err);

/* A blob store of files below the directory `path`, which is made if its parent
 * exists. Blob "a/b" is the file a+/b; unfinished ones are in +tmp, where
 * opening for writing removes those whose writers are dead. sync=lazy is as
 * durable as full here, because a KV may refer to a blob once put() returned.
 * Errors: as pgs_kv_local_open(). Since 0.1. */
int pgs_blob_local_open(pgs_blob **out, const char *path, const pgs_local_options *options, pgs_error *err);

/* --- etcd --------------------------------------------------------------- */

typedef struct pgs_etcd_options {
	uint32_t struct_size;
	const char *user;          /* NULL = none; then its password, from here or a file's first line */
	const char *password;
	const char *password_file;
	bool tls;                  /* and with any of the next three */
	const char *ca_file;       /* PEM; NULL = the system's authorities */
	const char *cert_file;     /* the client's certificate, PEM; NULL = none */
	const char *key_file;
	size_t max_txn_ops;        /* the servers' --max-txn-ops; 0 = 128, etcd's default */
	size_t max_request_bytes;  /* the servers' --max-request-bytes; 0 = 1.5 MiB, etcd's default */
	pgs_kv_limits limits;      /* stricter ones than follow from these; 0 = none */
	uint64_t quota_bytes;      /* the servers' --quota-backend-bytes, which they do not tell; 0 = 2 GiB, etcd's default */
	uint32_t connect_timeout_ms; /* of one attempt; 0 = 2 s */
	uint32_t answer_timeout_ms;  /* a server silent for so long is given up, and for 3 s at first; 0 = 10 s */
	uint32_t timeout_ms;         /* of calls without a deadline, opening included; 0 = 30 s */
	bool read_only;            /* changes are PGS_EREADONLY */
} pgs_etcd_options;

#define PGS_ETCD_OPTIONS_INIT { sizeof(pgs_etcd_options), 0, 0, 0, false, 0, 0, 0, 0, 0, {0, 0, 0, 0}, 0, 0, 0, 0, false }

/* A KV in an etcd cluster (3.4 or later), through the HTTP gateway of its
 * members. `endpoints` is "host:port,host:port" (port 2379 when left out); all
 * of one cluster, and any of them will do. Every key begins with "/root/" for
 * the `root` given (NULL or "" = "pagestore"), so that many stores share a
 * cluster: its revision and history are shared too, and compact() is for all.
 *
 * limits(): max_txn_ops as given. max_request_bytes is what keys and values
 * may sum to, whatever the operations: the server's limit, which is on the
 * request in protobuf, less what that adds to the bytes of so many operations
 * with this prefix. Base64 does not count.
 *
 * Connections are kept alive and pooled; proxies in the environment are not
 * used. Strings are copied; the password is wiped on close. A process that
 * calls curl_global_init() itself does so before. After fork() the child must
 * not use the handle, whose connections are the parent's.
 *
 * Errors: EINVAL, EAUTH (user, password, certificate refused), EIO (none of
 * the endpoints answers; no etcd there; TLS on one side only), ETIMEOUT, ENOMEM;
 * EINVAL also in a build without etcd. Since 0.1. */
int pgs_kv_etcd_open(
	pgs_kv **out, const char *endpoints, const char *root, const pgs_etcd_options *options, pgs_error *err);

/* --- S3 ----------------------------------------------------------------- */

typedef enum pgs_s3_style {
	PGS_S3_STYLE_AUTO = 0,   /* virtual hosts at AWS, paths at an endpoint that is given */
	PGS_S3_STYLE_PATH = 1,   /* https://ENDPOINT/BUCKET/KEY */
	PGS_S3_STYLE_VIRTUAL = 2 /* https://BUCKET.ENDPOINT/KEY */
} pgs_s3_style;

typedef struct pgs_s3_options {
	uint32_t struct_size;
	const char *endpoint;          /* "https://host:port"; NULL = AWS, in the region */
	const char *region;            /* NULL = AWS_REGION, AWS_DEFAULT_REGION, us-east-1 */
	pgs_s3_style style;
	const char *access_key_id;     /* with the next; NULL = from the file, or without one the environment */
	const char *secret_access_key;
	const char *session_token;     /* NULL = none */
	const char *credentials_file;  /* as the AWS tools have it; its section [default]. Read again when they end */
	const char *ca_file;           /* PEM; NULL = the system's authorities */
	size_t parallel;               /* requests of one call at once; 0 = 16 */
	uint64_t multipart_bytes;      /* blobs larger than this go in parts; 0 = 64 MiB */
	uint64_t part_bytes;           /* 0 = 16 MiB; at least 5 MiB */
	uint32_t connect_timeout_ms;   /* of one attempt; 0 = 5 s */
	uint32_t answer_timeout_ms;    /* a connection on which nothing moves for so long is given up; 0 = 30 s */
	uint32_t open_timeout_ms;      /* of opening; 0 = 30 s */
	bool read_only;                /* changes are PGS_EREADONLY */
} pgs_s3_options;

#define PGS_S3_OPTIONS_INIT { sizeof(pgs_s3_options), 0, 0, PGS_S3_STYLE_AUTO, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false }

/* A blob store in a bucket of S3, or of a server that speaks it. Blob "a/b" is
 * the object PREFIX/a/b (NULL or "" = no prefix); what else is in the bucket is
 * left alone. Opening looks whether the bucket is there and may be listed.
 *
 * Requests are signed (SigV4) and sent again after 5xx, 429 and lost answers,
 * with growing pauses, until the deadline, or ten times. What was put is
 * compared by MD5 where the ETag is one, else by length; what is read, by the
 * range that the server says it sends. Without a deadline a call ends when
 * nothing moves any more.
 *
 * Strings are copied; credentials are wiped on close. Proxies in the
 * environment are not used. A process that calls curl_global_init() itself does
 * so before.
 *
 * Errors: EINVAL, EAUTH (credentials missing or refused), EIO (no answer; no
 * such bucket; another error of the server, which the message repeats),
 * ETIMEOUT, ENOMEM; EINVAL also in a build without S3. Since 0.1. */
int pgs_blob_s3_open(
	pgs_blob **out, const char *bucket, const char *prefix, const pgs_s3_options *options, pgs_error *err);

#ifdef __cplusplus
}
#endif

#endif
