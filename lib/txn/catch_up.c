/* Bringing the machine's mirror to a commit of this process: see catch_up.h for why it may be done. */
#include "txn/commit.h"

#include <stdlib.h>
#include <string.h>

#include "local_cache/mirror.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define BOUND_MS 100     /* all of it, but for what is under way then (U5) */
#define FLUSH_MS 50      /* for the cache file, which another process may be writing to */
#define WAIT_MS 10       /* for others of this machine who have committed before us, and are at it */
#define ROUNDS 4         /* of looking at the mirror */
#define CHANGES_MAX 4096 /* keys of ours */
#define OTHERS_MAX 16    /* commits of others, */
#define PAGES_MAX 256    /* what they changed, */
#define OPS_MAX 100      /* in so many reads */

/* The window of the changelog. A uuid has its writer's time of when pgs_commit() was called: before the commit landed, and
 * by another clock. MARGIN_MS is for both. What is missed for it is not applied (U3), so it need not be safe, only likely;
 * and it is read by each commit beside others', in the transaction that everybody waits for, so it has to be small. */
#define MARGIN_MS 1000
#define WINDOW_MS 5000   /* the mirror was the latest longer ago than that: it is left to the follower */
#define WINDOW_KEYS 128
#define REST_MS 1000     /* there were more of them: not again for so long */

/* --- what is asked along with the commit ------------------------------------------------- */

/* Whether others may have committed since the mirror's sequence. Not, where what the attempt compares says which commit is
 * the one before it, and the mirror has that. */
static bool may_be_overtaken(const pgs__commit *c, uint64_t sequence)
{
	uint64_t previous = c->alone ? c->t->snapshot.commit_revision
			    : c->mode == PGS__CHECK_LOG ? c->validated
							: UINT64_MAX;
	return previous > sequence;
}

/* The mirror was the latest at a time that is known; what came later has a uuid of later, or nearly so. */
static bool choose_window(pgs__commit *c)
{
	pgs_db *db = c->t->db;
	uint64_t now = pgs__now_ms(), confirmed = pgs__mirror_confirmed(db->contents.disk);
	int64_t unix_ms = pgs__unix_ms();
	if (!confirmed || now > confirmed + WINDOW_MS || unix_ms < WINDOW_MS + MARGIN_MS ||
	    now < atomic_load_explicit(&db->log_rest_ms, memory_order_relaxed))
		return false;
	uint64_t age = now > confirmed ? now - confirmed : 0;
	c->catch_up.from = pgs__history_key_at(db, (uint64_t)unix_ms - age - MARGIN_MS);
	c->catch_up.end = pgs__history_key_at(db, (uint64_t)unix_ms + MARGIN_MS);
	return true;
}

size_t pgs__catch_up_ask(pgs__commit *c, pgs_slice g, size_t room, pgs_kv_op *out)
{
	pgs__catch_up *u = &c->catch_up;
	pgs__disk_db *disk = c->t->db->contents.disk;
	uint64_t sequence = disk && !c->nothing ? pgs__mirror_sequence(disk) : 0;
	*u = (pgs__catch_up){0};
	if (sequence == 0 || room == 0)
		return 0;
	out[0] = pgs__op_get(g, 0);
	u->asks = true;
	u->asks_log = room > 1 && may_be_overtaken(c, sequence) && choose_window(c);
	if (!u->asks_log)
		return 1;
	out[1] = pgs__op_range(pgs__key_slice(&u->from), pgs__key_slice(&u->end), 0);
	out[1].keys_only = true;
	out[1].limit = WINDOW_KEYS;
	return 2;
}

static void take_window(pgs__commit *c, const pgs_kv_result *result)
{
	pgs__catch_up *u = &c->catch_up;
	pgs_slice uuid;
	if (result->more)
		atomic_store_explicit(&c->t->db->log_rest_ms, pgs__now_ms() + REST_MS, memory_order_relaxed);
	u->others = pgs__arena_calloc(&c->arena, result->count, sizeof *u->others);
	for (size_t i = 0; u->others && i < result->count; i++) {
		if (!pgs__key_tail(result->pairs[i].key, 'x', &uuid) || uuid.size != 16)
			continue;
		pgs__logged *l = &u->others[u->other_count++];
		l->revision = result->pairs[i].mod_revision;
		memcpy(l->uuid, uuid.data, sizeof l->uuid);
	}
}

void pgs__catch_up_answers(pgs__commit *c, const pgs_kv_txn *txn, size_t first)
{
	pgs__catch_up *u = &c->catch_up;
	const pgs_kv_pair *g = u->asks ? pgs__got(txn, first) : NULL;
	if (g) {
		u->floor = *g;
		u->floor.key = (pgs_slice){0};
		if (pgs__arena_copy(&c->arena, g->value, &u->floor.value) != PGS_OK)
			u->floor = (pgs_kv_pair){0};
	}
	if (u->asks_log && first + 1 < txn->result_count)
		take_window(c, &txn->results[first + 1]);
}

/* --- the mirror as it is --------------------------------------------------------------------- */

/* What is put, and what the mirror has there; nothing: version 0. */
typedef struct own_put {
	pgs_slice key, value;
	uint64_t create_revision, mod_revision, version;
	bool unknown; /* of an attribute the mirror may not know that (M4) */
} own_put;

enum { PUT_T, PUT_Z, PUT_REST }; /* both are always looked at; z is only put by what is structural */

typedef struct bringing {
	const pgs__commit *c;
	pgs__disk_db *disk;
	uint64_t deadline_ms;
	bool waited, tried;
	pgs__arena arena;
	pgs__key t, z, e, g;
	uint8_t counter[PGS__NUMBER_SIZE], extent[PGS__NUMBER_SIZE];
	own_put *puts;
	pgs_slice *put_keys;
	size_t put_count;

	uint64_t sequence; /* S: where the mirror is, and what it has there */
	bool torn;         /* it has moved while it was looked at */
	size_t packs;
	bool full;         /* more changes than are worth it, or no memory */
	pgs__mirror_change *changes;
	size_t change_count, change_capacity;
} bringing;

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

/* What the commit puts of mirrored keys. */
static bool list_puts(bringing *b)
{
	const pgs__commit *c = b->c;
	size_t most = PUT_REST + 1 + c->op_count;
	b->puts = pgs__arena_calloc(&b->arena, most, sizeof *b->puts);
	b->put_keys = pgs__arena_calloc(&b->arena, most, sizeof *b->put_keys);
	if (!b->puts || !b->put_keys || c->op_count > CHANGES_MAX)
		return false;
	pgs__number_encode(c->counter, b->counter);
	pgs__number_encode(c->t->page_count, b->extent);
	b->puts[PUT_T] = (own_put){.key = pgs__key_slice(&b->t), .value = {b->counter, sizeof b->counter}};
	b->puts[PUT_Z] = (own_put){.key = pgs__key_slice(&b->z), .value = {c->uuid, sizeof c->uuid}};
	b->put_count = PUT_REST;
	if (c->put_extent)
		b->puts[b->put_count++] = (own_put){.key = pgs__key_slice(&b->e), .value = {b->extent, sizeof b->extent}};
	for (size_t i = 0; i < c->op_count; i++)
		if (c->ops[i].kind == PGS_KV_PUT && (pgs__mirror_holds(c->ops[i].key) || is_entry(c->ops[i].key)))
			b->puts[b->put_count++] = (own_put){.key = c->ops[i].key, .value = c->ops[i].value};
	for (size_t i = 0; i < b->put_count; i++)
		b->put_keys[i] = b->puts[i].key;
	return true;
}

static void take_held(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	own_put *p = &((bringing *)ctx)->puts[index];
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
	pgs__mirror_change gone = {.pair.mod_revision = b->c->revision, .deleted = true};
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
	bool known = pgs__mirror_range(b->disk, 0, first, end, limit, visit, b, &sequence, NULL) == PGS_OK && sequence;
	b->torn |= known && sequence != b->sequence;
	return known;
}

static bool look_at_deletes(bringing *b)
{
	const pgs__commit *c = b->c;
	for (size_t i = 0; i < c->op_count; i++) {
		const pgs_kv_op *op = &c->ops[i];
		const pgs__mirror_change gone = {.pair = {.key = op->key, .mod_revision = c->revision}, .deleted = true};
		if (op->kind != PGS_KV_DELETE || !pgs__mirror_holds(op->key))
			continue;
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
	const uint8_t *prefix = pgs__db_prefix(b->c->t->db);
	pgs__key first = pgs__key_kind(prefix, 'o'), end = pgs__key_kind_end(prefix, 'o');
	b->torn = false;
	b->packs = 0;
	b->change_count = 0;
	return pgs__mirror_get(b->disk, 0, b->put_keys, b->put_count, take_held, b, &b->sequence, NULL) == PGS_OK &&
	       b->sequence && b->sequence < b->c->revision &&
	       look_at_range(b, pgs__key_slice(&first), pgs__key_slice(&end), 1, take_pack) && look_at_deletes(b);
}

/* --- what lies between it and the commit --------------------------------------------------------- */

typedef enum between { NOTHING, OTHERS, UNCERTAIN } between;

static between look_between(const bringing *b)
{
	const pgs__commit *c = b->c;
	const own_put *t = &b->puts[PUT_T];
	bool packs = b->packs && !PGS__BUG(CATCH_UP_IGNORES_PACKS);
	if (t->version == 0 || t->version > c->previous_count || b->puts[PUT_Z].version == 0)
		return UNCERTAIN;
	bool last = t->version == c->previous_count;
	if (last != (t->mod_revision == c->previous))
		return UNCERTAIN; /* of another history */
	if (b->sequence + 1 == c->revision) /* U1 */
		return last ? NOTHING : UNCERTAIN;
	if (packs || c->catch_up.floor.mod_revision == 0)
		return UNCERTAIN;
	return last ? NOTHING : OTHERS; /* U2, U3 */
}

/* Those who have committed here before us have put up `required`, and are bringing the mirror to that. */
static bool wait_for_them(bringing *b)
{
	const pgs__commit *c = b->c;
	uint64_t until = pgs__now_ms() + WAIT_MS;
	if (b->waited || c->catch_up.required < c->previous)
		return false;
	b->waited = true;
	while (pgs__mirror_sequence(b->disk) < c->previous && pgs__now_ms() < until)
		pgs__sleep_ms(1, until);
	return true;
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
					 end ? pgs__key_slice(&o->ends[o->count]) : (pgs_slice){0}, o->b->c->previous);
	o->revisions[o->count++] = number;
	return true;
}

static bool add_run(theirs *o, const pgs__page_run *run)
{
	const uint8_t *prefix = pgs__db_prefix(o->b->c->t->db);
	pgs__key first = pgs__key_page(prefix, run->first), end = pgs__key_page(prefix, run->first + run->count);
	o->pages += run->count;
	return run->count <= PAGES_MAX && o->pages <= PAGES_MAX && add_read(o, &first, &end, run->count);
}

static bool add_attr(theirs *o, pgs_slice name, uint64_t revision)
{
	pgs__key key = pgs__key_attr(pgs__db_prefix(o->b->c->t->db), name.data, name.size);
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
	const pgs__commit *c = b->c;
	const pgs__backend *backend = pgs__db_backend(c->t->db);
	pgs__key keys[OTHERS_MAX];
	pgs_kv_op ops[OTHERS_MAX];
	pgs_kv_txn txn;
	size_t count = 0;
	for (size_t i = 0; i < c->catch_up.other_count; i++) {
		const pgs__logged *l = &c->catch_up.others[i];
		if (l->revision <= b->sequence || l->revision > c->previous)
			continue;
		if (count == OTHERS_MAX || count == o->most)
			return false;
		keys[count] = pgs__key_uuid(pgs__db_prefix(c->t->db), 'x', l->uuid);
		ops[count] = pgs__op_get(pgs__key_slice(&keys[count]), 0);
		count++;
	}
	if (count == 0)
		return false;
	bool known = pgs__kv_read(backend, &txn, ops, count, b->deadline_ms, NULL) == PGS_OK;
	for (size_t i = 0; known && i < count; i++) {
		const pgs_kv_pair *x = pgs__got(&txn, i);
		known = x && add_entry(o, x);
		if (known)
			add_change(b, &(pgs__mirror_change){.pair = {.key = ops[i].key, .mod_revision = x->mod_revision}});
	}
	pgs__kv_release(backend, &txn, 1);
	return known && (c->previous_count - b->puts[PUT_T].version == o->commits || PGS__BUG(CATCH_UP_UNCOUNTED)) &&
	       o->last == c->previous;
}

/* Of one read: the pairs that are of after S. */
static bool take_theirs(theirs *o, size_t which, const pgs_kv_result *result)
{
	bringing *b = o->b;
	bool pages = o->ops[which].range_end.size > 0;
	if (pages && result->count != o->revisions[which])
		return false; /* a page that was written, and is not there */
	if (!pages && which >= READ_REST && result->count == 0)
		add_change(b, &(pgs__mirror_change){.pair = {.key = o->ops[which].key, .mod_revision = o->revisions[which]},
						    .deleted = true});
	for (size_t i = 0; i < result->count; i++)
		if (result->pairs[i].mod_revision > b->sequence)
			add_change(b, &(pgs__mirror_change){.pair = result->pairs[i]});
	return pages || which >= READ_REST || result->count == 1;
}

/* Read it, and bring the mirror to P. */
static bool apply_theirs(theirs *o)
{
	bringing *b = o->b;
	const pgs__commit *c = b->c;
	const pgs__backend *backend = pgs__db_backend(c->t->db);
	pgs_kv_txn txn;
	bool known = pgs__kv_read(backend, &txn, o->ops, o->count, b->deadline_ms, NULL) == PGS_OK;
	for (size_t i = 0; known && i < o->count; i++)
		known = take_theirs(o, i, &txn.results[i]);
	known = known && pgs__got(&txn, READ_T)->mod_revision == c->previous &&
		pgs__got(&txn, READ_T)->version == c->previous_count &&
		(pgs__got(&txn, READ_Z)->mod_revision <= b->sequence || PGS__BUG(CATCH_UP_IGNORES_EPOCH));
	known = known && !b->full &&
		pgs__mirror_apply(b->disk, b->sequence, c->previous, 0, b->changes, b->change_count, b->deadline_ms, NULL,
				  NULL) == PGS_OK;
	pgs__kv_release(backend, &txn, 1);
	return known;
}

static bool bring_to_previous(bringing *b)
{
	const size_t most = pgs__max_ops(pgs__db_backend(b->c->t->db));
	theirs *o = b->c->catch_up.other_count ? pgs__arena_calloc(&b->arena, 1, sizeof *o) : NULL;
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
static void add_put(bringing *b, const own_put *p)
{
	const uint64_t revision = b->c->revision;
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
	pgs_kv_pair g = b->c->catch_up.floor;
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
		if (i != PUT_Z || b->c->structural)
			add_put(b, &b->puts[i]);
	return !b->full && pgs__mirror_apply(b->disk, b->sequence, b->c->revision, horizon, b->changes, b->change_count,
					     b->deadline_ms, NULL, NULL) == PGS_OK;
}

/* --- all together -------------------------------------------------------------------------------------------- */

static bool bring(bringing *b)
{
	for (int round = 0; round < ROUNDS && !b->full; round++) {
		bool known = look_at_mirror(b);
		if (b->sequence >= b->c->revision)
			return true; /* the follower was faster */
		if (!known)
			return false;
		if (b->torn)
			continue;
		between what = look_between(b);
		if (what == NOTHING)
			return !b->full && apply_own(b);
		if (what == UNCERTAIN || (!wait_for_them(b) && !bring_to_previous(b)))
			return false;
	}
	return false;
}

/* The contents that went into the KV; what went into files was kept when they were made (upload.c). Before the pointers:
 * who finds those finds these. */
static void keep_contents(const pgs__commit *c)
{
	pgs_db *db = c->t->db;
	size_t count = 0;
	for (size_t i = 0; i < c->write_count; i++) {
		const pgs__write *w = c->writes[i];
		if (w->pointer.kind != PGS__POINTER_FULL || (!w->frame && !w->in_file))
			continue;
		if (w->frame)
			pgs__disk_put(db->contents.disk, &w->pointer.id, (pgs_slice){w->frame, w->frame_size});
		count++;
	}
	if (count && db->store->disk)
		pgs__disk_flush(db->store->disk, pgs__now_ms() + FLUSH_MS, NULL);
}

void pgs__catch_up_run(pgs__commit *c)
{
	pgs_db *db = c->t->db;
	const uint8_t *prefix = pgs__db_prefix(db);
	pgs__disk_db *disk = db->contents.disk;
	if (!disk)
		return;
	keep_contents(c);
	if (c->previous == UINT64_MAX || !pgs__mirror_sequence(disk)) /* U4 */
		return;
	bringing b = {.c = c, .disk = disk, .deadline_ms = pgs__now_ms() + BOUND_MS};
	b.t = pgs__key_single(prefix, 't');
	b.z = pgs__key_single(prefix, 'z');
	b.e = pgs__key_single(prefix, 'e');
	b.g = pgs__key_single(prefix, 'g');
	if (list_puts(&b) && bring(&b))
		pgs__mirror_confirm(disk, c->group->sent_ms);
	pgs__free(b.changes);
	pgs__arena_free(&b.arena);
}
