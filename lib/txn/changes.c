/* The changelog is read by watching x/ from a revision on: exactly the commits between two revisions, in order,
 * without listing the rest. */
#include "txn/changes.h"

#include "txn/snapshot.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define WAIT_MS 1000 /* at most between two looks at the deadline */

/* How long to wait for events now. */
static uint32_t wait_ms(uint64_t deadline_ms)
{
	uint64_t now = pgs__now_ms();
	if (deadline_ms == 0 || deadline_ms >= now + WAIT_MS)
		return WAIT_MS;
	return deadline_ms > now ? (uint32_t)(deadline_ms - now) : 0;
}

static int fetch_runs(pgs_db *db, const pgs__change *change, uint64_t deadline_ms, pgs_slice *runs, uint8_t **file,
		      pgs_error *err)
{
	char file_name[PGS__FILE_NAME_MAX + 1], blob_name[PGS__BLOB_NAME_SIZE];
	if (change->file_name.size > PGS__FILE_NAME_MAX || change->file_size > SIZE_MAX / 2)
		return pgs__error(err, PGS_ECORRUPT, "a changelog entry names an impossible file");
	memcpy(file_name, change->file_name.data, change->file_name.size);
	file_name[change->file_name.size] = '\0';
	pgs__blob_name(blob_name, pgs__db_prefix(db), file_name);
	size_t size = (size_t)change->file_size;
	*file = pgs__malloc(size);
	if (!*file)
		return pgs__error_nomem(err, "changelog");
	pgs_blob *blob = pgs__db_backend(db)->blob;
	pgs_blob_range range = {.name = blob_name, .size = size, .buffer = *file};
	int result = pgs__blob_get(blob, &range, 1, deadline_ms, err);
	if (result == PGS_OK) {
		result = pgs__runs_file_decode((pgs_slice){*file, size}, runs);
		if (result != PGS_OK)
			pgs__error(err, result, "changelog file %s is damaged or of a newer version", blob_name);
	} else if (result == PGS_ENOTFOUND) {
		result = pgs__error(err, PGS_ECORRUPT, "changelog file %s is missing", blob_name);
	}
	if (result != PGS_OK) {
		pgs__free(*file);
		*file = NULL;
	}
	return result;
}

int pgs__change_open(pgs_db *db, pgs_slice value, uint64_t deadline_ms, pgs__change *change, pgs_slice *runs,
		     uint8_t **file, pgs_error *err)
{
	*file = NULL;
	int result = pgs__change_decode(value, change);
	if (result != PGS_OK)
		return pgs__error(err, result, "a changelog entry is damaged or of a newer version");
	*runs = change->runs;
	if (change->kind == PGS__CHANGE_COMMIT_RUNS_IN_BLOB)
		result = fetch_runs(db, change, deadline_ms, runs, file, err);
	return result;
}

int pgs__change_open_watched(pgs_db *db, const pgs_kv_pair *pair, uint64_t deadline_ms, pgs__change *change,
			     pgs_slice *runs, uint8_t **file, pgs_error *err)
{
	uint64_t oldest;
	pgs_error e = PGS_ERROR_INIT;
	int result = pgs__change_open(db, pair->value, deadline_ms, change, runs, file, err);
	if (result != PGS_ECORRUPT)
		return result;
	int asked = pgs__oldest_readable(db, &oldest, deadline_ms, &e);
	if (asked != PGS_OK) /* no damage as long as it is not known to be any */
		return pgs__error(err, asked, "%s", e.message);
	if (pair->mod_revision > oldest)
		return result;
	return pgs__error(err, PGS_EOLDREV, "the changelog of revision %llu has been collected",
			  (unsigned long long)pair->mod_revision);
}

static int visit_event(pgs_db *db, const pgs_kv_event *event, uint64_t deadline_ms, pgs__change_visitor visit,
		       void *ctx, pgs_error *err)
{
	pgs__change change;
	pgs_slice runs;
	uint8_t *file;
	if (event->deleted)
		return PGS_OK;
	int result = pgs__change_open_watched(db, &event->pair, deadline_ms, &change, &runs, &file, err);
	if (result == PGS_OK && change.kind != PGS__CHANGE_ABORTED)
		result = visit(ctx, event->pair.mod_revision, &change, runs);
	pgs__free(file);
	return result;
}

static int follow(pgs_db *db, pgs_kv_watch *watch, uint64_t through, uint64_t deadline_ms, pgs__change_visitor visit,
		  void *ctx, pgs_error *err)
{
	const pgs_kv_vtable *kv = pgs__db_backend(db)->kv->vtable;
	pgs_kv_events events = {0};
	while (events.revision < through) {
		if (pgs__deadline_passed(deadline_ms))
			return pgs__error(err, PGS_ETIMEOUT, "reading the changelog through revision %llu took too long",
					  (unsigned long long)through);
		int result = kv->watch_next(watch, wait_ms(deadline_ms), &events, err);
		for (size_t i = 0; result == PGS_OK && i < events.count; i++)
			if (events.events[i].pair.mod_revision <= through)
				result = visit_event(db, &events.events[i], deadline_ms, visit, ctx, err);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

int pgs__changes_read(pgs_db *db, uint64_t after, uint64_t through, uint64_t deadline_ms, pgs__change_visitor visit,
		      void *ctx, pgs_error *err)
{
	if (after >= through)
		return PGS_OK;
	pgs_kv *kv = pgs__db_backend(db)->kv;
	pgs__key first = pgs__key_kind(pgs__db_prefix(db), 'x'), end = pgs__key_kind_end(pgs__db_prefix(db), 'x');
	pgs_kv_watch *watch;
	int result = kv->vtable->watch_open(kv, pgs__key_slice(&first), pgs__key_slice(&end), after + 1, &watch, err);
	if (result != PGS_OK)
		return result;
	result = follow(db, watch, through, deadline_ms, visit, ctx, err);
	kv->vtable->watch_close(watch);
	return result;
}
