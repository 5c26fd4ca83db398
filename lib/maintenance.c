/* Who does maintenance: pgs_maintain_store(), and what runs by itself.
 *
 *     by writers   pgs_commit() ─→ help() ── nothing due, or another thread is at it: back at once
 *                                    └─ due: one bounded run, in the thread that committed
 *     by a thread  pgs_commit() ─→ help() ── due: wake it
 *                  keeper: wait ─→ every open database: is it due? ─→ bounded runs until nothing is, or stop
 *
 * A run is due when a gauge passed its mark (pressure.h), when the last one left work, or when the database's routine
 * time has come: floors are published, and the changelog is pruned, also where nothing else happens.
 *
 * What goes wrong is logged, remembered for pgs_stat(), and tried again after a while; no commit fails because of it.
 * After a run there is a rest as long as the run, after one that got nowhere a longer one each time, so that
 * maintenance that cannot do anything costs nothing.
 */
#include "maintenance.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "maintain/maintain.h"
#include "maintain/dropped.h"
#include "txn/db.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/task.h"

#define WRITER_BUDGET_MS 25
#define THREAD_BUDGET_MS 250
#define BUDGET_MAX_MS 8000        /* of a run, after ones that got nowhere */
#define WRITER_MEMORY (16u << 20)
#define CACHE_BYTES (1u << 20)    /* of databases opened only for this */
#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 30000
#define WAKE_MAX_MS 10000         /* others may commit to what only this process looks after */
#define STOPPED 1                 /* the progress callback's: not an error of the library's */

/* --- a run ---------------------------------------------------------------------------- */

typedef struct pgs__keeper {
	pgs__task thread;
	pid_t pid; /* where the thread is: after fork() the child has none */
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool woken;
	_Atomic bool stop;
	pgs_store *store;
} pgs__keeper;

/* Whether a run should be made now. Costs a lock, and a count of keys at times. */
static bool is_due(pgs_db *db, bool urgent)
{
	pgs__upkeep *u = &db->upkeep;
	uint64_t now = pgs__now_ms();
	pthread_mutex_lock(&u->lock);
	bool resting = now < u->rest_until_ms && !urgent;
	bool routine = u->more || now >= u->routine_ms;
	pthread_mutex_unlock(&u->lock);
	if (resting)
		return false;
	if (routine)
		return true;
	pgs__upkeep_refresh(db, pgs__db_deadline(db, 0));
	return pgs__upkeep_is_due(db);
}

/* When to run again, and with which budget. */
static void schedule(pgs_db *db, const pgs_maintain_report *report, int result, uint64_t took_ms, uint32_t budget_ms)
{
	pgs__upkeep *u = &db->upkeep;
	uint64_t now = pgs__now_ms();
	bool stuck = result != PGS_OK || (!pgs__maintain_did(report) && (report->more || pgs__upkeep_is_due(db)));
	pthread_mutex_lock(&u->lock);
	u->last_error = result == STOPPED ? PGS_OK : result;
	u->more = report->more && result == PGS_OK;
	if (!u->more)
		u->routine_ms = now + u->interval_ms;
	if (!stuck) {
		u->pause_ms = 0;
		u->budget_ms = budget_ms;
	} else {
		u->pause_ms = u->pause_ms ? 2 * u->pause_ms : PAUSE_MIN_MS;
		u->budget_ms = 2 * u->budget_ms; /* a step that needs more than a budget must come to its end once */
	}
	if (u->pause_ms > PAUSE_MAX_MS)
		u->pause_ms = PAUSE_MAX_MS;
	if (u->budget_ms > BUDGET_MAX_MS)
		u->budget_ms = BUDGET_MAX_MS;
	u->rest_until_ms = now + (u->pause_ms > took_ms ? u->pause_ms : took_ms);
	pthread_mutex_unlock(&u->lock);
}

static int go_on_unless_stopped(void *ctx, const pgs_maintain_progress *progress)
{
	(void)progress;
	return ((const pgs__keeper *)ctx)->stop ? STOPPED : 0;
}

static void run_once(pgs_db *db, pgs__keeper *keeper)
{
	pgs__upkeep *u = &db->upkeep;
	uint32_t usual = keeper ? THREAD_BUDGET_MS : WRITER_BUDGET_MS;
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	uint64_t began = pgs__now_ms();
	pthread_mutex_lock(&u->lock);
	if (u->budget_ms < usual)
		u->budget_ms = usual;
	o.budget_ms = u->budget_ms;
	pthread_mutex_unlock(&u->lock);
	if (keeper) {
		o.progress = go_on_unless_stopped;
		o.progress_ctx = keeper;
	} else {
		o.memory_bytes = WRITER_MEMORY;
	}
	int result = pgs__maintain_db(db, &o, true, &report, &err);
	schedule(db, &report, result, pgs__now_ms() - began, usual);
	if (result != PGS_OK && result != STOPPED && result != PGS_ENOTFOUND)
		pgs__log(db->store, PGS_LOG_WARN, "maintenance of database %s failed, and is tried again: %s: %s", db->name,
			 pgs_error_name(result), err.message);
}

/* --- by writers -------------------------------------------------------------------------- */

static void help_by_writing(pgs_db *db, bool urgent)
{
	bool idle = false;
	if (!is_due(db, urgent) || !atomic_compare_exchange_strong(&db->store->helping, &idle, true))
		return;
	pgs_cost *before = pgs__charge(NULL); /* it is nobody's transaction */
	run_once(db, NULL);
	pgs__charge(before);
	atomic_store(&db->store->helping, false);
}

/* --- by a thread ---------------------------------------------------------------------------- */

static void wake(pgs__keeper *keeper)
{
	pthread_mutex_lock(&keeper->lock);
	keeper->woken = true;
	pthread_cond_signal(&keeper->wake);
	pthread_mutex_unlock(&keeper->lock);
}

static void help_by_waking(pgs_db *db, bool urgent)
{
	if (is_due(db, urgent))
		wake(db->store->keeper);
}

/* The open database after `previous` (NULL = the first) with a reference, or NULL. `previous` gives its own back. It
 * stays open, and so in the list, until then. */
static pgs_db *next_open(pgs_store *store, pgs_db *previous)
{
	pthread_mutex_lock(&store->lock);
	pgs_db *next = previous ? previous->next : store->databases;
	if (next)
		next->references++;
	pthread_mutex_unlock(&store->lock);
	pgs_db_close(previous);
	return next;
}

/* One run for every database that is due; whether there was one. *sleep_ms: until the next will be, at the most. */
static bool keep_databases(pgs__keeper *keeper, uint64_t *sleep_ms)
{
	bool ran = false;
	*sleep_ms = WAKE_MAX_MS;
	for (pgs_db *db = NULL; (db = next_open(keeper->store, db));) {
		pgs__upkeep *u = &db->upkeep;
		if (!keeper->stop && is_due(db, false)) {
			run_once(db, keeper);
			ran = true;
		}
		pthread_mutex_lock(&u->lock);
		uint64_t now = pgs__now_ms(), next = u->more ? u->rest_until_ms : u->routine_ms;
		if (next < u->rest_until_ms)
			next = u->rest_until_ms;
		uint64_t left = next > now ? next - now : 0;
		pthread_mutex_unlock(&u->lock);
		*sleep_ms = left < *sleep_ms ? left : *sleep_ms;
	}
	return ran;
}

static void sleep_until_woken(pgs__keeper *keeper, uint64_t ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&keeper->lock);
	int rc = 0;
	while (!keeper->woken && !keeper->stop && rc == 0)
		rc = pthread_cond_timedwait(&keeper->wake, &keeper->lock, &until);
	keeper->woken = false;
	pthread_mutex_unlock(&keeper->lock);
}

static void *keep(void *ctx)
{
	pgs__keeper *keeper = ctx;
	while (!keeper->stop) {
		uint64_t sleep_ms;
		keep_databases(keeper, &sleep_ms);
		sleep_until_woken(keeper, sleep_ms ? sleep_ms : 1);
	}
	return NULL;
}

static int start_keeper(pgs_store *store, pgs_error *err)
{
	pgs__keeper *keeper = pgs__calloc(1, sizeof *keeper);
	pthread_condattr_t attributes;
	if (!keeper)
		return pgs__error_nomem(err, "maintenance thread");
	keeper->store = store;
	keeper->pid = getpid();
	pthread_mutex_init(&keeper->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&keeper->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	store->keeper = keeper; /* before the thread looks */
	if (pgs__task_start(&keeper->thread, keep, keeper))
		return PGS_OK;
	store->keeper = NULL;
	pthread_cond_destroy(&keeper->wake);
	pthread_mutex_destroy(&keeper->lock);
	pgs__free(keeper);
	return pgs__error(err, PGS_ENOMEM, "cannot start the maintenance thread: the system gives no thread");
}

/* --- beginning and ending -------------------------------------------------------------------- */

int pgs__maintenance_start(pgs_store *store, pgs_error *err)
{
	if (store->read_only || store->maintenance == PGS_MAINTENANCE_MANUAL)
		return PGS_OK;
	if (store->maintenance == PGS_MAINTENANCE_BY_WRITERS) {
		store->help = help_by_writing;
		return PGS_OK;
	}
	int result = start_keeper(store, err);
	if (result == PGS_OK)
		store->help = help_by_waking;
	return result;
}

void pgs__maintenance_stop(pgs_store *store)
{
	pgs__keeper *keeper = store->keeper;
	if (!keeper)
		return;
	if (keeper->pid == getpid()) {
		keeper->stop = true;
		wake(keeper);
		pgs__task_join(&keeper->thread);
		pthread_cond_destroy(&keeper->wake);
		pthread_mutex_destroy(&keeper->lock);
	}
	store->keeper = NULL;
	store->help = NULL;
	pgs__free(keeper);
}

void pgs__maintenance_opened(pgs_store *store)
{
	if (store->keeper)
		wake(store->keeper);
}

/* --- every database of a store ------------------------------------------------------------------ */

typedef struct name {
	uint8_t size;
	uint8_t bytes[PGS_DB_NAME_MAX];
} name;

typedef struct round {
	pgs_store *store;
	pgs_maintain_options options; /* budgets: what is left of them */
	pgs_maintain_report *report;
	pgs_error *err;
	uint64_t end_ms; /* 0 = no bound */
	int result;      /* the first failure */
	bool bounded_bytes, ended;
	name *names;
	size_t count, capacity;
} round;

static int collect_name(void *ctx, const void *bytes, size_t size)
{
	round *r = ctx;
	if (pgs__grow(&r->names, &r->capacity, r->count + 1, sizeof *r->names) != PGS_OK)
		return pgs__error_nomem(r->err, "names of databases");
	name *n = &r->names[r->count++];
	n->size = (uint8_t)size;
	memcpy(n->bytes, bytes, size);
	return 0;
}

/* Take what was used off the budgets. False: one is used up, and work may be left. */
static bool take_off(round *r, uint64_t bytes)
{
	uint64_t now = pgs__now_ms();
	if (r->bounded_bytes)
		r->options.budget_bytes = bytes < r->options.budget_bytes ? r->options.budget_bytes - bytes : 0;
	if (r->end_ms)
		r->options.budget_ms = now < r->end_ms ? r->end_ms - now : 0;
	return !(r->bounded_bytes && !r->options.budget_bytes) && !(r->end_ms && !r->options.budget_ms);
}

/* A failure that concerns one database leaves the others theirs; what concerns all, or is no error (the progress
 * callback's), ends the call. */
static void note_failure(round *r, const name *n, int result, const pgs_error *err)
{
	char printable[4 * PGS_DB_NAME_MAX + 1];
	bool local = result == PGS_EIO || result == PGS_ENOSPC || result == PGS_ELIMIT || result == PGS_EOLDREV ||
		     pgs_error_class(result) == PGS_CLASS_DATA;
	r->ended = !local;
	if (r->result != PGS_OK)
		return;
	r->result = result;
	pgs__printable(printable, sizeof printable, n->bytes, n->size);
	pgs__error(r->err, result, "database %s: %s", printable, err->message);
}

static void maintain_one(round *r, const name *n)
{
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_maintain_report part = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_db *db;
	o.cache_bytes = CACHE_BYTES;
	int result = pgs_db_open(&db, r->store, n->bytes, n->size, &o, &err);
	if (result == PGS_OK) {
		result = pgs__maintain_db(db, &r->options, false, &part, &err);
		pgs__maintain_add(r->report, &part);
		pgs_db_close(db);
	}
	if (result != PGS_OK && result != PGS_ENOTFOUND) /* dropped meanwhile */
		note_failure(r, n, result, &err);
}

static void maintain_each(round *r)
{
	uint32_t first = r->count ? r->store->next_database % (uint32_t)r->count : 0;
	size_t i = 0;
	for (bool left = true; i < r->count && left && !r->ended; i++) {
		uint64_t before = r->report->bytes_written;
		maintain_one(r, &r->names[(first + i) % r->count]);
		left = take_off(r, r->report->bytes_written - before);
	}
	if (i < r->count)
		r->report->more = true;
	r->store->next_database = first + (uint32_t)i;
}

/* The KV is compacted through any of them. */
static void compact(round *r)
{
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	int result = PGS_ENOTFOUND;
	o.cache_bytes = CACHE_BYTES;
	for (size_t i = 0; i < r->count && result == PGS_ENOTFOUND && !r->ended; i++) {
		pgs_db *db;
		result = pgs_db_open(&db, r->store, r->names[i].bytes, r->names[i].size, &o, &err);
		if (result != PGS_OK)
			continue;
		result = pgs__maintain_compact(db, &r->options, r->report, &err);
		pgs_db_close(db);
		if (result != PGS_OK && result != PGS_ENOTFOUND)
			note_failure(r, &r->names[i], result, &err);
	}
}

/* What belongs to no database. It gets a moment also when the databases used up the budget. */
static void sweep_store(round *r)
{
	pgs_error err = PGS_ERROR_INIT;
	if (r->end_ms && r->options.budget_ms == 0)
		r->options.budget_ms = 1;
	int result = pgs__sweep_dropped(r->store, &r->options, r->report, &err);
	if (result == PGS_OK)
		result = pgs__sweep_stray_blobs(r->store, &r->options, r->report, &err);
	if (result != PGS_OK && r->result == PGS_OK) {
		r->result = result;
		pgs__error(r->err, result, "%s", err.message);
	}
}

int pgs_maintain_store(pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
		       pgs_error *err)
{
	pgs_maintain_report local = PGS_MAINTAIN_REPORT_INIT;
	round r = {.store = store, .options = PGS_MAINTAIN_OPTIONS_INIT, .report = report ? report : &local, .err = err};
	int result = pgs__maintain_check(store, options, r.report, err);
	if (result != PGS_OK)
		return result;
	if (options)
		r.options = *options;
	r.bounded_bytes = r.options.budget_bytes != 0;
	r.end_ms = r.options.budget_ms ? pgs__now_ms() + r.options.budget_ms : 0;
	result = pgs_db_list(store, collect_name, &r, err);
	if (result == PGS_OK) {
		maintain_each(&r);
		compact(&r);
		if (!r.ended)
			sweep_store(&r);
		result = r.result;
	}
	pgs__free(r.names);
	return result;
}
