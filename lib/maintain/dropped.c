/* What dropped databases leave.
 *
 *     pgs_db_drop: n/, m, g, t deleted, D/<prefix> put ─→ keys below the prefix ─→ blobs ─→ D/<prefix> deleted
 *
 *  - Everything that puts a key below a prefix compares that m exists: once it is deleted nothing is added.
 *  - A blob may be added, by a writer that has not met the drop yet, even after D/ is gone. No key will ever name it:
 *    its folder has neither an m nor a D/ then, and is a stray. A database has its m before it has a blob, and a prefix
 *    is never used twice; so blobs are listed first, and m looked for after.
 *  - Every operation here deletes what nobody wants. It may be done twice, late, or by two at once.
 */
#include "maintain/dropped.h"

#include <string.h>

#include "codec/meta.h"
#include "content/walk.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define KEYS_PAGE 500 /* deleted at once */
#define GROUP_PAGES 2048 /* of a group, at most: the page size is not known any more */
#define TIMEOUT_DEFAULT_MS 30000
#define FOLDER_DIGITS ((size_t)2 * PGS__PREFIX_SIZE)

static uint64_t call_deadline(const pgs_store *store)
{
	return pgs__now_ms() + (store->timeout_ms ? store->timeout_ms : TIMEOUT_DEFAULT_MS);
}

static uint64_t end_of(const pgs_maintain_options *options)
{
	return options->budget_ms ? pgs__now_ms() + options->budget_ms : 0;
}

pgs__key pgs__dropped_key(const uint8_t *prefix)
{
	pgs__key key = {.size = 2 + PGS__PREFIX_SIZE, .bytes = "D/"};
	memcpy(key.bytes + 2, prefix, PGS__PREFIX_SIZE);
	return key;
}

pgs__key pgs__announced_key(const uint8_t *prefix)
{
	pgs__key key = pgs__dropped_key(prefix);
	key.bytes[0] = 'N';
	return key;
}

static pgs__key copy_key(pgs_slice from)
{
	pgs__key key = {.size = (uint16_t)(from.size < PGS__KEY_MAX ? from.size : PGS__KEY_MAX - 1)};
	memcpy(key.bytes, from.data, key.size);
	return key;
}

/* --- blobs ------------------------------------------------------------------------ */

typedef struct blob_name {
	char text[PGS_BLOB_NAME_MAX + 1];
	uint64_t size;
} blob_name;

typedef struct blob_list {
	blob_name *list;
	size_t count, capacity;
	bool ours_only; /* names that pagestore gives to files */
} blob_list;

static int collect_blob(void *ctx, const char *name, uint64_t size)
{
	blob_list *b = ctx;
	const char *slash = strchr(name, '/');
	pgs__file_name parsed;
	if (strlen(name) > PGS_BLOB_NAME_MAX ||
	    (b->ours_only && (!slash || !pgs__file_name_parse((pgs_slice){slash + 1, strlen(slash + 1)}, &parsed))))
		return PGS_OK;
	if (pgs__grow(&b->list, &b->capacity, b->count + 1, sizeof *b->list) != PGS_OK)
		return PGS_ENOMEM;
	b->list[b->count].size = size;
	strcpy(b->list[b->count++].text, name);
	return PGS_OK;
}

/* Remove the blobs of a folder, "<16 hex>/". */
static int sweep_blobs(pgs_store *store, const char *folder, bool ours_only, uint64_t end_ms,
		       pgs_maintain_report *report, size_t *removed, bool *done, pgs_error *err)
{
	pgs_blob *blob = store->backend.blob;
	blob_list b = {.ours_only = ours_only};
	int result = blob->vtable->list(blob, folder, collect_blob, &b, call_deadline(store), err);
	if (result == PGS_ENOMEM)
		result = pgs__error_nomem(err, "list of blobs");
	*removed = 0;
	*done = result == PGS_OK;
	for (size_t i = 0; result == PGS_OK && *done && i < b.count; i++) {
		*done = !pgs__deadline_passed(end_ms);
		if (*done)
			result = blob->vtable->remove(blob, b.list[i].text, call_deadline(store), err);
		if (!*done || result != PGS_OK)
			break;
		++*removed;
		report->removed_blobs++;
		report->removed_bytes += b.list[i].size;
	}
	pgs__free(b.list);
	return result;
}

/* --- a dropped database -------------------------------------------------------------- */

/* The next keys of a walk go, those of one result as one range: nothing is added between them. */
static int delete_page(pgs_store *store, pgs__walk *walk, pgs_error *err)
{
	pgs_kv_op deletes[PGS__WALK_OPS];
	pgs__key ends[PGS__WALK_OPS];
	size_t count = 0;
	pgs__walk_page page;
	pgs_kv_txn removal = {.compare_count = 0};
	int result = pgs__walk_next(walk, &store->backend, &page, call_deadline(store), err);
	for (size_t i = 0; result == PGS_OK && i < page.used; i++) {
		const pgs_kv_result *r = &page.txn.results[i];
		if (r->count == 0)
			continue;
		pgs__key last = copy_key(r->pairs[r->count - 1].key);
		ends[count] = pgs__key_after(&last);
		deletes[count] = pgs__op_delete(r->pairs[0].key, pgs__key_slice(&ends[count]));
		count++;
	}
	if (result == PGS_OK && count)
		result = pgs__kv_read(&store->backend, &removal, deletes, count, call_deadline(store), err);
	pgs__kv_release(&store->backend, &removal, 1);
	pgs__kv_release(&store->backend, &page.txn, 1);
	return result;
}

static int delete_walked(pgs_store *store, pgs__walk *walk, uint64_t end_ms, bool *done, pgs_error *err)
{
	int result = PGS_OK;
	walk->keys_only = true;
	while (result == PGS_OK && pgs__walk_more(walk) && !pgs__deadline_passed(end_ms))
		result = delete_page(store, walk, err);
	*done = result == PGS_OK && !pgs__walk_more(walk);
	return result;
}

/* Of the metadata, the page count is left; it goes last. Contents and commits there may be any number of. */
static int read_space(pgs_store *store, const uint8_t *prefix, pgs__key_space *space, pgs_error *err)
{
	pgs__key e = pgs__key_single(prefix, 'e');
	const pgs_kv_op get = pgs__op_get(pgs__key_slice(&e), 0);
	pgs_kv_txn txn;
	*space = (pgs__key_space){.contents = UINT64_MAX, .commits = UINT64_MAX, .group_pages = GROUP_PAGES};
	int result = pgs__kv_read(&store->backend, &txn, &get, 1, call_deadline(store), err);
	if (result == PGS_OK && pgs__got(&txn, 0)) /* damaged, it is as good as not there */
		pgs__number_decode(pgs__got(&txn, 0)->value, &space->page_count);
	pgs__kv_release(&store->backend, &txn, 1);
	return result;
}

/* Delete all below the prefix: if it is not small, the kinds first of which there may be many; then the rest. */
static int sweep_keys(pgs_store *store, const uint8_t *prefix, const pgs__key_space *known, uint64_t end_ms, bool *done,
		      pgs_error *err)
{
	static const char kinds[] = {'p', 'c', 'x', 'l'};
	bool small = known && known->commits < PGS__WALK_FEW && known->page_count + known->commits < PGS__WALK_FEW;
	pgs__key first = {.size = PGS__PREFIX_SIZE}, end = pgs__key_prefix_end(prefix);
	pgs__key_space space;
	pgs__walk walk;
	int result = small ? PGS_OK : read_space(store, prefix, &space, err);
	memcpy(first.bytes, prefix, PGS__PREFIX_SIZE);
	*done = true;
	for (size_t i = 0; !small && result == PGS_OK && *done && i < sizeof kinds; i++) {
		pgs__walk_kind(&walk, prefix, kinds[i], &space, KEYS_PAGE);
		walk.evenly = kinds[i] == 'c'; /* there may be many more groups */
		result = delete_walked(store, &walk, end_ms, done, err);
	}
	if (result != PGS_OK || !*done)
		return result;
	pgs__walk_range(&walk, &first, &end, KEYS_PAGE);
	return delete_walked(store, &walk, end_ms, done, err);
}

static int forget_database(pgs_store *store, const uint8_t *prefix, pgs_error *err)
{
	pgs__key key = pgs__dropped_key(prefix);
	const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&key), (pgs_slice){0});
	pgs_kv_txn txn;
	int result = pgs__kv_read(&store->backend, &txn, &delete, 1, call_deadline(store), err);
	pgs__kv_release(&store->backend, &txn, 1);
	return result;
}

int pgs__sweep_database(pgs_store *store, const uint8_t *prefix, const pgs__key_space *known, uint64_t end_ms,
			pgs_maintain_report *report, bool *done, pgs_error *err)
{
	char folder[PGS__BLOB_NAME_SIZE];
	size_t removed;
	bool keys_gone;
	*done = false;
	if (pgs__deadline_passed(end_ms))
		return PGS_OK;
	int result = sweep_keys(store, prefix, known, end_ms, &keys_gone, err);
	pgs__blob_name(folder, prefix, "");
	if (result == PGS_OK && keys_gone)
		result = sweep_blobs(store, folder, false, end_ms, report, &removed, done, err);
	return result == PGS_OK && *done ? forget_database(store, prefix, err) : result;
}

/* --- all of them ----------------------------------------------------------------------- */

/* The prefixes of the next D/ keys of the walk, at most KEYS_PAGE. */
static int list_dropped(pgs_store *store, pgs__walk *walk, uint8_t (*out)[PGS__PREFIX_SIZE], size_t *count,
			pgs_error *err)
{
	pgs__walk_page page;
	int result = pgs__walk_next(walk, &store->backend, &page, call_deadline(store), err);
	*count = 0;
	for (size_t i = 0; result == PGS_OK && i < page.used; i++)
		for (size_t k = 0; k < page.txn.results[i].count && *count < KEYS_PAGE; k++) {
			pgs_slice key = page.txn.results[i].pairs[k].key;
			if (key.size == 2 + PGS__PREFIX_SIZE && ((const uint8_t *)key.data)[2] >= 0x80)
				memcpy(out[(*count)++], (const uint8_t *)key.data + 2, PGS__PREFIX_SIZE);
			else
				pgs__log(store, PGS_LOG_WARN, "a key below D/ is malformed; it is left alone");
		}
	pgs__kv_release(&store->backend, &page.txn, 1);
	return result;
}

static int forget_announcements(pgs_store *store, pgs_error *err)
{
	const pgs__key from = {.size = 2, .bytes = "N/"}, end = {.size = 2, .bytes = "N0"}; /* '0' follows '/' */
	pgs__walk walk;
	bool done;
	pgs__walk_range(&walk, &from, &end, KEYS_PAGE);
	return delete_walked(store, &walk, 0, &done, err);
}

int pgs__sweep_dropped(pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
		       pgs_error *err)
{
	const pgs__key from = {.size = 2, .bytes = "D/"}, end = {.size = 2, .bytes = "D0"};
	uint8_t prefixes[KEYS_PAGE][PGS__PREFIX_SIZE];
	uint64_t end_ms = end_of(options);
	pgs_error later = PGS_ERROR_INIT;
	int first = PGS_OK, result = options->dry_run ? PGS_OK : forget_announcements(store, err);
	pgs__walk walk;
	pgs__walk_range(&walk, &from, &end, KEYS_PAGE);
	walk.keys_only = true;
	while (result == PGS_OK && pgs__walk_more(&walk)) {
		size_t count;
		result = list_dropped(store, &walk, prefixes, &count, err);
		for (size_t i = 0; result == PGS_OK && i < count; i++) {
			bool done = false;
			int swept = options->dry_run ? PGS_OK
						     : pgs__sweep_database(store, prefixes[i], NULL, end_ms, report,
									   &done, first == PGS_OK ? err : &later);
			report->more |= !done;
			if (first == PGS_OK)
				first = swept;
		}
	}
	return first == PGS_OK ? result : first;
}

/* --- strays -------------------------------------------------------------------------------- */

typedef struct folders {
	uint8_t (*list)[PGS__PREFIX_SIZE];
	size_t count, capacity;
} folders;

static bool parse_folder(const char *name, uint8_t prefix[PGS__PREFIX_SIZE])
{
	for (size_t i = 0; i < FOLDER_DIGITS; i++) {
		char c = name[i];
		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		uint8_t digit = (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
		prefix[i / 2] = (uint8_t)(i % 2 ? prefix[i / 2] << 4 | digit : digit);
	}
	return name[FOLDER_DIGITS] == '/' && prefix[0] >= 0x80;
}

/* The folders there are: names come in order, so a folder's are together. */
static int collect_folder(void *ctx, const char *name, uint64_t size)
{
	folders *f = ctx;
	uint8_t prefix[PGS__PREFIX_SIZE];
	(void)size;
	if (!parse_folder(name, prefix) ||
	    (f->count && memcmp(f->list[f->count - 1], prefix, PGS__PREFIX_SIZE) == 0))
		return PGS_OK;
	if (pgs__grow(&f->list, &f->capacity, f->count + 1, sizeof *f->list) != PGS_OK)
		return PGS_ENOMEM;
	memcpy(f->list[f->count++], prefix, PGS__PREFIX_SIZE);
	return PGS_OK;
}

/* Whether a database, or what is left of a dropped one, has this prefix. */
static int is_known(pgs_store *store, const uint8_t *prefix, bool *known, pgs_error *err)
{
	pgs__key m = pgs__key_single(prefix, 'm'), d = pgs__dropped_key(prefix);
	pgs_kv_op ops[] = {pgs__op_get(pgs__key_slice(&m), 0), pgs__op_get(pgs__key_slice(&d), 0)};
	ops[0].keys_only = ops[1].keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(&store->backend, &txn, ops, 2, call_deadline(store), err);
	*known = result != PGS_OK || pgs__got(&txn, 0) || pgs__got(&txn, 1);
	pgs__kv_release(&store->backend, &txn, 1);
	return result;
}

static int sweep_stray(pgs_store *store, const uint8_t *prefix, uint64_t end_ms, pgs_maintain_report *report,
		       pgs_error *err)
{
	char folder[PGS__BLOB_NAME_SIZE];
	size_t removed = 0;
	bool known, done;
	int result = is_known(store, prefix, &known, err);
	if (result != PGS_OK || known)
		return result;
	pgs__blob_name(folder, prefix, "");
	result = sweep_blobs(store, folder, true, end_ms, report, &removed, &done, err);
	report->removed_orphans += removed;
	report->more |= result == PGS_OK && !done;
	return result;
}

int pgs__sweep_stray_blobs(pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
			   pgs_error *err)
{
	pgs_blob *blob = store->backend.blob;
	uint64_t end_ms = end_of(options);
	folders f = {.count = 0};
	if (options->dry_run)
		return PGS_OK;
	int result = blob->vtable->list(blob, "", collect_folder, &f, call_deadline(store), err);
	if (result == PGS_ENOMEM)
		result = pgs__error_nomem(err, "list of blobs");
	for (size_t i = 0; result == PGS_OK && i < f.count; i++)
		result = sweep_stray(store, f.list[i], end_ms, report, err);
	pgs__free(f.list);
	return result;
}
