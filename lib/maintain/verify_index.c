/* Verification of packs and named snapshots: each pointer in them, wherever it is stored.
 *
 * An index file with a damaged block is walked on block by block, so that one block costs no more than its own pages.
 */
#include "maintain/verify.h"

#include <string.h>

#include "codec/snapshot_record.h"
#include "util/alloc.h"
#include "util/error.h"

#define SNAPSHOTS_PAGE 20
#define ATTEMPTS 5 /* at finding out whether something is readable, when the floor rises meanwhile */

static const char hint_pack[] =
	"Put the key, or the blob named, back from a backup. Without one, write the pages of that commit anew (log "
	"shows it), and delete the key.";
static const char hint_index[] = "Put that blob back from a backup. Without one, drop the snapshot.";
static const char hint_record[] = "Put the key back from a backup of the KV. Without one, drop the snapshot.";

/* An index file, and who names it. */
typedef struct index_use {
	pgs__verify *v;
	pgs_slice name;
	uint64_t file_size, pointer_count;
	uint64_t first, end;     /* the pages it may have */
	uint64_t revision;       /* of its pointers */
	const char *hint;
	const pgs_kv_pair *pair; /* the key that names it */
	bool historic;           /* needed while any retained revision has the key; else while the key is there */
	uint64_t strays;         /* pages it may not have */
} index_use;

/* --- index files ------------------------------------------------------------------- */

/* Whether the oldest readable revision, or a later one, has a pack that was read at some revision. */
static int is_retained(pgs__verify *v, const pgs_kv_pair *pair, bool *retained)
{
	int result = PGS_EOLDREV;
	*retained = false;
	for (int i = 0; result == PGS_EOLDREV && i < ATTEMPTS; i++) {
		uint64_t at;
		pgs_kv_txn txn = {0};
		result = pgs__oldest_readable(v->db, &at, pgs__verify_deadline(v), v->err);
		if (result == PGS_ECORRUPT) { /* the floor is damaged, which is a finding of its own */
			*retained = true;
			return PGS_OK;
		}
		if (result != PGS_OK)
			return result;
		pgs_kv_op op = pgs__op_get(pair->key, pair->mod_revision > at ? pair->mod_revision : at);
		op.keys_only = true;
		result = pgs__kv_read(v->contents->backend, &txn, &op, 1, pgs__verify_deadline(v), v->err);
		const pgs_kv_pair *then = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
		*retained = then && then->mod_revision == pair->mod_revision;
		pgs__kv_release(v->contents->backend, &txn, 1);
	}
	return result == PGS_EOLDREV ? PGS_OK : result;
}

/* It cannot be read, as `e` says. Missing, it may have been removed rightly meanwhile. */
static int unreadable(index_use *u, int code, const pgs_error *e)
{
	pgs__verify *v = u->v;
	bool needed = true;
	int result = PGS_OK;
	if (code != PGS_ENOTFOUND && code != PGS_ECORRUPT && code != PGS_EVERSION) {
		*v->err = *e;
		return code;
	}
	if (code == PGS_ENOTFOUND)
		result = u->historic ? is_retained(v, u->pair, &needed) : pgs__verify_is_current(v, u->pair, &needed);
	if (result != PGS_OK || !needed)
		return result;
	return pgs__verify_finding(v, code == PGS_EVERSION ? code : PGS_ECORRUPT, u->revision, u->hint, "%s%s%s%s",
				   v->snapshot ? "snapshot " : "", v->snapshot ? v->snapshot->name : "",
				   v->snapshot ? ": " : "", e->message);
}

/* Walk the pages [first, end) of a file. What the file is to blame for is in *e, and its code returned; *next is the
 * block that comes then. */
static int walk_pages(index_use *u, const pgs__index_file *file, uint64_t first, uint64_t end, size_t *next, int *code,
		      pgs_error *e)
{
	pgs__verify *v = u->v;
	pgs__index_cursor cursor;
	bool found = true;
	int result = PGS_OK;
	pgs__index_cursor_open(&cursor, file, v->contents->backend, first, end);
	*code = PGS_OK;
	while (result == PGS_OK && found) {
		uint64_t page_no;
		pgs_slice pointer;
		*code = pgs__index_cursor_next(&cursor, &found, &page_no, &pointer, pgs__verify_deadline(v), e);
		if (*code != PGS_OK || !found)
			break;
		u->strays += page_no < u->first || page_no >= u->end;
		result = pgs__verify_add_pointer(v, page_no, u->revision, pointer);
	}
	*next = cursor.block;
	pgs__index_cursor_close(&cursor);
	return result;
}

static int walk_file(index_use *u, const pgs__index_file *file)
{
	size_t next, count = file->table_size / PGS__INDEX_BLOCK_SIZE, ignored;
	pgs_error e = PGS_ERROR_INIT;
	int code, result = walk_pages(u, file, 0, UINT64_MAX, &next, &code, &e);
	if (result == PGS_OK && code != PGS_OK && code != PGS_ECORRUPT)
		return unreadable(u, code, &e);
	/* A block of those that were read together is damaged: one by one from here on. */
	for (size_t i = next; result == PGS_OK && code != PGS_OK && i < count; i++) {
		pgs__index_block row;
		int bad = PGS_OK;
		pgs__index_block_decode((pgs_slice){file->table, file->table_size}, i, &row);
		result = walk_pages(u, file, row.first_page, row.last_page + 1, &ignored, &bad, &e);
		if (result == PGS_OK && bad != PGS_OK)
			result = unreadable(u, bad, &e);
	}
	return result;
}

/* Every pointer of an index file. */
static int check_index(index_use *u)
{
	pgs__verify *v = u->v;
	pgs__index_file file;
	pgs_error e = PGS_ERROR_INIT;
	int result = pgs__index_file_open(&file, v->db, u->name, false, pgs__verify_deadline(v), &e);
	if (result != PGS_OK)
		return unreadable(u, result, &e);
	v->total += file.pointer_count;
	if (file.file_size != u->file_size || file.pointer_count != u->pointer_count)
		result = pgs__verify_finding(v, PGS_ECORRUPT, u->revision, u->hint,
					     "index file %s is not the one that was registered", file.blob_name);
	if (result == PGS_OK)
		result = walk_file(u, &file);
	if (result == PGS_OK && u->strays)
		result = pgs__verify_finding(v, PGS_ECORRUPT, u->revision, u->hint,
					     "index file %s has %llu pointers of pages that are not its own",
					     file.blob_name, (unsigned long long)u->strays);
	pgs__index_file_close(&file);
	return result;
}

/* --- packs ------------------------------------------------------------------------------ */

static int check_inline(pgs__verify *v, const pgs__pack *pack, uint64_t revision)
{
	pgs__entries_reader entries;
	uint64_t page_no;
	pgs_slice pointer;
	int result = PGS_OK;
	if (pgs__entries_open(pack->entries, &entries) != PGS_OK)
		return PGS_OK; /* decoding has checked that */
	while (result == PGS_OK && pgs__entries_next(&entries, &page_no, &pointer))
		result = pgs__verify_add_pointer(v, page_no, revision, pointer);
	return result;
}

int pgs__verify_pack(pgs__verify *v, const pgs_kv_pair *pair)
{
	char key[2 * PGS__KEY_MAX];
	pgs__pack pack;
	int result = pgs__pack_decode(pair->value, &pack);
	if (result != PGS_OK)
		return pgs__verify_finding(v, result, pair->mod_revision, hint_pack,
					   "the pack of revision %llu (key %s) is damaged or of a newer version",
					   (unsigned long long)pair->mod_revision,
					   pgs__printable(key, sizeof key, pair->key.data, pair->key.size));
	if (!pack.in_file)
		return check_inline(v, &pack, pair->mod_revision);
	index_use u = {
		.v = v,
		.name = pack.file_name,
		.file_size = pack.file_size,
		.pointer_count = pack.pointer_count,
		.end = UINT64_MAX,
		.revision = pair->mod_revision,
		.hint = hint_pack,
		.pair = pair,
		.historic = true,
	};
	return check_index(&u);
}

/* --- named snapshots --------------------------------------------------------------------------- */

static int check_attrs(pgs__verify *v, const pgs__snapshot_record *record, pgs_slice attrs)
{
	pgs__attrs_reader reader;
	pgs_slice name, value;
	if (pgs__attrs_open(attrs, &reader) == PGS_OK) {
		while (pgs__attrs_next(&reader, &name, &value))
			;
		if (!reader.reader.failed)
			return PGS_OK;
	}
	return pgs__verify_finding(v, PGS_ECORRUPT, record->revision, hint_index,
				   "snapshot %s: its attributes are damaged", v->snapshot->name);
}

static int check_attrs_file(pgs__verify *v, const pgs__snapshot_record *record)
{
	char file[PGS__FILE_NAME_MAX + 1], blob_name[PGS__BLOB_NAME_SIZE];
	pgs_blob *blob = v->contents->backend->blob;
	const size_t size = (size_t)record->attrs_size;
	pgs_error e = PGS_ERROR_INIT;
	pgs_slice attrs;
	memcpy(file, record->attrs_name.data, record->attrs_name.size); /* decoding has checked it */
	file[record->attrs_name.size] = '\0';
	pgs__blob_name(blob_name, pgs__db_prefix(v->db), file);
	uint8_t *bytes = record->attrs_size < SIZE_MAX / 2 ? pgs__malloc(size ? size : 1) : NULL;
	if (!bytes)
		return pgs__error_nomem(v->err, "attributes of a snapshot");
	pgs_blob_range range = {.name = blob_name, .size = size, .buffer = bytes};
	index_use u = {.v = v, .revision = record->revision, .hint = hint_index, .pair = v->snapshot->pair};
	int result = blob->vtable->get(blob, &range, 1, pgs__verify_deadline(v), &e), code;
	if (result != PGS_OK) {
		pgs__error(&e, result, "its attributes, in %s, are %s", blob_name,
			   result == PGS_ENOTFOUND ? "missing" : "not to be read");
		result = unreadable(&u, result, &e);
	} else if ((code = pgs__attrs_file_decode((pgs_slice){bytes, size}, &attrs)) != PGS_OK) {
		pgs__error(&e, code, "its attributes, in %s, are damaged or of a newer version", blob_name);
		result = unreadable(&u, code, &e);
	} else {
		result = check_attrs(v, record, attrs);
	}
	pgs__free(bytes);
	return result;
}

static int check_record(pgs__verify *v, const pgs__snapshot_record *record)
{
	pgs__snapshot_files_reader files = pgs__snapshot_files_open(record);
	pgs__snapshot_file file;
	int result = PGS_OK;
	while (result == PGS_OK && pgs__snapshot_next_file(&files, &file)) {
		index_use u = {
			.v = v,
			.name = file.name,
			.file_size = file.file_size,
			.pointer_count = file.pointer_count,
			.first = file.first,
			.end = file.end,
			.revision = record->revision,
			.hint = hint_index,
			.pair = v->snapshot->pair,
		};
		result = check_index(&u);
	}
	if (result == PGS_OK)
		result = record->attrs_in_file ? check_attrs_file(v, record) : check_attrs(v, record, record->attrs);
	return result == PGS_OK ? pgs__verify_flush(v) : result;
}

static int check_snapshot(pgs__verify *v, const pgs_kv_pair *pair)
{
	pgs__verify_snapshot self = {.pair = pair};
	pgs__snapshot_record record;
	pgs_slice name = {0};
	if (!pgs__key_tail(pair->key, 's', &name) || name.size == 0 || name.size > PGS_SNAPSHOT_NAME_MAX)
		return pgs__verify_finding(v, PGS_ECORRUPT, pair->mod_revision, "Delete the key.",
					   "a named snapshot's key is malformed");
	pgs__printable(self.name, sizeof self.name, name.data, name.size);
	v->report->snapshots_checked++;
	int result = pgs__snapshot_decode(pair->value, &record);
	if (result != PGS_OK)
		return pgs__verify_finding(v, result, pair->mod_revision, hint_record,
					   "the record of snapshot %s is damaged or of a newer version", self.name);
	v->snapshot = &self;
	result = check_record(v, &record);
	v->snapshot = NULL;
	return result;
}

int pgs__verify_snapshots(pgs__verify *v)
{
	return pgs__verify_list(v, 's', 0, SNAPSHOTS_PAGE, check_snapshot);
}
