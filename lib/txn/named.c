/* Reading named snapshots. */
#include "txn/named.h"

#include "util/alloc.h"
#include "util/error.h"

typedef struct file {
	pgs__snapshot_file info; /* its name borrows from the value */
	bool open;
	pgs__index_file index;
} file;

struct pgs__named {
	pgs__key key;
	char name[4 * PGS_SNAPSHOT_NAME_MAX + 1]; /* printable, for messages */
	uint64_t mod_revision; /* of the key: tells this snapshot from another of its name */
	uint8_t *value;        /* everything decoded borrows from it */
	pgs__snapshot_record record;
	size_t file_count;
	file *files;
	uint8_t *attrs_file;   /* when attributes are in a blob: what was read of it, NULL = not yet */
	pgs_slice attrs;
	size_t kept_file;      /* whose block is kept */
	pgs__index_block_kept kept;
};

/* --- opening ----------------------------------------------------------------- */

void pgs__named_close(struct pgs__named *n)
{
	if (!n)
		return;
	for (size_t i = 0; i < n->file_count; i++)
		pgs__index_file_close(&n->files[i].index);
	pgs__free(n->files);
	pgs__free(n->kept.bytes);
	pgs__free(n->attrs_file);
	pgs__free(n->value);
	pgs__free(n);
}

static int list_files(struct pgs__named *n)
{
	n->files = pgs__calloc(n->record.file_count, sizeof *n->files);
	if (!n->files)
		return PGS_ENOMEM;
	pgs__snapshot_files_reader r = pgs__snapshot_files_open(&n->record);
	while (n->file_count < n->record.file_count && pgs__snapshot_next_file(&r, &n->files[n->file_count].info))
		n->file_count++;
	return PGS_OK;
}

static int take_value(pgs__snapshot *s, const pgs_kv_pair *pair, pgs_error *err)
{
	struct pgs__named *n = s->named;
	n->mod_revision = pair->mod_revision;
	n->value = pgs__malloc(pair->value.size + 1); /* an emptied value is damage, not lack of memory */
	if (!n->value)
		return pgs__error_nomem(err, "snapshot");
	if (pair->value.size)
		memcpy(n->value, pair->value.data, pair->value.size);
	int result = pgs__snapshot_decode((pgs_slice){n->value, pair->value.size}, &n->record);
	if (result != PGS_OK)
		return pgs__error(err, result, "snapshot %s of database %s is damaged or of a newer version", n->name,
				  s->db->name);
	if (list_files(n) != PGS_OK)
		return pgs__error_nomem(err, "snapshot");
	n->attrs = n->record.attrs;
	s->kv_revision = n->record.revision;
	s->commit_revision = n->record.commit_revision;
	s->cache_revision = n->record.commit_revision | PGS__CACHE_NAMED;
	s->counter = n->record.counter;
	s->extent = n->record.page_count;
	return PGS_OK;
}

enum { GET_S, GET_M, GET_COUNT };

static int read_value(const pgs__snapshot *s, pgs_kv_txn *txn, uint64_t deadline_ms, pgs_error *err)
{
	pgs__key m = pgs__key_single(pgs__db_prefix(s->db), 'm');
	const pgs_kv_op ops[GET_COUNT] = {
		[GET_S] = pgs__op_get(pgs__key_slice(&s->named->key), 0),
		[GET_M] = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&m), .keys_only = true},
	};
	int result = pgs__kv_read(pgs__db_backend(s->db), txn, ops, GET_COUNT, deadline_ms, err);
	if (result == PGS_OK && !pgs__got(txn, GET_M))
		result = pgs__error(err, PGS_ENOTFOUND, "database %s was dropped", s->db->name);
	return result;
}

int pgs__named_open(pgs__snapshot *out, pgs_db *db, pgs_slice name, uint64_t deadline_ms, pgs_error *err)
{
	*out = (pgs__snapshot){.db = db};
	struct pgs__named *n = out->named = pgs__calloc(1, sizeof *n);
	if (!n)
		return pgs__error_nomem(err, "snapshot");
	n->key = pgs__key_snapshot(pgs__db_prefix(db), name.data, name.size);
	pgs__printable(n->name, sizeof n->name, name.data, name.size);
	pgs_kv_txn txn;
	int result = read_value(out, &txn, deadline_ms, err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, GET_S) : NULL;
	if (pair)
		result = take_value(out, pair, err);
	else if (result == PGS_OK)
		result = pgs__error(err, PGS_ENOTFOUND, "database %s has no snapshot %s", db->name, n->name);
	pgs__kv_release(pgs__db_backend(db), &txn, 1);
	return result;
}

int pgs__named_explain(const pgs__snapshot *s, uint64_t deadline_ms, pgs_error *err)
{
	pgs_error local = PGS_ERROR_INIT;
	pgs_kv_txn txn;
	int result = read_value(s, &txn, deadline_ms, &local);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, GET_S) : NULL;
	if (result == PGS_OK && (!pair || pair->mod_revision != s->named->mod_revision))
		result = pgs__error(&local, PGS_EOLDREV, "snapshot %s of database %s was dropped while it was read",
				    s->named->name, s->db->name);
	pgs__kv_release(pgs__db_backend(s->db), &txn, 1);
	if (result != PGS_OK) {
		if (err)
			*err = local;
		return result;
	}
	if (err)
		err->code = PGS_ECORRUPT;
	return PGS_ECORRUPT;
}

/* --- files --------------------------------------------------------------------- */

/* The first file that ends past the page. */
static size_t file_at(const struct pgs__named *n, uint64_t page_no)
{
	size_t low = 0, high = n->file_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (n->files[middle].info.end <= page_no)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int open_file(const pgs__snapshot *s, size_t index, uint64_t deadline_ms, pgs_error *err)
{
	file *f = &s->named->files[index];
	if (f->open)
		return PGS_OK;
	int result = pgs__index_file_open(&f->index, s->db, f->info.name, true, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	if (f->index.file_size != f->info.file_size || f->index.pointer_count != f->info.pointer_count) {
		result = pgs__error(err, PGS_ECORRUPT, "index file %s is not the one that snapshot %s of database %s names",
				    f->index.blob_name, s->named->name, s->db->name);
		pgs__index_file_close(&f->index);
	}
	f->open = result == PGS_OK;
	return result;
}

static int decode(const pgs__snapshot *s, uint64_t page_no, pgs_slice value, pgs__pointer *out, pgs_error *err)
{
	if (pgs__pointer_decode(value, pgs__page_group(page_no, s->db->contents.page_size), out) != PGS_OK)
		return pgs__error_page(err, PGS_ECORRUPT, page_no, "page %llu: its pointer in snapshot %s is damaged",
				       (unsigned long long)page_no, s->named->name);
	out->folded_revision = 0;
	return PGS_OK;
}

/* --- single pages ----------------------------------------------------------------- */

static int find(const pgs__snapshot *s, uint64_t page_no, bool *found, pgs_slice *value, uint64_t deadline_ms,
		pgs_error *err)
{
	struct pgs__named *n = s->named;
	size_t index = file_at(n, page_no);
	*found = false;
	if (index == n->file_count || page_no < n->files[index].info.first)
		return PGS_OK;
	int result = open_file(s, index, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	if (n->kept_file != index) {
		pgs__free(n->kept.bytes);
		n->kept = (pgs__index_block_kept){0};
		n->kept_file = index;
	}
	return pgs__index_file_find(&n->files[index].index, pgs__db_backend(s->db), page_no, &n->kept, found, value,
				    deadline_ms, err);
}

static int read_page(const pgs__snapshot *s, uint64_t page_no, pgs__resolved *out, pgs__arena *arena,
		     uint64_t deadline_ms, pgs_error *err)
{
	pgs__pointer pointer = {.kind = PGS__POINTER_ABSENT};
	pgs_slice value;
	bool found;
	int result = find(s, page_no, &found, &value, deadline_ms, err);
	if (result == PGS_OK && found)
		result = decode(s, page_no, value, &pointer, err);
	if (result != PGS_OK)
		return result;
	*out = (pgs__resolved){.ref = pgs__page_ref_of(&pointer)};
	out->ref.from = s->cache_revision;
	if (pgs__arena_copy(arena, pointer.delta, &out->delta) != PGS_OK)
		return pgs__error_nomem(err, "pointers");
	return PGS_OK;
}

int pgs__named_read(const pgs__snapshot *s, const uint64_t *pages, size_t count, pgs__resolved *out, pgs__arena *arena,
		    uint64_t deadline_ms, pgs_error *err)
{
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		result = read_page(s, pages[i], &out[i], arena, deadline_ms, err);
	return result == PGS_ENOTFOUND ? pgs__named_explain(s, deadline_ms, err) : result;
}

/* --- attributes --------------------------------------------------------------------- */

static int read_attrs_blob(const pgs__snapshot *s, uint64_t deadline_ms, pgs_error *err)
{
	struct pgs__named *n = s->named;
	pgs_blob *blob = pgs__db_backend(s->db)->blob;
	size_t size = (size_t)n->record.attrs_size;
	char file_name[PGS__FILE_NAME_MAX + 1] = "", blob_name[PGS__BLOB_NAME_SIZE];
	memcpy(file_name, n->record.attrs_name.data, n->record.attrs_name.size);
	pgs__blob_name(blob_name, pgs__db_prefix(s->db), file_name);
	uint8_t *bytes = pgs__malloc(size);
	if (!bytes)
		return pgs__error_nomem(err, "attributes of a snapshot");
	pgs_blob_range range = {.name = blob_name, .size = size, .buffer = bytes};
	int result = pgs__blob_get(blob, &range, 1, deadline_ms, err);
	if (result == PGS_OK)
		result = pgs__attrs_file_decode((pgs_slice){bytes, size}, &n->attrs);
	else if (result == PGS_ENOTFOUND)
		pgs__error(err, result, "%s, the attributes of snapshot %s of database %s, is missing", blob_name, n->name,
			   s->db->name);
	if (result == PGS_ECORRUPT || result == PGS_EVERSION)
		pgs__error(err, result, "%s, the attributes of snapshot %s of database %s, is damaged or of a newer version",
			   blob_name, n->name, s->db->name);
	if (result != PGS_OK)
		pgs__free(bytes);
	else
		n->attrs_file = bytes;
	return result;
}

int pgs__named_attr(const pgs__snapshot *s, pgs_slice name, bool *found, pgs_slice *value, uint64_t deadline_ms,
		    pgs_error *err)
{
	struct pgs__named *n = s->named;
	pgs__attrs_reader r;
	pgs_slice at;
	int result = n->record.attrs_in_file && !n->attrs_file ? read_attrs_blob(s, deadline_ms, err) : PGS_OK;
	*found = false;
	if (result == PGS_OK)
		result = pgs__attrs_open(n->attrs, &r);
	while (result == PGS_OK && !*found && pgs__attrs_next(&r, &at, value))
		*found = pgs__slice_equal(at, name);
	return result == PGS_ENOTFOUND ? pgs__named_explain(s, deadline_ms, err) : result;
}

/* --- all pages ------------------------------------------------------------------------ */

void pgs__named_cursor_open(pgs__named_cursor *c, const pgs__snapshot *s, uint64_t first, uint64_t end)
{
	*c = (pgs__named_cursor){.snapshot = s, .first = first, .end = end, .file = file_at(s->named, first)};
}

static void end_file(pgs__named_cursor *c)
{
	if (!c->walking)
		return;
	pgs__index_cursor_close(&c->cursor);
	c->walking = false;
	c->file++;
}

void pgs__named_cursor_close(pgs__named_cursor *c)
{
	end_file(c);
}

static int begin_file(pgs__named_cursor *c, bool *found, uint64_t deadline_ms, pgs_error *err)
{
	const struct pgs__named *n = c->snapshot->named;
	*found = c->file < n->file_count && n->files[c->file].info.first < c->end;
	if (!*found)
		return PGS_OK;
	int result = open_file(c->snapshot, c->file, deadline_ms, err);
	if (result != PGS_OK)
		return result;
	pgs__index_cursor_open(&c->cursor, &n->files[c->file].index, pgs__db_backend(c->snapshot->db), c->first, c->end);
	c->walking = true;
	return PGS_OK;
}

static int next_entry(pgs__named_cursor *c, bool *found, uint64_t *page_no, pgs_slice *value, uint64_t deadline_ms,
		      pgs_error *err)
{
	int result = PGS_OK;
	for (*found = true; *found && result == PGS_OK;) {
		if (!c->walking)
			result = begin_file(c, found, deadline_ms, err);
		if (result != PGS_OK || !*found)
			break;
		result = pgs__index_cursor_next(&c->cursor, found, page_no, value, deadline_ms, err);
		if (result != PGS_OK || *found)
			break;
		end_file(c);
		*found = true;
	}
	return result;
}

int pgs__named_cursor_next(pgs__named_cursor *c, bool *found, uint64_t *page_no, pgs__pointer *pointer,
			   uint64_t deadline_ms, pgs_error *err)
{
	pgs_slice value;
	int result = next_entry(c, found, page_no, &value, deadline_ms, err);
	if (result == PGS_OK && *found)
		result = decode(c->snapshot, *page_no, value, pointer, err);
	return result == PGS_ENOTFOUND ? pgs__named_explain(c->snapshot, deadline_ms, err) : result;
}
