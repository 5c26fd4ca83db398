/* Keeping the mirror: loading it, and applying what was committed since. */
#include "local_cache/mirror_record.h"

#include <string.h>

#include "codec/pointer.h"
#include "local_cache/queue.h"
#include "util/bug.h"
#include "util/error.h"

#define CHUNK 1000               /* pairs loaded in one transaction, */
#define CHUNK_BYTES (256u << 10) /* or so much of them */
#define SHARE 2                  /* the mirror may have one in so many of the file's pages */
#define TOMBSTONES_MAX 100000    /* past that the horizon rises */
#define ATTR_KEPT_MAX 1024       /* bytes of an attribute: larger ones are asked of the KV */
#define PRUNE_LEAST 64           /* tombstones in one transaction, and as many again as it has changes */

typedef struct writing {
	pgs__disk_db *db;
	uint64_t from, to, horizon;
	const pgs__mirror_change *changes; /* apply */
	const pgs_kv_pair *pairs;          /* load */
	size_t count;
	pgs_slice first, end;
	pgs__mirror_head head;
	uint64_t since;    /* what the changes are applied to is of this revision */
	uint64_t sequence; /* of the mirror, when the transaction was done, or had nothing to do */
	bool missing;      /* it cannot be done: something in between is missing, or another load was begun */
} writing;

/* The head; a damaged one is as none. */
static int read_head(pgs__cache_file *file, MDB_txn *txn, writing *w)
{
	int rc = pgs__mirror_head_get(file, txn, w->db->slot, &w->head);
	if (rc != PGS__CACHE_BAD_RECORD)
		return rc;
	rc = pgs__mirror_discard(file, txn, w->db->slot);
	w->head = (pgs__mirror_head){0};
	return rc;
}

static void publish(pgs__cache_file *file, void *ctx)
{
	const writing *w = ctx;
	atomic_store_explicit(&file->state.words->slots[w->db->slot].sequence, w->head.sequence,
			      memory_order_release);
}

/* LMDB's pages that changes may take: each touches a leaf, and large ones have pages of their own. */
static uint64_t pages_for(const pgs__cache_file *file, size_t count, uint64_t bytes)
{
	uint64_t batch = pgs__queue_batch(file), pages = 16 + count + 2 * bytes / file->page_size;
	return pages < 2 * batch ? pages : 2 * batch;
}

/* --- single records ------------------------------------------------------------------------ */

static void account(pgs__mirror_head *head, const pgs__mirror_record *r, size_t key_size, bool add)
{
	uint64_t bytes = key_size + r->value.size, sign = add ? 1 : (uint64_t)-1;
	head->digest += sign * r->hash;
	if (r->dead) {
		head->tombstones += sign;
	} else {
		head->keys += sign;
		head->bytes += sign * bytes;
	}
}

static int put_record(pgs__cache_file *file, MDB_txn *txn, writing *w, const pgs__mirror_key *key,
		      pgs__mirror_record *r)
{
	int rc = pgs__mirror_record_put(file, txn, key, r);
	if (!rc)
		account(&w->head, r, key->size, true);
	return rc;
}

static pgs__mirror_record record_of(const pgs_kv_pair *pair, bool dead, bool unread)
{
	pgs_slice name;
	bool too_large = pair->value.size > ATTR_KEPT_MAX && pgs__key_tail(pair->key, 'a', &name);
	pgs__mirror_record r = {.mod_revision = pair->mod_revision, .create_revision = pair->mod_revision, .dead = dead,
				.unread = !dead && (unread || too_large)};
	if (dead || r.unread)
		return r;
	r.create_revision = pair->create_revision;
	r.version = pair->version;
	r.value = pair->value;
	return r;
}

/* --- contents that nothing refers to any more -------------------------------------------------- */

/* The content that a pointer needs: its own, or its base's. */
static bool content_of(const pgs__disk_db *db, uint64_t page_no, pgs_slice value, pgs__page_id *id)
{
	pgs__pointer p;
	if (pgs__pointer_decode(value, pgs__page_group(page_no, db->page_size), &p) != PGS_OK)
		return false;
	*id = p.kind == PGS__POINTER_DELTA ? p.base : p.id;
	return p.kind == PGS__POINTER_FULL || (p.kind == PGS__POINTER_DELTA && p.has_base);
}

/* A pointer was replaced (by NULL: deleted). Snapshots may still want its content: it is only the first to go. */
static int supersede(pgs__cache_file *file, MDB_txn *txn, const pgs__disk_db *db, pgs_slice kv_key, pgs_slice old,
		     const pgs_slice *value)
{
	uint64_t page_no;
	uint8_t key[PGS__CONTENT_KEY_SIZE];
	pgs__page_id was, is;
	pgs_slice tail;
	if (!pgs__key_tail(kv_key, 'p', &tail) || !pgs__key_parse_page(kv_key, &page_no) ||
	    !content_of(db, page_no, old, &was))
		return 0;
	if (value && content_of(db, page_no, *value, &is) && pgs__page_id_equal(&was, &is))
		return 0;
	pgs__content_key(key, db->number, &was);
	return pgs__queue_supersede(file, txn, key);
}

/* --- applying ---------------------------------------------------------------------------------- */

static int put_dead(pgs__cache_file *file, MDB_txn *txn, uint64_t revision, const pgs__mirror_key *key)
{
	pgs__mirror_key dead;
	if (!pgs__mirror_dead_key_of(&dead, revision, key))
		return 0; /* it stays for good */
	MDB_val k = pgs__val(dead.bytes, dead.size), v = pgs__val("", 0);
	return mdb_put(txn, file->dead, &k, &v, 0);
}

static int apply_one(pgs__cache_file *file, MDB_txn *txn, writing *w, const pgs__mirror_change *c)
{
	pgs__mirror_key key;
	pgs__mirror_record old = {0}, fresh = record_of(&c->pair, c->deleted, c->unread);
	if (c->pair.mod_revision <= w->since || c->pair.mod_revision > w->to || !pgs__mirror_holds(c->pair.key))
		return 0;
	if (c->deleted && PGS__BUG(MIRROR_KEEPS_DELETED))
		return 0;
	if (!pgs__mirror_key_of(&key, w->db, w->head.number, c->pair.key))
		return EINVAL;
	int rc = pgs__mirror_record_get(file, txn, &key, &old);
	bool there = !rc;
	if (rc && rc != MDB_NOTFOUND)
		return rc;
	if (there && old.mod_revision >= fresh.mod_revision)
		return 0; /* a deletion leaves its tombstone in any case: what was there meanwhile may not have been told */
	rc = there && !old.dead ? supersede(file, txn, w->db, c->pair.key, old.value, c->deleted ? NULL : &fresh.value)
				: 0;
	if (!rc && there)
		account(&w->head, &old, key.size, false);
	MDB_val k = pgs__val(key.bytes, key.size);
	if (!rc && c->deleted && PGS__BUG(MIRROR_NO_TOMBSTONES))
		return there ? mdb_del(txn, file->mirror, &k, NULL) : 0;
	if (!rc)
		rc = put_record(file, txn, w, &key, &fresh);
	return !rc && c->deleted ? put_dead(file, txn, fresh.mod_revision, &key) : rc;
}

/* A tombstone's time has come: nobody may ask for what was before it. */
static int bury(pgs__cache_file *file, MDB_txn *txn, writing *w, MDB_val dead)
{
	pgs__mirror_key key;
	pgs__mirror_record r;
	memcpy(key.bytes, dead.mv_data, 4);
	memcpy(key.bytes + 4, (const uint8_t *)dead.mv_data + 12, dead.mv_size - 12);
	key.size = dead.mv_size - 8;
	int rc = pgs__mirror_record_get(file, txn, &key, &r);
	if (rc || !r.dead || r.mod_revision != pgs__load_u64be((const uint8_t *)dead.mv_data + 4))
		return rc == MDB_NOTFOUND ? 0 : rc;
	account(&w->head, &r, key.size, false);
	MDB_val k = pgs__val(key.bytes, key.size);
	return mdb_del(txn, file->mirror, &k, NULL);
}

static int prune(pgs__cache_file *file, MDB_txn *txn, writing *w)
{
	MDB_cursor *cursor;
	uint8_t number[4];
	size_t left = PRUNE_LEAST + 2 * w->count;
	int rc = mdb_cursor_open(txn, file->dead, &cursor);
	if (rc)
		return rc;
	pgs__store_u32be(number, w->head.number);
	MDB_val key = pgs__val(number, sizeof number), value;
	rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_SET_RANGE);
	while (!rc && left-- && key.mv_size > 12 && key.mv_size <= PGS__CACHE_KEY_MAX &&
	       memcmp(key.mv_data, number, 4) == 0) {
		uint64_t revision = pgs__load_u64be((const uint8_t *)key.mv_data + 4);
		if (w->head.tombstones > TOMBSTONES_MAX && revision > w->head.horizon && revision <= w->to)
			w->head.horizon = revision;
		if (revision > w->head.horizon)
			break;
		rc = bury(file, txn, w, key);
		if (!rc)
			rc = mdb_cursor_del(cursor, 0);
		if (!rc)
			rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* It is of no use to mirror what leaves no room for contents, or for changing anything. */
static int check_size(pgs__cache_file *file, MDB_txn *txn)
{
	const MDB_dbi tables[] = {file->mirror, file->dead};
	uint64_t pages = 0;
	for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
		MDB_stat st;
		int rc = mdb_stat(txn, tables[i], &st);
		if (rc)
			return rc;
		pages += st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages;
	}
	return pages > file->map_pages / SHARE ? PGS__CACHE_TOO_LARGE : 0;
}

/* The changelog entry of the last commit among the changes: what t and x/ have in one revision. */
static void note_last(writing *w)
{
	const pgs__key t = pgs__key_single(w->db->prefix, 't');
	pgs__mirror_proof_entry last = {0};
	bool known = false;
	pgs_slice uuid;
	for (size_t i = 0; i < w->count; i++) {
		const pgs_kv_pair *pair = &w->changes[i].pair;
		if (pair->mod_revision > w->since && pair->mod_revision <= w->to && pair->mod_revision > last.revision &&
		    !w->changes[i].deleted && pgs__slice_equal(pair->key, pgs__key_slice(&t)))
			last.revision = pair->mod_revision;
	}
	for (size_t i = 0; !known && i < w->count; i++) {
		known = w->changes[i].pair.mod_revision == last.revision && !w->changes[i].deleted &&
			pgs__key_tail(w->changes[i].pair.key, 'x', &uuid) && uuid.size == sizeof last.uuid;
		if (known)
			memcpy(last.uuid, uuid.data, sizeof last.uuid);
	}
	if (last.revision)
		w->head.last = known ? last : (pgs__mirror_proof_entry){0};
}

static int apply_all(pgs__cache_file *file, MDB_txn *txn, writing *w)
{
	int rc = pgs__mirror_clear_some(file, txn);
	for (size_t i = 0; !rc && i < (PGS__BUG(MIRROR_HALF_APPLIED) ? w->count / 2 : w->count); i++)
		rc = apply_one(file, txn, w, &w->changes[i]);
	note_last(w);
	return rc;
}

static int apply(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	writing *w = ctx;
	int rc = read_head(file, txn, w);
	bool believed = atomic_load(&file->state.words->slots[w->db->slot].sequence) != 0;
	w->since = w->sequence = w->head.sequence;
	w->missing = !rc && (w->since == 0 || w->from > w->since || !believed);
	if (!rc && !w->missing && w->to <= w->since)
		publish(file, w); /* whoever got it there may have died before */
	if (rc || w->missing || w->to <= w->since)
		return rc ? rc : PGS__CACHE_NOTHING_TO_DO;
	rc = apply_all(file, txn, w);
	w->head.sequence = w->sequence = w->to;
	if (w->head.horizon < w->horizon)
		w->head.horizon = w->horizon < w->to ? w->horizon : w->to;
	if (!rc)
		rc = prune(file, txn, w);
	if (!rc)
		rc = check_size(file, txn);
	return rc ? rc : pgs__mirror_head_put(file, txn, w->db->slot, &w->head);
}

static uint64_t bytes_of(const pgs__mirror_change *changes, size_t count)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < count; i++)
		bytes += changes[i].pair.key.size + changes[i].pair.value.size;
	return bytes;
}

/* Run a write on the mirror. A damaged record is met as the whole mirror's damage: it is given up. */
static int run(writing *w, uint64_t pages, uint64_t deadline_ms, pgs__cache_file_work work, pgs_error *err)
{
	int rc = pgs__mirror_ready(w->db);
	if (!rc)
		rc = pgs__cache_file_write(w->db->file, pages, deadline_ms, work, publish, w);
	if (rc == PGS__CACHE_BAD_RECORD) {
		rc = pgs__mirror_give_up(w->db, w->head.number, deadline_ms);
		w->sequence = 0;
		w->missing = !rc;
	}
	if (rc == PGS__CACHE_NOTHING_TO_DO)
		rc = 0;
	int status = pgs__disk_failed(w->db->cache, rc, "writing the mirror", err);
	if (status == PGS_OK && w->missing)
		return pgs__error(err, PGS_EOLDREV, "the mirror is at revision %llu, and this does not follow it",
				  (unsigned long long)w->sequence);
	return status;
}

int pgs__mirror_apply(pgs__disk_db *db, uint64_t from, uint64_t to, uint64_t horizon,
		      const pgs__mirror_change *changes, size_t count, uint64_t deadline_ms, uint64_t *sequence,
		      pgs_error *err)
{
	writing w = {.db = db, .from = from, .to = to, .horizon = horizon, .changes = changes, .count = count};
	if (pgs__cache_file_usable(db->file) && !pgs__mirror_sequence(db)) { /* and is not looked at as a whole for that */
		if (sequence)
			*sequence = 0;
		return pgs__error(err, PGS_EOLDREV, "the mirror is not known to be of the KV's history");
	}
	int status = run(&w, pages_for(db->file, count, bytes_of(changes, count)), deadline_ms, apply, err);
	if (sequence)
		*sequence = w.sequence;
	return status;
}

/* --- loading -------------------------------------------------------------------------------------- */

static int load_begin(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	writing *w = ctx;
	int rc = read_head(file, txn, w);
	if (!rc)
		rc = pgs__mirror_clear_some(file, txn);
	if (!rc && w->head.number == 0)
		rc = pgs__cache_meta_number(file, txn, &w->head.number);
	w->head.sequence = 0;
	w->head.loading = w->to;
	w->head.last = (pgs__mirror_proof_entry){0};
	return rc ? rc : pgs__mirror_head_put(file, txn, w->db->slot, &w->head);
}

int pgs__mirror_load_begin(pgs__disk_db *db, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	writing w = {.db = db, .to = revision};
	return run(&w, pages_for(db->file, 0, 0), deadline_ms, load_begin, err);
}

/* Whether a record of the tables is one of the pairs, which rise as the records do. */
static bool is_listed(const writing *w, size_t *at, MDB_val key)
{
	pgs_slice tail = {(const uint8_t *)key.mv_data + 4, key.mv_size - 4};
	for (; *at < w->count; ++*at) {
		pgs_slice kv_key = w->pairs[*at].key;
		pgs_slice other = {(const uint8_t *)kv_key.data + PGS__PREFIX_SIZE, kv_key.size - PGS__PREFIX_SIZE};
		int order = pgs__slice_compare(other, tail);
		if (order >= 0)
			return order == 0;
	}
	return false;
}

/* The pointer at a key of the table goes. */
static int supersede_tail(pgs__cache_file *file, MDB_txn *txn, const pgs__disk_db *db, MDB_val key, pgs_slice old)
{
	uint8_t whole[PGS__PREFIX_SIZE + PGS__CACHE_KEY_MAX];
	memcpy(whole, db->prefix, PGS__PREFIX_SIZE);
	memcpy(whole + PGS__PREFIX_SIZE, (const uint8_t *)key.mv_data + 4, key.mv_size - 4);
	return supersede(file, txn, db, (pgs_slice){whole, PGS__PREFIX_SIZE + key.mv_size - 4}, old, NULL);
}

static int before_delete(pgs__cache_file *file, MDB_val key)
{
	pgs__mirror_key copy = {.size = key.mv_size};
	memcpy(copy.bytes, key.mv_data, key.mv_size);
	return pgs__mirror_before_change(file, &copy);
}

/* Delete what is in the range and not in the KV, tombstones too. */
static int load_delete(pgs__cache_file *file, MDB_txn *txn, writing *w)
{
	pgs__mirror_key first, end;
	MDB_cursor *cursor;
	MDB_val value;
	size_t at = 0;
	if (!pgs__mirror_key_of(&first, w->db, w->head.number, w->first))
		return EINVAL;
	if (!pgs__mirror_key_of(&end, w->db, w->head.number, w->end)) {
		pgs__store_u32be(end.bytes, w->head.number + 1);
		end.size = 4;
	}
	int rc = mdb_cursor_open(txn, file->mirror, &cursor);
	if (rc)
		return rc;
	MDB_val key = pgs__val(first.bytes, first.size);
	rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_SET_RANGE);
	while (!rc && pgs__slice_compare(pgs__val_slice(key), (pgs_slice){end.bytes, end.size}) < 0) {
		pgs__mirror_record r;
		if (!pgs__mirror_record_decode(key, value, &r)) {
			rc = PGS__CACHE_BAD_RECORD;
			break;
		}
		if (!is_listed(w, &at, key) && !PGS__BUG(MIRROR_LOAD_KEEPS)) {
			account(&w->head, &r, key.mv_size, false);
			rc = before_delete(file, key);
			if (!rc && !r.dead)
				rc = supersede_tail(file, txn, w->db, key, r.value);
			if (!rc)
				rc = mdb_cursor_del(cursor, 0);
		}
		if (!rc)
			rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int load_put(pgs__cache_file *file, MDB_txn *txn, writing *w, const pgs_kv_pair *pair)
{
	pgs__mirror_key key;
	pgs_slice uuid;
	pgs__mirror_record old, fresh = record_of(pair, false, false);
	if (pgs__key_tail(pair->key, 'x', &uuid) && uuid.size == sizeof w->head.last.uuid) {
		w->head.last.revision = pair->mod_revision;
		memcpy(w->head.last.uuid, uuid.data, uuid.size);
		return 0;
	}
	if (!pgs__mirror_key_of(&key, w->db, w->head.number, pair->key))
		return EINVAL;
	int rc = pgs__mirror_record_get(file, txn, &key, &old);
	if (rc && rc != MDB_NOTFOUND)
		return rc;
	if (!rc && !old.dead && old.unread == fresh.unread && old.mod_revision == fresh.mod_revision &&
	    old.version == fresh.version && old.create_revision == fresh.create_revision &&
	    pgs__slice_equal(old.value, fresh.value))
		return 0;
	if (!rc) {
		account(&w->head, &old, key.size, false);
		rc = old.dead ? 0 : supersede(file, txn, w->db, pair->key, old.value, &fresh.value);
	}
	return rc && rc != MDB_NOTFOUND ? rc : put_record(file, txn, w, &key, &fresh);
}

static int load_range(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	writing *w = ctx;
	int rc = read_head(file, txn, w);
	w->missing = !rc && (w->head.loading == 0 || w->head.loading != w->to);
	if (rc || w->missing)
		return rc ? rc : PGS__CACHE_NOTHING_TO_DO;
	rc = pgs__mirror_clear_some(file, txn);
	if (!rc)
		rc = load_delete(file, txn, w);
	for (size_t i = 0; !rc && i < w->count; i++)
		rc = load_put(file, txn, w, &w->pairs[i]);
	if (!rc)
		rc = check_size(file, txn);
	return rc ? rc : pgs__mirror_head_put(file, txn, w->db->slot, &w->head);
}

int pgs__mirror_load_range(pgs__disk_db *db, uint64_t revision, pgs_slice first, pgs_slice end,
			   const pgs_kv_pair *pairs, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	size_t done = 0;
	do {
		uint64_t bytes = 0;
		size_t next = done;
		for (; next < count && next - done < CHUNK && (bytes < CHUNK_BYTES || next == done); next++)
			bytes += pairs[next].key.size + pairs[next].value.size;
		writing w = {.db = db, .to = revision, .pairs = count ? pairs + done : NULL, .count = next - done,
			     .first = done ? pairs[done].key : first, .end = next < count ? pairs[next].key : end};
		int status = run(&w, pages_for(db->file, next - done, bytes), deadline_ms, load_range, err);
		if (status != PGS_OK)
			return status;
		done = next;
	} while (done < count);
	return PGS_OK;
}

/* To what has been loaded; what has not, is loaded as of a later revision. */
static int load_apply(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	writing *w = ctx;
	int rc = read_head(file, txn, w);
	w->since = w->head.loading;
	w->missing = !rc && (w->since == 0 || w->since != w->from);
	if (rc || w->missing || w->to <= w->since)
		return rc ? rc : PGS__CACHE_NOTHING_TO_DO;
	if (!PGS__BUG(MIRROR_LOAD_MISSES))
		rc = apply_all(file, txn, w);
	w->head.loading = w->to;
	if (!rc)
		rc = check_size(file, txn);
	return rc ? rc : pgs__mirror_head_put(file, txn, w->db->slot, &w->head);
}

int pgs__mirror_load_apply(pgs__disk_db *db, uint64_t revision, uint64_t to, const pgs__mirror_change *changes,
			   size_t count, uint64_t deadline_ms, pgs_error *err)
{
	writing w = {.db = db, .from = revision, .to = to, .changes = changes, .count = count};
	return run(&w, pages_for(db->file, count, bytes_of(changes, count)), deadline_ms, load_apply, err);
}

static int load_end(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	writing *w = ctx;
	int rc = read_head(file, txn, w);
	w->missing = !rc && (w->head.loading == 0 || w->head.loading != w->to);
	if (rc || w->missing)
		return rc ? rc : PGS__CACHE_NOTHING_TO_DO;
	w->head.loading = 0;
	w->head.sequence = w->head.horizon = w->sequence = w->to;
	return pgs__mirror_head_put(file, txn, w->db->slot, &w->head);
}

int pgs__mirror_load_end(pgs__disk_db *db, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	writing w = {.db = db, .to = revision};
	return run(&w, pages_for(db->file, 0, 0), deadline_ms, load_end, err);
}

/* --- forgetting ------------------------------------------------------------------------------------------ */

static int reset(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	writing *w = ctx;
	w->head = (pgs__mirror_head){0};
	return pgs__mirror_discard(file, txn, w->db->slot);
}

static void was_reset(pgs__cache_file *file, void *ctx)
{
	const writing *w = ctx;
	pgs__shared_slot *slot = &file->state.words->slots[w->db->slot];
	atomic_store(&slot->sequence, 0);
	atomic_store(&slot->required, 0);
	atomic_store(&slot->confirmed_ms, 0);
	atomic_store(&slot->verified, 1);
}

int pgs__mirror_reset(pgs__disk_db *db, uint64_t deadline_ms, pgs_error *err)
{
	writing w = {.db = db};
	int rc = pgs__cache_file_write(db->file, pages_for(db->file, 0, 0), deadline_ms, reset, was_reset, &w);
	return pgs__disk_failed(db->cache, rc, "forgetting the mirror", err);
}
