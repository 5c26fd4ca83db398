/* The log of commits, and what was the last one at a time.
 *
 * Changelog keys begin with the committer's time (UUID version 7), so they are nearly in commit order, but not quite:
 * clocks differ. The log lists the keys, which are small, sorts them by revision, and reads the values it shows.
 */
#include <stdlib.h>
#include <string.h>

#include <pagestore/history.h>

#include "codec/changelog.h"
#include "txn/history.h"
#include "txn/snapshot.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/random.h"

#define LIST_PAGE 1000
#define MINUTE_MS 60000

typedef struct item {
	uint64_t revision;
	uint8_t uuid[16];
} item;

typedef struct items {
	item *list;
	size_t count, capacity;
} items;

static int newest_first(const void *a, const void *b)
{
	const item *x = a, *y = b;
	return (x->revision < y->revision) - (x->revision > y->revision);
}

static int take_keys(pgs_db *db, const pgs_kv_result *r, items *out, pgs_error *err)
{
	for (size_t i = 0; i < r->count; i++) {
		pgs_slice uuid;
		if (!pgs__key_tail(r->pairs[i].key, 'x', &uuid) || uuid.size != 16)
			return pgs__error(err, PGS_ECORRUPT, "database %s: a changelog key is malformed", db->name);
		if (pgs__grow(&out->list, &out->capacity, out->count + 1, sizeof *out->list) != PGS_OK)
			return pgs__error_nomem(err, "log");
		out->list[out->count].revision = r->pairs[i].mod_revision;
		memcpy(out->list[out->count++].uuid, uuid.data, 16);
	}
	return PGS_OK;
}

/* Add the changelog keys in [from, end), sorted, newest revision first. */
static int list_keys(pgs_db *db, pgs__key from, const pgs__key *end, items *out, uint64_t deadline_ms, pgs_error *err)
{
	bool more = true;
	int result = PGS_OK;
	while (result == PGS_OK && more) {
		pgs_kv_op op = pgs__op_range(pgs__key_slice(&from), pgs__key_slice(end), 0);
		op.keys_only = true;
		op.limit = LIST_PAGE;
		pgs_kv_txn txn;
		result = pgs__kv_read(pgs__db_backend(db), &txn, &op, 1, deadline_ms, err);
		if (result == PGS_OK)
			result = take_keys(db, &txn.results[0], out, err);
		more = result == PGS_OK && txn.results[0].more;
		if (more) {
			pgs__key last = pgs__key_uuid(pgs__db_prefix(db), 'x', out->list[out->count - 1].uuid);
			from = pgs__key_after(&last);
		}
		pgs__kv_release(pgs__db_backend(db), &txn, 1);
	}
	if (out->count > 1)
		qsort(out->list, out->count, sizeof *out->list, newest_first);
	return result;
}

static pgs_log_entry make_entry(const item *it, const pgs__change *change)
{
	return (pgs_log_entry){
		.revision = it->revision,
		.time_ms = pgs__uuid7_ms(it->uuid),
		.uuid = it->uuid,
		.note = !change->has_note ? NULL : change->note.size ? change->note.data : "",
		.note_size = change->note.size,
		.pages_written = change->pages_written,
		.attrs_written = change->attr_count,
		.truncated = change->truncated,
		.page_count = change->page_count,
		.kv_bytes = change->kv_bytes,
		.blob_bytes = change->blob_bytes,
	};
}

/* Read an entry. PGS_ENOTFOUND when it has been pruned or marks an aborted commit. `visit` may be NULL. */
static int read_entry(pgs_db *db, const item *it, pgs_log_visitor visit, void *ctx, uint64_t deadline_ms,
		      pgs_error *err)
{
	pgs__key key = pgs__key_uuid(pgs__db_prefix(db), 'x', it->uuid);
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&key), 0);
	pgs_kv_txn txn;
	pgs__change change;
	int result = pgs__kv_read(pgs__db_backend(db), &txn, &op, 1, deadline_ms, err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (pair) {
		result = pgs__change_decode(pair->value, &change);
		if (result != PGS_OK)
			pgs__error(err, result, "the changelog entry of revision %llu of database %s is damaged",
				   (unsigned long long)it->revision, db->name);
	}
	if (result == PGS_OK && (!pair || change.kind == PGS__CHANGE_ABORTED))
		result = PGS_ENOTFOUND;
	if (result == PGS_OK && visit) {
		const pgs_log_entry entry = make_entry(it, &change);
		result = visit(ctx, &entry);
	}
	pgs__kv_release(pgs__db_backend(db), &txn, 1);
	return result;
}

/* Does the database still exist? A log of nothing is not the same as no database. */
static int check_exists(pgs_db *db, uint64_t deadline_ms, pgs_error *err)
{
	pgs__snapshot snapshot;
	int result = pgs__snapshot_open(&snapshot, db, 0, deadline_ms, err);
	pgs__snapshot_close(&snapshot);
	return result;
}

static int show(pgs_db *db, const items *found, const pgs_log_options *o, pgs_log_visitor visitor, void *ctx,
		pgs_error *err)
{
	uint64_t to = o->to_revision ? o->to_revision : UINT64_MAX, shown = 0;
	uint64_t most = o->max_entries ? o->max_entries : UINT64_MAX;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < found->count && shown < most; i++) {
		if (found->list[i].revision < o->from_revision)
			break;
		if (found->list[i].revision > to)
			continue;
		result = read_entry(db, &found->list[i], visitor, ctx, pgs__db_deadline(db, 0), err);
		if (result == PGS_ENOTFOUND)
			result = PGS_OK; /* pruned meanwhile, or aborted */
		else
			shown++;
	}
	return result;
}

int pgs_log(pgs_db *db, const pgs_log_options *options, pgs_log_visitor visitor, void *ctx, pgs_error *err)
{
	const pgs_log_options defaults = PGS_LOG_OPTIONS_INIT;
	const pgs_log_options *o = options ? options : &defaults;
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL, "pgs_log_options: struct_size is not set; use PGS_LOG_OPTIONS_INIT");
	uint64_t deadline = pgs__db_deadline(db, 0);
	items found = {0};
	pgs__key end = pgs__key_kind_end(pgs__db_prefix(db), 'x');
	int result = check_exists(db, deadline, err);
	if (result == PGS_OK)
		result = list_keys(db, pgs__key_kind(pgs__db_prefix(db), 'x'), &end, &found, deadline, err);
	if (result == PGS_OK)
		result = show(db, &found, o, visitor, ctx, err);
	pgs__free(found.list);
	return result;
}

/* --- at a time --------------------------------------------------------------------- */

/* The changelog key that sorts before all of `time_ms` and after all before it. */
static pgs__key key_at(const pgs_db *db, uint64_t time_ms)
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
	items found = {0};
	pgs__key end = key_at(db, end_ms);
	int result = list_keys(db, key_at(db, from_ms), &end, &found, deadline_ms, err);
	if (result == PGS_OK)
		result = PGS_ENOTFOUND;
	for (size_t i = 0; result == PGS_ENOTFOUND && i < found.count; i++) {
		result = read_entry(db, &found.list[i], NULL, NULL, deadline_ms, err);
		*revision = found.list[i].revision;
	}
	pgs__free(found.list);
	return result;
}

/* Look back in windows that double, so that a long log is not listed for a recent time. */
int pgs__revision_at_time(pgs_db *db, int64_t time_ms, uint64_t deadline_ms, uint64_t *revision, pgs_error *err)
{
	int result = check_exists(db, deadline_ms, err);
	uint64_t end = time_ms >= 0 && time_ms < (int64_t)1 << 47 ? (uint64_t)time_ms + 1 : 0;
	if (result == PGS_OK)
		result = PGS_ENOTFOUND;
	for (uint64_t window = MINUTE_MS; result == PGS_ENOTFOUND && end > 0; window *= 2) {
		uint64_t from = end > window ? end - window : 0;
		result = newest_between(db, from, end, deadline_ms, revision, err);
		end = from;
	}
	if (result == PGS_ENOTFOUND)
		return pgs__error(err, PGS_ENOTFOUND, "database %s has no commit at or before that time in its log",
				  db->name);
	return result;
}
