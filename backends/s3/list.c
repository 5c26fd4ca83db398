/* Lists: pages of ListObjectsV2. What is no blob name is other people's, and skipped. A page must go on where the last
 * one ended: so a list ends, whatever the server says. */
#include "s3.h"

#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define EMPTY_PAGES_MAX 1000 /* one after the other: then it leads nowhere */

typedef struct listing {
	pgs__s3 *s3;
	const char *prefix;
	pgs_blob_lister lister;
	void *ctx;
	uint64_t deadline_ms;
	char last[PGS__S3_KEY_MAX + 1]; /* "": none yet */
} listing;

static int bad_list(const listing *l, const char *why, pgs_error *err)
{
	return pgs__error(err, PGS_EIO, "s3: cannot list bucket '%s' at %s: %s", l->s3->bucket, l->s3->endpoint, why);
}

/* continuation-token=…&encoding-type=url&list-type=2&max-keys=…&prefix=…: sorted, as SigV4 wants it. */
static char *make_query(const pgs__s3 *s3, const char *prefix, const char *token, const char *max_keys)
{
	pgs__buffer query = {0};
	if (token) {
		pgs__put_bytes(&query, "continuation-token=", 19);
		pgs__s3_put_encoded(&query, token, strlen(token), false);
		pgs__put_u8(&query, '&');
	}
	static const char fixed[] = "encoding-type=url&list-type=2&max-keys=";
	pgs__put_bytes(&query, fixed, sizeof fixed - 1);
	pgs__put_bytes(&query, max_keys, strlen(max_keys));
	pgs__put_bytes(&query, "&prefix=", 8);
	pgs__s3_put_encoded(&query, s3->root, strlen(s3->root), false);
	pgs__s3_put_encoded(&query, prefix, strlen(prefix), false);
	pgs__put_u8(&query, 0);
	if (!query.failed)
		return (char *)query.data;
	pgs__buffer_free(&query);
	return NULL;
}

static int get_page(const listing *l, const char *token, const char *max_keys, pgs__s3_page *page, pgs_error *err)
{
	*page = (pgs__s3_page){0};
	char *query = make_query(l->s3, l->prefix, token, max_keys);
	if (!query)
		return pgs__error_nomem(err, "a list of blobs");
	pgs__s3_call call = {.method = PGS__S3_GET, .what = "list", .query = query};
	int status = pgs__s3_run_one(l->s3, &call, l->deadline_ms, err);
	if (status == PGS_OK) {
		status = pgs__s3_page_read(pgs__buffer_slice(&call.answer), page);
		if (status == PGS_ENOMEM)
			pgs__error_nomem(err, "a list of blobs");
		else if (status != PGS_OK)
			status = bad_list(l, "its answer is no list", err);
	}
	pgs__s3_call_free(&call);
	pgs__free(query);
	return status;
}

/* Nothing of the handle is locked: the lister may use it. */
static int give_entry(listing *l, const char *key, uint64_t size, pgs_error *err)
{
	size_t root = strlen(l->s3->root), length = strlen(key);
	if (strncmp(key, l->s3->root, root) != 0 || strncmp(key + root, l->prefix, strlen(l->prefix)) != 0)
		return bad_list(l, "it lists a key without the prefix that was asked for", err);
	if (length > PGS__S3_KEY_MAX || strcmp(key, l->last) <= 0)
		return bad_list(l, "its keys are not in order", err);
	memcpy(l->last, key, length + 1);
	if (pgs__deadline_passed(l->deadline_ms))
		return pgs__error(err, PGS_ETIMEOUT, "s3: the deadline passed while bucket '%s' at %s was listed",
			l->s3->bucket, l->s3->endpoint);
	return pgs__s3_is_name(key + root, length - root) ? l->lister(l->ctx, key + root, size) : PGS_OK;
}

static int give_page(listing *l, const pgs__s3_page *page, pgs_error *err)
{
	int status = PGS_OK;
	for (size_t i = 0; i < page->count && status == PGS_OK; i++)
		status =
			give_entry(l, (const char *)page->text.data + page->entries[i].key, page->entries[i].size, err);
	return status;
}

int pgs__s3_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	listing l = {
		.s3 = pgs__s3_of(blob), .prefix = prefix, .lister = lister, .ctx = ctx, .deadline_ms = deadline_ms};
	char *token = NULL;
	size_t empty = 0;
	int status = PGS_OK;
	/* No name is longer: nothing to ask for. */
	if (strnlen(prefix, PGS_BLOB_NAME_MAX + 1) > PGS_BLOB_NAME_MAX)
		return PGS_OK;
	do {
		pgs__s3_page page;
		status = get_page(&l, token, "1000", &page, err);
		if (status == PGS_OK)
			status = give_page(&l, &page, err);
		empty = page.count ? 0 : empty + 1;
		if (status == PGS_OK && page.truncated && empty > EMPTY_PAGES_MAX)
			status = bad_list(&l, "its pages are empty, without an end", err);
		pgs__free(token);
		token = page.truncated ? page.token : NULL;
		if (token)
			page.token = NULL;
		pgs__s3_page_free(&page);
	} while (token && status == PGS_OK);
	pgs__free(token);
	return status;
}

int pgs__s3_check_bucket(pgs__s3 *s3, uint64_t deadline_ms, pgs_error *err)
{
	listing l = {.s3 = s3, .prefix = "", .deadline_ms = deadline_ms};
	pgs__s3_page page;
	int status = get_page(&l, NULL, "1", &page, err);
	pgs__s3_page_free(&page);
	return status;
}
