/* The log of commits, newest first. */
#include <pagestore/history.h>

#include "txn/history.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/random.h"

typedef struct viewer {
	pgs_log_visitor visit;
	void *ctx;
} viewer;

static int show_entry(void *ctx, const pgs__logged *logged, const pgs__change *change)
{
	const viewer *v = ctx;
	const pgs_log_entry entry = {
		.revision = logged->revision,
		.time_ms = pgs__uuid7_ms(logged->uuid),
		.uuid = logged->uuid,
		.note = !change->has_note ? NULL : change->note.size ? change->note.data : "",
		.note_size = change->note.size,
		.pages_written = change->pages_written,
		.attrs_written = change->attr_count,
		.truncated = change->truncated,
		.page_count = change->page_count,
		.kv_bytes = change->kv_bytes,
		.blob_bytes = change->blob_bytes,
	};
	return v->visit(v->ctx, &entry);
}

static int show(pgs_db *db, const pgs__logged_list *found, const pgs_log_options *o, viewer *v, pgs_error *err)
{
	uint64_t to = o->to_revision ? o->to_revision : UINT64_MAX, shown = 0;
	uint64_t most = o->max_entries ? o->max_entries : UINT64_MAX;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < found->count && shown < most; i++) {
		if (found->list[i].revision < o->from_revision)
			break;
		if (found->list[i].revision > to)
			continue;
		result = pgs__history_read(db, &found->list[i], show_entry, v, pgs__db_deadline(db, 0), err);
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
	pgs__logged_list found = {0};
	viewer v = {visitor, ctx};
	const uint8_t *prefix = pgs__db_prefix(db);
	pgs__key from = pgs__key_kind(prefix, 'x'), end = pgs__key_kind_end(prefix, 'x');
	int result = pgs__history_check(db, deadline, err);
	if (result == PGS_OK)
		result = pgs__history_list(db, &from, &end, &found, deadline, err);
	if (result == PGS_OK)
		result = show(db, &found, o, &v, err);
	pgs__free(found.list);
	return result;
}
