/* A progress bar on stderr. */
#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_MS = 300, INTERVAL_MS = 100, WIDTH = 30 };

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void cli_progress_begin(cli_progress *p, const char *label)
{
	const char *term = getenv("TERM");
	p->label = label;
	p->shown = false;
	p->enabled = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
	p->next_ms = now_ms() + FIRST_MS;
}

void cli_progress_update(cli_progress *p, uint64_t done, uint64_t total)
{
	static const char bar[] = "##############################";
	static const char rest[] = "..............................";
	_Static_assert(sizeof(bar) == WIDTH + 1 && sizeof(rest) == WIDTH + 1, "the bar is as wide as it says");
	if (!p->enabled || now_ms() < p->next_ms)
		return;
	double part = total && done < total ? (double)done / (double)total : 1;
	int filled = (int)(part * WIDTH);
	fprintf(stderr, "\r%s [%.*s%.*s] %3d %%\033[K", p->label, filled, bar, WIDTH - filled, rest, (int)(part * 100));
	fflush(stderr);
	p->shown = true;
	p->next_ms = now_ms() + INTERVAL_MS;
}

void cli_progress_end(cli_progress *p)
{
	if (p->shown)
		fputs("\r\033[K", stderr);
	p->shown = false;
	p->enabled = false;
}
