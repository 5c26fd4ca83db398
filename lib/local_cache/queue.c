#include "local_cache/queue.h"

#include <string.h>

#define ENTRY_SIZE (PGS__CONTENT_KEY_SIZE + 4)
#define HITS_MAX 3
#define SMALL_SHARE 10  /* the small queue is a tenth */
#define GHOSTS_MIN 256
#define RESERVE_SHARE 8 /* of the file is kept free: freed pages are there two transactions later */
#define RESERVE_MAX ((uint64_t)16384)
#define BATCH_SHARE 8   /* of the reserve, for one transaction's contents; as many again are its tables */
#define PATIENCE 1024   /* contents that may be spared in a row */
#define STEPS_MIN 32    /* of one eviction, at least */

void pgs__content_key(uint8_t out[PGS__CONTENT_KEY_SIZE], uint32_t number, const pgs__page_id *id)
{
	pgs__store_u32be(out, number);
	memcpy(out + 4, id->bytes, PGS__ID_SIZE);
}

_Atomic uint8_t *pgs__content_hits(pgs__cache_file *file, const uint8_t key[PGS__CONTENT_KEY_SIZE])
{
	uint64_t hash;
	memcpy(&hash, key + PGS__CONTENT_KEY_SIZE - sizeof hash, sizeof hash); /* of the id, which is a hash */
	return &file->state.hits[hash & (file->state.words->hit_count - 1)];
}

static uint64_t reserve(const pgs__cache_file *file)
{
	uint64_t pages = file->map_pages / RESERVE_SHARE;
	return pages < RESERVE_MAX ? pages : RESERVE_MAX;
}

uint64_t pgs__queue_batch(const pgs__cache_file *file)
{
	return reserve(file) / BATCH_SHARE;
}

/* --- the account ------------------------------------------------------------------------ */

/* Should it be damaged, the queues are found empty, and their positions go on above all that may be there. */
static int read_positions(pgs__cache_file *file, MDB_txn *txn, pgs__queues *q)
{
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, file->queue, &cursor);
	for (int kind = 0; !rc && kind < PGS__QUEUE_KINDS; kind++) {
		uint8_t past = (uint8_t)(kind + 1);
		MDB_val key = pgs__val(&past, 1), value;
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		rc = rc == MDB_NOTFOUND ? mdb_cursor_get(cursor, &key, &value, MDB_LAST)
					: rc ? rc : mdb_cursor_get(cursor, &key, &value, MDB_PREV);
		if (!rc && key.mv_size == 9 && *(const uint8_t *)key.mv_data == kind)
			q->next[kind] = pgs__load_u64be((const uint8_t *)key.mv_data + 1) + 1;
		rc = rc == MDB_NOTFOUND ? 0 : rc;
	}
	if (cursor)
		mdb_cursor_close(cursor);
	return rc;
}

int pgs__queues_read(pgs__cache_file *file, MDB_txn *txn, pgs__queues *q)
{
	pgs__meta_value m;
	pgs__reader r;
	*q = (pgs__queues){0};
	pgs__meta_key(&m, "q", 1);
	int rc = pgs__meta_get(file, txn, &m, &r);
	if (rc == MDB_NOTFOUND || rc == PGS__FILE_BAD_RECORD)
		return read_positions(file, txn, q);
	for (int kind = 0; !rc && kind < PGS__QUEUE_KINDS; kind++) {
		q->count[kind] = pgs__read_u64(&r);
		q->bytes[kind] = pgs__read_u64(&r);
		q->next[kind] = pgs__read_u64(&r);
	}
	return rc;
}

int pgs__queues_write(pgs__cache_file *file, MDB_txn *txn, const pgs__queues *q)
{
	pgs__meta_value m;
	pgs__meta_key(&m, "q", 1);
	for (int kind = 0; kind < PGS__QUEUE_KINDS; kind++) {
		pgs__put_u64(&m.writer, q->count[kind]);
		pgs__put_u64(&m.writer, q->bytes[kind]);
		pgs__put_u64(&m.writer, q->next[kind]);
	}
	return pgs__meta_put(file, txn, &m);
}

/* --- queues ------------------------------------------------------------------------------- */

int pgs__queue_push(pgs__cache_file *file, MDB_txn *txn, pgs__queues *q, pgs__queue_kind kind,
		    const uint8_t key[PGS__CONTENT_KEY_SIZE], uint32_t size)
{
	uint8_t position[9] = {(uint8_t)kind}, entry[ENTRY_SIZE];
	pgs__store_u64be(position + 1, q->next[kind]++);
	memcpy(entry, key, PGS__CONTENT_KEY_SIZE);
	pgs__store_u32be(entry + PGS__CONTENT_KEY_SIZE, size);
	MDB_val k = pgs__val(position, sizeof position), v = pgs__val(entry, sizeof entry);
	q->count[kind]++;
	q->bytes[kind] += size;
	return mdb_put(txn, file->queue, &k, &v, 0);
}

/* Take the oldest entry of a queue out; MDB_NOTFOUND when it is empty. */
static int pop(MDB_cursor *cursor, pgs__queues *q, pgs__queue_kind kind, uint8_t entry[ENTRY_SIZE])
{
	uint8_t first = (uint8_t)kind;
	MDB_val key = pgs__val(&first, 1), value;
	int rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	if (!rc && *(const uint8_t *)key.mv_data != kind)
		rc = MDB_NOTFOUND;
	if (rc == MDB_NOTFOUND)
		q->count[kind] = q->bytes[kind] = 0;
	if (rc)
		return rc;
	memset(entry, 0, ENTRY_SIZE); /* what a damaged entry names is not there */
	memcpy(entry, value.mv_data, value.mv_size < ENTRY_SIZE ? value.mv_size : ENTRY_SIZE);
	uint32_t size = pgs__load_u32be(entry + PGS__CONTENT_KEY_SIZE);
	q->count[kind] -= q->count[kind] > 0;
	q->bytes[kind] -= q->bytes[kind] < size ? q->bytes[kind] : size;
	return mdb_cursor_del(cursor, 0);
}

int pgs__queue_supersede(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE])
{
	pgs__queues q;
	MDB_val k = pgs__val(key, PGS__CONTENT_KEY_SIZE), v;
	int rc = mdb_get(txn, file->pages, &k, &v);
	if (rc == MDB_NOTFOUND || (!rc && v.mv_size <= PGS__CONTENT_HEAD))
		return 0;
	if (!rc)
		rc = pgs__queues_read(file, txn, &q);
	if (!rc)
		rc = pgs__queue_push(file, txn, &q, PGS__QUEUE_SUPERSEDED, key, 0);
	return rc ? rc : pgs__queues_write(file, txn, &q);
}

/* --- eviction ------------------------------------------------------------------------------- */

typedef struct eviction {
	pgs__cache_file *file;
	MDB_txn *txn;
	pgs__queues q;
	MDB_cursor *cursor;
	uint64_t spared; /* contents that went on, since one went */
} eviction;

/* What is there of a content: MDB_NOTFOUND when nothing is, *ghost when that it was. */
static int look(const eviction *e, const uint8_t *key, bool *ghost)
{
	MDB_val k = pgs__val(key, PGS__CONTENT_KEY_SIZE), v;
	int rc = mdb_get(e->txn, e->file->pages, &k, &v);
	*ghost = !rc && v.mv_size <= PGS__CONTENT_HEAD;
	return rc;
}

static int remove_content(eviction *e, const uint8_t *key)
{
	MDB_val k = pgs__val(key, PGS__CONTENT_KEY_SIZE);
	atomic_store_explicit(pgs__content_hits(e->file, key), 0, memory_order_relaxed);
	atomic_fetch_add_explicit(&e->file->evictions, 1, memory_order_relaxed);
	e->spared = 0;
	return mdb_del(e->txn, e->file->pages, &k, NULL);
}

/* Only that it was there stays, for as many as are in the main queue. */
static int make_ghost(eviction *e, const uint8_t *key)
{
	static const uint8_t nothing[PGS__CONTENT_HEAD];
	uint8_t entry[ENTRY_SIZE];
	int rc = remove_content(e, key);
	MDB_val k = pgs__val(key, PGS__CONTENT_KEY_SIZE), v = pgs__val(nothing, sizeof nothing);
	if (!rc)
		rc = mdb_put(e->txn, e->file->pages, &k, &v, 0);
	if (!rc)
		rc = pgs__queue_push(e->file, e->txn, &e->q, PGS__QUEUE_GHOST, key, 0);
	while (!rc && e->q.count[PGS__QUEUE_GHOST] > e->q.count[PGS__QUEUE_MAIN] + GHOSTS_MIN) {
		bool ghost;
		rc = pop(e->cursor, &e->q, PGS__QUEUE_GHOST, entry);
		if (rc)
			break;
		rc = look(e, entry, &ghost);
		k = pgs__val(entry, PGS__CONTENT_KEY_SIZE);
		if (!rc && ghost)
			rc = mdb_del(e->txn, e->file->pages, &k, NULL);
		rc = rc == MDB_NOTFOUND ? 0 : rc;
	}
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Take a hit off the content's counter, if it has one and patience is left; to main all are taken along (`all`). */
static bool spare(eviction *e, const uint8_t *key, bool all)
{
	_Atomic uint8_t *counter = pgs__content_hits(e->file, key);
	uint8_t hits = atomic_load_explicit(counter, memory_order_relaxed);
	if (hits == 0 || ++e->spared > PATIENCE)
		return false;
	hits = hits > HITS_MAX ? HITS_MAX : hits;
	atomic_store_explicit(counter, all ? 0 : (uint8_t)(hits - 1), memory_order_relaxed);
	return true;
}

/* The next one of a queue goes, or goes on. MDB_NOTFOUND: the queue is empty. */
static int take(eviction *e, pgs__queue_kind kind)
{
	uint8_t entry[ENTRY_SIZE];
	bool ghost;
	int rc = pop(e->cursor, &e->q, kind, entry);
	if (rc)
		return rc;
	rc = look(e, entry, &ghost);
	if (rc || ghost)
		return rc == MDB_NOTFOUND ? 0 : rc;
	uint32_t size = pgs__load_u32be(entry + PGS__CONTENT_KEY_SIZE);
	if (kind != PGS__QUEUE_SUPERSEDED && spare(e, entry, kind == PGS__QUEUE_SMALL))
		return pgs__queue_push(e->file, e->txn, &e->q, PGS__QUEUE_MAIN, entry, size);
	return kind == PGS__QUEUE_SMALL ? make_ghost(e, entry) : remove_content(e, entry);
}

static int evict_one(eviction *e)
{
	const uint64_t *bytes = e->q.bytes, *count = e->q.count;
	uint64_t small = bytes[PGS__QUEUE_SMALL], both = small + bytes[PGS__QUEUE_MAIN];
	if (count[PGS__QUEUE_SUPERSEDED])
		return take(e, PGS__QUEUE_SUPERSEDED);
	if (count[PGS__QUEUE_SMALL] && (small * SMALL_SHARE >= both || !count[PGS__QUEUE_MAIN]))
		return take(e, PGS__QUEUE_SMALL);
	int rc = take(e, PGS__QUEUE_MAIN);
	return rc == MDB_NOTFOUND ? take(e, PGS__QUEUE_SMALL) : rc;
}

int pgs__queue_make_room(pgs__cache_file *file, MDB_txn *txn, uint64_t pages)
{
	uint64_t used, room = pgs__file_room(file), keep = reserve(file) + pages;
	int rc = pgs__file_used(file, txn, &used);
	if (rc || used + keep <= room)
		return rc;
	eviction e = {.file = file, .txn = txn};
	rc = pgs__queues_read(file, txn, &e.q);
	if (!rc)
		rc = mdb_cursor_open(txn, file->queue, &e.cursor);
	/* What is deleted is copied first: too much of it at once would not fit either. */
	for (uint64_t i = 0; !rc && used + keep > room && i < STEPS_MIN + reserve(file) / 2; i++) {
		rc = evict_one(&e);
		if (!rc)
			rc = pgs__file_used(file, txn, &used);
	}
	if (e.cursor)
		mdb_cursor_close(e.cursor);
	if (rc == MDB_NOTFOUND) /* there is nothing left; what is written next may fit all the same */
		rc = 0;
	return rc ? rc : pgs__queues_write(file, txn, &e.q);
}
