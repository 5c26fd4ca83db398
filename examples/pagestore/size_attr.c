/* The exact size of an imported file. */
#include "size_attr.h"

int size_attr_get(pgs_txn *txn, uint64_t *size_bytes)
{
	unsigned char value[8];
	size_t size;
	*size_bytes = 0;
	int rc = pgs_attr_get(txn, "size", 4, value, sizeof(value), &size);
	if (rc != PGS_OK)
		return rc;
	if (size != sizeof(value))
		return PGS_ENOTFOUND;
	for (int i = 0; i < 8; i++)
		*size_bytes |= (uint64_t)value[i] << (8 * i);
	return PGS_OK;
}

int size_attr_set(pgs_txn *txn, uint64_t size_bytes)
{
	unsigned char value[8];
	for (int i = 0; i < 8; i++)
		value[i] = (unsigned char)(size_bytes >> (8 * i));
	return pgs_attr_set(txn, "size", 4, value, sizeof(value));
}
