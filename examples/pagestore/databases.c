/* create, list, drop, stat: databases as a whole. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "args.h"
#include "cache.h"
#include "cli.h"
#include "format.h"
#include "json.h"
#include "operations.h"
#include "report.h"

int cli_create(cli *c)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	const char *name = c->operands[0];
	const char *page_size = c->values[CLI_OPT_PAGE_SIZE];
	if (page_size && cli_take_page_size(page_size, &options.page_size_bytes) != CLI_OK)
		return CLI_USAGE;
	if (cli_open_store(c, CLI_MAKE) != CLI_OK)
		return CLI_FAILED;
	int rc = pgs_db_create(&c->db, c->store, name, strlen(name), &options, &err);
	if (rc != PGS_OK)
		return cli_fail_pgs(&err,
			rc == PGS_EEXIST ? "Choose another name, or `pagestore drop DB` the old one first." : NULL,
			"cannot create the database %s", cli_quote(name).text);
	if (!c->json) {
		printf("created %s with pages of %" PRIu32 " bytes\n", cli_quote(name).text, pgs_db_page_size(c->db));
		return CLI_OK;
	}
	json j;
	json_begin(&j);
	json_string(&j, "db", name);
	json_count(&j, "page_size_bytes", pgs_db_page_size(c->db));
	return json_finish(&j);
}

#define PRESSURE_SHOWN 50 /* percent from which on somebody should do maintenance */

static int list_text(void *ctx, const void *name, size_t name_size)
{
	(void)ctx;
	cli_print_text(stdout, name, name_size);
	putchar('\n');
	return 0;
}

static int list_json(void *ctx, const void *name, size_t name_size)
{
	json_text(ctx, NULL, name, name_size);
	return 0;
}

int cli_list(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	json j;
	if (cli_open_store(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	if (!c->json) {
		if (pgs_db_list(c->store, list_text, NULL, &err) != PGS_OK)
			return cli_fail_pgs(&err, NULL, "cannot list the databases of the store");
		return CLI_OK;
	}
	json_begin(&j);
	json_open(&j, "databases", '[');
	if (pgs_db_list(c->store, list_json, &j, &err) != PGS_OK) {
		json_discard(&j);
		return cli_fail_pgs(&err, NULL, "cannot list the databases of the store");
	}
	json_close(&j, ']');
	return json_finish(&j);
}

int cli_drop(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	const char *name = c->operands[0];
	if (cli_open_store(c, CLI_WRITE) != CLI_OK)
		return CLI_FAILED;
	int rc = pgs_db_drop(c->store, name, strlen(name), &err);
	if (rc != PGS_OK)
		return cli_fail_pgs(&err,
			rc == PGS_ENOTFOUND ? "`pagestore list` shows the databases of the store." : NULL,
			"cannot drop the database %s", cli_quote(name).text);
	if (!c->json) {
		printf("dropped %s\n", cli_quote(name).text);
		return CLI_OK;
	}
	json j;
	json_begin(&j);
	json_string(&j, "db", name);
	json_bool(&j, "dropped", true);
	return json_finish(&j);
}

static const char *order_name(uint32_t order)
{
	return order == PGS_ORDER_COUNTER ? "counter" : "revision";
}

static void stat_text(const char *name, const pgs_db_stat *s)
{
	const uint64_t extent_bytes = s->page_count * s->page_size_bytes;
	printf("database             %s\n", cli_quote(name).text);
	printf("created              %s\n", cli_time_local(s->created_ms).text);
	printf("revision             %" PRIu64 ", after %" PRIu64 " commits ordered by %s\n", s->revision,
		s->commit_count, order_name(s->order));
	if (s->floor_revision)
		printf("readable from        revision %" PRIu64 "\n", s->floor_revision);
	else
		printf("readable from        the beginning\n");
	printf("pages                %" PRIu64 " of %" PRIu32 " bytes: %s\n", s->page_count, s->page_size_bytes,
		cli_size(extent_bytes).text);
	printf("page pointers        %" PRIu64 ", and %" PRIu64 " packs not yet folded\n", s->pointer_count,
		s->pack_count);
	printf("contents in the KV   %" PRIu64 "\n", s->kv_content_count);
	printf("sorted files         %" PRIu64 ", %s; %" PRIu64 " of them in level 0\n", s->file_count,
		cli_size(s->file_bytes).text, s->level0_count);
	printf("blobs                %" PRIu64 ", %s; %" PRIu64 " wait to be removed\n", s->blob_count,
		cli_size(s->blob_bytes).text, s->unregistered_count);
	printf("commits in the log   %" PRIu64 "\n", s->changelog_count);
	printf("named snapshots      %" PRIu64 ", and %" PRIu64 " pinned revisions\n", s->snapshot_count, s->pin_count);
	printf("pressure             %" PRIu32 " %% of what makes writers wait for maintenance%s\n", s->pressure_percent,
		s->pressure_percent >= PRESSURE_SHOWN ? ": run `pagestore maintain`" : "");
	if (s->store_kv_bytes && s->store_kv_quota_bytes)
		printf("KV of whole store    %s of %s, history included; %s in use\n", cli_size(s->store_kv_bytes).text,
			cli_size(s->store_kv_quota_bytes).text, cli_size(s->store_kv_used_bytes).text);
	else if (s->store_kv_bytes)
		printf("KV of whole store    %s, history included\n", cli_size(s->store_kv_bytes).text);
	if (s->store_kv_soft_quota_bytes)
		printf("soft quota           %s: page writes are refused beyond, %s is filled\n",
			cli_size(s->store_kv_soft_quota_bytes).text,
			cli_percent(s->store_kv_used_bytes, s->store_kv_soft_quota_bytes).text);
}

static int stat_json(pgs_store *store, const char *name, const pgs_db_stat *s, const pgs_cache_stat *cache)
{
	json j;
	json_begin(&j);
	json_string(&j, "db", name);
	json_number(&j, "created_ms", s->created_ms);
	json_count(&j, "revision", s->revision);
	json_count(&j, "commit_count", s->commit_count);
	json_string(&j, "order", order_name(s->order));
	json_count(&j, "floor_revision", s->floor_revision);
	json_count(&j, "page_size_bytes", s->page_size_bytes);
	json_count(&j, "page_count", s->page_count);
	json_count(&j, "pointer_count", s->pointer_count);
	json_count(&j, "pack_count", s->pack_count);
	json_count(&j, "kv_content_count", s->kv_content_count);
	json_count(&j, "file_count", s->file_count);
	json_count(&j, "file_bytes", s->file_bytes);
	json_count(&j, "blob_count", s->blob_count);
	json_count(&j, "blob_bytes", s->blob_bytes);
	json_count(&j, "changelog_count", s->changelog_count);
	json_count(&j, "store_kv_bytes", s->store_kv_bytes);
	json_count(&j, "store_kv_quota_bytes", s->store_kv_quota_bytes);
	json_count(&j, "store_kv_used_bytes", s->store_kv_used_bytes);
	json_count(&j, "store_kv_soft_quota_bytes", s->store_kv_soft_quota_bytes);
	json_count(&j, "level0_count", s->level0_count);
	json_count(&j, "unregistered_count", s->unregistered_count);
	json_count(&j, "snapshot_count", s->snapshot_count);
	json_count(&j, "pin_count", s->pin_count);
	json_count(&j, "pressure_percent", s->pressure_percent);
	cli_json_cache(&j, cache);
	cli_json_operations(&j, store);
	return json_finish(&j);
}

int cli_stat(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_cache_stat cache = PGS_CACHE_STAT_INIT;
	const char *name = c->operands[0];
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	if (pgs_stat(c->db, &stat, &err) != PGS_OK)
		return cli_fail_pgs(&err, NULL, "cannot take the facts of the database %s", cli_quote(name).text);
	pgs_cache_stat_get(c->db, &cache, NULL); /* one that fails has said so, and is told as none */
	if (c->json)
		return stat_json(c->store, name, &stat, &cache);
	stat_text(name, &stat);
	cli_print_cache(&cache);
	puts("\nasked by this command:");
	cli_print_operations(stdout, c->store);
	return CLI_OK;
}
