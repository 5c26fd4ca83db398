/* levels: a picture of the sorted files. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "format.h"
#include "json.h"
#include "report.h"

enum { LEVELS_MAX = 256, BAR_WIDTH = 48 };

typedef struct level {
	uint64_t files, bytes, contents, live_contents, live_bytes;
	uint32_t columns[BAR_WIDTH]; /* files that cover some of each */
} level;

typedef struct picture {
	pgs_file_info *files; /* their names are not kept */
	size_t count, capacity;
	json *json; /* NULL = text */
	bool live, failed;
} picture;

static int add_file(void *ctx, const pgs_file_info *info)
{
	picture *p = ctx;
	if (p->count == p->capacity) {
		size_t capacity = p->capacity ? 2 * p->capacity : 64;
		pgs_file_info *files = realloc(p->files, capacity * sizeof *files);
		p->failed = !files;
		if (!files)
			return 1;
		p->files = files;
		p->capacity = capacity;
	}
	p->files[p->count] = *info;
	p->files[p->count++].name = NULL;
	return 0;
}

static int add_json(void *ctx, const pgs_file_info *info)
{
	const picture *p = ctx;
	json *j = p->json;
	json_open(j, NULL, '{');
	json_count(j, "level", info->level);
	json_string(j, "name", info->name);
	json_count(j, "registered", info->registered);
	json_count(j, "size_bytes", info->size_bytes);
	json_count(j, "content_count", info->content_count);
	json_count(j, "first_group", info->first_group);
	json_count(j, "last_group", info->last_group);
	if (p->live) {
		json_count(j, "live_count", info->live_count);
		json_count(j, "live_bytes", info->live_bytes);
	}
	json_close(j, '}');
	return 0;
}

/* `groups`: how many the bar stands for. */
static void add_to_level(level *l, const pgs_file_info *info, uint64_t groups)
{
	l->files++;
	l->bytes += info->size_bytes;
	l->contents += info->content_count;
	l->live_contents += info->live_count;
	l->live_bytes += info->live_bytes;
	uint64_t first = (uint64_t)info->first_group * BAR_WIDTH / groups;
	uint64_t last = (((uint64_t)info->last_group + 1) * BAR_WIDTH - 1) / groups;
	for (uint64_t i = first; i <= last; i++)
		l->columns[i]++;
}

static void print_level(int number, const level *l, bool live)
{
	char bar[BAR_WIDTH + 1] = "";
	for (int i = 0; i < BAR_WIDTH; i++)
		bar[i] = (char)(l->columns[i] == 0 ? '.' : l->columns[i] > 9 ? '+' : '0' + (int)l->columns[i]);
	printf("%5d %6" PRIu64 " %10s %10" PRIu64, number, l->files, cli_size(l->bytes).text, l->contents);
	if (live)
		printf(" %7s", cli_percent(l->live_contents, l->contents).text);
	printf("  |%s|\n", bar);
}

static int print_picture(const picture *p)
{
	level *levels = calloc(LEVELS_MAX, sizeof *levels);
	uint64_t groups = 1, live_bytes = 0, bytes = 0;
	if (!levels)
		return cli_fail(NULL, "out of memory");
	for (size_t i = 0; i < p->count; i++)
		if (p->files[i].last_group >= groups)
			groups = (uint64_t)p->files[i].last_group + 1;
	for (size_t i = 0; i < p->count; i++) {
		add_to_level(&levels[p->files[i].level], &p->files[i], groups);
		bytes += p->files[i].size_bytes;
		live_bytes += p->files[i].live_bytes;
	}
	printf("level  files       size   contents%s  pages up to %s\n", p->live ? "    live" : "",
		cli_size(groups << 20).text);
	for (int i = 0; i < LEVELS_MAX; i++)
		if (levels[i].files)
			print_level(i, &levels[i], p->live);
	if (p->live)
		printf("%s of %s in sorted files are live\n", cli_size(live_bytes).text, cli_size(bytes).text);
	free(levels);
	return CLI_OK;
}

int cli_levels(cli *c)
{
	pgs_error err = PGS_ERROR_INIT;
	picture p = {.live = c->values[CLI_OPT_LIVE] != NULL};
	json j;
	const char *name = c->operands[0];
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	if (c->json) {
		p.json = &j;
		json_begin(&j);
		json_string(&j, "db", name);
		json_open(&j, "files", '[');
	}
	int rc = pgs_levels(c->db, p.live, c->json ? add_json : add_file, &p, &err);
	int status = CLI_OK;
	if (rc != PGS_OK) {
		if (c->json)
			json_discard(&j);
		status = p.failed ? cli_fail(NULL, "out of memory")
				  : cli_fail_pgs(&err, NULL, "cannot show the levels of the database %s", cli_quote(name).text);
	} else if (c->json) {
		json_close(&j, ']');
		status = json_finish(&j);
	} else if (p.count == 0) {
		printf("no sorted files: all contents are in the KV\n");
	} else {
		status = print_picture(&p);
	}
	free(p.files);
	return status;
}
