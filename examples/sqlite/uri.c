/* What the parameters of a file's URI say.
 *
 *     file:NAME?vfs=pagestore&store=URL [&cache_file=PATH] [&cache_size=BYTES]      which store, through which cache
 *                 [&freshness=…] [&follow=…] [&at=…] [&timeout=MS]                  what its transactions show
 *
 * SQLite takes cache= for itself and knows "shared" and "private" alone, so the cache file has a name of its own. It
 * becomes part of the store's URL: connections share a store if they name both alike.
 */
#include "file.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* 2026-03-01T12:00:00Z, with or without a fraction and the Z; it is UTC. */
static bool parse_time(const char *text, int64_t *unix_ms)
{
	struct tm tm = {0};
	int millis = 999, used = 0;
	char letter;
	if (sscanf(text, "%4d-%2d-%2d%c%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &letter, &tm.tm_hour,
		&tm.tm_min, &tm.tm_sec, &used) != 7 || (letter != 'T' && letter != ' '))
		return false;
	const char *rest = text + used;
	if (*rest == '.' && sscanf(rest, ".%3d%n", &millis, &used) == 1)
		rest += used;
	if (*rest && strcmp(rest, "Z") != 0)
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	*unix_ms = (int64_t)timegm(&tm) * 1000 + millis;
	return true;
}

/* at=REVISION, at=TIME or at=@SNAPSHOT. */
static bool take_at(sq_file *f, const char *at)
{
	char *end;
	if (!at)
		return true;
	f->read_only = true;
	if (at[0] == '@') {
		f->at_name = sqlite3_mprintf("%s", at + 1);
		f->at.at_snapshot = f->at_name;
		f->at.at_snapshot_size = strlen(at + 1);
		return f->at_name != NULL;
	}
	f->at.at_revision = strtoull(at, &end, 10);
	if (*end == '\0')
		return f->at.at_revision != 0 && at[0] != '-'; /* strtoull() takes a sign */
	f->at.at_revision = 0;
	return parse_time(at, &f->at.at_time_ms);
}

/* --- freshness, and following ----------------------------------------------------------------------------- */

/* Decimal digits alone. */
static bool parse_number(const char *text, uint64_t *number)
{
	char *end;
	if (!isdigit((unsigned char)text[0]))
		return false;
	*number = strtoull(text, &end, 10);
	return *end == '\0';
}

/* freshness=latest, local, bounded:MILLISECONDS or at_least:REVISION. */
static bool take_freshness(sq_file *f, const char *text)
{
	uint64_t ms = 0;
	if (!text || strcmp(text, "latest") == 0)
		return true;
	if (f->at.at_revision || f->at.at_time_ms || f->at.at_snapshot_size)
		return false;
	if (strcmp(text, "local") == 0) {
		f->at.freshness = PGS_LOCAL;
	} else if (strncmp(text, "bounded:", 8) == 0 && parse_number(text + 8, &ms)) {
		f->at.freshness = PGS_BOUNDED;
		f->at.bound_ms = ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
	} else if (strncmp(text, "at_least:", 9) == 0 && parse_number(text + 9, &f->at.least_revision)) {
		f->at.freshness = PGS_AT_LEAST;
	} else {
		return false;
	}
	return true;
}

/* follow=on, off or all; on, if transactions may begin on less than the latest, else off. */
static bool take_follow(sq_file *f, const char *text)
{
	f->follows = f->at.freshness != PGS_LATEST;
	if (!text)
		return true;
	f->follows = strcmp(text, "off") != 0;
	if (strcmp(text, "all") == 0)
		f->fetch = PGS_FETCH_ALL;
	return !f->follows || f->fetch || strcmp(text, "on") == 0;
}

/* What transactions begin on would never change but by commits of this process. */
static bool stands_still(const sq_file *f, const char *url)
{
	bool asks = f->at.freshness == PGS_LATEST || f->at.freshness == PGS_BOUNDED;
	return !asks && !f->follows && !strstr(url, "cache=");
}

/* timeout=MILLISECONDS. */
static bool take_timeout(sq_file *f, const char *text)
{
	uint64_t ms = 0;
	if (text && !parse_number(text, &ms))
		return false;
	f->at.timeout_ms = ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
	return true;
}

/* --- the store --------------------------------------------------------------------------------------------- */

static void add_escaped(sqlite3_str *out, const char *text)
{
	for (; *text; text++) {
		if (isalnum((unsigned char)*text) || strchr("/-_.~", *text))
			sqlite3_str_appendchar(out, 1, *text);
		else
			sqlite3_str_appendf(out, "%%%02X", (unsigned char)*text);
	}
}

/* The store's URL with the cache's parameters. NULL: no memory. */
static char *url_of(const char *store, const char *name)
{
	static const char *const keys[][2] = {{"cache_file", "cache="}, {"cache_size", "cache_size="}};
	sqlite3_str *out = sqlite3_str_new(NULL);
	bool more = strchr(store, '?') != NULL;
	sqlite3_str_appendall(out, store);
	for (size_t i = 0; i < 2; i++) {
		const char *value = sqlite3_uri_parameter(name, keys[i][0]);
		if (!value)
			continue;
		sqlite3_str_appendall(out, more ? "&" : "?");
		sqlite3_str_appendall(out, keys[i][1]);
		add_escaped(out, value);
		more = true;
	}
	return sqlite3_str_finish(out);
}

/* --- all of it ------------------------------------------------------------------------------------------------ */

static const char *take(sq_file *f, const char *name, const char *url)
{
	const char *cache = sqlite3_uri_parameter(name, "cache"); /* SQLite does not hand on SQLITE_OPEN_SHAREDCACHE */
	if (!name[0] || strlen(name) > PGS_DB_NAME_MAX)
		return "a database's name has 1 to 255 bytes";
	if (cache && strcmp(cache, "shared") == 0)
		return "cache=shared is not possible: connections share the store's cache anyway";
	if (!take_at(f, sqlite3_uri_parameter(name, "at")))
		return "at= is a revision, a time as 2026-03-01T12:00:00Z, or @ and a snapshot's name";
	if (!take_freshness(f, sqlite3_uri_parameter(name, "freshness")))
		return "freshness= is latest, local, bounded:MILLISECONDS or at_least:REVISION, and not together with at=";
	if (!take_follow(f, sqlite3_uri_parameter(name, "follow")))
		return "follow= is on, off or all";
	if (stands_still(f, url))
		return "follow=off with this freshness= would show the same for ever: name the cache_file= that another "
		       "process keeps up to date, or leave follow= out";
	if (!take_timeout(f, sqlite3_uri_parameter(name, "timeout")))
		return "timeout= is a number of milliseconds";
	return NULL;
}

const char *sq_uri_take(sq_file *f, const char *name, char **url)
{
	const char *store = sqlite3_uri_parameter(name, "store"), *why;
	store = store ? store : getenv("PAGESTORE_URL");
	*url = NULL;
	if (!store)
		return "no store is named; add store=URL to the file's URI, or set PAGESTORE_URL";
	*url = url_of(store, name);
	why = *url ? take(f, name, *url) : "out of memory";
	if (why) {
		sqlite3_free(*url);
		*url = NULL;
	}
	return why;
}
