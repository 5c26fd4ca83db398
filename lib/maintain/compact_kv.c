/* The KV's own history: forgotten below the lowest floor of all databases, if the store owns the KV.
 *
 * No lock: floors only rise, so whatever floors were read, the lowest of them may be compacted to at any time later,
 * by any number of workers; the KV refuses all but the first (EOLDREV), which is as good as done. A database that is
 * created meanwhile has no history below the revision at which the names were read, and this stays below that. For the
 * same reason a database that no maintenance has seen yet, with floor 0, counts as of its creation.
 *
 * A damaged name or floor ends it: what it keeps is not known.
 */
#include "maintain/jobs.h"

#include "codec/seal.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define WORTH_REVISIONS 1000 /* compacting costs the KV a walk over what it forgets */
#define RETRY_PAUSE_MS 5

typedef struct prefix {
	uint8_t bytes[PGS__PREFIX_SIZE];
} prefix;

typedef struct floors {
	pgs__worker *w;
	prefix *list; /* databases */
	size_t count, capacity;
	uint64_t lowest;
} floors;

static int collect_name(void *ctx, const pgs_kv_pair *pair)
{
	floors *f = ctx;
	pgs_slice value = pair->value;
	char text[128];
	if (!pgs__unseal(&value) || value.size != PGS__PREFIX_SIZE)
		return pgs__error(f->w->err, PGS_ECORRUPT, "the value of key %s is damaged; the KV is not compacted",
				  pgs__printable(text, sizeof text, pair->key.data, pair->key.size));
	if (pgs__grow(&f->list, &f->capacity, f->count + 1, sizeof *f->list) != PGS_OK)
		return pgs__error_nomem(f->w->err, "databases");
	memcpy(f->list[f->count++].bytes, value.data, PGS__PREFIX_SIZE);
	return PGS_OK;
}

static int take_floor(floors *f, const pgs_kv_pair *g, const pgs_kv_pair *m)
{
	pgs__floor floor;
	if (!m)
		return PGS_OK; /* dropped meanwhile */
	if (!g || pgs__floor_decode(g->value, &floor) != PGS_OK)
		return pgs__error(f->w->err, PGS_ECORRUPT, "the floor of a database is %s; the KV is not compacted",
				  g ? "damaged" : "not there");
	uint64_t needed = floor.floor > m->create_revision ? floor.floor : m->create_revision;
	f->lowest = needed < f->lowest ? needed : f->lowest;
	return PGS_OK;
}

/* The floors of `count` databases, at most AT_ONCE. */
enum { AT_ONCE = 50 };
static int read_floors(floors *f, const prefix *list, size_t count)
{
	const pgs__backend *backend = pgs__db_backend(f->w->db);
	pgs__key keys[2 * AT_ONCE];
	pgs_kv_op gets[2 * AT_ONCE];
	for (size_t i = 0; i < 2 * count; i++) {
		keys[i] = pgs__key_single(list[i / 2].bytes, i % 2 ? 'm' : 'g');
		gets[i] = pgs__op_get(pgs__key_slice(&keys[i]), 0);
	}
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend, &txn, gets, 2 * count, pgs__worker_deadline(f->w), f->w->err);
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		result = take_floor(f, pgs__got(&txn, 2 * i), pgs__got(&txn, 2 * i + 1));
	pgs__kv_release(backend, &txn, 1);
	return result;
}

/* The lowest floor of all databases; the revision the names were read at if there is none. */
static int lowest_floor(floors *f)
{
	const pgs__backend *backend = pgs__db_backend(f->w->db);
	size_t at_once = pgs__max_ops(backend) / 2 < AT_ONCE ? pgs__max_ops(backend) / 2 : AT_ONCE;
	pgs__key from = pgs__key_name("", 0), end = {.size = 2, .bytes = "n0"}; /* '0' follows '/' */
	uint64_t revision = 0;
	int result = pgs__kv_read_range(backend, &from, &end, &revision, collect_name, f, pgs__worker_deadline(f->w),
					f->w->err);
	f->lowest = revision;
	for (size_t done = 0; result == PGS_OK && done < f->count; done += at_once)
		result = read_floors(f, f->list + done, f->count - done < at_once ? f->count - done : at_once);
	return result;
}

/* Send it until it is known to be done; EOLDREV says that it is. */
static int compact(pgs__worker *w, uint64_t revision)
{
	pgs_kv *kv = pgs__db_backend(w->db)->kv;
	uint64_t deadline = pgs__worker_deadline(w);
	for (;;) {
		int result = kv->vtable->compact(kv, revision, deadline, w->err);
		if (result == PGS_EOLDREV)
			return PGS_OK;
		if (result != PGS_EUNKNOWN || pgs__deadline_passed(deadline))
			return result;
		pgs__sleep_ms(RETRY_PAUSE_MS, deadline);
	}
}

int pgs__job_compact_kv(pgs__worker *w)
{
	pgs_kv *kv = pgs__db_backend(w->db)->kv;
	floors f = {.w = w};
	pgs_kv_stat stat;
	if (!w->db->store->owns_kv || w->options.dry_run)
		return PGS_OK;
	int result = kv->vtable->stat(kv, &stat, pgs__worker_deadline(w), w->err);
	if (result == PGS_OK)
		result = lowest_floor(&f);
	pgs__free(f.list);
	if (result != PGS_OK)
		return result;
	uint64_t target = PGS__BUG(COMPACT_ABOVE_FLOOR) ? stat.revision : f.lowest;
	uint64_t percent = w->options.quota_percent;
	uint64_t filled = pgs__room_filled(w->db->store, &stat);
	bool full = stat.quota_bytes && percent && filled >= stat.quota_bytes / 100 * percent;
	uint64_t worth = w->options.all || full ? 1 : WORTH_REVISIONS;
	if (target <= stat.compacted_revision || target - stat.compacted_revision < worth)
		return PGS_OK;
	result = compact(w, target);
	if (result == PGS_OK)
		w->report->compacted_revision = target;
	return result;
}
