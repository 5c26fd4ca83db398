/* Where a blob is: names to paths, and the directories in between.
 *
 *   name             file below the store's directory
 *   "a"              a
 *   "a/b-1"          a+/b-1
 *   an unfinished    +tmp/<32 hex digits>
 *
 * '+' is in no name: so blobs "a" and "a/b" can both exist, as the contract
 * wants, and no name leads into +tmp.
 */
#ifndef PGS_LOCAL_BLOB_PATH_H
#define PGS_LOCAL_BLOB_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include <pagestore/sys/blob.h>

#define PGS__BLOB_TEMP_DIRECTORY "+tmp"
/* A name and a '+' for each of its parts. */
#define PGS__BLOB_PATH_MAX (PGS_BLOB_NAME_MAX * 3 / 2 + 2)

/* Is `name` as rule B3 wants? PGS_EINVAL if not. */
int pgs__blob_check_name(const char *name, pgs_error *err);

/* The path of a good name, relative to the store's directory. */
void pgs__blob_path(char out[PGS__BLOB_PATH_MAX], const char *name);

/* Make the directories of `path` below `root_fd`. 0 or an errno. */
int pgs__blob_make_parents(int root_fd, const char *path);

/* fsync the directory of `path` and those above it, `root_fd` included. 0 or an errno. */
int pgs__blob_sync_parents(int root_fd, const char *path);

/* Remove directories of `path` that are empty now. */
void pgs__blob_prune_parents(int root_fd, const char *path);

#endif
