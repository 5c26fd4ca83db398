/* LMDB's pages, looked at before LMDB does.
 *
 * LMDB trusts its file: numbers in it become addresses. So before a file is used, the pages of all tables but two are
 * held against each other; the leaves of those two, which are nearly all of the file, are looked at one by one: the
 * mirror's when it is held against its digest, those of contents before they are changed; and contents are read by code
 * of our own, that follows no number unseen. This is the layout of data version 1, of all LMDB 0.9 with 64-bit words:
 *
 *     page   u64 number   u16 pad   u16 flags (1 branch, 2 leaf, 4 overflow, 8 meta)   u16 lower, u16 upper, or u32 pages
 *            from 16 on: lower/2 - 8 × u16 offset of a node; nodes fill [upper, page size)
 *     node   u32 size of data, low half first   u16 flags (1 big: its data is a page number, 2 table)   u16 size of key
 *            key   data;     in a branch the first three are the page number below
 *     table  u32 pad (free pages: the page size)   u16 flags   u16 depth   u64 branch, leaf, overflow pages, entries,
 *            root (~0: none)
 *            (of free pages: u64 transaction → u64 count, page numbers, falling)
 *     meta   from 16 on: u32 magic   u32 version   u64 address, map size   2 tables: free pages, main   u64 last page,
 *            transaction
 */
#ifndef PGS_LOCAL_CACHE_LMDB_PAGE_H
#define PGS_LOCAL_CACHE_LMDB_PAGE_H

#include "local_cache/file.h"

/* What is looked at as a whole, of a file of `size` bytes that is mapped at `map`. Nobody may have it open. */
bool pgs__lmdb_file_sound(const uint8_t *map, uint64_t size);

/* The leaf that `at`, a key that LMDB answered, is in. True also if it is in LMDB's own memory: a transaction changed the
 * page, and it was looked at before. */
bool pgs__lmdb_leaf_sound(const pgs__cache_file *file, const void *at);

/* The leaves where `key` is or would be, before it is put or deleted there. 0, or MDB_CORRUPTED. */
int pgs__lmdb_before_change(const pgs__cache_file *file, MDB_txn *txn, MDB_dbi table, const MDB_val *key);

/* Reading a table whose leaves were not looked at: what mdb_get() does, with every number held against the map before it
 * is followed. In a read transaction only, whose pages are all in the map. */
typedef struct pgs__lmdb_table {
	uint64_t root;
	uint32_t depth; /* 0 = empty */
} pgs__lmdb_table;
int pgs__lmdb_table_open(const pgs__cache_file *file, MDB_txn *txn, const char *name, pgs__lmdb_table *out);
/* 0, MDB_NOTFOUND or MDB_CORRUPTED. */
int pgs__lmdb_get(const pgs__cache_file *file, const pgs__lmdb_table *table, pgs_slice key, pgs_slice *value);

/* A leaf: its keys are in [low, high), or from low on. */
typedef struct pgs__lmdb_leaf {
	uint64_t number;
	bool bounded;
	pgs_slice low, high; /* the map's */
} pgs__lmdb_leaf;

/* The same, and the way there is one of this state of the file: no page on it is one that LMDB holds free, an old one
 * that a damaged number leads to, nor is the leaf another of the table's. *leaf: where the key is or would be, unless it
 * is MDB_CORRUPTED. */
int pgs__lmdb_get_proved(pgs__cache_file *file, MDB_txn *txn, const pgs__lmdb_table *table, pgs_slice key,
			 pgs__lmdb_leaf *leaf, pgs_slice *value);

/* A cursor came from a key in `leaf` to the next one (NULL: there is none): *leaf is where that is, and there is no leaf
 * in between. 0 or MDB_CORRUPTED. */
int pgs__lmdb_prove_next(pgs__cache_file *file, MDB_txn *txn, const pgs__lmdb_table *table, pgs__lmdb_leaf *leaf,
			 const MDB_val *next);

/* Prove that there is no key in [first, end), of a table whose records prove themselves: in the leaf where they would be
 * all nodes are right, and those beside the gap are there, or in the next leaf. 0 or MDB_CORRUPTED. */
typedef bool (*pgs__lmdb_check)(pgs_slice key, pgs_slice value);
int pgs__lmdb_prove_gap(const pgs__cache_file *file, const pgs__lmdb_table *table, pgs_slice first, pgs_slice end,
			pgs__lmdb_check check);

#endif
