/* size_attr.h: the exact size of an imported file
 *
 * The attribute "size" of the database: 8 bytes, little endian. Without it, a
 * file whose size is not a multiple of the page size could not come back exact.
 */
#ifndef SIZE_ATTR_H
#define SIZE_ATTR_H

#include <pagestore.h>

/* Results of the library; PGS_ENOTFOUND also when the attribute is of another form. */
int size_attr_get(pgs_txn *txn, uint64_t *size_bytes);
int size_attr_set(pgs_txn *txn, uint64_t size_bytes);

#endif
