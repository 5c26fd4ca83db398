/* A content's records in `pages`: pieces of a page of LMDB's each.
 *
 * LMDB puts a value that is larger than half a page into pages of its own, which must lie side by side. In a file at its
 * bound the pages that are free are scattered: for a value of a few pages there may be no place although a hundred times
 * as many are free. So no value takes more than one.
 *
 *     database's number, page id               u32 time, Unix s, and bit 31: put ahead, not known to be used   content
 *     database's number, page id, u8 1, 2 …    what of the content does not fit before
 *
 * A piece that fills its page has another behind it, unless that is not there. Pieces are put and removed together; should
 * one be lost all the same, the content is not what its id says.
 */
#ifndef PGS_LOCAL_CACHE_CONTENT_H
#define PGS_LOCAL_CACHE_CONTENT_H

#include "local_cache/file.h"
#include "local_cache/lmdb_page.h"

#define PGS__CONTENT_KEY_SIZE (4 + PGS__ID_SIZE) /* database's number, page id */
#define PGS__CONTENT_HEAD 4                      /* u32 time, and */
#define PGS__CONTENT_AHEAD 0x80000000u           /* put before anybody asked for it, and nobody has, as far as is known */

void pgs__content_key(uint8_t out[PGS__CONTENT_KEY_SIZE], uint32_t number, const pgs__page_id *id);

/* Put a content that is not there; `head` is its time, and the bit. LMDB's errors. */
int pgs__content_put(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE], uint32_t head,
		     pgs_slice stored);

/* Remove all of it. MDB_NOTFOUND: none of it is there. */
int pgs__content_remove(pgs__cache_file *file, MDB_txn *txn, const uint8_t key[PGS__CONTENT_KEY_SIZE]);

/* Find it: *stored is in the map, or, of several pieces, in *whole, which is allocated with the first that needs it, and
 * the caller's to free. 0, MDB_NOTFOUND, MDB_CORRUPTED or ENOMEM. */
int pgs__content_get(const pgs__cache_file *file, const pgs__lmdb_table *table, const uint8_t key[PGS__CONTENT_KEY_SIZE],
		     uint32_t *head, pgs_slice *stored, uint8_t **whole);

#endif
