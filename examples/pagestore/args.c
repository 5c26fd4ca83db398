/* The command line. */
#include "args.h"

#include <string.h>

#include "format.h"
#include "parse.h"
#include "report.h"

typedef struct option {
	const char *name;
	char letter;
	const char *value; /* what the help calls its value, NULL = it has none */
	const char *help;
} option;

static const option options[CLI_OPTION_COUNT] = {
	[CLI_OPT_STORE] = {"store", 's', "URL", "the store, such as dir:/var/lib/shop; also from PAGESTORE_URL"},
	[CLI_OPT_JSON] = {"json", 0, NULL, "print the facts as one JSON object"},
	[CLI_OPT_STATS] = {"stats", 0, NULL, "at the end, show on stderr what the backends were asked, and how long it took"},
	[CLI_OPT_HELP] = {"help", 'h', NULL, "say how to use it"},
	[CLI_OPT_VERSION] = {"version", 0, NULL, "print the version"},
	[CLI_OPT_PAGE_SIZE] = {"page-size", 0, "N", "bytes in a page: a power of two, 512 to 65536 (default 4096)"},
	[CLI_OPT_NOTE] = {"note", 0, "TEXT", "keep TEXT with the commit; log shows it"},
	[CLI_OPT_AT] = {"at", 0, "REV", "as of this revision"},
	[CLI_OPT_TIME] = {"time", 0, "T", "as of this time: Unix seconds or 2026-01-31T12:00:00Z"},
	[CLI_OPT_SNAPSHOT] = {"snapshot", 0, "NAME", "as of this named snapshot"},
	[CLI_OPT_MAX] = {"max", 'n', "N", "no more than the newest N"},
	[CLI_OPT_ALL] = {"all", 0, NULL, "do all that is possible, due or not"},
	[CLI_OPT_DRY_RUN] = {"dry-run", 0, NULL, "only say what is due"},
	[CLI_OPT_RETENTION] = {"retention", 0, "MS", "keep MS milliseconds of history, or none (default 3600000)"},
	[CLI_OPT_SCRUB] = {"scrub", 0, NULL, "prove every content that is merged by its hash"},
	[CLI_OPT_COMPACT] = {"compact", 0, NULL, "compact the KV's history, too: only if the KV is this store's alone"},
	[CLI_OPT_LIVE] = {"live", 0, NULL, "count what is still needed, too: reads every pointer"},
	[CLI_OPT_DEEP] = {"deep", 0, NULL, "also snapshots, all contents of all files, blobs that nothing names"},
	[CLI_OPT_ONCE] = {"once", 0, NULL, "come to the latest commit, print one line, and end"},
	[CLI_OPT_COUNT] = {"count", 0, "N", "end after N lines"},
	[CLI_OPT_FETCH] = {"fetch", 0, "WHICH", "pages to fetch: none, hot (changed and in use: default), all"},
	[CLI_OPT_RATE] = {"rate", 0, "BYTES", "fetch at most so much a second, such as 10M"},
	[CLI_OPT_CONFIRM] = {"confirm", 0, "MS", "ask the KV so often whether anything was missed (default 1000)"},
};

static int find_long(const char *name, size_t size)
{
	for (int i = 0; i < CLI_OPTION_COUNT; i++) {
		if (strlen(options[i].name) == size && memcmp(options[i].name, name, size) == 0)
			return i;
	}
	return -1;
}

static int find_letter(char letter)
{
	for (int i = 0; i < CLI_OPTION_COUNT; i++) {
		if (options[i].letter && options[i].letter == letter)
			return i;
	}
	return -1;
}

/* Store option `which`, whose value is `attached` to it or else the next argument. */
static int take_option(cli *c, int which, const char *attached, char **argv, int argc, int *next)
{
	const char *shown = options[which].name;
	if (!options[which].value) {
		if (attached)
			return cli_misused(NULL, "option --%s takes no value", shown);
		c->values[which] = "";
		return CLI_OK;
	}
	if (!attached) {
		if (*next >= argc)
			return cli_misused(
				NULL, "option --%s needs a value: --%s %s", shown, shown, options[which].value);
		attached = argv[(*next)++];
	}
	c->values[which] = attached;
	return CLI_OK;
}

static int parse_long(cli *c, const char *text, char **argv, int argc, int *next)
{
	const char *equals = strchr(text, '=');
	int which = find_long(text, equals ? (size_t)(equals - text) : strlen(text));
	if (which < 0)
		return cli_misused(NULL, "unknown option %s", cli_quote(text - 2).text);
	return take_option(c, which, equals ? equals + 1 : NULL, argv, argc, next);
}

/* "-n5", "-n 5": no two of the short options make sense together. */
static int parse_short(cli *c, const char *text, char **argv, int argc, int *next)
{
	int which = find_letter(text[0]);
	if (which < 0)
		return cli_misused(NULL, "unknown option %s", cli_quote(text - 1).text);
	return take_option(c, which, text[1] ? text + 1 : NULL, argv, argc, next);
}

static int take_operand(cli *c, const char **command, const char *operand)
{
	if (!*command) {
		*command = operand;
		return CLI_OK;
	}
	if (c->operand_count == CLI_OPERANDS_MAX)
		return cli_misused(NULL, "%s is one operand too many", cli_quote(operand).text);
	c->operands[c->operand_count++] = operand;
	return CLI_OK;
}

int cli_parse_args(cli *c, int argc, char **argv, const char **command)
{
	bool ended = false;
	int rc = CLI_OK;
	*command = NULL;
	for (int next = 1; next < argc && rc == CLI_OK;) {
		const char *arg = argv[next++];
		if (ended || arg[0] != '-' || arg[1] == '\0')
			rc = take_operand(c, command, arg);
		else if (strcmp(arg, "--") == 0)
			ended = true;
		else if (arg[1] == '-')
			rc = parse_long(c, arg + 2, argv, argc, &next);
		else
			rc = parse_short(c, arg + 1, argv, argc, &next);
	}
	c->json = c->values[CLI_OPT_JSON] != NULL;
	return rc;
}

int cli_check_args(const cli *c)
{
	const cli_command *command = c->command;
	size_t needed = command->operand_count - (strchr(command->operands, '[') != NULL);
	for (int i = 0; i < CLI_OPTION_COUNT; i++) {
		if (c->values[i] && !((CLI_COMMON_OPTIONS | command->options) & CLI_TAKES(i)))
			return cli_misused(NULL, "%s takes no option --%s", command->name, options[i].name);
	}
	if (c->operand_count > command->operand_count)
		return cli_misused(NULL, "%s: %s is one operand too many; usage: pagestore %s%s%s", command->name,
			cli_quote(c->operands[command->operand_count]).text, command->name,
			command->operands[0] ? " " : "", command->operands);
	if (c->operand_count < needed)
		return cli_misused(NULL, "%s needs %zu operand%s, got %zu; usage: pagestore %s %s", command->name,
			needed, needed == 1 ? "" : "s", c->operand_count, command->name, command->operands);
	return CLI_OK;
}

void cli_print_options(FILE *out, unsigned mask)
{
	for (int i = 0; i < CLI_OPTION_COUNT; i++) {
		char text[32];
		const option *o = &options[i];
		if (!(mask & CLI_TAKES(i)))
			continue;
		snprintf(text, sizeof(text), "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
		if (o->letter)
			fprintf(out, "  -%c, %-15s  %s\n", o->letter, text, o->help);
		else
			fprintf(out, "      %-15s  %s\n", text, o->help);
	}
}

int cli_take_name(const char *name)
{
	size_t size = strlen(name);
	if (size == 0 || size > PGS_DB_NAME_MAX)
		return cli_misused(NULL, "%s cannot be a database's name: it has %zu bytes, names have 1 to %d",
			cli_quote(name).text, size, PGS_DB_NAME_MAX);
	return CLI_OK;
}

int cli_take_snapshot(const char *name)
{
	size_t size = strlen(name);
	if (size == 0 || size > PGS_SNAPSHOT_NAME_MAX)
		return cli_misused(NULL, "%s cannot be a snapshot's name: it has %zu bytes, names have 1 to %d",
			cli_quote(name).text, size, PGS_SNAPSHOT_NAME_MAX);
	return CLI_OK;
}

int cli_take_page_size(const char *text, uint32_t *page_size_bytes)
{
	if (cli_parse_page_size(text, page_size_bytes))
		return CLI_OK;
	return cli_misused("It is a power of two from 512 to 65536, such as --page-size 4096.", "%s is not a page size",
		cli_quote(text).text);
}

int cli_take_revision(const char *text, uint64_t *revision)
{
	if (cli_parse_number(text, revision) && *revision > 0)
		return CLI_OK;
	return cli_misused("It is a number from 1 on; `pagestore log DB` shows those there are.",
		"%s is not a revision", cli_quote(text).text);
}

int cli_take_time(const char *text, int64_t *unix_ms)
{
	if (!cli_parse_time(text, unix_ms))
		return cli_misused("It is Unix seconds, or such as \"2026-01-31\" or \"2026-01-31T12:00:00Z\".",
			"%s is not a time", cli_quote(text).text);
	if (*unix_ms <= 0)
		*unix_ms = 1; /* 0 would mean "unused" */
	return CLI_OK;
}
