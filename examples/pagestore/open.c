/* Opening the store and the database of a command. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "format.h"
#include "report.h"

int cli_open_store(cli *c, cli_access access)
{
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.read_only = access == CLI_READ;
	options.must_exist = access != CLI_MAKE;
	int rc = pgs_open(&c->store, c->url, &options, &err);
	if (rc == PGS_OK)
		return CLI_OK;
	const char *hint = NULL;
	if (rc == PGS_ENOTFOUND && access != CLI_MAKE)
		hint = "`pagestore -s URL create DB` and `import DB FILE` make a new store.";
	else if (rc == PGS_EINVAL)
		hint = "A URL looks like dir:/var/lib/shop or dir:/var/lib/shop?sync=lazy.";
	else if (rc == PGS_EREADONLY)
		hint = "Look at who may write to the store's directory, and everything in it.";
	return cli_fail_pgs(&err, hint, "%s: cannot open the store", c->command->name);
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
