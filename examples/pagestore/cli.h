/* cli.h: what the commands of the tool share
 *
 * A run is one command: main.c finds it in its table, args.c fills in a `cli`,
 * the command's function does the work and returns the exit status.
 */
#ifndef CLI_H
#define CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore.h>

/* Exit statuses. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

enum {
	CLI_OPT_STORE,
	CLI_OPT_JSON,
	CLI_OPT_STATS,
	CLI_OPT_HELP,
	CLI_OPT_VERSION,
	CLI_OPT_PAGE_SIZE,
	CLI_OPT_NOTE,
	CLI_OPT_AT,
	CLI_OPT_TIME,
	CLI_OPT_SNAPSHOT,
	CLI_OPT_MAX,
	CLI_OPT_ALL,
	CLI_OPT_DRY_RUN,
	CLI_OPT_RETENTION,
	CLI_OPT_SCRUB,
	CLI_OPT_COMPACT,
	CLI_OPT_LIVE,
	CLI_OPT_DEEP,
	CLI_OPT_ONCE,
	CLI_OPT_COUNT,
	CLI_OPT_FETCH,
	CLI_OPT_RATE,
	CLI_OPT_CONFIRM,
	CLI_OPTION_COUNT
};

#define CLI_TAKES(option) (1u << (option))

/* What every command takes. */
#define CLI_COMMON_OPTIONS                                                                                             \
	(CLI_TAKES(CLI_OPT_STORE) | CLI_TAKES(CLI_OPT_JSON) | CLI_TAKES(CLI_OPT_STATS) | CLI_TAKES(CLI_OPT_HELP) |     \
		CLI_TAKES(CLI_OPT_VERSION))

#define CLI_OPERANDS_MAX 3

typedef struct cli cli;

typedef struct cli_command {
	const char *name; /* one word, or two: "snapshot list" */
	const char *operands; /* as the help shows them, "" for none; one in brackets may be left out */
	size_t operand_count;
	unsigned options; /* CLI_TAKES() of those it takes beside the common ones */
	int (*run)(cli *c);
	const char *summary;
	const char *details;
} cli_command;

/* One run. Strings are borrowed from argv and the environment. */
struct cli {
	const cli_command *command;
	const char *url;
	bool json;
	const char *values[CLI_OPTION_COUNT]; /* "" for an option without a value, NULL = not given */
	const char *operands[CLI_OPERANDS_MAX];
	size_t operand_count;
	pgs_store *store;
	pgs_db *db;
};

/* What a command does to the store it opens. */
typedef enum cli_access {
	CLI_READ,  /* nothing */
	CLI_WRITE, /* changes what is there */
	CLI_MAKE   /* makes it if it is new */
} cli_access;

/* Open c->url, or say why not. CLI_OK or CLI_FAILED. main() closes the store. */
int cli_open_store(cli *c, cli_access access);

/* The same, and the database that the first operand names. */
int cli_open_db(cli *c, cli_access access);

int cli_create(cli *c);
int cli_list(cli *c);
int cli_drop(cli *c);
int cli_stat(cli *c);
int cli_import(cli *c);
int cli_export(cli *c);
int cli_log(cli *c);
int cli_diff(cli *c);
int cli_verify(cli *c);
int cli_snapshot_create(cli *c);
int cli_snapshot_list(cli *c);
int cli_snapshot_drop(cli *c);
int cli_maintain(cli *c);
int cli_levels(cli *c);
int cli_follow(cli *c);

#endif
