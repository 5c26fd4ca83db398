/* See chain.h: the parent of a chain's processes. */
#include "support/chain.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "local_cache/shared.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define WAIT_MS 90000 /* for anything; and without a sign of life */
#define GRACE_MS 5000 /* calls may fail for so long after servers are back: those that began before */
#define TICK_MS 5
#define CHAINS_MAX 2

static chain *chains[CHAINS_MAX]; /* set up, and not torn down */

/* --- what is there ------------------------------------------------------------------------ */

void chain_set_up(chain *c, const char *path, const char *url, const char *cached_url, uint64_t salt)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	memset(c, 0, sizeof *c);
	chains[chains[0] ? 1 : 0] = c;
	snprintf(c->path, sizeof c->path, "%s", path);
	c->url = url;
	c->cached_url = cached_url;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && ftruncate(fd, sizeof *c->shared) == 0);
	c->shared = mmap(NULL, sizeof *c->shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(c->shared != MAP_FAILED);
	close(fd);
	c->shared->salt = salt;
	c->shared->era_began = CHAIN_COMMITS;
	expect_code(pgs_open(&store, url, NULL, &err), PGS_OK, &err, "opening");
	pgs_db_close(create_db(store, CHAIN_DB, NULL));
	pgs_close(store);
	static chain_process_state state; /* the first commit is this process's */
	chain_worker w = {.shared = c->shared, .state = &state, .duties = CHAIN_ELSEWHERE};
	if (!chain_open(&w, url) || !chain_add(&w))
		fail_msg("the first commit: %s", state.failure);
	chain_close(&w);
}

/* --- looking after them ------------------------------------------------------------------------ */

static void kill_all(chain *c)
{
	for (unsigned i = 0; i < CHAIN_PROCESSES; i++)
		if (c->lives[i].pid > 0) {
			kill(c->lives[i].pid, SIGKILL);
			waitpid(c->lives[i].pid, NULL, 0);
			c->lives[i].pid = 0;
		}
}

void chain_tear_down(chain *c)
{
	kill_all(c);
	munmap(c->shared, sizeof *c->shared);
	unlink(c->path);
	for (size_t i = 0; i < CHAINS_MAX; i++)
		if (chains[i] == c)
			chains[i] = NULL;
}

int chain_clear(void **state)
{
	(void)state;
	for (size_t i = 0; i < CHAINS_MAX; i++)
		if (chains[i])
			chain_tear_down(chains[i]);
	return 0;
}

static void fail_of(chain *c, unsigned process, const char *what)
{
	char text[800];
	const char *failure = c->shared->processes[process].failure;
	snprintf(text, sizeof text, "process %u (duties %u) %s%s%s", process, c->lives[process].duties, what,
		failure[0] ? ": " : "", failure);
	kill_all(c);
	fail_msg("%s", text);
}

static void expect_ended_well(chain *c, unsigned process, int status)
{
	char text[60];
	snprintf(text, sizeof text, "ended by %s %d", WIFSIGNALED(status) ? "signal" : "itself with",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	c->lives[process].pid = 0;
	if (status != 0)
		fail_of(c, process, text);
}

/* What a machine's processes have to see of each other's commits ends with the last of them: see pgs__mirror_require(). */
static void forget_machine(chain *c, unsigned machine)
{
	for (unsigned i = 0; i < CHAIN_PROCESSES; i++)
		if (c->lives[i].pid > 0 && c->lives[i].machine == machine)
			return;
	if (machine < CHAIN_MACHINES)
		c->shared->acknowledged_on[machine] = 0;
}

static bool is_crash(int status)
{
	int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	return number == SIGSEGV || number == SIGBUS || number == SIGABRT;
}

/* A process has ended, though nobody asked it to. */
static void mind_end(chain *c, unsigned process, int status)
{
	unsigned duties = c->lives[process].duties;
	if (!c->may_crash || !is_crash(status)) {
		expect_ended_well(c, process, status);
		fail_of(c, process, "has ended");
	}
	c->crashes++;
	c->lives[process].pid = 0;
	forget_machine(c, c->lives[process].machine);
	chain_start(c, process, duties);
}

/* All are there, and alive. */
static void look_after(chain *c)
{
	uint64_t now = pgs__now_ms();
	for (unsigned i = 0; i < CHAIN_PROCESSES; i++) {
		const chain_process_state *s = &c->shared->processes[i];
		int status;
		if (c->lives[i].pid <= 0)
			continue;
		if (waitpid(c->lives[i].pid, &status, WNOHANG) == c->lives[i].pid)
			mind_end(c, i, status);
		if (s->failure[0])
			fail_of(c, i, "failed");
		if (s->beat_ms + WAIT_MS < now)
			fail_of(c, i, "hangs");
	}
}

void chain_sleep(chain *c, uint32_t ms)
{
	uint64_t end = pgs__now_ms() + ms;
	do {
		look_after(c);
		pgs__sleep_ms(TICK_MS, 0);
	} while (pgs__now_ms() < end);
}

/* The rest of a wait for something. */
static void go_on_waiting(chain *c, uint64_t began_ms, const char *what, const char *when)
{
	chain_sleep(c, TICK_MS);
	if (pgs__now_ms() - began_ms < WAIT_MS)
		return;
	for (unsigned i = 0; i < CHAIN_PROCESSES; i++) {
		const chain_process_state *p = &c->shared->processes[i];
		if (c->lives[i].pid > 0)
			print_message("process %u (duties %u) has seen %llu of %llu, and looked %llu times; %s\n", i,
				      c->lives[i].duties, (unsigned long long)p->seen,
				      (unsigned long long)c->shared->acknowledged,
				      (unsigned long long)p->looks[PGS_LOCAL], p->last_error);
	}
	kill_all(c);
	fail_msg("%s: waited for %u s for %s", when, WAIT_MS / 1000, what);
}

/* --- starting and ending ---------------------------------------------------------------------------- */

void chain_start(chain *c, unsigned process, unsigned duties)
{
	char numbers[3][16];
	chain_life *l = &c->lives[process];
	chain_process_state *s = &c->shared->processes[process];
	assert_int_equal(l->pid, 0);
	*l = (chain_life){.duties = duties, .machine = duties & CHAIN_ELSEWHERE ? CHAIN_MACHINES : c->machine};
	s->seen = 0;
	s->beat_ms = pgs__now_ms();
	snprintf(numbers[0], sizeof numbers[0], "%u", process);
	snprintf(numbers[1], sizeof numbers[1], "%u", duties);
	snprintf(numbers[2], sizeof numbers[2], "%u", l->machine);
	fflush(NULL);
	l->pid = fork();
	if (l->pid == 0) {
		execl("/proc/self/exe", "chain", c->path, numbers[0], numbers[1], numbers[2],
			duties & CHAIN_ELSEWHERE ? c->url : c->cached_url, (char *)NULL);
		_exit(127);
	}
	assert_true(l->pid > 0);
	c->starts++;
}

void chain_kill(chain *c, unsigned process)
{
	int status;
	pid_t pid = c->lives[process].pid;
	assert_true(pid > 0);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	c->lives[process].pid = 0;
	bool crashed = c->may_crash && is_crash(status);
	c->crashes += crashed;
	if (!WIFSIGNALED(status) || (WTERMSIG(status) != SIGKILL && !crashed) ||
	    c->shared->processes[process].failure[0])
		fail_of(c, process, "had ended before it was killed");
	forget_machine(c, c->lives[process].machine);
	c->kills++;
}

void chain_freeze(chain *c, unsigned process)
{
	kill(c->lives[process].pid, SIGSTOP);
}

void chain_thaw(chain *c, unsigned process)
{
	c->shared->processes[process].beat_ms = pgs__now_ms();
	kill(c->lives[process].pid, SIGCONT);
}

void chain_lose(chain *c, uint64_t last)
{
	chain_shared *s = c->shared;
	for (uint64_t n = last + 1; n <= s->acknowledged; n++)
		s->commits[n].at_ns = s->commits[n].revision = 0;
	for (unsigned i = 0; i < CHAIN_MACHINES; i++)
		s->acknowledged_on[i] = last;
	s->acknowledged = last;
	s->era_began = last;
}

void chain_end(chain *c)
{
	uint64_t began = pgs__now_ms();
	c->shared->stop = true;
	for (unsigned i = 0; i < CHAIN_PROCESSES; i++) {
		int status;
		while (c->lives[i].pid > 0 && waitpid(c->lives[i].pid, &status, WNOHANG) == 0) {
			pgs__sleep_ms(TICK_MS, 0);
			if (pgs__now_ms() - began > WAIT_MS)
				fail_of(c, i, "does not end");
		}
		if (c->lives[i].pid <= 0)
			continue;
		c->crashes += c->may_crash && is_crash(status);
		expect_ended_well(c, i, c->may_crash && is_crash(status) ? 0 : status);
		forget_machine(c, c->lives[i].machine);
	}
	c->shared->stop = false;
}

/* --- waiting -------------------------------------------------------------------------------------------- */

void chain_catch_up(chain *c, const char *when)
{
	uint64_t began = pgs__now_ms(), target = c->shared->acknowledged;
	for (unsigned i = 0; i < CHAIN_PROCESSES; i++)
		while (c->lives[i].pid > 0 && c->shared->processes[i].seen < target)
			go_on_waiting(c, began, "all to see what was committed", when);
}

void chain_wait_commits(chain *c, uint64_t count, const char *when)
{
	uint64_t began = pgs__now_ms(), target = c->shared->acknowledged + count;
	while (c->shared->acknowledged < target)
		go_on_waiting(c, began, "commits", when);
}

void chain_wait_looks(chain *c, uint64_t count, const char *when)
{
	uint64_t began = pgs__now_ms();
	for (unsigned i = 0; i < CHAIN_PROCESSES; i++) {
		const chain_process_state *s = &c->shared->processes[i];
		uint64_t target = s->looks[PGS_LOCAL] + count;
		while (c->lives[i].pid > 0 && s->looks[PGS_LOCAL] < target)
			go_on_waiting(c, began, "all to look", when);
	}
}

/* A commit that is under way when `paused` is set ends before its process's next look but one. */
void chain_pause(chain *c)
{
	uint64_t began = pgs__now_ms();
	for (;;) {
		c->shared->paused = true;
		chain_wait_looks(c, 2, "pausing");
		if (!chain_is_bulky(c->shared->acknowledged))
			return;
		c->shared->paused = false;
		go_on_waiting(c, began, "a moment without bulk", "pausing");
	}
}

void chain_go_on(chain *c)
{
	c->shared->paused = false;
}

void chain_away(chain *c)
{
	c->shared->away_until_ms = UINT64_MAX;
}

void chain_back(chain *c)
{
	c->shared->away_until_ms = pgs__now_ms() + GRACE_MS;
}

/* --- who keeps the mirror ------------------------------------------------------------------------------- */

/* By the follower's lock, on any database's slot. This process has no lock in that file that closing it could drop. */
unsigned chain_keeper(const chain *c, const char *path)
{
	char state[400];
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = PGS__LOCK_FOLLOW, .l_len = PGS__SHARED_SLOTS};
	snprintf(state, sizeof state, "%s-state", path);
	int fd = open(state, O_RDWR | O_CLOEXEC);
	bool held = fd >= 0 && fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
	if (fd >= 0)
		close(fd);
	for (unsigned i = 0; held && i < CHAIN_PROCESSES; i++)
		if (c->lives[i].pid == lock.l_pid)
			return i;
	return CHAIN_PROCESSES;
}

unsigned chain_wait_keeper(chain *c, const char *path, uint64_t *took_ms)
{
	uint64_t began = pgs__now_ms();
	unsigned keeper;
	while ((keeper = chain_keeper(c, path)) == CHAIN_PROCESSES)
		go_on_waiting(c, began, "another to keep the mirror", "taking over");
	*took_ms = pgs__now_ms() - began;
	return keeper;
}

/* --- at the end ------------------------------------------------------------------------------------------ */

void chain_check(chain *c, const char *url)
{
	static chain_process_state state;
	chain_worker w = {.shared = c->shared, .state = &state, .duties = CHAIN_ELSEWHERE};
	memset(&state, 0, sizeof state);
	if (!chain_open(&w, url) || !chain_look(&w, PGS_LATEST))
		fail_msg("afterwards: %s", state.failure);
	chain_close(&w);
}

static uint64_t sum(const chain *c, size_t offset)
{
	uint64_t all = 0;
	for (unsigned i = 0; i < CHAIN_PROCESSES; i++)
		all += *(const _Atomic uint64_t *)((const char *)&c->shared->processes[i] + offset);
	return all;
}

#define SUM(c, field) ((unsigned long long)sum(c, offsetof(chain_process_state, field)))

uint64_t chain_errors(const chain *c)
{
	return SUM(c, errors);
}

uint64_t chain_restarts(const chain *c)
{
	return SUM(c, restarts);
}

uint64_t chain_damaged(const chain *c)
{
	return SUM(c, damaged);
}

void chain_report(chain *c, const char *what)
{
	unsigned long long looks[CHAIN_FRESHNESS], commits = SUM(c, commits);
	for (size_t i = 0; i < CHAIN_FRESHNESS; i++)
		looks[i] = SUM(c, looks[i]);
	print_message("%s: %u processes started, %u killed; %llu commits, %llu conflicts; snapshots: %llu latest, %llu at "
		      "least, %llu bounded, %llu local, %llu collected meanwhile; %llu calls failed while servers were "
		      "away; followers started over %llu times; %llu damaged contents\n", what, c->starts, c->kills, commits,
		      SUM(c, conflicts), looks[PGS_LATEST], looks[PGS_AT_LEAST], looks[PGS_BOUNDED], looks[PGS_LOCAL],
		      SUM(c, old), SUM(c, errors), SUM(c, restarts), SUM(c, damaged));
	assert_true(commits > 0);
	for (size_t i = 0; i < CHAIN_FRESHNESS; i++)
		assert_true(looks[i] > 0);
}
