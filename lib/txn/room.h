/* Room in the KV: the soft quota.
 *
 *     0 ─────────────── in use ──────────────── soft quota ───── reserve ───── quota
 *       everything may be put    what fills the KV is refused            the KV takes deletes only,
 *                                (PGS_ENOSPC); maintenance, deletes      and everyone's puts fail
 *                                and truncation go on
 *
 * A KV that is full is hard to get going again (etcd refuses all users of the cluster, until an operator makes room), so
 * page writes stop before, whoever does maintenance. Room that a KV keeps in its file for use again counts as free, but
 * the file has to stay below the quota, too: what counts there is its size.
 *
 * Committing asks the KV nothing as long as there is plenty of room: the size is asked for every few seconds, and when
 * this process has put a good part of what was left since. Others write meanwhile; the reserve is for that.
 */
#ifndef PGS_TXN_ROOM_H
#define PGS_TXN_ROOM_H

#include <pthread.h>

#include <pagestore/store.h>
#include <pagestore/sys/kv.h>

#define PGS__ROOM_OP_BYTES 128 /* a put's share of the KV beside key and value, roughly */

/* Of a whole store. Guarded by `lock`, which is held for memory only. */
typedef struct pgs__room {
	pthread_mutex_t lock;
	uint32_t percent;  /* of the quota that may be filled; 0 = the soft quota is off */
	pgs_kv_stat stat;  /* as last asked */
	uint64_t asked_ms; /* when; 0 = never */
	uint64_t put;      /* by this process since */
} pgs__room;

void pgs__room_init(pgs__room *room, uint32_t percent);
void pgs__room_free(pgs__room *room);

/* What of the quota is filled, in bytes: in use, or the soft quota if the file may not grow any more. */
uint64_t pgs__room_filled(const pgs_store *store, const pgs_kv_stat *stat);

/* The bytes that may be filled; UINT64_MAX = no bound. */
uint64_t pgs__room_soft_quota(const pgs_store *store, const pgs_kv_stat *stat);

/* This process has put so much. */
void pgs__room_note(pgs_store *store, uint64_t bytes);

/* Before `bytes` are put that are not there to make room. PGS_OK, or PGS_ENOSPC with what to do. A KV that does not tell
 * its size is none that is full. */
int pgs__room_admit(pgs_store *store, const char *db_name, uint64_t bytes, uint64_t deadline_ms, pgs_error *err);

#endif
