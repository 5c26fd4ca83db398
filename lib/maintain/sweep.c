/* Sweeping: what no retained revision needs any more, beside contents.
 *
 *     x/ entries at or below the floor ── pruned; a blob of runs is noted under d/ in the same step
 *     d/ entries ── the blob removed, then the key: sorted files at once, others when the floor has passed d/
 *     blobs that were never registered ── orphans.c
 *
 *  - The last commit at or before the floor keeps its entry: the floor shows what it left, and at_time_ms finds it.
 *  - A pruned entry's commit, or abortion, relied on a revision below the floor (B < its revision <= floor): should a
 *    request for it still be on its way, it fails its own compare of the floor (invariant 5).
 *  - Readers at retained revisions may want the index file of a pack that was folded since, so it stays until the floor
 *    has passed the fold, which is where d/ was put. A sorted file holds contents that are elsewhere by now: who misses
 *    it looks again (invariant 2).
 *  - The blob goes before its d/ key: whatever stops us, the next run finds the key.
 */
#include <string.h>

#include "codec/changelog.h"
#include "maintain/jobs.h"
#include "maintain/sweep.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define PAGE 500             /* keys listed at once */
#define PRUNE_SLICE 50       /* entries pruned in a step: an entry may need two operations */
#define REMOVE_SLICE 100     /* blobs removed, then their keys in a step */
#define ATTEMPTS_MAX 20
#define ORPHANS_EVERY_MS 3600000

typedef struct sweep {
	pgs__worker *w;
	pgs__claim claim;
	pgs__walk walk; /* over x/, then d/ */
	uint64_t floor;
	uint64_t kept;  /* revision of the commit whose entry stays */
	enum { GOING, STOPPED, LOST } ending; /* the budget is spent; the claim was broken */
	size_t attempts; /* lost in a row */
	uint64_t done;
} sweep;

/* A key of a page, and when it was put. */
typedef struct entry {
	pgs__key key;
	uint64_t revision;
} entry;

static const pgs__backend *backend_of(const sweep *s)
{
	return pgs__db_backend(s->w->db);
}

static bool is_going(const sweep *s, int result)
{
	return result == PGS_OK && s->ending == GOING;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* --- steps and pages ------------------------------------------------------------------ */

static int begin_step(sweep *s)
{
	if (pgs__worker_spent(s->w) || s->attempts == ATTEMPTS_MAX) {
		s->ending = STOPPED;
		return PGS_OK;
	}
	int result = pgs__claim_renew(s->w, &s->claim);
	if (result == PGS_EBUSY)
		s->ending = LOST;
	return result == PGS_EBUSY ? PGS_OK : result;
}

/* A step relies on the floor and on nothing older: `revision` is where its keys were read. */
static int run_step(sweep *s, pgs__step *step, uint64_t revision)
{
	step->base_revision = revision;
	int result = pgs__step_run(s->w, &s->claim, step);
	s->attempts = result == PGS_OK && step->applied ? 0 : s->attempts + 1;
	if (result == PGS_EUNKNOWN) /* should it land yet, what it removes is still not wanted */
		result = pgs__error(s->w->err, PGS_EIO, "the KV does not confirm a step of sweeping");
	return result;
}

static int report_progress(sweep *s, uint64_t done)
{
	s->done += done;
	if (!s->w->options.progress)
		return PGS_OK;
	const pgs_maintain_progress p = {"sweep", s->done, 0};
	return s->w->options.progress(s->w->options.progress_ctx, &p);
}

static void begin_walk(sweep *s, char kind)
{
	const pgs__key_space space = pgs__db_space(s->w->db);
	pgs__walk_kind(&s->walk, pgs__db_prefix(s->w->db), kind, &space, PAGE);
	s->walk.keys_only = true;
}

static void take_entries(entry *page, size_t *count, const pgs_kv_result *r)
{
	for (size_t i = 0; i < r->count && *count < PAGE; i++) {
		pgs_slice key = r->pairs[i].key;
		entry *e = &page[(*count)++];
		*e = (entry){.revision = r->pairs[i].mod_revision};
		e->key.size = (uint16_t)smaller(key.size, PGS__KEY_MAX - 1);
		memcpy(e->key.bytes, key.data, e->key.size);
	}
}

/* The next keys of the walk, without values, as many as a page has; and whether the claim is still ours. */
static int list_page(sweep *s, entry *page, size_t *count, uint64_t *revision)
{
	pgs_kv_op ops[1 + PGS__WALK_OPS] = {pgs__op_get(pgs__key_slice(&s->claim.key), 0)};
	size_t used = 0, asked = pgs__walk_ask(&s->walk, ops + 1, pgs__max_ops(backend_of(s)) - 1);
	ops[0].keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend_of(s), &txn, ops, 1 + asked, pgs__worker_deadline(s->w), s->w->err);
	const pgs_kv_pair *claim = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	*count = 0;
	if (result == PGS_OK && (!claim || claim->create_revision != s->claim.held))
		s->ending = LOST;
	else if (result == PGS_OK)
		result = pgs__walk_take(&s->walk, txn.results + 1, &used, s->w->err);
	for (size_t i = 1; i <= used; i++)
		take_entries(page, count, &txn.results[i]);
	if (result == PGS_OK)
		*revision = txn.revision;
	pgs__kv_release(backend_of(s), &txn, 1);
	return result;
}

/* --- the changelog ----------------------------------------------------------------------- */

/* Keys begin with the time of the commit: those of entries at or below the floor lie before the time of the first
 * sample above it, but for clocks that differ. What is missed for that goes when the floor has moved on. */
static void leave_out_young(sweep *s, const pgs_kv_pair *v)
{
	pgs__samples samples;
	if (s->w->options.all || PGS__BUG(PRUNE_ABOVE_FLOOR) || !v || pgs__samples_decode(v->value, &samples) != PGS_OK)
		return;
	for (size_t i = 0; i < samples.count; i++)
		if (samples.list[i].revision > s->floor) {
			pgs__walk_before(&s->walk, pgs__db_prefix(s->w->db), 'x', samples.list[i].time_ms + 1);
			return;
		}
}

/* The last commit at or before the floor, and the walk over what may be older. */
static int find_kept(sweep *s)
{
	const uint8_t *prefix = pgs__db_prefix(s->w->db);
	pgs__key t = pgs__key_single(prefix, 't'), v = pgs__key_single(prefix, 'v');
	const pgs_kv_op gets[] = {pgs__op_get(pgs__key_slice(&t), s->floor), pgs__op_get(pgs__key_slice(&v), 0)};
	pgs_kv_txn txn;
	begin_walk(s, 'x');
	int result = pgs__kv_read(backend_of(s), &txn, gets, 2, pgs__worker_deadline(s->w), s->w->err);
	if (result == PGS_OK && pgs__got(&txn, 0))
		s->kept = pgs__got(&txn, 0)->mod_revision;
	if (result == PGS_OK)
		leave_out_young(s, pgs__got(&txn, 1));
	pgs__kv_release(backend_of(s), &txn, 1);
	return result == PGS_EOLDREV ? PGS_OK : result; /* someone compacted above the floor, which will follow */
}

static bool is_prunable(const sweep *s, const entry *e)
{
	return (e->revision <= s->floor && e->revision != s->kept) || PGS__BUG(PRUNE_ABOVE_FLOOR);
}

/* Entries of one step, and what it does with them. */
typedef struct slice {
	entry *entries[PRUNE_SLICE];
	size_t count;
	pgs_kv_compare compares[PRUNE_SLICE];
	pgs_kv_op ops[2 * PRUNE_SLICE];
	size_t compare_count, op_count;
	pgs__key unregistered[PRUNE_SLICE];
} slice;

/* An entry's key goes, and its blob's name to d/. One of a newer version stays, as its blob is not known; what a
 * damaged one named, if anything, becomes an orphan. */
static void plan_entry(sweep *s, slice *v, const entry *e, const pgs_kv_pair *pair)
{
	pgs__change change;
	int result = pgs__change_decode(pair->value, &change);
	if (result == PGS_EVERSION)
		return;
	if (result != PGS_OK)
		pgs__log(s->w->db->store, PGS_LOG_WARN, "database %s: pruned a damaged changelog entry, of revision %llu",
			 s->w->db->name, (unsigned long long)e->revision);
	v->compares[v->compare_count] = pgs__if_mod(pgs__key_slice(&e->key), PGS_KV_EQUAL, pair->mod_revision);
	v->ops[v->op_count++] = pgs__op_delete(pgs__key_slice(&e->key), (pgs_slice){0});
	if (result == PGS_OK && change.kind == PGS__CHANGE_COMMIT_RUNS_IN_BLOB) {
		char name[PGS__FILE_NAME_MAX + 1] = "";
		memcpy(name, change.file_name.data, smaller(change.file_name.size, PGS__FILE_NAME_MAX));
		pgs__key *d = &v->unregistered[v->compare_count];
		*d = pgs__key_unregistered(pgs__db_prefix(s->w->db), name);
		v->ops[v->op_count++] = pgs__op_put(pgs__key_slice(d), (pgs_slice){0});
	}
	v->compare_count++;
}

static int plan_slice(sweep *s, slice *v, uint64_t *revision)
{
	pgs_kv_op gets[PRUNE_SLICE];
	pgs_kv_txn txn;
	for (size_t i = 0; i < v->count; i++)
		gets[i] = pgs__op_get(pgs__key_slice(&v->entries[i]->key), 0);
	v->compare_count = v->op_count = 0;
	int result = pgs__kv_read(backend_of(s), &txn, gets, v->count, pgs__worker_deadline(s->w), s->w->err);
	for (size_t i = 0; result == PGS_OK && i < v->count; i++)
		if (pgs__got(&txn, i))
			plan_entry(s, v, v->entries[i], pgs__got(&txn, i));
	if (result == PGS_OK)
		*revision = txn.revision;
	pgs__kv_release(backend_of(s), &txn, 1);
	return result;
}

/* *lost: the step was not applied; the page is to be listed again. */
static int prune_slice(sweep *s, slice *v, bool *lost)
{
	uint64_t revision = 0;
	int result = begin_step(s);
	if (is_going(s, result))
		result = plan_slice(s, v, &revision);
	v->count = 0;
	if (!is_going(s, result) || v->op_count == 0)
		return result;
	pgs__step step = {.compares = v->compares,
			  .compare_count = v->compare_count,
			  .ops = v->ops,
			  .op_count = v->op_count};
	result = run_step(s, &step, revision);
	*lost = result == PGS_OK && !step.applied;
	if (result != PGS_OK || *lost)
		return result;
	s->w->report->pruned_changes += v->compare_count;
	return report_progress(s, v->compare_count);
}

/* Prune what may go of a page. */
static int prune_page(sweep *s, slice *v, entry *page, size_t count, bool *lost)
{
	size_t most = smaller(PRUNE_SLICE, pgs__step_room(s->w) / 2);
	int result = PGS_OK;
	v->count = 0;
	*lost = false;
	for (size_t i = 0; is_going(s, result) && !*lost && i < count; i++) {
		if (!is_prunable(s, &page[i]))
			continue;
		v->entries[v->count++] = &page[i];
		if (v->count == most)
			result = prune_slice(s, v, lost);
	}
	return is_going(s, result) && !*lost && v->count ? prune_slice(s, v, lost) : result;
}

static int prune_changes(sweep *s, entry *page)
{
	slice *v = pgs__malloc(sizeof *v);
	int result = v ? find_kept(s) : pgs__error_nomem(s->w->err, "sweeping");
	while (is_going(s, result) && pgs__walk_more(&s->walk)) {
		const pgs__walk before = s->walk;
		size_t count;
		uint64_t revision;
		bool lost = false;
		result = list_page(s, page, &count, &revision);
		if (is_going(s, result))
			result = prune_page(s, v, page, count, &lost);
		if (lost)
			s->walk = before;
	}
	pgs__free(v);
	return result;
}

/* --- unregistered blobs -------------------------------------------------------------------- */

/* Whether the blob of a d/ entry may go now; *name is its file's. */
static bool is_removable(const sweep *s, const entry *e, char name[PGS__FILE_NAME_MAX + 1])
{
	pgs_slice tail;
	if (!pgs__key_tail(pgs__key_slice(&e->key), 'd', &tail) || !pgs__file_name_ok(tail)) {
		pgs__log(s->w->db->store, PGS_LOG_WARN, "database %s: a key below d/ is malformed", s->w->db->name);
		return false;
	}
	memcpy(name, tail.data, tail.size);
	name[tail.size] = '\0';
	return name[0] == 's' || e->revision <= s->floor || PGS__BUG(INDEX_FILE_REMOVED);
}

static int remove_blob(sweep *s, const char *file_name)
{
	pgs_blob *blob = backend_of(s)->blob;
	char name[PGS__BLOB_NAME_SIZE];
	uint64_t size = 0;
	pgs__blob_name(name, pgs__db_prefix(s->w->db), file_name);
	int result = blob->vtable->stat(blob, name, &size, pgs__worker_deadline(s->w), s->w->err);
	if (result == PGS_ENOTFOUND)
		return PGS_OK; /* by a run that was stopped before it deleted the key */
	if (result == PGS_OK)
		result = blob->vtable->remove(blob, name, pgs__worker_deadline(s->w), s->w->err);
	if (result == PGS_OK) {
		s->w->report->removed_blobs++;
		s->w->report->removed_bytes += size;
	}
	return result;
}

/* The keys of removed blobs. If the step is not applied the next run finds them again. */
static int forget_blobs(sweep *s, entry *const *entries, size_t count, uint64_t revision)
{
	pgs_kv_compare compares[REMOVE_SLICE];
	pgs_kv_op ops[REMOVE_SLICE];
	if (count == 0)
		return PGS_OK;
	for (size_t i = 0; i < count; i++) {
		pgs_slice key = pgs__key_slice(&entries[i]->key);
		compares[i] = pgs__if_mod(key, PGS_KV_EQUAL, entries[i]->revision);
		ops[i] = pgs__op_delete(key, (pgs_slice){0});
	}
	pgs__step step = {.compares = compares, .compare_count = count, .ops = ops, .op_count = count};
	int result = run_step(s, &step, revision);
	if (result == PGS_OK && !step.applied)
		s->w->report->more = true;
	return result == PGS_OK ? report_progress(s, count) : result;
}

static int remove_page(sweep *s, entry *page, size_t count, uint64_t revision)
{
	entry *removed[REMOVE_SLICE];
	size_t most = smaller(REMOVE_SLICE, pgs__step_room(s->w)), used = 0;
	int result = PGS_OK;
	for (size_t i = 0; is_going(s, result) && i < count; i++) {
		char name[PGS__FILE_NAME_MAX + 1];
		if (!is_removable(s, &page[i], name))
			continue;
		result = begin_step(s);
		if (is_going(s, result))
			result = remove_blob(s, name);
		if (is_going(s, result))
			removed[used++] = &page[i];
		if (is_going(s, result) && used == most) {
			result = forget_blobs(s, removed, used, revision);
			used = 0;
		}
	}
	/* Also when the budget is spent: these blobs are gone. */
	return result == PGS_OK && s->ending != LOST ? forget_blobs(s, removed, used, revision) : result;
}

static int remove_unregistered(sweep *s, entry *page)
{
	int result = PGS_OK;
	begin_walk(s, 'd');
	while (is_going(s, result) && pgs__walk_more(&s->walk)) {
		size_t count;
		uint64_t revision = 0;
		result = list_page(s, page, &count, &revision);
		if (is_going(s, result))
			result = remove_page(s, page, count, revision);
	}
	return result;
}

/* --- all of it ------------------------------------------------------------------------------- */

/* Listing all blobs is for once in a while. */
static bool orphans_are_due(const pgs__worker *w)
{
	uint64_t last = atomic_load(&w->db->orphans_looked_ms);
	return w->options.all || last == 0 || pgs__now_ms() - last >= ORPHANS_EVERY_MS;
}

static int sweep_all(sweep *s)
{
	entry *page = pgs__calloc(PAGE, sizeof *page);
	int result = page ? pgs__worker_read_floor(s->w) : pgs__error_nomem(s->w->err, "sweeping");
	s->floor = s->w->floor.floor;
	if (result == PGS_OK && (s->floor || PGS__BUG(PRUNE_ABOVE_FLOOR)))
		result = prune_changes(s, page);
	if (is_going(s, result))
		result = remove_unregistered(s, page);
	pgs__free(page);
	if (is_going(s, result) && orphans_are_due(s->w) && (s->floor || PGS__BUG(ORPHAN_WITHOUT_BASE))) {
		bool all;
		result = pgs__orphans_remove(s->w, s->floor, &all);
		if (result == PGS_OK && all)
			atomic_store(&s->w->db->orphans_looked_ms, pgs__now_ms());
		else
			s->ending = STOPPED;
	}
	return result;
}

static int count_unregistered(pgs__worker *w)
{
	const pgs__key_space space = pgs__db_space(w->db);
	uint64_t count;
	pgs__walk walk;
	pgs__walk_kind(&walk, pgs__db_prefix(w->db), 'd', &space, 1);
	int result = pgs__walk_count(&walk, 1, UINT64_MAX, &count, pgs__db_backend(w->db), pgs__worker_deadline(w), w->err);
	if (result == PGS_OK)
		w->report->due_blobs = count;
	return result;
}

int pgs__job_sweep(pgs__worker *w)
{
	const pgs__scope scope = {.jobs = PGS__JOB_SWEEP};
	sweep s = {.w = w};
	if (w->options.dry_run)
		return count_unregistered(w);
	int result = pgs__claim_take(w, &scope, &s.claim);
	if (result == PGS_EBUSY) {
		w->report->busy = true;
		return count_unregistered(w);
	}
	if (result != PGS_OK)
		return result;
	result = sweep_all(&s);
	w->report->more |= s.ending == STOPPED;
	w->report->busy |= s.ending == LOST;
	pgs__claim_release(w, &s.claim);
	return result == PGS_OK ? count_unregistered(w) : result;
}
