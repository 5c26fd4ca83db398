#include "local_cache/lmdb_page.h"

#include <string.h>
#include <unistd.h>

#include "util/bug.h"

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

#define META_MAGIC 0xbeefc0deu
#define META_VERSION 1u
#define TABLE_FLAGS 0x7fu /* those of a table; with free pages are the environment's */
#define INTEGER_KEY 8u

enum { BRANCH = 1, LEAF = 2, OVERFLOW = 4, META = 8 };

/* Of which tables the leaves are looked at, and for what. */
typedef enum leaves { UNSEEN, SEEN, MAIN_TABLE, FREE_PAGES } leaves;

typedef struct walk {
	const uint8_t *map;
	uint32_t page_size;
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
	return w->map + number * w->page_size;
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
	       pages * w->page_size >= PAGE_HEAD + (uint64_t)n->size;
}

/* A page by itself: its nodes are within it, and fill it. */
static bool page_sound(const walk *w, uint64_t number, uint16_t kind)
{
	const uint8_t *page = page_at(w, number);
	uint32_t size = w->page_size, lower = u16(page + 12), upper = u16(page + 14), total = 0;
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

static bool tree_sound(walk *w, uint64_t number, uint32_t depth, leaves kind);

static bool table_sound(walk *w, const uint8_t *table, leaves kind)
{
	uint32_t flags = u16(table + 4) & TABLE_FLAGS, depth = u16(table + 6);
	uint64_t root = u64(table + TABLE_ROOT);
	if (flags != (kind == FREE_PAGES ? INTEGER_KEY : 0))
		return false;
	return root == NO_ROOT ? depth == 0 : depth >= 1 && depth < DEPTH_MAX && tree_sound(w, root, depth, kind);
}

static bool is_named(const node *n, const char *name)
{
	return n->key_size == strlen(name) && memcmp(n->key, name, n->key_size) == 0;
}

/* A table named in the main one. */
static bool named_sound(walk *w, const node *n)
{
	leaves kind = is_named(n, "pages") || is_named(n, "mirror") ? UNSEEN : SEEN;
	return n->flags == TABLE && n->size == TABLE_SIZE && table_sound(w, n->data, kind);
}

/* A list of free pages: they are there, and none is twice. */
static bool list_sound(const walk *w, const node *n)
{
	const uint8_t *list = n->flags & BIG ? page_at(w, u64(n->data)) + PAGE_HEAD : n->data;
	uint64_t count = n->size >= 8 ? u64(list) : UINT64_MAX, before = w->pages;
	if (n->key_size != 8 || count > n->size / 8 - 1)
		return false;
	for (uint64_t i = 1; i <= count; i++) {
		uint64_t number = u64(list + 8 * i);
		if (number < 2 || number >= before)
			return false;
		before = number;
	}
	return true;
}

static bool leaf_sound(walk *w, uint64_t number, leaves kind)
{
	if (kind == UNSEEN)
		return true;
	if (!page_sound(w, number, LEAF))
		return false;
	const uint8_t *page = page_at(w, number);
	for (size_t i = 0; kind != SEEN && i < node_count(page); i++) {
		node n = node_at(page, i);
		if (kind == MAIN_TABLE ? !named_sound(w, &n) : !list_sound(w, &n))
			return false;
	}
	return true;
}

/* Every page is met once, so that there are no more of them than the file has. */
static bool tree_sound(walk *w, uint64_t number, uint32_t depth, leaves kind)
{
	if (number < 2 || number >= w->pages || ++w->seen > w->pages)
		return false;
	if (depth == 1)
		return leaf_sound(w, number, kind);
	if (!page_sound(w, number, BRANCH))
		return false;
	const uint8_t *page = page_at(w, number);
	for (size_t i = 0; i < node_count(page); i++) {
		node n = node_at(page, i);
		if (!tree_sound(w, child_of(&n), depth - 1, kind))
			return false;
	}
	return node_count(page) > 0;
}

static bool meta_sound(const walk *w, uint64_t number)
{
	const uint8_t *page = page_at(w, number);
	return u64(page) == number && u16(page + 10) == META &&
	       u64(page + PAGE_HEAD) == ((uint64_t)META_VERSION << 32 | META_MAGIC) &&
	       (u64(page + META_TABLES) & UINT32_MAX) == w->page_size && u64(page + META_LAST) < w->pages;
}

/* LMDB takes the one of the two meta pages that is of the later transaction. */
bool pgs__lmdb_file_sound(const uint8_t *map, uint64_t size)
{
	walk w = {.map = map, .page_size = (uint32_t)sysconf(_SC_PAGESIZE)};
	w.pages = size / w.page_size;
	if (w.pages < 2 || !meta_sound(&w, 0) || !meta_sound(&w, 1))
		return false;
	const uint8_t *meta = page_at(&w, 0);
	if (u64(page_at(&w, 1) + META_TXN) > u64(meta + META_TXN))
		meta = page_at(&w, 1);
	w.pages = u64(meta + META_LAST) + 1;
	return table_sound(&w, meta + META_TABLES, FREE_PAGES) &&
	       table_sound(&w, meta + META_TABLES + TABLE_SIZE, MAIN_TABLE);
}

bool pgs__lmdb_leaf_sound(const pgs__cache_file *file, const void *at)
{
	uint64_t offset = (uint64_t)((uintptr_t)at - (uintptr_t)file->map);
	walk w = {.map = file->map, .page_size = file->page_size, .pages = file->map_pages};
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

/* --- reading ---------------------------------------------------------------------------- */

int pgs__lmdb_table_open(const pgs__cache_file *file, MDB_txn *txn, const char *name, pgs__lmdb_table *out)
{
	MDB_val key = pgs__val(name, strlen(name)), value;
	int rc = pgs__cache_get(file, txn, 1, &key, &value);
	if (rc || value.mv_size != TABLE_SIZE)
		return rc ? rc : MDB_CORRUPTED;
	out->depth = u16((const uint8_t *)value.mv_data + 6);
	out->root = u64((const uint8_t *)value.mv_data + TABLE_ROOT);
	if (out->root == NO_ROOT)
		out->depth = 0;
	return out->depth < DEPTH_MAX ? 0 : MDB_CORRUPTED;
}

/* The head of a page, and where its nodes are; these are looked at when they are met. */
static const uint8_t *page_if_sound(const walk *w, uint64_t number, uint16_t kind)
{
	const uint8_t *page = number < w->pages ? page_at(w, number) : NULL;
	if (!page || u64(page) != number || u16(page + 10) != kind)
		return NULL;
	uint32_t lower = u16(page + 12), upper = u16(page + 14);
	return lower >= PAGE_HEAD && lower % 2 == 0 && lower <= upper && upper <= w->page_size ? page : NULL;
}

static bool node_if_sound(const walk *w, const uint8_t *page, size_t index, uint16_t kind, node *out)
{
	uint32_t at = u16(page + PAGE_HEAD + 2 * index);
	if (at < u16(page + 14) || at % 2 != 0 || at + NODE_HEAD > w->page_size)
		return false;
	*out = node_at(page, index);
	uint64_t whole = NODE_HEAD + (uint64_t)out->key_size;
	if (kind == LEAF)
		whole += out->flags & BIG ? 8 : (uint64_t)out->size;
	return at + whole <= w->page_size;
}

/* The last node of a page whose key is not above `key`; of a branch, whose first node has no key, there is always one.
 * *found: it is that very key. *index: of the node, if there is one. False: the page is damaged. */
static bool search(const walk *w, const uint8_t *page, uint16_t kind, pgs_slice key, node *out, size_t *index, bool *found)
{
	size_t first = kind == BRANCH ? 1 : 0, low = first, high = node_count(page);
	*found = false;
	while (low < high && !*found) {
		size_t middle = (low + high) / 2;
		if (!node_if_sound(w, page, middle, kind, out))
			return false;
		int order = pgs__slice_compare((pgs_slice){out->key, out->key_size}, key);
		*found = order == 0;
		*index = middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (*found || kind == LEAF)
		return true;
	*index = low - 1;
	return node_count(page) > 0 && node_if_sound(w, page, *index, kind, out);
}

static pgs_slice value_of(const walk *w, const node *n)
{
	return (pgs_slice){n->flags & BIG ? page_at(w, u64(n->data)) + PAGE_HEAD : n->data, n->size};
}

/* A way from the root to a leaf: the branches, which child of each was taken, and the leaf. */
typedef struct way {
	uint64_t branches[DEPTH_MAX], leaf;
	size_t taken[DEPTH_MAX];
	uint32_t depth; /* branches */
} way;

static uint64_t child_at(const walk *w, uint64_t branch, size_t index)
{
	node n = node_at(page_at(w, branch), index);
	return child_of(&n);
}

static bool is_sound(const walk *w, uint64_t number, uint16_t kind)
{
	return number < w->pages && page_sound(w, number, kind) && node_count(page_at(w, number)) > 0;
}

/* To where `key` is or would be. False: something on it is damaged. */
static bool find_way(const walk *w, const pgs__lmdb_table *table, pgs_slice key, way *out)
{
	uint64_t number = table->root;
	size_t index;
	bool found;
	node n;
	out->depth = 0;
	for (uint32_t left = table->depth; left > 1; left--) {
		if (!is_sound(w, number, BRANCH) || !search(w, page_at(w, number), BRANCH, key, &n, &index, &found))
			return false;
		out->branches[out->depth] = number;
		out->taken[out->depth++] = index;
		number = child_of(&n);
	}
	out->leaf = number;
	return is_sound(w, number, LEAF);
}

/* The leaf before, or behind, and its node that is next. MDB_NOTFOUND: there is none. */
static int find_beside(const walk *w, const way *from, bool behind, node *out)
{
	uint32_t level = from->depth;
	while (level > 0 &&
	       from->taken[level - 1] == (behind ? node_count(page_at(w, from->branches[level - 1])) - 1 : 0))
		level--;
	if (level == 0)
		return MDB_NOTFOUND;
	size_t index = behind ? from->taken[level - 1] + 1 : from->taken[level - 1] - 1;
	uint64_t number = child_at(w, from->branches[level - 1], index);
	for (; level < from->depth; level++) {
		if (!is_sound(w, number, BRANCH))
			return MDB_CORRUPTED;
		number = child_at(w, number, behind ? 0 : node_count(page_at(w, number)) - 1);
	}
	if (!is_sound(w, number, LEAF))
		return MDB_CORRUPTED;
	*out = node_at(page_at(w, number), behind ? 0 : node_count(page_at(w, number)) - 1);
	return 0;
}

/* Whether the leaf's gap, which is at its edge, has its neighbour in the leaf beside it, or is at the table's edge. */
static int prove_edge(const walk *w, const way *at, pgs_slice edge, bool behind, pgs__lmdb_check check)
{
	node n;
	int rc = find_beside(w, at, behind, &n);
	if (rc)
		return rc == MDB_NOTFOUND ? 0 : rc;
	pgs_slice key = {n.key, n.key_size};
	bool right = behind ? pgs__slice_compare(key, edge) >= 0 : pgs__slice_compare(key, edge) < 0;
	return right && check(key, value_of(w, &n)) ? 0 : MDB_CORRUPTED;
}

/* What a damaged node hides is missed, as nodes fill their page. What a damaged branch hides is not where the neighbours
 * of the gap are. */
int pgs__lmdb_prove_gap(const pgs__cache_file *file, const pgs__lmdb_table *table, pgs_slice first, pgs_slice end,
			pgs__lmdb_check check)
{
	const walk w = {.map = file->map, .page_size = file->page_size, .pages = file->map_pages};
	bool below = false, above = false;
	way at;
	if (table->depth == 0)
		return table->root == NO_ROOT ? 0 : MDB_CORRUPTED;
	if (!find_way(&w, table, first, &at))
		return MDB_CORRUPTED;
	for (size_t i = 0; i < node_count(page_at(&w, at.leaf)); i++) {
		node n = node_at(page_at(&w, at.leaf), i);
		pgs_slice key = {n.key, n.key_size};
		bool is_below = pgs__slice_compare(key, first) < 0, is_above = pgs__slice_compare(key, end) >= 0;
		if (!check(key, value_of(&w, &n)) || (!is_below && !is_above))
			return MDB_CORRUPTED;
		below |= is_below;
		above |= is_above;
	}
	int rc = below ? 0 : prove_edge(&w, &at, first, false, check);
	return rc || above ? rc : prove_edge(&w, &at, end, true, check);
}

int pgs__lmdb_get(const pgs__cache_file *file, const pgs__lmdb_table *table, pgs_slice key, pgs_slice *value)
{
	const walk w = {.map = file->map, .page_size = file->page_size, .pages = file->map_pages};
	uint64_t number = table->root;
	bool found = false;
	size_t index;
	node n = {0};
	for (uint32_t depth = table->depth; depth > 0; depth--) {
		uint16_t kind = depth > 1 ? BRANCH : LEAF;
		const uint8_t *page = page_if_sound(&w, number, kind);
		if (!page || !search(&w, page, kind, key, &n, &index, &found))
			return MDB_CORRUPTED;
		number = child_of(&n);
	}
	if (!found)
		return MDB_NOTFOUND;
	if (n.flags & BIG && !big_sound(&w, &n))
		return MDB_CORRUPTED;
	*value = value_of(&w, &n);
	return 0;
}

/* --- pages that are the tree's ------------------------------------------------------------ */

/* Whether a list of free pages, which fall, has this one. False also in *sound: it is not such a list. */
static bool is_listed(MDB_val list, uint64_t number, bool *sound)
{
	const uint8_t *at = list.mv_data;
	uint64_t low = 1, high = list.mv_size >= 8 ? u64(at) + 1 : 0;
	*sound = list.mv_size >= 8 && u64(at) <= list.mv_size / 8 - 1;
	while (*sound && low < high) {
		uint64_t middle = low + (high - low) / 2, found = u64(at + 8 * middle);
		if (found == number)
			return true;
		if (found > number)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/* What was a page of the tree once, and is not any more, is in the lists of free pages until it is written anew. What was
 * found out of a page is kept for the transaction, and others of the same state of the file. */
static int prove_in_use(pgs__cache_file *file, MDB_txn *txn, uint64_t number)
{
	uint64_t known = (uint64_t)mdb_txn_id(txn) << 32 | (number & UINT32_MAX);
	_Atomic uint64_t *kept = &file->in_use[number % (sizeof file->in_use / sizeof *file->in_use)];
	MDB_cursor *cursor;
	MDB_val key, list;
	if (atomic_load_explicit(kept, memory_order_relaxed) == known || PGS__BUG(FREE_PAGES_READ))
		return 0;
	int rc = mdb_cursor_open(txn, 0, &cursor);
	if (rc)
		return rc;
	rc = pgs__cache_cursor_get(file, cursor, &key, &list, MDB_FIRST);
	while (!rc) {
		bool sound, found = is_listed(list, number, &sound);
		rc = found || !sound ? MDB_CORRUPTED : pgs__cache_cursor_get(file, cursor, &key, &list, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	if (rc == MDB_NOTFOUND)
		atomic_store_explicit(kept, known, memory_order_relaxed);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Of a branch's child, between which keys its own are. */
static bool bound_child(const walk *w, const uint8_t *branch, size_t index, const node *n, pgs__lmdb_leaf *leaf)
{
	node next;
	if (index > 0)
		leaf->low = (pgs_slice){n->key, n->key_size};
	if (index + 1 == node_count(branch))
		return true;
	if (!node_if_sound(w, branch, index + 1, BRANCH, &next))
		return false;
	leaf->high = (pgs_slice){next.key, next.key_size};
	leaf->bounded = true;
	return true;
}

/* It is no other leaf of the tree. */
static bool is_within(const walk *w, const uint8_t *page, const pgs__lmdb_leaf *leaf)
{
	node first, last;
	if (node_count(page) == 0 || !node_if_sound(w, page, 0, LEAF, &first) ||
	    !node_if_sound(w, page, node_count(page) - 1, LEAF, &last))
		return false;
	return (pgs__slice_compare((pgs_slice){first.key, first.key_size}, leaf->low) >= 0 &&
		(!leaf->bounded || pgs__slice_compare((pgs_slice){last.key, last.key_size}, leaf->high) < 0)) ||
	       PGS__BUG(FREE_PAGES_READ);
}

int pgs__lmdb_get_proved(pgs__cache_file *file, MDB_txn *txn, const pgs__lmdb_table *table, pgs_slice key,
			 pgs__lmdb_leaf *leaf, pgs_slice *value)
{
	const walk w = {.map = file->map, .page_size = file->page_size,
			.pages = file->state.words->size_bytes / file->page_size};
	bool found = false;
	size_t index;
	node n = {0};
	*leaf = (pgs__lmdb_leaf){.number = table->root, .low = {"", 0}};
	for (uint32_t depth = table->depth; depth > 0; depth--) {
		uint16_t kind = depth > 1 ? BRANCH : LEAF;
		const uint8_t *page = page_if_sound(&w, leaf->number, kind);
		int rc = page ? prove_in_use(file, txn, leaf->number) : MDB_CORRUPTED;
		if (rc)
			return rc;
		if (!search(&w, page, kind, key, &n, &index, &found) ||
		    !(kind == BRANCH ? bound_child(&w, page, index, &n, leaf) : is_within(&w, page, leaf)))
			return MDB_CORRUPTED;
		if (kind == BRANCH)
			leaf->number = child_of(&n);
	}
	if (!found)
		return MDB_NOTFOUND;
	if (n.flags & BIG && !big_sound(&w, &n))
		return MDB_CORRUPTED;
	*value = value_of(&w, &n);
	return n.flags & BIG ? prove_in_use(file, txn, u64(n.data)) : 0;
}

int pgs__lmdb_prove_next(pgs__cache_file *file, MDB_txn *txn, const pgs__lmdb_table *table, pgs__lmdb_leaf *leaf,
			 const MDB_val *next)
{
	pgs__lmdb_leaf found;
	pgs_slice value;
	if (!next)
		return leaf->bounded && !PGS__BUG(FREE_PAGES_READ) ? MDB_CORRUPTED : 0;
	uint64_t number = (uint64_t)((uintptr_t)next->mv_data - (uintptr_t)file->map) / file->page_size;
	if (number == leaf->number)
		return 0;
	int rc = pgs__lmdb_get_proved(file, txn, table, pgs__val_slice(*next), &found, &value);
	bool right = !rc && found.number == number && leaf->bounded && pgs__slice_equal(leaf->high, found.low) &&
		     pgs__lmdb_leaf_sound(file, next->mv_data);
	*leaf = found;
	return rc && rc != MDB_NOTFOUND ? rc : right || PGS__BUG(FREE_PAGES_READ) ? 0 : MDB_CORRUPTED;
}
