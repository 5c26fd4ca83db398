/* A few open files, so that many small reads of few blobs open each once. */
#ifndef PGS_LOCAL_BLOB_FILES_H
#define PGS_LOCAL_BLOB_FILES_H

#include <pthread.h>
#include <stdint.h>

#include "blob_path.h"

#define PGS__BLOB_FILES_MAX 32

typedef struct pgs__blob_file {
	char name[PGS_BLOB_NAME_MAX + 1]; /* empty: not found by name any more, closed by its last user */
	int fd;                           /* -1: free */
	unsigned users;
	uint64_t used; /* of the cache's clock */
} pgs__blob_file;

typedef struct pgs__blob_files {
	pthread_mutex_t lock;
	uint64_t clock;
	pgs__blob_file files[PGS__BLOB_FILES_MAX];
} pgs__blob_files;

void pgs__blob_files_init(pgs__blob_files *cache);
void pgs__blob_files_close(pgs__blob_files *cache);

/* Open `name` below `root_fd`, or find it open. Gives a descriptor for pread()
 * until release() with the same *slot; slot NULL = not cached. 0 or an errno. */
int pgs__blob_files_open(pgs__blob_files *cache, int root_fd, const char *name, int *fd, pgs__blob_file **slot);
void pgs__blob_files_release(pgs__blob_files *cache, int fd, pgs__blob_file *slot);

/* `name` was removed: the next open must look. */
void pgs__blob_files_forget(pgs__blob_files *cache, const char *name);

#endif
