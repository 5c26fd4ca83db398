/* progress.h: a progress bar on stderr
 *
 * Only on a terminal; drawn at most ten times a second, not at all for work that
 * ends within the first third of one; gone when the work is.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cli_progress {
	const char *label;
	uint64_t next_ms; /* monotonic */
	bool enabled;
	bool shown;
} cli_progress;

/* `label` is borrowed until cli_progress_end(). */
void cli_progress_begin(cli_progress *p, const char *label);
void cli_progress_update(cli_progress *p, uint64_t done, uint64_t total);
void cli_progress_end(cli_progress *p);

#endif
