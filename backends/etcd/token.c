/* Tokens: who the user is, once proved, for as long as etcd remembers.
 *
 * A token lives in a list of headers that requests share; a new token is a new list. etcd forgets tokens after some
 * minutes without use, and when a member restarts: a call that is told so asks for a new one and is sent again. */
#include "etcd.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

void pgs__etcd_wipe(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	pgs__free(secret);
}

/* --- lists of headers -------------------------------------------------------------- */

static bool append(struct curl_slist **list, const char *header)
{
	struct curl_slist *longer = curl_slist_append(*list, header);
	if (longer)
		*list = longer;
	return longer != NULL;
}

/* NULL when out of memory. "Expect:" and no value: a large request is sent at once, without asking first. */
static struct curl_slist *make_list(const char *authorization)
{
	struct curl_slist *list = NULL;
	if (append(&list, "Content-Type: application/json") && append(&list, "Expect:") &&
		(!authorization || append(&list, authorization)))
		return list;
	curl_slist_free_all(list);
	return NULL;
}

static pgs__etcd_headers *make_headers(const char *authorization, uint64_t number)
{
	pgs__etcd_headers *headers = pgs__calloc(1, sizeof *headers);
	if (!headers)
		return NULL;
	headers->list = make_list(authorization);
	headers->number = number;
	headers->users = 1; /* the handle itself */
	if (headers->list)
		return headers;
	pgs__free(headers);
	return NULL;
}

static void free_headers(pgs__etcd_headers *headers)
{
	for (struct curl_slist *at = headers->list; at; at = at->next)
		explicit_bzero(at->data, strlen(at->data));
	curl_slist_free_all(headers->list);
	pgs__free(headers);
}

pgs__etcd_headers *pgs__etcd_headers_take(pgs__etcd *e)
{
	pthread_mutex_lock(&e->lock);
	pgs__etcd_headers *headers = e->headers;
	headers->users++;
	pthread_mutex_unlock(&e->lock);
	return headers;
}

void pgs__etcd_headers_give(pgs__etcd *e, pgs__etcd_headers *headers)
{
	pthread_mutex_lock(&e->lock);
	bool last = --headers->users == 0;
	pthread_mutex_unlock(&e->lock);
	if (last)
		free_headers(headers);
}

/* --- renewing ------------------------------------------------------------------------ */

static void replace_headers(pgs__etcd *e, pgs__etcd_headers *headers)
{
	pthread_mutex_lock(&e->lock);
	pgs__etcd_headers *old = e->headers;
	e->headers = headers;
	pthread_mutex_unlock(&e->lock);
	pgs__etcd_headers_give(e, old);
}

/* Number 0 cannot tell a cluster without authentication from one not asked yet: so it is a token too, an empty one. */
static int accept_token(pgs__etcd *e, const char *token, uint64_t number, pgs_error *err)
{
	static const char name[] = "Authorization: ";
	size_t size = sizeof name + strlen(token);
	char *line = pgs__malloc(size);
	if (!line)
		return pgs__error_nomem(err, "a token");
	snprintf(line, size, "%s%s", name, token);
	pgs__etcd_headers *headers = make_headers(*token ? line : NULL, number);
	pgs__etcd_wipe(line);
	if (!headers)
		return pgs__error_nomem(err, "a token");
	replace_headers(e, headers);
	return PGS_OK;
}

static int authenticate(pgs__etcd *e, uint64_t number, uint64_t deadline_ms, pgs_error *err)
{
	if (!e->user)
		return pgs__error(err, PGS_EAUTH,
			"etcd wants a user: write user=NAME; the password is PAGESTORE_ETCD_PASSWORD's or password_file='s");
	pgs__etcd_call call = {.path = "/v3/auth/authenticate", .what = "authenticate", .plain = true};
	pgs__etcd_put_text(&call.body, "{\"name\":");
	pgs__etcd_put_string(&call.body, e->user);
	pgs__etcd_put_text(&call.body, ",\"password\":");
	pgs__etcd_put_string(&call.body, e->password ? e->password : "");
	pgs__etcd_put_text(&call.body, "}");
	int status = pgs__etcd_run_one(e, &call, deadline_ms, err);
	if (status == PGS_OK)
		status = accept_token(e, pgs__etcd_text(call.reply, "token"), number, err);
	else if (strstr(call.error.message, "authentication is not enabled"))
		status = accept_token(e, "", number, err); /* as long as nobody enables it */
	if (call.body.data)
		explicit_bzero(call.body.data, call.body.size);
	pgs__etcd_call_free(&call);
	return status;
}

/* Under the lock: wait until nobody renews. False when the deadline passed. */
static bool wait_for_others(pgs__etcd *e, uint64_t deadline_ms)
{
	struct timespec until = {(time_t)(deadline_ms / 1000), (long)(deadline_ms % 1000) * 1000000};
	while (e->renewing)
		if (pthread_cond_timedwait(&e->renewed, &e->lock, &until) != 0 && e->renewing)
			return false;
	return true;
}

int pgs__etcd_token_renew(pgs__etcd *e, uint64_t number, uint64_t deadline_ms, pgs_error *err)
{
	pthread_mutex_lock(&e->lock);
	bool free = wait_for_others(e, deadline_ms);
	bool renewed = e->headers->number > number;
	uint64_t next = e->headers->number + 1;
	e->renewing |= free && !renewed;
	pthread_mutex_unlock(&e->lock);
	if (renewed)
		return PGS_OK;
	if (!free)
		return pgs__error(err, PGS_ETIMEOUT, "the deadline passed while another thread asked etcd for a token");
	int status = authenticate(e, next, deadline_ms, err);
	pthread_mutex_lock(&e->lock);
	e->renewing = false;
	pthread_cond_broadcast(&e->renewed);
	pthread_mutex_unlock(&e->lock);
	return status;
}

/* --- beginning and end ------------------------------------------------------------------ */

int pgs__etcd_token_init(pgs__etcd *e, pgs_error *err)
{
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&e->renewed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&e->lock, NULL);
	e->plain_headers = make_list(NULL);
	e->headers = make_headers(NULL, 0);
	return e->plain_headers && e->headers ? PGS_OK : pgs__error_nomem(err, "headers");
}

void pgs__etcd_token_free(pgs__etcd *e)
{
	curl_slist_free_all(e->plain_headers);
	if (e->headers)
		pgs__etcd_headers_give(e, e->headers);
	pthread_cond_destroy(&e->renewed);
	pthread_mutex_destroy(&e->lock);
}
