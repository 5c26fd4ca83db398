/* Writing a sorted file from contents in memory. */
#ifndef PGS_CONTENT_SORTED_WRITER_H
#define PGS_CONTENT_SORTED_WRITER_H

#include <stdatomic.h>

#include "codec/sorted_file.h"
#include "content/backend.h"

/* One content: a zstd frame or a raw page; of size 0: a tombstone. */
typedef struct pgs__sorted_item {
	pgs__page_id id;
	const void *bytes;
	uint32_t size;
	uint64_t birth;
	uint64_t offset; /* out: where it is in the file */
} pgs__sorted_item;

/* What a commit needs to register the file. `key` and `value` are those of its l/ key. */
typedef struct pgs__sorted_file {
	char file_name[PGS__FILE_NAME_MAX + 1];
	char blob_name[PGS__BLOB_NAME_SIZE];
	uint64_t size;
	pgs__key key;
	pgs__buffer value;
} pgs__sorted_file;

/* How many of the items, whose ids rise strictly, fit one file. */
size_t pgs__sorted_file_fit(const pgs__sorted_item *items, size_t count);

/* Where a file goes, and as what. */
typedef struct pgs__sorted_target {
	const pgs__backend *backend;
	const uint8_t *prefix;
	uint32_t page_size;
	uint8_t level;
	uint64_t base_revision; /* goes into the name */
	size_t table_max;       /* a table of more bytes is left to the file: its l/ value has fences */
} pgs__sorted_target;

/* A file that is made and not yet put: what comes before its contents, and those where they are. */
typedef struct pgs__sorted_put {
	pgs_blob *blob;
	char blob_name[PGS__BLOB_NAME_SIZE];
	uint64_t size;
	uint8_t *head;
	size_t head_size;
	const pgs__sorted_item *items; /* borrowed */
	size_t count;
	_Atomic bool cancelled; /* by any thread: the put under way fails soon, with PGS_EIO */
} pgs__sorted_put;

/* Make a file of the items, whose offsets are filled; *out tells its names. The caller frees out->value, and the put
 * with pgs__sorted_put_free(). Errors: EIO (no random bytes), ENOMEM: then there is nothing to free. */
int pgs__sorted_put_prepare(pgs__sorted_put *put, const pgs__sorted_target *target, pgs__sorted_item *items,
			    size_t count, pgs__sorted_file *out, pgs_error *err);

/* Upload it; again, if that failed. Durable on PGS_OK. Errors: the blob store's. */
int pgs__sorted_put_run(pgs__sorted_put *put, uint64_t deadline_ms, pgs_error *err);
void pgs__sorted_put_free(pgs__sorted_put *put);

/* All of it: upload the items as one file. Durable on PGS_OK; the caller frees out->value. Errors: the blob store's,
 * ENOMEM. */
int pgs__sorted_file_put(const pgs__sorted_target *target, pgs__sorted_item *items, size_t count,
			 uint64_t deadline_ms, pgs__sorted_file *out, pgs_error *err);

#endif
