/* See chain.h: what one process of a chain does. Nothing here uses cmocka. */
#include "support/chain.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "support/stores.h"
#include "util/clock.h"

#define PAGES 64          /* 1 … 64: a commit writes one to four of them */
#define BULK_FIRST 1000
#define BULK_PAGES 300    /* written by one commit of BULK_EVERY: in a file of their own; truncated by another */
#define BULK_EVERY 64
#define BULK_AT 40
#define BULK_GONE_AT 63
#define BULK_LOOKED_AT 4
#define READ (1 + PAGES + BULK_LOOKED_AT)
#define MAINTAIN_EVERY 32 /* looks */
#define TIMEOUT_MS 20000
#define PAUSE_MS 8

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void fail(chain_worker *w, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	if (!w->state->failure[0])
		vsnprintf(w->state->failure, sizeof w->state->failure, format, args);
	va_end(args);
}

/* --- what commit n writes --------------------------------------------------------------------- */

static uint64_t mix(uint64_t n)
{
	n = (n + 1) * 0x9e3779b97f4a7c15;
	n = (n ^ n >> 29) * 0xbf58476d1ce4e5b9;
	return n ^ n >> 32;
}

static bool writes(uint64_t n, uint64_t page_no)
{
	for (uint64_t i = 0; i <= n % 4; i++)
		if (1 + mix(4 * n + i) % PAGES == page_no)
			return true;
	return false;
}

bool chain_is_bulky(uint64_t n)
{
	return n % BULK_EVERY >= BULK_AT && n % BULK_EVERY < BULK_GONE_AT;
}

/* The last commit up to n that wrote the page; 0: none, or it was truncated since. */
static uint64_t writer_of(uint64_t page_no, uint64_t n)
{
	if (page_no == 0)
		return n;
	if (page_no >= BULK_FIRST)
		return chain_is_bulky(n) ? n - n % BULK_EVERY + BULK_AT : 0;
	while (n > 0 && !writes(n, page_no))
		n--;
	return n;
}

typedef struct head {
	uint64_t commit, era, salt, page_no;
} head;

/* Commits that come one after the other change few bytes of a page. */
static void content(const chain_shared *s, uint64_t page_no, uint64_t n, uint8_t *out)
{
	const head h = {n, n > s->era_began, s->salt, page_no};
	fill_page(out, n ? (mix(h.salt + h.era) ^ page_no << 32 ^ n / 8) << 8 | (n % 8 + 1) : 0);
	if (n)
		memcpy(out, &h, sizeof h);
}

/* --- what must be seen -------------------------------------------------------------------------- */

static void raise_to(_Atomic uint64_t *to, uint64_t value)
{
	uint64_t known = *to;
	while (known < value && !atomic_compare_exchange_weak(to, &known, value))
		;
}

/* The last commit that was acknowledged by then. */
static uint64_t acknowledged_by(const chain_shared *s, uint64_t ns)
{
	uint64_t n = s->acknowledged;
	while (n > 0 && (s->commits[n].at_ns == 0 || s->commits[n].at_ns > ns))
		n--;
	return n;
}

/* Before beginning: the oldest commit that a snapshot may be of. */
static uint64_t required(const chain_worker *w, pgs_txn_options *o)
{
	const chain_shared *s = w->shared;
	uint64_t here = w->duties & CHAIN_ELSEWHERE ? w->own : s->acknowledged_on[w->machine], least = 0;
	if (o->freshness == PGS_LATEST) {
		least = s->acknowledged;
	} else if (o->freshness == PGS_AT_LEAST) {
		least = s->acknowledged;
		o->least_revision = s->commits[least].revision;
	} else if (o->freshness == PGS_BOUNDED) {
		o->bound_ms = w->random >> 60 & 1 ? 100 : 2000;
		least = acknowledged_by(s, now_ns() - (uint64_t)o->bound_ms * 1000000);
	}
	here = here > w->seen ? here : w->seen; /* what was seen once does not go away */
	return least > here ? least : here;
}

/* --- calls that fail ------------------------------------------------------------------------------ */

/* When a call begins: until then it may fail. */
static uint64_t may_fail_until(const chain_worker *w)
{
	return w->shared->away_until_ms;
}

static bool passes(chain_worker *w, const char *what, int result, const pgs_error *err, uint64_t away_ms, uint64_t began_ms)
{
	if (result == PGS_OK)
		return true;
	if (result == PGS_EOLDREV) {
		w->state->old++;
		return false;
	}
	bool of_servers = result == PGS_EIO || result == PGS_ETIMEOUT || result == PGS_EBUSY || result == PGS_EUNKNOWN;
	uint64_t until = away_ms > w->shared->away_until_ms ? away_ms : (uint64_t)w->shared->away_until_ms;
	if (of_servers && began_ms < until) {
		w->state->errors++;
		snprintf(w->state->last_error, sizeof w->state->last_error, "%.30s: %s", what, err->message);
	} else {
		fail(w, "%s: %s: %s", what, pgs_error_name(result), err->message);
	}
	return false;
}

/* --- looking --------------------------------------------------------------------------------------- */

static bool check_page(chain_worker *w, const char *how, uint64_t n, uint64_t page_no, const uint8_t *page)
{
	uint8_t expected[TEST_PAGE_SIZE];
	head h;
	content(w->shared, page_no, writer_of(page_no, n), expected);
	if (memcmp(page, expected, sizeof expected) == 0)
		return true;
	size_t first = 0, others = 0;
	while (page[first] == expected[first])
		first++;
	for (size_t i = first + 1; i < sizeof expected; i++)
		others += page[i] != expected[i];
	memcpy(&h, page, sizeof h);
	fail(w, "at %s, a snapshot of commit %llu has page %llu of commit %llu (era %llu, of chain %llu, page %llu), "
		"not that of %llu: byte %zu is %02x, not %02x, and %zu bytes behind it differ", how, (unsigned long long)n,
		(unsigned long long)page_no, (unsigned long long)h.commit, (unsigned long long)h.era,
		(unsigned long long)h.salt, (unsigned long long)h.page_no, (unsigned long long)writer_of(page_no, n), first,
		page[first], expected[first], others);
	return false;
}

/* The pages of one look: page 0 first. */
static void choose(chain_worker *w, uint64_t numbers[READ])
{
	for (uint64_t i = 0; i <= PAGES; i++)
		numbers[i] = i;
	for (uint64_t i = 0; i < BULK_LOOKED_AT; i++)
		numbers[1 + PAGES + i] = BULK_FIRST + mix(w->random + i) % BULK_PAGES;
}

static bool check_all(chain_worker *w, const char *how, const uint64_t *numbers, uint8_t pages[][TEST_PAGE_SIZE],
	uint64_t least, uint64_t *n)
{
	head h;
	memcpy(&h, pages[0], sizeof h);
	*n = h.commit;
	if (h.commit < least) {
		fail(w, "at %s, a snapshot is of commit %llu, and has to show %llu", how, (unsigned long long)h.commit,
			(unsigned long long)least);
		return false;
	}
	for (size_t i = 0; i < READ; i++)
		if (!check_page(w, how, h.commit, numbers[i], pages[i]))
			return false;
	return true;
}

bool chain_look(chain_worker *w, uint32_t freshness)
{
	static const char *const names[CHAIN_FRESHNESS] = {"latest", "at least", "bounded", "local"};
	static uint8_t pages[READ][TEST_PAGE_SIZE];
	uint64_t numbers[READ], n = 0, away_ms = may_fail_until(w), began_ms = pgs__now_ms();
	void *dst[READ];
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	o.freshness = freshness;
	choose(w, numbers);
	for (size_t i = 0; i < READ; i++)
		dst[i] = pages[i];
	uint64_t least = required(w, &o);
	if (!passes(w, names[freshness], pgs_begin(&txn, w->db, &o, &err), &err, away_ms, began_ms))
		return false;
	int result = pgs_read_many(txn, numbers, READ, dst);
	bool good = passes(w, "reading", result, pgs_txn_error(txn), away_ms, began_ms) &&
		    check_all(w, names[freshness], numbers, pages, least, &n);
	pgs_abort(txn);
	if (!good)
		return false;
	w->seen = n;
	w->state->looks[freshness]++;
	if (freshness == PGS_LOCAL)
		w->state->seen = n;
	return true;
}

/* --- adding ------------------------------------------------------------------------------------------- */

static int write_commit(const chain_worker *w, pgs_txn *txn, uint64_t n)
{
	uint8_t page[TEST_PAGE_SIZE];
	content(w->shared, 0, n, page);
	int result = pgs_write(txn, 0, page);
	for (uint64_t i = 1; i <= PAGES && result == PGS_OK; i++) {
		if (!writes(n, i))
			continue;
		content(w->shared, i, n, page);
		result = pgs_write(txn, i, page);
	}
	for (uint64_t i = 0; i < BULK_PAGES && n % BULK_EVERY == BULK_AT && result == PGS_OK; i++) {
		content(w->shared, BULK_FIRST + i, n, page);
		result = pgs_write(txn, BULK_FIRST + i, page);
	}
	if (result == PGS_OK && n % BULK_EVERY == BULK_GONE_AT)
		result = pgs_truncate(txn, BULK_FIRST);
	return result;
}

static void acknowledge(chain_worker *w, uint64_t n, uint64_t revision)
{
	chain_commit *c = &w->shared->commits[n];
	uint64_t none = 0;
	if (!atomic_compare_exchange_strong(&c->revision, &none, revision)) {
		fail(w, "commit %llu was made at revision %llu, and again at %llu", (unsigned long long)n,
			(unsigned long long)none, (unsigned long long)revision);
		return;
	}
	c->at_ns = now_ns();
	raise_to(&w->shared->acknowledged, n);
	if (!(w->duties & CHAIN_ELSEWHERE))
		raise_to(&w->shared->acknowledged_on[w->machine], n);
	w->own = n;
	w->state->commits++;
}

bool chain_add(chain_worker *w)
{
	uint8_t page[TEST_PAGE_SIZE];
	uint64_t away_ms = may_fail_until(w), began_ms = pgs__now_ms(), revision;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *txn;
	head h;
	o.write = true;
	o.freshness = w->random >> 59 & 1 ? PGS_LOCAL : PGS_LATEST;
	if (!passes(w, "beginning to write", pgs_begin(&txn, w->db, &o, &err), &err, away_ms, began_ms))
		return false;
	int result = pgs_read(txn, 0, page);
	memcpy(&h, page, sizeof h);
	if (result == PGS_OK && h.commit + 1 < CHAIN_COMMITS)
		result = write_commit(w, txn, h.commit + 1);
	if (!passes(w, "writing", result, pgs_txn_error(txn), away_ms, began_ms)) {
		pgs_abort(txn);
		return false;
	}
	result = pgs_commit(txn, NULL, &revision, &err);
	if (result == PGS_ECONFLICT)
		w->state->conflicts++;
	else if (passes(w, "committing", result, &err, away_ms, began_ms))
		acknowledge(w, h.commit + 1, revision);
	return result == PGS_OK;
}

/* --- the process ---------------------------------------------------------------------------------------- */

static void maintain(chain_worker *w)
{
	uint64_t away_ms = may_fail_until(w), began_ms = pgs__now_ms();
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.retention_ms = CHAIN_RETENTION_MS;
	o.flush_pages = 100;
	o.level0_files = 2;
	o.budget_ms = 500;
	passes(w, "maintenance", pgs_maintain(w->db, &o, NULL, &err), &err, away_ms, began_ms);
}

static void now_and_then(chain_worker *w)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	if (w->duties & CHAIN_MAINTAINS)
		maintain(w);
	if (!(w->duties & CHAIN_ELSEWHERE) && pgs_stat(w->db, &stat, NULL) == PGS_OK)
		raise_to(&w->state->damaged, stat.disk_cache_bad);
}

bool chain_open(chain_worker *w, const char *url)
{
	pgs_store_options so = PGS_STORE_OPTIONS_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	so.timeout_ms = TIMEOUT_MS;
	so.maintenance = PGS_MAINTENANCE_MANUAL;
	so.kv_history = PGS_KV_HISTORY_OWNED;
	options.cache_bytes = 128 << 10; /* half of the pages: the cache file is needed */
	int result = pgs_open(&w->store, url, &so, &err);
	if (result == PGS_OK)
		result = pgs_db_open(&w->db, w->store, CHAIN_DB, strlen(CHAIN_DB), &options, &err);
	if (result != PGS_OK)
		fail(w, "opening: %s: %s", pgs_error_name(result), err.message);
	return result == PGS_OK;
}

void chain_close(chain_worker *w)
{
	pgs_db_close(w->db);
	pgs_close(w->store);
	w->db = NULL;
	w->store = NULL;
}

static void show(chain_worker *w)
{
	pgs_follow_stat follow = PGS_FOLLOW_STAT_INIT;
	if (pgs_follow_stat_get(w->db, &follow, NULL) == PGS_OK)
		raise_to(&w->state->restarts, follow.restarts);
	w->state->beat_ms = pgs__now_ms();
}

static void work(chain_worker *w)
{
	static const uint32_t freshness[] = {PGS_LOCAL, PGS_BOUNDED, PGS_LOCAL, PGS_LATEST, PGS_AT_LEAST};
	for (uint64_t i = 0; !w->shared->stop && !w->state->failure[0]; i++) {
		w->random = w->random * 6364136223846793005 + 1442695040888963407;
		show(w);
		chain_look(w, freshness[i % 5]);
		show(w);
		if (w->duties & CHAIN_WRITES && !w->shared->paused)
			chain_add(w);
		show(w);
		if (i % MAINTAIN_EVERY == MAINTAIN_EVERY - 1)
			now_and_then(w);
		pgs__sleep_ms(PAUSE_MS, 0);
	}
}

/* Arguments: the file of the shared memory, process, duties, machine, URL. */
int chain_process(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int fd = argc == 6 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
	chain_shared *s = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (s == MAP_FAILED)
		return 2;
	chain_worker w = {.shared = s,
			  .state = &s->processes[atoi(argv[2])],
			  .duties = (unsigned)atoi(argv[3]),
			  .machine = (unsigned)atoi(argv[4]),
			  .random = now_ns()};
	pgs_follow_options follow = PGS_FOLLOW_OPTIONS_INIT;
	follow.fetch = PGS_FETCH_NONE + (uint32_t)atoi(argv[2]) % 3; /* one of each */
	if (chain_open(&w, argv[5])) {
		if (w.duties & CHAIN_FOLLOWS && pgs_follow_start(w.db, &follow, NULL) != PGS_OK)
			fail(&w, "cannot follow");
		work(&w);
	}
	chain_close(&w);
	return w.state->failure[0] != '\0';
}
