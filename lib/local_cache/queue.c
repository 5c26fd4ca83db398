#include "local_cache/queue.h"

#include <string.h>

#include "local_cache/lmdb_page.h"
#include "local_cache/mirror_record.h"
#include "util/bug.h"

#define ENTRY_SIZE (PGS__CONTENT_KEY_SIZE + 4)
#define GHOST_NAME_SIZE (1 + PGS__CONTENT_KEY_SIZE)
#define HITS_MAX 3u
#define SMALL_SHARE 10  /* the small queue is a tenth */
#define GHOSTS_MIN 256
#define RESERVE_SHARE 8 /* of the file is kept free: freed pages are there two transactions later */
#define RESERVE_MAX ((uint64_t)4096)
#define BATCH_SHARE 8   /* of the reserve, for one transaction's contents; as many again are its tables */
#define PATIENCE 1024   /* contents that one transaction may spare */
#define CHANGES_MIN 32  /* contents that it may remove or write anew, at least */

/* --- hits ------------------------------------------------------------------------------- */

#define COUNT_BITS 2
#define COUNT_MASK ((1u << COUNT_BITS) - 1)

/* A counter is a tag, told from the content's name, and in the lowest bits the hits. */
static _Atomic uint16_t *counter_of(const pgs__cache_file *file, const uint8_t *key, uint16_t *tag)
{
	uint64_t hash;
	memcpy(&hash, &key[PGS__CONTENT_KEY_SIZE - sizeof hash], sizeof hash); /* of the id, which is a hash */
	hash ^= pgs__load_u32be(key) * 0x9e3779b97f4a7c15u;
	*tag = (uint16_t)(hash >> 48 << COUNT_BITS);
	return &file->state.hits[hash & (file->state.words->hit_count - 1)];
}

/* Races lose a hit at the most. */
bool pgs__content_hit(pgs__cache_file *file, const uint8_t key[PGS__CONTENT_KEY_SIZE])
{
	uint16_t tag;
	_Atomic uint16_t *counter = counter_of(file, key, &tag);
	uint16_t value = atomic_load_explicit(counter, memory_order_relaxed), hits = value & COUNT_MASK;
	bool mine = hits && value - hits == tag;
	if (mine && hits == HITS_MAX)
		return false;
	uint16_t next = mine ? (uint16_t)(value + 1) : hits > 1 ? (uint16_t)(value - 1) : (uint16_t)(tag + 1);
	atomic_store_explicit(counter, next, memory_order_relaxed);
	return next == (uint16_t)(tag + 1) && !mine;
}

static unsigned hits_of(const pgs__cache_file *file, const uint8_t *key)
{
	uint16_t tag, value = atomic_load_explicit(counter_of(file, key, &tag), memory_order_relaxed);
	unsigned hits = value & COUNT_MASK;
	return value - hits == tag ? hits : 0;
}

static void set_hits(const pgs__cache_file *file, const uint8_t *key, unsigned hits)
{
	uint16_t tag;
	_Atomic uint16_t *counter = counter_of(file, key, &tag);
	if (hits_of(file, key))
		atomic_store_explicit(counter, (uint16_t)(tag + hits), memory_order_relaxed);
}

void pgs__content_not_hit(pgs__cache_file *file, const uint8_t key[PGS__CONTENT_KEY_SIZE])
{
	set_hits(file, key, 0);
}

uint64_t pgs__queue_reserve(const pgs__cache_file *file)
{
	uint64_t pages = pgs__cache_file_room(file) / RESERVE_SHARE;
	return pages < RESERVE_MAX ? pages : RESERVE_MAX;
}

uint64_t pgs__queue_batch(const pgs__cache_file *file)
{
	return pgs__queue_reserve(file) / BATCH_SHARE;
}

/* --- the account ------------------------------------------------------------------------ */

/* Should it be damaged, the queues are found empty, and their positions go on above all that may be there. */
static int read_positions(pgs__cache_file *file, MDB_txn *txn, pgs__queues *q)
{
	MDB_cursor *cursor = NULL;
	int rc = mdb_cursor_open(txn, file->queue, &cursor);
	for (int kind = 0; !rc && kind < PGS__QUEUE_KINDS; kind++) {
		uint8_t past = (uint8_t)(kind + 1);
		MDB_val key = pgs__val(&past, 1), value;
		rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_SET_RANGE);
		rc = rc == MDB_NOTFOUND ? pgs__cache_cursor_get(file, cursor, &key, &value, MDB_LAST)
					: rc ? rc : pgs__cache_cursor_get(file, cursor, &key, &value, MDB_PREV);
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
	pgs__cache_meta_value m;
	pgs__reader r;
	*q = (pgs__queues){0};
	pgs__cache_meta_key(&m, "q", 1);
	int rc = pgs__cache_meta_get(file, txn, &m, &r);
	if (rc == MDB_NOTFOUND || rc == PGS__CACHE_BAD_RECORD)
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
	pgs__cache_meta_value m;
	pgs__cache_meta_key(&m, "q", 1);
	for (int kind = 0; kind < PGS__QUEUE_KINDS; kind++) {
		pgs__put_u64(&m.writer, q->count[kind]);
		pgs__put_u64(&m.writer, q->bytes[kind]);
		pgs__put_u64(&m.writer, q->next[kind]);
	}
	return pgs__cache_meta_put(file, txn, &m);
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
static int pop(const pgs__cache_file *file, MDB_cursor *cursor, pgs__queues *q, pgs__queue_kind kind,
	       uint8_t entry[ENTRY_SIZE])
{
	uint8_t first = (uint8_t)kind;
	MDB_val key = pgs__val(&first, 1), value;
	int rc = pgs__cache_cursor_get(file, cursor, &key, &value, MDB_SET_RANGE);
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

static void ghost_name(uint8_t out[GHOST_NAME_SIZE], const uint8_t *key)
{
	out[0] = PGS__QUEUE_GHOST_NAMES;
	memcpy(out + 1, key, PGS__CONTENT_KEY_SIZE);
}

int pgs__queue_recall(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE], bool *was)
{
	uint8_t name[GHOST_NAME_SIZE];
	ghost_name(name, key);
	MDB_val k = pgs__val(name, sizeof name);
	int rc = mdb_del(txn, file->queue, &k, NULL);
	*was = rc == 0;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int pgs__queue_supersede(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE])
{
	pgs__queues q;
	MDB_val k = pgs__val(key, PGS__CONTENT_KEY_SIZE), v;
	int rc = pgs__cache_get(file, txn, file->pages, &k, &v);
	if (rc == MDB_NOTFOUND)
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
	bool disowned;     /* there may be contents of `number`, which are nobody's */
	uint8_t number[4];
	uint64_t spared;   /* contents that went on, */
	uint64_t changed;  /* and that went, or were written anew */
} eviction;

static int remove_content(eviction *e, const uint8_t *key)
{
	int rc = pgs__content_remove(e->file, e->txn, key);
	e->changed++;
	if (rc)
		return rc;
	pgs__content_not_hit(e->file, key);
	pgs__cache_count(e->file, PGS__COUNT_EVICTIONS, 1);
	return 0;
}

/* Only that it was there stays, for as many as are in the main queue. */
static int make_ghost(eviction *e, const uint8_t *key)
{
	uint8_t name[GHOST_NAME_SIZE], entry[ENTRY_SIZE];
	ghost_name(name, key);
	MDB_val k = pgs__val(name, sizeof name), v = pgs__val("", 0);
	int rc = mdb_put(e->txn, e->file->queue, &k, &v, 0);
	if (!rc)
		rc = pgs__queue_push(e->file, e->txn, &e->q, PGS__QUEUE_GHOST, key, 0);
	while (!rc && e->q.count[PGS__QUEUE_GHOST] > e->q.count[PGS__QUEUE_MAIN] + GHOSTS_MIN) {
		bool was;
		rc = pop(e->file, e->cursor, &e->q, PGS__QUEUE_GHOST, entry);
		if (!rc)
			rc = pgs__queue_recall(e->file, e->txn, entry, &was);
	}
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Take a hit off the content's counter, if it has one and patience is left; to main all are taken along (`all`). */
static bool spare(eviction *e, const uint8_t *key, bool all)
{
	unsigned hits = hits_of(e->file, key);
	if (hits == 0 || ++e->spared > PATIENCE)
		return false;
	set_hits(e->file, key, all ? 0 : hits - 1);
	return true;
}

/* What was put ahead stays because it was used: from now on it is like any other. */
static int note_used(eviction *e, const uint8_t *key, MDB_val content) /* its first piece */
{
	MDB_val k = pgs__val(key, PGS__CONTENT_KEY_SIZE), v = {content.mv_size, NULL};
	e->changed++;
	int rc = pgs__lmdb_before_change(e->file, e->txn, e->file->pages, &k);
	if (!rc)
		rc = mdb_put(e->txn, e->file->pages, &k, &v, MDB_RESERVE);
	if (rc)
		return rc;
	if (v.mv_data != content.mv_data) /* else LMDB has changed it in place: nothing of it */
		memcpy(v.mv_data, content.mv_data, content.mv_size);
	pgs__store_u32be(v.mv_data, pgs__load_u32be(v.mv_data) & ~PGS__CONTENT_AHEAD);
	return 0;
}

static void note_wasted(const eviction *e, const uint8_t *key, uint32_t size)
{
	if (hits_of(e->file, key))
		return;
	pgs__cache_count(e->file, PGS__COUNT_AHEAD_WASTED, 1);
	pgs__cache_count(e->file, PGS__COUNT_AHEAD_WASTED_BYTES, size);
}

/* The next one of a queue goes, or goes on. MDB_NOTFOUND: the queue is empty. */
static int take(eviction *e, pgs__queue_kind kind)
{
	uint8_t entry[ENTRY_SIZE];
	int rc = pop(e->file, e->cursor, &e->q, kind, entry);
	if (rc)
		return rc;
	MDB_val k = pgs__val(entry, PGS__CONTENT_KEY_SIZE), v;
	rc = pgs__cache_get(e->file, e->txn, e->file->pages, &k, &v);
	if (rc)
		return rc == MDB_NOTFOUND ? 0 : rc;
	uint32_t size = pgs__load_u32be(entry + PGS__CONTENT_KEY_SIZE);
	bool ahead = v.mv_size > PGS__CONTENT_HEAD && pgs__load_u32be(v.mv_data) & PGS__CONTENT_AHEAD;
	if (kind != PGS__QUEUE_SUPERSEDED && spare(e, entry, kind == PGS__QUEUE_SMALL)) {
		rc = ahead ? note_used(e, entry, v) : 0;
		return rc ? rc : pgs__queue_push(e->file, e->txn, &e->q, PGS__QUEUE_MAIN, entry, size);
	}
	if (ahead)
		note_wasted(e, entry, size - PGS__CONTENT_HEAD);
	rc = remove_content(e, entry);
	return !rc && kind == PGS__QUEUE_SMALL ? make_ghost(e, entry) : rc;
}

/* --- nobody's --------------------------------------------------------------------------------- */

static void disowned_key(uint8_t out[5], const uint8_t number[4])
{
	out[0] = 'u';
	memcpy(out + 1, number, 4);
}

int pgs__queue_disown(pgs__cache_file *file, MDB_txn *txn, uint32_t number)
{
	uint8_t name[5], bytes[4];
	pgs__store_u32be(bytes, number);
	disowned_key(name, bytes);
	MDB_val k = pgs__val(name, sizeof name), v = pgs__val("", 0);
	return mdb_put(txn, file->meta, &k, &v, 0);
}

/* Whose contents are nobody's, if there are any. */
static int find_disowned(eviction *e)
{
	MDB_cursor *cursor;
	MDB_val key = pgs__val("u", 1), value;
	int rc = mdb_cursor_open(e->txn, e->file->meta, &cursor);
	if (rc)
		return rc;
	rc = pgs__cache_cursor_get(e->file, cursor, &key, &value, MDB_SET_RANGE);
	e->disowned = !rc && key.mv_size == 5 && *(const uint8_t *)key.mv_data == 'u';
	if (e->disowned)
		memcpy(e->number, (const uint8_t *)key.mv_data + 1, 4);
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* The first of them goes. With the last one it is forgotten that there were any. */
static int take_disowned(eviction *e)
{
	MDB_cursor *cursor;
	uint8_t content[PGS__CONTENT_KEY_SIZE], name[5];
	MDB_val key = pgs__val(e->number, 4), value;
	int rc = pgs__lmdb_before_change(e->file, e->txn, e->file->pages, &key);
	if (!rc)
		rc = mdb_cursor_open(e->txn, e->file->pages, &cursor);
	if (rc)
		return rc;
	rc = pgs__cache_cursor_get(e->file, cursor, &key, &value, MDB_SET_RANGE);
	bool found = !rc && key.mv_size >= sizeof content && memcmp(key.mv_data, e->number, 4) == 0;
	if (found)
		memcpy(content, key.mv_data, sizeof content);
	mdb_cursor_close(cursor);
	if (rc && rc != MDB_NOTFOUND)
		return rc;
	if (found)
		return remove_content(e, content);
	disowned_key(name, e->number);
	key = pgs__val(name, sizeof name);
	rc = mdb_del(e->txn, e->file->meta, &key, NULL);
	return rc ? rc : find_disowned(e);
}

static int evict_one(eviction *e)
{
	if (e->disowned && !PGS__BUG(DISOWNED_KEPT))
		return take_disowned(e);
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
	uint64_t used, room = pgs__cache_file_room(file), keep = pgs__queue_reserve(file) + pages;
	int rc = pgs__cache_file_used(file, txn, &used);
	if (rc || used + keep <= room)
		return rc;
	eviction e = {.file = file, .txn = txn};
	rc = pgs__mirror_clear_some(file, txn); /* of those that were given up */
	if (!rc)
		rc = find_disowned(&e);
	if (!rc)
		rc = pgs__cache_file_used(file, txn, &used);
	if (!rc)
		rc = pgs__queues_read(file, txn, &e.q);
	if (!rc)
		rc = mdb_cursor_open(txn, file->queue, &e.cursor);
	/* What is deleted is copied first: too much of it at once would not fit either. To spare a content, or to find that it
	 * is gone, takes little: were that counted with the rest, nothing would go while all that is there is in use. */
	uint64_t most = CHANGES_MIN + pgs__queue_reserve(file) / 4;
	for (uint64_t i = 0; !rc && used + keep > room && e.changed < most && i < PATIENCE + most; i++) {
		rc = evict_one(&e);
		if (!rc)
			rc = pgs__cache_file_used(file, txn, &used);
	}
	if (e.cursor)
		mdb_cursor_close(e.cursor);
	if (rc == MDB_NOTFOUND) /* there is nothing left; what is written next may fit all the same */
		rc = 0;
	return rc ? rc : pgs__queues_write(file, txn, &e.q);
}
