/* What a commit puts.
 *
 *     contents      c/<id>, in the commit's own transaction when they fit, else in ones before it; or level-0 files
 *     pointers      p/<n> each; or, when they are more than one transaction takes, one pack: in a value, or in an
 *                   index file
 *     truncation    p/ ranges deleted; or, when packs exist or it is long, a range of a pack
 *     attributes, the files' l/ keys, the changelog entry
 *
 * Invariant 6: contents are durable before, or in, the transaction that refers to them. Invariant 4: whatever the
 * size, one transaction makes it visible.
 */
#include "txn/commit.h"

#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "codec/pack.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/error.h"

#define FIXED_OPS 6                  /* read t, put t, z, e, x, delete the lock */
#define PART_OPS 7                   /* of a part, at least: compares, and reads that tell which failed */
#define INLINE_CONTENT_MAX (1u << 20) /* bytes of c/ values that ride in the commit itself */
#define PACK_VALUE_MAX (1u << 20)
#define CHANGELOG_RUNS_MAX (64u << 10)
#define TRUNCATE_KEYS_MAX 1000       /* pointers deleted one by one, so to say */
#define OVERHEAD_BYTES (32u << 10)   /* compares, reads and small puts of a request */

/* --- preparing ------------------------------------------------------------------ */

static int by_page(const void *a, const void *b)
{
	const pgs__write *x = *(pgs__write *const *)a, *y = *(pgs__write *const *)b;
	return (x->page_no > y->page_no) - (x->page_no < y->page_no);
}

/* What the commit is, whichever way its pages are stored: a re-sent commit may turn a delta into a full page. */
static void compute_digest(pgs__commit *c)
{
	const pgs_txn *t = c->t;
	XXH3_state_t state;
	XXH3_128bits_reset(&state);
	XXH3_128bits_update(&state, c->uuid, sizeof c->uuid);
	for (size_t i = 0; i < c->write_count; i++) {
		const pgs__write *w = c->writes[i];
		XXH3_128bits_update(&state, &w->page_no, sizeof w->page_no);
		XXH3_128bits_update(&state, w->pointer.id.bytes, PGS__ID_SIZE);
	}
	for (size_t i = 0; i < t->attr_write_count; i++) {
		const pgs__attr_write *a = &t->attr_writes[i];
		XXH3_128bits_update(&state, a->name.data, a->name.size);
		if (!a->removed)
			XXH3_128bits_update(&state, a->value.data, a->value.size);
	}
	const uint64_t rest[] = {t->page_count, t->truncated, t->truncated_to};
	XXH3_128bits_update(&state, rest, sizeof rest);
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
	memcpy(c->digest, canonical.digest, sizeof c->digest);
}

int pgs__payload_prepare(pgs__commit *c)
{
	pgs_txn *t = c->t;
	c->writes = pgs__malloc(t->write_count * sizeof *c->writes);
	if (!c->writes)
		return pgs__error_nomem(c->err, "commit");
	for (size_t i = 0; i < t->write_count; i++)
		if (t->writes[i].state == PGS__WRITE_READY)
			c->writes[c->write_count++] = &t->writes[i];
	if (c->write_count > 1)
		qsort(c->writes, c->write_count, sizeof *c->writes, by_page);
	compute_digest(c);
	return PGS_OK;
}

/* --- operations ------------------------------------------------------------------- */

/* Append an operation whose key and value stay where they are until the commit ends. */
static int add_op(pgs__commit *c, pgs_kv_op op)
{
	if (pgs__grow(&c->ops, &c->op_capacity, c->op_count + 1, sizeof *c->ops) != PGS_OK)
		return pgs__error_nomem(c->err, "commit");
	c->ops[c->op_count++] = op;
	if (op.kind == PGS_KV_PUT)
		c->kv_bytes += op.key.size + op.value.size;
	return PGS_OK;
}

static int copy_key(pgs__commit *c, const pgs__key *key, pgs_slice *out)
{
	return pgs__arena_copy(&c->arena, pgs__key_slice(key), out) == PGS_OK ? PGS_OK
									      : pgs__error_nomem(c->err, "commit");
}

static int add_put(pgs__commit *c, const pgs__key *key, pgs_slice value)
{
	pgs_slice copy;
	int result = copy_key(c, key, &copy);
	return result == PGS_OK ? add_op(c, pgs__op_put(copy, value)) : result;
}

/* Move a buffer's bytes into the arena; the buffer is freed. */
static int keep_buffer(pgs__commit *c, pgs__buffer *b, pgs_slice *out)
{
	int result = b->failed || pgs__arena_copy(&c->arena, pgs__buffer_slice(b), out) != PGS_OK
			     ? pgs__error_nomem(c->err, "commit")
			     : PGS_OK;
	pgs__buffer_free(b);
	return result;
}

/* --- contents ------------------------------------------------------------------------ */

/* A planted bug: the content is known to have been stored at some time. */
static bool was_seen(const pgs__commit *c, const pgs__write *w)
{
	pgs__cache *cache = c->t->db->contents.cache;
	const void *data = pgs__cache_content(cache, w->page_no, &w->pointer.id);
	if (data)
		pgs__cache_unpin(cache, data);
	return data != NULL;
}

static bool has_frame(const pgs__write *w)
{
	return w->frame && !w->in_file && !w->in_kv;
}

static size_t count_frames(const pgs__commit *c)
{
	size_t count = 0;
	for (size_t i = 0; i < c->write_count; i++)
		count += has_frame(c->writes[i]);
	return count;
}

/* Two pages of a group with one content would be two puts of one key, which a KV refuses (rule K3). */
static int put_once(pgs__commit *c, pgs__map *seen, const pgs__write *w, bool *first)
{
	uint64_t hash = pgs__load_u64be(w->pointer.id.bytes + 8) >> 1;
	const uint64_t *known;
	*first = true;
	for (; (known = pgs__map_get(seen, hash)); hash++) {
		const pgs__write *other = (const pgs__write *)(uintptr_t)*known;
		*first = !pgs__page_id_equal(&other->pointer.id, &w->pointer.id);
		if (!*first)
			return PGS_OK;
	}
	return pgs__map_set(seen, hash, (uintptr_t)w, NULL) == PGS_OK ? PGS_OK : pgs__error_nomem(c->err, "commit");
}

static int add_frames(pgs__commit *c)
{
	pgs__map seen = {0};
	int result = PGS_OK;
	for (size_t i = 0; result == PGS_OK && i < c->write_count; i++) {
		pgs__write *w = c->writes[i];
		bool first = false;
		if (!has_frame(w) || (PGS__BUG(COMMIT_REUSES_CONTENT) && was_seen(c, w)))
			continue;
		result = put_once(c, &seen, w, &first);
		pgs__key key = pgs__key_content(pgs__db_prefix(c->t->db), &w->pointer.id);
		if (result == PGS_OK && first)
			result = add_put(c, &key, (pgs_slice){w->frame, w->frame_size});
	}
	pgs__map_free(&seen);
	return result;
}

/* One transaction of contents before the commit's; it compares that the database is there. */
static int put_frames_now(pgs__commit *c, pgs__write **writes, size_t count)
{
	pgs_db *db = c->t->db;
	pgs__arena arena = {0};
	pgs__map seen = {0};
	pgs_kv_op *ops = pgs__arena_calloc(&arena, count, sizeof *ops);
	pgs__key *keys = pgs__arena_calloc(&arena, count, sizeof *keys);
	int result = ops && keys ? PGS_OK : pgs__error_nomem(c->err, "commit");
	size_t used = 0;
	for (size_t i = 0; result == PGS_OK && i < count; i++) {
		bool first;
		result = put_once(c, &seen, writes[i], &first);
		if (result != PGS_OK || !first)
			continue;
		keys[used] = pgs__key_content(pgs__db_prefix(db), &writes[i]->pointer.id);
		ops[used] = pgs__op_put(pgs__key_slice(&keys[used]), (pgs_slice){writes[i]->frame, writes[i]->frame_size});
		c->kv_bytes += ops[used].key.size + ops[used].value.size;
		used++;
	}
	pgs__key m = pgs__key_single(pgs__db_prefix(db), 'm');
	const pgs_kv_compare exists = pgs__if_exists(pgs__key_slice(&m));
	pgs_kv_txn txn = {.compares = &exists, .compare_count = 1, .success = ops, .success_count = used};
	const pgs__backend *backend = pgs__db_backend(db);
	if (result == PGS_OK) {
		/* Contents may be put twice: a lost reply is no more than a reason to send again. */
		result = pgs__kv_send(backend->kv, &txn, c->deadline_ms, c->err);
		if (result == PGS_EUNKNOWN) {
			backend->kv->vtable->release(backend->kv, &txn, 1);
			result = pgs__kv_send(backend->kv, &txn, c->deadline_ms, c->err);
		}
		if (result == PGS_EUNKNOWN)
			result = pgs__error(c->err, PGS_EIO, "the KV does not confirm contents put ahead of the commit");
		if (result == PGS_OK && !txn.succeeded)
			result = pgs__error(c->err, PGS_ENOTFOUND, "database %s was dropped", db->name);
		backend->kv->vtable->release(backend->kv, &txn, 1);
	}
	for (size_t i = 0; result == PGS_OK && i < count; i++)
		writes[i]->in_kv = true;
	pgs__map_free(&seen);
	pgs__arena_free(&arena);
	return result;
}

static int put_frames_before(pgs__commit *c)
{
	const pgs__backend *backend = pgs__db_backend(c->t->db);
	pgs__write *batch[64];
	size_t count = 0, bytes = 0, room = pgs__max_ops(backend) - 1;
	size_t most = pgs__max_bytes(backend) == SIZE_MAX ? SIZE_MAX : pgs__max_bytes(backend) - OVERHEAD_BYTES;
	room = room < 64 ? room : 64;
	for (size_t i = 0; i < c->write_count; i++) {
		pgs__write *w = c->writes[i];
		if (!has_frame(w))
			continue;
		if (count == room || (count && bytes + w->frame_size + PGS__KEY_MAX > most)) {
			int result = put_frames_now(c, batch, count);
			if (result != PGS_OK)
				return result;
			count = bytes = 0;
		}
		batch[count++] = w;
		bytes += w->frame_size + PGS__KEY_MAX;
	}
	return count ? put_frames_now(c, batch, count) : PGS_OK;
}

/* --- pointers ---------------------------------------------------------------------------- */

static size_t pointer_bytes(const pgs__commit *c)
{
	size_t bytes = 0;
	for (size_t i = 0; i < c->write_count; i++)
		bytes += 64 + c->writes[i]->pointer.delta.size;
	return bytes;
}

static int add_pointers(pgs__commit *c)
{
	for (size_t i = 0; i < c->write_count; i++) {
		pgs__buffer b = {0};
		pgs_slice value;
		pgs__pointer_encode(&c->writes[i]->pointer, &b);
		pgs__key key = pgs__key_page(pgs__db_prefix(c->t->db), c->writes[i]->page_no);
		int result = keep_buffer(c, &b, &value);
		if (result == PGS_OK)
			result = add_put(c, &key, value);
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

static int read_buffer(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	memcpy(buffer, ((const pgs__buffer *)ctx)->data + offset, size);
	return PGS_OK;
}

/* Upload a buffer as a new file of kind `kind`; its names are filled. */
static int upload(pgs__commit *c, char kind, pgs__buffer *bytes, char file_name[PGS__FILE_NAME_MAX + 1],
		  char blob_name[PGS__BLOB_NAME_SIZE])
{
	pgs_blob *blob = pgs__db_backend(c->t->db)->blob;
	if (pgs__file_name_new(file_name, kind, c->base_revision) != PGS_OK)
		return pgs__error(c->err, PGS_EIO, "the system gives no random bytes");
	pgs__blob_name(blob_name, pgs__db_prefix(c->t->db), file_name);
	int result = pgs__blob_put(blob, blob_name, bytes->size, read_buffer, bytes, c->deadline_ms, c->err);
	if (result == PGS_OK)
		c->blob_bytes += bytes->size;
	return result;
}

static int encode_entries(pgs__commit *c, pgs__entries_writer *entries, pgs__index_writer *index)
{
	pgs__buffer b = {0};
	for (size_t i = 0; i < c->write_count; i++) {
		b.size = 0;
		pgs__pointer_encode(&c->writes[i]->pointer, &b);
		if (entries)
			pgs__entries_add(entries, c->writes[i]->page_no, pgs__buffer_slice(&b));
		else
			pgs__index_add(index, c->writes[i]->page_no, pgs__buffer_slice(&b));
	}
	bool failed = b.failed;
	pgs__buffer_free(&b);
	return failed ? pgs__error_nomem(c->err, "pack") : PGS_OK;
}

static int encode_index_pack(pgs__commit *c, const pgs__page_range *ranges, size_t range_count, pgs__buffer *out)
{
	pgs__index_writer index = {0};
	pgs__buffer file = {0};
	char file_name[PGS__FILE_NAME_MAX + 1];
	int result = encode_entries(c, NULL, &index);
	if (result == PGS_OK && pgs__index_finish(&index, pgs__txn_page_size(c->t), &file) != PGS_OK)
		result = pgs__error_nomem(c->err, "index file");
	if (result == PGS_OK)
		result = upload(c, 'i', &file, file_name, c->index_blob);
	if (result == PGS_OK)
		pgs__pack_encode_file(ranges, range_count, file_name, file.size, c->write_count, out);
	pgs__buffer_free(&file);
	pgs__index_writer_free(&index);
	return result;
}

/* All pointers, or with `range_only` none: just the truncated range. */
static int add_pack(pgs__commit *c, bool range_only, size_t value_max)
{
	const pgs__page_range range = {c->t->truncated_to, UINT64_MAX};
	pgs__entries_writer entries = {0};
	pgs__buffer value = {0};
	int result = PGS_OK;
	if (range_only || pointer_bytes(c) <= 4 * value_max)
		result = range_only ? PGS_OK : encode_entries(c, &entries, NULL);
	if (result == PGS_OK && (range_only || (entries.count && entries.bytes.size + PGS__KEY_MAX <= value_max)))
		pgs__pack_encode_inline(&range, c->t->truncated, &entries, &value);
	else if (result == PGS_OK)
		result = encode_index_pack(c, &range, c->t->truncated, &value);
	if (entries.bytes.failed)
		result = pgs__error_nomem(c->err, "pack");
	pgs__buffer_free(&entries.bytes);
	pgs_slice kept = {0};
	if (result == PGS_OK)
		result = keep_buffer(c, &value, &kept);
	pgs__buffer_free(&value);
	pgs__key key = pgs__key_uuid(pgs__db_prefix(c->t->db), 'o', c->uuid);
	return result == PGS_OK ? add_put(c, &key, kept) : result;
}

/* --- truncation ------------------------------------------------------------------------------ */

static int add_delete(pgs__commit *c, uint64_t first, uint64_t end)
{
	if (first >= end)
		return PGS_OK;
	pgs__key from = pgs__key_page(pgs__db_prefix(c->t->db), first), to = pgs__key_page(pgs__db_prefix(c->t->db), end);
	pgs_slice key, range_end;
	int result = copy_key(c, &from, &key);
	if (result == PGS_OK)
		result = copy_key(c, &to, &range_end);
	return result == PGS_OK ? add_op(c, pgs__op_delete(key, range_end)) : result;
}

/* Delete what is truncated, around the pages written again after it: a put inside a deleted range is refused (K3). */
static int add_deletes(pgs__commit *c)
{
	uint64_t from = c->t->truncated_to, end = c->t->snapshot.extent;
	for (size_t i = 0; i < c->write_count; i++) {
		uint64_t page_no = c->writes[i]->page_no;
		if (page_no < c->t->truncated_to || page_no >= end)
			continue;
		int result = add_delete(c, from, page_no);
		if (result != PGS_OK)
			return result;
		from = page_no + 1;
	}
	return add_delete(c, from, end);
}

/* Operations add_deletes() would make. */
static size_t count_deletes(const pgs__commit *c)
{
	size_t count = 1;
	for (size_t i = 0; c->t->truncated && i < c->write_count; i++)
		count += c->writes[i]->page_no >= c->t->truncated_to;
	return c->t->truncated ? count : 0;
}

/* --- attributes, files, changelog --------------------------------------------------------------- */

static int add_attrs(pgs__commit *c)
{
	for (size_t i = 0; i < c->t->attr_write_count; i++) {
		const pgs__attr_write *a = &c->t->attr_writes[i];
		pgs__key key = pgs__key_attr(pgs__db_prefix(c->t->db), a->name.data, a->name.size);
		pgs_slice value, copy;
		int result;
		if (a->removed) {
			result = copy_key(c, &key, &copy);
			if (result == PGS_OK)
				result = add_op(c, pgs__op_delete(copy, (pgs_slice){0}));
		} else {
			pgs__buffer b = {0};
			pgs__put_bytes(&b, a->value.data, a->value.size);
			pgs__seal(&b, 0);
			result = keep_buffer(c, &b, &value);
			if (result == PGS_OK)
				result = add_put(c, &key, value);
		}
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

static int add_files(pgs__commit *c)
{
	for (size_t i = 0; i < c->t->file_count; i++) {
		const pgs__sorted_file *file = &c->t->files[i];
		int result = add_put(c, &file->key, pgs__buffer_slice(&file->value));
		if (result != PGS_OK)
			return result;
	}
	return PGS_OK;
}

static int encode_runs(pgs__commit *c, pgs__buffer *out)
{
	pgs__page_run *runs = pgs__calloc(c->write_count + 1, sizeof *runs);
	size_t count = 0;
	if (!runs)
		return pgs__error_nomem(c->err, "changelog");
	for (size_t i = 0; i < c->write_count; i++) {
		uint64_t page_no = c->writes[i]->page_no;
		if (count && runs[count - 1].first + runs[count - 1].count == page_no)
			runs[count - 1].count++;
		else
			runs[count++] = (pgs__page_run){page_no, 1};
	}
	pgs__runs_encode(runs, count, out);
	pgs__free(runs);
	return out->failed ? pgs__error_nomem(c->err, "changelog") : PGS_OK;
}

static int encode_change(pgs__commit *c, pgs__change *change, pgs_slice *value)
{
	pgs__buffer b = {0};
	pgs__change_encode(change, &b);
	/* The entry counts itself: its size does not depend on the count (codec/changelog.h). */
	change->kv_bytes = c->kv_bytes + PGS__PREFIX_SIZE + 3 + 16 + b.size;
	b.size = 0;
	pgs__change_encode(change, &b);
	return keep_buffer(c, &b, value);
}

static int add_changelog(pgs__commit *c, size_t runs_max)
{
	const pgs_txn *t = c->t;
	pgs__buffer runs = {0}, file = {0};
	char file_name[PGS__FILE_NAME_MAX + 1] = "";
	pgs_slice *names = pgs__arena_calloc(&c->arena, t->attr_write_count + 1, sizeof *names);
	int result = names ? encode_runs(c, &runs) : pgs__error_nomem(c->err, "changelog");
	bool in_file = result == PGS_OK && runs.size > runs_max;
	if (in_file) {
		pgs__runs_file_encode(pgs__buffer_slice(&runs), &file);
		result = file.failed ? pgs__error_nomem(c->err, "changelog")
				     : upload(c, 'x', &file, file_name, c->changelog_blob);
	}
	for (size_t i = 0; names && i < t->attr_write_count; i++)
		names[i] = t->attr_writes[i].name;
	pgs__change change = {
		.kind = in_file ? PGS__CHANGE_COMMIT_RUNS_IN_BLOB : PGS__CHANGE_COMMIT,
		.blob_bytes = c->blob_bytes + t->file_bytes,
		.base_revision = c->base_revision,
		.page_count = t->page_count,
		.truncated = t->truncated,
		.truncated_to = t->truncated_to,
		.pages_written = c->write_count,
		.attr_count = t->attr_write_count,
		.attrs = names,
		.has_note = c->options->note != NULL,
		.note = {c->options->note, c->options->note ? c->options->note_size : 0},
		.file_name = {file_name, in_file ? strlen(file_name) : 0},
		.file_size = file.size,
	};
	if (!in_file)
		change.runs = pgs__buffer_slice(&runs);
	memcpy(change.digest, c->digest, sizeof change.digest);
	pgs_slice value = {0};
	if (result == PGS_OK)
		result = encode_change(c, &change, &value);
	pgs__buffer_free(&runs);
	pgs__buffer_free(&file);
	pgs__key key = pgs__key_uuid(pgs__db_prefix(t->db), 'x', c->uuid);
	return result == PGS_OK ? add_put(c, &key, value) : result;
}

/* --- all together ---------------------------------------------------------------------------------- */

/* What a part has besides pages: what every commit has, its attributes, and its files. */
static pgs__budget fixed_of(const pgs__commit *c)
{
	const pgs_txn *t = c->t;
	pgs__budget b = {FIXED_OPS + t->file_count + t->attr_write_count,
			 OVERHEAD_BYTES + t->attr_write_count * (PGS_ATTR_SIZE_MAX + PGS__KEY_MAX)};
	for (size_t i = 0; i < t->file_count; i++)
		b.bytes += t->files[i].value.size + PGS__KEY_MAX;
	return b;
}

static size_t less(size_t a, size_t b)
{
	return a > b ? a - b : 0;
}

/* What is left of the limits is divided evenly; a part that wants more makes a pack of its pages. */
int pgs__payload_share(pgs__commit_group *g)
{
	const pgs__backend *backend = pgs__db_backend(g->parts[0].t->db);
	const pgs__budget whole = {pgs__max_ops(backend), pgs__max_bytes(backend)};
	pgs__budget fixed = {0, 0};
	size_t sharing = 0;
	for (size_t i = 0; i < g->count; i++) {
		pgs__budget b = fixed_of(&g->parts[i]);
		if (g->parts[i].idle)
			continue;
		fixed.ops += b.ops;
		fixed.bytes += b.bytes;
		sharing++;
	}
	if (sharing > 1 && (fixed.ops > whole.ops || fixed.bytes > whole.bytes || sharing * PART_OPS > whole.ops))
		return pgs__error(g->err, PGS_ELIMIT,
				  "%zu databases are too many for one transaction of this KV, or have too many attributes: it "
				  "takes %zu operations and %zu bytes",
				  sharing, whole.ops, whole.bytes);
	for (size_t i = 0; sharing && i < g->count; i++) {
		pgs__commit *c = &g->parts[i];
		c->room = (pgs__budget){less(whole.ops, fixed.ops) / sharing, less(whole.bytes, fixed.bytes) / sharing};
		c->most_compares = whole.ops / sharing;
	}
	return PGS_OK;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Pointers and truncation, as keys or as a pack. */
static int add_pages(pgs__commit *c, pgs__budget *b)
{
	const pgs_txn *t = c->t;
	bool packs_exist = c->packs_came || pgs__pack_view_count(t->snapshot.packs) > 0;
	bool long_truncate = t->truncated && t->snapshot.extent - t->truncated_to > TRUNCATE_KEYS_MAX;
	bool range_in_pack = t->truncated && (packs_exist || long_truncate);
	size_t ops = c->write_count + (range_in_pack ? 1 : count_deletes(c));
	c->packed = ops > b->ops || pointer_bytes(c) > b->bytes;
	c->structural = (c->packed && !PGS__BUG(PACK_KEEPS_EPOCH)) || t->truncated;
	if (c->packed) {
		size_t value_max = smaller(PACK_VALUE_MAX, b->bytes / 4 * 3);
		if (b->ops == 0 || value_max < 4096)
			return pgs__error(c->err, PGS_ELIMIT, "the commit does not fit the KV's limits");
		return add_pack(c, false, value_max);
	}
	b->ops -= ops;
	b->bytes -= pointer_bytes(c);
	int result = add_pointers(c);
	if (result == PGS_OK && range_in_pack)
		return add_pack(c, true, PACK_VALUE_MAX);
	return result == PGS_OK && t->truncated ? add_deletes(c) : result;
}

int pgs__payload_build(pgs__commit *c)
{
	pgs__payload_discard(c); /* of an earlier, stale one */
	pgs__arena_free(&c->arena);
	c->op_count = 0;
	c->kv_bytes = c->blob_bytes = 0;
	c->stale = true; /* until it is whole: in part it must not be sent */
	pgs__budget b = c->room;
	int result = add_attrs(c);
	if (result == PGS_OK)
		result = add_files(c);
	if (result == PGS_OK)
		result = add_pages(c, &b);
	if (result == PGS_OK) {
		bool fits = !c->packed && count_frames(c) <= b.ops &&
			    c->t->frame_bytes <= smaller(INLINE_CONTENT_MAX, b.bytes / 2);
		result = fits ? add_frames(c) : put_frames_before(c);
	}
	if (result == PGS_OK)
		result = add_changelog(c, smaller(CHANGELOG_RUNS_MAX, b.bytes / 8));
	c->stale = result != PGS_OK;
	return result;
}

void pgs__payload_discard(pgs__commit *c)
{
	pgs_blob *blob = pgs__db_backend(c->t->db)->blob;
	char *names[] = {c->index_blob, c->changelog_blob};
	for (size_t i = 0; i < 2; i++) {
		/* An attempt of unknown outcome may refer to it, now or later. */
		if (names[i][0] && !c->group->unknown)
			blob->vtable->remove(blob, names[i], c->deadline_ms, NULL);
		names[i][0] = '\0';
	}
}
