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

#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"

#define KEYS_PAGE 500 /* deleted at once */
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

/* Delete the first keys below the prefix; *done when there were none. */
static int sweep_keys(pgs_store *store, const uint8_t *prefix, bool *done, pgs_error *err)
{
	pgs__key end = pgs__key_prefix_end(prefix);
	pgs_kv_op op = pgs__op_range((pgs_slice){prefix, PGS__PREFIX_SIZE}, pgs__key_slice(&end), 0);
	op.limit = KEYS_PAGE;
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(&store->backend, &txn, &op, 1, call_deadline(store), err);
	const pgs_kv_result *r = result == PGS_OK ? &txn.results[0] : NULL;
	*done = r && r->count == 0;
	if (r && r->count) {
		pgs__key first = copy_key(r->pairs[0].key), last = copy_key(r->pairs[r->count - 1].key);
		last = r->more ? pgs__key_after(&last) : end;
		const pgs_kv_op delete = pgs__op_delete(pgs__key_slice(&first), pgs__key_slice(&last));
		pgs_kv_txn removal;
		result = pgs__kv_read(&store->backend, &removal, &delete, 1, call_deadline(store), err);
		pgs__kv_release(&store->backend, &removal, 1);
	}
	pgs__kv_release(&store->backend, &txn, 1);
	return result;
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

int pgs__sweep_database(pgs_store *store, const uint8_t *prefix, uint64_t end_ms, pgs_maintain_report *report,
			bool *done, pgs_error *err)
{
	char folder[PGS__BLOB_NAME_SIZE];
	size_t removed;
	bool keys_gone = false;
	int result = PGS_OK;
	*done = false;
	while (result == PGS_OK && !keys_gone) {
		if (pgs__deadline_passed(end_ms))
			return PGS_OK;
		result = sweep_keys(store, prefix, &keys_gone, err);
	}
	pgs__blob_name(folder, prefix, "");
	if (result == PGS_OK)
		result = sweep_blobs(store, folder, false, end_ms, report, &removed, done, err);
	return result == PGS_OK && *done ? forget_database(store, prefix, err) : result;
}

/* --- all of them ----------------------------------------------------------------------- */

/* The prefixes of the D/ keys after *from, at most `room`; *from moves past them. */
static int list_dropped(pgs_store *store, pgs__key *from, uint8_t (*out)[PGS__PREFIX_SIZE], size_t room, size_t *count,
			bool *more, pgs_error *err)
{
	pgs_kv_op op = pgs__op_range(pgs__key_slice(from), (pgs_slice){"D0", 2}, 0); /* '0' follows '/' */
	op.limit = room;
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(&store->backend, &txn, &op, 1, call_deadline(store), err);
	const pgs_kv_result *r = result == PGS_OK ? &txn.results[0] : NULL;
	*count = 0;
	*more = r && r->more && r->count;
	for (size_t i = 0; r && i < r->count; i++) {
		pgs_slice key = r->pairs[i].key;
		if (key.size == 2 + PGS__PREFIX_SIZE && ((const uint8_t *)key.data)[2] >= 0x80)
			memcpy(out[(*count)++], (const uint8_t *)key.data + 2, PGS__PREFIX_SIZE);
		else
			pgs__log(store, PGS_LOG_WARN, "a key below D/ is malformed; it is left alone");
		pgs__key last = copy_key(key);
		*from = pgs__key_after(&last);
	}
	pgs__kv_release(&store->backend, &txn, 1);
	return result;
}

static int forget_announcements(pgs_store *store, pgs_error *err)
{
	const pgs_kv_op delete = pgs__op_delete((pgs_slice){"N/", 2}, (pgs_slice){"N0", 2});
	pgs_kv_txn txn;
	int result = pgs__kv_read(&store->backend, &txn, &delete, 1, call_deadline(store), err);
	pgs__kv_release(&store->backend, &txn, 1);
	return result;
}

int pgs__sweep_dropped(pgs_store *store, const pgs_maintain_options *options, pgs_maintain_report *report,
		       pgs_error *err)
{
	pgs__key from = {.size = 2, .bytes = "D/"};
	uint8_t prefixes[KEYS_PAGE][PGS__PREFIX_SIZE];
	uint64_t end_ms = end_of(options);
	pgs_error later = PGS_ERROR_INIT;
	int first = PGS_OK, result = options->dry_run ? PGS_OK : forget_announcements(store, err);
	bool more = true;
	while (result == PGS_OK && more) {
		size_t count;
		result = list_dropped(store, &from, prefixes, KEYS_PAGE, &count, &more, err);
		for (size_t i = 0; result == PGS_OK && i < count; i++) {
			bool done = false;
			int swept = options->dry_run ? PGS_OK
						     : pgs__sweep_database(store, prefixes[i], end_ms, report, &done,
									   first == PGS_OK ? err : &later);
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
