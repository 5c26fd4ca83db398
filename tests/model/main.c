/* pgs_sim: run seeds, find planted bugs, shrink failures.
 *
 * Seeds run in child processes that share a counter: what a bug does to one of them (a crash, an endless loop) is a
 * finding like any other.
 */
#include "sim.h"

#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util/bug.h"

#define JOBS_MAX 64
#define SEED_SECONDS 60 /* of the processor, for a seed that takes hundredths: then it does not end */

typedef struct options {
	uint64_t first, last; /* seeds */
	pgs__bug_name bug;
	int jobs;
	uint32_t troubles, clients;
	uint64_t steps, until_step;
	bool table, determinism, no_shrink, quiet;
} options;

/* Shared with the children. */
typedef struct board {
	atomic_uint_fast64_t next, failed; /* the lowest failing seed */
	atomic_uint_fast64_t commits, crashes, steps;
	char failure[1024];
} board;

static const struct {
	const char *name, *what;
} bugs[] = {
#define BUG_TEXT(name, what) {#name, what},
	PGS__BUGS(BUG_TEXT) {"", ""}, PGS__BUGS_OF_TESTS(BUG_TEXT)
#undef BUG_TEXT
};

static void configure(sim_config *config, const options *o, uint64_t seed)
{
	config_from_seed(config, seed, o->troubles, o->clients, o->steps);
	if (o->until_step && o->until_step < config->steps)
		config->steps = o->until_step;
}

/* What it does is killed by a signal after so much work, or when it waits for ever. */
static void limit_time(unsigned seconds)
{
	const struct itimerval work = {.it_value = {.tv_sec = seconds}};
	setitimer(ITIMER_PROF, &work, NULL);
	alarm(20 * seconds);
}

static bool run_seed(const options *o, uint64_t seed)
{
	sim_config config;
	configure(&config, o, seed);
	limit_time(SEED_SECONDS);
	bool passed = sim_run(&config);
	limit_time(0);
	return passed;
}

/* --- many seeds ------------------------------------------------------------------------------ */

static void note_failure(board *b, uint64_t seed)
{
	uint64_t known = atomic_load(&b->failed);
	while (seed < known && !atomic_compare_exchange_weak(&b->failed, &known, seed))
		;
}

static void child(board *b, const options *o, atomic_uint_fast64_t *mine)
{
	for (;;) {
		uint64_t seed = atomic_fetch_add(&b->next, 1);
		if (seed > o->last || seed >= atomic_load(&b->failed))
			_exit(0);
		atomic_store(mine, seed);
		if (!run_seed(o, seed)) {
			note_failure(b, seed);
			_exit(0); /* fibers in the middle of something: start afresh */
		}
		atomic_fetch_add(&b->commits, world.commits);
		atomic_fetch_add(&b->crashes, world.crashes);
		atomic_fetch_add(&b->steps, world.step);
		sim_free();
	}
}

static void *shared_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	return memory;
}

/* The lowest failing seed, or 0. The board has the totals. */
static uint64_t search(board *b, const options *o)
{
	atomic_uint_fast64_t *at = shared_memory(JOBS_MAX * sizeof *at);
	pid_t pids[JOBS_MAX];
	memset(b, 0, sizeof *b);
	atomic_store(&b->next, o->first);
	atomic_store(&b->failed, UINT64_MAX);
	fflush(stdout);
	for (int i = 0; i < o->jobs; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			child(b, o, &at[i]);
	}
	for (int i = 0; i < o->jobs; i++) {
		int status = 0;
		waitpid(pids[i], &status, 0);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
			note_failure(b, atomic_load(&at[i]));
	}
	munmap(at, JOBS_MAX * sizeof *at);
	uint64_t failed = atomic_load(&b->failed);
	return failed == UINT64_MAX ? 0 : failed;
}

/* --- one seed, in words -------------------------------------------------------------------------- */

/* Run a seed in a child; its failure, or "". */
static const char *failure_of(const options *o, uint64_t seed, bool print, uint64_t *step)
{
	board *b = shared_memory(sizeof *b);
	static char failure[1024];
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		trace_on = print;
		bool passed = run_seed(o, seed);
		snprintf(b->failure, sizeof b->failure, "%s", world.failure);
		atomic_store(&b->steps, world.step);
		if (print && !passed)
			trace_print_last();
		fflush(stdout);
		_exit(0);
	}
	int status = 0;
	waitpid(pid, &status, 0);
	snprintf(failure, sizeof failure, "%s", b->failure);
	if (!WIFEXITED(status))
		snprintf(failure, sizeof failure,
			WTERMSIG(status) == SIGALRM || WTERMSIG(status) == SIGPROF ? "it does not end"
										   : "it is killed by signal %d",
			WTERMSIG(status));
	else if (WEXITSTATUS(status))
		snprintf(failure, sizeof failure, "it exits with status %d", WEXITSTATUS(status));
	if (step)
		*step = atomic_load(&b->steps);
	munmap(b, sizeof *b);
	return failure;
}

static const struct {
	uint32_t bit;
	const char *name;
} troubles[] = {
	{SIM_ERRORS, "errors"}, {SIM_LOST_REPLIES, "lost"}, {SIM_DELAYS, "delays"}, {SIM_CRASHES, "crashes"},
	{SIM_FREEZES, "freezes"}, {SIM_CLOCKS, "clocks"}, {SIM_LIMITS, "limits"}, {SIM_OUTAGES, "outages"},
	{SIM_MAINTENANCE, "maintenance"}, {SIM_DROPS, "drops"},
	{SIM_CACHE, "cache"}, {SIM_DAMAGE, "damage"},
};
#define TROUBLES (sizeof troubles / sizeof *troubles)

/* Leave out what the failure does not need. It may become another failure on the way: whatever fails is of use. */
static void shrink(options *o, uint64_t seed)
{
	for (size_t i = 0; i < TROUBLES; i++) {
		options less = *o;
		less.troubles &= ~troubles[i].bit;
		if (failure_of(&less, seed, false, NULL)[0])
			*o = less;
	}
	for (uint32_t clients = 1; clients < SIM_CLIENTS_MAX; clients++) {
		options less = *o;
		less.clients = clients;
		if (clients < o->clients && failure_of(&less, seed, false, NULL)[0]) {
			*o = less;
			break;
		}
	}
	/* The fewest steps, as far as halving finds them. */
	sim_config config;
	configure(&config, o, seed);
	uint64_t most = config.steps, least = 0;
	while (least + 1 < most) {
		options less = *o;
		less.until_step = least + (most - least) / 2;
		if (failure_of(&less, seed, false, NULL)[0])
			most = less.until_step;
		else
			least = less.until_step;
	}
	if (most < config.steps)
		o->until_step = most;
}

static void print_command(const options *o, uint64_t seed)
{
	printf("again: pgs_sim --seeds %llu..%llu", (unsigned long long)seed, (unsigned long long)seed);
	if (o->bug)
		printf(" --bug %s", bugs[o->bug].name);
	for (size_t i = 0; i < TROUBLES; i++)
		if (!(o->troubles & troubles[i].bit))
			printf(" --without %s", troubles[i].name);
	if (o->clients < SIM_CLIENTS_MAX)
		printf(" --clients %u", o->clients);
	if (o->steps)
		printf(" --steps %llu", (unsigned long long)o->steps);
	if (o->until_step)
		printf(" --until-step %llu", (unsigned long long)o->until_step);
	printf(" --no-shrink\n");
}

static void report(const options *given, uint64_t seed)
{
	options o = *given;
	uint64_t step = 0;
	const char *failure = failure_of(&o, seed, false, &step);
	printf("seed %llu FAILED at step %llu: %s\n", (unsigned long long)seed, (unsigned long long)step,
		failure[0] ? failure : "not when run again: the simulator is not deterministic");
	if (!o.no_shrink && failure[0])
		shrink(&o, seed);
	printf("  step      time client doing\n");
	failure = failure_of(&o, seed, true, &step);
	printf("seed %llu FAILED at step %llu: %s\n", (unsigned long long)seed, (unsigned long long)step, failure);
	print_command(&o, seed);
}

static int run_seeds(const options *o)
{
	board *b = shared_memory(sizeof *b);
	struct timespec start, end;
	clock_gettime(CLOCK_MONOTONIC, &start);
	uint64_t failed = search(b, o);
	clock_gettime(CLOCK_MONOTONIC, &end);
	if (failed) {
		report(o, failed);
		return 1;
	}
	printf("seeds %llu..%llu: passed; %llu steps, %llu commits, %llu crashes, %.1f s\n", (unsigned long long)o->first,
		(unsigned long long)o->last, (unsigned long long)atomic_load(&b->steps),
		(unsigned long long)atomic_load(&b->commits), (unsigned long long)atomic_load(&b->crashes),
		(double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
	return 0;
}

/* --- planted bugs ------------------------------------------------------------------------------------- */

static int run_table(const options *given)
{
	board *b = shared_memory(sizeof *b);
	int missed = 0;
	printf("%-24s %12s  %s\n", "planted bug", "found after", "what it breaks; how it showed");
	for (int bug = 1; bug < PGS__BUG_COUNT; bug++) {
		options o = *given;
		if (o.bug && o.bug != (pgs__bug_name)bug)
			continue;
		o.bug = (pgs__bug_name)bug;
		pgs__planted_bug = o.bug;
		uint64_t failed = search(b, &o);
		if (failed)
			printf("%-24s %6llu seeds  %s;\n%-38s %.120s\n", bugs[bug].name,
				(unsigned long long)(failed - o.first + 1), bugs[bug].what, "",
				failure_of(&o, failed, false, NULL));
		else
			printf("%-24s    NOT FOUND  %s\n", bugs[bug].name, bugs[bug].what);
		missed += failed == 0;
	}
	return missed > 0;
}

/* Every seed twice: the same must happen, down to the last call. */
static int run_determinism(const options *o)
{
	for (uint64_t seed = o->first; seed <= o->last; seed++) {
		uint64_t digests[2];
		for (int i = 0; i < 2; i++) {
			if (!run_seed(o, seed)) {
				report(o, seed);
				return 1;
			}
			digests[i] = world.digest;
			sim_free();
		}
		if (digests[0] != digests[1]) {
			printf("seed %llu: two runs differ\n", (unsigned long long)seed);
			return 1;
		}
	}
	printf("seeds %llu..%llu: each run twice, with the same events\n", (unsigned long long)o->first,
		(unsigned long long)o->last);
	return 0;
}

/* --- the command line ------------------------------------------------------------------------------------ */

static void usage(void)
{
	puts("usage: pgs_sim [--seeds A..B] [--bug NAME] [--table] [--determinism] [--jobs N]\n"
	     "               [--trace] [--no-shrink] [--steps N] [--until-step N] [--clients N] [--without TROUBLE]…\n"
	     "\n"
	     "Runs the seeds; at one that fails prints what was expected, and the trace of its last calls, with as\n"
	     "little else going on as the failure needs. Exit status 1 then.\n"
	     "  --seeds A..B   these (default: 1..2000, 1..20000 when PGS_TEST_LONG is set, 1..4000 with --table)\n"
	     "  --bug NAME     with a planted bug: lib/util/bug.h has them\n"
	     "  --table        all planted bugs in turn (or --bug), and after how many seeds each is found\n"
	     "  --determinism  each seed twice: do the same things happen?\n"
	     "  --jobs N       processes at once (default: one per core)\n"
	     "  --trace        all lines, as they come (one seed)\n"
	     "  --steps N      calls per seed, instead of what the seed says\n"
	     "  --until-step N no new operations after so many calls\n"
	     "  --without T    errors, lost, delays, crashes, freezes, clocks, limits, outages, maintenance, drops,\n"
	     "                 cache, damage");
}

static bool parse_seeds(const char *text, options *o)
{
	char *end;
	o->first = o->last = strtoull(text, &end, 10);
	if (strncmp(end, "..", 2) == 0)
		o->last = strtoull(end + 2, &end, 10);
	return *end == '\0' && o->first > 0 && o->first <= o->last;
}

static bool parse_bug(const char *text, options *o)
{
	for (size_t i = 0; i < sizeof bugs / sizeof *bugs; i++)
		if (*text && strcmp(text, bugs[i].name) == 0) {
			o->bug = (pgs__bug_name)i;
			return true;
		}
	return false;
}

static bool parse_without(const char *text, options *o)
{
	for (size_t i = 0; i < TROUBLES; i++)
		if (strcmp(text, troubles[i].name) == 0) {
			o->troubles &= ~troubles[i].bit;
			return true;
		}
	return false;
}

/* An option with a value. */
static bool parse_value(const char *option, const char *value, options *o)
{
	if (strcmp(option, "--seeds") == 0)
		return parse_seeds(value, o);
	if (strcmp(option, "--bug") == 0)
		return parse_bug(value, o);
	if (strcmp(option, "--without") == 0)
		return parse_without(value, o);
	uint64_t number = strtoull(value, NULL, 10);
	if (strcmp(option, "--jobs") == 0)
		o->jobs = (int)(number < JOBS_MAX ? number : JOBS_MAX);
	else if (strcmp(option, "--steps") == 0)
		o->steps = number;
	else if (strcmp(option, "--until-step") == 0)
		o->until_step = number;
	else if (strcmp(option, "--clients") == 0)
		o->clients = (uint32_t)number;
	else
		return false;
	return number > 0;
}

static bool parse(int argc, char **argv, options *o)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--table") == 0)
			o->table = true;
		else if (strcmp(argv[i], "--determinism") == 0)
			o->determinism = true;
		else if (strcmp(argv[i], "--no-shrink") == 0)
			o->no_shrink = true;
		else if (strcmp(argv[i], "--trace") == 0)
			trace_live = true;
		else if (i + 1 < argc && parse_value(argv[i], argv[i + 1], o))
			i++;
		else
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	options o = {.troubles = SIM_ALL, .clients = SIM_CLIENTS_MAX};
	o.jobs = (int)sysconf(_SC_NPROCESSORS_ONLN);
	if (!parse(argc, argv, &o)) {
		usage();
		return 2;
	}
	if (!o.first) {
		o.first = 1;
		o.last = o.table ? 4000 : getenv("PGS_TEST_LONG") ? 20000 : 2000;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	mallopt(M_MMAP_THRESHOLD, 256 << 20); /* a seed takes and gives back the same memory as the one before */
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	pgs__planted_bug = o.bug;
	if (!machines_prepare()) {
		perror("a directory for cache files");
		return 2;
	}
	atexit(machines_clean_up); /* of this process: children end by _exit() */
	if (trace_live) {
		o.no_shrink = true;
		uint64_t step;
		const char *failure = failure_of(&o, o.first, true, &step);
		printf("%s\n", failure[0] ? failure : "passed");
		return failure[0] != '\0';
	}
	if (o.table)
		return run_table(&o);
	return o.determinism ? run_determinism(&o) : run_seeds(&o);
}
