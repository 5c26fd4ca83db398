/* An ordered key-value table: a B+tree whose nodes are pages.
 *
 * A node:
 *
 *     0       1         3       5
 *     +-------+---------+-------+--------+--------+-- ...
 *     | kind  | entries | bytes | entry  | entry  |
 *     +-------+---------+-------+--------+--------+-- ...
 *       'L' or 'I'        used, this header included; both little endian
 *
 * An entry is key size (2), value size (2), key, value; entries are in order of
 * keys. An inner node is the same with a child's page number (8) for a value: the
 * child holds the keys from its entry's key up to the next entry's. The first
 * key of an inner node is empty, below every other, so that every key has a child.
 *
 * Pages come from storage, so every node is checked (node_check) before its
 * sizes are believed.
 */
#include "table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { NODE_HEADER = 5, ENTRY_HEADER = 4, CHILD_SIZE = 8, DEPTH_MAX = 64 };

static const char root_name[] = "root";

typedef struct entry {
	const uint8_t *key, *value;
	size_t key_size, value_size;
	size_t offset, size; /* of the entry in its node */
} entry;

/* What an insertion hands up to the parent of a node that was split. */
typedef struct split {
	bool happened;
	uint64_t page; /* the new right half */
	uint8_t key[PGS_PAGE_SIZE_MAX / 4];
	size_t key_size; /* its first key */
} split;

static uint16_t load16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static void store16(uint8_t *at, size_t value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

static uint64_t load64(const uint8_t *at)
{
	uint64_t value = 0;
	for (int i = 0; i < 8; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

static void store64(uint8_t *at, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

/* memcmp order, a prefix before the longer. */
static int compare_keys(const void *a, size_t a_size, const void *b, size_t b_size)
{
	size_t size = a_size < b_size ? a_size : b_size;
	int order = size ? memcmp(a, b, size) : 0;
	return order ? order : (a_size > b_size) - (a_size < b_size);
}

/* --- one node ----------------------------------------------------------- */

static bool node_is_leaf(const uint8_t *node)
{
	return node[0] == 'L';
}

static size_t node_count(const uint8_t *node)
{
	return load16(node + 1);
}

/* The page size itself does not fit in 16 bits when it is 65536: a node is never filled that far. */
static size_t node_used(const uint8_t *node)
{
	return load16(node + 3);
}

static size_t node_capacity(const table *t)
{
	return t->page_size < UINT16_MAX ? t->page_size : UINT16_MAX;
}

static void node_init(uint8_t *node, char kind)
{
	node[0] = (uint8_t)kind;
	store16(node + 1, 0);
	store16(node + 3, NODE_HEADER);
}

static entry entry_at(const uint8_t *node, size_t offset)
{
	entry e;
	e.key_size = load16(node + offset);
	e.value_size = load16(node + offset + 2);
	e.key = node + offset + ENTRY_HEADER;
	e.value = e.key + e.key_size;
	e.offset = offset;
	e.size = ENTRY_HEADER + e.key_size + e.value_size;
	return e;
}

/* Whether a page is a node whose entries lie within it, in order. */
static int node_check(const table *t, const uint8_t *node)
{
	size_t used = node_used(node), offset = NODE_HEADER;
	entry last = {0};
	if ((node[0] != 'L' && node[0] != 'I') || used > node_capacity(t))
		return PGS_ECORRUPT;
	for (size_t i = 0; i < node_count(node); i++) {
		if (used < offset + ENTRY_HEADER)
			return PGS_ECORRUPT;
		entry e = entry_at(node, offset);
		if (e.size > used - offset || (!node_is_leaf(node) && e.value_size != CHILD_SIZE))
			return PGS_ECORRUPT;
		if (i && compare_keys(last.key, last.key_size, e.key, e.key_size) >= 0)
			return PGS_ECORRUPT;
		last = e;
		offset += e.size;
	}
	bool rootless = !node_is_leaf(node) && (node_count(node) == 0 || entry_at(node, NODE_HEADER).key_size);
	return offset != used || rootless ? PGS_ECORRUPT : PGS_OK;
}

/* The offset of the first entry whose key is at or after `key`, and whether it is that key. */
static size_t node_find(const uint8_t *node, const void *key, size_t key_size, bool *equal)
{
	size_t offset = NODE_HEADER;
	*equal = false;
	while (offset < node_used(node)) {
		entry e = entry_at(node, offset);
		int order = compare_keys(e.key, e.key_size, key, key_size);
		if (order >= 0) {
			*equal = order == 0;
			return offset;
		}
		offset += e.size;
	}
	return offset;
}

/* The entry of an inner node whose child holds `key`: the last one at or before it. */
static entry node_child(const uint8_t *node, const void *key, size_t key_size)
{
	entry child = entry_at(node, NODE_HEADER);
	for (size_t next = child.offset + child.size; next < node_used(node);) {
		entry e = entry_at(node, next);
		if (compare_keys(e.key, e.key_size, key, key_size) > 0)
			break;
		child = e;
		next += e.size;
	}
	return child;
}

static void node_delete(uint8_t *node, size_t offset)
{
	size_t used = node_used(node), size = entry_at(node, offset).size;
	memmove(node + offset, node + offset + size, used - offset - size);
	store16(node + 1, node_count(node) - 1);
	store16(node + 3, used - size);
}

/* Make room at `offset` and put an entry there; there is space for it. */
static void node_insert(
	uint8_t *node, size_t offset, const void *key, size_t key_size, const void *value, size_t value_size)
{
	size_t used = node_used(node), size = ENTRY_HEADER + key_size + value_size;
	uint8_t *at = node + offset;
	memmove(at + size, at, used - offset);
	store16(at, key_size);
	store16(at + 2, value_size);
	if (key_size)
		memcpy(at + ENTRY_HEADER, key, key_size);
	if (value_size)
		memcpy(at + ENTRY_HEADER + key_size, value, value_size);
	store16(node + 1, node_count(node) + 1);
	store16(node + 3, used + size);
}

/* --- nodes in pages ----------------------------------------------------- */

static int read_node(table *t, uint64_t page, uint8_t *node)
{
	int rc = pgs_read(t->txn, page, node);
	return rc == PGS_OK ? node_check(t, node) : rc;
}

/* A page past the end: whoever else takes it meanwhile makes this transaction's commit a conflict. */
static int new_page(table *t, uint64_t *page)
{
	return pgs_page_count(t->txn, page);
}

/* *exists is false, and *page 0, in a table that was never written. */
static int get_root(table *t, uint64_t *page, bool *exists)
{
	uint8_t value[8];
	size_t size;
	int rc = pgs_attr_get(t->txn, root_name, strlen(root_name), value, sizeof(value), &size);
	*exists = rc == PGS_OK;
	*page = 0;
	if (rc == PGS_ENOTFOUND)
		return PGS_OK;
	if (rc != PGS_OK)
		return rc;
	if (size != sizeof(value))
		return PGS_ECORRUPT;
	*page = load64(value);
	return PGS_OK;
}

static int set_root(table *t, uint64_t page)
{
	uint8_t value[8];
	store64(value, page);
	return pgs_attr_set(t->txn, root_name, strlen(root_name), value, sizeof(value));
}

void table_open(table *t, pgs_db *db, pgs_txn *txn)
{
	t->txn = txn;
	t->page_size = pgs_db_page_size(db);
}

size_t table_entry_max(const table *t)
{
	/* Four entries fit in a node, so that each half of a split one has room for one more. */
	return (node_capacity(t) - NODE_HEADER) / 4 - ENTRY_HEADER - CHILD_SIZE;
}

/* --- reading ------------------------------------------------------------ */

/* Pin the leaf that would hold `key`, PGS_ENOTFOUND in an empty table. The caller unpins it. */
static int pin_leaf(table *t, const void *key, size_t key_size, uint64_t *page, const void **leaf)
{
	bool exists;
	int rc = get_root(t, page, &exists);
	if (rc != PGS_OK || !exists)
		return rc != PGS_OK ? rc : PGS_ENOTFOUND;
	for (int depth = 0; depth < DEPTH_MAX; depth++) {
		rc = pgs_pin(t->txn, *page, leaf);
		if (rc != PGS_OK)
			return rc;
		rc = node_check(t, *leaf);
		if (rc == PGS_OK && node_is_leaf(*leaf))
			return PGS_OK;
		if (rc == PGS_OK)
			*page = load64(node_child(*leaf, key, key_size).value);
		pgs_unpin(t->txn, *leaf);
		if (rc != PGS_OK)
			return rc;
	}
	return PGS_ECORRUPT; /* a loop */
}

int table_get(table *t, const void *key, size_t key_size, void *value, size_t capacity, size_t *size)
{
	const void *leaf;
	uint64_t page;
	bool found;
	*size = 0;
	int rc = pin_leaf(t, key, key_size, &page, &leaf);
	if (rc != PGS_OK)
		return rc;
	size_t offset = node_find(leaf, key, key_size, &found);
	if (found) {
		entry e = entry_at(leaf, offset);
		*size = e.value_size;
		if (capacity)
			memcpy(value, e.value, e.value_size < capacity ? e.value_size : capacity);
	}
	pgs_unpin(t->txn, leaf);
	return found ? PGS_OK : PGS_ENOTFOUND;
}

typedef struct scan {
	const void *from;
	size_t from_size;
	table_visitor visitor;
	void *ctx;
} scan;

static int scan_page(table *t, uint64_t page, const scan *s, int depth);

static int scan_node(table *t, const uint8_t *node, const scan *s, int depth)
{
	bool equal;
	size_t offset = node_is_leaf(node) ? node_find(node, s->from, s->from_size, &equal)
					   : node_child(node, s->from, s->from_size).offset;
	while (offset < node_used(node)) {
		entry e = entry_at(node, offset);
		int rc = node_is_leaf(node) ? s->visitor(s->ctx, e.key, e.key_size, e.value, e.value_size)
					    : scan_page(t, load64(e.value), s, depth + 1);
		if (rc != PGS_OK)
			return rc;
		offset += e.size;
	}
	return PGS_OK;
}

/* The pin keeps the node while its children and the visitor run: one page of cache for each level. */
static int scan_page(table *t, uint64_t page, const scan *s, int depth)
{
	const void *node;
	if (depth >= DEPTH_MAX)
		return PGS_ECORRUPT;
	int rc = pgs_pin(t->txn, page, &node);
	if (rc != PGS_OK)
		return rc;
	rc = node_check(t, node);
	if (rc == PGS_OK)
		rc = scan_node(t, node, s, depth);
	pgs_unpin(t->txn, node);
	return rc;
}

int table_scan(table *t, const void *from, size_t from_size, table_visitor visitor, void *ctx)
{
	scan s = {from, from_size, visitor, ctx};
	uint64_t root;
	bool exists;
	int rc = get_root(t, &root, &exists);
	if (rc != PGS_OK || !exists)
		return rc;
	return scan_page(t, root, &s, 0);
}

/* --- writing ------------------------------------------------------------ */

/* Move the upper half of `left` to `right`, by bytes. Each keeps one entry or more. */
static void node_halve(uint8_t *left, uint8_t *right)
{
	size_t used = node_used(left), offset = NODE_HEADER, kept = 0;
	while (kept == 0 || (offset < used / 2 && kept + 1 < node_count(left))) {
		offset += entry_at(left, offset).size;
		kept++;
	}
	node_init(right, (char)left[0]);
	memcpy(right + NODE_HEADER, left + offset, used - offset);
	store16(right + 1, node_count(left) - kept);
	store16(right + 3, NODE_HEADER + used - offset);
	store16(left + 1, kept);
	store16(left + 3, offset);
}

/* An inner node's first key is empty by rule: the one it had has gone up to the parent. */
static void clear_first_key(uint8_t *node)
{
	uint8_t child[CHILD_SIZE];
	memcpy(child, entry_at(node, NODE_HEADER).value, CHILD_SIZE);
	node_delete(node, NODE_HEADER);
	node_insert(node, NODE_HEADER, NULL, 0, child, CHILD_SIZE);
}

/* Split the full `node` (of page `page`) in two and put the entry where it belongs; writes both. */
static int split_node(table *t, uint64_t page, uint8_t *node, const void *key, size_t key_size, const void *value,
	size_t value_size, split *up)
{
	bool equal;
	uint8_t *right = calloc(1, t->page_size);
	if (!right)
		return PGS_ENOMEM;
	node_halve(node, right);
	entry first = entry_at(right, NODE_HEADER);
	uint8_t *half = compare_keys(key, key_size, first.key, first.key_size) < 0 ? node : right;
	up->key_size = first.key_size;
	memcpy(up->key, first.key, first.key_size);
	node_insert(half, node_find(half, key, key_size, &equal), key, key_size, value, value_size);
	if (!node_is_leaf(right))
		clear_first_key(right);
	int rc = new_page(t, &up->page);
	if (rc == PGS_OK)
		rc = pgs_write(t->txn, up->page, right);
	if (rc == PGS_OK)
		rc = pgs_write(t->txn, page, node);
	up->happened = rc == PGS_OK;
	free(right);
	return rc;
}

/* Put an entry into a node that has none with this key, splitting it if it is full. */
static int add_entry(table *t, uint64_t page, uint8_t *node, const void *key, size_t key_size, const void *value,
	size_t value_size, split *up)
{
	bool equal;
	if (node_used(node) + ENTRY_HEADER + key_size + value_size > node_capacity(t))
		return split_node(t, page, node, key, key_size, value, value_size, up);
	node_insert(node, node_find(node, key, key_size, &equal), key, key_size, value, value_size);
	return pgs_write(t->txn, page, node);
}

static int put_below(table *t, uint64_t page, const void *key, size_t key_size, const void *value, size_t value_size,
	split *up, int depth);

static int put_in_node(table *t, uint64_t page, uint8_t *node, const void *key, size_t key_size, const void *value,
	size_t value_size, split *up, int depth)
{
	uint8_t child[CHILD_SIZE];
	bool equal;
	if (node_is_leaf(node)) {
		size_t offset = node_find(node, key, key_size, &equal);
		if (equal)
			node_delete(node, offset);
		return add_entry(t, page, node, key, key_size, value, value_size, up);
	}
	int rc = put_below(
		t, load64(node_child(node, key, key_size).value), key, key_size, value, value_size, up, depth + 1);
	if (rc != PGS_OK || !up->happened)
		return rc;
	split below = *up;
	up->happened = false;
	store64(child, below.page);
	return add_entry(t, page, node, below.key, below.key_size, child, CHILD_SIZE, up);
}

static int put_below(table *t, uint64_t page, const void *key, size_t key_size, const void *value, size_t value_size,
	split *up, int depth)
{
	if (depth >= DEPTH_MAX)
		return PGS_ECORRUPT;
	uint8_t *node = malloc(t->page_size);
	if (!node)
		return PGS_ENOMEM;
	int rc = read_node(t, page, node);
	if (rc == PGS_OK)
		rc = put_in_node(t, page, node, key, key_size, value, value_size, up, depth);
	free(node);
	return rc;
}

/* A root over the old one and its new right half; or, for a table without one, an empty leaf. */
static int write_root(table *t, uint64_t old, const split *up)
{
	uint8_t child[CHILD_SIZE];
	uint64_t page;
	uint8_t *node = calloc(1, t->page_size);
	if (!node)
		return PGS_ENOMEM;
	node_init(node, up ? 'I' : 'L');
	if (up) {
		store64(child, old);
		node_insert(node, NODE_HEADER, NULL, 0, child, CHILD_SIZE);
		store64(child, up->page);
		node_insert(node, node_used(node), up->key, up->key_size, child, CHILD_SIZE);
	}
	int rc = new_page(t, &page);
	if (rc == PGS_OK)
		rc = pgs_write(t->txn, page, node);
	if (rc == PGS_OK)
		rc = set_root(t, page);
	free(node);
	return rc;
}

int table_put(table *t, const void *key, size_t key_size, const void *value, size_t value_size)
{
	bool exists;
	uint64_t root;
	if (key_size == 0)
		return PGS_EINVAL;
	if (key_size > table_entry_max(t) || value_size > table_entry_max(t) - key_size)
		return PGS_ELIMIT;
	split *up = calloc(1, sizeof(*up));
	if (!up)
		return PGS_ENOMEM;
	int rc = get_root(t, &root, &exists);
	if (rc == PGS_OK && !exists) {
		rc = write_root(t, 0, NULL);
		if (rc == PGS_OK)
			rc = get_root(t, &root, &exists);
	}
	if (rc == PGS_OK)
		rc = put_below(t, root, key, key_size, value, value_size, up, 0);
	if (rc == PGS_OK && up->happened)
		rc = write_root(t, root, up);
	free(up);
	return rc;
}

int table_remove(table *t, const void *key, size_t key_size)
{
	const void *leaf;
	uint64_t page;
	bool found;
	int rc = pin_leaf(t, key, key_size, &page, &leaf);
	if (rc != PGS_OK)
		return rc;
	uint8_t *node = malloc(t->page_size);
	if (node)
		memcpy(node, leaf, t->page_size);
	pgs_unpin(t->txn, leaf);
	if (!node)
		return PGS_ENOMEM;
	size_t offset = node_find(node, key, key_size, &found);
	if (found) {
		node_delete(node, offset);
		rc = pgs_write(t->txn, page, node);
	}
	free(node);
	return rc != PGS_OK || found ? rc : PGS_ENOTFOUND;
}

/* --- transactions ------------------------------------------------------- */

/* One attempt; *err is set with every failure. */
static int update_once(pgs_db *db, table_work work, void *ctx, uint64_t *revision, pgs_error *err)
{
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn;
	table t;
	options.write = true;
	int rc = pgs_begin(&txn, db, &options, err);
	if (rc != PGS_OK)
		return rc;
	table_open(&t, db, txn);
	rc = work(&t, ctx);
	if (rc == PGS_OK)
		return pgs_commit(txn, NULL, revision, err);
	*err = *pgs_txn_error(txn);
	err->code = rc;
	pgs_abort(txn);
	return rc;
}

int table_update(pgs_db *db, table_work work, void *ctx, uint64_t *revision, pgs_error *err)
{
	int rc;
	do
		rc = update_once(db, work, ctx, revision, err);
	while (rc == PGS_ECONFLICT);
	return rc;
}
