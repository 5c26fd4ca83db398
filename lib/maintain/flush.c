/* Flushing: contents in the KV (c/) become sorted files of level 0.
 *
 *     c/ ── read in id order, at revision B and later ──→ one file, named with B ── put ──┐
 *                                                                                         ▼
 *           one fenced step: c/ keys as they were read, floor <= B  ⇒  l/ put, those keys deleted
 *           … as many further steps as the keys need: l/ is there, keys as they were read  ⇒  deleted
 *
 * A content is in the file before it leaves the KV, and the step that first deletes one also registers the file, so
 * readers find it in one place or the other (invariant 2). A key that was put again meanwhile stays: its content is of
 * another birth, though the file's copy of it is as good. The births in the file are the mod revisions of the keys.
 */
#include <stdlib.h>

#include "content/sorted_writer.h"
#include "maintain/jobs.h"
#include "maintain/replace.h"
#include "util/alloc.h"
#include "util/arena.h"
#include "util/bug.h"
#include "util/error.h"

#define READ_BYTES (1u << 20)  /* of contents in one answer */
#define STEP_KEYS_MAX 2000
#define LOOK_KEYS 100          /* keys looked at in one transaction */
#define CONTENT_KEY_SIZE (PGS__PREFIX_SIZE + 3 + PGS__ID_SIZE)
#define KEY_COST ((size_t)2 * CONTENT_KEY_SIZE) /* of one key in a step: compared and deleted */
#define FENCE_BYTES (2u << 10) /* more than the fence of a step takes of a request */
#define ROUNDS 10              /* of a step whose keys others keep changing */

/* A c/ key as it was read. */
typedef struct seen {
	pgs__page_id id;
	uint64_t revision;
} seen;

typedef struct flush {
	pgs__worker *w;
	pgs__claim claim;
	pgs__walk walk;      /* over c/ */
	bool ended;
	uint64_t total;      /* contents there were */
	uint64_t flushed;

	/* the batch that becomes a file */
	pgs__arena arena;
	pgs__sorted_item *items;
	size_t item_count, item_capacity;
	uint64_t bytes, bytes_max;
	uint64_t base_revision;
	pgs__sorted_file file;
	seen *seen;          /* keys still to be deleted */
	size_t seen_count;
	bool registered, lost;
	bool unsure; /* an attempt at registering the file may have taken effect, or may yet */

	/* a step */
	uint8_t (*keys)[CONTENT_KEY_SIZE];
	pgs_kv_compare *compares;
	pgs_kv_op *ops;
} flush;

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* --- reading ------------------------------------------------------------------ */

/* So many that the fences fit a request. */
static size_t items_max(const pgs__worker *w)
{
	size_t fences = pgs__max_bytes(pgs__db_backend(w->db)) / 4 / PGS__FENCE_SIZE;
	return fences < PGS__SORTED_COUNT_MAX / PGS__SORTED_SLICE ? fences * PGS__SORTED_SLICE : PGS__SORTED_COUNT_MAX;
}

static int take_content(flush *f, const pgs_kv_pair *pair, bool *full)
{
	pgs_slice id;
	uint64_t size = pair->value.size + PGS__SORTED_ENTRY_SIZE;
	if (!pgs__key_tail(pair->key, 'c', &id) || id.size != PGS__ID_SIZE || pair->value.size == 0 ||
	    pair->value.size > f->w->db->contents.page_size) {
		f->w->report->damaged_contents++; /* stays where it is: there is no file it could be in */
		return PGS_OK;
	}
	*full = f->item_count && (f->bytes + size > f->bytes_max || f->item_count == items_max(f->w));
	if (*full)
		return PGS_OK;
	pgs_slice copy;
	if (pgs__grow(&f->items, &f->item_capacity, f->item_count + 1, sizeof *f->items) != PGS_OK ||
	    pgs__arena_copy(&f->arena, pair->value, &copy) != PGS_OK)
		return pgs__error_nomem(f->w->err, "flushing contents");
	pgs__sorted_item *item = &f->items[f->item_count++];
	*item = (pgs__sorted_item){.bytes = copy.data, .size = (uint32_t)copy.size, .birth = pair->mod_revision};
	memcpy(item->id.bytes, id.data, PGS__ID_SIZE);
	f->bytes += size;
	return PGS_OK;
}

/* The pairs of one result, until the file is full: then the walk goes on at the one that has no room. */
static int take_contents(flush *f, const pgs_kv_result *r, bool *full)
{
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < r->count && !*full; i++) {
		pgs_slice at = r->pairs[i].key;
		if (at.size >= PGS__KEY_MAX)
			return pgs__error(f->w->err, PGS_ECORRUPT, "a content's key is malformed");
		result = take_content(f, &r->pairs[i], full);
		if (*full) {
			pgs__key key = {.size = (uint16_t)at.size};
			memcpy(key.bytes, at.data, at.size);
			pgs__walk_resume(&f->walk, &key);
		}
	}
	return result;
}

static int read_some(flush *f, bool *full)
{
	pgs__worker *w = f->w;
	const pgs__backend *backend = pgs__db_backend(w->db);
	pgs__walk_page page;
	int result = pgs__walk_next(&f->walk, backend, &page, pgs__worker_deadline(w), w->err);
	if (result == PGS_OK && f->item_count == 0)
		f->base_revision = page.txn.revision;
	for (size_t i = 0; result == PGS_OK && i < page.used && !*full; i++)
		result = take_contents(f, &page.txn.results[i], full);
	f->ended = result == PGS_OK && !pgs__walk_more(&f->walk);
	pgs__kv_release(backend, &page.txn, 1);
	return result;
}

/* Gather what fits one file. */
static int read_batch(flush *f)
{
	bool full = false;
	int result = PGS_OK;
	while (result == PGS_OK && !full && !f->ended) {
		result = read_some(f, &full);
		if (result == PGS_OK)
			result = pgs__claim_renew(f->w, &f->claim);
	}
	return result;
}

/* --- keys that are still as they were read --------------------------------------- */

/* Forget those of the first `count` keys that have changed; *changed says whether there was one. */
static int look_again(flush *f, size_t count, bool *changed)
{
	const pgs__backend *backend = pgs__db_backend(f->w->db);
	size_t room = min_size(LOOK_KEYS, pgs__max_ops(backend)), kept = 0;
	pgs__key keys[LOOK_KEYS];
	pgs_kv_op ops[LOOK_KEYS];
	int result = PGS_OK;
	for (size_t at = 0; result == PGS_OK && at < count; at += room) {
		size_t n = min_size(room, count - at);
		pgs_kv_txn txn;
		for (size_t i = 0; i < n; i++) {
			keys[i] = pgs__key_content(pgs__db_prefix(f->w->db), &f->seen[at + i].id);
			ops[i] = pgs__op_get(pgs__key_slice(&keys[i]), 0);
			ops[i].keys_only = true;
		}
		result = pgs__kv_read(backend, &txn, ops, n, pgs__worker_deadline(f->w), f->w->err);
		for (size_t i = 0; result == PGS_OK && i < n; i++) {
			const pgs_kv_pair *pair = pgs__got(&txn, i);
			if (pair && pair->mod_revision == f->seen[at + i].revision)
				f->seen[kept++] = f->seen[at + i];
		}
		pgs__kv_release(backend, &txn, 1);
	}
	if (result != PGS_OK)
		return result;
	*changed = kept < count;
	memmove(f->seen + kept, f->seen + count, (f->seen_count - count) * sizeof *f->seen);
	f->seen_count -= count - kept;
	return PGS_OK;
}

/* Whether the file is registered. */
static int is_registered(flush *f, bool *registered)
{
	const pgs__backend *backend = pgs__db_backend(f->w->db);
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&f->file.key), 0);
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend, &txn, &op, 1, pgs__worker_deadline(f->w), f->w->err);
	*registered = result == PGS_OK && pgs__got(&txn, 0);
	pgs__kv_release(backend, &txn, 1);
	return result;
}

/* --- steps ------------------------------------------------------------------------- */

/* How many keys fit a step beside `other` bytes and one operation. */
static size_t step_keys(const flush *f, size_t other)
{
	size_t bytes = pgs__max_bytes(pgs__db_backend(f->w->db)), room = pgs__step_room(f->w);
	size_t by_bytes = bytes > other + FENCE_BYTES ? (bytes - other - FENCE_BYTES) / KEY_COST : 0;
	room = min_size(room > 1 ? room - 1 : 0, STEP_KEYS_MAX);
	return min_size(min_size(room, by_bytes), f->seen_count);
}

/* Compare and delete the first `count` keys, behind the `own` compares and operations that are there already. */
static void fill_step(flush *f, size_t count, size_t own, pgs__step *step)
{
	size_t compares = step->compare_count;
	for (size_t i = 0; i < count; i++) {
		pgs__key key = pgs__key_content(pgs__db_prefix(f->w->db), &f->seen[i].id);
		memcpy(f->keys[i], key.bytes, CONTENT_KEY_SIZE);
		pgs_slice name = {f->keys[i], CONTENT_KEY_SIZE};
		if (!PGS__BUG(FLUSH_UNCOMPARED))
			f->compares[compares++] = pgs__if_mod(name, PGS_KV_EQUAL, f->seen[i].revision);
		f->ops[own + i] = pgs__op_delete(name, (pgs_slice){0});
	}
	step->compares = f->compares;
	step->compare_count = compares;
	step->ops = f->ops;
	step->op_count = own + count;
	step->base_revision = f->base_revision;
}

static void forget_first(flush *f, size_t count)
{
	f->seen_count -= count;
	memmove(f->seen, f->seen + count, f->seen_count * sizeof *f->seen);
}

/* One attempt at registering the file and deleting the first keys. */
static int try_register(flush *f)
{
	pgs__step step = {.compare_count = 1};
	size_t count = step_keys(f, (size_t)2 * f->file.key.size + f->file.value.size);
	bool changed = false;
	f->compares[0] = pgs__if_absent(pgs__key_slice(&f->file.key)); /* sent twice, it happens once */
	f->ops[0] = pgs__op_put(pgs__key_slice(&f->file.key), pgs__buffer_slice(&f->file.value));
	fill_step(f, count, 1, &step);
	int result = pgs__step_run(f->w, &f->claim, &step);
	f->registered = result == PGS_OK && step.applied;
	if (result == PGS_OK && !step.applied && step.unsure)
		result = is_registered(f, &f->registered);
	if (result != PGS_OK)
		return result;
	if (f->registered) {
		const pgs__registration mine = {pgs__key_slice(&f->file.key), pgs__buffer_slice(&f->file.value)};
		if (step.applied) /* else a refresh finds it */
			pgs__levels_add(&f->w->db->contents.levels, pgs__db_prefix(f->w->db), &mine, 1, step.revision);
		forget_first(f, count);
		return PGS_OK;
	}
	f->unsure |= step.unsure;
	size_t before = f->seen_count;
	result = look_again(f, count, &changed);
	/* It is the fence: a broken claim, a passed floor, a dropped database. Or an attempt may have taken effect that
	 * deleted these keys, and the file been merged and removed since: compares of other keys would not tell. */
	bool none_left = before - f->seen_count == count;
	f->lost = result == PGS_OK && (!changed || (f->unsure && none_left));
	if (f->lost && !f->unsure) {
		pgs_blob *blob = pgs__db_backend(f->w->db)->blob;
		blob->vtable->remove(blob, f->file.blob_name, pgs__worker_deadline(f->w), NULL);
	}
	return result;
}

static int try_delete(flush *f)
{
	pgs__step step = {.compare_count = 1};
	size_t count = step_keys(f, f->file.key.size);
	bool changed = false;
	f->compares[0] = pgs__if_exists(pgs__key_slice(&f->file.key));
	fill_step(f, count, 0, &step);
	int result = pgs__step_run(f->w, &f->claim, &step);
	if (result == PGS_OK && step.applied)
		forget_first(f, count);
	else if (result == PGS_OK)
		result = look_again(f, count, &changed);
	f->lost = result == PGS_OK && !step.applied && !changed;
	return result;
}

/* Register the file, then delete the keys; both as far as others let us. */
static int register_batch(flush *f)
{
	int result = PGS_OK;
	for (int round = 0; result == PGS_OK && !f->registered && !f->lost && round < ROUNDS; round++)
		result = try_register(f);
	f->lost |= result == PGS_OK && !f->registered;
	if (!f->registered)
		return result;
	f->w->report->flushed_pages += f->item_count;
	f->flushed += f->item_count;
	for (int round = 0; result == PGS_OK && !f->lost && f->seen_count && round < ROUNDS;) {
		size_t before = f->seen_count;
		result = try_delete(f);
		round = f->seen_count < before ? 0 : round + 1;
	}
	return result;
}

/* --- a batch ------------------------------------------------------------------------- */

static int allocate_step(flush *f)
{
	size_t room = min_size(f->item_count, STEP_KEYS_MAX) + 1;
	f->seen = pgs__calloc(f->item_count, sizeof *f->seen);
	f->keys = pgs__calloc(room, sizeof *f->keys);
	f->compares = pgs__calloc(room, sizeof *f->compares);
	f->ops = pgs__calloc(room, sizeof *f->ops);
	if (!f->seen || !f->keys || !f->compares || !f->ops)
		return pgs__error_nomem(f->w->err, "flushing contents");
	for (size_t i = 0; i < f->item_count; i++)
		f->seen[i] = (seen){f->items[i].id, f->items[i].birth};
	f->seen_count = f->item_count;
	return PGS_OK;
}

static void free_batch(flush *f)
{
	pgs__arena_free(&f->arena);
	pgs__buffer_free(&f->file.value);
	pgs__free(f->seen);
	pgs__free(f->keys);
	pgs__free(f->compares);
	pgs__free(f->ops);
	f->file = (pgs__sorted_file){0};
	f->seen = NULL;
	f->keys = NULL;
	f->compares = NULL;
	f->ops = NULL;
	f->item_count = 0;
	f->bytes = PGS__SORTED_HEADER_SIZE;
	f->registered = f->unsure = false;
}

static int put_file(flush *f)
{
	pgs__worker *w = f->w;
	const pgs__sorted_target target = {
		.backend = pgs__db_backend(w->db),
		.prefix = pgs__db_prefix(w->db),
		.page_size = w->db->contents.page_size,
		.level = 0,
		.base_revision = f->base_revision,
		.table_max = pgs__table_max(w),
	};
	int result = pgs__sorted_file_put(&target, f->items, f->item_count, pgs__worker_deadline(w), &f->file, w->err);
	if (result != PGS_OK)
		return result;
	w->report->bytes_written += f->file.size;
	if (w->bytes_left != UINT64_MAX)
		w->bytes_left -= f->file.size < w->bytes_left ? f->file.size : w->bytes_left;
	return PGS_OK;
}

static int tell_progress(const flush *f)
{
	const pgs_maintain_options *o = &f->w->options;
	const pgs_maintain_progress progress = {"flush", f->flushed, f->total};
	return o->progress ? o->progress(o->progress_ctx, &progress) : PGS_OK;
}

static int flush_batch(flush *f)
{
	int result = read_batch(f);
	if (result == PGS_OK && f->item_count) {
		result = allocate_step(f);
		if (result == PGS_OK)
			result = put_file(f);
		if (result == PGS_OK)
			result = register_batch(f);
	}
	free_batch(f);
	return result == PGS_OK ? tell_progress(f) : result;
}

/* --- the job ----------------------------------------------------------------------------- */

static int count_contents(pgs__worker *w, uint64_t *count)
{
	const pgs__key_space space = pgs__db_space(w->db);
	pgs__walk walk;
	pgs__walk_kind(&walk, pgs__db_prefix(w->db), 'c', &space, 1);
	return pgs__walk_count(&walk, 1, UINT64_MAX, count, pgs__db_backend(w->db), pgs__worker_deadline(w), w->err);
}

static bool is_due(const pgs__worker *w, uint64_t count)
{
	const pgs_maintain_options *o = &w->options;
	return count && (o->all || count >= o->flush_pages || count >= o->flush_bytes / w->db->contents.page_size);
}

static int run(flush *f)
{
	const pgs_maintain_options *o = &f->w->options;
	pgs__key_space space = pgs__db_space(f->w->db);
	int result = PGS_OK;
	space.contents = f->total;
	pgs__walk_kind(&f->walk, pgs__db_prefix(f->w->db), 'c', &space, READ_BYTES / f->w->db->contents.page_size);
	f->bytes_max = o->memory_bytes / 2 < o->file_bytes ? o->memory_bytes / 2 : o->file_bytes;
	if (f->bytes_max > PGS__SORTED_FILE_MAX)
		f->bytes_max = PGS__SORTED_FILE_MAX;
	f->bytes = PGS__SORTED_HEADER_SIZE;
	while (result == PGS_OK && !f->ended && !f->lost && !pgs__worker_spent(f->w))
		result = flush_batch(f);
	pgs__free(f->items);
	return result;
}

static void report_left(const flush *f)
{
	pgs_maintain_report *report = f->w->report;
	bool done = f->ended && !f->lost;
	report->due_flush_pages = done || f->flushed > f->total ? 0 : f->total - f->flushed;
	report->more |= !done;
}

int pgs__job_flush(pgs__worker *w)
{
	const pgs__scope scope = {.jobs = PGS__JOB_FLUSH};
	flush f = {.w = w};
	int result = count_contents(w, &f.total);
	if (result != PGS_OK || !is_due(w, f.total))
		return result;
	w->report->due_flush_pages = f.total;
	if (w->options.dry_run)
		return PGS_OK;
	result = pgs__claim_take(w, &scope, &f.claim);
	if (result == PGS_OK) {
		result = run(&f);
		pgs__claim_release(w, &f.claim);
		report_left(&f);
	}
	if (result != PGS_EBUSY && !f.lost)
		return result;
	w->report->busy = true; /* another worker has it, or took it over */
	return result == PGS_EBUSY ? PGS_OK : result;
}
