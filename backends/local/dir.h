/* Directories of the local backends. */
#ifndef PGS_LOCAL_DIR_H
#define PGS_LOCAL_DIR_H

#include <pagestore/backends.h>

#define PGS__LOCAL_MAP_DEFAULT ((uint64_t)64 << 30)

/* The caller's options, or the defaults; PGS_EINVAL for a value out of range. */
int pgs__local_options(pgs_local_options *out, const pgs_local_options *options, const char *path, pgs_error *err);

/* Make sure that directory `path` exists, making it (durably) when it does not
 * and the options allow. Errors: ENOTFOUND (must_exist or read_only: not there;
 * else: its parent is not), EINVAL (not a directory), EREADONLY, EIO, ENOSPC. */
int pgs__local_directory(const char *path, const pgs_local_options *options, pgs_error *err);

/* fsync the directory `path`, or the one that holds it. */
int pgs__sync_directory(const char *path, pgs_error *err);
int pgs__sync_parent(const char *path, pgs_error *err);

/* "a/b", to be freed; NULL when out of memory. */
char *pgs__path_join(const char *a, const char *b);

#endif
