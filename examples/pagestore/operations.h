/* operations.h: what the backends were asked during this run */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include <stdio.h>

#include "cli.h"
#include "json.h"

/* A table of the operations that were used. */
void cli_print_operations(FILE *out, pgs_store *store);

/* The same as an array "operations", sizes in bytes and times in microseconds. */
void cli_json_operations(json *j, pgs_store *store);

#endif
