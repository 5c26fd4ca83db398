/* From a store's URL to its backends. */
#ifndef PGS_BACKENDS_URL_H
#define PGS_BACKENDS_URL_H

#include <stdbool.h>

#include <pagestore/backends.h>

/* Make the KV and the blob store that `url` names; the forms are in
 * pagestore/store.h. On failure both are NULL. Errors: EINVAL for a bad URL,
 * naming the part that is wrong and what is allowed there; else as the
 * constructors in pagestore/backends.h. */
int pgs__backends_open(const char *url, bool read_only, bool must_exist, pgs_kv **kv, pgs_blob **blob, pgs_error *err);

#endif
