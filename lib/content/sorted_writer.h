/* Writing a sorted file from contents in memory. */
#ifndef PGS_CONTENT_SORTED_WRITER_H
#define PGS_CONTENT_SORTED_WRITER_H

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

/* Upload them as one file. Durable on PGS_OK; the caller frees out->value. Errors: the blob store's, ENOMEM. */
int pgs__sorted_file_put(const pgs__sorted_target *target, pgs__sorted_item *items, size_t count,
			 uint64_t deadline_ms, pgs__sorted_file *out, pgs_error *err);

#endif
