/* The newest snapshot of a database: see newest.h. */
#include "txn/newest.h"

#include <pagestore/txn.h>

#include "local_cache/mirror.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"

#define RECENT_MS 2000 /* begins with a bound: while there was one so lately, followers keep up with it */

pgs__newest *pgs__newest_new(void)
{
	pgs__newest *newest = pgs__calloc(1, sizeof *newest);
	if (newest)
		pthread_mutex_init(&newest->lock, NULL);
	return newest;
}

void pgs__newest_free(pgs__newest *newest)
{
	if (!newest)
		return;
	pgs__snapshot_close(&newest->snapshot);
	pthread_mutex_destroy(&newest->lock);
	pgs__free(newest);
}

void pgs__newest_want(pgs_db *db)
{
	if (!atomic_load_explicit(&db->newest->wanted, memory_order_relaxed))
		atomic_store_explicit(&db->newest->wanted, true, memory_order_relaxed);
}

static bool is_wanted(const pgs_db *db)
{
	return atomic_load_explicit(&db->newest->wanted, memory_order_relaxed);
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Under the lock. What was known may go. */
static void keep(pgs__newest *n, const pgs__snapshot *snapshot, pgs__pack_view **old)
{
	*old = n->snapshot.packs;
	n->snapshot = *snapshot;
	pgs__pack_view_retain(n->snapshot.packs);
	n->offered_ms = pgs__now_ms();
}

void pgs__newest_offer(pgs_db *db, const pgs__snapshot *snapshot, uint64_t asked_ms)
{
	pgs__newest *n = db->newest;
	pgs__pack_view *old = NULL;
	if (!is_wanted(db))
		return;
	pthread_mutex_lock(&n->lock);
	/* Also a snapshot that comes too late tells something of the later one that is known: that one was the latest
	 * after it. */
	n->confirmed_ms = later(n->confirmed_ms, asked_ms);
	if (snapshot->kv_revision > n->snapshot.kv_revision)
		keep(n, snapshot, &old);
	pthread_mutex_unlock(&n->lock);
	pgs__pack_view_release(old);
}

/* What the database is after a commit that follows the newest snapshot. While there are packs, z may have moved without a
 * commit; without them it has not. */
static void follow(pgs__newest *n, const pgs__landed *landed, uint64_t counter, uint64_t asked_ms)
{
	pgs__snapshot *s = &n->snapshot;
	if (!s->kv_revision || s->commit_revision != landed->previous || landed->structural ||
	    pgs__pack_view_count(s->packs) > 0)
		return;
	s->kv_revision = s->commit_revision = s->cache_revision = landed->revision;
	s->changes = 0;
	s->commit_count++;
	s->counter = counter;
	if (landed->puts_extent) {
		s->extent = landed->extent;
		s->extent_revision = landed->revision;
	}
	n->confirmed_ms = later(n->confirmed_ms, asked_ms);
	n->offered_ms = pgs__now_ms();
}

void pgs__newest_commit(pgs_db *db, uint64_t revision, const pgs__landed *landed, uint64_t counter, uint64_t asked_ms)
{
	pgs__newest *n = db->newest;
	if (db->contents.disk && !PGS__BUG(REQUIRED_NOT_SHARED))
		pgs__mirror_require(db->contents.disk, revision);
	pthread_mutex_lock(&n->lock);
	if (landed)
		follow(n, landed, counter, asked_ms);
	n->required = later(n->required, revision);
	pthread_mutex_unlock(&n->lock);
}

/* Under the lock: what other processes of the machine say. True: the mirror is further than what is known here. */
static bool hear(pgs_db *db, uint64_t *confirmed_ms)
{
	pgs__newest *n = db->newest;
	pgs__disk_db *disk = db->contents.disk;
	*confirmed_ms = pgs__mirror_confirmed(disk);
	uint64_t sequence = pgs__mirror_sequence(disk); /* in this order */
	if (!PGS__BUG(REQUIRED_IGNORED))
		n->required = later(n->required, pgs__mirror_required(disk));
	if (sequence && n->snapshot.kv_revision >= sequence)
		n->confirmed_ms = later(n->confirmed_ms, *confirmed_ms);
	return sequence > later(n->snapshot.kv_revision, n->gone);
}

/* Under the lock, which is given back meanwhile: what another process of the machine keeps up to date may be newer, or
 * confirmed later. A follower of this process is as good as that, but for what a commit has brought along just now. */
static void look_at_mirror(pgs_db *db, uint64_t deadline_ms)
{
	pgs__newest *n = db->newest;
	pgs__snapshot mirrored;
	uint64_t confirmed_ms;
	if (!db->contents.disk || !hear(db, &confirmed_ms) ||
	    (atomic_load_explicit(&n->followed, memory_order_relaxed) && n->snapshot.commit_revision >= n->required))
		return;
	uint64_t known = later(n->snapshot.kv_revision, n->gone);
	pthread_mutex_unlock(&n->lock);
	if (pgs__snapshot_mirrored(&mirrored, db, known, deadline_ms)) {
		pgs__newest_offer(db, &mirrored, confirmed_ms);
		pgs__snapshot_close(&mirrored);
	}
	pthread_mutex_lock(&n->lock);
}

/* Under the lock. Only a bound asks for the time. */
static bool is_fresh(pgs__newest *n, const pgs__freshness *f)
{
	const pgs__snapshot *s = &n->snapshot;
	if (f->kind == PGS_BOUNDED) {
		n->bound_ms = f->bound_ms;
		n->bounded_ms = pgs__now_ms();
	}
	if (!s->kv_revision || (s->commit_revision < n->required && !PGS__BUG(REQUIRED_IGNORED)))
		return false;
	switch (f->kind) {
	case PGS_LOCAL:
		return true;
	case PGS_AT_LEAST:
		return s->kv_revision >= f->least_revision || PGS__BUG(AT_LEAST_IGNORED);
	case PGS_BOUNDED: /* the clock's milliseconds are whole: it may be almost one later than it says */
		return n->confirmed_ms && n->bounded_ms + 1 - n->confirmed_ms <= f->bound_ms;
	default:
		return false;
	}
}

bool pgs__newest_take(pgs_db *db, const pgs__freshness *f, pgs__snapshot *out, uint64_t *since_ms, uint64_t deadline_ms)
{
	pgs__newest *n = db->newest;
	pgs__newest_want(db);
	pthread_mutex_lock(&n->lock);
	look_at_mirror(db, deadline_ms);
	bool fresh = is_fresh(n, f);
	if (fresh) {
		*out = n->snapshot;
		*since_ms = n->offered_ms;
		pgs__pack_view_retain(out->packs);
	}
	pthread_mutex_unlock(&n->lock);
	return fresh;
}

void pgs__newest_forget(pgs_db *db, uint64_t kv_revision)
{
	pgs__newest *n = db->newest;
	pgs__pack_view *old = NULL;
	pthread_mutex_lock(&n->lock);
	if (n->snapshot.kv_revision <= kv_revision) {
		old = n->snapshot.packs;
		n->snapshot = (pgs__snapshot){0};
		n->confirmed_ms = 0;
	}
	n->gone = later(n->gone, kv_revision);
	pthread_mutex_unlock(&n->lock);
	pgs__pack_view_release(old);
}

uint64_t pgs__newest_pace(pgs_db *db, uint64_t at_most)
{
	pgs__newest *n = db->newest;
	pthread_mutex_lock(&n->lock);
	bool recent = n->bounded_ms && pgs__now_ms() - n->bounded_ms < RECENT_MS;
	uint64_t pace = recent ? n->bound_ms / 2 : at_most;
	pthread_mutex_unlock(&n->lock);
	return pace < at_most ? pace : at_most;
}
