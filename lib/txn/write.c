/* Buffered writes, truncation and attributes: nothing here reaches a backend but for a full write buffer. */
#include "txn/early.h"

#include "codec/seal.h"
#include "local_cache/mirror.h"
#include "txn/named.h"
#include "util/alloc.h"
#include "util/error.h"

#define ATTR_WRITES_MAX 64
#define HALVES_MAX 32 /* files of half the write buffer */

static int check_writable(pgs_txn *t)
{
	if (t->writes_allowed)
		return PGS_OK;
	return pgs__error(&t->error, PGS_EREADONLY, "the transaction is read only; begin it with options.write");
}

/* --- pages ---------------------------------------------------------------------- */

/* The write of a page, made if there is none yet. */
static int find_or_add(pgs_txn *t, uint64_t page_no, pgs__write **out)
{
	*out = pgs__txn_find_write(t, page_no);
	if (*out)
		return PGS_OK;
	if (pgs__grow(&t->writes, &t->write_capacity, t->write_count + 1, sizeof *t->writes) != PGS_OK ||
	    pgs__map_set(&t->write_index, page_no, t->write_count, NULL) != PGS_OK)
		return pgs__error_nomem(&t->error, "write set");
	*out = &t->writes[t->write_count++];
	/* What was dropped or truncated away before it has no index any more and is skipped by its state. */
	**out = (pgs__write){.page_no = page_no, .state = PGS__WRITE_DROPPED};
	return PGS_OK;
}

/* Forget what was decided for an earlier write of the page. */
static void reset_write(pgs_txn *t, pgs__write *w)
{
	if (w->frame)
		t->frame_bytes -= w->frame_size;
	pgs__free(w->frame);
	*w = (pgs__write){.page_no = w->page_no, .state = PGS__WRITE_DROPPED, .page = w->page};
}

/* How many bytes of pages are kept before they are placed. What is uploaded beside the writer has the other half, until
 * there are many files: a commit cannot register any number of them. */
static uint64_t buffer_bytes(const pgs_txn *t)
{
	uint64_t bytes = t->db->write_buffer_bytes;
	if (pgs__db_backend(t->db)->concurrency > 1 && t->file_count < HALVES_MAX &&
		bytes / 2 >= pgs__txn_page_size(t))
		bytes /= 2;
	return bytes;
}

/* The write buffer is full. */
static int spill(pgs_txn *t)
{
	uint64_t deadline = pgs__txn_deadline(t);
	pgs_cost *before = pgs__charge(t->cost);
	int result = pgs__txn_admit(t, deadline, &t->error);
	if (result == PGS_OK)
		result = pgs__txn_place(t, true, deadline, &t->error);
	pgs__charge(before);
	return result;
}

int pgs_write(pgs_txn *txn, uint64_t page_no, const void *src)
{
	uint32_t page_size = pgs__txn_page_size(txn);
	pgs__write *w;
	int result = check_writable(txn);
	if (result == PGS_OK)
		result = pgs__txn_check_page(txn, page_no);
	if (result == PGS_OK && txn->buffered_bytes + page_size > buffer_bytes(txn))
		result = spill(txn);
	if (result == PGS_OK)
		result = find_or_add(txn, page_no, &w);
	if (result != PGS_OK)
		return result;
	bool was_pending = w->state == PGS__WRITE_PENDING;
	uint8_t *page = w->page && !pgs__early_is_busy(txn, w) ? w->page : pgs__malloc(page_size);
	if (!page) {
		if (w->state == PGS__WRITE_DROPPED) /* only just added */
			pgs__map_remove(&txn->write_index, page_no);
		return pgs__error_nomem(&txn->error, "written page");
	}
	if (w->state == PGS__WRITE_READY)
		reset_write(txn, w);
	pgs__early_drop(txn, w);
	if (w->page != page)
		pgs__free(w->page); /* the thread had it just now, and is done */
	memcpy(page, src, page_size);
	w->page = page;
	w->state = PGS__WRITE_PENDING;
	if (!was_pending)
		txn->buffered_bytes += page_size;
	if (page_no >= txn->page_count)
		txn->page_count = page_no + 1;
	pgs__early_note(txn);
	return PGS_OK;
}

/* --- truncation -------------------------------------------------------------------- */

static void drop_writes_from(pgs_txn *t, uint64_t page_count)
{
	for (size_t i = 0; i < t->write_count; i++) {
		pgs__write *w = &t->writes[i];
		if (w->page_no < page_count || w->state == PGS__WRITE_DROPPED)
			continue;
		if (w->state == PGS__WRITE_PENDING)
			t->buffered_bytes -= pgs__txn_page_size(t);
		pgs__early_drop(t, w);
		reset_write(t, w);
		pgs__free(w->page);
		w->page = NULL;
		pgs__map_remove(&t->write_index, w->page_no);
	}
}

int pgs_truncate(pgs_txn *txn, uint64_t page_count)
{
	int result = check_writable(txn);
	if (result != PGS_OK)
		return result;
	if (page_count > pgs__page_limit(pgs__txn_page_size(txn)))
		return pgs__error(&txn->error, PGS_EINVAL, "page count %llu is past the largest",
				  (unsigned long long)page_count);
	drop_writes_from(txn, page_count);
	txn->extent_checked = txn->extent_set = true;
	if (page_count < txn->snapshot.extent && (!txn->truncated || page_count < txn->truncated_to)) {
		txn->truncated = true;
		txn->truncated_to = page_count;
	}
	txn->page_count = page_count;
	return PGS_OK;
}

int pgs_page_count(pgs_txn *txn, uint64_t *page_count)
{
	txn->extent_checked = true;
	*page_count = txn->page_count;
	return PGS_OK;
}

/* --- attributes ----------------------------------------------------------------------- */

static int check_attr_name(pgs_txn *t, const void *name, size_t size)
{
	if (name && size >= 1 && size <= PGS_ATTR_NAME_MAX)
		return PGS_OK;
	return pgs__error(&t->error, PGS_EINVAL, "an attribute's name has 1 to %d bytes, not %zu", PGS_ATTR_NAME_MAX,
			  size);
}

static pgs__attr_write *find_attr_write(pgs_txn *t, pgs_slice name)
{
	for (size_t i = 0; i < t->attr_write_count; i++)
		if (pgs__slice_equal(t->attr_writes[i].name, name))
			return &t->attr_writes[i];
	return NULL;
}

static int note_attr_read(pgs_txn *t, pgs_slice name, uint64_t seen_revision)
{
	for (size_t i = 0; i < t->attr_read_count; i++)
		if (pgs__slice_equal(t->attr_reads[i].name, name))
			return PGS_OK;
	pgs_slice copy;
	if (pgs__grow(&t->attr_reads, &t->attr_read_capacity, t->attr_read_count + 1, sizeof *t->attr_reads) !=
		    PGS_OK ||
	    pgs__arena_copy(&t->arena, name, &copy) != PGS_OK)
		return pgs__error_nomem(&t->error, "read set");
	t->attr_reads[t->attr_read_count++] = (pgs__attr_read){copy, seen_revision};
	return PGS_OK;
}

static int copy_value(pgs_slice stored, void *value, size_t capacity, size_t *size)
{
	*size = stored.size;
	size_t part = stored.size < capacity ? stored.size : capacity;
	if (part)
		memcpy(value, stored.data, part);
	return PGS_OK;
}

static int not_found(pgs_txn *t, pgs_slice name)
{
	char text[2 * PGS_ATTR_NAME_MAX];
	return pgs__error(&t->error, PGS_ENOTFOUND, "database %s has no attribute %s", t->db->name,
			  pgs__printable(text, sizeof text, name.data, name.size));
}

/* What the snapshot has under an attribute's key. */
typedef struct stored_attr {
	bool known, there;
	uint64_t revision;
	size_t size;
	uint8_t value[PGS_ATTR_SIZE_MAX + PGS__SEAL_SIZE];
} stored_attr;

static void take_stored(stored_attr *a, const pgs_kv_pair *pair)
{
	a->known = true;
	a->there = pair != NULL;
	if (!pair)
		return;
	a->revision = pair->mod_revision;
	if (pair->value.size && pair->value.size <= sizeof a->value) /* else it is damaged: nothing has no seal */
		memcpy(a->value, pair->value.data, a->size = pair->value.size);
}

static void take_mirrored(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair)
{
	(void)index;
	if (answer != PGS__MIRROR_UNKNOWN)
		take_stored(ctx, pair);
}

/* By the machine's mirror, or by the KV. */
static int get_stored_attr(pgs_txn *t, pgs_slice name, stored_attr *out, uint64_t deadline)
{
	const pgs__key key = pgs__key_attr(pgs__db_prefix(t->db), name.data, name.size);
	const pgs_slice slice = pgs__key_slice(&key);
	uint64_t at = pgs__snapshot_mirror_revision(&t->snapshot);
	*out = (stored_attr){0};
	if (at && pgs__mirror_get(t->db->contents.disk, at, &slice, 1, take_mirrored, out, NULL, NULL) == PGS_OK &&
	    out->known)
		return PGS_OK;
	pgs_kv_op op = pgs__op_get(slice, t->snapshot.kv_revision);
	pgs_kv_txn txn;
	pgs__txn_keep(t, deadline);
	int result = pgs__kv_read(pgs__db_backend(t->db), &txn, &op, 1, deadline, &t->error);
	if (result == PGS_OK)
		take_stored(out, pgs__got(&txn, 0));
	pgs__kv_release(pgs__db_backend(t->db), &txn, 1);
	return result;
}

static int read_stored_attr(pgs_txn *t, pgs_slice name, bool tracked, void *value, size_t capacity, size_t *size)
{
	uint64_t deadline = pgs__txn_deadline(t);
	stored_attr a;
	int result = get_stored_attr(t, name, &a, deadline);
	if (result == PGS_OK && tracked)
		result = note_attr_read(t, name, a.revision);
	if (result == PGS_OK) {
		pgs_slice stored = {a.value, a.size};
		char text[2 * PGS_ATTR_NAME_MAX];
		if (!a.there)
			result = not_found(t, name);
		else if (!pgs__unseal(&stored))
			result = pgs__error(&t->error, PGS_ECORRUPT, "attribute %s of database %s is damaged",
					    pgs__printable(text, sizeof text, name.data, name.size), t->db->name);
		else
			result = copy_value(stored, value, capacity, size);
	}
	if (result != PGS_EOLDREV)
		return result;
	result = pgs__explain_old(&t->snapshot, deadline, &t->error);
	/* Dropped: ENOTFOUND would say that there is no such attribute. */
	return result == PGS_ENOTFOUND ? t->error.code = PGS_EOLDREV : result;
}

static int read_named_attr(pgs_txn *t, pgs_slice name, void *value, size_t capacity, size_t *size)
{
	pgs_slice stored;
	bool found;
	int result = pgs__named_attr(&t->snapshot, name, &found, &stored, pgs__txn_deadline(t), &t->error);
	if (result != PGS_OK)
		return result;
	return found ? copy_value(stored, value, capacity, size) : not_found(t, name);
}

/* Read the attribute at the snapshot; tracked, the commit compares it unchanged. */
static int read_attr(pgs_txn *t, pgs_slice name, bool tracked, void *value, size_t capacity, size_t *size)
{
	pgs_cost *before = pgs__charge(t->cost);
	int result = t->snapshot.named ? read_named_attr(t, name, value, capacity, size)
				       : read_stored_attr(t, name, tracked, value, capacity, size);
	pgs__charge(before);
	return result;
}

int pgs_attr_get(pgs_txn *txn, const void *name, size_t name_size, void *value, size_t capacity, size_t *size)
{
	pgs_slice slice = {name, name_size};
	*size = 0;
	int result = check_attr_name(txn, name, name_size);
	if (result != PGS_OK)
		return result;
	const pgs__attr_write *own = find_attr_write(txn, slice);
	if (own)
		return own->removed ? not_found(txn, slice) : copy_value(own->value, value, capacity, size);
	return read_attr(txn, slice, txn->tracks_reads, value, capacity, size);
}

/* Under snapshot isolation the first committer of an attribute wins, so its revision must be known. */
static int note_blind_attr(pgs_txn *t, pgs_slice name)
{
	size_t size;
	if (t->isolation != PGS_SNAPSHOT)
		return PGS_OK;
	int result = read_attr(t, name, true, NULL, 0, &size);
	return result == PGS_ENOTFOUND ? PGS_OK : result;
}

static int add_attr_write(pgs_txn *t, pgs_slice name, pgs__attr_write **out)
{
	*out = find_attr_write(t, name);
	if (*out)
		return PGS_OK;
	if (t->attr_write_count == ATTR_WRITES_MAX)
		return pgs__error(&t->error, PGS_ELIMIT, "a transaction sets at most %d attributes", ATTR_WRITES_MAX);
	int result = note_blind_attr(t, name);
	if (result != PGS_OK)
		return result;
	pgs_slice copy;
	if (pgs__grow(&t->attr_writes, &t->attr_write_capacity, t->attr_write_count + 1, sizeof *t->attr_writes) !=
		    PGS_OK ||
	    pgs__arena_copy(&t->arena, name, &copy) != PGS_OK)
		return pgs__error_nomem(&t->error, "attributes");
	*out = &t->attr_writes[t->attr_write_count++];
	**out = (pgs__attr_write){.name = copy, .removed = true};
	return PGS_OK;
}

int pgs_attr_set(pgs_txn *txn, const void *name, size_t name_size, const void *value, size_t size)
{
	pgs__attr_write *attr;
	pgs_slice copy = {0};
	int result = check_writable(txn);
	if (result == PGS_OK)
		result = check_attr_name(txn, name, name_size);
	if (result == PGS_OK && value && size > PGS_ATTR_SIZE_MAX)
		result = pgs__error(&txn->error, PGS_EINVAL, "an attribute has at most %d bytes, not %zu",
				    PGS_ATTR_SIZE_MAX, size);
	if (result == PGS_OK && value && pgs__arena_copy(&txn->arena, (pgs_slice){value, size}, &copy) != PGS_OK)
		result = pgs__error_nomem(&txn->error, "attribute");
	if (result == PGS_OK)
		result = add_attr_write(txn, (pgs_slice){name, name_size}, &attr);
	if (result != PGS_OK)
		return result;
	attr->removed = value == NULL;
	attr->value = copy;
	return PGS_OK;
}
