/* Listing the changelog.
 *
 * Its keys begin with the committer's time (UUID version 7), so they are nearly in commit order, but not quite: clocks
 * differ. So the keys, which are small, are listed and sorted by revision, and values are read as they are needed.
 */
#include "txn/history.h"

#include <stdlib.h>
#include <string.h>

#include "txn/snapshot.h"
#include "util/alloc.h"
#include "util/error.h"

#define LIST_PAGE 1000
#define MINUTE_MS 60000

static int newest_first(const void *a, const void *b)
{
	const pgs__logged *x = a, *y = b;
	return (x->revision < y->revision) - (x->revision > y->revision);
}

typedef struct listing {
	const pgs_db *db;
	pgs__logged_list *out;
	pgs_error *err;
} listing;

static int take_key(void *ctx, const pgs_kv_pair *pair)
{
	listing *l = ctx;
	pgs__logged_list *out = l->out;
	pgs_slice uuid;
	if (!pgs__key_tail(pair->key, 'x', &uuid) || uuid.size != 16)
		return pgs__error(l->err, PGS_ECORRUPT, "database %s: a changelog key is malformed", l->db->name);
	if (pgs__grow(&out->list, &out->capacity, out->count + 1, sizeof *out->list) != PGS_OK)
		return pgs__error_nomem(l->err, "log");
	out->list[out->count].revision = pair->mod_revision;
	memcpy(out->list[out->count++].uuid, uuid.data, 16);
	return PGS_OK;
}

int pgs__history_list(pgs_db *db, const pgs__key *from, const pgs__key *end, pgs__logged_list *out,
		      uint64_t deadline_ms, pgs_error *err)
{
	const pgs__key_space space = pgs__db_space(db);
	listing l = {db, out, err};
	pgs__walk keys;
	int result = PGS_OK;
	pgs__walk_kind(&keys, pgs__db_prefix(db), 'x', &space, LIST_PAGE);
	pgs__walk_between(&keys, from, end);
	keys.keys_only = true;
	while (result == PGS_OK && pgs__walk_more(&keys))
		result = pgs__walk_pairs(&keys, pgs__db_backend(db), false, take_key, &l, deadline_ms, err);
	if (out->count > 1)
		qsort(out->list, out->count, sizeof *out->list, newest_first);
	return result;
}

int pgs__history_read(pgs_db *db, const pgs__logged *logged, pgs__history_reader read, void *ctx, uint64_t deadline_ms,
		      pgs_error *err)
{
	pgs__key key = pgs__key_uuid(pgs__db_prefix(db), 'x', logged->uuid);
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&key), 0);
	pgs_kv_txn txn;
	pgs__change change;
	int result = pgs__kv_read(pgs__db_backend(db), &txn, &op, 1, deadline_ms, err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (pair) {
		result = pgs__change_decode(pair->value, &change);
		if (result != PGS_OK)
			pgs__error(err, result, "the changelog entry of revision %llu of database %s is damaged",
				   (unsigned long long)logged->revision, db->name);
	}
	if (result == PGS_OK && (!pair || change.kind == PGS__CHANGE_ABORTED))
		result = PGS_ENOTFOUND;
	if (result == PGS_OK && read)
		result = read(ctx, logged, &change);
	pgs__kv_release(pgs__db_backend(db), &txn, 1);
	return result;
}

int pgs__history_check(pgs_db *db, uint64_t deadline_ms, pgs_error *err)
{
	pgs__snapshot snapshot;
	int result = pgs__snapshot_open(&snapshot, db, 0, deadline_ms, err);
	pgs__snapshot_close(&snapshot);
	return result;
}

/* --- at a time --------------------------------------------------------------------- */

pgs__key pgs__history_key_at(const pgs_db *db, uint64_t time_ms)
{
	uint8_t uuid[16] = {0};
	for (int i = 0; i < 6; i++)
		uuid[i] = (uint8_t)(time_ms >> (40 - 8 * i));
	return pgs__key_uuid(pgs__db_prefix(db), 'x', uuid);
}

/* The newest commit among the keys of [from_ms, end_ms): PGS_OK, or PGS_ENOTFOUND. */
static int newest_between(pgs_db *db, uint64_t from_ms, uint64_t end_ms, uint64_t deadline_ms, uint64_t *revision,
			  pgs_error *err)
{
	pgs__logged_list found = {0};
	pgs__key from = pgs__history_key_at(db, from_ms), end = pgs__history_key_at(db, end_ms);
	int result = pgs__history_list(db, &from, &end, &found, deadline_ms, err);
	if (result == PGS_OK)
		result = PGS_ENOTFOUND;
	for (size_t i = 0; result == PGS_ENOTFOUND && i < found.count; i++) {
		result = pgs__history_read(db, &found.list[i], NULL, NULL, deadline_ms, err);
		*revision = found.list[i].revision;
	}
	pgs__free(found.list);
	return result;
}

/* The log has no commit at or before that time: there was none, or its entry is gone. */
static int nothing_so_early(pgs_db *db, int64_t time_ms, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t oldest = 0;
	int result = time_ms < db->created_ms ? PGS_OK : pgs__oldest_readable(db, &oldest, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	if (oldest)
		return pgs__error(err, PGS_EOLDREV,
				  "the log of database %s does not reach back to that time; the oldest readable is %llu",
				  db->name, (unsigned long long)oldest);
	return pgs__error(err, PGS_ENOTFOUND, "database %s has no commit at or before that time in its log", db->name);
}

/* Look back in windows that double, so that a long log is not listed for a recent time. */
int pgs__revision_at_time(pgs_db *db, int64_t time_ms, uint64_t deadline_ms, uint64_t *revision, pgs_error *err)
{
	int result = pgs__history_check(db, deadline_ms, err);
	uint64_t end = time_ms >= 0 && time_ms < (int64_t)1 << 47 ? (uint64_t)time_ms + 1 : 0;
	if (result == PGS_OK)
		result = PGS_ENOTFOUND;
	for (uint64_t window = MINUTE_MS; result == PGS_ENOTFOUND && end > 0; window *= 2) {
		uint64_t from = end > window ? end - window : 0;
		result = newest_between(db, from, end, deadline_ms, revision, err);
		end = from;
	}
	return result == PGS_ENOTFOUND ? nothing_so_early(db, time_ms, deadline_ms, err) : result;
}
