/* Applying one revision: a commit, the step of a fold, or something that concerns no snapshot.
 *
 * A commit puts t. What it changed its changelog entry says, in the same revision; the p/ keys that come with it say to
 * what. Everything is decoded, and fetched, before the cache is touched: from then on nothing can fail (F2). A fold puts
 * p/ keys without t: no page changes, and the cache is left alone.
 */
#include "follow/follower.h"

#include <string.h>

#include "txn/changes.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define KIND_AT (PGS__PREFIX_SIZE + 1)

typedef struct found {
	const pgs_kv_pair *t, *z, *e, *g, *x; /* put in this revision, or NULL */
	bool packed;                      /* a pack was put */
	size_t files;                     /* l/ keys that were put or deleted */
	bool dropped;
} found;

static char kind_of(pgs_slice key)
{
	return (char)(key.size > KIND_AT ? ((const char *)key.data)[KIND_AT] : 0);
}

static void look(const pgs_kv_event *event, found *out)
{
	const pgs_kv_pair *pair = &event->pair;
	char kind = kind_of(pair->key);
	bool single = pair->key.size == KIND_AT + 1;
	out->files += kind == 'l';
	if (event->deleted) {
		out->dropped |= single && kind == 'm';
		return;
	}
	if (single && kind == 't')
		out->t = pair;
	else if (single && kind == 'z')
		out->z = pair;
	else if (single && kind == 'e')
		out->e = pair;
	else if (single && kind == 'g')
		out->g = pair;
	else if (kind == 'x')
		out->x = pair;
	else if (kind == 'o')
		out->packed = true;
}

/* The database after these events. */
static int next_state(const pgs__follower *f, const found *in, pgs__snapshot *next, pgs_error *err)
{
	const char *bad = NULL;
	pgs__floor floor;
	*next = f->at;
	next->changes = 0;
	if (in->t) {
		next->commit_revision = next->cache_revision = in->t->mod_revision;
		next->commit_count = in->t->version;
		if (pgs__number_decode(in->t->value, &next->counter) != PGS_OK)
			bad = "t, last write";
	}
	if (in->e) {
		next->extent_revision = in->e->mod_revision;
		if (pgs__number_decode(in->e->value, &next->extent) != PGS_OK)
			bad = "e, extent";
	}
	if (in->g && pgs__floor_decode(in->g->value, &floor) == PGS_OK)
		next->floor = floor.floor;
	if (in->z && !PGS__BUG(FOLLOW_KEEPS_PACKS))
		next->epoch = in->z->mod_revision;
	if (bad)
		return pgs__error(err, PGS_ECORRUPT, "database %s: the value of key %s is damaged", f->db->name, bad);
	return PGS_OK;
}

/* --- pages ------------------------------------------------------------------------------ */

static void fetch_later(pgs__follower *f, uint64_t page_no, uint64_t revision, const pgs__pointer *pointer, bool in_kv)
{
	pgs__fetch_page page = {.page_no = page_no, .revision = revision, .recent = in_kv};
	page.known = pointer && pointer->kind == PGS__POINTER_FULL;
	if (page.known)
		page.id = pointer->id;
	pgs__fetch_page_later(&f->fetch, pointer ? PGS_FETCH_QUEUE_COMMITS : PGS_FETCH_QUEUE_HOT, &page);
}

/* The page that a delta gives, in bench->page, if its base is at hand and the result is what the pointer names. */
static bool apply_delta(pgs__contents *contents, pgs__workbench *bench, uint64_t page_no, const pgs__pointer *pointer)
{
	const void *base = pointer->has_base ? pgs__cache_borrow(contents->cache, page_no, &pointer->base)
					     : pgs__zero_page();
	if (!base)
		return false;
	bool applied = pgs__delta_apply(bench, pointer->delta, base, bench->page) == PGS_OK;
	pgs__cache_unpin(contents->cache, base);
	if (!applied)
		return false;
	pgs__page_id id = pgs__page_id_of(contents->secret, page_no, bench->page, contents->page_size);
	return pgs__page_id_equal(&id, &pointer->id);
}

/* A page was changed to what this pair says: the cache follows, as far as it can without asking anybody. */
static void take_pointer(pgs__follower *f, pgs__workbench *bench, const pgs_kv_pair *pair, bool in_kv)
{
	pgs__contents *contents = &f->db->contents;
	uint64_t page_no;
	pgs__pointer pointer;
	if (!pgs__key_parse_page(pair->key, &page_no) || !pgs__fetch_wants(&f->fetch, page_no) ||
	    pgs__pointer_decode(pair->value, pgs__page_group(page_no, contents->page_size), &pointer) != PGS_OK)
		return; /* the page is frozen: who reads it meets the damage */
	pgs__page_ref ref = pgs__page_ref_of(&pointer);
	ref.key_revision = ref.from = pair->mod_revision;
	bool page = pointer.kind == PGS__POINTER_DELTA && bench && apply_delta(contents, bench, page_no, &pointer);
	if (page || pointer.kind != PGS__POINTER_DELTA)
		pgs__cache_replace(contents->cache, page_no, &ref, page ? bench->page : NULL);
	if (page || pointer.kind == PGS__POINTER_ZERO)
		f->done.pages_kept++;
	else
		fetch_later(f, page_no, pair->mod_revision, &pointer, in_kv);
}

/* --- a commit ------------------------------------------------------------------------------- */

typedef struct commit {
	const pgs__revision_events *events;
	const found *found;
	pgs__change change;
	pgs_slice runs;
	uint8_t *file; /* that the runs are in, or NULL */
} commit;

/* A run of pages that a pack changed, whose pointers did not come with the event. */
static void fetch_run(pgs__follower *f, const pgs__page_run *run, uint64_t revision)
{
	if (run->count > PGS__FETCH_PAGES_MAX)
		pgs__fetch_again(&f->fetch, run->first, revision);
	for (uint64_t i = 0; i < run->count && run->count <= PGS__FETCH_PAGES_MAX; i++)
		if (pgs__fetch_wants(&f->fetch, run->first + i))
			fetch_later(f, run->first + i, revision, NULL, false);
}

/* Its pages are not what they were. */
static int freeze(pgs__follower *f, const commit *c)
{
	pgs__cache *cache = f->db->contents.cache;
	uint64_t revision = c->events->revision;
	pgs__runs_reader reader;
	pgs__page_run run;
	if (c->change.truncated && !PGS__BUG(FOLLOW_MISSES_TRUNCATION))
		pgs__cache_freeze(cache, c->change.truncated_to, UINT64_MAX - c->change.truncated_to, revision);
	if (c->found->packed && PGS__BUG(FOLLOW_MISSES_PACKS))
		return PGS_OK;
	if (pgs__runs_open(c->runs, &reader) != PGS_OK)
		return PGS_ECORRUPT;
	while (pgs__runs_next(&reader, &run)) {
		if (c->found->packed)
			fetch_run(f, &run, revision);
		pgs__cache_freeze(cache, run.first, run.count, revision);
	}
	return reader.reader.failed ? PGS_ECORRUPT : PGS_OK;
}

static void take_pointers(pgs__follower *f, const pgs__revision_events *r, bool in_kv)
{
	pgs__workbench *bench = NULL;
	bool tried = false;
	for (size_t i = 0; i < r->count; i++) {
		if (r->events[i].deleted || kind_of(r->events[i].pair.key) != 'p')
			continue;
		if (!tried)
			bench = pgs__workbench_take(&f->db->contents.benches);
		tried = true;
		take_pointer(f, bench, &r->events[i].pair, in_kv);
	}
	pgs__workbench_give(&f->db->contents.benches, bench);
}

/* The cache goes on from the commit before. It may be further: this process made the commit, or began after it. */
static void move_cache(pgs__follower *f, const commit *c)
{
	pgs__cache *cache = f->db->contents.cache;
	if (pgs__cache_advance_begin(cache, f->at.commit_revision, c->events->revision)) {
		freeze(f, c); /* the entry was checked when it was decoded */
		take_pointers(f, c->events, !c->found->files);
		pgs__cache_advance_end(cache);
	} else {
		pgs__cache_forget(cache, c->events->revision);
	}
	pgs__tip_catch_up(f->db);
}

static int apply_commit(pgs__follower *f, const pgs__revision_events *r, const found *in, uint64_t deadline_ms,
			pgs_error *err)
{
	commit c = {.events = r, .found = in};
	if (in->t->version != f->at.commit_count + 1 && !PGS__BUG(FOLLOW_SKIPS))
		return PGS__FOLLOW_GAP;
	if (!in->x)
		return pgs__error(err, PGS_ECORRUPT, "database %s: the commit of revision %llu has no changelog entry",
				  f->db->name, (unsigned long long)r->revision);
	int result = pgs__change_open_watched(f->db, in->x, deadline_ms, &c.change, &c.runs, &c.file, err);
	if (result != PGS_OK)
		return result;
	move_cache(f, &c);
	f->done.commits++;
	f->done.pages_changed += c.change.pages_written;
	pgs__free(c.file);
	return PGS_OK;
}

/* --- files ------------------------------------------------------------------------------------ */

static void file_added(void *ctx, pgs__file *file)
{
	pgs__fetcher *fetch = ctx;
	pgs__fetch_file_later(fetch, file);
}

/* Sorted files came or went: readers need not ask for the list, nor for what is read of a file first. Best effort. */
static void take_files(pgs__follower *f, const pgs__revision_events *r, size_t files)
{
	pgs__level_change *changes = files ? pgs__malloc(files * sizeof *changes) : NULL;
	size_t count = 0;
	for (size_t i = 0; changes && i < r->count; i++)
		if (kind_of(r->events[i].pair.key) == 'l')
			changes[count++] = (pgs__level_change){r->events[i].pair.key, r->events[i].pair.value,
							       r->events[i].deleted};
	if (changes)
		pgs__levels_follow(&f->db->contents.levels, pgs__db_prefix(f->db), changes, count, r->revision, file_added,
				   &f->fetch);
	pgs__free(changes);
}

int pgs__follow_apply(pgs__follower *f, const pgs__revision_events *r, uint64_t deadline_ms, pgs_error *err)
{
	found in = {0};
	pgs__snapshot next;
	for (size_t i = 0; i < r->count; i++)
		look(&r->events[i], &in);
	if (in.dropped)
		return pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", f->db->name);
	if (in.t && in.t->mod_revision <= f->at.commit_revision)
		return PGS_OK; /* delivered again */
	int result = next_state(f, &in, &next, err);
	if (result == PGS_OK)
		take_files(f, r, in.files);
	if (result == PGS_OK && in.t)
		result = apply_commit(f, r, &in, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	f->packs_due |= next.epoch != f->at.epoch;
	f->at = next;
	return PGS_OK;
}
