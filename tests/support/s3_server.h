/* A real S3 server for tests: s3rver (npm), on a port of its own, gone with the test.
 *
 *     if (!s3_available())
 *             return 77;
 *     s3_server *s3 = s3_start(false);
 *     pgs_blob *blob = s3_blob(s3, "prefix", NULL);
 *     …
 *     s3_stop(s3);
 *
 * tests/run.sh installs it; by hand:
 *     npm install --prefix ~/.cache/pagestore/s3rver s3rver@3.7.1
 * PAGESTORE_S3RVER names another folder that has it. */
#ifndef PGS_TESTS_S3_SERVER_H
#define PGS_TESTS_S3_SERVER_H

#include <stdbool.h>

#include <pagestore/backends.h>

#define S3_TEST_BUCKET "test-bucket"
#define S3_TEST_ID "S3RVER"
#define S3_TEST_SECRET "S3RVER"

typedef struct s3_server s3_server;

/* Says loudly when there is none, or no openssl; with CI=true that is a failure, and the program ends. */
bool s3_available(void);

/* NULL (and a message) when it does not start. With TLS, its certificate is for 127.0.0.1 and *.s3.localhost. */
s3_server *s3_start(bool tls);
void s3_stop(s3_server *s3); /* NULL is fine */

/* One that may be killed (-9) and started again, with what was put and at its old port. Uploads in parts are lost. */
s3_server *s3_start_durable(void);
void s3_kill(s3_server *s3);
bool s3_restart(s3_server *s3);

/* From now on requests go wrong, until another fault is set, or s3_heal(). */
typedef struct s3_fault {
	const char *kind;   /* "error", "slow", "short" (half of the body, then the connection closes), "flip" (a bit) */
	const char *method; /* of requests it is about; NULL = any */
	const char *part;   /* of their URLs, as it is there; NULL = any */
	unsigned times;     /* 0 = each */
	unsigned status;    /* of "error" */
	const char *code;   /* of "error": S3's */
	unsigned ms;        /* of "slow" */
} s3_fault;

void s3_set_fault(const s3_server *s3, const s3_fault *fault);

/* Returns how many requests went wrong since the fault was set. */
int s3_heal(const s3_server *s3);

unsigned s3_port(const s3_server *s3);
const char *s3_endpoint(const s3_server *s3); /* "http://127.0.0.1:port" */
const char *s3_ca_file(const s3_server *s3);
const char *s3_other_ca_file(const s3_server *s3); /* one that did not sign its certificate */

/* How many uploads in parts are neither completed nor aborted; -1 when it does not say. Not with TLS. */
int s3_open_uploads(const s3_server *s3);

/* Options for it, with credentials. */
pgs_s3_options s3_options(const s3_server *s3);

/* A blob store on it; `options` NULL: those above. Prints why it cannot. */
pgs_blob *s3_blob(const s3_server *s3, const char *prefix, const pgs_s3_options *options);

#endif
