/* pgs_soak: command line; processes that are started and killed.
 *
 *     pgs_soak [--seconds N] [--workers N] [--kill-every MS] [--retention MS] [--seed N] [--compact] [--follow] [URL]
 *
 * On a database of its own, "soak", in the store at URL (default: a directory that goes with the run). Defaults: 10
 * seconds, 4 workers, a kill every 1500 ms (0: none), 3000 ms of history. --compact: nobody else uses the KV, so that
 * its history may be compacted. --follow: workers follow, and begin at any freshness; with cache=PATH in the URL they share
 * that file. Exit status: 0 when all is well. */
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "model/rng.h"
#include "soak.h"
#include "util/clock.h"

#define WORKERS_MAX 16
#define START_TIMEOUT_MS 60000

static uint64_t seed; /* for messages */

void soak_fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fprintf(stderr, "pgs_soak (seed %" PRIu64 "): ", seed);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

uint64_t soak_hash(const void *bytes, size_t size)
{
	uint64_t hash = size + 1, all = 0;
	for (size_t i = 0; i < size; i += 8) {
		uint64_t word = 0;
		memcpy(&word, (const uint8_t *)bytes + i, size - i < 8 ? size - i : 8);
		all |= word;
		hash = rng_mix(hash ^ word);
	}
	return all || size < SIM_PAGE_SIZE ? hash | 1 : 0; /* zeros of a page: as if there were none */
}

void soak_journal_path(char out[512], const soak_options *o, uint32_t worker, uint32_t life)
{
	snprintf(out, 512, "%s/journal-%u.%u", o->folder, worker, life);
}

bool soak_passes(const soak_options *o, int result)
{
	bool server = strncmp(o->url, "etcd:", 5) == 0;
	return result == PGS_ECONFLICT || result == PGS_EBUSY || result == PGS_EOLDREV ||
		(server && (result == PGS_EIO || result == PGS_ETIMEOUT));
}

bool soak_open(const soak_options *o, bool create, pgs_store **store, pgs_db **db)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_maintain_options maintain = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	maintain.retention_ms = o->retention_ms;
	maintain.flush_pages = 20;
	maintain.level0_files = 2;
	maintain.level_fanout = 2;
	maintain.file_bytes = 16384;
	so.timeout_ms = START_TIMEOUT_MS;
	so.maintenance = PGS_MAINTENANCE_MANUAL;
	so.kv_history = o->compact ? PGS_KV_HISTORY_OWNED : PGS_KV_HISTORY_DEFAULT;
	options.page_size_bytes = SIM_PAGE_SIZE;
	options.cache_bytes = 64 << 10;
	options.maintain = &maintain;
	int result = pgs_open(store, o->url, &so, &err);
	if (result == PGS_OK && create)
		result = pgs_db_create(db, *store, SOAK_DB, strlen(SOAK_DB), &options, &err);
	else if (result == PGS_OK)
		result = pgs_db_open(db, *store, SOAK_DB, strlen(SOAK_DB), &options, &err);
	if (result != PGS_OK)
		fprintf(stderr, "pgs_soak: opening: %s: %s\n", pgs_error_name(result), err.message);
	return result == PGS_OK;
}

/* --- processes --------------------------------------------------------------------------- */

typedef struct crew {
	const soak_options *o;
	pid_t pids[WORKERS_MAX];
	uint32_t lives[WORKERS_MAX]; /* begun */
	uint64_t end_ms, kills;
} crew;

/* A program of its own: what the parent has open is none of its business. */
static void become_worker(const soak_options *o, uint32_t worker, uint32_t life, uint64_t seconds)
{
	char texts[6][32];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(texts[0], 32, "%u", worker);
	snprintf(texts[1], 32, "%u", life);
	snprintf(texts[2], 32, "%" PRIu64, seconds);
	snprintf(texts[3], 32, "%" PRIu64, o->seed);
	snprintf(texts[4], 32, "%" PRIu64, o->retention_ms);
	const char *const arguments[] = {"pgs_soak", "--worker", texts[0], "--life", texts[1], "--seconds", texts[2],
		"--seed", texts[3], "--retention", texts[4], "--folder", o->folder, o->url,
		o->compact ? "--compact" : "--no-compact", o->follow ? "--follow" : "--no-follow", NULL};
	execv("/proc/self/exe", (char *const *)arguments);
	_exit(127);
}

static void start_worker(crew *c, uint32_t worker)
{
	uint64_t now = pgs__now_ms(), left = c->end_ms > now ? (c->end_ms - now + 999) / 1000 : 0;
	uint32_t life = c->lives[worker]++;
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		become_worker(c->o, worker, life, left);
	if (pid < 0)
		soak_fail("cannot start a worker");
	c->pids[worker] = pid;
}

static void end_worker(crew *c, uint32_t worker, bool killed)
{
	int status;
	if (waitpid(c->pids[worker], &status, 0) != c->pids[worker])
		soak_fail("worker %u is lost", worker);
	bool good = killed ? WIFSIGNALED(status) || status == 0 : status == 0;
	if (!good)
		soak_fail("worker %u ended with status %d%s", worker, status, WIFSIGNALED(status) ? ", a signal" : "");
}

/* One that failed is found at once. */
static void look_after(crew *c)
{
	for (uint32_t i = 0; i < c->o->workers; i++) {
		siginfo_t info = {0};
		if (waitid(P_PID, (id_t)c->pids[i], &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid &&
			(info.si_code != CLD_EXITED || info.si_status != 0))
			end_worker(c, i, false);
	}
}

static void run(const soak_options *o)
{
	crew c = {.o = o, .end_ms = pgs__now_ms() + o->seconds * 1000};
	sim_rng rng = rng_stream(o->seed, 1 << 20);
	soak_audit *audit = soak_audit_start(o);
	uint64_t next_kill = pgs__now_ms() + o->kill_ms;
	for (uint32_t i = 0; i < o->workers; i++)
		start_worker(&c, i);
	while (pgs__now_ms() < c.end_ms) {
		pgs__sleep_ms(100, 0);
		soak_audit_follow(audit);
		look_after(&c);
		if (!o->kill_ms || pgs__now_ms() < next_kill)
			continue;
		uint32_t worker = (uint32_t)rng_below(&rng, o->workers);
		kill(c.pids[worker], SIGKILL);
		end_worker(&c, worker, true);
		start_worker(&c, worker);
		c.kills++;
		next_kill = pgs__now_ms() + o->kill_ms / 2 + rng_below(&rng, o->kill_ms);
	}
	for (uint32_t i = 0; i < o->workers; i++)
		end_worker(&c, i, false);
	printf("seed %" PRIu64 ", %" PRIu64 " s, %u workers, %" PRIu64 " kills\n", o->seed, o->seconds, o->workers, c.kills);
	soak_audit_end(audit, c.lives);
}

/* --- command line ------------------------------------------------------------------------------ */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static char scratch[64];

static void remove_scratch(void)
{
	nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

typedef struct role {
	bool worker;
	uint64_t number, life;
} role;

/* False: not an option that takes a number. */
static bool take_number(soak_options *o, role *r, const char *name, const char *value)
{
	uint64_t workers = o->workers, kill_ms = o->kill_ms;
	struct {
		const char *name;
		uint64_t *into;
	} numbers[] = {{"--seconds", &o->seconds}, {"--seed", &o->seed}, {"--retention", &o->retention_ms},
		{"--workers", &workers}, {"--kill-every", &kill_ms}, {"--worker", &r->number}, {"--life", &r->life}};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		char *end;
		if (strcmp(name, numbers[i].name) != 0)
			continue;
		*numbers[i].into = strtoull(value, &end, 10);
		if (*end || end == value)
			return false;
		r->worker |= numbers[i].into == &r->number;
		o->workers = workers < WORKERS_MAX ? (uint32_t)workers : WORKERS_MAX;
		o->kill_ms = (uint32_t)kill_ms;
		return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	soak_options o = {.seconds = 10, .retention_ms = 3000, .workers = 4, .kill_ms = 1500};
	role r = {0};
	char url[128];
	o.seed = (uint64_t)time(NULL);
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] != '-') {
			o.url = argv[i];
		} else if (strcmp(argv[i], "--compact") == 0 || strcmp(argv[i], "--no-compact") == 0) {
			o.compact = argv[i][2] == 'c';
		} else if (strcmp(argv[i], "--follow") == 0 || strcmp(argv[i], "--no-follow") == 0) {
			o.follow = argv[i][2] == 'f';
		} else if (i + 1 < argc && strcmp(argv[i], "--folder") == 0) {
			o.folder = argv[++i];
		} else if (i + 1 < argc && take_number(&o, &r, argv[i], argv[i + 1])) {
			i++;
		} else {
			fprintf(stderr, "usage: pgs_soak [--seconds N] [--workers N] [--kill-every MS] [--retention MS] "
					"[--seed N] [--compact] [--follow] [URL]\n");
			return 2;
		}
	}
	seed = o.seed;
	if (r.worker)
		return soak_work(&o, (uint32_t)r.number, (uint32_t)r.life);
	strcpy(scratch, "/tmp/pagestore-soak-XXXXXX");
	if (!mkdtemp(scratch))
		soak_fail("cannot make a folder below /tmp");
	atexit(remove_scratch);
	o.folder = scratch;
	snprintf(url, sizeof url, "dir:%s/store?sync=off", scratch);
	if (!o.url)
		o.url = url;
	run(&o);
	return 0;
}
