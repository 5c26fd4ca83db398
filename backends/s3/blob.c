/* Names, and the small operations: get, stat, remove. */
#include "s3.h"

#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define WINDOW 128 /* calls at most in one pgs__s3_run() */

/* --- names ------------------------------------------------------------------- */

static bool is_plain(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
	       c == '-';
}

static bool is_part(const char *part, size_t size)
{
	if (size == 0 || (size == 1 && part[0] == '.') || (size == 2 && part[0] == '.' && part[1] == '.'))
		return false;
	for (size_t i = 0; i < size; i++)
		if (!is_plain(part[i]))
			return false;
	return true;
}

bool pgs__s3_is_name(const char *name, size_t size)
{
	if (size == 0 || size > PGS_BLOB_NAME_MAX)
		return false;
	for (const char *end = name + size;;) {
		const char *slash = memchr(name, '/', (size_t)(end - name));
		if (!is_part(name, (size_t)((slash ? slash : end) - name)))
			return false;
		if (!slash)
			return true;
		name = slash + 1;
	}
}

int pgs__s3_check_name(const char *name, pgs_error *err)
{
	size_t size = name ? strnlen(name, PGS_BLOB_NAME_MAX + 1) : 0;
	if (name && pgs__s3_is_name(name, size))
		return PGS_OK;
	char text[96];
	return pgs__error(err, PGS_EINVAL, "'%s' is no blob name: 1 to %d of A-Z a-z 0-9 . _ - and / between parts",
		pgs__printable(text, sizeof text, name ? name : "", size), PGS_BLOB_NAME_MAX);
}

void pgs__s3_put_encoded(pgs__buffer *out, const char *text, size_t size, bool slashes)
{
	static const char digits[] = "0123456789ABCDEF";
	for (size_t i = 0; i < size; i++) {
		uint8_t c = (uint8_t)text[i];
		if (is_plain((char)c) || c == '~' || (c == '/' && slashes)) {
			pgs__put_u8(out, c);
		} else {
			pgs__put_u8(out, '%');
			pgs__put_u8(out, (uint8_t)digits[c >> 4]);
			pgs__put_u8(out, (uint8_t)digits[c & 15]);
		}
	}
}

/* --- get ----------------------------------------------------------------------- */

/* No GET can ask for nothing, nor for what no object can have: how long the blob is tells the rest. */
static bool is_askable(const pgs_blob_range *range)
{
	return range->size > 0 && range->offset <= INT64_MAX && range->size <= INT64_MAX - range->offset;
}

static pgs__s3_call call_of(const pgs_blob_range *range)
{
	if (!is_askable(range))
		return (pgs__s3_call){.method = PGS__S3_HEAD, .what = "get", .name = range->name};
	return (pgs__s3_call){
		.method = PGS__S3_GET,
		.what = "get",
		.name = range->name,
		.buffer = range->buffer,
		.offset = range->offset,
		.size = range->size,
	};
}

static void finish_range(const pgs__s3 *s3, pgs__s3_call *call, pgs_blob_range *range)
{
	if (call->status == PGS_OK && call->method == PGS__S3_HEAD &&
		(range->size > 0 || range->offset > (uint64_t)call->last.length))
		pgs__s3_end(s3, call, PGS_ECORRUPT, "the object ends before the range does");
	range->status = call->status;
}

/* Those of `ranges` with names go into `calls`; returns how many. */
static size_t gather(pgs_blob_range *ranges, size_t count, pgs__s3_call *calls, pgs_blob_range **asked, pgs_error *err)
{
	size_t used = 0;
	for (size_t i = 0; i < count; i++) {
		ranges[i].status = pgs__s3_check_name(ranges[i].name, err);
		if (ranges[i].status != PGS_OK) {
			err = NULL; /* the first one's stays */
			continue;
		}
		calls[used] = call_of(&ranges[i]);
		asked[used++] = &ranges[i];
	}
	return used;
}

/* At most WINDOW ranges. Returns the first failed one's status, with *err its error. */
static int get_some(
	pgs__s3 *s3, pgs_blob_range *ranges, size_t count, pgs__s3_call *calls, uint64_t deadline_ms, pgs_error *err)
{
	pgs_blob_range *asked[WINDOW];
	pgs_error bad_name;
	size_t used = gather(ranges, count, calls, asked, &bad_name), failed = used;
	pgs__s3_run(s3, calls, used, s3->parallel, deadline_ms);
	for (size_t i = used; i-- > 0;) {
		finish_range(s3, &calls[i], asked[i]);
		if (calls[i].status != PGS_OK)
			failed = i;
		pgs__s3_call_free(&calls[i]);
	}
	for (size_t i = 0; i < count; i++)
		if (ranges[i].status != PGS_OK) {
			bool called = failed < used && asked[failed] == &ranges[i];
			if (err)
				*err = called ? calls[failed].error : bad_name;
			return ranges[i].status;
		}
	return PGS_OK;
}

int pgs__s3_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	pgs__s3 *s3 = pgs__s3_of(blob);
	int result = PGS_OK;
	size_t window = count < WINDOW ? count : WINDOW;
	pgs__s3_call *calls = pgs__calloc(window, sizeof *calls);
	for (size_t i = 0; i < count; i += window) {
		size_t some = count - i < window ? count - i : window;
		if (!calls) {
			for (size_t k = 0; k < count; k++)
				ranges[k].status = PGS_ENOMEM;
			return pgs__error_nomem(err, "reading blobs");
		}
		int status = get_some(s3, ranges + i, some, calls, deadline_ms, result == PGS_OK ? err : NULL);
		result = result == PGS_OK ? status : result;
	}
	pgs__free(calls);
	return result;
}

/* --- stat, remove ----------------------------------------------------------------- */

int pgs__s3_stat(pgs_blob *blob, const char *name, uint64_t *size, uint64_t deadline_ms, pgs_error *err)
{
	pgs__s3 *s3 = pgs__s3_of(blob);
	*size = 0;
	int status = pgs__s3_check_name(name, err);
	if (status != PGS_OK)
		return status;
	pgs__s3_call call = {.method = PGS__S3_HEAD, .what = "stat", .name = name};
	status = pgs__s3_run_one(s3, &call, deadline_ms, err);
	if (status == PGS_OK)
		*size = (uint64_t)call.last.length;
	pgs__s3_call_free(&call);
	return status;
}

int pgs__s3_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	pgs__s3 *s3 = pgs__s3_of(blob);
	int status = pgs__s3_check_name(name, err);
	if (status == PGS_OK && s3->read_only)
		status = pgs__error(
			err, PGS_EREADONLY, "s3: bucket '%s' at %s is open read-only", s3->bucket, s3->endpoint);
	if (status != PGS_OK)
		return status;
	pgs__s3_call call = {.method = PGS__S3_DELETE, .what = "remove", .name = name};
	status = pgs__s3_run_one(s3, &call, deadline_ms, NULL);
	if (status == PGS_ENOTFOUND)
		status = PGS_OK; /* B6 */
	if (status != PGS_OK && err)
		*err = call.error;
	pgs__s3_call_free(&call);
	return status;
}
