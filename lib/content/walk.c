/* Walks over keys: choosing sub-ranges, and learning from what they held. */
#include "content/walk.h"

#include <string.h>

#include "util/alloc.h"
#include "util/clock.h"
#include "util/cursor.h"
#include "util/error.h"

#define TAIL_AT (PGS__PREFIX_SIZE + 3)    /* behind "<prefix>/<kind>/" */
#define FINEST (PGS__KEY_MAX - 9)
#define ROUNDING ((uint64_t)1 << 48)      /* amounts below have room for a factor of 16 bits */
#define GROWTH 4                          /* of the number of sub-ranges */
#define CONTENT_PARTS 64                  /* of the groups, to begin with */
#define SPACE_PARTS 1024                  /* no sub-range of pages is larger than that part of them */
#define LEVELS_EXPECTED 8
#define FIRST_MS 1000                     /* of the changelog */
#define OUTER_SHARE 8                     /* of a page may come from outside of the dense part, on each side */
#define RANGE_PAGE 500

/* --- keys as numbers --------------------------------------------------------------- */

static uint64_t number_at(const pgs__key *key, size_t at)
{
	uint8_t bytes[8] = {0};
	if (at < key->size)
		memcpy(bytes, key->bytes + at, key->size - at < 8 ? key->size - at : 8);
	return pgs__load_u64be(bytes);
}

static int order(const pgs__key *a, const pgs__key *b)
{
	return pgs__slice_compare(pgs__key_slice(a), pgs__key_slice(b));
}

static void pad(pgs__key *key, size_t size)
{
	if (key->size >= size)
		return;
	memset(key->bytes + key->size, 0, size - key->size);
	key->size = (uint16_t)size;
}

/* The key `by` past this one, or before it. False: that is outside of the keys alike up to `base`. */
static bool move_key(pgs__key *key, pgs__width by, bool down, size_t base)
{
	pad(key, by.at + 8);
	uint64_t before = number_at(key, by.at), after = down ? before - by.amount : before + by.amount;
	bool carry = down ? after > before : after < before;
	pgs__store_u64be(key->bytes + by.at, after);
	for (size_t i = by.at; carry && i > base; i--) {
		uint8_t *byte = &key->bytes[i - 1];
		*byte = (uint8_t)(down ? *byte - 1 : *byte + 1);
		carry = *byte == (down ? UINT8_MAX : 0);
	}
	return !carry;
}

/* From a to b, which comes after it. */
static pgs__width distance(const pgs__walk *w, const pgs__key *a, const pgs__key *b)
{
	size_t at = w->base;
	while (at < w->finest && (at < a->size ? a->bytes[at] : 0) == (at < b->size ? b->bytes[at] : 0))
		at++;
	uint64_t amount = number_at(b, at) - number_at(a, at);
	return (pgs__width){amount ? amount : 1, at};
}

/* width * by / of, each below 2^16, or nearly; 1 at the least. */
static pgs__width scale(const pgs__walk *w, pgs__width width, uint64_t by, uint64_t of)
{
	while (width.amount < ROUNDING >> 8 && width.at < w->finest) {
		width.amount <<= 8;
		width.at++;
	}
	while (width.amount >= ROUNDING && width.at > w->base) {
		width.amount >>= 8;
		width.at--;
	}
	if (width.amount < ROUNDING)
		width.amount = width.amount * by / of;
	else
		width.amount = width.amount / of > UINT64_MAX / by ? UINT64_MAX : width.amount / of * by;
	if (width.amount == 0)
		width.amount = 1;
	if (width.at == w->base && width.amount > w->widest)
		width.amount = w->widest;
	return width;
}

/* --- beginning ----------------------------------------------------------------------- */

void pgs__walk_range(pgs__walk *w, const pgs__key *from, const pgs__key *end, size_t page)
{
	size_t base = 0;
	while (base < from->size && base < end->size && from->bytes[base] == end->bytes[base])
		base++;
	memset(w, 0, sizeof *w);
	w->from = w->dense = *from;
	w->end = w->dense_end = *end;
	w->base = base;
	w->names = true;
	w->finest = FINEST;
	w->page = page;
	w->widest = UINT64_MAX;
	w->width = (pgs__width){UINT64_MAX, base};
	w->probes = 1;
}

static pgs__key key_at_time(const uint8_t *prefix, char kind, int64_t ms)
{
	uint8_t uuid[16] = {0};
	uint64_t time = ms > 0 ? (uint64_t)ms : 0;
	pgs__store_u64be(uuid, time << 16);
	return pgs__key_uuid(prefix, kind, uuid);
}

/* Commits and pins have the time in front (UUID version 7). There are more the later it gets, as maintenance takes the
 * old ones. */
static void expect_times(pgs__walk *w, const uint8_t *prefix, char kind)
{
	w->downward = true;
	w->dense_end = key_at_time(prefix, kind, pgs__unix_ms() + FIRST_MS);
	w->width.amount = (uint64_t)FIRST_MS << 16;
}

static void expect_pages(pgs__walk *w, const uint8_t *prefix, const pgs__key_space *space)
{
	uint64_t part = space->page_count / SPACE_PARTS;
	w->dense_end = pgs__key_page(prefix, space->page_count);
	w->finest = w->base; /* whole pages */
	w->widest = part > PGS__WALK_FEW ? part : PGS__WALK_FEW;
	w->width.amount = space->page_count <= PGS__WALK_FEW || w->page > PGS__WALK_FEW ? PGS__WALK_FEW : w->page;
}

/* Ids begin with the group, in four bytes. */
static void expect_groups(pgs__walk *w, const pgs__key_space *space)
{
	uint64_t per_group = space->group_pages ? space->group_pages : 1, groups = space->page_count / per_group + 1;
	w->page = w->page < PGS__WALK_FEW / 2 ? w->page : PGS__WALK_FEW / 2; /* they come in heaps */
	if (space->page_count <= PGS__WALK_FEW && space->contents <= PGS__WALK_FEW)
		return;
	pgs__width all = {groups << 32, w->base};
	if (groups <= UINT32_MAX)
		w->dense_end = w->from;
	if (groups <= UINT32_MAX && !move_key(&w->dense_end, all, false, w->base))
		w->dense_end = w->end;
	w->width.amount = (groups <= UINT32_MAX ? all.amount : UINT64_MAX) / CONTENT_PARTS;
}

/* Each level by itself: the first byte. */
static void expect_levels(pgs__walk *w)
{
	w->width.amount = (uint64_t)1 << 56;
	w->probes = LEVELS_EXPECTED;
	w->dense_end = w->from;
	w->dense_end.bytes[w->dense_end.size++] = LEVELS_EXPECTED;
}

void pgs__walk_kind(pgs__walk *w, const uint8_t *prefix, char kind, const pgs__key_space *space, size_t page)
{
	pgs__key from = pgs__key_kind(prefix, kind), end = pgs__key_kind_end(prefix, kind);
	pgs__walk_range(w, &from, &end, page);
	w->base = w->width.at = TAIL_AT;
	w->names = !strchr("pcxl", kind);
	if (kind == 'p')
		expect_pages(w, prefix, space);
	else if (kind == 'c')
		expect_groups(w, space);
	else if (kind == 'x' && space->commits > PGS__WALK_FEW)
		expect_times(w, prefix, kind);
	else if (kind == 'l')
		expect_levels(w);
}

void pgs__walk_level0(pgs__walk *w, const uint8_t *prefix, const pgs__key_space *space, size_t page)
{
	pgs__key from = pgs__key_kind(prefix, 'l'), end = from;
	from.bytes[from.size++] = 0;
	end.bytes[end.size++] = 1;
	pgs__walk_range(w, &from, &end, page);
	w->base = w->width.at = TAIL_AT + 1;
	w->names = false;
	expect_groups(w, space);
}

void pgs__walk_between(pgs__walk *w, const pgs__key *from, const pgs__key *end)
{
	if (order(from, &w->from) > 0)
		w->from = *from;
	if (order(end, &w->end) < 0)
		w->end = *end;
}

void pgs__walk_before(pgs__walk *w, const uint8_t *prefix, char kind, int64_t time_ms)
{
	pgs__key end = key_at_time(prefix, kind, time_ms);
	pgs__walk_between(w, &w->from, &end);
}

/* --- asking ------------------------------------------------------------------------------ */

static bool in_part(const pgs__walk *w)
{
	return order(&w->part, &w->part_end) < 0;
}

bool pgs__walk_more(const pgs__walk *w)
{
	return in_part(w) || order(&w->from, &w->end) < 0;
}

void pgs__walk_resume(pgs__walk *w, const pgs__key *at)
{
	w->from = *at;
}

/* Where the sub-range that begins (going down: ends) at `at` ends, on the way to `last`. */
static pgs__key bound_from(const pgs__walk *w, const pgs__key *at, const pgs__key *last, bool down, bool *outer)
{
	const pgs__key *near = down ? &w->dense_end : &w->dense, *far = down ? &w->dense : &w->dense_end;
	int sign = down ? -1 : 1;
	pgs__key bound = *at;
	*outer = !w->evenly && (sign * order(at, near) < 0 || sign * order(at, far) >= 0);
	if (*outer) /* up to the dense part, or from it to the end */
		bound = sign * order(at, near) < 0 && sign * order(near, last) < 0 ? *near : *last;
	else if (w->width.amount == UINT64_MAX || !move_key(&bound, w->width, down, w->base) || sign * order(&bound, last) > 0)
		bound = *last;
	if (!*outer && !w->evenly && sign * order(&bound, far) > 0)
		bound = *far;
	return bound;
}

static void fill_ops(pgs__walk *w, bool down, pgs_kv_op *ops)
{
	size_t outer = 0, few = w->page / OUTER_SHARE ? w->page / OUTER_SHARE : 1;
	for (size_t i = 0; i < w->asked; i++)
		outer += w->outer[i];
	size_t limit = outer == w->asked || outer * few >= w->page ? few : (w->page - outer * few) / (w->asked - outer);
	for (size_t i = 0; i < w->asked; i++) {
		const pgs__key *from = &w->bounds[down ? i + 1 : i], *end = &w->bounds[down ? i : i + 1];
		ops[i] = pgs__op_range(pgs__key_slice(from), pgs__key_slice(end), w->revision);
		ops[i].count_only = w->counting;
		ops[i].keys_only = w->keys_only && !w->counting;
		ops[i].limit = w->counting ? 0 : w->each ? w->each : w->outer[i] ? few : limit ? limit : 1;
	}
}

size_t pgs__walk_ask(pgs__walk *w, pgs_kv_op *ops, size_t room)
{
	bool part = in_part(w), down = w->downward && !part;
	const pgs__key *last = part ? &w->part_end : down ? &w->from : &w->end;
	size_t probes = 0;
	w->bounds[0] = part ? w->part : down ? w->end : w->from;
	for (w->asked = 0; w->asked < room && w->asked < PGS__WALK_OPS && pgs__walk_more(w); w->asked++) {
		const pgs__key *at = &w->bounds[w->asked];
		if (down ? order(at, last) <= 0 : order(at, last) >= 0)
			break;
		w->bounds[w->asked + 1] = bound_from(w, at, last, down, &w->outer[w->asked]);
		probes += !w->outer[w->asked];
		if (probes > w->probes)
			break;
	}
	fill_ops(w, down, ops);
	return w->asked;
}

/* --- taking -------------------------------------------------------------------------------- */

/* How wide a page of keys is that are as dense as these; few of them say little. The gap before the first does not
 * count, if it is none of many that go on like that. */
static pgs__width page_of(const pgs__walk *w, const pgs__key *from, const pgs_kv_result *r, const pgs__key *last)
{
	pgs__key first = *from;
	bool from_first = !w->names && r->count > 1 && r->pairs[0].key.size < PGS__KEY_MAX;
	if (from_first) {
		first.size = (uint16_t)r->pairs[0].key.size;
		memcpy(first.bytes, r->pairs[0].key.data, first.size);
	}
	size_t count = from_first ? r->count - 1 : r->count;
	return scale(w, distance(w, &first, last), w->page < GROWTH * count ? w->page : GROWTH * count, count);
}

/* Sub-range i came back full: what is left of it comes next, as dense as what came. */
static int take_full(pgs__walk *w, size_t i, const pgs_kv_result *r, bool part, pgs_error *err)
{
	pgs_slice last = r->pairs[r->count - 1].key;
	bool down = w->downward && !part;
	const pgs__key *from = &w->bounds[down ? i + 1 : i], *end = &w->bounds[down ? i : i + 1];
	pgs__key next = {.size = (uint16_t)last.size};
	if (last.size >= PGS__KEY_MAX)
		return pgs__error(err, PGS_ECORRUPT, "a key of %zu bytes is none of ours", last.size);
	memcpy(next.bytes, last.data, last.size);
	if (w->outer[i]) { /* then we know nothing of where keys are */
		w->evenly = true;
		w->widest = UINT64_MAX;
	}
	w->width = page_of(w, from, r, &next);
	w->probes = 1;
	next = pgs__key_after(&next);
	if (down) {
		w->part = next;
		w->part_end = *end;
		w->end = *from;
	} else if (part) {
		w->part = next;
	} else {
		w->from = next;
	}
	return PGS_OK;
}

/* All of a request was taken: `total` keys in `probes` sub-ranges of the dense part. */
static void learn(pgs__walk *w, uint64_t total, size_t probes)
{
	uint64_t wanted = w->counting ? PGS__WALK_FEW : w->page;
	if (probes == 0)
		return;
	if (total <= wanted / 4) {
		w->width = scale(w, w->width, probes, 1);
		w->probes = w->probes * GROWTH;
	} else if (w->counting) { /* each may have as many */
		uint64_t each = total / probes + 1;
		w->width = scale(w, w->width, each > wanted / GROWTH ? wanted : GROWTH,
				 each > wanted / GROWTH ? each < UINT16_MAX ? each : UINT16_MAX : 1);
		w->probes = w->probes * GROWTH;
	} else {
		w->width = scale(w, scale(w, w->width, probes, 1), wanted < 2 * total ? wanted : 2 * total, total);
		w->probes = 1;
	}
	if (w->probes > PGS__WALK_PROBES)
		w->probes = PGS__WALK_PROBES;
}

int pgs__walk_take(pgs__walk *w, const pgs_kv_result *results, size_t *used, pgs_error *err)
{
	uint64_t total = 0;
	size_t probes = 0;
	bool part = in_part(w);
	for (*used = 0; *used < w->asked;) {
		size_t i = (*used)++;
		const pgs_kv_result *r = &results[i];
		if (r->more && r->count)
			return take_full(w, i, r, part, err);
		if (!w->outer[i]) {
			total += w->counting ? r->total : r->count;
			probes++;
		}
		*(part ? &w->part : w->downward ? &w->end : &w->from) = w->bounds[i + 1];
	}
	learn(w, total, probes);
	return PGS_OK;
}

/* --- walking --------------------------------------------------------------------------------- */

int pgs__walk_next(pgs__walk *w, const pgs__backend *b, pgs__walk_page *page, uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv_op ops[PGS__WALK_OPS];
	size_t count = pgs__walk_ask(w, ops, pgs__max_ops(b));
	*page = (pgs__walk_page){.used = 0};
	if (count == 0)
		return PGS_OK;
	int result = pgs__kv_read(b, &page->txn, ops, count, deadline_ms, err);
	return result == PGS_OK ? pgs__walk_take(w, page->txn.results, &page->used, err) : result;
}

int pgs__walk_pairs(pgs__walk *w, const pgs__backend *b, bool pin, pgs__pair_reader read, void *ctx,
		    uint64_t deadline_ms, pgs_error *err)
{
	pgs__walk_page page;
	int result = pgs__walk_next(w, b, &page, deadline_ms, err);
	if (result == PGS_OK && pin && w->revision == 0)
		w->revision = page.txn.revision;
	for (size_t i = 0; result == PGS_OK && i < page.used; i++)
		for (size_t j = 0; result == PGS_OK && j < page.txn.results[i].count; j++)
			result = read(ctx, &page.txn.results[i].pairs[j]);
	pgs__kv_release(b, &page.txn, 1);
	return result;
}

int pgs__kv_read_range(const pgs__backend *b, const pgs__key *from, const pgs__key *end, uint64_t *revision,
		       pgs__pair_reader read, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	pgs__walk w;
	int result = PGS_OK;
	pgs__walk_range(&w, from, end, RANGE_PAGE);
	w.revision = *revision;
	while (result == PGS_OK && pgs__walk_more(&w))
		result = pgs__walk_pairs(&w, b, true, read, ctx, deadline_ms, err);
	*revision = w.revision;
	return result;
}

/* The reads of all walks that go on, each with its share of the operations of one request. */
static size_t ask_all(pgs__walk *walks, size_t count, pgs_kv_op *ops, size_t room)
{
	size_t used = 0, share = count && room > count ? room / count : 1;
	for (size_t i = 0; i < count && used < room; i++)
		used += pgs__walk_ask(&walks[i], ops + used, share < room - used ? share : room - used);
	return used;
}

static int take_all(pgs__walk *walks, size_t count, uint64_t enough, const pgs_kv_txn *txn, uint64_t *totals,
		    pgs_error *err)
{
	size_t at = 0;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < count && at < txn->result_count; i++) {
		size_t used, asked = walks[i].asked;
		result = pgs__walk_take(&walks[i], &txn->results[at], &used, err);
		for (size_t k = 0; result == PGS_OK && k < used; k++)
			totals[i] += txn->results[at + k].total;
		if (totals[i] >= enough)
			walks[i].from = walks[i].end;
		at += asked;
	}
	return result;
}

int pgs__walk_count(pgs__walk *walks, size_t count, uint64_t enough, uint64_t *totals, const pgs__backend *b,
		    uint64_t deadline_ms, pgs_error *err)
{
	size_t room = pgs__max_ops(b) < count * PGS__WALK_OPS ? pgs__max_ops(b) : count * PGS__WALK_OPS;
	pgs_kv_op *ops = pgs__calloc(room, sizeof *ops);
	int result = ops ? PGS_OK : pgs__error_nomem(err, "counting");
	for (size_t i = 0; i < count; i++) {
		walks[i].counting = true;
		totals[i] = 0;
	}
	while (result == PGS_OK) {
		size_t used = ask_all(walks, count, ops, room);
		pgs_kv_txn txn;
		if (used == 0)
			break;
		result = pgs__kv_read(b, &txn, ops, used, deadline_ms, err);
		if (result == PGS_OK)
			result = take_all(walks, count, enough, &txn, totals, err);
		pgs__kv_release(b, &txn, 1);
	}
	pgs__free(ops);
	return result;
}
