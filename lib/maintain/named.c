/* Named snapshots: making, listing and dropping them. Reading them is txn/named.c.
 *
 *     pin S ── pointers and attributes at S ── index files uploaded ── s/<name> put, comparing floor <= S and the pin,
 *                                                                      which it deletes
 *
 * Until s/<name> is there nobody refers to the files, and once it is, the live set reads them: whoever publishes a
 * floor compares s/ unchanged, so what the snapshot shows is live at every floor, by S or by the files. The files carry
 * S in their names: those of a creation that died are orphans as soon as the floor is above S, because registering them
 * would fail.
 *
 * Dropping deletes s/<name> and puts d/<file> for its files in one transaction, or, if they are too many, the rest in
 * further ones: files that no key names any more are orphans by the same rule. Never the other way around: a d/ entry
 * says that the blob may be removed.
 */
#include <pagestore/maintain.h>

#include "txn/history.h"
#include "txn/named.h"
#include "txn/revision_pin.h"
#include "util/alloc.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"

#define INDEX_FILE_BYTES (16u << 20) /* of an index file; twice that in memory while it is uploaded */
#define PIN_LEASE_MS 60000
#define POINTERS_PER_RENEWAL 1000 /* between two looks at the clock */
#define ATTRS_AT_ONCE 200
#define SNAPSHOTS_AT_ONCE 50
#define RESEND_PAUSE_MS 5
#define CLEAN_UP_MS 1000 /* for removing what was uploaded in vain, and for the pin */
#define RECORD_BYTES (64u << 10) /* what a snapshot may take in the KV */
#define DROP_FIXED_OPS 1 /* operations of a drop besides those for files */

static int check_name(const void *name, size_t size, pgs_error *err)
{
	if (name && size >= 1 && size <= PGS_SNAPSHOT_NAME_MAX)
		return PGS_OK;
	return pgs__error(err, PGS_EINVAL, "a snapshot's name has 1 to %d bytes, not %zu", PGS_SNAPSHOT_NAME_MAX, size);
}

static int check_writable(const pgs_db *db, pgs_error *err)
{
	return db->store->read_only ? pgs__error(err, PGS_EREADONLY, "the store was opened read-only") : PGS_OK;
}

/* --- creating: what is uploaded --------------------------------------------------- */

typedef struct upload {
	char name[PGS__FILE_NAME_MAX + 1];
	uint64_t first, end, size, pointer_count;
} upload;

typedef struct creation {
	pgs_db *db;
	pgs_error *err;
	char name[4 * PGS_SNAPSHOT_NAME_MAX + 1]; /* printable */
	pgs__key key;
	pgs__snapshot snapshot;
	pgs__pin pin;        /* of S: what the snapshot shows stays while it is copied */
	uint64_t pinned_ms;  /* when it was last put */
	uint64_t file_bytes;
	pgs__index_writer writer;
	uint64_t first_page; /* in the writer */
	pgs__buffer encoded; /* the pointer at hand */
	pgs__attrs_writer attrs;
	upload *uploads;     /* index files, then maybe the blob of attributes */
	size_t file_count, upload_count, upload_capacity;
	pgs__buffer encoded_attrs;
	pgs__buffer value;   /* of s/<name> */
} creation;

static void creation_free(creation *c)
{
	pgs__index_writer_free(&c->writer);
	pgs__buffer_free(&c->encoded);
	pgs__buffer_free(&c->attrs.bytes);
	pgs__buffer_free(&c->encoded_attrs);
	pgs__buffer_free(&c->value);
	pgs__free(c->uploads);
	pgs__snapshot_close(&c->snapshot);
}

/* Take the pin, or renew it in time. What fails for now is tried again with the next pointers; whether S is readable
 * the next read tells, and registering. */
static int keep_pinned(creation *c)
{
	uint64_t now = pgs__now_ms();
	if (!c->pin.sent) {
		c->pinned_ms = now;
		return pgs__pin_take(&c->pin, c->db, c->snapshot.kv_revision, PIN_LEASE_MS, pgs__db_deadline(c->db, 0), c->err);
	}
	if (now - c->pinned_ms < PIN_LEASE_MS / 3)
		return PGS_OK;
	int result = pgs__pin_renew(&c->pin, pgs__db_deadline(c->db, 0), c->err);
	if (result == PGS_OK)
		c->pinned_ms = now;
	return result == PGS_EOLDREV || result == PGS_ENOTFOUND ? result : PGS_OK;
}

static int from_memory(void *ctx, uint64_t offset, void *buffer, size_t size)
{
	memcpy(buffer, (const uint8_t *)ctx + offset, size);
	return PGS_OK;
}

/* Put a blob. It counts as uploaded even if that fails: it may be there all the same. */
static int put_file(creation *c, char kind, const pgs__buffer *bytes, upload **out)
{
	char blob_name[PGS__BLOB_NAME_SIZE];
	pgs_blob *blob = pgs__db_backend(c->db)->blob;
	if (pgs__grow(&c->uploads, &c->upload_capacity, c->upload_count + 1, sizeof *c->uploads) != PGS_OK)
		return pgs__error_nomem(c->err, "snapshot");
	upload *u = &c->uploads[c->upload_count];
	*u = (upload){.size = bytes->size};
	if (pgs__file_name_new(u->name, kind, c->snapshot.kv_revision) != PGS_OK)
		return pgs__error(c->err, PGS_EIO, "the system gives no random bytes");
	int result = keep_pinned(c);
	if (result != PGS_OK)
		return result;
	c->upload_count++;
	*out = u;
	pgs__blob_name(blob_name, pgs__db_prefix(c->db), u->name);
	return blob->vtable->put(blob, blob_name, bytes->size, from_memory, bytes->data, pgs__db_deadline(c->db, 0),
				 c->err);
}

static void remove_uploads(creation *c)
{
	pgs_blob *blob = pgs__db_backend(c->db)->blob;
	uint64_t deadline = pgs__now_ms() + CLEAN_UP_MS;
	for (size_t i = 0; i < c->upload_count && !pgs__deadline_passed(deadline); i++) {
		char blob_name[PGS__BLOB_NAME_SIZE];
		pgs__blob_name(blob_name, pgs__db_prefix(c->db), c->uploads[i].name);
		blob->vtable->remove(blob, blob_name, deadline, NULL);
	}
}

/* --- creating: pointers -------------------------------------------------------------- */

static int end_file(creation *c)
{
	pgs__buffer file = {0};
	upload *u;
	uint64_t count = c->writer.pointer_count, last = c->writer.last_page;
	if (count == 0)
		return PGS_OK;
	int result = pgs__index_finish(&c->writer, c->db->contents.page_size, &file);
	pgs__index_writer_free(&c->writer);
	if (result != PGS_OK)
		pgs__error_nomem(c->err, "index of a snapshot");
	else
		result = put_file(c, 'i', &file, &u);
	pgs__buffer_free(&file);
	if (result != PGS_OK)
		return result;
	u->first = c->first_page;
	u->end = last + 1;
	u->pointer_count = count;
	c->file_count++;
	return PGS_OK;
}

static int add_pointer(creation *c, uint64_t page_no, const pgs__pointer *pointer)
{
	const pgs__index_writer *w = &c->writer;
	c->encoded.size = 0;
	pgs__pointer_encode(pointer, &c->encoded);
	if (c->encoded.failed)
		return pgs__error_nomem(c->err, "index of a snapshot");
	if (w->pointer_count == 0)
		c->first_page = page_no;
	pgs__index_add(&c->writer, page_no, pgs__buffer_slice(&c->encoded));
	if (w->blocks.failed || w->table.failed || w->current.bytes.failed)
		return pgs__error_nomem(c->err, "index of a snapshot");
	return w->blocks.size + w->table.size + w->current.bytes.size >= c->file_bytes ? end_file(c) : PGS_OK;
}

static int copy_pointers(creation *c)
{
	pgs__pointer_cursor *cursor;
	pgs__pointer pointer;
	uint64_t page_no, done = 0;
	bool found = true;
	int result = pgs__pointer_cursor_open(&cursor, &c->snapshot, 0, c->snapshot.extent, c->err);
	while (result == PGS_OK && found) {
		result = pgs__pointer_cursor_next(cursor, &found, &page_no, &pointer, pgs__db_deadline(c->db, 0), c->err);
		if (result == PGS_OK && found)
			result = add_pointer(c, page_no, &pointer);
		if (result == PGS_OK && ++done % POINTERS_PER_RENEWAL == 0)
			result = keep_pinned(c);
	}
	pgs__pointer_cursor_close(cursor);
	return result == PGS_OK ? end_file(c) : result;
}

/* --- creating: attributes --------------------------------------------------------------- */

static int take_attr(void *ctx, const pgs_kv_pair *pair)
{
	creation *c = ctx;
	pgs_slice value = pair->value, name;
	char text[4 * PGS_ATTR_NAME_MAX + 1];
	if (!pgs__key_tail(pair->key, 'a', &name) || name.size == 0 || name.size > PGS_ATTR_NAME_MAX)
		return pgs__error(c->err, PGS_ECORRUPT, "database %s: an attribute's key is malformed", c->db->name);
	if (!pgs__unseal(&value))
		return pgs__error(c->err, PGS_ECORRUPT, "attribute %s of database %s is damaged",
				  pgs__printable(text, sizeof text, name.data, name.size), c->db->name);
	pgs__attrs_add(&c->attrs, name, value);
	return c->attrs.bytes.failed ? pgs__error_nomem(c->err, "attributes of a snapshot") : PGS_OK;
}

static int read_attrs(creation *c)
{
	const pgs__key_space space = pgs__db_space(c->db);
	pgs__walk walk;
	int result = PGS_OK;
	pgs__walk_kind(&walk, pgs__db_prefix(c->db), 'a', &space, ATTRS_AT_ONCE);
	walk.revision = c->snapshot.kv_revision;
	while (result == PGS_OK && pgs__walk_more(&walk))
		result = pgs__walk_pairs(&walk, pgs__db_backend(c->db), false, take_attr, c, pgs__db_deadline(c->db, 0),
					 c->err);
	return result;
}

/* A quarter of a request at most, so that the record fits one with its index files. */
static size_t inline_max(const creation *c)
{
	size_t quarter = pgs__max_bytes(pgs__db_backend(c->db)) / 4;
	return quarter < PGS__SNAPSHOT_ATTRS_INLINE_MAX ? quarter : PGS__SNAPSHOT_ATTRS_INLINE_MAX;
}

static int copy_attrs(creation *c, upload **file)
{
	pgs__buffer bytes = {0};
	*file = NULL;
	int result = read_attrs(c);
	if (result != PGS_OK)
		return result;
	pgs__attrs_finish(&c->attrs, &c->encoded_attrs);
	if (c->encoded_attrs.failed)
		return pgs__error_nomem(c->err, "attributes of a snapshot");
	if (c->encoded_attrs.size <= inline_max(c))
		return PGS_OK;
	pgs__attrs_file_encode(pgs__buffer_slice(&c->encoded_attrs), &bytes);
	result = bytes.failed ? pgs__error_nomem(c->err, "attributes of a snapshot") : put_file(c, 'a', &bytes, file);
	pgs__buffer_free(&bytes);
	return result;
}

/* --- creating: the record ------------------------------------------------------------------ */

static int encode_record(creation *c, const upload *attrs)
{
	pgs__snapshot_file *files = pgs__calloc(c->file_count, sizeof *files);
	if (!files)
		return pgs__error_nomem(c->err, "snapshot");
	for (size_t i = 0; i < c->file_count; i++) {
		const upload *u = &c->uploads[i];
		files[i] = (pgs__snapshot_file){u->first, u->end, {u->name, strlen(u->name)}, u->size, u->pointer_count};
	}
	pgs__snapshot_record record = {
		.revision = c->snapshot.kv_revision,
		.commit_revision = c->snapshot.commit_revision,
		.counter = c->snapshot.counter,
		.page_count = c->snapshot.extent,
		.created_ms = pgs__unix_ms(),
		.file_count = c->file_count,
		.files = files,
		.attrs_in_file = attrs != NULL,
		.attrs = pgs__buffer_slice(&c->encoded_attrs),
	};
	if (attrs) {
		record.attrs_name = (pgs_slice){attrs->name, strlen(attrs->name)};
		record.attrs_size = attrs->size;
	}
	pgs__snapshot_encode(&record, &c->value);
	pgs__free(files);
	return c->value.failed ? pgs__error_nomem(c->err, "snapshot") : PGS_OK;
}

enum { GET_S, GET_G, GET_M, GET_PIN, GET_COUNT };

#define PIN_IS_GONE 1 /* beside the PGS_… codes: the request can be sent again with a new pin, if it never was before */

/* Registering failed a compare: because it is done, or why. *open: an earlier request may still do it. */
static int judge(creation *c, const pgs_kv_txn *txn, bool unknown, bool *open)
{
	const pgs_kv_pair *s = pgs__got(txn, GET_S), *g = pgs__got(txn, GET_G);
	uint64_t at = c->snapshot.kv_revision;
	pgs__floor floor;
	*open = unknown;
	if (unknown && s && pgs__slice_equal(s->value, pgs__buffer_slice(&c->value)))
		return PGS_OK; /* by a request whose reply was lost */
	if (!pgs__got(txn, GET_M)) {
		*open = false; /* for good, as below */
		return pgs__error(c->err, PGS_ENOTFOUND, "database %s was dropped", c->db->name);
	}
	if (!g || pgs__floor_decode(g->value, &floor) != PGS_OK)
		return pgs__error(c->err, PGS_ECORRUPT, "database %s: the value of key g, floor, is %s", c->db->name,
				  g ? "damaged" : "not there");
	if (floor.floor > at) {
		*open = false;
		return pgs__error(c->err, PGS_EOLDREV, "revision %llu of database %s is gone; the oldest readable is %llu",
				  (unsigned long long)at, c->db->name, (unsigned long long)floor.floor);
	}
	if (!s && !(pgs__got(txn, GET_PIN) && pgs__got(txn, GET_PIN)->create_revision == c->pin.held))
		return PIN_IS_GONE;
	return pgs__error(c->err, PGS_EEXIST, "database %s has a snapshot %s already; drop it first, or choose another name",
			  c->db->name, c->name);
}

/* It consumes the pin: a request that arrives late, when the snapshot was made by a later one and dropped again, does
 * nothing. */
static int register_once(creation *c, uint64_t deadline_ms, bool unknown, bool *open)
{
	const uint8_t *prefix = pgs__db_prefix(c->db);
	pgs__key m = pgs__key_single(prefix, 'm'), g = pgs__key_single(prefix, 'g');
	pgs_slice s = pgs__key_slice(&c->key);
	uint8_t bound[8];
	size_t n = 0;
	pgs__store_u64be(bound, c->snapshot.kv_revision + 1); /* floor <= S: see commit.c */
	pgs__key pin_key = pgs__pin_key(&c->pin);
	pgs_slice pin = pgs__key_slice(&pin_key);
	pgs_kv_compare compares[4];
	compares[n++] = pgs__if_absent(s);
	if (!PGS__BUG(SNAPSHOT_IGNORES_FLOOR)) /* who breaks the pin may raise the floor: it is compared for that, too */
		compares[n++] = (pgs_kv_compare){
			.key = pin, .target = PGS_KV_CREATE, .relation = PGS_KV_EQUAL, .number = c->pin.held};
	compares[n++] = pgs__if_exists(pgs__key_slice(&m));
	if (!PGS__BUG(SNAPSHOT_IGNORES_FLOOR))
		compares[n++] = pgs__if_value_less(pgs__key_slice(&g), (pgs_slice){bound, sizeof bound});
	const pgs_kv_op ops[] = {pgs__op_put(s, pgs__buffer_slice(&c->value)), pgs__op_delete(pin, (pgs_slice){0})};
	const pgs_kv_op gets[GET_COUNT] = {
		[GET_S] = pgs__op_get(s, 0),
		[GET_G] = pgs__op_get(pgs__key_slice(&g), 0),
		[GET_M] = {.kind = PGS_KV_RANGE, .key = pgs__key_slice(&m), .keys_only = true},
		[GET_PIN] = {.kind = PGS_KV_RANGE, .key = pin, .keys_only = true},
	};
	pgs_kv_txn txn = {.compares = compares, .compare_count = n, .success = ops, .success_count = 2,
			  .failure = gets, .failure_count = GET_COUNT};
	pgs_kv *kv = pgs__db_backend(c->db)->kv;
	*open = unknown;
	int result = kv->vtable->txn(kv, &txn, 1, deadline_ms, c->err);
	if (result == PGS_OK && !txn.succeeded)
		result = judge(c, &txn, unknown, open);
	kv->vtable->release(kv, &txn, 1);
	return result;
}

/* Put s/<name>. *unsure: it failed, but may have happened, or happen yet. */
static int register_snapshot(creation *c, bool *unsure)
{
	uint64_t deadline = pgs__db_deadline(c->db, 0);
	bool unknown = false, open = false;
	for (;;) {
		int result = c->pin.held ? register_once(c, deadline, unknown, &open) : PIN_IS_GONE;
		if (result == PIN_IS_GONE && !unknown) { /* broken while we slept */
			result = pgs__pin_renew(&c->pin, deadline, c->err);
			if (result == PGS_OK)
				continue;
			*unsure = false;
			return result;
		}
		*unsure = result != PGS_OK && (open || result == PGS_EUNKNOWN);
		if (result == PGS_OK)
			c->pin.sent = false; /* nothing to release */
		if (result == PGS_OK || !*unsure)
			return result;
		unknown = unknown || result == PGS_EUNKNOWN;
		if (result != PGS_EUNKNOWN || pgs__deadline_passed(deadline))
			break;
		pgs__sleep_ms(RESEND_PAUSE_MS, deadline);
	}
	return pgs__error(c->err, PGS_EUNKNOWN,
			  "creating snapshot %s of database %s was sent and not confirmed; look whether it is there", c->name,
			  c->db->name);
}

/* --- creating --------------------------------------------------------------------------------- */

/* The name may be taken: say so before the work. */
static int check_free(creation *c)
{
	pgs_kv_op op = pgs__op_get(pgs__key_slice(&c->key), 0);
	op.keys_only = true;
	pgs_kv_txn txn;
	int result = pgs__kv_read(pgs__db_backend(c->db), &txn, &op, 1, pgs__db_deadline(c->db, 0), c->err);
	if (result == PGS_OK && pgs__got(&txn, 0))
		result = pgs__error(c->err, PGS_EEXIST,
				    "database %s has a snapshot %s already; drop it first, or choose another name", c->db->name,
				    c->name);
	pgs__kv_release(pgs__db_backend(c->db), &txn, 1);
	return result;
}

static int build(creation *c, bool *unsure)
{
	upload *attrs;
	int result = copy_pointers(c);
	if (result == PGS_OK)
		result = copy_attrs(c, &attrs);
	if (result == PGS_OK)
		result = encode_record(c, attrs);
	return result == PGS_OK ? register_snapshot(c, unsure) : result;
}

static int create(creation *c, const pgs_snapshot_options *o)
{
	uint64_t deadline = pgs__db_deadline(c->db, 0), at = o->at_revision;
	bool unsure = false;
	int result = o->at_time_ms ? pgs__revision_at_time(c->db, o->at_time_ms, deadline, &at, c->err) : PGS_OK;
	if (result == PGS_OK)
		result = pgs__snapshot_open(&c->snapshot, c->db, at, deadline, c->err);
	if (result == PGS_OK)
		result = check_free(c);
	if (result == PGS_OK)
		result = keep_pinned(c);
	if (result == PGS_OK)
		result = build(c, &unsure);
	if (result != PGS_OK && !unsure)
		remove_uploads(c);
	pgs__pin_release(&c->pin, pgs__now_ms() + CLEAN_UP_MS);
	return result;
}

static uint64_t file_bytes(const pgs_db *db)
{
	uint64_t limit = db->maintain.file_bytes;
	return limit && limit < INDEX_FILE_BYTES ? limit : INDEX_FILE_BYTES;
}

int pgs_snapshot_create(pgs_db *db, const void *name, size_t name_size, const pgs_snapshot_options *options,
			pgs_error *err)
{
	const pgs_snapshot_options defaults = PGS_SNAPSHOT_OPTIONS_INIT;
	const pgs_snapshot_options *o = options ? options : &defaults;
	int result = check_name(name, name_size, err);
	if (result == PGS_OK && o->struct_size != sizeof *o)
		result = pgs__error(err, PGS_EINVAL,
				    "pgs_snapshot_options: struct_size is not set; use PGS_SNAPSHOT_OPTIONS_INIT");
	if (result == PGS_OK && o->at_revision && o->at_time_ms)
		result = pgs__error(err, PGS_EINVAL, "at_revision and at_time_ms exclude each other");
	if (result == PGS_OK)
		result = check_writable(db, err);
	if (result == PGS_OK)
		result = pgs__room_admit(db->store, db->name, RECORD_BYTES, pgs__db_deadline(db, 0), err);
	if (result != PGS_OK)
		return result;
	creation c = {.db = db, .err = err, .file_bytes = file_bytes(db)};
	c.key = pgs__key_snapshot(pgs__db_prefix(db), name, name_size);
	pgs__printable(c.name, sizeof c.name, name, name_size);
	result = create(&c, o);
	creation_free(&c);
	return result;
}

/* --- listing --------------------------------------------------------------------------------------- */

typedef struct listing {
	pgs_db *db;
	pgs_snapshot_lister lister;
	void *ctx;
	pgs_error *err;
} listing;

static int damaged_record(const pgs_db *db, pgs_slice name, int code, pgs_error *err)
{
	char text[4 * PGS_SNAPSHOT_NAME_MAX + 1];
	return pgs__error(err, code, "snapshot %s of database %s is damaged or of a newer version",
			  pgs__printable(text, sizeof text, name.data, name.size), db->name);
}

static int list_one(const listing *l, const pgs_kv_pair *pair)
{
	pgs__snapshot_record record;
	pgs__snapshot_file file;
	pgs_slice name;
	if (!pgs__key_tail(pair->key, 's', &name) || name.size == 0 || name.size > PGS_SNAPSHOT_NAME_MAX)
		return pgs__error(l->err, PGS_ECORRUPT, "database %s: a snapshot's key is malformed", l->db->name);
	int result = pgs__snapshot_decode(pair->value, &record);
	if (result != PGS_OK)
		return damaged_record(l->db, name, result, l->err);
	pgs_snapshot_info info = {
		.name = name.data,
		.name_size = name.size,
		.revision = record.commit_revision,
		.page_count = record.page_count,
		.created_ms = record.created_ms,
		.index_bytes = record.attrs_size,
	};
	pgs__snapshot_files_reader r = pgs__snapshot_files_open(&record);
	while (pgs__snapshot_next_file(&r, &file)) {
		info.index_bytes += file.file_size;
		info.pointer_count += file.pointer_count;
	}
	return l->lister(l->ctx, &info);
}

/* One request. It also asks for m: a list of nothing is not the same as no database. */
static int list_page(const listing *l, pgs__walk *walk)
{
	const pgs__backend *backend = pgs__db_backend(l->db);
	pgs__key m = pgs__key_single(pgs__db_prefix(l->db), 'm');
	pgs_kv_op ops[1 + PGS__WALK_OPS] = {{.kind = PGS_KV_RANGE, .key = pgs__key_slice(&m), .keys_only = true}};
	size_t used = 0, count = pgs__walk_ask(walk, ops + 1, pgs__max_ops(backend) - 1);
	pgs_kv_txn txn;
	int result = pgs__kv_read(backend, &txn, ops, 1 + count, pgs__db_deadline(l->db, 0), l->err);
	if (result == PGS_OK && !pgs__got(&txn, 0))
		result = pgs__error(l->err, PGS_ENOTFOUND, "database %s was dropped", l->db->name);
	if (result == PGS_OK)
		result = pgs__walk_take(walk, txn.results + 1, &used, l->err);
	for (size_t i = 1; i <= used; i++)
		for (size_t k = 0; result == PGS_OK && k < txn.results[i].count; k++)
			result = list_one(l, &txn.results[i].pairs[k]);
	pgs__kv_release(backend, &txn, 1);
	return result;
}

int pgs_snapshot_list(pgs_db *db, pgs_snapshot_lister lister, void *ctx, pgs_error *err)
{
	const pgs__key_space space = pgs__db_space(db);
	const listing l = {db, lister, ctx, err};
	pgs__walk walk;
	int result = PGS_OK;
	pgs__walk_kind(&walk, pgs__db_prefix(db), 's', &space, SNAPSHOTS_AT_ONCE);
	while (result == PGS_OK && pgs__walk_more(&walk))
		result = list_page(&l, &walk);
	return result;
}

/* --- dropping ----------------------------------------------------------------------------------------- */

typedef struct drop {
	pgs_db *db;
	pgs_error *err;
	char name[4 * PGS_SNAPSHOT_NAME_MAX + 1]; /* printable */
	pgs__key key;
	uint64_t mod_revision; /* of the snapshot seen */
	pgs__key *files;       /* d/<file> of each of its files */
	size_t file_count;
} drop;

static void add_drop_file(drop *d, pgs_slice name)
{
	char text[PGS__FILE_NAME_MAX + 1] = "";
	memcpy(text, name.data, name.size);
	d->files[d->file_count++] = pgs__key_unregistered(pgs__db_prefix(d->db), text);
}

/* A record that cannot be decoded is dropped without its files: no key names them, and the collector takes them for
 * orphans. */
static int take_files(drop *d, const pgs_kv_pair *pair)
{
	pgs__snapshot_record record;
	pgs__snapshot_file file;
	d->mod_revision = pair->mod_revision;
	d->file_count = 0;
	pgs__free(d->files);
	int result = pgs__snapshot_decode(pair->value, &record);
	d->files = pgs__calloc(record.file_count + 1, sizeof *d->files);
	if (!d->files)
		return pgs__error_nomem(d->err, "snapshot");
	if (result == PGS_EVERSION)
		return pgs__error(d->err, result, "snapshot %s of database %s is of a newer version", d->name, d->db->name);
	if (result != PGS_OK)
		return PGS_OK;
	pgs__snapshot_files_reader r = pgs__snapshot_files_open(&record);
	while (d->file_count < record.file_count && pgs__snapshot_next_file(&r, &file))
		add_drop_file(d, file.name);
	if (record.attrs_in_file)
		add_drop_file(d, record.attrs_name);
	return PGS_OK;
}

static int find_snapshot(drop *d, uint64_t deadline_ms)
{
	pgs__key m = pgs__key_single(pgs__db_prefix(d->db), 'm');
	const pgs_kv_op ops[] = {
		pgs__op_get(pgs__key_slice(&d->key), 0),
		{.kind = PGS_KV_RANGE, .key = pgs__key_slice(&m), .keys_only = true},
	};
	pgs_kv_txn txn;
	int result = pgs__kv_read(pgs__db_backend(d->db), &txn, ops, 2, deadline_ms, d->err);
	const pgs_kv_pair *pair = result == PGS_OK ? pgs__got(&txn, 0) : NULL;
	if (result == PGS_OK && !pgs__got(&txn, 1))
		result = pgs__error(d->err, PGS_ENOTFOUND, "database %s was dropped", d->db->name);
	else if (result == PGS_OK && !pair)
		result = pgs__error(d->err, PGS_ENOTFOUND, "database %s has no snapshot %s", d->db->name, d->name);
	else if (result == PGS_OK)
		result = take_files(d, pair);
	pgs__kv_release(pgs__db_backend(d->db), &txn, 1);
	return result;
}

/* One transaction: with `first`, s/<name> is deleted, compared as seen; and d/ is put for files [from, end). */
static int send_drop(drop *d, bool first, size_t from, size_t end, uint64_t deadline_ms, bool *applied)
{
	pgs_kv *kv = pgs__db_backend(d->db)->kv;
	pgs__key m = pgs__key_single(pgs__db_prefix(d->db), 'm');
	pgs_kv_op *ops = pgs__calloc(end - from + DROP_FIXED_OPS, sizeof *ops);
	size_t n = 0;
	if (!ops)
		return pgs__error_nomem(d->err, "snapshot");
	const pgs_kv_compare compares[] = {
		pgs__if_exists(pgs__key_slice(&m)),
		pgs__if_mod(pgs__key_slice(&d->key), PGS_KV_EQUAL, d->mod_revision),
	};
	if (first)
		ops[n++] = pgs__op_delete(pgs__key_slice(&d->key), (pgs_slice){0});
	for (size_t i = from; i < end; i++)
		ops[n++] = pgs__op_put(pgs__key_slice(&d->files[i]), (pgs_slice){0});
	pgs_kv_txn txn = {.compares = compares, .compare_count = first ? 2 : 1, .success = ops, .success_count = n};
	int result = kv->vtable->txn(kv, &txn, 1, deadline_ms, d->err);
	*applied = result == PGS_OK && txn.succeeded;
	kv->vtable->release(kv, &txn, 1);
	pgs__free(ops);
	return result;
}

static int drop_unknown(const drop *d)
{
	return pgs__error(d->err, PGS_EUNKNOWN,
			  "dropping snapshot %s of database %s was sent and not confirmed; look whether it is there", d->name,
			  d->db->name);
}

/* Delete s/<name>. A request whose reply was lost is sent again; it compares what was seen, so it never drops another
 * snapshot of the same name. */
static int unregister(drop *d, size_t room, uint64_t deadline_ms)
{
	bool unknown = false, applied = false;
	for (;;) {
		size_t count = d->file_count < room ? d->file_count : room;
		int result = send_drop(d, true, 0, count, deadline_ms, &applied);
		if (result == PGS_OK && (applied || unknown))
			return PGS_OK; /* it is gone: by us, as nobody else's doing differs from ours */
		if (result == PGS_OK) /* another dropped it, or made it anew */
			result = find_snapshot(d, deadline_ms);
		else if (result == PGS_EUNKNOWN)
			unknown = true;
		if (result != PGS_OK && result != PGS_EUNKNOWN)
			return unknown ? drop_unknown(d) : result;
		if (pgs__deadline_passed(deadline_ms))
			return drop_unknown(d);
		if (result == PGS_EUNKNOWN)
			pgs__sleep_ms(RESEND_PAUSE_MS, deadline_ms);
	}
}

int pgs_snapshot_drop(pgs_db *db, const void *name, size_t name_size, pgs_error *err)
{
	int result = check_name(name, name_size, err);
	if (result == PGS_OK)
		result = check_writable(db, err);
	if (result != PGS_OK)
		return result;
	drop d = {.db = db, .err = err, .key = pgs__key_snapshot(pgs__db_prefix(db), name, name_size)};
	pgs__printable(d.name, sizeof d.name, name, name_size);
	uint64_t deadline = pgs__db_deadline(db, 0);
	const pgs__backend *backend = pgs__db_backend(db);
	size_t by_bytes = pgs__max_bytes(backend) / sizeof(pgs__key), by_ops = pgs__max_ops(backend) - DROP_FIXED_OPS;
	size_t room = by_ops < by_bytes ? by_ops : by_bytes;
	room = room ? room : 1;
	result = find_snapshot(&d, deadline);
	if (result == PGS_OK)
		result = unregister(&d, room, deadline);
	bool applied = true;
	int more = result;
	for (size_t at = room; more == PGS_OK && applied && at < d.file_count; at += room) /* the rest are orphans if not */
		more = send_drop(&d, false, at, d.file_count - at < room ? d.file_count : at + room, deadline, &applied);
	pgs__free(d.files);
	return result;
}
