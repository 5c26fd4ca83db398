/* args.h: the command line */
#ifndef ARGS_H
#define ARGS_H

#include <stdio.h>

#include "cli.h"

/* Sort argv into options and operands, in any order; "--" ends the options.
 * The first operand is left as *command (NULL when there is none), the rest in
 * `c`. Returns CLI_OK, or CLI_USAGE having said why. */
int cli_parse_args(cli *c, int argc, char **argv, const char **command);

/* Whether c's operands and options are those that c->command takes. Returns
 * CLI_OK, or CLI_USAGE having said why. */
int cli_check_args(const cli *c);

/* "  -n, --max N   ..." for each option of the mask. */
void cli_print_options(FILE *out, unsigned options);

/* A database's or a snapshot's name, a page size, a revision, a time from the command line: CLI_OK or CLI_USAGE, having
 * said why. */
int cli_take_name(const char *name);
int cli_take_snapshot(const char *name);
int cli_take_page_size(const char *text, uint32_t *page_size_bytes);
int cli_take_revision(const char *text, uint64_t *revision);
int cli_take_time(const char *text, int64_t *unix_ms);

#endif
