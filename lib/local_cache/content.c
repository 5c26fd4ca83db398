#include "local_cache/content.h"

#include <string.h>

#include "util/alloc.h"

#define PAGE_HEAD 16 /* LMDB's, of a page that a value has for itself */

typedef struct piece_key {
	uint8_t bytes[PGS__CONTENT_KEY_SIZE + 1];
	size_t size;
} piece_key;

void pgs__content_key(uint8_t out[PGS__CONTENT_KEY_SIZE], uint32_t number, const pgs__page_id *id)
{
	pgs__store_u32be(out, number);
	memcpy(out + 4, id->bytes, PGS__ID_SIZE);
}

static piece_key key_of(const uint8_t *key, unsigned piece)
{
	piece_key k = {.size = PGS__CONTENT_KEY_SIZE + (piece > 0)};
	memcpy(k.bytes, key, PGS__CONTENT_KEY_SIZE);
	k.bytes[PGS__CONTENT_KEY_SIZE] = (uint8_t)piece;
	return k;
}

static size_t piece_max(const pgs__cache_file *file)
{
	return file->page_size - PAGE_HEAD;
}

/* Have a place for a piece of `size` bytes. */
static int reserve(pgs__cache_file *file, MDB_txn *txn, const piece_key *key, size_t size, uint8_t **out)
{
	MDB_val k = pgs__val(key->bytes, key->size), v = {size, NULL};
	int rc = pgs__lmdb_before_change(file, txn, file->pages, &k);
	if (!rc)
		rc = mdb_put(txn, file->pages, &k, &v, MDB_RESERVE);
	*out = v.mv_data;
	return rc;
}

int pgs__content_put(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE], uint32_t head,
		     pgs_slice stored)
{
	const uint8_t *from = stored.data;
	size_t left = stored.size, before = PGS__CONTENT_HEAD;
	for (unsigned piece = 0; left > 0; piece++) {
		piece_key k = key_of(key, piece);
		size_t most = piece_max(file) - before, size = left < most ? left : most;
		uint8_t *to;
		int rc = reserve(file, txn, &k, before + size, &to);
		if (rc)
			return rc;
		if (piece == 0)
			pgs__store_u32be(to, head);
		memcpy(to + before, from, size);
		from += size;
		left -= size;
		before = 0;
	}
	return 0;
}

/* The first piece that is there goes. *more: there may be others. */
static int remove_piece(pgs__cache_file *file, MDB_txn *txn, MDB_cursor *cursor, const uint8_t *key, bool *more)
{
	MDB_val k = pgs__val(key, PGS__CONTENT_KEY_SIZE), v;
	int rc = pgs__lmdb_before_change(file, txn, file->pages, &k);
	if (!rc)
		rc = pgs__cache_cursor_get(file, cursor, &k, &v, MDB_SET_RANGE);
	if (rc)
		return rc;
	if (k.mv_size < PGS__CONTENT_KEY_SIZE || memcmp(k.mv_data, key, PGS__CONTENT_KEY_SIZE) != 0)
		return MDB_NOTFOUND;
	*more = v.mv_size >= piece_max(file);
	return mdb_cursor_del(cursor, 0);
}

int pgs__content_remove(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE])
{
	MDB_cursor *cursor;
	bool more = false;
	int rc = mdb_cursor_open(txn, file->pages, &cursor);
	if (rc)
		return rc;
	rc = remove_piece(file, txn, cursor, key, &more);
	while (!rc && more)
		rc = remove_piece(file, txn, cursor, key, &more);
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND && more ? 0 : rc;
}

/* Put the pieces behind the first one, which is at *stored, together. */
static int gather(const pgs__cache_file *file, const pgs__lmdb_table *table, const uint8_t *key, pgs_slice *stored,
		  uint8_t **whole)
{
	size_t size = stored->size;
	int rc = 0;
	if (!*whole)
		*whole = pgs__malloc(PGS_PAGE_SIZE_MAX);
	if (!*whole)
		return ENOMEM;
	memcpy(*whole, stored->data, size);
	for (unsigned piece = 1; !rc; piece++) {
		piece_key k = key_of(key, piece);
		pgs_slice v;
		rc = pgs__lmdb_get(file, table, (pgs_slice){k.bytes, k.size}, &v);
		if (rc || v.size > PGS_PAGE_SIZE_MAX - size) {
			rc = rc ? rc : MDB_CORRUPTED;
			break;
		}
		memcpy(*whole + size, v.data, v.size);
		size += v.size;
		if (v.size < piece_max(file))
			break;
	}
	*stored = (pgs_slice){*whole, size};
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int pgs__content_get(const pgs__cache_file *file, const pgs__lmdb_table *table, const uint8_t key[PGS__CONTENT_KEY_SIZE],
		     uint32_t *head, pgs_slice *stored, uint8_t **whole)
{
	pgs_slice v;
	int rc = pgs__lmdb_get(file, table, (pgs_slice){key, PGS__CONTENT_KEY_SIZE}, &v);
	if (rc)
		return rc;
	if (v.size <= PGS__CONTENT_HEAD || v.size > piece_max(file))
		return MDB_CORRUPTED;
	*head = pgs__load_u32be(v.data);
	*stored = (pgs_slice){(const uint8_t *)v.data + PGS__CONTENT_HEAD, v.size - PGS__CONTENT_HEAD};
	return v.size == piece_max(file) ? gather(file, table, key, stored, whole) : 0;
}
