/* The live set, a window of groups at a time.
 *
 *     pgs__live_has(id) ── group in the window? ── binary search
 *                             └─ no: read the pointers of the next groups at the floor, and in named snapshots
 *
 * A window is one group when requests are sparse. While they go on where the last window ended it doubles, up to
 * WINDOW_PAGES pages together, so that a merge of everything takes few large reads and one of a few ids few small ones.
 *
 * Named snapshots are listed when the floor is opened, after it was published: one that is registered later compares
 * the floor with its revision, so what it needs is live or young. If a record or an index file cannot be read, nobody
 * can tell what is garbage: that is an error, and nothing is dropped.
 *
 * If the floor moved on and the KV was compacted to it while a merge ran, the set is opened again at the new floor:
 * what is garbage at one floor is garbage for ever, so verdicts of both may be mixed.
 */
#include "maintain/live.h"

#include <stdlib.h>
#include <string.h>

#include "codec/snapshot_record.h"
#include "txn/index_file.h"
#include "txn/snapshot.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define WINDOW_PAGES (64u << 10)
#define ATTEMPTS 3 /* floors that may pass during one request */

/* A named snapshot. */
typedef struct named {
	pgs__key key;
	uint64_t registered; /* mod revision of the key */
	bool dropped;        /* since it was listed */
	uint8_t *value;      /* the record borrows from it */
	pgs__snapshot_record record;
	pgs__index_file file; /* the one that was read last; zeroed = none */
	uint64_t file_first;  /* its first page: which one it is */
} named;

struct pgs__live {
	pgs__worker *w;
	uint64_t floor;
	pgs__snapshot snapshot; /* at the floor */
	bool open;
	uint64_t first, end;    /* groups of the window */
	pgs__page_id *ids;      /* of the window, rising */
	size_t count, capacity;
	named *named;
	size_t named_count, named_capacity;
};

/* --- collecting ids ---------------------------------------------------------- */

static int add_id(pgs__live *live, const pgs__page_id *id)
{
	if (pgs__grow(&live->ids, &live->capacity, live->count + 1, sizeof *live->ids) != PGS_OK)
		return pgs__error_nomem(live->w->err, "live set");
	live->ids[live->count++] = *id;
	return PGS_OK;
}

static int add_pointer(void *ctx, uint64_t page_no, const pgs__pointer *pointer)
{
	pgs__live *live = ctx;
	int result = PGS_OK;
	(void)page_no;
	if (pointer->kind != PGS__POINTER_ZERO)
		result = add_id(live, &pointer->id);
	if (result == PGS_OK && pointer->has_base && !PGS__BUG(LIVE_WITHOUT_BASES))
		result = add_id(live, &pointer->base);
	return result;
}

static int by_id(const void *a, const void *b)
{
	return memcmp(a, b, PGS__ID_SIZE);
}

static void sort_ids(pgs__live *live)
{
	size_t kept = 0;
	if (live->count > 1)
		qsort(live->ids, live->count, sizeof *live->ids, by_id);
	for (size_t i = 0; i < live->count; i++)
		if (kept == 0 || !pgs__page_id_equal(&live->ids[i], &live->ids[kept - 1]))
			live->ids[kept++] = live->ids[i];
	live->count = kept;
}

/* --- named snapshots ----------------------------------------------------------- */

static int add_encoded(pgs__live *live, const named *n, uint64_t page_no, pgs_slice bytes)
{
	pgs__pointer pointer;
	if (pgs__pointer_decode(bytes, pgs__page_group(page_no, live->w->db->contents.page_size), &pointer) != PGS_OK)
		return pgs__error_page(live->w->err, PGS_ECORRUPT, page_no,
				       "page %llu: its pointer in index file %s of a named snapshot is damaged",
				       (unsigned long long)page_no, n->file.blob_name);
	return add_pointer(live, page_no, &pointer);
}

/* The pointers of pages [first, end) in one index file. */
static int add_from_file(pgs__live *live, named *n, const pgs__snapshot_file *file, uint64_t first, uint64_t end)
{
	const pgs__worker *w = live->w;
	uint64_t page_no;
	pgs_slice pointer;
	bool found = true;
	int result = PGS_OK;
	if (!n->file.table || n->file_first != file->first) {
		pgs__index_file_close(&n->file);
		n->file_first = file->first;
		result = pgs__index_file_open(&n->file, w->db, file->name, false, pgs__worker_deadline(w), w->err);
		if (result != PGS_OK)
			return result;
	}
	pgs__index_cursor cursor;
	pgs__index_cursor_open(&cursor, &n->file, pgs__db_backend(w->db), first, end);
	while (result == PGS_OK && found) {
		result = pgs__index_cursor_next(&cursor, &found, &page_no, &pointer, pgs__worker_deadline(w), w->err);
		if (result == PGS_OK && found)
			result = add_encoded(live, n, page_no, pointer);
	}
	pgs__index_cursor_close(&cursor);
	return result;
}

/* Something of a snapshot could not be read: that is how it must be, if it was dropped meanwhile. */
static int explain_unreadable(pgs__live *live, named *n, int result)
{
	pgs__worker *w = live->w;
	pgs_error local = PGS_ERROR_INIT;
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&n->key), 0);
	op.keys_only = true;
	pgs_kv_txn txn;
	if (pgs__kv_read(pgs__db_backend(w->db), &txn, &op, 1, pgs__worker_deadline(w), &local) == PGS_OK) {
		const pgs_kv_pair *pair = pgs__got(&txn, 0);
		n->dropped = !pair || pair->mod_revision != n->registered;
	}
	pgs__kv_release(pgs__db_backend(w->db), &txn, 1);
	if (n->dropped)
		return PGS_OK;
	return pgs__error_prefix(w->err, result == PGS_ENOTFOUND ? PGS_ECORRUPT : result,
				 "an index file of a named snapshot cannot be read, so what it keeps is not known");
}

static int add_named(pgs__live *live, named *n, uint64_t first, uint64_t end)
{
	pgs__snapshot_files_reader files = pgs__snapshot_files_open(&n->record);
	pgs__snapshot_file file;
	int result = PGS_OK;
	while (result == PGS_OK && !n->dropped && pgs__snapshot_next_file(&files, &file)) {
		if (file.end <= first || file.first >= end)
			continue;
		result = add_from_file(live, n, &file, first, end);
		if (result == PGS_ENOTFOUND || result == PGS_ECORRUPT)
			result = explain_unreadable(live, n, result);
	}
	return result;
}

static int list_one(void *ctx, const pgs_kv_pair *pair)
{
	pgs__live *live = ctx;
	pgs_error *err = live->w->err;
	if (pair->key.size > PGS__KEY_MAX)
		return pgs__error(err, PGS_ECORRUPT, "a named snapshot's key is malformed");
	if (pgs__grow(&live->named, &live->named_capacity, live->named_count + 1, sizeof *live->named) != PGS_OK)
		return pgs__error_nomem(err, "named snapshots");
	named *n = &live->named[live->named_count];
	*n = (named){.registered = pair->mod_revision, .value = pgs__malloc(pair->value.size)};
	if (!n->value)
		return pgs__error_nomem(err, "named snapshots");
	live->named_count++;
	n->key.size = (uint16_t)pair->key.size;
	memcpy(n->key.bytes, pair->key.data, pair->key.size);
	if (pair->value.size)
		memcpy(n->value, pair->value.data, pair->value.size);
	int result = pgs__snapshot_decode((pgs_slice){n->value, pair->value.size}, &n->record);
	char name[2 * PGS__KEY_MAX];
	if (result != PGS_OK)
		pgs__error(err, result, "the record of a named snapshot (key %s) is damaged or of a newer version",
			   pgs__printable(name, sizeof name, n->key.bytes, n->key.size));
	return result;
}

static void forget_named(pgs__live *live)
{
	for (size_t i = 0; i < live->named_count; i++) {
		pgs__index_file_close(&live->named[i].file);
		pgs__free(live->named[i].value);
	}
	live->named_count = 0;
}

static int list_named(pgs__live *live)
{
	const pgs__worker *w = live->w;
	pgs__key from = pgs__key_kind(pgs__db_prefix(w->db), 's'), end = pgs__key_kind_end(pgs__db_prefix(w->db), 's');
	int result = PGS_EOLDREV;
	for (int i = 0; result == PGS_EOLDREV && i < ATTEMPTS; i++) { /* compacted between two pages of the list */
		uint64_t revision = 0;
		forget_named(live);
		result = pgs__kv_read_range(pgs__db_backend(w->db), &from, &end, &revision, list_one, live,
					    pgs__worker_deadline(w), w->err);
	}
	if (PGS__BUG(SNAPSHOT_NOT_LIVE))
		forget_named(live);
	return result;
}

/* --- the window --------------------------------------------------------------- */

/* The groups to read when `group` is asked for. Many snapshots make it smaller: each may hold other contents. */
static void choose_window(const pgs__live *live, uint64_t group, uint64_t *first, uint64_t *end)
{
	uint64_t max = WINDOW_PAGES / (1 + live->named_count) / pgs__pages_per_group(live->w->db->contents.page_size);
	uint64_t before = live->end - live->first, size = 1;
	if (before && group >= live->end && group - live->end < before)
		size = 2 * before < max ? 2 * before : max;
	size = size ? size : 1;
	*first = group;
	*end = group + size;
}

static int load_window(pgs__live *live, uint64_t group)
{
	const pgs__worker *w = live->w;
	uint64_t per_group = pgs__pages_per_group(w->db->contents.page_size), first, end;
	choose_window(live, group, &first, &end);
	live->count = 0;
	live->first = live->end = 0; /* no window, until all of it is read */
	int result = pgs__pointers_scan(&live->snapshot, first * per_group, end * per_group, add_pointer, live,
					pgs__worker_deadline(w), w->err);
	sort_ids(live);
	for (size_t i = 0; result == PGS_OK && i < live->named_count; i++) {
		result = add_named(live, &live->named[i], first * per_group, end * per_group);
		sort_ids(live); /* one after the other: most of them hold the same */
	}
	if (result != PGS_OK)
		return result;
	live->first = first;
	live->end = end;
	return PGS_OK;
}

/* --- opening -------------------------------------------------------------------- */

static void close_floor(pgs__live *live)
{
	if (live->open)
		pgs__snapshot_close(&live->snapshot);
	live->open = false;
}

static int open_floor(pgs__live *live)
{
	pgs__worker *w = live->w;
	live->floor = w->floor.floor;
	if (live->floor == 0)
		return PGS_OK; /* never published: nothing is garbage */
	int result = pgs__snapshot_open(&live->snapshot, w->db, live->floor, pgs__worker_deadline(w), w->err);
	live->open = true;
	if (result == PGS_OK)
		result = list_named(live);
	if (result != PGS_OK)
		close_floor(live);
	return result;
}

/* The floor could not be read: it may have moved on, and what is below it may be gone. */
static int follow_floor(pgs__live *live)
{
	pgs__worker *w = live->w;
	uint64_t before = live->floor;
	close_floor(live);
	int result = pgs__worker_read_floor(w);
	if (result == PGS_OK && w->floor.floor == before)
		return pgs__error(w->err, PGS_EOLDREV,
				  "database %s: the KV was compacted above the floor (revision %llu) by someone else; "
				  "what is live cannot be told until the floor is raised",
				  w->db->name, (unsigned long long)before);
	return result;
}

/* Open the floor if it is not, and read the window of a group; UINT64_MAX = only open. */
static int load(pgs__live *live, uint64_t group)
{
	for (int i = 0;; i++) {
		int result = live->open ? PGS_OK : open_floor(live);
		if (result == PGS_OK && group != UINT64_MAX && live->floor)
			result = load_window(live, group);
		if (result != PGS_EOLDREV || i == ATTEMPTS)
			return result;
		result = follow_floor(live);
		if (result != PGS_OK)
			return result;
	}
}

int pgs__live_open(pgs__live **out, pgs__worker *w)
{
	pgs__live *live = *out = pgs__calloc(1, sizeof *live);
	if (!live)
		return pgs__error_nomem(w->err, "live set");
	live->w = w;
	int result = load(live, UINT64_MAX);
	if (result != PGS_OK) {
		pgs__live_close(live);
		*out = NULL;
	}
	return result;
}

void pgs__live_close(pgs__live *live)
{
	if (!live)
		return;
	close_floor(live);
	forget_named(live);
	pgs__free(live->named);
	pgs__free(live->ids);
	pgs__free(live);
}

/* --- counting ---------------------------------------------------------------------- */

uint64_t pgs__live_count_max(const pgs__live *live)
{
	uint64_t count = live->open ? live->snapshot.extent : 0;
	for (size_t i = 0; i < live->named_count; i++) {
		pgs__snapshot_files_reader files = pgs__snapshot_files_open(&live->named[i].record);
		pgs__snapshot_file file;
		while (pgs__snapshot_next_file(&files, &file))
			count += file.pointer_count;
	}
	return count;
}

/* --- asking ------------------------------------------------------------------------ */

static bool find(const pgs__live *live, const pgs__page_id *id)
{
	size_t low = 0, high = live->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = memcmp(live->ids[middle].bytes, id->bytes, PGS__ID_SIZE);
		if (order == 0)
			return true;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

int pgs__live_has(pgs__live *live, const pgs__page_id *id, bool *is_live)
{
	uint64_t group = pgs__page_id_group(id);
	int result = PGS_OK;
	*is_live = true;
	if (live->floor && (group < live->first || group >= live->end))
		result = load(live, group);
	if (result == PGS_OK && live->floor)
		*is_live = find(live, id);
	return result;
}
