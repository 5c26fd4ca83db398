/* Whole stores on real servers, by URL: etcd's KV, S3's blobs.
 *
 *     server_store_url(url, etcd_endpoints(etcd), "root", s3_endpoint(s3), "");
 *     pgs_store *store = server_store_open(url, 10000);
 *
 * Timed calls: every call of a store ends by its deadline, whatever the servers do.
 *
 *     timed t = timed_begin("pgs_begin", 2000);
 *     int result = pgs_begin(&txn, db, NULL, &err);
 *     timed_end(&t);                                   // fails the test when it took much longer than 2 s
 */
#ifndef PGS_TESTS_SERVER_STORE_H
#define PGS_TESTS_SERVER_STORE_H

#include <pagestore.h>

#define SERVER_URL_SIZE 1024

/* What a loaded machine may add to a deadline: scheduling, and what the library tries to clean up (a second). */
#define SERVER_SLACK_MS 5000

/* `more`: further options of the URL, "&user=…". Also puts the test server's S3 credentials into the environment. */
void server_store_url(char out[SERVER_URL_SIZE], const char *endpoints, const char *root, const char *s3_endpoint,
	const char *more);

/* Fails the test when it cannot. */
pgs_store *server_store_open(const char *url, uint32_t timeout_ms);

typedef struct timed {
	const char *what;
	uint64_t started_ms, limit_ms;
} timed;

timed timed_begin(const char *what, uint64_t limit_ms);
uint64_t timed_end(const timed *t); /* returns what it took, in milliseconds */

/* Fails unless the message has all of the words (NULL at the end). */
void expect_words(const pgs_error *err, ...) __attribute__((sentinel));

#endif
