/* follow: keep up with what others commit, and tell how that goes. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "cli.h"
#include "format.h"
#include "interrupt.h"
#include "json.h"
#include "parse.h"
#include "report.h"

enum { HEADER_EVERY = 20 };

/* "12 ms", "3.4 s", "never" */
static cli_short age(uint64_t ms)
{
	cli_short s;
	if (ms == UINT64_MAX)
		snprintf(s.text, sizeof s.text, "never");
	else if (ms < 1000)
		snprintf(s.text, sizeof s.text, "%" PRIu64 " ms", ms);
	else
		snprintf(s.text, sizeof s.text, "%.1f s", (double)ms / 1000);
	return s;
}

static void line_text(const pgs_follow_stat *s, uint64_t number)
{
	if (number % HEADER_EVERY == 0)
		printf("%12s %10s %8s %10s %10s %10s %10s %8s %9s\n", "revision", "confirmed", "behind", "commits", "pages",
			"kept", "fetched", "waiting", "restarts");
	printf("%12" PRIu64 " %10s %8" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %8" PRIu64
	       " %9" PRIu64 "%s%s\n",
		s->revision, age(s->confirmed_ms).text, s->behind, s->commits, s->pages_changed, s->pages_kept,
		s->pages_fetched, s->pages_waiting, s->restarts + s->reconnects, s->error ? "  " : "", s->error ? pgs_error_name(s->error) : "");
}

static void line_json(const char *name, const pgs_follow_stat *s)
{
	json j;
	json_begin(&j);
	json_string(&j, "db", name);
	json_count(&j, "revision", s->revision);
	if (s->confirmed_ms != UINT64_MAX)
		json_count(&j, "confirmed_ms", s->confirmed_ms);
	json_count(&j, "behind", s->behind);
	json_count(&j, "commits", s->commits);
	json_count(&j, "pages_changed", s->pages_changed);
	json_count(&j, "pages_kept", s->pages_kept);
	json_count(&j, "pages_fetched", s->pages_fetched);
	json_count(&j, "pages_waiting", s->pages_waiting);
	json_count(&j, "restarts", s->restarts);
	json_count(&j, "reconnects", s->reconnects);
	if (s->error)
		json_string(&j, "error", pgs_error_name(s->error));
	json_finish(&j);
}

int cli_follow(cli *c)
{
	pgs_follow_stat stat = PGS_FOLLOW_STAT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t lines = UINT64_MAX;
	if (c->values[CLI_OPT_MAX] && !cli_parse_number(c->values[CLI_OPT_MAX], &lines))
		return cli_misused("It is the number of lines: --max 10.", "%s is not a number",
			cli_quote(c->values[CLI_OPT_MAX]).text);
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	if (pgs_follow_start(c->db, NULL, &err) != PGS_OK)
		return cli_fail_pgs(&err, NULL, "cannot follow %s", cli_quote(c->operands[0]).text);
	cli_interrupt_catch();
	for (uint64_t i = 0; i < lines && !cli_interrupted(); i++) {
		sleep(1);
		pgs_follow_stat_get(c->db, &stat, NULL);
		if (c->json)
			line_json(c->operands[0], &stat);
		else
			line_text(&stat, i);
		fflush(stdout);
	}
	return stat.error == PGS_ENOTFOUND ? CLI_FAILED : CLI_OK;
}
