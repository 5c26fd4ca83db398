/* Puts: one PUT, or for large blobs parts that S3 puts together at the end. Bytes go from the source to the socket; a
 * part that has to be sent again is asked for again.
 *
 *      one piece:   PUT ──▶ ETag is the MD5 of what was sent ──▶ done
 *                    └────▶ ETag is something else (encryption) ──▶ HEAD: the length is right ──▶ done
 *      parts:       POST ?uploads ──▶ PUT ?partNumber … ──▶ POST ?uploadId ──▶ HEAD ──▶ done
 *                    └ any failure: DELETE ?uploadId, so that nobody pays for parts that nobody sees */
#include "s3.h"

#include <stdio.h>
#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define PARTS_AT_ONCE 4
#define BATCH 16        /* parts handed to one pgs__s3_run() */
#define CLEANUP_MS 1000 /* for what is tried after a failure, whatever the deadline */
#define UPLOAD_ID_MAX 1024
#define OBJECT_BYTES_MAX ((uint64_t)5 << 40)

typedef struct upload {
	pgs__s3 *s3;
	const char *name;
	uint64_t size, part_size;
	pgs_blob_source source;
	void *ctx;
	uint64_t deadline_ms;
	char query[3 * UPLOAD_ID_MAX + 16]; /* "uploadId=…" */
	char (*etags)[PGS__S3_ETAG_MAX];
	size_t parts;
} upload;

/* --- what was stored ----------------------------------------------------------------- */

static int check_length(const upload *u, pgs_error *err)
{
	uint64_t stored;
	int status = pgs__s3_stat(&u->s3->base, u->name, &stored, u->deadline_ms, err);
	if (status == PGS_ENOTFOUND)
		status = err ? (err->code = PGS_EIO) : PGS_EIO;
	if (status == PGS_OK && stored != u->size)
		status = pgs__error(err, PGS_EIO, "s3: '%s%s' in bucket '%s' at %s has %llu bytes after a put of %llu",
			u->s3->root, u->name, u->s3->bucket, u->s3->endpoint, (unsigned long long)stored,
			(unsigned long long)u->size);
	return status;
}

/* Nobody refers to it yet: better nothing than something else. */
static void remove_damaged(const upload *u)
{
	pgs__s3_remove(&u->s3->base, u->name, pgs__now_ms() + CLEANUP_MS, NULL);
}

/* --- one piece ------------------------------------------------------------------------- */

static int put_whole(const upload *u, pgs_error *err)
{
	pgs__s3_call call = {
		.method = PGS__S3_PUT,
		.what = "put",
		.name = u->name,
		.size = u->size,
		.source = u->source,
		.ctx = u->ctx,
	};
	int status = pgs__s3_run_one(u->s3, &call, u->deadline_ms, err);
	if (status == PGS_OK && !call.verified)
		status = check_length(u, err);
	if (status != PGS_OK && call.damaged)
		remove_damaged(u);
	pgs__s3_call_free(&call);
	return status;
}

/* --- parts -------------------------------------------------------------------------------- */

static int begin_upload(upload *u, pgs_error *err)
{
	pgs__s3_call call = {
		.method = PGS__S3_POST, .what = "begin the upload of", .name = u->name, .query = "uploads="};
	char id[UPLOAD_ID_MAX];
	pgs__buffer query = {0};
	int status = pgs__s3_run_one(u->s3, &call, u->deadline_ms, err);
	if (status == PGS_OK) {
		pgs__s3_find_text(
			pgs__buffer_slice(&call.answer), "InitiateMultipartUploadResult/UploadId", id, sizeof id);
		size_t size = strlen(id);
		if (size == 0 || size == sizeof id - 1) {
			status = pgs__s3_end(u->s3, &call, PGS_EIO, "it gives no upload id");
			if (err)
				*err = call.error;
		}
		pgs__put_bytes(&query, "uploadId=", 9);
		pgs__s3_put_encoded(&query, id, size, false);
		pgs__put_u8(&query, 0);
		if (status == PGS_OK && query.failed)
			status = pgs__error_nomem(err, "an upload");
		if (status == PGS_OK)
			memcpy(u->query, query.data, query.size);
	}
	pgs__buffer_free(&query);
	pgs__s3_call_free(&call);
	return status;
}

static void abort_upload(const upload *u)
{
	pgs__s3_call call = {
		.method = PGS__S3_DELETE, .what = "abort the upload of", .name = u->name, .query = u->query};
	pgs__s3_run_one(u->s3, &call, pgs__now_ms() + CLEANUP_MS, NULL);
	pgs__s3_call_free(&call);
}

static int take_etag(const upload *u, pgs__s3_call *call, size_t part)
{
	if (call->status == PGS_OK && (!*call->last.etag || strpbrk(call->last.etag, "<>&")))
		pgs__s3_end(u->s3, call, PGS_EIO, "it gives no usable ETag for a part");
	if (call->status == PGS_OK)
		strcpy(u->etags[part], call->last.etag);
	return call->status;
}

typedef struct batch {
	pgs__s3_call calls[BATCH];
	char queries[BATCH][3 * UPLOAD_ID_MAX + 48];
} batch;

/* Parts [first, first + count). */
static int put_parts(const upload *u, batch *b, size_t first, size_t count, pgs_error *err)
{
	int status = PGS_OK;
	for (size_t i = 0; i < count; i++) {
		uint64_t offset = (first + i) * u->part_size, left = u->size - offset;
		snprintf(b->queries[i], sizeof b->queries[i], "partNumber=%zu&%s", first + i + 1, u->query);
		b->calls[i] = (pgs__s3_call){
			.method = PGS__S3_PUT,
			.what = "put a part of",
			.name = u->name,
			.query = b->queries[i],
			.offset = offset,
			.size = left < u->part_size ? left : u->part_size,
			.source = u->source,
			.ctx = u->ctx,
		};
	}
	pgs__s3_run(u->s3, b->calls, count, PARTS_AT_ONCE, u->deadline_ms);
	for (size_t i = 0; i < count; i++) {
		int one = take_etag(u, &b->calls[i], first + i);
		if (one != PGS_OK && status == PGS_OK) {
			status = one;
			if (err)
				*err = b->calls[i].error;
		}
		pgs__s3_call_free(&b->calls[i]);
	}
	return status;
}

static int put_all_parts(const upload *u, pgs_error *err)
{
	batch *b = pgs__malloc(sizeof *b);
	int status = b ? PGS_OK : pgs__error_nomem(err, "an upload");
	for (size_t first = 0; first < u->parts && status == PGS_OK; first += BATCH)
		status = put_parts(u, b, first, u->parts - first < BATCH ? u->parts - first : BATCH, err);
	pgs__free(b);
	return status;
}

/* When its answer was lost, a second one (libcurl's own, perhaps) finds no such upload: then the length tells whether
 * the first was good. */
static int complete_upload(const upload *u, pgs_error *err)
{
	pgs__buffer body = {0};
	char text[PGS__S3_ETAG_MAX + 80];
	pgs__put_bytes(&body, "<CompleteMultipartUpload>", 25);
	for (size_t i = 0; i < u->parts; i++) {
		int size = snprintf(text, sizeof text, "<Part><PartNumber>%zu</PartNumber><ETag>%s</ETag></Part>",
			i + 1, u->etags[i]);
		pgs__put_bytes(&body, text, (size_t)size);
	}
	pgs__put_bytes(&body, "</CompleteMultipartUpload>", 26);
	if (body.failed) {
		pgs__buffer_free(&body);
		return pgs__error_nomem(err, "an upload");
	}
	pgs__s3_call call = {
		.method = PGS__S3_POST,
		.what = "complete the upload of",
		.name = u->name,
		.query = u->query,
		.body = pgs__buffer_slice(&body),
		.judges_body = true,
	};
	int status = pgs__s3_run_one(u->s3, &call, u->deadline_ms, err);
	if (status == PGS_OK || !strcmp(call.code, "NoSuchUpload"))
		status = check_length(u, err);
	pgs__s3_call_free(&call);
	pgs__buffer_free(&body);
	return status;
}

static int put_in_parts(upload *u, pgs_error *err)
{
	const uint64_t unit = (uint64_t)1 << 20;
	uint64_t least = (u->size + PGS__S3_PARTS_MAX - 1) / PGS__S3_PARTS_MAX;
	u->part_size = u->s3->part_bytes;
	if (u->part_size < least)
		u->part_size = (least + unit - 1) / unit * unit;
	u->parts = (size_t)((u->size + u->part_size - 1) / u->part_size);
	u->etags = pgs__calloc(u->parts, sizeof *u->etags);
	if (!u->etags)
		return pgs__error_nomem(err, "an upload");
	int status = begin_upload(u, err);
	if (status == PGS_OK) {
		status = put_all_parts(u, err);
		if (status == PGS_OK)
			status = complete_upload(u, err);
		if (status != PGS_OK)
			abort_upload(u);
	}
	pgs__free(u->etags);
	return status;
}

int pgs__s3_put(pgs_blob *blob, const char *name, uint64_t size, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	pgs__s3 *s3 = pgs__s3_of(blob);
	pgs_error own = PGS_ERROR_INIT;
	err = err ? err : &own;
	int status = pgs__s3_check_name(name, err);
	if (status != PGS_OK)
		return status;
	if (s3->read_only)
		return pgs__error(
			err, PGS_EREADONLY, "s3: bucket '%s' at %s is open read-only", s3->bucket, s3->endpoint);
	if (size > OBJECT_BYTES_MAX)
		return pgs__error(
			err, PGS_EINVAL, "s3: a blob of %llu bytes: 5 TiB are possible", (unsigned long long)size);
	upload u = {.s3 = s3, .name = name, .size = size, .source = source, .ctx = ctx, .deadline_ms = deadline_ms};
	return size <= s3->multipart_bytes ? put_whole(&u, err) : put_in_parts(&u, err);
}
