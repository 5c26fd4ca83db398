/* Maintenance of a database: which jobs run, in which order, and when it ends.
 *
 *     floor ─→ flush ─→ fold ─→ merge ─→ sweep ─→ compact the KV
 *       └── contents reach files before they are merged, pointers are folded before the changelog is pruned; what a
 *           merge replaced is swept right after
 *
 * A call is one round. With `all` it is rounds until one changes nothing: then the floor job publishes twice, as a
 * content is dropped by its birth against the previous floor, and what was garbage when the round began goes in it.
 * With a budget a call ends in the middle of a round; the next begins with the job after the last one that worked, so
 * that each gets its turn, and `more` ends when each has had nothing to do since something was last done.
 *
 * With `all`, when nothing is left but what a holder on another machine is in the way of, its lease is waited for: a
 * process that runs once would never see it run out otherwise. One that renews it lives, and is left alone.
 *
 * A job that fails does not keep the others from their work: a full disk is a reason to sweep. The first error is the
 * call's, and the next call goes on from what is there.
 */
#include "maintain/maintain.h"

#include <string.h>

#include "maintain/jobs.h"
#include "util/clock.h"
#include "util/error.h"

#define WAIT_MAX_MS 600000 /* for holders on other machines, when no time is given */
#define WAIT_STEP_MS 250
#define ROUNDS_MAX 20 /* a writer that never rests must not keep `all` from ending */

typedef int (*job)(pgs__worker *w);
static const job jobs[] = {pgs__job_flush, pgs__job_fold, pgs__job_merge, pgs__job_sweep};
#define JOB_COUNT (sizeof jobs / sizeof *jobs)
#define ALL_JOBS ((1u << JOB_COUNT) - 1)

/* --- what is given, what is told ------------------------------------------------------- */

int pgs__maintain_check(const pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
			pgs_error *err)
{
	if (report->struct_size != sizeof *report)
		return pgs__error(err, PGS_EINVAL,
				  "pgs_maintain_report: struct_size is not set; use PGS_MAINTAIN_REPORT_INIT");
	*report = (pgs_maintain_report)PGS_MAINTAIN_REPORT_INIT;
	if (store->read_only)
		return pgs__error(err, PGS_EREADONLY, "the store was opened read-only");
	return options ? pgs__thresholds_check(options, err) : PGS_OK;
}

void pgs__maintain_add(pgs_maintain_report *sum, const pgs_maintain_report *part)
{
	sum->more |= part->more;
	sum->busy |= part->busy;
	if (part->floor_revision && (sum->floor_revision == 0 || part->floor_revision < sum->floor_revision))
		sum->floor_revision = part->floor_revision;
	if (part->compacted_revision > sum->compacted_revision)
		sum->compacted_revision = part->compacted_revision;
	sum->flushed_pages += part->flushed_pages;
	sum->merges += part->merges;
	sum->merged_files += part->merged_files;
	sum->bytes_read += part->bytes_read;
	sum->bytes_written += part->bytes_written;
	sum->dropped_contents += part->dropped_contents;
	sum->dropped_bytes += part->dropped_bytes;
	sum->damaged_contents += part->damaged_contents;
	sum->folded_packs += part->folded_packs;
	sum->folded_pointers += part->folded_pointers;
	sum->pruned_changes += part->pruned_changes;
	sum->removed_blobs += part->removed_blobs;
	sum->removed_bytes += part->removed_bytes;
	sum->removed_orphans += part->removed_orphans;
	sum->lost_pins += part->lost_pins;
	sum->due_flush_pages += part->due_flush_pages;
	sum->due_merge_files += part->due_merge_files;
	sum->due_packs += part->due_packs;
	sum->due_blobs += part->due_blobs;
}

/* Grows with everything that is done. */
static uint64_t work_done(const pgs_maintain_report *r)
{
	return r->flushed_pages + r->merges + r->dropped_contents + r->folded_packs + r->folded_pointers +
	       r->pruned_changes + r->removed_blobs;
}

bool pgs__maintain_did(const pgs_maintain_report *report)
{
	return work_done(report) != 0;
}

/* --- one call --------------------------------------------------------------------------- */

typedef struct run {
	pgs__worker worker;
	pgs_error later; /* of jobs after the first that failed */
	pgs_error *err;
	int result;      /* the first failure */
	bool bounded;
	bool overtaken;  /* a job was: it is not done */
	uint64_t wait_until_ms; /* waiting for others ends then; 0 = there was none yet */
	uint32_t idle;   /* jobs that had nothing to do since something was last done */
} run;

/* Whether other jobs may do better than the one that failed so. */
static bool may_go_on(int result)
{
	return result == PGS_EIO || result == PGS_ENOSPC || result == PGS_ECORRUPT || result == PGS_EVERSION ||
	       result == PGS_ELIMIT;
}

/* A job reads keys as of one revision. If that is gone because another worker raised the floor and compacted the KV to
 * it, the next run does better; if someone else compacted the KV above the floor, that is told. The KV is asked before
 * the floor, which is published before the KV is compacted to it. */
static bool was_overtaken(run *r)
{
	pgs__worker *w = &r->worker;
	pgs_kv *kv = pgs__db_backend(w->db)->kv;
	pgs_error *err = w->err, local = PGS_ERROR_INIT;
	pgs_kv_stat stat;
	w->err = &local; /* what the job said is still to be told */
	bool known = kv->vtable->stat(kv, &stat, pgs__worker_deadline(w), w->err) == PGS_OK &&
		     pgs__worker_read_floor(w) == PGS_OK;
	w->err = err;
	return known && (stat.compacted_revision <= w->floor.floor || stat.compacted_revision <= w->created);
}

/* Run a job. False: the call ends here. */
static bool run_job(run *r, job run_it)
{
	int result = run_it(&r->worker);
	if (result == PGS_EOLDREV && was_overtaken(r)) {
		r->overtaken = r->worker.report->more = true;
		return true;
	}
	if (result == PGS_OK)
		return true;
	if (r->result == PGS_OK) {
		r->result = result;
		r->worker.err = &r->later;
	}
	return may_go_on(result);
}

/* Where a bounded call begins: after the job that worked last. */
static uint32_t first_job(run *r)
{
	pgs__upkeep *u = &r->worker.db->upkeep;
	if (!r->bounded)
		return 0;
	pthread_mutex_lock(&u->lock);
	r->idle = u->idle_jobs == ALL_JOBS ? 0 : u->idle_jobs;
	uint32_t first = u->next_job % JOB_COUNT;
	pthread_mutex_unlock(&u->lock);
	return first;
}

static void note_turn(run *r, uint32_t next)
{
	pgs__upkeep *u = &r->worker.db->upkeep;
	if (!r->bounded)
		return;
	pthread_mutex_lock(&u->lock);
	u->next_job = next;
	u->idle_jobs = r->idle;
	pthread_mutex_unlock(&u->lock);
}

/* Every job once, or until the budget is used up: then *more unless those left out had nothing to do lately. False: the
 * call ends here. */
static bool run_jobs(run *r)
{
	pgs_maintain_report *report = r->worker.report;
	uint32_t first = first_job(r), i = 0, skipped = 0;
	bool more = false, go_on = true;
	for (; go_on && i < JOB_COUNT && !(i && pgs__worker_spent(&r->worker)); i++) {
		uint32_t which = (first + i) % JOB_COUNT;
		uint64_t before = work_done(report);
		report->more = false;
		go_on = run_job(r, jobs[which]);
		if (work_done(report) != before)
			r->idle = 0; /* what one does gives the others work */
		if (!report->more)
			r->idle |= 1u << which;
		more |= report->more;
	}
	for (uint32_t left = i; left < JOB_COUNT; left++)
		skipped |= 1u << (first + left) % JOB_COUNT;
	report->more = more || (skipped & ~r->idle);
	note_turn(r, first + i);
	return go_on;
}

/* Bytes and time count from here: whatever the floor took, every call gets something done. */
static void start_budget(run *r)
{
	pgs__worker *w = &r->worker;
	w->bytes_left = w->options.budget_bytes ? w->options.budget_bytes : UINT64_MAX;
	w->deadline_ms = w->options.budget_ms ? pgs__now_ms() + w->options.budget_ms : 0;
}

static bool is_spent(const run *r)
{
	return r->bounded && pgs__worker_spent(&r->worker);
}

typedef enum holding { HELD, RENEWED, ENDED } holding;

/* What has become of a claim or pin since it was judged. */
static int look_at_holder(pgs__worker *w, const pgs__lease *lease, holding *now)
{
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&lease->key), 0);
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(pgs__db_backend(w->db), &txn, &op, 1, pgs__worker_deadline(w), w->err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	*now = !pair || pgs__now_ms() >= lease->dead_at_ms ? ENDED : HELD;
	if (pair && pair->mod_revision != lease->mod_revision)
		*now = RENEWED;
	pgs__kv_release(pgs__db_backend(w->db), &txn, 1);
	return result;
}

/* Wait for what is in the way, if that can end in time. True: it has ended, go on. */
static bool wait_for_holder(run *r)
{
	pgs__worker *w = &r->worker;
	const pgs__lease lease = w->in_the_way;
	uint64_t began = pgs__now_ms();
	holding now = HELD;
	if (r->wait_until_ms == 0)
		r->wait_until_ms = w->deadline_ms ? w->deadline_ms : began + WAIT_MAX_MS;
	if (lease.key.size == 0 || lease.dead_at_ms > r->wait_until_ms)
		return false;
	while (r->result == PGS_OK && now == HELD) {
		pgs_maintain_progress progress = {"wait", pgs__now_ms() - began, 0};
		r->result = look_at_holder(w, &lease, &now);
		if (r->result == PGS_OK && w->options.progress)
			r->result = w->options.progress(w->options.progress_ctx, &progress);
		if (r->result == PGS_OK && now == HELD)
			pgs__sleep_ms(WAIT_STEP_MS, lease.dead_at_ms);
	}
	return r->result == PGS_OK && now == ENDED;
}

static void run_rounds(run *r)
{
	pgs_maintain_report *report = r->worker.report;
	bool again = true, go_on = true;
	for (int round = 0; again && round < ROUNDS_MAX; round++) {
		uint64_t before = work_done(report);
		r->overtaken = false;
		r->worker.in_the_way.key.size = 0;
		go_on = run_job(r, pgs__job_floor);
		if (round == 0)
			start_budget(r);
		if (!go_on || !run_jobs(r))
			return;
		if (!r->worker.options.all || r->worker.options.dry_run || r->result != PGS_OK || is_spent(r))
			break;
		again = work_done(report) != before || r->overtaken;
		if (!again && wait_for_holder(r)) {
			again = true;
			report->busy = false;
		}
	}
	report->more |= r->overtaken;
}

/* What is due at the end, as far as counting keys tells; due_merge_files is the merge's to say. */
static void report_due(run *r)
{
	pgs__worker *w = &r->worker;
	pgs_maintain_report *report = w->report;
	pgs__gauges gauges;
	uint64_t began = pgs__now_ms(), due = w->options.flush_pages;
	if (pgs__gauges_count(w->db, &gauges, pgs__db_deadline(w->db, 0), NULL) != PGS_OK)
		return;
	pgs__upkeep_counted(w->db, &gauges, pgs__now_ms() - began);
	if (w->options.flush_bytes / w->db->contents.page_size < due)
		due = w->options.flush_bytes / w->db->contents.page_size;
	if (w->options.all || due == 0)
		due = 1;
	report->due_flush_pages = gauges.at[PGS__GAUGE_CONTENTS] >= due ? gauges.at[PGS__GAUGE_CONTENTS] : 0;
	report->due_packs = gauges.at[PGS__GAUGE_PACKS];
	report->due_blobs = gauges.unregistered;
}

static void run_init(run *r, pgs_db *db, const pgs_maintain_options *options, pgs_maintain_report *report,
		     pgs_error *err)
{
	*r = (run){.err = err, .later = PGS_ERROR_INIT};
	r->worker = (pgs__worker){.db = db,
				  .options = pgs__thresholds_resolve(options, &db->maintain),
				  .report = report,
				  .err = err,
				  .bytes_left = UINT64_MAX};
	r->bounded = r->worker.options.budget_ms || r->worker.options.budget_bytes;
}

int pgs__maintain_db(pgs_db *db, const pgs_maintain_options *options, bool compact, pgs_maintain_report *report,
		     pgs_error *err)
{
	run r;
	run_init(&r, db, options, report, err);
	int result = pgs__worker_read_floor(&r.worker);
	if (result != PGS_OK)
		return result;
	uint64_t floor = r.worker.floor.floor;
	run_rounds(&r);
	bool more = report->more;
	/* Bounded calls are many: only where there is something new to forget. */
	compact = compact && !r.worker.options.dry_run && (!r.bounded || r.worker.floor.floor != floor);
	if (compact && (r.result == PGS_OK || may_go_on(r.result)))
		run_job(&r, pgs__job_compact_kv);
	report->more |= more;
	report->floor_revision = r.worker.floor.floor;
	report_due(&r);
	return r.result;
}

int pgs__maintain_compact(pgs_db *db, const pgs_maintain_options *options, pgs_maintain_report *report,
			  pgs_error *err)
{
	run r;
	run_init(&r, db, options, report, err);
	int result = pgs__worker_read_floor(&r.worker);
	if (result != PGS_OK || r.worker.options.dry_run)
		return result;
	run_job(&r, pgs__job_compact_kv);
	return r.result;
}

int pgs_maintain(pgs_db *db, const pgs_maintain_options *options, pgs_maintain_report *report, pgs_error *err)
{
	pgs_maintain_report local = PGS_MAINTAIN_REPORT_INIT;
	pgs_maintain_report *told = report ? report : &local;
	int result = pgs__maintain_check(db->store, options, told, err);
	if (result == PGS_OK)
		result = pgs__maintain_db(db, options, true, told, err);
	return result;
}
