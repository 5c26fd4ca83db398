/* The soft quota: knowing how full the KV is, and refusing to fill it. */
#include "txn/room.h"

#include "txn/db.h"
#include "util/clock.h"
#include "util/error.h"

#define OLD_MS 5000        /* others write, too */
#define PAUSE_MS 100       /* between two questions, at the least */
#define SHARE 4            /* ask again when this part of what was left was put */
#define RESERVE_SHARE 16   /* of the quota, below which the file's size has to stay */
#define RESERVE_REQUESTS 2 /* or so many of the largest requests */
#define MIB ((double)(1 << 20))

void pgs__room_init(pgs__room *room, uint32_t percent)
{
	*room = (pgs__room){.percent = percent};
	pthread_mutex_init(&room->lock, NULL);
}

void pgs__room_free(pgs__room *room)
{
	pthread_mutex_destroy(&room->lock);
}

/* --- how full ------------------------------------------------------------------------ */

static uint64_t in_use(const pgs_kv_stat *stat)
{
	return stat->used_bytes ? stat->used_bytes : stat->size_bytes;
}

/* How large the KV's file may become. */
static uint64_t size_max(const pgs_store *store, const pgs_kv_stat *stat)
{
	uint64_t share = stat->quota_bytes / RESERVE_SHARE;
	uint64_t requests = RESERVE_REQUESTS * (uint64_t)store->backend.limits.max_request_bytes;
	uint64_t reserve = share > requests ? share : requests;
	return reserve < stat->quota_bytes ? stat->quota_bytes - reserve : 0;
}

uint64_t pgs__room_soft_quota(const pgs_store *store, const pgs_kv_stat *stat)
{
	if (stat->quota_bytes == 0 || store->room.percent == 0)
		return UINT64_MAX;
	uint64_t part = stat->quota_bytes / 100 * store->room.percent, most = size_max(store, stat);
	return part < most ? part : most;
}

uint64_t pgs__room_filled(const pgs_store *store, const pgs_kv_stat *stat)
{
	uint64_t used = in_use(stat), soft = pgs__room_soft_quota(store, stat);
	if (soft == UINT64_MAX || used >= soft || stat->size_bytes < size_max(store, stat))
		return used;
	return soft;
}

/* --- asking ---------------------------------------------------------------------------- */

void pgs__room_note(pgs_store *store, uint64_t bytes)
{
	pthread_mutex_lock(&store->room.lock);
	store->room.put += bytes;
	pthread_mutex_unlock(&store->room.lock);
}

/* Whether `bytes` more fit, as far as is known. */
static bool fits(const pgs_store *store, uint64_t bytes)
{
	const pgs__room *s = &store->room;
	uint64_t soft = pgs__room_soft_quota(store, &s->stat), filled = pgs__room_filled(store, &s->stat);
	return filled < soft && s->put + bytes <= soft - filled;
}

/* Whether to ask now. */
static bool is_stale(const pgs_store *store, uint64_t bytes, uint64_t now)
{
	const pgs__room *s = &store->room;
	if (s->asked_ms == 0)
		return true;
	if (s->stat.quota_bytes == 0) /* there is none */
		return false;
	uint64_t age = now - s->asked_ms;
	return age >= OLD_MS || (age >= PAUSE_MS && !fits(store, SHARE * (s->put + bytes) - s->put));
}

/* One that fails leaves what was known, and the next one to later. */
static void ask(pgs_store *store, uint64_t deadline_ms)
{
	pgs_kv *kv = store->backend.kv;
	pgs_kv_stat stat = {0};
	bool known = kv->vtable->stat(kv, &stat, deadline_ms, NULL) == PGS_OK;
	pthread_mutex_lock(&store->room.lock);
	if (known) {
		store->room.stat = stat;
		store->room.put = 0;
	}
	pthread_mutex_unlock(&store->room.lock);
}

static int refuse(const pgs_store *store, const char *db_name, const pgs_kv_stat *stat, pgs_error *err)
{
	double quota = (double)stat->quota_bytes / MIB, used = (double)in_use(stat) / MIB;
	if (stat->size_bytes >= size_max(store, stat) && in_use(stat) < pgs__room_soft_quota(store, stat))
		return pgs__error(err, PGS_ENOSPC,
				  "database %s: nothing more is written, as the KV's file has %.1f MiB of its quota of "
				  "%.1f MiB, of which %.1f MiB are in use: defragment it (etcd: each member), or raise "
				  "its quota",
				  db_name, (double)stat->size_bytes / MIB, quota, used);
	return pgs__error(err, PGS_ENOSPC,
			  "database %s: nothing more is written, as %.1f MiB of the KV's quota of %.1f MiB are in use; the "
			  "soft quota is %u %%. Run maintenance, compact the KV's history, then defragment it (etcd: each "
			  "member), or raise its quota",
			  db_name, used, quota, store->room.percent);
}

int pgs__room_admit(pgs_store *store, const char *db_name, uint64_t bytes, uint64_t deadline_ms, pgs_error *err)
{
	pgs__room *s = &store->room;
	uint64_t now = pgs__now_ms();
	if (s->percent == 0)
		return PGS_OK;
	pthread_mutex_lock(&s->lock);
	bool stale = is_stale(store, bytes, now);
	if (stale)
		s->asked_ms = now; /* other threads need not */
	pthread_mutex_unlock(&s->lock);
	if (stale)
		ask(store, deadline_ms);
	pthread_mutex_lock(&s->lock);
	bool good = fits(store, bytes);
	pgs_kv_stat stat = s->stat;
	pthread_mutex_unlock(&s->lock);
	return good ? PGS_OK : refuse(store, db_name, &stat, err);
}
