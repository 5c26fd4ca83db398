/* Credentials: given, from a file in the AWS tools' format, or from the environment.
 *
 *     [default]
 *     aws_access_key_id = …
 *     aws_secret_access_key = …
 *     aws_session_token = …
 *
 * Lines before the first section count, too. Nothing of what is in the file is ever repeated in a message. */
#include "credentials.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"
#include "util/cursor.h"
#include "util/error.h"

#define FILE_BYTES_MAX 65536

static void wipe(void *data, size_t size)
{
	volatile char *bytes = data;
	while (size)
		bytes[--size] = 0;
}

static void wipe_text(char *secret)
{
	if (secret)
		wipe(secret, strlen(secret));
	pgs__free(secret);
}

void pgs__s3_credentials_free(pgs__s3_credentials *credentials)
{
	wipe_text(credentials->id);
	wipe_text(credentials->secret);
	wipe_text(credentials->token);
	*credentials = (pgs__s3_credentials){0};
}

static int set(char **field, const char *text, size_t size, pgs_error *err)
{
	wipe_text(*field);
	*field = pgs__strndup(text, size);
	return *field ? PGS_OK : pgs__error_nomem(err, "credentials");
}

/* They go into headers. */
static bool is_clean(const char *text)
{
	for (; text && *text; text++)
		if ((unsigned char)*text <= ' ' || (unsigned char)*text > '~')
			return false;
	return true;
}

static int check(const pgs__s3_credentials *c, const char *where, pgs_error *err)
{
	if (!c->id || !*c->id || !c->secret || !*c->secret)
		return pgs__error(err, PGS_EAUTH,
			"s3: %s not both an access key id and a secret access key: set "
			"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or credentials_file=",
			where);
	if (!is_clean(c->id) || !is_clean(c->secret) || !is_clean(c->token) || strchr(c->id, '/'))
		return pgs__error(err, PGS_EAUTH, "s3: %s credentials with characters that none can have", where);
	return PGS_OK;
}

/* --- the file --------------------------------------------------------------------- */

static pgs_slice trimmed(const char *text, size_t size)
{
	while (size && strchr(" \t\r", text[size - 1]))
		size--;
	while (size && strchr(" \t", *text)) {
		text++;
		size--;
	}
	return (pgs_slice){text, size};
}

static bool is(pgs_slice text, const char *word)
{
	return text.size == strlen(word) && !memcmp(text.data, word, text.size);
}

static int take_line(pgs__s3_credentials *c, pgs_slice line, pgs_error *err)
{
	const char *equals = memchr(line.data, '=', line.size);
	if (!equals)
		return PGS_OK;
	size_t before = (size_t)(equals - (const char *)line.data);
	pgs_slice key = trimmed(line.data, before), value = trimmed(equals + 1, line.size - before - 1);
	char **field = is(key, "aws_access_key_id")       ? &c->id
		       : is(key, "aws_secret_access_key") ? &c->secret
		       : is(key, "aws_session_token")     ? &c->token
							  : NULL;
	return field ? set(field, value.data, value.size, err) : PGS_OK;
}

static int parse(pgs__s3_credentials *c, const char *text, pgs_error *err)
{
	bool ours = true;
	int status = PGS_OK;
	while (*text && status == PGS_OK) {
		size_t size = strcspn(text, "\n");
		pgs_slice line = trimmed(text, size);
		const char *first = line.data;
		if (line.size && *first == '[')
			ours = is(line, "[default]");
		else if (line.size && ours && *first != '#' && *first != ';')
			status = take_line(c, line, err);
		text += size + (text[size] == '\n');
	}
	return status;
}

static int read_file(pgs__s3_credentials *c, const char *path, pgs_error *err)
{
	char *text = pgs__malloc(FILE_BYTES_MAX + 1);
	if (!text)
		return pgs__error_nomem(err, "credentials");
	FILE *file = fopen(path, "re");
	if (!file) {
		pgs__free(text);
		return pgs__error(
			err, PGS_EAUTH, "s3: cannot read the credentials_file '%s': %s", path, strerror(errno));
	}
	setvbuf(file, NULL, _IONBF, 0); /* no copy that nobody wipes */
	size_t size = fread(text, 1, FILE_BYTES_MAX + 1, file);
	bool bad = ferror(file) || size > FILE_BYTES_MAX;
	fclose(file);
	text[bad ? 0 : size] = '\0';
	int status =
		bad ? pgs__error(err, PGS_EAUTH, "s3: the credentials_file '%s' cannot be read, or is too large", path)
		    : parse(c, text, err);
	wipe(text, FILE_BYTES_MAX + 1);
	pgs__free(text);
	return status == PGS_OK ? check(c, "the credentials_file has", err) : status;
}

/* --- where they are ------------------------------------------------------------------ */

static int set_all(pgs__s3_credentials *c, const char *id, const char *secret, const char *token, pgs_error *err)
{
	int status = id ? set(&c->id, id, strlen(id), err) : PGS_OK;
	if (status == PGS_OK && secret)
		status = set(&c->secret, secret, strlen(secret), err);
	if (status == PGS_OK && token && *token)
		status = set(&c->token, token, strlen(token), err);
	return status;
}

int pgs__s3_credentials_find(pgs__s3_credentials *out, const pgs_s3_options *o, pgs_error *err)
{
	*out = (pgs__s3_credentials){0};
	const char *where = "the options have";
	int status;
	if (o->access_key_id || o->secret_access_key) {
		status = set_all(out, o->access_key_id, o->secret_access_key, o->session_token, err);
	} else if (o->credentials_file) {
		status = read_file(out, o->credentials_file, err);
	} else {
		where = "the environment has";
		status = set_all(out, getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_SECRET_ACCESS_KEY"),
			getenv("AWS_SESSION_TOKEN"), err);
	}
	if (status == PGS_OK)
		status = check(out, where, err);
	if (status != PGS_OK)
		pgs__s3_credentials_free(out);
	return status;
}
