/* Opening the store and the database of a command. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "format.h"
#include "report.h"

/* Whether it was the cache that could not be opened, not the store: the URL, which the message may repeat, does not tell. */
static bool is_of_cache(const cli *c, const char *message)
{
	static const char opening[] = "opening ";
	size_t prefix = strlen(opening), url = strlen(c->url);
	if (strncmp(message, opening, prefix) == 0 && strncmp(message + prefix, c->url, url) == 0)
		message += prefix + url;
	return strstr(message, "the cache") || strstr(message, "cache=") || strstr(message, "cache_size=");
}

/* What to do, where the reason alone does not say it; NULL: the advice for its class does. */
static const char *hint_for(const cli *c, const pgs_error *err, cli_access access)
{
	if (is_of_cache(c, err->message))
		return "cache=PATH names a file of this machine's, and cache_size=BYTES what it may grow to (4M at least):\n"
		       "  ...?cache=/var/cache/shop/pages&cache_size=10G";
	switch (err->code) {
	case PGS_ENOTFOUND:
		return access == CLI_MAKE ? NULL : "`pagestore -s URL create DB` and `import DB FILE` make a new store.";
	case PGS_EINVAL:
		return strncmp(c->url, "etcd:", 5) == 0
			       ? "A URL looks like etcd://HOST:2379,HOST:2379/shop?blob=s3://BUCKET/shop."
			       : "A URL looks like dir:/var/lib/shop or dir:/var/lib/shop?sync=lazy.";
	case PGS_EREADONLY:
		return "Look at who may write to the store's directory, and everything in it.";
	case PGS_EAUTH:
		return "Look at whom the servers take you for, and what that user may do: user= and its password of etcd,\n"
		       "  AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of S3.";
	case PGS_ECORRUPT:
		return "Nothing was changed. Is the URL exactly that of those who wrote the store?";
	default:
		return NULL;
	}
}

/* What the library has to say beside results: a cache that cannot be used, a follower that tries again. Comes from any
 * thread, and on a terminal perhaps while a line is being written over. */
static void log_line(void *ctx, int level, const char *message)
{
	(void)ctx;
	if (level <= PGS_LOG_WARN)
		cli_warn("%s", message);
}

int cli_open_store(cli *c, cli_access access)
{
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.read_only = access == CLI_READ;
	options.must_exist = access != CLI_MAKE;
	options.logger = log_line;
	if (c->values[CLI_OPT_COMPACT])
		options.kv_history = PGS_KV_HISTORY_OWNED;
	int rc = pgs_open(&c->store, c->url, &options, &err);
	if (rc == PGS_OK)
		return CLI_OK;
	return cli_fail_pgs(&err, hint_for(c, &err, access), "%s: cannot open the store", c->command->name);
}

int cli_open_db(cli *c, cli_access access)
{
	pgs_error err = PGS_ERROR_INIT;
	const char *name = c->operands[0];
	int status = cli_open_store(c, access);
	if (status != CLI_OK)
		return status;
	int rc = pgs_db_open(&c->db, c->store, name, strlen(name), NULL, &err);
	if (rc == PGS_OK)
		return CLI_OK;
	return cli_fail_pgs(&err, rc == PGS_ENOTFOUND ? "`pagestore list` shows the databases of the store." : NULL,
		"%s: cannot open the database %s", c->command->name, cli_quote(name).text);
}
