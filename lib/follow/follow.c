/* pagestore/follow.h: the follower's thread, and the caller's. */
#include <pagestore/follow.h>

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "follow/follower.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define WAIT_MS 200      /* for events at a time: so long ending the thread may take */
#define PAUSE_MIN_MS 20  /* after a failure, */
#define PAUSE_MAX_MS 1000 /* each longer than the one before */

/* The database's follower, made if there is none. */
static pgs__follower *follower_of(pgs_db *db)
{
	pthread_mutex_lock(&db->store->lock);
	if (!db->follower)
		db->follower = pgs__follower_new(db);
	pgs__follower *f = db->follower;
	pthread_mutex_unlock(&db->store->lock);
	return f;
}

static pgs__follower *existing(pgs_db *db)
{
	pthread_mutex_lock(&db->store->lock);
	pgs__follower *f = db->follower;
	pthread_mutex_unlock(&db->store->lock);
	return f;
}

static void note_result(pgs__follower *f, int result, const pgs_error *err)
{
	pthread_mutex_lock(&f->lock);
	bool news = f->stat.error != result;
	f->stat.error = result;
	pthread_mutex_unlock(&f->lock);
	if (news && result != PGS_OK)
		pgs__log(f->db->store, PGS_LOG_WARN, "following database %s failed, and is tried again: %s: %s",
			 f->db->name, pgs_error_name(result), err->message);
}

/* --- the thread ------------------------------------------------------------------------- */

static void pause_for(pgs__follower *f, uint64_t ms)
{
	uint64_t until_ms = pgs__now_ms() + ms;
	const struct timespec until = {(time_t)(until_ms / 1000), (long)(until_ms % 1000) * 1000000};
	int rc = 0;
	pthread_mutex_lock(&f->lock);
	while (!f->stop && rc == 0)
		rc = pthread_cond_timedwait(&f->wake, &f->lock, &until);
	pthread_mutex_unlock(&f->lock);
}

static void *work(void *ctx)
{
	pgs__follower *f = ctx;
	uint64_t pause_ms = 0;
	while (!f->stop) {
		pgs_error err = PGS_ERROR_INIT;
		int result = pgs__follow_round(f, WAIT_MS, pgs__db_deadline(f->db, 0), &err);
		note_result(f, result, &err);
		pause_ms = result == PGS_OK ? 0 : pause_ms ? 2 * pause_ms : PAUSE_MIN_MS;
		if (pause_ms > PAUSE_MAX_MS || result == PGS_ENOTFOUND)
			pause_ms = PAUSE_MAX_MS;
		if (pause_ms)
			pause_for(f, pause_ms);
	}
	return NULL;
}

static void note_running(pgs__follower *f, bool running)
{
	pthread_mutex_lock(&f->lock);
	f->stat.running = running;
	pthread_mutex_unlock(&f->lock);
}

/* Under f->control. */
static int start(pgs__follower *f, const pgs_follow_options *o, pgs_error *err)
{
	bool idle = false;
	if (!atomic_compare_exchange_strong(&f->busy, &idle, true))
		return pgs__error(err, PGS_EBUSY, "database %s is followed already", f->db->name);
	f->options = *o;
	f->stop = false;
	pgs__fetch_begin(&f->fetch, o);
	f->pid = getpid();
	pgs__newest_want(f->db);
	note_running(f, true);
	if (pgs__fetch_start(&f->fetch)) {
		if (pgs__task_start(&f->thread, work, f))
			return PGS_OK;
		pgs__fetch_end(&f->fetch);
	}
	note_running(f, false);
	atomic_store(&f->busy, false);
	return pgs__error(err, PGS_ENOMEM, "cannot start the follower's thread: the system gives no thread");
}

/* After fork() the threads are the parent's. Here their conditions look as if they still waited, and would be waited for
 * by whoever destroys them: they are made new. */
static void forget_threads(pgs__follower *f)
{
	f->thread.running = f->fetch.thread.running = false;
	pthread_cond_init(&f->wake, NULL);
	pthread_cond_init(&f->fetch.wake, NULL);
}

/* Under f->control. */
static void end(pgs__follower *f)
{
	if (!f->thread.running)
		return;
	if (f->pid != getpid()) {
		forget_threads(f);
		return;
	}
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
	pgs__task_join(&f->thread);
	pgs__fetch_end(&f->fetch);
	pgs__follow_mirror_leave(f);
	atomic_store(&f->db->newest->followed, false);
	note_running(f, false);
	atomic_store(&f->busy, false);
}

/* --- the API -------------------------------------------------------------------------------- */

static int check_options(const pgs_follow_options *o, pgs_error *err)
{
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL,
				  "pgs_follow_options: struct_size is not set; use PGS_FOLLOW_OPTIONS_INIT");
	if (o->fetch > PGS_FETCH_ALL)
		return pgs__error(err, PGS_EINVAL, "fetch %u: not one of PGS_FETCH_…", o->fetch);
	return PGS_OK;
}

int pgs_follow_start(pgs_db *db, const pgs_follow_options *options, pgs_error *err)
{
	const pgs_follow_options defaults = PGS_FOLLOW_OPTIONS_INIT;
	const pgs_follow_options *o = options ? options : &defaults;
	int result = check_options(o, err);
	if (result != PGS_OK)
		return result;
	pgs__follower *f = follower_of(db);
	if (!f)
		return pgs__error_nomem(err, "follower");
	pthread_mutex_lock(&f->control);
	result = start(f, o, err);
	pthread_mutex_unlock(&f->control);
	return result;
}

void pgs_follow_stop(pgs_db *db)
{
	pgs__follower *f = existing(db);
	if (!f)
		return;
	pthread_mutex_lock(&f->control);
	end(f);
	pthread_mutex_unlock(&f->control);
}

void pgs__follow_end(pgs_db *db)
{
	pgs_follow_stop(db);
	pgs__follower_free(db->follower);
	db->follower = NULL;
}

static int step(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	f->asked_ms = 0; /* ask at once */
	f->claim.asked_ms = 0;
	int result = pgs__follow_round(f, 0, deadline_ms, err);
	while (result == PGS_OK && !pgs__follow_is_current(f) && !pgs__deadline_passed(deadline_ms))
		result = pgs__follow_round(f, WAIT_MS, deadline_ms, err);
	if (result == PGS_OK && pgs__follow_is_current(f)) {
		while (result == PGS_OK && pgs__follow_mirror_loads(f) && !pgs__deadline_passed(deadline_ms))
			result = pgs__follow_round(f, WAIT_MS, deadline_ms, err);
		while (!pgs__deadline_passed(deadline_ms) && pgs__fetch_some(&f->fetch, deadline_ms))
			;
		return result;
	}
	if (result == PGS_OK)
		result = pgs__error(err, PGS_ETIMEOUT, "database %s: there is more to follow than there was time for",
				    f->db->name);
	return result;
}

int pgs_follow_step(pgs_db *db, uint32_t timeout_ms, pgs_error *err)
{
	pgs__follower *f = follower_of(db);
	bool idle = false;
	if (!f)
		return pgs__error_nomem(err, "follower");
	if (!atomic_compare_exchange_strong(&f->busy, &idle, true))
		return pgs__error(err, PGS_EBUSY, "another thread follows database %s", db->name);
	pgs__newest_want(db);
	if (!f->at.kv_revision)
		pgs__fetch_begin(&f->fetch, &f->options);
	int result = step(f, pgs__db_deadline(db, timeout_ms), err);
	pthread_mutex_lock(&f->lock);
	f->stat.error = result;
	pthread_mutex_unlock(&f->lock);
	atomic_store(&f->busy, false);
	return result;
}

int pgs_follow_stat_get(pgs_db *db, pgs_follow_stat *stat, pgs_error *err)
{
	uint32_t size = stat->struct_size;
	if (size != sizeof *stat)
		return pgs__error(err, PGS_EINVAL, "pgs_follow_stat: struct_size is not set; use PGS_FOLLOW_STAT_INIT");
	pgs__follower *f = existing(db);
	*stat = (pgs_follow_stat)PGS_FOLLOW_STAT_INIT;
	stat->confirmed_ms = UINT64_MAX;
	if (!f)
		return PGS_OK;
	pthread_mutex_lock(&f->lock);
	*stat = f->stat;
	stat->struct_size = size;
	stat->confirmed_ms = f->confirmed_ms ? pgs__now_ms() - f->confirmed_ms : UINT64_MAX;
	pthread_mutex_unlock(&f->lock);
	pgs__fetch_stat(&f->fetch, stat);
	return PGS_OK;
}
