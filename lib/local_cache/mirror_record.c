#include "local_cache/mirror_record.h"

#include <string.h>

#include "codec/seal.h"
#include "local_cache/lmdb_page.h"
#include "util/bug.h"
#include "util/clock.h"

#define CLEAR_MAX 512 /* records at a time */
#define GIVE_UP_PAGES 16
#define GIVE_UP_WAIT_MS 1000
enum { KIND_PAIR, KIND_TOMBSTONE, KIND_UNREAD };

#define HEAD_MAX 128  /* bytes before a record's value, at most; and what a buffer asks for at once */

/* --- the head --------------------------------------------------------------------------- */

static void head_key(pgs__cache_meta_value *m, unsigned slot)
{
	const uint8_t key[2] = {'m', (uint8_t)slot};
	pgs__cache_meta_key(m, key, sizeof key);
}

int pgs__mirror_head_get(pgs__cache_file *file, MDB_txn *txn, unsigned slot, pgs__mirror_head *out)
{
	pgs__cache_meta_value m;
	pgs__reader r;
	*out = (pgs__mirror_head){0};
	head_key(&m, slot);
	int rc = pgs__cache_meta_get(file, txn, &m, &r);
	if (rc)
		return rc == MDB_NOTFOUND ? 0 : rc;
	out->number = pgs__read_u32be(&r);
	out->sequence = pgs__read_u64(&r);
	out->horizon = pgs__read_u64(&r);
	out->loading = pgs__read_u64(&r);
	out->last.revision = pgs__read_u64(&r);
	pgs__read_bytes(&r, out->last.uuid, sizeof out->last.uuid);
	out->keys = pgs__read_u64(&r);
	out->bytes = pgs__read_u64(&r);
	out->tombstones = pgs__read_u64(&r);
	out->digest = pgs__read_u64(&r);
	return r.failed ? PGS__CACHE_BAD_RECORD : 0;
}

int pgs__mirror_head_put(pgs__cache_file *file, MDB_txn *txn, unsigned slot, const pgs__mirror_head *in)
{
	pgs__cache_meta_value m;
	head_key(&m, slot);
	pgs__put_u32be(&m.writer, in->number);
	pgs__put_u64(&m.writer, in->sequence);
	pgs__put_u64(&m.writer, in->horizon);
	pgs__put_u64(&m.writer, in->loading);
	pgs__put_u64(&m.writer, in->last.revision);
	pgs__put_bytes(&m.writer, in->last.uuid, sizeof in->last.uuid);
	pgs__put_u64(&m.writer, in->keys);
	pgs__put_u64(&m.writer, in->bytes);
	pgs__put_u64(&m.writer, in->tombstones);
	pgs__put_u64(&m.writer, in->digest);
	return pgs__cache_meta_put(file, txn, &m);
}

int pgs__mirror_discard(pgs__cache_file *file, MDB_txn *txn, unsigned slot)
{
	pgs__mirror_head head;
	pgs__cache_meta_value m;
	uint8_t trash[5] = {'t'};
	int rc = pgs__mirror_head_get(file, txn, slot, &head);
	if (rc == PGS__CACHE_BAD_RECORD) /* whose records they were is not known: they stay until the file is started over */
		head.number = 0;
	else if (rc)
		return rc;
	if (head.number) {
		pgs__store_u32be(trash + 1, head.number);
		MDB_val k = pgs__val(trash, sizeof trash), v = pgs__val("", 0);
		rc = mdb_put(txn, file->meta, &k, &v, 0);
		if (rc)
			return rc;
	}
	head_key(&m, slot);
	MDB_val k = pgs__val(m.bytes, m.key_size);
	rc = mdb_del(txn, file->meta, &k, NULL);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Delete up to *left records that begin with the number. */
static int clear_table(const pgs__cache_file *file, MDB_txn *txn, MDB_dbi table, const uint8_t number[4], size_t *left)
{
	MDB_cursor *cursor;
	MDB_val key = pgs__val(number, 4), value;
	int rc = mdb_cursor_open(txn, table, &cursor);
	if (rc)
		return rc;
	rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_SET_RANGE);
	for (; !rc && *left && memcmp(key.mv_data, number, 4) == 0; --*left) {
		rc = mdb_cursor_del(cursor, 0);
		if (!rc)
			rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int pgs__mirror_clear_some(pgs__cache_file *file, MDB_txn *txn)
{
	MDB_cursor *cursor;
	MDB_val key = pgs__val("t", 1), value;
	uint8_t trash[5];
	size_t left = CLEAR_MAX;
	int rc = mdb_cursor_open(txn, file->meta, &cursor);
	if (rc)
		return rc;
	rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_SET_RANGE);
	bool found = !rc && key.mv_size == sizeof trash && *(const uint8_t *)key.mv_data == 't';
	if (found)
		memcpy(trash, key.mv_data, sizeof trash);
	mdb_cursor_close(cursor);
	if (!found)
		return rc == MDB_NOTFOUND ? 0 : rc;
	rc = clear_table(file, txn, file->mirror, trash + 1, &left);
	if (!rc)
		rc = clear_table(file, txn, file->dead, trash + 1, &left);
	if (rc || !left)
		return rc;
	key = pgs__val(trash, sizeof trash);
	return mdb_del(txn, file->meta, &key, NULL);
}

/* --- records ----------------------------------------------------------------------------- */

bool pgs__mirror_key_of(pgs__mirror_key *out, const pgs__disk_db *db, uint32_t number, pgs_slice kv_key)
{
	size_t tail = kv_key.size - PGS__PREFIX_SIZE;
	if (kv_key.size <= PGS__PREFIX_SIZE || 4 + tail > sizeof out->bytes ||
	    memcmp(kv_key.data, db->prefix, PGS__PREFIX_SIZE) != 0)
		return false;
	pgs__store_u32be(out->bytes, number);
	memcpy(out->bytes + 4, (const uint8_t *)kv_key.data + PGS__PREFIX_SIZE, tail);
	out->size = 4 + tail;
	return true;
}

bool pgs__mirror_dead_key_of(pgs__mirror_key *out, uint64_t revision, const pgs__mirror_key *key)
{
	if (key->size + 8 > sizeof out->bytes)
		return false;
	memcpy(out->bytes, key->bytes, 4);
	pgs__store_u64be(out->bytes + 4, revision);
	memcpy(out->bytes + 12, key->bytes + 4, key->size - 4);
	out->size = key->size + 8;
	return true;
}

static uint64_t hash_of(const void *key, size_t key_size, const void *record, size_t size)
{
	return pgs__check64(key, key_size) ^ pgs__check64(record, size);
}

bool pgs__mirror_record_decode(MDB_val key, MDB_val value, pgs__mirror_record *out)
{
	if (value.mv_size < PGS__SEAL_SIZE)
		return false;
	size_t size = value.mv_size - PGS__SEAL_SIZE;
	out->hash = hash_of(key.mv_data, key.mv_size, value.mv_data, size);
	pgs__reader r = pgs__reader_of(pgs__val_slice(value));
	out->mod_revision = pgs__read_varint(&r);
	out->create_revision = out->mod_revision - pgs__read_varint(&r);
	out->version = pgs__read_varint(&r);
	uint8_t kind = pgs__read_u8(&r);
	out->dead = kind == KIND_TOMBSTONE;
	out->unread = kind == KIND_UNREAD;
	if (pgs__reader_left(&r) < PGS__SEAL_SIZE)
		return false;
	out->value = pgs__read_slice(&r, pgs__reader_left(&r) - PGS__SEAL_SIZE);
	return (pgs__read_u32(&r) == (uint32_t)out->hash || PGS__BUG(MIRROR_UNCHECKED)) && !r.failed;
}

int pgs__mirror_record_find(pgs__cache_file *file, MDB_txn *txn, const pgs__lmdb_table *table,
			    const pgs__mirror_key *key, pgs__mirror_record *out)
{
	pgs_slice k = {key->bytes, key->size}, value;
	pgs__lmdb_leaf leaf;
	int rc = pgs__lmdb_get_proved(file, txn, table, k, &leaf, &value);
	if (rc)
		return rc;
	return pgs__mirror_record_decode(pgs__val(k.data, k.size), pgs__val(value.data, value.size), out)
		       ? 0 : PGS__CACHE_BAD_RECORD;
}

static int prove_way(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	const pgs__mirror_key *key = ctx;
	pgs__lmdb_table table;
	pgs__lmdb_leaf leaf;
	pgs_slice value;
	int rc = pgs__lmdb_table_open(file, txn, "mirror", &table);
	if (!rc)
		rc = pgs__lmdb_get_proved(file, txn, &table, (pgs_slice){key->bytes, key->size}, &leaf, &value);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int pgs__mirror_before_change(pgs__cache_file *file, const pgs__mirror_key *key)
{
	pgs__mirror_key copy = *key;
	return pgs__cache_file_read_within(file, prove_way, &copy);
}

int pgs__mirror_record_get(pgs__cache_file *file, MDB_txn *txn, const pgs__mirror_key *key, pgs__mirror_record *out)
{
	MDB_val k = pgs__val(key->bytes, key->size), v;
	int rc = pgs__mirror_before_change(file, key);
	if (!rc)
		rc = pgs__cache_get(file, txn, file->mirror, &k, &v);
	if (rc)
		return rc;
	k = pgs__val(key->bytes, key->size);
	return pgs__mirror_record_decode(k, v, out) ? 0 : PGS__CACHE_BAD_RECORD;
}

int pgs__mirror_record_put(pgs__cache_file *file, MDB_txn *txn, const pgs__mirror_key *key, pgs__mirror_record *in)
{
	uint8_t bytes[HEAD_MAX] = {0};
	pgs__buffer head = {.data = bytes, .capacity = sizeof bytes};
	pgs__put_varint(&head, in->mod_revision);
	pgs__put_varint(&head, in->mod_revision - in->create_revision);
	pgs__put_varint(&head, in->version);
	pgs__put_u8(&head, in->dead ? KIND_TOMBSTONE : in->unread ? KIND_UNREAD : KIND_PAIR);
	size_t size = head.size + in->value.size;
	MDB_val k = pgs__val(key->bytes, key->size), v = {size + PGS__SEAL_SIZE, NULL};
	int rc = mdb_put(txn, file->mirror, &k, &v, MDB_RESERVE);
	if (rc)
		return rc;
	uint8_t *at = v.mv_data;
	memcpy(at, bytes, head.size);
	if (in->value.size)
		memcpy(at + head.size, in->value.data, in->value.size);
	in->hash = hash_of(key->bytes, key->size, at, size);
	for (size_t i = 0; i < PGS__SEAL_SIZE; i++)
		at[size + i] = (uint8_t)(in->hash >> (8 * i));
	return 0;
}

/* --- before the first use -------------------------------------------------------------------- */

int pgs__mirror_prove(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	pgs__mirror_proof *p = ctx;
	pgs__mirror_head head = {0};
	MDB_cursor *cursor;
	uint8_t number[4];
	uint64_t digest = 0, count = 0;
	p->good = false;
	int rc = pgs__mirror_head_get(file, txn, p->slot, &head);
	p->number = head.number;
	if (rc)
		return rc == PGS__CACHE_BAD_RECORD ? 0 : rc;
	pgs__store_u32be(number, head.number);
	rc = mdb_cursor_open(txn, file->mirror, &cursor);
	if (rc)
		return rc;
	MDB_val key = pgs__val(number, sizeof number), value;
	bool sound = true;
	rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_SET_RANGE);
	uintptr_t leaf = 0;
	for (; !rc && sound && key.mv_size >= 4 && memcmp(key.mv_data, number, 4) == 0; count++) {
		pgs__mirror_record r = {0};
		if ((uintptr_t)key.mv_data / file->page_size != leaf && !pgs__lmdb_leaf_sound(file, key.mv_data)) {
			rc = MDB_CORRUPTED;
			break;
		}
		leaf = (uintptr_t)key.mv_data / file->page_size;
		sound = pgs__mirror_record_decode(key, value, &r);
		digest += r.hash;
		rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	p->good = PGS__BUG(MIRROR_DIGEST_IGNORED) || (sound && digest == head.digest && count == head.keys + head.tombstones);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int give_up(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	const pgs__mirror_proof *p = ctx;
	pgs__mirror_head head;
	int rc = pgs__mirror_head_get(file, txn, p->slot, &head);
	if (rc && rc != PGS__CACHE_BAD_RECORD)
		return rc;
	return rc || head.number == p->number ? pgs__mirror_discard(file, txn, p->slot) : PGS__CACHE_NOTHING_TO_DO;
}

static void given_up(pgs__cache_file *file, void *ctx)
{
	pgs__shared_slot *slot = &file->state.words->slots[((const pgs__mirror_proof *)ctx)->slot];
	atomic_store(&slot->sequence, 0);
	atomic_store(&slot->verified, 1); /* nothing is right */
}

int pgs__mirror_give_up(pgs__disk_db *db, uint32_t number, uint64_t deadline_ms)
{
	pgs__mirror_proof p = {.slot = db->slot, .number = number};
	pgs__cache_count(db->file, PGS__COUNT_BAD, 1);
	pgs__disk_tell(db->cache, PGS__TOLD_MIRROR,
		       "the cache '%s' has a damaged mirror of a database: it is loaded anew; is the disk failing?",
		       db->file->path);
	int rc = pgs__cache_file_write(db->file, GIVE_UP_PAGES, deadline_ms, give_up, given_up, &p);
	return rc == PGS__CACHE_NOTHING_TO_DO ? 0 : rc;
}

int pgs__mirror_ready(pgs__disk_db *db)
{
	pgs__mirror_proof p = {.slot = db->slot};
	if (!pgs__cache_file_usable(db->file))
		return pgs__cache_file_read(db->file, pgs__mirror_prove, &p); /* says why not */
	pgs__shared_slot *slot = &db->file->state.words->slots[db->slot];
	if (atomic_load_explicit(&slot->verified, memory_order_acquire))
		return 0;
	int rc = pgs__cache_file_read(db->file, pgs__mirror_prove, &p);
	if (!rc && !p.good)
		return pgs__mirror_give_up(db, p.number, pgs__now_ms() + GIVE_UP_WAIT_MS);
	if (!rc)
		atomic_store_explicit(&slot->verified, 1, memory_order_release);
	return rc;
}
