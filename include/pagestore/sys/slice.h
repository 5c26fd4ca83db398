/* pagestore/sys/slice.h: borrowed bytes
 *
 * A slice never owns what it points to; the function that takes or returns
 * one says how long the bytes live. `data` may be NULL only when `size` is 0.
 */
#ifndef PAGESTORE_SYS_SLICE_H
#define PAGESTORE_SYS_SLICE_H

#include <stddef.h>

typedef struct pgs_slice {
	const void *data;
	size_t size;
} pgs_slice;

#endif
