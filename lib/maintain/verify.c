/* Verification: every content of every retained revision, read past the caches and hashed again.
 *
 *     the oldest readable revision ── its pointers: p/ keys, packs ──┐
 *     every revision after it ─────── p/ and o/ puts, as watched ────┴─ each (page, id) once, in batches
 *
 * Pointers that a pack or a younger key hides at all those revisions are met as well; that their content is gone is no
 * damage. Damage is a finding and the work goes on. Metadata and attributes are checked by their seals on the way.
 */
#include <stdlib.h>
#include <string.h>

#include <pagestore/history.h>

#include "codec/seal.h"
#include "txn/changes.h"
#include "txn/snapshot.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/map.h"

#define BATCH 256
#define LIST_PAGE 500
#define PROGRESS_EVERY 1024
#define WATCH_MS 20 /* the last revisions may have nothing in the range: then only waiting tells that they are past */

/* A pointer waiting to be checked. */
typedef struct pending {
	uint64_t page_no;
	uint64_t revision;
	pgs__pointer pointer; /* its delta is in the batch's arena */
} pending;

typedef struct verify {
	pgs_db *db;
	pgs__contents *contents;
	const pgs_verify_options *options;
	pgs_verify_report *report;
	pgs_error *err;
	pgs__map checked; /* hash of (page, id): seen already */
	pending batch[BATCH];
	size_t count;
	pgs__arena arena;
	uint8_t *pages; /* one content per batch entry */
	uint64_t total; /* pointers known so far */
} verify;

/* Verification takes long; each step gets the store's timeout. */
static uint64_t step_deadline(const verify *v)
{
	return pgs__db_deadline(v->db, 0);
}

static int finding(verify *v, int code, uint64_t page, uint64_t revision, const char *message)
{
	v->report->findings++;
	if (!v->options->finding)
		return 0;
	const pgs_verify_finding f = {code, page, revision, message, NULL};
	return v->options->finding(v->options->ctx, &f);
}

static int progress(verify *v)
{
	if (!v->options->progress || v->report->pointers_checked % PROGRESS_EVERY)
		return 0;
	uint64_t total = v->total > v->report->pointers_checked ? v->total : v->report->pointers_checked;
	return v->options->progress(v->options->ctx, v->report->pointers_checked, total);
}

/* --- a batch ---------------------------------------------------------------------- */

/* The content a pointer needs from elsewhere, or NULL. */
static const pgs__page_id *needed(const pgs__pointer *p)
{
	if (p->kind == PGS__POINTER_FULL)
		return &p->id;
	return p->kind == PGS__POINTER_DELTA && p->has_base ? &p->base : NULL;
}

static int check_delta(verify *v, pgs__workbench *bench, const pending *p, uint8_t *page)
{
	pgs_error e = PGS_ERROR_INIT;
	if (pgs__delta_apply(bench, p->pointer.delta, page, page) == PGS_OK) {
		pgs__page_id id = pgs__page_id_of(v->contents->secret, p->page_no, page, v->contents->page_size);
		if (pgs__page_id_equal(&id, &p->pointer.id))
			return PGS_OK;
	}
	pgs__error_page(&e, PGS_ECORRUPT, p->page_no,
			"page %llu: the delta in its pointer of revision %llu does not give the page it names",
			(unsigned long long)p->page_no, (unsigned long long)p->revision);
	return finding(v, PGS_ECORRUPT, p->page_no, p->revision, e.message);
}

/* Whether any retained revision shows that pointer. One below a younger pack, or a pack's below a younger key, shows
 * nowhere from then on, and its content may have been dropped. */
static bool is_visible(verify *v, const pending *p)
{
	uint64_t at = p->revision > v->report->from_revision ? p->revision : v->report->from_revision;
	pgs__arena arena = {0};
	pgs__snapshot s;
	pgs__resolved now;
	int result = pgs__snapshot_open(&s, v->db, at, step_deadline(v), NULL);
	if (result == PGS_OK)
		result = pgs__pointers_read(&s, &p->page_no, 1, &now, &arena, step_deadline(v), NULL);
	pgs__arena_free(&arena);
	pgs__snapshot_close(&s);
	if (result != PGS_OK)
		return result != PGS_EOLDREV; /* collected meanwhile */
	return now.ref.kind == p->pointer.kind && pgs__page_id_equal(&now.ref.id, &p->pointer.id) &&
	       now.ref.has_base == p->pointer.has_base &&
	       (!now.ref.has_base || pgs__page_id_equal(&now.ref.base, &p->pointer.base));
}

/* Why a content could not be had: fetch it alone, for its own message. */
static int report_missing(verify *v, const pending *p, pgs__want *want)
{
	pgs_error e = PGS_ERROR_INIT;
	int code = pgs__contents_fetch(v->contents, want, 1, step_deadline(v), &e);
	if (code == PGS_OK)
		return PGS_OK; /* it was there this time */
	if (code != PGS_ENOTFOUND && code != PGS_ECORRUPT) {
		if (v->err)
			*v->err = e;
		return code;
	}
	if (code == PGS_ENOTFOUND && !is_visible(v, p))
		return PGS_OK;
	return finding(v, PGS_ECORRUPT, p->page_no, p->revision, e.message);
}

static int fetch_batch(verify *v, pgs__want *wants, size_t count)
{
	pgs_error e = PGS_ERROR_INIT;
	int result = pgs__contents_fetch(v->contents, wants, count, step_deadline(v), &e);
	if (result == PGS_OK || result == PGS_ENOTFOUND || result == PGS_ECORRUPT)
		return PGS_OK; /* the statuses tell */
	if (v->err)
		*v->err = e;
	return result;
}

static int check_one(verify *v, pgs__workbench *bench, const pending *p, pgs__want *want)
{
	int result = 0;
	uint8_t *page = want->page;
	if (needed(&p->pointer) && want->status != PGS_OK) {
		result = report_missing(v, p, want);
		if (result != PGS_OK || want->status != PGS_OK)
			return result;
	}
	if (!needed(&p->pointer))
		memset(page, 0, v->contents->page_size);
	if (p->pointer.kind == PGS__POINTER_DELTA)
		result = check_delta(v, bench, p, page);
	v->report->contents_checked++;
	v->report->bytes_checked += v->contents->page_size;
	return result;
}

static int flush(verify *v)
{
	pgs__want wants[BATCH], fetched[BATCH];
	size_t index[BATCH], count = 0;
	pgs__workbench *bench = pgs__workbench_take(&v->contents->benches);
	if (!bench)
		return pgs__error_nomem(v->err, "verification");
	for (size_t i = 0; i < v->count; i++) {
		const pgs__page_id *id = needed(&v->batch[i].pointer);
		wants[i] = (pgs__want){.page_no = v->batch[i].page_no,
				       .page = v->pages + i * v->contents->page_size};
		if (!id)
			continue;
		wants[i].id = *id;
		fetched[count] = wants[i];
		index[count++] = i;
	}
	int result = fetch_batch(v, fetched, count);
	for (size_t i = 0; i < count; i++)
		wants[index[i]].status = fetched[i].status;
	for (size_t i = 0; result == PGS_OK && i < v->count; i++)
		result = check_one(v, bench, &v->batch[i], &wants[i]);
	pgs__workbench_give(&v->contents->benches, bench);
	pgs__arena_free(&v->arena);
	v->count = 0;
	return result;
}

/* --- pointers ------------------------------------------------------------------------ */

/* Remember a (page, content, delta or not); true if it is new. */
static int note(verify *v, uint64_t page_no, const pgs__pointer *p, bool *is_new)
{
	struct {
		uint64_t page_no, kind, delta;
		pgs__page_id id, base;
	} name = {page_no, (uint64_t)p->kind, 0, p->id, p->base};
	bool existed;
	/* One content may be stored as several deltas, of which one is damaged. */
	if (p->delta.size)
		name.delta = pgs__check64(p->delta.data, p->delta.size);
	if (pgs__map_set(&v->checked, pgs__check64(&name, sizeof name) >> 1, 1, &existed) != PGS_OK)
		return pgs__error_nomem(v->err, "verification");
	*is_new = !existed;
	return PGS_OK;
}

static int add_pointer(verify *v, uint64_t page_no, uint64_t revision, pgs_slice value)
{
	pgs__pointer p;
	v->report->pointers_checked++;
	if (pgs__pointer_decode(value, pgs__page_group(page_no, v->contents->page_size), &p) != PGS_OK) {
		pgs_error e = PGS_ERROR_INIT;
		pgs__error(&e, PGS_ECORRUPT, "page %llu: its pointer of revision %llu is damaged",
			   (unsigned long long)page_no, (unsigned long long)revision);
		return finding(v, PGS_ECORRUPT, page_no, revision, e.message);
	}
	bool is_new = false;
	int result = progress(v);
	if (result == PGS_OK && p.kind != PGS__POINTER_ZERO)
		result = note(v, page_no, &p, &is_new);
	if (result != PGS_OK || !is_new)
		return result;
	pending *slot = &v->batch[v->count];
	*slot = (pending){page_no, revision, p};
	if (pgs__arena_copy(&v->arena, p.delta, &slot->pointer.delta) != PGS_OK)
		return pgs__error_nomem(v->err, "verification");
	return ++v->count == BATCH ? flush(v) : PGS_OK;
}

static int add_pair(verify *v, const pgs_kv_pair *pair)
{
	uint64_t page_no;
	if (!pgs__key_parse_page(pair->key, &page_no))
		return finding(v, PGS_ECORRUPT, PGS_NO_PAGE, pair->mod_revision, "a page's key is malformed");
	return add_pointer(v, page_no, pair->mod_revision, pair->value);
}

static int visit_pack_pointer(void *ctx, uint64_t page_no, uint64_t revision, pgs_slice pointer)
{
	return add_pointer(ctx, page_no, revision, pointer);
}

/* The packs of one revision. A pack that cannot be read is a finding. */
static int add_packs(verify *v, uint64_t revision)
{
	pgs__snapshot s;
	pgs_error e = PGS_ERROR_INIT;
	int result = pgs__snapshot_open(&s, v->db, revision, step_deadline(v), &e);
	if (result == PGS_OK)
		result = pgs__pack_view_visit(s.packs, v->contents->backend, step_deadline(v), visit_pack_pointer, v, &e);
	if (result == PGS_ENOTFOUND && s.packs) /* an index file is missing */
		result = pgs__explain_missing(&s, step_deadline(v), &e);
	pgs__snapshot_close(&s);
	if (result == PGS_ECORRUPT || result == PGS_EVERSION)
		return finding(v, result, PGS_NO_PAGE, revision, e.message);
	if (result != PGS_OK && v->err && e.code)
		*v->err = e;
	return result;
}

/* --- the oldest revision ----------------------------------------------------------------- */

/* One page of the keys of a range at a revision; *from moves on. */
static int list_page(verify *v, pgs__key *from, const pgs__key *end, uint64_t revision, bool *more,
		     int (*each)(verify *, const pgs_kv_pair *))
{
	pgs_kv_op op = pgs__op_range(pgs__key_slice(from), pgs__key_slice(end), revision);
	op.limit = LIST_PAGE;
	pgs_kv_txn txn;
	int result = pgs__kv_read(v->contents->backend, &txn, &op, 1, step_deadline(v), v->err);
	const pgs_kv_result *r = result == PGS_OK ? &txn.results[0] : NULL;
	for (size_t i = 0; r && result == PGS_OK && i < r->count; i++)
		result = each(v, &r->pairs[i]);
	*more = r && r->more && r->count;
	if (*more) {
		pgs_slice last = r->pairs[r->count - 1].key;
		pgs__key key = {.size = (uint16_t)(last.size < PGS__KEY_MAX ? last.size : PGS__KEY_MAX - 1)};
		memcpy(key.bytes, last.data, key.size);
		*from = pgs__key_after(&key);
	}
	pgs__kv_release(v->contents->backend, &txn, 1);
	return result;
}

static int list_kind(verify *v, char kind, uint64_t revision, int (*each)(verify *, const pgs_kv_pair *))
{
	pgs__key from = pgs__key_kind(pgs__db_prefix(v->db), kind), end = pgs__key_kind_end(pgs__db_prefix(v->db), kind);
	bool more = true;
	int result = PGS_OK;
	while (result == PGS_OK && more)
		result = list_page(v, &from, &end, revision, &more, each);
	return result;
}

static int check_attr(verify *v, const pgs_kv_pair *pair)
{
	pgs_slice value = pair->value, name = {0};
	char text[2 * PGS_ATTR_NAME_MAX];
	pgs_error e = PGS_ERROR_INIT;
	if (pgs__key_tail(pair->key, 'a', &name) && pgs__unseal(&value))
		return PGS_OK;
	pgs__error(&e, PGS_ECORRUPT, "attribute %s is damaged",
		   pgs__printable(text, sizeof text, name.data, name.size));
	return finding(v, PGS_ECORRUPT, PGS_NO_PAGE, pair->mod_revision, e.message);
}

static int check_change(verify *v, const pgs_kv_pair *pair)
{
	pgs__change change;
	pgs_slice runs;
	uint8_t *file;
	pgs_error e = PGS_ERROR_INIT, named = PGS_ERROR_INIT;
	int result = pgs__change_open(v->db, pair->value, step_deadline(v), &change, &runs, &file, &e);
	pgs__free(file);
	if (result == PGS_ECORRUPT || result == PGS_EVERSION) {
		pgs__error(&named, result, "the changelog entry of revision %llu: %.300s",
			   (unsigned long long)pair->mod_revision, e.message);
		return finding(v, result, PGS_NO_PAGE, pair->mod_revision, named.message);
	}
	if (result != PGS_OK && v->err)
		*v->err = e;
	return result;
}

/* --- sorted files --------------------------------------------------------------------------- */

static int file_finding(verify *v, const pgs__file *file, const char *what)
{
	pgs_error e = PGS_ERROR_INIT;
	pgs__error(&e, PGS_ECORRUPT, "sorted file %s: %s", file->blob_name, what);
	return finding(v, PGS_ECORRUPT, PGS_NO_PAGE, file->registered, e.message);
}

/* A blob is missing: is its file registered still, or was it merged into others meanwhile? */
static int report_missing_file(verify *v, const pgs__file *file)
{
	int result = pgs__levels_refresh(&v->contents->levels, v->contents->backend, pgs__db_prefix(v->db),
					 step_deadline(v), v->err);
	if (result != PGS_OK && result != PGS_ECORRUPT && result != PGS_EVERSION)
		return result;
	pgs__file_map *map = pgs__levels_map(&v->contents->levels);
	bool registered = false;
	for (size_t i = 0; i < map->count; i++)
		registered |= strcmp(map->files[i]->blob_name, file->blob_name) == 0;
	pgs__file_map_release(map);
	return registered ? file_finding(v, file, "is registered but missing") : PGS_OK;
}

/* Header, table and filter of a registered file. Its contents are checked through the pointers that need them. */
static int check_file(verify *v, const pgs__file *file)
{
	pgs_blob *blob = v->contents->backend->blob;
	size_t table_size = (size_t)file->index.count * PGS__SORTED_ENTRY_SIZE;
	const size_t head_size = (size_t)file->index.contents_offset;
	uint8_t *bytes = pgs__malloc(head_size);
	if (!bytes)
		return pgs__error_nomem(v->err, "verification");
	pgs_blob_range range = {.name = file->blob_name, .size = head_size, .buffer = bytes};
	pgs__sorted_header header;
	int result = blob->vtable->get(blob, &range, 1, step_deadline(v), v->err);
	if (result == PGS_ENOTFOUND)
		result = report_missing_file(v, file);
	else if (result == PGS_ECORRUPT)
		result = file_finding(v, file, "is shorter than its index says");
	else if (result == PGS_OK && pgs__sorted_header_decode(bytes, &header) == PGS_EVERSION)
		result = file_finding(v, file, "is of a newer version");
	else if (result == PGS_OK && (pgs__sorted_header_decode(bytes, &header) != PGS_OK ||
				      header.count != file->index.count || header.file_size != file->index.file_size ||
				      header.filter_size != file->index.filter_size))
		result = file_finding(v, file, "its header is damaged");
	else if (result == PGS_OK && pgs__sorted_table_check((pgs_slice){bytes + PGS__SORTED_HEADER_SIZE, table_size},
							     &header) != PGS_OK)
		result = file_finding(v, file, "its table is damaged");
	else if (result == PGS_OK && header.filter_size &&
		 !pgs__sorted_filter_check((pgs_slice){bytes + PGS__SORTED_HEADER_SIZE + table_size,
						       head_size - PGS__SORTED_HEADER_SIZE - table_size}))
		result = file_finding(v, file, "its filter is damaged");
	pgs__free(bytes);
	return result;
}

static int check_files(verify *v)
{
	pgs_error e = PGS_ERROR_INIT;
	int result = pgs__levels_refresh(&v->contents->levels, v->contents->backend, pgs__db_prefix(v->db),
					 step_deadline(v), &e);
	if (result == PGS_ECORRUPT || result == PGS_EVERSION) /* the others are in the map */
		result = finding(v, result, PGS_NO_PAGE, 0, e.message);
	else if (result != PGS_OK && v->err)
		*v->err = e;
	if (result != PGS_OK)
		return result;
	pgs__file_map *map = pgs__levels_map(&v->contents->levels);
	for (size_t i = 0; result == PGS_OK && i < map->count; i++)
		result = check_file(v, map->files[i]);
	pgs__file_map_release(map);
	return result;
}

/* --- the revisions after it -------------------------------------------------------------------- */

static int take_event(verify *v, const pgs_kv_event *event, uint64_t through)
{
	pgs_slice tail;
	if (event->deleted || event->pair.mod_revision > through)
		return PGS_OK;
	v->total++;
	if (pgs__key_tail(event->pair.key, 'o', &tail))
		return add_packs(v, event->pair.mod_revision);
	return add_pair(v, &event->pair);
}

static int watch_rest(verify *v, uint64_t after, uint64_t through)
{
	pgs_kv *kv = v->contents->backend->kv;
	pgs__key from = pgs__key_kind(pgs__db_prefix(v->db), 'o'), end = pgs__key_kind_end(pgs__db_prefix(v->db), 'p');
	pgs_kv_watch *watch;
	pgs_kv_events events = {0};
	if (after >= through)
		return PGS_OK;
	int result = kv->vtable->watch_open(kv, pgs__key_slice(&from), pgs__key_slice(&end), after + 1, &watch, v->err);
	if (result != PGS_OK)
		return result;
	uint64_t deadline = step_deadline(v);
	while (result == PGS_OK && events.revision < through) {
		uint64_t before = events.revision;
		result = kv->vtable->watch_next(watch, WATCH_MS, &events, v->err);
		for (size_t i = 0; result == PGS_OK && i < events.count; i++)
			result = take_event(v, &events.events[i], through);
		if (events.revision > before)
			deadline = step_deadline(v);
		else if (result == PGS_OK && pgs__deadline_passed(deadline))
			result = pgs__error(v->err, PGS_ETIMEOUT, "the KV's history did not come");
	}
	kv->vtable->watch_close(watch);
	return result;
}

/* --- all together ---------------------------------------------------------------------------------- */

/* The oldest revision that can be read: the floor, what the KV has kept, the database's creation. */
static int find_oldest(verify *v, const pgs__snapshot *now, uint64_t *oldest)
{
	pgs_kv *kv = v->contents->backend->kv;
	pgs_kv_stat stat;
	pgs__key m = pgs__key_single(pgs__db_prefix(v->db), 'm');
	pgs_kv_op get = pgs__op_get(pgs__key_slice(&m), 0);
	pgs_kv_txn txn;
	int result = kv->vtable->stat(kv, &stat, step_deadline(v), v->err);
	if (result != PGS_OK)
		return result;
	result = pgs__kv_read(v->contents->backend, &txn, &get, 1, step_deadline(v), v->err);
	if (result == PGS_OK && !pgs__got(&txn, 0))
		result = pgs__error(v->err, PGS_ENOTFOUND, "database %s was dropped", v->db->name);
	if (result == PGS_OK) {
		*oldest = pgs__got(&txn, 0)->create_revision;
		if (now->floor > *oldest)
			*oldest = now->floor;
		if (stat.compacted_revision > *oldest)
			*oldest = stat.compacted_revision;
	}
	pgs__kv_release(v->contents->backend, &txn, 1);
	return result;
}

static int run(verify *v)
{
	pgs__snapshot now;
	uint64_t oldest = 0;
	int result = pgs__snapshot_open(&now, v->db, 0, step_deadline(v), v->err);
	if (result == PGS_OK)
		result = find_oldest(v, &now, &oldest);
	if (result == PGS_OK) {
		v->report->from_revision = oldest;
		v->report->to_revision = now.kv_revision;
		result = list_kind(v, 'p', oldest, add_pair);
	}
	if (result == PGS_OK)
		result = add_packs(v, oldest);
	if (result == PGS_OK)
		result = watch_rest(v, oldest, now.kv_revision);
	if (result == PGS_OK)
		result = flush(v);
	if (result == PGS_OK)
		result = list_kind(v, 'a', 0, check_attr);
	if (result == PGS_OK)
		result = list_kind(v, 'x', 0, check_change);
	if (result == PGS_OK)
		result = check_files(v);
	pgs__snapshot_close(&now);
	return result;
}

int pgs_verify(pgs_db *db, const pgs_verify_options *options, pgs_verify_report *report, pgs_error *err)
{
	const pgs_verify_options defaults = PGS_VERIFY_OPTIONS_INIT;
	pgs_verify_report local = PGS_VERIFY_REPORT_INIT;
	if ((options && options->struct_size != sizeof *options) || (report && report->struct_size != sizeof *report))
		return pgs__error(err, PGS_EINVAL, "pgs_verify: struct_size is not set; use the PGS_VERIFY_…_INIT");
	if (report)
		*report = local;
	verify *v = pgs__calloc(1, sizeof *v);
	if (!v)
		return pgs__error_nomem(err, "verification");
	v->db = db;
	v->contents = &db->contents;
	v->options = options ? options : &defaults;
	v->report = report ? report : &local;
	v->err = err;
	v->pages = pgs__malloc((size_t)BATCH * db->contents.page_size);
	int result = v->pages ? run(v) : pgs__error_nomem(err, "verification");
	if (result == PGS_OK && v->report->findings)
		result = pgs__error(err, PGS_ECORRUPT, "database %s: %llu findings", db->name,
				    (unsigned long long)v->report->findings);
	pgs__map_free(&v->checked);
	pgs__arena_free(&v->arena);
	pgs__free(v->pages);
	pgs__free(v);
	return result;
}
