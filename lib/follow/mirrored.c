/* Keeping the machine's mirror of the database (local_cache/mirror.h) up to date: by the one follower of all processes
 * that has its lock.
 *
 *     lock ─→ the mirror is at S, of this KV's history (mirror_proof.c): watch from S + 1 on; what is older than this
 *          │  follower's beginning is for the mirror alone
 *          └→ it has nothing, or the history at S is gone: load it, while following goes on (mirror_load.c)
 *
 * The proof is wanted again whenever the watch was lost: the KV may have been restored meanwhile.
 *
 * What is mirrored: all that a snapshot and its pointers are made of, and attributes. The mirror is a cache: when it fails,
 * it is left alone for a while, and nobody but it is the worse for that. When it takes too much of the cache, it is given
 * up, and tried again later, each time later.
 */
#include "follow/follower.h"

#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define TAKE_OVER_MS 500   /* how often to try to become the one that keeps it */
#define LEAVE_ALONE_MS 10000
#define LOAD_PAUSE_MS 1000 /* after a step of loading that failed, */
#define LOAD_FAILURES 10   /* so often in a row */
#define TOO_LARGE_MIN_MS 60000
#define TOO_LARGE_MAX_MS 3600000
#define FLUSH_MS 1000
#define CHECKPOINT_MS 60000

void pgs__follow_mirror_leave(pgs__follower *f)
{
	pgs__mirror_load_stop(f);
	if (f->mirrors)
		pgs__mirror_follow_unlock(f->db->contents.disk);
	f->mirrors = f->load_due = false;
	f->mirror_ms = 0;
}

/* It does not work now. */
static void leave_alone(pgs__follower *f, int result, const pgs_error *err)
{
	pgs__log(f->db->store, PGS_LOG_WARN, "the cache's mirror of database %s is not kept up to date for a while: %s: %s",
		 f->db->name, pgs_error_name(result), err->message);
	pgs__follow_mirror_leave(f);
	f->mirror_ms = pgs__now_ms() + LEAVE_ALONE_MS;
}

/* It takes too much of the cache. It is still ours, so that others do not try the same. */
static void give_up(pgs__follower *f, const pgs_error *err, uint64_t deadline_ms)
{
	uint64_t pause_ms = f->too_large_ms ? 2 * f->too_large_ms : TOO_LARGE_MIN_MS;
	f->too_large_ms = pause_ms < TOO_LARGE_MAX_MS ? pause_ms : TOO_LARGE_MAX_MS;
	pgs__log(f->db->store, PGS_LOG_WARN, "database %s has no mirror in the cache for now: %s: a larger cache_size helps",
		 f->db->name, err->message);
	pgs__mirror_load_stop(f);
	pgs__mirror_reset(f->db->contents.disk, deadline_ms, NULL);
	f->load_due = true;
	f->mirror_ms = pgs__now_ms() + f->too_large_ms;
}

/* Keeping it failed. */
static void failed(pgs__follower *f, int result, const pgs_error *err, uint64_t deadline_ms)
{
	if (result == PGS_ELIMIT)
		give_up(f, err, deadline_ms);
	else
		leave_alone(f, result, err);
}

static void start_load(pgs__follower *f, uint64_t deadline_ms)
{
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs__mirror_load_start(f, &err);
	f->load_due = false;
	f->load_failures = 0;
	if (result != PGS_OK)
		failed(f, result, &err, deadline_ms);
}

/* --- becoming the one that keeps it ----------------------------------------------------------- */

/* What of it counts: *at is 0 if nothing does. What is of another history is forgotten. Fails only where the KV does. */
static int prove(pgs__follower *f, uint64_t *at, uint64_t deadline_ms, pgs_error *err)
{
	pgs__proof proof = PGS__PROOF_NONE;
	pgs__mirror_state state;
	pgs_error local = PGS_ERROR_INIT;
	pgs__disk_db *disk = f->db->contents.disk;
	*at = 0;
	int result = pgs__mirror_state_get(disk, &state, &local);
	if (result == PGS_OK && !f->load)
		state.loading = 0; /* whoever did that is gone */
	if (result == PGS_OK && (state.sequence || state.loading)) {
		int told = pgs__mirror_prove_history(f, &state, deadline_ms, &proof, err);
		if (told != PGS_OK)
			return told;
	}
	if (result == PGS_OK && proof == PGS__PROOF_OTHER) {
		pgs__log(f->db->store, PGS_LOG_WARN, "the cache's mirror of database %s is of another history, as the KV was "
			 "restored: it is loaded anew", f->db->name);
		result = pgs__mirror_reset(disk, deadline_ms, &local);
	}
	if (result != PGS_OK)
		failed(f, result, &local, deadline_ms);
	else if (proof == PGS__PROOF_SAME)
		*at = state.sequence ? state.sequence : state.loading;
	return PGS_OK;
}

/* From the sequence on. */
static void go_on(pgs__follower *f, uint64_t deadline_ms)
{
	pgs_error err = PGS_ERROR_INIT;
	int result = pgs__mirror_believe(f->db->contents.disk, &err);
	if (result != PGS_OK) {
		failed(f, result, &err, deadline_ms);
		return;
	}
	if (f->mirrored < f->seen && !PGS__BUG(TAKE_OVER_SKIPS)) {
		pgs__follow_close_watch(f); /* what it lacks is watched again */
		f->begun = f->seen;
		f->seen = f->mirrored;
	}
	f->proved = true;
}

static int take_over(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	f->mirror_ms = pgs__now_ms() + TAKE_OVER_MS;
	if (!pgs__mirror_follow_lock(f->db->contents.disk))
		return PGS_OK;
	f->mirrors = true;
	f->mirror_ms = 0;
	int result = prove(f, &f->mirrored, deadline_ms, err);
	if (result != PGS_OK)
		pgs__follow_mirror_leave(f);
	else if (f->mirrors && f->mirrored)
		go_on(f, deadline_ms);
	else if (f->mirrors)
		start_load(f, deadline_ms);
	return result;
}

/* The watch was lost, and what the mirror goes on from may not be in the KV's history any more. */
static bool is_doubtful(const pgs__follower *f)
{
	return f->mirrors && !f->load_due && !f->watch && !f->proved && !pgs__mirror_load_waits(f);
}

static int prove_again(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t at;
	int result = prove(f, &at, deadline_ms, err);
	f->proved = result == PGS_OK;
	if (result != PGS_OK || !f->mirrors || at)
		return result;
	pgs__mirror_load_stop(f);
	return pgs__error(err, PGS_EOLDREV, "what the cache's mirror goes on from is not in the KV's history");
}

/* --- keeping it -------------------------------------------------------------------------------- */

/* Who keeps the mirror also sees to it that contents that wait are written, and that a crash of the machine does not cost
 * the whole file. What fails is tried again. */
static void tend(pgs__follower *f, uint64_t deadline_ms)
{
	pgs__disk_cache *cache = f->db->store->disk;
	uint64_t now = pgs__now_ms();
	if (!f->mirrors || !cache || now < f->flush_ms)
		return;
	pgs__disk_flush(cache, deadline_ms, NULL);
	if (now >= f->checkpoint_ms)
		pgs__disk_cache_checkpoint(cache, deadline_ms, NULL);
	f->flush_ms = now + FLUSH_MS;
	f->checkpoint_ms = now >= f->checkpoint_ms ? now + CHECKPOINT_MS : f->checkpoint_ms;
}

/* One step of loading. The KV, or the file, may not be there for a moment: a load that has come far waits for it. */
static int load(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	pgs_error local = PGS_ERROR_INIT; /* the caller may not want any */
	int result = pgs__mirror_load_step(f, deadline_ms, &local);
	if (result == PGS_OK) {
		f->load_failures = 0;
		f->too_large_ms = f->load ? f->too_large_ms : 0;
		return PGS_OK;
	}
	if (result == PGS_EOLDREV) {
		pgs__mirror_load_stop(f);
		return pgs__error(err, result, "%s", local.message);
	}
	if (result != PGS_ELIMIT && pgs__deadline_passed(deadline_ms))
		return PGS_OK; /* it says nothing */
	if (result == PGS_ELIMIT || ++f->load_failures >= LOAD_FAILURES)
		failed(f, result, &local, deadline_ms);
	else
		f->mirror_ms = pgs__now_ms() + LOAD_PAUSE_MS;
	return PGS_OK;
}

int pgs__follow_mirror(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	if (!f->db->contents.disk)
		return PGS_OK;
	tend(f, deadline_ms);
	if (is_doubtful(f))
		return prove_again(f, deadline_ms, err);
	if (pgs__now_ms() < f->mirror_ms)
		return PGS_OK;
	if (!f->mirrors)
		return take_over(f, deadline_ms, err);
	if (f->load_due)
		start_load(f, deadline_ms);
	return f->load ? load(f, deadline_ms, err) : PGS_OK;
}

/* Not f->mirrored: who wrote the file before may have died between that and telling readers. */
bool pgs__follow_mirror_has(const pgs__follower *f, uint64_t revision)
{
	return f->mirrors && !f->load_due && !f->load && pgs__mirror_sequence(f->db->contents.disk) >= revision;
}

bool pgs__follow_mirror_loads(const pgs__follower *f)
{
	return (f->load || (f->mirrors && f->load_due)) && pgs__now_ms() >= f->mirror_ms;
}

void pgs__follow_mirror_dropped(pgs__follower *f)
{
	if (!f->mirrors || !f->db->store->disk)
		return;
	pgs__disk_db_dropped(f->db->store->disk, pgs__db_prefix(f->db));
	pgs__follow_mirror_leave(f);
	f->mirror_ms = pgs__now_ms() + LEAVE_ALONE_MS;
}

/* --- applying ------------------------------------------------------------------------------------ */

static int apply(pgs__follower *f, const pgs__mirror_changes *c, pgs_error *err)
{
	pgs__disk_db *disk = f->db->contents.disk;
	uint64_t horizon = f->at.floor < f->seen ? f->at.floor : f->seen;
	if (!f->load)
		return pgs__mirror_apply(disk, f->mirrored, f->seen, horizon, c->list, c->count, c->deadline_ms, &f->mirrored,
					 err);
	int result = pgs__mirror_load_apply(disk, f->mirrored, f->seen, c->list, c->count, c->deadline_ms, err);
	if (result == PGS_OK)
		f->mirrored = f->seen;
	return result;
}

void pgs__follow_mirror_apply(pgs__follower *f, const pgs_kv_events *batch, uint64_t deadline_ms)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs__mirror_changes c = {.f = f, .deadline_ms = deadline_ms, .err = &err};
	if (!f->mirrors || f->load_due || f->seen <= f->mirrored || pgs__mirror_load_waits(f))
		return;
	int result = pgs__mirror_changes_of(&c, batch);
	if (result == PGS_OK)
		result = apply(f, &c, &err);
	pgs__mirror_changes_free(&c);
	if (result == PGS_EOLDREV) { /* somebody has reset it */
		pgs__mirror_load_stop(f);
		f->load_due = true;
	} else if (result != PGS_OK) {
		failed(f, result, &err, deadline_ms);
	}
}
