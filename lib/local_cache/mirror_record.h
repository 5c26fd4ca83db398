/* How the mirror is kept in the tables `mirror`, `dead` and `meta`.
 *
 *     mirror   number (4), tail of a KV key (behind the database's prefix)
 *              → varint mod revision   varint mod - create revision   varint version   u8 kind   value   u32 check
 *                kind: 0 a pair, 1 a tombstone, 2 a pair without its value (M4)
 *     dead     number (4), mod revision (8), tail → nothing: where the tombstones are, oldest first
 *     meta     'm' slot → u32 number, and the numbers of pgs__mirror_head
 *
 * The check is over record and key, each hashed for itself. The 64 bits of which it is a part add up to the head's digest,
 * modulo 2^64: a record that is lost, one too many, or an old one of the same key, makes it wrong.
 */
#ifndef PGS_LOCAL_CACHE_MIRROR_RECORD_H
#define PGS_LOCAL_CACHE_MIRROR_RECORD_H

#include "local_cache/mirror.h"
#include "local_cache/database.h"
#include "local_cache/lmdb_page.h"

typedef struct pgs__mirror_head {
	uint32_t number; /* 0 = there is no mirror yet */
	uint64_t sequence, horizon, loading;
	pgs__mirror_proof_entry last;
	uint64_t keys, bytes, tombstones;
	uint64_t digest;
} pgs__mirror_head;

/* A zero head when there is none. PGS__CACHE_BAD_RECORD when it is damaged. */
int pgs__mirror_head_get(pgs__cache_file *file, MDB_txn *txn, unsigned slot, pgs__mirror_head *out);
int pgs__mirror_head_put(pgs__cache_file *file, MDB_txn *txn, unsigned slot, const pgs__mirror_head *in);

/* Give up the mirror in a slot, head and all: what is left of it is cleared later. */
int pgs__mirror_discard(pgs__cache_file *file, MDB_txn *txn, unsigned slot);

/* Clear some of what was given up. */
int pgs__mirror_clear_some(pgs__cache_file *file, MDB_txn *txn);

/* A key of the tables; false if it is too long for them. */
typedef struct pgs__mirror_key {
	uint8_t bytes[PGS__CACHE_KEY_MAX];
	size_t size;
} pgs__mirror_key;
bool pgs__mirror_key_of(pgs__mirror_key *out, const pgs__disk_db *db, uint32_t number, pgs_slice kv_key);
bool pgs__mirror_dead_key_of(pgs__mirror_key *out, uint64_t revision, const pgs__mirror_key *key);

typedef struct pgs__mirror_record {
	uint64_t mod_revision, create_revision, version;
	bool dead, unread;
	pgs_slice value; /* LMDB's */
	uint64_t hash;   /* its part of the digest */
} pgs__mirror_record;

/* In a read transaction. MDB_NOTFOUND; PGS__CACHE_BAD_RECORD: it is not what was put there. */
int pgs__mirror_record_find(pgs__cache_file *file, MDB_txn *txn, const pgs__lmdb_table *table,
			    const pgs__mirror_key *key, pgs__mirror_record *out);

/* Before a record is changed: LMDB's way to it, as it was committed last, is right. An old leaf that is changed would be
 * a new one, and what is free would be free twice. */
int pgs__mirror_before_change(pgs__cache_file *file, const pgs__mirror_key *key);

/* A record that is about to be changed, in a write transaction. */
int pgs__mirror_record_get(pgs__cache_file *file, MDB_txn *txn, const pgs__mirror_key *key, pgs__mirror_record *out);
bool pgs__mirror_record_decode(MDB_val key, MDB_val value, pgs__mirror_record *out);
/* in->hash is filled. */
int pgs__mirror_record_put(pgs__cache_file *file, MDB_txn *txn, const pgs__mirror_key *key, pgs__mirror_record *in);

/* Hold a slot's mirror against its digest. */
typedef struct pgs__mirror_proof {
	unsigned slot;
	uint32_t number; /* of the mirror that was looked at; 0 = its head is damaged, or there is none */
	bool good;
} pgs__mirror_proof;
int pgs__mirror_prove(pgs__cache_file *file, MDB_txn *txn, void *proof); /* a pgs__cache_file_work */

/* Make sure that a database's mirror was held against its digest since the file was opened. A damaged one is given up.
 * EBUSY: it is damaged, and others keep the file. */
int pgs__mirror_ready(pgs__disk_db *db);

/* The mirror of this number is damaged: give it up, if it is still the database's. */
int pgs__mirror_give_up(pgs__disk_db *db, uint32_t number, uint64_t deadline_ms);

#endif
