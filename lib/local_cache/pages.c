/* Contents in a cache file. */
#include "local_cache/database.h"
#include "local_cache/lmdb_page.h"
#include "local_cache/queue.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/clock.h"

#define WAITING_COUNT 64         /* contents are written when so many wait, */
#define WAITING_BYTES (256u << 10) /* or so much, */
#define WAITING_MS 100           /* or for so long; */
#define WAITING_MAX (1u << 20)   /* what is past this is dropped */
#define DROP_WAIT_MS 20
#define DROP_PAGES 8

/* --- reading --------------------------------------------------------------------------- */

typedef struct getting {
	const pgs__disk_db *db;
	const pgs__page_id *ids;
	size_t count;
	pgs__disk_visitor visit;
	void *ctx;
	uint64_t hits, bytes;
	uint8_t *whole; /* where contents of several pieces are put together */
} getting;

/* A content was read: if it was put ahead, for the first time? */
static void note_hit(pgs__cache_file *file, const uint8_t *key, uint32_t head, size_t size)
{
	if (!pgs__content_hit(file, key) || !(head & PGS__CONTENT_AHEAD))
		return;
	pgs__cache_count(file, PGS__COUNT_AHEAD_USED, 1);
	pgs__cache_count(file, PGS__COUNT_AHEAD_USED_BYTES, size);
}

static int get_all(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	getting *g = ctx;
	pgs__lmdb_table table;
	int rc = pgs__lmdb_table_open(file, txn, "pages", &table);
	for (size_t i = 0; !rc && i < g->count; i++) {
		uint8_t key[PGS__CONTENT_KEY_SIZE];
		pgs_slice stored;
		uint32_t head;
		pgs__content_key(key, g->db->number, &g->ids[i]);
		rc = pgs__content_get(file, &table, key, &head, &stored, &g->whole);
		if (!rc) {
			note_hit(file, key, head, stored.size);
			g->hits++;
			g->bytes += stored.size;
			g->visit(g->ctx, i, stored);
		}
		rc = rc == MDB_NOTFOUND ? 0 : rc;
	}
	return rc;
}

int pgs__disk_get(pgs__disk_db *db, const pgs__page_id *ids, size_t n, pgs__disk_visitor visit, void *ctx)
{
	getting g = {db, ids, n, visit, ctx, 0, 0, NULL};
	int rc = pgs__cache_file_read(db->file, get_all, &g);
	pgs__free(g.whole);
	pgs__cache_count(db->file, PGS__COUNT_HITS, g.hits);
	pgs__cache_count(db->file, PGS__COUNT_MISSES, n - g.hits);
	pgs__cache_count(db->file, PGS__COUNT_HIT_BYTES, g.bytes);
	return pgs__disk_failed(db->cache, rc, "reading pages", NULL);
}

typedef struct looking {
	const pgs__disk_db *db;
	const pgs__page_id *ids;
	size_t count;
	bool *there;
} looking;

static int look_all(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	const looking *l = ctx;
	pgs__lmdb_table table;
	int rc = pgs__lmdb_table_open(file, txn, "pages", &table);
	for (size_t i = 0; !rc && i < l->count; i++) {
		uint8_t key[PGS__CONTENT_KEY_SIZE];
		pgs_slice value;
		pgs__content_key(key, l->db->number, &l->ids[i]);
		rc = pgs__lmdb_get(file, &table, (pgs_slice){key, sizeof key}, &value);
		l->there[i] |= !rc;
		rc = rc == MDB_NOTFOUND ? 0 : rc;
	}
	return rc;
}

/* --- writing ----------------------------------------------------------------------------- */

typedef struct waiting_content {
	uint8_t key[PGS__CONTENT_KEY_SIZE];
	pgs_slice stored;
	bool ahead;
} waiting_content;

/* The content at *at among those that wait; false at the end. */
static bool next_waiting(pgs_slice all, size_t *at, waiting_content *out)
{
	if (*at >= all.size)
		return false;
	const uint8_t *entry = (const uint8_t *)all.data + *at;
	memcpy(out->key, entry, PGS__CONTENT_KEY_SIZE);
	uint32_t size = pgs__load_u32be(entry + PGS__CONTENT_KEY_SIZE);
	out->stored = (pgs_slice){entry + PGS__CONTENT_KEY_SIZE + 4, size & ~PGS__CONTENT_AHEAD};
	out->ahead = size & PGS__CONTENT_AHEAD;
	*at += PGS__CONTENT_KEY_SIZE + 4 + out->stored.size;
	return true;
}

/* LMDB's pages that a content takes, about. */
static uint64_t pages_of(const pgs__cache_file *file, size_t size)
{
	return 1 + size / file->page_size; /* the rest is in a leaf, or a page of its own */
}

typedef struct putting {
	pgs_slice all;
	size_t from, to;
	size_t count; /* of contents from `from` to `to` */
	uint64_t pages;
	uint64_t puts, bytes;
} putting;

static int insert(pgs__cache_file *file, MDB_txn *txn, pgs__queues *q, const waiting_content *c, uint32_t now,
		  bool *there)
{
	MDB_val k = pgs__val(c->key, sizeof c->key), v;
	bool ghost = false;
	int rc = pgs__cache_get(file, txn, file->pages, &k, &v);
	*there = rc == 0;
	if (rc != MDB_NOTFOUND)
		return rc;
	rc = pgs__queue_recall(file, txn, c->key, &ghost);
	uint32_t head = (now & ~PGS__CONTENT_AHEAD) | (c->ahead ? PGS__CONTENT_AHEAD : 0);
	if (!rc)
		rc = pgs__content_put(file, txn, c->key, head, c->stored);
	if (rc)
		return rc;
	pgs__content_not_hit(file, c->key);
	return pgs__queue_push(file, txn, q, ghost ? PGS__QUEUE_MAIN : PGS__QUEUE_SMALL, c->key,
			       (uint32_t)(PGS__CONTENT_HEAD + c->stored.size));
}

static int put_some(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	putting *p = ctx;
	pgs__queues q;
	waiting_content c;
	uint32_t now = (uint32_t)(pgs__unix_ms() / 1000);
	int rc = pgs__queues_read(file, txn, &q);
	p->puts = p->bytes = 0;
	for (size_t at = p->from; !rc && at < p->to && next_waiting(p->all, &at, &c);) {
		bool there = false;
		rc = insert(file, txn, &q, &c, now, &there);
		p->puts += !there;
		p->bytes += there ? 0 : c.stored.size;
	}
	return rc ? rc : pgs__queues_write(file, txn, &q);
}

/* Choose the contents from p->from on that go into the next transaction. */
static void choose(const pgs__cache_file *file, putting *p)
{
	waiting_content c;
	uint64_t most = pgs__queue_batch(file);
	p->to = p->from;
	p->count = 0;
	p->pages = 0;
	for (size_t at = p->from; next_waiting(p->all, &at, &c); p->to = at, p->count++) {
		uint64_t more = pages_of(file, c.stored.size);
		if (p->pages && p->pages + more > most)
			return;
		p->pages += more;
	}
}

/* Give back what could not be written now, before what came meanwhile. */
static void put_back(pgs__cache_file *file, pgs__pending *left, size_t from)
{
	pgs__pending *now = &file->pending;
	pthread_mutex_lock(&file->pending_lock);
	if (left->bytes.size - from + now->bytes.size <= WAITING_MAX) {
		pgs__put_bytes(&left->bytes, now->bytes.data, now->bytes.size);
		if (!left->bytes.failed) {
			memmove(left->bytes.data, left->bytes.data + from, left->bytes.size - from);
			left->bytes.size -= from;
			pgs__pending other = *now;
			left->count += now->count;
			*now = *left;
			*left = other;
		}
	}
	pgs__cache_count(file, PGS__COUNT_DROPPED, left->count);
	pthread_mutex_unlock(&file->pending_lock);
	pgs__buffer_free(&left->bytes);
}

static int flush(pgs__cache_file *file, uint64_t deadline_ms)
{
	pthread_mutex_lock(&file->pending_lock);
	pgs__pending taken = file->pending;
	file->pending = (pgs__pending){0};
	pthread_mutex_unlock(&file->pending_lock);
	putting p = {.all = pgs__buffer_slice(&taken.bytes)};
	int rc = 0;
	while (!rc && p.from < p.all.size) {
		choose(file, &p);
		rc = pgs__cache_file_write(file, 2 * p.pages, deadline_ms, put_some, NULL, &p);
		if (rc)
			break;
		pgs__cache_count(file, PGS__COUNT_PUTS, p.puts);
		pgs__cache_count(file, PGS__COUNT_PUT_BYTES, p.bytes);
		p.from = p.to;
		taken.count -= p.count;
	}
	if (rc == EBUSY) {
		put_back(file, &taken, p.from);
		return rc;
	}
	if (rc)
		pgs__cache_count(file, PGS__COUNT_DROPPED, taken.count);
	pgs__buffer_free(&taken.bytes);
	return rc;
}

/* Add a content to those that wait; false: there is no room. *due: they should be written. */
static bool append(pgs__disk_db *db, const pgs__page_id *id, pgs_slice stored, bool ahead, bool *due)
{
	pgs__cache_file *file = db->file;
	uint8_t key[PGS__CONTENT_KEY_SIZE], size[4];
	pgs__content_key(key, db->number, id);
	pgs__store_u32be(size, (uint32_t)stored.size | (ahead ? PGS__CONTENT_AHEAD : 0));
	pthread_mutex_lock(&file->pending_lock);
	pgs__pending *p = &file->pending;
	size_t before = p->bytes.size;
	bool kept = before + sizeof key + sizeof size + stored.size <= WAITING_MAX;
	if (kept) {
		pgs__put_bytes(&p->bytes, key, sizeof key);
		pgs__put_bytes(&p->bytes, size, sizeof size);
		pgs__put_bytes(&p->bytes, stored.data, stored.size);
		kept = !p->bytes.failed;
		p->bytes.size = kept ? p->bytes.size : before;
		p->bytes.failed = false;
	}
	if (kept && p->count++ == 0)
		p->since_ms = pgs__now_ms();
	*due = p->count >= WAITING_COUNT || p->bytes.size >= WAITING_BYTES ||
	       (p->count && pgs__now_ms() - p->since_ms >= WAITING_MS);
	pthread_mutex_unlock(&file->pending_lock);
	return kept;
}

static bool can_put(const pgs__disk_db *db, pgs_slice stored)
{
	return pgs__cache_file_usable(db->file) && stored.size != 0 && stored.size <= PGS_PAGE_SIZE_MAX;
}

void pgs__disk_put(pgs__disk_db *db, const pgs__page_id *id, pgs_slice stored)
{
	bool due;
	if (!can_put(db, stored))
		return;
	if (!append(db, id, stored, false, &due))
		pgs__cache_count(db->file, PGS__COUNT_DROPPED, 1);
	if (due)
		pgs__disk_failed(db->cache, flush(db->file, 0), "writing pages", NULL);
}

void pgs__disk_put_ahead(pgs__disk_db *db, const pgs__page_id *id, pgs_slice stored, uint64_t deadline_ms)
{
	bool due;
	if (!can_put(db, stored))
		return;
	bool kept = append(db, id, stored, true, &due);
	if (due)
		pgs__disk_failed(db->cache, flush(db->file, deadline_ms), "writing pages", NULL);
	if (!kept && !append(db, id, stored, true, &due))
		pgs__cache_count(db->file, PGS__COUNT_DROPPED, 1);
}

void pgs__disk_put_end(pgs__disk_db *db, uint64_t deadline_ms)
{
	pgs__disk_failed(db->cache, flush(db->file, deadline_ms), "writing pages", NULL);
}

int pgs__disk_look(pgs__disk_db *db, const pgs__page_id *ids, size_t n, bool *there)
{
	pgs__cache_file *file = db->file;
	looking l = {db, ids, n, there};
	waiting_content c;
	pthread_mutex_lock(&file->pending_lock);
	for (size_t at = 0; next_waiting(pgs__buffer_slice(&file->pending.bytes), &at, &c);)
		for (size_t i = 0; i < n; i++)
			there[i] |= pgs__load_u32be(c.key) == db->number && memcmp(c.key + 4, ids[i].bytes, PGS__ID_SIZE) == 0;
	pthread_mutex_unlock(&file->pending_lock);
	return pgs__disk_failed(db->cache, pgs__cache_file_read(file, look_all, &l), "looking for pages", NULL);
}

void pgs__disk_used(pgs__disk_db *db, const pgs__page_id *id)
{
	uint8_t key[PGS__CONTENT_KEY_SIZE];
	pgs__content_key(key, db->number, id);
	if (pgs__cache_file_usable(db->file))
		pgs__content_hit(db->file, key);
}

int pgs__disk_flush(pgs__disk_cache *cache, uint64_t deadline_ms, pgs_error *err)
{
	return pgs__disk_failed(cache, flush(cache->file, deadline_ms), "writing pages", err);
}

pgs__disk_ahead pgs__disk_ahead_get(const pgs__disk_db *db)
{
	if (!pgs__cache_file_usable(db->file))
		return (pgs__disk_ahead){0};
	const _Atomic uint64_t *counts = db->file->state.words->counts;
	return (pgs__disk_ahead){counts[PGS__COUNT_AHEAD_USED], counts[PGS__COUNT_AHEAD_USED_BYTES],
				 counts[PGS__COUNT_AHEAD_WASTED], counts[PGS__COUNT_AHEAD_WASTED_BYTES]};
}

/* --- bad ones --------------------------------------------------------------------------------- */

static int remove_one(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	int rc = pgs__content_remove(file, txn, ctx);
	return rc == MDB_NOTFOUND ? PGS__CACHE_NOTHING_TO_DO : rc;
}

void pgs__disk_drop(pgs__disk_db *db, const pgs__page_id *id)
{
	uint8_t key[PGS__CONTENT_KEY_SIZE];
	pgs__cache_count(db->file, PGS__COUNT_BAD, 1);
	pgs__disk_tell(db->cache, PGS__TOLD_BAD,
		       "the cache '%s' has damaged pages: they are dropped and fetched again; is the disk failing?",
		       db->file->path);
	pgs__content_key(key, db->number, id);
	pgs__disk_failed(db->cache,
			 pgs__cache_file_write(db->file, DROP_PAGES, pgs__now_ms() + DROP_WAIT_MS, remove_one, NULL, key),
			 "dropping a page", NULL);
}

/* --- numbers ------------------------------------------------------------------------------------- */

uint64_t pgs__disk_size(const pgs__disk_db *db)
{
	return db->file->state.words->size_bytes;
}

static int look(pgs__cache_file *file, MDB_txn *txn, void *ctx)
{
	pgs__disk_stat *out = ctx;
	pgs__queues q;
	uint64_t used = 0;
	int rc = pgs__cache_file_used(file, txn, &used);
	if (!rc)
		rc = pgs__queues_read(file, txn, &q);
	if (rc)
		return rc;
	out->used_bytes = used * file->page_size;
	out->content_count = q.count[PGS__QUEUE_SMALL] + q.count[PGS__QUEUE_MAIN];
	out->content_bytes = q.bytes[PGS__QUEUE_SMALL] + q.bytes[PGS__QUEUE_MAIN];
	return 0;
}

#define COUNTS_OF(counts)                                                                                                \
	.hits = (counts)[PGS__COUNT_HITS], .misses = (counts)[PGS__COUNT_MISSES],                                        \
	.hit_bytes = (counts)[PGS__COUNT_HIT_BYTES], .puts = (counts)[PGS__COUNT_PUTS],                                  \
	.put_bytes = (counts)[PGS__COUNT_PUT_BYTES], .dropped = (counts)[PGS__COUNT_DROPPED],                            \
	.bad = (counts)[PGS__COUNT_BAD], .evictions = (counts)[PGS__COUNT_EVICTIONS],                                    \
	.errors = (counts)[PGS__COUNT_ERRORS]

int pgs__disk_stat_get(pgs__disk_cache *cache, pgs__disk_stat *out, pgs_error *err)
{
	pgs__cache_file *f = cache->file;
	struct stat st;
	int fd;
	*out = (pgs__disk_stat){COUNTS_OF(f->counts), .all = {COUNTS_OF(f->state.words->counts)},
				.failed = !pgs__cache_file_usable(f)};
	if (out->failed)
		return PGS_OK;
	out->size_bytes = f->state.words->size_bytes;
	if (mdb_env_get_fd(f->mdb, &fd) == 0 && fstat(fd, &st) == 0)
		out->file_bytes = 512 * (uint64_t)st.st_blocks;
	return pgs__disk_failed(cache, pgs__cache_file_read(f, look, out), "looking at it", err);
}
