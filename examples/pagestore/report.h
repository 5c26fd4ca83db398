/* report.h: what the tool says on stderr
 *
 * An error names what was tried, on what, and on a second line what to do.
 */
#ifndef REPORT_H
#define REPORT_H

#include <pagestore.h>

/* "pagestore: FORMAT" and, unless `hint` is NULL, the hint. Returns CLI_FAILED. */
int cli_fail(const char *hint, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for a result of the library: adds its message, and its own advice
 * when `hint` is NULL. Returns CLI_FAILED. */
int cli_fail_pgs(const pgs_error *err, const char *hint, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same for a wrong command line: points at the help. Returns CLI_USAGE. */
int cli_misused(const char *hint, const char *format, ...) __attribute__((format(printf, 2, 3)));

void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
