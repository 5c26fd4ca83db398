/* Opening snapshots: one KV transaction for the latest; and keeping the cache's revision up with them. */
#include "txn/snapshot.h"

#include "local_cache/mirror.h"
#include "txn/changes.h"
#include "txn/named.h"
#include "txn/newest.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

/* --- what is known of the keys -------------------------------------------------- */

void pgs__db_note_space(pgs_db *db, uint64_t page_count, uint64_t commits)
{
	atomic_store_explicit(&db->page_count, page_count, memory_order_relaxed);
	atomic_store_explicit(&db->commits, commits, memory_order_relaxed);
}

pgs__key_space pgs__db_space(pgs_db *db)
{
	pthread_mutex_lock(&db->upkeep.lock);
	uint64_t contents = db->upkeep.gauges.at[PGS__GAUGE_CONTENTS];
	pthread_mutex_unlock(&db->upkeep.lock);
	return (pgs__key_space){
		.page_count = atomic_load_explicit(&db->page_count, memory_order_relaxed),
		.group_pages = pgs__pages_per_group(db->contents.page_size),
		.contents = contents,
		.commits = atomic_load_explicit(&db->commits, memory_order_relaxed),
	};
}

/* --- reading ---------------------------------------------------------------------- */

enum { GET_T, GET_Z, GET_E, GET_G, GET_M, GET_COUNT };

static int decode_numbers(pgs__snapshot *s, const pgs_kv_txn *txn, pgs_error *err)
{
	const pgs_kv_pair *t = pgs__got(txn, GET_T), *z = pgs__got(txn, GET_Z), *e = pgs__got(txn, GET_E),
			  *g = pgs__got(txn, GET_G);
	pgs__floor floor;
	const char *bad = NULL;
	if (!t || !z || !e || !g)
		return pgs__error(err, PGS_ECORRUPT, "database %s lacks a key it must have (%s)", s->db->name,
				  !t ? "t, last write" : !z ? "z, structure epoch" : !e ? "e, extent" : "g, floor");
	if (pgs__number_decode(t->value, &s->counter) != PGS_OK)
		bad = "t, last write";
	else if (pgs__number_decode(e->value, &s->extent) != PGS_OK)
		bad = "e, extent";
	else if (pgs__floor_decode(g->value, &floor) != PGS_OK)
		bad = "g, floor";
	if (bad)
		return pgs__error(err, PGS_ECORRUPT, "database %s: the value of key %s is damaged", s->db->name, bad);
	s->commit_revision = s->cache_revision = t->mod_revision;
	s->commit_count = t->version;
	s->epoch = z->mod_revision;
	s->extent_revision = e->mod_revision;
	s->floor = floor.floor;
	return PGS_OK;
}

static int old_revision(const pgs_db *db, uint64_t at, uint64_t oldest, pgs_error *err)
{
	return pgs__error(err, PGS_EOLDREV, "revision %llu of database %s is gone; the oldest readable is %llu",
			  (unsigned long long)at, db->name, (unsigned long long)oldest);
}

static int judge(pgs__snapshot *s, const pgs_kv_txn *txn, uint64_t at, pgs_error *err)
{
	if (!pgs__got(txn, GET_M))
		return pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", s->db->name);
	if (!pgs__got(txn, GET_T) && at)
		return pgs__error(err, PGS_ENOTFOUND, "database %s did not exist at revision %llu", s->db->name,
				  (unsigned long long)at);
	int result = decode_numbers(s, txn, err);
	if (result != PGS_OK)
		return result;
	s->kv_revision = at ? at : txn->revision;
	return s->kv_revision < s->floor ? old_revision(s->db, at, s->floor, err) : PGS_OK;
}

static int read_numbers(pgs__snapshot *s, uint64_t at, uint64_t deadline_ms, pgs_error *err)
{
	const uint8_t *prefix = pgs__db_prefix(s->db);
	pgs__key t = pgs__key_single(prefix, 't'), z = pgs__key_single(prefix, 'z'), e = pgs__key_single(prefix, 'e'),
		 g = pgs__key_single(prefix, 'g'), m = pgs__key_single(prefix, 'm');
	const pgs_kv_op ops[GET_COUNT] = {
		[GET_T] = pgs__op_get(pgs__key_slice(&t), at),
		[GET_Z] = pgs__op_get(pgs__key_slice(&z), at),
		[GET_E] = pgs__op_get(pgs__key_slice(&e), at),
		[GET_G] = pgs__op_get(pgs__key_slice(&g), 0),
		[GET_M] = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&m), .keys_only = true},
	};
	pgs_kv_txn txn;
	int result = pgs__kv_read(pgs__db_backend(s->db), &txn, ops, GET_COUNT, deadline_ms, err);
	if (result == PGS_OK) {
		result = judge(s, &txn, at, err);
		if (result == PGS_OK && at == 0)
			pgs__db_note_space(s->db, s->extent, s->commit_count);
	} else if (result == PGS_EINVAL && at) {
		pgs__error(err, PGS_EINVAL, "revision %llu is above the store's latest", (unsigned long long)at);
	}
	pgs__kv_release(pgs__db_backend(s->db), &txn, 1);
	return result;
}

/* The latest, from `t` alone and what this process knows of that commit. *known: it did. */
static int read_known(pgs__snapshot *s, bool *known, uint64_t deadline_ms, pgs_error *err)
{
	pgs__key key = pgs__key_single(pgs__db_prefix(s->db), 't');
	const pgs_kv_op op = pgs__op_get(pgs__key_slice(&key), 0);
	pgs_kv_txn txn;
	pgs__state state;
	int result = pgs__kv_read(pgs__db_backend(s->db), &txn, &op, 1, deadline_ms, err);
	const pgs_kv_pair *t = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (t && pgs__number_decode(t->value, &s->counter) == PGS_OK &&
	    pgs__tip_find(s->db, t->mod_revision, txn.revision, deadline_ms, &state)) {
		*known = true;
		s->kv_revision = txn.revision;
		s->commit_revision = s->cache_revision = t->mod_revision;
		s->commit_count = t->version;
		s->epoch = state.epoch;
		s->extent = state.extent;
		s->extent_revision = state.extent_revision;
	}
	pgs__kv_release(pgs__db_backend(s->db), &txn, 1);
	return result;
}

/* --- the cache catches up ------------------------------------------------------- */

#define CATCH_UP_COMMITS 256 /* read rather than forgetting everything */
#define CATCH_UP_RUNS 1024

typedef struct catch_up {
	size_t commits;
	size_t count;
	struct {
		uint64_t revision, first, count;
	} changed[CATCH_UP_RUNS];
} catch_up;

static int collect_run(catch_up *c, uint64_t revision, uint64_t first, uint64_t count)
{
	if (c->count == CATCH_UP_RUNS)
		return 1;
	c->changed[c->count].revision = revision;
	c->changed[c->count].first = first;
	c->changed[c->count++].count = count;
	return 0;
}

/* Collects what changed; a nonzero result means too much to be worth it. */
static int collect_change(void *ctx, uint64_t revision, const pgs__change *change, pgs_slice runs)
{
	catch_up *c = ctx;
	pgs__runs_reader reader;
	pgs__page_run run;
	if (++c->commits > CATCH_UP_COMMITS || pgs__runs_open(runs, &reader) != PGS_OK)
		return 1;
	if (change->truncated &&
	    collect_run(c, revision, change->truncated_to, UINT64_MAX - change->truncated_to) != 0)
		return 1;
	while (pgs__runs_next(&reader, &run))
		if (collect_run(c, revision, run.first, run.count) != 0)
			return 1;
	return reader.reader.failed;
}

/* Bring the cache's current pointers to the snapshot's commit: by what changed, or by forgetting them. Cannot fail:
 * a cache that is behind is only slower. */
static void catch_up_cache(const pgs__snapshot *s, uint64_t deadline_ms)
{
	pgs__cache *cache = s->db->contents.cache;
	uint64_t known = pgs__cache_revision(cache);
	if (s->commit_revision <= known)
		return;
	pgs__tip_wait(s->db, s->commit_revision, deadline_ms);
	known = pgs__cache_revision(cache);
	if (s->commit_revision <= known)
		return;
	catch_up c;
	c.commits = c.count = 0;
	if (known == 0 || pgs__changes_read(s->db, known, s->commit_revision, deadline_ms, collect_change, &c, NULL)) {
		pgs__cache_forget(cache, s->commit_revision);
		pgs__tip_catch_up(s->db);
		return;
	}
	if (!pgs__cache_advance_begin(cache, known, s->commit_revision))
		return;
	for (size_t i = 0; i < c.count; i++)
		pgs__cache_freeze(cache, c.changed[i].first, c.changed[i].count, c.changed[i].revision);
	pgs__cache_advance_end(cache);
	pgs__tip_catch_up(s->db);
}

int pgs__oldest_readable(pgs_db *db, uint64_t *oldest, uint64_t deadline_ms, pgs_error *err)
{
	pgs__snapshot now = {.db = db};
	pgs_kv *kv = pgs__db_backend(db)->kv;
	pgs_kv_stat stat;
	int result = read_numbers(&now, 0, deadline_ms, err);
	if (result == PGS_OK)
		result = kv->vtable->stat(kv, &stat, deadline_ms, err);
	if (result == PGS_OK)
		*oldest = now.floor > stat.compacted_revision ? now.floor : stat.compacted_revision;
	return result;
}

/* `at` is gone. If no commit came between it and the oldest readable revision, that shows the same; else *gone is set. */
static int open_oldest(pgs__snapshot *out, uint64_t at, uint64_t deadline_ms, bool *gone, pgs_error *err)
{
	pgs_db *db = out->db;
	uint64_t oldest;
	int result = pgs__oldest_readable(db, &oldest, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	*out = (pgs__snapshot){.db = db};
	result = read_numbers(out, oldest, deadline_ms, err);
	if (result == PGS_ENOTFOUND)
		return pgs__error(err, result, "database %s was dropped, or did not exist at revision %llu", db->name,
				  (unsigned long long)at);
	*gone = result == PGS_OK && out->commit_revision > at;
	if (*gone || result == PGS_EOLDREV)
		return old_revision(db, at, oldest, err);
	return result;
}

/* Why the packs of a snapshot could not be had. */
static int explain(const pgs__snapshot *s, int result, uint64_t deadline_ms, pgs_error *err)
{
	if (result == PGS_EOLDREV)
		return pgs__explain_old(s, deadline_ms, err);
	return result == PGS_ENOTFOUND ? pgs__explain_missing(s, deadline_ms, err) : result;
}

static int open_past(pgs__snapshot *out, uint64_t at_revision, uint64_t deadline_ms, bool *gone, pgs_error *err)
{
	int result = read_numbers(out, at_revision, deadline_ms, err);
	if (result == PGS_EOLDREV)
		result = open_oldest(out, at_revision, deadline_ms, gone, err);
	if (result != PGS_OK)
		return result;
	result = pgs__pack_view_get(out->db, out->epoch, out->kv_revision, deadline_ms, &out->packs, err);
	return explain(out, result, deadline_ms, err);
}

static int read_latest(pgs__snapshot *out, uint64_t deadline_ms, pgs_error *err)
{
	bool known = false;
	int result = PGS_OK;
	if (pgs__tip_is_steady(out->db))
		result = read_known(out, &known, deadline_ms, err);
	if (result == PGS_OK && !known)
		result = read_numbers(out, 0, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	catch_up_cache(out, deadline_ms);
	result = pgs__pack_view_get(out->db, out->epoch, out->kv_revision, deadline_ms, &out->packs, err);
	if (result == PGS_OK && !known)
		pgs__tip_learn(out->db, out);
	return explain(out, result, deadline_ms, err);
}

static int open_latest(pgs__snapshot *out, uint64_t deadline_ms, pgs_error *err)
{
	pgs_db *db = out->db;
	uint64_t changes = pgs__tip_changes(db);
	if (pgs__tip_latest(db, changes, out)) {
		catch_up_cache(out, deadline_ms); /* where that failed before */
		return PGS_OK;
	}
	int result = read_latest(out, deadline_ms, err);
	if (PGS__BUG(CHANGES_AFTER))
		changes = pgs__tip_changes(db);
	out->changes = changes;
	if (result == PGS_OK)
		pgs__tip_keep(db, out);
	return result;
}

int pgs__snapshot_open(pgs__snapshot *out, pgs_db *db, uint64_t at_revision, uint64_t deadline_ms, pgs_error *err)
{
	bool gone = false;
	uint64_t asked_ms;
	int result;
	do { /* the latest, or the oldest, may be collected between two requests: then there is a later one */
		asked_ms = pgs__now_ms();
		*out = (pgs__snapshot){.db = db};
		result = at_revision ? open_past(out, at_revision, deadline_ms, &gone, err)
				     : open_latest(out, deadline_ms, err);
	} while (result == PGS_EOLDREV && !gone && !pgs__deadline_passed(deadline_ms));
	if (result == PGS_OK && at_revision == 0)
		pgs__newest_offer(db, out, PGS__BUG(FRESH_FROM_REPLY) ? pgs__now_ms() : asked_ms);
	return result;
}

static void take_mirrored(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	pgs__snapshot *s = ctx;
	pgs__floor floor;
	if (answer != PGS__MIRROR_PRESENT)
		return;
	if (index == GET_T && pgs__number_decode(pair->value, &s->counter) == PGS_OK) {
		s->commit_revision = s->cache_revision = pair->mod_revision;
		s->commit_count = pair->version;
	} else if (index == GET_Z) {
		s->epoch = pair->mod_revision;
	} else if (index == GET_E && pgs__number_decode(pair->value, &s->extent) == PGS_OK) {
		s->extent_revision = pair->mod_revision;
	} else if (index == GET_G && pgs__floor_decode(pair->value, &floor) == PGS_OK) {
		s->floor = floor.floor;
	}
}

bool pgs__snapshot_mirrored(pgs__snapshot *out, pgs_db *db, uint64_t after, uint64_t deadline_ms)
{
	static const char kinds[] = {[GET_T] = 't', [GET_Z] = 'z', [GET_E] = 'e', [GET_G] = 'g'};
	pgs__disk_db *disk = db->contents.disk;
	pgs__key keys[sizeof kinds];
	pgs_slice slices[sizeof kinds];
	if (!disk || pgs__mirror_sequence(disk) <= after)
		return false;
	*out = (pgs__snapshot){.db = db};
	for (size_t i = 0; i < sizeof kinds; i++) {
		keys[i] = pgs__key_single(pgs__db_prefix(db), kinds[i]);
		slices[i] = pgs__key_slice(&keys[i]);
	}
	if (pgs__mirror_get(disk, 0, slices, sizeof kinds, take_mirrored, out, &out->kv_revision, NULL) != PGS_OK ||
	    !out->commit_revision || !out->epoch || !out->extent_revision || out->kv_revision <= after)
		return false;
	if (pgs__pack_view_get(db, out->epoch, out->kv_revision, deadline_ms, &out->packs, NULL) != PGS_OK)
		return false;
	pgs__cache_forget(db->contents.cache, out->commit_revision); /* what changed is not known; the mirror is near */
	pgs__tip_catch_up(db);
	return true;
}

uint64_t pgs__snapshot_mirror_revision(const pgs__snapshot *s)
{
	uint64_t sequence = s->db->contents.disk ? pgs__mirror_sequence(s->db->contents.disk) : 0;
	if (s->kv_revision <= sequence || (sequence && PGS__BUG(MIRROR_AHEAD)))
		return s->kv_revision;
	return s->commit_revision <= sequence && s->epoch <= sequence ? sequence : 0;
}

bool pgs__snapshot_is_latest(const pgs__snapshot *s)
{
	return s->changes && s->changes == pgs__tip_changes(s->db) &&
	       s->commit_revision <= pgs__cache_revision(s->db->contents.cache);
}

int pgs__snapshot_open_known(pgs__snapshot *out, pgs_db *db, const pgs__turn_commit *commit, uint64_t deadline_ms,
			     pgs_error *err)
{
	pgs__state state;
	if (!pgs__tip_find(db, commit->revision, commit->revision, deadline_ms, &state))
		return PGS_ENOTFOUND;
	*out = (pgs__snapshot){
		.db = db,
		.kv_revision = commit->revision,
		.commit_revision = commit->revision,
		.cache_revision = commit->revision,
		.commit_count = commit->count,
		.counter = commit->counter,
		.epoch = state.epoch,
		.extent = state.extent,
		.extent_revision = state.extent_revision,
	};
	catch_up_cache(out, deadline_ms);
	return pgs__pack_view_get(db, out->epoch, out->kv_revision, deadline_ms, &out->packs, err);
}

void pgs__snapshot_close(pgs__snapshot *snapshot)
{
	pgs__pack_view_release(snapshot->packs);
	pgs__named_close(snapshot->named);
	snapshot->packs = NULL;
	snapshot->named = NULL;
}

int pgs__explain_missing(const pgs__snapshot *snapshot, uint64_t deadline_ms, pgs_error *err)
{
	pgs__snapshot now = {.db = snapshot->db};
	pgs_error local = PGS_ERROR_INIT;
	if (snapshot->named)
		return pgs__named_explain(snapshot, deadline_ms, err);
	int result = read_numbers(&now, 0, deadline_ms, &local);
	if (result == PGS_OK && snapshot->kv_revision < now.floor)
		result = old_revision(now.db, snapshot->commit_revision, now.floor, &local);
	if (result == PGS_EOLDREV)
		pgs__newest_forget(now.db, snapshot->kv_revision);
	if (result != PGS_OK) {
		if (err)
			*err = local;
		return result;
	}
	if (err)
		err->code = PGS_ECORRUPT;
	return PGS_ECORRUPT;
}

int pgs__explain_old(const pgs__snapshot *snapshot, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t oldest;
	int result = pgs__oldest_readable(snapshot->db, &oldest, deadline_ms, err);
	pgs__newest_forget(snapshot->db, snapshot->kv_revision);
	return result == PGS_OK ? old_revision(snapshot->db, snapshot->commit_revision, oldest, err) : result;
}
