/* Folding packs into p/.
 *
 *     oldest pack ── blocks of entries ── batches ──┬─ read p/n, z, the pack, the claim in one transaction
 *                                                   └─ one fenced step: the pack unchanged, each p/n as read;
 *                                                      p/n = the pack's pointer, marked with the pack's revision w
 *                 ── ranges it truncated ── windows of p/ keys ── those older than w deleted, in fenced steps
 *                 ── one fenced step: the pack deleted, z rewritten, its index file noted under d/
 *
 *  - Strictly oldest first: a younger pack's range folded first would leave nothing to say that an older pack's
 *    entries under it are gone.
 *  - A pointer is put only where the pack is younger than p/n by age, and keeps its age as w (invariant 10). So in the
 *    midst of a fold every reader finds what it found before: p/n beats the pack at equal age, and says the same.
 *  - What a younger pack says something about is left out: that pack's own fold brings it. So what a fold puts is
 *    visible, and live, at every revision from the list of packs on: the base revision of its steps.
 *  - Folding rewrites neither t nor what a page holds: no commit conflicts with it (txn/validate.c).
 *
 * Interrupted anywhere it is begun again: what was folded has age w, and is passed over. A process that folds in many
 * small budgets remembers where it was: what is folded stays so.
 */
#include "maintain/jobs.h"

#include "txn/packs.h"
#include "util/alloc.h"
#include "util/arena.h"
#include "util/bug.h"
#include "util/error.h"

#define BATCH_MAX 500              /* entries in a step, where the KV sets no limit */
#define BATCH_BYTES (512u << 10)
#define ENTRY_BYTES 64             /* of keys, compare and w of an entry in a step */
#define RUN_GAP 4                  /* keys read for nothing rather than one more operation */
#define RUN_MAX 500                /* keys under one range read or range compare */
#define WINDOW_FIRST 1024          /* pages of a truncated range looked at at once; twice as many while few are there */
#define WINDOW_FEW 100
#define ATTEMPTS_MAX 100           /* of one step, each lost to others */

/* What every read of the fold begins with: it tells whether to go on. */
enum { READ_M, READ_Z, READ_PACK, READ_CLAIM, READ_REST };

typedef enum ending {
	GOING,
	STOPPED, /* the budget is spent */
	FULL,    /* the KV is filled to its soft quota: the rest stays in the pack, where it takes no room */
	LOST,    /* the claim was broken: another worker has it */
	GONE     /* the pack is folded, by us or by another */
} ending;

typedef struct item {
	uint64_t page_no;
	pgs_slice pointer; /* as in the pack; in f->arena */
	uint64_t seen;     /* mod revision of p/n; 0 = absent */
	bool due;
} item;

typedef struct fold {
	pgs__worker *w;
	pgs__claim claim;
	ending ending;
	pgs__pack_view *source; /* the pack being folded is `index` of it */
	size_t index;
	pgs__pack_info pack;
	pgs__key m, z, key;
	pgs__pack_view *view;   /* all packs, as of `base`: z had mod revision `epoch` */
	uint64_t epoch, base;
	item items[BATCH_MAX];
	size_t count, bytes, room, bytes_room;
	uint64_t done;
	pgs__arena arena;
} fold;

static const pgs__backend *backend_of(const fold *f)
{
	return pgs__db_backend(f->w->db);
}

static const uint8_t *prefix_of(const fold *f)
{
	return pgs__db_prefix(f->w->db);
}

static bool is_going(const fold *f, int result)
{
	return result == PGS_OK && f->ending == GOING;
}

/* --- where we are ------------------------------------------------------------------ */

static void fill_state_reads(const fold *f, pgs_kv_op ops[READ_REST])
{
	ops[READ_M] = pgs__op_get(pgs__key_slice(&f->m), 0);
	ops[READ_Z] = pgs__op_get(pgs__key_slice(&f->z), 0);
	ops[READ_PACK] = pgs__op_get(pgs__key_slice(&f->key), 0);
	ops[READ_CLAIM] = pgs__op_get(pgs__key_slice(&f->claim.key), 0);
	for (size_t i = 0; i < READ_REST; i++)
		ops[i].keys_only = true;
}

/* An index file is not there. Nobody else folds while the claim is ours: then it is damage. */
static int explain_missing(fold *f)
{
	const pgs_kv_op get = pgs__op_get(pgs__key_slice(&f->claim.key), 0);
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend_of(f), &txn, &get, 1, pgs__worker_deadline(f->w), f->w->err);
	bool held = result == PGS_OK && pgs__got(&txn, 0) && pgs__got(&txn, 0)->create_revision == f->claim.held;
	pgs__kv_release(backend_of(f), &txn, 1);
	if (held)
		return pgs__error_prefix(f->w->err, PGS_ECORRUPT, "database %s: folding", f->w->db->name);
	if (result == PGS_OK)
		f->ending = LOST;
	return result;
}

/* The packs as of `revision`, where z had mod revision `epoch`. */
static int take_view(fold *f, uint64_t epoch, uint64_t revision)
{
	if (!f->view || f->epoch != epoch) {
		pgs__pack_view *view;
		int result = pgs__pack_view_get(f->w->db, epoch, revision, pgs__worker_deadline(f->w), &view, f->w->err);
		if (result == PGS_EOLDREV) { /* we stood still: others have moved on, and forgotten that revision */
			f->ending = LOST;
			return PGS_OK;
		}
		if (result != PGS_OK)
			return result == PGS_ENOTFOUND ? explain_missing(f) : result;
		pgs__pack_view_release(f->view);
		f->view = view;
		f->epoch = epoch;
	}
	f->base = revision;
	return PGS_OK;
}

static int take_state(fold *f, const pgs_kv_txn *txn)
{
	const pgs_kv_pair *z = pgs__got(txn, READ_Z), *pack = pgs__got(txn, READ_PACK),
			  *claim = pgs__got(txn, READ_CLAIM);
	if (!pgs__got(txn, READ_M))
		return pgs__error(f->w->err, PGS_ENOTFOUND, "database %s was dropped", f->w->db->name);
	if (!z)
		return pgs__error(f->w->err, PGS_ECORRUPT, "database %s lacks a key it must have (z, structure epoch)",
				  f->w->db->name);
	if (!claim || claim->create_revision != f->claim.held)
		f->ending = LOST;
	else if (!pack || pack->mod_revision != f->pack.revision)
		f->ending = GONE;
	return f->ending == GOING ? take_view(f, z->mod_revision, txn->revision) : PGS_OK;
}

/* Read the state and `rest`, whose results come after READ_REST others. The caller releases *txn in any case. */
static int read_state(fold *f, pgs_kv_op *ops, size_t count, pgs_kv_txn *txn)
{
	fill_state_reads(f, ops);
	int result = pgs__kv_read(backend_of(f), txn, ops, count, pgs__worker_deadline(f->w), f->w->err);
	return result == PGS_OK ? take_state(f, txn) : result;
}

/* One fenced step that also compares the pack unchanged, which is compares[0]. */
static int run_step(fold *f, pgs_kv_compare *compares, size_t compare_count, const pgs_kv_op *ops, size_t op_count,
		    bool *applied)
{
	compares[0] = pgs__if_mod(pgs__key_slice(&f->key), PGS_KV_EQUAL, f->pack.revision);
	pgs__step step = {.compares = compares,
			  .compare_count = compare_count,
			  .ops = ops,
			  .op_count = op_count,
			  .base_revision = f->base};
	int result = pgs__step_run(f->w, &f->claim, &step);
	*applied = result == PGS_OK && step.applied;
	if (result == PGS_EUNKNOWN) /* should it land yet, it does no harm: once the claim is given back it cannot */
		result = pgs__error(f->w->err, PGS_EIO, "the KV does not confirm a step of folding packs");
	return result;
}

/* Before each attempt at a step. */
static int begin_attempt(fold *f, size_t attempt)
{
	if (attempt == ATTEMPTS_MAX || pgs__worker_spent(f->w)) {
		f->ending = STOPPED;
		return PGS_OK;
	}
	int result = pgs__claim_renew(f->w, &f->claim);
	if (result == PGS_EBUSY)
		f->ending = LOST;
	return result == PGS_EBUSY ? PGS_OK : result;
}

static int report_progress(fold *f, uint64_t done)
{
	f->done += done;
	if (!f->w->options.progress)
		return PGS_OK;
	const pgs_maintain_progress p = {"fold", f->done, 0};
	return f->w->options.progress(f->w->options.progress_ctx, &p);
}

/* --- entries ------------------------------------------------------------------------ */

static int pointer_age(const fold *f, uint64_t page_no, const pgs_kv_pair *pair, uint64_t *age)
{
	pgs__pointer pointer;
	uint32_t group = pgs__page_group(page_no, f->w->db->contents.page_size);
	if (pgs__pointer_decode(pair->value, group, &pointer) != PGS_OK)
		return pgs__error_page(f->w->err, PGS_ECORRUPT, page_no,
				       "page %llu: its pointer (revision %llu) in the KV is damaged",
				       (unsigned long long)page_no, (unsigned long long)pair->mod_revision);
	*age = pointer.folded_revision ? pointer.folded_revision : pair->mod_revision;
	return PGS_OK;
}

static int take_pairs(fold *f, size_t first, size_t end, const pgs_kv_result *result)
{
	size_t index = first;
	for (size_t i = 0; i < result->count; i++) {
		uint64_t page_no, age;
		if (!pgs__key_parse_page(result->pairs[i].key, &page_no))
			return pgs__error(f->w->err, PGS_ECORRUPT, "a page's key is malformed");
		while (index < end && f->items[index].page_no < page_no)
			index++;
		if (index == end || f->items[index].page_no != page_no)
			continue;
		int status = pointer_age(f, page_no, &result->pairs[i], &age);
		if (status != PGS_OK)
			return status;
		f->items[index].seen = result->pairs[i].mod_revision;
		f->items[index].due = f->pack.revision > age || PGS__BUG(FOLD_IGNORES_AGE);
	}
	return PGS_OK;
}

/* Leave out what a younger pack has something to say about. */
static int skip_covered(fold *f)
{
	pgs__pack_finder *finder;
	int result = pgs__pack_finder_new(&finder, f->view, backend_of(f), pgs__worker_deadline(f->w), f->w->err);
	for (size_t i = 0; result == PGS_OK && i < f->count; i++) {
		bool covered = false;
		if (f->items[i].due && !PGS__BUG(FOLD_IGNORES_AGE))
			result = pgs__pack_covers(finder, f->items[i].page_no, f->pack.revision, &covered);
		f->items[i].due &= !covered;
	}
	pgs__pack_finder_free(finder);
	return result == PGS_ENOTFOUND ? explain_missing(f) : result;
}

static size_t run_end(const fold *f, size_t first)
{
	size_t end = first + 1;
	while (end < f->count && f->items[end].page_no - f->items[end - 1].page_no <= RUN_GAP &&
	       f->items[end].page_no - f->items[first].page_no < RUN_MAX)
		end++;
	return end;
}

/* Read the p/ keys of the batch, and decide which are due. */
static int read_batch(fold *f, pgs__arena *arena)
{
	pgs_kv_op *ops = pgs__arena_calloc(arena, READ_REST + f->count, sizeof *ops);
	size_t count = READ_REST;
	if (!ops)
		return pgs__error_nomem(f->w->err, "fold");
	for (size_t i = 0, end; i < f->count; i = end) {
		end = run_end(f, i);
		pgs__key first = pgs__key_page(prefix_of(f), f->items[i].page_no),
			 last = pgs__key_page(prefix_of(f), f->items[end - 1].page_no + 1);
		pgs_slice from, to = {0};
		if (pgs__arena_copy(arena, pgs__key_slice(&first), &from) != PGS_OK ||
		    (end - i > 1 && pgs__arena_copy(arena, pgs__key_slice(&last), &to) != PGS_OK))
			return pgs__error_nomem(f->w->err, "fold");
		ops[count++] = pgs__op_range(from, to, 0);
	}
	for (size_t i = 0; i < f->count; i++) {
		f->items[i].seen = 0;
		f->items[i].due = true;
	}
	pgs_kv_txn txn;
	int result = read_state(f, ops, count, &txn);
	for (size_t i = 0, end, op = READ_REST; is_going(f, result) && i < f->count; i = end, op++) {
		end = run_end(f, i);
		result = take_pairs(f, i, end, &txn.results[op]);
	}
	pgs__kv_release(backend_of(f), &txn, 1);
	return is_going(f, result) ? skip_covered(f) : result;
}

/* The pack's pointer as it is put at p/n, in the arena. */
static int encode_folded(const fold *f, const item *it, pgs__arena *arena, pgs_slice *out)
{
	pgs__pointer pointer;
	pgs__buffer b = {0};
	uint32_t group = pgs__page_group(it->page_no, f->w->db->contents.page_size);
	if (pgs__pointer_decode(it->pointer, group, &pointer) != PGS_OK)
		return pgs__error_page(f->w->err, PGS_ECORRUPT, it->page_no,
				       "page %llu: its pointer in the pack of revision %llu is damaged",
				       (unsigned long long)it->page_no, (unsigned long long)f->pack.revision);
	pointer.folded_revision = f->pack.revision;
	pgs__pointer_encode(&pointer, &b);
	int result = b.failed || pgs__arena_copy(arena, pgs__buffer_slice(&b), out) != PGS_OK
			     ? pgs__error_nomem(f->w->err, "fold")
			     : PGS_OK;
	pgs__buffer_free(&b);
	return result;
}

/* Whether there is room for these puts. A pack takes less of the KV than its pointers in keys of their own. */
static int admit(fold *f, const pgs_kv_op *ops, size_t count)
{
	pgs_db *db = f->w->db;
	pgs_error why = PGS_ERROR_INIT;
	uint64_t bytes = 0;
	for (size_t i = 0; i < count; i++)
		bytes += ops[i].key.size + ops[i].value.size + PGS__ROOM_OP_BYTES;
	int result = pgs__room_admit(db->store, db->name, bytes, pgs__worker_deadline(f->w), &why);
	if (result == PGS_OK) {
		pgs__room_note(db->store, bytes);
		return PGS_OK;
	}
	f->ending = FULL;
	pgs__log(db->store, PGS_LOG_WARN, "packs are not folded: %s", why.message);
	return PGS_OK;
}

static int put_batch(fold *f, pgs__arena *arena, bool *done)
{
	pgs_kv_compare *compares = pgs__arena_calloc(arena, 1 + f->count, sizeof *compares);
	pgs_kv_op *ops = pgs__arena_calloc(arena, f->count, sizeof *ops);
	size_t count = 0;
	if (!compares || !ops)
		return pgs__error_nomem(f->w->err, "fold");
	for (size_t i = 0; i < f->count; i++) {
		const item *it = &f->items[i];
		pgs_slice key, value;
		if (!it->due)
			continue;
		pgs__key page = pgs__key_page(prefix_of(f), it->page_no);
		if (pgs__arena_copy(arena, pgs__key_slice(&page), &key) != PGS_OK)
			return pgs__error_nomem(f->w->err, "fold");
		int result = encode_folded(f, it, arena, &value);
		if (result != PGS_OK)
			return result;
		ops[count++] = pgs__op_put(key, value);
		compares[count] = pgs__if_mod(key, PGS_KV_EQUAL, it->seen); /* the pack's is compares[0] */
	}
	*done = count == 0;
	if (*done)
		return PGS_OK;
	int result = admit(f, ops, count);
	if (!is_going(f, result))
		return result;
	result = run_step(f, compares, 1 + count, ops, count, done);
	if (*done)
		f->w->report->folded_pointers += count;
	return result;
}

/* Where to go on when the fold of this pack is begun again. */
static uint64_t folded_pages(const fold *f)
{
	pgs_db *db = f->w->db;
	pthread_mutex_lock(&db->packs_lock);
	uint64_t page = db->folded.pack == f->pack.revision ? db->folded.page : 0;
	pthread_mutex_unlock(&db->packs_lock);
	return page;
}

static void note_folded(const fold *f, uint64_t page)
{
	pgs_db *db = f->w->db;
	pthread_mutex_lock(&db->packs_lock);
	db->folded.pack = f->pack.revision;
	db->folded.page = page;
	pthread_mutex_unlock(&db->packs_lock);
}

/* Until the batch is folded: a step that fails met a commit, which made pages younger than the pack, or was applied
 * without our hearing of it. */
static int fold_batch(fold *f)
{
	bool done = f->count == 0;
	size_t count = f->count;
	int result = PGS_OK;
	for (size_t attempt = 0; is_going(f, result) && !done; attempt++) {
		pgs__arena arena = {0};
		result = begin_attempt(f, attempt);
		if (is_going(f, result))
			result = read_batch(f, &arena);
		if (is_going(f, result))
			result = put_batch(f, &arena, &done);
		pgs__arena_free(&arena);
	}
	if (is_going(f, result) && count)
		note_folded(f, f->items[count - 1].page_no + 1);
	pgs__arena_free(&f->arena);
	f->count = f->bytes = 0;
	return is_going(f, result) ? report_progress(f, count) : result;
}

static int add_entry(fold *f, uint64_t page_no, pgs_slice pointer)
{
	size_t bytes = ENTRY_BYTES + pointer.size;
	int result = PGS_OK;
	if (f->count == f->room || (f->count && f->bytes + bytes > f->bytes_room))
		result = fold_batch(f);
	if (!is_going(f, result))
		return result;
	item *it = &f->items[f->count++];
	*it = (item){.page_no = page_no};
	f->bytes += bytes;
	return pgs__arena_copy(&f->arena, pointer, &it->pointer) == PGS_OK ? PGS_OK
									   : pgs__error_nomem(f->w->err, "fold");
}

static int fold_entries(fold *f)
{
	pgs__pack_walk walk;
	uint64_t page_no;
	pgs_slice pointer;
	bool found = true;
	int result = PGS_OK;
	pgs__pack_walk_open(&walk, f->source, f->index, backend_of(f), folded_pages(f));
	while (is_going(f, result) && found) {
		result = pgs__pack_walk_next(&walk, &found, &page_no, &pointer, pgs__worker_deadline(f->w), f->w->err);
		if (result == PGS_ENOTFOUND)
			result = explain_missing(f);
		else if (result == PGS_OK && found)
			result = add_entry(f, page_no, pointer);
	}
	pgs__pack_walk_close(&walk);
	return is_going(f, result) ? fold_batch(f) : result;
}

/* --- truncated ranges ---------------------------------------------------------------- */

/* Keys that exist, [from, end), and what of them goes: runs of neighbours, each one range compared and deleted. */
typedef struct window {
	uint64_t from, end;
	pgs__arena arena;
	pgs_kv_compare *compares;
	pgs_kv_op *ops;
	size_t run_count, room;
	size_t seen;   /* keys */
	uint64_t next; /* where to go on */
} window;

/* A key that goes: it lengthens the last run, or begins one. */
static int add_to_run(fold *f, window *v, uint64_t page_no, bool in_run)
{
	pgs__key first = pgs__key_page(prefix_of(f), page_no), end = pgs__key_page(prefix_of(f), page_no + 1);
	pgs_kv_op *op = &v->ops[in_run ? v->run_count - 1 : v->run_count];
	if (!in_run) {
		if (pgs__arena_copy(&v->arena, pgs__key_slice(&first), &op->key) != PGS_OK)
			return pgs__error_nomem(f->w->err, "fold");
		op->kind = PGS_KV_DELETE;
		v->run_count++;
	}
	return pgs__arena_copy(&v->arena, pgs__key_slice(&end), &op->range_end) == PGS_OK
		       ? PGS_OK
		       : pgs__error_nomem(f->w->err, "fold");
}

/* What is in the range and older than the pack goes. The pack's own entries are not older: they are folded. */
static int plan_window(fold *f, window *v, const pgs_kv_result *found)
{
	uint64_t page_no, age = 0, last = 0;
	bool in_run = false;
	v->seen = found->count;
	v->next = v->end;
	for (size_t i = 0; i < found->count; i++) {
		if (!pgs__key_parse_page(found->pairs[i].key, &page_no))
			return pgs__error(f->w->err, PGS_ECORRUPT, "a page's key is malformed");
		int result = pointer_age(f, page_no, &found->pairs[i], &age);
		bool goes = age < f->pack.revision;
		if (result == PGS_OK && goes && !in_run && v->run_count == v->room) {
			v->next = page_no;
			return PGS_OK;
		}
		if (result == PGS_OK && goes)
			result = add_to_run(f, v, page_no, in_run);
		if (result != PGS_OK)
			return result;
		in_run = goes;
		last = page_no;
	}
	if (found->more)
		v->next = last + 1;
	return PGS_OK;
}

/* In none of the runs was anything put since they were read. */
static void compare_runs(window *v, uint64_t revision)
{
	for (size_t i = 0; i < v->run_count; i++) {
		v->compares[1 + i] = pgs__if_mod(v->ops[i].key, PGS_KV_LESS, revision + 1); /* [0]: the pack's */
		v->compares[1 + i].range_end = v->ops[i].range_end;
	}
}

static int read_window(fold *f, window *v)
{
	pgs__key first = pgs__key_page(prefix_of(f), v->from), end = pgs__key_page(prefix_of(f), v->end);
	pgs_kv_op ops[READ_REST + 1];
	pgs_kv_txn txn;
	ops[READ_REST] = pgs__op_range(pgs__key_slice(&first), pgs__key_slice(&end), 0);
	ops[READ_REST].limit = RUN_MAX;
	v->run_count = 0;
	v->compares = pgs__arena_calloc(&v->arena, 1 + v->room, sizeof *v->compares);
	v->ops = pgs__arena_calloc(&v->arena, v->room, sizeof *v->ops);
	if (!v->compares || !v->ops)
		return pgs__error_nomem(f->w->err, "fold");
	int result = read_state(f, ops, READ_REST + 1, &txn);
	if (is_going(f, result))
		result = plan_window(f, v, &txn.results[READ_REST]);
	compare_runs(v, txn.revision);
	pgs__kv_release(backend_of(f), &txn, 1);
	return result;
}

static int clear_window(fold *f, window *v)
{
	bool done = false;
	int result = PGS_OK;
	for (size_t attempt = 0; is_going(f, result) && !done; attempt++) {
		result = begin_attempt(f, attempt);
		if (is_going(f, result))
			result = read_window(f, v);
		if (!is_going(f, result))
			break;
		done = v->run_count == 0;
		if (!done)
			result = run_step(f, v->compares, 1 + v->run_count, v->ops, v->run_count, &done);
		pgs__arena_free(&v->arena);
	}
	pgs__arena_free(&v->arena);
	return is_going(f, result) && v->seen ? report_progress(f, v->seen) : result;
}

static int fold_range(fold *f, pgs__page_range range)
{
	uint64_t width = WINDOW_FIRST;
	int result = PGS_OK;
	window v = {.next = range.first, .room = f->room};
	while (is_going(f, result) && v.next < range.end) {
		v.from = v.next;
		v.end = range.end - v.from > width ? v.from + width : range.end;
		result = clear_window(f, &v);
		if (v.seen < WINDOW_FEW && width <= UINT64_MAX / 4)
			width *= 2;
		else if (v.seen >= RUN_MAX)
			width = WINDOW_FIRST;
	}
	return result;
}

static int fold_ranges(fold *f)
{
	pgs_slice rest = f->pack.decoded->range_bytes;
	pgs__page_range range;
	int result = PGS_OK;
	while (is_going(f, result) && pgs__pack_next_range(&rest, &range))
		result = fold_range(f, range);
	return result;
}

/* --- a pack, all packs ------------------------------------------------------------------ */

static int send_deletion(fold *f, bool *done)
{
	char file_name[PGS__FILE_NAME_MAX + 1] = "";
	pgs_slice name = f->pack.decoded->file_name;
	if (f->pack.decoded->in_file && name.size <= PGS__FILE_NAME_MAX)
		memcpy(file_name, name.data, name.size); /* the rest is zeros */
	pgs__key d = pgs__key_unregistered(prefix_of(f), file_name);
	pgs_kv_compare compares[1];
	const pgs_kv_op ops[] = {
		pgs__op_delete(pgs__key_slice(&f->key), (pgs_slice){0}),
		pgs__op_put(pgs__key_slice(&f->z), (pgs_slice){f->pack.uuid, 16}),
		pgs__op_put(pgs__key_slice(&d), (pgs_slice){0}),
	};
	return run_step(f, compares, 1, ops, f->pack.decoded->in_file ? 3 : 2, done);
}

static int delete_pack(fold *f)
{
	bool done = false;
	int result = PGS_OK;
	for (size_t attempt = 0; is_going(f, result) && !done; attempt++) {
		pgs_kv_op ops[READ_REST];
		pgs_kv_txn txn;
		result = begin_attempt(f, attempt);
		if (!is_going(f, result))
			break;
		result = read_state(f, ops, READ_REST, &txn);
		pgs__kv_release(backend_of(f), &txn, 1);
		if (is_going(f, result))
			result = send_deletion(f, &done);
	}
	/* Gone, when it was there a moment ago and the claim is still ours: our own step, whose reply was lost. */
	if (result == PGS_OK && (done || f->ending == GONE)) {
		f->ending = GONE;
		f->w->report->folded_packs++;
	}
	return result;
}

static int fold_pack(fold *f, size_t index)
{
	f->source = f->view;
	f->view = NULL;
	f->index = index;
	f->pack = pgs__pack_view_at(f->source, index);
	f->key = pgs__key_uuid(prefix_of(f), 'o', f->pack.uuid);
	int result = PGS__BUG(PACK_DELETED_UNFOLDED) ? PGS_OK : fold_entries(f);
	if (is_going(f, result) && !PGS__BUG(PACK_DELETED_UNFOLDED))
		result = fold_ranges(f);
	if (is_going(f, result))
		result = delete_pack(f);
	pgs__arena_free(&f->arena);
	f->count = f->bytes = 0;
	pgs__pack_view_release(f->view);
	pgs__pack_view_release(f->source);
	f->view = f->source = NULL;
	return result;
}

/* The list of packs as it is now, in f->view. */
static int list_packs(fold *f)
{
	const pgs_kv_op ops[] = {pgs__op_get(pgs__key_slice(&f->m), 0), pgs__op_get(pgs__key_slice(&f->z), 0)};
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend_of(f), &txn, ops, 2, pgs__worker_deadline(f->w), f->w->err);
	if (result == PGS_OK && (!pgs__got(&txn, 0) || !pgs__got(&txn, 1)))
		result = pgs__error(f->w->err, PGS_ENOTFOUND, "database %s was dropped", f->w->db->name);
	if (result == PGS_OK)
		result = take_view(f, pgs__got(&txn, 1)->mod_revision, txn.revision);
	pgs__kv_release(backend_of(f), &txn, 1);
	return result;
}

static int fold_all(fold *f)
{
	int result = PGS_OK;
	while (is_going(f, result)) {
		result = list_packs(f);
		size_t count = is_going(f, result) ? pgs__pack_view_count(f->view) : 0;
		if (count == 0)
			break;
		result = fold_pack(f, PGS__BUG(FOLD_NEWEST_FIRST) ? 0 : count - 1);
		if (f->ending == GONE)
			f->ending = GOING;
	}
	pgs__pack_view_release(f->view);
	f->view = NULL;
	return result;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static int run_claimed(pgs__worker *w, const pgs__claim *claim)
{
	fold *f = pgs__calloc(1, sizeof *f);
	if (!f)
		return pgs__error_nomem(w->err, "fold");
	size_t ops = pgs__max_ops(pgs__db_backend(w->db)), room = pgs__step_room(w);
	room = room > 1 ? room - 1 : 1;
	f->w = w;
	f->claim = *claim;
	f->m = pgs__key_single(prefix_of(f), 'm');
	f->z = pgs__key_single(prefix_of(f), 'z');
	/* A batch is read with the state in one transaction, and put comparing the pack too in another. */
	f->room = smaller(BATCH_MAX, smaller(room, ops > READ_REST ? ops - READ_REST : 1));
	f->bytes_room = smaller(BATCH_BYTES, pgs__max_bytes(pgs__db_backend(w->db)) / 2);
	int result = fold_all(f);
	w->report->more |= f->ending == STOPPED;
	w->report->busy |= f->ending == LOST;
	pgs__claim_release(w, &f->claim);
	pgs__free(f);
	return result;
}

static int count_packs(pgs__worker *w, uint64_t *count)
{
	const pgs__key_space space = pgs__db_space(w->db);
	pgs__walk walk;
	pgs__walk_kind(&walk, pgs__db_prefix(w->db), 'o', &space, 1);
	return pgs__walk_count(&walk, 1, UINT64_MAX, count, pgs__db_backend(w->db), pgs__worker_deadline(w), w->err);
}

int pgs__job_fold(pgs__worker *w)
{
	const pgs__scope scope = {.jobs = PGS__JOB_FOLD};
	pgs__claim claim = {.held = 0};
	uint64_t packs = 0;
	int result = count_packs(w, &packs);
	if (result == PGS_OK && packs > 0 && !w->options.dry_run) {
		result = pgs__claim_take(w, &scope, &claim);
		if (result == PGS_EBUSY)
			w->report->busy = true;
		if (result == PGS_OK || result == PGS_EBUSY)
			result = result == PGS_OK ? run_claimed(w, &claim) : PGS_OK;
		if (result == PGS_OK)
			result = count_packs(w, &packs);
	}
	if (result == PGS_OK)
		w->report->due_packs = packs;
	return result;
}
