/* Merging sorted files down the levels, and dropping garbage on the way.
 *
 *     map of files ── plan ──→ claim its levels and ids ── does the plan still hold? ──→ merge ── decide about each id
 *                                                                                          │
 *                        inputs as they were  ⇒  outputs registered, inputs not any more ←─┘
 *
 * The registration compares floor <= B, the revision at which the merge began. So that this does not fail again and
 * again where retention is short and others publish floors, B is pinned while files are copied. Floors may still rise
 * up to B, and with them the live set: merges that overlap, one after the other, do not keep the floor for ever.
 *
 * A content is left out only if its birth is not above the previous floor and it is not live at the floor (invariant
 * 7). Where something below may hold an older copy, a tombstone of that birth takes its place, so that the merge that
 * meets the copy need not ask again; it is a hint, and ends no search.
 *
 * Garbage that no merge would come by goes by turnover: some files are looked through, most when there are far more
 * contents than can be live, and one with much garbage is rewritten where it is, one in each run. Looking costs a table
 * and the pointers of its groups, a hundredth of rewriting.
 */
#include <string.h>

#include "content/sorted_merge.h"
#include "maintain/jobs.h"
#include "maintain/live.h"
#include "maintain/plan.h"
#include "maintain/replace.h"
#include "maintain/table.h"
#include "txn/revision_pin.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define BUSY_MAX 32
#define STEPS_SPARE 64           /* merges of one run, beyond two for each file there was: writers may outrun us */
#define TURNOVER_PERCENT 30      /* of garbage, beyond what can be live, and in a file */
#define TURNOVER_LOOKS 4         /* files looked through for it in a run, */
#define TURNOVER_SOMETIMES 8     /* or one in so many runs, when there is no sign of it */
#define PIN_LEASE_MS 30000       /* as a claim's */
#define PIN_TRIES 3              /* floors that may pass meanwhile */
#define FAILURES_MAX 3           /* merges that others made useless, before leaving it to them */

/* A run of the job. */
typedef struct job {
	pgs__worker *w;
	pgs__plan_rules rules;
	pgs__scope busy[BUSY_MAX];
	size_t busy_count;
	bool turned_over;    /* one file was: enough for a run */
	bool passed;         /* options.all: files of the deepest level up to `after` are done, */
	bool rewritten;      /* some of them rewritten; */
	bool joining;        /* all have been looked through for garbage */
	pgs__page_id after;
	uint64_t steps_left;
	unsigned failures;
	bool finished;       /* there was nothing more to choose */
	pgs__file_map *map;  /* what the plan was made of */
	pgs__plan plan;
	bool stop;           /* the claim was broken, or others have everything */
} job;

/* One merge. */
typedef struct merging {
	pgs__worker *w;
	const job *job;
	pgs__claim claim;
	pgs__live *live;     /* opened when it is first asked */
	pgs__merge merge;
	uint64_t base_revision;
	pgs__pin pin;        /* of it */
	uint64_t pinned_ms;  /* when it was put, or that was last tried */
	int ended;           /* what the caller's progress callback ended it with, whatever code that is */
} merging;

static int tell_progress(const pgs__worker *w, uint64_t done, uint64_t total)
{
	const pgs_maintain_progress progress = {"merge", done, total};
	return w->options.progress ? w->options.progress(w->options.progress_ctx, &progress) : PGS_OK;
}

/* --- what is garbage ------------------------------------------------------------- */

/* The largest birth of what may be dropped. */
static uint64_t birth_limit(const pgs__worker *w)
{
	return PGS__BUG(BIRTH_AGAINST_FLOOR) ? w->floor.floor : w->floor.previous;
}

static int is_garbage(pgs__worker *w, pgs__live **live, const pgs__page_id *id, uint64_t birth, bool *garbage)
{
	bool is_live = true;
	int result = PGS_OK;
	*garbage = false;
	if (birth > birth_limit(w))
		return PGS_OK;
	if (!*live)
		result = pgs__live_open(live, w);
	if (result == PGS_OK)
		result = pgs__live_has(*live, id, &is_live);
	*garbage = result == PGS_OK && !is_live;
	return result;
}

static int decide(void *ctx, const pgs__page_id *id, uint64_t *birth, bool tombstone)
{
	merging *m = ctx;
	bool garbage, below = false;
	if (tombstone)
		return pgs__plan_below_may_hold(m->job->map, m->merge.level, id) ? PGS__MERGE_KEEP : PGS__MERGE_DROP;
	uint64_t limit = birth_limit(m->w); /* of the floor we ask by, or of one before it, which is as true */
	int result = is_garbage(m->w, &m->live, id, *birth, &garbage);
	if (result != PGS_OK)
		return result;
	if (!garbage)
		return PGS__MERGE_KEEP;
	below = pgs__plan_below_may_hold(m->job->map, m->merge.level, id);
	*birth = limit;
	return below ? PGS__MERGE_TOMBSTONE : PGS__MERGE_DROP;
}

/* Looking for garbage in a table. */
typedef struct search {
	pgs__worker *w;
	pgs__live *live;
	uint64_t found, enough;
} search;

#define FOUND 1 /* ends the search: no error's code */

static int search_row(void *ctx, const pgs__sorted_entry *entry)
{
	search *s = ctx;
	bool garbage = entry->length == 0; /* a tombstone: it has done its work, or soon will have */
	int result = garbage ? PGS_OK : is_garbage(s->w, &s->live, &entry->id, entry->birth, &garbage);
	s->found += garbage;
	return result == PGS_OK && s->found >= s->enough ? FOUND : result;
}

/* Whether so much of a file is garbage: any at all, for 0 percent. */
static int has_garbage(pgs__worker *w, const pgs__file *file, unsigned percent, bool *garbage)
{
	search s = {.w = w, .enough = file->index.count * percent / 100};
	s.enough += s.enough == 0;
	int result = pgs__table_visit(w, file, search_row, &s);
	pgs__live_close(s.live);
	*garbage = result == FOUND;
	return result == FOUND || result == PGS_ENOTFOUND ? PGS_OK : result;
}

/* --- choosing ---------------------------------------------------------------------- */

static void drop_plan(job *j)
{
	pgs__plan_free(&j->plan);
	pgs__file_map_release(j->map);
	j->map = NULL;
}

/* Read the files there are. A damaged l/ value stops merging: what it says nothing of may be anywhere. */
static int refresh(job *j)
{
	pgs__worker *w = j->w;
	pgs__contents *contents = &w->db->contents;
	drop_plan(j);
	int result = pgs__levels_refresh(&contents->levels, contents->backend, contents->prefix, pgs__worker_deadline(w),
					 w->err);
	if (result == PGS_OK)
		j->map = pgs__levels_map(&contents->levels);
	return result;
}

/* The next neighbours, and whether to rewrite them. */
static int look_at_neighbours(job *j, bool *rewrite)
{
	*rewrite = false;
	pgs__plan_free(&j->plan);
	if (pgs__plan_neighbours(j->map, &j->rules, j->passed ? &j->after : NULL, &j->plan) != PGS_OK)
		return pgs__error_nomem(j->w->err, "choosing a merge");
	*rewrite = j->plan.count > 1;
	if (j->plan.count == 0)
		return PGS_OK;
	j->passed = true;
	j->after = j->plan.scope.last;
	int result = *rewrite || j->joining ? PGS_OK : has_garbage(j->w, j->plan.inputs[0], 0, rewrite);
	j->rewritten |= *rewrite;
	return result == PGS_OK ? tell_progress(j->w, 0, 0) : result;
}

/* options.all, when nothing is above the deepest level: neighbours that fit one file, and files with garbage. Without
 * it files are smaller, so then neighbours are looked at again, as long as some are joined. The search is not cut short
 * by the budget, as the next run would begin here again. */
static int plan_clean(job *j)
{
	for (;;) {
		bool rewrite;
		int result = look_at_neighbours(j, &rewrite);
		if (result != PGS_OK || rewrite)
			return result;
		if (j->plan.count)
			continue;
		if (!j->rewritten)
			return PGS_OK;
		j->passed = j->rewritten = false;
		j->joining = true;
	}
}

/* Whether there are more contents than can be live, by far. */
static int turnover_due(job *j, bool *due)
{
	uint64_t contents = 0;
	pgs__live *live;
	int result = pgs__live_open(&live, j->w);
	if (result != PGS_OK)
		return result;
	for (size_t i = 0; i < j->map->count; i++)
		contents += j->map->files[i]->index.count;
	uint64_t max = pgs__live_count_max(live);
	*due = contents > max + max / 100 * TURNOVER_PERCENT + j->w->options.flush_pages;
	pgs__live_close(live);
	return PGS_OK;
}

/* Look through files, chosen by chance, for one that is worth rewriting. Only what was there at the previous floor can
 * have garbage, so no file is looked at twice for the same. */
static int plan_turnover(job *j)
{
	bool due = false, worth = false;
	if (j->turned_over || j->w->floor.previous == 0 || j->map->count == 0)
		return PGS_OK;
	j->turned_over = true;
	int result = turnover_due(j, &due);
	int looks = due ? TURNOVER_LOOKS : j->rules.random % TURNOVER_SOMETIMES == 0;
	for (; result == PGS_OK && !worth && looks > 0; looks--) {
		pgs__plan_free(&j->plan);
		j->rules.random = j->rules.random * 6364136223846793005u + 1442695040888963407u;
		if (pgs__plan_rewrite(j->map, &j->rules, j->w->floor.previous, &j->plan) != PGS_OK)
			return pgs__error_nomem(j->w->err, "choosing a merge");
		if (j->plan.count)
			result = has_garbage(j->w, j->plan.inputs[0], TURNOVER_PERCENT, &worth);
	}
	if (!worth)
		pgs__plan_free(&j->plan);
	return result;
}

/* The next merge, in j->plan; count 0: there is none. */
static int choose(job *j)
{
	bool all = j->w->options.all;
	int result = refresh(j);
	if (result != PGS_OK)
		return result;
	result = all ? pgs__plan_down(j->map, &j->rules, &j->plan) : pgs__plan_due(j->map, &j->rules, &j->plan);
	if (result != PGS_OK)
		return pgs__error_nomem(j->w->err, "choosing a merge");
	if (j->plan.count)
		return PGS_OK;
	pgs__plan_free(&j->plan);
	return all ? plan_clean(j) : plan_turnover(j);
}

/* --- merging -------------------------------------------------------------------------- */

/* The KV's revision now: what the merge is going to do relies on nothing older. */
static int read_base_revision(pgs__worker *w, uint64_t *revision)
{
	pgs__key m = pgs__key_single(pgs__db_prefix(w->db), 'm');
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&m), 0);
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(pgs__db_backend(w->db), &txn, &op, 1, pgs__worker_deadline(w), w->err);
	*revision = result == PGS_OK ? txn.revision : 0;
	pgs__kv_release(pgs__db_backend(w->db), &txn, 1);
	return result;
}

/* Choose B and pin it. Without the pin the merge may be in vain, and that is all: failing to get it is no error. A move
 * is one step: it needs none. */
static int begin_at_base(merging *m, bool pin)
{
	pgs__worker *w = m->w;
	bool passed = true;
	int result = PGS_OK;
	for (int i = 0; result == PGS_OK && passed && i < PIN_TRIES; i++) {
		pgs__pin_release(&m->pin, pgs__worker_deadline(w));
		result = pgs__worker_read_floor(w);
		if (result == PGS_OK)
			result = read_base_revision(w, &m->base_revision);
		if (result != PGS_OK || !pin || PGS__BUG(MERGE_IGNORES_FLOOR))
			return result;
		m->pinned_ms = pgs__now_ms();
		passed = pgs__pin_take(&m->pin, w->db, m->base_revision, PIN_LEASE_MS, pgs__worker_deadline(w), NULL) ==
			 PGS_EOLDREV;
	}
	return result;
}

/* If it is due. */
static void renew_pin(merging *m)
{
	uint64_t now = pgs__now_ms();
	if (!m->pin.sent || now - m->pinned_ms < PIN_LEASE_MS / 3)
		return;
	m->pinned_ms = now;
	pgs__pin_renew(&m->pin, pgs__worker_deadline(m->w), NULL);
}

static int merge_progress(void *ctx, uint64_t bytes_copied)
{
	merging *m = ctx;
	int result = pgs__claim_renew(m->w, &m->claim);
	if (result == PGS_OK)
		renew_pin(m);
	if (result == PGS_OK)
		result = m->ended = tell_progress(m->w, bytes_copied, m->merge.input_bytes);
	return result;
}

static void report_merge(const merging *m)
{
	pgs_maintain_report *report = m->w->report;
	const pgs__merge *g = &m->merge;
	report->merges++;
	report->merged_files += m->job->plan.count;
	report->dropped_contents += g->dropped_count;
	report->dropped_bytes += g->dropped_bytes;
	report->damaged_contents += g->damaged_count;
}

/* What was read and written counts whatever came of it. */
static void spend(const merging *m)
{
	pgs__worker *w = m->w;
	uint64_t written = m->merge.output_bytes;
	w->report->bytes_read += m->merge.input_bytes;
	w->report->bytes_written += written;
	if (w->bytes_left != UINT64_MAX)
		w->bytes_left -= written < w->bytes_left ? written : w->bytes_left;
}

static int merge_files(merging *m, pgs__replaced *done)
{
	pgs__worker *w = m->w;
	const pgs__plan *plan = &m->job->plan;
	uint32_t timeout_ms = pgs__worker_timeout_ms(w);
	m->merge = (pgs__merge){
		.contents = &w->db->contents,
		.inputs = plan->inputs,
		.input_count = plan->count,
		.level = plan->level,
		.base_revision = m->base_revision,
		.file_bytes_max = w->options.file_bytes,
		.table_max = pgs__table_max(w),
		.memory_bytes = w->options.memory_bytes,
		.scrub = w->options.scrub,
		.decide = decide,
		.decide_ctx = m,
		.progress = merge_progress,
		.progress_ctx = m,
	};
	int result = pgs__merge_run(&m->merge, timeout_ms, w->err);
	spend(m);
	if (result == PGS_OK)
		result = pgs__files_replace(w, &m->claim, m->base_revision, plan->inputs, plan->count, m->merge.outputs,
					    m->merge.output_count, done);
	if (*done == PGS__REPLACED_NO)
		pgs__merge_discard(&m->merge, timeout_ms);
	return result;
}

/* An input has gone. If it is registered all the same, it is lost. */
static int explain_missing(job *j)
{
	pgs_error missing = j->w->err ? *j->w->err : (pgs_error)PGS_ERROR_INIT;
	pgs__file_map *before = j->map;
	pgs__plan plan = j->plan;
	j->map = NULL;
	j->plan = (pgs__plan){0};
	int result = pgs__worker_read_floor(j->w); /* or the database was dropped */
	if (result == PGS_OK)
		result = refresh(j);
	if (result == PGS_OK && pgs__plan_holds(&plan, j->map))
		result = pgs__error(j->w->err, PGS_ECORRUPT, "a registered sorted file is missing: %s", missing.message);
	pgs__plan_free(&plan);
	pgs__file_map_release(before);
	return result;
}

/* Do the plan, under a claim. */
static int merge_claimed(job *j, merging *m)
{
	pgs__worker *w = j->w;
	pgs__replaced done = PGS__REPLACED_NO;
	int result = begin_at_base(m, !j->plan.move);
	if (result == PGS_OK && j->plan.move)
		result = pgs__file_move(w, &m->claim, m->base_revision, j->plan.inputs[0], j->plan.level, &done);
	else if (result == PGS_OK)
		result = merge_files(m, &done);
	if (result == PGS_OK && done == PGS__REPLACED_ALL)
		report_merge(m);
	pgs__pin_release(&m->pin, pgs__worker_deadline(w));
	pgs__live_close(m->live);
	pgs__merge_free(&m->merge);
	j->failures += done != PGS__REPLACED_ALL;
	j->stop |= j->failures == FAILURES_MAX;
	return result == PGS_ENOTFOUND && !m->ended ? explain_missing(j) : result;
}

/* The files may have changed between the plan and the claim. */
static int plan_still_holds(job *j, bool *holds)
{
	pgs__worker *w = j->w;
	pgs__contents *contents = &w->db->contents;
	int result = pgs__levels_refresh(&contents->levels, contents->backend, contents->prefix, pgs__worker_deadline(w),
					 w->err);
	if (result != PGS_OK)
		return result;
	pgs__file_map *now = pgs__levels_map(&contents->levels);
	*holds = pgs__plan_holds(&j->plan, now);
	pgs__file_map_release(now);
	return PGS_OK;
}

/* Another worker has it: look for something else, as long as we can remember what not to look at. */
static void note_busy(job *j)
{
	j->w->report->busy = true;
	if (j->busy_count < BUSY_MAX)
		j->busy[j->busy_count++] = j->plan.scope;
	else
		j->stop = true;
	j->rules.busy_count = j->busy_count;
}

static int run_plan(job *j)
{
	merging m = {.w = j->w, .job = j};
	bool holds = false;
	int result = pgs__claim_take(j->w, &j->plan.scope, &m.claim);
	if (result == PGS_EBUSY) {
		note_busy(j);
		return PGS_OK;
	}
	if (result != PGS_OK)
		return result;
	result = plan_still_holds(j, &holds);
	if (result == PGS_OK && holds)
		result = merge_claimed(j, &m);
	pgs__claim_release(j->w, &m.claim);
	if (result != PGS_EBUSY || m.ended)
		return result;
	j->w->report->busy = j->stop = true; /* the claim was broken: someone took us for dead */
	return PGS_OK;
}

/* --- the job ------------------------------------------------------------------------------- */

static int job_init(job *j, pgs__worker *w)
{
	const pgs_maintain_options *o = &w->options;
	*j = (job){.w = w};
	j->rules = (pgs__plan_rules){
		.level0_files = o->level0_files,
		.level_fanout = o->level_fanout,
		.file_bytes = o->file_bytes,
		.busy = j->busy,
	};
	if (pgs__random_bytes(&j->rules.random, sizeof j->rules.random) != PGS_OK)
		j->rules.random = 0; /* no choice is wrong */
	int result = pgs__worker_read_floor(w);
	if (result == PGS_OK)
		result = refresh(j);
	j->steps_left = STEPS_SPARE + (result == PGS_OK ? 2 * j->map->count : 0);
	return result;
}

/* What is due now: into the report. */
static int report_due(job *j)
{
	const pgs_maintain_options *o = &j->w->options;
	j->rules.busy_count = 0;
	int result = refresh(j);
	if (result != PGS_OK)
		return result;
	result = o->all ? pgs__plan_down(j->map, &j->rules, &j->plan) : pgs__plan_due(j->map, &j->rules, &j->plan);
	if (result != PGS_OK)
		return pgs__error_nomem(j->w->err, "choosing a merge");
	uint64_t due = o->all ? j->map->count : pgs__plan_due_files(j->map, &j->rules);
	j->w->report->due_merge_files = j->plan.count == 0 ? 0 : due > j->plan.count ? due : j->plan.count;
	return PGS_OK;
}

int pgs__job_merge(pgs__worker *w)
{
	job j;
	int result = job_init(&j, w);
	while (result == PGS_OK && !w->options.dry_run && !j.stop) {
		if (pgs__worker_spent(w) || j.steps_left-- == 0)
			break;
		result = choose(&j);
		j.finished = result == PGS_OK && j.plan.count == 0;
		if (result != PGS_OK || j.finished)
			break;
		result = run_plan(&j);
		if (result == PGS_OK)
			result = tell_progress(w, 0, 0);
	}
	if (result == PGS_OK)
		result = report_due(&j);
	bool left = w->report->due_merge_files || w->options.all;
	if (result == PGS_OK && left && !j.finished && !w->options.dry_run)
		w->report->more = true;
	drop_plan(&j);
	return result;
}
