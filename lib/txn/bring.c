/* Bringing the machine's mirror to a commit of this process: see catch_up.h for why it may be done, and for U1 to U5. */
#include "txn/bring.h"

#include <string.h>

#include "txn/commit.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define BOUND_MS 100     /* all of it, but for what is under way then (U5) */
#define ROUNDS 4         /* of looking at the mirror */
#define CHANGES_MAX 4096 /* keys of ours */
#define KEPT_BYTES (64u << 10)
#define OTHERS_MAX 16    /* commits of others, */
#define PAGES_MAX 256    /* what they changed, */
#define OPS_MAX 100      /* in so many reads */

typedef pgs__bringing bringing;

enum { PUT_T, PUT_Z, PUT_REST }; /* both are always looked at; z is only put by what is structural */

/* --- what the commit has done ------------------------------------------------------------------ */

static void add_change(bringing *b, const pgs__mirror_change *change)
{
	if (b->change_count >= CHANGES_MAX ||
	    pgs__grow(&b->changes, &b->change_capacity, b->change_count + 1, sizeof *b->changes) != PGS_OK) {
		b->full = true;
		return;
	}
	b->changes[b->change_count++] = *change;
}

/* The changelog's is for the proof of which history the mirror belongs to. */
static bool is_entry(pgs_slice key)
{
	pgs_slice uuid;
	return pgs__key_tail(key, 'x', &uuid);
}

static bool is_wanted(pgs_slice key)
{
	return pgs__mirror_holds(key) || is_entry(key);
}

/* What the commit puts of mirrored keys, and deletes. */
static bool list_own(bringing *b, const pgs__commit *c)
{
	size_t most = PUT_REST + 1 + c->op_count;
	b->puts = pgs__arena_calloc(&b->arena, most, sizeof *b->puts);
	b->put_keys = pgs__arena_calloc(&b->arena, most, sizeof *b->put_keys);
	b->deletes = pgs__arena_calloc(&b->arena, c->op_count + 1, sizeof *b->deletes);
	if (!b->puts || !b->put_keys || !b->deletes)
		return false;
	b->puts[PUT_T] = (pgs__own_put){.key = pgs__key_slice(&b->t), .value = {b->counter, sizeof b->counter}};
	b->puts[PUT_Z] = (pgs__own_put){.key = pgs__key_slice(&b->z), .value = {b->uuid, sizeof b->uuid}};
	b->put_count = PUT_REST;
	if (c->put_extent)
		b->puts[b->put_count++] = (pgs__own_put){.key = pgs__key_slice(&b->e), .value = {b->extent, sizeof b->extent}};
	for (size_t i = 0; i < c->op_count; i++) {
		const pgs_kv_op *op = &c->ops[i];
		if (op->kind == PGS_KV_PUT && is_wanted(op->key))
			b->puts[b->put_count++] = (pgs__own_put){.key = op->key, .value = op->value};
		else if (op->kind == PGS_KV_DELETE && is_wanted(op->key))
			b->deletes[b->delete_count++] = *op;
	}
	for (size_t i = 0; i < b->put_count; i++)
		b->put_keys[i] = b->puts[i].key;
	return true;
}

pgs__bringing *pgs__bringing_new(const pgs__commit *c)
{
	const uint8_t *prefix = pgs__db_prefix(c->t->db);
	bringing *b = c->op_count > CHANGES_MAX ? NULL : pgs__calloc(1, sizeof *b);
	if (!b)
		return NULL;
	b->db = c->t->db;
	b->revision = c->revision;
	b->previous = c->previous;
	b->previous_count = c->previous_count;
	b->sent_ms = c->group->sent_ms;
	b->structural = c->structural;
	b->floor = c->catch_up.floor;
	b->others = c->catch_up.others;
	b->other_count = c->catch_up.other_count;
	b->t = pgs__key_single(prefix, 't');
	b->z = pgs__key_single(prefix, 'z');
	b->e = pgs__key_single(prefix, 'e');
	b->g = pgs__key_single(prefix, 'g');
	pgs__number_encode(c->counter, b->counter);
	pgs__number_encode(c->t->page_count, b->extent);
	memcpy(b->uuid, c->uuid, sizeof b->uuid);
	if (list_own(b, c))
		return b;
	pgs__bringing_free(b);
	return NULL;
}

void pgs__bringing_free(pgs__bringing *b)
{
	if (!b)
		return;
	pgs__free(b->changes);
	pgs__arena_free(&b->arena);
	pgs__free(b);
}

static bool keep(bringing *b, pgs_slice *bytes)
{
	return pgs__arena_copy(&b->arena, *bytes, bytes) == PGS_OK;
}

bool pgs__bringing_keep(pgs__bringing *b)
{
	size_t bytes = 0;
	for (size_t i = 0; i < b->put_count; i++)
		bytes += b->puts[i].key.size + b->puts[i].value.size;
	bool kept = bytes <= KEPT_BYTES && keep(b, &b->floor.value);
	for (size_t i = 0; kept && i < b->put_count; i++) {
		kept = keep(b, &b->puts[i].key) && keep(b, &b->puts[i].value);
		b->put_keys[i] = b->puts[i].key;
	}
	for (size_t i = 0; kept && i < b->delete_count; i++)
		kept = keep(b, &b->deletes[i].key) && keep(b, &b->deletes[i].range_end);
	return kept;
}

/* --- the mirror as it is --------------------------------------------------------------------- */

static void take_held(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	pgs__own_put *p = &((bringing *)ctx)->puts[index];
	bool there = answer == PGS__MIRROR_PRESENT;
	p->create_revision = there ? pair->create_revision : 0;
	p->mod_revision = there ? pair->mod_revision : 0;
	p->version = there ? pair->version : 0;
	p->unknown = answer == PGS__MIRROR_UNKNOWN;
}

static void take_pack(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	(void)index;
	(void)pair;
	((bringing *)ctx)->packs += answer == PGS__MIRROR_PRESENT;
}

/* A key under a range that the commit deletes. */
static void take_deleted(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	bringing *b = ctx;
	pgs__mirror_change gone = {.pair.mod_revision = b->revision, .deleted = true};
	(void)index;
	if (answer != PGS__MIRROR_PRESENT)
		return;
	if (pgs__arena_copy(&b->arena, pair->key, &gone.pair.key) != PGS_OK)
		b->full = true;
	else
		add_change(b, &gone);
}

static bool look_at_range(bringing *b, pgs_slice first, pgs_slice end, size_t limit, pgs__mirror_visitor visit)
{
	uint64_t sequence = 0;
	bool known = pgs__mirror_range(b->db->contents.disk, 0, first, end, limit, visit, b, &sequence, NULL) == PGS_OK &&
		     sequence != 0;
	b->torn |= known && sequence != b->sequence;
	return known;
}

static bool look_at_deletes(bringing *b)
{
	for (size_t i = 0; i < b->delete_count; i++) {
		const pgs_kv_op *op = &b->deletes[i];
		const pgs__mirror_change gone = {.pair = {.key = op->key, .mod_revision = b->revision}, .deleted = true};
		if (op->range_end.size == 0)
			add_change(b, &gone); /* an attribute: whatever it was */
		else if (!look_at_range(b, op->key, op->range_end, 0, take_deleted))
			return false;
	}
	return true;
}

/* False: it tells nothing. */
static bool look_at_mirror(bringing *b)
{
	const uint8_t *prefix = pgs__db_prefix(b->db);
	pgs__key first = pgs__key_kind(prefix, 'o'), end = pgs__key_kind_end(prefix, 'o');
	b->torn = false;
	b->packs = 0;
	b->change_count = 0;
	return pgs__mirror_get(b->db->contents.disk, 0, b->put_keys, b->put_count, take_held, b, &b->sequence, NULL) ==
		       PGS_OK &&
	       b->sequence && b->sequence < b->revision &&
	       look_at_range(b, pgs__key_slice(&first), pgs__key_slice(&end), 1, take_pack) && look_at_deletes(b);
}

/* --- what lies between it and the commit --------------------------------------------------------- */

typedef enum between { NOTHING, OTHERS, UNCERTAIN } between;

static between look_between(const bringing *b)
{
	const pgs__own_put *t = &b->puts[PUT_T];
	bool packs = b->packs && !PGS__BUG(CATCH_UP_IGNORES_PACKS);
	if (t->version == 0 || t->version > b->previous_count || b->puts[PUT_Z].version == 0)
		return UNCERTAIN;
	bool last = t->version == b->previous_count;
	if (last != (t->mod_revision == b->previous))
		return UNCERTAIN; /* of another history */
	if (b->sequence + 1 == b->revision) /* U1 */
		return last ? NOTHING : UNCERTAIN;
	if (packs || b->floor.mod_revision == 0)
		return UNCERTAIN;
	return last ? NOTHING : OTHERS; /* U2, U3 */
}

/* --- others' commits (U3) --------------------------------------------------------------------------- */

enum { READ_T, READ_Z, READ_E, READ_G, READ_REST };

/* What they have changed, to be read as of the last of them. */
typedef struct theirs {
	bringing *b;
	size_t commits;
	uint64_t pages, last;
	size_t count, most; /* of reads */
	pgs_kv_op ops[OPS_MAX];
	pgs__key keys[OPS_MAX], ends[OPS_MAX];
	uint64_t revisions[OPS_MAX]; /* of pages: how many; of an attribute: the last commit that names it */
} theirs;

static bool add_read(theirs *o, const pgs__key *key, const pgs__key *end, uint64_t number)
{
	if (o->count == o->most)
		return false;
	o->keys[o->count] = *key;
	if (end)
		o->ends[o->count] = *end;
	o->ops[o->count] = pgs__op_range(pgs__key_slice(&o->keys[o->count]),
					 end ? pgs__key_slice(&o->ends[o->count]) : (pgs_slice){0}, o->b->previous);
	o->revisions[o->count++] = number;
	return true;
}

static bool add_run(theirs *o, const pgs__page_run *run)
{
	const uint8_t *prefix = pgs__db_prefix(o->b->db);
	pgs__key first = pgs__key_page(prefix, run->first), end = pgs__key_page(prefix, run->first + run->count);
	o->pages += run->count;
	return run->count <= PAGES_MAX && o->pages <= PAGES_MAX && add_read(o, &first, &end, run->count);
}

static bool add_attr(theirs *o, pgs_slice name, uint64_t revision)
{
	pgs__key key = pgs__key_attr(pgs__db_prefix(o->b->db), name.data, name.size);
	for (size_t i = READ_REST; i < o->count; i++)
		if (pgs__slice_equal(pgs__key_slice(&o->keys[i]), pgs__key_slice(&key))) {
			o->revisions[i] = revision > o->revisions[i] ? revision : o->revisions[i];
			return true;
		}
	return add_read(o, &key, NULL, revision);
}

/* What an entry says; false: it says too little, or too much. */
static bool add_entry(theirs *o, const pgs_kv_pair *x)
{
	pgs__change change;
	pgs__runs_reader reader;
	pgs__page_run run;
	pgs_slice name;
	if (pgs__change_decode(x->value, &change) != PGS_OK)
		return false;
	if (change.kind == PGS__CHANGE_ABORTED)
		return true;
	if (change.kind != PGS__CHANGE_COMMIT || change.truncated || pgs__runs_open(change.runs, &reader) != PGS_OK)
		return false;
	o->commits++;
	o->last = x->mod_revision > o->last ? x->mod_revision : o->last;
	while (pgs__runs_next(&reader, &run))
		if (!add_run(o, &run))
			return false;
	for (pgs_slice rest = change.attr_bytes; pgs__change_next_attr(&rest, &name);)
		if (!add_attr(o, name, x->mod_revision))
			return false;
	return !reader.reader.failed;
}

/* The entries of (S, P] that were found: all of them, if they are as many as t tells. */
static bool read_entries(theirs *o)
{
	bringing *b = o->b;
	const pgs__backend *backend = pgs__db_backend(b->db);
	pgs__key keys[OTHERS_MAX];
	pgs_kv_op ops[OTHERS_MAX];
	pgs_kv_txn txn;
	size_t count = 0;
	for (size_t i = 0; i < b->other_count; i++) {
		const pgs__logged *l = &b->others[i];
		if (l->revision <= b->sequence || l->revision > b->previous)
			continue;
		if (count == OTHERS_MAX || count == o->most)
			return false;
		keys[count] = pgs__key_uuid(pgs__db_prefix(b->db), 'x', l->uuid);
		ops[count] = pgs__op_get(pgs__key_slice(&keys[count]), 0);
		count++;
	}
	if (count == 0)
		return false;
	bool known = pgs__kv_read(backend, &txn, ops, count, b->deadline_ms, NULL) == PGS_OK;
	for (size_t i = 0; known && i < count; i++) {
		const pgs_kv_pair *x = pgs__got(&txn, i);
		known = x && add_entry(o, x);
		pgs__mirror_change entry = {.pair = {.key = ops[i].key, .mod_revision = known ? x->mod_revision : 0}};
		known = known && keep(b, &entry.pair.key);
		if (known)
			add_change(b, &entry);
	}
	pgs__kv_release(backend, &txn, 1);
	return known && (b->previous_count - b->puts[PUT_T].version == o->commits || PGS__BUG(CATCH_UP_UNCOUNTED)) &&
	       o->last == b->previous;
}

/* Of one read: the pairs that are of after S. */
static bool take_theirs(theirs *o, size_t which, const pgs_kv_result *result)
{
	bringing *b = o->b;
	const pgs__mirror_change gone = {.pair = {.key = o->ops[which].key, .mod_revision = o->revisions[which]},
					 .deleted = true};
	for (size_t i = 0; i < result->count; i++)
		if (result->pairs[i].mod_revision > b->sequence)
			add_change(b, &(pgs__mirror_change){.pair = result->pairs[i]});
	if (o->ops[which].range_end.size) /* pages that were written are there */
		return result->count == o->revisions[which];
	if (which < READ_REST)
		return result->count == 1;
	if (result->count == 0)
		add_change(b, &gone);
	return true;
}

/* Read it, and bring the mirror to P. */
static bool apply_theirs(theirs *o)
{
	bringing *b = o->b;
	const pgs__backend *backend = pgs__db_backend(b->db);
	pgs_kv_txn txn;
	bool known = pgs__kv_read(backend, &txn, o->ops, o->count, b->deadline_ms, NULL) == PGS_OK;
	for (size_t i = 0; known && i < o->count; i++)
		known = take_theirs(o, i, &txn.results[i]);
	known = known && pgs__got(&txn, READ_T)->mod_revision == b->previous &&
		pgs__got(&txn, READ_T)->version == b->previous_count &&
		(pgs__got(&txn, READ_Z)->mod_revision <= b->sequence || PGS__BUG(CATCH_UP_IGNORES_EPOCH));
	known = known && !b->full &&
		pgs__mirror_apply(b->db->contents.disk, b->sequence, b->previous, 0, b->changes, b->change_count, b->deadline_ms, NULL,
				  NULL) == PGS_OK;
	pgs__kv_release(backend, &txn, 1);
	return known;
}

static bool bring_to_previous(bringing *b)
{
	const size_t most = pgs__max_ops(pgs__db_backend(b->db));
	theirs *o = b->other_count ? pgs__arena_calloc(&b->arena, 1, sizeof *o) : NULL;
	if (!o || b->tried || most <= READ_REST)
		return false;
	b->tried = true;
	b->change_count = 0;
	o->b = b;
	o->most = most < OPS_MAX ? most : OPS_MAX;
	add_read(o, &b->t, NULL, 0);
	add_read(o, &b->z, NULL, 0);
	add_read(o, &b->e, NULL, 0);
	add_read(o, &b->g, NULL, 0);
	return read_entries(o) && apply_theirs(o);
}

/* --- our own ------------------------------------------------------------------------------------------- */

/* As the KV has it since the commit. */
static void add_put(bringing *b, const pgs__own_put *p)
{
	const uint64_t revision = b->revision;
	const pgs_kv_pair pair = {.key = p->key,
				  .value = p->value,
				  .create_revision = p->version ? p->create_revision : revision,
				  .mod_revision = revision,
				  .version = p->version + 1};
	add_change(b, &(pgs__mirror_change){.pair = pair, .unread = p->unknown});
}

/* g, if it was put since S. What is readable at all, now. */
static uint64_t add_floor(bringing *b)
{
	pgs_kv_pair g = b->floor;
	pgs__floor floor;
	if (g.mod_revision == 0 || pgs__floor_decode(g.value, &floor) != PGS_OK)
		return 0;
	g.key = pgs__key_slice(&b->g);
	if (g.mod_revision > b->sequence && !PGS__BUG(CATCH_UP_MISSES_FLOOR))
		add_change(b, &(pgs__mirror_change){.pair = g});
	return floor.floor;
}

static bool apply_own(bringing *b)
{
	uint64_t horizon = add_floor(b);
	for (size_t i = 0; i < b->put_count; i++)
		if (i != PUT_Z || b->structural)
			add_put(b, &b->puts[i]);
	return !b->full && pgs__mirror_apply(b->db->contents.disk, b->sequence, b->revision, horizon, b->changes,
					     b->change_count, b->deadline_ms, NULL, NULL) == PGS_OK;
}

/* --- all together -------------------------------------------------------------------------------------------- */

bool pgs__bring(pgs__bringing *b)
{
	b->deadline_ms = pgs__now_ms() + BOUND_MS;
	for (int round = 0; round < ROUNDS && !b->full; round++) {
		bool known = look_at_mirror(b);
		if (b->sequence >= b->revision)
			return true; /* the follower was faster */
		if (!known)
			return false;
		if (b->torn)
			continue;
		between what = look_between(b);
		if (what == NOTHING)
			return !b->full && apply_own(b);
		if (what == UNCERTAIN || !bring_to_previous(b))
			return false;
	}
	return false;
}
