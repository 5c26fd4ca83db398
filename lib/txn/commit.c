/* Committing.
 *
 *     place ─ prepare ─→ attempt ──┬─ succeeded ───────────────────────────→ committed
 *                          ↑       ├─ it did not ask why it failed: again, asking
 *                          ↑       ├─ x/<uuid> is ours: an attempt whose reply was lost ─→ committed
 *                          │       ├─ outcome unknown: the same again ──┐
 *                          │       ├─ lock, z, t or e moved, folds only │
 *                          └───────┴────────── mend ←───────────────────┘
 *                                  └─ conflict, floor passed, dropped ─→ not committed, or no longer known
 *
 * Transactions of several databases go together, a part each: in one KV transaction (attempt.c), so all of them or none.
 *
 * At most once (invariant 5): every attempt compares that x/<uuid> is absent and puts it. After an unknown attempt
 * a failure is answered only when that attempt can never land any more: the database was dropped, or "aborted" was put
 * at x/<uuid> (a conflict may go away: an attribute read as absent is absent again when it is removed). The rest is
 * tried until the deadline, and then the answer is PGS_EUNKNOWN. So it is at once when the floor has passed B: no
 * attempt can land, but one may have, and its entry have been pruned.
 *
 * Most commits succeed with their first attempt, so that one is made cheap: it does not read what would tell why it
 * failed; and where nobody else has committed lately, it compares that nobody has since the snapshot, which is one
 * compare in place of those of z, e and every page. A first attempt that fails says nothing: it is made again in full.
 */
#include "txn/commit.h"

#include <stdlib.h>

#include "local_cache/mirror.h"
#include "txn/newest.h"
#include "txn/upload.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define LOG_ROUNDS_MAX 3
#define RESEND_PAUSE_MS 5
#define CLEANUP_MS 250
#define FIXED_OPS 3             /* t, x/<uuid>, and now and then e or z */
#define FIXED_BYTES 1024        /* what they take */
#define POINTER_BYTES 64        /* a page's in the KV, besides its content or delta, */
#define PACKED_BYTES (2u << 20) /* but all of them no more than this: the rest is in blobs */
#define QUIET_COMMITS 3 /* with nobody else's in between: then the next one counts on it */

/* --- the loop ----------------------------------------------------------------------------- */

/* The first attempt, by how the commits before went. Where failing is likely, it asks at once. */
static void choose_attempt(pgs__commit_group *g)
{
	for (size_t i = 0; i < g->count; i++) {
		pgs__commit *c = &g->parts[i];
		const pgs_db *db = c->t->db;
		if (c->idle)
			continue;
		c->alone = c->mode == PGS__CHECK_KEYS &&
			   atomic_load_explicit(&db->quiet, memory_order_relaxed) >= QUIET_COMMITS;
		g->asks |= !c->alone && (c->mode == PGS__CHECK_LOG || db->order == PGS_ORDER_COUNTER ||
					 atomic_load_explicit(&db->contended, memory_order_relaxed));
	}
	for (size_t i = 0; g->asks && i < g->count; i++)
		g->parts[i].alone = false;
}

/* Written only when it changes: all threads that commit read it. */
static void remember_how_it_went(const pgs__commit *c)
{
	pgs_db *db = c->t->db;
	bool failed = c->group->failed, alone = c->previous == c->t->snapshot.commit_revision && !failed;
	uint32_t quiet = atomic_load_explicit(&db->quiet, memory_order_relaxed);
	uint32_t now = !alone ? 0 : quiet < QUIET_COMMITS ? quiet + 1 : quiet;
	if (now != quiet)
		atomic_store_explicit(&db->quiet, now, memory_order_relaxed);
	if (atomic_load_explicit(&db->contended, memory_order_relaxed) != failed)
		atomic_store_explicit(&db->contended, failed, memory_order_relaxed);
}

static int unknown(pgs__commit_group *g)
{
	g->culprit = g->count;
	if (g->final)
		return pgs__error(g->err, PGS_EUNKNOWN,
				  "the commit was sent and not confirmed, and the history that would tell what became of it "
				  "has been collected");
	return pgs__error_prefix(g->err, PGS_EUNKNOWN,
				 "the commit was sent and not confirmed; pgs_commit_status() tells whether it happened");
}

/* Failures of this moment: the next attempt may do better. */
static bool is_passing(int result)
{
	return result == PGS_EIO || result == PGS_ETIMEOUT || result == PGS_EBUSY || result == PGS_EAUTH ||
	       result == PGS_ENOSPC || result == PGS_ENOMEM;
}

/* This attempt failed for good, but one before it may still be on its way: make sure that it never lands. Any of the
 * parts can tell, and keep all of them from landing. */
static int settle(pgs__commit_group *g, int result)
{
	for (size_t i = 0; i < g->count; i++) {
		const pgs__commit *c = &g->parts[i];
		pgs_commit_token token = {.base_revision = c->base_revision};
		int status;
		uint64_t revision;
		memcpy(token.uuid, c->uuid, sizeof token.uuid);
		if (c->nothing ||
		    pgs__commit_status(c->t->db, &token, &status, &revision, g->deadline_ms, NULL) != PGS_OK)
			continue;
		if (status == PGS_COMMIT_NOT_HAPPENED)
			return result;
		pgs__commit_landed(g, revision);
		return PGS_OK;
	}
	return PGS_EUNKNOWN;
}

/* The part whose database comes next after `last` in the order of prefixes; NULL: none does. */
static pgs__commit *next_by_prefix(const pgs__commit_group *g, const pgs__commit *last)
{
	pgs__commit *next = NULL;
	for (size_t i = 0; i < g->count; i++) {
		pgs__commit *c = &g->parts[i];
		const uint8_t *prefix = pgs__db_prefix(c->t->db);
		bool after = !last || memcmp(prefix, pgs__db_prefix(last->t->db), PGS__PREFIX_SIZE) > 0;
		if (after && (!next || memcmp(prefix, pgs__db_prefix(next->t->db), PGS__PREFIX_SIZE) < 0))
			next = c;
	}
	return next;
}

/* All of them, in the order of prefixes, so that two commits do not wait for each other. One that is missing is taken
 * only when those behind it, which another wait may have left held, are given back. */
static int take_locks(pgs__commit_group *g)
{
	int result = PGS_OK;
	for (pgs__commit *c = next_by_prefix(g, NULL); result == PGS_OK && c; c = next_by_prefix(g, c)) {
		if (c->idle || c->lock.held)
			continue;
		for (pgs__commit *behind = next_by_prefix(g, c); behind; behind = next_by_prefix(g, behind))
			if (behind->locked_here)
				pgs__writer_lock_release(behind->t->db, &behind->lock, g->deadline_ms);
		c->locked_here = true;
		result = pgs__writer_lock_take(c->t->db, &c->lock, g->deadline_ms, g->err);
		if (result != PGS_OK)
			g->culprit = (size_t)(c - g->parts);
	}
	return result;
}

/* The lock that this process keeps is used. Not where there are several parts: waiting for the lock of one with that of
 * another in hand, two commits could wait for each other. */
static void use_kept_lock(pgs__commit *c)
{
	pgs_db *db = c->t->db;
	uint64_t deadline = c->group->deadline_ms;
	if (c->lock.held && pgs__now_ms() >= c->lock.renew_ms)
		pgs__writer_lock_renew(db, &c->lock, deadline);
	if (!c->nothing && !c->lock.held && pgs__turn_resume(db, &c->lock, deadline) && c->group->count > 1)
		pgs__writer_lock_release(db, &c->lock, deadline);
}

/* What an attempt needs: payloads that are not stale, and the locks, when others got in between too often. */
static int get_ready(pgs__commit_group *g)
{
	bool lost = false;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < g->count; i++) {
		pgs__commit *c = &g->parts[i];
		if (c->idle)
			continue;
		pgs__txn_keep(c->t, g->deadline_ms);
		use_kept_lock(c);
		if (c->stale)
			result = pgs__payload_build(c);
		if (result != PGS_OK)
			g->culprit = i;
		lost |= c->mode == PGS__CHECK_LOG && c->log_rounds >= LOG_ROUNDS_MAX && !c->lock.held;
	}
	return result == PGS_OK && lost ? take_locks(g) : result;
}

/* Until it is committed, or certainly not, or the deadline. */
static int send_until_done(pgs__commit_group *g)
{
	for (;;) {
		int result = get_ready(g);
		if (result == PGS_OK)
			result = pgs__attempt(g);
		if (g->done)
			return PGS_OK;
		if (g->unknown && result == PGS_ENOSPC) { /* the next attempt will not do better */
			result = settle(g, result);
			if (result == PGS_EUNKNOWN)
				return unknown(g);
		} else if (g->unknown && is_passing(result)) {
			result = PGS_EUNKNOWN;
		}
		if (g->unknown && !g->final && result != PGS_OK && result != PGS_EUNKNOWN)
			result = settle(g, result);
		if (g->done)
			return PGS_OK;
		if (result == PGS_EUNKNOWN && !g->final && !pgs__deadline_passed(g->deadline_ms)) {
			pgs__sleep_ms(RESEND_PAUSE_MS, g->deadline_ms);
			continue;
		}
		if (result == PGS_OK && pgs__deadline_passed(g->deadline_ms))
			result = g->unknown ? PGS_EUNKNOWN
					    : pgs__error(g->err, PGS_EBUSY,
							 "database %s: other commits kept this one out past the timeout",
							 g->parts[0].t->db->name);
		if (result != PGS_OK)
			return result == PGS_EUNKNOWN ? unknown(g) : result;
	}
}

/* --- around it -------------------------------------------------------------------------------- */

/* The process knows what we committed. Without memory its cache stays behind. */
static void land(pgs__commit *c)
{
	const pgs_txn *t = c->t;
	pgs__landed landed = {.previous = c->previous,
			      .revision = c->revision,
			      .structural = c->structural,
			      .puts_extent = c->put_extent,
			      .extent = t->page_count,
			      .truncated = t->truncated,
			      .truncated_to = t->truncated_to,
			      .count = c->write_count};
	landed.pages = pgs__arena_calloc(&c->arena, c->write_count, sizeof *landed.pages);
	for (size_t i = 0; landed.pages && i < c->write_count; i++) {
		const pgs__write *w = c->writes[i];
		pgs__changed_page *p = &landed.pages[i];
		/* An older p/ key may be there, and we do not know its revision. */
		*p = (pgs__changed_page){.page_no = w->page_no, .frozen = pgs__txn_is_blank(t, w->page_no) && c->packed};
		p->ref = pgs__page_ref_of(&w->pointer);
		p->ref.key_revision = c->packed ? w->seen_revision : c->revision;
		p->ref.from = c->revision;
		p->page = w->pointer.kind == PGS__POINTER_ZERO ? NULL : w->page;
	}
	if (landed.pages)
		pgs__tip_land(t->db, &landed);
	pgs__newest_commit(t->db, c->revision, &landed, c->counter, c->group->sent_ms);
}

/* Tell the caches what we committed. */
static void update_caches(pgs__commit *c)
{
	const pgs_txn *t = c->t;
	if (t->db->contents.disk)
		c->catch_up.required = pgs__mirror_required(t->db->contents.disk);
	if (t->file_count) {
		pgs__registration *files = pgs__calloc(t->file_count, sizeof *files);
		for (size_t i = 0; files && i < t->file_count; i++)
			files[i] = (pgs__registration){pgs__key_slice(&t->files[i].key),
						       pgs__buffer_slice(&t->files[i].value)};
		if (files)
			pgs__levels_add(&t->db->contents.levels, pgs__db_prefix(t->db), files, t->file_count,
					c->revision);
		pgs__free(files);
	}
	if (c->previous != UINT64_MAX)
		land(c);
	else
		pgs__newest_commit(t->db, c->revision, NULL, 0, 0);
}

/* What maintenance will have to move. */
static void note_load(const pgs__commit *c)
{
	size_t contents = 0;
	for (size_t i = 0; i < c->write_count; i++)
		contents += c->writes[i]->pointer.kind == PGS__POINTER_FULL && !c->writes[i]->in_file;
	pgs__upkeep_note(c->t->db, contents, c->t->file_count, c->structural);
}

static bool changes_nothing(const pgs_txn *t)
{
	for (size_t i = 0; i < t->write_count; i++)
		if (t->writes[i].state == PGS__WRITE_READY)
			return false;
	return t->attr_write_count == 0 && t->page_count == t->snapshot.extent && !t->truncated;
}

/* What only makes room, or changes nothing to speak of, is let through when the KV is filled to its soft quota. */
static bool fills(const pgs_txn *t)
{
	for (size_t i = 0; i < t->attr_write_count; i++)
		if (!t->attr_writes[i].removed)
			return true;
	return t->write_count > 0 || t->page_count > t->snapshot.extent;
}

int pgs__txn_admit(pgs_txn *t, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t bytes = t->write_count * POINTER_BYTES + t->buffered_bytes + t->frame_bytes;
	if (!fills(t))
		return PGS_OK;
	bytes = FIXED_BYTES + (bytes < PACKED_BYTES ? bytes : PACKED_BYTES);
	for (size_t i = 0; i < t->file_count; i++)
		bytes += t->files[i].value.size;
	return pgs__room_admit(t->db->store, t->db->name, bytes, deadline_ms, err);
}

static int check_options(const pgs_commit_options *o, pgs_error *err)
{
	if (o->struct_size != sizeof *o)
		return pgs__error(err, PGS_EINVAL,
				  "pgs_commit_options: struct_size is not set; use PGS_COMMIT_OPTIONS_INIT");
	if (o->note && o->note_size > PGS_NOTE_MAX)
		return pgs__error(err, PGS_ELIMIT, "a note has at most %d bytes, not %zu", PGS_NOTE_MAX, o->note_size);
	return PGS_OK;
}

/* What is cleaned up after a commit may take a moment past its deadline; what is not is left to its lease, or to the
 * collector. */
static uint64_t cleanup_deadline(const pgs__commit_group *g)
{
	uint64_t soon = pgs__now_ms() + CLEANUP_MS;
	return g->deadline_ms > soon ? g->deadline_ms : soon;
}

/* Where the contents go; what there is to do at all. */
static int place(pgs__commit *c)
{
	pgs_txn *t = c->t;
	int result = pgs__txn_admit(t, c->deadline_ms, c->err);
	if (result == PGS_OK && t->buffered_bytes)
		result = pgs__txn_place(t, false, c->deadline_ms, c->err);
	if (result == PGS_OK)
		result = pgs__upload_finish(t, c->deadline_ms, c->err); /* invariant 6 */
	bool relies = t->reads.count || t->attr_read_count || t->extent_checked || c->relied;
	c->nothing = changes_nothing(t);
	c->idle = c->nothing && (!relies || PGS__BUG(OTHERS_READS_UNCHECKED));
	c->revision = c->previous = t->snapshot.commit_revision;
	return result;
}

/* What is put, and what is compared. */
static int prepare(pgs__commit *c)
{
	pgs_txn *t = c->t;
	c->counter = t->snapshot.counter;
	c->put_extent = t->truncated || t->page_count != t->snapshot.extent;
	if (t->isolation == PGS_SNAPSHOT && !c->put_extent && !t->extent_set)
		t->extent_checked = false; /* the first to change the page count wins; who only read it does not mind */
	int result = pgs__payload_prepare(c);
	if (result == PGS_OK && !c->nothing)
		result = pgs__payload_build(c);
	return result == PGS_OK ? pgs__validate_prepare(c) : result;
}

/* It has ended, one way or the other. */
static void account(pgs__commit *c, int result)
{
	if (c->nothing)
		return;
	remember_how_it_went(c);
	if (result == PGS_OK)
		update_caches(c);
	pgs__tip_end_commit(c->t->db);
	if (result != PGS_OK)
		return;
	pgs__catch_up_run(c);
	note_load(c);
}

static int send_all(pgs__commit_group *g)
{
	for (size_t i = 0; i < g->count; i++)
		if (!g->parts[i].nothing)
			pgs__tip_begin_commit(g->parts[i].t->db);
	choose_attempt(g);
	int result = send_until_done(g);
	for (size_t i = 0; i < g->count; i++)
		account(&g->parts[i], result);
	return result;
}

static int for_each(pgs__commit_group *g, int (*step)(pgs__commit *c), bool idle_too)
{
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < g->count; i++) {
		if (idle_too || !g->parts[i].idle)
			result = step(&g->parts[i]);
		if (result != PGS_OK)
			g->culprit = i;
	}
	return result;
}

static bool all_nothing(const pgs__commit_group *g)
{
	for (size_t i = 0; i < g->count; i++)
		if (!g->parts[i].nothing)
			return false;
	return true;
}

static int run(pgs__commit_group *g)
{
	int result = for_each(g, place, true);
	if (result != PGS_OK || all_nothing(g))
		return result;
	result = pgs__payload_share(g);
	if (result == PGS_OK)
		result = for_each(g, prepare, false);
	if (result == PGS_OK)
		result = send_all(g);
	g->deadline_ms = cleanup_deadline(g);
	for (size_t i = 0; i < g->count; i++) {
		pgs__commit *c = &g->parts[i];
		if (!c->nothing)
			pgs__room_note(c->t->db->store, c->kv_bytes + (c->op_count + FIXED_OPS) * PGS__ROOM_OP_BYTES);
		c->deadline_ms = g->deadline_ms;
		if (result != PGS_OK)
			pgs__payload_discard(c);
	}
	return result;
}

static int begin_part(pgs__commit *c, pgs__commit_group *g, pgs_txn *t, const pgs_commit_options *o)
{
	*c = (pgs__commit){.group = g,
			   .t = t,
			   .options = o,
			   .err = g->err,
			   .base_revision = t->snapshot.kv_revision,
			   .lock = t->lock};
	c->begun_locked = t->lock.held != 0;
	t->lock.held = 0;
	int result = check_options(o, g->err);
	if (result == PGS_OK && pgs__uuid7(c->uuid) != PGS_OK)
		result = pgs__error(g->err, PGS_EIO, "the system gives no random bytes");
	if (result == PGS_OK && o->token) {
		memcpy(o->token->uuid, c->uuid, sizeof c->uuid);
		o->token->base_revision = c->base_revision;
	}
	c->relied = o->relied;
	return result;
}

/* What the caller is told of the commit. */
static void report(const pgs__commit *c, uint64_t *revision)
{
	if (revision && (*revision < c->revision))
		*revision = c->revision;
	if (c->options->previous_revision)
		*c->options->previous_revision = c->previous == UINT64_MAX ? 0 : c->previous;
}

/* Keep the lock for the next transaction, or give it back. */
static void leave_lock(pgs__commit *c, bool committed)
{
	pgs_db *db = c->t->db;
	if (committed && c->begun_locked)
		pgs__turn_ended(db);
	const pgs__snapshot *s = &c->t->snapshot;
	bool follows = c->previous == s->commit_revision;
	c->lock.last = (pgs__turn_commit){follows ? c->revision : 0, s->commit_count + 1, c->counter};
	bool keep = committed && c->kept && pgs__turn_is_worth_keeping(db, &c->lock);
	if (!keep || !pgs__turn_keep(db, &c->lock))
		pgs__writer_lock_release(db, &c->lock, cleanup_deadline(c->group));
}

static void end_part(pgs__commit *c, int result)
{
	const pgs__commit_group *g = c->group;
	pgs_txn *t = c->t;
	pgs_db *db = t->db;
	bool happened = result == PGS_OK && !c->nothing;
	leave_lock(c, happened);
	pgs__arena_free(&c->arena);
	pgs__free(c->ops);
	pgs__free(c->writes);
	pgs__free(c->checks);
	pgs__free(c->runs);
	if (!happened && !g->unknown)
		pgs__txn_remove_files(t, cleanup_deadline(g)); /* else they are registered, or may be */
	pgs__keeper_release(&t->keeper, cleanup_deadline(g));
	pgs__txn_free(t);
	if (happened && db->store->help)
		db->store->help(db, false); /* whatever becomes of that: the commit has happened */
}

/* Begin all, for the shortest of their deadlines. */
static int begin_parts(pgs__commit_group *g, pgs_txn *const *txns, const pgs_commit_options *const *options)
{
	static const pgs_commit_options defaults = PGS_COMMIT_OPTIONS_INIT;
	int result = PGS_OK;
	for (size_t i = 0; i < g->count; i++) {
		const pgs_commit_options *o = options && options[i] ? options[i] : &defaults;
		uint64_t deadline = pgs__txn_deadline(txns[i]);
		int began = begin_part(&g->parts[i], g, txns[i], o);
		if (i == 0 || deadline < g->deadline_ms)
			g->deadline_ms = deadline;
		if (result == PGS_OK && began != PGS_OK)
			g->culprit = i;
		result = result == PGS_OK ? began : result;
	}
	for (size_t i = 0; i < g->count; i++)
		g->parts[i].deadline_ms = g->deadline_ms;
	return result;
}

static int commit_group(pgs__commit_group *g, pgs_txn *const *txns, const pgs_commit_options *const *options,
			uint64_t *revision)
{
	pgs_cost *before = pgs__charge(txns[0]->cost);
	int result = begin_parts(g, txns, options);
	if (result == PGS_OK)
		result = run(g);
	if (result == PGS_OK && revision)
		*revision = 0;
	for (size_t i = 0; i < g->count && result == PGS_OK; i++)
		report(&g->parts[i], revision);
	for (size_t i = 0; i < g->count; i++)
		end_part(&g->parts[i], result);
	pgs__charge(before);
	return result;
}

int pgs_commit(pgs_txn *txn, const pgs_commit_options *options, uint64_t *revision, pgs_error *err)
{
	pgs__commit part;
	pgs__commit_group g = {.parts = &part, .count = 1, .err = err};
	return commit_group(&g, &txn, &options, revision);
}

/* One database each, of one store. */
static int check_together(pgs_txn *const *txns, size_t count, pgs_error *err)
{
	if (count == 0 || count > PGS_COMMIT_MANY_MAX)
		return pgs__error(err, PGS_EINVAL, "%zu transactions cannot be committed together, only 1 to %d", count,
				  PGS_COMMIT_MANY_MAX);
	for (size_t i = 1; i < count; i++)
		for (size_t j = 0; j < i; j++) {
			const pgs_db *a = txns[i]->db, *b = txns[j]->db;
			if (a == b)
				return pgs__error(err, PGS_EINVAL,
						  "two transactions of database %s cannot be committed together", a->name);
			if (a->store != b->store)
				return pgs__error(err, PGS_EINVAL,
						  "databases %s and %s are not of one store: they cannot be committed together",
						  a->name, b->name);
		}
	return PGS_OK;
}

static void abort_all(pgs_txn *const *txns, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		size_t first = 0;
		while (txns[first] != txns[i])
			first++;
		if (first == i) /* not given twice */
			pgs_abort(txns[i]);
	}
}

int pgs_commit_many(pgs_txn *const *txns, const pgs_commit_options *const *options, size_t count, size_t *which,
		    uint64_t *revision, pgs_error *err)
{
	pgs__commit parts[PGS_COMMIT_MANY_MAX];
	pgs__commit_group g = {.parts = parts, .count = count, .culprit = count, .err = err};
	int result = check_together(txns, count, err);
	if (result == PGS_OK)
		result = commit_group(&g, txns, options, revision);
	else
		abort_all(txns, count);
	if (which)
		*which = g.culprit;
	return result;
}
