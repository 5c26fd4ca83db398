/* snapshot create, list, drop: versions that are kept under a name. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "format.h"
#include "json.h"
#include "report.h"

static void snapshot_json(json *j, const pgs_snapshot_info *info)
{
	json_text(j, "name", info->name, info->name_size);
	json_count(j, "revision", info->revision);
	json_string(j, "created", cli_time_utc(info->created_ms).text);
	json_number(j, "created_ms", info->created_ms);
	json_count(j, "page_count", info->page_count);
	json_count(j, "pointer_count", info->pointer_count);
	json_count(j, "index_bytes", info->index_bytes);
}

/* --- create --------------------------------------------------------------- */

typedef struct wanted {
	const char *name;
	bool found;
	pgs_snapshot_info info; /* without the name */
} wanted;

static int find_one(void *ctx, const pgs_snapshot_info *info)
{
	wanted *w = ctx;
	if (info->name_size != strlen(w->name) || memcmp(info->name, w->name, info->name_size) != 0)
		return 0;
	w->found = true;
	w->info = *info;
	w->info.name = w->name;
	return 1;
}

static int take_options(const cli *c, pgs_snapshot_options *options)
{
	const char *at = c->values[CLI_OPT_AT], *time = c->values[CLI_OPT_TIME];
	if (at && time)
		return cli_misused(NULL, "snapshot create takes --at or --time, not both");
	if (at && cli_take_revision(at, &options->at_revision) != CLI_OK)
		return CLI_USAGE;
	if (time && cli_take_time(time, &options->at_time_ms) != CLI_OK)
		return CLI_USAGE;
	return cli_take_snapshot(c->operands[1]);
}

static const char *create_hint(int rc)
{
	switch (rc) {
	case PGS_EEXIST:
		return "`pagestore snapshot list DB` shows the snapshots there are, `snapshot drop` removes one.";
	case PGS_ENOTFOUND:
	case PGS_EINVAL:
		return "`pagestore log DB` shows the revisions and times there are.";
	case PGS_EOLDREV:
		return "`pagestore stat DB` shows the oldest revision that can still be read.";
	case PGS_EUNKNOWN:
		return "`pagestore snapshot list DB` shows whether it is there.";
	default:
		return NULL;
	}
}

static int report_created(const cli *c, const pgs_snapshot_info *info)
{
	json j;
	if (!c->json) {
		printf("%s: kept revision %" PRIu64 " as %s, %" PRIu64 " page%s, an index of %s\n",
			cli_quote(c->operands[0]).text, info->revision, cli_quote(c->operands[1]).text, info->page_count,
			info->page_count == 1 ? "" : "s", cli_size(info->index_bytes).text);
		return CLI_OK;
	}
	json_begin(&j);
	json_string(&j, "db", c->operands[0]);
	snapshot_json(&j, info);
	return json_finish(&j);
}

int cli_snapshot_create(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_snapshot_options options = PGS_SNAPSHOT_OPTIONS_INIT;
	wanted w = {.name = c->operands[1]};
	if (take_options(c, &options) != CLI_OK)
		return CLI_USAGE;
	if (cli_open_db(c, CLI_WRITE) != CLI_OK)
		return CLI_FAILED;
	int rc = pgs_snapshot_create(c->db, w.name, strlen(w.name), &options, &err);
	if (rc != PGS_OK)
		return cli_fail_pgs(&err, create_hint(rc), "cannot make the snapshot %s of the database %s",
			cli_quote(w.name).text, cli_quote(c->operands[0]).text);
	rc = pgs_snapshot_list(c->db, find_one, &w, &err);
	if (rc < 0)
		return cli_fail_pgs(&err, NULL, "the snapshot %s was made, but cannot be looked at", cli_quote(w.name).text);
	if (!w.found)
		return cli_fail(NULL, "the snapshot %s was made, and somebody dropped it", cli_quote(w.name).text);
	return report_created(c, &w.info);
}

/* --- list ----------------------------------------------------------------- */

static int list_text(void *ctx, const pgs_snapshot_info *info)
{
	bool *any = ctx;
	if (!*any)
		printf("%10s  %-19s  %10s  %10s  %s\n", "revision", "made", "pages", "index", "name");
	*any = true;
	printf("%10" PRIu64 "  %-19s  %10" PRIu64 "  %10s  ", info->revision, cli_time_local(info->created_ms).text,
		info->page_count, cli_size(info->index_bytes).text);
	cli_print_text(stdout, info->name, info->name_size);
	putchar('\n');
	return ferror(stdout) ? 1 : 0; /* main() says so */
}

static int list_json(void *ctx, const pgs_snapshot_info *info)
{
	json *j = ctx;
	json_open(j, NULL, '{');
	snapshot_json(j, info);
	json_close(j, '}');
	return 0;
}

int cli_snapshot_list(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	bool any = false;
	json j;
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	if (!c->json) {
		if (pgs_snapshot_list(c->db, list_text, &any, &err) < 0)
			return cli_fail_pgs(&err, NULL, "cannot list the snapshots of the database %s",
				cli_quote(c->operands[0]).text);
		if (!any)
			printf("no snapshots\n");
		return CLI_OK;
	}
	json_begin(&j);
	json_string(&j, "db", c->operands[0]);
	json_open(&j, "snapshots", '[');
	if (pgs_snapshot_list(c->db, list_json, &j, &err) != PGS_OK) {
		json_discard(&j);
		return cli_fail_pgs(&err, NULL, "cannot list the snapshots of the database %s",
			cli_quote(c->operands[0]).text);
	}
	json_close(&j, ']');
	return json_finish(&j);
}

/* --- drop ----------------------------------------------------------------- */

int cli_snapshot_drop(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	const char *name = c->operands[1];
	json j;
	if (cli_take_snapshot(name) != CLI_OK)
		return CLI_USAGE;
	if (cli_open_db(c, CLI_WRITE) != CLI_OK)
		return CLI_FAILED;
	int rc = pgs_snapshot_drop(c->db, name, strlen(name), &err);
	if (rc != PGS_OK)
		return cli_fail_pgs(&err,
			rc == PGS_ENOTFOUND || rc == PGS_EUNKNOWN
				? "`pagestore snapshot list DB` shows the snapshots there are."
				: NULL,
			"cannot drop the snapshot %s of the database %s", cli_quote(name).text,
			cli_quote(c->operands[0]).text);
	if (!c->json) {
		printf("dropped %s\n", cli_quote(name).text);
		return CLI_OK;
	}
	json_begin(&j);
	json_string(&j, "db", c->operands[0]);
	json_string(&j, "name", name);
	json_bool(&j, "dropped", true);
	return json_finish(&j);
}
