/* Keeping the machine's mirror of the database (local_cache/mirror.h) up to date: by the one follower of all processes
 * that has its lock.
 *
 *     lock ─→ the mirror is at S: watch from S + 1 on; what is older than this follower's beginning is for the mirror alone
 *          └→ it has nothing, or the history after S is gone: load at R, by bounded ranges; watch from R + 1 on
 *
 * What is mirrored: all that a snapshot and its pointers are made of. The mirror is a cache: when it fails, it is left
 * alone for a while, and nobody but it is the worse for that.
 */
#include "follow/follower.h"

#include <string.h>

#include "local_cache/mirror.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define TAKE_OVER_MS 500   /* how often to try to become the one that keeps it */
#define LEAVE_ALONE_MS 10000
#define LOAD_PAGE 1000     /* pairs of a request */
#define FLUSH_MS 1000
#define CHECKPOINT_MS 60000

static const char mirrored_kinds[] = "aegmoptz";

void pgs__follow_mirror_leave(pgs__follower *f)
{
	if (f->mirrors)
		pgs__mirror_follow_unlock(f->db->contents.disk);
	f->mirrors = false;
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

/* --- loading ------------------------------------------------------------------------------ */

typedef struct loading {
	pgs__disk_db *disk;
	const pgs__backend *backend;
	const uint8_t *prefix;
	uint64_t revision, deadline_ms;
	pgs_error *err;
} loading;

/* With an array also where there are none. */
static int load_pairs(loading *l, const pgs__key *first, const pgs__key *end, const pgs_kv_pair *pairs, size_t count)
{
	static const pgs_kv_pair none;
	return pgs__mirror_load_range(l->disk, l->revision, pgs__key_slice(first), pgs__key_slice(end),
				      count ? pairs : &none, count, l->deadline_ms, l->err);
}

static int load_single(loading *l, char kind)
{
	pgs__key key = pgs__key_single(l->prefix, kind), end = pgs__key_after(&key);
	const pgs_kv_op get = pgs__op_get(pgs__key_slice(&key), l->revision);
	pgs_kv_txn txn;
	int result = pgs__kv_read(l->backend, &txn, &get, 1, l->deadline_ms, l->err);
	if (result == PGS_OK)
		result = load_pairs(l, &key, &end, txn.results[0].pairs, txn.results[0].count);
	pgs__kv_release(l->backend, &txn, 1);
	return result;
}

/* The pairs of one result are all there are from *from to the last of them, which *from is moved past. */
static int load_result(loading *l, const pgs_kv_result *result, pgs__key *from)
{
	const pgs_slice last = result->count ? result->pairs[result->count - 1].key : (pgs_slice){0};
	pgs__key end = {.size = (uint16_t)last.size};
	if (!result->count)
		return PGS_OK;
	if (last.size >= PGS__KEY_MAX)
		return pgs__error(l->err, PGS_ECORRUPT, "a key is too long to be a database's");
	memcpy(end.bytes, last.data, last.size);
	end = pgs__key_after(&end);
	int code = load_pairs(l, from, &end, result->pairs, result->count);
	*from = end;
	return code;
}

static int load_kind(loading *l, char kind, const pgs__key_space *space)
{
	pgs__walk walk;
	pgs__key from = pgs__key_kind(l->prefix, kind), end = pgs__key_kind_end(l->prefix, kind);
	int result = PGS_OK;
	pgs__walk_kind(&walk, l->prefix, kind, space, LOAD_PAGE);
	walk.revision = l->revision;
	while (result == PGS_OK && pgs__walk_more(&walk)) {
		pgs__walk_page page;
		result = pgs__walk_next(&walk, l->backend, &page, l->deadline_ms, l->err);
		for (size_t i = 0; result == PGS_OK && i < page.used; i++)
			result = load_result(l, &page.txn.results[i], &from);
		pgs__kv_release(l->backend, &page.txn, 1);
	}
	if (result == PGS_OK)
		result = load_pairs(l, &from, &end, NULL, 0);
	return result;
}

/* All of it, at the revision of `at`. */
static int load(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	const pgs__key_space space = pgs__db_space(f->db);
	loading l = {f->db->contents.disk, pgs__db_backend(f->db), pgs__db_prefix(f->db), f->at.kv_revision, deadline_ms, err};
	int result = pgs__mirror_load_begin(l.disk, l.revision, deadline_ms, err);
	for (const char *kind = mirrored_kinds; result == PGS_OK && *kind; kind++)
		result = strchr("aop", *kind) ? load_kind(&l, *kind, &space) : load_single(&l, *kind);
	if (result == PGS_OK)
		result = pgs__mirror_load_end(l.disk, l.revision, deadline_ms, err);
	if (result == PGS_OK)
		f->mirrored = l.revision;
	return result;
}

/* --- becoming the one that keeps it ----------------------------------------------------------- */

/* What the mirror has, unless it is of a KV that has been restored since: 0 = nothing. */
static int look(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	pgs__mirror_state state;
	pgs__disk_db *disk = f->db->contents.disk;
	int result = pgs__mirror_seen(disk, f->at.kv_revision, deadline_ms, err);
	if (result == PGS_EOLDREV)
		result = pgs__mirror_reset(disk, deadline_ms, err);
	if (result == PGS_OK)
		result = pgs__mirror_state_get(disk, &state, err);
	if (result == PGS_OK)
		f->mirrored = state.sequence;
	return result;
}

static int take_over(pgs__follower *f, bool *from_there, uint64_t deadline_ms, pgs_error *err)
{
	int result = look(f, deadline_ms, err);
	*from_there = result == PGS_OK && f->mirrored != 0;
	if (result == PGS_OK && !f->mirrored)
		result = load(f, deadline_ms, err);
	return result;
}

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

int pgs__follow_mirror(pgs__follower *f, uint64_t deadline_ms)
{
	pgs_error local = PGS_ERROR_INIT;
	bool from_there = false;
	int result = PGS_OK;
	tend(f, deadline_ms);
	if (!f->db->contents.disk || (f->mirrors && !f->load_due) || pgs__now_ms() < f->mirror_ms)
		return PGS_OK;
	f->mirror_ms = pgs__now_ms() + TAKE_OVER_MS;
	if (f->mirrors)
		result = load(f, deadline_ms, &local);
	else if (pgs__mirror_follow_lock(f->db->contents.disk))
		result = take_over(f, &from_there, deadline_ms, &local);
	else
		return PGS_OK;
	f->mirrors = true;
	f->load_due = false;
	if (from_there && f->mirrored < f->seen) {
		pgs__follow_close_watch(f); /* what it lacks is watched again */
		f->begun = f->seen;
		f->seen = f->mirrored;
	}
	if (result != PGS_OK)
		leave_alone(f, result, &local);
	return result == PGS_EOLDREV ? result : PGS_OK;
}

/* --- applying ------------------------------------------------------------------------------------ */

void pgs__follow_mirror_apply(pgs__follower *f, const pgs_kv_events *batch, uint64_t deadline_ms)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs__mirror_changes c = {.f = f, .deadline_ms = deadline_ms, .err = &err};
	if (!f->mirrors || f->seen <= f->mirrored)
		return;
	int result = pgs__mirror_changes_of(&c, batch);
	uint64_t horizon = f->at.floor < f->seen ? f->at.floor : f->seen;
	if (result == PGS_OK)
		result = pgs__mirror_apply(f->db->contents.disk, f->mirrored, f->seen, horizon, c.list, c.count, deadline_ms,
					   &f->mirrored, &err);
	pgs__mirror_changes_free(&c);
	if (result == PGS_EOLDREV)
		f->load_due = true; /* somebody has reset it */
	else if (result != PGS_OK)
		leave_alone(f, result, &err);
}
