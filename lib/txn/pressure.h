/* How far writers are ahead of maintenance, and what happens then.
 *
 *     contents in the KV, level-0 files, packs, percent of the KV's quota: four gauges, each with three marks (but what
 *     is refused for the quota's sake is up to room.h)
 *
 *     0 ──── due ──────────── soft ───────────────────── hard
 *       fine      maintenance      beginning to write         beginning to write
 *                 has work         helps, and is delayed      is refused (PGS_EBUSY)
 *
 * Reading is never held up. The gauges are counted in the KV now and then, at most a fiftieth of the time, and in
 * between this process adds what it commits: beginning a transaction asks the KV nothing.
 */
#ifndef PGS_TXN_PRESSURE_H
#define PGS_TXN_PRESSURE_H

#include <pthread.h>
#include <stdbool.h>

#include <pagestore/store.h>
#include <pagestore/sys/kv.h>

typedef enum pgs__gauge {
	PGS__GAUGE_CONTENTS,
	PGS__GAUGE_LEVEL0,
	PGS__GAUGE_PACKS,
	PGS__GAUGE_QUOTA, /* percent */
	PGS__GAUGE_COUNT
} pgs__gauge;

/* How a gauge is read, and of what it is a part. */
typedef struct pgs__gauges {
	uint64_t at[PGS__GAUGE_COUNT];
	uint64_t unregistered; /* blobs that wait to be removed; no gauge, but counted with them */
} pgs__gauges;

typedef struct pgs__marks {
	uint64_t due, soft, hard;
} pgs__marks;

/* What a process knows of a database's maintenance. Everything is guarded by `lock`, which is held for memory only. */
typedef struct pgs__upkeep {
	pthread_mutex_t lock;
	pgs__marks marks[PGS__GAUGE_COUNT];
	pgs__gauges gauges;      /* as last counted, and what this process committed since */
	uint64_t counted_ms;     /* when; 0 = never */
	uint64_t count_after_ms; /* not again before */
	bool warned;             /* that a limit is passed that is not enforced */

	/* automatic maintenance (lib/maintenance.c) */
	uint64_t interval_ms;    /* of routine runs: those that no gauge asks for */
	uint64_t routine_ms;     /* the next one */
	uint64_t rest_until_ms;  /* no run before: not all time goes into maintenance */
	uint32_t pause_ms;       /* the last such rest after a run that got nowhere */
	uint32_t budget_ms;      /* of a run */
	bool more;               /* the last run left work */

	/* bounded calls (maintain.c): who is next, and who had nothing to do since something was last done */
	uint32_t next_job, idle_jobs;

	int last_error;          /* of the last automatic run */
} pgs__upkeep;

/* Marks from the database's thresholds. PGS_OK or PGS_ENOMEM. */
int pgs__upkeep_init(pgs_db *db);
void pgs__upkeep_free(pgs_db *db);

/* Count in the KV. Errors: the KV's. */
int pgs__gauges_count(pgs_db *db, pgs__gauges *out, uint64_t deadline_ms, pgs_error *err);

/* How much of the KV's quota is filled. */
uint64_t pgs__quota_percent(const pgs_store *store, const pgs_kv_stat *kv);

/* How much of its hard mark the worst gauge has reached, in percent. */
uint32_t pgs__gauges_percent(const pgs_db *db, const pgs__gauges *gauges);

/* A commit of this process has put so much. */
void pgs__upkeep_note(pgs_db *db, uint64_t contents, uint64_t files, uint64_t packs);

/* What was just counted. */
void pgs__upkeep_counted(pgs_db *db, const pgs__gauges *gauges, uint64_t cost_ms);

/* Count again if that is worth it: some gauge may be past its due mark, or it was long ago. */
void pgs__upkeep_refresh(pgs_db *db, uint64_t deadline_ms);

/* Whether some gauge, as known, is past its due mark. */
bool pgs__upkeep_is_due(pgs_db *db);

/* Before a writing transaction begins: PGS_OK, perhaps after a delay, or PGS_EBUSY. */
int pgs__upkeep_admit(pgs_db *db, uint64_t deadline_ms, pgs_error *err);

#endif
