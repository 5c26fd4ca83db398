/* Verification: every content of every retained revision, read past the caches and hashed again.
 *
 *     the oldest readable revision ── its pointers: p/ keys, packs ──┐
 *     every revision after it ─────── p/ and o/ puts, as watched ────┴─ each (page, id) once, in batches
 *
 * Pointers that a pack or a younger key hides at all those revisions are met as well; that their content is gone is no
 * damage. If the KV is compacted past the oldest revision meanwhile, the walk begins anew at the one that is the oldest
 * now, without reading contents again.
 */
#include "maintain/verify.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "codec/meta.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define BATCH PGS__VERIFY_BATCH
#define LIST_PAGE 500
#define PROGRESS_EVERY 1024
#define WATCH_MS 20 /* the last revisions may have nothing in the range: then only waiting tells that they are past */
#define ATTEMPTS 5  /* at walking the history, when it is compacted meanwhile */

static const char hint_content[] =
	"Put that blob or key back from a backup; a copy of any time is right. Else write the page anew: revisions "
	"that show this content stay damaged.";
static const char hint_pointer[] =
	"Write the page anew. Revisions before that stay damaged until they are forgotten (maintain --retention).";
static const char hint_key[] = "Put the key back from a backup of the KV, or delete it if it is none of pagestore's.";
static const char hint_meta[] = "Put the key back from a backup of the KV: without it the database cannot be used.";
static const char hint_mend[] = "Another copy is good: `maintain --all --scrub` replaces this one.";

uint64_t pgs__verify_deadline(const pgs__verify *v)
{
	return pgs__db_deadline(v->db, 0);
}

/* --- reporting ------------------------------------------------------------------------ */

static int report_finding(pgs__verify *v, int code, uint64_t page, uint64_t revision, const char *hint,
			  const char *message)
{
	const pgs_verify_finding f = {code, page, revision, message, hint};
	bool existed = false;
	uint64_t hash = (pgs__check64(message, strlen(message)) ^ revision) >> 1;
	if (pgs__map_set(&v->said, hash, 1, &existed) == PGS_OK && existed)
		return 0; /* the history was walked again */
	v->report->findings++;
	return v->options->finding ? v->options->finding(v->options->ctx, &f) : 0;
}

int pgs__verify_finding(pgs__verify *v, int code, uint64_t revision, const char *hint, const char *format, ...)
{
	char message[PGS_ERROR_MESSAGE_SIZE];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	return report_finding(v, code, PGS_NO_PAGE, revision, hint, message);
}

int pgs__verify_note(pgs__verify *v, uint64_t revision, const char *hint, const char *format, ...)
{
	char message[PGS_ERROR_MESSAGE_SIZE];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	const pgs_verify_finding f = {PGS_OK, PGS_NO_PAGE, revision, message, hint};
	v->report->notes++;
	return v->options->note ? v->options->note(v->options->ctx, &f) : 0;
}

/* Damage of what a pointer needs; the page's own message says where. */
static int page_finding(pgs__verify *v, const pgs__verify_pointer *p, const char *hint, const char *message)
{
	char text[PGS_ERROR_MESSAGE_SIZE];
	if (!v->snapshot)
		return report_finding(v, PGS_ECORRUPT, p->page_no, p->revision, hint, message);
	snprintf(text, sizeof text, "snapshot %.60s: %.300s", v->snapshot->name, message);
	return report_finding(v, PGS_ECORRUPT, p->page_no, p->revision, hint, text);
}

int pgs__verify_progress(pgs__verify *v)
{
	if (++v->done % PROGRESS_EVERY || !v->options->progress)
		return 0;
	return v->options->progress(v->options->ctx, v->done, v->total > v->done ? v->total : v->done);
}

/* --- keys --------------------------------------------------------------------------------- */

typedef struct visiting {
	pgs__verify *v;
	pgs__verify_visitor visit;
} visiting;

static int visit_pair(void *ctx, const pgs_kv_pair *pair)
{
	const visiting *on = ctx;
	return on->visit(on->v, pair);
}

int pgs__verify_list(pgs__verify *v, char kind, uint64_t revision, size_t limit, pgs__verify_visitor visit)
{
	const pgs__key_space space = pgs__db_space(v->db);
	visiting on = {v, visit};
	pgs__walk walk;
	int result = PGS_OK;
	pgs__walk_kind(&walk, pgs__db_prefix(v->db), kind, &space, limit);
	walk.revision = revision;
	while (result == PGS_OK && pgs__walk_more(&walk))
		result = pgs__walk_pairs(&walk, v->contents->backend, false, visit_pair, &on, pgs__verify_deadline(v), v->err);
	return result;
}

int pgs__verify_is_current(pgs__verify *v, const pgs_kv_pair *pair, bool *current)
{
	pgs_kv_op op = pgs__op_get(pair->key, 0);
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(v->contents->backend, &txn, &op, 1, pgs__verify_deadline(v), v->err);
	const pgs_kv_pair *now = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	*current = now && now->mod_revision == pair->mod_revision;
	pgs__kv_release(v->contents->backend, &txn, 1);
	return result;
}

/* --- a batch ---------------------------------------------------------------------- */

/* The content a pointer needs from elsewhere, or NULL. */
static const pgs__page_id *needed(const pgs__pointer *p)
{
	if (p->kind == PGS__POINTER_FULL)
		return &p->id;
	return p->kind == PGS__POINTER_DELTA && p->has_base ? &p->base : NULL;
}

static int check_delta(pgs__verify *v, const pgs__verify_pointer *p, uint8_t *page)
{
	pgs_error e = PGS_ERROR_INIT;
	if (pgs__delta_apply(v->bench, p->pointer.delta, page, page) == PGS_OK) {
		pgs__page_id id = pgs__page_id_of(v->contents->secret, p->page_no, page, v->contents->page_size);
		if (pgs__page_id_equal(&id, &p->pointer.id))
			return PGS_OK;
	}
	pgs__error_page(&e, PGS_ECORRUPT, p->page_no,
			"page %llu: the delta in its pointer of revision %llu does not give the page it names",
			(unsigned long long)p->page_no, (unsigned long long)p->revision);
	return page_finding(v, p, hint_pointer, e.message);
}

/* Whether any retained revision shows that pointer. One below a younger pack, or a pack's below a younger key, shows
 * nowhere from then on, and its content may have been dropped. Errors: of reading, which tell nothing of it;
 * damage and what is missing count as visible. */
static int is_visible(pgs__verify *v, const pgs__verify_pointer *p, bool *is)
{
	pgs_error e = PGS_ERROR_INIT;
	pgs__resolved now = {0};
	int result = PGS_EOLDREV;
	for (int i = 0; result == PGS_EOLDREV && i < ATTEMPTS; i++) { /* the floor may rise meanwhile */
		uint64_t at;
		pgs__arena arena = {0};
		pgs__snapshot s = {0};
		result = pgs__oldest_readable(v->db, &at, pgs__verify_deadline(v), &e);
		if (result == PGS_OK)
			result = pgs__snapshot_open(&s, v->db, p->revision > at ? p->revision : at,
						    pgs__verify_deadline(v), &e);
		if (result == PGS_OK)
			result = pgs__pointers_read(&s, &p->page_no, 1, &now, &arena, pgs__verify_deadline(v), &e);
		pgs__arena_free(&arena);
		pgs__snapshot_close(&s);
	}
	if (result == PGS_OK)
		*is = now.ref.kind == p->pointer.kind && pgs__page_id_equal(&now.ref.id, &p->pointer.id) &&
		      now.ref.has_base == p->pointer.has_base &&
		      (!now.ref.has_base || pgs__page_id_equal(&now.ref.base, &p->pointer.base));
	else
		*is = result != PGS_EOLDREV; /* collected meanwhile; else a damaged pack, perhaps */
	if (result == PGS_OK || result == PGS_EOLDREV || result == PGS_ECORRUPT || result == PGS_ENOTFOUND)
		return PGS_OK;
	*v->err = e;
	return result;
}

/* Whether what a pointer names must be there. */
static int is_needed(pgs__verify *v, const pgs__verify_pointer *p, bool *is)
{
	if (v->snapshot)
		return pgs__verify_is_current(v, v->snapshot->pair, is); /* dropped, it needs nothing */
	return is_visible(v, p, is);
}

/* Fetch one content, for its own message. Errors: those that end the verification; want->status has the others. */
static int fetch_alone(pgs__verify *v, pgs__want *want, pgs_error *why)
{
	int code = pgs__contents_fetch_stored(v->contents, want, 1, pgs__verify_deadline(v), why);
	if (code == PGS_OK || code == PGS_ENOTFOUND || code == PGS_ECORRUPT)
		return PGS_OK;
	*v->err = *why;
	return code;
}

/* A content could not be had. */
static int report_missing(pgs__verify *v, const pgs__verify_pointer *p, pgs__want *want)
{
	pgs_error e = PGS_ERROR_INIT;
	bool is = true;
	int result = fetch_alone(v, want, &e);
	if (result == PGS_OK && want->status == PGS_ENOTFOUND) {
		result = is_needed(v, p, &is);
		if (result == PGS_OK && is) /* perhaps again, having been collected and written anew: then it is there */
			result = fetch_alone(v, want, &e);
	}
	if (result != PGS_OK || want->status == PGS_OK)
		return result;
	if (is)
		return page_finding(v, p, hint_content, e.message);
	pgs__map_remove(&v->checked, p->hash); /* elsewhere the same pointer may be visible */
	return PGS_OK;
}

static int fetch_batch(pgs__verify *v, pgs__want *wants, size_t count)
{
	pgs_error e = PGS_ERROR_INIT;
	int result = pgs__contents_fetch_stored(v->contents, wants, count, pgs__verify_deadline(v), &e);
	if (result == PGS_OK || result == PGS_ENOTFOUND || result == PGS_ECORRUPT)
		return PGS_OK; /* the statuses tell */
	*v->err = e;
	return result;
}

static int check_one(pgs__verify *v, const pgs__verify_pointer *p, pgs__want *want)
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
		result = check_delta(v, p, page);
	v->report->contents_checked++;
	v->report->bytes_checked += v->contents->page_size;
	return result;
}

int pgs__verify_flush(pgs__verify *v)
{
	pgs__want wants[BATCH], fetched[BATCH];
	size_t index[BATCH], count = 0;
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
		result = check_one(v, &v->batch[i], &wants[i]);
	pgs__arena_free(&v->arena);
	v->count = 0;
	return result;
}

/* --- pointers ------------------------------------------------------------------------ */

/* Remember a (page, content, delta or not); true if it is new. */
static int remember(pgs__verify *v, uint64_t page_no, const pgs__pointer *p, uint64_t *hash, bool *is_new)
{
	struct {
		uint64_t page_no, kind, delta;
		pgs__page_id id, base;
	} name = {page_no, (uint64_t)p->kind, 0, p->id, p->base};
	bool existed;
	/* One content may be stored as several deltas, of which one is damaged. */
	if (p->delta.size)
		name.delta = pgs__check64(p->delta.data, p->delta.size);
	*hash = pgs__check64(&name, sizeof name) >> 1;
	if (pgs__map_set(&v->checked, *hash, 1, &existed) != PGS_OK)
		return pgs__error_nomem(v->err, "verification");
	*is_new = !existed;
	return PGS_OK;
}

int pgs__verify_add_pointer(pgs__verify *v, uint64_t page_no, uint64_t revision, pgs_slice value)
{
	pgs__verify_pointer p = {.page_no = page_no, .revision = revision};
	v->report->pointers_checked++;
	if (pgs__pointer_decode(value, pgs__page_group(page_no, v->contents->page_size), &p.pointer) != PGS_OK) {
		pgs_error e = PGS_ERROR_INIT;
		pgs__error(&e, PGS_ECORRUPT, "page %llu: its pointer of revision %llu is damaged",
			   (unsigned long long)page_no, (unsigned long long)revision);
		return page_finding(v, &p, hint_pointer, e.message);
	}
	bool is_new = false;
	int result = pgs__verify_progress(v);
	if (result == PGS_OK && p.pointer.kind != PGS__POINTER_ZERO)
		result = remember(v, page_no, &p.pointer, &p.hash, &is_new);
	if (result != PGS_OK || !is_new)
		return result;
	if (pgs__arena_copy(&v->arena, p.pointer.delta, &p.pointer.delta) != PGS_OK)
		return pgs__error_nomem(v->err, "verification");
	v->batch[v->count++] = p;
	return v->count == BATCH ? pgs__verify_flush(v) : PGS_OK;
}

static int add_pair(pgs__verify *v, const pgs_kv_pair *pair)
{
	uint64_t page_no;
	if (!pgs__key_parse_page(pair->key, &page_no))
		return pgs__verify_finding(v, PGS_ECORRUPT, pair->mod_revision, hint_key, "a page's key is malformed");
	return pgs__verify_add_pointer(v, page_no, pair->mod_revision, pair->value);
}

/* --- copies of contents ------------------------------------------------------------------- */

int pgs__verify_bad_copy(pgs__verify *v, const pgs__page_id *id, uint64_t revision, const char *why)
{
	pgs__want want = {
		.page_no = pgs__page_id_group(id) * pgs__pages_per_group(v->contents->page_size),
		.id = *id,
		.page = v->pages,
	};
	int result = pgs__contents_fetch_stored(v->contents, &want, 1, pgs__verify_deadline(v), v->err);
	if (result != PGS_OK && result != PGS_ENOTFOUND && result != PGS_ECORRUPT)
		return result;
	return pgs__verify_finding(v, PGS_ECORRUPT, revision, result == PGS_OK ? hint_mend : hint_content, "%s", why);
}

int pgs__verify_copy(pgs__verify *v, const pgs__page_id *id, pgs_slice stored, uint64_t revision, const char *place)
{
	uint64_t per_group = pgs__pages_per_group(v->contents->page_size), first = pgs__page_id_group(id) * per_group;
	const pgs__want want = {.page_no = first, .id = *id, .page = v->bench->page};
	char why[PGS_ERROR_MESSAGE_SIZE];
	v->report->copies_checked++;
	v->report->bytes_checked += stored.size;
	int result = pgs__verify_progress(v);
	if (result != PGS_OK)
		return result;
	if (pgs__content_open(v->contents, v->bench, stored, &want, place, NULL) == PGS_OK)
		return PGS_OK;
	snprintf(why, sizeof why, "%s: the content, of a page from %llu to %llu, is damaged", place,
		 (unsigned long long)first, (unsigned long long)(first + per_group - 1));
	return pgs__verify_bad_copy(v, id, revision, why);
}

/* --- history ----------------------------------------------------------------------------------
 *
 * A watch whose range is quiet may not tell that it has come as far as some revision (etcd's does every ten minutes). So
 * the range has the key `t` in it: what comes up to the last commit has come when that has. Behind it there is only what
 * folding packs put: where the watch does not tell of that, it is listed. */

static int add_pack(pgs__verify *v, const pgs_kv_pair *pair)
{
	v->has_packs = true;
	return pgs__verify_pack(v, pair);
}

static int take_event(pgs__verify *v, const pgs_kv_event *event)
{
	pgs_slice tail;
	bool pack = pgs__key_tail(event->pair.key, 'o', &tail);
	if (event->deleted || event->pair.mod_revision > v->report->to_revision ||
	    (!pack && !pgs__key_tail(event->pair.key, 'p', &tail)))
		return PGS_OK;
	v->total++;
	return pack ? add_pack(v, &event->pair) : add_pair(v, &event->pair);
}

static int add_folded(pgs__verify *v, const pgs_kv_pair *pair)
{
	return pair->mod_revision > v->last_commit ? add_pair(v, pair) : PGS_OK;
}

/* *reached: the revision up to which everything came. */
static int follow(pgs__verify *v, pgs_kv_watch *watch, uint64_t *reached)
{
	const pgs_kv_vtable *kv = v->contents->backend->kv->vtable;
	uint64_t deadline = pgs__verify_deadline(v);
	pgs_kv_events events = {0};
	int result = PGS_OK;
	while (result == PGS_OK && *reached < v->report->to_revision) {
		result = kv->watch_next(watch, WATCH_MS, &events, v->err);
		for (size_t i = 0; result == PGS_OK && i < events.count; i++)
			result = take_event(v, &events.events[i]);
		if (events.revision > *reached) {
			*reached = events.revision;
			deadline = pgs__verify_deadline(v);
		} else if (result == PGS_OK && *reached >= v->last_commit) {
			break;
		} else if (result == PGS_OK && pgs__deadline_passed(deadline)) {
			result = pgs__error(v->err, PGS_ETIMEOUT, "the KV's history did not come");
		}
	}
	return result;
}

static int watch_rest(pgs__verify *v, uint64_t after)
{
	pgs_kv *kv = v->contents->backend->kv;
	pgs__key from = pgs__key_kind(pgs__db_prefix(v->db), 'o'), end = pgs__key_kind_end(pgs__db_prefix(v->db), 't');
	pgs_kv_watch *watch;
	uint64_t reached = after;
	if (after >= v->report->to_revision)
		return PGS_OK;
	int result = kv->vtable->watch_open(kv, pgs__key_slice(&from), pgs__key_slice(&end), after + 1, &watch, v->err);
	if (result != PGS_OK)
		return result;
	result = follow(v, watch, &reached);
	kv->vtable->watch_close(watch);
	if (result == PGS_OK && reached < v->report->to_revision && v->has_packs)
		result = pgs__verify_list(v, 'p', v->report->to_revision, LIST_PAGE, add_folded);
	return result;
}

/* --- all together ---------------------------------------------------------------------------------- */

enum { GET_M, GET_T, GET_G, GET_E, GET_COUNT };

static int single_finding(pgs__verify *v, const pgs_kv_pair *pair, int code, char which, const char *what)
{
	return pgs__verify_finding(v, code, pair ? pair->mod_revision : 0, hint_meta, "%s (key %c) is %s", what, which,
				   pair ? "damaged or of a newer version" : "missing");
}

static int check_number(pgs__verify *v, const pgs_kv_pair *pair, char which, const char *what)
{
	uint64_t number;
	int code = pair ? pgs__number_decode(pair->value, &number) : PGS_ECORRUPT;
	return code == PGS_OK ? PGS_OK : single_finding(v, pair, code, which, what);
}

/* The keys there is one of. */
static int check_singles(pgs__verify *v, const pgs_kv_txn *txn)
{
	const pgs_kv_pair *m = pgs__got(txn, GET_M), *g = pgs__got(txn, GET_G);
	pgs__floor floor;
	pgs__meta meta;
	int code = pgs__meta_decode(m->value, &meta), result = PGS_OK;
	if (code != PGS_OK)
		result = single_finding(v, m, code, 'm', "the metadata");
	if (result == PGS_OK)
		result = check_number(v, pgs__got(txn, GET_T), 't', "the last commit's counter");
	if (result == PGS_OK)
		result = check_number(v, pgs__got(txn, GET_E), 'e', "the page count");
	code = g ? pgs__floor_decode(g->value, &floor) : PGS_ECORRUPT;
	if (result == PGS_OK && code != PGS_OK)
		result = single_finding(v, g, code, 'g', "the floor");
	return result;
}

/* 0 when it cannot be told. */
static uint64_t floor_of(const pgs_kv_txn *txn)
{
	const pgs_kv_pair *g = pgs__got(txn, GET_G);
	pgs__floor floor;
	return g && pgs__floor_decode(g->value, &floor) == PGS_OK ? floor.floor : 0;
}

/* The revisions there are: from the floor, the KV's oldest, or the database's creation, whichever is last; to now. */
static int find_range(pgs__verify *v, bool check)
{
	const pgs__backend *backend = v->contents->backend;
	const char which[GET_COUNT] = {'m', 't', 'g', 'e'};
	pgs__key keys[GET_COUNT];
	pgs_kv_op ops[GET_COUNT];
	pgs_kv_stat stat;
	pgs_kv_txn txn;
	uint64_t oldest = 0, floor = 0;
	for (int i = 0; i < GET_COUNT; i++) {
		keys[i] = pgs__key_single(pgs__db_prefix(v->db), which[i]);
		ops[i] = pgs__op_get(pgs__key_slice(&keys[i]), 0);
	}
	int result = backend->kv->vtable->stat(backend->kv, &stat, pgs__verify_deadline(v), v->err);
	if (result != PGS_OK)
		return result;
	result = pgs__kv_read(backend, &txn, ops, GET_COUNT, pgs__verify_deadline(v), v->err);
	if (result == PGS_OK && !pgs__got(&txn, GET_M))
		result = pgs__error(v->err, PGS_ENOTFOUND, "database %s was dropped", v->db->name);
	if (result == PGS_OK) {
		uint64_t page_count;
		const pgs_kv_pair *t = pgs__got(&txn, GET_T), *e = pgs__got(&txn, GET_E);
		if (t && e && pgs__number_decode(e->value, &page_count) == PGS_OK)
			pgs__db_note_space(v->db, page_count, t->version);
		if (check)
			result = check_singles(v, &txn);
		floor = floor_of(&txn);
		oldest = pgs__got(&txn, GET_M)->create_revision;
		oldest = floor > oldest ? floor : oldest;
		v->report->from_revision = stat.compacted_revision > oldest ? stat.compacted_revision : oldest;
		v->report->to_revision = txn.revision;
		v->last_commit = pgs__got(&txn, GET_T) ? pgs__got(&txn, GET_T)->mod_revision : 0;
	}
	pgs__kv_release(backend, &txn, 1);
	return result;
}

static int walk_history(pgs__verify *v)
{
	uint64_t oldest = v->report->from_revision;
	int result = pgs__verify_list(v, 'p', oldest, LIST_PAGE, add_pair);
	if (result == PGS_OK)
		result = pgs__verify_list(v, 'o', oldest, 1, add_pack);
	if (result == PGS_OK)
		result = watch_rest(v, oldest);
	return result == PGS_OK ? pgs__verify_flush(v) : result;
}

static int verify_history(pgs__verify *v)
{
	int result = find_range(v, true);
	if (result == PGS_OK)
		result = walk_history(v);
	for (int i = 1; result == PGS_EOLDREV && i < ATTEMPTS; i++) {
		result = pgs__verify_flush(v); /* what is known is not read again */
		if (result == PGS_OK)
			result = find_range(v, false);
		if (result == PGS_OK)
			result = walk_history(v);
	}
	return result;
}

static int run(pgs__verify *v)
{
	static int (*const parts[])(pgs__verify *) = {verify_history, pgs__verify_attrs, pgs__verify_changes,
						      pgs__verify_levels};
	/* Contents move from c/ to files: looked at in that order, none is missed. */
	static int (*const deep_parts[])(pgs__verify *) = {pgs__verify_snapshots, pgs__verify_contents};
	static int (*const last_parts[])(pgs__verify *) = {pgs__verify_locks, pgs__verify_blobs};
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < sizeof parts / sizeof *parts; i++)
		result = parts[i](v);
	for (size_t i = 0; v->options->deep && result == PGS_OK && i < sizeof deep_parts / sizeof *deep_parts; i++)
		result = deep_parts[i](v);
	if (result == PGS_OK)
		result = pgs__verify_files(v);
	for (size_t i = 0; v->options->deep && result == PGS_OK && i < sizeof last_parts / sizeof *last_parts; i++)
		result = last_parts[i](v);
	return result;
}

int pgs_verify(pgs_db *db, const pgs_verify_options *options, pgs_verify_report *report, pgs_error *err)
{
	const pgs_verify_options defaults = PGS_VERIFY_OPTIONS_INIT;
	pgs_verify_report local = PGS_VERIFY_REPORT_INIT;
	pgs_error why = PGS_ERROR_INIT;
	if ((options && options->struct_size != sizeof *options) || (report && report->struct_size != sizeof *report))
		return pgs__error(err, PGS_EINVAL, "pgs_verify: struct_size is not set; use the PGS_VERIFY_…_INIT");
	report = report ? report : &local;
	*report = local;
	pgs__verify *v = pgs__calloc(1, sizeof *v);
	if (!v)
		return pgs__error_nomem(err, "verification");
	v->db = db;
	v->contents = &db->contents;
	v->options = options ? options : &defaults;
	v->report = report;
	v->err = &why;
	v->pages = pgs__malloc((size_t)BATCH * db->contents.page_size);
	v->bench = pgs__workbench_take(&v->contents->benches);
	int result = v->pages && v->bench ? run(v) : pgs__error_nomem(&why, "verification");
	if (result == PGS_OK && v->report->findings)
		result = pgs__error(&why, PGS_ECORRUPT, "database %s: %llu findings", db->name,
				    (unsigned long long)v->report->findings);
	if (result != PGS_OK && err && why.code == result) /* a callback may have filled it */
		*err = why;
	pgs__workbench_give(&v->contents->benches, v->bench);
	pgs__map_free(&v->checked);
	pgs__map_free(&v->said);
	pgs__arena_free(&v->arena);
	pgs__free(v->pages);
	pgs__free(v);
	return result;
}
