/* How far writers are ahead of maintenance: counting it, and holding writers up. */
#include "txn/pressure.h"

#include <string.h>

#include "txn/db.h"
#include "txn/thresholds.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define SOFT_FACTOR 4         /* of the due mark */
#define HARD_FACTOR 16
#define PACKS_DUE 2
#define OLD_MS 5000           /* a count that others may have changed meanwhile */
#define REPORT_MS 10000       /* the same where it is only reported */
#define COUNT_PAUSE_MS 100    /* between counts, at the least, */
#define COUNT_SHARE 50        /* and so many times what one takes */
#define COUNT_RETRY_MS 1000   /* after one that failed */
#define DELAY_MIN_MS 2
#define DELAY_MAX_MS 100
#define HELP_MIN_MS 1000      /* who has less time does not help */
#define HARD 1000             /* a strain: thousandths of the way from the soft mark to the hard one */
#define ROUTINE_MIN_MS 1000
#define ROUTINE_MAX_MS 300000
#define ROUTINE_PER_RETENTION 8

/* --- marks --------------------------------------------------------------------------- */

static pgs__marks marks_of(uint64_t due)
{
	return (pgs__marks){due, SOFT_FACTOR * due, HARD_FACTOR * due};
}

int pgs__upkeep_init(pgs_db *db)
{
	pgs__upkeep *u = &db->upkeep;
	const pgs_maintain_options o = pgs__thresholds_resolve(NULL, &db->maintain);
	uint64_t by_bytes = o.flush_bytes / db->contents.page_size;
	uint32_t soft = db->store->room.percent ? db->store->room.percent : 100;
	uint64_t quota = o.quota_percent, rest = soft > quota ? soft - quota : 0;
	u->marks[PGS__GAUGE_CONTENTS] = marks_of(by_bytes && by_bytes < o.flush_pages ? by_bytes : o.flush_pages);
	u->marks[PGS__GAUGE_LEVEL0] = marks_of(o.level0_files);
	u->marks[PGS__GAUGE_PACKS] = marks_of(PACKS_DUE);
	/* Past the due mark history is cut short; what then still grows is data, and its end is the soft quota's. */
	u->marks[PGS__GAUGE_QUOTA] = (pgs__marks){quota, quota + rest * 2 / 3, quota + rest};
	u->interval_ms = pgs__db_retention_ms(db) / ROUTINE_PER_RETENTION;
	if (u->interval_ms < ROUTINE_MIN_MS)
		u->interval_ms = ROUTINE_MIN_MS;
	if (u->interval_ms > ROUTINE_MAX_MS)
		u->interval_ms = ROUTINE_MAX_MS;
	u->routine_ms = pgs__now_ms() + u->interval_ms;
	return pthread_mutex_init(&u->lock, NULL) == 0 ? PGS_OK : PGS_ENOMEM;
}

void pgs__upkeep_free(pgs_db *db)
{
	pthread_mutex_destroy(&db->upkeep.lock);
}

uint64_t pgs__quota_percent(const pgs_store *store, const pgs_kv_stat *kv)
{
	return kv->quota_bytes >= 100 ? pgs__room_filled(store, kv) / (kv->quota_bytes / 100) : 0;
}

uint32_t pgs__gauges_percent(const pgs_db *db, const pgs__gauges *gauges)
{
	uint64_t worst = 0;
	for (int i = 0; i < PGS__GAUGE_COUNT; i++) {
		uint64_t percent = gauges->at[i] * 100 / db->upkeep.marks[i].hard;
		worst = percent > worst ? percent : worst;
	}
	return worst > UINT32_MAX ? UINT32_MAX : (uint32_t)worst;
}

/* How far past its soft mark the worst gauge is: 0 = none is, HARD or more = one is past its hard mark. */
static uint32_t strain(const pgs__upkeep *u, pgs__gauge *which)
{
	uint32_t worst = 0;
	for (int i = 0; i < PGS__GAUGE_COUNT; i++) {
		const pgs__marks *m = &u->marks[i];
		uint64_t at = u->gauges.at[i];
		if (at < m->soft)
			continue;
		uint64_t way = m->hard > m->soft ? m->hard - m->soft : 1;
		uint32_t s = at >= m->hard ? HARD : 1 + (uint32_t)((at - m->soft) * (HARD - 2) / way);
		if (s == HARD && i == PGS__GAUGE_QUOTA)
			s = HARD - 1; /* what would fill the KV is refused when it is known (room.h) */
		if (s > worst)
			*which = (pgs__gauge)i;
		worst = s > worst ? s : worst;
	}
	return worst;
}

static bool is_past_due(const pgs__upkeep *u)
{
	for (int i = 0; i < PGS__GAUGE_COUNT; i++)
		if (u->gauges.at[i] >= u->marks[i].due)
			return true;
	return false;
}

bool pgs__upkeep_is_due(pgs_db *db)
{
	pthread_mutex_lock(&db->upkeep.lock);
	bool due = is_past_due(&db->upkeep);
	pthread_mutex_unlock(&db->upkeep.lock);
	return due;
}

/* --- counting ---------------------------------------------------------------------------- */

/* How much more there is past the hard marks is of no interest. */
static uint64_t counted_most(const pgs__upkeep *u)
{
	uint64_t most = 0;
	for (int i = PGS__GAUGE_CONTENTS; i <= PGS__GAUGE_PACKS; i++)
		most = u->marks[i].hard > most ? u->marks[i].hard : most;
	return most;
}

int pgs__gauges_count(pgs_db *db, pgs__gauges *out, uint64_t deadline_ms, pgs_error *err)
{
	enum { CONTENTS, LEVEL0, PACKS, UNREGISTERED, COUNT };
	const pgs__backend *backend = pgs__db_backend(db);
	const uint8_t *prefix = pgs__db_prefix(db);
	const pgs__key_space space = pgs__db_space(db);
	uint64_t totals[COUNT];
	pgs_kv_stat kv = {0};
	*out = (pgs__gauges){0};
	pgs__walk *walks = pgs__calloc(COUNT, sizeof *walks);
	if (!walks)
		return pgs__error_nomem(err, "counting what maintenance has before it");
	pgs__walk_kind(&walks[CONTENTS], prefix, 'c', &space, 1);
	pgs__walk_level0(&walks[LEVEL0], prefix, &space, 1);
	pgs__walk_kind(&walks[PACKS], prefix, 'o', &space, 1);
	pgs__walk_kind(&walks[UNREGISTERED], prefix, 'd', &space, 1);
	int result = pgs__walk_count(walks, COUNT, counted_most(&db->upkeep), totals, backend, deadline_ms, err);
	pgs__free(walks);
	if (result == PGS_OK) {
		out->at[PGS__GAUGE_CONTENTS] = totals[CONTENTS];
		out->at[PGS__GAUGE_LEVEL0] = totals[LEVEL0];
		out->at[PGS__GAUGE_PACKS] = totals[PACKS];
		out->unregistered = totals[UNREGISTERED];
	}
	if (result == PGS_OK)
		result = backend->kv->vtable->stat(backend->kv, &kv, deadline_ms, err);
	out->at[PGS__GAUGE_QUOTA] = pgs__quota_percent(db->store, &kv);
	return result;
}

void pgs__upkeep_note(pgs_db *db, uint64_t contents, uint64_t files, uint64_t packs)
{
	pgs__upkeep *u = &db->upkeep;
	pthread_mutex_lock(&u->lock);
	u->gauges.at[PGS__GAUGE_CONTENTS] += contents;
	u->gauges.at[PGS__GAUGE_LEVEL0] += files;
	u->gauges.at[PGS__GAUGE_PACKS] += packs;
	pthread_mutex_unlock(&u->lock);
}

void pgs__upkeep_counted(pgs_db *db, const pgs__gauges *gauges, uint64_t cost_ms)
{
	pgs__upkeep *u = &db->upkeep;
	uint64_t now = pgs__now_ms(), pause = COUNT_SHARE * cost_ms;
	pthread_mutex_lock(&u->lock);
	u->gauges = *gauges;
	u->counted_ms = now;
	u->count_after_ms = now + (pause > COUNT_PAUSE_MS ? pause : COUNT_PAUSE_MS);
	pthread_mutex_unlock(&u->lock);
}

/* Count now. What this process commits meanwhile may be missing until the next count. A count that fails leaves what
 * was known, and the next one to a second later. */
static void count_now(pgs_db *db, uint64_t deadline_ms)
{
	pgs__upkeep *u = &db->upkeep;
	pgs__gauges gauges;
	uint64_t began = pgs__now_ms();
	if (pgs__gauges_count(db, &gauges, deadline_ms, NULL) == PGS_OK) {
		pgs__upkeep_counted(db, &gauges, pgs__now_ms() - began);
		return;
	}
	pthread_mutex_lock(&u->lock);
	u->count_after_ms = pgs__now_ms() + COUNT_RETRY_MS;
	pthread_mutex_unlock(&u->lock);
}

void pgs__upkeep_refresh(pgs_db *db, uint64_t deadline_ms)
{
	pgs__upkeep *u = &db->upkeep;
	uint64_t now = pgs__now_ms();
	pthread_mutex_lock(&u->lock);
	bool worth = now >= u->count_after_ms &&
		     (u->counted_ms == 0 || now - u->counted_ms >= OLD_MS || is_past_due(u));
	if (worth)
		u->count_after_ms = now + COUNT_PAUSE_MS; /* other threads need not */
	pthread_mutex_unlock(&u->lock);
	if (worth)
		count_now(db, deadline_ms);
}

/* --- holding writers up --------------------------------------------------------------------- */

static const struct {
	const char *what, *advice;
} gauges_told[PGS__GAUGE_COUNT] = {
	[PGS__GAUGE_CONTENTS] = {"contents in the KV", "run pgs_maintain(), or `pagestore maintain`"},
	[PGS__GAUGE_LEVEL0] = {"sorted files in level 0", "run pgs_maintain(), or `pagestore maintain`"},
	[PGS__GAUGE_PACKS] = {"packs", "run pgs_maintain(), or `pagestore maintain`"},
	[PGS__GAUGE_QUOTA] = {"percent of the KV's quota",
			      "run maintenance and compact the KV, keep less (retention, pins), or raise the quota"},
};

static uint32_t known_strain(pgs_db *db, pgs__gauge *which, uint64_t *at)
{
	pthread_mutex_lock(&db->upkeep.lock);
	uint32_t s = strain(&db->upkeep, which);
	*at = db->upkeep.gauges.at[*which];
	pthread_mutex_unlock(&db->upkeep.lock);
	return s;
}

/* Where limits are not enforced: say once that one is passed. */
static void report(pgs_db *db, uint64_t deadline_ms)
{
	pgs__upkeep *u = &db->upkeep;
	pgs__gauge which = PGS__GAUGE_CONTENTS;
	uint64_t at, now = pgs__now_ms();
	pthread_mutex_lock(&u->lock);
	bool look = !u->warned && strain(u, &which) && now >= u->count_after_ms;
	if (look)
		u->count_after_ms = now + REPORT_MS;
	pthread_mutex_unlock(&u->lock);
	if (!look)
		return;
	count_now(db, deadline_ms);
	if (!known_strain(db, &which, &at))
		return;
	pthread_mutex_lock(&u->lock);
	bool first = !u->warned;
	u->warned = true;
	pthread_mutex_unlock(&u->lock);
	if (first)
		pgs__log(db->store, PGS_LOG_WARN, "database %s: %llu %s, and nobody does maintenance; %s", db->name,
			 (unsigned long long)at, gauges_told[which].what, gauges_told[which].advice);
}

static int refuse(pgs_db *db, pgs__gauge which, uint64_t at, pgs_error *err)
{
	return pgs__error(err, PGS_EBUSY, "database %s: writers are ahead of maintenance: %llu %s, the limit is %llu; %s",
			  db->name, (unsigned long long)at, gauges_told[which].what,
			  (unsigned long long)db->upkeep.marks[which].hard, gauges_told[which].advice);
}

int pgs__upkeep_admit(pgs_db *db, uint64_t deadline_ms, pgs_error *err)
{
	pgs__gauge which = PGS__GAUGE_CONTENTS;
	uint64_t at;
	if (!db->store->limits_writers) {
		report(db, deadline_ms);
		return PGS_OK;
	}
	pgs__upkeep_refresh(db, deadline_ms);
	if (!known_strain(db, &which, &at))
		return PGS_OK;
	if (db->store->help && pgs__now_ms() + HELP_MIN_MS <= deadline_ms)
		db->store->help(db, true);
	uint32_t s = known_strain(db, &which, &at);
	if (s)
		pgs__sleep_ms(DELAY_MIN_MS + (DELAY_MAX_MS - DELAY_MIN_MS) * (s * s / HARD) / HARD, deadline_ms);
	if (s < HARD)
		return PGS_OK;
	count_now(db, deadline_ms);
	return known_strain(db, &which, &at) < HARD ? PGS_OK : refuse(db, which, at, err);
}
