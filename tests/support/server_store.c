/* Whole stores on real servers. */
#include "support/server_store.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/s3_server.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

void server_store_url(char out[SERVER_URL_SIZE], const char *endpoints, const char *root, const char *s3_endpoint,
	const char *more)
{
	setenv("AWS_ACCESS_KEY_ID", S3_TEST_ID, 1);
	setenv("AWS_SECRET_ACCESS_KEY", S3_TEST_SECRET, 1);
	unsetenv("AWS_SESSION_TOKEN");
	int size = snprintf(out, SERVER_URL_SIZE, "etcd://%s/%s?blob=s3://%s/%s?endpoint=%s%s", endpoints, root,
		S3_TEST_BUCKET, root, s3_endpoint, more);
	assert_in_range(size, 1, SERVER_URL_SIZE - 1);
}

pgs_store *server_store_open(const char *url, uint32_t timeout_ms)
{
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	options.timeout_ms = timeout_ms;
	expect_code(pgs_open(&store, url, &options, &err), PGS_OK, &err, "pgs_open");
	return store;
}

timed timed_begin(const char *what, uint64_t limit_ms)
{
	return (timed){what, pgs__now_ms(), limit_ms};
}

uint64_t timed_end(const timed *t)
{
	uint64_t took = pgs__now_ms() - t->started_ms;
	if (took > t->limit_ms + SERVER_SLACK_MS)
		fail_msg("%s took %llu ms with a deadline of %llu", t->what, (unsigned long long)took,
			(unsigned long long)t->limit_ms);
	return took;
}

void expect_words(const pgs_error *err, ...)
{
	va_list args;
	va_start(args, err);
	for (const char *word; (word = va_arg(args, const char *)) != NULL;)
		if (!strstr(err->message, word))
			fail_msg("'%s' is not in the message of %s: %s", word, pgs_error_name(err->code), err->message);
	va_end(args);
}
