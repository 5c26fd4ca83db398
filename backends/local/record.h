/* What the local KV stores, byte by byte.
 *
 *   table     key                                  value
 *   versions  key ‖ (8, big endian) ~revision      varint create revision ‖ varint version ‖ flags (1) ‖ value
 *   log       revision (8, big endian)             changed keys: (varint size ‖ key) …
 *   meta      "format"                             "pagestore kv 1\n"
 *             "identity"                           16 random bytes
 *             "compacted"                          revision (8, big endian); absent = never compacted
 *             "redo"                               what the last two transactions put (redo.c); in older stores absent
 *
 * Every put and every delete of a key is one record in `versions`, the newest
 * of a key first (hence the inverted revision). Keys are of any length and any
 * bytes, so the order is the comparator's: by key, then by the last 8 bytes. A
 * delete has flag 1 and no value; then create revision and version are 0.
 *
 * Every transaction that changes something adds one record at the end of
 * `log`, which therefore tells the store's revision (its last key), what a
 * watch has to replay and what compaction has to look at. A new store has the
 * empty record of revision 1.
 */
#ifndef PGS_LOCAL_RECORD_H
#define PGS_LOCAL_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include <lmdb.h>
#include <pagestore/error.h>
#include <pagestore/sys/slice.h>

#include "util/cursor.h"

/* LMDB's keys end at 511 bytes; ours carry 8 more than the caller's. */
#define PGS__LOCAL_KEY_MAX 503
#define PGS__LOCAL_STORED_KEY_MAX (PGS__LOCAL_KEY_MAX + 8)
#define PGS__LOCAL_HEADER_MAX 21
/* LMDB's values end at 4 GiB; ours have a header. */
#define PGS__LOCAL_VALUE_MAX ((size_t)UINT32_MAX - 64)
#define PGS__LOCAL_FORMAT "pagestore kv 1\n"
#define PGS__LOCAL_FORMAT_NAME "pagestore kv "

/* One version of one key, decoded; the slices are borrowed from LMDB until the
 * next write or the end of the transaction. */
typedef struct pgs__record {
	pgs_slice key;
	uint64_t mod_revision;
	uint64_t create_revision;
	uint64_t version;
	bool deleted;
	pgs_slice value;
} pgs__record;

/* The comparator of `versions`. */
int pgs__record_compare(const MDB_val *a, const MDB_val *b);

/* Write key ‖ ~revision to `out` (PGS__LOCAL_STORED_KEY_MAX bytes). */
MDB_val pgs__record_key(uint8_t *out, pgs_slice key, uint64_t revision);

/* PGS_OK, or PGS_ECORRUPT naming the key. */
int pgs__record_decode(pgs__record *out, const MDB_val *key, const MDB_val *data, pgs_error *err);

/* Write the bytes before the value to `out` (PGS__LOCAL_HEADER_MAX bytes); returns how many. */
size_t pgs__record_header(uint8_t *out, uint64_t create_revision, uint64_t version, bool deleted);

/* Add a changed key to a log record, and read them one by one: false at the
 * end, and on malformed bytes, which leave r->failed set. */
void pgs__log_put(pgs__buffer *log, pgs_slice key);
bool pgs__log_next(pgs__reader *r, pgs_slice *key);

static inline pgs_slice pgs__slice_of(const MDB_val *val)
{
	return (pgs_slice){val->mv_data, val->mv_size};
}

#endif
