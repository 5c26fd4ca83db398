/* follow: keep up with what others commit, keep the machine's cache file up to date, and tell how that goes.
 *
 * A line a second: on a terminal it is written over the last one, elsewhere each is a line of its own. What is news (who
 * keeps the mirror) has a line of its own everywhere.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cache.h"
#include "cli.h"
#include "format.h"
#include "interrupt.h"
#include "json.h"
#include "parse.h"
#include "report.h"

enum { HEADER_EVERY = 20, WIDTH = 79, TICK_MS = 1000, ONCE_TICK_MS = 20, ONCE_QUIET_MS = 300, ONCE_MAX_MS = 30000 };

typedef struct follow {
	cli *c;
	uint64_t lines;        /* to be shown */
	bool once;
	bool live;             /* a terminal, on which a line can be written over */
	uint64_t began_ms;
	pgs_follow_stat stat;
	pgs_cache_stat cache, cache_before; /* now, and when it began */
	int64_t keeper;        /* the one that was told of */
	bool loading;          /* and whether it was then */
} follow;

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Until then, or a signal. */
static void sleep_until(uint64_t ms)
{
	const struct timespec until = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* Whether a line fits the terminal, if that is what stdout is. */
static bool can_write_over(void)
{
	const char *term = getenv("TERM");
	struct winsize size;
	return isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0 &&
	       ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > WIDTH;
}

static void take_numbers(follow *f)
{
	pgs_follow_stat_get(f->c->db, &f->stat, NULL);
	pgs_cache_stat_get(f->c->db, &f->cache, NULL);
}

/* What waits to be fetched: pages, and files. */
static uint64_t queued(const pgs_follow_stat *s)
{
	uint64_t count = 0;
	for (unsigned i = 0; i < PGS_FETCH_QUEUES; i++)
		count += s->queued[i];
	return count;
}

/* --- text ------------------------------------------------------------------ */

static void header(void)
{
	printf("%10s %6s %7s %8s %6s %9s %9s %8s %8s\n", "revision", "behind", "lag", "commits", "queue", "fetched",
		"wasted", "hits", "misses");
}

static void line_text(const follow *f, uint64_t number)
{
	const pgs_follow_stat *s = &f->stat;
	if (f->live ? number == 0 : number % HEADER_EVERY == 0)
		header();
	printf("%s%10" PRIu64 " %6" PRIu64 " %7s %8" PRIu64 " %6" PRIu64 " %9s %9s", f->live ? "\r" : "", s->revision,
		s->behind, cli_age(s->confirmed_ms).text, s->commits, queued(s), cli_size(s->bytes_fetched).text,
		cli_size(s->bytes_wasted).text);
	if (f->cache.usable)
		printf(" %8" PRIu64 " %8" PRIu64, f->cache.all_hits - f->cache_before.all_hits,
			f->cache.all_misses - f->cache_before.all_misses);
	else
		printf(" %8s %8s", "-", "-");
	fputs(f->live ? "\033[K" : "\n", stdout);
}

/* A line that stays. */
static void news(const follow *f, const char *text)
{
	printf("%s%s\n", f->live ? "\r\033[K" : "", text);
}

static void tell_keeper(follow *f)
{
	char text[200];
	bool loading = f->cache.mirror_revision == 0;
	if (!f->cache.usable || (f->keeper == f->cache.keeper_pid && f->loading == loading))
		return;
	f->keeper = f->cache.keeper_pid;
	f->loading = loading;
	if (f->keeper == (int64_t)getpid())
		snprintf(text, sizeof text, "this process (%" PRId64 ") keeps the cache's mirror%s", f->keeper,
			loading ? ", and is loading it" : "");
	else if (f->keeper)
		snprintf(text, sizeof text, "process %" PRId64 " keeps the cache's mirror; this one takes over when it ends",
			f->keeper);
	else
		snprintf(text, sizeof text, "no process keeps the cache's mirror: others read through to the store");
	news(f, text);
}

static void tell_cache(const follow *f)
{
	printf("following %s", cli_quote(f->c->operands[0]).text);
	if (f->cache.usable)
		printf(", cache file %s of %s, %" PRIu64 " pages\n", cli_size(f->cache.used_bytes).text,
			cli_size(f->cache.limit_bytes).text, f->cache.page_count);
	else
		puts(" without a cache file: this shows what is committed, and serves nobody else.\n"
		     "With cache=PATH in the store's URL it keeps a copy for all processes of this machine.");
}

static void summary_text(const follow *f)
{
	const pgs_follow_stat *s = &f->stat;
	printf("%sfollowed for %s, to revision %" PRIu64 ", %" PRIu64 " commits behind\n", f->live ? "\n" : "",
		cli_age(now_ms() - f->began_ms).text, s->revision, s->behind);
	printf("applied %" PRIu64 " commits of %" PRIu64 " pages, of which %" PRIu64 " were kept up to date without asking\n",
		s->commits, s->pages_changed, s->pages_kept);
	printf("fetched %" PRIu64 " pages, %" PRIu64 " files: %s in %" PRIu64 " requests; used since %" PRIu64 " (%s), wasted %" PRIu64
	       " (%s)\n",
		s->pages_fetched, s->files_fetched, cli_size(s->bytes_fetched).text, s->fetch_requests, s->pages_used,
		cli_size(s->bytes_used).text, s->pages_wasted, cli_size(s->bytes_wasted).text);
	if (s->restarts || s->reconnects)
		printf("began anew %" PRIu64 " times, as history was gone; the watch failed %" PRIu64 " times\n", s->restarts,
			s->reconnects);
}

/* --- JSON ------------------------------------------------------------------ */

static int line_json(const follow *f, bool ended)
{
	const pgs_follow_stat *s = &f->stat;
	json j;
	json_begin(&j);
	json_string(&j, "db", f->c->operands[0]);
	json_count(&j, "revision", s->revision);
	json_count(&j, "behind", s->behind);
	if (s->confirmed_ms == UINT64_MAX)
		json_null(&j, "confirmed_ms");
	else
		json_count(&j, "confirmed_ms", s->confirmed_ms);
	json_count(&j, "commits", s->commits);
	json_count(&j, "pages_changed", s->pages_changed);
	json_count(&j, "pages_kept", s->pages_kept);
	json_count(&j, "pages_fetched", s->pages_fetched);
	json_count(&j, "bytes_fetched", s->bytes_fetched);
	json_count(&j, "files_fetched", s->files_fetched);
	json_count(&j, "fetch_requests", s->fetch_requests);
	json_open(&j, "queued", '{');
	json_count(&j, "commits", s->queued[PGS_FETCH_QUEUE_COMMITS]);
	json_count(&j, "files", s->queued[PGS_FETCH_QUEUE_FILES]);
	json_count(&j, "hot", s->queued[PGS_FETCH_QUEUE_HOT]);
	json_count(&j, "fill", s->queued[PGS_FETCH_QUEUE_FILL]);
	json_close(&j, '}');
	json_count(&j, "queue_dropped", s->queue_dropped);
	json_count(&j, "pages_used", s->pages_used);
	json_count(&j, "bytes_used", s->bytes_used);
	json_count(&j, "pages_wasted", s->pages_wasted);
	json_count(&j, "bytes_wasted", s->bytes_wasted);
	json_count(&j, "restarts", s->restarts);
	json_count(&j, "reconnects", s->reconnects);
	if (s->error)
		json_string(&j, "error", pgs_error_name(s->error));
	cli_json_cache(&j, &f->cache);
	json_bool(&j, "keeps_mirror", f->cache.usable && f->cache.keeper_pid == (int64_t)getpid());
	json_bool(&j, "ended", ended);
	return json_finish(&j);
}

/* --- the command ------------------------------------------------------------- */

static int take_fetch(const char *text, uint32_t *fetch)
{
	static const char *const names[] = {[PGS_FETCH_NONE] = "none", [PGS_FETCH_HOT] = "hot", [PGS_FETCH_ALL] = "all"};
	for (uint32_t i = PGS_FETCH_NONE; text && i <= PGS_FETCH_ALL; i++)
		if (strcmp(text, names[i]) == 0)
			*fetch = i;
	if (!text || *fetch)
		return CLI_OK;
	return cli_misused("It is none, hot or all.", "--fetch %s is not known", cli_quote(text).text);
}

static int take_options(follow *f, pgs_follow_options *o)
{
	const char *const *values = f->c->values;
	const char *count = values[CLI_OPT_COUNT], *rate = values[CLI_OPT_RATE], *confirm = values[CLI_OPT_CONFIRM];
	uint64_t confirm_ms = 0;
	f->once = values[CLI_OPT_ONCE] != NULL;
	f->lines = f->once ? 1 : UINT64_MAX;
	if (count && (f->once || !cli_parse_number(count, &f->lines) || f->lines == 0))
		return cli_misused("It is the number of lines from 1 on, such as --count 10, and not beside --once.",
			"--count %s is not possible", cli_quote(count).text);
	if (rate && (!cli_parse_bytes(rate, &o->fetch_bytes_per_s) || o->fetch_bytes_per_s == 0))
		return cli_misused("It is bytes a second, with K, M or G behind it, such as --rate 10M.",
			"--rate %s is not possible", cli_quote(rate).text);
	if (confirm && (!cli_parse_number(confirm, &confirm_ms) || confirm_ms == 0 || confirm_ms > UINT32_MAX))
		return cli_misused("It is milliseconds from 1 on, such as --confirm 50.", "--confirm %s is not possible",
			cli_quote(confirm).text);
	o->confirm_ms = (uint32_t)confirm_ms;
	return take_fetch(values[CLI_OPT_FETCH], &o->fetch);
}

/* All that was committed when it began is here, and what was to be fetched of it. */
static bool caught_up(const follow *f)
{
	bool keeps = f->cache.usable && f->cache.keeper_pid == (int64_t)getpid();
	return f->stat.confirmed_ms != UINT64_MAX && f->stat.behind == 0 && queued(&f->stat) == 0 &&
	       (!keeps || f->cache.mirror_revision);
}

/* A number that changes while it comes further. */
static uint64_t progress(const follow *f)
{
	return f->stat.commits + f->stat.bytes_fetched + f->stat.pages_fetched + f->cache.mirror_keys;
}

/* What it will fetch it may only find out after a moment: so that there is nothing to do has to last for one. */
static int catch_up(follow *f)
{
	uint64_t last = UINT64_MAX, moved_ms = 0;
	for (; !cli_interrupted(); take_numbers(f)) {
		moved_ms = progress(f) == last ? moved_ms : now_ms();
		last = progress(f);
		if (caught_up(f) && now_ms() > moved_ms + ONCE_QUIET_MS)
			break;
		if (now_ms() > moved_ms + ONCE_MAX_MS)
			return cli_fail("Is the store's KV reachable? Without --once it goes on trying.",
				"%s: no progress for %d s: %" PRIu64 " commits behind, %" PRIu64 " to fetch, last result %s",
				cli_quote(f->c->operands[0]).text, ONCE_MAX_MS / 1000, f->stat.behind,
				queued(&f->stat), pgs_error_name(f->stat.error));
		sleep_until(now_ms() + ONCE_TICK_MS);
	}
	return CLI_OK;
}

static int show_lines(follow *f)
{
	for (uint64_t i = 0; i < f->lines && !cli_interrupted(); i++) {
		int status = CLI_OK;
		if (f->once)
			status = catch_up(f);
		else
			sleep_until(f->began_ms + (i + 1) * TICK_MS);
		if (status != CLI_OK)
			return status;
		take_numbers(f);
		if (f->stat.error == PGS_ENOTFOUND)
			return cli_fail(NULL, "the database %s was dropped", cli_quote(f->c->operands[0]).text);
		if (f->c->json) {
			status = line_json(f, false);
		} else {
			tell_keeper(f);
			line_text(f, i);
		}
		fflush(stdout);
		if (status != CLI_OK || ferror(stdout))
			return status;
	}
	return CLI_OK;
}

int cli_follow(cli *c)
{
	follow f = {.c = c, .stat = PGS_FOLLOW_STAT_INIT, .cache = PGS_CACHE_STAT_INIT, .keeper = -2};
	pgs_follow_options options = PGS_FOLLOW_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	if (take_options(&f, &options) != CLI_OK)
		return CLI_USAGE;
	if (cli_open_db(c, CLI_READ) != CLI_OK)
		return CLI_FAILED;
	f.live = !c->json && can_write_over();
	f.began_ms = now_ms();
	take_numbers(&f);
	f.cache_before = f.cache;
	if (pgs_follow_start(c->db, &options, &err) != PGS_OK)
		return cli_fail_pgs(&err, NULL, "cannot follow %s", cli_quote(c->operands[0]).text);
	cli_interrupt_catch();
	if (!c->json)
		tell_cache(&f);
	int status = show_lines(&f);
	pgs_follow_stop(c->db);
	take_numbers(&f);
	if (c->json)
		return line_json(&f, true) == CLI_OK ? status : CLI_FAILED;
	summary_text(&f);
	return status;
}
