/* What requests are signed with: credentials, and the headers that go with them, shared by the requests under way.
 *
 * Temporary credentials end. When a server says so, the file they are from is read again: whoever renews them writes it
 * anew. Requests under way keep what they began with; the last one frees it. Those that were given in the options stay,
 * and those of the environment: to read that beside threads that may change it is not defined. */
#include "s3.h"

#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define RENEWAL_PAUSE_MS 3000 /* the file is not read more often: every thread may be refused at once, again and again */

/* --- one set --------------------------------------------------------------------- */

static void free_signer(pgs__s3_signer *signer)
{
	for (struct curl_slist *line = signer->headers; line; line = line->next)
		explicit_bzero(line->data, strlen(line->data));
	curl_slist_free_all(signer->headers);
	pgs__s3_credentials_free(&signer->credentials);
	pgs__free(signer);
}

static bool add_header(pgs__s3_signer *signer, const char *name, const char *value)
{
	pgs__buffer line = {0};
	pgs__put_bytes(&line, name, strlen(name));
	pgs__put_bytes(&line, value, strlen(value) + 1);
	struct curl_slist *more = line.failed ? NULL : curl_slist_append(signer->headers, (const char *)line.data);
	signer->headers = more ? more : signer->headers;
	if (line.data)
		explicit_bzero(line.data, line.size);
	pgs__buffer_free(&line);
	return more != NULL;
}

/* Headers of every request, and signed with it. Bodies are not: they are streamed, and what was stored is compared. The
 * type is there because libcurl would send that of forms. */
static int make_signer(pgs__s3_signer **out, const pgs_s3_options *o, pgs_error *err)
{
	*out = NULL;
	pgs__s3_signer *signer = pgs__calloc(1, sizeof *signer);
	if (!signer)
		return pgs__error_nomem(err, "credentials");
	signer->users = 1; /* the handle itself */
	int status = pgs__s3_credentials_find(&signer->credentials, o, err);
	if (status == PGS_OK && (!add_header(signer, "Content-Type: ", "application/octet-stream") ||
					!add_header(signer, "x-amz-content-sha256: ", "UNSIGNED-PAYLOAD") ||
					(signer->credentials.token &&
						!add_header(signer, "x-amz-security-token: ", signer->credentials.token))))
		status = pgs__error_nomem(err, "credentials");
	if (status == PGS_OK)
		*out = signer;
	else
		free_signer(signer);
	return status;
}

static bool is_same(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static bool are_same(const pgs__s3_credentials *a, const pgs__s3_credentials *b)
{
	return is_same(a->id, b->id) && is_same(a->secret, b->secret) && is_same(a->token, b->token);
}

/* --- that of a handle --------------------------------------------------------------- */

pgs__s3_signer *pgs__s3_signer_take(pgs__s3 *s3)
{
	pthread_mutex_lock(&s3->lock);
	pgs__s3_signer *signer = s3->signer;
	signer->users++;
	pthread_mutex_unlock(&s3->lock);
	return signer;
}

void pgs__s3_signer_give(pgs__s3 *s3, pgs__s3_signer *signer)
{
	pthread_mutex_lock(&s3->lock);
	bool last = --signer->users == 0;
	pthread_mutex_unlock(&s3->lock);
	if (last)
		free_signer(signer);
}

int pgs__s3_signer_init(pgs__s3 *s3, const pgs_s3_options *o, pgs_error *err)
{
	int status = make_signer(&s3->signer, o, err);
	if (status == PGS_OK && o->credentials_file && !o->access_key_id) {
		s3->credentials_file = pgs__strndup(o->credentials_file, strlen(o->credentials_file));
		status = s3->credentials_file ? PGS_OK : pgs__error_nomem(err, "credentials");
	}
	return status;
}

void pgs__s3_signer_close(pgs__s3 *s3)
{
	if (s3->signer)
		free_signer(s3->signer);
	pgs__free(s3->credentials_file);
}

/* Read the file. NULL: it is as before, or not as it should be. */
static pgs__s3_signer *read_again(pgs__s3 *s3, const pgs__s3_signer *refused)
{
	pgs_s3_options options = PGS_S3_OPTIONS_INIT;
	pgs__s3_signer *fresh;
	options.credentials_file = s3->credentials_file;
	if (make_signer(&fresh, &options, NULL) != PGS_OK)
		return NULL;
	if (!are_same(&fresh->credentials, &refused->credentials))
		return fresh;
	free_signer(fresh);
	return NULL;
}

static void replace(pgs__s3 *s3, pgs__s3_signer *fresh)
{
	pthread_mutex_lock(&s3->lock);
	pgs__s3_signer *old = s3->signer;
	s3->signer = fresh;
	pthread_mutex_unlock(&s3->lock);
	pgs__s3_signer_give(s3, old);
}

/* One thread reads the file; those that are refused meanwhile wait for what it finds. */
bool pgs__s3_signer_renew(pgs__s3 *s3, const pgs__s3_signer *refused)
{
	if (!s3->credentials_file)
		return false;
	pthread_mutex_lock(&s3->renewal);
	pgs__s3_signer *now = pgs__s3_signer_take(s3);
	bool renewed = now != refused;
	pgs__s3_signer_give(s3, now);
	if (!renewed && pgs__now_ms() >= s3->renewal_due_ms) {
		s3->renewal_due_ms = pgs__now_ms() + RENEWAL_PAUSE_MS;
		pgs__s3_signer *fresh = read_again(s3, refused);
		renewed = fresh != NULL;
		if (fresh)
			replace(s3, fresh);
	}
	pthread_mutex_unlock(&s3->renewal);
	return renewed;
}
