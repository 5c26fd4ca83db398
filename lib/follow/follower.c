/* The watch of a follower, and what it makes of it: see follower.h. */
#include "follow/follower.h"

#include "local_cache/mirror.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define CONFIRM_MS 1000 /* unless set */
#define SILENT_MS 1000  /* commits known of, and no event: the watch is opened anew, */
#define SILENT_MAX_MS 64000 /* each time with twice the patience, until it has caught up */

pgs__follower *pgs__follower_new(pgs_db *db)
{
	pthread_condattr_t attributes;
	pgs__follower *f = pgs__calloc(1, sizeof *f);
	if (!f || pthread_condattr_init(&attributes) != 0) {
		pgs__free(f);
		return NULL;
	}
	f->db = db;
	f->patience_ms = SILENT_MS;
	f->options = (pgs_follow_options)PGS_FOLLOW_OPTIONS_INIT;
	pgs__fetcher_init(&f->fetch, db);
	pthread_mutex_init(&f->control, NULL);
	pthread_mutex_init(&f->lock, NULL);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&f->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	return f;
}

void pgs__follow_close_watch(pgs__follower *f)
{
	if (f->watch)
		pgs__db_backend(f->db)->kv->vtable->watch_close(f->watch);
	f->watch = NULL;
	f->proved = false;
}

void pgs__follower_free(pgs__follower *f)
{
	if (!f)
		return;
	pgs__follow_mirror_leave(f);
	pgs__follow_close_watch(f);
	pgs__snapshot_close(&f->at);
	pgs__fetcher_free(&f->fetch);
	pthread_cond_destroy(&f->wake);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->control);
	pgs__free(f);
}

/* --- telling ------------------------------------------------------------------------------ */

/* Give `at` to whoever begins; and, where t and z were read and have been applied, since when it is the latest. */
static void offer(pgs__follower *f)
{
	pgs__claim_of_now *c = &f->claim;
	bool met = f->at.commit_revision >= c->commit_revision && f->at.epoch >= c->epoch;
	uint64_t asked_ms = met || PGS__BUG(FOLLOW_BELIEVES_WATCH) ? c->asked_ms : 0;
	if (f->packs_due)
		return;
	pgs__newest_offer(f->db, &f->at, asked_ms);
	pgs__fetch_at(&f->fetch, &f->at);
	pthread_mutex_lock(&f->lock);
	f->stat.revision = f->at.commit_revision;
	f->stat.commits = f->done.commits;
	f->stat.pages_changed = f->done.pages_changed;
	f->stat.pages_kept = f->done.pages_kept;
	f->stat.behind = c->asked_ms && c->commit_count > f->at.commit_count ? c->commit_count - f->at.commit_count : 0;
	if (asked_ms)
		f->confirmed_ms = asked_ms;
	bool threaded = f->stat.running;
	pthread_mutex_unlock(&f->lock);
	atomic_store_explicit(&f->db->newest->followed, threaded, memory_order_relaxed);
	bool mirrored = pgs__follow_mirror_has(f, f->at.commit_revision) && pgs__follow_mirror_has(f, f->at.epoch);
	if (asked_ms && mirrored)
		pgs__mirror_confirm(f->db->contents.disk, asked_ms);
	if (met) {
		c->asked_ms = 0;
		f->patience_ms = SILENT_MS;
	}
}

static int get_packs(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	pgs__pack_view *packs;
	if (!f->packs_due)
		return PGS_OK;
	int result = pgs__pack_view_get(f->db, f->at.epoch, f->at.kv_revision, deadline_ms, &packs, err);
	if (result != PGS_OK)
		return result == PGS_ENOTFOUND ? PGS__FOLLOW_GAP : result;
	pgs__pack_view_release(f->at.packs);
	f->at.packs = packs;
	f->packs_due = false;
	return PGS_OK;
}

/* --- beginning ------------------------------------------------------------------------------- */

static int open_watch(pgs__follower *f, pgs_error *err)
{
	pgs_kv *kv = pgs__db_backend(f->db)->kv;
	pgs__key first = pgs__key_single(pgs__db_prefix(f->db), 'e'), end = pgs__key_prefix_end(pgs__db_prefix(f->db));
	f->seen_ms = pgs__now_ms();
	uint64_t from = PGS__BUG(FOLLOW_SKIPS) ? 0 : f->seen + 1;
	return kv->vtable->watch_open(kv, pgs__key_slice(&first), pgs__key_slice(&end), from, &f->watch, err);
}

/* The latest snapshot: opening it brings the page cache to its commit, or lets the cache forget. */
static int begin(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	pgs__snapshot s;
	pgs__follow_close_watch(f);
	int result = pgs__snapshot_open(&s, f->db, 0, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	pgs__snapshot_close(&f->at);
	f->at = s;
	f->seen = f->begun = s.kv_revision;
	f->packs_due = false;
	f->claim.asked_ms = 0;
	f->asked_ms = 0;
	return PGS_OK;
}

static void count(pgs__follower *f, uint64_t *what)
{
	pthread_mutex_lock(&f->lock);
	++*what;
	pthread_mutex_unlock(&f->lock);
}

static int begin_as_needed(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	int result = f->at.kv_revision ? PGS_OK : begin(f, deadline_ms, err);
	if (result == PGS_OK)
		result = pgs__follow_mirror(f, deadline_ms, err);
	if (result == PGS_OK && !f->watch)
		result = open_watch(f, err);
	return result;
}

/* --- confirming ---------------------------------------------------------------------------------- */

static int read_now(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	pgs__key t = pgs__key_single(pgs__db_prefix(f->db), 't'), z = pgs__key_single(pgs__db_prefix(f->db), 'z');
	const pgs_kv_op ops[] = {pgs__op_get(pgs__key_slice(&t), 0), pgs__op_get(pgs__key_slice(&z), 0)};
	pgs_kv_txn txn;
	uint64_t asked_ms = pgs__now_ms();
	int result = pgs__kv_read(pgs__db_backend(f->db), &txn, ops, 2, deadline_ms, err);
	const pgs_kv_pair *last = result == PGS_OK ? pgs__got(&txn, 0) : NULL, *epoch = last ? pgs__got(&txn, 1) : NULL;
	if (epoch) {
		f->claim = (pgs__claim_of_now){asked_ms, last->mod_revision, last->version, epoch->mod_revision};
		bool same = last->mod_revision == f->at.commit_revision && epoch->mod_revision == f->at.epoch;
		if (same && txn.revision > f->at.kv_revision)
			f->at.kv_revision = txn.revision; /* nothing of it has changed until then: F1 */
	} else if (result == PGS_OK) {
		result = pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", f->db->name);
	}
	pgs__kv_release(pgs__db_backend(f->db), &txn, 1);
	return result;
}

/* When to read t and z next. */
static uint64_t next_question(const pgs__follower *f)
{
	uint64_t usual = f->options.confirm_ms ? f->options.confirm_ms : CONFIRM_MS;
	return f->asked_ms ? f->asked_ms + pgs__newest_pace(f->db, usual) : 0;
}

/* A watch that says nothing, though there is something, is no good. Or the KV has a long history to go through before it
 * says anything, and begins again with each watch that is opened: so the next one is given more time. */
static int open_anew(pgs__follower *f, pgs_error *err)
{
	pgs__follow_close_watch(f);
	count(f, &f->stat.reconnects);
	f->patience_ms = f->patience_ms < SILENT_MAX_MS ? 2 * f->patience_ms : SILENT_MAX_MS;
	return open_watch(f, err);
}

/* One question at a time: the next only after this one's answer has been applied. */
static int confirm(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t now = pgs__now_ms();
	if (f->claim.asked_ms && now - f->seen_ms > f->patience_ms && now - f->claim.asked_ms > f->patience_ms)
		return open_anew(f, err);
	if (f->claim.asked_ms || now < next_question(f))
		return PGS_OK;
	int result = read_now(f, deadline_ms, err);
	f->asked_ms = now;
	if (result == PGS_OK)
		offer(f);
	return result;
}

/* How long to wait for events: not past the next question. */
static uint32_t wait_for(const pgs__follower *f, uint32_t wait_ms)
{
	uint64_t now = pgs__now_ms(), next = next_question(f);
	if (pgs__follow_mirror_loads(f))
		return 0; /* there is something else to do */
	if (f->claim.asked_ms || next >= now + wait_ms)
		return wait_ms;
	return next > now ? (uint32_t)(next - now) : 0;
}

/* --- events ------------------------------------------------------------------------------------------- */

static int apply_batch(pgs__follower *f, const pgs_kv_events *batch, uint64_t deadline_ms, pgs_error *err)
{
	for (size_t first = 0, end; first < batch->count; first = end) {
		uint64_t revision = batch->events[first].pair.mod_revision;
		for (end = first + 1; end < batch->count && batch->events[end].pair.mod_revision == revision;)
			end++;
		const pgs__revision_events r = {batch->events + first, end - first, revision};
		int result = revision > f->begun ? pgs__follow_apply(f, &r, deadline_ms, err) : PGS_OK;
		if (result != PGS_OK)
			return result;
		f->seen = revision;
	}
	if (batch->revision > f->seen)
		f->seen = batch->revision;
	return PGS_OK;
}

static int watch_once(pgs__follower *f, uint32_t wait_ms, uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv_events batch = {0};
	uint64_t seen = f->seen;
	int result = pgs__db_backend(f->db)->kv->vtable->watch_next(f->watch, wait_for(f, wait_ms), &batch, err);
	if (result != PGS_OK) {
		pgs__follow_close_watch(f);
		count(f, &f->stat.reconnects);
		return result;
	}
	result = apply_batch(f, &batch, deadline_ms, err);
	pgs__follow_note_hot(f, &batch);
	pgs__follow_mirror_apply(f, &batch, deadline_ms);
	if (f->seen > seen)
		f->seen_ms = pgs__now_ms();
	if (f->seen > f->at.kv_revision)
		f->at.kv_revision = f->seen;
	if (result == PGS_OK)
		result = get_packs(f, deadline_ms, err);
	if (result != PGS_OK) {
		pgs__follow_close_watch(f); /* what was not applied has to come again */
		return result;
	}
	if (f->seen > seen || f->claim.asked_ms)
		offer(f);
	return PGS_OK;
}

int pgs__follow_round(pgs__follower *f, uint32_t wait_ms, uint64_t deadline_ms, pgs_error *err)
{
	int result = begin_as_needed(f, deadline_ms, err);
	if (result == PGS_OK && f->packs_due)
		result = get_packs(f, deadline_ms, err);
	if (result == PGS_OK)
		result = confirm(f, deadline_ms, err);
	if (result == PGS_OK)
		result = watch_once(f, wait_ms, deadline_ms, err);
	if (result == PGS_ENOTFOUND)
		pgs__follow_mirror_dropped(f);
	if (result == PGS_EOLDREV || result == PGS__FOLLOW_GAP) {
		count(f, &f->stat.restarts);
		f->load_due = f->mirrors;
		result = begin(f, deadline_ms, err);
		pgs__fetch_again(&f->fetch, 0, f->at.kv_revision);
	}
	return result;
}
