/* Reading pointers at a snapshot.
 *
 *     rising pages ── the machine's mirror, if there is a cache file ── what it has at the snapshot's revision ──┐
 *                  └─ runs ── p/ keys and ranges, many to a transaction ───────────────────── decoded, by age ←┘
 *                                                                       └─ packs younger than that
 *
 * The youngest of `p/<n>` and the packs that mention page n is its pointer (invariant 10); if none does, the page is
 * absent and reads as zeros.
 *
 * This is for pages that are asked for, and fills the cache; scan.c walks ranges, and leaves the cache alone.
 */
#include "txn/snapshot.h"

#include "local_cache/mirror.h"
#include "txn/named.h"
#include "util/error.h"

#include "util/alloc.h"

#define RUN_GAP 4        /* keys read for nothing rather than one more operation */
#define RUN_MAX 512      /* keys under one range read */
#define OPS_MAX 100      /* reads in one transaction */
#define KEYS_MAX 2000    /* keys in one transaction's answer */

typedef struct reading {
	const pgs__snapshot *snapshot;
	const uint64_t *pages;
	pgs__resolved *out;
	pgs__arena *arena;
	uint64_t deadline_ms;
	pgs_error *err;
} reading;

/* Pages [first, end) of the list are read by one operation. */
typedef struct run {
	size_t first, end;
} run;

pgs__page_ref pgs__page_ref_of(const pgs__pointer *pointer)
{
	return (pgs__page_ref){
		.kind = (uint8_t)pointer->kind,
		.has_base = pointer->has_base,
		.spent = pointer->has_base ? pointer->spent + (uint32_t)pointer->delta.size : 0,
		.id = pointer->id,
		.base = pointer->base,
	};
}

static int take_pair(reading *r, size_t index, const pgs_kv_pair *pair)
{
	uint64_t page_no = r->pages[index];
	uint32_t page_size = r->snapshot->db->contents.page_size;
	pgs__resolved *out = &r->out[index];
	pgs__pointer pointer;
	if (pgs__pointer_decode(pair->value, pgs__page_group(page_no, page_size), &pointer) != PGS_OK)
		return pgs__error_page(r->err, PGS_ECORRUPT, page_no,
				       "page %llu: its pointer (revision %llu) in the KV is damaged",
				       (unsigned long long)page_no, (unsigned long long)pair->mod_revision);
	out->ref = pgs__page_ref_of(&pointer);
	out->ref.key_revision = pair->mod_revision;
	out->ref.from = pointer.folded_revision ? pointer.folded_revision : pair->mod_revision;
	if (pgs__arena_copy(r->arena, pointer.delta, &out->delta) != PGS_OK)
		return pgs__error_nomem(r->err, "pointers");
	return PGS_OK;
}

/* Match the pairs of one operation, which rise, with the pages of its run, which rise too. */
static int take_run(reading *r, run of, const pgs_kv_result *result)
{
	size_t index = of.first;
	for (size_t i = 0; i < result->count; i++) {
		uint64_t page_no;
		if (!pgs__key_parse_page(result->pairs[i].key, &page_no))
			return pgs__error(r->err, PGS_ECORRUPT, "a page's key is malformed");
		while (index < of.end && r->pages[index] < page_no)
			index++;
		if (index == of.end)
			break;
		if (r->pages[index] != page_no)
			continue;
		int status = take_pair(r, index, &result->pairs[i]);
		if (status != PGS_OK)
			return status;
	}
	return PGS_OK;
}

static int read_runs(reading *r, const run *runs, size_t count)
{
	const pgs_db *db = r->snapshot->db;
	pgs__key first[OPS_MAX], end[OPS_MAX];
	pgs_kv_op ops[OPS_MAX];
	pgs_kv_txn txn;
	ops[0].kind = PGS_KV_RANGE; /* count is at least 1, which compilers do not know */
	for (size_t i = 0; i < count; i++) {
		first[i] = pgs__key_page(pgs__db_prefix(db), r->pages[runs[i].first]);
		end[i] = pgs__key_page(pgs__db_prefix(db), r->pages[runs[i].end - 1] + 1);
		pgs_slice range_end = runs[i].end - runs[i].first > 1 ? pgs__key_slice(&end[i]) : (pgs_slice){0};
		ops[i] = pgs__op_range(pgs__key_slice(&first[i]), range_end, r->snapshot->kv_revision);
	}
	int result = pgs__kv_read(pgs__db_backend(db), &txn, ops, count, r->deadline_ms, r->err);
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		result = take_run(r, runs[i], &txn.results[i]);
	pgs__kv_release(pgs__db_backend(db), &txn, 1);
	return result;
}

/* The longest run from `first` on that one operation should read. */
static run next_run(const uint64_t *pages, size_t first, size_t count)
{
	run r = {first, first + 1};
	while (r.end < count && pages[r.end] - pages[r.end - 1] <= RUN_GAP && pages[r.end] - pages[first] < RUN_MAX)
		r.end++;
	return r;
}

static int read_keys(reading *r, size_t count)
{
	run runs[OPS_MAX];
	size_t used = 0, keys = 0, room = pgs__max_ops(pgs__db_backend(r->snapshot->db));
	room = room < OPS_MAX ? room : OPS_MAX;
	for (size_t i = 0; i < count;) {
		run next = next_run(r->pages, i, count);
		i = next.end;
		keys += (size_t)(r->pages[next.end - 1] - r->pages[next.first]) + 1;
		runs[used++] = next;
		if (used == room || keys >= KEYS_MAX || i == count) {
			int result = read_runs(r, runs, used);
			if (result != PGS_OK)
				return result;
			used = keys = 0;
		}
	}
	return PGS_OK;
}

/* --- the machine's mirror ------------------------------------------------------ */

#define MIRROR_KEYS 32 /* looked up at once */

typedef struct mirrored {
	reading *r;
	size_t first;    /* page of the first key */
	size_t *unknown; /* places in the list of pages */
	size_t unknown_count;
} mirrored;

static void take_mirrored(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	mirrored *m = ctx;
	bool known = answer == PGS__MIRROR_ABSENT ||
		     (answer == PGS__MIRROR_PRESENT && take_pair(m->r, m->first + index, pair) == PGS_OK);
	if (!known)
		m->unknown[m->unknown_count++] = m->first + index;
}

static void ask_mirror(mirrored *m, uint64_t at, size_t count)
{
	const pgs_db *db = m->r->snapshot->db;
	pgs__key keys[MIRROR_KEYS];
	pgs_slice slices[MIRROR_KEYS];
	for (m->first = 0; m->first < count; m->first += MIRROR_KEYS) {
		size_t n = count - m->first < MIRROR_KEYS ? count - m->first : MIRROR_KEYS;
		size_t unknown_before = m->unknown_count;
		for (size_t i = 0; i < n; i++) {
			keys[i] = pgs__key_page(pgs__db_prefix(db), m->r->pages[m->first + i]);
			slices[i] = pgs__key_slice(&keys[i]);
		}
		if (pgs__mirror_get(db->contents.disk, at, slices, n, take_mirrored, m, NULL, NULL) == PGS_OK)
			continue;
		m->unknown_count = unknown_before;
		for (size_t i = 0; i < n; i++)
			m->unknown[m->unknown_count++] = m->first + i;
	}
}

/* What the mirror does not tell. */
static int read_unknown(reading *r, const mirrored *m)
{
	size_t count = m->unknown_count;
	uint64_t *pages = pgs__arena_calloc(r->arena, count, sizeof *pages);
	pgs__resolved *out = pgs__arena_calloc(r->arena, count, sizeof *out);
	if (!pages || !out)
		return pgs__error_nomem(r->err, "pointers");
	for (size_t i = 0; i < count; i++) {
		pages[i] = r->pages[m->unknown[i]];
		out[i] = r->out[m->unknown[i]];
	}
	reading rest = {r->snapshot, pages, out, r->arena, r->deadline_ms, r->err};
	int result = read_keys(&rest, count);
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		r->out[m->unknown[i]] = out[i];
	return result;
}

static int read_mirror_and_keys(reading *r, size_t count)
{
	uint64_t at = pgs__snapshot_mirror_revision(r->snapshot);
	if (!at)
		return read_keys(r, count);
	mirrored m = {.r = r, .unknown = pgs__arena_calloc(r->arena, count, sizeof *m.unknown)};
	if (!m.unknown)
		return pgs__error_nomem(r->err, "pointers");
	ask_mirror(&m, at, count);
	return m.unknown_count ? read_unknown(r, &m) : PGS_OK;
}

/* --- packs ------------------------------------------------------------------ */

static int take_pack_answer(reading *r, size_t index, const pgs__pack_answer *answer)
{
	uint64_t page_no = r->pages[index];
	uint32_t page_size = r->snapshot->db->contents.page_size;
	pgs__resolved *out = &r->out[index];
	pgs__pointer pointer = {.kind = PGS__POINTER_ABSENT};
	if (!answer->absent &&
	    pgs__pointer_decode((pgs_slice){answer->pointer, answer->pointer_size}, pgs__page_group(page_no, page_size),
				&pointer) != PGS_OK)
		return pgs__error_page(r->err, PGS_ECORRUPT, page_no,
				       "page %llu: its pointer in the pack of revision %llu is damaged",
				       (unsigned long long)page_no, (unsigned long long)answer->revision);
	uint64_t key_revision = out->ref.key_revision;
	out->ref = pgs__page_ref_of(&pointer);
	out->ref.key_revision = key_revision;
	out->ref.from = answer->revision;
	if (pgs__arena_copy(r->arena, pointer.delta, &out->delta) != PGS_OK)
		return pgs__error_nomem(r->err, "pointers");
	return PGS_OK;
}

static int overlay_packs(reading *r, size_t count)
{
	pgs__pack_finder *finder;
	int result = pgs__pack_finder_new(&finder, r->snapshot->packs, pgs__db_backend(r->snapshot->db),
					  r->deadline_ms, r->err);
	if (result == PGS_OK)
		pgs__pack_expect(finder, r->pages, count);
	for (size_t i = 0; result == PGS_OK && i < count; i++) {
		pgs__pack_answer answer;
		uint64_t age = r->out[i].ref.kind == PGS__POINTER_ABSENT ? 0 : r->out[i].ref.from;
		result = pgs__pack_find(finder, r->pages[i], age, &answer);
		if (result == PGS_OK && answer.found)
			result = take_pack_answer(r, i, &answer);
	}
	pgs__pack_finder_free(finder);
	return result == PGS_ENOTFOUND ? pgs__explain_missing(r->snapshot, r->deadline_ms, r->err) : result;
}

int pgs__pointers_read(const pgs__snapshot *snapshot, const uint64_t *pages, size_t count, pgs__resolved *out,
		       pgs__arena *arena, uint64_t deadline_ms, pgs_error *err)
{
	reading r = {snapshot, pages, out, arena, deadline_ms, err};
	/* What no key or pack mentions is absent now; since when is not known. */
	for (size_t i = 0; i < count; i++)
		out[i] = (pgs__resolved){.ref = {.kind = PGS__POINTER_ABSENT, .from = snapshot->cache_revision}};
	int result = snapshot->named ? pgs__named_read(snapshot, pages, count, out, arena, deadline_ms, err)
				     : read_mirror_and_keys(&r, count);
	if (result == PGS_OK && !snapshot->named && pgs__pack_view_count(snapshot->packs) > 0)
		result = overlay_packs(&r, count);
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		pgs__cache_put_ref(snapshot->db->contents.cache, pages[i], &out[i].ref, snapshot->cache_revision);
	return result == PGS_EOLDREV && !snapshot->named ? pgs__explain_old(snapshot, deadline_ms, err) : result;
}
