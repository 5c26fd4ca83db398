/* What commits ask for, and the order in which they bring the machine's mirror along: see catch_up.h.
 *
 * Commits of one process run side by side, and their replies are met in any order. One that comes before its predecessor is
 * in the mirror waits in line, for a moment; then what it has done is left in line without it. Whoever brings the mirror
 * somewhere goes on with those in line whose turn has come, so that they need not wake each other one by one. */
#include "txn/commit.h"

#include <string.h>
#include <time.h>

#include "local_cache/mirror.h"
#include "txn/bring.h"
#include "util/clock.h"

#define FLUSH_MS 50      /* for the cache file, which another process may be writing to */
#define WAIT_MS 10       /* for others of this machine who have committed before us, and are at it, */
#define ON_ITS_WAY_MS 2  /* or may be */
#define LEFT_MAX 256
#define STALE_MS 1000    /* what was left for so long waits for somebody who does not come */

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

/* --- in line, which the tip's lock guards -------------------------------------------------- */

static void leave_line(pgs_db *db, pgs__bringing *b)
{
	pgs__bringing **at = &db->line;
	while (*at != b)
		at = &(*at)->next;
	*at = b->next;
}

static void bring_now(pgs_db *db, pgs__bringing *b)
{
	b->state = PGS__IN_HAND;
	pthread_mutex_unlock(&db->tip.lock);
	b->done = pgs__bring(b);
	if (b->done)
		pgs__mirror_confirm(db->contents.disk, b->sent_ms);
	pthread_mutex_lock(&db->tip.lock);
	b->state = PGS__TRIED;
}

/* The next one whose turn has come: the mirror has the commit before it. */
static pgs__bringing *next_in_line(const pgs_db *db)
{
	uint64_t sequence = pgs__mirror_sequence(db->contents.disk);
	pgs__bringing *next = NULL;
	for (pgs__bringing *b = db->line; b; b = b->next)
		if (b->previous <= sequence && (!next || b->revision < next->revision))
			next = b;
	return next;
}

static void bring_line(pgs_db *db)
{
	bool any = false;
	for (pgs__bringing *b; (b = next_in_line(db)); any = true) {
		leave_line(db, b);
		bring_now(db, b);
		if (b->left)
			pgs__bringing_free(b);
	}
	if (any)
		pthread_cond_broadcast(&db->tip.moved);
}

/* How many there are whose commits have returned. Those that wait for somebody who does not come are given up. */
static size_t count_left(pgs_db *db)
{
	uint64_t now = pgs__now_ms();
	size_t left = 0;
	bool stale = false;
	for (const pgs__bringing *b = db->line; b; b = b->next) {
		left += b->left;
		stale |= b->left && now - b->left_ms > STALE_MS;
	}
	for (pgs__bringing *b = db->line, *next; stale && b; b = next) {
		next = b->next;
		if (!b->left)
			continue;
		leave_line(db, b);
		pgs__bringing_free(b);
	}
	return stale ? 0 : left;
}

/* Up to a millisecond; false: nothing has happened. */
static bool pause(pgs_db *db)
{
	uint64_t until_us = pgs__now_us() + 1000;
	const struct timespec until = {(time_t)(until_us / 1000000), (long)(until_us % 1000000) * 1000};
	return pthread_cond_timedwait(&db->tip.moved, &db->tip.lock, &until) == 0;
}

static bool is_behind(const pgs_db *db, const pgs__bringing *b)
{
	return pgs__mirror_sequence(db->contents.disk) < b->previous;
}

static void enter_line(pgs_db *db, pgs__bringing *b)
{
	b->state = PGS__IN_LINE;
	b->next = db->line;
	db->line = b;
}

/* Wait for the mirror to get to the commit before. False: it was brought along meanwhile. */
static bool wait_in_line(pgs_db *db, pgs__bringing *b, bool near)
{
	int pauses = 0, most = near ? WAIT_MS : ON_ITS_WAY_MS;
	enter_line(db, b);
	while (b->state == PGS__IN_HAND ||
	       (b->state == PGS__IN_LINE && is_behind(db, b) && pauses < most && (near || db->tip.under_way)))
		pauses += !pause(db);
	if (b->state == PGS__IN_LINE)
		leave_line(db, b);
	return b->state == PGS__IN_LINE;
}

/* `required`: somebody of this machine has committed what is before us, if it is that or more, and is about to bring the
 * mirror there, or has left it in line. One of this process may be on its way back from that. */
static void bring_in_turn(pgs_db *db, pgs__bringing *b, uint64_t required)
{
	bool near = required >= b->previous;
	pthread_mutex_lock(&db->tip.lock);
	bring_line(db);
	size_t left = count_left(db);
	bool may_be_near = near || left > 0 || db->tip.under_way > 0;
	bool waits = is_behind(db, b) && left > 0;
	if (!waits && (!is_behind(db, b) || wait_in_line(db, b, near))) {
		bring_now(db, b);
		bring_line(db);
	}
	b->left = !b->done && may_be_near && left < LEFT_MAX && is_behind(db, b) && pgs__bringing_keep(b);
	if (b->left) {
		b->left_ms = pgs__now_ms();
		b->other_count = 0;
		enter_line(db, b);
		b = NULL;
	}
	pthread_mutex_unlock(&db->tip.lock);
	pgs__bringing_free(b);
}

void pgs__catch_up_end(pgs_db *db)
{
	while (db->line) {
		pgs__bringing *b = db->line;
		db->line = b->next;
		pgs__bringing_free(b);
	}
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
	if (!db->contents.disk)
		return;
	keep_contents(c);
	if (c->previous == UINT64_MAX || !pgs__mirror_sequence(db->contents.disk)) /* U4 */
		return;
	pgs__bringing *b = pgs__bringing_new(c);
	if (b)
		bring_in_turn(db, b, c->catch_up.required);
}
