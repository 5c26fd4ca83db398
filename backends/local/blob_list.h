/* Listing blobs in memcmp order of their names. */
#ifndef PGS_LOCAL_BLOB_LIST_H
#define PGS_LOCAL_BLOB_LIST_H

#include <pagestore/sys/blob.h>

/* Every blob below `root_fd` whose name begins with `prefix`, to `lister`. */
int pgs__blob_list(
	int root_fd, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err);

#endif
