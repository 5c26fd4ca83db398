/* Reading the mirror; the words about it that processes share. */
#include "local_cache/mirror_record.h"

#include <string.h>
#include <unistd.h>

#include "codec/pointer.h"
#include "util/bug.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/hooks.h"

#define GIVE_UP_WAIT_MS 20

bool pgs__mirror_holds(pgs_slice key)
{
	static const char kinds[] = "aegmoptz";
	const char *bytes = key.data;
	return key.size > PGS__PREFIX_SIZE + 1 && bytes[PGS__PREFIX_SIZE + 1] && strchr(kinds, bytes[PGS__PREFIX_SIZE + 1]);
}

static pgs__shared_slot *slot_of(const pgs__disk_db *db)
{
	return &db->file->state.words->slots[db->slot];
}

/* --- shared words ------------------------------------------------------------------------ */

static void raise_to(_Atomic uint64_t *word, uint64_t value)
{
	uint64_t old = atomic_load(word);
	while (old < value && !atomic_compare_exchange_weak(word, &old, value))
		;
}

uint64_t pgs__mirror_sequence(const pgs__disk_db *db)
{
	pgs__switch_point();
	return pgs__cache_file_usable(db->file) ? atomic_load_explicit(&slot_of(db)->sequence, memory_order_acquire) : 0;
}

void pgs__mirror_confirm(pgs__disk_db *db, uint64_t at_ms)
{
	pgs__switch_point();
	if (pgs__cache_file_usable(db->file))
		raise_to(&slot_of(db)->confirmed_ms, at_ms);
}

uint64_t pgs__mirror_confirmed(const pgs__disk_db *db)
{
	pgs__switch_point();
	return pgs__cache_file_usable(db->file) ? atomic_load(&slot_of(db)->confirmed_ms) : 0;
}

/* Also when the file has failed: those who have not noticed yet still read it. */
void pgs__mirror_require(pgs__disk_db *db, uint64_t revision)
{
	pgs__switch_point();
	raise_to(&slot_of(db)->required, revision);
}

uint64_t pgs__mirror_required(const pgs__disk_db *db)
{
	pgs__switch_point();
	return atomic_load(&slot_of(db)->required);
}

bool pgs__mirror_follow_lock(pgs__disk_db *db)
{
	pgs__cache_file *f = db->file;
	pgs__switch_point();
	if (!pgs__cache_file_usable(f))
		return false;
	pthread_mutex_lock(&f->attach_lock);
	const void *who = f->followers[db->slot];
	bool mine = who == db ||
		    (!who && pgs__shared_lock(&f->state, PGS__LOCK_FOLLOW + (off_t)db->slot, true, 0));
	if (mine)
		f->followers[db->slot] = db;
	pthread_mutex_unlock(&f->attach_lock);
	return mine;
}

void pgs__mirror_follow_unlock(pgs__disk_db *db)
{
	pgs__cache_file *f = db->file;
	if (f->forked)
		return;
	pthread_mutex_lock(&f->attach_lock);
	if (f->followers[db->slot] == db) {
		f->followers[db->slot] = NULL;
		pgs__shared_unlock(&f->state, PGS__LOCK_FOLLOW + (off_t)db->slot);
	}
	pthread_mutex_unlock(&f->attach_lock);
}

pid_t pgs__mirror_follower(pgs__disk_db *db)
{
	pgs__cache_file *f = db->file;
	if (!pgs__cache_file_usable(f))
		return 0;
	pthread_mutex_lock(&f->attach_lock);
	pid_t pid = f->followers[db->slot] ? getpid() : pgs__shared_holder(&f->state, PGS__LOCK_FOLLOW + (off_t)db->slot);
	pthread_mutex_unlock(&f->attach_lock);
	return pid;
}

/* --- state --------------------------------------------------------------------------------- */

typedef struct state_reading {
	unsigned slot;
	pgs__mirror_head head;
} state_reading;

static int read_state(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	state_reading *s = ctx;
	int rc = pgs__mirror_head_get(file, txn, s->slot, &s->head);
	if (rc == PGS__CACHE_BAD_RECORD) /* of this record alone, and nothing is known then */
		s->head = (pgs__mirror_head){0};
	return rc == PGS__CACHE_BAD_RECORD ? 0 : rc;
}

int pgs__mirror_state_get(pgs__disk_db *db, pgs__mirror_state *out, pgs_error *err)
{
	state_reading s = {.slot = db->slot};
	*out = (pgs__mirror_state){0};
	int rc = pgs__mirror_ready(db);
	if (!rc)
		rc = pgs__cache_file_read(db->file, read_state, &s);
	if (!rc)
		*out = (pgs__mirror_state){.sequence = s.head.sequence, .horizon = s.head.horizon,
					   .loading = s.head.loading, .last = s.head.last,
					   .keys = s.head.keys, .bytes = s.head.bytes};
	return pgs__disk_failed(db->cache, rc, "reading the mirror", err);
}

int pgs__mirror_believe(pgs__disk_db *db, pgs_error *err)
{
	pgs__mirror_state state;
	int result = pgs__mirror_state_get(db, &state, err);
	if (result == PGS_OK)
		raise_to(&slot_of(db)->sequence, state.sequence); /* others may be applying already */
	return result;
}

/* --- pairs ----------------------------------------------------------------------------------- */

typedef struct reading {
	pgs__disk_db *db;
	uint64_t at;
	const pgs_slice *keys; /* get */
	pgs_slice first, end;  /* range */
	size_t count;          /* keys, or the limit */
	pgs__mirror_visitor visit;
	void *ctx;
	pgs__mirror_head head;
	pgs__lmdb_table table;
	bool damaged, unknown;
} reading;

/* Of a pointer that was folded after `at`, the page is what it was then (M2). */
static bool folded_before(const reading *r, pgs_slice kv_key, pgs_slice value)
{
	uint64_t page_no;
	pgs__pointer pointer;
	pgs_slice tail;
	return pgs__key_tail(kv_key, 'p', &tail) && pgs__key_parse_page(kv_key, &page_no) &&
	       pgs__pointer_decode(value, pgs__page_group(page_no, r->db->page_size), &pointer) == PGS_OK &&
	       pointer.folded_revision != 0 && pointer.folded_revision <= r->at;
}

static pgs__mirror_answer answer_of(const reading *r, pgs_slice kv_key, const pgs__mirror_record *record)
{
	if (record->unread)
		return PGS__MIRROR_UNKNOWN;
	if (record->dead)
		return record->mod_revision <= r->at ? PGS__MIRROR_ABSENT : PGS__MIRROR_UNKNOWN;
	if (record->mod_revision <= r->at || PGS__BUG(MIRROR_OVERWRITES) || folded_before(r, kv_key, record->value))
		return PGS__MIRROR_PRESENT;
	return PGS__MIRROR_UNKNOWN;
}

static pgs_kv_pair pair_of(pgs_slice kv_key, const pgs__mirror_record *record)
{
	return (pgs_kv_pair){.key = kv_key, .value = record->value, .create_revision = record->create_revision,
			     .mod_revision = record->mod_revision, .version = record->version};
}

/* Read the head, and settle `at`; false: nothing is known. */
static int begin(pgs__cache_file *file, MDB_txn *txn, reading *r, bool *known)
{
	int rc = pgs__mirror_head_get(file, txn, r->db->slot, &r->head);
	r->damaged = rc == PGS__CACHE_BAD_RECORD;
	if (rc)
		return r->damaged ? 0 : rc;
	if (r->at == 0)
		r->at = r->head.sequence;
	*known = r->head.sequence != 0 && (r->at <= r->head.sequence || PGS__BUG(MIRROR_AHEAD)) &&
		 (r->at >= r->head.horizon || PGS__BUG(MIRROR_IGNORES_HORIZON));
	return *known ? pgs__lmdb_table_open(file, txn, "mirror", &r->table) : 0;
}

static bool is_record(pgs_slice key, pgs_slice value)
{
	pgs__mirror_record record;
	return pgs__mirror_record_decode(pgs__val(key.data, key.size), pgs__val(value.data, value.size), &record);
}

/* Nothing was found in [first, end): *proved, if that is not because of damage that the mirror has met since it was held
 * against its digest. */
static int prove_absent(pgs__cache_file *file, reading *r, pgs_slice first, pgs_slice end, bool *proved)
{
	int rc = pgs__lmdb_prove_gap(file, &r->table, first, end, is_record);
	*proved = rc == 0;
	r->damaged |= rc == MDB_CORRUPTED;
	return rc == MDB_CORRUPTED ? 0 : rc;
}

static int judge_absent(pgs__cache_file *file, reading *r, const pgs__mirror_key *key, pgs__mirror_answer *answer)
{
	uint8_t after[PGS__CACHE_KEY_MAX + 1];
	bool proved;
	memcpy(after, key->bytes, key->size);
	after[key->size] = 0;
	int rc = prove_absent(file, r, (pgs_slice){key->bytes, key->size}, (pgs_slice){after, key->size + 1}, &proved);
	*answer = proved ? PGS__MIRROR_ABSENT : PGS__MIRROR_UNKNOWN;
	return rc;
}

static int get_one(pgs__cache_file *file, MDB_txn *txn, reading *r, size_t index)
{
	pgs__mirror_key key;
	pgs__mirror_record record;
	pgs__mirror_answer answer = PGS__MIRROR_UNKNOWN;
	pgs_kv_pair pair;
	int rc = MDB_BAD_VALSIZE;
	if (pgs__mirror_key_of(&key, r->db, r->head.number, r->keys[index]))
		rc = pgs__mirror_record_find(file, txn, &r->table, &key, &record);
	r->damaged |= rc == PGS__CACHE_BAD_RECORD;
	if (rc == MDB_NOTFOUND)
		rc = judge_absent(file, r, &key, &answer);
	else if (!rc)
		answer = answer_of(r, r->keys[index], &record);
	if (rc && rc != PGS__CACHE_BAD_RECORD && rc != MDB_BAD_VALSIZE)
		return rc;
	if (answer == PGS__MIRROR_PRESENT)
		pair = pair_of(r->keys[index], &record);
	r->visit(r->ctx, index, answer, answer == PGS__MIRROR_PRESENT ? &pair : NULL);
	return 0;
}

static int get_all(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	reading *r = ctx;
	bool known = false;
	int rc = begin(file, txn, r, &known);
	for (size_t i = 0; !rc && i < r->count; i++) {
		if (known)
			rc = get_one(file, txn, r, i);
		else
			r->visit(r->ctx, i, PGS__MIRROR_UNKNOWN, NULL);
	}
	return rc;
}

/* After a reading: what was found damaged is given up, so that it is loaded anew. */
static int finish(reading *r, int rc, uint64_t *sequence, pgs_error *err)
{
	if (!rc && r->damaged)
		pgs__mirror_give_up(r->db, r->head.number, pgs__now_ms() + GIVE_UP_WAIT_MS);
	if (sequence)
		*sequence = rc || r->damaged ? 0 : r->head.sequence;
	return pgs__disk_failed(r->db->cache, rc, "reading the mirror", err);
}

int pgs__mirror_get(pgs__disk_db *db, uint64_t at, const pgs_slice *keys, size_t count, pgs__mirror_visitor visit,
		    void *ctx, uint64_t *sequence, pgs_error *err)
{
	reading r = {.db = db, .at = at, .keys = keys, .count = count, .visit = visit, .ctx = ctx};
	int rc = pgs__mirror_ready(db);
	if (!rc)
		rc = pgs__cache_file_read(db->file, get_all, &r);
	return finish(&r, rc, sequence, err);
}

/* --- ranges ------------------------------------------------------------------------------------ */

/* One record of a range; false when the range cannot be answered. */
static bool range_one(reading *r, MDB_val key, MDB_val value, size_t *index)
{
	uint8_t whole[PGS__PREFIX_SIZE + PGS__CACHE_KEY_MAX];
	pgs__mirror_record record;
	if (!pgs__mirror_record_decode(key, value, &record)) {
		r->damaged = true;
		return false;
	}
	memcpy(whole, r->db->prefix, PGS__PREFIX_SIZE);
	memcpy(whole + PGS__PREFIX_SIZE, (const uint8_t *)key.mv_data + 4, key.mv_size - 4);
	pgs_slice kv_key = {whole, PGS__PREFIX_SIZE + key.mv_size - 4};
	pgs__mirror_answer answer = answer_of(r, kv_key, &record);
	if (answer == PGS__MIRROR_PRESENT) {
		pgs_kv_pair pair = pair_of(kv_key, &record);
		r->visit(r->ctx, (*index)++, answer, &pair);
	}
	return answer != PGS__MIRROR_UNKNOWN;
}

/* The tables' key where a range ends: that of `end`, or past all of the mirror. */
static void end_key(pgs__mirror_key *out, const reading *r)
{
	if (pgs__mirror_key_of(out, r->db, r->head.number, r->end))
		return;
	pgs__store_u32be(out->bytes, r->head.number + 1);
	out->size = 4;
}

/* In a range in which nothing was found so far, but tombstones: there is nothing from *from to `key`; *from moves past it. */
static int prove_empty(pgs__cache_file *file, reading *r, pgs__mirror_key *from, pgs_slice key)
{
	bool proved = true;
	int rc = 0;
	if (pgs__slice_compare((pgs_slice){from->bytes, from->size}, key) < 0)
		rc = prove_absent(file, r, (pgs_slice){from->bytes, from->size}, key, &proved);
	r->unknown |= !proved || key.size >= sizeof from->bytes;
	if (r->unknown)
		return rc;
	memcpy(from->bytes, key.data, key.size);
	from->bytes[key.size] = 0;
	from->size = key.size + 1;
	return rc;
}

/* LMDB's cursor, from one leaf to the next one of this state of the file. */
static int range_next(pgs__cache_file *file, MDB_cursor *cursor, reading *r, pgs__lmdb_leaf *leaf, MDB_val *key,
		      MDB_val *value, MDB_cursor_op op)
{
	int rc = pgs__cache_cursor_get(file, cursor, key, value, op);
	if (rc && rc != MDB_NOTFOUND)
		return rc;
	int wrong = pgs__lmdb_prove_next(file, mdb_cursor_txn(cursor), &r->table, leaf, rc ? NULL : key);
	return wrong ? wrong : rc;
}

static int range_all(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	reading *r = ctx;
	pgs__mirror_key first, end;
	MDB_cursor *cursor;
	MDB_val key, value;
	pgs__lmdb_leaf leaf;
	pgs_slice start;
	bool known = false;
	size_t index = 0;
	int rc = begin(file, txn, r, &known);
	r->unknown = !known || !pgs__mirror_key_of(&first, r->db, r->head.number, r->first);
	if (rc || r->unknown)
		return rc;
	end_key(&end, r);
	rc = pgs__lmdb_get_proved(file, txn, &r->table, (pgs_slice){first.bytes, first.size}, &leaf, &start);
	if (!rc || rc == MDB_NOTFOUND)
		rc = mdb_cursor_open(txn, file->mirror, &cursor);
	if (rc)
		return rc;
	key = pgs__val(first.bytes, first.size);
	rc = range_next(file, cursor, r, &leaf, &key, &value, MDB_SET_RANGE);
	while (!rc && !r->unknown && (r->count == 0 || index < r->count) &&
	       pgs__slice_compare(pgs__val_slice(key), (pgs_slice){end.bytes, end.size}) < 0) {
		rc = index == 0 ? prove_empty(file, r, &first, pgs__val_slice(key)) : 0;
		r->unknown |= !range_one(r, key, value, &index);
		if (!rc)
			rc = range_next(file, cursor, r, &leaf, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	if (!rc && !r->unknown && !is_record(pgs__val_slice(key), pgs__val_slice(value))) /* is it past the end? */
		r->damaged = r->unknown = true;
	if ((!rc || rc == MDB_NOTFOUND) && index == 0 && !r->unknown)
		rc = prove_empty(file, r, &first, (pgs_slice){end.bytes, end.size});
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int pgs__mirror_range(pgs__disk_db *db, uint64_t at, pgs_slice first, pgs_slice end, size_t limit,
		      pgs__mirror_visitor visit, void *ctx, uint64_t *sequence, pgs_error *err)
{
	reading r = {.db = db, .at = at, .first = first, .end = end, .count = limit, .visit = visit, .ctx = ctx};
	int rc = pgs__mirror_ready(db);
	if (!rc)
		rc = pgs__cache_file_read(db->file, range_all, &r);
	int status = finish(&r, rc, sequence, err);
	if (status == PGS_OK && (r.unknown || r.damaged))
		return pgs__error(err, PGS_EOLDREV, "the mirror does not know all of this range at revision %llu",
				  (unsigned long long)at);
	return status;
}
