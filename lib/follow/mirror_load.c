/* Loading the mirror beside following.
 *
 *     start at `mirrored` ─→ step ─ step ─ … ─→ end          a step: one request, of bounded key ranges
 *                             ↑ watch ─ load_apply ┘         `mirrored` moves on
 *
 * Between two steps the watch is looked at, and what it tells is applied to what has been loaded; the next step reads as of
 * the revision that this has come to. So nobody waits for a load, however large; it needs no history but the last moment's;
 * and when it ends, the mirror is where the watch is. One that is broken off, by whatever, is begun again, and writes what
 * is different.
 */
#include "follow/follower.h"

#include <string.h>

#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define LOAD_PAGE 1000 /* pairs of a request */
#define ATTRS_PAGE 250 /* they may be larger */
#define ENTRY_REQUESTS 16 /* to find the last commit's changelog entry: mostly the first has it */

static const char singles[] = "egmtz", many[] = "aop";

struct pgs__mirror_load {
	bool begun;
	const char *kind; /* of many: the one to be loaded */
	bool walking;
	pgs__walk walk;
	pgs__key from, end; /* of the kind: what is not loaded yet */
};

typedef struct step {
	pgs__follower *f;
	struct pgs__mirror_load *load;
	uint64_t deadline_ms;
	pgs_error *err;
} step;

/* Pairs: with an array also where there are none. */
static int keep(const step *s, const pgs__key *first, const pgs__key *end, const pgs_kv_pair *pairs, size_t count)
{
	static const pgs_kv_pair none;
	return pgs__mirror_load_range(s->f->db->contents.disk, s->f->mirrored, pgs__key_slice(first), pgs__key_slice(end),
				      count ? pairs : &none, count && PGS__BUG(MIRROR_LOAD_CUTS) ? count - 1 : count, s->deadline_ms, s->err);
}

/* --- beginning ---------------------------------------------------------------------------- */

/* The changelog entry of the last commit: the proof of the history that the mirror belongs to. Without one it is loaded
 * anew when it is taken over. */
static int load_last(const step *s)
{
	const pgs__key_space space = pgs__db_space(s->f->db);
	const pgs__backend *backend = pgs__db_backend(s->f->db);
	pgs__walk walk;
	bool found = false;
	int result = PGS_OK;
	pgs__walk_kind(&walk, pgs__db_prefix(s->f->db), 'x', &space, LOAD_PAGE);
	walk.revision = s->f->mirrored;
	walk.keys_only = true;
	for (int i = 0; result == PGS_OK && !found && i < ENTRY_REQUESTS && pgs__walk_more(&walk); i++) {
		pgs__walk_page page;
		result = pgs__walk_next(&walk, backend, &page, s->deadline_ms, s->err);
		for (size_t r = 0; result == PGS_OK && r < page.used; r++)
			for (size_t p = 0; result == PGS_OK && !found && p < page.txn.results[r].count; p++) {
				const pgs_kv_pair *pair = &page.txn.results[r].pairs[p];
				pgs__key key = {.size = (uint16_t)pair->key.size};
				found = pair->mod_revision == s->f->at.commit_revision && pair->key.size < PGS__KEY_MAX;
				if (!found)
					continue;
				memcpy(key.bytes, pair->key.data, pair->key.size);
				pgs__key after = pgs__key_after(&key);
				result = keep(s, &key, &after, pair, 1);
			}
		pgs__kv_release(backend, &page.txn, 1);
	}
	return result;
}

static int load_singles(const step *s)
{
	const pgs__backend *backend = pgs__db_backend(s->f->db);
	const size_t count = sizeof singles - 1;
	pgs__key keys[sizeof singles];
	pgs_kv_op ops[sizeof singles];
	pgs_kv_txn txn;
	for (size_t i = 0; i < count; i++) {
		keys[i] = pgs__key_single(pgs__db_prefix(s->f->db), singles[i]);
		ops[i] = pgs__op_get(pgs__key_slice(&keys[i]), s->f->mirrored);
	}
	int result = pgs__kv_read(backend, &txn, ops, count, s->deadline_ms, s->err);
	for (size_t i = 0; result == PGS_OK && i < count; i++) {
		pgs__key end = pgs__key_after(&keys[i]);
		result = keep(s, &keys[i], &end, txn.results[i].pairs, txn.results[i].count);
	}
	pgs__kv_release(backend, &txn, 1);
	return result;
}

static int load_begin(const step *s)
{
	pgs__follower *f = s->f;
	int result = pgs__mirror_load_begin(f->db->contents.disk, f->seen, s->deadline_ms, s->err);
	if (result != PGS_OK)
		return result;
	f->mirrored = f->seen;
	result = load_last(s);
	if (result == PGS_OK)
		result = load_singles(s);
	s->load->begun = f->proved = result == PGS_OK;
	return result;
}

/* --- ranges --------------------------------------------------------------------------------- */

/* The pairs of one result are all there are from *from to the last of them, which *from is moved past. */
static int take_result(const step *s, const pgs_kv_result *result)
{
	pgs__key *from = &s->load->from;
	const pgs_slice last = result->count ? result->pairs[result->count - 1].key : (pgs_slice){0};
	pgs__key end = {.size = (uint16_t)last.size};
	if (!result->count)
		return PGS_OK;
	if (last.size >= PGS__KEY_MAX)
		return pgs__error(s->err, PGS_ECORRUPT, "a key is too long to be a database's");
	memcpy(end.bytes, last.data, last.size);
	end = pgs__key_after(&end);
	int code = keep(s, from, &end, result->pairs, result->count);
	if (code == PGS_OK)
		*from = end;
	return code;
}

static void begin_kind(const step *s)
{
	struct pgs__mirror_load *l = s->load;
	const uint8_t *prefix = pgs__db_prefix(s->f->db);
	l->from = pgs__key_kind(prefix, *l->kind);
	l->end = pgs__key_kind_end(prefix, *l->kind);
}

/* After a failure the walk may be ahead of what was kept: it begins where that ends. */
static void begin_walk(const step *s)
{
	struct pgs__mirror_load *l = s->load;
	const pgs__key_space space = pgs__db_space(s->f->db);
	pgs__walk_kind(&l->walk, pgs__db_prefix(s->f->db), *l->kind, &space, *l->kind == 'a' ? ATTRS_PAGE : LOAD_PAGE);
	pgs__walk_between(&l->walk, &l->from, &l->end);
}

static int load_page(const step *s)
{
	struct pgs__mirror_load *l = s->load;
	const pgs__backend *backend = pgs__db_backend(s->f->db);
	pgs__walk_page page;
	if (!l->walking)
		begin_walk(s);
	l->walking = true;
	l->walk.revision = s->f->mirrored;
	int result = pgs__walk_next(&l->walk, backend, &page, s->deadline_ms, s->err);
	for (size_t i = 0; result == PGS_OK && i < page.used; i++)
		result = take_result(s, &page.txn.results[i]);
	pgs__kv_release(backend, &page.txn, 1);
	if (result != PGS_OK) {
		l->walking = false;
		return result;
	}
	/* What comes next is read later: what is put before it until then must not be taken for what the KV does not have. */
	bool more = pgs__walk_more(&l->walk);
	const pgs__key *to = more ? &l->walk.from : &l->end;
	result = keep(s, &l->from, to, NULL, 0);
	if (result == PGS_OK)
		l->from = *to;
	if (result == PGS_OK && !more && *++l->kind)
		begin_kind(s);
	l->walking = more && result == PGS_OK;
	return result;
}

/* --- steps --------------------------------------------------------------------------------------- */

int pgs__mirror_load_start(pgs__follower *f, pgs_error *err)
{
	pgs__mirror_load_stop(f);
	f->load = pgs__calloc(1, sizeof *f->load);
	if (!f->load)
		return pgs__error_nomem(err, "mirror");
	f->load->kind = many;
	begin_kind(&(step){.f = f, .load = f->load});
	return PGS_OK;
}

void pgs__mirror_load_stop(pgs__follower *f)
{
	pgs__free(f->load);
	f->load = NULL;
}

bool pgs__mirror_load_waits(const pgs__follower *f)
{
	return f->load && !f->load->begun;
}

int pgs__mirror_load_step(pgs__follower *f, uint64_t deadline_ms, pgs_error *err)
{
	const step s = {f, f->load, deadline_ms, err};
	if (!s.load->begun)
		return load_begin(&s);
	if (*s.load->kind)
		return load_page(&s);
	int result = pgs__mirror_load_end(f->db->contents.disk, f->mirrored, deadline_ms, err);
	if (result == PGS_OK)
		pgs__mirror_load_stop(f);
	return result;
}
