/* pagestore: the command-line tool
 *
 *     pagestore [-s URL] COMMAND ...
 *
 * Exit status: 0 done, 1 failed, 2 wrong usage; an interrupted import or export
 * dies of its signal after cleaning up. Facts go to stdout, as text or (--json)
 * as one JSON object; errors, warnings and progress bars go to stderr.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"
#include "format.h"
#include "interrupt.h"
#include "operations.h"
#include "report.h"

static const cli_command commands[] = {
	{"create", "DB", 1, CLI_TAKES(CLI_OPT_PAGE_SIZE), cli_create, "make an empty database",
		"Makes the database DB, and the store itself if it is new. The page size cannot be\n"
		"changed later.\n"},
	{"list", "", 0, 0, cli_list, "show the databases", "Prints the names of the store's databases, one a line.\n"},
	{"drop", "DB", 1, 0, cli_drop, "remove a database and its history",
		"Removes DB with every revision of it. There is no way back.\n"},
	{"import", "DB FILE", 2, CLI_TAKES(CLI_OPT_PAGE_SIZE) | CLI_TAKES(CLI_OPT_NOTE), cli_import,
		"commit a file as the newest version",
		"Makes DB hold exactly what FILE holds, as one commit of the pages that changed. DB is\n"
		"made if it is absent; its page size is then that of the SQLite database in FILE, else\n"
		"--page-size. A last page that FILE fills in part is filled with zeros; the exact size\n"
		"is kept in the attribute \"size\". FILE may be - for stdin.\n"
		"\n"
		"FILE must not change meanwhile. Of an SQLite database in WAL mode only what has been\n"
		"checkpointed is in FILE: PRAGMA wal_checkpoint(TRUNCATE) first.\n"},
	{"export", "DB FILE", 2, CLI_TAKES(CLI_OPT_AT) | CLI_TAKES(CLI_OPT_TIME) | CLI_TAKES(CLI_OPT_SNAPSHOT),
		cli_export, "write a version to a file",
		"Writes the newest version, or that of --at, --time or --snapshot, to FILE, which is\n"
		"replaced once all of it is written. FILE may be - for stdout, then without --json.\n"
		"\n"
		"--time T takes the last commit at or before T, by the committers' clocks. T is Unix\n"
		"seconds, or \"2026-01-31\", \"2026-01-31 12:00\", \"2026-01-31T12:00:00Z\",\n"
		"\"2026-01-31T12:00:00+01:00\": local time unless it says otherwise, and to the end of\n"
		"the second, minute or day it names.\n"},
	{"log", "DB", 1, CLI_TAKES(CLI_OPT_MAX), cli_log, "show the commits, newest first",
		"For each commit: its revision and time, the pages it changed, the bytes it put into\n"
		"the KV and into the blob store, and its note.\n"
		"JSON: {\"db\", \"commits\": [{\"revision\", \"time\", ...}, ...]}.\n"},
	{"diff", "DB REV REV", 3, 0, cli_diff, "show the pages that differ between two revisions",
		"Prints the numbers of the pages whose contents differ, as ranges, and how many. REV is\n"
		"a revision, or @NAME for a named snapshot.\n"
		"JSON: \"ranges\" is an array of [first, last].\n"},
	{"stat", "DB", 1, 0, cli_stat, "show facts about a database",
		"Sizes and counts of what is stored for DB, and what this command itself asked of the\n"
		"backends: requests, those that failed, and those that repeat a failed one; bytes of\n"
		"their bodies; latencies, p50 and p99 up to 12.5 % above the true ones. With --stats,\n"
		"other commands show the same of theirs.\n"
		"\n"
		"With cache=PATH in the store's URL also what is in the machine's cache file, and what its\n"
		"processes made of it since it was made; and DB's mirror there: to which revision it has\n"
		"come, and which process keeps it. How a follower fares is known to itself: see follow.\n"
		"JSON: sizes are in bytes, times in Unix ms, those of \"operations\" in microseconds; \"cache\"\n"
		"is null without a cache file.\n"},
	{"verify", "DB", 1, CLI_TAKES(CLI_OPT_DEEP), cli_verify, "re-hash every content of every retained revision",
		"Reads what the retained versions of DB need and checks it. What is wrong is printed on\n"
		"stderr, each finding with what to do about it, and makes the exit status 1.\n"
		"\n"
		"--deep reads all there is: named snapshots, each content of each sorted file, whether it\n"
		"is needed or not, filters and levels, and which blobs there are. Notes, say of blobs that\n"
		"a killed process left behind, are no damage and go to stdout. Others may read and write\n"
		"meanwhile.\n"
		"JSON: \"findings\" and \"notes\" are arrays of objects with \"message\" and \"hint\".\n"},
	{"snapshot create", "DB NAME", 2, CLI_TAKES(CLI_OPT_AT) | CLI_TAKES(CLI_OPT_TIME), cli_snapshot_create,
		"keep a version under a name",
		"Keeps the newest version, or that of --at or --time, under NAME until the snapshot is\n"
		"dropped, however short the history is. Writes an index of its pages.\n"
		"--time T is as in export.\n"},
	{"snapshot list", "DB", 1, 0, cli_snapshot_list, "show the named snapshots",
		"For each snapshot, in the order of their names: the revision it shows, when it was\n"
		"made, its pages and the size of its index.\n"
		"JSON: {\"db\", \"snapshots\": [{\"name\", \"revision\", ...}, ...]}.\n"},
	{"snapshot drop", "DB NAME", 2, 0, cli_snapshot_drop, "forget a named snapshot",
		"Removes the snapshot. What only it needed goes with later maintenance.\n"},
	{"maintain", "[DB]", 1,
		CLI_TAKES(CLI_OPT_ALL) | CLI_TAKES(CLI_OPT_DRY_RUN) | CLI_TAKES(CLI_OPT_RETENTION) |
			CLI_TAKES(CLI_OPT_SCRUB) | CLI_TAKES(CLI_OPT_COMPACT),
		cli_maintain, "compact, and remove what is no longer needed",
		"Does what is due: moves contents from the KV into sorted files, merges those, forgets\n"
		"history older than the retention, and removes what nothing refers to. Without DB it does\n"
		"so for every database of the store, and removes the rest of dropped ones.\n"
		"\n"
		"Others may read and write meanwhile. Interrupted, it loses nothing; run it again.\n"
		"--all --retention none leaves the newest version and named snapshots, in the least room.\n"
		"An etcd is not compacted, as others may use it; --compact says that this store owns it.\n"
		"JSON: what was done, and under \"due_...\" what is still to do.\n"},
	{"levels", "DB", 1, CLI_TAKES(CLI_OPT_LIVE), cli_levels, "show the levels of sorted files",
		"A line for each level: its files, their size and contents, and which part of the pages\n"
		"they cover: \".\" no file, \"1\" ... \"9\" so many, \"+\" more. A read may have to look into\n"
		"each file that stands in its column. --live adds how much of it is still needed.\n"
		"JSON: {\"db\", \"files\": [{\"level\", \"name\", ...}, ...]}.\n"},
	{"follow", "DB", 1,
		CLI_TAKES(CLI_OPT_ONCE) | CLI_TAKES(CLI_OPT_COUNT) | CLI_TAKES(CLI_OPT_FETCH) | CLI_TAKES(CLI_OPT_RATE) |
			CLI_TAKES(CLI_OPT_CONFIRM),
		cli_follow, "keep up with what others commit",
		"Follows DB until SIGINT or SIGTERM, and tells once a second how that goes, then in the end\n"
		"what came of it. With cache=PATH in the store's URL it keeps the machine's copy of DB up to\n"
		"date for all its processes: of those that follow one does, and another takes over when it\n"
		"ends. Without, it only shows what is committed.\n"
		"\n"
		"  revision  of the last commit applied\n"
		"  behind    commits known of, and not yet applied\n"
		"  lag       what is applied was the latest so long ago, or later\n"
		"  commits   applied so far\n"
		"  queue     pages and sorted files that wait to be fetched\n"
		"  fetched   bytes received for what was fetched so far\n"
		"  wasted    of that, bytes of pages that went, or were changed, before anybody read them\n"
		"  hits, misses  pages that processes of this machine found in the cache file, or did not\n"
		"\n"
		"--fetch all fills the cache file with all of DB; --confirm 50 lets others begin with a bound\n"
		"of 100 ms without asking the KV. Errors are tried again, and told on stderr.\n"
		"JSON: an object a line, \"ended\" in the last; \"cache\" as that of stat.\n"},
};

enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static void print_summary(FILE *out, const char *name, const char *operands, const char *summary)
{
	int size = fprintf(out, "  %s %s", name, operands);
	fprintf(out, "%*s%s\n", size < 27 ? 27 - size : 1, "", summary);
}

static void print_usage(FILE *out)
{
	fputs("usage: pagestore [-s URL] COMMAND ...\n\n", out);
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		print_summary(out, commands[i].name, commands[i].operands, commands[i].summary);
	print_summary(out, "help", "[COMMAND]", "say more about a command");
	fputc('\n', out);
	cli_print_options(out, CLI_COMMON_OPTIONS);
	fputs("\nOptions may stand anywhere; -- ends them. Exit status: 0 done, 1 failed, 2 wrong usage.\n"
	      "For example: pagestore -s dir:/tmp/store import mydb file.db --note 'first version'\n",
		out);
}

static void print_command_help(const cli_command *command)
{
	printf("usage: pagestore [-s URL] %s%s%s%s\n\n%s", command->name, command->operands[0] ? " " : "",
		command->operands, command->options ? " [OPTION ...]" : "", command->details);
	fputc('\n', stdout);
	cli_print_options(stdout, command->options | CLI_COMMON_OPTIONS);
}

/* What is left of a command's name when `word` is its first; NULL if it is not. */
static const char *after_word(const cli_command *command, const char *word)
{
	size_t size = strlen(word);
	if (strncmp(command->name, word, size) != 0)
		return NULL;
	return command->name[size] == '\0' ? "" : command->name[size] == ' ' ? command->name + size + 1 : NULL;
}

/* The command `word`, or `word second` where it has two; *group: `word` is the first of several commands. */
static const cli_command *find_command(const char *word, const char *second, bool *group)
{
	*group = false;
	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		const char *rest = after_word(&commands[i], word);
		if (rest && (!*rest || (second && strcmp(rest, second) == 0)))
			return &commands[i];
		*group |= rest != NULL;
	}
	return NULL;
}

static int unknown_command(const char *name)
{
	return cli_misused(NULL, "unknown command %s", cli_quote(name).text);
}

/* "snapshot" alone, or with a word that is none of its commands. */
static int unknown_in_group(const char *word, const char *second)
{
	if (second)
		return cli_misused(NULL, "unknown command %s of %s", cli_quote(second).text, word);
	return cli_misused(NULL, "%s needs to be told what to do", word);
}

/* help, help COMMAND, COMMAND --help, --help, --version: what opens no store. */
static int help(const char *name, const char *second)
{
	bool group = false;
	const cli_command *command = name ? find_command(name, second, &group) : NULL;
	if (command)
		print_command_help(command);
	else if (group && second)
		return unknown_in_group(name, second);
	else if (name && !group && strcmp(name, "help") != 0)
		return unknown_command(name);
	else if (!group)
		print_usage(stdout);
	for (size_t i = 0; group && !command && i < COMMAND_COUNT; i++) {
		if (!after_word(&commands[i], name))
			continue;
		print_command_help(&commands[i]);
		fputc('\n', stdout);
	}
	return CLI_OK;
}

/* Find the command, and leave its own operands in `c`. */
static int take_command(cli *c, const char *name)
{
	bool group;
	const char *second = c->operand_count ? c->operands[0] : NULL;
	c->command = find_command(name, second, &group);
	if (!c->command)
		return group ? unknown_in_group(name, second) : unknown_command(name);
	if (!strchr(c->command->name, ' '))
		return CLI_OK;
	c->operand_count--;
	memmove(c->operands, c->operands + 1, c->operand_count * sizeof c->operands[0]);
	return CLI_OK;
}

static const char *choose_url(const cli *c)
{
	const char *url = c->values[CLI_OPT_STORE];
	if (!url)
		url = getenv("PAGESTORE_URL");
	return url && url[0] ? url : NULL;
}

static int run(cli *c, const char *name)
{
	if (strcmp(name, "help") == 0)
		return help(c->operand_count ? c->operands[0] : NULL, c->operand_count > 1 ? c->operands[1] : NULL);
	if (c->values[CLI_OPT_HELP])
		return help(name, c->operand_count ? c->operands[0] : NULL);
	if (take_command(c, name) != CLI_OK)
		return CLI_USAGE;
	if (cli_check_args(c) != CLI_OK)
		return CLI_USAGE;
	if (c->operand_count && cli_take_name(c->operands[0]) != CLI_OK)
		return CLI_USAGE;
	c->url = choose_url(c);
	if (!c->url)
		return cli_misused("Name it with -s URL or in PAGESTORE_URL: pagestore -s dir:/var/lib/shop list",
			"%s: which store?", name);
	int status = c->command->run(c);
	if (c->store && c->values[CLI_OPT_STATS])
		cli_print_operations(stderr, c->store);
	pgs_db_close(c->db);
	pgs_close(c->store);
	return status;
}

int main(int argc, char **argv)
{
	cli c = {0};
	const char *name;
	int status = cli_parse_args(&c, argc, argv, &name);
	if (status == CLI_OK) {
		if (c.values[CLI_OPT_VERSION]) {
			printf("pagestore %s\n", pgs_version());
		} else if (name) {
			status = run(&c, name);
		} else if (c.values[CLI_OPT_HELP]) {
			print_usage(stdout);
		} else {
			print_usage(stderr);
			status = CLI_USAGE;
		}
	}
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == CLI_OK)
		status = cli_fail(
			"Look at what stdout is connected to: a full disk?", "cannot write the result to stdout");
	if (status != CLI_OK)
		cli_interrupt_raise();
	return status;
}
