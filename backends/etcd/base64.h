/* Base64 (RFC 4648, padded) between byte strings and JSON texts, each byte touched once. */
#ifndef PGS_ETCD_BASE64_H
#define PGS_ETCD_BASE64_H

#include <stddef.h>
#include <stdint.h>

#include <pagestore/sys/slice.h>

#include "util/cursor.h"

/* Append the base64 of `first` followed by `second`, as if they were one. */
void pgs__base64_put(pgs__buffer *out, pgs_slice first, pgs_slice second);

/* The most bytes that `size` characters decode to. */
static inline size_t pgs__base64_decoded_max(size_t size)
{
	return size / 4 * 3;
}

/* Decode into `out`, which has room for pgs__base64_decoded_max(). PGS_OK, or PGS_ECORRUPT when it is not base64. */
int pgs__base64_decode(const char *text, size_t size, uint8_t *out, size_t *out_size);

#endif
