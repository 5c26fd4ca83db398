/* What a batch of the watch changes in the mirror.
 *
 * Attributes are not watched: between a/ and e lies c/, all contents. But each commit's changelog entry, which is watched,
 * names the attributes that it set or removed; what they are after the batch is read at its last revision, many at a time.
 * What cannot be read is mirrored as changed, to what is not known (M4 of mirror.h).
 */
#include "follow/follower.h"

#include <stdlib.h>
#include <string.h>

#include "local_cache/mirror.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define OPS_MAX 64 /* attributes read at once: 256 KiB at the most */

static int add(pgs__mirror_changes *c, const pgs__mirror_change *change)
{
	if (pgs__grow(&c->list, &c->capacity, c->count + 1, sizeof *c->list) != PGS_OK)
		return pgs__error_nomem(c->err, "mirror");
	c->list[c->count++] = *change;
	return PGS_OK;
}

static int add_attr(pgs__mirror_changes *c, pgs_slice name, uint64_t revision)
{
	const pgs__key key = pgs__key_attr(pgs__db_prefix(c->f->db), name.data, name.size);
	pgs__mirror_change change = {.pair.mod_revision = revision, .unread = true};
	if (pgs__arena_copy(&c->arena, pgs__key_slice(&key), &change.pair.key) != PGS_OK)
		return pgs__error_nomem(c->err, "mirror");
	return add(c, &change);
}

/* The attributes that a commit's entry names. */
static int add_attrs_of(pgs__mirror_changes *c, const pgs_kv_pair *entry)
{
	pgs__change change;
	pgs_slice name;
	int result = pgs__change_decode(entry->value, &change);
	if (result != PGS_OK)
		return pgs__error(c->err, result, "a changelog entry is damaged or of a newer version");
	if (change.kind == PGS__CHANGE_ABORTED || PGS__BUG(MIRROR_MISSES_ATTRS))
		return PGS_OK;
	for (pgs_slice rest = change.attr_bytes; result == PGS_OK && pgs__change_next_attr(&rest, &name);)
		result = add_attr(c, name, entry->mod_revision);
	return result;
}

static int by_key(const void *a, const void *b)
{
	const pgs__mirror_change *x = a, *y = b;
	int order = pgs__slice_compare(x->pair.key, y->pair.key);
	return order ? order : (x->pair.mod_revision > y->pair.mod_revision) - (x->pair.mod_revision < y->pair.mod_revision);
}

/* From `first` on there are attributes alone: leave each one's last change. */
static void merge_attrs(pgs__mirror_changes *c, size_t first)
{
	size_t used = first;
	if (c->count - first > 1)
		qsort(c->list + first, c->count - first, sizeof *c->list, by_key);
	for (size_t i = first; i < c->count; i++)
		if (i + 1 == c->count || !pgs__slice_equal(c->list[i].pair.key, c->list[i + 1].pair.key))
			c->list[used++] = c->list[i];
	c->count = used;
}

static int take_attr(pgs__mirror_changes *c, pgs__mirror_change *change, const pgs_kv_pair *pair)
{
	pgs_slice key = change->pair.key, value;
	change->unread = false;
	change->deleted = !pair;
	if (!pair)
		return PGS_OK;
	if (pgs__arena_copy(&c->arena, pair->value, &value) != PGS_OK)
		return pgs__error_nomem(c->err, "mirror");
	change->pair = *pair;
	change->pair.key = key;
	change->pair.value = value;
	return PGS_OK;
}

/* As of the batch's last revision. A KV that does not tell now is no failure: they stay unread. */
static int read_attrs(pgs__mirror_changes *c, size_t first)
{
	const pgs__backend *backend = pgs__db_backend(c->f->db);
	const size_t most = pgs__max_ops(backend) < OPS_MAX ? pgs__max_ops(backend) : OPS_MAX;
	bool told = true;
	int result = PGS_OK;
	for (size_t at = first, n; told && result == PGS_OK && at < c->count; at += n) {
		pgs_kv_op ops[OPS_MAX];
		pgs_kv_txn txn;
		n = c->count - at < most ? c->count - at : most;
		for (size_t i = 0; i < n; i++)
			ops[i] = pgs__op_get(c->list[at + i].pair.key, c->f->seen);
		told = pgs__kv_read(backend, &txn, ops, n, c->deadline_ms, NULL) == PGS_OK;
		for (size_t i = 0; told && result == PGS_OK && i < n; i++)
			result = take_attr(c, &c->list[at + i], pgs__got(&txn, i));
		pgs__kv_release(backend, &txn, 1);
	}
	return result;
}

int pgs__mirror_changes_of(pgs__mirror_changes *c, const pgs_kv_events *batch)
{
	const pgs__follower *f = c->f;
	pgs_slice tail;
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < batch->count; i++) {
		const pgs_kv_event *e = &batch->events[i];
		bool wanted = pgs__mirror_holds(e->pair.key) || pgs__key_tail(e->pair.key, 'x', &tail);
		if (e->pair.mod_revision <= f->seen && wanted)
			result = add(c, &(pgs__mirror_change){.pair = e->pair, .deleted = e->deleted});
	}
	const size_t first = c->count;
	for (size_t i = 0; result == PGS_OK && i < batch->count; i++) {
		const pgs_kv_event *e = &batch->events[i];
		if (!e->deleted && e->pair.mod_revision <= f->seen && e->pair.mod_revision > f->mirrored &&
		    pgs__key_tail(e->pair.key, 'x', &tail))
			result = add_attrs_of(c, &e->pair);
	}
	if (result != PGS_OK)
		return result;
	merge_attrs(c, first);
	return read_attrs(c, first);
}

void pgs__mirror_changes_free(pgs__mirror_changes *c)
{
	pgs__free(c->list);
	pgs__arena_free(&c->arena);
}
