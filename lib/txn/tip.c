/* Known states of a database, and commits waiting for their predecessors: see tip.h. */
#include "txn/tip.h"

#include <string.h>
#include <time.h>

#include "txn/snapshot.h"
#include "util/alloc.h"
#include "util/clock.h"

#define STEADY 3           /* so often in a row, before `t` is read alone: to be wrong costs a request */
#define WAITING_MAX 64     /* commits, */
#define WAITING_PAGES 1024 /* of so many pages each at most; others leave the cache behind */
#define PATIENCE_MS 50     /* for commits under way: the changelog tells as well */

struct pgs__waiting {
	struct pgs__waiting *next;
	pgs__landed landed;
	pgs__changed_page pages[];
};

int pgs__tip_init(pgs__tip *tip)
{
	pthread_condattr_t attributes;
	pthread_mutex_init(&tip->lock, NULL);
	if (pthread_condattr_init(&attributes) != 0)
		return PGS_ENOMEM;
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&tip->moved, &attributes);
	pthread_condattr_destroy(&attributes);
	tip->latest = pgs__calloc(1, sizeof *tip->latest);
	return tip->latest ? PGS_OK : PGS_ENOMEM;
}

void pgs__tip_free(pgs__tip *tip)
{
	while (tip->waiting) {
		struct pgs__waiting *next = tip->waiting->next;
		pgs__free(tip->waiting);
		tip->waiting = next;
	}
	if (tip->latest)
		pgs__pack_view_release(tip->latest->packs);
	pgs__free(tip->latest);
	pthread_cond_destroy(&tip->moved);
	pthread_mutex_destroy(&tip->lock);
}

/* --- states, under the lock -------------------------------------------------------- */

static const pgs__state *newest(const pgs__tip *tip)
{
	return &tip->states[tip->newest];
}

static void add_state(pgs__tip *tip, const pgs__state *state)
{
	tip->newest = (tip->newest + 1) % PGS__TIP_STATES;
	tip->states[tip->newest] = *state;
}

static bool find_state(const pgs__tip *tip, uint64_t commit_revision, pgs__state *out)
{
	for (size_t i = 0; i < PGS__TIP_STATES; i++) {
		const pgs__state *s = &tip->states[(tip->newest + PGS__TIP_STATES - i) % PGS__TIP_STATES];
		if (s->commit_revision == commit_revision) {
			*out = *s;
			return true;
		}
	}
	return false;
}

/* The state after a commit that follows the newest one known. One that rewrote z may have brought a pack. */
static void follow(pgs__tip *tip, const pgs__landed *l)
{
	pgs__state next = *newest(tip);
	if (next.commit_revision != l->previous || l->structural)
		return;
	next.commit_revision = next.since = l->revision;
	if (l->puts_extent) {
		next.extent = l->extent;
		next.extent_revision = l->revision;
	}
	add_state(tip, &next);
}

/* --- commits, under the lock -------------------------------------------------------------- */

/* Move the cache past it, if the cache is where it begins. */
static bool apply(pgs_db *db, const pgs__landed *l)
{
	pgs__cache *cache = db->contents.cache;
	if (!pgs__cache_advance_begin(cache, l->previous, l->revision))
		return false;
	if (l->truncated)
		pgs__cache_freeze(cache, l->truncated_to, UINT64_MAX - l->truncated_to, l->revision);
	for (size_t i = 0; i < l->count; i++) {
		const pgs__changed_page *p = &l->pages[i];
		if (p->frozen)
			pgs__cache_freeze(cache, p->page_no, 1, l->revision);
		else
			pgs__cache_replace(cache, p->page_no, &p->ref, p->page);
	}
	pgs__cache_advance_end(cache);
	return true;
}

/* Keep it until its predecessor is met. Its contents go into the cache now: they are known by id. */
static void wait_for_predecessor(pgs_db *db, const pgs__landed *l)
{
	pgs__tip *tip = &db->tip;
	size_t size = l->count * sizeof *l->pages;
	if (tip->waiting_count >= WAITING_MAX || l->count > WAITING_PAGES)
		return;
	struct pgs__waiting *w = pgs__malloc(sizeof *w + size);
	if (!w)
		return;
	w->landed = *l;
	w->landed.pages = w->pages;
	if (size)
		memcpy(w->pages, l->pages, size);
	for (size_t i = 0; i < l->count; i++) {
		if (!w->pages[i].frozen && w->pages[i].page)
			pgs__cache_put_content(db->contents.cache, w->pages[i].page_no, &w->pages[i].ref.id,
					       w->pages[i].page);
		w->pages[i].page = NULL;
	}
	w->next = tip->waiting;
	tip->waiting = w;
	tip->waiting_count++;
}

/* Those whose turn has come, or whose time has passed. */
static void take_waiting(pgs_db *db)
{
	pgs__tip *tip = &db->tip;
	struct pgs__waiting **at = &tip->waiting;
	while (*at) {
		struct pgs__waiting *w = *at;
		uint64_t revision = pgs__cache_revision(db->contents.cache);
		bool moved = false;
		if (revision < w->landed.previous) {
			at = &w->next;
			continue;
		}
		if (revision < w->landed.revision)
			moved = apply(db, &w->landed);
		follow(tip, &w->landed);
		*at = w->next;
		tip->waiting_count--;
		pgs__free(w);
		if (moved)
			at = &tip->waiting; /* it may be another's predecessor */
	}
}

void pgs__tip_land(pgs_db *db, const pgs__landed *landed)
{
	pgs__tip *tip = &db->tip;
	pthread_mutex_lock(&tip->lock);
	if (pgs__cache_revision(db->contents.cache) < landed->previous) {
		wait_for_predecessor(db, landed);
	} else {
		apply(db, landed);
		follow(tip, landed);
		take_waiting(db);
	}
	pthread_mutex_unlock(&tip->lock);
}

void pgs__tip_catch_up(pgs_db *db)
{
	pthread_mutex_lock(&db->tip.lock);
	take_waiting(db);
	pthread_mutex_unlock(&db->tip.lock);
}

void pgs__tip_begin_commit(pgs_db *db)
{
	pthread_mutex_lock(&db->tip.lock);
	db->tip.under_way++;
	pthread_mutex_unlock(&db->tip.lock);
}

void pgs__tip_end_commit(pgs_db *db)
{
	pthread_mutex_lock(&db->tip.lock);
	db->tip.under_way--;
	db->tip.ended++;
	pthread_cond_broadcast(&db->tip.moved);
	pthread_mutex_unlock(&db->tip.lock);
}

/* --- beginning -------------------------------------------------------------------------------- */

uint64_t pgs__tip_changes(const pgs_db *db)
{
	pgs_kv *kv = pgs__db_backend(db)->kv;
	return PGS_KV_HAS(kv, changes) ? kv->vtable->changes(kv) : 0;
}

bool pgs__tip_latest(pgs_db *db, uint64_t changes, pgs__snapshot *out)
{
	pgs__tip *tip = &db->tip;
	if (changes == 0)
		return false;
	pthread_mutex_lock(&tip->lock);
	bool kept = tip->latest->changes == changes;
	if (kept) {
		*out = *tip->latest;
		pgs__pack_view_retain(out->packs);
	}
	pthread_mutex_unlock(&tip->lock);
	return kept;
}

void pgs__tip_keep(pgs_db *db, const pgs__snapshot *snapshot)
{
	pgs__tip *tip = &db->tip;
	if (snapshot->changes == 0)
		return;
	pgs__pack_view_retain(snapshot->packs);
	pthread_mutex_lock(&tip->lock);
	pgs__pack_view *before = tip->latest->packs;
	*tip->latest = *snapshot;
	pthread_mutex_unlock(&tip->lock);
	pgs__pack_view_release(before);
}

bool pgs__tip_is_steady(pgs_db *db)
{
	pthread_mutex_lock(&db->tip.lock);
	bool steady = db->tip.steady >= STEADY;
	pthread_mutex_unlock(&db->tip.lock);
	return steady;
}

/* Until the cache has come to that commit, or those under way now have ended without that. */
static void wait_for_commits(pgs_db *db, uint64_t commit_revision, uint64_t deadline_ms)
{
	pgs__tip *tip = &db->tip;
	uint64_t last = tip->ended + tip->under_way, until_ms = pgs__now_ms() + PATIENCE_MS;
	if (deadline_ms && deadline_ms < until_ms)
		until_ms = deadline_ms;
	const struct timespec until = {(time_t)(until_ms / 1000), (long)(until_ms % 1000) * 1000000};
	while (tip->under_way && tip->ended < last && pgs__cache_revision(db->contents.cache) < commit_revision)
		if (pthread_cond_timedwait(&tip->moved, &tip->lock, &until) != 0)
			return;
}

void pgs__tip_wait(pgs_db *db, uint64_t commit_revision, uint64_t deadline_ms)
{
	pthread_mutex_lock(&db->tip.lock);
	wait_for_commits(db, commit_revision, deadline_ms);
	pthread_mutex_unlock(&db->tip.lock);
}

bool pgs__tip_find(pgs_db *db, uint64_t commit_revision, uint64_t kv_revision, uint64_t deadline_ms, pgs__state *out)
{
	pgs__tip *tip = &db->tip;
	pthread_mutex_lock(&tip->lock);
	wait_for_commits(db, commit_revision, deadline_ms);
	bool found = find_state(tip, commit_revision, out) && out->since <= kv_revision;
	if (!found)
		tip->steady = 0;
	pthread_mutex_unlock(&tip->lock);
	return found;
}

void pgs__tip_learn(pgs_db *db, const pgs__snapshot *s)
{
	pgs__tip *tip = &db->tip;
	const pgs__state state = {s->commit_revision, s->kv_revision, s->epoch, s->extent, s->extent_revision};
	pgs__state known;
	pthread_mutex_lock(&tip->lock);
	if (pgs__pack_view_count(s->packs) > 0) {
		tip->steady = 0;
	} else if (find_state(tip, s->commit_revision, &known)) {
		if (tip->steady < STEADY)
			tip->steady++;
	} else {
		tip->steady = 0;
		if (s->commit_revision > newest(tip)->commit_revision)
			add_state(tip, &state);
	}
	pthread_mutex_unlock(&tip->lock);
}
