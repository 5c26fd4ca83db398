/* What stands between a client and the backends.
 *
 *     outer     passes the baton, draws the call's fate, tells the trace
 *     pgs_fault makes it so
 *     observer  sees what is applied, in the order in which it is, and keeps the model up
 *
 * Blobs that are put or removed late are kept here: pgs_fault delays transactions only.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/changelog.h"
#include "codec/keys.h"
#include "codec/meta.h"
#include "codec/snapshot_record.h"

typedef struct late_blob {
	struct late_blob *next;
	char name[PGS_BLOB_NAME_MAX + 1];
	bool remove;
	size_t size;
	uint8_t bytes[];
} late_blob;

typedef struct sim_kv {
	pgs_kv base;
	sim_link *link;
	pgs_kv *inner;
} sim_kv;

typedef struct sim_blob {
	pgs_blob base;
	sim_link *link;
	pgs_blob *inner;
} sim_blob;

struct sim_link {
	sim_link *next;
	sim_client *owner;
	int life;
	pgs_fault *fault;
	sim_kv outer, observer;
	sim_blob outer_blob;
	size_t delayed_txns;
	late_blob *late;
	uint8_t claim[16]; /* the end of the key of the last one it took */
	bool unfenced;     /* another broke it */
};

typedef struct sim_watch {
	sim_link *link;
	const pgs_kv_vtable *vtable;
	pgs_kv_watch *inner;
	bool mute;         /* says nothing any more, and no error either */
	uint64_t revision; /* that it got to */
} sim_watch;

/* --- the observer ---------------------------------------------------------------------- */

static void observe_put(sim_db *db, const uint8_t *prefix, char kind, pgs_slice tail, pgs_slice value,
	uint64_t revision)
{
	pgs__floor floor;
	pgs__change change;
	if (kind == 'm' && !tail.size) {
		model_created(prefix, revision);
	} else if (kind == 'g' && !tail.size && db && pgs__floor_decode(value, &floor) == PGS_OK) {
		if (floor.floor < db->floor)
			sim_fail("the floor falls from %llu to %llu", (unsigned long long)db->floor,
				(unsigned long long)floor.floor);
		if (floor.floor != db->floor)
			trace("the floor is %llu now, after %llu", (unsigned long long)floor.floor,
				(unsigned long long)floor.previous);
		if (floor.floor != db->floor && floor.floor < db->floor_put)
			sim_fail("the new floor, %llu, is below the revision that published the last one, %llu",
				(unsigned long long)floor.floor, (unsigned long long)db->floor_put);
		db->floor = floor.floor;
		db->floor_put = revision;
		world.floors++;
	} else if (kind == 'x' && tail.size == 16 && db && pgs__change_decode(value, &change) == PGS_OK) {
		sim_txn *txn = model_find_txn(tail.data);
		if (change.kind != PGS__CHANGE_ABORTED)
			model_committed(db, tail.data, revision);
		else if (txn && txn->committed)
			sim_fail("the commit of revision %llu is marked as aborted afterwards",
				(unsigned long long)txn->committed);
		else if (txn)
			model_never(txn);
	}
}

static sim_snapshot *find_snapshot(sim_db *db, pgs_slice name)
{
	for (int i = 0; db && i < SIM_SNAPSHOTS; i++)
		if (strlen(db->snapshots[i].name) == name.size && memcmp(db->snapshots[i].name, name.data, name.size) == 0)
			return &db->snapshots[i];
	return NULL;
}

/* A named snapshot is made or dropped. */
static void observe_snapshot(sim_db *db, pgs_slice name, const pgs_kv_op *op)
{
	pgs__snapshot_record record;
	sim_snapshot *s = find_snapshot(db, name);
	if (!s || op->range_end.size)
		return;
	bool put = op->kind == PGS_KV_PUT && pgs__snapshot_decode(op->value, &record) == PGS_OK;
	if (put && record.revision < db->floor)
		sim_fail("a named snapshot of revision %llu is registered above the floor, %llu",
			(unsigned long long)record.revision, (unsigned long long)db->floor);
	s->drops += s->revision && !put;
	s->puts += put && !s->revision;
	s->revision = put ? record.commit_revision : 0;
}

/* The writer lock and the request for it: one has it, who alone commits, and does not keep it when others ask. */
static void observe_turn(sim_link *link, sim_db *db, const pgs_kv_op *op)
{
	bool asks = op->key.size != 12;
	if (op->kind == PGS_KV_PUT && asks) {
		if (!db->turn)
			sim_fail("the writer lock is asked for, though nobody has it");
		db->turn_asked = true;
	} else if (op->kind == PGS_KV_PUT) {
		if (db->turn && db->turn != link)
			sim_fail("client %d takes the writer lock of client %d", link->owner->index, db->turn->owner->index);
		db->turn = link;
	} else if (!asks) {
		if (db->turn_asked && op->range_end.size == 0)
			sim_fail("the request for the writer lock outlives it");
		db->turns_broken += db->turn && db->turn != link;
		db->turn = NULL;
		db->turn_asked = db->turn_spent = false;
	}
}

/* A commit, before its other effects. */
static void check_turn(const sim_link *link, sim_db *db)
{
	if (db->turn && db->turn != link)
		sim_fail("client %d commits, though client %d has the writer lock", link->owner->index,
			db->turn->owner->index);
	if (db->turn_spent)
		sim_fail("client %d commits again with the writer lock others have asked for", link->owner->index);
	db->turn_spent = db->turn_asked;
}

/* A claim of maintenance: who holds it, and whether another broke it. */
static void observe_claim(sim_link *link, const pgs_kv_op *op)
{
	const uint8_t *id = (const uint8_t *)op->key.data + op->key.size - 16;
	if (op->key.size < 13 + 16 || memcmp((const uint8_t *)op->key.data + 11, "m-", 2) != 0)
		return;
	if (op->kind == PGS_KV_PUT) {
		memcpy(link->claim, id, sizeof link->claim);
		link->unfenced = false;
		return;
	}
	for (sim_link *holder = world.links; holder; holder = holder->next)
		if (holder != link && memcmp(holder->claim, id, sizeof holder->claim) == 0)
			holder->unfenced = true;
}

/* Invariant 9: whoever's claim was broken changes nothing. Commits need no claim: they put t. */
static void check_fence(const sim_link *link, const pgs_kv_op *ops, size_t count)
{
	bool works = false;
	for (size_t i = 0; i < count; i++) {
		const uint8_t *key = ops[i].key.data;
		if (ops[i].kind == PGS_KV_RANGE || ops[i].key.size < 10 || key[0] < 0x80)
			continue;
		if (key[9] == 't' || key[9] == 's' || key[9] == 'm')
			return;
		works |= strchr("lop", key[9]) != NULL;
	}
	if (works && link->unfenced)
		sim_fail("a worker whose claim was broken goes on: client %d", link->owner->index);
}

static void observe_ops(sim_link *link, const pgs_kv_op *ops, size_t count, uint64_t revision)
{
	check_fence(link, ops, count);
	for (size_t i = 0; i < count; i++) {
		const uint8_t *key = ops[i].key.data;
		size_t size = ops[i].key.size;
		if (ops[i].kind == PGS_KV_RANGE || size < 10 || key[0] < 0x80)
			continue;
		sim_db *db = model_db(key);
		pgs_slice tail = {key + 11, size > 11 ? size - 11 : 0};
		if (db && key[9] == 't' && size == 10 && ops[i].kind == PGS_KV_PUT)
			check_turn(link, db);
		if (db && key[9] == 'k' && tail.size && *(const char *)tail.data == 'w')
			observe_turn(link, db, &ops[i]);
		else if (key[9] == 'k')
			observe_claim(link, &ops[i]);
		else if (key[9] == 's')
			observe_snapshot(db, tail, &ops[i]);
		else if (ops[i].kind == PGS_KV_PUT)
			observe_put(db, key, (char)key[9], tail, ops[i].value, revision);
		else if (key[9] == 'm' && size == 10 && ops[i].range_end.size == 0 && db && !db->dropped)
			db->dropped = revision;
	}
	if (world.last_commit == revision)
		model_committed_together(revision);
}

static int observer_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	sim_kv *o = (sim_kv *)kv;
	int result = o->inner->vtable->txn(o->inner, txns, count, deadline_ms, err);
	for (size_t i = 0; i < count; i++) {
		if (txns[i].status != PGS_OK)
			continue;
		if (txns[i].succeeded)
			observe_ops(o->link, txns[i].success, txns[i].success_count, txns[i].revision);
		else
			observe_ops(o->link, txns[i].failure, txns[i].failure_count, txns[i].revision);
	}
	return result;
}

static void observer_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	inner->vtable->release(inner, txns, count);
}

static int observer_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	return inner->vtable->watch_open(inner, key, range_end, from_revision, out, err);
}

static int observer_watch_next(pgs_kv_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	return world.kv->vtable->watch_next(watch, timeout_ms, out, err);
}

static void observer_watch_close(pgs_kv_watch *watch)
{
	world.kv->vtable->watch_close(watch);
}

static int observer_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	int result = inner->vtable->compact(inner, revision, deadline_ms, err);
	for (const sim_db *db = world.databases; result == PGS_OK && db; db = db->next) {
		uint64_t oldest = db->floor > db->states[0].revision ? db->floor : db->states[0].revision;
		if (!db->dropped && revision > oldest)
			sim_fail("the KV is compacted to %llu, above the floor %llu of a database",
				(unsigned long long)revision, (unsigned long long)oldest);
	}
	if (result == PGS_OK && revision > world.compacted)
		world.compacted = revision;
	return result;
}

static void observer_limits(pgs_kv *kv, pgs_kv_limits *out)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	inner->vtable->limits(inner, out);
}

static int observer_identity(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	return inner->vtable->identity(inner, out, deadline_ms, err);
}

static int observer_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	return inner->vtable->stat(inner, out, deadline_ms, err);
}

static void observer_close(pgs_kv *kv)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	inner->vtable->close(inner);
}

static uint64_t observer_changes(pgs_kv *kv)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	return inner->vtable->changes(inner);
}

static const pgs_kv_vtable observer_vtable = {
	.version = PGS_KV_VERSION,
	.struct_size = sizeof(pgs_kv_vtable),
	.txn = observer_txn,
	.release = observer_release,
	.watch_open = observer_watch_open,
	.watch_next = observer_watch_next,
	.watch_close = observer_watch_close,
	.compact = observer_compact,
	.limits = observer_limits,
	.identity = observer_identity,
	.stat = observer_stat,
	.close = observer_close,
	.changes = observer_changes,
};

/* --- fates -------------------------------------------------------------------------------- */

static const char *const fates[] = {"", " ERROR", " REPLY LOST", " DELAYED", " CRASH"};

static bool strikes(uint32_t trouble, uint32_t chance, uint64_t *die)
{
	bool hit = *die < chance;
	*die -= hit ? 0 : chance;
	return hit && (world.config.troubles & trouble) && !world.over && !world.current->quiet;
}

/* A decision hangs on it: what follows other keys' state. Such calls are hit, and paused before, more often. */
static bool is_critical(const pgs_kv_txn *txn)
{
	return txn->compare_count && txn->success_count;
}

#define CRITICAL 4

static pgs_fault_kind crash(sim_client *c, bool critical)
{
	static const pgs_fault_kind kinds[] = {PGS_FAULT_STOP, PGS_FAULT_LOSE_REPLY, PGS_FAULT_DELAY, PGS_FAULT_STOP,
		PGS_FAULT_STOP};
	pgs_fault_kind kind = kinds[rng_below(&world.faults, critical ? 3 : 5)];
	client_dies(c);
	return kind;
}

/* What becomes of the call that the current client is about to make. */
static pgs_fault_kind draw_fate(sim_client *c, bool critical)
{
	const sim_config *g = &world.config;
	uint64_t die = rng_below(&world.faults, 10000) / (critical ? CRITICAL : 1);
	if (world.now_us < c->outage_end_us)
		return PGS_FAULT_ERROR;
	if (strikes(SIM_ERRORS, g->error, &die))
		return PGS_FAULT_ERROR;
	if (strikes(SIM_LOST_REPLIES, g->lose, &die))
		return PGS_FAULT_LOSE_REPLY;
	if (strikes(SIM_DELAYS, g->delay, &die))
		return PGS_FAULT_DELAY;
	if (strikes(SIM_CRASHES, g->crash, &die))
		return crash(c, critical);
	if (strikes(SIM_OUTAGES, g->outage, &die)) {
		c->outage_end_us = world.now_us + rng_below(&world.faults, 2 * g->timeout_ms) * 1000;
		return PGS_FAULT_ERROR;
	}
	return PGS_FAULT_NONE;
}

static void maybe_freeze(sim_client *c, bool critical)
{
	/* More so while it does not know what became of its last call: then the world is another when it asks again. */
	uint32_t chance = world.config.freeze * (c->troubled ? 10 : critical ? CRITICAL : 1);
	bool froze = rng_chance(&world.faults, chance, 10000);
	c->troubled = false;
	if (!froze || !(world.config.troubles & SIM_FREEZES) || world.over || c->quiet)
		return;
	uint64_t ms = 1 + rng_below(&world.faults, world.config.freeze_ms);
	trace("freezes for %llu ms", (unsigned long long)ms);
	sim_sleep_us(ms * 1000);
}

/* Before every call. */
static pgs_fault_kind enter_call(sim_link *link, bool critical)
{
	sim_client *c = link->owner;
	if (c->dead)
		return PGS_FAULT_STOP;
	if (c->atomic)
		return PGS_FAULT_NONE;
	sim_pass_baton();
	maybe_freeze(c, critical);
	if (c->dead)
		return PGS_FAULT_STOP; /* its machine crashed */
	pgs_fault_kind fate = draw_fate(c, critical);
	if (fate != PGS_FAULT_NONE) {
		c->faults++;
		pgs_fault_at(link->fault, 1, fate);
	}
	return fate;
}

static pgs_fault_kind enter(sim_link *link)
{
	return enter_call(link, false);
}

/* After a call that killed the client, nothing gets through any more. */
static void leave(sim_link *link, pgs_fault_kind fate, const char *what, const char *about, int result,
	uint64_t revision)
{
	sim_client *c = link->owner;
	bool died = c->dead && fate != PGS_FAULT_NONE;
	if (c->atomic)
		return;
	c->troubled = fate == PGS_FAULT_LOSE_REPLY || fate == PGS_FAULT_DELAY;
	trace_note((uint64_t)c->index << 8 | (uint64_t)fate, (uint64_t)(int64_t)result, revision);
	if (trace_on)
		trace("%s %s -> %s%s%s", what, about, result == PGS_OK ? "ok" : pgs_error_name(result), fates[fate],
			died ? ", and the client is DEAD" : "");
	if (died && fate != PGS_FAULT_STOP)
		pgs_fault_at(link->fault, 1, PGS_FAULT_STOP); /* the next call, and all after it */
}

/* --- the outer KV ---------------------------------------------------------------------------- */

static void describe_result(char *out, size_t size, const pgs_kv_txn *txn)
{
	if (txn->status != PGS_OK)
		snprintf(out, size, "%s", "");
	else
		snprintf(out, size, "[%s%llu]", txn->succeeded ? "" : "compare FAILED ",
			(unsigned long long)txn->revision);
}

/* The compares that fail, asked one by one. */
static void trace_failed_compares(const pgs_kv_txn *txn)
{
	for (size_t i = 0; txn->status == PGS_OK && !txn->succeeded && i < txn->compare_count; i++) {
		pgs_kv_op get = {.kind = PGS_KV_RANGE, .key = txn->compares[i].key};
		pgs_kv_txn one = {.compares = &txn->compares[i], .compare_count = 1, .success = &get, .success_count = 1,
			.failure = &get, .failure_count = 1};
		if (world.kv->vtable->txn(world.kv, &one, 1, 0, NULL) != PGS_OK)
			continue;
		const pgs_kv_pair *pair = one.results[0].count ? one.results[0].pairs : NULL;
		if (!one.succeeded)
			trace("   fails: %s (its mod revision is %llu)", trace_key(txn->compares[i].key),
				(unsigned long long)(pair ? pair->mod_revision : 0));
		world.kv->vtable->release(world.kv, &one, 1);
	}
}

static int outer_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	sim_kv *o = (sim_kv *)kv;
	sim_link *link = o->link;
	bool was_dead = link->owner->dead;
	pgs_fault_kind fate = enter_call(link, is_critical(txns));
	int result = o->inner->vtable->txn(o->inner, txns, count, deadline_ms, err);
	link->delayed_txns += fate == PGS_FAULT_DELAY;
	if (was_dead)
		return result;
	char outcome[64] = "";
	if (trace_on) {
		char about[700];
		describe_result(outcome, sizeof outcome, txns);
		snprintf(about, sizeof about, "%s%s %s", count > 1 ? "(several) " : "", trace_txn(txns), outcome);
		leave(link, fate, "kv", about, result, txns->revision);
		trace_failed_compares(txns);
	} else {
		leave(link, fate, "", "", result, txns->revision);
	}
	return result;
}

static void outer_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	inner->vtable->release(inner, txns, count);
}

static int outer_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err)
{
	sim_kv *o = (sim_kv *)kv;
	pgs_fault_kind fate = enter(o->link);
	*out = NULL;
	sim_watch *watch = calloc(1, sizeof *watch);
	int result = o->inner->vtable->watch_open(o->inner, key, range_end, from_revision, &watch->inner, err);
	leave(o->link, fate, "watch", "open", result, from_revision);
	if (result != PGS_OK) {
		free(watch);
		return result;
	}
	watch->link = o->link;
	watch->vtable = o->inner->vtable;
	*out = (pgs_kv_watch *)watch;
	return PGS_OK;
}

/* A follower's watch may fall silent. */
static bool is_mute(sim_watch *watch, uint32_t timeout_ms, pgs_kv_events *out)
{
	sim_client *c = watch->link->owner;
	bool follows = strcmp(c->doing, "follow") == 0 && !world.over && !c->dead;
	if (follows && world.config.mute && !watch->mute)
		watch->mute = rng_chance(&world.faults, world.config.mute, 10000);
	if (!watch->mute || c->dead)
		return false;
	*out = (pgs_kv_events){.revision = watch->revision};
	sim_sleep_us(1000 * (uint64_t)(timeout_ms < 20 ? 1 + timeout_ms : 20));
	return true;
}

/* Nothing waits in real time: look, and if there is nothing, sleep and look once more. */
static int outer_watch_next(pgs_kv_watch *handle, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	sim_watch *watch = (sim_watch *)handle;
	int result = PGS_OK;
	if (is_mute(watch, timeout_ms, out))
		return PGS_OK;
	for (int look = 0; look < 2; look++) {
		pgs_fault_kind fate = enter(watch->link);
		result = watch->vtable->watch_next(watch->inner, 0, out, err);
		leave(watch->link, fate, "watch", "next", result, out->revision);
		if (result == PGS_OK)
			watch->revision = out->revision;
		if (result != PGS_OK || out->count || watch->link->owner->dead || timeout_ms == 0)
			return result;
		if (look == 0 && !watch->link->owner->atomic)
			sim_sleep_us(1000 * (uint64_t)(timeout_ms < 20 ? timeout_ms : 20));
	}
	return result;
}

static void outer_watch_close(pgs_kv_watch *handle)
{
	sim_watch *watch = (sim_watch *)handle;
	watch->vtable->watch_close(watch->inner);
	free(watch);
}

static int outer_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	sim_kv *o = (sim_kv *)kv;
	pgs_fault_kind fate = enter(o->link);
	int result = o->inner->vtable->compact(o->inner, revision, deadline_ms, err);
	leave(o->link, fate, "kv", "compact", result, revision);
	return result;
}

static void outer_limits(pgs_kv *kv, pgs_kv_limits *out)
{
	pgs_kv *inner = ((sim_kv *)kv)->inner;
	inner->vtable->limits(inner, out);
}

static int outer_identity(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	sim_kv *o = (sim_kv *)kv;
	pgs_fault_kind fate = enter(o->link);
	int result = o->inner->vtable->identity(o->inner, out, deadline_ms, err);
	leave(o->link, fate, "kv", "identity", result, 0);
	return result;
}

static int outer_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	sim_kv *o = (sim_kv *)kv;
	pgs_fault_kind fate = enter(o->link);
	int result = o->inner->vtable->stat(o->inner, out, deadline_ms, err);
	leave(o->link, fate, "kv", "stat", result, out->revision);
	return result;
}

static void outer_close(pgs_kv *kv)
{
	(void)kv; /* the link lives on: something may be under way */
}

/* No call that could fail. But others may run before and after it, as they may beside a load from memory. */
static uint64_t outer_changes(pgs_kv *kv)
{
	sim_kv *o = (sim_kv *)kv;
	sim_client *c = o->link->owner;
	if (world.config.silent)
		return 0;
	if (!c->dead && !c->atomic)
		sim_pass_baton();
	uint64_t number = o->inner->vtable->changes(o->inner);
	trace_note((uint64_t)c->index << 8, number, 8);
	return number;
}

static const pgs_kv_vtable outer_vtable = {
	.version = PGS_KV_VERSION,
	.struct_size = sizeof(pgs_kv_vtable),
	.txn = outer_txn,
	.release = outer_release,
	.watch_open = outer_watch_open,
	.watch_next = outer_watch_next,
	.watch_close = outer_watch_close,
	.compact = outer_compact,
	.limits = outer_limits,
	.identity = outer_identity,
	.stat = outer_stat,
	.close = outer_close,
	.changes = outer_changes,
};

/* --- the outer blob store ---------------------------------------------------------------------- */

static void keep_late(sim_link *link, const char *name, bool removal, size_t size, pgs_blob_source source, void *ctx)
{
	late_blob *late = calloc(1, sizeof *late + size);
	strncpy(late->name, name, PGS_BLOB_NAME_MAX);
	late->remove = removal;
	late->size = size;
	if (!removal && size && source(ctx, 0, late->bytes, size) != PGS_OK) {
		free(late);
		return;
	}
	late_blob **link_end = &link->late;
	while (*link_end)
		link_end = &(*link_end)->next;
	*link_end = late;
}

static bool goes_late(pgs_fault_kind fate)
{
	return fate == PGS_FAULT_DELAY && rng_chance(&world.faults, world.config.delayed_blobs, 10000);
}

static int outer_put(pgs_blob *blob, const char *name, uint64_t size_bytes, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	sim_blob *o = (sim_blob *)blob;
	pgs_fault_kind fate = enter(o->link);
	if (goes_late(fate))
		keep_late(o->link, name, false, (size_t)size_bytes, source, ctx);
	int result = o->inner->vtable->put(o->inner, name, size_bytes, source, ctx, deadline_ms, err);
	leave(o->link, fate, "blob put", trace_blob(name), result, size_bytes);
	return result;
}

static int outer_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	sim_blob *o = (sim_blob *)blob;
	pgs_fault_kind fate = enter(o->link);
	int result = o->inner->vtable->get(o->inner, ranges, count, deadline_ms, err);
	leave(o->link, fate, "blob get", trace_blob(ranges->name), result, count);
	return result;
}

static int outer_blob_stat(
	pgs_blob *blob, const char *name, uint64_t *size_bytes, uint64_t deadline_ms, pgs_error *err)
{
	sim_blob *o = (sim_blob *)blob;
	pgs_fault_kind fate = enter(o->link);
	int result = o->inner->vtable->stat(o->inner, name, size_bytes, deadline_ms, err);
	leave(o->link, fate, "blob stat", trace_blob(name), result, *size_bytes);
	return result;
}

static int outer_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	sim_blob *o = (sim_blob *)blob;
	pgs_fault_kind fate = enter(o->link);
	int result = o->inner->vtable->list(o->inner, prefix, lister, ctx, deadline_ms, err);
	leave(o->link, fate, "blob list", trace_blob(prefix), result, 0);
	return result;
}

static int outer_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	sim_blob *o = (sim_blob *)blob;
	pgs_fault_kind fate = enter(o->link);
	if (goes_late(fate))
		keep_late(o->link, name, true, 0, NULL, NULL);
	int result = o->inner->vtable->remove(o->inner, name, deadline_ms, err);
	leave(o->link, fate, "blob remove", trace_blob(name), result, 0);
	return result;
}

static void outer_blob_close(pgs_blob *blob)
{
	(void)blob;
}

static const pgs_blob_vtable outer_blob_vtable = {
	.version = PGS_BLOB_VERSION,
	.struct_size = sizeof(pgs_blob_vtable),
	.put = outer_put,
	.get = outer_get,
	.stat = outer_blob_stat,
	.list = outer_list,
	.remove = outer_remove,
	.close = outer_blob_close,
};

/* --- links ----------------------------------------------------------------------------------------- */

sim_link *link_new(sim_client *owner, pgs_kv **kv, pgs_blob **blob)
{
	sim_link *link = calloc(1, sizeof *link);
	pgs_kv *shared;
	pgs_blob *shared_blob;
	link->owner = owner;
	link->life = owner->life;
	link->outer = (sim_kv){{&outer_vtable}, link, NULL};
	link->observer = (sim_kv){{&observer_vtable}, link, NULL};
	link->outer_blob = (sim_blob){{&outer_blob_vtable}, link, NULL};
	if (pgs_fault_new(&link->fault, NULL, NULL) != PGS_OK ||
		pgs_kv_memory_share(&shared, world.kv, NULL) != PGS_OK ||
		pgs_blob_memory_share(&shared_blob, world.blob, NULL) != PGS_OK)
		sim_fail("out of memory");
	link->observer.inner = shared;
	if (pgs_fault_wrap_kv(&link->outer.inner, link->fault, &link->observer.base, NULL) != PGS_OK ||
		pgs_fault_wrap_blob(&link->outer_blob.inner, link->fault, shared_blob, NULL) != PGS_OK)
		sim_fail("out of memory");
	link->next = world.links;
	world.links = link;
	*kv = &link->outer.base;
	*blob = &link->outer_blob.base;
	return link;
}

sim_link *link_next(sim_link *link)
{
	return link->next;
}

bool link_has_delayed(const sim_link *link)
{
	return link->delayed_txns || link->late;
}

static int late_source(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	memcpy(buffer, ((late_blob *)ctx)->bytes + offset, size);
	return PGS_OK;
}

static void apply_late(late_blob *late)
{
	const pgs_blob_vtable *vtable = world.blob->vtable;
	if (late->remove)
		vtable->remove(world.blob, late->name, 0, NULL);
	else
		vtable->put(world.blob, late->name, late->size, late_source, late, 0, NULL);
	trace("late: blob %s %s", late->remove ? "remove" : "put", trace_blob(late->name));
	free(late);
}

void link_deliver(sim_link *link)
{
	while (link->late) {
		late_blob *late = link->late;
		link->late = late->next;
		apply_late(late);
	}
	uint64_t count = link->delayed_txns;
	link->delayed_txns = 0;
	uint64_t applied = pgs_fault_deliver(link->fault);
	trace_note(count, applied, 7);
	if (count)
		trace("late: %llu transactions of c%d.%d arrive, %llu take effect", (unsigned long long)count,
			link->owner->index, link->life, (unsigned long long)applied);
}

void link_kill(sim_link *link)
{
	pgs_fault_at(link->fault, 1, PGS_FAULT_STOP);
}

void link_free(sim_link *link)
{
	for (sim_link **at = &world.links; *at; at = &(*at)->next)
		if (*at == link) {
			*at = link->next;
			break;
		}
	link->outer.inner->vtable->close(link->outer.inner);
	link->outer_blob.inner->vtable->close(link->outer_blob.inner);
	pgs_fault_free(link->fault);
	while (link->late) {
		late_blob *late = link->late;
		link->late = late->next;
		free(late);
	}
	free(link);
}

void link_free_all(void)
{
	while (world.links)
		link_free(world.links);
}
