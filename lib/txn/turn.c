/* The writer lock that is kept: see turn.h. */
#include "txn/turn.h"

#include <time.h>
#include <unistd.h>

#include "txn/lock.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/hooks.h"

#define KEEP_MS 50        /* unused. Others that come meanwhile wait as long */
#define ASKED_MS 1000     /* after somebody asked: who shares it gives it back every time */
#define ASK_AFTER_MS 25   /* a lock that is not kept goes by itself by then, usually */
#define GIVE_BACK_MS 1000 /* the request may take so long: then its lease ends it */

int pgs__turn_init(pgs__turn *turn)
{
	pthread_condattr_t attributes;
	pthread_mutex_init(&turn->lock, NULL);
	if (pthread_condattr_init(&attributes) != 0)
		return PGS_ENOMEM;
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&turn->moved, &attributes);
	pthread_condattr_destroy(&attributes);
	turn->pid = getpid();
	return PGS_OK;
}

/* Wait for `moved`, at most until then (monotonic; 0 = for ever). True: it is past. */
static bool wait_until(pgs__turn *turn, uint64_t ms)
{
	const struct timespec until = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
	if (ms == 0)
		return pthread_cond_wait(&turn->moved, &turn->lock) != 0;
	return pthread_cond_timedwait(&turn->moved, &turn->lock, &until) != 0;
}

/* --- giving it back -------------------------------------------------------------------- */

/* Under turn->lock, which is left meanwhile. */
static void give_back(pgs_db *db)
{
	pgs__turn *turn = &db->turn;
	pgs__writer_lock lock = turn->kept;
	turn->kept.held = 0;
	turn->leaving = true;
	pthread_mutex_unlock(&turn->lock);
	pgs__writer_lock_release(db, &lock, pgs__now_ms() + GIVE_BACK_MS);
	pthread_mutex_lock(&turn->lock);
	turn->leaving = false;
	pthread_cond_broadcast(&turn->moved);
}

static bool is_over(const pgs__turn *turn)
{
	return turn->kept.held && pgs__now_ms() >= turn->until_ms;
}

void pgs__turn_expire(pgs_db *db)
{
	pthread_mutex_lock(&db->turn.lock);
	if (is_over(&db->turn) && !PGS__BUG(LOCK_KEPT_FOR_EVER))
		give_back(db);
	pthread_mutex_unlock(&db->turn.lock);
}

static void *keep_time(void *ctx)
{
	pgs_db *db = ctx;
	pgs__turn *turn = &db->turn;
	pthread_mutex_lock(&turn->lock);
	while (!turn->closing) {
		if (is_over(turn)) {
			give_back(db);
			continue;
		}
		turn->idle = !turn->kept.held;
		wait_until(turn, turn->kept.held ? turn->until_ms : 0);
		turn->idle = false;
	}
	pthread_mutex_unlock(&turn->lock);
	return NULL;
}

void pgs__turn_close(pgs_db *db)
{
	pgs__turn *turn = &db->turn;
	if (turn->pid != getpid())
		return;
	pthread_mutex_lock(&turn->lock);
	turn->closing = true;
	pthread_cond_broadcast(&turn->moved);
	pthread_mutex_unlock(&turn->lock);
	pgs__task_join(&turn->thread);
	pthread_mutex_lock(&turn->lock);
	if (turn->kept.held)
		give_back(db);
	pthread_mutex_unlock(&turn->lock);
	pthread_cond_destroy(&turn->moved);
	pthread_mutex_destroy(&turn->lock);
}

/* --- keeping it ------------------------------------------------------------------------------ */

/* The simulator has no threads: it calls pgs__turn_expire(). */
static bool has_thread(pgs_db *db)
{
	return pgs__hooks || db->turn.thread.running || pgs__task_start(&db->turn.thread, keep_time, db);
}

bool pgs__turn_keep(pgs_db *db, const pgs__writer_lock *lock)
{
	pgs__turn *turn = &db->turn;
	pthread_mutex_lock(&turn->lock);
	bool kept = turn->pid == getpid() && has_thread(db);
	if (kept) {
		turn->kept = *lock;
		turn->until_ms = pgs__now_ms() + KEEP_MS;
		if (turn->idle)
			pthread_cond_broadcast(&turn->moved);
	}
	pthread_mutex_unlock(&turn->lock);
	return kept;
}

bool pgs__turn_resume(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms)
{
	pgs__turn *turn = &db->turn;
	pthread_mutex_lock(&turn->lock);
	while (turn->leaving && !wait_until(turn, deadline_ms))
		;
	bool kept = turn->kept.held && turn->pid == getpid();
	if (kept) {
		*lock = turn->kept;
		turn->kept.held = 0;
	}
	pthread_mutex_unlock(&turn->lock);
	return kept;
}

static bool asked_lately(const pgs__turn *turn, uint64_t now)
{
	return turn->asked_ms && now - turn->asked_ms < ASKED_MS;
}

bool pgs__turn_is_worth_keeping(pgs_db *db, const pgs__writer_lock *lock)
{
	pthread_mutex_lock(&db->turn.lock);
	bool worth = lock->held && lock->worth_keeping && !asked_lately(&db->turn, pgs__now_ms());
	pthread_mutex_unlock(&db->turn.lock);
	return worth;
}

/* --- what happens to it ------------------------------------------------------------------------ */

bool pgs__turn_is_soon(pgs_db *db)
{
	pthread_mutex_lock(&db->turn.lock);
	bool soon = db->turn.ended_ms && pgs__now_ms() - db->turn.ended_ms < KEEP_MS;
	pthread_mutex_unlock(&db->turn.lock);
	return soon;
}

void pgs__turn_taken(pgs_db *db, pgs__writer_lock *lock, uint64_t revision)
{
	lock->last.revision = 0;
	pthread_mutex_lock(&db->turn.lock);
	lock->held = db->turn.own = revision;
	pthread_mutex_unlock(&db->turn.lock);
}

void pgs__turn_leave(pgs_db *db, uint64_t revision)
{
	pthread_mutex_lock(&db->turn.lock);
	db->turn.left = revision;
	pthread_mutex_unlock(&db->turn.lock);
}

bool pgs__turn_was_left(pgs_db *db, uint64_t revision)
{
	pthread_mutex_lock(&db->turn.lock);
	bool left = db->turn.left == revision && db->turn.pid == getpid();
	pthread_mutex_unlock(&db->turn.lock);
	return left;
}

void pgs__turn_ended(pgs_db *db)
{
	pthread_mutex_lock(&db->turn.lock);
	db->turn.ended_ms = pgs__now_ms();
	pthread_mutex_unlock(&db->turn.lock);
}

void pgs__turn_wanted(pgs_db *db)
{
	pthread_mutex_lock(&db->turn.lock);
	db->turn.asked_ms = pgs__now_ms();
	pthread_mutex_unlock(&db->turn.lock);
}

bool pgs__turn_met(pgs_db *db, uint64_t revision)
{
	pgs__turn *turn = &db->turn;
	uint64_t now = pgs__now_ms();
	bool ask = false;
	pthread_mutex_lock(&turn->lock);
	if (revision == turn->own) {
		turn->asked_ms = now;
	} else if (revision != turn->met) {
		turn->met = revision;
		turn->met_since_ms = now;
		turn->asked = false;
	} else {
		ask = !turn->asked && now - turn->met_since_ms >= ASK_AFTER_MS;
	}
	if (revision != turn->own)
		turn->met_ms = now;
	pthread_mutex_unlock(&turn->lock);
	return ask;
}

void pgs__turn_asked(pgs_db *db, uint64_t revision)
{
	pthread_mutex_lock(&db->turn.lock);
	db->turn.asked |= db->turn.met == revision;
	pthread_mutex_unlock(&db->turn.lock);
}

bool pgs__turn_is_contended(pgs_db *db)
{
	pgs__turn *turn = &db->turn;
	pthread_mutex_lock(&turn->lock);
	bool contended = turn->met && pgs__now_ms() - turn->met_ms < ASKED_MS;
	pthread_mutex_unlock(&turn->lock);
	return contended;
}
