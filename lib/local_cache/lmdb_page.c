#include "local_cache/lmdb_page.h"

#include <string.h>

#define PAGE_HEAD 16
#define NODE_HEAD 8
#define TABLE_SIZE 48
#define TABLE_ROOT 40
#define META_TABLES (PAGE_HEAD + 24)
#define META_LAST (META_TABLES + 2 * TABLE_SIZE)
#define META_TXN (META_LAST + 8)
#define NO_ROOT UINT64_MAX
#define DEPTH_MAX 32
#define BIG 1u
#define TABLE 2u

enum { BRANCH = 1, LEAF = 2, OVERFLOW = 4 };

typedef struct walk {
	const pgs__cache_file *file;
	uint64_t pages; /* the file has */
	uint64_t seen;
} walk;

typedef struct node {
	uint32_t size;
	uint16_t flags, key_size;
	const uint8_t *key, *data;
} node;

static uint16_t u16(const uint8_t *at)
{
	uint16_t value;
	memcpy(&value, at, sizeof value);
	return value;
}

static uint64_t u64(const uint8_t *at)
{
	uint64_t value;
	memcpy(&value, at, sizeof value);
	return value;
}

static const uint8_t *page_at(const walk *w, uint64_t number)
{
	return w->file->map + number * w->file->page_size;
}

static node node_at(const uint8_t *page, size_t index)
{
	const uint8_t *at = page + u16(page + PAGE_HEAD + 2 * index);
	node n = {.size = (uint32_t)u16(at) | (uint32_t)u16(at + 2) << 16, .flags = u16(at + 4), .key_size = u16(at + 6),
		  .key = at + NODE_HEAD};
	n.data = n.key + n.key_size;
	return n;
}

static size_t node_count(const uint8_t *page)
{
	return (size_t)(u16(page + 12) - PAGE_HEAD) / 2;
}

static uint64_t child_of(const node *n)
{
	return (uint64_t)n->size | (uint64_t)n->flags << 32;
}

/* A large value's pages are there, and as many as it needs. */
static bool big_sound(const walk *w, const node *n)
{
	uint64_t number = u64(n->data);
	if (number < 2 || number >= w->pages)
		return false;
	const uint8_t *page = page_at(w, number);
	uint64_t pages = (uint64_t)u16(page + 12) | (uint64_t)u16(page + 14) << 16;
	return u64(page) == number && u16(page + 10) == OVERFLOW && pages <= w->pages - number &&
	       pages * w->file->page_size >= PAGE_HEAD + (uint64_t)n->size;
}

/* A page by itself: its nodes are within it, and fill it. */
static bool page_sound(const walk *w, uint64_t number, uint16_t kind)
{
	const uint8_t *page = page_at(w, number);
	uint32_t size = w->file->page_size, lower = u16(page + 12), upper = u16(page + 14), total = 0;
	if (u64(page) != number || u16(page + 10) != kind || lower < PAGE_HEAD || lower % 2 != 0 || lower > upper ||
	    upper > size)
		return false;
	for (size_t i = 0; i < node_count(page); i++) {
		uint32_t at = u16(page + PAGE_HEAD + 2 * i);
		if (at < upper || at % 2 != 0 || at + NODE_HEAD > size)
			return false;
		node n = node_at(page, i);
		uint64_t whole = NODE_HEAD + (uint64_t)n.key_size;
		if (kind == LEAF)
			whole += n.flags & BIG ? 8 : (uint64_t)n.size;
		whole += whole % 2;
		if (at + whole > size || (kind == LEAF && n.flags > TABLE) || n.key_size > PGS__CACHE_KEY_MAX ||
		    (kind == LEAF && n.flags == BIG && !big_sound(w, &n)))
			return false;
		total += (uint32_t)whole;
	}
	return total == size - upper;
}

static bool tree_sound(walk *w, uint64_t number, uint32_t depth, bool leaves);

static bool table_sound(walk *w, const uint8_t *table, bool leaves)
{
	uint32_t depth = u16(table + 6);
	uint64_t root = u64(table + TABLE_ROOT);
	return root == NO_ROOT ? depth == 0 : depth >= 1 && depth < DEPTH_MAX && tree_sound(w, root, depth, leaves);
}

static bool is_table(const node *n, const char *name)
{
	return n->key_size == strlen(name) && memcmp(n->key, name, n->key_size) == 0;
}

/* Tables named in a leaf of the main one. */
static bool tables_sound(walk *w, const uint8_t *page)
{
	for (size_t i = 0; i < node_count(page); i++) {
		node n = node_at(page, i);
		if (n.flags == TABLE && (n.size != TABLE_SIZE ||
					 !table_sound(w, n.data, !is_table(&n, "pages") && !is_table(&n, "mirror"))))
			return false;
	}
	return true;
}

/* Every page is met once, so that there are no more of them than the file has. */
static bool tree_sound(walk *w, uint64_t number, uint32_t depth, bool leaves)
{
	if (number < 2 || number >= w->pages || ++w->seen > w->pages)
		return false;
	if (depth == 1)
		return !leaves || (page_sound(w, number, LEAF) && tables_sound(w, page_at(w, number)));
	if (!page_sound(w, number, BRANCH))
		return false;
	const uint8_t *page = page_at(w, number);
	for (size_t i = 0; i < node_count(page); i++) {
		node n = node_at(page, i);
		if (!tree_sound(w, child_of(&n), depth - 1, leaves))
			return false;
	}
	return node_count(page) > 0;
}

bool pgs__lmdb_file_sound(const pgs__cache_file *file)
{
	const uint8_t *meta = file->map, *other = file->map + file->page_size;
	if (u64(other + META_TXN) > u64(meta + META_TXN))
		meta = other;
	walk w = {.file = file, .pages = u64(meta + META_LAST) + 1};
	return w.pages >= 2 && w.pages <= file->map_pages && table_sound(&w, meta + META_TABLES, true) &&
	       table_sound(&w, meta + META_TABLES + TABLE_SIZE, true);
}

bool pgs__lmdb_leaf_sound(const pgs__cache_file *file, const void *at)
{
	uint64_t offset = (uint64_t)((uintptr_t)at - (uintptr_t)file->map);
	walk w = {.file = file, .pages = file->map_pages};
	return offset >= file->map_pages * file->page_size || page_sound(&w, offset / file->page_size, LEAF);
}

int pgs__lmdb_before_change(const pgs__cache_file *file, MDB_txn *txn, MDB_dbi table, const MDB_val *key)
{
	MDB_cursor *cursor;
	MDB_val found = *key, before, value;
	int rc = mdb_cursor_open(txn, table, &cursor);
	if (rc)
		return rc;
	rc = mdb_cursor_get(cursor, &found, &value, MDB_SET_RANGE);
	if (!rc && !pgs__lmdb_leaf_sound(file, found.mv_data))
		rc = MDB_CORRUPTED;
	if (!rc || rc == MDB_NOTFOUND) { /* it may come to stand behind the last one of the leaf before */
		rc = mdb_cursor_get(cursor, &before, &value, rc ? MDB_LAST : MDB_PREV);
		if (!rc && !pgs__lmdb_leaf_sound(file, before.mv_data))
			rc = MDB_CORRUPTED;
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}
